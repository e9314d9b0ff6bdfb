//! Two runs of the fake node, compared.

use std::path::Path;

use harness::compare::command::{self, Format, Options};
use harness::compare::{CompareError, compare};
use harness::digest;
use harness::evidence::{Evidence, Failure, How, Outcome};
use harness::files;
use harness::recorded::FinishedRun;
use touchstone_tests::{fake, specimens};

/// A root with the fake goldens.
fn root() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fake::lay(folder.path());
    folder
}

/// A run in a folder of its own, as the runner leaves it.
fn left(folder: &Path, run: &str, evidence: &[Evidence]) -> FinishedRun {
    let finished = specimens::recorded(&folder.join("evidence"), run, evidence);
    let line = finished.run.line().expect("a line") + "\n";
    files::write(&folder.join("run.json"), line.as_bytes()).expect("written");
    finished
}

fn healthy(run: &str) -> Evidence {
    specimens::stream(run, fake::HEALTHY_GBPS, 900.0)
}

/// Compares a healthy run with one that `change` touched; the text and the status.
fn compared(change: impl Fn(&mut Evidence), all: bool) -> Result<command::Ended, CompareError> {
    let root = root();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    left(&a, "20261121T031500Z-0000000a", &[healthy("20261121T031500Z-0000000a")]);
    let mut evidence = healthy("20261121T041500Z-0000000b");
    change(&mut evidence);
    left(&b, "20261121T041500Z-0000000b", &[evidence]);
    let options = Options {
        a: a.display().to_string(),
        b: b.display().to_string(),
        format: Format::Human,
        all,
    };
    fake::with_world(root.path().to_owned(), 0, |world| command::run(&options, world))
}

#[track_caller]
fn check(change: impl Fn(&mut Evidence), status: i32, part: &str) {
    let ended = compared(change, true).expect("compared");
    let words = ended.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(part), "{part:?} in\n{}", ended.text);
    assert_eq!(ended.status, status, "{}", ended.text);
}

/// Scales what the GPU reads.
fn slow(evidence: &mut Evidence, gpu: usize, factor: f64) {
    let metrics = evidence.parts[gpu].metrics.iter_mut();
    for metric in metrics.filter(|metric| metric.name == "read_gbps") {
        metric.values.iter_mut().for_each(|value| *value *= factor);
    }
}

#[test]
fn the_table() {
    let text = |change: &dyn Fn(&mut Evidence)| compared(change, false).expect("compared").text;
    let stripped = |text: String| -> String {
        // Digests say nothing to a reader.
        let lines = text.lines().map(|line| match line.split_once("sha256:") {
            Some((before, after)) => format!("{before}sha256:...{}\n", &after[12..]),
            None => format!("{line}\n"),
        });
        lines.collect()
    };
    insta::assert_snapshot!(stripped(text(&|evidence| slow(evidence, 1, 0.9))));
}

#[test]
fn outcomes_and_exit_codes() {
    check(|_| {}, 0, "same bandwidth::read");
    check(|evidence| slow(evidence, 0, 0.9), 1, "slower bandwidth::read");
    let faster = |evidence: &mut Evidence| (0..2).for_each(|gpu| slow(evidence, gpu, 1.1));
    check(faster, 0, "faster bandwidth::read");
    check(|evidence| slow(evidence, 1, 0.9), 1, "the same machine code: the node or its libraries");
    let another = |evidence: &mut Evidence| {
        slow(evidence, 1, 0.9);
        let kernels = evidence.parts.iter_mut().flat_map(|part| &mut part.kernels);
        kernels.for_each(|kernel| kernel.cubin_sha256 = digest::sha256_hex(b"another"));
    };
    check(another, 1, "other machine code of stream: our kernel may be slower");
    let throttled = |evidence: &mut Evidence| {
        for gpu in 0..2 {
            slow(evidence, gpu, 0.9);
            evidence.parts[gpu].telemetry[0].sm_clock_mhz = [1782.0; 3];
        }
    };
    check(throttled, 0, "ambiguous bandwidth::read");
    check(|evidence| evidence.shared = true, 0, "ambiguous bandwidth::read");
}

