// Data decides which rule holds: `data` has a kind for each position. 0: the position sees everything
// before it. 1: it searches backwards for the last position of kind 2 and sees what lies from there on.
// 2: it sees itself and every position of kind 2. What a mask does may depend on data, with loops and
// early returns, which a traced mask cannot have.
#define PROGRAM_MASK 1
__device__ bool mask(const Problem& at, int query, int key) {
    int position = query + at.keys - at.queries;
    if (key > position) return false;
    int kind = at.data[position];
    if (kind == 0) return true;
    if (kind == 2) return key == position || at.data[key] == 2;
    int steps = 0;
    for (int i = position; i >= 0 && steps < at.number; --i, ++steps) {
        if (at.data[i] == 2) return key >= i;
    }
    return key >= position - at.number;
}
