//! Recorded evidence judged again: by an auditor, by CI, after somebody touched it.

use std::fs;
use std::path::{Path, PathBuf};

use harness::pages;
use harness::recorded;
use touchstone_tests::{fake, folders};

use crate::Test;
use crate::machine::{Machine, text};

pub const TESTS: &[Test] = &[
    ("recorded::it_holds_and_says_what_it_is", it_holds),
    ("recorded::nothing_is_recorded", nothing_is_recorded),
    ("recorded::this_repository", this_repository),
    ("recorded::evidence_that_somebody_touched", touched_evidence),
    ("recorded::a_golden_past_the_recorded_number", a_moved_golden),
    ("recorded::a_document_that_promises_more", a_moved_promise),
    ("recorded::what_moved_since_is_stale_and_fails_the_gate", stale),
    ("recorded::a_manifest_that_is_no_manifest", corrupt_manifests),
    ("recorded::folders_that_are_no_run", no_runs),
    ("recorded::checklists_tick_what_holds", checklists),
    ("recorded::a_tick_names_the_newer_run_that_did_not_run_its_case", other_runs),
    ("recorded::a_run_is_recorded_once_and_whole", once_and_whole),
    ("recorded::a_run_of_fewer_gpus_hides_none_of_more", most_gpus),
    ("recorded::a_run_that_cannot_say_hides_none_that_could", disturbed),
    ("recorded::a_calibration_run_ticks_nothing_under_any_name", renamed_calibration),
    ("recorded::what_no_run_lists_is_named", unlisted),
];

/// The newest recorded evidence of the stream.
fn newest(machine: &Machine) -> PathBuf {
    let runs = recorded::load(&machine.root()).expect("loaded");
    runs.last().expect("a run").folder.join("bandwidth-stream-n2.json")
}

fn it_holds() {
    let machine = Machine::recorded();
    let said = machine.run(&["--recorded"]);
    said.expect(0, "[recorded] bandwidth::read");
    assert!(
        said.out.starts_with("RECORDED: evidence of fake-board, the newest of "),
        "{}",
        said.out
    );
    let last = said.last_line();
    let (counts, rest) = last.split_once(" on fake-board").expect("names the board");
    assert_eq!(counts, "RECORDED: 5 of 8 recorded claims hold", "{last}");
    assert!(rest.ends_with("this machine was not tested"), "{last}");
    let run = machine.only_run();
    let junit = fs::read_to_string(run.join("junit-recorded.xml")).expect("read");
    assert!(junit.contains("recorded.fake-board."), "{junit}");
    assert!(!run.join("checklists").exists(), "a recorded run ticks nothing");
    // The same without a choice, and with one by variable on a node that has a device.
    machine.run(&[]).expect(0, "this machine was not tested");
    let node = machine.gpus(2).with("TOUCHSTONE_RECORDED", "1");
    node.run(&[]).expect(0, "this machine was not tested");
}

fn nothing_is_recorded() {
    let machine = Machine::fake().gpus(0);
    let said = machine.run(&[]);
    said.expect(4, "RECORDED: no evidence is recorded; this machine is not tested");
    machine.run(&["--gate", "--recorded"]).expect(4, "nothing was judged");
    // Claims that need no GPU run for real.
    machine.run(&["--exact", "env::counts-itself"]).expect(0, "test [host] env::counts-itself");
}

fn this_repository() {
    let machine = Machine::without_device();
    let said = machine.run(&["--recorded"]);
    let recorded = recorded::load(&folders::repository()).expect("loaded");
    assert!(said.out.starts_with("RECORDED: "), "{}{}", said.out, said.err);
    let last = said.last_line();
    assert!(last.starts_with("RECORDED: ") && last.ends_with("was not tested"), "{last}");
    // Before the first run is recorded nothing can be judged; from then on it holds.
    said.expect(if recorded.is_empty() { 4 } else { 0 }, "env::self-check");
}

