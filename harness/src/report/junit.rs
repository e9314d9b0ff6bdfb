//! JUnit that any parser reads.
//!
//! junit-report writes text as CDATA as it comes, and leaves out some counts. So every text is made
//! safe before it, and the counts are added after it. A suite for each suite of claims: `live.*`,
//! `recorded.*` and `host.*` are never mixed.

use std::path::Path;

use junit_report::{Duration, OffsetDateTime, TestCase, TestResult, TestSuite};

use super::{JunitClass, Mode, Origin, Report, Trial, figures, junit_class, text, word};
use crate::judge::Verdict;
use crate::schedule::time_limit_of;

/// Name of the file: a recorded one can never be taken for a live one.
pub fn file_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Live => "junit.xml",
        Mode::Recorded => "junit-recorded.xml",
    }
}

/// Writes the file, whole or not at all.
pub fn write(path: &Path, report: &Report) -> Result<(), String> {
    crate::files::write(path, render(report)?.as_bytes())
}

/// The whole file as text.
pub fn render(report: &Report) -> Result<String, String> {
    let suites = suites(report)?;
    let counts: Vec<Counts> = suites.iter().map(Counts::of).collect();
    let mut xml = Vec::new();
    let mut written = junit_report::Report::new();
    written.add_testsuites(suites);
    written.write_xml(&mut xml).map_err(|e| format!("junit: {e}"))?;
    let xml = String::from_utf8(xml).map_err(|e| format!("junit: {e}"))?;
    Ok(add_counts(&xml, report, &counts))
}

/// `live.<board>.<suite>`, `recorded.<board>.<suite>`, `host.<suite>`.
pub fn suite_name(report: &Report, trial: &Trial) -> String {
    let suite = trial.judgement.claim.suite();
    match trial.origin {
        Origin::Host => format!("host.{suite}"),
        origin => format!("{}.{}.{suite}", origin.word(), trial.board(report)),
    }
}

/// The suites in order of their first claim.
fn suites(report: &Report) -> Result<Vec<TestSuite>, String> {
    let timestamp = OffsetDateTime::from_unix_timestamp(report.started.as_second())
        .map_err(|e| format!("junit: start of the run: {e}"))?;
    let mut suites: Vec<TestSuite> = Vec::new();
    for trial in report.trials {
        let name = attribute(&suite_name(report, trial));
        let known = suites.iter().position(|suite| suite.name == name);
        let index = known.unwrap_or_else(|| {
            suites.push(suite(&name, timestamp, report, trial));
            suites.len() - 1
        });
        suites[index].add_testcase(testcase(report, trial));
    }
    Ok(suites)
}

fn suite(name: &str, timestamp: OffsetDateTime, report: &Report, trial: &Trial) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.set_timestamp(timestamp);
    let facts = match trial.origin {
        Origin::Recorded => {
            // Readers that show the host must not show this one.
            suite.hostname = "recorded".to_owned();
            let machine =
                figures::machine(trial.board(report), trial.judgement.evidence.as_ref(), report);
            format!("RECORDED on {machine}; this machine was not tested")
        }
        Origin::Live => {
            let machine = figures::machine(trial.board(report), None, report);
            let versions: String =
                report.versions.iter().map(|(of, version)| format!("\n{of}: {version}")).collect();
            format!("measured on {machine}, run {}{versions}", report.run)
        }
        Origin::Host => "needs no GPU; judged on this machine".to_owned(),
    };
    suite.set_system_out(&cdata(&facts));
    suite
}

fn testcase(report: &Report, trial: &Trial) -> TestCase {
    let judgement = &trial.judgement;
    let type_ = word(judgement.verdict).to_owned();
    let message = attribute(&headline(trial));
    let account = cdata(&figures::account(report, trial));
    // The rest stands in system-out.
    let cause = Some(cdata(&judgement.reason)).filter(|reason| !reason.is_empty());
    let result = match junit_class(judgement.verdict, report.gate) {
        JunitClass::Passed => TestResult::Success,
        JunitClass::Failure => TestResult::Failure { type_, message, cause },
        JunitClass::Error => TestResult::Error { type_, message, cause },
        JunitClass::Skipped => TestResult::SkippedWithCause { type_, message, cause: None },
    };
    TestCase {
        name: attribute(judgement.claim.id),
        time: duration(trial.wall_s),
        result,
        classname: Some(attribute(judgement.claim.suite())),
        filepath: None,
        system_out: Some(account),
        system_err: None,
    }
}

/// The message of a failure or a skip: with the number where there is one.
fn headline(trial: &Trial) -> String {
    let judgement = &trial.judgement;
    let message = figures::message(judgement);
    let verdict = match judgement.verdict {
        Verdict::NotRun { explained: false } if time_limit_of(&judgement.reason).is_some() => {
            "not-run, time limit"
        }
        Verdict::NotRun { explained: false } => "not-run, unexplained",
        verdict => word(verdict),
    };
    match trial.origin {
        Origin::Recorded => format!("RECORDED, {verdict}: {message}"),
        _ => format!("{verdict}: {message}"),
    }
}

