//! The stages of a layer on one GPU, enqueued on its compute stream.

use std::ops::Range;
use std::sync::Arc;

use super::codes::AttentionCodes;
use super::decode::Cache;
use super::drift::{self, Difference};
use super::fault::CodesFault;
use super::probe::{self, Probe, Seen};
use super::product::Product;
use super::weights::{DEVIATION, Linear, Split, Weights};
use super::{Config, EPSILON, HEAD_SIZE, Kernels, Matrix, Precision, Problem, Share};
use crate::attention::forward::{self, Forward};
use crate::attention::{self, Data, Shape, Tensor};
use crate::dequantise_rows::RowDequantiser;
use crate::device::{Buffer, CudaStream, Event, Gpu};
use crate::element::Element;
use crate::matmul::{Dtype, Lt, Operands, Plan, Request, Search};
use crate::operands::{self, Values};
use crate::pattern::Patterns;
use crate::promoted::Promoted;
use crate::quantise::{Extra, Quantised, Quantiser, Scheme, Source};
use crate::timing::Hold;
use crate::{Error, Result};

/// Timed runs of a candidate of each product: enough for the power limit to have its say.
const ROUNDS: usize = 9;

/// What a rank has done, counted as it was enqueued.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Multiplications and additions of products and attention.
    pub flops: f64,
    /// Bytes that it sent to other GPUs.
    pub sent_bytes: u64,
    /// Exchanges it took part in.
    pub exchanges: u64,
}

/// Where a bit is flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A rank's share of a linear, in a layer.
    Linear(Linear, u32),
    /// A rank's copy of the residual stream.
    Residual,
}

/// The kernels of one GPU. Groups that share them do not run at once: attention counts its tiles in memory
/// of its own.
#[derive(Debug)]
pub struct Tools {
    /// What lies between the products.
    pub kernels: Kernels,
    /// Halves to E4M3.
    pub quantiser: Quantiser,
    /// Attention over halves with heads of [`HEAD_SIZE`].
    pub attention: Forward,
    /// What lies between the products, and attention, over bf16; where they were loaded.
    pub bf16: Option<(Kernels, Forward)>,
    /// Attention over E4M3, and what makes that of halves; where it was loaded.
    pub attention_e4m3: Option<(attention::quantise::Quantiser, Forward)>,
    /// Fills what products are tried on.
    pub operands: operands::Operands,
    /// Products.
    pub lt: Lt,
    /// Those of [`Precision::E4m3Promoted`]; where they were loaded.
    pub promoted: Option<Promoted>,
    /// Codes to halves, of [`Precision::WeightsE4m3`]; where it was loaded.
    pub widener: Option<RowDequantiser>,
    /// Holds a stream, for a planted delay.
    pub hold: Hold,
    /// Flips bits, for planted faults.
    pub patterns: Patterns,
}

impl Tools {
    /// What lies between the products, and attention, of a model of that precision.
    ///
    /// Errors: [`Error::Shape`] of bf16 where it was not loaded.
    fn of(&self, precision: Precision) -> Result<(&Kernels, &Forward)> {
        match (precision.element(), &self.bf16) {
            (Element::Bf16, Some((kernels, attention))) => Ok((kernels, attention)),
            (Element::Bf16, None) => {
                Err(Error::Shape { what: "a model in bf16 without its kernels".into() })
            }
            _ => Ok((&self.kernels, &self.attention)),
        }
    }
}

/// Activations and products for one problem.
///
/// `attended` and `inner` are those of [`Problem::held_chunks`] chunks. Of one GPU that shares with none they are one
/// chunk's, and `normed` and `attended` lie in the same memory, as do `qkv` and `inner`: each is read for the last time before
/// the other is written.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) problem: Problem,
    /// The residual stream, [rows, d], whole on every rank.
    pub(super) residual: Buffer,
    /// A chunk's normed rows, [chunk rows, d]; under [`Precision::E4m3`] only those of the head.
    normed: Buffer,
    /// Under [`Precision::E4m3`] what the next product reads: a chunk's rows of at most d_ff.
    quantised: Option<Quantised>,
    /// Under [`Precision::WeightsE4m3`] the halves of the weight that the next product reads.
    pub(super) widened: Option<Buffer>,
    /// Queries, keys and values of the rank's heads, [rows, 3 d / t]; a chunk's where it is kept in E4M3.
    qkv: Buffer,
    /// Queries, keys and values in E4M3, where attention reads those.
    eight: Option<AttentionCodes>,
    /// Attention outputs: [held rows, d], or under [`Split::Inputs`] the rank's [held rows, d / t].
    pub(super) attended: Buffer,
    /// Inside the MLP: [held rows, d_ff], or under [`Split::Inputs`] the rank's [held rows, d_ff / t].
    pub(super) inner: Buffer,
    /// Summands of the residual stream, [rows, d], under [`Split::Inputs`].
    pub(super) partial: Option<Buffer>,
    /// The rank's logits, [batches, vocab / t].
    pub(super) logits: Buffer,
    tokens: Buffer,
    /// There from the end of [`Rank::set`] on.
    plans: Option<Plans>,
    /// One entry a layer, and one for the logits.
    differences: Buffer,
}

/// The products of a problem.
#[derive(Debug)]
pub(super) struct Plans {
    qkv: Product,
    out: Product,
    up: Product,
    down: Product,
    /// Where the last layer is.
    head: Option<Product>,
}

impl Plans {
    /// Each linear with its plan.
    pub(super) fn all(&self) -> impl Iterator<Item = (Linear, &Product)> {
        let layer = [
            (Linear::Qkv, &self.qkv),
            (Linear::Out, &self.out),
            (Linear::Up, &self.up),
            (Linear::Down, &self.down),
        ];
        layer.into_iter().chain(self.head.as_ref().map(|head| (Linear::Head, head)))
    }
}

