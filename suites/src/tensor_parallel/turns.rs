//! More chunks than are held at once: the bits of one GPU's whole pass, whoever reads or sends late.

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::drift::Difference;
use kernels::model::fault::{Fault, Held};
use kernels::model::group::{Group, Kept, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::setting::METRIC;
use crate::model::{KERNELS, PRECISIONS};

/// Of 48: what more chunks change is the same in each.
const LAYERS: u32 = 12;
/// The layer in which a rank is late.
const LAYER: u32 = 5;
/// How late: many times what a chunk takes.
const LATE: Duration = Duration::from_millis(20);
/// One sequence, and whole ones.
const PROBLEMS: [Problem; 3] = [
    Problem { batches: 1, tokens: 8192, chunks: 4 },
    Problem { batches: 1, tokens: 8192, chunks: 8 },
    Problem { batches: 4, tokens: 2048, chunks: 4 },
];

const UNREAD: Control = control(
    "unread-is-overwritten",
    "in one layer others send the third chunk to a late rank without waiting until it has read the first",
    METRIC,
    Expect::Refuted,
);
const UNSENT: Control = control(
    "unsent-is-overwritten",
    "in one layer a rank whose copies are late makes the third chunk before the first has left",
    METRIC,
    Expect::Refuted,
);

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::chunks",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The model of seed 002 with 12 of its layers, in fp16 and in FP8 W8A8. One GPU's residual streams behind every \
                layer and its logits of one sequence of 8192 tokens and of 4 of 2048 are kept, made in one chunk. Then 2, 4 and 8 GPUs, \
                as many as there are, make them in 4 and 8 chunks and in 4, of which attention's outputs and rows inside the \
                MLP are held of two at a time: every element on every rank is compared, bit by bit, behind every layer; \
                behind the last one alone, so that nothing between waits; of a pass right behind another one; and of \
                passes in which, in layer 5, the last rank reads the first chunk 20 ms late, or its copies of it leave as \
                late.",
    samples: 0,
    expected_s: 24.0,
    deadline_s: 240.0,
    kernels: KERNELS,
    integrity: &[],
    controls: &[UNREAD, UNSENT],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    for (precision, name) in &PRECISIONS[..2] {
        let config = Config {
            seed: assignment.seed,
            layers: LAYERS,
            precision: *precision,
            ..Config::SEED_002
        };
        for problem in PROBLEMS {
            let what =
                format!("{}x{} in {} chunks", problem.batches, problem.tokens, problem.chunks);
            recorder.progress(&format!("{name} {what}"));
            let setting = Setting::new(&bench, config, problem)?;
            for degree in bench.degrees() {
                setting.degree(degree, [("precision", *name), ("what", &what)], recorder)?;
            }
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// What one GPU made.
struct Setting<'a> {
    bench: &'a Bench,
    config: Config,
    problem: Problem,
    tokens: Vec<u32>,
    kept: Kept,
}

impl<'a> Setting<'a> {
    fn new(bench: &'a Bench, config: Config, problem: Problem) -> Result<Setting<'a>, Stop> {
        let whole = Problem { chunks: 1, ..problem };
        let tokens = bench::tokens(&config, &whole, config.seed);
        let kept = Kept::new(&bench.lab.gpus[0], &config, &whole)?;
        let mut one = Group::new(&bench.first(1), config, Split::Outputs)?;
        one.set(whole, 1)?;
        one.set_tokens(&tokens)?;
        one.poison()?;
        one.forward(Watch::Keep(&kept))?;
        drop(one);
        Ok(Setting { bench, config, problem, tokens, kept })
    }

    fn degree(
        &self,
        degree: usize,
        [precision, what]: [(&str, &str); 2],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let mut group = Group::new(&self.bench.first(degree), self.config, Split::Outputs)?;
        group.set(self.problem, 1)?;
        group.set_tokens(&self.tokens)?;
        let late = |held, waits| {
            let rank = degree as u32 - 1;
            Some(Fault::HeldUp { rank, layer: LAYER, time: LATE, held, waits })
        };
        let mut apart = self.apart(&mut group, None)? + self.behind_the_last(&mut group)?;
        for held in [Held::Reading, Held::Sending] {
            apart += self.apart(&mut group, late(held, true))?;
        }
        let metric = |apart: u64| {
            let name = degree.to_string();
            let at = [("degree", name.as_str()), precision, what];
            Metric::exact(METRIC, &at, self.bench.indices(degree), apart as f64)
        };
        recorder.metric(metric(apart));
        for (control, held) in [(UNREAD, Held::Reading), (UNSENT, Held::Sending)] {
            let overtaken = self.apart(&mut group, late(held, false))?;
            recorder.control(control.name, metric(overtaken));
        }
        Ok(())
    }

    /// Elements that differ in two passes right behind each other.
    fn apart(&self, group: &mut Group<'_>, fault: Option<Fault>) -> Result<u64, Stop> {
        group.plant(fault);
        group.poison()?;
        group.forward(Watch::Nothing)?;
        group.forward(Watch::Compare(&self.kept, 0, 0))?;
        let found = group.differences()?;
        group.plant(None);
        Ok(bench::drift(&found).count)
    }

    /// Elements that differ behind the last layer of a pass that is not looked at before.
    fn behind_the_last(&self, group: &mut Group<'_>) -> Result<u64, Stop> {
        group.poison()?;
        group.forward(Watch::Nothing)?;
        group.compare_last(&self.kept)?;
        let found = group.differences()?;
        let last = |rank: &Vec<Difference>| vec![rank[LAYERS as usize - 1]];
        Ok(bench::drift(&found.iter().map(last).collect::<Vec<_>>()).count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_holds_less_than_all_chunks() {
        for problem in PROBLEMS {
            assert!(
                problem.check().is_ok() && problem.chunks > problem.held_chunks(),
                "{problem:?}"
            );
        }
    }
}
