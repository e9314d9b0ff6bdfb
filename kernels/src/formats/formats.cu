#line 2 "formats.cu"
// Conversions between f32 and formats of few bits, by the chip and by integer arithmetic: of given
// numbers, of every code, and of every f32.

// E4M3 that is not negative, in seven bits: behind those of enum Format.
constexpr u32 FORMAT_UE4M3 = 6;

struct FormatParams {
    u64 in;      // encode: f32; decode: none
    u64 out;     // u32: codes, or bits of f32; sweep: Sweep
    u64 count;   // numbers or codes
    u32 format;
    u32 chip;    // 1: the chip's conversion, 0: integer arithmetic
    u32 fault;   // 1: the integer arithmetic rounds toward zero
    u32 reserved;
};
static_assert(sizeof(FormatParams) == 40, "the Rust side asserts the same size");

// Over every f32.
struct Sweep {
    u64 numbers;    // f32 that were converted
    u64 different;  // numbers for which chip and arithmetic give different codes; NaN of either kind equal
    u64 first;      // bits of the least of them, or all ones
    u64 falling;    // magnitudes whose code is above the next magnitude's
};

__device__ __forceinline__ bool chip_has(u32 format) {
    if (format == FORMAT_F16 || format == FORMAT_BF16) return true;
    const bool fp8 = format == FORMAT_E4M3 || format == FORMAT_E5M2 || format == FORMAT_UE4M3;
    return fp8 ? CHIP_HAS_FP8 : CHIP_HAS_FP4;
}

// What UE4M3 is a code of E4M3 of: a number below zero, as which no NaN counts, is zero.
__device__ __forceinline__ float not_negative(float x) { return x < 0.0f ? 0.0f : x; }

__device__ __forceinline__ u32 by_chip(u32 format, float x) {
    switch (format) {
        case FORMAT_E4M3: return e4m3_pair(x, 0.0f) & 0xFF;
        case FORMAT_E5M2: return e5m2_pair(x, 0.0f) & 0xFF;
        case FORMAT_E2M1: return e2m1_pair(x, 0.0f) & 0xF;
        case FORMAT_UE8M0: return ue8m0_of(x);
        case FORMAT_F16: return encode<F16>(x);
        // By the conversion to E4M3: -0 and NaN may come with a sign.
        case FORMAT_UE4M3: return e4m3_pair(not_negative(x), 0.0f) & 0x7F;
        default: return encode<BF16>(x);
    }
}

template <bool TRUNCATE>
__device__ __forceinline__ u32 by_arithmetic(u32 format, float x) {
    switch (format) {
        case FORMAT_E4M3: return E4m3::encode<TRUNCATE>(x);
        case FORMAT_E5M2: return E5m2::encode<TRUNCATE>(x);
        case FORMAT_E2M1: return E2m1::encode<TRUNCATE>(x);
        case FORMAT_UE8M0: return ue8m0_up<TRUNCATE>(x);
        case FORMAT_F16: return Half::encode<TRUNCATE>(x);
        case FORMAT_UE4M3: return E4m3::encode<TRUNCATE>(not_negative(x)) & 0x7F;
        default: return Bfloat::encode<TRUNCATE>(x);
    }
}

__device__ __forceinline__ u32 arithmetic_code(const FormatParams& p, float x) {
    return p.fault != 0 ? by_arithmetic<true>(p.format, x) : by_arithmetic<false>(p.format, x);
}

extern "C" __global__ void __launch_bounds__(256) formats_encode(const FormatParams p) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.count; i += stride) {
        float x = ((const float*)p.in)[i];
        ((u32*)p.out)[i] = p.chip != 0 ? by_chip(p.format, x) : arithmetic_code(p, x);
    }
}

__device__ __forceinline__ float half_value(u16 code) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(code));
    return x;
}

