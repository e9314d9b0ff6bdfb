//! 8192 tokens on one GPU, in fp16 and FP8: rate, memory, and the same bits in every way of execution.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{self, Config, Precision, Problem};

use super::memory::{self, Before, Watched};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{
    EVERY_LAYER, INTEGRITY, MARGIN, METRIC, NOT_RUN, TIME, rounded, tflops, unwritten,
};

/// The time in fp16 over the time in FP8, pass by pass.
pub const SPEEDUP: &str = "fp8_speedup_ratio";
/// Hashes of residual stream and logits that differ between two ways of execution.
pub const BITS: &str = "hashes_apart_count";
/// What activations take in four chunks, over what they take in one.
pub const CHUNKED: &str = "chunked_activations_ratio";

/// One sequence of 8192 tokens.
pub const PROBLEM: Problem = Problem { batches: 1, tokens: 8192, chunks: 1 };
pub const NAME: &str = "1x8192";
/// Six samples are the fewest that have an interval.
pub const PAIRS: usize = 6;

/// Precisions and their names in evidence.
pub const PRECISIONS: [(Precision, &str); 3] =
    [(Precision::F16, "fp16"), (Precision::E4m3, "fp8"), (Precision::E4m3Fast, "fp8-fast")];

/// No FP8 at all.
pub const FP16_FOR_FP8: Control = Control {
    name: "fp16-for-fp8",
    fault: "the fp16 model is run and called FP8",
    trips: SPEEDUP,
    expect: Expect::Refuted,
};
/// One bit of one weight.
pub const FLIPPED_BIT: Control = Control {
    name: "flipped-bit",
    fault: "the lowest bit of one weight is flipped between two passes",
    trips: BITS,
    expect: Expect::Refuted,
};
static CONTROLS: [Control; 8] = [
    EVERY_LAYER,
    FP16_FOR_FP8,
    FLIPPED_BIT,
    memory::LAYER_TWICE,
    memory::SEEN_TWICE,
    memory::TWENTIETH,
    Control {
        name: "whole-rows-inside",
        fault: "activations inside the MLP of all tokens are held beside those of a chunk",
        trips: CHUNKED,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "model::forward",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 with random weights on one GPU, one sequence of 8192 tokens, in \
                fp16 and in FP8 (W8A8: weights with a scale for each output, activations quantised on the way \
                with a scale for each token; attention in fp16; precise and fast accumulation). A pass is run \
                call by call, recorded as a graph, and with algorithms by the heuristic alone, and its residual \
                stream and logits are compared by their hashes. Times are of the graph, in turn for the \
                precisions. Memory is what was allocated at once during a pass, beside the closed formula and \
                beside what the driver has less of, and NVML says is used more.",
    samples: PAIRS,
    expected_s: 48.0,
    deadline_s: 300.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

/// Kernels whose digests the evidence of every case carries, beside attention, which differs by board.
pub const KERNELS: &[&str] = &["model", "operands", "pattern", "timing", "quantise"];

/// What the case needs at every step.
struct Setting<'a> {
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    tokens: Vec<u32>,
    seed: u64,
}

/// Refuses a GPU without room for so many bytes and [`MARGIN`] beside them, before anything is made.
///
/// Errors: [`Stop::NotApplicable`] of a board that is too small, [`Stop::Error`] where another process holds what
/// is needed.
pub fn room(gpu: &Gpu, bytes: u64) -> Result<(), Stop> {
    let (free, total) = gpu.mem_info()?;
    fits(bytes, free, total)
}

fn fits(bytes: u64, free: u64, total: u64) -> Result<(), Stop> {
    model::room(bytes, MARGIN, total).map_err(|error| {
        Stop::NotApplicable(format!("{error}, which is all that the board has"))
    })?;
    model::room(bytes, MARGIN, free).map_err(|error| {
        let held = total.saturating_sub(free) as f64 / f64::from(1u32 << 30);
        Stop::Error(format!(
            "{error}, which is free: another process holds the rest, {held:.1} GiB in all"
        ))
    })
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let tokens = bench::tokens(&Config::SEED_002, &PROBLEM, assignment.seed);
        let seed = assignment.seed;
        let setting = Setting { bench: &bench, gpu, on: [index], tokens, seed };
        let needs = |precision| memory::formula(&setting.config(precision), &PROBLEM);
        room(gpu, needs(Precision::F16) + needs(Precision::E4m3))?;
        setting.measured(assignment, recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

impl<'a> Setting<'a> {
    fn config(&self, precision: Precision) -> Config {
        Config { seed: self.seed, precision, ..Config::SEED_002 }
    }

    fn measured(&self, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("fp16");
        let mut sixteen = self.loaded(Precision::F16, "fp16", recorder)?;
        recorder.progress("fp8");
        let mut eight = self.loaded(Precision::E4m3, "fp8", recorder)?;
        self.rates((&mut sixteen, &mut eight), assignment.samples(PAIRS), recorder)?;
        recorder.progress("fast accumulation");
        drop(sixteen);
        let mut fast = self.group(Precision::E4m3Fast)?;
        fast.time(1, 0)?;
        fast.record()?;
        let times = fast.time(1, assignment.samples(PAIRS) as u32)?;
        self.write_rate("fp8-fast", &times, recorder);
        fast.poison()?;
        fast.pass()?;
        recorder.metric(self.exact(INTEGRITY, "fp8-fast", unwritten(&fast)? as f64));
        Ok(())
    }

    fn group(&self, precision: Precision) -> Result<Group<'a>, Stop> {
        let gpus = self.bench.first(1);
        bench::group(&gpus, self.config(precision), Split::Outputs, PROBLEM, &self.tokens)
    }

    fn exact(&self, name: &str, precision: &str, value: f64) -> Metric {
        let at = [("precision", precision), ("problem", NAME)];
        Metric::exact(name, &at, &self.on, value)
    }

    /// A model with its memory, its bits and a recorded pass.
    fn loaded(
        &self,
        precision: Precision,
        name: &str,
        recorder: &mut Recorder,
    ) -> Result<Group<'a>, Stop> {
        let config = self.config(precision);
        let at = [("precision", name), ("problem", NAME)];
        let (before, watched) = (Before::now(self.gpu)?, Watched::now(self.gpu)?);
        let mut group = self.group(precision)?;
        bench::write_choices(recorder, name, &group)?;
        self.gpu.ledger().reset_peak();
        group.poison()?;
        recorder.control(NOT_RUN.name, self.exact(INTEGRITY, name, unwritten(&group)? as f64));
        group.pass()?;
        recorder.metric(self.exact(INTEGRITY, name, unwritten(&group)? as f64));
        let formula = memory::formula(&config, &PROBLEM);
        let taken = before.taken(self.gpu)?;
        for metric in memory::metrics(taken, formula, &at, &self.on) {
            recorder.metric(metric);
        }
        recorder.metric(memory::activations(taken, (&config, &PROBLEM), &at, &self.on));
        recorder.metric(watched.metric(formula, &at, &self.on)?);
        let seen_twice = watched.layer_twice((self.gpu, &config), formula, &at, &self.on)?;
        recorder.control(memory::SEEN_TWICE.name, seen_twice);
        let (held, of) = ((self.gpu, &before), (&config, &PROBLEM));
        memory::a_twentieth_beside(held, of, &at, &self.on, recorder)?;
        memory::layer_twice(held, (&config, formula), &at, &self.on, recorder)?;
        same_bits(&mut group, (name, &self.on), recorder)?;
        self.chunked((&mut group, &config), name, recorder)?;
        group.record()?;
        Ok(group)
    }

    /// The same pass in four chunks: its bits, and what its activations take.
    fn chunked(
        &self,
        (group, config): (&mut Group<'_>, &Config),
        name: &str,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let wanted = group.fingerprint()?;
        let weights = self.gpu.ledger();
        let mut activations = |problem: Problem| -> Result<u64, Stop> {
            let before = weights.live();
            group.set(problem, 1)?;
            group.set_tokens(&self.tokens)?;
            // What was set before is gone by then: only the difference is known.
            Ok(weights.live().wrapping_sub(before))
        };
        let whole = config.activation_bytes(&PROBLEM, 1);
        let change = activations(Problem { chunks: 4, ..PROBLEM })? as i64;
        group.poison()?;
        group.pass()?;
        let apart = apart(&group.fingerprint()?, &wanted);
        let at = [("precision", name), ("way", "four-chunks")];
        recorder.metric(Metric::exact(BITS, &at, &self.on, apart));
        let ratio = |bytes: i64| (whole as i64 + bytes) as f64 / whole as f64;
        recorder.metric(self.exact(CHUNKED, name, ratio(change)));
        let inside = 2 * i64::from(config.d_ff) * i64::from(PROBLEM.tokens);
        let beside = self.gpu.alloc(inside as u64)?;
        let with = change + beside.len_bytes() as i64;
        recorder.control("whole-rows-inside", self.exact(CHUNKED, name, ratio(with)));
        drop(beside);
        group.set(PROBLEM, bench::CANDIDATES)?;
        group.set_tokens(&self.tokens)?;
        group.pass()?;
        Ok(group.wait()?)
    }

    /// Both precisions in turn.
    fn rates(
        &self,
        (sixteen, eight): (&mut Group<'a>, &mut Group<'a>),
        pairs: usize,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("rates");
        sixteen.time(1, 0)?;
        eight.time(1, 0)?;
        let times = in_turn((&mut *sixteen, &mut *eight), pairs as u32)?;
        self.write_rate("fp16", &times[0], recorder);
        self.write_rate("fp8", &times[1], recorder);
        for (group, name) in [(&mut *sixteen, "fp16"), (&mut *eight, "fp8")] {
            group.poison()?;
            group.pass()?;
            let at = [("precision", name), ("problem", NAME), ("way", "timed")];
            let wrong = unwritten(group)? as f64;
            recorder.metric(Metric::exact(INTEGRITY, &at, &self.on, wrong));
        }
        let at = [("problem", NAME)];
        let ratio = |under: &[f64]| {
            Metric::sampled(SPEEDUP, &at, &self.on, bench::ratios(&times[0], under))
        };
        recorder.metric(ratio(&times[1]));
        let mut shifted = times[0].clone();
        shifted.rotate_left(1);
        recorder.control(FP16_FOR_FP8.name, ratio(&shifted));
        let mut eager = eight.as_it_is();
        eight.exchange(&mut eager)?;
        eight.plant(Some(Fault::Repeated { layers: Config::SEED_002.layers }));
        let twice = eight.time(0, PAIRS as u32)?;
        eight.plant(None);
        recorder.control(EVERY_LAYER.name, self.rate("fp8", &twice));
        Ok(())
    }

    fn rate(&self, name: &str, times: &[f64]) -> Metric {
        let flops = Config::SEED_002.flops(&PROBLEM);
        let at = [("precision", name), ("problem", NAME)];
        Metric::sampled(METRIC, &at, &self.on, tflops(flops, times))
    }

    fn write_rate(&self, name: &str, times: &[f64], recorder: &mut Recorder) {
        recorder.metric(self.rate(name, times));
        let at = [("precision", name), ("problem", NAME)];
        recorder.metric(Metric::sampled(TIME, &at, &self.on, rounded(times)));
    }
}

/// The same bits in every way of execution: call by call again, by the heuristic's algorithms, and as a graph, before and
/// behind a flipped bit.
pub(super) fn same_bits(
    group: &mut Group<'_>,
    (name, on): (&str, &[u32]),
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let wanted = group.fingerprint()?;
    recorder.option(&format!("hashes {name}"), format!("{wanted:016x?}"));
    let passed = |group: &mut Group<'_>| -> Result<f64, Stop> {
        group.poison()?;
        group.pass()?;
        Ok(apart(&group.fingerprint()?, &wanted))
    };
    let at = |way| [("precision", name), ("way", way)];
    let metric = |way, count| Metric::exact(BITS, &at(way), on, count);
    recorder.metric(metric("again", passed(group)?));
    let mut first = group.way(1)?;
    group.exchange(&mut first)?;
    recorder.metric(metric("heuristic", passed(group)?));
    group.exchange(&mut first)?;
    drop(first);
    group.record()?;
    recorder.metric(metric("graph", passed(group)?));
    let place = Place::Linear(Linear::Up, 20);
    group.flip(0, place, 1_000_003)?;
    recorder.control(FLIPPED_BIT.name, metric("graph", passed(group)?));
    group.flip(0, place, 1_000_003)?;
    recorder.metric(metric("graph-again", passed(group)?));
    Ok(())
}

/// Milliseconds of so many passes of each, one behind the other.
pub(super) fn in_turn(
    (first, second): (&mut Group<'_>, &mut Group<'_>),
    pairs: u32,
) -> Result<[Vec<f64>; 2], Stop> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..pairs {
        times[0].extend(first.time(0, 1)?);
        times[1].extend(second.time(0, 1)?);
    }
    Ok(times)
}

