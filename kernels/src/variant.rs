//! The ways in which a streaming kernel may move its data, selectable at run time.
//!
//! Bytes in flight decide (Little's law): 4.8 TB/s at about a microsecond under load over 132
//! multiprocessors is 36 KB each, and more is needed to ride out unevenness. A vector variant has
//! 32 KiB a resident block in flight, a bulk variant its stages.

use std::fmt;

use crate::stream::Kind;

/// Independent 16-byte accesses of a thread. A tile of a block is so many times its threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unroll {
    /// One access.
    U1,
    /// 2 accesses.
    U2,
    /// 4 accesses.
    U4,
    /// 8 accesses, at most 512 threads.
    U8,
}

impl Unroll {
    /// Every choice.
    pub const ALL: [Unroll; 4] = [Unroll::U1, Unroll::U2, Unroll::U4, Unroll::U8];

    /// Accesses of a thread.
    pub fn accesses(self) -> u32 {
        match self {
            Unroll::U1 => 1,
            Unroll::U2 => 2,
            Unroll::U4 => 4,
            Unroll::U8 => 8,
        }
    }

    /// Most threads of a block; the launch bounds of stream.cu.
    pub fn most_threads(self) -> u32 {
        match self {
            Unroll::U1 | Unroll::U2 | Unroll::U4 => 1024,
            Unroll::U8 => 512,
        }
    }
}

/// Which block moves which piece (a tile, or a stage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// A persistent grid; piece i goes to block i modulo the grid, so that all blocks walk
    /// through memory side by side.
    Interleaved {
        /// Blocks of a multiprocessor, at most what fits at once.
        blocks_per_sm: u32,
    },
    /// A persistent grid; each block has one contiguous part of the buffer.
    Contiguous {
        /// Blocks of a multiprocessor, at most what fits at once.
        blocks_per_sm: u32,
    },
    /// As many blocks as it takes, each with a few pieces in a row; the hardware hands them out.
    Pieces {
        /// Pieces of a block.
        per_block: u32,
    },
}

/// Cache hints of vector accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// None.
    Plain,
    /// Loads without L1 allocation, stores with `.cs`. (With a prefetch of 256 bytes into L2 an H200
    /// reads 4290 GB/s in place of 4590.)
    Streaming,
    /// As `Streaming`, loads and stores with an evict-first L2 policy.
    EvictFirst,
    /// Loads as `EvictFirst`, plain stores.
    EvictFirstLoads,
}

impl Hint {
    pub(crate) fn code(self) -> u32 {
        match self {
            Hint::Plain => 0,
            Hint::Streaming => 1,
            Hint::EvictFirst => 2,
            Hint::EvictFirstLoads => 3,
        }
    }
}

/// One way to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// 16-byte loads and stores of every thread.
    Vector {
        /// Accesses in flight of a thread.
        unroll: Unroll,
        /// Threads of a block, a multiple of 32.
        threads: u32,
        /// Order of tiles.
        spread: Spread,
        /// Cache hints.
        hint: Hint,
    },
    /// The bulk copy engine and a ring in shared memory; compute capability 9.0 and later.
    Bulk {
        /// Bytes of a stage of one array, a multiple of 128.
        stage_bytes: u32,
        /// Stages, 3 to 8.
        stages: u32,
        /// Order of stages.
        spread: Spread,
        /// Evict-first L2 policy.
        evict_first: bool,
    },
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spread::Interleaved { blocks_per_sm } => write!(f, "interleaved-x{blocks_per_sm}"),
            Spread::Contiguous { blocks_per_sm } => write!(f, "contiguous-x{blocks_per_sm}"),
            Spread::Pieces { per_block } => write!(f, "pieces-{per_block}"),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Vector { unroll, threads, spread, hint } => {
                let hint = match hint {
                    Hint::Plain => "plain",
                    Hint::Streaming => "streaming",
                    Hint::EvictFirst => "evict-first",
                    Hint::EvictFirstLoads => "evict-first-loads",
                };
                write!(f, "vector-u{}x{threads}-{spread}-{hint}", unroll.accesses())
            }
            Variant::Bulk { stage_bytes, stages, spread, evict_first } => {
                let hint = if *evict_first { "evict-first" } else { "plain" };
                write!(f, "bulk-{stages}x{}k-{spread}-{hint}", stage_bytes / 1024)
            }
        }
    }
}

