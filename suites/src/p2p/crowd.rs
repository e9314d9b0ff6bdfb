//! All GPUs at once: each writes to another one, and all write to one.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::links::{CopyFault, Route};
use kernels::together;

use super::FLIPPED_BIT;
use super::bench::{
    Bench, By, CONTROL_SAMPLES, COPY_BYTES, LAUNCHES, PIECED_BYTES, PIECES, SAMPLES, TWICE,
};
use crate::lab::{Lab, gbps};

/// Copies that share the switches.
pub(super) static CASE: Case = BY_ENGINES;
const BY_ENGINES: Case = Case {
    id: "p2p::all-at-once",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "From a common start every GPU writes 512 MiB by its copy engine to the GPU that stands k \
                places further on, for each k; every ordered pair is used once, all pairs of one k at \
                once, and each has its own rate. Then all other GPUs write to one, each its part of 512 \
                MiB, for each GPU in turn: what arrives there, until the last is done. Four copies a \
                sample. Payloads are compared word by word on the far side.",
    samples: SAMPLES,
    expected_s: 3.0,
    deadline_s: 240.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count"],
    controls: &CONTROLS,
    run: |assignment, recorder| run(By::Engine, assignment, recorder),
};

/// The same by kernels.
pub(super) static KERNELS: Case = Case {
    id: "p2p::all-at-once-kernels",
    tier: Tier::Full,
    procedure: "As p2p::all-at-once, by a kernel of each GPU that writes, on all of its multiprocessors.",
    controls: &KERNEL_CONTROLS,
    run: |assignment, recorder| run(By::Kernel, assignment, recorder),
    ..BY_ENGINES
};

static KERNEL_CONTROLS: [Control; 3] = [SHIFT_IN_PIECES, INTO_ONE_IN_PIECES, FLIPPED_BIT];

const SHIFT_IN_PIECES: Control =
    control("shift-in-pieces", super::PIECES, "shift_gbps", Expect::Refuted);
const INTO_ONE_IN_PIECES: Control =
    control("into-one-in-pieces", super::PIECES, "into_one_gbps", Expect::Refuted);

static CONTROLS: [Control; 5] = [
    control("shift-3-percent-twice", super::TWICE, "shift_gbps", Expect::Regressed),
    SHIFT_IN_PIECES,
    control("into-one-3-percent-twice", super::TWICE, "into_one_gbps", Expect::Regressed),
    INTO_ONE_IN_PIECES,
    FLIPPED_BIT,
];

/// How much is copied, and how.
#[derive(Clone, Copy)]
struct Load {
    by: By,
    bytes: u64,
    launches: u32,
    fault: CopyFault,
}

impl Load {
    fn healthy(by: By) -> Load {
        Load { by, bytes: COPY_BYTES, launches: LAUNCHES, fault: CopyFault::default() }
    }

    fn pieced(by: By) -> Load {
        Load { by, bytes: PIECED_BYTES, launches: 1, fault: PIECES }
    }
}

fn run(by: By, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let mut bench = Bench::new(&lab, assignment, recorder)?;
    let samples = assignment.samples(SAMPLES) as u32;
    let count = bench.sites.len();
    for site in 0..count {
        bench.sites[site].fill(bench.seed_of(site))?;
    }
    for step in 1..count {
        recorder.progress(&format!("each to the {step}. further on"));
        poison(&bench)?;
        let rates = shift(&mut bench, step, Load::healthy(by), samples)?;
        for (from, rates) in rates.into_iter().enumerate() {
            let gpus = [bench.sites[from].index, bench.sites[(from + step) % count].index];
            recorder.metric(Metric::sampled("shift_gbps", &[], &gpus, rates));
            let wrong =
                bench.sites[(from + step) % count].wrong(COPY_BYTES, bench.seed_of(from))?;
            recorder.metric(Metric::exact("wrong_count", SHIFT, &gpus, wrong as f64));
        }
    }
    let common = bench.seed;
    for site in &bench.sites {
        site.fill(common)?;
    }
    for to in 0..count {
        let gpu = [bench.sites[to].index];
        recorder.progress(&format!("all into gpu{}", gpu[0]));
        bench.sites[to].poison()?;
        let (rates, bytes) = into_one(&mut bench, to, Load::healthy(by), samples)?;
        recorder.metric(Metric::sampled("into_one_gbps", &[], &gpu, rates));
        let wrong = bench.sites[to].wrong(bytes, common)?;
        recorder.metric(Metric::exact("wrong_count", INTO_ONE, &gpu, wrong as f64));
    }
    controls(by, &mut bench, recorder)?;
    drop(bench);
    lab.close(recorder);
    Ok(())
}

const SHIFT: &[(&str, &str)] = &[("way", "shift")];
const INTO_ONE: &[(&str, &str)] = &[("way", "into-one")];

