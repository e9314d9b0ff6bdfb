//! Weight-only (W8A16) over thousands of tokens: weights are kept in E4M3, and each becomes halves in front of its
//! product, in one buffer. Its bits beside fp16 over the same halves, rows beside f64, memory, and its time beside fp16.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::probe::{Probe, Seen};
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision, Problem};

use super::check::{self, LAYERS, STAGES};
use super::forward::{BITS, apart, in_turn, room};
use super::long::ERROR;
use super::memory::{self, Before};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, TIME, rounded, unwritten};

/// The time in fp16 over the time with weights in E4M3, pass by pass.
pub const BESIDE_FP16: &str = "w8a16_pass_ratio";

/// Layers of the model whose bits are compared.
const FEW: u32 = 4;
const FEW_TOKENS: Problem = Problem { batches: 1, tokens: 2048, chunks: 1 };
/// Of all other passes.
const PROBLEM: Problem = Problem { batches: 4, tokens: 2048, chunks: 1 };
const NAME: &str = "4x2048";
/// Layers of the models that take turns: with weights in fp16 and in E4M3 they take less than one of 48 layers in fp16.
const BESIDE: u32 = 12;
/// Six samples are the fewest that have an interval.
const PAIRS: usize = 6;
/// Keys before its own that a query still sees under the planted fault.
const SEEN: u32 = 256;
/// The weight whose scales are wrong under the planted faults.
const PLANTED: (Linear, u32) = (Linear::Up, 1);
/// First of its outputs that have a neighbour's scale, and their number.
const BLOCK: (usize, usize) = (256, 128);

