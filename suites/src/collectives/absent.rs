//! A rank that stays away from one of NCCL's all-reduces: the others are aborted, and the same process goes on with
//! new communicators.

use std::time::{Duration, Instant};

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Event, Gpu};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::nccl::{Collective, Communicators, Operation};

use super::bench::{Bench, ELEMENTS, Payload, sized};
use super::nccl::once;
use super::{DROPPED, FLIPPED_INPUT};
use crate::lab::{self, Lab};

/// What NCCL does without a rank.
pub(super) static CASE: Case = Case {
    id: "collectives::absent-rank",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: true,
    procedure: "One process drives all GPUs. All-reduces of 4 MiB of integers in fp16, bf16 and f32 are exact; \
                then the same in fp16 is enqueued on every GPU but the last. Half a second later the ranks that \
                have ended are counted, which should be none, and every communicator is aborted; the time runs \
                from the call until the aborts have returned and every stream has passed its all-reduce. New \
                communicators over the same GPUs then reduce the same integers again, and every element of every \
                rank is compared.",
    samples: 0,
    expected_s: 15.0,
    deadline_s: 120.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count", EARLY],
    controls: &CONTROLS,
    run,
};

/// Ranks that ended their all-reduce although one stayed away.
const EARLY: &str = "not_waiting_count";

static CONTROLS: [Control; 4] = [
    control(
        "abort-asked-late",
        "the abort is asked for after six seconds",
        "aborted_s",
        Expect::Refuted,
    ),
    control("everyone-comes", "no rank stays away, so none waits", EARLY, Expect::Corrupt),
    DROPPED,
    FLIPPED_INPUT,
];

const BYTES: u64 = 4 << 20;
const ELEMENT: Element = Element::F16;
/// How long the ranks are let wait before they are aborted.
const PATIENCE: Duration = Duration::from_millis(500);
const TOO_LATE: Duration = Duration::from_secs(6);

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    lab::require(Library::Nccl)?;
    let lab = Lab::open(assignment, recorder)?;
    let bench = Bench::new(&lab, sized(BYTES, 1), assignment, recorder)?;
    recorder.option("bytes", sized(BYTES, bench.ranks()));
    recorder.option("patience_ms", PATIENCE.as_millis());
    recorder.progress("init nccl");
    let comms = Communicators::new(&lab.gpus)?;
    exact(&bench, &comms, "before", recorder)?;
    recorder.progress("an absent rank");
    let waited = waits(&bench, &comms, PATIENCE, true)?;
    recorder.option("async_error", &waited.met);
    recorder.metric(waited.aborted(&bench));
    recorder.metric(waited.early(&bench));
    drop(comms);
    recorder.progress("new communicators");
    let comms = Communicators::new(&lab.gpus)?;
    exact(&bench, &comms, "after", recorder)?;
    recorder.progress("controls");
    wrong_sums(&bench, &comms, recorder)?;
    let everyone = waits(&bench, &comms, PATIENCE, false)?;
    recorder.control("everyone-comes", everyone.early(&bench));
    let late = waits(&bench, &comms, TOO_LATE, true)?;
    recorder.control("abort-asked-late", late.aborted(&bench));
    drop(comms);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// What became of the ranks but the last.
struct Waited {
    /// Those that had ended before they were aborted.
    early: usize,
    /// From the call until all were out of it.
    seconds: f64,
    /// What NCCL had met in the background by then.
    met: String,
}

impl Waited {
    fn early(&self, bench: &Bench) -> Metric {
        Metric::exact(EARLY, &[], bench.indices, self.early as f64)
    }

    fn aborted(&self, bench: &Bench) -> Metric {
        let seconds = (self.seconds * 1e3).round() / 1e3;
        Metric::exact("aborted_s", &[], bench.indices, seconds)
    }
}

/// One all-reduce, from which the last rank stays away or not. Where it does, the communicators are aborted and gone
/// afterwards. They have made the same call before.
fn waits(
    bench: &Bench,
    comms: &Communicators<'_>,
    patience: Duration,
    absent: bool,
) -> Result<Waited, Stop> {
    let payload = Payload::integers(ELEMENT);
    let bytes = sized(BYTES, bench.ranks());
    bench.fill(payload, bytes)?;
    let last = bench.ranks() - 1;
    let streams = bench.streams();
    let ends = bench.gpus[..last].iter().map(Gpu::new_event);
    let ends: Vec<Event> = ends.collect::<Result<_, _>>()?;
    let collective = Collective { operation: Operation::AllReduce, bytes, element: ELEMENT };
    let prepared = comms.prepare(&bench.inputs, &bench.outputs, collective)?;
    let called = Instant::now();
    match absent {
        true => prepared.launch_without(&streams, last)?,
        false => prepared.launch(&streams)?,
    }
    ends.iter().zip(&streams).try_for_each(|(end, stream)| end.record(stream))?;
    std::thread::sleep(patience);
    let early = ends.iter().map(Event::passed).collect::<Result<Vec<bool>, _>>()?;
    let met = comms.check().map_or_else(|error| error.to_string(), |()| "none".to_owned());
    if absent {
        comms.abort()?;
    }
    ends.iter().try_for_each(Event::synchronize)?;
    let seconds = called.elapsed().as_secs_f64();
    drop(prepared);
    Ok(Waited { early: early.into_iter().filter(|ended| *ended).count(), seconds, met })
}

/// Sums of integers, in every type.
fn exact(
    bench: &Bench,
    comms: &Communicators<'_>,
    when: &str,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let bytes = sized(BYTES, bench.ranks());
    for (element, name) in ELEMENTS {
        let payload = Payload::integers(element);
        bench.fill(payload, bytes)?;
        once(bench, comms, Operation::AllReduce, element, bytes)?;
        let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
        for metric in bench.wrong_counts(&[("type", name), ("when", when)], wrong) {
            recorder.metric(metric);
        }
    }
    Ok(comms.check()?)
}

/// The same with a wrong value of one rank.
fn wrong_sums(
    bench: &Bench,
    comms: &Communicators<'_>,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let payload = Payload::integers(ELEMENT);
    let bytes = sized(BYTES, bench.ranks());
    for fault in [DROPPED, FLIPPED_INPUT] {
        bench.fill(payload, bytes)?;
        match fault.name == DROPPED.name {
            true => bench.drop_rank(1)?,
            false => bench.flip_input(1, ELEMENT)?,
        }
        once(bench, comms, Operation::AllReduce, ELEMENT, bytes)?;
        let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
        for metric in bench.wrong_counts(&[("type", "f16"), ("when", "after")], wrong) {
            recorder.control(fault.name, metric);
        }
    }
    Ok(())
}
