//! Suite `attention`: any mask, right against f64, and the same bits wherever a row is computed.

pub mod backend;
pub mod bits;
mod claims;
pub mod decode;
pub mod exact;
pub mod measure;
pub mod rates;
pub mod rival;
pub mod scene;

pub use claims::CLAIMS;

use harness::case::Case;
use harness::evidence::Tier;

/// These kernels have not run on a device yet: nobody gets them who does not ask for everything.
const TIER: Tier = Tier::Soak;

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[
    &exact::TAILS_CASE,
    &exact::PROGRAMS_CASE,
    &bits::CASE,
    &decode::EXACT_CASE,
    &exact::LONG_CASE,
    &decode::RATE_CASE,
    &rates::CASE,
    &rival::CASE,
    &rival::FLEX_CASE,
    &bits::HEADS_CASE,
];
