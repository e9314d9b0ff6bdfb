//! Checks of matrix products `D[m, n] = scale_a[m] scale_b[n] alpha A[m, k] B[n, k]^T`, all
//! matrices row-major.
//!
//! [`Checker::freivalds`] covers every element of an integer-valued product: with a vector x of odd
//! numbers, `D x` must equal `A (B^T x)` in wrapping 64-bit integers (R. Freivalds, 1977). Odd
//! numbers are invertible modulo 2^64, so one wrong element of a row cannot hide; several in a row
//! hide only if they cancel against numbers drawn from the run's seed.
//!
//! [`Checker::sample`] compares drawn elements of a product of random data with the f64 product of
//! the operands as they lie in memory, and derives a bound for each from the accumulation
//! ([`Accumulation`]) and the output type ([`bound`]).

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::{Element, with_elements};
use crate::generator::draw;
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// The checks.
pub const SOURCE: KernelSource = KernelSource {
    name: "product",
    source: with_elements!("product.cu"),
    entries: &["product_fold", "product_rows", "product_sample"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Rows of B that one block of the fold sums up.
const FOLD_ROWS: u32 = 64;

/// Products of one chunk of a sample.
const CHUNK: u32 = 32;

/// Standard deviations allowed to a sum of truncation errors of random sign.
const LAMBDA: f64 = 8.0;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ProductParams {
    a: u64,
    b: u64,
    d: u64,
    fold: u64,
    scale_a: u64,
    scale_b: u64,
    result: u64,
    samples: u64,
    seed: u64,
    m: u32,
    n: u32,
    k: u32,
    in_type: u32,
    out_type: u32,
    scale_a_step: u32,
    scale_b_step: u32,
    fold_rows: u32,
    sample_count: u32,
    promote: u32,
    alpha: f32,
    reserved: u32,
}
const _: () = assert!(size_of::<ProductParams>() == 120);
// SAFETY: repr(C) without padding, equal to the struct in product.cu.
unsafe impl KernelParams for ProductParams {}

/// Scales of an operand, f32.
#[derive(Debug, Clone, Copy)]
pub enum Scale<'a> {
    /// None: 1.
    Unit,
    /// One number for the whole matrix.
    Tensor(&'a Buffer),
    /// One number for each row of A, or each row of B.
    Rows(&'a Buffer),
}

impl Scale<'_> {
    /// Address (0 for none) and step from row to row, checked for `rows` rows.
    fn checked(&self, rows: u32) -> Result<(u64, u32)> {
        match self {
            Scale::Unit => Ok((0, 0)),
            Scale::Tensor(buffer) => {
                inside("scale", 0, 4, buffer.len_bytes())?;
                Ok((buffer.ptr(), 0))
            }
            Scale::Rows(buffer) => {
                inside("scales", 0, 4 * u64::from(rows), buffer.len_bytes())?;
                Ok((buffer.ptr(), 1))
            }
        }
    }
}

/// A finished product and its operands.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// A, m x k.
    pub a: &'a Buffer,
    /// B, n x k.
    pub b: &'a Buffer,
    /// D, m x n.
    pub d: &'a Buffer,
    /// Rows of A and D.
    pub m: u32,
    /// Rows of B, columns of D.
    pub n: u32,
    /// Columns of A and B.
    pub k: u32,
    /// Type of A and B.
    pub input: Element,
    /// Type of D.
    pub output: Element,
    /// Scales of A.
    pub scale_a: Scale<'a>,
    /// Scales of B.
    pub scale_b: Scale<'a>,
    /// Factor of the whole product.
    pub alpha: f32,
}

/// What Freivalds' check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongRows {
    /// Rows of D that hold a wrong element.
    pub rows: u64,
    /// The first of them.
    pub first_row: Option<u64>,
    /// Elements of D that are no integer after their scales are divided out, NaN among them.
    pub not_integral: u64,
}

