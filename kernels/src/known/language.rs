//! Known answers of what a language model needs besides the model's own kernels.

use half::bf16;

use super::{Asker, SEED};
use crate::device::Buffer;
use crate::element::Element;
use crate::generator::draw;
use crate::language::reference::cross_entropy;
use crate::language::{Kernels, NO_TARGET, Rows};
use crate::model::reference;
use crate::{Error, Result};

/// Rows and columns of every question: neither is a multiple of a tile or a block.
const ROWS: u32 = 70;
const COLUMNS: u32 = 300;

/// A draw in -2 to 2.
fn number(seed: u64, at: u32) -> f32 {
    draw(seed, at.into()) as i32 as f32 * 2f32.powi(-30)
}

/// Integers from -4 to 4, whose products and sums are exact in f32 in any order.
fn integers(seed: u64, count: u32) -> Vec<f32> {
    (0..count).map(|at| (draw(seed, at.into()) % 9) as f32 - 4.0).collect()
}

/// What each word says, 0 where two numbers are near, so that a count of wrong words is one of far numbers.
fn far(found: &[f32], wanted: &[f64], bound: f64) -> Vec<u32> {
    let near = |(found, wanted): (&f32, &f64)| {
        (f64::from(*found) - wanted).abs() <= bound * wanted.abs().max(1.0)
    };
    found.iter().zip(wanted).map(|pair| u32::from(!near(pair))).collect()
}

