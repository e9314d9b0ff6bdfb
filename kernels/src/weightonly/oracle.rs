//! What a weight-only product is: exactly, within which bound, and, where the tensor cores' adder is known, bit by bit.
//!
//! A sum along k is cut in spans of 64 numbers of E4M3 or 32 of fp16, and in sixteen parts: of every 128
//! spans the first takes eight, then the second eight, and so on; the last ones may be shorter or empty. Of a span one instruction takes four numbers of each quarter, 16 in all, one after
//! another: the first two of each quarter are the lower half of its k, which some tensor cores add before the upper one.
//! Each part is a sum of its own; the sixteen are added in order from zero, in f32, then scaled and rounded to
//! fp16 once each.
//!
//! Bound: an instruction truncates each of its 17 terms at 2^-24 of the largest or less and its result at 2^-23,
//! or in two halves 9 terms and a result each, and none exceeds the sum M of magnitudes of its part, so that it errs by
//! less than 2^-19 M. With s instructions a part errs by s 2^-19 M, and adding sixteen parts and scaling by less than 2^-19 of all.

use crate::element::Element;
use crate::tensorcore::{Adder, dot};

/// Parts of k, and spans that follow each other in one.
const PARTS: usize = 16;
const SIDE_BY_SIDE: usize = 8;
/// Numbers of one instruction, those of one quarter of a span among them, and of these those of one half of k.
const TERMS: usize = 16;
const FOUR: usize = 4;
const TWO: usize = 2;

/// Numbers of a span: of E4M3 with scales, of fp16 without.
fn span(scaled: bool) -> usize {
    if scaled { 64 } else { 32 }
}

/// The parts of a row in the order in which its numbers are added, an instruction's in the order of its k.
fn parts(row: &[u32], scaled: bool) -> Vec<Vec<u32>> {
    let span = span(scaled);
    let ordered = |span: &[u32]| -> Vec<u32> {
        let quarter = span.len() / 4;
        let taken = |at: usize| {
            let (instruction, place) = (at / TERMS, at % TERMS);
            let (half, pair) = (place / (TERMS / 2), place % (TERMS / 2) / TWO);
            span[pair * quarter + instruction * FOUR + half * TWO + place % TWO]
        };
        (0..span.len()).map(taken).collect()
    };
    let mut parts = vec![Vec::new(); PARTS];
    for (at, side_by_side) in row.chunks(SIDE_BY_SIDE * span).enumerate() {
        parts[at % PARTS].extend(side_by_side.chunks(span).flat_map(ordered));
    }
    parts
}

/// The code of fp16 of one element as an adder of fp16 makes it, from codes of fp16 of a row of activations and of one of
/// weights, which hold every number of E4M3.
pub fn foretold(adder: Adder, activations: &[u32], weights: &[u32], scale: Option<f32>) -> u32 {
    let scaled = scale.is_some();
    let parts = parts(activations, scaled).into_iter().zip(parts(weights, scaled));
    let sums = parts.map(|(a, b)| dot(adder, Element::F16, None, &a, &b));
    let sum = sums.fold(0.0, |whole: f32, sum| whole + sum);
    Element::F16.encode(scale.map_or(sum, |scale| sum * scale))
}

/// One element in f64, and the most that a result may differ from it.
pub fn exact(activations: &[f64], weights: &[f64], scale: Option<f32>) -> (f64, f64) {
    let scaled = scale.is_some();
    let scale = f64::from(scale.unwrap_or(1.0));
    let products = || activations.iter().zip(weights).map(|(a, b)| a * b);
    let sum = products().sum::<f64>() * scale;
    let magnitudes = products().map(f64::abs).sum::<f64>() * scale;
    let span = span(scaled);
    let turns = (activations.len() / span).div_ceil(PARTS * SIDE_BY_SIDE);
    let instructions = turns * SIDE_BY_SIDE * span / TERMS;
    let lost = magnitudes * (instructions as f64 * 2f64.powi(-19) + 2f64.powi(-19));
    (sum, lost + Element::F16.half_ulp(sum.abs() + lost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::draw;

    fn codes(seed: u64, count: u64) -> Vec<u32> {
        let value = |i| draw(seed, i) as i32 as f32 * 2f32.powi(-31);
        (0..count).map(|i| Element::F16.encode(value(i))).collect()
    }

    #[test]
    fn parts_by_hand() {
        let row: Vec<u32> = (0..1024).collect();
        // Sixteen spans of E4M3: eight each for two parts, none for the others.
        let cut = parts(&row, true);
        assert_eq!((cut.len(), cut[0].len(), cut[1].len(), cut[2].len()), (16, 512, 512, 0));
        assert_eq!(cut[0][..8], [0, 1, 16, 17, 32, 33, 48, 49]);
        assert_eq!(cut[0][8..16], [2, 3, 18, 19, 34, 35, 50, 51]);
        assert_eq!(cut[0][16..20], [4, 5, 20, 21]);
        assert_eq!(cut[1][..4], [512, 513, 528, 529]);
        // 128 spans of fp16 go once around, and nine are left.
        let long: Vec<u32> = (0..137 * 32).collect();
        let cut = parts(&long, false);
        assert_eq!((cut[0].len(), cut[1].len(), cut[2].len()), (512, 288, 256));
        assert_eq!(cut[0][..8], [0, 1, 8, 9, 16, 17, 24, 25]);
        assert_eq!(cut[0][256..260], [4096, 4097, 4104, 4105]);
    }

    #[test]
    fn what_is_foretold_is_within_the_bound() {
        for seed in 0..20 {
            let (a, b) = (codes(2 * seed, 1024), codes(2 * seed + 1, 1024));
            let numbers = |codes: &[u32]| -> Vec<f64> {
                codes.iter().map(|code| Element::F16.decode(*code)).collect()
            };
            let adders = [Adder::HOPPER_F16, Adder::AMPERE_F16];
            for (scale, adder) in
                adders.into_iter().flat_map(|adder| [(None, adder), (Some(0.37), adder)])
            {
                let found = Element::F16.decode(foretold(adder, &a, &b, scale));
                let (sum, bound) = exact(&numbers(&a), &numbers(&b), scale);
                assert!((found - sum).abs() <= bound, "{found} {sum} {bound}");
            }
        }
    }
}
