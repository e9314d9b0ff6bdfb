// Barriers in shared memory on which copy engine and threads meet (mbarrier, sm_90 and later). Every wait is
// bounded by the global timer: one that lasts ten seconds ends the kernel by a store to address 0. (A trap
// would do the same, but a function that holds one is compiled as if setmaxnreg were not there.)

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