/// How an instruction accumulates, for the bound of an error.
///
/// Sources: the tensor-core models of arXiv 2511.10909 (MMA-Sim). Within an instruction all terms
/// and the accumulator are aligned to the largest exponent and truncated to F bits, summed, and
/// truncated to f bits. Hopper has F = 25, f = 23 for 16-bit and tf32 inputs, Ampere F = 24; 23 is
/// taken for both, which covers all of them. FP8 on Hopper has F = f = 13 and, without fast
/// accumulation, adds its accumulator to an f32 sum every 128 products (DeepSeek-V3, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accumulation {
    /// Products of one instruction along k: 16 for 16-bit types, 8 for tf32, 32 for 8-bit types.
    pub step: u32,
    /// Bits that truncation keeps.
    pub fraction_bits: i32,
    /// Products after which the sum moves to an f32, a multiple of 32; 0 for never.
    pub promote_every: u32,
}

impl Accumulation {
    /// The accumulation of an input type. `fast` is the fast accumulation of FP8.
    pub fn of(input: Element, fast: bool) -> Accumulation {
        let (step, fraction_bits, promote_every) = match (input, fast) {
            (Element::F16 | Element::Bf16, _) => (16, 23, 0),
            (Element::F32, _) => (8, 23, 0),
            (Element::E4m3, true) => (32, 13, 0),
            (Element::E4m3, false) => (32, 13, 128),
            // Exact: 31 bits and more.
            (Element::Int8 | Element::Int32, _) => (32, 52, 0),
        };
        Accumulation { step, fraction_bits, promote_every }
    }
}

/// One drawn element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Index in D, row by row.
    pub index: u64,
    /// What D holds.
    pub value: f64,
    /// The f64 product with its scales.
    pub reference: f64,
    /// |value - reference|; NaN where the value is.
    pub error: f64,
    /// What the error may be, see [`bound`].
    pub bound: f64,
}

/// The drawn elements of a product.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// All of them.
    pub samples: Vec<Sample>,
    /// Largest error over its bound; infinite where a value is not finite. At most 1 is right.
    pub worst_ratio: f64,
    /// Largest error over the root mean square of the references.
    pub max_relative_error: f64,
    /// Root mean square of the errors over that of the references: a product of random data has
    /// single elements near 0, whose own relative error says nothing.
    pub rms_relative_error: f64,
}

/// What the kernel writes for one sample.
#[derive(Debug, Clone, Copy)]
struct Raw {
    index: f64,
    value: f64,
    reference: f64,
    magnitude: f64,
    linear: f64,
    quadratic: f64,
    promoted: f64,
}

/// The bound of |value - reference|, the sum of:
///
/// 1. accumulation: `2 (2 u s L + 8 u sqrt(32) Q)`, with u = 2^-f, s instructions a chunk of 32
///    products, L and Q the sum and root of squares over chunks of |accumulator| + sum |a b|. Each
///    instruction truncates the aligned accumulator and its result, at most u of that size each
///    and in one direction (first term), and each product, with random sign (second term, eight
///    standard deviations: the probabilistic analysis of Higham and Mary, 2019). The factor 2
///    is for another starting point of the sum along k (split-k);
/// 2. promotion: `2^-23` of the f32 sum at each promotion;
/// 3. epilogue: three f32 roundings, `3 x 2^-24` of the result (alpha and two scales);
/// 4. the reference itself: `k 2^-53 sum |a b|`;
/// 5. rounding to the output type: half a unit in the last place, its subnormal step included.
fn bound(raw: &Raw, output: Element, accumulation: Accumulation, k: u32) -> f64 {
    let unit = f64::powi(2.0, -accumulation.fraction_bits);
    let instructions = f64::from((CHUNK / accumulation.step).max(1));
    let one_signed = 2.0 * unit * instructions * raw.linear;
    let random = LAMBDA * unit * f64::from(CHUNK).sqrt() * raw.quadratic;
    let promotion = f64::powi(2.0, -23) * raw.promoted;
    let accumulated = 2.0 * (one_signed + random) + promotion;
    let epilogue = 3.0 * f64::powi(2.0, -24) * (raw.reference.abs() + accumulated);
    let reference = f64::from(k) * f64::powi(2.0, -53) * raw.magnitude;
    let inexact = accumulated + epilogue + reference;
    inexact + output.half_ulp(raw.reference.abs() + inexact)
}

/// The weight of column `column` in Freivalds' check.
pub fn weight(seed: u64, column: u64) -> i64 {
    i64::from((draw(seed, column) & 0x7FFF) | 1)
}

/// The product checks of one GPU.
#[derive(Debug)]
pub struct Checker {
    fold: Function,
    rows: Function,
    sample: Function,
}

