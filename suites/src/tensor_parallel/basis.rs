//! Why column-only tensor parallel cannot drift: a product's element has the same bits however many of
//! its columns or rows are asked for, and by whichever algorithm, as long as no sum is cut.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt, MOST_CANDIDATES, Operands, Plan, Request};
use kernels::model::rank::Tools;
use kernels::model::{Config, Matrix};
use kernels::operands::{self, Scales, Values};
use kernels::promoted::Promoted;

use super::bench::{self, KERNELS};
use crate::lab::{self, Lab};

/// Elements whose bits differ.
pub const METRIC: &str = "differing_count";

/// Rows of every product.
pub(super) const ROWS: u32 = 8192;
/// Columns of the products that are added to the residual stream where they lie.
pub(super) const SUMMED: u32 = 8192;
/// The head, whose rows are the sequences.
pub(super) const HEAD: (&str, u32, u32) = ("50304x8192", 50304, 8192);
const DEGREES: [u32; 3] = [2, 4, 8];
/// Rows that are taken alone, from the end of the product.
pub(super) const FEWER_ROWS: [u32; 8] = [4096, 2048, 1024, 512, 128, 64, 16, 1];

/// As fp16 products are made.
const LIBRARY: By<'static> = By::Library { fast: false };

static CONTROLS: [Control; 2] = [
    Control {
        name: "halves-in-another-order",
        fault: "each sum's second half is rounded to a half before its first is added",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "flipped-bit",
        fault: "the lowest mantissa bit of one weight is flipped",
        trips: METRIC,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "tensor-parallel::basis",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The four fp16 products of a layer of the 48-layer model over 8192 tokens, random data, no \
                workspace, no split of k. Every element of the result of cuBLASLt's first algorithm is \
                compared, bit by bit, with that of every other algorithm it offers, with products of a \
                half, a quarter and an eighth of the columns, also added to what is there, and of fewer rows \
                down to one; with shares of the head's columns over one to eight rows too.",
    samples: 0,
    expected_s: 6.0,
    deadline_s: 200.0,
    kernels: KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run: basis,
};

fn basis(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    let tools = bench::tools(gpu, &mut |source| lab.module(gpu, source, recorder))?;
    for (at, (n, k)) in Config::SEED_002.products().into_iter().enumerate() {
        let name = &format!("{n}x{k}");
        recorder.progress(name);
        let seed = assignment.seed + 8 * at as u64;
        let product = Product::new(gpu, &tools, (ROWS, n, k), seed)?;
        let place = |what| [("product", name.as_str()), ("what", what)];
        let metric = |what, count: u64| Metric::exact(METRIC, &place(what), &[index], count as f64);
        let (count, algorithms) = product.algorithms()?;
        recorder.option(&format!("algorithms of {name}"), algorithms.join("; "));
        recorder.metric(metric("algorithms", count));
        recorder.metric(metric("columns", product.columns(LIBRARY)?));
        if n == SUMMED {
            recorder.metric(metric("summed", product.summed(seed + 2, LIBRARY)?));
        }
        for rows in FEWER_ROWS {
            let rows_name = rows.to_string();
            let place =
                [("product", name.as_str()), ("what", "rows"), ("rows", rows_name.as_str())];
            let count = product.rows(rows, LIBRARY)? as f64;
            recorder.metric(Metric::exact(METRIC, &place, &[index], count));
        }
        if name == "8192x32768" {
            let control = "halves-in-another-order";
            recorder.control(control, metric("algorithms", product.halves()?));
            let (buffer, first) = (&product.b, 12_345);
            operands::flip_bit(&tools.patterns, gpu.stream(), buffer, Element::F16, first, 0)?;
            recorder.control("flipped-bit", metric("columns", product.columns(LIBRARY)?));
        }
    }
    recorder.progress("head");
    let mut count = 0;
    for rows in [1, 4, 8] {
        count +=
            Product::new(gpu, &tools, (rows, HEAD.1, HEAD.2), assignment.seed)?.columns(LIBRARY)?;
    }
    let place = [("product", HEAD.0), ("what", "head")];
    recorder.metric(Metric::exact(METRIC, &place, &[index], count as f64));
    lab.close(recorder);
    Ok(())
}

/// By what a product is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum By<'a> {
    /// The first algorithm of cuBLASLt's heuristic.
    Library {
        /// With fast accumulation, which E4M3 alone has.
        fast: bool,
    },
    /// The own kernel for E4M3.
    Own(&'a Promoted),
}

/// Scales of an E4M3 product, one for each row of A and of B, and room for those of a part.
struct RowScales {
    whole: [Buffer; 2],
    part: [Buffer; 2],
}

impl RowScales {
    /// Random ones for `m` and `n` rows.
    fn new(gpu: &Gpu, tools: &Tools, rows: [u32; 2], seed: u64) -> Result<RowScales, Stop> {
        let alloc = |rows: u32| gpu.alloc(4 * u64::from(rows).next_multiple_of(4));
        let pair = || Ok::<_, Stop>([alloc(rows[0])?, alloc(rows[1])?]);
        let (whole, part) = (pair()?, pair()?);
        for (scales, seed) in whole.iter().zip([seed, seed + 1]) {
            let (stream, count) = (gpu.stream(), scales.len_bytes() / 4);
            tools.operands.fill_scales(stream, scales, count, seed, Scales::Random)?;
        }
        Ok(RowScales { whole, part })
    }

    /// Those from a row of A and a row of B on, in stream order.
    fn starting_at(
        &self,
        gpu: &Gpu,
        first: [u32; 2],
        rows: [u32; 2],
    ) -> Result<[&Buffer; 2], Stop> {
        for at in [0, 1] {
            let (from, bytes) = (4 * u64::from(first[at]), 4 * u64::from(rows[at]));
            let (whole, part) = (&self.whole[at], &self.part[at]);
            // SAFETY: both live until the stream is drained by the comparison behind each product, and work of this
            // stream alone touches them.
            unsafe { kernels::peer::copy(gpu.stream(), (whole, from), (part, 0), bytes)? };
        }
        Ok([&self.part[0], &self.part[1]])
    }
}

/// A product with its result.
pub(super) struct Product<'a> {
    gpu: &'a Gpu,
    tools: &'a Tools,
    request: Request,
    a: Buffer,
    pub(super) b: Buffer,
    scales: Option<RowScales>,
    /// The result, by the first algorithm where cuBLASLt makes it.
    first: Buffer,
    /// Another one.
    other: Buffer,
}

