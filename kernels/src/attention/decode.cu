// Attention of a few new queries over a cache of keys and values: bound by reading the cache.
//
// A block takes one head of keys of one sequence and one of the caller's splits; its queries are those
// of all heads of the group, 16 rows at most. Four warps stream slabs of 16 keys, each through a ring
// of its own, so that no barrier stands in the stream. Warps, then splits, are added in a fixed order:
// the bits depend on the number of splits, never on the batch.
//
// The cache is contiguous or paged, 16-bit or E4M3 with one scale a head of keys. E4M3 becomes 16-bit
// exactly: exponent and fraction are moved into place and multiplied by a power of two.
//
// Set from outside: HEAD_SIZE (64 or 128), CACHE_E4M3 (0 or 1), RING_STAGES, PTX_ELEMENT, PTX_PACKED, FAULT.

struct DecodeParams {
    u64 q, k, v;       // queries [batch][row][head][element]; the cache
    u64 out;           // as the queries
    u64 partial;       // f32 [batch][head][row][split][element], where there are splits
    u64 weights;       // f32 pairs, maximum and sum, [batch][head][row][split]
    u64 lengths;       // i32, keys of each sequence, new ones included
    u64 pages;         // i32 [batch][page_stride]; 0: contiguous
    u64 k_scales;      // f32 for each head of keys; 0: all are 1
    u64 v_scales;
    u64 data;          // the program's own
    i64 q_row, q_head, q_batch;   // steps in elements
    i64 k_row, k_head, k_batch;   // `batch` steps from page to page where the cache is paged
    i64 v_row, v_head, v_batch;
    u32 batches, heads, group;
    u32 rows;          // new queries of a sequence; rows * group is at most 16
    u32 splits;
    u32 page_size;     // keys of a page, a multiple of 16
    u32 page_stride;
    int left;
    int count, number;
    float factor;
    float scale;
    u32 early;         // begins before the work in front of it has ended: old keys are asked for at once
    u32 unused;
};
static_assert(sizeof(DecodeParams) == 216, "the Rust side asserts the same size");

constexpr int SLAB = 16;
constexpr int WARPS = 4;
constexpr u32 THREADS = 32 * WARPS;
constexpr u32 ROW_BYTES = HEAD_SIZE * (CACHE_E4M3 ? 1 : 2);
constexpr u32 PIECES = ROW_BYTES / 16;
constexpr u32 SLAB_BYTES = SLAB * ROW_BYTES;
constexpr int SCORES = SLAB / 2;
constexpr int OUTPUTS = HEAD_SIZE / 2;

extern __shared__ __align__(128) u8 arena[];

__device__ __forceinline__ u32 piece(u32 base, u32 row, u32 column) {
    u32 turn = PIECES >= 8 ? row & 7 : (row >> 1) & 3;
    return base + row * ROW_BYTES + ((column ^ turn) << 4);
}

// Two E4M3 codes in the low halves of `codes`' two 16-bit lanes become two f16. A code's exponent and
// fraction stand 2^8 too low in the wider format, subnormals included; the product is exact.
__device__ __forceinline__ u32 widen(u32 codes) {
    u32 magnitude = (codes & 0x007F007Fu) << 7, sign = (codes & 0x00800080u) << 8;
    u32 wide;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(wide) : "r"(magnitude), "r"(0x5C005C00u));
    return wide | sign;
}

// Bytes 0 and 1 of x, and bytes 2 and 3, each as two f16.
__device__ __forceinline__ void widen_pairs(u32 x, u32& low, u32& high) {
    low = widen(__byte_perm(x, 0, 0x4140));
    high = widen(__byte_perm(x, 0, 0x4342));
}

// What one row of the block's sixteen is.
struct Row {
    int head, query;
    bool inside;
    __device__ __forceinline__ Row(const DecodeParams& p, u32 kv_head, int row) {
        inside = row < (int)(p.rows * p.group);
        head = kv_head * p.group + (inside ? row / p.rows : 0);
        query = inside ? row % p.rows : 0;
    }
};

struct Stream {
    const DecodeParams& p;
    u32 batch, kv_head, base;
    int keys, first, slabs;  // first key and number of slabs of this split

