//! Decoding over a cache in E4M3: its rate and memory, its logits beside those over a cache in fp16, and what stands
//! in it beside what plain loops make of the same keys and values.

use half::f16;
use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::generator::below;
use kernels::model::cache::{self, Kernels, oracle};
use kernels::model::decode::{Cache, Decoder, Fault};
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::decode::{
    CONTROL_HALF, CONTROL_NOT_RUN, CONTROL_STALE, CONTROL_TWICE, DECODED, LONG, ROOM, SAMPLES,
    SHORT, SPLITS, Timed, step_kernels,
};
use super::forward::{PRECISIONS, room};
use crate::lab::{differing, finite};
use crate::tensor_parallel::bench::{self, Bench, halves, nonfinite};
use crate::tensor_parallel::rates::INTEGRITY;

/// Root mean square of the logits' distance from those over a cache in fp16, over theirs.
pub const ERROR: &str = "cached_error_ratio";
/// Codes, or scales, of drawn heads that are not what the oracle says.
pub const BITS: &str = "codes_apart_count";
/// Bytes that the cache was allocated more or less than the formula says.
pub const BYTES: &str = "bytes_apart_count";

/// Blocks that share a head's keys: of 64 heads they fill 132 multiprocessors once, of which each holds three, since a
/// ring of codes is half as large as one of halves and a thread has 158 registers.
pub(crate) const CODE_SPLITS: u32 = 6;
/// Contexts, and whether steps behind them are timed.
const CONTEXTS: [(u32, bool); 3] = [(SHORT, false), (2048, true), (LONG, true)];
/// One of so many tokens is left out near the bound, see [`super::decode`].
const LEFT_OUT: u32 = 8;
/// Heads of each drawn layer whose codes are compared.
const HEADS: u32 = 3;

static CONTROLS: [Control; 9] = [
    Control { trips: ERROR, ..CONTROL_STALE },
    Control { trips: ERROR, ..CONTROL_HALF },
    control(
        "part-of-the-cache",
        "the last eighth of 32768 tokens is not in the cache that is read",
        ERROR,
        Expect::Refuted,
    ),
    CONTROL_TWICE,
    CONTROL_NOT_RUN,
    control("turned-heads", "what a step appends stands one head too far", BITS, Expect::Refuted),
    control(
        "swapped-scales",
        "of two heads of keys, the scales are exchanged: the smallest and the largest of those that are compared",
        BITS,
        Expect::Refuted,
    ),
    control(
        "other-tokens",
        "the cache is filled by a pass over other tokens",
        BITS,
        Expect::Refuted,
    ),
    control("cache-in-halves", "a cache in fp16 is allocated for E4M3", BYTES, Expect::Refuted),
];

