//! 8192 tokens on one GPU in FP8 by the own products: beside fp16, beside f64, and the same bits in every way of
//! execution.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem, reference};

use super::forward::{
    self, BITS, FLIPPED_BIT, FP16_FOR_FP8, NAME, PAIRS, PROBLEM, SPEEDUP, apart, room, same_bits,
};
use super::memory;
use crate::lab::finite;
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::oracle;
use crate::tensor_parallel::rates::{INTEGRITY, METRIC, NOT_RUN, TIME, rounded, tflops, unwritten};

/// Root mean square of the small model's errors over that of its logits.
pub const ERROR: &str = oracle::METRIC;
/// cuBLASLt's time with precise accumulation over that of the own products, pass by pass.
pub const OVER_LIBRARY: &str = "own_over_cublaslt_ratio";

/// Twelve samples have an interval without the two least and the two largest.
const LIBRARY_PAIRS: usize = 12;
/// Pairs of passes that do not count there.
const WARMUP: usize = 2;

const OWN: (Precision, &str) = (Precision::E4m3Promoted, "fp8-own");

static CONTROLS: [Control; 4] = [
    FP16_FOR_FP8,
    FLIPPED_BIT,
    Control {
        name: "fp16-oracle",
        fault: "the small model in fp16 stands where the one in FP8 is asked for",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// Those of every case of the suite and the own products'.
const WITH_OWN: &[&str] = &["model", "operands", "pattern", "timing", "quantise", "promoted"];

const TWICE: &str = "every-layer-twice";
static LIBRARY_CONTROLS: [Control; 2] = [
    Control {
        name: TWICE,
        fault: "every layer is computed twice with the own products, once with cuBLASLt's",
        trips: OVER_LIBRARY,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "model::promoted",
    revision: 2,
    figures_since: 2,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 with random weights on one GPU, one sequence of 8192 tokens, in FP8 (W8A8: \
                weights with a scale for each output, activations quantised on the way with a scale for each token; \
                attention in fp16) whose products, but the head's, are by this project's kernel, which lets the tensor \
                cores add 256 columns before the sum goes to f32. A pass is run again, with the head's \
                algorithm by the heuristic alone, as a graph, and in four chunks, and its residual stream and logits are \
                compared by their hashes. Times are of graphs, in turn with \
                passes in fp16. The model of 3 layers, 1024 wide, in that precision is compared with f64, rounded \
                wherever the GPU rounds.",
    samples: PAIRS,
    expected_s: 32.0,
    deadline_s: 300.0,
    kernels: WITH_OWN,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: |assignment, recorder| {
        run(assignment, recorder, |setting, recorder| setting.beside_fp16(assignment, recorder))
    },
};

/// Each GPU.
pub static LIBRARY_CASE: Case = Case {
    id: "model::promoted-vs-cublaslt",
    procedure: "The 48-layer model of seed 002 with random weights on one GPU, one sequence of 8192 tokens, in FP8 with the \
                products of this project's kernel, and with those of cuBLASLt, precise, whose algorithms are searched \
                for: graphs in turn, twelve pairs behind two that do not count, so that the power limit has its say.",
    samples: LIBRARY_PAIRS,
    expected_s: 40.0,
    controls: &LIBRARY_CONTROLS,
    run: |assignment, recorder| {
        run(assignment, recorder, |setting, recorder| setting.beside_cublaslt(assignment, recorder))
    },
    ..CASE
};

struct Setting<'a> {
    bench: &'a Bench,
    on: [u32; 1],
    tokens: Vec<u32>,
    seed: u64,
}

fn run(
    assignment: &Assignment,
    recorder: &mut Recorder,
    measured: impl FnOnce(&Setting<'_>, &mut Recorder) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut bench = Bench::open(assignment, recorder)?;
    bench.load_promoted(recorder)?;
    {
        let (_, index) = bench.lab.only()?;
        let seed = assignment.seed;
        let tokens = bench::tokens(&Config::SEED_002, &PROBLEM, seed);
        let setting = Setting { bench: &bench, on: [index], tokens, seed };
        measured(&setting, recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

impl<'a> Setting<'a> {
    fn config(&self, precision: Precision) -> Config {
        Config { seed: self.seed, precision, ..Config::SEED_002 }
    }

    fn group(&self, precision: Precision) -> Result<Group<'a>, Stop> {
        let gpus = self.bench.first(1);
        bench::group(&gpus, self.config(precision), Split::Outputs, PROBLEM, &self.tokens)
    }

    fn exact(&self, name: &str, at: &[(&str, &str)], value: f64) -> Metric {
        Metric::exact(name, at, &self.on, finite(value))
    }

    /// The small model beside f64.
    fn small(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("f64");
        let config = Config { seed: self.seed, precision: OWN.0, ..oracle::CONFIG };
        let tokens = bench::tokens(&config, &oracle::PROBLEM, self.seed);
        let wanted = reference::logits(&config, &oracle::PROBLEM, &tokens);
        let error = |config| -> Result<Metric, Stop> {
            let gpus = self.bench.first(1);
            let mut group = bench::group(&gpus, config, Split::Outputs, oracle::PROBLEM, &tokens)?;
            let found = oracle::pass(&mut group)?;
            Ok(self.exact(ERROR, &[], bench::apart(&found, &wanted)))
        };
        recorder.metric(error(config)?);
        let sixteen = Config { precision: Precision::F16, ..config };
        recorder.control("fp16-oracle", error(sixteen)?);
        Ok(())
    }

    /// Refuses a GPU without room for a model of this precision and one with the own products.
    fn room(&self, other: Precision) -> Result<(), Stop> {
        let needs = |precision| memory::formula(&self.config(precision), &PROBLEM);
        room(self.bench.lab.only()?.0, needs(other) + needs(OWN.0))
    }

    /// The model with the own products, which ran call by call.
    fn own(&self, recorder: &mut Recorder) -> Result<Group<'a>, Stop> {
        recorder.progress(OWN.1);
        let mut own = self.group(OWN.0)?;
        own.poison()?;
        recorder.control(NOT_RUN.name, self.unwritten(&own, "call by call")?);
        own.pass()?;
        recorder.metric(self.unwritten(&own, "call by call")?);
        Ok(own)
    }

    fn unwritten(&self, group: &Group<'_>, way: &str) -> Result<Metric, Stop> {
        let at = [("problem", NAME), ("way", way)];
        Ok(self.exact(INTEGRITY, &at, unwritten(group)? as f64))
    }

    fn ratio(&self, name: &str, over: &[f64], under: &[f64]) -> Metric {
        let at = [("problem", NAME)];
        Metric::sampled(name, &at, &self.on, bench::ratios(over, under))
    }

    fn beside_fp16(&self, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
        let pairs = assignment.samples(PAIRS);
        self.room(Precision::F16)?;
        self.small(recorder)?;
        let mut own = self.own(recorder)?;
        self.bits(&mut own, recorder)?;
        recorder.progress("beside fp16");
        let mut sixteen = self.group(Precision::F16)?;
        bench::write_choices(recorder, "fp16", &sixteen)?;
        bench::write_choices(recorder, OWN.1, &own)?;
        let times = recorded_in_turn(&mut sixteen, &mut own, (0, pairs))?;
        self.write_rate("fp16", &times[0], recorder);
        self.write_rate(OWN.1, &times[1], recorder);
        recorder.metric(self.ratio(SPEEDUP, &times[0], &times[1]));
        let mut shifted = times[0].clone();
        shifted.rotate_left(1);
        recorder.control(FP16_FOR_FP8.name, self.ratio(SPEEDUP, &times[0], &shifted));
        own.poison()?;
        own.pass()?;
        recorder.metric(self.unwritten(&own, "timed")?);
        Ok(())
    }

    fn beside_cublaslt(
        &self,
        assignment: &Assignment,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let pairs = assignment.samples(LIBRARY_PAIRS);
        self.room(Precision::E4m3)?;
        let mut own = self.own(recorder)?;
        recorder.progress("beside cuBLASLt");
        let mut library = self.group(Precision::E4m3)?;
        bench::write_choices(recorder, "fp8", &library)?;
        bench::write_choices(recorder, OWN.1, &own)?;
        let times = recorded_in_turn(&mut library, &mut own, (WARMUP, pairs))?;
        recorder.metric(self.ratio(OVER_LIBRARY, &times[0], &times[1]));
        // The graphs that were timed.
        for (group, way) in [(&mut own, "timed"), (&mut library, "timed by cuBLASLt")] {
            group.poison()?;
            group.pass()?;
            recorder.metric(self.unwritten(group, way)?);
        }
        let mut eager = own.as_it_is();
        own.exchange(&mut eager)?;
        own.plant(Some(Fault::Repeated { layers: Config::SEED_002.layers }));
        let twice = own.time(0, pairs as u32)?;
        own.plant(None);
        recorder.control(TWICE, self.ratio(OVER_LIBRARY, &times[0], &twice));
        Ok(())
    }

    /// The same bits in every way of execution, and in four chunks.
    fn bits(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        same_bits(group, (OWN.1, &self.on), recorder)?;
        let wanted = group.fingerprint()?;
        group.set(Problem { chunks: 4, ..PROBLEM }, 1)?;
        group.set_tokens(&self.tokens)?;
        group.poison()?;
        group.pass()?;
        let at = [("precision", OWN.1), ("way", "four-chunks")];
        recorder.metric(self.exact(BITS, &at, apart(&group.fingerprint()?, &wanted)));
        group.set(PROBLEM, bench::CANDIDATES)?;
        group.set_tokens(&self.tokens)?;
        group.pass()?;
        Ok(group.wait()?)
    }

    fn write_rate(&self, name: &str, times: &[f64], recorder: &mut Recorder) {
        let flops = Config::SEED_002.flops(&PROBLEM);
        let at = [("precision", name), ("problem", NAME)];
        recorder.metric(Metric::sampled(METRIC, &at, &self.on, tflops(flops, times)));
        recorder.metric(Metric::sampled(TIME, &at, &self.on, rounded(times)));
    }
}

/// Milliseconds of recorded passes in turn, of each so many behind some that do not count.
fn recorded_in_turn<'a>(
    first: &mut Group<'a>,
    second: &mut Group<'a>,
    (before, pairs): (usize, usize),
) -> Result<[Vec<f64>; 2], Stop> {
    for group in [&mut *first, &mut *second] {
        group.record()?;
        group.time(1, 0)?;
    }
    forward::in_turn((&mut *first, &mut *second), before as u32)?;
    forward::in_turn((first, second), pairs as u32)
}
