//! All-reduce by own kernels over plain memory of several GPUs: no library, no multicast.
//!
//! All algorithms add in the order of the ranks in f32 and round once ([`crate::reduction`] has the
//! oracle), so that all ranks have the same bits, on every run, whichever was taken. One-shot writes
//! everything to everyone and is best where latency counts; two-shot and pushed move what a ring moves,
//! pushed by writes alone.
//!
//! The number of a call lies in device memory, so that calls may be captured and replayed. All ranks
//! make the same calls in the same order, each on one stream, and every call is made by all ranks: one
//! that a rank leaves out ends the others' kernels after ten seconds.

use std::time::Duration;

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::{Element, with_elements};
use crate::memory::inside;
use crate::reduction::MOST_RANKS;
use crate::{Error, KernelSource, Result, peer};

/// All algorithms.
pub const SOURCE: KernelSource = KernelSource {
    name: "allreduce",
    source: with_elements!("allreduce.cu"),
    entries: &["allreduce_one_shot", "allreduce_two_shot", "allreduce_pushed"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Most bytes of a one-shot call.
pub const ONE_SHOT_MOST: u64 = 512 << 10;

/// How long a kernel waits for a flag of another rank before it ends with an error.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Most bytes that one-shot suits, and fewest that pushed suits.
const ONE_SHOT_SUITS: u64 = 128 << 10;
const PUSHED_SUITS: u64 = 16 << 20;

/// Threads of a block: what the kernels are compiled for, and a warp's, which meets all ranks.
const MOST_THREADS: u32 = 512;
/// Workers of a block of a pushed call, beside which a warp signals.
const MOST_WORKERS: u32 = 480;
const FEWEST_THREADS: u32 = 32;
/// Flags of a mailbox have room for so many blocks.
const MOST_BLOCKS: u32 = 256;
const STAGING: u64 = 65_536;
const PARITIES: u64 = 2;
/// Blocks of a two-shot call where the caller names none.
const TWO_SHOT_BLOCKS: u32 = 96;
/// Blocks of a pushed call that have slots, tiles of each and bytes of one.
const PUSHED_BLOCKS: u32 = 132;
pub(crate) const RING: u64 = 4;
/// Steps between a tile's push and its addition.
pub(crate) const LAG: u32 = 2;
const SLOT: u64 = 16_384;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct AllReduceParams {
    inputs: [u64; MOST_RANKS],
    outputs: [u64; MOST_RANKS],
    mailboxes: [u64; MOST_RANKS],
    vectors: u64,
    rank: u32,
    ranks: u32,
    element: u32,
    first: u32,
}
const _: () = assert!(size_of::<AllReduceParams>() == 216);
// SAFETY: repr(C) without padding, equal to the struct in allreduce.cu.
unsafe impl KernelParams for AllReduceParams {}

/// How the ranks exchange their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Everything to everyone, each word with its own flag.
    OneShot,
    /// Each rank reads its slice of all inputs, adds it and writes the sums to all.
    TwoShot,
    /// Each rank writes all slices but its own to their owners, which add them and write the sums to all.
    Pushed,
}

impl Algorithm {
    /// The faster one for so many bytes of each of so many ranks, as measured on two and four H200s; over other counts
    /// as over four.
    pub fn of(bytes: u64, ranks: usize) -> Algorithm {
        match bytes {
            ..=ONE_SHOT_SUITS => Algorithm::OneShot,
            PUSHED_SUITS.. if ranks > 2 => Algorithm::Pushed,
            _ => Algorithm::TwoShot,
        }
    }

    /// As options name it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::OneShot => "one-shot",
            Algorithm::TwoShot => "two-shot",
            Algorithm::Pushed => "pushed",
        }
    }
}

/// One rank: its kernels and its mailbox.
#[derive(Debug)]
struct Rank<'g> {
    gpu: &'g Gpu,
    one_shot: Function,
    two_shot: Function,
    pushed: Function,
    mailbox: Buffer,
}

