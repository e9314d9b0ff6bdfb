//! What the quantisers do, in plain loops over f32, with every operation and rounding in its order.
//!
//! - f32 scales: `scale = amax / 448`, `code = e4m3(x * (448 / amax))`, each operation rounded to f32 once,
//!   where amax is the largest magnitude of what shares the scale; the scale of zeros is 1. So a code
//!   times its scale errs by at most max(2^-4 |x|, 2^-10 scale) (1 + 2^-20): half a step of E4M3,
//!   the last factor for the three roundings to f32.
//! - MXFP8 and MXFP4 (OCP Microscaling Formats 1.0, scale rounded up): the scale is the least power of two
//!   by which amax is no more than the format's largest number, so nothing saturates and dividing is
//!   exact: 2^-4 |x| or half a subnormal step; E2M1 max(|x| / 4, scale / 4).
//! - NVFP4 (as NVIDIA's Transformer Engine defines it, with its order of operations): S = 448 * 6 / amax of
//!   the matrix; a block of 16 has the scale s = e4m3(amax_b * (S * (1 / 6))), and
//!   code = e2m1(clamp(x * min(1 / (s * (1 / S)), FLT_MAX), -6, 6)). A number is code * s / S. Where the
//!   scale errs by a share d, what is scaled ends at 6 / (1 + d): below it a code errs by half a step of
//!   2, (1 + d) / 6 of amax_b, beyond it by d of amax_b. d is 1/16, or 2^-10 over the exact scale
//!   where that is subnormal: the error is at most amax_b max(d, (1 + d) / 6), 0.177 amax_b mostly.
//!
//! # Numbers that are not finite
//!
//! The quantisers refuse nothing: an infinity or a NaN is a number of the source like any other. What they keep is that
//! it decodes, code times scale in f32, to one that is not finite, and that what shares no scale with it is as above, bit
//! by bit. The largest magnitude of what holds a NaN is NaN, else that of an infinity is infinite. So:
//!
//! - f32 scales, by the numbers' own largest magnitude: the scale is NaN, and so are all codes; or it is infinite, the
//!   factor 448 / amax zero, codes zeros and for infinities NaN, and each times the scale NaN. All that
//!   shares the scale is lost, by tensor the matrix; behind layer norm a row is NaN before it is quantised.
//! - GELU of minus infinity is -0, its limit, and is quantised as that.
//! - f32 scales by a history: a NaN's code is NaN. An infinity saturates to 448 times the scale, in the codes without a
//!   trace; the largest magnitude that is recorded for the history is infinite. All else is as above.
//! - MXFP8: an infinity is 448 2^120, infinite as f32; a NaN has the code NaN. What shares the scale becomes zeros.
//! - MXFP4 has neither: both are 4 or 6 times 2^126 or 2^127, infinite as f32. What shares the scale may be anything, and differs
//!   between chips that have E2M1 and those that have not.
//! - NVFP4 goes by the largest magnitude of the whole matrix. Is that infinite, S is zero, and all is NaN (a code times s is
//!   divided by zero). Is it NaN, S is the largest f32: the block with the NaN has the scale NaN, and the others
//!   saturate, infinities among them, at numbers that mean nothing: the largest magnitude tells. By a finite one that does
//!   not belong to the matrix a NaN's block is NaN, an infinity saturates in silence, and other blocks are as above.

use half::f16;

use super::Scheme;
use crate::formats::Format;

/// Largest f32.
const MOST: f32 = f32::MAX;

/// A quantised matrix as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// A code for each element.
    pub codes: Vec<u8>,
    /// Scales as the buffer holds them: f32 bits or bytes, in words of their own size.
    pub scales: Vec<u32>,
    /// Which of them belong to elements; the others pad, and nobody writes them.
    pub named: Vec<bool>,
    /// What each element became: code times scale, exact in f64.
    pub numbers: Vec<f64>,
    /// The most that each may differ from what it was.
    pub bounds: Vec<f64>,
}

/// Largest magnitude; NaN where there is one.
pub fn amax(values: &[f16]) -> f32 {
    values.iter().copied().fold(0.0, larger)
}

/// The larger of a magnitude and that of a number; NaN if either is.
fn larger(most: f32, x: f16) -> f32 {
    let magnitude = x.to_f32().abs();
    if most.is_nan() || magnitude.is_nan() { f32::NAN } else { most.max(magnitude) }
}

/// f32 scale of a largest magnitude and the factor that applies it.
pub fn scale_of(largest: f32) -> (f32, f32) {
    if largest == 0.0 { (1.0, 1.0) } else { (largest / 448.0, 448.0 / largest) }
}

