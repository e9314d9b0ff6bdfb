//! The model in bf16 on one GPU: right stage by stage and in its logits, its rate, its memory, and beside fp16.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::probe::{Probe, Seen};
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem, reference};

use super::check::{self, LAYERS, STAGES};
use super::forward::{FLIPPED_BIT, in_turn, room, same_bits};
use super::memory::{self, Before};
use super::roundings::Oracle;
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::oracle;
use crate::tensor_parallel::rates::{INTEGRITY, METRIC, NOT_RUN, TIME, rounded, tflops, unwritten};

/// Largest error of sampled numbers beside f64, over what bf16's roundings explain ([`super::roundings`]).
pub const ERROR: &str = "error_over_bound_ratio";
/// The time in fp16 over the time in bf16, pass by pass.
pub const SPEEDUP: &str = "bf16_speedup_ratio";

const PROBLEM: Problem = Problem { batches: 4, tokens: 2048, chunks: 1 };
const NAME: &str = "4x2048";
/// Six samples are the fewest that have an interval.
const PAIRS: usize = 6;
/// Keys before its own that a query still sees under the planted fault.
const SEEN: u32 = 256;
/// Layers of the models that take turns: fp16 and bf16 with 48 layers do not fit beside each other.
const BESIDE: u32 = 12;

const OTHER_WEIGHTS: Control = Control {
    name: "weights-of-fp16",
    fault: "what is wanted is made of weights that were rounded to halves",
    trips: ERROR,
    expect: Expect::Refuted,
};
const NO_BIAS: Control = Control {
    name: "norm-without-bias",
    fault: "what is wanted is made by norms that forget their bias, a fiftieth of a normed number",
    trips: ERROR,
    expect: Expect::Refuted,
};
const FORGOTTEN: Control = Control {
    name: "forgotten-keys",
    fault: "in one layer queries see no key that lies more than 256 tokens back",
    trips: ERROR,
    expect: Expect::Refuted,
};
const ANOTHER_TOKEN: Control = Control {
    name: "another-token",
    fault: "one of 52 tokens of each sequence is another one on the GPU",
    trips: oracle::METRIC,
    expect: Expect::Refuted,
};
const THIRD_TWICE: Control = Control {
    name: "a-third-twice",
    fault: "a third of the layers is run twice and counted once",
    trips: METRIC,
    expect: Expect::Refuted,
};
const SLOWER: Control = Control {
    name: "bf16-of-twice",
    fault: "the pass in bf16 runs a quarter of the layers twice",
    trips: SPEEDUP,
    expect: Expect::Refuted,
};
static CONTROLS: [Control; 8] = [
    OTHER_WEIGHTS,
    NO_BIAS,
    FORGOTTEN,
    ANOTHER_TOKEN,
    memory::LAYER_TWICE,
    THIRD_TWICE,
    SLOWER,
    NOT_RUN,
];

static MODES_CONTROLS: [Control; 2] = [FLIPPED_BIT, NOT_RUN];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::bf16",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 in bf16 on one GPU, 4 sequences of 2048 tokens: weights, activations, \
                residual stream and attention. Three rows, the last one among them, are read in layers 0, 23 and 47 \
                at every stage, and each stage is compared with f64 on what it was really given: 24 drawn columns of \
                each product on weights made anew, and attention of a drawn head over all keys. An error counts over \
                what half units in the last place of bf16, the conversion of attention's weights to it and sums in \
                f32 explain together. Logits of a model of 3 layers, 1024 wide, are compared with the whole model in \
                f64. The rate is that of a recorded pass with algorithms by trying. Beside fp16 both models have 12 of \
                the layers, since two of 48 do not fit, and take turns, recorded too. Memory is what was allocated at \
                once, beside the closed formula for fp16.",
    samples: PAIRS,
    expected_s: 33.0,
    deadline_s: 300.0,
    kernels: &["model", "model-bf16", "operands", "pattern", "timing", "quantise"],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

/// One GPU.
pub static MODES_CASE: Case = Case {
    id: "model::bf16-modes",
    procedure: "The 48-layer model of seed 002 in bf16 on one GPU, 4 sequences of 2048 tokens, algorithms by trying: a pass \
                call by call, once more, with algorithms by the heuristic alone, and as a graph; residual stream and \
                logits are compared by their hashes.",
    samples: 0,
    expected_s: 20.0,
    controls: &MODES_CONTROLS,
    run: modes,
    ..CASE
};

