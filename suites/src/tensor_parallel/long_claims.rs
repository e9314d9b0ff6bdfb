//! The claims about long sequences over several GPUs.

use harness::claim::{Claim, GpuCount, Relation, Source};

use super::claims::{At, claim};
use super::{long, longer, setting};
use crate::model::eight;
use crate::model::long::{ACCEPTED, ERROR};
use crate::model::memory;

const CONTEXT: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "4. Long-Context Validation (32K+, FP8)",
    printed: "--sequence-lengths 32768 65536 --tensor-parallel-gpus 8",
    board: "8x B200",
};

const BEYOND: Source = Source {
    document: "touchstone",
    section: "long sequences",
    printed: "lengths that the documents leave open",
    board: "",
};

/// Case, metric and place.
type Of = (&'static str, &'static str, At);

const fn at_most(id: &'static str, text: &'static str, of: Of, gpus: u32) -> Claim {
    Claim { relation: Relation::AtMost, ..claim(id, text, CONTEXT, of, gpus) }
}

/// One long sequence over a degree: it fits in one precision; its memory and its refusals in both.
macro_rules! long {
    (fits $degree:literal, $gpus:literal, $words:literal, $name:literal, $tokens:literal, $precision:literal) => {
        &claim(
            concat!("tensor-parallel::fits-", $name, "-", $precision, "-tp", $degree),
            concat!(
                $words,
                " GPUs run one sequence of ",
                $tokens,
                " tokens through the 48-layer model, columns shared, in two chunks, and every allocation succeeds: the logits are finite \
                 and have the bits of one GPU's, and the residual stream has its hash behind every layer on every rank. That \
                 rows of one GPU's pass are right is model::right-",
                $name,
                "-",
                $precision,
                "."
            ),
            CONTEXT,
            (
                long::CASE.id,
                long::METRIC,
                &[("degree", $degree), ("precision", $precision), ("tokens", $tokens)],
            ),
            $gpus,
        )
    };
    (formula $degree:literal, $gpus:literal, $words:literal) => {
        &at_most(
            concat!("tensor-parallel::long-memory-by-formula-tp", $degree),
            concat!(
                "What each of ",
                $words,
                " GPUs allocates for 32768 and 65536 tokens is what a closed formula of sizes and degree says, to a thousandth."
            ),
            (long::CASE.id, memory::FORMULA, &[("degree", $degree)]),
            $gpus,
        )
    };
    (driver $degree:literal, $gpus:literal, $words:literal) => {
        &at_most(
            concat!("tensor-parallel::long-memory-by-driver-tp", $degree),
            concat!(
                "What the driver of each of ",
                $words,
                " GPUs has less of at 32768 and 65536 tokens is what the formula says, to the documented share of it."
            ),
            (long::CASE.id, memory::DRIVER, &[("degree", $degree)]),
            $gpus,
        )
    };
    (nvml $degree:literal, $gpus:literal, $words:literal) => {
        &at_most(
            concat!("tensor-parallel::long-memory-by-nvml-tp", $degree),
            concat!(
                "What NVML says is used more of each of ",
                $words,
                " GPUs at 32768 and 65536 tokens is what the formula says, to the documented share of it."
            ),
            (long::CASE.id, memory::NVML, &[("degree", $degree)]),
            $gpus,
        )
    };
    (refused $degree:literal, $gpus:literal, $words:literal) => {
        &claim(
            concat!("tensor-parallel::too-long-is-refused-tp", $degree),
            concat!(
                "Over ",
                $words,
                " GPUs the longest sequence that by the formula leaves 2 GiB free is allocated, in steps of 32768 tokens; the first that by it \
                 takes more than the memory is refused by the driver, and 32768 tokens by a limit of 5 % under the formula on \
                 the last rank, without a byte left behind."
            ),
            CONTEXT,
            (long::CASE.id, ACCEPTED, &[("degree", $degree)]),
            $gpus,
        )
    };
}

/// Of one degree alone: a case runs over the most GPUs that there are.
const fn exactly(id: &'static str, text: &'static str, of: Of, gpus: u32) -> Claim {
    Claim { gpus: GpuCount::Exactly(gpus), ..claim(id, text, BEYOND, of, gpus) }
}

