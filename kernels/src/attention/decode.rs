//! A few new queries over a cache of keys and values.

use super::quantise::HeadScales;
use super::variant::{Kernel, RING_STAGES, Variant};
use super::{Data, Shape, Sizes, Tensor};
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::memory::inside;
use crate::{Error, Result};

/// Rows of a block: new queries of a sequence times heads that share a head of keys.
pub const MOST_ROWS: u32 = 16;

const WARPS: u32 = 4;
const SLAB_KEYS: u32 = 16;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct DecodeParams {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    partial: u64,
    weights: u64,
    lengths: u64,
    pages: u64,
    k_scales: u64,
    v_scales: u64,
    data: u64,
    q_steps: [i64; 3],
    k_steps: [i64; 3],
    v_steps: [i64; 3],
    batches: u32,
    heads: u32,
    group: u32,
    rows: u32,
    splits: u32,
    page_size: u32,
    page_stride: u32,
    left: i32,
    count: i32,
    number: i32,
    factor: f32,
    scale: f32,
    early: u32,
    unused: u32,
}
const _: () = assert!(size_of::<DecodeParams>() == 216);
// SAFETY: repr(C) without padding, equal to the struct in decode.cu.
unsafe impl KernelParams for DecodeParams {}

/// Where the pages of each sequence are.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// Page numbers, i32 `[batch][stride]`.
    pub table: &'a Buffer,
    /// Numbers of a sequence.
    pub stride: u32,
    /// Keys of a page, a multiple of 16.
    pub keys: u32,
    /// Pages of the cache.
    pub count: u32,
}

/// One decoding step.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Sizes; `queries` new ones of each sequence, `keys` is the most that a sequence may have.
    pub shape: Shape,
    /// Queries; outputs lie alike.
    pub q: Tensor<'a>,
    /// Keys of the cache; `batch` steps from page to page where it is paged.
    pub k: Tensor<'a>,
    /// Values of the cache.
    pub v: Tensor<'a>,
    /// Outputs, with the steps of `q`.
    pub out: Tensor<'a>,
    /// Keys of each sequence, the new ones included: i32.
    pub lengths: &'a Buffer,
    /// Given for a paged cache.
    pub pages: Option<Pages<'a>>,
    /// Scales of an E4M3 cache, one for each head of keys, of all sequences: of keys, then of values.
    pub scales: Option<(HeadScales<'a>, HeadScales<'a>)>,
    /// Keys before its own position that a query sees; a program's mask replaces it.
    pub left: Option<u32>,
    /// Factor of q k.
    pub scale: f32,
    /// What the program reads.
    pub data: Data<'a>,
}

impl<'a> Step<'a> {
    /// Everything that it names.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &'a Buffer> + use<'a> {
        let tensors = [self.q, self.k, self.v, self.out].map(|tensor| tensor.buffer);
        let scales = self.scales.map(|(keys, values)| [keys.buffer(), values.buffer()]);
        tensors
            .into_iter()
            .chain([self.lengths])
            .chain(self.data.numbers)
            .chain(self.pages.map(|pages| pages.table))
            .chain(scales.into_iter().flatten())
    }
}

/// The loaded kernels.
#[derive(Debug)]
pub struct Decode {
    decode: Function,
    combine: Function,
    variant: Variant,
    max_shared_bytes: u32,
}

/// Memory for the partial results of splits, for one step at a time: steps that may overlap, on several
/// streams, take one each.
#[derive(Debug)]
pub struct Splits {
    count: u32,
    memory: Option<(Buffer, Buffer)>,
}

impl Splits {
    /// Memory for `count` splits of a step; one split needs none. The caller chooses the count, and
    /// the bits of a result depend on it and on nothing else.
    pub fn new(gpu: &Gpu, shape: &Shape, count: u32) -> Result<Splits> {
        shape.check()?;
        if count == 0 || count > 256 {
            return Err(Error::Shape { what: format!("{count} splits, of 1 to 256") });
        }
        let lines = u64::from(shape.batches)
            * u64::from(shape.heads)
            * u64::from(shape.queries)
            * u64::from(count);
        let memory = match count {
            1 => None,
            _ => Some((gpu.alloc(4 * lines * u64::from(shape.head_size))?, gpu.alloc(8 * lines)?)),
        };
        Ok(Splits { count, memory })
    }

