//! `touchstone measure accuracy`: an operator's own trained model in several precisions; judges nothing.

use std::path::{Path, PathBuf};

use harness::record::Stop;
use harness::statistics;
use kernels::device::Gpu;
use kernels::jit;
use kernels::language::Precision;
use kernels::language::checkpoint::{self, Weights};
use kernels::language::model::{Document, Model, Tools, evaluate};
use kernels::language::text::Text;

use super::language::{mean, moved, tools};
use crate::{lab, root};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The weights, as kernels/src/language/checkpoint.rs names them
    #[arg(long)]
    checkpoint: PathBuf,
    /// A text that the model never saw, every byte a token
    #[arg(long, conflicts_with = "tokens", required_unless_present = "tokens")]
    text: Option<PathBuf>,
    /// Tokens that the model never saw, of two bytes each, the low one first
    #[arg(long)]
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
    /// CUDA's ordinal
    #[arg(long, default_value_t = 0)]
    gpu: u32,
}

/// Perplexity, change of cross-entropy with its interval, divergence and agreement as lines of text.
///
/// Errors: a checkpoint or a text that is none, with tensor, shape or byte; a GPU that fails. A precision that the
/// board does not have is said in its line.
pub fn text(root: &Path, options: &Options) -> Result<String, String> {
    measured(root, options).map_err(Stop::why)
}

fn measured(root: &Path, options: &Options) -> Result<String, Stop> {
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
    let mut lines = header(&weights, &text, &plain);
    for precision in precisions.into_iter().filter(|p| *p != Precision::F32) {
        let name = precision.name();
        match one(&gpu, &tools, (&weights, &reference), precision, &text) {
            Ok(documents) => lines.push_str(&line(precision, &plain, &documents)),
            Err(why) => lines.push_str(&format!("{name:14} not measured: {why}\n")),
        }
    }
    Ok(lines)
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

fn header(weights: &Weights, text: &Text, plain: &[Document]) -> String {
    let (document, window) = text.lengths();
    let loss = mean(plain, |document| document.loss);
    format!(
        "model          {:?}\ntext           {} documents of {document} tokens, windows of {window}\n\
         fp32           {loss:.5} nats a token, perplexity {:.4}\n",
        weights.sizes,
        plain.len(),
        loss.exp()
    )
}

fn line(precision: Precision, plain: &[Document], documents: &[Document]) -> String {
    let changes = moved(plain, documents);
    let change = changes.iter().sum::<f64>() / changes.len() as f64;
    let interval = match statistics::median_interval(&changes) {
        Some((low, high)) => format!("95 % interval of the median {low:+.3} to {high:+.3} %"),
        None => format!("{} documents are too few for an interval", changes.len()),
    };
    let loss = mean(documents, |document| document.loss);
    format!(
        "{:14} {loss:.5} nats a token, perplexity {:.4}; change {change:+.3} % in the mean of documents, {interval}; \
         divergence {:.3e} nats, same token first {:.2} %; {}\n",
        precision.name(),
        loss.exp(),
        mean(documents, |document| document.divergence),
        100.0 * mean(documents, |document| document.agreement),
        precision.arithmetic()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(losses: [f64; 6]) -> Vec<Document> {
        let one = |loss| Document { tokens: 9, loss, divergence: 0.001, agreement: 0.75 };
        losses.map(one).to_vec()
    }

    #[test]
    fn a_line_holds_change_interval_and_arithmetic() {
        let plain = documents([1.0; 6]);
        let found =
            line(Precision::Weights8, &plain, &documents([1.01, 1.02, 1.03, 1.04, 1.05, 1.06]));
        assert!(
            found.starts_with("w8a16          1.03500 nats a token, perplexity 2.8151"),
            "{found}"
        );
        assert!(found.contains("change +3.500 % in the mean of documents"), "{found}");
        assert!(found.contains("95 % interval of the median +1.000 to +6.000 %"), "{found}");
        assert!(found.contains("same token first 75.00 %; emulated: "), "{found}");
        let few = line(Precision::F16, &plain[..2], &documents([1.0; 6])[..2]);
        assert!(few.contains("2 documents are too few for an interval"), "{few}");
    }
}
