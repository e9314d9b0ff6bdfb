//! One token after another on one GPU: a cache of keys and values that a pass fills and that every step reads
//! and extends, in fp16 or in E4M3 ([`super::cache`]). Products are weight-only ([`crate::weightonly`]): activations
//! stay fp16, and weights are read once a step, as bytes. Over several GPUs ([`super::decode_shared`]) each rank has
//! the cache of its heads.

use std::sync::Arc;

use super::cache::{Kernels, Shared};
use super::group::Group;
use super::rank::Rank;
use super::{Config, HEAD_SIZE, Matrix, Precision, Problem, Share};
use crate::attention::decode::{Decode, Splits};
use crate::attention::{Shape, Tensor};
use crate::device::{Buffer, Gpu};
use crate::peer::{self, Rows};
use crate::weightonly::{self, WeightOnly};
use crate::{Error, Result};

/// Words of a length's place in the list of lengths: parts of a buffer begin at multiples of 256 bytes.
pub(super) const PLACE: u64 = 64;

/// Keys and values of every layer, [batches][capacity][d] halves each, or codes of E4M3; of one of t ranks those of its
/// heads, d / t wide.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<[Buffer; 2]>,
    pub(super) eight: Option<Eight>,
    pub(super) batches: u32,
    pub(super) capacity: u32,
    /// Columns of a token's keys that are here.
    pub(super) width: u32,
    filled: u32,
}

/// What a cache in E4M3 has besides.
#[derive(Debug)]
pub(super) struct Eight {
    pub(super) kernels: Kernels,
    /// By layer.
    shared: Vec<Shared>,
}

impl Cache {
    /// Bytes of a cache: 2 layers batches capacity d halves.
    pub fn bytes(config: &Config, batches: u32, capacity: u32) -> u64 {
        4 * u64::from(config.layers)
            * u64::from(batches)
            * u64::from(capacity)
            * u64::from(config.d_model)
    }

    /// Bytes of a cache in E4M3: half as many, and 16 for each head of each layer.
    pub fn bytes_e4m3(config: &Config, batches: u32, capacity: u32) -> u64 {
        let shared = u64::from(config.layers) * Shared::bytes(config.heads());
        Cache::bytes(config, batches, capacity) / 2 + shared
    }

    /// Room for so many tokens of each sequence, all zeros; waits.
    ///
    /// Errors: [`Error::Shape`] of a model in bf16, which is not decoded.
    pub fn new(gpu: &Gpu, config: &Config, batches: u32, capacity: u32) -> Result<Cache> {
        Cache::of_rank(gpu, None, config, 1, (batches, capacity))
    }

    /// The same in E4M3.
    pub fn new_e4m3(
        gpu: &Gpu,
        kernels: Kernels,
        config: &Config,
        sizes: (u32, u32),
    ) -> Result<Cache> {
        Cache::of_rank(gpu, Some(kernels), config, 1, sizes)
    }

    /// The same for the heads of one of `degree` ranks: in E4M3 with its kernels, without in fp16.
    ///
    /// Errors: as [`Cache::new`]; [`Error::Shape`] of heads that so many ranks cannot share.
    pub fn of_rank(
        gpu: &Gpu,
        kernels: Option<Kernels>,
        config: &Config,
        degree: u32,
        (batches, capacity): (u32, u32),
    ) -> Result<Cache> {
        halves_alone(config)?;
        let width = width_of(config, degree)?;
        let eight = kernels.map(|kernels| -> Result<Eight> {
            let shared = |_| Shared::new(gpu, width / HEAD_SIZE);
            let shared = (0..config.layers).map(shared).collect::<Result<Vec<_>>>()?;
            Ok(Eight { kernels, shared })
        });
        let eight = eight.transpose()?;
        let bytes_each = if eight.is_some() { 1 } else { 2 };
        let each = u64::from(batches) * u64::from(capacity) * u64::from(width) * bytes_each;
        let layer = |_| -> Result<[Buffer; 2]> { Ok([gpu.alloc(each)?, gpu.alloc(each)?]) };
        let layers = (0..config.layers).map(layer).collect::<Result<Vec<_>>>()?;
        for buffer in layers.iter().flatten() {
            buffer.fill_u32(gpu.stream(), 0)?;
        }
        gpu.stream().synchronize()?;
        Ok(Cache { layers, eight, batches, capacity, width, filled: 0 })
    }

