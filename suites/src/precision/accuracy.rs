//! What each precision costs a model that was trained: cross-entropy, divergence and agreement on held-out text. In 16
//! bits and with weights that are emulated in them; E4M3 and its scales by blocks are cases of their own, since not every
//! board has them, and so are channels that stand out.

pub mod blocks;
pub mod fp8;
pub mod outliers;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics::mean_interval;
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::language::checkpoint::Weights;
use kernels::language::model::{Document, Fault, Model, Tools, evaluate, summed};
use kernels::language::text::targets;
use kernels::language::{Precision, Rows, reference};
use kernels::libraries::Library;

use super::language::{Fixture, LENGTHS, mean, moved, tools};
use super::products::offered;
use crate::lab::{self, Lab};

/// Documents whose loss under logits that are known is not the known one.
pub const WRONG: &str = "wrong_count";
/// Largest error of a logit of the f32 path beside f64 on the CPU, over the largest logit.
pub const LOGITS: &str = "logit_error_ratio";
/// Most that a document's loss in f32 is from PyTorch's in fp64.
pub const APART: &str = "apart_nats";
/// Perplexity in f32 over that of a model that counts pairs of bytes.
pub const PERPLEXITY: &str = "perplexity_ratio";
/// The farther end of the interval of the mean change of cross-entropy over documents, of that in f32, either way.
pub const MOVED: &str = "moved_percent";
/// Each document's change, with its sign, from which that interval comes.
pub(super) const CHANGE: &str = "change_percent";
/// Mean divergence of the next byte's distribution from that in f32.
pub const DIVERGENCE: &str = "divergence_nats";
/// Bytes for which the same next byte comes first as in f32.
pub const AGREEMENT: &str = "agreement_percent";
/// Nats by which a loss may be off where the answer is known by counting: f64 sums over 4095 bytes.
const KNOWN_TO: f64 = 1e-9;
/// Tokens that the CPU computes in f64.
const CHECKED: u32 = 32;
/// What every board has.
const PRECISIONS: [Precision; 5] =
    [Precision::F32, Precision::F16, Precision::Bf16, Precision::Weights8, Precision::Weights4];

/// Planted in each kind of weights.
const BLOCK_ZEROED: Control = Control {
    name: "block-zeroed",
    fault: "128 x 128 weights of the last layer are zero, one in 200 of all",
    trips: MOVED,
    expect: Expect::Refuted,
};
/// Planted wherever activations are E4M3.
const MORE_DIVERGENCE: Control = Control {
    name: "more-divergence",
    fault: "weights and activations are rounded toward zero",
    trips: DIVERGENCE,
    expect: Expect::Refuted,
};
/// The same.
const LESS_AGREEMENT: Control = Control {
    name: "less-agreement",
    fault: "weights and activations are rounded toward zero",
    trips: AGREEMENT,
    expect: Expect::Refuted,
};

