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

// The larger of two pairs of 16-bit numbers.
__device__ __forceinline__ u32 max_pairs(u32 a, u32 b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    u32 most;
    asm("max.u16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
    return most;
#else
    return max(a & 0xFFFFu, b & 0xFFFFu) | max(a >> 16, b >> 16) << 16;
#endif
}

// The largest magnitude's code: codes of positive halves are ordered as the numbers are.
__device__ __forceinline__ u32 largest_code(const uint4& v) {
    constexpr u32 MAGNITUDES = 0x7FFF7FFFu;
    u32 most = max_pairs(max_pairs(v.x & MAGNITUDES, v.y & MAGNITUDES),
                         max_pairs(v.z & MAGNITUDES, v.w & MAGNITUDES));
    return max(most & 0xFFFFu, most >> 16);
}

__device__ __forceinline__ uint4 stream_in(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// Eight codes of E4M3 of x * inverse.
__device__ __forceinline__ uint2 e4m3_codes(const QuantiseParams& p, const uint4& v, float inverse) {
    float x[8];
    unpack(v, x);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = __fmul_rn(x[i], inverse);
    if (p.truncate != 0) {
        u32 words[2] = {0, 0};
#pragma unroll
        for (u32 i = 0; i < 8; ++i) words[i / 4] |= E4m3::encode<true>(x[i]) << (i % 4 * 8);
        return make_uint2(words[0], words[1]);
    }
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

// The sum over a block of THREADS in one order.
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
    __syncthreads();
    return total;
}

template <u32 THREADS>
__device__ __forceinline__ u32 whole_max(u32 value, u32* scratch) {
    value = __reduce_max_sync(0xFFFFFFFFu, value);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    u32 most = 0;
#pragma unroll
    for (u32 warp = 0; warp < THREADS / 32; ++warp) most = max(most, scratch[warp]);
    __syncthreads();
    return most;
}

// As model_norm and model_gelu: f32 in between, and rounded to fp16, so that the fused kernel and
// the chain of two give the same codes.
__device__ __forceinline__ uint4 gelu(const uint4& v) {
    float x[8];
    unpack(v, x);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = x[i] * 0.5f * (1.0f + erff(x[i] * 0.70710678118654752f));
    return pack(x);
}

template <u32 THREADS, u32 MOST>
__device__ __forceinline__ void load_row(const QuantiseParams& p, u64 row, uint4 (&v)[MOST]) {
    const u32 vectors = p.columns / 8;
    const uint4* from = (const uint4*)p.source + row * vectors;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 at = threadIdx.x + j * THREADS;
        v[j] = at < vectors ? stream_in(from + at) : make_uint4(0, 0, 0, 0);
    }
}

// A row of at most 8 * THREADS * MOST columns, which stays in registers between the passes.
template <int BEFORE, u32 THREADS, u32 MOST>
__device__ __forceinline__ void one_row(const QuantiseParams& p, u64 row, uint4 (&v)[MOST],
                                        u32* scratch) {
    u32 vectors = p.columns / 8;
    if constexpr (BEFORE == NORM) {
        float count = (float)p.columns, sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) {
            float x[8];
            unpack(v[j], x);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) sum += x[i];
        }
        float mean = whole_sum<THREADS>(sum, (float*)scratch) / count;
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) {
            float x[8];
            unpack(v[j], x);
            if (threadIdx.x + j * THREADS < vectors) {
#pragma unroll
                for (u32 i = 0; i < 8; ++i) {
                    x[i] -= mean;
                    squares += x[i] * x[i];
                }
            }
        }
        squares = whole_sum<THREADS>(squares, (float*)scratch);
        float inverse = 1.0f / sqrtf(squares / count + p.epsilon);
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) {
            u32 at = threadIdx.x + j * THREADS;
            if (at < vectors) {
                float x[8], gain[8], bias[8];
                unpack(v[j], x);
                unpack(((const uint4*)p.gain)[at], gain);
                unpack(((const uint4*)p.bias)[at], bias);
#pragma unroll
                for (u32 i = 0; i < 8; ++i) x[i] = (x[i] - mean) * inverse * gain[i] + bias[i];
                v[j] = pack(x);
            }
        }
    }
    u32 most = 0;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        if constexpr (BEFORE == GELU) v[j] = gelu(v[j]);
        most = max(most, largest_code(v[j]));
    }
    Scale scale(decode<F16>(whole_max<THREADS>(most, scratch)));
    if (threadIdx.x == 0) ((float*)p.scales)[row] = scale.scale;
    uint2* to = (uint2*)p.target + row * vectors;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 at = threadIdx.x + j * THREADS;
        if (at < vectors) __stcs(to + at, e4m3_codes(p, v[j], scale.inverse));
    }
}

