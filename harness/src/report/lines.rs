//! The first and the last line of a run: what an operator acts on.

use std::collections::BTreeMap;

use super::{Mode, Origin, Report, Trial, figures, nothing_judged, text, word};
use crate::judge::{Judgement, Standing, Verdict};
use crate::schedule::time_limit_of;

/// The first line of a run. It needs no trials.
pub fn opening(report: &Report) -> String {
    let machine = format!("{} x{}", report.board, report.gpus);
    match report.mode {
        Mode::Recorded if report.board.is_empty() => {
            "RECORDED: no evidence is recorded; this machine is not tested".to_owned()
        }
        Mode::Recorded => format!(
            "RECORDED: evidence of {}, the newest of {}, is judged against today's goldens; \
             this machine is not tested",
            report.board, report.day
        ),
        Mode::Live if report.gpus == 0 => {
            format!("HOST: no GPU is selected, run {}", report.run)
        }
        Mode::Live => {
            let versions: String =
                report.versions.iter().map(|(name, of)| format!(", {name} {of}")).collect();
            format!("LIVE: {machine} ({}), run {}{versions}", report.title, report.run)
        }
    }
}

/// The last line of a run.
pub fn last_line(report: &Report) -> String {
    let line = match report.mode {
        Mode::Live => live_line(report),
        Mode::Recorded => recorded_line(report),
    };
    match report.blind() {
        None => line,
        Some(score) => {
            let misses = score.misses();
            let first = misses.first().map_or("", String::as_str);
            let first = text::short_line(first);
            format!("SUITE UNKNOWN: {}: {first} -> mend the suite; {line}", score.words())
        }
    }
}

fn live_line(report: &Report) -> String {
    let bad = findings(report, is_bad);
    if let Some(worst) = bad.first() {
        let subject = subject(&bad);
        let more = more(bad.len());
        let interrupted = if report.interrupted { "; interrupted" } else { "" };
        let action = if worst.judgement.culprit.is_some() { "drain" } else { "inspect" };
        let finding = finding(&worst.judgement);
        let verdict = word(worst.judgement.verdict);
        let line = format!("{subject} BAD: {finding} ({verdict}{more}{interrupted}) -> {action}");
        // What is wrong with the suite leaves open how the node is.
        return if subject == "NODE" { line } else { format!("{line}; {}", verified(report)) };
    }
    if report.interrupted {
        let rest = rest(report, Origin::Live);
        let rest = if rest.is_empty() { rest } else { format!("; {rest}") };
        return format!("NODE INCOMPLETE: interrupted after {}{rest}", verified(report));
    }
    let unknown = findings(report, is_unknown);
    if let Some(first) = unknown.first() {
        let kinds = kinds(&unknown);
        let subject = subject(&unknown);
        return format!("{subject} UNKNOWN: {kinds} ({}) -> inspect and rerun", reason(first));
    }
    let missing = findings(report, |verdict| matches!(verdict, Verdict::NotRun { .. }));
    if !missing.is_empty() {
        return incomplete(report, &missing);
    }
    if nothing_judged(report.trials) {
        let rest = rest(report, Origin::Live);
        let rest = if rest.is_empty() { rest } else { format!(" ({rest})") };
        return format!("NODE INCOMPLETE: nothing was judged{rest}");
    }
    good_line(report)
}

/// What was not run and should have been: apart what the run's time limit left out, which needs but more time.
fn incomplete(report: &Report, missing: &[&Trial]) -> String {
    let limit = |trial: &Trial| time_limit_of(&trial.judgement.reason);
    let (late, unexplained): (Vec<&Trial>, Vec<&Trial>) =
        missing.iter().partition(|trial| limit(trial).is_some());
    let mut parts = Vec::new();
    if let Some(first) = unexplained.first() {
        let count = unexplained.len();
        parts.push(format!("{count} not run without an explanation ({})", reason(first)));
    }
    if let Some(seconds) = late.first().and_then(|trial| limit(trial)) {
        let claims = if late.len() == 1 { "claim" } else { "claims" };
        parts.push(format!("{} {claims} not run: the time limit of {seconds} s", late.len()));
    }
    let action = if unexplained.is_empty() { "rerun with more time" } else { "complete and rerun" };
    let (subject, parts) = (subject(missing), parts.join("; "));
    format!("{subject} INCOMPLETE: {parts}; {} -> {action}", verified(report))
}

fn good_line(report: &Report) -> String {
    let rest = rest(report, Origin::Live);
    let rest = if rest.is_empty() { rest } else { format!(", {rest}") };
    if of_origin(report, Origin::Live).next().is_none() {
        return format!("SUITE GOOD: {}; no GPU was tested", host(report));
    }
    format!("NODE GOOD: {}{rest}", verified(report))
}

