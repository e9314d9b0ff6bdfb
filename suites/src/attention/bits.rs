//! The same bits wherever and with whatever a row is computed.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::KernelSource;
use kernels::attention::forward::{Forward, Problem};
use kernels::attention::program::Program;
use kernels::attention::variant::Variant;
use kernels::attention::{Shape, Tensor};
use kernels::device::{Buffer, Gpu, Module};
use kernels::element::Element;
use kernels::operands::{self, Operands, Values};

use super::backend;
use super::scene::{Scene, Setting};
use crate::lab::{Lab, differing};

/// Words of outputs and log-sum-exps that differ.
pub const METRIC: &str = "differing_count";

/// Sequences, tokens of each, and heads of the healthy problem: a tail in every tile size.
const BATCHES: u32 = 3;
const TOKENS: u32 = 1500;
const HEADS: u32 = 8;
const KV_HEADS: u32 = 4;
const HEAD_SIZE: u32 = 128;
const RUNS: usize = 20;
/// Lengths of the ragged sequences.
const RAGGED: [u32; 3] = [1500, 700, 129];
/// Keys before its own that a query sees in the windowed problems.
const WINDOW: u32 = 400;

static CONTROLS: [Control; 3] = [
    Control {
        name: "window-one-wider",
        fault: "the window of the program is one key wider than the plain kernel's",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-two-ulps-off",
        fault: "the scale of the second run is two units in the last place larger",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "seen-key-perturbed",
        fault: "the first key of the window is changed between the runs",
        trips: METRIC,
        expect: Expect::Refuted,
    },
];

/// One GPU.
pub static CASE: Case = Case {
    id: "attention::bits",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "Three sequences of 1500 tokens, eight heads over four: every output and log-sum-exp is \
                read back and compared word by word. The same problem 20 times; each sequence alone; \
                half of the heads alone; the last 200 queries alone; ragged sequences of 1500, 700 and 129 \
                tokens against each of them alone; q, k and v inside one fused tensor; a window as long as \
                the sequence against causal, and a window as a program against the plain kernel's; flex, \
                sdpa and auto by name, flex with the mask as a program, auto also with a dilated mask of \
                step 1, which the plain kernel does not know and which is causal all the same; what is \
                active is read from the kernel that was loaded. Keys and values just outside of a window \
                are changed.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["operands"],
    integrity: &[],
    controls: &CONTROLS,
    run: one_gpu,
};

/// Two GPUs or more.
pub static HEADS_CASE: Case = Case {
    id: "attention::heads",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: super::TIER,
    self_test_only: false,
    procedure: "Sixteen heads on the first GPU, then divided over 2, 4 and 8 GPUs as far as there are \
                that many, on operands that each GPU makes itself from the same seed, causal and in a \
                window of 401 keys; all outputs are compared word by word with those of the first GPU.",
    samples: 0,
    expected_s: 6.0,
    deadline_s: 240.0,
    kernels: &["operands"],
    integrity: &[],
    controls: &[Control {
        name: "scale-two-ulps-off",
        fault: "the scale on the divided GPUs is two units in the last place larger",
        trips: METRIC,
        expect: Expect::Refuted,
    }],
    run: divided,
};

/// The healthy problem and what compares others with it.
struct Bits<'a> {
    gpu: &'a Gpu,
    index: u32,
    scene: Scene,
    whole: Vec<u32>,
}

fn shape() -> Shape {
    Setting::shape(BATCHES, TOKENS, HEADS, KV_HEADS, HEAD_SIZE)
}

