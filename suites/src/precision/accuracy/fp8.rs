//! The trained model in E4M3 by matrix and by row, and with channels that stand out.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::language::Precision;
use kernels::language::model::Fault;

use super::{
    AGREEMENT, BLOCK_ZEROED, Bench, DIVERGENCE, Judged, LESS_AGREEMENT, MORE_DIVERGENCE, MOVED,
    Planted, figures, outliers, planted, with_bench,
};
use crate::e4m3::has_e4m3;

/// Divergence of one scale a matrix over that of scales of rows.
pub const TENSOR_OVER_ROW: &str = "tensor_over_row_ratio";

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
    LESS_AGREEMENT,
    Control {
        name: "no-outliers",
        fault: "nothing stands out",
        trips: TENSOR_OVER_ROW,
        expect: Expect::Refuted,
    },
    outliers::A_WEIGHT_OFF,
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
    integrity: &[outliers::CHANGED],
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
            (LESS_AGREEMENT.name, AGREEMENT),
        ],
    ),
];

fn measured(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    with_bench(assignment, recorder, has_e4m3, |bench, recorder| {
        let trained = bench.judged(("trained", &bench.fixture.weights), &PRECISIONS, recorder)?;
        figures(bench, &trained, recorder)?;
        planted(bench, &FAULTS, recorder)?;
        stood_out(bench, &trained, recorder)
    })
}

/// The same model with channels that stand out.
fn stood_out(bench: &Bench<'_>, trained: &Judged, recorder: &mut Recorder) -> Result<(), Stop> {
    let moved = outliers::stand_out(bench, recorder);
    let judged = bench.judged(("outliers", &moved), &OUTLIER_PRECISIONS, recorder)?;
    outliers::kept_bits(bench, moved, [&judged, trained], recorder)?;
    figures(bench, &judged, recorder)?;
    let ratio = |judged: &Judged| -> Result<f64, Stop> {
        Ok(judged.divergence(Precision::E4m3Tensor)? / judged.divergence(Precision::E4m3Row)?)
    };
    recorder.metric(bench.exact(TENSOR_OVER_ROW, &[], ratio(&judged)?)?);
    recorder.control("no-outliers", bench.exact(TENSOR_OVER_ROW, &[], ratio(trained)?)?);
    Ok(())
}
