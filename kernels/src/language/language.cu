#line 2 "language.cu"
// A small language model judged token by token. What lies between products in f32 and bfloat16 (fp16 has
// model.cu), a product and an attention in plain f32, and the cross-entropy of logits. Written to be read, not to be
// fast: every sum is f32 or f64, one fused multiplication and addition after the other.

// As Rust's LanguageParams.
struct LanguageParams {
    u64 out;
    u64 in;
    u64 second;    // embed: tokens; norm: gain; product: B; finish: scales or 0; score: targets
    u64 third;     // norm: bias; score: reference logits or 0
    u64 rows;
    u32 columns;
    u32 inner;     // product: length of a sum
    u32 tokens;    // attention: of a sequence
    u32 heads;
    u32 out_type;  // an Element: F16, BF16 or F32
    u32 in_type;
    float factor;  // norm: epsilon; attention: factor of the scores
    u32 reserved;
};
static_assert(sizeof(LanguageParams) == 72, "the Rust side asserts the same size");

// What a row of logits says of its target.
struct Scored {
    double loss;        // -log of the target's share, nats
    double divergence;  // from the reference's distribution to this one, nats
    u32 agrees;         // both have their largest logit at one place, the first of equals
    u32 counted;        // 0 where there is no target
};

constexpr u32 NO_TARGET = 0xFFFFFFFFu;

__device__ __forceinline__ float load(u64 at, u32 type, u64 i) {
    if (type == F32) return ((const float*)at)[i];
    u32 code = ((const u16*)at)[i];
    return type == F16 ? decode<F16>(code) : decode<BF16>(code);
}

__device__ __forceinline__ void store(u64 at, u32 type, u64 i, float x) {
    if (type == F32) ((float*)at)[i] = x;
    else ((u16*)at)[i] = (u16)(type == F16 ? encode<F16>(x) : encode<BF16>(x));
}

// The sum over a block of 256 threads, in all of them, in one order.
template <typename T>
__device__ __forceinline__ T whole_sum(T value, T* scratch) {
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = 128; half > 0; half >>= 1) {
        if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        __syncthreads();
    }
    T total = scratch[0];
    __syncthreads();
    return total;
}

// Row r of the output is the table's row of token r. One block a row.
extern "C" __global__ void __launch_bounds__(256) language_embed(const LanguageParams p) {
    u64 row = blockIdx.x;
    u64 token = ((const u32*)p.second)[row];
    for (u32 c = threadIdx.x; c < p.columns; c += blockDim.x) {
        store(p.out, p.out_type, row * p.columns + c, load(p.in, p.in_type, token * p.columns + c));
    }
}

// (x - mean) / sqrt(variance + epsilon) * gain + bias of one row a block, the variance from deviations.
extern "C" __global__ void __launch_bounds__(256) language_norm(const LanguageParams p) {
    __shared__ float scratch[256];
    u64 first = (u64)blockIdx.x * p.columns;
    float count = (float)p.columns;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < p.columns; c += blockDim.x) sum += load(p.in, p.in_type, first + c);
    float mean = whole_sum(sum, scratch) / count;
    float squares = 0.0f;
    for (u32 c = threadIdx.x; c < p.columns; c += blockDim.x) {
        float apart = load(p.in, p.in_type, first + c) - mean;
        squares += apart * apart;
    }
    float inverse = 1.0f / sqrtf(whole_sum(squares, scratch) / count + p.factor);
    for (u32 c = threadIdx.x; c < p.columns; c += blockDim.x) {
        float apart = load(p.in, p.in_type, first + c) - mean;
        float gain = load(p.second, p.in_type, c), bias = load(p.third, p.in_type, c);
        store(p.out, p.out_type, first + c, apart * inverse * gain + bias);
    }
}

// x / 2 (1 + erf(x / sqrt 2)) in place.
extern "C" __global__ void __launch_bounds__(256) language_gelu(const LanguageParams p) {
    u64 all = p.rows * p.columns, stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += stride) {
        float x = load(p.out, p.out_type, i);
        store(p.out, p.out_type, i, x * 0.5f * (1.0f + erff(x * 0.70710678118654752f)));
    }
}

// out += in, with one rounding.
extern "C" __global__ void __launch_bounds__(256) language_add(const LanguageParams p) {
    u64 all = p.rows * p.columns, stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += stride) {
        store(p.out, p.out_type, i, load(p.out, p.out_type, i) + load(p.in, p.in_type, i));
    }
}

// What a product left in another type, times a scale for each column where there are scales, rounded once.
extern "C" __global__ void __launch_bounds__(256) language_finish(const LanguageParams p) {
    u64 all = p.rows * p.columns, stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += stride) {
        float scale = p.second == 0 ? 1.0f : ((const float*)p.second)[i % p.columns];
        store(p.out, p.out_type, i, load(p.in, p.in_type, i) * scale);
    }
}

