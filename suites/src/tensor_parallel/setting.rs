//! One GPU's residual streams and logits of the model of seed 002, kept, and what other passes give beside them.

use std::cell::Cell;
use std::process::Command;
use std::time::Duration;

use harness::case::{Control, Expect};
use harness::evidence::Metric;
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::drift::Difference;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Kept, Watch};
use kernels::model::rank::{Place, Tools};
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision, Problem};
use kernels::peer;

use super::bench::{self, Bench};
use super::planted::HASHES;
use super::rates::unwritten;
use crate::selftest::PLANT;

/// Elements of residual streams and logits whose bits differ from one GPU's, over layers and ranks.
pub const METRIC: &str = "differing_count";
/// Layers in which two ranks hold different residual streams.
pub const AGREEMENT: &str = "disagreeing_layers_count";
/// Hashes, of every layer and of each rank's logits, that differ from another process's.
pub const PROCESS: &str = "differing_hashes_count";
/// How much longer a pass in which one rank is held up takes the rank that it delays least.
pub const LATE: &str = "late_ms";

/// Sequences and their tokens.
pub const BATCHES: u32 = 4;
const TOKENS: u32 = 2048;
/// Passes of the same group that are compared.
const RUNS: u32 = 3;
/// How long a rank is held up.
const DELAY: Duration = Duration::from_millis(50);
/// The layer in which faults are planted: none of what follows can heal it.
pub const LAYER: u32 = 20;

/// The name of a control.
pub const NEW_AND_FLIPPED: &str = "new-and-flipped";

/// For [`METRIC`].
pub const fn planted_drift(name: &'static str, fault: &'static str) -> Control {
    Control { name, fault, trips: METRIC, expect: Expect::Refuted }
}

/// In one layer of one rank.
pub const OTHER_ORDER: Control = planted_drift(
    "other-order",
    "in one layer one rank adds the second half of each sum, rounds, and adds the first",
);
/// A wait that is missing.
pub const UNWAITED: Control = planted_drift(
    "unwaited",
    "in one layer one rank is held up and no rank waits for what another one sends",
);
/// For [`PROCESS`].
pub const OTHER_SEED: Control = Control {
    name: "other-seed",
    fault: "the other process has other weights",
    trips: PROCESS,
    expect: Expect::Refuted,
};
/// For [`LATE`].
pub const NOT_DELAYED: Control = Control {
    name: "not-delayed",
    fault: "no rank is held up",
    trips: LATE,
    expect: Expect::Refuted,
};

/// Of one rank's copy, so that two ranks disagree.
pub const STRAY_BIT: Control = Control {
    name: "stray-bit",
    fault: "the lowest bit of one element of one rank's copy of the residual stream is flipped",
    trips: AGREEMENT,
    expect: Expect::Refuted,
};

/// Two ranks' columns in each other's place.
pub const SWAPPED_SHARDS: Control = planted_drift(
    "swapped-shards",
    "two ranks' columns inside one MLP, or of two ranks the halves of each one's, arrive in each \
     other's place",
);

/// What every step needs.
pub(super) struct Setting<'a> {
    pub(super) bench: &'a Bench,
    assignment: &'a Assignment,
    pub(super) config: Config,
    pub(super) tokens: Vec<u32>,
    pub(super) kept: Kept,
    /// Operations of the pass that was kept.
    pub(super) alone: Cell<f64>,
}

pub fn problem(chunks: u32) -> Problem {
    Problem { batches: BATCHES, tokens: TOKENS, chunks }
}

