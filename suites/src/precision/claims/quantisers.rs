//! The claims about quantisers: their bits, their errors and their rates, and what they refuse.

use harness::claim::{Claim, Relation, Source};

use super::{At, OWN, ROWWISE, claim};
use crate::precision::quantisers::{self, non_finite, swept};
use crate::precision::{bad_input, rates};

const FUSED: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "Recommendations & Next Experiments",
    printed: "larger tiles, fused activation quantization",
    board: "B200",
};

const fn same(id: &'static str, text: &'static str, source: Source, at: At) -> Claim {
    let place = (quantisers::CASE.id, quantisers::DIFFERING, at);
    claim(id, text, source, Relation::Holds, place)
}

const fn bounded(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::AtMost, (quantisers::CASE.id, quantisers::ERROR, at))
}

const fn told(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (non_finite::CASE.id, non_finite::SILENT, at))
}

const fn every(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (swept::CASE.id, swept::DIFFERING, at))
}

const fn ternary_rate(id: &'static str, text: &'static str, at: At) -> Claim {
    let place = (rates::ternary::CASE.id, rates::OVER_COPY, at);
    claim(id, text, OWN, Relation::AtLeast, place)
}

const fn over_copy(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::AtLeast, (rates::CASE.id, rates::OVER_COPY, at))
}

const fn large(id: &'static str, text: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::AtLeast, (rates::large::CASE.id, rates::OVER_COPY, at))
}