/// Milliseconds are enough, and no NaN or overflow gets into the crate's arithmetic.
fn duration(seconds: f64) -> Duration {
    let milliseconds = (seconds * 1e3).round();
    if (0.0..1e12).contains(&milliseconds) {
        Duration::milliseconds(milliseconds as i64)
    } else {
        Duration::ZERO
    }
}

/// Text for an attribute: the crate escapes it, a parser would make its line breaks blanks.
fn attribute(text: &str) -> String {
    text::one_line(text)
}

/// Text for a CDATA section, which ends at the first `]]>`: there it is closed and opened again.
fn cdata(text: &str) -> String {
    text::clean(text).replace("]]>", "]]]]><![CDATA[>")
}

/// The counts of a suite or of all.
#[derive(Debug, Default, Clone, PartialEq)]
struct Counts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    time: Duration,
}

impl Counts {
    fn of(suite: &TestSuite) -> Counts {
        Counts {
            tests: suite.tests(),
            failures: suite.failures(),
            errors: suite.errors(),
            skipped: suite.skipped(),
            time: suite.time(),
        }
    }

    fn sum(all: &[Counts]) -> Counts {
        all.iter().fold(Counts::default(), |sum, one| Counts {
            tests: sum.tests + one.tests,
            failures: sum.failures + one.failures,
            errors: sum.errors + one.errors,
            skipped: sum.skipped + one.skipped,
            time: sum.time + one.time,
        })
    }
}

/// The detector's score as properties of a suite.
fn properties(report: &Report) -> String {
    let Some(score) = report.detector else { return String::new() };
    let controls = report.controls();
    let figures = [
        ("detector.files.planted", score.planted()),
        ("detector.files.caught", score.caught()),
        ("detector.files.false_alarms", score.false_alarms.len()),
        ("detector.controls.caught", controls.caught),
        ("detector.controls.missed", controls.missed),
        ("detector.controls.not_judged", controls.not_judged),
    ];
    let line = |(name, value)| format!("\n    <property name=\"{name}\" value=\"{value}\"/>");
    let lines: String = figures.into_iter().map(line).collect();
    format!("\n  <properties>{lines}\n  </properties>")
}

/// Adds what the crate leaves out: `skipped` of each suite, name and totals of all, and writes times in
/// milliseconds. Tags are looked
/// for outside of CDATA only; in attributes every `<` is escaped.
fn add_counts(xml: &str, report: &Report, counts: &[Counts]) -> String {
    let total = Counts::sum(counts);
    let name = match report.mode {
        Mode::Live => "touchstone",
        Mode::Recorded => "touchstone RECORDED",
    };
    let totals = format!(
        " name=\"{name}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{:.3}\"",
        total.tests,
        total.failures,
        total.errors,
        total.time.as_seconds_f64()
    );
    let mut of_suites = counts.iter().map(|count| format!(" skipped=\"{}\"", count.skipped));
    let properties = properties(report);
    let mut out = String::with_capacity(xml.len() + 256);
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let (length, line_break, attributes) = if rest.starts_with("<![CDATA[") {
            (rest.find("]]>").map_or(rest.len(), |end| end + 3), "", String::new())
        } else if rest.starts_with("<testsuites") {
            ("<testsuites".len(), "\n", totals.clone())
        } else if rest.starts_with("<testsuite") {
            ("<testsuite".len(), "\n", of_suites.next().unwrap_or_default())
        } else if rest.starts_with("<testcase") {
            (1, "\n  ", String::new())
        } else if rest.starts_with("</testsuite") {
            (1, "\n", String::new())
        } else {
            (1, "", String::new())
        };
        out.push_str(line_break);
        out.push_str(&rest[..length]);
        out.push_str(&attributes);
        let timed = rest.starts_with("<testsuite ") || rest.starts_with("<testcase ");
        rest = &rest[length..];
        if attributes.starts_with(" skipped") {
            // First of what stands in a suite, behind its tag.
            let end = rest.find('>').map_or(rest.len(), |end| end + 1);
            let (tag, behind) = rest.split_at(end);
            let tag = if timed { in_milliseconds(tag, &mut out) } else { tag };
            out.push_str(tag);
            out.push_str(&properties);
            rest = behind;
        } else if timed {
            rest = in_milliseconds(rest, &mut out);
        }
    }
    out.push_str(rest);
    out.push('\n');
    out
}

/// Copies a tag up to its time, and that with three decimals: Jenkins' schema takes no more, and the crate
/// prints a sum as 1.2349999999999999. In attributes every quote is escaped, so that the first time that is
/// found is the tag's own.
fn in_milliseconds<'a>(rest: &'a str, out: &mut String) -> &'a str {
    const TIME: &str = " time=\"";
    let Some((before, after)) = rest.split_once(TIME) else { return rest };
    let Some((seconds, after_time)) = after.split_once('"') else { return rest };
    let Ok(seconds) = seconds.parse::<f64>() else { return rest };
    out.push_str(before);
    out.push_str(&format!("{TIME}{seconds:.3}\""));
    after_time
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
