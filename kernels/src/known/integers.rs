//! Known answers of integers of few bits, and of the search for what is not finite.

use half::f16;

use super::{Asker, SEED};
use crate::Result;
use crate::device::Buffer;
use crate::element::Element;
use crate::finite::Finite;
use crate::generator::draw;
use crate::integers::{self, Integer, Integers};
use crate::ternary::{self, Ternary};

/// Of every number that is encoded or decoded.
const FACTOR: f32 = 0.37;

impl Asker<'_> {
    fn of_integers(&self) -> Result<Integers> {
        Integers::new(self.module("integers")?)
    }

    /// Encodes every half.
    pub(super) fn integers_encode(&self, name: &str) -> Result<u64> {
        let halves: Vec<u32> = (0..=u32::from(u16::MAX)).collect();
        let source = self.with_words(&Element::F16.pack(&halves))?;
        let mut wrong = 0;
        for format in Integer::ALL {
            let code = |half: &u32| format.encode(f16::from_bits(*half as u16).to_f32() * FACTOR);
            let wanted = format.pack(&halves.iter().map(code).collect::<Vec<u32>>());
            let out = self.gpu.alloc(4 * wanted.len() as u64)?;
            out.poison(self.stream())?;
            let target = (&out, wanted.len() as u64);
            self.of_integers()?.encode(self.stream(), (format, FACTOR), &source, target, false)?;
            wrong += self.compare_buffer(name, &out, &wanted)?;
        }
        Ok(wrong)
    }

    /// Decodes every code but the one that stands for nothing.
    pub(super) fn integers_decode(&self, name: &str) -> Result<u64> {
        let mut wrong = 0;
        for format in Integer::ALL {
            let codes: Vec<u32> = (0..256)
                .map(|i| i % (1 << format.bits()))
                .map(|code| if format.decode(code).is_some() { code } else { 0 })
                .collect();
            let words = format.pack(&codes);
            let source = self.with_words(&words)?;
            let out = self.gpu.alloc(4 * codes.len() as u64)?;
            out.poison(self.stream())?;
            let given = (&source, words.len() as u64);
            self.of_integers()?.decode(self.stream(), (format, FACTOR), given, &out)?;
            let number = |code: &u32| format.decode(*code).unwrap_or(0) as f32 * FACTOR;
            let wanted: Vec<u32> = codes.iter().map(|code| number(code).to_bits()).collect();
            wrong += self.compare_buffer(name, &out, &wanted)?;
        }
        Ok(wrong)
    }

    /// A matrix whose last block of threads has less to do than the others, with the largest half in it.
    fn ternary_matrix(&self) -> Result<(Vec<f16>, Buffer, ternary::Quantised)> {
        const ELEMENTS: u64 = 5 * 8192 + 48;
        let element = |at: u64| match at {
            17 => f16::MAX,
            _ => f16::from_f32(draw(SEED ^ 71, at) as i32 as f32 * 2f32.powi(-25)),
        };
        let halves: Vec<f16> = (0..ELEMENTS).map(element).collect();
        let codes: Vec<u32> = halves.iter().map(|half| half.to_bits().into()).collect();
        let source = self.with_words(&Element::F16.pack(&codes))?;
        Ok((halves, source, ternary::Quantised::new(self.gpu, ELEMENTS)?))
    }

    /// Adds up magnitudes.
    pub(super) fn ternary_sum(&self, name: &str) -> Result<u64> {
        let (halves, source, target) = self.ternary_matrix()?;
        let ternary = Ternary::new(self.gpu, self.module("ternary")?)?;
        ternary.sum(self.stream(), &source, &target, halves.len() as u64)?;
        let found: Vec<u64> = target.sums.read_vec(self.stream(), 3)?;
        let sum = u128::from(found[0]) + (u128::from(found[1]) << 32);
        let scale = ternary::mean(sum, halves.len() as u64).to_bits();
        let wanted = [ternary::scale_of(&halves).to_bits(), 0];
        Ok(self.compare(name, vec![scale, found[2] as u32], &wanted))
    }

    /// Makes its codes and its scale.
    pub(super) fn ternary_encode(&self, name: &str) -> Result<u64> {
        let (halves, source, target) = self.ternary_matrix()?;
        target.codes.poison(self.stream())?;
        let ternary = Ternary::new(self.gpu, self.module("ternary")?)?;
        ternary.run(self.stream(), &source, &target)?;
        let (codes, scale) = ternary::quantise(&halves);
        let wrong = self.compare_buffer(name, &target.codes, &Integer::Int2.pack(&codes))?;
        Ok(wrong + self.compare_buffer(name, &target.scale, &[scale.to_bits()])?)
    }

    /// Rows of several magnitudes, one of them of zeros.
    pub(super) fn integers_rows(&self, name: &str) -> Result<u64> {
        const ROWS: u32 = 5;
        const COLUMNS: u32 = 2312;
        let element = |at: u32| {
            let (row, word) = (at / COLUMNS, draw(SEED ^ 61, at.into()) as i32 as f32);
            let scale = if row == 3 { 0.0 } else { 2f32.powi(-31 + row as i32) };
            f16::from_f32(word * scale)
        };
        let halves: Vec<f16> = (0..ROWS * COLUMNS).map(element).collect();
        let codes: Vec<u32> = halves.iter().map(|half| half.to_bits().into()).collect();
        let source = self.with_words(&Element::F16.pack(&codes))?;
        let (wanted, scales, _) = integers::rows(&halves, COLUMNS as usize);
        let out = self.gpu.alloc(wanted.len() as u64)?;
        let found = self.gpu.alloc(4 * scales.len() as u64)?;
        out.poison(self.stream())?;
        found.poison(self.stream())?;
        let sizes = (u64::from(ROWS), COLUMNS);
        self.of_integers()?.rows(self.stream(), &source, sizes, (&out, &found), false)?;
        let scales: Vec<u32> = scales.iter().map(|scale| scale.to_bits()).collect();
        let wrong = self.compare_buffer(name, &out, &Integer::Int8.pack(&wanted))?;
        Ok(wrong + self.compare_buffer(name, &found, &scales)?)
    }

    /// The first of two numbers that are not finite, and none.
    pub(super) fn finite_first(&self, name: &str) -> Result<u64> {
        const COLUMNS: u32 = 1000;
        let finite = Finite::new(self.gpu, self.module("finite")?)?;
        let mut wrong = 0;
        for (element, planted) in [
            (Element::F16, 0xFC00),
            (Element::Bf16, 0x7FC0),
            (Element::F32, 0x7F80_0000),
            (Element::E4m3, 0xFF),
        ] {
            let mut codes = vec![element.encode(-1.0); 7 * COLUMNS as usize];
            for places in [&[][..], &[6999], &[6 * 1000 + 17, 2 * 1000 + 3]] {
                places.iter().for_each(|place: &usize| codes[*place] = planted);
                let matrix = self.with_words(&element.pack(&codes))?;
                let found = finite.first(self.stream(), &matrix, element, (7, COLUMNS))?;
                let place = |place: u64| (place / 1000, (place % 1000) as u32);
                let wanted = places.iter().min().map(|least| place(*least as u64));
                let word = u32::from(found == wanted);
                wrong += self.compare(name, vec![word], &[1]);
            }
        }
        Ok(wrong)
    }
}
