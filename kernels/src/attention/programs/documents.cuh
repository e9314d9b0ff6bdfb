// `data` holds the document of each position. A query sees its own document, causally.
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    int position = query + at.keys - at.queries;
    return key <= position && at.data[key] == at.data[position];
}
