//! Trained weights from a safetensors file: names, shapes, types and numbers are checked before any is used.
//!
//! The names are those that PyTorch gives a module of this architecture: `embedding.weight` [vocab, d];
//! `layers.L.norm1.weight` and `.bias` [d], `.qkv.weight` [3 d, d] (queries, keys, values, each by heads of
//! 128), `.out.weight` [d, d], `.norm2.weight` and `.bias`, `.up.weight` [d_ff, d], `.down.weight` [d, d_ff];
//! `norm.weight` and `.bias`, `head.weight` [vocab, d]. F32, F16 and BF16 are read.

use std::collections::BTreeSet;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::element::Element;
use crate::model::HEAD_SIZE;
use crate::{Error, Result};

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Blocks of attention and MLP.
    pub layers: u32,
    /// Elements of a token; [`HEAD_SIZE`] times the heads.
    pub d_model: u32,
    /// Elements of a token inside the MLP.
    pub d_ff: u32,
    /// Rows of embedding and head.
    pub vocab: u32,
}

/// Most elements of a token, and of one inside the MLP: the rows that the norm and the quantisers take.
const MOST_MODEL: u32 = 8192;
const MOST_FF: u32 = 32768;

impl Sizes {
    /// Heads.
    pub fn heads(&self) -> u32 {
        self.d_model / HEAD_SIZE
    }

    fn check(&self) -> Result<()> {
        let Sizes { layers, d_model, d_ff, vocab } = *self;
        let blocks = d_model.is_multiple_of(HEAD_SIZE) && d_ff.is_multiple_of(128);
        let most = d_model <= MOST_MODEL && d_ff <= MOST_FF;
        if layers > 0
            && d_model > 0
            && d_ff > 0
            && vocab > 0
            && blocks
            && most
            && vocab.is_multiple_of(128)
        {
            return Ok(());
        }
        let what = format!(
            "{layers} layers of {d_model} and {d_ff}, vocabulary {vocab}: every size must be a multiple of 128 other \
             than 0, d_model at most {MOST_MODEL}, d_ff at most {MOST_FF}"
        );
        Err(Error::Shape { what })
    }
}

/// Gain and bias of a layer norm, [d] each.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Gain.
    pub gain: Vec<f32>,
    /// Bias.
    pub bias: Vec<f32>,
}

/// A block of attention and MLP. Linears are [outputs][inputs].
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Before attention.
    pub norm1: Norm,
    /// Queries, keys and values, [3 d][d].
    pub qkv: Vec<f32>,
    /// From attention to the residual stream, [d][d].
    pub out: Vec<f32>,
    /// Before the MLP.
    pub norm2: Norm,
    /// Into the MLP, [d_ff][d].
    pub up: Vec<f32>,
    /// Out of the MLP, [d][d_ff].
    pub down: Vec<f32>,
}

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Its sizes.
    pub sizes: Sizes,
    /// [vocab][d].
    pub embedding: Vec<f32>,
    /// In order.
    pub blocks: Vec<Block>,
    /// Before the head.
    pub norm: Norm,
    /// [vocab][d].
    pub head: Vec<f32>,
}

impl Weights {
    /// Refuses numbers that a type of 16 bits rounds to an infinity.
    ///
    /// Errors: [`Error::Shape`] with the first tensor that has one, and its element.
    pub fn held_in(&self, element: Element) -> Result<()> {
        let infinite = |x: &f32| match element {
            Element::F16 => f16::from_f32(*x).is_infinite(),
            Element::Bf16 => bf16::from_f32(*x).is_infinite(),
            _ => false,
        };
        for (name, numbers) in self.tensors() {
            if let Some(at) = numbers.iter().position(infinite) {
                let what =
                    format!("element {at} is {}, which {element:?} cannot hold", numbers[at]);
                return Err(wrong(&name, what));
            }
        }
        Ok(())
    }

