//! fp16 matrices to ternary numbers of 2 bits, by their mean magnitude: the quantiser of BitNet b1.58 (arXiv 2402.17764,
//! equations 1 to 3), `gamma = mean |w|`, `code = clip(round(w / (gamma + epsilon)), -1, 1)`.
//!
//! Pinned, number by number: magnitudes are added up as integers of 2^-24, of which every finite half is one, so that the
//! order does not matter. The sum goes to f64 as `low + high * 2^32`, is divided by `2^24 n` and rounded to f32:
//! `gamma`, which is the scale. `factor = 1 / (gamma + 1e-5)` and `w * factor` are rounded to f32 operation by operation,
//! and the code is the integer next to that, of two the even one, within -1 to 1. Codes lie as
//! [`Integer::Int2`](crate::integers::Integer) packs them.
//!
//! A matrix with a NaN or an infinity has NaN as its scale, and every code is the fourth, which stands for nothing.

use half::f16;

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::with_elements;
use crate::integers::Integer;
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// The sum and the codes.
pub const SOURCE: KernelSource = KernelSource {
    name: "ternary",
    source: with_elements!("ternary.cu"),
    entries: &["ternary_sum", "ternary_encode"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// What is added to the mean before it divides.
const EPSILON: f32 = 1e-5;
/// The code that stands for nothing.
const NOTHING: u32 = 2;

const THREADS: u32 = 256;
const BLOCKS_PER_SM: u32 = 8;
/// Elements of a vector, and vectors that a thread takes.
const VECTOR: u64 = 8;
const EACH: u64 = 4;
/// Most elements of a block's sum: 2^22 of less than 2^40 each stay below 2^64.
const BLOCK_ELEMENTS: u64 = 1 << 22;
/// Most elements of a matrix: each word of the sum stays below 2^53.
const MOST_ELEMENTS: u64 = 1 << 40;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct TernaryParams {
    source: u64,
    target: u64,
    scale: u64,
    sums: u64,
    vectors: u64,
    elements: u64,
    truncate: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<TernaryParams>() == 56);
// SAFETY: repr(C) without padding, equal to the struct in ternary.cu.
unsafe impl KernelParams for TernaryParams {}

/// The oracle: codes of a matrix and its scale.
pub fn quantise(source: &[f16]) -> (Vec<u32>, f32) {
    let gamma = scale_of(source);
    (codes(source, gamma), gamma)
}

/// The oracle: codes of numbers of a matrix of this scale.
pub fn codes(source: &[f16], gamma: f32) -> Vec<u32> {
    if gamma.is_nan() {
        return vec![NOTHING; source.len()];
    }
    let factor = 1.0 / (gamma + EPSILON);
    source.iter().map(|x| Integer::Int2.encode(x.to_f32() * factor)).collect()
}

/// The oracle: the mean magnitude, NaN where an element is not finite.
pub fn scale_of(source: &[f16]) -> f32 {
    if !source.iter().all(|x| x.is_finite()) {
        return f32::NAN;
    }
    let sum: u128 = source.iter().map(|x| (x.to_f64().abs() * 2f64.powi(24)) as u128).sum();
    mean(sum, source.len() as u64)
}

/// The mean of so many elements whose sum is this many 2^-24.
pub fn mean(sum: u128, elements: u64) -> f32 {
    (sum as f64 / (elements as f64 * 2f64.powi(24))) as f32
}

/// A quantised matrix.
#[derive(Debug)]
pub struct Quantised {
    /// Codes, sixteen in a word.
    pub codes: Buffer,
    /// f32, one.
    pub scale: Buffer,
    /// Of magnitudes, see ternary.cu.
    pub(crate) sums: Buffer,
    elements: u64,
}

impl Quantised {
    /// Memory for a matrix of so many elements.
    ///
    /// Errors: [`Error::Shape`] of none, of elements that do not fill words of codes, of more than 2^40.
    pub fn new(gpu: &Gpu, elements: u64) -> Result<Quantised> {
        if elements == 0 || !elements.is_multiple_of(16) || elements > MOST_ELEMENTS {
            let what = format!("{elements} ternary numbers, which come in 16s");
            return Err(Error::Shape { what });
        }
        Ok(Quantised {
            codes: gpu.alloc(elements / 4)?,
            scale: gpu.alloc(4)?,
            sums: gpu.alloc(24)?,
            elements,
        })
    }

    /// Fewest bytes that must move: the halves twice, since all of them make the scale of each, and the codes.
    pub fn moved_bytes(&self) -> u64 {
        4 * self.elements + self.elements / 4
    }
}

/// The entries of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Ternary {
    sum: Function,
    encode: Function,
    resident_blocks: u64,
}

impl Ternary {
    /// Finds the entries.
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Ternary> {
        Ok(Ternary {
            sum: module.entry("ternary_sum")?,
            encode: module.entry("ternary_encode")?,
            resident_blocks: (gpu.sm_count * BLOCKS_PER_SM).into(),
        })
    }

    /// Enqueues codes and scale of an fp16 matrix.
    ///
    /// Errors: a buffer that is too small or of another GPU.
    pub fn run(&self, stream: &CudaStream, source: &Buffer, target: &Quantised) -> Result<()> {
        self.sum(stream, source, target, target.elements)?;
        self.encode(stream, source, target, false)
    }

    /// Enqueues the sum alone, of the first `elements`, in whole vectors: fewer than all are a planted fault.
    ///
    /// Errors: as [`Ternary::run`].
    pub fn sum(
        &self,
        stream: &CudaStream,
        source: &Buffer,
        target: &Quantised,
        elements: u64,
    ) -> Result<()> {
        let params = self.params(stream, source, target)?;
        let vectors = elements.min(target.elements) / VECTOR;
        let fit = vectors.div_ceil(u64::from(THREADS) * EACH).clamp(1, self.resident_blocks);
        let blocks = fit.max(elements.div_ceil(BLOCK_ELEMENTS));
        target.sums.fill_u32(stream, 0)?;
        let params = TernaryParams { vectors, ..params };
        // SAFETY: the matrix and the sums lie inside their buffers, as `params` checked.
        unsafe { self.sum.launch(stream, Grid::linear(blocks as u32, THREADS), &params) }
    }

    /// Enqueues the codes alone, by the sum that stands there.
    ///
    /// Errors: as [`Ternary::run`].
    pub fn encode(
        &self,
        stream: &CudaStream,
        source: &Buffer,
        target: &Quantised,
        truncate: bool,
    ) -> Result<()> {
        let params = self.params(stream, source, target)?;
        let blocks = params.vectors.div_ceil(u64::from(THREADS) * EACH);
        let blocks = u32::try_from(blocks)
            .map_err(|_| Error::Shape { what: format!("{} ternary numbers", target.elements) })?;
        let params = TernaryParams { truncate: truncate.into(), ..params };
        // SAFETY: the matrix, codes and scale lie inside their buffers, as `params` checked.
        unsafe { self.encode.launch(stream, Grid::linear(blocks, THREADS), &params) }
    }

    fn params(
        &self,
        stream: &CudaStream,
        source: &Buffer,
        target: &Quantised,
    ) -> Result<TernaryParams> {
        inside("numbers", 0, 2 * target.elements, source.len_bytes())?;
        for buffer in [source, &target.codes] {
            stream.same_context(buffer.context())?;
        }
        Ok(TernaryParams {
            source: source.ptr(),
            target: target.codes.ptr(),
            scale: target.scale.ptr(),
            sums: target.sums.ptr(),
            vectors: target.elements / VECTOR,
            elements: target.elements,
            truncate: 0,
            reserved: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<f16> {
        values.iter().map(|&x| f16::from_f32(x)).collect()
    }

    #[test]
    fn ternary_by_hand() {
        // The mean magnitude is 1: 0.5 is a little less than half of 1.00001, 0.51 more, and 2 is beyond the end.
        let (codes, scale) = quantise(&halves(&[0.5, -2.0, 0.0, 1.5]));
        assert_eq!((codes, scale), (vec![0, 3, 0, 1], 1.0));
        let (codes, scale) = quantise(&halves(&[0.0; 4]));
        assert_eq!((codes, scale), (vec![0; 4], 0.0));
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (codes, scale) = quantise(&halves(&[1.0, wrong]));
            assert_eq!(codes, [NOTHING; 2]);
            assert!(scale.is_nan());
        }
    }

    #[test]
    fn sums_beyond_64_bits() {
        let most = f16::MAX.to_f64() * 2f64.powi(24);
        assert_eq!(mean(most as u128 * (1 << 28), 1 << 28), 65504.0);
    }

    /// The arithmetic of `Sum` in ternary.cu, of every half and of the most that one of its sums holds.
    #[test]
    fn magnitudes_are_sums_of_two_exact_parts() {
        const MAGIC: f32 = 8_388_608.0;
        let parts = |x: f32| {
            let shifted = x.mul_add(128.0, MAGIC);
            (shifted.to_bits() - MAGIC.to_bits(), x.mul_add(128.0, -(shifted - MAGIC)))
        };
        let units = |whole: u32, rest: f32| {
            (u64::from(whole) << 17)
                .wrapping_add((rest * 131_072.0).round_ties_even() as i64 as u64)
        };
        for x in (0..0x7C00).map(f16::from_bits) {
            let (whole, rest) = parts(x.to_f32());
            assert!(whole < 1 << 23 && rest.abs() <= 0.5, "{x}");
            let exact = (x.to_f64() * 2f64.powi(24)) as u64;
            assert_eq!(units(whole, rest), exact, "{x}");
            let all = (0..32).fold((0u32, 0f32), |sum, _| (sum.0 + whole, sum.1 + rest));
            assert_eq!(units(all.0, all.1), 32 * exact, "32 times {x}");
        }
        for x in [f32::INFINITY, f32::NAN] {
            assert!(x.mul_add(128.0, -(x.mul_add(128.0, MAGIC) - MAGIC)).is_nan());
        }
    }
}
