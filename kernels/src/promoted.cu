#line 2 "promoted.cu"
// E4M3 products D[m, n] = scale_a[m] scale_b[n] A[m, k] B[n, k]^T for sm_90a, on request added to what D holds.
//
// The tensor cores add E4M3 products with 14 bits or so. So they add no more than 256 columns before they begin anew
// and the sum is added to the others' in f32 on the ordinary cores ("promotion": DeepSeek-V3, arXiv 2412.19437,
// section 3.3.2, whose groups are of 128; an addition costs energy, and 256 cost half as much). Two warpgroups
// multiply 64 rows each, in turn, so that the tensor cores work for one while the other adds. One thread of a third
// asks the copy engine for 128 columns at a time. The two blocks of a cluster lie below each other and give each
// other half of what they share of B. Blocks stay and take tile after tile.
//
// A result depends on its row of A, its row of B and k alone: neither m nor n nor its place changes a bit.
//
// Set from outside: ONE_ACCUMULATOR (1: the tensor cores add up all columns, a planted fault).

constexpr u32 CLUSTER = 2;
constexpr u32 RING = 4;      // stages
constexpr u32 PROMOTED = 2;  // stages whose products the tensor cores add up
constexpr u32 GROUPS = 2;    // of consumers
constexpr u32 TILE_M = 64 * GROUPS;
constexpr u32 TILE_N = 192;
constexpr u32 A_BYTES = TILE_M * 128;
constexpr u32 B_BYTES = TILE_N * 128;
constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES;
constexpr u32 HALF_OF_B = TILE_N / CLUSTER;
constexpr u32 THREADS = 128 * (GROUPS + 1);
constexpr u32 OUT_BYTES = 64 * TILE_N * 2;  // a consumer's part of a tile
constexpr u32 EIGHTH_BYTES = 64 * 128;      // 64 rows of 64 results
constexpr int SUMS = TILE_N / 2;            // registers of a consumer's thread

struct PromotedParams {
    TensorMap a_map;
    TensorMap b_map;
    TensorMap d_map;
    u64 scale_a;
    u64 scale_b;
    u32 m;
    u32 n;
    u32 chunks;        // of 128 columns
    u32 tile_rows;     // of tiles of a cluster
    u32 tile_columns;
    u32 band;          // rows of tiles whose columns are taken one after the other
    u32 accumulate;    // 1: added to what D holds
    u32 reserved[5];
};
static_assert(sizeof(PromotedParams) == 448, "the Rust side asserts the same size");

struct Shared {
    u64 full[RING], empty[RING];
    u64 held[GROUPS];  // what D holds
};

extern __shared__ __align__(1024) u8 arena[];

// D (64 x 192, f32 registers of a warpgroup) += A B of 32 elements of k, both in shared memory. A thread holds columns
// 8 j + 2 (lane % 4) + {0, 1} of rows r = 16 (warp % 4) + lane / 4 and r + 8: d[4 j], d[4 j + 1] of row r,
// d[4 j + 2], d[4 j + 3] of row r + 8 (PTX ISA, wgmma, register fragments).
__device__ __forceinline__ void wgmma_e4m3(float (&d)[96], u64 a, u64 b, u32 accumulate) {
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %98, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
        "}, %96, %97, p, 1, 1;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]),
          "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),
          "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
          "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]),
          "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
        : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

// Waits until all but the latest PENDING groups are done.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(PENDING) : "memory");
}

// Keeps the compiler from moving uses of these registers across the statements around it.
__device__ __forceinline__ void pin(float (&x)[SUMS]) {
#pragma unroll
    for (int i = 0; i < SUMS; ++i) asm volatile("" : "+f"(x[i]) : : "memory");
}

// Low word of a matrix descriptor of 128-byte swizzle; the high one, eight rows 1024 bytes apart, is always the same.
__device__ __forceinline__ u32 descriptor_low(u32 address) {
    return address >> 4 | 1u << 16;
}

__device__ __forceinline__ u64 descriptor(u32 low) {
    return (u64)(1024 / 16 | 1u << 30) << 32 | low;
}

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" : : : "memory");
}