    __device__ __forceinline__ Stream(const DecodeParams& params) : p(params) {
        u32 number = blockIdx.x;
        u32 split = number % p.splits;
        number /= p.splits;
        u32 kv_heads = p.heads / p.group;
        kv_head = number % kv_heads;
        batch = number / kv_heads;
        keys = ((const int*)p.lengths)[batch];
        int all = (keys + SLAB - 1) / SLAB;
        int each = (all + p.splits - 1) / p.splits;
        first = split * each * SLAB;
        slabs = max(0, min(each, all - (int)split * each));
        base = (u32)__cvta_generic_to_shared(arena) + threadIdx.x / 32 * RING_STAGES * 2 * SLAB_BYTES;
    }

    // One slab of keys and values; rows behind the last key are zeros.
    __device__ __forceinline__ void fetch(int slab, u32 stage) const {
        u32 lane = threadIdx.x & 31;
        int key = first + slab * SLAB;
        u64 k = p.k, v = p.v;
        constexpr int BYTES = CACHE_E4M3 ? 1 : 2;
        i64 row = key, page = batch;
        if (p.pages != 0) {
            page = ((const int*)p.pages)[(u64)batch * p.page_stride + key / p.page_size];
            row = key % p.page_size;
        }
        k += BYTES * (page * p.k_batch + kv_head * p.k_head);
        v += BYTES * (page * p.v_batch + kv_head * p.v_head);
        u32 target = base + stage * 2 * SLAB_BYTES;
#pragma unroll
        for (u32 i = 0; i < SLAB * PIECES / 32; ++i) {
            u32 at = i * 32 + lane, line = at / PIECES, column = at % PIECES;
            bool inside = key + (int)line < keys;
            i64 from = inside ? row + line : row;
            u32 size = inside ? 16 : 0;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                         : : "r"(piece(target, line, column)),
                             "l"(k + BYTES * from * p.k_row + 16 * column), "r"(size) : "memory");
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                         : : "r"(piece(target + SLAB_BYTES, line, column)),
                             "l"(v + BYTES * from * p.v_row + 16 * column), "r"(size) : "memory");
        }
    }
};

// The warp's queries as fragments. Where the cache is E4M3 the elements of each 16 are taken in the
// order in which a thread finds them in four consecutive bytes of a key.
__device__ __forceinline__ void load_queries(u32 (&a)[HEAD_SIZE / 16][4], const Stream& stream) {
    const DecodeParams& p = stream.p;
    u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Row row(p, stream.kv_head, lane / 4 + 8 * half);
        const u16* q = (const u16*)p.q + stream.batch * p.q_batch + row.query * p.q_row +
                       row.head * p.q_head;
#pragma unroll
        for (int step = 0; step < HEAD_SIZE / 16; ++step) {
            u32 low = CACHE_E4M3 ? 16 * step + 4 * (lane & 3) : 16 * step + 2 * (lane & 3);
            u32 high = low + (CACHE_E4M3 ? 2 : 8);
            a[step][half] = row.inside ? *(const u32*)(q + low) : 0;
            a[step][half + 2] = row.inside ? *(const u32*)(q + high) : 0;
        }
    }
}

__device__ __forceinline__ void multiply_scores(float (&s)[SCORES],
                                                const u32 (&a)[HEAD_SIZE / 16][4], u32 k) {
    u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < SCORES; ++i) s[i] = 0.0f;
#if CACHE_E4M3
    // Four matrices: keys 0 to 7 and 8 to 15, elements 0 to 15 and 16 to 31 of a pair of steps.
#pragma unroll
    for (int pair = 0; pair < HEAD_SIZE / 32; ++pair) {
        u32 b[4];
        matrices(b, piece(k, (lane & 7) + ((lane >> 4) << 3), 2 * pair + ((lane >> 3) & 1)));
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                u32 low, high;
                widen_pairs(b[2 * tile + step], low, high);
                multiply(s + 4 * tile, a[2 * pair + step], low, high);
            }
        }
    }
#else
#pragma unroll
    for (int step = 0; step < HEAD_SIZE / 16; ++step) {
        u32 b[4];
        matrices(b, piece(k, (lane & 7) + ((lane >> 4) << 3), 2 * step + ((lane >> 3) & 1)));
        multiply(s, a[step], b[0], b[1]);
        multiply(s + 4, a[step], b[2], b[3]);
    }
#endif
}

// Column of the head's elements that output `i` of a thread stands for.
__device__ __forceinline__ u32 column_of(int i) {
    u32 quarter = threadIdx.x & 3;
    int tile = i / 4, element = i & 1;
    if (CACHE_E4M3) return tile / 2 * 16 + 4 * quarter + 2 * element + (tile & 1);
    return tile * 8 + 2 * quarter + element;
}

