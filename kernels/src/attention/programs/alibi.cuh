// Causal, with a penalty in proportion to distance; `data` holds the slope of each head, an f32's bits
// (Press, Smith and Lewis, "Train Short, Test Long", 2022).
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    return key <= query + at.keys - at.queries;
}
#define PROGRAM_SCORE 1
__device__ float score(const Problem& at, float score, int query, int key) {
    float slope = __int_as_float(at.data[at.head]);
    return score - slope * (float)(query + at.keys - at.queries - key);
}
