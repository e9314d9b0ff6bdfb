//! One token after another over a cache of keys and values: rate, and logits beside those of a whole pass.

use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::attention::decode::Decode;
use kernels::attention::program::Program;
use kernels::attention::variant::{Kernel, Variant};
use kernels::device::Gpu;
use kernels::element::Element;
use kernels::model::decode::{Cache, Decoder, Fault};
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, HEAD_SIZE, Problem};
use kernels::weightonly::{self, WeightOnly};

use super::forward::{PRECISIONS, room};
use crate::lab::finite;
use crate::tensor_parallel::bench::{self, Bench, halves, nonfinite};
use crate::tensor_parallel::rates::INTEGRITY;

/// Bytes of weights and cache that a step must read, over its time.
pub const RATE: &str = "decode_gbps";
/// Milliseconds of a step, for the reader.
pub const TIME: &str = "token_ms";
/// Root mean square of the logits' distance from a whole pass's, over theirs.
pub const ERROR: &str = "decoded_error_ratio";

/// Tokens that are decoded behind the cache and compared with a whole pass.
pub(super) const DECODED: u32 = 8;
/// Tokens of the context in which errors are planted, and logits compared: few, so that each key weighs.
pub(super) const SHORT: u32 = 56;
pub(super) const SAMPLES: usize = 12;
/// Steps of a sample.
pub(super) const STEPS: u32 = 4;
/// Room behind the context.
pub(super) const ROOM: u32 = 512;
/// Blocks that share a head's keys: of 64 heads they fill 132 multiprocessors once, of which each holds one block.
pub(super) const SPLITS: u32 = 2;

static CONTROLS: [Control; 4] = [CONTROL_TOKEN, CONTROL_STALE, CONTROL_TWICE, CONTROL_NOT_RUN];
static LONG_CONTROLS: [Control; 3] = [CONTROL_TOKEN, CONTROL_TWICE, CONTROL_NOT_RUN];
const CONTROL_TOKEN: Control = Control {
    name: "another-token",
    fault: "the last decoded token is another one",
    trips: ERROR,
    expect: Expect::Refuted,
};
/// Half the rate.
pub(super) const CONTROL_TWICE: Control = Control {
    name: "every-layer-twice",
    fault: "every layer is run twice and counted once",
    trips: RATE,
    expect: Expect::Refuted,
};
/// Logits that no step made.
pub(super) const CONTROL_NOT_RUN: Control = Control {
    name: "not-run",
    fault: "the logits are poisoned and no step is run",
    trips: INTEGRITY,
    expect: Expect::Corrupt,
};
/// A cache that is not extended.
pub(super) const CONTROL_STALE: Control = Control {
    name: "stale-keys",
    fault: "no step writes its keys and values",
    trips: ERROR,
    expect: Expect::Refuted,
};

const PROCEDURE: &str = "The 48-layer model of seed 002 on one GPU, batch 1, weights in fp16 and in E4M3 with a scale for \
                each output (W8A16: activations stay fp16). A pass fills the cache of keys and values in fp16, then \
                tokens are decoded one by one, each reading all weights and the whole cache. A sample is four steps \
                by the host's clock, from an idle GPU to an idle GPU; bytes are those of weights without the embedding, \
                and of the cache up to its end. Behind eight decoded tokens the last one's logits are compared with those of a whole \
                pass over the same tokens, which in FP8 quantises its activations.";

macro_rules! decode_case {
    ($id:literal, $tier:expr, $scope:expr, $seconds:literal, $controls:expr, $contexts:expr) => {
        Case {
            id: $id,
            revision: 1,
            figures_since: 1,
            scope: $scope,
            min_gpus: 1,
            tier: $tier,
            self_test_only: false,
            procedure: PROCEDURE,
            samples: SAMPLES,
            expected_s: $seconds,
            deadline_s: 300.0,
            kernels: &["model", "operands", "pattern", "timing", "quantise", "weightonly"],
            integrity: &[INTEGRITY],
            controls: &$controls,
            run: |assignment, recorder| run($contexts, assignment, recorder),
        }
    };
}

/// Each GPU, 2048 tokens.
pub static CASE: Case = decode_case!(
    "model::decode",
    Tier::Quick,
    Scope::EachGpu,
    15.0,
    CONTROLS,
    &[(SHORT, false), (2048, true)]
);
/// One GPU, 32768 tokens.
pub static LONG_CASE: Case = decode_case!(
    "model::long-decode",
    Tier::Full,
    Scope::OneGpu,
    35.0,
    LONG_CONTROLS,
    &[(32768, true)]
);

/// Contexts, and whether steps behind them are timed.
type Contexts = &'static [(u32, bool)];

