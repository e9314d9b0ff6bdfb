//! The ranks of one model and what they exchange.
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
//! Under [`Split::Inputs`] only project and contract exchange: they sum whole rows ([`Reduce`]).
//!
//! Chunks of tokens take turns in each pair of stages ([`turns`]), so that one's exchange runs beside the other's
//! products. A buffer is overwritten by a peer only after its readers: a rank sends a chunk's stage n only after it
//! has received stage n - 1 of that chunk from all, and each of them sent that after it had read what
//! stage n overwrites. The embedding, which has no stage before it, waits for all that was sent.
//!
//! Attention outputs and rows inside the MLP are held of two chunks at a time ([`Problem::held_chunks`]): the third takes the
//! place of the first. So from the third on a rank makes them only when its own copies of the chunk before last have left
//! (`Rank::left`), and sends them only to who has read that one (`Rank::consumed`). The first two of a layer need neither:
//! what they wait for was sent behind the last read of the layer before. Under [`Split::Inputs`] a rank's places are its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::drift::Difference;
use super::probe::Probe;
use super::rank::{Place, Plans, Rank, Tools, Work};
use super::weights::{Linear, Split};
use super::{Config, Matrix, Precision, Problem, Share};
use crate::device::{Buffer, CudaStream, Event, Gpu};
use crate::graph::{self, Graph};
use crate::matmul::Choice;
use crate::peer::{self, Rows};
use crate::{Error, Result};

/// Sums halves over all ranks in place, in stream order.
pub trait Reduce {
    /// Enqueues `buffer[first .. first + count] = sum over ranks` on each rank's stream.
    fn reduce(&mut self, parts: &[Part<'_>]) -> Result<()>;
}

/// One rank's summands.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Where it is enqueued.
    pub stream: &'a CudaStream,
    /// The memory.
    pub buffer: &'a Buffer,
    /// First element.
    pub first: u64,
    /// Elements.
    pub count: u64,
}

/// What is planted in one layer of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A rank's columns inside the MLP do not arrive.
    Dropped {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
    /// Two ranks' columns inside the MLP arrive in each other's place; of two ranks, the halves of each
    /// one's columns.
    Swapped {
        /// The layer.
        layer: u32,
    },
    /// A rank's products of a layer begin late. This changes no bit.
    Delayed {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
    },
    /// The lowest bit of the first element of a rank's copy of the residual stream is flipped behind a
    /// layer.
    Stray {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
    /// As [`Fault::Delayed`], and in that layer no rank waits for what another one sends.
    Unwaited {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
    },
    /// What a rank sends in a layer leaves late. This changes no bit.
    SentLate {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
    },
    /// Nothing is sent: what a pass costs without communication. Its results are wrong.
    Silent {
        /// The ranks still wait for each other as if something were.
        in_step: bool,
    },
    /// As many bytes are sent as one piece each, to where they do not belong: what rows that lie apart
    /// cost. Results are wrong.
    Flat,
    /// The first layers are run twice.
    Repeated {
        /// How many.
        layers: u32,
    },
    /// In a layer, queries no longer see keys that lie further back.
    Forgotten {
        /// The layer.
        layer: u32,
        /// Keys before a query's own that it still sees.
        left: u32,
    },
    /// In a layer, something is wrong with the keys and values that are kept in E4M3.
    Codes {
        /// The layer.
        layer: u32,
        /// What.
        fault: CodesFault,
    },
    /// In a layer a rank reads the first chunk late, of attention and inside the MLP, or what it sends of it leaves late.
    HeldUp {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
        /// How late.
        time: Duration,
        /// What is late.
        held: Held,
        /// What takes the chunk's place waits for it, as it should.
        waits: bool,
    },
    /// A rank adds the second half of each sum before the first.
    OtherOrder {
        /// The rank.
        rank: u32,
        /// The layer.
        layer: u32,
    },
}

/// What of a rank is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The stage that reads what all ranks made.
    Reading,
    /// The copies of what it made.
    Sending,
}

/// What is wrong with keys and values that are kept in E4M3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodesFault {
    /// Chunks behind the first add none.
    Stale,
    /// Chunks behind the first overwrite those of the first too.
    Clobbered,
}

