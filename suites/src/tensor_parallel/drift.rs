//! The same bits on one GPU, split by layers over two, and split by columns over 2, 4 and 8.

use std::process::Command;
use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::model::drift::Difference;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Kept, Watch};
use kernels::model::rank::{Place, Tools, Work};
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision, Problem};
use kernels::peer;

use super::bench::{self, Bench};
use super::planted::HASHES;
use crate::selftest::PLANT;

/// Elements of residual streams and logits whose bits differ from one GPU's, over layers and ranks.
pub const METRIC: &str = "differing_count";
/// Layers in which two ranks hold different residual streams.
pub const AGREEMENT: &str = "disagreeing_layers_count";
/// Hashes, of every layer and of each rank's logits, that differ from another process's.
pub const PROCESS: &str = "differing_hashes_count";
/// How much longer a pass in which one rank is held up takes the rank that it delays least.
pub const LATE: &str = "late_ms";
/// `(most - least) / mean` over the ranks.
pub const FLOPS: &str = "flops_imbalance_percent";
/// The same of bytes sent.
pub const SENT: &str = "sent_imbalance_percent";
/// The same of exchanges in which a rank sent anything.
pub const EXCHANGES: &str = "exchanges_imbalance_percent";
/// Operations of all ranks together against the model's formula.
pub const TOTAL: &str = "flops_error_percent";

const BATCHES: u32 = 4;
const TOKENS: u32 = 2048;
/// Passes of the same group that are compared.
const RUNS: u32 = 3;
/// How long a rank is held up.
const DELAY: Duration = Duration::from_millis(50);
/// The layer in which faults are planted: none of what follows can heal it.
const LAYER: u32 = 20;

const NEW_AND_FLIPPED: &str = "new-and-flipped";

const fn planted_drift(name: &'static str, fault: &'static str) -> Control {
    Control { name, fault, trips: METRIC, expect: Expect::Refuted }
}

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

/// For [`FLOPS`].
pub const ONE_GPU_WORKS: Control = Control {
    name: "one-gpu-works",
    fault: "all ranks' operations are counted as one rank's",
    trips: FLOPS,
    expect: Expect::Refuted,
};
/// For [`SENT`].
pub const ONE_RANK_SILENT: Control = Control {
    name: "one-rank-silent",
    fault: "one rank sends nothing in one exchange of one layer",
    trips: SENT,
    expect: Expect::Refuted,
};
/// For [`EXCHANGES`].
pub const ONE_EXCHANGE_LESS: Control = Control {
    name: "one-exchange-less",
    fault: "one rank takes no part in one exchange of one layer",
    trips: EXCHANGES,
    expect: Expect::Refuted,
};
/// For [`TOTAL`].
pub const ONE_LAYER_TWICE: Control = Control {
    name: "one-layer-twice",
    fault: "one of the 48 layers is run twice",
    trips: TOTAL,
    expect: Expect::Refuted,
};

static CONTROLS: [Control; 13] = [
    planted_drift("flipped-bit", "the lowest mantissa bit of one weight of one rank is flipped"),
    planted_drift("dropped-contribution", "one rank's columns inside one MLP do not arrive"),
    SWAPPED_SHARDS,
    planted_drift(
        "other-order",
        "in one layer one rank adds the second half of each sum, rounds, and adds the first",
    ),
    planted_drift(
        "unwaited",
        "in one layer one rank is held up and no rank waits for what another one sends",
    ),
    planted_drift(
        NEW_AND_FLIPPED,
        "in the group that was made anew the lowest mantissa bit of one weight of one rank is flipped",
    ),
    STRAY_BIT,
    Control {
        name: "other-seed",
        fault: "the other process has other weights",
        trips: PROCESS,
        expect: Expect::Refuted,
    },
    Control {
        name: "not-delayed",
        fault: "no rank is held up",
        trips: LATE,
        expect: Expect::Refuted,
    },
    ONE_GPU_WORKS,
    ONE_RANK_SILENT,
    ONE_EXCHANGE_LESS,
    ONE_LAYER_TWICE,
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::drift",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 with random weights, 4 sequences of 2048 tokens, fp16. One \
                GPU's residual streams behind every layer and its logits are kept. Every element of the \
                same is compared with them, bit by bit, on every rank: of further passes; of one sequence \
                alone; of the layers split over two GPUs, whole, and in micro-batches \
                behind the last layer of each; of columns split \
                over 2, 4 and 8 GPUs with exchanges beside products; of one sequence of 8192 tokens in two \
                chunks; of the largest degree again without \
                that overlap, with one rank or what it sends held up, in the same process once the ranks and \
                the access of the GPUs to each other's memory are gone and made anew, with the GPUs in reversed \
                order and, of more than two, rotated by one, and, by its hashes, in another process. Operations, bytes and exchanges of every rank are counted where they are \
                enqueued.",
    samples: 0,
    expected_s: 47.0,
    deadline_s: 400.0,
    kernels: super::bench::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run: drift,
};

