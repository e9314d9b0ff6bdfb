#line 2 "integers.cu"
// Integers of few bits: 8 bits by rows with a symmetric scale, and ternary numbers of 2 bits, packed from the low
// end. What each does, number by number, stands in integers.rs.

struct IntegerParams {
    u64 input;    // encode, rows: fp16; decode: packed codes
    u64 out;      // encode, rows: packed codes; decode: f32
    u64 scales;   // rows: f32, one a row
    u64 count;    // encode, decode: 32-bit words of codes; rows: rows
    u32 columns;  // rows: a multiple of 8
    u32 format;   // 0: 8 bits, 1: ternary
    float factor; // encode, decode: of every number
    u32 truncate; // 1: rounds toward zero, a planted fault
};
static_assert(sizeof(IntegerParams) == 48, "the Rust side asserts the same size");

// To nearest, ties to even; beyond the ends the ends, and no number is 0.
template <int MOST>
__device__ __forceinline__ int nearest(float x, bool truncate) {
    const float bounded = fminf(fmaxf(x == x ? x : 0.0f, (float)-MOST), (float)MOST);
    return truncate ? __float2int_rz(bounded) : __float2int_rn(bounded);
}

template <u32 BITS, int MOST>
__device__ __forceinline__ u32 packed(const IntegerParams& p, u64 word) {
    constexpr u32 EACH = 32 / BITS, MASK = (1u << BITS) - 1;
    u32 codes = 0;
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) {
        const float x = decode<F16>(((const u16*)p.input)[word * EACH + i]);
        const int code = nearest<MOST>(__fmul_rn(x, p.factor), p.truncate != 0);
        codes |= ((u32)code & MASK) << (BITS * i);
    }
    return codes;
}

extern "C" __global__ void __launch_bounds__(256) integers_encode(const IntegerParams p) {
    const u64 word = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= p.count) return;
    ((u32*)p.out)[word] = p.format == 0 ? packed<8, 127>(p, word) : packed<2, 1>(p, word);
}

extern "C" __global__ void __launch_bounds__(256) integers_decode(const IntegerParams p) {
    const u64 word = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= p.count) return;
    const u32 bits = p.format == 0 ? 8 : 2, each = 32 / bits;
    const u32 codes = ((const u32*)p.input)[word];
    for (u32 i = 0; i < each; ++i) {
        const int number = (int)(codes << (32 - bits * (i + 1))) >> (32 - bits);
        // The fourth code of two bits stands for nothing.
        const bool none = p.format == 1 && number == -2;
        const float value = __fmul_rn((float)number, p.factor);
        ((float*)p.out)[word * each + i] = none ? __uint_as_float(0x7FC00000u) : value;
    }
}

// A row a block: its largest magnitude, then its codes. The second pass reads from the cache.
extern "C" __global__ void __launch_bounds__(256) integers_rows(const IntegerParams p) {
    __shared__ u32 scratch[8];
    const u32 vectors = p.columns / 8;
    const uint4* from = (const uint4*)p.input + (u64)blockIdx.x * vectors;
    u32 most = 0;
    for (u32 at = threadIdx.x; at < vectors; at += 256) {
        const uint4 v = from[at];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) most = max(most, code_of<F16>(v, i) & 0x7FFF);
    }
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = most;
    __syncthreads();
#pragma unroll
    for (u32 warp = 0; warp < 8; ++warp) most = max(most, scratch[warp]);
    const float largest = decode<F16>(most);
    const bool empty = most == 0;
    const float factor = empty ? 1.0f : __fdiv_rn(127.0f, largest);
    if (threadIdx.x == 0) {
        ((float*)p.scales)[blockIdx.x] = empty ? 1.0f : __fdiv_rn(largest, 127.0f);
    }
    uint2* to = (uint2*)p.out + (u64)blockIdx.x * vectors;
    for (u32 at = threadIdx.x; at < vectors; at += 256) {
        const uint4 v = from[at];
        u32 words[2] = {0, 0};
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            const float x = __fmul_rn(decode<F16>(code_of<F16>(v, i)), factor);
            words[i / 4] |= ((u32)nearest<127>(x, p.truncate != 0) & 0xFF) << (i % 4 * 8);
        }
        to[at] = make_uint2(words[0], words[1]);
    }
}
