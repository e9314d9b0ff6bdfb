//! The generator of all test data: a hash of (seed, counter), the twin of `generator.cuh`.
//!
//! Any thread can make, check or sum any word without state, and a fresh seed gives fresh data.
//! The finaliser is `lowbias32` of Chris Wellons' hash-prospector (multipliers 0x7feb352d and
//! 0x846ca68b, shifts 16, 15, 16) with the upper half of the seed folded in after the first
//! multiplication. Four words come from one hash by odd multipliers, so that writing generated
//! data costs three integer operations a word and is not bound by arithmetic.

/// Source of the generator for kernels, put in front of each `.cu` file.
macro_rules! with_generator {
    ($file:literal) => {
        concat!(include_str!("generator.cuh"), include_str!($file))
    };
}
pub(crate) use with_generator;

/// 32 mixed bits of a seed and a counter.
pub fn mix(seed: u64, counter: u64) -> u32 {
    let high = ((counter >> 32) as u32).wrapping_mul(0x632B_E5AB);
    let mut x = (counter as u32).wrapping_add(seed as u32).wrapping_add(high);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= (seed >> 32) as u32;
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// 32 drawn bits of a seed and a counter, for operands of products: splitmix64 (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014), the high half. Under [`mix`] rows
/// whose counters are each other's complement are correlated, which a dot product can see.
pub fn draw(seed: u64, counter: u64) -> u32 {
    let mut x = counter.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 32) as u32 ^ (x >> 63) as u32
}

/// A number below `limit`, drawn by [`draw`].
pub fn below(seed: u64, counter: u64, limit: u32) -> u32 {
    ((u64::from(draw(seed, counter)) * u64::from(limit)) >> 32) as u32
}

/// The four words of 16-byte vector `vector`.
pub fn hash_vector(seed: u64, vector: u64) -> [u32; 4] {
    let h = mix(seed, vector);
    [
        h,
        h.wrapping_mul(0x9E37_79B1).wrapping_add(0x7F4A_7C15),
        h.wrapping_mul(0x85EB_CA77).wrapping_add(0x1656_67B1),
        h.wrapping_mul(0xC2B2_AE3D).wrapping_add(0x27D4_EB2F),
    ]
}

/// The word at `index` of a hashed region.
pub fn hash_word(seed: u64, index: u64) -> u32 {
    hash_vector(seed, index / 4)[(index % 4) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_values_worked_out_apart() {
        // Made by an independent program from the formulas in the module's text.
        assert_eq!(mix(0, 0), 0);
        assert_eq!(mix(0, 1), 0x6889_90C0);
        assert_eq!(mix(0x0123_4567_89AB_CDEF, 7), 0x3E4F_5A31);
        assert_eq!(mix(1, 1 << 32), 0x7239_FE19);
        assert_eq!(
            hash_vector(0x0123_4567_89AB_CDEF, 7),
            [0x3E4F_5A31, 0xB450_00F6, 0xEA5E_FE78, 0xC81C_B6DC]
        );
    }

    /// The reference output of splitmix64 for seed 1234567, whose first number is
    /// 6457827717110365317; here the seed stands before the first step, so the counter is 1.
    #[test]
    fn draws_are_splitmix64() {
        let x: u64 = 6_457_827_717_110_365_317;
        let unfolded = x ^ (x >> 31) ^ (x >> 62);
        assert_eq!(draw(1_234_567, 1), (unfolded >> 32) as u32 ^ (unfolded >> 63) as u32);
    }

    /// Rows 5139 of A and 15829 of B gave a dot product of 270, twelve standard deviations, when
    /// operands were drawn by `mix`: their counters are complements.
    #[test]
    fn complementary_rows_are_not_correlated() {
        let sign = |word: u32| f64::from(word >> 31) * 2.0 - 1.0;
        let dot = |draw: fn(u64, u64) -> u32| -> f64 {
            let row = |seed, row: u64| (0..8192).map(move |k| sign(draw(seed, row * 8192 + k)));
            row(248_638_255_228_000, 5139)
                .zip(row(248_638_255_228_001, 15_829))
                .map(|(a, b)| a * b)
                .sum()
        };
        assert!(dot(draw).abs() < 6.0 * 8192_f64.sqrt(), "{}", dot(draw));
    }

    #[test]
    fn words_are_lanes_of_vectors() {
        assert_eq!(hash_word(9, 4 * 11 + 2), hash_vector(9, 11)[2]);
    }
}
