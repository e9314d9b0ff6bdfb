//! Trained weights on a GPU in one precision, and the logits of every token of a document.

use half::{bf16, f16};

use super::checkpoint::{Norm, Sizes, Weights};
use super::text::{Text, targets};
use super::{Kernels, MOST_TOKENS, Precision, Rows, Scored};
use crate::attention::forward::{self, Forward};
use crate::attention::{Data, Shape, Tensor};
use crate::device::{Buffer, Gpu};
use crate::element::Element;
use crate::formats::Format;
use crate::matmul::{Choice, Dtype, Lt, Operands, Plan, Request, WORKSPACE_BYTES};
use crate::model::{self, Affine, HEAD_SIZE, Matrix};
use crate::quantise::oracle::{place_of_scale, whole_scale};
use crate::quantise::{Extra, Quantised, Quantiser, Scheme};
use crate::{Error, Result};

/// What the models of one GPU share. Models that share it do not run at once.
#[derive(Debug)]
pub struct Tools {
    /// What f32 and bfloat16 need, and scores.
    pub kernels: Kernels,
    /// What lies between products in fp16.
    pub halves: model::Kernels,
    /// Halves to few bits.
    pub quantiser: Quantiser,
    /// Attention over fp16 with heads of [`HEAD_SIZE`].
    pub attention_f16: Forward,
    /// The same over bfloat16.
    pub attention_bf16: Forward,
    /// Products.
    pub lt: Lt,
}

/// A fault that is planted in a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The scales of the first layer's queries, keys and values are in reverse order.
    ScalesReversed,
    /// 128 by 128 weights of the last layer's way into the MLP are zero.
    BlockZeroed,
    /// Of every byte of NVFP4 codes the second comes first.
    NibblesSwapped,
    /// Weights and activations are rounded toward zero.
    Truncated,
}

/// A linear, [outputs][inputs].
#[derive(Debug)]
struct Linear {
    outputs: u32,
    inputs: u32,
    /// Numbers of the storage type, codes of E4M3, or halves that stand for codes.
    values: Buffer,
    /// f32 scales; those of an emulation belong to outputs.
    scales: Option<Buffer>,
}

/// Gain and bias in the storage type.
#[derive(Debug)]
struct Gains {
    gain: Buffer,
    bias: Buffer,
}

#[derive(Debug)]
struct Layer {
    norm1: Gains,
    qkv: Linear,
    out: Linear,
    norm2: Gains,
    up: Linear,
    down: Linear,
}

/// The kinds of products of a model, each with one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Qkv,
    Out,
    Up,
    Down,
    Head,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Qkv, "qkv"),
    (Kind::Out, "out"),
    (Kind::Up, "up"),
    (Kind::Down, "down"),
    (Kind::Head, "head"),
];

/// A model in a precision, with room for one document's activations.
#[derive(Debug)]
pub struct Model<'g> {
    gpu: &'g Gpu,
    tools: &'g Tools,
    sizes: Sizes,
    precision: Precision,
    truncate: bool,
    /// Tokens of a document, and of a window.
    lengths: (u32, u32),
    embedding: Buffer,
    layers: Vec<Layer>,
    norm: Gains,
    head: Linear,
    room: Room,
    /// By [`KINDS`]; none in f32.
    plans: Vec<Plan>,
}

/// Activations of a document.
#[derive(Debug)]
struct Room {
    tokens: Buffer,
    residual: Buffer,
    normed: Buffer,
    qkv: Buffer,
    attended: Buffer,
    inner: Buffer,
    partial: Buffer,
    logits: Buffer,
    /// What a product leaves in another type than the storage's.
    wide: Option<Buffer>,
    /// What an FP8 product reads.
    quantised: Option<Quantised>,
    /// Largest magnitude of what is quantised with one scale.
    largest: Buffer,
}