__device__ __forceinline__ void multiply_values(float (&o)[OUTPUTS], const float (&s)[SCORES],
                                                u32 v) {
    u32 lane = threadIdx.x & 31;
    u32 a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = pack(s[2 * i], s[2 * i + 1]);
#if CACHE_E4M3
    // Two matrices of keys 0 to 7 and 8 to 15 by 16 elements, twice. A thread finds two elements of two
    // keys in a register: even elements make one tile, odd ones the next.
#pragma unroll
    for (int pair = 0; pair < HEAD_SIZE / 32; ++pair) {
        u32 b[4];
        matrices_transposed(b, piece(v, lane & 15, 2 * pair + (lane >> 4)));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            u32 first = b[2 * half], second = b[2 * half + 1];
            float* target = o + 8 * (2 * pair + half);
            multiply(target, a, widen(__byte_perm(first, 0, 0x4240)),
                     widen(__byte_perm(second, 0, 0x4240)));
            multiply(target + 4, a, widen(__byte_perm(first, 0, 0x4341)),
                     widen(__byte_perm(second, 0, 0x4341)));
        }
    }
#else
#pragma unroll
    for (int pair = 0; pair < HEAD_SIZE / 16; ++pair) {
        u32 b[4];
        matrices_transposed(b, piece(v, lane & 15, 2 * pair + (lane >> 4)));
        multiply(o + 8 * pair, a, b[0], b[1]);
        multiply(o + 8 * pair + 4, a, b[2], b[3]);
    }
#endif
}

// Scales, scores and masks what the warp multiplied; the program sees each row's own head.
__device__ __forceinline__ void see(float (&s)[SCORES], const Stream& stream, int first_key,
                                    float k_scale) {
    const DecodeParams& p = stream.p;
    u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Row row(p, stream.kv_head, lane / 4 + 8 * half);
        int position = stream.keys - (int)p.rows + row.query;
        Problem at{(int)stream.batch, row.head, (int)stream.kv_head, (int)p.rows, stream.keys,
                   (const int*)p.data, p.count, p.number, p.factor};
#pragma unroll
        for (int j = 0; j < SCORES / 4; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float& x = s[4 * j + 2 * half + e];
                int key = first_key + 8 * j + 2 * (lane & 3) + e;
                bool seen = key < stream.keys;
                x *= p.scale * k_scale;
#if PROGRAM_SCORE
                if (seen) x = score(at, x, row.query, key);
#endif
#if PROGRAM_MASK
                seen = seen && mask(at, row.query, key);
#else
                seen = seen && key <= position && key >= position - p.left;
#endif
                if (!seen) x = minus_infinity();
            }
        }
    }
}

// The block's rows, once all of its warps have added theirs.
struct Added {
    float top[WARPS][16], sum[WARPS][16];
    float o[WARPS][16][HEAD_SIZE];
};