static CONTROLS: [Control; 8] = [
    Control {
        name: "scales-an-ulp-off",
        fault: "every scale of one weight is the next number in f32",
        trips: BITS,
        expect: Expect::Refuted,
    },
    Control {
        name: "neighbours-scales",
        fault: "128 outputs of one weight have the scale of the output behind each",
        trips: BITS,
        expect: Expect::Refuted,
    },
    Control {
        name: "weights-of-fp16",
        fault: "what is wanted is made of weights that were not rounded to E4M3",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "forgotten-keys",
        fault: "in one layer queries see no key that lies more than 256 tokens back",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "fp16-kept-beside",
        fault: "the same model in fp16, made of the halves of all weights, is kept beside",
        trips: memory::FORMULA,
        expect: Expect::Refuted,
    },
    memory::LAYER_TWICE,
    Control {
        name: "w8a16-of-twice",
        fault: "the pass with weights in E4M3 runs a quarter of the layers twice",
        trips: BESIDE_FP16,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::w8a16-pass",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "Weights in E4M3 with a scale for each output, activations in fp16, whole passes over many tokens. In front of \
                each product its weight becomes halves in one buffer, which the next weight overwrites, and the product \
                is that of fp16. Four layers of the model of seed 002 and their head run over 2048 tokens, call by call, \
                as a CUDA graph, and once more behind the planted faults; residual stream and logits are compared by \
                their hashes with a pass of the same model in fp16 whose linears are all halves of the same codes, made \
                beforehand by the same kernel, which env::known-answers asks by itself. The model of 48 layers runs over 4 \
                sequences of 2048 tokens: what was allocated at once stands beside the closed formula, and three rows, \
                the last one among them, are read in layers 0, 23 and 47 at every stage and compared with f64 on what \
                each stage was really given, 24 columns of each product on weights made and rounded anew, and attention of \
                one head over all keys. Twelve of the layers, in fp16 and with weights in E4M3, take turns over the same \
                tokens, recorded. Algorithms are the heuristic's.",
    samples: PAIRS,
    expected_s: 17.0,
    deadline_s: 300.0,
    kernels: &["model", "operands", "pattern", "timing", "quantise", "dequantise_rows"],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut bench = Bench::open(assignment, recorder)?;
    bench.load_widener(recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let setting = Setting { bench: &bench, gpu, on: [index], seed: assignment.seed };
        room(gpu, memory::formula(&setting.config(48, Precision::WeightsE4m3), &PROBLEM))?;
        recorder.progress("four layers");
        setting.few(recorder)?;
        recorder.progress("48 layers");
        setting.whole(recorder)?;
        recorder.progress("beside fp16");
        setting.beside(assignment.samples(PAIRS) as u32, recorder)?;
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
}

impl<'a> Setting<'a> {
    fn config(&self, layers: u32, precision: Precision) -> Config {
        Config { layers, seed: self.seed, precision, ..Config::SEED_002 }
    }

    /// A model with its problem and tokens set, algorithms by the heuristic.
    fn group(&self, config: Config, problem: Problem) -> Result<Group<'a>, Stop> {
        let mut group = Group::new(&self.bench.first(1), config, Split::Outputs)?;
        group.set(problem, 1)?;
        group.set_tokens(&bench::tokens(&config, &problem, self.seed))?;
        Ok(group)
    }

    fn exact(&self, name: &str, layers: &str, value: f64) -> Metric {
        Metric::exact(name, &[("layers", layers)], &self.on, value)
    }

    /// Bits beside fp16 over the same halves, faults in the scales, and memory without and with those halves.
    fn few(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = self.config(FEW, Precision::WeightsE4m3);
        let formula = memory::formula(&config, &FEW_TOKENS);
        let before = Before::now(self.gpu)?;
        let mut group = self.group(config, FEW_TOKENS)?;
        self.gpu.ledger().reset_peak();
        group.poison()?;
        recorder.control(NOT_RUN.name, self.exact(INTEGRITY, "4", unwritten(&group)? as f64));
        let found = passed(&mut group)?;
        recorder.metric(self.exact(INTEGRITY, "4", unwritten(&group)? as f64));
        let by_formula = || -> Result<Metric, Stop> {
            let taken = before.taken(self.gpu)?;
            let [by_formula, ..] = memory::metrics(taken, formula, &[("layers", "4")], &self.on);
            Ok(by_formula)
        };
        recorder.metric(by_formula()?);
        let wanted = {
            let mut halves = self.group(self.config(FEW, Precision::F16), FEW_TOKENS)?;
            halves.take_halves_of(&group)?;
            recorder.control("fp16-kept-beside", by_formula()?);
            let wanted = passed(&mut halves)?;
            recorder.metric(self.exact(INTEGRITY, "4, fp16", unwritten(&halves)? as f64));
            wanted
        };
        recorder.option("hashes of fp16 over the same halves", format!("{wanted:016x?}"));
        let bits = |way: &str, found: &[u64]| {
            Metric::exact(BITS, &[("way", way)], &self.on, apart(found, &wanted))
        };
        recorder.metric(bits("call-by-call", &found));
        group.record()?;
        recorder.metric(bits("graph", &passed(&mut group)?));
        let healthy = group.scales(PLANTED.0, PLANTED.1)?;
        for (control, planted) in
            [("scales-an-ulp-off", next(&healthy)), ("neighbours-scales", moved(&healthy))]
        {
            group.set_scales(PLANTED.0, PLANTED.1, &planted)?;
            recorder.control(control, bits("graph", &passed(&mut group)?));
        }
        group.set_scales(PLANTED.0, PLANTED.1, &healthy)?;
        recorder.metric(bits("graph-again", &passed(&mut group)?));
        Ok(())
    }

    /// The model of 48 layers: memory and rows.
    fn whole(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let config = self.config(Config::SEED_002.layers, Precision::WeightsE4m3);
        let before = Before::now(self.gpu)?;
        let mut group = self.group(config, PROBLEM)?;
        self.gpu.ledger().reset_peak();
        group.poison()?;
        group.pass()?;
        recorder.metric(self.exact(INTEGRITY, "48", unwritten(&group)? as f64));
        let formula = memory::formula(&config, &PROBLEM);
        let at = [("layers", "48")];
        for metric in memory::metrics(before.taken(self.gpu)?, formula, &at, &self.on) {
            recorder.metric(metric);
        }
        let held = (self.gpu, &before);
        memory::layer_twice(held, (&config, formula), &at, &self.on, recorder)?;
        self.rows(&mut group, config, recorder)
    }

    /// Drawn rows and the last one at every stage, beside f64.
    fn rows(
        &self,
        group: &mut Group<'_>,
        config: Config,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let last = PROBLEM.rows() - 1;
        let (rows, head) = check::drawn(self.seed ^ 0x8A16, 0, (last, last), config.heads());
        let seen = check::looked(group, Probe::new(LAYERS.to_vec(), rows, head))?;
        let stages = stages(&config, &seen);
        let text = STAGES.iter().zip(stages).map(|(name, most)| format!("{name} {most:.2e}"));
        recorder.option("errors", text.collect::<Vec<_>>().join(", "));
        let error = |stages: [f64; STAGES.len()]| {
            self.exact(ERROR, "48", stages.into_iter().fold(0.0, f64::max))
        };
        recorder.metric(error(stages));
        let plain = Config { precision: Precision::F16, ..config };
        recorder.control("weights-of-fp16", error(self::stages(&plain, &seen)));
        group.plant(Some(Fault::Forgotten { layer: LAYERS[1], left: SEEN }));
        let seen = check::looked(group, Probe::new(LAYERS.to_vec(), vec![last], head))?;
        group.plant(None);
        recorder.control("forgotten-keys", error(self::stages(&config, &seen)));
        Ok(())
    }

    /// Both precisions in turn, of fewer layers.
    fn beside(&self, pairs: u32, recorder: &mut Recorder) -> Result<(), Stop> {
        let group = |precision| -> Result<Group<'a>, Stop> {
            let mut group = self.group(self.config(BESIDE, precision), PROBLEM)?;
            group.time(1, 0)?;
            Ok(group)
        };
        let mut sixteen = group(Precision::F16)?;
        let mut eight = group(Precision::WeightsE4m3)?;
        bench::write_choices(recorder, "w8a16", &eight)?;
        eight.plant(Some(Fault::Repeated { layers: BESIDE / 4 }));
        let more = in_turn((&mut sixteen, &mut eight), PAIRS as u32)?;
        eight.plant(None);
        for group in [&mut sixteen, &mut eight] {
            group.record()?;
            group.time(1, 0)?;
        }
        let times = in_turn((&mut sixteen, &mut eight), pairs)?;
        let at = [("problem", NAME)];
        let ratio = |[over, under]: &[Vec<f64>; 2]| {
            Metric::sampled(BESIDE_FP16, &at, &self.on, bench::ratios(over, under))
        };
        recorder.control("w8a16-of-twice", ratio(&more));
        recorder.metric(ratio(&times));
        for ((group, name), times) in
            [(&mut sixteen, "fp16"), (&mut eight, "w8a16")].into_iter().zip(&times)
        {
            let at = [("precision", name), ("problem", NAME)];
            recorder.metric(Metric::sampled(TIME, &at, &self.on, rounded(times)));
            group.poison()?;
            group.pass()?;
            let wrong = unwritten(group)? as f64;
            recorder.metric(Metric::exact(INTEGRITY, &at, &self.on, wrong));
        }
        Ok(())
    }
}

