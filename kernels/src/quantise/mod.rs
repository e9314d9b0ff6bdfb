//! fp16 matrices to 8 and 4 bits with scales, at the speed of memory. The twin of what each kernel does,
//! number by number, is [`oracle`].

pub mod oracle;

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// The quantisers.
pub const SOURCE: KernelSource = KernelSource {
    name: "quantise",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("../small_float.cuh"),
        include_str!("../model/gelu.cuh"),
        include_str!("quantise.cu")
    ),
    entries: &[
        "quantise_row",
        "quantise_row_long",
        "quantise_gelu_row",
        "quantise_gelu_row_long",
        "quantise_norm_row",
        "quantise_norm_row_whole",
        "quantise_largest",
        "quantise_tensor",
        "quantise_block128",
        "quantise_nvfp4",
        "quantise_mxfp8",
        "quantise_mxfp4",
        "quantise_square128",
    ],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Columns that a row may have in the kernels of 256 threads, and in those of more.
const SHORT_ROW: u32 = 8192;
const LONG_ROW: u32 = 32768;
/// Elements that a block of the flat kernels takes: 256 threads, 4 vectors, 8 elements.
const ELEMENTS_PER_BLOCK: u64 = 256 * 4 * 8;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct QuantiseParams {
    source: u64,
    target: u64,
    scales: u64,
    amax: u64,
    recorded: u64,
    gain: u64,
    bias: u64,
    rows: u64,
    columns: u32,
    history: u32,
    epsilon: f32,
    truncate: u32,
}
const _: () = assert!(size_of::<QuantiseParams>() == 80);
// SAFETY: repr(C) without padding, equal to the struct in quantise.cu.
unsafe impl KernelParams for QuantiseParams {}

/// How a matrix is divided among scales, and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// E4M3, one f32 scale.
    Tensor,
    /// E4M3, an f32 scale for each row.
    Row,
    /// As [`Scheme::Row`], of GELU of the source.
    GeluRow,
    /// As [`Scheme::Row`], of the layer norm of each row of the source.
    NormRow,
    /// E4M3, an f32 scale for 128 columns of a row; scales by `[columns / 128][rows]`.
    Block128,
    /// E4M3, an f32 scale for 128 rows by 128 columns; scales by `[rows / 128][columns / 128]`, the
    /// latter padded to a multiple of 4.
    Square128,
    /// E2M1 with an E4M3 scale for 16 columns of a row and an f32 scale of the whole.
    Nvfp4,
    /// E4M3 with a UE8M0 scale for 32 columns of a row.
    Mxfp8,
    /// E2M1 with a UE8M0 scale for 32 columns of a row.
    Mxfp4,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 9] = [
        Scheme::Tensor,
        Scheme::Row,
        Scheme::GeluRow,
        Scheme::NormRow,
        Scheme::Block128,
        Scheme::Square128,
        Scheme::Nvfp4,
        Scheme::Mxfp8,
        Scheme::Mxfp4,
    ];

    /// As evidence names it.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Tensor => "tensor",
            Scheme::Row => "row",
            Scheme::GeluRow => "gelu-row",
            Scheme::NormRow => "norm-row",
            Scheme::Block128 => "block-1x128",
            Scheme::Square128 => "block-128x128",
            Scheme::Nvfp4 => "nvfp4",
            Scheme::Mxfp8 => "mxfp8",
            Scheme::Mxfp4 => "mxfp4",
        }
    }

    /// Bits of a code.
    pub fn code_bits(self) -> u64 {
        if matches!(self, Scheme::Nvfp4 | Scheme::Mxfp4) { 4 } else { 8 }
    }

    /// Columns that share a microscaling scale; `None` for schemes with f32 scales.
    pub fn micro_columns(self) -> Option<u32> {
        match self {
            Scheme::Nvfp4 => Some(16),
            Scheme::Mxfp8 | Scheme::Mxfp4 => Some(32),
            _ => None,
        }
    }

    /// Bytes of the codes of a matrix.
    pub fn code_bytes(self, rows: u64, columns: u32) -> u64 {
        rows * u64::from(columns) * self.code_bits() / 8
    }

    /// Bytes of its scales, padding included.
    pub fn scale_bytes(self, rows: u64, columns: u32) -> u64 {
        let hundreds = u64::from(columns) / 128;
        match self {
            Scheme::Tensor => 4,
            Scheme::Row | Scheme::GeluRow | Scheme::NormRow => 4 * rows,
            Scheme::Block128 => 4 * rows * hundreds,
            Scheme::Square128 => 4 * rows.div_ceil(128) * hundreds.next_multiple_of(4),
            Scheme::Nvfp4 | Scheme::Mxfp8 | Scheme::Mxfp4 => {
                let blocks = columns / self.micro_columns().unwrap_or(columns);
                rows.next_multiple_of(128) * u64::from(blocks).next_multiple_of(4)
            }
        }
    }

    /// Fewest bytes that must move for a matrix: fp16 in, codes and scales out.
    pub fn moved_bytes(self, rows: u64, columns: u32) -> u64 {
        let halves = 2 * rows * u64::from(columns);
        halves + self.code_bytes(rows, columns) + self.scale_bytes(rows, columns)
    }
}

