//! Latency of small remote loads, and of small copies.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics;
use kernels::links::{ChaseFault, CopyFault, Mover, Ring, Route};
use kernels::timing::Plan;

use super::bench::{Bench, CONTROL_SAMPLES};
use super::singles::{self, COPY_AT, SMALL_BYTES};
use crate::lab::Lab;

/// A chase over another GPU's memory, a chain of small copies, and small copies one by one.
pub(super) static CASE: Case = Case {
    id: "p2p::latency",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "One thread of each GPU follows a ring of 8192 cache lines in the memory of each other GPU: \
                4096 dependent loads a walk, each timed by the multiprocessor's clock, whose rate is \
                taken from the walk's own nanoseconds. The ring is 1 MiB, so that the far L2 cache \
                serves it. A walk's median and 99th percentile are one sample each. The node at its end \
                is compared with the one that the CPU reaches. Small copies of 4 KiB follow each other \
                on one stream, 64 a sample; their time is of one. Then each is timed by itself: of 128 that \
                follow each other behind a latch with an event between each two, the median and the 99th \
                percentile, which is the longest but one, are one sample each. An event's time is good to \
                about half a microsecond, and the event is in the time. What the last copy left is compared \
                word by word on the far side.",
    samples: WALKS,
    expected_s: 5.5,
    deadline_s: 120.0,
    kernels: super::KERNELS,
    integrity: &["wrong_walks_count", "wrong_count"],
    controls: &CONTROLS,
    run,
};

const MORE_HOPS: &str = "each hop is followed by seven more, timed with it and counted as one";

static CONTROLS: [Control; 11] = [
    control("load-3-percent-longer", "each hop waits 3 % longer", "load_p50_us", Expect::Regressed),
    control("load-seven-more-hops", MORE_HOPS, "load_p50_us", Expect::Refuted),
    control("tail-seven-more-hops", MORE_HOPS, "load_p99_us", Expect::Refuted),
    control("copy-every-32nd-twice", "every 32nd copy is done twice", "copy_us", Expect::Regressed),
    control(
        "copy-in-16-pieces",
        "each copy goes in pieces of 256 bytes",
        "copy_us",
        Expect::Refuted,
    ),
    control(
        "flipped-bit",
        "one bit of the first node is flipped, so that the walk leaves its path",
        "wrong_walks_count",
        Expect::Corrupt,
    ),
    singles::P50_NEAR,
    singles::P50_GROSS,
    singles::P99_NEAR,
    singles::P99_GROSS,
    singles::FLIPPED,
];

const NODES: u32 = 8192;
const HOPS: u32 = 4096;
const WALKS: usize = 9;
/// Copies of a sample.
const CHAIN: u32 = 64;
const CHAINS: usize = 9;

/// Medians and tails of walks, in microseconds.
#[derive(Default)]
struct Walks {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    wrong: u64,
    cycles: u32,
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let mut bench = Bench::new(&lab, assignment, recorder)?;
    recorder.option("nodes", NODES);
    recorder.option("hops", HOPS);
    for (reader, owner) in bench.pairs() {
        let gpus = [bench.sites[reader].index, bench.sites[owner].index];
        recorder.progress(&format!("gpu{} over the memory of gpu{}", gpus[0], gpus[1]));
        let walks = walk(&bench, reader, owner, assignment.samples(WALKS), ChaseFault::default())?;
        let cycles = walks.cycles;
        let wrong = Metric::exact("wrong_walks_count", &[], &gpus, walks.wrong as f64);
        recorder.metric(Metric::sampled("load_p50_us", &[], &gpus, walks.p50_us));
        recorder.metric(Metric::sampled("load_p99_us", &[], &gpus, walks.p99_us));
        recorder.metric(wrong);
        copies(&mut bench, reader, owner, assignment.samples(CHAINS), recorder)?;
        if owner == (reader + 1) % bench.sites.len() {
            controls(&mut bench, reader, owner, cycles, recorder)?;
            singles::controls(&mut bench, reader, owner, recorder)?;
        }
    }
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// Small copies of a pair: chains, and one by one.
fn copies(
    bench: &mut Bench,
    from: usize,
    to: usize,
    samples: usize,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let gpus = [bench.sites[from].index, bench.sites[to].index];
    // A ring may have lain there.
    bench.sites[from].fill(bench.seed_of(from))?;
    let us = chain(bench, from, to, samples as u32, Chain::Plain)?;
    recorder.metric(Metric::sampled("copy_us", COPY_AT, &gpus, us));
    bench.sites[to].poison()?;
    let times = singles::times(bench, from, to, samples, singles::PLAIN)?;
    recorder.metric(times.p50(&gpus));
    recorder.metric(times.p99(&gpus));
    let wrong = bench.sites[to].wrong(SMALL_BYTES, bench.seed_of(from))?;
    recorder.metric(Metric::exact("wrong_count", COPY_AT, &gpus, wrong as f64));
    Ok(())
}

fn walk(
    bench: &Bench,
    reader: usize,
    owner: usize,
    count: usize,
    fault: ChaseFault,
) -> Result<Walks, Stop> {
    let (reader, owner) = (&bench.sites[reader], &bench.sites[owner]);
    let seed = bench.seed_of(0);
    let ring = Ring::lay(owner.gpu.stream(), &owner.source, NODES, HOPS, seed)?;
    let last = ring.last(1 + fault.extra_hops);
    let stream = reader.gpu.stream();
    // The first walk fills the far cache and the tables of addresses.
    reader.links.walk(stream, &ring, fault)?;
    let mut walks = Walks::default();
    let mut cycles = Vec::new();
    for _ in 0..count {
        let walk = reader.links.walk(stream, &ring, fault)?;
        walks.p50_us.push(thousandth(walk.microseconds(0.5)));
        walks.p99_us.push(thousandth(walk.microseconds(0.99)));
        walks.wrong += u64::from(walk.last != last);
        cycles.push(f64::from(walk.median_cycles()));
    }
    walks.cycles = statistics::median(&cycles).unwrap_or(0.0) as u32;
    Ok(walks)
}

fn thousandth(us: f64) -> f64 {
    (us * 1e3).round() / 1e3
}

/// How the small copies of a chain are done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chain {
    Plain,
    Every32ndTwice,
    InPieces,
}

