//! Every way in which a child can end: each gives one broken part that says what happened, and the
//! next case of the GPU goes on.

use std::time::{Duration, Instant};

use harness::case::Case;
use harness::child::{HEAD_BYTES, Launch, TAIL_BYTES, spawn, word};
use harness::evidence::{Outcome, Part, Tier};
use harness::interrupt::Interrupt;
use harness::record::{Assigned, Assignment};
use harness::schedule::Event;
use rustix::process::Signal;

use crate::cases::{self, FINE};
use crate::machine::{
    failure, gpu, is_dead, myself, pid_in, planned, run_plan, run_with, send, settings, wait_dead,
};

pub const TESTS: &[crate::Test] = &[
    ("children::hang", hang),
    ("children::stubborn", stubborn),
    ("children::crashes", crashes),
    ("children::own_words", own_words),
    ("children::bad_results", bad_results),
    ("children::killed_from_outside", killed_from_outside),
    ("children::grandchild_ends_with_a_child_that_ended_well", grandchild),
    ("children::grandchild_ends_with_a_hanging_child", grandchild_of_hang),
    ("children::escaped_grandchild_keeps_nobody_waiting", escaped),
    ("children::flood", flood),
    ("children::nothing_names_the_machine", telltale),
    ("children::environment", environment),
];

/// Runs the case and then a good one on the same GPU; returns the part of the first.
#[track_caller]
fn run_bad(case: &'static Case) -> Part {
    let (delivered, _folder) = run_plan(vec![planned(case, &[0]), planned(&FINE, &[0])]);
    assert_eq!(delivered.words(&FINE), ["completed"], "after {}", case.id);
    assert!(delivered.quarantined().is_empty());
    let [part] = delivered.parts(case) else { panic!("not one part") };
    assert_eq!(part.devices, [gpu(0).device]);
    part.clone()
}

#[track_caller]
fn check(case: &'static Case, expect_word: &str, expect_detail: &str) -> Part {
    let part = run_bad(case);
    assert_eq!(word(&part.outcome), expect_word, "{:?}", part.outcome);
    let detail = &failure(&part).detail;
    assert!(detail.contains(expect_detail), "{detail:?} has no {expect_detail:?}");
    assert_eq!(failure(&part).repro, format!("touchstone {} --gpus [0]", case.id));
    part
}

fn hang() {
    let part = check(&cases::HANG, "hang", "passed its deadline of 2.0 s, was ended by SIGTERM");
    let pid = pid_in(&part.progress).expect("its progress");
    let stage = format!("its last progress was `pid {pid}`, ");
    assert!(failure(&part).detail.contains(&stage), "{:?}", part.outcome);
    assert!(part.wall_s >= 2.0, "{}", part.wall_s);
    assert!(part.log_tail.contains("::progress pid"));
    assert!(is_dead(pid));
}

fn stubborn() {
    let part = check(&cases::STUBBORN, "hang", "was ended by SIGKILL");
    assert!(part.wall_s >= 4.0, "no grace in {} s", part.wall_s);
    assert!(is_dead(pid_in(&part.progress).expect("its progress")));
}

fn crashes() {
    check(&cases::SEGFAULT, "crash", "crashed with SIGSEGV");
    check(&cases::ABORT, "crash", "crashed with SIGABRT");
    check(&cases::EXIT, "crash", "exited with 3");
}

fn own_words() {
    check(&cases::ERROR, "error", "no memory left");
    check(&cases::UNKNOWN, "error", "this executable has no case test::unknown");
    let panicked = check(&cases::PANIC, "error", "panicked: index 7 of 3");
    assert!(panicked.log_tail.contains("panicked at"), "{}", panicked.log_tail);
    let reason = "no library".to_owned();
    assert_eq!(run_bad(&cases::NOT_RUN).outcome, Outcome::NotRun(reason));
    let reason = "no FP4".to_owned();
    assert_eq!(run_bad(&cases::NOT_APPLICABLE).outcome, Outcome::NotApplicable(reason));
    let good = run_bad(&cases::LATER);
    assert_eq!((good.outcome, good.log_tail), (Outcome::Completed, String::new()));
}

fn bad_results() {
    check(&cases::NOTHING, "no-result", "exited with 0");
    check(&cases::HALF, "no-result", "its result of 27 bytes is no result: EOF");
    check(&cases::NULL, "no-result", "is no result: invalid type: null, expected f64");
    let part = check(&cases::NAN, "error", "metric copy_gbps holds NaN");
    assert!(part.metrics.is_empty());
}

