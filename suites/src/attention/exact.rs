//! Attention against f64, on every tail of the tiles, under every program, and up to 131072 tokens.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::KernelSource;
use kernels::attention::Shape;
use kernels::attention::forward::Problem;
use kernels::attention::program::Program;
use kernels::attention::reference::Reference;
use kernels::attention::variant::{Fault, Kernel};
use kernels::device::{Gpu, Module};
use kernels::element::Element;
use kernels::generator::draw;

use super::backend;
use super::scene::{Scene, Setting};
use crate::lab::Lab;

/// The metric of all these cases: see [`kernels::attention::reference::Errors::over_plain`].
pub const METRIC: &str = "error_over_plain_ratio";
/// Bytes a token that a launch takes beside its operands.
pub const MEMORY_METRIC: &str = "workspace_per_token_bytes";
/// |lse - reference| over the larger of 1 and |reference|.
pub const LSE_METRIC: &str = "lse_error_ratio";

/// Lengths around every edge of the tiles (64, 112 and 128 keys; 128 and 192 queries), and between.
const TAILS: [u32; 24] = [
    1, 2, 3, 17, 63, 64, 65, 111, 112, 113, 127, 128, 129, 191, 192, 193, 224, 225, 256, 385, 448,
    449, 700, 1025,
];
const LONG: [u32; 4] = [8192, 32768, 65536, 131_072];
/// Where the faults are planted: four tiles of 112 keys and a tail, so that keys behind the last one are let
/// in.
const PLANTED_TOKENS: u32 = 530;

const fn planted(name: &'static str, fault: &'static str) -> Control {
    Control { name, fault, trips: METRIC, expect: Expect::Refuted }
}

/// Every key is read from one row further on: see [`Scene::shifted_key`].
pub const SHIFTED_KEY: Control =
    planted("shifted-key", "every key is read from one row further on");
const UNSCALED_ONCE: Control =
    planted("unscaled-once", "what was summed before the second tile is not rescaled there");

static TAILS_CONTROLS: [Control; 4] = [
    Control {
        name: "unmasked-tail-lse",
        fault: "the keys of the last tile behind the last one are not masked",
        trips: LSE_METRIC,
        expect: Expect::Refuted,
    },
    SHIFTED_KEY,
    UNSCALED_ONCE,
    planted("unmasked-tail", "the keys of the last tile behind the last one are not masked"),
];
static PROGRAM_CONTROLS: [Control; 3] = [
    Control {
        name: "short-block-map-lse",
        fault: "the last tile of every list of the block map is left out",
        trips: LSE_METRIC,
        expect: Expect::Refuted,
    },
    UNSCALED_ONCE,
    planted("short-block-map", "the last tile of every list of the block map is left out"),
];
static LONG_CONTROLS: [Control; 3] = [
    Control { name: "shifted-key-lse", trips: LSE_METRIC, ..SHIFTED_KEY },
    UNSCALED_ONCE,
    Control {
        name: "score-matrix",
        fault: "a matrix of the scores of one head is allocated beside the operands",
        trips: MEMORY_METRIC,
        expect: Expect::Refuted,
    },
];

macro_rules! case {
    ($id:literal, $procedure:literal, $expected:literal, $controls:expr, $run:expr) => {
        Case {
            id: $id,
            revision: 1,
            figures_since: 1,
            scope: Scope::EachGpu,
            min_gpus: 1,
            tier: super::TIER,
            self_test_only: false,
            procedure: $procedure,
            expected_s: $expected,
            deadline_s: 300.0,
            kernels: &["operands"],
            integrity: &[],
            controls: $controls,
            run: $run,
        }
    };
}

