//! The transformer of the documents, over any number of GPUs: pre-norm blocks of attention and MLP,
//! layer norm with gain and bias, linears without bias, fused QKV, GELU by erf, no position embedding,
//! causal attention, an untied head on the last token. The default sizes are those of seed 002.
//!
//! **Tensor parallel without drift.** Every weight is split by output columns alone ("column-only"):
//! rank r of t makes columns r/t to (r+1)/t of each product's result, from whole rows of its input. No
//! sum is ever cut, so a result has the same bits for every t. What it costs is communication: a token's
//! attention outputs, MLP activations and two slices of the residual stream are gathered in each layer,
//! 7 d elements a token in place of the 4 d of a row-parallel split with its two all-reduces. The gathers
//! are copies by the copy engines, which run beside the products of another chunk of tokens.
//!
//! - [`weights`]: one rank's share, made on the GPU by a counter-based generator.
//! - [`rank`]: the stages of a layer on one GPU. [`group`]: the ranks and what they exchange.
//! - [`logits`]: those of every token. [`decode`]: one token after another, [`decode_shared`]: over several GPUs; [`cache`]: what of its cache is in E4M3. [`probe`]: what a pass made of chosen rows. [`drift`]: what differs between two results. [`reference`]: the whole model in f64.

pub mod cache;
mod codes;
pub mod decode;
pub mod decode_shared;
pub mod drift;
mod exchange;
pub mod fault;
pub mod group;
pub mod logits;
pub mod probe;
mod product;
pub mod rank;
pub mod reference;
mod step;
pub mod weights;

use crate::attention;
use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::element::Element;
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// What lies between the products.
pub const SOURCE: KernelSource = KernelSource {
    name: "model",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("../dependent.cuh"),
        include_str!("gelu.cuh"),
        include_str!("model.cu")
    ),
    entries: ENTRIES,
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// The same over bfloat16: `model.cu` as it is, in which F16 is then the name of that element, and a GELU of its own.
/// So the source of fp16 keeps its digest, and what was recorded with it stays valid.
pub const SOURCE_BF16: KernelSource = KernelSource {
    name: "model-bf16",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("../dependent.cuh"),
        include_str!("gelu_bf16.cuh"),
        "#define F16 BF16\n",
        include_str!("model.cu")
    ),
    ..SOURCE
};

const ENTRIES: &[&str] =
    &["model_weights", "model_embed", "model_norm", "model_gelu", "model_add", "model_compare"];

/// Elements of a head.
pub const HEAD_SIZE: u32 = 128;

/// Epsilon of the layer norm, as PyTorch has it.
pub const EPSILON: f32 = 1e-5;

/// Most columns of a row that the norm takes.
const MOST_COLUMNS: u32 = 8192;

/// In what the linears multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// fp16 weights and activations.
    F16,
    /// bf16 weights and activations, the residual stream, attention and what is exchanged as well. The weights are
    /// the numbers of which fp16 has halves, rounded to bf16.
    Bf16,
    /// E4M3 weights with a scale for each output, E4M3 activations with a scale for each token, precise
    /// accumulation, fp16 results. Attention, the residual stream and what is exchanged stay fp16, so that a
    /// token's scale is that of its whole row, whoever made its parts.
    E4m3,
    /// The same with the tensor cores' fast accumulation, which keeps 13 bits of a running sum.
    E4m3Fast,
    /// The same by the own kernel of [`crate::promoted`], which lets the tensor cores add 256 columns before the sum
    /// goes to f32 where precise accumulation of cuBLASLt lets them add 128; but for the head. Compute capability 9.0.
    E4m3Promoted,
    /// Weights alone (W8A16): E4M3 with a scale for each output, activations fp16. In a pass each weight becomes halves
    /// in front of its product, in one buffer that the next one overwrites ([`crate::dequantise_rows`]), and the product
    /// is that of fp16; token by token the codes themselves are multiplied ([`crate::weightonly`]), which rounds a
    /// weight once less.
    WeightsE4m3,
}

