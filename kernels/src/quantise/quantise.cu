#line 2 "quantise.cu"
// fp16 matrices to 8 and 4 bits with scales: by tensor, by row (alone, behind GELU, behind layer norm), by
// 1x128 and 128x128 blocks, and the microscaling formats NVFP4, MXFP8 and MXFP4. What each does, in
// which order and with which roundings, stands in oracle.rs, number by number.

struct QuantiseParams {
    u64 source;      // fp16 [rows][columns]
    u64 target;      // codes, packed like the source
    u64 scales;      // row, tensor, blocks: f32; microscaling: bytes in the tensor cores' layout
    u64 amax;        // tensor: f32[history], NVFP4: f32[1]: bits of largest magnitudes
    u64 recorded;    // tensor: u32, raised to the largest magnitude of this source; 0 for none
    u64 gain;        // norm: fp16 [columns]
    u64 bias;        // norm: fp16 [columns]
    u64 rows;
    u32 columns;     // a multiple of 128
    u32 history;     // tensor: entries of `amax`
    float epsilon;   // norm
    u32 truncate;    // 1: rounds toward zero, a planted fault
};
static_assert(sizeof(QuantiseParams) == 80, "the Rust side asserts the same size");

constexpr float MOST_E4M3 = 448.0f;

// ---- halves -------------------------------------------------------------------------------------

__device__ __forceinline__ void unpack(const uint4& v, float (&x)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = decode<F16>(code_of<F16>(v, i));
}

__device__ __forceinline__ uint4 pack(const float (&x)[8]) {
    u32 w[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) w[i] = encode<F16>(x[2 * i]) | encode<F16>(x[2 * i + 1]) << 16;
    return make_uint4(w[0], w[1], w[2], w[3]);
}

// The larger of two magnitudes, in each half of a word; what is no number comes out as none.
__device__ __forceinline__ u32 larger_pair(u32 a, u32 b) {
    u32 most;
    asm("{\n.reg .b32 x, y;\nabs.f16x2 x, %1;\nabs.f16x2 y, %2;\nmax.NaN.f16x2 %0, x, y;\n}"
        : "=r"(most) : "r"(a), "r"(b));
    return most;
}

__device__ __forceinline__ u32 largest_pair(const uint4& v) {
    return larger_pair(larger_pair(v.x, v.y), larger_pair(v.z, v.w));
}

// The larger half's code: codes of positive halves are ordered as the numbers are.
__device__ __forceinline__ u32 larger_half(u32 pair) { return max(pair & 0xFFFFu, pair >> 16); }

__device__ __forceinline__ u32 largest_code(const uint4& v) { return larger_half(largest_pair(v)); }

__device__ __forceinline__ uint4 stream_in(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// What no kernel writes meanwhile. Asked for as a vector: the compiler would load each of its words by itself, which
// takes four times as many requests.
__device__ __forceinline__ uint4 load_vector(const uint4* p) {
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// A number with no more than MANTISSA bits behind the first, so that a format with as many rounds it toward zero
// where it has normal numbers: the planted fault.
template <u32 MANTISSA>
__device__ __forceinline__ float toward_zero(float x) {
    return __uint_as_float(__float_as_uint(x) & ~0u << (23 - MANTISSA));
}

// x * inverse, or by the planted fault fewer bits of it.
template <u32 MANTISSA>
__device__ __forceinline__ void scaled(const QuantiseParams& p, const uint4& v, float inverse,
                                       float (&x)[8]) {
    unpack(v, x);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = __fmul_rn(x[i], inverse);
    if (p.truncate != 0) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) x[i] = toward_zero<MANTISSA>(x[i]);
    }
}

// Eight codes of E4M3 of x * inverse.
__device__ __forceinline__ uint2 e4m3_codes(const QuantiseParams& p, const uint4& v, float inverse) {
    float x[8];
    scaled<3>(p, v, inverse, x);
    return make_uint2(e4m3_pair(x[0], x[1]) | e4m3_pair(x[2], x[3]) << 16,
                      e4m3_pair(x[4], x[5]) | e4m3_pair(x[6], x[7]) << 16);
}

// What a block of values of this largest magnitude is divided by, and the factor that does it. Nothing
// but zeros has the scale 1.
struct Scale {
    float scale, inverse;
    __device__ __forceinline__ Scale(float largest) {
        bool empty = largest == 0.0f;
        scale = empty ? 1.0f : __fdiv_rn(largest, MOST_E4M3);
        inverse = empty ? 1.0f : __fdiv_rn(MOST_E4M3, largest);
    }
};

