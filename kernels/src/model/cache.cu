#line 2 "cache.cu"
// Keys and values of a layer in E4M3, with a scale for each head of keys and of values, of all sequences: filled from
// what a pass left, extended by one token of each sequence. What each does, with which roundings, stands in
// cache.rs (`oracle`), number by number.
//
// Attention reads a code that is no number as 480, and a head whose weights have no sum as zeros. So that neither
// hides anything, the scale of a head's values becomes NaN where its keys or values are not all finite, and
// attention over that head gives NaN.

struct CacheParams {
    u64 keys;           // fp16 [sequence][token][head][128] by steps, from the first that is taken
    u64 values;
    u64 key_codes;      // E4M3 [sequence][token][head][128] by steps, from the first that is written
    u64 value_codes;
    u64 largest;        // u32 [keys, values][head]: codes of the largest magnitudes, halves; 0 before they are sought
    u64 scales;         // f32 [keys, values][head]
    u64 row, sequence;  // elements of keys and values from one token to the next, from one sequence to the next
    u64 code_row, code_sequence;
    u32 heads;
    u32 tokens;         // of each sequence
    u32 tiles;          // of 64 tokens each
    u32 turned;         // planted fault: what a step stores stands so many heads too far
};
static_assert(sizeof(CacheParams) == 96, "the Rust side asserts the same size");

constexpr u32 HEAD = 128;
constexpr u32 VECTORS = HEAD / 8;  // of a head of a token
constexpr u32 TILE_TOKENS = 64;
constexpr u32 LOADS = TILE_TOKENS * VECTORS / 256;
constexpr u32 INFINITE = 0x7C00;
constexpr float MOST_E4M3 = 448.0f;
constexpr float HEADROOM = 2.0f;   // later tokens may be so many times as large before they saturate

// The larger of two magnitudes, in each half of a word; what is no number comes out as none.
__device__ __forceinline__ u32 larger_pair(u32 a, u32 b) {
    u32 most;
    asm("{\n.reg .b32 x, y;\nabs.f16x2 x, %1;\nabs.f16x2 y, %2;\nmax.NaN.f16x2 %0, x, y;\n}"
        : "=r"(most) : "r"(a), "r"(b));
    return most;
}

// The code of the largest magnitude: codes of positive halves are ordered as the numbers are, NaN last.
__device__ __forceinline__ u32 largest_of(const uint4& v) {
    u32 most = larger_pair(larger_pair(v.x, v.y), larger_pair(v.z, v.w));
    return max(most & 0xFFFFu, most >> 16);
}

// What codes of a part are multiplied by, and the factor that makes them. Zeros, and what is not all finite, have 1.
struct Scale {
    float scale, inverse;
    __device__ __forceinline__ Scale(u32 largest) {
        const float most = HEADROOM * decode<F16>(largest);
        const bool ordinary = 0 < largest && largest < INFINITE;
        scale = ordinary ? __fdiv_rn(most, MOST_E4M3) : 1.0f;
        inverse = ordinary ? __fdiv_rn(MOST_E4M3, most) : 1.0f;
    }
};

__device__ __forceinline__ uint2 codes_of(const uint4& v, float inverse) {
    u32 pairs[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        pairs[i] = e4m3_pair(__fmul_rn(decode<F16>(code_of<F16>(v, 2 * i)), inverse),
                             __fmul_rn(decode<F16>(code_of<F16>(v, 2 * i + 1)), inverse));
    }
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

// A block's part (keys or values), head, 64 tokens and sequence; blocks side by side read rows side by side.
struct Place {
    u32 part, head, tile, sequence;
    __device__ __forceinline__ Place(const CacheParams& p) {
        u32 rest = blockIdx.x;
        head = rest % p.heads;
        rest /= p.heads;
        part = rest % 2;
        rest /= 2;
        tile = rest % p.tiles;
        sequence = rest / p.tiles;
    }
    __device__ __forceinline__ u64 token(u32 load) const {
        return tile * TILE_TOKENS + load * (256 / VECTORS) + threadIdx.x / VECTORS;
    }
    __device__ __forceinline__ u32 element() const {
        return head * HEAD + threadIdx.x % VECTORS * 8;
    }
};

// Tokens behind the last one are zeros.
__device__ __forceinline__ uint4 read(const CacheParams& p, const Place& at, u32 load) {
    const u64 token = at.token(load);
    if (token >= p.tokens) return make_uint4(0, 0, 0, 0);
    const u16* from = (const u16*)(at.part == 0 ? p.keys : p.values);
    return *(const uint4*)(from + at.sequence * p.sequence + token * p.row + at.element());
}

extern "C" __global__ void __launch_bounds__(256) cache_largest(const CacheParams p) {
    const Place at(p);
    u32 most = 0;
#pragma unroll
    for (u32 load = 0; load < LOADS; ++load) most = max(most, largest_of(read(p, at, load)));
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    if ((threadIdx.x & 31) == 0) atomicMax((u32*)p.largest + at.part * p.heads + at.head, most);
}

extern "C" __global__ void __launch_bounds__(256) cache_fill(const CacheParams p) {
    const Place at(p);
    const u32 of_keys = ((const u32*)p.largest)[at.head];
    const u32 of_values = ((const u32*)p.largest)[p.heads + at.head];
    const Scale scale(at.part == 0 ? of_keys : of_values);
    if (at.tile == 0 && at.sequence == 0 && threadIdx.x == 0) {
        const bool finite = max(of_keys, of_values) < INFINITE;
        const float stored = at.part == 0 || finite ? scale.scale : __uint_as_float(0x7FC00000u);
        ((float*)p.scales)[at.part * p.heads + at.head] = stored;
    }
    u8* to = (u8*)(at.part == 0 ? p.key_codes : p.value_codes);
#pragma unroll
    for (u32 load = 0; load < LOADS; ++load) {
        const u64 token = at.token(load);
        const uint2 codes = codes_of(read(p, at, load), scale.inverse);
        if (token < p.tokens) {
            *(uint2*)(to + at.sequence * p.code_sequence + token * p.code_row + at.element()) = codes;
        }
    }
}

// One token of each sequence, a warp a head: sixteen threads its keys, sixteen its values. By the scale that the
// filled tokens gave; what is larger than their head-room saturates.
extern "C" __global__ void __launch_bounds__(32) cache_step(const CacheParams p) {
    let_later_begin();
    await_earlier();
    const u32 head = blockIdx.x % p.heads, sequence = blockIdx.x / p.heads;
    const u32 part = threadIdx.x / VECTORS, element = threadIdx.x % VECTORS * 8;
    const u16* from = (const u16*)(part == 0 ? p.keys : p.values);
    const uint4 v = *(const uint4*)(from + sequence * p.sequence + head * HEAD + element);
    const Scale scale(((const u32*)p.largest)[part * p.heads + head]);
    const bool finite = __all_sync(0xFFFFFFFFu, largest_of(v) < INFINITE) != 0;
    if (!finite && threadIdx.x == 0) {
        ((float*)p.scales)[p.heads + head] = __uint_as_float(0x7FC00000u);
    }
    u8* to = (u8*)(part == 0 ? p.key_codes : p.value_codes) + sequence * p.code_sequence;
    const u32 place = (head + p.turned) % p.heads;
    *(uint2*)(to + place * HEAD + element) = codes_of(v, scale.inverse);
}