#[test]
fn what_fails_in_b_alone_is_worse() {
    let wrong = |evidence: &mut Evidence| evidence.parts[0].metrics[1].values = vec![1.0];
    check(wrong, 1, "B: wrong_count is not zero: wrong bits");
    let failed = |evidence: &mut Evidence| {
        let (detail, repro) = ("aborted".to_owned(), String::new());
        evidence.parts[0].outcome = Outcome::Failed(Failure { how: How::Crash, detail, repro });
    };
    check(failed, 1, "B: gpu0: a part did not complete");
}

#[test]
fn what_cannot_be_compared_says_why() {
    let refused = |change: &dyn Fn(&mut Evidence)| match compared(change, true) {
        Err(CompareError::Nothing) => {}
        other => panic!("{other:?}"),
    };
    refused(&|evidence| evidence.claims.clear());
    refused(&|evidence| evidence.revision = 9);
    refused(&|evidence| evidence.parts[0].outcome = Outcome::NotRun("no library".to_owned()));
}

#[test]
fn boards_are_never_compared_with_each_other() {
    let root = root();
    let a = left(&root.path().join("a"), "a-run", &[healthy("a-run")]);
    let mut b = left(&root.path().join("b"), "b-run", &[healthy("b-run")]);
    b.run.devices.iter_mut().for_each(|device| device.pci_device_id = "2901".to_owned());
    let error = fake::with_world(root.path().to_owned(), 0, |world| {
        compare(world, &world.goldens().expect("goldens"), &a, &b).unwrap_err()
    });
    let expect = "A is of fake-board, B of pci-2901: runs of different boards are not compared";
    assert_eq!(error.to_string(), expect);
}

#[test]
fn runs_are_found_by_digest_folder_and_archive() {
    let root = root();
    let folder = root.path().join("a");
    let a = left(&folder, "20261121T031500Z-0000000a", &[healthy("20261121T031500Z-0000000a")]);
    let tar = root.path().join("a.tar");
    files::archive(&folder, "the-run", &tar).expect("packed");
    let recorded = [a.clone()];
    let found =
        |given: &str| harness::compare::open(&recorded, given).map(|o| o.finished.sha256.clone());
    for given in [
        &a.sha256[..8],
        &format!("sha256:{}", &a.sha256[..12]),
        "20261121T0315",
        &folder.display().to_string(),
        &tar.display().to_string(),
    ] {
        assert_eq!(found(given).expect(given), a.sha256);
    }
    let lacks = |given: &str, part: &str| {
        let error = found(given).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    lacks("202", "4 characters name a run");
    lacks("ffff0000", "no folder, no archive, and no recorded run");
    files::write(&root.path().join("no.tar"), b"no tar").expect("written");
    assert!(found(&root.path().join("no.tar").display().to_string()).is_err());
}

#[test]
fn json_holds_every_figure() {
    let root = root();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    left(&a, "a-run", &[healthy("a-run")]);
    left(&b, "b-run", &[healthy("b-run")]);
    let (a, b) = (a.display().to_string(), b.display().to_string());
    let options = Options { a, b, format: Format::Json, all: false };
    let ended = fake::with_world(root.path().to_owned(), 0, |world| command::run(&options, world));
    let text = ended.expect("compared").text;
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["schema"], 1);
    assert_eq!(value["worse"], 0);
    let claims = value["claims"].as_array().expect("claims");
    let read = claims.iter().find(|claim| claim["claim"] == "bandwidth::read").expect("a row");
    assert_eq!(read["outcome"], "same");
    assert_eq!(read["a"]["value"], fake::HEALTHY_GBPS);
    assert_eq!(read["a"]["sm_clock_mhz"], 1980.0);
}
