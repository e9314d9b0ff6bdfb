//! Faults on purpose, for the self-test of the runner: kernels, which armed raise Xids, and calls planted in the host's
//! own work. Never in a default run.

use std::sync::OnceLock;

use crate::device::{Buffer, Gpu, Grid, KernelParams, Module};
use crate::generator::with_generator;
use crate::{Error, KernelSource, Result};

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

/// What is planted in searches of algorithms.
static IN_SEARCH: OnceLock<fn()> = OnceLock::new();

/// Plants a call in every later search of algorithms of this process, behind each candidate that it enqueues for the
/// first time.
///
/// Errors: [`Error::Shape`] where one is planted already.
pub fn plant_in_search(call: fn()) -> Result<()> {
    IN_SEARCH
        .set(call)
        .map_err(|_| Error::Shape { what: "a second call planted in searches".into() })
}

/// Calls what is planted there.
pub(crate) fn in_search() {
    if let Some(call) = IN_SEARCH.get() {
        call();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static CALLS: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn what_is_planted_in_searches_is_called() {
        in_search();
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
        let count: fn() = || {
            CALLS.fetch_add(1, Ordering::Relaxed);
        };
        plant_in_search(count).expect("the first");
        assert!(plant_in_search(count).is_err());
        in_search();
        assert!(CALLS.load(Ordering::Relaxed) >= 1);
    }
}
