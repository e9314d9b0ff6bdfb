//! The claims about the own products of E4M3.

use harness::claim::{Claim, Relation, Source};

use super::claims::{At, claim};
use super::promoted::{self, CASE};
use super::rates::promoted as rates;

const OWN: Source = Source {
    document: "touchstone",
    section: "precision",
    printed: "sums of E4M3 that lose no more than groups of 256 columns do, near the speed of fast accumulation",
    board: "",
};
const WITHIN: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "FP8 performance within 1-2% of FP16",
    board: "B200",
};

const fn product(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    metric: &'static str,
    at: At,
) -> Claim {
    claim(id, text, OWN, relation, (CASE.id, metric, at))
}

const fn large(id: &'static str, text: &'static str, metric: &'static str, at: At) -> Claim {
    claim(id, text, OWN, Relation::Holds, (promoted::LARGE_CASE.id, metric, at))
}

const fn rate(
    id: &'static str,
    text: &'static str,
    source: Source,
    at: (&'static str, At),
) -> Claim {
    claim(id, text, source, Relation::AtLeast, (rates::CASE.id, at.0, at.1))
}

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    &product(
        "precision::own-products-exact",
        "The own E4M3 products of integers up to 15 with powers of two as scales by row are exact, rounded once.",
        Relation::Holds,
        promoted::WRONG,
        &[],
    ),
    &product(
        "precision::own-products-foretold",
        "Drawn elements of the own E4M3 products have the bits of E4M3's adder with groups of 256 added in f32.",
        Relation::Holds,
        promoted::UNPREDICTED,
        &[],
    ),
    &product(
        "precision::own-products-arithmetic",
        "The own products with scales by row differ from f64 on the same codes by little more than bfloat16 rounds, in the worst row or column.",
        Relation::AtMost,
        promoted::ARITHMETIC,
        &[],
    ),
    &product(
        "precision::own-products-positive-sums",
        "Of a sum of 16384 products of uniform positive numbers in E4M3 the own kernel loses at most 0.2 %, on average.",
        Relation::AtMost,
        promoted::LOST,
        &[],
    ),
    &product(
        "precision::own-products-rows-alone",
        "Rows of an own product have the same bits alone as among 512: 1, 5, 16 and 100 of them, inside tiles and over their ends.",
        Relation::Holds,
        promoted::APART,
        &[("alone", "rows")],
    ),
    &product(
        "precision::own-products-columns-alone",
        "Columns of an own product have the same bits alone as among 512: 16 and 112 of them, inside tiles.",
        Relation::Holds,
        promoted::APART,
        &[("alone", "columns")],
    ),
    &large(
        "precision::own-products-exact-large",
        "An own product of 4096 x 4096 integers over three stages of k is exact in every element, rows of D apart, and leaves what lies between them.",
        promoted::WRONG,
        &[("d", "written")],
    ),
    &large(
        "precision::own-products-add",
        "An own product that is added to what D holds is exact in every one of 4096 x 4096 elements.",
        promoted::WRONG,
        &[("d", "added")],
    ),
    &large(
        "precision::own-products-ends-alone",
        "Rows and columns of an own product over the ends of tiles and among the last have the same bits alone as among 4096.",
        promoted::APART,
        &[],
    ),
    &rate(
        "precision::own-products-pay",
        "The products of a layer over 8192 tokens in E4M3 by the own kernel, the quantisation of their activations included, take less time than those in fp16, each behind a rest.",
        WITHIN,
        (super::rates::products::SPEEDUP, &[("way", "rested")]),
    ),
    &rate(
        "precision::own-products-vs-cublaslt",
        "The products of a layer over 8192 tokens in E4M3 take no longer by the own kernel than by cuBLASLt with precise accumulation, each behind a rest.",
        OWN,
        (rates::OVER_LIBRARY, &[("way", "rested")]),
    ),
    &claim(
        "precision::own-products-vs-cublaslt-load",
        "The products of a layer over 8192 tokens in E4M3 take no longer by the own kernel than by cuBLASLt with precise accumulation, one after the other without a rest.",
        OWN,
        Relation::AtLeast,
        (rates::LOAD_CASE.id, rates::OVER_LIBRARY, &[("way", "load")]),
    ),
];
