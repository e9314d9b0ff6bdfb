//! Integers of few bits: int8 with a symmetric scale for each row, and ternary numbers in two bits.
//!
//! int8: `scale = amax / 127`, `code = rint(x * (127 / amax))`, each operation rounded to f32 once, ties to even;
//! the scale of zeros is 1, -128 is never given. A code times its scale errs by at most half a scale, times
//! 1 + 2^-14 for the three roundings to f32, of numbers up to 127 scales.
//!
//! int2: -1, 0 and 1 in two's complement, sixteen in a word, the first in the low bits; the fourth code stands for
//! nothing and is decoded to NaN. Scales belong to the caller. Infinities go to the ends, a NaN to 0.

use crate::device::{Buffer, CudaStream, Function, Grid, KernelParams, Module};
use crate::element::with_elements;
use crate::memory::inside;
use crate::{Error, KernelSource, Result};

use half::f16;

/// The conversions.
pub const SOURCE: KernelSource = KernelSource {
    name: "integers",
    source: with_elements!("integers.cu"),
    entries: &["integers_encode", "integers_decode", "integers_rows"],
    architectures: crate::SINCE_SM80,
    spill_free: true,
};

const THREADS: u32 = 256;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct IntegerParams {
    input: u64,
    out: u64,
    scales: u64,
    count: u64,
    columns: u32,
    format: u32,
    factor: f32,
    truncate: u32,
}
const _: () = assert!(size_of::<IntegerParams>() == 48);
// SAFETY: repr(C) without padding, equal to the struct in integers.cu.
unsafe impl KernelParams for IntegerParams {}

/// A format of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// 8 bits, -127 to 127.
    Int8,
    /// 2 bits, -1 to 1.
    Int2,
}

impl Integer {
    /// Both.
    pub const ALL: [Integer; 2] = [Integer::Int8, Integer::Int2];

    /// As evidence names it.
    pub fn name(self) -> &'static str {
        match self {
            Integer::Int8 => "int8",
            Integer::Int2 => "int2",
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Integer::Int8 => 8,
            Integer::Int2 => 2,
        }
    }

    /// The largest number.
    pub fn most(self) -> i32 {
        match self {
            Integer::Int8 => 127,
            Integer::Int2 => 1,
        }
    }

    /// The oracle: the nearest number of all that there are, of two the even one.
    pub fn encode(self, x: f32) -> u32 {
        if x.is_nan() {
            return 0;
        }
        let away = |number: &i32| {
            let apart = (f64::from(x) - f64::from(*number)).abs();
            // Infinities are equally far from all: the largest one of their sign is taken.
            let apart = if apart.is_finite() { apart } else { f64::from(number.abs()).recip() };
            (apart, number.rem_euclid(2))
        };
        let numbers = (-self.most()..=self.most())
            .filter(|number| x.is_finite() || (*number > 0) == (x > 0.0) && *number != 0);
        let nearest = numbers.min_by(|one, other| {
            let ((a, odd_a), (b, odd_b)) = (away(one), away(other));
            a.total_cmp(&b).then(odd_a.cmp(&odd_b))
        });
        nearest.unwrap_or(0) as u32 & ((1 << self.bits()) - 1)
    }

    /// The oracle: the number of a code; `None` for two bits' fourth code.
    pub fn decode(self, code: u32) -> Option<i32> {
        let codes = 1 << self.bits();
        let number = if code >= codes / 2 { code as i32 - codes as i32 } else { code as i32 };
        (self == Integer::Int8 || number != -2).then_some(number)
    }

    /// Codes in the words in which they lie.
    pub fn pack(self, codes: &[u32]) -> Vec<u32> {
        let word = |group: &[u32]| {
            group.iter().zip(0..).fold(0, |word, (code, i)| word | code << (self.bits() * i))
        };
        codes.chunks(32 / self.bits() as usize).map(word).collect()
    }

    /// Codes out of the words in which they lie.
    pub fn unpack(self, words: &[u32]) -> Vec<u32> {
        let (bits, each) = (self.bits(), 32 / self.bits());
        let code = |word: u32, i: u32| word >> (bits * i) & ((1 << bits) - 1);
        words.iter().flat_map(|word| (0..each).map(move |i| code(*word, i))).collect()
    }
}