// One block a row.
template <int BEFORE, u32 THREADS, u32 MOST>
__device__ __forceinline__ void by_row(const QuantiseParams& p) {
    __shared__ u32 scratch[THREADS / 32];
    uint4 v[MOST];
    load_row<THREADS, MOST>(p, blockIdx.x, v);
    one_row<BEFORE, THREADS, MOST>(p, blockIdx.x, v, scratch);
}

// Rows one after another by a grid of blocks that stay: the next row is under way while this one is summed,
// since three sums over a row, one behind the other, leave memory idle.
template <int BEFORE, u32 THREADS, u32 MOST>
__device__ __forceinline__ void by_rows(const QuantiseParams& p) {
    __shared__ u32 scratch[THREADS / 32];
    uint4 v[MOST], ahead[MOST];
    load_row<THREADS, MOST>(p, blockIdx.x, v);
#pragma unroll 1
    for (u64 row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const u64 next = row + gridDim.x;
        if (next < p.rows) load_row<THREADS, MOST>(p, next, ahead);
        one_row<BEFORE, THREADS, MOST>(p, row, v, scratch);
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) v[j] = ahead[j];
    }
}

// Rows of at most 8192 columns by 256 threads, longer ones by 1024.
extern "C" __global__ void __launch_bounds__(256) quantise_row(const QuantiseParams p) {
    by_row<PLAIN, 256, 4>(p);
}

extern "C" __global__ void __launch_bounds__(1024) quantise_row_long(const QuantiseParams p) {
    by_row<PLAIN, 1024, 4>(p);
}

extern "C" __global__ void __launch_bounds__(256) quantise_gelu_row(const QuantiseParams p) {
    by_row<GELU, 256, 4>(p);
}

extern "C" __global__ void __launch_bounds__(1024) quantise_gelu_row_long(const QuantiseParams p) {
    by_row<GELU, 1024, 4>(p);
}

extern "C" __global__ void __launch_bounds__(256) quantise_norm_row(const QuantiseParams p) {
    by_rows<NORM, 256, 4>(p);
}

// ---- by tensor ----------------------------------------------------------------------------------

// Raises `recorded` to the largest magnitude: bits of an f32, which are ordered as the numbers are.
__device__ __forceinline__ void record(const QuantiseParams& p, u32 most) {
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    if ((threadIdx.x & 31) != 0 || p.recorded == 0) return;
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

enum Grouped { BLOCK_128, NVFP4, MXFP8, MXFP4 };

// Signs of eight halves where eight codes of four bits have theirs.
__device__ __forceinline__ u32 signs_of(const uint4& v) {
    const u32 low = __byte_perm(v.x, v.y, 0x7351), high = __byte_perm(v.z, v.w, 0x7351);
    const u32 even = __byte_perm(low, high, 0x5410), odd = __byte_perm(low, high, 0x7632);
    return (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
}

// Eight codes of E2M1 of x * inverse, of magnitudes up to 6 or, with CLAMP, beyond, packed from the low end.
template <bool CLAMP>
__device__ __forceinline__ u32 e2m1_codes(const QuantiseParams& p, const uint4& v, float inverse) {
    float x[8];
    unpack(v, x);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = __fmul_rn(x[i], inverse);
    u32 word = 0;
    if (p.truncate != 0) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) word |= (E2m1::encode<true>(x[i]) & 0xF) << (i * 4);
        return word;
    }
    if constexpr (CHIP_HAS_FP4) {
#pragma unroll
        for (u32 i = 0; i < 8; i += 2) word |= (e2m1_pair(x[i], x[i + 1]) & 0xFF) << (i * 4);
        return word;
    }
    // The factor is positive, so that signs are those of the halves.
    word = signs_of(v);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        const float bounded = CLAMP ? fminf(fabsf(x[i]), 6.0f) : x[i];
        word |= e2m1_bits(bounded) << (i * 4) & 7u << (i * 4);
    }
    return word;
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

