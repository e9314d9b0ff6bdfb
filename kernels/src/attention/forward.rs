//! Forward attention of whole sequences: one launcher over the two kernels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocks::{BlockMap, Plan};
use super::quantise::Scales;
use super::variant::{Kernel, Variant};
use super::{Data, Shape, Sizes, Tensor};
use crate::device::{Buffer, Context, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::Element;
use crate::memory::inside;
use crate::tensor_map::TensorMap;
use crate::{Error, Result};

/// Stands for no limit, and keeps sums of positions inside an i32.
const UNLIMITED: u32 = 1 << 30;

#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionParams {
    q_map: TensorMap,
    k_map: TensorMap,
    v_map: TensorMap,
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    lse: u64,
    q_offsets: u64,
    k_offsets: u64,
    lists: u64,
    counts: u64,
    masks: u64,
    scheduler: u64,
    data: u64,
    scales: [u64; 3],
    q_steps: [i64; 3],
    k_steps: [i64; 3],
    v_steps: [i64; 3],
    out_steps: [i64; 3],
    batches: u32,
    heads: u32,
    group: u32,
    queries: i32,
    keys: i32,
    q_tiles: u32,
    section: u32,
    list_stride: u32,
    list_heads: u32,
    list_batches: u32,
    left: i32,
    right: i32,
    count: i32,
    number: i32,
    factor: f32,
    scale: f32,
    lse_queries: u32,
    reserved: [u32; 9],
}
const _: () = assert!(size_of::<AttentionParams>() == 704);
// SAFETY: repr(C) without padding, equal to the struct in problem.cuh.
unsafe impl KernelParams for AttentionParams {}

/// Sequences of different lengths, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Ragged<'a> {
    /// First query of each sequence and, last, their number: i32.
    pub query_offsets: &'a Buffer,
    /// The same of keys.
    pub key_offsets: &'a Buffer,
    /// Queries of all sequences.
    pub queries: u32,
    /// Keys of all sequences.
    pub keys: u32,
}

/// One attention.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// Sizes.
    pub shape: Shape,
    /// Queries.
    pub q: Tensor<'a>,
    /// Keys.
    pub k: Tensor<'a>,
    /// Values. What lies behind the last key of a ragged sequence has no influence; a value of weight 0
    /// elsewhere must be finite.
    pub v: Tensor<'a>,
    /// Outputs; 0 where a query sees nothing.
    pub out: Tensor<'a>,
    /// Log-sum-exp of the scores, f32 `[batch][head][query]`, ragged `[head][query]`; minus infinity
    /// where a query sees nothing.
    pub lse: Option<&'a Buffer>,
    /// Given for sequences of different lengths.
    pub ragged: Option<Ragged<'a>>,
    /// Keys before its own position that a query sees; `None` for all. The last query stands beside the
    /// last key. A program's mask replaces both limits.
    pub left: Option<u32>,
    /// Keys behind its own position that a query sees: 0 is causal.
    pub right: Option<u32>,
    /// Factor of q k, usually head_size^-1/2.
    pub scale: f32,
    /// What the program reads.
    pub data: Data<'a>,
    /// Given where queries, keys and values are E4M3. Values then are [`super::quantise::Layout::Transposed`].
    pub scales: Option<Scales<'a>>,
}

impl<'a> Problem<'a> {
    /// Everything that it names.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &'a Buffer> + use<'a> {
        let tensors = [self.q, self.k, self.v, self.out].map(|tensor| tensor.buffer);
        let offsets = self.ragged.map(|ragged| [ragged.query_offsets, ragged.key_offsets]);
        let scales =
            self.scales.map(|scales| [scales.q, scales.k, scales.v].map(|part| part.buffer()));
        tensors
            .into_iter()
            .chain(self.lse)
            .chain(self.data.numbers)
            .chain(offsets.into_iter().flatten())
            .chain(scales.into_iter().flatten())
    }
}

/// The loaded kernel.
#[derive(Debug)]
pub struct Forward {
    function: Function,
    variant: Variant,
    schedulers: Mutex<Schedulers>,
    sm_count: u32,
    l2_bytes: u64,
    max_shared_bytes: u32,
}

/// Streams of which one allocation holds the counters.
const SLAB_STREAMS: u64 = 512;

