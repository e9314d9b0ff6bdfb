//! Whole layers on each of 2, 4 and 8 GPUs that follow each other: the bits of one GPU behind every layer.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::Precision;
use kernels::model::group::{Group, Watch};
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};

use super::bench::{self, Bench, Drift};
use super::rates::free;
use super::setting::{self, BATCHES, METRIC, Setting, planted_drift, problem};

/// What two GPUs with half of the layers each leave of their memory, the one that has less, over what one GPU with the whole
/// model leaves.
pub const HEADROOM: &str = "headroom_ratio";

const FLIPPED: &str = "flipped-bit";
/// Weights of which a bit is flipped.
const FLIPS: u64 = 256;
const WITHHELD: &str = "withheld";
const NOTHING: &str = "nothing-held";

static CONTROLS: [Control; 3] = [
    planted_drift(
        FLIPPED,
        "the lowest mantissa bits of 256 weights of the first of the last GPU's layers are flipped",
    ),
    planted_drift(WITHHELD, "the first GPU hands on all micro-batches but the last"),
    Control {
        name: NOTHING,
        fault: "the two GPUs hold no layers",
        trips: HEADROOM,
        expect: Expect::Refuted,
    },
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::pipeline",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 with random weights, 4 sequences of 2048 tokens, in fp16 and in FP8. One \
                GPU's residual streams behind every layer and its logits are kept. The layers are split over 2, 4 and 8 \
                GPUs, as many on each, and the batch goes through them in one piece and as four micro-batches that \
                follow each other. Behind every layer every element of every micro-batch's rows is compared with what was kept, \
                bit by bit, and every logit. What two GPUs leave of their memory, by the driver, stands over what one with all layers leaves.",
    samples: 0,
    expected_s: 20.0,
    deadline_s: 400.0,
    kernels: crate::model::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    for precision in [Precision::F16, Precision::E4m3] {
        let setting = Setting::new(&bench, assignment, precision)?;
        let before = free(&bench, 2)?;
        let one = setting.keep(recorder)?;
        let left_by_one = left(&bench, &before[..1])?;
        drop(one);
        let ratio = |left: f64| {
            let ratio = (left / left_by_one * 1e4).round() / 1e4;
            let at = [("precision", setting::name(precision))];
            Metric::exact(HEADROOM, &at, bench.indices(2), ratio)
        };
        for degree in bench.degrees() {
            if degree == 2 {
                recorder.control(NOTHING, ratio(left(&bench, &before)?));
            }
            let mut pipeline = Pipeline::new(&setting, degree)?;
            pipeline.compared(recorder)?;
            if degree == 2 {
                recorder.metric(ratio(left(&bench, &before)?));
            }
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// Bytes that GPUs would have left of all their memory if nothing were there but what was made since, the least of them.
fn left(bench: &Bench, before: &[u64]) -> Result<f64, Stop> {
    let mut least = f64::INFINITY;
    for (before, gpu) in before.iter().zip(&bench.lab.gpus) {
        let (free, all) = gpu.mem_info()?;
        least = least.min(all as f64 - (*before as f64 - free as f64));
    }
    Ok(least)
}

/// The layers over so many GPUs.
struct Pipeline<'a> {
    setting: &'a Setting<'a>,
    stages: Vec<Group<'a>>,
}

impl<'a> Pipeline<'a> {
    fn new(setting: &'a Setting<'a>, degree: usize) -> Result<Pipeline<'a>, Stop> {
        let (gpus, all) = (setting.bench.first(degree), setting.config.layers);
        // 48 layers over 2, 4 or 8.
        let first = |at: usize| all * at as u32 / degree as u32;
        let stage = |at: usize| {
            let layers = first(at)..first(at + 1);
            Group::part(&gpus[at..=at], setting.config, layers, Split::Outputs)
        };
        let stages = (0..degree).map(stage).collect::<kernels::Result<_>>()?;
        Ok(Pipeline { setting, stages })
    }

    fn compared(&mut self, recorder: &mut Recorder) -> Result<(), Stop> {
        let (setting, degree) = (self.setting, self.stages.len());
        let (precision, gpus) = (setting::name(setting.config.precision), degree.to_string());
        recorder.progress(&format!("{precision} over {degree} gpus"));
        for (way, chunks) in [("whole", 1), ("micro-batches", BATCHES)] {
            let at = [("precision", precision), ("degree", gpus.as_str()), ("way", way)];
            let indices = setting.bench.indices(degree);
            let metric = |found: &Drift| Metric::exact(METRIC, &at, indices, found.count as f64);
            for stage in &mut self.stages {
                stage.set(problem(chunks), bench::CANDIDATES)?;
                stage.set_tokens(&setting.tokens)?;
            }
            let found = self.pass(chunks, None)?;
            recorder.option(&format!("drift {precision} {degree} {way}"), found.text());
            recorder.metric(metric(&found));
            if chunks > 1 {
                let found = self.pass(chunks, Some((0, chunks - 1)))?;
                recorder.control(WITHHELD, metric(&found));
            }
            self.flip()?;
            let found = self.pass(chunks, None)?;
            self.flip()?;
            recorder.control(FLIPPED, metric(&found));
        }
        Ok(())
    }

    /// Flips bits in the first of the last GPU's layers, or flips them back. One bit alone may be lost to
    /// roundings: in the last layer, in run 20261123T010008Z, that of one weight moved nothing in fp16.
    fn flip(&self) -> Result<(), Stop> {
        let (layers, stages) = (self.setting.config.layers, self.stages.len());
        let place = Place::Linear(Linear::Up, layers - layers / stages as u32);
        let mut elements = (0..FLIPS).map(|at| 1_000_003 + at * 8_219);
        Ok(elements.try_for_each(|element| self.stages[stages - 1].flip(0, place, element))?)
    }

    /// A poisoned pass, compared behind every layer.
    fn pass(&mut self, chunks: u32, withheld: Option<(usize, u32)>) -> Result<Drift, Stop> {
        let compare = Watch::Compare(&self.setting.kept, 0, 0);
        self.stages.iter().try_for_each(Group::poison)?;
        bench::pipeline(&mut self.stages, chunks, compare, withheld)?;
        let mut found = Vec::new();
        let each = self.setting.config.layers as usize / self.stages.len();
        for (at, stage) in self.stages.iter_mut().enumerate() {
            stage.head(compare)?;
            stage.wait()?;
            // The logits stand behind all layers.
            let all = stage.differences()?.swap_remove(0);
            found.extend_from_slice(&all[at * each..(at + 1) * each]);
            if (at + 1) * each == self.setting.config.layers as usize {
                found.extend_from_slice(&all[(at + 1) * each..]);
            }
        }
        Ok(bench::drift(&[found]))
    }
}
