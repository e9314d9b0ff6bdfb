//! The claims of the suite.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

use super::{absent, absent_own, nccl, own, rates, rival, sweep, versus};

const ALL_REDUCE: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Latest Validation",
    printed: "NCCL AllReduce: 273.5 GB/s (256MB, 8 GPUs)",
    board: "8x B200",
};
const OTHERS: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Recommendations & Next Experiments",
    printed: "Extend the tensor-parallel prototype with scatter/gather overlap or pipeline parallelism",
    board: "2x B200",
};
const OURS: Source = Source {
    document: "touchstone",
    section: "collectives",
    printed: "NVLink multicast stays off; sums are the same on every rank and in every run",
    board: "",
};
const RIVAL: Source = Source {
    document: "touchstone",
    section: "rivals",
    printed: "what an operator would run instead: NCCL, and PyTorch's symmetric memory",
    board: "",
};

type Place = &'static [(&'static str, &'static str)];

const fn claim(
    id: &'static str,
    text: &'static str,
    source: Source,
    case: &'static str,
    metric: &'static str,
    at: Place,
) -> Claim {
    Claim {
        id,
        text,
        source,
        relation: Relation::Holds,
        case,
        metric,
        at,
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(2),
        kind: Kind::Claim,
    }
}

/// Bus bandwidth of NCCL.
const fn bus(id: &'static str, text: &'static str, source: Source, at: Place) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ceiling: Some("nvlink_gbps"),
        ..claim(id, text, source, rates::CASE.id, "busbw_gbps", at)
    }
}

/// NCCL by size and type.
const fn swept(
    id: &'static str,
    text: &'static str,
    source: Source,
    metric: &'static str,
) -> Claim {
    claim(id, text, source, sweep::CASE.id, metric, &[])
}

/// A ratio that must reach its bound.
const fn ratio(
    id: &'static str,
    text: &'static str,
    source: Source,
    case: &'static str,
    metric: &'static str,
    at: Place,
) -> Claim {
    Claim { relation: Relation::AtLeast, ..claim(id, text, source, case, metric, at) }
}

const fn against_nccl(id: &'static str, text: &'static str, at: Place) -> Claim {
    ratio(id, text, RIVAL, versus::CASE.id, "over_nccl_ratio", at)
}

const fn against_pytorch(id: &'static str, text: &'static str, at: Place) -> Claim {
    ratio(id, text, RIVAL, rival::CASE.id, "over_pytorch_ratio", at)
}

const fn latency(id: &'static str, text: &'static str, at: Place) -> Claim {
    Claim { relation: Relation::AtMost, ..claim(id, text, OURS, own::CASE.id, "call_us", at) }
}

/// In checklist order.
pub(super) static CLAIMS: &[&Claim] = &[
    &NCCL_EXACT,
    &NCCL_ERROR,
    &NCCL_AGREE,
    &NO_MULTICAST,
    &SWEPT_EXACT,
    &SWEPT_COPIES,
    &SWEPT_ERROR,
    &SWEPT_AGREE,
    &SWEPT_NO_MULTICAST,
    &ABSENT_ABORTED,
    &USABLE_AFTER,
    &BUS_256M,
    &BUS_256M_N8,
    &BUS_128M,
    &BUS_1G,
    &BUS_4G,
    &GATHER,
    &SCATTER,
    &BROADCAST,
    &ALL_TO_ALL,
    &SEND_RECV,
    &GATHER_RATIO,
    &SCATTER_RATIO,
    &OWN_EXACT,
    &OWN_AGREE,
    &LATE_WAITED,
    &LATE_RIGHT,
    &OWN_ABSENT_ENDS,
    &OWN_USABLE_AFTER,
    &LATENCY_512,
    &LATENCY_32K,
    &LATENCY_1M,
    &NCCL_512,
    &NCCL_32K,
    &NCCL_1M,
    &NCCL_128M,
    &NCCL_1G,
    &TORCH_512,
    &TORCH_32K,
    &TORCH_1M,
    &TORCH_128M,
];

