//! `touchstone measure product`: a product of an operator's own shape, by `auto` or in a precision that is named;
//! judges nothing.

use std::path::Path;
use std::time::Duration;

use harness::record::Stop;
use harness::statistics;
use kernels::auto::{self, Asked, Board, Chosen, Shape, Tools, Wish};
use kernels::device::{Gpu, Module};
use kernels::matmul::Lt;
use kernels::operands::{self, Operands};
use kernels::product::{self, Checker};
use kernels::quantise::{self, Quantiser};
use kernels::timing::{self, Plan, Timer};
use kernels::weightonly::{self, WeightOnly};
use kernels::{KernelSource, jit};

use super::auto::Bench;
use crate::lab;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// CUDA's ordinal
    #[arg(long, default_value_t = 0)]
    gpu: u32,
    /// Rows of activations
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    m: u32,
    /// Rows of weights, columns of the result
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Columns of both
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// auto, fp8 (any with both in E4M3), fp16, e4m3-row, e4m3-row-fast or e4m3-weight-only
    #[arg(long, default_value = "auto")]
    precision: String,
    /// Largest error, root mean square over that of the product: what is foretold to err by more is not chosen, and
    /// refused where it was named. Measured on generated numbers
    #[arg(long, default_value_t = 0.07)]
    error: f64,
    /// Numbers are of one sign: what would take a share from their sums is not chosen
    #[arg(long)]
    one_sign: bool,
    /// Samples
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(3..))]
    samples: u32,
}

/// What was chosen and why, its time with the quantisation of activations, its rate and its error, as lines of text.
///
/// Errors: a precision that is none or that is refused, with what each arithmetic lacks; a GPU that fails.
pub fn text(root: &Path, options: &Options) -> Result<String, String> {
    measured(root, options).map_err(Stop::why)
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
    let asked = Asked::named(&options.precision)?;
    lab::load_cublaslt(root)?;
    let gpu = Gpu::open(options.gpu)?;
    let architecture = jit::architecture_of(gpu.compute_capability)
        .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
    let cache = root.join("target/cubins");
    let load = |source: &'static KernelSource| -> Result<Module, Stop> {
        Ok(gpu.load(&jit::cached(source, architecture, &cache)?.bytes)?)
    };
    let lt = Lt::new(&gpu)?;
    let quantiser = Quantiser::new(&gpu, &load(&quantise::SOURCE)?)?;
    let weight_only = WeightOnly::new(&gpu, &load(&weightonly::SOURCE)?)?;
    let bench = Bench {
        tools: Tools { gpu: &gpu, lt: &lt, quantiser: &quantiser, weight_only: &weight_only },
        index: options.gpu,
        seed: 0x5EED,
        checker: Checker::new(&load(&product::SOURCE)?)?,
        operands: Operands::new(&gpu, &load(&operands::SOURCE)?)?,
    };
    let shape = Shape { m: options.m, n: options.n, k: options.k };
    // What cannot be had is refused before numbers are made for it.
    auto::choose(shape, &Board::of(&gpu), asked, wish(options))?;
    let matrices = bench.random(shape, options.one_sign)?;
    let one = matrices.multiplied(bench.tools, asked, wish(options))?;
    let error = bench.error(&matrices, &one)?;
    let mut timer = Timer::new(&gpu, &load(&timing::SOURCE)?)?;
    let plan = Plan {
        warmup: 2,
        samples: options.samples,
        fewest_samples: 3,
        launches: 1,
        budget: Some(Duration::from_secs(10)),
        rest: 3,
    };
    let ms = timer.measure(plan, None, |stream| one.run(stream))?;
    let algorithm = one.algorithm().map(|algorithm| format!("{algorithm:?}"));
    let kept = if error <= options.error { "kept" } else { "NOT kept" };
    let allowed = format!("allowed     {:.2e}: {kept}\n", options.error);
    Ok(lines(one.chosen(), shape, &ms, error) + &allowed + &last(algorithm))
}

fn wish(options: &Options) -> Wish {
    Wish { relative_error: options.error, keeps_sums: options.one_sign }
}

fn lines(chosen: &Chosen, Shape { m, n, k }: Shape, ms: &[f64], error: f64) -> String {
    let ms = statistics::median(ms).unwrap_or(f64::NAN);
    let operations = 2.0 * f64::from(m) * f64::from(n) * f64::from(k);
    format!(
        "chosen      {chosen}\ntime        {ms:.4} ms, with the quantisation of activations\n\
         rate        {:.1} TFLOP/s\nerror       {error:.2e}\n",
        operations / ms / 1e9
    )
}

/// What ran it.
fn last(algorithm: Option<String>) -> String {
    format!("algorithm   {}\n", algorithm.unwrap_or_else(|| "own kernel".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_was_chosen_and_why() {
        let shape = Shape { m: 4096, n: 8192, k: 8192 };
        let board = Board { compute_capability: (9, 0), without: Vec::new() };
        let wish = Wish { relative_error: 1e-3, keeps_sums: false };
        let chosen = auto::choose(shape, &board, Asked::Auto, wish).expect("fp16 is had");
        let text = lines(&chosen, shape, &[0.5, 1.0, 0.75], 1.5e-4);
        assert!(text.starts_with("chosen      fp16: the only one that is foretold"), "{text}");
        assert!(text.contains("e4m3-row: foretold to err by 5.22e-2"), "{text}");
        assert!(text.contains("time        0.7500 ms"), "{text}");
        assert!(text.contains("rate        733.0 TFLOP/s\nerror       1.50e-4\n"), "{text}");
        assert_eq!(last(None), "algorithm   own kernel\n");
    }
}
