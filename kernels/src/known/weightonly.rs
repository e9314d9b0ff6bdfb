//! Known answers of weight-only products: integers, whose sums are exact in every order.

use super::{Asker, SEED};
use crate::Result;
use crate::device::Buffer;
use crate::element::Element;
use crate::generator::draw;
use crate::model::{Affine, Matrix};
use crate::weightonly::{Out, WeightOnly, oracle};

/// Rows of weights, which end inside a block, and columns, whose last parts are short or empty.
const ROWS: u32 = 42;
const COLUMNS: u32 = 576;

/// Numbers of seed `seed`: -15 to 15.
fn value(seed: u64, at: u64) -> f32 {
    (draw(SEED ^ seed, at) % 31) as f32 - 15.0
}

/// Rows of halves, packed into words.
fn halves(rows: u32, of: &dyn Fn(u64) -> f32) -> Vec<u32> {
    let count = u64::from(rows) * u64::from(COLUMNS);
    let codes: Vec<u32> = (0..count).map(|at| Element::F16.encode(of(at))).collect();
    Element::F16.pack(&codes)
}

impl Asker<'_> {
    /// Multiplies integers of so many rows, weights in E4M3 with powers of two as scales or in fp16.
    pub(super) fn weight_only(&self, name: &str, scaled: bool, m: u32) -> Result<u64> {
        let given = self.with_words(&halves(m, &|at| value(51, at)))?;
        self.weight_only_of(name, scaled, m, (&given, None), &|at| value(51, at))
    }

    /// The same of ones of either sign, whose mean is 0 and whose variance is 1. Their norm is an odd gain, with that
    /// sign, and an even bias: integers other than 0, since epsilon moves no half so far as to the next.
    pub(super) fn weight_only_normed(&self, name: &str, scaled: bool, m: u32) -> Result<u64> {
        let columns = u64::from(COLUMNS);
        let sign = |at: u64| if (at + at / columns).is_multiple_of(2) { 1.0 } else { -1.0 };
        let gain = |at: u64| 2.0 * (value(53, at) / 2.0).floor() + 1.0;
        let bias = |at: u64| 2.0 * (value(54, at) / 4.0).floor();
        let normed = |at: u64| sign(at) * gain(at % columns) + bias(at % columns);
        let given = self.with_words(&halves(m, &sign))?;
        let (gain, bias) =
            (self.with_words(&halves(1, &gain))?, self.with_words(&halves(1, &bias))?);
        let affine = Affine { gain: &gain, bias: &bias };
        self.weight_only_of(name, scaled, m, (&given, Some(affine)), &normed)
    }

    fn weight_only_of(
        &self,
        name: &str,
        scaled: bool,
        m: u32,
        (activations, norm): (&Buffer, Option<Affine<'_>>),
        activation: &dyn Fn(u64) -> f32,
    ) -> Result<u64> {
        let k = u64::from(COLUMNS);
        let weight = if scaled { Element::E4m3 } else { Element::F16 };
        let codes: Vec<u32> =
            (0..u64::from(ROWS) * k).map(|at| weight.encode(value(52, at))).collect();
        let weights = self.with_words(&weight.pack(&codes))?;
        let scale = |row: u32| 2f32.powi((row % 5) as i32 - 4);
        let scales: Vec<u32> = (0..ROWS).map(|row| scale(row).to_bits()).collect();
        let scales = self.with_words(&scales)?;
        let out = self.gpu.alloc(2 * u64::from(m) * u64::from(ROWS))?;
        out.poison(self.stream())?;
        let product = WeightOnly::new(self.gpu, self.module("weightonly")?)?;
        let weights = (&weights, scaled.then_some(&scales));
        let parts = [Matrix::packed(&out, ROWS)];
        let to = Out { norm, ..Out::plain(&parts) };
        product.run_into(self.stream(), activations, weights, &to, (m, ROWS, COLUMNS))?;
        let numbers = |of: &dyn Fn(u64) -> f32, row: u32| -> Vec<f64> {
            (0..k).map(|column| f64::from(of(u64::from(row) * k + column))).collect()
        };
        let element = |at: u32| {
            let (row, column) = (at / ROWS, at % ROWS);
            let scale = scaled.then_some(scale(column));
            let (sum, _) = oracle::exact(
                &numbers(activation, row),
                &numbers(&|at| value(52, at), column),
                scale,
            );
            Element::F16.encode(sum as f32)
        };
        let wanted: Vec<u32> = (0..m * ROWS).map(element).collect();
        self.compare_buffer(name, &out, &Element::F16.pack(&wanted))
    }
}
