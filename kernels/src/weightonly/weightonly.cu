#line 2 "weightonly.cu"
// fp16 activations of up to 16 rows by weights that are read once, as they lie in memory: E4M3 with a scale
// for each row, or fp16. What is multiplied are halves on the tensor cores, added in f32; a weight in E4M3
// becomes a half in registers and nowhere else. Weights, gain and bias are asked for before the kernel in front has
// ended, everything else behind it (dependent.cuh).

struct WeightOnlyParams {
    u64 activations;  // fp16 [m][k]
    u64 weights;      // E4M3 or fp16 [n][k]
    u64 scales;       // E4M3: f32 [n]
    u64 out[3];       // fp16: columns part * i to part * (i + 1) - 1 are out[i][m][part]
    u64 row[3];       // elements of out[i] from one row to the next
    u64 addend;       // fp16, lies as out[0], and may be it: added with a rounding of its own; 0: none
    u32 m;            // at most 16
    u32 n;
    u32 k;            // a multiple of 64
    u32 part;         // columns of each output
    u32 gelu;         // 1: what is stored is the GELU of what was rounded
    float epsilon;    // of the norm
    u64 gain;         // fp16 [k], of the entries that take the layer norm of the activations
    u64 bias;         // fp16 [k]
};
static_assert(sizeof(WeightOnlyParams) == 120, "the Rust side asserts the same size");

constexpr u32 WARPS = 16;        // of a block, which share its rows' k
constexpr u32 ROWS = 16;         // of weights that an instruction takes
constexpr u32 AHEAD = 4;         // spans of a warp that are fetched at once
constexpr u32 SIDE_BY_SIDE = 8;  // spans of a warp that follow each other
static_assert(SIDE_BY_SIDE % AHEAD == 0, "what is fetched at once lies side by side");

// Weights pass by once: they leave the first cache to the activations. Four threads read half a line of 128 bytes, the
// next load the other half: asked for as a whole, memory gives 4.3 instead of 4.0 TB/s on an H200.
__device__ __forceinline__ uint4 stream_in(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// The same where it has to be asked for before what follows: an ordinary load may be put behind a wait.
__device__ __forceinline__ uint4 stream_in_now(const uint4* p) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

// Two halves of two finite codes of E4M3 in the low bytes.
__device__ __forceinline__ u32 halves_of(u32 codes) {
    u32 halves;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((u16)codes));
#else
    // Exponent and mantissa where a half has them, which is 2^-8 of the number.
    const u32 apart = (codes & 0xFF) | (codes & 0xFF00) << 8;
    const u32 bits = (apart & 0x00800080u) << 8 | (apart & 0x007F007Fu) << 7;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(bits), "r"(0x5C005C00u));
#endif
    return halves;
}

// sums[16 rows][8 columns] += weights[16][16] * activations[16][8]: rows of weights are rows, those of
// activations columns.
__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&w)[4], u32 low, u32 high) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(low), "r"(high));
}

__device__ __forceinline__ u32 word_of(const uint4& v, u32 i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Halves `4 * part` to `4 * part + 3` of a vector of weights.
template <bool CODES>
__device__ __forceinline__ void part_of(const uint4& v, u32 part, u32& low, u32& high) {
    if constexpr (CODES) {
        const u32 four = word_of(v, part);
        low = halves_of(four & 0xFFFF);
        high = halves_of(four >> 16);
    } else {
        low = word_of(v, 2 * part);
        high = word_of(v, 2 * part + 1);
    }
}

// Stores an element: rounded, then its GELU, then the sum with what it is added to, each rounded once.
__device__ __forceinline__ void store(const WeightOnlyParams& p, u32 row, u32 output, float sum) {
    u32 code = encode<F16>(sum);
    if (p.gelu != 0) code = gelu_pair(code) & 0xFFFFu;
    const u32 which = output / p.part;
    const u64 out = which == 0 ? p.out[0] : which == 1 ? p.out[1] : p.out[2];
    const u64 step = which == 0 ? p.row[0] : which == 1 ? p.row[1] : p.row[2];
    const u64 at = row * step + output % p.part;
    if (p.addend != 0) {
        code = encode<F16>(decode<F16>(((const u16*)p.addend)[at]) + decode<F16>(code));
    }
    ((u16*)out)[at] = (u16)code;
}

// Where gain, bias and normed rows lie, [k] halves each.
extern __shared__ __align__(16) u8 arena[];

constexpr u32 NORM_THREADS = 256;  // of a row, as model_norm has them
constexpr u32 NORM_VECTORS = 4;    // of a thread, at most

__device__ __forceinline__ void ask_for_affine(const WeightOnlyParams& p) {
    const u32 target = (u32)__cvta_generic_to_shared(arena);
    for (u32 v = threadIdx.x; v < p.k / 8; v += 32 * WARPS) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                     : : "r"(target + 16 * v), "l"(p.gain + 16 * v) : "memory");
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                     : : "r"(target + 2 * p.k + 16 * v), "l"(p.bias + 16 * v) : "memory");
    }
}

