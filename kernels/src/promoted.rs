//! E4M3 products with a scale for each row of both matrices by an own kernel for sm_90a, which lets the tensor cores
//! add [`GROUP`] columns before their sum goes to f32: `D[m, n] = scale_a scale_b A[m, k] B[n, k]^T`, on request added
//! to what D holds. cuBLASLt's precise accumulation does so after 128 columns, its fast one never.
//!
//! A result depends on its two rows and k alone, so it has the same bits in whatever matrix it stands: there is no
//! algorithm to choose.

use crate::device::{Buffer, CudaStream, Gpu};
use crate::element::Element;
use crate::matmul::{Dtype, Operands, Request};
use crate::module::{Function, Grid, KernelParams, Module};
use crate::tensor_map::TensorMap;
use crate::{Error, KernelSource, Result, flight};

/// The kernel.
pub const SOURCE: KernelSource = KernelSource {
    name: "promoted",
    source: concat!(
        include_str!("generator.cuh"),
        include_str!("barrier.cuh"),
        include_str!("attention/engine.cuh"),
        "#define ONE_ACCUMULATOR 0\n",
        include_str!("promoted.cu")
    ),
    entries: &["promoted_half", "promoted_bf16"],
    architectures: &["sm_90a"],
    spill_free: true,
};

/// The same with a planted fault: the tensor cores add up all columns.
pub const SOURCE_PLANTED: KernelSource = KernelSource {
    name: "promoted-one-accumulator",
    source: concat!(
        include_str!("generator.cuh"),
        include_str!("barrier.cuh"),
        include_str!("attention/engine.cuh"),
        "#define ONE_ACCUMULATOR 1\n",
        include_str!("promoted.cu")
    ),
    ..SOURCE
};

/// Columns that the tensor cores add up.
pub const GROUP: u32 = 256;

/// As in promoted.cu.
const CHUNK: u32 = 128;
const CLUSTER: u32 = 2;
const TILE_M: u32 = 128;
const TILE_N: u32 = 192;
const RING: u32 = 4;
const THREADS: u32 = 384;
/// The ring, two consumers' results, and their columns' scales.
const SHARED_BYTES: u32 = RING * (TILE_M + TILE_N) * CHUNK + 2 * TILE_M * TILE_N + 8 * TILE_N;
/// Most rows or columns: coordinates of a tensor map are signed, also those of a tile behind the last.
const MOST: u32 = i32::MAX as u32 - 255;
/// Rows of tiles that are taken together: eight, 2048 rows, beside as many columns, are what runs at once.
const BAND: u32 = 8;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PromotedParams {
    a_map: TensorMap,
    b_map: TensorMap,
    d_map: TensorMap,
    scale_a: u64,
    scale_b: u64,
    m: u32,
    n: u32,
    chunks: u32,
    tile_rows: u32,
    tile_columns: u32,
    band: u32,
    accumulate: u32,
    reserved: [u32; 5],
}
const _: () = assert!(size_of::<PromotedParams>() == 448);
// SAFETY: repr(C) without padding, equal to the struct in promoted.cu.
unsafe impl KernelParams for PromotedParams {}

/// The kernel on one GPU.
#[derive(Debug, Clone)]
pub struct Promoted {
    half: Function,
    bf16: Function,
    sm_count: u32,
}

impl Promoted {
    /// Finds the entries of [`SOURCE`], or of [`SOURCE_PLANTED`].
    pub fn new(gpu: &Gpu, module: &Module) -> Result<Promoted> {
        Ok(Promoted {
            half: module.entry("promoted_half")?,
            bf16: module.entry("promoted_bf16")?,
            sm_count: gpu.sm_count,
        })
    }

