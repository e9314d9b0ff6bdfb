//! The claims about decoding over several GPUs.

use harness::claim::{Claim, Relation, Source};

use super::claims::claim;
use super::decode::{self, CASE};
use super::setting;

const ZERO: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Latest Validation",
    printed: "Tensor-parallel correctness: PASSED (0.000e+00 deviation across 8 GPUs)",
    board: "8x B200",
};
const OWN: Source = Source {
    document: "touchstone",
    section: "tensor parallel",
    printed: "what several GPUs gain where a token waits for memory",
    board: "",
};
const LONG: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "4. Long-Context Validation (32K+, FP8)",
    printed: "--sequence-lengths 32768 65536 --tensor-parallel-gpus 8",
    board: "8x B200",
};

macro_rules! decode {
    (bits $degree:literal, $gpus:literal, $words:literal) => {
        &claim(
            concat!("tensor-parallel::decode-keeps-bits-tp", $degree),
            concat!(
                $words,
                " GPUs decode eight tokens of one sequence with the bits of one that adds each head's keys in as many parts, in every logit of each step and in the residual \
                 stream behind the last one on every rank: behind 2048 tokens with weights in fp16 and in E4M3 over a cache \
                 in fp16, and behind 32768 with both in E4M3."
            ),
            ZERO,
            (CASE.id, setting::METRIC, &[("degree", $degree)]),
            $gpus,
        )
    };
    (pays $id:literal, $source:expr, $degree:literal, $gpus:literal, $text:expr, $precision:literal, $context:literal) => {
        &Claim {
            relation: Relation::AtLeast,
            ..claim(
                concat!("tensor-parallel::", $id, "-tp", $degree),
                $text,
                $source,
                (
                    CASE.id,
                    decode::SPEEDUP,
                    &[("precision", $precision), ("context", $context), ("degree", $degree)],
                ),
                $gpus,
            )
        }
    };
    (pays $degree:literal, $gpus:literal, $words:literal) => {
        [
            decode!(pays "decode-pays", OWN, $degree, $gpus, concat!(
                $words,
                " GPUs decode a token behind 2048 faster than one GPU by the documented factor at least, weights and cache in fp16."
            ), "fp16", "2048"),
            decode!(pays "decode-pays-fp8", OWN, $degree, $gpus, concat!(
                $words,
                " GPUs decode a token behind 2048 faster than one GPU by the documented factor at least, weights in E4M3, cache in \
                 fp16."
            ), "fp8", "2048"),
            decode!(pays "decode-32k-pays", LONG, $degree, $gpus, concat!(
                $words,
                " GPUs decode a token behind 32768 faster than one GPU by the documented factor at least, weights and cache in E4M3."
            ), "fp8", "32768"),
        ]
    };
    (right $id:literal, $text:literal, $precision:literal) => {
        &Claim {
            relation: Relation::AtMost,
            ..claim(
                $id,
                $text,
                OWN,
                (CASE.id, decode::ERROR, &[("precision", $precision), ("degree", "1")]),
                2,
            )
        }
    };
}

const PAYS: [[&Claim; 3]; 3] =
    [decode!(pays "2", 2, "Two"), decode!(pays "4", 4, "Four"), decode!(pays "8", 8, "Eight")];

/// In checklist order.
pub static CLAIMS: &[&Claim] = &[
    decode!(right "tensor-parallel::decode-is-right-fp16", "What several GPUs are compared with is right: one GPU's last of eight tokens behind 2048, weights and cache in fp16, has the logits of a whole pass, within the documented root mean square.", "fp16"),
    decode!(right "tensor-parallel::decode-is-right-fp8", "What several GPUs are compared with is right: one GPU's last of eight tokens, weights in E4M3, behind 2048 over a cache in fp16 and behind 32768 over one in E4M3, has the logits of a whole pass, which quantises activations too, within the documented root mean square.", "fp8"),
    decode!(bits "2", 2, "Two"),
    decode!(bits "4", 4, "Four"),
    decode!(bits "8", 8, "Eight"),
    PAYS[0][0],
    PAYS[0][1],
    PAYS[0][2],
    PAYS[1][0],
    PAYS[1][1],
    PAYS[1][2],
    PAYS[2][0],
    PAYS[2][1],
    PAYS[2][2],
];
