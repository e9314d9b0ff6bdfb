//! Claims of suite `compute`: for each type one of exactness and one rate a size.

use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};

const FP16_RATE: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Completed Features, Hardware Validation",
    printed: "FP16 Compute: 1291 TFLOPS achieved",
    board: "8x B200",
};
const FP8_RATE: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "FP8 weight-only",
    printed: "15,872 tok/s at 516.13 ms with FP8 linears: 1252 to 1260 TFLOP/s",
    board: "B200",
};
const SIZES: Source = Source {
    document: "touchstone",
    section: "sizes of the rivals",
    printed: "the products of the 48-layer model and two cubes",
    board: "",
};

const RIGHT: &str = "A product is right: integers bit by bit in every element, random data within \
                     the bound that the format derives.";

/// A claim that the products of a type are right.
const fn exact(id: &'static str, case: &'static str, source: Source) -> Claim {
    Claim {
        id,
        text: RIGHT,
        source,
        relation: Relation::Holds,
        case,
        metric: "wrong_count",
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

/// A claim about the rate of a type at a size.
const fn rate(
    id: &'static str,
    case: &'static str,
    source: Source,
    at: &'static [(&'static str, &'static str)],
    metric: &'static str,
    ceiling: &'static str,
) -> Claim {
    Claim {
        id,
        text: "A matrix product of this type and size runs at its rate, on every GPU.",
        source,
        relation: Relation::AtLeast,
        case,
        metric,
        at,
        reduce: Reduce::Worst,
        ceiling: Some(ceiling),
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

/// The seven claims of one type: exactness, and a rate at each size.
macro_rules! of_type {
    ($name:literal, $source:expr, $metric:literal, $ceiling:literal) => {
        [
            exact(concat!("compute::", $name, "-exact"), concat!("compute::", $name), $source),
            rate(
                concat!("compute::", $name, "-8192-cubed"),
                concat!("compute::", $name),
                $source,
                &[("dtype", $name), ("m_n_k", "8192x8192x8192")],
                $metric,
                $ceiling,
            ),
            rate(
                concat!("compute::", $name, "-16384-cubed"),
                concat!("compute::", $name),
                SIZES,
                &[("dtype", $name), ("m_n_k", "16384x16384x16384")],
                $metric,
                $ceiling,
            ),
            rate(
                concat!("compute::", $name, "-8192x24576x8192"),
                concat!("compute::", $name),
                SIZES,
                &[("dtype", $name), ("m_n_k", "8192x24576x8192")],
                $metric,
                $ceiling,
            ),
            rate(
                concat!("compute::", $name, "-8192x32768x8192"),
                concat!("compute::", $name),
                SIZES,
                &[("dtype", $name), ("m_n_k", "8192x32768x8192")],
                $metric,
                $ceiling,
            ),
            rate(
                concat!("compute::", $name, "-8192x8192x32768"),
                concat!("compute::", $name),
                SIZES,
                &[("dtype", $name), ("m_n_k", "8192x8192x32768")],
                $metric,
                $ceiling,
            ),
            rate(
                concat!("compute::", $name, "-8192x4096x8192"),
                concat!("compute::", $name),
                SIZES,
                &[("dtype", $name), ("m_n_k", "8192x4096x8192")],
                $metric,
                $ceiling,
            ),
        ]
    };
}

static FP16: [Claim; 7] = of_type!("fp16", FP16_RATE, "product_tflops", "fp16_tflops");
static BF16: [Claim; 7] = of_type!("bf16", SIZES, "product_tflops", "bf16_tflops");
static TF32: [Claim; 7] = of_type!("tf32", SIZES, "product_tflops", "tf32_tflops");
static FP8: [Claim; 7] = of_type!("fp8", FP8_RATE, "product_tflops", "fp8_tflops");
static FP8_ROWWISE: [Claim; 7] = of_type!("fp8-rowwise", FP8_RATE, "product_tflops", "fp8_tflops");
static INT8: [Claim; 7] = of_type!("int8", SIZES, "product_tops", "int8_tops");

static FP16_SPREAD: Claim = Claim {
    text: "No GPU of the node multiplies slower than the others, within what power and silicon \
           explain.",
    relation: Relation::AtMost,
    reduce: Reduce::SpreadPercent,
    ceiling: None,
    gpus: GpuCount::AtLeast(2),
    ..rate(
        "compute::fp16-spread",
        "compute::fp16",
        SIZES,
        &[("dtype", "fp16"), ("m_n_k", "8192x8192x8192")],
        "product_tflops",
        "fp16_tflops",
    )
};
static FP16_SUSTAINED: Claim = Claim {
    text: "FP16 products keep their rate for ten seconds, on every GPU.",
    ..rate(
        "compute::fp16-sustained",
        "compute::fp16-sustained",
        FP16_RATE,
        &[("dtype", "fp16")],
        "sustained_tflops",
        "fp16_tflops",
    )
};
static FP8_SUSTAINED: Claim = Claim {
    text: "FP8 products keep their rate for ten seconds, on every GPU.",
    ..rate(
        "compute::fp8-sustained",
        "compute::fp8-sustained",
        FP8_RATE,
        &[("dtype", "fp8")],
        "sustained_tflops",
        "fp8_tflops",
    )
};

/// Claims of the suite, in checklist order.
pub static CLAIMS: &[&Claim] = &[
    &FP16[0],
    &FP16[1],
    &FP16[2],
    &FP16[3],
    &FP16[4],
    &FP16[5],
    &FP16[6],
    &BF16[0],
    &BF16[1],
    &BF16[2],
    &BF16[3],
    &BF16[4],
    &BF16[5],
    &BF16[6],
    &TF32[0],
    &TF32[1],
    &TF32[2],
    &TF32[3],
    &TF32[4],
    &TF32[5],
    &TF32[6],
    &FP8[0],
    &FP8[1],
    &FP8[2],
    &FP8[3],
    &FP8[4],
    &FP8[5],
    &FP8[6],
    &FP8_ROWWISE[0],
    &FP8_ROWWISE[1],
    &FP8_ROWWISE[2],
    &FP8_ROWWISE[3],
    &FP8_ROWWISE[4],
    &FP8_ROWWISE[5],
    &FP8_ROWWISE[6],
    &INT8[0],
    &INT8[1],
    &INT8[2],
    &INT8[3],
    &INT8[4],
    &INT8[5],
    &INT8[6],
    &FP16_SPREAD,
    &FP16_SUSTAINED,
    &FP8_SUSTAINED,
];