static NCCL_EXACT: Claim = claim(
    "collectives::nccl-exact",
    "NCCL's collectives leave the right values on every rank: sums of integers are exact.",
    ALL_REDUCE,
    nccl::CASE.id,
    "wrong_count",
    &[],
);
static NCCL_ERROR: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "collectives::nccl-error",
        "NCCL's sums of random values err by no more than an order of addition in the payload's type may.",
        ALL_REDUCE,
        nccl::CASE.id,
        "error_ratio",
        &[],
    )
};
static NCCL_AGREE: Claim = claim(
    "collectives::nccl-ranks-agree",
    "After NCCL's all-reduce every rank holds the same bits.",
    ALL_REDUCE,
    nccl::CASE.id,
    "differing_count",
    &[],
);
static NO_MULTICAST: Claim = claim(
    "collectives::no-multicast",
    "NCCL's own log names the algorithms that it chose, and none of them uses NVLink multicast.",
    OURS,
    nccl::CASE.id,
    "multicast_count",
    &[],
);
static SWEPT_EXACT: Claim = swept(
    "collectives::nccl-exact-by-size",
    "Each of NCCL's six collectives, in fp16, bf16 and f32, of nine sizes from 1 KiB to 128 MiB, leaves the right values on every rank: sums of integers are exact.",
    ALL_REDUCE,
    sweep::WRONG,
);
static SWEPT_COPIES: Claim = swept(
    "collectives::nccl-copies-exact",
    "NCCL's gather, broadcast, all-to-all and ring of sends, in the same types and sizes, leave random values bit by bit as they were.",
    OTHERS,
    sweep::ALTERED,
);
static SWEPT_ERROR: Claim = Claim {
    relation: Relation::AtMost,
    ..swept(
        "collectives::nccl-error-by-size",
        "NCCL's all-reduces and reduce-scatters of random values, in the same types and sizes, err by no more than an order of addition in the payload's type may.",
        OTHERS,
        sweep::ERROR,
    )
};
static SWEPT_AGREE: Claim = swept(
    "collectives::nccl-ranks-agree-by-size",
    "After each of NCCL's all-reduces of random values, in the same types and sizes, every rank holds the same bits.",
    ALL_REDUCE,
    sweep::DIFFERING,
);
static SWEPT_NO_MULTICAST: Claim = swept(
    "collectives::no-multicast-by-size",
    "Over these collectives, types and sizes NCCL's own log names algorithms that it chose, and none of them uses NVLink multicast.",
    OURS,
    "multicast_count",
);
static ABSENT_ABORTED: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "collectives::absent-rank-is-aborted",
        "While one rank stays away from NCCL's all-reduce the others wait for it, and 5 s after the call all of them \
         are out of it, by NCCL's abort, which is asked for after half a second.",
        ALL_REDUCE,
        absent::CASE.id,
        "aborted_s",
        &[],
    )
};
static USABLE_AFTER: Claim = claim(
    "collectives::usable-after-abort",
    "Once NCCL's communicators were aborted under a waiting all-reduce, new ones over the same GPUs in the same process \
     sum integers exactly on every rank.",
    ALL_REDUCE,
    absent::CASE.id,
    "wrong_count",
    &[("when", "after")],
);
static BUS_256M: Claim = bus(
    "collectives::all-reduce-256mib",
    "NCCL reduces 256 MiB over all GPUs at the documented share of the link's rate, as bus bandwidth.",
    ALL_REDUCE,
    &[("op", "all-reduce"), ("bytes", "268435456")],
);
static BUS_256M_N8: Claim = Claim {
    gpus: GpuCount::Exactly(8),
    ..bus(
        "collectives::all-reduce-256mib-n8",
        "NCCL reduces 256 MiB over eight GPUs at the documented share of the link's rate, as bus \
         bandwidth.",
        ALL_REDUCE,
        &[("op", "all-reduce"), ("bytes", "268435456")],
    )
};
static BUS_128M: Claim = bus(
    "collectives::all-reduce-128mib",
    "NCCL reduces 128 MiB at the documented share of the link's rate, as bus bandwidth.",
    ALL_REDUCE,
    &[("op", "all-reduce"), ("bytes", "134217728")],
);
static BUS_1G: Claim = bus(
    "collectives::all-reduce-1gib",
    "NCCL reduces 1 GiB at the documented share of the link's rate, as bus bandwidth.",
    ALL_REDUCE,
    &[("op", "all-reduce"), ("bytes", "1073741824")],
);
static BUS_4G: Claim = Claim {
    case: rates::LARGEST.id,
    ..bus(
        "collectives::all-reduce-4gib",
        "NCCL reduces 4 GiB at the documented share of the link's rate, as bus bandwidth.",
        ALL_REDUCE,
        &[("op", "all-reduce"), ("bytes", "4294967296")],
    )
};
static GATHER: Claim = bus(
    "collectives::all-gather-1gib",
    "NCCL gathers 1 GiB on every GPU at the documented share of the link's rate, as bus bandwidth.",
    OTHERS,
    &[("op", "all-gather"), ("bytes", "1073741824")],
);
static SCATTER: Claim = bus(
    "collectives::reduce-scatter-1gib",
    "NCCL reduces 1 GiB and scatters it at the documented share of the link's rate, as bus bandwidth.",
    OTHERS,
    &[("op", "reduce-scatter"), ("bytes", "1073741824")],
);
static BROADCAST: Claim = bus(
    "collectives::broadcast-1gib",
    "NCCL sends 1 GiB of one GPU to all at the documented share of the link's rate, as bus bandwidth.",
    OTHERS,
    &[("op", "broadcast"), ("bytes", "1073741824")],
);
static ALL_TO_ALL: Claim = bus(
    "collectives::all-to-all-1gib",
    "NCCL exchanges 1 GiB between all GPUs at the documented share of the link's rate, as bus bandwidth.",
    OTHERS,
    &[("op", "all-to-all"), ("bytes", "1073741824")],
);
static SEND_RECV: Claim = bus(
    "collectives::send-recv-1gib",
    "NCCL sends 1 GiB from each GPU to the next at the documented share of the link's rate.",
    OTHERS,
    &[("op", "send-recv"), ("bytes", "1073741824")],
);
static GATHER_RATIO: Claim = ratio(
    "collectives::all-gather-over-all-reduce",
    "A gather of 1 GiB has at least 0.75 of the bus bandwidth of an all-reduce.",
    OTHERS,
    rates::CASE.id,
    "over_all_reduce_ratio",
    &[("op", "all-gather")],
);
static SCATTER_RATIO: Claim = ratio(
    "collectives::reduce-scatter-over-all-reduce",
    "A reduction that scatters 1 GiB has at least 0.75 of the bus bandwidth of an all-reduce.",
    OTHERS,
    rates::CASE.id,
    "over_all_reduce_ratio",
    &[("op", "reduce-scatter")],
);
static OWN_EXACT: Claim = claim(
    "collectives::own-is-fixed-order",
    "The own all-reduce leaves the sum in the order of the ranks, rounded once, bit for bit, by any \
     algorithm, in every type and in place.",
    OURS,
    own::CASE.id,
    "wrong_count",
    &[],
);
static OWN_AGREE: Claim = claim(
    "collectives::own-ranks-agree",
    "After the own all-reduce of random values every rank holds the same bits.",
    OURS,
    own::CASE.id,
    "differing_count",
    &[],
);
static LATE_WAITED: Claim = ratio(
    "collectives::late-rank-is-waited-for",
    "While one rank is held for a millisecond no other one ends its all-reduce.",
    OURS,
    own::CASE.id,
    "waited_us",
    &[],
);
static LATE_RIGHT: Claim = claim(
    "collectives::late-rank-is-not-wrong",
    "An all-reduce to which one rank comes late leaves the same bits.",
    OURS,
    own::CASE.id,
    "late_wrong_count",
    &[],
);
static OWN_ABSENT_ENDS: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "collectives::own-absent-rank-is-bounded",
        "Where one rank never makes its call of the own all-reduce, by any kernel, the kernel of every other rank ends \
         with an error, and the last of them at most 2 s behind the ten seconds that bound each wait for a flag.",
        OURS,
        absent_own::CASE.id,
        absent_own::LATE,
        &[],
    )
};
static OWN_USABLE_AFTER: Claim = claim(
    "collectives::own-usable-after-absent-rank",
    "Behind processes whose own all-reduces ended so, another process reduces integers exactly over the same GPUs, by \
     each kernel and in every type.",
    OURS,
    absent_own::CASE.id,
    "wrong_count",
    &[("when", "after")],
);
static LATENCY_512: Claim = latency(
    "collectives::own-latency-512b",
    "The own all-reduce of 512 bytes in a graph takes no longer than PyTorch's symmetric memory was measured to.",
    &[("bytes", "512")],
);
static LATENCY_32K: Claim = latency(
    "collectives::own-latency-32kib",
    "The own all-reduce of 32 KiB in a graph takes no longer than PyTorch's symmetric memory was measured to.",
    &[("bytes", "32768")],
);
static LATENCY_1M: Claim = latency(
    "collectives::own-latency-1mib",
    "The own all-reduce of 1 MiB in a graph takes no longer than PyTorch's symmetric memory was measured to.",
    &[("bytes", "1048576")],
);
static NCCL_512: Claim = against_nccl(
    "collectives::own-512b-vs-nccl",
    "The own all-reduce of 512 bytes takes no longer than NCCL's in the same run.",
    &[("bytes", "512")],
);
static NCCL_32K: Claim = against_nccl(
    "collectives::own-32kib-vs-nccl",
    "The own all-reduce of 32 KiB takes no longer than NCCL's in the same run.",
    &[("bytes", "32768")],
);
static NCCL_1M: Claim = against_nccl(
    "collectives::own-1mib-vs-nccl",
    "The own all-reduce of 1 MiB takes no longer than NCCL's in the same run.",
    &[("bytes", "1048576")],
);
static NCCL_128M: Claim = against_nccl(
    "collectives::own-128mib-vs-nccl",
    "The own all-reduce of 128 MiB takes no longer than NCCL's in the same run.",
    &[("bytes", "134217728")],
);
static NCCL_1G: Claim = against_nccl(
    "collectives::own-1gib-vs-nccl",
    "The own all-reduce of 1 GiB has at least 0.95 of the rate of NCCL's in the same run.",
    &[("bytes", "1073741824")],
);
static TORCH_512: Claim = against_pytorch(
    "collectives::own-512b-vs-pytorch",
    "The own all-reduce of 512 bytes takes no longer than PyTorch's symmetric memory without multicast.",
    &[("bytes", "512")],
);
static TORCH_32K: Claim = against_pytorch(
    "collectives::own-32kib-vs-pytorch",
    "The own all-reduce of 32 KiB takes no longer than PyTorch's symmetric memory without multicast.",
    &[("bytes", "32768")],
);
static TORCH_1M: Claim = against_pytorch(
    "collectives::own-1mib-vs-pytorch",
    "The own all-reduce of 1 MiB takes no longer than PyTorch's symmetric memory without multicast.",
    &[("bytes", "1048576")],
);
static TORCH_128M: Claim = against_pytorch(
    "collectives::own-128mib-vs-pytorch",
    "The own all-reduce of 128 MiB has at least 0.95 of the rate of PyTorch's fastest without multicast.",
    &[("bytes", "134217728")],
);
