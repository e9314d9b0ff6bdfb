//! Faults on purpose, for the self-test of the runner. Armed they raise Xids: never in a default
//! run.

use crate::device::{Buffer, Gpu, Grid, KernelParams, Module};
use crate::generator::with_generator;
use crate::{KernelSource, Result};

/// The faulty kernels.
pub const SOURCE: KernelSource = KernelSource {
    name: "fault",
    source: with_generator!("fault.cu"),
    entries: &["fault_illegal_address", "fault_endless", "fault_past_end"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// What an unarmed fault writes; the same constant stands in fault.cu.
pub const UNARMED: u32 = 0xFA017;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FaultParams {
    data: u64,
    address: u64,
    words: u32,
    armed: u32,
}
const _: () = assert!(size_of::<FaultParams>() == 24);
// SAFETY: repr(C) without padding, equal to the struct in fault.cu.
unsafe impl KernelParams for FaultParams {}

/// The three faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Writes to an address where nothing is mapped; raises Xid 31.
    IllegalAddress,
    /// Never ends.
    Endless,
    /// Writes one word behind its buffer.
    PastEnd,
}

impl Fault {
    fn entry(self) -> &'static str {
        match self {
            Fault::IllegalAddress => "fault_illegal_address",
            Fault::Endless => "fault_endless",
            Fault::PastEnd => "fault_past_end",
        }
    }
}

/// Enqueues the fault over a buffer. Unarmed, it writes [`UNARMED`] to the first word.
pub fn launch(
    gpu: &Gpu,
    module: &Module,
    fault: Fault,
    buffer: &Buffer,
    armed: bool,
) -> Result<()> {
    let params = FaultParams {
        data: buffer.ptr(),
        // The first page is never mapped.
        address: 16,
        words: (buffer.len_bytes() / 4) as u32,
        armed: u32::from(armed),
    };
    let function = module.entry(fault.entry())?;
    // SAFETY: unarmed it stays inside the buffer; armed it is meant to break this process's context.
    unsafe { function.launch(gpu.stream(), Grid::linear(1, 32), &params) }
}
