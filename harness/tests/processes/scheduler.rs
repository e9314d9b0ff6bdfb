//! The scheduler over four fake GPUs. What must overlap waits for the other, so that no test here
//! depends on how fast the machine is.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::case::Case;
use harness::evidence::{How, Part};
use harness::interrupt::Interrupt;
use harness::schedule::{Event, Planned, Settings, run};

use crate::cases::{self, CASES, FINE, HOST, HOST_LATER, LATER, NODE, NODE_LATER};
use crate::machine::{FakeNode, failure, planned, run_plan, run_with, settings};

pub const TESTS: &[crate::Test] = &[
    ("scheduler::gpus_work_side_by_side", side_by_side),
    ("scheduler::no_barrier_between_cases", no_barrier),
    ("scheduler::host_beside_gpus", host_beside_gpus),
    ("scheduler::node_alone", node_alone),
    ("scheduler::order_of_the_plan", order),
    ("scheduler::quarantine", quarantine),
    ("scheduler::again_once", again_once),
    ("scheduler::again_only_if_all_completed", again_only_if_completed),
    ("scheduler::not_started", not_started),
    ("scheduler::no_time", no_time),
    ("scheduler::no_environment", no_environment),
    ("scheduler::no_probe_case", no_probe_case),
    ("scheduler::interrupt", interrupt),
    ("scheduler::xids_and_parts", xids_and_parts),
];

const ALL: &[u32] = &[0, 1, 2, 3];

fn side_by_side() {
    let (delivered, _folder) = run_plan(vec![planned(&cases::MEET, ALL)]);
    assert_eq!(delivered.words(&cases::MEET), ["completed"; 4]);
}

fn no_barrier() {
    let plan = vec![planned(&cases::WAITS, &[0, 1]), planned(&cases::ARRIVES, &[0, 1])];
    let (delivered, _folder) = run_plan(plan);
    assert_eq!(delivered.words(&cases::WAITS), ["completed"; 2]);
}

fn host_beside_gpus() {
    let plan = vec![planned(&cases::MEET_GPU, &[0]), planned(&cases::MEET_HOST, &[])];
    let (delivered, _folder) = run_plan(plan);
    assert_eq!(delivered.words(&cases::MEET_GPU), ["completed"]);
    assert_eq!(delivered.words(&cases::MEET_HOST), ["completed"]);
    assert!(delivered.parts(&cases::MEET_HOST)[0].devices.is_empty());
}

fn value(part: &Part, name: &str) -> f64 {
    part.metrics.iter().find(|metric| metric.name == name).expect(name).values[0]
}

fn node_alone() {
    let (delivered, _folder) = run_plan(vec![
        planned(&FINE, ALL),
        planned(&HOST, &[]),
        planned(&NODE, ALL),
        planned(&HOST_LATER, &[]),
        planned(&LATER, ALL),
        planned(&NODE_LATER, &[0, 1]),
    ]);
    let all = [&FINE, &HOST, &NODE, &HOST_LATER, &LATER, &NODE_LATER];
    let span = |part: &Part| (value(part, "start_s"), value(part, "end_s"));
    for node in [&NODE, &NODE_LATER] {
        let [part] = delivered.parts(node) else { panic!("not one part") };
        let (start, end) = span(part);
        for other in all.iter().filter(|other| other.id != node.id) {
            for (other_start, other_end) in delivered.parts(other).iter().map(span) {
                let is_apart = other_end <= start || end <= other_start;
                assert!(is_apart, "{} beside {}", other.id, node.id);
            }
        }
    }
    assert_eq!(delivered.parts(&NODE)[0].devices.len(), 4);
    assert_eq!(delivered.parts(&NODE_LATER)[0].devices.len(), 2);
}

fn order() {
    let plan = vec![planned(&FINE, ALL), planned(&LATER, &[1, 3]), planned(&NODE, ALL)];
    let (delivered, _folder) = run_plan(plan);
    let mut started: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for event in &delivered.events {
        if let Event::PartStarted { case, gpus, attempt: 1 } = event {
            gpus.iter().for_each(|gpu| started.entry(*gpu).or_default().push(case.id));
        }
    }
    let (short, long) = (vec![FINE.id, NODE.id], vec![FINE.id, LATER.id, NODE.id]);
    let expect = [(0, short.clone()), (1, long.clone()), (2, short), (3, long)];
    assert_eq!(started, BTreeMap::from(expect));
    let gpus: Vec<u32> = delivered.parts(&FINE).iter().map(|part| part.devices[0].gpu).collect();
    assert_eq!(gpus, ALL);
}