/// Every tail, both kernels, both element types, both head sizes, causal and full.
pub static TAILS_CASE: Case = case!(
    "attention::tails",
    "For 24 lengths around every edge of the tiles, causal and full, in fp16 and bf16, with heads of \
     64 and 128, four heads of queries over two of keys: draws N(0, 1) operands, runs into poisoned \
     outputs, and compares rows at the edges of tiles and drawn ones, and their log-sum-exp, with \
     f64. The largest error is held against that of a plain 16-bit implementation of rows of the \
     same magnitude. Then ragged sequences of 1 to 1500 tokens, the same with the values of a later \
     sequence infinite, and queries that see no key.",
    8.0,
    &TAILS_CONTROLS,
    tails
);
/// Every program of the crate.
pub static PROGRAMS_CASE: Case = case!(
    "attention::programs",
    "Each mask and score of the crate, written in CUDA C++ and compiled in, over 2500 tokens: \
     compares rows with f64, which asks the same program pair by pair without a block map.",
    8.0,
    &PROGRAM_CONTROLS,
    programs
);
/// Long sequences.
pub static LONG_CASE: Case = case!(
    "attention::long",
    "8192, 32768, 65536 and 131072 tokens, causal, two heads: compares 64 drawn rows and those at the \
     edges with f64, and takes the free memory of the device before and after a launch.",
    6.0,
    &LONG_CONTROLS,
    long
);

/// A GPU with what compiles and loads for it.
struct Bench<'a> {
    lab: &'a Lab,
    gpu: &'a Gpu,
    index: u32,
    seed: u64,
    recorder: &'a mut Recorder,
}

impl Bench<'_> {
    fn load(&mut self, source: &'static KernelSource) -> Result<Module, Stop> {
        self.lab.module(self.gpu, source, self.recorder)
    }

    /// A scene with fresh operands and its oracle.
    fn scene(&mut self, setting: Setting) -> Result<(Scene, Reference), Stop> {
        self.seed += 16;
        let (gpu, seed) = (self.gpu, self.seed);
        let scene = Scene::new(gpu, &mut |source| self.load(source), setting, seed)?;
        let oracle = scene.reference(&mut |source| self.load(source))?;
        Ok((scene, oracle))
    }

    /// Error ratio and error of the log-sum-exp of a run of this problem.
    fn errors(
        &self,
        scene: &Scene,
        oracle: &Reference,
        problem: &Problem<'_>,
        rows: u32,
    ) -> Result<(f64, f64), Stop> {
        scene.run(self.gpu.stream(), problem)?;
        let errors = scene.errors(self.gpu, oracle, &scene.rows(rows, self.seed))?;
        Ok((finite(errors.over_plain), finite(errors.lse_largest)))
    }

    /// Bytes a token by which the device's free memory falls over a launch, and those that were
    /// allocated for it before; `planted` bytes are allocated beside it.
    fn memory(&self, scene: &Scene, planted: u64) -> Result<f64, Stop> {
        // A first launch loads its code, which is no workspace.
        let shape = Shape { queries: 1, keys: 1, ..scene.setting.shape };
        scene.run(self.gpu.stream(), &Problem { shape, ..scene.problem() })?;
        let (before, _) = self.gpu.mem_info()?;
        let matrix = if planted > 0 { Some(self.gpu.alloc(planted)?) } else { None };
        scene.run(self.gpu.stream(), &scene.problem())?;
        let (after, _) = self.gpu.mem_info()?;
        drop(matrix);
        let taken = before.saturating_sub(after) + scene.workspace_bytes();
        Ok(taken as f64 / f64::from(scene.setting.shape.keys))
    }

    fn metric(&self, name: &str, at: &[(&str, &str)], values: Vec<f64>) -> Metric {
        Metric { values, ..Metric::exact(name, at, &[self.index], 0.0) }
    }
}

/// What is infinitely wrong is written down as a number that misses every bound: evidence holds only
/// finite ones.
pub(super) fn finite(x: f64) -> f64 {
    if x.is_finite() { x } else { 1e300 }
}

fn name_of(element: Element) -> &'static str {
    if element == Element::Bf16 { "bf16" } else { "fp16" }
}

fn kernel_name(kernel: Kernel) -> &'static str {
    if kernel == Kernel::Hopper { "wgmma" } else { "portable" }
}