fn poison(bench: &Bench) -> Result<(), Stop> {
    bench.sites.iter().try_for_each(|site| site.poison())
}

/// GB/s of each GPU's writes to the one `step` places further on, all at once.
fn shift(bench: &mut Bench, step: usize, load: Load, samples: u32) -> Result<Vec<Vec<f64>>, Stop> {
    let Bench { sites, together, .. } = bench;
    let count = sites.len();
    let route = |from: usize| {
        let to = (from + step) % count;
        Route::new(sites[from].source(), sites[to].target(), 0, load.bytes)
    };
    let routes: Vec<Route> = (0..count).map(route).collect::<Result<_, _>>()?;
    let lanes: Vec<usize> = (0..count).collect();
    let rows = together.measure(&lanes, 1, samples, |streams| {
        for _ in 0..load.launches {
            for (from, (route, stream)) in routes.iter().zip(streams).enumerate() {
                let mover = load.by.mover(&sites[from].links, None);
                route.enqueue(stream, mover, load.fault)?;
            }
        }
        Ok(())
    })?;
    let bytes = load.bytes * u64::from(load.launches);
    Ok(lanes.iter().map(|lane| gbps(bytes, &together::column(&rows, *lane))).collect())
}

/// GB/s that arrive at one GPU while all others write to it, and the bytes of its memory that they
/// write: each the part of the payload at its own place.
fn into_one(
    bench: &mut Bench,
    to: usize,
    load: Load,
    samples: u32,
) -> Result<(Vec<f64>, u64), Stop> {
    let Bench { sites, together, .. } = bench;
    let senders: Vec<usize> = (0..sites.len()).filter(|from| *from != to).collect();
    let part = part_bytes(load.bytes, senders.len());
    let route = |(place, from): (usize, &usize)| {
        Route::new(sites[*from].source(), sites[to].target(), part * place as u64, part)
    };
    let routes: Vec<Route> = senders.iter().enumerate().map(route).collect::<Result<_, _>>()?;
    let rows = together.measure(&senders, 1, samples, |streams| {
        for _ in 0..load.launches {
            for (from, (route, stream)) in senders.iter().zip(routes.iter().zip(streams)) {
                let mover = load.by.mover(&sites[*from].links, None);
                route.enqueue(stream, mover, load.fault)?;
            }
        }
        Ok(())
    })?;
    let bytes = part * senders.len() as u64;
    let rates = gbps(bytes * u64::from(load.launches), &together::longest(&rows));
    Ok((rates, bytes))
}

/// Bytes of each of so many parts, whole vectors.
fn part_bytes(bytes: u64, parts: usize) -> u64 {
    bytes / parts as u64 / 16 * 16
}

fn controls(by: By, bench: &mut Bench, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("controls");
    let count = bench.sites.len();
    let (pieced, twice) = (Load::pieced(by), Load { fault: TWICE, ..Load::healthy(by) });
    // Kernels have no golden that would miss so little.
    let near = |name| (by == By::Engine).then_some((name, twice));
    let loads = near("shift-3-percent-twice").into_iter().chain([(SHIFT_IN_PIECES.name, pieced)]);
    for (name, load) in loads {
        for (from, rates) in shift(bench, 1, load, CONTROL_SAMPLES)?.into_iter().enumerate() {
            let gpus = [bench.sites[from].index, bench.sites[(from + 1) % count].index];
            recorder.control(name, Metric::sampled("shift_gbps", &[], &gpus, rates));
        }
    }
    let loads =
        near("into-one-3-percent-twice").into_iter().chain([(INTO_ONE_IN_PIECES.name, pieced)]);
    for (name, load) in loads {
        let (rates, _) = into_one(bench, 0, load, CONTROL_SAMPLES)?;
        let gpu = [bench.sites[0].index];
        recorder.control(name, Metric::sampled("into_one_gbps", &[], &gpu, rates));
    }
    // The last payload into one was small: the whole once more, with a wrong bit.
    let common = bench.seed;
    let (_, bytes) = into_one(bench, 0, Load::healthy(by), 1)?;
    let site = &bench.sites[0];
    site.patterns.flip(site.gpu.stream(), &site.target, 9_876_543, 1 << 5)?;
    let wrong = site.wrong(bytes, common)?;
    let metric = Metric::exact("wrong_count", INTO_ONE, &[site.index], wrong as f64);
    recorder.control(FLIPPED_BIT.name, metric);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_vectors_and_no_more_than_the_whole() {
        assert_eq!(part_bytes(256 << 20, 3), 89_478_480);
        assert_eq!(part_bytes(256 << 20, 1), 256 << 20);
        assert!(7 * part_bytes(256 << 20, 7) <= 256 << 20);
    }
}
