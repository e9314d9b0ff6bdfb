//! Every ordered pair alone: copy engines and multiprocessors, writing and reading, and both ways at
//! once by either.

use std::collections::BTreeMap;

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::statistics;
use kernels::links::{CopyFault, Route};
use kernels::together;

use super::FLIPPED_BIT;
use super::bench::{
    Bench, By, CONTROL_SAMPLES, COPY_BYTES, Job, LAUNCHES, PIECED_BYTES, PIECES, SAMPLES, TWICE,
    Way,
};
use crate::lab::{Lab, gbps};

/// Copies by the copy engines.
pub(super) static ENGINES: Case = Case {
    id: "p2p::copies",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Copies 512 MiB between every ordered pair of GPUs by a copy engine, first the source's \
                (it writes over the link), then the destination's (it reads); then both ways at once \
                from a common start, counted together until the later one is done. Four copies a \
                sample, behind a latch. The payload is generated for the run and compared word by word \
                on the far side.",
    samples: SAMPLES,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count"],
    controls: &ENGINE_CONTROLS,
    run: |assignment, recorder| run(By::Engine, assignment, recorder),
};

const BOTH_TWICE: Control =
    control("both-ways-3-percent-twice", super::TWICE, "both_ways_gbps", Expect::Regressed);
const IN_TURN: Control = control(
    "one-way-after-the-other",
    "the copy back begins when the copy there is done",
    "both_ways_ratio",
    Expect::Refuted,
);

static ENGINE_CONTROLS: [Control; 8] = [
    control("write-3-percent-twice", super::TWICE, "write_gbps", Expect::Regressed),
    control("read-3-percent-twice", super::TWICE, "read_gbps", Expect::Regressed),
    BOTH_TWICE,
    control("write-in-pieces", super::PIECES, "write_gbps", Expect::Refuted),
    control("read-in-pieces", super::PIECES, "read_gbps", Expect::Refuted),
    control("both-ways-in-pieces", super::PIECES, "both_ways_gbps", Expect::Refuted),
    IN_TURN,
    FLIPPED_BIT,
];

/// Copies by kernels.
pub(super) static KERNELS: Case = Case {
    id: "p2p::kernels",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Copies 512 MiB between every ordered pair of GPUs by a kernel of 16-byte accesses with \
                eight loads in flight a thread: on the source's GPU, which writes over the link, then on \
                the destination's, which reads; then both ways at once from a common start, each GPU's \
                kernel writing to the other, counted together until the later one is done. Four copies a \
                sample, behind a latch. The payload is generated for the run and compared word by word on \
                the far side.",
    samples: SAMPLES,
    expected_s: 4.5,
    deadline_s: 240.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count"],
    controls: &KERNEL_CONTROLS,
    run: |assignment, recorder| run(By::Kernel, assignment, recorder),
};

const TWO_BLOCKS: &str = "two blocks do all the work, on two multiprocessors";
const BOTH_TWO_BLOCKS: &str = "on either GPU two blocks do all the work, on two multiprocessors";

static KERNEL_CONTROLS: [Control; 8] = [
    control("write-3-percent-twice", super::TWICE, "write_gbps", Expect::Regressed),
    control("read-3-percent-twice", super::TWICE, "read_gbps", Expect::Regressed),
    control("write-by-two-blocks", TWO_BLOCKS, "write_gbps", Expect::Refuted),
    control("read-by-two-blocks", TWO_BLOCKS, "read_gbps", Expect::Refuted),
    BOTH_TWICE,
    control("both-ways-by-two-blocks", BOTH_TWO_BLOCKS, "both_ways_gbps", Expect::Refuted),
    IN_TURN,
    FLIPPED_BIT,
];

/// Two blocks take long: their control copies less.
const TWO_BLOCKS_BYTES: u64 = 64 << 20;