impl Checker {
    /// Finds the entries of [`SOURCE`].
    pub fn new(module: &Module) -> Result<Checker> {
        Ok(Checker {
            fold: module.entry("product_fold")?,
            rows: module.entry("product_rows")?,
            sample: module.entry("product_sample")?,
        })
    }

    /// Checks every element of an integer-valued product and waits for the answer. Where scales
    /// are given they must be powers of two.
    pub fn freivalds(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        product: &Product<'_>,
        seed: u64,
    ) -> Result<WrongRows> {
        let fold = self.folded(gpu, stream, product, seed)?;
        let result = gpu.alloc(24)?;
        result.write(stream, 0, &[0u64, u64::MAX, 0])?;
        let params = ProductParams {
            fold: fold.ptr(),
            result: result.ptr(),
            ..params(stream, product, seed)?
        };
        // SAFETY: all sizes were checked by `params`; fold has k and result three 64-bit numbers.
        unsafe { self.rows.launch(stream, Grid::linear(product.m, 256), &params)? };
        let found: Vec<u64> = result.read_vec(stream, 3)?;
        let first_row = (found[1] != u64::MAX).then_some(found[1]);
        Ok(WrongRows { rows: found[0], first_row, not_integral: found[2] })
    }

    /// `B^T x`, one i64 a column of B.
    pub(crate) fn folded(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        product: &Product<'_>,
        seed: u64,
    ) -> Result<Buffer> {
        let fold = gpu.alloc(8 * u64::from(product.k))?;
        fold.fill_u32(stream, 0)?;
        let params = ProductParams { fold: fold.ptr(), ..params(stream, product, seed)? };
        let vectors = u64::from(product.k) * product.input.bytes() / 16;
        let grid = Grid {
            blocks: (vectors.div_ceil(256) as u32, product.n.div_ceil(FOLD_ROWS)),
            threads: 256,
            shared_bytes: 0,
            early: false,
        };
        // SAFETY: all sizes were checked by `params`; fold has k 64-bit numbers.
        unsafe { self.fold.launch(stream, grid, &params)? };
        Ok(fold)
    }

    /// Compares `count` drawn elements with f64 and waits for the answer.
    pub fn sample(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        product: &Product<'_>,
        count: u32,
        seed: u64,
        accumulation: Accumulation,
    ) -> Result<Samples> {
        if count == 0 || !accumulation.promote_every.is_multiple_of(CHUNK) {
            let what = format!("{count} samples with {accumulation:?}");
            return Err(Error::Shape { what });
        }
        let buffer = gpu.alloc(64 * u64::from(count))?;
        buffer.poison(stream)?;
        let params = ProductParams {
            samples: buffer.ptr(),
            sample_count: count,
            promote: accumulation.promote_every / CHUNK,
            ..params(stream, product, seed)?
        };
        // SAFETY: all sizes were checked by `params`; the buffer has eight doubles a sample.
        unsafe { self.sample.launch(stream, Grid::linear(count.div_ceil(4), 128), &params)? };
        let numbers: Vec<f64> = buffer.read_vec(stream, 8 * count as usize)?;
        let raws = numbers.chunks_exact(8).map(|n| Raw {
            index: n[0],
            value: n[1],
            reference: n[2],
            magnitude: n[3],
            linear: n[4],
            quadratic: n[5],
            promoted: n[6],
        });
        let samples = raws.map(|raw| Sample {
            index: raw.index as u64,
            value: raw.value,
            reference: raw.reference,
            error: (raw.value - raw.reference).abs(),
            bound: bound(&raw, product.output, accumulation, product.k),
        });
        Ok(summary(samples.collect()))
    }
}

/// The largest and the mean errors. What is not finite counts as infinite.
fn summary(samples: Vec<Sample>) -> Samples {
    let count = samples.len() as f64;
    let root = |sum: f64| (sum / count).sqrt();
    let size = root(samples.iter().map(|s| s.reference * s.reference).sum());
    let mean = root(samples.iter().map(|s| s.error * s.error).sum());
    // f64::max would drop a NaN, so what is not a number is made infinite first.
    let number = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
    let ratio = |s: &Sample| if s.error == 0.0 { 0.0 } else { number(s.error / s.bound) };
    let largest = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).fold(0.0, f64::max);
    let worst_ratio = largest(&ratio);
    let max_relative_error = number(largest(&|s| number(s.error)) / size);
    let rms_relative_error = number(mean / size);
    Samples { worst_ratio, max_relative_error, rms_relative_error, samples }
}

