//! The claims of the suite.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

use crate::model::BITS;
use crate::model::hangs as hung;

use super::{
    basis, drift, every, hangs, oracle, ordinary, overlap, overlap_more, pipeline, planted, rates,
    rival, setting, split, turns, work,
};

pub(super) const ZERO: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Latest Validation",
    printed: "Tensor-parallel correctness: PASSED (0.000e+00 deviation across 8 GPUs)",
    board: "8x B200",
};
const PROTOTYPE: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "tensor-parallel prototype",
    printed: "Even partitioning layers across cuda:0/cuda:1 halves per-GPU memory, but NVLink transfers \
              stall medium-length sequences.",
    board: "2x B200",
};
const HANGS: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "2. torch.compile Hang Investigation (40B+)",
    printed: "--model llama40b --sequence-length 8192 --batch-size 4 --tensor-parallel-gpus 8",
    board: "8x B200",
};
pub(super) const OVERLAP: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "tensor-parallel prototype",
    printed: "Communication overlap and pipelining are needed before tensor-parallel shows net \
              throughput gains.",
    board: "2x B200",
};
pub(super) const OWN: Source = Source {
    document: "touchstone",
    section: "tensor parallel",
    printed: "what zero drift stands on",
    board: "",
};

pub(super) type At = &'static [(&'static str, &'static str)];

pub(super) const fn claim(
    id: &'static str,
    text: &'static str,
    source: Source,
    (case, metric, at): (&'static str, &'static str, At),
    gpus: u32,
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
        gpus: GpuCount::AtLeast(gpus),
        kind: Kind::Claim,
    }
}

/// No element differs.
const fn same(id: &'static str, text: &'static str, source: Source, at: At, gpus: u32) -> Claim {
    claim(id, text, source, (drift::CASE.id, setting::METRIC, at), gpus)
}

/// No element differs, in chunks.
const fn chunks(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    claim(id, text, ZERO, (turns::CASE.id, setting::METRIC, at), gpus)
}

/// No element differs behind a layer of a pipeline.
const fn pipelined(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    claim(id, text, PROTOTYPE, (pipeline::CASE.id, setting::METRIC, at), gpus)
}

/// No logit of any token differs.
const fn everywhere(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    claim(id, text, ZERO, (every::CASE.id, setting::METRIC, at), gpus)
}

const fn cut(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, (basis::CASE.id, basis::METRIC, at), 1)
}

const fn rate(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ceiling: Some("fp16_sheet_tflops"),
        ..claim(id, text, PROTOTYPE, (rates::CASE.id, rates::METRIC, at), gpus)
    }
}

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    &ORACLE,
    &BASIS_ALGORITHMS,
    &BASIS_COLUMNS,
    &BASIS_ROWS,
    &BASIS_SUMMED,
    &BASIS_HEAD,
    &RUN_TO_RUN_ONE,
    &RUN_TO_RUN,
    &NEW_PROCESS,
    &NEW_COMMUNICATOR,
    &SEQUENCE_ALONE,
    &SEQUENCE_SHARED,
    &LAYER_SPLIT,
    &MICRO_BATCHES,
    &PIPELINE_2,
    &PIPELINE_4,
    &PIPELINE_8,
    &HEADROOM,
    &ZERO_2,
    &ZERO_4,
    &ZERO_8,
    &LONG,
    &EVERY_2,
    &EVERY_4,
    &EVERY_8,
    &CHUNKS_2,
    &CHUNKS_4,
    &CHUNKS_8,
    &REVERSED,
    &ROTATED,
    &SERIAL,
    &AGREEMENT,
    &DELAYED,
    &LATE,
    &FLOPS,
    &SENT,
    &EXCHANGES,
    &TOTAL,
    &DEAD,
    &NO_HANG,
    &NO_HANG_8,
    &HANG_ENDED,
    &HANG_NAMED,
    &HANG_BUNDLE,
    &HANG_AFTER,
    &SMART_NO_HANG,
    &SMART_NO_HANG_8,
    &SMART_HANG_ENDED,
    &SMART_HANG_NAMED,
    &SMART_HANG_BUNDLE,
    &SMART_HANG_AFTER,
    &MEMORY_2,
    &RATE_2,
    &RATE_4,
    &RATE_8,
    &MEMORY_2_4096,
    &RATE_2_4096,
    &MEMORY_2_8192,
    &RATE_2_8192,
    &RATE_4_LONG,
    &RATE_8_LONG,
    &OVERLAP_PAYS,
    &HIDDEN,
    &COST_4_SHORT,
    &COST_4_LONG,
    &COST_8_SHORT,
    &COST_8_LONG,
    &NO_GAIN,
    &ANY_SPLIT,
    &ORDINARY_DRIFT,
    &ORDINARY_AGREES,
    &COST_2,
    &COST_4,
    &COST_8,
    &VS_2,
    &VS_4,
    &VS_4_LONG,
    &VS_8,
    &VS_8_LONG,
    &SPLIT_LONG,
    &SPLIT_MEMORY,
    &SPLIT_NO_GAIN,
    &SPLIT_PIPELINE,
];

