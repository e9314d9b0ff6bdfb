//! Block maps: which tiles of keys a tile of queries visits under a program's mask.

use super::forward::{Forward, Problem};
use super::program::Program;
use super::variant::{Kernel, Variant};
use super::{Data, Shape};
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::{Error, Result};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct BlockParams {
    classes: u64,
    lists: u64,
    counts: u64,
    masks: u64,
    q_offsets: u64,
    k_offsets: u64,
    data: u64,
    heads: u32,
    group: u32,
    queries: i32,
    keys: i32,
    q_tiles: u32,
    k_tiles: u32,
    tile_queries: u32,
    tile_keys: u32,
    list_heads: u32,
    list_batches: u32,
    dropped: u32,
    count: i32,
    number: i32,
    factor: f32,
}
const _: () = assert!(size_of::<BlockParams>() == 112);
// SAFETY: repr(C) without padding, equal to the struct in blocks.cu.
unsafe impl KernelParams for BlockParams {}

/// Queries that the map tells apart: those of a warpgroup.
const GROUP: u32 = 64;
/// Masked tiles of a list of which the mask itself is kept.
const KEPT_MASKS: u32 = 16;

/// Threads of a forward kernel that have a part of a tile's scores.
fn mask_threads(tile_queries: u32) -> u32 {
    2 * tile_queries
}

/// Bytes of the kept mask of a tile: whole 32-bit words of each thread.
fn mask_bytes(tile_queries: u32, tile_keys: u32) -> u64 {
    4 * u64::from(mask_threads(tile_queries)) * u64::from((tile_keys / 2).div_ceil(32))
}

/// On what a mask depends beside positions and data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DependsOn {
    /// On the sequence; ragged ones always do.
    pub batch: bool,
    /// On the head.
    pub head: bool,
}

/// The map of one mask over one shape.
#[derive(Debug)]
pub struct BlockMap {
    classes: Buffer,
    pub(crate) lists: Buffer,
    pub(crate) counts: Buffer,
    pub(crate) masks: Buffer,
    pub(crate) k_tiles: u32,
    pub(crate) heads: u32,
    pub(crate) batches: u32,
    plan: Plan,
}

/// What a map was made for. What data a program reads is the caller's to keep: a map is built again once
/// they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    shape: Shape,
    /// Queries and keys of all sequences, where they are ragged.
    ragged: Option<(u32, u32)>,
    program: Program,
    tile_queries: u32,
    tile_keys: u32,
}

impl Plan {
    pub(crate) fn new(
        problem: &Problem<'_>,
        program: &Program,
        (tile_queries, tile_keys): (u32, u32),
    ) -> Plan {
        let ragged = problem.ragged.map(|ragged| (ragged.queries, ragged.keys));
        Plan { shape: problem.shape, ragged, program: program.clone(), tile_queries, tile_keys }
    }
}

impl BlockMap {
    /// Bytes of the map. With tiles of 192 queries and 112 keys these are 256 for each query, the masks of
    /// the first masked tiles, and 7 for each pair of tiles, for every sequence and head that the mask
    /// depends on: 9 MB for 32768 tokens, 39 MB for 131072.
    pub fn bytes(&self) -> u64 {
        self.buffers().into_iter().map(Buffer::len_bytes).sum()
    }

    pub(crate) fn buffers(&self) -> [&Buffer; 4] {
        [&self.classes, &self.lists, &self.counts, &self.masks]
    }

    /// Tiles that are visited by 64 queries, partial and full; waits for the answer.
    pub fn visited(&self, stream: &CudaStream) -> Result<(u64, u64)> {
        let classes: Vec<u8> = self.classes.read_vec(stream, self.classes.len_bytes() as usize)?;
        let of = |class: u8| classes.iter().filter(|&&found| found == class).count() as u64;
        Ok((of(1), of(2)))
    }

    /// Errors: [`Error::Shape`] where the map was made for another plan.
    pub(crate) fn fits(&self, plan: &Plan) -> Result<()> {
        if self.plan == *plan {
            return Ok(());
        }
        let of = |plan: &Plan| {
            let Plan { shape, ragged, program, tile_queries, tile_keys } = plan;
            let ragged = ragged.map_or(String::new(), |tokens| format!(", ragged {tokens:?}"));
            format!("{} over {shape:?}{ragged} by {tile_queries} x {tile_keys}", program.name)
        };
        let what = format!("a block map of {} for {}", of(&self.plan), of(plan));
        Err(Error::Shape { what })
    }
}

/// The builder of block maps of one program.
#[derive(Debug)]
pub struct Blocks {
    program: Program,
    classify: Function,
    lists: Function,
    masks: Function,
}

