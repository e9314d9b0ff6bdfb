// The generator of every pattern in this crate: a counter-based hash, so that any word can be
// written, checked or summed by any thread without state. Rust twin: generator.rs.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// 32 mixed bits of (seed, counter): the low-bias finaliser of C. Wellons' hash-prospector with the
// high half of the seed folded in between its two multiplications.
__device__ __forceinline__ u32 mix(u64 seed, u64 counter) {
    u32 x = (u32)counter + (u32)seed + (u32)(counter >> 32) * 0x632BE5ABu;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= (u32)(seed >> 32);
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return x;
}

// As `mix`, for operands of products: splitmix64 (Steele, Lea and Flood, 2014). Under `mix` rows whose
// counters are each other's complement are correlated, which a dot product of two rows can see.
__device__ __forceinline__ u32 draw(u64 seed, u64 counter) {
    u64 x = counter * 0x9E3779B97F4A7C15ull + seed;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return (u32)(x >> 32) ^ (u32)(x >> 63);
}

// Four 32-bit words of one 16-byte vector from one hash: three operations a word, so that a
// write of generated data is not bound by arithmetic.
__device__ __forceinline__ uint4 hash_vector(u64 seed, u64 vector) {
    u32 h = mix(seed, vector);
    return make_uint4(h, h * 0x9E3779B1u + 0x7F4A7C15u, h * 0x85EBCA77u + 0x165667B1u,
                      h * 0xC2B2AE3Du + 0x27D4EB2Fu);
}

__device__ __forceinline__ u64 global_timer() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

__device__ __forceinline__ u64 low_high(u32 low, u32 high) { return (u64)low | ((u64)high << 32); }

// The sum over the block, valid in thread 0. `scratch` holds one word a warp.
__device__ __forceinline__ u64 block_sum(u64 value, u64* scratch) {
    for (u32 offset = 16; offset > 0; offset >>= 1) {
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    }
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    u64 total = 0;
    if (threadIdx.x == 0) {
        for (u32 warp = 0; warp < (blockDim.x + 31) / 32; ++warp) total += scratch[warp];
    }
    __syncthreads();
    return total;
}
