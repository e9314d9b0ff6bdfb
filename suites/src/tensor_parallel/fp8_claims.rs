//! The claims about the model in FP8 over several GPUs, and about the products that they stand on.

use harness::claim::{Claim, Relation, Source};

use super::claims::{At, OVERLAP, OWN, ZERO, claim};
use super::{basis, basis_fp8, drift_fp8, fp8, setting, work};

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    &FP8_ORACLE,
    &FP8_AGAIN,
    &FP8_AGAIN_SHARED,
    &FP8_NEW_PROCESS,
    &FP8_NEW_COMMUNICATOR,
    &FP8_ALONE,
    &FP8_ALONE_SHARED,
    &FP8_2,
    &FP8_4,
    &FP8_8,
    &FP8_LONG,
    &FP8_REVERSED,
    &FP8_ROTATED,
    &FP8_SERIAL,
    &FP8_AGREEMENT,
    &FP8_DELAYED,
    &FP8_LATE,
    &FP8_FLOPS,
    &FP8_SENT,
    &FP8_EXCHANGES,
    &FP8_TOTAL,
    &FP8_COLUMNS,
    &FP8_ROWS,
    &FP8_SUMMED,
    &FP8_HEAD,
    &OWN_COLUMNS,
    &OWN_ROWS,
    &OWN_SUMMED,
];

const fn same_in_fp8(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    claim(id, text, ZERO, (fp8::CASE.id, fp8::METRIC, at), gpus)
}

static FP8_ORACLE: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::fp8-logits-vs-f64",
        "A small model's logits in E4M3 differ from those of the whole in f64 on the same codes by at most 8 % by root mean square, over every degree.",
        OWN,
        (fp8::CASE.id, fp8::ERROR, &[]),
        2,
    )
};
static FP8_AGAIN: Claim = same_in_fp8(
    "tensor-parallel::fp8-run-to-run",
    "In E4M3 a pass on the first GPU alone gives the same bits again.",
    &[("what", "run-to-run-one-gpu")],
    2,
);
static FP8_ALONE: Claim = same_in_fp8(
    "tensor-parallel::fp8-sequence-alone",
    "In E4M3 a sequence alone on the first GPU has the bits that it has among others.",
    &[("what", "sequence-alone")],
    2,
);
static FP8_2: Claim = same_in_fp8(
    "tensor-parallel::fp8-zero-drift-tp2",
    "Two GPUs share every E4M3 product of 48 layers, and every layer and logit has the bits of one.",
    &[("what", "degree-2")],
    2,
);
static FP8_4: Claim = same_in_fp8(
    "tensor-parallel::fp8-zero-drift-tp4",
    "Four GPUs share every E4M3 product of 48 layers, and every layer and logit has the bits of one.",
    &[("what", "degree-4")],
    4,
);
static FP8_8: Claim = same_in_fp8(
    "tensor-parallel::fp8-zero-drift-tp8",
    "Eight GPUs share every E4M3 product of 48 layers, and every layer and logit has the bits of one.",
    &[("what", "degree-8")],
    8,
);
static FP8_REVERSED: Claim = same_in_fp8(
    "tensor-parallel::fp8-any-order",
    "In E4M3 the GPUs in reversed order give the same bits.",
    &[("what", "reversed")],
    2,
);
static FP8_ROTATED: Claim = same_in_fp8(
    "tensor-parallel::fp8-any-rotation",
    "In E4M3 four GPUs or more, each in the place of the one before it and the first in that of the last, give the same \
     bits.",
    &[("what", "rotated")],
    4,
);
static FP8_AGREEMENT: Claim = claim(
    "tensor-parallel::fp8-ranks-agree",
    "In E4M3 every rank holds the same residual stream behind every layer.",
    ZERO,
    (fp8::CASE.id, fp8::AGREEMENT, &[]),
    2,
);

/// No element differs, in what only the largest degree is asked.
const fn again_in_fp8(id: &'static str, text: &'static str, source: Source, at: At) -> Claim {
    claim(id, text, source, (drift_fp8::CASE.id, setting::METRIC, at), 2)
}

