// One attention problem as the launcher hands it over, its division into tiles, and which tiles of keys
// a tile of queries visits, in which order: shared by every forward kernel.
//
// The order is from high keys to low, always. A tile of which a row sees nothing leaves the row as it is,
// bit by bit, so a row's bits depend on its own keys and on nothing else: not on the batch, on other
// heads or queries beside it, on which tiles need the mask, or on how many blocks or GPUs run.

struct alignas(64) AttentionParams {
    TensorMap q_map, k_map, v_map;  // sm_90a; boxes of 64 elements by one tile of rows
    u64 q, k, v;                    // the same, for kernels without the copy engine
    u64 out;
    u64 lse;        // f32: [batch][head][query], ragged [head][query of all]; 0 for none
    u64 q_offsets;  // ragged: first query of each sequence and the end, i32; else 0
    u64 k_offsets;
    u64 lists;      // block map: visited tiles of keys for each tile of queries, see Tiles
    u64 counts;     // block map: how many these are, u32
    u64 masks;      // block map: what the mask says, for the first masked tiles of each list
    u64 scheduler;  // two u32, zero before and after every launch
    u64 data;       // the program's own, i32
    u64 q_scales;   // E4M3: f32 of each head, [batch][head]; else 0
    u64 k_scales;
    u64 v_scales;
    i64 q_row, q_head, q_batch;  // steps in elements
    i64 k_row, k_head, k_batch;
    i64 v_row, v_head, v_batch;
    i64 out_row, out_head, out_batch;
    u32 batches, heads, group;  // `group` heads of queries share a head of keys and values
    int queries, keys;          // of a sequence; ragged: of the longest
    u32 q_tiles;                // tiles of queries of the longest sequence
    u32 section;                // heads whose keys and values stay in the L2 cache together
    u32 list_stride;            // tiles of keys of the longest sequence
    u32 list_heads;             // 1 where all heads share a block map, else `heads`
    u32 list_batches;           // 1 where all sequences share a block map, else `batches`
    int left, right;            // keys that a query sees before and behind its position
    int count, number;          // the program's own numbers, see Problem
    float factor;
    float scale;                // of q k
    u32 lse_queries;            // rows of `lse`: queries, ragged those of all sequences
    u32 reserved[9];
};
static_assert(sizeof(AttentionParams) == 704, "the Rust side asserts the same size");

// One tile of queries of one head of one sequence.
struct Work {
    int batch, head, kv_head;
    int q_tile;
    int queries, keys;            // of this sequence
    int q_start, k_start;         // its first row in a ragged tensor, else 0
    int tensor_batch;             // 0 for ragged tensors
    float score_scale;            // of q k as the tensor cores give it
    float value_scale;            // of the values

    __device__ __forceinline__ int shift() const { return keys - queries; }
};

// Tile `number` of the launch. Heads go in sections that share the L2 cache; within one, the latest
// queries come first: under a causal mask they are the longest work.
__device__ __forceinline__ Work work_of(const AttentionParams& p, u32 number) {
    u32 all_heads = p.batches * p.heads;
    u32 in_section = p.section * p.q_tiles;
    u32 section = number / in_section;
    u32 rest = number - section * in_section;
    u32 first = section * p.section;
    u32 width = all_heads - first < p.section ? all_heads - first : p.section;
    u32 row = rest / width;
    u32 head = first + (rest - row * width);
    Work work;
    work.batch = head / p.heads;
    work.head = head - work.batch * p.heads;
    work.kv_head = work.head / p.group;
    work.q_tile = p.q_tiles - 1 - row;
    work.queries = p.queries;
    work.keys = p.keys;
    work.q_start = 0;
    work.k_start = 0;
    work.tensor_batch = work.batch;
    work.score_scale = p.scale;
    work.value_scale = 1.0f;
#if OPERANDS_E4M3
    u32 kv = work.batch * (p.heads / p.group) + work.kv_head;
    work.score_scale *= ((const float*)p.q_scales)[head] * ((const float*)p.k_scales)[kv];
    work.value_scale = ((const float*)p.v_scales)[kv];
#endif
    if (p.q_offsets != 0) {
        const int* q = (const int*)p.q_offsets + work.batch;
        const int* k = (const int*)p.k_offsets + work.batch;
        work.q_start = q[0];
        work.queries = q[1] - q[0];
        work.k_start = k[0];
        work.keys = k[1] - k[0];
        work.tensor_batch = 0;
    }
    return work;
}

// A visited tile in a block map: its number; which groups of 64 queries see something of it; of which
// groups it needs the mask.
constexpr u32 TILE_BITS = 0xFFFFFFu;
constexpr u32 SEEN_BIT = 24, MASKED_BIT = 28;
// Masked tiles of a list whose masks are kept in the block map; of the others the mask is asked again.
constexpr u32 KEPT_MASKS = 16;

