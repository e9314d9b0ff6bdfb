//! The trained model in E4M3 with scales of blocks.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::language::Precision;
use kernels::language::model::Fault;
use kernels::libraries::Library;

use super::super::products::has_blocks;
use super::{DIVERGENCE, MOVED, Planted, figures, planted, with_bench};
use crate::lab;

static CONTROLS: [Control; 2] = [
    Control {
        name: "block-zeroed",
        fault: "128 x 128 weights of the last layer are zero, one in 200 of all",
        trips: MOVED,
        expect: Expect::Refuted,
    },
    Control {
        name: "more-divergence",
        fault: "weights and activations are rounded toward zero",
        trips: DIVERGENCE,
        expect: Expect::Refuted,
    },
];

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
                its interval by Student's t over documents, of which the farther end counts, and mean divergence. Not \
                applicable but on compute capability 9.0, where alone cuBLASLt has such scales.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 300.0,
    kernels: &["language", "model", "quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: measured,
};

const FAULTS: [Planted; 2] = [
    (Fault::BlockZeroed, Precision::E4m3Block, &[("block-zeroed", MOVED)]),
    (Fault::Truncated, Precision::E4m3Block, &[("more-divergence", DIVERGENCE)]),
];

fn measured(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let applicable = |gpu: &Gpu| {
        lab::require(Library::CublasLt)?;
        has_blocks(gpu)
    };
    with_bench(assignment, recorder, applicable, |bench, recorder| {
        let precisions = [Precision::F32, Precision::E4m3Block];
        let trained = bench.judged(("trained", &bench.fixture.weights), &precisions, recorder)?;
        figures(bench, &trained, recorder)?;
        planted(bench, &FAULTS, recorder)
    })
}
