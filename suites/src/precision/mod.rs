//! Suite `precision`: formats of few bits, quantisers, the accumulator that FP8 products really have, and
//! what FP8 saves with its quantisation counted in.

mod accumulator;
mod claims;
mod formats;
mod microscaled;
mod operands;
mod products;
mod quantisers;
mod rates;
mod scaled;
mod weight_only;
mod weight_rates;

use harness::case::Case;
use harness::claim::Claim;

/// Claims, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// Cases, in the order in which they run.
pub static CASES: &[&Case] = &[
    &formats::CASE,
    &formats::NATIVE_CASE,
    &quantisers::CASE,
    &accumulator::CASE,
    &products::CASE,
    &microscaled::CASE,
    &weight_only::CASE,
    &weight_rates::CASE,
    &rates::CASE,
    &rates::PRODUCT_CASE,
];