impl Precision {
    /// Whether products read E4M3, weights and activations.
    pub fn is_fp8(self) -> bool {
        matches!(self, Precision::E4m3 | Precision::E4m3Fast | Precision::E4m3Promoted)
    }

    /// Whether the linears' weights are kept in E4M3.
    pub fn keeps_e4m3(self) -> bool {
        self.is_fp8() || self == Precision::WeightsE4m3
    }

    /// Of activations, embedding, gains and biases: of all that is not E4M3.
    pub fn element(self) -> Element {
        match self {
            Precision::Bf16 => Element::Bf16,
            Precision::F16
            | Precision::E4m3
            | Precision::E4m3Fast
            | Precision::E4m3Promoted
            | Precision::WeightsE4m3 => Element::F16,
        }
    }
}

/// Sizes of a model, and its precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Blocks of attention and MLP.
    pub layers: u32,
    /// Elements of a token; [`HEAD_SIZE`] times the heads.
    pub d_model: u32,
    /// Elements of a token inside the MLP.
    pub d_ff: u32,
    /// Rows of embedding and head.
    pub vocab: u32,
    /// Of all weights.
    pub seed: u64,
    /// Of its linears.
    pub precision: Precision,
    /// Queries, keys and values become E4M3 behind the product that makes them, with a scale for each head of a
    /// sequence, and attention multiplies those ([`attention::quantise`]); its outputs stay fp16. Of one sequence in
    /// several chunks keys and values are kept in E4M3 alone, with a scale of 1. Of GPUs with the kernel.
    pub attention_e4m3: bool,
}

impl Config {
    /// The model of seed 002: 48 layers, 39.5 billion parameters.
    pub const SEED_002: Config = Config {
        layers: 48,
        d_model: 8192,
        d_ff: 32768,
        vocab: 50304,
        seed: 2,
        precision: Precision::F16,
        attention_e4m3: false,
    };

    /// Heads.
    pub fn heads(&self) -> u32 {
        self.d_model / HEAD_SIZE
    }

    /// Parameters of the linears of all layers: 4 d^2 + 2 d d_ff each.
    pub fn linear_parameters(&self) -> u64 {
        let (d, ff) = (u64::from(self.d_model), u64::from(self.d_ff));
        u64::from(self.layers) * (4 * d * d + 2 * d * ff)
    }

    /// The four products of a layer on one GPU: columns of the result, length of a sum.
    pub fn products(&self) -> [(u32, u32); 4] {
        let (d, ff) = (self.d_model, self.d_ff);
        [(3 * d, d), (d, d), (ff, d), (d, ff)]
    }

    /// Multiplications and additions of a forward pass with logits of each sequence's last token; of
    /// attention those of the pairs that the causal mask leaves.
    pub fn flops(&self, problem: &Problem) -> f64 {
        let tokens = f64::from(problem.rows());
        let sequence = f64::from(problem.tokens);
        let pairs = f64::from(problem.batches) * sequence * (sequence + 1.0) / 2.0;
        let attention = attention::flops(pairs, self.heads(), HEAD_SIZE);
        let head = f64::from(problem.batches) * f64::from(self.vocab) * f64::from(self.d_model);
        2.0 * (tokens * self.linear_parameters() as f64 + head) + f64::from(self.layers) * attention
    }

    /// Bytes of weights on each of `degree` GPUs that share by outputs: linears and head split, embedding,
    /// gain and bias whole. bf16 takes what fp16 takes; E4M3, weights alone or not, takes a byte an element and 4 bytes an output for its scale.
    pub fn weight_bytes(&self, degree: u32) -> u64 {
        let (d, ff, vocab) = (u64::from(self.d_model), u64::from(self.d_ff), u64::from(self.vocab));
        let head = vocab * d;
        let outputs = u64::from(self.layers) * (3 * d + d + ff + d) + vocab;
        let split = match self.precision {
            Precision::F16 | Precision::Bf16 => 2 * (self.linear_parameters() + head),
            Precision::E4m3
            | Precision::E4m3Fast
            | Precision::E4m3Promoted
            | Precision::WeightsE4m3 => self.linear_parameters() + head + 4 * outputs,
        };
        split / u64::from(degree) + 2 * (head + 2 * d)
    }

