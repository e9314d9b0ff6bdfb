//! Locks: one run to a GPU.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::lock::acquire;
use rustix::process::Signal;

use crate::machine::{gpu, gpus, myself, note, send, wait_until};

pub const TESTS: &[crate::Test] = &[
    ("locks::held_by_one", held_by_one),
    ("locks::all_or_nothing", all_or_nothing),
    ("locks::released_by_death", released_by_death),
];

/// Holds gpu0 until it is killed.
pub fn hold(folder: &Path) -> i32 {
    let _held = acquire(&gpus(1), folder).expect("a lock");
    fs::write(note(folder, "held"), "").expect("a note");
    std::thread::sleep(Duration::from_secs(600));
    0
}

fn held_by_one() {
    let folder = tempfile::tempdir().expect("folder");
    let below = folder.path().join("made/on/demand");
    let held = acquire(&gpus(2), &below).expect("free");
    let error = acquire(&[gpu(1)], &below).expect_err("held");
    let lead =
        format!("gpu1 is in use by another touchstone run (pid {}, since 20", std::process::id());
    assert!(error.starts_with(&lead) && error.ends_with("Z)"), "{error}");
    drop(held);
    let _held = acquire(&[gpu(1), gpu(1)], &below).expect("free again");
}

fn all_or_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let _third = acquire(&[gpu(3)], folder.path()).expect("free");
    let error = acquire(&gpus(4), folder.path()).expect_err("one is held");
    assert!(error.starts_with("gpu3 is in use"), "{error}");
    let _others = acquire(&gpus(3), folder.path()).expect("none was kept");
}

fn released_by_death() {
    let folder = tempfile::tempdir().expect("folder");
    let command = myself("--hold");
    let mut holder = Command::new(&command[0])
        .arg(&command[1])
        .arg(folder.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("a holder");
    wait_until("the holder", || note(folder.path(), "held").exists());
    let error = acquire(&gpus(2), folder.path()).expect_err("held");
    assert!(error.contains(&format!("(pid {}, since ", holder.id())), "{error}");
    send(i32::try_from(holder.id()).expect("a process id"), Signal::KILL);
    holder.wait().expect("a status");
    let _held = acquire(&gpus(2), folder.path()).expect("the holder is dead");
}
