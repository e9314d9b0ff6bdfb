//! The ordinary way beside ours: rows of the weights that end an attention and an MLP are shared, and
//! NCCL sums halves. It drifts; how much, and what our way costs against it.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::libraries::Library;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Kept, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};
use kernels::nccl::Communicators;

use super::bench::{self, Bench};
use super::rates::{INTEGRITY, NOT_RUN, rounded, unwritten};
use super::setting;
use crate::lab;
use crate::rivals;

/// Elements of residual streams and logits whose bits differ from one GPU's.
pub const DRIFT: &str = setting::METRIC;
/// Root mean square of the logits' differences from one GPU's over that of the logits.
pub const LOGITS: &str = "logits_drift_ratio";
/// Layers in which two ranks hold different residual streams.
pub const AGREEMENT: &str = setting::AGREEMENT;
/// The ordinary way's time over ours.
pub const COST: &str = "over_row_parallel_ratio";

const PAIRS: usize = 8;
const CONTROL_PAIRS: usize = 6;
const PROBLEM: Problem = Problem { batches: 4, tokens: 2048, chunks: 2 };

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::ordinary",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002, 4 sequences of 2048 tokens, over every degree in the ordinary \
                way: columns of QKV and of the MLP's first product, rows of the other two weights, whose \
                summands NCCL adds as halves, chunks in turns so that sums run beside products, and added to the residual stream by a kernel of \
                its own. Every layer \
                and logit is compared with one GPU's. Passes in this way and in ours are taken in turn.",
    samples: PAIRS,
    expected_s: 48.0,
    deadline_s: 400.0,
    kernels: bench::KERNELS,
    integrity: &[INTEGRITY],
    controls: &[
        Control {
            name: "no-sum-cut",
            fault: "the columns are shared in place of the rows",
            trips: DRIFT,
            expect: Expect::Refuted,
        },
        Control {
            name: "other-tokens",
            fault: "the middle 64 of 2048 tokens of each sequence are others",
            trips: LOGITS,
            expect: Expect::Refuted,
        },
        setting::STRAY_BIT,
        NOT_RUN,
        Control {
            name: "half-more",
            fault: "24 of our 48 layers are run twice",
            trips: COST,
            expect: Expect::Refuted,
        },
    ],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    lab::require(Library::Nccl)?;
    let bench = Bench::open(assignment, recorder)?;
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    let tokens = bench::tokens(&config, &PROBLEM, assignment.seed);
    recorder.progress("one gpu");
    let whole = Problem { chunks: 1, ..PROBLEM };
    let kept = Kept::new(&bench.lab.gpus[0], &config, &whole)?;
    let mut one = bench::group(&bench.first(1), config, Split::Outputs, whole, &tokens)?;
    one.poison()?;
    one.forward(Watch::Keep(&kept))?;
    let wanted = bench::logits(&one, config.vocab)?;
    drop(one);
    for degree in bench.degrees() {
        recorder.progress(&format!("degree {degree}"));
        let all = Communicators::new(&bench.lab.gpus[..degree])?;
        let gpus = bench.first(degree);
        let mut ordinary = bench::group(&gpus, config, Split::Inputs, PROBLEM, &tokens)?;
        ordinary.set_reducer(Box::new(&all));
        let mut ours = bench::group(&gpus, config, Split::Outputs, PROBLEM, &tokens)?;
        let step =
            Step { bench: &bench, kept: &kept, wanted: &wanted, vocab: config.vocab, degree };
        step.drift(&mut ordinary, &mut ours, recorder)?;
        step.cost(&mut ordinary, &mut ours, assignment.samples(PAIRS), recorder)?;
        if Some(&degree) == bench.degrees().last() {
            step.planted(&mut ordinary, &tokens, recorder)?;
        }
        drop(ordinary);
        all.check()?;
    }
    drop(kept);
    bench.lab.close(recorder);
    Ok(())
}

/// One degree.
struct Step<'a> {
    bench: &'a Bench,
    kept: &'a Kept,
    wanted: &'a [Vec<f64>],
    vocab: u32,
    degree: usize,
}