static ORACLE: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::logits-vs-f64",
        "A small model's logits differ from those of the whole model in f64, rounded to halves where the GPU stores them, by at most 0.6 % by root mean square, over every degree.",
        OWN,
        (oracle::CASE.id, oracle::METRIC, &[]),
        2,
    )
};
static BASIS_ALGORITHMS: Claim = cut(
    "tensor-parallel::any-algorithm",
    "Every algorithm among the first 64 that cuBLASLt's heuristic offers for uncut fp16 sums without workspace gives the same bits.",
    &[("what", "algorithms")],
);
static BASIS_COLUMNS: Claim = cut(
    "tensor-parallel::any-columns",
    "A half, a quarter or an eighth of a product's columns has the bits of the whole.",
    &[("what", "columns")],
);
static BASIS_ROWS: Claim = cut(
    "tensor-parallel::any-rows",
    "Eight counts of last rows of a product, from 4096 down to one, have the bits of the whole.",
    &[("what", "rows")],
);
static BASIS_SUMMED: Claim = cut(
    "tensor-parallel::any-columns-in-place",
    "Products that are added to columns of the residual stream where they lie have the bits of the whole.",
    &[("what", "summed")],
);
static BASIS_HEAD: Claim = cut(
    "tensor-parallel::any-columns-of-the-head",
    "A half, a quarter or an eighth of the logits of one to eight tokens has the bits of the whole.",
    &[("what", "head")],
);
static RUN_TO_RUN_ONE: Claim = same(
    "tensor-parallel::run-to-run-one-gpu",
    "A pass on the first GPU alone gives the same bits again.",
    ZERO,
    &[("what", "run-to-run-one-gpu")],
    2,
);
static LONG: Claim = same(
    "tensor-parallel::zero-drift-long-sequence",
    "One sequence of 8192 tokens, in two chunks over the largest degree, has the bits of one GPU.",
    ZERO,
    &[("what", "long-sequence")],
    2,
);
static RUN_TO_RUN: Claim = same(
    "tensor-parallel::run-to-run",
    "A pass over the largest degree gives the same bits again.",
    ZERO,
    &[("what", "run-to-run")],
    2,
);
static NEW_PROCESS: Claim = claim(
    "tensor-parallel::new-process",
    "Another process gives the same bits.",
    ZERO,
    (drift::CASE.id, setting::PROCESS, &[("what", "new-process")]),
    2,
);
static NEW_COMMUNICATOR: Claim = same(
    "tensor-parallel::new-communicator",
    "In the same process, once the ranks of the largest degree with their buffers, streams and events and the GPUs' access to each other's memory are gone and made anew, passes give the same bits; no library's communicator is in them.",
    ZERO,
    &[("what", "new-communicator")],
    2,
);
static SEQUENCE_ALONE: Claim = same(
    "tensor-parallel::sequence-alone",
    "A sequence alone on the first GPU has the bits that it has among others.",
    ZERO,
    &[("what", "sequence-alone")],
    2,
);
static SEQUENCE_SHARED: Claim = same(
    "tensor-parallel::sequence-alone-shared",
    "A sequence alone over the largest degree has the bits that it has among others on the first GPU.",
    ZERO,
    &[("what", "sequence-alone-over-all")],
    2,
);
static LAYER_SPLIT: Claim = same(
    "tensor-parallel::layer-split",
    "A pipeline of two GPUs, which is what the document ran, gives the bits of one GPU.",
    PROTOTYPE,
    &[("what", "layer-split")],
    2,
);
static MICRO_BATCHES: Claim = same(
    "tensor-parallel::micro-batches",
    "A pipeline of two GPUs in micro-batches gives the bits of one GPU.",
    PROTOTYPE,
    &[("what", "micro-batches")],
    2,
);
static PIPELINE_2: Claim = pipelined(
    "tensor-parallel::pipeline-keeps-bits-2",
    "Over two GPUs with 24 of the 48 layers each, in fp16 and in FP8, in one piece and in four micro-batches, every layer and logit has the bits of one GPU.",
    &[("degree", "2")],
    2,
);
static PIPELINE_4: Claim = pipelined(
    "tensor-parallel::pipeline-keeps-bits-4",
    "Over four GPUs with 12 of the 48 layers each, in fp16 and in FP8, in one piece and in four micro-batches, every layer and logit has the bits of one GPU.",
    &[("degree", "4")],
    4,
);
static PIPELINE_8: Claim = pipelined(
    "tensor-parallel::pipeline-keeps-bits-8",
    "Over eight GPUs with 6 of the 48 layers each, in fp16 and in FP8, in one piece and in four micro-batches, every layer and logit has the bits of one GPU.",
    &[("degree", "8")],
    8,
);
static HEADROOM: Claim = Claim {
    relation: Relation::AtMost,
    kind: Kind::FalseRecord,
    ..claim(
        "tensor-parallel::headroom-doubles-is-false",
        "Layers over two GPUs double the memory that each has left.",
        Source {
            section: "Interpretation",
            printed: "Two-way tensor parallelism doubles available memory headroom",
            ..PROTOTYPE
        },
        (pipeline::CASE.id, pipeline::HEADROOM, &[("precision", "fp16")]),
        2,
    )
};
static ZERO_2: Claim = same(
    "tensor-parallel::zero-drift-tp2",
    "Two GPUs share every product of 48 layers, and every layer and logit has the bits of one.",
    ZERO,
    &[("what", "degree-2")],
    2,
);
static ZERO_4: Claim = same(
    "tensor-parallel::zero-drift-tp4",
    "Four GPUs share every product of 48 layers, and every layer and logit has the bits of one.",
    ZERO,
    &[("what", "degree-4")],
    4,
);
static ZERO_8: Claim = same(
    "tensor-parallel::zero-drift-tp8",
    "Eight GPUs share every product of 48 layers, and every layer and logit has the bits of one.",
    ZERO,
    &[("what", "degree-8")],
    8,
);
static EVERY_2: Claim = everywhere(
    "tensor-parallel::every-logits-tp2",
    "Over two GPUs the logits of each of 32768 tokens, each GPU's columns 1024 tokens at a time, behind two layers in fp16 and in FP8, have the bits of those that one GPU makes at once.",
    &[("degree", "2")],
    2,
);
static EVERY_4: Claim = everywhere(
    "tensor-parallel::every-logits-tp4",
    "Over four GPUs the logits of each of 32768 tokens, each GPU's columns 1024 tokens at a time, behind two layers in fp16 and in FP8, have the bits of those that one GPU makes at once.",
    &[("degree", "4")],
    4,
);
static EVERY_8: Claim = everywhere(
    "tensor-parallel::every-logits-tp8",
    "Over eight GPUs the logits of each of 32768 tokens, each GPU's columns 1024 tokens at a time, behind two layers in fp16 and in FP8, have the bits of those that one GPU makes at once.",
    &[("degree", "8")],
    8,
);
static CHUNKS_2: Claim = chunks(
    "tensor-parallel::chunks-keep-bits-tp2",
    "Over two GPUs 12 layers in fp16 and in FP8, of one sequence of 8192 tokens in four and in eight chunks, and of four of 2048 in four, of which two chunks are held at a time, have the bits of one GPU's pass behind every layer, also where the last rank reads or sends the first chunk of one layer late.",
    &[("degree", "2")],
    2,
);
static CHUNKS_4: Claim = chunks(
    "tensor-parallel::chunks-keep-bits-tp4",
    "Over four GPUs 12 layers in fp16 and in FP8, of one sequence of 8192 tokens in four and in eight chunks, and of four of 2048 in four, of which two chunks are held at a time, have the bits of one GPU's pass behind every layer, also where the last rank reads or sends the first chunk of one layer late.",
    &[("degree", "4")],
    4,
);
static CHUNKS_8: Claim = chunks(
    "tensor-parallel::chunks-keep-bits-tp8",
    "Over eight GPUs 12 layers in fp16 and in FP8, of one sequence of 8192 tokens in four and in eight chunks, and of four of 2048 in four, of which two chunks are held at a time, have the bits of one GPU's pass behind every layer, also where the last rank reads or sends the first chunk of one layer late.",
    &[("degree", "8")],
    8,
);
static REVERSED: Claim = same(
    "tensor-parallel::any-order",
    "The GPUs in reversed order give the same bits.",
    ZERO,
    &[("what", "reversed")],
    2,
);
static ROTATED: Claim = same(
    "tensor-parallel::any-rotation",
    "Four GPUs or more, each in the place of the one before it and the first in that of the last, give the same bits.",
    ZERO,
    &[("what", "rotated")],
    4,
);
static SERIAL: Claim = same(
    "tensor-parallel::overlap-keeps-bits",
    "Exchanges beside products and exchanges between them give the same bits.",
    OVERLAP,
    &[("what", "serial")],
    2,
);
static AGREEMENT: Claim = claim(
    "tensor-parallel::ranks-agree",
    "Every rank holds the same residual stream behind every layer.",
    ZERO,
    (drift::CASE.id, setting::AGREEMENT, &[]),
    2,
);
static DELAYED: Claim = same(
    "tensor-parallel::late-is-right",
    "A rank that is held up, or what it sends, changes no bit.",
    ZERO,
    &[("what", "delayed")],
    2,
);
static LATE: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "tensor-parallel::late-is-late",
        "A rank that is held up for 50 ms makes every other rank late: they wait for it.",
        ZERO,
        (drift::CASE.id, setting::LATE, &[("what", "delayed")]),
        2,
    )
};
static DEAD: Claim = claim(
    "tensor-parallel::dead-rank-is-contained",
    "A rank that never comes ends its process at the deadline, and the GPUs serve the next one.",
    ZERO,
    (planted::CASE.id, planted::METRIC, &[]),
    2,
);
static NO_HANG: Claim = claim(
    "tensor-parallel::no-stage-hangs",
    "The 48-layer model over 4 sequences of 8192 tokens is compiled, tuned and run over all GPUs, and without tuning compiled \
     and run, each stage within its budget; so are the healthy passes beside it.",
    HANGS,
    (hangs::CASE.id, hung::ALARMS, &[]),
    2,
);
static NO_HANG_8: Claim = claim(
    "tensor-parallel::no-stage-hangs-tp8",
    "The same over eight GPUs.",
    HANGS,
    (hangs::CASE.id, hung::ALARMS, &[("degree", "8")]),
    8,
);
static HANG_ENDED: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::hang-is-ended",
        "A loop of the host in compiling or tuning, or a rank that never comes, is ended within seconds of the end of its \
         stage's budget.",
        HANGS,
        (hangs::CASE.id, hung::LATE, &[]),
        2,
    )
};
static HANG_NAMED: Claim = claim(
    "tensor-parallel::hang-is-named",
    "A hang is named by the stage in which it is, and no process of it is left.",
    HANGS,
    (hangs::CASE.id, hung::MISNAMED, &[]),
    2,
);
static HANG_BUNDLE: Claim = claim(
    "tensor-parallel::hang-leaves-a-bundle",
    "A hang leaves what it takes to repeat it, and what its threads did and where they were; of a rank that never comes also a flight record with \
     the exchanges that were enqueued.",
    HANGS,
    (hangs::CASE.id, hung::PIECES, &[]),
    2,
);
static HANG_AFTER: Claim = claim(
    "tensor-parallel::hang-harms-no-later-pass",
    "Behind hangs that were ended, the GPUs give the bits that they gave before, tuned or not.",
    HANGS,
    (hangs::CASE.id, BITS, &[]),
    2,
);
static SMART_NO_HANG: Claim = claim(
    "tensor-parallel::smart-hangs-not",
    "The 48-layer model over 4 sequences of 8192 tokens is compiled, made ready by the smart way and run over all GPUs, each \
     stage within its budget; so are the healthy passes beside it.",
    HANGS,
    (hangs::SMART_CASE.id, hung::ALARMS, &[]),
    2,
);
static SMART_NO_HANG_8: Claim = claim(
    "tensor-parallel::smart-hangs-not-tp8",
    "The same of the smart way over eight GPUs.",
    HANGS,
    (hangs::SMART_CASE.id, hung::ALARMS, &[("degree", "8")]),
    8,
);
static SMART_HANG_ENDED: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::smart-hang-is-ended",
        "A loop of the host in the smart way's search over all GPUs is ended within seconds of the end of its stage's budget.",
        HANGS,
        (hangs::SMART_CASE.id, hung::LATE, &[]),
        2,
    )
};
static SMART_HANG_NAMED: Claim = claim(
    "tensor-parallel::smart-hang-is-named",
    "A hang in the smart way's search over all GPUs is named as that, and no process of it is left.",
    HANGS,
    (hangs::SMART_CASE.id, hung::MISNAMED, &[]),
    2,
);
static SMART_HANG_BUNDLE: Claim = claim(
    "tensor-parallel::smart-hang-leaves-a-bundle",
    "A hang in the smart way's search over all GPUs leaves what it takes to repeat it, what its threads did and where they were, \
     and the product that was enqueued last.",
    HANGS,
    (hangs::SMART_CASE.id, hung::PIECES, &[]),
    2,
);
static SMART_HANG_AFTER: Claim = claim(
    "tensor-parallel::smart-hang-harms-no-later-pass",
    "Behind a hang in the smart way's search that was ended, the GPUs give the bits that they gave before, by the smart way and \
     with the heuristic's algorithms.",
    HANGS,
    (hangs::SMART_CASE.id, BITS, &[]),
    2,
);
static FLOPS: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::flops-balanced",
        "Every rank is given the same number of operations.",
        ZERO,
        (drift::CASE.id, work::FLOPS, &[]),
        2,
    )
};
static SENT: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::bytes-balanced",
        "Every rank sends the same number of bytes, as counted where they are enqueued.",
        ZERO,
        (drift::CASE.id, work::SENT, &[]),
        2,
    )
};
static EXCHANGES: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::exchanges-balanced",
        "Every rank sends in the same number of exchanges.",
        ZERO,
        (drift::CASE.id, work::EXCHANGES, &[]),
        2,
    )
};
static TOTAL: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::nothing-left-out",
        "The ranks' operations together are the model's, as counted where they are enqueued.",
        ZERO,
        (drift::CASE.id, work::TOTAL, &[]),
        2,
    )
};
static MEMORY_2: Claim = MEMORY_OF_2;
const MEMORY_OF_2: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::memory-tp2-4x2048",
        "Two GPUs take half of the model each: 4 sequences of 2048 tokens fit as printed.",
        Source { printed: "4 x 2048: 41.1 GB per GPU", ..PROTOTYPE },
        (rates::CASE.id, rates::MEMORY, &[("degree", "2"), ("problem", "4x2048")]),
        2,
    )
};
static MEMORY_2_4096: Claim = Claim {
    id: "tensor-parallel::memory-tp2-2x4096",
    text: "Two GPUs take half of the model each: 2 sequences of 4096 tokens fit as printed.",
    source: Source { printed: "2 x 4096: 41.1 GB per GPU", ..PROTOTYPE },
    case: rates::MORE_CASE.id,
    at: &[("degree", "2"), ("problem", "2x4096")],
    ..MEMORY_OF_2
};
static MEMORY_2_8192: Claim = Claim {
    id: "tensor-parallel::memory-tp2-1x8192",
    text: "Two GPUs take half of the model each: a sequence of 8192 tokens fits as printed.",
    source: Source { printed: "1 x 8192: 41.1 GB per GPU", ..PROTOTYPE },
    case: rates::MORE_CASE.id,
    at: &[("degree", "2"), ("problem", "1x8192")],
    ..MEMORY_OF_2
};
static RATE_2: Claim = rate(
    "tensor-parallel::tp2-4x2048",
    "Two GPUs run 4 sequences of 2048 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "2"), ("problem", "4x2048")],
    2,
);
static RATE_4: Claim = rate(
    "tensor-parallel::tp4-8x1024",
    "Four GPUs run 8 sequences of 1024 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "4"), ("problem", "8x1024")],
    4,
);
static RATE_8: Claim = rate(
    "tensor-parallel::tp8-8x1024",
    "Eight GPUs run 8 sequences of 1024 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "8"), ("problem", "8x1024")],
    8,
);

