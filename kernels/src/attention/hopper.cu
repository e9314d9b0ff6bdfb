// Attention forward for sm_90a. One warpgroup asks the copy engine for tiles, two warpgroups of 64
// queries each multiply by wgmma: while the weights of a tile are on their way through the second
// product, the scores of the next are already weighed, and the two warpgroups take turns so that one
// multiplies while the other weighs. (The schedule is that of FlashAttention-3, arXiv 2407.08608.)
//
// Set from outside: HEAD_SIZE (64 or 128), TILE_KEYS (128 or 176), PTX_ELEMENT, PTX_PACKED, FAULT.

constexpr int TILE_QUERIES = 128;
constexpr u32 STAGES = 2;
constexpr int CHUNKS = HEAD_SIZE / 64;  // of 128 bytes a row, the widest swizzle
constexpr u32 CONSUMERS = 256;
constexpr u32 THREADS = CONSUMERS + 128;
constexpr u32 Q_BYTES = TILE_QUERIES * HEAD_SIZE * 2;
constexpr u32 KV_BYTES = TILE_KEYS * HEAD_SIZE * 2;
constexpr u32 FIRST_TURN = 2;  // named barriers 2 and 3: whose turn it is to multiply

struct Shared {
    u64 q_full, q_empty;
    u64 k_full[STAGES], k_empty[STAGES];
    u64 v_full[STAGES], v_empty[STAGES];
    u64 tile_full[2], tile_empty[2];
    u32 tile[2];
};

extern __shared__ __align__(1024) u8 arena[];

typedef Tiles<TILE_QUERIES, TILE_KEYS> Visits;

__device__ __forceinline__ u32 tiles_of(const AttentionParams& p) {
    return p.batches * p.heads * p.q_tiles;
}

// --- the producer: one thread

__device__ __forceinline__ void load(u32 target, const TensorMap* map, int rows, int first_row,
                                     int head, int batch, u64* barrier) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        tensor_load(target + chunk * rows * 128, map, 64 * chunk, first_row, head, batch, barrier);
    }
}

__device__ __forceinline__ void produce(const AttentionParams& p, Shared& shared) {
    u32* next = (u32*)p.scheduler;
    u32 q = shared_address(arena), k = q + Q_BYTES, v = k + STAGES * KV_BYTES;
    tensor_prefetch(&p.q_map);
    tensor_prefetch(&p.k_map);
    tensor_prefetch(&p.v_map);
    Turn<STAGES> k_turn, v_turn;
    Turn<2> tile_turn;
    u32 q_phase = 0;
    u32 tile = blockIdx.x;
    for (;;) {
        barrier_wait(shared.tile_empty + tile_turn.stage, tile_turn.phase ^ 1);
        shared.tile[tile_turn.stage] = tile;
        barrier_arrive(shared.tile_full + tile_turn.stage);
        tile_turn.advance();
        if (tile >= tiles_of(p)) break;
        Work work = work_of(p, tile);
        tile = gridDim.x + atomicAdd(next, 1);
        Visits visits(p, work);
        if (visits.count == 0) continue;
        barrier_wait(&shared.q_empty, q_phase ^ 1);
        q_phase ^= 1;
        barrier_expect(&shared.q_full, Q_BYTES);
        load(q, &p.q_map, TILE_QUERIES, work.q_start + work.q_tile * TILE_QUERIES, work.head,
             work.tensor_batch, &shared.q_full);
        // The values of a tile are needed one tile later than its keys.
        for (int i = 0; i <= visits.count; ++i) {
            if (i < visits.count) {
                barrier_wait(shared.k_empty + k_turn.stage, k_turn.phase ^ 1);
                barrier_expect(shared.k_full + k_turn.stage, KV_BYTES);
                load(k + k_turn.stage * KV_BYTES, &p.k_map, TILE_KEYS,
                     work.k_start + visits.at(i) * TILE_KEYS, work.kv_head, work.tensor_batch,
                     shared.k_full + k_turn.stage);
                k_turn.advance();
            }
            if (i > 0) {
                barrier_wait(shared.v_empty + v_turn.stage, v_turn.phase ^ 1);
                barrier_expect(shared.v_full + v_turn.stage, KV_BYTES);
                load(v + v_turn.stage * KV_BYTES, &p.v_map, TILE_KEYS,
                     work.k_start + visits.at(i - 1) * TILE_KEYS, work.kv_head, work.tensor_batch,
                     shared.v_full + v_turn.stage);
                v_turn.advance();
            }
        }
    }
    // Every block has taken its last tile before it counts itself out, so the last one may reset.
    __threadfence();
    if (atomicAdd(next + 1, 1) == gridDim.x - 1) {
        next[0] = 0;
        next[1] = 0;
    }
}

// --- the consumers

__device__ __forceinline__ void wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

// Waits until all but the latest PENDING groups are done.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(PENDING) : "memory");
}

