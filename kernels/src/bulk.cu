#line 2 "bulk.cu"
// HBM streaming by the bulk copy engine of sm_90 and later: cp.async.bulk between global memory
// and a ring of stages in shared memory, an mbarrier a stage. One chunk is one stage.
//
// The barriers are those of barrier.cuh.

struct BulkParams {
    u64 a;           // output bytes; for a read one u64 partial sum a block
    u64 b;           // first input
    u64 c;           // second input, of the triad
    u64 bytes;       // of one pass and one array, a multiple of 16
    u64 chunks;      // chunks of one pass
    u64 run;         // 0: chunks interleave over blocks; else each block has that many in a row
    u64 seed;        // of generated output
    u32 passes;      // more than one only where a small window is planted
    u32 stage_bytes; // of one chunk, a multiple of 128
    u32 stages;      // 2 to 8
    u32 evict;       // 1: evict-first L2 policy for every transfer
    u32 constant;    // write: 1 writes `value`, 0 the generator's words
    u32 value;
    float scalar;    // of the triad
    u32 reserved;
};
static_assert(sizeof(BulkParams) == 88, "the Rust side asserts the same size");

constexpr u32 MAX_STAGES = 8;
constexpr u32 CONSUMERS = 256;
constexpr u32 THREADS = CONSUMERS + 32;

extern __shared__ __align__(128) u8 ring[];

__device__ __forceinline__ u64 evict_first() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ void bulk_load(u32 stage, u64 source, u32 bytes, u64* barrier,
                                          bool evict, u64 policy) {
    if (evict) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
            " [%0], [%1], %2, [%3], %4;"
            : : "r"(stage), "l"(source), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
            : "memory");
    } else {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
            " [%0], [%1], %2, [%3];"
            : : "r"(stage), "l"(source), "r"(bytes), "r"(shared_address(barrier)) : "memory");
    }
}

// Starts the store of a stage as a bulk group of its own.
__device__ __forceinline__ void bulk_store(u64 target, u32 stage, u32 bytes, bool evict,
                                           u64 policy) {
    if (evict) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;"
                     : : "l"(target), "r"(stage), "r"(bytes), "l"(policy) : "memory");
    } else {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
                     : : "l"(target), "r"(stage), "r"(bytes) : "memory");
    }
    asm volatile("cp.async.bulk.commit_group;" : : : "memory");
}

// Waits until all but the latest PENDING stores have read their stage.
template <int PENDING>
__device__ __forceinline__ void bulk_stores_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" : : "n"(PENDING) : "memory");
}

// Waits until every store is complete.
__device__ __forceinline__ void bulk_stores_done() {
    asm volatile("cp.async.bulk.wait_group 0;" : : : "memory");
}

__device__ __forceinline__ void written_for_bulk() {
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
}

__device__ __forceinline__ void consumers_sync() {
    asm volatile("bar.sync 1, %0;" : : "n"(CONSUMERS) : "memory");
}

// Chunk by number of this block: `count` of them, over all passes.
struct Chunks {
    u64 count, chunks, first, step, bytes;
    u32 stage_bytes;

    __device__ __forceinline__ explicit Chunks(const BulkParams& p)
        : chunks(p.chunks), bytes(p.bytes), stage_bytes(p.stage_bytes) {
        u64 total = p.chunks * p.passes;
        if (p.run == 0) {
            first = blockIdx.x;
            step = gridDim.x;
            count = first < total ? (total - first + step - 1) / step : 0;
        } else {
            first = p.run * blockIdx.x;
            step = 1;
            count = first < total ? (total - first < p.run ? total - first : p.run) : 0;
        }
    }

    __device__ __forceinline__ u64 offset(u64 number) const {
        u64 chunk = first + number * step;
        if (chunk >= chunks) chunk %= chunks;
        return chunk * stage_bytes;
    }

    __device__ __forceinline__ u32 size(u64 offset) const {
        u64 left = bytes - offset;
        return left < stage_bytes ? (u32)left : stage_bytes;
    }
};