fn modes(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut bench = Bench::open(assignment, recorder)?;
    bench.load_bf16(recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let setting =
            Setting { bench: &bench, gpu, on: [index], seed: assignment.seed, samples: 0 };
        let config = setting.config(Precision::Bf16);
        room(gpu, memory::formula(&config, &PROBLEM))?;
        recorder.progress("48 layers");
        let mut group = setting.group(config)?;
        bench::write_choices(recorder, "bf16", &group)?;
        group.poison()?;
        recorder.control(NOT_RUN.name, setting.exact(INTEGRITY, "bf16", unwritten(&group)? as f64));
        group.pass()?;
        recorder.metric(setting.exact(INTEGRITY, "bf16", unwritten(&group)? as f64));
        same_bits(&mut group, ("bf16", &setting.on), recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

/// What the case needs at every step.
struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    seed: u64,
    samples: u32,
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut bench = Bench::open(assignment, recorder)?;
    bench.load_bf16(recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let samples = assignment.samples(PAIRS) as u32;
        let seed = assignment.seed;
        let setting = Setting { bench: &bench, gpu, on: [index], seed, samples };
        room(gpu, memory::formula(&setting.config(Precision::Bf16), &PROBLEM))?;
        recorder.progress("a small model");
        setting.small(recorder)?;
        recorder.progress("48 layers");
        setting.whole(recorder)?;
        recorder.progress("beside fp16");
        setting.beside(recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

impl<'a> Setting<'a> {
    fn config(&self, precision: Precision) -> Config {
        Config { seed: self.seed, precision, ..Config::SEED_002 }
    }

    fn group(&self, config: Config) -> Result<Group<'a>, Stop> {
        let tokens = bench::tokens(&config, &PROBLEM, self.seed);
        bench::group(&self.bench.first(1), config, Split::Outputs, PROBLEM, &tokens)
    }

    fn exact(&self, name: &str, precision: &str, value: f64) -> Metric {
        let at = [("precision", precision), ("problem", NAME)];
        Metric::exact(name, &at, &self.on, value)
    }

    /// Logits beside the whole model in f64.
    fn small(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = Config { seed: self.seed, precision: Precision::Bf16, ..oracle::CONFIG };
        let tokens = bench::tokens(&config, &oracle::PROBLEM, self.seed);
        let wanted = reference::logits(&config, &oracle::PROBLEM, &tokens);
        let gpus = self.bench.first(1);
        let mut group = bench::group(&gpus, config, Split::Outputs, oracle::PROBLEM, &tokens)?;
        let at = [("precision", "bf16")];
        let metric = |name: &str, value: f64| Metric::exact(name, &at, &self.on, value);
        let found = oracle::pass(&mut group)?;
        recorder.metric(metric(oracle::METRIC, bench::apart(&found, &wanted)));
        recorder.metric(metric(INTEGRITY, bench::nonfinite(&found)));
        group.set_tokens(&oracle::others(&tokens, config.vocab))?;
        let other = oracle::pass(&mut group)?;
        recorder.control(ANOTHER_TOKEN.name, metric(oracle::METRIC, bench::apart(&other, &wanted)));
        Ok(())
    }

    /// The model of 48 layers: memory, rows, rate.
    fn whole(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = self.config(Precision::Bf16);
        let before = Before::now(self.gpu)?;
        let mut group = self.group(config)?;
        bench::write_choices(recorder, "bf16", &group)?;
        self.gpu.ledger().reset_peak();
        group.poison()?;
        recorder.control(NOT_RUN.name, self.exact(INTEGRITY, "bf16", unwritten(&group)? as f64));
        group.pass()?;
        recorder.metric(self.exact(INTEGRITY, "bf16", unwritten(&group)? as f64));
        self.memory(&before, recorder)?;
        self.rows(&mut group, config, recorder)?;
        group.plant(Some(Fault::Repeated { layers: config.layers / 3 }));
        let more = group.time(0, PAIRS as u32)?;
        group.plant(None);
        recorder.control(THIRD_TWICE.name, self.rate(&config, &more));
        group.record()?;
        let times = group.time(1, self.samples)?;
        recorder.metric(self.rate(&config, &times));
        let at = [("precision", "bf16"), ("problem", NAME)];
        recorder.metric(Metric::sampled(TIME, &at, &self.on, rounded(&times)));
        self.timed(&mut group, ("bf16", "48"), recorder)
    }

    /// What was allocated, beside the formula for fp16.
    fn memory(&self, before: &Before, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = self.config(Precision::F16);
        let formula = memory::formula(&config, &PROBLEM);
        let at = [("precision", "bf16"), ("problem", NAME)];
        for metric in memory::metrics(before.taken(self.gpu)?, formula, &at, &self.on) {
            recorder.metric(metric);
        }
        let held = (self.gpu, before);
        memory::layer_twice(held, (&config, formula), &at, &self.on, recorder)
    }

    /// Drawn rows and the last one at every stage, beside f64.
    fn rows(
        &self,
        group: &mut Group<'_>,
        config: Config,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let last = PROBLEM.rows() - 1;
        let (rows, head) = check::drawn(self.seed ^ 0xBF16, 0, (last, last), config.heads());
        let seen = check::looked(group, Probe::new(LAYERS.to_vec(), rows, head))?;
        let right = Oracle::new(config);
        let stages = stages(&right, &seen);
        let text = STAGES.iter().zip(stages).map(|(name, most)| format!("{name} {most:.3}"));
        let text = text.collect::<Vec<_>>().join(", ");
        recorder.option("errors over bounds", text);
        recorder.metric(self.exact(ERROR, "bf16", worst(stages)));
        let halves = Oracle { config: self.config(Precision::F16), ..right.clone() };
        let mut plain = right.clone();
        plain.affine.iter_mut().for_each(|(_, bias)| *bias = 0.0);
        for (control, oracle) in [(OTHER_WEIGHTS, halves), (NO_BIAS, plain)] {
            let over = worst(self::stages(&oracle, &seen));
            recorder.control(control.name, self.exact(ERROR, "bf16", over));
        }
        group.plant(Some(Fault::Forgotten { layer: LAYERS[1], left: SEEN }));
        let seen = check::looked(group, Probe::new(LAYERS.to_vec(), vec![last], head))?;
        group.plant(None);
        let over = worst(self::stages(&right, &seen));
        recorder.control(FORGOTTEN.name, self.exact(ERROR, "bf16", over));
        Ok(())
    }

    /// Both precisions in turn, of fewer layers.
    fn beside(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let group = |precision| -> Result<Group<'a>, Stop> {
            let mut group = self.group(Config { layers: BESIDE, ..self.config(precision) })?;
            group.time(1, 0)?;
            Ok(group)
        };
        let mut sixteen = group(Precision::F16)?;
        let mut other = group(Precision::Bf16)?;
        other.plant(Some(Fault::Repeated { layers: BESIDE / 4 }));
        let more = in_turn((&mut sixteen, &mut other), PAIRS as u32)?;
        other.plant(None);
        for group in [&mut sixteen, &mut other] {
            group.record()?;
            group.time(1, 0)?;
        }
        let times = in_turn((&mut sixteen, &mut other), self.samples)?;
        let at = [("problem", NAME)];
        let ratio = |[over, under]: &[Vec<f64>; 2]| {
            Metric::sampled(SPEEDUP, &at, &self.on, bench::ratios(over, under))
        };
        recorder.control(SLOWER.name, ratio(&more));
        recorder.metric(ratio(&times));
        self.timed(&mut sixteen, ("fp16", "12"), recorder)?;
        self.timed(&mut other, ("bf16", "12"), recorder)
    }

    fn rate(&self, config: &Config, times: &[f64]) -> Metric {
        let at = [("precision", "bf16"), ("problem", NAME)];
        Metric::sampled(METRIC, &at, &self.on, tflops(config.flops(&PROBLEM), times))
    }

    /// Logits that what was timed leaves unwritten, or not finite.
    fn timed(
        &self,
        group: &mut Group<'_>,
        (precision, layers): (&str, &str),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        group.poison()?;
        group.pass()?;
        let at = [("precision", precision), ("layers", layers), ("way", "timed")];
        let wrong = unwritten(group)? as f64;
        recorder.metric(Metric::exact(INTEGRITY, &at, &self.on, wrong));
        Ok(())
    }
}

/// The largest error over its bound of each of [`STAGES`].
fn stages(oracle: &Oracle, seen: &[Seen]) -> [f64; 5] {
    seen.iter().fold([0.0; 5], |most, seen| {
        let found = oracle.over_bounds(seen);
        std::array::from_fn(|stage| f64::max(most[stage], found[stage]))
    })
}

fn worst(stages: [f64; 5]) -> f64 {
    stages.into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_lie_in_layers_that_are_looked_at_and_in_every_model() {
        assert!(LAYERS.iter().all(|layer| *layer < Config::SEED_002.layers));
        assert_eq!((BESIDE % 4, Config::SEED_002.layers % 3), (0, 0));
        const { assert!(SEEN < PROBLEM.tokens) };
    }

    /// Two models in turn take less than the one of 48 layers.
    #[test]
    fn both_fit_where_the_whole_one_does() {
        let bytes = |layers| memory::formula(&Config { layers, ..Config::SEED_002 }, &PROBLEM);
        assert!(2 * bytes(BESIDE) < bytes(Config::SEED_002.layers));
    }
}
