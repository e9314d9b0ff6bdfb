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

// The largest magnitude's code: codes of positive halves are ordered as the numbers are.
__device__ __forceinline__ u32 largest_code(const uint4& v) {
    u32 most = 0;
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        most = max(most, max(words[i] & 0x7FFFu, (words[i] >> 16) & 0x7FFFu));
    }
    return most;
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

// One block a row of at most 8 * THREADS * MOST columns, which stay in registers between the passes.
template <int BEFORE, u32 THREADS, u32 MOST>
__device__ __forceinline__ void by_row(const QuantiseParams& p) {
    __shared__ u32 scratch[THREADS / 32];
    u64 row = blockIdx.x;
    const uint4* from = (const uint4*)p.source + row * (p.columns / 8);
    u32 vectors = p.columns / 8;
    uint4 v[MOST];
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 at = threadIdx.x + j * THREADS;
        v[j] = at < vectors ? stream_in(from + at) : make_uint4(0, 0, 0, 0);
    }
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
    by_row<NORM, 256, 4>(p);
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

// Eight lanes' numbers as E2M1, packed from the low end.
__device__ __forceinline__ u32 e2m1_codes(const QuantiseParams& p, const float (&x)[8]) {
    u32 word = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i += 2) {
        u32 pair = p.truncate != 0 ? E2m1::encode<true>(x[i]) | E2m1::encode<true>(x[i + 1]) << 4
                                   : e2m1_pair(x[i], x[i + 1]);
        word |= (pair & 0xFF) << (i * 4);
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

template <int KIND, u32 LANES>
__device__ __forceinline__ void by_block(const QuantiseParams& p) {
    u32 in_row = p.columns / 8;
    u64 vectors = p.rows * in_row;
    u64 base = (u64)blockIdx.x * blockDim.x * EACH + threadIdx.x;
    uint4 v[EACH];
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        u64 at = base + j * blockDim.x;
        v[j] = at < vectors ? stream_in((const uint4*)p.source + at) : make_uint4(0, 0, 0, 0);
    }
    float whole = 0.0f, encode_scale = 1.0f;
    if constexpr (KIND == NVFP4) {
        whole = *(const float*)p.amax;
        encode_scale = whole == 0.0f ? 1.0f : fminf(__fdiv_rn(2688.0f, whole), 3.402823466e38f);
    }
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        u64 at = base + j * blockDim.x;
        u32 most = largest_code(v[j]);
#pragma unroll
        for (u32 offset = LANES / 2; offset > 0; offset >>= 1) {
            most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, offset));
        }
        if (at >= vectors) continue;
        float largest = decode<F16>(most);
        u64 row = at / in_row;
        u32 vector = (u32)(at % in_row), block = vector / LANES;
        bool first = vector % LANES == 0;
        if constexpr (KIND == BLOCK_128) {
            Scale scale(largest);
            // All rows of a block of columns lie side by side.
            if (first) ((float*)p.scales)[(u64)block * p.rows + row] = scale.scale;
            __stcs((uint2*)p.target + at, e4m3_codes(p, v[j], scale.inverse));
        } else {
            u64 place = place_of_scale(row, block, in_row / LANES);
            if constexpr (KIND == MXFP8) {
                u32 power = least_power<8, 0x600000>(largest);
                if (first) ((u8*)p.scales)[place] = (u8)power;
                float inverse = power == 0 ? 1.0f : __uint_as_float((254 - power) << 23);
                __stcs((uint2*)p.target + at, e4m3_codes(p, v[j], inverse));
            } else {
                float inverse;
                if constexpr (KIND == MXFP4) {
                    u32 power = least_power<2, 0x400000>(largest);
                    if (first) ((u8*)p.scales)[place] = (u8)power;
                    inverse = power == 0 ? 1.0f : __uint_as_float((254 - power) << 23);
                } else {
                    float wanted = __fmul_rn(largest, __fmul_rn(encode_scale, 1.0f / 6.0f));
                    u32 code = e4m3_pair(wanted, 0.0f) & 0xFF;
                    if (first) ((u8*)p.scales)[place] = (u8)code;
                    float back = __fmul_rn(E4m3::decode(code), __fdiv_rn(1.0f, encode_scale));
                    inverse = fminf(__fdiv_rn(1.0f, back), 3.402823466e38f);
                }
                float x[8];
                unpack(v[j], x);
#pragma unroll
                for (u32 i = 0; i < 8; ++i) {
                    x[i] = fminf(fmaxf(__fmul_rn(x[i], inverse), -6.0f), 6.0f);
                }
                __stcs((u32*)p.target + at, e2m1_codes(p, x));
            }
        }
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
