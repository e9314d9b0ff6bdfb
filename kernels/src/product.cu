#line 2 "product.cu"
// Checks of a matrix product D[m, n] = A[m, k] B[n, k]^T, all row-major.
//
// Freivalds: with x of odd numbers in 1..2^15, D x must equal A (B^T x) in wrapping 64-bit integers.
// Every element of D takes part, and one wrong element cannot hide, because x is never 0.
// Samples: the product of chosen rows in f64 from the operands as they lie in memory.

struct ProductParams {
    u64 a;
    u64 b;
    u64 d;
    u64 fold;        // i64[k]: B^T x, zero before product_fold
    u64 scale_a;     // f32 or 0
    u64 scale_b;     // f32 or 0
    u64 result;      // product_rows: u64[3] wrong rows, first wrong row, values not integral
    u64 samples;     // double[8] a sample
    u64 seed;
    u32 m;
    u32 n;
    u32 k;
    u32 in_type;
    u32 out_type;
    u32 scale_a_step; // 1: one scale a row of A; 0: one for all
    u32 scale_b_step;
    u32 fold_rows;   // rows of B of one block of product_fold
    u32 sample_count;
    u32 promote;     // chunks of 32 after which the accumulator starts anew; 0: never
    float alpha;
    u32 reserved;
};
static_assert(sizeof(ProductParams) == 120, "the Rust side asserts the same size");

__device__ __forceinline__ i64 weight(u64 seed, u64 column) {
    return (i64)((draw(seed, column) & 0x7FFF) | 1);
}

template <int T>
__device__ __forceinline__ void fold(const ProductParams& p) {
    constexpr u32 EACH = 16 / bytes_of(T);
    u32 vectors = p.k / EACH;
    u32 v = blockIdx.x * blockDim.x + threadIdx.x;
    if (v >= vectors) return;
    u32 first = blockIdx.y * p.fold_rows;
    u32 end = p.n - first < p.fold_rows ? p.n : first + p.fold_rows;
    const uint4* b = (const uint4*)p.b;
    i64 sums[EACH];
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) sums[i] = 0;
    for (u32 row = first; row < end; ++row) {
        uint4 codes = b[(u64)row * vectors + v];
        i64 x = weight(p.seed, row);
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) sums[i] += x * (int)decode<T>(code_of<T>(codes, i));
    }
    u64* out = (u64*)p.fold + (u64)v * EACH;
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) atomicAdd(out + i, (u64)sums[i]);
}

extern "C" __global__ void __launch_bounds__(256, 1) product_fold(const ProductParams p) {
    switch (p.in_type) {
        case F16: fold<F16>(p); break;
        case BF16: fold<BF16>(p); break;
        case F32: fold<F32>(p); break;
        case E4M3: fold<E4M3>(p); break;
        case INT8: fold<INT8>(p); break;
        default: break;
    }
}

// The thread's part of row `row` of A times the folded vector.
template <int T>
__device__ __forceinline__ i64 expected(const ProductParams& p, u32 row) {
    constexpr u32 EACH = 16 / bytes_of(T);
    u32 vectors = p.k / EACH;
    const uint4* a = (const uint4*)p.a + (u64)row * vectors;
    const i64* fold = (const i64*)p.fold;
    i64 sum = 0;
    for (u32 v = threadIdx.x; v < vectors; v += blockDim.x) {
        uint4 codes = a[v];
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) {
            sum += fold[(u64)v * EACH + i] * (int)decode<T>(code_of<T>(codes, i));
        }
    }
    return sum;
}

__device__ __forceinline__ double scale_at(u64 scales, u64 index, u32 step) {
    return scales == 0 ? 1.0 : (double)((const float*)scales)[index * step];
}

