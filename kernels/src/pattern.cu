#line 2 "pattern.cu"
// Patterns over whole regions: fill, check with full coverage, sum of what should be there, and
// one flipped word. All memory accesses are 16 bytes wide.

struct PatternParams {
    u64 data;          // region of 16-byte vectors; for pattern_flip the address of one word
    u64 result;        // u64[2]: wrong words and first wrong word; or the sum
    u64 vectors;       // 16-byte vectors of the region
    u64 first_vector;  // counter of the region's first vector
    u64 seed;
    u64 second_seed;   // of c in the triad
    u32 kind;
    u32 value;         // the constant, the walking phase, or the mask of pattern_flip
};
static_assert(sizeof(PatternParams) == 56, "the Rust side asserts the same size");

enum Content { HASH = 0, CONSTANT = 1, SMALL_FLOAT = 2, TRIAD = 3, WALKING_ONE = 4,
               WALKING_ZERO = 5, ADDRESS = 6 };

__device__ __forceinline__ u32 small_float(u32 word) {
    return __float_as_uint((float)(word >> 24));
}

__device__ __forceinline__ u32 triad_float(u32 b, u32 c) {
    return __float_as_uint((float)((b >> 24) + 3 * (c >> 24)));
}

__device__ __forceinline__ u32 walking(u64 word, u32 phase) {
    return 1u << (((u32)word + phase) & 31);
}

__device__ __forceinline__ u32 address(u64 word, u32 value) {
    return (u32)word ^ ((u32)(word >> 32) * 0x9E3779B1u) ^ value;
}

__device__ __forceinline__ uint4 content(const PatternParams& p, u64 vector) {
    u64 word = vector * 4;
    switch (p.kind) {
        case HASH: return hash_vector(p.seed, vector);
        case CONSTANT: return make_uint4(p.value, p.value, p.value, p.value);
        case SMALL_FLOAT: {
            uint4 h = hash_vector(p.seed, vector);
            return make_uint4(small_float(h.x), small_float(h.y), small_float(h.z),
                              small_float(h.w));
        }
        case TRIAD: {
            uint4 b = hash_vector(p.seed, vector);
            uint4 c = hash_vector(p.second_seed, vector);
            return make_uint4(triad_float(b.x, c.x), triad_float(b.y, c.y), triad_float(b.z, c.z),
                              triad_float(b.w, c.w));
        }
        case WALKING_ONE:
            return make_uint4(walking(word, p.value), walking(word + 1, p.value),
                              walking(word + 2, p.value), walking(word + 3, p.value));
        case WALKING_ZERO:
            return make_uint4(~walking(word, p.value), ~walking(word + 1, p.value),
                              ~walking(word + 2, p.value), ~walking(word + 3, p.value));
        default:
            return make_uint4(address(word, p.value), address(word + 1, p.value),
                              address(word + 2, p.value), address(word + 3, p.value));
    }
}

extern "C" __global__ void __launch_bounds__(256) pattern_fill(const PatternParams p) {
    uint4* data = (uint4*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.vectors; v += stride) {
        data[v] = content(p, p.first_vector + v);
    }
}

extern "C" __global__ void __launch_bounds__(256) pattern_check(const PatternParams p) {
    __shared__ u64 scratch[8];
    const uint4* data = (const uint4*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 wrong = 0;
    u64 first = ~0ull;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.vectors; v += stride) {
        uint4 found = data[v];
        uint4 wanted = content(p, p.first_vector + v);
        u32 bad = (found.x != wanted.x) | (found.y != wanted.y) << 1 |
                  (found.z != wanted.z) << 2 | (found.w != wanted.w) << 3;
        if (bad != 0) {
            wrong += __popc(bad);
            u64 word = v * 4 + (u64)(__ffs((int)bad) - 1);
            first = word < first ? word : first;
        }
    }
    u64* result = (u64*)p.result;
    if (first != ~0ull) atomicMin(result + 1, first);
    u64 total = block_sum(wrong, scratch);
    if (threadIdx.x == 0 && total != 0) atomicAdd(result, total);
}

// Wrapping sum of the 64-bit words that the region should hold; memory is not read.
extern "C" __global__ void __launch_bounds__(256) pattern_sum(const PatternParams p) {
    __shared__ u64 scratch[8];
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 sum = 0;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.vectors; v += stride) {
        uint4 wanted = content(p, p.first_vector + v);
        sum += low_high(wanted.x, wanted.y) + low_high(wanted.z, wanted.w);
    }
    u64 total = block_sum(sum, scratch);
    if (threadIdx.x == 0) atomicAdd((u64*)p.result, total);
}

extern "C" __global__ void __launch_bounds__(32) pattern_flip(const PatternParams p) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *(volatile u32*)p.data ^= p.value;
}
