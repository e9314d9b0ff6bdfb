//! What communication costs, and what of it is hidden behind products.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::rates::rounded;
use crate::rivals;

/// Passes a time without overlap over those with it.
pub const OVERLAP: &str = "overlapped_over_serial_ratio";
/// What of a pass goes once nothing is sent and no rank waits for another.
pub const EXPOSED: &str = "exchange_share_percent";
/// One GPU's time over that of two.
pub const SPEEDUP: &str = "speedup_ratio";

const SAMPLES: usize = 8;
/// The documents' row.
const ROW: Problem = Problem { batches: 4, tokens: 2048, chunks: 1 };
const ROW_NAME: &str = "4x2048";

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::overlap",
    revision: 4,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002, 4 sequences of 2048 tokens, over the largest degree: passes in \
                which two chunks take turns, so that one's exchange runs beside the other's products, and \
                passes of one chunk, two at a time, sample by sample in turn: the first of the two is judged, and \
                the control is the two of them, the other way round every two pairs; and both once more with nothing sent, so that \
                other data are multiplied, and no rank waiting for another. Beside them one GPU, and two without overlap, as the document's \
                prototype had none.",
    samples: SAMPLES,
    expected_s: 60.0,
    deadline_s: 300.0,
    kernels: bench::KERNELS,
    integrity: &[],
    controls: &[
        Control {
            name: "not-overlapped",
            fault: "both kinds of pass are of one chunk",
            trips: OVERLAP,
            expect: Expect::Refuted,
        },
        Control {
            name: "all-exposed",
            fault: "the passes are of one chunk",
            trips: EXPOSED,
            expect: Expect::Refuted,
        },
        Control {
            name: "every-layer-twice",
            fault: "two GPUs run every layer twice",
            trips: SPEEDUP,
            expect: Expect::Refuted,
        },
    ],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let config = Config { seed: assignment.seed, ..Config::SEED_002 };
    let tokens = bench::tokens(&config, &ROW, assignment.seed);
    let samples = assignment.samples(SAMPLES);
    let group = |degree: usize, chunks: u32| {
        let problem = Problem { chunks, ..ROW };
        bench::group(&bench.first(degree), config, Split::Outputs, problem, &tokens)
    };
    recorder.progress("one gpu and two");
    let mut one = group(1, 1)?;
    let base = one.time(2, samples as u32)?;
    drop(one);
    let mut two = group(2, 1)?;
    let at = [("degree", "2"), ("problem", ROW_NAME)];
    let on = bench.indices(2);
    let base = rivals::middle(&base)?;
    recorder.option("one gpu, ms", rounded(&[base])[0]);
    let speedup = |times: Vec<f64>| {
        let ratios = times.iter().map(|ms| (base / ms * 1e4).round() / 1e4).collect();
        Metric::sampled(SPEEDUP, &at, on, ratios)
    };
    recorder.metric(speedup(two.time(2, samples as u32)?));
    two.plant(Some(Fault::Repeated { layers: config.layers }));
    recorder.control("every-layer-twice", speedup(two.time(1, 6)?));
    drop(two);

    let degree = bench.degrees().last().copied().unwrap_or(2);
    recorder.progress(&format!("degree {degree}"));
    let (mut turns, mut serial) = (group(degree, 2)?, group(degree, 1)?);
    let name = degree.to_string();
    let at = [("degree", name.as_str()), ("problem", ROW_NAME)];
    let on = bench.indices(degree);
    for group in [&mut turns, &mut serial] {
        group.time(1, 1)?;
    }
    let pass = |group: &mut Group<'_>| rivals::middle(&group.time(0, 1)?);
    // Behind each pass without overlap another one: pairs of one kind, as near in time as those that are judged. The
    // first of them stands behind a pass with overlap in every second pair, and is a percent slower there; so who is
    // divided by whom changes every two pairs.
    let mut again = Vec::new();
    let mut both = || -> Result<f64, Stop> {
        let first = pass(&mut serial)?;
        again.push(pass(&mut serial)?);
        Ok(first)
    };
    let (with, without) = rivals::by_turns(3 * samples, || pass(&mut turns), &mut both)?;
    let ratio = |slow: &[f64], fast: &[f64]| {
        let pairs = slow.iter().zip(fast);
        let ratios = pairs.map(|(slow, fast)| (slow / fast * 1e4).round() / 1e4).collect();
        Metric::sampled(OVERLAP, &at, on, ratios)
    };
    recorder.metric(ratio(&without, &with));
    recorder.metric(Metric::sampled("overlapped_ms", &at, on, rounded(&with)));
    recorder.metric(Metric::sampled("serial_ms", &at, on, rounded(&without)));
    let pairs = without.iter().copied().zip(again).enumerate();
    let (one, other): (Vec<f64>, Vec<f64>) =
        pairs.map(|(i, (a, b))| if i / 2 % 2 == 0 { (a, b) } else { (b, a) }).unzip();
    recorder.control("not-overlapped", ratio(&one, &other));
    let share = |times: &[f64], alone: f64| {
        let shares = times.iter().map(|ms| (1e4 * (1.0 - alone / ms)).round() / 100.0).collect();
        Metric::sampled(EXPOSED, &at, on, shares)
    };
    let alone = silent(&mut turns, samples as u32)?;
    recorder.metric(share(&with, alone));
    let alone = silent(&mut serial, samples as u32)?;
    recorder.control("all-exposed", share(&without, alone));
    drop((turns, serial));
    bench.lab.close(recorder);
    Ok(())
}

/// Milliseconds of a pass in which nothing is sent and no rank waits for another.
fn silent(group: &mut Group<'_>, samples: u32) -> Result<f64, Stop> {
    group.plant(Some(Fault::Silent { in_step: false }));
    let times = group.time(1, samples)?;
    group.plant(None);
    rivals::middle(&times)
}
