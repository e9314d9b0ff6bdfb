//! Operands of matrix products, made on the device: integers whose product is exact in any order,
//! normal-like data, and scales. Each value is a function of seed and index with a twin here.
//!
//! Integers are -1, 0 and +1 with a density d of nonzeros. A dot product of length k then has
//! standard deviation d sqrt(k), so [`exact_density_ppm`] keeps every sum twelve of these away
//! from the first integer that the output type cannot hold, or, of scaled sums in fp16, from what is
//! no longer finite. Integer sums below 2^24 are exact in
//! f32 accumulators, and below 2^13 in the 14-bit accumulation of FP8 on Hopper.
//!
//! Normal-like data is the sum of four 16-bit uniforms less its mean (Irwin-Hall, kurtosis 2.7,
//! at most 3.46 standard deviations), exact as an integer and rounded once when scaled.

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::{Element, with_elements};
use crate::generator::draw;
use crate::memory::inside;
use crate::pattern::Patterns;
use crate::{Error, KernelSource, Result};

/// The makers of operands.
pub const SOURCE: KernelSource = KernelSource {
    name: "operands",
    source: with_elements!("operands.cu"),
    entries: &["operand_integers", "operand_normals", "operand_scales", "operand_nonfinite"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;
const BLOCKS_PER_SM: u32 = 8;

/// Standard deviation of the sum of four uniform integers of 0 to 65535.
const NORMAL_STEPS: f64 = 37_837.226_849_7;

/// The threshold that stands for the whole range of int8.
const FULL_RANGE: u32 = u32::MAX;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct OperandParams {
    data: u64,
    result: u64,
    elements: u64,
    seed: u64,
    element: u32,
    threshold: u32,
    factor: f32,
    kind: u32,
}
const _: () = assert!(size_of::<OperandParams>() == 48);
// SAFETY: repr(C) without padding, equal to the struct in operands.cu.
unsafe impl KernelParams for OperandParams {}

/// Values of an operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    /// -1, 0 or +1.
    Integers {
        /// Nonzeros in a million.
        density_ppm: u32,
    },
    /// Every integer of -127 to 127, for int8.
    FullInt8,
    /// Normal-like with mean 0.
    Normals {
        /// Standard deviation.
        scale: f32,
    },
}

impl Values {
    /// The oracle: element `index` before it is encoded.
    pub fn value(self, seed: u64, index: u64) -> f32 {
        match self {
            Values::Integers { .. } | Values::FullInt8 => {
                let h = draw(seed, index);
                let threshold = self.threshold();
                if threshold == FULL_RANGE {
                    return ((u64::from(h) * 255) >> 32) as f32 - 127.0;
                }
                match (h >> 1 < threshold, h & 1) {
                    (false, _) => 0.0,
                    (true, 0) => 1.0,
                    (true, _) => -1.0,
                }
            }
            Values::Normals { .. } => {
                let (h, g) = (draw(seed, index * 2), draw(seed, index * 2 + 1));
                let sum = (h & 0xFFFF) + (h >> 16) + (g & 0xFFFF) + (g >> 16);
                (sum as i32 - 131_070) as f32 * self.factor()
            }
        }
    }

    fn threshold(self) -> u32 {
        match self {
            Values::Integers { density_ppm } => {
                ((u64::from(density_ppm.min(1_000_000)) << 31) / 1_000_000) as u32
            }
            Values::FullInt8 => FULL_RANGE,
            Values::Normals { .. } => 0,
        }
    }

    pub(crate) fn factor(self) -> f32 {
        match self {
            Values::Normals { scale } => (f64::from(scale) / NORMAL_STEPS) as f32,
            Values::Integers { .. } | Values::FullInt8 => 0.0,
        }
    }
}

/// Values of a scale vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// 2^-4 to 2^4: multiplying by them rounds nothing.
    PowersOfTwo,
    /// Random in [0.5, 2).
    Random,
}

