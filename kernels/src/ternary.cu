#line 2 "ternary.cu"
// fp16 matrices to ternary numbers of 2 bits by their mean magnitude. The definition, with its order of operations,
// stands in ternary.rs.

struct TernaryParams {
    u64 source;    // fp16 [elements], whole vectors
    u64 target;    // encode: codes, 16 bits a vector
    u64 scale;     // encode: f32
    u64 sums;      // u64[3]: the sum's low 32 bits and the rest, each added up over blocks, and blocks with what is not finite
    u64 vectors;   // of 8 halves
    u64 elements;  // encode: by which the sum is divided
    u32 truncate;  // encode: 1 rounds toward zero, a planted fault
    u32 reserved;
};
static_assert(sizeof(TernaryParams) == 56, "the Rust side asserts the same size");

constexpr u32 EACH = 4;  // vectors of a thread in flight
constexpr float EPSILON = 1e-5f;

__device__ __forceinline__ uint4 magnitudes_of(const uint4& v) {
    constexpr u32 MAGNITUDES = 0x7FFF7FFFu;
    return make_uint4(v.x & MAGNITUDES, v.y & MAGNITUDES, v.z & MAGNITUDES, v.w & MAGNITUDES);
}

// The magnitudes of up to EACH vectors as an integer of 2^-24. A magnitude x is (w + r) / 128, w being 128 x rounded to an
// integer, which is what adding 2^23 leaves, below 2^23; r is a multiple of 2^-17 of at most a half, so that the sum of 32
// of them is exact in f32. What is not finite makes that sum a NaN.
struct Sum {
    u32 whole = 0;
    float rest = 0.0f;

    __device__ __forceinline__ void add(const uint4& v) {
        constexpr float MAGIC = 8388608.0f;
        const uint4 m = magnitudes_of(v);
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            const float x = decode<F16>(code_of<F16>(m, i));
            const float shifted = __fmaf_rn(x, 128.0f, MAGIC);
            rest = __fadd_rn(rest, __fmaf_rn(x, 128.0f, -__fadd_rn(shifted, -MAGIC)));
            whole += __float_as_uint(shifted) - __float_as_uint(MAGIC);
        }
    }

    __device__ __forceinline__ bool finite() const { return rest == rest; }

    __device__ __forceinline__ u64 total() const {
        return ((u64)whole << 17) + (u64)(long long)__float2int_rn(rest * 131072.0f);
    }
};

extern "C" __global__ void __launch_bounds__(256) ternary_sum(const TernaryParams p) {
    __shared__ u64 scratch[8];
    const u64 stride = (u64)gridDim.x * blockDim.x;
    const uint4* from = (const uint4*)p.source;
    u64 total = 0;
    bool wrong = false;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < p.vectors; at += EACH * stride) {
        uint4 v[EACH];
#pragma unroll
        for (u32 j = 0; j < EACH; ++j) {
            const u64 vector = at + j * stride;
            v[j] = vector < p.vectors ? from[vector] : make_uint4(0, 0, 0, 0);
        }
        Sum sum;
#pragma unroll
        for (u32 j = 0; j < EACH; ++j) sum.add(v[j]);
        wrong |= !sum.finite();
        total += sum.total();
    }
    total = block_sum(total, scratch);
    const bool any = __syncthreads_or(wrong) != 0;
    if (threadIdx.x != 0) return;
    u64* sums = (u64*)p.sums;
    atomicAdd(sums, total & 0xFFFFFFFFull);
    atomicAdd(sums + 1, total >> 32);
    if (any) atomicAdd(sums + 2, 1ull);
}

// The mean magnitude of the matrix; of one with what is not finite a NaN.
__device__ __forceinline__ float mean_magnitude(const TernaryParams& p) {
    const u64* sums = (const u64*)p.sums;
    if (sums[2] != 0) return __uint_as_float(0x7FC00000u);
    const double sum = __dadd_rn((double)sums[0], __dmul_rn((double)sums[1], 4294967296.0));
    return __double2float_rn(__ddiv_rn(sum, __dmul_rn((double)p.elements, 16777216.0)));
}

// Eight codes from the low end; without a factor the code that stands for nothing.
__device__ __forceinline__ u32 ternary_codes(const uint4& v, float inverse, bool truncate) {
    if (!(inverse == inverse)) return 0xAAAAu;
    constexpr float MAGIC = 12582912.0f;
    u32 word = 0;
#pragma unroll
    for (u32 i = 8; i-- > 0;) {
        const float x = __fmul_rn(decode<F16>(code_of<F16>(v, i)), inverse);
        const float bounded = fminf(fmaxf(x, -1.0f), 1.0f);
        // Adding 3 * 2^22 rounds to an integer, ties to even, and leaves it in the low bits.
        const u32 nearest = __float_as_uint(__fadd_rn(bounded, MAGIC));
        const u32 code = truncate ? (u32)__float2int_rz(bounded) : nearest;
        word = word * 4 + (code & 3);
    }
    return word;
}

extern "C" __global__ void __launch_bounds__(256) ternary_encode(const TernaryParams p) {
    __shared__ float factor;
    const u64 base = (u64)blockIdx.x * blockDim.x * EACH + threadIdx.x;
    uint4 v[EACH];
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        const u64 at = base + j * blockDim.x;
        v[j] = at < p.vectors ? ((const uint4*)p.source)[at] : make_uint4(0, 0, 0, 0);
    }
    if (threadIdx.x == 0) {
        const float mean = mean_magnitude(p);
        if (blockIdx.x == 0) *(float*)p.scale = mean;
        factor = __frcp_rn(__fadd_rn(mean, EPSILON));
    }
    __syncthreads();
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) {
        const u64 at = base + j * blockDim.x;
        if (at < p.vectors) ((u16*)p.target)[at] = (u16)ternary_codes(v[j], factor, p.truncate != 0);
    }
}
