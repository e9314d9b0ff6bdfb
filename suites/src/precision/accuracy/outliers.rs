//! The trained model in 16 bits and with weights alone in fewer, as it is and with channels that stand out.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::language::Precision;
use kernels::language::checkpoint::Weights;
use kernels::language::model::{Document, Fault, evaluate};

use super::{AGREEMENT, Bench, Judged, MOVED, Tripping, figures, plant, with_bench};

/// Documents whose loss in f32 is another one once channels stand out.
pub const CHANGED: &str = "changed_count";

/// Every so many columns of a norm one stands out, by so many powers of two; powers of two by which values do.
const OUTLIERS: (usize, i32, i32) = (64, 6, 12);

/// In which numbers the model is asked, as it is and with channels that stand out.
const AS_IT_IS: [Precision; 4] =
    [Precision::F32, Precision::F16, Precision::Bf16, Precision::Weights8];
const STOOD_OUT: [Precision; 5] =
    [Precision::F32, Precision::F16, Precision::Bf16, Precision::Weights8, Precision::Weights4];

/// Planted wherever channels stand out.
pub(super) const A_WEIGHT_OFF: Control = Control {
    name: "a-weight-off",
    fault: "one weight of the head is off by 2^-10 of itself in the model whose channels stand out",
    trips: CHANGED,
    expect: Expect::Corrupt,
};

const COARSER_MOVES: Control = Control {
    name: "coarser-moves",
    fault: "what bf16 gives is called fp16's, what NVFP4 weights give bf16's and W8A16's",
    trips: MOVED,
    expect: Expect::Refuted,
};
const COARSER_DISAGREES: Control = Control {
    name: "coarser-disagrees",
    fault: "what bf16 gives is called fp16's, what E4M3 weights give bf16's, what NVFP4 weights give W8A16's",
    trips: AGREEMENT,
    expect: Expect::Refuted,
};
const SWAPPED_MOVES: Control = Control {
    name: "nibbles-swapped-moves",
    fault: "of every byte of NVFP4 codes the second comes first",
    trips: MOVED,
    expect: Expect::Refuted,
};
const SWAPPED_DISAGREES: Control = Control {
    name: "nibbles-swapped-disagrees",
    fault: "of every byte of NVFP4 codes the second comes first",
    trips: AGREEMENT,
    expect: Expect::Refuted,
};

static CONTROLS: [Control; 5] =
    [COARSER_MOVES, COARSER_DISAGREES, SWAPPED_MOVES, SWAPPED_DISAGREES, A_WEIGHT_OFF];

/// Each GPU. Of tier full, as tier quick has a minute for the suite.
pub static CASE: Case = Case {
    id: "precision::accuracy-outliers",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The trained model and the documents of precision::accuracy in fp16, bf16 and with E4M3 weights (emulated) \
                beside f32; and in these and with NVFP4 weights (emulated) with every 64th column of each norm 2^6 up, all \
                values of attention 2^12 up, and the weights that read them as much down, which changes no bit in f32: the \
                mean change of cross-entropy with its interval by Student's t over documents, of which the farther end \
                counts, mean divergence, and how often the same byte comes first.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 300.0,
    kernels: &["language", "model", "quantise"],
    integrity: &[CHANGED],
    controls: &CONTROLS,
    run: measured,
};

fn measured(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    with_bench(
        assignment,
        recorder,
        |_| Ok(()),
        |bench, recorder| {
            let trained = bench.judged(("trained", &bench.fixture.weights), &AS_IT_IS, recorder)?;
            figures(bench, &trained, recorder)?;
            let moved = stand_out(bench, recorder);
            let judged = bench.judged(("outliers", &moved), &STOOD_OUT, recorder)?;
            figures(bench, &judged, recorder)?;
            swapped(bench, &moved, recorder)?;
            kept_bits(bench, moved, [&judged, &trained], recorder)?;
            coarser(bench, [&trained, &judged], recorder)
        },
    )
}