impl Scales {
    /// The oracle: scale `index`.
    pub fn value(self, seed: u64, index: u64) -> f32 {
        let h = draw(seed, index);
        match self {
            Scales::PowersOfTwo => f32::from_bits((123 + ((u64::from(h) * 9) >> 32) as u32) << 23),
            Scales::Random => f32::from_bits(0x3F00_0000 + ((h & 1) << 23) + (h >> 9)),
        }
    }
}

/// The largest of two scales of [`Scales::PowersOfTwo`] together.
const LARGEST_SCALES: f64 = 256.0;
/// The largest finite number of fp16.
const LARGEST_F16: f64 = 65504.0;

/// The density at which products of length `k` stay exact in `output`, at most one half. Where the sums are `scaled`
/// by two of [`Scales::PowersOfTwo`] they stay finite too: 16 x 16 times a sum of 256 is more than fp16 holds.
pub fn exact_density_ppm(output: Element, k: u32, scaled: bool) -> u32 {
    let largest = match output {
        Element::Bf16 => 256.0,
        Element::F16 if scaled => LARGEST_F16 / LARGEST_SCALES,
        Element::F16 => 2048.0,
        Element::F32 | Element::Int32 | Element::Int8 | Element::E4m3 => 8192.0,
    };
    let density: f64 = largest / (12.0 * f64::from(k.max(1)).sqrt());
    (density.min(0.5) * 1e6) as u32
}

/// The makers of operands of one GPU.
#[derive(Debug)]
pub struct Operands {
    integers: Function,
    normals: Function,
    scales: Function,
    nonfinite: Function,
    result: Buffer,
    blocks: u32,
}

impl Operands {
    /// Finds the entries of [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Operands> {
        Ok(Operands {
            integers: module.entry("operand_integers")?,
            normals: module.entry("operand_normals")?,
            scales: module.entry("operand_scales")?,
            nonfinite: module.entry("operand_nonfinite")?,
            result: gpu.alloc(8)?,
            blocks: gpu.sm_count * BLOCKS_PER_SM,
        })
    }

    /// Enqueues the fill of the buffer's first `elements`.
    pub fn fill(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        element: Element,
        elements: u64,
        seed: u64,
        values: Values,
    ) -> Result<()> {
        if element == Element::Int32 {
            return Err(Error::Shape { what: "an operand of int32".into() });
        }
        whole_vectors(stream, buffer, element, elements)?;
        let function = match values {
            Values::Integers { .. } | Values::FullInt8 => &self.integers,
            Values::Normals { .. } => &self.normals,
        };
        let params = OperandParams {
            data: buffer.ptr(),
            result: 0,
            elements,
            seed,
            element: element.code(),
            threshold: values.threshold(),
            factor: values.factor(),
            kind: 0,
        };
        // SAFETY: the elements lie inside the buffer.
        unsafe { function.launch(stream, Grid::linear(self.blocks, THREADS), &params) }
    }

    /// Enqueues the fill of `count` f32 scales, a multiple of 4.
    pub fn fill_scales(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        count: u64,
        seed: u64,
        scales: Scales,
    ) -> Result<()> {
        whole_vectors(stream, buffer, Element::F32, count)?;
        let kind = match scales {
            Scales::PowersOfTwo => 0,
            Scales::Random => 1,
        };
        let params = OperandParams {
            data: buffer.ptr(),
            result: 0,
            elements: count,
            seed,
            element: Element::F32.code(),
            threshold: 0,
            factor: 0.0,
            kind,
        };
        // SAFETY: the scales lie inside the buffer.
        unsafe { self.scales.launch(stream, Grid::linear(self.blocks, THREADS), &params) }
    }

    /// Counts NaN and infinities among the buffer's first `elements`; waits for the answer.
    /// Integers have none. A poisoned float buffer is all NaN, so this also finds elements that
    /// nothing wrote.
    pub fn count_nonfinite(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        element: Element,
        elements: u64,
    ) -> Result<u64> {
        whole_vectors(stream, buffer, element, elements)?;
        self.result.write(stream, 0, &[0u64])?;
        let params = OperandParams {
            data: buffer.ptr(),
            result: self.result.ptr(),
            elements,
            seed: 0,
            element: element.code(),
            threshold: 0,
            factor: 0.0,
            kind: 0,
        };
        // SAFETY: the elements lie inside the buffer; the result is a u64.
        unsafe { self.nonfinite.launch(stream, Grid::linear(self.blocks, THREADS), &params)? };
        Ok(self.result.read_vec::<u64>(stream, 1)?[0])
    }
}

