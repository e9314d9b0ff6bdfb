//! The claims about products: the accumulator that they really have, their scales, their rates, and what `auto` chooses.

use harness::claim::{Claim, Relation, Source};

use super::{At, OWN, ROWWISE, claim};
use crate::precision::{accumulator, adder, auto, microscaled, native_products, products, rates};

const THROUGHPUT: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "staying within ~1-2% of FP16 throughput up to 4K tokens",
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

pub(super) static ONES_FAST: Claim = summed(
    "precision::fast-accumulation-stops-at-16384",
    "With fast accumulation and no split of k 32768 products of one and one in E4M3 sum to 16384.",
    Relation::Equal,
    accumulator::ONES,
    &[("accumulation", "fast")],
);
pub(super) static ONES_PRECISE: Claim = summed(
    "precision::precise-accumulation-counts",
    "Without fast accumulation or a split of k 32768 products of one and one in E4M3 sum to 32768.",
    Relation::Equal,
    accumulator::ONES,
    &[("accumulation", "precise")],
);
pub(super) static LOST_FAST: Claim = summed(
    "precision::fast-accumulation-loses",
    "Of a sum of 16384 products of uniform positive numbers in E4M3 fast accumulation loses a fifth and more, on average.",
    Relation::AtLeast,
    accumulator::LOST,
    &[("accumulation", "fast")],
);
pub(super) static LOST_PRECISE: Claim = summed(
    "precision::precise-accumulation-keeps",
    "Without it such a sum is off by less than a tenth of a percent, on average.",
    Relation::AtMost,
    accumulator::LOST,
    &[("accumulation", "precise")],
);
pub(super) static LEAST_ONES: Claim = summed(
    "precision::fast-accumulation-least-k-of-ones",
    "The least k, in steps of 16, at which fast accumulation without a split of k does not count ones in E4M3 is 16400.",
    Relation::Equal,
    accumulator::LEAST_ONES,
    &[("accumulation", "fast")],
);
pub(super) static LEAST_LOST: Claim = summed(
    "precision::fast-accumulation-least-k-of-loss",
    "The least power of two k at which fast accumulation loses a hundredth of a sum of products of uniform positive numbers in E4M3, on average, is 1024.",
    Relation::Equal,
    accumulator::LEAST_LOST,
    &[("accumulation", "fast")],
);
pub(super) static MODEL_F16: Claim = summed(
    "precision::fp16-products-foretold",
    "Drawn elements of fp16 products have the bits of a model that adds 16 products at once to 25 bits.",
    Relation::Holds,
    accumulator::UNPREDICTED,
    &[("product", "fp16")],
);
pub(super) static MODEL_FAST: Claim = summed(
    "precision::fast-products-foretold",
    "Drawn elements of E4M3 products with fast accumulation have the bits of a model with an accumulator of 13 bits.",
    Relation::Holds,
    accumulator::UNPREDICTED,
    &[("product", "e4m3-fast")],
);
pub(super) static MODEL_PRECISE: Claim = summed(
    "precision::precise-products-foretold",
    "Drawn elements of precise E4M3 products have the bits of that model with groups of 128 added in f32.",
    Relation::Holds,
    accumulator::UNPREDICTED,
    &[("product", "e4m3-precise")],
);
pub(super) static ADDER_OWN: Claim = claim(
    "precision::fp16-adder-as-published",
    "Drawn elements of fp16 products by this project's mma kernel have the bits of the adder that is published for the board's compute capability.",
    OWN,
    Relation::Holds,
    (adder::F16_CASE.id, adder::UNPREDICTED, &[("product", "own")]),
);
pub(super) static ADDER_F16: Claim = claim(
    "precision::fp16-adder-of-cublaslt-as-published",
    "Drawn elements of cuBLASLt's fp16 products have the bits of the adder that is published for the board's compute capability, in one accumulator.",
    OWN,
    Relation::Holds,
    (adder::F16_CASE.id, adder::UNPREDICTED, &[("product", "cublaslt")]),
);
pub(super) static ADDER_E4M3: Claim = claim(
    "precision::e4m3-adder-of-cublaslt-as-published",
    "Drawn elements of cuBLASLt's E4M3 products with fast accumulation have the bits of the adder that is published for the board's compute capability, in one accumulator.",
    OWN,
    Relation::Holds,
    (adder::E4M3_CASE.id, adder::UNPREDICTED, &[("product", "cublaslt")]),
);
pub(super) static EXACT_ROW: Claim = product(
    "precision::row-scales-exact",
    "E4M3 products of integers up to 15 with powers of two as scales by row are exact, rounded once.",
    ROWWISE,
    Relation::Holds,
    (products::WRONG, &[("scales", "row")]),
);
pub(super) static EXACT_BLOCK: Claim = by_blocks(
    "precision::block-scales-exact",
    "E4M3 products of integers up to 15 with powers of two as scales by 1x128 and 128x128 blocks are exact, rounded once.",
    Relation::Holds,
    products::WRONG,
);
pub(super) static EXACT_TENSOR: Claim = product(
    "precision::tensor-scales-exact",
    "E4M3 products of integers up to 15 with powers of two as scales by tensor are exact in f32.",
    OWN,
    Relation::Holds,
    (products::WRONG, &[("scales", "tensor")]),
);
pub(super) static RAN_ROW: Claim = ran(
    "precision::row-scales-ran-in-e4m3",
    "Drawn elements of a product with scales by row that was asked for in E4M3 have the bits of E4M3's adder with groups of 128 added in f32.",
    ROWWISE,
    &[("scales", "row")],
);
pub(super) static RAN_ROW_FAST: Claim = ran(
    "precision::row-scales-ran-in-e4m3-fast",
    "With fast accumulation drawn elements of a product with scales by row have the bits of E4M3's adder in one accumulator.",
    OWN,
    &[("scales", "row-fast")],
);
pub(super) static RAN_BLOCK: Claim = ran(
    "precision::block-scales-ran-in-e4m3",
    "Drawn elements of a product with scales by blocks have the bits of E4M3's adder with each block scaled and added in f32.",
    OWN,
    &[("scales", "block")],
);
pub(super) static RAN_TENSOR: Claim = ran(
    "precision::tensor-scales-ran-in-e4m3",
    "Drawn elements of a product with scales by tensor that was asked for in E4M3 have the bits of E4M3's adder with groups of 128 added in f32.",
    OWN,
    &[("scales", "tensor")],
);
pub(super) static RAN_TENSOR_FAST: Claim = ran(
    "precision::tensor-scales-ran-in-e4m3-fast",
    "With fast accumulation drawn elements of a product with scales by tensor have the bits of E4M3's adder in one accumulator.",
    OWN,
    &[("scales", "tensor-fast")],
);
const fn bounded(id: &'static str, text: &'static str, at: At) -> Claim {
    let place = (products::bounded::CASE.id, products::bounded::ERROR, at);
    claim(id, text, OWN, Relation::AtMost, place)
}

