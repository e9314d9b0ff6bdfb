// Attention forward for sm_80 and later: eight warps of 16 queries each, mma.sync, tiles of keys and
// values by cp.async in two stages. (The division of work is that of FlashAttention-2, arXiv
// 2307.08691.)
//
// Set from outside: HEAD_SIZE (64 or 128), TILE_KEYS (64), PTX_ELEMENT, PTX_PACKED, FAULT.

constexpr int WARPS = 8;
constexpr int TILE_QUERIES = 16 * WARPS;
constexpr u32 THREADS = 32 * WARPS;
constexpr u32 ROW_BYTES = HEAD_SIZE * 2;
constexpr u32 Q_BYTES = TILE_QUERIES * ROW_BYTES;
constexpr u32 KV_BYTES = TILE_KEYS * ROW_BYTES;
constexpr int SCORES = TILE_KEYS / 2;
constexpr int OUTPUTS = HEAD_SIZE / 2;

extern __shared__ __align__(128) u8 arena[];

typedef Tiles<TILE_QUERIES, TILE_KEYS> Visits;

// Address of a 16-byte piece: pieces of eight rows lie in different banks.
__device__ __forceinline__ u32 piece(u32 base, u32 row, u32 column) {
    return base + row * ROW_BYTES + ((column ^ (row & 7)) << 4);
}

// Rows of one tile; those from `end` on are zeros.
template <int ROWS>
__device__ __forceinline__ void load_rows(u32 target, u64 source, i64 step, int first, int end) {
    constexpr int PIECES = ROW_BYTES / 16;
#pragma unroll
    for (int i = 0; i < ROWS * PIECES / (int)THREADS; ++i) {
        int at = i * THREADS + threadIdx.x;
        int row = at / PIECES, column = at % PIECES;
        int inside = first + row < end;
        u64 from = source + 2 * ((i64)(inside ? first + row : 0) * step) + 16 * column;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     : : "r"(piece(target, row, column)), "l"(from), "r"(inside ? 16 : 0)
                     : "memory");
    }
}

// S = Q K^T for the warp's 16 queries.
__device__ __forceinline__ void multiply_scores(float (&s)[SCORES], u32 q, u32 k) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < SCORES; ++i) s[i] = 0.0f;
#pragma unroll
    for (int step = 0; step < HEAD_SIZE / 16; ++step) {
        u32 a[4];
        matrices(a, piece(q, 16 * warp + (lane & 15), 2 * step + (lane >> 4)));
#pragma unroll
        for (int pair = 0; pair < TILE_KEYS / 16; ++pair) {
            u32 b[4];
            u32 key = 16 * pair + (lane & 7) + ((lane >> 4) << 3);
            matrices(b, piece(k, key, 2 * step + ((lane >> 3) & 1)));
            multiply(s + 8 * pair, a, b[0], b[1]);
            multiply(s + 8 * pair + 4, a, b[2], b[3]);
        }
    }
}

// O += P V.
__device__ __forceinline__ void multiply_values(float (&o)[OUTPUTS], const float (&s)[SCORES],
                                                u32 v) {
    u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int step = 0; step < TILE_KEYS / 16; ++step) {
        u32 a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = pack(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
#pragma unroll
        for (int pair = 0; pair < HEAD_SIZE / 16; ++pair) {
            u32 b[4];
            matrices_transposed(b, piece(v, 16 * step + (lane & 15), 2 * pair + (lane >> 4)));
            multiply(o + 8 * pair, a, b[0], b[1]);
            multiply(o + 8 * pair + 4, a, b[2], b[3]);
        }
    }
}

__device__ __forceinline__ void rescale(float (&o)[OUTPUTS], const float (&keep)[2]) {
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) o[i] *= keep[(i >> 1) & 1];
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_portable(const __grid_constant__ AttentionParams p) {
    Work work = work_of(p, blockIdx.x);
    Visits visits(p, work, threadIdx.x / 128);
    u32 q = shared_address(arena), k = q + Q_BYTES, v = k + 2 * KV_BYTES;
    int first_row = work.q_tile * TILE_QUERIES;
    int row = first_row + threadIdx.x / 32 * 16 + (threadIdx.x & 31) / 4;
    u64 q_source = p.q + 2 * (work.q_start * p.q_row + work.head * p.q_head +
                              work.tensor_batch * p.q_batch);
    u64 k_source = p.k + 2 * (work.k_start * p.k_row + work.kv_head * p.k_head +
                              work.tensor_batch * p.k_batch);
    u64 v_source = p.v + 2 * (work.k_start * p.v_row + work.kv_head * p.v_head +
                              work.tensor_batch * p.v_batch);
    float o[OUTPUTS];
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) o[i] = 0.0f;
    Running running;
    auto fetch = [&](int i) {
        int first = visits.at(visits.entry(i)) * TILE_KEYS;
        load_rows<TILE_KEYS>(k + (i & 1) * KV_BYTES, k_source, p.k_row, first, work.keys);
        load_rows<TILE_KEYS>(v + (i & 1) * KV_BYTES, v_source, p.v_row, first, work.keys);
        load_commit();
    };
    if (visits.count > 0) {
        load_rows<TILE_QUERIES>(q, q_source, p.q_row, first_row, work.queries);
        fetch(0);
    }
#pragma unroll 1
    for (int i = 0; i < visits.count; ++i) {
        if (i + 1 < visits.count) {
            fetch(i + 1);
            load_wait<1>();
        } else {
            load_wait<0>();
        }
        __syncthreads();
        float s[SCORES], keep[2];
        multiply_scores(s, q, k + (i & 1) * KV_BYTES);
        auto entry = visits.entry(i);
        visits.meet(entry);
        int first_key = visits.at(entry) * TILE_KEYS + 2 * (threadIdx.x & 3);
        Scores<SCORES>::score_all(s, p, work, row, first_key);
        if (!visits.seen(entry)) {
#pragma unroll
            for (int j = 0; j < SCORES; ++j) s[j] = minus_infinity();
        } else if (visits.masked(entry)) {
            Seen<SCORES> seen;
            seen.ask(p, work, row, first_key, visits.kept(threadIdx.x), THREADS);
            Scores<SCORES>::mask_all(s, seen, p, work, row, first_key);
        }
        running.weigh(s, exponent_scale(work), keep);
#if FAULT == 1
        // Planted: what was summed before is not rescaled at the second tile.
        if (i == 1) keep[0] = keep[1] = 1.0f;
#endif
        rescale(o, keep);
        multiply_values(o, s, v + (i & 1) * KV_BYTES);
        __syncthreads();
    }
    store<HEAD_SIZE>(p, work, o, running, row);
}
