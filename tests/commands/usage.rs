//! Bad input: one clear error, the right exit code, nothing half-written.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use touchstone_tests::folders;

use crate::Test;
use crate::machine::{Machine, text};

pub const TESTS: &[Test] = &[
    ("usage::gpus_that_are_not_there", gpus_that_are_not_there),
    ("usage::gpus_that_cannot_be_had", gpus_that_cannot_be_had),
    ("usage::a_visible_device_wants_a_choice", a_visible_device_wants_a_choice),
    ("usage::options_that_are_wrong", options_that_are_wrong),
    ("usage::options_of_a_live_run_alone", options_of_a_live_run_alone),
    ("usage::a_filter_that_matches_nothing", a_filter_that_matches_nothing),
    ("usage::a_filter_that_is_a_case", a_filter_that_is_a_case),
    ("usage::variables_that_are_empty_or_unknown", variables_that_are_empty_or_unknown),
    ("usage::a_variable_that_is_no_text", a_variable_that_is_no_text),
    ("usage::nextest_measures_nothing", nextest_measures_nothing),
    ("usage::folders_that_cannot_be_written", folders_that_cannot_be_written),
    ("usage::goldens_with_a_mistake", goldens_with_a_mistake),
    ("usage::two_claims_of_one_id", two_claims_of_one_id),
    ("usage::a_root_without_goldens", a_root_without_goldens),
    ("usage::a_list_needs_no_device_and_writes_nothing", a_list_needs_no_device),
];

/// One error with code 2 that holds `parts`; nothing is written.
#[track_caller]
fn check(machine: &Machine, arguments: &[&str], parts: &[&str]) {
    let before = everything(machine);
    machine.run(arguments).expect_error(2, parts);
    assert!(machine.runs().is_empty(), "a run was begun");
    let after = everything(machine);
    assert_eq!(before.len(), after.len(), "a file came or went");
    for (left, right) in before.iter().zip(&after) {
        assert_eq!(left.0, right.0, "a file came or went");
        assert!(left.1 == right.1, "{} was changed", left.0.display());
    }
}

/// Every file below the root, with its bytes.
fn everything(machine: &Machine) -> Vec<(PathBuf, Vec<u8>)> {
    let files = folders::files(&machine.root(), &|_| true);
    files.into_iter().map(|file| (file.clone(), fs::read(file).expect("read"))).collect()
}

fn gpus_that_are_not_there() {
    let none = Machine::without_device();
    check(&none, &["--gpus", "8"], &["8 GPUs asked for, no NVIDIA device is visible"]);
    check(&none, &["--gpus", "0"], &["--gpus 0 measures nothing"]);
    check(&none, &["--devices", "0,3"], &["no NVIDIA device is visible"]);
    check(&none, &["--gate"], &["--gate without a device", "--recorded"]);
    check(&none, &["--test-threads", "0"], &["--test-threads 0 runs nothing"]);
    check(&none, &["--suite", "quantum"], &["no suite quantum; there are env, "]);
}

fn gpus_that_cannot_be_had() {
    let two = Machine::fake();
    check(&two, &["--gpus", "9"], &["--gpus 9: this node has 2"]);
    check(&two, &["--gpus", "4294967295"], &["--gpus 4294967295: this node has 2"]);
    check(&two, &["--gpus", "-1"], &["-1"]);
    check(&two, &["--gpus", "two"], &["--gpus", "two"]);
    check(&two, &["--devices", "0,2"], &["no gpu2", "there are gpu0, gpu1"]);
    check(&two, &["--devices", "1,1"], &["gpu1 twice"]);
    check(&two, &["--devices", ""], &["--devices"]);
    let busy = Machine::fake().planted("busy");
    check(&busy, &["--gpus", "2"], &["gpu1 is used by pid 41 (python3)", "--shared"]);
    let sick = Machine::fake().planted("no-inventory");
    check(&sick, &["--gpus", "2"], &["a device is there, but it does not answer"]);
}

fn a_visible_device_wants_a_choice() {
    let node = Machine::fake();
    check(&node, &[], &["an NVIDIA device is visible", "--gpus N", "--recorded"]);
    check(&node, &["--gate"], &["an NVIDIA device is visible"]);
}