/// The code of UE8M0 of the least power of two by which `largest` is no more than `most`.
fn power_of(largest: f32, most: f64) -> u32 {
    if largest == 0.0 {
        return 0;
    }
    let fits = |code: &u32| f64::from(largest) <= most * Format::Ue8m0.decode(*code);
    (0..=0xFE).find(fits).unwrap_or(0xFE)
}

/// Place of a microscaling scale: row, block of columns, blocks of a row.
pub fn place_of_scale(row: usize, block: usize, blocks: usize) -> usize {
    let piece = row / 128 * blocks.div_ceil(4) + block / 4;
    piece * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4
}

/// The quantisation of `[rows][columns]`. `largest` is the magnitude that [`Scheme::Tensor`] and
/// [`Scheme::Nvfp4`] go by. GELU and norm are not applied: their results are given as the source.
pub fn quantise(scheme: Scheme, source: &[f16], columns: usize, largest: f32) -> Wanted {
    let rows = source.len() / columns;
    let words = scheme.scale_bytes(rows as u64, columns as u32) as usize;
    let micro = scheme.micro_columns().is_some();
    let scales = if micro { words } else { words / 4 };
    let mut wanted = Wanted {
        codes: vec![0; source.len()],
        scales: vec![0; scales],
        named: vec![false; scales],
        numbers: vec![0.0; source.len()],
        bounds: vec![0.0; source.len()],
    };
    for (at, group) in groups(scheme, rows, columns) {
        let most = match scheme {
            Scheme::Tensor => largest,
            _ => group.iter().map(|&i| source[i]).fold(0.0, larger),
        };
        let one = Group::new(scheme, most, largest);
        wanted.scales[at] = one.stored;
        wanted.named[at] = true;
        for i in group {
            let x = source[i].to_f32();
            let code = one.code(x);
            wanted.codes[i] = code as u8;
            wanted.numbers[i] = one.format.decode(code) * one.scale;
            wanted.bounds[i] = one.bound(x);
        }
    }
    wanted
}

/// The numbers that codes and scales stand for, [rows][columns]. `largest` is what [`Scheme::Nvfp4`] goes by.
pub fn dequantise(
    scheme: Scheme,
    codes: &[u8],
    scales: &[u32],
    columns: usize,
    largest: f32,
) -> Vec<f64> {
    let format = if scheme.code_bits() == 4 { Format::E2m1 } else { Format::E4m3 };
    let mut numbers = vec![0.0; codes.len()];
    for (at, group) in groups(scheme, codes.len() / columns, columns) {
        let scale = match scheme {
            Scheme::Mxfp8 | Scheme::Mxfp4 => Format::Ue8m0.decode(scales[at]),
            Scheme::Nvfp4 => Format::E4m3.decode(scales[at]) / f64::from(whole_scale(largest)),
            _ => f32::from_bits(scales[at]).into(),
        };
        for i in group {
            numbers[i] = format.decode(codes[i].into()) * scale;
        }
    }
    numbers
}

/// What a code of a scale, as the buffer holds it, stands for in f32. `largest` is what [`Scheme::Nvfp4`] goes by.
pub fn number(scheme: Scheme, code: u8, scale: u32, largest: f32) -> f32 {
    let format = if scheme.code_bits() == 4 { Format::E2m1 } else { Format::E4m3 };
    let code = format.decode(code.into()) as f32;
    match scheme {
        Scheme::Mxfp8 | Scheme::Mxfp4 => code * Format::Ue8m0.decode(scale) as f32,
        Scheme::Nvfp4 => code * Format::E4m3.decode(scale) as f32 / whole_scale(largest),
        _ => code * f32::from_bits(scale),
    }
}

/// NVFP4's factor of a whole matrix.
pub fn whole_scale(largest: f32) -> f32 {
    if largest == 0.0 { 1.0 } else { (2688.0 / largest).min(MOST) }
}

