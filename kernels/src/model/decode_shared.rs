//! One token after another over several GPUs, with the bits of one.
//!
//! Every rank makes its columns of each product's result, as a pass does ([`super`]), and attends with its heads to
//! the cache of those. What all need whole is gathered by [`AllReduce`]: each rank gives its columns between zeros, and
//! one summand of each sum is not zero, so that nothing is rounded. (A minus zero becomes a plus zero: products of
//! either add nothing.) Four gathers a layer, each of 16 to 64 KiB, are bound by latency, so they are kernels
//! on the ranks' own streams and not copies behind events.
//!
//! One host thread a rank enqueues its step: a step is some hundreds of launches, and one thread for all ranks would take
//! longer than the GPUs.

use super::Config;
use super::decode::{Cache, Decoder, Fault, Vectors};
use super::group::Group;
use super::rank::Rank;
use super::step::Stepper;
use crate::allreduce::{AllReduce, Call, Prepared};
use crate::device::{Buffer, Gpu};
use crate::element::Element;
use crate::{Error, Result};

/// By rank, what steps read whole.
#[derive(Debug)]
pub struct Wholes(Vec<Vectors>);

impl Wholes {
    /// For `batches` sequences; waits.
    pub fn new(gpus: &[Gpu], config: &Config, batches: u32) -> Result<Wholes> {
        let vectors = |gpu| Vectors::new(gpu, config, batches);
        Ok(Wholes(gpus.iter().map(vectors).collect::<Result<_>>()?))
    }
}

/// Checked gathers of what each rank makes.
#[derive(Debug)]
pub struct Gathers<'a> {
    wholes: &'a Wholes,
    residual: Prepared<'a>,
    attended: Prepared<'a>,
    inner: Prepared<'a>,
}

impl<'a> Gathers<'a> {
    /// From the decoders' columns to `wholes`, both by rank.
    ///
    /// Errors: what [`AllReduce::prepare`] refuses.
    pub fn new(
        all: &'a AllReduce<'a>,
        decoders: &'a [Decoder],
        wholes: &'a Wholes,
    ) -> Result<Gathers<'a>> {
        let gather = |of: fn(&Vectors) -> &Buffer| -> Result<Prepared<'a>> {
            let made = decoders.iter().map(|decoder| of(&decoder.made));
            let bytes = wholes.0.first().map_or(0, |vectors| of(vectors).len_bytes());
            let call = Call::new(bytes, Element::F16, all.ranks());
            all.prepare(made, wholes.0.iter().map(of), call)
        };
        Ok(Gathers {
            wholes,
            residual: gather(|vectors| &vectors.residual)?,
            attended: gather(|vectors| &vectors.attended)?,
            inner: gather(|vectors| &vectors.inner)?,
        })
    }
}

impl Group<'_> {
    /// Caches, by rank, that later passes fill; gives back those that were filled.
    ///
    /// Errors: [`Error::Shape`] of another number of caches, or without room for the problem that is set.
    pub fn fill_each(&mut self, caches: Vec<Cache>) -> Result<Vec<Cache>> {
        if !caches.is_empty() && caches.len() != self.ranks.len() {
            let what = format!("{} caches over {} gpus", caches.len(), self.ranks.len());
            return Err(Error::Shape { what });
        }
        let mut caches = caches.into_iter();
        let fill = |rank: &mut Rank<'_>| rank.fill(caches.next());
        let before: Result<Vec<Option<Cache>>> = self.ranks.iter_mut().map(fill).collect();
        Ok(before?.into_iter().flatten().collect())
    }

    /// Overwrites with NaN what steps read whole, and their logits; waits.
    pub fn poison_together(&self, decoders: &[Decoder], gathers: &Gathers<'_>) -> Result<()> {
        for ((rank, decoder), whole) in self.ranks.iter().zip(decoders).zip(&gathers.wholes.0) {
            let Vectors { residual, attended, inner } = whole;
            for buffer in [residual, attended, inner, &decoder.logits] {
                buffer.poison(&rank.compute)?;
            }
        }
        self.wait()
    }

    /// Each rank's columns of the last step's logits; waits.
    pub fn logits_together(&self, decoders: &[Decoder]) -> Result<Vec<Vec<u16>>> {
        let read = |(rank, decoder): (&Rank<'_>, &Decoder)| {
            let count = decoder.logits.len_bytes() / 2;
            decoder.logits.read_vec(&rank.compute, count as usize)
        };
        self.ranks.iter().zip(decoders).map(read).collect()
    }

    /// Each rank's residual stream behind the last step's last layer; waits.
    pub fn residuals_together(&self, gathers: &Gathers<'_>) -> Result<Vec<Vec<u16>>> {
        let read = |(rank, whole): (&Rank<'_>, &Vectors)| {
            let count = whole.residual.len_bytes() / 2;
            whole.residual.read_vec(&rank.compute, count as usize)
        };
        self.ranks.iter().zip(&gathers.wholes.0).map(read).collect()
    }

    /// Enqueues one step over all ranks: `tokens`, one of each sequence, stand behind what the caches hold.
    ///
    /// Errors: as [`Group::step`]. Where one rank could not be enqueued, the others' kernels end after ten seconds.
    pub fn step_together(
        &self,
        (decoders, gathers): (&[Decoder], &Gathers<'_>),
        caches: &mut [Cache],
        tokens: &[u32],
        fault: Option<Fault>,
    ) -> Result<()> {
        let (ranks, wholes) = (&self.ranks, &gathers.wholes.0);
        if [decoders.len(), caches.len(), wholes.len()].iter().any(|count| *count != ranks.len()) {
            let what = format!("{} decoders and {} caches", decoders.len(), caches.len());
            return Err(Error::Shape { what: format!("{what} over {} gpus", ranks.len()) });
        }
        let layers = self.config.layers;
        let steppers: Vec<Stepper<'_>> = ranks.iter().map(Rank::stepper).collect();
        let of_rank = |at: usize, cache: &Cache| -> Result<()> {
            let (rank, decoder, whole) = (steppers[at], &decoders[at], &wholes[at]);
            rank.begin_step(decoder, cache, whole, tokens)?;
            let gather = |prepared: &Prepared<'_>| prepared.launch(at, rank.stream());
            for layer in 0..layers {
                for _ in 0..Fault::times(fault, layer) {
                    let step = rank.of_layer(decoder, cache, whole, layer, fault);
                    step.attend()?;
                    gather(&gathers.attended)?;
                    step.project()?;
                    gather(&gathers.residual)?;
                    step.expand()?;
                    gather(&gathers.inner)?;
                    step.contract()?;
                    gather(&gathers.residual)?;
                }
            }
            rank.end_step(decoder, whole)
        };
        let of_rank = &of_rank;
        std::thread::scope(|scope| {
            let threads: Vec<_> = caches
                .iter()
                .enumerate()
                .map(|(at, cache)| scope.spawn(move || of_rank(at, cache)))
                .collect();
            let ended = threads.into_iter().map(|thread| {
                let panicked = |_| Err(Error::Shape { what: "a rank's thread panicked".into() });
                thread.join().unwrap_or_else(panicked)
            });
            // All threads end before the first error is told.
            ended.fold(Ok(()), Result::and)
        })?;
        caches.iter_mut().for_each(Cache::extend);
        Ok(())
    }
}
