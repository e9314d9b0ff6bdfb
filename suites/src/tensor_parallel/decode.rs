//! One token after another over several GPUs: the bits of one GPU, and what it gains.

use std::time::{Duration, Instant};

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics;
use kernels::allreduce::{self, AllReduce};
use kernels::model::cache;
use kernels::model::decode::{Cache, Decoder, Fault};
use kernels::model::decode_shared::{Gathers, Wholes};
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem, Share};

use super::bench::{self, Bench, halves, nonfinite};
use super::rates::{INTEGRITY, rounded};
use super::setting::METRIC;
use crate::lab::{differing, finite};
use crate::model::cached::CODE_SPLITS;
use crate::model::decode::{self, DECODED, ROOM, STEPS, step_kernels};

/// One GPU's time of a step over that of several.
pub const SPEEDUP: &str = "decode_speedup_ratio";
/// Milliseconds of a step, for the reader.
const TIME: &str = "token_ms";
/// Root mean square of one GPU's logits' distance from a whole pass's, over theirs.
pub const ERROR: &str = "decoded_error_ratio";

const SAMPLES: usize = 16;
/// Samples before those that count.
const WARMUP: usize = 3;
/// Blocks that share a head's keys: over eight GPUs of eight heads each they fill half a GPU, and the bits of a sum
/// depend on them, so that they are the same over any number of GPUs.
const SPLITS: u32 = 8;
/// Another order of addition.
const OTHER_SPLITS: u32 = 4;
/// The layer in which a fault is planted.
const LAYER: u32 = 20;

/// What is decoded.
struct Scene {
    precision: Precision,
    /// Keys and values are kept in E4M3.
    e4m3: bool,
    context: u32,
    /// In the evidence.
    at: [(&'static str, &'static str); 2],
}

const SCENES: [Scene; 3] = [
    Scene {
        precision: Precision::F16,
        e4m3: false,
        context: 2048,
        at: [("precision", "fp16"), ("context", "2048")],
    },
    Scene {
        precision: Precision::E4m3,
        e4m3: false,
        context: 2048,
        at: [("precision", "fp8"), ("context", "2048")],
    },
    Scene {
        precision: Precision::E4m3,
        e4m3: true,
        context: 32768,
        at: [("precision", "fp8"), ("context", "32768")],
    },
];

