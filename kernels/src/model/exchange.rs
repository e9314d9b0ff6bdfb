//! The stages of a layer on all ranks, and what they exchange.
//!
//! One host thread enqueues everything; GPUs wait for each other by events alone. A layer has four stages,
//! each followed by an exchange:
//!
//! | stage | makes | exchange |
//! |---|---|---|
//! | attend | norm, QKV, attention of the rank's heads | attention outputs |
//! | project | the rank's columns of the residual stream | those columns |
//! | expand | norm, the rank's columns inside the MLP, GELU | those columns |
//! | contract | the rank's columns of the residual stream | those columns |
//!
//! Under [`Split::Inputs`] only project and contract exchange: they sum whole rows ([`super::group::Reduce`]).
//!
//! Chunks of tokens take turns in each pair of stages ([`turns`]), so that one's exchange runs beside the other's
//! products. A buffer is overwritten by a peer only after its readers: a rank sends a chunk's stage n only after it
//! has received stage n - 1 of that chunk from all, and each of them sent that after it had read what
//! stage n overwrites. The embedding, which has no stage before it, waits for all that was sent.
//!
//! Attention outputs and rows inside the MLP are held of two chunks at a time ([`super::Problem::held_chunks`]): the third takes the
//! place of the first. So from the third on a rank makes them only when its own copies of the chunk before last have left
//! (`Rank::left`), and sends them only to who has read that one (`Rank::consumed`). The first two of a layer need neither:
//! what they wait for was sent behind the last read of the layer before. Under [`Split::Inputs`] a rank's places are its own.

use super::Share;
use super::fault::{Fault, Held};
use super::group::{Group, Part};
use super::rank::Rank;
use super::weights::Split;
use crate::device::Buffer;
use crate::peer::{self, Rows};
use crate::{Error, Result};

/// What an exchange moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    Attended,
    Residual,
    Inner,
}

impl Columns {
    /// The buffer of a rank that holds them.
    fn of<'r>(self, rank: &'r Rank<'_>) -> Result<&'r Buffer> {
        let session = rank.session()?;
        Ok(match self {
            Columns::Attended => &session.attended,
            Columns::Residual => &session.residual,
            Columns::Inner => &session.inner,
        })
    }
}