/// The recorded claim is broken: exit 3, and the reason.
#[track_caller]
fn check_touched(touch: impl Fn(&str) -> Option<String>, part: &str) {
    let machine = Machine::recorded();
    let file = newest(&machine);
    let text = fs::read_to_string(&file).expect("read");
    match touch(&text) {
        Some(touched) => fs::write(&file, touched).expect("written"),
        None => fs::remove_file(&file).expect("removed"),
    }
    let said = machine.run(&["--recorded"]);
    said.expect(3, "BROKEN: unreadable evidence: checklists/evidence/fake-board/");
    said.expect(3, part);
    assert!(said.last_line().contains("broken"), "{}", said.last_line());
    // The page still shows the tick of the evidence that is gone.
    let pages = ["00-fake.md", "targets.md", "goldens.md", "README.md", "10-fake.md"];
    assert_eq!(stale_pages(&machine), pages.map(|page| format!("checklists/{page}")));
}

fn touched_evidence() {
    check_touched(|text| Some(text[..text.len() / 2].to_owned()), "its run lists");
    check_touched(|text| Some(text.replacen("1000.01", "1100.01", 1)), "its run lists");
    check_touched(|text| Some(format!("{text}\n")), "its run lists");
    check_touched(|_| Some(String::new()), "its run lists");
    check_touched(|_| None, "No such file");
}

/// The golden as `--bless` wrote it, up to its tolerance.
fn golden_figure(machine: &Machine) -> String {
    let text = fs::read_to_string(machine.path("golden/fake-board.toml")).expect("read");
    let (_, rest) = text.split_once("golden = ").expect("blessed");
    let (figure, _) = rest.split_once(',').expect("a figure");
    format!("golden = {figure},")
}

fn a_moved_golden() {
    let machine = Machine::recorded();
    let figure = golden_figure(&machine);
    folders::edit(&machine.path("golden/fake-board.toml"), &figure, "golden = 1100.0,");
    let said = machine.run(&["--recorded"]);
    said.expect(1, "REGRESSED: read_gbps = 1000");
    assert!(said.last_line().contains("read 1000 < 1087.9 GB/s (regressed)"), "{said:?}");
    machine.run(&["--recorded", "bandwidth::link"]).expect(0, "1 of 1 recorded claims hold");
    // A golden that is gone is no pass either.
    machine.forget_board();
    machine.run(&["--recorded"]).expect(4, "the peak hbm_gbps of this board is not known");
}

fn a_moved_promise() {
    let machine = Machine::recorded();
    let file = machine.path("golden/documented.toml");
    folders::edit(&file, "at_most = 10.0", "at_most = 1.0");
    machine.run(&["--recorded"]).expect(1, "REFUTED: latency_us = 3");
}

fn stale() {
    for fault in ["reworded", "new-kernel"] {
        let machine = Machine::recorded().planted(fault);
        machine.run(&["--recorded"]).expect(0, "stale: ");
        let said = machine.run(&["--recorded", "--gate"]);
        said.expect(3, "STALE: ");
        let gate = machine.with("TOUCHSTONE_GATE", "true");
        gate.run(&["--recorded"]).expect(3, "STALE: ");
    }
}

fn corrupt_manifests() {
    let check = |touch: fn(&str) -> String, parts: &[&str]| {
        let machine = Machine::recorded();
        let file = machine.path(recorded::RUNS);
        let text = fs::read_to_string(&file).expect("read");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[1] = touch(&lines[1]);
        fs::write(&file, lines.join("\n") + "\n").expect("written");
        machine.run(&["--recorded"]).expect_error(2, parts);
        machine.run(&["--update-checklists"]).expect_error(2, parts);
    };
    let line = "checklists/evidence/runs.jsonl:2: ";
    check(|line| line[..line.len() / 2].to_owned(), &[line]);
    check(|_| String::new(), &[line]);
    check(|line| line.replacen("\"schema\":1", "\"schema\":9", 1), &[line, "schema 9 is not 1"]);
    check(|line| line.replacen("\"shared\"", "\"sharde\"", 1), &[line, "sharde"]);
}

