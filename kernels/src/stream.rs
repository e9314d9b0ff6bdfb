//! HBM streaming: read, write, copy and triad over buffers far larger than the L2 cache.
//!
//! Bytes counted are those an ideal cache would move: a read or a write one array, a copy two, the
//! triad `a = b + s c` of McCalpin's STREAM three ([`counted_bytes`]). A write is not charged for
//! a read: a full line needs none.
//!
//! Every byte takes part in the answer. A read returns the wrapping sum of all 64-bit words, which
//! must equal the generator's ([`crate::pattern::Patterns::expected_sum`]); one changed bit changes
//! it. What is written is checked word by word against the generator afterwards.
//!
//! [`Fault`] plants real slowness, real cache hits and real wrong words in the launch itself.

use crate::bulk;
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::generator::with_generator;
use crate::memory::inside;
use crate::pattern::Patterns;
use crate::variant::{Spread, Unroll, Variant};
use crate::{Error, KernelSource, Result};

/// The vector kernels. The ring is [`crate::bulk::SOURCE`].
pub const SOURCE: KernelSource = KernelSource {
    name: "stream",
    source: with_generator!("stream.cu"),
    entries: &[
        "stream_read_u1",
        "stream_write_u1",
        "stream_copy_u1",
        "stream_triad_u1",
        "stream_read_u2",
        "stream_write_u2",
        "stream_copy_u2",
        "stream_triad_u2",
        "stream_read_u4",
        "stream_write_u4",
        "stream_copy_u4",
        "stream_triad_u4",
        "stream_read_u8",
        "stream_write_u8",
        "stream_copy_u8",
        "stream_triad_u8",
    ],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct StreamParams {
    a: u64,
    b: u64,
    c: u64,
    vectors: u64,
    seed: u64,
    passes: u32,
    run: u32,
    hint: u32,
    constant: u32,
    value: u32,
    scalar: f32,
}
const _: () = assert!(size_of::<StreamParams>() == 64);
// SAFETY: repr(C) without padding, equal to the struct in stream.cu.
unsafe impl KernelParams for StreamParams {}

/// What is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sum of a source.
    Read,
    /// Generated or constant words into a target.
    Write,
    /// Source into target.
    Copy,
    /// a = b + s c in f32.
    Triad,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Copy, Kind::Triad];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Copy => "copy",
            Kind::Triad => "triad",
        }
    }
}

/// Bytes that `kind` moves over arrays of `array_bytes` each.
pub fn counted_bytes(kind: Kind, array_bytes: u64) -> u64 {
    match kind {
        Kind::Read | Kind::Write => array_bytes,
        Kind::Copy => 2 * array_bytes,
        Kind::Triad => 3 * array_bytes,
    }
}

/// Words that a write produces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `hash_word(seed, i)`, made in registers.
    Hash {
        /// Seed of the generator.
        seed: u64,
    },
    /// One word everywhere.
    Constant {
        /// That word.
        word: u32,
    },
}

/// What is streamed, and where.
#[derive(Debug, Clone, Copy)]
pub enum Job<'a> {
    /// Sums `source`; partial sums, one u64 a block, go to `sums`.
    Read {
        /// The array.
        source: &'a Buffer,
        /// Place of the partial sums, see [`sums_bytes`].
        sums: &'a Buffer,
    },
    /// Writes `output` to `target`.
    Write {
        /// The array.
        target: &'a Buffer,
        /// Its words.
        output: Output,
    },
    /// Copies `source` to `target`.
    Copy {
        /// The output.
        target: &'a Buffer,
        /// The input.
        source: &'a Buffer,
    },
    /// `a = b + scalar * c` in f32.
    Triad {
        /// The output.
        a: &'a Buffer,
        /// The first input.
        b: &'a Buffer,
        /// The second input.
        c: &'a Buffer,
        /// The factor; 3 keeps the integers of the generator exact.
        scalar: f32,
    },
}

impl Job<'_> {
    /// The kind of the job.
    pub fn kind(&self) -> Kind {
        match self {
            Job::Read { .. } => Kind::Read,
            Job::Write { .. } => Kind::Write,
            Job::Copy { .. } => Kind::Copy,
            Job::Triad { .. } => Kind::Triad,
        }
    }
}

/// One word of the output changed by xor after the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flip {
    /// Index of the 32-bit word; of a read, in its partial sums.
    pub word: u64,
    /// Bits to change.
    pub mask: u32,
}

