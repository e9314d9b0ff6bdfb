//! Known answers of the own E4M3 products: small integers, whose sums are exact in every order and in 13 bits.

use super::{Asker, SEED};
use crate::Result;
use crate::element::Element;
use crate::generator::draw;
use crate::matmul::{Dtype, Operands, Request};
use crate::promoted::Promoted;

/// Sizes that end inside a tile of a cluster, inside a tile's columns, and inside a chunk of k, of which three are no
/// whole groups.
const M: u32 = 200;
const N: u32 = 208;
const K: u32 = 272;
/// Elements from one row of D to the next.
const ROW: u32 = 224;

/// Asks an entry of [`crate::promoted::SOURCE`].
pub(super) fn ask(asker: &Asker<'_>, name: &str) -> Result<u64> {
    asker.promoted("promoted", name)
}

/// Asks an entry of [`crate::promoted::SOURCE_PLANTED`], which differs where sums need more than 13 bits.
pub(super) fn ask_planted(asker: &Asker<'_>, name: &str) -> Result<u64> {
    asker.promoted("promoted-one-accumulator", name)
}

/// Numbers of seed `seed`: -2 to 2.
fn value(seed: u64, at: u64) -> f32 {
    (draw(SEED ^ seed, at) % 5) as f32 - 2.0
}

fn scale(row: u32) -> f32 {
    2f32.powi((row % 3) as i32 - 2)
}

fn row_of(numbers: &[f32], row: u32) -> &[f32] {
    &numbers[(row * K) as usize..][..K as usize]
}

impl Asker<'_> {
    /// A product over what lies in D, and one that is added to it, rows of D apart.
    fn promoted(&self, module: &str, name: &str) -> Result<u64> {
        let stream = self.stream();
        let promoted = Promoted::new(self.gpu, self.module(module)?)?;
        let dtype = if name.ends_with("bf16") { Dtype::E4m3Row } else { Dtype::E4m3RowHalf };
        let output = dtype.output();
        let codes = |seed: u64, rows: u32| {
            let count = u64::from(rows) * u64::from(K);
            let codes: Vec<u32> =
                (0..count).map(|at| Element::E4m3.encode(value(seed, at))).collect();
            self.with_words(&Element::E4m3.pack(&codes))
        };
        let scales = |rows: u32| {
            self.with_words(&(0..rows).map(|row| scale(row).to_bits()).collect::<Vec<u32>>())
        };
        let (a, b) = (codes(61, M)?, codes(62, N)?);
        let (scale_a, scale_b) = (scales(M)?, scales(N)?);
        let old = |at: u32| value(63, at.into());
        let numbers = |seed: u64, rows: u32| -> Vec<f32> {
            (0..u64::from(rows * K)).map(|at| value(seed, at)).collect()
        };
        let (left, right) = (numbers(61, M), numbers(62, N));
        let sum = |m: u32, n: u32| -> f32 {
            let terms = row_of(&left, m).iter().zip(row_of(&right, n));
            terms.map(|(x, y)| x * y).sum::<f32>() * scale(m) * scale(n)
        };
        let mut wrong = 0;
        for accumulate in [false, true] {
            let words: Vec<u32> = (0..M * ROW).map(|at| output.encode(old(at))).collect();
            let d = self.with_words(&output.pack(&words))?;
            let request = Request { row_d: Some(ROW), accumulate, ..Request::new(dtype, M, N, K) };
            let operands = Operands {
                a: &a,
                b: &b,
                d: &d,
                scale_a: Some(&scale_a),
                scale_b: Some(&scale_b),
                alpha: 1.0,
                first: [0; 3],
            };
            promoted.run(stream, &request, &operands)?;
            let element = |at: u32| {
                let (row, column) = (at / ROW, at % ROW);
                let before = if accumulate || column >= N { old(at) } else { 0.0 };
                output.encode(before + if column < N { sum(row, column) } else { 0.0 })
            };
            let wanted: Vec<u32> = (0..M * ROW).map(element).collect();
            wrong += self.compare_buffer(name, &d, &output.pack(&wanted))?;
        }
        Ok(wrong)
    }
}
