//! The claims about what each precision costs a model that was trained.

use harness::case::Case;
use harness::claim::{Claim, Relation, Source};

use super::{At, OWN, claim};
use crate::precision::{accuracy, random};

const PERPLEXITY_TOOL: Source = Source {
    document: "001-known-gaps.md",
    section: "12. Accuracy/Quality Testing",
    printed: "cross-entropy/perplexity on tokenized corpora",
    board: "B200",
};
const ACCURACY: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Completed",
    printed: "Comprehensive test suite with FP16/BF16/FP8 comparisons",
    board: "B200",
};

const fn judged(
    id: &'static str,
    text: &'static str,
    source: Source,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, source, relation, (accuracy::CASE.id, metric, at))
}

const fn judged_in_fp8(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, ACCURACY, relation, (accuracy::fp8::CASE.id, metric, at))
}

const fn judged_by_blocks(id: &'static str, text: &'static str, metric: &'static str) -> Claim {
    const AT: At = &[("model", "trained"), ("precision", "fp8-block")];
    claim(id, text, ACCURACY, Relation::AtMost, (accuracy::blocks::CASE.id, metric, AT))
}

/// A claim of a case of E4M3, of blocks or of what stands out.
const fn judged_in(
    id: &'static str,
    text: &'static str,
    (case, relation): (&'static Case, Relation),
    (metric, at): (&'static str, At),
) -> Claim {
    claim(id, text, ACCURACY, relation, (case.id, metric, at))
}

pub(super) static UNIFORM: Claim = judged(
    "precision::perplexity-of-equal-logits",
    "Under equal logits every held-out document has a perplexity of 256, the size of the vocabulary.",
    PERPLEXITY_TOOL,
    Relation::Holds,
    (accuracy::WRONG, &[("logits", "uniform")]),
);
pub(super) static COUNTED: Claim = judged(
    "precision::perplexity-of-counted-pairs",
    "Under a table of counted pairs of bytes every held-out document has the perplexity that counting gives.",
    PERPLEXITY_TOOL,
    Relation::Holds,
    (accuracy::WRONG, &[("logits", "bigram")]),
);
pub(super) static LOGITS_F64: Claim = judged(
    "precision::fp32-logits-as-f64",
    "The logits of the f32 path are those of f64 on the CPU for the first 32 bytes of a document.",
    PERPLEXITY_TOOL,
    Relation::AtMost,
    (accuracy::LOGITS, &[]),
);
pub(super) static LOSS_PYTORCH: Claim = judged(
    "precision::fp32-perplexity-as-pytorch",
    "Every held-out document has the cross-entropy in f32 that PyTorch found in fp64.",
    PERPLEXITY_TOOL,
    Relation::AtMost,
    (accuracy::APART, &[]),
);
pub(super) static LEARNT: Claim = judged(
    "precision::perplexity-under-counted-pairs",
    "The trained model foretells held-out text far better than counted pairs of bytes do.",
    PERPLEXITY_TOOL,
    Relation::AtMost,
    (accuracy::PERPLEXITY, &[]),
);
pub(super) static MOVED_FP16: Claim = judged(
    "precision::fp16-cross-entropy",
    "Under fp16 weights and activations the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "fp16")]),
);
pub(super) static MOVED_BF16: Claim = judged(
    "precision::bf16-cross-entropy",
    "Under bfloat16 weights and activations the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "bf16")]),
);
pub(super) static MOVED_TENSOR: Claim = judged_in_fp8(
    "precision::fp8-tensor-cross-entropy",
    "Under E4M3 weights and activations with one scale a matrix the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "fp8-tensor")]),
);
pub(super) static MOVED_ROW: Claim = judged_in_fp8(
    "precision::fp8-row-cross-entropy",
    "Under E4M3 weights and activations with a scale for each output and each token the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "fp8-row")]),
);
pub(super) static MOVED_BLOCK: Claim = judged_by_blocks(
    "precision::fp8-block-cross-entropy",
    "Under E4M3 weights and activations with scales of blocks the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    accuracy::MOVED,
);
pub(super) static MOVED_W8: Claim = judged(
    "precision::w8a16-cross-entropy",
    "Under E4M3 weights with a scale for each output and fp16 activations, emulated, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "w8a16")]),
);
pub(super) static MOVED_W4: Claim = judged(
    "precision::nvfp4-weights-cross-entropy",
    "Under NVFP4 weights and fp16 activations, emulated, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "trained"), ("precision", "nvfp4-weights")]),
);
pub(super) static DIVERGED_FP16: Claim = judged(
    "precision::fp16-divergence",
    "Under fp16 weights and activations the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "fp16")]),
);
pub(super) static DIVERGED_BF16: Claim = judged(
    "precision::bf16-divergence",
    "Under bfloat16 weights and activations the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "bf16")]),
);
pub(super) static DIVERGED_TENSOR: Claim = judged_in_fp8(
    "precision::fp8-tensor-divergence",
    "Under E4M3 weights and activations with one scale a matrix the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "fp8-tensor")]),
);
pub(super) static DIVERGED_ROW: Claim = judged_in_fp8(
    "precision::fp8-row-divergence",
    "Under E4M3 weights and activations with a scale for each output and each token the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "fp8-row")]),
);
pub(super) static DIVERGED_BLOCK: Claim = judged_by_blocks(
    "precision::fp8-block-divergence",
    "Under E4M3 weights and activations with scales of blocks the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    accuracy::DIVERGENCE,
);
pub(super) static DIVERGED_W8: Claim = judged(
    "precision::w8a16-divergence",
    "Under E4M3 weights with a scale for each output and fp16 activations, emulated, the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "w8a16")]),
);
pub(super) static DIVERGED_W4: Claim = judged(
    "precision::nvfp4-weights-divergence",
    "Under NVFP4 weights and fp16 activations, emulated, the distribution of the next byte diverges from that of f32 by no more than the documented mean.",
    ACCURACY,
    Relation::AtMost,
    (accuracy::DIVERGENCE, &[("model", "trained"), ("precision", "nvfp4-weights")]),
);
pub(super) static AGREED_ROW: Claim = judged_in_fp8(
    "precision::fp8-row-agreement",
    "Under E4M3 weights and activations with a scale for each output and each token the byte that f32 puts first comes first for the documented share of bytes.",
    Relation::AtLeast,
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "fp8-row")]),
);
pub(super) static AGREED_W8: Claim = judged(
    "precision::w8a16-agreement",
    "Under E4M3 weights with a scale for each output and fp16 activations, emulated, the byte that f32 puts first comes first for the documented share of bytes.",
    ACCURACY,
    Relation::AtLeast,
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "w8a16")]),
);
pub(super) static AGREED_W4: Claim = judged(
    "precision::nvfp4-weights-agreement",
    "Under NVFP4 weights and fp16 activations, emulated, the byte that f32 puts first comes first for the documented share of bytes.",
    ACCURACY,
    Relation::AtLeast,
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "nvfp4-weights")]),
);
pub(super) static OUTLIERS_ROW: Claim = judged_in_fp8(
    "precision::outliers-fp8-row-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, E4M3 with a scale for each output and each token leaves the mean cross-entropy of held-out documents within the documented share of that of f32, either way.",
    Relation::AtMost,
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "fp8-row")]),
);
pub(super) static OUTLIERS_NEED_ROWS: Claim = judged_in_fp8(
    "precision::outliers-need-scales-of-rows",
    "With channels that stand out by 2^6 and values by 2^12, E4M3 with one scale a matrix diverges farther from f32 than with scales of outputs and tokens.",
    Relation::AtLeast,
    (accuracy::fp8::TENSOR_OVER_ROW, &[]),
);
pub(super) static AGREED_FP16: Claim = judged_in(
    "precision::fp16-agreement",
    "Under fp16 weights and activations the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::outliers::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "fp16")]),
);
pub(super) static AGREED_BF16: Claim = judged_in(
    "precision::bf16-agreement",
    "Under bfloat16 weights and activations the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::outliers::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "bf16")]),
);
pub(super) static AGREED_TENSOR: Claim = judged_in(
    "precision::fp8-tensor-agreement",
    "Under E4M3 weights and activations with one scale a matrix the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::fp8::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "fp8-tensor")]),
);
pub(super) static AGREED_BLOCK: Claim = judged_in(
    "precision::fp8-block-agreement",
    "Under E4M3 weights and activations with scales of blocks the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::blocks::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "trained"), ("precision", "fp8-block")]),
);
pub(super) static OUTLIERS_FP16: Claim = judged_in(
    "precision::outliers-fp16-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, under fp16 weights and activations, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    (&accuracy::outliers::CASE, Relation::AtMost),
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "fp16")]),
);
pub(super) static OUTLIERS_BF16: Claim = judged_in(
    "precision::outliers-bf16-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, under bfloat16 weights and activations, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    (&accuracy::outliers::CASE, Relation::AtMost),
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "bf16")]),
);
pub(super) static OUTLIERS_TENSOR: Claim = judged_in(
    "precision::outliers-fp8-tensor-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights and activations with one scale a matrix, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    (&accuracy::fp8::CASE, Relation::AtMost),
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "fp8-tensor")]),
);
pub(super) static OUTLIERS_BLOCK: Claim = judged_in(
    "precision::outliers-fp8-block-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights and activations with scales of blocks, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    (&accuracy::blocks::CASE, Relation::AtMost),
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "fp8-block")]),
);
pub(super) static OUTLIERS_W8: Claim = judged_in(
    "precision::outliers-w8a16-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights with a scale for each output and fp16 activations, emulated, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    (&accuracy::outliers::CASE, Relation::AtMost),
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "w8a16")]),
);
pub(super) static OUTLIERS_W4: Claim = judged_in(
    "precision::outliers-nvfp4-weights-cross-entropy",
    "With channels that stand out by 2^6 and values by 2^12, under NVFP4 weights and fp16 activations, emulated, the mean cross-entropy of held-out documents is that of f32 within the documented share, either way.",
    (&accuracy::outliers::CASE, Relation::AtMost),
    (accuracy::MOVED, &[("model", "outliers"), ("precision", "nvfp4-weights")]),
);
pub(super) static OUTLIERS_AGREED_FP16: Claim = judged_in(
    "precision::outliers-fp16-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under fp16 weights and activations, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::outliers::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "fp16")]),
);
pub(super) static OUTLIERS_AGREED_BF16: Claim = judged_in(
    "precision::outliers-bf16-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under bfloat16 weights and activations, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::outliers::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "bf16")]),
);
pub(super) static OUTLIERS_AGREED_TENSOR: Claim = judged_in(
    "precision::outliers-fp8-tensor-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights and activations with one scale a matrix, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::fp8::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "fp8-tensor")]),
);
pub(super) static OUTLIERS_AGREED_ROW: Claim = judged_in(
    "precision::outliers-fp8-row-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights and activations with a scale for each output and each token, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::fp8::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "fp8-row")]),
);
pub(super) static OUTLIERS_AGREED_BLOCK: Claim = judged_in(
    "precision::outliers-fp8-block-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights and activations with scales of blocks, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::blocks::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "fp8-block")]),
);
pub(super) static OUTLIERS_AGREED_W8: Claim = judged_in(
    "precision::outliers-w8a16-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under E4M3 weights with a scale for each output and fp16 activations, emulated, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::outliers::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "w8a16")]),
);
pub(super) static OUTLIERS_AGREED_W4: Claim = judged_in(
    "precision::outliers-nvfp4-weights-agreement",
    "With channels that stand out by 2^6 and values by 2^12, under NVFP4 weights and fp16 activations, emulated, the byte that f32 puts first comes first for the documented share of bytes.",
    (&accuracy::outliers::CASE, Relation::AtLeast),
    (accuracy::AGREEMENT, &[("model", "outliers"), ("precision", "nvfp4-weights")]),
);
pub(super) static RANDOM: Claim = claim(
    "precision::random-weights-tell-nothing",
    "The changes that NVFP4's weights make to the cross-entropy of sixteen models of random weights nearly cancel: their mean is at most a quarter of what they change a trained one's, so that random weights have no power to tell.",
    OWN,
    Relation::AtMost,
    (random::CASE.id, random::RANDOM_OVER_TRAINED, &[]),
);
pub(super) static RANDOM_E4M3: Claim = claim(
    "precision::random-weights-tell-nothing-of-fp8",
    "The changes that E4M3 with a scale for each output and each token makes to the cross-entropy of sixteen models of random weights nearly cancel: their mean is at most a quarter of what it changes a trained one's.",
    OWN,
    Relation::AtMost,
    (random::E4M3_CASE.id, random::RANDOM_OVER_TRAINED, &[]),
);
