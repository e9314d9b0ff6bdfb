//! A language model judged by what it foretells: the cross-entropy of every token of a text, in several precisions.
//!
//! - [`checkpoint`]: trained weights from a safetensors file. [`model`]: them on a GPU, in a [`Precision`].
//! - [`text`]: tokens in documents and windows. [`reference`]: the model, and what logits are worth, in f64.
//!
//! The architecture is that of [`crate::model`], with gains and biases of each norm's own and logits of every token.
//! What is stored between products (activations, residual stream) has the precision's storage type; each product's
//! result is rounded to it, then added to the residual stream with one further rounding.

pub mod checkpoint;
pub mod model;
pub mod reference;
pub mod text;

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::Element;
use crate::memory::inside;
use crate::model::{EPSILON, HEAD_SIZE};
use crate::{Error, KernelSource, Result};

/// What f32 and bfloat16 need between products, a product and an attention in f32, and the score of logits.
pub const SOURCE: KernelSource = KernelSource {
    name: "language",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("language.cu")
    ),
    entries: &[
        "language_embed",
        "language_norm",
        "language_gelu",
        "language_add",
        "language_finish",
        "language_product",
        "language_attention",
        "language_score",
    ],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Most tokens of a window: the attention keeps a weight for each in 32 KiB of shared memory.
pub const MOST_TOKENS: u32 = 8192;

/// The target of a row that has none.
pub const NO_TARGET: u32 = u32::MAX;

/// In what a model is kept and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    /// f32 everywhere, products and attention in plain f32: the reference.
    F32,
    /// fp16 everywhere, f32 sums.
    F16,
    /// bfloat16 everywhere, f32 sums.
    Bf16,
    /// As [`Precision::F16`], linears in E4M3 with one scale a matrix, weights and activations.
    E4m3Tensor,
    /// The same with a scale for each output and each token, as [`crate::model::Precision::E4m3`].
    E4m3Row,
    /// The same with a scale for 128 x 128 of the weights and for 128 of a token.
    E4m3Block,
    /// As [`Precision::F16`], weights in E4M3 with a scale for each output, activations fp16. Codes are multiplied as
    /// halves, which hold them exactly, with f32 results; the scales come behind the sum. An emulation.
    Weights8,
    /// As [`Precision::Weights8`], weights in NVFP4: code times the scale of its block is exact in a half, the
    /// scale of the matrix comes behind the sum. An emulation.
    Weights4,
}

impl Precision {
    /// Every precision, the reference first.
    pub const ALL: [Precision; 8] = [
        Precision::F32,
        Precision::F16,
        Precision::Bf16,
        Precision::E4m3Tensor,
        Precision::E4m3Row,
        Precision::E4m3Block,
        Precision::Weights8,
        Precision::Weights4,
    ];

    /// As evidence and options name it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "fp32",
            Precision::F16 => "fp16",
            Precision::Bf16 => "bf16",
            Precision::E4m3Tensor => "fp8-tensor",
            Precision::E4m3Row => "fp8-row",
            Precision::E4m3Block => "fp8-block",
            Precision::Weights8 => "w8a16",
            Precision::Weights4 => "nvfp4-weights",
        }
    }

    /// The precision of a name.
    ///
    /// Errors: [`Error::Shape`] with all names.
    pub fn named(name: &str) -> Result<Precision> {
        Precision::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
            let names = Precision::ALL.map(Precision::name).join(", ");
            Error::Shape { what: format!("precision {name} is none of {names}") }
        })
    }

    /// Type of what is stored between products.
    pub fn storage(self) -> Element {
        match self {
            Precision::F32 => Element::F32,
            Precision::Bf16 => Element::Bf16,
            _ => Element::F16,
        }
    }

    /// How its products are computed, as evidence says it.
    pub fn arithmetic(self) -> &'static str {
        match self {
            Precision::F32 => "own f32 product and attention",
            Precision::F16 => "cublaslt fp16, own attention",
            Precision::Bf16 => "cublaslt bf16, own attention",
            Precision::E4m3Tensor => "cublaslt e4m3, one scale a matrix, fp16 results",
            Precision::E4m3Row => "cublaslt e4m3, scales of rows, fp16 results",
            Precision::E4m3Block => "cublaslt e4m3, scales of blocks, bf16 results rounded to fp16",
            Precision::Weights8 => {
                "emulated: cublaslt fp16 over codes, f32 results times scales of outputs"
            }
            Precision::Weights4 => {
                "emulated: cublaslt fp16 over codes times block scales, f32 results times one scale"
            }
        }
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct LanguageParams {
    out: u64,
    input: u64,
    second: u64,
    third: u64,
    rows: u64,
    columns: u32,
    inner: u32,
    tokens: u32,
    heads: u32,
    out_type: u32,
    in_type: u32,
    factor: f32,
    reserved: u32,
}
const _: () = assert!(size_of::<LanguageParams>() == 72);
// SAFETY: repr(C) without padding, equal to the struct in language.cu.
unsafe impl KernelParams for LanguageParams {}