static CONTROLS: [Control; 8] = [
    Control {
        name: "one-logit-raised",
        fault: "of equal logits the first is 0.001 larger",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "halves-for-floats",
        fault: "the CPU's logits are compared with those in fp16",
        trips: LOGITS,
        expect: Expect::Refuted,
    },
    Control {
        name: "fp16-for-fp32",
        fault: "PyTorch's losses are compared with those in fp16",
        trips: APART,
        expect: Expect::Refuted,
    },
    Control {
        name: "labels-shifted",
        fault: "each byte is asked for the one after the next",
        trips: PERPLEXITY,
        expect: Expect::Refuted,
    },
    BLOCK_ZEROED,
    Control {
        name: "nibbles-swapped-moves",
        fault: "of every byte of NVFP4 codes the second comes first",
        trips: MOVED,
        expect: Expect::Refuted,
    },
    Control {
        name: "nibbles-swapped",
        fault: "of every byte of NVFP4 codes the second comes first",
        trips: DIVERGENCE,
        expect: Expect::Refuted,
    },
    Control {
        name: "nibbles-swapped-disagrees",
        fault: "of every byte of NVFP4 codes the second comes first",
        trips: AGREEMENT,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::accuracy",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The byte-level transformer of fixtures/accuracy, 3.3 million parameters, trained by PyTorch, on 47 \
                documents of 4096 bytes that it never saw, in windows of 512: every byte but a document's first is \
                foretold. First the evaluator is held against what is known: equal logits, a table of counted \
                pairs, f64 on the CPU for 32 bytes, PyTorch's own fp64 loss of each document. Then fp16, bf16, E4M3 weights \
                and NVFP4 weights (both emulated: fp16 products of exactly dequantised weights) beside f32: the mean \
                change of cross-entropy with its interval by Student's t over documents, of which the farther end counts, \
                mean divergence, and how often the same byte comes first.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 300.0,
    kernels: &["language", "model", "quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: measured,
};

/// What the models of a case are made and asked with.
pub(super) struct Bench<'a> {
    gpu: &'a Gpu,
    tools: &'a Tools,
    pub(super) index: u32,
    pub(super) fixture: &'a Fixture,
}

/// A model's name in evidence, its weights, and what each precision says of the documents.
pub(super) struct Judged {
    name: &'static str,
    documents: Vec<(Precision, Vec<Document>)>,
}

impl Judged {
    fn of(&self, precision: Precision) -> Result<&[Document], Stop> {
        let found = self.documents.iter().find(|(known, _)| *known == precision);
        let missing = || Stop::Error(format!("{} was not evaluated in {precision:?}", self.name));
        Ok(&found.ok_or_else(missing)?.1)
    }

    /// Changes of all documents, to five places.
    pub(super) fn changes(&self, precision: Precision) -> Result<Vec<f64>, Stop> {
        let changes = moved(self.of(Precision::F32)?, self.of(precision)?);
        Ok(five_places(&changes))
    }

    fn divergence(&self, precision: Precision) -> Result<f64, Stop> {
        Ok(mean(self.of(precision)?, |document| document.divergence))
    }

    fn agreement(&self, precision: Precision) -> Result<f64, Stop> {
        Ok(100.0 * mean(self.of(precision)?, |document| document.agreement))
    }
}

impl<'a> Bench<'a> {
    fn model(
        &self,
        weights: &Weights,
        precision: Precision,
        fault: Option<Fault>,
    ) -> Result<Model<'a>, Stop> {
        let model = Model::new(self.gpu, self.tools, weights, precision, LENGTHS, fault);
        offered(self.gpu, model)
    }

    /// Weights in these precisions, the first of them f32.
    pub(super) fn judged(
        &self,
        (name, weights): (&'static str, &Weights),
        precisions: &[Precision],
        recorder: &mut Recorder,
    ) -> Result<Judged, Stop> {
        recorder.progress(name);
        let models: Vec<Model<'a>> = precisions
            .iter()
            .map(|&precision| self.model(weights, precision, None))
            .collect::<Result<_, _>>()?;
        for model in &models {
            let precision = model.precision().name();
            recorder.option(&format!("arithmetic {precision}"), model.precision().arithmetic());
            for (product, choice) in model.choices() {
                let chosen = choice.algorithm;
                let found =
                    format!("id {} tile {} split-k {}", chosen.id, chosen.tile_id, chosen.split_k);
                recorder.option(&format!("algorithm {precision} {product}"), found);
            }
        }
        let found = evaluate(&models.iter().collect::<Vec<_>>(), &self.fixture.text, 1)?;
        Ok(Judged { name, documents: precisions.iter().copied().zip(found).collect() })
    }

    /// A number of the whole text. One that is not finite would pass for a large agreement, so it is an error.
    pub(super) fn exact(
        &self,
        name: &str,
        at: &[(&str, &str)],
        value: f64,
    ) -> Result<Metric, Stop> {
        if value.is_finite() {
            return Ok(Metric::exact(name, at, &[self.index], value));
        }
        Err(Stop::Error(format!("{name} at {at:?} is {value}")))
    }

    /// The figures of a precision.
    fn figures(&self, judged: &Judged, precision: Precision) -> Result<[Metric; 4], Stop> {
        let at = [("model", judged.name), ("precision", precision.name())];
        let changes = judged.changes(precision)?;
        let few = || Stop::Error(format!("{} documents are too few", changes.len()));
        let (low, high) = mean_interval(&changes).ok_or_else(few)?;
        Ok([
            self.exact(MOVED, &at, low.abs().max(high.abs()))?,
            Metric::exact_each(CHANGE, &at, &[self.index], changes),
            self.exact(DIVERGENCE, &at, judged.divergence(precision)?)?,
            self.exact(AGREEMENT, &at, judged.agreement(precision)?)?,
        ])
    }
}

/// Numbers to five places, as evidence has them.
pub(super) fn five_places(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| (value * 1e5).round() / 1e5).collect()
}

fn measured(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    with_bench(
        assignment,
        recorder,
        |_| Ok(()),
        |bench, recorder| {
            known(bench, recorder)?;
            on_the_cpu(bench, recorder)?;
            let trained =
                bench.judged(("trained", &bench.fixture.weights), &PRECISIONS, recorder)?;
            beside_pytorch(bench, &trained, recorder)?;
            learnt(bench, &trained, recorder)?;
            figures(bench, &trained, recorder)?;
            planted(bench, &FAULTS, recorder)
        },
    )
}