impl Step<'_> {
    fn on(&self) -> &[u32] {
        self.bench.indices(self.degree)
    }

    fn exact(&self, name: &str, value: f64) -> Metric {
        let degree = self.degree.to_string();
        Metric::exact(name, &[("degree", degree.as_str())], self.on(), value)
    }

    fn compared(&self, group: &mut Group<'_>) -> Result<bench::Drift, Stop> {
        group.poison()?;
        group.forward(Watch::Compare(self.kept, 0, 0))?;
        Ok(bench::drift(&group.differences()?))
    }

    fn drift(
        &self,
        ordinary: &mut Group<'_>,
        ours: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let found = self.compared(ordinary)?;
        recorder.option(&format!("drift degree-{}", self.degree), found.text());
        recorder.metric(self.exact(DRIFT, found.count as f64));
        recorder.metric(self.exact(AGREEMENT, found.disagreeing as f64));
        let off = bench::apart(&bench::logits(ordinary, self.vocab)?, self.wanted);
        recorder.metric(self.exact(LOGITS, off));
        let none = self.compared(ours)?;
        recorder.control("no-sum-cut", self.exact(DRIFT, none.count as f64));
        Ok(())
    }

    fn cost(
        &self,
        ordinary: &mut Group<'_>,
        ours: &mut Group<'_>,
        pairs: usize,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let degree = self.degree.to_string();
        let at = [("degree", degree.as_str())];
        for group in [&*ours, &*ordinary] {
            group.poison()?;
        }
        let nothing = unwritten(ours)? as f64;
        recorder.control(NOT_RUN.name, self.exact(INTEGRITY, nothing));
        let (own, other) = in_turn(ours, ordinary, pairs)?;
        let nonfinite = unwritten(ours)? + unwritten(ordinary)?;
        recorder.metric(self.exact(INTEGRITY, nonfinite as f64));
        recorder.metric(Metric::sampled(COST, &at, self.on(), bench::ratios(&other, &own)));
        recorder.metric(Metric::sampled("column_parallel_ms", &at, self.on(), rounded(&own)));
        recorder.metric(Metric::sampled("row_parallel_ms", &at, self.on(), rounded(&other)));
        ours.plant(Some(Fault::Repeated { layers: Config::SEED_002.layers / 2 }));
        let (own, other) = in_turn(ours, ordinary, CONTROL_PAIRS)?;
        ours.plant(None);
        let slow = Metric::sampled(COST, &at, self.on(), bench::ratios(&other, &own));
        recorder.control("half-more", slow);
        Ok(())
    }

    fn planted(
        &self,
        ordinary: &mut Group<'_>,
        tokens: &[u32],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        ordinary.plant(Some(Fault::Stray { rank: ordinary.degree() - 1, layer: 20 }));
        let disagreeing = self.compared(ordinary)?.disagreeing as f64;
        ordinary.plant(None);
        recorder.control(setting::STRAY_BIT.name, self.exact(AGREEMENT, disagreeing));
        let mut others = tokens.to_vec();
        for sequence in others.chunks_mut(PROBLEM.tokens as usize) {
            let middle = PROBLEM.tokens as usize / 2;
            for token in &mut sequence[middle..middle + 64] {
                *token = (*token + 1) % self.vocab;
            }
        }
        ordinary.set_tokens(&others)?;
        ordinary.forward(Watch::Nothing)?;
        let off = bench::apart(&bench::logits(ordinary, self.vocab)?, self.wanted);
        recorder.control("other-tokens", self.exact(LOGITS, off));
        Ok(())
    }
}

/// Milliseconds of a pass, ours and the ordinary way's, in turn.
fn in_turn(
    ours: &mut Group<'_>,
    ordinary: &mut Group<'_>,
    pairs: usize,
) -> Result<(Vec<f64>, Vec<f64>), Stop> {
    ours.time(1, 0)?;
    ordinary.time(1, 0)?;
    let pass = |group: &mut Group<'_>| rivals::middle(&group.time(0, 1)?);
    rivals::by_turns(pairs, || pass(ours), || pass(ordinary))
}
