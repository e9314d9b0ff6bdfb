//! Matrix products by cuBLASLt: `D[m, n] = alpha scale_a scale_b A[m, k] B[n, k]^T`, row-major.
//!
//! cuBLASLt is column-major, so the product is asked for as `D^T = B A^T`: its first matrix is our
//! B (transposed), its second our A, and the scales change places with them. This is the TN form,
//! the only one that FP8 has on compute capability 9.0.
//!
//! Everything that can change a bit is in [`Request`] and in [`Choice`]: compute type, fast
//! accumulation, split-k and its reduction, workspace, and the algorithm's whole configuration.
//!
//! The caller has asked [`crate::libraries::present`] for cuBLASLt before [`Lt::new`].

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use crate::device::{Buffer, CudaStream, Gpu};
use crate::element::Element;
use crate::lt::{ALIGNMENT_BYTES, Description, Handle, Layout, checked, heuristic};
use crate::memory::inside;
use crate::timing;
use crate::{Error, Result, fault, flight};

pub use crate::lt::{Algorithm, Lt};

/// What PyTorch gives cuBLASLt on Hopper.
pub const WORKSPACE_BYTES: u64 = 32 << 20;

/// Most candidates of a search.
pub const MOST_CANDIDATES: usize = 64;

/// How a search times candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Most candidates, up to [`MOST_CANDIDATES`].
    pub candidates: usize,
    /// Timed runs of each, in as many rounds.
    pub rounds: usize,
    /// Before each timed run the GPU rests for so many times the last one: without a rest the power
    /// limit picks the algorithm, with one the chip does.
    pub rest: u32,
}

/// Types of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Half in, f32 accumulate, half out.
    F16,
    /// bfloat16 in, f32 accumulate, bfloat16 out.
    Bf16,
    /// f32 in, tf32 products, f32 accumulate and out.
    Tf32,
    /// E4M3 in with one scale a matrix, half out.
    E4m3Tensor,
    /// E4M3 in with one scale a row of A and of B, bfloat16 out.
    E4m3Row,
    /// As [`Dtype::E4m3Row`], half out.
    E4m3RowHalf,
    /// E4M3 in with one scale for 128 columns of a row of A and one for 128 x 128 of B, bfloat16 out.
    /// Scales of A by `[k / 128][m]`, of B by `[n / 128][k / 128]`, the latter padded to a multiple of 4.
    E4m3Block,
    /// Half in, f32 accumulate and out: what the tensor cores add up, unrounded.
    F16Wide,
    /// bfloat16 in, f32 accumulate and out.
    Bf16Wide,
    /// E4M3 in with one scale a matrix, f32 out.
    E4m3Wide,
    /// int8 in, int32 accumulate and out.
    Int8,
}

impl Dtype {
    /// The types whose rates are claims.
    pub const ALL: [Dtype; 6] =
        [Dtype::F16, Dtype::Bf16, Dtype::Tf32, Dtype::E4m3Tensor, Dtype::E4m3Row, Dtype::Int8];

    /// Type of A and B.
    pub fn input(self) -> Element {
        match self {
            Dtype::F16 | Dtype::F16Wide => Element::F16,
            Dtype::Bf16 | Dtype::Bf16Wide => Element::Bf16,
            Dtype::Tf32 => Element::F32,
            Dtype::E4m3Tensor
            | Dtype::E4m3Row
            | Dtype::E4m3RowHalf
            | Dtype::E4m3Block
            | Dtype::E4m3Wide => Element::E4m3,
            Dtype::Int8 => Element::Int8,
        }
    }

    /// Type of D.
    pub fn output(self) -> Element {
        match self {
            Dtype::F16 | Dtype::E4m3Tensor | Dtype::E4m3RowHalf => Element::F16,
            Dtype::Bf16 | Dtype::E4m3Row | Dtype::E4m3Block => Element::Bf16,
            Dtype::Tf32 | Dtype::F16Wide | Dtype::Bf16Wide | Dtype::E4m3Wide => Element::F32,
            Dtype::Int8 => Element::Int32,
        }
    }

