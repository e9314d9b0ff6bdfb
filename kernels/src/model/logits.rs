//! Logits of every token of a pass, so many tokens at a time: what a language model is scored by.
//!
//! Made at once they are the largest matrix of all: 50304 halves a token, 6 times what a token has in the residual stream.
//! A row of a product has the same bits whatever rows stand beside it, so nothing is lost by making them in parts.

use super::drift;
use super::group::Group;
use super::rank::Rank;
use super::weights::Linear;
use super::{Matrix, Precision};
use crate::device::Buffer;
use crate::matmul::{Operands, Plan, Request};
use crate::quantise::{Extra, Quantised, Scheme, Source};
use crate::{Error, Result};

/// Room for the logits of some tokens, with the product that makes them. One GPU.
#[derive(Debug)]
pub struct TokenLogits {
    rows: u32,
    /// [rows, d].
    normed: Buffer,
    /// The same in E4M3, where the head reads that.
    quantised: Option<Quantised>,
    /// [rows, vocab].
    out: Buffer,
    plan: Plan,
    difference: Buffer,
}

impl TokenLogits {
    /// Tokens whose logits are made at a time.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Bytes of `rows` tokens of a model of width `d` and vocabulary `vocab`: normed rows, their codes and scales under
    /// E4M3, logits; 32 for what is compared.
    pub fn bytes(precision: Precision, rows: u32, d: u32, vocab: u32) -> u64 {
        let (rows, d) = (u64::from(rows), u64::from(d));
        let codes = if precision.is_fp8() { rows * (d + 4) } else { 0 };
        2 * rows * (d + u64::from(vocab)) + codes + drift::BYTES
    }
}

impl Group<'_> {
    /// Room for the logits of `rows` tokens, and the heuristic's first product for them.
    ///
    /// Errors: [`Error::Shape`] of several GPUs, and where no problem is set.
    pub fn token_logits(&mut self, rows: u32) -> Result<TokenLogits> {
        self.alone()?.token_logits(rows)
    }

    /// Makes the logits of the tokens from row `first` of the residual stream on, as the last pass left it; waits.
    ///
    /// Errors: [`Error::Shape`] of rows beyond the last.
    pub fn make_token_logits(&mut self, to: &TokenLogits, first: u32) -> Result<()> {
        let rank = self.alone()?;
        rank.make_token_logits(to, first)?;
        rank.compute.synchronize()
    }

    /// Overwrites what was made with NaN, or with zeros; waits.
    pub fn forget_token_logits(&mut self, of: &TokenLogits, zeros: bool) -> Result<()> {
        let rank = self.alone()?;
        match zeros {
            true => of.out.fill_u32(&rank.compute, 0)?,
            false => of.out.poison(&rank.compute)?,
        }
        rank.compute.synchronize()
    }

    /// Logits of `part` whose bits are not those of the rows from `first` on of `whole`; waits.
    ///
    /// Errors: [`Error::Shape`] of rows beyond the last.
    pub fn token_logits_apart(
        &mut self,
        part: &TokenLogits,
        whole: &TokenLogits,
        first: u32,
    ) -> Result<u64> {
        self.alone()?.logits_apart(&part.out, part.rows, whole, first)
    }

    /// Logits of the pass, those of the last token of its only sequence, whose bits are not those of the last row of
    /// `whole`; waits.
    ///
    /// Errors: [`Error::Shape`] of several sequences.
    pub fn last_logits_apart(&mut self, whole: &TokenLogits) -> Result<u64> {
        let rank = self.alone()?;
        let session = rank.session()?;
        let problem = session.problem;
        if problem.batches != 1 || whole.rows != problem.tokens {
            let what = format!("last logits of {problem:?} among those of {} tokens", whole.rows);
            return Err(Error::Shape { what });
        }
        rank.logits_apart(&session.logits, 1, whole, whole.rows - 1)
    }
}