/// One GPU, 56 to 32768 tokens.
pub static CASE: Case = Case {
    id: "model::decode-fp8-cache",
    revision: 2,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 on one GPU, batch 1, weights in fp16 and in E4M3 with a scale for \
                each output (W8A16: activations stay fp16). A pass over the context fills a cache in fp16, eight tokens \
                are decoded over it, and keys and values of nine heads of three layers are kept. The same pass \
                fills a cache in E4M3, with a scale of 2 amax / 448 for each head of keys and of values of each \
                layer, and the same tokens are decoded over it: each step quantises its key and value by those \
                scales. The last token's logits are compared with those over the cache in fp16; codes and scales \
                of the nine heads with what plain loops make of the halves that were kept, and, of appended tokens, \
                of those that the step had before it quantised them; allocated bytes with 2 layers capacity d and 16 \
                for each head of each layer. A timed sample is the last four of the eight steps again, behind the first \
                four, by the host's clock, from an idle GPU to an idle GPU; bytes are those of weights without the \
                embedding, and of the cache up to its end. The logits behind the last timed step are compared too. At \
                32768 tokens the eight are also decoded behind all of the cache but its last eighth, and behind its first \
                half: the same comparison must tell.",
    samples: SAMPLES,
    expected_s: 40.0,
    deadline_s: 400.0,
    kernels: &["model", "operands", "pattern", "timing", "quantise", "weightonly", "cache"],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        recorder.option("splits", format!("{SPLITS} over fp16, {CODE_SPLITS} over E4M3"));
        recorder.option("head-room", cache::HEADROOM);
        for (precision, name) in &PRECISIONS[..2] {
            let config =
                Config { seed: assignment.seed, precision: *precision, ..Config::SEED_002 };
            let longest = CONTEXTS.iter().map(|(context, _)| *context).max().unwrap_or(0);
            let problem = Problem { batches: 1, tokens: longest, chunks: 1 };
            // The two caches are never there at once.
            let cache = Cache::bytes(&config, 1, longest + ROOM);
            room(gpu, config.weight_bytes(1) + config.activation_bytes(&problem, 1) + cache)?;
            let mut group = Group::new(&bench.first(1), config, Split::Outputs)?;
            for (context, timed) in CONTEXTS {
                recorder.progress(&format!("{name} {context} tokens"));
                let samples = timed.then(|| assignment.samples(SAMPLES));
                let text = context.to_string();
                let at = [("precision", *name), ("context", text.as_str())];
                let setting = Setting { bench: &bench, gpu, on: [index], config, at, context };
                setting.measured(&mut group, samples, recorder)?;
            }
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// Keys and values of a head of a layer, as halves.
struct Head {
    layer: u32,
    head: u32,
    /// Of the tokens of the context, [token][128] each.
    filled: [Vec<u16>; 2],
}

/// What a head of a cache must hold.
struct Wanted {
    layer: u32,
    head: u32,
    /// By their codes.
    largest: [u16; 2],
    scales: [f32; 2],
    filled: [Vec<u8>; 2],
    appended: [Vec<u8>; 2],
}

impl Wanted {
    fn of(kept: &Head) -> Wanted {
        let numbers = |codes: &[u16]| codes.iter().copied().map(f16::from_bits).collect::<Vec<_>>();
        let largest = kept.filled.each_ref().map(|codes| oracle::largest(numbers(codes)));
        let mut wanted = Wanted {
            layer: kept.layer,
            head: kept.head,
            largest,
            scales: oracle::scales(largest),
            filled: [Vec::new(), Vec::new()],
            appended: [Vec::new(), Vec::new()],
        };
        wanted.filled = wanted.codes(&kept.filled);
        wanted
    }

    /// By a table of all halves, since there are many more tokens than halves.
    fn codes(&self, halves: &[Vec<u16>; 2]) -> [Vec<u8>; 2] {
        [0, 1].map(|part| {
            let code = |half| oracle::code(f16::from_bits(half), self.largest[part]);
            let table: Vec<u8> = (0..=u16::MAX).map(code).collect();
            halves[part].iter().map(|half| table[usize::from(*half)]).collect()
        })
    }
}

/// Counts of what differs in drawn heads.
#[derive(Debug, Default, PartialEq)]
struct Apart {
    filled: u64,
    appended: u64,
    scales: u64,
}

struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    config: Config,
    at: [(&'a str, &'a str); 2],
    context: u32,
}

impl Setting<'_> {
    fn exact(&self, name: &str, value: f64) -> Metric {
        Metric::exact(name, &self.at, &self.on, value)
    }

    fn apart(&self, part: &str, count: u64) -> Metric {
        let at = [self.at[0], self.at[1], ("part", part)];
        Metric::exact(BITS, &at, &self.on, count as f64)
    }

    fn measured(
        &self,
        group: &mut Group<'_>,
        samples: Option<usize>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let problem = Problem { batches: 1, tokens: self.context, chunks: 1 };
        let all = Problem { tokens: self.context + DECODED, ..problem };
        let tokens = bench::tokens(&self.config, &all, self.config.seed);
        let (context, decoded) = tokens.split_at(self.context as usize);
        group.set(problem, 1)?;
        group.set_tokens(context)?;
        let (logits, kept) = self.over_halves(group, decoded, recorder)?;
        let before = self.gpu.ledger().live();
        let kernels = Kernels::new(&self.bench.lab.module(self.gpu, &cache::SOURCE, recorder)?)?;
        let sizes = (1, self.context + ROOM);
        let cache = Cache::new_e4m3(self.gpu, kernels, &self.config, sizes)?;
        let taken = self.gpu.ledger().live() - before;
        recorder.metric(self.exact(BYTES, self.bytes_apart(taken)));
        let decoder = self.decoder(true, recorder)?;
        let mut codes = Codes {
            setting: self,
            decoder: &decoder,
            cache: filled(group, cache)?,
            wanted: kept.iter().map(Wanted::of).collect(),
        };
        drop(kept);
        codes.checked(group, (decoded, &logits), recorder)?;
        if let Some(samples) = samples {
            codes.timed(group, (decoded, &logits), samples, recorder)?;
        }
        if self.context == LONG {
            codes.cut(group, (decoded, &logits), recorder)?;
        }
        if self.context == SHORT {
            let before = self.gpu.ledger().live();
            let halves = Cache::new(self.gpu, &self.config, 1, self.context + ROOM)?;
            let taken = self.gpu.ledger().live() - before;
            recorder.control("cache-in-halves", self.exact(BYTES, self.bytes_apart(taken)));
            drop(halves);
            codes.planted(group, (context, decoded), recorder)?;
        }
        Ok(())
    }

    /// From 2 layers capacity d codes, and a largest magnitude and a scale of keys and of values of each head.
    fn bytes_apart(&self, taken: u64) -> f64 {
        let Config { layers, d_model, .. } = self.config;
        let codes = 2 * u64::from(self.context + ROOM) * u64::from(d_model);
        let wanted = u64::from(layers) * (codes + 16 * u64::from(self.config.heads()));
        taken.abs_diff(wanted) as f64
    }

    fn decoder(&self, e4m3: bool, recorder: &mut Recorder) -> Result<Decoder, Stop> {
        let kernels = step_kernels(&self.bench.lab, self.gpu, e4m3, recorder)?;
        let splits = if e4m3 { CODE_SPLITS } else { SPLITS };
        let sizes = (1, self.context + ROOM);
        Ok(Decoder::new(self.gpu, kernels, &self.config, sizes, splits)?)
    }

    /// The last logits over a cache in fp16, and what of it is compared.
    fn over_halves(
        &self,
        group: &mut Group<'_>,
        decoded: &[u32],
        recorder: &mut Recorder,
    ) -> Result<(Vec<f64>, Vec<Head>), Stop> {
        let decoder = self.decoder(false, recorder)?;
        let cache = Cache::new(self.gpu, &self.config, 1, self.context + ROOM)?;
        let mut cache = filled(group, cache)?;
        let mut kept = Vec::new();
        for (layer, head) in drawn(&self.config) {
            let of = |bytes: Vec<u8>| -> Vec<u16> {
                bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect()
            };
            kept.push(Head { layer, head, filled: group.cached(&cache, layer, head)?.map(of) });
        }
        group.poison_step(&decoder)?;
        for token in decoded {
            group.step(&decoder, &mut cache, &[*token], None)?;
        }
        Ok((halves(&group.step_logits(&decoder)?), kept))
    }
}