/// Faults planted in the launch. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fault {
    /// So many blocks and no more, with all the work: 16 blocks use 16 multiprocessors.
    pub blocks: Option<u32>,
    /// That share of the data is moved a second time and not counted.
    pub repeat_fraction_ppm: u32,
    /// Only that much memory is touched, over and over, so that the L2 cache serves it.
    pub window_bytes: Option<u64>,
    /// A wrong word.
    pub flip: Option<Flip>,
}

/// Bytes that the partial sums of any read may need on this GPU, with room for a repeated part.
pub fn sums_bytes(gpu: &Gpu, array_bytes: u64) -> u64 {
    let most_blocks = array_bytes.div_ceil(1024).max(u64::from(gpu.sm_count) * 32);
    16 * most_blocks.min(1 << 24)
}

/// Where everything of a launch lies, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrays {
    pub(crate) kind: Kind,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) seed: u64,
    pub(crate) constant: u32,
    pub(crate) value: u32,
    pub(crate) scalar: f32,
}

/// One kernel launch of a prepared job.
#[derive(Debug, Clone, Copy)]
enum Launch {
    Vector(Grid, StreamParams),
    Bulk(Grid, bulk::BulkParams),
}

/// A job whose shapes are checked, ready to be enqueued any number of times.
#[derive(Debug)]
pub struct Prepared<'a> {
    function: &'a Function,
    launches: Vec<Launch>,
    flip: Option<(&'a Patterns, &'a Buffer, Flip)>,
    sums: Option<&'a Buffer>,
    /// Blocks of the main launch.
    pub blocks: u32,
}

impl Prepared<'_> {
    /// Enqueues the job with its planted faults.
    pub fn launch(&self, stream: &CudaStream) -> Result<()> {
        for launch in &self.launches {
            // SAFETY: `prepare` checked every range against its buffer, and the buffers outlive
            // self; cuMemFree waits for work in flight.
            unsafe {
                match launch {
                    Launch::Vector(grid, params) => self.function.launch(stream, *grid, params)?,
                    Launch::Bulk(grid, params) => self.function.launch(stream, *grid, params)?,
                }
            }
        }
        match self.flip {
            Some((patterns, target, flip)) => patterns.flip(stream, target, flip.word, flip.mask),
            None => Ok(()),
        }
    }

    /// The sum that the last read found; waits for it.
    pub fn checksum(&self, stream: &CudaStream) -> Result<u64> {
        let Some(sums) = self.sums else {
            return Err(Error::Shape { what: "only a read has a checksum".into() });
        };
        let partial: Vec<u64> = sums.read_vec(stream, self.blocks as usize)?;
        Ok(partial.into_iter().fold(0, u64::wrapping_add))
    }
}

/// The streaming kernels of one GPU.
#[derive(Debug)]
pub struct Streaming {
    vector: Vec<(Kind, Unroll, Function)>,
    bulk: Vec<(Kind, Function)>,
    patterns: Patterns,
    sm_count: u32,
    max_shared_bytes: u32,
}

impl Streaming {
    /// Finds the entries: `vector` is [`SOURCE`], `bulk` is [`crate::bulk::SOURCE`] where the
    /// architecture has it, `pattern` is [`crate::pattern::SOURCE`].
    pub fn new(
        gpu: &Gpu,
        vector: &Module,
        bulk: Option<&Module>,
        pattern: &Module,
    ) -> Result<Streaming> {
        let mut functions = Vec::new();
        for kind in Kind::ALL {
            for unroll in Unroll::ALL {
                let name = format!("stream_{}_u{}", kind.name(), unroll.accesses());
                functions.push((kind, unroll, vector.entry(&name)?));
            }
        }
        let mut rings = Vec::new();
        if let Some(module) = bulk {
            for kind in Kind::ALL {
                rings.push((kind, module.entry(&format!("bulk_{}", kind.name()))?));
            }
        }
        Ok(Streaming {
            vector: functions,
            bulk: rings,
            patterns: Patterns::new(gpu, pattern)?,
            sm_count: gpu.sm_count,
            max_shared_bytes: gpu.max_shared_per_block_bytes,
        })
    }