/// A quantised matrix: the buffers of codes and scales.
#[derive(Debug)]
pub struct Quantised {
    /// Codes, packed; of 4 bits two in a byte, the first in the low half.
    pub codes: Buffer,
    /// Scales; see [`Scheme`]. What pads them is not written.
    pub scales: Buffer,
}

impl Quantised {
    /// Memory for a matrix.
    pub fn new(gpu: &Gpu, scheme: Scheme, rows: u64, columns: u32) -> Result<Quantised> {
        Ok(Quantised {
            codes: gpu.alloc(scheme.code_bytes(rows, columns))?,
            scales: gpu.alloc(scheme.scale_bytes(rows, columns))?,
        })
    }
}

/// An fp16 matrix in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// Element at which the first row begins, a multiple of 8.
    pub first: u64,
}

impl<'a> From<&'a Buffer> for Source<'a> {
    fn from(buffer: &'a Buffer) -> Source<'a> {
        Source { buffer, first: 0 }
    }
}

/// What some schemes read besides the matrix.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extra<'a> {
    /// [`Scheme::Tensor`], [`Scheme::Nvfp4`]: f32 largest magnitudes, one or (tensor) a history.
    pub amax: Option<&'a Buffer>,
    /// [`Scheme::Tensor`]: raised to the largest magnitude of the source.
    pub recorded: Option<&'a Buffer>,
    /// [`Scheme::NormRow`]: gain and bias, one half for each column, and epsilon.
    pub norm: Option<(&'a Buffer, &'a Buffer, f32)>,
    /// Codes are rounded toward zero where the format has normal numbers: a planted fault.
    pub truncate: bool,
}

/// The entries of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Quantiser {
    rows: [Function; 2],
    gelu_rows: [Function; 2],
    norm_rows: [Function; 2],
    largest: Function,
    tensor: Function,
    block128: Function,
    nvfp4: Function,
    mxfp8: Function,
    mxfp4: Function,
    square128: Function,
    resident_blocks: u32,
}

impl Quantiser {
    /// Finds the entries.
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Quantiser> {
        Ok(Quantiser {
            rows: [module.entry("quantise_row")?, module.entry("quantise_row_long")?],
            gelu_rows: [
                module.entry("quantise_gelu_row")?,
                module.entry("quantise_gelu_row_long")?,
            ],
            norm_rows: [
                module.entry("quantise_norm_row")?,
                module.entry("quantise_norm_row_whole")?,
            ],
            largest: module.entry("quantise_largest")?,
            tensor: module.entry("quantise_tensor")?,
            block128: module.entry("quantise_block128")?,
            nvfp4: module.entry("quantise_nvfp4")?,
            mxfp8: module.entry("quantise_mxfp8")?,
            mxfp4: module.entry("quantise_mxfp4")?,
            square128: module.entry("quantise_square128")?,
            resident_blocks: gpu.sm_count * 8,
        })
    }