impl Bits<'_> {
    fn metric(&self, what: &str, count: u64) -> Metric {
        Metric::exact(METRIC, &[("against", what)], &[self.index], count as f64)
    }

    fn words(&self, scene: &Scene, problem: &Problem<'_>) -> Result<Vec<u32>, Stop> {
        scene.run(self.gpu.stream(), problem)?;
        scene.words(self.gpu.stream())
    }

    /// The worst of many runs of the same problem.
    fn again(&self) -> Result<u64, Stop> {
        let mut most = 0;
        for _ in 1..RUNS {
            let words = self.words(&self.scene, &self.scene.problem())?;
            most = most.max(differing(&self.whole, &words));
        }
        Ok(most)
    }

    /// Part of the problem, run into the same outputs, which must leave the whole as it is. Outputs are
    /// not poisoned between the parts.
    fn parts(&self, parts: &[Problem<'_>]) -> Result<u64, Stop> {
        let stream = self.gpu.stream();
        self.scene.out.poison(stream)?;
        for part in parts {
            self.scene.launch(stream, &Problem { lse: None, ..*part })?;
        }
        let outputs = self.scene.out.len_bytes() as usize / 4;
        let words: Vec<u32> = self.scene.out.read_vec(stream, outputs)?;
        Ok(differing(&self.whole[..outputs], &words))
    }

    fn sequences(&self) -> Result<u64, Stop> {
        let whole = self.scene.problem();
        let alone = |batch: u32| {
            let at =
                |tensor: Tensor<'_>| -> u64 { tensor.offset + u64::from(batch) * tensor.batch };
            let mut part = whole;
            part.shape.batches = 1;
            part.q.offset = at(whole.q);
            part.k.offset = at(whole.k);
            part.v.offset = at(whole.v);
            part.out.offset = at(whole.out);
            part
        };
        self.parts(&(0..BATCHES).map(alone).collect::<Vec<_>>())
    }

    fn half_of_heads(&self) -> Result<u64, Stop> {
        let whole = self.scene.problem();
        let half = |second: bool| {
            let heads = if second { u64::from(HEADS / 2) } else { 0 };
            let kv_heads = if second { u64::from(KV_HEADS / 2) } else { 0 };
            let mut part = whole;
            (part.shape.heads, part.shape.kv_heads) = (HEADS / 2, KV_HEADS / 2);
            part.q.offset += heads * whole.q.head;
            part.out.offset += heads * whole.out.head;
            part.k.offset += kv_heads * whole.k.head;
            part.v.offset += kv_heads * whole.v.head;
            part
        };
        self.parts(&[half(false), half(true)])
    }

    /// The first queries of each sequence over as many keys, then the last ones over all.
    fn chunks_of_queries(&self) -> Result<u64, Stop> {
        let whole = self.scene.problem();
        let cut = TOKENS - 200;
        let mut first = whole;
        (first.shape.queries, first.shape.keys) = (cut, cut);
        let mut last = whole;
        last.shape.queries = TOKENS - cut;
        last.q.offset += u64::from(cut) * whole.q.row;
        last.out.offset += u64::from(cut) * whole.out.row;
        self.parts(&[first, last])
    }
}