/// The variant used where none is named. Since compute capability 9.0 the best of the ladder on an
/// H200 (`touchstone tune`): what is written does best from many small blocks that the hardware hands
/// out, what is only read from the ring.
pub fn default_variant(kind: Kind, compute_capability: (u32, u32)) -> Variant {
    if compute_capability.0 < 9 {
        let spread = Spread::Interleaved { blocks_per_sm: 4 };
        return Variant::Vector { unroll: Unroll::U8, threads: 256, spread, hint: Hint::Streaming };
    }
    let (unroll, threads) = match kind {
        Kind::Read => {
            return Variant::Bulk {
                stage_bytes: 32 * 1024,
                stages: 6,
                spread: Spread::Contiguous { blocks_per_sm: 1 },
                evict_first: false,
            };
        }
        Kind::Write => (Unroll::U2, 128),
        Kind::Copy => (Unroll::U1, 128),
        Kind::Triad => (Unroll::U2, 1024),
    };
    let spread = Spread::Pieces { per_block: 1 };
    Variant::Vector { unroll, threads, spread, hint: Hint::Streaming }
}

/// The variant of a planted fault that leaves few blocks: one that moves much with each, so that the
/// control takes no longer than the measurement.
pub fn few_blocks_variant(compute_capability: (u32, u32)) -> Variant {
    let spread = Spread::Interleaved { blocks_per_sm: 1 };
    if compute_capability.0 < 9 {
        return Variant::Vector { unroll: Unroll::U8, threads: 256, spread, hint: Hint::Plain };
    }
    Variant::Bulk { stage_bytes: 16 * 1024, stages: 6, spread, evict_first: false }
}

/// Variants worth one measurement each, for a search on a new board. `bulk` is whether the board
/// has the bulk copy engine.
pub fn ladder(kind: Kind, bulk: bool) -> Vec<Variant> {
    let interleaved = |blocks_per_sm| Spread::Interleaved { blocks_per_sm };
    let contiguous = |blocks_per_sm| Spread::Contiguous { blocks_per_sm };
    let pieces = |per_block| Spread::Pieces { per_block };
    let mut rungs: Vec<Variant> = [
        (Unroll::U4, 512, interleaved(4), Hint::Streaming),
        (Unroll::U8, 256, interleaved(4), Hint::Plain),
        (Unroll::U8, 256, interleaved(4), Hint::Streaming),
        (Unroll::U8, 256, interleaved(4), Hint::EvictFirst),
        (Unroll::U8, 256, contiguous(4), Hint::Streaming),
        (Unroll::U8, 256, pieces(4), Hint::Streaming),
    ]
    .map(|(unroll, threads, spread, hint)| Variant::Vector { unroll, threads, spread, hint })
    .into();
    for (unroll, threads) in [
        (Unroll::U1, 64),
        (Unroll::U1, 128),
        (Unroll::U1, 256),
        (Unroll::U1, 512),
        (Unroll::U1, 1024),
        (Unroll::U2, 32),
        (Unroll::U2, 64),
        (Unroll::U2, 128),
        (Unroll::U2, 256),
        (Unroll::U2, 512),
        (Unroll::U2, 1024),
        (Unroll::U4, 32),
        (Unroll::U4, 64),
        (Unroll::U4, 128),
        (Unroll::U4, 256),
        (Unroll::U4, 512),
        (Unroll::U4, 1024),
        (Unroll::U8, 128),
        (Unroll::U8, 256),
        (Unroll::U8, 512),
    ] {
        for hint in [Hint::Plain, Hint::Streaming, Hint::EvictFirst] {
            rungs.push(Variant::Vector { unroll, threads, spread: pieces(1), hint });
        }
    }
    if bulk {
        // A triad's stage holds two arrays, so its ring takes twice the shared memory.
        let halve = if kind == Kind::Triad { 2 } else { 1 };
        let ring = [
            (16, 8, interleaved(1), false),
            (32, 4, interleaved(1), false),
            (32, 6, interleaved(1), false),
            (32, 6, interleaved(1), true),
            (32, 6, contiguous(1), false),
            (16, 6, interleaved(2), false),
            (16, 6, interleaved(2), true),
            (32, 3, interleaved(2), false),
            (8, 8, interleaved(3), false),
            (64, 3, interleaved(1), false),
            (16, 6, pieces(16), false),
        ];
        rungs.extend(ring.map(|(kib, stages, spread, evict_first)| Variant::Bulk {
            stage_bytes: kib * 1024 / halve,
            stages,
            spread,
            evict_first,
        }));
    }
    rungs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_variants_apart() {
        for kind in [Kind::Read, Kind::Write, Kind::Copy, Kind::Triad] {
            let mut names: Vec<String> = ladder(kind, true).iter().map(|v| v.to_string()).collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all);
        }
        let first = ladder(Kind::Copy, false)[0].to_string();
        assert_eq!(first, "vector-u4x512-interleaved-x4-streaming");
    }
}