    /// The fills and checks for the buffers.
    pub fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// Checks shapes and makes the launches of a job over the first `bytes` of its arrays.
    pub fn prepare<'a>(
        &'a self,
        job: Job<'a>,
        bytes: u64,
        variant: Variant,
        fault: Fault,
    ) -> Result<Prepared<'a>> {
        let arrays = arrays(&job, bytes)?;
        let window = fault.window_bytes.unwrap_or(bytes);
        if window == 0
            || window > bytes
            || !window.is_multiple_of(16)
            || !bytes.is_multiple_of(window)
        {
            let what = format!("a window of {window} bytes does not divide {bytes}");
            return Err(Error::Shape { what });
        }
        let passes = u32::try_from(bytes / window)
            .map_err(|_| Error::Shape { what: format!("a window of {window} bytes") })?;
        let (function, main) = self.launch_of(arrays, window, passes, variant, fault.blocks)?;
        let blocks = main.grid().blocks.0;
        let mut launches = vec![main];
        let repeated = u128::from(bytes) * u128::from(fault.repeat_fraction_ppm) / 1_000_000;
        let repeated = (repeated as u64).min(bytes) / 16 * 16;
        if repeated > 0 {
            // A repeated read leaves its sums behind those that count.
            let shifted = match arrays.kind {
                Kind::Read => Arrays { a: arrays.a + 8 * u64::from(blocks), ..arrays },
                Kind::Write | Kind::Copy | Kind::Triad => arrays,
            };
            launches.push(self.launch_of(shifted, repeated, 1, variant, fault.blocks)?.1);
        }
        let target = match job {
            Job::Read { sums, .. } => {
                inside("partial sums", 0, 16 * u64::from(blocks), sums.len_bytes())?;
                sums
            }
            Job::Write { target, .. } | Job::Copy { target, .. } => target,
            Job::Triad { a, .. } => a,
        };
        let sums = (arrays.kind == Kind::Read).then_some(target);
        let flip = fault.flip.map(|flip| (&self.patterns, target, flip));
        Ok(Prepared { function, launches, flip, sums, blocks })
    }

    /// The function and the launch of one pass structure over `window` bytes.
    fn launch_of(
        &self,
        arrays: Arrays,
        window: u64,
        passes: u32,
        variant: Variant,
        fault_blocks: Option<u32>,
    ) -> Result<(&Function, Launch)> {
        match variant {
            Variant::Vector { unroll, threads, spread, hint } => {
                let entry = self.vector.iter().find(|(k, u, _)| *k == arrays.kind && *u == unroll);
                let Some((_, _, function)) = entry else {
                    return Err(Error::Shape { what: format!("no kernel for {variant}") });
                };
                if !threads.is_multiple_of(32) || threads == 0 || threads > unroll.most_threads() {
                    let what = format!("{threads} threads of {}", unroll.most_threads());
                    return Err(Error::Shape { what });
                }
                let tile = u64::from(threads * unroll.accesses());
                let vectors = window / 16;
                let resident = function.blocks_per_sm(threads, 0)?;
                let (blocks, run) = self.spread(spread, vectors / tile, resident, fault_blocks)?;
                let run = u32::try_from(run).map_err(|_| Error::Shape {
                    what: format!("{window} bytes on {blocks} blocks"),
                })?;
                let params = StreamParams {
                    a: arrays.a,
                    b: arrays.b,
                    c: arrays.c,
                    vectors,
                    seed: arrays.seed,
                    passes,
                    run,
                    hint: hint.code(),
                    constant: arrays.constant,
                    value: arrays.value,
                    scalar: arrays.scalar,
                };
                Ok((function, Launch::Vector(Grid::linear(blocks, threads), params)))
            }
            Variant::Bulk { stage_bytes, stages, spread, evict_first } => {
                let Some((_, function)) = self.bulk.iter().find(|(k, _)| *k == arrays.kind) else {
                    let what = format!("{variant} needs the bulk copy engine");
                    return Err(Error::Shape { what });
                };
                let ring = bulk::Ring { stage_bytes, stages, evict_first };
                let shared = ring.shared_bytes(arrays.kind, self.max_shared_bytes)?;
                let threads = bulk::threads(arrays.kind);
                // The occupancy is counted with the shared memory that the launch will ask for.
                function.set_max_dynamic_shared_bytes(shared)?;
                let resident = function.blocks_per_sm(threads, shared)?;
                let chunks = window.div_ceil(stage_bytes.into());
                let total = chunks * u64::from(passes);
                let (blocks, run) = self.spread(spread, total, resident, fault_blocks)?;
                let params = bulk::params(arrays, ring, window, passes, run);
                let grid = Grid { shared_bytes: shared, ..Grid::linear(blocks, threads) };
                Ok((function, Launch::Bulk(grid, params)))
            }
        }
    }

    /// Blocks, and pieces in a row of each block (0 where pieces interleave).
    fn spread(
        &self,
        spread: Spread,
        pieces: u64,
        resident: u32,
        fault_blocks: Option<u32>,
    ) -> Result<(u32, u64)> {
        if resident == 0 {
            return Err(Error::Shape { what: "a block that fits on no multiprocessor".into() });
        }
        let pieces = pieces.max(1);
        let persistent = |blocks_per_sm: u32| {
            let blocks = u64::from(self.sm_count) * u64::from(blocks_per_sm.clamp(1, resident));
            fault_blocks.map_or(blocks, u64::from).clamp(1, pieces)
        };
        let (blocks, run) = match (spread, fault_blocks) {
            (Spread::Interleaved { blocks_per_sm }, _) => (persistent(blocks_per_sm), 0),
            (Spread::Contiguous { blocks_per_sm }, _) => {
                let run = pieces.div_ceil(persistent(blocks_per_sm));
                (pieces.div_ceil(run), run)
            }
            (Spread::Pieces { .. }, Some(blocks)) => (u64::from(blocks).clamp(1, pieces), 0),
            (Spread::Pieces { per_block }, None) => {
                let run = u64::from(per_block.max(1));
                (pieces.div_ceil(run), run)
            }
        };
        let blocks = u32::try_from(blocks)
            .map_err(|_| Error::Shape { what: format!("{pieces} pieces as {spread}") })?;
        Ok((blocks, run))
    }
}

