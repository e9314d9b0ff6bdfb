// The oracle: drawn rows of an attention in f64, beside what a plain 16-bit implementation would give,
// and what the kernel under test gave.
//
// The plain implementation keeps q k in f32, rounds it to 16 bits, rounds it times the scale to 16
// bits, takes the softmax in f32, rounds the weights to 16 bits and sums their products in f32: what
// three separate 16-bit operations do.
//
// Set from outside: the program, ELEMENT (of queries and outputs).

struct ReferenceParams {
    u64 q, k, v, out, lse;        // `lse` may be 0
    u64 samples;                  // i32 triples: batch, head, query
    u64 scratch;                  // f64 pairs for each sample and key
    u64 results;                  // f64 for each sample: 3 x head_size, then lse and its reference
    u64 q_offsets, k_offsets;
    u64 lengths, pages;           // of a cache
    u64 k_scales, v_scales;       // f32 for each head of keys; 0: all are 1
    u64 data;
    i64 q_row, q_head, q_batch;
    i64 k_row, k_head, k_batch;
    i64 v_row, v_head, v_batch;
    i64 out_row, out_head, out_batch;
    u32 heads, group;
    int queries, keys;
    u32 head_size, cache_type;
    u32 page_size, page_stride;
    u32 lse_queries;
    int left, right;
    int count, number;
    float factor;
    float scale;
    u32 masked;                   // 1: the program's mask, 0: left and right
};
static_assert(sizeof(ReferenceParams) == 280, "the Rust side asserts the same size");

constexpr u32 THREADS = 256;
#define INFINITY_F64 __longlong_as_double(0x7FF0000000000000ll)

__device__ __forceinline__ float element_at(u64 base, i64 index, u32 type) {
    if (type == E4M3) return decode<E4M3>(((const u8*)base)[index]);
    return decode<ELEMENT>(((const u16*)base)[index]);
}

__device__ __forceinline__ float rounded(float x) { return decode<ELEMENT>(encode<ELEMENT>(x)); }