fn no_runs() {
    let machine = Machine::recorded();
    let folder = machine.path("no-run");
    fs::create_dir(&folder).expect("made");
    let evidence = ["--evidence", text(&folder)];
    machine.run(&evidence).expect_error(2, &["no-run/run.json", "No such file"]);
    machine.run(&["--record", text(&folder)]).expect_error(2, &["no-run/run.json"]);
    fs::write(folder.join("run.json"), "{}\n").expect("written");
    machine.run(&evidence).expect_error(2, &["no-run/run.json", "missing field"]);
    let tar = machine.path("no.tar");
    fs::write(&tar, "not a tar").expect("written");
    machine.run(&["--record", text(&tar)]).expect_error(2, &["no.tar"]);
    assert!(machine.runs().is_empty());
}

fn stale_pages(machine: &Machine) -> Vec<String> {
    fake::with_world(machine.root(), 0, pages::stale).expect("rendered")
}

fn checklists() {
    let machine = Machine::recorded();
    let page = machine.path("checklists/00-fake.md");
    assert_eq!(stale_pages(&machine), Vec::<String>::new());
    let text = fs::read_to_string(&page).expect("read");
    let ticked = |claim: &str| {
        let line = text.lines().find(|line| line.contains(claim)).expect("a line");
        line.starts_with("- [x] ")
    };
    for (claim, holds) in [
        ("bandwidth::read", true),
        ("compute::exact", true),
        ("env::counts-itself", true),
        ("bandwidth::mesh-n8", false),
        ("compute::fp4", false),
        ("compute::sustained", false),
    ] {
        assert_eq!(ticked(claim), holds, "{claim} in\n{text}");
    }
    assert!(!text.contains("] bandwidth::doubled-is-false"), "a record has no checkbox:\n{text}");
    // A hand edit between the markers is seen and undone; prose outside of them stays.
    let forged = text.replacen("- [ ] ", "- [x] ", 1) + "\nA line of prose.\n";
    fs::write(&page, &forged).expect("written");
    assert_eq!(stale_pages(&machine), ["checklists/00-fake.md"]);
    machine.run(&["--update-checklists"]).expect(0, "wrote checklists/00-fake.md");
    let again = fs::read_to_string(&page).expect("read");
    assert_eq!(again, text.clone() + "\nA line of prose.\n");
    // A tick by hand that cites evidence, outside of the markers and on a page of its own.
    let tick = "- [x] **bandwidth::read** evidence [sha256:0123](evidence/a.json)\n";
    let refused = |file: &Path, text: &str| {
        fs::write(file, text).expect("written");
        let error = fake::with_world(machine.root(), 0, pages::stale).expect_err("refused");
        assert!(error.contains("a ticked box with \"sha256:\" stands outside"), "{error}");
    };
    refused(&page, &format!("{text}\n{tick}"));
    machine.run(&["--update-checklists"]).expect_error(2, &["00-fake.md:", "stands outside"]);
    fs::write(&page, &text).expect("written");
    refused(&machine.path("checklists/own.md"), tick);
    fs::write(machine.path("checklists/own.md"), "- [x] a task\n").expect("written");
    assert_eq!(stale_pages(&machine), Vec::<String>::new());
}

fn once_and_whole() {
    let node = Machine::recorded().gpus(2);
    let run = node.measure();
    node.record(&run);
    node.run(&["--record", text(&run)]).expect_error(2, &["is recorded already"]);
    // The same measurement under another name.
    let twin = renamed_copy(&run, &node.path("twin"));
    node.run(&["--record", text(&twin)]).expect_error(2, &["a measurement is recorded once"]);
    // Evidence that was touched before it is recorded.
    let touched = node.measure();
    let file = touched.join("evidence/env-probe-n2.json");
    fs::write(&file, fs::read_to_string(&file).expect("read") + " ").expect("written");
    node.run(&["--record", text(&touched)])
        .expect_error(2, &["env-probe-n2.json", "its run lists"]);
    // A run of a board that golden/ has renamed since.
    let renamed = node.measure();
    let manifest = renamed.join("run.json");
    folders::edit(&manifest, "\"board\":\"fake-board\"", "\"board\":\"other\"");
    node.run(&["--record", text(&renamed)]).expect_error(2, &["board other"]);
    // A recorded run is no live run: it measured no GPU.
    let node = node.gpus(0);
    node.run(&["--recorded"]).expect(0, "RECORDED");
    let judged = node.runs().last().expect("a run").clone();
    node.run(&["--record", text(&judged)]).expect_error(2, &["measured no GPU"]);
    assert_eq!(recorded::load(&node.root()).expect("loaded").len(), 5);
    let strangers = node.path("checklists/evidence/other");
    assert!(!strangers.exists());
}

