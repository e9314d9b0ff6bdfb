//! Suite `bandwidth`, part HBM: read, write, copy and triad over memory far larger than L2.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::claim::{Claim, GpuCount, Kind as ClaimKind, Reduce, Relation, Source};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::pattern::{Content, Patterns};
use kernels::stream::{self, Fault, Flip, Job, Kind, Output, Streaming};
use kernels::timing::{self, Plan, Timer};
use kernels::variant::{self, Variant};

use crate::lab::Lab;

const HBM: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Completed Features, Hardware Validation",
    printed: "HBM3e Bandwidth: 2.73 TB/s measured (35% of theoretical)",
    board: "8x B200",
};

const fn claim(
    id: &'static str,
    text: &'static str,
    case: &'static str,
    metric: &'static str,
) -> Claim {
    Claim {
        id,
        text,
        source: HBM,
        relation: Relation::AtLeast,
        case,
        metric,
        at: &[],
        reduce: Reduce::Worst,
        ceiling: Some("hbm_gbps"),
        gpus: GpuCount::AtLeast(1),
        kind: ClaimKind::Claim,
    }
}

/// Claims about HBM, in checklist order.
pub static CLAIMS: &[&Claim] = &[&READ, &WRITE, &COPY, &TRIAD, &READ_SPREAD];

static READ: Claim = claim(
    "bandwidth::hbm-read",
    "HBM is read at the documented share of its theoretical bandwidth.",
    READING.id,
    "read_gbps",
);
static WRITE: Claim = claim(
    "bandwidth::hbm-write",
    "HBM is written at the documented share of its theoretical bandwidth.",
    STREAM.id,
    "write_gbps",
);
static COPY: Claim = claim(
    "bandwidth::hbm-copy",
    "HBM is copied at the documented share of its theoretical bandwidth, read and written bytes \
     counted.",
    STREAM.id,
    "copy_gbps",
);
static TRIAD: Claim = claim(
    "bandwidth::hbm-triad",
    "a = b + s c in fp32 runs at the documented share of the theoretical bandwidth of HBM, all \
     three arrays counted.",
    STREAM.id,
    "triad_gbps",
);
static READ_SPREAD: Claim = Claim {
    relation: Relation::AtMost,
    reduce: Reduce::SpreadPercent,
    ceiling: None,
    gpus: GpuCount::AtLeast(2),
    ..claim(
        "bandwidth::hbm-read-spread",
        "No GPU of the node reads its HBM slower than another one by more than 5 %.",
        READING.id,
        "read_gbps",
    )
};

/// Cases about HBM, in the order in which they run.
pub static CASES: &[&Case] = &[&READING, &STREAM];

/// A timed control on one kind, and the fault that it plants.
struct Planted {
    control: &'static Control,
    kind: Kind,
    fault: Fault,
}

const NO_FAULT: Fault =
    Fault { blocks: None, repeat_fraction_ppm: 0, window_bytes: None, flip: None };
const fn repeated(ppm: u32) -> Fault {
    Fault { repeat_fraction_ppm: ppm, ..NO_FAULT }
}
const EIGHT: Fault = Fault { blocks: Some(8), ..NO_FAULT };
const CACHED: Fault = Fault { window_bytes: Some(16 << 20), ..NO_FAULT };

const TWICE: &str = "2 % of the data is moved twice and counted once";
/// Eight and not sixteen: sixteen of the 132 multiprocessors of an H200 read 1667 GB/s, which the
/// documented share of 0.341 would let pass.
const FEW: &str = "8 blocks do all the work, on 8 multiprocessors";

/// Reading is a case of its own because its near fault is larger. Healthy H200s of one host read
/// 4509, 4611 or 4716 GB/s; the golden holds for the slowest kind, so that a fault of 4 % on the
/// fastest kind is still a healthy reading.
static READING_CONTROLS: [Control; 4] = [
    control(
        "read-7-percent-twice",
        "7 % of the data is read twice and counted once",
        "read_gbps",
        Expect::Regressed,
    ),
    control("read-on-8-sms", FEW, "read_gbps", Expect::Refuted),
    control(
        "read-from-l2",
        "16 MiB are read over and over, so that the L2 cache serves them",
        "read_gbps",
        Expect::Broken,
    ),
    control(
        "flipped-bit",
        "one bit of one partial sum of what was read is flipped",
        "wrong_count",
        Expect::Corrupt,
    ),
];

/// A copy's near fault is larger for the same reason: by where its two arrays lie, healthy GPUs copy
/// 4158, 4191, 4259 or 4287 GB/s.
static STREAM_CONTROLS: [Control; 7] = [
    control("write-2-percent-twice", TWICE, "write_gbps", Expect::Regressed),
    control(
        "copy-3.5-percent-twice",
        "3.5 % of the data is moved twice and counted once",
        "copy_gbps",
        Expect::Regressed,
    ),
    control("triad-2-percent-twice", TWICE, "triad_gbps", Expect::Regressed),
    control("write-on-8-sms", FEW, "write_gbps", Expect::Refuted),
    control("copy-on-8-sms", FEW, "copy_gbps", Expect::Refuted),
    control("triad-on-8-sms", FEW, "triad_gbps", Expect::Refuted),
    control("flipped-bit", "one bit of one copied word is flipped", "wrong_count", Expect::Corrupt),
];

