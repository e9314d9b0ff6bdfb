//! Known answers of the formats and quantisers.

use half::f16;

use super::{Asker, SEED};
use crate::dequantise::{self, Dequantiser};
use crate::dequantise_rows::{RowDequantiser, half_of};
use crate::device::Buffer;
use crate::element::Element;
use crate::formats::{By, Format, Formats, Sweep, chip_converts};
use crate::generator::draw;
use crate::model::{Affine, EPSILON, Kernels, Matrix};
use crate::quantise::oracle::{self, Wanted};
use crate::quantise::{Extra, Quantised, Quantiser, Scheme};
use crate::{Error, Result};

/// Rows of every question: one square, which no other scheme divides by.
const ROWS: u64 = 128;

impl Asker<'_> {
    fn formats(&self) -> Result<Formats<'_>> {
        Formats::new(self.gpu, self.module("formats")?)
    }

    /// Formats with the ways in which this GPU converts to them.
    fn ways(&self) -> Vec<(Format, By)> {
        let chip = |format: &Format| chip_converts(*format, self.gpu.compute_capability);
        let own = Format::ALL.into_iter().map(|format| (format, By::Arithmetic));
        own.chain(Format::ALL.into_iter().filter(chip).map(|format| (format, By::Chip))).collect()
    }

    pub(super) fn formats_encode(&self, name: &str) -> Result<u64> {
        let formats = self.formats()?;
        let mut wrong = 0;
        for (format, by) in self.ways() {
            let mut probes = format.probes();
            // Which NaN a chip gives is not asked.
            probes.retain(|probe| !probe.is_nan());
            let wanted: Vec<u32> = probes.iter().map(|&x| format.encode(x)).collect();
            wrong += self.compare(name, formats.encode(format, by, &probes)?, &wanted);
        }
        Ok(wrong)
    }

    pub(super) fn formats_decode(&self, name: &str) -> Result<u64> {
        let formats = self.formats()?;
        let mut wrong = 0;
        for (format, by) in self.ways() {
            let finite = |code: &u32| !format.is_nan(*code);
            let found = formats.decode(format, by)?;
            let codes: Vec<u32> = (0..format.codes()).filter(finite).collect();
            let wanted: Vec<u32> =
                codes.iter().map(|&code| (format.decode(code) as f32).to_bits()).collect();
            let found = codes.iter().map(|&code| found[code as usize]).collect();
            wrong += self.compare(name, found, &wanted);
        }
        Ok(wrong)
    }

    pub(super) fn formats_sweep(&self, name: &str) -> Result<u64> {
        let formats = self.formats()?;
        let wanted = Sweep { numbers: 1 << 20, different: 0, first: None, falling: 0 };
        let numbers = |sweep: Sweep| {
            let first = sweep.first.map_or(u64::MAX, u64::from);
            [sweep.numbers, sweep.different, first, sweep.falling]
        };
        let mut wrong = 0;
        for (format, by) in self.ways() {
            if by == By::Chip {
                let found = formats.sweep(format, By::Arithmetic, 1 << 20)?;
                wrong += self.compare_u64(name, &numbers(found), &numbers(wanted));
            }
        }
        Ok(wrong)
    }

    /// Halves of several magnitudes, a row of zeros among them.
    fn spread_halves(&self, columns: u32) -> Vec<f16> {
        let element = |at: u64| {
            let row = at / u64::from(columns);
            let word = draw(SEED ^ 7, at) as i32 as f32;
            let scale = if row == 5 { 0.0 } else { 2f32.powi(-31 + (row % 9) as i32 - 4) };
            f16::from_f32(word * scale)
        };
        (0..ROWS * u64::from(columns)).map(element).collect()
    }

    pub(super) fn quantise_largest(&self, name: &str) -> Result<u64> {
        let source = self.spread_halves(256);
        let buffer = self.halves_buffer(&source)?;
        let largest = self.gpu.alloc(4)?;
        largest.fill_u32(self.stream(), 0)?;
        let quantiser = Quantiser::new(self.gpu, self.module("quantise")?)?;
        quantiser.largest(self.stream(), &buffer, (ROWS, 256), &largest)?;
        self.compare_buffer(name, &largest, &[oracle::amax(&source).to_bits()])
    }

    fn halves_buffer(&self, halves: &[f16]) -> Result<Buffer> {
        let codes: Vec<u16> = halves.iter().map(|half| half.to_bits()).collect();
        let buffer = self.gpu.alloc(2 * codes.len() as u64)?;
        buffer.write(self.stream(), 0, &codes)?;
        Ok(buffer)
    }

    /// Quantises rows of so many columns and compares codes and scales.
    pub(super) fn quantise(&self, name: &str, scheme: Scheme, columns: u32) -> Result<u64> {
        let stream = self.stream();
        let source = self.spread_halves(columns);
        let buffer = self.halves_buffer(&source)?;
        let affine = self.halves_buffer(&source[..columns as usize])?;
        let largest = oracle::amax(&source);
        let amax = self.with_words(&[largest.to_bits()])?;
        let target = Quantised::new(self.gpu, scheme, ROWS, columns)?;
        target.codes.poison(stream)?;
        target.scales.fill_u32(stream, 0)?;
        let quantiser = Quantiser::new(self.gpu, self.module("quantise")?)?;
        let extra = Extra {
            amax: Some(&amax),
            norm: Some((&affine, &affine, EPSILON)),
            ..Extra::default()
        };
        quantiser.run(stream, scheme, &buffer, (ROWS, columns), &target, extra)?;
        let before = self.before(scheme, &buffer, &affine, columns)?;
        let wanted = oracle::quantise(scheme, &before, columns as usize, largest);
        let wrong = self.compare_buffer(name, &target.codes, &packed(scheme, &wanted))?;
        Ok(wrong + self.compare_buffer(name, &target.scales, &scale_words(scheme, &wanted))?)
    }

    /// Numbers of drawn codes and of so many scales, of rows that end inside a piece of them.
    pub(super) fn dequantise(&self, name: &str, scheme: Scheme, powers: u32) -> Result<u64> {
        const COLUMNS: u32 = 640;
        const ROWS: u64 = 131;
        let stream = self.stream();
        let target = Quantised::new(self.gpu, scheme, ROWS, COLUMNS)?;
        let bytes = |seed: u64, count: u64, of: &dyn Fn(u32) -> u32| -> Vec<u8> {
            (0..count).map(|i| of(draw(SEED ^ seed, i)) as u8).collect()
        };
        // No code is a NaN; scales are all of E4M3, or those that halves can give and more.
        let first = if scheme == Scheme::Nvfp4 { 0 } else { 101 };
        let packed = bytes(21, scheme.code_bytes(ROWS, COLUMNS), &|word| {
            if word & 0x7F == 0x7F { 0 } else { word & 0xFF }
        });
        let scales = bytes(22, scheme.scale_bytes(ROWS, COLUMNS), &|word| first + word % powers);
        target.codes.write(stream, 0, &packed)?;
        target.scales.write(stream, 0, &scales)?;
        let out = self.gpu.alloc(2 * ROWS * u64::from(COLUMNS))?;
        out.poison(stream)?;
        let dequantiser = Dequantiser::new(self.module("dequantise")?)?;
        dequantiser.run(stream, scheme, &target, (ROWS, COLUMNS), &out)?;
        let codes: Vec<u8> = match scheme.code_bits() {
            4 => packed.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect(),
            _ => packed,
        };
        let element = if scheme == Scheme::Nvfp4 { Element::F16 } else { Element::Bf16 };
        let numbers = dequantise::numbers(scheme, &codes, &scales, COLUMNS as usize);
        let wanted: Vec<u32> = numbers.iter().map(|x| element.encode(*x as f32)).collect();
        self.compare_buffer(name, &out, &element.pack(&wanted))
    }

    /// Halves of drawn codes with drawn scales of rows.
    fn dequantise_rows(&self, name: &str) -> Result<u64> {
        const COLUMNS: u32 = 640;
        const ROWS: u64 = 131;
        let stream = self.stream();
        let target = Quantised::new(self.gpu, Scheme::Row, ROWS, COLUMNS)?;
        let code = |i: u64| draw(SEED ^ 23, i) as u8;
        // No code is a NaN.
        let codes: Vec<u8> = (0..ROWS * u64::from(COLUMNS))
            .map(|i| if code(i) & 0x7F == 0x7F { 0 } else { code(i) })
            .collect();
        // From 2^-15 on, so that products end among the subnormal halves too.
        let scales: Vec<f32> = (0..ROWS)
            .map(|row| {
                let word = draw(SEED ^ 24, row);
                f32::from_bits((112 + (word & 15)) << 23 | word >> 9)
            })
            .collect();
        target.codes.write(stream, 0, &codes)?;
        target.scales.write(stream, 0, &scales)?;
        let out = self.gpu.alloc(2 * ROWS * u64::from(COLUMNS))?;
        out.poison(stream)?;
        let dequantiser = RowDequantiser::new(self.module("dequantise_rows")?)?;
        dequantiser.run(stream, (&target.codes, &target.scales), (ROWS, COLUMNS), &out)?;
        let row =
            |(at, code): (usize, &u8)| u32::from(half_of(*code, scales[at / COLUMNS as usize]));
        let wanted: Vec<u32> = codes.iter().enumerate().map(row).collect();
        self.compare_buffer(name, &out, &Element::F16.pack(&wanted))
    }

    /// What a scheme quantises: the source, or its GELU or norm by the model's own kernels.
    fn before(
        &self,
        scheme: Scheme,
        source: &Buffer,
        affine: &Buffer,
        columns: u32,
    ) -> Result<Vec<f16>> {
        let stream = self.stream();
        let matrix = Matrix::packed(source, columns);
        let sizes = (ROWS as u32, columns);
        match scheme {
            Scheme::GeluRow => {
                Kernels::new(self.gpu, self.module("model")?)?.gelu(stream, matrix, sizes)?;
            }
            Scheme::NormRow => {
                let kernels = Kernels::new(self.gpu, self.module("model")?)?;
                let out = self.gpu.alloc(source.len_bytes())?;
                let affine = Affine { gain: affine, bias: affine };
                kernels.norm(stream, Matrix::packed(&out, columns), matrix, affine, sizes)?;
                let codes: Vec<u16> = out.read_vec(stream, source.len_bytes() as usize / 2)?;
                return Ok(codes.into_iter().map(f16::from_bits).collect());
            }
            _ => {}
        }
        let codes: Vec<u16> = source.read_vec(stream, source.len_bytes() as usize / 2)?;
        Ok(codes.into_iter().map(f16::from_bits).collect())
    }
}

