//! Suite `bandwidth`, part HBM: read, write, copy and triad over memory far larger than L2.

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind as ClaimKind, Reduce, Relation, Source};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::pattern::{Content, Patterns};
use kernels::stream::{self, Fault, Flip, Job, Kind, Output, Streaming};
use kernels::timing::{self, Plan, Timer};
use kernels::variant::{self, Variant};
use kernels::{bulk, pattern};

use crate::lab::Lab;

const HBM: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Completed Features, Hardware Validation",
    printed: "HBM3e Bandwidth: 2.73 TB/s measured (35% of theoretical)",
    board: "8x B200",
};

const fn claim(id: &'static str, text: &'static str, metric: &'static str) -> Claim {
    Claim {
        id,
        text,
        source: HBM,
        relation: Relation::AtLeast,
        case: STREAM.id,
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
    "read_gbps",
);
static WRITE: Claim = claim(
    "bandwidth::hbm-write",
    "HBM is written at the documented share of its theoretical bandwidth.",
    "write_gbps",
);
static COPY: Claim = claim(
    "bandwidth::hbm-copy",
    "HBM is copied at the documented share of its theoretical bandwidth, read and written bytes \
     counted.",
    "copy_gbps",
);
static TRIAD: Claim = claim(
    "bandwidth::hbm-triad",
    "a = b + s c in fp32 runs at the documented share of the theoretical bandwidth of HBM, all \
     three arrays counted.",
    "triad_gbps",
);
static READ_SPREAD: Claim = Claim {
    relation: Relation::AtMost,
    reduce: Reduce::SpreadPercent,
    ceiling: None,
    gpus: GpuCount::AtLeast(2),
    ..claim(
        "bandwidth::hbm-read-spread",
        "No GPU of the node reads its HBM slower than the others.",
        "read_gbps",
    )
};

/// Cases about HBM, in the order in which they run.
pub static CASES: &[&Case] = &[&STREAM];

/// A share of the data is moved twice and counted once: this many parts in a million.
const REPEAT_PPM: u32 = 20_000;

/// One control on one kind: its name, kind, fault, and the verdict that it must get.
struct Planted {
    control: &'static Control,
    kind: Kind,
    fault: Fault,
}

const NO_FAULT: Fault =
    Fault { blocks: None, repeat_fraction_ppm: 0, window_bytes: None, flip: None };
const REPEATED: Fault = Fault { repeat_fraction_ppm: REPEAT_PPM, ..NO_FAULT };
const EIGHT: Fault = Fault { blocks: Some(8), ..NO_FAULT };
const CACHED: Fault = Fault { window_bytes: Some(16 << 20), ..NO_FAULT };

const fn control(
    name: &'static str,
    fault: &'static str,
    trips: &'static str,
    expect: Expect,
) -> Control {
    Control { name, fault, trips, expect }
}

const TWICE: &str = "2 % of the data is moved twice and counted once";
/// Eight and not sixteen: sixteen of the 132 multiprocessors of an H200 read 1667 GB/s, which the
/// documented share of 0.341 would let pass.
const FEW: &str = "8 blocks do all the work, on 8 multiprocessors";

static CONTROLS: [Control; 10] = [
    control("read-2-percent-twice", TWICE, "read_gbps", Expect::Regressed),
    control("write-2-percent-twice", TWICE, "write_gbps", Expect::Regressed),
    control("copy-2-percent-twice", TWICE, "copy_gbps", Expect::Regressed),
    control("triad-2-percent-twice", TWICE, "triad_gbps", Expect::Regressed),
    control("read-on-8-sms", FEW, "read_gbps", Expect::Refuted),
    control("write-on-8-sms", FEW, "write_gbps", Expect::Refuted),
    control("copy-on-8-sms", FEW, "copy_gbps", Expect::Refuted),
    control("triad-on-8-sms", FEW, "triad_gbps", Expect::Refuted),
    control(
        "read-from-l2",
        "16 MiB are read over and over, so that the L2 cache serves them",
        "read_gbps",
        Expect::Broken,
    ),
    control("flipped-bit", "one bit of one copied word is flipped", "wrong_count", Expect::Corrupt),
];

/// Which timed control plants which fault; the last control is planted on the data instead.
static PLANTED: [Planted; 9] = [
    Planted { control: &CONTROLS[0], kind: Kind::Read, fault: REPEATED },
    Planted { control: &CONTROLS[1], kind: Kind::Write, fault: REPEATED },
    Planted { control: &CONTROLS[2], kind: Kind::Copy, fault: REPEATED },
    Planted { control: &CONTROLS[3], kind: Kind::Triad, fault: REPEATED },
    Planted { control: &CONTROLS[4], kind: Kind::Read, fault: EIGHT },
    Planted { control: &CONTROLS[5], kind: Kind::Write, fault: EIGHT },
    Planted { control: &CONTROLS[6], kind: Kind::Copy, fault: EIGHT },
    Planted { control: &CONTROLS[7], kind: Kind::Triad, fault: EIGHT },
    Planted { control: &CONTROLS[8], kind: Kind::Read, fault: CACHED },
];

static STREAM: Case = Case {
    id: "bandwidth::stream",
    revision: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Streams arrays of 8 GiB, filled with fresh generated data: read sums every byte, \
                write generates words, copy and triad move them. Each sample is 4 launches between \
                device events, enqueued behind a latch. Outputs are poisoned before and compared \
                word by word after the timed launches, whole arrays. Bytes are counted as the \
                arrays' sizes, read and written.",
    expected_s: 4.0,
    deadline_s: 120.0,
    kernels: &["stream", "pattern", "timing"],
    integrity: &["wrong_count"],
    controls: &CONTROLS,
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

fn run_stream(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let ring = gpu.compute_capability.0 >= 9;
    let vector = lab.module(gpu, &stream::SOURCE, recorder)?;
    let bulk = match ring {
        true => Some(lab.module(gpu, &bulk::SOURCE, recorder)?),
        false => None,
    };
    let pattern = lab.module(gpu, &pattern::SOURCE, recorder)?;
    let streaming = Streaming::new(gpu, &vector, bulk.as_ref(), &pattern)?;
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
    for kind in Kind::ALL {
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
    let planted = bench.wrong_after_flip()?;
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

    /// A copy with one bit of one word flipped, compared as a healthy one is.
    fn wrong_after_flip(&self) -> Result<u64, Stop> {
        self.fill(Kind::Copy)?;
        let fault = Fault { flip: Some(Flip { word: 123_456_789, mask: 1 << 17 }), ..NO_FAULT };
        let variant = variant::default_variant(Kind::Copy, self.gpu.compute_capability);
        let prepared = self.streaming.prepare(self.job(Kind::Copy), ARRAY_BYTES, variant, fault)?;
        prepared.launch(self.gpu.stream())?;
        self.gpu.synchronize()?;
        self.wrong(Kind::Copy, variant)
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
