// The first `number` keys are seen by all, the rest causally: a prefix language model.
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    return key < at.number || key <= query + at.keys - at.queries;
}
