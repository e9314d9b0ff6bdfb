#line 2 "reduction.cu"
// What a collective is given and what it must leave: values that any thread can make, their sum in
// a fixed order, an error beside the exact sum, and a comparison of two buffers.

struct ReductionParams {
    u64 data;      // 16-byte vectors
    u64 other;     // compare: as many, perhaps of another GPU
    u64 result;    // u64[2]: wrong elements and first of them; error: u32, the largest ratio as a float
    u64 vectors;
    u64 first;     // counter of element 0
    u64 seeds[8];  // in the order of addition
    u32 ranks;     // seeds that are added
    u32 type;
    u32 kind;
    float unit;    // error: what one is, as a share of the sum of magnitudes
};
static_assert(sizeof(ReductionParams) == 120, "the Rust side asserts the same size");

enum Kind { INTEGERS = 0, UNIFORM = 1 };

template <int T>
constexpr u32 PER_VECTOR = 16 / bytes_of(T);

// Without the rounding to tf32 that an operand of a product has.
template <int T>
__device__ __forceinline__ u32 code_of_value(float x) {
    if constexpr (T == F32) return __float_as_uint(x);
    else return encode<T>(x);
}

// Integers of 0 to 31, whose sums over eight ranks every type holds; or uniform in -1 to 1.
template <int T>
__device__ __forceinline__ u32 value_code(u32 kind, u64 seed, u64 element) {
    u32 word = draw(seed, element);
    float x = kind == INTEGERS ? (float)(word >> 27) : (float)(int)word * 4.656612873077392578125e-10f;
    return code_of_value<T>(x);
}

template <int T>
__device__ __forceinline__ u32 summed_code(const ReductionParams& p, u64 element) {
    float sum = decode<T>(value_code<T>(p.kind, p.seeds[0], element));
    for (u32 rank = 1; rank < p.ranks; ++rank) {
        sum += decode<T>(value_code<T>(p.kind, p.seeds[rank], element));
    }
    return code_of_value<T>(sum);
}

// Element `k` of a vector, which need not be a constant.
template <int T>
__device__ __forceinline__ u32 code_at(const uint4& v, u32 k) {
    constexpr u32 EACH = 4 / bytes_of(T);
    u32 at = k / EACH;
    u32 word = at == 0 ? v.x : at == 1 ? v.y : at == 2 ? v.z : v.w;
    return EACH == 1 ? word : (word >> (16 * (k & 1))) & 0xFFFF;
}

template <int T>
__device__ __forceinline__ void fill(const ReductionParams& p) {
    constexpr u32 EACH = 4 / bytes_of(T);
    u32* words = (u32*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 w = (u64)blockIdx.x * blockDim.x + threadIdx.x; w < p.vectors * 4; w += stride) {
        u32 word = value_code<T>(p.kind, p.seeds[0], p.first + w * EACH);
        if constexpr (EACH == 2) {
            word |= value_code<T>(p.kind, p.seeds[0], p.first + w * EACH + 1) << 16;
        }
        words[w] = word;
    }
}

template <int T>
__device__ __forceinline__ void check(const ReductionParams& p, u64* scratch) {
    const uint4* data = (const uint4*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 wrong = 0;
    u64 first = ~0ull;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.vectors; v += stride) {
        uint4 found = data[v];
#pragma unroll 1
        for (u32 k = 0; k < PER_VECTOR<T>; ++k) {
            u64 element = v * PER_VECTOR<T> + k;
            if (code_at<T>(found, k) != summed_code<T>(p, p.first + element)) {
                wrong += 1;
                first = element < first ? element : first;
            }
        }
    }
    u64* result = (u64*)p.result;
    if (first != ~0ull) atomicMin(result + 1, first);
    u64 total = block_sum(wrong, scratch);
    if (threadIdx.x == 0 && total != 0) atomicAdd(result, total);
}

template <int T>
__device__ __forceinline__ void error(const ReductionParams& p) {
    const uint4* data = (const uint4*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    float largest = 0.0f;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.vectors; v += stride) {
        uint4 found = data[v];
#pragma unroll 1
        for (u32 k = 0; k < PER_VECTOR<T>; ++k) {
            double exact = 0.0, magnitude = 0.0;
            for (u32 rank = 0; rank < p.ranks; ++rank) {
                u64 element = p.first + v * PER_VECTOR<T> + k;
                float x = decode<T>(value_code<T>(p.kind, p.seeds[rank], element));
                exact += (double)x;
                magnitude += fabs((double)x);
            }
            double off = fabs((double)decode<T>(code_at<T>(found, k)) - exact);
            float ratio = off == 0.0 ? 0.0f : (float)(off / (magnitude * (double)p.unit));
            // What is no number is as wrong as anything.
            if (!(ratio < 1e30f)) ratio = 1e30f;
            largest = ratio > largest ? ratio : largest;
        }
    }
    // Floats that are not negative stand in the order of their bits.
    atomicMax((u32*)p.result, __float_as_uint(largest));
}

extern "C" __global__ void __launch_bounds__(256) reduction_fill(const ReductionParams p) {
    switch (p.type) {
        case F16: fill<F16>(p); break;
        case BF16: fill<BF16>(p); break;
        default: fill<F32>(p); break;
    }
}

extern "C" __global__ void __launch_bounds__(256) reduction_check(const ReductionParams p) {
    __shared__ u64 scratch[8];
    switch (p.type) {
        case F16: check<F16>(p, scratch); break;
        case BF16: check<BF16>(p, scratch); break;
        default: check<F32>(p, scratch); break;
    }
}

extern "C" __global__ void __launch_bounds__(256) reduction_error(const ReductionParams p) {
    switch (p.type) {
        case F16: error<F16>(p); break;
        case BF16: error<BF16>(p); break;
        default: error<F32>(p); break;
    }
}

// Words in which two buffers differ, and the first of them.
extern "C" __global__ void __launch_bounds__(256) reduction_compare(const ReductionParams p) {
    __shared__ u64 scratch[8];
    const uint4* data = (const uint4*)p.data;
    const uint4* other = (const uint4*)p.other;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 differing = 0;
    u64 first = ~0ull;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.vectors; v += stride) {
        uint4 a = data[v], b = other[v];
        u32 bad = (a.x != b.x) | (a.y != b.y) << 1 | (a.z != b.z) << 2 | (a.w != b.w) << 3;
        if (bad != 0) {
            differing += __popc(bad);
            u64 word = v * 4 + (u64)(__ffs((int)bad) - 1);
            first = word < first ? word : first;
        }
    }
    u64* result = (u64*)p.result;
    if (first != ~0ull) atomicMin(result + 1, first);
    u64 total = block_sum(differing, scratch);
    if (threadIdx.x == 0 && total != 0) atomicAdd(result, total);
}
