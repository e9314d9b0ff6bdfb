//! Known answers of what lies between the products of a model.

use half::f16;

use super::{Asker, SEED};
use crate::device::Buffer;
use crate::model::drift::Difference;
use crate::model::weights::{DEVIATION, value};
use crate::model::{Affine, Kernels, Matrix, reference};
use crate::{Error, Result};

/// Rows and columns of every question.
const ROWS: u32 = 5;
const COLUMNS: u32 = 264;

impl Asker<'_> {
    fn of_model(&self) -> Result<Kernels> {
        Kernels::new(self.gpu, self.module("model")?)
    }

    /// Halves of the generator, [ROWS, COLUMNS], with a deviation of 1.
    fn halves(&self, seed: u64) -> Vec<f16> {
        let scale = 1.0 / DEVIATION;
        let element =
            |at: u32| f16::from_f32(value(seed, COLUMNS, at / COLUMNS, at % COLUMNS) * scale);
        (0..ROWS * COLUMNS).map(element).collect()
    }

    fn with_halves(&self, halves: &[f16]) -> Result<Buffer> {
        let codes: Vec<u16> = halves.iter().map(|half| half.to_bits()).collect();
        let buffer = self.gpu.alloc(2 * codes.len() as u64)?;
        buffer.write(self.stream(), 0, &codes)?;
        Ok(buffer)
    }

    fn words_of(halves: &[f16]) -> Vec<u32> {
        let word = |pair: &[f16]| u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
        halves.chunks_exact(2).map(word).collect()
    }

    /// Counts halves that are more than one step from the wanted numbers.
    fn near(&self, name: &str, buffer: &Buffer, wanted: &[f64]) -> Result<u64> {
        let found: Vec<u16> = buffer.read_vec(self.stream(), wanted.len())?;
        let far = found.iter().zip(wanted).map(|(code, wanted)| {
            let steps = place(*code) - place(f16::from_f64(*wanted).to_bits());
            u32::from(steps.abs() > 1)
        });
        let far: Vec<u32> = far.collect();
        Ok(self.compare(name, far, &vec![0; wanted.len()]))
    }

    pub(super) fn model_weights(&self, name: &str) -> Result<u64> {
        // Three rows from row 4 on and sixteen columns from column 8 on, of a matrix of 40 columns.
        let out = self.gpu.alloc(2 * 3 * 24)?;
        out.fill_u32(self.stream(), 0)?;
        let matrix = Matrix { buffer: &out, first: 0, row: 24 };
        let place = (4 * 40 + 8, 40);
        self.of_model()?.weights(self.stream(), matrix, (3, 16), place, (SEED, DEVIATION))?;
        let element = |at: u32| match (at / 24, at % 24) {
            (_, 16..) => f16::ZERO,
            (row, column) => f16::from_f32(value(SEED, 40, 4 + row, 8 + column)),
        };
        let wanted: Vec<f16> = (0..3 * 24).map(element).collect();
        self.compare_buffer(name, &out, &Asker::words_of(&wanted))
    }

    pub(super) fn model_embed(&self, name: &str) -> Result<u64> {
        let table = self.halves(SEED);
        let buffer = self.with_halves(&table)?;
        let rows = [3u32, 0, 4, 4, 1, 2, 0];
        let tokens = self.with_words(&rows)?;
        let out = self.gpu.alloc(2 * u64::from(COLUMNS) * rows.len() as u64)?;
        let matrix = Matrix::packed(&out, COLUMNS);
        let sizes = (rows.len() as u32, COLUMNS);
        self.of_model()?.embed(self.stream(), matrix, &buffer, &tokens, sizes)?;
        let row = |row: u32| table[(row * COLUMNS) as usize..][..COLUMNS as usize].to_vec();
        let wanted: Vec<f16> = rows.iter().flat_map(|&token| row(token)).collect();
        self.compare_buffer(name, &out, &Asker::words_of(&wanted))
    }

    pub(super) fn model_norm(&self, name: &str) -> Result<u64> {
        let (rows, gains) = (self.halves(SEED), self.halves(SEED ^ 1));
        let (input, gain) = (self.with_halves(&rows)?, self.with_halves(&gains)?);
        let bias = self.with_halves(&gains[COLUMNS as usize..])?;
        let out = self.gpu.alloc(2 * u64::from(COLUMNS) * 2)?;
        // Rows 1 and 3: from one row on, two apart.
        let from = Matrix { buffer: &input, first: COLUMNS.into(), row: 2 * u64::from(COLUMNS) };
        let affine = Affine { gain: &gain, bias: &bias };
        let matrix = Matrix::packed(&out, COLUMNS);
        self.of_model()?.norm(self.stream(), matrix, from, affine, (2, COLUMNS))?;
        let columns = COLUMNS as usize;
        let pairs = gains.iter().zip(&gains[columns..]).take(columns);
        let affine: Vec<(f64, f64)> = pairs.map(|(g, b)| (g.to_f64(), b.to_f64())).collect();
        let row = |row: usize| -> Vec<f64> {
            let row: Vec<f64> =
                rows[row * columns..][..columns].iter().map(|x| x.to_f64()).collect();
            reference::norm(&row, &affine)
        };
        self.near(name, &out, &[row(1), row(3)].concat())
    }

    pub(super) fn model_gelu(&self, name: &str) -> Result<u64> {
        let rows = self.halves(SEED);
        let buffer = self.with_halves(&rows)?;
        // All columns but the last eight.
        let matrix = Matrix::packed(&buffer, COLUMNS);
        self.of_model()?.gelu(self.stream(), matrix, (ROWS, COLUMNS - 8))?;
        let element = |(at, x): (usize, &f16)| match at as u32 % COLUMNS < COLUMNS - 8 {
            true => reference::gelu(x.to_f64()),
            false => x.to_f64(),
        };
        let wanted: Vec<f64> = rows.iter().enumerate().map(element).collect();
        let wrong = self.near(name, &buffer, &wanted)?;
        // Every half that is finite.
        let every = (0..=u16::MAX).map(f16::from_bits).filter(|x| x.is_finite());
        let every: Vec<f16> = every.collect();
        let buffer = self.with_halves(&every)?;
        let sizes = (every.len() as u32 / 256, 256);
        self.of_model()?.gelu(self.stream(), Matrix::packed(&buffer, 256), sizes)?;
        let wanted: Vec<f64> = every.iter().map(|x| reference::gelu(x.to_f64())).collect();
        Ok(wrong + self.near(name, &buffer, &wanted)?)
    }

    pub(super) fn model_add(&self, name: &str) -> Result<u64> {
        let (x, y) = (self.halves(SEED), self.halves(SEED ^ 1));
        let (sum, summand) = (self.with_halves(&x)?, self.with_halves(&y)?);
        let (a, b) = (Matrix::packed(&sum, COLUMNS), Matrix::packed(&summand, COLUMNS));
        self.of_model()?.add(self.stream(), a, b, (ROWS, COLUMNS))?;
        let added = x.iter().zip(&y).map(|(x, y)| f16::from_f32(x.to_f32() + y.to_f32()));
        self.compare_buffer(name, &sum, &Asker::words_of(&added.collect::<Vec<_>>()))
    }

    pub(super) fn model_compare(&self, name: &str) -> Result<u64> {
        let a = self.halves(SEED);
        let mut b = a.clone();
        // A neighbour, and the other zero's sign: bits differ, the number does not.
        b[300] = f16::from_bits(a[300].to_bits() ^ 1);
        let mut a = a;
        (a[700], b[700]) = (f16::ZERO, f16::NEG_ZERO);
        let (first, second) = (self.with_halves(&a)?, self.with_halves(&b)?);
        let kernels = self.of_model()?;
        let found = kernels.difference(
            self.stream(),
            (Matrix::packed(&first, COLUMNS), Matrix::packed(&second, COLUMNS)),
            (ROWS.into(), COLUMNS.into()),
            self.gpu,
        )?;
        let words = Asker::words_of(&a);
        let pairs = words.chunks_exact(2).zip(0u64..);
        let mixed = |(pair, at): (&[u32], u64)| {
            u64::from(crate::generator::mix(u64::from(pair[0]) | u64::from(pair[1]) << 32, at))
        };
        let wanted = Difference {
            count: 2,
            first: Some(300),
            hash: pairs.map(mixed).sum(),
            ulp: 1,
            delta: (a[300].to_f32() - b[300].to_f32()).abs(),
        };
        let numbers = |d: Difference| {
            let first = d.first.unwrap_or(u64::MAX);
            [d.count, first, d.hash, u64::from(d.ulp), d.delta.to_bits().into()]
        };
        Ok(self.compare_u64(name, &numbers(found), &numbers(wanted)))
    }
}

/// The place of a half among all halves in order.
fn place(code: u16) -> i32 {
    let magnitude = i32::from(code & 0x7FFF);
    if code & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// Asks an entry of the model's kernels.
pub(super) fn ask(asker: &Asker<'_>, name: &str) -> Result<u64> {
    match name {
        "model_weights" => asker.model_weights(name),
        "model_embed" => asker.model_embed(name),
        "model_norm" => asker.model_norm(name),
        "model_gelu" => asker.model_gelu(name),
        "model_add" => asker.model_add(name),
        "model_compare" => asker.model_compare(name),
        other => Err(Error::Shape { what: format!("no question for {other}") }),
    }
}
