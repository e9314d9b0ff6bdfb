//! Rivals: PyTorch on the same GPU, its samples taken in turn with ours.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind as ClaimKind, Reduce, Relation, Source};
use harness::digest::sha256_hex;
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, At, Recorder, Stop};
use harness::statistics;
use kernels::libraries::Library;
use kernels::matmul::Lt;
use kernels::stream::{Fault, Job, Kind};
use kernels::timing::{self, Plan, Timer};
use kernels::{pattern, variant};

use crate::compute::{self, KINDS, SHAPES};
use crate::lab::{self, Lab};

const PYTORCH: Source = Source {
    document: "touchstone",
    section: "rivals",
    printed: "what an operator would run instead: PyTorch",
    board: "",
};

const fn claim(id: &'static str, text: &'static str, case: &'static str) -> Claim {
    Claim {
        id,
        text,
        source: PYTORCH,
        relation: Relation::AtLeast,
        case,
        metric: "over_pytorch_ratio",
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: ClaimKind::Claim,
    }
}

/// Claims of suite `bandwidth` against a rival.
pub static BANDWIDTH_CLAIMS: &[&Claim] = &[&COPY];
/// Claims of suite `compute` against a rival.
pub static COMPUTE_CLAIMS: &[&Claim] = &[&FP16, &FP8];

static COPY: Claim = claim(
    "bandwidth::copy-vs-pytorch",
    "The copy is at most 2 % slower than PyTorch's, which is the driver's, on the same GPU.",
    "bandwidth::copy-vs-pytorch",
);
static FP16: Claim = claim(
    "compute::fp16-vs-pytorch",
    "The FP16 product at 8192 cubed has at least 0.99 of the rate of PyTorch's on the same GPU.",
    "compute::fp16-vs-pytorch",
);
static FP8: Claim = claim(
    "compute::fp8-vs-pytorch",
    "The FP8 product at 8192 cubed is not slower than PyTorch's on the same GPU.",
    "compute::fp8-vs-pytorch",
);

const QUARTER_MORE: Control = Control {
    name: "a-quarter-more",
    fault: "our work is a quarter more than counted",
    trips: "over_pytorch_ratio",
    expect: Expect::Refuted,
};
/// A twentieth brings a copy that is just fast enough under its bound. Products have more headroom, so
/// that no smaller fault than a quarter does so on every GPU.
static COPY_CONTROLS: [Control; 3] = [
    QUARTER_MORE,
    Control {
        name: "a-twentieth-more",
        fault: "our work is a twentieth more than counted",
        trips: "over_pytorch_ratio",
        expect: Expect::Refuted,
    },
    Control {
        name: "flipped-bit",
        fault: "one bit of one copied word is flipped",
        trips: "wrong_count",
        expect: Expect::Corrupt,
    },
];
static PRODUCT_CONTROLS: [Control; 4] =
    [QUARTER_MORE, compute::FLIPPED_BIT, compute::SHIFTED_OPERAND, compute::UNWRITTEN_OUTPUT];

macro_rules! case {
    ($id:literal, $integrity:expr, $controls:expr, $run:expr) => {
        Case {
            id: $id,
            revision: 2,
            figures_since: 1,
            scope: Scope::EachGpu,
            min_gpus: 1,
            tier: Tier::Full,
            self_test_only: false,
            procedure: "PyTorch runs in a process beside this one on the same GPU, and both measure in \
                        turn. A turn is the median of 5 samples of 4 launches each, behind a wait \
                        so that no enqueueing is counted. The metric is our rate over theirs, pair \
                        by pair. What our last turn left is checked: a copy word by word, a \
                        product as in its own case.",
            samples: PAIRS,
            expected_s: 14.0,
            deadline_s: 240.0,
            kernels: &["timing"],
            integrity: $integrity,
            controls: $controls,
            run: $run,
        }
    };
}

static COPY_CASE: Case =
    case!("bandwidth::copy-vs-pytorch", &["wrong_count"], &COPY_CONTROLS, copy);
static FP16_CASE: Case = case!(
    "compute::fp16-vs-pytorch",
    compute::PRODUCT_INTEGRITY,
    &PRODUCT_CONTROLS,
    |assignment, recorder| product(0, assignment, recorder)
);
static FP8_CASE: Case = Case {
    revision: 3,
    ..case!(
        "compute::fp8-vs-pytorch",
        compute::PRODUCT_INTEGRITY,
        &PRODUCT_CONTROLS,
        |assignment, recorder| product(3, assignment, recorder)
    )
};

/// Cases against rivals, in the order in which they run.
pub static CASES: &[&Case] = &[&COPY_CASE, &FP16_CASE, &FP8_CASE];