    /// The compute type, as evidence names it.
    pub fn compute_name(self) -> &'static str {
        match self {
            Dtype::Tf32 => "CUBLAS_COMPUTE_32F_FAST_TF32",
            Dtype::Int8 => "CUBLAS_COMPUTE_32I",
            _ => "CUBLAS_COMPUTE_32F",
        }
    }

    /// Whether operands have scales.
    pub fn is_fp8(self) -> bool {
        self.input() == Element::E4m3
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Types.
    pub dtype: Dtype,
    /// Rows of A and D.
    pub m: u32,
    /// Rows of B, columns of D.
    pub n: u32,
    /// Columns of A and B.
    pub k: u32,
    /// Fast accumulation; FP8 only.
    pub fast_accumulation: bool,
    /// Most workspace, in bytes; 32 to 64 MiB is usual on Hopper.
    pub workspace_bytes: u64,
    /// Whether a dot product may be split along k and reduced in another order.
    pub split_k: bool,
    /// Elements from one row of A to the next; `None` for k.
    pub row_a: Option<u32>,
    /// Elements from one row of D to the next; `None` for n.
    pub row_d: Option<u32>,
    /// The product is added to what D holds, in f32, before the one rounding.
    pub accumulate: bool,
}

impl Request {
    /// A product of packed matrices into a fresh D: precise, no workspace, no split.
    pub fn new(dtype: Dtype, m: u32, n: u32, k: u32) -> Request {
        Request {
            dtype,
            m,
            n,
            k,
            fast_accumulation: false,
            workspace_bytes: 0,
            split_k: false,
            row_a: None,
            row_d: None,
            accumulate: false,
        }
    }

    /// Floating-point (or integer) operations of the product: 2 m n k.
    pub fn operations(&self) -> f64 {
        2.0 * f64::from(self.m) * f64::from(self.n) * f64::from(self.k)
    }

    /// Fewest bytes that must move: A, B and D once.
    pub fn bytes(&self) -> u64 {
        let [a, b, d] = self.matrix_bytes();
        a + b + d
    }

    /// Bytes of A, B and D.
    pub fn matrix_bytes(&self) -> [u64; 3] {
        let (m, n, k) = (u64::from(self.m), u64::from(self.n), u64::from(self.k));
        let (input, output) = (self.dtype.input().bytes(), self.dtype.output().bytes());
        [m * k * input, n * k * input, m * n * output]
    }

    /// Bytes of the scales of A and of B; for FP8.
    pub fn scale_bytes(&self) -> [u64; 2] {
        let (m, n) = (u64::from(self.m), u64::from(self.n));
        let blocks = u64::from(self.k.div_ceil(128));
        match self.dtype {
            Dtype::E4m3Row | Dtype::E4m3RowHalf => [4 * m, 4 * n],
            Dtype::E4m3Block => [4 * m * blocks, 4 * n.div_ceil(128) * blocks.next_multiple_of(4)],
            _ => [4, 4],
        }
    }

    /// Bytes from the first element of A, B and D to their last, gaps between rows included.
    fn extents(&self) -> [u64; 3] {
        let (input, output) = (self.dtype.input().bytes(), self.dtype.output().bytes());
        let extent = |rows: u32, row: Option<u32>, columns: u32, bytes: u64| {
            let row = u64::from(row.unwrap_or(columns));
            (u64::from(rows.max(1) - 1) * row + u64::from(columns)) * bytes
        };
        [
            extent(self.m, self.row_a, self.k, input),
            extent(self.n, None, self.k, input),
            extent(self.m, self.row_d, self.n, output),
        ]
    }

