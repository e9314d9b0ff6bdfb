//! Matrices in E4M3 with a scale for each row to halves, for products that have no codes for an operand: weight-only
//! products of many tokens.
//!
//! A half has 11 bits and a code 4, so that what a scale adds is rounded by 2^-11 of a number at most, where E4M3 itself
//! rounds by 2^-4.

use crate::device::{Buffer, CudaStream, Function, Grid, KernelParams, Module};
use crate::element::Element;
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// The kernel.
pub const SOURCE: KernelSource = KernelSource {
    name: "dequantise_rows",
    source: concat!(
        include_str!("generator.cuh"),
        include_str!("element.cuh"),
        include_str!("dequantise_rows.cu")
    ),
    entries: &["dequantise_rows"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;
/// Numbers of a thread.
const EACH: u64 = 16;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct DequantiseRowsParams {
    codes: u64,
    scales: u64,
    out: u64,
    rows: u64,
    columns: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<DequantiseRowsParams>() == 40);
// SAFETY: repr(C) without padding, equal to the struct in dequantise_rows.cu.
unsafe impl KernelParams for DequantiseRowsParams {}

/// The entry of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct RowDequantiser {
    rows: Function,
}

impl RowDequantiser {
    /// Finds the entry.
    pub fn new(module: &Module) -> Result<RowDequantiser> {
        Ok(RowDequantiser { rows: module.entry("dequantise_rows")? })
    }

    /// Enqueues the halves of codes of E4M3 `[rows][columns]` with f32 `scales[rows]`, by [`half_of`].
    ///
    /// Errors: no rows, columns that are no multiple of 128, a buffer that is too small or of another GPU.
    pub fn run(
        &self,
        stream: &CudaStream,
        (codes, scales): (&Buffer, &Buffer),
        (rows, columns): (u64, u32),
        out: &Buffer,
    ) -> Result<()> {
        if rows == 0 || rows > 1 << 24 || columns == 0 || !columns.is_multiple_of(128) {
            let what = format!("codes of {rows} x {columns} to halves: columns come in 128s");
            return Err(Error::Shape { what });
        }
        let elements = rows * u64::from(columns);
        inside("codes", 0, elements, codes.len_bytes())?;
        inside("scales", 0, 4 * rows, scales.len_bytes())?;
        inside("halves", 0, 2 * elements, out.len_bytes())?;
        for buffer in [codes, scales, out] {
            stream.same_context(buffer.context())?;
        }
        let blocks = (elements / EACH).div_ceil(THREADS.into());
        let blocks = u32::try_from(blocks)
            .map_err(|_| Error::Shape { what: format!("{blocks} blocks of codes") })?;
        let params = DequantiseRowsParams {
            codes: codes.ptr(),
            scales: scales.ptr(),
            out: out.ptr(),
            rows,
            columns,
            reserved: 0,
        };
        // SAFETY: codes, scales and halves lie inside their buffers, as checked.
        unsafe { self.rows.launch(stream, Grid::linear(blocks, THREADS), &params) }
    }
}

/// The half of a code of E4M3 with this scale: the product in f32, rounded to a half.
pub fn half_of(code: u8, scale: f32) -> u16 {
    Element::F16.encode(Element::E4m3.decode(code.into()) as f32 * scale) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u8, scale: f32, expect: u16) {
        assert_eq!(half_of(code, scale), expect, "{code:#04x} {scale}");
    }

    #[test]
    fn halves_by_hand() {
        // 1, -1 and 448; the least number is 2^-9, of which a half has more bits than it needs.
        check(0x38, 1.0, 0x3C00);
        check(0xB8, 0.5, 0xB800);
        check(0x7E, 0.125, 0x5300);
        check(0x01, 1.0, 0x1800);
        // 1 + 2^-11 lies between two halves, of which 1 is the even one; 1.5 of them does not.
        check(0x38, 1.0 + 2f32.powi(-11), 0x3C00);
        check(0x38, 1.0 + 1.5 * 2f32.powi(-11), 0x3C01);
        check(0x00, 3.0, 0x0000);
    }
}
