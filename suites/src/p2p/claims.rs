//! The claims of the suite.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

use super::{crowd, latency, pairs};

const PEAK: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Latest Validation",
    printed: "P2P bandwidth: Up to 250 GB/s between GPU pairs",
    board: "8x B200",
};
const MESH: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Latest Validation",
    printed: "NVLink connectivity: Full NV18 mesh (18 lanes @ 50 GB/s per GPU)",
    board: "8x B200",
};
const LATENCY: Source = Source {
    document: "001-known-gaps.md",
    section: "6. Multi-GPU Support",
    printed: "Outstanding: Capture NVLink bandwidth/latency metrics during stress runs",
    board: "8x B200",
};

const ENGINE: &[(&str, &str)] = &[("by", "copy-engine")];
const KERNEL: &[(&str, &str)] = &[("by", "kernel")];

const fn rate(
    id: &'static str,
    text: &'static str,
    case: &'static str,
    metric: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        id,
        text,
        source: PEAK,
        relation: Relation::AtLeast,
        case,
        metric,
        at,
        reduce: Reduce::Worst,
        ceiling: Some("nvlink_gbps"),
        gpus: GpuCount::AtLeast(2),
        kind: Kind::Claim,
    }
}

/// No pair is slower than the others.
const fn even(
    id: &'static str,
    text: &'static str,
    case: &'static str,
    metric: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        relation: Relation::AtMost,
        reduce: Reduce::SpreadPercent,
        ceiling: None,
        ..rate(id, text, case, metric, at)
    }
}

const fn time(
    id: &'static str,
    text: &'static str,
    metric: &'static str,
    at: &'static [(&'static str, &'static str)],
) -> Claim {
    Claim {
        relation: Relation::AtMost,
        source: LATENCY,
        ceiling: None,
        ..rate(id, text, latency::CASE.id, metric, at)
    }
}

/// In checklist order.
pub(super) static CLAIMS: &[&Claim] = &[
    &COPY_WRITE,
    &COPY_READ,
    &COPY_EVEN,
    &COPY_READ_EVEN,
    &BOTH_WAYS,
    &BOTH_WAYS_RATIO,
    &KERNEL_WRITE,
    &KERNEL_READ,
    &KERNEL_EVEN,
    &KERNEL_BOTH_WAYS,
    &KERNEL_BOTH_WAYS_RATIO,
    &SHIFT,
    &INTO_ONE,
    &KERNEL_SHIFT,
    &KERNEL_INTO_ONE,
    &LOAD_P50,
    &LOAD_P99,
    &COPY_LATENCY,
    &SMALL_COPY_P50,
    &SMALL_COPY_P99,
];