// Stage and phase of consecutive chunks without a division.
struct Turn {
    u32 stage = 0, phase = 0;
    __device__ __forceinline__ void advance(u32 stages) {
        if (++stage == stages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// Copy: one thread does everything. A stage is filled again two chunks after its store began, so
// two stores and `stages - 2` loads are in flight.
extern "C" __global__ void __launch_bounds__(32, 1) bulk_copy(const BulkParams p) {
    __shared__ u64 full[MAX_STAGES];
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < p.stages; ++s) barrier_init(full + s, 1);
    }
    barriers_ready();
    if (threadIdx.x != 0) return;
    Chunks mine(p);
    bool evict = p.evict != 0;
    u64 policy = evict_first();
    u32 base = shared_address(ring);
    Turn load;
    u64 loaded = 0;
    auto load_next = [&]() {
        u64 offset = mine.offset(loaded);
        u32 bytes = mine.size(offset);
        barrier_expect(full + load.stage, bytes);
        bulk_load(base + load.stage * p.stage_bytes, p.b + offset, bytes, full + load.stage, evict,
                  policy);
        load.advance(p.stages);
        ++loaded;
    };
    while (loaded < mine.count && loaded < p.stages) load_next();
    Turn turn;
    for (u64 number = 0; number < mine.count; ++number) {
        u64 offset = mine.offset(number);
        barrier_wait(full + turn.stage, turn.phase);
        bulk_store(p.a + offset, base + turn.stage * p.stage_bytes, mine.size(offset), evict,
                   policy);
        turn.advance(p.stages);
        if (number >= 2 && loaded < mine.count) {
            // At most the last two stores still read, so the stage of chunk `number - 2` is free;
            // the next load goes there, because it is `stages` chunks further.
            bulk_stores_read<2>();
            load_next();
        }
    }
    bulk_stores_done();
}

// Fills the stages: warp 8 asks for chunks, warps 0 to 7 use them and give the stage back.
template <int INPUTS>
__device__ __forceinline__ void produce(const BulkParams& p, const Chunks& mine, u64* full,
                                        u64* empty) {
    bool evict = p.evict != 0;
    u64 policy = evict_first();
    u32 base = shared_address(ring);
    Turn turn;
    for (u64 number = 0; number < mine.count; ++number) {
        // The first round finds its stages empty: the phase before the first has passed.
        barrier_wait(empty + turn.stage, turn.phase ^ 1);
        u64 offset = mine.offset(number);
        u32 bytes = mine.size(offset);
        u32 stage = base + turn.stage * p.stage_bytes * INPUTS;
        barrier_expect(full + turn.stage, bytes * INPUTS);
        bulk_load(stage, p.b + offset, bytes, full + turn.stage, evict, policy);
        if constexpr (INPUTS == 2) {
            bulk_load(stage + p.stage_bytes, p.c + offset, bytes, full + turn.stage, evict, policy);
        }
        turn.advance(p.stages);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) bulk_read(const BulkParams p) {
    __shared__ u64 full[MAX_STAGES];
    __shared__ u64 empty[MAX_STAGES];
    __shared__ u64 scratch[THREADS / 32];
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < p.stages; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, CONSUMERS / 32);
        }
    }
    barriers_ready();
    Chunks mine(p);
    u64 sum = 0;
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) produce<1>(p, mine, full, empty);
        __syncwarp();
    } else {
        Turn turn;
        for (u64 number = 0; number < mine.count; ++number) {
            u32 vectors = mine.size(mine.offset(number)) / 16;
            const ulonglong2* stage = (const ulonglong2*)(ring + turn.stage * p.stage_bytes);
            barrier_wait(full + turn.stage, turn.phase);
#pragma unroll 4
            for (u32 v = threadIdx.x; v < vectors; v += CONSUMERS) {
                ulonglong2 pair = stage[v];
                sum += pair.x + pair.y;
            }
            __syncwarp();
            if ((threadIdx.x & 31) == 0) barrier_arrive(empty + turn.stage);
            turn.advance(p.stages);
        }
    }
    u64 total = block_sum(sum, scratch);
    if (threadIdx.x == 0) ((u64*)p.a)[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(CONSUMERS, 1) bulk_write(const BulkParams p) {
    Chunks mine(p);
    bool evict = p.evict != 0;
    u64 policy = evict_first();
    u32 base = shared_address(ring);
    uint4 constant = make_uint4(p.value, p.value, p.value, p.value);
    if (p.constant != 0) {
        for (u32 v = threadIdx.x; v < p.stages * p.stage_bytes / 16; v += CONSUMERS) {
            ((uint4*)ring)[v] = constant;
        }
        written_for_bulk();
        __syncthreads();
        // The stages all hold the same and are never written again.
        Turn turn;
        if (threadIdx.x == 0) {
            for (u64 number = 0; number < mine.count; ++number) {
                u64 offset = mine.offset(number);
                bulk_store(p.a + offset, base + turn.stage * p.stage_bytes, mine.size(offset),
                           evict, policy);
                bulk_stores_read<4>();
                turn.advance(p.stages);
            }
            bulk_stores_done();
        }
        return;
    }
    Turn turn;
    for (u64 number = 0; number < mine.count; ++number) {
        u64 offset = mine.offset(number);
        u32 bytes = mine.size(offset);
        // With two stages or more, the stage was last stored two chunks ago or earlier.
        if (threadIdx.x == 0) bulk_stores_read<1>();
        __syncthreads();
        uint4* stage = (uint4*)(ring + turn.stage * p.stage_bytes);
#pragma unroll 4
        for (u32 v = threadIdx.x; v < bytes / 16; v += CONSUMERS) {
            stage[v] = hash_vector(p.seed, offset / 16 + v);
        }
        written_for_bulk();
        __syncthreads();
        if (threadIdx.x == 0) {
            bulk_store(p.a + offset, base + turn.stage * p.stage_bytes, bytes, evict, policy);
        }
        turn.advance(p.stages);
    }
    if (threadIdx.x == 0) bulk_stores_done();
}

// Triad: b and c come in side by side, a = b + s c replaces b in shared memory and goes out.
extern "C" __global__ void __launch_bounds__(THREADS, 1) bulk_triad(const BulkParams p) {
    __shared__ u64 full[MAX_STAGES];
    __shared__ u64 empty[MAX_STAGES];
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < p.stages; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, 1);
        }
    }
    barriers_ready();
    Chunks mine(p);
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) produce<2>(p, mine, full, empty);
        return;
    }
    bool evict = p.evict != 0;
    u64 policy = evict_first();
    Turn turn;
    u32 previous = 0;
    for (u64 number = 0; number < mine.count; ++number) {
        u64 offset = mine.offset(number);
        u32 bytes = mine.size(offset);
        u8* stage = ring + turn.stage * p.stage_bytes * 2;
        float4* b = (float4*)stage;
        const float4* c = (const float4*)(stage + p.stage_bytes);
        barrier_wait(full + turn.stage, turn.phase);
#pragma unroll 4
        for (u32 v = threadIdx.x; v < bytes / 16; v += CONSUMERS) {
            float4 x = b[v];
            float4 y = c[v];
            b[v] = make_float4(fmaf(p.scalar, y.x, x.x), fmaf(p.scalar, y.y, x.y),
                               fmaf(p.scalar, y.z, x.z), fmaf(p.scalar, y.w, x.w));
        }
        written_for_bulk();
        consumers_sync();
        if (threadIdx.x == 0) {
            bulk_store(p.a + offset, shared_address(stage), bytes, evict, policy);
            // The store before this one has read its stage; this one may still be reading.
            bulk_stores_read<1>();
            if (number > 0) barrier_arrive(empty + previous);
        }
        previous = turn.stage;
        turn.advance(p.stages);
    }
    if (threadIdx.x == 0) bulk_stores_done();
}
