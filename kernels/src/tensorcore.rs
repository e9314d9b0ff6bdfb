//! The arithmetic of tensor cores, bit by bit: what an uncut dot product becomes when the chip adds it up
//! in pieces of some terms, each piece aligned, truncated and added at once.
//!
//! One instruction adds `terms` exact products to an accumulator: all are aligned to the largest exponent
//! among them, each is truncated toward zero at `aligned_bits` fractional bits below that exponent, the sum
//! is exact, and the result is truncated toward zero to `kept_bits` mantissa bits. A product's exponent is
//! the sum of its factors' exponents, its significand lies in [1, 4). Source of the model: MMA-Sim
//! (arXiv 2511.10909) and arXiv 2512.07004. Terms, aligned and kept bits, by compute capability:
//!
//! | | 8.0 | 8.9 | 9.0 | 10.0, 12.0 |
//! |---|---|---|---|---|
//! | fp16 | 8, 24, 23 | 8, 24, 23 | 16, 25, 23 | 16, 25, 23 |
//! | E4M3 | none | 16, 13, 13 | 32, 13, 13 | 32, 25, 23 |
//!
//! Before 9.0 an instruction over more products (`mma` of 16 in fp16, of 32 in E4M3) is two such steps, the lower
//! half of k first. On 9.0 E4M3 is `wgmma`'s, on 10.0 `tcgen05`'s. Written anew from these numbers; whether a chip and a
//! library do so is what the precision suite measures, so far on 9.0 alone.

use crate::element::Element;

/// How an instruction adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adder {
    /// Products of one instruction along k.
    pub terms: usize,
    /// Fractional bits, below the largest exponent, that aligned terms keep.
    pub aligned_bits: i32,
    /// Mantissa bits of the result.
    pub kept_bits: i32,
}

impl Adder {
    /// fp16 on sm_90.
    pub const HOPPER_F16: Adder = Adder { terms: 16, aligned_bits: 25, kept_bits: 23 };
    /// E4M3 on sm_90.
    pub const HOPPER_E4M3: Adder = Adder { terms: 32, aligned_bits: 13, kept_bits: 13 };
    /// fp16 on sm_80 and sm_89.
    pub const AMPERE_F16: Adder = Adder { terms: 8, aligned_bits: 24, kept_bits: 23 };
    /// E4M3 on sm_89.
    pub const ADA_E4M3: Adder = Adder { terms: 16, ..Adder::HOPPER_E4M3 };
    /// fp16 on sm_100 and sm_120.
    pub const BLACKWELL_F16: Adder = Adder::HOPPER_F16;
    /// E4M3 on sm_100 and sm_120: the sum keeps what an f32 can hold.
    pub const BLACKWELL_E4M3: Adder = Adder { terms: 32, aligned_bits: 25, kept_bits: 23 };

    /// The adder that is published for the products of a type on a compute capability. None where there are no such
    /// products, and for chips that nobody has published: their neighbours' adder is not theirs.
    pub fn published(element: Element, compute_capability: (u32, u32)) -> Option<Adder> {
        match (element, compute_capability) {
            (Element::F16, (8, 0 | 9)) => Some(Adder::AMPERE_F16),
            (Element::F16, (9, 0)) => Some(Adder::HOPPER_F16),
            (Element::F16, (10 | 12, 0)) => Some(Adder::BLACKWELL_F16),
            (Element::E4m3, (8, 9)) => Some(Adder::ADA_E4M3),
            (Element::E4m3, (9, 0)) => Some(Adder::HOPPER_E4M3),
            (Element::E4m3, (10 | 12, 0)) => Some(Adder::BLACKWELL_E4M3),
            _ => None,
        }
    }
}

/// A finite number as an integer times a power of two, with the exponent that alignment goes by.
#[derive(Debug, Clone, Copy)]
struct Term {
    /// Signed; zero for a zero.
    significand: i64,
    /// Power of two of the significand's lowest bit.
    unit: i32,
    /// Exponent: of a product the sum of those of its factors.
    exponent: i32,
}

/// A finite code of fp16 or E4M3.
fn factor(element: Element, code: u32) -> Term {
    let (bits, mantissa, bias) = match element {
        Element::F16 => (16, 10, 15),
        Element::E4m3 => (8, 3, 7),
        _ => unreachable!("only fp16 and E4M3 have a model"),
    };
    let magnitude = code & ((1 << (bits - 1)) - 1);
    let field = (magnitude >> mantissa) as i32;
    let fraction = i64::from(magnitude & ((1 << mantissa) - 1));
    let exponent = field.max(1) - bias;
    let whole = if field == 0 { fraction } else { fraction | 1 << mantissa };
    let significand = if code >> (bits - 1) == 1 { -whole } else { whole };
    Term { significand, unit: exponent - mantissa, exponent }
}

