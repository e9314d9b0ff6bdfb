//! What NCCL's collectives reach, by size: algorithm and bus bandwidth, and the time of small calls in a
//! graph.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics;
use kernels::device::Gpu;
use kernels::element::Element;
use kernels::graph;
use kernels::libraries::Library;
use kernels::nccl::{self, Collective, Communicators, Operation};

use super::DROPPED;
use super::bench::{Bench, Payload, microseconds, milliseconds, replayed, sized};
use super::nccl::Log;
use crate::lab::{self, Lab};

/// NCCL's rates.
pub(super) static CASE: Case = Case {
    id: "collectives::nccl-rates",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "NCCL's collectives on f32, one process for all GPUs, enqueued as a group behind latches \
                that open together; the time runs until the last GPU is done. Sizes are counted as \
                nccl-tests do, and bus bandwidth is algorithm bandwidth times 2(n-1)/n for an \
                all-reduce, (n-1)/n for a gather, a scatter or an all-to-all, 1 otherwise. Calls of \
                up to 1 MiB are captured twenty at a time in a graph. After the last timed call of each \
                collective every element of every rank is compared.",
    samples: SAMPLES,
    expected_s: 8.0,
    deadline_s: 300.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count"],
    controls: &CONTROLS,
    run,
};

const ONE_PERCENT_TWICE: Control = control(
    "1-percent-twice",
    "1 % of the payload is reduced twice and counted once",
    "busbw_gbps",
    Expect::Regressed,
);
const IN_PIECES: Control = control(
    "in-pieces",
    "the payload is reduced in pieces of 64 KiB, one call each",
    "busbw_gbps",
    Expect::Refuted,
);

static CONTROLS: [Control; 4] = [
    ONE_PERCENT_TWICE,
    IN_PIECES,
    control(
        "gathered-in-pieces",
        "the payload is gathered in pieces of 64 KiB, one call each",
        "over_all_reduce_ratio",
        Expect::Refuted,
    ),
    DROPPED,
];

/// The largest all-reduce, which takes 8 GiB of each GPU.
pub(super) static LARGEST: Case = Case {
    id: "collectives::nccl-4gib",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "NCCL's all-reduce of 4 GiB of f32, timed and compared as the smaller ones.",
    samples: SAMPLES,
    expected_s: 6.0,
    deadline_s: 240.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count"],
    controls: &LARGEST_CONTROLS,
    run: largest,
};

static LARGEST_CONTROLS: [Control; 3] = [ONE_PERCENT_TWICE, IN_PIECES, DROPPED];

const LARGEST_BYTES: u64 = 4 << 30;
const MOST_BYTES: u64 = 1 << 30;
/// Sizes of the all-reduce, and of the other collectives.
const SIZES: [u64; 5] = [16 << 20, 64 << 20, 128 << 20, PLANTED_BYTES, MOST_BYTES];
const OTHER_SIZES: [u64; 2] = [PLANTED_BYTES, MOST_BYTES];
const SMALL: [u64; 5] = [8, 4 << 10, 32 << 10, 256 << 10, 1 << 20];
/// Where faults of the all-reduce are planted.
const PLANTED_BYTES: u64 = 256 << 20;
const PIECE_BYTES: u64 = 64 << 10;
const PIECES: u32 = 128;
const SMALL_CALLS: u32 = 20;
const SAMPLES: usize = 9;
const CONTROL_SAMPLES: u32 = 7;
const ELEMENT: Element = Element::F32;

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let log = Log::ask(assignment);
    lab::require(Library::Nccl)?;
    let lab = Lab::open(assignment, recorder)?;
    let mut bench = Bench::new(&lab, MOST_BYTES, assignment, recorder)?;
    recorder.progress("init nccl");
    let comms = Communicators::new(&lab.gpus)?;
    let samples = assignment.samples(SAMPLES) as u32;
    bench.fill(Payload::integers(ELEMENT), MOST_BYTES)?;
    let mut reduced = f64::NAN;
    for operation in Operation::ALL {
        let all_reduce = operation == Operation::AllReduce;
        let sizes = if all_reduce { &SIZES[..] } else { &OTHER_SIZES[..] };
        for size in sizes {
            let checked = *size == MOST_BYTES;
            let (algorithm, bus) =
                large(&mut bench, &comms, operation, (*size, checked), samples, recorder)?;
            let median = statistics::median(&bus).unwrap_or(f64::NAN);
            if all_reduce && *size == MOST_BYTES {
                reduced = median;
            }
            if matches!(operation, Operation::AllGather | Operation::ReduceScatter)
                && *size == MOST_BYTES
            {
                recorder.metric(over_all_reduce(&bench, operation, &bus, reduced));
            }
            put(&bench, operation, *size, algorithm, bus, recorder);
        }
    }
    for bytes in SMALL {
        recorder.progress(&format!("all-reduce of {bytes} bytes in a graph"));
        let us = small(&mut bench, &comms, bytes, samples)?;
        let bytes = bytes.to_string();
        let at = [("op", Operation::AllReduce.name()), ("bytes", bytes.as_str())];
        recorder.metric(Metric::sampled("graph_call_us", &at, bench.indices, us));
    }
    controls(&mut bench, &comms, reduced, recorder)?;
    comms.check()?;
    log.write_down(recorder);
    drop(comms);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