const PAIRS: usize = 24;
const CONTROL_PAIRS: usize = 9;
const LAUNCHES: u32 = 4;
/// Samples of one turn, whose median counts: the first after the other process's turn is slower.
const SAMPLES: u32 = 5;
const COPY_BYTES: u64 = 8 << 30;
/// A copy of which this share is done twice.
const fn repeated(repeat_fraction_ppm: u32) -> Fault {
    Fault { blocks: None, repeat_fraction_ppm, window_bytes: None, flip: None }
}
const NO_FAULT: Fault = repeated(0);

/// The worker of PyTorch.
pub(crate) struct Torch {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Torch {
    /// Starts the worker of one GPU. Without Python or PyTorch the case is not run.
    pub(crate) fn start(assignment: &Assignment, recorder: &mut Recorder) -> Result<Torch, Stop> {
        Torch::of_script("torch_worker.py", assignment, recorder)
    }

    /// Starts a worker by the name of its script.
    pub(crate) fn of_script(
        script: &str,
        assignment: &Assignment,
        recorder: &mut Recorder,
    ) -> Result<Torch, Stop> {
        recorder.progress("start pytorch");
        let script = assignment.root.join("fixtures/rivals").join(script);
        let text = std::fs::read(&script)?;
        recorder.option("rival_script_sha256", sha256_hex(&text));
        let missing = |why: String| Stop::NotRun(format!("PyTorch is not on this machine: {why}"));
        let mut process = Command::new("python3")
            .arg(&script)
            .env("LD_LIBRARY_PATH", own_library_path(&assignment.result))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| missing(format!("python3: {error}")))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (to, from) = pipes.ok_or_else(|| Stop::Error("no pipes to python3".into()))?;
        let mut torch = Torch { process, to, from: BufReader::new(from) };
        let versions = torch.ask("versions").map_err(|_| missing("the worker ended".into()))?;
        recorder.option("rival_versions", versions);
        Ok(torch)
    }

    pub(crate) fn ask(&mut self, command: &str) -> Result<String, Stop> {
        let gone = || Stop::Error(format!("pytorch worker ended at {command:?}"));
        writeln!(self.to, "{command}").map_err(|_| gone())?;
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(count) if count > 0 => Ok(line.trim().to_owned()),
            _ => Err(gone()),
        }
    }

    /// A number that it answers.
    pub(crate) fn number(&mut self, command: &str) -> Result<f64, Stop> {
        let answer = self.ask(command)?;
        answer.parse().map_err(|_| Stop::Error(format!("pytorch worker answered {answer:?}")))
    }

    /// Prepares a job; where PyTorch refuses it, the case is not run.
    pub(crate) fn prepare(&mut self, command: &str) -> Result<(), Stop> {
        match self.ask(command)?.as_str() {
            "ready" => Ok(()),
            why => Err(Stop::NotRun(format!("PyTorch, {command}: {why}"))),
        }
    }

    /// Milliseconds of one launch, the median of a turn.
    fn turn(&mut self) -> Result<f64, Stop> {
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            samples.push(self.number(&format!("sample {LAUNCHES}"))?);
        }
        middle(&samples)
    }
}

/// The median of a turn.
pub(crate) fn middle(samples: &[f64]) -> Result<f64, Stop> {
    statistics::median(samples).ok_or_else(|| Stop::Error("a turn without samples".into()))
}

