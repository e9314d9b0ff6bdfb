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
use kernels::operands::{self, Values};

use super::bench::{self, KERNELS};
use crate::lab::{self, Lab};

/// Elements whose bits differ.
pub const METRIC: &str = "differing_count";

/// Rows of every product.
const ROWS: u32 = 8192;
/// Columns of the products that are added to the residual stream where they lie.
const SUMMED: u32 = 8192;
/// The head, whose rows are the sequences.
const HEAD: (&str, u32, u32) = ("50304x8192", 50304, 8192);
const DEGREES: [u32; 3] = [2, 4, 8];
/// Rows that are taken alone, from the end of the product.
const FEWER_ROWS: [u32; 8] = [4096, 2048, 1024, 512, 128, 64, 16, 1];

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
        recorder.metric(metric("columns", product.columns()?));
        if n == SUMMED {
            recorder.metric(metric("summed", product.summed(seed + 2)?));
        }
        for rows in FEWER_ROWS {
            let rows_name = rows.to_string();
            let place =
                [("product", name.as_str()), ("what", "rows"), ("rows", rows_name.as_str())];
            let count = product.rows(rows)? as f64;
            recorder.metric(Metric::exact(METRIC, &place, &[index], count));
        }
        if name == "8192x32768" {
            let control = "halves-in-another-order";
            recorder.control(control, metric("algorithms", product.halves()?));
            let (buffer, first) = (&product.b, 12_345);
            operands::flip_bit(&tools.patterns, gpu.stream(), buffer, Element::F16, first, 0)?;
            recorder.control("flipped-bit", metric("columns", product.columns()?));
        }
    }
    recorder.progress("head");
    let mut count = 0;
    for rows in [1, 4, 8] {
        count += Product::new(gpu, &tools, (rows, HEAD.1, HEAD.2), assignment.seed)?.columns()?;
    }
    let place = [("product", HEAD.0), ("what", "head")];
    recorder.metric(Metric::exact(METRIC, &place, &[index], count as f64));
    lab.close(recorder);
    Ok(())
}

/// A product with its result by the first algorithm.
struct Product<'a> {
    gpu: &'a Gpu,
    tools: &'a Tools,
    request: Request,
    a: Buffer,
    b: Buffer,
    /// The first algorithm's result.
    first: Buffer,
    /// Another one.
    other: Buffer,
}

impl<'a> Product<'a> {
    fn new(
        gpu: &'a Gpu,
        tools: &'a Tools,
        (m, n, k): (u32, u32, u32),
        seed: u64,
    ) -> Result<Self, Stop> {
        let request = Request::new(Dtype::F16, m, n, k);
        let [a, b, d] = request.matrix_bytes();
        let (a, b) = (gpu.alloc(a)?, gpu.alloc(b)?);
        for (buffer, seed, scale) in [(&a, seed, 1.0), (&b, seed + 1, 0.02)] {
            let count = buffer.len_bytes() / 2;
            let values = Values::Normals { scale };
            tools.operands.fill(gpu.stream(), buffer, Element::F16, count, seed, values)?;
        }
        let (first, other) = (gpu.alloc(d)?, gpu.alloc(d)?);
        let product = Product { gpu, tools, request, a, b, first, other };
        let operands = product.operands(&product.first, [0; 3]);
        let plan = Plan::heuristic_first(gpu, product.lt(), request, &operands)?;
        plan.run(gpu.stream(), &operands)?;
        Ok(product)
    }

    fn lt(&self) -> &Lt {
        &self.tools.lt
    }

    fn operands<'b>(&'b self, d: &'b Buffer, first: [u64; 3]) -> Operands<'b> {
        let (scale_a, scale_b) = (None, None);
        Operands { a: &self.a, b: &self.b, d, scale_a, scale_b, alpha: 1.0, first }
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

    /// Runs a request from places in A and B; returns what differs from the whole product.
    fn part(&self, request: Request, [row, column]: [u32; 2]) -> Result<u64, Stop> {
        let k = u64::from(request.k);
        let first = [u64::from(row) * k, u64::from(column) * k, 0];
        let operands = self.operands(&self.other, first);
        self.other.poison(self.gpu.stream())?;
        let plan = Plan::heuristic_first(self.gpu, self.lt(), request, &operands)?;
        plan.run(self.gpu.stream(), &operands)?;
        let at = u64::from(row) * u64::from(self.request.n) + u64::from(column);
        self.differing(at, request.m, request.n)
    }

    /// Every share of the columns, at every degree.
    fn columns(&self) -> Result<u64, Stop> {
        let mut count = 0;
        for degree in DEGREES {
            let n = self.request.n / degree;
            for rank in 0..degree {
                count += self.part(Request { n, ..self.request }, [0, rank * n])?;
            }
        }
        Ok(count)
    }

    /// Every share of the columns, at every degree, added where they lie to what is there.
    fn summed(&self, seed: u64) -> Result<u64, Stop> {
        let Request { m, n, .. } = self.request;
        let fill = |buffer: &Buffer| -> Result<(), Stop> {
            let (stream, count) = (self.gpu.stream(), buffer.len_bytes() / 2);
            let values = Values::Normals { scale: 8.0 };
            Ok(self.tools.operands.fill(stream, buffer, Element::F16, count, seed, values)?)
        };
        let run = |d: &Buffer, request: Request, column: u64| -> Result<(), Stop> {
            let first = [0, column * u64::from(request.k), column];
            let operands = self.operands(d, first);
            let plan = Plan::heuristic_first(self.gpu, self.lt(), request, &operands)?;
            Ok(plan.run(self.gpu.stream(), &operands)?)
        };
        let whole = self.gpu.alloc(self.first.len_bytes())?;
        fill(&whole)?;
        let request = Request { accumulate: true, row_d: Some(n), ..self.request };
        run(&whole, request, 0)?;
        let mut count = 0;
        for degree in DEGREES {
            fill(&self.other)?;
            for rank in 0..degree {
                let column = u64::from(rank * (n / degree));
                run(&self.other, Request { n: n / degree, ..request }, column)?;
            }
            let pair = (Matrix::packed(&self.other, n), Matrix::packed(&whole, n));
            let sizes = (m.into(), n.into());
            let (kernels, stream) = (&self.tools.kernels, self.gpu.stream());
            count += kernels.difference(stream, pair, sizes, self.gpu)?.count;
        }
        Ok(count)
    }

    /// The last rows alone.
    fn rows(&self, rows: u32) -> Result<u64, Stop> {
        self.part(Request { m: rows, ..self.request }, [ROWS - rows, 0])
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
