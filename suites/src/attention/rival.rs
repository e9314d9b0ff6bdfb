//! PyTorch's attention on the same GPU, samples taken in turn with ours: cuDNN's kernel and its own
//! flash kernel, whichever is faster at the shape.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::attention::program::Program;
use kernels::timing::{self, Timer};

use super::rates::{self, SHAPES, Timed};
use super::scene::{Scene, Setting};
use super::{backend, exact};
use crate::lab::Lab;
use crate::rivals::{self, Torch};

/// Pairs of turns at one shape, and under its fault.
const PAIRS: usize = 12;
const CONTROL_PAIRS: usize = 7;

/// The best rival's rate at each shape.
pub static CASE: Case = Case {
    id: "attention::vs-pytorch",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "PyTorch runs in a process beside this one on the same GPU, and both measure in turn: \
                64 heads of 128 in fp16. Of its cuDNN and flash kernels the faster one of a first turn \
                counts. A turn is the median of 5 samples of 4 launches each. The metric is our rate \
                over theirs, pair by pair. Rows of what our last turn left are compared with f64.",
    expected_s: 60.0,
    deadline_s: 400.0,
    kernels: &["operands", "timing"],
    integrity: &[],
    controls: &[
        Control {
            name: "half-more",
            fault: "our attention has half more keys than is counted",
            trips: "over_pytorch_ratio",
            expect: Expect::Refuted,
        },
        Control {
            name: "shifted-key",
            fault: "every key is read from one row further on",
            trips: exact::METRIC,
            expect: Expect::Refuted,
        },
    ],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::start(assignment, recorder)?;
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let seed = assignment.seed;
    for timed in SHAPES {
        let name = choose(&mut torch, timed)?;
        recorder.progress(&format!("{} against {name}", timed.name));
        recorder.option(&format!("rival.{}", timed.name), &name);
        torch.prepare(&command(&name, timed))?;
        let at: &[(&str, &str)] = &[("shape", timed.name)];
        let mut pairs = |scene: &Scene, pairs: usize| {
            let prepared = scene.prepared()?;
            rivals::in_turn(&mut torch, pairs, || {
                let plan = rivals::one_turn();
                let ms = timer.measure(plan, None, |stream| prepared.launch(stream))?;
                rivals::middle(&ms)
            })
        };
        let scene = |setting, recorder: &mut Recorder| {
            Scene::new(gpu, &mut |source| lab.module(gpu, source, recorder), setting, seed)
        };
        let setting = rates::setting(kernel, timed);
        let own = scene(setting.clone(), recorder)?;
        own.out.poison(gpu.stream())?;
        gpu.synchronize()?;
        let taken = pairs(&own, PAIRS)?;
        recorder.metric(taken.ratio(at, index));
        taken.times(at, index).into_iter().for_each(|metric| recorder.metric(metric));
        let oracle = own.reference(&mut |source| lab.module(gpu, source, recorder))?;
        let error = || -> Result<Metric, Stop> {
            let errors = own.errors(gpu, &oracle, &own.rows(16, seed))?;
            let ratio = exact::finite(errors.over_plain);
            Ok(Metric::exact(exact::METRIC, at, &[index], ratio))
        };
        recorder.metric(error()?);
        if timed.name == SHAPES[0].name {
            let mut shifted = own.problem();
            shifted.k.offset += shifted.k.row;
            own.run(gpu.stream(), &shifted)?;
            recorder.control("shifted-key", error()?);
            let mut longer = setting;
            longer.shape.keys = timed.tokens / 2 * 3;
            let longer = scene(longer, recorder)?;
            recorder.control("half-more", pairs(&longer, CONTROL_PAIRS)?.ratio(at, index));
        }
    }
    lab.close(recorder);
    Ok(())
}

