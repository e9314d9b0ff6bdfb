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

    /// Enqueues a product of [`Dtype::E4m3Row`] or [`Dtype::E4m3RowHalf`]; any number of them may be in flight.
    ///
    /// Errors: [`Error::Shape`] of another type, of fast accumulation, of a factor beside the scales, and of shapes and
    /// buffers that cuBLASLt would not take either.
    pub fn run(
        &self,
        stream: &CudaStream,
        request: &Request,
        operands: &Operands<'_>,
    ) -> Result<()> {
        let Request { m, n, k, .. } = *request;
        let function = match request.dtype {
            Dtype::E4m3RowHalf => &self.half,
            Dtype::E4m3Row => &self.bf16,
            other => return refused(format!("{other:?}: scales of rows and E4M3")),
        };
        if request.fast_accumulation || operands.alpha != 1.0 {
            let alpha = operands.alpha;
            return refused(format!("{request:?} with a factor of {alpha}: precise sums and none"));
        }
        request.check()?;
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

fn refused<T>(what: String) -> Result<T> {
    Err(Error::Shape { what: format!("own product of {what}") })
}