/// The counters from which the blocks of a launch draw their tiles, two for each stream that has launched:
/// launches of one stream follow each other and leave them at zero, those of two streams may overlap.
#[derive(Debug)]
struct Schedulers {
    slabs: Vec<Buffer>,
    /// Device addresses by number of the stream. A place is not given again: what a stream enqueued may
    /// outlive it.
    places: HashMap<u64, u64>,
}

impl Schedulers {
    fn new(slab: Buffer) -> Schedulers {
        Schedulers { slabs: vec![slab], places: HashMap::new() }
    }

    /// Counters of zero, once the stream has passed.
    fn slab(context: &Arc<Context>, stream: &CudaStream) -> Result<Buffer> {
        let slab = Buffer::new(context, 8 * SLAB_STREAMS)?;
        slab.fill_u32(stream, 0)?;
        stream.synchronize()?;
        Ok(slab)
    }

    /// Address of the stream's counters.
    fn of(&mut self, stream: &CudaStream) -> Result<u64> {
        if let Some(&place) = self.places.get(&stream.id()) {
            return Ok(place);
        }
        let (slab, offset) = place_of(self.places.len() as u64);
        if slab == self.slabs.len() {
            let context = self.slabs[0].context().clone();
            self.slabs.push(Schedulers::slab(&context, stream)?);
        }
        stream.same_context(self.slabs[slab].context())?;
        let place = self.slabs[slab].ptr() + offset;
        self.places.insert(stream.id(), place);
        Ok(place)
    }
}

/// Allocation and byte of the counters of the `number`-th stream.
fn place_of(number: u64) -> (usize, u64) {
    ((number / SLAB_STREAMS) as usize, 8 * (number % SLAB_STREAMS))
}

/// A problem whose shapes are checked, ready to be enqueued any number of times.
#[derive(Debug)]
pub struct Prepared<'a> {
    forward: &'a Forward,
    params: AttentionParams,
    grid: Grid,
}

impl Prepared<'_> {
    /// Enqueues it. Launches on several streams may overlap, since each stream has counters of its own;
    /// a launch that is captured into a graph keeps those of the stream that it was captured from.
    pub fn launch(&self, stream: &CudaStream) -> Result<()> {
        let scheduler = self.forward.schedulers().of(stream)?;
        let params = AttentionParams { scheduler, ..self.params };
        // SAFETY: `prepare` checked every range against its buffer, and the buffers outlive self;
        // cuMemFree waits for work in flight. No other stream's launch draws from the same counters.
        unsafe { self.forward.function.launch(stream, self.grid, &params) }
    }
}

impl Forward {
    /// Finds the entry of a variant's module; its kernel is Hopper or Portable.
    pub fn new(gpu: &Gpu, module: &Module, variant: Variant) -> Result<Forward> {
        let entry = match variant.kernel {
            Kernel::Hopper => "attention_hopper",
            Kernel::Portable => "attention_portable",
            other => return Err(Error::Shape { what: format!("{other:?} is no forward kernel") }),
        };
        let slab = Schedulers::slab(gpu.context(), gpu.stream())?;
        Ok(Forward {
            function: module.entry(entry)?,
            variant,
            schedulers: Mutex::new(Schedulers::new(slab)),
            sm_count: gpu.sm_count,
            l2_bytes: gpu.l2_bytes,
            max_shared_bytes: gpu.max_shared_per_block_bytes,
        })
    }