fn quarantine() {
    let (delivered, _folder) = run_plan(vec![
        planned(&cases::SICKENS, ALL),
        planned(&FINE, ALL),
        planned(&NODE, ALL),
        planned(&NODE_LATER, &[0, 2, 3]),
        planned(&HOST, &[]),
        planned(&LATER, &[1, 2]),
    ]);
    let is = |case, expect: &[&str]| assert_eq!(delivered.words(case), expect);
    is(&cases::SICKENS, &["completed", "crash", "crash", "completed"]);
    is(&FINE, &["completed", "quarantined", "completed", "completed"]);
    is(&NODE, &["quarantined"]);
    is(&NODE_LATER, &["completed"]);
    is(&HOST, &["completed"]);
    is(&LATER, &["quarantined", "completed"]);
    let why = "its probe failed: wrong_count = 1, wanted 0";
    assert_eq!(delivered.quarantined(), [(1, why)]);
    let lost = failure(&delivered.parts(&NODE)[0]);
    assert_eq!(lost.detail, format!("gpu1 is quarantined: {why}"));
    let probed = |event: &Event| match event {
        Event::Probing { gpu } => Some(*gpu),
        _ => None,
    };
    let mut probes: Vec<u32> = delivered.events.iter().filter_map(probed).collect();
    probes.sort_unstable();
    assert_eq!(probes, [1, 2]);
}

/// Runs a plan with an `again` that always says yes; returns which cases it was asked about.
fn run_again(plan: Vec<Planned>) -> (crate::machine::Delivered, Vec<&'static str>) {
    let folder = tempfile::tempdir().expect("folder");
    let mut asked = Vec::new();
    let mut again = |case: &'static Case, parts: &[Part]| {
        assert!(parts.iter().all(|part| part.attempt == 1));
        asked.push(case.id);
        true
    };
    let settings = settings(folder.path());
    let delivered = run_with(&settings, plan, &mut again, &mut |_| {}, &Interrupt::new());
    (delivered, asked)
}

fn again_once() {
    let plan = vec![
        planned(&FINE, &[0, 1]),
        planned(&NODE, &[0, 1]),
        planned(&LATER, &[0, 1]),
        planned(&HOST, &[]),
    ];
    let (delivered, mut asked) = run_again(plan);
    asked.sort_unstable();
    assert_eq!(asked, [FINE.id, HOST.id, LATER.id, NODE.id]);
    let order = |case| {
        let parts = delivered.parts(case).iter();
        parts.map(|p| (p.attempt, p.devices.first().map(|d| d.gpu))).collect::<Vec<_>>()
    };
    let each = [(1, Some(0)), (1, Some(1)), (2, Some(0)), (2, Some(1))];
    assert_eq!(order(&FINE), each);
    assert_eq!(order(&LATER), each);
    assert_eq!(order(&NODE), [(1, Some(0)), (2, Some(0))]);
    assert_eq!(order(&HOST), [(1, None), (2, None)]);
    assert_eq!(delivered.parts(&NODE)[1].devices.len(), 2);
    for part in delivered.parts(&FINE) {
        assert_eq!(part.options["attempt"], part.attempt.to_string());
    }
}

fn again_only_if_completed() {
    let (delivered, asked) =
        run_again(vec![planned(&cases::SICKENS, &[0, 2]), planned(&cases::NOT_RUN, &[0])]);
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(delivered.words(&cases::SICKENS), ["completed", "crash"]);
}

fn not_started() {
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = settings(folder.path());
    settings.command = vec!["/nowhere/at-all".into()];
    let plan = vec![planned(&FINE, &[0]), planned(&NODE, &[]), planned(&HOST, &[])];
    let delivered = run_with(&settings, plan, &mut |_, _| true, &mut |_| {}, &Interrupt::new());
    for case in [&FINE, &NODE, &HOST] {
        assert_eq!(delivered.words(case), ["not-started"]);
    }
    let detail = |case| failure(&delivered.parts(case)[0]).detail.clone();
    assert!(detail(&FINE).starts_with("could not be started: No such file"), "{}", detail(&FINE));
    assert_eq!(detail(&NODE), "was planned without a GPU");
    assert!(delivered.quarantined().is_empty());
}