/// A cache that a pass has filled.
fn filled(group: &mut Group<'_>, cache: Cache) -> Result<Cache, Stop> {
    group.fill(Some(cache))?;
    group.pass()?;
    group.fill(None)?.ok_or_else(|| Stop::Error("no cache was filled".into()))
}

/// A filled cache in E4M3.
struct Codes<'a> {
    setting: &'a Setting<'a>,
    decoder: &'a Decoder,
    cache: Cache,
    wanted: Vec<Wanted>,
}

impl Codes<'_> {
    /// The last logits of steps behind the first tokens of the cache; what they append to drawn heads is wanted from
    /// then on.
    fn steps(
        &mut self,
        group: &mut Group<'_>,
        (first, tokens): (u32, &[u32]),
        fault: Option<Fault>,
    ) -> Result<Vec<f64>, Stop> {
        self.cache.truncate(first);
        group.poison_step(self.decoder)?;
        let mut appended = vec![[Vec::new(), Vec::new()]; self.wanted.len()];
        for token in tokens {
            group.step(self.decoder, &mut self.cache, &[*token], fault)?;
            for (wanted, appended) in self.wanted.iter().zip(&mut appended) {
                let staged = group.staged(self.decoder, wanted.layer, wanted.head)?;
                appended.iter_mut().zip(staged).for_each(|(all, one)| all.extend(one));
            }
        }
        for (wanted, appended) in self.wanted.iter_mut().zip(&appended) {
            wanted.appended = wanted.codes(appended);
        }
        Ok(halves(&group.step_logits(self.decoder)?))
    }

    /// What of the drawn heads is not as it must be.
    fn apart(&self, group: &mut Group<'_>) -> Result<Apart, Stop> {
        let mut apart = Apart::default();
        for wanted in &self.wanted {
            let found = group.cached(&self.cache, wanted.layer, wanted.head)?;
            let scales = group.cached_scales(&self.cache, wanted.layer)?;
            for part in 0..2 {
                let (filled, appended) = split(&found[part], wanted.filled[part].len());
                apart.filled += differing(filled, &wanted.filled[part]);
                apart.appended += differing(appended, &wanted.appended[part]);
                let found = scales[part][wanted.head as usize];
                apart.scales += u64::from(found.to_bits() != wanted.scales[part].to_bits());
            }
        }
        Ok(apart)
    }

    /// Logits, codes and scales.
    fn checked(
        &mut self,
        group: &mut Group<'_>,
        (decoded, logits): (&[u32], &[f64]),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let setting = self.setting;
        let error = |found| setting.exact(ERROR, error(found, logits));
        group.poison_step(self.decoder)?;
        let poisoned = halves(&group.step_logits(self.decoder)?);
        recorder.control("not-run", setting.exact(INTEGRITY, nonfinite(&[poisoned])));
        if setting.context == SHORT {
            // First, so that no earlier run's keys stand where none are written.
            let stale = self.steps(group, (setting.context, decoded), Some(Fault::Stale))?;
            recorder.control("stale-keys", error(stale));
        }
        let found = self.steps(group, (setting.context, decoded), None)?;
        let both = [found.clone(), logits.to_vec()];
        recorder.metric(setting.exact(INTEGRITY, nonfinite(&both)));
        recorder.metric(error(found));
        let Apart { filled, appended, scales } = self.apart(group)?;
        for (part, count) in [("filled", filled), ("appended", appended), ("scales", scales)] {
            recorder.metric(setting.apart(part, count));
        }
        Ok(())
    }

    /// Faults of what stands in the cache.
    fn planted(
        mut self,
        group: &mut Group<'_>,
        (context, decoded): (&[u32], &[u32]),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let setting = self.setting;
        self.steps(group, (setting.context, decoded), Some(Fault::Turned { heads: 1 }))?;
        let turned = self.apart(group)?;
        recorder.control("turned-heads", setting.apart("appended", turned.appended));
        if let Some((layer, heads)) = extremes(&self.wanted) {
            group.swap_scales(&self.cache, layer, heads)?;
            let swapped = self.apart(group)?;
            recorder.control("swapped-scales", setting.apart("scales", swapped.scales));
            group.swap_scales(&self.cache, layer, heads)?;
        }
        let others: Vec<u32> = context.iter().map(|t| (t + 1) % setting.config.vocab).collect();
        group.set_tokens(&others)?;
        self.cache = filled(group, self.cache)?;
        let other = self.apart(group)?;
        recorder.control("other-tokens", setting.apart("filled", other.filled));
        Ok(())
    }

    fn timed(
        &mut self,
        group: &mut Group<'_>,
        (decoded, logits): (&[u32], &[f64]),
        samples: usize,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let Setting { config, on, at, context, .. } = self.setting;
        let (at, context) = (*at, *context);
        let timed = Timed { config, on, at, context, tokens: decoded };
        let found = timed.measured(group, (self.decoder, &mut self.cache), samples, recorder)?;
        recorder.metric(timed.error(error(found, logits)));
        Ok(())
    }

    /// Steps that do not see the end of the context; they overwrite it, so that nothing comes behind.
    fn cut(
        &mut self,
        group: &mut Group<'_>,
        (decoded, logits): (&[u32], &[f64]),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let setting = self.setting;
        let context = setting.context;
        for (control, first) in
            [("part-of-the-cache", context - context / LEFT_OUT), (CONTROL_HALF.name, context / 2)]
        {
            let found = self.steps(group, (first, decoded), None)?;
            recorder.control(control, setting.exact(ERROR, error(found, logits)));
        }
        Ok(())
    }
}

