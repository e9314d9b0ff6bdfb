//! A rank that stays away from an own all-reduce: the others' kernels end themselves, and another process goes on with
//! the same GPUs.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::allreduce::{self, Algorithm, AllReduce, Call, ONE_SHOT_MOST, PATIENCE, Prepared};
use kernels::device::{Event, Gpu, Module};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::nccl::Operation;
use kernels::{KernelSource, jit};
use serde::{Deserialize, Serialize};

use super::bench::{Bench, ELEMENTS, Payload, own_modules, sized};
use super::own::{ALGORITHMS, once};
use super::{DROPPED, FLIPPED_INPUT, OWN_KERNELS};
use crate::lab::{self, Lab};
use crate::selftest;

/// What the own all-reduce does without a rank.
pub(super) static CASE: Case = Case {
    id: "collectives::absent-rank-own",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: true,
    procedure: "For each of the one-shot, the two-shot and the pushed kernel this executable is started again as a process \
                that drives all GPUs. An all-reduce of 512 KiB of integers in fp16 is exact; then it is enqueued on \
                every GPU but the last, each on a stream of which an event stands behind it. Until every event \
                has passed or told of an error, eight seconds beyond the bound at most, the host looks at them every few \
                milliseconds. Counted are ranks that ended without an error, or more than half a second before \
                the bound of ten seconds; timed is the last one's end, less the bound. Behind the three \
                processes, of which each loses its contexts, this one opens the GPUs and reduces integers in fp16, bf16 and \
                f32 by each kernel: every element of every rank is compared.",
    samples: 0,
    expected_s: 60.0,
    deadline_s: 600.0,
    kernels: OWN_KERNELS,
    integrity: &["wrong_count", UNBOUNDED],
    controls: &CONTROLS,
    run,
};

/// From the end of the bound of a flag's wait until the last rank that waited was out of its all-reduce.
pub(super) const LATE: &str = "late_s";
/// Ranks that waited and ended without an error, or before the bound.
const UNBOUNDED: &str = "not_ended_at_bound_count";

static CONTROLS: [Control; 4] = [
    control(
        "begun-late",
        "every rank that comes to the one-shot kernel is held for four seconds before its call, and so is the bound of its waits",
        LATE,
        Expect::Refuted,
    ),
    control(
        "everyone-comes",
        "no rank stays away, so none has to give up",
        UNBOUNDED,
        Expect::Corrupt,
    ),
    DROPPED,
    FLIPPED_INPUT,
];

/// The name under which this executable is the process with an absent rank.
const NAME: &str = "own-all-reduce-absent-rank";

const ELEMENT: Element = Element::F16;
/// How long beyond the bound the ranks are looked at.
const LATEST: Duration = Duration::from_secs(8);
/// How much sooner than the bound a rank may end: flags are first looked at before the clock is.
const EARLY_S: f64 = 0.5;
/// Seconds that ranks are held in the control.
const HELD_S: u32 = 4;
/// All that a process may take: kernels may have to be compiled.
const PROCESS: Duration = Duration::from_secs(120);

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    lab::require(Library::Cuda)?;
    lab::require(Library::Nvrtc)?;
    let all = assignment.gpus();
    recorder.option("bound_s", PATIENCE.as_secs());
    for algorithm in ALGORITHMS {
        let name = algorithm.name();
        recorder.progress(&format!("an absent rank, {name}"));
        let at = [("how", name)];
        let seen = another_process(algorithm, 0, assignment)?;
        recorder.option(&format!("errors.{name}"), seen.without.errors.join("; "));
        recorder.metric(seen.without.late(&at, &all));
        recorder.metric(seen.without.unbounded(&at, &all));
        recorder.control("everyone-comes", seen.everyone.unbounded(&at, &all));
        let at = [("how", name), ("type", "f16"), ("when", "before")];
        for (index, wrong) in all.iter().zip(seen.wrong) {
            recorder.metric(Metric::exact("wrong_count", &at, &[*index], wrong as f64));
        }
    }
    recorder.progress("ranks that begin late");
    let seen = another_process(Algorithm::OneShot, HELD_S, assignment)?;
    let at = [("how", Algorithm::OneShot.name())];
    recorder.control("begun-late", seen.without.late(&at, &all));
    recorder.progress("the same GPUs afterwards");
    let lab = Lab::open(assignment, recorder)?;
    let modules = own_modules(&lab, recorder)?;
    let bench = Bench::new(&lab, sized(ONE_SHOT_MOST, lab.gpus.len()), assignment, recorder)?;
    let own = AllReduce::new(&lab.gpus, &modules)?;
    afterwards(&bench, &own, recorder)?;
    drop(own);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// What another process saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    /// Wrong elements of each rank's sums, where every rank came.
    wrong: Vec<u64>,
    /// The same call as it was waited for.
    everyone: Waited,
    /// The call to which the last rank did not come.
    without: Waited,
}

