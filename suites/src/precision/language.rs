//! What the accuracy of a language model is measured with: kernels, the trained model of the fixtures, its text.

use std::path::Path;

use harness::digest::sha256_hex;
use harness::record::Stop;
use kernels::attention::forward::Forward;
use kernels::attention::program::Program;
use kernels::attention::variant::Variant;
use kernels::device::{Gpu, Module};
use kernels::element::Element;
use kernels::language::checkpoint::{self, Weights};
use kernels::language::model::{Document, Tools};
use kernels::language::text::Text;
use kernels::matmul::Lt;
use kernels::model::HEAD_SIZE;
use kernels::quantise::{self, Quantiser};
use kernels::{KernelSource, language, model};

use crate::attention::backend;

/// Tokens of a document of the fixture, and of a window: what the model was trained on.
pub const LENGTHS: (u32, u32) = (4096, 512);

/// Where the fixture lies.
const FOLDER: &str = "fixtures/accuracy";

/// Loads the kernels of an evaluation.
pub fn tools(
    gpu: &Gpu,
    load: &mut dyn FnMut(&'static KernelSource) -> Result<Module, Stop>,
) -> Result<Tools, Stop> {
    let mut attention = |element| -> Result<Forward, Stop> {
        let variant = Variant::new(backend::kernel_for(gpu), element, HEAD_SIZE, Program::PLAIN);
        Ok(Forward::new(gpu, &load(variant.source()?)?, variant)?)
    };
    Ok(Tools {
        attention_f16: attention(Element::F16)?,
        attention_bf16: attention(Element::Bf16)?,
        kernels: language::Kernels::new(gpu, &load(&language::SOURCE)?)?,
        halves: model::Kernels::new(gpu, &load(&model::SOURCE)?)?,
        quantiser: Quantiser::new(gpu, &load(&quantise::SOURCE)?)?,
        lt: Lt::new(gpu)?,
    })
}

/// The trained model, the text it never saw, and what is known of both.
pub struct Fixture {
    /// The weights.
    pub weights: Weights,
    /// The held-out text.
    pub text: Text,
    /// Its first document alone.
    pub first: Text,
    /// The text that the model was trained on.
    pub trained_on: Vec<u8>,
    /// PyTorch's loss on each document in fp64, nats a byte.
    pub losses: Vec<f64>,
    /// SHA-256 of the checkpoint and of the held-out text.
    pub digests: [String; 2],
}

impl Fixture {
    /// Reads it.
    ///
    /// Errors: a file that is missing, or not the one of which the record speaks.
    pub fn read(root: &Path) -> Result<Fixture, Stop> {
        let folder = root.join(FOLDER);
        let bytes = |name: &str| {
            std::fs::read(folder.join(name))
                .map_err(|why| Stop::Error(format!("{FOLDER}/{name}: {why}")))
        };
        let (model, held_out) = (bytes("model.safetensors")?, bytes("heldout.txt")?);
        let record: serde_json::Value = serde_json::from_slice(&bytes("record.json")?)?;
        let digests = [&model, &held_out].map(|bytes| sha256_hex(bytes));
        for (digest, name) in digests.iter().zip(["model_sha256", "heldout_sha256"]) {
            if record[name] != digest.as_str() {
                let recorded = &record[name];
                return Err(Stop::Error(format!("{name} is {digest}, recorded as {recorded}")));
            }
        }
        let losses = record["document_losses_nats_fp64"].as_array();
        let losses = losses.into_iter().flatten().filter_map(serde_json::Value::as_f64).collect();
        let weights = checkpoint::parse(&model)?;
        let vocab = weights.sizes.vocab;
        let fixture = Fixture {
            text: Text::of_bytes(&held_out, vocab, LENGTHS)?,
            first: Text::of_bytes(&held_out[..LENGTHS.0 as usize], vocab, LENGTHS)?,
            trained_on: bytes("train.txt")?,
            weights,
            losses,
            digests,
        };
        let (wanted, found) = (fixture.text.documents().len(), fixture.losses.len());
        if wanted != found {
            return Err(Stop::Error(format!("{found} losses are recorded of {wanted} documents")));
        }
        Ok(fixture)
    }
}

/// How far each document's cross-entropy moved, in percent of the reference's, with its sign.
pub fn moved(reference: &[Document], other: &[Document]) -> Vec<f64> {
    let percent = |(reference, other): (&Document, &Document)| {
        100.0 * (other.loss - reference.loss) / reference.loss
    };
    reference.iter().zip(other).map(percent).collect()
}

/// The mean over documents, which are equally long.
pub fn mean(documents: &[Document], of: fn(&Document) -> f64) -> f64 {
    documents.iter().map(of).sum::<f64>() / documents.len() as f64
}

#[cfg(test)]
mod tests {
    use kernels::language::reference;

    use super::*;

    #[test]
    fn the_fixture_is_what_its_record_says() {
        let root = crate::root::find().expect("a root");
        let fixture = Fixture::read(&root).expect("a fixture");
        assert_eq!((fixture.weights.sizes.layers, fixture.weights.sizes.d_ff), (4, 1024));
        assert_eq!((fixture.text.documents().len(), fixture.first.documents().len()), (47, 1));
        let mean = fixture.losses.iter().sum::<f64>() / 47.0;
        assert!((1.3..1.5).contains(&mean), "{mean}");
    }

    #[test]
    fn the_oracle_finds_what_pytorch_finds() {
        let root = crate::root::find().expect("a root");
        let fixture = Fixture::read(&root).expect("a fixture");
        let tokens = &fixture.text.documents().next().expect("a document")[..32];
        let logits = reference::logits(&fixture.weights, tokens);
        let narrow = |row: &Vec<f64>| row.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let foretold = logits.iter().zip(&tokens[1..]);
        let losses = foretold.map(|(row, &token)| reference::cross_entropy(&narrow(row), token));
        // The `logits` of train.py in fp64 on a CPU, over the same bytes.
        approx::assert_relative_eq!(losses.sum::<f64>() / 31.0, 1.5544208604, epsilon = 1e-6);
    }

    #[test]
    fn moves_are_percent_of_the_reference() {
        let document = |loss| Document { tokens: 3, loss, divergence: 0.5, agreement: 1.0 };
        let (a, b) = ([document(2.0), document(4.0)], [document(2.1), document(3.0)]);
        let rounded: Vec<f64> = moved(&a, &b).iter().map(|x| x.round()).collect();
        assert_eq!(rounded, [5.0, -25.0]);
        assert_eq!(mean(&b, |d| d.divergence), 0.5);
    }
}