static CONTROLS: [Control; 6] = [
    control(
        "other-order",
        "attention adds the keys of each head in four parts in place of eight",
        METRIC,
        Expect::Refuted,
    ),
    control(
        "skipped-columns",
        "in one layer of each step one rank makes no columns inside the MLP",
        METRIC,
        Expect::Refuted,
    ),
    control("stale-keys", "no step writes its keys and values", METRIC, Expect::Refuted),
    control("another-token", "the last decoded token is another one", ERROR, Expect::Refuted),
    control("on-one-gpu", "one GPU alone makes the steps", SPEEDUP, Expect::Refuted),
    control("not-run", "the logits are poisoned and no step is run", INTEGRITY, Expect::Corrupt),
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::decode",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002, batch 1: a pass fills the cache of keys and values, 2048 tokens in fp16 \
                beside weights in fp16 and in E4M3 (W8A16), and 32768 in E4M3 beside weights in E4M3; then eight tokens \
                are decoded one by one. One GPU's logits of each step, and its residual stream behind the last, are \
                kept; 2, 4 and 8 GPUs, each with the cache of its heads and its columns of every product, which \
                own kernels gather over the links, make the same, and every element of the logits, and of the \
                residual stream on every rank, is compared bit by bit. Attention adds each head's keys in eight parts \
                everywhere. One GPU's last logits are compared with those of a whole pass. A sample is the last four \
                steps by the host's clock, from idle GPUs to idle GPUs; the ratio is of one GPU's median, with the \
                parts of keys that suit it, over each sample of several. Every rank's step is enqueued by a thread \
                of its own.",
    samples: SAMPLES,
    expected_s: 35.0,
    deadline_s: 400.0,
    kernels: &[
        "model",
        "operands",
        "pattern",
        "timing",
        "quantise",
        "weightonly",
        "allreduce",
        "cache",
    ],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let mut modules = Vec::new();
    for gpu in &bench.lab.gpus {
        modules.push(bench.lab.module(gpu, &allreduce::SOURCE, recorder)?);
    }
    let samples = assignment.samples(SAMPLES);
    for precision in [Precision::F16, Precision::E4m3] {
        let config = Config { seed: assignment.seed, precision, ..Config::SEED_002 };
        let scenes = || SCENES.iter().filter(|scene| scene.precision == precision);
        let mut alone = Vec::new();
        {
            let mut group = Group::new(&bench.first(1), config, Split::Outputs)?;
            for scene in scenes() {
                let setting = Setting { bench: &bench, config, scene, samples };
                alone.push((scene, setting.alone(&mut group, recorder)?));
            }
        }
        for degree in bench.degrees() {
            let mut group = Group::new(&bench.first(degree), config, Split::Outputs)?;
            let all = AllReduce::new(&bench.lab.gpus[..degree], &modules[..degree])?;
            for (scene, alone) in &alone {
                let setting = Setting { bench: &bench, config, scene, samples };
                setting.together(&mut group, (&all, alone), recorder)?;
            }
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// What one GPU made.
struct Alone {
    /// Of each step.
    logits: Vec<Vec<u16>>,
    residual: Vec<u16>,
    /// Median of a step.
    ms: f64,
    /// The same once more, for a control.
    again_ms: Vec<f64>,
}

struct Setting<'a> {
    bench: &'a Bench,
    config: Config,
    scene: &'a Scene,
    samples: usize,
}

impl Setting<'_> {
    /// The context, and the tokens behind it.
    fn tokens(&self) -> (Vec<u32>, Vec<u32>) {
        let whole = self.whole();
        let mut tokens = bench::tokens(&self.config, &whole, self.config.seed);
        let decoded = tokens.split_off(self.scene.context as usize);
        (tokens, decoded)
    }

    fn whole(&self) -> Problem {
        Problem { batches: 1, tokens: self.scene.context + DECODED, chunks: 1 }
    }

    fn sizes(&self) -> (u32, u32) {
        (1, self.scene.context + ROOM)
    }

    /// A metric of so many GPUs.
    fn placed(
        &self,
        degree: usize,
        metric: impl FnOnce(&[(&str, &str)], &[u32]) -> Metric,
    ) -> Metric {
        let text = degree.to_string();
        let at = [self.scene.at[0], self.scene.at[1], ("degree", text.as_str())];
        metric(&at, self.bench.indices(degree))
    }

    fn exact(&self, name: &str, degree: usize, value: f64) -> Metric {
        self.placed(degree, |at, gpus| Metric::exact(name, at, gpus, value))
    }

    /// Of what one GPU made, which stands for none of them.
    fn error(&self, value: f64) -> Metric {
        Metric { gpus: Vec::new(), ..self.exact(ERROR, 1, value) }
    }

    fn sampled(&self, name: &str, degree: usize, values: Vec<f64>) -> Metric {
        self.placed(degree, |at, gpus| Metric::sampled(name, at, gpus, values))
    }

    fn decoder(&self, share: Share, splits: u32, recorder: &mut Recorder) -> Result<Decoder, Stop> {
        let gpu = &self.bench.lab.gpus[share.rank as usize];
        let kernels = step_kernels(&self.bench.lab, gpu, self.scene.e4m3, recorder)?;
        Ok(Decoder::of_rank(gpu, kernels, &self.config, share, self.sizes(), splits)?)
    }

    /// Of every rank.
    fn decoders(
        &self,
        degree: usize,
        splits: u32,
        recorder: &mut Recorder,
    ) -> Result<Vec<Decoder>, Stop> {
        let degree = degree as u32;
        (0..degree).map(|rank| self.decoder(Share { rank, degree }, splits, recorder)).collect()
    }

    /// Every rank's cache, filled by a pass over the context.
    fn filled(
        &self,
        group: &mut Group<'_>,
        context: &[u32],
        recorder: &mut Recorder,
    ) -> Result<Vec<Cache>, Stop> {
        let degree = group.degree();
        let mut caches = Vec::new();
        for gpu in &self.bench.lab.gpus[..degree as usize] {
            let kernels = match self.scene.e4m3 {
                true => {
                    gpu.bind()?;
                    let module = self.bench.lab.module(gpu, &cache::SOURCE, recorder)?;
                    Some(cache::Kernels::new(&module)?)
                }
                false => None,
            };
            caches.push(Cache::of_rank(gpu, kernels, &self.config, degree, self.sizes())?);
        }
        group.set(Problem { tokens: self.scene.context, ..self.whole() }, 1)?;
        group.set_tokens(context)?;
        group.fill_each(caches)?;
        group.pass()?;
        group.wait()?;
        let filled = group.fill_each(Vec::new())?;
        group.clear()?;
        Ok(filled)
    }

    /// Keeps what one GPU makes of the steps.
    fn alone(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<Alone, Stop> {
        let Scene { context, at, .. } = self.scene;
        recorder.progress(&format!("one gpu, {} {context} tokens", at[0].1));
        let (tokens, decoded) = self.tokens();
        group.set(self.whole(), 1)?;
        group.set_tokens(&[tokens.as_slice(), decoded.as_slice()].concat())?;
        group.pass()?;
        let wanted = bench::logits(group, self.config.vocab)?;
        let mut caches = self.filled(group, &tokens, recorder)?;
        let cache = caches.first_mut().ok_or_else(|| Stop::Error("no cache was filled".into()))?;
        let decoder = self.decoder(Share { rank: 0, degree: 1 }, SPLITS, recorder)?;
        let mut logits = Vec::new();
        let mut residual = Vec::new();
        let mut others = decoded.clone();
        if let Some(last) = others.last_mut() {
            *last = (*last + 1) % self.config.vocab;
        }
        let error = |logits: &[u16]| finite(bench::apart(&[halves(logits)], &wanted));
        for (tokens, planted) in [(&others, true), (&decoded, false)] {
            logits.clear();
            cache.truncate(*context);
            group.poison_step(&decoder)?;
            for token in tokens {
                group.step(&decoder, cache, &[*token], None)?;
                logits.push(group.step_logits(&decoder)?);
            }
            residual = group.step_residual(&decoder)?;
            let last = logits.last().map_or(f64::NAN, |logits| error(logits));
            match planted {
                true => recorder.control("another-token", self.error(last)),
                false => recorder.metric(self.error(last)),
            }
        }
        // By the parts of keys that suit one GPU of all heads.
        let splits = if self.scene.e4m3 { CODE_SPLITS } else { decode::SPLITS };
        let decoder = self.decoder(Share { rank: 0, degree: 1 }, splits, recorder)?;
        let (first, tail) = self.timed(&decoded);
        let mut sample = || {
            cache.truncate(first);
            group.wait()?;
            let begun = Instant::now();
            for token in tail {
                group.step(&decoder, cache, &[*token], None)?;
            }
            group.wait()?;
            Ok(begun.elapsed())
        };
        let times = self.times(&mut sample)?;
        let again_ms = self.times(&mut sample)?;
        let ms = statistics::median(&times).unwrap_or(f64::NAN);
        let nonfinite = nonfinite(&logits.iter().map(|logits| halves(logits)).collect::<Vec<_>>());
        recorder.metric(self.exact(INTEGRITY, 1, nonfinite));
        recorder.metric(self.sampled(TIME, 1, rounded(&times)));
        Ok(Alone { logits, residual, ms, again_ms })
    }

    /// Tokens of the cache before those that are timed, and those.
    fn timed<'t>(&self, decoded: &'t [u32]) -> (u32, &'t [u32]) {
        let first = DECODED - STEPS;
        (self.scene.context + first, &decoded[first as usize..])
    }

    /// Milliseconds of a step, sample by sample.
    fn times(&self, sample: &mut dyn FnMut() -> Result<Duration, Stop>) -> Result<Vec<f64>, Stop> {
        for _ in 0..WARMUP {
            sample()?;
        }
        let ms = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(STEPS);
        (0..self.samples).map(|_| sample().map(ms)).collect()
    }

    /// The same over several GPUs, beside what one made.
    fn together(
        &self,
        group: &mut Group<'_>,
        (all, alone): (&AllReduce<'_>, &Alone),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let degree = group.degree() as usize;
        let Scene { context, at, .. } = self.scene;
        recorder.progress(&format!("{degree} gpus, {} {context} tokens", at[0].1));
        let (tokens, decoded) = self.tokens();
        let mut caches = self.filled(group, &tokens, recorder)?;
        let wholes = Wholes::new(&self.bench.lab.gpus[..degree], &self.config, 1)?;
        let decoders = self.decoders(degree, SPLITS, recorder)?;
        let gathers = Gathers::new(all, &decoders, &wholes)?;
        let mut team =
            Team { setting: self, group, hands: (&decoders, &gathers), alone, tokens: &decoded };
        team.group.poison_together(&decoders, &gathers)?;
        recorder.control("not-run", self.exact(INTEGRITY, degree, team.nonfinite()?));
        // First, so that no earlier run's keys stand where none are written.
        let (stale, _) = team.steps(&mut caches, Some(Fault::Stale))?;
        recorder.control("stale-keys", self.exact(METRIC, degree, stale));
        let (found, nonfinite) = team.steps(&mut caches, None)?;
        recorder.metric(self.exact(METRIC, degree, found));
        recorder.metric(self.exact(INTEGRITY, degree, nonfinite));
        let skipped = Fault::Skipped { rank: degree as u32 - 1, layer: LAYER };
        let (skipped, _) = team.steps(&mut caches, Some(skipped))?;
        recorder.control("skipped-columns", self.exact(METRIC, degree, skipped));
        let times = team.times(&mut caches)?;
        let speedup = |times: &[f64]| {
            let ratios = times.iter().map(|ms| (alone.ms / ms * 1e4).round() / 1e4).collect();
            self.sampled(SPEEDUP, degree, ratios)
        };
        recorder.metric(speedup(&times));
        recorder.metric(self.sampled(TIME, degree, rounded(&times)));
        recorder.control("on-one-gpu", speedup(&alone.again_ms));
        let others = self.decoders(degree, OTHER_SPLITS, recorder)?;
        let gathers = Gathers::new(all, &others, &wholes)?;
        let mut team = Team { hands: (&others, &gathers), ..team };
        let (other, _) = team.steps(&mut caches, None)?;
        recorder.control("other-order", self.exact(METRIC, degree, other));
        Ok(())
    }
}

/// Several GPUs with what they need for steps.
struct Team<'a, 'g> {
    setting: &'a Setting<'a>,
    group: &'a mut Group<'g>,
    hands: (&'a [Decoder], &'a Gathers<'a>),
    alone: &'a Alone,
    tokens: &'a [u32],
}

impl Team<'_, '_> {
    /// Decodes all tokens: elements that differ from what one GPU made, and logits that are not finite.
    fn steps(&mut self, caches: &mut [Cache], fault: Option<Fault>) -> Result<(f64, f64), Stop> {
        let (decoders, gathers) = self.hands;
        caches.iter_mut().for_each(|cache| cache.truncate(self.setting.scene.context));
        self.group.poison_together(decoders, gathers)?;
        let (mut found, mut bad) = (0, 0.0);
        for (token, wanted) in self.tokens.iter().zip(&self.alone.logits) {
            self.group.step_together(self.hands, caches, &[*token], fault)?;
            let logits = self.group.logits_together(decoders)?.concat();
            found += differing(&logits, wanted);
            bad += nonfinite(&[halves(&logits)]);
        }
        for residual in self.group.residuals_together(gathers)? {
            found += differing(&residual, &self.alone.residual);
        }
        Ok((found as f64, bad))
    }

    /// Logits as they are that are not finite.
    fn nonfinite(&self) -> Result<f64, Stop> {
        let logits = self.group.logits_together(self.hands.0)?.concat();
        Ok(nonfinite(&[halves(&logits)]))
    }

    /// Milliseconds of a step.
    fn times(&mut self, caches: &mut [Cache]) -> Result<Vec<f64>, Stop> {
        let Team { setting, group, hands, tokens, .. } = self;
        let (first, tail) = setting.timed(tokens);
        setting.times(&mut || {
            caches.iter_mut().for_each(|cache| cache.truncate(first));
            group.wait()?;
            let begun = Instant::now();
            for token in tail {
                group.step_together(*hands, caches, &[*token], None)?;
            }
            group.wait()?;
            Ok(begun.elapsed())
        })
    }
}