    /// Refuses shapes that cuBLASLt or the checks of this crate cannot take.
    pub(crate) fn check(&self) -> Result<()> {
        let whole = |count: u32, element: Element| {
            count > 0 && (u64::from(count) * element.bytes()).is_multiple_of(16)
        };
        let eight_bit = self.dtype.input().bytes() == 1;
        let sixteens = !eight_bit || (self.n.is_multiple_of(16) && self.k.is_multiple_of(16));
        let rows = self.m > 0 && (self.dtype != Dtype::Int8 || self.m.is_multiple_of(4));
        if !whole(self.k, self.dtype.input()) || !whole(self.n, self.dtype.output()) {
            let what = format!("{self:?}: rows of a matrix must be multiples of 16 bytes");
            return Err(Error::Shape { what });
        }
        if !sixteens || !rows {
            let what = format!("{self:?}: 8-bit types need n and k in 16s, int8 m in 4s");
            return Err(Error::Shape { what });
        }
        let apart = |row: Option<u32>, columns: u32, element: Element| {
            row.is_none_or(|row| row >= columns && whole(row, element))
        };
        if !apart(self.row_a, self.k, self.dtype.input())
            || !apart(self.row_d, self.n, self.dtype.output())
        {
            let what = format!("{self:?}: rows overlap or do not begin on 16 bytes");
            return Err(Error::Shape { what });
        }
        let blocks =
            self.m.is_multiple_of(4) && self.n.is_multiple_of(128) && self.k.is_multiple_of(128);
        if self.dtype == Dtype::E4m3Block && (!blocks || self.fast_accumulation) {
            let what = format!(
                "{self:?}: scales of blocks need m in 4s, n and k in 128s and precise accumulation"
            );
            return Err(Error::Shape { what });
        }
        if self.fast_accumulation && !self.dtype.is_fp8() {
            let what = format!("{self:?}: only fp8 has fast accumulation");
            return Err(Error::Shape { what });
        }
        Ok(())
    }
}

/// The matrices and scales of a product.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// A, m x k.
    pub a: &'a Buffer,
    /// B, n x k.
    pub b: &'a Buffer,
    /// D, m x n.
    pub d: &'a Buffer,
    /// f32 scales of A: one, m for [`Dtype::E4m3Row`], or those of [`Dtype::E4m3Block`]. FP8 only, and then
    /// needed.
    pub scale_a: Option<&'a Buffer>,
    /// f32 scales of B: one, n for [`Dtype::E4m3Row`], or those of [`Dtype::E4m3Block`]. FP8 only, and then
    /// needed.
    pub scale_b: Option<&'a Buffer>,
    /// Factor of the product; 1 for int8.
    pub alpha: f32,
    /// Elements of each buffer before the first one of A, of B and of D: multiples of 256 bytes.
    pub first: [u64; 3],
}

/// The algorithm of a plan and how it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Its configuration.
    pub algorithm: Algorithm,
    /// Its rank in the heuristic's order, 0 first.
    pub rank: usize,
    /// Workspace it takes.
    pub workspace_bytes: u64,
    /// Waves of thread blocks, as the heuristic estimates.
    pub waves: f32,
    /// Candidates that the heuristic returned.
    pub candidates: usize,
    /// Candidates that ran; the rest were refused.
    pub tried: usize,
    /// Median milliseconds of the chosen one; `None` without a search.
    pub chosen_ms: Option<f64>,
    /// Median milliseconds of candidate 0; `None` without a search or where it was refused.
    pub heuristic_first_ms: Option<f64>,
    /// Version of the library, for example 130100.
    pub library_version: usize,
}

/// A product whose algorithm is chosen. Runs on one stream at a time: it has one workspace.
#[derive(Debug)]
pub struct Plan {
    request: Request,
    description: Description,
    b: Layout,
    a: Layout,
    d: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: Option<Buffer>,
    choice: Choice,
    handle: Arc<Handle>,
}

impl Plan {
    /// Takes the heuristic's first algorithm.
    pub fn heuristic_first(
        gpu: &Gpu,
        lt: &Lt,
        request: Request,
        operands: &Operands<'_>,
    ) -> Result<Plan> {
        let (mut plan, found) = Plan::candidates(gpu, lt, request, operands, 1)?;
        plan.take(lt, &found, 0, (1, None, None))?;
        Ok(plan)
    }

