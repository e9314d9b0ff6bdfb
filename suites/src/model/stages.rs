//! A process of its own that takes a model through its stages, reports each as it begins, and may hang in one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use harness::record::{PROGRESS, Stop};
use kernels::device::{Gpu, Module};
use kernels::fault;
use kernels::jit::{self, Cubin};
use kernels::libraries::{self, Found, Library};
use kernels::model::group::{self, Group};
use kernels::model::rank::{Place, Tools};
use kernels::model::weights::{Linear, Split};
use kernels::model::{self, Config, Problem};
use kernels::{KernelSource, flight, graph, peer};
use serde::{Deserialize, Serialize};

use crate::tensor_parallel::bench;
use crate::{lab, root};

/// The name under which this executable is such a process.
pub const NAME: &str = "model-stages";

/// The line under which it prints the hashes of its pass.
pub const BITS: &str = "bits";

/// The line under which it says that its planted hang has begun.
pub const HANGS: &str = "hangs-in";

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
            Stage::Run => "run",
        }
    }
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

    /// Its tokens: over several GPUs in two chunks, so that exchanges run beside products.
    pub fn problem(&self) -> Problem {
        let chunks = if self.degree > 1 { 2 } else { 1 };
        Problem { batches: self.batches, tokens: self.tokens, chunks }
    }

    fn run(&self) -> Result<(), Stop> {
        flight::keep(&self.flight)?;
        self.begin(Stage::Open);
        load_libraries()?;
        let gpus = (0..self.degree).map(Gpu::open).collect::<kernels::Result<Vec<_>>>()?;
        peer::enable(&gpus)?;
        self.begin(Stage::Compile);
        let tools = self.tools(&gpus)?;
        self.loop_in(Stage::Compile);
        self.begin(Stage::Weights);
        let all: Vec<_> = gpus.iter().zip(&tools).collect();
        let (config, problem) = (self.config(), self.problem());
        let mut group = Group::new(&all, config, Split::Outputs)?;
        if self.searched {
            self.begin(Stage::Tune);
        }
        group.set(problem, if self.searched { bench::CANDIDATES } else { 1 })?;
        self.loop_in(Stage::Tune);
        group.set_tokens(&bench::tokens(&config, &problem, self.seed))?;
        if self.searched && self.degree == 1 {
            self.begin(Stage::Capture);
            self.capture(&gpus[0], &mut group)?;
        }
        self.begin(Stage::Run);
        if self.flip {
            group.flip(0, Place::Linear(Linear::Up, 0), 1_000_003)?;
        }
        if self.hang == Some(Stage::Run) && self.degree > 1 {
            // What a pass loads is loaded before: the driver waits with that for what runs.
            group.pass()?;
            group.wait()?;
        }
        group.poison()?;
        if self.hang == Some(Stage::Run) && self.degree > 1 {
            let time = std::time::Duration::from_secs(3600);
            group.plant(Some(group::Fault::Delayed { rank: self.degree - 1, layer: 1, time }));
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

    fn begin(&self, stage: Stage) {
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

    /// A loop of this thread that never ends, where it is planted in this stage.
    fn loop_in(&self, stage: Stage) {
        if self.hang == Some(stage) {
            println!("{HANGS} {}", stage.name());
            loop {
                std::hint::spin_loop();
            }
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