impl<'a> Product<'a> {
    fn new(
        gpu: &'a Gpu,
        tools: &'a Tools,
        sizes: (u32, u32, u32),
        seed: u64,
    ) -> Result<Self, Stop> {
        Product::of((gpu, tools), (Dtype::F16, [1.0, 0.02]), sizes, seed, LIBRARY)
    }

    /// A product of a type, fp16 or [`Dtype::E4m3RowHalf`], of normal-like data with these deviations.
    pub(super) fn of(
        (gpu, tools): (&'a Gpu, &'a Tools),
        (dtype, deviations): (Dtype, [f32; 2]),
        (m, n, k): (u32, u32, u32),
        seed: u64,
        by: By<'_>,
    ) -> Result<Self, Stop> {
        let request = Request::new(dtype, m, n, k);
        let [a, b, d] = request.matrix_bytes();
        let (a, b) = (gpu.alloc(a)?, gpu.alloc(b)?);
        for (buffer, seed, scale) in [(&a, seed, deviations[0]), (&b, seed + 1, deviations[1])] {
            let element = dtype.input();
            let count = buffer.len_bytes() / element.bytes();
            let values = Values::Normals { scale };
            tools.operands.fill(gpu.stream(), buffer, element, count, seed, values)?;
        }
        let scales = match dtype.is_fp8() {
            true => Some(RowScales::new(gpu, tools, [m, n], seed + 4)?),
            false => None,
        };
        let (first, other) = (gpu.alloc(d)?, gpu.alloc(d)?);
        let product = Product { gpu, tools, request, a, b, scales, first, other };
        // Others are poisoned: what nothing writes differs.
        product.first.fill_u32(gpu.stream(), 0)?;
        product.run(request, ([0; 2], 0), &product.first, by)?;
        Ok(product)
    }