fn recorded_line(report: &Report) -> String {
    let total = of_origin(report, Origin::Recorded)
        .filter(|trial| trial.judgement.verdict != Verdict::NotApplicable)
        .count();
    let hold = count(report, Origin::Recorded, "verified");
    let rest = rest(report, Origin::Recorded);
    let rest = if rest.is_empty() { rest } else { format!(" ({rest})") };
    let machine = machines(report);
    let standing = if report.board.is_empty() {
        "no evidence is recorded".to_owned()
    } else {
        format!("{hold} of {total} recorded claims hold on {machine}{rest}")
    };
    let mut parts = vec![format!("{standing}, {}", host(report))];
    let failing = findings(report, |_| true);
    if let Some(worst) = failing.first() {
        let finding = finding(&worst.judgement);
        let verdict = word(worst.judgement.verdict);
        parts.push(format!("worst: {finding} ({verdict}{})", more(failing.len())));
    } else if nothing_judged(report.trials) {
        parts.push("nothing was judged".to_owned());
    }
    if report.interrupted {
        parts.push("interrupted".to_owned());
    }
    format!("RECORDED: {}; this machine was not tested", parts.join("; "))
}

/// The board, over how many of its GPUs the claims hold that do, and the day of the newest run. A newer run of fewer
/// GPUs hides no older one of more, so that its count is not the lines' own.
fn machines(report: &Report) -> String {
    let mut by_gpus: BTreeMap<u32, usize> = BTreeMap::new();
    for trial in of_origin(report, Origin::Recorded) {
        let evidence = trial.judgement.evidence.as_ref();
        if let Some(evidence) = evidence
            .filter(|of| of.board == report.board && word(trial.judgement.verdict) == "verified")
        {
            *by_gpus.entry(evidence.gpus).or_default() += 1;
        }
    }
    let (board, day) = (text::one_line(report.board), report.day);
    let over = |(gpus, count): (&u32, &usize)| format!("{count} x{gpus}");
    let mut counts = by_gpus.iter().rev();
    match (counts.next(), counts.len()) {
        (None, _) => format!("{board} x{} of {day}", report.gpus),
        (Some((gpus, _)), 0) => format!("{board} x{gpus} of {day}"),
        _ => {
            let each: Vec<String> = by_gpus.iter().rev().map(over).collect();
            format!("{board} ({}) of {day}", each.join(", "))
        }
    }
}

fn is_bad(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Corrupt | Verdict::Refuted | Verdict::Regressed)
}

fn is_unknown(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Broken | Verdict::Inconclusive | Verdict::Stale)
}

/// Failing trials of these verdicts, the worst first: what concerns the node before what concerns
/// the suite, corrupt before refuted before regressed, one that names a GPU before one that does
/// not, then in order of the page.
fn findings<'a>(report: &Report<'a>, of: fn(Verdict) -> bool) -> Vec<&'a Trial> {
    let mut trials: Vec<&Trial> = report
        .trials
        .iter()
        .filter(|trial| trial.fails(report.gate) && of(trial.judgement.verdict))
        .collect();
    trials.sort_by_key(|trial| {
        let rank = super::WORDS.iter().position(|known| *known == word(trial.judgement.verdict));
        (trial.origin == Origin::Host, rank, trial.judgement.culprit.is_none())
    });
    trials
}

/// A finding without a GPU says nothing of the node: an operator must not drain it for that.
fn subject(findings: &[&Trial]) -> &'static str {
    if findings.iter().any(|trial| trial.origin == Origin::Live) { "NODE" } else { "SUITE" }
}

/// `gpu5 bandwidth::hbm-read 3912.4 < 4240 GB/s`, or the judge's reason where no bound was missed.
fn finding(judgement: &Judgement) -> String {
    let kind = if judgement.verdict == Verdict::Regressed { "golden" } else { "documented" };
    let missed = || judgement.bounds.iter().filter(|view| view.standing == Standing::Missed);
    let bound = missed().find(|view| view.kind == kind).or_else(|| missed().next());
    let id = judgement.claim.id;
    match (&judgement.measured, bound, judgement.verdict) {
        (Some(measured), Some(bound), Verdict::Refuted | Verdict::Regressed) => {
            let place = judgement
                .culprit
                .map_or_else(|| figures::gpu_words(&measured.gpus), |gpu| format!("gpu{gpu}"));
            let sign = match bound.sign {
                ">=" => "<",
                "<=" => ">",
                _ => "!=",
            };
            let (value, limit) = figures::compared(measured.value, bound.limit);
            let limit = figures::with_unit(&limit, measured.unit);
            format!("{place} {id} {value} {sign} {limit}").trim_start().to_owned()
        }
        _ => {
            let place = judgement.culprit.map_or_else(String::new, |gpu| format!("gpu{gpu} "));
            format!("{place}{id}: {}", text::short_line(&judgement.reason))
        }
    }
}

