//! Weight-only products for few tokens: `out[m, n] = scale[n] sum of activations[m, k] weights[n, k]`, fp16 in
//! and out, m up to 16, weights in E4M3 with a scale for each row, or in fp16 by the same kernel.
//!
//! Weights are read once, as bytes; their halves exist in registers alone. What a result's bits are stands in
//! [`oracle`]: they do not depend on m, nor on the other rows.

pub mod oracle;

use crate::device::{Buffer, CudaStream, Function, Grid, KernelParams, Module};
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

/// The products.
pub const SOURCE: KernelSource = KernelSource {
    name: "weightonly",
    source: concat!(
        include_str!("../generator.cuh"),
        include_str!("../element.cuh"),
        include_str!("weightonly.cu")
    ),
    entries: &["weightonly_e4m3_8", "weightonly_e4m3_16", "weightonly_f16_8", "weightonly_f16_16"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

/// Most rows of activations.
pub const MOST_ROWS: u32 = 16;
/// What k must be a multiple of.
pub const K_STEP: u32 = 64;

const THREADS: u32 = 256;
/// Rows of weights of a block, for up to 8 rows of activations and for more.
const BLOCK_ROWS: [u32; 2] = [16, 32];

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct WeightOnlyParams {
    activations: u64,
    weights: u64,
    scales: u64,
    out: u64,
    m: u32,
    n: u32,
    k: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<WeightOnlyParams>() == 48);
// SAFETY: repr(C) without padding, equal to the struct in weightonly.cu.
unsafe impl KernelParams for WeightOnlyParams {}

/// The entries of [`SOURCE`] on one GPU, for up to 8 rows and for up to 16.
#[derive(Debug)]
pub struct WeightOnly {
    codes: [Function; 2],
    halves: [Function; 2],
}

impl WeightOnly {
    /// Finds the entries of [`SOURCE`].
    pub fn new(module: &Module) -> Result<WeightOnly> {
        Ok(WeightOnly {
            codes: [module.entry("weightonly_e4m3_8")?, module.entry("weightonly_e4m3_16")?],
            halves: [module.entry("weightonly_f16_8")?, module.entry("weightonly_f16_16")?],
        })
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
            ("product", out, 2 * rows * columns),
        ];
        wanted.extend(scales.map(|scales| ("scales", scales, 4 * columns)));
        for (what, buffer, bytes) in wanted {
            inside(what, 0, bytes, buffer.len_bytes())?;
            stream.same_context(buffer.context())?;
        }
        let entries = if scales.is_some() { &self.codes } else { &self.halves };
        let params = WeightOnlyParams {
            activations: activations.ptr(),
            weights: weights.ptr(),
            scales: scales.map_or(0, Buffer::ptr),
            out: out.ptr(),
            m,
            n,
            k,
            reserved: 0,
        };
        let many = usize::from(m > 8);
        let grid = Grid::linear(n.div_ceil(BLOCK_ROWS[many]), THREADS);
        // SAFETY: the matrices and scales lie inside their buffers, as checked.
        unsafe { entries[many].launch(stream, grid, &params) }
    }
}