/// What all GPUs do together is told of the most of them, what each does of the newest run, and a newer failure counts.
fn most_gpus() {
    let node = Machine::fake().gpus(4);
    node.record(&node.measure_on("4"));
    let node = node.gpus(2);
    node.record(&node.measure());
    let lines = |node: &Machine| -> [String; 2] {
        node.run(&["--update-checklists"]).expect(0, "wrote checklists/00-fake.md");
        let page = fs::read_to_string(node.path("checklists/00-fake.md")).expect("read");
        ["bandwidth::link", "bandwidth::read"].map(|claim| {
            let of = format!("**{claim}** ");
            page.lines().find(|line| line.contains(&of)).expect("a line").to_owned()
        })
    };
    let [link, read] = lines(&node);
    assert!(link.starts_with("- [x]") && link.contains("x4: "), "{link}");
    assert!(read.contains("x2: "), "{read}");
    let node = node.planted("slow-link");
    node.record(&node.measure());
    let node = node.healthy();
    let [link, _] = lines(&node);
    assert!(link.starts_with("- [ ]") && link.contains("x2: "), "{link}");
    // A failure of more GPUs is named by a newer run of fewer in which the claim holds.
    let node = node.gpus(4).planted("slow-link");
    node.record(&node.measure_on("4"));
    let node = node.healthy().gpus(2);
    node.record(&node.measure());
    let [link, _] = lines(&node);
    assert!(link.starts_with("- [x]") && link.contains("x2: "), "{link}");
    assert!(link.contains("refuted over 4 GPUs in "), "{link}");
}

fn disturbed() {
    let node = Machine::recorded().gpus(2);
    let line = |node: &Machine| -> String {
        node.run(&["--update-checklists"]).expect(0, "wrote checklists/00-fake.md");
        let page = fs::read_to_string(node.path("checklists/00-fake.md")).expect("read");
        let of = "**bandwidth::read** ";
        page.lines().find(|line| line.contains(of)).expect("a line").to_owned()
    };
    let record = |node: &Machine, arguments: &[&str]| {
        let file = node.path("run.tar");
        let all = [&["--gpus", "2", "--archive", text(&file)], arguments].concat();
        node.run(&all);
        node.record(&file);
        fs::remove_file(&file).expect("removed");
    };
    record(&node, &["--shared"]);
    let held = line(&node);
    assert!(held.starts_with("- [x]") && held.contains(" - inconclusive in "), "{held}");
    // Nor does a second one, and the newest is named.
    record(&node, &["--shared"]);
    assert!(line(&node).starts_with("- [x]"));
    // Where no run could, nothing is ticked and nothing held against the board.
    let alone = Machine::fake().gpus(2);
    let runs: Vec<PathBuf> = (0..3).map(|_| alone.measure()).collect();
    let digests: Vec<String> = runs.iter().map(|run| alone.record(run)).collect();
    alone.run(&["--bless", &digests.join(",")]).expect(0, "bandwidth::read: read_gbps = ");
    record(&alone, &["--shared"]);
    let none = line(&alone);
    assert!(none.starts_with("- [ ]") && none.contains("not judged, "), "{none}");
    // What misses a bound is no matter of who else was there.
    let node = node.planted("slow");
    record(&node, &["--shared"]);
    let node = node.healthy();
    let missed = line(&node);
    assert!(missed.starts_with("- [ ]"), "{missed}");
    // A failure that was seen undisturbed stays, too.
    let failed = Machine::recorded().gpus(2).planted("slow");
    failed.record(&failed.measure());
    let failed = failed.healthy();
    record(&failed, &["--shared"]);
    let still = line(&failed);
    assert!(still.starts_with("- [ ]") && still.contains("REGRESSED"), "{still}");
    assert!(still.contains("inconclusive in "), "{still}");
}