impl Rank<'_> {
    fn token_logits(&self, rows: u32) -> Result<TokenLogits> {
        let (d, vocab) = (self.config.d_model, self.config.vocab);
        let request = Request { m: rows, ..self.request(Linear::Head, &self.session()?.problem) };
        let halves = |columns: u32| self.gpu.alloc(2 * u64::from(rows) * u64::from(columns));
        let (normed, out) = (halves(d)?, halves(vocab)?);
        let quantised = match self.config.precision.is_fp8() {
            true => Some(Quantised::new(self.gpu, Scheme::Row, rows.into(), d)?),
            false => None,
        };
        let operands = self.head_operands((&normed, quantised.as_ref()), &out)?;
        let plan = Plan::heuristic_first(self.gpu, &self.tools.lt, request, &operands)?;
        let difference = self.gpu.alloc(drift::BYTES)?;
        Ok(TokenLogits { rows, normed, quantised, out, plan, difference })
    }

    fn head_operands<'a>(
        &'a self,
        (normed, quantised): (&'a Buffer, Option<&'a Quantised>),
        out: &'a Buffer,
    ) -> Result<Operands<'a>> {
        let weight = self.weights.linear(Linear::Head, 0)?;
        let (a, scale_a) = match quantised {
            Some(Quantised { codes, scales }) => (codes, Some(scales)),
            None => (normed, None),
        };
        let (b, scale_b) = match &self.session()?.widened {
            Some(halves) => (halves, None),
            None => (&weight.values, weight.scales.as_ref()),
        };
        Ok(Operands { a, b, d: out, scale_a, scale_b, alpha: 1.0, first: [0; 3] })
    }

    /// As the head of a pass, of other rows.
    fn make_token_logits(&mut self, to: &TokenLogits, first: u32) -> Result<()> {
        let (session, d) = (self.session()?, self.config.d_model);
        inside(first, to.rows, session.problem.rows())?;
        let row = u64::from(d);
        let input = Matrix { buffer: &session.residual, first: u64::from(first) * row, row };
        let (out, affine) = (Matrix::packed(&to.normed, d), self.weights.affine());
        self.kernels.norm(&self.compute, out, input, affine, (to.rows, d))?;
        if let Some(target) = &to.quantised {
            let source = Source { buffer: &to.normed, first: 0 };
            let sizes = (to.rows.into(), d);
            let quantiser = &self.tools.quantiser;
            quantiser.run(&self.compute, Scheme::Row, source, sizes, target, Extra::default())?;
        }
        if let Some(halves) = &session.widened {
            let sizes = (u64::from(self.config.vocab), d);
            self.widen((Linear::Head, 0), sizes, halves)?;
        }
        let operands = self.head_operands((&to.normed, to.quantised.as_ref()), &to.out)?;
        to.plan.run(&self.compute, &operands)?;
        self.work.flops += to.plan.request().operations();
        Ok(())
    }

    fn logits_apart(
        &self,
        logits: &Buffer,
        rows: u32,
        whole: &TokenLogits,
        first: u32,
    ) -> Result<u64> {
        inside(first, rows, whole.rows)?;
        let vocab = self.config.vocab;
        let row = u64::from(vocab);
        let other = Matrix { buffer: &whole.out, first: u64::from(first) * row, row };
        let pair = (Matrix::packed(logits, vocab), other);
        drift::reset(&self.compute, &whole.difference)?;
        let slot = (&whole.difference, 0);
        self.kernels.compare(&self.compute, pair, (rows.into(), row), slot)?;
        Ok(drift::read(&self.compute, &whole.difference)?.iter().map(|found| found.count).sum())
    }
}

fn inside(first: u32, rows: u32, all: u32) -> Result<()> {
    match first.checked_add(rows) {
        Some(end) if end <= all => Ok(()),
        _ => Err(Error::Shape { what: format!("logits of {rows} rows from {first} on, of {all}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let sixteen = TokenLogits::bytes(Precision::F16, 1024, 8192, 50304);
        assert_eq!(sixteen, 1024 * (16384 + 100_608) + 32);
        let eight = TokenLogits::bytes(Precision::E4m3, 1024, 8192, 50304);
        assert_eq!(eight - sixteen, 1024 * 8196);
    }

    #[test]
    fn rows_beyond_the_last_are_refused() {
        assert!(inside(1024, 1024, 2048).is_ok());
        assert!(inside(1025, 1024, 2048).is_err());
        assert!(inside(u32::MAX, 2, 2048).is_err());
    }
}
