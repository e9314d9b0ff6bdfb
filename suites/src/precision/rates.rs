//! What quantising costs: each quantiser beside a copy of as many bytes, fused kernels beside two, and the
//! FP8 products of a model with their quantisation beside the fp16 ones.

pub mod large;
pub mod promoted;

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, CudaStream, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::{self, Dtype, Lt, Request, Search, WORKSPACE_BYTES};
use kernels::model::{self, Affine, Config, EPSILON, Kernels, Matrix};
use kernels::operands::{self, Operands, Values};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme, Source};
use kernels::stream::{self, Fault, Kind, Streaming};
use kernels::tensorcore::{Adder, dot};
use kernels::timing::{self, InTurn, Plan, Timer};
use kernels::variant::{self, Variant};

use super::accumulator;
use super::products::{has_e4m3, offered};
use crate::lab::{self, Lab};

/// A quantiser's bytes a second over a copy's.
pub const OVER_COPY: &str = "over_copy_ratio";
/// Two kernels' time over the fused one's.
pub const FUSED: &str = "fused_speedup_ratio";
/// Codes that a timed quantiser left wrong, of its first and its last rows, and largest magnitudes.
const WRONG: &str = "wrong_count";
/// Rows of either end that are looked at.
const LOOKED_AT: u64 = 128;
/// fp16's time over that of FP8 with its quantisation.
pub const SPEEDUP: &str = "fp8_speedup_ratio";

const SAMPLES: usize = 15;
const CONTROL_SAMPLES: usize = 9;
const PRODUCT_SAMPLES: usize = 9;
/// Launches of a sample of a quantiser.
const LAUNCHES: u32 = 8;
/// Tokens of a model's products.
const TOKENS: u32 = 8192;
const ROWS: u64 = TOKENS as u64;

/// Where a quantiser's largest magnitude comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Magnitude {
    /// It is known before, or the scheme finds it where it needs one.
    Given,
    /// From a history; the matrix's own is recorded in the same pass.
    Delayed,
    /// A pass of its own finds it.
    Current,
}

/// A scheme over a matrix, and the name of its row in evidence.
#[derive(Debug, Clone, Copy)]
struct Job {
    name: &'static str,
    scheme: Scheme,
    rows: u64,
    columns: u32,
    magnitude: Magnitude,
}

const fn job(name: &'static str, scheme: Scheme, columns: u32) -> Job {
    Job { name, scheme, rows: ROWS, columns, magnitude: Magnitude::Given }
}

const fn delayed(name: &'static str, columns: u32) -> Job {
    Job { magnitude: Magnitude::Delayed, ..job(name, Scheme::Tensor, columns) }
}

const fn current(name: &'static str, columns: u32) -> Job {
    Job { magnitude: Magnitude::Current, ..job(name, Scheme::Tensor, columns) }
}

impl Job {
    /// Fewest bytes that must move: halves, once for each pass that reads them, codes and scales.
    fn moved_bytes(self) -> u64 {
        let once = self.scheme.moved_bytes(self.rows, self.columns);
        match self.magnitude {
            Magnitude::Current => once + 2 * self.rows * u64::from(self.columns),
            _ => once,
        }
    }
}

const JOBS: [Job; 15] = [
    job("tensor", Scheme::Tensor, 8192),
    delayed("tensor-delayed", 8192),
    delayed("tensor-delayed-long", 32768),
    current("tensor-current", 8192),
    current("tensor-current-long", 32768),
    job("row", Scheme::Row, 8192),
    job("row-long", Scheme::Row, 32768),
    job("gelu-row", Scheme::GeluRow, 8192),
    job("gelu-row-long", Scheme::GeluRow, 32768),
    job("norm-row", Scheme::NormRow, 8192),
    job("block-1x128", Scheme::Block128, 8192),
    job("block-128x128", Scheme::Square128, 8192),
    job("nvfp4", Scheme::Nvfp4, 8192),
    job("mxfp8", Scheme::Mxfp8, 8192),
    job("mxfp4", Scheme::Mxfp4, 8192),
];