impl<'g> Model<'g> {
    /// Brings weights to the GPU in a precision and chooses its products; waits. FP8 and fewer bits come from
    /// the weights rounded to fp16, one scale of a whole matrix from the document at hand.
    ///
    /// Errors: [`Error::Shape`] for lengths that do not fit, and for a weight that the storage type rounds to an infinity,
    /// with its tensor and element; [`Error::BlasLt`] where the board has no such product;
    /// [`Error::Driver`], out of memory.
    pub fn new(
        gpu: &'g Gpu,
        tools: &'g Tools,
        weights: &Weights,
        precision: Precision,
        lengths: (u32, u32),
        fault: Option<Fault>,
    ) -> Result<Model<'g>> {
        let (document, window) = lengths;
        let whole = window > 0 && window <= MOST_TOKENS && document.is_multiple_of(window);
        if document == 0 || !whole || !document.is_multiple_of(4) {
            let what = format!(
                "documents of {document} tokens in windows of {window}, at most {MOST_TOKENS}"
            );
            return Err(Error::Shape { what });
        }
        weights.held_in(precision.storage())?;
        let sizes = weights.sizes;
        let Sizes { d_model: d, d_ff, vocab, .. } = sizes;
        let maker = Maker { gpu, tools, precision, fault };
        let last = weights.blocks.len().saturating_sub(1);
        let layer = |(number, block): (usize, &super::checkpoint::Block)| -> Result<Layer> {
            let planted = |which: Fault, at: usize| fault.filter(|f| *f == which && number == at);
            Ok(Layer {
                norm1: maker.norm(&block.norm1)?,
                qkv: maker.linear(&block.qkv, (3 * d, d), planted(Fault::ScalesReversed, 0))?,
                out: maker.linear(&block.out, (d, d), None)?,
                norm2: maker.norm(&block.norm2)?,
                up: maker.linear(&block.up, (d_ff, d), planted(Fault::BlockZeroed, last))?,
                down: maker.linear(&block.down, (d, d_ff), None)?,
            })
        };
        let mut model = Model {
            gpu,
            tools,
            sizes,
            precision,
            truncate: fault == Some(Fault::Truncated),
            lengths,
            embedding: maker.stored(&weights.embedding)?,
            layers: weights.blocks.iter().enumerate().map(layer).collect::<Result<_>>()?,
            norm: maker.norm(&weights.norm)?,
            head: maker.linear(&weights.head, (vocab, d), None)?,
            room: Room::new(gpu, &sizes, precision, document)?,
            plans: Vec::new(),
        };
        model.plans = match precision {
            Precision::F32 => Vec::new(),
            _ => KINDS.iter().map(|(kind, _)| model.plan(*kind)).collect::<Result<_>>()?,
        };
        gpu.stream().synchronize()?;
        Ok(model)
    }

    /// The precision that was asked for.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The algorithm of each product by cuBLASLt.
    pub fn choices(&self) -> impl Iterator<Item = (&'static str, &Choice)> {
        KINDS.iter().map(|(_, name)| *name).zip(self.plans.iter().map(Plan::choice))
    }

    /// Logits of every token of a document, in the storage type; enqueued.
    ///
    /// Errors: [`Error::Shape`] for another number of tokens than the room is for, or one outside of the vocabulary.
    pub fn logits(&self, document: &[u32]) -> Result<Rows<'_>> {
        let Sizes { d_ff, vocab, .. } = self.sizes;
        let (rows, room, stream) = (self.lengths.0, &self.room, self.gpu.stream());
        if document.len() != rows as usize || document.iter().any(|&token| token >= vocab) {
            let what = format!("{} tokens, wanted {rows} below {vocab}", document.len());
            return Err(Error::Shape { what });
        }
        room.poison(stream)?;
        room.tokens.write(stream, 0, document)?;
        self.embed()?;
        for layer in &self.layers {
            self.normed(&layer.norm1)?;
            self.multiply(Kind::Qkv, &layer.qkv, &room.normed, &room.qkv)?;
            self.attend()?;
            self.multiply(Kind::Out, &layer.out, &room.attended, &room.partial)?;
            self.settle()?;
            self.normed(&layer.norm2)?;
            self.multiply(Kind::Up, &layer.up, &room.normed, &room.inner)?;
            self.gelu(d_ff)?;
            self.multiply(Kind::Down, &layer.down, &room.inner, &room.partial)?;
            self.settle()?;
        }
        self.normed(&self.norm)?;
        self.multiply(Kind::Head, &self.head, &room.normed, &room.logits)?;
        Ok(self.stored(&room.logits))
    }

    fn stored<'a>(&self, buffer: &'a Buffer) -> Rows<'a> {
        Rows::new(buffer, self.precision.storage())
    }

    fn is_half(&self) -> bool {
        self.precision.storage() == Element::F16
    }

    fn embed(&self) -> Result<()> {
        let (room, stream) = (&self.room, self.gpu.stream());
        let sizes = (self.lengths.0, self.sizes.d_model);
        let (out, table) = (self.stored(&room.residual), self.stored(&self.embedding));
        self.tools.kernels.embed(stream, out, table, &room.tokens, sizes)
    }

    /// The residual stream, normed.
    fn normed(&self, norm: &Gains) -> Result<()> {
        let (room, stream) = (&self.room, self.gpu.stream());
        let sizes = (self.lengths.0, self.sizes.d_model);
        if self.is_half() {
            let affine = Affine { gain: &norm.gain, bias: &norm.bias };
            let matrix = |buffer| Matrix::packed(buffer, sizes.1);
            return self.tools.halves.norm(
                stream,
                matrix(&room.normed),
                matrix(&room.residual),
                affine,
                sizes,
            );
        }
        let (out, input) = (self.stored(&room.normed), self.stored(&room.residual));
        self.tools.kernels.norm(stream, out, input, (&norm.gain, &norm.bias), sizes)
    }

    fn gelu(&self, columns: u32) -> Result<()> {
        let (stream, sizes) = (self.gpu.stream(), (self.lengths.0, columns));
        match self.is_half() {
            true => {
                self.tools.halves.gelu(stream, Matrix::packed(&self.room.inner, columns), sizes)
            }
            false => self.tools.kernels.gelu(stream, self.stored(&self.room.inner), sizes),
        }
    }

    /// Adds a product's result to the residual stream.
    fn settle(&self) -> Result<()> {
        let (room, stream) = (&self.room, self.gpu.stream());
        let sizes = (self.lengths.0, self.sizes.d_model);
        if self.is_half() {
            let matrix = |buffer| Matrix::packed(buffer, sizes.1);
            return self.tools.halves.add(
                stream,
                matrix(&room.residual),
                matrix(&room.partial),
                sizes,
            );
        }
        self.tools.kernels.add(
            stream,
            self.stored(&room.residual),
            self.stored(&room.partial),
            sizes,
        )
    }

    fn attend(&self) -> Result<()> {
        let (room, stream) = (&self.room, self.gpu.stream());
        let (rows, window) = self.lengths;
        let heads = self.sizes.heads();
        if self.precision == Precision::F32 {
            return self.tools.kernels.attention(
                stream,
                (&room.attended, &room.qkv),
                (rows, window, heads),
            );
        }
        let d = u64::from(self.sizes.d_model);
        let of = |part: u64| Tensor {
            buffer: &room.qkv,
            offset: part * d,
            row: 3 * d,
            head: HEAD_SIZE.into(),
            batch: u64::from(window) * 3 * d,
        };
        let problem = forward::Problem {
            shape: Shape {
                batches: rows / window,
                heads,
                kv_heads: heads,
                queries: window,
                keys: window,
                head_size: HEAD_SIZE,
            },
            q: of(0),
            k: of(1),
            v: of(2),
            out: Tensor::packed(&room.attended, window, heads, HEAD_SIZE),
            lse: None,
            ragged: None,
            left: None,
            right: Some(0),
            scale: f32::sqrt(HEAD_SIZE as f32).recip(),
            data: Data::default(),
            scales: None,
        };
        let attention = match self.precision.storage() {
            Element::Bf16 => &self.tools.attention_bf16,
            _ => &self.tools.attention_f16,
        };
        attention.prepare(&problem, None)?.launch(stream)
    }

    /// `out = a weight^T`, in the storage type.
    fn multiply(&self, kind: Kind, weight: &Linear, a: &Buffer, out: &Buffer) -> Result<()> {
        let (stream, rows) = (self.gpu.stream(), self.lengths.0);
        let (n, k) = (weight.outputs, weight.inputs);
        if self.precision == Precision::F32 {
            return self.tools.kernels.product(stream, (out, a, &weight.values), (rows, n, k));
        }
        self.quantise(a, k)?;
        let operands = self.operands(weight, a, out);
        self.plan_of(kind)?.run(stream, &operands)?;
        let Some(wide) = &self.room.wide else { return Ok(()) };
        let emulated = matches!(self.precision, Precision::Weights8 | Precision::Weights4);
        let scales = weight.scales.as_ref().filter(|_| emulated);
        let element = dtype(self.precision).output();
        self.tools.kernels.finish(
            stream,
            self.stored(out),
            Rows::new(wide, element),
            scales,
            (rows, n),
        )
    }

    fn plan_of(&self, kind: Kind) -> Result<&Plan> {
        let at = KINDS.iter().position(|(known, _)| *known == kind);
        at.and_then(|at| self.plans.get(at))
            .ok_or_else(|| Error::Shape { what: "a product without a plan".into() })
    }

    /// Activations to codes, where the product reads codes.
    fn quantise(&self, a: &Buffer, columns: u32) -> Result<()> {
        let (stream, room) = (self.gpu.stream(), &self.room);
        let (Some(target), Some((scheme, _))) = (&room.quantised, schemes(self.precision)) else {
            return Ok(());
        };
        let sizes = (u64::from(self.lengths.0), columns);
        let mut extra = Extra { truncate: self.truncate, ..Extra::default() };
        if scheme == Scheme::Tensor {
            room.largest.fill_u32(stream, 0)?;
            self.tools.quantiser.largest(stream, a, sizes, &room.largest)?;
            extra.amax = Some(&room.largest);
        }
        self.tools.quantiser.run(stream, scheme, a, sizes, target, extra)
    }

    fn operands<'a>(&'a self, weight: &'a Linear, a: &'a Buffer, out: &'a Buffer) -> Operands<'a> {
        let d = self.room.wide.as_ref().unwrap_or(out);
        let plain = Operands {
            a,
            b: &weight.values,
            d,
            scale_a: None,
            scale_b: None,
            alpha: 1.0,
            first: [0; 3],
        };
        match &self.room.quantised {
            Some(Quantised { codes, scales }) => Operands {
                a: codes,
                scale_a: Some(scales),
                scale_b: weight.scales.as_ref(),
                ..plain
            },
            None => plain,
        }
    }

    fn plan(&self, kind: Kind) -> Result<Plan> {
        let (room, layer) = (&self.room, &self.layers[0]);
        let (weight, a, out) = match kind {
            Kind::Qkv => (&layer.qkv, &room.normed, &room.qkv),
            Kind::Out => (&layer.out, &room.attended, &room.partial),
            Kind::Up => (&layer.up, &room.normed, &room.inner),
            Kind::Down => (&layer.down, &room.inner, &room.partial),
            Kind::Head => (&self.head, &room.normed, &room.logits),
        };
        let request = Request {
            workspace_bytes: WORKSPACE_BYTES,
            ..Request::new(dtype(self.precision), self.lengths.0, weight.outputs, weight.inputs)
        };
        Plan::heuristic_first(self.gpu, &self.tools.lt, request, &self.operands(weight, a, out))
    }
}

