//! The oracles of the evaluator, in f64 on the CPU: the whole model over one window, and models whose loss is
//! known by counting.

use super::checkpoint::{Block, Norm, Weights};
use crate::model::{HEAD_SIZE, reference};

/// Logits of every position of a window, [tokens][vocab], in f64. Plain loops; the rows of a product are shared
/// among threads.
pub fn logits(weights: &Weights, tokens: &[u32]) -> Vec<Vec<f64>> {
    let d = weights.sizes.d_model as usize;
    let row = |&token: &u32| {
        weights.embedding[token as usize * d..][..d].iter().map(|&x| x.into()).collect()
    };
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(row).collect();
    for block in &weights.blocks {
        add(&mut stream, |rows| attended(block, rows));
        add(&mut stream, |rows| {
            let mut inner = product(&normed(rows, &block.norm2), &block.up);
            inner.iter_mut().flatten().for_each(|x| *x = reference::gelu(*x));
            product(&inner, &block.down)
        });
    }
    product(&normed(&stream, &weights.norm), &weights.head)
}

fn add(stream: &mut [Vec<f64>], summand: impl FnOnce(&[Vec<f64>]) -> Vec<Vec<f64>>) {
    let summand = summand(stream);
    for (row, summand) in stream.iter_mut().zip(summand) {
        row.iter_mut().zip(summand).for_each(|(x, y)| *x += y);
    }
}

fn normed(rows: &[Vec<f64>], norm: &Norm) -> Vec<Vec<f64>> {
    let affine: Vec<(f64, f64)> =
        norm.gain.iter().zip(&norm.bias).map(|(&gain, &bias)| (gain.into(), bias.into())).collect();
    rows.iter().map(|row| reference::norm(row, &affine)).collect()
}

fn attended(block: &Block, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (size, d) = (HEAD_SIZE as usize, rows.first().map_or(0, Vec::len));
    let qkv = product(&normed(rows, &block.norm1), &block.qkv);
    let mut out = vec![vec![0.0; d]; rows.len()];
    for head in (0..d).step_by(size) {
        for (at, sums) in out.iter_mut().enumerate() {
            let part = |row: usize, part: usize| &qkv[row][part * d + head..][..size];
            let score = |key: usize| dot(part(at, 0), part(key, 1)) / f64::from(HEAD_SIZE).sqrt();
            let scores: Vec<f64> = (0..=at).map(score).collect();
            let whole = log_sum(scores.iter().copied());
            for (key, score) in scores.iter().enumerate() {
                let weight = (score - whole).exp();
                let sums = sums[head..][..size].iter_mut();
                sums.zip(part(key, 2)).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
    product(&out, &block.out)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Rows times a transposed weight, `[outputs][inputs]`.
fn product(rows: &[Vec<f64>], weight: &[f32]) -> Vec<Vec<f64>> {
    let inputs = rows.first().map_or(1, Vec::len);
    let outputs = weight.len() / inputs;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let band = |part: &[f32]| -> Vec<Vec<f64>> {
        let one = |weight: &[f32]| {
            let weight: Vec<f64> = weight.iter().map(|&x| x.into()).collect();
            rows.iter().map(|row| dot(row, &weight)).collect()
        };
        part.chunks_exact(inputs).map(one).collect()
    };
    // By output, then by row.
    let columns: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let parts = weight.chunks(inputs * outputs.div_ceil(threads));
        let started: Vec<_> = parts.map(|part| scope.spawn(move || band(part))).collect();
        started.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    (0..rows.len()).map(|row| columns.iter().map(|column| column[row]).collect()).collect()
}

/// The logarithm of a sum of exponentials.
fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    most + values.map(|x| (x - most).exp()).sum::<f64>().ln()
}

/// Cross-entropy of a target under logits, in nats.
pub fn cross_entropy(logits: &[f32], target: u32) -> f64 {
    log_sum(logits.iter().map(|&x| x.into())) - f64::from(logits[target as usize])
}

/// Logits of a model that knows how often each byte follows each other one in a text, once more than it does:
/// `[256][256]`, a row for each byte before. Its cross-entropy is known by counting.
pub fn bigram(text: &[u8]) -> Vec<f32> {
    let mut counts = vec![1u32; 256 * 256];
    text.windows(2).for_each(|pair| counts[usize::from(pair[0]) * 256 + usize::from(pair[1])] += 1);
    counts.into_iter().map(|count| f64::from(count).ln() as f32).collect()
}

/// Mean cross-entropy of each document's tokens but the first, under a table of logits by the token before, in nats.
pub fn table_losses<'a>(
    table: &[f32],
    vocab: usize,
    documents: impl Iterator<Item = &'a [u32]>,
) -> Vec<f64> {
    let whole = |row: &[f32]| log_sum(row.iter().map(|&x| x.into()));
    let wholes: Vec<f64> = table.chunks_exact(vocab).map(whole).collect();
    let loss = |pair: &[u32]| {
        let [before, token] = [pair[0], pair[1]].map(|token| token as usize);
        wholes[before] - f64::from(table[before * vocab + token])
    };
    let mean = |document: &[u32]| {
        let pairs = document.windows(2);
        let count = pairs.len() as f64;
        pairs.map(loss).sum::<f64>() / count
    };
    documents.map(mean).collect()
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::super::checkpoint::Sizes;
    use super::*;

    #[test]
    fn equal_logits_are_worth_the_vocabulary() {
        assert_relative_eq!(cross_entropy(&[3.5; 256], 7).exp(), 256.0, max_relative = 1e-14);
        let half = [1.0f32, 1.0, f32::NEG_INFINITY];
        assert_relative_eq!(cross_entropy(&half, 1).exp(), 2.0, max_relative = 1e-14);
    }

    #[test]
    fn a_bigram_is_worth_what_counting_says() {
        // Behind an `a` comes `b` twice: 3 of 258; behind `b` an `a` once: 2 of 257.
        let table = bigram(b"abab");
        let wanted = ((258.0f64 / 3.0).ln() + (257.0f64 / 2.0).ln()) / 2.0;
        let document = [97, 98, 97];
        let found = table_losses(&table, 256, [&document[..]].into_iter());
        assert_relative_eq!(found[0], wanted, max_relative = 1e-7);
    }

    #[test]
    fn a_product_by_hand() {
        let rows = [vec![1.0, 2.0], vec![3.0, 4.0]];
        let found = product(&rows, &[1.0, 0.0, 0.5, 0.5, 0.0, 2.0]);
        assert_eq!(found, [[1.0, 1.5, 4.0], [3.0, 3.5, 8.0]]);
    }

    #[test]
    fn a_token_sees_what_was_before_it_alone() {
        let sizes = Sizes { layers: 2, d_model: 128, d_ff: 128, vocab: 128 };
        let weights = Weights::random(sizes, 5);
        let (a, b) = (logits(&weights, &[1, 2, 3]), logits(&weights, &[1, 2, 9]));
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        // A first token attends to itself alone, so its values pass unchanged.
        assert_eq!(a[0], logits(&weights, &[1])[0]);
    }

    #[test]
    fn outliers_leave_the_function() {
        let sizes = Sizes { layers: 2, d_model: 128, d_ff: 128, vocab: 128 };
        let weights = Weights::random(sizes, 5);
        let moved = weights.clone().with_outliers(32, 6, 9);
        assert_eq!(logits(&weights, &[7, 1, 100]), logits(&moved, &[7, 1, 100]));
    }
}