// A code's number. The chip decodes two 8-bit codes to two halves; what it lacks is arithmetic.
__device__ __forceinline__ float number_by(const FormatParams& p, u32 code) {
    if (p.format == FORMAT_UE8M0) return ue8m0_decode(code);
    if (p.format == FORMAT_BF16) {
        return p.chip != 0 ? decode<BF16>(code) : Bfloat::decode(code);
    }
    if (p.format == FORMAT_F16) return p.chip != 0 ? half_value((u16)code) : Half::decode(code);
    if (p.chip == 0 || !chip_has(p.format)) {
        return p.format == FORMAT_E4M3 || p.format == FORMAT_UE4M3 ? E4m3::decode(code)
             : p.format == FORMAT_E5M2 ? E5m2::decode(code) : E2m1::decode(code);
    }
    u32 halves = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    if (p.format == FORMAT_E4M3 || p.format == FORMAT_UE4M3) {
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((u16)code));
    } else if (p.format == FORMAT_E5M2) {
        asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"((u16)code));
    }
#endif
#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
    if (p.format == FORMAT_E2M1) {
        asm("{\n.reg .b8 both;\ncvt.u8.u32 both, %1;\ncvt.rn.f16x2.e2m1x2 %0, both;\n}"
            : "=r"(halves) : "r"(code));
    }
#endif
    return half_value((u16)halves);
}

extern "C" __global__ void __launch_bounds__(256) formats_decode(const FormatParams p) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.count; i += stride) {
        ((u32*)p.out)[i] = __float_as_uint(number_by(p, (u32)i));
    }
}

// Every bit pattern of f32, in one launch.
extern "C" __global__ void __launch_bounds__(256) formats_sweep(const FormatParams p) {
    __shared__ u64 scratch[8];
    Sweep* sweep = (Sweep*)p.out;
    // The lowest bit above those of a magnitude, or one above it.
    const u32 sign = p.format == FORMAT_E2M1 ? 0x8 : p.format <= FORMAT_E5M2 ? 0x80 : 0x8000;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 numbers = 0, different = 0, falling = 0, first = ~0ull;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.count; i += stride) {
        const u32 bits = (u32)i;
        const u32 own = arithmetic_code(p, __uint_as_float(bits));
        const u32 chips = by_chip(p.format, __uint_as_float(bits));
        ++numbers;
        bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
        bool equal = own == chips;
        // Which of its NaNs a chip gives is its own affair.
        if (nan && (p.format == FORMAT_F16 || p.format == FORMAT_BF16)) {
            u32 top = p.format == FORMAT_F16 ? 0x7C00 : 0x7F80;
            equal = (chips & 0x7FFF) > top;
        } else if (nan && p.format == FORMAT_E5M2) {
            equal = (chips & 0x7F) > 0x7C;
        } else if (nan && (p.format == FORMAT_E4M3 || p.format == FORMAT_UE4M3)) {
            equal = (chips & 0x7F) == 0x7F;
        }
        if (!equal) {
            ++different;
            if (bits < first) first = bits;
        }
        if (bits < 0x7F800000u) {
            const u32 next = arithmetic_code(p, __uint_as_float(bits + 1));
            falling += (own & (sign - 1)) > (next & (sign - 1));
        }
    }
    if (first != ~0ull) {
        asm volatile("red.global.min.u64 [%0], %1;" : : "l"(&sweep->first), "l"(first) : "memory");
    }
    numbers = block_sum(numbers, scratch);
    different = block_sum(different, scratch);
    falling = block_sum(falling, scratch);
    if (threadIdx.x == 0) {
        asm volatile("red.global.add.u64 [%0], %1;" : : "l"(&sweep->numbers), "l"(numbers) : "memory");
        asm volatile("red.global.add.u64 [%0], %1;" : : "l"(&sweep->different), "l"(different) : "memory");
        asm volatile("red.global.add.u64 [%0], %1;" : : "l"(&sweep->falling), "l"(falling) : "memory");
    }
}
