//! The claims of the suite.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

use super::{
    accumulator, accuracy, adder, auto, bad_input, formats, integers, microscaled, native_products,
    products, quantisers, random, rates, weight_memory, weight_only, weight_rates,
};

const OWN: Source = Source {
    document: "touchstone",
    section: "precision",
    printed: "what every sentence on FP8 stands on",
    board: "",
};
const ROWWISE: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "Linear weights are stored in FP8 with per-output scaling; activations are quantised row-wise to \
              FP8 on the fly",
    board: "B200",
};
const FUSED: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Recommendations & Next Experiments",
    printed: "larger tiles, fused activation quantization",
    board: "B200",
};
const THROUGHPUT: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "staying within ~1-2% of FP16 throughput up to 4K tokens",
    board: "B200",
};

const PERPLEXITY_TOOL: Source = Source {
    document: "001-known-gaps.md",
    section: "12. Accuracy/Quality Testing",
    printed: "cross-entropy/perplexity on tokenized corpora",
    board: "B200",
};
const ACCURACY: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Completed",
    printed: "Comprehensive test suite with FP16/BF16/FP8 comparisons",
    board: "B200",
};
const LABEL: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Executive Summary",
    printed: "Fused FP8 weight-only linears (using `torch._scaled_mm`)",
    board: "B200",
};

const FALLBACK: Source = Source {
    document: "001-known-gaps.md",
    section: "1. FP8 Quantization - AVAILABLE",
    printed: "auto-falls back to weight-only when TE is missing",
    board: "B200",
};
const ACTIVE: Source = Source {
    document: "001-known-gaps.md",
    section: "1. FP8 Quantization - AVAILABLE",
    printed: "JSON outputs report the active precision mode for each workload",
    board: "B200",
};

const MEMORY: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "Peak memory drops by ~35% relative to FP16 weights (80.6 GB -> 41.8 GB for 2-4K token runs)",
    board: "B200",
};

pub(super) type At = &'static [(&'static str, &'static str)];

pub(super) const fn claim(
    id: &'static str,
    text: &'static str,
    source: Source,
    relation: Relation,
    (case, metric, at): (&'static str, &'static str, At),
) -> Claim {
    Claim {
        id,
        text,
        source,
        relation,
        case,
        metric,
        at,
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

const fn encoded(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::CASE.id, formats::CODES, at))
}

const fn decoded(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::CASE.id, formats::NUMBERS, at))
}

const fn swept(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::CASE.id, formats::DIFFERENT, at))
}

const fn native(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (formats::NATIVE_CASE.id, formats::DIFFERENT, at))
}

const fn same(id: &'static str, text: &'static str, source: Source, at: At) -> Claim {
    let place = (quantisers::CASE.id, quantisers::DIFFERING, at);
    claim(id, text, source, Relation::Holds, place)
}

const fn bounded(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::AtMost, (quantisers::CASE.id, quantisers::ERROR, at))
}

const fn over_copy(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::AtLeast, (rates::CASE.id, rates::OVER_COPY, at))
}

const fn summed(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    metric: &'static str,
    at: At,
) -> Claim {
    claim(id, text, OWN, relation, (accumulator::CASE.id, metric, at))
}

const fn product(
    id: &'static str,
    text: &'static str,
    source: Source,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, source, relation, (products::CASE.id, metric, at))
}

const fn by_blocks(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    metric: &'static str,
) -> Claim {
    claim(id, text, OWN, relation, (products::blocks::CASE.id, metric, &[("scales", "block")]))
}

const fn ran(id: &'static str, text: &'static str, source: Source, at: At) -> Claim {
    let place = (products::foretold::CASE.id, products::foretold::UNPREDICTED, at);
    claim(id, text, source, Relation::Holds, place)
}

const fn judged(
    id: &'static str,
    text: &'static str,
    source: Source,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, source, relation, (accuracy::CASE.id, metric, at))
}

const fn judged_in_fp8(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, ACCURACY, relation, (accuracy::fp8::CASE.id, metric, at))
}

