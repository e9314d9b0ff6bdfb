//! Queries, keys and values in E4M3 with a scale for each head of each sequence.
//!
//! A scale is the least power of two by which nothing of its head exceeds E4M3's 448. E4M3 is a floating
//! format, so a finer scale would make it no finer; and with this one scaling is exact and 16-bit numbers
//! hold exactly what E4M3 does, so that an oracle over 16-bit operands judges the product alone.

use super::{Shape, Sizes, Tensor};
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::Element;
use crate::memory::inside;
use crate::peer::{self, Rows};
use crate::{Error, KernelSource, Result};

/// The quantiser.
pub const SOURCE: KernelSource = KernelSource {
    name: "attention-quantise",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("quantise.cu")
    ),
    entries: &["attention_largest", "attention_quantise"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// The only head size that E4M3 attention has: a row of one is 128 bytes, one swizzled chunk.
pub const HEAD_SIZE: u32 = 128;
/// Keys of a transposed tensor are padded to whole tiles.
const PAD_KEYS: u32 = 128;
const TILE_ROWS: u32 = 64;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct QuantiseParams {
    source: u64,
    largest: u64,
    scales: u64,
    target: u64,
    rounded: u64,
    steps: [i64; 3],
    heads: u32,
    rows: u32,
    padded: u32,
    transposed: u32,
    tiles: u32,
    element: u32,
}
const _: () = assert!(size_of::<QuantiseParams>() == 88);
// SAFETY: repr(C) without padding, equal to the struct in quantise.cu.
unsafe impl KernelParams for QuantiseParams {}

/// How a tensor lies in memory once it is E4M3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[batch][row][head][element]`: queries and keys.
    Rows,
    /// `[batch][head][element][key]` with keys padded to whole tiles by zeros, and those of each 16 in
    /// the order of the kernel's fragments: values.
    Transposed,
}

impl Layout {
    /// Rows of a head that are kept, padding included.
    fn kept(self, rows: u32) -> u64 {
        match self {
            Layout::Rows => rows.into(),
            Layout::Transposed => rows.next_multiple_of(PAD_KEYS).into(),
        }
    }

    /// Bytes of a head's codes.
    fn head_bytes(self, rows: u32) -> u64 {
        self.kept(rows) * u64::from(HEAD_SIZE)
    }
}

/// Bytes of a tensor of so many heads of 128 in E4M3, its scales and its largest magnitudes.
pub fn bytes(layout: Layout, batches: u32, rows: u32, heads: u32) -> u64 {
    u64::from(batches) * u64::from(heads) * (layout.head_bytes(rows) + 8)
}

/// A tensor in E4M3.
#[derive(Debug)]
pub struct Quantised {
    /// Codes.
    pub codes: Buffer,
    /// f32 for each `[batch][head]`.
    pub scales: Buffer,
    largest: Buffer,
    layout: Layout,
    batches: u32,
    rows: u32,
    heads: u32,
}

impl Quantised {
    /// Memory for a tensor of so many heads of 128.
    pub fn allocate(
        gpu: &Gpu,
        layout: Layout,
        batches: u32,
        rows: u32,
        heads: u32,
    ) -> Result<Quantised> {
        let lines = u64::from(batches) * u64::from(heads);
        Ok(Quantised {
            codes: gpu.alloc(layout.head_bytes(rows) * lines)?,
            scales: gpu.alloc(4 * lines)?,
            largest: gpu.alloc(4 * lines)?,
            layout,
            batches,
            rows,
            heads,
        })
    }