fn reason(trial: &Trial) -> String {
    format!("{}: {}", trial.judgement.claim.id, text::short_line(&trial.judgement.reason))
}

fn more(findings: usize) -> String {
    match findings {
        0 | 1 => String::new(),
        2 => "; 1 more finding".to_owned(),
        _ => format!("; {} more findings", findings - 1),
    }
}

/// `2 broken, 1 inconclusive`.
fn kinds(trials: &[&Trial]) -> String {
    let count =
        |known: &str| trials.iter().filter(|trial| word(trial.judgement.verdict) == known).count();
    listed(&count)
}

/// What neither holds nor fails: `3 not applicable, 1 not run`.
fn rest(report: &Report, origin: Origin) -> String {
    listed(&|known| match known {
        "verified" => 0,
        _ => count(report, origin, known),
    })
}

fn listed(count: &dyn Fn(&str) -> usize) -> String {
    let some = super::WORDS.iter().filter(|known| count(known) > 0);
    some.map(|known| format!("{} {}", count(known), known.replace('-', " ")))
        .collect::<Vec<_>>()
        .join(", ")
}

fn of_origin<'a>(report: &Report<'a>, origin: Origin) -> impl Iterator<Item = &'a Trial> {
    report.trials.iter().filter(move |trial| trial.origin == origin)
}

fn count(report: &Report, origin: Origin, known: &str) -> usize {
    of_origin(report, origin).filter(|trial| word(trial.judgement.verdict) == known).count()
}

/// `61 live, 12 host`: what is verified, counted apart.
fn verified(report: &Report) -> String {
    format!("{} live, {}", count(report, Origin::Live, "verified"), host(report))
}

/// `12 host`, or `11 of 12 host` where one does not hold.
fn host(report: &Report) -> String {
    let total = of_origin(report, Origin::Host).count();
    match count(report, Origin::Host, "verified") {
        all if all == total => format!("{all} host"),
        some => format!("{some} of {total} host"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::report::specimens::{self, recorded};

    #[test]
    fn lines_an_operator_acts_on() {
        let mut out = String::new();
        let mut add = |name: &str, trials: &[Trial], change: fn(&mut Report)| {
            let mut report = specimens::report(trials);
            change(&mut report);
            let _ = writeln!(out, "{name}\n  {}\n  {}", opening(&report), last_line(&report));
        };
        let all = specimens::trials();
        let only = |keep: fn(Verdict) -> bool| -> Vec<Trial> {
            all.iter().filter(|trial| keep(trial.judgement.verdict)).cloned().collect()
        };
        let good = only(|verdict| !is_bad(verdict) && !is_unknown(verdict));
        let explained: Vec<Trial> =
            good.iter().filter(|trial| !trial.fails(false)).cloned().collect();
        let host = specimens::host_trials();
        add("all", &all, |_| {});
        add("all, interrupted", &all, |report| report.interrupted = true);
        add("no corrupt", &only(|verdict| verdict != Verdict::Corrupt), |_| {});
        add("regressed", &only(|verdict| verdict == Verdict::Regressed), |_| {});
        add("unknown", &only(|verdict| !is_bad(verdict)), |_| {});
        add("stale", &only(|verdict| verdict == Verdict::Stale), |_| {});
        add("stale, gate", &only(|verdict| verdict == Verdict::Stale), |report| report.gate = true);
        add("incomplete", &good, |_| {});
        let mut late: Vec<Trial> = only(|verdict| verdict == Verdict::NotRun { explained: false });
        late[0].judgement.reason =
            "gpu1: 14 s expected, 7 s left of the run's limit of 1330 s".to_owned();
        add("time limit", &[&explained[..], &late[..]].concat(), |_| {});
        add("time limit, more", &[&good[..], &late[..], &late[..]].concat(), |_| {});
        add("interrupted", &good, |report| report.interrupted = true);
        add("nothing", &only(|verdict| verdict == Verdict::NotApplicable), |_| {});
        add("empty", &[], |_| {});
        add("good", &explained, |_| {});
        add("host only", &host[..1], |report| report.gpus = 0);
        add("host refuted", &[&explained[..], &host[1..]].concat(), |_| {});
        let to_recorded = |report: &mut Report| report.mode = Mode::Recorded;
        add("recorded, all", &recorded(&all), to_recorded);
        add("recorded, good", &recorded(&explained), to_recorded);
        add("recorded, nothing", &[], |report| {
            report.mode = Mode::Recorded;
            report.board = "";
        });
        insta::assert_snapshot!(out);
    }
}
