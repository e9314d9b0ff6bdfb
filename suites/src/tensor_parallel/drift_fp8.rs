//! In FP8 what `drift` asks of fp16 beyond the degrees: the same bits again, late, in step, alone, anew and elsewhere.

use harness::case::{Case, Control, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::Precision;
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::rank::Place;
use kernels::model::weights::Linear;

use super::bench::{self, Bench};
use super::setting::{
    LAYER, METRIC, NEW_AND_FLIPPED, NOT_DELAYED, OTHER_ORDER, OTHER_SEED, Setting, UNWAITED,
    planted_drift,
};

const FLIPPED: &str = "flipped-bit";

static CONTROLS: [Control; 6] = [
    planted_drift(FLIPPED, "the lowest mantissa bit of one E4M3 weight of one rank is flipped"),
    OTHER_ORDER,
    UNWAITED,
    planted_drift(
        NEW_AND_FLIPPED,
        "in the group that was made anew the lowest mantissa bit of one E4M3 weight of one rank is flipped",
    ),
    OTHER_SEED,
    NOT_DELAYED,
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::fp8-again",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The model of tensor-parallel::fp8. One GPU's residual streams behind every layer and its logits are kept, \
                and every element of the largest degree's is compared with them, bit by bit, on every rank: of further \
                passes, with one rank or what it sends held up, without exchanges beside products, of one sequence alone, \
                of one sequence of 8192 tokens in two chunks, in the same process once the ranks and the access of the \
                GPUs to each other's memory are gone and made anew, and, by its hashes, in another process.",
    samples: 0,
    expected_s: 28.0,
    deadline_s: 400.0,
    kernels: crate::model::KERNELS,
    integrity: &[],
    controls: &CONTROLS,
    run: again,
};

fn again(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let setting = Setting::new(&bench, assignment, Precision::E4m3)?;
    drop(setting.keep(recorder)?);
    let degrees = bench.degrees();
    let most = degrees.last().copied().ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    recorder.progress("run to run");
    let mut group = setting.group(&bench.first(most), 2)?;
    bench::write_choices(recorder, &format!("degree-{most}"), &group)?;
    let all = setting.again(&mut group)?;
    setting.write(recorder, "run-to-run", most, &all);
    setting.delayed(&mut group, recorder)?;
    setting.other_process(&mut group, recorder)?;
    planted(&setting, &mut group, recorder)?;
    setting.serial(&mut group, recorder)?;
    setting.sequence_alone(&mut group, ("sequence-alone-over-all", most), recorder)?;
    drop(group);
    setting.new_communicator(most, recorder)?;
    setting.long_sequence(most, recorder)?;
    drop(setting);
    bench.lab.close(recorder);
    Ok(())
}

fn planted(
    setting: &Setting<'_>,
    group: &mut Group<'_>,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("planted faults");
    let (degree, last) = (group.degree() as usize, group.degree() - 1);
    let mut put = |control: &str, group: &mut Group<'_>| -> Result<(), Stop> {
        let found = setting.compared(group, (0, 0))?;
        recorder.option(&format!("drift {control}"), found.text());
        let metric = setting.metric(METRIC, "run-to-run", degree, found.count as f64);
        recorder.control(control, metric);
        Ok(())
    };
    group.plant(Some(Fault::OtherOrder { rank: last, layer: LAYER }));
    put(OTHER_ORDER.name, group)?;
    group.plant(None);
    let place = Place::Linear(Linear::Up, LAYER);
    group.flip(last, place, 1_000_003)?;
    put(FLIPPED, group)?;
    Ok(group.flip(last, place, 1_000_003)?)
}