extern "C" __global__ void __launch_bounds__(THREADS) attention_decode(const DecodeParams p) {
    let_later_begin();
    Stream stream(p);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    int mine = stream.slabs > (int)warp ? (stream.slabs - warp + WARPS - 1) / WARPS : 0;
    // Where it begins early, what the cache held before the step is asked for at once: of a warp's slabs the first
    // ones. Behind the wait come those that end in new keys.
    const auto held = [&](int i) {
        return p.early != 0 && i < mine &&
               stream.first + ((int)warp + i * WARPS + 1) * SLAB <= stream.keys - (int)p.rows;
    };
#pragma unroll
    for (int i = 0; i < RING_STAGES - 1; ++i) {
        if (!held(i)) break;
        stream.fetch(warp + i * WARPS, i);
        load_commit();
    }
    await_earlier();
    float k_scale = p.k_scales != 0 ? ((const float*)p.k_scales)[stream.kv_head] : 1.0f;
    float v_scale = p.v_scales != 0 ? ((const float*)p.v_scales)[stream.kv_head] : 1.0f;
    u32 a[HEAD_SIZE / 16][4];
    load_queries(a, stream);
    float o[OUTPUTS];
#pragma unroll
    for (int i = 0; i < OUTPUTS; ++i) o[i] = 0.0f;
    Running running;
#pragma unroll
    for (int i = 0; i < RING_STAGES - 1; ++i) {
        if (held(i)) continue;
        if (i < mine) stream.fetch(warp + i * WARPS, i);
        load_commit();
    }
    u32 stage = 0;
    for (int i = 0; i < mine; ++i) {
        load_wait<RING_STAGES - 2>();
        __syncwarp();
        u32 ahead = stage == 0 ? RING_STAGES - 1 : stage - 1;
        if (i + RING_STAGES - 1 < mine) stream.fetch(warp + (i + RING_STAGES - 1) * WARPS, ahead);
        load_commit();
        u32 k = stream.base + stage * 2 * SLAB_BYTES;
        float s[SCORES], keep[2];
        multiply_scores(s, a, k);
        see(s, stream, stream.first + (warp + i * WARPS) * SLAB, k_scale);
        running.weigh(s, LOG2_E, keep);
#if FAULT == 1
        // Planted: what was summed before is not rescaled at the second slab.
        if (i == 1) keep[0] = keep[1] = 1.0f;
#endif
#pragma unroll
        for (int x = 0; x < OUTPUTS; ++x) o[x] *= keep[(x >> 1) & 1];
        multiply_values(o, s, k + SLAB_BYTES);
        __syncwarp();
        stage = stage + 1 == RING_STAGES ? 0 : stage + 1;
    }
    load_wait<0>();
    running.finish();
    __syncthreads();
    Added& added = *(Added*)arena;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = lane / 4 + 8 * half;
        if ((lane & 3) == 0) {
            added.top[warp][row] = running.top[half];
            added.sum[warp][row] = running.sum[half];
        }
#pragma unroll
        for (int j = 0; j < OUTPUTS / 4; ++j) {
            added.o[warp][row][column_of(4 * j)] = o[4 * j + 2 * half];
            added.o[warp][row][column_of(4 * j + 1)] = o[4 * j + 2 * half + 1];
        }
    }
    __syncthreads();
    u32 split = blockIdx.x % p.splits;
    for (u32 i = threadIdx.x; i < p.rows * p.group * HEAD_SIZE; i += THREADS) {
        u32 number = i / HEAD_SIZE, element = i % HEAD_SIZE;
        Row row(p, stream.kv_head, number);
        float top = minus_infinity(), sum = 0.0f, total = 0.0f;
        for (int w = 0; w < WARPS; ++w) top = fmaxf(top, added.top[w][number]);
        float offset = top == minus_infinity() ? 0.0f : top * LOG2_E;
        for (int w = 0; w < WARPS; ++w) {
            float keep = exp2_approx(fmaf(added.top[w][number], LOG2_E, -offset));
            sum = fmaf(added.sum[w][number], keep, sum);
            total = fmaf(added.o[w][number][element], keep, total);
        }
        total *= v_scale;
        if (p.splits == 1) {
            float value = sum == 0.0f ? 0.0f : total / sum;
            ((u16*)p.out)[stream.batch * p.q_batch + row.query * p.q_row + row.head * p.q_head +
                          element] = (u16)pack(value, value);
        } else {
            u64 line = (((u64)stream.batch * p.heads + row.head) * p.rows + row.query) * p.splits +
                       split;
            ((float*)p.partial)[line * HEAD_SIZE + element] = total;
            if (element == 0) ((float2*)p.weights)[line] = make_float2(top, sum);
        }
    }
}

// Adds the splits of a row in their order. One block a row, one thread an element.
extern "C" __global__ void __launch_bounds__(HEAD_SIZE) attention_combine(const DecodeParams p) {
    let_later_begin();
    await_earlier();
    u32 query = blockIdx.x % p.rows;
    u32 head = blockIdx.x / p.rows % p.heads;
    u32 batch = blockIdx.x / p.rows / p.heads;
    u64 line = (u64)blockIdx.x;
    line = (((u64)batch * p.heads + head) * p.rows + query) * p.splits;
    const float2* weights = (const float2*)p.weights + line;
    float top = minus_infinity(), sum = 0.0f, total = 0.0f;
    for (u32 split = 0; split < p.splits; ++split) top = fmaxf(top, weights[split].x);
    float offset = top == minus_infinity() ? 0.0f : top * LOG2_E;
    for (u32 split = 0; split < p.splits; ++split) {
        float keep = exp2_approx(fmaf(weights[split].x, LOG2_E, -offset));
        sum = fmaf(weights[split].y, keep, sum);
        total = fmaf(((const float*)p.partial)[(line + split) * HEAD_SIZE + threadIdx.x], keep, total);
    }
    float value = sum == 0.0f ? 0.0f : total / sum;
    ((u16*)p.out)[batch * p.q_batch + query * p.q_row + head * p.q_head + threadIdx.x] =
        (u16)pack(value, value);
}