impl Launch {
    fn grid(&self) -> Grid {
        match self {
            Launch::Vector(grid, _) | Launch::Bulk(grid, _) => *grid,
        }
    }
}

/// Checks sizes, context and overlap of a job's buffers.
fn arrays(job: &Job<'_>, bytes: u64) -> Result<Arrays> {
    if bytes == 0 || !bytes.is_multiple_of(16) {
        return Err(Error::Shape { what: format!("a stream of {bytes} bytes") });
    }
    let whole = |what: &str, buffer: &Buffer| -> Result<u64> {
        inside(what, 0, bytes, buffer.len_bytes())?;
        Ok(buffer.ptr())
    };
    let none =
        Arrays { kind: job.kind(), a: 0, b: 0, c: 0, seed: 0, constant: 0, value: 0, scalar: 0.0 };
    let arrays = match *job {
        Job::Read { source, sums } => {
            Arrays { a: sums.ptr(), b: whole("read source", source)?, ..none }
        }
        Job::Write { target, output } => {
            let (seed, constant, value) = match output {
                Output::Hash { seed } => (seed, 0, 0),
                Output::Constant { word } => (0, 1, word),
            };
            Arrays { a: whole("write target", target)?, seed, constant, value, ..none }
        }
        Job::Copy { target, source } => {
            let (a, b) = (whole("copy target", target)?, whole("copy source", source)?);
            Arrays { a, b, ..none }
        }
        Job::Triad { a, b, c, scalar } => Arrays {
            a: whole("triad a", a)?,
            b: whole("triad b", b)?,
            c: whole("triad c", c)?,
            scalar,
            ..none
        },
    };
    // The loads go past the coherent path, so an output must not be an input.
    if arrays.a == arrays.b || arrays.a == arrays.c {
        return Err(Error::Shape { what: "a stream whose output is one of its inputs".into() });
    }
    Ok(arrays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_array() {
        assert_eq!(counted_bytes(Kind::Read, 100), 100);
        assert_eq!(counted_bytes(Kind::Write, 100), 100);
        assert_eq!(counted_bytes(Kind::Copy, 100), 200);
        assert_eq!(counted_bytes(Kind::Triad, 100), 300);
    }

    #[test]
    fn every_entry_of_the_source_has_a_name() {
        for kind in Kind::ALL {
            for unroll in Unroll::ALL {
                let name = format!("stream_{}_u{}", kind.name(), unroll.accesses());
                assert!(SOURCE.entries.contains(&name.as_str()));
                assert!(SOURCE.source.contains("stream_read_u##U"));
            }
        }
    }
}