/// Which timed control plants which fault; each case's last control is planted on the data instead.
static PLANTED: [Planted; 9] = [
    Planted { control: &READING_CONTROLS[0], kind: Kind::Read, fault: repeated(70_000) },
    Planted { control: &READING_CONTROLS[1], kind: Kind::Read, fault: EIGHT },
    Planted { control: &READING_CONTROLS[2], kind: Kind::Read, fault: CACHED },
    Planted { control: &STREAM_CONTROLS[0], kind: Kind::Write, fault: repeated(20_000) },
    Planted { control: &STREAM_CONTROLS[1], kind: Kind::Copy, fault: repeated(35_000) },
    Planted { control: &STREAM_CONTROLS[2], kind: Kind::Triad, fault: repeated(20_000) },
    Planted { control: &STREAM_CONTROLS[3], kind: Kind::Write, fault: EIGHT },
    Planted { control: &STREAM_CONTROLS[4], kind: Kind::Copy, fault: EIGHT },
    Planted { control: &STREAM_CONTROLS[5], kind: Kind::Triad, fault: EIGHT },
];

static READING: Case = Case {
    id: "bandwidth::read",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Reads an array of 8 GiB, filled with fresh generated data, and sums every byte. \
                Each sample is 4 launches between device events, enqueued behind a latch. The \
                partial sums are poisoned before, and their total after the timed launches is \
                compared with that of the generated data. Bytes are counted as the array's size.",
    samples: SAMPLES,
    expected_s: 3.0,
    deadline_s: 120.0,
    kernels: &["stream", "pattern", "timing"],
    integrity: &["wrong_count"],
    controls: &READING_CONTROLS,
    run: run_reading,
};

static STREAM: Case = Case {
    id: "bandwidth::stream",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Streams arrays of 8 GiB, filled with fresh generated data: write generates words, \
                copy and triad move them. Each sample is 4 launches between device events, \
                enqueued behind a latch. Outputs are poisoned before and compared word by word \
                after the timed launches, whole arrays. Bytes are counted as the arrays' sizes, \
                read and written.",
    samples: SAMPLES,
    expected_s: 4.0,
    deadline_s: 120.0,
    kernels: &["stream", "pattern", "timing"],
    integrity: &["wrong_count"],
    controls: &STREAM_CONTROLS,
    run: run_stream,
};

/// Size of each array.
const ARRAY_BYTES: u64 = 8 << 30;
/// Launches of one sample.
const LAUNCHES: u32 = 4;
/// Samples of a healthy kind in the quick tier, and of a control.
const SAMPLES: usize = 20;
const CONTROL_SAMPLES: u32 = 9;

/// The arrays with what they hold, and the kernels that move them.
struct Bench<'a> {
    gpu: &'a Gpu,
    streaming: Streaming,
    a: Buffer,
    b: Buffer,
    c: Buffer,
    sums: Buffer,
    seed: u64,
}

fn run_reading(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    run(assignment, recorder, &[Kind::Read], Kind::Read)
}

fn run_stream(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    run(assignment, recorder, &[Kind::Write, Kind::Copy, Kind::Triad], Kind::Copy)
}

/// Times and checks `kinds` with their controls, and flips a bit of what `flipped` leaves behind.
fn run(
    assignment: &Assignment,
    recorder: &mut Recorder,
    kinds: &[Kind],
    flipped: Kind,
) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let streaming = lab.streaming(gpu, recorder)?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let bench = Bench {
        gpu,
        streaming,
        a: gpu.alloc(ARRAY_BYTES)?,
        b: gpu.alloc(ARRAY_BYTES)?,
        c: gpu.alloc(ARRAY_BYTES)?,
        sums: gpu.alloc(stream::sums_bytes(gpu, ARRAY_BYTES))?,
        seed: assignment.seed,
    };
    let bytes = ARRAY_BYTES.to_string();
    let at: &[(&str, &str)] = &[("bytes", &bytes)];
    recorder.option("array_bytes", ARRAY_BYTES);
    recorder.option("launches_per_sample", LAUNCHES);
    for &kind in kinds {
        recorder.progress(name_of(kind));
        let variant = variant::default_variant(kind, gpu.compute_capability);
        recorder.option(&format!("variant.{}", name_of(kind)), variant);
        bench.fill(kind)?;
        let samples = assignment.samples(SAMPLES) as u32;
        let rates = bench.rates(&mut timer, kind, variant, NO_FAULT, samples)?;
        let wrong = bench.wrong(kind, variant)?;
        let metric = metric_of(kind);
        recorder.metric(Metric::sampled(metric, at, &[index], rates));
        let wrong_at: &[(&str, &str)] = &[("bytes", &bytes), ("kind", name_of(kind))];
        recorder.metric(Metric::exact("wrong_count", wrong_at, &[index], wrong as f64));
        for planted in PLANTED.iter().filter(|planted| planted.kind == kind) {
            let variant = match planted.fault.blocks {
                Some(_) => variant::few_blocks_variant(gpu.compute_capability),
                None => variant,
            };
            let rates = bench.rates(&mut timer, kind, variant, planted.fault, CONTROL_SAMPLES)?;
            let planted = planted.control.name;
            recorder.control(planted, Metric::sampled(metric, at, &[index], rates));
        }
    }
    let planted = bench.wrong_after_flip(flipped)?;
    recorder.control("flipped-bit", Metric::exact("wrong_count", at, &[index], planted as f64));
    drop(bench);
    lab.close(recorder);
    Ok(())
}