    /// Bytes of the memory.
    pub fn bytes(&self) -> u64 {
        self.buffers().map(Buffer::len_bytes).sum()
    }

    fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.memory.iter().flat_map(|(partial, weights)| [partial, weights])
    }
}

/// A step whose shapes are checked, ready to be enqueued any number of times.
#[derive(Debug)]
pub struct Prepared<'a> {
    kernel: &'a Decode,
    params: DecodeParams,
    grid: Grid,
}

impl Prepared<'_> {
    /// Begins before the work in front of it has ended, where the GPU can, and waits for it once the first keys and
    /// values are on their way. What is in front, or may still run, may write no keys and values but those of the step's
    /// own queries, and neither lengths nor pages.
    pub fn early(mut self) -> Self {
        self.grid.early = true;
        self.params.early = 1;
        self
    }

    /// Enqueues it, and the sum over splits where there are any.
    pub fn launch(&self, stream: &CudaStream) -> Result<()> {
        let Prepared { kernel, params, grid } = self;
        let rows = params.batches * params.heads * params.rows;
        // SAFETY: `prepare` checked every range against its buffer, and the buffers outlive self;
        // cuMemFree waits for work in flight.
        unsafe {
            kernel.decode.launch(stream, *grid, params)?;
            if params.splits > 1 {
                let threads = kernel.variant.head_size;
                let grid = Grid { early: true, ..Grid::linear(rows, threads) };
                kernel.combine.launch(stream, grid, params)?;
            }
        }
        Ok(())
    }
}

impl Decode {
    /// Finds the entries of a variant of [`Kernel::Decode`].
    pub fn new(gpu: &Gpu, module: &Module, variant: Variant) -> Result<Decode> {
        if !matches!(variant.kernel, Kernel::Decode { .. }) {
            return Err(Error::Shape { what: format!("{} does not decode", variant.name()) });
        }
        Ok(Decode {
            decode: module.entry("attention_decode")?,
            combine: module.entry("attention_combine")?,
            variant,
            max_shared_bytes: gpu.max_shared_per_block_bytes,
        })
    }

    /// Bytes of an element of the cache.
    pub fn cache_bytes(&self) -> u64 {
        if self.variant.kernel == (Kernel::Decode { e4m3: true }) { 1 } else { 2 }
    }