fn renamed_calibration() {
    let node = Machine::fake();
    let runs: Vec<PathBuf> = (0..3).map(|_| node.measure()).collect();
    let digests: Vec<String> = runs.iter().map(|run| node.record(run)).collect();
    node.run(&["--bless", &digests.join(",")]).expect(0, "bandwidth::read: read_gbps = ");
    let twin = renamed_copy(&runs[0], &node.path("twin"));
    let other = node.measure();
    let node = node.gpus(0);
    let judge = |run: &Path| node.run(&["--evidence", text(run), "--exact", "bandwidth::read"]);
    judge(&other).expect(0, "1 of 1 recorded claims hold");
    judge(&runs[0]).expect(4, "a calibration run of this golden");
    judge(&twin).expect(4, "a calibration run of this golden");
}

fn unlisted() {
    let node = Machine::recorded().gpus(2);
    let run = node.measure();
    let node = node.gpus(0);
    let beside = |folder: &Path| {
        let file = folder.join("bandwidth-other-n2.json");
        fs::write(&file, "{}").expect("written");
        file
    };
    let said = "/bandwidth-other-n2.json lies there, and run ";
    let file = beside(&run.join("evidence"));
    node.run(&["--evidence", text(&run)]).expect_error(2, &[said]);
    fs::remove_file(file).expect("removed");
    node.run(&["--evidence", text(&run)]).expect(0, "recorded claims hold");
    let newest = newest(&node);
    let file = beside(newest.parent().expect("a folder"));
    node.run(&["--recorded"]).expect_error(2, &["checklists/evidence/fake-board/", said]);
    node.run(&["--update-checklists"]).expect_error(2, &[said]);
    fs::rename(&file, node.path("checklists/evidence/fake-board/x.json")).expect("moved");
    node.run(&["--recorded"]).expect_error(2, &["runs.jsonl does not list", "x.json"]);
}

/// What a newer run did not run is ticked by the older one, which says so.
fn other_runs() {
    let node = Machine::recorded().gpus(2).planted("no-library");
    let cited = newest(&node);
    node.record(&node.measure());
    let runs = recorded::load(&node.root()).expect("loaded");
    let newer = &runs.last().expect("a run").run.run;
    node.run(&["--update-checklists"]).expect(0, "wrote checklists/00-fake.md");
    let page = fs::read_to_string(node.path("checklists/00-fake.md")).expect("read");
    let line_of = |claim: &str| page.lines().find(|line| line.contains(claim)).expect("a line");
    let older = cited.strip_prefix(node.path("checklists")).expect("below");
    let clause = format!("({}) - not run in {newer}: libfake.so is missing", text(older));
    let read = line_of("**bandwidth::read**");
    assert!(read.starts_with("- [x]") && read.ends_with(&clause), "{read}");
    // What the newer run did run is told of it alone.
    let exact = line_of("**compute::exact**");
    assert!(exact.contains(newer) && !exact.contains("not run in"), "{exact}");
    let said = node.gpus(0).run(&["--recorded"]);
    said.expect(0, "RECORDED: 5 of 8 recorded claims hold");
}

/// A copy of a run under another id, with digests that are its own.
fn renamed_copy(run: &Path, copy: &Path) -> PathBuf {
    folders::copy(run, copy);
    let manifest = copy.join("run.json");
    let line = fs::read_to_string(&manifest).expect("read");
    let mut parsed = harness::run::parse(line.trim_end()).expect("a manifest");
    let (old, new) = (parsed.run.clone(), format!("{}f", &parsed.run[..parsed.run.len() - 1]));
    let new = if new == old { format!("{}0", &old[..old.len() - 1]) } else { new };
    for entry in &mut parsed.cases {
        let file = copy.join("evidence").join(&entry.file);
        let text = fs::read_to_string(&file).expect("read").replace(&old, &new);
        entry.sha256 = harness::digest::Sha256::of(text.as_bytes());
        fs::write(&file, text).expect("written");
    }
    parsed.run = new;
    fs::write(&manifest, parsed.line().expect("a line") + "\n").expect("written");
    copy.to_path_buf()
}