/// The product of a precision; f32 has its own.
fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 | Precision::F16 => Dtype::F16,
        Precision::Bf16 => Dtype::Bf16,
        Precision::E4m3Tensor => Dtype::E4m3Tensor,
        Precision::E4m3Row => Dtype::E4m3RowHalf,
        Precision::E4m3Block => Dtype::E4m3Block,
        Precision::Weights8 | Precision::Weights4 => Dtype::F16Wide,
    }
}

/// How activations and weights are quantised for an FP8 product.
fn schemes(precision: Precision) -> Option<(Scheme, Scheme)> {
    match precision {
        Precision::E4m3Tensor => Some((Scheme::Tensor, Scheme::Tensor)),
        Precision::E4m3Row => Some((Scheme::Row, Scheme::Row)),
        Precision::E4m3Block => Some((Scheme::Block128, Scheme::Square128)),
        _ => None,
    }
}

impl Room {
    fn new(gpu: &Gpu, sizes: &Sizes, precision: Precision, rows: u32) -> Result<Room> {
        let Sizes { d_model: d, d_ff, vocab, .. } = *sizes;
        let widest = (3 * d).max(d_ff).max(vocab);
        let numbers = |columns: u32, element: Element| {
            gpu.alloc(u64::from(rows) * u64::from(columns) * element.bytes())
        };
        let stored = |columns: u32| numbers(columns, precision.storage());
        let result = dtype(precision).output();
        let other = precision != Precision::F32 && result != precision.storage();
        let wide = if other { Some(numbers(widest, result)?) } else { None };
        let quantised = match schemes(precision) {
            Some((scheme, _)) => Some(Quantised::new(gpu, scheme, rows.into(), d.max(d_ff))?),
            None => None,
        };
        Ok(Room {
            tokens: gpu.alloc(4 * u64::from(rows))?,
            residual: stored(d)?,
            normed: stored(d)?,
            qkv: stored(3 * d)?,
            attended: stored(d)?,
            inner: stored(d_ff)?,
            partial: stored(d)?,
            logits: stored(vocab)?,
            wide,
            quantised,
            largest: gpu.alloc(4)?,
        })
    }

