//! What quantising costs: each quantiser beside a copy of as many bytes, and fused kernels beside two. With the products of a
//! model in `products` and `promoted`.

pub mod large;
pub mod products;
pub mod promoted;
pub mod ternary;

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, CudaStream, Gpu};
use kernels::element::Element;
use kernels::model::{self, Affine, EPSILON, Kernels, Matrix};
use kernels::operands::{self, Operands, Values};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme, Source};
use kernels::stream::{self, Fault, Kind, Streaming};
use kernels::timing::{self, Plan, Timer};
use kernels::variant::{self, Variant};

use crate::lab::Lab;

/// A quantiser's bytes a second over a copy's.
pub const OVER_COPY: &str = "over_copy_ratio";
/// Two kernels' time over the fused one's.
pub const FUSED: &str = "fused_speedup_ratio";
/// Codes that a timed quantiser left wrong, of its first and its last rows, and largest magnitudes.
const WRONG: &str = "wrong_count";
/// Rows of either end that are looked at.
const LOOKED_AT: u64 = 128;

const SAMPLES: usize = 15;
const CONTROL_SAMPLES: usize = 9;
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

const HALF_ROWS: Control = Control {
    name: "half-the-rows",
    fault: "the second half of the rows is not quantised",
    trips: WRONG,
    expect: Expect::Corrupt,
};
const STALE: Control = Control {
    name: "stale-magnitude",
    fault: "the word for the largest magnitude still holds a larger one of another matrix",
    trips: WRONG,
    expect: Expect::Corrupt,
};
const TWICE: Control = Control {
    name: "quantised-twice",
    fault: "the matrix is quantised twice and counted once",
    trips: OVER_COPY,
    expect: Expect::Refuted,
};
static CONTROLS: [Control; 4] = [
    HALF_ROWS,
    STALE,
    TWICE,
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
            return Ok((HALF_ROWS.name, target));
        }
        self.own.fill_u32(stream, GIVEN.to_bits())?;
        self.run_over(stream, job, &target)?;
        Ok((STALE.name, target))
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
    fn new(gpu: &Gpu, moved_bytes: u64) -> Result<Copied, Stop> {
        let bytes = moved_bytes / 2 / 4096 * 4096;
        let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
        from.fill_u32(gpu.stream(), 1)?;
        Ok(Copied { from, to, bytes })
    }

    /// The copy's time over that of what is enqueued, which is counted once.
    fn ratios(
        &self,
        timer: &mut Timer,
        (streaming, variant): (&Streaming, Variant),
        samples: usize,
        mut enqueue: impl FnMut(&CudaStream) -> kernels::Result<()>,
    ) -> Result<Vec<f64>, Stop> {
        let Copied { from, to, bytes } = self;
        let copy = stream::Job::Copy { target: to, source: from };
        let copy = streaming.prepare(copy, *bytes, variant, Fault::default())?;
        let mut ratios = Vec::new();
        for _ in 0..samples {
            let copied = timer.measure(plan(LAUNCHES), None, |stream| copy.launch(stream))?[0];
            let quantised = timer.measure(plan(LAUNCHES), None, &mut enqueue)?[0];
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
        let copy = Copied::new(bench.gpu, job.moved_bytes())?;
        let mut ratios = |times: u32, samples: usize| -> Result<Metric, Stop> {
            let ratios = copy.ratios(timer, (streaming, variant), samples, |stream| {
                (0..times).try_for_each(|_| bench.run(stream, job, &target))
            })?;
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
            recorder.control(TWICE.name, ratios(2, CONTROL_SAMPLES)?);
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