/// The exact product of two finite codes.
fn product(element: Element, a: u32, b: u32) -> Term {
    let (a, b) = (factor(element, a), factor(element, b));
    Term {
        significand: a.significand * b.significand,
        unit: a.unit + b.unit,
        exponent: a.exponent + b.exponent,
    }
}

fn of_f32(x: f32) -> Term {
    let bits = x.to_bits();
    let field = ((bits >> 23) & 0xFF) as i32;
    let fraction = i64::from(bits & 0x7F_FFFF);
    let exponent = field.max(1) - 127;
    let whole = if field == 0 { fraction } else { fraction | 1 << 23 };
    let significand = if x.is_sign_negative() { -whole } else { whole };
    Term { significand, unit: exponent - 23, exponent }
}

/// `significand * 2^shift`, truncated toward zero.
fn shifted(significand: i64, shift: i32) -> i64 {
    let magnitude = significand.unsigned_abs();
    let moved = match shift {
        0.. => magnitude << shift.min(62),
        -63..=-1 => magnitude >> -shift,
        _ => 0,
    };
    if significand < 0 { -(moved as i64) } else { moved as i64 }
}

/// One instruction: the accumulator plus the products of `a` and `b`.
fn step(adder: Adder, element: Element, sum: f32, a: &[u32], b: &[u32]) -> f32 {
    let products = a.iter().zip(b).map(|(&a, &b)| product(element, a, b));
    let terms: Vec<Term> = products.chain([of_f32(sum)]).filter(|t| t.significand != 0).collect();
    let Some(top) = terms.iter().map(|term| term.exponent).max() else { return 0.0 };
    let unit = top - adder.aligned_bits;
    let total: i64 = terms.iter().map(|t| shifted(t.significand, t.unit - unit)).sum();
    truncated(total, unit, adder.kept_bits)
}

/// `total * 2^unit` with so many mantissa bits, truncated toward zero. Results below the normal f32 do not
/// occur with the data that the model is used for.
fn truncated(total: i64, unit: i32, kept_bits: i32) -> f32 {
    let magnitude = total.unsigned_abs();
    if magnitude == 0 {
        return 0.0;
    }
    let length = 64 - magnitude.leading_zeros() as i32;
    let drop = (length - 1 - kept_bits).max(0);
    let kept = (magnitude >> drop) as f64 * 2f64.powi(unit + drop);
    if total < 0 { -kept as f32 } else { kept as f32 }
}

/// A dot product of codes. With `promoted` instructions to a group each group starts from zero and is
/// added to an f32 on the ordinary cores, rounded to nearest; `None` keeps one accumulator throughout.
pub fn dot(adder: Adder, element: Element, promoted: Option<usize>, a: &[u32], b: &[u32]) -> f32 {
    let group = promoted.map_or(a.len(), |instructions| instructions * adder.terms).max(1);
    let mut whole: Option<f32> = None;
    for (a, b) in a.chunks(group).zip(b.chunks(group)) {
        let steps = a.chunks(adder.terms).zip(b.chunks(adder.terms));
        let sum = steps.fold(0.0, |sum, (a, b)| step(adder, element, sum, a, b));
        whole = Some(whole.map_or(sum, |whole| whole + sum));
    }
    whole.unwrap_or(0.0)
}

