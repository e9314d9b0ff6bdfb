//! PyTorch's all-reduces on the same GPUs, samples taken in turn with ours: symmetric memory, one-shot and
//! two-shot without multicast, and NCCL, whichever is fastest at the size.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::allreduce::{AllReduce, Call};
use kernels::element::Element;
use kernels::graph;
use kernels::nccl::Operation;

use super::bench::{Bench, Payload, microseconds, own_modules, replayed};
use super::{DROPPED, OWN_KERNELS};
use crate::lab::Lab;
use crate::rivals::{self, Torch};

/// The own all-reduce and PyTorch's best in one run.
pub(super) static CASE: Case = Case {
    id: "collectives::own-vs-pytorch",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "PyTorch runs beside this process, one process for each GPU, with its all-reduces captured in \
                CUDA graphs: over symmetric memory one-shot and two-shot, and NCCL's; the fastest of a first \
                turn counts. Ours is captured too, and both measure in turn: a turn is the median of 5 \
                launches, of the slowest rank. The metric is PyTorch's time over ours, pair by pair. What \
                our last call left is compared with the sum in the order of the ranks.",
    samples: PAIRS,
    expected_s: 20.0,
    deadline_s: 400.0,
    kernels: OWN_KERNELS,
    integrity: &["wrong_count"],
    controls: &CONTROLS,
    run,
};

static CONTROLS: [Control; 2] = [
    control(
        "eight-for-one",
        "eight of our calls are made for each counted",
        "over_pytorch_ratio",
        Expect::Refuted,
    ),
    DROPPED,
];

/// Sizes with their names, and calls of a graph.
const SIZES: [(u64, &str, u32); 4] = [
    (512, "512", 50),
    (32 << 10, "32768", 50),
    (1 << 20, "1048576", 50),
    (128 << 20, "134217728", 5),
];
const MOST_BYTES: u64 = 128 << 20;
const ELEMENT: Element = Element::Bf16;
const PAIRS: usize = 12;
const CONTROL_PAIRS: usize = 7;
const TURN: u32 = 5;

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let mut torch = Torch::of_script("torch_collectives.py", assignment, recorder)?;
    let lab = Lab::open(assignment, recorder)?;
    let modules = own_modules(&lab, recorder)?;
    let mut bench = Bench::new(&lab, MOST_BYTES, assignment, recorder)?;
    let own = AllReduce::new(&lab.gpus, &modules)?;
    let payload = Payload::uniform(ELEMENT);
    for (at, (bytes, name, calls)) in SIZES.into_iter().enumerate() {
        recorder.progress(&format!("{bytes} bytes"));
        let best = prepare(&mut torch, bytes, calls)?;
        recorder.option(&format!("rival.{name}"), best);
        bench.fill(payload, bytes)?;
        let turns = assignment.samples(PAIRS);
        let pairs = in_turn(&mut torch, &mut bench, &own, (bytes, calls, calls), turns)?;
        let place = [("bytes", name)];
        recorder.metric(pairs.ratio(name, bench.indices));
        recorder.metric(Metric::sampled("own_us", &place, bench.indices, pairs.own_us));
        recorder.metric(Metric::sampled("rival_us", &place, bench.indices, pairs.rival_us));
        let wrong = |bench: &Bench| -> Result<Vec<Metric>, Stop> {
            let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
            Ok(bench.wrong_counts(&place, wrong))
        };
        wrong(&bench)?.into_iter().for_each(|metric| recorder.metric(metric));
        if at == 0 {
            let made = (bytes, calls, 8 * calls);
            let pairs = in_turn(&mut torch, &mut bench, &own, made, CONTROL_PAIRS)?;
            recorder.control("eight-for-one", pairs.ratio(name, bench.indices));
            bench.drop_rank(1)?;
            own.prepare(&bench.inputs, &bench.outputs, Call::new(bytes, ELEMENT, own.ranks()))?
                .launch_all(&bench.streams())?;
            bench.synchronize()?;
            wrong(&bench)?.into_iter().for_each(|metric| recorder.control(DROPPED.name, metric));
        }
    }
    drop(own);
    drop(bench);
    drop(torch);
    lab.close(recorder);
    Ok(())
}

/// The name of PyTorch's fastest at a size.
fn prepare(torch: &mut Torch, bytes: u64, calls: u32) -> Result<String, Stop> {
    let command = format!("prepare {bytes} {calls}");
    let answer = torch.ask(&command)?;
    match answer.strip_prefix("ready ") {
        Some(name) => Ok(name.to_owned()),
        None => Err(Stop::NotRun(format!("PyTorch, {command}: {answer}"))),
    }
}

/// Microseconds of one call, ours and theirs, pair by pair.
#[derive(Default)]
struct Pairs {
    own_us: Vec<f64>,
    rival_us: Vec<f64>,
}

impl Pairs {
    /// Their time over ours.
    fn ratio(&self, bytes: &str, gpus: &[u32]) -> Metric {
        let ratio = |(rival, own): (&f64, &f64)| (rival / own * 1e4).round() / 1e4;
        let ratios = self.rival_us.iter().zip(&self.own_us).map(ratio).collect();
        Metric::sampled("over_pytorch_ratio", &[("bytes", bytes)], gpus, ratios)
    }
}

/// Takes turns; of ours `made` calls are made for `counted`.
fn in_turn(
    torch: &mut Torch,
    bench: &mut Bench,
    own: &AllReduce,
    (bytes, counted, made): (u64, u32, u32),
    pairs: usize,
) -> Result<Pairs, Stop> {
    let streams = bench.streams();
    let Bench { gpus, inputs, outputs, together, .. } = bench;
    let prepared = own.prepare(&*inputs, &*outputs, Call::new(bytes, ELEMENT, own.ranks()))?;
    let lanes: Vec<_> = gpus.iter().zip(streams.iter().copied()).collect();
    let mut graphs =
        graph::capture_each(&lanes, || (0..made).try_for_each(|_| prepared.launch_all(&streams)))?;
    let mut taken = Pairs::default();
    for pair in 0..pairs {
        let mut theirs = || -> Result<f64, Stop> {
            Ok((torch.number(&format!("sample {TURN}"))? * 1e3).round() / 1e3)
        };
        let mut ours = || -> Result<f64, Stop> {
            rivals::middle(&microseconds(&replayed(together, TURN, &mut graphs)?, counted))
        };
        // Who goes first changes.
        let (rival, own) = if pair % 2 == 0 {
            let rival = theirs()?;
            (rival, ours()?)
        } else {
            let own = ours()?;
            (theirs()?, own)
        };
        taken.rival_us.push(rival);
        taken.own_us.push(own);
    }
    Ok(taken)
}