static FP8_AGAIN_SHARED: Claim = again_in_fp8(
    "tensor-parallel::fp8-run-to-run-shared",
    "In E4M3 a pass over the largest degree gives the same bits again.",
    ZERO,
    &[("what", "run-to-run")],
);
static FP8_NEW_PROCESS: Claim = claim(
    "tensor-parallel::fp8-new-process",
    "In E4M3 another process gives the same bits.",
    ZERO,
    (drift_fp8::CASE.id, setting::PROCESS, &[("what", "new-process")]),
    2,
);
static FP8_NEW_COMMUNICATOR: Claim = again_in_fp8(
    "tensor-parallel::fp8-new-communicator",
    "In E4M3, in the same process, once the ranks of the largest degree with their buffers, streams and events and the GPUs' access to each other's memory are gone and made anew, passes give the same bits; no library's communicator is in them.",
    ZERO,
    &[("what", "new-communicator")],
);
static FP8_ALONE_SHARED: Claim = again_in_fp8(
    "tensor-parallel::fp8-sequence-alone-shared",
    "In E4M3 a sequence alone over the largest degree has the bits that it has among others on the first GPU.",
    ZERO,
    &[("what", "sequence-alone-over-all")],
);
static FP8_LONG: Claim = again_in_fp8(
    "tensor-parallel::fp8-zero-drift-long-sequence",
    "In E4M3 one sequence of 8192 tokens, in two chunks over the largest degree, has the bits of one GPU.",
    ZERO,
    &[("what", "long-sequence")],
);
static FP8_SERIAL: Claim = again_in_fp8(
    "tensor-parallel::fp8-overlap-keeps-bits",
    "In E4M3 exchanges beside products and exchanges between them give the same bits.",
    OVERLAP,
    &[("what", "serial")],
);
static FP8_DELAYED: Claim = again_in_fp8(
    "tensor-parallel::fp8-late-is-right",
    "In E4M3 a rank that is held up, or what it sends, changes no bit.",
    ZERO,
    &[("what", "delayed")],
);
static FP8_LATE: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "tensor-parallel::fp8-late-is-late",
        "In E4M3 a rank that is held up for 50 ms makes every other rank late: they wait for it.",
        ZERO,
        (drift_fp8::CASE.id, setting::LATE, &[("what", "delayed")]),
        2,
    )
};

const fn shared_in_fp8(id: &'static str, text: &'static str, metric: &'static str) -> Claim {
    Claim { relation: Relation::AtMost, ..claim(id, text, ZERO, (fp8::CASE.id, metric, &[]), 2) }
}

static FP8_FLOPS: Claim = shared_in_fp8(
    "tensor-parallel::fp8-flops-balanced",
    "In E4M3 every rank is given the same number of operations.",
    work::FLOPS,
);
static FP8_SENT: Claim = shared_in_fp8(
    "tensor-parallel::fp8-bytes-balanced",
    "In E4M3 every rank sends the same number of bytes, as counted where they are enqueued.",
    work::SENT,
);
static FP8_EXCHANGES: Claim = shared_in_fp8(
    "tensor-parallel::fp8-exchanges-balanced",
    "In E4M3 every rank sends in the same number of exchanges.",
    work::EXCHANGES,
);
static FP8_TOTAL: Claim = shared_in_fp8(
    "tensor-parallel::fp8-nothing-left-out",
    "In E4M3 the ranks' operations together are the model's, as counted where they are enqueued.",
    work::TOTAL,
);

const fn cut_in_fp8(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, (basis_fp8::CASE.id, basis::METRIC, at), 1)
}

/// By the own kernel.
const fn cut_by_own(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, (basis_fp8::OWN_CASE.id, basis::METRIC, at), 1)
}

static FP8_COLUMNS: Claim = cut_in_fp8(
    "tensor-parallel::fp8-any-columns",
    "A half, a quarter or an eighth of the columns of cuBLASLt's precise E4M3 products has the bits of the whole.",
    &[("what", "columns")],
);
static FP8_ROWS: Claim = cut_in_fp8(
    "tensor-parallel::fp8-any-rows",
    "Eight counts of last rows of cuBLASLt's precise E4M3 products, from 4096 down to one, have the bits of the whole.",
    &[("what", "rows")],
);
static FP8_SUMMED: Claim = cut_in_fp8(
    "tensor-parallel::fp8-any-columns-in-place",
    "cuBLASLt's precise E4M3 products that are added to columns of the residual stream where they lie have the bits of the whole.",
    &[("what", "summed")],
);
static FP8_HEAD: Claim = cut_in_fp8(
    "tensor-parallel::fp8-any-columns-of-the-head",
    "In E4M3 a half, a quarter or an eighth of the logits of one to eight tokens has the bits of the whole.",
    &[("what", "head")],
);
static OWN_COLUMNS: Claim = cut_by_own(
    "tensor-parallel::fp8-own-any-columns",
    "A half, a quarter or an eighth of the columns of the own E4M3 products has the bits of the whole.",
    &[("what", "columns")],
);
static OWN_ROWS: Claim = cut_by_own(
    "tensor-parallel::fp8-own-any-rows",
    "Eight counts of last rows of the own E4M3 products, from 4096 down to one, have the bits of the whole.",
    &[("what", "rows")],
);
static OWN_SUMMED: Claim = cut_by_own(
    "tensor-parallel::fp8-own-any-columns-in-place",
    "The own E4M3 products that are added to columns of the residual stream where they lie have the bits of the whole.",
    &[("what", "summed")],
);
