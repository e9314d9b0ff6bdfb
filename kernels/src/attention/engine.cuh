// The tensor copy engine of sm_90, and a ring of stages.

// A tensor map of the driver, opaque; its address must be a multiple of 64.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

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