fn at(operation: Operation, bytes: &str) -> [(&str, &str); 3] {
    [("op", operation.name()), ("bytes", bytes), ("type", "f32")]
}

/// Writes down both bandwidths.
fn put(
    bench: &Bench,
    operation: Operation,
    size: u64,
    algorithm: Vec<f64>,
    bus: Vec<f64>,
    recorder: &mut Recorder,
) {
    let size = size.to_string();
    let at = at(operation, &size);
    recorder.metric(Metric::sampled("algbw_gbps", &at, bench.indices, algorithm));
    recorder.metric(Metric::sampled("busbw_gbps", &at, bench.indices, bus));
}

/// Bus bandwidth over the all-reduce's of the same size.
fn over_all_reduce(bench: &Bench, operation: Operation, bus: &[f64], reduced: f64) -> Metric {
    let ratios = bus.iter().map(|bus| (bus / reduced * 1e4).round() / 1e4).collect();
    Metric::sampled("over_all_reduce_ratio", &[("op", operation.name())], bench.indices, ratios)
}

/// Algorithm and bus bandwidths of a size and times, to a thousandth.
fn rates(
    operation: Operation,
    ranks: usize,
    bytes: u64,
    milliseconds: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let thousandth = |gbps: f64| (gbps * 1e3).round() / 1e3;
    let each = |ms: &f64| {
        let (algorithm, bus) = nccl::bandwidths(operation, ranks, bytes, *ms);
        (thousandth(algorithm), thousandth(bus))
    };
    milliseconds.iter().map(each).unzip()
}

/// Both bandwidths of a large size, and if wanted the check of its last result.
fn large(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    operation: Operation,
    (size, checked): (u64, bool),
    samples: u32,
    recorder: &mut Recorder,
) -> Result<(Vec<f64>, Vec<f64>), Stop> {
    recorder.progress(&format!("{} of {} MiB", operation.name(), size >> 20));
    let bytes = sized(size, bench.ranks());
    let payload = Payload::integers(ELEMENT);
    if checked {
        bench.fill(payload, bytes)?;
    }
    // Few calls of what takes long: a sample is some milliseconds.
    let calls = ((512 << 20) / size).clamp(1, 8) as u32;
    let ms = timed(bench, comms, operation, bytes, calls, samples)?;
    if checked {
        let name = size.to_string();
        let wrong = bench.wrong(operation, payload, bytes, false)?;
        for metric in bench.wrong_counts(&at(operation, &name), wrong) {
            recorder.metric(metric);
        }
    }
    Ok(rates(operation, bench.ranks(), bytes, &ms))
}

/// Milliseconds of one call out of several.
fn timed(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    operation: Operation,
    bytes: u64,
    calls: u32,
    samples: u32,
) -> Result<Vec<f64>, Stop> {
    let Bench { inputs, outputs, together, .. } = bench;
    let collective = Collective { operation, bytes, element: ELEMENT };
    let prepared = comms.prepare(inputs, outputs, collective)?;
    let ms = milliseconds(together, comms.ranks(), samples, |streams| {
        (0..calls).try_for_each(|_| prepared.launch(streams))
    })?;
    Ok(ms.iter().map(|ms| ms / f64::from(calls)).collect())
}

