//! What weights that learnt nothing say of a precision: nothing.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Recorder, Stop};
use kernels::language::Precision;
use kernels::language::checkpoint::Weights;

use super::accuracy::{self, Bench};
use crate::e4m3::has_e4m3;

/// Mean change of cross-entropy of random models by a precision over that of the trained one, either way.
pub const RANDOM_OVER_TRAINED: &str = "random_over_trained_ratio";
/// Each random model's change over the trained one's, with its sign.
const EACH: &str = "signed_ratio";

/// Random models. One alone is moved by 0.04 to 0.47 of what NVFP4's weights move the trained one, up or down by its seed.
const MODELS: u64 = 16;

static CONTROLS: [Control; 3] = [
    Control {
        name: "one-logit-raised",
        fault: "of equal logits the first is 0.001 larger",
        trips: accuracy::WRONG,
        expect: Expect::Corrupt,
    },
    Control {
        name: "trained-for-random",
        fault: "the random models are the trained one",
        trips: RANDOM_OVER_TRAINED,
        expect: Expect::Refuted,
    },
    Control {
        name: "six-are-trained",
        fault: "six of the sixteen are the trained model: seeds that are not heeded",
        trips: RANDOM_OVER_TRAINED,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::random-models",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The transformer of fixtures/accuracy and sixteen of its shape with normal weights of deviation 0.02, each \
                of another seed, in f32 and with NVFP4 weights (fp16 products of exactly dequantised weights) on the 47 \
                held-out documents: of each model the mean change of cross-entropy with its sign, in percent; then the \
                mean over the sixteen, its sign dropped, over the trained model's. First the evaluator is held against \
                equal logits and counted pairs of bytes.",
    samples: 0,
    expected_s: 8.0,
    deadline_s: 300.0,
    kernels: &["language", "model", "quantise"],
    integrity: &[accuracy::WRONG],
    controls: &CONTROLS,
    run: |assignment, recorder| {
        accuracy::with_bench(
            assignment,
            recorder,
            |_| Ok(()),
            |bench, recorder| measured(bench, Precision::Weights4, assignment.seed, recorder),
        )
    },
};

/// Each GPU.
pub static E4M3_CASE: Case = Case {
    id: "precision::random-models-fp8",
    procedure: "As precision::random-models, with weights and activations in E4M3, a scale for each output and each token, by \
                cuBLASLt in place of NVFP4 weights. Not applicable before compute capability 8.9, whose tensor cores are the \
                first to multiply E4M3, and on boards other than 9.0 where cuBLASLt has no algorithm for such scales.",
    run: |assignment, recorder| {
        accuracy::with_bench(assignment, recorder, has_e4m3, |bench, recorder| {
            measured(bench, Precision::E4m3Row, assignment.seed, recorder)
        })
    },
    ..CASE
};

/// The mean over models, its sign dropped.
fn told(signed: &[f64]) -> f64 {
    (signed.iter().sum::<f64>() / signed.len() as f64).abs()
}

fn measured(
    bench: &Bench<'_>,
    precision: Precision,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    accuracy::known(bench, recorder)?;
    let mut change = |name, weights: &Weights| -> Result<f64, Stop> {
        let precisions = [Precision::F32, precision];
        let changes = bench.judged((name, weights), &precisions, recorder)?;
        let changes = changes.changes(precision)?;
        Ok(changes.iter().sum::<f64>() / changes.len() as f64)
    };
    let trained = &bench.fixture.weights;
    let of_trained = change("trained", trained)?;
    let mut signed = Vec::new();
    for model in 0..MODELS {
        // Tensors of a model are told apart by bits 32 and up of the seed.
        let weights = Weights::random(trained.sizes, seed.wrapping_add(model * 0x9E37_79B9));
        signed.push(change("random", &weights)? / of_trained);
    }
    let again = change("random", trained)? / of_trained;
    recorder.metric(Metric::exact_each(EACH, &[], &[bench.index], accuracy::five_places(&signed)));
    let ratio = |signed: &[f64]| bench.exact(RANDOM_OVER_TRAINED, &[], told(signed));
    recorder.metric(ratio(&signed)?);
    recorder.control("trained-for-random", ratio(&[again; MODELS as usize])?);
    let mut six = signed;
    six[..6].fill(again);
    recorder.control("six-are-trained", ratio(&six)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ups_and_downs_tell_nothing() {
        assert_eq!(told(&[0.25, -0.25, 0.5, -0.5]), 0.0);
        assert_eq!(told(&[-1.0, -1.0]), 1.0);
        // What six trained models among ten that tell nothing would give, over its bound of a quarter.
        let mut six = [0.0; MODELS as usize];
        six[..6].fill(1.0);
        assert_eq!(told(&six), 0.375);
    }
}