const fn more_rate(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    Claim { case: rates::MORE_CASE.id, ..rate(id, text, at, gpus) }
}

static RATE_2_4096: Claim = more_rate(
    "tensor-parallel::tp2-2x4096",
    "Two GPUs run 2 sequences of 4096 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "2"), ("problem", "2x4096")],
    2,
);
static RATE_2_8192: Claim = more_rate(
    "tensor-parallel::tp2-1x8192",
    "Two GPUs run a sequence of 8192 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "2"), ("problem", "1x8192")],
    2,
);
static RATE_4_LONG: Claim = more_rate(
    "tensor-parallel::tp4-1x32768",
    "Four GPUs run a sequence of 32768 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "4"), ("problem", "1x32768")],
    4,
);
static RATE_8_LONG: Claim = more_rate(
    "tensor-parallel::tp8-1x32768",
    "Eight GPUs run a sequence of 32768 tokens at the documented share of the sheet's rate, columns shared.",
    &[("degree", "8"), ("problem", "1x32768")],
    8,
);
static OVERLAP_PAYS: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "tensor-parallel::overlap-pays",
        "Exchanges beside products make the passes of the largest degree faster.",
        OVERLAP,
        (overlap::CASE.id, overlap::OVERLAP, &[]),
        2,
    )
};
static HIDDEN: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::exchanges-hidden",
        "Of a pass with overlap at most a thirteenth is communication.",
        OVERLAP,
        (overlap::CASE.id, overlap::EXPOSED, &[]),
        2,
    )
};
const fn exchanges_cost(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    Claim {
        relation: Relation::AtMost,
        ..claim(id, text, OVERLAP, (overlap_more::CASE.id, overlap_more::COST, at), gpus)
    }
}

