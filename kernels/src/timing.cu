#line 2 "timing.cu"
// The latch that holds enqueued work back until the host has enqueued all of it, and the sweep
// that pushes other data out of the L2 cache.

struct TimingParams {
    u64 data;        // latch: the host's flag (u32); sweep: 16-byte vectors
    u64 result;      // latch: u32, set to `target` where it timed out; sweep: u64 sum
    u64 amount;      // latch: timeout in nanoseconds; sweep: vectors
    u32 target;      // the latch opens when the flag reaches this
    u32 reserved;
};
static_assert(sizeof(TimingParams) == 32, "the Rust side asserts the same size");

extern "C" __global__ void __launch_bounds__(32) timing_latch(const TimingParams p) {
    if (threadIdx.x != 0) return;
    u64 start = global_timer();
    for (;;) {
        u32 flag;
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(flag) : "l"(p.data) : "memory");
        if ((int)(flag - p.target) >= 0) return;
        if (global_timer() - start > p.amount) break;
        __nanosleep(200);
    }
    asm volatile("st.release.sys.global.u32 [%0], %1;" : : "l"(p.result), "r"(p.target) : "memory");
}

extern "C" __global__ void __launch_bounds__(512) timing_sweep(const TimingParams p) {
    __shared__ u64 scratch[16];
    const ulonglong2* data = (const ulonglong2*)p.data;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 sum = 0;
    for (u64 v = (u64)blockIdx.x * blockDim.x + threadIdx.x; v < p.amount; v += stride) {
        ulonglong2 pair = data[v];
        sum += pair.x + pair.y;
    }
    u64 total = block_sum(sum, scratch);
    if (threadIdx.x == 0) atomicAdd((u64*)p.result, total);
}
