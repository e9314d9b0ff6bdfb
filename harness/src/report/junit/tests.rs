use std::path::PathBuf;

use proptest::prelude::*;
use quick_junit::{NonSuccessKind, TestCaseStatus};
use quick_xml::events::{BytesStart, Event};

use super::schema::Schema;
use super::*;
use crate::claim::Claim;
use crate::judge::{EvidenceRef, Judgement};
use crate::report::specimens::{self, recorded};

/// What an independent parser finds in a file.
#[derive(Debug, Default)]
struct Seen {
    name: String,
    suites: Vec<SeenSuite>,
    totals: [usize; 3],
}

#[derive(Debug, Default)]
struct SeenSuite {
    name: String,
    /// tests, failures, errors, skipped, as the attributes say.
    said: [usize; 4],
    /// The same, counted.
    counted: [usize; 4],
    out: String,
    cases: Vec<SeenCase>,
}

#[derive(Debug, Default)]
struct SeenCase {
    name: String,
    classname: String,
    message: String,
    out: String,
}

fn attribute_of(tag: &BytesStart, name: &str) -> String {
    let attribute = tag.try_get_attribute(name).unwrap();
    let attribute = attribute.unwrap_or_else(|| panic!("{tag:?} has no {name}"));
    attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap().into_owned()
}

fn count_of(tag: &BytesStart, name: &str) -> usize {
    attribute_of(tag, name).parse().unwrap()
}

fn open(seen: &mut Seen, tag: &BytesStart) {
    match tag.name().as_ref() {
        "testsuites" => {
            seen.name = attribute_of(tag, "name");
            seen.totals = ["tests", "failures", "errors"].map(|name| count_of(tag, name));
            assert!(attribute_of(tag, "time").parse::<f64>().unwrap() >= 0.0);
        }
        "testsuite" => seen.suites.push(SeenSuite {
            name: attribute_of(tag, "name"),
            said: ["tests", "failures", "errors", "skipped"].map(|name| count_of(tag, name)),
            ..SeenSuite::default()
        }),
        "testcase" => {
            let suite = seen.suites.last_mut().unwrap();
            suite.counted[0] += 1;
            assert!(attribute_of(tag, "time").parse::<f64>().unwrap() >= 0.0);
            let (name, classname) = (attribute_of(tag, "name"), attribute_of(tag, "classname"));
            suite.cases.push(SeenCase { name, classname, ..SeenCase::default() });
        }
        "system-out" => {}
        kind => {
            let suite = seen.suites.last_mut().unwrap();
            let kinds: [&str; 3] = ["failure", "error", "skipped"];
            let at = kinds.iter().position(|known| *known == kind).expect("a known element");
            suite.counted[at + 1] += 1;
            suite.cases.last_mut().unwrap().message = attribute_of(tag, "message");
        }
    }
}

/// Parses with a parser that did not write the file, and checks what that one lets pass: the
/// characters that XML 1.0 allows, and one root that is closed.
#[track_caller]
fn parse(xml: &str) -> Seen {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\u{20}'..='\u{fffd}' | '\u{10000}'..);
    assert!(xml.chars().all(allowed));
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut seen = Seen::default();
    let mut path: Vec<String> = Vec::new();
    loop {
        match reader.read_event().unwrap_or_else(|e| panic!("{e}: {xml}")) {
            Event::Start(tag) => {
                open(&mut seen, &tag);
                path.push(tag.name().as_ref().to_owned());
            }
            Event::Empty(tag) => open(&mut seen, &tag),
            Event::End(_) => assert!(path.pop().is_some()),
            Event::CData(data) => {
                let text: &str = data.as_ref();
                let suite = seen.suites.last_mut().unwrap();
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                match names[..] {
                    [_, _, "system-out"] => suite.out.push_str(text),
                    [.., "testcase", "system-out"] => {
                        suite.cases.last_mut().unwrap().out.push_str(text);
                    }
                    _ => {}
                }
            }
            Event::Text(text) => assert!(text.as_ref().trim().is_empty(), "{text:?}"),
            Event::Decl(_) => {}
            Event::Eof => break,
            other => panic!("{other:?} in {xml}"),
        }
    }
    assert!(path.is_empty());
    Schema::read().check(xml).unwrap_or_else(|why| panic!("{why}: {xml}"));
    read_by_nextest(xml, &seen);
    seen
}

