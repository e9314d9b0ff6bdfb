// Formats of few bits by integer arithmetic, and by the chip's own conversions where it has them.
// Independent twin: formats/codec.rs.

enum Format { FORMAT_E4M3, FORMAT_E5M2, FORMAT_E2M1, FORMAT_UE8M0, FORMAT_F16, FORMAT_BF16 };

// MANT mantissa bits and bias BIAS in a code of BITS; magnitudes beyond MOST become BEYOND. Of codes beyond
// the largest finite one INFINITE is infinity and the others are no numbers; 0 where there is no infinity.
template <u32 BITS, u32 MANT, u32 BIAS, u32 MOST, u32 BEYOND, u32 NOT_A_NUMBER, u32 INFINITE = 0>
struct SmallFloat {
    static constexpr u32 SIGN = 1u << (BITS - 1);
    static constexpr u32 DROPPED = 23 - MANT;

    // To nearest, ties to even; TRUNCATE is the planted fault that rounds toward zero.
    template <bool TRUNCATE = false>
    static __device__ __forceinline__ u32 encode(float x) {
        u32 bits = __float_as_uint(x);
        u32 sign = (bits >> 31) << (BITS - 1);
        u32 magnitude = bits & 0x7FFFFFFFu;
        if (magnitude > 0x7F800000u) return NOT_A_NUMBER;
        u32 code;
        constexpr u32 LEAST_NORMAL = (127 - BIAS + 1) << 23;
        if (BIAS == 127 || magnitude >= LEAST_NORMAL) {
            u32 half = TRUNCATE ? 0 : (1u << (DROPPED - 1)) - 1 + ((magnitude >> DROPPED) & 1);
            code = ((magnitude + half) >> DROPPED) - ((127 - BIAS) << MANT);
        } else {
            // One step is 2^(1 - BIAS - MANT); BIAS is small here, so the factor is a finite f32. Added to
            // 2^23 the steps are rounded where the mantissa ends: no conversion to an integer, which
            // runs at an eighth of the rate.
            const float factor =
                __uint_as_float((127 + (BIAS == 127 ? 0 : BIAS - 1 + MANT)) << 23);
            const float steps = __uint_as_float(magnitude);
            const float sum = TRUNCATE ? __fmaf_rz(steps, factor, 8388608.0f)
                                       : __fmaf_rn(steps, factor, 8388608.0f);
            code = __float_as_uint(sum) - 0x4B000000u;
        }
        return sign | (code > MOST ? BEYOND : code);
    }

    static __device__ __forceinline__ float decode(u32 code) {
        u32 sign = (code & SIGN) << (32 - BITS);
        u32 magnitude = code & (SIGN - 1);
        float value;
        if (INFINITE != 0 && magnitude >= INFINITE) {
            value = __uint_as_float(magnitude == INFINITE ? 0x7F800000u : 0x7FC00000u);
        } else if (INFINITE == 0 && BITS == 8 && magnitude > MOST) {
            value = __uint_as_float(0x7FC00000u);
        } else if (BIAS == 127 || magnitude >= (1u << MANT)) {
            value = __uint_as_float((magnitude << DROPPED) + ((127 - BIAS) << 23));
        } else {
            value = (float)magnitude *
                    __uint_as_float((128 - (BIAS == 127 ? 0 : BIAS) - MANT) << 23);
        }
        return __uint_as_float(__float_as_uint(value) | sign);
    }
};

using E4m3 = SmallFloat<8, 3, 7, 0x7E, 0x7E, 0x7F>;
using E5m2 = SmallFloat<8, 2, 15, 0x7B, 0x7B, 0x7F, 0x7C>;
using E2m1 = SmallFloat<4, 1, 1, 0x7, 0x7, 0x7>;
using Half = SmallFloat<16, 10, 15, 0x7BFF, 0x7C00, 0x7FFF, 0x7C00>;
using Bfloat = SmallFloat<16, 7, 127, 0x7F80, 0x7F80, 0x7FFF, 0x7F80>;