const fn judged_by_blocks(id: &'static str, text: &'static str, metric: &'static str) -> Claim {
    const AT: At = &[("model", "trained"), ("precision", "fp8-block")];
    claim(id, text, ACCURACY, Relation::AtMost, (accuracy::blocks::CASE.id, metric, AT))
}

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    &ENCODE_E4M3,
    &ENCODE_UE4M3,
    &ENCODE_E5M2,
    &ENCODE_E2M1,
    &ENCODE_UE8M0,
    &ENCODE_F16,
    &ENCODE_BF16,
    &DECODE_E4M3,
    &DECODE_UE4M3,
    &DECODE_E5M2,
    &DECODE_E2M1,
    &DECODE_UE8M0,
    &DECODE_F16,
    &DECODE_BF16,
    &EVERY_E4M3,
    &EVERY_UE4M3,
    &EVERY_E5M2,
    &EVERY_F16,
    &EVERY_BF16,
    &NATIVE_E2M1,
    &NATIVE_UE8M0,
    &ENCODE_INT8,
    &ENCODE_INT2,
    &DECODE_INT8,
    &DECODE_INT2,
    &BITS_TENSOR,
    &BITS_DELAYED,
    &BITS_ROW,
    &BITS_LONG,
    &BITS_GELU,
    &BITS_GELU_LONG,
    &BITS_NORM_WHOLE,
    &BITS_NORM,
    &BITS_BLOCK,
    &BITS_SQUARE,
    &BITS_NVFP4,
    &BITS_MXFP8,
    &BITS_MXFP4,
    &BOUND_TENSOR,
    &BOUND_DELAYED,
    &BOUND_ROW,
    &BOUND_LONG,
    &BOUND_GELU,
    &BOUND_GELU_LONG,
    &BOUND_NORM_WHOLE,
    &BOUND_NORM,
    &BOUND_BLOCK,
    &BOUND_SQUARE,
    &BOUND_NVFP4,
    &BOUND_MXFP8,
    &BOUND_MXFP4,
    &BITS_INT8,
    &BOUND_INT8,
    &RATE_TENSOR,
    &RATE_DELAYED,
    &RATE_DELAYED_LONG,
    &RATE_CURRENT,
    &RATE_CURRENT_LONG,
    &RATE_ROW,
    &RATE_LONG,
    &RATE_GELU,
    &RATE_GELU_LONG,
    &RATE_NORM,
    &RATE_BLOCK,
    &RATE_SQUARE,
    &RATE_NVFP4,
    &RATE_MXFP8,
    &RATE_MXFP4,
    &NORM_FUSED,
    &ONES_FAST,
    &ONES_PRECISE,
    &LOST_FAST,
    &LOST_PRECISE,
    &LEAST_ONES,
    &LEAST_LOST,
    &MODEL_F16,
    &MODEL_FAST,
    &MODEL_PRECISE,
    &ADDER_OWN,
    &ADDER_F16,
    &ADDER_E4M3,
    &EXACT_ROW,
    &EXACT_BLOCK,
    &EXACT_TENSOR,
    &RAN_ROW,
    &RAN_ROW_FAST,
    &RAN_BLOCK,
    &RAN_TENSOR,
    &RAN_TENSOR_FAST,
    &ARITHMETIC_ROW,
    &ARITHMETIC_ROW_FAST,
    &ARITHMETIC_BLOCK,
    &ARITHMETIC_TENSOR,
    &ARITHMETIC_TENSOR_FAST,
    &FORMAT_ROW,
    &FORMAT_BLOCK,
    &FORMAT_TENSOR,
    &FORMAT_DELAYED,
    &DELAYED_ROLLS,
    &SPEEDUP_PRECISE,
    &SPEEDUP_FAST,
    &AUTO_NAMES,
    &AUTO_KEEPS,
    &AUTO_FASTEST,
    &AUTO_REFUSES,
    &NUMBERS_NVFP4,
    &EXACT_NVFP4,
    &ERROR_NVFP4,
    &NUMBERS_MXFP8,
    &EXACT_MXFP8,
    &ERROR_MXFP8,
    &NUMBERS_MXFP4,
    &EXACT_MXFP4,
    &ERROR_MXFP4,
    &EXACT_NATIVE,
    &ERROR_NATIVE,
    &WEIGHT_EXACT,
    &WEIGHT_EXACT_HALF,
    &WEIGHT_ERROR,
    &WEIGHT_ERROR_HALF,
    &WEIGHT_FORETOLD,
    &WEIGHT_FORETOLD_HALF,
    &WEIGHT_ACTIVATIONS,
    &WEIGHT_LABEL,
    &WEIGHT_RATE,
    &WEIGHT_RATE_HALF,
    &WEIGHT_NO_COPY,
    &WEIGHT_MEMORY,
    &WEIGHT_DROP,
    &NOT_FINITE,
    &BAD_SHAPES,
    &UNIFORM,
    &COUNTED,
    &LOGITS_F64,
    &LOSS_PYTORCH,
    &LEARNT,
    &MOVED_FP16,
    &MOVED_BF16,
    &MOVED_TENSOR,
    &MOVED_ROW,
    &MOVED_BLOCK,
    &MOVED_W8,
    &MOVED_W4,
    &DIVERGED_FP16,
    &DIVERGED_BF16,
    &DIVERGED_TENSOR,
    &DIVERGED_ROW,
    &DIVERGED_BLOCK,
    &DIVERGED_W8,
    &DIVERGED_W4,
    &AGREED_ROW,
    &AGREED_W8,
    &AGREED_W4,
    &OUTLIERS_ROW,
    &OUTLIERS_TENSOR,
    &RANDOM,
];

