//! Patterns over whole regions of device memory: fill, check with full coverage, sum, flip.
//!
//! Word `i` of a region is a function of `i` alone ([`Content::word`]), so a check recomputes what
//! each word should be and counts those that differ: no reference copy, no sampling.
//! Walking ones and zeros and the address pattern are the classic memory tests; the address
//! pattern finds words that landed in the wrong place.

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::generator::{hash_word, with_generator};
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// Fill, check, sum and flip.
pub const SOURCE: KernelSource = KernelSource {
    name: "pattern",
    source: with_generator!("pattern.cu"),
    entries: &["pattern_fill", "pattern_check", "pattern_sum", "pattern_flip"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;
const BLOCKS_PER_SM: u32 = 8;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PatternParams {
    data: u64,
    result: u64,
    vectors: u64,
    first_vector: u64,
    seed: u64,
    second_seed: u64,
    kind: u32,
    value: u32,
}
const _: () = assert!(size_of::<PatternParams>() == 56);
// SAFETY: repr(C) without padding, equal to the struct in pattern.cu.
unsafe impl KernelParams for PatternParams {}

/// What a region holds, word by word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// `hash_word(seed, i)`.
    Hash {
        /// Seed of the generator.
        seed: u64,
    },
    /// The same word everywhere.
    Constant {
        /// That word.
        word: u32,
    },
    /// The f32 of the top 8 bits of the hash: an integer of 0 to 255.
    SmallFloat {
        /// Seed of the generator.
        seed: u64,
    },
    /// `b + 3 c` in f32 of two [`Content::SmallFloat`] regions: an integer of 0 to 1020, exact.
    Triad {
        /// Seed of b.
        b_seed: u64,
        /// Seed of c.
        c_seed: u64,
    },
    /// Only bit `(i + phase) % 32` set.
    WalkingOne {
        /// Bit of word 0.
        phase: u32,
    },
    /// Only bit `(i + phase) % 32` clear.
    WalkingZero {
        /// Bit of word 0.
        phase: u32,
    },
    /// The word's own index, folded to 32 bits, xor a mask.
    Address {
        /// The mask, 0 or all ones for the inverse pass.
        mask: u32,
    },
}

impl Content {
    /// The oracle: word `index` of the region.
    pub fn word(self, index: u64) -> u32 {
        let small = |seed| hash_word(seed, index) >> 24;
        let walking = |phase: u32| 1u32 << ((index as u32).wrapping_add(phase) & 31);
        match self {
            Content::Hash { seed } => hash_word(seed, index),
            Content::Constant { word } => word,
            Content::SmallFloat { seed } => (small(seed) as f32).to_bits(),
            Content::Triad { b_seed, c_seed } => {
                ((small(b_seed) + 3 * small(c_seed)) as f32).to_bits()
            }
            Content::WalkingOne { phase } => walking(phase),
            Content::WalkingZero { phase } => !walking(phase),
            Content::Address { mask } => {
                index as u32 ^ ((index >> 32) as u32).wrapping_mul(0x9E37_79B1) ^ mask
            }
        }
    }

    /// The oracle: wrapping sum of the little-endian 64-bit words of the first `bytes`.
    pub fn sum(self, bytes: u64) -> u64 {
        let pair = |i: u64| u64::from(self.word(2 * i)) | (u64::from(self.word(2 * i + 1)) << 32);
        (0..bytes / 8).map(pair).fold(0, u64::wrapping_add)
    }

    fn params(self, data: u64, result: u64, vectors: u64) -> PatternParams {
        let (kind, seed, second_seed, value) = match self {
            Content::Hash { seed } => (0, seed, 0, 0),
            Content::Constant { word } => (1, 0, 0, word),
            Content::SmallFloat { seed } => (2, seed, 0, 0),
            Content::Triad { b_seed, c_seed } => (3, b_seed, c_seed, 0),
            Content::WalkingOne { phase } => (4, 0, 0, phase),
            Content::WalkingZero { phase } => (5, 0, 0, phase),
            Content::Address { mask } => (6, 0, 0, mask),
        };
        PatternParams { data, result, vectors, first_vector: 0, seed, second_seed, kind, value }
    }
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Words that differ.
    pub count: u64,
    /// Index of the first of them.
    pub first_word: Option<u64>,
}

/// The pattern kernels of one GPU.
#[derive(Debug)]
pub struct Patterns {
    fill: Function,
    check: Function,
    sum: Function,
    flip: Function,
    result: Buffer,
    blocks: u32,
}

impl Patterns {
    /// Finds the entries of [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Patterns> {
        Ok(Patterns {
            fill: module.entry("pattern_fill")?,
            check: module.entry("pattern_check")?,
            sum: module.entry("pattern_sum")?,
            flip: module.entry("pattern_flip")?,
            result: gpu.alloc(16)?,
            blocks: gpu.sm_count * BLOCKS_PER_SM,
        })
    }

    /// Enqueues the fill of the buffer's first `bytes`.
    pub fn fill(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        bytes: u64,
        content: Content,
    ) -> Result<()> {
        let vectors = vectors(stream, buffer, bytes)?;
        let params = content.params(buffer.ptr(), 0, vectors);
        // SAFETY: the region lies inside the buffer, which cuMemFree keeps until the work is done.
        unsafe { self.fill.launch(stream, Grid::linear(self.blocks, THREADS), &params) }
    }

    /// Counts the words of the buffer's first `bytes` that differ, and waits for the answer.
    /// One check at a time on one `Patterns`: the answer has one place.
    pub fn check(
        &self,
        stream: &CudaStream,
        buffer: &Buffer,
        bytes: u64,
        content: Content,
    ) -> Result<Wrong> {
        let vectors = vectors(stream, buffer, bytes)?;
        self.result.write(stream, 0, &[0u64, u64::MAX])?;
        let params = content.params(buffer.ptr(), self.result.ptr(), vectors);
        // SAFETY: as in `fill`; the result holds two u64.
        unsafe { self.check.launch(stream, Grid::linear(self.blocks, THREADS), &params)? };
        let found: Vec<u64> = self.result.read_vec(stream, 2)?;
        let first_word = (found[1] != u64::MAX).then_some(found[1]);
        Ok(Wrong { count: found[0], first_word })
    }

    /// The wrapping sum of 64-bit words that `bytes` of the content have, computed on the device
    /// from the generator; no region is read.
    pub fn expected_sum(&self, stream: &CudaStream, bytes: u64, content: Content) -> Result<u64> {
        if bytes == 0 || !bytes.is_multiple_of(16) {
            return Err(Error::Shape { what: format!("a pattern of {bytes} bytes") });
        }
        self.result.write(stream, 0, &[0u64, 0])?;
        let params = content.params(0, self.result.ptr(), bytes / 16);
        // SAFETY: the kernel touches the result alone, which holds a u64.
        unsafe { self.sum.launch(stream, Grid::linear(self.blocks, THREADS), &params)? };
        Ok(self.result.read_vec::<u64>(stream, 1)?[0])
    }

    /// Enqueues the change of one 32-bit word by xor: a planted fault.
    pub fn flip(&self, stream: &CudaStream, buffer: &Buffer, word: u64, mask: u32) -> Result<()> {
        inside("flip", word.saturating_mul(4), 4, buffer.len_bytes())?;
        stream.same_context(buffer.context())?;
        let content = Content::Constant { word: mask };
        let params = content.params(buffer.ptr() + word * 4, 0, 0);
        // SAFETY: the word lies inside the buffer.
        unsafe { self.flip.launch(stream, Grid::linear(1, 32), &params) }
    }
}