pub(super) static BOUND_ROW: Claim = bounded(
    "precision::row-scales-within-adder-bound",
    "No drawn element of a precise product of quantised numbers over k = 8192 with scales by row errs by more than E4M3's adder, groups of 128 in f32 and bfloat16 may lose of it.",
    &[("scales", "row"), ("data", "quantised")],
);
pub(super) static BOUND_ROW_FAST: Claim = bounded(
    "precision::row-scales-within-adder-bound-fast",
    "No drawn element of a fast product of quantised numbers over k = 8192 with scales by row errs by more than E4M3's adder in one accumulator and bfloat16 may lose of it.",
    &[("scales", "row-fast"), ("data", "quantised")],
);
pub(super) static BOUND_TENSOR: Claim = bounded(
    "precision::tensor-scales-within-adder-bound",
    "No drawn element of a precise product of quantised numbers over k = 8192 with scales by tensor errs by more than E4M3's adder and groups of 128 in f32 may lose of it.",
    &[("scales", "tensor"), ("data", "quantised")],
);
pub(super) static BOUND_TENSOR_FAST: Claim = bounded(
    "precision::tensor-scales-within-adder-bound-fast",
    "No drawn element of a fast product of quantised numbers over k = 8192 with scales by tensor errs by more than E4M3's adder in one accumulator may lose of it.",
    &[("scales", "tensor-fast"), ("data", "quantised")],
);
pub(super) static BOUND_BLOCK: Claim = bounded(
    "precision::block-scales-within-adder-bound",
    "No drawn element of a product of quantised numbers over k = 8192 with scales by blocks errs by more than E4M3's adder, groups of 128 scaled and added in f32 and bfloat16 may lose of it.",
    &[("scales", "block"), ("data", "quantised")],
);
pub(super) static BOUND_BLOCK_POSITIVE: Claim = bounded(
    "precision::block-scales-within-adder-bound-positive",
    "No drawn element of a product of positive numbers over k = 8192 with scales by blocks errs by more than E4M3's adder, groups of 128 scaled and added in f32 and bfloat16 may lose of it.",
    &[("scales", "block"), ("data", "positive")],
);
pub(super) static BOUND_ROW_POSITIVE: Claim = bounded(
    "precision::row-scales-within-adder-bound-positive",
    "No drawn element of a precise product of positive numbers over k = 8192 with scales by row errs by more than E4M3's adder, groups of 128 in f32 and bfloat16 may lose of it.",
    &[("scales", "row"), ("data", "positive")],
);
pub(super) static BOUND_ROW_FAST_POSITIVE: Claim = bounded(
    "precision::row-scales-within-adder-bound-fast-positive",
    "No drawn element of a fast product of positive numbers over k = 8192 with scales by row errs by more than E4M3's adder in one accumulator and bfloat16 may lose of it.",
    &[("scales", "row-fast"), ("data", "positive")],
);
pub(super) static BOUND_TENSOR_POSITIVE: Claim = bounded(
    "precision::tensor-scales-within-adder-bound-positive",
    "No drawn element of a precise product of positive numbers over k = 8192 with scales by tensor errs by more than E4M3's adder and groups of 128 in f32 may lose of it.",
    &[("scales", "tensor"), ("data", "positive")],
);
pub(super) static BOUND_TENSOR_FAST_POSITIVE: Claim = bounded(
    "precision::tensor-scales-within-adder-bound-fast-positive",
    "No drawn element of a fast product of positive numbers over k = 8192 with scales by tensor errs by more than E4M3's adder in one accumulator may lose of it.",
    &[("scales", "tensor-fast"), ("data", "positive")],
);
pub(super) static FORMAT_LARGE: Claim = claim(
    "precision::large-row-scales-error",
    "Drawn elements of a product over k = 8192 of activations and weights quantised by row differ from f64 on the fp16 numbers by 7 % at most, in the worst drawn row or column.",
    ROWWISE,
    Relation::AtMost,
    (products::bounded::CASE.id, products::FORMAT, &[("scales", "row")]),
);
pub(super) static FORMAT_LARGE_BLOCK: Claim = claim(
    "precision::large-block-scales-error",
    "Drawn elements of a product over k = 8192 of activations and weights quantised by blocks differ from f64 on the fp16 numbers by 7 % at most, in the worst drawn row or column.",
    OWN,
    Relation::AtMost,
    (products::bounded::CASE.id, products::FORMAT, &[("scales", "block")]),
);
pub(super) static ARITHMETIC_ROW: Claim = product(
    "precision::row-scales-arithmetic",
    "Products with scales by row differ from f64 on the same codes by little more than bfloat16 rounds, in the worst row or column.",
    ROWWISE,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "row")]),
);
pub(super) static ARITHMETIC_ROW_FAST: Claim = product(
    "precision::row-scales-arithmetic-fast",
    "With fast accumulation products of 2048 terms of both signs with scales by row differ from f64 on the same codes by 0.55 % at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "row-fast")]),
);
pub(super) static ARITHMETIC_BLOCK: Claim = by_blocks(
    "precision::block-scales-arithmetic",
    "Products with scales by blocks differ from f64 on the same codes by little more than bfloat16 rounds, in the worst row or column.",
    Relation::AtMost,
    products::ARITHMETIC,
);
pub(super) static ARITHMETIC_TENSOR: Claim = product(
    "precision::tensor-scales-arithmetic",
    "Products of 2048 terms of both signs with scales by tensor and f32 out differ from f64 on the same codes by 0.13 % at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "tensor")]),
);
pub(super) static ARITHMETIC_TENSOR_FAST: Claim = product(
    "precision::tensor-scales-arithmetic-fast",
    "With fast accumulation products of 2048 terms of both signs with scales by tensor differ from f64 on the same codes by half a percent at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::ARITHMETIC, &[("scales", "tensor-fast")]),
);
pub(super) static FORMAT_ROW: Claim = product(
    "precision::row-scales-error",
    "Products of numbers quantised by row differ from f64 on the fp16 numbers by 7 % at most, in the worst row or column.",
    ROWWISE,
    Relation::AtMost,
    (products::FORMAT, &[("scales", "row")]),
);
pub(super) static FORMAT_BLOCK: Claim = by_blocks(
    "precision::block-scales-error",
    "Products of numbers quantised by blocks, rows of a square alike, differ from f64 on the fp16 numbers by 7 % at most, in the worst row or column.",
    Relation::AtMost,
    products::FORMAT,
);
pub(super) static FORMAT_TENSOR: Claim = product(
    "precision::tensor-scales-error",
    "Products of numbers quantised by tensor, all rows alike, differ from f64 on the fp16 numbers by 8 % at most, in the worst row or column.",
    OWN,
    Relation::AtMost,
    (products::FORMAT, &[("scales", "tensor")]),
);
pub(super) static FORMAT_DELAYED: Claim = product(
    "precision::delayed-scales-error",
    "With A's scale from the largest magnitudes of four matrices before, of which the largest is twice its own, products differ by no more.",
    OWN,
    Relation::AtMost,
    (products::FORMAT, &[("scales", "tensor-delayed")]),
);
pub(super) static DELAYED_ROLLS: Claim = product(
    "precision::delayed-scales-roll",
    "Delayed scaling takes each matrix's largest magnitude into a history of four, by whose largest the next one is scaled.",
    OWN,
    Relation::Holds,
    (products::STALE, &[("scales", "tensor-delayed")]),
);

