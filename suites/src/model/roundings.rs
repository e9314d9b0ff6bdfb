//! Rows of a pass in bf16 against f64: the error of each stage, over what its roundings explain.
//!
//! Each stage is computed anew on what it was really given, and on weights made anew. Let u = 2^-8, the unit roundoff
//! of bf16, h(y) half a unit in the last place at y (at most u |y|), and s a sum over k of weights w times inputs x, whose
//! size is |w| |x| / sqrt k, as random signs leave it. A right stage differs from f64 by at most
//!
//! - a product: h(y) for its one rounding, and [`TIPPED`] of the sum's size for sums in f32 and for elements of a normed
//!   row that tip to the next bf16, a few of 8192, each by 2^-7 of itself;
//! - a product that is added to something: h(s) more, since cuBLASLt 13.1 rounds the product before it adds and rounds
//!   again: on an H200 one rounding explains half of the largest error behind attention and a third of that behind
//!   the MLP;
//! - GELU behind a product s: as much as GELU changes within h(s) + [`TIPPED`] of the size around s, h(y), and
//!   [`FITTED`] |y| for its fit. GELU is convex around its least value, so that the ends of that interval are the worst;
//! - attention: h(y), and u + [`TIPPED`] of the weighted sum of |values|, since each weight is rounded to bf16.

use kernels::element::Element;
use kernels::model::probe::Seen;
use kernels::model::reference::{self, gelu, linear_row, norm, stored};
use kernels::model::weights::Linear;
use kernels::model::{Config, HEAD_SIZE, Precision};

use super::check::{chosen, weights};
use crate::lab::finite;
use crate::tensor_parallel::bench::numbers;

/// What sums in f32 and tipped elements of their input err by, over the size of the sum.
const TIPPED: f64 = 1.0 / 1024.0;
/// What the fit of GELU errs by, over the result.
const FITTED: f64 = 1.0 / 4096.0;
/// The unit roundoff of bf16.
const UNIT: f64 = 1.0 / 256.0;

/// What the rows are computed anew with.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// Of the weights. Another precision than [`Precision::Bf16`] is a planted fault.
    pub config: Config,
    /// Gain and bias of every column of a norm.
    pub affine: Vec<(f64, f64)>,
}

impl Oracle {
    /// That of a model in bf16.
    pub fn new(config: Config) -> Oracle {
        Oracle { config, affine: reference::affine(&config) }
    }

    /// The largest error of each of [`super::check::STAGES`] in a row over its bound: 1 at most where all is right, 1e300
    /// where a number is none.
    pub fn over_bounds(&self, seen: &Seen) -> [f64; 5] {
        let [before, qkv, attended, middle, inner, after] =
            [&seen.before, &seen.qkv, &seen.attended, &seen.middle, &seen.inner, &seen.after]
                .map(|codes| numbers(Element::Bf16, codes));
        let product = |linear, added: Option<&[f64]>, input: &[f64], found: &[f64]| {
            self.product((linear, seen), input, found, |sum, off, at| {
                let first = added.map_or(0.0, |_| half_ulp(sum.abs() + off));
                let (wanted, off) = (sum + added.map_or(0.0, |added| added[at]), off + first);
                (wanted, half_ulp(wanted.abs() + first) + off)
            })
        };
        [
            product(Linear::Qkv, None, &self.normed(&before), &qkv),
            attention(seen, &qkv, &attended),
            product(Linear::Out, Some(&before), &attended, &middle),
            self.product((Linear::Up, seen), &self.normed(&middle), &inner, behind_gelu),
            product(Linear::Down, Some(&middle), &inner, &after),
        ]
    }

    fn normed(&self, row: &[f64]) -> Vec<f64> {
        norm(row, &self.affine).into_iter().map(|x| stored(Precision::Bf16, x)).collect()
    }

    /// Drawn columns of a product. `wanted` is told the sum, what it may be off by, and the column, and says what is
    /// wanted and what that may be off by.
    fn product(
        &self,
        (linear, seen): (Linear, &Seen),
        input: &[f64],
        found: &[f64],
        wanted: impl Fn(f64, f64, usize) -> (f64, f64),
    ) -> f64 {
        let columns = chosen(self.config.seed, seen, linear, found.len() as u32);
        let over = columns.map(|column| {
            let at = (linear, seen.layer);
            let weight = linear_row(&self.config, at, input.len() as u32, column);
            let sum: f64 = weight.iter().zip(input).map(|(w, x)| w * x).sum();
            let size = length(&weight) * length(input) / (input.len() as f64).sqrt();
            let (wanted, bound) = wanted(sum, TIPPED * size, column as usize);
            (found[column as usize] - wanted).abs() / bound
        });
        worst(over)
    }
}