impl Asker<'_> {
    fn of_language(&self) -> Result<Kernels> {
        Kernels::new(self.gpu, self.module("language")?)
    }

    fn with_floats(&self, numbers: &[f32]) -> Result<Buffer> {
        self.with_words(&numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
    }

    /// Numbers in bfloat16, with what they are there.
    fn with_bfloats(&self, numbers: &[f32]) -> Result<(Buffer, Vec<f32>)> {
        let codes: Vec<u16> = numbers.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        let buffer = self.gpu.alloc(2 * codes.len() as u64)?;
        buffer.write(self.stream(), 0, &codes)?;
        Ok((buffer, codes.into_iter().map(|code| bf16::from_bits(code).to_f32()).collect()))
    }

    fn floats(&self, buffer: &Buffer, count: u32) -> Result<Vec<f32>> {
        buffer.read_vec(self.stream(), count as usize)
    }

    fn drawn(&self) -> Vec<f32> {
        (0..ROWS * COLUMNS).map(|at| number(SEED, at)).collect()
    }

    fn language_embed(&self, name: &str) -> Result<u64> {
        let numbers = self.drawn();
        let (table, rounded) = self.with_bfloats(&numbers)?;
        let rows = [3u32, 0, 69, 69, 1];
        let tokens = self.with_words(&rows)?;
        let out = self.gpu.alloc(4 * u64::from(COLUMNS) * rows.len() as u64)?;
        let (to, from) = (Rows::new(&out, Element::F32), Rows::new(&table, Element::Bf16));
        self.of_language()?.embed(
            self.stream(),
            to,
            from,
            &tokens,
            (rows.len() as u32, COLUMNS),
        )?;
        let row = |row: u32| &rounded[(row * COLUMNS) as usize..][..COLUMNS as usize];
        let wanted: Vec<u32> = rows.iter().flat_map(|&t| row(t)).map(|x| x.to_bits()).collect();
        self.compare_buffer(name, &out, &wanted)
    }

    fn language_norm(&self, name: &str) -> Result<u64> {
        let numbers = self.drawn();
        let (input, out) = (self.with_floats(&numbers)?, self.with_floats(&numbers)?);
        let (gain, bias) = (&numbers[..COLUMNS as usize], &numbers[COLUMNS as usize..]);
        let affine = [self.with_floats(gain)?, self.with_floats(bias)?];
        let f32 = |buffer| Rows::new(buffer, Element::F32);
        let (kernels, sizes) = (self.of_language()?, (ROWS, COLUMNS));
        kernels.norm(self.stream(), f32(&out), f32(&input), (&affine[0], &affine[1]), sizes)?;
        let pairs: Vec<(f64, f64)> =
            gain.iter().zip(bias).map(|(&g, &b)| (g.into(), b.into())).collect();
        let row = |row: &[f32]| {
            reference::norm(&row.iter().map(|&x| x.into()).collect::<Vec<f64>>(), &pairs)
        };
        let wanted: Vec<f64> = numbers.chunks_exact(COLUMNS as usize).flat_map(row).collect();
        let found = self.floats(&out, ROWS * COLUMNS)?;
        Ok(self.compare(name, far(&found, &wanted, 1e-5), &vec![0; wanted.len()]))
    }

    fn language_gelu(&self, name: &str) -> Result<u64> {
        let numbers = self.drawn();
        let buffer = self.with_floats(&numbers)?;
        let rows = Rows::new(&buffer, Element::F32);
        self.of_language()?.gelu(self.stream(), rows, (ROWS, COLUMNS))?;
        let wanted: Vec<f64> = numbers.iter().map(|&x| reference::gelu(x.into())).collect();
        let found = self.floats(&buffer, ROWS * COLUMNS)?;
        Ok(self.compare(name, far(&found, &wanted, 1e-6), &vec![0; wanted.len()]))
    }

    /// A sum of bfloat16 with one rounding.
    fn language_add(&self, name: &str) -> Result<u64> {
        let numbers = self.drawn();
        let ((sum, x), (summand, y)) =
            (self.with_bfloats(&numbers)?, self.with_bfloats(&self.turned(&numbers))?);
        let of = |buffer| Rows::new(buffer, Element::Bf16);
        self.of_language()?.add(self.stream(), of(&sum), of(&summand), (ROWS, COLUMNS))?;
        let added = x.iter().zip(&y).map(|(x, y)| bf16::from_f32(x + y).to_bits().into());
        let wanted = Element::Bf16.pack(&added.collect::<Vec<u32>>());
        self.compare_buffer(name, &sum, &wanted)
    }

    /// The same numbers in reverse order.
    fn turned(&self, numbers: &[f32]) -> Vec<f32> {
        numbers.iter().rev().copied().collect()
    }

    /// f32 to fp16 with a scale for each column, and bfloat16 to fp16 without.
    fn language_finish(&self, name: &str) -> Result<u64> {
        let numbers = self.drawn();
        let (input, scales) = (self.with_floats(&numbers)?, self.with_floats(&numbers[7..])?);
        let (plain, rounded) = self.with_bfloats(&numbers)?;
        let out = self.gpu.alloc(2 * numbers.len() as u64)?;
        let (kernels, to) = (self.of_language()?, Rows::new(&out, Element::F16));
        let code = |x: f32| Element::F16.encode(x);
        let scaled = (0..ROWS * COLUMNS).map(|at| (at as usize, (7 + at % COLUMNS) as usize));
        let scaled = scaled.map(|(at, column)| code(numbers[at] * numbers[column]));
        let wanted = Element::F16.pack(&scaled.collect::<Vec<u32>>());
        let from = Rows::new(&input, Element::F32);
        kernels.finish(self.stream(), to, from, Some(&scales), (ROWS, COLUMNS))?;
        let wrong = self.compare_buffer(name, &out, &wanted)?;
        let wanted = Element::F16.pack(&rounded.iter().map(|&x| code(x)).collect::<Vec<u32>>());
        let from = Rows::new(&plain, Element::Bf16);
        kernels.finish(self.stream(), to, from, None, (ROWS, COLUMNS))?;
        Ok(wrong + self.compare_buffer(name, &out, &wanted)?)
    }

    fn language_product(&self, name: &str) -> Result<u64> {
        let (m, n, k) = (ROWS, 97, COLUMNS);
        let (a, b) = (integers(SEED, m * k), integers(SEED ^ 1, n * k));
        let (left, right) = (self.with_floats(&a)?, self.with_floats(&b)?);
        let out = self.gpu.alloc(4 * u64::from(m * n))?;
        self.of_language()?.product(self.stream(), (&out, &left, &right), (m, n, k))?;
        let k = k as usize;
        let dot = |row: u32, column: u32| -> f32 {
            let rows = a[row as usize * k..][..k].iter().zip(&b[column as usize * k..][..k]);
            rows.map(|(x, y)| x * y).sum()
        };
        let wanted: Vec<u32> = (0..m * n).map(|at| dot(at / n, at % n).to_bits()).collect();
        self.compare_buffer(name, &out, &wanted)
    }

    /// Two windows of 35 tokens, two heads.
    fn language_attention(&self, name: &str) -> Result<u64> {
        let (tokens, heads) = (35u32, 2u32);
        let (d, size) = (256usize, 128usize);
        let qkv: Vec<f32> = (0..ROWS * 3 * d as u32).map(|at| number(SEED ^ 2, at)).collect();
        let input = self.with_floats(&qkv)?;
        let out = self.gpu.alloc(4 * u64::from(ROWS) * d as u64)?;
        self.of_language()?.attention(self.stream(), (&out, &input), (ROWS, tokens, heads))?;
        let part = |row: u32, part: usize, head: usize| -> Vec<f64> {
            let first = row as usize * 3 * d + part * d + head * size;
            qkv[first..][..size].iter().map(|&x| x.into()).collect()
        };
        let element = |row: u32, head: usize| -> Vec<f64> {
            let query = part(row, 0, head);
            let keys: Vec<u32> = (row / tokens * tokens..=row).collect();
            let score = |key: &u32| -> f64 {
                let products = query.iter().zip(part(*key, 1, head)).map(|(q, k)| q * k);
                (products.sum::<f64>() / 128f64.sqrt()).exp()
            };
            let weights: Vec<f64> = keys.iter().map(score).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; size];
            for (key, weight) in keys.iter().zip(&weights) {
                let values = part(*key, 2, head);
                sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += weight / total * v);
            }
            sums
        };
        let places = (0..ROWS).flat_map(|row| (0..heads as usize).map(move |head| (row, head)));
        let wanted: Vec<f64> = places.flat_map(|(row, head)| element(row, head)).collect();
        let found = self.floats(&out, ROWS * d as u32)?;
        Ok(self.compare(name, far(&found, &wanted, 1e-5), &vec![0; wanted.len()]))
    }

    /// Logits in bfloat16 against others in f32, a row without a target among them.
    fn language_score(&self, name: &str) -> Result<u64> {
        let numbers = self.drawn();
        let turned = self.turned(&numbers);
        let ((logits, own), other) = (self.with_bfloats(&numbers)?, self.with_floats(&turned)?);
        let target = |row: u32| if row == 11 { NO_TARGET } else { (row * 37) % COLUMNS };
        let targets: Vec<u32> = (0..ROWS).map(target).collect();
        let of = Rows::new(&logits, Element::Bf16);
        let kernels = self.of_language()?;
        let scores = kernels.score(self.gpu, of, Some(&other), &targets, COLUMNS)?;
        let row = |numbers: &'_ [f32], row: u32| -> Vec<f32> {
            numbers[(row * COLUMNS) as usize..][..COLUMNS as usize].to_vec()
        };
        let wrong = |(at, score): (u32, &Option<crate::language::Scored>)| {
            let (own, other) = (row(&own, at), row(&turned, at));
            match (score, targets[at as usize]) {
                (None, NO_TARGET) => 0,
                (Some(score), target) if target != NO_TARGET => {
                    let divergence = divergence(&other, &own);
                    let near = |x: f64, y: f64| (x - y).abs() <= 1e-10;
                    let agrees = first_largest(&own) == first_largest(&other);
                    let right = near(score.loss, cross_entropy(&own, target))
                        && near(score.divergence, divergence)
                        && score.agrees == agrees;
                    u32::from(!right)
                }
                _ => 1,
            }
        };
        let wrong: Vec<u32> = (0..).zip(&scores).map(wrong).collect();
        Ok(self.compare(name, wrong, &vec![0; ROWS as usize]))
    }
}

/// Sum over p (log p - log q) of the distributions of two rows of logits.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let loss = |logits: &[f32], at: usize| cross_entropy(logits, at as u32);
    (0..p.len()).map(|at| (-loss(p, at)).exp() * (loss(q, at) - loss(p, at))).sum()
}

/// Where the largest logit is, the first of equals.
fn first_largest(logits: &[f32]) -> Option<usize> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&x| x == most)
}

/// Asks an entry of the kernels of a language model.
pub(super) fn ask(asker: &Asker<'_>, name: &str) -> Result<u64> {
    match name {
        "language_embed" => asker.language_embed(name),
        "language_norm" => asker.language_norm(name),
        "language_gelu" => asker.language_gelu(name),
        "language_add" => asker.language_add(name),
        "language_finish" => asker.language_finish(name),
        "language_product" => asker.language_product(name),
        "language_attention" => asker.language_attention(name),
        "language_score" => asker.language_score(name),
        other => Err(Error::Shape { what: format!("no question for {other}") }),
    }
}