/// What every step needs.
pub(super) struct Setting<'a> {
    pub(super) bench: &'a Bench,
    assignment: &'a Assignment,
    config: Config,
    tokens: Vec<u32>,
    kept: Kept,
}

pub fn problem(chunks: u32) -> Problem {
    Problem { batches: BATCHES, tokens: TOKENS, chunks }
}

fn drift(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let setting = Setting::new(&bench, assignment, Precision::F16)?;
    setting.one_gpu(recorder)?;
    setting.layer_split(recorder)?;
    let degrees = bench.degrees();
    for degree in &degrees {
        setting.degree(*degree, recorder)?;
    }
    let most = degrees.last().copied().ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    setting.new_communicator(most, recorder)?;
    setting.other_orders(most, recorder)?;
    setting.long_sequence(most, recorder)?;
    drop(setting);
    bench.lab.close(recorder);
    Ok(())
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
        Ok(Setting { bench, assignment, config, tokens, kept })
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

    /// Keeps one GPU's results; the same again, and one sequence alone.
    pub(super) fn one_gpu(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("one gpu");
        let mut group = self.group(&self.bench.first(1), 1)?;
        group.poison()?;
        group.forward(Watch::Keep(&self.kept))?;
        bench::write_choices(recorder, "degree-1", &group)?;
        let mut all = bench::drift(&[]);
        for _ in 0..RUNS {
            let again = self.compared(&mut group, (0, 0))?;
            all = worse(all, again);
        }
        recorder.option("hashes degree-1", all.hash_text());
        self.write(recorder, "run-to-run-one-gpu", 0, &all);
        let alone = Problem { batches: 1, ..problem(1) };
        group.set(alone, bench::CANDIDATES)?;
        let sequence = 2u64;
        let first = (sequence * u64::from(TOKENS)) as usize;
        group.set_tokens(&self.tokens[first..first + TOKENS as usize])?;
        let alone = self.compared(&mut group, (first as u64, sequence))?;
        self.write(recorder, "sequence-alone", 0, &alone);
        Ok(())
    }

    /// One long sequence in two chunks over the largest degree, of which the second one's queries see the
    /// first one's keys, against the whole sequence on one GPU.
    fn long_sequence(&self, degree: usize, recorder: &mut Recorder) -> Result<(), Stop> {
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

    /// What seed 000 ran as its tensor parallel: whole layers on each GPU.
    fn layer_split(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("layers over two gpus");
        let (gpus, half) = (self.bench.first(2), self.config.layers / 2);
        let part =
            |gpu: usize, layers| Group::part(&gpus[gpu..=gpu], self.config, layers, Split::Outputs);
        let (mut first, mut last) = (part(0, 0..half)?, part(1, half..self.config.layers)?);
        for (what, chunks) in [("layer-split", 1), ("micro-batches", BATCHES)] {
            for group in [&mut first, &mut last] {
                group.set(problem(chunks), bench::CANDIDATES)?;
                group.set_tokens(&self.tokens)?;
                group.poison()?;
            }
            // In micro-batches no layer's whole residual stream is there before the last chunk's.
            let compare = Watch::Compare(&self.kept, 0, 0);
            let each = if chunks == 1 { compare } else { Watch::Nothing };
            bench::pipeline((&mut first, &mut last), chunks, each)?;
            if chunks > 1 {
                first.compare_last(&self.kept)?;
                last.compare_last(&self.kept)?;
            }
            last.head(compare)?;
            first.wait()?;
            last.wait()?;
            let (half, all) = (half as usize, self.config.layers as usize);
            let (of_first, of_last) = (&first.differences()?[0], &last.differences()?[0]);
            // Every layer and the logits, or of micro-batches the last layer of each part and the logits.
            let compared = match chunks {
                1 => [&of_first[..half], &of_last[half..]],
                _ => [&of_first[half - 1..half], &of_last[all - 1..]],
            };
            let drift = bench::drift(&[compared.concat()]);
            recorder.option(&format!("drift {what}"), drift.text());
            recorder.metric(self.metric(METRIC, what, 2, drift.count as f64));
        }
        Ok(())
    }

    /// Columns over so many GPUs.
    fn degree(&self, degree: usize, recorder: &mut Recorder) -> Result<(), Stop> {
        let what = format!("degree-{degree}");
        recorder.progress(&what);
        let gpus = self.bench.first(degree);
        let mut group = self.group(&gpus, 2)?;
        bench::write_choices(recorder, &what, &group)?;
        let drift = self.compared(&mut group, (0, 0))?;
        self.write(recorder, &what, degree, &drift);
        recorder.option(&format!("hashes {what}"), drift.hash_text());
        let disagreeing = drift.disagreeing as f64;
        recorder.metric(self.metric(AGREEMENT, &what, degree, disagreeing));
        self.participation(&mut group, &what, recorder)?;
        if Some(&degree) != self.bench.degrees().last() {
            return Ok(());
        }
        let mut all = bench::drift(&[]);
        for _ in 0..RUNS {
            all = worse(all, self.compared(&mut group, (0, 0))?);
        }
        self.write(recorder, "run-to-run", degree, &all);
        self.delayed(&mut group, recorder)?;
        self.other_process(&mut group, recorder)?;
        recorder.progress("planted faults");
        self.planted(&mut group, recorder)?;
        recorder.progress("without overlap");
        group.set(problem(1), bench::CANDIDATES)?;
        group.set_tokens(&self.tokens)?;
        let serial = self.compared(&mut group, (0, 0))?;
        self.write(recorder, "serial", degree, &serial);
        Ok(())
    }

    /// What every rank did in one pass, and what is counted of passes that are not the model's.
    pub(super) fn participation(
        &self,
        group: &mut Group<'_>,
        what: &str,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let work = work_of(group, None)?;
        let degree = work.len();
        for (rank, Work { flops, sent_bytes, exchanges }) in work.iter().enumerate() {
            let text =
                format!("{flops:.6e} operations, {sent_bytes} bytes sent, {exchanges} exchanges");
            recorder.option(&format!("work {what} rank {rank}"), text);
        }
        let metric = |name, value| self.metric(name, what, degree, value);
        recorder.metric(metric(FLOPS, imbalance(&flops(&work))));
        recorder.metric(metric(SENT, imbalance(&sent(&work))));
        recorder.metric(metric(EXCHANGES, imbalance(&exchanges(&work))));
        recorder.metric(metric(TOTAL, self.off(&work)));
        let mut one = vec![0.0; degree];
        one[0] = flops(&work).iter().sum();
        recorder.control(ONE_GPU_WORKS.name, metric(FLOPS, imbalance(&one)));
        let less = work_of(group, Some(Fault::Dropped { rank: 0, layer: LAYER }))?;
        recorder.control(ONE_RANK_SILENT.name, metric(SENT, imbalance(&sent(&less))));
        recorder.control(ONE_EXCHANGE_LESS.name, metric(EXCHANGES, imbalance(&exchanges(&less))));
        let more = work_of(group, Some(Fault::Repeated { layers: 1 }))?;
        recorder.control(ONE_LAYER_TWICE.name, metric(TOTAL, self.off(&more)));
        Ok(())
    }

    /// How far the ranks' operations together are from the model's, in percent of it.
    fn off(&self, work: &[Work]) -> f64 {
        let wanted = self.config.flops(&problem(1));
        100.0 * (flops(work).iter().sum::<f64>() / wanted - 1.0).abs()
    }

    /// One rank is held up in one layer, or what it sends is: the pass is late, and right.
    fn delayed(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
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
        recorder.option("drift unwaited", unwaited.text());
        recorder.control("unwaited", self.metric(METRIC, "delayed", degree, unwaited.count as f64));
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
        recorder.control("not-delayed", lateness(&again));
        Ok(())
    }

    /// The same model in another process, by its hashes.
    fn other_process(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress("another process");
        let degree = group.degree() as usize;
        group.poison()?;
        group.forward(Watch::Hash)?;
        let own = hashes(&group.differences()?);
        for (seed, control) in
            [(self.config.seed, None), (self.config.seed + 1, Some("other-seed"))]
        {
            let output = Command::new(std::env::current_exe()?)
                .args([PLANT, HASHES, &seed.to_string(), &degree.to_string()])
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

    fn planted(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        let degree = group.degree() as usize;
        let what = format!("degree-{degree}");
        let last = group.degree() - 1;
        for (control, fault) in [
            ("dropped-contribution", Fault::Dropped { rank: last, layer: LAYER }),
            (SWAPPED_SHARDS.name, Fault::Swapped { layer: LAYER }),
            ("other-order", Fault::OtherOrder { rank: last, layer: LAYER }),
        ] {
            group.plant(Some(fault));
            let drift = self.compared(group, (0, 0))?;
            recorder.option(&format!("drift {control}"), drift.text());
            recorder.control(control, self.metric(METRIC, &what, degree, drift.count as f64));
        }
        group.plant(None);
        let place = Place::Linear(Linear::Up, LAYER);
        group.flip(last, place, 1_000_003)?;
        let drift = self.compared(group, (0, 0))?;
        group.flip(last, place, 1_000_003)?;
        recorder.option("drift flipped-bit", drift.text());
        let count = drift.count as f64;
        recorder.control("flipped-bit", self.metric(METRIC, &what, degree, count));
        group.plant(Some(Fault::Stray { rank: last, layer: LAYER }));
        let disagreeing = self.compared(group, (0, 0))?.disagreeing as f64;
        group.plant(None);
        let disagreeing = self.metric(AGREEMENT, &what, degree, disagreeing);
        recorder.control(STRAY_BIT.name, disagreeing);
        Ok(())
    }

    /// The largest degree again with all that its ranks reach each other by made anew: the driver's mappings of the
    /// others' memory, streams, events and buffers. They use no library's communicator. The group before is gone.
    fn new_communicator(&self, degree: usize, recorder: &mut Recorder) -> Result<(), Stop> {
        let what = "new-communicator";
        recorder.progress("a new communicator");
        peer::renew(&self.bench.lab.gpus)?;
        let mut group = self.group(&self.bench.first(degree), 2)?;
        bench::write_choices(recorder, what, &group)?;
        let mut all = bench::drift(&[]);
        for _ in 0..RUNS {
            all = worse(all, self.compared(&mut group, (0, 0))?);
        }
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
        first_layer: all.first_layer.or(next.first_layer),
        disagreeing: all.disagreeing + next.disagreeing,
        hashes: next.hashes,
    }
}

/// What every rank does in one pass.
fn work_of(group: &mut Group<'_>, fault: Option<Fault>) -> Result<Vec<Work>, Stop> {
    group.take_work();
    group.plant(fault);
    group.forward(Watch::Nothing)?;
    group.plant(None);
    group.wait()?;
    Ok(group.take_work())
}

fn flops(work: &[Work]) -> Vec<f64> {
    work.iter().map(|work| work.flops).collect()
}

fn sent(work: &[Work]) -> Vec<f64> {
    work.iter().map(|work| work.sent_bytes as f64).collect()
}

fn exchanges(work: &[Work]) -> Vec<f64> {
    work.iter().map(|work| work.exchanges as f64).collect()
}

/// `(most - least) / mean`, in percent; the whole where nothing was done.
fn imbalance(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    if mean > 0.0 { 100.0 * (most - least) / mean } else { 100.0 }
}

fn median(values: &[f64]) -> f64 {
    harness::statistics::median(values).unwrap_or(f64::NAN)
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
    fn imbalance_by_hand() {
        assert_eq!(imbalance(&[2.0, 2.0, 2.0, 2.0]), 0.0);
        assert_eq!(imbalance(&[1.0, 3.0]), 100.0);
        assert_eq!(imbalance(&[8.0, 0.0, 0.0, 0.0]), 400.0);
        assert_eq!(imbalance(&[0.0, 0.0]), 100.0);
    }

    #[test]
    fn hashes_of_layers_and_of_every_ranks_logits() {
        let entry = |hash| Difference { count: 0, first: None, hash, ulp: 0, delta: 0.0 };
        let rank = |hashes: [u64; 3]| hashes.map(entry).to_vec();
        let found = hashes(&[rank([1, 2, 3]), rank([1, 2, 4])]);
        let wanted: Vec<String> = [1u64, 2, 3, 4].iter().map(|h| format!("{h:016x}")).collect();
        assert_eq!(found, wanted);
    }
}
