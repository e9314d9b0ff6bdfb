//! The own all-reduce: its bits, its latency, and what it does when a rank comes late.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::allreduce::{Algorithm, AllReduce, Call, ONE_SHOT_MOST};
use kernels::device::{Buffer, CudaStream, Gpu};
use kernels::element::Element;
use kernels::graph;
use kernels::links::{CopyFault, End, Mover, Route};
use kernels::nccl::Operation;
use kernels::together;

use super::bench::{Bench, ELEMENTS, Payload, microseconds, own_modules, replayed};
use super::{DROPPED, FLIPPED_OUTPUT, OWN_KERNELS};
use crate::lab::Lab;

/// The own all-reduce by itself.
pub(super) static CASE: Case = Case {
    id: "collectives::own-all-reduce",
    revision: 3,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Random values in fp16, bf16 and f32 from 16 bytes to 32 MiB go through the one-shot, the \
                two-shot and the pushed kernel, into other buffers and in place, and other values in turn \
                through six launches of a graph in which seven calls of all three with different grids follow each \
                other, each before poisoned outputs, which are copied away behind it; every element of \
                every rank is compared with the sum in the order of the ranks, made again from the generator, \
                and every rank's words with rank 0's through peer memory. One rank is held for a \
                millisecond, and the others must wait for it. Latencies are of 64 calls in a graph on \
                each GPU behind latches that open together, until the last GPU is done; what the last \
                replay left is compared too.",
    samples: LATE_SAMPLES,
    expected_s: 4.0,
    deadline_s: 180.0,
    kernels: OWN_KERNELS,
    integrity: &["wrong_count"],
    controls: &CONTROLS,
    run,
};

static CONTROLS: [Control; 8] = [
    DROPPED,
    FLIPPED_OUTPUT,
    control(
        "turned-rank",
        "one rank begins its sums with its own values, so that it adds in another order; of two ranks, \
         whose order cannot matter, one bit of one result is flipped",
        "differing_count",
        Expect::Refuted,
    ),
    control(
        "other-order",
        "one rank begins its sums with its own values, by each kernel in turn; of two ranks, whose order cannot \
         matter, one bit of its result is flipped",
        "wrong_count",
        Expect::Corrupt,
    ),
    control("every-32nd-twice", "every 32nd call is made twice", "call_us", Expect::Regressed),
    control(
        "sixteen-for-one",
        "sixteen calls are made for each counted",
        "call_us",
        Expect::Refuted,
    ),
    control("nobody-is-late", "no rank is held", "waited_us", Expect::Refuted),
    control(
        "late-without-values",
        "the rank that comes late brings zeros",
        "late_wrong_count",
        Expect::Refuted,
    ),
];

const MOST_BYTES: u64 = 32 << 20;
/// Calls whose results are compared: bytes, blocks and threads. A vector more than a power of two leaves a ragged
/// slice; two blocks take many steps, of which the last ones are ragged.
const EXACT: [(Algorithm, u64, Option<u32>, Option<u32>); 13] = [
    (Algorithm::OneShot, 16, None, None),
    (Algorithm::OneShot, (32 << 10) + 16, None, None),
    (Algorithm::OneShot, ONE_SHOT_MOST, None, None),
    (Algorithm::TwoShot, 16, None, None),
    (Algorithm::TwoShot, ONE_SHOT_MOST, None, None),
    (Algorithm::TwoShot, FEW_BYTES, Some(2), None),
    (Algorithm::TwoShot, MOST_BYTES, None, None),
    (Algorithm::Pushed, 16, None, None),
    (Algorithm::Pushed, ONE_SHOT_MOST, None, None),
    (Algorithm::Pushed, (256 << 10) + 48, Some(2), Some(32)),
    (Algorithm::Pushed, FEW_BYTES, None, None),
    (Algorithm::Pushed, FEW_BYTES, Some(2), None),
    (Algorithm::Pushed, MOST_BYTES, None, None),
];
const FEW_BYTES: u64 = (1 << 20) + 48;
pub(super) const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::OneShot, Algorithm::TwoShot, Algorithm::Pushed];
/// Sizes of which the latency is taken, with their names.
const TIMED: [(u64, &str); 4] =
    [(512, "512"), (32 << 10, "32768"), (256 << 10, "262144"), (1 << 20, "1048576")];