/// The magnitude by which halves are scaled where it is given: larger than any of them, which end below 3.5.
const GIVEN: f32 = 4.0;
/// Magnitudes of a history, of which the last is [`GIVEN`] and the others are less.
const HISTORY: u64 = 16;
/// Jobs at which faults are planted.
const TRIED: [&str; 3] = ["row", "tensor-delayed", "tensor-current"];

static CONTROLS: [Control; 4] = [
    Control {
        name: "half-the-rows",
        fault: "the second half of the rows is not quantised",
        trips: WRONG,
        expect: Expect::Corrupt,
    },
    Control {
        name: "stale-magnitude",
        fault: "the word for the largest magnitude still holds a larger one of another matrix",
        trips: WRONG,
        expect: Expect::Corrupt,
    },
    Control {
        name: "quantised-twice",
        fault: "the matrix is quantised twice and counted once",
        trips: OVER_COPY,
        expect: Expect::Refuted,
    },
    Control {
        name: "not-fused",
        fault: "norm and quantiser are two kernels on both sides",
        trips: FUSED,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::quantiser-rates",
    revision: 4,
    figures_since: 2,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "8192 rows of 8192 or 32768 halves are quantised, and as many bytes are copied, half of them \
                read and half written, a sample of each in turn, 8 launches a sample, enqueued behind a \
                latch. Bytes are the halves, the codes and the scales. By tensor the largest magnitude is known before, or is \
                that of a history of 16 while the matrix's own is recorded in the same pass (what turns a history, once a \
                step for all matrices, is not counted), or is found by a pass of its own, which zeroes a word and \
                reads the halves once more: those bytes count a second time. Layer norm and quantiser in one kernel beside \
                the model's norm and the quantiser of rows, likewise. Codes are poisoned before, and afterwards \
                the first and last 128 rows are compared with those rows quantised alone, whose codes \
                precision::quantisers judges, and what was recorded or found with the largest magnitude found once more.",
    samples: SAMPLES,
    expected_s: 6.0,
    deadline_s: 240.0,
    kernels: &["quantise", "model", "operands", "timing", "stream", "pattern"],
    integrity: &[WRONG],
    controls: &CONTROLS,
    run: quantisers,
};

/// Results of timed products that are no numbers.
const UNWRITTEN: &str = "nonfinite_count";
/// Drawn elements of timed products whose bits are not those of the model of E4M3's adder with the groups that are asked
/// for.
const UNPREDICTED: &str = accumulator::UNPREDICTED;
/// Drawn elements of each product.
const DRAWN: u32 = 64;

static PRODUCT_CONTROLS: [Control; 3] = [
    Control {
        name: "fast-for-precise",
        fault: "the products with fast accumulation are taken for the precise ones; where both are one, the model keeps a bit less",
        trips: UNPREDICTED,
        expect: Expect::Corrupt,
    },
    Control {
        name: "unwritten-output",
        fault: "a product is not run",
        trips: UNWRITTEN,
        expect: Expect::Corrupt,
    },
    Control {
        name: "multiplied-twice",
        fault: "the FP8 products are done twice and counted once",
        trips: SPEEDUP,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static PRODUCT_CASE: Case = Case {
    id: "precision::product-rates",
    revision: 4,
    figures_since: 3,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The four products of a layer of the 48-layer model over 8192 tokens, random data: in fp16, and in \
                E4M3 with scales by row, of activations that are quantised by row before each, with precise and \
                with fast accumulation. Results are poisoned before and all numbers afterwards; 64 drawn elements of each product in E4M3 have the \
                bits of the model of the board's adder, whose sums go to f32 after 128 columns where precise accumulation is \
                asked for on 9.0. Algorithms by search among cuBLASLt's first eight. A sample of each in turn, behind a rest of three times the one before; the ratio is that of the sums over the four. Not \
                applicable before compute capability 8.9, whose tensor cores are the first to multiply E4M3, and on boards \
                whose adder is not published or, other than 9.0, where cuBLASLt has no algorithm for scales by row.",
    samples: PRODUCT_SAMPLES,
    expected_s: 10.0,
    deadline_s: 240.0,
    kernels: &["quantise", "operands", "timing"],
    integrity: &[UNWRITTEN, UNPREDICTED],
    controls: &PRODUCT_CONTROLS,
    run: products,
};

fn plan(launches: u32) -> Plan {
    Plan {
        warmup: 1,
        samples: 1,
        fewest_samples: 1,
        launches,
        budget: Some(Duration::from_secs(30)),
        rest: 0,
    }
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 1e5).round() / 1e5
}

/// One child's GPU, its quantiser and what it reads.
struct Bench<'a> {
    gpu: &'a Gpu,
    quantiser: Quantiser,
    kernels: Kernels,
    source: Buffer,
    affine: Buffer,
    /// [`GIVEN`].
    amax: Buffer,
    /// [`HISTORY`] magnitudes.
    history: Buffer,
    /// Where a matrix's own largest magnitude is recorded, or found.
    own: Buffer,
}

impl<'a> Bench<'a> {
    fn new(lab: &Lab, gpu: &'a Gpu, seed: u64, recorder: &mut Recorder) -> Result<Bench<'a>, Stop> {
        let operands = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
        let elements = u64::from(TOKENS) * 32768;
        let (source, affine) = (gpu.alloc(2 * elements)?, gpu.alloc(2 * 8192)?);
        let normal = Values::Normals { scale: 1.0 };
        for (buffer, count) in [(&source, elements), (&affine, 8192)] {
            operands.fill(gpu.stream(), buffer, Element::F16, count, seed, normal)?;
        }
        let (amax, history, own) = (gpu.alloc(4)?, gpu.alloc(4 * HISTORY)?, gpu.alloc(4)?);
        amax.fill_u32(gpu.stream(), GIVEN.to_bits())?;
        history.fill_u32(gpu.stream(), (GIVEN / 2.0).to_bits())?;
        history.write(gpu.stream(), 4 * (HISTORY - 1), &[GIVEN])?;
        own.fill_u32(gpu.stream(), 0)?;
        Ok(Bench {
            gpu,
            quantiser: Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?,
            kernels: Kernels::new(gpu, &lab.module(gpu, &model::SOURCE, recorder)?)?,
            source,
            affine,
            amax,
            history,
            own,
        })
    }

    fn quantise(
        &self,
        stream: &CudaStream,
        scheme: Scheme,
        source: Source<'_>,
        (rows, columns): (u64, u32),
        target: &Quantised,
    ) -> kernels::Result<()> {
        let extra = Extra {
            amax: Some(&self.amax),
            norm: Some((&self.affine, &self.affine, EPSILON)),
            ..Extra::default()
        };
        self.quantiser.run(stream, scheme, source, (rows, columns), target, extra)
    }

    /// A job over all rows.
    fn run(&self, stream: &CudaStream, job: Job, target: &Quantised) -> kernels::Result<()> {
        if job.magnitude == Magnitude::Current {
            self.own.fill_u32(stream, 0)?;
        }
        self.run_over(stream, job, target)
    }

    /// The same over whatever the word of the largest magnitude holds.
    fn run_over(&self, stream: &CudaStream, job: Job, target: &Quantised) -> kernels::Result<()> {
        let (source, sizes) = (Source::from(&self.source), (job.rows, job.columns));
        let extra = match job.magnitude {
            Magnitude::Given => return self.quantise(stream, job.scheme, source, sizes, target),
            Magnitude::Delayed => {
                Extra { amax: Some(&self.history), recorded: Some(&self.own), ..Extra::default() }
            }
            Magnitude::Current => {
                self.quantiser.largest(stream, &self.source, sizes, &self.own)?;
                Extra { amax: Some(&self.own), ..Extra::default() }
            }
        };
        self.quantiser.run(stream, job.scheme, source, sizes, target, extra)
    }

    /// Codes of both ends that differ from those rows quantised alone, and a largest magnitude that was not recorded
    /// or found.
    fn wrong(&self, job: Job, target: &Quantised) -> Result<u64, Stop> {
        let (stream, Job { scheme, rows, columns, magnitude, .. }) = (self.gpu.stream(), job);
        let largest = self.gpu.alloc(4)?;
        largest.fill_u32(stream, 0)?;
        self.quantiser.largest(stream, &self.source, (rows, columns), &largest)?;
        let bits = |word: &Buffer| -> Result<u32, Stop> { Ok(word.read_vec(stream, 1)?[0]) };
        let missed = magnitude != Magnitude::Given && bits(&self.own)? != bits(&largest)?;
        let bytes = scheme.code_bytes(LOOKED_AT, columns);
        let alone = Quantised::new(self.gpu, scheme, LOOKED_AT, columns)?;
        let mut found = vec![0u8; bytes as usize];
        let mut wrong = u64::from(missed);
        for row in [0, rows - LOOKED_AT] {
            alone.codes.poison(stream)?;
            let source = Source { buffer: &self.source, first: row * u64::from(columns) };
            let sizes = (LOOKED_AT, columns);
            match magnitude {
                Magnitude::Current => {
                    let extra = Extra { amax: Some(&largest), ..Extra::default() };
                    self.quantiser.run(stream, scheme, source, sizes, &alone, extra)?;
                }
                _ => self.quantise(stream, scheme, source, sizes, &alone)?,
            }
            let wanted: Vec<u8> = alone.codes.read_vec(stream, bytes as usize)?;
            target.codes.read(stream, scheme.code_bytes(row, columns), &mut found)?;
            wrong += found.iter().zip(&wanted).filter(|(a, b)| a != b).count() as u64;
        }
        Ok(wrong)
    }

    /// What a planted fault leaves, and its name.
    fn faulty(&self, job: Job) -> Result<(&'static str, Quantised), Stop> {
        let stream = self.gpu.stream();
        let target = self.target(job)?;
        target.codes.poison(stream)?;
        if job.magnitude == Magnitude::Given {
            let half = (job.rows / 2, job.columns);
            self.quantise(stream, job.scheme, (&self.source).into(), half, &target)?;
            return Ok(("half-the-rows", target));
        }
        self.own.fill_u32(stream, GIVEN.to_bits())?;
        self.run_over(stream, job, &target)?;
        Ok(("stale-magnitude", target))
    }

    fn target(&self, job: Job) -> Result<Quantised, Stop> {
        Ok(Quantised::new(self.gpu, job.scheme, job.rows, job.columns)?)
    }
}

/// A copy's two arrays: half of a quantiser's bytes are read and half written, in whole vectors.
struct Copied {
    from: Buffer,
    to: Buffer,
    bytes: u64,
}

impl Copied {
    fn new(gpu: &Gpu, job: Job) -> Result<Copied, Stop> {
        let bytes = job.moved_bytes() / 2 / 4096 * 4096;
        let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
        from.fill_u32(gpu.stream(), 1)?;
        Ok(Copied { from, to, bytes })
    }
}

/// A job beside a copy of as many bytes.
struct Beside<'a> {
    copy: Copied,
    job: Job,
    target: &'a Quantised,
}

impl Beside<'_> {
    /// The copy's time over that of the job, which is done so many times and counted once.
    fn ratios(
        &self,
        bench: &Bench<'_>,
        timer: &mut Timer,
        (streaming, variant): (&Streaming, Variant),
        times: u32,
        samples: usize,
    ) -> Result<Vec<f64>, Stop> {
        let Copied { from, to, bytes } = &self.copy;
        let copy = stream::Job::Copy { target: to, source: from };
        let copy = streaming.prepare(copy, *bytes, variant, Fault::default())?;
        let mut ratios = Vec::new();
        for _ in 0..samples {
            let copied = timer.measure(plan(LAUNCHES), None, |stream| copy.launch(stream))?[0];
            let quantised = timer.measure(plan(LAUNCHES), None, |stream| {
                (0..times).try_for_each(|_| bench.run(stream, self.job, self.target))
            })?[0];
            ratios.push(rounded(copied / quantised));
        }
        Ok(ratios)
    }
}

