//! Live runs over fake GPUs: what they write, what they say, and how they end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::evidence::{self, Evidence};
use harness::recorded;
use harness::run;
use touchstone_tests::folders;

use crate::Test;
use crate::machine::{Machine, text};

pub const TESTS: &[Test] = &[
    ("live::a_board_without_a_golden_is_judged_as_far_as_it_goes", without_a_golden),
    ("live::a_good_node", a_good_node),
    ("live::everything_stands_in_the_run_folder", everything_is_written),
    ("live::nothing_that_names_the_machine_is_written", nothing_names_the_machine),
    ("live::faults_and_their_verdicts", faults_and_their_verdicts),
    ("live::a_straddled_bound_is_measured_once_more", a_second_attempt),
    ("live::evidence_that_cannot_be_written_is_broken", a_full_disk),
    ("live::reports_that_cannot_be_written_cost_no_evidence", reports_that_cannot_be_written),
    ("live::tiers_and_self_test_run_what_they_name", tiers),
    ("live::what_is_due_is_measured_first", what_is_due),
    ("live::a_shared_run_decides_nothing", a_shared_run),
    ("live::an_archive_is_judged_elsewhere", an_archive),
    ("live::a_filtered_run_is_partial", a_filtered_run),
    ("live::an_interrupted_run_keeps_what_it_has", interrupted),
    ("live::a_reader_that_leaves_costs_no_report", a_reader_that_leaves),
    ("live::by_variables", by_variables),
];

fn parse(file: &Path) -> Evidence {
    evidence::parse(&fs::read_to_string(file).expect("read")).expect("evidence")
}

fn manifest(run: &Path) -> run::Run {
    recorded::open(run).expect("a finished run").run
}

fn without_a_golden() {
    let node = Machine::fake();
    let said = node.run(&["--gpus", "2"]);
    said.expect(4, "no golden for read_gbps on this board: record three runs, then --bless them");
    assert!(said.last_line().starts_with("NODE INCOMPLETE: 1 not run"), "{}", said.last_line());
    // A board that no file knows: exact and documented bounds without a peak are judged.
    let unknown = Machine::fake();
    unknown.forget_board();
    let said = unknown.run(&["--gpus", "2"]);
    said.expect(4, "LIVE: pci-ffff x2");
    for good in ["compute::exact", "bandwidth::link", "bandwidth::read-spread"] {
        let line = said.out.lines().find(|line| line.contains(good)).expect("a line");
        assert!(line.ends_with("ok"), "{line}");
    }
}

fn a_good_node() {
    let node = Machine::recorded().gpus(2);
    let said = node.run(&["--gpus", "2"]);
    said.expect(0, "LIVE: fake-board x2 (Fake Board)");
    insta::assert_snapshot!("good_node_last_line", said.last_line());
    said.expect(0, "manifest  sha256:");
    // With one GPU there is no spread and no link: explained, so the node is good.
    node.run(&["--gpus", "1"]).expect(0, "NODE GOOD: ");
    node.run(&["--devices", "1"]).expect(0, "NODE GOOD: ");
}

fn everything_is_written() {
    let node = Machine::recorded().gpus(2);
    let junit = node.path("somewhere/junit.xml");
    node.run(&["--gpus", "2", "--junit", text(&junit)]).expect(0, "NODE GOOD");
    let run = node.only_run();
    let below = |file: &Path| text(file.strip_prefix(&run).expect("below")).to_owned();
    let written: Vec<String> = folders::files(&run, &|_| true).iter().map(|f| below(f)).collect();
    insta::assert_snapshot!("files_of_a_run", written.join("\n"));
    assert_eq!(fs::read(&junit).expect("read"), fs::read(run.join("junit.xml")).expect("read"));
    assert_eq!(test_cases(&junit), touchstone_tests::fake::CLAIMS.len());
    let finished = recorded::open(&run).expect("opened");
    assert!(finished.run.whole && !finished.run.shared && !finished.run.interrupted);
    for entry in &finished.run.cases {
        let found = recorded::read(&finished, &entry.case);
        assert!(matches!(found, recorded::FoundEvidence::Evidence(..)), "{found:?}");
    }
    let page = fs::read_to_string(run.join("checklists/00-fake.md")).expect("read");
    assert!(page.contains("- [x] ") && page.contains("bandwidth::read"), "{page}");
    let summary = fs::read_to_string(run.join("summary.md")).expect("read");
    assert!(summary.contains("NODE GOOD"), "{summary}");
}

/// Test cases of a JUnit file, by a parser that did not write it.
#[track_caller]
fn test_cases(file: &Path) -> usize {
    use quick_xml::events::Event;
    let text = fs::read_to_string(file).expect("read");
    let mut reader = quick_xml::Reader::from_str(&text);
    let mut count = 0;
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(tag) | Event::Empty(tag) => {
                count += usize::from(tag.name().as_ref() == "testcase");
            }
            Event::Eof => return count,
            _ => {}
        }
    }
}