// out[m][n] = in[m][inner] second[n][inner]^T in f32: tiles of 64 by 64, 4 by 4 of them a thread, each sum one
// chain of fused multiplications and additions from the first column to the last.
extern "C" __global__ void __launch_bounds__(256, 2) language_product(const LanguageParams p) {
    constexpr u32 TILE = 64, DEEP = 16;
    __shared__ float a[DEEP][TILE + 1], b[DEEP][TILE + 1];
    const float* left = (const float*)p.in;
    const float* right = (const float*)p.second;
    u64 row = (u64)blockIdx.x * TILE;
    u32 column = blockIdx.y * TILE;
    u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sums[4][4] = {};
    for (u32 k = 0; k < p.inner; k += DEEP) {
        for (u32 i = threadIdx.x; i < TILE * DEEP; i += 256) {
            u32 at = i / DEEP, deep = i % DEEP;
            bool inside = k + deep < p.inner;
            a[deep][at] = inside && row + at < p.rows ? left[(row + at) * p.inner + k + deep] : 0.0f;
            b[deep][at] =
                inside && column + at < p.columns ? right[(u64)(column + at) * p.inner + k + deep] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (u32 deep = 0; deep < DEEP; ++deep) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    sums[i][j] = __fmaf_rn(a[deep][ty * 4 + i], b[deep][tx + 16 * j], sums[i][j]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            u64 r = row + ty * 4 + i;
            u32 c = column + tx + 16 * j;
            if (r < p.rows && c < p.columns) ((float*)p.out)[r * p.columns + c] = sums[i][j];
        }
    }
}

// Causal attention in f32 over heads of 128: one block of 128 threads for a query of a head. `in` holds queries, keys
// and values of all heads, [rows][3][heads][128]; weights of all keys so far lie in shared memory.
extern "C" __global__ void __launch_bounds__(128) language_attention(const LanguageParams p) {
    extern __shared__ float weights[];
    __shared__ float query[128], scratch[128];
    u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    u64 row = blockIdx.x / p.heads, width = (u64)p.heads * 128;
    u32 at = (u32)(row % p.tokens);
    const float* first = (const float*)p.in + (row - at) * 3 * width + blockIdx.x % p.heads * 128;
    query[thread] = first[at * 3 * width + thread];
    __syncthreads();
    float most = __uint_as_float(0xFF800000u);
    for (u32 key = warp; key <= at; key += 4) {
        const float* k = first + key * 3 * width + width;
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < 4; ++i) sum = __fmaf_rn(query[lane + 32 * i], k[lane + 32 * i], sum);
#pragma unroll
        for (u32 offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
        sum *= p.factor;
        if (lane == 0) weights[key] = sum;
        most = fmaxf(most, sum);
    }
    scratch[thread] = most;
    __syncthreads();
    for (u32 i = 0; i < 4; ++i) most = fmaxf(most, scratch[32 * i]);
    __syncthreads();
    float sum = 0.0f;
    for (u32 key = thread; key <= at; key += 128) {
        float weight = expf(weights[key] - most);
        weights[key] = weight;
        sum += weight;
    }
    scratch[thread] = sum;
    __syncthreads();
    float total = 0.0f;
    for (u32 i = 0; i < 128; ++i) total += scratch[i];
    float value = 0.0f;
    for (u32 key = 0; key <= at; ++key) {
        value = __fmaf_rn(weights[key], first[key * 3 * width + 2 * width + thread], value);
    }
    ((float*)p.out)[row * width + blockIdx.x % p.heads * 128 + thread] = value / total;
}

// The larger number first, and of equals the one that comes first. A NaN is the largest.
__device__ __forceinline__ u64 rank_of(float x, u32 column) {
    u32 bits = __float_as_uint(x);
    bits = (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : bits == 0x80000000u ? 0u : bits;
    u32 ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
    return low_high(~column, ordered);
}

// The best rank of a row of logits, in every thread.
__device__ __forceinline__ u64 best_of(u64 at, u32 type, u64 first, u32 columns, u64* scratch) {
    u64 best = 0;
    for (u32 c = threadIdx.x; c < columns; c += 256) {
        u64 rank = rank_of(load(at, type, first + c), c);
        best = rank > best ? rank : best;
    }
    scratch[threadIdx.x] = best;
    __syncthreads();
    for (u32 half = 128; half > 0; half >>= 1) {
        if (threadIdx.x < half && scratch[threadIdx.x + half] > scratch[threadIdx.x]) {
            scratch[threadIdx.x] = scratch[threadIdx.x + half];
        }
        __syncthreads();
    }
    u64 found = scratch[0];
    __syncthreads();
    return found;
}

// The logarithm of the sum of exponentials of a row, in f64.
__device__ __forceinline__ double log_sum(u64 at, u32 type, u64 first, u32 columns, double most,
                                          double* scratch) {
    double sum = 0.0;
    for (u32 c = threadIdx.x; c < columns; c += 256) sum += exp((double)load(at, type, first + c) - most);
    return most + log(whole_sum(sum, scratch));
}

// One row of logits a block of 256: cross-entropy of its target, and where there are reference logits in f32 the
// divergence from their distribution, sum over i of p_i (log p_i - log q_i).
extern "C" __global__ void __launch_bounds__(256) language_score(const LanguageParams p) {
    __shared__ u64 ranks[256];
    __shared__ double scratch[256];
    u64 row = blockIdx.x, first = row * p.columns;
    u32 target = ((const u32*)p.second)[row];
    Scored scored = {0.0, 0.0, 0, 0};
    if (target != NO_TARGET) {
        u64 best = best_of(p.in, p.in_type, first, p.columns, ranks);
        double most = load(p.in, p.in_type, first + (u32)~best);
        double all = log_sum(p.in, p.in_type, first, p.columns, most, scratch);
        scored.loss = all - (double)load(p.in, p.in_type, first + target);
        scored.counted = 1;
        if (p.third != 0) {
            u64 other = best_of(p.third, F32, first, p.columns, ranks);
            most = load(p.third, F32, first + (u32)~other);
            double whole = log_sum(p.third, F32, first, p.columns, most, scratch);
            double sum = 0.0;
            for (u32 c = threadIdx.x; c < p.columns; c += 256) {
                double wanted = (double)load(p.third, F32, first + c) - whole;
                double found = (double)load(p.in, p.in_type, first + c) - all;
                sum += exp(wanted) * (wanted - found);
            }
            scored.divergence = whole_sum(sum, scratch);
            scored.agrees = (u32)best == (u32)other;
        }
    }
    if (threadIdx.x == 0) ((Scored*)p.out)[row] = scored;
}