fn run(by: By, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let mut bench = Bench::new(&lab, assignment, recorder)?;
    let samples = assignment.samples(SAMPLES) as u32;
    for site in 0..bench.sites.len() {
        bench.sites[site].fill(bench.seed_of(site))?;
    }
    let mut alone = BTreeMap::new();
    for (from, to) in bench.pairs() {
        for way in Way::BOTH {
            let gpus = on(&bench, from, to);
            recorder.progress(&format!("{} gpu{} to gpu{}", way.name(), gpus[0], gpus[1]));
            bench.sites[to].poison()?;
            let rates = bench.rates(healthy(from, to, way, by), samples)?;
            let wrong = bench.sites[to].wrong(COPY_BYTES, bench.seed_of(from))?;
            if way == Way::Write {
                alone.insert((from, to), statistics::median(&rates).unwrap_or(f64::NAN));
            }
            recorder.metric(Metric::sampled(way.metric(), &[("by", by.name())], &gpus, rates));
            let at = [("by", by.name()), ("way", way.name())];
            recorder.metric(Metric::exact("wrong_count", &at, &gpus, wrong as f64));
        }
    }
    both_ways(&mut bench, by, &alone, samples, recorder)?;
    controls(&mut bench, by, &alone, recorder)?;
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// The GPUs of a pair, by their indices on the node.
fn on(bench: &Bench, from: usize, to: usize) -> [u32; 2] {
    [bench.sites[from].index, bench.sites[to].index]
}

fn healthy(from: usize, to: usize, way: Way, by: By) -> Job {
    let fault = CopyFault::default();
    Job { from, to, way, by, bytes: COPY_BYTES, launches: LAUNCHES, blocks: None, fault }
}

/// Rates alone, by pair.
type Alone = BTreeMap<(usize, usize), f64>;

/// How both ways are copied.
#[derive(Clone, Copy)]
struct Both {
    by: By,
    bytes: u64,
    launches: u32,
    blocks: Option<u32>,
    fault: CopyFault,
    /// The copy back begins when the copy there is done: the GPU that has written reads.
    in_turn: bool,
}

impl Both {
    fn healthy(by: By) -> Both {
        let fault = CopyFault::default();
        Both { by, bytes: COPY_BYTES, launches: LAUNCHES, blocks: None, fault, in_turn: false }
    }
}

/// Each pair of GPUs once, both ways at once.
fn both_ways(
    bench: &mut Bench,
    by: By,
    alone: &Alone,
    samples: u32,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let pairs = bench.pairs().into_iter().filter(|(a, b)| a < b);
    for (a, b) in pairs.collect::<Vec<_>>() {
        let gpus = on(bench, a, b);
        recorder.progress(&format!("both ways gpu{} and gpu{}", gpus[0], gpus[1]));
        bench.sites[a].poison()?;
        bench.sites[b].poison()?;
        let rates = together(bench, a, b, Both::healthy(by), samples)?;
        let wrong = bench.sites[b].wrong(COPY_BYTES, bench.seed_of(a))?
            + bench.sites[a].wrong(COPY_BYTES, bench.seed_of(b))?;
        recorder.metric(ratio(alone, by, &gpus, (a, b), &rates));
        let at = [("by", by.name())];
        recorder.metric(Metric::sampled("both_ways_gbps", &at, &gpus, rates));
        let at = [("by", by.name()), ("way", "both")];
        recorder.metric(Metric::exact("wrong_count", &at, &gpus, wrong as f64));
    }
    Ok(())
}

/// Both ways together over one way alone.
fn ratio(alone: &Alone, by: By, gpus: &[u32], pair: (usize, usize), rates: &[f64]) -> Metric {
    let one = alone.get(&pair).copied().unwrap_or(f64::NAN);
    let ratios = rates.iter().map(|rate| (rate / one * 1e4).round() / 1e4).collect();
    Metric::sampled("both_ways_ratio", &[("by", by.name())], gpus, ratios)
}

/// GB/s of both ways together, until the later one is done.
fn together(
    bench: &mut Bench,
    a: usize,
    b: usize,
    both: Both,
    samples: u32,
) -> Result<Vec<f64>, Stop> {
    let Bench { sites, together, .. } = bench;
    let there = Route::new(sites[a].source(), sites[b].target(), 0, both.bytes)?;
    let back = Route::new(sites[b].source(), sites[a].target(), 0, both.bytes)?;
    let lanes = if both.in_turn { vec![a] } else { vec![a, b] };
    // A kernel is of the GPU on whose stream it runs.
    let mover = |site: usize| both.by.mover(&sites[site].links, both.blocks);
    let (moves_there, moves_back) = (mover(lanes[0]), mover(lanes[lanes.len() - 1]));
    let rows = together.measure(&lanes, 1, samples, |streams| {
        for _ in 0..both.launches {
            there.enqueue(streams[0], moves_there, both.fault)?;
            back.enqueue(streams[streams.len() - 1], moves_back, both.fault)?;
        }
        Ok(())
    })?;
    let bytes = 2 * both.bytes * u64::from(both.launches);
    Ok(gbps(bytes, &together::longest(&rows)))
}

/// The faults, planted between each GPU and its neighbour.
fn controls(bench: &mut Bench, by: By, alone: &Alone, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("controls");
    let count = bench.sites.len();
    for from in 0..count {
        let to = (from + 1) % count;
        let gpus = on(bench, from, to);
        for way in Way::BOTH {
            let job = Job { fault: TWICE, ..healthy(from, to, way, by) };
            let rates = bench.rates(job, CONTROL_SAMPLES)?;
            let metric = |rates| Metric::sampled(way.metric(), &[("by", by.name())], &gpus, rates);
            recorder.control(&format!("{}-3-percent-twice", way.name()), metric(rates));
            let (job, name) = match by {
                By::Engine => (
                    Job {
                        bytes: PIECED_BYTES,
                        launches: 1,
                        fault: PIECES,
                        ..healthy(from, to, way, by)
                    },
                    "in-pieces",
                ),
                By::Kernel => (
                    Job {
                        bytes: TWO_BLOCKS_BYTES,
                        launches: 1,
                        blocks: Some(2),
                        ..healthy(from, to, way, by)
                    },
                    "by-two-blocks",
                ),
            };
            let rates = bench.rates(job, CONTROL_SAMPLES)?;
            recorder.control(&format!("{}-{name}", way.name()), metric(rates));
        }
    }
    both_ways_controls(bench, by, alone, recorder)?;
    let (from, to) = (0, 1);
    bench.rates(healthy(from, to, Way::Write, by), 1)?;
    let site = &bench.sites[to];
    site.patterns.flip(site.gpu.stream(), &site.target, 9_876_543, 1 << 5)?;
    let wrong = site.wrong(COPY_BYTES, bench.seed_of(from))?;
    let at = [("by", by.name()), ("way", Way::Write.name())];
    let gpus = on(bench, from, to);
    recorder.control(FLIPPED_BIT.name, Metric::exact("wrong_count", &at, &gpus, wrong as f64));
    Ok(())
}

fn both_ways_controls(
    bench: &mut Bench,
    by: By,
    alone: &Alone,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let (a, b) = (0, 1);
    let gpus = on(bench, a, b);
    let at = [("by", by.name())];
    let healthy = Both::healthy(by);
    let gross = match by {
        By::Engine => (
            "both-ways-in-pieces",
            Both { bytes: PIECED_BYTES / 2, launches: 1, fault: PIECES, ..healthy },
        ),
        By::Kernel => (
            "both-ways-by-two-blocks",
            Both { bytes: TWO_BLOCKS_BYTES, launches: 1, blocks: Some(2), ..healthy },
        ),
    };
    for (name, both) in [(BOTH_TWICE.name, Both { fault: TWICE, ..healthy }), gross] {
        let rates = together(bench, a, b, both, CONTROL_SAMPLES)?;
        recorder.control(name, Metric::sampled("both_ways_gbps", &at, &gpus, rates));
    }
    let in_turn = Both { in_turn: true, ..healthy };
    let rates = together(bench, a, b, in_turn, CONTROL_SAMPLES)?;
    recorder.control(IN_TURN.name, ratio(alone, by, &gpus, (a, b), &rates));
    Ok(())
}
