//! The stages of one token's step on one rank ([`super::decode`]).

use super::cache::Shared;
use super::decode::{Cache, Decoder, Fault, PLACE, Vectors};
use super::rank::Rank;
use super::weights::{Linear, Weights};
use super::{Config, HEAD_SIZE, Kernels, Matrix, Share};
use crate::attention::decode::Step;
use crate::attention::{Data, Tensor};
use crate::device::{Buffer, CudaStream};
use crate::weightonly::{Out, WeightOnly};
use crate::{Error, Result};

/// What a step needs of a rank. It may be used by another thread than the rank itself, whose plans may not.
#[derive(Clone, Copy)]
pub(super) struct Stepper<'a> {
    compute: &'a CudaStream,
    kernels: &'a Kernels,
    weights: &'a Weights,
    share: Share,
    config: Config,
}

/// A step's way through one layer on one rank.
#[derive(Clone, Copy)]
pub(super) struct OfLayer<'a> {
    rank: Stepper<'a>,
    decoder: &'a Decoder,
    cache: &'a Cache,
    /// What is read, whole.
    whole: &'a Vectors,
    layer: u32,
    fault: Option<Fault>,
}

impl Rank<'_> {
    /// What a step needs.
    pub(super) fn stepper(&self) -> Stepper<'_> {
        Stepper {
            compute: &self.compute,
            kernels: self.kernels,
            weights: &self.weights,
            share: self.share,
            config: self.config,
        }
    }
}

impl<'a> Stepper<'a> {
    /// The stream of all that is enqueued.
    pub(super) fn stream(&self) -> &'a CudaStream {
        self.compute
    }

    /// First of the rank's columns of the residual stream, and their number.
    fn slice(&self) -> (u32, u32) {
        self.share.columns(self.config.d_model)
    }

    /// Enqueues the embedding of `tokens`, one of each sequence, into `whole`.
    ///
    /// Errors: [`Error::Shape`] for a cache that is full or of another shape, or a token beyond the vocabulary.
    pub(super) fn begin_step(
        &self,
        decoder: &Decoder,
        cache: &Cache,
        whole: &Vectors,
        tokens: &[u32],
    ) -> Result<()> {
        let (config, shape) = (self.config, decoder.shape);
        let fits = cache.batches == shape.batches
            && cache.capacity == shape.keys
            && cache.width == shape.heads * HEAD_SIZE
            && cache.width == self.slice().1
            && cache.eight.is_some() == decoder.staged.is_some()
            && cache.filled() < cache.capacity
            && tokens.len() == shape.batches as usize
            && tokens.iter().all(|&token| token < config.vocab);
        if !fits {
            let what = format!("a step behind {} of {} tokens", cache.filled(), cache.capacity);
            return Err(Error::Shape { what });
        }
        decoder.tokens.write(self.compute, 0, tokens)?;
        let sizes = (shape.batches, config.d_model);
        let out = Matrix::packed(&whole.residual, config.d_model);
        let table = self.weights.embedding()?;
        self.kernels.embed(self.compute, out, table, &decoder.tokens, sizes)
    }

    /// What a step does in a layer.
    pub(super) fn of_layer(
        self,
        decoder: &'a Decoder,
        cache: &'a Cache,
        whole: &'a Vectors,
        layer: u32,
        fault: Option<Fault>,
    ) -> OfLayer<'a> {
        OfLayer { rank: self, decoder, cache, whole, layer, fault }
    }

    /// Enqueues the rank's columns of the logits.
    pub(super) fn end_step(&self, decoder: &Decoder, whole: &Vectors) -> Result<()> {
        let logits = [Matrix::packed(&decoder.logits, self.share.columns(self.config.vocab).1)];
        self.step_normed(decoder, &whole.residual, (Linear::Head, 0), Out::plain(&logits))
    }

    /// A product of the normed residual stream: normed by the product itself where it can, which saves a launch.
    fn step_normed(
        &self,
        decoder: &Decoder,
        residual: &Buffer,
        what: (Linear, u32),
        out: Out<'_>,
    ) -> Result<()> {
        let (affine, sizes) = (self.weights.affine(), (decoder.shape.batches, self.config.d_model));
        if WeightOnly::norms(sizes) {
            let out = Out { norm: Some(affine), ..out };
            return self.step_product(decoder, what, (residual, sizes.1), out);
        }
        let [to, from] = [&decoder.normed, residual].map(|b| Matrix::packed(b, sizes.1));
        self.kernels.norm_early(self.compute, (to, from, affine), sizes)?;
        self.step_product(decoder, what, (&decoder.normed, sizes.1), out)
    }

    /// Begins before the kernel in front of it has ended: weights were there before the step.
    fn step_product(
        &self,
        decoder: &Decoder,
        (linear, layer): (Linear, u32),
        (input, k): (&Buffer, u32),
        out: Out<'_>,
    ) -> Result<()> {
        let weight = self.weights.linear(linear, layer)?;
        let m = decoder.shape.batches;
        let weights = (&weight.values, weight.scales.as_ref());
        let bytes_each = if weight.scales.is_some() { 1 } else { 2 };
        let n = (weight.values.len_bytes() / bytes_each / u64::from(k)) as u32;
        let out = Out { early: true, ..out };
        decoder.products.run_into(self.compute, input, weights, &out, (m, n, k))
    }
}