const CALLS: u32 = 64;
/// Times that a graph of all algorithms is launched.
const REPLAYS: u32 = 6;
const SAMPLES: usize = 15;
const CONTROL_SAMPLES: u32 = 9;
const HELD_NS: u64 = 1_000_000;
const LATE_BYTES: u64 = 64 << 10;
const LATE_SAMPLES: usize = 7;

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let modules = own_modules(&lab, recorder)?;
    let mut bench = Bench::new(&lab, MOST_BYTES, assignment, recorder)?;
    let own = AllReduce::new(&lab.gpus, &modules)?;
    exact(&bench, &own, recorder)?;
    in_turn(&bench, &own, recorder)?;
    same_bits(&bench, &own, recorder)?;
    late(&mut bench, &own, assignment, recorder)?;
    for (bytes, name) in TIMED {
        recorder.progress(&format!("latency of {bytes} bytes"));
        let call = Call::new(bytes, Element::F16, own.ranks());
        recorder.option(&format!("algorithm.{name}"), call.algorithm.name());
        bench.fill(Payload::uniform(call.element), bytes)?;
        let us = timed(&mut bench, &own, call, assignment.samples(SAMPLES) as u32, Calls::Once)?;
        recorder.metric(Metric::sampled("call_us", &[("bytes", name)], bench.indices, us));
        let wrong =
            bench.wrong(Operation::AllReduce, Payload::uniform(call.element), bytes, false)?;
        for metric in bench.wrong_counts(&[("bytes", name), ("how", "graph")], wrong) {
            recorder.metric(metric);
        }
    }
    let (bytes, name) = TIMED[0];
    let call = Call::new(bytes, Element::F16, own.ranks());
    for (control, calls) in
        [("every-32nd-twice", Calls::Every32ndTwice), ("sixteen-for-one", Calls::Sixteen)]
    {
        let us = timed(&mut bench, &own, call, CONTROL_SAMPLES, calls)?;
        let metric = Metric::sampled("call_us", &[("bytes", name)], bench.indices, us);
        recorder.control(control, metric);
    }
    drop(own);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// One call on every GPU's own stream, waited for.
pub(super) fn once(bench: &Bench, own: &AllReduce, call: Call, in_place: bool) -> Result<(), Stop> {
    let outputs = if in_place { &bench.inputs } else { &bench.outputs };
    own.prepare(&bench.inputs, outputs, call)?.launch_all(&bench.streams())?;
    bench.synchronize()
}

fn exact(bench: &Bench, own: &AllReduce, recorder: &mut Recorder) -> Result<(), Stop> {
    for (element, name) in ELEMENTS {
        for algorithm in ALGORITHMS {
            recorder.progress(&format!("{} of {name}", algorithm.name()));
            let mut wrong = vec![0; bench.ranks()];
            for (_, bytes, blocks, threads) in EXACT.into_iter().filter(|call| call.0 == algorithm)
            {
                let payload = Payload::uniform(element);
                let call =
                    Call { algorithm, blocks, threads, ..Call::new(bytes, element, own.ranks()) };
                for in_place in [false, true] {
                    bench.fill(payload, bytes)?;
                    once(bench, own, call, in_place)?;
                    let found = bench.wrong(Operation::AllReduce, payload, bytes, in_place)?;
                    wrong.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
                }
            }
            let at = [("how", algorithm.name()), ("type", name)];
            for metric in bench.wrong_counts(&at, wrong) {
                recorder.metric(metric);
            }
        }
    }
    let payload = Payload::uniform(Element::F16);
    let call = Call::new(LATE_BYTES, payload.element, own.ranks());
    bench.fill(payload, LATE_BYTES)?;
    bench.drop_rank(1)?;
    once(bench, own, call, false)?;
    let wrong = bench.wrong(Operation::AllReduce, payload, LATE_BYTES, false)?;
    for metric in bench.wrong_counts(&[], wrong) {
        recorder.control(DROPPED.name, metric);
    }
    other_order(bench, own, recorder)
}

/// Sums that one rank begins with its own values, by each algorithm: who is told what they are sees it on every rank.
fn other_order(bench: &Bench, own: &AllReduce, recorder: &mut Recorder) -> Result<(), Stop> {
    let payload = Payload::uniform(Element::F32);
    let last = bench.ranks() - 1;
    for algorithm in ALGORITHMS {
        let healthy = Call::new(ONE_SHOT_MOST, payload.element, own.ranks());
        let call = Call { algorithm, turned: Some(last), ..healthy };
        bench.fill(payload, call.bytes)?;
        once(bench, own, call, false)?;
        if bench.ranks() == 2 {
            bench.flip_output(last, 1234)?;
        }
        let wrong = bench.wrong(Operation::AllReduce, payload, call.bytes, false)?;
        let most = wrong.into_iter().max().unwrap_or(0);
        let index = [bench.indices[last]];
        let at = [("how", algorithm.name())];
        recorder.control("other-order", Metric::exact("wrong_count", &at, &index, most as f64));
    }
    Ok(())
}

