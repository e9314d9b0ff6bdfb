// The block map of a mask: which tiles of keys a tile of queries visits, and which of them it need not
// mask. Made on the device by asking the mask for every pair.
//
// Set from outside: the program.

struct BlockParams {
    u64 classes;       // u8 for each 64 queries and tile of keys: 0 nothing seen, 1 something, 2 all
    u64 lists, counts; // see Tiles in problem.cuh
    u64 masks;         // see Seen there
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
static_assert(sizeof(BlockParams) == 112, "the Rust side asserts the same size");

// See problem.cuh.
constexpr u32 TILE_BITS = 0xFFFFFFu;
constexpr u32 SEEN_BIT = 24, MASKED_BIT = 28;
constexpr u32 KEPT_MASKS = 16;
constexpr u32 GROUP = 64;

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
    __device__ __forceinline__ Problem problem(const BlockParams& p) const {
        return Problem{batch, head, head / (int)p.group, queries, keys,
                       (const int*)p.data, p.count, p.number, p.factor};
    }
};

// One block for each 64 queries and tile of keys.
extern "C" __global__ void __launch_bounds__(256) attention_classify(const BlockParams p) {
    u32 k_tile = blockIdx.x % p.k_tiles;
    u32 row = blockIdx.x / p.k_tiles;
    u32 groups = p.tile_queries / GROUP;
    u32 q_group = row % (p.q_tiles * groups);
    u32 list = row / (p.q_tiles * groups);
    Sequence sequence(p, list);
    Problem at = sequence.problem(p);
    int first_query = q_group * GROUP, first_key = k_tile * p.tile_keys;
    int queries = min((int)GROUP, sequence.queries - first_query);
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
    u32 groups = p.tile_queries / GROUP;
    const u8* classes = (const u8*)p.classes + (u64)blockIdx.x * groups * p.k_tiles;
    u32* list = (u32*)p.lists + (u64)blockIdx.x * p.k_tiles;
    u32 count = 0, lane = threadIdx.x;
    for (u32 base = 0; base < p.k_tiles; base += 32) {
        bool inside = base + lane < p.k_tiles;
        u32 tile = p.k_tiles - 1 - (base + lane), entry = 0;
        for (u32 group = 0; group < groups && inside; ++group) {
            u32 kind = classes[group * p.k_tiles + tile];
            if (kind != 0) entry |= 1u << (SEEN_BIT + group);
            if (kind == 1) entry |= 1u << (MASKED_BIT + group);
        }
        u32 some = __ballot_sync(0xFFFFFFFFu, entry != 0);
        u32 place = count + __popc(some & ((1u << lane) - 1));
        if (entry != 0) list[place] = tile | entry;
        count += __popc(some);
    }
    if (lane == 0) ((u32*)p.counts)[blockIdx.x] = count - (count < p.dropped ? count : p.dropped);
}

// One block for each of the first masked tiles of each list: a thread's bits are those of its fragment in
// a forward kernel, the element of the lowest number lowest, behind what does not fill a word.
extern "C" __global__ void __launch_bounds__(384) attention_masks(const BlockParams p) {
    __shared__ u32 found;
    u32 row = blockIdx.x / KEPT_MASKS, wanted = blockIdx.x % KEPT_MASKS, lane = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        if (lane == 0) found = ~0u;
        __syncwarp();
        const u32* list = (const u32*)p.lists + (u64)row * p.k_tiles;
        u32 count = ((const u32*)p.counts)[row], met = 0;
        for (u32 base = 0; base < count && met <= wanted; base += 32) {
            u32 tile = base + lane < count ? list[base + lane] : 0;
            bool masked = tile >> MASKED_BIT != 0;
            u32 all = __ballot_sync(0xFFFFFFFFu, masked);
            if (masked && met + __popc(all & ((1u << lane) - 1)) == wanted) {
                found = tile & TILE_BITS;
            }
            met += __popc(all);
        }
    }
    __syncthreads();
    if (found == ~0u) return;
    Sequence sequence(p, row / p.q_tiles);
    Problem at = sequence.problem(p);
    int query = row % p.q_tiles * p.tile_queries + threadIdx.x / 32 * 16 + lane / 4;
    int first_key = found * p.tile_keys + 2 * (lane % 4);
    int elements = p.tile_keys / 2, words = (elements + 31) / 32;
    u32* masks = (u32*)p.masks + (u64)blockIdx.x * words * blockDim.x + threadIdx.x;
    for (int word = 0; word < words; ++word) {
        u32 bits = 0;
        for (int bit = 0; bit < 32; ++bit) {
            int i = 32 * (word - words) + bit + elements;
            int key = first_key + i / 4 * 8 + (i & 1), asked = query + (i & 2) * 4;
            if (i < 0 || key >= sequence.keys || asked >= sequence.queries) continue;
            if (mask(at, asked, key)) bits |= 1u << bit;
        }
        masks[word * blockDim.x] = bits;
    }
}