    /// Keys and values of a layer from a token of each sequence on.
    pub(super) fn tensors(&self, layer: u32, token: u32) -> [Tensor<'_>; 2] {
        let d = u64::from(self.width);
        self.layers[layer as usize].each_ref().map(|buffer| Tensor {
            buffer,
            offset: u64::from(token) * d,
            row: d,
            head: HEAD_SIZE.into(),
            batch: u64::from(self.capacity) * d,
        })
    }

    /// What the heads of a layer share.
    pub(super) fn shared(&self, layer: u32) -> Result<&Shared> {
        let shared = self.eight.as_ref().and_then(|eight| eight.shared.get(layer as usize));
        shared
            .ok_or_else(|| Error::Shape { what: format!("no scales of layer {layer} of a cache") })
    }

    /// Tokens of each sequence that are there.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// One token more is there.
    pub(super) fn extend(&mut self) {
        self.filled += 1;
    }

    /// So many tokens are there.
    pub(super) fn hold(&mut self, filled: u32) {
        self.filled = filled;
    }

    /// Where keys and values of the next token of each sequence go.
    pub(super) fn next(&self, layer: u32) -> [Matrix<'_>; 2] {
        let (d, capacity) = (u64::from(self.width), u64::from(self.capacity));
        let rows = |buffer| Matrix { buffer, first: u64::from(self.filled) * d, row: capacity * d };
        self.layers[layer as usize].each_ref().map(rows)
    }

    /// Forgets the tokens from `filled` on.
    pub fn truncate(&mut self, filled: u32) {
        self.filled = self.filled.min(filled);
    }

    /// Enqueues what a pass in one chunk does with queries, keys and values [rows][3 d] of a layer, where the cache
    /// is in E4M3; else nothing, and `false`.
    ///
    /// Errors: [`Error::Shape`] for a pass in chunks, since scales are those of all its tokens.
    pub(super) fn convert(
        &self,
        rank: &Rank<'_>,
        qkv: &Buffer,
        layer: u32,
        problem: &Problem,
    ) -> Result<bool> {
        let Some(eight) = &self.eight else { return Ok(false) };
        let Problem { batches, tokens, chunks } = *problem;
        if chunks != 1 || batches != self.batches {
            return Err(Error::Shape { what: format!("a cache in E4M3 filled by {problem:?}") });
        }
        let d = u64::from(self.width);
        let from = [d, 2 * d].map(|offset| Tensor {
            buffer: qkv,
            offset,
            row: 3 * d,
            head: HEAD_SIZE.into(),
            batch: u64::from(tokens) * 3 * d,
        });
        let (to, shared) = (self.tensors(layer, 0), self.shared(layer)?);
        eight.kernels.fill(&rank.compute, from, to, shared, (batches, tokens))?;
        Ok(true)
    }

    /// Enqueues copies of keys and values of `count` tokens of each of `batches` sequences, from row `row` of
    /// queries, keys and values [rows][3 d] to token `token` of sequence `batch` on.
    pub(super) fn put(
        &self,
        rank: &Rank<'_>,
        qkv: (&Buffer, u64),
        layer: u32,
        (batch, batches): (u32, u32),
        (token, count): (u32, u32),
    ) -> Result<()> {
        let d = 2 * u64::from(self.width);
        for (part, buffer) in self.layers[layer as usize].iter().enumerate() {
            for at in 0..batches {
                let from = Rows {
                    buffer: qkv.0,
                    offset: (qkv.1 + u64::from(at) * u64::from(count)) * 3 * d
                        + (part as u64 + 1) * d,
                    pitch: 3 * d,
                };
                let place = u64::from(batch + at) * u64::from(self.capacity) + u64::from(token);
                let to = Rows { buffer, offset: place * d, pitch: d };
                // SAFETY: both live as long as the rank; the order is the compute stream's.
                unsafe { peer::copy_rows(&rank.compute, from, to, d, count.into())? };
            }
        }
        Ok(())
    }
}

