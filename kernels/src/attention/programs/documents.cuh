// `data` holds the document of each position. A query sees its own document, causally.
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    int position = query + at.keys - at.queries;
    // Read without a condition, so that the reads of several keys are under way at once.
    bool same = at.data[key] == at.data[position];
    return same && key <= position;
}