// ---- by row -------------------------------------------------------------------------------------

enum Before { PLAIN, GELU, NORM };

// The sum over a block of THREADS in one order. Nobody else uses `scratch`.
template <u32 THREADS>
__device__ __forceinline__ float whole_sum(float value, float* scratch) {
#pragma unroll
    for (u32 offset = 16; offset > 0; offset >>= 1) {
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    }
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (u32 warp = 0; warp < THREADS / 32; ++warp) total += scratch[warp];
    return total;
}

// The largest of a block of THREADS, likewise.
template <u32 THREADS>
__device__ __forceinline__ u32 whole_max(u32 value, u32* scratch) {
    value = __reduce_max_sync(0xFFFFFFFFu, value);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    u32 most = 0;
#pragma unroll
    for (u32 warp = 0; warp < THREADS / 32; ++warp) most = max(most, scratch[warp]);
    return most;
}

// A row that is spread over a block, vector threadIdx.x + j * THREADS in v[j], as model_norm leaves it: f32 in
// between, and rounded to fp16, so that the fused kernel and the chain of two give the same codes. Vectors beyond
// the row are zeros, before and after. Between the passes the row is kept as halves, so that more rows are in
// flight.
template <u32 THREADS, u32 MOST, bool WHOLE>
__device__ __forceinline__ void norm(const QuantiseParams& p, uint4 (&v)[MOST]) {
    __shared__ float sums[THREADS / 32], sums_of_squares[THREADS / 32];
    const u32 vectors = p.columns / 8;
    const float count = (float)p.columns;
    // The compiler would keep the numbers that it has unpacked, in twice the registers.
    const auto unpack_again = [&] {
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) {
            asm volatile("" : "+r"(v[j].x), "+r"(v[j].y), "+r"(v[j].z), "+r"(v[j].w));
        }
    };
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        float x[8];
        unpack(v[j], x);
#pragma unroll
        for (u32 i = 0; i < 8; ++i) sum += x[i];
    }
    unpack_again();
    const float mean = whole_sum<THREADS>(sum, sums) / count;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        if (WHOLE || threadIdx.x + j * THREADS < vectors) {
            float x[8];
            unpack(v[j], x);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) {
                x[i] -= mean;
                squares += x[i] * x[i];
            }
        }
    }
    unpack_again();
    squares = whole_sum<THREADS>(squares, sums_of_squares);
    const float inverse = 1.0f / sqrtf(squares / count + p.epsilon);
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        const u32 at = threadIdx.x + j * THREADS;
        if (WHOLE || at < vectors) {
            float x[8], gain[8], bias[8];
            unpack(v[j], x);
            unpack(load_vector((const uint4*)p.gain + at), gain);
            unpack(load_vector((const uint4*)p.bias + at), bias);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) x[i] = (x[i] - mean) * inverse * gain[i] + bias[i];
            v[j] = pack(x);
        }
    }
}

// One block a row of at most 8 * THREADS * MOST columns, which stays in registers between the passes. WHOLE: no fewer.
template <int BEFORE, u32 THREADS, u32 MOST, bool WHOLE = false>
__device__ __forceinline__ void by_row(const QuantiseParams& p) {
    __shared__ u32 scratch[THREADS / 32];
    const u32 vectors = p.columns / 8;
    const u64 first = (u64)blockIdx.x * vectors + threadIdx.x;
    uint4 v[MOST];
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        const bool inside = WHOLE || threadIdx.x + j * THREADS < vectors;
        v[j] = inside ? stream_in((const uint4*)p.source + first + j * THREADS) : make_uint4(0, 0, 0, 0);
    }
    if constexpr (BEFORE == NORM) norm<THREADS, MOST, WHOLE>(p, v);
    if constexpr (BEFORE == GELU) {
        // Each vector changes with all of them, by nothing, since `truncate` is 0 or 1: so all are asked for before
        // the first is waited for. Otherwise the last loads are put behind the polynomials of the first vectors.
        u32 seen = 0;
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) seen |= v[j].x;
        seen &= p.truncate >> 1;
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) {
            v[j] = make_uint4(v[j].x ^ seen, v[j].y ^ seen, v[j].z ^ seen, v[j].w ^ seen);
        }
    }
    u32 most = 0;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        if constexpr (BEFORE == GELU) {
            v[j] = gelu(v[j]);
            // Finished before the next: with the polynomials of several vectors mixed, a long row spills.
            asm volatile("" : "+r"(v[j].x), "+r"(v[j].y), "+r"(v[j].z), "+r"(v[j].w));
        }
        most = larger_pair(most, largest_pair(v[j]));
    }
    const Scale scale(decode<F16>(whole_max<THREADS>(larger_half(most), scratch)));
    if (threadIdx.x == 0) ((float*)p.scales)[blockIdx.x] = scale.scale;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        if (WHOLE || threadIdx.x + j * THREADS < vectors) {
            __stcs((uint2*)p.target + first + j * THREADS, e4m3_codes(p, v[j], scale.inverse));
        }
    }
}

