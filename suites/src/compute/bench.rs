//! One type of product on one GPU: operands, plan, timing and checks.

use harness::evidence::Metric;
use harness::record::{Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::matmul::{self, Dtype, Lt, Plan, Request, Search, WORKSPACE_BYTES};
use kernels::operands::{self, Operands, Scales, Values};
use kernels::pattern::Patterns;
use kernels::product::{self, Accumulation, Checker, Product, Scale};
use kernels::timing::{self, Timer};
use kernels::{operands as operand_kernels, pattern};

use super::Kind;
use crate::lab::Lab;

/// A product's size: D[m, n] = A[m, k] B[n, k]^T.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// As evidence names it.
    pub name: &'static str,
    /// Rows of A.
    pub m: u32,
    /// Rows of B.
    pub n: u32,
    /// Columns of both.
    pub k: u32,
}

/// Elements of a random product that are compared with f64.
const DRAWN: u32 = 4096;
/// Rest before each short sample: a quarter of the time keeps the GPU under its power limit, so that
/// the rate is the chip's and not the limit's. The sustained cases measure the limit.
const REST: u32 = 3;
/// Timed runs of each algorithm that is tried.
const SEARCH_ROUNDS: usize = 3;

/// A planned product with its matrices.
pub struct Job {
    plan: Plan,
    a: Buffer,
    b: Buffer,
    d: Buffer,
    scale_a: Option<Buffer>,
    scale_b: Option<Buffer>,
}

impl Job {
    fn operands(&self) -> matmul::Operands<'_> {
        matmul::Operands {
            a: &self.a,
            b: &self.b,
            d: &self.d,
            scale_a: self.scale_a.as_ref(),
            scale_b: self.scale_b.as_ref(),
            alpha: 1.0,
            first: [0; 3],
        }
    }

    fn request(&self) -> &Request {
        self.plan.request()
    }
}

/// One type of product on one GPU.
pub struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    lt: &'a Lt,
    kind: Kind,
    seed: u64,
    operands: Operands,
    checker: Checker,
    patterns: Patterns,
    timer: Timer,
}

