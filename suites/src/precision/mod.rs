//! Suite `precision`: formats of few bits, quantisers, the accumulator that FP8 products really have, and
//! what FP8 saves with its quantisation counted in, and what each precision costs a model that was trained.

mod accumulator;
mod accuracy;
mod claims;
mod formats;
mod language;
pub mod measure;
mod operands;
mod products;
mod quantisers;
mod rates;

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
    &accuracy::CASE,
    &rates::CASE,
    &rates::PRODUCT_CASE,
];
