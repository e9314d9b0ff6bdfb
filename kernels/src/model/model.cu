#line 2 "model.cu"
// What a transformer does between its products: weights and embedding, layer norm, GELU, and the comparison
// of two results. fp16 in memory, f32 in registers. What a row becomes depends on that row alone, in one order.

// As Rust's ModelParams.
struct ModelParams {
    u64 out;
    u64 in;
    u64 second;    // norm: gain; embed: tokens, i32; compare: the other result
    u64 third;     // norm: bias; compare: Difference
    u64 rows;
    u64 columns;   // a multiple of 8
    u64 out_row;   // elements from one row to the next
    u64 in_row;
    u64 first;     // weights: global index of element (0, 0); norm: the first row of `in`
    u64 seed;
    float factor;  // weights: one step of the sum of uniforms; norm: epsilon
    u32 reserved;
};
static_assert(sizeof(ModelParams) == 88, "the Rust side asserts the same size");

// What differs between two results.
struct Difference {
    u64 count;      // elements whose bits differ
    u64 first;      // index of the first of them
    u64 hash;       // sum over 32-bit words of mix(word, index), of the first result
    u32 ulp;        // most steps from one number to the other
    u32 delta;      // largest |a - b|, bits of an f32; NaN counts as infinity
};

__device__ __forceinline__ void unpack(const uint4& v, float (&x)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; ++i) x[i] = decode<F16>(code_of<F16>(v, i));
}

__device__ __forceinline__ u32 pack(float low, float high) {
    return encode<F16>(low) | (encode<F16>(high) << 16);
}

__device__ __forceinline__ uint4 pack(const float (&x)[8]) {
    return make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

// Element (r, c) of a share is element first + r * in_row + c of the whole matrix, whoever makes it.
extern "C" __global__ void __launch_bounds__(256) model_weights(const ModelParams p) {
    u64 vectors = p.columns / 8;
    u64 all = p.rows * vectors;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < all; v += stride) {
        u64 row = v / vectors, column = v % vectors * 8;
        u64 element = p.first + row * p.in_row + column;
        float x[8];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            u32 h = draw(p.seed, (element + i) * 2);
            u32 g = draw(p.seed, (element + i) * 2 + 1);
            int sum = (int)((h & 0xFFFF) + (h >> 16) + (g & 0xFFFF) + (g >> 16)) - 131070;
            x[i] = (float)sum * p.factor;
        }
        *(uint4*)(p.out + 2 * (row * p.out_row + column)) = pack(x);
    }
}

// Row r of the output is the embedding's row of token r. One block a row.
extern "C" __global__ void __launch_bounds__(256) model_embed(const ModelParams p) {
    u64 row = blockIdx.x;
    u64 token = ((const u32*)p.second)[row];
    const uint4* from = (const uint4*)(p.in + 2 * token * p.columns);
    uint4* to = (uint4*)(p.out + 2 * row * p.out_row);
    for (u64 v = threadIdx.x; v < p.columns / 8; v += blockDim.x) to[v] = from[v];
}

// The sum over a block of 256 threads in one order: within warps by halves, then warps 0 to 7.
__device__ __forceinline__ float whole_sum(float value, float* scratch) {
#pragma unroll
    for (u32 offset = 16; offset > 0; offset >>= 1) {
        value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
    }
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (u32 warp = 0; warp < 8; ++warp) total += scratch[warp];
    __syncthreads();
    return total;
}

