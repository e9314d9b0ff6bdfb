//! Suite `precision`: formats of few bits, quantisers, the accumulator that FP8 products really have, and
//! what FP8 saves with its quantisation counted in, and what each precision costs a model that was trained.

mod accumulator;
mod accuracy;
mod auto;
mod bad_input;
mod claims;
mod formats;
mod fused;
mod integers;
mod language;
pub mod measure;
mod microscaled;
mod native_products;
mod normed;
mod operands;
pub mod product;
mod products;
mod promoted;
mod promoted_claims;
mod quantisers;
mod random;
mod rates;
mod scaled;
mod weight_memory;
mod weight_only;
mod weight_rates;

use harness::case::Case;
use harness::claim::Claim;

pub use promoted_claims::CLAIMS as PROMOTED_CLAIMS;
pub use scaled::foretold_errors;

/// Claims, in checklist order.
pub static CLAIMS: &[&Claim] = claims::CLAIMS;

/// Cases, in the order in which they run.
pub static CASES: &[&Case] = &[
    &formats::CASE,
    &formats::NATIVE_CASE,
    &integers::CASE,
    &quantisers::CASE,
    &accumulator::CASE,
    &products::CASE,
    &products::blocks::CASE,
    &products::foretold::CASE,
    &promoted::CASE,
    &auto::CASE,
    &accuracy::CASE,
    &accuracy::fp8::CASE,
    &accuracy::blocks::CASE,
    &random::CASE,
    &bad_input::CASE,
    &microscaled::CASE,
    &native_products::CASE,
    &weight_only::CASE,
    &weight_memory::CASE,
    &weight_rates::CASE,
    &rates::CASE,
    &rates::PRODUCT_CASE,
    &rates::promoted::CASE,
    &rates::promoted::LOAD_CASE,
];
