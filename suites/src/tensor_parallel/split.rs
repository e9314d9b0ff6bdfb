//! Whole layers on each of two GPUs, as the documents' prototype had them: time and memory beside one GPU.

use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::rates::{INTEGRITY, MEMORY, NOT_RUN, free, taken, unwritten};

/// Time of a pass over two GPUs, one after the other, over that of one GPU.
pub const TIME: &str = "over_one_gpu_ratio";
/// The same number, judged from its other side, where a fault that makes two GPUs slow says nothing.
pub const NO_GAIN: &str = "both_over_one_gpu_ratio";
/// The same in micro-batches that follow each other through both GPUs.
pub const PIPELINE: &str = "pipeline_over_one_gpu_ratio";

/// Six samples are the fewest that have an interval.
const SAMPLES: usize = 6;

/// Sequences of the first are micro-batches.
const ROWS: [(&str, Problem); 2] = [
    ("4x2048", Problem { batches: 4, tokens: 2048, chunks: 1 }),
    ("1x8192", Problem { batches: 1, tokens: 8192, chunks: 1 }),
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::layer-split",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 in fp16, layers 0 to 23 on one GPU and 24 to 47 on another, beside the \
                whole on one GPU, a pass of each in turn, by the host's clock from an idle node to an idle \
                node. Once the whole batch goes through both GPUs one after the other, as in the documents' \
                prototype; once its four sequences follow each other, so that both GPUs work. Memory is what each \
                GPU has less of.",
    samples: SAMPLES,
    expected_s: 92.0,
    deadline_s: 300.0,
    kernels: bench::KERNELS,
    integrity: &[INTEGRITY],
    controls: &[
        Control {
            name: "a-half-twice",
            fault: "the second half of the layers is run twice",
            trips: TIME,
            expect: Expect::Refuted,
        },
        Control {
            name: "one-gpu-half-more",
            fault: "24 of the 48 layers on the one GPU are run twice",
            trips: NO_GAIN,
            expect: Expect::Refuted,
        },
        Control {
            name: "no-micro-batches",
            fault: "the batch goes through in one piece",
            trips: PIPELINE,
            expect: Expect::Refuted,
        },
        Control {
            name: "whole-model",
            fault: "one of the GPUs holds the whole model",
            trips: MEMORY,
            expect: Expect::Refuted,
        },
        NOT_RUN,
    ],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    let gpus = bench.first(2);
    let before = free(&bench, 2)?;
    let half = config.layers / 2;
    let part = |at: usize, layers| Group::part(&gpus[at..=at], config, layers, Split::Outputs);
    let mut halves = [part(0, 0..half)?, part(1, half..config.layers)?];
    for (name, problem) in ROWS {
        recorder.progress(name);
        let tokens = bench::tokens(&config, &problem, assignment.seed);
        set(&mut halves, problem, &tokens)?;
        let at = [("problem", name)];
        recorder.metric(taken(&bench, &before, &at)?);
        let on = bench.indices(2);
        let integrity = |count: u64| Metric::exact(INTEGRITY, &at, on, count as f64);
        recorder.control(NOT_RUN.name, integrity(unwritten(&halves[1])?));
        let empty = free(&bench, 1)?;
        let mut one = bench::group(&bench.first(1), config, Split::Outputs, problem, &tokens)?;
        recorder.control("whole-model", taken(&bench, &empty, &at)?);
        once(&mut one)?;
        through(&mut halves, 1, 1)?;
        recorder.metric(integrity(unwritten(&halves[1])?));
        let samples = assignment.samples(SAMPLES);
        let ratio = |name: &str, over: &[f64], under: &[f64]| {
            Metric::sampled(name, &at, on, bench::ratios(over, under))
        };
        let (mut alone, mut both) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            alone.push(once(&mut one)?);
            both.push(through(&mut halves, 1, 1)?);
        }
        recorder.metric(ratio(TIME, &both, &alone));
        recorder.metric(ratio(NO_GAIN, &both, &alone));
        let twice = (0..samples).map(|_| through(&mut halves, 1, 2));
        let twice = twice.collect::<Result<Vec<_>, _>>()?;
        recorder.control("a-half-twice", ratio(TIME, &twice, &alone));
        one.plant(Some(Fault::Repeated { layers: half }));
        let slow = (0..samples).map(|_| once(&mut one)).collect::<Result<Vec<_>, _>>()?;
        one.plant(None);
        recorder.control("one-gpu-half-more", ratio(NO_GAIN, &both, &slow));
        if problem.batches == 1 {
            continue;
        }
        let micro = Problem { chunks: problem.batches, ..problem };
        set(&mut halves, micro, &tokens)?;
        through(&mut halves, micro.chunks, 1)?;
        let (mut beside, mut piped) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            beside.push(once(&mut one)?);
            piped.push(through(&mut halves, micro.chunks, 1)?);
        }
        recorder.metric(ratio(PIPELINE, &piped, &beside));
        recorder.control("no-micro-batches", ratio(PIPELINE, &both, &alone));
        let at = [("problem", name), ("way", "micro-batches")];
        let wrong = unwritten(&halves[1])? as f64;
        recorder.metric(Metric::exact(INTEGRITY, &at, on, wrong));
    }
    drop(halves);
    drop(gpus);
    bench.lab.close(recorder);
    Ok(())
}

fn set(halves: &mut [Group<'_>; 2], problem: Problem, tokens: &[u32]) -> Result<(), Stop> {
    for group in halves {
        group.set(problem, bench::CANDIDATES)?;
        group.set_tokens(tokens)?;
        group.poison()?;
    }
    Ok(())
}

/// Milliseconds of a pass of one GPU.
fn once(one: &mut Group<'_>) -> Result<f64, Stop> {
    let begun = Instant::now();
    one.pass()?;
    one.wait()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds of a pass through both halves, the second one's layers so many times.
fn through(halves: &mut [Group<'_>; 2], chunks: u32, times: u32) -> Result<f64, Stop> {
    let begun = Instant::now();
    bench::pipeline(halves, chunks, Watch::Nothing, None)?;
    let [first, last] = halves;
    for _ in 1..times {
        (0..chunks).try_for_each(|chunk| last.pass_chunk(chunk, Watch::Nothing))?;
    }
    last.head(Watch::Nothing)?;
    first.wait()?;
    last.wait()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