impl<'g> Group<'g> {
    /// One layer of every chunk on every rank.
    pub(super) fn layer(&mut self, layer: u32) -> Result<()> {
        let chunks = self.ranks[0].session()?.problem.chunks;
        let planted = |rank: &Rank<'_>| match self.fault {
            Some(Fault::OtherOrder { rank: r, layer: l }) => (r, l) == (rank.share.rank, layer),
            _ => false,
        };
        let window = match self.fault {
            Some(Fault::Forgotten { layer, left }) => Some((layer, left)),
            _ => None,
        };
        let codes = match self.fault {
            Some(Fault::Codes { layer: planted, fault }) if planted == layer => Some(fault),
            _ => None,
        };
        self.ranks.iter_mut().for_each(|rank| (rank.window, rank.codes_fault) = (window, codes));
        let reordered: Vec<bool> = self.ranks.iter().map(planted).collect();
        match self.fault {
            Some(
                Fault::Delayed { rank, layer: planted, time }
                | Fault::Unwaited { rank, layer: planted, time },
            ) if planted == layer => {
                let rank = &self.ranks[rank as usize];
                rank.tools.hold.run(&rank.compute, time)?;
            }
            Some(Fault::SentLate { rank, layer: planted, time }) if planted == layer => {
                let rank = &self.ranks[rank as usize];
                rank.tools.hold.run(&rank.transfer, time)?;
            }
            _ => {}
        }
        let contract = |rank: &mut Rank<'g>, chunk| match reordered[rank.share.rank as usize] {
            true => rank.contract_in_another_order(layer, chunk),
            false => rank.contract(layer, chunk),
        };
        if self.degree() == 1 {
            // One chunk's attention outputs and inner columns are all that there is room for.
            self.stage(chunks, layer, |rank, chunk| {
                rank.attend(layer, chunk)?;
                rank.project(layer, chunk)
            })?;
            return self.stage(chunks, layer, |rank, chunk| {
                rank.expand(layer, chunk)?;
                contract(rank, chunk)
            });
        }
        for (stage, chunk) in turns(chunks) {
            match stage {
                Stage::First => self.turn(chunk, Columns::Attended, layer, |rank, chunk| {
                    rank.attend(layer, chunk)
                })?,
                Stage::Second => self.turn(chunk, Columns::Residual, layer, |rank, chunk| {
                    rank.project(layer, chunk)
                })?,
            }
        }
        for (stage, chunk) in turns(chunks) {
            match stage {
                Stage::First => self
                    .turn(chunk, Columns::Inner, layer, |rank, chunk| rank.expand(layer, chunk))?,
                Stage::Second => self.turn(chunk, Columns::Residual, layer, contract)?,
            }
        }
        Ok(())
    }

    /// One stage of every chunk on the only rank.
    fn stage(
        &mut self,
        chunks: u32,
        layer: u32,
        run: impl Fn(&mut Rank<'g>, u32) -> Result<()>,
    ) -> Result<()> {
        (0..chunks).try_for_each(|chunk| self.turn(chunk, Columns::Residual, layer, &run))
    }

    /// One stage of a chunk on every rank, behind the arrival of what it reads, followed by its exchange.
    fn turn(
        &mut self,
        chunk: u32,
        columns: Columns,
        layer: u32,
        run: impl Fn(&mut Rank<'g>, u32) -> Result<()>,
    ) -> Result<()> {
        let unwaited = matches!(self.fault, Some(Fault::Unwaited { layer: l, .. }) if l == layer);
        let (place, second) = (self.place_in_turn(chunk)?, columns == Columns::Residual);
        if !unwaited {
            self.arrive(Some(chunk))?;
        }
        if let (Some((place, true)), false) = (place, second) {
            let waits = |rank: &&Rank<'_>| !self.overtaken(Held::Sending, rank, layer);
            self.ranks
                .iter()
                .filter(waits)
                .try_for_each(|rank| rank.compute.wait(&rank.left[place]))?;
        }
        if let Some(Fault::HeldUp { rank, layer: planted, time, held, .. }) = self.fault
            && (planted, chunk) == (layer, 0)
        {
            let rank = &self.ranks[rank as usize];
            match (held, second) {
                (Held::Reading, true) => rank.tools.hold.run(&rank.compute, time)?,
                (Held::Sending, false) => rank.tools.hold.run(&rank.transfer, time)?,
                _ => {}
            }
        }
        self.ranks.iter_mut().try_for_each(|rank| run(rank, chunk))?;
        if let (Some((place, _)), true) = (place, second) {
            self.ranks.iter().try_for_each(|rank| rank.consumed[place].record(&rank.compute))?;
        }
        match (self.split, columns) {
            (Split::Outputs, _) => self.send(columns, layer, chunk),
            (Split::Inputs, Columns::Residual) => self.sum(chunk),
            (Split::Inputs, _) => Ok(()),
        }
    }

    /// Whether what takes the place of a chunk on this rank is planted not to wait for what is late there.
    fn overtaken(&self, by: Held, on: &Rank<'_>, in_layer: u32) -> bool {
        matches!(self.fault, Some(Fault::HeldUp { rank, layer, held, waits: false, .. })
            if (rank, layer, held) == (on.share.rank, in_layer, by))
    }

    /// Where more chunks than are held share among ranks: the chunk's place among those that are, and whether another was
    /// there before it in this layer.
    fn place_in_turn(&self, chunk: u32) -> Result<Option<(usize, bool)>> {
        let problem = self.ranks[0].session()?.problem;
        let held = problem.held_chunks();
        let shares = self.degree() > 1 && self.split == Split::Outputs && problem.chunks > held;
        Ok(shares.then_some(((chunk % held) as usize, chunk >= held)))
    }

    /// Every rank's later products wait for what the others sent of a chunk last, or of all chunks.
    pub(super) fn arrive(&self, chunk: Option<u32>) -> Result<()> {
        let chunks = self.ranks[0].session()?.problem.chunks;
        let one = chunk.map_or(0..chunks, |chunk| chunk..chunk + 1);
        for chunk in one {
            for rank in &self.ranks {
                match self.split {
                    Split::Outputs => {
                        let others = self.ranks.iter().filter(|r| r.share != rank.share);
                        for other in others {
                            rank.compute.wait(&other.sent[chunk as usize])?;
                        }
                    }
                    Split::Inputs => rank.compute.wait(&rank.sent[chunk as usize])?,
                }
            }
        }
        Ok(())
    }

    /// Sends every rank's columns of a chunk to every other rank.
    fn send(&mut self, columns: Columns, layer: u32, chunk: u32) -> Result<()> {
        let degree = self.degree();
        if degree == 1 || self.fault == Some(Fault::Silent { in_step: false }) {
            return Ok(());
        }
        let turn = match columns {
            Columns::Residual => None,
            Columns::Attended | Columns::Inner => self.place_in_turn(chunk)?,
        };
        for at in 0..self.ranks.len() {
            let from = &self.ranks[at];
            from.produced.record(&from.compute)?;
            from.transfer.wait(&from.produced)?;
            let mut sent = 0;
            // In each round every rank is sent to by one other.
            for round in 1..degree {
                let to = &self.ranks[(at as u32 + round) as usize % degree as usize];
                if let Some((place, true)) = turn
                    && !self.overtaken(Held::Reading, to, layer)
                {
                    from.transfer.wait(&to.consumed[place])?;
                }
                sent += self.send_to(columns, layer, chunk, from, to)?;
            }
            if let Some((place, _)) = turn {
                from.left[place].record(&from.transfer)?;
            }
            from.sent[chunk as usize].record(&from.transfer)?;
            let work = &mut self.ranks[at].work;
            work.sent_bytes += sent;
            // An exchange in which a rank sent nothing is none of its own.
            work.exchanges += u64::from(sent > 0);
        }
        Ok(())
    }

    /// One copy; returns its bytes.
    fn send_to(
        &self,
        columns: Columns,
        layer: u32,
        chunk: u32,
        from: &Rank<'g>,
        to: &Rank<'g>,
    ) -> Result<u64> {
        let all = match columns {
            Columns::Inner => self.config.d_ff,
            _ => self.config.d_model,
        };
        let (first, width) = from.share.columns(all);
        let place = match self.fault {
            Some(Fault::Dropped { rank, layer: planted })
                if (columns, rank, planted) == (Columns::Inner, from.share.rank, layer) =>
            {
                return Ok(0);
            }
            Some(Fault::Silent { .. }) => return Ok(0),
            Some(Fault::Swapped { layer: planted })
                if (columns, planted) == (Columns::Inner, layer) =>
            {
                swapped(from.share, to.share).columns(all).0
            }
            _ => first,
        };
        let problem = from.session()?.problem;
        let row = 2 * u64::from(all);
        let first_row = match columns {
            Columns::Residual => from.first_row(chunk)?,
            Columns::Attended | Columns::Inner => from.own_row(chunk)?,
        };
        let start = first_row * row;
        let (source, target) = (columns.of(from)?, columns.of(to)?);
        if self.fault == Some(Fault::Flat) {
            let bytes = 2 * u64::from(width) * u64::from(problem.chunk_rows());
            // SAFETY: as below; the results are wrong on purpose.
            unsafe { peer::copy(&from.transfer, (source, start), (target, start), bytes)? };
            return Ok(bytes);
        }
        let source = Rows { buffer: source, offset: start + 2 * u64::from(first), pitch: row };
        let target = Rows { buffer: target, offset: start + 2 * u64::from(place), pitch: row };
        let (bytes, rows) = (2 * u64::from(width), u64::from(problem.chunk_rows()));
        let halves = from.share.degree == 2
            && matches!(self.fault, Some(Fault::Swapped { layer: l })
            if (columns, l) == (Columns::Inner, layer));
        let pieces = match halves {
            true => vec![(0, bytes / 2, bytes / 2), (bytes / 2, 0, bytes / 2)],
            false => vec![(0, 0, bytes)],
        };
        for (out_of, into, bytes) in pieces {
            let source = Rows { offset: source.offset + out_of, ..source };
            let target = Rows { offset: target.offset + into, ..target };
            // SAFETY: the copy waits for its source by `produced`, its readers wait for it by `sent`, and
            // what it overwrites has been read (see the module); buffers are freed behind `Group::wait`.
            unsafe { peer::copy_rows(&from.transfer, source, target, bytes, rows)? };
        }
        Ok(bytes * rows)
    }

    /// Sums a chunk's summands over the ranks and adds them to each one's residual stream.
    fn sum(&mut self, chunk: u32) -> Result<()> {
        if matches!(self.fault, Some(Fault::Silent { .. })) {
            return Ok(());
        }
        let Some(reducer) = &mut self.reducer else {
            return Err(Error::Shape { what: "summands without a way to sum them".into() });
        };
        let d = u64::from(self.config.d_model);
        let mut parts = Vec::new();
        for rank in &self.ranks {
            let session = rank.session()?;
            rank.produced.record(&rank.compute)?;
            rank.transfer.wait(&rank.produced)?;
            let Some(buffer) = &session.partial else {
                return Err(Error::Shape { what: "no summands".into() });
            };
            let count = u64::from(session.problem.chunk_rows()) * d;
            let first = u64::from(chunk) * count;
            parts.push(Part { stream: &rank.transfer, buffer, first, count });
        }
        reducer.reduce(&parts)?;
        for rank in &self.ranks {
            rank.settle(chunk)?;
            rank.sent[chunk as usize].record(&rank.transfer)?;
        }
        for rank in &mut self.ranks {
            let session = rank.session()?;
            let count = u64::from(session.problem.chunk_rows()) * d;
            rank.work.sent_bytes += 2 * count;
            rank.work.exchanges += 1;
        }
        Ok(())
    }
}

/// Of two stages that follow each other, the one that makes what the other reads, and that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    Second,
}

