//! Products with scales by 1x128 and 128x128 blocks.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};

use super::super::scaled::{self, ALIKE, BLOCK};
use super::{
    APART, ARITHMETIC, TEN_BITS, TOWARD_ZERO, WRONG, has_blocks, integers, quantised, source,
    with_bench,
};

static CONTROLS: [Control; 5] = [
    Control {
        name: "integer-scales-swapped",
        fault: "two blocks of A have each other's scale, in a product of integers",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    TEN_BITS,
    Control {
        name: "small-row-misscaled",
        fault: "the scales of the smallest row are a 128th too large",
        trips: ARITHMETIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "scales-swapped",
        fault: "two rows' blocks of A have each other's scale",
        trips: ARITHMETIC,
        expect: Expect::Refuted,
    },
    TOWARD_ZERO,
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::products-block",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048, E4M3 by cuBLASLt's first algorithm, with scales by 1x128 blocks of A \
                and 128x128 blocks of B, bfloat16 out, precise accumulation. Of integers up to 15 with powers of two as \
                scales, whose groups of 128 need all 13 bits of the accumulator and whose sums are exact in f32, so that \
                the result is the exact one rounded once. Then of nearly normal numbers that this project's quantisers \
                quantised, with outliers, A's rows up to 2^18 apart: the error beside f64 on the codes and scales, and \
                beside f64 on the fp16 numbers, of the worst row or column. Not applicable but on compute capability 9.0.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let seed = assignment.seed;
    with_bench(assignment, recorder, has_blocks, |bench, recorder| {
        recorder.progress(BLOCK.name);
        integers(bench, BLOCK, seed, recorder)?;
        recorder.progress("quantised");
        // Rows of a square share a scale, so those of B are alike.
        let apart = source(bench, seed, APART)?;
        let alike = source(bench, scaled::alike_seeds(seed)[1], ALIKE)?;
        quantised(bench, &[BLOCK], [&apart, &alike], recorder)
    })
}