/// The exact dot product, and the most that one by such instructions is off it, grouped as in [`dot`].
///
/// Derivation, from the model above and nothing that it computes. Let S be the exact sum of the products before an
/// instruction and E what the accumulator s may be off by then, so |s| <= |S| + E. With the exponent e of the largest of
/// |S| + E and the products, an aligned term loses less than 2^(e - aligned_bits), and no more than itself; a product
/// whose lowest bit stands above that loses nothing. The exact sum of what is left is truncated to `kept_bits`, which
/// takes less than 2^(r - kept_bits), where r is the exponent of |S'| + E' behind the instruction. All of these are added
/// up: per instruction at most (terms + 1) 2^(e - aligned_bits) + 2^(r - kept_bits). Each group that moves to an f32 adds
/// half a unit in the last place of that sum, 2^-24 (|S| + E).
///
/// No order of products within an instruction and no rounding in place of a truncation exceeds it. Random sums of
/// one sign come to 0.4 of it, since a term that is cut loses half of the most on average and E widens the accumulator's
/// reach; products that are all cut by nearly a unit come to 0.89 (see the tests). Where signs differ errors cancel, and the
/// bound, which lets none cancel, is far: 0.02 to 0.08 of it is reached under fast accumulation.
pub fn exact_and_bound(
    adder: Adder,
    element: Element,
    promoted: Option<usize>,
    a: &[u32],
    b: &[u32],
) -> (f64, f64) {
    let group = promoted.map_or(a.len(), |instructions| instructions * adder.terms).max(1);
    let (mut sum, mut bound) = (0.0, 0.0);
    for (a, b) in a.chunks(group).zip(b.chunks(group)) {
        let steps = a.chunks(adder.terms).zip(b.chunks(adder.terms));
        let of_group = steps.fold((0.0, 0.0), |so_far, (a, b)| {
            let products: Vec<Term> =
                a.iter().zip(b).map(|(&a, &b)| product(element, a, b)).collect();
            bounded_step(adder, so_far, &products)
        });
        sum += of_group.0;
        bound += of_group.1;
        if promoted.is_some() {
            bound += 2f64.powi(-24) * (sum.abs() + bound);
        }
    }
    (sum, bound)
}

/// Exact sum and bound behind an instruction, of those before it.
fn bounded_step(adder: Adder, (sum, bound): (f64, f64), products: &[Term]) -> (f64, f64) {
    let reach = sum.abs() + bound;
    let present = || products.iter().filter(|term| term.significand != 0);
    let largest = present().map(|term| term.exponent).max().unwrap_or(i32::MIN);
    let top = largest.max(exponent_of(reach));
    if top == i32::MIN {
        return (sum, bound);
    }
    let unit = 2f64.powi(top - adder.aligned_bits);
    let mut behind = (sum, bound + unit.min(reach));
    for term in present() {
        let lowest = term.unit + term.significand.trailing_zeros() as i32;
        let number = term.significand as f64 * 2f64.powi(term.unit);
        behind.0 += number;
        behind.1 += if lowest < top - adder.aligned_bits { unit.min(number.abs()) } else { 0.0 };
    }
    let reach = behind.0.abs() + behind.1;
    if reach > 0.0 {
        behind.1 += 2f64.powi(exponent_of(reach) - adder.kept_bits);
    }
    behind
}

/// The exponent of a normal f64 that is not negative; of zero the least number.
fn exponent_of(x: f64) -> i32 {
    if x == 0.0 { i32::MIN } else { (x.to_bits() >> 52) as i32 - 1023 }
}

