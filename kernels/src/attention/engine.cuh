// The tensor copy engine of sm_90 and its barriers. Every wait is bounded by the global timer: a ring
// that stalls for ten seconds ends the kernel by a store to address 0. (A trap would do the same, but a
// function that holds one is compiled as if setmaxnreg were not there.)

// A tensor map of the driver, opaque; its address must be a multiple of 64.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

constexpr u64 STALL_NS = 10000000000ull;

__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void barrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                 : : "r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// After the last barrier_init, by all threads.
__device__ __forceinline__ void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
    __syncthreads();
}

__device__ __forceinline__ void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
                 : : "r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 : : "r"(shared_address(barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ bool barrier_try(u64* barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return done != 0;
}

__device__ __forceinline__ void barrier_wait(u64* barrier, u32 parity) {
    if (barrier_try(barrier, parity)) return;
    u64 start = global_timer();
    while (!barrier_try(barrier, parity)) {
        if (global_timer() - start > STALL_NS) {
            asm volatile("st.global.u32 [%0], %1;" : : "l"(0ull), "r"(0) : "memory");
        }
    }
}

// One box of a tensor with four dimensions, innermost first; what lies outside is filled with zeros.
__device__ __forceinline__ void tensor_load(u32 target, const TensorMap* map, int x, int y, int z,
                                            int w, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4, %5}], [%6];"
        : : "r"(target), "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(shared_address(barrier))
        : "memory");
}

__device__ __forceinline__ void tensor_prefetch(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" : : "l"(map) : "memory");
}

// Stage and phase of a ring without a division.
template <u32 STAGES>
struct Turn {
    u32 stage = 0, phase = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};