// Keeps the compiler from moving uses of these registers across the statements around it.
template <int COUNT>
__device__ __forceinline__ void pin(float (&x)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(x[i]) : : "memory");
}

// A matrix descriptor of 128-byte swizzle: address, leading and stride offset in units of 16 bytes.
__device__ __forceinline__ u64 descriptor(u32 address, u32 leading_bytes, u32 stride_bytes) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)(leading_bytes >> 4) << 16 |
           (u64)(stride_bytes >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void turn_wait(u32 group) {
    asm volatile("bar.sync %0, %1;" : : "r"(FIRST_TURN + group), "n"(CONSUMERS) : "memory");
}

__device__ __forceinline__ void turn_pass(u32 group) {
    asm volatile("bar.arrive %0, %1;" : : "r"(FIRST_TURN + (group ^ 1)), "n"(CONSUMERS) : "memory");
}

constexpr int SCORES = TILE_KEYS / 2;
constexpr int OUTPUTS = HEAD_SIZE / 2;

// S = Q K^T, both with the head's elements contiguous.
__device__ __forceinline__ void multiply_scores(float (&s)[SCORES], u32 q, u32 k) {
    pin(s);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < HEAD_SIZE / 16; ++step) {
        u32 inside = (step % 4) * 32;
        u64 a = descriptor(q + (step / 4) * TILE_QUERIES * 128 + inside, 16, 1024);
        u64 b = descriptor(k + (step / 4) * TILE_KEYS * 128 + inside, 16, 1024);
        wgmma_shared(s, a, b, step > 0);
    }
    wgmma_commit();
}

// O += P V with P in registers and V's rows as they lie in memory.
__device__ __forceinline__ void multiply_values(float (&o)[OUTPUTS], const u32 (&weights)[SCORES / 2],
                                                u32 v, u32 accumulate) {
    pin(o);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < TILE_KEYS / 16; ++step) {
        u64 b = descriptor(v + step * 16 * 128, TILE_KEYS * 128, 1024);
        wgmma_registers(o, weights + 4 * step, b, step > 0 ? 1 : accumulate);
    }
    wgmma_commit();
}

__device__ __forceinline__ void pack_weights(u32 (&weights)[SCORES / 2], const float (&s)[SCORES]) {
#pragma unroll
    for (int i = 0; i < SCORES / 2; ++i) weights[i] = pack(s[2 * i], s[2 * i + 1]);
}

__device__ __forceinline__ void rescale(float (&o)[OUTPUTS], const float (&keep)[2]) {
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) o[i] *= keep[(i >> 1) & 1];
}

// One consumer's state within a tile of queries.
struct Consumer {
    const AttentionParams& p;
    Shared& shared;
    u32 group, lane_of_group;
    u32 q, k, v;
    Turn<STAGES> k_turn, v_turn;

    __device__ __forceinline__ Consumer(const AttentionParams& params, Shared& barriers)
        : p(params), shared(barriers) {
        group = threadIdx.x / 128 - 1;
        lane_of_group = threadIdx.x % 128;
        q = shared_address(arena) + group * 64 * 128;
        k = shared_address(arena) + Q_BYTES;
        v = k + STAGES * KV_BYTES;
    }

    __device__ __forceinline__ void free(u64* barrier) {
        if ((threadIdx.x & 31) == 0) barrier_arrive(barrier);
    }

