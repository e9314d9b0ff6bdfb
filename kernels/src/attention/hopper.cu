// Attention forward for sm_90a. One warpgroup asks the copy engine for tiles; three warpgroups of 64
// queries each multiply by wgmma, weigh, and multiply again, each tile to its end: what hides the weighing
// of one are the products of the others. (FlashAttention-3, arXiv 2407.08608, has two warpgroups, of which
// each also weighs a tile under the product of the last. On H200 three that do not are as fast or faster,
// and have registers to spare.)
//
// Operands are 16-bit or E4M3. The tensor cores add E4M3 products with 14 bits or so, so the product of
// each tile begins at zero and is added to the others' sum in full f32. An E4M3 value tensor comes
// transposed, [head][element][key], and with the keys of each 16 in the order 0 1 8 9 2 3 10 11 4 5 12 13
// 6 7 14 15: so a thread's scores, packed as they lie, are its fragment of the second product.
//
// Set from outside: HEAD_SIZE (64 or 128), TILE_KEYS (a multiple of 16), OPERANDS_E4M3 (0 or 1), PTX_ELEMENT,
// PTX_PACKED, FAULT (1: what was summed is not rescaled once; 2: E4M3 products are summed by the tensor
// cores alone).

constexpr u32 GROUPS = 3;  // of consumers, 64 queries each
constexpr int TILE_QUERIES = 64 * GROUPS;
#define PROMOTED (OPERANDS_E4M3 && FAULT != 2)
constexpr int ELEMENT_BYTES = OPERANDS_E4M3 ? 1 : 2;
constexpr int ROW_BYTES = HEAD_SIZE * ELEMENT_BYTES;
constexpr u32 STAGES = ROW_BYTES == 128 ? 4 : 3;
constexpr int CHUNKS = ROW_BYTES / 128;  // of 128 bytes a row, the widest swizzle
constexpr int CHUNK_ELEMENTS = 128 / ELEMENT_BYTES;
constexpr u32 CONSUMERS = 128 * GROUPS;
constexpr u32 THREADS = CONSUMERS + 128;
constexpr u32 Q_BYTES = TILE_QUERIES * ROW_BYTES;
constexpr u32 KV_BYTES = TILE_KEYS * ROW_BYTES;
static_assert(!OPERANDS_E4M3 || (HEAD_SIZE == 128 && TILE_KEYS == 128), "one chunk of each");

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
        tensor_load(target + chunk * rows * 128, map, CHUNK_ELEMENTS * chunk, first_row, head, batch,
                    barrier);
    }
}