impl Blocks {
    /// Finds the entries of a variant of [`Kernel::Blocks`].
    pub fn new(module: &Module, variant: Variant) -> Result<Blocks> {
        if variant.kernel != Kernel::Blocks {
            return Err(Error::Shape { what: format!("{} makes no block map", variant.name()) });
        }
        Ok(Blocks {
            program: variant.program,
            classify: module.entry("attention_classify")?,
            lists: module.entry("attention_lists")?,
            masks: module.entry("attention_masks")?,
        })
    }

    /// Memory for the map of a problem.
    pub fn allocate(
        &self,
        gpu: &Gpu,
        forward: &Forward,
        problem: &Problem<'_>,
        depends: DependsOn,
    ) -> Result<BlockMap> {
        let shape = problem.shape;
        shape.check()?;
        let batch = depends.batch || problem.ragged.is_some();
        let batches = if batch { shape.batches } else { 1 };
        let heads = if depends.head { shape.heads } else { 1 };
        let (tile_queries, tile_keys) = forward.tiles();
        let q_tiles = shape.queries.div_ceil(tile_queries);
        let k_tiles = shape.keys.div_ceil(tile_keys);
        let rows = u64::from(batches) * u64::from(heads) * u64::from(q_tiles);
        let tiles = rows * u64::from(k_tiles);
        let kept = mask_bytes(tile_queries, tile_keys);
        let classes = tiles * u64::from(tile_queries / GROUP);
        if classes > i32::MAX as u64 {
            return Err(Error::Shape { what: format!("a block map of {classes} tiles") });
        }
        Ok(BlockMap {
            classes: gpu.alloc(classes)?,
            lists: gpu.alloc(4 * tiles)?,
            counts: gpu.alloc(4 * rows)?,
            masks: gpu.alloc(rows * u64::from(KEPT_MASKS) * kept)?,
            k_tiles,
            heads,
            batches,
            plan: Plan::new(problem, &self.program, (tile_queries, tile_keys)),
        })
    }

    /// Enqueues the making of the map. `dropped` tiles, the last, are left out of every list: a planted
    /// fault, 0 for none.
    pub fn build(
        &self,
        stream: &CudaStream,
        problem: &Problem<'_>,
        map: &BlockMap,
        dropped: u32,
    ) -> Result<()> {
        let Plan { tile_queries, tile_keys, .. } = map.plan;
        map.fits(&Plan::new(problem, &self.program, (tile_queries, tile_keys)))?;
        problem.data.check()?;
        self.classify.same_context(problem.buffers().chain(map.buffers()))?;
        let Data { number, factor, .. } = problem.data;
        let rows = map.counts.len_bytes() / 4;
        let params = BlockParams {
            classes: map.classes.ptr(),
            lists: map.lists.ptr(),
            counts: map.counts.ptr(),
            masks: map.masks.ptr(),
            q_offsets: problem.ragged.map_or(0, |ragged| ragged.query_offsets.ptr()),
            k_offsets: problem.ragged.map_or(0, |ragged| ragged.key_offsets.ptr()),
            data: problem.data.address(),
            heads: problem.shape.heads,
            group: problem.shape.group(),
            queries: problem.shape.queries as i32,
            keys: problem.shape.keys as i32,
            q_tiles: problem.shape.queries.div_ceil(tile_queries),
            k_tiles: map.k_tiles,
            tile_queries,
            tile_keys,
            list_heads: map.heads,
            list_batches: map.batches,
            dropped,
            count: problem.data.count(),
            number,
            factor,
        };
        let tiles = map.classes.len_bytes() as u32;
        // SAFETY: the buffers were allocated for this shape and outlive the work, as cuMemFree waits.
        unsafe {
            self.classify.launch(stream, Grid::linear(tiles, 256), &params)?;
            self.lists.launch(stream, Grid::linear(rows as u32, 32), &params)?;
            self.masks.launch(
                stream,
                Grid::linear(rows as u32 * KEPT_MASKS, mask_threads(tile_queries)),
                &params,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_takes_the_bytes_that_its_comment_says() {
        // Two words for each of 384 threads, of 16 tiles, over 192 queries.
        assert_eq!(u64::from(KEPT_MASKS) * mask_bytes(192, 112) / 192, 256);
        let bytes = |tokens: u32| {
            let q_tiles = u64::from(tokens.div_ceil(192));
            let tiles = q_tiles * u64::from(tokens.div_ceil(112));
            7 * tiles + q_tiles * (4 + u64::from(KEPT_MASKS) * mask_bytes(192, 112))
        };
        assert_eq!([bytes(32768), bytes(131_072)].map(|bytes| bytes / 1_000_000), [8, 39]);
    }
}
