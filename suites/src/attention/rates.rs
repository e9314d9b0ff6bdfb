//! How fast attention runs, and that what was timed is right.

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics;
use kernels::attention::variant::Kernel;
use kernels::attention::{self, Shape};
use kernels::device::Gpu;
use kernels::operands::{self, Operands};
use kernels::timing::{self, Plan, Timer};

use super::scene::{Scene, Setting};
use super::{backend, exact};
use crate::lab::{Lab, finite};

/// Rate of a shape.
pub const METRIC: &str = "attention_tflops";
/// Visited tiles a second of a windowed attention over those of a causal one.
pub const WINDOW_METRIC: &str = "window_over_causal_ratio";
/// Outputs that are not finite: nothing wrote them, or nonsense.
pub const INTEGRITY: &str = "nonfinite_count";

/// A shape with the name that claims use.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// As claims name it.
    pub name: &'static str,
    /// Sequences.
    pub batch: u32,
    /// Tokens of each.
    pub tokens: u32,
    /// Under a causal mask.
    pub causal: bool,
}

const fn timed(name: &'static str, batch: u32, tokens: u32, causal: bool) -> Timed {
    Timed { name, batch, tokens, causal }
}

/// The rivals' own shapes: 64 heads of 128, fp16.
pub const SHAPES: [Timed; 6] = [
    timed("full-8k", 1, 8192, false),
    timed("full-16k", 1, 16384, false),
    timed("causal-4x2k", 4, 2048, true),
    timed("causal-8k", 1, 8192, true),
    timed("causal-16k", 1, 16384, true),
    timed("causal-32k", 1, 32768, true),
];
const HEADLINE: Timed = SHAPES[0];
const HEADS: u32 = 64;
const HEAD_SIZE: u32 = 128;
const SAMPLES: usize = 11;
const CONTROL_SAMPLES: u32 = 9;
/// Rest before each sample, so that the power limit is not what is measured.
pub(super) const REST: u32 = 3;
const WINDOW: u32 = 4096;
const WINDOW_TOKENS: u32 = 65536;
const ROWS: u32 = 32;

static CONTROLS: [Control; 5] = [
    Control {
        name: "twice-the-window",
        fault: "the window is twice as wide as is counted",
        trips: WINDOW_METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "a-sixteenth-more",
        fault: "there is a sixteenth more keys than is counted",
        trips: METRIC,
        expect: Expect::Regressed,
    },
    Control {
        name: "three-times",
        fault: "the attention is done three times and counted once",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    exact::SHIFTED_KEY,
    Control {
        name: "unwritten-output",
        fault: "the output stays poisoned",
        trips: INTEGRITY,
        expect: Expect::Corrupt,
    },
];

/// Short rates, rested.
pub static CASE: Case = Case {
    id: "attention::rates",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "64 heads of 128 in fp16 on fresh N(0, 1) data: one launch a sample between device \
                events, behind a latch, each after a rest of three times its length. Operations are 4 \
                times the pairs of queries and keys times the head size, half of it under a causal \
                mask. After the timed launches the whole output is finite, and rows of it are compared \
                with f64; their largest error is held against that of a plain 16-bit implementation. \
                The window is 4096 of 65536 tokens, its rate that of visited tiles over that of a causal mask.",
    samples: SAMPLES,
    expected_s: 8.0,
    deadline_s: 300.0,
    kernels: &["operands", "timing"],
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: rates,
};

struct Bench<'a> {
    lab: &'a Lab,
    gpu: &'a Gpu,
    index: u32,
    seed: u64,
    kernel: Kernel,
    timer: Timer,
    maker: Operands,
}

