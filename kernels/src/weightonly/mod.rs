//! Weight-only products for few tokens: `out[m, n] = scale[n] sum of activations[m, k] weights[n, k]`, fp16 in
//! and out, m up to 16, weights in E4M3 with a scale for each row, or in fp16 by the same kernel.
//!
//! Weights are read once, as bytes; their halves exist in registers alone. What a result's bits are stands in
//! [`oracle`]: they do not depend on m, nor on the other rows.

pub mod oracle;

use crate::device::{Buffer, CudaStream, Function, Gpu, Grid, KernelParams, Module};
use crate::memory::inside;
use crate::model::{Affine, EPSILON, Matrix};
use crate::{Error, KernelSource, Result};

/// The products.
pub const SOURCE: KernelSource = KernelSource {
    name: "weightonly",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("../dependent.cuh"),
        include_str!("../model/gelu.cuh"),
        include_str!("weightonly.cu")
    ),
    entries: &[
        "weightonly_e4m3_8",
        "weightonly_e4m3_16",
        "weightonly_e4m3_norm",
        "weightonly_f16_8",
        "weightonly_f16_16",
        "weightonly_f16_norm",
    ],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Most rows of activations.
pub const MOST_ROWS: u32 = 16;
/// Most rows that are normed on the way in, and most columns of them.
const MOST_NORMED: (u32, u32) = (2, 8192);
/// What k must be a multiple of.
pub const K_STEP: u32 = 64;

const THREADS: u32 = 512;
/// Rows of weights of a block, for up to 8 rows of activations and for more.
const BLOCK_ROWS: [u32; 2] = [16, 32];
/// Blocks of a multiprocessor that the launch bounds of the kernels leave registers for: they go from rows to rows.
const BLOCKS_PER_SM: [u32; 2] = [2, 1];

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct WeightOnlyParams {
    activations: u64,
    weights: u64,
    scales: u64,
    out: [u64; 3],
    row: [u64; 3],
    addend: u64,
    m: u32,
    n: u32,
    k: u32,
    part: u32,
    gelu: u32,
    epsilon: f32,
    gain: u64,
    bias: u64,
}
const _: () = assert!(size_of::<WeightOnlyParams>() == 120);
// SAFETY: repr(C) without padding, equal to the struct in weightonly.cu.
unsafe impl KernelParams for WeightOnlyParams {}

/// What is done on the way in, what becomes of a product, and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Out<'a> {
    /// One to three matrices of m rows which share the product's columns equally, in order.
    pub parts: &'a [Matrix<'a>],
    /// Added to the only part, with a rounding of its own; may be that part.
    pub addend: Option<Matrix<'a>>,
    /// What is stored is the GELU of the rounded product, by the bits of [`crate::model::Kernels::gelu`].
    pub gelu: bool,
    /// What is multiplied is the layer norm of the activations, by the bits of [`crate::model::Kernels::norm`]; of
    /// sizes that [`WeightOnly::norms`].
    pub norm: Option<Affine<'a>>,
    /// Begins before the work in front of it in the stream has ended, where the GPU can, and waits for that work once
    /// its first weights are on their way. Nothing in front may write the weights or scales, gain or bias.
    pub early: bool,
}

impl<'a> Out<'a> {
    /// As it is.
    pub fn plain(parts: &'a [Matrix<'a>]) -> Out<'a> {
        Out { parts, addend: None, gelu: false, norm: None, early: false }
    }

    /// Checks that m rows of n columns fit.
    fn check(&self, (m, n): (u32, u32)) -> Result<u32> {
        let count = self.parts.len() as u32;
        if !(1..=3).contains(&count) || !n.is_multiple_of(count) {
            return Err(Error::Shape {
                what: format!("a product of {n} columns in {count} parts"),
            });
        }
        let part = n / count;
        // Elements are stored one by one, so that rows may begin anywhere.
        for matrix in self.parts.iter().chain(&self.addend) {
            if matrix.row < part.into() {
                let what = format!("rows of {part} elements, {} from one to the next", matrix.row);
                return Err(Error::Shape { what });
            }
            let last = matrix.row.saturating_mul(u64::from(m) - 1).saturating_add(part.into());
            let (first, bytes) = (2 * matrix.first, last.saturating_mul(2));
            inside("product", first, bytes, matrix.buffer.len_bytes())?;
        }
        let lies_alike = |addend: &Matrix<'_>| count == 1 && addend.row == self.parts[0].row;
        if !self.addend.as_ref().is_none_or(lies_alike) {
            return Err(Error::Shape { what: "a summand that lies unlike the product".into() });
        }
        Ok(part)
    }
}

/// The entries of [`SOURCE`] on one GPU, for up to 8 rows, for up to 16, and with the norm.
#[derive(Debug)]
pub struct WeightOnly {
    codes: [Function; 3],
    halves: [Function; 3],
    sm_count: u32,
}