/// Checks all shapes and buffers.
fn params(stream: &CudaStream, product: &Product<'_>, seed: u64) -> Result<ProductParams> {
    let Product { m, n, k, input, output, .. } = *product;
    let whole = |count: u32, element: Element| {
        count > 0 && (u64::from(count) * element.bytes()).is_multiple_of(16)
    };
    let output_known =
        matches!(output, Element::F16 | Element::Bf16 | Element::F32 | Element::Int32);
    let rows_fit = m > 0 && m <= i32::MAX as u32 && n.div_ceil(FOLD_ROWS) <= 65_535;
    if !whole(k, input) || !whole(n, output) || !rows_fit {
        let what = format!("a check of {m} x {n} x {k}, {input:?} to {output:?}");
        return Err(Error::Shape { what });
    }
    if input == Element::Int32 || !output_known {
        return Err(Error::Shape { what: format!("a check of {input:?} to {output:?}") });
    }
    let bytes = |rows: u32, columns: u32, element: Element| {
        u64::from(rows) * u64::from(columns) * element.bytes()
    };
    for (what, buffer, needed) in [
        ("a", product.a, bytes(m, k, input)),
        ("b", product.b, bytes(n, k, input)),
        ("d", product.d, bytes(m, n, output)),
    ] {
        inside(what, 0, needed, buffer.len_bytes())?;
        stream.same_context(buffer.context())?;
    }
    let (scale_a, scale_a_step) = product.scale_a.checked(m)?;
    let (scale_b, scale_b_step) = product.scale_b.checked(n)?;
    Ok(ProductParams {
        a: product.a.ptr(),
        b: product.b.ptr(),
        d: product.d.ptr(),
        fold: 0,
        scale_a,
        scale_b,
        result: 0,
        samples: 0,
        seed,
        m,
        n,
        k,
        in_type: input.code(),
        out_type: output.code(),
        scale_a_step,
        scale_b_step,
        fold_rows: FOLD_ROWS,
        sample_count: 0,
        promote: 0,
        alpha: product.alpha,
        reserved: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> Raw {
        Raw {
            index: 0.0,
            value: 0.0,
            reference: 3.0,
            magnitude: 32.0,
            linear: 32.0,
            quadratic: 32.0,
            promoted: 0.0,
        }
    }

    #[test]
    fn bound_by_hand() {
        // One chunk of 32 products, two instructions, f = 23, output half: the last place at 3
        // is 2^-9, half of it 2^-10.
        let accumulation = Accumulation::of(Element::F16, false);
        let unit = f64::powi(2.0, -23);
        let accumulated = 2.0 * (2.0 * unit * 2.0 * 32.0 + 8.0 * unit * 32f64.sqrt() * 32.0);
        let inexact = accumulated
            + 3.0 * f64::powi(2.0, -24) * (3.0 + accumulated)
            + 32.0 * f64::powi(2.0, -53) * 32.0;
        let expect = inexact + f64::powi(2.0, -10);
        approx::assert_relative_eq!(bound(&raw(), Element::F16, accumulation, 32), expect);
    }

    #[test]
    fn a_value_that_is_not_finite_is_never_within_its_bound() {
        let sample = |value: f64| Sample {
            index: 0,
            value,
            reference: 1.0,
            error: (value - 1.0).abs(),
            bound: 0.5,
        };
        assert_eq!(summary(vec![sample(1.25), sample(1.0)]).worst_ratio, 0.5);
        for value in [f64::NAN, f64::INFINITY] {
            let found = summary(vec![sample(1.0), sample(value), sample(1.0)]);
            assert_eq!(found.worst_ratio, f64::INFINITY);
            assert_eq!(found.max_relative_error, f64::INFINITY);
            assert_eq!(found.rms_relative_error, f64::INFINITY);
        }
    }

    #[test]
    fn weights_are_odd_and_small() {
        for column in 0..1000 {
            let x = weight(3, column);
            assert!(x % 2 == 1 && (1..1 << 15).contains(&x));
        }
    }
}
