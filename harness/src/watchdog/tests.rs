//! Shells that hang, and what they leave.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::*;
use crate::child::{End, Redactor};
use crate::files;

/// Far more than a shell needs here, on any machine.
const PLENTY: Duration = Duration::from_secs(60);

/// More than a process takes to end that listens, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

#[track_caller]
fn watched(script: &str, stages: &[(&str, Duration)], patience: Duration) -> Watched {
    watch(shell(script), &Budgets { stages, patience }).expect("a shell")
}

/// Ends in `stage`, soon, with all that it started.
#[track_caller]
fn check(script: &str, expect: &str) -> Watched {
    let budgets = [("two", Duration::from_millis(400))];
    let watched = watched(script, &budgets, Duration::from_secs(4));
    let hang = watched.hang.as_ref().expect("ended");
    assert_eq!(hang.stage, expect);
    assert!(hang.after >= hang.most || expect != "two", "{hang:?}");
    assert!(watched.late().expect("ended") < SOON, "{watched:?}");
    assert!(matches!(watched.finished.end, End::Exited(_)));
    assert_eq!(watched.left, 0);
    watched
}

const HANGS: &str = "echo '::progress one'; echo '::progress two'; sleep 600";

#[test]
fn a_process_in_time_is_left_alone() {
    let script =
        "echo '::progress one'; sleep 0.1; echo '::progress two'; sleep 0.1; echo 'bits 12 ab'";
    let watched = watched(script, &[("one", PLENTY), ("two", PLENTY)], PLENTY);
    assert_eq!(watched.hang, None);
    assert!(matches!(watched.finished.end, End::Exited(status) if status.success()));
    let stages: Vec<&str> = watched.stages.iter().map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(stages, [START, "one", "two"]);
    assert!(watched.stages[1].1 >= Duration::from_millis(90), "{:?}", watched.stages);
    assert_eq!(watched.said("bits").as_deref(), Some("12 ab"));
    assert_eq!((watched.said("bit"), watched.late()), (None, None));
}

#[test]
fn a_stage_that_passes_its_budget_is_named_and_ended() {
    let watched = check(HANGS, "two");
    let End::Exited(status) = watched.finished.end else { panic!("not reaped") };
    assert_eq!(status.signal(), Some(15));
}

