#line 2 "links.cu"
// Memory of another GPU as multiprocessors reach it: copies by 16-byte accesses with several loads
// in flight, a chase of dependent loads, and a wait that keeps a GPU late on purpose.

struct CopyParams {
    u64 target;   // 16-byte vectors, of this GPU or of another
    u64 source;   // likewise
    u64 vectors;
};
static_assert(sizeof(CopyParams) == 24, "the Rust side asserts the same size");

struct ChaseParams {
    u64 ring;     // node i begins at byte i * stride and holds the number of the next one (u32)
    u64 cycles;   // u32[hops]: what each hop took
    u64 summary;  // u64[3]: last node, cycles of the walk, nanoseconds of the walk
    u32 nodes;
    u32 stride;   // bytes
    u32 hops;
    u32 extra;    // further hops inside each, timed and not counted: planted
    u32 spin;     // cycles that each hop waits besides: planted
    u32 reserved;
};
static_assert(sizeof(ChaseParams) == 48, "the Rust side asserts the same size");

struct HoldParams {
    u64 result;       // u32, set to 1 at the end
    u64 nanoseconds;
};
static_assert(sizeof(HoldParams) == 16, "the Rust side asserts the same size");

constexpr int IN_FLIGHT = 8;

__device__ __forceinline__ uint4 load_vector(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

extern "C" __global__ void __launch_bounds__(512, 1) links_copy(const CopyParams p) {
    uint4* target = (uint4*)p.target;
    const uint4* source = (const uint4*)p.source;
    const u64 tile = (u64)IN_FLIGHT * blockDim.x;
    const u64 whole = p.vectors / tile;
#pragma unroll 1
    for (u64 t = blockIdx.x; t < whole; t += gridDim.x) {
        const u64 at = t * tile + threadIdx.x;
        uint4 v[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; ++k) v[k] = load_vector(source + at + (u64)k * blockDim.x);
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; ++k) target[at + (u64)k * blockDim.x] = v[k];
    }
    if (blockIdx.x == gridDim.x - 1) {
        for (u64 at = whole * tile + threadIdx.x; at < p.vectors; at += blockDim.x) {
            target[at] = load_vector(source + at);
        }
    }
}

// One thread walks the ring; a hop is over when its load has returned. The branch on the loaded
// node keeps the clock from being read before.
extern "C" __global__ void __launch_bounds__(32, 1) links_chase(const ChaseParams p) {
    if (threadIdx.x != 0 || blockIdx.x != 0) return;
    u32* cycles = (u32*)p.cycles;
    u64* summary = (u64*)p.summary;
    u32 node = 0;
    const u64 start_ns = global_timer();
    const u64 start = (u64)clock64();
    u64 before = start;
    for (u32 hop = 0; hop < p.hops; ++hop) {
        for (u32 step = 0; step <= p.extra; ++step) {
            asm volatile("ld.relaxed.sys.global.u32 %0, [%1];"
                         : "=r"(node) : "l"(p.ring + (u64)node * p.stride) : "memory");
            if (node >= p.nodes) break;
        }
        if (node >= p.nodes) break;
        if (p.spin != 0) {
            const u64 landed = (u64)clock64();
            while ((u64)clock64() - landed < p.spin) {
            }
        }
        const u64 now = (u64)clock64();
        cycles[hop] = (u32)(now - before);
        before = (u64)clock64();
    }
    const u64 end = (u64)clock64();
    summary[0] = node;
    summary[1] = end - start;
    summary[2] = global_timer() - start_ns;
}

// At most a second, whatever it is asked for.
extern "C" __global__ void __launch_bounds__(32, 1) links_hold(const HoldParams p) {
    if (threadIdx.x != 0 || blockIdx.x != 0) return;
    const u64 most = p.nanoseconds < 1000000000ull ? p.nanoseconds : 1000000000ull;
    const u64 start = global_timer();
    while (global_timer() - start < most) {
    }
    *(volatile u32*)p.result = 1;
}
