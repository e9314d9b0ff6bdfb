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

/// Room for the logits of some tokens, with the products that make them, one for each rank.
#[derive(Debug)]
pub struct TokenLogits {
    rows: u32,
    parts: Vec<Part>,
}

/// A rank's columns.
#[derive(Debug)]
struct Part {
    /// [rows, d].
    normed: Buffer,
    /// The same in E4M3, where the head reads that.
    quantised: Option<Quantised>,
    /// [rows, columns].
    out: Buffer,
    plan: Plan,
    difference: Buffer,
}

impl TokenLogits {
    /// Tokens whose logits are made at a time.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Bytes on one GPU of `rows` tokens of a model of width `d` and of `vocab` columns of its vocabulary: normed rows, their codes and scales under
    /// E4M3, logits; 32 for what is compared.
    pub fn bytes(precision: Precision, rows: u32, d: u32, vocab: u32) -> u64 {
        let (rows, d) = (u64::from(rows), u64::from(d));
        let codes = if precision.is_fp8() { rows * (d + 4) } else { 0 };
        2 * rows * (d + u64::from(vocab)) + codes + drift::BYTES
    }
}

impl Group<'_> {
    /// Room for the logits of `rows` tokens, every rank's columns of them, and the heuristic's first product for them.
    ///
    /// Errors: [`Error::Shape`] where no problem is set.
    pub fn token_logits(&self, rows: u32) -> Result<TokenLogits> {
        let parts = self.ranks.iter().map(|rank| rank.token_logits(rows)).collect::<Result<_>>()?;
        Ok(TokenLogits { rows, parts })
    }

    /// Makes the logits of the tokens from row `first` of the residual stream on, as the last pass left it; waits.
    ///
    /// Errors: [`Error::Shape`] of rows beyond the last, and of room that is another group's.
    pub fn make_token_logits(&mut self, to: &TokenLogits, first: u32) -> Result<()> {
        self.of_these_ranks(to)?;
        self.wait()?;
        let mut ranks = self.ranks.iter_mut().zip(&to.parts);
        ranks.try_for_each(|(rank, part)| rank.make_token_logits((part, to.rows), first))?;
        self.wait()
    }

    /// Overwrites what was made with NaN, or with zeros; waits.
    pub fn forget_token_logits(&self, of: &TokenLogits, zeros: bool) -> Result<()> {
        for (rank, part) in self.each_part(of)? {
            match zeros {
                true => part.out.fill_u32(&rank.compute, 0)?,
                false => part.out.poison(&rank.compute)?,
            }
        }
        self.wait()
    }

    /// Logits of `part`, of all ranks, whose bits are not those of the rows from `first` on of `whole`, which one GPU
    /// made that the others reach; waits.
    ///
    /// Errors: [`Error::Shape`] of rows beyond the last, and of a `whole` that several ranks made.
    pub fn token_logits_apart(
        &self,
        part: &TokenLogits,
        whole: &TokenLogits,
        first: u32,
    ) -> Result<u64> {
        let parts = self.each_part(part)?;
        let apart = |(rank, own): (&Rank<'_>, &Part)| {
            rank.logits_apart((&own.out, part.rows), (whole, first), &own.difference)
        };
        parts.map(apart).sum()
    }

    /// Logits of the pass, those of the last token of its only sequence, whose bits are not those of the last row of
    /// `whole`; `own` is room of this group. Waits.
    ///
    /// Errors: [`Error::Shape`] of several sequences, and of a `whole` that several ranks made.
    pub fn last_logits_apart(&self, own: &TokenLogits, whole: &TokenLogits) -> Result<u64> {
        let apart = |(rank, part): (&Rank<'_>, &Part)| {
            let session = rank.session()?;
            let problem = session.problem;
            if problem.batches != 1 || whole.rows != problem.tokens {
                let what =
                    format!("last logits of {problem:?} among those of {} tokens", whole.rows);
                return Err(Error::Shape { what });
            }
            rank.logits_apart((&session.logits, 1), (whole, whole.rows - 1), &part.difference)
        };
        self.each_part(own)?.map(apart).sum()
    }

    /// Every rank with its part.
    fn each_part<'a>(
        &'a self,
        of: &'a TokenLogits,
    ) -> Result<impl Iterator<Item = (&'a Rank<'a>, &'a Part)>> {
        self.of_these_ranks(of)?;
        Ok(self.ranks.iter().zip(&of.parts))
    }

    fn of_these_ranks(&self, of: &TokenLogits) -> Result<()> {
        match (of.parts.len(), self.ranks.len()) {
            (parts, ranks) if parts == ranks => Ok(()),
            (parts, ranks) => {
                Err(Error::Shape { what: format!("logits of {parts} ranks in a model of {ranks}") })
            }
        }
    }
}

