//! Data of collectives: values of each rank from a seed, the sum that must come out, and how far from
//! the exact one another order of addition may end.
//!
//! The sum in fixed order is `((x0 + x1) + x2) + ...` in f32, rounded once to the type: what a
//! deterministic all-reduce leaves, bit for bit. Integers of 0 to 31 sum exactly in every type and
//! order. For other orders, and for partial sums that are rounded to the type, n - 1 additions each
//! err by at most u of a partial sum that is no larger than (1 + u)^(n - 2) times the sum of
//! magnitudes: the error is at most (n - 1) u (1 + u)^(n - 2) sum |x|, u being half a unit in the last
//! place of 1 (2^-11 in fp16, 2^-8 in bf16, 2^-24 in f32). [`error_unit`] is that bound.

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::{Element, with_elements};
use crate::generator::draw;
use crate::memory::inside;
use crate::pattern::Wrong;
use crate::{Error, KernelSource, Result};

/// Fill, check, error and compare.
pub const SOURCE: KernelSource = KernelSource {
    name: "reduction",
    source: with_elements!("reduction.cu"),
    entries: &["reduction_fill", "reduction_check", "reduction_error", "reduction_compare"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Most ranks of a collective.
pub const MOST_RANKS: usize = 8;

const THREADS: u32 = 256;
const BLOCKS_PER_SM: u32 = 8;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ReductionParams {
    data: u64,
    other: u64,
    result: u64,
    vectors: u64,
    first: u64,
    seeds: [u64; MOST_RANKS],
    ranks: u32,
    element: u32,
    kind: u32,
    unit: f32,
}
const _: () = assert!(size_of::<ReductionParams>() == 120);
// SAFETY: repr(C) without padding, equal to the struct in reduction.cu.
unsafe impl KernelParams for ReductionParams {}

/// Values of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Integers of 0 to 31.
    Integers,
    /// Uniform in -1 to 1, with all bits of the mantissa.
    Uniform,
}

impl Values {
    /// The oracle: the value of an element as the type holds it.
    pub fn value(self, element: Element, seed: u64, index: u64) -> f32 {
        let word = draw(seed, index);
        let x = match self {
            Values::Integers => (word >> 27) as f32,
            Values::Uniform => word as i32 as f32 * 2f32.powi(-31),
        };
        value_of(element, code_of(element, x))
    }

    /// The oracle: the code of the sum over the seeds in their order.
    pub fn summed(self, element: Element, seeds: &[u64], index: u64) -> u32 {
        let values = seeds.iter().map(|seed| self.value(element, *seed, index));
        code_of(element, values.reduce(|sum, x| sum + x).unwrap_or(0.0))
    }

    fn code(self) -> u32 {
        match self {
            Values::Integers => 0,
            Values::Uniform => 1,
        }
    }
}

/// The code of a value; f32 keeps all its bits.
pub(crate) fn code_of(element: Element, x: f32) -> u32 {
    if element == Element::F32 { x.to_bits() } else { element.encode(x) }
}

fn value_of(element: Element, code: u32) -> f32 {
    if element == Element::F32 { f32::from_bits(code) } else { element.decode(code) as f32 }
}

/// The most that a sum of so many ranks in any order may err, as a share of the sum of magnitudes.
pub fn error_unit(element: Element, ranks: usize) -> f64 {
    let u = element.half_ulp(1.0);
    (ranks as f64 - 1.0) * u * (1.0 + u).powi(ranks as i32 - 2)
}

/// Part of a buffer: elements that continue a rank's, or a sum's, from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// Byte at which the part begins.
    pub offset: u64,
    /// Bytes of the part.
    pub bytes: u64,
    /// Counter of its first element.
    pub first: u64,
}

impl<'a> Part<'a> {
    /// The buffer's first bytes, counted from element 0.
    pub fn whole(buffer: &'a Buffer, bytes: u64) -> Part<'a> {
        Part { buffer, offset: 0, bytes, first: 0 }
    }
}

/// The kernels of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Reduction {
    fill: Function,
    check: Function,
    error: Function,
    compare: Function,
    result: Buffer,
    grid: Grid,
}