/// Microseconds of one small all-reduce out of a graph's.
fn small(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    bytes: u64,
    samples: u32,
) -> Result<Vec<f64>, Stop> {
    let streams = bench.streams();
    let Bench { gpus, inputs, outputs, together, .. } = bench;
    let collective = Collective { operation: Operation::AllReduce, bytes, element: ELEMENT };
    let prepared = comms.prepare(inputs, outputs, collective)?;
    // Once outside of a capture: a first call of its kind connects the ranks.
    prepared.launch(&streams)?;
    gpus.iter().try_for_each(Gpu::synchronize)?;
    let lanes: Vec<_> = gpus.iter().zip(streams.iter().copied()).collect();
    let mut graphs = graph::capture_each(&lanes, || {
        (0..SMALL_CALLS).try_for_each(|_| prepared.launch(&streams))
    })?;
    let ms = replayed(together, samples, &mut graphs)?;
    Ok(microseconds(&ms, SMALL_CALLS))
}

/// Writes down what a collective of this size reaches; nothing is compared.
pub(super) fn swept(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    (operation, size): (Operation, u64),
    samples: u32,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let (algorithm, bus) = large(bench, comms, operation, (size, false), samples, recorder)?;
    put(bench, operation, size, algorithm, bus, recorder);
    Ok(())
}

fn controls(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    reduced: f64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    all_reduce_controls(bench, comms, PLANTED_BYTES, recorder)?;
    let (gather, piece) = (Operation::AllGather, sized(PIECE_BYTES, bench.ranks()));
    let ms = timed(bench, comms, gather, piece, PIECES, CONTROL_SAMPLES)?;
    let (_, bus) = rates(gather, bench.ranks(), piece, &ms);
    recorder.control("gathered-in-pieces", over_all_reduce(bench, gather, &bus, reduced));
    Ok(())
}

/// The faults of an all-reduce, as if of this size.
fn all_reduce_controls(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    size: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("controls");
    let (operation, ranks) = (Operation::AllReduce, bench.ranks());
    let bytes = sized(size, ranks);
    let name = size.to_string();
    let all = bench.indices;
    let metric = |bus| Metric::sampled("busbw_gbps", &at(operation, &name), all, bus);
    let ms = timed_twice(bench, comms, bytes, sized(bytes / 100, ranks))?;
    let (_, bus) = rates(operation, ranks, bytes, &ms);
    recorder.control(ONE_PERCENT_TWICE.name, metric(bus));
    let piece = sized(PIECE_BYTES, ranks);
    // As many calls as fit behind a latch; a call's time is that of its piece.
    let ms = timed(bench, comms, operation, piece, PIECES, CONTROL_SAMPLES)?;
    let (_, bus) = rates(operation, ranks, piece, &ms);
    recorder.control(IN_PIECES.name, metric(bus));
    let payload = Payload::integers(ELEMENT);
    bench.fill(payload, bytes)?;
    bench.drop_rank(1)?;
    timed(bench, comms, operation, bytes, 1, 1)?;
    let wrong = bench.wrong(operation, payload, bytes, false)?;
    for metric in bench.wrong_counts(&at(operation, &name), wrong) {
        recorder.control(DROPPED.name, metric);
    }
    Ok(())
}

fn largest(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let log = Log::ask(assignment);
    lab::require(Library::Nccl)?;
    let lab = Lab::open(assignment, recorder)?;
    let mut bench = Bench::new(&lab, LARGEST_BYTES, assignment, recorder)?;
    recorder.progress("init nccl");
    let comms = Communicators::new(&lab.gpus)?;
    let samples = assignment.samples(SAMPLES) as u32;
    let (operation, size) = (Operation::AllReduce, LARGEST_BYTES);
    let (algorithm, bus) = large(&mut bench, &comms, operation, (size, true), samples, recorder)?;
    put(&bench, operation, size, algorithm, bus, recorder);
    all_reduce_controls(&mut bench, &comms, size, recorder)?;
    comms.check()?;
    log.write_down(recorder);
    drop(comms);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// Milliseconds of an all-reduce whose first `again` bytes are reduced a second time.
fn timed_twice(
    bench: &mut Bench,
    comms: &Communicators<'_>,
    bytes: u64,
    again: u64,
) -> Result<Vec<f64>, Stop> {
    let Bench { inputs, outputs, together, .. } = bench;
    let of = |bytes| {
        let operation = Operation::AllReduce;
        comms.prepare(inputs, outputs, Collective { operation, bytes, element: ELEMENT })
    };
    let (whole, again) = (of(bytes)?, of(again)?);
    let ms = milliseconds(together, comms.ranks(), CONTROL_SAMPLES, |streams| {
        (0..2).try_for_each(|_| {
            whole.launch(streams)?;
            again.launch(streams)
        })
    })?;
    Ok(ms.iter().map(|ms| ms / 2.0).collect())
}