    /// Bytes of the largest linear in halves, the head among them, on each of `degree` GPUs, where weights alone are
    /// E4M3; else none.
    pub(crate) fn widened_bytes(&self, degree: u32) -> u64 {
        let (d, ff, vocab) = (u64::from(self.d_model), u64::from(self.d_ff), u64::from(self.vocab));
        match self.precision {
            Precision::WeightsE4m3 => 2 * d * (3 * d).max(ff).max(vocab) / u64::from(degree),
            _ => 0,
        }
    }

    /// Bytes of activations on each of `degree` GPUs that share by outputs, c being the tokens of a chunk:
    ///
    /// - one GPU: residual stream 2 d rows, attention's outputs (before them the normed rows) 2 d c, queries,
    ///   keys and values (behind them the chunk inside the MLP) the larger of 6 d rows and 2 d_ff c;
    /// - several: residual stream 2 d rows, queries, keys and values 6 d rows / t, attention's outputs and inside the MLP
    ///   2 d + 2 d_ff of each token of two chunks, and a chunk's normed rows;
    /// - E4M3: a chunk's codes, of the longer of the two rows, and 4 bytes a token for their scales; only the
    ///   last tokens' normed rows;
    /// - weights alone in E4M3: the largest linear in halves;
    /// - attention in E4M3: a chunk's queries, keys and values, the latter padded to whole tiles, and 8 bytes for each
    ///   head of each; of one sequence in several chunks keys and values of all tokens, and in fp16 6 d c / t in place of
    ///   6 d rows / t;
    /// - 4 bytes a token for its number, logits, and 32 bytes a layer for what is compared.
    pub fn activation_bytes(&self, problem: &Problem, degree: u32) -> u64 {
        let (d, ff) = (u64::from(self.d_model), u64::from(self.d_ff));
        let (rows, batches) = (u64::from(problem.rows()), u64::from(problem.batches));
        let chunk = u64::from(problem.chunk_rows());
        let most = chunk.max(batches);
        let eight = self.precision.is_fp8();
        let normed = 2 * d * if eight { batches } else { most };
        let kept = if self.keeps_codes(problem) { chunk } else { rows };
        let qkv = 6 * d * kept / u64::from(degree);
        let shared = match degree {
            1 => (2 * d * chunk).max(normed) + qkv.max(2 * ff * chunk),
            _ => {
                let held = chunk * u64::from(problem.held_chunks());
                2 * d * held + normed + qkv + 2 * ff * held
            }
        };
        let codes = if eight { most * (ff.max(d) + 4) } else { 0 };
        let codes =
            codes + if self.attention_e4m3 { self.attention_bytes(problem, degree) } else { 0 };
        let logits = 2 * batches * u64::from(self.vocab / degree);
        let compared = drift::BYTES * (u64::from(self.layers) + 1);
        let widened = self.widened_bytes(degree);
        2 * d * rows + shared + codes + widened + logits + 4 * rows + compared
    }

    /// Refuses sizes that so many ranks cannot share, and attention in E4M3 of a model in bf16.
    pub fn check(&self, degree: u32) -> Result<()> {
        let Config { layers, d_model, d_ff, vocab, .. } = *self;
        let columns = d_model > 0 && d_model.is_multiple_of(HEAD_SIZE) && d_model <= MOST_COLUMNS;
        let wrong = if layers == 0 {
            "no layers".to_owned()
        } else if !columns {
            format!("rows of {d_model}: a multiple of {HEAD_SIZE}, {MOST_COLUMNS} at most")
        } else if degree == 0 {
            "no gpu".to_owned()
        } else if !self.heads().is_multiple_of(degree) {
            format!("{} heads: every gpu has as many", self.heads())
        } else if d_ff == 0 || !d_ff.is_multiple_of(128 * degree) {
            format!("rows of {d_ff} inside the mlp: a multiple of 128 for every gpu")
        } else if vocab == 0 || !vocab.is_multiple_of(8 * degree) {
            format!("a vocabulary of {vocab}: a multiple of 8 for every gpu")
        } else if self.attention_e4m3 && self.precision == Precision::Bf16 {
            "attention in E4M3 is of no model in bf16".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Shape { what: format!("a model over {degree} gpus: {wrong}") })
    }
}