    /// Where it lies, in bytes; of a transposed one `row` is the step from one element to the next.
    pub fn tensor(&self) -> Tensor<'_> {
        match self.layout {
            Layout::Rows => Tensor::packed(&self.codes, self.rows, self.heads, HEAD_SIZE),
            Layout::Transposed => {
                let row = self.layout.kept(self.rows);
                let head = self.layout.head_bytes(self.rows);
                let batch = head * u64::from(self.heads);
                Tensor { buffer: &self.codes, offset: 0, row, head, batch }
            }
        }
    }

    /// What the first `count` rows of a head of the first sequence hold, as codes of halves, [row][[`HEAD_SIZE`]]; waits.
    ///
    /// Errors: [`Error::Shape`] for a head or rows that it has not.
    pub fn head_rows(
        &self,
        (gpu, stream): (&Gpu, &CudaStream),
        head: u32,
        count: u32,
    ) -> Result<Vec<u16>> {
        if head >= self.heads || count > self.rows {
            let what = format!("{count} rows of head {head} in E4M3");
            return Err(Error::Shape { what });
        }
        let mut scale = [0f32];
        self.scales.read(stream, 4 * u64::from(head), &mut scale)?;
        // Scales are powers of two: halves hold these numbers exactly.
        let number = |code| (Element::E4m3.decode(code) * f64::from(scale[0])) as f32;
        let halves: Vec<u16> =
            (0..256).map(|code| Element::F16.encode(number(code)) as u16).collect();
        let (size, count) = (HEAD_SIZE as usize, count as usize);
        let mut out = vec![0; count * size];
        match self.layout {
            Layout::Rows => {
                let offset = u64::from(head * HEAD_SIZE);
                let pitch = u64::from(self.heads * HEAD_SIZE);
                let from = Rows { buffer: &self.codes, offset, pitch };
                let rows = count as u32;
                let codes = peer::read_rows::<u8>((gpu, stream), from, HEAD_SIZE.into(), rows)?;
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = halves[usize::from(code)];
                }
            }
            Layout::Transposed => {
                let mut codes = vec![0u8; count.next_multiple_of(16)];
                for element in 0..size {
                    let row = u64::from(head * HEAD_SIZE) + element as u64;
                    self.codes.read(stream, row * self.layout.kept(self.rows), &mut codes)?;
                    for key in 0..count {
                        let at = key / 16 * 16 + place_of(key % 16);
                        out[key * size + element] = halves[usize::from(codes[at])];
                    }
                }
            }
        }
        Ok(out)
    }

    /// Overwrites it with NaN.
    pub fn poison(&self, stream: &CudaStream) -> Result<()> {
        [&self.codes, &self.scales].into_iter().try_for_each(|buffer| buffer.poison(stream))
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> u64 {
        self.codes.len_bytes() + self.scales.len_bytes() + self.largest.len_bytes()
    }
}

/// Scales of the heads of one tensor: f32 for each `[batch][head]`, as many as the launch has, no more.
///
/// A launch numbers its own sequences and heads from 0. One that has a share of them is given the part of
/// the scales that is theirs; the whole is refused, since its first scales would be another share's.
#[derive(Debug, Clone, Copy)]
pub struct HeadScales<'a> {
    buffer: &'a Buffer,
    first: u64,
    count: u64,
}

impl<'a> HeadScales<'a> {
    /// All numbers of a buffer.
    pub fn whole(buffer: &'a Buffer) -> HeadScales<'a> {
        HeadScales { buffer, first: 0, count: buffer.len_bytes() / 4 }
    }

    /// `count` numbers of a buffer from `first` on.
    pub fn part(buffer: &'a Buffer, first: u64, count: u64) -> HeadScales<'a> {
        HeadScales { buffer, first, count }
    }

    /// The memory.
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    pub(crate) fn address(&self) -> u64 {
        self.buffer.ptr() + 4 * self.first
    }

    pub(crate) fn check(&self, what: &str, wanted: u64) -> Result<()> {
        exactly(what, self.count, wanted)?;
        inside(what, 4 * self.first, 4 * self.count, self.buffer.len_bytes())
    }
}

fn exactly(what: &str, given: u64, wanted: u64) -> Result<()> {
    if given == wanted {
        return Ok(());
    }
    Err(Error::Shape { what: format!("{given} {what}, wanted {wanted}") })
}

/// Scales of an attention whose queries, keys and values are E4M3.
#[derive(Debug, Clone, Copy)]
pub struct Scales<'a> {
    /// Of queries.
    pub q: HeadScales<'a>,
    /// Of keys.
    pub k: HeadScales<'a>,
    /// Of values.
    pub v: HeadScales<'a>,
}

impl Scales<'_> {
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        let lines = |heads: u32| u64::from(shape.batches) * u64::from(heads);
        self.q.check("scales of queries", lines(shape.heads))?;
        self.k.check("scales of keys", lines(shape.kv_heads))?;
        self.v.check("scales of values", lines(shape.kv_heads))
    }
}

/// The loaded quantiser.
#[derive(Debug)]
pub struct Quantiser {
    largest: Function,
    quantise: Function,
}

impl Quantiser {
    /// Finds the entries of [`SOURCE`].
    pub fn new(module: &Module) -> Result<Quantiser> {
        Ok(Quantiser {
            largest: module.entry("attention_largest")?,
            quantise: module.entry("attention_quantise")?,
        })
    }

    /// Enqueues the conversion of a tensor of `element`. Where `rounded` is given, what E4M3 holds is
    /// written there in `element`, packed.
    ///
    /// Errors: [`Error::Shape`] for an element that is not 16-bit or a buffer that is too small.
    pub fn run(
        &self,
        stream: &CudaStream,
        source: &Tensor<'_>,
        element: Element,
        target: &Quantised,
        rounded: Option<&Buffer>,
    ) -> Result<()> {
        let launch = self.launch(source, element, target, (0, target.rows), rounded)?;
        target.largest.fill_u32(stream, 0)?;
        // SAFETY: as in `converted`.
        unsafe { self.largest.launch(stream, launch.1, &launch.0)? };
        self.converted(stream, launch)
    }

