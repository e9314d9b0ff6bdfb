//! The device layer of Touchstone: CUDA kernels with their oracles, NVRTC, cuBLASLt and NVML.
//!
//! Invariants:
//! - No library of the CUDA stack is linked. Each is asked for with [`libraries::present`] before
//!   its first call, because cudarc panics where a library is missing.
//! - This crate knows no claim, bound, golden, evidence or report.
//! - Memory is plain `cuMemAlloc` memory: pool memory is not reachable by peers.
//! - Nothing here changes a clock, a power limit, a mode or MIG, and nothing touches NVLink
//!   multicast.
//! - The CUDA sources include no header of the toolkit, so NVRTC alone is enough to build them.

pub mod device;
pub mod error;
pub mod jit;
pub mod libraries;
mod memory;
mod module;
pub mod nvml;
mod tensor_map;
pub mod timing;

pub mod allreduce;
pub mod attention;
pub mod auto;
pub mod bulk;
pub mod dequantise;
pub mod dequantise_rows;
pub mod element;
pub mod fault;
pub mod finite;
pub mod flight;
pub mod formats;
pub mod generator;
pub mod graph;
pub mod hostlink;
pub mod integers;
pub mod known;
pub mod language;
pub mod links;
mod lt;
pub mod matmul;
pub mod microscaled;
pub mod model;
pub mod nccl;
pub mod operands;
pub mod pattern;
pub mod peer;
pub mod product;
pub mod promoted;
pub mod quantise;
pub mod reduction;
pub mod stream;
pub mod tensorcore;
pub mod ternary;
pub mod together;
pub mod variant;
pub mod weightonly;

pub use error::{Error, Result};

/// One CUDA source file of this crate and what is known of it before it is compiled.
///
/// A new kernel is one `.cu`, one `.rs` and one line in [`KERNELS`].
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    /// File stem, for example `stream`.
    pub name: &'static str,
    /// The whole CUDA C++ source, embedded at build.
    pub source: &'static str,
    /// `extern "C"` entry points, in the order of the file.
    pub entries: &'static [&'static str],
    /// Architectures on which it must compile, among [`jit::ARCHITECTURES`].
    pub architectures: &'static [&'static str],
    /// A spilled register in any entry fails the compile gate.
    pub spill_free: bool,
}

/// Architectures of kernels that need nothing newer than sm_80.
const SINCE_SM80: &[&str] = &["sm_80", "sm_90a", "sm_100a", "sm_120a"];

/// Architectures with the bulk copy engine.
const SINCE_SM90: &[&str] = &["sm_90a", "sm_100a", "sm_120a"];

/// Every kernel of the crate. The list on disk (`kernels/src/*.cu`) must equal it: a test.
pub const KERNELS: &[&KernelSource] = &[
    &allreduce::SOURCE,
    &attention::quantise::SOURCE,
    &bulk::SOURCE,
    &model::cache::SOURCE,
    &dequantise::SOURCE,
    &dequantise_rows::SOURCE,
    &fault::SOURCE,
    &finite::SOURCE,
    &formats::SOURCE,
    &integers::SOURCE,
    &language::SOURCE,
    &links::SOURCE,
    &model::SOURCE,
    &model::SOURCE_BF16,
    &operands::SOURCE,
    &pattern::SOURCE,
    &product::SOURCE,
    &promoted::SOURCE,
    &promoted::SOURCE_PLANTED,
    &quantise::SOURCE,
    &reduction::SOURCE,
    &stream::SOURCE,
    &ternary::SOURCE,
    &timing::SOURCE,
    &weightonly::SOURCE,
];

/// Every source that the compile gate builds and `cubins.lock` records: [`KERNELS`], and the kernels
/// that are made with a program ([`attention::variant::locked`]).
pub fn sources() -> Vec<&'static KernelSource> {
    let variants = attention::variant::locked();
    let made = variants.iter().map(|variant| variant.source().expect("a unit test makes them all"));
    KERNELS.iter().copied().chain(made).collect()
}