/// The exact dot product in f64: exact while the sum of magnitudes has no more than 53 bits above the
/// least product's unit, as codes of E4M3 and moderate ones of fp16 have.
pub fn exact(element: Element, a: &[u32], b: &[u32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| element.decode(a) * element.decode(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::draw;
    use proptest::prelude::*;

    const ONE: u32 = 0x38;

    fn random(element: Element, seed: u64, count: u64) -> Vec<u32> {
        let value = |i| draw(seed, i) as i32 as f32 * 2f32.powi(-31);
        (0..count).map(|i| element.encode(value(i))).collect()
    }

    #[test]
    fn ones_stop_at_16384() {
        let ones = vec![ONE; 32768];
        let dot = |adder, promoted| dot(adder, Element::E4m3, promoted, &ones, &ones);
        assert_eq!(dot(Adder::HOPPER_E4M3, None), 16384.0);
        assert_eq!(dot(Adder::HOPPER_E4M3, Some(4)), 32768.0);
        assert_eq!(dot(Adder::BLACKWELL_E4M3, None), 32768.0);
    }

    #[test]
    fn one_term_is_exact() {
        for (a, b) in [(0x7Eu32, 0xFEu32), (0x01, 0x01), (0x00, 0x38), (0x08, 0x87)] {
            let wanted = Element::E4m3.decode(a) * Element::E4m3.decode(b);
            let found = dot(Adder::HOPPER_E4M3, Element::E4m3, None, &[a], &[b]);
            assert_eq!(f64::from(found), wanted, "{a:#x} {b:#x}");
        }
    }

    #[test]
    fn truncation_by_hand() {
        // 448 * 448 = 1.53 * 2^17, exponent 16; 1 has exponent 0 and is kept at 13 bits below 16: lost
        // below 2^3.
        let a = [0x7E, ONE];
        let found = dot(Adder::HOPPER_E4M3, Element::E4m3, None, &a, &a);
        assert_eq!(found, 200_704.0);
        let found = dot(Adder::BLACKWELL_E4M3, Element::E4m3, None, &a, &a);
        assert_eq!(found, 200_705.0);
    }

    /// A row of codes of fp16 of these numbers.
    fn halves(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|x| Element::F16.encode(*x)).collect()
    }

    #[test]
    fn ampere_keeps_a_bit_less_than_hopper() {
        // 1 and four times 2^-12 2^-13: each of these is below 2^-24, together they are the last bit of an f32.
        let a = halves(&[1.0, 2f32.powi(-12), 2f32.powi(-12), 2f32.powi(-12), 2f32.powi(-12)]);
        let b = halves(&[1.0, 2f32.powi(-13), 2f32.powi(-13), 2f32.powi(-13), 2f32.powi(-13)]);
        let dot = |adder| dot(adder, Element::F16, None, &a, &b);
        assert_eq!(dot(Adder::AMPERE_F16), 1.0);
        assert_eq!(dot(Adder::HOPPER_F16), 1.0f32.next_up());
        assert_eq!(dot(Adder::BLACKWELL_F16), 1.0f32.next_up());
    }

    #[test]
    fn ampere_adds_sixteen_products_in_two_steps() {
        // 1 and 2^-24, then -1 in the upper half: the first of two steps truncates 1 + 2^-24 to 1.
        let mut a = halves(&[0.0; 16]);
        (a[0], a[1], a[8]) = (0x3C00, Element::F16.encode(2f32.powi(-12)), 0xBC00);
        let b: Vec<u32> = a.iter().map(|code| code & 0x7FFF).collect();
        let dot = |adder| dot(adder, Element::F16, None, &a, &b);
        assert_eq!(dot(Adder::AMPERE_F16), 0.0);
        assert_eq!(dot(Adder { terms: 16, ..Adder::AMPERE_F16 }), 2f32.powi(-24));
        assert_eq!(dot(Adder::HOPPER_F16), 2f32.powi(-24));
    }

    #[test]
    fn ada_adds_thirty_two_products_in_two_steps() {
        // 2^14 twice and 2, then -2^14 twice in the upper half. Aligned to 2^14 a 2 is kept; a sum of 2^15 and 2
        // in 13 bits has lost it.
        const MOST: u32 = 0x70; // 2^7
        let mut a = vec![0; 32];
        (a[0], a[1], a[2]) = (MOST, MOST, 0x40);
        (a[16], a[17]) = (MOST | 0x80, MOST | 0x80);
        let mut b: Vec<u32> = a.iter().map(|code| code & 0x7F).collect();
        b[2] = ONE;
        let dot = |adder| dot(adder, Element::E4m3, None, &a, &b);
        assert_eq!(dot(Adder::ADA_E4M3), 0.0);
        assert_eq!(dot(Adder::HOPPER_E4M3), 2.0);
        assert_eq!(dot(Adder::BLACKWELL_E4M3), 2.0);
    }

    #[test]
    fn blackwell_does_not_truncate_where_hopper_and_ada_do() {
        // 2^13 and twice 1/2, which a step that keeps 13 bits below 2^13 truncates each: units of 1.
        let a = [0x70, 0x38, 0x38]; // 2^7, 1, 1
        let b = [0x68, 0x30, 0x30]; // 2^6, 1/2, 1/2
        let dot = |adder| dot(adder, Element::E4m3, None, &a, &b);
        assert_eq!(dot(Adder::ADA_E4M3), 8192.0);
        assert_eq!(dot(Adder::HOPPER_E4M3), 8192.0);
        assert_eq!(dot(Adder::BLACKWELL_E4M3), 8193.0);
        // Ones stop on Ada where they do on Hopper.
        let ones = vec![ONE; 32768];
        assert_eq!(super::dot(Adder::ADA_E4M3, Element::E4m3, None, &ones, &ones), 16384.0);
    }

    #[test]
    fn only_published_adders_are_known() {
        for (capability, f16, e4m3) in [
            ((8, 0), Some(Adder::AMPERE_F16), None),
            ((8, 9), Some(Adder::AMPERE_F16), Some(Adder::ADA_E4M3)),
            ((9, 0), Some(Adder::HOPPER_F16), Some(Adder::HOPPER_E4M3)),
            ((10, 0), Some(Adder::BLACKWELL_F16), Some(Adder::BLACKWELL_E4M3)),
            ((12, 0), Some(Adder::BLACKWELL_F16), Some(Adder::BLACKWELL_E4M3)),
            ((8, 6), None, None),
            ((10, 3), None, None),
            ((7, 5), None, None),
        ] {
            assert_eq!(Adder::published(Element::F16, capability), f16, "{capability:?}");
            assert_eq!(Adder::published(Element::E4m3, capability), e4m3, "{capability:?}");
        }
        assert_eq!(Adder::published(Element::Bf16, (9, 0)), None);
    }

    #[test]
    fn signs_mirror() {
        let (a, b) = (random(Element::F16, 1, 256), random(Element::F16, 2, 256));
        let negative: Vec<u32> = a.iter().map(|code| code ^ 0x8000).collect();
        let plus = dot(Adder::HOPPER_F16, Element::F16, None, &a, &b);
        let minus = dot(Adder::HOPPER_F16, Element::F16, None, &negative, &b);
        assert_eq!(plus, -minus);
    }

    #[test]
    fn the_wide_adder_is_near_the_exact_sum() {
        for seed in 0..20 {
            let a = random(Element::F16, 2 * seed, 1024);
            let b = random(Element::F16, 2 * seed + 1, 1024);
            let found = f64::from(dot(Adder::HOPPER_F16, Element::F16, None, &a, &b));
            let wanted = exact(Element::F16, &a, &b);
            assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
        }
    }

    /// Error of a dot product by the model over its bound.
    fn over_bound(adder: Adder, promoted: Option<usize>, a: &[u32], b: &[u32]) -> f64 {
        let found = f64::from(dot(adder, Element::E4m3, promoted, a, b));
        let (wanted, bound) = exact_and_bound(adder, Element::E4m3, promoted, a, b);
        assert_eq!(wanted, exact(Element::E4m3, a, b));
        if found == wanted { 0.0 } else { (found - wanted).abs() / bound }
    }

    #[test]
    fn bound_by_hand() {
        // 448 * 448 = 1.53 * 2^17 has exponent 16, so that less than 2^3 is lost: all of 1, nothing of itself. The sum,
        // still below 2^18, keeps 13 bits below 2^17.
        let a = [0x7E, ONE];
        let found = exact_and_bound(Adder::HOPPER_E4M3, Element::E4m3, None, &a, &a);
        assert_eq!(found, (200_705.0, 1.0 + 16.0));
        // A second instruction with nothing in it may lose a unit of the accumulator, and one of the result.
        let mut a = a.to_vec();
        a.resize(33, 0);
        let (sum, bound) = exact_and_bound(Adder::HOPPER_E4M3, Element::E4m3, None, &a, &a);
        assert_eq!((sum, bound), (200_705.0, 17.0 + 16.0 + 16.0));
        // In groups of one instruction each moves to f32.
        let (_, bound) = exact_and_bound(Adder::HOPPER_E4M3, Element::E4m3, Some(1), &a, &a);
        let moved = 17.0 + 2f64.powi(-24) * (200_705.0 + 17.0);
        assert_eq!(bound, moved + 2f64.powi(-24) * (200_705.0 + moved));
    }

    #[test]
    fn a_bound_is_nearly_reached() {
        // The largest product first; then 1.125 * 7 = 7.875, of which all below 2^3 is lost.
        let mut a = vec![0x39; 3200];
        let mut b = vec![0x4E; 3200];
        (a[0], b[0]) = (0x7E, 0x7E);
        assert_eq!(Element::E4m3.decode(0x39) * Element::E4m3.decode(0x4E), 7.875);
        let ratio = over_bound(Adder::HOPPER_E4M3, None, &a, &b);
        assert!((0.88..1.0).contains(&ratio), "{ratio}");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_122),
            ..ProptestConfig::default()
        })]

        /// Codes of a range of exponents, of both signs or of one.
        #[test]
        fn no_sum_of_the_model_exceeds_its_bound(
            seed in any::<u64>(),
            count in 1_u64..2000,
            exponents in (0_u32..15, 1_u32..15),
            positive in any::<bool>(),
            adder in prop::sample::select(&[Adder::HOPPER_E4M3, Adder::ADA_E4M3, Adder::BLACKWELL_E4M3][..]),
            promoted in prop::option::of(1_usize..9),
        ) {
            let code = |seed: u64, i: u64| {
                let word = draw(seed, i);
                let exponent = (exponents.0 + (word >> 8) % exponents.1).min(14);
                (word & if positive { 0x07 } else { 0x87 }) | exponent << 3
            };
            let row = |seed: u64| (0..count).map(|i| code(seed, i)).collect::<Vec<u32>>();
            let ratio = over_bound(adder, promoted, &row(seed), &row(!seed));
            prop_assert!(ratio <= 1.0, "{ratio}");
        }
    }
}
