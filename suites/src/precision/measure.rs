//! `touchstone measure accuracy`: an operator's own trained model in several precisions, each with a verdict by the
//! operator's own tolerance; no claim is judged.

mod report;

use std::path::{Path, PathBuf};

use harness::record::Stop;
use kernels::device::Gpu;
use kernels::jit;
use kernels::language::Precision;
use kernels::language::checkpoint::{self, Weights};
use kernels::language::model::{Document, Model, Tools, evaluate};
use kernels::language::text::Text;

use report::{Report, Row};

use super::language::tools;
use crate::{lab, root};

/// What to measure.
#[derive(Debug, Clone, clap::Args, serde::Serialize)]
#[command(
    after_help = "Exit codes: 0 every precision that was asked for is within the tolerance; 1 one is outside; 2 \
                        nothing could be measured; 3 one is undecided; 4 one was not measured. 1 wins over 3 over 4."
)]
pub struct Options {
    /// The weights, as kernels/src/language/checkpoint.rs names them
    #[arg(long)]
    #[serde(skip)]
    checkpoint: PathBuf,
    /// A text that the model never saw, every byte a token
    #[arg(long, conflicts_with = "tokens", required_unless_present = "tokens")]
    #[serde(skip)]
    text: Option<PathBuf>,
    /// Tokens that the model never saw, of two bytes each, the low one first
    #[arg(long)]
    #[serde(skip)]
    tokens: Option<PathBuf>,
    /// fp16, bf16, fp8-tensor, fp8-row, fp8-block, w8a16, nvfp4-weights; beside fp32
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "fp16,bf16,fp8-tensor,fp8-row,fp8-block,w8a16,nvfp4-weights"
    )]
    precision: Vec<String>,
    /// Tokens of a document: what is left behind the last whole one is left out
    #[arg(long, default_value_t = 4096)]
    document: u32,
    /// Tokens that the model sees at once
    #[arg(long, default_value_t = 512)]
    window: u32,
    /// Percent of fp32's cross-entropy, either way, within which a precision must stay
    #[arg(long, default_value_t = 0.25, value_parser = percent)]
    tolerance: f64,
    /// CUDA's ordinal
    #[arg(long, default_value_t = 0)]
    gpu: u32,
    /// Write all that was measured to this file: every document's change, verdicts, versions
    #[arg(long)]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// Percent above 0.
fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("{text} is no number of percent"))?;
    match 0.0 < percent && percent.is_finite() {
        true => Ok(percent),
        false => Err(format!("{text} is no number of percent above 0")),
    }
}

/// Prints perplexity, change of cross-entropy with its interval, divergence, agreement and a verdict of each precision,
/// and returns the exit code.
///
/// Errors: a checkpoint or a text that is none, with tensor, shape or byte; a GPU that fails; a file that cannot be
/// written. A precision that the board does not have is said in its line, and has no verdict.
pub fn run(root: &Path, options: &Options) -> Result<i32, String> {
    let report = measured(root, options).map_err(Stop::why)?;
    // The lines first: a file that cannot be written takes nothing with it.
    print!("{}", report.text());
    if let Some(file) = &options.json {
        report.write(file)?;
    }
    Ok(report.status)
}

fn measured(root: &Path, options: &Options) -> Result<Report, Stop> {
    let precisions: Vec<Precision> = options
        .precision
        .iter()
        .map(|name| Precision::named(name))
        .collect::<kernels::Result<_>>()?;
    let weights = checkpoint::read(&root::meant(root, &options.checkpoint))?;
    let text = text_of(root, options, weights.sizes.vocab)?;
    lab::load_cublaslt(root)?;
    let gpu = Gpu::open(options.gpu)?;
    let architecture = jit::architecture_of(gpu.compute_capability)
        .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
    let cache = root.join("target/cubins");
    let tools =
        tools(
            &gpu,
            &mut |source| Ok(gpu.load(&jit::cached(source, architecture, &cache)?.bytes)?),
        )?;
    let lengths = text.lengths();
    let reference = Model::new(&gpu, &tools, &weights, Precision::F32, lengths, None)?;
    let plain = evaluate(&[&reference], &text, 1)?.remove(0);
    let row =
        |precision: Precision| match one(&gpu, &tools, (&weights, &reference), precision, &text) {
            Ok(documents) => Row::new(precision, &plain, &documents, options.tolerance),
            Err(why) => Row::not_measured(precision, Some(why.to_string())),
        };
    let asked = precisions.into_iter().filter(|p| *p != Precision::F32);
    let rows = asked.map(row).collect();
    let (major, minor) = gpu.compute_capability;
    let names = (format!("compute capability {major}.{minor}"), format!("{:?}", weights.sizes));
    Ok(Report::new(options, names, &plain, rows))
}

/// The text or the tokens that were given.
fn text_of(root: &Path, options: &Options, vocab: u32) -> Result<Text, Stop> {
    let lengths = (options.document, options.window);
    let (given, words) = match (&options.text, &options.tokens) {
        (Some(file), _) => (file, false),
        (None, Some(file)) => (file, true),
        (None, None) => return Err(Stop::Error("neither --text nor --tokens was given".into())),
    };
    let named = |why: String| Stop::Error(format!("{}: {why}", given.display()));
    let bytes = std::fs::read(root::meant(root, given)).map_err(|why| named(why.to_string()))?;
    let text = match words {
        true => Text::of_words(&bytes, vocab, lengths),
        false => Text::of_bytes(&bytes, vocab, lengths),
    };
    text.map_err(|why| named(why.to_string()))
}

fn one(
    gpu: &Gpu,
    tools: &Tools,
    (weights, reference): (&Weights, &Model<'_>),
    precision: Precision,
    text: &Text,
) -> kernels::Result<Vec<Document>> {
    let model = Model::new(gpu, tools, weights, precision, text.lengths(), None)?;
    Ok(evaluate(&[reference, &model], text, 1)?.remove(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_is_above_zero() {
        assert_eq!(percent("0.25"), Ok(0.25));
        for none in ["0", "-1", "NaN", "inf", "a little"] {
            assert!(percent(none).is_err(), "{none}");
        }
    }
}