impl OfLayer<'_> {
    /// Queries, keys and values of the rank's heads, what becomes of the cache, attention.
    pub(super) fn attend(&self) -> Result<()> {
        let OfLayer { decoder, cache, fault, layer, .. } = *self;
        let width = cache.width;
        let [keys, values] = match (&decoder.staged, fault) {
            (Some(buffer), _) => {
                decoder.places(layer).map(|first| Matrix { buffer, first, row: width.into() })
            }
            (None, Some(Fault::Stale)) => [Matrix::packed(&decoder.nowhere, width); 2],
            (None, _) => cache.next(layer),
        };
        let row = u64::from(self.rank.config.d_model);
        let qkv = [Matrix { buffer: &decoder.queries, first: 0, row }, keys, values];
        let residual = &self.whole.residual;
        self.rank.step_normed(decoder, residual, (Linear::Qkv, layer), Out::plain(&qkv))?;
        self.append()?;
        self.attention()
    }

    /// From attention's outputs to the rank's columns of the residual stream.
    pub(super) fn project(&self) -> Result<()> {
        self.added(Linear::Out, (&self.whole.attended, self.rank.config.d_model))
    }

    /// Into the MLP, GELU: the rank's columns.
    pub(super) fn expand(&self) -> Result<()> {
        let OfLayer { rank, decoder, layer, .. } = *self;
        let planted = Fault::Skipped { rank: rank.share.rank, layer };
        if self.fault == Some(planted) {
            return Ok(());
        }
        let first = u64::from(rank.share.columns(rank.config.d_ff).0);
        let up = [Matrix { buffer: &decoder.made.inner, first, row: u64::from(rank.config.d_ff) }];
        let out = Out { gelu: true, ..Out::plain(&up) };
        rank.step_normed(decoder, &self.whole.residual, (Linear::Up, layer), out)
    }

    /// Out of the MLP to the rank's columns of the residual stream.
    pub(super) fn contract(&self) -> Result<()> {
        self.added(Linear::Down, (&self.whole.inner, self.rank.config.d_ff))
    }

    /// The rank's columns of a product, added to those of the residual stream.
    fn added(&self, linear: Linear, input: (&Buffer, u32)) -> Result<()> {
        let OfLayer { rank, decoder, layer, .. } = *self;
        let columns = |buffer| Matrix {
            buffer,
            first: u64::from(rank.slice().0),
            row: u64::from(rank.config.d_model),
        };
        let (before, stream) = (columns(&self.whole.residual), [columns(&decoder.made.residual)]);
        let out = Out { addend: Some(before), ..Out::plain(&stream) };
        rank.step_product(decoder, (linear, layer), input, out)
    }

    /// Quantises what is staged to the next token of a cache in E4M3.
    fn append(&self) -> Result<()> {
        let OfLayer { rank, decoder, cache, layer, .. } = *self;
        let (Some(eight), Some(buffer)) = (&cache.eight, &decoder.staged) else { return Ok(()) };
        let turned = match self.fault {
            Some(Fault::Stale) => return Ok(()),
            Some(Fault::Turned { heads }) => heads,
            _ => 0,
        };
        let d = u64::from(cache.width);
        let from = decoder.places(layer).map(|offset| Tensor {
            buffer,
            offset,
            row: d,
            head: HEAD_SIZE.into(),
            batch: d,
        });
        let (to, shared) = (cache.tensors(layer, cache.filled()), cache.shared(layer)?);
        eight.kernels.step(rank.compute, from, to, shared, (cache.batches, turned))
    }

    fn attention(&self) -> Result<()> {
        let OfLayer { rank, decoder, cache, layer, .. } = *self;
        let length = u64::from(cache.filled() + 1);
        let lengths =
            Buffer::part(&decoder.lengths, 4 * PLACE * length, 4 * u64::from(cache.batches))?;
        let [k, v] = cache.tensors(layer, 0);
        let shared = cache.eight.as_ref().map(|_| cache.shared(layer)).transpose()?;
        let row = u64::from(rank.config.d_model);
        let tensor = |buffer, offset: u32| Tensor {
            buffer,
            offset: offset.into(),
            row,
            head: HEAD_SIZE.into(),
            batch: row,
        };
        let step = Step {
            shape: decoder.shape,
            q: tensor(&decoder.queries, 0),
            k,
            v,
            out: tensor(&decoder.made.attended, rank.slice().0),
            lengths: &lengths,
            pages: None,
            scales: shared.map(Shared::of_heads),
            left: None,
            scale: f32::sqrt(HEAD_SIZE as f32).recip(),
            data: Data::default(),
        };
        decoder.attention.prepare(&step, &decoder.splits)?.early().launch(rank.compute)
    }
}
