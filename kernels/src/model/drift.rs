//! What differs between two results of fp16 or of bf16, by their bytes.

use crate::Result;
use crate::device::{Buffer, CudaStream};

/// Bytes of one entry in a buffer of differences.
pub(super) const BYTES: u64 = 32;

/// What differs between two results.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Elements whose bits differ: +0 and -0 do, and so do two NaN of other bits.
    pub count: u64,
    /// Index of the first of them; `None` where there is none.
    pub first: Option<u64>,
    /// Hash of the first result.
    pub hash: u64,
    /// Most numbers of their type that lie between two elements, plus one; 0 where all are equal numbers.
    pub ulp: u32,
    /// Largest |a - b|; infinite where one of them is no number.
    pub delta: f32,
}

impl Difference {
    /// An entry as [`super::Kernels::compare`] leaves it.
    fn parse(words: &[u64; 4]) -> Difference {
        Difference {
            count: words[0],
            first: (words[0] > 0).then_some(words[1]),
            hash: words[2],
            ulp: words[3] as u32,
            delta: f32::from_bits((words[3] >> 32) as u32),
        }
    }
}

/// Enqueues the reset of every entry.
pub(super) fn reset(stream: &CudaStream, differences: &Buffer) -> Result<()> {
    let count = (differences.len_bytes() / BYTES) as usize;
    let empty = [0u64, u64::MAX, 0, 0].repeat(count);
    differences.write(stream, 0, &empty)
}

/// Reads every entry, behind the stream's work.
pub(super) fn read(stream: &CudaStream, differences: &Buffer) -> Result<Vec<Difference>> {
    let words: Vec<u64> = differences.read_vec(stream, (differences.len_bytes() / 8) as usize)?;
    let entry = |words: &[u64]| Difference::parse(&[words[0], words[1], words[2], words[3]]);
    Ok(words.chunks_exact(4).map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_are_written() {
        let delta = u64::from(0.5f32.to_bits()) << 32;
        let found = Difference::parse(&[3, 17, 99, delta | 2]);
        assert_eq!(found, Difference { count: 3, first: Some(17), hash: 99, ulp: 2, delta: 0.5 });
        assert_eq!(Difference::parse(&[0, u64::MAX, 5, 0]).first, None);
    }
}
