//! What a board must have for products of E4M3: tensor cores that multiply it, and those of the own kernel.

use harness::record::Stop;
use kernels::KernelSource;
use kernels::device::{Gpu, Module};
use kernels::promoted::{self, Promoted};

/// The first compute capability whose tensor cores multiply E4M3.
const FIRST: (u32, u32) = (8, 9);

/// Whether the tensor cores multiply E4M3.
///
/// Errors: not applicable before 8.9.
pub fn has_e4m3(gpu: &Gpu) -> Result<(), Stop> {
    match gpu.compute_capability {
        (major, minor) if (major, minor) < FIRST => Err(Stop::NotApplicable(format!(
            "tensor cores of compute capability {major}.{minor} multiply no E4M3: 8.9 is the first"
        ))),
        _ => Ok(()),
    }
}

/// Own products of E4M3.
///
/// Errors: not applicable without sm_90.
pub fn promoted(
    gpu: &Gpu,
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<Promoted, Stop> {
    match gpu.compute_capability {
        (9, 0) => Ok(Promoted::new(gpu, &load(&promoted::SOURCE)?)?),
        (major, minor) => Err(Stop::NotApplicable(format!(
            "own products of E4M3 are for compute capability 9.0, this is {major}.{minor}"
        ))),
    }
}
