//! What each rank of a model holds of its GPU's memory, beside the formula.

use harness::case::{Control, Expect, control};
use harness::evidence::Metric;
use harness::record::{Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::{Config, Problem};

use super::bench::Bench;
use crate::model::memory::{self, Before, Watched};

/// For the formula, which counts bytes.
pub const LAYER_TWICE: Control = control(
    "a-layer-twice-on-one-rank",
    "the last rank holds its weights of one layer twice",
    memory::FORMULA,
    Expect::Refuted,
);
/// For the driver, which gives pages.
pub const SIX_LAYERS_TWICE: Control = control(
    "six-layers-twice-on-one-rank",
    "the last rank holds its weights of six layers twice",
    memory::DRIVER,
    Expect::Refuted,
);

/// The same for what NVML says.
pub const SIX_LAYERS_SEEN: Control = control(
    "six-layers-twice-in-nvml",
    "the last rank holds its weights of six layers twice",
    memory::NVML,
    Expect::Refuted,
);

/// The ranks of one model, over the first GPUs of a bench.
pub struct Shares<'a> {
    bench: &'a Bench,
    config: Config,
    /// Of the precision.
    name: &'a str,
    /// By rank, before anything of the model was there.
    before: Vec<(Before, Watched)>,
}

impl<'a> Shares<'a> {
    /// Of a model that is not there yet.
    pub fn new(
        bench: &'a Bench,
        degree: usize,
        config: Config,
        name: &'a str,
    ) -> Result<Shares<'a>, Stop> {
        let now = |gpu: &Gpu| Ok((Before::now(gpu)?, Watched::now(gpu)?));
        let before = bench.lab.gpus[..degree].iter().map(now).collect::<Result<_, Stop>>()?;
        Ok(Shares { bench, config, name, before })
    }

    fn degree(&self) -> usize {
        self.before.len()
    }

    fn gpus(&self) -> &'a [Gpu] {
        &self.bench.lab.gpus[..self.degree()]
    }

    /// The most that is allocated counts from now on.
    pub fn reset_peaks(&self) {
        self.gpus().iter().for_each(|gpu| gpu.ledger().reset_peak());
    }

    /// Writes down what each rank has taken since.
    pub fn taken(&self, problem: &Problem, recorder: &mut Recorder) -> Result<(), Stop> {
        let mut least = u64::MAX;
        for (rank, gpu) in self.gpus().iter().enumerate() {
            self.of_rank(rank, problem)?.into_iter().for_each(|metric| recorder.metric(metric));
            least = least.min(gpu.mem_info()?.0);
        }
        let (name, tokens, degree) = (self.name, problem.tokens, self.degree());
        recorder.option(
            &format!("least free beside {name} at {tokens} tokens over {degree} GPUs, GiB"),
            least as f64 / f64::from(1u32 << 30),
        );
        Ok(())
    }

    /// Plants weights that the last rank holds twice: [`LAYER_TWICE`], [`SIX_LAYERS_TWICE`] and [`SIX_LAYERS_SEEN`].
    pub fn held_twice(&self, problem: &Problem, recorder: &mut Recorder) -> Result<(), Stop> {
        let last = self.degree() - 1;
        let bytes = layer_bytes(&self.config, self.degree() as u32);
        for (layers, controls) in
            [(1, &[LAYER_TWICE][..]), (6, &[SIX_LAYERS_TWICE, SIX_LAYERS_SEEN])]
        {
            let twice = self.gpus()[last].alloc(layers * bytes)?;
            let metrics = self.of_rank(last, problem)?;
            drop(twice);
            for control in controls {
                let tripped = metrics.iter().filter(|metric| metric.name == control.trips);
                tripped.for_each(|metric| recorder.control(control.name, metric.clone()));
            }
        }
        Ok(())
    }

    fn of_rank(&self, rank: usize, problem: &Problem) -> Result<[Metric; 4], Stop> {
        let formula = memory::share(&self.config, problem, self.degree() as u32);
        let number = |number: usize| number.to_string();
        let (degree, tokens, name) =
            (number(self.degree()), number(problem.tokens as usize), number(rank));
        let at = [
            ("degree", degree.as_str()),
            ("precision", self.name),
            ("tokens", tokens.as_str()),
            ("rank", name.as_str()),
        ];
        let (before, watched) = &self.before[rank];
        let on = self.bench.indices(self.degree());
        let [of_formula, of_driver, peak] =
            memory::metrics(before.taken(&self.gpus()[rank])?, formula, &at, on);
        Ok([of_formula, of_driver, peak, watched.metric(formula, &at, on)?])
    }
}

/// Bytes of one layer's weights on each of `degree` GPUs.
pub fn layer_bytes(config: &Config, degree: u32) -> u64 {
    let less = Config { layers: config.layers - 1, ..*config };
    config.weight_bytes(degree) - less.weight_bytes(degree)
}
