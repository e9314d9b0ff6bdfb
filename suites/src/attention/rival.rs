//! PyTorch's attention on the same GPU, samples taken in turn with ours: cuDNN's kernel and its own
//! flash kernel, whichever is faster at the shape.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, At, Recorder, Stop};
use kernels::attention::program::Program;
use kernels::device::Gpu;
use kernels::timing::{self, Timer};

use super::rates::{self, SHAPES, Timed};
use super::scene::{Scene, Setting};
use super::{backend, exact};
use crate::lab::{Lab, finite};
use crate::rivals::{self, Pairs, Torch};

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
    tier: Tier::Full,
    self_test_only: false,
    procedure: "PyTorch runs in a process beside this one on the same GPU, and both measure in turn: \
                64 heads of 128 in fp16. Of its cuDNN and flash kernels the faster one of a first turn \
                counts. A turn is the median of 5 samples of 4 launches each. The metric is our rate \
                over theirs, pair by pair. Rows of what our last turn left are compared with f64.",
    samples: PAIRS,
    expected_s: 40.0,
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
        exact::SHIFTED_KEY,
    ],
    run,
};

/// PyTorch's process beside this one, and a GPU for both.
struct Beside<'a> {
    torch: Torch,
    lab: &'a Lab,
    gpu: &'a Gpu,
    index: u32,
    seed: u64,
    /// Healthy pairs that this attempt takes.
    taken: usize,
    timer: Timer,
}

impl Beside<'_> {
    fn new<'a>(
        torch: Torch,
        lab: &'a Lab,
        assignment: &Assignment,
        recorder: &mut Recorder,
    ) -> Result<Beside<'a>, Stop> {
        let (gpu, index) = lab.only()?;
        let timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
        let (seed, taken) = (assignment.seed, assignment.samples(PAIRS));
        Ok(Beside { torch, lab, gpu, index, seed, taken, timer })
    }

    fn scene(&self, setting: Setting, recorder: &mut Recorder) -> Result<Scene, Stop> {
        let (lab, gpu) = (self.lab, self.gpu);
        Scene::new(gpu, &mut |source| lab.module(gpu, source, recorder), setting, self.seed)
    }

    /// Turns of the job that PyTorch has prepared and of the scene's attention.
    fn pairs(&mut self, scene: &Scene, pairs: usize) -> Result<Pairs, Stop> {
        let Beside { torch, timer, .. } = self;
        let prepared = scene.prepared()?;
        rivals::in_turn(torch, pairs, || {
            let ms = timer.measure(rivals::one_turn(), None, |stream| prepared.launch(stream))?;
            rivals::middle(&ms)
        })
    }

    /// Writes down the healthy pairs and the error of what the last of them left; with `shifted`, also
    /// what that error is once every key is read from one row further on.
    fn healthy(
        &mut self,
        own: &Scene,
        at: At,
        shifted: bool,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        own.out.poison(self.gpu.stream())?;
        self.gpu.synchronize()?;
        let taken = self.pairs(own, self.taken)?;
        recorder.metric(taken.ratio(at, self.index));
        taken.times(at, self.index).into_iter().for_each(|metric| recorder.metric(metric));
        let (lab, gpu) = (self.lab, self.gpu);
        let oracle = own.reference(&mut |source| lab.module(gpu, source, recorder))?;
        let error = || -> Result<Metric, Stop> {
            let errors = own.errors(gpu, &oracle, &own.rows(16, self.seed))?;
            let ratio = finite(errors.over_plain);
            Ok(Metric::exact(exact::METRIC, at, &[self.index], ratio))
        };
        recorder.metric(error()?);
        if shifted {
            own.run(gpu.stream(), &own.shifted_key())?;
            recorder.control(exact::SHIFTED_KEY.name, error()?);
        }
        Ok(())
    }
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let torch = Torch::start(assignment, recorder)?;
    let lab = Lab::open(assignment, recorder)?;
    let mut beside = Beside::new(torch, &lab, assignment, recorder)?;
    let kernel = backend::kernel_for(beside.gpu);
    for timed in SHAPES {
        let name = choose(&mut beside.torch, timed)?;
        recorder.progress(&format!("{} against {name}", timed.name));
        recorder.option(&format!("rival.{}", timed.name), &name);
        beside.torch.prepare(&command(&name, timed))?;
        let at: At = &[("shape", timed.name)];
        let setting = rates::setting(kernel, timed);
        let headline = timed.name == SHAPES[0].name;
        let own = beside.scene(setting.clone(), recorder)?;
        beside.healthy(&own, at, headline, recorder)?;
        drop(own);
        if headline {
            let mut longer = setting;
            longer.shape.keys = timed.tokens / 2 * 3;
            let longer = beside.scene(longer, recorder)?;
            let slow = beside.pairs(&longer, CONTROL_PAIRS)?;
            recorder.control("half-more", slow.ratio(at, beside.index));
        }
    }
    drop(beside);
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
    tier: Tier::Full,
    self_test_only: false,
    procedure: "PyTorch compiles FlexAttention for a mask of documents of 1500 tokens, each causal, over \
                16384 tokens, with its own block mask; the same mask here is a program with a block map. \
                Both measure in turn as against PyTorch's other kernels. Not run where FlexAttention does \
                not compile.",
    samples: PAIRS,
    expected_s: 17.0,
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
        exact::SHIFTED_KEY,
    ],
    run: flex,
};

const FLEX_TOKENS: u32 = 16384;
const DOCUMENT_TOKENS: u32 = 1500;

fn flex(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::start(assignment, recorder)?;
    torch.prepare(&format!("flex {FLEX_TOKENS} {DOCUMENT_TOKENS}"))?;
    let lab = Lab::open(assignment, recorder)?;
    let mut beside = Beside::new(torch, &lab, assignment, recorder)?;
    let kernel = backend::kernel_for(beside.gpu);
    let setting = |document: u32| {
        let timed = Timed { name: "documents", batch: 1, tokens: FLEX_TOKENS, causal: false };
        Setting {
            program: Program::DOCUMENTS,
            numbers: (0..FLEX_TOKENS).map(|token| (token / document) as i32).collect(),
            ..rates::setting(kernel, timed)
        }
    };
    recorder.progress("in turn");
    let own = beside.scene(setting(DOCUMENT_TOKENS), recorder)?;
    beside.healthy(&own, &[], true, recorder)?;
    recorder.progress("controls");
    let causal = beside.scene(setting(FLEX_TOKENS), recorder)?;
    let slow = beside.pairs(&causal, CONTROL_PAIRS)?;
    recorder.control("causal-mask", slow.ratio(&[], beside.index));
    drop(beside);
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