/// Checks the region and returns its 16-byte vectors.
fn vectors(stream: &CudaStream, buffer: &Buffer, bytes: u64) -> Result<u64> {
    if bytes == 0 || !bytes.is_multiple_of(16) {
        return Err(Error::Shape { what: format!("a pattern of {bytes} bytes") });
    }
    inside("pattern", 0, bytes, buffer.len_bytes())?;
    stream.same_context(buffer.context())?;
    Ok(bytes / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: Content, index: u64, expect: u32) {
        assert_eq!(content.word(index), expect, "{content:?} at {index}");
    }

    #[test]
    fn walking_bits_by_hand() {
        check(Content::WalkingOne { phase: 0 }, 0, 0x0000_0001);
        check(Content::WalkingOne { phase: 30 }, 3, 0x0000_0002);
        check(Content::WalkingZero { phase: 0 }, 31, 0x7FFF_FFFF);
    }

    #[test]
    fn addresses_by_hand() {
        check(Content::Address { mask: 0 }, 5, 5);
        check(Content::Address { mask: u32::MAX }, 5, 0xFFFF_FFFA);
        check(Content::Address { mask: 0 }, (1 << 32) + 5, 0x9E37_79B1 ^ 5);
    }

    #[test]
    fn small_floats_are_the_top_byte() {
        // mix(0, 0) is 0, so lane 0 is 0 and lane 1 is 0x7F4A7C15, whose top byte is 127.
        check(Content::SmallFloat { seed: 0 }, 0, 0);
        check(Content::SmallFloat { seed: 0 }, 1, 127f32.to_bits());
        check(Content::Triad { b_seed: 0, c_seed: 0 }, 1, 508f32.to_bits());
    }

    #[test]
    fn sums_are_of_64_bit_words() {
        let content = Content::Constant { word: 3 };
        assert_eq!(content.sum(16), 2 * 0x0000_0003_0000_0003);
    }
}