/// Calls of all algorithms with different grids, in one graph that is launched again and again with other values.
/// What each leaves is copied away behind it, and outputs are poisoned before it: a call that ends before its output
/// is whole shows, and so does one that adds what an earlier one left.
fn in_turn(bench: &Bench, own: &AllReduce, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("all algorithms in turn");
    let element = Element::F16;
    let call = |algorithm, bytes, blocks| Call {
        algorithm,
        blocks,
        ..Call::new(bytes, element, own.ranks())
    };
    let calls = [
        call(Algorithm::Pushed, FEW_BYTES, Some(2)),
        call(Algorithm::OneShot, LATE_BYTES, None),
        call(Algorithm::Pushed, MOST_BYTES, None),
        call(Algorithm::TwoShot, FEW_BYTES, Some(3)),
        call(Algorithm::Pushed, FEW_BYTES, Some(2)),
        call(Algorithm::OneShot, ONE_SHOT_MOST, None),
        call(Algorithm::TwoShot, MOST_BYTES, None),
    ];
    let alloc = |call: &Call| bench.gpus.iter().map(|gpu| gpu.alloc(call.bytes)).collect();
    let kept: Vec<Vec<Buffer>> = calls.iter().map(alloc).collect::<Result<_, _>>()?;
    let prepare = |call| own.prepare(&bench.inputs, &bench.outputs, call);
    let prepared: Vec<_> = calls.into_iter().map(prepare).collect::<Result<_, _>>()?;
    let streams = bench.streams();
    let lanes: Vec<_> = bench.gpus.iter().zip(streams.iter().copied()).collect();
    // Routes live as long as the graphs: one that is dropped waits for its GPUs, which a capture forbids.
    let routes = calls.iter().zip(&kept).map(|(call, kept)| away(bench, call.bytes, kept));
    let routes: Vec<_> = routes.collect::<Result<_, _>>()?;
    let mut graphs = graph::capture_each(&lanes, || {
        for (prepared, routes) in prepared.iter().zip(&routes) {
            lanes.iter().zip(&bench.outputs).try_for_each(|((_, on), to)| to.poison(on))?;
            prepared.launch_all(&streams)?;
            for (route, (_, on)) in routes.iter().zip(&lanes) {
                route.enqueue(on, Mover::Engine, CopyFault::default())?;
            }
        }
        Ok(())
    })?;
    let mut wrong = vec![vec![0; bench.ranks()]; ALGORITHMS.len()];
    for replay in 0..REPLAYS {
        let odd = replay % 2 == 1;
        let payload = if odd { Payload::integers(element) } else { Payload::uniform(element) };
        bench.fill(payload, MOST_BYTES)?;
        for (graph, (_, on)) in graphs.iter_mut().zip(&lanes) {
            graph.launch(on)?;
        }
        bench.synchronize()?;
        for (call, kept) in calls.iter().zip(&kept) {
            let found = bench.wrong_in(Operation::AllReduce, payload, call.bytes, kept)?;
            let of = ALGORITHMS.iter().position(|known| *known == call.algorithm).unwrap_or(0);
            wrong[of].iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
        }
    }
    for (algorithm, wrong) in ALGORITHMS.iter().zip(wrong) {
        let at = [("how", algorithm.name()), ("behind", "others")];
        for metric in bench.wrong_counts(&at, wrong) {
            recorder.metric(metric);
        }
    }
    Ok(())
}

/// From each rank's output to a buffer in which it is kept.
fn away<'a>(
    bench: &'a Bench<'_>,
    bytes: u64,
    kept: &'a [Buffer],
) -> Result<Vec<Route<'a>>, kernels::Error> {
    let route = |((gpu, from), to): ((&'a Gpu, &'a Buffer), &'a Buffer)| {
        Route::new(End { gpu, buffer: from }, End { gpu, buffer: to }, 0, bytes)
    };
    bench.gpus.iter().zip(&bench.outputs).zip(kept).map(route).collect()
}

