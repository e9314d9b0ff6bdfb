#line 2 "stream.cu"
// HBM streaming by 16-byte vector accesses. A block moves tiles of U independent vectors a thread,
// so the bytes in flight of an SM are 16 U times its threads.

struct StreamParams {
    u64 a;        // output vectors; for a read one u64 partial sum a block
    u64 b;        // first input
    u64 c;        // second input, of the triad
    u64 vectors;  // 16-byte vectors of one pass
    u64 seed;     // of generated output
    u32 passes;   // more than one only where a small window is planted
    u32 run;      // 0: tiles interleave over blocks; else each block has that many in a row
    u32 hint;     // cache hints, see load() and store()
    u32 constant; // write: 1 writes `value`, 0 the generator's words
    u32 value;
    float scalar; // of the triad
};
static_assert(sizeof(StreamParams) == 64, "the Rust side asserts the same size");

enum Hint { PLAIN = 0, STREAMING = 1, EVICT_FIRST = 2, EVICT_FIRST_LOADS = 3 };

__device__ __forceinline__ u64 evict_first() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

template <int H>
__device__ __forceinline__ ulonglong2 load(const ulonglong2* p, u64 policy) {
    ulonglong2 v;
    if constexpr (H == PLAIN) {
        asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(p));
    } else if constexpr (H == EVICT_FIRST || H == EVICT_FIRST_LOADS) {
        asm volatile(
            "ld.global.nc.L1::no_allocate.L2::cache_hint.v2.u64 {%0, %1}, [%2], %3;"
            : "=l"(v.x), "=l"(v.y) : "l"(p), "l"(policy));
    } else {
        asm volatile("ld.global.nc.L1::no_allocate.v2.u64 {%0, %1}, [%2];"
                     : "=l"(v.x), "=l"(v.y) : "l"(p));
    }
    return v;
}

template <int H>
__device__ __forceinline__ void store(ulonglong2* p, ulonglong2 v, u64 policy) {
    if constexpr (H == STREAMING) {
        asm volatile("st.global.cs.v2.u64 [%0], {%1, %2};" : : "l"(p), "l"(v.x), "l"(v.y) : "memory");
    } else if constexpr (H == EVICT_FIRST) {
        asm volatile("st.global.L2::cache_hint.v2.u64 [%0], {%1, %2}, %3;"
                     : : "l"(p), "l"(v.x), "l"(v.y), "l"(policy) : "memory");
    } else {
        asm volatile("st.global.v2.u64 [%0], {%1, %2};" : : "l"(p), "l"(v.x), "l"(v.y) : "memory");
    }
}

// The tiles of this block: first, end and step in the chosen order.
struct Share {
    u64 first, end, step;
};

template <int U>
__device__ __forceinline__ u32 tile_vectors() {
    return U * blockDim.x;
}

template <int U>
__device__ __forceinline__ Share share(const StreamParams& p) {
    u64 tiles = p.vectors / tile_vectors<U>();
    if (p.run == 0) return Share{blockIdx.x, tiles, gridDim.x};
    u64 first = (u64)p.run * blockIdx.x;
    u64 end = first + p.run < tiles ? first + p.run : tiles;
    return Share{first, end, 1};
}

// Calls `whole(base)` for every tile of the block and `one(vector)` for the vectors after the last
// whole tile, which the last block takes.
template <int U, typename Whole, typename One>
__device__ __forceinline__ void for_tiles(const StreamParams& p, Share mine, Whole whole, One one) {
    for (u32 pass = 0; pass < p.passes; ++pass) {
#pragma unroll 1
        for (u64 tile = mine.first; tile < mine.end; tile += mine.step) {
            whole(tile * tile_vectors<U>() + threadIdx.x);
        }
        if (blockIdx.x == gridDim.x - 1) {
            u64 v = p.vectors / tile_vectors<U>() * tile_vectors<U>() + threadIdx.x;
            for (; v < p.vectors; v += blockDim.x) one(v);
        }
    }
}

__device__ __forceinline__ ulonglong2 pair(uint4 v) {
    return make_ulonglong2(low_high(v.x, v.y), low_high(v.z, v.w));
}

__device__ __forceinline__ u64 triad_pair(u64 b, u64 c, float s) {
    float low = fmaf(s, __uint_as_float((u32)c), __uint_as_float((u32)b));
    float high = fmaf(s, __uint_as_float((u32)(c >> 32)), __uint_as_float((u32)(b >> 32)));
    return low_high(__float_as_uint(low), __float_as_uint(high));
}

__device__ __forceinline__ ulonglong2 triad(ulonglong2 b, ulonglong2 c, float s) {
    return make_ulonglong2(triad_pair(b.x, c.x, s), triad_pair(b.y, c.y, s));
}

// A rolling pipeline: vector k of the next tile is asked for as soon as vector k of this tile has
// been added, so U loads stay in flight. (Batches of loads and additions do not: the assembler
// adds the first loads up before it issues the last ones.)
template <int U, int H>
__device__ __forceinline__ u64 read_sum(const StreamParams& p, Share mine, u64 policy) {
    const u32 threads = blockDim.x;
    const ulonglong2* b = (const ulonglong2*)p.b + threadIdx.x;
    u64 even = 0, odd = 0;
    for (u32 pass = 0; pass < p.passes; ++pass) {
        u64 tile = mine.first;
        if (tile < mine.end) {
            ulonglong2 v[U];
#pragma unroll
            for (int k = 0; k < U; ++k) v[k] = load<H>(b + tile * tile_vectors<U>() + k * threads, policy);
#pragma unroll 1
            for (tile += mine.step; tile < mine.end; tile += mine.step) {
                const ulonglong2* next = b + tile * tile_vectors<U>();
#pragma unroll
                for (int k = 0; k < U; ++k) {
                    even += v[k].x;
                    odd += v[k].y;
                    v[k] = load<H>(next + k * threads, policy);
                }
            }
#pragma unroll
            for (int k = 0; k < U; ++k) {
                even += v[k].x;
                odd += v[k].y;
            }
        }
        if (blockIdx.x == gridDim.x - 1) {
            u64 at = p.vectors / tile_vectors<U>() * tile_vectors<U>();
            for (; at + threadIdx.x < p.vectors; at += blockDim.x) {
                ulonglong2 v = load<H>(b + at, policy);
                even += v.x;
                odd += v.y;
            }
        }
    }
    return even + odd;
}