/// What is done with each layer's residual stream and with the logits.
#[derive(Debug, Clone, Copy)]
pub enum Watch<'a> {
    /// Nothing.
    Nothing,
    /// Rank 0 of 1 keeps them.
    Keep(&'a Kept),
    /// Every rank's are hashed.
    Hash,
    /// Every rank compares its own with what was kept, from row `row` of the residual stream and
    /// sequence `batch` of the logits on.
    Compare(&'a Kept, u64, u64),
}

/// Residual streams behind each layer and logits of one forward pass, on one GPU.
#[derive(Debug)]
pub struct Kept {
    layers: Vec<Buffer>,
    logits: Buffer,
}

impl Kept {
    /// Room for a problem.
    pub fn new(gpu: &Gpu, config: &Config, problem: &Problem) -> Result<Kept> {
        let bytes = 2 * u64::from(problem.rows()) * u64::from(config.d_model);
        let layers = (0..config.layers).map(|_| gpu.alloc(bytes)).collect::<Result<_>>()?;
        let logits = gpu.alloc(2 * u64::from(problem.batches) * u64::from(config.vocab))?;
        Ok(Kept { layers, logits })
    }
}

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

/// Algorithms and a recorded pass, to be used in turn with others.
pub struct Way {
    graph: Option<Graph<'static>>,
    plans: Option<Plans>,
    /// The number of the problem that it is for.
    set: u64,
}

/// Problems that were set in this process, so that no two have one number.
static SETS: AtomicU64 = AtomicU64::new(1);

/// All ranks of one model.
pub struct Group<'g> {
    /// A recorded pass; gone before what it uses.
    graph: Option<Graph<'static>>,
    /// A number of the problem that is set, of this process alone.
    sets: u64,
    config: Config,
    layers: Range<u32>,
    split: Split,
    ranks: Vec<Rank<'g>>,
    reducer: Option<Box<dyn Reduce + 'g>>,
    fault: Option<Fault>,
    start: Vec<Event>,
    end: Vec<Event>,
}

