//! Suite `collectives`: NCCL's collectives, and an all-reduce of our own over the same links.

mod absent;
mod absent_own;
mod bench;
mod claims;
pub mod measure;
mod nccl;
mod own;
mod rates;
mod rival;
mod versus;

use harness::case::{Case, Control, Expect, control};
use harness::claim::Claim;

pub use absent_own::planted;

/// Claims of the suite, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[
    &own::CASE,
    &nccl::CASE,
    &rates::CASE,
    &versus::CASE,
    &rates::LARGEST,
    &rival::CASE,
    &absent::CASE,
    &absent_own::CASE,
];

/// What every case compiles.
const KERNELS: &[&str] = &["links", "pattern", "reduction", "timing"];
/// With the own all-reduce.
const OWN_KERNELS: &[&str] = &["allreduce", "links", "pattern", "reduction", "timing"];

const DROPPED: Control = control(
    "dropped-rank",
    "the values of one rank are zeros, so that its contribution is missing",
    "wrong_count",
    Expect::Corrupt,
);
const FLIPPED_INPUT: Control = control(
    "flipped-mantissa-bit",
    "one bit of the mantissa of one value of one rank is flipped before the call",
    "wrong_count",
    Expect::Corrupt,
);
const FLIPPED_OUTPUT: Control = control(
    "flipped-result-bit",
    "the lowest bit of one word of one rank's result is flipped",
    "differing_count",
    Expect::Refuted,
);