    fn lt(&self) -> &Lt {
        &self.tools.lt
    }

    fn operands<'b>(&'b self, d: &'b Buffer, first: [u64; 3]) -> Operands<'b> {
        let (scale_a, scale_b) = (None, None);
        Operands { a: &self.a, b: &self.b, d, scale_a, scale_b, alpha: 1.0, first }
    }

    /// Enqueues a request from a row of A and a row of B on, into D from element `at` on.
    fn run(
        &self,
        request: Request,
        ([row, column], at): ([u32; 2], u64),
        d: &Buffer,
        by: By<'_>,
    ) -> Result<(), Stop> {
        let k = u64::from(request.k);
        let first = [u64::from(row) * k, u64::from(column) * k, at];
        let mut operands = self.operands(d, first);
        if let Some(scales) = &self.scales {
            let [a, b] = scales.starting_at(self.gpu, [row, column], [request.m, request.n])?;
            (operands.scale_a, operands.scale_b) = (Some(a), Some(b));
        }
        let stream = self.gpu.stream();
        match by {
            By::Library { fast } => {
                let request = Request { fast_accumulation: fast, ..request };
                let plan = Plan::heuristic_first(self.gpu, self.lt(), request, &operands)?;
                plan.run(stream, &operands)?;
            }
            By::Own(kernel) => kernel.run(stream, &request, &operands)?,
        }
        Ok(())
    }

    /// The algorithms that cuBLASLt's heuristic offers for the whole.
    pub(super) fn offered(&self) -> Result<Vec<String>, Stop> {
        let mut operands = self.operands(&self.other, [0; 3]);
        if let Some(RowScales { whole: [a, b], .. }) = &self.scales {
            (operands.scale_a, operands.scale_b) = (Some(a), Some(b));
        }
        let plans = Plan::each(self.gpu, self.lt(), self.request, &operands, MOST_CANDIDATES)?;
        Ok(plans.iter().map(|plan| bench::algorithm(plan.choice())).collect())
    }

    /// Elements of a part of the result, `rows` x `columns` from element `at` on, that differ from the
    /// packed rows of `other`.
    fn differing(&self, at: u64, rows: u32, columns: u32) -> Result<u64, Stop> {
        let whole = Matrix { buffer: &self.first, first: at, row: self.request.n.into() };
        let part = Matrix::packed(&self.other, columns);
        let sizes = (rows.into(), columns.into());
        let stream = self.gpu.stream();
        let kernels = &self.tools.kernels;
        Ok(kernels.difference(stream, (part, whole), sizes, self.gpu)?.count)
    }

    /// Runs every algorithm; returns how many elements differ, and the algorithms.
    fn algorithms(&self) -> Result<(u64, Vec<String>), Stop> {
        let operands = self.operands(&self.other, [0; 3]);
        let request = self.request;
        let plans = Plan::each(self.gpu, self.lt(), request, &operands, MOST_CANDIDATES)?;
        let (mut count, mut names) = (0, Vec::new());
        for plan in &plans {
            self.other.poison(self.gpu.stream())?;
            plan.run(self.gpu.stream(), &operands)?;
            count += self.differing(0, request.m, request.n)?;
            names.push(bench::algorithm(plan.choice()));
        }
        Ok((count, names))
    }

