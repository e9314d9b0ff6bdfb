//! Tensor maps: how the copy engine of sm_90 and later finds a box of a tensor in memory.

use cudarc::driver::sys;

use crate::device::Buffer;
use crate::memory::inside;
use crate::{Error, Result};

/// A tensor map as a kernel takes it, by value.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorMap([u64; 16]);

impl TensorMap {
    /// No map, for kernels that do not use the copy engine.
    pub(crate) const NONE: TensorMap = TensorMap([0; 16]);

    /// A map of elements of one or two bytes with four dimensions, innermost first, read or stored in boxes with
    /// 128-byte swizzle; what lies outside is read as zero.
    ///
    /// `offset` is where the tensor begins, `dimensions` its sizes and `steps` the distances of the
    /// outer three, in elements. `rows` is the height of a box; its width is 128 bytes.
    ///
    /// Errors: [`Error::Shape`] where an address or a step is not a multiple of 16 bytes or the tensor
    /// is larger than its buffer, [`Error::Driver`] where the driver refuses it.
    pub(crate) fn new(
        what: &str,
        buffer: &Buffer,
        element_bytes: u64,
        offset: u64,
        dimensions: [u64; 4],
        steps: [u64; 3],
        rows: u32,
    ) -> Result<TensorMap> {
        let refused = |why: String| Error::Shape { what: format!("{what}: {why}") };
        if dimensions.contains(&0) {
            return Err(refused(format!("a tensor of {dimensions:?}")));
        }
        let address = buffer.ptr() + element_bytes * offset;
        // A step over a dimension of 1 is never taken, but the driver wants a legal one: no less than
        // what lies inside of it.
        let least = dimensions[0].next_multiple_of(16 / element_bytes);
        let legal = |i: usize| if dimensions[i + 1] == 1 { steps[i].max(least) } else { steps[i] };
        let bytes: [u64; 3] = std::array::from_fn(|i| element_bytes * legal(i));
        if !address.is_multiple_of(16) || bytes.iter().any(|step| !step.is_multiple_of(16)) {
            return Err(refused(format!("address or steps {steps:?} are not whole 16 bytes")));
        }
        let last = (0..3).try_fold(dimensions[0], |last, i| {
            (dimensions[i + 1] - 1).checked_mul(steps[i]).and_then(|over| last.checked_add(over))
        });
        let last = last.ok_or_else(|| refused(format!("a tensor of {dimensions:?}")))?;
        inside(what, element_bytes * offset, element_bytes * last, buffer.len_bytes())?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (box_dimensions, element_steps) = ([128 / element_bytes as u32, rows, 1, 1], [1; 4]);
        let element = if element_bytes == 1 {
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8
        } else {
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16
        };
        buffer.context().bind()?;
        // SAFETY: all arrays have the length that rank 4 asks for, and the driver only writes `map`.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                element,
                4,
                address as *mut _,
                dimensions.as_ptr(),
                bytes.as_ptr(),
                box_dimensions.as_ptr(),
                element_steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        crate::device::checked("cuTensorMapEncodeTiled", status.result())?;
        Ok(TensorMap(map.opaque))
    }
}
