#line 2 "operands.cu"
// Operands of matrix products: integers, normal-like data and scales, made on the device, and a
// count of values that are not finite. 16-byte stores.

struct OperandParams {
    u64 data;
    u64 result;     // operand_nonfinite: u64 count
    u64 elements;   // a multiple of 16 bytes' worth
    u64 seed;
    u32 type;       // see Element
    u32 threshold;  // integers: nonzero where 31 random bits are below it; all ones: +-127
    float factor;   // normals: value of one step of the sum of uniforms
    u32 kind;       // scales: 0 powers of two, 1 random
};
static_assert(sizeof(OperandParams) == 48, "the Rust side asserts the same size");

// -1, 0 or +1 with a given density, or the whole range of int8.
__device__ __forceinline__ float integer_value(const OperandParams& p, u64 element) {
    u32 h = draw(p.seed, element);
    if (p.threshold == 0xFFFFFFFFu) return (float)((int)__umulhi(h, 255) - 127);
    if ((h >> 1) >= p.threshold) return 0.0f;
    return (h & 1) != 0 ? -1.0f : 1.0f;
}

// The sum of four 16-bit uniforms less its mean: nearly normal, exact as an integer.
__device__ __forceinline__ float normal_value(const OperandParams& p, u64 element) {
    u32 h = draw(p.seed, element * 2);
    u32 g = draw(p.seed, element * 2 + 1);
    int sum = (int)((h & 0xFFFF) + (h >> 16) + (g & 0xFFFF) + (g >> 16)) - 131070;
    return (float)sum * p.factor;
}

template <int T, typename Value>
__device__ __forceinline__ void fill(const OperandParams& p, Value value) {
    constexpr u32 EACH = 16 / bytes_of(T);
    constexpr u32 IN_WORD = EACH / 4;
    constexpr u32 BITS = 8 * bytes_of(T);
    uint4* data = (uint4*)p.data;
    u64 vectors = p.elements / EACH;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < vectors; v += stride) {
        u32 words[4];
#pragma unroll
        for (u32 w = 0; w < 4; ++w) {
            u32 word = 0;
#pragma unroll
            for (u32 i = 0; i < IN_WORD; ++i) {
                u32 code = encode<T>(value(v * EACH + w * IN_WORD + i));
                word |= IN_WORD == 1 ? code : code << ((i * BITS) & 31);
            }
            words[w] = word;
        }
        data[v] = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

#define BY_TYPE(CALL)                    \
    switch (p.type) {                    \
        case F16: CALL(F16); break;      \
        case BF16: CALL(BF16); break;    \
        case F32: CALL(F32); break;      \
        case E4M3: CALL(E4M3); break;    \
        case INT8: CALL(INT8); break;    \
        default: break;                  \
    }

extern "C" __global__ void __launch_bounds__(256) operand_integers(const OperandParams p) {
    auto value = [&](u64 element) { return integer_value(p, element); };
#define INTEGERS(T) fill<T>(p, value)
    BY_TYPE(INTEGERS)
}

extern "C" __global__ void __launch_bounds__(256) operand_normals(const OperandParams p) {
    auto value = [&](u64 element) { return normal_value(p, element); };
#define NORMALS(T) fill<T>(p, value)
    BY_TYPE(NORMALS)
}

// 2^-4 to 2^4, or random in [0.5, 2).
extern "C" __global__ void __launch_bounds__(256) operand_scales(const OperandParams p) {
    float4* data = (float4*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    auto scale = [&](u64 element) {
        u32 h = draw(p.seed, element);
        if (p.kind == 0) return __uint_as_float((123 + __umulhi(h, 9)) << 23);
        return __uint_as_float(0x3F000000u + ((h & 1) << 23) + (h >> 9));
    };
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.elements / 4; v += stride) {
        data[v] = make_float4(scale(v * 4), scale(v * 4 + 1), scale(v * 4 + 2), scale(v * 4 + 3));
    }
}

template <int T>
__device__ __forceinline__ u64 nonfinite(const OperandParams& p) {
    constexpr u32 EACH = 16 / bytes_of(T);
    const uint4* data = (const uint4*)p.data;
    u64 vectors = p.elements / EACH;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 count = 0;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < vectors; v += stride) {
        uint4 vector = data[v];
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) {
            // Every infinity and NaN has an exponent of all ones; E4M3 decodes its NaN to one.
            u32 bits = __float_as_uint(decode<T>(code_of<T>(vector, i)));
            count += (bits & 0x7F800000u) == 0x7F800000u;
        }
    }
    return count;
}

extern "C" __global__ void __launch_bounds__(256) operand_nonfinite(const OperandParams p) {
    __shared__ u64 scratch[8];
    u64 count = 0;
#define NONFINITE(T) count = nonfinite<T>(p)
    BY_TYPE(NONFINITE)
    u64 total = block_sum(count, scratch);
    if (threadIdx.x == 0 && total != 0) atomicAdd((u64*)p.result, total);
}