/// The order in which chunks take turns in two stages: of no more than two chunks there is something that the first stage
/// made and the second has not read.
fn turns(chunks: u32) -> impl Iterator<Item = (Stage, u32)> {
    (0..=chunks).flat_map(move |at| {
        let first = (at < chunks).then_some((Stage::First, at));
        let second = at.checked_sub(1).map(|before| (Stage::Second, before));
        first.into_iter().chain(second)
    })
}

/// The share in whose place the fault puts the columns that `from` sends to `to`: of the first two others
/// each takes the other's.
fn swapped(from: Share, to: Share) -> Share {
    let others: Vec<u32> = (0..from.degree).filter(|&rank| rank != to.rank).collect();
    let rank = match others.as_slice() {
        [a, b, ..] if from.rank == *a => *b,
        [a, b, ..] if from.rank == *b => *a,
        _ => from.rank,
    };
    Share { rank, degree: from.degree }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_two_chunks_are_held() {
        use Stage::{First, Second};
        let two: Vec<_> = turns(2).collect();
        assert_eq!(two, [(First, 0), (First, 1), (Second, 0), (Second, 1)]);
        for chunks in 1..9 {
            let mut held: Vec<u32> = Vec::new();
            let (mut made, mut read) = (0, 0);
            for (stage, chunk) in turns(chunks) {
                match stage {
                    First => {
                        // The place of a chunk is that of the one before last, which has been read.
                        assert!(
                            held.iter().all(|other| other % 2 != chunk % 2),
                            "{chunks}: {chunk}"
                        );
                        assert_eq!(chunk, made);
                        made += 1;
                        held.push(chunk);
                    }
                    Second => {
                        assert_eq!(held.remove(0), chunk);
                        assert_eq!(chunk, read);
                        read += 1;
                    }
                }
            }
            assert_eq!((made, read, held.len()), (chunks, chunks, 0));
        }
    }

    #[test]
    fn the_first_two_others_change_places() {
        let share = |rank, degree| Share { rank, degree };
        assert_eq!(swapped(share(0, 4), share(3, 4)).rank, 1);
        assert_eq!(swapped(share(1, 4), share(3, 4)).rank, 0);
        assert_eq!(swapped(share(2, 4), share(3, 4)).rank, 2);
        assert_eq!(swapped(share(1, 2), share(0, 2)).rank, 1);
    }
}