/// Both forward kernels where the GPU has both.
fn kernels_of(gpu: &Gpu) -> Vec<Kernel> {
    let mut kernels = vec![backend::kernel_for(gpu), Kernel::Portable];
    kernels.dedup();
    kernels
}

fn tails(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let lengths: Vec<String> = TAILS.iter().map(u32::to_string).collect();
    recorder.option("tokens", lengths.join(" "));
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed, recorder };
    for kernel in kernels_of(gpu) {
        for element in [Element::F16, Element::Bf16] {
            for head_size in [128, 64] {
                let size = head_size.to_string();
                let at = [
                    ("kernel", kernel_name(kernel)),
                    ("dtype", name_of(element)),
                    ("head_size", &size),
                ];
                bench.recorder.progress(&format!("{} {} {size}", at[0].1, at[1].1));
                let (mut ratios, mut lse) = (Vec::new(), Vec::new());
                for tokens in TAILS {
                    for causal in [true, false] {
                        let shape = Setting::shape(1, tokens, 4, 2, head_size);
                        let plain = Setting::plain(kernel, shape, causal);
                        let (scene, oracle) = bench.scene(Setting { element, ..plain })?;
                        let found = bench.errors(&scene, &oracle, &scene.problem(), 16)?;
                        ratios.push(found.0);
                        lse.push(found.1);
                    }
                }
                let ratios = bench.metric(METRIC, &at, ratios);
                let lse = bench.metric(LSE_METRIC, &at, lse);
                bench.recorder.metric(ratios);
                bench.recorder.metric(lse);
            }
        }
    }
    for kernel in kernels_of(gpu) {
        bench.recorder.progress(&format!("{} ragged and unseen", kernel_name(kernel)));
        for (rows, ratio, lse) in odd_rows(&mut bench, kernel)? {
            let at = [("kernel", kernel_name(kernel)), ("rows", rows)];
            let (ratio, lse) =
                (bench.metric(METRIC, &at, vec![ratio]), bench.metric(LSE_METRIC, &at, vec![lse]));
            bench.recorder.metric(ratio);
            bench.recorder.metric(lse);
        }
    }
    bench.recorder.progress("controls");
    for kernel in kernels_of(gpu) {
        let at = [("kernel", kernel_name(kernel)), ("dtype", "fp16"), ("head_size", "128")];
        for (name, metric, value) in tail_faults(&mut bench, kernel)? {
            let metric = bench.metric(metric, &at, vec![value]);
            bench.recorder.control(name, metric);
        }
    }
    lab.close(recorder);
    Ok(())
}

/// Lengths of ragged sequences: one token, tails, more than one tile of queries.
const RAGGED: [u32; 4] = [1, 700, 129, 1500];
/// The sequence behind which the next one's first value is infinite.
const BEFORE_SPOILT: u32 = 1;