/// What each of the jobs is held against, and how often.
struct Held<'a> {
    bench: &'a Bench<'a>,
    streaming: &'a Streaming,
    variant: Variant,
    samples: usize,
    index: u32,
}

impl Held<'_> {
    /// A job's rate over a copy's and what it left wrong; with faults planted where it is `tried`.
    fn job(
        &self,
        job: Job,
        tried: bool,
        timer: &mut Timer,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let Held { bench, streaming, variant, samples, index } = *self;
        recorder.progress(job.name);
        let target = bench.target(job)?;
        let beside = Beside { copy: Copied::new(bench.gpu, job)?, job, target: &target };
        let mut ratios = |times: u32, samples: usize| -> Result<Metric, Stop> {
            let ratios = beside.ratios(bench, timer, (streaming, variant), times, samples)?;
            Ok(Metric::sampled(OVER_COPY, &[("scheme", job.name)], &[index], ratios))
        };
        target.codes.poison(bench.gpu.stream())?;
        bench.own.fill_u32(bench.gpu.stream(), 0)?;
        bench.gpu.stream().synchronize()?;
        recorder.metric(ratios(1, samples)?);
        let wrong = |target: &Quantised| -> Result<Metric, Stop> {
            let wrong = bench.wrong(job, target)? as f64;
            Ok(Metric::exact(WRONG, &[("scheme", job.name)], &[index], wrong))
        };
        recorder.metric(wrong(&target)?);
        if tried {
            recorder.control("quantised-twice", ratios(2, CONTROL_SAMPLES)?);
            let (control, faulty) = bench.faulty(job)?;
            recorder.control(control, wrong(&faulty)?);
        }
        Ok(())
    }
}