// Blocks of long rows behind GELU that a multiprocessor is to hold. By two sm_120 would spill a word.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr u32 LONG_GELU_BLOCKS = 1;
#else
constexpr u32 LONG_GELU_BLOCKS = 2;
#endif

// Of whole rows behind layer norm: by six others than sm_90 would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
constexpr u32 WHOLE_NORM_BLOCKS = 6;
#else
constexpr u32 WHOLE_NORM_BLOCKS = 4;
#endif

// Rows of at most 8192 columns by 256 threads, behind GELU by 128, longer ones by 512.
extern "C" __global__ void __launch_bounds__(256) quantise_row(const QuantiseParams p) {
    by_row<PLAIN, 256, 4>(p);
}

extern "C" __global__ void __launch_bounds__(512, 2) quantise_row_long(const QuantiseParams p) {
    by_row<PLAIN, 512, 8>(p);
}

extern "C" __global__ void __launch_bounds__(128, 8) quantise_gelu_row(const QuantiseParams p) {
    by_row<GELU, 128, 8>(p);
}

extern "C" __global__ void __launch_bounds__(512, LONG_GELU_BLOCKS)
    quantise_gelu_row_long(const QuantiseParams p) {
    by_row<GELU, 512, 8>(p);
}

extern "C" __global__ void __launch_bounds__(256, 6) quantise_norm_row(const QuantiseParams p) {
    by_row<NORM, 256, 4>(p);
}

// Of 8192 columns, as the model's rows are.
extern "C" __global__ void __launch_bounds__(256, WHOLE_NORM_BLOCKS) quantise_norm_row_whole(const QuantiseParams p) {
    by_row<NORM, 256, 4, true>(p);
}

// ---- by tensor ----------------------------------------------------------------------------------

// Raises `recorded` to the largest magnitude of a block of 256: bits of an f32, which are ordered as the numbers are.
// All go to one word, one behind the other: so of a block one, not one of every warp.
__device__ __forceinline__ void record(const QuantiseParams& p, u32 most) {
    __shared__ u32 scratch[8];
    if (p.recorded == 0) return;
    most = whole_max<256>(most, scratch);
    if (threadIdx.x != 0) return;
    u32 bits = __float_as_uint(decode<F16>(most));
    asm volatile("red.global.max.u32 [%0], %1;" : : "l"(p.recorded), "r"(bits) : "memory");
}

constexpr u32 EACH = 4;  // vectors of a thread in flight

extern "C" __global__ void __launch_bounds__(256) quantise_largest(const QuantiseParams p) {
    u64 vectors = p.rows * (p.columns / 8);
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const uint4* from = (const uint4*)p.source;
    u32 most = 0;
    for (; at + (EACH - 1) * stride < vectors; at += EACH * stride) {
        uint4 v[EACH];
#pragma unroll
        for (u32 j = 0; j < EACH; ++j) v[j] = from[at + j * stride];
#pragma unroll
        for (u32 j = 0; j < EACH; ++j) most = max(most, largest_code(v[j]));
    }
    for (; at < vectors; at += stride) most = max(most, largest_code(from[at]));
    record(p, most);
}