    /// Every tensor with its name in a checkpoint.
    fn tensors(&self) -> Vec<(String, &[f32])> {
        let mut all: Vec<(String, &[f32])> = vec![("embedding.weight".into(), &self.embedding)];
        for (layer, block) in self.blocks.iter().enumerate() {
            let at = |part: &str| format!("layers.{layer}.{part}");
            all.extend([
                (at("norm1.weight"), &block.norm1.gain[..]),
                (at("norm1.bias"), &block.norm1.bias),
                (at("qkv.weight"), &block.qkv),
                (at("out.weight"), &block.out),
                (at("norm2.weight"), &block.norm2.gain),
                (at("norm2.bias"), &block.norm2.bias),
                (at("up.weight"), &block.up),
                (at("down.weight"), &block.down),
            ]);
        }
        all.extend([
            ("norm.weight".into(), &self.norm.gain[..]),
            ("norm.bias".into(), &self.norm.bias),
            ("head.weight".into(), &self.head),
        ]);
        all
    }
}

/// Reads a checkpoint.
///
/// Errors: [`Error::Io`]; [`Error::Checkpoint`] with the tensor, and what is wrong with it: it is missing or not of
/// this architecture, its shape or type, an end behind that of the file, a number that is not finite; sizes
/// that do not fit the blocks of the quantisers.
pub fn read(path: &Path) -> Result<Weights> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: name.clone(), source })?;
    parse(&bytes).map_err(|error| Error::Checkpoint { path: name, what: error.to_string() })
}

/// The model in the bytes of a file. Errors as of [`read`], without the path.
pub fn parse(bytes: &[u8]) -> Result<Weights> {
    let (length, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| {
        let count = bytes.len();
        let what = match error {
            SafeTensorError::MetadataIncompleteBuffer => format!(
                "tensors do not end where the file does, at byte {count}: it is cut, or longer than its header says"
            ),
            error => format!("no header of safetensors in {count} bytes: {error}"),
        };
        Error::Shape { what }
    })?;
    // Behind the header's length, of 8 bytes, and the header.
    let file = File { bytes, data: 8 + length, tensors: metadata.tensors().into_iter().collect() };
    file.weights()
}

/// A checkpoint's bytes and what its header says of them.
struct File<'a> {
    bytes: &'a [u8],
    data: usize,
    tensors: std::collections::BTreeMap<String, &'a TensorInfo>,
}