fn quantisers(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let streaming = &lab.streaming(gpu, recorder)?;
    let bench = &Bench::new(&lab, gpu, assignment.seed, recorder)?;
    let samples = assignment.samples(SAMPLES);
    let variant = variant::default_variant(Kind::Copy, gpu.compute_capability);
    recorder.option("variant.copy", variant);
    let held = Held { bench, streaming, variant, samples, index };
    for job in JOBS {
        held.job(job, TRIED.contains(&job.name), &mut timer, recorder)?;
    }
    fused(bench, &mut timer, (index, samples), recorder)?;
    lab.close(recorder);
    Ok(())
}

/// Layer norm and quantiser in one kernel beside two.
fn fused(
    bench: &Bench<'_>,
    timer: &mut Timer,
    (index, samples): (u32, usize),
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("fused");
    let columns = 8192;
    let target = Quantised::new(bench.gpu, Scheme::NormRow, ROWS, columns)?;
    let between = bench.gpu.alloc(2 * u64::from(TOKENS) * u64::from(columns))?;
    let two = |stream: &CudaStream| {
        let (from, to) =
            (Matrix::packed(&bench.source, columns), Matrix::packed(&between, columns));
        let affine = Affine { gain: &bench.affine, bias: &bench.affine };
        bench.kernels.norm(stream, to, from, affine, (TOKENS, columns))?;
        bench.quantise(stream, Scheme::Row, (&between).into(), (ROWS, columns), &target)
    };
    let single = |stream: &CudaStream| {
        bench.quantise(stream, Scheme::NormRow, (&bench.source).into(), (ROWS, columns), &target)
    };
    let mut ratios = |fused: bool, samples: usize| -> Result<Metric, Stop> {
        let mut ratios = Vec::new();
        for _ in 0..samples {
            let apart = timer.measure(plan(LAUNCHES), None, two)?[0];
            let together = match fused {
                true => timer.measure(plan(LAUNCHES), None, single)?[0],
                false => timer.measure(plan(LAUNCHES), None, two)?[0],
            };
            ratios.push(rounded(apart / together));
        }
        Ok(Metric::sampled(FUSED, &[("scheme", "norm-row")], &[index], ratios))
    };
    recorder.metric(ratios(true, samples)?);
    recorder.control("not-fused", ratios(false, CONTROL_SAMPLES)?);
    Ok(())
}

