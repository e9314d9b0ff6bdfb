// Element types of matrix operands: codes to float and back. Rust twin: element.rs.
enum Element { F16 = 0, BF16 = 1, F32 = 2, E4M3 = 3, INT8 = 4, INT32 = 5 };

__host__ __device__ constexpr u32 bytes_of(int type) {
    return type == F32 || type == INT32 ? 4 : type == E4M3 || type == INT8 ? 1 : 2;
}

// E4M3 with round to nearest, ties to even, saturating at 448: integer code, because sm_80 has no
// conversion instruction. 3 mantissa bits, bias 7, subnormals of 2^-9, NaN is 0x7F.
__device__ __forceinline__ u32 e4m3_encode(float x) {
    u32 bits = __float_as_uint(x);
    u32 sign = (bits >> 24) & 0x80;
    u32 magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000u) return sign | 0x7F;
    if (magnitude > 0x43E00000u) return sign | 0x7E;  // above 448
    if (magnitude < 0x3C800000u) {                    // below 2^-6: steps of 2^-9
        return sign | (u32)__float2int_rn(__uint_as_float(magnitude) * 512.0f);
    }
    u32 rounded = magnitude + 0x7FFFF + ((magnitude >> 20) & 1);
    return sign | ((rounded >> 20) - (120 << 3));
}

__device__ __forceinline__ float e4m3_decode(u32 code) {
    u32 sign = (code & 0x80) << 24;
    u32 magnitude = code & 0x7F;
    if (magnitude == 0x7F) return __uint_as_float(0x7FC00000u);
    float small = (float)magnitude * 0.001953125f;
    float normal = __uint_as_float((magnitude << 20) + (120u << 23));
    return __uint_as_float(__float_as_uint(magnitude < 8 ? small : normal) | sign);
}

// The code of a value. F32 is rounded to tf32 (10 mantissa bits, ties to even), so that a tf32
// product has no rounding of its inputs. INT8 saturates at +-127.
template <int T>
__device__ __forceinline__ u32 encode(float x) {
    if constexpr (T == F16) {
        u16 code;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(code) : "f"(x));
        return code;
    } else if constexpr (T == BF16) {
        u16 code;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(x));
        return code;
    } else if constexpr (T == F32) {
        u32 bits = __float_as_uint(x);
        return (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFFu;
    } else if constexpr (T == E4M3) {
        return e4m3_encode(x);
    } else {
        int value = __float2int_rn(x);
        value = value < -127 ? -127 : value > 127 ? 127 : value;
        return (u32)value & 0xFF;
    }
}

// The value of a code; INT32 has its own path, because not every int fits a float.
template <int T>
__device__ __forceinline__ float decode(u32 code) {
    if constexpr (T == F16) {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)code));
        return x;
    } else if constexpr (T == BF16) {
        return __uint_as_float(code << 16);
    } else if constexpr (T == F32) {
        return __uint_as_float(code);
    } else if constexpr (T == E4M3) {
        return e4m3_decode(code);
    } else {
        return (float)(signed char)code;
    }
}

// Element `i` of a 16-byte vector; `i` is a constant after unrolling.
template <int T>
__device__ __forceinline__ u32 code_of(const uint4& v, u32 i) {
    constexpr u32 EACH = 4 / bytes_of(T);
    u32 at = i / EACH;
    u32 word = at == 0 ? v.x : at == 1 ? v.y : at == 2 ? v.z : v.w;
    if constexpr (EACH == 1) return word;
    else if constexpr (EACH == 2) return (word >> (16 * (i & 1))) & 0xFFFF;
    else return (word >> (8 * (i & 3))) & 0xFF;
}