// Arrives at the barrier of the same place in a block of the cluster. It stands for reads by the tensor cores, which
// were waited for, so no store is to be released: a release to the cluster takes a thousand cycles.
__device__ __forceinline__ void arrive_at(u64* barrier, u32 rank) {
    asm volatile(
        "{\n\t.reg .b32 there;\n\t"
        "mapa.shared::cluster.u32 there, %0, %1;\n\t"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}"
        : : "r"(shared_address(barrier)), "r"(rank) : "memory");
}

// As tensor_load, into the same place of both blocks, each of whose barriers counts the bytes.
__device__ __forceinline__ void tensor_share(u32 target, const TensorMap* map, int x, int y, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3, %4, %4}], [%5], %6;"
        : : "r"(target), "l"(map), "r"(x), "r"(y), "r"(0), "r"(shared_address(barrier)),
            "h"((u16)((1 << CLUSTER) - 1))
        : "memory");
}

__device__ __forceinline__ void tensor_store(const TensorMap* map, int x, int y, u32 source) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %3}], [%4];"
                 : : "l"(map), "r"(x), "r"(y), "r"(0), "r"(source) : "memory");
}

__device__ __forceinline__ void stores_commit() {
    asm volatile("cp.async.bulk.commit_group;" : : : "memory");
}

// Waits until what this thread asked to be stored was read from shared memory.
__device__ __forceinline__ void stores_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;" : : : "memory");
}

__device__ __forceinline__ void stores_done() {
    asm volatile("cp.async.bulk.wait_group 0;" : : : "memory");
}

// Two results in a register, the first in the lower half.
template <bool BF16>
__device__ __forceinline__ u32 packed(float first, float second) {
    u32 both;
    if (BF16) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    }
    return both;
}

template <bool BF16>
__device__ __forceinline__ float2 unpacked(u32 both) {
    float2 x;
    if (BF16) {
        x.x = __uint_as_float(both << 16);
        x.y = __uint_as_float(both & 0xFFFF0000u);
    } else {
        asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %2;\n\t"
            "cvt.f32.f16 %0, low;\n\tcvt.f32.f16 %1, high;\n\t}"
            : "=f"(x.x), "=f"(x.y) : "r"(both));
    }
    return x;
}

// The threads of one consumer.
__device__ __forceinline__ void consumer_sync(u32 group) {
    asm volatile("bar.sync %0, 128;" : : "r"(group + 1) : "memory");
}

// The consumers multiply in turn: one is let in as soon as the other's products are asked for.
__device__ __forceinline__ void await_turn(u32 group) {
    asm volatile("bar.sync %0, 256;" : : "r"(group + 3) : "memory");
}

__device__ __forceinline__ void give_turn(u32 group) {
    asm volatile("bar.arrive %0, 256;" : : "r"(4 - group) : "memory");
}

// First row and column of this block's part of a tile of its cluster. Bands of rows, in each column after column: so
// what runs at once shares rows and columns in the L2 cache.
struct Place {
    u32 row, column;
    __device__ __forceinline__ Place(const PromotedParams& p, u32 tile, u32 rank) {
        u32 whole = p.band * p.tile_columns;
        u32 band = tile / whole, inside = tile - band * whole;
        u32 left = p.tile_rows - band * p.band;
        u32 rows = left < p.band ? left : p.band;
        u32 tile_column = inside / rows;
        row = ((band * p.band + inside - tile_column * rows) * CLUSTER + rank) * TILE_M;
        column = tile_column * TILE_N;
    }
};

__device__ __forceinline__ void produce(const PromotedParams& p, Shared& shared, u32 rank) {
    u32 base = shared_address(arena);
    u32 tiles = p.tile_rows * p.tile_columns;
    Turn<RING> turn;
    for (u32 tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER) {
        Place place(p, tile, rank);
        for (u32 chunk = 0; chunk < p.chunks; ++chunk) {
            u32 a = base + turn.stage * STAGE_BYTES;
            u32 b = a + A_BYTES + rank * HALF_OF_B * 128;
            u64* full = shared.full + turn.stage;
            barrier_wait(shared.empty + turn.stage, turn.phase ^ 1);
            barrier_expect(full, STAGE_BYTES);
            tensor_load(a, &p.a_map, 128 * chunk, place.row, 0, 0, full);
            tensor_share(b, &p.b_map, 128 * chunk, place.column + rank * HALF_OF_B, full);
            turn.advance();
        }
    }
}