/// FlexAttention, whose masks are traced Python, over the same documents.
pub static FLEX_CASE: Case = Case {
    id: "attention::vs-flex",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: super::TIER,
    self_test_only: false,
    procedure: "PyTorch compiles FlexAttention for a mask of documents of 1500 tokens, each causal, over \
                16384 tokens, with its own block mask; the same mask here is a program with a block map. \
                Both measure in turn as against PyTorch's other kernels. Not run where FlexAttention does \
                not compile.",
    expected_s: 40.0,
    deadline_s: 300.0,
    kernels: &["operands", "timing"],
    integrity: &[],
    controls: &[
        Control {
            name: "causal-mask",
            fault: "documents are not told apart: every query sees all before it",
            trips: "over_pytorch_ratio",
            expect: Expect::Refuted,
        },
        Control {
            name: "shifted-key",
            fault: "every key is read from one row further on",
            trips: exact::METRIC,
            expect: Expect::Refuted,
        },
    ],
    run: flex,
};

const FLEX_TOKENS: u32 = 16384;
const DOCUMENT_TOKENS: u32 = 1500;

fn flex(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::start(assignment, recorder)?;
    torch.prepare(&format!("flex {FLEX_TOKENS} {DOCUMENT_TOKENS}"))?;
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = backend::kernel_for(gpu);
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let setting = |document: u32| {
        let timed = Timed { name: "documents", batch: 1, tokens: FLEX_TOKENS, causal: false };
        Setting {
            program: Program::DOCUMENTS,
            numbers: (0..FLEX_TOKENS).map(|token| (token / document) as i32).collect(),
            ..rates::setting(kernel, timed)
        }
    };
    let scene = |document: u32, recorder: &mut Recorder| {
        let load = &mut |source| lab.module(gpu, source, recorder);
        Scene::new(gpu, load, setting(document), assignment.seed)
    };
    let mut pairs = |scene: &Scene, pairs: usize| {
        let prepared = scene.prepared()?;
        rivals::in_turn(&mut torch, pairs, || {
            let ms = timer.measure(rivals::one_turn(), None, |stream| prepared.launch(stream))?;
            rivals::middle(&ms)
        })
    };
    recorder.progress("in turn");
    let own = scene(DOCUMENT_TOKENS, recorder)?;
    let taken = pairs(&own, PAIRS)?;
    recorder.metric(taken.ratio(&[], index));
    taken.times(&[], index).into_iter().for_each(|metric| recorder.metric(metric));
    let oracle = own.reference(&mut |source| lab.module(gpu, source, recorder))?;
    let error = || -> Result<Metric, Stop> {
        let errors = own.errors(gpu, &oracle, &own.rows(16, assignment.seed))?;
        let ratio = exact::finite(errors.over_plain);
        Ok(Metric::exact(exact::METRIC, &[], &[index], ratio))
    };
    recorder.metric(error()?);
    recorder.progress("controls");
    let mut shifted = own.problem();
    shifted.k.offset += shifted.k.row;
    own.run(gpu.stream(), &shifted)?;
    recorder.control("shifted-key", error()?);
    let causal = scene(FLEX_TOKENS, recorder)?;
    recorder.control("causal-mask", pairs(&causal, CONTROL_PAIRS)?.ratio(&[], index));
    lab.close(recorder);
    Ok(())
}

/// The faster of PyTorch's kernels at a shape.
fn choose(torch: &mut Torch, timed: Timed) -> Result<String, Stop> {
    let mut best: Option<(f64, &str)> = None;
    for name in ["cudnn", "flash"] {
        torch.prepare(&command(name, timed))?;
        let answer = torch.ask("sample 2")?;
        let ms: f64 = answer.parse().map_err(|_| Stop::Error(format!("pytorch said {answer}")))?;
        if best.is_none_or(|(least, _)| ms < least) {
            best = Some((ms, name));
        }
    }
    best.map(|(_, name)| name.to_owned()).ok_or_else(|| Stop::Error("no rival".into()))
}

fn command(name: &str, timed: Timed) -> String {
    format!("{name} {} {} {}", timed.batch, timed.tokens, u32::from(timed.causal))
}
