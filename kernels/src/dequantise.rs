//! Microscaled matrices to the 16 bits that hold every number of theirs, so that a chip without tensor cores
//! for them multiplies the very numbers.
//!
//! NVFP4 without its factor of the whole is a code of E2M1 (2 bits) times one of E4M3 (4 bits): at most 6 bits,
//! from 2^-10 to 2688, which fp16 holds. MXFP8 and MXFP4 are a code times a power of two: at most 4 bits, which
//! bfloat16 holds wherever the scale is one that halves can give, 2^-34 to 2^14. The tests go through all.

use crate::device::{Buffer, CudaStream, Function, Grid, KernelParams, Module};
use crate::element::Element;
use crate::formats::Format;
use crate::memory::inside;
use crate::quantise::{Quantised, Scheme, oracle};
use crate::{Error, KernelSource, Result};

/// The kernels.
pub const SOURCE: KernelSource = KernelSource {
    name: "dequantise",
    source: concat!(
        include_str!("generator.cuh"),
        include_str!("element.cuh"),
        include_str!("small_float.cuh"),
        include_str!("dequantise.cu")
    ),
    entries: &["dequantise_nvfp4", "dequantise_mxfp8", "dequantise_mxfp4"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct DequantiseParams {
    codes: u64,
    scales: u64,
    out: u64,
    rows: u64,
    columns: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<DequantiseParams>() == 40);
// SAFETY: repr(C) without padding, equal to the struct in dequantise.cu.
unsafe impl KernelParams for DequantiseParams {}

/// The entries of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Dequantiser {
    nvfp4: Function,
    mxfp8: Function,
    mxfp4: Function,
}

/// The type that holds every number of a scheme; `None` for schemes that are not microscaled.
pub fn holds(scheme: Scheme) -> Option<Element> {
    match scheme {
        Scheme::Nvfp4 => Some(Element::F16),
        Scheme::Mxfp8 | Scheme::Mxfp4 => Some(Element::Bf16),
        _ => None,
    }
}

impl Dequantiser {
    /// Finds the entries.
    pub fn new(module: &Module) -> Result<Dequantiser> {
        Ok(Dequantiser {
            nvfp4: module.entry("dequantise_nvfp4")?,
            mxfp8: module.entry("dequantise_mxfp8")?,
            mxfp4: module.entry("dequantise_mxfp4")?,
        })
    }

    /// Enqueues the numbers of a microscaled matrix `[rows][columns]`, in the type of [`holds`].
    ///
    /// Errors: another scheme, no rows, columns that are no multiple of 128, a buffer that is too small or of
    /// another GPU.
    pub fn run(
        &self,
        stream: &CudaStream,
        scheme: Scheme,
        source: &Quantised,
        (rows, columns): (u64, u32),
        out: &Buffer,
    ) -> Result<()> {
        let function = match scheme {
            Scheme::Nvfp4 => &self.nvfp4,
            Scheme::Mxfp8 => &self.mxfp8,
            Scheme::Mxfp4 => &self.mxfp4,
            _ => {
                let what = format!("{} has no scales of blocks in bytes", scheme.name());
                return Err(Error::Shape { what });
            }
        };
        if rows == 0 || rows > 1 << 24 || columns == 0 || !columns.is_multiple_of(128) {
            let what = format!("{}: {rows} x {columns}, columns come in 128s", scheme.name());
            return Err(Error::Shape { what });
        }
        let elements = rows * u64::from(columns);
        inside("codes", 0, scheme.code_bytes(rows, columns), source.codes.len_bytes())?;
        inside("scales", 0, scheme.scale_bytes(rows, columns), source.scales.len_bytes())?;
        inside("numbers", 0, 2 * elements, out.len_bytes())?;
        for buffer in [&source.codes, &source.scales, out] {
            stream.same_context(buffer.context())?;
        }
        let params = DequantiseParams {
            codes: source.codes.ptr(),
            scales: source.scales.ptr(),
            out: out.ptr(),
            rows,
            columns,
            reserved: 0,
        };
        let grid = Grid::linear((elements / 8).div_ceil(THREADS.into()) as u32, THREADS);
        // SAFETY: codes, scales and numbers lie inside their buffers, as checked.
        unsafe { function.launch(stream, grid, &params) }
    }
}

/// The numbers of codes (one each) and scales without NVFP4's factor, [rows][columns], in f64.
pub fn numbers(scheme: Scheme, codes: &[u8], scales: &[u8], columns: usize) -> Vec<f64> {
    let code = if scheme.code_bits() == 4 { Format::E2m1 } else { Format::E4m3 };
    let scale = if scheme == Scheme::Nvfp4 { Format::E4m3 } else { Format::Ue8m0 };
    let group = scheme.micro_columns().map_or(columns, |columns| columns as usize);
    let number = |(at, byte): (usize, &u8)| {
        let place = oracle::place_of_scale(at / columns, at % columns / group, columns / group);
        code.decode((*byte).into()) * scale.decode(scales[place].into())
    };
    codes.iter().enumerate().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code times every scale survives 16 bits.
    #[track_caller]
    fn check(scheme: Scheme, scales: std::ops::RangeInclusive<u32>) {
        let element = holds(scheme).unwrap();
        let code = if scheme.code_bits() == 4 { Format::E2m1 } else { Format::E4m3 };
        let scale = if scheme == Scheme::Nvfp4 { Format::E4m3 } else { Format::Ue8m0 };
        for (code, scale) in (0..code.codes())
            .map(|c| code.decode(c))
            .filter(|x| x.is_finite())
            .flat_map(|x| scales.clone().map(move |s| (x, scale.decode(s))))
        {
            let number = code * scale;
            assert_eq!(element.decode(element.encode(number as f32)), number, "{scheme:?}");
        }
    }

    #[test]
    fn sixteen_bits_hold_every_number() {
        check(Scheme::Nvfp4, 0..=0x7E);
        // The scales of 2^-24 and of 65504, and all between.
        check(Scheme::Mxfp8, 127 - 32..=127 + 8);
        check(Scheme::Mxfp4, 127 - 26..=127 + 14);
    }

    #[test]
    fn halves_give_no_other_scales() {
        let ends = [half::f16::from_bits(1), half::f16::MAX];
        for (scheme, wanted) in
            [(Scheme::Mxfp8, [127 - 32, 127 + 8]), (Scheme::Mxfp4, [127 - 26, 127 + 14])]
        {
            for (end, wanted) in ends.into_iter().zip(wanted) {
                let found = oracle::quantise(scheme, &[end; 128], 128, 0.0).scales[0];
                assert_eq!(found, wanted, "{scheme:?} of {end}");
            }
        }
    }
}
