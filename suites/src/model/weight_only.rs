//! Weight-only (W8A16): weights in E4M3 with a scale for each output, activations in fp16, token by token. Its logits
//! beside the whole model in f64, what its weights take, and its rate beside that of weights in fp16.

use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::decode::{Cache, Decoder, Fault};
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, reference};

use super::decode::{SPLITS, step_kernels};
use super::forward::room;
use super::memory::{self, Before, LAYER_TWICE};
use crate::lab::finite;
use crate::tensor_parallel::bench::{self, Bench, halves, nonfinite};
use crate::tensor_parallel::oracle;
use crate::tensor_parallel::rates::{INTEGRITY, rounded};

/// What the driver has less of for weights in E4M3, over the same for weights in fp16.
pub const WEIGHTS: &str = "weights_memory_ratio";
/// The time of a step with weights in fp16 over that with weights in E4M3, pair by pair.
pub const SPEEDUP: &str = "w8a16_speedup_ratio";
/// Milliseconds of a step, for the reader.
const TIME: &str = "token_ms";

/// Layers of the models that stand beside each other.
const LAYERS: u32 = 12;
/// Pairs of samples.
const PAIRS: usize = 12;
const CONTROL_PAIRS: usize = 6;
/// Steps of a sample, from an empty cache on.
const STEPS: u32 = 8;
/// Tokens that a cache has room for.
const ROOM: u32 = 64;

static CONTROLS: [Control; 6] = [
    Control {
        name: "activations-in-e4m3",
        fault: "activations are E4M3 too: a whole pass in W8A8 over the same tokens",
        trips: oracle::METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "another-token",
        fault: "one of 52 tokens of each sequence is another one on the GPU",
        trips: oracle::METRIC,
        expect: Expect::Refuted,
    },
    LAYER_TWICE,
    Control {
        name: "fp16-for-w8a16",
        fault: "weights in fp16, made once more, are called W8A16",
        trips: WEIGHTS,
        expect: Expect::Refuted,
    },
    Control {
        name: "every-layer-twice",
        fault: "a step with weights in E4M3 runs every layer twice",
        trips: SPEEDUP,
        expect: Expect::Refuted,
    },
    Control {
        name: "not-run",
        fault: "the logits are poisoned and no step is run",
        trips: INTEGRITY,
        expect: Expect::Corrupt,
    },
];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::w8a16",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "Weights in E4M3 with a scale for each output, activations in fp16, token by token over a cache of keys and \
                values in fp16. A model of 3 layers, 1024 wide, decodes two sequences of 52 tokens from an empty cache on; \
                the last logits are compared with the whole model in f64 on the numbers of the E4M3 weights, rounded to \
                halves wherever the GPU stores halves. 12 of the 48 layers of the model of seed 002 are made in fp16 and in \
                E4M3 beside each other: what each one's weights took by the driver, and eight steps from an empty cache \
                on in turn, by the host's clock, from an idle GPU to an idle GPU.",
    samples: PAIRS,
    expected_s: 12.0,
    deadline_s: 240.0,
    kernels: &["model", "operands", "pattern", "timing", "quantise", "weightonly"],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let setting = Setting { bench: &bench, gpu, on: [index], seed: assignment.seed };
        let bytes = |precision| setting.large(precision).weight_bytes(1);
        room(gpu, 2 * bytes(Precision::F16) + 2 * bytes(Precision::E4m3))?;
        recorder.progress("a small model");
        setting.small(recorder)?;
        recorder.progress("beside fp16");
        setting.beside(assignment.samples(PAIRS), recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    seed: u64,
}

/// A model that takes a step after another.
struct Stepping<'a> {
    group: Group<'a>,
    decoder: Decoder,
    cache: Cache,
    batches: u32,
}

