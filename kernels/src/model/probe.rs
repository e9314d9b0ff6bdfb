//! What a pass made of chosen rows in chosen layers, stage by stage, so that each stage can be
//! checked on what it was really given.

use std::ops::Range;

use super::HEAD_SIZE;
use crate::device::{Buffer, CudaStream, Gpu};
use crate::peer::{self, Rows};
use crate::{Error, Result};

/// What is looked at. Reading waits for the GPU, so that a pass that is looked at is not timed or recorded.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Layers.
    pub layers: Vec<u32>,
    /// Rows of all sequences, one behind the other.
    pub rows: Vec<u32>,
    /// The head whose keys and values are read.
    pub head: u32,
    /// What was seen, by layer and row.
    pub seen: Vec<Seen>,
}

/// One row in one layer, as codes of halves or of bf16.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// The layer.
    pub layer: u32,
    /// The row.
    pub row: u32,
    /// The head of keys and values.
    pub head: u32,
    /// The residual stream before the layer, [d].
    pub before: Vec<u16>,
    /// Queries, keys and values, [3 d].
    pub qkv: Vec<u16>,
    /// The head's keys of the sequence up to this row, [keys][[`HEAD_SIZE`]].
    pub keys: Vec<u16>,
    /// The same of values.
    pub values: Vec<u16>,
    /// Attention's outputs, [d].
    pub attended: Vec<u16>,
    /// The residual stream behind attention, [d].
    pub middle: Vec<u16>,
    /// Inside the MLP, [d_ff]: behind the GELU in fp16 and bf16, before it in E4M3.
    pub inner: Vec<u16>,
    /// The residual stream behind the layer, [d].
    pub after: Vec<u16>,
}

impl Probe {
    /// Looks at rows in layers.
    pub fn new(layers: Vec<u32>, rows: Vec<u32>, head: u32) -> Probe {
        Probe { layers, rows, head, seen: Vec::new() }
    }

    /// The rows of a chunk that are looked at in a layer.
    pub(super) fn rows_of(&self, layer: u32, chunk: &Range<u32>) -> Vec<u32> {
        match self.layers.contains(&layer) {
            true => self.rows.iter().copied().filter(|row| chunk.contains(row)).collect(),
            false => Vec::new(),
        }
    }

    /// What all ranks saw of a pass, as one GPU would have seen it; `None` of no rank. Queries, keys and values are each
    /// rank's columns side by side, keys and values of the head are those of the rank that has it, and of what every rank
    /// has whole the last one's counts, to which all was sent.
    pub(super) fn merged(mut ranks: Vec<Probe>) -> Option<Probe> {
        let mut whole = ranks.pop()?;
        for seen in &mut whole.seen {
            let same = |other: &&Seen| (other.layer, other.row) == (seen.layer, seen.row);
            let others: Vec<&Seen> =
                ranks.iter().filter_map(|rank| rank.seen.iter().find(same)).collect();
            let third = |seen: &Seen, part: usize| {
                let width = seen.qkv.len() / 3;
                seen.qkv[part * width..(part + 1) * width].to_vec()
            };
            let of_all = |part| others.iter().copied().chain([&*seen]).map(move |s| third(s, part));
            let qkv = (0..3).flat_map(of_all).flatten().collect();
            if let Some(owner) = others.iter().find(|other| !other.keys.is_empty()) {
                (seen.keys, seen.values) = (owner.keys.clone(), owner.values.clone());
            }
            seen.qkv = qkv;
        }
        Some(whole)
    }

    /// The entry of a row in a layer, made where there is none.
    pub(super) fn entry(&mut self, layer: u32, row: u32) -> &mut Seen {
        let known = self.seen.iter().position(|seen| (seen.layer, seen.row) == (layer, row));
        let at = known.unwrap_or_else(|| {
            self.seen.push(Seen { layer, row, head: self.head, ..Seen::default() });
            self.seen.len() - 1
        });
        &mut self.seen[at]
    }
}

/// A row of `columns` halves in a packed matrix; waits for the stream.
pub(super) fn row(
    stream: &CudaStream,
    matrix: &Buffer,
    row: u64,
    columns: u32,
) -> Result<Vec<u16>> {
    let mut out = vec![0; columns as usize];
    matrix.read(stream, 2 * row * u64::from(columns), &mut out)?;
    Ok(out)
}

/// `count` rows of a head from element `first` on, `step` elements from one to the next; waits.
pub(super) fn head(
    (gpu, stream): (&Gpu, &CudaStream),
    matrix: &Buffer,
    (first, step): (u64, u64),
    count: u32,
) -> Result<Vec<u16>> {
    if count == 0 {
        return Err(Error::Shape { what: "no rows of a head".into() });
    }
    let from = Rows { buffer: matrix, offset: 2 * first, pitch: 2 * step };
    peer::read_rows((gpu, stream), from, 2 * u64::from(HEAD_SIZE), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_chunk() {
        let mut probe = Probe::new(vec![3], vec![0, 7, 8], 1);
        assert_eq!(probe.rows_of(3, &(0..8)), [0, 7]);
        assert!(probe.rows_of(2, &(0..8)).is_empty());
        probe.entry(3, 7).before = vec![1];
        probe.entry(3, 7).after = vec![2];
        assert_eq!(probe.seen.len(), 1);
        assert_eq!(probe.seen[0].before, [1]);
    }

    #[test]
    fn ranks_side_by_side() {
        let of = |qkv: &[u16], keys: &[u16], before: u16| {
            let mut probe = Probe::new(vec![3], vec![7], 1);
            let seen = probe.entry(3, 7);
            (seen.qkv, seen.keys, seen.before) = (qkv.to_vec(), keys.to_vec(), vec![before]);
            probe
        };
        let whole = Probe::merged(vec![
            of(&[1, 2, 5, 6, 9, 10], &[8], 4),
            of(&[3, 4, 7, 8, 11, 12], &[], 5),
        ]);
        let [seen] = &whole.expect("two ranks").seen[..] else { panic!("one row") };
        assert_eq!(seen.qkv, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!((&seen.keys[..], &seen.before[..]), (&[8][..], &[5][..]));
        let alone = Probe::merged(vec![of(&[1, 2, 3], &[9], 0)]).expect("one rank");
        assert_eq!((&alone.seen[0].qkv[..], &alone.seen[0].keys[..]), (&[1, 2, 3][..], &[9][..]));
        assert!(Probe::merged(Vec::new()).is_none());
    }
}
