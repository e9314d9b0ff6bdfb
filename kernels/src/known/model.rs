//! Known answers of what lies between the products of a model.

use super::{Asker, SEED};
use crate::device::Buffer;
use crate::model::drift::Difference;
use crate::model::weights::{DEVIATION, value};
use crate::model::{Affine, Kernels, Matrix, Precision, reference};
use crate::{Error, Result};

/// Rows and columns of every question.
const ROWS: u32 = 5;
const COLUMNS: u32 = 264;

/// The kernels over halves, or over bf16.
struct Asked<'a> {
    asker: &'a Asker<'a>,
    kernels: Kernels,
    precision: Precision,
}

impl Asked<'_> {
    fn code(&self, x: f32) -> u32 {
        self.precision.element().encode(x)
    }

    fn number(&self, code: u32) -> f64 {
        self.precision.element().decode(code)
    }

    /// Codes of the generator's numbers, [ROWS, COLUMNS], with a deviation of 1.
    fn drawn(&self, seed: u64) -> Vec<u32> {
        let scale = 1.0 / DEVIATION;
        let element = |at: u32| self.code(value(seed, COLUMNS, at / COLUMNS, at % COLUMNS) * scale);
        (0..ROWS * COLUMNS).map(element).collect()
    }

    fn with_codes(&self, codes: &[u32]) -> Result<Buffer> {
        self.asker.with_words(&self.words_of(codes))
    }

    fn words_of(&self, codes: &[u32]) -> Vec<u32> {
        self.precision.element().pack(codes)
    }

    /// Counts numbers that are more than one step from the wanted ones.
    fn near(&self, name: &str, buffer: &Buffer, wanted: &[f64]) -> Result<u64> {
        let found: Vec<u16> = buffer.read_vec(self.asker.stream(), wanted.len())?;
        let far = found.iter().zip(wanted).map(|(code, wanted)| {
            let nearest = self.code(reference::stored(self.precision, *wanted) as f32);
            let steps = place((*code).into()) - place(nearest);
            u32::from(steps.abs() > 1)
        });
        let far: Vec<u32> = far.collect();
        Ok(self.asker.compare(name, far, &vec![0; wanted.len()]))
    }

    fn weights(&self, name: &str) -> Result<u64> {
        // Three rows from row 4 on and sixteen columns from column 8 on, of a matrix of 40 columns.
        let out = self.asker.gpu.alloc(2 * 3 * 24)?;
        out.fill_u32(self.asker.stream(), 0)?;
        let matrix = Matrix { buffer: &out, first: 0, row: 24 };
        let place = (4 * 40 + 8, 40);
        self.kernels.weights(self.asker.stream(), matrix, (3, 16), place, (SEED, DEVIATION))?;
        let element = |at: u32| match (at / 24, at % 24) {
            (_, 16..) => 0,
            (row, column) => self.code(value(SEED, 40, 4 + row, 8 + column)),
        };
        let wanted: Vec<u32> = (0..3 * 24).map(element).collect();
        self.asker.compare_buffer(name, &out, &self.words_of(&wanted))
    }

    fn embed(&self, name: &str) -> Result<u64> {
        let table = self.drawn(SEED);
        let buffer = self.with_codes(&table)?;
        let rows = [3u32, 0, 4, 4, 1, 2, 0];
        let tokens = self.asker.with_words(&rows)?;
        let out = self.asker.gpu.alloc(2 * u64::from(COLUMNS) * rows.len() as u64)?;
        let matrix = Matrix::packed(&out, COLUMNS);
        let sizes = (rows.len() as u32, COLUMNS);
        self.kernels.embed(self.asker.stream(), matrix, &buffer, &tokens, sizes)?;
        let row = |row: u32| table[(row * COLUMNS) as usize..][..COLUMNS as usize].to_vec();
        let wanted: Vec<u32> = rows.iter().flat_map(|&token| row(token)).collect();
        self.asker.compare_buffer(name, &out, &self.words_of(&wanted))
    }

    fn norm(&self, name: &str) -> Result<u64> {
        let (rows, gains) = (self.drawn(SEED), self.drawn(SEED ^ 1));
        let (input, gain) = (self.with_codes(&rows)?, self.with_codes(&gains)?);
        let bias = self.with_codes(&gains[COLUMNS as usize..])?;
        let out = self.asker.gpu.alloc(2 * u64::from(COLUMNS) * 2)?;
        // Rows 1 and 3: from one row on, two apart.
        let from = Matrix { buffer: &input, first: COLUMNS.into(), row: 2 * u64::from(COLUMNS) };
        let affine = Affine { gain: &gain, bias: &bias };
        let matrix = Matrix::packed(&out, COLUMNS);
        self.kernels.norm(self.asker.stream(), matrix, from, affine, (2, COLUMNS))?;
        let columns = COLUMNS as usize;
        let pairs = gains.iter().zip(&gains[columns..]).take(columns);
        let affine: Vec<(f64, f64)> =
            pairs.map(|(g, b)| (self.number(*g), self.number(*b))).collect();
        let row = |row: usize| -> Vec<f64> {
            let row: Vec<f64> =
                rows[row * columns..][..columns].iter().map(|x| self.number(*x)).collect();
            reference::norm(&row, &affine)
        };
        self.near(name, &out, &[row(1), row(3)].concat())
    }

    fn gelu(&self, name: &str) -> Result<u64> {
        let rows = self.drawn(SEED);
        let buffer = self.with_codes(&rows)?;
        // All columns but the last eight.
        let matrix = Matrix::packed(&buffer, COLUMNS);
        self.kernels.gelu(self.asker.stream(), matrix, (ROWS, COLUMNS - 8))?;
        let element = |(at, x): (usize, &u32)| match at as u32 % COLUMNS < COLUMNS - 8 {
            true => reference::gelu(self.number(*x)),
            false => self.number(*x),
        };
        let wanted: Vec<f64> = rows.iter().enumerate().map(element).collect();
        let wrong = self.near(name, &buffer, &wanted)?;
        // Every number that is finite.
        let every: Vec<u32> =
            (0..=0xFFFFu32).filter(|code| self.number(*code).is_finite()).collect();
        let buffer = self.with_codes(&every)?;
        let sizes = (every.len() as u32 / 256, 256);
        self.kernels.gelu(self.asker.stream(), Matrix::packed(&buffer, 256), sizes)?;
        // What is no normal f32 on the way is zero, of bf16 beyond -12.95; halves have no such numbers.
        let gelu = |x: f64| if x < -12.95 { 0.0 } else { reference::gelu(x) };
        let wanted: Vec<f64> = every.iter().map(|code| gelu(self.number(*code))).collect();
        Ok(wrong + self.near(name, &buffer, &wanted)?)
    }

    fn add(&self, name: &str) -> Result<u64> {
        let (x, y) = (self.drawn(SEED), self.drawn(SEED ^ 1));
        let (sum, summand) = (self.with_codes(&x)?, self.with_codes(&y)?);
        let (a, b) = (Matrix::packed(&sum, COLUMNS), Matrix::packed(&summand, COLUMNS));
        self.kernels.add(self.asker.stream(), a, b, (ROWS, COLUMNS))?;
        let added =
            x.iter().zip(&y).map(|(x, y)| self.code((self.number(*x) + self.number(*y)) as f32));
        self.asker.compare_buffer(name, &sum, &self.words_of(&added.collect::<Vec<_>>()))
    }

    fn compare(&self, name: &str) -> Result<u64> {
        let a = self.drawn(SEED);
        let mut b = a.clone();
        // A neighbour, and the other zero's sign: bits differ, the number does not.
        b[300] = a[300] ^ 1;
        let mut a = a;
        (a[700], b[700]) = (0, 0x8000);
        let (first, second) = (self.with_codes(&a)?, self.with_codes(&b)?);
        let found = self.kernels.difference(
            self.asker.stream(),
            (Matrix::packed(&first, COLUMNS), Matrix::packed(&second, COLUMNS)),
            (ROWS.into(), COLUMNS.into()),
            self.asker.gpu,
        )?;
        let words = self.words_of(&a);
        let pairs = words.chunks_exact(2).zip(0u64..);
        let mixed = |(pair, at): (&[u32], u64)| {
            u64::from(crate::generator::mix(u64::from(pair[0]) | u64::from(pair[1]) << 32, at))
        };
        let wanted = Difference {
            count: 2,
            first: Some(300),
            hash: pairs.map(mixed).sum(),
            ulp: 1,
            delta: (self.number(a[300]) - self.number(b[300])).abs() as f32,
        };
        let numbers = |d: Difference| {
            let first = d.first.unwrap_or(u64::MAX);
            [d.count, first, d.hash, u64::from(d.ulp), d.delta.to_bits().into()]
        };
        Ok(self.asker.compare_u64(name, &numbers(found), &numbers(wanted)))
    }
}

/// The place of a number among all numbers in order.
fn place(code: u32) -> i32 {
    let magnitude = (code & 0x7FFF) as i32;
    if code & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// Asks an entry of the model's kernels over halves.
pub(super) fn ask(asker: &Asker<'_>, name: &str) -> Result<u64> {
    asked(asker, ("model", Precision::F16), name)
}

/// Asks an entry of the model's kernels over bf16.
pub(super) fn ask_bf16(asker: &Asker<'_>, name: &str) -> Result<u64> {
    asked(asker, ("model-bf16", Precision::Bf16), name)
}

fn asked(asker: &Asker<'_>, (kernel, precision): (&str, Precision), name: &str) -> Result<u64> {
    let kernels = Kernels::new(asker.gpu, asker.module(kernel)?)?;
    let asked = Asked { asker, kernels, precision };
    match name {
        "model_weights" => asked.weights(name),
        "model_embed" => asked.embed(name),
        "model_norm" => asked.norm(name),
        "model_gelu" => asked.gelu(name),
        "model_add" => asked.add(name),
        "model_compare" => asked.compare(name),
        other => Err(Error::Shape { what: format!("no question for {other}") }),
    }
}