/// Microseconds of one small copy, which the reader writes into the owner's memory.
fn chain(
    bench: &mut Bench,
    reader: usize,
    owner: usize,
    samples: u32,
    how: Chain,
) -> Result<Vec<f64>, Stop> {
    let Bench { sites, timers, .. } = bench;
    let route = Route::new(sites[reader].source(), sites[owner].target(), 0, SMALL_BYTES)?;
    let pieces = (how == Chain::InPieces).then_some(256);
    let fault = CopyFault { piece_bytes: pieces, repeat_ppm: 0 };
    // Sixteen pieces a copy: fewer copies, so that all fit behind the latch.
    let launches = if how == Chain::InPieces { CHAIN / 4 } else { CHAIN };
    let plan =
        Plan { warmup: 2, samples, fewest_samples: samples, launches, budget: None, rest: 0 };
    let mut copies = 0;
    let ms = timers[reader].measure(plan, None, |stream| {
        copies += 1;
        if how == Chain::Every32ndTwice && copies % 32 == 0 {
            route.enqueue(stream, Mover::Engine, fault)?;
        }
        route.enqueue(stream, Mover::Engine, fault)
    })?;
    Ok(ms.iter().map(|ms| thousandth(ms * 1e3)).collect())
}

fn controls(
    bench: &mut Bench,
    reader: usize,
    owner: usize,
    cycles: u32,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let gpus = [bench.sites[reader].index, bench.sites[owner].index];
    let count = CONTROL_SAMPLES as usize;
    let longer = ChaseFault { spin_cycles: (cycles * 3).div_ceil(100), extra_hops: 0 };
    let walks = walk(bench, reader, owner, count, longer)?;
    let metric = |name: &str, us| Metric::sampled(name, &[], &gpus, us);
    recorder.control("load-3-percent-longer", metric("load_p50_us", walks.p50_us));
    let more = ChaseFault { extra_hops: 7, spin_cycles: 0 };
    let walks = walk(bench, reader, owner, count, more)?;
    recorder.control("load-seven-more-hops", metric("load_p50_us", walks.p50_us));
    recorder.control("tail-seven-more-hops", metric("load_p99_us", walks.p99_us));
    for (name, how) in
        [("copy-every-32nd-twice", Chain::Every32ndTwice), ("copy-in-16-pieces", Chain::InPieces)]
    {
        let us = chain(bench, reader, owner, CONTROL_SAMPLES, how)?;
        recorder.control(name, Metric::sampled("copy_us", COPY_AT, &gpus, us));
    }
    let wrong = flipped(bench, reader, owner)?;
    recorder.control("flipped-bit", Metric::exact("wrong_walks_count", &[], &gpus, wrong as f64));
    Ok(())
}

/// Walks that ended elsewhere once one bit of the first node is another.
fn flipped(bench: &Bench, reader: usize, owner: usize) -> Result<u64, Stop> {
    let (reader, owner) = (&bench.sites[reader], &bench.sites[owner]);
    let ring = Ring::lay(owner.gpu.stream(), &owner.source, NODES, HOPS, bench.seed_of(0))?;
    owner.patterns.flip(owner.gpu.stream(), &owner.source, 0, 1)?;
    owner.gpu.synchronize()?;
    let walk = reader.links.walk(reader.gpu.stream(), &ring, ChaseFault::default())?;
    Ok(u64::from(walk.last != ring.last(1)))
}
