//! Element types of matrix operands, codes to numbers and back: the twin of `element.cuh`.
//!
//! E4M3 is the finite format of OCP FP8: sign, 4 exponent bits (bias 7), 3 mantissa bits, maximum
//! 448, subnormal step 2^-9, no infinity, NaN 0x7F. It is rounded to nearest, ties to even, and
//! saturates. F32 is rounded to tf32 (10 mantissa bits), so a tf32 product rounds no input.

use half::{bf16, f16};

/// Source of the element types for kernels that read or make operands.
macro_rules! with_elements {
    ($file:literal) => {
        concat!(include_str!("generator.cuh"), include_str!("element.cuh"), include_str!($file))
    };
}
pub(crate) use with_elements;

/// Type of the elements of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 bits; as an input rounded to tf32.
    F32,
    /// FP8 E4M3.
    E4m3,
    /// 8-bit integer, -127 to 127.
    Int8,
    /// 32-bit integer, outputs only.
    Int32,
}

impl Element {
    /// Types that an operand may have.
    pub const INPUTS: [Element; 5] =
        [Element::F16, Element::Bf16, Element::F32, Element::E4m3, Element::Int8];

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::F32 | Element::Int32 => 4,
            Element::E4m3 | Element::Int8 => 1,
        }
    }

    /// The number of the type in the kernels.
    pub(crate) fn code(self) -> u32 {
        match self {
            Element::F16 => 0,
            Element::Bf16 => 1,
            Element::F32 => 2,
            Element::E4m3 => 3,
            Element::Int8 => 4,
            Element::Int32 => 5,
        }
    }

    /// The code of a value, as an operand holds it.
    pub fn encode(self, x: f32) -> u32 {
        match self {
            Element::F16 => f16::from_f32(x).to_bits().into(),
            Element::Bf16 => bf16::from_f32(x).to_bits().into(),
            Element::F32 => {
                let bits = x.to_bits();
                bits.wrapping_add(0xFFF + ((bits >> 13) & 1)) & !0x1FFF
            }
            Element::E4m3 => e4m3_encode(x),
            Element::Int8 => (x.round_ties_even().clamp(-127.0, 127.0) as i32 as u32) & 0xFF,
            Element::Int32 => x.round_ties_even() as i32 as u32,
        }
    }

    /// The value of a code.
    pub fn decode(self, code: u32) -> f64 {
        match self {
            Element::F16 => f16::from_bits(code as u16).to_f64(),
            Element::Bf16 => bf16::from_bits(code as u16).to_f64(),
            Element::F32 => f32::from_bits(code).into(),
            Element::E4m3 => e4m3_decode(code as u8).into(),
            Element::Int8 => f64::from(code as u8 as i8),
            Element::Int32 => f64::from(code as i32),
        }
    }

    /// Half a unit in the last place at `x`: the most that rounding to nearest moves a result.
    pub fn half_ulp(self, x: f64) -> f64 {
        let (fraction_bits, least_exponent) = match self {
            Element::F16 => (10, -14),
            Element::Bf16 => (7, -126),
            Element::F32 => (23, -126),
            Element::E4m3 => (3, -6),
            Element::Int8 | Element::Int32 => return 0.0,
        };
        let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(least_exponent);
        f64::powi(2.0, exponent - fraction_bits - 1)
    }

    /// Packs codes of this type into the 32-bit words in which they lie in memory.
    pub fn pack(self, codes: &[u32]) -> Vec<u32> {
        let each = (4 / self.bytes()) as usize;
        let bits = 8 * self.bytes() as usize;
        let word = |group: &[u32]| {
            group.iter().enumerate().fold(0u32, |word, (i, code)| word | (code << (bits * i)))
        };
        codes.chunks(each).map(word).collect()
    }
}

fn e4m3_encode(x: f32) -> u32 {
    let bits = x.to_bits();
    let sign = (bits >> 24) & 0x80;
    let magnitude = bits & 0x7FFF_FFFF;
    if magnitude > 0x7F80_0000 {
        return sign | 0x7F;
    }
    if magnitude > 448f32.to_bits() {
        return sign | 0x7E;
    }
    if magnitude < 0.015_625f32.to_bits() {
        return sign | (f32::from_bits(magnitude) * 512.0).round_ties_even() as u32;
    }
    let rounded = magnitude + 0x7_FFFF + ((magnitude >> 20) & 1);
    sign | ((rounded >> 20) - (120 << 3))
}

fn e4m3_decode(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from((code >> 3) & 15), f32::from(code & 7));
    match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa * f32::powi(2.0, -9),
        _ => sign * (8.0 + mantissa) * f32::powi(2.0, exponent - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(element: Element, x: f32, expect: u32) {
        assert_eq!(element.encode(x), expect, "{element:?} of {x}");
    }

    #[test]
    fn codes_by_hand() {
        check(Element::E4m3, 1.0, 0x38);
        check(Element::E4m3, -1.0, 0xB8);
        check(Element::E4m3, 448.0, 0x7E);
        check(Element::E4m3, 1e9, 0x7E);
        check(Element::E4m3, f32::NAN, 0x7F);
        // 17 lies between 16 and 18 and goes to the even mantissa; 19 goes to 20.
        check(Element::E4m3, 17.0, 0x58);
        check(Element::E4m3, 19.0, 0x5A);
        // The least subnormal, half of it (to even: zero), and the carry into the normals.
        check(Element::E4m3, 0.001_953_125, 0x01);
        check(Element::E4m3, 0.000_976_562_5, 0x00);
        check(Element::E4m3, 0.015_6, 0x08);
        check(Element::F16, 1.0, 0x3C00);
        check(Element::Bf16, -2.0, 0xC000);
        check(Element::F32, 1.0 + f32::EPSILON, 0x3F80_0000);
        check(Element::Int8, -1.0, 0xFF);
        check(Element::Int8, 300.0, 127);
    }

    #[test]
    fn e4m3_agrees_with_an_independent_codec() {
        for code in 0..=255u8 {
            let other = float8::F8E4M3::from_bits(code).to_f32();
            let own = e4m3_decode(code);
            assert!(own == other || (own.is_nan() && other.is_nan()), "{code:#04x}");
        }
        for step in 0..200_000u32 {
            let x = f32::from_bits(crate::generator::mix(3, step.into()));
            if x.is_finite() {
                let other = u32::from(float8::F8E4M3::from_f32(x).to_bits());
                assert_eq!(e4m3_encode(x), other, "{x}");
            }
        }
    }

    #[test]
    fn half_ulps_by_hand() {
        assert_eq!(Element::F16.half_ulp(1.5), f64::powi(2.0, -11));
        assert_eq!(Element::F16.half_ulp(0.0), f64::powi(2.0, -25));
        assert_eq!(Element::Bf16.half_ulp(-256.0), 1.0);
        assert_eq!(Element::Int32.half_ulp(7.0), 0.0);
    }

    #[test]
    fn codes_pack_from_the_low_end() {
        assert_eq!(Element::E4m3.pack(&[1, 2, 3, 4, 5]), [0x0403_0201, 5]);
        assert_eq!(Element::F16.pack(&[0x3C00, 0xBC00]), [0xBC00_3C00]);
    }
}