fn options_that_are_wrong() {
    let node = Machine::fake();
    check(&node, &["--gpus", "2", "--recorded"], &["--gpus", "--recorded"]);
    check(&node, &["--gpus", "2", "--tier", "fast"], &["a tier is quick, full or soak"]);
    check(&node, &["--no-such-option"], &["--no-such-option"]);
    check(&node, &["--gpus", "2", "--suite", ""], &["--suite"]);
    check(&node, &["--gpus", "2", "--suite", "env,quantum"], &["no suite quantum"]);
    check(&node, &["--evidence", "nowhere"], &["nowhere/run.json", "No such file"]);
    check(&node, &["--record", "nowhere"], &["nowhere", "No such file"]);
    check(&node, &["--accept-worse", "because"], &["--bless"]);
}

fn options_of_a_live_run_alone() {
    let none = Machine::fake().gpus(0);
    for option in
        [&["--shared"][..], &["--self-test"], &["--tier", "full"], &["--archive", "x.tar"]]
    {
        check(&none, option, &[option[0], "speaks of a live run: add --gpus N"]);
        let recorded = [&["--recorded"][..], option].concat();
        check(&none, &recorded, &[option[0], "speaks of a live run"]);
    }
}

fn a_filter_that_matches_nothing() {
    for machine in [Machine::fake().gpus(0), Machine::without_device()] {
        let said = machine.run(&["no-such-claim"]);
        said.expect(4, "nothing is judged: no claim matches the filter");
        assert!(machine.runs().is_empty());
    }
    let node = Machine::fake();
    node.run(&["--gpus", "2", "no-such-claim"]).expect(4, "no claim matches the filter");
    // A part of an id matches as a part alone.
    node.run(&["--gpus", "2", "--exact", "bandwidth::rea"]).expect(4, "nothing is judged");
    assert!(node.runs().is_empty());
}

fn a_filter_that_is_a_case() {
    const NOTHING: &str = "nothing is judged: no claim matches the filter";
    let says = |arguments: &[&str], text: &str| {
        let text = format!("{NOTHING} {text}\n");
        Machine::fake().gpus(0).run(arguments).expect(4, &text);
        let live = Machine::fake();
        live.run(&[&["--gpus", "2"], arguments].concat()).expect(4, &text);
        assert!(live.runs().is_empty());
    };
    says(&["no-such-claim"], "`no-such-claim`");
    let whole = "`bandwidth::stream`; it is a case, whose claims are bandwidth::read, bandwidth::read-spread";
    says(&["bandwidth::stream"], whole);
    says(&["--exact", "bandwidth::stream"], whole);
    let part = "`dwidth::str`; case bandwidth::stream does, whose claims are bandwidth::read, bandwidth::read-spread";
    says(&["dwidth::str"], part);
    says(&["--exact", "dwidth::str"], "`dwidth::str`");
    says(
        &["::pro"],
        "`::pro`; case compute::product does, whose claims are compute::exact; \
         case env::probe does, whose claims are env::memory-keeps",
    );
    let none = Machine::without_device();
    let large =
        "`precision::promoted-large`; it is a case, whose claims are precision::own-products-";
    none.run(&["precision::promoted-large"]).expect(4, &format!("{NOTHING} {large}"));
    // Claims that another option leaves out are not named.
    says(&["--suite", "env", "bandwidth::stream"], "`bandwidth::stream`");
}

fn variables_that_are_empty_or_unknown() {
    let set = |name: &str, value: &str| Machine::fake().gpus(0).with(name, value);
    for name in ["GPUS", "DEVICES", "SUITE", "TIER", "OUT", "JUNIT", "RECORDED", "EVIDENCE"] {
        let name = format!("TOUCHSTONE_{name}");
        check(&set(&name, ""), &[], &[&name, "empty"]);
    }
    check(&set("TOUCHSTONE_GATE", " "), &[], &["TOUCHSTONE_GATE", "empty"]);
    check(&set("TOUCHSTONE_GPU", "8"), &[], &["TOUCHSTONE_GPU is no variable of this program"]);
    // What loosens a check or changes the repository is said by hand, never by a variable.
    for name in ["TOUCHSTONE_BLESS", "TOUCHSTONE_SHARED", "TOUCHSTONE_RECORD"] {
        check(&set(name, "1"), &[], &[name, "no variable"]);
    }
    check(&set("TOUCHSTONE_GPUS", "8"), &[], &["8 GPUs asked for"]);
    check(&set("TOUCHSTONE_TIER", "full"), &[], &["--tier speaks of a live run"]);
}