    /// Fills everything with NaN, so that what a pass does not write is seen.
    fn poison(&self, stream: &crate::device::CudaStream) -> Result<()> {
        let quantised = self.quantised.iter().flat_map(|q| [&q.codes, &q.scales]);
        let plain = [&self.residual, &self.normed, &self.qkv, &self.attended, &self.inner];
        let rest = [&self.partial, &self.logits];
        let mut all = plain.into_iter().chain(rest).chain(&self.wide).chain(quantised);
        all.try_for_each(|buffer| buffer.poison(stream))
    }
}

/// Brings weights to a GPU.
struct Maker<'g> {
    gpu: &'g Gpu,
    tools: &'g Tools,
    precision: Precision,
    fault: Option<Fault>,
}

impl Maker<'_> {
    /// Numbers in the storage type.
    fn stored(&self, numbers: &[f32]) -> Result<Buffer> {
        match self.precision.storage() {
            Element::F32 => self.upload(numbers),
            Element::Bf16 => self
                .upload(&numbers.iter().map(|&x| bf16::from_f32(x).to_bits()).collect::<Vec<_>>()),
            _ => self.upload(&bits(&halves(numbers))),
        }
    }

    fn upload<T: crate::device::Plain>(&self, numbers: &[T]) -> Result<Buffer> {
        let buffer = self.gpu.alloc(size_of_val(numbers) as u64)?;
        buffer.write(self.gpu.stream(), 0, numbers)?;
        Ok(buffer)
    }

    fn norm(&self, norm: &Norm) -> Result<Gains> {
        Ok(Gains { gain: self.stored(&norm.gain)?, bias: self.stored(&norm.bias)? })
    }

    fn linear(
        &self,
        numbers: &[f32],
        (outputs, inputs): (u32, u32),
        fault: Option<Fault>,
    ) -> Result<Linear> {
        let mut numbers = numbers.to_vec();
        if fault == Some(Fault::BlockZeroed) {
            let rows = numbers.chunks_exact_mut(inputs as usize).take(128);
            rows.for_each(|row| row[..128].fill(0.0));
        }
        let sizes = (u64::from(outputs), inputs);
        let (values, scales) = match (self.precision, schemes(self.precision)) {
            (_, Some((_, scheme))) => {
                let quantised = self.quantised(scheme, &numbers, sizes)?.0;
                if fault == Some(Fault::ScalesReversed) {
                    self.reverse(&quantised.scales)?;
                }
                (quantised.codes, Some(quantised.scales))
            }
            (Precision::Weights8, _) => {
                let quantised = self.quantised(Scheme::Row, &numbers, sizes)?.0;
                let codes: Vec<u8> = self.download(&quantised.codes)?;
                let table: Vec<u16> = (0..256)
                    .map(|code| f16::from_f64(Format::E4m3.decode(code)).to_bits())
                    .collect();
                let halves: Vec<u16> = codes.iter().map(|&code| table[usize::from(code)]).collect();
                (self.upload(&halves)?, Some(quantised.scales))
            }
            (Precision::Weights4, _) => self.four_bits(&numbers, (outputs, inputs))?,
            _ => (self.stored(&numbers)?, None),
        };
        Ok(Linear { outputs, inputs, values, scales })
    }

    /// Codes and scales of the numbers rounded to fp16, and their largest magnitude.
    fn quantised(
        &self,
        scheme: Scheme,
        numbers: &[f32],
        sizes: (u64, u32),
    ) -> Result<(Quantised, f32)> {
        let stream = self.gpu.stream();
        let source = self.upload(&bits(&halves(numbers)))?;
        let target = Quantised::new(self.gpu, scheme, sizes.0, sizes.1)?;
        target.scales.fill_u32(stream, 0)?;
        let largest = self.upload(&[0u32])?;
        self.tools.quantiser.largest(stream, &source, sizes, &largest)?;
        let amax = matches!(scheme, Scheme::Tensor | Scheme::Nvfp4).then_some(&largest);
        let truncate = self.fault == Some(Fault::Truncated);
        let extra = Extra { amax, truncate, ..Extra::default() };
        self.tools.quantiser.run(stream, scheme, &source, sizes, &target, extra)?;
        let largest: Vec<f32> = largest.read_vec(stream, 1)?;
        Ok((target, largest[0]))
    }

    /// NVFP4 as halves, code times the scale of its block, which a half holds exactly: two bits of one and four of
    /// the other, 2^-10 to 2688. What is left is one scale for all.
    fn four_bits(
        &self,
        numbers: &[f32],
        (outputs, inputs): (u32, u32),
    ) -> Result<(Buffer, Option<Buffer>)> {
        let (quantised, largest) =
            self.quantised(Scheme::Nvfp4, numbers, (outputs.into(), inputs))?;
        let (codes, scales) = (self.download(&quantised.codes)?, self.download(&quantised.scales)?);
        let swapped = self.fault == Some(Fault::NibblesSwapped);
        // By code, then by scale.
        let product = |at: u32| Format::E2m1.decode(at / 256) * Format::E4m3.decode(at % 256);
        let table: Vec<u16> =
            (0..16 * 256).map(|at| f16::from_f64(product(at)).to_bits()).collect();
        let columns = inputs as usize;
        let number = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            let high = (column % 2 == 1) != swapped;
            let code = if high { codes[at / 2] >> 4 } else { codes[at / 2] & 0xF };
            let scale = scales[place_of_scale(row, column / 16, columns / 16)];
            table[usize::from(code) * 256 + usize::from(scale)]
        };
        let halves: Vec<u16> = (0..numbers.len()).map(number).collect();
        let whole = vec![1.0 / whole_scale(largest); outputs as usize];
        Ok((self.upload(&halves)?, Some(self.upload(&whole)?)))
    }

    fn download(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        buffer.read_vec(self.gpu.stream(), buffer.len_bytes() as usize)
    }

    fn reverse(&self, scales: &Buffer) -> Result<()> {
        let stream = self.gpu.stream();
        let mut values: Vec<f32> = scales.read_vec(stream, (scales.len_bytes() / 4) as usize)?;
        values.reverse();
        scales.write(stream, 0, &values)
    }
}