/// Reads with nextest's reader of JUnit, which is to find the same suites, cases and kinds.
#[track_caller]
fn read_by_nextest(xml: &str, seen: &Seen) {
    let report = quick_junit::Report::deserialize_from_str(xml);
    let report = report.unwrap_or_else(|error| panic!("{error}: {xml}"));
    assert_eq!(report.name.as_ref().map(|name| name.as_str()), Some(seen.name.as_str()));
    assert_eq!([report.tests, report.failures, report.errors], seen.totals);
    assert_eq!(report.test_suites.len(), seen.suites.len());
    for (suite, own) in report.test_suites.iter().zip(&seen.suites) {
        assert_eq!(suite.name.as_str(), own.name);
        let mut counted = [suite.test_cases.len(), 0, 0, 0];
        for (case, own) in suite.test_cases.iter().zip(&own.cases) {
            assert_eq!(case.name.as_str(), own.name);
            match &case.status {
                TestCaseStatus::Success { .. } => {}
                TestCaseStatus::NonSuccess { kind: NonSuccessKind::Failure, .. } => counted[1] += 1,
                TestCaseStatus::NonSuccess { kind: NonSuccessKind::Error, .. } => counted[2] += 1,
                TestCaseStatus::Skipped { .. } => counted[3] += 1,
            }
        }
        assert_eq!(counted, own.counted, "{}", own.name);
    }
}

/// Leaves a file of this shape in `target/junit/`, where `.ci/run` hands it to readers in other languages.
fn leave(shape: &str, xml: &str) {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let file = root.join(format!("target/junit/{shape}.xml"));
    crate::files::write(&file, xml.as_bytes()).unwrap();
}

#[track_caller]
fn check_counts(seen: &Seen, trials: usize) {
    let mut totals = [0; 3];
    for suite in &seen.suites {
        assert_eq!(suite.said, suite.counted, "{}", suite.name);
        for (total, counted) in totals.iter_mut().zip(suite.counted) {
            *total += counted;
        }
    }
    assert_eq!(seen.totals, totals);
    assert_eq!(totals[0], trials);
}

#[test]
fn live_file() {
    let trials = specimens::trials();
    let xml = render(&specimens::report(&trials)).unwrap();
    let seen = parse(&xml);
    check_counts(&seen, trials.len());
    assert_eq!(seen.name, "touchstone");
    assert!(!xml.contains("RECORDED"));
    leave("live", &xml);
    insta::assert_snapshot!(xml);
}

#[test]
fn recorded_file_says_so_everywhere() {
    let trials = recorded(&specimens::trials());
    let report = Report { mode: Mode::Recorded, gate: true, ..specimens::report(&trials) };
    let xml = render(&report).unwrap();
    let seen = parse(&xml);
    check_counts(&seen, trials.len());
    leave("recorded", &xml);
    let machine = "RECORDED on nvidia-h200-sxm x4 of 2026-11-21";
    for suite in seen.suites.iter().filter(|suite| !suite.name.starts_with("host.")) {
        assert!(suite.name.starts_with("recorded.nvidia-h200-sxm."), "{}", suite.name);
        assert!(suite.out.contains(machine));
        assert!(suite.cases.iter().all(|case| case.out.contains(machine)));
    }
    insta::assert_snapshot!(xml);
}

#[test]
fn an_empty_file_is_a_file() {
    let xml = render(&specimens::report(&[])).unwrap();
    check_counts(&parse(&xml), 0);
    leave("empty", &xml);
}

#[test]
fn a_time_that_is_none_is_zero() {
    for seconds in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        assert_eq!(duration(seconds), Duration::ZERO);
    }
    assert_eq!(duration(1.2345), Duration::milliseconds(1235));
}

#[test]
fn a_file_is_written_where_it_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file_name(Mode::Recorded));
    write(&path, &specimens::report(&[])).unwrap();
    parse(&std::fs::read_to_string(&path).unwrap());
}