/// Every rank's words beside rank 0's, by every algorithm; and one rank that adds in another order.
fn same_bits(bench: &Bench, own: &AllReduce, recorder: &mut Recorder) -> Result<(), Stop> {
    let bytes = ONE_SHOT_MOST;
    let first = bench.indices[0];
    for algorithm in ALGORITHMS {
        let at = [("how", algorithm.name())];
        let call = Call { algorithm, ..Call::new(bytes, Element::F32, own.ranks()) };
        bench.fill(Payload::uniform(call.element), bytes)?;
        once(bench, own, call, false)?;
        for (index, count) in bench.differing(bytes)? {
            let gpus = [first, index];
            recorder.metric(Metric::exact("differing_count", &at, &gpus, count as f64));
        }
        bench.flip_output(1, 4321)?;
        let (index, count) = bench.differing(bytes)?[0];
        let metric = Metric::exact("differing_count", &at, &[first, index], count as f64);
        recorder.control(FLIPPED_OUTPUT.name, metric);
        if algorithm != Algorithm::OneShot {
            // Each of its sums is made once, and all ranks get it: no order is seen between ranks.
            continue;
        }
        let turned = bench.ranks() - 1;
        once(bench, own, Call { turned: Some(turned), ..call }, false)?;
        if turned == 1 {
            bench.flip_output(turned, 1234)?;
        }
        let (index, count) = bench.differing(bytes)?[turned - 1];
        let metric = Metric::exact("differing_count", &at, &[first, index], count as f64);
        recorder.control("turned-rank", metric);
    }
    Ok(())
}

/// A rank that comes a millisecond late: the others wait, and nothing is wrong.
fn late(
    bench: &mut Bench,
    own: &AllReduce,
    assignment: &Assignment,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("a late rank");
    let payload = Payload::uniform(Element::F16);
    let samples = assignment.samples(LATE_SAMPLES) as u32;
    for algorithm in ALGORITHMS {
        let at = [("how", algorithm.name())];
        let call = Call { algorithm, ..Call::new(LATE_BYTES, payload.element, own.ranks()) };
        let metric = |index: &u32, wrong: u64| {
            Metric::exact("late_wrong_count", &at, &[*index], wrong as f64)
        };
        let all = bench.indices;
        bench.fill(payload, LATE_BYTES)?;
        let waited = wait(bench, own, call, samples, HELD_NS)?;
        recorder.metric(Metric::sampled("waited_us", &at, all, waited));
        let wrong = bench.wrong(Operation::AllReduce, payload, LATE_BYTES, false)?;
        all.iter().zip(wrong).for_each(|(index, wrong)| recorder.metric(metric(index, wrong)));
        let waited = wait(bench, own, call, samples, 0)?;
        recorder.control("nobody-is-late", Metric::sampled("waited_us", &at, all, waited));
        bench.drop_rank(0)?;
        wait(bench, own, call, 1, HELD_NS)?;
        let wrong = bench.wrong(Operation::AllReduce, payload, LATE_BYTES, false)?;
        for (index, wrong) in all.iter().zip(wrong) {
            recorder.control("late-without-values", metric(index, wrong));
        }
    }
    Ok(())
}

/// Microseconds until the soonest of the ranks that are in time is done, while rank 0 is held.
fn wait(
    bench: &mut Bench,
    own: &AllReduce,
    call: Call,
    samples: u32,
    held_ns: u64,
) -> Result<Vec<f64>, Stop> {
    let lanes: Vec<usize> = (0..bench.ranks()).collect();
    let Bench { inputs, outputs, links, together, .. } = bench;
    let prepared = own.prepare(&*inputs, &*outputs, call)?;
    let rows = together.measure(&lanes, 1, samples, |streams: &[&CudaStream]| {
        links[0].hold(streams[0], held_ns)?;
        prepared.launch_all(streams)
    })?;
    let others: Vec<Vec<f64>> =
        lanes[1..].iter().map(|lane| together::column(&rows, *lane)).collect();
    let soonest = |sample: usize| others.iter().map(|lane| lane[sample]).fold(f64::MAX, f64::min);
    let least: Vec<f64> = (0..rows.len()).map(soonest).collect();
    Ok(microseconds(&least, 1))
}

/// How many calls are made for each that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    Once,
    Every32ndTwice,
    Sixteen,
}

/// Microseconds of one call out of a graph's.
fn timed(
    bench: &mut Bench,
    own: &AllReduce,
    call: Call,
    samples: u32,
    calls: Calls,
) -> Result<Vec<f64>, Stop> {
    let made = match calls {
        Calls::Once => CALLS,
        Calls::Every32ndTwice => CALLS + CALLS / 32,
        Calls::Sixteen => CALLS * 16,
    };
    let streams = bench.streams();
    let Bench { gpus, inputs, outputs, together, .. } = bench;
    let prepared = own.prepare(&*inputs, &*outputs, call)?;
    let lanes: Vec<_> = gpus.iter().zip(streams.iter().copied()).collect();
    let mut graphs =
        graph::capture_each(&lanes, || (0..made).try_for_each(|_| prepared.launch_all(&streams)))?;
    let ms = replayed(together, samples, &mut graphs)?;
    Ok(microseconds(&ms, CALLS))
}
