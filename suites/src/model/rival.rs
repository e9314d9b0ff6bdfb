//! A compiled PyTorch on the same GPU.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::group::{Fault, Group};
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::forward::{KERNELS, room};
use super::memory::{self, Before};
use crate::rivals::{self, Torch};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, rounded, unwritten};

/// Our rate over theirs.
pub const METRIC: &str = "over_pytorch_ratio";
/// The most that we allocate at once, over theirs.
pub const MEMORY: &str = "memory_over_pytorch_ratio";

/// Six samples are the fewest that have an interval.
const PAIRS: usize = 6;

/// A workload in a precision, and the chunks that take turns here.
type Row = (&'static str, Precision, Problem);

const fn problem(batches: u32, tokens: u32, chunks: u32) -> Problem {
    Problem { batches, tokens, chunks }
}

/// FP8 first: both fit beside each other.
const ROWS: [Row; 5] = [
    ("8x1024", Precision::E4m3Fast, problem(8, 1024, 1)),
    ("1x8192", Precision::E4m3Fast, problem(1, 8192, 1)),
    ("1x32768", Precision::E4m3Fast, problem(1, 32768, 2)),
    ("4x2048", Precision::F16, problem(4, 2048, 1)),
    ("1x32768", Precision::F16, problem(1, 32768, 2)),
];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::vs-pytorch",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "PyTorch runs the 48-layer model of seed 002 in a process beside this one on the same GPU: its block under \
                torch.compile, cuDNN attention, in FP8 by _scaled_mm with scales by row and fast accumulation. \
                Ours runs as a graph, in FP8 with fast accumulation too. In FP8 both measure in turn, pass by \
                pass; of fp16 two models do not fit, so that PyTorch measures first, gives its weights back, and \
                ours measures behind it. The metric is our rate over theirs, pair by pair. Memory is what each \
                one's allocator counts at most during passes. Faults of the rate are planted in the first workload.",
    samples: PAIRS,
    expected_s: 170.0,
    deadline_s: 600.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &[
        Control {
            name: "half-more",
            fault: "24 of our 48 layers are run twice and counted once",
            trips: METRIC,
            expect: Expect::Refuted,
        },
        Control {
            name: "a-layer-twice-in-memory",
            fault: "the weights of three layers are held twice",
            trips: MEMORY,
            expect: Expect::Refuted,
        },
        Control {
            name: "not-run",
            fault: "the outputs are poisoned and no pass is run",
            trips: INTEGRITY,
            expect: Expect::Corrupt,
        },
    ],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::of_script("torch_compiled.py", assignment, recorder)?;
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        room(gpu, memory::formula(&Config::SEED_002, &ROWS[ROWS.len() - 1].2))?;
        let mut setting = Setting { bench: &bench, gpu, on: [index], assignment };
        for row in ROWS {
            setting.row(row, &mut torch, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    assignment: &'a Assignment,
}

impl Setting<'_> {
    fn row(
        &mut self,
        (name, precision, problem): Row,
        torch: &mut Torch,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let text = if precision.is_fp8() { "fp8" } else { "fp16" };
        recorder.progress(&format!("{text} {name}"));
        let Problem { batches, tokens, .. } = problem;
        torch.prepare(&format!("model {text} {batches} {tokens}"))?;
        let pairs = self.assignment.samples(PAIRS);
        let theirs = |torch: &mut Torch| -> Result<f64, Stop> { number(torch, "sample 1") };
        let alone = !precision.is_fp8();
        let mut rival = Vec::new();
        if alone {
            for _ in 0..pairs {
                rival.push(theirs(torch)?);
            }
        }
        let their_peak = match alone {
            true => {
                let peak = number(torch, "peak")?;
                torch.ask("release")?;
                peak
            }
            false => {
                theirs(torch)?;
                number(torch, "peak")?
            }
        };
        let seed = self.assignment.seed;
        let config = Config { seed, precision, ..Config::SEED_002 };
        let inputs = bench::tokens(&config, &problem, seed);
        let before = Before::now(self.gpu)?;
        let gpus = self.bench.first(1);
        let mut group = bench::group(&gpus, config, Split::Outputs, problem, &inputs)?;
        let at = [("precision", text), ("problem", name)];
        let on = &self.on;
        let nonfinite = |count: u64| Metric::exact(INTEGRITY, &at, on, count as f64);
        self.gpu.ledger().reset_peak();
        group.poison()?;
        recorder.control("not-run", nonfinite(unwritten(&group)?));
        group.time(1, 0)?;
        let peak = before.taken(self.gpu)?.peak as f64;
        recorder.metric(nonfinite(unwritten(&group)?));
        let memory = |bytes: f64| Metric::exact(MEMORY, &at, on, bytes / their_peak);
        recorder.metric(memory(peak));
        let layers = 3.0 * config.weight_bytes(1) as f64 / f64::from(config.layers);
        recorder.control("a-layer-twice-in-memory", memory(peak + layers));
        group.record()?;
        let own = match alone {
            true => group.time(1, pairs as u32)?,
            false => {
                let (own, turns) = in_turn(torch, &mut group, pairs)?;
                rival = turns;
                own
            }
        };
        recorder.metric(Metric::sampled(METRIC, &at, on, bench::ratios(&rival, &own)));
        recorder.metric(Metric::sampled("own_ms", &at, on, rounded(&own)));
        recorder.metric(Metric::sampled("rival_ms", &at, on, rounded(&rival)));
        if name != ROWS[0].0 {
            return Ok(());
        }
        group.plant(Some(Fault::Repeated { layers: config.layers / 2 }));
        group.record()?;
        let slow = group.time(1, PAIRS as u32)?;
        let ratios = bench::ratios(&rival, &slow);
        recorder.control("half-more", Metric::sampled(METRIC, &at, on, ratios));
        Ok(())
    }
}

/// A number that PyTorch answers.
fn number(torch: &mut Torch, command: &str) -> Result<f64, Stop> {
    let answer = torch.ask(command)?;
    answer.parse().map_err(|_| Stop::Error(format!("pytorch worker answered {answer:?}")))
}

/// Milliseconds of a pass, ours and theirs, in turn.
fn in_turn(
    torch: &mut Torch,
    group: &mut Group<'_>,
    pairs: usize,
) -> Result<(Vec<f64>, Vec<f64>), Stop> {
    let theirs = || number(torch, "sample 1");
    rivals::by_turns(pairs, || rivals::middle(&group.time(0, 1)?), theirs)
}
