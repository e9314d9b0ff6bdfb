//! Suite `model`: the model of seed 002 on one GPU, in fp16, in bf16 and in FP8.
//!
//! - [`check`]: rows of a pass against f64, stage by stage; [`roundings`]: those of a pass in bf16. [`memory`]: what is
//!   allocated, and the formula, over 1 to 8 GPUs in [`playbook`].
//! - [`forward`]: 8192 tokens, rate, memory and bits; [`peak_drop`]: what FP8 takes less at its peak. [`table`]: the rows of the documents' tables in each way
//!   of execution, and when it pays in [`payback`]; [`smart`]: what is ready within a budget. [`long`]: 8192 to 131072 tokens, [`every`]: logits of each of 32768. [`decode`]: token by token, over a cache in
//!   E4M3 in [`cached`], over weights in E4M3 beside f64 in [`weight_only`], whose passes over many tokens are in [`weight_only_pass`]. [`eight`]: attention over E4M3.
//!   [`promoted`]: FP8 by the own products. [`bf16`]: the same model in bf16. [`rival`]: beside a
//!   compiled PyTorch.
//! - [`modes`]: which way of execution when, a note. [`hangs`]: what hangs is ended and leaves a bundle. [`stages`]: the processes that hang.

mod bf16;
pub(crate) mod cached;
pub(crate) mod check;
mod claims;
pub(crate) mod decode;
pub(crate) mod eight;
pub(crate) mod every;
mod forward;
pub mod hangs;
pub(crate) mod long;
pub(crate) mod memory;
pub(crate) mod modes;
mod payback;
mod peak_drop;
pub(crate) mod playbook;
mod promoted;
mod rival;
mod roundings;
pub(crate) mod smart;
pub mod stages;
mod table;
mod weight_only;
mod weight_only_pass;

use harness::case::Case;
use harness::record::Stop;

pub use claims::CLAIMS;
pub(crate) use forward::{BITS, KERNELS, PRECISIONS, room};

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[
    &forward::CASE,
    &promoted::CASE,
    &promoted::LIBRARY_CASE,
    &peak_drop::CASE,
    &decode::CASE,
    // Cases of one GPU stand together: they take turns among the GPUs.
    &bf16::CASE,
    &bf16::MODES_CASE,
    &smart::CASE,
    &smart::WHOLE_CASE,
    &weight_only::CASE,
    &weight_only_pass::CASE,
    &table::SMALL_CASE,
    &table::EIGHT_SMALL_CASE,
    &table::EIGHT_CASE,
    &table::OTHER_CASE,
    &table::CASE,
    &table::LONG_CASE,
    &every::CASE,
    &long::CASE,
    &long::FROM_8K_CASE,
    &decode::LONG_CASE,
    &cached::CASE,
    &eight::CASE,
    &rival::E4M3_ATTENTION_CASE,
    &rival::FP8_CASE,
    &rival::CASE,
    &hangs::CASE,
    &hangs::SMART_CASE,
];

/// What another process does under a name of this suite; `None` for any other name.
pub fn planted(name: &str, arguments: &[String]) -> Option<Result<(), Stop>> {
    (name == stages::NAME).then(|| stages::planted(arguments))
}
