// GELU of halves, of the model and of the quantiser that is fused with it: x Phi(x) = max(x, 0) - |x| Phi(-|x|),
// so that nothing cancels on either side. Twin and accuracy: reference.rs.

// Phi(-a) = 2^(polynomial in a), for a from 0 to 5.8, from the constant term on: a weighted least-maximum fit of
// log2(erfc(a / sqrt 2) / 2), by which Phi errs by no more than 2.5e-7 (f32 included), and by no more than 2.9e-4
// of itself where GELU is a normal half, which is less than six tenths of that half's last place.
__device__ __forceinline__ float normal_tail(float a) {
    constexpr float COEFFICIENTS[7] = {-1.0f,          -1.1511265e0f,  -4.5900227e-1f, -5.3127378e-2f,
                                       7.9265320e-3f,  -7.3418853e-4f, 3.0571508e-5f};
    float power = COEFFICIENTS[6];
#pragma unroll
    for (int i = 5; i >= 0; --i) power = fmaf(power, a, COEFFICIENTS[i]);
    float tail;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(power));
    return tail;
}

// Of two halves in a word. Magnitudes end at 5.8, beyond which |x| Phi(-|x|) rounds to zero: infinity stays what
// it is, and what is no number comes back as none.
__device__ __forceinline__ u32 gelu_pair(u32 x) {
    u32 magnitude, positive;
    asm("{\n.reg .b32 a;\nabs.f16x2 a, %1;\nmin.NaN.f16x2 %0, a, %2;\n}"
        : "=r"(magnitude) : "r"(x), "r"(0x45CD45CDu));
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(positive) : "r"(x), "r"(0u));
    float low = decode<F16>(magnitude & 0xFFFF), high = decode<F16>(magnitude >> 16);
    low = fmaf(-low, normal_tail(low), decode<F16>(positive & 0xFFFF));
    high = fmaf(-high, normal_tail(high), decode<F16>(positive >> 16));
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ uint4 gelu(const uint4& v) {
    return make_uint4(gelu_pair(v.x), gelu_pair(v.y), gelu_pair(v.z), gelu_pair(v.w));
}