impl<'a> Setting<'a> {
    /// The model of seed 002, with room for what is kept.
    pub(super) fn new(
        bench: &'a Bench,
        assignment: &'a Assignment,
        precision: Precision,
    ) -> Result<Setting<'a>, Stop> {
        let config = Config { seed: assignment.seed, precision, ..Config::SEED_002 };
        let tokens = bench::tokens(&config, &problem(1), assignment.seed);
        let kept = Kept::new(&bench.lab.gpus[0], &config, &problem(1))?;
        Ok(Setting { bench, assignment, config, tokens, kept, alone: Cell::new(f64::NAN) })
    }

    pub(super) fn group<'g>(
        &self,
        gpus: &[(&'g Gpu, &'g Tools)],
        chunks: u32,
    ) -> Result<Group<'g>, Stop> {
        bench::group(gpus, self.config, Split::Outputs, problem(chunks), &self.tokens)
    }

    /// A poisoned pass, compared with what was kept from a row and a sequence on.
    pub(super) fn compared(
        &self,
        group: &mut Group<'_>,
        (row, batch): (u64, u64),
    ) -> Result<bench::Drift, Stop> {
        group.poison()?;
        group.forward(Watch::Compare(&self.kept, row, batch))?;
        Ok(bench::drift(&group.differences()?))
    }

    /// A metric of the first so many GPUs; 0 where what one GPU alone did stands for none.
    pub(super) fn metric(&self, name: &str, what: &str, gpus: usize, value: f64) -> Metric {
        Metric::exact(name, &[("what", what)], self.bench.indices(gpus), value)
    }

    pub(super) fn write(
        &self,
        recorder: &mut Recorder,
        what: &str,
        gpus: usize,
        drift: &bench::Drift,
    ) {
        recorder.option(&format!("drift {what}"), drift.text());
        recorder.metric(self.metric(METRIC, what, gpus, drift.count as f64));
    }

    /// Keeps one GPU's results, and gives the model on it.
    pub(super) fn keep(&self, recorder: &mut Recorder) -> Result<Group<'a>, Stop> {
        recorder.progress("one gpu");
        let mut group = self.group(&self.bench.first(1), 1)?;
        group.poison()?;
        group.take_work();
        group.forward(Watch::Keep(&self.kept))?;
        self.alone.set(group.take_work().iter().map(|work| work.flops).sum());
        // Equal bits of what is no number would be no drift.
        if unwritten(&group)? > 0 {
            return Err(Stop::Error("one GPU's logits are not all finite".into()));
        }
        bench::write_choices(recorder, "degree-1", &group)?;
        Ok(group)
    }

    /// Keeps one GPU's results; the same again, and one sequence alone.
    pub(super) fn one_gpu(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let mut group = self.keep(recorder)?;
        let all = self.again(&mut group)?;
        recorder.option("hashes degree-1", all.hash_text());
        self.write(recorder, "run-to-run-one-gpu", 0, &all);
        self.sequence_alone(&mut group, ("sequence-alone", 0), recorder)
    }

    /// Further passes of the same group.
    pub(super) fn again(&self, group: &mut Group<'_>) -> Result<bench::Drift, Stop> {
        let mut all = bench::drift(&[]);
        for _ in 0..RUNS {
            all = worse(all, self.compared(group, (0, 0))?);
        }
        Ok(all)
    }

    /// One of the sequences without the others, which stays the group's problem.
    pub(super) fn sequence_alone(
        &self,
        group: &mut Group<'_>,
        (what, gpus): (&str, usize),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("a sequence alone");
        let alone = Problem { batches: 1, ..problem(1) };
        group.set(alone, bench::CANDIDATES)?;
        let sequence = 2u64;
        let first = (sequence * u64::from(TOKENS)) as usize;
        group.set_tokens(&self.tokens[first..first + TOKENS as usize])?;
        let alone = self.compared(group, (first as u64, sequence))?;
        self.write(recorder, what, gpus, &alone);
        Ok(())
    }

    /// All tokens in one chunk, which stays the group's problem: exchanges between products.
    pub(super) fn serial(
        &self,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("without overlap");
        group.set(problem(1), bench::CANDIDATES)?;
        group.set_tokens(&self.tokens)?;
        let serial = self.compared(group, (0, 0))?;
        self.write(recorder, "serial", group.degree() as usize, &serial);
        Ok(())
    }

    /// One long sequence in two chunks over the largest degree, of which the second one's queries see the
    /// first one's keys, against the whole sequence on one GPU.
    pub(super) fn long_sequence(&self, degree: usize, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("one sequence in two chunks");
        let whole = Problem { batches: 1, tokens: BATCHES * TOKENS, chunks: 1 };
        let kept = Kept::new(&self.bench.lab.gpus[0], &self.config, &whole)?;
        let (config, tokens) = (self.config, &self.tokens);
        let mut one = bench::group(&self.bench.first(1), config, Split::Outputs, whole, tokens)?;
        one.poison()?;
        one.forward(Watch::Keep(&kept))?;
        drop(one);
        let halves = Problem { chunks: 2, ..whole };
        let gpus = self.bench.first(degree);
        let mut group = bench::group(&gpus, config, Split::Outputs, halves, tokens)?;
        group.poison()?;
        group.forward(Watch::Compare(&kept, 0, 0))?;
        let drift = bench::drift(&group.differences()?);
        self.write(recorder, "long-sequence", degree, &drift);
        Ok(())
    }

    /// One rank is held up in one layer, or what it sends is: the pass is late, and right.
    pub(super) fn delayed(
        &self,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("one rank held up");
        let degree = group.degree() as usize;
        let rank = group.degree() - 1;
        let late = Fault::Delayed { rank, layer: LAYER, time: DELAY };
        let plain = group.time_each(1, 5)?;
        group.plant(Some(late));
        let held = group.time_each(1, 5)?;
        let mut drift = self.compared(group, (0, 0))?;
        group.plant(Some(Fault::SentLate { rank, layer: LAYER, time: DELAY }));
        drift = worse(drift, self.compared(group, (0, 0))?);
        // A pass right behind another one whose sends are late.
        group.poison()?;
        group.forward(Watch::Nothing)?;
        group.forward(Watch::Compare(&self.kept, 0, 0))?;
        drift = worse(drift, bench::drift(&group.differences()?));
        group.plant(Some(Fault::Unwaited { rank, layer: LAYER, time: DELAY }));
        let unwaited = self.compared(group, (0, 0))?;
        group.plant(None);
        self.write(recorder, "delayed", degree, &drift);
        recorder.option(&format!("drift {}", UNWAITED.name), unwaited.text());
        recorder
            .control(UNWAITED.name, self.metric(METRIC, "delayed", degree, unwaited.count as f64));
        recorder.option("delay_ms", DELAY.as_millis());
        let lateness = |held: &[Vec<f64>]| {
            // Of every rank but the one that is held up, which is late whoever waits.
            let of_rank = |times: &[Vec<f64>], at: usize| {
                median(&times.iter().map(|ranks| ranks[at]).collect::<Vec<_>>())
            };
            let over = (0..degree - 1).map(|at| of_rank(held, at) - of_rank(&plain, at));
            let least = over.fold(f64::INFINITY, f64::min);
            self.metric(LATE, "delayed", degree, (least * 1e3).round() / 1e3)
        };
        recorder.metric(lateness(&held));
        let again = group.time_each(1, 5)?;
        recorder.control(NOT_DELAYED.name, lateness(&again));
        Ok(())
    }

    /// The same model in another process, by its hashes.
    pub(super) fn other_process(
        &self,
        group: &mut Group<'_>,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("another process");
        let degree = group.degree() as usize;
        group.poison()?;
        group.forward(Watch::Hash)?;
        let own = hashes(&group.differences()?);
        for (seed, control) in
            [(self.config.seed, None), (self.config.seed + 1, Some(OTHER_SEED.name))]
        {
            let output = Command::new(std::env::current_exe()?)
                .args([PLANT, HASHES, name(self.config.precision)])
                .args([seed.to_string(), degree.to_string()])
                .arg(self.assignment.seed.to_string())
                .arg(&self.assignment.cache)
                .output()?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                return Err(Stop::Error(format!("the other process failed: {error}")));
            }
            let text = String::from_utf8_lossy(&output.stdout);
            let other: Vec<&str> = text.split_whitespace().collect();
            let missing = own.len().abs_diff(other.len());
            let differing = own.iter().zip(&other).filter(|(a, b)| a != b).count() + missing;
            let metric = self.metric(PROCESS, "new-process", degree, differing as f64);
            match control {
                None => recorder.metric(metric),
                Some(control) => recorder.control(control, metric),
            }
        }
        Ok(())
    }

    /// The largest degree again with all that its ranks reach each other by made anew: the driver's mappings of the
    /// others' memory, streams, events and buffers. They use no library's communicator. The group before is gone.
    pub(super) fn new_communicator(
        &self,
        degree: usize,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let what = "new-communicator";
        recorder.progress("a new communicator");
        peer::renew(&self.bench.lab.gpus)?;
        let mut group = self.group(&self.bench.first(degree), 2)?;
        bench::write_choices(recorder, what, &group)?;
        let all = self.again(&mut group)?;
        self.write(recorder, what, degree, &all);
        group.flip(group.degree() - 1, Place::Linear(Linear::Up, LAYER), 1_000_003)?;
        let flipped = self.compared(&mut group, (0, 0))?;
        recorder.option(&format!("drift {NEW_AND_FLIPPED}"), flipped.text());
        let count = flipped.count as f64;
        recorder.control(NEW_AND_FLIPPED, self.metric(METRIC, what, degree, count));
        Ok(())
    }

    /// The largest degree with its GPUs in other orders: reversed and, of more than two, rotated by one.
    pub(super) fn other_orders(&self, degree: usize, recorder: &mut Recorder) -> Result<(), Stop> {
        let mut gpus = self.bench.first(degree);
        gpus.reverse();
        self.ordered("reversed", &gpus, recorder)?;
        if degree > 2 {
            let mut gpus = self.bench.first(degree);
            gpus.rotate_left(1);
            self.ordered("rotated", &gpus, recorder)?;
        }
        Ok(())
    }

    /// A pass over all of these GPUs, in this order.
    fn ordered(
        &self,
        what: &str,
        gpus: &[(&Gpu, &Tools)],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress(&format!("{what} order"));
        let degree = gpus.len();
        let mut group = self.group(gpus, 2)?;
        let drift = self.compared(&mut group, (0, 0))?;
        self.write(recorder, what, degree, &drift);
        group.flip(group.degree() - 1, Place::Linear(Linear::Up, LAYER), 1_000_003)?;
        let count = self.compared(&mut group, (0, 0))?.count as f64;
        recorder.control("flipped-bit", self.metric(METRIC, what, degree, count));
        Ok(())
    }
}

