//! Attention: softmax(q k^T scale) v, forward, with any mask and score.
//!
//! - [`forward`]: many queries at once. Two kernels behind one launcher: `hopper.cu` (sm_90a) and
//!   `portable.cu` (sm_80 and later).
//! - [`decode`]: a few queries over a cache, contiguous or paged, 16-bit or E4M3.
//! - [`blocks`]: which tiles a mask leaves empty, partial or full.
//! - [`quantise`]: queries, keys and values in E4M3.
//! - [`program`]: masks and scores in CUDA C++; [`variant`]: what is compiled.
//! - [`reference`]: drawn rows in f64, the oracle; [`rules`]: what its masks and scores must say.
//!
//! Multiplications and additions are counted as 4 x queries x keys x head size for each head, half of it
//! under a causal mask, as Dao's papers do: [`flops`] of [`pairs`].

pub mod blocks;
pub mod decode;
pub mod forward;
pub mod program;
pub mod quantise;
pub mod reference;
pub mod rules;
pub mod variant;

use crate::device::Buffer;
use crate::memory::inside;
use crate::{Error, Result};

/// Where a tensor of heads lies, in elements. Its innermost dimension is contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// Where the tensor begins.
    pub offset: u64,
    /// From one token to the next.
    pub row: u64,
    /// From one head to the next.
    pub head: u64,
    /// From one sequence, or page, to the next; not used where sequences are ragged.
    pub batch: u64,
}

impl<'a> Tensor<'a> {
    /// `[batch][row][head][element]` without gaps.
    pub fn packed(buffer: &'a Buffer, rows: u32, heads: u32, head_size: u32) -> Tensor<'a> {
        let row = u64::from(heads) * u64::from(head_size);
        Tensor { buffer, offset: 0, row, head: head_size.into(), batch: u64::from(rows) * row }
    }

    /// Device address of the first element.
    pub(crate) fn address(&self, element_bytes: u64) -> u64 {
        self.buffer.ptr() + element_bytes * self.offset
    }

    /// Checks that all elements lie inside the buffer and that each head's row begins on 16 bytes.
    pub(crate) fn check(&self, what: &str, sizes: Sizes, element_bytes: u64) -> Result<()> {
        let pieces = [self.offset, self.row, self.head, self.batch];
        if pieces.iter().any(|step| !(step * element_bytes).is_multiple_of(16)) {
            let what = format!("{what}: offset and steps {pieces:?} are not whole 16 bytes");
            return Err(Error::Shape { what });
        }
        let Sizes { batches, rows, heads, head_size } = sizes;
        let reach = |count: u32, step: u64| u64::from(count.max(1) - 1).checked_mul(step);
        let last = [(batches, self.batch), (rows, self.row), (heads, self.head)]
            .into_iter()
            .try_fold(u64::from(head_size), |sum, (count, step)| {
                sum.checked_add(reach(count, step)?)
            })
            .and_then(|last| last.checked_mul(element_bytes))
            .ok_or_else(|| Error::Shape { what: format!("{what}: steps {pieces:?}") })?;
        inside(what, element_bytes * self.offset, last, self.buffer.len_bytes())
    }
}

/// Sizes of a tensor of heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batches: u32,
    pub(crate) rows: u32,
    pub(crate) heads: u32,
    pub(crate) head_size: u32,
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub batches: u32,
    /// Heads of queries.
    pub heads: u32,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: u32,
    /// Queries of a sequence; ragged: of the longest.
    pub queries: u32,
    /// Keys of a sequence; ragged: of the longest.
    pub keys: u32,
    /// Elements of a head.
    pub head_size: u32,
}

impl Shape {
    /// Heads of queries that share a head of keys.
    pub fn group(&self) -> u32 {
        self.heads / self.kv_heads.max(1)
    }

    pub(crate) fn check(&self) -> Result<()> {
        // 2^30 keys keep every position and distance inside an i32.
        let sizes = [self.batches, self.heads, self.kv_heads, self.queries, self.keys];
        if sizes.iter().any(|&size| size == 0 || size > 1 << 30)
            || !self.heads.is_multiple_of(self.kv_heads)
        {
            return Err(Error::Shape { what: format!("an attention of {self:?}") });
        }
        Ok(())
    }
}

/// What a program may read; see `program.cuh`.
///
/// The sequences and heads that a program sees are those of its launch, numbered from 0. Where heads are
/// shared out, each share is given its own heads' numbers, from [`Data::first`] on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Data<'a> {
    /// i32 numbers.
    pub numbers: Option<&'a Buffer>,
    /// The first of them that the program sees, as its number 0.
    pub first: u64,
    /// A parameter.
    pub number: i32,
    /// A parameter.
    pub factor: f32,
}

impl Data<'_> {
    pub(crate) fn address(&self) -> u64 {
        self.numbers.map_or(0, |buffer| buffer.ptr() + 4 * self.first)
    }

    pub(crate) fn count(&self) -> i32 {
        let left = |buffer: &Buffer| (buffer.len_bytes() / 4).saturating_sub(self.first);
        self.numbers.map_or(0, |buffer| i32::try_from(left(buffer)).unwrap_or(i32::MAX))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bytes = self.numbers.map_or(0, Buffer::len_bytes);
        inside("first number of a program", self.first.saturating_mul(4), 0, bytes)
    }
}

/// Multiplications and additions of an attention of so many heads in each of which queries see `pairs`
/// keys in total, over all sequences.
pub fn flops(pairs: f64, heads: u32, head_size: u32) -> f64 {
    4.0 * pairs * f64::from(head_size) * f64::from(heads)
}

/// Keys that the queries of one head see, as papers count them: all pairs, or half under a causal mask.
pub fn pairs(queries: u32, keys: u32, causal: bool) -> f64 {
    let all = f64::from(queries) * f64::from(keys);
    if causal { all / 2.0 } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flops_by_hand() {
        assert_eq!(flops(2.0 * pairs(5, 7, false), 3, 64), 4.0 * 35.0 * 64.0 * 6.0);
        assert_eq!(pairs(8, 8, true), 32.0);
    }

    #[test]
    fn shapes_that_are_none() {
        let good = Shape { batches: 1, heads: 8, kv_heads: 2, queries: 1, keys: 9, head_size: 64 };
        assert!(good.check().is_ok());
        assert!(Shape { kv_heads: 3, ..good }.check().is_err());
        assert!(Shape { keys: 0, ..good }.check().is_err());
        assert!(Shape { queries: u32::MAX, ..good }.check().is_err());
    }
}