/// What became of the ranks but the last.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Waited {
    /// From the call until the last of them was out of it, or no longer looked at.
    seconds: f64,
    /// Those that ended without an error, or before the bound.
    unbounded: u64,
    /// What the driver said of the others.
    errors: Vec<String>,
}

impl Waited {
    /// Of ranks with the seconds at which each was out of the call, and the driver's error where there was one; none of
    /// a rank that had not ended after `most` seconds.
    fn of(ends: &[Option<(f64, Option<String>)>], most: f64) -> Waited {
        let mut waited = Waited::default();
        for end in ends {
            waited.seconds = waited.seconds.max(end.as_ref().map_or(most, |(at, _)| *at));
            match end {
                Some((at, Some(error))) if *at >= PATIENCE.as_secs_f64() - EARLY_S => {
                    waited.errors.push(error.clone());
                }
                // Late beyond every bound, which is told by its seconds.
                None => {}
                _ => waited.unbounded += 1,
            }
        }
        waited
    }

    fn late(&self, at: &[(&str, &str)], all: &[u32]) -> Metric {
        let late = (self.seconds - PATIENCE.as_secs_f64()).max(0.0);
        Metric::exact(LATE, at, all, (late * 1e3).round() / 1e3)
    }

    fn unbounded(&self, at: &[(&str, &str)], all: &[u32]) -> Metric {
        Metric::exact(UNBOUNDED, at, all, self.unbounded as f64)
    }
}

/// Starts a process over the same GPUs in which a rank stays away, and the others are held for so many seconds.
fn another_process(
    algorithm: Algorithm,
    held_s: u32,
    assignment: &Assignment,
) -> Result<Seen, Stop> {
    let (gpus, seed) = (assignment.devices.len().to_string(), assignment.seed.to_string());
    let cache = assignment.cache.to_string_lossy();
    let arguments = [NAME, algorithm.name(), &held_s.to_string(), &gpus, &seed, &cache];
    let said = selftest::last_words(&arguments, PROCESS)?;
    let seen = serde_json::from_str(&said);
    seen.map_err(|_| Stop::Error(format!("the process with an absent rank said: {said}")))
}

/// What another process does under [`NAME`]; `None` for any other name.
pub fn planted(name: &str, arguments: &[String]) -> Option<Result<(), Stop>> {
    (name == NAME).then(|| absent(arguments))
}

/// `own-all-reduce-absent-rank ALGORITHM HELD-SECONDS GPUS SEED CACHE` prints what it saw.
fn absent(arguments: &[String]) -> Result<(), Stop> {
    let usage = || Stop::Error(format!("{NAME} ALGORITHM HELD-SECONDS GPUS SEED CACHE"));
    let [algorithm, held_s, gpus, seed, cache] = arguments else { return Err(usage()) };
    let algorithm = ALGORITHMS.into_iter().find(|known| known.name() == algorithm);
    let algorithm = algorithm.ok_or_else(usage)?;
    let number = |text: &String| text.parse::<u64>().map_err(|_| usage());
    let (held_s, count, seed) = (number(held_s)? as u32, number(gpus)? as u32, number(seed)?);
    let gpus = (0..count).map(Gpu::open).collect::<kernels::Result<Vec<_>>>()?;
    let indices: Vec<u32> = (0..count).collect();
    let load = &mut |gpu: &Gpu, source: &'static KernelSource| -> Result<Module, Stop> {
        let architecture = jit::architecture_of(gpu.compute_capability)
            .ok_or_else(|| Stop::NotApplicable("no kernel for this GPU".into()))?;
        Ok(gpu.load(&jit::cached(source, architecture, Path::new(cache))?.bytes)?)
    };
    let bytes = sized(ONE_SHOT_MOST, gpus.len());
    let bench = Bench::over((&gpus, &indices), bytes, seed, load)?;
    let modules =
        gpus.iter().map(|gpu| load(gpu, &allreduce::SOURCE)).collect::<Result<Vec<_>, _>>()?;
    let own = AllReduce::new(&gpus, &modules)?;
    let call = Call { algorithm, ..Call::new(bytes, ELEMENT, own.ranks()) };
    let payload = Payload::integers(ELEMENT);
    // The first launch of a kernel may have to load its code, which none that waits may hold up.
    bench.fill(payload, bytes)?;
    once(&bench, &own, call, false)?;
    for (links, stream) in bench.links.iter().zip(bench.streams()) {
        links.hold(stream, 1)?;
    }
    // Waits for its GPUs once it is dropped: behind what there is to say.
    let prepared = own.prepare(&bench.inputs, &bench.outputs, call)?;
    bench.fill(payload, bytes)?;
    let everyone = waits(&bench, &prepared, false, 0)?;
    bench.synchronize()?;
    let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
    bench.fill(payload, bytes)?;
    let without = waits(&bench, &prepared, true, held_s)?;
    println!("{}", serde_json::to_string(&Seen { wrong, everyone, without })?);
    // What would be freed now lies in contexts that are lost.
    std::process::exit(0)
}

