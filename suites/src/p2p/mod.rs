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

/// Claims of the suite, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[&latency::CASE, &pairs::ENGINES, &pairs::KERNELS, &crowd::CASE];

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
