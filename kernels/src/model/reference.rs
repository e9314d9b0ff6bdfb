//! The whole model in f64 on the CPU, rounded to halves, or to bf16, where the GPU stores those: the oracle of small
//! models. Plain loops over all rows; the rows of a product are shared among threads.

use half::{bf16, f16};

use super::weights::{self, Linear};
use super::{Config, EPSILON, HEAD_SIZE, Precision, Problem};
use crate::element::Element;
use crate::quantise::Scheme;
use crate::quantise::oracle::quantise;

/// Rounds to a half.
pub fn half(x: f64) -> f64 {
    f16::from_f64(x).to_f64()
}

/// Rounds to what a model of that precision stores: a half or a bf16.
pub fn stored(precision: Precision, x: f64) -> f64 {
    match precision.element() {
        Element::Bf16 => bf16::from_f64(x).to_f64(),
        _ => half(x),
    }
}

/// `x / 2 (1 + erf(x / sqrt 2))`, by erfc, so that nothing cancels where bf16 still has numbers for it.
pub fn gelu(x: f64) -> f64 {
    x * 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Layer norm of one row.
pub fn norm(row: &[f64], affine: &[(f64, f64)]) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let inverse = (variance + f64::from(EPSILON)).sqrt().recip();
    let scaled = row.iter().zip(affine).map(|(x, (gain, bias))| (x - mean) * inverse * gain + bias);
    scaled.collect()
}

/// Logits of each sequence's last token, [batches][vocab].
pub fn logits(config: &Config, problem: &Problem, tokens: &[u32]) -> Vec<Vec<f64>> {
    logits_over(config, config.precision, problem, tokens)
}

/// The same with weights as `config` has them and activations as they are stored: weight-only.
pub fn logits_weight_only(config: &Config, problem: &Problem, tokens: &[u32]) -> Vec<Vec<f64>> {
    let stored = match config.precision {
        Precision::Bf16 => Precision::Bf16,
        Precision::F16
        | Precision::E4m3
        | Precision::E4m3Fast
        | Precision::E4m3Promoted
        | Precision::WeightsE4m3 => Precision::F16,
    };
    logits_over(config, stored, problem, tokens)
}

/// Logits where products read activations in a precision of their own.
fn logits_over(
    config: &Config,
    activations: Precision,
    problem: &Problem,
    tokens: &[u32],
) -> Vec<Vec<f64>> {
    let precisions = (activations, config.precision);
    let d = config.d_model;
    let affine = affine(config);
    let embedding = weights::embedding_seed(config);
    let row_of = |&token: &u32| weight_row(config.precision, embedding, d, token);
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(row_of).collect();
    let round = |x: f64| stored(config.precision, x);
    let rounded = |row: Vec<f64>| row.into_iter().map(round).collect::<Vec<f64>>();
    let normed = |stream: &[Vec<f64>]| -> Vec<Vec<f64>> {
        stream.iter().map(|row| rounded(norm(row, &affine))).collect()
    };
    for layer in 0..config.layers {
        let seed = |linear: Linear| linear.seed(config, layer);
        let product = |rows: &[Vec<f64>], seed, outputs| product(precisions, rows, seed, outputs);
        let qkv = product(&normed(&stream), seed(Linear::Qkv), 3 * d);
        let qkv: Vec<Vec<f64>> = qkv.into_iter().map(rounded).collect();
        let attended = attention(&qkv, config, problem);
        add(config.precision, &mut stream, product(&attended, seed(Linear::Out), d));
        let inner = product(&normed(&stream), seed(Linear::Up), config.d_ff);
        let inner: Vec<Vec<f64>> = inner
            .into_iter()
            .map(|row| row.into_iter().map(|x| round(gelu(round(x)))).collect())
            .collect();
        add(config.precision, &mut stream, product(&inner, seed(Linear::Down), d));
    }
    let last = |batch: u32| stream[((batch + 1) * problem.tokens - 1) as usize].clone();
    let last: Vec<Vec<f64>> = (0..problem.batches).map(last).collect();
    product(precisions, &normed(&last), Linear::Head.seed(config, 0), config.vocab)
}

/// Adds a product to the stream, with one rounding.
fn add(precision: Precision, stream: &mut [Vec<f64>], product: Vec<Vec<f64>>) {
    for (row, summand) in stream.iter_mut().zip(product) {
        for (x, y) in row.iter_mut().zip(summand) {
            *x = stored(precision, *x + y);
        }
    }
}

/// Gain and bias of every column, as the GPU holds them.
pub fn affine(config: &Config) -> Vec<(f64, f64)> {
    let of_column = |column| {
        let (gain, bias) = weights::affine_value(config, column);
        let round = |x: f64| stored(config.precision, x);
        (round(1.0 + round(gain.into())), round(bias.into()))
    };
    (0..config.d_model).map(of_column).collect()
}