impl<'g> Group<'g> {
    /// Makes the weights on the GPUs, in the order given, one rank each; waits for them. Peer access is
    /// on among them ([`peer::enable`]).
    pub fn new(gpus: &[(&'g Gpu, &'g Tools)], config: Config, split: Split) -> Result<Group<'g>> {
        Group::part(gpus, config, 0..config.layers, split)
    }

    /// The same of some layers only: the first have the embedding, the last the head.
    pub fn part(
        gpus: &[(&'g Gpu, &'g Tools)],
        config: Config,
        layers: Range<u32>,
        split: Split,
    ) -> Result<Group<'g>> {
        let degree = gpus.len() as u32;
        let twice = |(at, (gpu, _)): (usize, &(&Gpu, &Tools))| {
            gpus[..at].iter().any(|(other, _)| other.ordinal == gpu.ordinal)
        };
        if gpus.is_empty() || gpus.iter().enumerate().any(twice) {
            let what = format!("a model over {degree} gpus, each of which must be another one");
            return Err(Error::Shape { what });
        }
        let mut ranks = Vec::new();
        for (rank, (gpu, tools)) in (0..degree).zip(gpus) {
            let share = Share { rank, degree };
            ranks.push(Rank::new(gpu, tools, config, layers.clone(), (share, split))?);
        }
        let events = || gpus.iter().map(|(gpu, _)| gpu.new_event()).collect::<Result<Vec<_>>>();
        let (start, end) = (events()?, events()?);
        let (graph, reducer, fault) = (None, None, None);
        Ok(Group { graph, sets: 0, config, layers, split, ranks, reducer, fault, start, end })
    }

    /// How summands are reduced; needed under [`Split::Inputs`].
    pub fn set_reducer(&mut self, reducer: Box<dyn Reduce + 'g>) {
        self.reducer = Some(reducer);
    }

    /// Of its linears.
    pub fn precision(&self) -> Precision {
        self.config.precision
    }

    /// Ranks.
    pub fn degree(&self) -> u32 {
        self.ranks.len() as u32
    }

    /// Allocates activations and chooses algorithms: rank 0 by trying so many candidates, the others as
    /// rank 0. 0 or 1 takes the heuristic's first.
    pub fn set(&mut self, problem: Problem, candidates: usize) -> Result<()> {
        problem.check()?;
        self.clear()?;
        let (first, others) = self.ranks.split_at_mut(1);
        let first = &mut first[0];
        first.set(problem, candidates, None)?;
        let plans = first.plans()?;
        for rank in others {
            rank.set(problem, candidates, Some(plans))?;
        }
        self.wait()
    }

    /// Frees the activations: a pass needs another [`Group::set`], and ways of before are refused. Waits.
    pub fn clear(&mut self) -> Result<()> {
        // Peers may still write what is freed now, and a recorded pass would use it.
        self.wait()?;
        self.graph = None;
        self.sets = SETS.fetch_add(1, Ordering::Relaxed);
        self.ranks.iter_mut().for_each(|rank| rank.session = None);
        Ok(())
    }

    /// Sets the tokens of all sequences, one behind the other, on every rank.
    pub fn set_tokens(&self, tokens: &[u32]) -> Result<()> {
        self.ranks.iter().try_for_each(|rank| rank.set_tokens(tokens))
    }

    /// Plants a fault in later passes, or none.
    pub fn plant(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// The only rank.
    pub(super) fn alone(&mut self) -> Result<&mut Rank<'g>> {
        match self.ranks.as_mut_slice() {
            [rank] => Ok(rank),
            _ => Err(Error::Shape { what: "what only one gpu can do, over several".into() }),
        }
    }

    /// What later passes look at, the head's included; gives back what was looked at before with what was seen, every
    /// rank's part in its place.
    ///
    /// Errors: [`Error::Shape`] of summands, whose stages no rank has whole.
    pub fn probe(&mut self, probe: Option<Probe>) -> Result<Option<Probe>> {
        if self.split == Split::Inputs && self.degree() > 1 && probe.is_some() {
            return Err(Error::Shape { what: "a look at summands".into() });
        }
        let replace = |rank: &mut Rank<'g>| std::mem::replace(&mut rank.probe, probe.clone());
        let parts: Vec<Option<Probe>> = self.ranks.iter_mut().map(replace).collect();
        Ok(parts.into_iter().collect::<Option<Vec<Probe>>>().and_then(Probe::merged))
    }

    /// Hashes of the residual stream and of the logits as they are now, rank by rank; waits.
    pub fn fingerprint(&self) -> Result<Vec<u64>> {
        self.wait()?;
        self.ranks.iter().try_for_each(Rank::forget_differences)?;
        self.watch_layer(self.layers.end - 1, Watch::Hash)?;
        self.watch_logits(Watch::Hash)?;
        let last = self.config.layers as usize - 1;
        let hashes = |rank: Vec<Difference>| [rank[last].hash, rank[last + 1].hash];
        Ok(self.differences()?.into_iter().flat_map(hashes).collect())
    }

    /// Flips the lowest bit of an element, or flips it back: a planted fault.
    pub fn flip(&self, rank: u32, place: Place, element: u64) -> Result<()> {
        self.ranks[rank as usize].flip(place, element)
    }

    /// The algorithm of each linear.
    pub fn choices(&self) -> Result<Vec<(Linear, Choice)>> {
        let plans: &Plans = self.ranks[0].plans()?;
        Ok(plans.all().map(|(linear, plan)| (linear, plan.choice().clone())).collect())
    }

    /// What each rank has done since the last call.
    pub fn take_work(&mut self) -> Vec<Work> {
        self.ranks.iter_mut().map(|rank| std::mem::take(&mut rank.work)).collect()
    }

    /// Differences that the last pass found, by rank and layer, last those of the logits; waits.
    pub fn differences(&self) -> Result<Vec<Vec<Difference>>> {
        self.ranks.iter().map(Rank::differences).collect()
    }

    /// Each rank's columns of the logits, one rank behind the other; waits.
    pub fn logits(&self) -> Result<Vec<Vec<u16>>> {
        let read = |rank: &Rank<'_>| {
            let logits = &rank.session()?.logits;
            logits.read_vec(&rank.compute, (logits.len_bytes() / 2) as usize)
        };
        self.ranks.iter().map(read).collect()
    }

    /// Overwrites all activations with NaN and forgets differences, before a pass that is checked.
    pub fn poison(&self) -> Result<()> {
        self.wait()?;
        self.ranks.iter().try_for_each(Rank::poison)?;
        self.wait()
    }

    /// Waits for every GPU, also after an error of one. Reports the first error of their work.
    pub fn wait(&self) -> Result<()> {
        self.ranks.iter().map(|rank| rank.gpu.synchronize()).fold(Ok(()), Result::and)
    }

    /// Records a pass of one GPU as a graph, which [`Group::time`] and [`Group::pass`] launch from then on.
    /// A pass has run before, so that nothing is allocated while it is recorded.
    ///
    /// Errors: [`Error::Shape`] of several GPUs; what the driver refuses to record.
    pub fn record(&mut self) -> Result<()> {
        self.graph = None;
        let rank = self.alone()?;
        if rank.cache.is_some() || rank.probe.is_some() {
            let what = "a recorded pass that fills a cache or is looked into";
            return Err(Error::Shape { what: what.into() });
        }
        let (gpu, compute) = (rank.gpu, rank.compute.clone());
        self.wait()?;
        let graph = graph::capture(gpu, &compute, || self.forward(Watch::Nothing))?;
        // SAFETY: weights, activations and tools outlive the graph: `clear` drops it before it frees
        // activations, and of the group's fields it goes first.
        self.graph = Some(unsafe { graph.unbound() });
        Ok(())
    }

    /// Exchanges algorithms and the recorded pass with those of `way`; afterwards `way` has what was used
    /// before.
    ///
    /// Errors: [`Error::Shape`] where another problem has been set since `way` was made.
    pub fn exchange(&mut self, way: &mut Way) -> Result<()> {
        if way.set != self.sets {
            return Err(Error::Shape { what: "a way that was made for another problem".into() });
        }
        self.wait()?;
        std::mem::swap(&mut self.graph, &mut way.graph);
        if let Some(plans) = &mut way.plans {
            self.alone()?.exchange_plans(plans)?;
        }
        Ok(())
    }

    /// The algorithms that are in use, and nothing recorded.
    pub fn as_it_is(&self) -> Way {
        Way { graph: None, plans: None, set: self.sets }
    }

    /// Another way to run the problem that was set: algorithms by trying so many candidates (0 or 1: the
    /// heuristic's first), nothing recorded. Of one GPU.
    pub fn way(&self, candidates: usize) -> Result<Way> {
        let [rank] = self.ranks.as_slice() else {
            return Err(Error::Shape { what: "another way over several gpus".into() });
        };
        self.wait()?;
        let plans = Some(rank.plans_by_search(candidates)?);
        Ok(Way { graph: None, plans, set: self.sets })
    }

    /// Enqueues one pass: the recorded one, or as it is enqueued call by call.
    pub fn pass(&mut self) -> Result<()> {
        match &mut self.graph {
            Some(graph) => graph.launch(&self.ranks[0].compute),
            None => self.forward(Watch::Nothing),
        }
    }

    /// Milliseconds of each of `samples` passes behind `warmup` ones: the longest of the ranks, each from
    /// its own start to its own end.
    pub fn time(&mut self, warmup: u32, samples: u32) -> Result<Vec<f64>> {
        let longest = |ranks: Vec<f64>| ranks.into_iter().fold(0.0, f64::max);
        Ok(self.time_each(warmup, samples)?.into_iter().map(longest).collect())
    }

    /// The same of every rank, sample by sample. Nothing of the group runs before or afterwards.
    pub fn time_each(&mut self, warmup: u32, samples: u32) -> Result<Vec<Vec<f64>>> {
        for _ in 0..warmup {
            self.wait()?;
            self.pass()?;
        }
        self.wait()?;
        let mut milliseconds = Vec::new();
        for _ in 0..samples {
            for (rank, start) in self.ranks.iter().zip(&self.start) {
                start.record(&rank.compute)?;
            }
            self.pass()?;
            for (rank, end) in self.ranks.iter().zip(&self.end) {
                end.record(&rank.compute)?;
            }
            self.wait()?;
            let elapsed = self.start.iter().zip(&self.end);
            let elapsed = elapsed.map(|(start, end)| end.elapsed_ms_since(start));
            milliseconds.push(elapsed.collect::<Result<_>>()?);
        }
        Ok(milliseconds)
    }

    /// Enqueues one forward pass.
    pub fn forward(&mut self, watch: Watch<'_>) -> Result<()> {
        self.embed()?;
        for layer in self.layers.clone() {
            self.layer(layer)?;
            if matches!(self.fault, Some(Fault::Repeated { layers }) if layer < layers) {
                self.layer(layer)?;
            }
            if let Some(Fault::Stray { rank, layer: planted }) = self.fault
                && planted == layer
            {
                self.arrive(None)?;
                self.flip(rank, Place::Residual, 0)?;
            }
            self.watch_layer(layer, watch)?;
        }
        self.head(watch)
    }

    /// Enqueues the embedding, where the first layer is here, behind all that an earlier pass still sends.
    pub fn embed(&self) -> Result<()> {
        let chunks = self.ranks[0].session()?.problem.chunks as usize;
        // One GPU with the whole model sends nothing.
        let alone = self.degree() == 1 && self.layers.len() == self.config.layers as usize;
        for rank in self.ranks.iter().filter(|_| !alone) {
            for sent in self.ranks.iter().flat_map(|other| &other.sent[..chunks]) {
                rank.compute.wait(sent)?;
            }
        }
        match self.layers.start {
            0 => self.ranks.iter().try_for_each(Rank::embed),
            _ => Ok(()),
        }
    }

    /// Enqueues the head, where the last layer is here.
    pub fn head(&mut self, watch: Watch<'_>) -> Result<()> {
        if self.layers.end < self.config.layers {
            return Ok(());
        }
        self.arrive(None)?;
        self.ranks.iter_mut().try_for_each(Rank::head)?;
        self.watch_logits(watch)
    }

    /// Enqueues all layers of one chunk; of one rank only, since nothing is exchanged. What is watched are
    /// whole residual streams, which only a single chunk makes.
    pub fn pass_chunk(&mut self, chunk: u32, watch: Watch<'_>) -> Result<()> {
        for layer in self.layers.clone() {
            let rank = self.alone()?;
            let Problem { batches, chunks, .. } = rank.session()?.problem;
            if !batches.is_multiple_of(chunks) {
                let what = format!("a chunk of a sequence alone, of {chunks}");
                return Err(Error::Shape { what });
            }
            rank.attend(layer, chunk)?;
            rank.project(layer, chunk)?;
            rank.expand(layer, chunk)?;
            rank.contract(layer, chunk)?;
            self.watch_layer(layer, watch)?;
        }
        Ok(())
    }

    /// Sends a chunk of the residual stream to the group with the next layers, whose work waits for it.
    /// Both have one rank.
    pub fn hand_over(&mut self, next: &Group<'_>, chunk: u32) -> Result<()> {
        let ([from], [to]) = (self.ranks.as_slice(), next.ranks.as_slice()) else {
            return Err(Error::Shape { what: "a chunk handed over between several ranks".into() });
        };
        let problem = from.session()?.problem;
        if to.session()?.problem != problem || chunk >= problem.chunks {
            let what = format!("chunk {chunk} of {problem:?} handed over to another problem");
            return Err(Error::Shape { what });
        }
        from.produced.record(&from.compute)?;
        from.transfer.wait(&from.produced)?;
        let session = from.session()?;
        let row = 2 * u64::from(self.config.d_model);
        let bytes = row * u64::from(session.problem.chunk_rows());
        let at = u64::from(chunk) * bytes;
        let target = &to.session()?.residual;
        // SAFETY: the copy waits for its source, the next group waits for the copy, and both groups
        // outlive it: the caller waits for both before either goes.
        unsafe { peer::copy(&from.transfer, (&session.residual, at), (target, at), bytes)? };
        from.sent[chunk as usize].record(&from.transfer)?;
        to.compute.wait(&from.sent[chunk as usize])?;
        self.ranks[0].work.sent_bytes += bytes;
        Ok(())
    }

    /// Enqueues the comparison of the residual stream behind the last layer here.
    pub fn compare_last(&self, kept: &Kept) -> Result<()> {
        self.watch_layer(self.layers.end - 1, Watch::Compare(kept, 0, 0))
    }

    /// One layer of every chunk on every rank.
    fn layer(&mut self, layer: u32) -> Result<()> {
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
    fn arrive(&self, chunk: Option<u32>) -> Result<()> {
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
            work.exchanges += 1;
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

    fn watch_layer(&self, layer: u32, watch: Watch<'_>) -> Result<()> {
        if matches!(watch, Watch::Nothing) {
            return Ok(());
        }
        self.arrive(None)?;
        for rank in &self.ranks {
            let residual = &rank.session()?.residual;
            match watch {
                Watch::Nothing => {}
                Watch::Keep(kept) => {
                    let to = &kept.layers[layer as usize];
                    // SAFETY: both live as long as the group; the order is the compute stream's.
                    unsafe {
                        peer::copy(&rank.compute, (residual, 0), (to, 0), residual.len_bytes())?;
                    }
                }
                Watch::Compare(kept, row, _) => {
                    let d = u64::from(self.config.d_model);
                    let other =
                        Matrix { buffer: &kept.layers[layer as usize], first: row * d, row: d };
                    rank.compare_residual(layer, other)?;
                }
                Watch::Hash => {
                    let own = Matrix::packed(residual, self.config.d_model);
                    rank.compare_residual(layer, own)?;
                }
            }
        }
        Ok(())
    }

    fn watch_logits(&self, watch: Watch<'_>) -> Result<()> {
        for rank in &self.ranks {
            match watch {
                Watch::Nothing => {}
                Watch::Keep(kept) => {
                    let logits = &rank.session()?.logits;
                    // SAFETY: as in `watch_layer`.
                    unsafe {
                        let to = (&kept.logits, 0);
                        peer::copy(&rank.compute, (logits, 0), to, logits.len_bytes())?;
                    }
                }
                Watch::Compare(kept, _, batch) => rank.compare_logits(&kept.logits, batch)?,
                Watch::Hash => rank.hash_logits()?,
            }
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

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // Copies of one GPU may still write another's memory. An error was or will be reported there.
        let _ = self.wait();
    }
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