static ENCODE_E4M3: Claim = encoded(
    "precision::encode-e4m3",
    "Every number of E4M3, every half-way point and their neighbours are converted to the right code.",
    &[("format", "e4m3")],
);
static ENCODE_UE4M3: Claim = encoded(
    "precision::encode-ue4m3",
    "Every number of UE4M3, every half-way point and their neighbours are converted to the right code, numbers below zero to that of zero.",
    &[("format", "ue4m3")],
);
static ENCODE_E5M2: Claim = encoded(
    "precision::encode-e5m2",
    "Every number of E5M2, every half-way point and their neighbours are converted to the right code.",
    &[("format", "e5m2")],
);
static ENCODE_E2M1: Claim = encoded(
    "precision::encode-e2m1",
    "Every number of E2M1, every half-way point and their neighbours are converted to the right code.",
    &[("format", "e2m1")],
);
static ENCODE_UE8M0: Claim = encoded(
    "precision::encode-ue8m0",
    "Every number of UE8M0, every half-way point and their neighbours are converted to the right code.",
    &[("format", "ue8m0")],
);
static ENCODE_F16: Claim = encoded(
    "precision::encode-fp16",
    "Every number of fp16, every half-way point and their neighbours are converted to the right code.",
    &[("format", "fp16")],
);
static ENCODE_BF16: Claim = encoded(
    "precision::encode-bf16",
    "Every number of bfloat16, every half-way point and their neighbours are converted to the right code.",
    &[("format", "bf16")],
);
static DECODE_E4M3: Claim = decoded(
    "precision::decode-e4m3",
    "Every code of E4M3 stands for the number that its definition gives.",
    &[("format", "e4m3")],
);
static DECODE_UE4M3: Claim = decoded(
    "precision::decode-ue4m3",
    "Every code of UE4M3 stands for the number that its definition gives.",
    &[("format", "ue4m3")],
);
static DECODE_E5M2: Claim = decoded(
    "precision::decode-e5m2",
    "Every code of E5M2 stands for the number that its definition gives.",
    &[("format", "e5m2")],
);
static DECODE_E2M1: Claim = decoded(
    "precision::decode-e2m1",
    "Every code of E2M1 stands for the number that its definition gives.",
    &[("format", "e2m1")],
);
static DECODE_UE8M0: Claim = decoded(
    "precision::decode-ue8m0",
    "Every code of UE8M0 stands for the number that its definition gives.",
    &[("format", "ue8m0")],
);
static DECODE_F16: Claim = decoded(
    "precision::decode-fp16",
    "Every code of fp16 stands for the number that its definition gives.",
    &[("format", "fp16")],
);
static DECODE_BF16: Claim = decoded(
    "precision::decode-bf16",
    "Every code of bfloat16 stands for the number that its definition gives.",
    &[("format", "bf16")],
);
static EVERY_E4M3: Claim = swept(
    "precision::every-f32-to-e4m3",
    "The chip converts every f32 to E4M3 as integer arithmetic does.",
    &[("format", "e4m3")],
);
static EVERY_UE4M3: Claim = swept(
    "precision::every-f32-to-ue4m3",
    "The chip's conversion to E4M3, of numbers below zero as of zero, converts every f32 to UE4M3 as integer arithmetic does.",
    &[("format", "ue4m3")],
);
static EVERY_E5M2: Claim = swept(
    "precision::every-f32-to-e5m2",
    "The chip converts every f32 to E5M2 as integer arithmetic does.",
    &[("format", "e5m2")],
);
static EVERY_F16: Claim = swept(
    "precision::every-f32-to-fp16",
    "The chip converts every f32 to fp16 as integer arithmetic does.",
    &[("format", "fp16")],
);
static EVERY_BF16: Claim = swept(
    "precision::every-f32-to-bf16",
    "The chip converts every f32 to bfloat16 as integer arithmetic does.",
    &[("format", "bf16")],
);
static NATIVE_E2M1: Claim = native(
    "precision::every-f32-to-e2m1",
    "The chip converts every f32 to E2M1 as integer arithmetic does.",
    &[("format", "e2m1")],
);
static NATIVE_UE8M0: Claim = native(
    "precision::every-f32-to-ue8m0",
    "The chip converts every f32 to UE8M0 as integer arithmetic does.",
    &[("format", "ue8m0")],
);
static BITS_TENSOR: Claim = same(
    "precision::quantise-tensor",
    "A matrix is quantised by its largest magnitude with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "tensor")],
);
static BITS_DELAYED: Claim = same(
    "precision::quantise-tensor-delayed",
    "A matrix is quantised by a history of largest magnitudes with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "tensor-delayed")],
);
static BITS_ROW: Claim = same(
    "precision::quantise-row",
    "A matrix is quantised by rows with the codes and scales of the definition, bit by bit.",
    ROWWISE,
    &[("scheme", "row")],
);
static BITS_LONG: Claim = same(
    "precision::quantise-row-long",
    "A matrix is quantised by rows of 32640 with the codes and scales of the definition, bit by bit.",
    ROWWISE,
    &[("scheme", "row-long")],
);
static BITS_GELU: Claim = same(
    "precision::quantise-gelu-row",
    "Rows are quantised behind GELU in one kernel as the definition quantises what the model's own GELU leaves, bit by bit.",
    FUSED,
    &[("scheme", "gelu-row")],
);
static BITS_NORM: Claim = same(
    "precision::quantise-norm-row",
    "Rows are quantised behind layer norm in one kernel as the definition quantises what the model's own norm leaves, bit by bit.",
    FUSED,
    &[("scheme", "norm-row")],
);
static BITS_BLOCK: Claim = same(
    "precision::quantise-block-1x128",
    "A matrix is quantised by 1x128 blocks with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "block-1x128")],
);
static BITS_SQUARE: Claim = same(
    "precision::quantise-block-128x128",
    "A matrix is quantised by 128x128 blocks with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "block-128x128")],
);
static BITS_NVFP4: Claim = same(
    "precision::quantise-nvfp4",
    "A matrix is quantised to NVFP4 with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "nvfp4")],
);
static BITS_MXFP8: Claim = same(
    "precision::quantise-mxfp8",
    "A matrix is quantised to MXFP8 with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "mxfp8")],
);
static BITS_MXFP4: Claim = same(
    "precision::quantise-mxfp4",
    "A matrix is quantised to MXFP4 with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "mxfp4")],
);
static BOUND_TENSOR: Claim = bounded(
    "precision::quantise-tensor-error",
    "No number that is quantised by its largest magnitude errs by more than the format proves.",
    &[("scheme", "tensor")],
);
static BOUND_DELAYED: Claim = bounded(
    "precision::quantise-tensor-delayed-error",
    "No number that is quantised by a history of largest magnitudes errs by more than the format proves.",
    &[("scheme", "tensor-delayed")],
);
static BOUND_ROW: Claim = bounded(
    "precision::quantise-row-error",
    "No number that is quantised by rows errs by more than the format proves.",
    &[("scheme", "row")],
);
static BOUND_LONG: Claim = bounded(
    "precision::quantise-row-long-error",
    "No number that is quantised by rows of 32640 errs by more than the format proves.",
    &[("scheme", "row-long")],
);
static BOUND_GELU: Claim = bounded(
    "precision::quantise-gelu-row-error",
    "No number that is quantised by rows behind GELU, in one kernel errs by more than the format proves.",
    &[("scheme", "gelu-row")],
);
static BOUND_NORM: Claim = bounded(
    "precision::quantise-norm-row-error",
    "No number that is quantised by rows behind layer norm, in one kernel errs by more than the format proves.",
    &[("scheme", "norm-row")],
);
static BOUND_BLOCK: Claim = bounded(
    "precision::quantise-block-1x128-error",
    "No number that is quantised by 1x128 blocks errs by more than the format proves.",
    &[("scheme", "block-1x128")],
);
static BOUND_SQUARE: Claim = bounded(
    "precision::quantise-block-128x128-error",
    "No number that is quantised by 128x128 blocks errs by more than the format proves.",
    &[("scheme", "block-128x128")],
);
static BOUND_NVFP4: Claim = bounded(
    "precision::quantise-nvfp4-error",
    "No number that is quantised to NVFP4 errs by more than the format proves.",
    &[("scheme", "nvfp4")],
);
static BOUND_MXFP8: Claim = bounded(
    "precision::quantise-mxfp8-error",
    "No number that is quantised to MXFP8 errs by more than the format proves.",
    &[("scheme", "mxfp8")],
);
static BOUND_MXFP4: Claim = bounded(
    "precision::quantise-mxfp4-error",
    "No number that is quantised to MXFP4 errs by more than the format proves.",
    &[("scheme", "mxfp4")],
);
static RATE_TENSOR: Claim = over_copy(
    "precision::quantise-tensor-rate",
    "8192 rows are quantised by a known largest magnitude at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor")],
);
static RATE_DELAYED: Claim = over_copy(
    "precision::quantise-tensor-delayed-rate",
    "8192 rows of 8192 are quantised by a history of largest magnitudes, their own recorded in the same pass, at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-delayed")],
);
static RATE_DELAYED_LONG: Claim = over_copy(
    "precision::quantise-tensor-delayed-long-rate",
    "8192 rows of 32768 are quantised by a history of largest magnitudes, their own recorded in the same pass, at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-delayed-long")],
);
static RATE_CURRENT: Claim = over_copy(
    "precision::quantise-tensor-current-rate",
    "8192 rows of 8192 are quantised by their own largest magnitude, which a pass of its own finds, at 0.85 of the rate of a copy of as many bytes, both reads counted, or more.",
    &[("scheme", "tensor-current")],
);
static RATE_CURRENT_LONG: Claim = over_copy(
    "precision::quantise-tensor-current-long-rate",
    "8192 rows of 32768 are quantised by their own largest magnitude, which a pass of its own finds, at 0.85 of the rate of a copy of as many bytes, both reads counted, or more.",
    &[("scheme", "tensor-current-long")],
);
static RATE_ROW: Claim = over_copy(
    "precision::quantise-row-rate",
    "8192 rows are quantised by rows at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "row")],
);
static RATE_LONG: Claim = over_copy(
    "precision::quantise-row-long-rate",
    "8192 rows are quantised by rows of 32768 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "row-long")],
);
static RATE_GELU: Claim = over_copy(
    "precision::quantise-gelu-row-rate",
    "8192 rows are quantised by rows behind GELU at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "gelu-row")],
);
static RATE_GELU_LONG: Claim = over_copy(
    "precision::quantise-gelu-row-long-rate",
    "8192 rows are quantised by rows of 32768 behind GELU at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "gelu-row-long")],
);
static RATE_NORM: Claim = over_copy(
    "precision::quantise-norm-row-rate",
    "8192 rows are quantised by rows behind layer norm at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "norm-row")],
);
static RATE_BLOCK: Claim = over_copy(
    "precision::quantise-block-1x128-rate",
    "8192 rows are quantised by 1x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-1x128")],
);
static RATE_SQUARE: Claim = over_copy(
    "precision::quantise-block-128x128-rate",
    "8192 rows are quantised by 128x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-128x128")],
);
static RATE_NVFP4: Claim = over_copy(
    "precision::quantise-nvfp4-rate",
    "8192 rows of a known largest magnitude are quantised to NVFP4 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "nvfp4")],
);
static RATE_MXFP8: Claim = over_copy(
    "precision::quantise-mxfp8-rate",
    "8192 rows are quantised to MXFP8 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp8")],
);
static RATE_MXFP4: Claim = over_copy(
    "precision::quantise-mxfp4-rate",
    "8192 rows are quantised to MXFP4 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp4")],
);
static NORM_FUSED: Claim = claim(
    "precision::norm-quantise-fused",
    "Layer norm and quantiser in one kernel take little more than half the time of two.",
    FUSED,
    Relation::AtLeast,
    (rates::CASE.id, rates::FUSED, &[]),
);
static ONES_FAST: Claim = summed(
    "precision::fast-accumulation-stops-at-16384",
    "With fast accumulation and no split of k 32768 products of one and one in E4M3 sum to 16384.",
    Relation::Equal,
    accumulator::ONES,
    &[("accumulation", "fast")],
);
static ONES_PRECISE: Claim = summed(
    "precision::precise-accumulation-counts",
    "Without fast accumulation or a split of k 32768 products of one and one in E4M3 sum to 32768.",
    Relation::Equal,
    accumulator::ONES,
    &[("accumulation", "precise")],
);
static LOST_FAST: Claim = summed(
    "precision::fast-accumulation-loses",
    "Of a sum of 16384 products of uniform positive numbers in E4M3 fast accumulation loses a fifth and more, on average.",
    Relation::AtLeast,
    accumulator::LOST,
    &[("accumulation", "fast")],
);
static LOST_PRECISE: Claim = summed(
    "precision::precise-accumulation-keeps",
    "Without it such a sum is off by less than a tenth of a percent, on average.",
    Relation::AtMost,
    accumulator::LOST,
    &[("accumulation", "precise")],
);
static LEAST_ONES: Claim = summed(
    "precision::fast-accumulation-least-k-of-ones",
    "The least k, in steps of 16, at which fast accumulation without a split of k does not count ones in E4M3 is 16400.",
    Relation::Equal,
    accumulator::LEAST_ONES,
    &[("accumulation", "fast")],
);
static LEAST_LOST: Claim = summed(
    "precision::fast-accumulation-least-k-of-loss",
    "The least power of two k at which fast accumulation loses a hundredth of a sum of products of uniform positive numbers in E4M3, on average, is 1024.",
    Relation::Equal,
    accumulator::LEAST_LOST,
    &[("accumulation", "fast")],
);
static MODEL_F16: Claim = summed(
    "precision::fp16-products-foretold",
    "Drawn elements of fp16 products have the bits of a model that adds 16 products at once to 25 bits.",
    Relation::Holds,
    accumulator::UNPREDICTED,
    &[("product", "fp16")],
);
static MODEL_FAST: Claim = summed(
    "precision::fast-products-foretold",
    "Drawn elements of E4M3 products with fast accumulation have the bits of a model with an accumulator of 13 bits.",
    Relation::Holds,
    accumulator::UNPREDICTED,
    &[("product", "e4m3-fast")],
);
static MODEL_PRECISE: Claim = summed(
    "precision::precise-products-foretold",
    "Drawn elements of precise E4M3 products have the bits of that model with groups of 128 added in f32.",
    Relation::Holds,
    accumulator::UNPREDICTED,
    &[("product", "e4m3-precise")],
);
static ADDER_OWN: Claim = claim(
    "precision::fp16-adder-as-published",
    "Drawn elements of fp16 products by this project's mma kernel have the bits of the adder that is published for the board's compute capability.",
    OWN,
    Relation::Holds,
    (adder::F16_CASE.id, adder::UNPREDICTED, &[("product", "own")]),
);
static ADDER_F16: Claim = claim(
    "precision::fp16-adder-of-cublaslt-as-published",
    "Drawn elements of cuBLASLt's fp16 products have the bits of the adder that is published for the board's compute capability, in one accumulator.",
    OWN,
    Relation::Holds,
    (adder::F16_CASE.id, adder::UNPREDICTED, &[("product", "cublaslt")]),
);
static ADDER_E4M3: Claim = claim(
    "precision::e4m3-adder-of-cublaslt-as-published",
    "Drawn elements of cuBLASLt's E4M3 products with fast accumulation have the bits of the adder that is published for the board's compute capability, in one accumulator.",
    OWN,
    Relation::Holds,
    (adder::E4M3_CASE.id, adder::UNPREDICTED, &[("product", "cublaslt")]),
);
static EXACT_ROW: Claim = product(
    "precision::row-scales-exact",
    "E4M3 products of integers up to 15 with powers of two as scales by row are exact, rounded once.",
    ROWWISE,
    Relation::Holds,
    (products::WRONG, &[("scales", "row")]),
);
static EXACT_BLOCK: Claim = by_blocks(
    "precision::block-scales-exact",
    "E4M3 products of integers up to 15 with powers of two as scales by 1x128 and 128x128 blocks are exact, rounded once.",
    Relation::Holds,
    products::WRONG,
);
static EXACT_TENSOR: Claim = product(
    "precision::tensor-scales-exact",
    "E4M3 products of integers up to 15 with powers of two as scales by tensor are exact in f32.",
    OWN,
    Relation::Holds,
    (products::WRONG, &[("scales", "tensor")]),
);
static RAN_ROW: Claim = ran(
    "precision::row-scales-ran-in-e4m3",
    "Drawn elements of a product with scales by row that was asked for in E4M3 have the bits of E4M3's adder with groups of 128 added in f32.",
    ROWWISE,
    &[("scales", "row")],
);
static RAN_ROW_FAST: Claim = ran(
    "precision::row-scales-ran-in-e4m3-fast",
    "With fast accumulation drawn elements of a product with scales by row have the bits of E4M3's adder in one accumulator.",
    OWN,
    &[("scales", "row-fast")],
);
static RAN_BLOCK: Claim = ran(
    "precision::block-scales-ran-in-e4m3",
    "Drawn elements of a product with scales by blocks have the bits of E4M3's adder with each block scaled and added in f32.",
    OWN,
    &[("scales", "block")],
);
static RAN_TENSOR: Claim = ran(
    "precision::tensor-scales-ran-in-e4m3",
    "Drawn elements of a product with scales by tensor that was asked for in E4M3 have the bits of E4M3's adder with groups of 128 added in f32.",
    OWN,
    &[("scales", "tensor")],
);
static RAN_TENSOR_FAST: Claim = ran(
    "precision::tensor-scales-ran-in-e4m3-fast",
    "With fast accumulation drawn elements of a product with scales by tensor have the bits of E4M3's adder in one accumulator.",
    OWN,
    &[("scales", "tensor-fast")],
);
static ARITHMETIC_ROW: Claim = product(
    "precision::row-scales-arithmetic",
    "Products with scales by row differ from f64 on the same codes by little more than bfloat16 rounds, in the worst row or column.",
    ROWWISE,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "row")]),
);
static ARITHMETIC_ROW_FAST: Claim = product(
    "precision::row-scales-arithmetic-fast",
    "With fast accumulation products of 2048 terms of both signs with scales by row differ from f64 on the same codes by 0.55 % at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "row-fast")]),
);
static ARITHMETIC_BLOCK: Claim = by_blocks(
    "precision::block-scales-arithmetic",
    "Products with scales by blocks differ from f64 on the same codes by little more than bfloat16 rounds, in the worst row or column.",
    Relation::AtMost,
    products::ARITHMETIC,
);
static ARITHMETIC_TENSOR: Claim = product(
    "precision::tensor-scales-arithmetic",
    "Products of 2048 terms of both signs with scales by tensor and f32 out differ from f64 on the same codes by 0.13 % at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "tensor")]),
);
static ARITHMETIC_TENSOR_FAST: Claim = product(
    "precision::tensor-scales-arithmetic-fast",
    "With fast accumulation products of 2048 terms of both signs with scales by tensor differ from f64 on the same codes by half a percent at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "tensor-fast")]),
);
static FORMAT_ROW: Claim = product(
    "precision::row-scales-error",
    "Products of numbers quantised by row differ from f64 on the fp16 numbers by 7 % at most, in the worst row or column.",
    ROWWISE,
    Relation::AtMost,
    (products::FORMAT, &[("scales", "row")]),
);
static FORMAT_BLOCK: Claim = by_blocks(
    "precision::block-scales-error",
    "Products of numbers quantised by blocks, rows of a square alike, differ from f64 on the fp16 numbers by 7 % at most, in the worst row or column.",
    Relation::AtMost,
    products::FORMAT,
);
static FORMAT_TENSOR: Claim = product(
    "precision::tensor-scales-error",
    "Products of numbers quantised by tensor, all rows alike, differ from f64 on the fp16 numbers by 8 % at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::FORMAT, &[("scales", "tensor")]),
);
static FORMAT_DELAYED: Claim = product(
    "precision::delayed-scales-error",
    "With A's scale from the largest magnitudes of four matrices before, of which the largest is twice its own, products differ by no more.",
    OWN,
    Relation::AtMost,
    (products::FORMAT, &[("scales", "tensor-delayed")]),
);
static DELAYED_ROLLS: Claim = product(
    "precision::delayed-scales-roll",
    "Delayed scaling takes each matrix's largest magnitude into a history of four, by whose largest the next one is scaled.",
    OWN,
    Relation::Holds,
    (products::STALE, &[("scales", "tensor-delayed")]),
);