/// Refuses bytes by the formula that do not leave `beside` of what is free, before anything is made.
///
/// Errors: [`Error::DoesNotFit`].
pub fn room(needed: u64, beside: u64, free: u64) -> Result<()> {
    match needed.checked_add(beside) {
        Some(bytes) if bytes <= free => Ok(()),
        _ => Err(Error::DoesNotFit { needed, beside, free }),
    }
}

/// What one forward pass is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Sequences.
    pub batches: u32,
    /// Tokens of each.
    pub tokens: u32,
    /// Parts of the tokens that take turns, so that one part's exchange runs beside another's products:
    /// a divisor of the sequences, or, of a single sequence, of its tokens.
    pub chunks: u32,
}

impl Problem {
    /// Tokens of all sequences.
    pub fn rows(&self) -> u32 {
        self.batches * self.tokens
    }

    /// Chunks whose attention outputs and rows inside the MLP ranks that share hold at once: one is sent while the other is
    /// made.
    pub fn held_chunks(&self) -> u32 {
        self.chunks.min(2)
    }

    /// Tokens of a chunk.
    pub fn chunk_rows(&self) -> u32 {
        self.rows() / self.chunks.max(1)
    }

    /// Refuses a pass without tokens, of more than an i32 can number, or whose chunks are not whole.
    pub fn check(&self) -> Result<()> {
        let Problem { batches, tokens, chunks } = *self;
        let rows = batches.checked_mul(tokens).filter(|rows| *rows <= 1 << 30);
        let whole = chunks > 0
            && (batches.is_multiple_of(chunks) || batches == 1 && tokens.is_multiple_of(chunks));
        let wrong = match rows {
            Some(0) => "no tokens",
            None => "more than 2^30 tokens",
            Some(_) if !whole => "chunks are whole sequences, or equal parts of the only one",
            Some(_) => return Ok(()),
        };
        let what = format!("{batches} sequences of {tokens} tokens in {chunks} chunks: {wrong}");
        Err(Error::Shape { what })
    }
}

/// One rank of a degree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// 0 to `degree` - 1.
    pub rank: u32,
    /// Ranks that share the model.
    pub degree: u32,
}

