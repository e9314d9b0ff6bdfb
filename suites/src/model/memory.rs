//! What a model takes of a GPU's memory: counted byte by byte, as the driver and NVML see it, and by the formula.

use std::sync::Arc;

use harness::case::{Control, Expect, control};
use harness::evidence::Metric;
use harness::record::{At, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::{Config, Problem};
use kernels::nvml::Session;

use crate::node;
use crate::tensor_parallel::rates::MEMORY;

/// |allocated / formula - 1|.
pub const FORMULA: &str = "formula_error_ratio";
/// |what the driver has less of / formula - 1|.
pub const DRIVER: &str = "driver_error_ratio";
/// |what a pass took beside the weights / its formula - 1|.
pub const ACTIVATIONS: &str = "activations_error_ratio";
/// |what NVML says is used more / formula - 1|.
pub const NVML: &str = "nvml_error_ratio";

/// A layer's weights beside the model, for the formula.
pub const LAYER_TWICE: Control = control(
    "a-layer-twice-in-memory",
    "the weights of one layer are held twice",
    FORMULA,
    Expect::Refuted,
);

/// The same for NVML.
pub const SEEN_TWICE: Control = control(
    "a-layer-twice-in-nvml",
    "the weights of one layer are held twice",
    NVML,
    Expect::Refuted,
);

/// A twentieth of the activations beside them.
pub const TWENTIETH: Control = control(
    "a-twentieth-beside",
    "a twentieth of what a pass takes beside the weights is held besides",
    ACTIVATIONS,
    Expect::Refuted,
);

/// [`ACTIVATIONS`] of what was taken at most.
pub fn activations(
    taken: Taken,
    (config, problem): (&Config, &Problem),
    at: At,
    on: &[u32],
) -> Metric {
    let beside = taken.peak.saturating_sub(config.weight_bytes(1));
    let formula = config.activation_bytes(problem, 1);
    Metric::exact(ACTIVATIONS, at, on, off(beside, formula))
}

/// The same with a twentieth of it beside, allocated: [`TWENTIETH`].
pub fn a_twentieth_beside(
    (gpu, before): (&Gpu, &Before),
    of: (&Config, &Problem),
    at: At,
    on: &[u32],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    gpu.ledger().reset_peak();
    let beside = gpu.alloc(of.0.activation_bytes(of.1, 1) / 20)?;
    recorder.control(TWENTIETH.name, activations(before.taken(gpu)?, of, at, on));
    drop(beside);
    gpu.ledger().reset_peak();
    Ok(())
}

/// What NVML says of a GPU's memory before anything of a model is on it.
pub struct Watched {
    session: Arc<Session>,
    uuid: String,
    used: u64,
}

impl Watched {
    /// As it is now.
    ///
    /// Errors: no NVML, by which the GPU was found.
    pub fn now(gpu: &Gpu) -> Result<Watched, Stop> {
        let none = || Stop::Error("NVML is gone".into());
        let (session, uuid) = (node::session().ok_or_else(none)?, gpu.uuid_string());
        let used = session.memory_used(&uuid)?;
        Ok(Watched { session, uuid, used })
    }

    /// [`NVML`]: what has come to be used since.
    pub fn metric(&self, formula: u64, at: At, on: &[u32]) -> Result<Metric, Stop> {
        let more = self.session.memory_used(&self.uuid)?.saturating_sub(self.used);
        Ok(Metric::exact(NVML, at, on, off(more, formula)))
    }

    /// The same with the weights of one layer beside, allocated: [`SEEN_TWICE`].
    pub fn layer_twice(
        &self,
        (gpu, config): (&Gpu, &Config),
        formula: u64,
        at: At,
        on: &[u32],
    ) -> Result<Metric, Stop> {
        let twice = gpu.alloc(config.weight_bytes(1) / u64::from(config.layers))?;
        let metric = self.metric(formula, at, on);
        drop(twice);
        metric
    }
}

fn off(bytes: u64, formula: u64) -> f64 {
    (bytes as f64 / formula as f64 - 1.0).abs()
}

/// A GPU's memory before anything of a model is on it.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    live: u64,
    free: u64,
}

/// What a pass took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Bytes, as they were asked for.
    pub peak: u64,
    /// Bytes that the driver has less of.
    pub driver: u64,
}

