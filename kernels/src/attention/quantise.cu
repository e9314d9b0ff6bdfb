#line 2 "quantise.cu"
// Queries, keys or values to E4M3 with one scale a head of a sequence: a power of two, the least by which
// nothing of the head exceeds 448. So scaling is exact, and what E4M3 holds is exact in 16 bits too.

struct QuantiseParams {
    u64 source;   // 16-bit, [batch][row][head][HEAD] by steps
    u64 largest;  // u32 for each [batch][head]: bits of the largest magnitude; zero before
    u64 scales;   // f32 for each [batch][head]
    u64 target;   // E4M3: [batch][row][head][HEAD], transposed [batch][head][HEAD][padded]
    u64 rounded;  // 16-bit, packed as the source: what E4M3 holds, times the scale; 0 for none
    i64 row, head, batch;  // steps of the source in elements
    u32 heads;
    u32 rows;
    u32 padded;      // transposed: keys with those that pad them to whole tiles, of value 0
    u32 transposed;  // values: keys innermost, in the order that the kernel's fragments have
    u32 tiles;       // of 64 rows, a head
    u32 type;        // F16 or BF16
};
static_assert(sizeof(QuantiseParams) == 88, "the Rust side asserts the same size");

constexpr u32 HEAD = 128;
constexpr u32 TILE_ROWS = 64;
constexpr u32 EACH = 8;  // elements of a 16-byte load
constexpr u32 LOADS = TILE_ROWS * HEAD / EACH / 256;

struct Place {
    u32 tile, head, batch;
    __device__ __forceinline__ Place(const QuantiseParams& p) {
        tile = blockIdx.x % p.tiles;
        u32 rest = blockIdx.x / p.tiles;
        head = rest % p.heads;
        batch = rest / p.heads;
    }
    __device__ __forceinline__ u32 row(u32 load) const {
        return tile * TILE_ROWS + (load * 256 + threadIdx.x) / (HEAD / EACH);
    }
    __device__ __forceinline__ u32 column() const { return threadIdx.x % (HEAD / EACH) * EACH; }
};

__device__ __forceinline__ uint4 read(const QuantiseParams& p, const Place& at, u32 load) {
    u32 row = at.row(load);
    if (row >= p.rows) return make_uint4(0, 0, 0, 0);
    const u16* source = (const u16*)p.source + at.batch * p.batch + at.head * p.head + row * p.row;
    return *(const uint4*)(source + at.column());
}

__device__ __forceinline__ float value_of(const QuantiseParams& p, u32 code) {
    return p.type == BF16 ? decode<BF16>(code) : decode<F16>(code);
}

__device__ __forceinline__ u32 half_of(const uint4& v, u32 i) {
    u32 word = i / 2 == 0 ? v.x : i / 2 == 1 ? v.y : i / 2 == 2 ? v.z : v.w;
    return (word >> (i % 2 * 16)) & 0xFFFF;
}

extern "C" __global__ void __launch_bounds__(256) attention_largest(const QuantiseParams p) {
    Place at(p);
    u32 most = 0;
#pragma unroll
    for (u32 load = 0; load < LOADS; ++load) {
        uint4 v = read(p, at, load);
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) {
            most = max(most, __float_as_uint(value_of(p, half_of(v, i))) & 0x7FFFFFFFu);
        }
    }
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    if ((threadIdx.x & 31) == 0) {
        atomicMax((u32*)p.largest + at.batch * p.heads + at.head, most);
    }
}

// The least power of two by which a magnitude is no more than 448 = 1.75 x 2^8.
__device__ __forceinline__ float scale_of(u32 largest) {
    if (largest == 0) return 1.0f;
    int exponent = (int)(largest >> 23) - 127 - 8;
    if ((largest & 0x7FFFFFu) > 0x600000u) ++exponent;
    return __uint_as_float((u32)(exponent + 127) << 23);
}

// Where a key of 16 stands in a transposed tensor.
__device__ __forceinline__ u32 place_of(u32 key) {
    return key % 8 / 2 * 4 + key / 8 * 2 + key % 2;
}

extern "C" __global__ void __launch_bounds__(256) attention_quantise(const QuantiseParams p) {
    __shared__ __align__(16) u8 turned[HEAD][TILE_ROWS + 16];
    Place at(p);
    u64 line = at.batch * p.heads + at.head;
    float scale = scale_of(((const u32*)p.largest)[line]);
    float inverse = 1.0f / scale;
    if (at.tile == 0 && threadIdx.x == 0) ((float*)p.scales)[line] = scale;
#pragma unroll
    for (u32 load = 0; load < LOADS; ++load) {
        uint4 v = read(p, at, load);
        u32 row = at.row(load), codes[EACH], words[4] = {0, 0, 0, 0};
        u64 packed = ((u64)at.batch * p.rows + row) * p.heads + at.head;
#pragma unroll
        for (u32 i = 0; i < EACH; ++i) {
            codes[i] = e4m3_encode(value_of(p, half_of(v, i)) * inverse);
            float back = e4m3_decode(codes[i]) * scale;
            u32 code = p.type == BF16 ? encode<BF16>(back) : encode<F16>(back);
            words[i / 2] |= code << (i % 2 * 16);
        }
        if (p.rounded != 0 && row < p.rows) {
            uint4* rounded = (uint4*)((u16*)p.rounded + packed * HEAD + at.column());
            *rounded = make_uint4(words[0], words[1], words[2], words[3]);
        }
        if (p.transposed != 0) {
            u32 key = row % TILE_ROWS;
            u32 place = key / 16 * 16 + place_of(key % 16);
#pragma unroll
            for (u32 i = 0; i < EACH; ++i) turned[at.column() + i][place] = (u8)codes[i];
        } else if (row < p.rows) {
            u32 low = codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24;
            u32 high = codes[4] | codes[5] << 8 | codes[6] << 16 | codes[7] << 24;
            *(uint2*)((u8*)p.target + packed * HEAD + at.column()) = make_uint2(low, high);
        }
    }
    if (p.transposed == 0) return;
    __syncthreads();
    u8* target = (u8*)p.target + line * HEAD * p.padded + at.tile * TILE_ROWS;
    for (u32 i = threadIdx.x; i < HEAD * TILE_ROWS / 16; i += 256) {
        u32 element = i / (TILE_ROWS / 16), part = i % (TILE_ROWS / 16) * 16;
        *(uint4*)(target + (u64)element * p.padded + part) = *(const uint4*)&turned[element][part];
    }
}