fn halves(numbers: &[f32]) -> Vec<f16> {
    numbers.iter().map(|&x| f16::from_f32(x)).collect()
}

fn bits(halves: &[f16]) -> Vec<u16> {
    halves.iter().map(|half| half.to_bits()).collect()
}

/// What a model says of one document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Document {
    /// Tokens that were foretold.
    pub tokens: u64,
    /// Mean cross-entropy, nats a token.
    pub loss: f64,
    /// Mean divergence from the reference's distribution, nats a token; 0 without a reference.
    pub divergence: f64,
    /// Share of tokens for which both put the same one first; 0 without a reference.
    pub agreement: f64,
}

/// Sums up a document's rows.
///
/// Errors: [`Error::Shape`] for a document without a target, or a loss that is no number, with its token.
pub fn summed(what: &str, scores: &[Option<Scored>]) -> Result<Document> {
    let counted: Vec<(usize, Scored)> =
        scores.iter().enumerate().filter_map(|(at, score)| Some((at, (*score)?))).collect();
    let number = |scored: &Scored| scored.loss.is_finite() && scored.divergence.is_finite();
    if let Some((at, scored)) = counted.iter().find(|(_, scored)| !number(scored)) {
        let (loss, apart) = (scored.loss, scored.divergence);
        let what =
            format!("{what}: token {at} has a cross-entropy of {loss}, a divergence of {apart}");
        return Err(Error::Shape { what });
    }
    if counted.is_empty() {
        return Err(Error::Shape { what: format!("{what}: nothing was foretold") });
    }
    let count = counted.len() as f64;
    let mean =
        |of: fn(&Scored) -> f64| counted.iter().map(|(_, scored)| of(scored)).sum::<f64>() / count;
    Ok(Document {
        tokens: counted.len() as u64,
        loss: mean(|scored| scored.loss),
        // Of equal distributions rounding may leave less than nothing.
        divergence: mean(|scored| scored.divergence).max(0.0),
        agreement: mean(|scored| f64::from(u8::from(scored.agrees))),
    })
}