impl Share {
    /// First of this rank's columns of `all`, and their number.
    pub fn columns(&self, all: u32) -> (u32, u32) {
        let each = all / self.degree;
        (self.rank * each, each)
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct ModelParams {
    out: u64,
    input: u64,
    second: u64,
    third: u64,
    rows: u64,
    columns: u64,
    out_row: u64,
    in_row: u64,
    first: u64,
    seed: u64,
    factor: f32,
    reserved: u32,
}
const _: () = assert!(size_of::<ModelParams>() == 88);
// SAFETY: repr(C) without padding, equal to the struct in model.cu.
unsafe impl KernelParams for ModelParams {}

/// Rows of halves, or of bf16, in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// Element at which the first row begins.
    pub first: u64,
    /// Elements from one row to the next.
    pub row: u64,
}

impl<'a> Matrix<'a> {
    /// Rows without gaps from the start of the buffer.
    pub fn packed(buffer: &'a Buffer, columns: u32) -> Matrix<'a> {
        Matrix { buffer, first: 0, row: columns.into() }
    }

    /// Address of the first element.
    pub(crate) fn address(&self) -> u64 {
        self.buffer.ptr() + 2 * self.first
    }

    fn check(&self, what: &str, rows: u64, columns: u64) -> Result<()> {
        let steps = [self.first, self.row, columns];
        if rows == 0 || columns == 0 || steps.iter().any(|step| !step.is_multiple_of(8)) {
            let what =
                format!("{what}: {rows} rows of {columns} at {} by {}", self.first, self.row);
            return Err(Error::Shape { what });
        }
        let last = self.row.saturating_mul(rows - 1).saturating_add(columns);
        inside(what, 2 * self.first, last.saturating_mul(2), self.buffer.len_bytes())
    }
}

/// Gain and bias of a layer norm.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// Gain, one half or bf16 for each column.
    pub gain: &'a Buffer,
    /// Bias, one half or bf16 for each column.
    pub bias: &'a Buffer,
}

/// The entries of [`SOURCE`] or of [`SOURCE_BF16`] on one GPU; halves below are elements of that one.
#[derive(Debug)]
pub struct Kernels {
    weights: Function,
    embed: Function,
    norm: Function,
    gelu: Function,
    add: Function,
    compare: Function,
    blocks: u32,
}

const THREADS: u32 = 256;

impl Kernels {
    /// Finds the entries.
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Kernels> {
        Ok(Kernels {
            weights: module.entry("model_weights")?,
            embed: module.entry("model_embed")?,
            norm: module.entry("model_norm")?,
            gelu: module.entry("model_gelu")?,
            add: module.entry("model_add")?,
            compare: module.entry("model_compare")?,
            blocks: gpu.sm_count * 8,
        })
    }

    fn everywhere(&self, rows: u64, columns: u64) -> Grid {
        let blocks = (rows * columns / 8).div_ceil(u64::from(THREADS));
        Grid::linear(u32::try_from(blocks).unwrap_or(u32::MAX).min(self.blocks).max(1), THREADS)
    }

    /// Enqueues rows of weights: element (r, c) is number `first + r * row_of_all + c` of the generator.
    pub fn weights(
        &self,
        stream: &CudaStream,
        out: Matrix<'_>,
        sizes: (u64, u64),
        place: (u64, u64),
        (seed, deviation): (u64, f32),
    ) -> Result<()> {
        let ((rows, columns), (first, row_of_all)) = (sizes, place);
        out.check("weights", rows, columns)?;
        let params = ModelParams {
            out: out.address(),
            rows,
            columns,
            out_row: out.row,
            in_row: row_of_all,
            first,
            seed,
            factor: weights::step(deviation),
            ..ModelParams::default()
        };
        // SAFETY: the rows lie inside the buffer.
        unsafe { self.weights.launch(stream, self.everywhere(rows, columns), &params) }
    }

    /// Enqueues `out[r] = table[tokens[r]]`. Every token must be a row of the table: the caller's word.
    pub(crate) fn embed(
        &self,
        stream: &CudaStream,
        out: Matrix<'_>,
        table: &Buffer,
        tokens: &Buffer,
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        out.check("embedded", rows.into(), columns.into())?;
        inside("tokens", 0, 4 * u64::from(rows), tokens.len_bytes())?;
        let params = ModelParams {
            out: out.address(),
            input: table.ptr(),
            second: tokens.ptr(),
            rows: rows.into(),
            columns: columns.into(),
            out_row: out.row,
            ..ModelParams::default()
        };
        // SAFETY: outputs and tokens lie inside their buffers; tokens are below the table's rows.
        unsafe { self.embed.launch(stream, Grid::linear(rows, THREADS), &params) }
    }

    /// Enqueues the layer norm of `rows` rows. `affine` has as many elements as a row.
    pub fn norm(
        &self,
        stream: &CudaStream,
        out: Matrix<'_>,
        input: Matrix<'_>,
        affine: Affine<'_>,
        sizes: (u32, u32),
    ) -> Result<()> {
        self.norm_on(Grid::linear(sizes.0, THREADS), stream, (out, input, affine), sizes)
    }