impl Stepping<'_> {
    /// Steps over tokens, by sequence one behind the other, from an empty cache on.
    fn steps(&mut self, tokens: &[u32], fault: Option<Fault>) -> Result<(), Stop> {
        self.cache.truncate(0);
        let each = tokens.len() / self.batches as usize;
        for at in 0..each {
            let step: Vec<u32> = tokens.chunks(each).map(|sequence| sequence[at]).collect();
            self.group.step(&self.decoder, &mut self.cache, &step, fault)?;
        }
        Ok(())
    }

    /// Logits of the last step, sequence by sequence.
    fn logits(&mut self) -> Result<Vec<Vec<f64>>, Stop> {
        let all = halves(&self.group.step_logits(&self.decoder)?);
        Ok(all.chunks(all.len() / self.batches as usize).map(<[f64]>::to_vec).collect())
    }

    /// Milliseconds of a step, of so many from an idle GPU to an idle GPU.
    fn time(&mut self, tokens: &[u32], fault: Option<Fault>) -> Result<f64, Stop> {
        self.group.wait()?;
        let begun = Instant::now();
        self.steps(tokens, fault)?;
        self.group.wait()?;
        Ok(begun.elapsed().as_secs_f64() * 1e3 / tokens.len() as f64)
    }
}

impl<'a> Setting<'a> {
    fn large(&self, precision: Precision) -> Config {
        Config { layers: LAYERS, seed: self.seed, precision, ..Config::SEED_002 }
    }

    fn exact(&self, name: &str, model: &str, value: f64) -> Metric {
        Metric::exact(name, &[("model", model)], &self.on, value)
    }

    /// What a model needs to take steps, with room in its cache for [`ROOM`] tokens of each sequence.
    fn stepping(
        &self,
        (group, config): (Group<'a>, Config),
        batches: u32,
        recorder: &mut Recorder,
    ) -> Result<Stepping<'a>, Stop> {
        let kernels = step_kernels(&self.bench.lab, self.gpu, false, recorder)?;
        let decoder = Decoder::new(self.gpu, kernels, &config, (batches, ROOM), SPLITS)?;
        let cache = Cache::new(self.gpu, &config, batches, ROOM)?;
        Ok(Stepping { group, decoder, cache, batches })
    }

    /// Logits beside the whole model in f64.
    fn small(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = Config { seed: self.seed, precision: Precision::E4m3, ..oracle::CONFIG };
        let tokens = bench::tokens(&config, &oracle::PROBLEM, self.seed);
        let wanted = reference::logits_weight_only(&config, &oracle::PROBLEM, &tokens);
        let group = Group::new(&self.bench.first(1), config, Split::Outputs)?;
        let mut small = self.stepping((group, config), oracle::PROBLEM.batches, recorder)?;
        let metric = |name: &str, value: f64| self.exact(name, "small", value);
        let off = |found: &[Vec<f64>]| metric(oracle::METRIC, finite(bench::apart(found, &wanted)));
        small.group.poison_step(&small.decoder)?;
        recorder.control("not-run", metric(INTEGRITY, nonfinite(&small.logits()?)));
        small.steps(&tokens, None)?;
        let found = small.logits()?;
        recorder.metric(metric(INTEGRITY, nonfinite(&found)));
        recorder.metric(off(&found));
        small.steps(&oracle::others(&tokens, config.vocab), None)?;
        recorder.control("another-token", off(&small.logits()?));
        small.group.set(oracle::PROBLEM, 1)?;
        small.group.set_tokens(&tokens)?;
        recorder.control("activations-in-e4m3", off(&oracle::pass(&mut small.group)?));
        Ok(())
    }

