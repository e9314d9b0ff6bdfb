//! Which recorded run is the newest, and what lies among the evidence without being it.

use super::*;
use crate::report::specimens;
use crate::run::MAX_BYTES;
use crate::selfcheck;

/// A manifest of the self-check's case that started at this second and lists no file but this.
fn line(name: &str, second: u32, file: &str) -> String {
    let mut run = specimens::finished("", "1", &format!("2026-11-21T03:15:{second:02}Z")).run;
    run.run = name.to_owned();
    run.board = "board".to_owned();
    let devices = selfcheck::healthy().parts.into_iter().flat_map(|part| part.devices);
    run.devices = devices.collect::<Vec<_>>().into();
    run.cases.push(CaseEntry {
        case: selfcheck::CASE.id.into(),
        file: file.into(),
        sha256: Sha256::of(b"evidence"),
        outcome: "completed".into(),
    });
    let line = run.line().expect("a line");
    assert!(line.len() < MAX_BYTES);
    line
}

fn names(lines: &[String]) -> Vec<String> {
    let runs = list(Path::new("nowhere"), lines.iter().cloned().map(Ok)).expect("listed");
    runs.into_iter().map(|finished| finished.run.run).collect()
}

/// The runs in the order of their starts, whatever order their lines have.
#[test]
fn the_start_of_a_run_says_which_is_the_newest_and_not_its_line() {
    let runs = [line("b", 10, "a.json"), line("c", 5, "a.json"), line("a", 11, "a.json")];
    let [first, second, third] = runs.clone();
    let expect = ["c", "b", "a"];
    assert_eq!(names(&runs), expect);
    assert_eq!(names(&[third.clone(), second.clone(), first.clone()]), expect);
    assert_eq!(names(&[second, third, first]), expect);
    // In one second: as they were brought in.
    assert_eq!(names(&[line("b", 1, "a.json"), line("a", 1, "a.json")]), ["b", "a"]);
}

#[test]
fn the_newest_run_by_its_start_is_located() {
    let lines = [line("newer", 20, "a.json"), line("older", 10, "a.json")];
    let runs = list(Path::new("nowhere"), lines.into_iter().map(Ok)).expect("listed");
    let located = |golden: Option<&BoardGolden>| {
        let found = locate(&runs, "board", golden, &selfcheck::RATE, &selfcheck::CASE);
        found.map(|located| located.finished.run.run.as_str())
    };
    assert_eq!(located(None), Ok("newer"));
    // Of a run that made the golden nothing is ticked while there is another one.
    let mut golden = selfcheck::goldens().boards["board"].clone();
    let bounds = golden.claims.get_mut(selfcheck::RATE.id).expect("bounds");
    bounds.get_mut("read_gbps").expect("a bound").runs = vec![runs[1].sha256.clone()];
    assert_eq!(located(Some(&golden)), Ok("older"));
}

/// A run whose manifest says that a case was not run hides no older one, if its evidence says so too, and is named.
#[test]
fn what_was_not_run_hides_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let mut evidence = selfcheck::healthy();
    evidence.run = "newer".to_owned();
    let not_run = evidence::Outcome::NotRun("no time left".to_owned());
    for part in &mut evidence.parts {
        (part.outcome, part.wall_s) = (not_run.clone(), 0.0);
        part.started = "2026-11-21T03:15:20Z".to_owned();
    }
    let text = serde_json::to_string(&evidence).expect("text");
    let mut newer = line("newer", 20, "a.json").replace("\"completed\"", "\"not-run\"");
    newer = newer
        .replace(&Sha256::of(b"evidence").to_string(), &Sha256::of(text.as_bytes()).to_string());
    let lines = [newer, line("older", 10, "a.json")];
    let mut runs = list(root.path(), lines.into_iter().map(Ok)).expect("listed");
    let file = runs[1].folder.join("a.json");
    files::write(&file, text.as_bytes()).expect("written");
    checked(&runs[1], &runs[1].run.cases[0]).expect("what its run lists");
    let located = |runs: &[FinishedRun]| {
        let found = locate(runs, "board", None, &selfcheck::RATE, &selfcheck::CASE);
        found.map(|located| (located.finished.run.run.clone(), located.other_runs))
    };
    let clause = "not run in newer: no time left".to_owned();
    assert_eq!(located(&runs), Ok(("older".to_owned(), Some(clause.clone()))));
    // Several of them: the newest says why.
    let again = [runs[0].clone(), runs[1].clone(), runs[1].clone()];
    let two = "not run in newer and 1 other newer run: no time left".to_owned();
    assert_eq!(located(&again), Ok(("older".to_owned(), Some(two))));
    // An older one that was not run is nobody's matter.
    let turned = [runs[1].clone(), runs[0].clone()];
    assert_eq!(located(&turned), Ok(("older".to_owned(), None)));
    files::write(&file, b"another").expect("written");
    assert_eq!(located(&runs), Ok(("newer".to_owned(), None)));
    runs.remove(0);
    files::write(&file, text.as_bytes()).expect("written");
    let none = "no recorded run of board holds it";
    assert_eq!(located(&runs), Err(format!("{none}; {clause}")));
    // One GPU has tried it.
    evidence.parts[0].outcome = evidence::Outcome::Completed;
    let text = serde_json::to_string(&evidence).expect("text");
    runs[0].run.cases[0].sha256 = Sha256::of(text.as_bytes());
    files::write(&file, text.as_bytes()).expect("written");
    assert_eq!(located(&runs), Ok(("newer".to_owned(), None)));
}

/// A root with one recorded run of one file, and what somebody laid beside.
#[track_caller]
fn check(beside: &[&str], expect: Result<usize, &str>) {
    let root = tempfile::tempdir().expect("a folder");
    let lay = |file: &str, text: &str| {
        files::write(&root.path().join("checklists/evidence").join(file), text.as_bytes())
            .expect("written");
    };
    lay("runs.jsonl", &format!("{}\n", line("run", 1, "a.json")));
    lay("board/run/a.json", "evidence");
    for file in beside {
        lay(file, "");
    }
    match (load(root.path()), expect) {
        (Ok(runs), Ok(count)) => assert_eq!(runs.len(), count),
        (Err(error), Err(part)) => assert!(error.ends_with(part), "{error}"),
        (found, expect) => panic!("{beside:?}: {found:?}, wanted {expect:?}"),
    }
}

#[test]
fn what_no_line_lists_is_named() {
    check(&[], Ok(1));
    check(&["board/later.copying/a.json"], Ok(1));
    let file = "checklists/evidence/board/run/b.json lies there, and run run does not list it";
    check(&["board/run/b.json"], Err(file));
    check(&["board/other/a.json"], Err("checklists/evidence/board/other"));
    check(&["board/a.json"], Err("checklists/evidence/board/a.json"));
    check(&["a.json"], Err("checklists/evidence/a.json"));
    check(&["board/a.copying"], Err("checklists/evidence/board/a.copying"));
}

#[test]
fn a_run_that_is_left_in_its_folder_lists_all_that_lies_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| {
        files::write(&folder.path().join(file), text.as_bytes()).expect("written");
    };
    write("run.json", &line("run", 1, "a.json"));
    let finished = open(folder.path()).expect("opened");
    assert_eq!(unlisted(&finished), Ok(()));
    write("evidence/a.json", "evidence");
    assert_eq!(unlisted(&finished), Ok(()));
    write("evidence/b.json", "evidence");
    let said = "evidence/b.json lies there, and run run does not list it";
    assert_eq!(unlisted(&finished), Err(said.to_owned()));
}
