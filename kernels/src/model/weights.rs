//! One rank's share of the weights, made on its GPU.
//!
//! Element (r, c) of a whole matrix of n columns is number `r n + c` of a counter-based generator
//! ([`crate::operands::Values::Normals`]), so that any share is the same part of the same matrix, and no
//! weight travels. Gains and biases are whole on every rank, and so is the embedding where the first layer is.

use std::ops::Range;

use super::{Affine, Config, Kernels, Matrix, Share};
use crate::device::{Buffer, CudaStream, Gpu};
use crate::generator::draw;
use crate::operands::Values;
use crate::quantise::{Extra, Quantised, Quantiser, Scheme};
use crate::{Error, Result};

/// Standard deviation of every weight.
pub const DEVIATION: f32 = 0.02;

/// How a product's weight `[outputs, inputs]` is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Rank r has rows, each a whole sum: every product is column-parallel.
    Outputs,
    /// Of the products that end an attention and an MLP, rank r has columns: its results are summands.
    Inputs,
}

/// The linears of a block, and the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linear {
    /// Queries, keys and values of the rank's heads.
    Qkv,
    /// From attention outputs to the residual stream.
    Out,
    /// Into the MLP.
    Up,
    /// Out of the MLP.
    Down,
    /// From the last token to logits.
    Head,
}

impl Linear {
    fn number(self) -> u64 {
        match self {
            Linear::Qkv => 1,
            Linear::Out => 2,
            Linear::Up => 3,
            Linear::Down => 4,
            Linear::Head => 5,
        }
    }

    /// The generator's seed of this linear in a layer.
    pub fn seed(self, config: &Config, layer: u32) -> u64 {
        seed(config, 8 * u64::from(layer) + self.number())
    }
}

/// The seed of embedding rows.
pub fn embedding_seed(config: &Config) -> u64 {
    seed(config, 6)
}

/// The seed of gains and of biases.
fn affine_seeds(config: &Config) -> [u64; 2] {
    [seed(config, 7), seed(config, 8 + (1 << 40))]
}

fn seed(config: &Config, number: u64) -> u64 {
    u64::from(draw(config.seed, 2 * number)) << 32 | u64::from(draw(config.seed, 2 * number + 1))
}

/// Value of one step of the sum of uniforms.
pub(super) fn step(deviation: f32) -> f32 {
    Values::Normals { scale: deviation }.factor()
}

/// A rank's part of one linear.
#[derive(Debug)]
pub struct Weight {
    /// Halves, bf16, or codes of E4M3.
    pub values: Buffer,
    /// Of codes f32 scales, one for each output.
    pub scales: Option<Buffer>,
}

/// The weights of one rank.
#[derive(Debug)]
pub struct Weights {
    first_layer: u32,
    layers: Vec<[Weight; 4]>,
    /// Where the last layer is.
    head: Option<Weight>,
    /// Where the first layer is.
    embedding: Option<Buffer>,
    gain: Buffer,
    bias: Buffer,
}

impl Weights {
    /// Allocates and makes the share of some layers, the first with the embedding, the last with the head; waits
    /// for it.
    ///
    /// Errors: [`Error::Shape`] where the sizes cannot be shared so; [`Error::Driver`], out of memory.
    pub fn new(
        gpu: &Gpu,
        (kernels, quantiser): (&Kernels, &Quantiser),
        config: &Config,
        layers: Range<u32>,
        share: Share,
        split: Split,
    ) -> Result<Weights> {
        config.check(share.degree)?;
        if share.rank >= share.degree || layers.is_empty() || layers.end > config.layers {
            let what = format!("layers {layers:?} of {} for {share:?}", config.layers);
            return Err(Error::Shape { what });
        }
        let stream = gpu.stream();
        let maker = Maker { gpu, kernels, quantiser, stream, config, share, split };
        let layer = |layer| -> Result<[Weight; 4]> {
            Ok([
                maker.linear(Linear::Qkv, layer)?,
                maker.linear(Linear::Out, layer)?,
                maker.linear(Linear::Up, layer)?,
                maker.linear(Linear::Down, layer)?,
            ])
        };
        let [gains, biases] = affine_seeds(config);
        let head = match layers.end == config.layers {
            true => Some(maker.linear(Linear::Head, 0)?),
            false => None,
        };
        let embedding = match layers.start {
            0 => Some(maker.whole(config.vocab, config.d_model, embedding_seed(config))?),
            _ => None,
        };
        let weights = Weights {
            first_layer: layers.start,
            layers: layers.map(layer).collect::<Result<_>>()?,
            head,
            embedding,
            gain: maker.whole(1, config.d_model, gains)?,
            bias: maker.whole(1, config.d_model, biases)?,
        };
        // A gain of 1 + 0.02 noise: a norm that forgets its gain is seen.
        maker.shift(&weights.gain)?;
        gpu.stream().synchronize()?;
        Ok(weights)
    }