/// A row of a linear as its product reads it, quantised where the precision says so.
pub fn linear_row(
    config: &Config,
    (linear, layer): (Linear, u32),
    columns: u32,
    row: u32,
) -> Vec<f64> {
    let seed = linear.seed(config, layer);
    read_weight(config.precision, weight_row(config.precision, seed, columns, row))
}

/// A row of a weight as the GPU holds it.
fn weight_row(precision: Precision, seed: u64, columns: u32, row: u32) -> Vec<f64> {
    let value = |column| stored(precision, weights::value(seed, columns, row, column).into());
    (0..columns).map(value).collect()
}

/// What a product reads of a row of activations in halves, or in bf16.
pub fn read(precision: Precision, row: Vec<f64>) -> Vec<f64> {
    if precision.is_fp8() { numbers(&row) } else { row }
}

/// What a product of a pass reads of a row of a weight.
fn read_weight(precision: Precision, row: Vec<f64>) -> Vec<f64> {
    match precision {
        Precision::F16 | Precision::Bf16 => row,
        Precision::E4m3 | Precision::E4m3Fast | Precision::E4m3Promoted => numbers(&row),
        Precision::WeightsE4m3 => numbers(&row).into_iter().map(half).collect(),
    }
}

/// Numbers of the codes of a row of halves.
fn numbers(row: &[f64]) -> Vec<f64> {
    let halves: Vec<f16> = row.iter().map(|x| f16::from_f64(*x)).collect();
    quantise(Scheme::Row, &halves, halves.len(), 0.0).numbers
}

/// Rows times the transposed weight of `outputs` rows, each in its precision.
fn product(
    (activations, weights): (Precision, Precision),
    rows: &[Vec<f64>],
    seed: u64,
    outputs: u32,
) -> Vec<Vec<f64>> {
    let rows: &[Vec<f64>] =
        &rows.iter().map(|row| read(activations, row.clone())).collect::<Vec<_>>();
    let columns = rows.first().map_or(0, Vec::len) as u32;
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let each = outputs.div_ceil(threads).max(1);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    // One thread a band of outputs: each makes its weights once and meets every row.
    let bands: Vec<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let band = |first: u32| {
            let end = (first + each).min(outputs);
            (first..end)
                .map(|output| {
                    let weight = read_weight(weights, weight_row(weights, seed, columns, output));
                    rows.iter().map(|row| dot(row, &weight)).collect()
                })
                .collect::<Vec<Vec<f64>>>()
        };
        let firsts = (0..outputs).step_by(each as usize);
        let running: Vec<_> = firsts.map(|first| scope.spawn(move || band(first))).collect();
        running.into_iter().map(|thread| thread.join().expect("plain arithmetic")).collect()
    });
    let by_output: Vec<Vec<f64>> = bands.into_iter().flatten().collect();
    (0..rows.len()).map(|row| by_output.iter().map(|output| output[row]).collect()).collect()
}

