//! Links between GPUs: copies of either end's copy engine or multiprocessors, and the latency of one
//! remote load.
//!
//! A copy runs where its stream is: on the source's GPU it writes over the link, on the
//! destination's it reads. The payload is the caller's, to be checked on the far side.

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::generator::{draw, with_generator};
use crate::memory::inside;
use crate::{Error, KernelSource, Result, peer};

/// Copy, chase and hold.
pub const SOURCE: KernelSource = KernelSource {
    name: "links",
    source: with_generator!("links.cu"),
    entries: &["links_copy", "links_chase", "links_hold"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const COPY_THREADS: u32 = 512;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct CopyParams {
    target: u64,
    source: u64,
    vectors: u64,
}
const _: () = assert!(size_of::<CopyParams>() == 24);
// SAFETY: repr(C) without padding, equal to the struct in links.cu.
unsafe impl KernelParams for CopyParams {}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ChaseParams {
    ring: u64,
    cycles: u64,
    summary: u64,
    nodes: u32,
    stride: u32,
    hops: u32,
    extra: u32,
    spin: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<ChaseParams>() == 48);
// SAFETY: repr(C) without padding, equal to the struct in links.cu.
unsafe impl KernelParams for ChaseParams {}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct HoldParams {
    result: u64,
    nanoseconds: u64,
}
const _: () = assert!(size_of::<HoldParams>() == 16);
// SAFETY: repr(C) without padding, equal to the struct in links.cu.
unsafe impl KernelParams for HoldParams {}

/// The kernels of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Links {
    copy: Function,
    chase: Function,
    hold: Function,
    /// Cycles of a walk's hops, its summary, and the word that a hold sets.
    cycles: Buffer,
    summary: Buffer,
    sm_count: u32,
}

/// Most hops of one walk.
pub const MOST_HOPS: u32 = 1 << 16;

impl Links {
    /// Finds the entries of [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Links> {
        Ok(Links {
            copy: module.entry("links_copy")?,
            chase: module.entry("links_chase")?,
            hold: module.entry("links_hold")?,
            cycles: gpu.alloc(4 * u64::from(MOST_HOPS))?,
            summary: gpu.alloc(32)?,
            sm_count: gpu.sm_count,
        })
    }

    /// Enqueues a wait of so many nanoseconds, at most a second: a GPU that comes late.
    pub fn hold(&self, stream: &CudaStream, nanoseconds: u64) -> Result<()> {
        stream.same_context(self.summary.context())?;
        let params = HoldParams { result: self.summary.ptr() + 24, nanoseconds };
        // SAFETY: the fourth word pair of the summary belongs to the hold alone.
        unsafe { self.hold.launch(stream, Grid::linear(1, 32), &params) }
    }

    /// The word that a hold sets at its end, behind the stream's earlier work.
    pub(crate) fn held(&self, stream: &CudaStream) -> Result<u32> {
        let mut word = [0u32];
        self.summary.read(stream, 24, &mut word)?;
        Ok(word[0])
    }

    /// Walks a ring of nodes and waits for the end. `extra` further hops inside each and a `spin` of
    /// so many cycles are planted faults.
    pub fn walk(&self, stream: &CudaStream, ring: &Ring<'_>, fault: ChaseFault) -> Result<Walk> {
        stream.same_context(self.summary.context())?;
        let params = ChaseParams {
            ring: ring.buffer.ptr(),
            cycles: self.cycles.ptr(),
            summary: self.summary.ptr(),
            nodes: ring.next.len() as u32,
            stride: NODE_STRIDE,
            hops: ring.hops,
            extra: fault.extra_hops,
            spin: fault.spin_cycles,
            reserved: 0,
        };
        // SAFETY: every node that the kernel follows lies inside the ring, which it checks; cycles
        // holds MOST_HOPS words, no fewer than the ring's hops.
        unsafe { self.chase.launch(stream, Grid::linear(1, 32), &params)? };
        let summary: Vec<u64> = self.summary.read_vec(stream, 3)?;
        let cycles = self.cycles.read_vec(stream, ring.hops as usize)?;
        Ok(Walk { last: summary[0], cycles, all_cycles: summary[1], nanoseconds: summary[2] })
    }
}

