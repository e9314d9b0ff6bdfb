//! The own all-reduce beside NCCL's, samples taken in turn.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::allreduce::{Algorithm, AllReduce, Call};
use kernels::element::Element;
use kernels::graph::{self, Graph};
use kernels::libraries::Library;
use kernels::nccl::{Collective, Communicators, Operation};

use super::bench::{Bench, Payload, microseconds, own_modules, replayed};
use super::nccl::Log;
use super::{DROPPED, OWN_KERNELS};
use crate::lab::{self, Lab};

/// The own all-reduce and NCCL in one run.
pub(super) static CASE: Case = Case {
    id: "collectives::own-vs-nccl",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "All-reduces in fp16 from 512 bytes to 1 GiB, ours and NCCL's, each captured several calls \
                at a time in a graph on each GPU (fifty up to 1 MiB, two of 1 GiB) and launched behind \
                latches that open together, until the last GPU is done. Both are taken in turn, and who \
                goes first changes. The metric is NCCL's time over ours, pair by pair. What our last call \
                left is compared with the sum in the order of the ranks.",
    samples: PAIRS,
    expected_s: 6.0,
    deadline_s: 240.0,
    kernels: OWN_KERNELS,
    integrity: &["wrong_count"],
    controls: &CONTROLS,
    run,
};

static CONTROLS: [Control; 3] = [
    control(
        "eight-for-one",
        "eight of our calls are made for each counted",
        "over_nccl_ratio",
        Expect::Refuted,
    ),
    control(
        "half-more",
        "our call is made three times for two counted",
        "over_nccl_ratio",
        Expect::Refuted,
    ),
    DROPPED,
];

const MOST_BYTES: u64 = 1 << 30;
const ELEMENT: Element = Element::F16;
const PAIRS: usize = 12;
const CONTROL_PAIRS: usize = 7;
/// Sizes with their names, and calls of a graph.
const SIZES: [(u64, &str, u32); 6] = [
    (512, "512", 50),
    (32 << 10, "32768", 50),
    (1 << 20, "1048576", 50),
    (8 << 20, "8388608", 20),
    (128 << 20, "134217728", 6),
    (MOST_BYTES, "1073741824", 2),
];
/// Where faults are planted.
const PLANTED: usize = 4;

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let log = Log::ask(assignment);
    lab::require(Library::Nccl)?;
    let lab = Lab::open(assignment, recorder)?;
    let modules = own_modules(&lab, recorder)?;
    let mut bench = Bench::new(&lab, MOST_BYTES, assignment, recorder)?;
    let own = AllReduce::new(&lab.gpus, &modules)?;
    recorder.progress("init nccl");
    let comms = Communicators::new(&lab.gpus)?;
    let payload = Payload::uniform(ELEMENT);
    for (bytes, name, calls) in SIZES {
        recorder.progress(&format!("{bytes} bytes"));
        bench.fill(payload, bytes)?;
        let pairs =
            in_turn(&mut bench, &own, &comms, bytes, (calls, calls), assignment.samples(PAIRS))?;
        let at = [("bytes", name)];
        recorder.option(&format!("algorithm.{name}"), Algorithm::of(bytes, bench.ranks()).name());
        recorder.metric(pairs.ratio(name, bench.indices));
        recorder.metric(Metric::sampled("own_us", &at, bench.indices, pairs.own_us));
        recorder.metric(Metric::sampled("nccl_us", &at, bench.indices, pairs.nccl_us));
        let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
        for metric in bench.wrong_counts(&at, wrong) {
            recorder.metric(metric);
        }
    }
    controls(&mut bench, &own, &comms, recorder)?;
    comms.check()?;
    log.write_down(recorder);
    drop(comms);
    drop(own);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

fn controls(
    bench: &mut Bench,
    own: &AllReduce,
    comms: &Communicators<'_>,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("controls");
    let (bytes, name, calls) = SIZES[PLANTED];
    for (control, made) in [("eight-for-one", 8 * calls), ("half-more", calls / 2 * 3)] {
        let pairs = in_turn(bench, own, comms, bytes, (calls, made), CONTROL_PAIRS)?;
        recorder.control(control, pairs.ratio(name, bench.indices));
    }
    let payload = Payload::uniform(ELEMENT);
    bench.fill(payload, bytes)?;
    bench.drop_rank(1)?;
    own.prepare(&bench.inputs, &bench.outputs, Call::new(bytes, ELEMENT, own.ranks()))?
        .launch_all(&bench.streams())?;
    bench.synchronize()?;
    let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
    for metric in bench.wrong_counts(&[("bytes", name)], wrong) {
        recorder.control(DROPPED.name, metric);
    }
    Ok(())
}

/// Microseconds of one call, ours and NCCL's, pair by pair.
#[derive(Default)]
struct Pairs {
    own_us: Vec<f64>,
    nccl_us: Vec<f64>,
}

impl Pairs {
    /// NCCL's time over ours.
    fn ratio(&self, bytes: &str, gpus: &[u32]) -> Metric {
        let ratio = |(nccl, own): (&f64, &f64)| (nccl / own * 1e4).round() / 1e4;
        let ratios = self.nccl_us.iter().zip(&self.own_us).map(ratio).collect();
        Metric::sampled("over_nccl_ratio", &[("bytes", bytes)], gpus, ratios)
    }
}

/// Takes samples in turn; `counted` calls count, of which ours makes `made`. The last call is ours.
fn in_turn(
    bench: &mut Bench,
    own: &AllReduce,
    comms: &Communicators<'_>,
    bytes: u64,
    (counted, made): (u32, u32),
    pairs: usize,
) -> Result<Pairs, Stop> {
    let streams = bench.streams();
    let Bench { gpus, inputs, outputs, together, .. } = bench;
    let collective = Collective { operation: Operation::AllReduce, bytes, element: ELEMENT };
    let theirs = comms.prepare(inputs, outputs, collective)?;
    let ours = own.prepare(&*inputs, &*outputs, Call::new(bytes, ELEMENT, own.ranks()))?;
    // Once outside of a capture: NCCL connects its ranks at the first call of a kind.
    theirs.launch(&streams)?;
    ours.launch_all(&streams)?;
    gpus.iter().try_for_each(|gpu| gpu.synchronize())?;
    let lanes: Vec<_> = gpus.iter().zip(streams.iter().copied()).collect();
    let mut theirs: Vec<Graph> =
        graph::capture_each(&lanes, || (0..counted).try_for_each(|_| theirs.launch(&streams)))?;
    let mut ours: Vec<Graph> =
        graph::capture_each(&lanes, || (0..made).try_for_each(|_| ours.launch_all(&streams)))?;
    let mut taken = Pairs::default();
    for pair in 0..pairs {
        // Who goes first changes, and the last is ours.
        let mut sample = |graphs: &mut [Graph]| -> Result<f64, Stop> {
            Ok(microseconds(&replayed(together, 1, graphs)?, counted)[0])
        };
        let first_own = (pairs - pair).is_multiple_of(2);
        let own_first = if first_own { Some(sample(&mut ours)?) } else { None };
        taken.nccl_us.push(sample(&mut theirs)?);
        taken.own_us.push(match own_first {
            Some(us) => us,
            None => sample(&mut ours)?,
        });
    }
    Ok(taken)
}