impl Rank<'_> {
    /// A cache of this rank's heads that later passes fill; gives back the one that was filled.
    pub(super) fn fill(&mut self, cache: Option<Cache>) -> Result<Option<Cache>> {
        if let Some(cache) = &cache {
            let problem = self.session()?.problem;
            let fits = cache.batches == problem.batches
                && cache.capacity >= problem.tokens
                && cache.width == self.slice().1;
            if !fits {
                let Cache { batches, capacity, width, .. } = cache;
                let what = format!("a cache of {batches} x {capacity} x {width} for {problem:?}");
                return Err(Error::Shape { what });
            }
        }
        Ok(std::mem::replace(&mut self.cache, cache))
    }
}

/// What is planted in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// New keys and values are not written.
    Stale,
    /// New keys and values stand so many heads too far, in a cache in E4M3.
    Turned {
        /// How many.
        heads: u32,
    },
    /// The first layers run twice.
    Repeated {
        /// How many.
        layers: u32,
    },
    /// A rank makes no columns inside one MLP: those of the layer before stand there.
    Skipped {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
}

impl Fault {
    /// How often a layer runs.
    pub(super) fn times(fault: Option<Fault>, layer: u32) -> u32 {
        match fault {
            Some(Fault::Repeated { layers }) if layer < layers => 2,
            _ => 1,
        }
    }
}

/// Kernels and memory of steps with a given capacity, of one of several ranks for its heads and columns.
#[derive(Debug)]
pub struct Decoder {
    pub(super) products: WeightOnly,
    pub(super) attention: Decode,
    pub(super) splits: Splits,
    /// Of attention here.
    pub(super) shape: Shape,
    pub(super) lengths: Arc<Buffer>,
    pub(super) tokens: Buffer,
    /// What a step's products read whole and write; of several ranks the columns that this one makes, between zeros.
    pub(super) made: Vectors,
    pub(super) normed: Buffer,
    /// The rank's first in rows of d, as attention writes its outputs.
    pub(super) queries: Buffer,
    /// Where keys and values go that are not to be written.
    pub(super) nowhere: Buffer,
    /// Where the cache is E4M3: the last step's keys and values before it, [layer][2][batches][d / t].
    pub(super) staged: Option<Buffer>,
    pub(super) logits: Buffer,
}

/// What goes from stage to stage of a step, halves.
#[derive(Debug)]
pub(super) struct Vectors {
    /// [batches][d].
    pub(super) residual: Buffer,
    /// [batches][d].
    pub(super) attended: Buffer,
    /// [batches][d_ff].
    pub(super) inner: Buffer,
}

impl Vectors {
    /// All zeros; waits.
    pub(super) fn new(gpu: &Gpu, config: &Config, batches: u32) -> Result<Vectors> {
        let halves = |columns: u32| -> Result<Buffer> {
            let buffer = gpu.alloc(2 * u64::from(batches) * u64::from(columns))?;
            buffer.fill_u32(gpu.stream(), 0)?;
            Ok(buffer)
        };
        let [residual, attended] = [halves(config.d_model)?, halves(config.d_model)?];
        let inner = halves(config.d_ff)?;
        gpu.stream().synchronize()?;
        Ok(Vectors { residual, attended, inner })
    }
}

impl Decoder {
    /// Memory for steps of `batches` sequences of at most `capacity` tokens, attention in so many splits.
    ///
    /// Errors: [`Error::Shape`] for more sequences than weight-only products take, or of a model in bf16.
    pub fn new(
        gpu: &Gpu,
        kernels: (WeightOnly, Decode),
        config: &Config,
        sizes: (u32, u32),
        splits: u32,
    ) -> Result<Decoder> {
        Decoder::of_rank(gpu, kernels, config, Share { rank: 0, degree: 1 }, sizes, splits)
    }