static COPY_WRITE: Claim = rate(
    "p2p::copy-write",
    "Every GPU writes the memory of every other one by its copy engine at the documented share of the \
     link's rate, the slowest pair too.",
    pairs::ENGINES.id,
    "write_gbps",
    ENGINE,
);
static COPY_READ: Claim = rate(
    "p2p::copy-read",
    "Every GPU reads the memory of every other one by its copy engine at the documented share of the \
     link's rate, the slowest pair too.",
    pairs::ENGINES.id,
    "read_gbps",
    ENGINE,
);
static COPY_EVEN: Claim = even(
    "p2p::copy-write-even",
    "No pair of GPUs is written slower than another one by more than 2 %: \"up to\" hides none.",
    pairs::ENGINES.id,
    "write_gbps",
    ENGINE,
);
static COPY_READ_EVEN: Claim = even(
    "p2p::copy-read-even",
    "No pair of GPUs is read slower than another one by more than 2 %: \"up to\" hides none.",
    pairs::ENGINES.id,
    "read_gbps",
    ENGINE,
);
static BOTH_WAYS: Claim = Claim {
    source: MESH,
    ceiling: Some("nvlink_both_ways_gbps"),
    ..rate(
        "p2p::both-ways",
        "Every pair copies both ways at once at the documented share of the link's rate in both \
         directions.",
        pairs::ENGINES.id,
        "both_ways_gbps",
        ENGINE,
    )
};
static BOTH_WAYS_RATIO: Claim = Claim {
    source: MESH,
    ceiling: None,
    ..rate(
        "p2p::both-ways-over-one",
        "A link carries both directions at once: together at least 1.7 times one alone.",
        pairs::ENGINES.id,
        "both_ways_ratio",
        ENGINE,
    )
};
static KERNEL_WRITE: Claim = rate(
    "p2p::kernel-write",
    "A kernel writes the memory of every other GPU at the documented share of the link's rate.",
    pairs::KERNELS.id,
    "write_gbps",
    KERNEL,
);
static KERNEL_READ: Claim = rate(
    "p2p::kernel-read",
    "A kernel reads the memory of every other GPU at the documented share of the link's rate.",
    pairs::KERNELS.id,
    "read_gbps",
    KERNEL,
);
static KERNEL_EVEN: Claim = even(
    "p2p::kernel-read-even",
    "No pair of GPUs is read slower by a kernel than another one by more than 2 %.",
    pairs::KERNELS.id,
    "read_gbps",
    KERNEL,
);
static KERNEL_BOTH_WAYS: Claim = Claim {
    source: MESH,
    ceiling: Some("nvlink_both_ways_gbps"),
    ..rate(
        "p2p::kernel-both-ways",
        "In every pair kernels of both GPUs write to each other at once at the documented share of the \
         link's rate in both directions.",
        pairs::KERNELS.id,
        "both_ways_gbps",
        KERNEL,
    )
};
static KERNEL_BOTH_WAYS_RATIO: Claim = Claim {
    source: MESH,
    ceiling: None,
    ..rate(
        "p2p::kernel-both-ways-over-one",
        "Kernels that write both ways at once move together at least 1.5 times what one alone does.",
        pairs::KERNELS.id,
        "both_ways_ratio",
        KERNEL,
    )
};
static SHIFT: Claim = rate(
    "p2p::all-pairs-at-once",
    "While every GPU writes to another one, each pair keeps the documented share of the link's rate.",
    crowd::CASE.id,
    "shift_gbps",
    &[],
);
static INTO_ONE: Claim = rate(
    "p2p::all-into-one",
    "While all other GPUs write to one, the documented share of the link's rate arrives there.",
    crowd::CASE.id,
    "into_one_gbps",
    &[],
);
static KERNEL_SHIFT: Claim = rate(
    "p2p::all-pairs-at-once-kernels",
    "While a kernel of every GPU writes to another one, each pair keeps the documented share of the link's rate.",
    crowd::KERNELS.id,
    "shift_gbps",
    &[],
);
static KERNEL_INTO_ONE: Claim = rate(
    "p2p::all-into-one-kernels",
    "While kernels of all other GPUs write to one, the documented share of the link's rate arrives there.",
    crowd::KERNELS.id,
    "into_one_gbps",
    &[],
);
static LOAD_P50: Claim = time(
    "p2p::load-latency",
    "A load from the memory of another GPU, of what its L2 cache holds, returns sooner than one from the host's memory could.",
    "load_p50_us",
    &[],
);
static LOAD_P99: Claim = time(
    "p2p::load-latency-p99",
    "Ninety-nine of a hundred loads from the memory of another GPU, of what its L2 cache holds, return within twice the documented \
     time.",
    "load_p99_us",
    &[],
);
static COPY_LATENCY: Claim = time(
    "p2p::copy-latency",
    "A copy of 4 KiB into the memory of another GPU is followed by the next within ten microseconds.",
    "copy_us",
    &[("bytes", "4096")],
);
static SMALL_COPY_P50: Claim = time(
    "p2p::small-copy-p50",
    "Of copies of 4 KiB into the memory of another GPU that follow each other, an event behind each, half take 20 us at most.",
    "copy_p50_us",
    &[("bytes", "4096")],
);
static SMALL_COPY_P99: Claim = time(
    "p2p::small-copy-p99",
    "Of copies of 4 KiB into the memory of another GPU that follow each other, an event behind each, ninety-nine of a hundred take 40 us at most.",
    "copy_p99_us",
    &[("bytes", "4096")],
);
