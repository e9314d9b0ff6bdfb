// Causal, every `number`-th key from the own position backwards.
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    int behind = query + at.keys - at.queries - key;
    return behind >= 0 && behind % at.number == 0;
}