// By the largest of a history of largest magnitudes: of one entry for the tensor itself (current scaling),
// of several for earlier ones (delayed scaling), beyond which this one saturates.
extern "C" __global__ void __launch_bounds__(256) quantise_tensor(const QuantiseParams p) {
    u32 largest = 0;
    for (u32 i = 0; i < p.history; ++i) largest = max(largest, ((const u32*)p.amax)[i]);
    Scale scale(__uint_as_float(largest));
    if (blockIdx.x == 0 && threadIdx.x == 0) *(float*)p.scales = scale.scale;
    u64 vectors = p.rows * (p.columns / 8);
    u64 base = (u64)blockIdx.x * blockDim.x * EACH + threadIdx.x;
    uint4 v[EACH];
    u32 most = 0;
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        u64 at = base + j * blockDim.x;
        v[j] = at < vectors ? stream_in((const uint4*)p.source + at) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        u64 at = base + j * blockDim.x;
        most = max(most, largest_code(v[j]));
        if (at < vectors) __stcs((uint2*)p.target + at, e4m3_codes(p, v[j], scale.inverse));
    }
    record(p, most);
}

// ---- by blocks of a row -------------------------------------------------------------------------

// A block takes up to EACH * 256 vectors of one row, a thread those at threadIdx.x + j * 256.
struct Part {
    u64 row;
    u32 begin;    // the thread's first vector
    u32 vectors;  // of a row

    __device__ __forceinline__ Part(const QuantiseParams& p) : vectors(p.columns / 8) {
        const u32 parts = (vectors + EACH * 256 - 1) / (EACH * 256);
        row = blockIdx.x / parts;
        begin = blockIdx.x % parts * (EACH * 256) + threadIdx.x;
    }

    __device__ __forceinline__ bool inside(u32 j) const { return begin + j * 256 < vectors; }

    __device__ __forceinline__ void load(const QuantiseParams& p, uint4 (&v)[EACH]) const {
        const uint4* from = (const uint4*)p.source + row * vectors + begin;
#pragma unroll
        for (u32 j = 0; j < EACH; ++j) {
            v[j] = inside(j) ? stream_in(from + j * 256) : make_uint4(0, 0, 0, 0);
        }
    }
};

// Sixteen threads side by side take the vectors of one block.
extern "C" __global__ void __launch_bounds__(256) quantise_block128(const QuantiseParams p) {
    const Part part(p);
    uint4 v[EACH];
    part.load(p, v);
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        u32 most = largest_code(v[j]);
#pragma unroll
        for (u32 offset = 8; offset > 0; offset >>= 1) {
            most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, offset));
        }
        if (part.inside(j)) {
            const Scale scale(decode<F16>(most));
            const u32 vector = part.begin + j * 256;
            // All rows of a block of columns lie side by side.
            float* scales = (float*)p.scales + (u64)(vector / 16) * p.rows + part.row;
            if (vector % 16 == 0) *scales = scale.scale;
            __stcs((uint2*)p.target + part.row * part.vectors + vector,
                   e4m3_codes(p, v[j], scale.inverse));
        }
    }
}

