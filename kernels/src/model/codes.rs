//! Attention over E4M3 inside the model: what it reads, and what of it is kept from chunk to chunk.

use super::HEAD_SIZE;
use super::fault::CodesFault;
use super::probe::Seen;
use super::{Config, Problem};
use crate::attention::Tensor;
use crate::attention::forward::{self, Forward};
use crate::attention::quantise::{HeadScales, Layout, Quantised, Quantiser, Scales, bytes};
use crate::device::{CudaStream, Gpu};
use crate::element::Element;
use crate::{Error, Result};

/// Queries, keys and values of a rank's heads in E4M3.
///
/// Of chunks that are whole sequences all three are a chunk's, with a scale for each head of a sequence. Of one sequence in
/// several chunks queries are a chunk's, and keys and values the sequence's, of which each chunk adds its own with a scale
/// of 1: no chunk's largest number is known before it comes, and what is kept is not made again.
#[derive(Debug)]
pub(super) struct AttentionCodes {
    queries: Quantised,
    keys: Quantised,
    values: Quantised,
    /// Whether keys and values are kept.
    kept: bool,
}

impl Config {
    /// Whether attention reads keys and values of earlier chunks that are kept in E4M3, and in nothing else.
    pub fn keeps_codes(&self, problem: &Problem) -> bool {
        self.attention_e4m3 && !problem.batches.is_multiple_of(problem.chunks.max(1))
    }

    /// Sequences and tokens of a chunk's queries, and of its keys and values, where attention is in E4M3.
    fn attention_sizes(&self, problem: &Problem) -> [(u32, u32); 2] {
        match self.keeps_codes(problem) {
            true => [(1, problem.chunk_rows()), (1, problem.tokens)],
            false => [(problem.batches / problem.chunks.max(1), problem.tokens); 2],
        }
    }

    /// Bytes of [`AttentionCodes`] on each of `degree` GPUs.
    pub(super) fn attention_bytes(&self, problem: &Problem, degree: u32) -> u64 {
        let heads = self.heads() / degree;
        let [queries, keys] = self.attention_sizes(problem);
        let bytes = |layout, (sequences, tokens)| bytes(layout, sequences, tokens, heads);
        bytes(Layout::Rows, queries) + bytes(Layout::Rows, keys) + bytes(Layout::Transposed, keys)
    }
}

impl AttentionCodes {
    /// Memory.
    ///
    /// Errors: [`Error::Shape`] of chunks of one sequence that are not whole tiles of 64 tokens.
    pub(super) fn allocate(
        gpu: &Gpu,
        config: &Config,
        problem: &Problem,
        heads: u32,
    ) -> Result<AttentionCodes> {
        let kept = config.keeps_codes(problem);
        if kept && !problem.chunk_rows().is_multiple_of(64) {
            let what = format!("attention in E4M3 of {problem:?}: chunks of whole 64 tokens");
            return Err(Error::Shape { what });
        }
        let [queries, keys] = config.attention_sizes(problem);
        let of = |layout, (sequences, tokens)| {
            Quantised::allocate(gpu, layout, sequences, tokens, heads)
        };
        Ok(AttentionCodes {
            queries: of(Layout::Rows, queries)?,
            keys: of(Layout::Rows, keys)?,
            values: of(Layout::Transposed, keys)?,
            kept,
        })
    }

    /// Overwrites them with NaN.
    pub(super) fn poison(&self, stream: &CudaStream) -> Result<()> {
        [&self.queries, &self.keys, &self.values]
            .into_iter()
            .try_for_each(|part| part.poison(stream))
    }

    /// Enqueues the conversion of a chunk's queries, keys and values, which are `rows` rows behind `first` of the sequence,
    /// and the attention over them.
    pub(super) fn attend(
        &self,
        stream: &CudaStream,
        (quantiser, attention): &(Quantiser, Forward),
        own: [Tensor<'_>; 3],
        problem: &forward::Problem<'_>,
        (first, rows): (u32, u32),
        fault: Option<CodesFault>,
    ) -> Result<()> {
        let [queries, keys, values] = own;
        quantiser.run(stream, &queries, Element::F16, &self.queries, None)?;
        for (source, target) in [(keys, &self.keys), (values, &self.values)] {
            if !self.kept {
                quantiser.run(stream, &source, Element::F16, target, None)?;
                continue;
            }
            let places: &[u32] = match fault {
                None => &[first],
                Some(CodesFault::Stale) => &[],
                Some(CodesFault::Clobbered) => &[first, 0],
            };
            for first in places {
                quantiser.append(stream, &source, Element::F16, target, (*first, rows))?;
            }
        }
        let [q, k, v] =
            [&self.queries, &self.keys, &self.values].map(|part| HeadScales::whole(&part.scales));
        let eight = forward::Problem {
            q: self.queries.tensor(),
            k: self.keys.tensor(),
            v: self.values.tensor(),
            scales: Some(Scales { q, k, v }),
            ..*problem
        };
        attention.prepare(&eight, None)?.launch(stream)
    }

    /// Reads the keys and values that are kept of a head of the rank up to a row.
    pub(super) fn see(
        &self,
        on: (&Gpu, &CudaStream),
        seen: &mut Seen,
        first_column: u32,
    ) -> Result<()> {
        let head = seen.head - first_column / HEAD_SIZE;
        seen.keys = self.keys.head_rows(on, head, seen.row + 1)?;
        seen.values = self.values.head_rows(on, head, seen.row + 1)?;
        Ok(())
    }
}