// Layer norm of one row a block, at most 8192 columns: (x - mean) / sqrt(variance + epsilon) * gain + bias,
// the variance from deviations. Row r comes from row first + r * in_row / columns rows of `in`.
extern "C" __global__ void __launch_bounds__(256) model_norm(const ModelParams p) {
    __shared__ float scratch[8];
    constexpr u32 MOST = 4;
    let_later_begin();
    await_earlier();
    u64 row = blockIdx.x;
    const uint4* from = (const uint4*)(p.in + 2 * (p.first + row * p.in_row));
    uint4* to = (uint4*)(p.out + 2 * row * p.out_row);
    u32 vectors = (u32)(p.columns / 8);
    float count = (float)p.columns;
    float x[MOST][8];
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 v = threadIdx.x + j * 256;
        if (v < vectors) {
            unpack(from[v], x[j]);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) sum += x[j][i];
        }
    }
    float mean = whole_sum(sum, scratch) / count;
    float squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        if (threadIdx.x + j * 256 < vectors) {
#pragma unroll
            for (u32 i = 0; i < 8; ++i) {
                x[j][i] -= mean;
                squares += x[j][i] * x[j][i];
            }
        }
    }
    float inverse = 1.0f / sqrtf(whole_sum(squares, scratch) / count + p.factor);
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 v = threadIdx.x + j * 256;
        if (v < vectors) {
            float gain[8], bias[8];
            unpack(((const uint4*)p.second)[v], gain);
            unpack(((const uint4*)p.third)[v], bias);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) x[j][i] = x[j][i] * inverse * gain[i] + bias[i];
            to[v] = pack(x[j]);
        }
    }
}

// GELU in place, over rows that lie apart.
extern "C" __global__ void __launch_bounds__(256) model_gelu(const ModelParams p) {
    u64 vectors = p.columns / 8;
    u64 all = p.rows * vectors;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < all; v += stride) {
        uint4* at = (uint4*)(p.out + 2 * (v / vectors * p.out_row + v % vectors * 8));
        *at = gelu(*at);
    }
}

// x += y over whole rows, one rounding.
extern "C" __global__ void __launch_bounds__(256) model_add(const ModelParams p) {
    u64 vectors = p.rows * p.columns / 8;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < vectors; v += stride) {
        float x[8], y[8];
        unpack(((const uint4*)p.out)[v], x);
        unpack(((const uint4*)p.in)[v], y);
#pragma unroll
        for (u32 i = 0; i < 8; ++i) x[i] += y[i];
        ((uint4*)p.out)[v] = pack(x);
    }
}

// The place of a half among all halves in order, so that neighbours differ by one; both zeros are one place.
__device__ __forceinline__ int place(u32 code) {
    int magnitude = (int)(code & 0x7FFF);
    return (code & 0x8000) != 0 ? -magnitude : magnitude;
}

extern "C" __global__ void __launch_bounds__(256) model_compare(const ModelParams p) {
    __shared__ u64 scratch[8];
    Difference* out = (Difference*)p.third;
    u64 vectors = p.columns / 8;
    u64 all = p.rows * vectors;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 count = 0, hash = 0, first = ~0ull;
    u32 ulp = 0;
    float delta = 0.0f;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < all; v += stride) {
        u64 row = v / vectors, column = v % vectors * 8;
        uint4 a = *(const uint4*)(p.in + 2 * (row * p.in_row + column));
        uint4 b = *(const uint4*)(p.second + 2 * (row * p.out_row + column));
        hash += mix(low_high(a.x, a.y), 2 * v);
        hash += mix(low_high(a.z, a.w), 2 * v + 1);
        if (a.x == b.x && a.y == b.y && a.z == b.z && a.w == b.w) continue;
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            u32 x = code_of<F16>(a, i), y = code_of<F16>(b, i);
            if (x == y) continue;
            count += 1;
            u64 element = row * p.columns + column + i;
            first = element < first ? element : first;
            int steps = place(x) - place(y);
            u32 apart = (u32)(steps < 0 ? -steps : steps);
            ulp = apart > ulp ? apart : ulp;
            float off = fabsf(decode<F16>(x) - decode<F16>(y));
            if (!(off <= 3.0e38f)) off = __uint_as_float(0x7F800000u);
            delta = off > delta ? off : delta;
        }
    }
    if (count != 0) {
        atomicAdd(&out->count, count);
        atomicMin(&out->first, first);
        atomicMax(&out->ulp, ulp);
        atomicMax(&out->delta, __float_as_uint(delta));
    }
    u64 total = block_sum(hash, scratch);
    if (threadIdx.x == 0) atomicAdd(&out->hash, total);
}
