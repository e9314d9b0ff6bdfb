#line 2 "allreduce.cu"
// All-reduce over plain memory of several GPUs. All ways add in the order of the ranks in f32 and
// round once, so that every rank has the same bits whichever way was taken.
//
// A mailbox is memory of one rank that all ranks write: the number of the last call (`epoch`), flags
// of two meetings, how many steps the others have done, staging of two parities, and rings of tiles. The
// epoch lies in device memory, so that a captured call may be replayed. All ranks make the same calls in
// the same order with the same grid, each on one stream.
//
// One-shot: every rank writes its values into every other mailbox, each 4 bytes with the epoch beside
// them in one 8-byte word, which arrives whole. No fence, no meeting. Staging of epoch e is written
// again in e + 2: a rank that begins e + 2 has ended e + 1, in which each peer sent, after that peer's
// own e had ended.
//
// Two-shot: after a meeting each rank reads its slice of all inputs, adds it and writes the sums into
// all outputs; after a second one the outputs are whole and the inputs free.
//
// Pushed: nothing is read over the links. In step s a block pushes its tile s of each peer's slice of
// its input into a slot of that peer's ring, and adds tile s - LAG of its own slice, which its peers
// pushed in their step s - LAG, and writes the sums into all outputs. A warp of its own says to the
// peers how many steps are done. Before step s the peers have done s - LAG + 1: what is added now has
// arrived, and the slot of tile s - RING, which they added in their step s - LAG, is free. A call ends
// where its peers' have done all steps, so that the next one may push. Every step costs about 0.5 us in
// which a block stores nothing, so that tiles are large; two groups of threads, one that pushes and one
// that adds, would cost 2.5 us, as the release behind each waits for the stores of both.

struct AllReduceParams {
    u64 inputs[8];     // by rank
    u64 outputs[8];
    u64 mailboxes[8];
    u64 vectors;       // 16-byte vectors of the whole
    u32 rank;
    u32 ranks;
    u32 type;
    u32 first;         // rank that is added first: 0; another one is planted
};
static_assert(sizeof(AllReduceParams) == 216, "the Rust side asserts the same size");

constexpr u32 MOST_BLOCKS = 256;
constexpr u32 MOST_RANKS = 8;
constexpr u64 TICKET = 4;
constexpr u64 ARRIVED = 256;                                  // u32[rank][block]
constexpr u64 DONE = ARRIVED + 4 * MOST_RANKS * MOST_BLOCKS;  // u32[rank][block]
constexpr u64 PROGRESS = DONE + 4 * MOST_RANKS * MOST_BLOCKS;  // u64[rank][block]: epoch, steps
constexpr u64 STAGING = 65536;                                // [parity][rank][2 * ONE_SHOT_MOST]
constexpr u64 STAGED = 2 * 524288;
constexpr u32 LAG = 2;
constexpr u32 RING = 2 * LAG;
constexpr u64 SLOT = 16384;
constexpr u64 SLOTS_OF_RANK = 132 * RING * SLOT;              // behind the staging: [rank][block][RING]
constexpr u64 STALL_NS = 10000000000ull;

__device__ __forceinline__ u32 load_u32(u64 address) {
    u32 v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
    return v;
}

__device__ __forceinline__ void store_u32(u64 address, u32 v) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(address), "r"(v) : "memory");
}

__device__ __forceinline__ void signal(u64 address, u32 v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" : : "l"(address), "r"(v) : "memory");
}

// Bounded by the global timer: a peer that does not come ends the kernel.
struct Stall {
    u64 start = 0;
    u32 tries = 0;
    __device__ __forceinline__ void check() {
        if ((++tries & 255) != 0) return;
        const u64 now = global_timer();
        if (start == 0) start = now;
        else if (now - start > STALL_NS) asm volatile("trap;");
    }
};

__device__ __forceinline__ void await(u64 address, u32 epoch) {
    Stall stall;
    for (;;) {
        u32 v;
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(address) : "memory");
        // A peer is a call ahead at most.
        if (v - epoch < 2u) return;
        stall.check();
    }
}

__device__ __forceinline__ void signal_steps(u64 address, u64 v) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" : : "l"(address), "l"(v) : "memory");
}

__device__ __forceinline__ void await_steps(u64 address, u64 steps) {
    Stall stall;
    for (;;) {
        u64 v;
        asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
        // A peer is a call ahead at most; what it left of an older one is far behind, however old.
        if (v - steps < 2ull << 32) return;
        stall.check();
    }
}