/// Hashes that differ; one that is missing does.
pub fn apart(found: &[u64], wanted: &[u64]) -> f64 {
    let equal = found.iter().zip(wanted).filter(|(found, wanted)| found == wanted).count();
    (found.len().max(wanted.len()) - equal) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_apart_by_hand() {
        assert_eq!(apart(&[1, 2], &[1, 2]), 0.0);
        assert_eq!(apart(&[1, 3], &[1, 2]), 1.0);
        assert_eq!(apart(&[], &[1, 2]), 2.0);
    }

    #[track_caller]
    fn check(free: u64, total: u64, expect: &str) {
        let said = match fits(78 << 30, free << 30, total << 30) {
            Ok(()) => "fits".to_owned(),
            Err(Stop::NotApplicable(why)) => format!("not applicable: {why}"),
            Err(Stop::NotRun(why) | Stop::Error(why)) => why,
        };
        assert!(said.contains(expect), "{said}");
    }

    #[test]
    fn memory_that_another_process_holds_is_an_error() {
        check(80, 140, "fits");
        check(
            79,
            140,
            "78.00 GiB and 2 beside them do not fit into 79.00, which is free: another process",
        );
        check(79, 80, "the rest, 1.0 GiB in all");
        check(
            79,
            79,
            "not applicable: 78.00 GiB and 2 beside them do not fit into 79.00, which is all that the board has",
        );
    }
}