const SEARCH: Search = Search { candidates: 8, rounds: 3, rest: 3 };
/// Rest before each sample, in times of the one before: without one the power limit decides the ratio.
pub(super) const REST: u32 = 3;

/// A product in one type, with its matrices.
struct Planned {
    plan: matmul::Plan,
    /// A in halves, or what is quantised into.
    a: Left,
    b: Buffer,
    d: Buffer,
    scale_b: Option<Buffer>,
}

/// A product's first matrix.
enum Left {
    Halves(Buffer),
    Codes(Quantised),
}

impl Planned {
    fn new(
        gpu: &Gpu,
        lt: &Lt,
        operands: &Operands,
        request: Request,
        seed: u64,
    ) -> Result<Planned, Stop> {
        let [a, b, d] = request.matrix_bytes();
        let (a, b, d) = (gpu.alloc(a)?, gpu.alloc(b)?, gpu.alloc(d)?);
        let element = request.dtype.input();
        let normal = Values::Normals { scale: 1.0 };
        for (buffer, seed) in [(&a, seed), (&b, seed + 1)] {
            let count = buffer.len_bytes() / element.bytes();
            operands.fill(gpu.stream(), buffer, element, count, seed, normal)?;
        }
        let (a, scale_b) = match request.dtype.is_fp8() {
            true => {
                let [of_a, of_b] = request.scale_bytes();
                let (scales, scale_b) = (gpu.alloc(of_a)?, gpu.alloc(of_b)?);
                scales.fill_u32(gpu.stream(), 1f32.to_bits())?;
                scale_b.fill_u32(gpu.stream(), 1f32.to_bits())?;
                (Left::Codes(Quantised { codes: a, scales }), Some(scale_b))
            }
            false => (Left::Halves(a), None),
        };
        let given = given(&a, &b, &d, scale_b.as_ref());
        let plan = offered(gpu, matmul::Plan::search(gpu, lt, request, &given, SEARCH))?;
        Ok(Planned { plan, a, b, d, scale_b })
    }