/// Error ratios and errors of the log-sum-exp of rows of ragged sequences, of a sequence behind which the
/// next one's values are infinite, and of queries of which the first 200 see nothing.
fn odd_rows(bench: &mut Bench, kernel: Kernel) -> Result<[(&'static str, f64, f64); 3], Stop> {
    let longest = RAGGED.iter().copied().max().unwrap_or(1);
    let shape = Setting::shape(RAGGED.len() as u32, longest, 4, 2, 128);
    let plain = Setting::plain(kernel, shape, true);
    let (scene, oracle) = bench.scene(Setting { lengths: RAGGED.to_vec(), ..plain })?;
    let ragged = bench.errors(&scene, &oracle, &scene.problem(), 64)?;
    let before = BEFORE_SPOILT as usize;
    scene.spoil_values(bench.gpu.stream(), RAGGED[..=before].iter().sum())?;
    scene.run(bench.gpu.stream(), &scene.problem())?;
    let mut rows = scene.rows(64, bench.seed);
    rows.retain(|row| row.batch <= BEFORE_SPOILT);
    let errors = scene.errors(bench.gpu, &oracle, &rows)?;
    let spoilt = (finite(errors.over_plain), finite(errors.lse_largest));
    let shape = Shape { queries: 300, keys: 100, ..Setting::shape(1, 300, 4, 2, 128) };
    let (scene, oracle) = bench.scene(Setting::plain(kernel, shape, true))?;
    let unseen = bench.errors(&scene, &oracle, &scene.problem(), 64)?;
    Ok([
        ("ragged", ragged.0, ragged.1),
        ("before-infinite", spoilt.0, spoilt.1),
        ("unseen", unseen.0, unseen.1),
    ])
}

/// Name of a control, its metric and the value under it.
type PlantedValue = (&'static str, &'static str, f64);

/// The planted faults of [`TAILS_CASE`], full attention, against the healthy problem's oracle.
fn tail_faults(bench: &mut Bench, kernel: Kernel) -> Result<[PlantedValue; 4], Stop> {
    let shape = Setting::shape(1, PLANTED_TOKENS, 4, 2, 128);
    let setting = Setting::plain(kernel, shape, false);
    let (scene, oracle) = bench.scene(setting.clone())?;
    let healthy = scene.problem();
    let shifted = bench.errors(&scene, &oracle, &scene.shifted_key(), 16)?.0;
    let longer = Shape { keys: PLANTED_TOKENS.next_multiple_of(112), ..shape };
    let unmasked = Problem { shape: longer, ..healthy };
    let (unmasked, unmasked_lse) = bench.errors(&scene, &oracle, &unmasked, 16)?;
    let (scene, oracle) = bench.scene(Setting { fault: Fault::UnscaledOnce, ..setting })?;
    let unscaled = bench.errors(&scene, &oracle, &scene.problem(), 16)?.0;
    Ok([
        ("shifted-key", METRIC, shifted),
        ("unmasked-tail", METRIC, unmasked),
        ("unmasked-tail-lse", LSE_METRIC, unmasked_lse),
        ("unscaled-once", METRIC, unscaled),
    ])
}

/// Tokens of a program's case: more masked tiles than a block map keeps the masks of, and a tail.
const PROGRAM_TOKENS: u32 = 2500;

/// The setting of a builtin program, with data that make every branch of it matter.
pub fn program_setting(kernel: Kernel, program: Program, tokens: u32, seed: u64) -> Setting {
    let shape = Setting::shape(1, tokens, 4, 2, 128);
    let numbers = match program.name.as_ref() {
        // Documents of 1 to 255 tokens.
        "documents" => {
            let mut document = 0;
            let mut left = 0;
            let ids = (0..tokens).map(|i| {
                if left == 0 {
                    document += 1;
                    left = draw(seed, i.into()) % 255 + 1;
                }
                left -= 1;
                document
            });
            ids.collect()
        }
        "branching" => (0..tokens).map(|i| (draw(seed, i.into()) % 3) as i32).collect(),
        // Slopes of the four heads: 2^-2, 2^-4, 2^-6, 2^-8.
        "alibi" => (1..=4).map(|head| f32::powi(2.0, -2 * head).to_bits() as i32).collect(),
        _ => Vec::new(),
    };
    let number = match program.name.as_ref() {
        "window" | "branching" => 300,
        "prefix" => 200,
        "dilated" => 3,
        _ => 0,
    };
    let factor = if program == Program::SOFT_CAP { 2.0 } else { 0.0 };
    let plain = Setting::plain(kernel, shape, false);
    Setting { program, numbers, number, factor, ..plain }
}

fn programs(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed, recorder };
    for program in Program::BUILTIN {
        bench.recorder.progress(&program.name);
        let name = program.name.clone();
        let setting = program_setting(kernel, program, PROGRAM_TOKENS, assignment.seed);
        let (scene, oracle) = bench.scene(setting)?;
        let (ratio, lse) = bench.errors(&scene, &oracle, &scene.problem(), 64)?;
        if let Some((partial, full)) = scene.visited(gpu.stream())? {
            let tiles = format!("{partial} partial, {full} full");
            bench.recorder.option(&format!("tiles.{name}"), tiles);
        }
        for (metric, value) in [(METRIC, ratio), (LSE_METRIC, lse)] {
            let metric = bench.metric(metric, &[("program", &name)], vec![value]);
            bench.recorder.metric(metric);
        }
    }
    bench.recorder.progress("controls");
    let causal = program_setting(kernel, Program::CAUSAL, PROGRAM_TOKENS, assignment.seed);
    let at = [("program", "causal")];
    let (scene, oracle) = bench.scene(causal.clone())?;
    scene.map_blocks(gpu.stream(), 1)?;
    let (short, short_lse) = bench.errors(&scene, &oracle, &scene.problem(), 64)?;
    let (scene, oracle) = bench.scene(Setting { fault: Fault::UnscaledOnce, ..causal })?;
    let unscaled = bench.errors(&scene, &oracle, &scene.problem(), 64)?.0;
    for (name, metric, value) in [
        ("short-block-map", METRIC, short),
        ("short-block-map-lse", LSE_METRIC, short_lse),
        ("unscaled-once", METRIC, unscaled),
    ] {
        let metric = bench.metric(metric, &at, vec![value]);
        bench.recorder.control(name, metric);
    }
    lab.close(recorder);
    Ok(())
}

