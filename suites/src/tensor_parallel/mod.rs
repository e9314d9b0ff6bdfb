//! Suite `tensor-parallel`: the model of seed 002 over several GPUs, with the same bits as on one.
//!
//! - [`bench`]: the GPUs with their kernels. [`basis`]: products cut in every way, [`basis_fp8`]: those of E4M3. [`oracle`]: a small model
//!   against f64. [`drift`]: bits on one GPU, split by layers, and by columns over 2, 4 and 8, over what [`setting`] keeps and
//!   beside what [`work`] counts; [`fp8`] and [`drift_fp8`]: the same in FP8; [`pipeline`]: layers over 2, 4 and 8;
//!   [`every`]: logits of every token. [`rates`]:
//!   what it costs, [`overlap`] and [`overlap_more`]: what of that is communication, [`ordinary`]: beside rows and NCCL,
//!   [`rival`]: beside PyTorch, [`split`]: whole layers on each GPU, [`long`]: 32768 and 65536 tokens, [`longer`]: more,
//!   [`hangs`]: what never ends, [`decode`]: one token after another. [`measure`]: the command.

mod basis;
mod basis_fp8;
pub(crate) mod bench;
mod claims;
mod decode;
mod decode_claims;
mod drift;
mod drift_fp8;
mod every;
mod fp8;
mod fp8_claims;
mod hangs;
pub(crate) mod long;
mod long_claims;
pub(crate) mod longer;
pub mod measure;
pub(crate) mod oracle;
mod ordinary;
mod overlap;
mod overlap_more;
mod pipeline;
mod planted;
pub(crate) mod rates;
pub(crate) mod rival;
mod setting;
mod shares;
mod split;
mod turns;
mod work;

use harness::case::Case;

pub use claims::CLAIMS;
pub use decode_claims::CLAIMS as DECODE_CLAIMS;
pub use fp8_claims::CLAIMS as FP8_CLAIMS;
pub use long_claims::CLAIMS as LONG_CLAIMS;
pub use planted::planted;

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[
    &oracle::CASE,
    &basis::CASE,
    &basis_fp8::CASE,
    &basis_fp8::OWN_CASE,
    &drift::CASE,
    &fp8::CASE,
    &drift_fp8::CASE,
    &pipeline::CASE,
    &every::CASE,
    &turns::CASE,
    &decode::CASE,
    &rates::CASE,
    &rates::MORE_CASE,
    &overlap::CASE,
    &overlap_more::CASE,
    &ordinary::CASE,
    &rival::CASE,
    &split::CASE,
    &long::CASE,
    &longer::CASE,
    &longer::CACHE,
    &longer::LONGER_CACHE,
    &longer::LONGEST,
    &planted::CASE,
    &hangs::CASE,
    &hangs::SMART_CASE,
];