fn nothing_names_the_machine() {
    // The child says its root and its GPU's UUID before it crashes.
    let node = Machine::fake().planted("crash");
    node.run(&["--gpus", "2"]).expect(3, "crashed with SIGABRT");
    let run = node.only_run();
    let crashed = fs::read_to_string(run.join("evidence/bandwidth-stream-n2.json")).expect("read");
    assert!(crashed.contains("ROOT/golden on gpu0 cannot be read"), "{crashed}");
    let (root, temporary) = (node.root(), std::env::temp_dir());
    let files = folders::files(&run, &|_| true);
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let written = fs::read_to_string(&file).expect("read");
        for secret in ["GPU-0000000", text(&root), text(&temporary)] {
            assert!(!written.contains(secret), "{secret} in {}:\n{written}", file.display());
        }
    }
}

/// The last line names the GPU and what to do, and the exit code says how bad it is.
#[track_caller]
fn check(faults: &str, arguments: &[&str], code: i32, parts: &[&str]) {
    let node = Machine::recorded().gpus(2).planted(faults);
    let said = node.run(&[&["--gpus", "2"], arguments].concat());
    said.expect(code, parts[0]);
    for part in parts {
        assert!(said.last_line().contains(part), "{part:?} is not in {}", said.last_line());
    }
}

fn faults_and_their_verdicts() {
    let regressed = "NODE BAD: gpu1 bandwidth::read 9";
    let exact = ["--exact", "bandwidth::read"];
    check("slow", &exact, 1, &[regressed, "GB/s (regressed) -> drain"]);
    check("slow", &[], 1, &["NODE BAD: gpu1 bandwidth::read-spread", "refuted", "-> drain"]);
    check("wrong-bits", &[], 1, &["NODE BAD: gpu1 compute::exact", "corrupt", "-> drain"]);
    check("crash", &[], 3, &["NODE UNKNOWN: ", "broken", "-> inspect and rerun"]);
    check("nan", &[], 3, &["NODE UNKNOWN: ", "broken", "holds NaN"]);
    check("beyond", &[], 3, &["NODE UNKNOWN: ", "beyond the physical peak hbm_gbps"]);
    check("flood", &[], 3, &["NODE UNKNOWN: ", "bytes of evidence exceed "]);
    check("blind-control", &[], 3, &["NODE UNKNOWN: ", "control slow was not caught"]);
    check("miscount", &[], 1, &["SUITE BAD: env::counts-itself", "-> inspect"]);
    // A finding about the node is worse news than a broken case.
    check("crash,wrong-bits", &[], 1, &["NODE BAD: gpu1 compute::exact"]);
}

fn a_second_attempt() {
    let node = Machine::recorded().gpus(2).planted("straddle");
    node.run(&["--gpus", "2"]).expect(0, "NODE GOOD");
    let evidence = parse(&node.only_run().join("evidence/bandwidth-stream-n2.json"));
    let attempts: Vec<u32> = evidence.parts.iter().map(|part| part.attempt).collect();
    assert_eq!(attempts, [1, 1, 2, 2]);
    let samples: Vec<usize> =
        evidence.parts.iter().map(|part| part.metrics[0].values.len()).collect();
    assert_eq!(samples, [9, 9, 18, 18], "the second budget is doubled, and all samples are kept");
}

fn a_full_disk() {
    let node = Machine::recorded().gpus(2).planted("full");
    let said = node.run(&["--gpus", "2"]);
    said.expect(3, "compute-product-n2.json");
    assert!(said.last_line().starts_with("NODE UNKNOWN: 1 broken"), "{}", said.last_line());
    let run = node.only_run();
    parse(&run.join("evidence/bandwidth-stream-n2.json"));
    let left = folders::files(&run, &|file| folders::ends_in(file, &["tmp"]));
    assert!(left.is_empty(), "{left:?}");
    assert!(!manifest(&run).whole);
    let node = node.healthy();
    // What could not be written is missed by whoever judges the run later, too.
    let again = node.run(&["--evidence", text(&run)]);
    again.expect(3, "compute::exact");
    node.run(&["--record", text(&run)]).expect_error(2, &["only whole runs are recorded"]);
}

fn reports_that_cannot_be_written() {
    let node = Machine::recorded().gpus(2);
    fs::write(node.path("blocked"), "").expect("written");
    let file = node.path("blocked/file");
    for option in ["--junit", "--archive"] {
        let said = node.run(&["--gpus", "2", option, text(&file)]);
        said.expect_error(2, &["blocked/file"]);
    }
    for run in node.runs() {
        assert_eq!(manifest(&run).cases.len(), 6);
        for file in ["junit.xml", "summary.md", "checklists/00-fake.md"] {
            assert!(run.join(file).is_file(), "{file} of {}", run.display());
        }
        node.run(&["--evidence", text(&run)]).expect(0, "RECORDED");
    }
}

fn tiers() {
    let node = Machine::recorded().gpus(2);
    let ran = |run: &Path| -> BTreeSet<String> {
        manifest(run).cases.into_iter().map(|entry| entry.case.to_string()).collect()
    };
    let quick = ran(&node.measure());
    node.run(&["--gpus", "2", "--tier", "full", "--self-test"]).expect(0, "NODE GOOD");
    let full = ran(node.runs().last().expect("a run"));
    let more: Vec<&String> = full.difference(&quick).collect();
    assert_eq!(more, ["compute::sustained", "env::xid"]);
}