// The tiles of keys that a tile of queries visits, from high keys to low, and what a group of 64 of its
// queries does with each. What a group does not see it passes over, which changes nothing but the time.
template <int QUERIES, int KEYS>
struct Tiles {
    int count;
#if PROGRAM_MASK
    static constexpr u32 WORDS = (KEYS / 2 + 31) / 32;
    static constexpr u32 THREADS = 2 * QUERIES;
    const AttentionParams& p;
    u32 row;      // of the block map: which list
    u32 group;
    u32 met = 0;  // masked tiles so far

    __device__ __forceinline__ Tiles(const AttentionParams& params, const Work& w, u32 own)
        : p(params) {
        count = 0;
        group = own;
        if (w.q_tile * QUERIES >= w.queries) return;
        u32 batch = p.list_batches == 1 ? 0 : w.batch;
        u32 head = p.list_heads == 1 ? 0 : w.head;
        row = (batch * p.list_heads + head) * p.q_tiles + w.q_tile;
        count = ((const u32*)p.counts)[row];
    }

    // The entry of a visit, 0 behind the last; ahead of its use, since it comes from memory.
    __device__ __forceinline__ u32 entry(int i) const {
        return i < count ? ((const u32*)p.lists)[(u64)row * p.list_stride + i] : 0;
    }
    __device__ __forceinline__ int at(u32 entry) const { return entry & TILE_BITS; }
    __device__ __forceinline__ bool seen(u32 entry) const { return entry >> (SEEN_BIT + group) & 1; }
    __device__ __forceinline__ bool masked(u32 entry) const {
        return entry >> (MASKED_BIT + group) & 1;
    }

    // Counts a visited tile; to be done once of each, in order, and before its mask is asked for.
    __device__ __forceinline__ void meet(u32 entry) { met += entry >> MASKED_BIT != 0; }

    // Where the mask of the tile met last is kept for a thread, or null.
    __device__ __forceinline__ const u32* kept(u32 thread) const {
        if (met - 1 >= KEPT_MASKS) return nullptr;
        u64 tile = (u64)row * KEPT_MASKS + met - 1;
        return (const u32*)p.masks + tile * WORDS * THREADS + thread;
    }
#else
    int end, own_begin, own_end, full_begin, full_end;

    __device__ __forceinline__ Tiles(const AttentionParams& p, const Work& w, u32 own) {
        count = end = own_begin = own_end = full_begin = full_end = 0;
        int first = w.q_tile * QUERIES;
        if (first >= w.queries) return;
        int begin;
        range(p, w, first, min(first + QUERIES, w.queries) - 1, begin, end);
        count = end - begin;
        first += 64 * own;
        if (first >= w.queries) return;
        int last = min(first + 64, w.queries) - 1;
        range(p, w, first, last, own_begin, own_end);
        int low = first + w.shift(), high = last + w.shift();
        full_end = max(0, min(w.keys, low + p.right + 1)) / KEYS;
        full_begin = (max(0, high - p.left) + KEYS - 1) / KEYS;
    }

    // Tiles of keys that these queries see.
    __device__ __forceinline__ void range(const AttentionParams& p, const Work& w, int first,
                                          int last, int& begin, int& end) {
        int key_end = min(w.keys, last + w.shift() + p.right + 1);
        int key_begin = max(0, first + w.shift() - p.left);
        bool none = key_end <= key_begin;
        begin = none ? 0 : key_begin / KEYS;
        end = none ? 0 : (key_end + KEYS - 1) / KEYS;
    }

    __device__ __forceinline__ int entry(int i) const { return end - 1 - i; }
    __device__ __forceinline__ int at(int entry) const { return entry; }
    __device__ __forceinline__ bool seen(int entry) const {
        return entry >= own_begin && entry < own_end;
    }
    __device__ __forceinline__ bool masked(int entry) const {
        return entry < full_begin || entry >= full_end;
    }
    __device__ __forceinline__ void meet(int) {}
    __device__ __forceinline__ const u32* kept(u32) const { return nullptr; }
#endif
};

// Factor by which a score becomes an exponent of two. A program's scores are scaled beforehand.
__device__ __forceinline__ float exponent_scale(const Work& w) {
    return PROGRAM_SCORE ? LOG2_E : w.score_scale * LOG2_E;
}

__device__ __forceinline__ Problem problem_of(const AttentionParams& p, const Work& w) {
    return Problem{w.batch, w.head,  w.kv_head, w.queries, w.keys,
                   (const int*)p.data, p.count, p.number, p.factor};
}

// What a program's mask says of a thread's fragment, a bit an element: from the block map, or asked in a
// loop, since there are no registers for many at once. Either is done while the scores are multiplied.
template <int COUNT>
struct Seen {
#if PROGRAM_MASK
    static constexpr int WORDS = (COUNT + 31) / 32;
    u32 words[WORDS];