/// One all-reduce, from which the last rank stays away or not, while the others are held for so many seconds before it.
/// Where it stays away the contexts of the others are lost afterwards. Every kernel in it was launched before.
fn waits(
    bench: &Bench,
    prepared: &Prepared<'_>,
    absent: bool,
    held_s: u32,
) -> Result<Waited, Stop> {
    let last = bench.ranks() - 1;
    let streams = bench.streams();
    let events = bench.gpus[..last].iter().map(Gpu::new_event);
    let events: Vec<Event> = events.collect::<Result<_, _>>()?;
    let called = Instant::now();
    for (rank, event) in events.iter().enumerate() {
        for _ in 0..held_s {
            bench.links[rank].hold(streams[rank], 1_000_000_000)?;
        }
        prepared.launch(rank, streams[rank])?;
        event.record(streams[rank])?;
    }
    if !absent {
        prepared.launch(last, streams[last])?;
    }
    let most = (PATIENCE + LATEST).as_secs_f64();
    let mut ends: Vec<Option<(f64, Option<String>)>> = vec![None; last];
    while ends.iter().any(Option::is_none) && called.elapsed().as_secs_f64() < most {
        for (end, event) in ends.iter_mut().zip(&events).filter(|(end, _)| end.is_none()) {
            let error = match event.passed() {
                Ok(false) => continue,
                Ok(true) => None,
                Err(error) => Some(error.to_string()),
            };
            *end = Some((called.elapsed().as_secs_f64(), error));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Waited::of(&ends, most))
}

/// Sums of integers by each kernel in every type, and with a wrong value of one rank.
fn afterwards(bench: &Bench, own: &AllReduce, recorder: &mut Recorder) -> Result<(), Stop> {
    let bytes = sized(ONE_SHOT_MOST, bench.ranks());
    for algorithm in ALGORITHMS {
        for (element, name) in ELEMENTS {
            let payload = Payload::integers(element);
            let call = Call { algorithm, ..Call::new(bytes, element, own.ranks()) };
            bench.fill(payload, bytes)?;
            once(bench, own, call, false)?;
            let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
            let at = [("how", algorithm.name()), ("type", name), ("when", "after")];
            for metric in bench.wrong_counts(&at, wrong) {
                recorder.metric(metric);
            }
        }
    }
    let payload = Payload::integers(ELEMENT);
    let call = Call::new(bytes, ELEMENT, own.ranks());
    for fault in [DROPPED, FLIPPED_INPUT] {
        bench.fill(payload, bytes)?;
        match fault.name == DROPPED.name {
            true => bench.drop_rank(1)?,
            false => bench.flip_input(1, ELEMENT)?,
        }
        once(bench, own, call, false)?;
        let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
        let at = [("how", call.algorithm.name()), ("type", "f16"), ("when", "after")];
        for metric in bench.wrong_counts(&at, wrong) {
            recorder.control(fault.name, metric);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_at_the_bound_is_the_bounds() {
        let error = || Some("launch failed".to_owned());
        let waited = Waited::of(&[Some((10.001, error())), Some((10.02, error()))], 18.0);
        assert_eq!((waited.seconds, waited.unbounded, waited.errors.len()), (10.02, 0, 2));
        let early = Waited::of(&[Some((10.0, error())), Some((0.1, error()))], 18.0);
        assert_eq!((early.seconds, early.unbounded), (10.0, 1));
        let well = Waited::of(&[Some((0.001, None)), Some((10.0, None))], 18.0);
        assert_eq!((well.unbounded, well.errors.len()), (2, 0));
        let never = Waited::of(&[Some((10.0, error())), None], 18.0);
        assert_eq!((never.seconds, never.unbounded), (18.0, 0));
        assert_eq!(never.late(&[], &[0]).values, [8.0]);
    }

    #[test]
    fn another_name_is_not_planted_here() {
        assert!(planted("model-hashes", &[]).is_none());
        assert!(matches!(planted(NAME, &[]), Some(Err(Stop::Error(_)))));
    }
}