fn killed_from_outside() {
    let folder = tempfile::tempdir().expect("folder");
    let plan = vec![planned(&cases::VICTIM, &[0]), planned(&FINE, &[0])];
    let mut kill = |event: &Event| {
        if let Event::Progress { stage, .. } = event {
            send(pid_in(stage).expect("its progress"), Signal::KILL);
        }
    };
    let settings = settings(folder.path());
    let delivered = run_with(&settings, plan, &mut |_, _| false, &mut kill, &Interrupt::new());
    assert_eq!(delivered.words(&cases::VICTIM), ["killed"]);
    let detail = &failure(&delivered.parts(&cases::VICTIM)[0]).detail;
    assert!(detail.starts_with("SIGKILL from outside after "), "{detail}");
    assert_eq!(delivered.words(&FINE), ["completed"]);
}

fn grandchild() {
    let part = run_bad(&cases::GRANDCHILD);
    assert_eq!(part.outcome, Outcome::Completed);
    wait_dead(part.options["pid"].parse().expect("a process id"));
}

fn grandchild_of_hang() {
    let part = check(&cases::HANG_WITH_GRANDCHILD, "hang", "passed its deadline");
    wait_dead(pid_in(&part.progress).expect("its progress"));
}

fn escaped() {
    let part = run_bad(&cases::ESCAPED);
    assert_eq!(part.outcome, Outcome::Completed);
    // It left the group: it lives on with the log's pipe, and this run has ended all the same.
    let pid = part.options["pid"].parse().expect("a process id");
    assert!(!is_dead(pid));
    send(pid, Signal::KILL);
}

fn flood() {
    let folder = tempfile::tempdir().expect("folder");
    let assigned = Assigned { uuid: gpu(0).uuid, device: gpu(0).device };
    let assignment = Assignment {
        case: cases::FLOOD.id.into(),
        tier: Tier::Quick,
        attempt: 1,
        devices: vec![assigned],
        seed: 7,
        self_test: false,
        cache: folder.path().into(),
        root: folder.path().into(),
        result: folder.path().join("result.json"),
    };
    let mut process = spawn(&Launch {
        command: &myself("--child"),
        assignment: &assignment,
        file: &folder.path().join("assignment.json"),
        environment: &Default::default(),
        deadline: Duration::from_secs(120),
    })
    .expect("a child");
    let finished = loop {
        if let Some(finished) = process.poll() {
            break finished;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(finished.log.total() >= 100 * 1024 * 1024, "{}", finished.log.total());
    assert!(finished.log.held() <= HEAD_BYTES + TAIL_BYTES + 1024, "{}", finished.log.held());
    assert_eq!(finished.log.progress().map(|(stage, _)| stage), Some("flooded"));
    let is_in_folder = |name: &str| folder.path().join(name).exists();
    assert!(is_in_folder("result.json") && is_in_folder("assignment.json"));
    let bytes = |entry: std::fs::DirEntry| entry.metadata().expect("metadata").len();
    let entries = std::fs::read_dir(folder.path()).expect("folder");
    let on_disk: u64 = entries.map(|entry| bytes(entry.expect("entry"))).sum();
    assert!(on_disk < 10_000, "{on_disk} bytes on disk");

    let start = Instant::now();
    let part = check(&cases::FLOOD, "error", "after the flood");
    assert!(part.log_tail.len() <= 4096, "{}", part.log_tail.len());
    assert!(part.log_tail.contains("cut from 1048"), "{}", part.log_tail);
    assert!(start.elapsed().as_secs_f64() >= part.wall_s);
}

fn telltale() {
    let part =
        check(&cases::TELLTALE, "error", "gpu0 on <host> reads <root>/a.bin and .../libx.so.1");
    let text = serde_json::to_string(&part).expect("JSON");
    assert!(part.log_tail.contains("gpu0 on <host> reads <root>/a.bin"), "{}", part.log_tail);
    for secret in [&gpu(0).uuid, "/opt", "\\u001b", "\\u0007"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

fn environment() {
    let part = run_bad(&cases::ENVIRONMENT);
    let value = |name: &str| part.options.get(name).map(String::as_str);
    assert_eq!(value("CUDA_VISIBLE_DEVICES"), Some(gpu(0).uuid.as_str()));
    assert_eq!(value("CUDA_DEVICE_ORDER"), Some("PCI_BUS_ID"));
    assert_eq!(value("NCCL_NVLS_ENABLE"), Some("0"));
    assert_eq!(value("FROM_THE_NODE"), Some("node"));
    assert_eq!(value("GIVEN"), Some("given"));
    assert_eq!(value("PATH"), std::env::var("PATH").ok().as_deref());
    assert_eq!(value("TOUCHSTONE_OF_THE_PARENT"), None);
}