/// Bytes from one node of a ring to the next: a cache line.
const NODE_STRIDE: u32 = 128;

/// Nodes in the memory of some GPU, each of which names the next: one closed path over all.
#[derive(Debug)]
pub struct Ring<'a> {
    buffer: &'a Buffer,
    next: Vec<u32>,
    hops: u32,
}

/// Faults planted in a walk. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChaseFault {
    /// Further hops inside each, timed with it and not counted.
    pub extra_hops: u32,
    /// Cycles that each hop waits besides.
    pub spin_cycles: u32,
}

impl<'a> Ring<'a> {
    /// Lays `nodes` nodes into the buffer, by its owner's stream, in an order drawn from the seed.
    pub fn lay(
        stream: &CudaStream,
        buffer: &'a Buffer,
        nodes: u32,
        hops: u32,
        seed: u64,
    ) -> Result<Ring<'a>> {
        if nodes < 2 || hops == 0 || hops > MOST_HOPS {
            return Err(Error::Shape { what: format!("a walk of {hops} hops over {nodes} nodes") });
        }
        let bytes = u64::from(nodes) * u64::from(NODE_STRIDE);
        inside("ring", 0, bytes, buffer.len_bytes())?;
        let next = closed_path(nodes, seed);
        let mut words = vec![0u32; (bytes / 4) as usize];
        for (node, next) in next.iter().enumerate() {
            words[node * (NODE_STRIDE / 4) as usize] = *next;
        }
        buffer.write(stream, 0, &words)?;
        Ok(Ring { buffer, next, hops })
    }

    /// The oracle: the node at which a walk from node 0 ends. `each` hops are counted as one.
    pub fn last(&self, each: u32) -> u64 {
        let steps = u64::from(self.hops) * u64::from(each);
        let last = (0..steps).fold(0u32, |node, _| self.next[node as usize]);
        last.into()
    }
}

/// What a walk gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// The node at its end; one that the ring does not have where it left the path.
    pub last: u64,
    cycles: Vec<u32>,
    all_cycles: u64,
    nanoseconds: u64,
}

impl Walk {
    /// Microseconds of a hop at a quantile: cycles, by the walk's own cycles a nanosecond.
    pub fn microseconds(&self, quantile: f64) -> f64 {
        let mut sorted = self.cycles.clone();
        sorted.sort_unstable();
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        let cycles = sorted[rank.clamp(1, sorted.len()) - 1];
        f64::from(cycles) * self.nanoseconds as f64 / self.all_cycles as f64 / 1e3
    }

    /// Cycles of a hop, the median.
    pub fn median_cycles(&self) -> u32 {
        let mut sorted = self.cycles.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }
}

/// A single closed path over all nodes (Sattolo's algorithm): the successor of each.
fn closed_path(nodes: u32, seed: u64) -> Vec<u32> {
    let mut next: Vec<u32> = (0..nodes).collect();
    for last in (1..nodes).rev() {
        let other = draw(seed, last.into()) % last;
        next.swap(last as usize, other as usize);
    }
    next
}

/// Who moves the bytes of a route.
#[derive(Debug, Clone, Copy)]
pub enum Mover<'a> {
    /// The copy engine of the stream's GPU.
    Engine,
    /// The multiprocessors of the stream's GPU, whose kernels these are; all of them, or so many
    /// blocks.
    Kernel(&'a Links, Option<u32>),
}

/// Faults planted in the copies of a route. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyFault {
    /// Copies in pieces of so many bytes.
    pub piece_bytes: Option<u64>,
    /// That share of the payload is copied a second time and not counted.
    pub repeat_ppm: u32,
}

/// A GPU with memory of its own.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// Its memory.
    pub buffer: &'a Buffer,
}

/// A part of a buffer of one GPU on its way to the same place in a buffer of another. Dropped, it
/// waits for both GPUs, so that no copy outlives its memory.
#[derive(Debug)]
pub struct Route<'a> {
    from: End<'a>,
    to: End<'a>,
    offset: u64,
    bytes: u64,
}

