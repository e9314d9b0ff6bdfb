// GELU of bfloat16, as gelu.cuh has it of halves: max(x, 0) - |x| Phi(-|x|). Twin and accuracy: reference.rs.

// Phi(-a) = 2^(polynomial in a), for a from 0 to 13.25, from the constant term on: a least-maximum fit of
// log2(erfc(a / sqrt 2) / 2), by which Phi errs by no more than 1.5e-4 of itself: a thirteenth of half a last place
// of bfloat16. It is zero where it is no normal f32, beyond 12.95.
__device__ __forceinline__ float normal_tail(float a) {
    constexpr float COEFFICIENTS[9] = {-1.0f,           -1.1496917e0f,  -4.6211863e-1f, -5.1101245e-2f, 7.4899272e-3f,
                                       -7.5346485e-4f, 4.8314776e-5f, -1.7621536e-6f, 2.767303e-8f};
    float power = COEFFICIENTS[8];
#pragma unroll
    for (int i = 7; i >= 0; --i) power = fmaf(power, a, COEFFICIENTS[i]);
    float tail;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(power));
    return tail;
}

// Of two in a word. Magnitudes end at 13.25: infinity stays what it is, and what is no number comes back as none.
__device__ __forceinline__ u32 gelu_pair(u32 x) {
    u32 magnitude, positive;
    asm("{\n.reg .b32 a;\nabs.bf16x2 a, %1;\nmin.NaN.bf16x2 %0, a, %2;\n}"
        : "=r"(magnitude) : "r"(x), "r"(0x41544154u));
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(positive) : "r"(x), "r"(0u));
    float low = decode<BF16>(magnitude & 0xFFFF), high = decode<BF16>(magnitude >> 16);
    low = fmaf(-low, normal_tail(low), decode<BF16>(positive & 0xFFFF));
    high = fmaf(-high, normal_tail(high), decode<BF16>(positive >> 16));
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ uint4 gelu(const uint4& v) {
    return make_uint4(gelu_pair(v.x), gelu_pair(v.y), gelu_pair(v.z), gelu_pair(v.w));
}