impl Bench<'_> {
    fn scene(&mut self, setting: Setting, recorder: &mut Recorder) -> Result<Scene, Stop> {
        self.seed += 16;
        let (lab, gpu) = (self.lab, self.gpu);
        Scene::new(gpu, &mut |source| lab.module(gpu, source, recorder), setting, self.seed)
    }

    /// Milliseconds of each sample, every one of which runs the attention `times` times.
    fn milliseconds(&mut self, scene: &Scene, times: u32, samples: u32) -> Result<Vec<f64>, Stop> {
        let plan = Plan {
            warmup: 3,
            samples,
            fewest_samples: samples,
            launches: 1,
            budget: Some(Duration::from_secs(30)),
            rest: REST,
        };
        scene.out.poison(self.timer.stream())?;
        self.timer.stream().synchronize()?;
        let prepared = scene.prepared()?;
        Ok(self
            .timer
            .measure(plan, None, |stream| (0..times).try_for_each(|_| prepared.launch(stream)))?)
    }

    /// The error of what the last launch left over that of a plain implementation, as a metric.
    fn error(&self, shape: &str, scene: &Scene, recorder: &mut Recorder) -> Result<Metric, Stop> {
        let (lab, gpu) = (self.lab, self.gpu);
        let oracle = scene.reference(&mut |source| lab.module(gpu, source, recorder))?;
        let errors = scene.errors(gpu, &oracle, &scene.rows(ROWS, self.seed))?;
        let ratio = finite(errors.over_plain);
        Ok(Metric::exact(exact::METRIC, &[("shape", shape)], &[self.index], ratio))
    }

    fn nonfinite(&self, scene: &Scene) -> Result<f64, Stop> {
        let elements = scene.out.len_bytes() / 2;
        let (stream, element) = (self.gpu.stream(), scene.setting.element);
        Ok(self.maker.count_nonfinite(stream, &scene.out, element, elements)? as f64)
    }

    fn rate(&self, timed: Timed, ms: &[f64]) -> Metric {
        rate(METRIC, timed, self.index, ms)
    }
}

/// Samples of a shape's rate in TFLOP/s.
pub(super) fn rate(metric: &str, timed: Timed, gpu: u32, ms: &[f64]) -> Metric {
    let operations = operations(timed);
    let rates = ms.iter().map(|ms| (operations / ms / 1e9 * 100.0).round() / 100.0).collect();
    Metric::sampled(metric, &[("shape", timed.name)], &[gpu], rates)
}

/// As papers count them: all pairs, or half of them under a causal mask.
fn operations(timed: Timed) -> f64 {
    let pairs = attention::pairs(timed.tokens, timed.tokens, timed.causal);
    attention::flops(f64::from(timed.batch) * pairs, HEADS, HEAD_SIZE)
}

pub(super) fn setting(kernel: Kernel, timed: Timed) -> Setting {
    let shape = Setting::shape(timed.batch, timed.tokens, HEADS, HEADS, HEAD_SIZE);
    Setting::plain(kernel, shape, timed.causal)
}

fn rates(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let maker = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed, kernel, timer, maker };
    let samples = assignment.samples(SAMPLES) as u32;
    let mut nonfinite = Vec::new();
    for timed in SHAPES {
        recorder.progress(timed.name);
        let scene = bench.scene(setting(kernel, timed), recorder)?;
        let ms = bench.milliseconds(&scene, 1, samples)?;
        recorder.metric(bench.rate(timed, &ms));
        nonfinite.push(bench.nonfinite(&scene)?);
        let error = bench.error(timed.name, &scene, recorder)?;
        recorder.metric(error);
        if timed.name == HEADLINE.name {
            controls(&mut bench, scene, recorder)?;
        }
    }
    recorder.progress("window");
    nonfinite.push(window(&mut bench, samples, recorder)?);
    let counts = Metric::exact(INTEGRITY, &[("shape", "each")], &[index], 0.0);
    recorder.metric(Metric { values: nonfinite, ..counts });
    lab.close(recorder);
    Ok(())
}