    // `kept` is this thread's word of the block map, the next word a word of every thread further on.
    __device__ __forceinline__ void ask(const AttentionParams& p, const Work& w, int row,
                                        int first_key, const u32* kept, u32 threads) {
#pragma unroll
        for (int word = 0; word < WORDS; ++word) {
            words[word] = kept == nullptr ? 0 : kept[word * threads];
        }
        if (kept != nullptr) return;
        Problem at = problem_of(p, w);
        int first = min(row, w.queries - 1), second = min(row + 8, w.queries - 1);
#pragma unroll 1
        for (int i = 0; i < COUNT; ++i) {
            int key = first_key + i / 4 * 8 + (i & 1);
            bool seen = key < w.keys && mask(at, (i & 2) != 0 ? second : first, key);
            // The first element ends up lowest, behind what does not fill a word.
#pragma unroll
            for (int word = 0; word < WORDS; ++word) {
                u32 next = word + 1 < WORDS ? words[word + 1] : (u32)seen;
                words[word] = __funnelshift_r(words[word], next, 1);
            }
        }
    }

    __device__ __forceinline__ bool at(int i) const {
        int bit = 32 * WORDS - COUNT + i;
        return (words[bit / 32] >> (bit % 32) & 1) != 0;
    }
#else
    __device__ __forceinline__ void ask(const AttentionParams&, const Work&, int, int, const u32*,
                                        u32) {}
#endif
};

// The two rows of a thread's fragment of scores: columns 8 j + {0, 1} behind `column` of the tile.
template <int COUNT>
struct Scores {
    // Sets what a query does not see to minus infinity.
    static __device__ __forceinline__ void mask_all(float (&s)[COUNT], const Seen<COUNT>& seen,
                                                    const AttentionParams& p, const Work& w,
                                                    int row, int first_key) {
#if PROGRAM_MASK
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (!seen.at(i)) s[i] = minus_infinity();
        }
#else
        int position = row + w.shift() - first_key;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int high = min(w.keys - 1 - first_key, position + 8 * half + p.right);
            int low = position + 8 * half - p.left;
#pragma unroll
            for (int j = 0; j < COUNT / 4; ++j) {
                if (8 * j > high || 8 * j < low) s[4 * j + 2 * half] = minus_infinity();
                if (8 * j + 1 > high || 8 * j + 1 < low) s[4 * j + 2 * half + 1] = minus_infinity();
            }
        }
#endif
    }

    // Replaces scores by the program's, on every tile and before the mask.
    static __device__ __forceinline__ void score_all(float (&s)[COUNT], const AttentionParams& p,
                                                     const Work& w, int row, int first_key) {
#if PROGRAM_SCORE
        Problem at = problem_of(p, w);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int key = first_key + (i / 4) * 8 + (i & 1);
            int query = min(row + ((i & 2) << 2), w.queries - 1);
            if (key < w.keys) s[i] = score(at, s[i] * w.score_scale, query, key);
        }
#endif
    }
};

// Divides by the sums and stores a thread's two rows, and their log-sum-exp. Threads of a row swap
// columns first, so that each stores 16 bytes in a row.
template <int SIZE>
__device__ __forceinline__ void store(const AttentionParams& p, const Work& w, float (&o)[SIZE / 2],
                                      Running& running, int row) {
    running.finish();
    u32 lane = threadIdx.x & 3;
    i64 batch = (i64)w.tensor_batch * p.out_batch + (i64)w.head * p.out_head;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int query = row + 8 * half;
        float sum = running.sum[half];
        float inverse = sum == 0.0f ? 0.0f : inverse_approx(sum) * w.value_scale;
        bool inside = query < w.queries;
        if (p.lse != 0 && lane == 0 && inside) {
            float top = running.top[half];
            float lse = (PROGRAM_SCORE ? top : top * w.score_scale) - WEIGHT_BITS * LN_2;
            lse = sum == 0.0f ? minus_infinity() : lse + logf(sum);
            u64 line = (u64)w.tensor_batch * p.heads + w.head;
            ((float*)p.lse)[line * p.lse_queries + w.q_start + query] = lse;
        }
        u16* target = (u16*)p.out + batch + (i64)(w.q_start + query) * p.out_row;
#pragma unroll
        for (int block = 0; block < SIZE / 32; ++block) {
            u32 mine[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float* x = o + 4 * (4 * block + j) + 2 * half;
                mine[j] = pack(x[0] * inverse, x[1] * inverse);
            }
            // Thread t of four ends up with the eight columns of chunk t: a transpose in two steps.
            bool odd = (lane & 1) != 0, high = (lane & 2) != 0;
            u32 a = __shfl_xor_sync(0xFFFFFFFFu, odd ? mine[0] : mine[1], 1);
            u32 b = __shfl_xor_sync(0xFFFFFFFFu, odd ? mine[2] : mine[3], 1);
            u32 low0 = odd ? a : mine[0], low1 = odd ? mine[1] : a;
            u32 high0 = odd ? b : mine[2], high1 = odd ? mine[3] : b;
            u32 c = __shfl_xor_sync(0xFFFFFFFFu, high ? low0 : high0, 2);
            u32 d = __shfl_xor_sync(0xFFFFFFFFu, high ? low1 : high1, 2);
            uint4 whole = high ? make_uint4(c, d, high0, high1) : make_uint4(low0, low1, c, d);
            if (inside) *(uint4*)(target + 32 * block + 8 * lane) = whole;
        }
    }
}
