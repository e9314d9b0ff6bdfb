// A query sees the keys up to its own position.
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    return key <= query + at.keys - at.queries;
}
