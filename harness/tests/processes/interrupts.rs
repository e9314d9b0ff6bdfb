//! A runner in a process of its own, which the tests interrupt and kill.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use harness::interrupt::Interrupt;
use harness::schedule::{Event, run as run_cases};
use rustix::process::Signal;

use crate::cases::{self, CASES, FINE, LATER};
use crate::machine::{
    FakeNode, is_dead, myself, note, pid_in, planned, send, settings, wait_dead, wait_until,
};

pub const TESTS: &[crate::Test] = &[
    ("interrupts::ctrl_c_keeps_what_is_finished", ctrl_c),
    ("interrupts::second_ctrl_c_means_now", second_ctrl_c),
    ("interrupts::children_die_with_a_killed_runner", killed_runner),
];

/// A runner: one case that ends, one that never does, and one after it.
pub fn run(folder: &Path) -> i32 {
    let interrupt = Interrupt::install().expect("handlers");
    let endless = match note(folder, "stubborn").exists() {
        true => &cases::STUBBORN_LONG,
        false => &cases::ENDLESS,
    };
    let plan = [&FINE, endless, &LATER].map(|case| planned(case, &[0])).to_vec();
    let write = |name: &str, line: &str| {
        let file = OpenOptions::new().append(true).create(true).open(note(folder, name));
        writeln!(file.expect("a note"), "{line}").expect("a note");
    };
    let mut events = |event: Event| match event {
        Event::Progress { stage, .. } => {
            fs::write(note(folder, "new"), stage).expect("a note");
            fs::rename(note(folder, "new"), note(folder, "pid")).expect("a note");
        }
        Event::CaseEnded { case, parts } => {
            let word = harness::child::word(&parts[0].outcome);
            write("ended", &format!("{} {word}", case.id));
        }
        _ => {}
    };
    let settings = settings(folder);
    let again = &mut |_: &'static _, _: &[_]| false;
    run_cases(&FakeNode::default(), CASES, plan, &settings, again, &mut events, &interrupt);
    if interrupt.asked() { 130 } else { 0 }
}

/// Starts the runner and waits until its endless case runs; returns it and that child's id.
fn start(folder: &Path) -> (Child, i32) {
    let command = myself("--run");
    let runner = Command::new(&command[0])
        .arg(&command[1])
        .arg(folder)
        .stdin(Stdio::null())
        .spawn()
        .expect("a runner");
    wait_until("the endless case", || note(folder, "pid").exists());
    let stage = fs::read_to_string(note(folder, "pid")).expect("a note");
    (runner, pid_in(&stage).expect("a process id"))
}

fn id_of(runner: &Child) -> i32 {
    i32::try_from(runner.id()).expect("a process id")
}

fn wait(mut runner: Child) -> ExitStatus {
    let mut status = None;
    wait_until("the runner", || {
        status = runner.try_wait().expect("a status");
        status.is_some()
    });
    status.expect("a status")
}

#[track_caller]
fn check_ended(folder: &Path, endless: &str) {
    let ended = fs::read_to_string(note(folder, "ended")).expect("a note");
    let mut lines: Vec<&str> = ended.lines().collect();
    lines.sort_unstable();
    let endless = format!("{endless} interrupted");
    let mut expect = ["test::fine completed", "test::later interrupted", &endless];
    expect.sort_unstable();
    assert_eq!(lines, expect);
    assert!(!folder.join("work").exists());
}

fn ctrl_c() {
    let folder = tempfile::tempdir().expect("folder");
    let (runner, pid) = start(folder.path());
    send(id_of(&runner), Signal::INT);
    assert_eq!(wait(runner).code(), Some(130));
    assert!(is_dead(pid));
    check_ended(folder.path(), cases::ENDLESS.id);
}

fn second_ctrl_c() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(note(folder.path(), "stubborn"), "").expect("a note");
    let (runner, pid) = start(folder.path());
    send(id_of(&runner), Signal::INT);
    // What has not begun is delivered as soon as the first signal is seen: then comes the second.
    let seen = || {
        let ended = fs::read_to_string(note(folder.path(), "ended")).unwrap_or_default();
        ended.contains("test::later interrupted")
    };
    wait_until("the first signal to be seen", seen);
    send(id_of(&runner), Signal::TERM);
    assert_eq!(wait(runner).code(), Some(130));
    assert!(is_dead(pid));
    check_ended(folder.path(), cases::STUBBORN_LONG.id);
}

fn killed_runner() {
    let folder = tempfile::tempdir().expect("folder");
    let (runner, pid) = start(folder.path());
    send(id_of(&runner), Signal::KILL);
    assert_eq!(wait(runner).signal(), Some(9));
    wait_dead(pid);
}
