//! What the model costs over 2, 4 and 8 GPUs: rate and memory.

use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};

/// Operations of a pass over its time and its GPUs.
pub const METRIC: &str = "model_tflops";
/// Milliseconds of a pass, for the reader.
pub const TIME: &str = "forward_ms";
/// Device memory that weights and activations take on a GPU.
pub const MEMORY: &str = "peak_gib";
/// Logits that are not finite.
pub const INTEGRITY: &str = "nonfinite_count";

/// Bytes of a GPU beside what the formula counts: contexts, kernels, libraries, recorded passes.
pub const MARGIN: u64 = 2 << 30;

const SAMPLES: usize = 8;
const CONTROL_SAMPLES: u32 = 6;

/// A degree, its problem and the problem's name.
type Row = (usize, &'static str, Problem);

/// The documents' two-GPU table's first row, and what the rivals are measured with.
const ROWS: [Row; 3] = [
    (2, "4x2048", Problem { batches: 4, tokens: 2048, chunks: 2 }),
    (4, "8x1024", Problem { batches: 8, tokens: 1024, chunks: 2 }),
    (8, "8x1024", Problem { batches: 8, tokens: 1024, chunks: 2 }),
];

/// The rest of that table, and a long sequence.
const MORE_ROWS: [Row; 4] = [
    (2, "2x4096", Problem { batches: 2, tokens: 4096, chunks: 2 }),
    (2, "1x8192", Problem { batches: 1, tokens: 8192, chunks: 2 }),
    (4, "1x32768", Problem { batches: 1, tokens: 32768, chunks: 2 }),
    (8, "1x32768", Problem { batches: 1, tokens: 32768, chunks: 2 }),
];

/// A pass of twice the work.
pub const EVERY_LAYER: Control = Control {
    name: "every-layer-twice",
    fault: "every layer is run twice and counted once",
    trips: METRIC,
    expect: Expect::Refuted,
};
const TWO_LAYERS: Control = Control {
    name: "two-layers-twice",
    fault: "2 of the 48 layers are run twice and counted once",
    trips: METRIC,
    expect: Expect::Regressed,
};
/// A pass that leaves nothing.
pub const NOT_RUN: Control = Control {
    name: "not-run",
    fault: "the outputs are poisoned and no pass is run",
    trips: INTEGRITY,
    expect: Expect::Corrupt,
};
const WHOLE_MODEL: Control = Control {
    name: "whole-model",
    fault: "a GPU holds the whole model",
    trips: MEMORY,
    expect: Expect::Refuted,
};
static CONTROLS: [Control; 4] = [EVERY_LAYER, TWO_LAYERS, WHOLE_MODEL, NOT_RUN];
static MORE_CONTROLS: [Control; 3] = [EVERY_LAYER, WHOLE_MODEL, NOT_RUN];

macro_rules! rates_case {
    ($id:literal, $tier:expr, $seconds:literal, $controls:expr, $run:expr) => {
        Case {
            id: $id,
            revision: 1,
            figures_since: 1,
            scope: Scope::Node,
            min_gpus: 2,
            tier: $tier,
            self_test_only: false,
            procedure: "The 48-layer model of seed 002 with random weights, fp16, columns split over 2, 4 \
                        and 8 GPUs: forward passes with logits of the last tokens, two chunks in turns, \
                        the longest of the GPUs, each from its own start to its own end, one pass behind \
                        the other without a rest. Rates count attention's pairs under the causal mask. Memory is \
                        what the GPU has less of, weights and activations together.",
            samples: SAMPLES,
            expected_s: $seconds,
            deadline_s: 300.0,
            kernels: bench::KERNELS,
            integrity: &[INTEGRITY],
            controls: &$controls,
            run: $run,
        }
    };
}

/// The headline rows.
pub static CASE: Case =
    rates_case!("tensor-parallel::rates", Tier::Quick, 30.0, CONTROLS, |assignment, recorder| {
        let bench = Bench::open(assignment, recorder)?;
        whole_model(&bench, assignment, &ROWS[..1], recorder)?;
        rates(&ROWS, bench, assignment, recorder)
    });
/// The other rows.
pub static MORE_CASE: Case = rates_case!(
    "tensor-parallel::more-rates",
    Tier::Full,
    80.0,
    MORE_CONTROLS,
    |assignment, recorder| {
        let bench = Bench::open(assignment, recorder)?;
        whole_model(&bench, assignment, &MORE_ROWS[..2], recorder)?;
        rates(&MORE_ROWS, bench, assignment, recorder)
    }
);

fn rates(
    rows: &[Row],
    bench: Bench,
    assignment: &Assignment,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    for (degree, name, problem) in rows.iter().copied().filter(|row| row.0 <= bench.count()) {
        recorder.progress(&format!("degree {degree} {name}"));
        let on = bench.indices(degree);
        let degree_name = degree.to_string();
        let at = [("degree", degree_name.as_str()), ("problem", name)];
        let tokens = bench::tokens(&config, &problem, assignment.seed);
        let before = free(&bench, degree)?;
        let mut group =
            bench::group(&bench.first(degree), config, Split::Outputs, problem, &tokens)?;
        recorder.metric(taken(&bench, &before, &at)?);
        bench::write_choices(recorder, &format!("degree-{degree}"), &group)?;
        let flops = config.flops(&problem) / degree as f64;
        let rate = |times: &[f64]| Metric::sampled(METRIC, &at, on, tflops(flops, times));
        // The first pass alone loads kernels: it is kept apart, as the documents' first row was not.
        let first = group.time(0, 1)?;
        recorder.option(&format!("first pass of degree {degree}, ms"), rounded(&first)[0]);
        let begun = Instant::now();
        group.forward(Watch::Nothing)?;
        let enqueued = begun.elapsed().as_secs_f64() * 1e3;
        recorder.option(&format!("enqueued in, degree {degree}, ms"), rounded(&[enqueued])[0]);
        let times = group.time(2, assignment.samples(SAMPLES) as u32)?;
        recorder.metric(rate(&times));
        recorder.metric(Metric::sampled(TIME, &at, on, rounded(&times)));
        if rows == ROWS {
            group.plant(Some(Fault::Repeated { layers: 2 }));
            recorder.control(TWO_LAYERS.name, rate(&group.time(1, CONTROL_SAMPLES)?));
        }
        group.plant(Some(Fault::Repeated { layers: config.layers }));
        recorder.control(EVERY_LAYER.name, rate(&group.time(1, CONTROL_SAMPLES)?));
        group.plant(None);
        let nonfinite = |count: u64| Metric::exact(INTEGRITY, &at, on, count as f64);
        group.poison()?;
        recorder.control(NOT_RUN.name, nonfinite(unwritten(&group)?));
        group.forward(Watch::Nothing)?;
        recorder.metric(nonfinite(unwritten(&group)?));
    }
    bench.lab.close(recorder);
    Ok(())
}

/// The control of memory: what one GPU takes for the whole model at these rows.
fn whole_model(
    bench: &Bench,
    assignment: &Assignment,
    rows: &[Row],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("one GPU");
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    let before = free(bench, 1)?;
    let mut group = Group::new(&bench.first(1), config, Split::Outputs)?;
    for (degree, name, problem) in rows.iter().copied() {
        group.set(Problem { chunks: 1, ..problem }, 1)?;
        let degree = degree.to_string();
        let at = [("degree", degree.as_str()), ("problem", name)];
        recorder.control(WHOLE_MODEL.name, taken(bench, &before, &at)?);
    }
    Ok(())
}

/// Free bytes of the first so many GPUs.
pub fn free(bench: &Bench, gpus: usize) -> Result<Vec<u64>, Stop> {
    let free = |gpu: &kernels::device::Gpu| Ok(gpu.mem_info()?.0);
    bench.lab.gpus.iter().take(gpus).map(free).collect()
}

/// The most that any of the GPUs has less than before, as [`MEMORY`].
pub fn taken(bench: &Bench, before: &[u64], at: &[(&str, &str)]) -> Result<Metric, Stop> {
    let after = free(bench, before.len())?;
    let taken = before.iter().zip(after).map(|(before, after)| before.saturating_sub(after));
    let gib = taken.max().unwrap_or(0) as f64 / f64::from(1u32 << 30);
    Ok(Metric::exact(MEMORY, at, bench.indices(before.len()), (gib * 1e3).round() / 1e3))
}

/// Logits that are no finite number.
pub fn unwritten(group: &Group<'_>) -> Result<u64, Stop> {
    let element = group.precision().element();
    let finite = |code: &u16| element.decode((*code).into()).is_finite();
    Ok(group.logits()?.iter().flatten().filter(|code| !finite(code)).count() as u64)
}

/// TFLOP/s of so many operations in each of the milliseconds, to two places.
pub fn tflops(flops: f64, times: &[f64]) -> Vec<f64> {
    times.iter().map(|ms| (flops / ms / 1e7).round() / 100.0).collect()
}

/// Milliseconds to a microsecond.
pub fn rounded(times: &[f64]) -> Vec<f64> {
    times.iter().map(|ms| (ms * 1e3).round() / 1e3).collect()
}
