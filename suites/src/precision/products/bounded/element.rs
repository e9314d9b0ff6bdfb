//! One element of a product of E4M3: its exact sum, and what the adder and the roundings behind it may lose of it.

use kernels::element::Element;
use kernels::tensorcore::{self, Adder};

use super::SQUARE;

/// The exact sum of an element, and what its adder and the additions and multiplications in f32 behind it may lose of it.
/// Without scales of groups these are the scales' own product and that with the sum; with them the same for each group,
/// and its addition to the sum of those before. Three roundings stand for two, so that none of the second order is left out.
pub(super) fn wanted(
    promoted: Option<usize>,
    (a, scales_a): (&[u32], &[f64]),
    (b, scales_b): (&[u32], &[f64]),
) -> (f64, f64) {
    const ROUNDED: f64 = 1.0 / (1 << 24) as f64;
    let bounded = |promoted, a: &[u32], b: &[u32], scale: f64| {
        let (sum, bound) =
            tensorcore::exact_and_bound(Adder::HOPPER_E4M3, Element::E4m3, promoted, a, b);
        (sum * scale, (bound + 3.0 * ROUNDED * (sum.abs() + bound)) * scale)
    };
    let scales = scales_a.iter().zip(scales_b).map(|(a, b)| a * b);
    if scales_a.len() == 1 {
        return bounded(promoted, a, b, scales_a[0] * scales_b[0]);
    }
    let groups = a.chunks(SQUARE).zip(b.chunks(SQUARE)).zip(scales);
    groups.fold((0.0, 0.0), |(sum, bound), ((a, b), scale)| {
        let (part, of_part) = bounded(None, a, b, scale);
        let (sum, bound): (f64, f64) = (sum + part, bound + of_part);
        (sum, bound + ROUNDED * (sum.abs() + bound))
    })
}

/// Error of an element over its bound: that of the sum, alpha's rounding, and the rounding to the type of the output, half a
/// unit in the last place of the largest number that it may have been.
pub(super) fn over_bound(found: f64, (sum, bound): (f64, f64), output: Element) -> f64 {
    let error = (found - sum).abs();
    let rounded = 2f64.powi(-24) * (sum.abs() + bound);
    let allowed = bound + rounded + output.half_ulp(sum.abs() + bound + rounded);
    if error == 0.0 { 0.0 } else { error / allowed }
}

#[cfg(test)]
mod tests {
    use kernels::generator::draw;
    use kernels::quantise::oracle;

    use super::super::{K, NARROW};
    use super::*;
    use crate::precision::{accumulator, operands, scaled};

    /// A row as a quantiser by rows makes it of [`operands::spread`], or of positive codes.
    fn row(seed: u64, positive: bool) -> Vec<u32> {
        if positive {
            return (0..u64::from(K)).map(|i| accumulator::positive_code(seed, i)).collect();
        }
        let halves = operands::spread(seed, 1, K.into(), scaled::ALIKE);
        let (_, inverse) = oracle::scale_of(oracle::amax(&halves));
        halves.iter().map(|x| Element::E4m3.encode(x.to_f32() * inverse)).collect()
    }

    /// The largest ratio of 16 products by the model of an adder, of an output, beside the bound of another accumulation.
    fn worst(
        (adder, ran): (Adder, Option<usize>),
        judged: Option<usize>,
        output: Element,
        (positive, factor): (bool, f64),
    ) -> f64 {
        let ratio = |pair: u64| {
            let (a, b) = (row(2 * pair, positive), row(2 * pair + 1, positive));
            let sum = factor * f64::from(tensorcore::dot(adder, Element::E4m3, ran, &a, &b));
            let found = match output {
                Element::F32 => f64::from(sum as f32),
                output => output.decode(output.encode(sum as f32)),
            };
            over_bound(found, wanted(judged, (&a, &[1.0]), (&b, &[1.0])), output)
        };
        (0..16).map(ratio).fold(0.0, f64::max)
    }