// The E2M1 code of a magnitude above 0x4B000000. It is the least of what is nearest to 2x, to x + 2, to x / 2 + 4, and
// 7: up to 2, 4 and beyond these count the format's steps, ties to even as codes are. Added to 2^23 a number
// is rounded where the mantissa ends, once.
__device__ __forceinline__ u32 e2m1_bits(float x) {
    constexpr float UNITS = 8388608.0f;
    const u32 halves = __float_as_uint(__fmaf_rn(x, 2.0f, UNITS));
    const u32 ones = __float_as_uint(__fadd_rn(x, UNITS + 2.0f));
    const u32 twos = __float_as_uint(__fmaf_rn(x, 0.5f, UNITS + 4.0f));
    return min(min(min(halves, ones), twos), 0x4B000007u);
}

// The codes of two magnitudes of at most 6, halves, in the last three bits of each half of a word. Added to 2^9 times
// its power of two, at least 1, a magnitude is rounded to its step where the mantissa ends. The code
// counts the steps, and two more for each doubling, which is what bits 9 and up say of the sum's exponent.
__device__ __forceinline__ u32 e2m1_bits_of_pair(u32 x) {
    u32 power, sum;
    asm("max.f16x2 %0, %1, %2;" : "=r"(power) : "r"(x & 0x7C007C00u), "r"(0x3C003C00u));
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(power), "r"(0x60006000u), "r"(x));
    return sum + (sum >> 9);
}

// The least power of two that is not below x; nothing below 2^-127, nothing above 2^127.
template <bool TRUNCATE = false>
__device__ __forceinline__ u32 ue8m0_up(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0xFF;
    if ((bits >> 31) != 0) return 0;
    u32 exponent = bits >> 23, fraction = bits & 0x7FFFFFu;
    // Below 2^-126 an f32 is fraction * 2^-149, and 2^-127 is 2^22 of these.
    if (exponent == 0) return !TRUNCATE && fraction > 0x400000u ? 1 : 0;
    u32 code = exponent + (!TRUNCATE && fraction != 0);
    return code > 0xFE ? 0xFE : code;
}

__device__ __forceinline__ float ue8m0_decode(u32 code) {
    return code == 0 ? __uint_as_float(0x400000u)
                     : __uint_as_float(code == 0xFF ? 0x7FC00000u : code << 23);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
constexpr bool CHIP_HAS_FP8 = true;
#else
constexpr bool CHIP_HAS_FP8 = false;
#endif
#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
constexpr bool CHIP_HAS_FP4 = true;
#else
constexpr bool CHIP_HAS_FP4 = false;
#endif

// Two E4M3 codes, the first in the low byte.
__device__ __forceinline__ u32 e4m3_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    u16 pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return E4m3::encode(low) | E4m3::encode(high) << 8;
#endif
}

// The numbers of two E4M3 codes, the first in the low byte.
__device__ __forceinline__ void e4m3_numbers(u32 pair, float (&numbers)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    u32 halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((u16)pair));
    numbers[0] = decode<F16>(halves & 0xFFFF);
    numbers[1] = decode<F16>(halves >> 16);
#else
    numbers[0] = E4m3::decode(pair & 0xFF);
    numbers[1] = E4m3::decode(pair >> 8 & 0xFF);
#endif
}

__device__ __forceinline__ u32 e5m2_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    u16 pair;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return E5m2::encode(low) | E5m2::encode(high) << 8;
#endif
}

// Two E2M1 codes, the first in the low four bits.
__device__ __forceinline__ u32 e2m1_pair(float low, float high) {
#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
    u32 pair;
    asm("{\n.reg .b8 both;\ncvt.rn.satfinite.e2m1x2.f32 both, %1, %2;\ncvt.u32.u8 %0, both;\n}"
        : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return E2m1::encode(low) | E2m1::encode(high) << 4;
#endif
}

__device__ __forceinline__ u32 ue8m0_of(float x) {
#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
    u16 pair;
    asm("cvt.rp.satfinite.ue8m0x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
    return pair & 0xFF;
#else
    return ue8m0_up(x);
#endif
}