#[test]
fn its_children_end_with_it() {
    let script = "echo '::progress two'; sleep 600 & sleep 600 & echo child $!; wait";
    let watched = check(script, "two");
    let hang = watched.hang.as_ref().expect("ended");
    let sleepers: Vec<&Thread> = hang.threads.iter().filter(|one| one.name == "sleep").collect();
    assert_eq!(sleepers.len(), 2, "{:?}", hang.threads);
    assert!(sleepers.iter().all(|one| one.ran_ms == 0 && one.state.starts_with('S')));
    let child = watched.said("child").expect("its id");
    // Nobody may have reaped it yet, since its parent is gone too.
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[test]
fn what_does_not_listen_is_killed() {
    let script = "trap '' TERM; echo '::progress two'; while :; do sleep 1; done";
    let watched = check(script, "two");
    let End::Exited(status) = watched.finished.end else { panic!("not reaped") };
    assert_eq!(status.signal(), Some(9));
    assert!(watched.late() >= Some(child::GRACE), "no grace in {:?}", watched.late());
}

#[test]
fn a_stage_that_is_reported_again_gains_no_time() {
    let watched = check("while :; do echo '::progress two'; sleep 0.1; done", "two");
    assert_eq!(watched.stages.len(), 2, "{:?}", watched.stages);
    let after = watched.hang.expect("ended").after;
    assert!(after < Duration::from_secs(3), "by patience alone: {after:?}");
}

#[test]
fn patience_ends_what_has_no_budget() {
    assert_eq!(check("echo '::progress other'; sleep 600", "other").stages.len(), 2);
    assert_eq!(check("sleep 600", START).stages.len(), 1);
}

#[test]
fn a_loop_runs_and_a_wait_does_not() {
    let threads = |script: &str| check(script, "two").hang.expect("ended").threads;
    let looping = threads("echo '::progress two'; while :; do :; done");
    let waiting = threads("echo '::progress two'; sleep 600");
    let ran = |threads: &[Thread]| threads.iter().map(|one| one.ran_ms).sum::<u64>();
    assert!(ran(&looping) > 0 && ran(&waiting) == 0, "{looping:?} {waiting:?}");
    let text = threads::render(&waiting);
    assert!(text.contains(": S (sleeping), ran 0 of 200 ms"), "{text}");
}

/// A redactor that knows this host and a folder.
fn redactor(folder: &Path) -> Redactor {
    let mut redactor = Redactor { paths: vec![(folder.to_owned(), "RUN".into())], words: vec![] };
    redactor.hide_host();
    redactor.words.push(("GPU-12ab".into(), "gpu3".into()));
    redactor
}

fn account(folder: &Path) -> bundle::Account {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    bundle::Account {
        command: vec![folder.join("touchstone").display().to_string(), "--plant".into()],
        environment: [
            ("CUDA_VISIBLE_DEVICES", "GPU-12ab"),
            ("NCCL_SOME_TOKEN", "hunter2"),
            ("LD_LIBRARY_PATH", "/opt/secret/lib:/srv/b"),
        ]
        .map(pair)
        .into(),
        versions: [("nvrtc", "13.0.88")].map(pair).into(),
        stacks: "thread 7, main\n    0:     0x5500 - endless\n".into(),
        flight: vec!["kernel a".into(), "kernel fault_endless".into()],
    }
}

#[test]
fn a_bundle_is_whole_and_names_no_machine() {
    let folder = tempfile::tempdir().expect("folder");
    let folder = folder.path();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let host = host.trim();
    let script = format!(
        "{HANGS_BEGIN}; echo \"$(cat /proc/sys/kernel/hostname) GPU-12ab {} /opt/x/y.so\" >&2; sleep 600",
        folder.join("log").display()
    );
    let (watched, redactor) = (check(&script, "two"), redactor(folder));
    bundle::write(folder, &watched, &account(folder), &redactor).expect("written");
    assert_eq!(bundle::missing(folder, "two", &redactor), Vec::<String>::new());
    let text = |name: &str| files::read(&folder.join(name)).expect("there");
    assert!(text("hang.txt").starts_with("stage: two\nbudget: 0.400 s\nafter: "));
    assert!(text("hang.txt").contains("\nlast in the flight record: kernel fault_endless\n"));
    assert_eq!(text("command.txt"), "RUN/touchstone --plant\n");
    assert_eq!(
        text("environment.txt"),
        "CUDA_VISIBLE_DEVICES=gpu3\nLD_LIBRARY_PATH=.../lib:.../b\nNCCL_SOME_TOKEN=(left out)\n"
    );
    assert_eq!(text("versions.txt"), "nvrtc: 13.0.88\n");
    assert_eq!(text("flight.txt"), "kernel a\nkernel fault_endless\n");
    let end = "gpu3 RUN/log .../y.so\n";
    assert!(text("log.txt").ends_with(end), "{}", text("log.txt"));
    let all: String = std::fs::read_dir(folder)
        .expect("folder")
        .map(|entry| std::fs::read_to_string(entry.expect("entry").path()).expect("text"))
        .collect();
    for word in ["hunter2", "/opt", "GPU-12ab", &folder.display().to_string()] {
        assert!(!all.contains(word), "{word}");
    }
    assert!(!all.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == host));
}

const HANGS_BEGIN: &str = "echo '::progress two'";

#[test]
fn what_a_bundle_lacks_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let (folder, redactor) = (folder.path(), redactor(folder.path()));
    assert_eq!(bundle::missing(folder, "two", &redactor).len(), 8);
    let watched = check(HANGS, "two");
    bundle::write(folder, &watched, &account(folder), &redactor).expect("written");
    let wrong = |stage| bundle::missing(folder, stage, &redactor);
    assert_eq!(
        wrong("three"),
        ["hang.txt", "log.txt"].map(|file| format!("{file} does not say what it should"))
    );
    std::fs::remove_file(folder.join("threads.txt")).expect("removed");
    assert_eq!(wrong("two"), ["threads.txt is missing"]);
    std::fs::write(folder.join("threads.txt"), "thread 1 of /opt/x/y\n").expect("written");
    assert_eq!(wrong("two"), ["threads.txt names the machine"]);
    std::fs::write(folder.join("threads.txt"), "\n").expect("written");
    assert_eq!(wrong("two"), ["threads.txt does not say what it should"]);
    std::fs::write(folder.join("threads.txt"), "thread 1 of 1\n").expect("written");
    let silent = "thread 1, main\n    does not answer\nthread 2, other\n    0: 0x1 - a\n";
    std::fs::write(folder.join("stacks.txt"), silent).expect("written");
    assert_eq!(wrong("two"), ["stacks.txt does not say what it should"]);
}

#[test]
fn a_process_that_ended_by_itself_leaves_no_bundle() {
    let folder = tempfile::tempdir().expect("folder");
    let watched = watched("exit 0", &[], PLENTY);
    let written =
        bundle::write(folder.path(), &watched, &bundle::Account::default(), &Redactor::default());
    assert_eq!(written, Err("a bundle of a process that was not ended".into()));
}