const fn faster(id: &'static str, text: &'static str, at: At) -> Claim {
    let place = (rates::PRODUCT_CASE.id, rates::SPEEDUP, at);
    claim(id, text, THROUGHPUT, Relation::AtLeast, place)
}

static SPEEDUP_PRECISE: Claim = faster(
    "precision::fp8-products-pay",
    "The products of a layer over 8192 tokens in E4M3 with precise accumulation, the quantisation of their activations included, take less time than those in fp16.",
    &[("accumulation", "precise")],
);
static SPEEDUP_FAST: Claim = faster(
    "precision::fp8-products-pay-fast",
    "The products of a layer over 8192 tokens in E4M3 with fast accumulation, the quantisation of their activations included, take less time than those in fp16.",
    &[("accumulation", "fast")],
);

static AUTO_NAMES: Claim = claim(
    "precision::auto-names-its-choice",
    "Drawn elements of products by auto have the bits of the arithmetic that auto named, of fp16, of E4M3 with precise and with fast accumulation, and of weight-only E4M3.",
    ACTIVE,
    Relation::Holds,
    (auto::CASE.id, auto::MISNAMED, &[]),
);
static AUTO_KEEPS: Claim = claim(
    "precision::auto-keeps-its-wish",
    "A product by auto errs, beside f64 on its fp16 operands, by no more than was allowed: of nearly normal data, and of sums of one sign that were to be kept.",
    OWN,
    Relation::AtMost,
    (auto::CASE.id, auto::ERROR, &[]),
);
static AUTO_FASTEST: Claim = claim(
    "precision::auto-chooses-fastest-within-wish",
    "The arithmetic that auto chose takes no more time, within the documented share, than any other whose measured error is within what was allowed, at six shapes.",
    OWN,
    Relation::AtMost,
    (auto::CASE.id, auto::OVER_OTHERS, &[]),
);
static AUTO_REFUSES: Claim = claim(
    "precision::auto-refuses",
    "FP8 that a board, cuBLASLt or a shape does not have, or that is foretold to err by more than is allowed, is refused for that reason and computed in no other type.",
    FALLBACK,
    Relation::Holds,
    (auto::CASE.id, auto::WRONG, &[]),
);

