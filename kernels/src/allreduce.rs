//! All-reduce by own kernels over plain memory of several GPUs: no library, no multicast.
//!
//! Both algorithms add in the order of the ranks in f32 and round once ([`crate::reduction`] has the
//! oracle), so that all ranks have the same bits, on every run, whichever was taken. One-shot writes
//! everything to everyone and is best where latency counts; two-shot moves what a ring moves.
//!
//! The number of a call lies in device memory, so that calls may be captured and replayed. All ranks
//! make the same calls in the same order, each on one stream, and every call is made by all ranks: one
//! that a rank leaves out ends the others' kernels after ten seconds.

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::{Element, with_elements};
use crate::memory::inside;
use crate::reduction::MOST_RANKS;
use crate::{Error, KernelSource, Result, peer};

/// Both algorithms.
pub const SOURCE: KernelSource = KernelSource {
    name: "allreduce",
    source: with_elements!("allreduce.cu"),
    entries: &["allreduce_one_shot", "allreduce_two_shot"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Most bytes of a one-shot call.
pub const ONE_SHOT_MOST: u64 = 512 << 10;

/// Threads of a block: what the kernels are compiled for, and a warp's, which meets all ranks.
const MOST_THREADS: u32 = 512;
const FEWEST_THREADS: u32 = 32;
/// Flags of a mailbox have room for so many blocks.
const MOST_BLOCKS: u32 = 256;
const STAGING: u64 = 32_768;
const PARITIES: u64 = 2;
/// Blocks of a two-shot call where the caller names none.
const TWO_SHOT_BLOCKS: u32 = 96;

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
    /// Each rank adds its slice and writes the sums to all.
    TwoShot,
}

impl Algorithm {
    /// The faster one for so many bytes.
    pub fn of(bytes: u64) -> Algorithm {
        if bytes <= 128 << 10 { Algorithm::OneShot } else { Algorithm::TwoShot }
    }

    /// As options name it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::OneShot => "one-shot",
            Algorithm::TwoShot => "two-shot",
        }
    }
}

/// One rank: its kernels and its mailbox.
#[derive(Debug)]
struct Rank<'g> {
    gpu: &'g Gpu,
    one_shot: Function,
    two_shot: Function,
    mailbox: Buffer,
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
        let bytes = mailbox_bytes(gpus.len() as u64);
        let rank = |(gpu, module): (&'g Gpu, &Module)| -> Result<Rank<'g>> {
            let mailbox = gpu.alloc(bytes)?;
            mailbox.fill_u32(gpu.stream(), 0)?;
            gpu.stream().synchronize()?;
            let one_shot = module.entry("allreduce_one_shot")?;
            let two_shot = module.entry("allreduce_two_shot")?;
            Ok(Rank { gpu, one_shot, two_shot, mailbox })
        };
        let ranks: Vec<Rank> = gpus.iter().zip(modules).map(rank).collect::<Result<_>>()?;
        let sm_count = gpus.iter().map(|gpu| gpu.sm_count).min().unwrap_or(1);
        Ok(AllReduce { ranks, sm_count })
    }

    /// Ranks that all lie on one GPU, of which one is asked while the mailboxes hold what the others
    /// would have sent.
    pub(crate) fn rehearsal(gpu: &'g Gpu, module: &Module, ranks: usize) -> Result<AllReduce<'g>> {
        let rank = |_| -> Result<Rank<'g>> {
            let mailbox = gpu.alloc(mailbox_bytes(ranks as u64))?;
            mailbox.fill_u32(gpu.stream(), 0)?;
            let one_shot = module.entry("allreduce_one_shot")?;
            let two_shot = module.entry("allreduce_two_shot")?;
            Ok(Rank { gpu, one_shot, two_shot, mailbox })
        };
        let ranks = (0..ranks).map(rank).collect::<Result<_>>()?;
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
        inputs: &'a [Buffer],
        outputs: &'a [Buffer],
        call: Call,
    ) -> Result<Prepared<'a>> {
        let ranks = self.ranks.len();
        let shape = |what: String| Err(Error::Shape { what });
        if inputs.len() != ranks || outputs.len() != ranks {
            return shape(format!("{} inputs and {} outputs", inputs.len(), outputs.len()));
        }
        for (rank, buffer) in self.ranks.iter().zip(inputs).chain(self.ranks.iter().zip(outputs)) {
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
    /// Threads of a block, whole warps; what suits the size where `None`.
    pub threads: Option<u32>,
    /// That rank begins its sum with its own value: planted.
    pub turned: Option<usize>,
}

