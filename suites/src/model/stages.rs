//! A process of its own that takes a model through its stages, reports each as it begins, and may hang in one; and
//! what its flight record has to say of that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::record::{PROGRESS, Stop};
use harness::watchdog::stacks;
use kernels::device::{Gpu, Module};
use kernels::fault;
use kernels::jit::{self, Cubin};
use kernels::libraries::{self, Found, Library};
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::rank::{Place, Tools};
use kernels::model::weights::{Linear, Split};
use kernels::model::{self, Config, Problem};
use kernels::{KernelSource, flight, graph, peer};
use serde::{Deserialize, Serialize};

use super::smart::{self, Ran};
use crate::tensor_parallel::bench;
use crate::{lab, root};

/// The name under which this executable is such a process.
pub const NAME: &str = "model-stages";

/// The line under which it prints the hashes of its pass.
pub const BITS: &str = "bits";

/// The line under which it says that its planted hang has begun.
pub const HANGS: &str = "hangs-in";

/// The mark in its flight record behind which, over several GPUs, the pass stands that never ends.
pub const HELD: &str = "pass of which a rank is held up";

/// What the smart way may take: less than the watchdog leaves it.
const SMART_BUDGET: Duration = Duration::from_secs(180);

/// What begins the note of a source that is about to be compiled.
const COMPILES: &str = "compile ";

/// What a process goes through, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// GPUs are opened and reach each other.
    Open,
    /// Kernels are compiled and loaded.
    Compile,
    /// Weights are made; without a search also the heuristic's algorithms are taken.
    Weights,
    /// Algorithms are searched.
    Tune,
    /// A pass is run once and recorded as a graph; of one GPU.
    Capture,
    /// In the place of both: the smart way searches, and on one GPU records, behind the heuristic's algorithms.
    Smart,
    /// A pass, the recorded one where there is one, and its hashes.
    Run,
}

impl Stage {
    /// As it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Open => "open",
            Stage::Compile => "compile",
            Stage::Weights => "weights",
            Stage::Tune => "tune",
            Stage::Capture => "capture",
            Stage::Smart => "smart",
            Stage::Run => "run",
        }
    }

    /// Its mark in the flight record.
    pub fn mark(self) -> String {
        format!("stage {}", self.name())
    }
}

/// Whether a flight record, a line each of a number and a note, says what hangs of what is planted in a stage, over so
/// many GPUs. Only notes behind the last mark count, which is the stage's own, or over several GPUs in [`Stage::Run`]
/// [`HELD`]: what a warm pass noted before is behind neither.
pub fn says_what_hangs(flight: &str, stage: Stage, degree: usize) -> bool {
    let notes: Vec<&str> =
        flight.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    let marked = |note: &&str| note.starts_with(flight::MARK);
    let Some(at) = notes.iter().rposition(marked) else { return false };
    let (mark, behind) = (&notes[at][flight::MARK.len()..], &notes[at + 1..]);
    let has = |what: &str| behind.iter().filter(|note| note.starts_with(what)).count();
    let ends = |what: &str| behind.last().is_some_and(|note| note.starts_with(what));
    if stage == Stage::Run && degree > 1 {
        return mark == HELD && has("exchange ") > 0;
    }
    let said = match stage {
        // Nothing is planted there.
        Stage::Open | Stage::Weights => false,
        // One that was compiled, and the next one.
        Stage::Compile => has(COMPILES) > 1 && ends(COMPILES),
        Stage::Tune | Stage::Smart => ends("product "),
        Stage::Capture => has("product ") > 0,
        Stage::Run => ends("kernel fault_endless "),
    };
    mark == stage.mark() && said
}

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Layers of the model of seed 002.
    pub layers: u32,
    /// GPUs that share it by columns.
    pub degree: u32,
    /// Sequences.
    pub batches: u32,
    /// Tokens of each.
    pub tokens: u32,
    /// With searched algorithms and, on one GPU, as a graph; else the heuristic's call by call.
    pub searched: bool,
    /// What is searched and recorded is so as `measure model --exec-mode smart` does it.
    pub smart: bool,
    /// Every kernel is compiled anew; else the model's alone, and the others are of the cache.
    pub fresh: bool,
    /// Of weights and tokens.
    pub seed: u64,
    /// Where cubins are cached.
    pub cache: PathBuf,
    /// Where its flight record lies.
    pub flight: PathBuf,
    /// A stage that never ends.
    pub hang: Option<Stage>,
    /// The stage that never ends is not reported.
    pub mute: bool,
    /// The lowest bit of a weight is flipped.
    pub flip: bool,
}