/// Distance of logits from those over a cache in fp16.
fn error(found: Vec<f64>, logits: &[f64]) -> f64 {
    finite(bench::apart(&[found], &[logits.to_vec()]))
}

/// Heads of the first layer, of a drawn one and of the last.
fn drawn(config: &Config) -> Vec<(u32, u32)> {
    let below = |at: u64, limit: u32| below(config.seed, at, limit);
    let last = config.layers - 1;
    let heads = config.heads();
    let layers = [0, 1 + below(1, last.max(2) - 1), last];
    let of_layer = |layer: u32| {
        let first = below(2 + u64::from(layer), heads);
        (0..HEADS).map(move |at| (layer, (first + at * (heads / HEADS)) % heads))
    };
    layers.into_iter().flat_map(of_layer).collect()
}

/// A layer with its heads of the smallest and of the largest scale of keys among those that are compared.
fn extremes(wanted: &[Wanted]) -> Option<(u32, (u32, u32))> {
    let layer = wanted.first()?.layer;
    let of_layer = || wanted.iter().filter(|wanted| wanted.layer == layer);
    let least = of_layer().min_by_key(|wanted| wanted.largest[0])?;
    let most = of_layer().max_by_key(|wanted| wanted.largest[0])?;
    Some((layer, (least.head, most.head)))
}