impl<'g> Rank<'g> {
    /// A mailbox of an all-reduce over so many ranks, on which no call was made.
    fn new(gpu: &'g Gpu, module: &Module, ranks: usize) -> Result<Rank<'g>> {
        let mailbox = gpu.alloc(mailbox_bytes(ranks as u64))?;
        mailbox.fill_u32(gpu.stream(), 0)?;
        gpu.stream().synchronize()?;
        Ok(Rank {
            gpu,
            one_shot: module.entry("allreduce_one_shot")?,
            two_shot: module.entry("allreduce_two_shot")?,
            pushed: module.entry("allreduce_pushed")?,
            mailbox,
        })
    }
}

/// The ranks of an all-reduce. Their calls are numbered together.
#[derive(Debug)]
pub struct AllReduce<'g> {
    ranks: Vec<Rank<'g>>,
    sm_count: u32,
}

impl<'g> AllReduce<'g> {
    /// Two to eight GPUs, each with its module of [`SOURCE`]; lets them reach each other's memory.
    pub fn new(gpus: &'g [Gpu], modules: &[Module]) -> Result<AllReduce<'g>> {
        if !(2..=MOST_RANKS).contains(&gpus.len()) || modules.len() != gpus.len() {
            let what = format!("an all-reduce of {} gpus, {} modules", gpus.len(), modules.len());
            return Err(Error::Shape { what });
        }
        peer::enable(gpus)?;
        let rank = |(gpu, module)| Rank::new(gpu, module, gpus.len());
        let ranks: Vec<Rank> = gpus.iter().zip(modules).map(rank).collect::<Result<_>>()?;
        let sm_count = gpus.iter().map(|gpu| gpu.sm_count).min().unwrap_or(1);
        Ok(AllReduce { ranks, sm_count })
    }

    /// Ranks that all lie on one GPU, of which one is asked while the mailboxes hold what the others
    /// would have sent.
    pub(crate) fn rehearsal(gpu: &'g Gpu, module: &Module, ranks: usize) -> Result<AllReduce<'g>> {
        let ranks = (0..ranks).map(|_| Rank::new(gpu, module, ranks)).collect::<Result<_>>()?;
        Ok(AllReduce { ranks, sm_count: gpu.sm_count })
    }

    /// A rank's mailbox.
    pub(crate) fn mailbox(&self, rank: usize) -> &Buffer {
        &self.ranks[rank].mailbox
    }

    /// Ranks.
    pub fn ranks(&self) -> usize {
        self.ranks.len()
    }

    /// Checks a call and keeps what it needs borrowed. `inputs` and `outputs` are by rank; an output
    /// may be the rank's own input.
    pub fn prepare<'a>(
        &'a self,
        inputs: impl IntoIterator<Item = &'a Buffer>,
        outputs: impl IntoIterator<Item = &'a Buffer>,
        call: Call,
    ) -> Result<Prepared<'a>> {
        let ranks = self.ranks.len();
        let inputs: Vec<&Buffer> = inputs.into_iter().collect();
        let outputs: Vec<&Buffer> = outputs.into_iter().collect();
        let shape = |what: String| Err(Error::Shape { what });
        if inputs.len() != ranks || outputs.len() != ranks {
            return shape(format!("{} inputs and {} outputs", inputs.len(), outputs.len()));
        }
        for (rank, buffer) in self.ranks.iter().zip(&inputs).chain(self.ranks.iter().zip(&outputs))
        {
            inside("all-reduce", 0, call.bytes, buffer.len_bytes())?;
            rank.gpu.stream().same_context(buffer.context())?;
        }
        let floats = matches!(call.element, Element::F16 | Element::Bf16 | Element::F32);
        if !floats || call.bytes == 0 || !call.bytes.is_multiple_of(16) {
            return shape(format!("an all-reduce of {} bytes of {:?}", call.bytes, call.element));
        }
        if call.algorithm == Algorithm::OneShot && call.bytes > ONE_SHOT_MOST {
            return shape(format!("a one-shot all-reduce of {} bytes", call.bytes));
        }
        let grid = grid(&call, ranks as u64, self.sm_count)?;
        Ok(Prepared { all: self, inputs, outputs, call, grid })
    }
}

/// What is reduced, and how.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Bytes of each rank's buffer, a multiple of 16.
    pub bytes: u64,
    /// Type of the elements: fp16, bf16 or f32.
    pub element: Element,
    /// How.
    pub algorithm: Algorithm,
    /// Blocks of the grid; what suits the size where `None`.
    pub blocks: Option<u32>,
    /// Threads of a block, whole warps; what suits the size where `None`. Of a pushed call those
    /// that work: a warp more signals.
    pub threads: Option<u32>,
    /// That rank begins its sum with its own value: planted.
    pub turned: Option<usize>,
}