    /// Runs a request from a row of A and a row of B on; returns what differs from the whole product.
    fn part(&self, request: Request, from: [u32; 2], by: By<'_>) -> Result<u64, Stop> {
        self.other.poison(self.gpu.stream())?;
        self.run(request, (from, 0), &self.other, by)?;
        let at = u64::from(from[0]) * u64::from(self.request.n) + u64::from(from[1]);
        self.differing(at, request.m, request.n)
    }

    /// Every share of the columns, at every degree.
    pub(super) fn columns(&self, by: By<'_>) -> Result<u64, Stop> {
        let mut count = 0;
        for degree in DEGREES {
            let n = self.request.n / degree;
            for rank in 0..degree {
                count += self.part(Request { n, ..self.request }, [0, rank * n], by)?;
            }
        }
        Ok(count)
    }

    /// Every share of the columns, at every degree, added where they lie to what is there.
    pub(super) fn summed(&self, seed: u64, by: By<'_>) -> Result<u64, Stop> {
        let Request { m, n, .. } = self.request;
        let fill = |buffer: &Buffer| -> Result<(), Stop> {
            let (stream, count) = (self.gpu.stream(), buffer.len_bytes() / 2);
            let values = Values::Normals { scale: 8.0 };
            Ok(self.tools.operands.fill(stream, buffer, Element::F16, count, seed, values)?)
        };
        let whole = self.gpu.alloc(self.first.len_bytes())?;
        fill(&whole)?;
        let request = Request { accumulate: true, row_d: Some(n), ..self.request };
        self.run(request, ([0; 2], 0), &whole, by)?;
        let mut count = 0;
        for degree in DEGREES {
            fill(&self.other)?;
            for rank in 0..degree {
                let column = rank * (n / degree);
                let request = Request { n: n / degree, ..request };
                self.run(request, ([0, column], column.into()), &self.other, by)?;
            }
            let pair = (Matrix::packed(&self.other, n), Matrix::packed(&whole, n));
            let sizes = (m.into(), n.into());
            let (kernels, stream) = (&self.tools.kernels, self.gpu.stream());
            count += kernels.difference(stream, pair, sizes, self.gpu)?.count;
        }
        Ok(count)
    }

    /// The last rows alone.
    pub(super) fn rows(&self, rows: u32, by: By<'_>) -> Result<u64, Stop> {
        self.part(Request { m: rows, ..self.request }, [ROWS - rows, 0], by)
    }

    /// The planted other order: the second half of k first, rounded, then the first half added.
    fn halves(&self) -> Result<u64, Stop> {
        let half = self.request.k / 2;
        // Eight columns of the result: eight rows of B, whose halves are packed, since a plan's B is.
        let request = Request { k: half, row_a: Some(self.request.k), n: 8, ..self.request };
        let stream = self.gpu.stream();
        let packed = [self.gpu.alloc(16 * u64::from(half))?, self.gpu.alloc(16 * u64::from(half))?];
        for (part, to) in packed.iter().enumerate() {
            let offset = part as u64 * 2 * u64::from(half);
            let pitch = 2 * u64::from(self.request.k);
            let from = kernels::peer::Rows { buffer: &self.b, offset, pitch };
            let to = kernels::peer::Rows { buffer: to, offset: 0, pitch: 2 * u64::from(half) };
            // SAFETY: both buffers live until the stream is drained by `differing`, and nothing else
            // writes them.
            unsafe { kernels::peer::copy_rows(stream, from, to, 2 * u64::from(half), 8)? };
        }
        self.other.poison(stream)?;
        for (accumulate, part) in [(false, 1), (true, 0)] {
            let request = Request { accumulate, ..request };
            let first = [part as u64 * u64::from(half), 0, 0];
            let operands = Operands { b: &packed[part], ..self.operands(&self.other, first) };
            Plan::heuristic_first(self.gpu, self.lt(), request, &operands)?
                .run(stream, &operands)?;
        }
        self.differing(0, self.request.m, 8)
    }
}
