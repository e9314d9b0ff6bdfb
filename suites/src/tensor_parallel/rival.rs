//! PyTorch's tensor parallel on the same GPUs, passes taken in turn with ours.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::rates::{INTEGRITY, NOT_RUN, rounded, unwritten};
use crate::rivals::{self, Torch};

/// Our rate over theirs.
pub const METRIC: &str = "over_pytorch_ratio";

const PAIRS: usize = 8;
const CONTROL_PAIRS: usize = 6;
/// Passes of a turn.
const PASSES: u32 = 1;

/// Degree, name, problem, and the chunks that take turns here.
const PROBLEMS: [(usize, &str, Problem); 5] = [
    (2, "4x2048", Problem { batches: 4, tokens: 2048, chunks: 2 }),
    (4, "8x1024", Problem { batches: 8, tokens: 1024, chunks: 2 }),
    (4, "1x32768", Problem { batches: 1, tokens: 32768, chunks: 2 }),
    (8, "8x1024", Problem { batches: 8, tokens: 1024, chunks: 2 }),
    (8, "1x32768", Problem { batches: 1, tokens: 32768, chunks: 2 }),
];

/// Half of our layers are run twice.
pub const HALF_MORE: Control = Control {
    name: "half-more",
    fault: "24 of our 48 layers are run twice and counted once",
    trips: METRIC,
    expect: Expect::Refuted,
};

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::vs-pytorch",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "PyTorch runs the 48-layer model of seed 002 in processes beside this one, one a GPU: split as \
                Megatron splits it, two NCCL all-reduces a layer, cuDNN attention, eager. Both measure in \
                turn, pass by pass. The metric is our rate over theirs, pair by pair. PyTorch's bits \
                depend on the degree; ours are those of one GPU.",
    samples: PAIRS,
    expected_s: 105.0,
    deadline_s: 500.0,
    kernels: bench::KERNELS,
    integrity: &[INTEGRITY],
    controls: &[HALF_MORE, NOT_RUN],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::of_script("torch_model.py", assignment, recorder)?;
    let bench = Bench::open(assignment, recorder)?;
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    for (degree, name, problem) in PROBLEMS.into_iter().filter(|p| p.0 <= bench.count()) {
        let Problem { batches, tokens: length, .. } = problem;
        recorder.progress(&format!("degree {degree} {name}"));
        torch.prepare(&format!("model {degree} {batches} {length}"))?;
        let on = bench.indices(degree);
        let degree_name = degree.to_string();
        let at = [("degree", degree_name.as_str()), ("problem", name)];
        let tokens = bench::tokens(&config, &problem, assignment.seed);
        let mut group =
            bench::group(&bench.first(degree), config, Split::Outputs, problem, &tokens)?;
        let nonfinite = |count: u64| Metric::exact(INTEGRITY, &at, on, count as f64);
        group.poison()?;
        recorder.control(NOT_RUN.name, nonfinite(unwritten(&group)?));
        group.time(1, 1)?;
        let (own, rival) = in_turn(&mut torch, &mut group, assignment.samples(PAIRS))?;
        recorder.metric(Metric::sampled(METRIC, &at, on, bench::ratios(&rival, &own)));
        recorder.metric(Metric::sampled("own_ms", &at, on, rounded(&own)));
        recorder.metric(Metric::sampled("rival_ms", &at, on, rounded(&rival)));
        group.poison()?;
        group.forward(Watch::Nothing)?;
        recorder.metric(nonfinite(unwritten(&group)?));
        group.plant(Some(Fault::Repeated { layers: config.layers / 2 }));
        let (own, rival) = in_turn(&mut torch, &mut group, CONTROL_PAIRS)?;
        recorder
            .control(HALF_MORE.name, Metric::sampled(METRIC, &at, on, bench::ratios(&rival, &own)));
    }
    bench.lab.close(recorder);
    Ok(())
}

/// Milliseconds of a pass, ours and theirs, in turn.
pub fn in_turn(
    torch: &mut Torch,
    group: &mut Group<'_>,
    pairs: usize,
) -> Result<(Vec<f64>, Vec<f64>), Stop> {
    let theirs = || torch.number(&format!("sample {PASSES}"));
    rivals::by_turns(pairs, || rivals::middle(&group.time(0, PASSES)?), theirs)
}