    const HOPPER: Adder = Adder::HOPPER_E4M3;
    const OUTPUTS: [Element; 2] = [Element::F32, Element::Bf16];

    #[test]
    fn sums_of_one_sign_come_near_their_bound() {
        for (output, most) in [(Element::F32, 0.5), (Element::Bf16, 0.95)] {
            let precise = worst((HOPPER, Some(4)), Some(4), output, (true, 1.0));
            assert!((0.3..most).contains(&precise), "{output:?}: {precise}");
            let fast = worst((HOPPER, None), None, output, (true, 1.0));
            assert!((0.3..0.5).contains(&fast), "{output:?}: {fast}");
        }
    }

    #[test]
    fn sums_of_both_signs_stay_far_within() {
        for output in OUTPUTS {
            let precise = worst((HOPPER, Some(4)), Some(4), output, (false, 1.0));
            let fast = worst((HOPPER, None), None, output, (false, 1.0));
            assert!(precise < 0.6 && fast < 0.1, "{output:?}: {precise} {fast}");
        }
    }

    #[test]
    fn what_is_planted_is_beyond_the_bound() {
        for output in OUTPUTS {
            let fast = worst((HOPPER, None), Some(4), output, (true, 1.0));
            assert!(fast > 10.0, "{output:?}: {fast}");
            let scaled = worst((HOPPER, Some(4)), Some(4), output, (true, 1.0 + 2f64.powi(-7)));
            assert!(scaled > 2.0, "{output:?}: {scaled}");
            let narrow = worst((NARROW, None), None, output, (true, 1.0));
            assert!(narrow > 1.1, "{output:?}: {narrow}");
        }
    }

    /// Of 16 pairs the largest error of another row's product, over the bound of the right one's.
    #[test]
    fn another_row_is_beyond_the_bound() {
        for promoted in [Some(4), None] {
            let ratio = |pair: u64| {
                let [a, b, other] = [0, 1, 100].map(|i| row(2 * pair + i, false));
                let found = tensorcore::dot(HOPPER, Element::E4m3, promoted, &other, &b).into();
                let sum = wanted(promoted, (&a, &[1.0]), (&b, &[1.0]));
                over_bound(found, sum, Element::Bf16)
            };
            let most = (0..16).map(ratio).fold(0.0, f64::max);
            assert!(most > 1.5, "{promoted:?}: {most}");
        }
    }

    /// Groups with scales of their own as the model adds them, in f32, with every scale of A so many times too large.
    fn by_groups(positive: bool, factor: f32) -> f64 {
        let ratio = |pair: u64| {
            let (a, b) = (row(2 * pair, positive), row(2 * pair + 1, positive));
            let scales = |seed: u64| -> Vec<f32> {
                (0..K as usize / SQUARE)
                    .map(|i| 0.01 + 1e-11 * draw(seed, i as u64) as f32)
                    .collect()
            };
            let (of_a, of_b) = (scales(pair), scales(!pair));
            let groups = a.chunks(SQUARE).zip(b.chunks(SQUARE)).zip(of_a.iter().zip(&of_b));
            let sum = groups.fold(0.0f32, |sum, ((a, b), (x, y))| {
                sum + tensorcore::dot(HOPPER, Element::E4m3, None, a, b) * (x * factor * y)
            });
            let found = Element::Bf16.decode(Element::Bf16.encode(sum));
            let wide = |scales: &[f32]| scales.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            let (of_a, of_b) = (wide(&of_a), wide(&of_b));
            over_bound(found, wanted(Some(4), (&a, &of_a), (&b, &of_b)), Element::Bf16)
        };
        (0..16).map(ratio).fold(0.0, f64::max)
    }

    #[test]
    fn groups_with_scales_of_their_own_stay_within() {
        let [positive, both] = [true, false].map(|positive| by_groups(positive, 1.0));
        assert!((0.3..0.95).contains(&positive) && both < 0.6, "{positive} {both}");
        let off = by_groups(true, 1.0 + 2f32.powi(-7));
        assert!(off > 2.0, "{off}");
    }
}