static BITS_GELU_LONG: Claim = same(
    "precision::quantise-gelu-row-long",
    "Long rows are quantised behind GELU in one kernel as the definition quantises what the model's own GELU leaves, bit by bit.",
    FUSED,
    &[("scheme", "gelu-row-long")],
);
static BITS_NORM_WHOLE: Claim = same(
    "precision::quantise-norm-row-whole",
    "Rows of 8192 are quantised behind layer norm in one kernel as the definition quantises what the model's own norm leaves, bit by bit.",
    FUSED,
    &[("scheme", "norm-row-whole")],
);
static BOUND_NORM_WHOLE: Claim = bounded(
    "precision::quantise-norm-row-whole-error",
    "No number of a row of 8192 that is quantised behind layer norm errs by more than the format proves.",
    &[("scheme", "norm-row-whole")],
);
static BOUND_GELU_LONG: Claim = bounded(
    "precision::quantise-gelu-row-long-error",
    "No number of a long row that is quantised behind GELU errs by more than the format proves.",
    &[("scheme", "gelu-row-long")],
);

const fn weight(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, OWN, relation, (weight_only::CASE.id, metric, at))
}

const fn weight_rate(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, OWN, relation, (weight_rates::CASE.id, metric, at))
}

static WEIGHT_EXACT: Claim = weight(
    "precision::weight-only-exact",
    "Weight-only products of integers, up to 16 rows by weights in E4M3 with powers of two as scales, are exact, rounded once.",
    Relation::Holds,
    (weight_only::WRONG, &[("weights", "e4m3")]),
);
static WEIGHT_EXACT_HALF: Claim = weight(
    "precision::weight-only-exact-fp16",
    "The same kernel's products of integers by weights in fp16 are exact, rounded once.",
    Relation::Holds,
    (weight_only::WRONG, &[("weights", "fp16")]),
);
static WEIGHT_ERROR: Claim = weight(
    "precision::weight-only-error",
    "No element of a weight-only product in E4M3 errs by more than the order of its sum allows.",
    Relation::AtMost,
    (weight_only::ERROR, &[("weights", "e4m3")]),
);
static WEIGHT_ERROR_HALF: Claim = weight(
    "precision::weight-only-error-fp16",
    "No element of the same kernel's product in fp16 errs by more than the order of its sum allows.",
    Relation::AtMost,
    (weight_only::ERROR, &[("weights", "fp16")]),
);
static WEIGHT_FORETOLD: Claim = weight(
    "precision::weight-only-foretold",
    "Drawn elements of weight-only products in E4M3 have the bits of the model of fp16's adder over sixteen parts of k.",
    Relation::Holds,
    (weight_only::UNPREDICTED, &[("weights", "e4m3")]),
);
static WEIGHT_FORETOLD_HALF: Claim = weight(
    "precision::weight-only-foretold-fp16",
    "Drawn elements of the same kernel's products in fp16 have the bits of the model of fp16's adder over sixteen parts of k.",
    Relation::Holds,
    (weight_only::UNPREDICTED, &[("weights", "fp16")]),
);
static WEIGHT_ACTIVATIONS: Claim = weight(
    "precision::weight-only-keeps-activations",
    "A weight-only product in E4M3 differs from f64 on the fp16 activations by roundings of fp16 alone.",
    Relation::AtMost,
    (weight_only::ACTIVATIONS, &[("weights", "e4m3")]),
);
static WEIGHT_LABEL: Claim = Claim {
    kind: Kind::FalseRecord,
    ..claim(
        "precision::scaled-mm-is-weight-only-is-false",
        "A product of weights and activations that are both in E4M3, as `_scaled_mm` makes it, is weight-only: activations keep fp16.",
        LABEL,
        Relation::AtLeast,
        (weight_only::CASE.id, weight_only::ACTIVATIONS, &[("weights", "e4m3-and-activations")]),
    )
};
static WEIGHT_RATE: Claim = weight_rate(
    "precision::weight-only-rate",
    "One row of activations is multiplied by 32768 x 8192 weights in E4M3 at 0.9 of the rate at which memory is read, or more.",
    Relation::AtLeast,
    (weight_rates::OVER_READ, &[("weights", "e4m3"), ("m", "1")]),
);
static WEIGHT_RATE_HALF: Claim = weight_rate(
    "precision::weight-only-rate-fp16",
    "One row of activations is multiplied by 32768 x 8192 weights in fp16 at 0.9 of the rate at which memory is read, or more.",
    Relation::AtLeast,
    (weight_rates::OVER_READ, &[("weights", "fp16"), ("m", "1")]),
);
static WEIGHT_NO_COPY: Claim = weight_rate(
    "precision::weight-only-no-copy",
    "A weight-only product in E4M3 takes no device memory while it runs: no copy of the weights in fp16 is made.",
    Relation::Equal,
    (weight_rates::TRANSIENT, &[("weights", "e4m3")]),
);

