//! The ranks of one model and what they exchange.
//!
//! One host thread enqueues everything; GPUs wait for each other by events alone, see `exchange`.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::drift::Difference;
use super::fault::Fault;
use super::probe::Probe;
use super::rank::{Place, Plans, Rank, Tools, Work};
use super::weights::{Linear, Split};
use super::{Config, Matrix, Precision, Problem, Share};
use crate::device::{Buffer, CudaStream, Event, Gpu};
use crate::graph::{self, Graph};
use crate::matmul::Choice;
use crate::peer;
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
    pub(super) config: Config,
    layers: Range<u32>,
    pub(super) split: Split,
    pub(super) ranks: Vec<Rank<'g>>,
    pub(super) reducer: Option<Box<dyn Reduce + 'g>>,
    pub(super) fault: Option<Fault>,
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

    /// Scales of the weight's rows of a linear kept in E4M3, of one GPU; waits.
    pub fn scales(&self, linear: Linear, layer: u32) -> Result<Vec<f32>> {
        let rank = &self.ranks[0];
        let scales = rank.scales(linear, layer)?;
        scales.read_vec(&rank.compute, (scales.len_bytes() / 4) as usize)
    }

    /// Overwrites the first of them: a planted fault, or what heals it; waits.
    pub fn set_scales(&self, linear: Linear, layer: u32, scales: &[f32]) -> Result<()> {
        let rank = &self.ranks[0];
        rank.scales(linear, layer)?.write(&rank.compute, 0, scales)
    }

    /// Overwrites the linears of this model in fp16 with the halves of the codes of `other`, the same model in
    /// [`Precision::WeightsE4m3`] on the same GPUs; waits.
    ///
    /// Errors: [`Error::Shape`] of another model.
    pub fn take_halves_of(&self, other: &Group<'_>) -> Result<()> {
        if self.degree() != other.degree() {
            return Err(Error::Shape { what: "halves of a model over other gpus".into() });
        }
        self.wait()?;
        self.ranks.iter().zip(&other.ranks).try_for_each(|(own, other)| own.take_halves_of(other))
    }

    /// The algorithm of each linear that is cuBLASLt's.
    pub fn choices(&self) -> Result<Vec<(Linear, Choice)>> {
        let plans: &Plans = self.ranks[0].plans()?;
        let chosen = plans.all().filter_map(|(linear, product)| Some((linear, product.choice()?)));
        Ok(chosen.map(|(linear, choice)| (linear, choice.clone())).collect())
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

    /// Enqueues all layers of one chunk; of one rank only, since nothing is exchanged.
    ///
    /// Errors: [`Error::Shape`] of several ranks, of chunks that are no whole sequences, and where residual streams are to
    /// be kept or hashed, which only a single chunk makes whole.
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
            self.watch_chunk(layer, chunk, watch)?;
        }
        Ok(())
    }

    /// As [`Group::watch_layer`], of the rows of one chunk of the only rank.
    fn watch_chunk(&self, layer: u32, chunk: u32, watch: Watch<'_>) -> Result<()> {
        let chunks = self.ranks[0].session()?.problem.chunks;
        let (kept, row) = match watch {
            Watch::Compare(kept, row, _) if chunks > 1 => (kept, row),
            Watch::Keep(_) | Watch::Hash if chunks > 1 => {
                let what = format!("the whole residual stream behind chunk {chunk} of {chunks}");
                return Err(Error::Shape { what });
            }
            _ => return self.watch_layer(layer, watch),
        };
        self.arrive(None)?;
        let d = u64::from(self.config.d_model);
        for rank in &self.ranks {
            let (first, rows) = (rank.first_row(chunk)?, rank.session()?.problem.chunk_rows());
            let buffer = &kept.layers[layer as usize];
            let other = Matrix { buffer, first: (row + first) * d, row: d };
            rank.compare_rows(layer, (first, rows), other)?;
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

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // Copies of one GPU may still write another's memory. An error was or will be reported there.
        let _ = self.wait();
    }
}