/// What a row of logits says of its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Cross-entropy in nats.
    pub loss: f64,
    /// Divergence from the reference's distribution, in nats; 0 without a reference.
    pub divergence: f64,
    /// Largest logit at the same place as the reference's; false without a reference.
    pub agrees: bool,
}

/// Bytes of a [`Scored`] on the GPU.
const SCORED_BYTES: u64 = 24;

/// Numbers of one element type, `[rows][columns]` without gaps, in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// F16, Bf16 or F32.
    pub element: Element,
}

impl<'a> Rows<'a> {
    /// All of a buffer from its start.
    pub fn new(buffer: &'a Buffer, element: Element) -> Rows<'a> {
        Rows { buffer, element }
    }

    fn check(&self, what: &str, rows: u64, columns: u64) -> Result<()> {
        if !matches!(self.element, Element::F16 | Element::Bf16 | Element::F32) {
            return Err(Error::Shape { what: format!("{what} of {:?}", self.element) });
        }
        let bytes = rows.saturating_mul(columns).saturating_mul(self.element.bytes());
        inside(what, 0, bytes, self.buffer.len_bytes())
    }
}

/// The entries of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Kernels {
    embed: Function,
    norm: Function,
    gelu: Function,
    add: Function,
    finish: Function,
    product: Function,
    attention: Function,
    score: Function,
    blocks: u32,
}

impl Kernels {
    /// Finds the entries.
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Kernels> {
        Ok(Kernels {
            embed: module.entry("language_embed")?,
            norm: module.entry("language_norm")?,
            gelu: module.entry("language_gelu")?,
            add: module.entry("language_add")?,
            finish: module.entry("language_finish")?,
            product: module.entry("language_product")?,
            attention: module.entry("language_attention")?,
            score: module.entry("language_score")?,
            blocks: gpu.sm_count * 8,
        })
    }

    fn everywhere(&self) -> Grid {
        Grid::linear(self.blocks, 256)
    }

    /// Enqueues `out[r] = table[tokens[r]]`. Every token must be a row of the table: the caller's word.
    pub fn embed(
        &self,
        stream: &CudaStream,
        out: Rows<'_>,
        table: Rows<'_>,
        tokens: &Buffer,
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        out.check("embedded", rows.into(), columns.into())?;
        table.check("table", 1, columns.into())?;
        inside("tokens", 0, 4 * u64::from(rows), tokens.len_bytes())?;
        self.embed.same_context([out.buffer, table.buffer, tokens])?;
        let params =
            LanguageParams { second: tokens.ptr(), ..params_of(out, table, (rows, columns)) };
        // SAFETY: outputs and tokens lie inside their buffers; tokens are below the table's rows.
        unsafe { self.embed.launch(stream, Grid::linear(rows, 256), &params) }
    }