impl Drop for Torch {
    fn drop(&mut self) {
        // It ends when its input ends; a worker that does not is ended with our process group.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The library path without the folder beside our result that pins our own libraries: PyTorch brings
/// its own.
fn own_library_path(result: &Path) -> String {
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let pinned = result.parent().map(|folder| folder.join("lib"));
    let keep = |entry: &&str| !entry.is_empty() && pinned.as_deref() != Some(Path::new(entry));
    path.split(':').filter(keep).collect::<Vec<_>>().join(":")
}

/// Milliseconds of one launch, ours and theirs, pair by pair.
pub(crate) struct Pairs {
    own_ms: Vec<f64>,
    rival_ms: Vec<f64>,
}

impl Pairs {
    /// Our rate over theirs: their time over ours.
    pub(crate) fn ratio(&self, at: At, index: u32) -> Metric {
        let pairs = self.rival_ms.iter().zip(&self.own_ms);
        let ratios = pairs.map(|(rival, own)| (rival / own * 1e5).round() / 1e5).collect();
        Metric::sampled("over_pytorch_ratio", at, &[index], ratios)
    }

    /// The times behind the ratio.
    pub(crate) fn times(&self, at: At, index: u32) -> [Metric; 2] {
        let rounded = |times: &[f64]| times.iter().map(|ms| (ms * 1e4).round() / 1e4).collect();
        [
            Metric::sampled("own_ms", at, &[index], rounded(&self.own_ms)),
            Metric::sampled("rival_ms", at, &[index], rounded(&self.rival_ms)),
        ]
    }
}

/// Takes samples in turn with PyTorch's.
pub(crate) fn in_turn(
    torch: &mut Torch,
    pairs: usize,
    ours: impl FnMut() -> Result<f64, Stop>,
) -> Result<Pairs, Stop> {
    let (rival_ms, own_ms) = by_turns(pairs, || torch.turn(), ours)?;
    Ok(Pairs { own_ms, rival_ms })
}

/// Takes samples of two in turn. Who goes first changes, so that neither always meets the warmer GPU.
pub(crate) fn by_turns(
    pairs: usize,
    mut first: impl FnMut() -> Result<f64, Stop>,
    mut second: impl FnMut() -> Result<f64, Stop>,
) -> Result<(Vec<f64>, Vec<f64>), Stop> {
    let mut taken = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    for pair in 0..pairs {
        if pair % 2 == 0 {
            taken.0.push(first()?);
            taken.1.push(second()?);
        } else {
            taken.1.push(second()?);
            taken.0.push(first()?);
        }
    }
    Ok(taken)
}

/// Writes the healthy pairs down, with their times.
fn put(recorder: &mut Recorder, index: u32, pairs: &Pairs) {
    recorder.metric(pairs.ratio(&[], index));
    pairs.times(&[], index).into_iter().for_each(|metric| recorder.metric(metric));
}

/// A turn of ours.
pub(crate) fn one_turn() -> Plan {
    Plan {
        warmup: 1,
        samples: SAMPLES,
        fewest_samples: SAMPLES,
        launches: LAUNCHES,
        budget: None,
        rest: 0,
    }
}

fn copy(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::start(assignment, recorder)?;
    torch.prepare(&format!("copy {COPY_BYTES}"))?;
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let streaming = lab.streaming(gpu, recorder)?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let (source, target) = (gpu.alloc(COPY_BYTES)?, gpu.alloc(COPY_BYTES)?);
    let content = pattern::Content::Hash { seed: assignment.seed };
    streaming.patterns().fill(gpu.stream(), &source, COPY_BYTES, content)?;
    gpu.synchronize()?;
    let job = Job::Copy { target: &target, source: &source };
    let variant = variant::default_variant(Kind::Copy, gpu.compute_capability);
    recorder.option("variant", variant);
    let mut pairs = |fault: Fault, pairs: usize| -> Result<Pairs, Stop> {
        let prepared = streaming.prepare(job, COPY_BYTES, variant, fault)?;
        in_turn(&mut torch, pairs, || {
            let ms = timer.measure(one_turn(), None, |stream| prepared.launch(stream))?;
            middle(&ms)
        })
    };
    recorder.progress("in turn");
    target.poison(gpu.stream())?;
    gpu.synchronize()?;
    put(recorder, index, &pairs(NO_FAULT, assignment.samples(PAIRS))?);
    recorder.progress("check");
    let wrong = || streaming.patterns().check(gpu.stream(), &target, COPY_BYTES, content);
    let metric = |count: u64| Metric::exact("wrong_count", &[], &[index], count as f64);
    recorder.metric(metric(wrong()?.count));
    streaming.patterns().flip(gpu.stream(), &target, 123_456_789, 1 << 17)?;
    recorder.control("flipped-bit", metric(wrong()?.count));
    recorder.progress("controls");
    for (name, ppm) in [("a-quarter-more", 250_000), ("a-twentieth-more", 50_000)] {
        recorder.control(name, pairs(repeated(ppm), CONTROL_PAIRS)?.ratio(&[], index));
    }
    lab.close(recorder);
    Ok(())
}

fn product(kind: usize, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    lab::require(Library::CublasLt)?;
    let (kind, shape) = (KINDS[kind], SHAPES[0]);
    let mut torch = Torch::start(assignment, recorder)?;
    torch.prepare(&format!("{} {} {} {}", kind.name, shape.m, shape.n, shape.k))?;
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let lt = Lt::new(gpu)?;
    let mut bench = compute::Bench::new(&lab, gpu, index, &lt, kind, assignment.seed, recorder)?;
    let mut pairs = |bench: &mut compute::Bench, job: &compute::Job, pairs: usize| {
        in_turn(&mut torch, pairs, || {
            let ms = bench.milliseconds(job, one_turn())?;
            middle(&ms)
        })
    };
    recorder.progress("in turn");
    let job = bench.job(shape, compute::CANDIDATES, 0)?;
    bench.describe(&job, recorder);
    put(recorder, index, &pairs(&mut bench, &job, assignment.samples(PAIRS))?);
    recorder.progress("check");
    for (metric, value) in bench.check(&job)? {
        recorder.metric(bench.exact(metric, shape, value));
    }
    recorder.progress("controls");
    for (control, metric, value) in bench.planted(&job)? {
        recorder.control(control, bench.exact(metric, shape, value));
    }
    drop(job);
    let longer = compute::Shape { k: shape.k / 4 * 5, ..shape };
    let job = bench.job(longer, compute::CANDIDATES, 0)?;
    let taken = pairs(&mut bench, &job, CONTROL_PAIRS)?;
    recorder.control("a-quarter-more", taken.ratio(&[], index));
    drop(job);
    drop(bench);
    lab.close(recorder);
    Ok(())
}