template <int U, int H>
__device__ __forceinline__ void write_words(const StreamParams& p, Share mine, u64 policy) {
    const u32 threads = blockDim.x;
    ulonglong2* a = (ulonglong2*)p.a;
    if (p.constant != 0) {
        ulonglong2 v = pair(make_uint4(p.value, p.value, p.value, p.value));
        for_tiles<U>(p, mine,
            [&](u64 base) {
#pragma unroll
                for (int k = 0; k < U; ++k) store<H>(a + base + k * threads, v, policy);
            },
            [&](u64 one) { store<H>(a + one, v, policy); });
        return;
    }
    for_tiles<U>(p, mine,
        [&](u64 base) {
#pragma unroll
            for (int k = 0; k < U; ++k) {
                u64 at = base + k * threads;
                store<H>(a + at, pair(hash_vector(p.seed, at)), policy);
            }
        },
        [&](u64 one) { store<H>(a + one, pair(hash_vector(p.seed, one)), policy); });
}

template <int U, int H>
__device__ __forceinline__ void copy_vectors(const StreamParams& p, Share mine, u64 policy) {
    const u32 threads = blockDim.x;
    ulonglong2* a = (ulonglong2*)p.a;
    const ulonglong2* b = (const ulonglong2*)p.b;
    for_tiles<U>(p, mine,
        [&](u64 base) {
            ulonglong2 v[U];
#pragma unroll
            for (int k = 0; k < U; ++k) v[k] = load<H>(b + base + k * threads, policy);
#pragma unroll
            for (int k = 0; k < U; ++k) store<H>(a + base + k * threads, v[k], policy);
        },
        [&](u64 one) { store<H>(a + one, load<H>(b + one, policy), policy); });
}

template <int U, int H>
__device__ __forceinline__ void triad_vectors(const StreamParams& p, Share mine, u64 policy) {
    const u32 threads = blockDim.x;
    ulonglong2* a = (ulonglong2*)p.a;
    const ulonglong2* b = (const ulonglong2*)p.b;
    const ulonglong2* c = (const ulonglong2*)p.c;
    for_tiles<U>(p, mine,
        [&](u64 base) {
            ulonglong2 v[U], w[U];
#pragma unroll
            for (int k = 0; k < U; ++k) v[k] = load<H>(b + base + k * threads, policy);
#pragma unroll
            for (int k = 0; k < U; ++k) w[k] = load<H>(c + base + k * threads, policy);
#pragma unroll
            for (int k = 0; k < U; ++k) {
                store<H>(a + base + k * threads, triad(v[k], w[k], p.scalar), policy);
            }
        },
        [&](u64 one) {
            ulonglong2 v = load<H>(b + one, policy);
            store<H>(a + one, triad(v, load<H>(c + one, policy), p.scalar), policy);
        });
}

// One loop body for each hint; the choice is made once a block.
#define BY_HINT(U, CALL)                                                               \
    Share mine = share<U>(p);                                                          \
    switch (p.hint) {                                                                  \
        case STREAMING: CALL(U, STREAMING, 0); break;                                  \
        case EVICT_FIRST: CALL(U, EVICT_FIRST, evict_first()); break;                  \
        case EVICT_FIRST_LOADS: CALL(U, EVICT_FIRST_LOADS, evict_first()); break;      \
        default: CALL(U, PLAIN, 0); break;                                             \
    }

#define READ(U, H, POLICY) sum = read_sum<U, H>(p, mine, POLICY)
#define WRITE(U, H, POLICY) write_words<U, H>(p, mine, POLICY)
#define COPY(U, H, POLICY) copy_vectors<U, H>(p, mine, POLICY)
#define TRIAD(U, H, POLICY) triad_vectors<U, H>(p, mine, POLICY)

// Blocks of at most MOST threads, so that the accesses in flight have their registers.
#define ENTRIES(U, MOST)                                                               \
    extern "C" __global__ void __launch_bounds__(MOST, 1)                              \
    stream_read_u##U(const StreamParams p) {                                           \
        __shared__ u64 scratch[MOST / 32];                                             \
        u64 sum = 0;                                                                   \
        BY_HINT(U, READ)                                                               \
        u64 total = block_sum(sum, scratch);                                           \
        if (threadIdx.x == 0) ((u64*)p.a)[blockIdx.x] = total;                         \
    }                                                                                  \
    extern "C" __global__ void __launch_bounds__(MOST, 1)                              \
    stream_write_u##U(const StreamParams p) { BY_HINT(U, WRITE) }                      \
    extern "C" __global__ void __launch_bounds__(MOST, 1)                              \
    stream_copy_u##U(const StreamParams p) { BY_HINT(U, COPY) }                        \
    extern "C" __global__ void __launch_bounds__(MOST, 1)                              \
    stream_triad_u##U(const StreamParams p) { BY_HINT(U, TRIAD) }

ENTRIES(1, 1024)
ENTRIES(2, 1024)
ENTRIES(4, 1024)
ENTRIES(8, 512)