    /// Enqueues the layer norm of each row; gain and bias have the type of the input.
    pub fn norm(
        &self,
        stream: &CudaStream,
        out: Rows<'_>,
        input: Rows<'_>,
        (gain, bias): (&Buffer, &Buffer),
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        out.check("normed", rows.into(), columns.into())?;
        input.check("rows to norm", rows.into(), columns.into())?;
        for (what, buffer) in [("gain", gain), ("bias", bias)] {
            Rows { buffer, ..input }.check(what, 1, columns.into())?;
        }
        self.norm.same_context([out.buffer, input.buffer, gain, bias])?;
        let params = LanguageParams {
            second: gain.ptr(),
            third: bias.ptr(),
            factor: EPSILON,
            ..params_of(out, input, (rows, columns))
        };
        // SAFETY: both matrices, gain and bias lie inside their buffers.
        unsafe { self.norm.launch(stream, Grid::linear(rows, 256), &params) }
    }

    /// Enqueues the GELU in place.
    pub fn gelu(&self, stream: &CudaStream, rows: Rows<'_>, sizes: (u32, u32)) -> Result<()> {
        rows.check("activations", sizes.0.into(), sizes.1.into())?;
        self.gelu.same_context([rows.buffer])?;
        // SAFETY: the rows lie inside their buffer.
        unsafe { self.gelu.launch(stream, self.everywhere(), &params_of(rows, rows, sizes)) }
    }

    /// Enqueues `out += input`, with one rounding.
    pub fn add(
        &self,
        stream: &CudaStream,
        out: Rows<'_>,
        input: Rows<'_>,
        sizes: (u32, u32),
    ) -> Result<()> {
        out.check("sum", sizes.0.into(), sizes.1.into())?;
        input.check("summand", sizes.0.into(), sizes.1.into())?;
        self.add.same_context([out.buffer, input.buffer])?;
        // SAFETY: both matrices lie inside their buffers.
        unsafe { self.add.launch(stream, self.everywhere(), &params_of(out, input, sizes)) }
    }

    /// Enqueues the rounding of what a product left to another type, behind an f32 scale for each column.
    pub fn finish(
        &self,
        stream: &CudaStream,
        out: Rows<'_>,
        input: Rows<'_>,
        scales: Option<&Buffer>,
        sizes: (u32, u32),
    ) -> Result<()> {
        out.check("finished", sizes.0.into(), sizes.1.into())?;
        input.check("product", sizes.0.into(), sizes.1.into())?;
        if let Some(scales) = scales {
            inside("scales", 0, 4 * u64::from(sizes.1), scales.len_bytes())?;
        }
        self.finish.same_context([out.buffer, input.buffer].into_iter().chain(scales))?;
        let params = LanguageParams {
            second: scales.map_or(0, Buffer::ptr),
            ..params_of(out, input, sizes)
        };
        // SAFETY: both matrices and the scales lie inside their buffers.
        unsafe { self.finish.launch(stream, self.everywhere(), &params) }
    }

    /// Enqueues `out[m, n] = a[m, k] b[n, k]^T` of f32, in f32.
    pub fn product(
        &self,
        stream: &CudaStream,
        (out, a, b): (&Buffer, &Buffer, &Buffer),
        (m, n, k): (u32, u32, u32),
    ) -> Result<()> {
        let f32 = |buffer| Rows::new(buffer, Element::F32);
        f32(out).check("product", m.into(), n.into())?;
        f32(a).check("rows", m.into(), k.into())?;
        f32(b).check("weight", n.into(), k.into())?;
        self.product.same_context([out, a, b])?;
        let params =
            LanguageParams { second: b.ptr(), inner: k, ..params_of(f32(out), f32(a), (m, n)) };
        let blocks = (m.div_ceil(64), n.div_ceil(64));
        let grid = Grid { blocks, ..Grid::linear(1, 256) };
        // SAFETY: the three matrices lie inside their buffers.
        unsafe { self.product.launch(stream, grid, &params) }
    }

