//! Formats of few bits by their definition: a number is searched in the list of all numbers that the
//! format has. Slow and plain on purpose: it shares no line with the bit arithmetic that it judges.
//!
//! E4M3, E5M2: OCP 8-bit Floating Point Specification 1.0. E2M1, UE8M0: OCP Microscaling Formats 1.0.
//! FP16: IEEE 754 binary16. bfloat16: the upper half of binary32. UE4M3, what the blocks of NVFP4 are scaled by:
//! cuBLAS has it as E4M3 whose sign is ignored. Here it has seven bits, the eighth of a byte is zero, and what no
//! document says of conversions to it is pinned: numbers below zero, -0 and -infinity become 0, as with UE8M0, and
//! NaN of either sign stays NaN.

use std::sync::OnceLock;

/// A floating-point format of at most 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinity, NaN 0x7F, most 448.
    E4m3,
    /// Sign, 5 exponent bits (bias 15), 2 mantissa bits; infinities, most 57344.
    E5m2,
    /// Sign, 2 exponent bits (bias 1), 1 mantissa bit; neither infinity nor NaN, most 6.
    E2m1,
    /// 8 exponent bits (bias 127), nothing else: powers of two, NaN 0xFF.
    Ue8m0,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// No sign, 4 exponent bits (bias 7), 3 mantissa bits: E4M3 that is not negative. Neither infinity nor a sign of
    /// NaN, which is 0x7F; least number above zero 2^-9, most 448, to which all beyond saturates.
    Ue4m3,
}

/// How a number that the format lacks becomes one that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, of two to the one with an even mantissa.
    NearestEven,
    /// To the larger: what scales of microscaling formats take, so that nothing exceeds the format.
    Up,
}

