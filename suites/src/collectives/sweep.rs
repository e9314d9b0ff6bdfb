//! NCCL's collectives by size and type: what they leave, of integers and of random values, how fast, and without multicast.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::nccl::{Communicators, Operation};

use super::bench::{Bench, ELEMENTS, Payload, larger, sized};
use super::nccl::{self, Log, MULTICAST_LINE, once};
use super::{FLIPPED_OUTPUT, rates};
use crate::lab::{self, Lab};

/// Elements of integers that are not what the collective leaves.
pub const WRONG: &str = "wrong_count";
/// Largest error of a sum of random values, in units of what any order of addition may err.
pub const ERROR: &str = "error_ratio";
/// Elements of random values that did not arrive as they were.
pub const ALTERED: &str = "altered_count";
/// Words in which a rank's sums differ from rank 0's.
pub const DIFFERING: &str = "differing_count";

/// Of what a rank gets of one other alone every rank's are, so that each one misses something.
const DROPPED: Control = control(
    "dropped-values",
    "the values of rank 0 are zeros, in a ring of sends those of every rank",
    WRONG,
    Expect::Corrupt,
);
const DROPPED_RANDOM: Control = control(
    "dropped-random-summands",
    "the random values of rank 0 are zeros",
    ERROR,
    Expect::Refuted,
);
const DROPPED_COPY: Control = control(
    "dropped-random-copy",
    "the random values of rank 0 are zeros, in a ring of sends those of every rank",
    ALTERED,
    Expect::Refuted,
);

static CONTROLS: [Control; 5] =
    [DROPPED, DROPPED_RANDOM, DROPPED_COPY, FLIPPED_OUTPUT, MULTICAST_LINE];

/// All GPUs.
pub(super) static CASE: Case = Case {
    id: "collectives::nccl-sweep",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "Each of NCCL's six collectives in fp16, bf16 and f32, of 1, 16 and 256 KiB and 1, 2, 4, 8, 16 and 128 MiB. Of \
                integers, whose sums are exact in any order, every element of every rank is compared. Of random values \
                every element that is only moved is compared, and of every sum the error is taken as a share of what any \
                order of addition may err; after an all-reduce every rank's words are compared with rank 0's. In f32 calls \
                from 1 MiB on are timed as collectives::nccl-rates times them, of several in a row. NCCL's own log says \
                which algorithms, protocols and channels it chose.",
    samples: SAMPLES,
    expected_s: 12.0,
    deadline_s: 240.0,
    kernels: super::KERNELS,
    integrity: &[WRONG],
    controls: &CONTROLS,
    run,
};

const MIB: u64 = 1 << 20;
const SIZES: [u64; 9] =
    [1 << 10, 16 << 10, 256 << 10, MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 128 * MIB];
/// Of the planted faults.
const PLANTED_BYTES: u64 = 4 * MIB;
const SAMPLES: usize = 7;

/// Whether a collective adds; the others move what they are given.
fn sums(operation: Operation) -> bool {
    matches!(operation, Operation::AllReduce | Operation::ReduceScatter)
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let log = Log::ask(assignment);
    lab::require(Library::Nccl)?;
    let lab = Lab::open(assignment, recorder)?;
    let most = SIZES[SIZES.len() - 1];
    let mut bench = Bench::new(&lab, most, assignment, recorder)?;
    recorder.progress("init nccl");
    let comms = Communicators::new(&lab.gpus)?;
    for operation in Operation::ALL {
        for (element, name) in ELEMENTS {
            recorder.progress(&format!("{} {name}", operation.name()));
            let one = One { bench: &bench, comms: &comms, operation, element, name };
            one.integers(recorder)?;
            one.random(recorder)?;
        }
    }
    planted(&bench, &comms, recorder)?;
    let samples = assignment.samples(SAMPLES) as u32;
    for operation in Operation::ALL {
        for size in SIZES.into_iter().filter(|size| *size >= MIB) {
            rates::swept(&mut bench, &comms, (operation, size), samples, recorder)?;
        }
    }
    comms.check()?;
    nccl::multicast(&log, recorder);
    drop(comms);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// A collective in one type.
struct One<'a> {
    bench: &'a Bench<'a>,
    comms: &'a Communicators<'a>,
    operation: Operation,
    element: Element,
    name: &'static str,
}