impl Before {
    /// As it is now.
    pub fn now(gpu: &Gpu) -> Result<Before, Stop> {
        Ok(Before { live: gpu.ledger().live(), free: gpu.mem_info()?.0 })
    }

    /// What is still taken of what came since.
    pub fn left(&self, gpu: &Gpu) -> Result<Taken, Stop> {
        let live = gpu.ledger().live().saturating_sub(self.live);
        Ok(Taken { peak: live, ..self.taken(gpu)? })
    }

    /// What has been taken since, peaks from the last [`kernels::memory::Ledger::reset_peak`] on.
    pub fn taken(&self, gpu: &Gpu) -> Result<Taken, Stop> {
        Ok(Taken {
            peak: gpu.ledger().peak().saturating_sub(self.live),
            driver: self.free.saturating_sub(gpu.mem_info()?.0),
        })
    }
}

impl Taken {
    /// Both together.
    pub fn and(self, other: Taken) -> Taken {
        Taken { peak: self.peak + other.peak, driver: self.driver + other.driver }
    }
}

/// Bytes of weights and activations of one GPU.
pub fn formula(config: &Config, problem: &Problem) -> u64 {
    share(config, problem, 1)
}

/// The same on each of `degree` GPUs.
pub fn share(config: &Config, problem: &Problem, degree: u32) -> u64 {
    config.weight_bytes(degree) + config.activation_bytes(problem, degree)
}

/// 1 for what was allocated all the same, 0 for what the ledger's limit refused.
///
/// Errors: a refusal for another reason, which is none.
pub fn accepted(outcome: kernels::Result<()>) -> Result<f64, Stop> {
    match outcome {
        Ok(()) => Ok(1.0),
        Err(kernels::Error::OverLimit { .. }) => Ok(0.0),
        Err(error) => Err(error.into()),
    }
}

/// [`FORMULA`], [`DRIVER`] and [`MEMORY`], the most that was allocated at once.
pub fn metrics(taken: Taken, formula: u64, at: At, on: &[u32]) -> [Metric; 3] {
    [
        Metric::exact(FORMULA, at, on, off(taken.peak, formula)),
        Metric::exact(DRIVER, at, on, off(taken.driver, formula)),
        Metric::exact(MEMORY, at, on, taken.peak as f64 / f64::from(1u32 << 30)),
    ]
}