fn run(contexts: Contexts, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        for (precision, name) in &PRECISIONS[..2] {
            let config =
                Config { seed: assignment.seed, precision: *precision, ..Config::SEED_002 };
            let longest = contexts.iter().map(|(context, _)| *context).max().unwrap_or(0);
            let all = Problem { batches: 1, tokens: longest + DECODED, chunks: 1 };
            let cache = Cache::bytes(&config, 1, longest + ROOM);
            room(gpu, config.weight_bytes(1) + config.activation_bytes(&all, 1) + cache)?;
            let mut group = Group::new(&bench.first(1), config, Split::Outputs)?;
            for &(context, timed) in contexts {
                recorder.progress(&format!("{name} {context} tokens"));
                let setting = Setting { bench: &bench, gpu, on: [index], config, name, context };
                let samples = timed.then(|| assignment.samples(SAMPLES));
                setting.decoded(&mut group, samples, recorder)?;
            }
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    config: Config,
    /// Of the precision.
    name: &'a str,
    context: u32,
}

impl Setting<'_> {
    fn decoder(&self, recorder: &mut Recorder) -> Result<Decoder, Stop> {
        let lab = &self.bench.lab;
        let kernel = Kernel::Decode { e4m3: false };
        let variant = Variant::new(kernel, Element::F16, HEAD_SIZE, Program::PLAIN);
        let attention =
            Decode::new(self.gpu, &lab.module(self.gpu, variant.source()?, recorder)?, variant)?;
        let products =
            WeightOnly::new(self.gpu, &lab.module(self.gpu, &weightonly::SOURCE, recorder)?)?;
        let sizes = (1, self.context + ROOM);
        Ok(Decoder::new(self.gpu, (products, attention), &self.config, sizes, SPLITS)?)
    }

    fn decoded(
        &self,
        group: &mut Group<'_>,
        samples: Option<usize>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let text = self.context.to_string();
        let at = [("precision", self.name), ("context", text.as_str())];
        let exact = |name: &str, value: f64| Metric::exact(name, &at, &self.on, value);
        let whole = Problem { batches: 1, tokens: self.context + DECODED, chunks: 1 };
        let tokens = bench::tokens(&self.config, &whole, self.config.seed);
        let (context, decoded) = tokens.split_at(self.context as usize);
        let decoder = self.decoder(recorder)?;
        group.set(whole, 1)?;
        group.set_tokens(&tokens)?;
        group.pass()?;
        let wanted = logits(group, &self.config)?;
        group.set(Problem { tokens: self.context, ..whole }, 1)?;
        group.set_tokens(context)?;
        group.fill(Some(Cache::new(self.gpu, &self.config, 1, self.context + ROOM)?))?;
        group.pass()?;
        let none = || Stop::Error("no cache was filled".into());
        let mut cache = group.fill(None)?.ok_or_else(none)?;
        let mut steps = |group: &mut Group<'_>, tokens: &[u32], fault| -> Result<Vec<f64>, Stop> {
            cache.truncate(self.context);
            group.poison_step(&decoder)?;
            for token in tokens {
                group.step(&decoder, &mut cache, &[*token], fault)?;
            }
            Ok(halves(&group.step_logits(&decoder)?))
        };
        group.poison_step(&decoder)?;
        let poisoned = halves(&group.step_logits(&decoder)?);
        recorder.control("not-run", exact(INTEGRITY, nonfinite(&[poisoned])));
        if self.context == SHORT {
            // First, so that no earlier run's keys stand where none are written.
            let stale = steps(group, decoded, Some(Fault::Stale))?;
            recorder.control("stale-keys", exact(ERROR, finite(bench::apart(&[stale], &wanted))));
        }
        let found = steps(group, decoded, None)?;
        recorder.metric(exact(INTEGRITY, nonfinite(std::slice::from_ref(&found))));
        recorder.metric(exact(ERROR, finite(bench::apart(&[found], &wanted))));
        let mut others = decoded.to_vec();
        if let Some(last) = others.last_mut() {
            *last = (*last + 1) % self.config.vocab;
        }
        let other = steps(group, &others, None)?;
        recorder.control("another-token", exact(ERROR, finite(bench::apart(&[other], &wanted))));
        let Some(samples) = samples else { return Ok(()) };
        let mut timed = |fault| -> Result<Vec<f64>, Stop> {
            let mut times = Vec::new();
            for _ in 0..samples {
                cache.truncate(self.context);
                group.wait()?;
                let begun = Instant::now();
                for _ in 0..STEPS {
                    group.step(&decoder, &mut cache, &decoded[..1], fault)?;
                }
                group.wait()?;
                times.push(begun.elapsed().as_secs_f64() * 1e3 / f64::from(STEPS));
            }
            Ok(times)
        };
        timed(None)?;
        let times = timed(None)?;
        let bytes = decoder.bytes(&self.config, self.context) as f64;
        let rate = |times: &[f64]| {
            let rates = times.iter().map(|ms| (bytes / ms / 1e4).round() / 100.0).collect();
            Metric::sampled(RATE, &at, &self.on, rates)
        };
        recorder.metric(rate(&times));
        let rounded = crate::tensor_parallel::rates::rounded(&times);
        recorder.metric(Metric::sampled(TIME, &at, &self.on, rounded));
        let layers = self.config.layers;
        recorder.control("every-layer-twice", rate(&timed(Some(Fault::Repeated { layers }))?));
        Ok(())
    }
}

/// A whole pass's logits.
fn logits(group: &Group<'_>, config: &Config) -> Result<Vec<Vec<f64>>, Stop> {
    bench::logits(group, config.vocab)
}
