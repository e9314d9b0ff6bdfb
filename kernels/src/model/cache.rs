//! Keys and values of a layer in E4M3: filled from the fp16 that a pass left, extended by one token of each sequence
//! at a time. The twin of what each kernel does, number by number, is [`oracle`].
//!
//! A head of keys, or of values, has one scale for all its tokens of all sequences: [`HEADROOM`] amax / 448, amax
//! being the largest magnitude of what the pass left. A later token is quantised by that scale too; beyond the
//! head-room it saturates at 448 times the scale, silently.
//!
//! What is no number is not hidden. The quantisers of [`crate::quantise`] make the scale of such a group NaN, or
//! infinite; here that would be lost, since attention over a cache gives 0 where its weights have no sum, and reads
//! the code of NaN as 480. So the scale of a head's values becomes NaN as soon as one of its keys or values, filled
//! or appended, is NaN or infinite, and its outputs are NaN until the cache is filled again. Codes are as there:
//! NaN is 0x7F, infinities saturate.

use super::HEAD_SIZE;
use crate::attention::quantise::HeadScales;
use crate::attention::{Sizes, Tensor};
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// Filling and extending.
pub const SOURCE: KernelSource = KernelSource {
    name: "cache",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("../small_float.cuh"),
        include_str!("../dependent.cuh"),
        include_str!("cache.cu")
    ),
    entries: &["cache_largest", "cache_fill", "cache_step"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// How many times as large as what the scale was made from a later number may be before it saturates. E4M3 has
/// normal numbers down to 2^-15 of its largest, so that a factor of 2 costs no bit of any number above 2^-14 amax.
pub const HEADROOM: f32 = 2.0;

const TILE_TOKENS: u32 = 64;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct CacheParams {
    from: [u64; 2],
    to: [u64; 2],
    largest: u64,
    scales: u64,
    from_steps: [u64; 2],
    to_steps: [u64; 2],
    heads: u32,
    tokens: u32,
    tiles: u32,
    turned: u32,
}
const _: () = assert!(size_of::<CacheParams>() == 96);
// SAFETY: repr(C) without padding, equal to the struct in cache.cu.
unsafe impl KernelParams for CacheParams {}

/// What the heads of a layer's keys and values share: one number each for keys, then one each for values.
#[derive(Debug)]
pub struct Shared {
    /// Codes of the largest magnitudes, halves in words.
    pub largest: Buffer,
    /// f32 by which codes are multiplied.
    pub scales: Buffer,
    heads: u32,
}

impl Shared {
    /// Bytes for so many heads.
    pub fn bytes(heads: u32) -> u64 {
        2 * 2 * 4 * u64::from(heads)
    }

    /// Memory for so many heads, scales of 1; in stream order.
    pub fn new(gpu: &Gpu, heads: u32) -> Result<Shared> {
        let [largest, scales] =
            [gpu.alloc(8 * u64::from(heads))?, gpu.alloc(8 * u64::from(heads))?];
        largest.fill_u32(gpu.stream(), 0)?;
        scales.fill_u32(gpu.stream(), 1f32.to_bits())?;
        Ok(Shared { largest, scales, heads })
    }

    /// Scales of keys and of values, as attention takes them.
    pub fn of_heads(&self) -> (HeadScales<'_>, HeadScales<'_>) {
        let heads = u64::from(self.heads);
        let part = |first| HeadScales::part(&self.scales, first, heads);
        (part(0), part(heads))
    }
}

/// The entries of [`SOURCE`] on one GPU.
#[derive(Debug, Clone)]
pub struct Kernels {
    largest: Function,
    fill: Function,
    step: Function,
}

impl Kernels {
    /// Finds the entries.
    pub fn new(module: &Module) -> Result<Kernels> {
        Ok(Kernels {
            largest: module.entry("cache_largest")?,
            fill: module.entry("cache_fill")?,
            step: module.entry("cache_step")?,
        })
    }

    /// Enqueues the search for the largest magnitudes of fp16 keys and values, and their conversion: `tokens` of
    /// each of `batches` sequences. What `shared` held before is replaced.
    ///
    /// Errors: [`Error::Shape`] for keys and values that lie unlike each other, or do not fit.
    pub fn fill(
        &self,
        stream: &CudaStream,
        from: [Tensor<'_>; 2],
        to: [Tensor<'_>; 2],
        shared: &Shared,
        sizes: (u32, u32),
    ) -> Result<()> {
        let params = self.params((from, to), shared, sizes)?;
        let blocks = 2 * u64::from(shared.heads) * u64::from(params.tiles) * u64::from(sizes.0);
        let blocks = i32::try_from(blocks)
            .map_err(|_| Error::Shape { what: format!("{blocks} tiles to quantise at once") })?;
        let grid = Grid::linear(blocks as u32, 256);
        shared.largest.fill_u32(stream, 0)?;
        // SAFETY: both tensors lie inside their buffers, and `shared` has a number for each head.
        unsafe {
            self.largest.launch(stream, grid, &params)?;
            self.fill.launch(stream, grid, &params)
        }
    }

    /// Enqueues the conversion of one token of each of `batches` sequences by the scales that [`Kernels::fill`]
    /// made. Begins before the work in front of it has ended, where the GPU can, and waits for it. `turned` is a
    /// planted fault: what is stored stands so many heads too far.
    ///
    /// Errors: as [`Kernels::fill`].
    pub fn step(
        &self,
        stream: &CudaStream,
        from: [Tensor<'_>; 2],
        to: [Tensor<'_>; 2],
        shared: &Shared,
        (batches, turned): (u32, u32),
    ) -> Result<()> {
        let params = CacheParams { turned, ..self.params((from, to), shared, (batches, 1))? };
        let grid = Grid { early: true, ..Grid::linear(batches * shared.heads, 32) };
        // SAFETY: as in `fill`.
        unsafe { self.step.launch(stream, grid, &params) }
    }

    fn params(
        &self,
        (from, to): ([Tensor<'_>; 2], [Tensor<'_>; 2]),
        shared: &Shared,
        (batches, rows): (u32, u32),
    ) -> Result<CacheParams> {
        let heads = shared.heads;
        if batches == 0 || rows == 0 || heads == 0 {
            let what = format!("{rows} tokens of {batches} sequences of {heads} heads to a cache");
            return Err(Error::Shape { what });
        }
        let sizes = Sizes { batches, rows, heads, head_size: HEAD_SIZE };
        for (pair, what, bytes) in [(&from, "keys and values", 2), (&to, "cache", 1)] {
            pair.iter().try_for_each(|tensor| tensor.check(what, sizes, bytes))?;
            let steps = pair.map(|tensor| (tensor.row, tensor.head, tensor.batch));
            if steps[0] != steps[1] || steps[0].1 != u64::from(HEAD_SIZE) {
                let what = format!("{what} that lie apart or unlike each other: {steps:?}");
                return Err(Error::Shape { what });
            }
        }
        let numbers = [&shared.largest, &shared.scales];
        for buffer in numbers {
            inside("numbers of heads", 0, 8 * u64::from(heads), buffer.len_bytes())?;
        }
        let tensors = from.iter().chain(&to).map(|tensor| tensor.buffer);
        self.fill.same_context(tensors.chain(numbers))?;
        Ok(CacheParams {
            from: from.map(|tensor| tensor.address(2)),
            to: to.map(|tensor| tensor.address(1)),
            largest: shared.largest.ptr(),
            scales: shared.scales.ptr(),
            from_steps: [from[0].row, from[0].batch],
            to_steps: [to[0].row, to[0].batch],
            heads,
            tokens: rows,
            tiles: rows.div_ceil(TILE_TOKENS),
            turned: 0,
        })
    }
}

/// What the kernels do, in plain loops, every operation rounded to f32 once:
/// `scale = (2 amax) / 448`, `code = e4m3(x * (448 / (2 amax)))`; both are 1 of zeros and of what is not all finite.
pub mod oracle {
    use half::f16;

    use super::HEADROOM;
    use crate::formats::Format;
    use crate::quantise::oracle::scale_of;

    /// Codes of magnitudes from here on are no finite numbers.
    const INFINITE: u16 = 0x7C00;
    /// What max.NaN gives.
    const NOT_A_NUMBER: u16 = 0x7FFF;

    /// The code of the largest magnitude; NaN where one is.
    pub fn largest(values: impl IntoIterator<Item = f16>) -> u16 {
        let code = |x: f16| if x.is_nan() { NOT_A_NUMBER } else { x.to_bits() & 0x7FFF };
        values.into_iter().map(code).max().unwrap_or(0)
    }

    /// What codes are multiplied by and the factor that makes them, of a largest magnitude.
    pub fn scale(largest: u16) -> (f32, f32) {
        match largest < INFINITE {
            true => scale_of(HEADROOM * f16::from_bits(largest).to_f32()),
            false => (1.0, 1.0),
        }
    }

    /// Scales of a head's keys and values as attention is given them.
    pub fn scales([keys, values]: [u16; 2]) -> [f32; 2] {
        let finite = keys.max(values) < INFINITE;
        [scale(keys).0, if finite { scale(values).0 } else { f32::NAN }]
    }

    /// The code of a number of a head with such a largest magnitude.
    pub fn code(x: f16, largest: u16) -> u8 {
        Format::E4m3.encode(x.to_f32() * scale(largest).1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::oracle::{code, largest, scale, scales};
    use half::f16;

    fn half(x: f32) -> f16 {
        f16::from_f32(x)
    }

    #[test]
    fn codes_by_hand() {
        // amax 224: twice that is 448, so the scale is 1.
        let most = largest([3.0, -224.0, 0.5].map(half));
        assert_eq!((most, scale(most)), (half(224.0).to_bits(), (1.0, 1.0)));
        assert_eq!([224.0, -1.0, 17.0].map(|x| code(half(x), most)), [0x76, 0xB8, 0x58]);
        // A later number has room up to 448, and saturates beyond.
        assert_eq!([448.0, 449.0, -60000.0].map(|x| code(half(x), most)), [0x7E, 0x7E, 0xFE]);
        let other = largest([half(1.0)]);
        assert_eq!(scale(other), (2.0 / 448.0, 224.0));
        assert_eq!(code(half(1.0), other), 0x76);
    }

    #[test]
    fn zeros_have_the_scale_of_one() {
        assert_eq!(largest([half(0.0), half(-0.0)]), 0);
        assert_eq!(scale(0), (1.0, 1.0));
        assert_eq!(code(half(2.0), 0), 0x40);
    }

    #[test]
    fn what_is_no_number_reaches_the_scale_of_values() {
        let (plain, infinite) = (largest([half(1.0)]), largest([half(-1.0), f16::NEG_INFINITY]));
        let none = largest([f16::INFINITY, f16::NAN, half(1.0)]);
        assert_eq!((infinite, none), (0x7C00, 0x7FFF));
        let [keys, values] = scales([plain, plain]);
        assert_eq!((keys, values), (2.0 / 448.0, 2.0 / 448.0));
        for (pair, of_keys) in
            [([none, plain], 1.0), ([plain, none], keys), ([infinite, plain], 1.0)]
        {
            let [keys, values] = scales(pair);
            assert!(keys == of_keys && values.is_nan(), "{pair:x?}: {keys} {values}");
        }
        assert_eq!([f16::NAN, f16::INFINITY].map(|x| code(x, none)), [0x7F, 0x7E]);
    }

    /// Half a step of E4M3, and half of its least number, as the quantisers err.
    #[test]
    fn numbers_err_by_half_a_step() {
        let numbers: Vec<f16> = (0..0x5000).step_by(7).map(f16::from_bits).collect();
        let most = largest(numbers.iter().copied());
        let (factor, _) = scale(most);
        for x in numbers {
            let held =
                crate::formats::Format::E4m3.decode(code(x, most).into()) * f64::from(factor);
            let bound =
                (x.to_f64() / 16.0).max(f64::from(factor) / 1024.0) * (1.0 + 2f64.powi(-20));
            assert!((held - x.to_f64()).abs() <= bound, "{x} became {held}");
        }
    }
}
