//! Logits of every token of a long sequence, columns shared by 2, 4 and 8 GPUs: the bits of one.

use harness::case::{Case, Control, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::group::Group;
use kernels::model::logits::TokenLogits;
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision, Problem};

use super::bench::{self, Bench};
use super::rates::unwritten;
use super::setting::{self, METRIC, planted_drift};
use crate::model::every::{Parts, apart};

const PROBLEM: Problem = Problem { batches: 1, tokens: 32768, chunks: 4 };
/// What is compared are products of the head: they see of the layers only the stream behind the last.
const LAYERS: u32 = 2;
/// Tokens of a part.
const ROWS: u32 = 1024;

const FLIPPED: &str = "flipped-bit";
const LEFT_OUT: &str = "left-out";

static CONTROLS: [Control; 2] = [
    planted_drift(
        FLIPPED,
        "the lowest bit of one weight of the last rank's columns of the head is flipped",
    ),
    planted_drift(LEFT_OUT, "the last 1024 tokens' logits are not made"),
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::every-logits",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "A pass over one sequence of 32768 tokens through two layers of seed 002's sizes, in fp16 and W8A8, on one \
                GPU, where norm and head give the logits of all tokens at once, and over 2, 4 and 8, where each makes its \
                columns of the logits, 1024 tokens at a time into memory that was overwritten with zeros. Every bit is \
                compared with that of one GPU; so are the pass's own logits, of its last token.",
    samples: 0,
    expected_s: 9.0,
    deadline_s: 200.0,
    kernels: crate::model::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    for precision in [Precision::F16, Precision::E4m3] {
        let seed = assignment.seed;
        let config = Config { layers: LAYERS, seed, precision, ..Config::SEED_002 };
        let tokens = bench::tokens(&config, &PROBLEM, seed);
        let pass = |degree: usize| -> Result<Group<'_>, Stop> {
            let gpus = bench.first(degree);
            let mut group = bench::group(&gpus, config, Split::Outputs, PROBLEM, &tokens)?;
            group.poison()?;
            group.pass()?;
            if unwritten(&group)? > 0 {
                return Err(Stop::Error(format!("a pass over {degree} left what is not finite")));
            }
            Ok(group)
        };
        let mut one = pass(1)?;
        let whole = one.token_logits(PROBLEM.tokens)?;
        one.forget_token_logits(&whole, false)?;
        one.make_token_logits(&whole, 0)?;
        for degree in bench.degrees() {
            recorder.progress(&format!("{} over {degree} gpus", setting::name(precision)));
            let at = (setting::name(precision), degree);
            compared(&bench, at, &mut pass(degree)?, &whole, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

fn compared(
    bench: &Bench,
    (precision, degree): (&str, usize),
    group: &mut Group<'_>,
    whole: &TokenLogits,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let gpus = degree.to_string();
    let metric = |way: &str, count: f64| {
        let at = [("precision", precision), ("degree", gpus.as_str()), ("way", way)];
        Metric::exact(METRIC, &at, bench.indices(degree), count)
    };
    let part = group.token_logits(ROWS)?;
    let last = group.last_logits_apart(&part, whole)?;
    recorder.metric(metric("last-token", last as f64));
    let parts = |made: u32| Parts { end: PROBLEM.tokens, made, shift: 0 };
    let all = apart(group, &part, whole, parts(PROBLEM.tokens))?;
    recorder.metric(metric("every-token", all));
    let left_out = apart(group, &part, whole, parts(PROBLEM.tokens - ROWS))?;
    recorder.control(LEFT_OUT, metric("every-token", left_out));
    let flip = |group: &Group<'_>| {
        group.flip(group.degree() - 1, Place::Linear(Linear::Head, 0), 1_000_003)
    };
    flip(group)?;
    let flipped = apart(group, &part, whole, parts(PROBLEM.tokens))?;
    flip(group)?;
    recorder.control(FLIPPED, metric("every-token", flipped));
    Ok(())
}
