//! What was sealed held against what the samples give today: figures, durations, energies, verdicts.

use std::collections::BTreeMap;

use super::recompute::{Measurement, Series};
use super::{Predicate, Report, moved, result_of};
use crate::judge::{Judgement, Verdict};
use crate::report::number;

/// Figures, durations, energies and the machine: none of them may differ, whatever the bounds.
pub(super) fn computed(
    sealed: &Predicate,
    now: &Predicate,
    unfit: &BTreeMap<String, String>,
    report: &mut Report,
) {
    let before = report.holds;
    report.holds = true;
    figures(sealed, now, unfit, report);
    values("duration", " s", &sealed.durations_s, &now.durations_s, report);
    values("energy", " J", &sealed.energies_j, &now.energies_j, report);
    if sealed.wall_s != now.wall_s {
        let (was, is) = (number(sealed.wall_s), number(now.wall_s));
        let line = format!("duration    run: sealed as {was} s, the manifest says {is} s");
        report.say(false, &line);
    }
    for (what, was, is) in [
        ("board", &sealed.board, &now.board),
        ("start", &sealed.started, &now.started),
        ("end", &sealed.ended, &now.ended),
    ] {
        if was != is {
            report.say(false, &format!("{what:11} sealed as {was}, is {is}"));
        }
    }
    if sealed.devices != now.devices || sealed.versions != now.versions {
        report.say(false, "hardware    devices or versions are not those of the manifest");
    }
    if report.holds {
        let line = format!(
            "computed    {} figures, {} durations, {} energies: as they were sealed",
            now.measurements.len(),
            now.durations_s.len() + 1,
            now.energies_j.len()
        );
        report.say(true, &line);
    }
    report.holds &= before;
}

fn figures(
    sealed: &Predicate,
    now: &Predicate,
    unfit: &BTreeMap<String, String>,
    report: &mut Report,
) {
    for (claim, was) in &sealed.measurements {
        let problem = match now.measurements.get(claim) {
            None => {
                let why = unfit.get(claim).map_or("no case of the run is read by it", |why| why);
                Some(format!("cannot be computed again: {why}"))
            }
            Some(is) => difference(was, is),
        };
        if let Some(problem) = problem {
            report.say(false, &format!("figure      {claim}: {problem}"));
        }
    }
    for claim in now.measurements.keys().filter(|claim| !sealed.measurements.contains_key(*claim)) {
        report.say(false, &format!("figure      {claim}: is not sealed"));
    }
}

/// How a sealed figure differs from what the samples give.
fn difference(was: &Measurement, is: &Measurement) -> Option<String> {
    if was.metric != is.metric || was.unit != is.unit {
        let (was, is) = ([&was.metric, &was.unit], [&is.metric, &is.unit]);
        return Some(format!("sealed as {was:?}, is {is:?}"));
    }
    let whole = |one: &Measurement| Series {
        gpus: one.gpus.clone(),
        value: one.value,
        interval: one.interval,
    };
    let other = |(was, is): (Series, Series)| {
        (was != is).then(|| format!("sealed as {}, its samples give {}", words(&was), words(&is)))
    };
    if was.series.len() != is.series.len() {
        let (was, is) = (was.series.len(), is.series.len());
        return Some(format!("sealed with {was} series, its samples give {is}"));
    }
    let series = was.series.iter().cloned().zip(is.series.iter().cloned());
    series.chain([(whole(was), whole(is))]).find_map(other)
}

/// `4375.2 (4374.4 to 4378.1) on gpu1`; digits in full where a report's would hide a difference.
fn words(series: &Series) -> String {
    let [least, most] = series.interval;
    let gpus: Vec<String> = series.gpus.iter().map(|gpu| format!("gpu{gpu}")).collect();
    let on = if gpus.is_empty() { String::new() } else { format!(" on {}", gpus.join(" and ")) };
    format!("{} ({least} to {most}){on}", series.value)
}

fn values(
    what: &str,
    unit: &str,
    sealed: &BTreeMap<String, f64>,
    now: &BTreeMap<String, f64>,
    report: &mut Report,
) {
    let word = |value: Option<&f64>| value.map_or("none".to_owned(), |v| format!("{v}{unit}"));
    let names = sealed.keys().chain(now.keys().filter(|name| !sealed.contains_key(*name)));
    for name in names {
        let (was, is) = (sealed.get(name), now.get(name));
        if was != is {
            let (was, is) = (word(was), word(is));
            let line = format!("{what:11} {name}: sealed as {was}, its evidence gives {is}");
            report.say(false, &line);
        }
    }
}

/// Whether a file of bounds is another one today. That is no fault: bounds move, and then verdicts may.
pub(super) fn bounds(sealed: &Predicate, now: &Predicate, report: &mut Report) -> bool {
    let before = report.text.len();
    let names = sealed.bounds.keys();
    let names = names.chain(now.bounds.keys().filter(|name| !sealed.bounds.contains_key(*name)));
    for name in names {
        let digest = |of: &Predicate| of.bounds.get(name).map_or("none".to_owned(), String::clone);
        if let Some(problem) = moved(&digest(sealed), &digest(now)) {
            report.say(true, &format!("bounds      {name}: {problem}: verdicts may have moved"));
        }
    }
    report.text.len() > before
}

/// Verdicts: by the same bounds and procedures they are what they were.
pub(super) fn verdicts(
    sealed: &Predicate,
    now: &Predicate,
    judged: &[Judgement],
    bounds_moved: bool,
    report: &mut Report,
) {
    let mut others = 0;
    for judgement in judged {
        let id = judgement.claim.id;
        let (was, is) = (standing(sealed, id), standing(now, id));
        // A claim that is younger than the seal has nothing to hold it against.
        let young = was == "nothing" && class(now, id) == "skipped";
        if was == is || young {
            continue;
        }
        others += 1;
        let excused = bounds_moved || judgement.verdict == Verdict::Stale;
        let why = if excused { "" } else { ", by the same bounds" };
        let line = format!("verdict     {id}: sealed as {was}, today {is}{why}");
        report.say(excused, &line);
    }
    let known = |id: &String| judged.iter().any(|judgement| judgement.claim.id == id.as_str());
    let listed = sealed.passed_tests.iter().chain(&sealed.failed_tests).chain(sealed.skips.keys());
    for id in listed.filter(|id| !known(id)) {
        report.say(
            true,
            &format!("verdict     {id}: sealed as {}, no claim today", standing(sealed, id)),
        );
    }
    let result = result_of(&sealed.passed_tests, &sealed.failed_tests);
    if sealed.result != result {
        let line = format!("result      sealed as {}, its own lists say {result}", sealed.result);
        report.say(false, &line);
    }
    if others > 0 {
        report.say(true, &format!("verdicts    {others} are not today's"));
    }
}

/// Where a predicate lists a claim.
fn class(predicate: &Predicate, id: &str) -> &'static str {
    let holds = |list: &[String]| list.iter().any(|other| other == id);
    match (holds(&predicate.passed_tests), holds(&predicate.failed_tests)) {
        (true, true) => "both passed and failed",
        (true, false) => "passed",
        (false, true) => "failed",
        (false, false) if predicate.skips.contains_key(id) => "skipped",
        (false, false) => "nothing",
    }
}

/// The same with the verdict, where it has a figure.
fn standing(predicate: &Predicate, id: &str) -> String {
    let class = class(predicate, id);
    match predicate.measurements.get(id) {
        Some(measured) => format!("{} ({class})", measured.verdict),
        None => class.to_owned(),
    }
}