/// Hashes of what a pass leaves.
fn passed(group: &mut Group<'_>) -> Result<Vec<u64>, Stop> {
    group.poison()?;
    group.pass()?;
    Ok(group.fingerprint()?)
}

/// The largest error of each of [`STAGES`].
fn stages(config: &Config, seen: &[Seen]) -> [f64; STAGES.len()] {
    seen.iter().fold([0.0; STAGES.len()], |most, seen| {
        let found = check::errors(config, seen);
        std::array::from_fn(|stage| f64::max(most[stage], found[stage]))
    })
}

/// The next number in f32 of each.
fn next(scales: &[f32]) -> Vec<f32> {
    scales.iter().map(|scale| scale.next_up()).collect()
}

/// The scales with those of [`BLOCK`] each that of the output behind it.
fn moved(scales: &[f32]) -> Vec<f32> {
    let (first, count) = BLOCK;
    let mut moved = scales.to_vec();
    moved.copy_within(first + 1..first + 1 + count, first);
    moved
}

#[cfg(test)]
mod tests {
    use kernels::dequantise_rows::half_of;
    use kernels::element::Element;

    use super::*;

    #[test]
    fn faults_lie_in_what_is_run() {
        assert!(LAYERS.iter().all(|layer| *layer < Config::SEED_002.layers));
        const { assert!(PLANTED.1 < FEW && BESIDE.is_multiple_of(4) && SEEN < PROBLEM.tokens) };
        let scales: Vec<f32> = (0..Config::SEED_002.d_ff).map(|at| at as f32).collect();
        let moved = moved(&scales);
        let apart = scales.iter().zip(&moved).filter(|(one, other)| one != other).count();
        assert_eq!((apart, moved[256], moved[383], moved[384]), (128, 257.0, 384.0, 384.0));
        assert_eq!(next(&[1.0])[0], 1.0 + f32::EPSILON);
    }

    /// Of every seventh largest number amax / 448 is exact, so that numbers lie between two halves, and the next scale
    /// rounds them up.
    #[test]
    fn the_next_scale_moves_halves() {
        let moves = |scale: &f32| {
            let next = next(&[*scale])[0];
            // One of each mantissa.
            (0x40u8..0x48).any(|code| half_of(code, *scale) != half_of(code, next))
        };
        // Every half from 1/16 to 1/8.
        let scales = (0x2C00u32..0x3000).map(|amax| Element::F16.decode(amax) as f32 / 448.0);
        let moved = scales.filter(moves).count();
        assert!((40..400).contains(&moved), "{moved} of 1024");
    }

    /// Two models in turn take no more than the one of 48 layers, for which room is asked.
    #[test]
    fn both_fit_where_the_whole_one_does() {
        let bytes = |layers, precision| {
            memory::formula(&Config { layers, precision, ..Config::SEED_002 }, &PROBLEM)
        };
        let whole = bytes(48, Precision::WeightsE4m3);
        let both = bytes(BESIDE, Precision::F16) + bytes(BESIDE, Precision::WeightsE4m3);
        assert!(both < whole, "{both} of {whole}");
    }

    /// The whole takes what codes take and one weight in halves: of the head, 50304 x 8192.
    #[test]
    fn memory_by_hand() {
        let bytes = |precision| {
            let config = Config { precision, ..Config::SEED_002 };
            (config.weight_bytes(1), config.activation_bytes(&PROBLEM, 1))
        };
        let (weights, activations) = bytes(Precision::WeightsE4m3);
        assert_eq!(weights, bytes(Precision::E4m3).0);
        assert_eq!(activations, bytes(Precision::F16).1 + 2 * 50304 * 8192);
    }
}