/// Every case here expects a tenth of a second: no time is left for any, and for every one in an hour.
fn no_time() {
    let folder = tempfile::tempdir().expect("folder");
    let limited = |limit| {
        let settings = Settings { time_limit: Some(limit), ..settings(folder.path()) };
        let plan = vec![planned(&FINE, &[0, 1]), planned(&NODE, &[0, 1]), planned(&HOST, &[])];
        run_with(&settings, plan, &mut |_, _| false, &mut |_| {}, &Interrupt::new())
    };
    let delivered = limited(Duration::ZERO);
    assert_eq!(delivered.words(&FINE), ["not-run"; 2]);
    assert_eq!(delivered.words(&NODE), ["not-run"]);
    assert_eq!(delivered.words(&HOST), ["not-run"]);
    assert!(delivered.quarantined().is_empty());
    let delivered = limited(Duration::from_secs(3600));
    assert_eq!(delivered.words(&FINE), ["completed"; 2]);
    assert_eq!(delivered.words(&NODE), ["completed"]);
}

fn no_environment() {
    let folder = tempfile::tempdir().expect("folder");
    let node = FakeNode { environment: Err("no libcudart in /usr/local/cuda/lib64".into()) };
    let mut details = Vec::new();
    let mut events = |event: Event| {
        if let Event::CaseEnded { parts, .. } = event {
            let failure = failure(&parts[0]);
            details.push((failure.how, failure.detail.clone()));
        }
    };
    let settings = settings(folder.path());
    let plan = vec![planned(&FINE, &[0])];
    run(&node, CASES, plan, &settings, &mut |_, _| true, &mut events, &Interrupt::new());
    assert_eq!(details, [(How::NotStarted, "no libcudart in .../lib64".to_owned())]);
}

fn no_probe_case() {
    let folder = tempfile::tempdir().expect("folder");
    let mut words = Vec::new();
    let mut events = |event: Event| {
        if let Event::CaseEnded { parts, .. } = event {
            words.extend(parts.iter().map(|part| harness::child::word(&part.outcome)));
        }
    };
    let settings = settings(folder.path());
    let plan = vec![planned(&cases::EXIT, &[0]), planned(&FINE, &[0])];
    let node = FakeNode::default();
    run(&node, &[], plan, &settings, &mut |_, _| true, &mut events, &Interrupt::new());
    assert_eq!(words, ["crash", "quarantined"]);
}

fn interrupt() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = settings(folder.path());
    let plan =
        vec![planned(&FINE, &[0, 1]), planned(&cases::ENDLESS, &[0, 1]), planned(&NODE, ALL)];
    let interrupt = Interrupt::new();
    let mut raise = |event: &Event| {
        if matches!(event, Event::Progress { .. }) && !interrupt.asked() {
            interrupt.raise();
        }
    };
    let delivered = run_with(&settings, plan, &mut |_, _| false, &mut raise, &interrupt);
    for part in delivered.parts(&cases::ENDLESS) {
        assert_eq!(failure(part).how, How::Interrupted, "{:?}", part.outcome);
    }
    // One GPU may still have been at the first case when the other was at the second.
    let words = delivered.words(&FINE);
    assert!(words.contains(&"completed"), "{words:?}");
    assert_eq!(failure(&delivered.parts(&NODE)[0]).detail, "interrupted before it began");
    assert!(delivered.quarantined().is_empty());
}

fn xids_and_parts() {
    let (delivered, _folder) =
        run_plan(vec![planned(&FINE, &[0, 3]), planned(&NODE, ALL), planned(&HOST, &[])]);
    let xids = |case| delivered.parts(case).iter().map(|p| p.xids.clone()).collect::<Vec<_>>();
    assert_eq!(xids(&FINE), [vec![], vec![79]]);
    assert_eq!(xids(&NODE), [vec![79]]);
    assert_eq!(xids(&HOST).concat(), Vec::<u64>::new());
    for part in delivered.parts(&FINE) {
        assert!(part.wall_s > 0.0 && part.wall_s.is_finite());
        let started: jiff::Timestamp = part.started.parse().expect("RFC 3339");
        let age = jiff::Timestamp::now().duration_since(started);
        assert!((-1..3600).contains(&age.as_secs()), "{age:?}");
    }
}