// A matrix's factor in NVFP4, and one over it.
struct Whole {
    float factor = 1.0f, inverse = 1.0f;
    __device__ __forceinline__ void of(float largest) {
        factor = largest == 0.0f ? 1.0f : fminf(__fdiv_rn(2688.0f, largest), 3.402823466e38f);
        inverse = __frcp_rn(factor);
    }
};

// Codes and scale of vector `vector` of a row whose group has the largest magnitude `most`, a half's code.
template <int KIND, u32 LANES>
__device__ __forceinline__ void store_block(const QuantiseParams& p, const uint4& v, u32 most, u64 row,
                                            u32 vector, const Whole& whole) {
    const u32 in_row = p.columns / 8, block = vector / LANES;
    const u64 at = row * in_row + vector;
    const float largest = decode<F16>(most);
    const bool first = vector % LANES == 0;
    if constexpr (KIND == BLOCK_128) {
        Scale scale(largest);
        // All rows of a block of columns lie side by side.
        if (first) ((float*)p.scales)[(u64)block * p.rows + row] = scale.scale;
        __stcs((uint2*)p.target + at, e4m3_codes(p, v, scale.inverse));
        return;
    }
    u8* scale = (u8*)p.scales + place_of_scale(row, block, in_row / LANES);
    if constexpr (KIND == NVFP4) {
        float wanted = __fmul_rn(largest, __fmul_rn(whole.factor, 1.0f / 6.0f));
        u32 code = e4m3_pair(wanted, 0.0f) & 0xFF;
        if (first) *scale = (u8)code;
        float back = __fmul_rn(E4m3::decode(code), whole.inverse);
        float inverse = fminf(__frcp_rn(back), 3.402823466e38f);
        __stcs((u32*)p.target + at, e2m1_codes<true>(p, v, inverse));
    } else {
        u32 power =
            KIND == MXFP8 ? least_power<8, 0x600000>(largest) : least_power<2, 0x400000>(largest);
        if (first) *scale = (u8)power;
        float inverse = power == 0 ? 1.0f : __uint_as_float((254 - power) << 23);
        if constexpr (KIND == MXFP8) {
            __stcs((uint2*)p.target + at, e4m3_codes(p, v, inverse));
        } else {
            __stcs((u32*)p.target + at, e2m1_codes<false>(p, v, inverse));
        }
    }
}

// A block takes up to EACH * 256 vectors of one row, LANES threads side by side the vectors of one group.
template <int KIND, u32 LANES>
__device__ __forceinline__ void by_block(const QuantiseParams& p) {
    constexpr u32 VECTORS = EACH * 256;
    const u32 in_row = p.columns / 8, parts = (in_row + VECTORS - 1) / VECTORS;
    const u64 row = blockIdx.x / parts;
    const u32 begin = blockIdx.x % parts * VECTORS + threadIdx.x;
    const uint4* from = (const uint4*)p.source + row * in_row;
    uint4 v[EACH];
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        const u32 vector = begin + j * 256;
        v[j] = vector < in_row ? stream_in(from + vector) : make_uint4(0, 0, 0, 0);
    }
    Whole whole;
    if constexpr (KIND == NVFP4) whole.of(*(const float*)p.amax);
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        u32 most = largest_code(v[j]);
#pragma unroll
        for (u32 offset = LANES / 2; offset > 0; offset >>= 1) {
            most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, offset));
        }
        const u32 vector = begin + j * 256;
        if (vector < in_row) store_block<KIND, LANES>(p, v[j], most, row, vector, whole);
    }
}

extern "C" __global__ void __launch_bounds__(256) quantise_block128(const QuantiseParams p) {
    by_block<BLOCK_128, 16>(p);
}

extern "C" __global__ void __launch_bounds__(256) quantise_nvfp4(const QuantiseParams p) {
    by_block<NVFP4, 2>(p);
}

extern "C" __global__ void __launch_bounds__(256) quantise_mxfp8(const QuantiseParams p) {
    by_block<MXFP8, 4>(p);
}

extern "C" __global__ void __launch_bounds__(256) quantise_mxfp4(const QuantiseParams p) {
    by_block<MXFP4, 4>(p);
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
