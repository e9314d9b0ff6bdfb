//! The same in FP8: linears in E4M3, with the bits of one GPU for every degree.

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Precision, reference};

use super::bench::{self, Bench};
use super::oracle;
use super::setting::{self, LAYER, Setting};
use super::work;
use crate::lab::finite;

/// Elements of residual streams and logits whose bits differ from one GPU's.
pub const METRIC: &str = setting::METRIC;
/// Layers in which two ranks hold different residual streams.
pub const AGREEMENT: &str = setting::AGREEMENT;
/// Root mean square of a small model's errors beside f64 on quantised operands, over that of its logits.
pub const ERROR: &str = oracle::METRIC;

static CONTROLS: [Control; 10] = [
    Control {
        name: "flipped-bit",
        fault: "the lowest mantissa bit of one E4M3 weight of one rank is flipped",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "dropped-contribution",
        fault: "one rank's columns inside one MLP do not arrive",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "unwaited",
        fault: "in one layer one rank is held up and no rank waits for what another one sends",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    setting::SWAPPED_SHARDS,
    setting::STRAY_BIT,
    Control {
        name: "fp16-for-fp8",
        fault: "the GPUs run the model in fp16 and call it FP8",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    work::ONE_GPU_WORKS,
    work::ONE_RANK_SILENT,
    work::ONE_EXCHANGE_LESS,
    work::ONE_LAYER_TWICE,
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::fp8",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "As tensor-parallel::drift, with linears in E4M3: weights with a scale for each output, activations \
                quantised with a scale for each token, behind layer norm in one kernel, precise \
                accumulation. One GPU's residual streams and logits are kept, and every element of every \
                degree, and of the largest with the GPUs in reversed order and, of more than two, rotated by one, is \
                compared with them, bit by bit; every layer's hash is written down. Operations, bytes and exchanges of \
                every rank are counted where they are enqueued. Before, a model of 3 layers, 1024 wide, over every degree \
                against the whole in f64 on operands that are quantised as they are on the GPU.",
    samples: 0,
    expected_s: 14.0,
    deadline_s: 400.0,
    kernels: crate::model::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    small(&bench, assignment.seed, recorder)?;
    let setting = Setting::new(&bench, assignment, Precision::E4m3)?;
    setting.one_gpu(recorder)?;
    let degrees = bench.degrees();
    for degree in &degrees {
        let degree = *degree;
        let what = format!("degree-{degree}");
        recorder.progress(&what);
        let gpus = bench.first(degree);
        let mut group = setting.group(&gpus, 2)?;
        bench::write_choices(recorder, &what, &group)?;
        let found = setting.compared(&mut group, (0, 0))?;
        setting.write(recorder, &what, degree, &found);
        let disagreeing = setting.metric(AGREEMENT, &what, degree, found.disagreeing as f64);
        recorder.metric(disagreeing);
        recorder.option(&format!("hashes {what}"), found.hash_text());
        setting.participation(&mut group, &what, recorder)?;
        if Some(&degree) == degrees.last() {
            planted(&setting, &mut group, recorder)?;
        }
    }
    let most = degrees.last().copied().ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    setting.other_orders(most, recorder)?;
    drop(setting);
    bench.lab.close(recorder);
    Ok(())
}

/// The small model over every degree beside f64.
fn small(bench: &Bench, seed: u64, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("f64");
    let config = Config { seed, precision: Precision::E4m3, ..oracle::CONFIG };
    let tokens = bench::tokens(&config, &oracle::PROBLEM, seed);
    let wanted = reference::logits(&config, &oracle::PROBLEM, &tokens);
    let run = |config, degree: usize| -> Result<f64, Stop> {
        let gpus = bench.first(degree);
        let mut group = bench::group(&gpus, config, Split::Outputs, oracle::PROBLEM, &tokens)?;
        Ok(finite(bench::apart(&oracle::pass(&mut group)?, &wanted)))
    };
    for degree in std::iter::once(1).chain(bench.degrees()) {
        let name = degree.to_string();
        let metric =
            |error| Metric::exact(ERROR, &[("degree", &name)], bench.indices(degree), error);
        recorder.metric(metric(run(config, degree)?));
        if degree == 1 {
            let sixteen = Config { precision: Precision::F16, ..config };
            recorder.control("fp16-for-fp8", metric(run(sixteen, degree)?));
        }
    }
    Ok(())
}

fn planted(
    setting: &Setting<'_>,
    group: &mut Group<'_>,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("planted faults");
    let degree = group.degree() as usize;
    let what = format!("degree-{degree}");
    let last = group.degree() - 1;
    let time = Duration::from_millis(50);
    for (control, fault) in [
        ("dropped-contribution", Fault::Dropped { rank: last, layer: LAYER }),
        (setting::SWAPPED_SHARDS.name, Fault::Swapped { layer: LAYER }),
        ("unwaited", Fault::Unwaited { rank: last, layer: LAYER, time }),
    ] {
        group.plant(Some(fault));
        let found = setting.compared(group, (0, 0))?;
        group.plant(None);
        recorder.option(&format!("drift {control}"), found.text());
        recorder.control(control, setting.metric(METRIC, &what, degree, found.count as f64));
    }
    let place = Place::Linear(Linear::Up, LAYER);
    group.flip(last, place, 1_000_003)?;
    let found = setting.compared(group, (0, 0))?;
    group.flip(last, place, 1_000_003)?;
    recorder.control("flipped-bit", setting.metric(METRIC, &what, degree, found.count as f64));
    group.plant(Some(Fault::Stray { rank: last, layer: LAYER }));
    let disagreeing = setting.compared(group, (0, 0))?.disagreeing as f64;
    group.plant(None);
    recorder
        .control(setting::STRAY_BIT.name, setting.metric(AGREEMENT, &what, degree, disagreeing));
    Ok(())
}