const fn faster(id: &'static str, text: &'static str, at: At) -> Claim {
    let place = (rates::products::CASE.id, rates::products::SPEEDUP, at);
    claim(id, text, THROUGHPUT, Relation::AtLeast, place)
}

pub(super) static SPEEDUP_PRECISE: Claim = faster(
    "precision::fp8-products-pay",
    "The products of a layer over 8192 tokens in E4M3 with precise accumulation, the quantisation of their activations included, take less time than those in fp16.",
    &[("accumulation", "precise")],
);
pub(super) static SPEEDUP_FAST: Claim = faster(
    "precision::fp8-products-pay-fast",
    "The products of a layer over 8192 tokens in E4M3 with fast accumulation, the quantisation of their activations included, take less time than those in fp16.",
    &[("accumulation", "fast")],
);
pub(super) static AUTO_NAMES: Claim = claim(
    "precision::auto-names-its-choice",
    "Drawn elements of products by auto have the bits of the arithmetic that auto named, of fp16, of E4M3 with precise and with fast accumulation, and of weight-only E4M3.",
    ACTIVE,
    Relation::Holds,
    (auto::CASE.id, auto::MISNAMED, &[]),
);
pub(super) static AUTO_KEEPS: Claim = claim(
    "precision::auto-keeps-its-wish",
    "A product by auto errs, beside f64 on its fp16 operands, by no more than was allowed: of nearly normal data, and of sums of one sign that were to be kept.",
    OWN,
    Relation::AtMost,
    (auto::CASE.id, auto::ERROR, &[]),
);
pub(super) static AUTO_FASTEST: Claim = claim(
    "precision::auto-chooses-fastest-within-wish",
    "The arithmetic that auto chose takes no more time, within the documented share, than any other whose measured error is within what was allowed, at six shapes.",
    OWN,
    Relation::AtMost,
    (auto::CASE.id, auto::OVER_OTHERS, &[]),
);
pub(super) static AUTO_REFUSES: Claim = claim(
    "precision::auto-refuses",
    "FP8 that a board, cuBLASLt or a shape does not have, or that is foretold to err by more than is allowed, is refused for that reason and computed in no other type.",
    FALLBACK,
    Relation::Holds,
    (auto::CASE.id, auto::WRONG, &[]),
);