/// `model-stages JOB`, the job as JSON.
pub fn planted(arguments: &[String]) -> Result<(), Stop> {
    let [job] = arguments else { return Err(Stop::Error(format!("{NAME} JOB"))) };
    let job: Job = serde_json::from_str(job)?;
    job.run()
}

/// What it needs: where a run has not laid it out for its children, a bundle's reader has started this.
fn load_libraries() -> Result<(), Stop> {
    let needed = [Library::Cuda, Library::Nvrtc, Library::CublasLt];
    if needed.iter().any(|library| !libraries::present(*library)) {
        let all = libraries::find(root::find().ok().as_deref());
        let missing = |found: &&Found| needed.contains(&found.library);
        all.iter().filter(missing).try_for_each(libraries::preload)?;
    }
    needed.into_iter().try_for_each(lab::require)
}

impl Job {
    /// The sizes of its model.
    pub fn config(&self) -> Config {
        Config { layers: self.layers, seed: self.seed, ..Config::SEED_002 }
    }

    /// Where the stacks of its threads lie, if it was ended: beside its flight record.
    pub fn stacks(&self) -> PathBuf {
        self.flight.with_extension("stacks")
    }

    /// Its tokens: over several GPUs in two chunks, so that exchanges run beside products.
    pub fn problem(&self) -> Problem {
        let chunks = if self.degree > 1 { 2 } else { 1 };
        Problem { batches: self.batches, tokens: self.tokens, chunks }
    }

    fn run(&self) -> Result<(), Stop> {
        flight::keep(&self.flight)?;
        stacks::write_on_end(self.stacks()).map_err(Stop::Error)?;
        self.begin(Stage::Open);
        load_libraries()?;
        let gpus = (0..self.degree).map(Gpu::open).collect::<kernels::Result<Vec<_>>>()?;
        peer::enable(&gpus)?;
        self.begin(Stage::Compile);
        let tools = self.tools(&gpus)?;
        self.begin(Stage::Weights);
        let all: Vec<_> = gpus.iter().zip(&tools).collect();
        let (config, problem) = (self.config(), self.problem());
        let mut group = Group::new(&all, config, Split::Outputs)?;
        let at_once = self.searched && !self.smart;
        if at_once {
            self.begin(Stage::Tune);
        }
        if self.hang == Some(Stage::Tune) {
            fault::plant_in_search(|| endless(Stage::Tune))?;
        }
        let tokens = bench::tokens(&config, &problem, self.seed);
        group.set(problem, if at_once { bench::CANDIDATES } else { 1 })?;
        group.set_tokens(&tokens)?;
        if self.smart {
            self.smart(&mut group, problem, &tokens)?;
        }
        if at_once && self.degree == 1 {
            self.begin(Stage::Capture);
            self.capture(&gpus[0], &mut group)?;
        }
        self.begin(Stage::Run);
        if self.flip {
            group.flip(0, Place::Linear(Linear::Up, 0), 1_000_003)?;
        }
        let held = self.hang == Some(Stage::Run) && self.degree > 1;
        if held {
            // What a pass loads is loaded before: the driver waits with that for what runs.
            group.pass()?;
            group.wait()?;
        }
        group.poison()?;
        if held {
            let time = Duration::from_secs(3600);
            group.plant(Some(Fault::Delayed { rank: self.degree - 1, layer: 1, time }));
            flight::mark(HELD);
        }
        group.pass()?;
        if self.hang == Some(Stage::Run) {
            self.never_ends(&gpus[0])?;
        }
        let bits = group.fingerprint()?;
        let bits: Vec<String> = bits.iter().map(|hash| format!("{hash:016x}")).collect();
        println!("{BITS} {}", bits.join(" "));
        Ok(())
    }