    /// The same for one of several ranks.
    ///
    /// Errors: as [`Decoder::new`]; [`Error::Shape`] of heads that so many ranks cannot share.
    pub fn of_rank(
        gpu: &Gpu,
        (products, attention): (WeightOnly, Decode),
        config: &Config,
        share: Share,
        (batches, capacity): (u32, u32),
        splits: u32,
    ) -> Result<Decoder> {
        halves_alone(config)?;
        if batches == 0 || batches > weightonly::MOST_ROWS {
            return Err(Error::Shape { what: format!("a step of {batches} sequences") });
        }
        let width = width_of(config, share.degree)?;
        let heads = width / HEAD_SIZE;
        let shape = Shape {
            batches,
            heads,
            kv_heads: heads,
            queries: 1,
            keys: capacity,
            head_size: HEAD_SIZE,
        };
        // A list of lengths for each step, so that none is written while steps run.
        let lengths = Arc::new(gpu.alloc(4 * PLACE * u64::from(capacity + 1))?);
        let mut all = vec![0i32; (PLACE * u64::from(capacity + 1)) as usize];
        for (length, place) in all.chunks_mut(PLACE as usize).enumerate() {
            place.fill(length as i32);
        }
        lengths.write(gpu.stream(), 0, &all)?;
        let halves = |columns: u32| gpu.alloc(2 * u64::from(batches) * u64::from(columns));
        let d = config.d_model;
        let staged = match attention.cache_bytes() {
            1 => Some(gpu.alloc(4 * u64::from(config.layers * batches) * u64::from(width))?),
            _ => None,
        };
        Ok(Decoder {
            products,
            attention,
            splits: Splits::new(gpu, &shape, splits)?,
            shape,
            lengths,
            tokens: gpu.alloc(4 * u64::from(batches))?,
            made: Vectors::new(gpu, config, batches)?,
            normed: halves(d)?,
            queries: halves(d)?,
            nowhere: halves(width)?,
            staged,
            logits: halves(share.columns(config.vocab).1)?,
        })
    }

    /// Bytes that a step must read: weights, and the cache up to its end.
    pub fn bytes(&self, config: &Config, filled: u32) -> u64 {
        let embedding = 2 * u64::from(config.vocab) * u64::from(config.d_model);
        let cache = if self.staged.is_some() { Cache::bytes_e4m3 } else { Cache::bytes };
        config.weight_bytes(1) - embedding + cache(config, self.shape.batches, filled)
    }

    fn staged(&self) -> Result<&Buffer> {
        let none = || Error::Shape { what: "nothing is staged for a cache in fp16".into() };
        self.staged.as_ref().ok_or_else(none)
    }

    /// Elements of what is staged before keys, then values, of a layer.
    pub(super) fn places(&self, layer: u32) -> [u64; 2] {
        let each = u64::from(self.shape.batches) * u64::from(self.shape.heads * HEAD_SIZE);
        [2 * layer, 2 * layer + 1].map(|part| u64::from(part) * each)
    }
}

/// Columns of the heads of one of `degree` ranks.
fn width_of(config: &Config, degree: u32) -> Result<u32> {
    match degree != 0 && config.heads().is_multiple_of(degree) {
        true => Ok(config.d_model / degree),
        false => Err(Error::Shape { what: format!("{} heads over {degree} gpus", config.heads()) }),
    }
}

/// Refuses what weight-only products and caches do not have.
fn halves_alone(config: &Config) -> Result<()> {
    match config.precision {
        Precision::Bf16 => Err(Error::Shape { what: "token by token in bf16".into() }),
        Precision::F16
        | Precision::E4m3
        | Precision::E4m3Fast
        | Precision::E4m3Promoted
        | Precision::WeightsE4m3 => Ok(()),
    }
}

