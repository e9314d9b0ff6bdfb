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
mod sweep;
mod versus;

use harness::case::{Case, Control, Expect, control};
use harness::claim::Claim;
use harness::report::measured::{GPUS, Place, Shown, Table};

pub use absent_own::planted;

/// Claims of the suite, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// NCCL by collective and size, as a checklist shows it.
pub const BY_SIZE: Table = Table {
    heading: "NCCL by collective and size",
    intro: "In f32; sizes in bytes, counted as nccl-tests count them.",
    claims: &[
        "collectives::nccl-exact-by-size",
        "collectives::all-reduce-1gib",
        "collectives::all-reduce-4gib",
    ],
    places: &[
        Place { key: "op", title: "collective", otherwise: "-" },
        Place { key: GPUS, title: "GPUs", otherwise: "-" },
        Place { key: "bytes", title: "bytes", otherwise: "-" },
    ],
    figures: &[
        ("algbw_gbps", "algorithm bandwidth, GB/s", Shown::Least),
        ("busbw_gbps", "bus bandwidth, GB/s", Shown::Least),
    ],
};

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[
    &own::CASE,
    &nccl::CASE,
    &rates::CASE,
    &sweep::CASE,
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