    /// The rank's rows of a linear, in one of its layers.
    ///
    /// Errors: [`Error::Shape`] for the head where the last layer is not.
    pub fn linear(&self, linear: Linear, layer: u32) -> Result<&Weight> {
        let at = match linear {
            Linear::Qkv => 0,
            Linear::Out => 1,
            Linear::Up => 2,
            Linear::Down => 3,
            Linear::Head => {
                let none = || Error::Shape { what: "a head without the last layer".into() };
                return self.head.as_ref().ok_or_else(none);
            }
        };
        Ok(&self.layers[(layer - self.first_layer) as usize][at])
    }

    /// Whether the head is here.
    pub(super) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Rows of the embedding.
    ///
    /// Errors: [`Error::Shape`] where the first layer is not.
    pub(super) fn embedding(&self) -> Result<&Buffer> {
        let none = || Error::Shape { what: "an embedding without the first layer".into() };
        self.embedding.as_ref().ok_or_else(none)
    }

    /// Gain and bias, the same in every norm.
    pub(super) fn affine(&self) -> Affine<'_> {
        Affine { gain: &self.gain, bias: &self.bias }
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> u64 {
        let linears = self.layers.iter().flatten().chain(&self.head);
        let linears = linears.flat_map(|weight| [Some(&weight.values), weight.scales.as_ref()]);
        let rest = [&self.gain, &self.bias].into_iter().chain(&self.embedding);
        linears.flatten().chain(rest).map(Buffer::len_bytes).sum()
    }
}

struct Maker<'a> {
    gpu: &'a Gpu,
    kernels: &'a Kernels,
    quantiser: &'a Quantiser,
    stream: &'a CudaStream,
    config: &'a Config,
    share: Share,
    split: Split,
}

