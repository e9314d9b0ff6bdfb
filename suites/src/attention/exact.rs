//! Attention against f64, on every tail of the tiles, under every program, and up to 131072 tokens.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::KernelSource;
use kernels::attention::Shape;
use kernels::attention::forward::Problem;
use kernels::attention::program::Program;
use kernels::attention::reference::{Reference, Row};
use kernels::attention::rules::Rule;
use kernels::attention::variant::{Fault, Kernel};
use kernels::device::{Buffer, Gpu, Module};
use kernels::element::Element;
use kernels::generator::draw;

use super::scene::{Scene, Setting};
use super::{backend, bits};
use crate::lab::{Lab, differing, finite};

/// The metric of all these cases: see [`kernels::attention::reference::Errors::over_plain`].
pub const METRIC: &str = "error_over_plain_ratio";
/// Bytes a token that a launch takes beside its operands.
pub const MEMORY_METRIC: &str = "workspace_per_token_bytes";
/// |lse - reference| over the larger of 1 and |reference|.
pub const LSE_METRIC: &str = "lse_error_ratio";

/// Output elements that are not zero where no key is seen.
pub const NONZERO_METRIC: &str = "nonzero_count";
/// |oracle - plain loops| over the larger of 1 and what the loops say, of outputs and log-sum-exps.
pub const ORACLE_METRIC: &str = "oracle_error_ratio";

/// Lengths around every edge of the tiles (64, 96, 112 and 128 keys; 128 and 192 queries), and between.
const TAILS: [u32; 27] = [
    1, 2, 3, 17, 63, 64, 65, 95, 96, 97, 111, 112, 113, 127, 128, 129, 191, 192, 193, 224, 225,
    256, 385, 448, 449, 700, 1025,
];
/// Lengths for programs with a score, whose tiles have 96 keys.
const SCORED_TAILS: [u32; 7] = [1, 95, 96, 97, 191, 192, 193];
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

const LEFT_OUT: Control =
    planted("left-out", "queries that see no key are left out, and their outputs stay poisoned");