pub(super) static BITS_TENSOR: Claim = same(
    "precision::quantise-tensor",
    "A matrix is quantised by its largest magnitude with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "tensor")],
);
pub(super) static BITS_DELAYED: Claim = same(
    "precision::quantise-tensor-delayed",
    "A matrix is quantised by a history of largest magnitudes with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "tensor-delayed")],
);
pub(super) static BITS_ROW: Claim = same(
    "precision::quantise-row",
    "A matrix is quantised by rows with the codes and scales of the definition, bit by bit.",
    ROWWISE,
    &[("scheme", "row")],
);
pub(super) static BITS_LONG: Claim = same(
    "precision::quantise-row-long",
    "A matrix is quantised by rows of 32640 with the codes and scales of the definition, bit by bit.",
    ROWWISE,
    &[("scheme", "row-long")],
);
pub(super) static BITS_GELU: Claim = same(
    "precision::quantise-gelu-row",
    "Rows are quantised behind GELU in one kernel as the definition quantises what the model's own GELU leaves, bit by bit.",
    FUSED,
    &[("scheme", "gelu-row")],
);
pub(super) static BITS_NORM: Claim = same(
    "precision::quantise-norm-row",
    "Rows are quantised behind layer norm in one kernel as the definition quantises what the model's own norm leaves, bit by bit.",
    FUSED,
    &[("scheme", "norm-row")],
);
pub(super) static BITS_BLOCK: Claim = same(
    "precision::quantise-block-1x128",
    "A matrix is quantised by 1x128 blocks with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "block-1x128")],
);
pub(super) static BITS_SQUARE: Claim = same(
    "precision::quantise-block-128x128",
    "A matrix is quantised by 128x128 blocks with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "block-128x128")],
);
pub(super) static BITS_NVFP4: Claim = same(
    "precision::quantise-nvfp4",
    "A matrix is quantised to NVFP4 with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "nvfp4")],
);
pub(super) static BITS_MXFP8: Claim = same(
    "precision::quantise-mxfp8",
    "A matrix is quantised to MXFP8 with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "mxfp8")],
);
pub(super) static BITS_MXFP4: Claim = same(
    "precision::quantise-mxfp4",
    "A matrix is quantised to MXFP4 with the codes and scales of the definition, bit by bit.",
    OWN,
    &[("scheme", "mxfp4")],
);
pub(super) static BOUND_TENSOR: Claim = bounded(
    "precision::quantise-tensor-error",
    "No number that is quantised by its largest magnitude errs by more than the format proves.",
    &[("scheme", "tensor")],
);
pub(super) static BOUND_DELAYED: Claim = bounded(
    "precision::quantise-tensor-delayed-error",
    "No number that is quantised by a history of largest magnitudes errs by more than the format proves.",
    &[("scheme", "tensor-delayed")],
);
pub(super) static BOUND_ROW: Claim = bounded(
    "precision::quantise-row-error",
    "No number that is quantised by rows errs by more than the format proves.",
    &[("scheme", "row")],
);
pub(super) static BOUND_LONG: Claim = bounded(
    "precision::quantise-row-long-error",
    "No number that is quantised by rows of 32640 errs by more than the format proves.",
    &[("scheme", "row-long")],
);
pub(super) static BOUND_GELU: Claim = bounded(
    "precision::quantise-gelu-row-error",
    "No number that is quantised by rows behind GELU, in one kernel errs by more than the format proves.",
    &[("scheme", "gelu-row")],
);
pub(super) static BOUND_NORM: Claim = bounded(
    "precision::quantise-norm-row-error",
    "No number that is quantised by rows behind layer norm, in one kernel errs by more than the format proves.",
    &[("scheme", "norm-row")],
);
pub(super) static BOUND_BLOCK: Claim = bounded(
    "precision::quantise-block-1x128-error",
    "No number that is quantised by 1x128 blocks errs by more than the format proves.",
    &[("scheme", "block-1x128")],
);
pub(super) static BOUND_SQUARE: Claim = bounded(
    "precision::quantise-block-128x128-error",
    "No number that is quantised by 128x128 blocks errs by more than the format proves.",
    &[("scheme", "block-128x128")],
);
pub(super) static BOUND_NVFP4: Claim = bounded(
    "precision::quantise-nvfp4-error",
    "No number that is quantised to NVFP4 errs by more than the format proves.",
    &[("scheme", "nvfp4")],
);
pub(super) static BOUND_MXFP8: Claim = bounded(
    "precision::quantise-mxfp8-error",
    "No number that is quantised to MXFP8 errs by more than the format proves.",
    &[("scheme", "mxfp8")],
);
pub(super) static BOUND_MXFP4: Claim = bounded(
    "precision::quantise-mxfp4-error",
    "No number that is quantised to MXFP4 errs by more than the format proves.",
    &[("scheme", "mxfp4")],
);
pub(super) static RATE_TERNARY: Claim = ternary_rate(
    "precision::quantise-ternary-rate",
    "8192 rows of 8192 are quantised to ternary numbers by their mean magnitude at 0.85 or more of the rate at which as many bytes are copied.",
    &[("matrix", "8192x8192")],
);
pub(super) static RATE_TERNARY_LONG: Claim = ternary_rate(
    "precision::quantise-ternary-long-rate",
    "8192 rows of 32768 are quantised to ternary numbers by their mean magnitude at 0.85 or more of the rate at which as many bytes are copied.",
    &[("matrix", "8192x32768")],
);
pub(super) static RATE_TENSOR: Claim = over_copy(
    "precision::quantise-tensor-rate",
    "8192 rows are quantised by a known largest magnitude at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor")],
);
pub(super) static RATE_DELAYED: Claim = over_copy(
    "precision::quantise-tensor-delayed-rate",
    "8192 rows of 8192 are quantised by a history of largest magnitudes, their own recorded in the same pass, at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-delayed")],
);
pub(super) static RATE_DELAYED_LONG: Claim = over_copy(
    "precision::quantise-tensor-delayed-long-rate",
    "8192 rows of 32768 are quantised by a history of largest magnitudes, their own recorded in the same pass, at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-delayed-long")],
);
pub(super) static RATE_CURRENT: Claim = over_copy(
    "precision::quantise-tensor-current-rate",
    "8192 rows of 8192 are quantised by their own largest magnitude, which a pass of its own finds, at 0.85 of the rate of a copy of as many bytes, both reads counted, or more.",
    &[("scheme", "tensor-current")],
);
pub(super) static RATE_CURRENT_LONG: Claim = over_copy(
    "precision::quantise-tensor-current-long-rate",
    "8192 rows of 32768 are quantised by their own largest magnitude, which a pass of its own finds, at 0.85 of the rate of a copy of as many bytes, both reads counted, or more.",
    &[("scheme", "tensor-current-long")],
);
pub(super) static RATE_ROW: Claim = over_copy(
    "precision::quantise-row-rate",
    "8192 rows are quantised by rows at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "row")],
);
pub(super) static RATE_LONG: Claim = over_copy(
    "precision::quantise-row-long-rate",
    "8192 rows are quantised by rows of 32768 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "row-long")],
);
pub(super) static RATE_GELU: Claim = over_copy(
    "precision::quantise-gelu-row-rate",
    "8192 rows are quantised by rows behind GELU at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "gelu-row")],
);
pub(super) static RATE_GELU_LONG: Claim = over_copy(
    "precision::quantise-gelu-row-long-rate",
    "8192 rows are quantised by rows of 32768 behind GELU at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "gelu-row-long")],
);
pub(super) static RATE_NORM: Claim = over_copy(
    "precision::quantise-norm-row-rate",
    "8192 rows are quantised by rows behind layer norm at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "norm-row")],
);
pub(super) static RATE_BLOCK: Claim = over_copy(
    "precision::quantise-block-1x128-rate",
    "8192 rows are quantised by 1x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-1x128")],
);
pub(super) static RATE_SQUARE: Claim = over_copy(
    "precision::quantise-block-128x128-rate",
    "8192 rows are quantised by 128x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-128x128")],
);
pub(super) static RATE_NVFP4: Claim = over_copy(
    "precision::quantise-nvfp4-rate",
    "8192 rows of a known largest magnitude are quantised to NVFP4 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "nvfp4")],
);
pub(super) static RATE_MXFP8: Claim = over_copy(
    "precision::quantise-mxfp8-rate",
    "8192 rows are quantised to MXFP8 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp8")],
);
pub(super) static RATE_MXFP4: Claim = over_copy(
    "precision::quantise-mxfp4-rate",
    "8192 rows are quantised to MXFP4 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp4")],
);
pub(super) static NORM_FUSED: Claim = claim(
    "precision::norm-quantise-fused",
    "Layer norm and quantiser in one kernel take little more than half the time of two.",
    FUSED,
    Relation::AtLeast,
    (rates::CASE.id, rates::FUSED, &[]),
);
pub(super) static BITS_GELU_LONG: Claim = same(
    "precision::quantise-gelu-row-long",
    "Long rows are quantised behind GELU in one kernel as the definition quantises what the model's own GELU leaves, bit by bit.",
    FUSED,
    &[("scheme", "gelu-row-long")],
);
pub(super) static BITS_NORM_WHOLE: Claim = same(
    "precision::quantise-norm-row-whole",
    "Rows of 8192 are quantised behind layer norm in one kernel as the definition quantises what the model's own norm leaves, bit by bit.",
    FUSED,
    &[("scheme", "norm-row-whole")],
);
pub(super) static BOUND_NORM_WHOLE: Claim = bounded(
    "precision::quantise-norm-row-whole-error",
    "No number of a row of 8192 that is quantised behind layer norm errs by more than the format proves.",
    &[("scheme", "norm-row-whole")],
);
pub(super) static BOUND_GELU_LONG: Claim = bounded(
    "precision::quantise-gelu-row-long-error",
    "No number of a long row that is quantised behind GELU errs by more than the format proves.",
    &[("scheme", "gelu-row-long")],
);
pub(super) static NOT_FINITE: Claim = claim(
    "precision::not-finite-is-refused",
    "Where a tensor on the GPU is looked through, one with an infinity or a NaN is refused with its name and the place of the \
     element, and no finite one.",
    OWN,
    Relation::Holds,
    (bad_input::CASE.id, bad_input::WRONG, &[("input", "not-finite")]),
);
pub(super) static BAD_SHAPES: Claim = claim(
    "precision::bad-shapes-are-refused",
    "Shapes that fit no block, and buffers that are too small, are refused with what is wrong of them.",
    OWN,
    Relation::Holds,
    (bad_input::CASE.id, bad_input::WRONG, &[("input", "shape")]),
);
pub(super) static TOLD_TENSOR: Claim = told(
    "precision::not-finite-tensor-is-told",
    "No infinity and no NaN of a matrix that is quantised by its own largest magnitude comes out as a finite number.",
    &[("scheme", "tensor")],
);
pub(super) static TOLD_DELAYED: Claim = told(
    "precision::not-finite-tensor-delayed-is-told",
    "No NaN that is quantised by a history of largest magnitudes comes out as a number, and where an infinity saturates, the largest magnitude that is recorded is infinite.",
    &[("scheme", "tensor-delayed")],
);
pub(super) static TOLD_ROW: Claim = told(
    "precision::not-finite-row-is-told",
    "No infinity and no NaN that is quantised by rows comes out as a finite number.",
    &[("scheme", "row")],
);
pub(super) static TOLD_GELU: Claim = told(
    "precision::not-finite-gelu-row-is-told",
    "No infinity above zero and no NaN that is quantised by rows behind GELU comes out as a finite number.",
    &[("scheme", "gelu-row")],
);
pub(super) static TOLD_NORM: Claim = told(
    "precision::not-finite-norm-row-is-told",
    "No infinity and no NaN that is quantised by rows behind layer norm comes out as a finite number.",
    &[("scheme", "norm-row")],
);
pub(super) static TOLD_BLOCK: Claim = told(
    "precision::not-finite-block-1x128-is-told",
    "No infinity and no NaN that is quantised by 1x128 blocks comes out as a finite number.",
    &[("scheme", "block-1x128")],
);
pub(super) static TOLD_SQUARE: Claim = told(
    "precision::not-finite-block-128x128-is-told",
    "No infinity and no NaN that is quantised by 128x128 blocks comes out as a finite number.",
    &[("scheme", "block-128x128")],
);
pub(super) static TOLD_NVFP4: Claim = told(
    "precision::not-finite-nvfp4-is-told",
    "No infinity and no NaN of a matrix that is quantised to NVFP4 by its own largest magnitude comes out as a finite number.",
    &[("scheme", "nvfp4")],
);
pub(super) static TOLD_MXFP8: Claim = told(
    "precision::not-finite-mxfp8-is-told",
    "No infinity and no NaN that is quantised to MXFP8 comes out as a number that is finite in f32.",
    &[("scheme", "mxfp8")],
);
pub(super) static TOLD_MXFP4: Claim = told(
    "precision::not-finite-mxfp4-is-told",
    "No infinity and no NaN that is quantised to MXFP4 comes out as a number that is finite in f32.",
    &[("scheme", "mxfp4")],
);
pub(super) static NOT_FINITE_OTHERS: Claim = claim(
    "precision::not-finite-leaves-others",
    "What shares no scale with an infinity or a NaN is quantised with the codes and scales of the definition, bit by bit.",
    OWN,
    Relation::Holds,
    (non_finite::CASE.id, non_finite::DIFFERING, &[]),
);
pub(super) static EVERY_HALF_NVFP4: Claim = every(
    "precision::every-half-to-nvfp4",
    "Every half of both signs that is no larger than its block's largest is quantised to NVFP4 under every one of its 126 scales of a block and zero, in matrices whose largest magnitude is 448 and 65504, with the code and the scale of the definition, bit by bit.",
    &[("scheme", "nvfp4"), ("over", "halves")],
);
pub(super) static EVERY_HALF_MXFP8: Claim = every(
    "precision::every-half-to-mxfp8",
    "Every half of both signs that is no larger than its block's largest is quantised to MXFP8 under every one of the 41 powers of two that halves lead to, with the code and the scale of the definition, bit by bit.",
    &[("scheme", "mxfp8"), ("over", "halves")],
);
pub(super) static EVERY_HALF_MXFP4: Claim = every(
    "precision::every-half-to-mxfp4",
    "Every half of both signs that is no larger than its block's largest is quantised to MXFP4 under every one of the 41 powers of two that halves lead to, with the code and the scale of the definition, bit by bit.",
    &[("scheme", "mxfp4"), ("over", "halves")],
);
pub(super) static SHAPES_NVFP4: Claim = every(
    "precision::quantise-nvfp4-odd-shapes",
    "Matrices of 1 to 251 rows by 128 to 8320 columns, and of nothing but zeros of either sign, and by magnitudes that are not their own, are quantised to NVFP4 with the codes and scales of the definition, bit by bit, and their padding is left alone.",
    &[("scheme", "nvfp4"), ("over", "shapes")],
);
pub(super) static SHAPES_MXFP8: Claim = every(
    "precision::quantise-mxfp8-odd-shapes",
    "Matrices of 1 to 251 rows by 128 to 8320 columns, and of nothing but zeros of either sign, are quantised to MXFP8 with the codes and scales of the definition, bit by bit, and their padding is left alone.",
    &[("scheme", "mxfp8"), ("over", "shapes")],
);
pub(super) static SHAPES_MXFP4: Claim = every(
    "precision::quantise-mxfp4-odd-shapes",
    "Matrices of 1 to 251 rows by 128 to 8320 columns, and of nothing but zeros of either sign, are quantised to MXFP4 with the codes and scales of the definition, bit by bit, and their padding is left alone.",
    &[("scheme", "mxfp4"), ("over", "shapes")],
);
pub(super) static RATE_TENSOR_LONG: Claim = large(
    "precision::quantise-tensor-long-rate",
    "8192 rows of 32768 are quantised by a known largest magnitude at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-long")],
);
pub(super) static RATE_BLOCK_1X128_LONG: Claim = large(
    "precision::quantise-block-1x128-long-rate",
    "8192 rows of 32768 are quantised by 1x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-1x128-long")],
);
pub(super) static RATE_BLOCK_128X128_LONG: Claim = large(
    "precision::quantise-block-128x128-long-rate",
    "8192 rows of 32768 are quantised by 128x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-128x128-long")],
);
pub(super) static RATE_NVFP4_LONG: Claim = large(
    "precision::quantise-nvfp4-long-rate",
    "8192 rows of 32768 are quantised to NVFP4 by a known largest magnitude at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "nvfp4-long")],
);
pub(super) static RATE_MXFP8_LONG: Claim = large(
    "precision::quantise-mxfp8-long-rate",
    "8192 rows of 32768 are quantised to MXFP8 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp8-long")],
);
pub(super) static RATE_MXFP4_LONG: Claim = large(
    "precision::quantise-mxfp4-long-rate",
    "8192 rows of 32768 are quantised to MXFP4 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp4-long")],
);
pub(super) static RATE_TENSOR_TALL: Claim = large(
    "precision::quantise-tensor-tall-rate",
    "32768 rows of 8192 are quantised by a known largest magnitude at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-tall")],
);
pub(super) static RATE_TENSOR_DELAYED_TALL: Claim = large(
    "precision::quantise-tensor-delayed-tall-rate",
    "32768 rows of 8192 are quantised by a history of largest magnitudes, their own recorded in the same pass, at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "tensor-delayed-tall")],
);
pub(super) static RATE_TENSOR_CURRENT_TALL: Claim = large(
    "precision::quantise-tensor-current-tall-rate",
    "32768 rows of 8192 are quantised by their own largest magnitude, which a pass of its own finds, at 0.85 of the rate of a copy of as many bytes, both reads counted, or more.",
    &[("scheme", "tensor-current-tall")],
);
pub(super) static RATE_ROW_TALL: Claim = large(
    "precision::quantise-row-tall-rate",
    "32768 rows of 8192 are quantised by rows at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "row-tall")],
);
pub(super) static RATE_GELU_ROW_TALL: Claim = large(
    "precision::quantise-gelu-row-tall-rate",
    "32768 rows of 8192 are quantised by rows behind GELU at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "gelu-row-tall")],
);
pub(super) static RATE_NORM_ROW_TALL: Claim = large(
    "precision::quantise-norm-row-tall-rate",
    "32768 rows of 8192 are quantised by rows behind layer norm at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "norm-row-tall")],
);
pub(super) static RATE_BLOCK_1X128_TALL: Claim = large(
    "precision::quantise-block-1x128-tall-rate",
    "32768 rows of 8192 are quantised by 1x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-1x128-tall")],
);
pub(super) static RATE_BLOCK_128X128_TALL: Claim = large(
    "precision::quantise-block-128x128-tall-rate",
    "32768 rows of 8192 are quantised by 128x128 blocks at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "block-128x128-tall")],
);
pub(super) static RATE_NVFP4_TALL: Claim = large(
    "precision::quantise-nvfp4-tall-rate",
    "32768 rows of 8192 are quantised to NVFP4 by a known largest magnitude at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "nvfp4-tall")],
);
pub(super) static RATE_MXFP8_TALL: Claim = large(
    "precision::quantise-mxfp8-tall-rate",
    "32768 rows of 8192 are quantised to MXFP8 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp8-tall")],
);
pub(super) static RATE_MXFP4_TALL: Claim = large(
    "precision::quantise-mxfp4-tall-rate",
    "32768 rows of 8192 are quantised to MXFP4 at 0.85 of the rate of a copy of as many bytes, or more.",
    &[("scheme", "mxfp4-tall")],
);