/// Text that hurts: any Unicode, control bytes, ends of CDATA, ANSI, tags.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[\u{0}-\u{20}\u{7f}-\u{9f}]{0,4}",
        Just("]]>".to_owned()),
        Just("]]]]>>".to_owned()),
        Just("<![CDATA[".to_owned()),
        Just("<testsuite name=\"x\">".to_owned()),
        Just("</system-out>&amp;&#0;".to_owned()),
        Just("\u{1b}[1;31m".to_owned()),
        Just("\u{1b}]0;".to_owned()),
        Just("\u{fffe}\u{ffff}\r\n".to_owned()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

#[test]
fn what_the_time_limit_left_out_is_not_unexplained() {
    let mut trials = specimens::trials();
    trials.retain(|trial| trial.judgement.verdict == Verdict::NotRun { explained: false });
    let message = |trials: &[Trial]| {
        let seen = parse(&render(&specimens::report(trials)).unwrap());
        seen.suites[0].cases[0].message.clone()
    };
    assert!(message(&trials).starts_with("not-run, unexplained: "));
    let why = "14 s expected, 7 s left of the run's limit of 1330 s";
    trials[0].judgement.reason = why.to_owned();
    assert_eq!(message(&trials), format!("not-run, time limit: {why}"));
}

fn hostile_trial() -> impl Strategy<Value = (Trial, [String; 4])> {
    let texts = [hostile(), hostile(), hostile(), hostile()];
    (texts, 0..specimens::judgements().len(), 0..3_usize).prop_map(|(texts, base, origin)| {
        let judgement = specimens::judgements().swap_remove(base);
        // Claims are statics; a test's claims may live as long as the test's process.
        let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
        let source = judgement.claim;
        let claim: &'static Claim = Box::leak(Box::new(Claim {
            id: leak(&texts[0]),
            text: leak(&texts[1]),
            at: source.at,
            source: source.source,
            ..specimens::claim_like(source)
        }));
        let evidence = judgement.evidence.clone().map(|evidence| EvidenceRef {
            path: texts[3].clone(),
            run: texts[2].clone(),
            board: texts[0].clone(),
            other_runs: Some(texts[3].clone()),
            ..evidence
        });
        let note = Some(texts[2].clone());
        let judgement = Judgement { claim, reason: texts[2].clone(), evidence, note, ..judgement };
        let origin = [Origin::Live, Origin::Recorded, Origin::Host][origin];
        (Trial { judgement, origin, wall_s: 0.5 }, texts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_121),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_gives_a_well_formed_file(
        hostile in proptest::collection::vec(hostile_trial(), 0..4),
        board in hostile(),
        gate in any::<bool>(),
    ) {
        let trials: Vec<Trial> = hostile.iter().map(|(trial, _)| trial.clone()).collect();
        let report = Report { board: &board, run: &board, gate, ..specimens::report(&trials) };
        let xml = render(&report).unwrap();
        let seen = parse(&xml);
        check_counts(&seen, trials.len());
        // Named by its text, so that the same cases leave the same files.
        leave(&format!("hostile-{}", &crate::digest::sha256_hex(xml.as_bytes())[..8]), &xml);
        let cases: Vec<&SeenCase> = seen.suites.iter().flat_map(|suite| &suite.cases).collect();
        for (trial, [id, text, reason, path]) in &hostile {
            let found = cases.iter().any(|case| {
                let mut ok = case.name == text::one_line(id)
                    && case.classname == text::one_line(trial.judgement.claim.suite())
                    && case.out.contains(&text::one_line(text));
                ok &= reason.is_empty() || case.out.contains(&text::clean(reason));
                if trial.judgement.evidence.is_some() {
                    ok &= case.out.contains(&text::one_line(path));
                }
                if junit_class(trial.judgement.verdict, gate) != JunitClass::Passed {
                    ok &= case.message.contains(&figures::message(&trial.judgement));
                }
                ok
            });
            prop_assert!(found, "{:?} in {:?}", trial.judgement.claim.id, cases);
        }
    }
}