impl One<'_> {
    /// A count or an error of each rank.
    fn metrics(&self, name: &str, values: &[f64]) -> Vec<Metric> {
        let at = [("op", self.operation.name()), ("type", self.name)];
        let metric = |(index, value): (&u32, &f64)| Metric::exact(name, &at, &[*index], *value);
        self.bench.indices.iter().zip(values).map(metric).collect()
    }

    /// What a call of this size leaves of these values.
    fn called(&self, payload: Payload, size: u64) -> Result<u64, Stop> {
        let bytes = sized(size, self.bench.ranks());
        self.bench.fill(payload, bytes)?;
        once(self.bench, self.comms, self.operation, self.element, bytes)?;
        Ok(bytes)
    }

    /// Wrong elements over all sizes.
    fn integers(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let payload = Payload::integers(self.element);
        let mut all = vec![0.0; self.bench.ranks()];
        for size in SIZES {
            let bytes = self.called(payload, size)?;
            let wrong = self.wrong(payload, bytes)?;
            all.iter_mut().zip(wrong).for_each(|(all, wrong)| *all += wrong);
        }
        self.metrics(WRONG, &all).into_iter().for_each(|metric| recorder.metric(metric));
        Ok(())
    }

    /// Of random values what was altered, or the largest error, over all sizes.
    fn random(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let payload = Payload::uniform(self.element);
        let mut all = vec![0.0f64; self.bench.ranks()];
        let mut differing = vec![0; self.bench.ranks() - 1];
        for size in SIZES {
            let bytes = self.called(payload, size)?;
            for (all, found) in all.iter_mut().zip(self.found(payload, bytes)?) {
                *all = if sums(self.operation) { larger(*all, found) } else { *all + found };
            }
            if self.operation == Operation::AllReduce {
                let found = self.bench.differing(bytes)?;
                differing.iter_mut().zip(found).for_each(|(all, (_, count))| *all += count);
            }
        }
        let name = if sums(self.operation) { ERROR } else { ALTERED };
        self.metrics(name, &all).into_iter().for_each(|metric| recorder.metric(metric));
        if self.operation == Operation::AllReduce {
            let (first, others) = self.bench.indices.split_at(1);
            for (index, count) in others.iter().zip(differing) {
                recorder.metric(self.apart([first[0], *index], count));
            }
        }
        Ok(())
    }

    /// So many words in which two ranks' sums differ.
    fn apart(&self, gpus: [u32; 2], count: u64) -> Metric {
        Metric::exact(DIFFERING, &[("type", self.name)], &gpus, count as f64)
    }

    /// Of random values each rank's largest error, or how many did not arrive.
    fn found(&self, payload: Payload, bytes: u64) -> Result<Vec<f64>, Stop> {
        match sums(self.operation) {
            true => self.bench.errors(self.operation, payload, bytes),
            false => self.wrong(payload, bytes),
        }
    }

    /// Elements of each rank that are not what the collective leaves.
    fn wrong(&self, payload: Payload, bytes: u64) -> Result<Vec<f64>, Stop> {
        let wrong = self.bench.wrong(self.operation, payload, bytes, false)?;
        Ok(wrong.into_iter().map(|count| count as f64).collect())
    }
}

fn planted(bench: &Bench, comms: &Communicators<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("planted faults");
    let (element, name) = ELEMENTS[0];
    let bytes = sized(PLANTED_BYTES, bench.ranks());
    let (integers, random) = (Payload::integers(element), Payload::uniform(element));
    for operation in Operation::ALL {
        let one = One { bench, comms, operation, element, name };
        let of = if sums(operation) { &DROPPED_RANDOM } else { &DROPPED_COPY };
        for (control, payload) in [(&DROPPED, integers), (of, random)] {
            bench.fill(payload, bytes)?;
            let dropped = if operation == Operation::SendRecv { bench.ranks() } else { 1 };
            (0..dropped).try_for_each(|rank| bench.drop_rank(rank))?;
            once(bench, comms, operation, element, bytes)?;
            let found = match control.name == DROPPED.name {
                true => one.wrong(payload, bytes)?,
                false => one.found(payload, bytes)?,
            };
            for metric in one.metrics(control.trips, &found) {
                recorder.control(control.name, metric);
            }
        }
    }
    let operation = Operation::AllReduce;
    let one = One { bench, comms, operation, element, name };
    let bytes = one.called(random, PLANTED_BYTES)?;
    bench.flip_output(1, 4321)?;
    let (index, count) = bench.differing(bytes)?[0];
    recorder.control(FLIPPED_OUTPUT.name, one.apart([bench.indices[0], index], count));
    Ok(())
}