__device__ __forceinline__ void threads_sync(u32 barrier, u32 threads) {
    asm volatile("barrier.cta.sync %0, %1;" : : "r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void threads_arrive(u32 barrier, u32 threads) {
    asm volatile("barrier.cta.arrive %0, %1;" : : "r"(barrier), "r"(threads) : "memory");
}

// By one thread of each block, after all its threads have read the epoch: the last block of the grid
// moves it on. No block of this call can read it any more, and the next call begins after this one.
__device__ __forceinline__ void end_epoch(u64 mailbox, u32 epoch) {
    u32 before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
                 : "=r"(before) : "l"(mailbox + TICKET) : "memory");
    if (before == gridDim.x - 1) {
        store_u32(mailbox + TICKET, 0);
        store_u32(mailbox, epoch);
    }
}

// Sums of the elements of N-byte pieces, in f32.
template <int T, int WORDS>
struct Sums {
    static constexpr int EACH = 4 / bytes_of(T);
    float value[WORDS * EACH];

    __device__ __forceinline__ void add(const u32* words, bool begin) {
#pragma unroll
        for (int w = 0; w < WORDS; ++w) {
#pragma unroll
            for (int k = 0; k < EACH; ++k) {
                float x = decode<T>(EACH == 1 ? words[w] : (words[w] >> (16 * k)) & 0xFFFF);
                float& sum = value[w * EACH + k];
                sum = begin ? x : sum + x;
            }
        }
    }

    __device__ __forceinline__ u32 word(int w) const {
        if constexpr (T == F32) return __float_as_uint(value[w]);
        else return encode<T>(value[w * EACH]) | encode<T>(value[w * EACH + 1]) << 16;
    }
};

// The i-th rank in the order of addition.
__device__ __forceinline__ u32 in_order(const AllReduceParams& p, u32 i) {
    u32 rank = i + p.first;
    return rank >= p.ranks ? rank - p.ranks : rank;
}

__device__ __forceinline__ void load_packet(u64 address, u64& low, u64& high) {
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(low), "=l"(high) : "l"(address) : "memory");
}

// N is the number of ranks, or the next one of 2, 4 and 8.
template <int T, int N>
__device__ __forceinline__ void one_shot(const AllReduceParams& p) {
    const u64 own = p.mailboxes[p.rank];
    const u32 epoch = load_u32(own) + 1;
    const u64 parity = STAGING + (u64)(epoch & 1) * p.ranks * STAGED;
    const u64 units = p.vectors * 2;  // of 8 bytes of payload, 16 with the epochs
    const u64 stride = (u64)gridDim.x * blockDim.x;
    const u64 begin = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const uint2* input = (const uint2*)p.inputs[p.rank];
    for (u64 u = begin; u < units; u += stride) {
        const uint2 mine = input[u];
        const u64 low = low_high(mine.x, epoch), high = low_high(mine.y, epoch);
        for (u32 k = 1; k < p.ranks; ++k) {
            u32 peer = p.rank + k;
            if (peer >= p.ranks) peer -= p.ranks;
            const u64 to = p.mailboxes[peer] + parity + p.rank * STAGED + u * 16;
            asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};"
                         : : "l"(to), "l"(low), "l"(high) : "memory");
        }
    }
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) end_epoch(own, epoch);
    uint2* output = (uint2*)p.outputs[p.rank];
    for (u64 u = begin; u < units; u += stride) {
        const uint2 mine = input[u];
        u64 low[N], high[N];
        Stall stall;
        for (;;) {
            bool whole = true;
#pragma unroll
            for (u32 i = 0; i < N; ++i) {
                low[i] = low_high(mine.x, epoch);
                high[i] = low_high(mine.y, epoch);
                if (i < p.ranks) {
                    const u32 from = in_order(p, i);
                    if (from != p.rank) {
                        load_packet(own + parity + from * STAGED + u * 16, low[i], high[i]);
                    }
                }
            }
#pragma unroll
            for (u32 i = 0; i < N; ++i) {
                whole = whole && (u32)(low[i] >> 32) == epoch && (u32)(high[i] >> 32) == epoch;
            }
            if (whole) break;
            stall.check();
        }
        Sums<T, 2> sums;
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            const u32 words[2] = {(u32)low[i], (u32)high[i]};
            if (i == 0 || i < p.ranks) sums.add(words, i == 0);
        }
        output[u] = make_uint2(sums.word(0), sums.word(1));
    }
}

// All blocks of one number meet: with the first meeting their inputs are there, with the second all
// that they wrote and read is done.
__device__ __forceinline__ void meet(const AllReduceParams& p, u64 flags, u32 epoch) {
    if (threadIdx.x < p.ranks && threadIdx.x != p.rank) {
        const u64 row = flags + 4 * (u64)blockIdx.x;
        signal(p.mailboxes[threadIdx.x] + row + 4 * (u64)MOST_BLOCKS * p.rank, epoch);
        await(p.mailboxes[p.rank] + row + 4 * (u64)MOST_BLOCKS * threadIdx.x, epoch);
    }
}