/// The first so many, and the rest.
fn split(codes: &[u8], first: usize) -> (&[u8], &[u8]) {
    codes.split_at(first.min(codes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_heads_are_nine_of_three_layers() {
        for seed in 0..50 {
            let config = Config { seed, ..Config::SEED_002 };
            let mut drawn = drawn(&config);
            assert!(drawn.iter().all(|&(layer, head)| layer < 48 && head < 64), "{drawn:?}");
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 9, "{drawn:?}");
        }
    }

    /// Keys of two heads of one layer: 224 has the scale 1, 448 the scale 2.
    fn kept(head: u32, most: f32) -> Head {
        let halves = [most, -1.0].map(|x| f16::from_f32(x).to_bits()).to_vec();
        Head { layer: 3, head, filled: [halves.clone(), halves] }
    }

    #[test]
    fn what_is_wanted_by_hand() {
        let mut wanted = Wanted::of(&kept(7, 224.0));
        assert_eq!((wanted.scales, wanted.filled[0].as_slice()), ([1.0; 2], &[0x76, 0xB8][..]));
        let step = [[500.0, 2.0], [0.0, -448.0]];
        let step = step.map(|row| row.map(|x| f16::from_f32(x).to_bits()).to_vec());
        wanted.appended = wanted.codes(&step);
        assert_eq!(wanted.appended, [vec![0x7E, 0x40], vec![0, 0xFE]]);
        let all = [wanted, Wanted::of(&kept(2, 448.0))];
        assert_eq!(extremes(&all), Some((3, (7, 2))));
    }

    #[test]
    fn what_is_left_out_is_near_the_bound() {
        // golden/documented.toml, with what E4M3 alone is off.
        let over = super::super::decode::expected(LEFT_OUT).hypot(0.058) / 0.12;
        assert!((1.5..=3.0).contains(&over), "{over} times the bound");
    }

    #[test]
    fn missing_codes_differ() {
        assert_eq!(differing(&[1, 2, 3], &[1, 0, 3]), 1);
        assert_eq!(differing(&[], &[1, 0]), 2);
        assert_eq!(split(&[1, 2, 3], 2), (&[1, 2][..], &[3][..]));
        assert_eq!(split(&[1], 2), (&[1][..], &[][..]));
    }
}