/// The layout of a format.
#[derive(Debug, Clone, Copy)]
struct Layout {
    bits: u32,
    signed: bool,
    mantissa: u32,
    bias: i32,
    /// The largest finite magnitude's code.
    most: u32,
    /// A NaN, where there is one.
    nan: Option<u32>,
    /// Where a finite number beyond the largest goes: to it, or to infinity.
    saturates: bool,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] = [
        Format::E4m3,
        Format::E5m2,
        Format::E2m1,
        Format::Ue8m0,
        Format::F16,
        Format::Bf16,
        Format::Ue4m3,
    ];

    /// As evidence names it.
    pub fn name(self) -> &'static str {
        match self {
            Format::E4m3 => "e4m3",
            Format::E5m2 => "e5m2",
            Format::E2m1 => "e2m1",
            Format::Ue8m0 => "ue8m0",
            Format::F16 => "fp16",
            Format::Bf16 => "bf16",
            Format::Ue4m3 => "ue4m3",
        }
    }

    /// How conversions to it round.
    pub fn rounding(self) -> Rounding {
        if self == Format::Ue8m0 { Rounding::Up } else { Rounding::NearestEven }
    }

    /// Number of codes.
    pub fn codes(self) -> u32 {
        1 << self.layout().bits
    }

    /// Bits of the mantissa.
    pub fn mantissa_bits(self) -> u32 {
        self.layout().mantissa
    }

    /// The largest finite number.
    pub fn most(self) -> f64 {
        self.decode(self.layout().most)
    }

    fn layout(self) -> Layout {
        let layout = |bits, mantissa, bias, most, nan, saturates| Layout {
            bits,
            signed: true,
            mantissa,
            bias,
            most,
            nan,
            saturates,
        };
        match self {
            Format::E4m3 => layout(8, 3, 7, 0x7E, Some(0x7F), true),
            Format::E5m2 => layout(8, 2, 15, 0x7B, Some(0x7F), true),
            Format::E2m1 => layout(4, 1, 1, 0x7, None, true),
            Format::Ue8m0 => Layout { signed: false, ..layout(8, 0, 127, 0xFE, Some(0xFF), true) },
            Format::F16 => layout(16, 10, 15, 0x7BFF, Some(0x7FFF), false),
            Format::Bf16 => layout(16, 7, 127, 0x7F7F, Some(0x7FFF), false),
            Format::Ue4m3 => Layout { signed: false, ..layout(7, 3, 7, 0x7E, Some(0x7F), true) },
        }
    }

    /// Whether a code is a NaN.
    pub fn is_nan(self, code: u32) -> bool {
        self.decode(code).is_nan()
    }

    /// The number of a code, by the format's definition. Exact: f64 holds every number of every format.
    pub fn decode(self, code: u32) -> f64 {
        let Layout { bits, signed, mantissa, bias, .. } = self.layout();
        if self == Format::Ue8m0 {
            return if code == 0xFF { f64::NAN } else { 2f64.powi(code as i32 - bias) };
        }
        let sign = if signed && code >> (bits - 1) == 1 { -1.0 } else { 1.0 };
        let magnitude_bits = bits - u32::from(signed);
        let magnitude = code & ((1 << magnitude_bits) - 1);
        let exponent_bits = magnitude_bits - mantissa;
        let exponent = magnitude >> mantissa;
        let fraction = magnitude & ((1 << mantissa) - 1);
        let top = exponent == (1 << exponent_bits) - 1;
        let special = match self {
            Format::E4m3 | Format::Ue4m3 => (magnitude == 0x7F).then_some(f64::NAN),
            Format::E5m2 | Format::F16 | Format::Bf16 if top => {
                Some(if fraction == 0 { f64::INFINITY } else { f64::NAN })
            }
            _ => None,
        };
        let steps = 2f64.powi(mantissa as i32);
        sign * special.unwrap_or_else(|| match exponent {
            0 => f64::from(fraction) / steps * 2f64.powi(1 - bias),
            _ => (1.0 + f64::from(fraction) / steps) * 2f64.powi(exponent as i32 - bias),
        })
    }

    /// Every number that is finite and not negative, in order; the code is the index.
    pub fn magnitudes(self) -> &'static [f64] {
        static LISTS: [OnceLock<Vec<f64>>; Format::ALL.len()] =
            [const { OnceLock::new() }; Format::ALL.len()];
        LISTS[self as usize]
            .get_or_init(|| (0..=self.layout().most).map(|code| self.decode(code)).collect())
    }

    /// The code of a number: searched among all that there are. NaN becomes the format's NaN, or its
    /// largest number where it has none. E4M3, UE4M3, E5M2 and E2M1 saturate, infinities too, as conversions
    /// with `satfinite` do; fp16 and bfloat16 go to infinity where the next number would have been
    /// the nearer one.
    pub fn encode(self, x: f32) -> u32 {
        let Layout { bits, signed, most, nan, saturates, .. } = self.layout();
        if x.is_nan() {
            return nan.unwrap_or(most);
        }
        let sign = if signed && x.is_sign_negative() { 1 << (bits - 1) } else { 0 };
        // An unsigned format has nothing below its least number.
        let magnitude = if signed { f64::from(x).abs() } else { f64::from(x).max(0.0) };
        let list = self.magnitudes();
        let above = list.partition_point(|number| *number < magnitude);
        if above == list.len() {
            let last = list[list.len() - 1];
            let next = 2.0 * last - list[list.len() - 2];
            // Half-way is a tie between an odd code and infinity's even one.
            let beyond = magnitude >= (last + next) / 2.0;
            return sign | if !saturates && beyond { most + 1 } else { most };
        }
        if above == 0 || list[above] == magnitude || self.rounding() == Rounding::Up {
            return sign | above as u32;
        }
        let (low, high) = (list[above - 1], list[above]);
        let up = match (magnitude - low).total_cmp(&(high - magnitude)) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => above.is_multiple_of(2),
        };
        sign | (above as u32 - u32::from(!up))
    }

    /// Numbers at which an encoder can err: every number of the format, every half-way point, what lies
    /// one or two f32 steps beside them, every fp16 number, and the ends of f32; of both signs.
    pub fn probes(self) -> Vec<f32> {
        let mut probes =
            vec![f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), f32::NAN];
        let list = self.magnitudes();
        let last = list[list.len() - 1];
        let halves = list.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let beyond = [last * 1.0625, last * 1.125, last * 1.25, last * 1.5, last * 2.0];
        let top = (3.0 * last - list[list.len() - 2]) / 2.0;
        for point in list.iter().copied().chain(halves).chain(beyond).chain([top]) {
            let near = point as f32;
            let (up, down) = (near.next_up(), near.next_down());
            probes.extend([near, up, up.next_up(), down, down.next_down()]);
        }
        probes.extend((0..=u16::MAX).map(|code| half::f16::from_bits(code).to_f32()));
        let negative: Vec<f32> = probes.iter().map(|probe| -probe).collect();
        probes.extend(negative);
        probes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: Format, x: f32, code: u32) {
        assert_eq!(format.encode(x), code, "{format:?} of {x}");
    }

    #[test]
    fn codes_by_hand() {
        check(Format::E4m3, 448.0, 0x7E);
        check(Format::E4m3, f32::INFINITY, 0x7E);
        check(Format::E4m3, -464.0, 0xFE);
        check(Format::E4m3, 17.0, 0x58);
        check(Format::E4m3, 19.0, 0x5A);
        check(Format::E5m2, 57344.0, 0x7B);
        check(Format::E5m2, 1e9, 0x7B);
        check(Format::E5m2, 1.0, 0x3C);
        // 2.5 lies between 2 and 3 and goes to 2, 3.5 to 4; 5 to 4.
        check(Format::E2m1, 2.5, 4);
        check(Format::E2m1, 3.5, 6);
        check(Format::E2m1, 5.0, 6);
        check(Format::E2m1, -100.0, 0xF);
        check(Format::E2m1, 0.25, 0);
        check(Format::Ue8m0, 1.0, 127);
        check(Format::Ue8m0, 1.01, 128);
        check(Format::Ue8m0, 0.0, 0);
        check(Format::Ue4m3, 448.0, 0x7E);
        check(Format::Ue4m3, 464.0, 0x7E);
        check(Format::Ue4m3, f32::INFINITY, 0x7E);
        check(Format::Ue4m3, 17.0, 0x58);
        check(Format::Ue4m3, 19.0, 0x5A);
        // Steps of 2^-9 below 2^-6; half a step is a tie with zero.
        check(Format::Ue4m3, 2f32.powi(-9), 1);
        check(Format::Ue4m3, 2f32.powi(-10), 0);
        check(Format::Ue4m3, 1.5 * 2f32.powi(-9), 2);
        for below in [-0.0, -2f32.powi(-9), -448.0, f32::NEG_INFINITY] {
            check(Format::Ue4m3, below, 0);
        }
        check(Format::Ue4m3, -f32::NAN, 0x7F);
        check(Format::F16, 65519.0, 0x7BFF);
        check(Format::F16, 65520.0, 0x7C00);
        check(Format::Bf16, f32::MAX, 0x7F80);
    }

    #[test]
    fn halves_and_e4m3_agree_with_other_codecs() {
        for step in 0..100_000u32 {
            let x = f32::from_bits(crate::generator::mix(5, step.into()));
            if x.is_nan() {
                continue;
            }
            check(Format::F16, x, half::f16::from_f32(x).to_bits().into());
            check(Format::Bf16, x, half::bf16::from_f32(x).to_bits().into());
            if x.is_finite() {
                check(Format::E4m3, x, float8::F8E4M3::from_f32(x).to_bits().into());
            }
        }
    }

    #[test]
    fn every_code_is_its_own_numbers_code() {
        for format in Format::ALL {
            for code in 0..format.codes() {
                let number = format.decode(code);
                if number.is_finite() {
                    assert_eq!(format.encode(number as f32), code, "{format:?} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn ue4m3_is_e4m3_that_is_not_negative() {
        assert_eq!(Format::Ue4m3.codes(), 128);
        for code in 0..128u32 {
            let (own, other) = (Format::Ue4m3.decode(code), Format::E4m3.decode(code));
            assert!(own == other || (own.is_nan() && other.is_nan()), "{code:#x}");
        }
        for probe in Format::E4m3.probes() {
            let other = Format::E4m3.encode(probe);
            let wanted = if probe < 0.0 { 0 } else { other & 0x7F };
            check(Format::Ue4m3, probe, wanted);
        }
    }

    #[test]
    fn e5m2_is_the_upper_half_of_fp16() {
        for code in 0..=255u32 {
            let other = half::f16::from_bits((code << 8) as u16).to_f64();
            let own = Format::E5m2.decode(code);
            assert!(own == other || (own.is_nan() && other.is_nan()), "{code:#x}");
        }
    }
}