fn long(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed, recorder };
    let setting = |tokens| Setting::plain(kernel, Setting::shape(1, tokens, 2, 1, 128), true);
    for tokens in LONG {
        let text = tokens.to_string();
        bench.recorder.progress(&text);
        let (scene, oracle) = bench.scene(setting(tokens))?;
        let memory = bench.memory(&scene, 0)?;
        let (ratio, lse) = bench.errors(&scene, &oracle, &scene.problem(), 64)?;
        for (name, value) in [(METRIC, ratio), (LSE_METRIC, lse), (MEMORY_METRIC, memory)] {
            let metric = bench.metric(name, &[("tokens", &text)], vec![value]);
            bench.recorder.metric(metric);
        }
    }
    bench.recorder.progress("controls");
    let (scene, oracle) = bench.scene(setting(LONG[0]))?;
    let lse = bench.errors(&scene, &oracle, &scene.shifted_key(), 64)?.1;
    let metric = bench.metric(LSE_METRIC, &[("tokens", "8192")], vec![lse]);
    bench.recorder.control("shifted-key-lse", metric);
    let (scene, oracle) =
        bench.scene(Setting { fault: Fault::UnscaledOnce, ..setting(LONG[0]) })?;
    let ratio = bench.errors(&scene, &oracle, &scene.problem(), 64)?.0;
    let metric = bench.metric(METRIC, &[("tokens", "8192")], vec![ratio]);
    bench.recorder.control("unscaled-once", metric);
    let matrix = 2 * u64::from(LONG[0]) * u64::from(LONG[0]);
    let memory = bench.memory(&scene, matrix)?;
    let metric = bench.metric(MEMORY_METRIC, &[("tokens", "8192")], vec![memory]);
    bench.recorder.control("score-matrix", metric);
    lab.close(recorder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_programs_reach_their_branches() {
        let of = |program| program_setting(Kernel::Portable, program, 1000, 5);
        let documents = of(Program::DOCUMENTS).numbers;
        assert_eq!(documents.len(), 1000);
        assert!(documents.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
        assert!(documents[999] > 3);
        let kinds = of(Program::BRANCHING).numbers;
        assert!((0..3).all(|kind| kinds.contains(&kind)));
        assert_eq!(f32::from_bits(of(Program::ALIBI).numbers[0] as u32), 0.25);
    }

    #[test]
    fn what_is_infinitely_wrong_misses_every_bound() {
        assert_eq!((finite(1.5), finite(f64::INFINITY), finite(f64::NAN)), (1.5, 1e300, 1e300));
    }
}
