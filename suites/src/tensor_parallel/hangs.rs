//! Hangs of a model over all GPUs: a rank that never comes leaves a flight record of what was exchanged.

use harness::case::{Case, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};

use super::bench::{self, Bench};
use crate::model::hangs::{CONTROLS, SMART_CONTROLS, Trials};
use crate::model::stages::Stage;

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::hangs",
    revision: 3,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: true,
    procedure: "As model::hangs, over 2, 4 or 8 GPUs, as many as there are, in two chunks, and call by call: nothing is \
                recorded over several GPUs. A loop of the host never ends in compile and in tune, where it does in \
                model::hangs; in run, behind a pass that ends, one rank's products of the second layer are held up for an \
                hour, for which the others wait. Between the two passes of that run a mark is written into the flight \
                record, and an exchange must stand behind it: those of the first pass do not count. Behind the hang in \
                tune the same pass runs with the heuristic's algorithms.",
    samples: 0,
    expected_s: 75.0,
    deadline_s: 900.0,
    kernels: bench::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run,
};

/// All GPUs, the smart way.
pub static SMART_CASE: Case = Case {
    id: "tensor-parallel::hangs-smart",
    revision: 1,
    figures_since: 1,
    procedure: "As model::hangs-smart, over 2, 4 or 8 GPUs, as many as there are, in two chunks, and call by call: the smart \
                way searches and records nothing over several GPUs.",
    expected_s: 65.0,
    controls: &SMART_CONTROLS,
    run: smart,
    ..CASE
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    over_all(assignment, recorder)?.measured(&[Stage::Compile, Stage::Tune, Stage::Run], recorder)
}

fn smart(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    over_all(assignment, recorder)?.smart().measured(&[Stage::Smart], recorder)
}

/// Trials over as many GPUs as there are of 2, 4 or 8.
fn over_all(assignment: &Assignment, recorder: &mut Recorder) -> Result<Trials, Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let most = bench.degrees().last().copied();
    let most = most.ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    let trials = Trials::new(assignment, recorder, bench.indices(most))?;
    bench.lab.close(recorder);
    Ok(trials)
}