const fn emulated(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, OWN, relation, (microscaled::CASE.id, metric, at))
}
static NUMBERS_NVFP4: Claim = emulated(
    "precision::nvfp4-products-numbers",
    "fp16 holds every number of a matrix in NVFP4, but for the factor of the whole.",
    Relation::Holds,
    (microscaled::NUMBERS, &[("scheme", "nvfp4")]),
);
static EXACT_NVFP4: Claim = emulated(
    "precision::nvfp4-products-exact",
    "Products of integers in NVFP4 by way of fp16 are exact in f32.",
    Relation::Holds,
    (microscaled::WRONG, &[("scheme", "nvfp4")]),
);
static ERROR_NVFP4: Claim = emulated(
    "precision::nvfp4-products-error",
    "No element of a product in NVFP4 by way of fp16 errs by more than adding in f32 allows.",
    Relation::AtMost,
    (microscaled::ERROR, &[("scheme", "nvfp4")]),
);
static NUMBERS_MXFP8: Claim = emulated(
    "precision::mxfp8-products-numbers",
    "bfloat16 holds every number of a matrix in MXFP8.",
    Relation::Holds,
    (microscaled::NUMBERS, &[("scheme", "mxfp8")]),
);
static EXACT_MXFP8: Claim = emulated(
    "precision::mxfp8-products-exact",
    "Products of integers in MXFP8 by way of bfloat16 are exact in f32.",
    Relation::Holds,
    (microscaled::WRONG, &[("scheme", "mxfp8")]),
);
static ERROR_MXFP8: Claim = emulated(
    "precision::mxfp8-products-error",
    "No element of a product in MXFP8 by way of bfloat16 errs by more than adding in f32 allows.",
    Relation::AtMost,
    (microscaled::ERROR, &[("scheme", "mxfp8")]),
);
static NUMBERS_MXFP4: Claim = emulated(
    "precision::mxfp4-products-numbers",
    "bfloat16 holds every number of a matrix in MXFP4.",
    Relation::Holds,
    (microscaled::NUMBERS, &[("scheme", "mxfp4")]),
);
static EXACT_MXFP4: Claim = emulated(
    "precision::mxfp4-products-exact",
    "Products of integers in MXFP4 by way of bfloat16 are exact in f32.",
    Relation::Holds,
    (microscaled::WRONG, &[("scheme", "mxfp4")]),
);
static ERROR_MXFP4: Claim = emulated(
    "precision::mxfp4-products-error",
    "No element of a product in MXFP4 by way of bfloat16 errs by more than adding in f32 allows.",
    Relation::AtMost,
    (microscaled::ERROR, &[("scheme", "mxfp4")]),
);