impl<'a> Bench<'a> {
    /// Loads the kernels.
    pub fn new(
        lab: &Lab,
        gpu: &'a Gpu,
        index: u32,
        lt: &'a Lt,
        kind: Kind,
        seed: u64,
        recorder: &mut Recorder,
    ) -> Result<Bench<'a>, Stop> {
        let operands = Operands::new(gpu, &lab.module(gpu, &operand_kernels::SOURCE, recorder)?)?;
        let checker = Checker::new(&lab.module(gpu, &product::SOURCE, recorder)?)?;
        let patterns = Patterns::new(gpu, &lab.module(gpu, &pattern::SOURCE, recorder)?)?;
        let timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
        recorder.option("compute_type", kind.dtype.compute_name());
        recorder.option("fast_accumulation", kind.dtype.is_fp8());
        recorder.option("workspace_bytes", WORKSPACE_BYTES);
        recorder.option("cublaslt", lt.version());
        recorder.mode("dtype", kind.name, kind.name);
        Ok(Bench { gpu, index, lt, kind, seed, operands, checker, patterns, timer })
    }

    /// Random operands and the fastest of `candidates` algorithms for them, tried with a rest of so
    /// many times each run.
    pub fn job(&self, shape: Shape, candidates: usize, rest: u32) -> Result<Job, Stop> {
        let dtype = self.kind.dtype;
        let request = Request {
            fast_accumulation: dtype.is_fp8(),
            workspace_bytes: WORKSPACE_BYTES,
            split_k: true,
            ..Request::new(dtype, shape.m, shape.n, shape.k)
        };
        let [a, b, d] = request.matrix_bytes();
        let (a, b, d) = (self.gpu.alloc(a)?, self.gpu.alloc(b)?, self.gpu.alloc(d)?);
        let scales = |rows: u32| match dtype {
            Dtype::E4m3Tensor => self.gpu.alloc(16).map(Some),
            Dtype::E4m3Row => self.gpu.alloc(4 * u64::from(rows)).map(Some),
            _ => Ok(None),
        };
        let (scale_a, scale_b) = (scales(shape.m)?, scales(shape.n)?);
        let random = match dtype {
            Dtype::Int8 => Values::FullInt8,
            _ => Values::Normals { scale: 1.0 },
        };
        let all = (&a, &b, scale_a.as_ref(), scale_b.as_ref());
        self.fill(&request, all, random, Scales::Random, self.seed)?;
        let operands = matmul::Operands {
            a: &a,
            b: &b,
            d: &d,
            scale_a: scale_a.as_ref(),
            scale_b: scale_b.as_ref(),
            alpha: 1.0,
            first: [0; 3],
        };
        let search = Search { candidates, rounds: SEARCH_ROUNDS, rest };
        let plan = Plan::search(self.gpu, self.lt, request, &operands, search)?;
        d.poison(self.gpu.stream())?;
        self.gpu.synchronize()?;
        Ok(Job { plan, a, b, d, scale_a, scale_b })
    }

    fn fill(
        &self,
        request: &Request,
        (a, b, scale_a, scale_b): (&Buffer, &Buffer, Option<&Buffer>, Option<&Buffer>),
        values: Values,
        scales: Scales,
        seed: u64,
    ) -> Result<(), Stop> {
        let stream = self.gpu.stream();
        let input = request.dtype.input();
        let elements = |rows: u32| u64::from(rows) * u64::from(request.k);
        self.operands.fill(stream, a, input, elements(request.m), seed, values)?;
        self.operands.fill(stream, b, input, elements(request.n), seed + 1, values)?;
        for (buffer, seed) in [(scale_a, seed + 2), (scale_b, seed + 3)] {
            if let Some(buffer) = buffer {
                let count = buffer.len_bytes() / 4;
                self.operands.fill_scales(stream, buffer, count, seed, scales)?;
            }
        }
        Ok(())
    }

    /// Writes down which algorithm runs and how it was found.
    pub fn describe(&self, job: &Job, recorder: &mut Recorder) {
        let choice = job.plan.choice();
        let algorithm = &choice.algorithm;
        let Request { m, n, k, .. } = job.request();
        recorder.option(
            &format!("algorithm.{m}x{n}x{k}"),
            format!(
                "id {} tile {} stages {} split_k {} reduction {} swizzle {} custom {} inner {} \
                 cluster {} workspace {} rank {} of {} tried {}",
                algorithm.id,
                algorithm.tile_id,
                algorithm.stages_id,
                algorithm.split_k,
                algorithm.reduction_scheme,
                algorithm.swizzle,
                algorithm.custom_option,
                algorithm.inner_shape_id,
                algorithm.cluster_shape_id,
                choice.workspace_bytes,
                choice.rank,
                choice.candidates,
                choice.tried,
            ),
        );
    }

    /// Tera-operations a second of `counted`, one number a launch; each launch does the product
    /// `times` times.
    pub fn rates(
        &mut self,
        job: &Job,
        counted: Shape,
        times: u32,
        samples: u32,
    ) -> Result<Vec<f64>, Stop> {
        let plan = timing::Plan {
            warmup: 3,
            samples,
            fewest_samples: samples,
            launches: 1,
            budget: None,
            rest: REST,
        };
        self.timed(job, counted, times, plan)
    }

    /// As [`Bench::rates`], by a plan of the caller's.
    pub fn timed(
        &mut self,
        job: &Job,
        counted: Shape,
        times: u32,
        plan: timing::Plan,
    ) -> Result<Vec<f64>, Stop> {
        let operands = job.operands();
        let milliseconds = self.timer.measure(plan, None, |stream| {
            (0..times).try_for_each(|_| job.plan.run(stream, &operands))
        })?;
        let operations = 2.0 * f64::from(counted.m) * f64::from(counted.n) * f64::from(counted.k);
        let rate = |ms: &f64| (operations / ms / 1e9 * 100.0).round() / 100.0;
        Ok(milliseconds.iter().map(rate).collect())
    }

    /// Milliseconds of each sample.
    pub fn milliseconds(&mut self, job: &Job, plan: timing::Plan) -> Result<Vec<f64>, Stop> {
        let operands = job.operands();
        Ok(self.timer.measure(plan, None, |stream| job.plan.run(stream, &operands))?)
    }

    /// Integrity metrics of the product whose output the timed launches left, then of an integer
    /// product by the same algorithm.
    pub fn check(&self, job: &Job) -> Result<Vec<(&'static str, u64)>, Stop> {
        if self.kind.dtype == Dtype::Int8 {
            return Ok(vec![("wrong_count", self.wrong(job)?)]);
        }
        let nonfinite = self.nonfinite(job)?;
        let outside = self.outside_bound(job)?;
        self.integers(job)?;
        Ok(vec![
            ("wrong_count", self.wrong(job)?),
            ("outside_bound_count", outside),
            ("nonfinite_count", nonfinite),
        ])
    }

    /// The integrity metrics again, each with its fault planted. The job holds integers when this
    /// begins, as [`Bench::check`] left them.
    pub fn planted(&self, job: &Job) -> Result<Vec<(&'static str, &'static str, u64)>, Stop> {
        let stream = self.gpu.stream();
        let output = job.request().dtype.output();
        if self.kind.dtype == Dtype::Int8 {
            // The timed control wrote the product once more; it is whole.
            operands::flip_bit(&self.patterns, stream, &job.d, output, 1_234_567, 0)?;
            return Ok(vec![("flipped-bit", "wrong_count", self.wrong(job)?)]);
        }
        self.integers(job)?;
        operands::flip_bit(&self.patterns, stream, &job.d, output, 1_234_567, 0)?;
        let flipped = self.wrong(job)?;
        self.random(job, self.seed)?;
        job.plan.run(stream, &job.operands())?;
        self.random(job, self.seed + 17)?;
        let shifted = self.outside_bound(job)?;
        job.d.poison(stream)?;
        let unwritten = self.nonfinite(job)?;
        Ok(vec![
            ("flipped-bit", "wrong_count", flipped),
            ("shifted-operand", "outside_bound_count", shifted),
            ("unwritten-output", "nonfinite_count", unwritten),
        ])
    }

    /// Fills the job with random data.
    fn random(&self, job: &Job, seed: u64) -> Result<(), Stop> {
        let all = (&job.a, &job.b, job.scale_a.as_ref(), job.scale_b.as_ref());
        self.fill(job.request(), all, Values::Normals { scale: 1.0 }, Scales::Random, seed)
    }

    /// Fills the job with integers, poisons the output and multiplies once by the same algorithm.
    fn integers(&self, job: &Job) -> Result<(), Stop> {
        let request = job.request();
        let density_ppm =
            operands::exact_density_ppm(request.dtype.output(), request.k, job.scale_a.is_some());
        let all = (&job.a, &job.b, job.scale_a.as_ref(), job.scale_b.as_ref());
        let values = Values::Integers { density_ppm };
        self.fill(request, all, values, Scales::PowersOfTwo, self.seed)?;
        job.d.poison(self.gpu.stream())?;
        job.plan.run(self.gpu.stream(), &job.operands())?;
        Ok(self.gpu.synchronize()?)
    }

    fn product<'j>(&self, job: &'j Job) -> Product<'j> {
        let Request { dtype, m, n, k, .. } = *job.request();
        let scale = |buffer: &'j Option<Buffer>| match (buffer, dtype) {
            (Some(buffer), Dtype::E4m3Row) => Scale::Rows(buffer),
            (Some(buffer), _) => Scale::Tensor(buffer),
            (None, _) => Scale::Unit,
        };
        Product {
            a: &job.a,
            b: &job.b,
            d: &job.d,
            m,
            n,
            k,
            input: dtype.input(),
            output: dtype.output(),
            scale_a: scale(&job.scale_a),
            scale_b: scale(&job.scale_b),
            alpha: 1.0,
        }
    }

    /// Rows with a wrong element, and elements that are no integers at all.
    fn wrong(&self, job: &Job) -> Result<u64, Stop> {
        let product = self.product(job);
        let found = self.checker.freivalds(self.gpu, self.gpu.stream(), &product, self.seed + 4)?;
        Ok(found.rows + found.not_integral)
    }

    /// Drawn elements whose error is outside the derived bound.
    fn outside_bound(&self, job: &Job) -> Result<u64, Stop> {
        let request = job.request();
        let accumulation = Accumulation::of(request.dtype.input(), request.fast_accumulation);
        let drawn = self.checker.sample(
            self.gpu,
            self.gpu.stream(),
            &self.product(job),
            DRAWN,
            self.seed + 5,
            accumulation,
        )?;
        let inside = drawn.samples.iter().filter(|sample| sample.error <= sample.bound).count();
        Ok((drawn.samples.len() - inside) as u64)
    }

    fn nonfinite(&self, job: &Job) -> Result<u64, Stop> {
        let request = job.request();
        let elements = u64::from(request.m) * u64::from(request.n);
        let output: Element = request.dtype.output();
        let stream = self.gpu.stream();
        Ok(self.operands.count_nonfinite(stream, &job.d, output, elements)?)
    }

    /// A rate at a size.
    pub fn rate_metric(&self, shape: Shape, rates: Vec<f64>) -> Metric {
        let at: &[(&str, &str)] = &[("dtype", self.kind.name), ("m_n_k", shape.name)];
        Metric::sampled(self.kind.metric, at, &[self.index], rates)
    }

    /// An integrity metric over all sizes, a value each in the order of [`super::SHAPES`].
    pub fn counts(&self, name: &str, values: Vec<f64>) -> Metric {
        let at: &[(&str, &str)] = &[("dtype", self.kind.name), ("m_n_k", "each")];
        Metric { values, ..Metric::exact(name, at, &[self.index], 0.0) }
    }

    /// An integrity metric at a size.
    pub fn exact(&self, name: &str, shape: Shape, value: u64) -> Metric {
        let at: &[(&str, &str)] = &[("dtype", self.kind.name), ("m_n_k", shape.name)];
        Metric::exact(name, at, &[self.index], value as f64)
    }
}