fn controls(bench: &mut Bench, scene: Scene, recorder: &mut Recorder) -> Result<(), Stop> {
    let three = bench.milliseconds(&scene, 3, CONTROL_SAMPLES)?;
    recorder.control("three-times", bench.rate(HEADLINE, &three));
    scene.run(bench.gpu.stream(), &scene.shifted_key())?;
    let error = bench.error(HEADLINE.name, &scene, recorder)?;
    recorder.control("shifted-key", error);
    scene.out.poison(bench.gpu.stream())?;
    let unwritten = bench.nonfinite(&scene)?;
    let at = [("shape", "each")];
    let unwritten = Metric::exact(INTEGRITY, &at, &[bench.index], unwritten);
    recorder.control("unwritten-output", unwritten);
    drop(scene);
    let plain = setting(bench.kernel, HEADLINE);
    let longer = Shape { keys: HEADLINE.tokens / 16 * 17, ..plain.shape };
    let scene = bench.scene(Setting { shape: longer, ..plain }, recorder)?;
    let slow = bench.milliseconds(&scene, 1, CONTROL_SAMPLES)?;
    recorder.control("a-sixteenth-more", bench.rate(HEADLINE, &slow));
    Ok(())
}

/// Writes down the windowed rate over the causal one, and the error of the windowed output; returns how
/// many of its elements are not finite.
fn window(bench: &mut Bench, samples: u32, recorder: &mut Recorder) -> Result<f64, Stop> {
    // Eight heads keep a causal pass over 65536 tokens short.
    let shape = Setting::shape(1, WINDOW_TOKENS, 8, 8, HEAD_SIZE);
    let causal = bench.scene(Setting::plain(bench.kernel, shape, true), recorder)?;
    let windowed = Setting { left: Some(WINDOW - 1), ..causal.setting.clone() };
    let windowed = bench.scene(windowed, recorder)?;
    let tiles = |scene: &Scene| visited_tiles(&scene.setting, scene.tile_keys());
    let share = tiles(&windowed) / tiles(&causal);
    let causal = bench.milliseconds(&causal, 1, samples)?;
    let base = statistics::median(&causal).ok_or_else(|| Stop::Error("no samples".into()))?;
    let index = bench.index;
    let ratio = |own: Vec<f64>| {
        let ratios = own.iter().map(|ms| (base / ms * share * 1e4).round() / 1e4).collect();
        Metric::sampled(WINDOW_METRIC, &[], &[index], ratios)
    };
    let twice = Setting { left: Some(2 * WINDOW - 1), ..windowed.setting.clone() };
    let twice = bench.scene(twice, recorder)?;
    let slow = bench.milliseconds(&twice, 1, CONTROL_SAMPLES)?;
    recorder.control("twice-the-window", ratio(slow));
    drop(twice);
    recorder.metric(ratio(bench.milliseconds(&windowed, 1, samples)?));
    let error = bench.error("window-4k-of-64k", &windowed, recorder)?;
    recorder.metric(error);
    bench.nonfinite(&windowed)
}

/// Tiles of keys that all groups of 64 queries of one head visit: the same count as in `problem.cuh`.
fn visited_tiles(setting: &Setting, tile_keys: u32) -> f64 {
    let Shape { queries, keys, .. } = setting.shape;
    let tile = |first: u32| {
        let last = (first + 64).min(queries) - 1;
        let high = setting.right.map_or(keys - 1, |right| (last + right).min(keys - 1));
        let low = setting.left.map_or(0, |left| first.saturating_sub(left));
        f64::from(high / tile_keys - low / tile_keys + 1)
    };
    (0..queries).step_by(64).map(tile).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_by_hand() {
        // 4 x 8192^2 x 128 x 64.
        assert_eq!(operations(SHAPES[0]), 4.0 * 8192.0 * 8192.0 * 8192.0);
        assert_eq!(operations(SHAPES[3]), 2.0 * 8192.0 * 8192.0 * 8192.0);
    }

    #[test]
    fn visited_tiles_by_hand() {
        let shape = Setting::shape(1, 256, 1, 1, 128);
        let causal = Setting::plain(Kernel::Portable, shape, true);
        // Tiles of 64 keys: one for the first 64 queries, four for the last.
        assert_eq!(visited_tiles(&causal, 64), 10.0);
        let full = Setting::plain(Kernel::Portable, shape, false);
        assert_eq!(visited_tiles(&full, 64), 16.0);
        // 32 keys back: each but the first 64 see the end of the tile before their own.
        let window = Setting { left: Some(32), ..causal };
        assert_eq!(visited_tiles(&window, 64), 7.0);
    }
}