fn one_gpu(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let seed = assignment.seed;
    let scene = |setting: Setting, recorder: &mut Recorder| {
        Scene::new(gpu, &mut |source| lab.module(gpu, source, recorder), setting, seed)
    };
    let causal = Setting::plain(kernel, shape(), true);
    let healthy = scene(causal.clone(), recorder)?;
    healthy.run(gpu.stream(), &healthy.problem())?;
    let whole = healthy.words(gpu.stream())?;
    let bits = Bits { gpu, index, scene: healthy, whole };
    let problem = bits.scene.problem();
    type Question<'q> = (&'static str, &'q dyn Fn() -> Result<u64, Stop>);
    let questions: [Question<'_>; 4] = [
        ("run-to-run", &|| bits.again()),
        ("sequence-alone", &|| bits.sequences()),
        ("half-of-the-heads", &|| bits.half_of_heads()),
        ("chunks-of-queries", &|| bits.chunks_of_queries()),
    ];
    for (what, ask) in questions {
        recorder.progress(what);
        recorder.metric(bits.metric(what, ask()?));
    }
    recorder.progress("window-as-long");
    let wide = bits.words(&bits.scene, &Problem { left: Some(TOKENS), ..problem })?;
    recorder.metric(bits.metric("window-as-long", differing(&bits.whole, &wide)));
    // By name, as documents ask for it: what runs is the plain kernel, or the same mask as a program.
    let all = Setting { right: None, program: Program::DILATED, number: 1, ..causal.clone() };
    for (name, wanted, mask, setting) in [
        ("flex", "flex", "causal", &causal),
        ("sdpa", "sdpa", "causal", &causal),
        ("auto", "sdpa", "causal", &causal),
        ("auto", "flex", "dilated", &all),
    ] {
        recorder.progress(&format!("{name} {mask}"));
        let mut setting = setting.clone();
        backend::choose(name, &mut setting).map_err(Stop::Error)?;
        let chosen = scene(setting, recorder)?;
        let what = format!("attention backend {name}, {mask}");
        recorder.mode(&what, wanted, backend::active(chosen.loaded()));
        let words = bits.words(&chosen, &chosen.problem())?;
        let at = [("against", &*format!("backend-{name}")), ("mask", mask)];
        let count = differing(&bits.whole, &words) as f64;
        recorder.metric(Metric::exact(METRIC, &at, &[index], count));
    }
    recorder.progress("window-program");
    let mut setting = Setting { left: Some(WINDOW), ..causal.clone() };
    backend::choose("flex", &mut setting).map_err(Stop::Error)?;
    let window = scene(setting.clone(), recorder)?;
    let plain = bits.words(&bits.scene, &Problem { left: Some(WINDOW), ..problem })?;
    let words = bits.words(&window, &window.problem())?;
    recorder.metric(bits.metric("window-program", differing(&plain, &words)));
    drop(window);
    let wider = scene(Setting { number: setting.number + 1, ..setting }, recorder)?;
    let words = bits.words(&wider, &wider.problem())?;
    recorder.control("window-one-wider", bits.metric("window-program", differing(&plain, &words)));
    drop(wider);
    recorder.progress("ragged");
    let ragged = Setting { lengths: RAGGED.to_vec(), ..causal };
    let ragged = scene(ragged, recorder)?;
    recorder.metric(bits.metric("ragged", each_alone(gpu, &ragged)?));
    recorder.progress("fused");
    recorder.metric(bits.metric("fused", fused(&bits)?));
    recorder.progress("outside-the-window");
    let windowed = Problem { left: Some(WINDOW), ..problem };
    let before = bits.words(&bits.scene, &windowed)?;
    let changed = |first: u64| perturbed(&bits, &windowed, first, &before);
    // The first key that the last query sees, and the last before it, in a tile that is visited.
    let edge = u64::from(TOKENS - 1 - WINDOW);
    let unseen = changed(0)? + changed(edge - 1)?;
    recorder.metric(bits.metric("outside-the-window", unseen));
    let seen = changed(edge)?;
    recorder.control("seen-key-perturbed", bits.metric("outside-the-window", seen));
    // One unit may vanish where the scale is multiplied by log2(e); two never do.
    let off = problem.scale.next_up().next_up();
    let restored = scene(Setting::plain(kernel, shape(), true), recorder)?;
    let words = bits.words(&restored, &Problem { scale: off, ..restored.problem() })?;
    let count = differing(&bits.whole, &words);
    recorder.control("scale-two-ulps-off", bits.metric("run-to-run", count));
    lab.close(recorder);
    Ok(())
}

/// Words of ragged sequences, log-sum-exps too, that differ from those of each sequence as one of its own.
fn each_alone(gpu: &Gpu, ragged: &Scene) -> Result<u64, Stop> {
    let stream = gpu.stream();
    let whole = ragged.problem();
    ragged.run(stream, &whole)?;
    let words = ragged.words(stream)?;
    let (outputs, lse) = words.split_at(ragged.out.len_bytes() as usize / 4);
    let tokens = lse.len() / HEADS as usize;
    ragged.out.poison(stream)?;
    let (mut first, mut count) = (0, 0);
    for length in RAGGED {
        let own = gpu.alloc(4 * u64::from(HEADS) * u64::from(length))?;
        own.poison(stream)?;
        let mut alone = Problem { ragged: None, lse: Some(&own), ..whole };
        alone.shape = Shape { batches: 1, queries: length, keys: length, ..whole.shape };
        for tensor in [&mut alone.q, &mut alone.k, &mut alone.v, &mut alone.out] {
            tensor.offset += first as u64 * tensor.row;
        }
        ragged.launch(stream, &alone)?;
        let length = length as usize;
        let alone: Vec<u32> = own.read_vec(stream, HEADS as usize * length)?;
        for (own, all) in alone.chunks_exact(length).zip(lse.chunks_exact(tokens)) {
            count += differing(own, &all[first..first + length]);
        }
        first += length;
    }
    let alone: Vec<u32> = ragged.out.read_vec(stream, outputs.len())?;
    Ok(count + differing(outputs, &alone))
}