fn half_ulp(x: f64) -> f64 {
    Element::Bf16.half_ulp(x)
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The largest; 1e300 where one is no number.
fn worst(all: impl Iterator<Item = f64>) -> f64 {
    all.map(finite).fold(0.0, f64::max)
}

/// What GELU makes of a product, and what that may be off by.
fn behind_gelu(sum: f64, off: f64, _column: usize) -> (f64, f64) {
    let (wanted, off) = (gelu(sum), off + half_ulp(sum));
    let moved = [sum - off, sum + off].map(|end| (gelu(end) - wanted).abs());
    let moved = moved[0].max(moved[1]);
    (wanted, moved + half_ulp(wanted.abs() + moved) + FITTED * wanted.abs())
}

/// The head whose keys were read.
fn attention(seen: &Seen, qkv: &[f64], outputs: &[f64]) -> f64 {
    let size = HEAD_SIZE as usize;
    let first = seen.head as usize * size;
    let [keys, values] = [&seen.keys, &seen.values].map(|codes| numbers(Element::Bf16, codes));
    let weights = weights(seen.head, qkv, &keys);
    let over = (0..size).map(|column| {
        let terms = || values.chunks_exact(size).zip(&weights).map(|(value, w)| w * value[column]);
        let wanted = terms().sum::<f64>();
        let magnitude = terms().map(f64::abs).sum::<f64>();
        let bound = half_ulp(wanted) + (UNIT + TIPPED) * magnitude;
        (outputs[first + column] - wanted).abs() / bound
    });
    worst(over)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        layers: 1,
        d_model: 128,
        d_ff: 256,
        vocab: 64,
        seed: 4,
        precision: Precision::Bf16,
        ..Config::SEED_002
    };

    fn codes(row: &[f64]) -> Vec<u16> {
        row.iter().map(|x| Element::Bf16.encode(*x as f32) as u16).collect()
    }

    /// What a right pass would have left of a row whose only key is its own.
    fn right() -> Seen {
        let oracle = Oracle::new(CONFIG);
        let stored = |row: Vec<f64>| -> Vec<f64> {
            row.into_iter().map(|x| stored(Precision::Bf16, x)).collect()
        };
        let product = |linear, input: &[f64], outputs: u32| -> Vec<f64> {
            let dot = |row| {
                let weight = linear_row(&CONFIG, (linear, 0), input.len() as u32, row);
                weight.iter().zip(input).map(|(w, x)| w * x).sum()
            };
            (0..outputs).map(dot).collect()
        };
        let sum =
            |a: &[f64], b: Vec<f64>| stored(a.iter().zip(stored(b)).map(|(a, b)| a + b).collect());
        let before: Vec<f64> = (0..128).map(|i| f64::from(i % 7) - 3.0).collect();
        let qkv = stored(product(Linear::Qkv, &oracle.normed(&before), 384));
        let (keys, values) = (qkv[128..256].to_vec(), qkv[256..].to_vec());
        let middle = sum(&before, product(Linear::Out, &values, 128));
        let up = stored(product(Linear::Up, &oracle.normed(&middle), 256));
        let inner = stored(up.into_iter().map(gelu).collect());
        let after = sum(&middle, product(Linear::Down, &inner, 128));
        Seen {
            before: codes(&before),
            qkv: codes(&qkv),
            keys: codes(&keys),
            values: codes(&values),
            attended: codes(&values),
            middle: codes(&middle),
            inner: codes(&inner),
            after: codes(&after),
            ..Seen::default()
        }
    }

    #[test]
    fn a_right_row_is_within_its_bounds_and_near_them() {
        let [qkv, attention, out, up, down] = Oracle::new(CONFIG).over_bounds(&right());
        assert_eq!(attention, 0.0);
        for stage in [qkv, out, up, down] {
            assert!(0.3 < stage && stage <= 1.0, "{stage}");
        }
    }

    #[test]
    fn each_stage_is_seen() {
        let wrong = |change: fn(&mut Seen)| {
            let mut seen = right();
            change(&mut seen);
            Oracle::new(CONFIG).over_bounds(&seen)
        };
        // 0x3F80 is 1.
        assert!(wrong(|seen| seen.qkv.fill(0x3F80))[0] > 4.0);
        assert!(wrong(|seen| seen.attended[5] ^= 0x0100)[1] > 4.0);
        assert!(wrong(|seen| seen.middle.fill(0x3F80))[2] > 4.0);
        assert!(wrong(|seen| seen.inner.fill(0x3F80))[3] > 4.0);
        assert!(wrong(|seen| seen.after.fill(0x3F80))[4] > 4.0);
        assert_eq!(wrong(|seen| seen.after.fill(0x7FC0))[4], 1e300);
    }

    /// A step of one unit in the last place is beyond half of one, and two are beyond two halves.
    #[test]
    fn neighbours_are_seen() {
        let mut seen = right();
        seen.qkv.iter_mut().for_each(|code| *code += 1);
        let [qkv, ..] = Oracle::new(CONFIG).over_bounds(&seen);
        assert!(qkv > 1.5, "{qkv}");
        seen = right();
        seen.after.iter_mut().for_each(|code| *code += 2);
        let [.., down] = Oracle::new(CONFIG).over_bounds(&seen);
        assert!(down > 1.5, "{down}");
    }

    #[test]
    fn other_weights_and_norms_are_seen() {
        let halves = Config { precision: Precision::F16, ..CONFIG };
        let right = right();
        let of_halves = Oracle { config: halves, ..Oracle::new(CONFIG) };
        assert!(of_halves.over_bounds(&right).into_iter().fold(0.0, f64::max) > 1.0);
        let mut plain = Oracle::new(CONFIG);
        plain.affine.iter_mut().for_each(|(_, bias)| *bias = 0.0);
        assert!(plain.over_bounds(&right)[0] > 1.0);
    }
}
