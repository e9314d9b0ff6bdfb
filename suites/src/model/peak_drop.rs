//! How much less memory a pass takes at its peak in FP8 than in fp16.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::forward::{KERNELS, NAME, PROBLEM, room};
use super::memory::{self, Before, Taken};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, unwritten};

/// Peak memory of a pass in FP8 less than of one in fp16, over that of fp16: as it was allocated, and as the driver has
/// less of.
pub const DROP: &str = "peak_drop_percent";
/// The bytes that FP8 takes less, over those that the device has.
pub const FREED: &str = "freed_percent";
/// GiB of the pass in fp16 beside its weights.
pub const ACTIVATIONS: &str = "activations_gib";
/// Peak memory of each pass, as it was allocated and as the driver has less of.
const PEAK: &str = "peak_gib";

static CONTROLS: [Control; 5] = [
    Control {
        name: "a-layer-in-halves-beside",
        fault: "memory for one layer's weights in fp16 is held beside the model in FP8",
        trips: DROP,
        expect: Expect::Refuted,
    },
    Control {
        name: "halves-kept",
        fault: "the model in fp16 is made again and its weights are kept while the pass in FP8 runs",
        trips: DROP,
        expect: Expect::Refuted,
    },
    Control {
        name: "no-model-in-fp8",
        fault: "the model in FP8 is not made",
        trips: FREED,
        expect: Expect::Refuted,
    },
    Control {
        name: "an-eighth-of-the-tokens",
        fault: "the pass in fp16 is over 1024 tokens",
        trips: ACTIVATIONS,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "model::fp8-peak",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 on one GPU, one sequence of 8192 tokens, in fp16; then, when that is gone, \
                with its linears in FP8 (W8A8, scales by row): a pass of each with the algorithms that cuBLASLt's heuristic \
                names first, outputs poisoned before. Peak memory is the most that weights and activations were allocated \
                at once during the pass, and what the driver has less of behind it than before the model was made. What FP8 takes \
                less stands over the device's memory too, and beside the weights' bytes what the pass in fp16 takes.",
    samples: 0,
    expected_s: 8.0,
    deadline_s: 300.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

/// Ways of counting, as evidence names them.
const BY: [&str; 2] = ["allocated", "driver"];

fn bytes(taken: Taken) -> [u64; 2] {
    [taken.peak, taken.driver]
}

/// Percent that is taken less, to four places.
fn drop_percent(eight: u64, sixteen: u64) -> f64 {
    let percent = 100.0 * (1.0 - eight as f64 / sixteen as f64);
    (percent * 1e4).round() / 1e4
}

/// What a case needs at every step.
struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    seed: u64,
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let setting = Setting { bench: &bench, gpu, on: [index], seed: assignment.seed };
        // Under a fault both models' weights are held.
        let needs = |precision| memory::formula(&setting.config(precision), &PROBLEM);
        room(gpu, needs(Precision::F16) + needs(Precision::E4m3))?;
        setting.measured(recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

impl<'a> Setting<'a> {
    fn config(&self, precision: Precision) -> Config {
        Config { seed: self.seed, precision, ..Config::SEED_002 }
    }

    fn measured(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("fp16");
        let before = Before::now(self.gpu)?;
        let (group, sixteen) = self.passed((Precision::F16, "fp16"), &before, recorder)?;
        self.activations(group, &before, sixteen, recorder)?;
        self.gpu.synchronize()?;
        recorder.progress("fp8");
        let before = Before::now(self.gpu)?;
        let nothing = before.taken(self.gpu)?;
        recorder.control("no-model-in-fp8", self.freed(sixteen, nothing)?);
        let (mut group, eight) = self.passed((Precision::E4m3, "fp8"), &before, recorder)?;
        let drops = |eight: Taken| {
            let each = bytes(eight).into_iter().zip(bytes(sixteen)).zip(BY);
            each.map(|((eight, sixteen), by)| {
                Metric::exact(DROP, &[("by", by)], &self.on, drop_percent(eight, sixteen))
            })
            .collect::<Vec<Metric>>()
        };
        drops(eight).into_iter().for_each(|metric| recorder.metric(metric));
        recorder.metric(self.freed(sixteen, eight)?);
        recorder.progress("a layer beside");
        self.gpu.ledger().reset_peak();
        let config = self.config(Precision::F16);
        let layer = self.gpu.alloc(config.weight_bytes(1) / u64::from(config.layers))?;
        group.pass()?;
        let planted = before.taken(self.gpu)?;
        drop(layer);
        drops(planted)
            .into_iter()
            .take(1)
            .for_each(|metric| recorder.control("a-layer-in-halves-beside", metric));
        recorder.progress("halves kept");
        self.gpu.ledger().reset_peak();
        let kept = Group::new(&self.bench.first(1), config, Split::Outputs)?;
        group.pass()?;
        let planted = before.taken(self.gpu)?;
        drop(kept);
        drops(planted).into_iter().for_each(|metric| recorder.control("halves-kept", metric));
        Ok(())
    }

    /// [`FREED`], by the driver.
    fn freed(&self, sixteen: Taken, eight: Taken) -> Result<Metric, Stop> {
        let less = sixteen.driver as f64 - eight.driver as f64;
        let percent = 100.0 * less / self.gpu.mem_info()?.1 as f64;
        Ok(Metric::exact(FREED, &[], &self.on, (percent * 1e4).round() / 1e4))
    }

    /// [`ACTIVATIONS`] of the pass, and of one over fewer tokens.
    fn activations(
        &self,
        mut group: Group<'_>,
        before: &Before,
        taken: Taken,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let config = self.config(Precision::F16);
        let metric = |taken: Taken| {
            let beside = taken.peak as f64 - config.weight_bytes(1) as f64;
            let gib = beside / f64::from(1u32 << 30);
            Metric::exact(ACTIVATIONS, &[], &self.on, (gib * 1e4).round() / 1e4)
        };
        recorder.metric(metric(taken));
        let fewer = Problem { tokens: PROBLEM.tokens / 8, ..PROBLEM };
        group.set(fewer, 1)?;
        group.set_tokens(&bench::tokens(&config, &fewer, self.seed))?;
        self.gpu.ledger().reset_peak();
        group.pass()?;
        recorder.control("an-eighth-of-the-tokens", metric(before.taken(self.gpu)?));
        Ok(())
    }

    /// A model that has run once, and what was taken of memory since `before`.
    fn passed(
        &self,
        (precision, name): (Precision, &str),
        before: &Before,
        recorder: &mut Recorder,
    ) -> Result<(Group<'a>, Taken), Stop> {
        let config = self.config(precision);
        let at = [("precision", name), ("problem", NAME)];
        let unwritten = |group: &Group<'_>| -> Result<Metric, Stop> {
            Ok(Metric::exact(INTEGRITY, &at, &self.on, unwritten(group)? as f64))
        };
        let mut group = Group::new(&self.bench.first(1), config, Split::Outputs)?;
        group.set(PROBLEM, 1)?;
        group.set_tokens(&bench::tokens(&config, &PROBLEM, self.seed))?;
        bench::write_choices(recorder, name, &group)?;
        self.gpu.ledger().reset_peak();
        group.poison()?;
        recorder.control(NOT_RUN.name, unwritten(&group)?);
        group.pass()?;
        recorder.metric(unwritten(&group)?);
        let taken = before.taken(self.gpu)?;
        for (bytes, by) in bytes(taken).into_iter().zip(BY) {
            let at = [("precision", name), ("problem", NAME), ("by", by)];
            let gib = bytes as f64 / f64::from(1u32 << 30);
            recorder.metric(Metric::exact(PEAK, &at, &self.on, gib));
        }
        Ok((group, taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peaks by the formula, of fp16 and of FP8.
    fn peaks() -> [u64; 2] {
        [Precision::F16, Precision::E4m3]
            .map(|precision| memory::formula(&Config { precision, ..Config::SEED_002 }, &PROBLEM))
    }

    #[test]
    fn the_formula_gives_what_the_bounds_say() {
        let [sixteen, eight] = peaks();
        let drop = drop_percent(eight, sixteen);
        assert!((48.6..48.65).contains(&drop), "{sixteen} {eight}: {drop}");
        // Far from 35 % of an H200, and from 0.13 GB.
        let freed = 100.0 * (sixteen - eight) as f64 / crate::model::playbook::H200 as f64;
        assert!((25.0..26.5).contains(&freed), "{freed}");
        let fewer = Problem { tokens: PROBLEM.tokens / 8, ..PROBLEM };
        let beside = |problem| Config::SEED_002.activation_bytes(problem, 1);
        assert!(beside(&PROBLEM) > 750_000_000 && beside(&fewer) < 200_000_000);
        // A layer of 48 in fp16 beside is seen, and weights that are kept.
        let layer = Config::SEED_002.weight_bytes(1) / 48;
        assert!(drop_percent(eight + layer, sixteen) < 47.0);
        assert!(drop_percent(eight + 48 * layer, sixteen) < -45.0);
    }
}