impl Maker<'_> {
    /// A linear in the model's precision. Its halves are gone once they are quantised.
    fn linear(&self, linear: Linear, layer: u32) -> Result<Weight> {
        let (halves, columns) = self.halves(linear, layer)?;
        if !self.config.precision.keeps_e4m3() {
            return Ok(Weight { values: halves, scales: None });
        }
        let sizes = (halves.len_bytes() / 2 / u64::from(columns), columns);
        let target = Quantised::new(self.gpu, Scheme::Row, sizes.0, columns)?;
        let extra = Extra::default();
        self.quantiser.run(self.stream, Scheme::Row, &halves, sizes, &target, extra)?;
        self.stream.synchronize()?;
        Ok(Weight { values: target.codes, scales: Some(target.scales) })
    }

    /// A linear in halves or bf16, and the length of its rows.
    fn halves(&self, linear: Linear, layer: u32) -> Result<(Buffer, u32)> {
        let Config { d_model: d, d_ff, vocab, .. } = *self.config;
        let seed = linear.seed(self.config, layer);
        let part = |columns: u32| self.share.columns(columns).1;
        Ok(match (linear, self.split) {
            (Linear::Qkv, _) => (self.rows(3, d, d, seed)?, d),
            (Linear::Out, Split::Outputs) => (self.rows(1, d, d, seed)?, d),
            (Linear::Out, Split::Inputs) => (self.columns(d, d, seed)?, part(d)),
            (Linear::Up, _) => (self.rows(1, d_ff, d, seed)?, d),
            (Linear::Down, Split::Outputs) => (self.rows(1, d, d_ff, seed)?, d_ff),
            (Linear::Down, Split::Inputs) => (self.columns(d, d_ff, seed)?, part(d_ff)),
            (Linear::Head, _) => (self.rows(1, vocab, d, seed)?, d),
        })
    }

    /// The rank's rows of each of `parts` matrices of `rows` x `columns` that lie one behind the other.
    fn rows(&self, parts: u64, rows: u32, columns: u32, seed: u64) -> Result<Buffer> {
        let (first, count) = self.share.columns(rows);
        let (first, count, columns) = (u64::from(first), u64::from(count), u64::from(columns));
        let buffer = self.gpu.alloc(2 * parts * count * columns)?;
        for part in 0..parts {
            let out = Matrix { buffer: &buffer, first: part * count * columns, row: columns };
            let place = (part * u64::from(rows) + first) * columns;
            self.fill(out, (count, columns), (place, columns), seed)?;
        }
        Ok(buffer)
    }

    /// The rank's columns of a matrix.
    fn columns(&self, rows: u32, columns: u32, seed: u64) -> Result<Buffer> {
        let (first, count) = self.share.columns(columns);
        let buffer = self.gpu.alloc(2 * u64::from(rows) * u64::from(count))?;
        let sizes = (rows.into(), count.into());
        let place = (first.into(), columns.into());
        self.fill(Matrix::packed(&buffer, count), sizes, place, seed)?;
        Ok(buffer)
    }

    fn whole(&self, rows: u32, columns: u32, seed: u64) -> Result<Buffer> {
        let buffer = self.gpu.alloc(2 * u64::from(rows) * u64::from(columns))?;
        let sizes = (rows.into(), columns.into());
        self.fill(Matrix::packed(&buffer, columns), sizes, (0, columns.into()), seed)?;
        Ok(buffer)
    }

    fn fill(&self, out: Matrix<'_>, sizes: (u64, u64), place: (u64, u64), seed: u64) -> Result<()> {
        self.kernels.weights(self.stream, out, sizes, place, (seed, DEVIATION))
    }

    /// Adds 1 to every element.
    fn shift(&self, buffer: &Buffer) -> Result<()> {
        let ones = self.gpu.alloc(buffer.len_bytes())?;
        let one = self.config.precision.element().encode(1.0);
        ones.fill_u32(self.stream, one << 16 | one)?;
        let columns = self.config.d_model;
        let (sum, one) = (Matrix::packed(buffer, columns), Matrix::packed(&ones, columns));
        self.kernels.add(self.stream, sum, one, (1, columns))?;
        self.stream.synchronize()
    }
}

/// Element (row, column) of a linear of so many columns, before it is rounded to a half or to bf16.
pub fn value(seed: u64, columns: u32, row: u32, column: u32) -> f32 {
    let index = u64::from(row) * u64::from(columns) + u64::from(column);
    Values::Normals { scale: DEVIATION }.value(seed, index)
}

/// Gain (1 is added to it) and bias of a column, before they are rounded.
pub fn affine_value(config: &Config, column: u32) -> (f32, f32) {
    let [gain, bias] = affine_seeds(config);
    (value(gain, config.d_model, 0, column), value(bias, config.d_model, 0, column))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_matrix_has_a_seed_of_its_own() {
        let config = Config::SEED_002;
        let linears = [Linear::Qkv, Linear::Out, Linear::Up, Linear::Down];
        let mut seeds: BTreeSet<u64> = (0..config.layers)
            .flat_map(|layer| linears.map(|linear| linear.seed(&config, layer)))
            .collect();
        seeds.insert(Linear::Head.seed(&config, 0));
        seeds.insert(embedding_seed(&config));
        seeds.extend(affine_seeds(&config));
        assert_eq!(seeds.len(), 48 * 4 + 4);
    }
}