// Signs of eight halves where eight codes of four bits have theirs.
__device__ __forceinline__ u32 signs_of(const uint4& v) {
    const u32 low = __byte_perm(v.x, v.y, 0x7351), high = __byte_perm(v.z, v.w, 0x7351);
    const u32 even = __byte_perm(low, high, 0x5410), odd = __byte_perm(low, high, 0x7632);
    return (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
}

__device__ __forceinline__ uint4 magnitudes_of(const uint4& v) {
    constexpr u32 MAGNITUDES = 0x7FFF7FFFu;
    return make_uint4(v.x & MAGNITUDES, v.y & MAGNITUDES, v.z & MAGNITUDES, v.w & MAGNITUDES);
}

// Eight codes of E2M1 of x * inverse, packed from the low end; beyond 6 they saturate.
__device__ __forceinline__ u32 e2m1_codes(const QuantiseParams& p, const uint4& v, float inverse) {
    float x[8];
    u32 word = 0;
    if constexpr (CHIP_HAS_FP4) {
        scaled<1>(p, v, inverse, x);
#pragma unroll
        for (u32 i = 0; i < 8; i += 2) word |= (e2m1_pair(x[i], x[i + 1]) & 0xFF) << (i * 4);
        return word;
    }
    // The factor is positive, so that signs are those of the halves.
    scaled<1>(p, magnitudes_of(v), inverse, x);
#pragma unroll
    for (u32 i = 8; i-- > 0;) word = word * 16 + e2m1_bits(x[i]);
    // All that e2m1_bits has above its code, times 0x11111111.
    return word - 0xFB000000u + signs_of(v);
}

__device__ __forceinline__ u32 product_pair(u32 a, u32 b) {
    u32 product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

// The same of x * 2^power, no more than 6, for powers up to 26, two halves at once: the product is exact down to
// 2^-24, far below what rounds to zero, by two factors since a half ends at 2^15.
__device__ __forceinline__ u32 e2m1_codes_by_power(const QuantiseParams& p, const uint4& v, int power) {
    const int first = min(power, 13);
    const u32 factors[2] = {(u32)(first + 15) * 0x04000400u, (u32)(power - first + 15) * 0x04000400u};
    const uint4 m = magnitudes_of(v);
    u32 words[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        words[i] = product_pair(product_pair(words[i], factors[0]), factors[1]);
        if (p.truncate != 0) words[i] &= 0x7E007E00u;
        words[i] = e2m1_bits_of_pair(words[i]);
    }
    // Codes 0 and 2 of four in the low half, 1 and 3 in the high one, which are laid between them.
    u32 low = (words[0] & 0x00070007u) | (words[1] << 8 & 0x07000700u);
    u32 high = (words[2] & 0x00070007u) | (words[3] << 8 & 0x07000700u);
    low += low >> 12;
    high += high >> 12;
    return signs_of(v) | __byte_perm(low, high, 0x5410);
}

// The exponent of the least power of two by which a positive magnitude is no more than
// 2^EXPONENT * (1 + FRACTION / 2^23), as a code of UE8M0.
template <int EXPONENT, u32 FRACTION>
__device__ __forceinline__ u32 least_power(float largest) {
    u32 bits = __float_as_uint(largest);
    if (bits == 0) return 0;
    // A half's magnitude is a normal f32, and at least 2^-24.
    return (bits >> 23) - EXPONENT + ((bits & 0x7FFFFFu) > FRACTION);
}

// Place of the scale of block `block` of row `row` in the tensor cores' layout of scales: pieces of 128 rows
// by 4 blocks, 512 bytes each (cuBLAS documentation, "1D block scaling factors layout").
__device__ __forceinline__ u64 place_of_scale(u64 row, u32 block, u32 blocks) {
    u64 piece = row / 128 * ((blocks + 3) / 4) + block / 4;
    return piece * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4;
}

template <u32 LANES>
__device__ __forceinline__ u32 from_lane_beside(u32 x) {
    return __shfl_xor_sync(0xFFFFFFFFu, x, LANES);
}

// Of vectors j and j + 1 of a thread the largest magnitudes, in the low and the high half.
__device__ __forceinline__ u32 largest_of_two(const uint4 (&v)[EACH], u32 j) {
    const u32 a = largest_pair(v[j]), b = largest_pair(v[j + 1]);
    return larger_pair(__byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632));
}

// Two threads side by side have four blocks of 16 columns in common. Each finds the scales of two of them, the
// even one those of vectors 0 and 1, the odd one of 2 and 3, and then they exchange them.
extern "C" __global__ void __launch_bounds__(256) quantise_nvfp4(const QuantiseParams p) {
    static_assert(EACH == 4, "two scales a thread");
    const Part part(p);
    uint4 v[EACH];
    part.load(p, v);
    // The matrix's factor, and one over it.
    const float whole = *(const float*)p.amax;
    const float factor =
        whole == 0.0f ? 1.0f : fminf(__fdiv_rn(2688.0f, whole), 3.402823466e38f);
    const float over = __frcp_rn(factor), sixth = __fmul_rn(factor, 1.0f / 6.0f);

    const bool odd = threadIdx.x % 2 != 0;
    const u32 first = largest_of_two(v, 0), second = largest_of_two(v, 2);
    const u32 most = larger_pair(odd ? second : first, from_lane_beside<1>(odd ? first : second));
    const u32 codes = e4m3_pair(__fmul_rn(decode<F16>(most & 0xFFFF), sixth),
                                __fmul_rn(decode<F16>(most >> 16), sixth));
    // 128 blocks of 16 columns, a vector on, are 32 pieces on.
    constexpr u32 STEP = 256 / 2 / 4 * 512;
    u8* scales = (u8*)p.scales + place_of_scale(part.row, part.begin / 2, part.vectors / 2);
    if (part.inside(odd ? 2 : 0)) scales[odd ? 2 * STEP : 0] = (u8)codes;
    if (part.inside(odd ? 3 : 1)) scales[odd ? 3 * STEP : STEP] = (u8)(codes >> 8);

    float own[2], beside[2];
    e4m3_numbers(codes, own);
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        own[i] = fminf(__frcp_rn(__fmul_rn(own[i], over)), 3.402823466e38f);
        beside[i] = __uint_as_float(from_lane_beside<1>(__float_as_uint(own[i])));
    }
    u32* to = (u32*)p.target + part.row * part.vectors + part.begin;
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        const float inverse = odd == (j >= 2) ? own[j % 2] : beside[j % 2];
        if (part.inside(j)) __stcs(to + j * 256, e2m1_codes(p, v[j], inverse));
    }
}