// Whether the values of a tile run into the next sequence, whose values would have weight 0; but 0 times
// what is not finite is no 0. The second warp brings such a tile, with zeros behind its last row.
__device__ __forceinline__ bool runs_over(const AttentionParams& p, const Work& work, int first_row) {
    return !OPERANDS_E4M3 && p.q_offsets != 0 && first_row + TILE_KEYS > work.keys;
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
        Visits visits(p, work, 0);
        if (visits.count == 0) continue;
        // A tile's values are freed later than its keys, so the keys of the next are asked for first.
        for (int i = 0; i <= visits.count; ++i) {
            if (i < visits.count) {
                int first_key = work.k_start + visits.at(visits.entry(i)) * TILE_KEYS;
                barrier_wait(shared.k_empty + k_turn.stage, k_turn.phase ^ 1);
                barrier_expect(shared.k_full + k_turn.stage, KV_BYTES);
                load(k + k_turn.stage * KV_BYTES, &p.k_map, TILE_KEYS, first_key, work.kv_head,
                     work.tensor_batch, shared.k_full + k_turn.stage);
                k_turn.advance();
            }
            if (i == 0) {
                barrier_wait(&shared.q_empty, q_phase ^ 1);
                q_phase ^= 1;
                barrier_expect(&shared.q_full, Q_BYTES);
                load(q, &p.q_map, TILE_QUERIES, work.q_start + work.q_tile * TILE_QUERIES,
                     work.head, work.tensor_batch, &shared.q_full);
            }
            if (i > 0) {
                int first_row = visits.at(visits.entry(i - 1)) * TILE_KEYS;
                u32 target = v + v_turn.stage * KV_BYTES;
                u64* full = shared.v_full + v_turn.stage;
                if (!runs_over(p, work, first_row)) {
                    barrier_wait(shared.v_empty + v_turn.stage, v_turn.phase ^ 1);
                    barrier_expect(full, KV_BYTES);
#if OPERANDS_E4M3
                    tensor_load(target, &p.v_map, first_row, 0, work.kv_head, work.tensor_batch,
                                full);
#else
                    load(target, &p.v_map, TILE_KEYS, work.k_start + first_row, work.kv_head,
                         work.tensor_batch, full);
#endif
                }
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

// --- the second warp, where sequences are ragged

// The last values of a sequence and zeros behind them, as the copy engine would lay them out.
__device__ __forceinline__ void load_tail(const AttentionParams& p, const Work& work, u32 target,
                                          int first_row) {
    int rows = work.keys - first_row;
    u64 source = p.v + 2 * ((i64)(work.k_start + first_row) * p.v_row + work.kv_head * p.v_head);
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < TILE_KEYS * 8 * CHUNKS; i += 32) {
        int row = i / (8 * CHUNKS), piece = i % (8 * CHUNKS);
        uint4 x = make_uint4(0, 0, 0, 0);
        if (row < rows) x = *(const uint4*)(source + 2 * (i64)row * p.v_row + 16 * piece);
        // The swizzle of 128 bytes: the pieces of a row change places by its number among eight.
        u32 at = target + piece / 8 * TILE_KEYS * 128 + row * 128 + ((piece ^ row) & 7) * 16;
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                     : : "r"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
    __syncwarp();
}

// The number of the next tile of queries, for all threads of a warp.
__device__ __forceinline__ u32 next_tile(Shared& shared, Turn<2>& turn) {
    barrier_wait(shared.tile_full + turn.stage, turn.phase);
    u32 tile = shared.tile[turn.stage];
    __syncwarp();
    if ((threadIdx.x & 31) == 0) barrier_arrive(shared.tile_empty + turn.stage);
    turn.advance();
    return tile;
}

__device__ __forceinline__ void produce_tails(const AttentionParams& p, Shared& shared) {
    Turn<2> tile_turn;
    u32 v = shared_address(arena) + Q_BYTES + STAGES * KV_BYTES, met = 0;
    for (;;) {
        u32 tile = next_tile(shared, tile_turn);
        if (tile >= tiles_of(p)) break;
        Work work = work_of(p, tile);
        Visits visits(p, work, 0);
#pragma unroll 1
        for (int i = 0; i < visits.count; ++i, ++met) {
            int first_row = visits.at(visits.entry(i)) * TILE_KEYS;
            if (!runs_over(p, work, first_row)) continue;
            u32 stage = met % STAGES;
            barrier_wait(shared.v_empty + stage, (met / STAGES & 1) ^ 1);
            load_tail(p, work, v + stage * KV_BYTES, first_row);
            if ((threadIdx.x & 31) == 0) barrier_arrive(shared.v_full + stage);
        }
    }
}

// --- the consumers

// Four numbers in one register, the first in the lowest byte.
__device__ __forceinline__ u32 pack_e4m3(float a, float b, float c, float d) {
    u32 packed;
    asm("{\n\t.reg .b16 low, high;\n\t"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n\t"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n\t"
        "mov.b32 %0, {low, high};\n\t}"
        : "=r"(packed) : "f"(a), "f"(b), "f"(c), "f"(d));
    return packed;
}

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

// A matrix descriptor of 128-byte swizzle, eight rows 1024 bytes apart; address and leading offset are in
// units of 16 bytes. Its high word is the same for all, and the low one moves with the address, so that a
// product costs one addition.
__device__ __forceinline__ u32 descriptor_low(u32 address, u32 leading_bytes) {
    return address >> 4 | (leading_bytes >> 4) << 16;
}

__device__ __forceinline__ u64 descriptor(u32 low) {
    return (u64)(1024 / 16 | 1u << 30) << 32 | low;
}

constexpr int SCORES = TILE_KEYS / 2;
constexpr int OUTPUTS = HEAD_SIZE / 2;
constexpr int WEIGHTS = SCORES * ELEMENT_BYTES / 4;  // registers of packed weights

// S = Q K^T, both with the head's elements contiguous; `q` and `k` are low words of descriptors.
__device__ __forceinline__ void multiply_scores(float (&s)[SCORES], u32 q, u32 k) {
    pin(s);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < ROW_BYTES / 32; ++step) {
        u32 inside = (step % 4) * 2;
        u64 a = descriptor(q + (step / 4) * TILE_QUERIES * 8 + inside);
        u64 b = descriptor(k + (step / 4) * TILE_KEYS * 8 + inside);
        wgmma_shared(s, a, b, step > 0);
    }
    wgmma_commit();
}

// O += P V with P in registers and V as it lies in memory; `v` is the low word of a descriptor.
template <int COUNT>
__device__ __forceinline__ void multiply_values(float (&o)[COUNT], const u32 (&weights)[WEIGHTS],
                                                u32 v, u32 accumulate) {
    pin(o);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < WEIGHTS / 4; ++step) {
        u64 b = descriptor(v + step * (OPERANDS_E4M3 ? 32 / 16 : 16 * 128 / 16));
        wgmma_registers(o, weights + 4 * step, b, step > 0 ? 1 : accumulate);
    }
    wgmma_commit();
}

__device__ __forceinline__ void pack_weights(u32 (&weights)[WEIGHTS], const float (&s)[SCORES]) {
#if OPERANDS_E4M3
#pragma unroll
    for (int i = 0; i < WEIGHTS; ++i) {
        // Row i % 2 of 16 keys; a thread has two of their first and two of their second eight.
        const float* low = s + i / 2 * 8 + 2 * (i % 2);
        weights[i] = pack_e4m3(low[0], low[1], low[4], low[5]);
    }
#else
#pragma unroll
    for (int i = 0; i < WEIGHTS; ++i) weights[i] = pack(s[2 * i], s[2 * i + 1]);
#endif
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
    u32 q, k, v;  // low words of descriptors, of the first stage
    Turn<STAGES> turn;

    __device__ __forceinline__ Consumer(const AttentionParams& params, Shared& barriers)
        : p(params), shared(barriers) {
        // Said so that the compiler knows that all threads of a warp agree.
        group = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0) - 1;
        lane_of_group = threadIdx.x % 128;
        u32 first = shared_address(arena);
        q = descriptor_low(first + group * 64 * 128, 16);
        k = descriptor_low(first + Q_BYTES, 16);
        v = descriptor_low(first + Q_BYTES + STAGES * KV_BYTES,
                           OPERANDS_E4M3 ? 16 : TILE_KEYS * 128);
    }

    __device__ __forceinline__ void free(u64* barrier) {
        if ((threadIdx.x & 31) == 0) barrier_arrive(barrier);
    }

    template <bool MASKED>
    __device__ __forceinline__ void weigh(float (&s)[SCORES], const Seen<SCORES>& seen,
                                          Running& running, float (&keep)[2], const Work& work,
                                          int row, int first_key) {
        Scores<SCORES>::score_all(s, p, work, row, first_key);
        if (MASKED) Scores<SCORES>::mask_all(s, seen, p, work, row, first_key);
        running.weigh(s, exponent_scale(work), keep);
    }

    __device__ __forceinline__ void tile(const Work& work, Visits& visits, u32 q_phase) {
        int row = work.q_tile * TILE_QUERIES + group * 64 + lane_of_group / 32 * 16 +
                  (threadIdx.x & 31) / 4;
        float o[OUTPUTS];
#pragma unroll
        for (int i = 0; i < OUTPUTS; ++i) o[i] = 0.0f;
        Running running;
        if (visits.count > 0) barrier_wait(&shared.q_full, q_phase);
        int i = 0;
        auto entry = visits.entry(0);
        for (;;) {
            for (; i < visits.count && !visits.seen(entry); entry = visits.entry(++i)) {
                pass_over(visits, entry, i + 1 == visits.count);
            }
            if (i >= visits.count) break;
            do {
                auto next = visits.entry(i + 1);
                visit(work, visits, entry, i, row, running, o);
                entry = next;
                ++i;
            } while (i < visits.count && visits.seen(entry));
        }
        store<HEAD_SIZE>(p, work, o, running, row);
    }

    // Waits all the same, since nobody may be a whole round ahead of the others.
    template <typename Entry>
    __device__ __forceinline__ void pass_over(Visits& visits, Entry entry, bool last) {
        visits.meet(entry);
        barrier_wait(shared.k_full + turn.stage, turn.phase);
        free(shared.k_empty + turn.stage);
        if (last) free(&shared.q_empty);
        barrier_wait(shared.v_full + turn.stage, turn.phase);
        free(shared.v_empty + turn.stage);
        turn.advance();
    }

    template <typename Entry>
    __device__ __forceinline__ void visit(const Work& work, Visits& visits, Entry entry, int i,
                                          int row, Running& running, float (&o)[OUTPUTS]) {
        visits.meet(entry);
        barrier_wait(shared.k_full + turn.stage, turn.phase);
        float s[SCORES], keep[2];
        u32 weights[WEIGHTS];
        multiply_scores(s, q, k + turn.stage * (KV_BYTES / 16));
        int tile = visits.at(entry);
        int first_key = tile * TILE_KEYS + 2 * (threadIdx.x & 3);
        bool masked = visits.masked(entry);
        Seen<SCORES> seen;
        if (masked) {
            seen.ask(p, work, row, first_key, visits.kept(threadIdx.x - 128), CONSUMERS);
        }
        wgmma_wait<0>();
        pin(s);
        free(shared.k_empty + turn.stage);
        if (i + 1 == visits.count) free(&shared.q_empty);
        if (masked) weigh<true>(s, seen, running, keep, work, row, first_key);
        else weigh<false>(s, seen, running, keep, work, row, first_key);
#if FAULT == 1
        // Planted: what was summed before is not rescaled at the second tile.
        if (i == 1) keep[0] = keep[1] = 1.0f;
#endif
        pack_weights(weights, s);
        if (!PROMOTED) rescale(o, keep);
        barrier_wait(shared.v_full + turn.stage, turn.phase);
        add_values(o, weights, keep, v + turn.stage * (KV_BYTES / 16));
        free(shared.v_empty + turn.stage);
        turn.advance();
    }

    __device__ __forceinline__ void add_values(float (&o)[OUTPUTS], const u32 (&weights)[WEIGHTS],
                                               const float (&keep)[2], u32 values) {
#if PROMOTED
        float part[OUTPUTS];
        multiply_values(part, weights, values, 0);
        wgmma_wait<0>();
        pin(part);
#pragma unroll
        for (int i = 0; i < OUTPUTS; ++i) o[i] = fmaf(o[i], keep[(i >> 1) & 1], part[i]);
#else
        multiply_values(o, weights, values, 1);
        wgmma_wait<0>();
        pin(o);
#endif
    }
};

__device__ __forceinline__ void consume(const AttentionParams& p, Shared& shared) {
    Consumer consumer(p, shared);
    Turn<2> tile_turn;
    u32 q_phase = 0;
    for (;;) {
        u32 tile = next_tile(shared, tile_turn);
        if (tile >= tiles_of(p)) break;
        Work work = work_of(p, tile);
        Visits visits(p, work, consumer.group);
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
            barrier_init(shared.tile_empty + s, CONSUMERS / 32 + (p.q_offsets != 0 ? 1 : 0));
        }
    }
    barriers_ready();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
        if (threadIdx.x == 0) produce(p, shared);
        if (threadIdx.x / 32 == 1 && p.q_offsets != 0) produce_tails(p, shared);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
        consume(p, shared);
    }
}