    /// Times algorithms of the heuristic on the given operands, which should hold random data, and takes
    /// the fastest by median. Each is run once to warm up and to be checked, then all are timed in
    /// rounds, so that a clock that sinks under load does not favour the first. D is overwritten, or
    /// added to as often as it is run.
    pub fn search(
        gpu: &Gpu,
        lt: &Lt,
        request: Request,
        operands: &Operands<'_>,
        search: Search,
    ) -> Result<Plan> {
        if search.rounds == 0 {
            return Err(Error::Shape { what: format!("{search:?}") });
        }
        let (mut plan, found) = Plan::candidates(gpu, lt, request, operands, search.candidates)?;
        let stream = gpu.stream();
        let mut runnable = Vec::new();
        for (rank, candidate) in found.iter().enumerate() {
            // A refused algorithm is a fact of the search, not an error of it.
            if plan.call(stream, operands, &candidate.algo, candidate.workspaceSize).is_ok() {
                runnable.push(rank);
            }
            fault::in_search();
        }
        stream.synchronize()?;
        let (start, end) = (gpu.new_event()?, gpu.new_event()?);
        let mut last_ms = None;
        let mut times = vec![Vec::with_capacity(search.rounds); found.len()];
        for _ in 0..search.rounds {
            for &rank in &runnable {
                timing::rest(search.rest, last_ms);
                start.record(stream)?;
                plan.call(stream, operands, &found[rank].algo, found[rank].workspaceSize)?;
                end.record(stream)?;
                end.synchronize()?;
                let ms = end.elapsed_ms_since(&start)?;
                times[rank].push(ms);
                last_ms = Some(ms);
            }
        }
        let median = |rank: usize| {
            let mut sorted = times[rank].clone();
            sorted.sort_by(f64::total_cmp);
            sorted.get(search.rounds / 2).copied()
        };
        let timed = runnable.iter().filter_map(|&rank| Some((rank, median(rank)?)));
        let Some((best, best_ms)) = timed.min_by(|x, y| x.1.total_cmp(&y.1)) else {
            let reason = format!("all {} candidates of {request:?} were refused", found.len());
            return Err(Error::BlasLt { call: "cublasLtMatmul", reason });
        };
        plan.take(lt, &found, best, (runnable.len(), Some(best_ms), median(0)))?;
        Ok(plan)
    }

    /// A plan for each algorithm that the heuristic offers, at most `most`, in its order.
    pub fn each(
        gpu: &Gpu,
        lt: &Lt,
        request: Request,
        operands: &Operands<'_>,
        most: usize,
    ) -> Result<Vec<Plan>> {
        let (_, found) = Plan::candidates(gpu, lt, request, operands, most)?;
        let plan = |rank| {
            let mut plan = Plan::bare(gpu, lt, request, operands)?;
            plan.take(lt, &found, rank, (0, None, None))?;
            Ok(plan)
        };
        (0..found.len()).map(plan).collect()
    }

    /// The same product on another GPU of the same kind, by the same algorithm.
    pub fn like(gpu: &Gpu, lt: &Lt, operands: &Operands<'_>, other: &Plan) -> Result<Plan> {
        let mut plan = Plan::bare(gpu, lt, other.request, operands)?;
        plan.algorithm = other.algorithm;
        plan.choice = other.choice.clone();
        Ok(plan)
    }

    /// A plan without an algorithm yet.
    fn bare(gpu: &Gpu, lt: &Lt, request: Request, operands: &Operands<'_>) -> Result<Plan> {
        request.check()?;
        check_operands(&request, operands)?;
        gpu.bind()?;
        let Request { dtype, m, n, k, workspace_bytes, .. } = request;
        let workspace = match workspace_bytes {
            0 => None,
            bytes => Some(gpu.alloc(bytes)?),
        };
        let plan = Plan {
            request,
            description: Description::new(&request)?,
            b: Layout::new(dtype.input(), k, n, k)?,
            a: Layout::new(dtype.input(), k, m, request.row_a.unwrap_or(k))?,
            d: Layout::new(dtype.output(), n, m, request.row_d.unwrap_or(n))?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspace,
            choice: Choice {
                algorithm: Algorithm::default(),
                rank: 0,
                workspace_bytes: 0,
                waves: 0.0,
                candidates: 0,
                tried: 0,
                chosen_ms: None,
                heuristic_first_ms: None,
                library_version: lt.version(),
            },
            handle: lt.handle.clone(),
        };
        // The heuristic may look at the scales' alignment.
        plan.description.set_scales(operands)?;
        Ok(plan)
    }