impl Call {
    /// A healthy call by the algorithm that suits its size and so many ranks.
    pub fn new(bytes: u64, element: Element, ranks: usize) -> Call {
        let algorithm = Algorithm::of(bytes, ranks);
        Call { bytes, element, algorithm, blocks: None, threads: None, turned: None }
    }
}

/// A checked call. Dropped, it waits for all GPUs, so that no kernel outlives its memory.
#[derive(Debug)]
pub struct Prepared<'a> {
    all: &'a AllReduce<'a>,
    inputs: Vec<&'a Buffer>,
    outputs: Vec<&'a Buffer>,
    call: Call,
    grid: Grid,
}

impl Prepared<'_> {
    /// Blocks of the grid, and threads of each.
    pub fn grid(&self) -> (u32, u32) {
        (self.grid.blocks.0, self.grid.threads)
    }

    /// Enqueues the call of one rank. Its kernel waits for those of all other ranks.
    pub fn launch(&self, rank: usize, stream: &CudaStream) -> Result<()> {
        let Some(own) = self.all.ranks.get(rank) else {
            return Err(Error::Shape { what: format!("rank {rank} of {}", self.all.ranks()) });
        };
        let addresses = |buffers: &[&Buffer]| {
            let mut all = [0; MOST_RANKS];
            all.iter_mut().zip(buffers).for_each(|(to, buffer)| *to = buffer.ptr());
            all
        };
        let mut mailboxes = [0; MOST_RANKS];
        mailboxes.iter_mut().zip(&self.all.ranks).for_each(|(to, r)| *to = r.mailbox.ptr());
        let first = if self.call.turned == Some(rank) { rank as u32 } else { 0 };
        let params = AllReduceParams {
            inputs: addresses(&self.inputs),
            outputs: addresses(&self.outputs),
            mailboxes,
            vectors: self.call.bytes / 16,
            rank: rank as u32,
            ranks: self.all.ranks() as u32,
            element: self.call.element.code(),
            first,
        };
        let function = match self.call.algorithm {
            Algorithm::OneShot => &own.one_shot,
            Algorithm::TwoShot => &own.two_shot,
            Algorithm::Pushed => &own.pushed,
        };
        // SAFETY: `prepare` checked all buffers and enabled access; they and the mailboxes stay
        // borrowed, and all GPUs are waited for before the borrow ends.
        unsafe { function.launch(stream, self.grid, &params) }
    }

    /// Enqueues the call of every rank on its stream.
    pub fn launch_all(&self, streams: &[&CudaStream]) -> Result<()> {
        streams.iter().enumerate().try_for_each(|(rank, stream)| self.launch(rank, stream))
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // An error of the kernels was reported, or will be, where their stream is waited for.
        self.all.ranks.iter().for_each(|rank| drop(rank.gpu.synchronize()));
    }
}

/// Where a mailbox holds what a rank sends in a one-shot call of this number.
pub(crate) fn staging_of(epoch: u64, from: u64, ranks: u64) -> u64 {
    STAGING + ((epoch % PARITIES) * ranks + from) * 2 * ONE_SHOT_MOST
}

/// Where a rank's mailbox holds the tile that another one pushed in this step, for a block.
pub(crate) fn slot_of(from: u64, block: u64, step: u64, ranks: u64) -> u64 {
    let ring = STAGING + PARITIES * ranks * 2 * ONE_SHOT_MOST;
    ring + ((from * u64::from(PUSHED_BLOCKS) + block) * RING + step % RING) * SLOT
}

/// Bytes of a mailbox that hold how many steps of a pushed call the others have done: from, and how many.
pub(crate) const PROGRESS: (u64, u64) =
    (FLAGS.0 + FLAGS.1, 8 * MOST_BLOCKS as u64 * MOST_RANKS as u64);

/// Bytes of a mailbox that hold the flags of both meetings: from, and how many.
pub(crate) const FLAGS: (u64, u64) = (256, 2 * 4 * MOST_BLOCKS as u64 * MOST_RANKS as u64);

/// Bytes of a rank's mailbox: number, flags, staging with a flag beside every word, and rings of tiles.
fn mailbox_bytes(ranks: u64) -> u64 {
    slot_of(ranks, 0, 0, ranks)
}