static TAILS_CONTROLS: [Control; 8] = [
    Control {
        name: "unmasked-tail-lse",
        fault: "the keys of the last tile behind the last one are not masked",
        trips: LSE_METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "own-value-infinite",
        fault: "the last value of an earlier sequence is infinite too",
        trips: bits::METRIC,
        expect: Expect::Refuted,
    },
    LEFT_OUT,
    Control { name: "left-out-lse", trips: LSE_METRIC, ..LEFT_OUT },
    Control { name: "left-out-nonzero", trips: NONZERO_METRIC, ..LEFT_OUT },
    SHIFTED_KEY,
    UNSCALED_ONCE,
    planted("unmasked-tail", "the keys of the last tile behind the last one are not masked"),
];
static PROGRAM_CONTROLS: [Control; 5] = [
    Control {
        name: "window-one-wider",
        fault: "the window of the plain loops is one key wider than the program's",
        trips: ORACLE_METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "cap-a-hundredth-off",
        fault: "the cap of the plain loops is a hundredth higher than the program's",
        trips: ORACLE_METRIC,
        expect: Expect::Refuted,
    },
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
            revision: 2,
            figures_since: 1,
            scope: Scope::EachGpu,
            min_gpus: 1,
            tier: super::TIER,
            self_test_only: false,
            procedure: $procedure,
            samples: 0,
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
    "For 27 lengths around every edge of the tiles, causal and full, in fp16 and bf16, with heads of \
     64 and 128, four heads of queries over two of keys: draws N(0, 1) operands, runs into poisoned \
     outputs, and compares rows at the edges of tiles and drawn ones, and their log-sum-exp, with \
     f64. The largest error is held against that of a plain 16-bit implementation of rows of the \
     same magnitude; of all lengths the worst is written down. Then ragged sequences of 1, 700, 129 and \
     1500 tokens, rows at the edges of each; every word of the first two again once all values of the \
     third are infinite; and 300 queries over 100 keys, of which 200 see none: their outputs are read \
     back whole.",
    8.0,
    &TAILS_CONTROLS,
    tails
);
/// Every program of the crate.
pub static PROGRAMS_CASE: Case = case!(
    "attention::programs",
    "Each mask and score of the crate, written in CUDA C++ and compiled in, over 2500 tokens, and those \
     with a score over 1 to 193 tokens: compares rows with f64, which asks the same program pair by pair \
     without a block map. What f64 itself says, of every row of 40 queries over 70 keys, is compared with \
     plain loops in Rust that know each mask and score by its definition.",
    8.0,
    &PROGRAM_CONTROLS,
    programs
);
/// Long sequences.
pub static LONG_CASE: Case = case!(
    "attention::long",
    "8192, 32768, 65536 and 131072 tokens, causal, two heads, without a program: compares 64 drawn rows \
     and those at the edges with f64, and takes the free memory of the device before a launch is prepared \
     and after it has run, while what was prepared is held.",
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
        let prepared = scene.prepared()?;
        prepared.launch(self.gpu.stream())?;
        self.gpu.synchronize()?;
        let (after, _) = self.gpu.mem_info()?;
        drop((prepared, matrix));
        let taken = before.saturating_sub(after) + scene.workspace_bytes();
        Ok(taken as f64 / f64::from(scene.setting.shape.keys))
    }

    fn metric(&self, name: &str, at: &[(&str, &str)], values: Vec<f64>) -> Metric {
        Metric { values, ..Metric::exact(name, at, &[self.index], 0.0) }
    }
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
                let mut worst = [(METRIC, 0.0, String::new()), (LSE_METRIC, 0.0, String::new())];
                for tokens in TAILS {
                    for causal in [true, false] {
                        let shape = Setting::shape(1, tokens, 4, 2, head_size);
                        let plain = Setting::plain(kernel, shape, causal);
                        let (scene, oracle) = bench.scene(Setting { element, ..plain })?;
                        let found = bench.errors(&scene, &oracle, &scene.problem(), 16)?;
                        for (worst, found) in worst.iter_mut().zip([found.0, found.1]) {
                            if found >= worst.1 {
                                let mask = if causal { "causal" } else { "full" };
                                *worst = (worst.0, found, format!("{tokens} {mask}"));
                            }
                        }
                    }
                }
                for (metric, value, place) in worst {
                    let [kernel, dtype, size] = at.map(|(_, name)| name);
                    bench
                        .recorder
                        .option(&format!("worst.{metric}.{kernel}.{dtype}.{size}"), place);
                    let metric = bench.metric(metric, &at, vec![value]);
                    bench.recorder.metric(metric);
                }
            }
        }
    }
    for kernel in kernels_of(gpu) {
        bench.recorder.progress(&format!("{} ragged and unseen", kernel_name(kernel)));
        ragged(&mut bench, kernel)?;
        unseen(&mut bench, kernel)?;
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
/// The sequence whose values are spoilt, behind the first two.
const SPOILT: usize = 2;

/// Errors of ragged sequences, and the words of the first two that change once a later one's values are
/// infinite, and once the last value of the second is.
fn ragged(bench: &mut Bench, kernel: Kernel) -> Result<(), Stop> {
    let longest = RAGGED.iter().copied().max().unwrap_or(1);
    let shape = Setting::shape(RAGGED.len() as u32, longest, 4, 2, 128);
    let plain = Setting::plain(kernel, shape, true);
    let (scene, oracle) = bench.scene(Setting { lengths: RAGGED.to_vec(), ..plain })?;
    let at = |rows| [("kernel", kernel_name(kernel)), ("rows", rows)];
    let (ratio, lse) = bench.errors(&scene, &oracle, &scene.problem(), 64)?;
    for (metric, value) in [(METRIC, ratio), (LSE_METRIC, lse)] {
        let metric = bench.metric(metric, &at("ragged"), vec![value]);
        bench.recorder.metric(metric);
    }
    let (stream, tokens) = (bench.gpu.stream(), RAGGED[..SPOILT].iter().sum());
    let before = scene.words_of_first(stream, tokens)?;
    let differ = |bench: &Bench| -> Result<Metric, Stop> {
        scene.run(stream, &scene.problem())?;
        let count = differing(&before, &scene.words_of_first(stream, tokens)?);
        Ok(bench.metric(bits::METRIC, &at("before-infinite"), vec![count as f64]))
    };
    scene.spoil_values(stream, tokens, RAGGED[SPOILT])?;
    let isolated = differ(bench)?;
    bench.recorder.metric(isolated);
    scene.spoil_values(stream, tokens - 1, 1)?;
    let reached = differ(bench)?;
    bench.recorder.control("own-value-infinite", reached);
    Ok(())
}

const UNSEEN_QUERIES: u32 = 300;
const UNSEEN_KEYS: u32 = 100;

/// Errors of more queries than keys, and the outputs of those that see none.
fn unseen(bench: &mut Bench, kernel: Kernel) -> Result<(), Stop> {
    let plain = Setting::shape(1, UNSEEN_QUERIES, 4, 2, 128);
    let shape = Shape { keys: UNSEEN_KEYS, ..plain };
    let (scene, oracle) = bench.scene(Setting::plain(kernel, shape, true))?;
    let left_out = UNSEEN_QUERIES - UNSEEN_KEYS;
    // The others alone see what they see among all.
    let mut others = Problem { lse: None, ..scene.problem() };
    others.shape.queries = UNSEEN_KEYS;
    others.q.offset += u64::from(left_out) * others.q.row;
    others.out.offset += u64::from(left_out) * others.out.row;
    let at = [("kernel", kernel_name(kernel)), ("rows", "unseen")];
    for (problem, names) in
        [(scene.problem(), None), (others, Some(["left-out", "left-out-lse", "left-out-nonzero"]))]
    {
        let (ratio, lse) = bench.errors(&scene, &oracle, &problem, 64)?;
        let outputs = left_out * shape.heads * shape.head_size;
        let codes: Vec<u16> = scene.out.read_vec(bench.gpu.stream(), outputs as usize)?;
        // But for the sign.
        let nonzero = codes.iter().filter(|&&code| code & 0x7FFF != 0).count() as f64;
        let found = [(METRIC, ratio), (LSE_METRIC, lse), (NONZERO_METRIC, nonzero)];
        for (i, (metric, value)) in found.into_iter().enumerate() {
            let metric = bench.metric(metric, &at, vec![value]);
            match names {
                None => bench.recorder.metric(metric),
                Some(names) => bench.recorder.control(names[i], metric),
            }
        }
    }
    Ok(())
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

/// Queries and keys of the rows that plain loops answer.
const KNOWN: (u32, u32) = (40, 70);

/// A setting of a builtin program in which its rule cuts within [`KNOWN`].
fn known_setting(kernel: Kernel, program: Program, seed: u64) -> Setting {
    let (queries, keys) = KNOWN;
    let mut setting = program_setting(kernel, program, keys, seed);
    setting.shape.queries = queries;
    match setting.program.name.as_ref() {
        "window" => setting.number = 9,
        "prefix" => setting.number = 33,
        "branching" => setting.number = 5,
        "documents" => setting.numbers = (0..keys as i32).map(|i| i / 11).collect(),
        _ => {}
    }
    setting
}

/// The largest difference between the oracle's rows and those of plain loops under a rule.
fn oracle_error(
    bench: &Bench,
    scene: &Scene,
    oracle: &Reference,
    rule: Rule<'_>,
) -> Result<f64, Stop> {
    let Shape { heads, kv_heads, queries, keys, head_size, .. } = scene.setting.shape;
    let size = head_size as usize;
    let read = |buffer: &Buffer, tokens: u32, heads: u32| -> Result<Vec<f64>, Stop> {
        let codes: Vec<u16> =
            buffer.read_vec(bench.gpu.stream(), (tokens * heads) as usize * size)?;
        Ok(codes.into_iter().map(|code| Element::F16.decode(code.into())).collect())
    };
    // By head, then by row.
    let lines = |buffer: &Buffer, tokens: u32, heads: u32| -> Result<Vec<Vec<Vec<f64>>>, Stop> {
        let values = read(buffer, tokens, heads)?;
        let of = |head: usize| values.chunks_exact(size).skip(head).step_by(heads as usize);
        Ok((0..heads as usize).map(|head| of(head).map(<[f64]>::to_vec).collect()).collect())
    };
    let q = lines(&scene.q, queries, heads)?;
    let (k, v) = (lines(&scene.k, keys, kv_heads)?, lines(&scene.v, keys, kv_heads)?);
    let rows: Vec<Row> = (0..heads)
        .flat_map(|head| (0..queries).map(move |query| Row { batch: 0, head, query }))
        .collect();
    let scale = f64::from(scene.problem().scale);
    let apart = |found: f64, known: f64| match found == known {
        true => 0.0,
        false => finite((found - known).abs() / known.abs().max(1.0)),
    };
    let mut most = 0.0;
    for found in scene.found(bench.gpu, oracle, &rows)? {
        let (head, query) = (found.row.head as usize, found.row.query as usize);
        let kv_head = head / scene.setting.shape.group() as usize;
        let (k, v) = (&k[kv_head], &v[kv_head]);
        let (out, lse) = rule.attend((head, query), &q[head][query], k, v, scale);
        for (found, known) in found.reference.iter().zip(&out) {
            most = f64::max(most, apart(*found, *known));
        }
        most = f64::max(most, apart(found.lse_reference, lse));
    }
    Ok(most)
}

/// Holds the oracle against plain loops under a program, and, where one is planted, under a rule that is
/// slightly another.
fn known(bench: &mut Bench, kernel: Kernel, program: Program) -> Result<(), Stop> {
    let seed = bench.seed;
    let (scene, oracle) = bench.scene(known_setting(kernel, program, seed))?;
    let Setting { program, numbers, number, factor, .. } = &scene.setting;
    let (queries, keys) = (KNOWN.0 as usize, KNOWN.1 as usize);
    let factor = f64::from(*factor);
    let rule = Rule { program, queries, keys, numbers, number: *number, factor };
    let at = [("program", program.name.as_ref())];
    let error = oracle_error(bench, &scene, &oracle, rule)?;
    let metric = bench.metric(ORACLE_METRIC, &at, vec![error]);
    bench.recorder.metric(metric);
    let planted = match program.name.as_ref() {
        "window" => ("window-one-wider", Rule { number: number + 1, ..rule }),
        "softcap" => ("cap-a-hundredth-off", Rule { factor: 1.01 * factor, ..rule }),
        _ => return Ok(()),
    };
    let error = oracle_error(bench, &scene, &oracle, planted.1)?;
    let metric = bench.metric(ORACLE_METRIC, &at, vec![error]);
    bench.recorder.control(planted.0, metric);
    Ok(())
}

/// The worst errors of a program with a score over lengths around the edges of its tiles.
fn scored_tails(bench: &mut Bench, kernel: Kernel, program: &Program) -> Result<(), Stop> {
    let mut worst = [(METRIC, 0.0), (LSE_METRIC, 0.0)];
    for tokens in SCORED_TAILS {
        let seed = bench.seed;
        let setting = program_setting(kernel, program.clone(), tokens, seed);
        let (scene, oracle) = bench.scene(setting)?;
        let found = bench.errors(&scene, &oracle, &scene.problem(), 16)?;
        for (worst, found) in worst.iter_mut().zip([found.0, found.1]) {
            worst.1 = f64::max(worst.1, found);
        }
    }
    for (metric, value) in worst {
        let metric =
            bench.metric(metric, &[("program", &program.name), ("rows", "tails")], vec![value]);
        bench.recorder.metric(metric);
    }
    Ok(())
}

fn programs(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let mut bench = Bench { lab: &lab, gpu, index, seed: assignment.seed, recorder };
    for program in Program::BUILTIN {
        bench.recorder.progress(&program.name);
        let name = program.name.clone();
        known(&mut bench, kernel, program.clone())?;
        if program.scores() {
            scored_tails(&mut bench, kernel, &program)?;
        }
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
}