impl<'a> Route<'a> {
    /// A route of `bytes` at `offset` of both buffers. Both are multiples of 16.
    pub fn new(from: End<'a>, to: End<'a>, offset: u64, bytes: u64) -> Result<Route<'a>> {
        if bytes == 0 || !bytes.is_multiple_of(16) || !offset.is_multiple_of(16) {
            return Err(Error::Shape { what: format!("a route of {bytes} bytes at {offset}") });
        }
        for end in [from, to] {
            inside("route", offset, bytes, end.buffer.len_bytes())?;
            let what = "the memory of a route belongs to another gpu";
            end.gpu
                .stream()
                .same_context(end.buffer.context())
                .map_err(|_| Error::Shape { what: what.into() })?;
        }
        Ok(Route { from, to, offset, bytes })
    }

    /// Bytes of one copy.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Enqueues one copy on a stream of either GPU.
    pub fn enqueue(&self, stream: &CudaStream, mover: Mover<'_>, fault: CopyFault) -> Result<()> {
        if fault.piece_bytes.is_some_and(|piece| piece == 0 || !piece.is_multiple_of(16)) {
            return Err(Error::Shape { what: format!("a copy in pieces, {fault:?}") });
        }
        let piece = fault.piece_bytes.unwrap_or(self.bytes);
        let mut done = 0;
        while done < self.bytes {
            self.part(stream, mover, done, piece.min(self.bytes - done))?;
            done += piece;
        }
        let again = u128::from(self.bytes) * u128::from(fault.repeat_ppm) / 1_000_000;
        match (again as u64).min(self.bytes) / 16 * 16 {
            0 => Ok(()),
            again => self.part(stream, mover, 0, again),
        }
    }

    fn part(&self, stream: &CudaStream, mover: Mover<'_>, at: u64, bytes: u64) -> Result<()> {
        let at = self.offset + at;
        match mover {
            // SAFETY: the route keeps both buffers borrowed and waits for both GPUs when dropped.
            Mover::Engine => unsafe {
                peer::copy(stream, (self.from.buffer, at), (self.to.buffer, at), bytes)
            },
            Mover::Kernel(links, blocks) => {
                let params = CopyParams {
                    target: self.to.buffer.ptr() + at,
                    source: self.from.buffer.ptr() + at,
                    vectors: bytes / 16,
                };
                let grid = Grid::linear(blocks.unwrap_or(2 * links.sm_count), COPY_THREADS);
                // SAFETY: the part lies inside both buffers, as `new` checked; the route keeps them
                // borrowed and waits for both GPUs when dropped. The caller has enabled access.
                unsafe { links.copy.launch(stream, grid, &params) }
            }
        }
    }
}

impl Drop for Route<'_> {
    fn drop(&mut self) {
        // An error of the copies was reported, or will be, where their stream is waited for.
        let _ = (self.from.gpu.synchronize(), self.to.gpu.synchronize());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Nodes that a path visits from node 0 before it comes back.
    fn visited(next: &[u32]) -> usize {
        let mut seen = BTreeSet::new();
        let mut node = 0;
        while seen.insert(node) {
            node = next[node as usize];
        }
        seen.len()
    }

    #[test]
    fn a_ring_is_one_closed_path() {
        for nodes in [2, 3, 64, 1000] {
            let next = closed_path(nodes, 7);
            assert_eq!(visited(&next), nodes as usize);
        }
        assert_ne!(closed_path(64, 1), closed_path(64, 2));
    }

    #[test]
    fn quantiles_of_a_walk_by_hand() {
        let walk =
            Walk { last: 0, cycles: (1..=100).collect(), all_cycles: 2000, nanoseconds: 1000 };
        // Half a nanosecond a cycle.
        assert_eq!(walk.microseconds(0.5), 0.025);
        assert_eq!(walk.microseconds(0.99), 0.0495);
        assert_eq!(walk.median_cycles(), 51);
    }
}