static EXACT_NATIVE: Claim = claim(
    "precision::native-microscaled-products-exact",
    "Products of integers in NVFP4 and in MXFP8 by tensor cores that multiply these codes and scales are exact in f32.",
    OWN,
    Relation::Holds,
    (native_products::CASE.id, native_products::WRONG, &[]),
);
static ERROR_NATIVE: Claim = claim(
    "precision::native-microscaled-products-error",
    "No element of a product in NVFP4 or in MXFP8 by tensor cores that multiply these codes and scales errs by more than adding in f32 allows.",
    OWN,
    Relation::AtMost,
    (native_products::CASE.id, native_products::ERROR, &[]),
);

const fn integer(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, OWN, relation, (integers::CASE.id, metric, at))
}
static ENCODE_INT8: Claim = integer(
    "precision::encode-int8",
    "Every half, times each of five factors, is converted to the right code of int8, packed.",
    Relation::Holds,
    (integers::CODES, &[("format", "int8")]),
);
static DECODE_INT8: Claim = integer(
    "precision::decode-int8",
    "Every code of int8, in every place of a word, stands for the number that its definition gives.",
    Relation::Holds,
    (integers::NUMBERS, &[("format", "int8")]),
);
static ENCODE_INT2: Claim = integer(
    "precision::encode-int2",
    "Every half, times each of five factors, is converted to the right code of ternary int2, packed.",
    Relation::Holds,
    (integers::CODES, &[("format", "int2")]),
);
static DECODE_INT2: Claim = integer(
    "precision::decode-int2",
    "Every code of ternary int2, in every place of a word, stands for the number that its definition gives.",
    Relation::Holds,
    (integers::NUMBERS, &[("format", "int2")]),
);
static BITS_INT8: Claim = integer(
    "precision::quantise-int8-row",
    "A matrix is quantised to int8 by rows with the codes and scales of the definition, bit by bit.",
    Relation::Holds,
    (integers::DIFFERING, &[("format", "int8")]),
);
static BOUND_INT8: Claim = integer(
    "precision::quantise-int8-row-error",
    "No number that is quantised to int8 by rows errs by more than the format proves.",
    Relation::AtMost,
    (integers::ERROR, &[("format", "int8")]),
);
static WEIGHT_MEMORY: Claim = claim(
    "precision::fp8-weights-halve-memory",
    "The weights of the 48-layer model take 49 % less memory with all linears in E4M3 than in fp16.",
    MEMORY,
    Relation::AtLeast,
    (weight_memory::CASE.id, weight_memory::DROP, &[]),
);
static WEIGHT_DROP: Claim = Claim {
    kind: Kind::FalseRecord,
    ..claim(
        "precision::fp8-memory-drop-35-percent-is-false",
        "FP8 weights drop the peak memory of a forward pass by about 35 %.",
        MEMORY,
        Relation::AtLeast,
        (weight_memory::CASE.id, weight_memory::DROP, &[]),
    )
};
static NOT_FINITE: Claim = claim(
    "precision::not-finite-is-refused",
    "A tensor with an infinity or a NaN is refused with its name and the place of the element, a finite one is not.",
    OWN,
    Relation::Holds,
    (bad_input::CASE.id, bad_input::WRONG, &[("input", "not-finite")]),
);
static BAD_SHAPES: Claim = claim(
    "precision::bad-shapes-are-refused",
    "Shapes that fit no block, and buffers that are too small, are refused with what is wrong of them.",
    OWN,
    Relation::Holds,
    (bad_input::CASE.id, bad_input::WRONG, &[("input", "shape")]),
);
static UNIFORM: Claim = judged(
    "precision::perplexity-of-equal-logits",
    "Under equal logits every held-out document has a perplexity of 256, the size of the vocabulary.",
    PERPLEXITY_TOOL,
    Relation::Holds,
    (accuracy::WRONG, &[("logits", "uniform")]),
);
static COUNTED: Claim = judged(
    "precision::perplexity-of-counted-pairs",
    "Under a table of counted pairs of bytes every held-out document has the perplexity that counting gives.",
    PERPLEXITY_TOOL,
    Relation::Holds,
    (accuracy::WRONG, &[("logits", "bigram")]),
);
static LOGITS_F64: Claim = judged(
    "precision::fp32-logits-as-f64",
    "The logits of the f32 path are those of f64 on the CPU for the first 32 bytes of a document.",
    PERPLEXITY_TOOL,
    Relation::AtMost,
    (accuracy::LOGITS, &[]),
);
static LOSS_PYTORCH: Claim = judged(
    "precision::fp32-perplexity-as-pytorch",
    "Every held-out document has the cross-entropy in f32 that PyTorch found in fp64.",
    PERPLEXITY_TOOL,
    Relation::AtMost,
    (accuracy::APART, &[]),
);
static LEARNT: Claim = judged(
    "precision::perplexity-under-counted-pairs",
    "The trained model foretells held-out text far better than counted pairs of bytes do.",
    PERPLEXITY_TOOL,
    Relation::AtMost,
    (accuracy::PERPLEXITY, &[]),
);
static MOVED_FP16: Claim = judged(
    "precision::fp16-cross-entropy",
    "Under fp16 weights and activations the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "fp16")]),
);
static MOVED_BF16: Claim = judged(
    "precision::bf16-cross-entropy",
    "Under bfloat16 weights and activations the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "bf16")]),
);
static MOVED_TENSOR: Claim = judged_in_fp8(
    "precision::fp8-tensor-cross-entropy",
    "Under E4M3 weights and activations with one scale a matrix the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "fp8-tensor")]),
);
static MOVED_ROW: Claim = judged_in_fp8(
    "precision::fp8-row-cross-entropy",
    "Under E4M3 weights and activations with a scale for each output and each token the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "fp8-row")]),
);
static MOVED_BLOCK: Claim = judged_by_blocks(
    "precision::fp8-block-cross-entropy",
    "Under E4M3 weights and activations with scales of blocks the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    accuracy::MOVED,
);
static MOVED_W8: Claim = judged(
    "precision::w8a16-cross-entropy",
    "Under E4M3 weights with a scale for each output and fp16 activations, emulated, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "w8a16")]),
);
static MOVED_W4: Claim = judged(
    "precision::nvfp4-weights-cross-entropy",
    "Under NVFP4 weights and fp16 activations, emulated, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "nvfp4-weights")]),
);
static DIVERGED_FP16: Claim = judged(
    "precision::fp16-divergence",
    "Under fp16 weights and activations the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "fp16")]),
);
static DIVERGED_BF16: Claim = judged(
    "precision::bf16-divergence",
    "Under bfloat16 weights and activations the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "bf16")]),
);
static DIVERGED_TENSOR: Claim = judged_in_fp8(
    "precision::fp8-tensor-divergence",
    "Under E4M3 weights and activations with one scale a matrix the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "fp8-tensor")]),
);
static DIVERGED_ROW: Claim = judged_in_fp8(
    "precision::fp8-row-divergence",
    "Under E4M3 weights and activations with a scale for each output and each token the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "fp8-row")]),
);
static DIVERGED_BLOCK: Claim = judged_by_blocks(
    "precision::fp8-block-divergence",
    "Under E4M3 weights and activations with scales of blocks the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    accuracy::DIVERGENCE,
);
static DIVERGED_W8: Claim = judged(
    "precision::w8a16-divergence",
    "Under E4M3 weights with a scale for each output and fp16 activations, emulated, the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "w8a16")]),
);
static DIVERGED_W4: Claim = judged(
    "precision::nvfp4-weights-divergence",
    "Under NVFP4 weights and fp16 activations, emulated, the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "nvfp4-weights")]),
);
static AGREED_ROW: Claim = judged_in_fp8(
    "precision::fp8-row-agreement",
    "Under E4M3 weights and activations with a scale for each output and each token the byte that f32 puts first comes first for the documented share of bytes.",
    Relation::AtLeast,
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "fp8-row")]),
);
static AGREED_W8: Claim = judged(
    "precision::w8a16-agreement",
    "Under E4M3 weights with a scale for each output and fp16 activations, emulated, the byte that f32 puts first comes first for the documented share of bytes.",
    ACCURACY,
    Relation::AtLeast,
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "w8a16")]),
);
static AGREED_W4: Claim = judged(
    "precision::nvfp4-weights-agreement",
    "Under NVFP4 weights and fp16 activations, emulated, the byte that f32 puts first comes first for the documented share of bytes.",
    ACCURACY,
    Relation::AtLeast,
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "nvfp4-weights")]),
);
static OUTLIERS_ROW: Claim = judged_in_fp8(
    "precision::outliers-fp8-row-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, E4M3 with a scale for each output and each token leaves the mean cross-entropy of held-out documents within the documented share of that of f32, either way.",
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "fp8-row")]),
);
static OUTLIERS_TENSOR: Claim = judged_in_fp8(
    "precision::outliers-need-scales-of-rows",
    "With channels that stand out by 2^6 and values by 2^12, E4M3 with one scale a matrix diverges farther from f32 than with scales of outputs and tokens.",
    Relation::AtLeast,
    (accuracy::fp8::TENSOR_OVER_ROW, &[]),
);
static RANDOM: Claim = claim(
    "precision::random-weights-tell-nothing",
    "The changes that NVFP4's weights make to the cross-entropy of sixteen models of random weights nearly cancel: their mean is at most a quarter of what they change a trained one's, so that random weights have no power to tell.",
    OWN,
    Relation::AtMost,
    (random::CASE.id, random::RANDOM_OVER_TRAINED, &[]),
);
