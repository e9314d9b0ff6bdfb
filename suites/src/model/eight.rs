//! Attention over E4M3 inside the model: its rows beside f64 on the halves that it was made of.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::generator::draw;
use kernels::model::group::{Fault, Group};
use kernels::model::probe::Probe;
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::check::{self, LAYERS};
use super::forward::room;
use super::memory::{self, Before};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, unwritten};

/// Worst root mean square of the error of a head's attention, over that of what it should be.
pub const ERROR: &str = "attention_rms_ratio";

const TOKENS: u32 = 8192;
const PROBLEM: Problem = Problem { batches: 1, tokens: TOKENS, chunks: 1 };
/// Keys before its own that a query still sees under the planted fault.
const SEEN: u32 = 256;

static CONTROLS: [Control; 4] = [
    Control {
        name: "other-head",
        fault: "the error is that beside the query of the next head",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "forgotten-keys",
        fault: "in the first layer queries see no key that lies more than 256 tokens back",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    memory::LAYER_TWICE,
    NOT_RUN,
];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::fp8-attention",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 in FP8 (W8A8, fast accumulation) on one GPU, one sequence of 8192 tokens, \
                its queries, keys and values made E4M3 with a scale for each head behind the product that makes them. \
                The last row and two drawn ones are read in layers 0, 23 and 47, one drawn head each, and compared with \
                f64 attention over the halves before they became E4M3: root mean square of a head's 128 errors over \
                that of what is wanted, the worst of all. What is allocated is compared with the closed formula.",
    samples: 0,
    expected_s: 5.0,
    deadline_s: 240.0,
    kernels: &["model", "operands", "pattern", "timing", "quantise", "attention-quantise"],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut bench = Bench::open(assignment, recorder)?;
    bench.load_attention_e4m3(recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let seed = assignment.seed;
        let config = Config {
            seed,
            precision: Precision::E4m3Fast,
            attention_e4m3: true,
            ..Config::SEED_002
        };
        let formula = memory::formula(&config, &PROBLEM);
        room(gpu, formula)?;
        let on = [index];
        let exact = |name: &str, value: f64| Metric::exact(name, &[], &on, value);
        let before = Before::now(gpu)?;
        let mut group = Group::new(&bench.first(1), config, Split::Outputs)?;
        group.set(PROBLEM, 1)?;
        gpu.ledger().reset_peak();
        group.set_tokens(&bench::tokens(&config, &PROBLEM, seed))?;
        group.poison()?;
        recorder.control(NOT_RUN.name, exact(INTEGRITY, unwritten(&group)? as f64));
        group.pass()?;
        recorder.metric(exact(INTEGRITY, unwritten(&group)? as f64));
        for metric in memory::metrics(before.taken(gpu)?, formula, &[], &on) {
            recorder.metric(metric);
        }
        memory::layer_twice((gpu, &before), (&config, formula), &[], &on, recorder)?;
        let drawn = |at: u64, below: u32| {
            ((u64::from(draw(seed ^ 0xE8, at)) * u64::from(below)) >> 32) as u32
        };
        let head = drawn(0, config.heads());
        let rows = vec![drawn(1, TOKENS), drawn(2, TOKENS), TOKENS - 1];
        let seen = check::looked(&mut group, Probe::new(LAYERS.to_vec(), rows, head))?;
        let worst =
            |of: u32| seen.iter().map(|seen| check::attention_rms(seen, of)).fold(0.0, f64::max);
        recorder.metric(exact(ERROR, worst(head)));
        recorder.control("other-head", exact(ERROR, worst((head + 1) % config.heads())));
        group.plant(Some(Fault::Forgotten { layer: LAYERS[0], left: SEEN }));
        let seen = check::looked(&mut group, Probe::new(LAYERS.to_vec(), vec![TOKENS - 1], head))?;
        group.plant(None);
        let forgotten = seen.iter().map(|seen| check::attention_rms(seen, head));
        recorder.control("forgotten-keys", exact(ERROR, forgotten.fold(0.0, f64::max)));
    }
    bench.lab.close(recorder);
    Ok(())
}