impl Bench<'_> {
    fn job(&self, kind: Kind) -> Job<'_> {
        match kind {
            Kind::Read => Job::Read { source: &self.b, sums: &self.sums },
            Kind::Write => {
                Job::Write { target: &self.a, output: Output::Hash { seed: self.seed + 2 } }
            }
            Kind::Copy => Job::Copy { target: &self.a, source: &self.b },
            Kind::Triad => Job::Triad { a: &self.a, b: &self.b, c: &self.c, scalar: 3.0 },
        }
    }

    fn patterns(&self) -> &Patterns {
        self.streaming.patterns()
    }

    /// Fresh inputs, and a poisoned output.
    fn fill(&self, kind: Kind) -> Result<(), Stop> {
        let stream = self.gpu.stream();
        let (b, c) = match kind {
            Kind::Triad => (
                Content::SmallFloat { seed: self.seed },
                Content::SmallFloat { seed: self.seed + 1 },
            ),
            Kind::Read | Kind::Write | Kind::Copy => {
                (Content::Hash { seed: self.seed }, Content::Hash { seed: self.seed + 1 })
            }
        };
        self.patterns().fill(stream, &self.b, ARRAY_BYTES, b)?;
        self.patterns().fill(stream, &self.c, ARRAY_BYTES, c)?;
        let output = if kind == Kind::Read { &self.sums } else { &self.a };
        output.poison(stream)?;
        stream.synchronize()?;
        Ok(())
    }

    /// GB/s (1e9 bytes) of each sample.
    fn rates(
        &self,
        timer: &mut Timer,
        kind: Kind,
        variant: Variant,
        fault: Fault,
        samples: u32,
    ) -> Result<Vec<f64>, Stop> {
        let prepared = self.streaming.prepare(self.job(kind), ARRAY_BYTES, variant, fault)?;
        let few = fault.blocks.is_some();
        let plan = Plan {
            warmup: if few { 1 } else { 3 },
            samples,
            fewest_samples: samples,
            launches: if few { 1 } else { LAUNCHES },
            budget: None,
            rest: 0,
        };
        let milliseconds = timer.measure(plan, None, |stream| prepared.launch(stream))?;
        let counted = stream::counted_bytes(kind, ARRAY_BYTES) as f64;
        Ok(milliseconds.iter().map(|ms| round(counted / ms / 1e6)).collect())
    }

    /// Wrong words that the timed launches left behind; for a read, 1 if the sum is wrong.
    fn wrong(&self, kind: Kind, variant: Variant) -> Result<u64, Stop> {
        let stream = self.gpu.stream();
        let content = match kind {
            Kind::Read => {
                let prepared =
                    self.streaming.prepare(self.job(kind), ARRAY_BYTES, variant, NO_FAULT)?;
                let found = prepared.checksum(stream)?;
                let source = Content::Hash { seed: self.seed };
                let expected = self.patterns().expected_sum(stream, ARRAY_BYTES, source)?;
                return Ok(u64::from(found != expected));
            }
            Kind::Write => Content::Hash { seed: self.seed + 2 },
            Kind::Copy => Content::Hash { seed: self.seed },
            Kind::Triad => Content::Triad { b_seed: self.seed, c_seed: self.seed + 1 },
        };
        Ok(self.patterns().check(stream, &self.a, ARRAY_BYTES, content)?.count)
    }

    /// One launch after which one bit of what it left is flipped, judged as a healthy one is: of a
    /// read, a bit of its first partial sum; of the others, of a word amid the output.
    fn wrong_after_flip(&self, kind: Kind) -> Result<u64, Stop> {
        self.fill(kind)?;
        let word = if kind == Kind::Read { 0 } else { 123_456_789 };
        let fault = Fault { flip: Some(Flip { word, mask: 1 << 17 }), ..NO_FAULT };
        let variant = variant::default_variant(kind, self.gpu.compute_capability);
        let prepared = self.streaming.prepare(self.job(kind), ARRAY_BYTES, variant, fault)?;
        prepared.launch(self.gpu.stream())?;
        self.gpu.synchronize()?;
        self.wrong(kind, variant)
    }
}

/// A kind as evidence names it.
pub fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Copy => "copy",
        Kind::Triad => "triad",
    }
}

fn metric_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read_gbps",
        Kind::Write => "write_gbps",
        Kind::Copy => "copy_gbps",
        Kind::Triad => "triad_gbps",
    }
}

/// A tenth of a GB/s: the events tick at half a microsecond, which is more.
fn round(gbps: f64) -> f64 {
    (10.0 * gbps).round() / 10.0
}