/// The trained model with channels that stand out.
pub(super) fn stand_out(bench: &Bench<'_>, recorder: &mut Recorder) -> Weights {
    let (every, power, values) = OUTLIERS;
    let text = format!("every {every}th column of a norm by 2^{power}, values by 2^{values}");
    recorder.option("outliers", text);
    bench.fixture.weights.clone().with_outliers(every, power, values)
}

/// Whether no bit in f32 is another: of the model whose channels stand out, and with a weight off.
pub(super) fn kept_bits(
    bench: &Bench<'_>,
    mut moved: Weights,
    [judged, trained]: [&Judged; 2],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let changed = |documents: &[Document], wanted: &[Document]| {
        let pairs = documents.iter().zip(wanted);
        pairs.filter(|(x, y)| x.loss.to_bits() != y.loss.to_bits()).count() as f64
    };
    let plain = trained.of(Precision::F32)?;
    recorder.metric(bench.exact(CHANGED, &[], changed(judged.of(Precision::F32)?, plain))?);
    // The row of the most frequent letter, so that every document asks for it.
    let weight = &mut moved.head[usize::from(b'e') * moved.sizes.d_model as usize];
    *weight *= 1.0 + 2f32.powi(-10);
    let model = bench.model(&moved, Precision::F32, None)?;
    let found = evaluate(&[&model], &bench.fixture.first, 1)?;
    recorder.control(A_WEIGHT_OFF.name, bench.exact(CHANGED, &[], changed(&found[0], plain))?);
    Ok(())
}

/// Codes of the model whose channels stand out with their nibbles swapped.
fn swapped(bench: &Bench<'_>, moved: &Weights, recorder: &mut Recorder) -> Result<(), Stop> {
    const PRECISION: Precision = Precision::Weights4;
    recorder.progress("nibbles swapped");
    let reference = bench.model(moved, Precision::F32, None)?;
    let broken = bench.model(moved, PRECISION, Some(Fault::NibblesSwapped))?;
    let found = evaluate(&[&reference, &broken], &bench.fixture.text, 1)?;
    let documents = [Precision::F32, PRECISION].into_iter().zip(found).collect();
    let controls = [(SWAPPED_MOVES.name, MOVED), (SWAPPED_DISAGREES.name, AGREEMENT)];
    plant(bench, &Judged { name: "outliers", documents }, PRECISION, &controls, recorder)
}

/// A precision, a coarser one that is called by its name, and what that trips.
type Called = (Precision, Precision, Tripping);

const CALLED: [Called; 6] = [
    (Precision::F16, Precision::Bf16, (COARSER_MOVES.name, MOVED)),
    (Precision::Bf16, Precision::Weights4, (COARSER_MOVES.name, MOVED)),
    (Precision::Weights8, Precision::Weights4, (COARSER_MOVES.name, MOVED)),
    (Precision::F16, Precision::Bf16, (COARSER_DISAGREES.name, AGREEMENT)),
    (Precision::Bf16, Precision::Weights8, (COARSER_DISAGREES.name, AGREEMENT)),
    (Precision::Weights8, Precision::Weights4, (COARSER_DISAGREES.name, AGREEMENT)),
];

/// What a coarser precision gives under the name of a finer one, wherever both were asked.
fn coarser(bench: &Bench<'_>, models: [&Judged; 2], recorder: &mut Recorder) -> Result<(), Stop> {
    for judged in models {
        for (precision, ran, tripping) in CALLED {
            let Ok(ran) = judged.of(ran) else { continue };
            let reference = judged.of(Precision::F32)?.to_vec();
            let documents = vec![(Precision::F32, reference), (precision, ran.to_vec())];
            let called = Judged { name: judged.name, documents };
            plant(bench, &called, precision, &[tripping], recorder)?;
        }
    }
    Ok(())
}