/// One GPU with its share of the model.
#[derive(Debug)]
pub struct Rank<'g> {
    pub(super) gpu: &'g Gpu,
    pub(super) tools: &'g Tools,
    /// What lies between the products, over what the model stores.
    pub(super) kernels: &'g Kernels,
    /// Attention over the same.
    attention: &'g Forward,
    pub(super) share: Share,
    pub(super) config: Config,
    pub(super) layers: Range<u32>,
    split: Split,
    pub(super) weights: Weights,
    pub(super) compute: Arc<CudaStream>,
    pub(super) transfer: CudaStream,
    /// A stage's results are there.
    pub(super) produced: Event,
    /// By chunk: its results have been sent.
    pub(super) sent: Vec<Event>,
    /// By place of a chunk among those that are held: what lay there has been read here.
    pub(super) consumed: [Event; 2],
    /// The same: this rank's columns of what lay there have left for the others.
    pub(super) left: [Event; 2],
    pub(super) session: Option<Session>,
    /// What later passes fill with keys and values.
    pub(super) cache: Option<Cache>,
    /// What is looked at in later passes.
    pub(super) probe: Option<Probe>,
    /// Keys before a query's own that attention still sees in a layer, where a fault is planted.
    pub(super) window: Option<(u32, u32)>,
    /// What is wrong with what is kept in E4M3 in this layer, where a fault is planted.
    pub(super) codes_fault: Option<CodesFault>,
    pub(super) work: Work,
}