/// One kernel has changed since the evidence, which is of tier quick: its case is due, and that of tier full. Health
/// stays in front of them, and what raises Xids is last.
fn what_is_due() {
    let node = Machine::recorded().gpus(2).planted("new-kernel");
    let order = |more: &[&str]| -> Vec<String> {
        let arguments = [&["--gpus", "2", "--tier", "full", "--self-test"][..], more].concat();
        node.run(&arguments).expect(0, "NODE GOOD");
        let runs = node.runs();
        let cases = manifest(runs.last().expect("a run")).cases;
        cases.iter().map(|entry| entry.case.to_string()).collect()
    };
    let usual = order(&[]);
    let wanted = [
        "env::host",
        "env::probe",
        "bandwidth::stream",
        "compute::sustained",
        "bandwidth::link",
        "compute::product",
        "compute::fp4",
        "env::xid",
    ];
    assert_ne!(usual, wanted);
    assert_eq!(order(&["--due-first"]), wanted);
    node.run(&["--recorded", "--due-first"]).expect(2, "cannot be used with");
    // Where nothing is recorded, and of a board that no file knows, everything is due.
    let unknown = Machine::fake();
    unknown.run(&["--gpus", "2", "--due-first"]).expect(4, "NODE INCOMPLETE");
    unknown.forget_board();
    unknown.run(&["--gpus", "2", "--due-first"]).expect(4, "LIVE: pci-ffff x2");
}

fn a_shared_run() {
    let node = Machine::recorded().gpus(2).planted("busy");
    let said = node.run(&["--gpus", "2", "--shared"]);
    said.expect(3, "inconclusive");
    assert!(manifest(&node.only_run()).shared);
}

fn an_archive() {
    let node = Machine::recorded().gpus(2);
    let file = node.path("run.tar");
    node.run(&["--gpus", "2", "--archive", text(&file)]).expect(0, "archive   run.tar");
    fs::remove_dir_all(node.path("target")).expect("removed");
    let unpacked = node.path("unpacked");
    let run = harness::files::unpack(&file, &unpacked).expect("unpacked");
    // The auditor has no GPU.
    let auditor = node.gpus(0);
    let said = auditor.run(&["--evidence", text(&run)]);
    said.expect(0, "RECORDED: evidence of fake-board, the newest of ");
    assert!(said.last_line().ends_with("this machine was not tested"), "{}", said.last_line());
    auditor.record(&file);
    let runs = recorded::load(&auditor.root()).expect("loaded");
    assert_eq!(runs.len(), 5);
    auditor.run(&["--recorded"]).expect(0, "recorded claims hold");
}

fn a_filtered_run() {
    let node = Machine::recorded().gpus(2);
    node.run(&["--gpus", "2", "--suite", "compute"]).expect(0, "NODE GOOD");
    let run = node.only_run();
    assert!(!manifest(&run).whole);
    let said = node.run(&["--record", text(&run)]);
    said.expect_error(2, &["is partial: only whole runs are recorded"]);
    // A file does not excuse what its run left out; whoever asks for less gets an answer.
    let said = node.run(&["--evidence", text(&run)]);
    said.expect(4, "not-run: the run");
    node.run(&["--evidence", text(&run), "--suite", "compute"]).expect(0, "claims hold");
    assert_eq!(recorded::load(&node.root()).expect("loaded").len(), 4);
}

fn interrupted() {
    let node = Machine::recorded().gpus(2).planted("hang");
    let mut command = node.command(&["--gpus", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let streams = |line: &std::io::Result<String>| {
        line.as_ref().is_ok_and(|line| line.ends_with("now bandwidth::stream"))
    };
    assert!(said.any(|line| streams(&line)), "the stream never began alone");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    // Its standard error is read to the end, or it could not write it.
    said.for_each(drop);
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let run = node.only_run();
    assert!(manifest(&run).interrupted);
    parse(&run.join("evidence/env-probe-n2.json"));
    assert!(run.join("junit.xml").is_file() && run.join("summary.md").is_file());
    let node = node.healthy();
    node.run(&["--record", text(&run)]).expect_error(2, &["was interrupted"]);
    node.run(&["--evidence", text(&run)]).expect(130, "interrupted");
}

fn a_reader_that_leaves() {
    let node = Machine::recorded().gpus(2);
    let mut command = node.command(&["--gpus", "2"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    let run = node.only_run();
    assert!(manifest(&run).whole);
    assert!(run.join("junit.xml").is_file() && run.join("summary.md").is_file());
}

fn by_variables() {
    let node = Machine::recorded().gpus(2);
    let out = node.path("by-variable");
    let node = node
        .with("TOUCHSTONE_GPUS", "2")
        .with("TOUCHSTONE_SUITE", "compute,env")
        .with("TOUCHSTONE_OUT", text(&out));
    let said = node.run(&[]);
    said.expect(0, "NODE GOOD");
    assert!(!said.out.contains("bandwidth::"), "{}", said.out);
    assert_eq!(fs::read_dir(&out).expect("made").count(), 1);
}