    /// Enqueues raising `recorded`, an f32, to the largest magnitude of an fp16 matrix.
    pub fn largest(
        &self,
        stream: &CudaStream,
        source: &Buffer,
        (rows, columns): (u64, u32),
        recorded: &Buffer,
    ) -> Result<()> {
        let mut params = params_of(Scheme::Tensor, stream, source.into(), (rows, columns))?;
        inside("largest magnitude", 0, 4, recorded.len_bytes())?;
        stream.same_context(recorded.context())?;
        params.recorded = recorded.ptr();
        let grid = Grid::linear(self.resident_blocks, 256);
        // SAFETY: the matrix and the word lie inside their buffers.
        unsafe { self.largest.launch(stream, grid, &params) }
    }

    /// Enqueues the quantisation of an fp16 matrix `[rows][columns]`.
    ///
    /// Errors: columns that are no multiple of 128, rows of a square that are none of 128, rows that are
    /// too long, a buffer that is too small or of another GPU, a scheme without what it reads besides.
    pub fn run<'a>(
        &self,
        stream: &CudaStream,
        scheme: Scheme,
        source: impl Into<Source<'a>>,
        (rows, columns): (u64, u32),
        target: &Quantised,
        extra: Extra<'_>,
    ) -> Result<()> {
        let mut params = params_of(scheme, stream, source.into(), (rows, columns))?;
        inside("codes", 0, scheme.code_bytes(rows, columns), target.codes.len_bytes())?;
        inside("scales", 0, scheme.scale_bytes(rows, columns), target.scales.len_bytes())?;
        stream.same_context(target.codes.context())?;
        stream.same_context(target.scales.context())?;
        params.target = target.codes.ptr();
        params.scales = target.scales.ptr();
        params.truncate = extra.truncate.into();
        extras(scheme, stream, columns, extra, &mut params)?;
        let (function, grid) = self.launch_of(scheme, rows, columns)?;
        // SAFETY: the matrix, codes, scales and extras lie inside their buffers, as checked.
        unsafe { function.launch(stream, grid, &params) }
    }

    fn launch_of(&self, scheme: Scheme, rows: u64, columns: u32) -> Result<(&Function, Grid)> {
        let most = if scheme == Scheme::NormRow { SHORT_ROW } else { LONG_ROW };
        let in_registers = matches!(scheme, Scheme::Row | Scheme::GeluRow | Scheme::NormRow);
        if in_registers && columns > most {
            let what = format!("{}: rows of {columns}, at most {most}", scheme.name());
            return Err(Error::Shape { what });
        }
        let long = columns > SHORT_ROW;
        let by_row = |short: u32| Grid::linear(rows as u32, if long { 512 } else { short });
        let flat = || {
            let blocks = (rows * u64::from(columns)).div_ceil(ELEMENTS_PER_BLOCK);
            Grid::linear(blocks as u32, 256)
        };
        // A block takes a part of one row.
        let parts = || {
            let blocks = rows * u64::from(columns).div_ceil(ELEMENTS_PER_BLOCK);
            Grid::linear(blocks as u32, 256)
        };
        Ok(match scheme {
            Scheme::Row => (&self.rows[usize::from(long)], by_row(256)),
            Scheme::GeluRow => (&self.gelu_rows[usize::from(long)], by_row(128)),
            Scheme::NormRow => (&self.norm_rows[usize::from(columns == SHORT_ROW)], by_row(256)),
            Scheme::Tensor => (&self.tensor, flat()),
            Scheme::Block128 => (&self.block128, parts()),
            Scheme::Nvfp4 => (&self.nvfp4, parts()),
            Scheme::Mxfp8 => (&self.mxfp8, parts()),
            Scheme::Mxfp4 => (&self.mxfp4, parts()),
            Scheme::Square128 => {
                let blocks = rows / 128 * u64::from(columns / 128);
                (&self.square128, Grid::linear(blocks as u32, 256))
            }
        })
    }
}