// The sum over the 256 threads of a row, in model_norm's order. All threads of the block come here.
__device__ __forceinline__ float row_sum(float value, float (*scratch)[NORM_THREADS / 32]) {
#pragma unroll
    for (u32 offset = 16; offset > 0; offset >>= 1) {
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    }
    float(&own)[NORM_THREADS / 32] = scratch[threadIdx.x / NORM_THREADS];
    if (threadIdx.x % 32 == 0) own[threadIdx.x % NORM_THREADS / 32] = value;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (u32 warp = 0; warp < NORM_THREADS / 32; ++warp) total += own[warp];
    __syncthreads();
    return total;
}

// Layer norm of at most two rows by model_norm's arithmetic, so that its halves are the same. Every block takes it,
// for its own use: that costs less than a kernel of its own and what lies between two.
__device__ __forceinline__ void norm_rows(const WeightOnlyParams& p) {
    __shared__ float scratch[2][NORM_THREADS / 32];
    const u32 row = threadIdx.x / NORM_THREADS, thread = threadIdx.x % NORM_THREADS;
    const u32 vectors = row < p.m ? p.k / 8 : 0;
    const uint4* from = (const uint4*)p.activations + row * (p.k / 8);
    const uint4* gain = (const uint4*)arena;
    const uint4* bias = gain + p.k / 8;
    uint4* kept = (uint4*)arena + (2 + row) * (p.k / 8);
    const float count = (float)p.k;
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < NORM_VECTORS; ++j) {
        const u32 v = thread + j * NORM_THREADS;
        if (v >= vectors) continue;
        const uint4 x = from[v];
        kept[v] = x;
#pragma unroll
        for (u32 i = 0; i < 8; ++i) sum += decode<F16>(code_of<F16>(x, i));
    }
    asm volatile("cp.async.wait_all;" : : : "memory");
    const float mean = row_sum(sum, scratch) / count;
    float squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < NORM_VECTORS; ++j) {
        const u32 v = thread + j * NORM_THREADS;
        if (v >= vectors) continue;
        const uint4 x = kept[v];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            const float apart = decode<F16>(code_of<F16>(x, i)) - mean;
            squares = __fmaf_rn(apart, apart, squares);
        }
    }
    const float inverse = 1.0f / sqrtf(row_sum(squares, scratch) / count + p.epsilon);
#pragma unroll
    for (u32 j = 0; j < NORM_VECTORS; ++j) {
        const u32 v = thread + j * NORM_THREADS;
        if (v >= vectors) continue;
        const uint4 x = kept[v], g = gain[v], b = bias[v];
        u32 codes[8];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            const float apart = decode<F16>(code_of<F16>(x, i)) - mean;
            codes[i] = encode<F16>(__fmaf_rn(__fmul_rn(apart, inverse), decode<F16>(code_of<F16>(g, i)),
                                             decode<F16>(code_of<F16>(b, i))));
        }
        kept[v] = make_uint4(codes[0] | codes[1] << 16, codes[2] | codes[3] << 16,
                             codes[4] | codes[5] << 16, codes[6] | codes[7] << 16);
    }
    __syncthreads();
}

