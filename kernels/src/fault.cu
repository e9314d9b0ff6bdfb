#line 2 "fault.cu"
// Faults on purpose, for the self-test: armed, each does what must never happen; unarmed, each
// writes one word, so that the compile and the launch are tried on every machine.

struct FaultParams {
    u64 data;    // a buffer of `words` 32-bit words
    u64 address; // where an armed fault writes; no buffer is there
    u32 words;
    u32 armed;
};
static_assert(sizeof(FaultParams) == 24, "the Rust side asserts the same size");

constexpr u32 UNARMED = 0xFA017u;

// Raises Xid 31 when armed.
extern "C" __global__ void __launch_bounds__(32, 1) fault_illegal_address(const FaultParams p) {
    if (threadIdx.x != 0) return;
    if (p.armed != 0) {
        *(volatile u32*)p.address = UNARMED;
    } else {
        *(volatile u32*)p.data = UNARMED;
    }
}

// Waits for a word that nobody writes. The one wait of this crate without a bound: it is the fault.
extern "C" __global__ void __launch_bounds__(32, 1) fault_endless(const FaultParams p) {
    if (threadIdx.x != 0) return;
    volatile u32* word = (volatile u32*)p.data;
    if (p.armed != 0) {
        while (*word != UNARMED) {
        }
    } else {
        *word = UNARMED;
    }
}

// Writes one word behind the end when armed: silent on the bare device, seen by a memory checker.
extern "C" __global__ void __launch_bounds__(32, 1) fault_past_end(const FaultParams p) {
    if (threadIdx.x != 0) return;
    ((volatile u32*)p.data)[p.armed != 0 ? p.words : 0] = UNARMED;
}
