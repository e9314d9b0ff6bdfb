// The block map of a mask: which tiles of keys a tile of queries visits, and which of them it need not
// mask. Made on the device by asking the mask for every pair.
//
// Set from outside: the program.

struct BlockParams {
    u64 classes;       // u8 for each pair of tiles: 0 nothing seen, 1 something, 2 everything
    u64 lists, counts; // see Tiles in problem.cuh
    u64 q_offsets, k_offsets;
    u64 data;
    u32 heads, group;
    int queries, keys;
    u32 q_tiles, k_tiles;
    u32 tile_queries, tile_keys;
    u32 list_heads, list_batches;
    u32 dropped;       // planted: this many tiles, the last, are left out of every list
    int count, number;
    float factor;
};
static_assert(sizeof(BlockParams) == 104, "the Rust side asserts the same size");

constexpr u32 MASKED_TILE = 0x80000000u;

struct Sequence {
    int batch, head, queries, keys;
    __device__ __forceinline__ Sequence(const BlockParams& p, u32 list) {
        batch = list / p.list_heads;
        head = list - batch * p.list_heads;
        queries = p.queries;
        keys = p.keys;
        if (p.q_offsets != 0) {
            queries = ((const int*)p.q_offsets)[batch + 1] - ((const int*)p.q_offsets)[batch];
            keys = ((const int*)p.k_offsets)[batch + 1] - ((const int*)p.k_offsets)[batch];
        }
    }
};

// One block a pair of tiles.
extern "C" __global__ void __launch_bounds__(256) attention_classify(const BlockParams p) {
    u32 k_tile = blockIdx.x % p.k_tiles;
    u32 q_tile = blockIdx.x / p.k_tiles % p.q_tiles;
    u32 list = blockIdx.x / p.k_tiles / p.q_tiles;
    Sequence sequence(p, list);
    Problem at{sequence.batch, sequence.head, sequence.head / (int)p.group, sequence.queries,
               sequence.keys, (const int*)p.data, p.count, p.number, p.factor};
    int first_query = q_tile * p.tile_queries, first_key = k_tile * p.tile_keys;
    int queries = min((int)p.tile_queries, sequence.queries - first_query);
    bool any = false, all = true;
    int pairs = queries > 0 ? queries * (int)p.tile_keys : 0;
    for (int i = threadIdx.x; i < pairs; i += 256) {
        int key = first_key + i % (int)p.tile_keys;
        bool seen = key < sequence.keys;
        if (seen) seen = mask(at, first_query + i / (int)p.tile_keys, key);
        any |= seen;
        all &= seen;
    }
    any = __syncthreads_or(any) != 0;
    all = __syncthreads_and(all) != 0;
    if (threadIdx.x == 0) ((u8*)p.classes)[blockIdx.x] = any ? (all ? 2 : 1) : 0;
}

// One warp a list: the tiles that are not empty, from high keys to low.
extern "C" __global__ void __launch_bounds__(32) attention_lists(const BlockParams p) {
    const u8* classes = (const u8*)p.classes + (u64)blockIdx.x * p.k_tiles;
    u32* list = (u32*)p.lists + (u64)blockIdx.x * p.k_tiles;
    u32 count = 0, lane = threadIdx.x;
    for (u32 base = 0; base < p.k_tiles; base += 32) {
        bool inside = base + lane < p.k_tiles;
        u32 tile = p.k_tiles - 1 - (base + lane);
        u32 kind = inside ? classes[tile] : 0;
        u32 some = __ballot_sync(0xFFFFFFFFu, kind != 0);
        u32 place = count + __popc(some & ((1u << lane) - 1));
        if (kind != 0) list[place] = kind == 1 ? tile | MASKED_TILE : tile;
        count += __popc(some);
    }
    if (lane == 0) ((u32*)p.counts)[blockIdx.x] = count - (count < p.dropped ? count : p.dropped);
}