// A block takes TILES times 16 rows of weights at a time, and each of its warps a sixteenth of their k: of every 128
// spans eight side by side, so that what the warps read at a time lies side by side too. Four threads side by
// side hold 16 bytes each of a row, eight such groups 8 rows, twice. An instruction of 16 products along k takes
// four halves of each of the four threads: which ones is the same for weights and activations, so that no
// element has to move. A sum's order depends on k alone, not on m or n. Activations are read once for all
// tiles: of 16 rows they are as many bytes as 32 rows of weights in E4M3. The next rows' first weights are on
// their way while the sums of the last ones are added.
template <bool CODES, u32 EIGHTS, u32 TILES, bool NORM>
__device__ __forceinline__ void product(const WeightOnlyParams& p) {
    constexpr u32 EACH = CODES ? 16 : 8;       // weights of a vector
    constexpr u32 SPAN = 4 * EACH;             // of k that four threads hold
    __shared__ float scratch[2][WARPS][32][4];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 group = lane / 4, member = lane % 4;
    const u32 spans = p.k / SPAN, row_vectors = p.k / EACH;
    const u32 tiles = (p.n + ROWS * TILES - 1) / (ROWS * TILES);
    const u16* activations =
        (NORM ? (const u16*)arena + 2 * (u64)p.k : (const u16*)p.activations) + member * EACH;
    uint4 v[AHEAD][2 * TILES];
    // Rows beyond the last one are read as the last one and not stored.
    const auto fetch = [&](auto load, u32 tile, u32 span) {
#pragma unroll
        for (u32 half = 0; half < 2 * TILES; ++half) {
            const u64 row = min(tile * (ROWS * TILES) + group + 8 * half, p.n - 1);
            const uint4* from = (const uint4*)p.weights + row * row_vectors + member;
#pragma unroll
            for (u32 j = 0; j < AHEAD; ++j) {
                v[j][half] = span + j < spans ? load(from + 4 * (span + j))
                                              : make_uint4(0, 0, 0, 0);
            }
        }
    };
    let_later_begin();
    if constexpr (NORM) ask_for_affine(p);
    fetch(stream_in_now, blockIdx.x, warp * SIDE_BY_SIDE);
    await_earlier();
    if constexpr (NORM) norm_rows(p);
    u32 buffer = 0;
#pragma unroll 1
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sums[TILES][EIGHTS][4] = {};
#pragma unroll 1
        for (u32 span = warp * SIDE_BY_SIDE; span < spans;) {
#pragma unroll
            for (u32 j = 0; j < AHEAD; ++j) {
                if (span + j >= spans) break;
#pragma unroll
                for (u32 eight = 0; eight < EIGHTS; ++eight) {
                    const u32 row = 8 * eight + group;
                    const uint4* at =
                        (const uint4*)(activations + (u64)row * p.k + (u64)(span + j) * SPAN);
                    uint4 a[EACH / 8];
#pragma unroll
                    for (u32 i = 0; i < EACH / 8; ++i) {
                        // By the ordinary way: the kernel in front may just have written them.
                        a[i] = row < p.m ? at[i] : make_uint4(0, 0, 0, 0);
                    }
#pragma unroll
                    for (u32 t = 0; t < TILES; ++t) {
#pragma unroll
                        for (u32 part = 0; part < EACH / 4; ++part) {
                            u32 w[4];
                            part_of<CODES>(v[j][2 * t], part, w[0], w[2]);
                            part_of<CODES>(v[j][2 * t + 1], part, w[1], w[3]);
                            multiply(sums[t][eight], w, word_of(a[part / 2], part % 2 * 2),
                                     word_of(a[part / 2], part % 2 * 2 + 1));
                        }
                    }
                }
            }
            // The rest of what lies side by side, then the warp's next part, then that of the next rows.
            span += AHEAD;
            if (span % SIDE_BY_SIDE == 0) span += (WARPS - 1) * SIDE_BY_SIDE;
            const bool last = span >= spans;
            if (!last || tile + gridDim.x < tiles) {
                fetch(stream_in, last ? tile + gridDim.x : tile, last ? warp * SIDE_BY_SIDE : span);
            }
        }
        // 16 rows of weights by 8 of activations at a time, an element each: neighbours are rows of weights, which lie
        // side by side in the result.
        const u32 row = threadIdx.x % ROWS, column = threadIdx.x / ROWS;
        // Where the instruction left it: four threads hold a row of 8 columns, two each.
        const u32 holder = row % 8 * 4 + column % 8 / 2, place = row / 8 * 2 + column % 2;
#pragma unroll
        for (u32 t = 0; t < TILES; ++t) {
#pragma unroll
            for (u32 eight = 0; eight < EIGHTS; ++eight, buffer ^= 1) {
                const float(&sum)[4] = sums[t][eight];
                *(float4*)scratch[buffer][warp][lane] =
                    make_float4(sum[0], sum[1], sum[2], sum[3]);
                // One barrier each: what is read behind it is written again only behind the next one.
                __syncthreads();
                const u32 output = (tile * TILES + t) * ROWS + row;
                const u32 of = eight * 8 + column;
                if (column >= 8 || of >= p.m || output >= p.n) continue;
                float whole = 0.0f;
#pragma unroll
                for (u32 part = 0; part < WARPS; ++part) {
                    whole = __fadd_rn(whole, scratch[buffer][part][holder][place]);
                }
                if constexpr (CODES) whole = __fmul_rn(whole, ((const float*)p.scales)[output]);
                store(p, of, output, whole);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(512, 2) weightonly_e4m3_8(const WeightOnlyParams p) {
    product<true, 1, 1, false>(p);
}

extern "C" __global__ void __launch_bounds__(512, 1) weightonly_e4m3_16(const WeightOnlyParams p) {
    product<true, 2, 2, false>(p);
}

extern "C" __global__ void __launch_bounds__(512, 2) weightonly_f16_8(const WeightOnlyParams p) {
    product<false, 1, 1, false>(p);
}

extern "C" __global__ void __launch_bounds__(512, 1) weightonly_f16_16(const WeightOnlyParams p) {
    product<false, 2, 2, false>(p);
}

extern "C" __global__ void __launch_bounds__(512, 2) weightonly_e4m3_norm(const WeightOnlyParams p) {
    product<true, 1, 1, true>(p);
}

extern "C" __global__ void __launch_bounds__(512, 2) weightonly_f16_norm(const WeightOnlyParams p) {
    product<false, 1, 1, true>(p);
}