    /// A plan without an algorithm yet, and the heuristic's answers that may be used.
    fn candidates(
        gpu: &Gpu,
        lt: &Lt,
        request: Request,
        operands: &Operands<'_>,
        most: usize,
    ) -> Result<(Plan, Vec<sys::cublasLtMatmulHeuristicResult_t>)> {
        if most == 0 || most > MOST_CANDIDATES {
            let what = format!("{most} candidates, of 1 to {MOST_CANDIDATES}");
            return Err(Error::Shape { what });
        }
        let plan = Plan::bare(gpu, lt, request, operands)?;
        let Plan { handle, description, b, a, d, .. } = &plan;
        let limits = (request.workspace_bytes, request.split_k);
        let found = heuristic((handle, description), [b, a, d], limits, most, &request)?;
        Ok((plan, found))
    }

    /// Makes candidate `rank` the plan's. `tried` counts those that ran, with the median times
    /// of the chosen one and of candidate 0.
    fn take(
        &mut self,
        lt: &Lt,
        found: &[sys::cublasLtMatmulHeuristicResult_t],
        rank: usize,
        tried: (usize, Option<f64>, Option<f64>),
    ) -> Result<()> {
        let chosen = &found[rank];
        self.algorithm = chosen.algo;
        self.choice = Choice {
            algorithm: Algorithm::of(&chosen.algo)?,
            rank,
            workspace_bytes: chosen.workspaceSize as u64,
            waves: chosen.wavesCount,
            candidates: found.len(),
            tried: tried.0,
            chosen_ms: tried.1,
            heuristic_first_ms: tried.2,
            library_version: lt.version(),
        };
        Ok(())
    }

    /// What is computed.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// How it is computed.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Enqueues the product.
    pub fn run(&self, stream: &CudaStream, operands: &Operands<'_>) -> Result<()> {
        check_operands(&self.request, operands)?;
        self.call(stream, operands, &self.algorithm, self.choice.workspace_bytes as usize)
    }

    /// One call of cuBLASLt with operands that were checked.
    fn call(
        &self,
        stream: &CudaStream,
        operands: &Operands<'_>,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        workspace_bytes: usize,
    ) -> Result<()> {
        for buffer in [operands.a, operands.b, operands.d] {
            stream.same_context(buffer.context())?;
        }
        stream.bind()?;
        self.description.set_scales(operands)?;
        // The scale type of an int8 product is int32, of all others f32.
        let beta = u8::from(self.request.accumulate);
        let (float, integer) =
            ([operands.alpha, f32::from(beta)], [operands.alpha as i32, i32::from(beta)]);
        let [alpha, beta]: [*const c_void; 2] = match self.request.dtype {
            Dtype::Int8 => [(&raw const integer[0]).cast(), (&raw const integer[1]).cast()],
            _ => [(&raw const float[0]).cast(), (&raw const float[1]).cast()],
        };
        let workspace = self.workspace.as_ref().map_or(0, Buffer::ptr);
        let [a, b, d] = addresses(&self.request, operands);
        flight::note(|| {
            let Request { m, n, k, .. } = self.request;
            format!("product {m}x{n}x{k} on gpu {}", operands.d.context().device())
        });
        // SAFETY: the buffers hold the layouts' matrices (checked), C = D in place is what cuBLASLt
        // allows for equal layouts, the workspace has at least the algorithm's size, and cudaStream_t
        // and CUstream are the same handle.
        let outcome = unsafe {
            result::matmul(
                self.handle.0,
                self.description.0,
                alpha,
                beta,
                b as *const c_void,
                self.b.0,
                a as *const c_void,
                self.a.0,
                d as *const c_void,
                self.d.0,
                d as *mut c_void,
                self.d.0,
                algorithm,
                workspace as *mut c_void,
                workspace_bytes,
                stream.raw().cast(),
            )
        };
        checked("cublasLtMatmul", outcome)
    }
}