template <typename T, typename Join>
__device__ __forceinline__ T block_join(T value, T* scratch, Join join) {
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            scratch[threadIdx.x] = join(scratch[threadIdx.x], scratch[threadIdx.x + half]);
        }
        __syncthreads();
    }
    T joined = scratch[0];
    __syncthreads();
    return joined;
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_reference(const ReferenceParams p) {
    __shared__ double scratch[THREADS];
    __shared__ double plain_scratch[THREADS];
    const int* sample = (const int*)p.samples + 3 * blockIdx.x;
    int batch = sample[0], head = sample[1], query = sample[2];
    int kv_head = head / p.group, queries = p.queries, keys = p.keys;
    i64 q_start = 0, k_start = 0, tensor_batch = batch;
    if (p.q_offsets != 0) {
        q_start = ((const int*)p.q_offsets)[batch];
        k_start = ((const int*)p.k_offsets)[batch];
        queries = ((const int*)p.q_offsets)[batch + 1] - (int)q_start;
        keys = ((const int*)p.k_offsets)[batch + 1] - (int)k_start;
        tensor_batch = 0;
    }
    if (p.lengths != 0) keys = ((const int*)p.lengths)[batch];
    Problem at{batch, head, kv_head, queries, keys, (const int*)p.data, p.count, p.number, p.factor};
    double k_scale = p.k_scales != 0 ? ((const float*)p.k_scales)[kv_head] : 1.0f;
    double v_scale = p.v_scales != 0 ? ((const float*)p.v_scales)[kv_head] : 1.0f;
    u64 q = p.q + 2 * (tensor_batch * p.q_batch + head * p.q_head + (q_start + query) * p.q_row);
    auto row_of = [&](int key, i64 row_step, i64 head_step, i64 batch_step) {
        i64 row = k_start + key, page = tensor_batch;
        if (p.pages != 0) {
            page = ((const int*)p.pages)[(u64)batch * p.page_stride + key / p.page_size];
            row = key % p.page_size;
        }
        return page * batch_step + kv_head * head_step + row * row_step;
    };
    double2* scores = (double2*)p.scratch + (u64)blockIdx.x * p.keys;
    int position = query + keys - queries;
    double top = -INFINITY_F64, plain_top = -INFINITY_F64;
    for (int key = threadIdx.x; key < keys; key += THREADS) {
#if PROGRAM_MASK
        bool seen = p.masked != 0 ? mask(at, query, key)
                                  : key <= position + p.right && key >= position - p.left;
#else
        bool seen = key <= position + p.right && key >= position - p.left;
#endif
        double2 score_pair = make_double2(-INFINITY_F64, -INFINITY_F64);
        if (seen) {
            i64 k = row_of(key, p.k_row, p.k_head, p.k_batch);
            double dot = 0.0;
            float plain = 0.0f;
            for (u32 i = 0; i < p.head_size; ++i) {
                float a = element_at(q, i, 0), b = element_at(p.k, k + i, p.cache_type);
                dot += (double)a * b;
                plain = fmaf(a, b, plain);
            }
            dot *= p.scale * k_scale;
            plain = rounded(rounded(plain * (float)k_scale) * p.scale);
#if PROGRAM_SCORE
            dot = score(at, (float)dot, query, key);
            plain = rounded(score(at, plain, query, key));
#endif
            score_pair = make_double2(dot, plain);
        }
        scores[key] = score_pair;
        top = fmax(top, score_pair.x);
        plain_top = fmax(plain_top, score_pair.y);
    }
    auto larger = [](double a, double b) { return fmax(a, b); };
    auto sum = [](double a, double b) { return a + b; };
    top = block_join(top, scratch, larger);
    plain_top = block_join(plain_top, scratch, larger);
    double total = 0.0, plain_total = 0.0;
    for (int key = threadIdx.x; key < keys; key += THREADS) {
        double2 s = scores[key];
        double2 weight = make_double2(0.0, 0.0);
        if (s.x > -INFINITY_F64) {
            weight = make_double2(exp(s.x - top), (double)expf((float)(s.y - plain_top)));
        }
        scores[key] = weight;
        total += weight.x;
        plain_total += weight.y;
    }
    total = block_join(total, scratch, sum);
    plain_total = block_join(plain_total, scratch, sum);
    u32 groups = THREADS / p.head_size, group = threadIdx.x / p.head_size;
    u32 element = threadIdx.x % p.head_size;
    double value = 0.0;
    float plain_value = 0.0f;
    for (int key = group; key < keys; key += groups) {
        double2 weight = scores[key];
        if (weight.x == 0.0 && weight.y == 0.0) continue;
        i64 v = row_of(key, p.v_row, p.v_head, p.v_batch);
        float x = element_at(p.v, v + element, p.cache_type);
        value += weight.x * x;
        plain_value = fmaf(rounded((float)(weight.y / plain_total)), x, plain_value);
    }
    scratch[threadIdx.x] = value;
    plain_scratch[threadIdx.x] = plain_value;
    __syncthreads();
    if (group != 0) return;
    for (u32 g = 1; g < groups; ++g) {
        value += scratch[g * p.head_size + element];
        plain_value += (float)plain_scratch[g * p.head_size + element];
    }
    bool nothing = !(total > 0.0);
    double* result = (double*)p.results + (u64)blockIdx.x * (3 * p.head_size + 2);
    i64 out = tensor_batch * p.out_batch + head * p.out_head + (q_start + query) * p.out_row;
    result[element] = element_at(p.out, out + element, 0);
    result[p.head_size + element] = nothing ? 0.0 : value / total * v_scale;
    result[2 * p.head_size + element] = nothing ? 0.0 : rounded(plain_value * (float)v_scale);
    if (element == 0) {
        u64 line = (u64)tensor_batch * p.heads + head;
        result[3 * p.head_size] =
            p.lse != 0 ? ((const float*)p.lse)[line * p.lse_queries + q_start + query] : 0.0;
        result[3 * p.head_size + 1] = nothing ? -INFINITY_F64 : log(total) + top;
    }
}