    // Behind the last key of a ragged sequence the next sequence begins. Its values have weight 0, but
    // 0 times what is not finite is no 0, so they are cleared. Both groups write the same.
    __device__ __forceinline__ void clear_tail(const Work& work, int tile) {
        int rows = work.keys - tile * TILE_KEYS;
        if (p.q_offsets == 0 || rows >= TILE_KEYS) return;
        barrier_wait(shared.v_full + v_turn.stage, v_turn.phase);
        u32 stage = v + v_turn.stage * KV_BYTES;
        for (int i = lane_of_group; i < (TILE_KEYS - rows) * 8 * CHUNKS; i += 128) {
            int chunk = i / ((TILE_KEYS - rows) * 8);
            u32 at = stage + chunk * TILE_KEYS * 128 + rows * 128 + (i % ((TILE_KEYS - rows) * 8)) * 16;
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" : : "r"(at), "r"(0) : "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
        asm volatile("bar.sync %0, 128;" : : "r"(FIRST_TURN + 2 + group) : "memory");
    }

    template <bool MASKED>
    __device__ __forceinline__ void weigh(float (&s)[SCORES], Running& running, float (&keep)[2],
                                          const Work& work, int row, int tile) {
        int first_key = tile * TILE_KEYS + 2 * (threadIdx.x & 3);
        Scores<SCORES>::score_all(s, p, work, row, first_key);
        if (MASKED) Scores<SCORES>::mask_all(s, p, work, row, first_key);
        running.weigh(s, exponent_scale(p), keep);
    }

    // The scores of tile `i` while the values of the tile before are multiplied.
    template <bool MASKED>
    __device__ __forceinline__ void step(float (&s)[SCORES], float (&o)[OUTPUTS],
                                         u32 (&weights)[SCORES / 2], Running& running,
                                         const Work& work, int row, int before, int tile,
                                         bool first) {
        clear_tail(work, before);
        barrier_wait(shared.k_full + k_turn.stage, k_turn.phase);
        turn_wait(group);
        multiply_scores(s, q, k + k_turn.stage * KV_BYTES);
        barrier_wait(shared.v_full + v_turn.stage, v_turn.phase);
        multiply_values(o, weights, v + v_turn.stage * KV_BYTES, !first);
        turn_pass(group);
        wgmma_wait<1>();
        pin(s);
        free(shared.k_empty + k_turn.stage);
        k_turn.advance();
        float keep[2];
        weigh<MASKED>(s, running, keep, work, row, tile);
        wgmma_wait<0>();
        pin(o);
        pin(s);
        free(shared.v_empty + v_turn.stage);
        v_turn.advance();
#if FAULT == 1
        // Planted: what was summed before is not rescaled at the second tile.
        if (first) keep[0] = keep[1] = 1.0f;
#endif
        rescale(o, keep);
        pack_weights(weights, s);
    }

    __device__ __forceinline__ void tile(const Work& work, const Visits& visits, u32 q_phase) {
        int row = work.q_tile * TILE_QUERIES + group * 64 + lane_of_group / 32 * 16 +
                  (threadIdx.x & 31) / 4;
        float o[OUTPUTS], s[SCORES], keep[2];
        u32 weights[SCORES / 2];
        Running running;
        if (visits.count == 0) {
#pragma unroll
            for (int i = 0; i < OUTPUTS; ++i) o[i] = 0.0f;
            store<HEAD_SIZE>(p, work, o, running, row);
            return;
        }
        barrier_wait(&shared.q_full, q_phase);
        barrier_wait(shared.k_full + k_turn.stage, k_turn.phase);
        multiply_scores(s, q, k + k_turn.stage * KV_BYTES);
        wgmma_wait<0>();
        pin(s);
        free(shared.k_empty + k_turn.stage);
        k_turn.advance();
        if (visits.masked(0)) weigh<true>(s, running, keep, work, row, visits.at(0));
        else weigh<false>(s, running, keep, work, row, visits.at(0));
        pack_weights(weights, s);
        int before = visits.at(0);
        for (int i = 1; i < visits.count; ++i) {
            int next = visits.at(i);
            if (visits.masked(i)) step<true>(s, o, weights, running, work, row, before, next, i == 1);
            else step<false>(s, o, weights, running, work, row, before, next, i == 1);
            before = next;
        }
        free(&shared.q_empty);
        clear_tail(work, before);
        barrier_wait(shared.v_full + v_turn.stage, v_turn.phase);
        multiply_values(o, weights, v + v_turn.stage * KV_BYTES, visits.count > 1);
        wgmma_wait<0>();
        pin(o);
        free(shared.v_empty + v_turn.stage);
        v_turn.advance();
        store<HEAD_SIZE>(p, work, o, running, row);
    }
};

__device__ __forceinline__ void consume(const AttentionParams& p, Shared& shared) {
    Consumer consumer(p, shared);
    Turn<2> tile_turn;
    u32 q_phase = 0;
    // The first group's first turn.
    if (consumer.group == 1) turn_pass(1);
    for (;;) {
        barrier_wait(shared.tile_full + tile_turn.stage, tile_turn.phase);
        u32 tile = shared.tile[tile_turn.stage];
        __syncwarp();
        if ((threadIdx.x & 31) == 0) barrier_arrive(shared.tile_empty + tile_turn.stage);
        tile_turn.advance();
        if (tile >= tiles_of(p)) break;
        Work work = work_of(p, tile);
        Visits visits(p, work);
        consumer.tile(work, visits, q_phase);
        if (visits.count > 0) q_phase ^= 1;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_hopper(const __grid_constant__ AttentionParams p) {
    __shared__ Shared shared;
    if (threadIdx.x == 0) {
        barrier_init(&shared.q_full, 1);
        barrier_init(&shared.q_empty, CONSUMERS / 32);
        for (u32 s = 0; s < STAGES; ++s) {
            barrier_init(shared.k_full + s, 1);
            barrier_init(shared.k_empty + s, CONSUMERS / 32);
            barrier_init(shared.v_full + s, 1);
            barrier_init(shared.v_empty + s, CONSUMERS / 32);
        }
        for (u32 s = 0; s < 2; ++s) {
            barrier_init(shared.tile_full + s, 1);
            barrier_init(shared.tile_empty + s, CONSUMERS / 32);
        }
    }
    barriers_ready();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) produce(p, shared);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume(p, shared);
    }
}
