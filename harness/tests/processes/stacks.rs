//! Stacks that a process writes as it is asked to end.

use std::backtrace::Backtrace;
use std::fs;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::watchdog::stacks;
use rustix::process::Signal;

use crate::machine::{myself, note, send, wait_until};

pub const TESTS: &[crate::Test] = &[("stacks::of_every_thread", of_every_thread)];

/// Loops in one thread and waits in another until it is ended.
pub fn hang(folder: &Path) -> i32 {
    fs::write(note(folder, "stacks"), "of another process").expect("a note");
    stacks::write_on_end(note(folder, "stacks")).expect("signals");
    // Nobody asked yet: it changes nothing.
    send(i32::try_from(std::process::id()).expect("a process id"), Signal::USR2);
    let waits = std::thread::Builder::new().name("waiter".into());
    let waits = waits.spawn(waits_in_vain).expect("a thread");
    fs::write(note(folder, "begun"), "").expect("a note");
    loops_in_vain();
    drop(waits);
    0
}

#[inline(never)]
fn waits_in_vain() {
    loop {
        std::thread::sleep(black_box(Duration::from_secs(600)));
    }
}

#[inline(never)]
fn loops_in_vain() {
    let mut turns = 0u64;
    while black_box(turns) < u64::MAX {
        turns += 1;
    }
}

fn of_every_thread() {
    let folder = tempfile::tempdir().expect("folder");
    let command = myself("--hang");
    let mut hung = Command::new(&command[0])
        .arg(&command[1])
        .arg(folder.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("a process");
    wait_until("its loop", || note(folder.path(), "begun").exists());
    send(i32::try_from(hung.id()).expect("a process id"), Signal::TERM);
    let status = hung.wait().expect("a status");
    assert_eq!(status.signal(), Some(15), "{status:?}");
    let text = fs::read_to_string(note(folder.path(), "stacks")).expect("stacks");
    let of = |thread: &str| {
        let begins = |line: &&str| line.starts_with("thread ");
        let lines = text.lines().skip_while(|line| !(begins(line) && line.ends_with(thread)));
        lines.skip(1).take_while(|line| line.starts_with(' ')).collect::<Vec<_>>().join("\n")
    };
    // An executable that is stripped has addresses and no names.
    let named = format!("{:#}", Backtrace::force_capture()).contains("of_every_thread");
    let shows = |stack: &str, name| match named {
        true => stack.contains(name),
        false => stack.matches(" 0x").count() >= 3,
    };
    assert!(shows(&of(", waiter"), "waits_in_vain"), "{text}");
    let first = format!("thread {}, ", hung.id());
    let (_, behind) = text.split_once(&first).expect("the first thread");
    let of_first: String =
        behind.lines().skip(1).take_while(|line| line.starts_with(' ')).collect();
    assert!(shows(&of_first, "loops_in_vain"), "{text}");
    assert!(!text.contains(", stacks"), "the thread that asks is no answer: {text}");
    assert!(text.lines().any(|line| line.starts_with("module 0x")), "{text}");
    assert!(!text.contains("another process"), "{text}");
}