/// Causal attention of every head over rows of queries, keys and values, rounded.
fn attention(qkv: &[Vec<f64>], config: &Config, problem: &Problem) -> Vec<Vec<f64>> {
    let (d, size) = (config.d_model as usize, HEAD_SIZE as usize);
    let scale = f64::from(HEAD_SIZE).sqrt().recip();
    let sequence = problem.tokens as usize;
    let row = |at: usize| -> Vec<f64> {
        let first = at / sequence * sequence;
        let heads = (0..d / size).flat_map(|head| {
            let part = |row: usize, part: usize| &qkv[row][part * d + head * size..][..size];
            let score = |key: usize| -> f64 {
                part(at, 0).iter().zip(part(key, 1)).map(|(q, k)| q * k).sum::<f64>() * scale
            };
            let scores: Vec<f64> = (first..=at).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            (0..size)
                .map(|column| {
                    let values = weights.iter().zip(first..=at);
                    values.map(|(weight, key)| weight * part(key, 2)[column]).sum::<f64>() / total
                })
                .collect::<Vec<f64>>()
        });
        heads.map(|x| stored(config.precision, x)).collect()
    };
    (0..qkv.len()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_at_points_from_tables() {
        // erf(1 / sqrt 2) = 0.682689492137; erf(2 / sqrt 2) = 0.954499736104.
        approx::assert_abs_diff_eq!(gelu(1.0), 0.5 * 1.682_689_492_137, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(gelu(-2.0), -(1.0 - 0.954_499_736_104), epsilon = 1e-12);
        assert_eq!(gelu(0.0), 0.0);
    }

    /// Coefficients of the tail, from a source.
    fn coefficients(source: &str) -> Vec<f32> {
        let (_, list) = source.split_once("COEFFICIENTS[").unwrap();
        let (list, _) = list.split_once('}').unwrap();
        let (_, list) = list.split_once('{').unwrap();
        list.split(',').map(|text| text.trim().trim_end_matches('f').parse().unwrap()).collect()
    }

    /// What a source makes of a number, by its own constants in f32, before it is rounded; the GPU's `ex2` is within two
    /// steps of this one, and has zero where the power of two is no normal number.
    fn fitted(x: f32, most: f32, coefficients: &[f32]) -> f32 {
        let magnitude = x.abs().min(most);
        let power = coefficients.iter().rev().copied();
        let power = power.reduce(|sum, next| sum.mul_add(magnitude, next)).unwrap();
        let tail = if power < -126.0 { 0.0 } else { libm::exp2f(power) };
        (-magnitude).mul_add(tail, x.max(0.0))
    }

    /// Steps from what is found to the nearest code of GELU, of every finite code: how many, the most, and their sum.
    fn steps(found: fn(f32, &[f32]) -> f32, source: &str, element: Element) -> [i32; 3] {
        let coefficients = coefficients(source);
        let place = |code: u32| match code {
            0x8000.. => -((code & 0x7FFF) as i32),
            _ => code as i32,
        };
        let codes = (0..=0xFFFFu32).filter(|&code| element.decode(code).is_finite());
        let steps = codes.map(|code| {
            let x = element.decode(code);
            let wanted = match element {
                Element::Bf16 if x < -12.95 => 0,
                Element::Bf16 => bf16::from_f64(gelu(x)).to_bits().into(),
                _ => f16::from_f64(gelu(x)).to_bits().into(),
            };
            (place(element.encode(found(x as f32, &coefficients))) - place(wanted)).abs()
        });
        let steps: Vec<i32> = steps.collect();
        [steps.len() as i32, steps.iter().max().copied().unwrap(), steps.iter().sum()]
    }

    /// Every finite half: the nearest one to GELU but for 160 of 63488, and its neighbour there. By 1 + erf in f32
    /// it were 331, some two away, since below zero most of that sum cancels.
    #[test]
    fn gelu_of_every_half() {
        let found = |x: f32, of: &[f32]| fitted(x, f16::from_bits(0x45CD).to_f32(), of);
        assert_eq!(steps(found, include_str!("gelu.cuh"), Element::F16), [63488, 1, 160]);
    }

    /// Every finite bf16, zero beyond -12.95: the nearest one to GELU but for 25 of 65280, and its neighbour there.
    #[test]
    fn gelu_of_every_bf16() {
        let found = |x: f32, of: &[f32]| fitted(x, bf16::from_bits(0x4154).to_f32(), of);
        assert_eq!(steps(found, include_str!("gelu_bf16.cuh"), Element::Bf16), [65280, 1, 25]);
    }

    #[test]
    fn a_norm_by_hand() {
        let affine = [(1.0, 0.0), (2.0, 1.0), (1.0, 0.0), (1.0, 0.0)];
        let found = norm(&[1.0, 3.0, 1.0, 3.0], &affine);
        let one = 1.0 / (1.0 + 1e-5f64).sqrt();
        let wanted = [-one, 2.0 * one + 1.0, -one, one];
        for (found, wanted) in found.iter().zip(wanted) {
            approx::assert_abs_diff_eq!(*found, wanted, epsilon = 1e-9);
        }
    }

    /// The last token's logits depend on every token before it, and on none of another sequence.
    #[test]
    fn sequences_are_apart() {
        let sizes = Config { layers: 1, d_model: 128, d_ff: 128, vocab: 64, ..Config::SEED_002 };
        let weights_alone = Precision::WeightsE4m3;
        for precision in [Precision::F16, Precision::Bf16, Precision::E4m3, weights_alone] {
            apart(Config { seed: 5, precision, ..sizes });
        }
    }

    fn apart(config: Config) {
        let problem = Problem { batches: 2, tokens: 3, chunks: 1 };
        let whole = logits(&config, &problem, &[1, 2, 3, 4, 5, 6]);
        let other = logits(&config, &problem, &[7, 2, 3, 4, 5, 6]);
        assert_eq!((whole.len(), whole[0].len()), (2, 64));
        assert_ne!(whole[0], other[0]);
        assert_eq!(whole[1], other[1]);
        let alone = Problem { batches: 1, ..problem };
        assert_eq!(logits(&config, &alone, &[4, 5, 6])[0], whole[1]);
    }
}