    /// Marks a stage in the flight record, and reports it.
    fn begin(&self, stage: Stage) {
        flight::mark(&stage.mark());
        if !self.mute || self.hang != Some(stage) {
            println!("{PROGRESS}{}", stage.name());
        }
    }

    /// What every GPU needs; what is compiled anew is so once.
    fn tools(&self, gpus: &[Gpu]) -> Result<Vec<Tools>, Stop> {
        let mut made: BTreeMap<&'static str, Cubin> = BTreeMap::new();
        let mut all = Vec::new();
        for gpu in gpus {
            gpu.bind()?;
            let mut load = |source: &'static KernelSource| self.load(gpu, source, &mut made);
            all.push(bench::tools(gpu, &mut load)?);
        }
        Ok(all)
    }

    /// A kernel; the planted hang of [`Stage::Compile`] is behind the note of the second that is compiled.
    fn load(
        &self,
        gpu: &Gpu,
        source: &'static KernelSource,
        made: &mut BTreeMap<&'static str, Cubin>,
    ) -> Result<Module, Stop> {
        let architecture = jit::architecture_of(gpu.compute_capability)
            .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
        if !self.fresh && source.name != model::SOURCE.name {
            return Ok(gpu.load(&jit::cached(source, architecture, &self.cache)?.bytes)?);
        }
        if let Some(cubin) = made.get(source.name) {
            return Ok(gpu.load(&cubin.bytes)?);
        }
        flight::note(|| format!("{COMPILES}{} for {architecture}", source.name));
        if !made.is_empty() {
            self.loop_in(Stage::Compile);
        }
        let cubin = jit::compile(source, architecture)?;
        let module = gpu.load(&cubin.bytes)?;
        made.insert(source.name, cubin);
        Ok(module)
    }

    /// A pass, so that nothing is allocated while the next one is recorded; or a recording that never ends.
    fn capture(&self, gpu: &Gpu, group: &mut Group<'_>) -> Result<(), Stop> {
        group.poison()?;
        group.pass()?;
        if self.hang == Some(Stage::Capture) {
            group.wait()?;
            graph::capture(gpu, gpu.stream(), || {
                self.loop_in(Stage::Capture);
                Ok(())
            })?;
        }
        Ok(group.record()?)
    }

    /// The smart way behind a pass with the heuristic's algorithms; its hang is in the search, behind the first algorithm
    /// that the search of the first product enqueues.
    ///
    /// Errors: it was not ready within its budget.
    fn smart(&self, group: &mut Group<'_>, problem: Problem, tokens: &[u32]) -> Result<(), Stop> {
        group.poison()?;
        group.pass()?;
        group.wait()?;
        self.begin(Stage::Smart);
        if self.hang == Some(Stage::Smart) {
            fault::plant_in_search(|| endless(Stage::Smart))?;
        }
        let begun = Instant::now();
        let late = || begun.elapsed() > SMART_BUDGET;
        let ran = match self.degree {
            1 => smart::ready(group, late)?,
            _ => smart::ready_over_several(group, (problem, tokens), late)?,
        };
        group.wait()?;
        match ran {
            Ran::Searched | Ran::SearchedCalls => Ok(()),
            Ran::Spent | Ran::Late => Err(Stop::Error(ran.words().into())),
        }
    }

    /// A loop of this thread that never ends, where it is planted in this stage.
    fn loop_in(&self, stage: Stage) {
        if self.hang == Some(stage) {
            endless(stage);
        }
    }