impl<'g> Rank<'g> {
    /// Makes the weights; waits for them.
    ///
    /// Errors: [`Error::Shape`] of bf16 without its kernels, or whose sums are cut.
    pub(super) fn new(
        gpu: &'g Gpu,
        tools: &'g Tools,
        config: Config,
        layers: Range<u32>,
        (share, split): (Share, Split),
    ) -> Result<Rank<'g>> {
        let (kernels, attention) = tools.of(config.precision)?;
        if split == Split::Inputs && config.precision == Precision::Bf16 {
            return Err(Error::Shape { what: "summands in bf16: reducers add halves".into() });
        }
        Ok(Rank {
            gpu,
            tools,
            kernels,
            attention,
            share,
            config,
            split,
            weights: Weights::new(
                gpu,
                (kernels, &tools.quantiser),
                &config,
                layers.clone(),
                share,
                split,
            )?,
            layers,
            compute: Arc::new(gpu.new_stream()?),
            transfer: gpu.new_stream()?,
            produced: gpu.new_marker()?,
            sent: Vec::new(),
            consumed: [gpu.new_marker()?, gpu.new_marker()?],
            left: [gpu.new_marker()?, gpu.new_marker()?],
            session: None,
            cache: None,
            probe: None,
            window: None,
            codes_fault: None,
            work: Work::default(),
        })
    }

    /// Columns of the residual stream that this rank makes, and their first.
    pub(super) fn slice(&self) -> (u32, u32) {
        self.share.columns(self.config.d_model)
    }

    /// The same inside the MLP.
    pub(super) fn inner_slice(&self) -> (u32, u32) {
        self.share.columns(self.config.d_ff)
    }

    pub(super) fn session(&self) -> Result<&Session> {
        self.session.as_ref().ok_or_else(|| Error::Shape { what: "no problem was set".into() })
    }

    /// First column and row length of attention outputs, and of what is inside the MLP.
    fn widths(&self) -> [(u32, u32); 2] {
        match self.split {
            Split::Outputs => {
                [(self.slice().0, self.config.d_model), (self.inner_slice().0, self.config.d_ff)]
            }
            Split::Inputs => [(0, self.slice().1), (0, self.inner_slice().1)],
        }
    }

    /// Allocates activations and chooses products, by search, or as `like` another rank has them.
    pub(super) fn set(
        &mut self,
        problem: Problem,
        candidates: usize,
        like: Option<&Plans>,
    ) -> Result<()> {
        // The old activations go before the new ones come.
        self.session = None;
        let rows = u64::from(problem.rows());
        let chunk = u64::from(problem.chunk_rows()).max(problem.batches.into());
        let d = u64::from(self.config.d_model);
        let [(_, attended), (_, inner)] = self.widths().map(|(c, w)| (c, u64::from(w)));
        let vocab = u64::from(self.share.columns(self.config.vocab).1);
        let alone = self.share.degree == 1;
        let halves = |count: u64| self.gpu.alloc(2 * count);
        // Two matrices, of one GPU alone in the same memory.
        let pair = |first: u64, second: u64| -> Result<(Buffer, Buffer)> {
            if !alone {
                return Ok((halves(first)?, halves(second)?));
            }
            let whole = Arc::new(halves(first.max(second))?);
            Ok((Buffer::part(&whole, 0, 2 * first)?, Buffer::part(&whole, 0, 2 * second)?))
        };
        let partial = match self.split {
            Split::Outputs => None,
            Split::Inputs => Some(halves(rows * d)?),
        };
        let eight = self.config.precision.is_fp8();
        let normed = d * if eight { problem.batches.into() } else { chunk };
        let held = if alone { 1 } else { problem.held_chunks() };
        let own_rows = u64::from(held) * u64::from(problem.chunk_rows());
        let (normed, attended) = pair(normed, own_rows * attended)?;
        let quantised = match eight {
            // Of the shortest row there are as many scales as of the longest.
            true => Some(Quantised::new(
                self.gpu,
                Scheme::Row,
                chunk,
                self.config.d_ff.max(self.config.d_model),
            )?),
            false => None,
        };
        let widened = self.widened()?;
        let qkv_rows =
            if self.config.keeps_codes(&problem) { problem.chunk_rows().into() } else { rows };
        let (qkv, inner) = pair(qkv_rows * 3 * u64::from(self.slice().1), own_rows * inner)?;
        let (residual, logits) = (halves(rows * d)?, halves(u64::from(problem.batches) * vocab)?);
        for (at, buffer) in [&residual, &normed, &attended, &inner].into_iter().enumerate() {
            let (stream, count) = (self.gpu.stream(), buffer.len_bytes() / 2);
            let values = Values::Normals { scale: 1.0 };
            let element = self.config.precision.element();
            self.tools.operands.fill(stream, buffer, element, count, at as u64, values)?;
        }
        if let Some(buffer) = &widened {
            let (stream, count) = (self.gpu.stream(), buffer.len_bytes() / 2);
            let values = Values::Normals { scale: DEVIATION };
            self.tools.operands.fill(stream, buffer, Element::F16, count, 10, values)?;
        }
        if let Some(Quantised { codes, scales }) = &quantised {
            let (stream, values) = (self.gpu.stream(), Values::Normals { scale: 100.0 });
            let count = codes.len_bytes();
            self.tools.operands.fill(stream, codes, Element::E4m3, count, 9, values)?;
            scales.fill_u32(stream, 0.01f32.to_bits())?;
        }
        let entries = u64::from(self.config.layers) + 1;
        let eight = self.config.attention_e4m3.then(|| self.attention_operands(&problem));
        let mut session = Session {
            problem,
            residual,
            normed,
            quantised,
            widened,
            qkv,
            eight: eight.transpose()?,
            attended,
            inner,
            partial,
            logits,
            tokens: self.gpu.alloc(4 * rows)?,
            plans: None,
            differences: self.gpu.alloc(drift::BYTES * entries)?,
        };
        session.plans = Some(Chooser { rank: self, session: &session, candidates, like }.plans()?);
        self.session = Some(session);
        while self.sent.len() < problem.chunks as usize {
            self.sent.push(self.gpu.new_marker()?);
        }
        Ok(())
    }

    /// Memory for a weight in halves, where weights alone are E4M3.
    fn widened(&self) -> Result<Option<Buffer>> {
        match (self.config.widened_bytes(self.share.degree), &self.tools.widener) {
            (0, _) => Ok(None),
            (bytes, Some(_)) => Ok(Some(self.gpu.alloc(bytes)?)),
            (_, None) => {
                let what = "a model of weights in E4M3 without what makes halves of them".into();
                Err(Error::Shape { what })
            }
        }
    }

    /// Memory for queries, keys and values in E4M3.
    fn attention_operands(&self, problem: &Problem) -> Result<AttentionCodes> {
        if self.tools.attention_e4m3.is_none() {
            let what = format!("attention in E4M3 of {problem:?}: sm_90");
            return Err(Error::Shape { what });
        }
        AttentionCodes::allocate(self.gpu, &self.config, problem, self.slice().1 / HEAD_SIZE)
    }

    /// What is asked of a product.
    pub(super) fn request(&self, linear: Linear, problem: &Problem) -> Request {
        let d = self.config.d_model;
        let (width, inner) = (self.slice().1, self.inner_slice().1);
        let [(_, attended_row), (_, inner_row)] = self.widths();
        let rows = problem.chunk_rows();
        let whole = self.split == Split::Outputs;
        let eight = self.config.precision.is_fp8();
        let dtype = match self.config.precision {
            Precision::F16 | Precision::WeightsE4m3 => Dtype::F16,
            Precision::Bf16 => Dtype::Bf16,
            Precision::E4m3 | Precision::E4m3Fast | Precision::E4m3Promoted => Dtype::E4m3RowHalf,
        };
        let packed = |m: u32, n: u32, k: u32| Request {
            fast_accumulation: self.config.precision == Precision::E4m3Fast,
            ..Request::new(dtype, m, n, k)
        };
        let summed = |n: u32, k: u32, row: u32| Request {
            // Codes are packed, whatever lies between the halves.
            row_a: (!eight).then_some(row),
            row_d: Some(d),
            accumulate: whole,
            ..packed(rows, n, k)
        };
        match (linear, self.split) {
            (Linear::Qkv, _) => packed(rows, 3 * width, d),
            (Linear::Out, Split::Outputs) => summed(width, d, attended_row),
            (Linear::Out, Split::Inputs) => summed(d, width, attended_row),
            (Linear::Up, _) => Request { row_d: Some(inner_row), ..packed(rows, inner, d) },
            (Linear::Down, Split::Outputs) => summed(width, self.config.d_ff, inner_row),
            (Linear::Down, Split::Inputs) => summed(d, inner, inner_row),
            (Linear::Head, _) => {
                let vocab = self.share.columns(self.config.vocab).1;
                packed(problem.batches, vocab, d)
            }
        }
    }

    /// Sets the tokens, below the vocabulary; waits.
    pub(super) fn set_tokens(&self, tokens: &[u32]) -> Result<()> {
        let session = self.session()?;
        let rows = session.problem.rows() as usize;
        if tokens.len() != rows || tokens.iter().any(|&token| token >= self.config.vocab) {
            let what =
                format!("{} tokens, wanted {rows} below {}", tokens.len(), self.config.vocab);
            return Err(Error::Shape { what });
        }
        session.tokens.write(&self.compute, 0, tokens)
    }

    /// Overwrites what another rank or stage must write before it is read, with NaN.
    pub(super) fn poison(&self) -> Result<()> {
        let session = self.session()?;
        let quantised = session.quantised.iter().flat_map(|q| [&q.codes, &q.scales]);
        let partial = session.partial.iter().chain(quantised).chain(&session.widened);
        for buffer in [
            &session.residual,
            &session.normed,
            &session.qkv,
            &session.attended,
            &session.inner,
            &session.logits,
        ]
        .into_iter()
        .chain(partial)
        {
            buffer.poison(&self.compute)?;
        }
        session.eight.iter().try_for_each(|eight| eight.poison(&self.compute))?;
        self.forget_differences()
    }

    /// Empties what was compared; waits.
    pub(super) fn forget_differences(&self) -> Result<()> {
        drift::reset(&self.compute, &self.session()?.differences)
    }

    pub(super) fn embed(&self) -> Result<()> {
        let (session, d) = (self.session()?, self.config.d_model);
        self.kernels.embed(
            &self.compute,
            Matrix::packed(&session.residual, d),
            self.weights.embedding()?,
            &session.tokens,
            (session.problem.rows(), d),
        )
    }

    /// A chunk's rows of the residual stream, normed, and under [`Precision::E4m3`] quantised.
    fn norm(&self, chunk: u32) -> Result<()> {
        let (session, d) = (self.session()?, self.config.d_model);
        let rows = session.problem.chunk_rows();
        let first = u64::from(chunk) * u64::from(rows) * u64::from(d);
        if self.config.precision.is_fp8() {
            let source = Source { buffer: &session.residual, first };
            return self.quantise(Scheme::NormRow, source, (rows, d));
        }
        let input = Matrix { buffer: &session.residual, first, row: d.into() };
        let out = Matrix::packed(&session.normed, d);
        self.kernels.norm(&self.compute, out, input, self.weights.affine(), (rows, d))
    }

    /// Quantises rows for the next product.
    fn quantise(
        &self,
        scheme: Scheme,
        source: Source<'_>,
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        let Some(target) = &self.session()?.quantised else {
            return Err(Error::Shape { what: "nothing to quantise but in E4M3".into() });
        };
        let affine = self.weights.affine();
        let norm = Some((affine.gain, affine.bias, EPSILON));
        let (sizes, extra) = ((rows.into(), columns), Extra { norm, ..Extra::default() });
        self.tools.quantiser.run(&self.compute, scheme, source, sizes, target, extra)
    }

    /// Quantises a chunk of what was gathered, under [`Precision::E4m3`].
    fn quantise_gathered(
        &self,
        scheme: Scheme,
        of: fn(&Session) -> &Buffer,
        first: u64,
        columns: u32,
    ) -> Result<()> {
        if !self.config.precision.is_fp8() {
            return Ok(());
        }
        let session = self.session()?;
        let source = Source { buffer: of(session), first };
        self.quantise(scheme, source, (session.problem.chunk_rows(), columns))
    }

    fn product(
        &mut self,
        plan: fn(&Plans) -> Option<&Product>,
        (linear, layer): (Linear, u32),
        (a, a_first): (fn(&Session) -> &Buffer, u64),
        (d, d_first): (fn(&Session) -> &Buffer, u64),
    ) -> Result<()> {
        let session = self.session()?;
        let none = || Error::Shape { what: format!("no product for {linear:?}") };
        let plan = plan(self.plans()?).ok_or_else(none)?;
        let weight = self.weights.linear(linear, layer)?;
        let (b, scale_b) = match &session.widened {
            Some(halves) => {
                let Request { n, k, .. } = *plan.request();
                self.widen((linear, layer), (n.into(), k), halves)?;
                (halves, None)
            }
            None => (&weight.values, weight.scales.as_ref()),
        };
        // Codes are those of this chunk alone.
        let (a, scale_a, a_first) = match &session.quantised {
            Some(Quantised { codes, scales }) => (codes, Some(scales), 0),
            None => (a(session), None, a_first),
        };
        let operands = Operands {
            a,
            b,
            d: d(session),
            scale_a,
            scale_b,
            alpha: 1.0,
            first: [a_first, 0, d_first],
        };
        plan.run(&self.compute, &operands)?;
        let operations = plan.request().operations();
        self.work.flops += operations;
        Ok(())
    }

    /// Enqueues the halves of a weight `[rows][columns]` in E4M3.
    pub(super) fn widen(
        &self,
        (linear, layer): (Linear, u32),
        sizes: (u64, u32),
        out: &Buffer,
    ) -> Result<()> {
        let none = || Error::Shape { what: format!("nothing makes halves of {linear:?}") };
        let (weight, scales) = (self.weights.linear(linear, layer)?, self.scales(linear, layer)?);
        let widener = self.tools.widener.as_ref().ok_or_else(none)?;
        widener.run(&self.compute, (&weight.values, scales), sizes, out)
    }

    /// Scales of a weight's rows.
    ///
    /// Errors: [`Error::Shape`] of one without.
    pub(super) fn scales(&self, linear: Linear, layer: u32) -> Result<&Buffer> {
        let none = || Error::Shape { what: format!("no scales of {linear:?}") };
        self.weights.linear(linear, layer)?.scales.as_ref().ok_or_else(none)
    }

    /// Overwrites this rank's linears in fp16 with the halves of another one's codes, of the same share of the same
    /// sizes on the same GPU; waits.
    pub(super) fn take_halves_of(&self, other: &Rank<'_>) -> Result<()> {
        let precisions = (self.config.precision, other.config.precision);
        let alike = (self.share, self.split, &self.layers, self.gpu.ordinal)
            == (other.share, other.split, &other.layers, other.gpu.ordinal)
            && Config { precision: precisions.1, ..self.config } == other.config;
        if precisions != (Precision::F16, Precision::WeightsE4m3) || !alike {
            return Err(Error::Shape { what: "halves of another model's codes".into() });
        }
        let layers = self.layers.clone().flat_map(|layer| {
            [Linear::Qkv, Linear::Out, Linear::Up, Linear::Down].map(|linear| (linear, layer))
        });
        let head = self.weights.has_head().then_some((Linear::Head, 0));
        for (linear, layer) in layers.chain(head) {
            let own = &self.weights.linear(linear, layer)?.values;
            let rows = other.scales(linear, layer)?.len_bytes() / 4;
            let columns = own.len_bytes() / 2 / rows;
            other.widen((linear, layer), (rows, columns as u32), own)?;
        }
        other.compute.synchronize()
    }

    /// First row of a chunk.
    pub(super) fn first_row(&self, chunk: u32) -> Result<u64> {
        Ok(u64::from(chunk) * u64::from(self.session()?.problem.chunk_rows()))
    }

    /// The same of queries, keys and values in fp16.
    fn qkv_row(&self, chunk: u32) -> Result<u64> {
        let kept = self.config.keeps_codes(&self.session()?.problem);
        if kept { Ok(0) } else { self.first_row(chunk) }
    }

    /// The same of attention's outputs and inside the MLP.
    pub(super) fn own_row(&self, chunk: u32) -> Result<u64> {
        if self.share.degree == 1 {
            return Ok(0);
        }
        self.first_row(chunk % self.session()?.problem.held_chunks())
    }

    /// Norm, queries, keys and values, attention of the rank's heads.
    pub(super) fn attend(&mut self, layer: u32, chunk: u32) -> Result<()> {
        self.look_behind(layer, chunk)?;
        self.look_at_stream(layer, chunk, |seen| &mut seen.before)?;
        self.norm(chunk)?;
        let first = self.qkv_row(chunk)? * 3 * u64::from(self.slice().1);
        self.product(
            |p| Some(&p.qkv),
            (Linear::Qkv, layer),
            (|s| &s.normed, 0),
            (|s| &s.qkv, first),
        )?;
        self.attention(layer, chunk)?;
        self.put(layer, chunk)?;
        self.look(layer, chunk, Rank::see_attention)
    }

    /// Copies a chunk's keys and values to the cache that is filled, or converts them.
    fn put(&mut self, layer: u32, chunk: u32) -> Result<()> {
        let Some(mut cache) = self.cache.take() else { return Ok(()) };
        let row = self.first_row(chunk)?;
        let session = self.session()?;
        let Problem { batches, tokens, chunks } = session.problem;
        if self.config.keeps_codes(&session.problem) {
            self.cache = Some(cache);
            let what = "a cache of what attention over E4M3 keeps itself".into();
            return Err(Error::Shape { what });
        }
        // Whole sequences, or a part of one.
        let (sequences, place) = match batches.is_multiple_of(chunks) {
            true => ((chunk * (batches / chunks), batches / chunks), (0, tokens)),
            false => ((0, 1), (row as u32, session.problem.chunk_rows())),
        };
        let put = match cache.convert(self, &session.qkv, layer, &session.problem) {
            Ok(false) => cache.put(self, (&session.qkv, row), layer, sequences, place),
            converted => converted.map(|_| ()),
        };
        cache.hold(tokens);
        self.cache = Some(cache);
        put
    }

    /// Reads the residual stream behind the layer before, which is whole now, where that layer is looked at.
    fn look_behind(&mut self, layer: u32, chunk: u32) -> Result<()> {
        match layer.checked_sub(1) {
            Some(before) => self.look_at_stream(before, chunk, |seen| &mut seen.after),
            None => Ok(()),
        }
    }

    /// Reads the rows of a chunk that are looked at out of the residual stream, all columns of which have arrived.
    fn look_at_stream(
        &mut self,
        layer: u32,
        chunk: u32,
        to: fn(&mut Seen) -> &mut Vec<u16>,
    ) -> Result<()> {
        let d = self.config.d_model;
        self.look(layer, chunk, |rank, seen, _| {
            *to(seen) = rank.row(|s| &s.residual, seen.row, d)?;
            Ok(())
        })
    }

    /// Reads what a layer did with the rows of a chunk that are looked at, before what reads it next. `see` is told
    /// the row's place in attention's outputs and inside the MLP.
    fn look(
        &mut self,
        layer: u32,
        chunk: u32,
        see: impl Fn(&Rank<'g>, &mut Seen, u32) -> Result<()>,
    ) -> Result<()> {
        let Some(mut probe) = self.probe.take() else { return Ok(()) };
        let first = self.first_row(chunk)? as u32;
        let rows = first..first + self.session()?.problem.chunk_rows();
        let own = self.own_row(chunk)? as u32;
        let mut seen = Ok(());
        for row in probe.rows_of(layer, &rows) {
            seen = seen.and_then(|()| see(self, probe.entry(layer, row), row - first + own));
        }
        self.probe = Some(probe);
        seen
    }

    fn row(&self, of: fn(&Session) -> &Buffer, row: u32, columns: u32) -> Result<Vec<u16>> {
        probe::row(&self.compute, of(self.session()?), row.into(), columns)
    }

    /// Queries, keys and values of a row, of the rank's heads, and those of all keys of the head that is read where it is
    /// this rank's.
    fn see_attention(&self, seen: &mut Seen, _: u32) -> Result<()> {
        let ((first_column, width), session) = (self.slice(), self.session()?);
        let kept = self.config.keeps_codes(&session.problem);
        let row = if kept { seen.row % session.problem.chunk_rows() } else { seen.row };
        seen.qkv = self.row(|s| &s.qkv, row, 3 * width)?;
        let head = seen.head * HEAD_SIZE;
        if !(first_column..first_column + width).contains(&head) {
            return Ok(());
        }
        if let (true, Some(eight)) = (kept, &session.eight) {
            return eight.see((self.gpu, &self.compute), seen, first_column);
        }
        let step = 3 * u64::from(width);
        let first_row = seen.row / session.problem.tokens * session.problem.tokens;
        let count = seen.row - first_row + 1;
        let part = |part: u32| {
            let column = u64::from(part * width + head - first_column);
            let first = u64::from(first_row) * step + column;
            probe::head((self.gpu, &self.compute), &session.qkv, (first, step), count)
        };
        (seen.keys, seen.values) = (part(1)?, part(2)?);
        Ok(())
    }

    fn attention(&mut self, layer: u32, chunk: u32) -> Result<()> {
        let session = self.session()?;
        let Problem { batches, tokens, chunks } = session.problem;
        let width = u64::from(self.slice().1);
        let heads = self.slice().1 / HEAD_SIZE;
        let (column, row) = self.widths()[0];
        let rows = session.problem.chunk_rows();
        // Whole sequences, or, of one sequence, the chunk's queries over all keys so far.
        let (batches, queries, keys) = match batches.is_multiple_of(chunks) {
            true => (batches / chunks, tokens, tokens),
            false => (1, rows, rows * (chunk + 1)),
        };
        let first = self.qkv_row(chunk)?;
        let first_key = if queries == keys { first } else { 0 };
        let of = |first_row: u64, part: u64| Tensor {
            buffer: &session.qkv,
            offset: first_row * 3 * width + part * width,
            row: 3 * width,
            head: HEAD_SIZE.into(),
            batch: u64::from(tokens) * 3 * width,
        };
        let row = u64::from(row);
        let out = Tensor {
            buffer: &session.attended,
            offset: self.own_row(chunk)? * row + u64::from(column),
            row,
            head: HEAD_SIZE.into(),
            batch: u64::from(tokens) * row,
        };
        let problem = forward::Problem {
            shape: Shape { batches, heads, kv_heads: heads, queries, keys, head_size: HEAD_SIZE },
            q: of(first, 0),
            k: of(first_key, 1),
            v: of(first_key, 2),
            out,
            lse: None,
            ragged: None,
            left: self.window.filter(|(planted, _)| *planted == layer).map(|(_, left)| left),
            right: Some(0),
            scale: f32::sqrt(HEAD_SIZE as f32).recip(),
            data: Data::default(),
            scales: None,
        };
        match (&session.eight, &self.tools.attention_e4m3) {
            (Some(operands), Some(tools)) => {
                let own = [0, 1, 2].map(|part| of(first, part));
                let fault = self.codes_fault.filter(|_| chunk > 0);
                let place = (chunk * rows, rows);
                operands.attend(&self.compute, tools, own, &problem, place, fault)?;
            }
            _ => self.attention.prepare(&problem, None)?.launch(&self.compute)?,
        }
        // Query i of a chunk sees the keys before the chunk and i + 1 of its own.
        let (queries, keys) = (f64::from(queries), f64::from(keys));
        let pairs =
            f64::from(batches) * (queries * (keys - queries) + queries * (queries + 1.0) / 2.0);
        self.work.flops += attention::flops(pairs, heads, HEAD_SIZE);
        Ok(())
    }

    /// From attention outputs to the residual stream, or to its summands.
    pub(super) fn project(&mut self, layer: u32, chunk: u32) -> Result<()> {
        let columns = self.widths()[0].1;
        self.look(layer, chunk, |rank, seen, at| {
            seen.attended = rank.row(|s| &s.attended, at, columns)?;
            Ok(())
        })?;
        let a_first = self.own_row(chunk)? * u64::from(columns);
        let (d, d_first) = self.destination(self.first_row(chunk)?);
        self.quantise_gathered(Scheme::Row, |s| &s.attended, a_first, columns)?;
        self.product(
            |p| Some(&p.out),
            (Linear::Out, layer),
            (|s| &s.attended, a_first),
            (d, d_first),
        )
    }

    /// Norm, into the MLP, GELU; under [`Precision::E4m3`] the GELU is left to the quantisation behind.
    pub(super) fn expand(&mut self, layer: u32, chunk: u32) -> Result<()> {
        self.look_at_stream(layer, chunk, |seen| &mut seen.middle)?;
        self.norm(chunk)?;
        let (column, row) = self.widths()[1];
        let first = self.own_row(chunk)? * u64::from(row) + u64::from(column);
        self.product(
            |p| Some(&p.up),
            (Linear::Up, layer),
            (|s| &s.normed, 0),
            (|s| &s.inner, first),
        )?;
        if !self.config.precision.is_fp8() {
            let session = self.session()?;
            let matrix = Matrix { buffer: &session.inner, first, row: row.into() };
            let sizes = (session.problem.chunk_rows(), self.inner_slice().1);
            self.kernels.gelu(&self.compute, matrix, sizes)?;
        }
        Ok(())
    }

    /// Out of the MLP to the residual stream, or to its summands.
    pub(super) fn contract(&mut self, layer: u32, chunk: u32) -> Result<()> {
        let columns = self.widths()[1].1;
        self.look(layer, chunk, |rank, seen, at| {
            seen.inner = rank.row(|s| &s.inner, at, columns)?;
            Ok(())
        })?;
        let a_first = self.own_row(chunk)? * u64::from(columns);
        let (d, d_first) = self.destination(self.first_row(chunk)?);
        self.quantise_gathered(Scheme::GeluRow, |s| &s.inner, a_first, columns)?;
        self.product(
            |p| Some(&p.down),
            (Linear::Down, layer),
            (|s| &s.inner, a_first),
            (d, d_first),
        )
    }

    /// As [`Rank::contract`], but each sum's second half of k is added before its first: the residual
    /// stream is rounded between them. A planted fault.
    pub(super) fn contract_in_another_order(&mut self, layer: u32, chunk: u32) -> Result<()> {
        let own = self.config.precision;
        if !matches!(own, Precision::F16 | Precision::Bf16 | Precision::E4m3 | Precision::E4m3Fast)
        {
            return Err(Error::Shape { what: format!("another order of addition in {own:?}") });
        }
        let whole = self.request(Linear::Down, &self.session()?.problem);
        let columns = self.widths()[1].1;
        let a_first = self.own_row(chunk)? * u64::from(columns);
        let (_, d_first) = self.destination(self.first_row(chunk)?);
        self.quantise_gathered(Scheme::GeluRow, |s| &s.inner, a_first, columns)?;
        let half = u64::from(whole.k / 2);
        // Rows of the weight lie k apart, which a plan of half of k does not know: the half is copied.
        let weight = self.weights.linear(Linear::Down, layer)?;
        let packed = self.half_of(&weight.values, &whole)?;
        let session = self.session()?;
        // Codes are those of this chunk alone.
        let (a, scale_a, a_first, row_a) = match &session.quantised {
            Some(Quantised { codes, scales }) => (codes, Some(scales), 0, Some(columns)),
            None => (&session.inner, None, a_first, whole.row_a),
        };
        let request = Request { k: whole.k / 2, row_a, ..whole };
        for (part, b) in packed.iter().enumerate().rev() {
            let operands = Operands {
                a,
                b,
                d: &session.residual,
                scale_a,
                scale_b: weight.scales.as_ref(),
                alpha: 1.0,
                first: [a_first + part as u64 * half, 0, d_first],
            };
            let plan = Plan::heuristic_first(self.gpu, &self.tools.lt, request, &operands)?;
            plan.run(&self.compute, &operands)?;
        }
        self.compute.synchronize()?;
        self.work.flops += whole.operations();
        Ok(())
    }

    /// Both halves of a weight's columns, packed.
    fn half_of(&self, weight: &Buffer, whole: &Request) -> Result<[Buffer; 2]> {
        let rows = u64::from(whole.n);
        // Bytes of half of a row.
        let half = weight.len_bytes() / rows / 2;
        let copy = |part: u64| -> Result<Buffer> {
            let packed = self.gpu.alloc(rows * half)?;
            let from = crate::peer::Rows { buffer: weight, offset: part * half, pitch: 2 * half };
            let to = crate::peer::Rows { buffer: &packed, offset: 0, pitch: half };
            // SAFETY: both buffers live until the stream is drained below, and nothing else writes them.
            unsafe { crate::peer::copy_rows(&self.compute, from, to, half, rows)? };
            self.compute.synchronize()?;
            Ok(packed)
        };
        Ok([copy(0)?, copy(1)?])
    }

    /// Where the products that end an attention or an MLP write a chunk from row `row` on.
    fn destination(&self, row: u64) -> (fn(&Session) -> &Buffer, u64) {
        let first = row * u64::from(self.config.d_model);
        match self.split {
            Split::Outputs => (|s| &s.residual, first + u64::from(self.slice().0)),
            Split::Inputs => (|s| s.partial.as_ref().unwrap_or(&s.residual), first),
        }
    }

    /// Adds a chunk's reduced summands to the residual stream, behind the reduction on the transfer stream.
    pub(super) fn settle(&self, chunk: u32) -> Result<()> {
        let (session, d) = (self.session()?, self.config.d_model);
        let rows = session.problem.chunk_rows();
        let first = u64::from(chunk) * u64::from(rows) * u64::from(d);
        let Some(partial) = &session.partial else {
            return Err(Error::Shape { what: "nothing to settle: no product was cut".into() });
        };
        let at = |buffer| Matrix { buffer, first, row: d.into() };
        self.kernels.add(&self.transfer, at(&session.residual), at(partial), (rows, d))
    }

    /// Logits of each sequence's last token, the rank's columns.
    pub(super) fn head(&mut self) -> Result<()> {
        for chunk in 0..self.session()?.problem.chunks {
            self.look_behind(self.layers.end, chunk)?;
        }
        let (session, d) = (self.session()?, self.config.d_model);
        let Problem { batches, tokens, .. } = session.problem;
        let input = Matrix {
            buffer: &session.residual,
            first: u64::from(tokens - 1) * u64::from(d),
            row: u64::from(tokens) * u64::from(d),
        };
        let out = Matrix::packed(&session.normed, d);
        let affine = self.weights.affine();
        self.kernels.norm(&self.compute, out, input, affine, (batches, d))?;
        if self.config.precision.is_fp8() {
            self.quantise(Scheme::Row, (&session.normed).into(), (batches, d))?;
        }
        self.product(|p| p.head.as_ref(), (Linear::Head, 0), (|s| &s.normed, 0), (|s| &s.logits, 0))
    }

    /// Enqueues the flip of the lowest bit of an element of a weight: a planted fault.
    pub(super) fn flip(&self, place: Place, element: u64) -> Result<()> {
        let stored = self.config.precision.element();
        let of_weights = if self.config.precision.keeps_e4m3() { Element::E4m3 } else { stored };
        let (buffer, kind) = match place {
            Place::Linear(linear, layer) => {
                (&self.weights.linear(linear, layer)?.values, of_weights)
            }
            Place::Residual => (&self.session()?.residual, stored),
        };
        operands::flip_bit(&self.tools.patterns, &self.compute, buffer, kind, element, 0)
    }

    /// Enqueues the comparison of this rank's residual stream, behind layer `layer`, with rows of
    /// another.
    pub(super) fn compare_residual(&self, layer: u32, other: Matrix<'_>) -> Result<()> {
        self.compare_rows(layer, (0, self.session()?.problem.rows()), other)
    }

    /// The same of so many of its rows from one on. What several such comparisons of a layer find is added up.
    pub(super) fn compare_rows(
        &self,
        layer: u32,
        (first, rows): (u64, u32),
        other: Matrix<'_>,
    ) -> Result<()> {
        let (session, d) = (self.session()?, self.config.d_model);
        let sizes = (rows.into(), d.into());
        let row = u64::from(d);
        let own = Matrix { buffer: &session.residual, first: first * row, row };
        let pair = (own, other);
        let slot = (&session.differences, u64::from(layer));
        self.kernels.compare(&self.compute, pair, sizes, slot)
    }

    /// The same of this rank's columns of the logits.
    pub(super) fn compare_logits(&self, other: &Buffer, batch: u64) -> Result<()> {
        let session = self.session()?;
        let (first, columns) = self.share.columns(self.config.vocab);
        let vocab = u64::from(self.config.vocab);
        let first = batch * vocab + u64::from(first);
        let other = Matrix { buffer: other, first, row: vocab };
        let sizes = (session.problem.batches.into(), columns.into());
        let pair = (Matrix::packed(&session.logits, columns), other);
        let slot = (&session.differences, u64::from(self.config.layers));
        self.kernels.compare(&self.compute, pair, sizes, slot)
    }

    /// Enqueues the hash of this rank's columns of the logits.
    pub(super) fn hash_logits(&self) -> Result<()> {
        let session = self.session()?;
        let columns = self.share.columns(self.config.vocab).1;
        let own = Matrix::packed(&session.logits, columns);
        let sizes = (session.problem.batches.into(), columns.into());
        let slot = (&session.differences, u64::from(self.config.layers));
        self.kernels.compare(&self.compute, (own, own), sizes, slot)
    }

    /// Differences by layer, last those of the logits; waits for the compute stream.
    pub(super) fn differences(&self) -> Result<Vec<Difference>> {
        drift::read(&self.compute, &self.session()?.differences)
    }

    pub(super) fn plans(&self) -> Result<&Plans> {
        let none = || Error::Shape { what: "no products were chosen".into() };
        self.session()?.plans.as_ref().ok_or_else(none)
    }

    /// Other plans for the problem that was set. What is enqueued before has ended; activations are lost.
    pub(super) fn plans_by_search(&self, candidates: usize) -> Result<Plans> {
        Chooser { rank: self, session: self.session()?, candidates, like: None }.plans()
    }

    /// Takes plans and gives those that were used.
    pub(super) fn exchange_plans(&mut self, plans: &mut Plans) -> Result<()> {
        match self.session.as_mut().and_then(|session| session.plans.as_mut()) {
            Some(used) => std::mem::swap(used, plans),
            None => return Err(Error::Shape { what: "no products were chosen".into() }),
        }
        Ok(())
    }
}