static COST_4_SHORT: Claim = exchanges_cost(
    "tensor-parallel::exchanges-cost-tp4-8x1024",
    "Over four GPUs a pass over 8 sequences of 1024 tokens takes at most 1.15 of the time of one in which nothing is sent and no rank waits for another.",
    &[("degree", "4"), ("problem", "8x1024")],
    4,
);
static COST_4_LONG: Claim = exchanges_cost(
    "tensor-parallel::exchanges-cost-tp4-1x32768",
    "Over four GPUs a pass over a sequence of 32768 tokens takes at most 1.1 of the time of one in which nothing is sent and no rank waits for another.",
    &[("degree", "4"), ("problem", "1x32768")],
    4,
);
static COST_8_SHORT: Claim = exchanges_cost(
    "tensor-parallel::exchanges-cost-tp8-8x1024",
    "Over eight GPUs a pass over 8 sequences of 1024 tokens takes at most 1.5 of the time of one in which nothing is sent and no rank waits for another.",
    &[("degree", "8"), ("problem", "8x1024")],
    8,
);
static COST_8_LONG: Claim = exchanges_cost(
    "tensor-parallel::exchanges-cost-tp8-1x32768",
    "Over eight GPUs a pass over a sequence of 32768 tokens takes at most 1.4 of the time of one in which nothing is sent and no rank waits for another.",
    &[("degree", "8"), ("problem", "1x32768")],
    8,
);
static SPLIT_LONG: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::layer-split-costs-little",
        "A pipeline of two GPUs, the batch in one piece, costs at most a tenth more than the time of one GPU, link included.",
        PROTOTYPE,
        (split::CASE.id, split::TIME, &[]),
        2,
    )
};
static SPLIT_MEMORY: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::layer-split-memory",
        "A pipeline of two GPUs takes no more memory on either than the document printed.",
        PROTOTYPE,
        (split::CASE.id, rates::MEMORY, &[]),
        2,
    )
};
static SPLIT_NO_GAIN: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim(
        "tensor-parallel::layer-split-is-no-faster",
        "A pipeline of two GPUs, the batch in one piece, takes at least 0.8 of the time of one GPU.",
        PROTOTYPE,
        (split::CASE.id, split::NO_GAIN, &[]),
        2,
    )
};
static SPLIT_PIPELINE: Claim = Claim {
    relation: Relation::AtMost,
    ..claim(
        "tensor-parallel::micro-batches-pay",
        "A pipeline of two GPUs in four micro-batches takes at most 0.72 of the time of one GPU.",
        OVERLAP,
        (split::CASE.id, split::PIPELINE, &[]),
        2,
    )
};
static NO_GAIN: Claim = Claim {
    relation: Relation::AtLeast,
    kind: Kind::FalseRecord,
    ..claim(
        "tensor-parallel::no-gain-without-overlap-is-false",
        "Two GPUs that split the columns, without any overlap, are no faster than one.",
        OVERLAP,
        (overlap::CASE.id, overlap::SPEEDUP, &[]),
        2,
    )
};