impl File<'_> {
    fn weights(&self) -> Result<Weights> {
        let sizes = self.sizes()?;
        let Sizes { layers, d_model, d_ff, vocab } = sizes;
        let [d, ff, vocab] = [d_model, d_ff, vocab].map(|size| size as usize);
        let norm = |name: String| -> Result<Norm> {
            let gain = self.numbers(&format!("{name}.weight"), &[d])?;
            Ok(Norm { gain, bias: self.numbers(&format!("{name}.bias"), &[d])? })
        };
        let block = |layer: u32| -> Result<Block> {
            let at = |part: &str| format!("layers.{layer}.{part}");
            let linear = |part: &str, shape: [usize; 2]| {
                self.numbers(&at(&format!("{part}.weight")), &shape)
            };
            Ok(Block {
                norm1: norm(at("norm1"))?,
                qkv: linear("qkv", [3 * d, d])?,
                out: linear("out", [d, d])?,
                norm2: norm(at("norm2"))?,
                up: linear("up", [ff, d])?,
                down: linear("down", [d, ff])?,
            })
        };
        let weights = Weights {
            sizes,
            embedding: self.numbers("embedding.weight", &[vocab, d])?,
            blocks: (0..layers).map(block).collect::<Result<_>>()?,
            norm: norm("norm".into())?,
            head: self.numbers("head.weight", &[vocab, d])?,
        };
        self.nothing_else(layers)?;
        sizes.check()?;
        Ok(weights)
    }

    /// Vocabulary and width by the embedding, the MLP's by the first layer, layers by their names.
    fn sizes(&self) -> Result<Sizes> {
        let shape = |name: &str| match self.tensor(name)?.shape[..] {
            [rows, columns] => {
                Ok([rows, columns].map(|size| u32::try_from(size).unwrap_or(u32::MAX)))
            }
            ref other => Err(wrong(name, format!("shape {other:?}, wanted two dimensions"))),
        };
        let ([vocab, d_model], [d_ff, _]) =
            (shape("embedding.weight")?, shape("layers.0.up.weight")?);
        let numbers =
            self.tensors.keys().filter_map(|name| name.strip_prefix("layers.")?.split_once('.'));
        let layers: BTreeSet<u32> = numbers.filter_map(|(number, _)| number.parse().ok()).collect();
        Ok(Sizes { layers: layers.len() as u32, d_model, d_ff, vocab })
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).copied().ok_or_else(|| wrong(name, "not in the file".into()))
    }

    /// A tensor of the given shape as f32.
    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let info = self.tensor(name)?;
        if info.shape != shape {
            return Err(wrong(name, format!("shape {:?}, wanted {shape:?}", info.shape)));
        }
        let (width, decode) = decoder(info.dtype).ok_or_else(|| {
            wrong(name, format!("type {:?}, wanted F32, F16 or BF16", info.dtype))
        })?;
        let (first, end) = (self.data + info.data_offsets.0, self.data + info.data_offsets.1);
        let bytes = self.bytes.get(first..end).ok_or_else(|| {
            wrong(name, format!("bytes {first} to {end} of a file of {}", self.bytes.len()))
        })?;
        if bytes.len() != width * shape.iter().product::<usize>() {
            return Err(wrong(
                name,
                format!("{} bytes for shape {shape:?} of {:?}", bytes.len(), info.dtype),
            ));
        }
        let numbers: Vec<f32> = bytes.chunks_exact(width).map(decode).collect();
        match numbers.iter().position(|number| !number.is_finite()) {
            None => Ok(numbers),
            Some(at) => {
                let offset = first + at * width;
                Err(wrong(name, format!("element {at}, at byte {offset}, is {}", numbers[at])))
            }
        }
    }

    /// A tensor that the model would not read is a model of another architecture.
    fn nothing_else(&self, layers: u32) -> Result<()> {
        let parts = [
            "norm1.weight",
            "norm1.bias",
            "qkv.weight",
            "out.weight",
            "norm2.weight",
            "norm2.bias",
        ];
        let known = |name: &str| {
            let whole = ["embedding.weight", "norm.weight", "norm.bias", "head.weight"];
            let of_layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
            let in_layers = of_layer.is_some_and(|(number, part)| {
                let numbered = number.parse::<u32>().is_ok_and(|number| number < layers);
                numbered && (parts.contains(&part) || ["up.weight", "down.weight"].contains(&part))
            });
            whole.contains(&name) || in_layers
        };
        match self.tensors.keys().find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => Err(wrong(name, "not of this architecture".into())),
        }
    }
}

fn wrong(tensor: &str, what: String) -> Error {
    Error::Shape { what: format!("tensor {tensor}: {what}") }
}

/// The number in the bytes of an element.
type Decode = fn(&[u8]) -> f32;