/// Elements that share a scale, and the scale's place.
pub fn groups(scheme: Scheme, rows: usize, columns: usize) -> Vec<(usize, Vec<usize>)> {
    let part = |row: usize, first: usize, count: usize| {
        (row * columns + first..row * columns + first + count).collect::<Vec<_>>()
    };
    let by_columns = |each: usize, place: &dyn Fn(usize, usize) -> usize| {
        let mut groups = Vec::new();
        for row in 0..rows {
            for block in 0..columns / each {
                groups.push((place(row, block), part(row, block * each, each)));
            }
        }
        groups
    };
    match scheme {
        Scheme::Tensor => vec![(0, (0..rows * columns).collect())],
        Scheme::Row | Scheme::GeluRow | Scheme::NormRow => by_columns(columns, &|row, _| row),
        Scheme::Block128 => by_columns(128, &|row, block| block * rows + row),
        Scheme::Square128 => {
            let squares = columns / 128;
            let square = |band: usize, square: usize| {
                (band * 128..band * 128 + 128)
                    .flat_map(|row| part(row, square * 128, 128))
                    .collect()
            };
            let padded = squares.next_multiple_of(4);
            (0..rows / 128)
                .flat_map(|band| (0..squares).map(move |at| (band, at)))
                .map(|(band, at)| (band * padded + at, square(band, at)))
                .collect()
        }
        Scheme::Nvfp4 => by_columns(16, &|row, block| place_of_scale(row, block, columns / 16)),
        Scheme::Mxfp8 | Scheme::Mxfp4 => {
            by_columns(32, &|row, block| place_of_scale(row, block, columns / 32))
        }
    }
}

/// One scale.
struct Group {
    scheme: Scheme,
    format: Format,
    largest: f32,
    /// The largest magnitude of the whole matrix.
    whole: f32,
    /// As the buffer holds it.
    stored: u32,
    /// What a code is multiplied by to be a number again.
    scale: f64,
    /// What a number is multiplied by to be coded.
    inverse: f32,
}

impl Group {
    fn new(scheme: Scheme, largest: f32, whole: f32) -> Group {
        let format = if scheme.code_bits() == 4 { Format::E2m1 } else { Format::E4m3 };
        let (stored, scale, inverse) = match scheme {
            Scheme::Mxfp8 | Scheme::Mxfp4 => {
                let power = power_of(largest, format.most());
                let scale = Format::Ue8m0.decode(power);
                let inverse = if power == 0 { 1.0 } else { (1.0 / scale) as f32 };
                (power, scale, inverse)
            }
            Scheme::Nvfp4 => {
                let encode = whole_scale(whole);
                let code = Format::E4m3.encode(largest * (encode * (1.0 / 6.0)));
                let block = Format::E4m3.decode(code);
                let inverse = (1.0 / (block as f32 * (1.0 / encode))).min(MOST);
                (code, block / f64::from(encode), inverse)
            }
            _ => {
                let (scale, inverse) = scale_of(largest);
                (scale.to_bits(), scale.into(), inverse)
            }
        };
        Group { scheme, format, largest, whole, stored, scale, inverse }
    }

    fn code(&self, x: f32) -> u32 {
        let scaled = x * self.inverse;
        let clamped = if self.format == Format::E2m1 { scaled.clamp(-6.0, 6.0) } else { scaled };
        self.format.encode(clamped)
    }