    fn run(&self, stream: &CudaStream) -> kernels::Result<()> {
        self.plan.run(stream, &given(&self.a, &self.b, &self.d, self.scale_b.as_ref()))
    }

    /// Quantises the activations and multiplies them.
    fn quantised(
        &self,
        bench: &Bench<'_>,
        stream: &CudaStream,
        k: u32,
        times: u32,
    ) -> kernels::Result<()> {
        quantised(bench, stream, self, k)?;
        (0..times).try_for_each(|_| self.run(stream))
    }

    /// Results that are no numbers: also those that nothing wrote.
    fn nonfinite(&self, gpu: &Gpu, operands: &Operands, n: u32) -> Result<u64, Stop> {
        let output = self.plan.request().dtype.output();
        let elements = ROWS * u64::from(n);
        Ok(operands.count_nonfinite(gpu.stream(), &self.d, output, elements)?)
    }
}

/// Quantises the activations of a product of codes.
fn quantised(
    bench: &Bench<'_>,
    stream: &CudaStream,
    planned: &Planned,
    k: u32,
) -> kernels::Result<()> {
    match &planned.a {
        Left::Codes(target) => {
            bench.quantise(stream, Scheme::Row, (&bench.source).into(), (ROWS, k), target)
        }
        Left::Halves(_) => Ok(()),
    }
}