impl Call {
    /// A healthy call by the algorithm that suits its size.
    pub fn new(bytes: u64, element: Element) -> Call {
        let algorithm = Algorithm::of(bytes);
        Call { bytes, element, algorithm, blocks: None, threads: None, turned: None }
    }
}

/// A checked call. Dropped, it waits for all GPUs, so that no kernel outlives its memory.
#[derive(Debug)]
pub struct Prepared<'a> {
    all: &'a AllReduce<'a>,
    inputs: &'a [Buffer],
    outputs: &'a [Buffer],
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
        let addresses = |buffers: &[Buffer]| {
            let mut all = [0; MOST_RANKS];
            all.iter_mut().zip(buffers).for_each(|(to, buffer)| *to = buffer.ptr());
            all
        };
        let mut mailboxes = [0; MOST_RANKS];
        mailboxes.iter_mut().zip(&self.all.ranks).for_each(|(to, r)| *to = r.mailbox.ptr());
        let first = if self.call.turned == Some(rank) { rank as u32 } else { 0 };
        let params = AllReduceParams {
            inputs: addresses(self.inputs),
            outputs: addresses(self.outputs),
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

/// Bytes of a mailbox that hold the flags of both meetings: from, and how many.
pub(crate) const FLAGS: (u64, u64) = (256, 2 * 4 * MOST_BLOCKS as u64 * MOST_RANKS as u64);

/// Bytes of a rank's mailbox: number, flags, and staging with a flag beside every word.
fn mailbox_bytes(ranks: u64) -> u64 {
    STAGING + PARITIES * ranks * 2 * ONE_SHOT_MOST
}

/// A call's grid, whose blocks must all be resident at once, on every GPU.
fn grid(call: &Call, ranks: u64, sm_count: u32) -> Result<Grid> {
    let vectors = call.bytes / 16;
    let most_blocks = sm_count.min(MOST_BLOCKS);
    // Accesses of a grid whose threads make one each.
    let (accesses, suits) = match call.algorithm {
        Algorithm::OneShot => (2 * vectors, most_blocks),
        Algorithm::TwoShot => (vectors.div_ceil(ranks), TWO_SHOT_BLOCKS.min(most_blocks)),
    };
    let few = accesses.next_multiple_of(32).clamp(FEWEST_THREADS.into(), MOST_THREADS.into());
    let threads = call.threads.unwrap_or(few as u32);
    let useful = accesses.div_ceil(threads.max(1).into()).min(suits.into()) as u32;
    let blocks = call.blocks.unwrap_or(useful);
    let whole = threads.is_multiple_of(32) && (FEWEST_THREADS..=MOST_THREADS).contains(&threads);
    if !whole || !(1..=most_blocks).contains(&blocks) {
        let what = format!("{blocks} blocks of {threads} threads, of {most_blocks} at most");
        return Err(Error::Shape { what });
    }
    Ok(Grid::linear(blocks, threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: u64, algorithm: Algorithm, blocks: u32, threads: u32) {
        let call = Call { algorithm, ..Call::new(bytes, Element::F16) };
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
        let many = Call { blocks: Some(133), ..Call::new(1 << 20, Element::F16) };
        assert!(grid(&many, 4, 132).is_err());
        let odd = Call { threads: Some(48), ..Call::new(1 << 20, Element::F16) };
        assert!(grid(&odd, 4, 132).is_err());
    }

    #[test]
    fn flags_and_staging_do_not_overlap() {
        assert!(FLAGS.0 + FLAGS.1 <= STAGING);
        assert_eq!(staging_of(1, 3, 4) + 2 * ONE_SHOT_MOST, mailbox_bytes(4));
        assert_eq!(mailbox_bytes(4), 32_768 + (8 << 20));
        // The same numbers stand in the kernel.
        for line in ["MOST_BLOCKS = 256", "STAGING = 32768", "STAGED = 2 * 524288"] {
            assert!(SOURCE.source.contains(line), "{line}");
        }
    }
}