    fn bound(&self, x: f32) -> f64 {
        let magnitude = f64::from(x).abs();
        let roundings = 1.0 + 2f64.powi(-20);
        match (self.scheme, self.format) {
            (Scheme::Nvfp4, _) => {
                let largest = f64::from(self.largest);
                let exact = 448.0 * largest / f64::from(self.whole).max(largest);
                let share = (2f64.powi(-10) / exact).clamp(1.0 / 16.0, 1.0);
                largest * share.max((1.0 + share) / 6.0) * roundings
            }
            (_, Format::E2m1) => (magnitude / 4.0).max(self.scale / 4.0),
            // By an earlier history a tensor may saturate: what is lost beyond the largest is allowed.
            (Scheme::Tensor, _) if magnitude > f64::from(self.largest) => {
                (magnitude - f64::from(self.largest)) * roundings + magnitude * 2f64.powi(-20)
            }
            _ => (magnitude / 16.0).max(self.scale * 2f64.powi(-10)) * roundings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<f16> {
        values.iter().map(|&x| f16::from_f32(x)).collect()
    }

    fn row(first: &[f32], columns: usize) -> Vec<f16> {
        let mut row = halves(first);
        row.resize(columns, f16::ZERO);
        row
    }

    #[test]
    fn rows_by_hand() {
        let wanted = quantise(Scheme::Row, &row(&[448.0, -1.0, 17.0], 128), 128, 0.0);
        assert_eq!(wanted.scales, [1f32.to_bits()]);
        assert_eq!(wanted.codes[..4], [0x7E, 0xB8, 0x58, 0]);
        assert_eq!(wanted.numbers[..4], [448.0, -1.0, 16.0, 0.0]);
    }

    #[test]
    fn microscaling_by_hand() {
        // 6.5 needs a scale of 2 in E2M1: 3.25 goes to 3, which is 6 again; 1 is 0.5 * 2.
        let wanted = quantise(Scheme::Mxfp4, &row(&[6.5, 1.0], 128), 128, 0.0);
        assert_eq!((wanted.scales[0], wanted.scales[1]), (128, 0));
        assert_eq!(wanted.codes[..2], [5, 1]);
        assert_eq!(wanted.numbers[..2], [6.0, 1.0]);
        // 449 exceeds 448: a scale of 2.
        let wanted = quantise(Scheme::Mxfp8, &row(&[449.0], 128), 128, 0.0);
        assert_eq!(wanted.scales[0], 128);
        assert_eq!(wanted.numbers[0], 448.0);
    }

    /// By what small_float.cuh and quantise.cu round to E2M1, of every half.
    #[test]
    fn e2m1_is_the_least_of_four() {
        for x in (0..0x7C00).map(f16::from_bits) {
            let number = x.to_f64();
            let counts = [2.0 * number, number + 2.0, number / 2.0 + 4.0];
            let least = counts.into_iter().map(f64::round_ties_even).fold(7.0, f64::min);
            assert_eq!(least as u32, Format::E2m1.encode(x.to_f32()), "{x}");
        }
    }

    /// By what small_float.cuh rounds pairs: a half added to 2^9 times its power of two.
    #[test]
    fn e2m1_by_an_addition_of_halves() {
        for x in (0..=f16::from_f32(6.0).to_bits()).map(f16::from_bits) {
            let power = f16::from_bits((x.to_bits() & 0x7C00).max(0x3C00));
            let sum = f16::from_f64(512.0 * power.to_f64() + x.to_f64()).to_bits();
            let code = u32::from(sum.wrapping_add(sum >> 9) & 7);
            assert_eq!(code, Format::E2m1.encode(x.to_f32()), "{x}");
        }
    }

    #[test]
    fn nvfp4_by_hand() {
        // The block that has the matrix's largest magnitude has the scale 448 and the code 6.
        let wanted = quantise(Scheme::Nvfp4, &row(&[6.0, 3.0, -0.5], 128), 128, 6.0);
        assert_eq!(Format::E4m3.decode(wanted.scales[0]), 448.0);
        assert_eq!(wanted.codes[..3], [7, 5, 0x9]);
        assert_eq!(wanted.numbers[..3], [6.0, 3.0, -0.5]);
    }

    /// Of blocks of one number each, from the largest of the matrix to less than half of the least scale, and of zeros.
    #[test]
    fn scales_of_nvfp4_are_codes_of_ue4m3() {
        const BLOCKS: usize = 4096;
        let largest = 448.0;
        // S is 6, so that the exact scale is the number itself.
        let number = |block: usize| match block {
            0 => 0.0,
            _ => largest * 2f32.powf(-19.0 * (BLOCKS - 1 - block) as f32 / BLOCKS as f32),
        };
        let mut source = vec![f16::ZERO; 16 * BLOCKS];
        for block in 0..BLOCKS {
            source[16 * block] =
                f16::from_f32(if block % 2 == 0 { 1.0 } else { -1.0 } * number(block));
        }
        let columns = 16 * 128;
        let wanted = quantise(Scheme::Nvfp4, &source, columns, largest);
        assert_eq!(whole_scale(largest), 6.0);
        let mut seen = [false; 128];
        for block in 0..BLOCKS {
            let stored = wanted.scales[place_of_scale(block / 128, block % 128, 128)];
            let magnitude = source[16 * block].to_f32().abs();
            assert_eq!(stored, Format::Ue4m3.encode(magnitude), "{magnitude}");
            let scale = Format::Ue4m3.decode(stored) / 6.0;
            let code = Format::E2m1.decode(wanted.codes[16 * block].into());
            assert_eq!(wanted.numbers[16 * block], code * scale, "{magnitude}");
            seen[stored as usize] = true;
        }
        // Every number of the format, and no NaN.
        assert_eq!(seen.iter().position(|seen| !seen), Some(0x7F));
    }

    /// What the numbers of a row that begins so are as f32, and its first scale.
    fn as_f32(scheme: Scheme, first: &[f32], largest: f32) -> (Vec<f32>, u32) {
        let source = row(first, 128);
        let wanted = quantise(scheme, &source, 128, largest);
        let number = |code: &u8| super::number(scheme, *code, wanted.scales[0], largest);
        (wanted.codes[..first.len()].iter().map(number).collect(), wanted.scales[0])
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for scheme in [Scheme::Row, Scheme::Block128, Scheme::Tensor] {
            for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                let (numbers, scale) = as_f32(scheme, &[x, 1.0, 0.0], x.abs());
                assert!(numbers.iter().all(|number| number.is_nan()), "{scheme:?} {x}");
                assert!(!f32::from_bits(scale).is_finite());
            }
        }
        for scheme in [Scheme::Mxfp8, Scheme::Mxfp4] {
            for x in [f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(as_f32(scheme, &[x, 1.0], 0.0).0[0], x, "{scheme:?}");
            }
            assert!(!as_f32(scheme, &[f32::NAN], 0.0).0[0].is_finite(), "{scheme:?}");
        }
        for x in [f32::INFINITY, f32::NAN] {
            assert!(as_f32(Scheme::Nvfp4, &[x, 1.0], x).0[0].is_nan());
        }
        // By what does not belong to the matrix: of a history, and of NVFP4 that is given.
        assert_eq!(as_f32(Scheme::Tensor, &[f32::NEG_INFINITY, 3.0], 448.0).0, [-448.0, 3.0]);
        assert!(as_f32(Scheme::Tensor, &[f32::NAN], 448.0).0[0].is_nan());
        assert_eq!(as_f32(Scheme::Nvfp4, &[f32::INFINITY], 6.0).0, [6.0]);
    }

    /// By the arithmetic of quantise.cu: scales from the bits of what is not finite, and MXFP4's codes by halves.
    #[test]
    fn microscaling_kernels_keep_what_is_not_finite() {
        let least_power = |bits: u32, exponent: u32, fraction: u32| {
            (bits >> 23) - exponent + u32::from(bits & 0x7F_FFFF > fraction)
        };
        let scale = |power: u32| f32::from_bits(power << 23);
        let infinity = f32::INFINITY.to_bits();
        assert_eq!(least_power(infinity, 8, 0x60_0000), 247);
        assert_eq!(448.0 * scale(247), f32::INFINITY);
        assert_eq!(f32::INFINITY * scale(254 - 247), f32::INFINITY);
        // Both NaN that a conversion from fp16 may leave; the sign is gone.
        for (bits, half) in [(infinity, 0x7C00u16), (0x7FC0_0000, 0x7FFF), (0x7FFF_FFFF, 0x7FFF)] {
            let power = least_power(bits, 2, 0x40_0000);
            assert!((253..=254).contains(&power), "{bits:#x}");
            // The factors of a power far below those of halves are garbage, but neither zero nor NaN.
            let factor = ((127 - power as i32 + 15) as u32).wrapping_mul(0x0400_0400);
            for factor in [factor as u16, (factor >> 16) as u16].map(f16::from_bits) {
                assert!(factor.to_f32() > 1.0 && factor.is_finite(), "{factor}");
            }
            // So a product, and its sum, is the infinity or the NaN; the half below it may carry into it.
            let code = u32::from(half + (half >> 9)) & 7;
            for code in [code, code + 1] {
                assert!((6..=7).contains(&code), "{bits:#x}");
                let number = Format::E2m1.decode(code) as f32 * scale(power);
                assert_eq!(number, f32::INFINITY, "{bits:#x}");
            }
        }
    }

    #[test]
    fn places_of_scales_by_hand() {
        assert_eq!(place_of_scale(0, 3, 8), 3);
        assert_eq!(place_of_scale(0, 4, 8), 512);
        assert_eq!(place_of_scale(1, 0, 8), 16);
        assert_eq!(place_of_scale(32, 0, 8), 4);
        assert_eq!(place_of_scale(128, 0, 8), 1024);
    }

    #[test]
    fn errors_stay_within_the_bounds() {
        let source: Vec<f16> = (0..256 * 256u64)
            .map(|i| f16::from_f32(crate::generator::draw(9, i) as i32 as f32 * 2f32.powi(-29)))
            .collect();
        for scheme in Scheme::ALL {
            let wanted = quantise(scheme, &source, 256, amax(&source));
            let again = dequantise(scheme, &wanted.codes, &wanted.scales, 256, amax(&source));
            assert_eq!(again, wanted.numbers);
            let mut near = 0f64;
            for ((x, number), bound) in source.iter().zip(&wanted.numbers).zip(&wanted.bounds) {
                let error = (x.to_f64() - number).abs();
                assert!(error <= *bound, "{scheme:?}: {x} became {number}, bound {bound}");
                near = near.max(error / bound);
            }
            assert!(near > 0.9, "{scheme:?}: {near}");
        }
    }
}
