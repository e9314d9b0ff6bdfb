//! Known answers of weight-only products: integers, whose sums are exact in every order.

use super::{Asker, SEED};
use crate::Result;
use crate::element::Element;
use crate::generator::draw;
use crate::weightonly::{WeightOnly, oracle};

/// Rows of weights, which end inside a block, and columns, whose last parts are short or empty.
const ROWS: u32 = 42;
const COLUMNS: u32 = 576;

impl Asker<'_> {
    /// Multiplies integers of so many rows, weights in E4M3 with powers of two as scales or in fp16.
    pub(super) fn weight_only(&self, name: &str, scaled: bool, m: u32) -> Result<u64> {
        let k = u64::from(COLUMNS);
        let value = |seed: u64, at: u64| (draw(SEED ^ seed, at) % 31) as f32 - 15.0;
        let codes = |element: Element, seed: u64, rows: u32| -> Vec<u32> {
            (0..u64::from(rows) * k).map(|at| element.encode(value(seed, at))).collect()
        };
        let weight = if scaled { Element::E4m3 } else { Element::F16 };
        let activations = self.with_words(&Element::F16.pack(&codes(Element::F16, 51, m)))?;
        let weights = self.with_words(&weight.pack(&codes(weight, 52, ROWS)))?;
        let scale = |row: u32| 2f32.powi((row % 5) as i32 - 4);
        let scales: Vec<u32> = (0..ROWS).map(|row| scale(row).to_bits()).collect();
        let scales = self.with_words(&scales)?;
        let out = self.gpu.alloc(2 * u64::from(m) * u64::from(ROWS))?;
        out.poison(self.stream())?;
        let product = WeightOnly::new(self.gpu, self.module("weightonly")?)?;
        let given = scaled.then_some(&scales);
        product.run(self.stream(), &activations, &weights, given, &out, (m, ROWS, COLUMNS))?;
        let numbers = |seed: u64, row: u32| -> Vec<f64> {
            (0..k).map(|column| f64::from(value(seed, u64::from(row) * k + column))).collect()
        };
        let element = |at: u32| {
            let (row, column) = (at / ROWS, at % ROWS);
            let scale = scaled.then_some(scale(column));
            let (sum, _) = oracle::exact(&numbers(51, row), &numbers(52, column), scale);
            Element::F16.encode(sum as f32)
        };
        let wanted: Vec<u32> = (0..m * ROWS).map(element).collect();
        self.compare_buffer(name, &out, &Element::F16.pack(&wanted))
    }
}