/// Bytes of an element and what they stand for.
fn decoder(dtype: Dtype) -> Option<(usize, Decode)> {
    match dtype {
        Dtype::F32 => Some((4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Dtype::F16 => Some((2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
        Dtype::BF16 => Some((2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
        _ => None,
    }
}

impl Weights {
    /// A model of these sizes that has learnt nothing: normal weights of deviation 0.02, gains of 1, biases of 0.
    pub fn random(sizes: Sizes, seed: u64) -> Weights {
        let [d, ff, vocab] = [sizes.d_model, sizes.d_ff, sizes.vocab].map(u64::from);
        let drawn = |number: u64, count: u64| -> Vec<f32> {
            let values = crate::operands::Values::Normals { scale: 0.02 };
            (0..count).map(|at| values.value(seed ^ number << 32, at)).collect()
        };
        let norm = || Norm { gain: vec![1.0; d as usize], bias: vec![0.0; d as usize] };
        let block = |layer: u64| Block {
            norm1: norm(),
            qkv: drawn(4 * layer + 3, 3 * d * d),
            out: drawn(4 * layer + 4, d * d),
            norm2: norm(),
            up: drawn(4 * layer + 5, ff * d),
            down: drawn(4 * layer + 6, d * ff),
        };
        Weights {
            sizes,
            embedding: drawn(1, vocab * d),
            blocks: (0..u64::from(sizes.layers)).map(block).collect(),
            norm: norm(),
            head: drawn(2, vocab * d),
        }
    }

    /// The same function with numbers that stand out: gains and biases of every `every`-th column of each norm are
    /// 2^`power` times as large, and the weights that read them 2^-`power` times; values of attention are
    /// 2^`values` times as large as queries and keys, and the weights that read them 2^-`values` times. In f32 not a
    /// bit of a logit changes.
    pub fn with_outliers(mut self, every: usize, power: i32, values: i32) -> Weights {
        let d = self.sizes.d_model as usize;
        let (up, values) = (2f32.powi(power), 2f32.powi(values));
        let raise = |norm: &mut Norm| {
            for column in (0..d).step_by(every) {
                norm.gain[column] *= up;
                norm.bias[column] *= up;
            }
        };
        let lower = |weight: &mut [f32]| {
            for row in weight.chunks_exact_mut(d) {
                row.iter_mut().step_by(every).for_each(|weight| *weight /= up);
            }
        };
        for block in &mut self.blocks {
            raise(&mut block.norm1);
            lower(&mut block.qkv);
            block.qkv[2 * d * d..].iter_mut().for_each(|weight| *weight *= values);
            block.out.iter_mut().for_each(|weight| *weight /= values);
            raise(&mut block.norm2);
            lower(&mut block.up);
        }
        raise(&mut self.norm);
        lower(&mut self.head);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::TensorView;

    use super::*;

    const SIZES: Sizes = Sizes { layers: 1, d_model: 128, d_ff: 128, vocab: 128 };

    type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

    fn tensors() -> Tensors {
        let mut tensors = Tensors::new();
        let mut add = |name: &str, shape: &[usize]| {
            let count: usize = shape.iter().product();
            let bytes =
                (0..count).flat_map(|at| f16::from_f32(at as f32 / 8.0).to_le_bytes()).collect();
            tensors.insert(name.to_owned(), (Dtype::F16, shape.to_vec(), bytes));
        };
        for name in ["embedding", "head", "layers.0.out", "layers.0.up", "layers.0.down"] {
            add(&format!("{name}.weight"), &[128, 128]);
        }
        add("layers.0.qkv.weight", &[384, 128]);
        for name in ["norm", "layers.0.norm1", "layers.0.norm2"] {
            add(&format!("{name}.weight"), &[128]);
            add(&format!("{name}.bias"), &[128]);
        }
        tensors
    }

    fn bytes(tensors: &Tensors) -> Vec<u8> {
        let views: BTreeMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a view");
                (name.as_str(), view)
            })
            .collect();
        safetensors::serialize(views, None).expect("serialised")
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Tensors), expect: &str) {
        let mut tensors = tensors();
        change(&mut tensors);
        let error = parse(&bytes(&tensors)).expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn a_whole_file_is_read() {
        let weights = parse(&bytes(&tensors())).expect("read");
        assert_eq!(weights.sizes, SIZES);
        assert_eq!((weights.blocks[0].qkv.len(), weights.norm.bias[9]), (384 * 128, 9.0 / 8.0));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_tensor() {
        let without = |name: &'static str| move |t: &mut Tensors| drop(t.remove(name));
        check(without("head.weight"), "tensor head.weight: not in the file");
        check(without("embedding.weight"), "tensor embedding.weight: not in the file");
        check(
            |t| drop(t.insert("wpe.weight".into(), t["norm.bias"].clone())),
            "tensor wpe.weight: not of this architecture",
        );
        check(
            |t| drop(t.insert("layers.2.up.weight".into(), t["head.weight"].clone())),
            "tensor layers.1.norm1.weight: not in the file",
        );
        check(
            |t| t.get_mut("layers.0.out.weight").expect("there").1 = vec![64, 256],
            "tensor layers.0.out.weight: shape [64, 256], wanted [128, 128]",
        );
        check(
            |t| t.get_mut("norm.bias").expect("there").0 = Dtype::I16,
            "tensor norm.bias: type I16, wanted F32, F16 or BF16",
        );
    }

    #[test]
    fn a_number_that_is_not_finite_is_named_with_its_byte() {
        let mut tensors = tensors();
        let infinite = f16::INFINITY.to_le_bytes();
        tensors.get_mut("head.weight").expect("there").2[2 * 300..2 * 301]
            .copy_from_slice(&infinite);
        let file = bytes(&tensors);
        let at = file.windows(2).rposition(|pair| pair == infinite);
        let error = parse(&file).expect_err("refused").to_string();
        let found = error.split("at byte ").nth(1).and_then(|rest| rest.split(',').next());
        assert!(
            error.contains("tensor head.weight: element 300") && error.contains("is inf"),
            "{error}"
        );
        assert!(found.is_some_and(|byte| {
            byte.parse::<usize>().is_ok_and(|byte| file[byte..byte + 2] == infinite)
        }));
        assert!(at.is_some());
    }

    #[test]
    fn a_weight_that_halves_cannot_hold_is_named() {
        let mut weights = parse(&bytes(&tensors())).expect("a model");
        for element in [Element::F16, Element::Bf16, Element::F32] {
            assert!(weights.held_in(element).is_ok(), "{element:?}");
        }
        weights.blocks[0].up[17] = -65_520.0;
        let error = weights.held_in(Element::F16).expect_err("refused").to_string();
        assert!(error.contains("tensor layers.0.up.weight: element 17 is -65520"), "{error}");
        assert!(weights.held_in(Element::Bf16).is_ok());
        weights.norm.bias[3] = 3.4e38;
        let error = weights.held_in(Element::Bf16).expect_err("refused").to_string();
        assert!(error.contains("tensor norm.bias: element 3"), "{error}");
        assert!(weights.held_in(Element::F32).is_ok());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let file = bytes(&tensors());
        let check = |bytes: &[u8]| {
            let error = parse(bytes).expect_err("refused").to_string();
            let expect = format!("where the file does, at byte {}", bytes.len());
            assert!(error.contains(&expect), "{error}");
        };
        check(&file[..file.len() - 3]);
        check(&[&file[..], &[0, 0]].concat());
        for end in [0, 5, 8, 200] {
            let error = parse(&file[..end]).expect_err("refused").to_string();
            assert!(error.contains(&format!("no header of safetensors in {end} bytes")), "{error}");
        }
    }

    #[test]
    fn sizes_must_fit_the_blocks() {
        let check = |sizes: Sizes| sizes.check().is_ok();
        assert!(check(SIZES));
        assert!(!check(Sizes { d_model: 192, ..SIZES }));
        assert!(!check(Sizes { vocab: 250, ..SIZES }));
        assert!(!check(Sizes { d_ff: 0, ..SIZES }));
        assert!(!check(Sizes { d_model: 16384, ..SIZES }));
    }

    #[test]
    fn outliers_move_between_neighbours() {
        let plain = Weights::random(SIZES, 3);
        let moved = plain.clone().with_outliers(64, 4, 5);
        let (a, b) = (&plain.blocks[0], &moved.blocks[0]);
        assert_eq!((b.norm1.gain[0], b.norm1.gain[1], b.norm1.gain[64]), (16.0, 1.0, 16.0));
        // A query reads column 0 and column 1; values are raised as well.
        assert_eq!((b.qkv[0], b.qkv[1]), (a.qkv[0] / 16.0, a.qkv[1]));
        let value = 2 * 128 * 128;
        assert_eq!((b.qkv[value], b.qkv[value + 1]), (2.0 * a.qkv[value], 32.0 * a.qkv[value + 1]));
        assert_eq!((b.out[0], b.out[1], b.down[0]), (a.out[0] / 32.0, a.out[1] / 32.0, a.down[0]));
    }
}