/// Codes and scales of int8 by rows, and the most that each number may be off: the oracle.
pub fn rows(source: &[f16], columns: usize) -> (Vec<u32>, Vec<f32>, Vec<f64>) {
    let (mut codes, mut scales, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    for row in source.chunks(columns) {
        let largest = row.iter().map(|x| x.to_f32().abs()).fold(0.0, f32::max);
        let (scale, factor) = match largest {
            0.0 => (1.0, 1.0),
            largest => (largest / 127.0, 127.0 / largest),
        };
        codes.extend(row.iter().map(|x| Integer::Int8.encode(x.to_f32() * factor)));
        bounds.extend(row.iter().map(|_| f64::from(scale) * 0.5 * (1.0 + 2f64.powi(-14))));
        scales.push(scale);
    }
    (codes, scales, bounds)
}

/// The entries of [`SOURCE`] on one GPU.
#[derive(Debug)]
pub struct Integers {
    encode: Function,
    decode: Function,
    rows: Function,
}

impl Integers {
    /// Finds the entries.
    pub fn new(module: &Module) -> Result<Integers> {
        Ok(Integers {
            encode: module.entry("integers_encode")?,
            decode: module.entry("integers_decode")?,
            rows: module.entry("integers_rows")?,
        })
    }

    /// Enqueues the codes of so many words of `source`, fp16, times `factor`.
    ///
    /// Errors: a buffer that is too small or of another GPU.
    pub fn encode(
        &self,
        stream: &CudaStream,
        (format, factor): (Integer, f32),
        source: &Buffer,
        (target, words): (&Buffer, u64),
        truncate: bool,
    ) -> Result<()> {
        let each = u64::from(32 / format.bits());
        inside("numbers", 0, 2 * each * words, source.len_bytes())?;
        inside("codes", 0, 4 * words, target.len_bytes())?;
        let params = params(source, target, words);
        let params =
            IntegerParams { format: format as u32, factor, truncate: truncate.into(), ..params };
        self.flat(&self.encode, stream, [source, target], &params)
    }

    /// Enqueues the numbers of so many words of codes, f32, times `factor`.
    ///
    /// Errors: a buffer that is too small or of another GPU.
    pub fn decode(
        &self,
        stream: &CudaStream,
        (format, factor): (Integer, f32),
        (source, words): (&Buffer, u64),
        target: &Buffer,
    ) -> Result<()> {
        let each = u64::from(32 / format.bits());
        inside("codes", 0, 4 * words, source.len_bytes())?;
        inside("numbers", 0, 4 * each * words, target.len_bytes())?;
        let params =
            IntegerParams { format: format as u32, factor, ..params(source, target, words) };
        self.flat(&self.decode, stream, [source, target], &params)
    }

    fn flat(
        &self,
        function: &Function,
        stream: &CudaStream,
        buffers: [&Buffer; 2],
        params: &IntegerParams,
    ) -> Result<()> {
        for buffer in buffers {
            stream.same_context(buffer.context())?;
        }
        let blocks = u32::try_from(params.count.div_ceil(THREADS.into()))
            .map_err(|_| Error::Shape { what: format!("{} words of codes", params.count) })?;
        // SAFETY: the callers checked that all words lie inside their buffers.
        unsafe { function.launch(stream, Grid::linear(blocks, THREADS), params) }
    }

    /// Enqueues int8 codes and f32 scales of an fp16 matrix `[rows][columns]`.
    ///
    /// Errors: no rows or more than 2^24, columns that are no multiple of 8, a buffer that is too small or of
    /// another GPU.
    pub fn rows(
        &self,
        stream: &CudaStream,
        source: &Buffer,
        (rows, columns): (u64, u32),
        (codes, scales): (&Buffer, &Buffer),
        truncate: bool,
    ) -> Result<()> {
        if rows == 0 || rows > 1 << 24 || columns == 0 || !columns.is_multiple_of(8) {
            let what = format!("int8 by rows: {rows} x {columns}, columns come in 8s");
            return Err(Error::Shape { what });
        }
        let elements = rows * u64::from(columns);
        inside("numbers", 0, 2 * elements, source.len_bytes())?;
        inside("codes", 0, elements, codes.len_bytes())?;
        inside("scales", 0, 4 * rows, scales.len_bytes())?;
        for buffer in [source, codes, scales] {
            stream.same_context(buffer.context())?;
        }
        let params = IntegerParams {
            scales: scales.ptr(),
            columns,
            truncate: truncate.into(),
            ..params(source, codes, rows)
        };
        // SAFETY: the matrix, codes and scales lie inside their buffers, as checked.
        unsafe { self.rows.launch(stream, Grid::linear(rows as u32, THREADS), &params) }
    }
}

fn params(input: &Buffer, out: &Buffer, count: u64) -> IntegerParams {
    IntegerParams {
        input: input.ptr(),
        out: out.ptr(),
        scales: 0,
        count,
        columns: 0,
        format: 0,
        factor: 1.0,
        truncate: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: Integer, x: f32, number: i32) {
        assert_eq!(format.decode(format.encode(x)), Some(number), "{format:?} of {x}");
    }

    #[test]
    fn codes_by_hand() {
        check(Integer::Int8, 0.5, 0);
        check(Integer::Int8, 1.5, 2);
        check(Integer::Int8, -2.5, -2);
        check(Integer::Int8, -126.5, -126);
        check(Integer::Int8, 1e9, 127);
        check(Integer::Int8, f32::NEG_INFINITY, -127);
        check(Integer::Int8, f32::NAN, 0);
        check(Integer::Int2, 0.5, 0);
        check(Integer::Int2, 0.500_01, 1);
        check(Integer::Int2, -7.0, -1);
        check(Integer::Int2, f32::INFINITY, 1);
        assert_eq!(Integer::Int2.decode(2), None);
        assert_eq!(Integer::Int8.decode(0x80), Some(-128));
    }

    #[test]
    fn packing_by_hand() {
        assert_eq!(Integer::Int2.pack(&[1, 3, 0, 1]), [0b0100_1101]);
        assert_eq!(Integer::Int8.pack(&[1, 0xFF, 2, 3]), [0x0302_FF01]);
        assert_eq!(Integer::Int2.unpack(&[0b0100_1101])[..5], [1, 3, 0, 1, 0]);
    }

    #[test]
    fn rows_by_hand() {
        let row: Vec<f16> = [127.0, -1.5, 0.4, 2.5].map(f16::from_f32).to_vec();
        let (codes, scales, bounds) = rows(&row, 4);
        assert_eq!((codes, scales), (vec![127, 0xFE, 0, 2], vec![1.0]));
        assert!(bounds[0] >= 0.5);
    }
}