/// Chooses the products of a rank.
struct Chooser<'a, 'g> {
    rank: &'a Rank<'g>,
    session: &'a Session,
    candidates: usize,
    like: Option<&'a Plans>,
}

impl Chooser<'_, '_> {
    fn plans(&self) -> Result<Plans> {
        let Session { normed, qkv, attended, inner, residual, partial, logits, .. } = self.session;
        let destination = partial.as_ref().unwrap_or(residual);
        Ok(Plans {
            qkv: self.plan(Linear::Qkv, normed, qkv)?,
            out: self.plan(Linear::Out, attended, destination)?,
            up: self.plan(Linear::Up, normed, inner)?,
            down: self.plan(Linear::Down, inner, destination)?,
            head: match self.rank.weights.has_head() {
                true => Some(self.plan(Linear::Head, normed, logits)?),
                false => None,
            },
        })
    }

    fn plan(&self, linear: Linear, a: &Buffer, d: &Buffer) -> Result<Product> {
        let Rank { gpu, tools, weights, .. } = self.rank;
        let weight = weights.linear(linear, self.rank.layers.start)?;
        let (a, scale_a) = match &self.session.quantised {
            Some(Quantised { codes, scales }) => (codes, Some(scales)),
            None => (a, None),
        };
        let request = self.rank.request(linear, &self.session.problem);
        // The head's rows are few.
        if self.rank.config.precision == Precision::E4m3Promoted && linear != Linear::Head {
            let none = || Error::Shape { what: "a model in FP8 without its own products".into() };
            return Ok(Product::Own(tools.promoted.clone().ok_or_else(none)?, request));
        }
        let (b, scale_b) = match &self.session.widened {
            Some(halves) => (halves, None),
            None => (&weight.values, weight.scales.as_ref()),
        };
        let operands = Operands { a, b, d, scale_a, scale_b, alpha: 1.0, first: [0; 3] };
        if let Some(other) = self.like {
            let found = other.all().find(|(known, _)| *known == linear);
            if let Some((_, Product::Library(plan))) = found {
                return Ok(Product::Library(Plan::like(gpu, &tools.lt, &operands, plan)?));
            }
        }
        let plan = match self.candidates {
            0 | 1 => Plan::heuristic_first(gpu, &tools.lt, request, &operands),
            candidates => {
                let search = Search { candidates, rounds: ROUNDS, rest: 0 };
                Plan::search(gpu, &tools.lt, request, &operands, search)
            }
        };
        plan.map(Product::Library)
    }
}
