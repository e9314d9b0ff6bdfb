//! A compiled PyTorch on the same GPU.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, At, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::eight;
use super::forward::{KERNELS, room};
use super::memory::{self, Before};
use crate::rivals::Torch;
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, rounded, unwritten};
use crate::tensor_parallel::rival::{HALF_MORE, METRIC, in_turn};

/// The most that we allocate at once, over theirs.
pub const MEMORY: &str = "memory_over_pytorch_ratio";

/// Six samples are the fewest that have an interval.
const PAIRS: usize = 6;

/// A workload, and the chunks that take turns here.
type Row = (&'static str, Problem);

const fn problem(batches: u32, tokens: u32, chunks: u32) -> Problem {
    Problem { batches, tokens, chunks }
}

/// In FP8 both models fit beside each other.
static FP8_ROWS: [Row; 3] = [
    ("8x1024", problem(8, 1024, 1)),
    ("1x8192", problem(1, 8192, 1)),
    ("1x32768", problem(1, 32768, 2)),
];
/// Attention in E4M3 takes whole sequences.
static E4M3_ATTENTION_ROWS: [Row; 2] =
    [("1x8192", problem(1, 8192, 1)), ("1x32768", problem(1, 32768, 1))];
static ROWS: [Row; 2] = [("4x2048", problem(4, 2048, 1)), ("1x32768", problem(1, 32768, 2))];

const LAYERS_TWICE: Control = Control {
    name: "a-layer-twice-in-memory",
    fault: "the weights of eight layers are held twice",
    trips: MEMORY,
    expect: Expect::Refuted,
};
static CONTROLS: [Control; 3] = [HALF_MORE, LAYERS_TWICE, NOT_RUN];

macro_rules! procedure {
    ($theirs:literal, $order:literal) => {
        concat!(
            "PyTorch runs the 48-layer model of seed 002 in a process beside this one on the same GPU: its block \
             under torch.compile in its default mode, cuDNN attention, ",
            $theirs,
            ". ",
            $order,
            " Memory is what each one's allocator counts at most during passes. A slower model is planted in the \
             first workload."
        )
    };
}

/// One GPU, fp16.
pub static CASE: Case = FP16;
/// One GPU, FP8.
pub static FP8_CASE: Case = Case {
    id: "model::vs-pytorch-fp8",
    procedure: procedure!(
        "FP8 by _scaled_mm with scales by row and fast accumulation, all else in bf16",
        "Ours runs as a graph, in FP8 with fast accumulation too. Both measure in turn, behind passes of each that do \
         not count, and the metric is our rate over theirs, pair by pair."
    ),
    expected_s: 115.0,
    run: |assignment, recorder| run(fp8(), &FP8_ROWS, assignment, recorder),
    ..FP16
};
/// One GPU, FP8 with attention over E4M3.
pub static E4M3_ATTENTION_CASE: Case = Case {
    id: "model::vs-pytorch-fp8-attention",
    procedure: procedure!(
        "FP8 by _scaled_mm with scales by row and fast accumulation, all else in bf16, attention included",
        "Ours runs as a graph, in FP8 with fast accumulation, and its queries, keys and values become E4M3 with a \
         scale for each head, on which attention multiplies. Both measure in turn, behind passes of each that do \
         not count, and the metric is our rate over theirs, pair by pair."
    ),
    expected_s: 105.0,
    kernels: eight::KERNELS,
    run: |assignment, recorder| {
        let config = Config { attention_e4m3: true, ..fp8() };
        run(config, &E4M3_ATTENTION_ROWS, assignment, recorder)
    },
    ..FP16
};

const fn fp8() -> Config {
    Config { precision: Precision::E4m3Fast, ..Config::SEED_002 }
}

const FP16: Case = Case {
    id: "model::vs-pytorch",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: procedure!(
        "fp16",
        "Ours runs as a graph. Two models do not fit, so that PyTorch measures first behind two passes that do not \
         count and gives its weights back; ours measures afterwards, behind two such passes too. The metric is our \
         rate over theirs, the first pass over the first, and so on."
    ),
    samples: PAIRS,
    expected_s: 150.0,
    deadline_s: 600.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: |assignment, recorder| run(Config::SEED_002, &ROWS, assignment, recorder),
};

fn run(
    config: Config,
    rows: &[Row],
    assignment: &Assignment,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let mut torch = Torch::of_script("torch_compiled.py", assignment, recorder)?;
    let mut bench = Bench::open(assignment, recorder)?;
    if config.attention_e4m3 {
        bench.load_attention_e4m3(recorder)?;
    }
    {
        let (gpu, index) = bench.lab.only()?;
        let config = Config { seed: assignment.seed, ..config };
        let setting = Setting { bench: &bench, gpu, on: [index], assignment, config };
        let bytes = rows.iter().map(|(_, problem)| memory::formula(&config, problem));
        // In turn both are there at once, and theirs is taken to be as large.
        room(gpu, bytes.max().unwrap_or(0) * if setting.in_turn() { 2 } else { 1 })?;
        for (at, row) in rows.iter().enumerate() {
            setting.row(*row, at == 0, &mut torch, recorder)?;
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
    config: Config,
}

impl Setting<'_> {
    /// Whether both are there at once.
    fn in_turn(&self) -> bool {
        self.config.precision.is_fp8()
    }

    fn row(
        &self,
        (name, problem): Row,
        faults: bool,
        torch: &mut Torch,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let rival_precision = if self.config.precision.is_fp8() { "fp8" } else { "fp16" };
        let text = if self.config.attention_e4m3 { "fp8-attention" } else { rival_precision };
        recorder.progress(name);
        let Problem { batches, tokens, .. } = problem;
        torch.prepare(&format!("model {rival_precision} {batches} {tokens}"))?;
        let pairs = self.assignment.samples(PAIRS);
        let (mut rival, their_peak) = self.theirs(torch, pairs)?;
        let inputs = bench::tokens(&self.config, &problem, self.assignment.seed);
        let before = Before::now(self.gpu)?;
        let gpus = self.bench.first(1);
        let mut group = bench::group(&gpus, self.config, Split::Outputs, problem, &inputs)?;
        let at = [("precision", text), ("problem", name)];
        let on = &self.on;
        let nonfinite = |count: u64| Metric::exact(INTEGRITY, &at, on, count as f64);
        self.gpu.ledger().reset_peak();
        group.poison()?;
        recorder.control(NOT_RUN.name, nonfinite(unwritten(&group)?));
        group.time(1, 0)?;
        let peak = before.taken(self.gpu)?.peak as f64;
        self.memory((peak, their_peak), &at, recorder);
        group.record()?;
        group.time(2, 0)?;
        let own = match self.in_turn() {
            true => {
                let (own, turns) = in_turn(torch, &mut group, pairs)?;
                rival = turns;
                own
            }
            false => group.time(0, pairs as u32)?,
        };
        // What the recorded pass leaves that was timed.
        group.poison()?;
        group.pass()?;
        recorder.metric(nonfinite(unwritten(&group)?));
        recorder.metric(Metric::sampled(METRIC, &at, on, bench::ratios(&rival, &own)));
        recorder.metric(Metric::sampled("own_ms", &at, on, rounded(&own)));
        recorder.metric(Metric::sampled("rival_ms", &at, on, rounded(&rival)));
        if faults {
            group.plant(Some(Fault::Repeated { layers: self.config.layers / 2 }));
            group.record()?;
            let slow = group.time(1, PAIRS as u32)?;
            let ratios = bench::ratios(&rival, &slow);
            recorder.control(HALF_MORE.name, Metric::sampled(METRIC, &at, on, ratios));
        }
        Ok(())
    }

    /// PyTorch's passes and the most bytes that they take. Where both do not fit, its weights are gone then.
    fn theirs(&self, torch: &mut Torch, pairs: usize) -> Result<(Vec<f64>, f64), Stop> {
        let passes = if self.in_turn() { 1 } else { pairs };
        let times = (0..passes).map(|_| torch.number("sample 1"));
        let times = times.collect::<Result<_, _>>()?;
        let peak = torch.number("peak")?;
        if !self.in_turn() {
            torch.ask("release")?;
        }
        Ok((times, peak))
    }

    /// Our most bytes over theirs.
    fn memory(&self, (own, rival): (f64, f64), at: At, recorder: &mut Recorder) {
        let ratio = |bytes: f64| Metric::exact(MEMORY, at, &self.on, bytes / rival);
        recorder.metric(ratio(own));
        let layers = 8.0 * self.config.weight_bytes(1) as f64 / f64::from(self.config.layers);
        recorder.control(LAYERS_TWICE.name, ratio(own + layers));
    }
}