const RIVAL: Source = Source {
    document: "touchstone",
    section: "rivals",
    printed: "what an operator would run instead: PyTorch over NCCL",
    board: "",
};

const fn against(id: &'static str, text: &'static str, at: At, gpus: u32) -> Claim {
    Claim {
        relation: Relation::AtLeast,
        ..claim(id, text, RIVAL, (rival::CASE.id, rival::METRIC, at), gpus)
    }
}

static VS_2: Claim = against(
    "tensor-parallel::tp2-4x2048-vs-pytorch",
    "Two GPUs run 4 sequences of 2048 tokens, columns shared, faster than eager PyTorch over NCCL, rows shared.",
    &[("degree", "2"), ("problem", "4x2048")],
    2,
);
static VS_4: Claim = against(
    "tensor-parallel::tp4-8x1024-vs-pytorch",
    "Four GPUs run 8 sequences of 1024 tokens, columns shared, faster than eager PyTorch over NCCL, rows shared.",
    &[("degree", "4"), ("problem", "8x1024")],
    4,
);
static VS_4_LONG: Claim = against(
    "tensor-parallel::tp4-1x32768-vs-pytorch",
    "Four GPUs run a sequence of 32768 tokens, columns shared, faster than eager PyTorch over NCCL, rows shared.",
    &[("degree", "4"), ("problem", "1x32768")],
    4,
);
static VS_8: Claim = against(
    "tensor-parallel::tp8-8x1024-vs-pytorch",
    "Eight GPUs run 8 sequences of 1024 tokens, columns shared, faster than eager PyTorch over NCCL, rows shared.",
    &[("degree", "8"), ("problem", "8x1024")],
    8,
);
static VS_8_LONG: Claim = against(
    "tensor-parallel::tp8-1x32768-vs-pytorch",
    "Eight GPUs run a sequence of 32768 tokens, columns shared, faster than eager PyTorch over NCCL, rows shared.",
    &[("degree", "8"), ("problem", "1x32768")],
    8,
);