/// The worse of two comparisons of the same pass.
fn worse(all: bench::Drift, next: bench::Drift) -> bench::Drift {
    bench::Drift {
        count: all.count + next.count,
        ulp: all.ulp.max(next.ulp),
        delta: all.delta.max(next.delta),
        first_layer: all.first_layer.into_iter().chain(next.first_layer).min(),
        disagreeing: all.disagreeing + next.disagreeing,
        hashes: next.hashes,
    }
}

fn median(values: &[f64]) -> f64 {
    harness::statistics::median(values).unwrap_or(f64::NAN)
}

/// Precisions of the models of other processes.
const PRECISIONS: [(Precision, &str); 2] = [(Precision::F16, "fp16"), (Precision::E4m3, "fp8")];

/// As another process and evidence name it; the others have no name.
pub fn name(precision: Precision) -> &'static str {
    PRECISIONS.iter().find(|(known, _)| *known == precision).map_or("none", |(_, name)| name)
}

/// The precision of that name.
pub fn named(name: &str) -> Option<Precision> {
    PRECISIONS.iter().find(|(_, known)| *known == name).map(|(precision, _)| *precision)
}

/// The first rank's hash of every layer, and each rank's of its logits.
pub fn hashes(differences: &[Vec<Difference>]) -> Vec<String> {
    let layers = differences.first().map_or(0, |rank| rank.len() - 1);
    let first = differences.iter().take(1).flat_map(|rank| &rank[..layers]);
    let logits = differences.iter().map(|rank| &rank[layers]);
    first.chain(logits).map(|difference| format!("{:016x}", difference.hash)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_layers_and_of_every_ranks_logits() {
        let entry = |hash| Difference { count: 0, first: None, hash, ulp: 0, delta: 0.0 };
        let rank = |hashes: [u64; 3]| hashes.map(entry).to_vec();
        let found = hashes(&[rank([1, 2, 3]), rank([1, 2, 4])]);
        let wanted: Vec<String> = [1u64, 2, 3, 4].iter().map(|h| format!("{h:016x}")).collect();
        assert_eq!(found, wanted);
    }
}