/// Enqueues the change of one bit of one element: a planted fault.
pub fn flip_bit(
    patterns: &Patterns,
    stream: &CudaStream,
    buffer: &Buffer,
    element: Element,
    index: u64,
    bit: u32,
) -> Result<()> {
    let bits = 8 * element.bytes() as u32;
    if bit >= bits {
        return Err(Error::Shape { what: format!("bit {bit} of an element of {bits} bits") });
    }
    let byte = index
        .checked_mul(element.bytes())
        .ok_or_else(|| Error::Shape { what: format!("element {index}") })?;
    let shift = 8 * (byte % 4) as u32 + bit;
    patterns.flip(stream, buffer, byte / 4, 1 << shift)
}

/// Checks that whole 16-byte vectors of elements lie inside the buffer.
fn whole_vectors(
    stream: &CudaStream,
    buffer: &Buffer,
    element: Element,
    elements: u64,
) -> Result<()> {
    let bytes = elements.saturating_mul(element.bytes());
    if bytes == 0 || !bytes.is_multiple_of(16) {
        let what = format!("{elements} elements of {element:?} are not whole 16-byte vectors");
        return Err(Error::Shape { what });
    }
    inside("operand", 0, bytes, buffer.len_bytes())?;
    stream.same_context(buffer.context())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_their_density_and_both_signs() {
        let values = Values::Integers { density_ppm: 250_000 };
        let drawn: Vec<f32> = (0..100_000).map(|i| values.value(11, i)).collect();
        let nonzero = drawn.iter().filter(|x| **x != 0.0).count();
        let negative = drawn.iter().filter(|x| **x < 0.0).count();
        assert!((24_000..26_000).contains(&nonzero), "{nonzero}");
        assert!((12_000..13_000).contains(&negative), "{negative}");
    }

    #[test]
    fn int8_covers_its_range() {
        let drawn: Vec<f32> = (0..20_000).map(|i| Values::FullInt8.value(5, i)).collect();
        let least = drawn.iter().copied().fold(f32::INFINITY, f32::min);
        let most = drawn.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!((least, most), (-127.0, 127.0));
    }

    #[test]
    fn normals_have_the_asked_deviation() {
        let values = Values::Normals { scale: 2.0 };
        let drawn: Vec<f64> = (0..100_000).map(|i| values.value(7, i).into()).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|x| x * x).sum::<f64>() / drawn.len() as f64;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 4.0).abs() < 0.08, "{variance}");
    }

    #[test]
    fn scales_are_powers_of_two_or_below_two() {
        for i in 0..1000 {
            let power = Scales::PowersOfTwo.value(1, i);
            assert!(power.log2().fract() == 0.0 && (0.0625..=16.0).contains(&power), "{power}");
            let random = Scales::Random.value(1, i);
            assert!((0.5..2.0).contains(&random), "{random}");
        }
    }

    #[test]
    fn densities_keep_products_exact() {
        // 256 / (12 * sqrt(8192)) = 0.2357.
        assert_eq!(exact_density_ppm(Element::Bf16, 8192, true) / 1000, 235);
        assert_eq!(exact_density_ppm(Element::Int32, 8192, false), 500_000);
        assert_eq!(exact_density_ppm(Element::F16, 8192, false), 500_000);
    }

    /// Run 20261122T154340Z drew 16 for both scales of a product of 32768 terms into fp16: one sum in 200 was infinite.
    #[test]
    fn scaled_sums_stay_finite_in_fp16() {
        for k in [8192, 16384, 32768] {
            let density = f64::from(exact_density_ppm(Element::F16, k, true)) / 1e6;
            assert!(256.0 * 12.0 * density * f64::from(k).sqrt() <= LARGEST_F16);
            assert!(density > 0.1);
        }
    }
}
