// Scores are kept within +- `factor` by a hyperbolic tangent (Gemma 2, 2024).
#define PROGRAM_SCORE 1
__device__ float score(const Problem& at, float score, int query, int key) {
    return at.factor * tanh_approx(score * inverse_approx(at.factor));
}
