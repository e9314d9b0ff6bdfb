//! What communication costs beside products, of more problems: passes with their exchanges beside passes in which
//! nothing is sent.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::rates::{self, INTEGRITY, NOT_RUN, rounded, tflops, unwritten};
use crate::rivals;

/// A pass's time over that of one in which nothing is sent and no rank waits for another.
pub const COST: &str = "over_silent_ratio";

/// Degrees that are measured where there are GPUs.
const DEGREES: [usize; 2] = [4, 8];
/// What [`rates`] measures over these degrees: pairs of passes, the problem's name and the problem.
const ROWS: [(usize, &str, Problem); 2] = [
    (PAIRS, "8x1024", Problem { batches: 8, tokens: 1024, chunks: 2 }),
    (LONG_PAIRS, "1x32768", Problem { batches: 1, tokens: 32768, chunks: 2 }),
];
const PAIRS: usize = 8;
/// Of passes of one and a half seconds.
const LONG_PAIRS: usize = 6;
const CONTROL_SAMPLES: u32 = 6;
/// Layers that are run twice in a control: a sixth of the pass.
const TWICE: u32 = 8;

const SILENT: Fault = Fault::Silent { in_step: false };

static CONTROLS: [Control; 3] = [
    control(
        "eight-layers-twice",
        "8 of the 48 layers are run twice, a sixth more than a pass",
        COST,
        Expect::Refuted,
    ),
    control(
        "all-exposed",
        "the passes are of one chunk, so that no exchange runs beside products",
        COST,
        Expect::Refuted,
    ),
    NOT_RUN,
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::overlap-more",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 4,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 in fp16 over four GPUs, and over eight where there are as many: 8 sequences of \
                1024 tokens and one of 32768, two chunks in turns. A pass and one in which nothing is sent, so that other \
                data are multiplied, and no rank waits for another take turns, pair by pair, the other way round in every \
                second pair, without a rest between them; the time of each is that of the longest of the GPUs. The controls are planted over \
                four GPUs at 8 sequences of 1024 tokens, over the median of the passes with nothing sent, those of one \
                chunk over that of one chunk.",
    samples: LONG_PAIRS,
    expected_s: 40.0,
    deadline_s: 400.0,
    kernels: bench::KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    for degree in DEGREES.into_iter().filter(|degree| *degree <= bench.count()) {
        let mut group = Group::new(&bench.first(degree), config, Split::Outputs)?;
        for (pairs, name, problem) in ROWS {
            recorder.progress(&format!("degree {degree} {name}"));
            let row = Row { bench: &bench, config, degree, name };
            row.set(&mut group, problem, assignment.seed)?;
            bench::write_choices(recorder, &format!("degree-{degree} {name}"), &group)?;
            let silent = row.pairs(&mut group, assignment.samples(pairs), problem, recorder)?;
            if (degree, name) == (DEGREES[0], ROWS[0].1) {
                row.controls(&mut group, silent, recorder)?;
                let whole = Problem { chunks: 1, ..problem };
                row.set(&mut group, whole, assignment.seed)?;
                row.exposed(&mut group, recorder)?;
            }
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// A degree and a problem.
struct Row<'a> {
    bench: &'a Bench,
    config: Config,
    degree: usize,
    name: &'a str,
}

impl Row<'_> {
    fn on(&self) -> &[u32] {
        self.bench.indices(self.degree)
    }

    fn sampled(&self, name: &str, values: Vec<f64>) -> Metric {
        let degree = self.degree.to_string();
        let at = [("degree", degree.as_str()), ("problem", self.name)];
        Metric::sampled(name, &at, self.on(), values)
    }

    fn nonfinite(&self, group: &Group<'_>) -> Result<Metric, Stop> {
        let degree = self.degree.to_string();
        let at = [("degree", degree.as_str()), ("problem", self.name)];
        Ok(Metric::exact(INTEGRITY, &at, self.on(), unwritten(group)? as f64))
    }

    /// Sets a problem with its tokens, behind which a pass runs.
    fn set(&self, group: &mut Group<'_>, problem: Problem, seed: u64) -> Result<(), Stop> {
        group.set(problem, bench::CANDIDATES)?;
        group.set_tokens(&bench::tokens(&self.config, &problem, seed))?;
        group.time(1, 0)?;
        Ok(())
    }

    /// Pairs of passes; returns the median of those with nothing sent.
    fn pairs(
        &self,
        group: &mut Group<'_>,
        pairs: usize,
        problem: Problem,
        recorder: &mut Recorder,
    ) -> Result<f64, Stop> {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            let order = if pair % 2 == 0 { [false, true] } else { [true, false] };
            for silent in order {
                match silent {
                    true => without.extend(timed(group, SILENT, 1)?),
                    false => with.extend(group.time(0, 1)?),
                }
            }
        }
        let flops = self.config.flops(&problem) / self.degree as f64;
        recorder.metric(self.sampled(COST, bench::ratios(&with, &without)));
        recorder.metric(self.sampled("overlapped_ms", rounded(&with)));
        recorder.metric(self.sampled("silent_ms", rounded(&without)));
        recorder.metric(self.sampled(rates::METRIC, tflops(flops, &with)));
        group.poison()?;
        recorder.control(NOT_RUN.name, self.nonfinite(group)?);
        group.forward(Watch::Nothing)?;
        recorder.metric(self.nonfinite(group)?);
        rivals::middle(&without)
    }

    /// Passes with layers run twice.
    fn controls(
        &self,
        group: &mut Group<'_>,
        silent: f64,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let longer = timed(group, Fault::Repeated { layers: TWICE }, CONTROL_SAMPLES)?;
        recorder.control(CONTROLS[0].name, self.sampled(COST, over(&longer, silent)));
        Ok(())
    }

    /// Passes of one chunk, which is set.
    fn exposed(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        let serial = group.time(0, CONTROL_SAMPLES)?;
        let silent = rivals::middle(&timed(group, SILENT, CONTROL_SAMPLES)?)?;
        recorder.control(CONTROLS[1].name, self.sampled(COST, over(&serial, silent)));
        Ok(())
    }
}

/// Milliseconds of passes with a fault.
fn timed(group: &mut Group<'_>, fault: Fault, samples: u32) -> Result<Vec<f64>, Stop> {
    group.plant(Some(fault));
    let times = group.time(0, samples);
    group.plant(None);
    Ok(times?)
}

/// Each over one time.
fn over(times: &[f64], one: f64) -> Vec<f64> {
    bench::ratios(times, &vec![one; times.len()])
}