const fn emulated(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, OWN, relation, (microscaled::CASE.id, metric, at))
}

pub(super) static NUMBERS_NVFP4: Claim = emulated(
    "precision::nvfp4-products-numbers",
    "fp16 holds every number of a matrix in NVFP4, but for the factor of the whole.",
    Relation::Holds,
    (microscaled::NUMBERS, &[("scheme", "nvfp4")]),
);
pub(super) static EXACT_NVFP4: Claim = emulated(
    "precision::nvfp4-products-exact",
    "Products of integers in NVFP4 by way of fp16 are exact in f32.",
    Relation::Holds,
    (microscaled::WRONG, &[("scheme", "nvfp4")]),
);
pub(super) static ERROR_NVFP4: Claim = emulated(
    "precision::nvfp4-products-error",
    "No element of a product in NVFP4 by way of fp16 errs by more than adding in f32 allows.",
    Relation::AtMost,
    (microscaled::ERROR, &[("scheme", "nvfp4")]),
);
pub(super) static NUMBERS_MXFP8: Claim = emulated(
    "precision::mxfp8-products-numbers",
    "bfloat16 holds every number of a matrix in MXFP8.",
    Relation::Holds,
    (microscaled::NUMBERS, &[("scheme", "mxfp8")]),
);
pub(super) static EXACT_MXFP8: Claim = emulated(
    "precision::mxfp8-products-exact",
    "Products of integers in MXFP8 by way of bfloat16 are exact in f32.",
    Relation::Holds,
    (microscaled::WRONG, &[("scheme", "mxfp8")]),
);
pub(super) static ERROR_MXFP8: Claim = emulated(
    "precision::mxfp8-products-error",
    "No element of a product in MXFP8 by way of bfloat16 errs by more than adding in f32 allows.",
    Relation::AtMost,
    (microscaled::ERROR, &[("scheme", "mxfp8")]),
);
pub(super) static NUMBERS_MXFP4: Claim = emulated(
    "precision::mxfp4-products-numbers",
    "bfloat16 holds every number of a matrix in MXFP4.",
    Relation::Holds,
    (microscaled::NUMBERS, &[("scheme", "mxfp4")]),
);
pub(super) static EXACT_MXFP4: Claim = emulated(
    "precision::mxfp4-products-exact",
    "Products of integers in MXFP4 by way of bfloat16 are exact in f32.",
    Relation::Holds,
    (microscaled::WRONG, &[("scheme", "mxfp4")]),
);
pub(super) static ERROR_MXFP4: Claim = emulated(
    "precision::mxfp4-products-error",
    "No element of a product in MXFP4 by way of bfloat16 errs by more than adding in f32 allows.",
    Relation::AtMost,
    (microscaled::ERROR, &[("scheme", "mxfp4")]),
);
pub(super) static EXACT_NATIVE: Claim = claim(
    "precision::native-microscaled-products-exact",
    "Products of integers in NVFP4 and in MXFP8 by tensor cores that multiply these codes and scales are exact in f32.",
    OWN,
    Relation::Holds,
    (native_products::CASE.id, native_products::WRONG, &[]),
);
pub(super) static ERROR_NATIVE: Claim = claim(
    "precision::native-microscaled-products-error",
    "No element of a product in NVFP4 or in MXFP8 by tensor cores that multiply these codes and scales errs by more than adding in f32 allows.",
    OWN,
    Relation::AtMost,
    (native_products::CASE.id, native_products::ERROR, &[]),
);