/// Codes in the words in which they lie.
fn packed(scheme: Scheme, wanted: &Wanted) -> Vec<u32> {
    let bits = scheme.code_bits() as u32;
    let word = |group: &[u8]| {
        group.iter().zip(0u32..).fold(0, |word, (code, i)| word | u32::from(*code) << (bits * i))
    };
    wanted.codes.chunks((32 / bits) as usize).map(word).collect()
}

fn scale_words(scheme: Scheme, wanted: &Wanted) -> Vec<u32> {
    if scheme.micro_columns().is_none() {
        return wanted.scales.clone();
    }
    let word = |four: &[u32]| four.iter().zip(0u32..).fold(0, |word, (b, i)| word | b << (8 * i));
    wanted.scales.chunks(4).map(word).collect()
}

/// Asks an entry of the formats or quantisers.
pub(super) fn ask(asker: &Asker<'_>, name: &str) -> Result<u64> {
    match name {
        "formats_encode" => asker.formats_encode(name),
        "formats_decode" => asker.formats_decode(name),
        "formats_sweep" => asker.formats_sweep(name),
        "quantise_largest" => asker.quantise_largest(name),
        "quantise_row" => asker.quantise(name, Scheme::Row, 384),
        "quantise_row_long" => asker.quantise(name, Scheme::Row, 8320),
        "quantise_gelu_row" => asker.quantise(name, Scheme::GeluRow, 384),
        "quantise_gelu_row_long" => asker.quantise(name, Scheme::GeluRow, 8320),
        "quantise_norm_row" => asker.quantise(name, Scheme::NormRow, 384),
        "quantise_norm_row_whole" => asker.quantise(name, Scheme::NormRow, 8192),
        "quantise_tensor" => asker.quantise(name, Scheme::Tensor, 384),
        "quantise_block128" => asker.quantise(name, Scheme::Block128, 384),
        "quantise_square128" => asker.quantise(name, Scheme::Square128, 384),
        "quantise_nvfp4" => asker.quantise(name, Scheme::Nvfp4, 384),
        "quantise_mxfp8" => asker.quantise(name, Scheme::Mxfp8, 384),
        "quantise_mxfp4" => asker.quantise(name, Scheme::Mxfp4, 384),
        "dequantise_nvfp4" => asker.dequantise(name, Scheme::Nvfp4, 0x7F),
        "dequantise_mxfp8" => asker.dequantise(name, Scheme::Mxfp8, 41),
        "dequantise_mxfp4" => asker.dequantise(name, Scheme::Mxfp4, 41),
        "dequantise_rows" => asker.dequantise_rows(name),
        other => Err(Error::Shape { what: format!("no question for {other}") }),
    }
}
