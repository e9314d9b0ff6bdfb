//! The trained model in E4M3 by matrix and by row, and with channels that stand out.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::language::Precision;
use kernels::language::model::{Document, Fault, evaluate};

use super::super::products::has_e4m3;
use super::{
    AGREEMENT, BLOCK_ZEROED, Bench, DIVERGENCE, Judged, MORE_DIVERGENCE, MOVED, Planted, figures,
    planted, with_bench,
};

/// Divergence of one scale a matrix over that of scales of rows.
pub const TENSOR_OVER_ROW: &str = "tensor_over_row_ratio";
/// Documents whose loss in f32 is another one once channels stand out.
pub const CHANGED: &str = "changed_count";

/// Every so many columns of a norm one stands out, by so many powers of two; powers of two by which values do.
const OUTLIERS: (usize, i32, i32) = (64, 6, 12);

/// In which numbers that stand out are asked.
const OUTLIER_PRECISIONS: [Precision; 5] = [
    Precision::F32,
    Precision::F16,
    Precision::E4m3Tensor,
    Precision::E4m3Row,
    Precision::Weights4,
];

/// In which numbers the model is asked as it is.
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::E4m3Tensor, Precision::E4m3Row];

static CONTROLS: [Control; 7] = [
    Control {
        name: "scales-reversed",
        fault: "the scales of the first layer's queries, keys and values are in reverse order",
        trips: MOVED,
        expect: Expect::Refuted,
    },
    BLOCK_ZEROED,
    Control {
        name: "rounded-toward-zero",
        fault: "weights and activations are rounded toward zero",
        trips: MOVED,
        expect: Expect::Refuted,
    },
    MORE_DIVERGENCE,
    Control {
        name: "less-agreement",
        fault: "weights and activations are rounded toward zero",
        trips: AGREEMENT,
        expect: Expect::Refuted,
    },
    Control {
        name: "no-outliers",
        fault: "nothing stands out",
        trips: TENSOR_OVER_ROW,
        expect: Expect::Refuted,
    },
    Control {
        name: "a-weight-off",
        fault: "one weight of the head is off by 2^-10 of itself in the model whose channels stand out",
        trips: CHANGED,
        expect: Expect::Corrupt,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::accuracy-fp8",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The trained model and the documents of precision::accuracy in E4M3 by matrix and row (weights and \
                activations, the head too; one scale a matrix is that of a document) beside f32: the mean change of \
                cross-entropy with its interval by Student's t over documents, of which the farther end counts, mean \
                divergence, and how often the same byte comes first. fp16, E4M3 by matrix and row and NVFP4 weights \
                again with every 64th column of each norm 2^6 up, all values of attention 2^12 up, and the weights \
                that read them as much down, which changes no bit in f32. Not applicable before compute capability 8.9, \
                whose tensor cores are the first to multiply E4M3, and on boards other than 9.0 where cuBLASLt has no \
                algorithm for such scales.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 300.0,
    kernels: &["language", "model", "quantise"],
    integrity: &[CHANGED],
    controls: &CONTROLS,
    run: measured,
};

const FAULTS: [Planted; 3] = [
    (Fault::ScalesReversed, Precision::E4m3Row, &[("scales-reversed", MOVED)]),
    (Fault::BlockZeroed, Precision::E4m3Row, &[(BLOCK_ZEROED.name, MOVED)]),
    (
        Fault::Truncated,
        Precision::E4m3Row,
        &[
            ("rounded-toward-zero", MOVED),
            (MORE_DIVERGENCE.name, DIVERGENCE),
            ("less-agreement", AGREEMENT),
        ],
    ),
];

fn measured(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    with_bench(assignment, recorder, has_e4m3, |bench, recorder| {
        let trained = bench.judged(("trained", &bench.fixture.weights), &PRECISIONS, recorder)?;
        figures(bench, &trained, recorder)?;
        planted(bench, &FAULTS, recorder)?;
        outliers(bench, &trained, recorder)
    })
}

/// The same model with channels that stand out.
fn outliers(bench: &Bench<'_>, trained: &Judged, recorder: &mut Recorder) -> Result<(), Stop> {
    let (every, power, values) = OUTLIERS;
    let moved = bench.fixture.weights.clone().with_outliers(every, power, values);
    let text = format!("every {every}th column of a norm by 2^{power}, values by 2^{values}");
    recorder.option("outliers", text);
    let judged = bench.judged(("outliers", &moved), &OUTLIER_PRECISIONS, recorder)?;
    let changed = |documents: &[Document], wanted: &[Document]| {
        let pairs = documents.iter().zip(wanted);
        pairs.filter(|(x, y)| x.loss.to_bits() != y.loss.to_bits()).count() as f64
    };
    let plain = trained.of(Precision::F32)?;
    recorder.metric(bench.exact(CHANGED, &[], changed(judged.of(Precision::F32)?, plain))?);
    figures(bench, &judged, recorder)?;
    let ratio = |judged: &Judged| -> Result<f64, Stop> {
        Ok(judged.divergence(Precision::E4m3Tensor)? / judged.divergence(Precision::E4m3Row)?)
    };
    recorder.metric(bench.exact(TENSOR_OVER_ROW, &[], ratio(&judged)?)?);
    recorder.control("no-outliers", bench.exact(TENSOR_OVER_ROW, &[], ratio(trained)?)?);
    let mut off = moved;
    // The row of the most frequent letter, so that every document asks for it.
    let weight = &mut off.head[usize::from(b'e') * off.sizes.d_model as usize];
    *weight *= 1.0 + 2f32.powi(-10);
    let model = bench.model(&off, Precision::F32, None)?;
    let found = evaluate(&[&model], &bench.fixture.first, 1)?;
    recorder.control("a-weight-off", bench.exact(CHANGED, &[], changed(&found[0], plain))?);
    Ok(())
}