/// q, k and v as parts of one tensor `[batch][token][q heads, k heads, v heads][element]`, as a fused
/// projection leaves them.
fn fused(bits: &Bits) -> Result<u64, Stop> {
    let (gpu, stream) = (bits.gpu, bits.gpu.stream());
    let heads = u64::from(HEADS + 2 * KV_HEADS);
    let row = heads * u64::from(HEAD_SIZE);
    let rows = u64::from(BATCHES) * u64::from(TOKENS);
    let tensor = gpu.alloc(2 * rows * row)?;
    let mut halves = vec![0u16; (rows * row) as usize];
    let mut place = |buffer: &Buffer, heads: u32, first_head: u32| -> Result<(), Stop> {
        let width = (heads * HEAD_SIZE) as usize;
        let source: Vec<u16> = buffer.read_vec(stream, rows as usize * width)?;
        for (line, part) in halves.chunks_exact_mut(row as usize).zip(source.chunks_exact(width)) {
            let at = (first_head * HEAD_SIZE) as usize;
            line[at..at + width].copy_from_slice(part);
        }
        Ok(())
    };
    place(&bits.scene.q, HEADS, 0)?;
    place(&bits.scene.k, KV_HEADS, HEADS)?;
    place(&bits.scene.v, KV_HEADS, HEADS + KV_HEADS)?;
    tensor.write(stream, 0, &halves)?;
    let part = |first_head: u32| Tensor {
        buffer: &tensor,
        offset: u64::from(first_head * HEAD_SIZE),
        row,
        head: HEAD_SIZE.into(),
        batch: u64::from(TOKENS) * row,
    };
    let whole = bits.scene.problem();
    let (q, k, v) = (part(0), part(HEADS), part(HEADS + KV_HEADS));
    bits.parts(&[Problem { q, k, v, ..whole }])
}

/// Words of the last query of the first sequence that differ once key and value row `row` of the first
/// sequence hold other numbers.
fn perturbed(bits: &Bits, problem: &Problem<'_>, row: u64, before: &[u32]) -> Result<u64, Stop> {
    let stream = bits.gpu.stream();
    let width = (KV_HEADS * HEAD_SIZE) as usize;
    // 3.5 in half precision, far from any of N(0, 1)'s.
    let other = vec![0x4300u16; width];
    let at = row * 2 * width as u64;
    let mut kept = [vec![0u16; width], vec![0u16; width]];
    for (buffer, kept) in [&bits.scene.k, &bits.scene.v].into_iter().zip(&mut kept) {
        buffer.read(stream, at, kept)?;
        buffer.write(stream, at, &other)?;
    }
    let words = bits.words(&bits.scene, problem)?;
    for (buffer, kept) in [&bits.scene.k, &bits.scene.v].into_iter().zip(&kept) {
        buffer.write(stream, at, kept)?;
    }
    let line = (HEADS * HEAD_SIZE / 2) as usize;
    let last = (TOKENS - 1) as usize * line;
    Ok(differing(&before[last..last + line], &words[last..last + line]))
}

const DIVIDED_HEADS: u32 = 16;

fn divided(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let shape = Setting::shape(1, TOKENS, DIVIDED_HEADS, DIVIDED_HEADS, HEAD_SIZE);
    let mut gpus: Vec<OnGpu> = Vec::new();
    for gpu in &lab.gpus {
        gpus.push(OnGpu::new(&lab, gpu, shape, assignment.seed, recorder)?);
    }
    for (mask, left) in [("causal", None), ("window", Some(WINDOW))] {
        let whole = gpus[0].heads(0, DIVIDED_HEADS, left, 0)?;
        for degree in [2, 4, 8].into_iter().filter(|&degree| degree <= gpus.len()) {
            recorder.progress(&format!("{mask} over {degree} GPUs"));
            let metric = |count: u64| {
                let at = [("degree", &*degree.to_string()), ("mask", mask)];
                Metric::exact(METRIC, &at, &lab.indices[..degree], count as f64)
            };
            for (ulps, planted) in [(0, false), (2, true)] {
                let mut words = Vec::new();
                let each = DIVIDED_HEADS / degree as u32;
                for (turn, gpu) in gpus[..degree].iter().enumerate() {
                    words.extend(gpu.heads(turn as u32 * each, each, left, ulps)?);
                }
                let found = metric(differing(&whole, &words));
                match planted {
                    false => recorder.metric(found),
                    true => recorder.control("scale-two-ulps-off", found),
                }
            }
        }
    }
    drop(gpus);
    lab.close(recorder);
    Ok(())
}