    /// The same, begun before the work in front of it has ended, where the GPU can; it waits for it.
    pub(crate) fn norm_early(
        &self,
        stream: &CudaStream,
        (out, input, affine): (Matrix<'_>, Matrix<'_>, Affine<'_>),
        sizes: (u32, u32),
    ) -> Result<()> {
        let grid = Grid { early: true, ..Grid::linear(sizes.0, THREADS) };
        self.norm_on(grid, stream, (out, input, affine), sizes)
    }

    fn norm_on(
        &self,
        grid: Grid,
        stream: &CudaStream,
        (out, input, affine): (Matrix<'_>, Matrix<'_>, Affine<'_>),
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        out.check("normed", rows.into(), columns.into())?;
        input.check("rows to norm", rows.into(), columns.into())?;
        if columns > MOST_COLUMNS {
            let what = format!("a norm of {columns} columns, of at most {MOST_COLUMNS}");
            return Err(Error::Shape { what });
        }
        for buffer in [affine.gain, affine.bias] {
            inside("gain or bias", 0, 2 * u64::from(columns), buffer.len_bytes())?;
        }
        let params = ModelParams {
            out: out.address(),
            input: input.buffer.ptr(),
            second: affine.gain.ptr(),
            third: affine.bias.ptr(),
            rows: rows.into(),
            columns: columns.into(),
            out_row: out.row,
            in_row: input.row,
            first: input.first,
            factor: EPSILON,
            ..ModelParams::default()
        };
        // SAFETY: both matrices, gain and bias lie inside their buffers.
        unsafe { self.norm.launch(stream, grid, &params) }
    }

    /// Enqueues the GELU in place.
    pub fn gelu(
        &self,
        stream: &CudaStream,
        matrix: Matrix<'_>,
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        let (rows, columns) = (rows.into(), columns.into());
        matrix.check("activations", rows, columns)?;
        let params = ModelParams {
            out: matrix.address(),
            rows,
            columns,
            out_row: matrix.row,
            ..ModelParams::default()
        };
        // SAFETY: the rows lie inside the buffer.
        unsafe { self.gelu.launch(stream, self.everywhere(rows, columns), &params) }
    }

    /// Enqueues `x += y` over packed rows, with one rounding.
    pub fn add(
        &self,
        stream: &CudaStream,
        x: Matrix<'_>,
        y: Matrix<'_>,
        (rows, columns): (u32, u32),
    ) -> Result<()> {
        let (rows, columns) = (rows.into(), columns.into());
        x.check("sum", rows, columns)?;
        y.check("summand", rows, columns)?;
        if x.row != columns || y.row != columns {
            return Err(Error::Shape { what: "a sum of rows that lie apart".into() });
        }
        let params = ModelParams {
            out: x.address(),
            input: y.address(),
            rows,
            columns,
            ..ModelParams::default()
        };
        // SAFETY: the rows lie inside their buffers.
        unsafe { self.add.launch(stream, self.everywhere(rows, columns), &params) }
    }

    /// Enqueues the comparison of two results into slot `slot` of `differences`; `b` may be another GPU's.
    pub(crate) fn compare(
        &self,
        stream: &CudaStream,
        (a, b): (Matrix<'_>, Matrix<'_>),
        (rows, columns): (u64, u64),
        (differences, slot): (&Buffer, u64),
    ) -> Result<()> {
        a.check("result", rows, columns)?;
        b.check("result to compare with", rows, columns)?;
        inside("differences", slot * drift::BYTES, drift::BYTES, differences.len_bytes())?;
        let params = ModelParams {
            input: a.address(),
            second: b.address(),
            third: differences.ptr() + slot * drift::BYTES,
            rows,
            columns,
            out_row: b.row,
            in_row: a.row,
            ..ModelParams::default()
        };
        // SAFETY: both results and the slot lie inside their buffers; peer access is on where `b` is
        // another GPU's, and its owner outlives the stream's work: the caller's word.
        unsafe { self.compare.launch(stream, self.everywhere(rows, columns), &params) }
    }
}

impl Kernels {
    /// Compares two results and waits for the answer.
    pub fn difference(
        &self,
        stream: &CudaStream,
        pair: (Matrix<'_>, Matrix<'_>),
        sizes: (u64, u64),
        gpu: &Gpu,
    ) -> Result<drift::Difference> {
        let differences = gpu.alloc(drift::BYTES)?;
        drift::reset(stream, &differences)?;
        self.compare(stream, pair, sizes, (&differences, 0))?;
        Ok(drift::read(stream, &differences)?[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_seed_002() {
        let config = Config::SEED_002;
        assert_eq!(config.linear_parameters(), 38_654_705_664);
        let problem = Problem { batches: 4, tokens: 2048, chunks: 2 };
        // 0.6401 PFLOP of linears and head of every token; the head of four tokens alone is less.
        let linear = 2.0 * 8192.0 * 38_654_705_664.0 + 2.0 * 4.0 * 50304.0 * 8192.0;
        let attention = 48.0 * 4.0 * 8192.0 * 4.0 * 2048.0 * 2049.0 / 2.0;
        assert_eq!(config.flops(&problem), linear + attention);
        for degree in [1, 2, 4, 8] {
            assert!(config.check(degree).is_ok(), "{degree}");
        }
        assert!(config.check(3).is_err());
    }

    #[test]
    fn bf16_has_the_sizes_of_fp16() {
        let config = Config { precision: Precision::Bf16, ..Config::SEED_002 };
        assert!(!config.precision.is_fp8());
        assert_eq!(config.precision.element(), Element::Bf16);
        let problem = Problem { batches: 4, tokens: 2048, chunks: 2 };
        for degree in [1, 2, 4, 8] {
            let half = Config::SEED_002;
            assert!(config.check(degree).is_ok(), "{degree}");
            assert_eq!(config.weight_bytes(degree), half.weight_bytes(degree));
            let [own, wanted] =
                [config, half].map(|config| config.activation_bytes(&problem, degree));
            assert_eq!(own, wanted);
        }
        assert!(Config { attention_e4m3: true, ..config }.check(1).is_err());
    }

    /// The program of fp16 is what it was: the one of bf16 is made from the same file.
    #[test]
    fn both_programs_have_the_same_file() {
        let file = include_str!("model.cu");
        assert!(SOURCE.source.ends_with(file) && SOURCE_BF16.source.ends_with(file));
        assert!(!SOURCE.source.contains("#define F16"));
        assert!(SOURCE_BF16.source.contains("#define F16 BF16"));
    }

    #[test]
    fn a_refusal_names_what_is_wrong() {
        let small = Config::SEED_002;
        for (config, degree, wrong) in [
            (Config { layers: 0, ..small }, 1, "no layers"),
            (Config { d_model: 100, ..small }, 1, "rows of 100: a multiple of 128"),
            (small, 0, "no gpu"),
            (small, 3, "3 gpus: 64 heads: every gpu has as many"),
            (Config { d_ff: 0, ..small }, 1, "rows of 0 inside the mlp"),
            (Config { vocab: 50_300, ..small }, 1, "a vocabulary of 50300"),
        ] {
            let why = config.check(degree).expect_err(wrong).to_string();
            assert!(why.contains(wrong), "{why}");
        }
    }

    #[test]
    fn problems_are_cut_whole() {
        let problem = |batches, tokens, chunks| Problem { batches, tokens, chunks }.check();
        assert!(problem(8, 1024, 2).is_ok());
        assert!(problem(1, 8192, 4).is_ok());
        assert!(problem(2, 1024, 4).is_err());
        assert!(problem(0, 1024, 1).is_err());
        assert!(problem(1, 1024, 0).is_err());
    }

    #[test]
    fn shares_cover_all_columns() {
        let columns = |rank| Share { rank, degree: 4 }.columns(8192);
        assert_eq!((columns(0), columns(3)), ((0, 2048), (6144, 2048)));
    }
}