    /// Enqueues causal attention of f32 within windows of `tokens` rows: from `[rows][3][heads][128]` to
    /// `[rows][heads][128]`.
    pub fn attention(
        &self,
        stream: &CudaStream,
        (out, qkv): (&Buffer, &Buffer),
        (rows, tokens, heads): (u32, u32, u32),
    ) -> Result<()> {
        let width = u64::from(heads) * u64::from(HEAD_SIZE);
        Rows::new(qkv, Element::F32).check("queries, keys, values", rows.into(), 3 * width)?;
        Rows::new(out, Element::F32).check("attended", rows.into(), width)?;
        let whole = tokens > 0 && tokens <= MOST_TOKENS && rows.is_multiple_of(tokens);
        let blocks = rows.checked_mul(heads).filter(|_| whole);
        let Some(blocks) = blocks else {
            let what = format!("attention of {rows} rows in windows of {tokens}, {heads} heads");
            return Err(Error::Shape { what });
        };
        self.attention.same_context([out, qkv])?;
        let params = LanguageParams {
            out: out.ptr(),
            input: qkv.ptr(),
            rows: rows.into(),
            tokens,
            heads,
            factor: f32::sqrt(HEAD_SIZE as f32).recip(),
            ..LanguageParams::default()
        };
        let grid = Grid { shared_bytes: 4 * tokens, ..Grid::linear(blocks, 128) };
        // SAFETY: inputs and outputs lie inside their buffers.
        unsafe { self.attention.launch(stream, grid, &params) }
    }

    /// Scores each row of logits and waits for the answer, `None` where a row has no target. `reference` are f32
    /// logits of the same rows.
    ///
    /// Errors: [`Error::Shape`] for a target outside of the vocabulary or buffers that are too small.
    pub fn score(
        &self,
        gpu: &Gpu,
        logits: Rows<'_>,
        reference: Option<&Buffer>,
        targets: &[u32],
        vocab: u32,
    ) -> Result<Vec<Option<Scored>>> {
        let rows = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        logits.check("logits", rows.into(), vocab.into())?;
        if let Some(reference) = reference {
            Rows::new(reference, Element::F32).check("reference", rows.into(), vocab.into())?;
        }
        if let Some(at) = targets.iter().position(|&t| t >= vocab && t != NO_TARGET) {
            let what = format!("target {} at row {at}, of a vocabulary of {vocab}", targets[at]);
            return Err(Error::Shape { what });
        }
        let stream = gpu.stream();
        let (words, out) =
            (gpu.alloc(4 * u64::from(rows))?, gpu.alloc(SCORED_BYTES * u64::from(rows))?);
        words.write(stream, 0, targets)?;
        out.poison(stream)?;
        let used = [logits.buffer, &words, &out];
        self.score.same_context(used.into_iter().chain(reference))?;
        let params = LanguageParams {
            second: words.ptr(),
            third: reference.map_or(0, Buffer::ptr),
            ..params_of(Rows::new(&out, Element::F32), logits, (rows, vocab))
        };
        // SAFETY: logits, references and targets lie inside their buffers, and `out` holds a Scored for each row.
        unsafe { self.score.launch(stream, Grid::linear(rows, 256), &params)? };
        let found: Vec<u64> = out.read_vec(stream, targets.len() * 3)?;
        Ok(found.chunks_exact(3).map(scored).collect())
    }
}

/// A Scored as it lies in memory.
fn scored(words: &[u64]) -> Option<Scored> {
    let scored = Scored {
        loss: f64::from_bits(words[0]),
        divergence: f64::from_bits(words[1]),
        agrees: words[2] as u32 == 1,
    };
    (words[2] >> 32 != 0).then_some(scored)
}

fn params_of(out: Rows<'_>, input: Rows<'_>, (rows, columns): (u32, u32)) -> LanguageParams {
    LanguageParams {
        out: out.buffer.ptr(),
        input: input.buffer.ptr(),
        rows: rows.into(),
        columns,
        out_type: out.element.code(),
        in_type: input.element.code(),
        ..LanguageParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for precision in Precision::ALL {
            assert_eq!(Precision::named(precision.name()).expect("found"), precision);
        }
        let error = Precision::named("fp8").expect_err("refused").to_string();
        assert!(error.contains("fp8 is none of fp32, fp16, bf16, fp8-tensor"), "{error}");
    }

    #[test]
    fn a_row_without_a_target_is_no_score() {
        assert_eq!(scored(&[0, 0, 0]), None);
        let found = scored(&[2f64.to_bits(), 0.5f64.to_bits(), 1 << 32 | 1]);
        assert_eq!(found, Some(Scored { loss: 2.0, divergence: 0.5, agrees: true }));
    }
}