fn a_variable_that_is_no_text() {
    let node = Machine::fake().gpus(0);
    let odd = OsStr::from_bytes(b"\xff\xfe");
    let output = node.command(&["--list"]).env("SOME_VARIABLE", odd).output().expect("started");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = node.command(&["--list"]).env("TOUCHSTONE_GPU", odd).output().expect("started");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("TOUCHSTONE_GPU is no"), "{output:?}");
}

fn nextest_measures_nothing() {
    let node = Machine::fake().with("NEXTEST", "1");
    check(&node, &["--gpus", "2"], &["nextest", "TOUCHSTONE_EVIDENCE"]);
    node.run(&["--gpus", "2", "--list"]).expect(0, "bandwidth::read");
}

fn folders_that_cannot_be_written() {
    let node = Machine::fake();
    // A file stands where a folder is wanted: that holds for the superuser too.
    fs::write(node.path("blocked"), "").expect("written");
    let out = node.path("blocked/out");
    check(&node, &["--gpus", "2", "--out", text(&out)], &["--out", "blocked/out"]);
    fs::write(node.path("target"), "").expect("written");
    check(&node, &["--gpus", "2"], &["--out", "target/hardware"]);
    let none = node.gpus(0);
    check(&none, &["--recorded"], &["--out", "target/hardware"]);
    // A checkout that cannot be written is judged all the same with a folder elsewhere.
    let elsewhere = none.path("elsewhere");
    let said = none.run(&["--recorded", "--out", text(&elsewhere)]);
    said.expect(4, "nothing was judged");
    assert_eq!(fs::read_dir(&elsewhere).expect("made").count(), 1);
}

fn goldens_with_a_mistake() {
    let broken = |file: &str, from: &str, to: &str| {
        let machine = Machine::fake();
        folders::edit(&machine.path(file), from, to);
        machine
    };
    let board = "golden/fake-board.toml";
    let typo = broken(board, "title = ", "titel = ");
    check(&typo, &["--gpus", "2"], &[board, "line 7", "titel"]);
    check(&typo, &["--recorded"], &[board, "line 7", "titel"]);
    check(&typo, &["--update-checklists"], &[board, "titel"]);
    check(&broken(board, "[peaks]", "[peaks"), &["--gpus", "2"], &[board, "line 11"]);
    check(
        &broken(board, "schema = 1", "schema = 2"),
        &["--gpus", "2"],
        &[board, "schema 2 is not 1"],
    );
    let renamed = broken(board, "name = \"fake-board\"", "name = \"other\"");
    check(&renamed, &["--gpus", "2"], &[board, "other", "not the file's name"]);
    let skips = "[skip]\n\"compute::fp4\" = \"a\"\n\"compute::exact\" = \"b\"\n\n[peaks]";
    let too_many = broken(board, "[peaks]", skips);
    let expect = [board, "skip lists 2 claims, skip_budget allows 1"];
    check(&too_many, &["--gpus", "2"], &expect);
    check(&too_many, &["--recorded"], &expect);
    let documented = "golden/documented.toml";
    let word = broken(documented, "equals = 0, because = \"a mesh of eight\"", "equal = 0");
    check(&word, &["--gpus", "2"], &[documented, "line 11", "equal"]);
}

fn two_claims_of_one_id() {
    let twice = Machine::fake().planted("twice");
    check(&twice, &["--gpus", "2"], &["one id: bandwidth::read"]);
}

fn a_root_without_goldens() {
    let machine = Machine::without_device();
    fs::remove_file(machine.path("golden/documented.toml")).expect("removed");
    check(&machine, &["--recorded"], &["TOUCHSTONE_ROOT", "golden/documented.toml"]);
    let fake = Machine::fake();
    fs::remove_file(fake.path("golden/documented.toml")).expect("removed");
    check(&fake, &["--recorded"], &["golden/documented.toml", "No such file"]);
}

fn a_list_needs_no_device() {
    let real = Machine::without_device();
    let said = real.run(&["--list"]);
    said.expect(0, "[recorded] bandwidth::hbm-read: test");
    said.expect(0, "[host] env::self-check: test");
    let live = real.run(&["--list", "--gpus", "8", "--suite", "bandwidth"]);
    live.expect(0, "[live] bandwidth::hbm-read: test");
    assert!(!live.out.contains("env::"), "{}", live.out);
    assert!(real.runs().is_empty());
}