// Four threads side by side have four blocks of 32 columns in common. Each finds the scale of one of them, thread
// i that of vectors i, and then all have the four in one word.
template <int EXPONENT, u32 FRACTION>
__device__ __forceinline__ u32 four_powers(const QuantiseParams& p, const Part& part,
                                           const uint4 (&v)[EACH]) {
    static_assert(EACH == 4, "a scale a thread");
    const u32 lane = threadIdx.x % 4;
    const u32 first = largest_of_two(v, 0), second = largest_of_two(v, 2);
    const bool later = lane >= 2;
    u32 most = larger_pair(later ? second : first, from_lane_beside<2>(later ? first : second));
    most = larger_pair(most, from_lane_beside<1>(most));
    const float largest = decode<F16>(lane % 2 != 0 ? most >> 16 : most & 0xFFFF);
    const u32 power = least_power<EXPONENT, FRACTION>(largest);
    // 64 blocks of 32 columns, a vector on, are 16 pieces on.
    constexpr u32 STEP = 256 / 4 / 4 * 512;
    u8* scales = (u8*)p.scales + place_of_scale(part.row, part.begin / 4, part.vectors / 4);
    if (part.inside(lane)) scales[lane * STEP] = (u8)power;
    u32 powers = power << 8 * lane;
    powers |= from_lane_beside<1>(powers);
    return powers | from_lane_beside<2>(powers);
}

extern "C" __global__ void __launch_bounds__(256) quantise_mxfp8(const QuantiseParams p) {
    const Part part(p);
    uint4 v[EACH];
    part.load(p, v);
    const u32 powers = four_powers<8, 0x600000>(p, part, v);
    uint2* to = (uint2*)p.target + part.row * part.vectors + part.begin;
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        const float inverse = __uint_as_float((254 - (powers >> 8 * j & 0xFF)) << 23);
        if (part.inside(j)) __stcs(to + j * 256, e4m3_codes(p, v[j], inverse));
    }
}

extern "C" __global__ void __launch_bounds__(256) quantise_mxfp4(const QuantiseParams p) {
    const Part part(p);
    uint4 v[EACH];
    part.load(p, v);
    const u32 powers = four_powers<2, 0x400000>(p, part, v);
    u32* to = (u32*)p.target + part.row * part.vectors + part.begin;
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        const u32 power = powers >> 8 * j & 0xFF;
        u32 codes;
        if constexpr (CHIP_HAS_FP4) {
            codes = e2m1_codes(p, v[j], __uint_as_float((254 - power) << 23));
        } else {
            // Of zeros the power is 0, and any factor will do.
            codes = e2m1_codes_by_power(p, v[j], min(127 - (int)power, 26));
        }
        if (part.inside(j)) __stcs(to + j * 256, codes);
    }
}

// ---- by squares ---------------------------------------------------------------------------------

// 128 rows by 128 columns, a block each. Scales by [rows / 128][columns / 128, padded to a multiple of 4].
extern "C" __global__ void __launch_bounds__(256) quantise_square128(const QuantiseParams p) {
    __shared__ u32 scratch[8];
    u32 squares = p.columns / 128;
    u64 band = blockIdx.x / squares;
    u32 square = blockIdx.x % squares;
    u32 in_row = p.columns / 8;
    u64 base = (band * 128 + threadIdx.x / 16) * in_row + square * 16 + threadIdx.x % 16;
    uint4 v[8];
    u32 most = 0;
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
        v[j] = stream_in((const uint4*)p.source + base + (u64)j * 16 * in_row);
        most = max(most, largest_code(v[j]));
    }
    Scale scale(decode<F16>(whole_max<256>(most, scratch)));
    if (threadIdx.x == 0) ((float*)p.scales)[band * ((squares + 3) / 4 * 4) + square] = scale.scale;
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
        __stcs((uint2*)p.target + base + (u64)j * 16 * in_row, e4m3_codes(p, v[j], scale.inverse));
    }
}