    /// Enqueues the conversion of `rows` rows of `element` that follow `first` others of one sequence in `target`, with a
    /// scale of 1: what is kept of earlier rows needs no other when larger ones come. E4M3 is as fine at any scale;
    /// magnitudes beyond 448 saturate, and below 2^-6 steps are of 2^-9.
    ///
    /// Errors: as [`Quantiser::run`]; more than one sequence, rows beyond the target's, or a first row within a tile of 64.
    pub fn append(
        &self,
        stream: &CudaStream,
        source: &Tensor<'_>,
        element: Element,
        target: &Quantised,
        (first, rows): (u32, u32),
    ) -> Result<()> {
        let end = first.checked_add(rows).filter(|end| *end <= target.rows);
        if target.batches != 1 || end.is_none() || !first.is_multiple_of(TILE_ROWS) {
            let (batches, all) = (target.batches, target.rows);
            let what =
                format!("{rows} rows behind {first} in E4M3, of {all} of {batches} sequences");
            return Err(Error::Shape { what });
        }
        let launch = self.launch(source, element, target, (first, rows), None)?;
        target.largest.fill_u32(stream, LARGEST_OF_ONE.to_bits())?;
        self.converted(stream, launch)
    }

    fn converted(&self, stream: &CudaStream, (params, grid): (QuantiseParams, Grid)) -> Result<()> {
        // SAFETY: `launch` checked the source, `rounded` and the rows of the target, which
        // `Quantised::allocate` made; the buffers outlive the launch, since cuMemFree waits for work in flight.
        unsafe { self.quantise.launch(stream, grid, &params) }
    }

    /// What converts `rows` rows to those of the target from `first` on, which is 0 of several sequences.
    fn launch(
        &self,
        source: &Tensor<'_>,
        element: Element,
        target: &Quantised,
        (first, rows): (u32, u32),
        rounded: Option<&Buffer>,
    ) -> Result<(QuantiseParams, Grid)> {
        if !matches!(element, Element::F16 | Element::Bf16) {
            return Err(Error::Shape { what: format!("E4M3 from {element:?}") });
        }
        let Quantised { batches, heads, layout, .. } = *target;
        let sizes = Sizes { batches, rows, heads, head_size: HEAD_SIZE };
        source.check("source", sizes, 2)?;
        if let Some(rounded) = rounded {
            Tensor::packed(rounded, rows, heads, HEAD_SIZE).check("rounded", sizes, 2)?;
        }
        let targets = [&target.codes, &target.scales, &target.largest];
        let buffers = [source.buffer].into_iter().chain(targets).chain(rounded);
        self.quantise.same_context(buffers)?;
        let transposed = layout == Layout::Transposed;
        // Whole tiles of 128 to the end; before it the tiles that rows begin in.
        let to_the_end = transposed && first + rows == target.rows;
        let padded = target.rows.next_multiple_of(PAD_KEYS);
        let tiles =
            if to_the_end { (padded - first) / TILE_ROWS } else { rows.div_ceil(TILE_ROWS) };
        // From one row of a target to the next, or of a transposed one from one key to the next.
        let step = if transposed { 1 } else { u64::from(heads * HEAD_SIZE) };
        let params = QuantiseParams {
            source: source.address(2),
            largest: target.largest.ptr(),
            scales: target.scales.ptr(),
            target: target.codes.ptr() + u64::from(first) * step,
            rounded: rounded.map_or(0, Buffer::ptr),
            steps: [source.row, source.head, source.batch].map(|step| step as i64),
            heads,
            rows,
            padded,
            transposed: u32::from(transposed),
            tiles,
            element: element.code(),
        };
        let blocks = u64::from(tiles) * u64::from(heads) * u64::from(batches);
        let blocks = i32::try_from(blocks)
            .map_err(|_| Error::Shape { what: format!("{blocks} tiles to quantise at once") })?
            as u32;
        Ok((params, Grid::linear(blocks, 256)))
    }
}

/// The largest magnitude of which [`SOURCE`] makes a scale of 1.
const LARGEST_OF_ONE: f32 = 448.0;

/// Where a key of 16 stands in a transposed tensor, as `place_of` of quantise.cu has it.
fn place_of(key: usize) -> usize {
    key % 8 / 2 * 4 + key / 8 * 2 + key % 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_sixteen_have_places_of_their_own() {
        let places: std::collections::BTreeSet<usize> = (0..16).map(place_of).collect();
        assert_eq!(places, (0..16).collect());
        assert_eq!([0, 1, 8, 9, 2].map(place_of), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn scales_of_another_share_are_refused() {
        assert!(exactly("scales of keys", 4, 4).is_ok());
        let error = exactly("scales of keys", 8, 4).expect_err("refused").to_string();
        assert!(error.contains("8 scales of keys, wanted 4"), "{error}");
    }
}