    /// What the weights take, and steps in turn with those in fp16.
    fn beside(&self, pairs: usize, recorder: &mut Recorder) -> Result<(), Stop> {
        let (mut sixteen, of_halves) = self.made(Precision::F16, "fp16", recorder)?;
        let (mut eight, of_codes) = self.made(Precision::E4m3, "w8a16", recorder)?;
        let ratio = |bytes: u64| self.exact(WEIGHTS, "12 layers", bytes as f64 / of_halves as f64);
        recorder.metric(ratio(of_codes));
        let before = Before::now(self.gpu)?;
        let halves = Group::new(&self.bench.first(1), self.large(Precision::F16), Split::Outputs)?;
        recorder.control("fp16-for-w8a16", ratio(before.left(self.gpu)?.driver));
        drop(halves);
        let config = self.large(Precision::E4m3);
        let tokens = bench::tokens(&config, &oracle::PROBLEM, self.seed);
        let tokens = &tokens[..STEPS as usize];
        let mut in_turn = |pairs: usize, fault: Option<Fault>| -> Result<[Vec<f64>; 2], Stop> {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..pairs {
                times[0].push(sixteen.time(tokens, None)?);
                times[1].push(eight.time(tokens, fault)?);
            }
            Ok(times)
        };
        let speedup = |[over, under]: &[Vec<f64>; 2]| {
            let at = [("model", "12 layers")];
            Metric::sampled(SPEEDUP, &at, &self.on, bench::ratios(over, under))
        };
        // The first ones load kernels.
        in_turn(2, None)?;
        let twice = in_turn(CONTROL_PAIRS, Some(Fault::Repeated { layers: LAYERS }))?;
        recorder.control("every-layer-twice", speedup(&twice));
        let times = in_turn(pairs, None)?;
        recorder.metric(speedup(&times));
        for (precision, times) in ["fp16", "w8a16"].into_iter().zip(&times) {
            let at = [("model", "12 layers"), ("precision", precision)];
            recorder.metric(Metric::sampled(TIME, &at, &self.on, rounded(times)));
        }
        for (stepping, precision) in [(&mut sixteen, "fp16"), (&mut eight, "w8a16")] {
            stepping.group.poison_step(&stepping.decoder)?;
            stepping.steps(tokens, None)?;
            let at = [("model", "12 layers"), ("precision", precision)];
            let wrong = nonfinite(&stepping.logits()?);
            recorder.metric(Metric::exact(INTEGRITY, &at, &self.on, wrong));
        }
        Ok(())
    }

    /// Some layers of the large model, and the bytes that the driver has less of for it.
    fn made(
        &self,
        precision: Precision,
        name: &str,
        recorder: &mut Recorder,
    ) -> Result<(Stepping<'a>, u64), Stop> {
        let config = self.large(precision);
        let before = Before::now(self.gpu)?;
        let group = Group::new(&self.bench.first(1), config, Split::Outputs)?;
        let (taken, formula) = (before.left(self.gpu)?, config.weight_bytes(1));
        let at = [("model", "12 layers"), ("precision", name)];
        let [by_formula, ..] = memory::metrics(taken, formula, &at, &self.on);
        recorder.metric(by_formula);
        let layer = self.gpu.alloc(formula / u64::from(LAYERS))?;
        let [twice, ..] = memory::metrics(before.left(self.gpu)?, formula, &at, &self.on);
        recorder.control(LAYER_TWICE.name, twice);
        drop(layer);
        Ok((self.stepping((group, config), 1, recorder)?, taken.driver))
    }
}

#[cfg(test)]
mod tests {
    use kernels::weightonly::WeightOnly;

    use super::*;

    #[test]
    fn what_is_decoded_fits_into_the_cache() {
        const { assert!(STEPS <= ROOM && oracle::PROBLEM.tokens <= ROOM) };
        assert!(WeightOnly::norms((oracle::PROBLEM.batches, oracle::CONFIG.d_model)));
    }

    /// The bound of golden/documented.toml, with what the driver may take besides.
    #[test]
    fn weights_take_what_is_promised() {
        let bytes = |precision| {
            let config = Config { layers: LAYERS, precision, ..Config::SEED_002 };
            config.weight_bytes(1) as f64
        };
        let ratio = bytes(Precision::E4m3) / bytes(Precision::F16);
        assert!((0.515..0.525).contains(&ratio), "{ratio}");
    }
}