impl Reduction {
    /// Finds the entries of [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Reduction> {
        Ok(Reduction {
            fill: module.entry("reduction_fill")?,
            check: module.entry("reduction_check")?,
            error: module.entry("reduction_error")?,
            compare: module.entry("reduction_compare")?,
            result: gpu.alloc(16)?,
            grid: Grid::linear(gpu.sm_count * BLOCKS_PER_SM, THREADS),
        })
    }

    /// Enqueues the fill of a part with a rank's values.
    pub fn fill(
        &self,
        stream: &CudaStream,
        part: Part<'_>,
        element: Element,
        values: Values,
        seed: u64,
    ) -> Result<()> {
        let params = self.params(stream, part, element, values, &[seed])?;
        // SAFETY: the part lies inside its buffer, as `params` checked.
        unsafe { self.fill.launch(stream, self.grid, &params) }
    }

    /// Counts the elements that are not the sum over the seeds in their order, and waits.
    pub fn check(
        &self,
        stream: &CudaStream,
        part: Part<'_>,
        element: Element,
        values: Values,
        seeds: &[u64],
    ) -> Result<Wrong> {
        let params = self.params(stream, part, element, values, seeds)?;
        self.counted(stream, &self.check, &params)
    }

    /// The largest error of a part beside the exact sum, in units of [`error_unit`], and waits.
    pub fn error(
        &self,
        stream: &CudaStream,
        part: Part<'_>,
        element: Element,
        values: Values,
        seeds: &[u64],
    ) -> Result<f64> {
        let params = self.params(stream, part, element, values, seeds)?;
        self.result.write(stream, 0, &[0u64, 0])?;
        // SAFETY: the part lies inside its buffer, as `params` checked; the result holds a u32.
        unsafe { self.error.launch(stream, self.grid, &params)? };
        let bits: Vec<u32> = self.result.read_vec(stream, 1)?;
        Ok(f32::from_bits(bits[0]).into())
    }

    /// Counts the words in which the first `bytes` of a buffer of this GPU differ from those of any
    /// GPU's buffer that it can reach, and waits.
    pub fn compare(
        &self,
        stream: &CudaStream,
        own: &Buffer,
        other: &Buffer,
        bytes: u64,
    ) -> Result<Wrong> {
        inside("compare", 0, bytes, other.len_bytes())?;
        let part = Part::whole(own, bytes);
        let mut params = self.params(stream, part, Element::F32, Values::Integers, &[0])?;
        params.other = other.ptr();
        // `counted` waits for the kernel, so that it ends before either buffer can be freed.
        self.counted(stream, &self.compare, &params)
    }

    fn counted(
        &self,
        stream: &CudaStream,
        function: &Function,
        params: &ReductionParams,
    ) -> Result<Wrong> {
        self.result.write(stream, 0, &[0u64, u64::MAX])?;
        // SAFETY: all regions were checked by the callers; the result holds two u64.
        unsafe { function.launch(stream, self.grid, params)? };
        let found: Vec<u64> = self.result.read_vec(stream, 2)?;
        let first_word = (found[1] != u64::MAX).then_some(found[1]);
        Ok(Wrong { count: found[0], first_word })
    }

    fn params(
        &self,
        stream: &CudaStream,
        part: Part<'_>,
        element: Element,
        values: Values,
        seeds: &[u64],
    ) -> Result<ReductionParams> {
        stream.same_context(part.buffer.context())?;
        stream.same_context(self.result.context())?;
        inside("reduction", part.offset, part.bytes, part.buffer.len_bytes())?;
        let floats = matches!(element, Element::F16 | Element::Bf16 | Element::F32);
        let whole = part.bytes.is_multiple_of(16) && part.offset.is_multiple_of(16);
        if !floats || !whole || part.bytes == 0 || !(1..=MOST_RANKS).contains(&seeds.len()) {
            let (bytes, ranks) = (part.bytes, seeds.len());
            let what = format!("{bytes} bytes of {element:?} summed over {ranks} ranks");
            return Err(Error::Shape { what });
        }
        let mut all = [0; MOST_RANKS];
        all[..seeds.len()].copy_from_slice(seeds);
        Ok(ReductionParams {
            data: part.buffer.ptr() + part.offset,
            other: 0,
            result: self.result.ptr(),
            vectors: part.bytes / 16,
            first: part.first,
            seeds: all,
            ranks: seeds.len() as u32,
            element: element.code(),
            kind: values.code(),
            unit: error_unit(element, seeds.len().max(2)) as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_in_order_and_rounded_once() {
        let seeds = [11, 12, 13, 14];
        let mut differ = 0;
        for index in 0..1000 {
            for element in [Element::F16, Element::Bf16, Element::F32] {
                let exact: f64 = seeds
                    .iter()
                    .map(|seed| f64::from(Values::Integers.value(element, *seed, index)))
                    .sum();
                let code = Values::Integers.summed(element, &seeds, index);
                assert_eq!(f64::from(value_of(element, code)), exact);
            }
            let turned = [12, 13, 14, 11];
            let sum = |seeds: &[u64]| Values::Uniform.summed(Element::F32, seeds, index);
            differ += u32::from(sum(&seeds) != sum(&turned));
        }
        // Another order is seen: it gives other bits for a good part of all elements.
        assert!(differ > 200, "{differ}");
    }

    #[test]
    fn values_stay_in_their_range() {
        for index in 0..1000 {
            let x = Values::Uniform.value(Element::F16, 5, index);
            assert!((-1.0..=1.0).contains(&x));
            let i = Values::Integers.value(Element::Bf16, 5, index);
            assert!((0.0..=31.0).contains(&i) && i.fract() == 0.0);
        }
    }

    #[test]
    fn the_error_bound_by_hand() {
        assert_eq!(error_unit(Element::F16, 2), 2f64.powi(-11));
        let u = 2f64.powi(-24);
        approx::assert_relative_eq!(error_unit(Element::F32, 4), 3.0 * u * (1.0 + u) * (1.0 + u));
    }
}