/// A sequence of 262144 tokens or more: it fits, and its rows are right; its memory. What has no tokens in its place is of
/// the shorter sequence too, at which faults are planted.
macro_rules! longer {
    (fits $case:expr, $degree:literal, $gpus:literal, $words:literal, $name:literal, $precision:literal, $tokens:literal, $at:expr) => {
        &exactly(
            concat!("tensor-parallel::fits-", $name, "-", $precision, "-tp", $degree),
            concat!(
                $words,
                " GPUs run one sequence of ",
                $tokens,
                " tokens through the 48-layer model, columns shared, in chunks of at most 32768 tokens, and every allocation succeeds: the \
                 logits are finite, and the residual stream has one hash on all ranks behind every layer."
            ),
            ($case, setting::AGREEMENT, $at),
            $gpus,
        )
    };
    (right $case:expr, $degree:literal, $gpus:literal, $words:literal, $name:literal, $precision:literal, $tokens:literal, $at:expr) => {
        &Claim {
            relation: Relation::AtMost,
            ..exactly(
                concat!("tensor-parallel::right-", $name, "-", $precision, "-tp", $degree),
                concat!(
                    "Over ",
                    $words,
                    " GPUs, sampled elements of rows of the first, a middle and the last layer err by at most 4 % of a stage's size at every stage of a pass of ",
                    $tokens,
                    " tokens."
                ),
                ($case, ERROR, $at),
                $gpus,
            )
        }
    };
    (fits kept $case:expr, $degree:literal, $gpus:literal, $words:literal, $name:literal, $tokens:literal, $at:expr) => {
        &exactly(
            concat!("tensor-parallel::fits-", $name, "-fp8-cache-tp", $degree),
            concat!(
                $words,
                " GPUs run one sequence of ",
                $tokens,
                " tokens through the 48-layer model in FP8, columns shared, in chunks of at most 32768 tokens, with keys and \
                 values that are kept in E4M3 alone, and every allocation succeeds: the logits are finite, and the residual \
                 stream has one hash on all ranks behind every layer."
            ),
            ($case, setting::AGREEMENT, $at),
            $gpus,
        )
    };
    (right kept $case:expr, $degree:literal, $gpus:literal, $words:literal, $name:literal, $tokens:literal, $at:expr) => {
        &Claim {
            relation: Relation::AtMost,
            ..exactly(
                concat!("tensor-parallel::right-", $name, "-fp8-cache-tp", $degree),
                concat!(
                    "Over ",
                    $words,
                    " GPUs, sampled elements of rows of the first, a middle and the last layer err by at most 4 % of a stage's size at every stage but attention of a \
                     pass of ",
                    $tokens,
                    " tokens whose keys and values are kept in E4M3; and of one drawn head, those of the rows are the codes that E4M3 has, \
                     and those of earlier tokens what earlier rows saw."
                ),
                ($case, ERROR, $at),
                $gpus,
            )
        }
    };
    (attention kept $case:expr, $degree:literal, $gpus:literal, $words:literal, $name:literal, $tokens:literal, $at:expr) => {
        &Claim {
            relation: Relation::AtMost,
            ..exactly(
                concat!("tensor-parallel::attention-", $name, "-fp8-cache-tp", $degree),
                concat!(
                    "Over ",
                    $words,
                    " GPUs, sampled rows of one drawn head's attention over E4M3, in a pass of ",
                    $tokens,
                    " tokens, are those of f64 over the keys and values that are kept, within what E4M3 of queries and weights \
                     costs."
                ),
                ($case, eight::ERROR, $at),
                $gpus,
            )
        }
    };
    (formula $case:expr, $name:literal, $degree:literal, $gpus:literal, $words:literal) => {
        &Claim {
            relation: Relation::AtMost,
            ..exactly(
                concat!("tensor-parallel::", $name, "-memory-by-formula-tp", $degree),
                concat!(
                    "What each of ",
                    $words,
                    " GPUs allocates for the sequences of tensor-parallel::",
                    $name,
                    " is what a closed formula of sizes and degree says, to a thousandth."
                ),
                ($case, memory::FORMULA, &[("degree", $degree)]),
                $gpus,
            )
        }
    };
    (nvml $case:expr, $name:literal, $degree:literal, $gpus:literal, $words:literal) => {
        &Claim {
            relation: Relation::AtMost,
            ..exactly(
                concat!("tensor-parallel::", $name, "-memory-by-nvml-tp", $degree),
                concat!(
                    "What NVML says is used more of each of ",
                    $words,
                    " GPUs at the sequences of tensor-parallel::",
                    $name,
                    " is what the formula says, to the documented share of it."
                ),
                ($case, memory::NVML, &[("degree", $degree)]),
                $gpus,
            )
        }
    };
    (driver $case:expr, $name:literal, $degree:literal, $gpus:literal, $words:literal) => {
        &Claim {
            relation: Relation::AtMost,
            ..exactly(
                concat!("tensor-parallel::", $name, "-memory-by-driver-tp", $degree),
                concat!(
                    "What the driver of each of ",
                    $words,
                    " GPUs has less of at the sequences of tensor-parallel::",
                    $name,
                    " is what the formula says, to the documented share of it."
                ),
                ($case, memory::DRIVER, &[("degree", $degree)]),
                $gpus,
            )
        }
    };
}

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    long!(fits "2", 2, "Two", "32k", "32768", "fp16"),
    long!(fits "2", 2, "Two", "32k", "32768", "fp8"),
    long!(fits "2", 2, "Two", "64k", "65536", "fp16"),
    long!(fits "2", 2, "Two", "64k", "65536", "fp8"),
    long!(fits "4", 4, "Four", "32k", "32768", "fp16"),
    long!(fits "4", 4, "Four", "32k", "32768", "fp8"),
    long!(fits "4", 4, "Four", "64k", "65536", "fp16"),
    long!(fits "4", 4, "Four", "64k", "65536", "fp8"),
    long!(fits "8", 8, "Eight", "32k", "32768", "fp16"),
    long!(fits "8", 8, "Eight", "32k", "32768", "fp8"),
    long!(fits "8", 8, "Eight", "64k", "65536", "fp16"),
    long!(fits "8", 8, "Eight", "64k", "65536", "fp8"),
    long!(formula "2", 2, "two"),
    long!(formula "4", 4, "four"),
    long!(formula "8", 8, "eight"),
    long!(driver "2", 2, "two"),
    long!(driver "4", 4, "four"),
    long!(driver "8", 8, "eight"),
    long!(nvml "2", 2, "two"),
    long!(nvml "4", 4, "four"),
    long!(nvml "8", 8, "eight"),
    long!(refused "2", 2, "two"),
    long!(refused "4", 4, "four"),
    long!(refused "8", 8, "eight"),
    longer!(fits longer::CASE.id, "2", 2, "Two", "256k", "fp8", "32768 and of 262144", &[("degree", "2"), ("precision", "fp8")]),
    longer!(fits longer::CASE.id, "4", 4, "Four", "256k", "fp8", "32768 and of 262144", &[("degree", "4"), ("precision", "fp8")]),
    longer!(fits longer::CASE.id, "8", 8, "Eight", "256k", "fp8", "32768 and of 262144", &[("degree", "8"), ("precision", "fp8")]),
    longer!(fits longer::LONGEST.id, "2", 2, "Two", "256k", "fp16", "32768 and of 262144", &[("degree", "2"), ("precision", "fp16")]),
    longer!(fits longer::LONGEST.id, "4", 4, "Four", "256k", "fp16", "32768 and of 262144", &[("degree", "4"), ("precision", "fp16")]),
    longer!(fits longer::LONGEST.id, "8", 8, "Eight", "256k", "fp16", "32768 and of 262144", &[("degree", "8"), ("precision", "fp16")]),
    longer!(right longer::CASE.id, "2", 2, "two", "256k", "fp8", "32768 and of 262144", &[("degree", "2"), ("precision", "fp8")]),
    longer!(right longer::CASE.id, "4", 4, "four", "256k", "fp8", "32768 and of 262144", &[("degree", "4"), ("precision", "fp8")]),
    longer!(right longer::CASE.id, "8", 8, "eight", "256k", "fp8", "32768 and of 262144", &[("degree", "8"), ("precision", "fp8")]),
    longer!(right longer::LONGEST.id, "2", 2, "two", "256k", "fp16", "32768 and of 262144", &[("degree", "2"), ("precision", "fp16")]),
    longer!(right longer::LONGEST.id, "4", 4, "four", "256k", "fp16", "32768 and of 262144", &[("degree", "4"), ("precision", "fp16")]),
    longer!(right longer::LONGEST.id, "8", 8, "eight", "256k", "fp16", "32768 and of 262144", &[("degree", "8"), ("precision", "fp16")]),
    longer!(fits kept longer::CACHE.id, "2", 2, "Two", "128k", "32768 and of 131072", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(fits kept longer::CACHE.id, "4", 4, "Four", "128k", "32768 and of 131072", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(fits kept longer::CACHE.id, "8", 8, "Eight", "128k", "32768 and of 131072", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(fits kept longer::LONGER_CACHE.id, "2", 2, "Two", "256k", "32768 and of 262144", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(fits kept longer::LONGER_CACHE.id, "4", 4, "Four", "256k", "32768 and of 262144", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(fits kept longer::LONGER_CACHE.id, "8", 8, "Eight", "256k", "32768 and of 262144", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(fits kept longer::LONGEST.id, "2", 2, "Two", "512k", "524288", &[("degree", "2"), ("precision", "fp8-cache"), ("tokens", "524288")]),
    longer!(fits kept longer::LONGEST.id, "4", 4, "Four", "512k", "524288", &[("degree", "4"), ("precision", "fp8-cache"), ("tokens", "524288")]),
    longer!(fits kept longer::LONGEST.id, "8", 8, "Eight", "512k", "524288", &[("degree", "8"), ("precision", "fp8-cache"), ("tokens", "524288")]),
    longer!(fits kept longer::LONGEST.id, "2", 2, "Two", "1m", "1048576", &[("degree", "2"), ("precision", "fp8-cache"), ("tokens", "1048576")]),
    longer!(fits kept longer::LONGEST.id, "4", 4, "Four", "1m", "1048576", &[("degree", "4"), ("precision", "fp8-cache"), ("tokens", "1048576")]),
    longer!(fits kept longer::LONGEST.id, "8", 8, "Eight", "1m", "1048576", &[("degree", "8"), ("precision", "fp8-cache"), ("tokens", "1048576")]),
    longer!(right kept longer::CACHE.id, "2", 2, "two", "128k", "32768 and of 131072", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(right kept longer::CACHE.id, "4", 4, "four", "128k", "32768 and of 131072", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(right kept longer::CACHE.id, "8", 8, "eight", "128k", "32768 and of 131072", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(right kept longer::LONGER_CACHE.id, "2", 2, "two", "256k", "32768 and of 262144", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(right kept longer::LONGER_CACHE.id, "4", 4, "four", "256k", "32768 and of 262144", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(right kept longer::LONGER_CACHE.id, "8", 8, "eight", "256k", "32768 and of 262144", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(right kept longer::LONGEST.id, "2", 2, "two", "512k", "524288", &[("degree", "2"), ("precision", "fp8-cache"), ("tokens", "524288")]),
    longer!(right kept longer::LONGEST.id, "4", 4, "four", "512k", "524288", &[("degree", "4"), ("precision", "fp8-cache"), ("tokens", "524288")]),
    longer!(right kept longer::LONGEST.id, "8", 8, "eight", "512k", "524288", &[("degree", "8"), ("precision", "fp8-cache"), ("tokens", "524288")]),
    longer!(right kept longer::LONGEST.id, "2", 2, "two", "1m", "1048576", &[("degree", "2"), ("precision", "fp8-cache"), ("tokens", "1048576")]),
    longer!(right kept longer::LONGEST.id, "4", 4, "four", "1m", "1048576", &[("degree", "4"), ("precision", "fp8-cache"), ("tokens", "1048576")]),
    longer!(right kept longer::LONGEST.id, "8", 8, "eight", "1m", "1048576", &[("degree", "8"), ("precision", "fp8-cache"), ("tokens", "1048576")]),
    longer!(attention kept longer::CACHE.id, "2", 2, "two", "128k", "32768 and of 131072", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::CACHE.id, "4", 4, "four", "128k", "32768 and of 131072", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::CACHE.id, "8", 8, "eight", "128k", "32768 and of 131072", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::LONGER_CACHE.id, "2", 2, "two", "256k", "32768 and of 262144", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::LONGER_CACHE.id, "4", 4, "four", "256k", "32768 and of 262144", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::LONGER_CACHE.id, "8", 8, "eight", "256k", "32768 and of 262144", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::LONGEST.id, "2", 2, "two", "1m", "32768, of 524288 and of 1048576", &[("degree", "2"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::LONGEST.id, "4", 4, "four", "1m", "32768, of 524288 and of 1048576", &[("degree", "4"), ("precision", "fp8-cache")]),
    longer!(attention kept longer::LONGEST.id, "8", 8, "eight", "1m", "32768, of 524288 and of 1048576", &[("degree", "8"), ("precision", "fp8-cache")]),
    longer!(formula longer::CASE.id, "longer", "2", 2, "two"),
    longer!(formula longer::CASE.id, "longer", "4", 4, "four"),
    longer!(formula longer::CASE.id, "longer", "8", 8, "eight"),
    longer!(driver longer::CASE.id, "longer", "2", 2, "two"),
    longer!(driver longer::CASE.id, "longer", "4", 4, "four"),
    longer!(driver longer::CASE.id, "longer", "8", 8, "eight"),
    longer!(nvml longer::CASE.id, "longer", "2", 2, "two"),
    longer!(nvml longer::CASE.id, "longer", "4", 4, "four"),
    longer!(nvml longer::CASE.id, "longer", "8", 8, "eight"),
    longer!(formula longer::CACHE.id, "long-fp8-cache", "2", 2, "two"),
    longer!(formula longer::CACHE.id, "long-fp8-cache", "4", 4, "four"),
    longer!(formula longer::CACHE.id, "long-fp8-cache", "8", 8, "eight"),
    longer!(formula longer::LONGER_CACHE.id, "longer-fp8-cache", "2", 2, "two"),
    longer!(formula longer::LONGER_CACHE.id, "longer-fp8-cache", "4", 4, "four"),
    longer!(formula longer::LONGER_CACHE.id, "longer-fp8-cache", "8", 8, "eight"),
    longer!(driver longer::CACHE.id, "long-fp8-cache", "2", 2, "two"),
    longer!(driver longer::CACHE.id, "long-fp8-cache", "4", 4, "four"),
    longer!(driver longer::CACHE.id, "long-fp8-cache", "8", 8, "eight"),
    longer!(nvml longer::CACHE.id, "long-fp8-cache", "2", 2, "two"),
    longer!(nvml longer::CACHE.id, "long-fp8-cache", "4", 4, "four"),
    longer!(nvml longer::CACHE.id, "long-fp8-cache", "8", 8, "eight"),
    longer!(driver longer::LONGER_CACHE.id, "longer-fp8-cache", "2", 2, "two"),
    longer!(driver longer::LONGER_CACHE.id, "longer-fp8-cache", "4", 4, "four"),
    longer!(driver longer::LONGER_CACHE.id, "longer-fp8-cache", "8", 8, "eight"),
    longer!(nvml longer::LONGER_CACHE.id, "longer-fp8-cache", "2", 2, "two"),
    longer!(nvml longer::LONGER_CACHE.id, "longer-fp8-cache", "4", 4, "four"),
    longer!(nvml longer::LONGER_CACHE.id, "longer-fp8-cache", "8", 8, "eight"),
    longer!(formula longer::LONGEST.id, "longest", "2", 2, "two"),
    longer!(formula longer::LONGEST.id, "longest", "4", 4, "four"),
    longer!(formula longer::LONGEST.id, "longest", "8", 8, "eight"),
    longer!(driver longer::LONGEST.id, "longest", "2", 2, "two"),
    longer!(driver longer::LONGEST.id, "longest", "4", 4, "four"),
    longer!(driver longer::LONGEST.id, "longest", "8", 8, "eight"),
    longer!(nvml longer::LONGEST.id, "longest", "2", 2, "two"),
    longer!(nvml longer::LONGEST.id, "longest", "4", 4, "four"),
    longer!(nvml longer::LONGEST.id, "longest", "8", 8, "eight"),
];