// The thread's part of row `row` of D, with its scales divided out, times x. A value that is not
// an integer after that, NaN and infinity are counted in `broken` and taken as 0.
template <int T>
__device__ __forceinline__ i64 found(const ProductParams& p, u32 row, u64& broken) {
    constexpr u32 EACH = 16 / bytes_of(T);
    u32 vectors = p.n / EACH;
    const uint4* d = (const uint4*)p.d + (u64)row * vectors;
    double row_scale = (double)p.alpha * scale_at(p.scale_a, row, p.scale_a_step);
    i64 sum = 0;
    for (u32 v = threadIdx.x; v < vectors; v += blockDim.x) {
        uint4 codes = d[v];
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) {
            u64 column = (u64)v * EACH + i;
            i64 value;
            if constexpr (T == INT32) {
                value = (i64)(int)code_of<T>(codes, i);
            } else {
                double scale = row_scale * scale_at(p.scale_b, column, p.scale_b_step);
                double x = (double)decode<T>(code_of<T>(codes, i)) / scale;
                bool integral = fabs(x) < 1e15 && rint(x) == x;
                broken += !integral;
                value = integral ? (i64)x : 0;
            }
            sum += value * weight(p.seed, column);
        }
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(256) product_rows(const ProductParams p) {
    __shared__ u64 scratch[8];
    u32 row = blockIdx.x;
    u64 broken = 0;
    i64 difference = 0;
    switch (p.in_type) {
        case F16: difference = expected<F16>(p, row); break;
        case BF16: difference = expected<BF16>(p, row); break;
        case F32: difference = expected<F32>(p, row); break;
        case E4M3: difference = expected<E4M3>(p, row); break;
        case INT8: difference = expected<INT8>(p, row); break;
        default: break;
    }
    switch (p.out_type) {
        case F16: difference -= found<F16>(p, row, broken); break;
        case BF16: difference -= found<BF16>(p, row, broken); break;
        case F32: difference -= found<F32>(p, row, broken); break;
        case INT32: difference -= found<INT32>(p, row, broken); break;
        default: break;
    }
    u64 total = block_sum((u64)difference, scratch);
    u64 bad = block_sum(broken, scratch);
    u64* result = (u64*)p.result;
    if (threadIdx.x == 0 && (total != 0 || bad != 0)) {
        atomicAdd(result, 1ull);
        atomicMin(result + 1, (u64)row);
        if (bad != 0) atomicAdd(result + 2, bad);
    }
}

__device__ __forceinline__ float element(u64 data, u32 type, u64 index) {
    switch (type) {
        case F16: return decode<F16>(((const u16*)data)[index]);
        case BF16: return decode<BF16>(((const u16*)data)[index]);
        case F32: return decode<F32>(((const u32*)data)[index]);
        case E4M3: return decode<E4M3>(((const u8*)data)[index]);
        default: return decode<INT8>(((const u8*)data)[index]);
    }
}

__device__ __forceinline__ double warp_sum(double value) {
    for (u32 offset = 16; offset > 0; offset >>= 1) {
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    }
    return value;
}

// One warp a sample; a chunk is 32 products, one a lane. Beside the product it sums what the error
// of an accumulator can grow from: the size T = |accumulator| + sum of |products| of each chunk.
extern "C" __global__ void __launch_bounds__(128, 1) product_sample(const ProductParams p) {
    u32 sample = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    u32 lane = threadIdx.x & 31;
    if (sample >= p.sample_count) return;
    u32 row = __umulhi(draw(p.seed, 2ull * sample), p.m);
    u32 column = __umulhi(draw(p.seed, 2ull * sample + 1), p.n);
    u64 a = (u64)row * p.k, b = (u64)column * p.k;
    double sum = 0, chunk_start = 0, magnitude = 0, linear = 0, quadratic = 0, promoted = 0;
    u32 since = 0;
    for (u32 k = 0; k < p.k; k += 32) {
        double product = 0;
        if (k + lane < p.k) {
            product = (double)element(p.a, p.in_type, a + k + lane) *
                      (double)element(p.b, p.in_type, b + k + lane);
        }
        double size = warp_sum(fabs(product));
        double reach = fabs(sum - chunk_start) + size;
        sum += warp_sum(product);
        magnitude += size;
        linear += reach;
        quadratic += reach * reach;
        if (p.promote != 0 && ++since == p.promote) {
            since = 0;
            chunk_start = sum;
            promoted += fabs(sum);
        }
    }
    if (lane != 0) return;
    double scale = (double)p.alpha * scale_at(p.scale_a, row, p.scale_a_step) *
                   scale_at(p.scale_b, column, p.scale_b_step);
    u64 index = (u64)row * p.n + column;
    double value = p.out_type == INT32 ? (double)((const int*)p.d)[index]
                                       : (double)element(p.d, p.out_type, index);
    double* out = (double*)p.samples + (u64)sample * 8;
    out[0] = (double)index;
    out[1] = value;
    out[2] = sum * scale;
    out[3] = magnitude * fabs(scale);
    out[4] = linear * fabs(scale);
    out[5] = sqrt(quadratic) * fabs(scale);
    out[6] = promoted * fabs(scale);
    out[7] = scale;
}