impl WeightOnly {
    /// Finds the entries of [`SOURCE`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<WeightOnly> {
        Ok(WeightOnly {
            sm_count: gpu.sm_count,
            codes: [
                module.entry("weightonly_e4m3_8")?,
                module.entry("weightonly_e4m3_16")?,
                module.entry("weightonly_e4m3_norm")?,
            ],
            halves: [
                module.entry("weightonly_f16_8")?,
                module.entry("weightonly_f16_16")?,
                module.entry("weightonly_f16_norm")?,
            ],
        })
    }

    /// Whether activations [m][k] can be normed on the way in.
    pub fn norms((m, k): (u32, u32)) -> bool {
        m <= MOST_NORMED.0 && k <= MOST_NORMED.1
    }

    /// Enqueues a product of packed matrices, sizes (m, n, k): fp16 `activations[m][k]`, `weights[n][k]`, fp16
    /// `out[m][n]`. With f32 `scales[n]` weights are finite codes of E4M3, without they are fp16.
    ///
    /// Errors: no rows or more than [`MOST_ROWS`], a k that is no multiple of [`K_STEP`], a buffer that is too
    /// small or of another GPU.
    pub fn run(
        &self,
        stream: &CudaStream,
        activations: &Buffer,
        weights: &Buffer,
        scales: Option<&Buffer>,
        out: &Buffer,
        (m, n, k): (u32, u32, u32),
    ) -> Result<()> {
        let parts = [Matrix::packed(out, n)];
        self.run_into(stream, activations, (weights, scales), &Out::plain(&parts), (m, n, k))
    }

    /// The same with something done to the result, and put somewhere.
    ///
    /// Errors: as [`WeightOnly::run`]; parts that are not one to three, or n that they cannot share; a summand
    /// that lies unlike the product; a norm of more than [`WeightOnly::norms`].
    pub fn run_into(
        &self,
        stream: &CudaStream,
        activations: &Buffer,
        (weights, scales): (&Buffer, Option<&Buffer>),
        out: &Out<'_>,
        (m, n, k): (u32, u32, u32),
    ) -> Result<()> {
        if m == 0 || m > MOST_ROWS || n == 0 || k == 0 || !k.is_multiple_of(K_STEP) {
            let what = format!(
                "weight-only product of {m} x {n} x {k}: 1 to {MOST_ROWS} rows, k in {K_STEP}s"
            );
            return Err(Error::Shape { what });
        }
        let (rows, columns, each) = (u64::from(m), u64::from(n), u64::from(k));
        let weight_bytes = if scales.is_some() { 1 } else { 2 };
        let mut wanted = vec![
            ("activations", activations, 2 * rows * each),
            ("weights", weights, weight_bytes * columns * each),
        ];
        wanted.extend(scales.map(|scales| ("scales", scales, 4 * columns)));
        let affine = out.norm.map(|affine| [affine.gain, affine.bias]);
        wanted.extend(affine.into_iter().flatten().map(|part| ("gain or bias", part, 2 * each)));
        if affine.is_some() && !WeightOnly::norms((m, k)) {
            let (rows, most) = MOST_NORMED;
            let what = format!("a norm of {m} x {k} on the way in, at most {rows} x {most}");
            return Err(Error::Shape { what });
        }
        for (what, buffer, bytes) in wanted {
            inside(what, 0, bytes, buffer.len_bytes())?;
            stream.same_context(buffer.context())?;
        }
        let part = out.check((m, n))?;
        for matrix in out.parts.iter().chain(&out.addend) {
            stream.same_context(matrix.buffer.context())?;
        }
        let places = [0, 1, 2].map(|at| out.parts.get(at).map_or((0, 0), |m| (m.address(), m.row)));
        let entries = if scales.is_some() { &self.codes } else { &self.halves };
        let params = WeightOnlyParams {
            activations: activations.ptr(),
            weights: weights.ptr(),
            scales: scales.map_or(0, Buffer::ptr),
            out: places.map(|(address, _)| address),
            row: places.map(|(_, row)| row),
            addend: out.addend.as_ref().map_or(0, |matrix| matrix.address()),
            m,
            n,
            k,
            part,
            gelu: u32::from(out.gelu),
            epsilon: EPSILON,
            gain: affine.map_or(0, |[gain, _]| gain.ptr()),
            bias: affine.map_or(0, |[_, bias]| bias.ptr()),
        };
        let many = usize::from(m > 8);
        let (entry, shared_bytes) = match affine {
            Some(_) => (&entries[2], 2 * k * (2 + m)),
            None => (&entries[many], 0),
        };
        let blocks = n.div_ceil(BLOCK_ROWS[many]).min(self.sm_count * BLOCKS_PER_SM[many]);
        let grid = Grid { early: out.early, shared_bytes, ..Grid::linear(blocks, THREADS) };
        // SAFETY: the matrices, scales, gain and bias lie inside their buffers, as checked.
        unsafe { entry.launch(stream, grid, &params) }
    }
}
