//! The trained model in E4M3 with scales of blocks.

use harness::case::{Case, Control, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::language::Precision;
use kernels::language::model::Fault;

use super::super::products::has_blocks;
use super::{
    AGREEMENT, BLOCK_ZEROED, DIVERGENCE, LESS_AGREEMENT, MORE_DIVERGENCE, MOVED, Planted, figures,
    outliers, planted, with_bench,
};

static CONTROLS: [Control; 3] = [BLOCK_ZEROED, MORE_DIVERGENCE, LESS_AGREEMENT];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::accuracy-block",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The trained model and the documents of precision::accuracy in E4M3 with scales of 1x128 blocks of \
                activations and 128x128 blocks of weights, the head too, beside f32: the mean change of cross-entropy with \
                its interval by Student's t over documents, of which the farther end counts, mean divergence, and \
                how often the same byte comes first; and again with the channels that stand out of \
                precision::accuracy-outliers. Not applicable but on compute capability 9.0, where alone cuBLASLt has such \
                scales.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 300.0,
    kernels: &["language", "model", "quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: measured,
};

const FAULTS: [Planted; 2] = [
    (Fault::BlockZeroed, Precision::E4m3Block, &[(BLOCK_ZEROED.name, MOVED)]),
    (
        Fault::Truncated,
        Precision::E4m3Block,
        &[(MORE_DIVERGENCE.name, DIVERGENCE), (LESS_AGREEMENT.name, AGREEMENT)],
    ),
];

fn measured(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    with_bench(assignment, recorder, has_blocks, |bench, recorder| {
        let precisions = [Precision::F32, Precision::E4m3Block];
        let trained = bench.judged(("trained", &bench.fixture.weights), &precisions, recorder)?;
        figures(bench, &trained, recorder)?;
        planted(bench, &FAULTS, recorder)?;
        let moved = outliers::stand_out(bench, recorder);
        figures(bench, &bench.judged(("outliers", &moved), &precisions, recorder)?, recorder)
    })
}
