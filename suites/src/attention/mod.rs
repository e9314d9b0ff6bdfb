//! Suite `attention`: any mask, right against f64, and the same bits wherever a row is computed.

pub mod backend;
pub mod bits;
mod claims;
pub mod decode;
pub mod exact;
pub mod fp8;
pub mod measure;
pub mod rates;
pub mod rival;
pub mod scene;

pub use claims::CLAIMS;

use harness::case::Case;
use harness::evidence::Tier;

/// Of all but the cases with a rival in them, which take a minute and want PyTorch.
const TIER: Tier = Tier::Quick;

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[
    &exact::TAILS_CASE,
    &exact::PROGRAMS_CASE,
    &bits::CASE,
    &decode::EXACT_CASE,
    &exact::LONG_CASE,
    &fp8::CASE,
    &decode::RATE_CASE,
    &rates::CASE,
    &fp8::RATE_CASE,
    &rival::CASE,
    &rival::FLEX_CASE,
    &bits::HEADS_CASE,
];
