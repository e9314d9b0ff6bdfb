//! Refuses matrices that hold what is no finite number, with the place of the first.

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::{Element, with_elements};
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// The search.
pub const SOURCE: KernelSource = KernelSource {
    name: "finite",
    source: with_elements!("finite.cu"),
    entries: &["finite_first"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;
const BLOCKS_PER_SM: u32 = 8;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FiniteParams {
    data: u64,
    first: u64,
    elements: u64,
    element: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<FiniteParams>() == 32);
// SAFETY: repr(C) without padding, equal to the struct in finite.cu.
unsafe impl KernelParams for FiniteParams {}

/// The entry of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Finite {
    first: Function,
    result: Buffer,
    blocks: u32,
}

impl Finite {
    /// Finds the entry.
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Finite> {
        let first = module.entry("finite_first")?;
        Ok(Finite { first, result: gpu.alloc(8)?, blocks: gpu.sm_count * BLOCKS_PER_SM })
    }

    /// The place of the first element of `[rows][columns]` that is an infinity or a NaN; waits.
    ///
    /// Errors: integers, a buffer that is too small or of another GPU.
    pub fn first(
        &self,
        stream: &CudaStream,
        matrix: &Buffer,
        element: Element,
        (rows, columns): (u64, u32),
    ) -> Result<Option<(u64, u32)>> {
        if matches!(element, Element::Int8 | Element::Int32) {
            return Err(Error::Shape { what: format!("{element:?} has finite numbers only") });
        }
        let elements = rows * u64::from(columns);
        inside("matrix", 0, element.bytes() * elements, matrix.len_bytes())?;
        stream.same_context(matrix.context())?;
        self.result.poison(stream)?;
        let params = FiniteParams {
            data: matrix.ptr(),
            first: self.result.ptr(),
            elements,
            element: element.code(),
            reserved: 0,
        };
        // SAFETY: the elements and the word lie inside their buffers.
        unsafe { self.first.launch(stream, Grid::linear(self.blocks, THREADS), &params)? };
        let place = self.result.read_vec::<u64>(stream, 1)?[0];
        let columns = u64::from(columns);
        Ok((place != u64::MAX).then(|| (place / columns, (place % columns) as u32)))
    }

    /// Refuses a matrix that is not finite, by its name; waits.
    ///
    /// Errors: [`Error::NotFinite`] with the first such element, and those of [`Finite::first`].
    pub fn refuse(
        &self,
        stream: &CudaStream,
        tensor: &str,
        matrix: &Buffer,
        element: Element,
        sizes: (u64, u32),
    ) -> Result<()> {
        match self.first(stream, matrix, element, sizes)? {
            Some((row, column)) => {
                Err(Error::NotFinite { tensor: tensor.to_string(), row, column })
            }
            None => Ok(()),
        }
    }
}
