// The softmax of rows that a thread holds in a fragment, as it goes: weights, running maximum, sum.
#ifndef PROGRAM_MASK
#define PROGRAM_MASK 0
#endif
#ifndef PROGRAM_SCORE
#define PROGRAM_SCORE 0
#endif

#ifndef OPERANDS_E4M3
#define OPERANDS_E4M3 0
#endif

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// Weights are held as 2^WEIGHT_BITS times what they are: in E4M3 the largest, 1, then is 256 of 448,
// and what is less than 2^-18 of it counts for nothing.
constexpr float WEIGHT_BITS = OPERANDS_E4M3 ? 8.0f : 0.0f;

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000u); }

// Running maximum and sum of a thread's two rows.
struct Running {
    float top[2], sum[2];

    __device__ __forceinline__ Running() {
        top[0] = top[1] = minus_infinity();
        sum[0] = sum[1] = 0.0f;
    }

    // Turns scores into weights against the new maximum; `keep` is what earlier results are worth.
    template <int COUNT>
    __device__ __forceinline__ void weigh(float (&s)[COUNT], float factor, float (&keep)[2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = top[half];
#pragma unroll
            for (int j = 0; j < COUNT / 4; ++j) {
                most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
            }
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
            // A row that has seen nothing keeps weights of zero in place of NaN. Where the maximum
            // stays, the factor is exactly 1, so that a tile of which nothing is seen changes nothing.
            float base = most == minus_infinity() ? 0.0f : most;
            float offset = base * factor - WEIGHT_BITS;
            keep[half] = exp2_approx((top[half] - base) * factor);
            top[half] = most;
            float total = 0.0f;
#pragma unroll
            for (int j = 0; j < COUNT / 4; ++j) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& x = s[4 * j + 2 * half + e];
                    x = exp2_approx(fmaf(x, factor, -offset));
                    total += x;
                }
            }
            sum[half] = fmaf(sum[half], keep[half], total);
        }
    }

    // The sums over the four threads of a row; 0 where the row saw nothing.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 1);
            sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 2);
        }
    }
};

// Two numbers in one register, the first in the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn." PTX_PACKED ".f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