/// What is taken with the weights of one layer beside, allocated: [`LAYER_TWICE`].
pub fn layer_twice(
    (gpu, before): (&Gpu, &Before),
    (config, formula): (&Config, u64),
    at: At,
    on: &[u32],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let twice = gpu.alloc(config.weight_bytes(1) / u64::from(config.layers))?;
    let [held_twice, ..] = metrics(before.taken(gpu)?, formula, at, on);
    recorder.control(LAYER_TWICE.name, held_twice);
    drop(twice);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::model::Precision;

    #[test]
    fn the_formula_by_hand() {
        let config = Config { layers: 2, d_model: 128, d_ff: 512, vocab: 1024, ..Config::SEED_002 };
        // A layer: 3 d d + d d + 2 d d_ff halves.
        let weights = 2 * (2 * (4 * 128 * 128 + 2 * 128 * 512) + 1024 * 128) + 2 * (1024 + 2) * 128;
        assert_eq!(config.weight_bytes(1), weights);
        let problem = Problem { batches: 2, tokens: 64, chunks: 2 };
        // 128 tokens, 64 a chunk: the stream, a chunk of attention's outputs, qkv above a chunk inside.
        let wanted = 2 * 128 * 128 + 2 * 128 * 64 + 6 * 128 * 128 + 2 * 2 * 1024 + 4 * 128 + 32 * 3;
        assert_eq!(config.activation_bytes(&problem, 1), wanted);
        let eight = Config { precision: Precision::E4m3, ..config };
        let linears = 2 * (4 * 128 * 128 + 2 * 128 * 512) + 1024 * 128;
        let scales = 4 * (2 * (5 * 128 + 512) + 1024);
        assert_eq!(eight.weight_bytes(1), linears + scales + 2 * (1024 + 2) * 128);
        assert_eq!(eight.activation_bytes(&problem, 1), wanted + 64 * (512 + 4));
        // Weights alone: as many bytes of them, and the head, the largest of all, in halves.
        let alone = Config { precision: Precision::WeightsE4m3, ..config };
        assert_eq!(alone.weight_bytes(1), eight.weight_bytes(1));
        assert_eq!(alone.activation_bytes(&problem, 1), wanted + 2 * 1024 * 128);
        // One head of one sequence a chunk: queries and keys of 64 tokens, values of 128, 8 bytes each beside.
        let both = Config { attention_e4m3: true, ..eight };
        let operands = 2 * (64 * 128 + 8) + 128 * 128 + 8;
        assert_eq!(both.activation_bytes(&problem, 1), wanted + 64 * (512 + 4) + operands);
    }

    #[test]
    fn what_is_kept_in_e4m3_by_hand() {
        let config = Config {
            layers: 2,
            d_model: 256,
            d_ff: 512,
            vocab: 1024,
            precision: Precision::E4m3,
            attention_e4m3: true,
            ..Config::SEED_002
        };
        let problem = Problem { batches: 1, tokens: 192, chunks: 3 };
        assert!(config.keeps_codes(&problem));
        assert!(!config.keeps_codes(&Problem { chunks: 1, ..problem }));
        assert!(!config.keeps_codes(&Problem { batches: 3, ..problem }));
        // 64 tokens a chunk, one of two heads each: the stream, of two chunks attention's outputs and rows inside the MLP, the
        // last row normed, a chunk's half of qkv, half of the logits; a chunk's codes and scales.
        let held = 2 * (256 + 512) * 2 * 64;
        let activations = 2 * 256 * 192 + held + 2 * 256 + 3 * 256 * 64 + 1024;
        let beside = 64 * (512 + 4) + 4 * 192 + 32 * 3;
        // Queries of a chunk, keys of all tokens, values of two tiles of 128, and 8 bytes a head of each.
        let codes = (64 + 192 + 256) * 128 + 3 * 8;
        assert_eq!(config.activation_bytes(&problem, 2), activations + beside + codes);
    }

    #[test]
    fn a_share_by_hand() {
        let config = Config { layers: 2, d_model: 256, d_ff: 512, vocab: 1024, ..Config::SEED_002 };
        let problem = Problem { batches: 1, tokens: 64, chunks: 2 };
        // Half of the layers' and the head's halves; embedding, gain and bias whole.
        let linears = 2 * (4 * 256 * 256 + 2 * 256 * 512) + 1024 * 256;
        let weights = linears + 2 * (1024 + 2) * 256;
        // 64 tokens, 32 a chunk: the stream and attention's outputs, a chunk's normed rows, half of qkv, whole rows
        // inside the MLP, half of the logits.
        let activations = 4 * 256 * 64 + 2 * 256 * 32 + 3 * 256 * 64 + 2 * 512 * 64 + 1024;
        let beside = 4 * 64 + 32 * 3;
        assert_eq!(share(&config, &problem, 2), weights + activations + beside);
        let eight = Config { precision: Precision::E4m3, ..config };
        let scales = 4 * (2 * (5 * 256 + 512) + 1024) / 2;
        // Of normed rows the last token's alone; a chunk's codes and scales.
        let codes = 32 * (512 + 4) + 2 * 256 - 2 * 256 * 32;
        let weights = linears / 2 + scales + 2 * (1024 + 2) * 256;
        assert_eq!(share(&eight, &problem, 2), weights + activations + beside + codes);
        let alone = Config { precision: Precision::WeightsE4m3, ..config };
        assert_eq!(share(&alone, &problem, 2), weights + activations + beside + 1024 * 256);
    }

    #[test]
    fn only_a_limit_refuses() {
        let over = kernels::Error::OverLimit { asked: 2, live: 1, limit: 2 };
        let shape = kernels::Error::Shape { what: "of another kind".into() };
        assert_eq!(accepted(Ok(())).ok(), Some(1.0));
        assert_eq!(accepted(Err(over)).ok(), Some(0.0));
        assert!(accepted(Err(shape)).is_err());
    }

    #[test]
    fn seed_002_takes_what_it_printed() {
        // "weights occupy ~79 GB".
        approx::assert_abs_diff_eq!(
            Config::SEED_002.weight_bytes(1) as f64,
            78.96e9,
            epsilon = 0.01e9
        );
    }
}