    /// Checks everything and makes the launch. A program with a mask needs its block map.
    ///
    /// Errors: [`Error::Shape`] for sizes, steps or buffers that do not fit.
    pub fn prepare<'a>(
        &'a self,
        problem: &Problem<'a>,
        blocks: Option<&'a BlockMap>,
    ) -> Result<Prepared<'a>> {
        let shape = problem.shape;
        self.check(problem, blocks)?;
        let lists = blocks.into_iter().flat_map(BlockMap::buffers);
        self.function.same_context(problem.buffers().chain(lists))?;
        let q_tiles = shape.queries.div_ceil(self.variant.tile_queries());
        let tiles = u64::from(shape.batches) * u64::from(shape.heads) * u64::from(q_tiles);
        // Tiles past the last are numbered up to one grid further.
        let tiles = u32::try_from(tiles).ok().filter(|&tiles| tiles < 1 << 30);
        let tiles = tiles.ok_or_else(|| Error::Shape { what: format!("tiles of {shape:?}") })?;
        let steps = |t: &Tensor<'_>| [t.row, t.head, t.batch].map(|step| step as i64);
        let limit = |keys: Option<u32>| keys.unwrap_or(UNLIMITED).min(UNLIMITED) as i32;
        let maps = self.maps(problem)?;
        let bytes = self.variant.element.bytes();
        let of_head =
            |scales: Scales<'_>| [scales.q, scales.k, scales.v].map(|part| part.address());
        let params = AttentionParams {
            q_map: maps[0],
            k_map: maps[1],
            v_map: maps[2],
            q: problem.q.address(bytes),
            k: problem.k.address(bytes),
            v: problem.v.address(bytes),
            out: problem.out.address(2),
            lse: problem.lse.map_or(0, Buffer::ptr),
            q_offsets: problem.ragged.map_or(0, |ragged| ragged.query_offsets.ptr()),
            k_offsets: problem.ragged.map_or(0, |ragged| ragged.key_offsets.ptr()),
            lists: blocks.map_or(0, |map| map.lists.ptr()),
            counts: blocks.map_or(0, |map| map.counts.ptr()),
            masks: blocks.map_or(0, |map| map.masks.ptr()),
            // Of the stream that it is launched on.
            scheduler: 0,
            data: problem.data.address(),
            scales: problem.scales.map_or([0; 3], of_head),
            q_steps: steps(&problem.q),
            k_steps: steps(&problem.k),
            v_steps: steps(&problem.v),
            out_steps: steps(&problem.out),
            batches: shape.batches,
            heads: shape.heads,
            group: shape.group(),
            queries: shape.queries as i32,
            keys: shape.keys as i32,
            q_tiles,
            section: self.section(&shape),
            list_stride: blocks.map_or(0, |map| map.k_tiles),
            list_heads: blocks.map_or(1, |map| map.heads),
            list_batches: blocks.map_or(1, |map| map.batches),
            left: limit(problem.left),
            right: limit(problem.right),
            count: problem.data.count(),
            number: problem.data.number,
            factor: problem.data.factor,
            scale: problem.scale,
            lse_queries: problem.ragged.map_or(shape.queries, |ragged| ragged.queries),
            reserved: [0; 9],
        };
        Ok(Prepared { forward: self, params, grid: self.grid(tiles)? })
    }

    /// Bytes that a launch takes beside inputs, outputs and a block map.
    pub fn workspace_bytes(&self) -> u64 {
        self.schedulers().slabs.iter().map(Buffer::len_bytes).sum()
    }

    fn schedulers(&self) -> MutexGuard<'_, Schedulers> {
        // A place is entered whole or not at all, also where another thread panicked.
        self.schedulers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was compiled.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// Queries and keys of a tile.
    pub(crate) fn tiles(&self) -> (u32, u32) {
        (self.variant.tile_queries(), self.variant.tile_keys())
    }

    /// Keys of a tile.
    pub fn tile_keys(&self) -> u32 {
        self.variant.tile_keys()
    }

    fn check(&self, problem: &Problem<'_>, blocks: Option<&BlockMap>) -> Result<()> {
        let shape = problem.shape;
        shape.check()?;
        problem.data.check()?;
        let refused = |what: String| Err(Error::Shape { what });
        if shape.head_size != self.variant.head_size {
            return refused(format!("{shape:?} in {}", self.variant.name()));
        }
        if !(problem.scale.is_finite() && problem.scale > 0.0) {
            return refused(format!("a scale of {}", problem.scale));
        }
        if self.variant.program.masks() != blocks.is_some() {
            return refused(format!("{} and its block map", self.variant.program.name));
        }
        if let Some(map) = blocks {
            map.fits(&Plan::new(problem, &self.variant.program, self.tiles()))?;
        }
        let (batches, queries, keys) = rows(problem);
        let sizes = |rows, heads| Sizes { batches, rows, heads, head_size: shape.head_size };
        let bytes = self.variant.element.bytes();
        problem.q.check("queries", sizes(queries, shape.heads), bytes)?;
        problem.k.check("keys", sizes(keys, shape.kv_heads), bytes)?;
        if (self.variant.element == Element::E4m3) != problem.scales.is_some() {
            return refused(format!("{} and its scales", self.variant.name()));
        }
        match problem.scales {
            Some(scales) => {
                if problem.ragged.is_some() {
                    return refused("ragged sequences in E4M3".into());
                }
                scales.check(&shape)?;
                let whole = keys.next_multiple_of(16);
                let turned = Sizes { head_size: whole, ..sizes(shape.head_size, shape.kv_heads) };
                problem.v.check("values", turned, bytes)?;
            }
            None => problem.v.check("values", sizes(keys, shape.kv_heads), bytes)?,
        }
        problem.out.check("outputs", sizes(queries, shape.heads), 2)?;
        if let Some(lse) = problem.lse {
            let rows = u64::from(batches) * u64::from(queries) * u64::from(shape.heads);
            inside("log-sum-exp", 0, 4 * rows, lse.len_bytes())?;
        }
        if let Some(ragged) = problem.ragged {
            let bytes = 4 * (u64::from(shape.batches) + 1);
            inside("query offsets", 0, bytes, ragged.query_offsets.len_bytes())?;
            inside("key offsets", 0, bytes, ragged.key_offsets.len_bytes())?;
        }
        Ok(())
    }

    fn maps(&self, problem: &Problem<'_>) -> Result<[TensorMap; 3]> {
        if self.variant.kernel != Kernel::Hopper {
            return Ok([TensorMap::NONE; 3]);
        }
        let shape = problem.shape;
        let (batches, queries, keys) = rows(problem);
        let bytes = self.variant.element.bytes();
        let map = |what, tensor: &Tensor<'_>, sizes: [u32; 2], heads: u32, tile| {
            let sizes = [sizes[0], sizes[1], heads, batches].map(u64::from);
            let steps = [tensor.row, tensor.head, tensor.batch];
            TensorMap::new(what, tensor.buffer, bytes, tensor.offset, sizes, steps, tile)
        };
        let (size, tile) = (shape.head_size, self.tile_keys());
        let (values, values_tile) = match problem.scales {
            // The keys of each 16 lie in another order, so the last 16 are read whole.
            Some(_) => ([keys.next_multiple_of(16), size], size),
            None => ([size, keys], tile),
        };
        Ok([
            map("queries", &problem.q, [size, queries], shape.heads, self.variant.tile_queries())?,
            map("keys", &problem.k, [size, keys], shape.kv_heads, tile)?,
            map("values", &problem.v, values, shape.kv_heads, values_tile)?,
        ])
    }

    /// Heads whose keys and values fit in 0.6 of the L2 cache together, whole groups, at least one.
    fn section(&self, shape: &Shape) -> u32 {
        let bytes = 2 * self.variant.element.bytes();
        let bytes = bytes * u64::from(shape.keys) * u64::from(shape.head_size);
        let kv_heads = (self.l2_bytes * 6 / 10 / bytes).max(1);
        let all = shape.batches * shape.heads;
        u32::try_from(kv_heads * u64::from(shape.group())).unwrap_or(all).min(all)
    }

    fn grid(&self, tiles: u32) -> Result<Grid> {
        let Variant { kernel, element, head_size, .. } = self.variant;
        let row = element.bytes() as u32 * head_size;
        let stages = match kernel {
            Kernel::Hopper if row == 128 => 4,
            Kernel::Hopper => 3,
            _ => 2,
        };
        let queries = self.variant.tile_queries();
        let shared_bytes = row * (queries + 2 * stages * self.tile_keys());
        if shared_bytes > self.max_shared_bytes {
            let what = format!("{} of {} shared bytes", shared_bytes, self.max_shared_bytes);
            return Err(Error::Shape { what });
        }
        Ok(match kernel {
            Kernel::Hopper => {
                // A producer warpgroup, and one for each 64 queries.
                let threads = 128 + 2 * queries;
                Grid { shared_bytes, ..Grid::linear(tiles.min(self.sm_count), threads) }
            }
            _ => Grid { shared_bytes, ..Grid::linear(tiles, 256) },
        })
    }
}

/// Batches, queries and keys as the tensors have them: ragged ones are a single batch.
pub(crate) fn rows(problem: &Problem<'_>) -> (u32, u32, u32) {
    match problem.ragged {
        Some(ragged) => (1, ragged.queries, ragged.keys),
        None => (problem.shape.batches, problem.shape.queries, problem.shape.keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_counters_of_their_own() {
        assert_eq!((place_of(0), place_of(1)), ((0, 0), (0, 8)));
        assert_eq!(place_of(SLAB_STREAMS - 1), (0, 8 * SLAB_STREAMS - 8));
        assert_eq!(place_of(SLAB_STREAMS), (1, 0));
    }
}