fn given<'a>(
    a: &'a Left,
    b: &'a Buffer,
    d: &'a Buffer,
    scale_b: Option<&'a Buffer>,
) -> matmul::Operands<'a> {
    let (a, scale_a) = match a {
        Left::Halves(halves) => (halves, None),
        Left::Codes(Quantised { codes, scales }) => (codes, Some(scales)),
    };
    matmul::Operands { a, b, d, scale_a, scale_b, alpha: 1.0, first: [0; 3] }
}

/// Holds drawn elements of timed products against the model of an adder.
#[derive(Clone, Copy)]
struct Drawn<'a> {
    gpu: &'a Gpu,
    seed: u64,
    adder: Adder,
}

impl Drawn<'_> {
    /// Drawn elements of a product of codes that the model does not foretell, in each of the ways: instructions whose sums
    /// go to f32 together, or all.
    fn unpredicted<const WAYS: usize>(
        &self,
        product: &Planned,
        (n, k): (u32, u32),
        ways: [Option<usize>; WAYS],
    ) -> Result<[u64; WAYS], Stop> {
        let Left::Codes(a) = &product.a else {
            return Err(Stop::Error("a product of halves".into()));
        };
        let stream = self.gpu.stream();
        let row = |buffer: &Buffer, row: u32| -> Result<Vec<u32>, Stop> {
            let mut codes = vec![0u8; k as usize];
            buffer.read(stream, u64::from(row) * u64::from(k), &mut codes)?;
            Ok(codes.into_iter().map(u32::from).collect())
        };
        let mut counts = [0; WAYS];
        for i in 0..u64::from(DRAWN) {
            let (m, column) = (draw(self.seed, 2 * i) % TOKENS, draw(self.seed, 2 * i + 1) % n);
            let (mut scale, mut found) = ([0f32], [0u16]);
            a.scales.read(stream, 4 * u64::from(m), &mut scale)?;
            let at = u64::from(m) * u64::from(n) + u64::from(column);
            product.d.read(stream, 2 * at, &mut found)?;
            let (left, right) = (row(&a.codes, m)?, row(&product.b, column)?);
            for (count, group) in counts.iter_mut().zip(ways) {
                let sum = dot(self.adder, Element::E4m3, group, &left, &right);
                // Scales of B are one.
                *count += u64::from(Element::Bf16.encode(sum * scale[0]) != u32::from(found[0]));
            }
        }
        Ok(counts)
    }
}

