//! Block maps: which tiles of keys a tile of queries visits under a program's mask.

use super::forward::{Forward, Problem, TILE_QUERIES};
use super::{Data, Shape};
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::{Error, Result};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct BlockParams {
    classes: u64,
    lists: u64,
    counts: u64,
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
const _: () = assert!(size_of::<BlockParams>() == 104);
// SAFETY: repr(C) without padding, equal to the struct in blocks.cu.
unsafe impl KernelParams for BlockParams {}

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
    pub(crate) k_tiles: u32,
    pub(crate) heads: u32,
    pub(crate) batches: u32,
    shape: Shape,
    tile_keys: u32,
}

impl BlockMap {
    /// Bytes of the map.
    pub fn bytes(&self) -> u64 {
        self.classes.len_bytes() + self.lists.len_bytes() + self.counts.len_bytes()
    }

    /// Tiles that are visited, partial and full; waits for the answer.
    pub fn visited(&self, stream: &CudaStream) -> Result<(u64, u64)> {
        let classes: Vec<u8> = self.classes.read_vec(stream, self.classes.len_bytes() as usize)?;
        let of = |class: u8| classes.iter().filter(|&&found| found == class).count() as u64;
        Ok((of(1), of(2)))
    }

    pub(crate) fn fits(&self, shape: &Shape, tile_keys: u32) -> bool {
        self.shape == *shape && self.tile_keys == tile_keys
    }
}

/// The builder of block maps of one program.
#[derive(Debug)]
pub struct Blocks {
    classify: Function,
    lists: Function,
}

impl Blocks {
    /// Finds the entries of a variant of [`super::variant::Kernel::Blocks`].
    pub fn new(module: &Module) -> Result<Blocks> {
        Ok(Blocks {
            classify: module.entry("attention_classify")?,
            lists: module.entry("attention_lists")?,
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
        let q_tiles = shape.queries.div_ceil(TILE_QUERIES);
        let k_tiles = shape.keys.div_ceil(forward.tile_keys());
        let rows = u64::from(batches) * u64::from(heads) * u64::from(q_tiles);
        let tiles = rows * u64::from(k_tiles);
        if tiles > i32::MAX as u64 {
            return Err(Error::Shape { what: format!("a block map of {tiles} tiles") });
        }
        Ok(BlockMap {
            classes: gpu.alloc(tiles)?,
            lists: gpu.alloc(4 * tiles)?,
            counts: gpu.alloc(4 * rows)?,
            k_tiles,
            heads,
            batches,
            shape,
            tile_keys: forward.tile_keys(),
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
        if !map.fits(&problem.shape, map.tile_keys) {
            return Err(Error::Shape { what: format!("a block map of {:?}", map.shape) });
        }
        let Data { number, factor, .. } = problem.data;
        let rows = map.counts.len_bytes() / 4;
        let params = BlockParams {
            classes: map.classes.ptr(),
            lists: map.lists.ptr(),
            counts: map.counts.ptr(),
            q_offsets: problem.ragged.map_or(0, |ragged| ragged.query_offsets.ptr()),
            k_offsets: problem.ragged.map_or(0, |ragged| ragged.key_offsets.ptr()),
            data: problem.data.address(),
            heads: problem.shape.heads,
            group: problem.shape.group(),
            queries: problem.shape.queries as i32,
            keys: problem.shape.keys as i32,
            q_tiles: problem.shape.queries.div_ceil(TILE_QUERIES),
            k_tiles: map.k_tiles,
            tile_queries: TILE_QUERIES,
            tile_keys: map.tile_keys,
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
            self.lists.launch(stream, Grid::linear(rows as u32, 32), &params)
        }
    }
}