/// Takes in what a scheme reads besides the matrix.
fn extras(
    scheme: Scheme,
    stream: &CudaStream,
    columns: u32,
    extra: Extra<'_>,
    params: &mut QuantiseParams,
) -> Result<()> {
    match (scheme, extra.amax) {
        (Scheme::Tensor | Scheme::Nvfp4, Some(amax)) => {
            inside("largest magnitudes", 0, 4, amax.len_bytes())?;
            stream.same_context(amax.context())?;
            params.amax = amax.ptr();
            params.history = (amax.len_bytes() / 4) as u32;
        }
        (Scheme::Tensor | Scheme::Nvfp4, None) => {
            let what = format!("{} without largest magnitudes", scheme.name());
            return Err(Error::Shape { what });
        }
        _ => {}
    }
    if let Some(recorded) = extra.recorded {
        inside("largest magnitude", 0, 4, recorded.len_bytes())?;
        stream.same_context(recorded.context())?;
        params.recorded = recorded.ptr();
    }
    match (scheme, extra.norm) {
        (Scheme::NormRow, Some((gain, bias, epsilon))) => {
            for (what, buffer) in [("gain", gain), ("bias", bias)] {
                inside(what, 0, 2 * u64::from(columns), buffer.len_bytes())?;
                stream.same_context(buffer.context())?;
            }
            params.gain = gain.ptr();
            params.bias = bias.ptr();
            params.epsilon = epsilon;
            Ok(())
        }
        (Scheme::NormRow, None) => {
            Err(Error::Shape { what: "norm-row without gain and bias".into() })
        }
        _ => Ok(()),
    }
}

/// The parameters of a matrix whose shape is allowed and which lies inside its buffer.
fn params_of(
    scheme: Scheme,
    stream: &CudaStream,
    source: Source<'_>,
    (rows, columns): (u64, u32),
) -> Result<QuantiseParams> {
    let squares = scheme != Scheme::Square128 || rows.is_multiple_of(128);
    let wrong = if rows == 0 || rows > 1 << 24 {
        Some("1 to 2^24 rows")
    } else if columns == 0 || !columns.is_multiple_of(128) {
        Some("columns come in 128s")
    } else if !squares {
        Some("rows of squares come in 128s")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        let what = format!("{}: {rows} x {columns}: {wrong}", scheme.name());
        return Err(Error::Shape { what });
    }
    let Source { buffer, first } = source;
    if !first.is_multiple_of(8) {
        let what = format!("{}: a matrix from element {first} on", scheme.name());
        return Err(Error::Shape { what });
    }
    inside("source", 2 * first, 2 * rows * u64::from(columns), buffer.len_bytes())?;
    stream.same_context(buffer.context())?;
    Ok(QuantiseParams {
        source: buffer.ptr() + 2 * first,
        target: 0,
        scales: 0,
        amax: 0,
        recorded: 0,
        gain: 0,
        bias: 0,
        rows,
        columns,
        history: 0,
        epsilon: 0.0,
        truncate: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_by_hand() {
        assert_eq!(Scheme::Row.scale_bytes(10, 256), 40);
        assert_eq!(Scheme::Block128.scale_bytes(10, 256), 80);
        // Two squares of columns, padded to four.
        assert_eq!(Scheme::Square128.scale_bytes(256, 256), 32);
        // 10 rows padded to 128, 16 blocks of 16 columns.
        assert_eq!(Scheme::Nvfp4.scale_bytes(10, 256), 2048);
        assert_eq!(Scheme::Mxfp4.code_bytes(10, 256), 1280);
        assert_eq!(Scheme::Row.moved_bytes(2, 128), 512 + 256 + 8);
        assert_eq!(Scheme::Mxfp8.moved_bytes(128, 128), 32768 + 16384 + 512);
    }
}