/// A call's grid, whose blocks must all be resident at once, on every GPU.
fn grid(call: &Call, ranks: u64, sm_count: u32) -> Result<Grid> {
    let vectors = call.bytes / 16;
    let slice = vectors.div_ceil(ranks);
    // Accesses of a grid whose threads make one each, blocks that suit, most blocks, most threads that work, and
    // threads beside them.
    let most_blocks = sm_count.min(MOST_BLOCKS);
    let (accesses, suits, most_blocks, most_threads, beside) = match call.algorithm {
        Algorithm::OneShot => (2 * vectors, most_blocks, most_blocks, MOST_THREADS, 0),
        Algorithm::TwoShot => (slice, TWO_SHOT_BLOCKS, most_blocks, MOST_THREADS, 0),
        // A worker takes two vectors of a tile, of more than four ranks one.
        Algorithm::Pushed => {
            let accesses = slice.div_ceil(if ranks <= 4 { 2 } else { 1 });
            (accesses, PUSHED_BLOCKS, most_blocks.min(PUSHED_BLOCKS), MOST_WORKERS, 32)
        }
    };
    let suits = suits.min(most_blocks);
    let few = accesses.next_multiple_of(32).clamp(FEWEST_THREADS.into(), most_threads.into());
    let threads = call.threads.unwrap_or(few as u32);
    let useful = accesses.div_ceil(threads.max(1).into()).min(suits.into()) as u32;
    let blocks = call.blocks.unwrap_or(useful);
    let whole = threads.is_multiple_of(32) && (FEWEST_THREADS..=most_threads).contains(&threads);
    if !whole || !(1..=most_blocks).contains(&blocks) {
        let what = format!("{blocks} blocks of {threads} threads, of {most_blocks} at most");
        return Err(Error::Shape { what });
    }
    Ok(Grid::linear(blocks, threads + beside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: u64, algorithm: Algorithm, blocks: u32, threads: u32) {
        let call = Call { algorithm, ..Call::new(bytes, Element::F16, 4) };
        let expect = Grid::linear(blocks, threads);
        assert_eq!(grid(&call, 4, 132).unwrap(), expect, "{bytes} {algorithm:?}");
    }

    #[test]
    fn a_grid_is_no_larger_than_its_work_or_the_gpu() {
        check(16, Algorithm::OneShot, 1, 32);
        check(512, Algorithm::OneShot, 1, 64);
        check(32 << 10, Algorithm::OneShot, 8, 512);
        check(512 << 10, Algorithm::OneShot, 128, 512);
        check(16, Algorithm::TwoShot, 1, 32);
        check(1 << 20, Algorithm::TwoShot, 32, 512);
        check(1 << 30, Algorithm::TwoShot, TWO_SHOT_BLOCKS, 512);
        check(16, Algorithm::Pushed, 1, 64);
        check(1 << 30, Algorithm::Pushed, PUSHED_BLOCKS, 512);
        let many = Call { blocks: Some(133), ..Call::new(1 << 20, Element::F16, 4) };
        assert!(grid(&many, 4, 132).is_err());
        let odd = Call { threads: Some(48), ..Call::new(1 << 20, Element::F16, 4) };
        assert!(grid(&odd, 4, 132).is_err());
    }

    #[test]
    fn flags_and_staging_do_not_overlap() {
        assert!(PROGRESS.0 + PROGRESS.1 <= STAGING);
        assert_eq!(staging_of(1, 3, 4) + 2 * ONE_SHOT_MOST, slot_of(0, 0, 0, 4));
        assert_eq!(slot_of(3, 131, 3, 4) + SLOT, mailbox_bytes(4));
        // A tile of the most workers, two vectors each.
        assert!(u64::from(MOST_WORKERS) * 2 * 16 <= SLOT);
        assert_eq!(mailbox_bytes(4), 65_536 + (8 << 20) + (33 << 20));
        // The same numbers stand in the kernel.
        assert_eq!(PATIENCE.as_nanos(), 10_000_000_000);
        for line in [
            "MOST_BLOCKS = 256",
            "STALL_NS = 10000000000ull",
            "STAGING = 65536",
            "STAGED = 2 * 524288",
            "LAG = 2",
            "RING = 2 * LAG",
            "SLOT = 16384",
            "SLOTS_OF_RANK = 132 * RING * SLOT",
            "VECTORS = N <= 4 ? 2 : 1",
        ] {
            assert!(SOURCE.source.contains(line), "{line}");
        }
    }
}