impl Rank<'_> {
    /// Columns of the vocabulary that are this rank's: the first, and how many.
    fn logit_columns(&self) -> (u32, u32) {
        self.share.columns(self.config.vocab)
    }

    fn token_logits(&self, rows: u32) -> Result<Part> {
        let (d, columns) = (self.config.d_model, self.logit_columns().1);
        let request = Request { m: rows, ..self.request(Linear::Head, &self.session()?.problem) };
        let halves = |columns: u32| self.gpu.alloc(2 * u64::from(rows) * u64::from(columns));
        let (normed, out) = (halves(d)?, halves(columns)?);
        let quantised = match self.config.precision.is_fp8() {
            true => Some(Quantised::new(self.gpu, Scheme::Row, rows.into(), d)?),
            false => None,
        };
        let operands = self.head_operands((&normed, quantised.as_ref()), &out)?;
        let plan = Plan::heuristic_first(self.gpu, &self.tools.lt, request, &operands)?;
        let difference = self.gpu.alloc(drift::BYTES)?;
        Ok(Part { normed, quantised, out, plan, difference })
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
    fn make_token_logits(&mut self, (to, rows): (&Part, u32), first: u32) -> Result<()> {
        let (session, d) = (self.session()?, self.config.d_model);
        inside(first, rows, session.problem.rows())?;
        let row = u64::from(d);
        let input = Matrix { buffer: &session.residual, first: u64::from(first) * row, row };
        let (out, affine) = (Matrix::packed(&to.normed, d), self.weights.affine());
        self.kernels.norm(&self.compute, out, input, affine, (rows, d))?;
        if let Some(target) = &to.quantised {
            let source = Source { buffer: &to.normed, first: 0 };
            let sizes = (rows.into(), d);
            let quantiser = &self.tools.quantiser;
            quantiser.run(&self.compute, Scheme::Row, source, sizes, target, Extra::default())?;
        }
        if let Some(halves) = &session.widened {
            let sizes = (self.logit_columns().1.into(), d);
            self.widen((Linear::Head, 0), sizes, halves)?;
        }
        let operands = self.head_operands((&to.normed, to.quantised.as_ref()), &to.out)?;
        to.plan.run(&self.compute, &operands)?;
        self.work.flops += to.plan.request().operations();
        Ok(())
    }

    /// This rank's columns of logits beside those of rows of `whole` from one on.
    fn logits_apart(
        &self,
        (logits, rows): (&Buffer, u32),
        (whole, first): (&TokenLogits, u32),
        difference: &Buffer,
    ) -> Result<u64> {
        inside(first, rows, whole.rows)?;
        let [one] = whole.parts.as_slice() else {
            return Err(Error::Shape { what: "logits beside those of several ranks".into() });
        };
        let (column, columns) = self.logit_columns();
        let row = u64::from(self.config.vocab);
        let first = u64::from(first) * row + u64::from(column);
        let pair = (Matrix::packed(logits, columns), Matrix { buffer: &one.out, first, row });
        drift::reset(&self.compute, difference)?;
        self.kernels.compare(
            &self.compute,
            pair,
            (rows.into(), columns.into()),
            (difference, 0),
        )?;
        Ok(drift::read(&self.compute, difference)?.iter().map(|found| found.count).sum())
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