    /// Enqueues a product of [`Dtype::E4m3Row`] or [`Dtype::E4m3RowHalf`]; any number of them may be in flight. Takes no
    /// workspace and never splits k, whatever the request allows.
    ///
    /// Errors: [`Error::Shape`] of another type, of fast accumulation, of a factor beside the scales, of sizes beyond what a
    /// tensor map counts, and of shapes and buffers that cuBLASLt would not take either; [`Error::Driver`] of a map that the
    /// driver refuses, or of the launch.
    pub fn run(
        &self,
        stream: &CudaStream,
        request: &Request,
        operands: &Operands<'_>,
    ) -> Result<()> {
        let Request { m, n, k, .. } = *request;
        check(request, operands.alpha)?;
        let function = if request.dtype == Dtype::E4m3Row { &self.bf16 } else { &self.half };
        crate::matmul::check_operands(request, operands)?;
        let scales = operands.scale_a.zip(operands.scale_b);
        let Some((scale_a, scale_b)) = scales else { return refused("no scales".into()) };
        function.same_context([operands.a, operands.b, operands.d, scale_a, scale_b])?;
        let map = |what: &str,
                   (buffer, first): (&Buffer, u64),
                   element: Element,
                   sizes: [u32; 3],
                   rows: u32| {
            let [height, width, row] = sizes.map(u64::from);
            let steps = [row, row * height, row * height];
            TensorMap::new(what, buffer, element.bytes(), first, [width, height, 1, 1], steps, rows)
        };
        let [a, b, d] = operands.first;
        let (a, b, d) = ((operands.a, a), (operands.b, b), (operands.d, d));
        let (tile_rows, tile_columns) = (m.div_ceil(CLUSTER * TILE_M), n.div_ceil(TILE_N));
        let tiles = u64::from(tile_rows) * u64::from(tile_columns);
        // Tiles past the last are numbered up to one grid further.
        let Some(tiles) = u32::try_from(tiles).ok().filter(|tiles| *tiles < 1 << 30) else {
            return refused(format!("{tiles} tiles of {request:?}"));
        };
        let output = request.dtype.output();
        let params = PromotedParams {
            a_map: map("matrix a", a, Element::E4m3, [m, k, request.row_a.unwrap_or(k)], TILE_M)?,
            b_map: map("matrix b", b, Element::E4m3, [n, k, k], TILE_N / CLUSTER)?,
            d_map: map("matrix d", d, output, [m, n, request.row_d.unwrap_or(n)], TILE_M / 2)?,
            scale_a: scale_a.ptr(),
            scale_b: scale_b.ptr(),
            m,
            n,
            chunks: k.div_ceil(CHUNK),
            tile_rows,
            tile_columns,
            band: BAND.min(tile_rows),
            accumulate: u32::from(request.accumulate),
            reserved: [0; 5],
        };
        let grid = Grid {
            blocks: (tiles.min(self.sm_count / CLUSTER).max(1) * CLUSTER, 1),
            threads: THREADS,
            shared_bytes: SHARED_BYTES,
            early: false,
        };
        flight::note(|| {
            format!("own product {m}x{n}x{k} on gpu {}", operands.d.context().device())
        });
        // SAFETY: matrices and scales lie inside their buffers (checked); what the copy engine would read or write
        // outside of a matrix is left out by the maps, and scales are read below m and n alone.
        unsafe { function.launch(stream, grid, &params) }
    }
}

/// Refuses what the kernel does not compute.
fn check(request: &Request, alpha: f32) -> Result<()> {
    if !matches!(request.dtype, Dtype::E4m3Row | Dtype::E4m3RowHalf) {
        return refused(format!("{:?}: it has E4M3 with scales of rows", request.dtype));
    }
    if request.fast_accumulation || alpha != 1.0 {
        let fast = request.fast_accumulation;
        return refused(format!(
            "a factor of {alpha}, fast {fast}: it has no factor and precise sums"
        ));
    }
    if [request.m, request.n, request.k].iter().any(|&size| size > MOST) {
        return refused(format!("{} x {} x {}: {MOST} each", request.m, request.n, request.k));
    }
    request.check()
}

fn refused<T>(what: String) -> Result<T> {
    Err(Error::Shape { what: format!("own product of {what}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(request: Request, alpha: f32) -> String {
        check(&request, alpha).expect_err("refused").to_string()
    }

    #[test]
    fn what_the_kernel_has_not_is_refused() {
        let request = Request::new(Dtype::E4m3RowHalf, 100, 208, 400);
        assert!(check(&request, 1.0).is_ok());
        assert!(check(&Request { accumulate: true, row_d: Some(224), ..request }, 1.0).is_ok());
        assert!(
            refusal(Request { dtype: Dtype::E4m3Tensor, ..request }, 1.0).contains("E4m3Tensor")
        );
        assert!(refusal(Request { fast_accumulation: true, ..request }, 1.0).contains("fast true"));
        assert!(refusal(request, 2.0).contains("a factor of 2"));
        assert!(refusal(request, f32::NAN).contains("a factor of NaN"));
        assert!(refusal(Request { m: 1 << 31, ..request }, 1.0).contains("2147483648 x 208"));
        assert!(refusal(Request { k: 408, ..request }, 1.0).contains("16"));
    }
}
