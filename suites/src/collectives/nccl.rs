//! NCCL's results: exact on integers, within the bound on random values, the same on every rank, and
//! without multicast.

use std::path::PathBuf;

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::nccl::{self, Collective, Communicators, Operation};

use super::bench::{Bench, ELEMENTS, Payload, sized};
use super::{DROPPED, FLIPPED_INPUT, FLIPPED_OUTPUT};
use crate::lab::{self, Lab};

/// What NCCL leaves.
pub(super) static CASE: Case = Case {
    id: "collectives::nccl",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "One process drives all GPUs. Every collective runs on 4 KiB and 4 MiB of integers, whose \
                sums are exact in any order, and every element of every rank is compared; the \
                all-reduce in fp16, bf16 and f32. Of random values the largest error of a sum is taken \
                as a share of what any order of addition may err (the bound stands beside the kernel), \
                and every rank's words are compared with rank 0's through peer memory. NCCL's own log \
                says which algorithms, protocols and channels it chose.",
    samples: 0,
    expected_s: 5.0,
    deadline_s: 180.0,
    kernels: super::KERNELS,
    integrity: &["wrong_count"],
    controls: &CONTROLS,
    run,
};

static CONTROLS: [Control; 5] = [
    DROPPED,
    FLIPPED_INPUT,
    FLIPPED_OUTPUT,
    control(
        "dropped-random-rank",
        "the random values of one rank are zeros",
        "error_ratio",
        Expect::Refuted,
    ),
    MULTICAST_LINE,
];

/// For `multicast_count`.
pub(super) const MULTICAST_LINE: Control = control(
    "multicast-line",
    "the log is taken with a line that names an algorithm over multicast",
    "multicast_count",
    Expect::Refuted,
);

const SIZES: [u64; 2] = [4 << 10, 4 << 20];

/// Where NCCL writes its log: beside the result, and gone at the end.
pub(super) struct Log {
    file: PathBuf,
}

impl Log {
    /// Asks NCCL for its log. The first thing of a case: before any other thread is started.
    pub(super) fn ask(assignment: &Assignment) -> Log {
        let file = assignment.result.with_extension("nccl.log");
        // SAFETY: a child runs its case on its only thread that uses the environment; telemetry and
        // NCCL begin afterwards.
        unsafe { nccl::log_to(&file) };
        Log { file }
    }

    /// What the log says by now.
    pub(super) fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// Writes down what NCCL chose, as far as an option may be long.
    pub(super) fn write_down(&self, recorder: &mut Recorder) {
        let chosen = nccl::choices(&self.text());
        recorder.option("nccl_choices", chosen.lines.len());
        for (at, line) in chosen.lines.iter().take(40).enumerate() {
            recorder.option(&format!("nccl_choice.{at:02}"), line);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let log = Log::ask(assignment);
    lab::require(Library::Nccl)?;
    let lab = Lab::open(assignment, recorder)?;
    let bench = Bench::new(&lab, sized(SIZES[1], 1), assignment, recorder)?;
    recorder.progress("init nccl");
    let comms = Communicators::new(&lab.gpus)?;
    exact(&bench, &comms, recorder)?;
    random(&bench, &comms, recorder)?;
    comms.check()?;
    multicast(&log, recorder);
    drop(comms);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// One call on every GPU's own stream, waited for.
pub(super) fn once(
    bench: &Bench,
    comms: &Communicators<'_>,
    operation: Operation,
    element: Element,
    bytes: u64,
) -> Result<(), Stop> {
    let collective = Collective { operation, bytes, element };
    let prepared = comms.prepare(&bench.inputs, &bench.outputs, collective)?;
    prepared.launch(&bench.streams())?;
    bench.synchronize()
}

fn exact(bench: &Bench, comms: &Communicators<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    for operation in Operation::ALL {
        recorder.progress(operation.name());
        let elements =
            if operation == Operation::AllReduce { &ELEMENTS[..] } else { &ELEMENTS[..1] };
        for (element, name) in elements {
            for size in SIZES {
                let bytes = sized(size, bench.ranks());
                let payload = Payload::integers(*element);
                bench.fill(payload, bytes)?;
                once(bench, comms, operation, *element, bytes)?;
                let size = size.to_string();
                let at = [("op", operation.name()), ("type", *name), ("bytes", size.as_str())];
                let wrong = bench.wrong(operation, payload, bytes, false)?;
                for metric in bench.wrong_counts(&at, wrong) {
                    recorder.metric(metric);
                }
            }
        }
    }
    let element = Element::F16;
    let payload = Payload::integers(element);
    let bytes = sized(SIZES[1], bench.ranks());
    for fault in [DROPPED, FLIPPED_INPUT] {
        bench.fill(payload, bytes)?;
        match fault.name == DROPPED.name {
            true => bench.drop_rank(1)?,
            false => bench.flip_input(1, element)?,
        }
        once(bench, comms, Operation::AllReduce, element, bytes)?;
        let at = [("op", Operation::AllReduce.name()), ("type", "f16"), ("bytes", "4194304")];
        let wrong = bench.wrong(Operation::AllReduce, payload, bytes, false)?;
        for metric in bench.wrong_counts(&at, wrong) {
            recorder.control(fault.name, metric);
        }
    }
    Ok(())
}

fn random(bench: &Bench, comms: &Communicators<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    let bytes = sized(SIZES[1], bench.ranks());
    for (element, name) in ELEMENTS {
        recorder.progress(&format!("random {name}"));
        let payload = Payload::uniform(element);
        let at = [("type", name)];
        let errors = |bench: &Bench| -> Result<Vec<Metric>, Stop> {
            let errors = bench.errors(Operation::AllReduce, payload, bytes)?;
            let metric =
                |(index, error): (&u32, f64)| Metric::exact("error_ratio", &at, &[*index], error);
            Ok(bench.indices.iter().zip(errors).map(metric).collect())
        };
        bench.fill(payload, bytes)?;
        once(bench, comms, Operation::AllReduce, element, bytes)?;
        errors(bench)?.into_iter().for_each(|metric| recorder.metric(metric));
        let first = bench.indices[0];
        for (index, count) in bench.differing(bytes)? {
            let gpus = [first, index];
            recorder.metric(Metric::exact("differing_count", &at, &gpus, count as f64));
        }
        if element == Element::F16 {
            bench.flip_output(1, 4321)?;
            let (index, count) = bench.differing(bytes)?[0];
            let metric = Metric::exact("differing_count", &at, &[first, index], count as f64);
            recorder.control(FLIPPED_OUTPUT.name, metric);
            bench.fill(payload, bytes)?;
            bench.drop_rank(1)?;
            once(bench, comms, Operation::AllReduce, element, bytes)?;
            for metric in errors(bench)? {
                recorder.control("dropped-random-rank", metric);
            }
        }
    }
    Ok(())
}

/// Counts what of multicast the log shows; a log that names no choice at all proves nothing.
pub(super) fn multicast(log: &Log, recorder: &mut Recorder) {
    log.write_down(recorder);
    let text = log.text();
    let count = |text: &str| {
        let chosen = nccl::choices(text);
        (chosen.multicast + u64::from(chosen.lines.is_empty())) as f64
    };
    recorder.metric(Metric::exact("multicast_count", &[], &[], count(&text)));
    let line = "NCCL INFO AllReduce: 8 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..3}";
    let doctored = format!("{text}\n{line}\n");
    recorder
        .control(MULTICAST_LINE.name, Metric::exact("multicast_count", &[], &[], count(&doctored)));
}