fn products(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    has_e4m3(gpu)?;
    let capability = gpu.compute_capability;
    let adder = Adder::published(Element::E4m3, capability).ok_or_else(|| {
        let (major, minor) = capability;
        Stop::NotApplicable(format!("no adder is published of compute capability {major}.{minor}"))
    })?;
    let drawn = Drawn { gpu, seed: assignment.seed, adder };
    // Instructions of 32 columns whose sums go to f32 together. Where both accumulations are one, the fault is in the model.
    let precise = (capability == (9, 0)).then_some(4);
    let less = Adder { kept_bits: adder.kept_bits - 1, ..adder };
    let wrong = Drawn { adder: if precise.is_some() { adder } else { less }, ..drawn };
    let lt = Lt::new(gpu)?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let operands = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
    let bench = Bench::new(&lab, gpu, assignment.seed, recorder)?;
    let samples = assignment.samples(PRODUCT_SAMPLES);
    recorder.option("cublaslt", lt.version());
    // Milliseconds of fp16, precise, fast and the planted fault, summed over the four products.
    let mut sums = vec![[0.0; 4]; samples];
    let (mut unwritten, mut missing) = (0, 0);
    // Of both accumulations, and of fast taken for precise.
    let mut unpredicted = [0; 3];
    for (n, k) in Config::SEED_002.products() {
        let name = format!("{TOKENS}x{n}x{k}");
        recorder.progress(&name);
        let request = |dtype, fast_accumulation| Request {
            fast_accumulation,
            workspace_bytes: WORKSPACE_BYTES,
            ..Request::new(dtype, TOKENS, n, k)
        };
        let requests = [
            request(Dtype::F16, false),
            request(Dtype::E4m3Row, false),
            request(Dtype::E4m3Row, true),
        ];
        let mut planned = Vec::new();
        for request in requests {
            let one = Planned::new(gpu, &lt, &operands, request, assignment.seed)?;
            let what = format!("{:?} fast {}", request.dtype, request.fast_accumulation);
            recorder.option(
                &format!("algorithm.{name}.{what}"),
                format!("{:?}", one.plan.choice().algorithm),
            );
            planned.push(one);
        }
        for planned in &planned {
            planned.d.poison(gpu.stream())?;
        }
        let mut turns = InTurn::new(&mut timer, REST);
        for sums in &mut sums {
            sums[0] += turns.sample(1, |stream| planned[0].run(stream))?;
            for (sum, which, times) in [(1, 1, 1), (2, 2, 1), (3, 1, 2)] {
                sums[sum] +=
                    turns.sample(1, |stream| planned[which].quantised(&bench, stream, k, times))?;
            }
        }
        for planned in &planned {
            unwritten += planned.nonfinite(gpu, &operands, n)?;
        }
        let [of_precise] = drawn.unpredicted(&planned[1], (n, k), [precise])?;
        let [of_fast] = drawn.unpredicted(&planned[2], (n, k), [None])?;
        let [taken_for_precise] = wrong.unpredicted(&planned[2], (n, k), [precise])?;
        for (all, count) in unpredicted.iter_mut().zip([of_precise, of_fast, taken_for_precise]) {
            *all += count;
        }
        planned[1].d.poison(gpu.stream())?;
        missing += planned[1].nonfinite(gpu, &operands, n)?;
    }
    let count = |count: u64| Metric::exact(UNWRITTEN, &[], &[index], count as f64);
    recorder.metric(count(unwritten));
    recorder.control("unwritten-output", count(missing));
    let apart = |way: &str, count: u64| {
        Metric::exact(UNPREDICTED, &[("accumulation", way)], &[index], count as f64)
    };
    recorder.metric(apart("precise", unpredicted[0]));
    recorder.metric(apart("fast", unpredicted[1]));
    recorder.control("fast-for-precise", apart("precise", unpredicted[2]));
    let ratios = |which: usize, way: &str| {
        let ratios = sums.iter().map(|sums| rounded(sums[0] / sums[which])).collect();
        Metric::sampled(SPEEDUP, &[("accumulation", way)], &[index], ratios)
    };
    recorder.metric(ratios(1, "precise"));
    recorder.metric(ratios(2, "fast"));
    recorder.control("multiplied-twice", ratios(3, "precise"));
    lab.close(recorder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_twice_counts_twice() {
        let elements = ROWS * 8192;
        assert_eq!(delayed("d", 8192).moved_bytes(), 3 * elements + 4);
        assert_eq!(current("c", 8192).moved_bytes(), 5 * elements + 4);
        assert_eq!(job("r", Scheme::Row, 8192).moved_bytes(), 3 * elements + 4 * ROWS);
    }

    #[test]
    fn a_given_magnitude_is_above_every_one() {
        let normal = Values::Normals { scale: 1.0 };
        assert!((0..100_000).all(|i| normal.value(7, i).abs() < 3.5));
    }

    #[test]
    fn faults_are_planted_at_jobs() {
        assert!(TRIED.iter().all(|tried| JOBS.iter().any(|job| job.name == *tried)));
    }
}