/// Operands of all heads on one GPU, `[head][token][element]`, so that each head's outputs are a piece.
struct OnGpu<'a> {
    gpu: &'a Gpu,
    shape: Shape,
    tensors: [Buffer; 4],
    forward: Forward,
}

impl OnGpu<'_> {
    fn new<'a>(
        lab: &Lab,
        gpu: &'a Gpu,
        shape: Shape,
        seed: u64,
        recorder: &mut Recorder,
    ) -> Result<OnGpu<'a>, Stop> {
        let mut load = |source: &'static KernelSource| -> Result<Module, Stop> {
            lab.module(gpu, source, recorder)
        };
        let kernel = backend::kernel_for(gpu);
        let variant = Variant::new(kernel, Element::F16, shape.head_size, Program::PLAIN);
        let forward = Forward::new(gpu, &load(variant.source()?)?, variant)?;
        let maker = Operands::new(gpu, &load(&operands::SOURCE)?)?;
        let elements =
            u64::from(shape.heads) * u64::from(shape.queries) * u64::from(shape.head_size);
        let tensor = |seed: u64| -> Result<Buffer, Stop> {
            let buffer = gpu.alloc(2 * elements)?;
            let values = Values::Normals { scale: 1.0 };
            maker.fill(gpu.stream(), &buffer, Element::F16, elements, seed, values)?;
            Ok(buffer)
        };
        let tensors = [tensor(seed)?, tensor(seed + 1)?, tensor(seed + 2)?, tensor(seed + 3)?];
        gpu.synchronize()?;
        Ok(OnGpu { gpu, shape, tensors, forward })
    }

    /// Output words of `count` heads from `first` on, under a causal mask that sees `left` keys back.
    fn heads(
        &self,
        first: u32,
        count: u32,
        left: Option<u32>,
        ulps: u32,
    ) -> Result<Vec<u32>, Stop> {
        let Shape { queries, head_size, .. } = self.shape;
        let head = u64::from(queries) * u64::from(head_size);
        let tensor = |i: usize| Tensor {
            buffer: &self.tensors[i],
            offset: u64::from(first) * head,
            row: head_size.into(),
            head,
            batch: head * u64::from(self.shape.heads),
        };
        let mut scale = 1.0 / (head_size as f32).sqrt();
        for _ in 0..ulps {
            scale = scale.next_up();
        }
        let problem = Problem {
            shape: Shape { heads: count, kv_heads: count, ..self.shape },
            q: tensor(0),
            k: tensor(1),
            v: tensor(2),
            out: tensor(3),
            lse: None,
            ragged: None,
            left,
            right: Some(0),
            scale,
            data: Default::default(),
            scales: None,
        };
        let stream = self.gpu.stream();
        self.tensors[3].poison(stream)?;
        self.forward.prepare(&problem, None)?.launch(stream)?;
        let mut words = vec![0u32; (u64::from(count) * head / 2) as usize];
        self.tensors[3].read(stream, 2 * u64::from(first) * head, &mut words)?;
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_and_missing_ones_differ() {
        assert_eq!(differing(&[1, 2, 3], &[1, 2, 3]), 0);
        assert_eq!(differing(&[1, 2, 3], &[1, 5, 3]), 1);
        assert_eq!(differing(&[1, 2, 3], &[1]), 2);
    }

    #[test]
    fn the_kernels_names_stand_in_evidence() {
        let variant = Variant::new(
            kernels::attention::variant::Kernel::Hopper,
            Element::F16,
            HEAD_SIZE,
            Program::PLAIN,
        );
        assert!(kernels::sources().iter().any(|source| source.name == variant.name()));
    }
}