/// What each of several models says of every document of a text: by model, then by document. The first is the
/// reference of the others. `ahead` as in [`targets`].
pub fn evaluate(models: &[&Model<'_>], text: &Text, ahead: usize) -> Result<Vec<Vec<Document>>> {
    let mut found = vec![Vec::new(); models.len()];
    for (number, document) in text.documents().enumerate() {
        let wanted = targets(document, ahead);
        let mut reference = None;
        for (model, found) in models.iter().zip(&mut found) {
            let logits = model.logits(document)?;
            let vocab = model.sizes.vocab;
            let scores = model.tools.kernels.score(model.gpu, logits, reference, &wanted, vocab)?;
            found.push(summed(
                &format!("document {number} in {}", model.precision.name()),
                &scores,
            )?);
            if reference.is_none() && logits.element == Element::F32 {
                reference = Some(logits.buffer);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_the_mean_of_its_tokens() {
        let one = |loss, agrees| Some(Scored { loss, divergence: loss / 4.0, agrees });
        let found = summed("x", &[one(1.0, true), None, one(3.0, false)]).expect("summed");
        assert_eq!(found, Document { tokens: 2, loss: 2.0, divergence: 0.5, agreement: 0.5 });
        let error = summed("document 3", &[None, one(f64::NAN, true)]).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "document 3: token 1 has a cross-entropy of NaN, a divergence of NaN"
        );
        assert!(summed("x", &[None]).is_err());
    }
}