// A consumer: 64 rows of each tile of its block.
template <bool BF16>
struct Consumer {
    const PromotedParams& p;
    Shared& shared;
    u32 rank, group, thread, lane, warp;
    u32 a, b;       // low words of descriptors, of the first stage
    u32 out;        // results, or what D holds
    float* scales;  // of the tile's columns
    Turn<RING> turn;
    u32 held_phase = 0;

    __device__ __forceinline__ Consumer(const PromotedParams& params, Shared& barriers, u32 of_cluster)
        : p(params), shared(barriers), rank(of_cluster) {
        // Said so that the compiler knows that all threads of a warp agree.
        group = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0) - 1;
        thread = threadIdx.x % 128;
        lane = threadIdx.x % 32;
        warp = thread / 32;
        u32 base = shared_address(arena);
        a = descriptor_low(base + group * 64 * 128);
        b = descriptor_low(base + A_BYTES);
        out = base + RING * STAGE_BYTES + group * OUT_BYTES;
        scales = (float*)(arena + RING * STAGE_BYTES + GROUPS * OUT_BYTES) + group * TILE_N;
    }

    // Both blocks may have filled the stage.
    __device__ __forceinline__ void free(u32 stage) {
        if (lane < CLUSTER) arrive_at(shared.empty + stage, lane);
    }

    // The products of up to PROMOTED stages from `chunk` on. The stages are free behind it.
    __device__ __forceinline__ void multiply(float (&part)[SUMS], u32 chunk) {
        u32 last = turn.stage;
        await_turn(group);
        pin(part);
#pragma unroll
        for (u32 i = 0; i < PROMOTED; ++i) {
            if (i > 0 && chunk + i >= p.chunks) break;
            u32 place = turn.stage * (STAGE_BYTES / 16);
            barrier_wait(shared.full + turn.stage, turn.phase);
            wgmma_begin();
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                u32 accumulate = i > 0 || step > 0 || (ONE_ACCUMULATOR && chunk > 0);
                wgmma_e4m3(part, descriptor(a + place + 2 * step), descriptor(b + place + 2 * step), accumulate);
            }
            wgmma_commit();
            if (i > 0) {
                wgmma_wait<1>();
                free(last);
            }
            last = turn.stage;
            turn.advance();
        }
        give_turn(group);
        wgmma_wait<0>();
        pin(part);
        free(last);
    }

    // Asks for what D holds, into the place of the results, which by now nothing reads.
    __device__ __forceinline__ void ask(u32 row, u32 column) {
        stores_read();
        barrier_expect(shared.held + group, OUT_BYTES);
#pragma unroll
        for (u32 i = 0; i < TILE_N / 64; ++i) {
            tensor_load(out + i * EIGHTH_BYTES, &p.d_map, column + 64 * i, row, 0, 0, shared.held + group);
        }
    }

    // Scales the sums, adds what D holds, rounds, and stores.
    __device__ __forceinline__ void finish(const float (&sum)[SUMS], const float (&of_rows)[2], u32 row, u32 column) {
        // The place is read no more, and all see the columns' scales.
        if (thread == 0) stores_read();
        consumer_sync(group);
        if (p.accumulate != 0) {
            barrier_wait(shared.held + group, held_phase);
            held_phase ^= 1;
        }
        u32 own = 16 * warp + lane / 4;                     // rows of the sums: this and the eighth behind it
        u32 line = 16 * warp + (lane / 8 % 2) * 8 + lane % 8;  // row that this thread names to stmatrix
#pragma unroll
        for (u32 j = 0; j < TILE_N / 8; j += 2) {
            u32 words[4];
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                u32 eight = j + i;
                float2 of = *(const float2*)(scales + 8 * eight + 2 * (lane % 4));
                const float* s = sum + 4 * eight;
                float low = of_rows[0], high = of_rows[1];
                float4 x = make_float4(s[0] * low * of.x, s[1] * low * of.y, s[2] * high * of.x, s[3] * high * of.y);
                if (p.accumulate != 0) {
                    // The swizzle of 128 bytes: the pieces of a row change places by its number among eight.
                    u32 from = out + eight / 8 * EIGHTH_BYTES + own * 128 + (eight % 8 ^ own % 8) * 16 + lane % 4 * 4;
                    u32 both[2];
                    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(both[0]) : "r"(from) : "memory");
                    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(both[1]) : "r"(from + 8 * 128) : "memory");
                    float2 first = unpacked<BF16>(both[0]), second = unpacked<BF16>(both[1]);
                    x = make_float4(x.x + first.x, x.y + first.y, x.z + second.x, x.w + second.y);
                }
                words[2 * i] = packed<BF16>(x.x, x.y);
                words[2 * i + 1] = packed<BF16>(x.z, x.w);
            }
            u32 eight = j + lane / 16;
            u32 target = out + eight / 8 * EIGHTH_BYTES + line * 128 + (eight % 8 ^ line % 8) * 16;
            // All lanes have read what the words replace.
            __syncwarp();
            asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                         : : "r"(target), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
        consumer_sync(group);
        if (thread == 0) {
#pragma unroll
            for (u32 i = 0; i < TILE_N / 64; ++i) {
                tensor_store(&p.d_map, column + 64 * i, row, out + i * EIGHTH_BYTES);
            }
            stores_commit();
        }
    }

    __device__ __forceinline__ void run() {
        const float* scale_a = (const float*)p.scale_a;
        const float* scale_b = (const float*)p.scale_b;
        u32 tiles = p.tile_rows * p.tile_columns;
        // The first consumer's first turn.
        if (group == 1) give_turn(group);
        for (u32 tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER) {
            Place place(p, tile, rank);
            u32 row = place.row + 64 * group;
            // Asked for early, since they are needed late.
            float of_rows[2], of_columns[2];
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                u32 at = row + 16 * warp + lane / 4 + 8 * half;
                of_rows[half] = at < p.m ? scale_a[at] : 0.0f;
                u32 column = place.column + 128 * half + thread;
                of_columns[half] = column < p.n ? scale_b[column] : 0.0f;
            }
            float sum[SUMS], part[SUMS];
#pragma unroll
            for (int i = 0; i < SUMS; ++i) sum[i] = 0.0f;
#pragma unroll 1
            for (u32 chunk = 0; chunk < p.chunks; chunk += PROMOTED) {
                multiply(part, chunk);
#pragma unroll
                for (int i = 0; i < SUMS; ++i) sum[i] = ONE_ACCUMULATOR ? part[i] : sum[i] + part[i];
                if (chunk == 0 && p.accumulate != 0 && thread == 0) ask(row, place.column);
            }
            scales[thread] = of_columns[0];
            if (thread < TILE_N - 128) scales[128 + thread] = of_columns[1];
            finish(sum, of_rows, row, place.column);
        }
        // The turn that the second consumer gave last.
        if (group == 0) await_turn(group);
        if (thread == 0) stores_done();
    }
};

template <bool BF16>
__device__ __forceinline__ void product(const PromotedParams& p) {
    __shared__ Shared shared;
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < RING; ++s) {
            barrier_init(shared.full + s, 1);
            // Of the warps of both blocks, since both are written to.
            barrier_init(shared.empty + s, CLUSTER * GROUPS * 4);
        }
        for (u32 g = 0; g < GROUPS; ++g) barrier_init(shared.held + g, 1);
    }
    barriers_ready();
    cluster_sync();
    u32 rank = cluster_rank();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) produce(p, shared, rank);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        Consumer<BF16>(p, shared, rank).run();
    }
    // No block leaves while the other may still write to it or count on its barriers.
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    promoted_half(const __grid_constant__ PromotedParams p) {
    product<false>(p);
}

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    promoted_bf16(const __grid_constant__ PromotedParams p) {
    product<true>(p);
}