/// Bytes before the first element of A, B and D in their buffers.
fn offsets(request: &Request, operands: &Operands<'_>) -> [u64; 3] {
    let (input, output) = (request.dtype.input().bytes(), request.dtype.output().bytes());
    let [a, b, d] = operands.first;
    [a * input, b * input, d * output]
}

/// Device addresses of A, B and D.
fn addresses(request: &Request, operands: &Operands<'_>) -> [u64; 3] {
    let [a, b, d] = offsets(request, operands);
    [operands.a.ptr() + a, operands.b.ptr() + b, operands.d.ptr() + d]
}

/// Checks that the buffers hold the matrices and that scales are there where they are needed.
pub(crate) fn check_operands(request: &Request, operands: &Operands<'_>) -> Result<()> {
    let buffers = [("matrix a", operands.a), ("matrix b", operands.b), ("matrix d", operands.d)];
    let places = offsets(request, operands).into_iter().zip(request.extents());
    for ((what, buffer), (offset, bytes)) in buffers.into_iter().zip(places) {
        inside(what, offset, bytes, buffer.len_bytes())?;
        if !offset.is_multiple_of(u64::from(ALIGNMENT_BYTES)) {
            let what = format!("{what} at byte {offset}, no multiple of {ALIGNMENT_BYTES}");
            return Err(Error::Shape { what });
        }
    }
    match (request.dtype.is_fp8(), operands.scale_a, operands.scale_b) {
        (true, Some(scale_a), Some(scale_b)) => {
            let [a, b] = request.scale_bytes();
            inside("scales of a", 0, a, scale_a.len_bytes())?;
            inside("scales of b", 0, b, scale_b.len_bytes())?;
        }
        (false, None, None) => {}
        _ => {
            let what = format!("{:?}: scales belong to fp8, and to both operands", request.dtype);
            return Err(Error::Shape { what });
        }
    }
    if request.dtype == Dtype::Int8 && operands.alpha != 1.0 {
        let what = format!("int8 with alpha {}: cublaslt knows 0 and 1", operands.alpha);
        return Err(Error::Shape { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dtype: Dtype, m: u32, n: u32, k: u32) -> Request {
        Request::new(dtype, m, n, k)
    }

    #[test]
    fn operations_and_bytes_by_hand() {
        let half = request(Dtype::F16, 8, 16, 32);
        assert_eq!(half.operations(), 8192.0);
        assert_eq!(half.bytes(), 2 * (8 * 32 + 16 * 32 + 8 * 16));
        let int8 = request(Dtype::Int8, 8, 16, 32);
        assert_eq!(int8.bytes(), 8 * 32 + 16 * 32 + 4 * 8 * 16);
    }

    #[test]
    fn extents_reach_over_the_gaps() {
        let packed = request(Dtype::F16, 8, 16, 32);
        assert_eq!(packed.extents(), packed.matrix_bytes());
        let apart = Request { row_a: Some(64), row_d: Some(48), ..packed };
        assert_eq!(apart.extents(), [2 * (7 * 64 + 32), 2 * 16 * 32, 2 * (7 * 48 + 16)]);
        assert!(apart.check().is_ok());
        assert!(Request { row_a: Some(24), ..packed }.check().is_err());
        assert!(Request { row_d: Some(17), ..packed }.check().is_err());
    }

    #[test]
    fn shapes_are_refused_before_a_launch() {
        assert!(request(Dtype::F16, 1, 8, 8).check().is_ok());
        assert!(request(Dtype::F16, 1, 4, 8).check().is_err());
        assert!(request(Dtype::E4m3Row, 3, 16, 16).check().is_ok());
        assert!(request(Dtype::E4m3Row, 3, 24, 16).check().is_err());
        assert!(request(Dtype::Int8, 3, 16, 16).check().is_err());
        let fast = Request { fast_accumulation: true, ..request(Dtype::Bf16, 8, 8, 8) };
        assert!(fast.check().is_err());
    }
}