__device__ __forceinline__ uint4 load_vector(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

// The k-th sum of N vectors, in the order of the ranks.
template <int T, int N, int U>
__device__ __forceinline__ uint4 sum_of(const AllReduceParams& p, const uint4 (&v)[U][N], int k) {
    Sums<T, 4> sums;
#pragma unroll
    for (u32 i = 0; i < N; ++i) {
        const u32 words[4] = {v[k][i].x, v[k][i].y, v[k][i].z, v[k][i].w};
        if (i == 0 || i < p.ranks) sums.add(words, i == 0);
    }
    return make_uint4(sums.word(0), sums.word(1), sums.word(2), sums.word(3));
}

__device__ __forceinline__ u32 peer_of(const AllReduceParams& p, u32 distance) {
    const u32 peer = p.rank + distance;
    return peer >= p.ranks ? peer - p.ranks : peer;
}

__device__ __forceinline__ void store_to_all(const AllReduceParams& p, u64 at, uint4 sum) {
    for (u32 to = 0; to < p.ranks; ++to) ((uint4*)p.outputs[peer_of(p, to)])[at] = sum;
}

template <int T, int N, int U>
__device__ __forceinline__ void reduce_vectors(const AllReduceParams& p, u64 at, u64 step) {
    uint4 v[U][N];
#pragma unroll
    for (int k = 0; k < U; ++k) {
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            v[k][i] = make_uint4(0, 0, 0, 0);
            if (i < p.ranks) {
                v[k][i] = load_vector((const uint4*)p.inputs[in_order(p, i)] + at + k * step);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < U; ++k) store_to_all(p, at + k * step, sum_of<T, N, U>(p, v, k));
}

template <int T, int N>
__device__ __forceinline__ void two_shot(const AllReduceParams& p) {
    constexpr int U = N <= 4 ? 2 : 1;
    __shared__ u32 shared_epoch;
    const u64 own = p.mailboxes[p.rank];
    if (threadIdx.x == 0) shared_epoch = load_u32(own) + 1;
    __syncthreads();
    const u32 epoch = shared_epoch;
    meet(p, ARRIVED, epoch);
    __syncthreads();
    const u64 slice = (p.vectors + p.ranks - 1) / p.ranks;
    const u64 from = slice * p.rank;
    const u64 end = from + slice < p.vectors ? from + slice : p.vectors;
    const u64 step = (u64)gridDim.x * blockDim.x;
    u64 at = from + (u64)blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 1
    for (; at + (U - 1) * step < end; at += U * step) reduce_vectors<T, N, U>(p, at, step);
#pragma unroll 1
    for (; at < end; at += step) reduce_vectors<T, N, 1>(p, at, step);
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) end_epoch(own, epoch);
    meet(p, DONE, epoch);
}

// Where the tiles of a pushed call lie.
template <int N>
struct Tiles {
    static constexpr int VECTORS = N <= 4 ? 2 : 1;  // of a thread, of each tile
    u64 slice;    // vectors of a rank's slice
    u32 workers;
    u32 steps;    // in which something is pushed

    __device__ __forceinline__ explicit Tiles(const AllReduceParams& p) {
        slice = (p.vectors + p.ranks - 1) / p.ranks;
        workers = blockDim.x - 32;
        const u64 each = (u64)VECTORS * workers * gridDim.x;
        steps = (u32)((slice + each - 1) / each);
    }
    // Whether a rank's slice has this vector: the last ones may be shorter.
    __device__ __forceinline__ bool inside(const AllReduceParams& p, u32 rank, u64 at) const {
        return at < slice && slice * rank + at < p.vectors;
    }
    __device__ __forceinline__ u32 in_tile(int k) const { return k * workers + threadIdx.x; }
    __device__ __forceinline__ u64 in_slice(u32 step, int k) const {
        const u64 tile = (u64)step * gridDim.x + blockIdx.x;
        return tile * (VECTORS * workers) + in_tile(k);
    }
};

__device__ __forceinline__ uint4* slot_of(const AllReduceParams& p, u32 holder, u32 from, u32 step) {
    const u64 ring = STAGING + 2 * (u64)p.ranks * STAGED + from * SLOTS_OF_RANK;
    return (uint4*)(p.mailboxes[holder] + ring + ((u64)blockIdx.x * RING + step % RING) * SLOT);
}

// A step of the workers: what is pushed and what is added are asked for together, before either is stored.
template <int T, int N>
__device__ __forceinline__ void pushed_step(const AllReduceParams& p, const Tiles<N>& tiles, u32 step) {
    constexpr int U = Tiles<N>::VECTORS;
    uint4 out[U][N - 1], in[U][N];
    const u32 added = step - LAG;
    const auto pushes = [&](u32 d, u64 at) {
        return d < p.ranks && step < tiles.steps && tiles.inside(p, peer_of(p, d), at);
    };
    const auto adds = [&](u64 at) { return step >= LAG && tiles.inside(p, p.rank, at); };
#pragma unroll
    for (int k = 0; k < U; ++k) {
        const u64 at = tiles.in_slice(step, k);
#pragma unroll
        for (u32 d = 1; d < N; ++d) {
            const u64 from = tiles.slice * peer_of(p, d) + at;
            if (pushes(d, at)) out[k][d - 1] = load_vector((const uint4*)p.inputs[p.rank] + from);
        }
        const u64 own = tiles.in_slice(added, k);
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            if (adds(own) && i < p.ranks) {
                const u32 rank = in_order(p, i);
                const uint4* mine = (const uint4*)p.inputs[p.rank] + tiles.slice * p.rank + own;
                const uint4* slot = slot_of(p, p.rank, rank, added) + tiles.in_tile(k);
                in[k][i] = load_vector(rank == p.rank ? mine : slot);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < U; ++k) {
        const u64 at = tiles.in_slice(step, k);
#pragma unroll
        for (u32 d = 1; d < N; ++d) {
            if (pushes(d, at)) slot_of(p, peer_of(p, d), p.rank, step)[tiles.in_tile(k)] = out[k][d - 1];
        }
        const u64 own = tiles.in_slice(added, k);
        if (adds(own)) store_to_all(p, tiles.slice * p.rank + own, sum_of<T, N, U>(p, in, k));
    }
}

// The last warp signals, the others work. The barrier of step s is used again in s + RING: a worker comes there
// after its peers have done step s + LAG, before which they waited until this rank's warp had signalled step s.
template <int T, int N>
__device__ __forceinline__ void pushed(const AllReduceParams& p) {
    __shared__ u32 shared_epoch;
    const u64 own = p.mailboxes[p.rank];
    if (threadIdx.x == 0) shared_epoch = load_u32(own) + 1;
    __syncthreads();
    const u64 epoch = (u64)shared_epoch << 32;
    const Tiles<N> tiles(p);
    const u32 all = tiles.steps + LAG;
    const u64 flags = PROGRESS + 8 * (u64)blockIdx.x;
    const u64 row = 8 * (u64)MOST_BLOCKS;
    if (threadIdx.x >= tiles.workers) {
        const u32 peer = threadIdx.x - tiles.workers;
        const bool signals = peer < p.ranks && peer != p.rank;
        const u64 mine = p.mailboxes[signals ? peer : p.rank] + flags + row * p.rank;
#pragma unroll 1
        for (u32 step = 0; step < all; ++step) {
            threads_sync(1 + step % RING, blockDim.x);
            // What lies between the last tile and the end nobody waits for.
            const bool awaited = step < tiles.steps || step + 1 == all;
            if (awaited && signals) signal_steps(mine, epoch + step + 1);
            __syncwarp();
        }
        return;
    }
    const bool waits = threadIdx.x < p.ranks && threadIdx.x != p.rank;
    const u64 theirs = own + flags + row * threadIdx.x;
#pragma unroll 1
    for (u32 step = 0; step < all; ++step) {
        if (step >= LAG) {
            if (waits) await_steps(theirs, epoch + step - LAG + 1);
            threads_sync(1 + RING, tiles.workers);
        }
        pushed_step<T, N>(p, tiles, step);
        threads_arrive(1 + step % RING, blockDim.x);
    }
    if (threadIdx.x == tiles.workers - 1) end_epoch(own, shared_epoch);
    if (waits) await_steps(theirs, epoch + all);
}

#define BY_RANKS(WAY, T)                  \
    switch (p.ranks) {                    \
        case 2: WAY<T, 2>(p); break;      \
        case 3:                           \
        case 4: WAY<T, 4>(p); break;      \
        default: WAY<T, 8>(p); break;     \
    }

#define BY_TYPE(WAY)                                  \
    switch (p.type) {                                 \
        case F16: BY_RANKS(WAY, F16) break;           \
        case BF16: BY_RANKS(WAY, BF16) break;         \
        default: BY_RANKS(WAY, F32) break;            \
    }

extern "C" __global__ void __launch_bounds__(512, 1) allreduce_one_shot(const AllReduceParams p) {
    BY_TYPE(one_shot)
}

extern "C" __global__ void __launch_bounds__(512, 1) allreduce_two_shot(const AllReduceParams p) {
    BY_TYPE(two_shot)
}

// At most 480 workers, and the warp that signals.
extern "C" __global__ void __launch_bounds__(512, 1) allreduce_pushed(const AllReduceParams p) {
    BY_TYPE(pushed)
}