/// Measures with the trained model, its text and the kernels of an evaluation, on the case's GPU, with cuBLASLt.
/// `applicable` says whether the board has what is measured.
pub(super) fn with_bench(
    assignment: &Assignment,
    recorder: &mut Recorder,
    applicable: fn(&Gpu) -> Result<(), Stop>,
    measured: impl FnOnce(&Bench<'_>, &mut Recorder) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    lab::require(Library::CublasLt)?;
    applicable(gpu)?;
    recorder.progress("fixture");
    let fixture = Fixture::read(&assignment.root)?;
    let tools = tools(gpu, &mut |source| lab.module(gpu, source, recorder))?;
    recorder.option("cublaslt", tools.lt.version());
    recorder.option("model_sha256", &fixture.digests[0]);
    recorder.option("heldout_sha256", &fixture.digests[1]);
    measured(&Bench { gpu, tools: &tools, index, fixture: &fixture }, recorder)?;
    lab.close(recorder);
    Ok(())
}

/// Documents whose loss under a table of logits by the byte before is not the wanted one.
fn wrong_losses(bench: &Bench<'_>, table: &[f32], wanted: &[f64]) -> Result<f64, Stop> {
    let (gpu, vocab, rows) = (bench.gpu, bench.fixture.weights.sizes.vocab, LENGTHS.0);
    let buffer = |bytes: usize| -> Result<Buffer, Stop> { Ok(gpu.alloc(bytes as u64)?) };
    let (held, logits) = (buffer(4 * table.len())?, buffer(4 * (rows * vocab) as usize)?);
    let tokens = buffer(4 * rows as usize)?;
    held.write(gpu.stream(), 0, table)?;
    let mut wrong = 0;
    for (document, wanted) in bench.fixture.text.documents().zip(wanted) {
        tokens.write(gpu.stream(), 0, document)?;
        logits.poison(gpu.stream())?;
        let [to, from] = [&logits, &held].map(|buffer| Rows::new(buffer, Element::F32));
        bench.tools.kernels.embed(gpu.stream(), to, from, &tokens, (rows, vocab))?;
        let scores = bench.tools.kernels.score(gpu, to, None, &targets(document, 1), vocab)?;
        let found = summed("known logits", &scores)?.loss;
        wrong += u32::from((found - wanted).abs() > KNOWN_TO);
    }
    Ok(wrong.into())
}

/// Equal logits and counted pairs.
pub(super) fn known(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("known answers");
    let text = &bench.fixture.text;
    let metric = |logits, wrong| bench.exact(WRONG, &[("logits", logits)], wrong);
    let mut equal = vec![0.0; 256 * 256];
    let uniform = vec![256f64.ln(); text.documents().len()];
    recorder.metric(metric("uniform", wrong_losses(bench, &equal, &uniform)?)?);
    let pairs = reference::bigram(&bench.fixture.trained_on);
    let counted = reference::table_losses(&pairs, 256, text.documents());
    recorder.metric(metric("bigram", wrong_losses(bench, &pairs, &counted)?)?);
    equal.iter_mut().step_by(256).for_each(|logit| *logit = 0.001);
    let raised = wrong_losses(bench, &equal, &uniform)?;
    recorder.control("one-logit-raised", metric("uniform", raised)?);
    Ok(())
}

/// Some logits beside f64 on the CPU.
fn on_the_cpu(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("f64 on the CPU");
    let weights = &bench.fixture.weights;
    let document = bench.fixture.text.documents().next().unwrap_or_default();
    let tokens = &document[..CHECKED as usize];
    let wanted: Vec<f64> = reference::logits(weights, tokens).concat();
    let largest = wanted.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let error = |precision: Precision| -> Result<f64, Stop> {
        let lengths = (CHECKED, CHECKED);
        let model = Model::new(bench.gpu, bench.tools, weights, precision, lengths, None)?;
        let logits = model.logits(tokens)?;
        let found: Vec<f64> = match logits.element {
            Element::F32 => {
                let found: Vec<f32> = logits.buffer.read_vec(bench.gpu.stream(), wanted.len())?;
                found.into_iter().map(f64::from).collect()
            }
            other => {
                let found: Vec<u16> = logits.buffer.read_vec(bench.gpu.stream(), wanted.len())?;
                found.into_iter().map(|code| other.decode(code.into())).collect()
            }
        };
        let apart = found.iter().zip(&wanted).map(|(x, y)| (x - y).abs());
        // A NaN is the largest error of all.
        let most = apart.fold(0.0, |most: f64, x| if x <= most { most } else { x });
        Ok(most / largest)
    };
    recorder.metric(bench.exact(LOGITS, &[], error(Precision::F32)?)?);
    recorder.control("halves-for-floats", bench.exact(LOGITS, &[], error(Precision::F16)?)?);
    Ok(())
}

/// The loss of each document beside PyTorch's.
fn beside_pytorch(
    bench: &Bench<'_>,
    trained: &Judged,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let apart = |precision| -> Result<f64, Stop> {
        let pairs = trained.of(precision)?.iter().zip(&bench.fixture.losses);
        Ok(pairs.map(|(document, wanted)| (document.loss - wanted).abs()).fold(0.0, f64::max))
    };
    recorder.metric(bench.exact(APART, &[], apart(Precision::F32)?)?);
    recorder.control("fp16-for-fp32", bench.exact(APART, &[], apart(Precision::F16)?)?);
    Ok(())
}

/// The model foretells more than pairs do.
fn learnt(bench: &Bench<'_>, trained: &Judged, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("labels");
    let documents = bench.fixture.text.documents();
    let pairs = reference::bigram(&bench.fixture.trained_on);
    let counted = reference::table_losses(&pairs, 256, documents);
    let counted = counted.iter().sum::<f64>() / counted.len() as f64;
    let loss = |documents: &[Document]| mean(documents, |document| document.loss);
    let whole = loss(trained.of(Precision::F32)?);
    recorder.option("perplexity of counted pairs", counted.exp());
    recorder.metric(bench.exact(PERPLEXITY, &[], (whole - counted).exp())?);
    let model = bench.model(&bench.fixture.weights, Precision::F32, None)?;
    let shifted = evaluate(&[&model], &bench.fixture.text, 2)?;
    let shifted = bench.exact(PERPLEXITY, &[], (loss(&shifted[0]) - counted).exp())?;
    recorder.control("labels-shifted", shifted);
    Ok(())
}

/// The figures of every precision that was asked.
fn figures(bench: &Bench<'_>, judged: &Judged, recorder: &mut Recorder) -> Result<(), Stop> {
    let asked = judged.documents.iter().map(|(precision, _)| *precision);
    for precision in asked {
        let loss = mean(judged.of(precision)?, |document| document.loss);
        let what = format!("perplexity {} {}", judged.name, precision.name());
        recorder.option(&what, format!("{:.6}", loss.exp()));
        if precision != Precision::F32 {
            bench
                .figures(judged, precision)?
                .into_iter()
                .for_each(|metric| recorder.metric(metric));
        }
    }
    Ok(())
}

/// A control and the metric that it trips.
type Tripping = (&'static str, &'static str);

/// A fault of a model, in what it is planted, and the controls that it is.
type Planted = (Fault, Precision, &'static [Tripping]);

const FAULTS: [Planted; 2] = [
    (Fault::BlockZeroed, Precision::Weights4, &[(BLOCK_ZEROED.name, MOVED)]),
    (
        Fault::NibblesSwapped,
        Precision::Weights4,
        &[
            ("nibbles-swapped-moves", MOVED),
            ("nibbles-swapped", DIVERGENCE),
            ("nibbles-swapped-disagrees", AGREEMENT),
        ],
    ),
];

/// Faults of the trained model.
fn planted(bench: &Bench<'_>, faults: &[Planted], recorder: &mut Recorder) -> Result<(), Stop> {
    let reference = bench.model(&bench.fixture.weights, Precision::F32, None)?;
    for &(fault, precision, controls) in faults {
        recorder.progress(&format!("{fault:?}"));
        let broken = bench.model(&bench.fixture.weights, precision, Some(fault))?;
        let found = evaluate(&[&reference, &broken], &bench.fixture.text, 1)?;
        let documents = [Precision::F32, precision].into_iter().zip(found).collect();
        plant(bench, &Judged { name: "trained", documents }, precision, controls, recorder)?;
    }
    Ok(())
}

/// Writes down some figures of a precision as those of controls.
fn plant(
    bench: &Bench<'_>,
    judged: &Judged,
    precision: Precision,
    controls: &[Tripping],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let figures = bench.figures(judged, precision)?;
    for (control, trips) in controls {
        let tripped = figures.iter().filter(|metric| metric.name == *trips);
        tripped.for_each(|metric| recorder.control(control, metric.clone()));
    }
    Ok(())
}
