//! Suite `p2p`: memory of one GPU reached from another, every ordered pair, by copy engines and by
//! multiprocessors, alone and all at once, and the latency of one load and of one small copy.

mod bench;
mod claims;
mod crowd;
mod latency;
mod pairs;
mod singles;

use harness::case::{Case, Control, Expect, control};
use harness::claim::Claim;
use harness::report::measured::{Place, Shown, Table};

/// Claims of the suite, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// Every pair in one line.
pub const LINKS: Table = Table {
    heading: "Links over all pairs",
    intro: "Least / median / most of the medians of all ordered pairs, both ways of all unordered ones: of the evidence of the \
            verified claims of copies and kernels, and of a load and a copy of 4 KiB. The matrix stands in that evidence.",
    claims: &["p2p::copy-write", "p2p::kernel-write", "p2p::load-latency"],
    places: &[Place { key: "by", title: "by", otherwise: "one load, one copy" }],
    figures: &[
        ("write_gbps", "write, GB/s", Shown::Spread),
        ("read_gbps", "read, GB/s", Shown::Spread),
        ("both_ways_gbps", "both ways, GB/s", Shown::Spread),
        ("load_p50_us", "load, us", Shown::Spread),
        ("copy_p50_us", "copy, us", Shown::Spread),
    ],
};

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] =
    &[&latency::CASE, &pairs::ENGINES, &pairs::KERNELS, &crowd::CASE, &crowd::KERNELS];

/// What every case compiles.
const KERNELS: &[&str] = &["links", "pattern", "timing"];

const TWICE: &str = "3 % of the payload is copied twice and counted once";
const PIECES: &str = "the payload goes in pieces of 16 KiB, one copy each";

const FLIPPED_BIT: Control = control(
    "flipped-bit",
    "one bit of one word is flipped after it arrived",
    "wrong_count",
    Expect::Corrupt,
);
