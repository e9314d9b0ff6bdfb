//! Goldens from calibration runs, and everything that may not become one.

use std::fs;
use std::path::PathBuf;

use harness::bless::FEWEST_RUNS;
use harness::golden;
use harness::recorded;
use touchstone_tests::fake;

use crate::Test;
use crate::machine::Machine;

pub const TESTS: &[Test] = &[
    ("bless::three_runs_make_a_golden_and_their_own_run_ticks_nothing", three_runs),
    ("bless::runs_that_make_no_golden", refused_runs),
    ("bless::runs_over_other_gpu_counts", another_gpu_count),
    ("bless::a_looser_bound_wants_a_reason", a_looser_bound),
    ("bless::a_board_without_a_file", a_board_without_a_file),
    ("bless::a_failed_run_makes_no_golden", a_failed_run),
];

fn digests(machine: &Machine) -> Vec<String> {
    let runs = recorded::load(&machine.root()).expect("loaded");
    runs.into_iter().map(|finished| finished.sha256).collect()
}

fn board(machine: &Machine) -> PathBuf {
    machine.path("golden/fake-board.toml")
}

/// Refused with these words; the golden's file is as it was.
#[track_caller]
fn check_refused(machine: &Machine, runs: &[&str], parts: &[&str]) {
    let before = fs::read(board(machine)).expect("read");
    machine.run(&["--bless", &runs.join(",")]).expect_error(2, parts);
    assert_eq!(fs::read(board(machine)).expect("read"), before);
}

fn three_runs() {
    let machine = Machine::recorded();
    let goldens = golden::load(&machine.path("golden")).expect("loaded");
    let bound = goldens.boards[fake::BOARD].bound(fake::READ.id, "read_gbps").expect("blessed");
    assert_eq!(bound.runs, digests(&machine)[..FEWEST_RUNS]);
    assert_eq!(bound.cubins.keys().collect::<Vec<_>>(), ["stream"]);
    let file = fs::read_to_string(board(&machine)).expect("read");
    assert!(file.starts_with("# The board of the fake node."), "comments stay:\n{file}");
    assert!(!file.contains("bandwidth::link"), "what suffices gets no golden:\n{file}");
    // Without the later run only calibration runs are left, and they cannot tick.
    let runs = machine.path(recorded::RUNS);
    let lines = fs::read_to_string(&runs).expect("read");
    let first: Vec<&str> = lines.lines().take(FEWEST_RUNS).collect();
    let later = recorded::load(&machine.root()).expect("loaded").pop().expect("a run");
    fs::write(&runs, first.join("\n") + "\n").expect("written");
    // A line that is gone is told; a run that was never recorded is not missed.
    machine.run(&["--recorded"]).expect_error(2, &["does not list", &later.run.run]);
    fs::remove_dir_all(&later.folder).expect("removed");
    let said = machine.run(&["--recorded"]);
    said.expect(4, "a calibration run of this golden");
}

fn refused_runs() {
    let machine = Machine::recorded();
    let all = digests(&machine);
    let known: Vec<&str> = all.iter().map(String::as_str).collect();
    check_refused(&machine, &known[..2], &["2 runs named, 3 are the fewest"]);
    check_refused(&machine, &[known[0], known[1], "feedbeef"], &["no recorded run feedbeef"]);
    check_refused(&machine, &[known[0], known[1], known[1]], &["is named twice"]);
    check_refused(&machine, &[known[0], known[1], ""], &["a value is required"]);
    let shared = machine.gpus(2).planted("busy");
    shared.run(&["--gpus", "2", "--shared"]).expect(3, "inconclusive");
    let run = shared.runs().last().expect("a run").clone();
    let digest = shared.record(&run);
    check_refused(&shared.healthy(), &[known[0], known[1], &digest], &["was shared"]);
}

/// A run with one GPU beside runs with two: what each GPU does by itself is the same.
fn another_gpu_count() {
    let node = Machine::recorded().gpus(2);
    let known = digests(&node);
    node.run(&["--gpus", "1"]).expect(0, "NODE GOOD");
    let one = node.record(&node.only_run());
    let list = [&known[0], &known[1], &one].map(String::as_str).join(",");
    let said = node.run(&["--bless", &list, "--accept-worse", "made of fewer GPUs"]);
    said.expect(0, "bandwidth::read: read_gbps = ");
}

fn a_looser_bound() {
    let machine = Machine::recorded().gpus(2).planted("slow");
    let slow: Vec<String> = (0..3).map(|_| machine.record(&machine.measure())).collect();
    let runs: Vec<&str> = slow.iter().map(String::as_str).collect();
    let machine = machine.healthy();
    check_refused(&machine, &runs, &["bandwidth::read", "--accept-worse"]);
    let list = slow.join(",");
    let why = "gpu1 was replaced by a slower one";
    let said = machine.run(&["--bless", &list, "--accept-worse", why]);
    said.expect(0, "3 of 3 runs missed the bound before, ");
    let file = fs::read_to_string(board(&machine)).expect("read");
    assert!(file.contains(why) && file.contains("before = { golden = "), "{file}");
}

fn a_board_without_a_file() {
    let node = Machine::fake();
    node.forget_board();
    let runs: Vec<String> = (0..3).map(|_| node.record(&node.measure())).collect();
    let said = node.run(&["--bless", &runs.join(",")]);
    said.expect_error(2, &["golden/pci-ffff.toml", "No such file"]);
    assert!(node.path("checklists/evidence/pci-ffff").is_dir());
    node.gpus(0).run(&["--recorded"]).expect(4, "claims hold on pci-ffff");
}

fn a_failed_run() {
    let machine = Machine::recorded().gpus(2).planted("crash");
    let failed = machine.record(&machine.measure());
    let all = digests(&machine);
    let machine = machine.healthy();
    check_refused(&machine, &[&all[0], &all[1], &failed], &["did not complete"]);
    // Failed runs are recorded too, and are not hidden behind older good ones.
    machine.gpus(0).run(&["--recorded"]).expect(3, "BROKEN: ");
}
