//! The claims about weight-only products, and about what weights in E4M3 save.

use harness::claim::{Claim, Kind, Relation, Source};

use super::{At, OWN, claim};
use crate::precision::{weight_memory, weight_only, weight_rates};

const LABEL: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Executive Summary",
    printed: "Fused FP8 weight-only linears (using `torch._scaled_mm`)",
    board: "B200",
};
const MEMORY: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "Peak memory drops by ~35% relative to FP16 weights (80.6 GB -> 41.8 GB for 2-4K token runs)",
    board: "B200",
};

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

pub(super) static WEIGHT_EXACT: Claim = weight(
    "precision::weight-only-exact",
    "Weight-only products of integers, up to 16 rows by weights in E4M3 with powers of two as scales, are exact, rounded once.",
    Relation::Holds,
    (weight_only::WRONG, &[("weights", "e4m3")]),
);
pub(super) static WEIGHT_EXACT_HALF: Claim = weight(
    "precision::weight-only-exact-fp16",
    "The same kernel's products of integers by weights in fp16 are exact, rounded once.",
    Relation::Holds,
    (weight_only::WRONG, &[("weights", "fp16")]),
);
pub(super) static WEIGHT_ERROR: Claim = weight(
    "precision::weight-only-error",
    "No element of a weight-only product in E4M3 errs by more than the order of its sum allows.",
    Relation::AtMost,
    (weight_only::ERROR, &[("weights", "e4m3")]),
);
pub(super) static WEIGHT_ERROR_HALF: Claim = weight(
    "precision::weight-only-error-fp16",
    "No element of the same kernel's product in fp16 errs by more than the order of its sum allows.",
    Relation::AtMost,
    (weight_only::ERROR, &[("weights", "fp16")]),
);
pub(super) static WEIGHT_FORETOLD: Claim = weight(
    "precision::weight-only-foretold",
    "Drawn elements of weight-only products in E4M3 have the bits of the model of fp16's adder over sixteen parts of k.",
    Relation::Holds,
    (weight_only::UNPREDICTED, &[("weights", "e4m3")]),
);
pub(super) static WEIGHT_FORETOLD_HALF: Claim = weight(
    "precision::weight-only-foretold-fp16",
    "Drawn elements of the same kernel's products in fp16 have the bits of the model of fp16's adder over sixteen parts of k.",
    Relation::Holds,
    (weight_only::UNPREDICTED, &[("weights", "fp16")]),
);
pub(super) static WEIGHT_ACTIVATIONS: Claim = weight(
    "precision::weight-only-keeps-activations",
    "A weight-only product in E4M3 differs from f64 on the fp16 activations by roundings of fp16 alone.",
    Relation::AtMost,
    (weight_only::ACTIVATIONS, &[("weights", "e4m3")]),
);
pub(super) static WEIGHT_LABEL: Claim = Claim {
    kind: Kind::FalseRecord,
    ..claim(
        "precision::scaled-mm-is-weight-only-is-false",
        "A product of weights and activations that are both in E4M3, as `_scaled_mm` makes it, is weight-only: activations keep fp16.",
        LABEL,
        Relation::AtLeast,
        (weight_only::CASE.id, weight_only::ACTIVATIONS, &[("weights", "e4m3-and-activations")]),
    )
};
pub(super) static WEIGHT_RATE: Claim = weight_rate(
    "precision::weight-only-rate",
    "One row of activations is multiplied by 32768 x 8192 weights in E4M3 at 0.9 of the rate at which memory is read, or more.",
    Relation::AtLeast,
    (weight_rates::OVER_READ, &[("weights", "e4m3"), ("m", "1")]),
);
pub(super) static WEIGHT_RATE_HALF: Claim = weight_rate(
    "precision::weight-only-rate-fp16",
    "One row of activations is multiplied by 32768 x 8192 weights in fp16 at 0.9 of the rate at which memory is read, or more.",
    Relation::AtLeast,
    (weight_rates::OVER_READ, &[("weights", "fp16"), ("m", "1")]),
);
pub(super) static WEIGHT_NO_COPY: Claim = weight_rate(
    "precision::weight-only-no-copy",
    "A weight-only product in E4M3 takes no device memory while it runs: no copy of the weights in fp16 is made.",
    Relation::Equal,
    (weight_rates::TRANSIENT, &[("weights", "e4m3")]),
);
pub(super) static WEIGHT_NO_COPY_OF_ROWS: Claim = weight_rate(
    "precision::weight-only-no-copy-to-16-rows",
    "Weight-only products in E4M3 of 1, 2, 4, 8 and 16 rows take no device memory while they run.",
    Relation::Equal,
    (weight_rates::TRANSIENT_OF_ROWS, &[("weights", "e4m3")]),
);
pub(super) static WEIGHT_MEMORY: Claim = claim(
    "precision::fp8-weights-halve-memory",
    "The weights of the 48-layer model take 49 % less memory with all linears in E4M3 than in fp16.",
    MEMORY,
    Relation::AtLeast,
    (weight_memory::CASE.id, weight_memory::DROP, &[]),
);
pub(super) static WEIGHT_DROP: Claim = Claim {
    kind: Kind::FalseRecord,
    ..claim(
        "precision::fp8-memory-drop-35-percent-is-false",
        "FP8 weights drop the peak memory of a forward pass by about 35 %.",
        MEMORY,
        Relation::AtLeast,
        (weight_memory::CASE.id, weight_memory::DROP, &[]),
    )
};