    /// Behind the pass of one GPU, a kernel that never ends; over several a rank was held up already.
    fn never_ends(&self, gpu: &Gpu) -> Result<(), Stop> {
        println!("{HANGS} {}", Stage::Run.name());
        if self.degree > 1 {
            return Ok(());
        }
        let architecture = jit::architecture_of(gpu.compute_capability)
            .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
        let module = gpu.load(&jit::cached(&fault::SOURCE, architecture, &self.cache)?.bytes)?;
        let buffer = gpu.alloc(256)?;
        fault::launch(gpu, &module, fault::Fault::Endless, &buffer, true)?;
        Ok(gpu.synchronize()?)
    }
}

/// Says that the hang of a stage has begun, and loops.
fn endless(stage: Stage) -> ! {
    println!("{HANGS} {}", stage.name());
    loop {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stage: Stage, degree: usize, notes: &[&str], expect: bool) {
        let lines = notes.iter().enumerate().map(|(number, note)| format!("{number} {note}\n"));
        let flight: String = lines.collect();
        assert_eq!(says_what_hangs(&flight, stage, degree), expect, "{stage:?}: {flight}");
    }

    const HELD_UP: &str = "mark: pass of which a rank is held up";

    #[test]
    fn what_hangs_stands_behind_its_stages_mark() {
        let compiled =
            ["mark: stage compile", "compile model for sm_90a", "compile timing for sm_90a"];
        check(Stage::Compile, 1, &compiled, true);
        check(Stage::Compile, 8, &compiled, true);
        let tuned = ["mark: stage tune", "kernel operands_fill", "product 8x8x8 on gpu 0"];
        check(Stage::Tune, 1, &tuned, true);
        check(Stage::Tune, 2, &tuned, true);
        let smart = ["mark: stage smart", "kernel operands_fill", "product 8x8x8 on gpu 0"];
        check(Stage::Smart, 1, &smart, true);
        check(Stage::Smart, 2, &smart, true);
        let recorded = ["mark: stage capture", "product 8x8x8 on gpu 0", "kernel model_add"];
        check(Stage::Capture, 1, &recorded, true);
        let endless = ["mark: stage run", "graph", "kernel fault_endless 1x1 blocks of 32"];
        check(Stage::Run, 1, &endless, true);
        let held = ["mark: stage run", "exchange 1 rows", HELD_UP, "exchange 1 rows", "kernel a"];
        check(Stage::Run, 2, &held, true);
    }

    #[test]
    fn what_was_noted_before_does_not_count() {
        check(Stage::Compile, 1, &["mark: stage compile", "compile model for sm_90a"], false);
        check(Stage::Compile, 1, &["compile a", "compile b", "mark: stage compile"], false);
        let behind = ["mark: stage compile", "compile a", "compile b", "kernel a"];
        check(Stage::Compile, 1, &behind, false);
        check(Stage::Tune, 1, &["mark: stage tune"], false);
        // A pass ends with a product, but that is in front of the mark.
        check(Stage::Smart, 1, &["product 8x8x8 on gpu 0", "mark: stage smart"], false);
        check(Stage::Tune, 1, &["product 8x8x8 on gpu 0", "mark: stage tune", "kernel a"], false);
        check(Stage::Capture, 1, &["product 8x8x8 on gpu 0", "mark: stage capture"], false);
        check(Stage::Run, 1, &["mark: stage run", "kernel fault_endless 1x1", "graph"], false);
        check(Stage::Run, 1, &["mark: stage capture", "kernel fault_endless 1x1"], false);
        check(Stage::Run, 2, &["mark: stage run", "exchange 1 rows"], false);
        check(Stage::Run, 2, &["mark: stage run", "exchange 1 rows", HELD_UP], false);
        check(Stage::Run, 2, &["exchange 1 rows"], false);
        check(Stage::Weights, 1, &["mark: stage weights", "kernel a"], false);
        check(Stage::Run, 1, &[], false);
    }
}