const fn beside(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    metric: &'static str,
    (at, gpus): (At, u32),
) -> Claim {
    Claim { relation, ..claim(id, text, ZERO, (ordinary::CASE.id, metric, at), gpus) }
}

static ANY_SPLIT: Claim = Claim {
    kind: Kind::FalseRecord,
    ..beside(
        "tensor-parallel::any-split-is-zero-drift-is-false",
        "Rows shared and summed by NCCL, which is what tensor parallel ordinarily is, give the bits of one GPU.",
        Relation::AtLeast,
        ordinary::DRIFT,
        (&[], 2),
    )
};
static ORDINARY_DRIFT: Claim = beside(
    "tensor-parallel::ordinary-drift",
    "Rows shared and summed by NCCL move a model's logits by no more than roundings of halves do.",
    Relation::AtMost,
    ordinary::LOGITS,
    (&[], 2),
);
static ORDINARY_AGREES: Claim = beside(
    "tensor-parallel::ordinary-ranks-agree",
    "Under NCCL's sums every rank holds the same residual stream behind every layer.",
    Relation::Holds,
    ordinary::AGREEMENT,
    (&[], 2),
);
static COST_2: Claim = beside(
    "tensor-parallel::no-drift-costs-nothing-tp2",
    "Over two GPUs a pass without drift takes at most 5 % longer than one with NCCL's sums and the same overlap.",
    Relation::AtLeast,
    ordinary::COST,
    (&[("degree", "2")], 2),
);
static COST_4: Claim = beside(
    "tensor-parallel::no-drift-costs-nothing-tp4",
    "Over four GPUs a pass without drift takes at most 5 % longer than one with NCCL's sums and the same overlap.",
    Relation::AtLeast,
    ordinary::COST,
    (&[("degree", "4")], 4),
);
static COST_8: Claim = beside(
    "tensor-parallel::no-drift-costs-nothing-tp8",
    "Over eight GPUs a pass without drift takes at most 3 % longer than one with NCCL's sums and the same overlap.",
    Relation::AtLeast,
    ordinary::COST,
    (&[("degree", "8")], 8),
);
