use super::specimens::{self, recorded};
use super::*;
use crate::detector;

const NOT_RUN: Verdict = Verdict::NotRun { explained: false };
const LEFT_OUT: Verdict = Verdict::NotRun { explained: true };

fn trial(verdict: Verdict, origin: Origin) -> Trial {
    let judgement = specimens::bare(&specimens::READ, verdict, "reason");
    Trial { judgement, origin, wall_s: 0.0 }
}

/// Words and exit codes of one verdict beside a verified one, without and with the gate; and its
/// exit code alone.
#[track_caller]
fn check(
    verdict: Verdict,
    origin: Origin,
    [open, gated]: [(&str, JunitClass, i32); 2],
    alone: i32,
) {
    let live = origin != Origin::Recorded;
    for (gate, expect) in [(false, open), (true, gated)] {
        let machine = if live { Origin::Live } else { Origin::Recorded };
        let trials = [trial(Verdict::Verified, machine), trial(verdict, origin)];
        let seen = (
            libtest_word(verdict, gate),
            junit_class(verdict, gate),
            exit_code(&trials, gate, false),
        );
        assert_eq!(seen, expect, "{verdict:?} {origin:?} gate {gate}");
        assert_eq!(fails(verdict, gate), expect.2 != 0);
        assert_eq!(exit_code(&trials, gate, true), 130);
    }
    assert_eq!(exit_code(&[trial(verdict, origin)], false, false), alone);
}

#[test]
fn every_verdict_has_its_word_class_and_exit_code() {
    use JunitClass::{Error, Failure, Passed, Skipped};
    for origin in [Origin::Live, Origin::Recorded, Origin::Host] {
        let both = |word, class, code| [(word, class, code); 2];
        check(Verdict::Verified, origin, both("ok", Passed, 0), 0);
        check(Verdict::Refuted, origin, both("FAILED", Failure, 1), 1);
        check(Verdict::Corrupt, origin, both("FAILED", Failure, 1), 1);
        check(Verdict::Regressed, origin, both("FAILED", Failure, 1), 1);
        check(Verdict::Inconclusive, origin, both("FAILED", Failure, 3), 3);
        check(Verdict::Broken, origin, both("FAILED", Error, 3), 3);
        check(Verdict::NotApplicable, origin, both("ignored", Skipped, 0), 4);
        check(LEFT_OUT, origin, both("ignored", Skipped, 0), 4);
        let stale = [("ignored", Skipped, 0), ("FAILED", Failure, 3)];
        check(Verdict::Stale, origin, stale, 4);
        check(NOT_RUN, origin, both("FAILED", Skipped, 4), 4);
    }
}

#[test]
fn one_wins_over_three_over_four() {
    let live = |verdict| trial(verdict, Origin::Live);
    let four = [live(Verdict::Verified), live(NOT_RUN)];
    let three = [four[0].clone(), four[1].clone(), live(Verdict::Broken)];
    let one = [three[0].clone(), three[1].clone(), three[2].clone(), live(Verdict::Regressed)];
    assert_eq!([&four[..], &three, &one].map(|trials| exit_code(trials, false, false)), [4, 3, 1]);
}

#[test]
fn host_claims_never_stand_in_for_the_machine() {
    let host = trial(Verdict::Verified, Origin::Host);
    for origin in [Origin::Live, Origin::Recorded] {
        assert_eq!(exit_code(&[host.clone(), trial(LEFT_OUT, origin)], false, false), 4);
    }
    assert_eq!(exit_code(&[host], false, false), 0);
    assert_eq!(exit_code(&[], false, false), 4);
}

#[test]
fn an_account_names_every_fact() {
    let trials = specimens::trials();
    let report = specimens::report(&trials);
    let mut out = String::new();
    for trial in &trials {
        out += &format!("{}\n{}\n\n", message(&trial.judgement), account(&report, trial));
    }
    let mut trials = recorded(&trials[..1]);
    let evidence = trials[0].judgement.evidence.as_mut().expect("evidence");
    evidence.other_runs = Some("not run in 20261122T002921Z-3d2bafb6: no time left".to_owned());
    let report = Report { mode: Mode::Recorded, ..specimens::report(&trials) };
    out += &account(&report, &trials[0]);
    insta::assert_snapshot!(out);
}

/// Every report says how many planted faults were seen, and a miss is a failure of the run.
#[test]
fn a_detector_that_misses_a_fault_makes_nothing_good() {
    let score = detector::synthetic().expect("planted");
    let trials: Vec<Trial> =
        specimens::trials().into_iter().filter(|trial| !trial.fails(false)).collect();
    let report = |score| Report { detector: Some(score), ..specimens::report(&trials) };
    let whole = report(&score);
    let words = whole.detector_words().expect("a score");
    let count = format!("{0} of {0} broken files, 0 false alarms; ", score.planted());
    assert!(words.starts_with(&count), "{words}");
    let page = summary::render(&whole, &[]);
    assert!(page.contains(&format!("\nDetector: {words}\n")), "{page}");
    let xml = junit::render(&whole).expect("rendered");
    let property = "<property name=\"detector.files.caught\" value=\"";
    assert!(xml.contains(&format!("{property}{}\"/>", score.planted())), "{xml}");
    let (good, line) = (whole.exit_code(), last_line(&whole));
    assert_eq!((good, line.starts_with("NODE GOOD")), (0, true), "{line}");

    let mut missed = score.clone();
    missed.tries[0].caught = false;
    let blind = report(&missed);
    let line = last_line(&blind);
    assert_eq!(blind.exit_code(), 3);
    assert!(
        line.starts_with("SUITE UNKNOWN: ") && line.contains(score.tries[0].fault.name),
        "{line}"
    );
    assert!(summary::render(&blind, &[]).contains("- **missed** evidence: "));
}
