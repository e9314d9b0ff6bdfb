// What a program of attention may see and say: the interface of masks and scores.
//
// A program is CUDA C++ that defines either or both of
//
//     #define PROGRAM_MASK 1
//     __device__ bool mask(const Problem& at, int query, int key);
//     #define PROGRAM_SCORE 1
//     __device__ float score(const Problem& at, float score, int query, int key);
//
// `mask` says whether a query may see a key. `score` replaces q k scale before the softmax. Both may
// branch on data. Queries are numbered so that the last query stands beside the last key: query i of
// n over m keys has position i + m - n. Keys are 0 to m - 1; no other key is ever asked for.
struct Problem {
    int batch, head, kv_head;  // `batch` is the number of the sequence, ragged or not
    int queries, keys;         // of this sequence
    const int* data;           // the program's own data, and how many numbers these are
    int count;
    int number;                // two parameters of the program's own
    float factor;
};

// 2 to the x within 2^-22, inline. The library's functions and a division of variables may call a
// subroutine, and a call costs the consumers of sm_90a the registers that they asked for.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x within 2^-22.
__device__ __forceinline__ float inverse_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The hyperbolic tangent within 2^-21.
__device__ __forceinline__ float tanh_approx(float x) {
    return 1.0f - 2.0f * inverse_approx(exp2_approx(x * 2.8853900817779268f) + 1.0f);
}