impl Group<'_> {
    /// A cache that later passes fill, of one GPU; gives back the one that was filled.
    ///
    /// Errors: [`Error::Shape`] of several GPUs, or without room for the problem that is set.
    pub fn fill(&mut self, cache: Option<Cache>) -> Result<Option<Cache>> {
        self.alone()?.fill(cache)
    }

    /// Enqueues one step: `tokens`, one of each sequence, stand behind what the cache holds.
    ///
    /// Errors: [`Error::Shape`] for a cache that is full or of another shape, or a token beyond the
    /// vocabulary.
    pub fn step(
        &mut self,
        decoder: &Decoder,
        cache: &mut Cache,
        tokens: &[u32],
        fault: Option<Fault>,
    ) -> Result<()> {
        let layers = self.config.layers;
        let rank = self.alone()?.stepper();
        rank.begin_step(decoder, cache, &decoder.made, tokens)?;
        for layer in 0..layers {
            for _ in 0..Fault::times(fault, layer) {
                let step = rank.of_layer(decoder, cache, &decoder.made, layer, fault);
                step.attend()?;
                step.project()?;
                step.expand()?;
                step.contract()?;
            }
        }
        rank.end_step(decoder, &decoder.made)?;
        cache.extend();
        Ok(())
    }

    /// Keys and values of a head of the first sequence as they lie in a cache, [filled][128] halves or codes; waits.
    pub fn cached(&mut self, cache: &Cache, layer: u32, head: u32) -> Result<[Vec<u8>; 2]> {
        let rank = self.alone()?;
        let bytes = if cache.eight.is_some() { 1 } else { 2 };
        let (width, pitch) = (bytes * u64::from(HEAD_SIZE), bytes * u64::from(cache.width));
        let read = |buffer: &Buffer| -> Result<Vec<u8>> {
            let packed = rank.gpu.alloc(width * u64::from(cache.filled))?;
            let from = Rows { buffer, offset: u64::from(head) * width, pitch };
            let to = Rows { buffer: &packed, offset: 0, pitch: width };
            // SAFETY: both buffers live until the stream has been drained by the read.
            unsafe { peer::copy_rows(&rank.compute, from, to, width, cache.filled.into())? };
            packed.read_vec(&rank.compute, packed.len_bytes() as usize)
        };
        let [keys, values] = &cache.layers[layer as usize];
        Ok([read(keys)?, read(values)?])
    }

    /// Scales of the heads of keys, then of values, of a layer of a cache in E4M3; waits.
    pub fn cached_scales(&mut self, cache: &Cache, layer: u32) -> Result<[Vec<f32>; 2]> {
        let (rank, shared) = (self.alone()?, cache.shared(layer)?);
        let heads = (cache.width / HEAD_SIZE) as usize;
        let mut keys: Vec<f32> = shared.scales.read_vec(&rank.compute, 2 * heads)?;
        let values = keys.split_off(heads);
        Ok([keys, values])
    }

    /// Exchanges the scales of keys of two heads of a layer of a cache in E4M3: a planted fault; waits.
    pub fn swap_scales(&mut self, cache: &Cache, layer: u32, heads: (u32, u32)) -> Result<()> {
        let [mut keys, _] = self.cached_scales(cache, layer)?;
        keys.swap(heads.0 as usize, heads.1 as usize);
        cache.shared(layer)?.scales.write(&self.alone()?.compute, 0, &keys)
    }

    /// Halves of a head's key and value of the first sequence that the last step made for a cache in E4M3; waits.
    pub fn staged(&mut self, decoder: &Decoder, layer: u32, head: u32) -> Result<[Vec<u16>; 2]> {
        let rank = self.alone()?;
        let staged = decoder.staged()?;
        let read = |first: u64| -> Result<Vec<u16>> {
            let mut halves = vec![0; HEAD_SIZE as usize];
            staged.read(&rank.compute, 2 * (first + u64::from(head * HEAD_SIZE)), &mut halves)?;
            Ok(halves)
        };
        let [keys, values] = decoder.places(layer);
        Ok([read(keys)?, read(values)?])
    }

    /// Overwrites the logits of steps with NaN; waits.
    pub fn poison_step(&mut self, decoder: &Decoder) -> Result<()> {
        let rank = self.alone()?;
        decoder.logits.poison(&rank.compute)?;
        rank.compute.synchronize()
    }

    /// The residual stream behind the last step's last layer, [batches][d]; waits.
    pub fn step_residual(&mut self, decoder: &Decoder) -> Result<Vec<u16>> {
        let rank = self.alone()?;
        let residual = &decoder.made.residual;
        residual.read_vec(&rank.compute, (residual.len_bytes() / 2) as usize)
    }

    /// Logits of the last step, sequence by sequence; waits.
    pub fn step_logits(&mut self, decoder: &Decoder) -> Result<Vec<u16>> {
        let rank = self.alone()?;
        let count = decoder.logits.len_bytes() / 2;
        decoder.logits.read_vec(&rank.compute, count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_cache_by_hand() {
        // 48 layers, keys and values, 32768 tokens of 8192 halves: the 51.5 GB of the long-context lists.
        assert_eq!(Cache::bytes(&Config::SEED_002, 1, 32768), 51_539_607_552);
        // Half, and for 64 heads of 48 layers a largest magnitude and a scale of keys and of values.
        let scales = 48 * 64 * 2 * 8;
        assert_eq!(Cache::bytes_e4m3(&Config::SEED_002, 1, 32768), 51_539_607_552 / 2 + scales);
    }
}
