//! Formats of few bits: the independent codec of the CPU ([`codec`]) and the GPU's two ways, by its own
//! conversions and by integer arithmetic.

pub mod codec;

use crate::device::{CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::{KernelSource, Result};

pub use codec::Format;

/// Conversions of given numbers, of every code, and of every f32.
pub const SOURCE: KernelSource = KernelSource {
    name: "formats",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("../small_float.cuh"),
        include_str!("formats.cu")
    ),
    entries: &["formats_encode", "formats_decode", "formats_sweep"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;
const BLOCKS_PER_SM: u32 = 8;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FormatParams {
    input: u64,
    out: u64,
    count: u64,
    format: u32,
    chip: u32,
    fault: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<FormatParams>() == 40);
// SAFETY: repr(C) without padding, equal to the struct in formats.cu.
unsafe impl KernelParams for FormatParams {}

/// Who converts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The chip's conversion instruction.
    Chip,
    /// Integer arithmetic of this project.
    Arithmetic,
    /// The same, rounding toward zero: a planted fault.
    Truncation,
}

/// What a sweep over every f32 found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Numbers that were converted: 2^32.
    pub numbers: u64,
    /// Those for which chip and arithmetic give different codes. Which of several NaNs is given for a NaN
    /// does not count.
    pub different: u64,
    /// Bits of the least of them.
    pub first: Option<u32>,
    /// Magnitudes whose code is above that of the next magnitude: an encoder that is right at every
    /// half-way point and never falls is right everywhere.
    pub falling: u64,
}

/// Whether what runs on a chip converts to a format by an instruction of its own.
///
/// Source: PTX ISA 9.0, `cvt`: E4M3 and E5M2 from sm_89 on, though chips of 8.9 run here what is compiled for sm_80, which
/// does so by arithmetic; E2M1 and UE8M0 on sm_100a and sm_120a. UE4M3 has none of its
/// own there: by the chip is the conversion to E4M3 of what is not below zero, which is UE4M3's by its definition.
pub fn chip_converts(format: Format, (major, _): (u32, u32)) -> bool {
    match format {
        Format::F16 | Format::Bf16 => true,
        Format::E4m3 | Format::E5m2 | Format::Ue4m3 => major >= 9,
        Format::E2m1 | Format::Ue8m0 => major >= 10,
    }
}

/// The kernels of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Formats<'g> {
    gpu: &'g Gpu,
    encode: Function,
    decode: Function,
    sweep: Function,
}

impl<'g> Formats<'g> {
    /// Finds the entries of [`SOURCE`].
    pub fn new(gpu: &'g Gpu, module: &Module) -> Result<Formats<'g>> {
        Ok(Formats {
            gpu,
            encode: module.entry("formats_encode")?,
            decode: module.entry("formats_decode")?,
            sweep: module.entry("formats_sweep")?,
        })
    }

    fn stream(&self) -> &CudaStream {
        self.gpu.stream()
    }

    fn params(&self, format: Format, by: By, count: u64) -> FormatParams {
        FormatParams {
            input: 0,
            out: 0,
            count,
            format: format as u32,
            chip: u32::from(by == By::Chip),
            fault: u32::from(by == By::Truncation),
            reserved: 0,
        }
    }

    fn grid(&self) -> Grid {
        Grid::linear(self.gpu.sm_count * BLOCKS_PER_SM, THREADS)
    }

    /// The codes of numbers; waits.
    pub fn encode(&self, format: Format, by: By, numbers: &[f32]) -> Result<Vec<u32>> {
        let bytes = 4 * numbers.len() as u64;
        let (input, out) = (self.gpu.alloc(bytes)?, self.gpu.alloc(bytes)?);
        input.write(self.stream(), 0, numbers)?;
        out.poison(self.stream())?;
        let count = numbers.len() as u64;
        let params =
            FormatParams { input: input.ptr(), out: out.ptr(), ..self.params(format, by, count) };
        // SAFETY: both buffers hold `count` words.
        unsafe { self.encode.launch(self.stream(), self.grid(), &params)? };
        out.read_vec(self.stream(), numbers.len())
    }

    /// The numbers of every code, as bits of f32; waits.
    pub fn decode(&self, format: Format, by: By) -> Result<Vec<u32>> {
        let count = format.codes();
        let out = self.gpu.alloc(4 * u64::from(count))?;
        out.poison(self.stream())?;
        let params = FormatParams { out: out.ptr(), ..self.params(format, by, count.into()) };
        // SAFETY: the buffer holds `count` words.
        unsafe { self.decode.launch(self.stream(), self.grid(), &params)? };
        out.read_vec(self.stream(), count as usize)
    }

    /// Converts the first `count` f32, in order of their bits, by the chip and by `by`; waits. 2^32 are all.
    pub fn sweep(&self, format: Format, by: By, count: u64) -> Result<Sweep> {
        let out = self.gpu.alloc(32)?;
        out.write(self.stream(), 0, &[0u64, 0, u64::MAX, 0])?;
        let params = FormatParams { out: out.ptr(), ..self.params(format, by, count) };
        // SAFETY: the buffer holds four u64.
        unsafe { self.sweep.launch(self.stream(), self.grid(), &params)? };
        let found: Vec<u64> = out.read_vec(self.stream(), 4)?;
        Ok(Sweep {
            numbers: found[0],
            different: found[1],
            first: u32::try_from(found[2]).ok(),
            falling: found[3],
        })
    }
}
