//! A small model against f64: what the large one computes is the right thing.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem, reference};

use super::bench::{self, Bench, KERNELS};

/// Root mean square of the logits' errors over that of the logits.
pub const METRIC: &str = "logits_error_ratio";
/// Logits that are not finite.
const INTEGRITY: &str = "nonfinite_count";

/// Eight heads, so that eight GPUs can share it; a sequence that is no multiple of any tile.
pub const CONFIG: Config =
    Config { layers: 3, d_model: 1024, d_ff: 4096, vocab: 1024, ..Config::SEED_002 };
pub const PROBLEM: Problem = Problem { batches: 2, tokens: 52, chunks: 1 };
/// One sequence whose second half of queries sees the first half's keys.
const CHUNKED: Problem = Problem { batches: 1, tokens: 104, chunks: 2 };

static CONTROLS: [Control; 3] = [
    Control {
        name: "another-token",
        fault: "one of 52 tokens of each sequence is another one on the GPUs",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "swapped-columns",
        fault: "two ranks' columns inside one MLP arrive in each other's place",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "not-run",
        fault: "the outputs are poisoned and no pass is run",
        trips: INTEGRITY,
        expect: Expect::Corrupt,
    },
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::oracle",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "A model of 3 layers, 1024 wide, with random weights, over every degree: logits of the last \
                token of two sequences of 52 tokens, and of one of 104 in two chunks, against the whole model in f64 on the CPU, rounded to \
                halves wherever the GPU stores halves.",
    samples: 0,
    expected_s: 8.0,
    deadline_s: 240.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: oracle,
};

fn oracle(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let config = Config { seed: assignment.seed, ..CONFIG };
    let tokens = bench::tokens(&config, &PROBLEM, assignment.seed);
    recorder.progress("f64");
    let wanted = reference::logits(&config, &PROBLEM, &tokens);
    let wanted_of_one = reference::logits(&config, &CHUNKED, &tokens);
    for degree in std::iter::once(1).chain(bench.degrees()) {
        recorder.progress(&format!("degree {degree}"));
        let on = bench.indices(degree);
        let gpus = bench.first(degree);
        let mut group = bench::group(&gpus, config, Split::Outputs, PROBLEM, &tokens)?;
        let found = pass(&mut group)?;
        let name = degree.to_string();
        let at = [("degree", name.as_str())];
        let metric = |name: &str, value: f64| Metric::exact(name, &at, on, value);
        recorder.metric(metric(METRIC, bench::apart(&found, &wanted)));
        group.set(CHUNKED, bench::CANDIDATES)?;
        group.set_tokens(&tokens)?;
        let in_chunks = pass(&mut group)?;
        let at = [("degree", name.as_str()), ("chunks", "2")];
        let off = bench::apart(&in_chunks, &wanted_of_one);
        recorder.metric(Metric::exact(METRIC, &at, on, off));
        group.set(PROBLEM, bench::CANDIDATES)?;
        group.set_tokens(&tokens)?;
        recorder.metric(metric(INTEGRITY, bench::nonfinite(&found)));
        if degree != bench.degrees().last().copied().unwrap_or(1) {
            continue;
        }
        group.poison()?;
        let unwritten = bench::logits(&group, CONFIG.vocab)?;
        recorder.control("not-run", metric(INTEGRITY, bench::nonfinite(&unwritten)));
        group.plant(Some(Fault::Swapped { layer: 1 }));
        recorder
            .control("swapped-columns", metric(METRIC, bench::apart(&pass(&mut group)?, &wanted)));
        group.plant(None);
        group.set_tokens(&others(&tokens, config.vocab))?;
        recorder
            .control("another-token", metric(METRIC, bench::apart(&pass(&mut group)?, &wanted)));
    }
    bench.lab.close(recorder);
    Ok(())
}

/// The tokens with one of each sequence changed, in its middle.
pub fn others(tokens: &[u32], vocab: u32) -> Vec<u32> {
    let mut tokens = tokens.to_vec();
    for sequence in tokens.chunks_mut(PROBLEM.tokens as usize) {
        let middle = &mut sequence[PROBLEM.tokens as usize / 2];
        *middle = (*middle + 1) % vocab;
    }
    tokens
}

/// A poisoned pass's logits.
pub fn pass(group: &mut Group<'_>) -> Result<Vec<Vec<f64>>, Stop> {
    group.poison()?;
    group.forward(Watch::Nothing)?;
    bench::logits(group, CONFIG.vocab)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_of_each_sequence_changes() {
        let tokens = vec![7u32; (PROBLEM.batches * PROBLEM.tokens) as usize];
        let changed = others(&tokens, 1024);
        assert_eq!(changed.iter().filter(|&&token| token != 7).count(), 2);
    }
}
