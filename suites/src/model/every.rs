//! Logits of every token of a long sequence, in parts and at once: the same bits, and what they take.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::group::Group;
use kernels::model::logits::TokenLogits;
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision, Problem};

use super::forward::{KERNELS, room};
use super::memory;
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, unwritten};

/// Logits whose bits are not those of all made at once.
pub const APART: &str = "logits_apart_count";
/// What was allocated for them in parts, over what was allocated for all at once.
pub const MEMORY: &str = "chunked_logits_ratio";

const PROBLEM: Problem = Problem { batches: 1, tokens: 32768, chunks: 4 };
/// What is compared are products of the head: they see of the layers only the stream behind the last.
const LAYERS: u32 = 2;
/// Tokens of a part.
const ROWS: u32 = 1024;
/// The same of parts that are no power of two and no divisor of a tile.
const OTHER_ROWS: u32 = 24;
/// First token that is in none of those.
const OTHER_END: u32 = 768;
const PRECISIONS: [(Precision, &str); 2] = [(Precision::F16, "fp16"), (Precision::E4m3, "fp8")];

const FLIPPED_BIT: Control = control(
    "flipped-bit",
    "the lowest bit of one weight of the head is flipped before the parts are made",
    APART,
    Expect::Refuted,
);
const LEFT_OUT: Control = control("left-out", "the last part is not made", APART, Expect::Refuted);
const ANOTHER_ROW: Control = control(
    "another-row",
    "each part but the last, which is neither made nor compared, is made of the rows one token later",
    APART,
    Expect::Refuted,
);
const BOTH: Control = control(
    "both-at-once",
    "logits of a quarter of the tokens are held beside those of a part",
    MEMORY,
    Expect::Refuted,
);
static CONTROLS: [Control; 5] = [FLIPPED_BIT, LEFT_OUT, ANOTHER_ROW, BOTH, NOT_RUN];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::every-logits",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "A pass over one sequence of 32768 tokens through two layers of seed 002's sizes on one GPU, in fp16 and \
                W8A8. Norm and head give the logits of all tokens at once; then, into memory that was overwritten \
                with something else, 1024 tokens at a time, and 24 at a time of the first 768; each part's bits are compared \
                with those of its rows. The pass's own logits, of its last token, are compared with the last row. \
                Memory is what is allocated for the parts over what is allocated for all at once.",
    samples: 0,
    expected_s: 6.0,
    deadline_s: 120.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        for (precision, name) in PRECISIONS {
            recorder.progress(name);
            let seed = assignment.seed;
            let config = Config { layers: LAYERS, seed, precision, ..Config::SEED_002 };
            let all = TokenLogits::bytes(precision, PROBLEM.tokens, config.d_model, config.vocab);
            room(gpu, memory::formula(&config, &PROBLEM) + all)?;
            let tokens = bench::tokens(&config, &PROBLEM, seed);
            let gpus = bench.first(1);
            let mut group = bench::group(&gpus, config, Split::Outputs, PROBLEM, &tokens)?;
            Setting { gpu, name, on: [index] }.compared(&mut group, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// What is made and compared.
pub(crate) struct Parts {
    pub(crate) end: u32,
    pub(crate) made: u32,
    pub(crate) shift: u32,
}

struct Setting<'a> {
    gpu: &'a Gpu,
    name: &'static str,
    on: [u32; 1],
}

impl Setting<'_> {
    fn metric(&self, name: &str, way: &str, value: f64) -> Metric {
        let at = [("precision", self.name), ("way", way)];
        Metric::exact(name, &at, &self.on, value)
    }

    fn compared(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        group.poison()?;
        let poisoned = unwritten(group)? as f64;
        recorder.control(NOT_RUN.name, self.metric(INTEGRITY, "pass", poisoned));
        group.pass()?;
        recorder.metric(self.metric(INTEGRITY, "pass", unwritten(group)? as f64));
        let (whole, at_once) = self.allocated(group, PROBLEM.tokens)?;
        group.forget_token_logits(&whole, false)?;
        group.make_token_logits(&whole, 0)?;
        let last = group.last_logits_apart(&whole, &whole)?;
        recorder.metric(self.metric(APART, "last-token", last as f64));
        let (part, in_parts) = self.allocated(group, ROWS)?;
        let ratio = |bytes: u64| bytes as f64 / at_once as f64;
        recorder.metric(self.metric(MEMORY, "1024", ratio(in_parts)));
        let quarter = self.gpu.alloc(at_once / 4)?;
        let held = in_parts + quarter.len_bytes();
        recorder.control(BOTH.name, self.metric(MEMORY, "1024", ratio(held)));
        drop(quarter);
        let end = PROBLEM.tokens;
        let all = |made, shift| Parts { end, made, shift };
        recorder.metric(self.metric(APART, "1024", apart(group, &part, &whole, all(end, 0))?));
        let left_out = apart(group, &part, &whole, all(end - ROWS, 0))?;
        recorder.control(LEFT_OUT.name, self.metric(APART, "1024", left_out));
        let shorter = Parts { end: end - ROWS, made: end - ROWS, shift: 1 };
        let shifted = apart(group, &part, &whole, shorter)?;
        recorder.control(ANOTHER_ROW.name, self.metric(APART, "1024", shifted));
        let flip = |group: &Group<'_>| group.flip(0, Place::Linear(Linear::Head, 0), 1_000_003);
        flip(group)?;
        let flipped = apart(group, &part, &whole, all(end, 0))?;
        flip(group)?;
        recorder.control(FLIPPED_BIT.name, self.metric(APART, "1024", flipped));
        drop(part);
        let (part, _) = self.allocated(group, OTHER_ROWS)?;
        let few = Parts { end: OTHER_END, made: OTHER_END, shift: 0 };
        recorder.metric(self.metric(APART, "24", apart(group, &part, &whole, few)?));
        Ok(())
    }

    /// Room for the logits of so many tokens, and its bytes.
    fn allocated(&self, group: &mut Group<'_>, rows: u32) -> Result<(TokenLogits, u64), Stop> {
        let before = self.gpu.ledger().live();
        let made = group.token_logits(rows)?;
        Ok((made, self.gpu.ledger().live().saturating_sub(before)))
    }
}

/// Logits apart of the rows before `end`. Parts from `made` on are not made, and each is made of the rows `shift` later.
pub(crate) fn apart(
    group: &mut Group<'_>,
    part: &TokenLogits,
    whole: &TokenLogits,
    Parts { end, made, shift }: Parts,
) -> Result<f64, Stop> {
    let mut count = 0;
    for first in (0..end).step_by(part.rows() as usize) {
        group.forget_token_logits(part, true)?;
        if first < made {
            group.make_token_logits(part, first + shift)?;
        }
        count += group.token_logits_apart(part, whole, first)?;
    }
    Ok(count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole() {
        assert!(PROBLEM.tokens.is_multiple_of(ROWS) && OTHER_END.is_multiple_of(OTHER_ROWS));
        const { assert!(OTHER_END < PROBLEM.tokens) };
    }
}
