#line 2 "finite.cu"
// The first element of a matrix that is no finite number.

struct FiniteParams {
    u64 data;
    u64 first;     // u64: lowered to the element's place
    u64 elements;
    u32 element;   // F16, BF16, F32 or E4M3
    u32 reserved;
};
static_assert(sizeof(FiniteParams) == 32, "the Rust side asserts the same size");

// E4M3 has no infinity and one NaN of either sign; in the others the exponent is all ones.
__device__ __forceinline__ bool finite(const FiniteParams& p, u64 at) {
    if (p.element == F32) return (((const u32*)p.data)[at] & 0x7F800000u) != 0x7F800000u;
    if (p.element == E4M3) return (((const u8*)p.data)[at] & 0x7F) != 0x7F;
    const u32 exponent = p.element == F16 ? 0x7C00 : 0x7F80;
    return (((const u16*)p.data)[at] & exponent) != exponent;
}

extern "C" __global__ void __launch_bounds__(256) finite_first(const FiniteParams p) {
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < p.elements; at += stride) {
        if (!finite(p, at)) {
            asm volatile("red.global.min.u64 [%0], %1;" : : "l"(p.first), "l"(at) : "memory");
            return;
        }
    }
}