    /// Checks everything and makes the launches.
    ///
    /// Errors: [`Error::Shape`] for sizes, steps or buffers that do not fit, and for more rows than
    /// [`MOST_ROWS`].
    pub fn prepare<'a>(&'a self, step: &Step<'a>, splits: &'a Splits) -> Result<Prepared<'a>> {
        let shape = step.shape;
        self.check(step, splits)?;
        self.decode.same_context(step.buffers().chain(splits.buffers()))?;
        let steps = |t: &Tensor<'_>| [t.row, t.head, t.batch].map(|step| step as i64);
        let bytes = self.cache_bytes();
        let (partial, weights) =
            splits.memory.as_ref().map_or((0, 0), |(sums, weights)| (sums.ptr(), weights.ptr()));
        let params = DecodeParams {
            q: step.q.address(2),
            k: step.k.address(bytes),
            v: step.v.address(bytes),
            out: step.out.address(2),
            partial,
            weights,
            lengths: step.lengths.ptr(),
            pages: step.pages.map_or(0, |pages| pages.table.ptr()),
            k_scales: step.scales.map_or(0, |(keys, _)| keys.address()),
            v_scales: step.scales.map_or(0, |(_, values)| values.address()),
            data: step.data.address(),
            q_steps: steps(&step.q),
            k_steps: steps(&step.k),
            v_steps: steps(&step.v),
            batches: shape.batches,
            heads: shape.heads,
            group: shape.group(),
            rows: shape.queries,
            splits: splits.count,
            page_size: step.pages.map_or(0, |pages| pages.keys),
            page_stride: step.pages.map_or(0, |pages| pages.stride),
            left: step.left.map_or(1 << 30, |left| left.min(1 << 30) as i32),
            count: step.data.count(),
            number: step.data.number,
            factor: step.data.factor,
            scale: step.scale,
            early: 0,
            unused: 0,
        };
        let slab = bytes as u32 * shape.head_size * SLAB_KEYS;
        // At the end the warps' sums and weights take the place of their rings.
        let added = WARPS * MOST_ROWS * (4 * shape.head_size + 8);
        let shared_bytes = (WARPS * RING_STAGES * 2 * slab).max(added);
        if shared_bytes > self.max_shared_bytes {
            let what = format!("{shared_bytes} of {} shared bytes", self.max_shared_bytes);
            return Err(Error::Shape { what });
        }
        let blocks = shape.batches * shape.kv_heads * splits.count;
        let grid = Grid { shared_bytes, ..Grid::linear(blocks, 32 * WARPS) };
        Ok(Prepared { kernel: self, params, grid })
    }

    fn check(&self, step: &Step<'_>, splits: &Splits) -> Result<()> {
        let shape = step.shape;
        shape.check()?;
        step.data.check()?;
        let refused = |what: String| Err(Error::Shape { what });
        if shape.head_size != self.variant.head_size {
            return refused(format!("{shape:?} in {}", self.variant.name()));
        }
        if shape.queries * shape.group() > MOST_ROWS {
            let rows = shape.queries * shape.group();
            return refused(format!("{rows} rows of queries, {MOST_ROWS} at most"));
        }
        if !(step.scale.is_finite() && step.scale > 0.0) {
            return refused(format!("a scale of {}", step.scale));
        }
        let (Shape { batches, heads, kv_heads, queries, keys, head_size }, count) =
            (shape, splits.count);
        let blocks = u64::from(batches) * u64::from(heads) * u64::from(queries.max(count));
        if blocks > i32::MAX as u64 {
            return refused(format!("{blocks} blocks"));
        }
        let sizes = |batches, rows, heads| Sizes { batches, rows, heads, head_size };
        step.q.check("queries", sizes(batches, queries, heads), 2)?;
        step.out.check("outputs", sizes(batches, queries, heads), 2)?;
        if (step.q.row, step.q.head, step.q.batch) != (step.out.row, step.out.head, step.out.batch)
        {
            return refused("queries and outputs lie differently".into());
        }
        let cache = match step.pages {
            None => sizes(batches, keys, kv_heads),
            Some(pages) => {
                if pages.keys == 0 || !pages.keys.is_multiple_of(SLAB_KEYS) {
                    return refused(format!("pages of {} keys", pages.keys));
                }
                if pages.stride < keys.div_ceil(pages.keys) {
                    return refused(format!("{} pages for {keys} keys", pages.stride));
                }
                let bytes = 4 * u64::from(batches) * u64::from(pages.stride);
                inside("page table", 0, bytes, pages.table.len_bytes())?;
                sizes(pages.count, pages.keys, kv_heads)
            }
        };
        step.k.check("keys", cache, self.cache_bytes())?;
        step.v.check("values", cache, self.cache_bytes())?;
        inside("lengths", 0, 4 * u64::from(batches), step.lengths.len_bytes())?;
        if let Some((keys, values)) = step.scales {
            keys.check("scales of keys", kv_heads.into())?;
            values.check("scales of values", kv_heads.into())?;
        }
        let lines = u64::from(batches) * u64::from(heads) * u64::from(queries) * u64::from(count);
        if let Some((partial, weights)) = &splits.memory {
            inside("partial results", 0, 4 * lines * u64::from(head_size), partial.len_bytes())?;
            inside("partial weights", 0, 8 * lines, weights.len_bytes())?;
        }
        Ok(())
    }
}
