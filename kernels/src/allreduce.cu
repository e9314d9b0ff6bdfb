#line 2 "allreduce.cu"
// All-reduce over plain memory of several GPUs. Both ways add in the order of the ranks in f32 and
// round once, so that every rank has the same bits whichever way was taken.
//
// A mailbox is memory of one rank that all ranks write: the number of the last call (`epoch`), flags
// of two meetings, and staging of two parities. The epoch lies in device memory, so that a captured
// call may be replayed. All ranks make the same calls in the same order with the same grid, each on
// one stream.
//
// One-shot: every rank writes its values into every other mailbox, each 4 bytes with the epoch beside
// them in one 8-byte word, which arrives whole. No fence, no meeting. Staging of epoch e is written
// again in e + 2: a rank that begins e + 2 has ended e + 1, in which each peer sent, after that peer's
// own e had ended.
//
// Two-shot: after a meeting each rank reads its slice of all inputs, adds it and writes the sums into
// all outputs; after a second one the outputs are whole and the inputs free.

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
constexpr u64 STAGING = 32768;                                // [parity][rank][2 * ONE_SHOT_MOST]
constexpr u64 STAGED = 2 * 524288;
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
        if ((int)(v - epoch) >= 0) return;
        stall.check();
    }
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

// N is the number of ranks, or 8 where it is another one.
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
    for (int k = 0; k < U; ++k) {
        Sums<T, 4> sums;
#pragma unroll
        for (u32 i = 0; i < N; ++i) {
            const u32 words[4] = {v[k][i].x, v[k][i].y, v[k][i].z, v[k][i].w};
            if (i == 0 || i < p.ranks) sums.add(words, i == 0);
        }
        const uint4 sum = make_uint4(sums.word(0), sums.word(1), sums.word(2), sums.word(3));
        for (u32 to = 0; to < p.ranks; ++to) {
            u32 peer = p.rank + to;
            if (peer >= p.ranks) peer -= p.ranks;
            ((uint4*)p.outputs[peer])[at + k * step] = sum;
        }
    }
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

#define BY_RANKS(WAY, T)                  \
    switch (p.ranks) {                    \
        case 2: WAY<T, 2>(p); break;      \
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
