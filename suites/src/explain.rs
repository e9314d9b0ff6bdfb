//! `explain CLAIM`: everything that is known of one claim.

use std::fmt::Write;

use harness::bless::before_words;
use harness::case::{Case, Expect};
use harness::claim::{Claim, Relation};
use harness::digest;
use harness::evidence::Evidence;
use harness::judge::{self, Measured};
use harness::recorded::{self, FoundEvidence};
use harness::report::{number, word};
use harness::statistics;
use harness::world::World;

/// The whole text. `Err` names claims with a similar id.
pub fn text(world: &World, id: &str) -> Result<String, String> {
    let claim =
        world.claims.iter().find(|claim| claim.id == id).ok_or_else(|| similar(world, id))?;
    let case = world.case_of(claim)?;
    let goldens = world.goldens()?;
    let mut out = String::new();
    let mut say = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:12} {value}");
    };
    say("claim", claim.id);
    say("sentence", claim.text);
    let promise = goldens.documented.claims.get(claim.id);
    for was in promise.iter().flat_map(|promise| &promise.was) {
        say("before", was);
    }
    let source = claim.source;
    say("source", &format!("{}, {}: {:?}", source.document, source.section, source.printed));
    if !source.board.is_empty() {
        say("", &format!("printed for {}", source.board));
    }
    say(
        "case",
        &format!("{} revision {}, {:?}, tier {:?}", case.id, case.revision, case.scope, case.tier),
    );
    say("procedure", case.procedure);
    say("metric", &format!("{} ({})", claim.figure(), relation(claim)));
    if let Some(promise) = promise {
        let figure = promise.at_least.or(promise.at_most).or(promise.equals).unwrap_or_default();
        let of = promise.of.as_ref().map_or(String::new(), |peak| format!(" of {peak}"));
        say("documented", &format!("{}{of}: {}", number(figure), promise.because));
        if let Some(record) = &promise.record {
            say("", &format!("record: {record}"));
        }
    }
    for board in goldens.boards.values() {
        let name = &board.board.name;
        match board.bound(claim.id, claim.figure()) {
            Some(bound) => say(
                "golden",
                &format!(
                    "{name}: {} {} +- {} %: {}{}; runs {}",
                    number(bound.golden),
                    claim.unit(),
                    number(100.0 * bound.worse),
                    bound.because,
                    before_words(claim, bound)
                        .map_or_else(String::new, |words| format!("; {words}")),
                    bound.runs.iter().map(|run| digest::short(run)).collect::<Vec<_>>().join(" ")
                ),
            ),
            None => say("golden", &format!("{name}: none")),
        }
        if let Some(peak) = claim.ceiling.and_then(|peak| board.peaks.get(peak)) {
            say("peak", &format!("{name}: {} ({})", number(peak.value), peak.source));
        }
    }
    for name in case.integrity {
        say("integrity", &format!("{name} is 0 before any number of the case counts"));
    }
    for control in case.controls {
        let counts = control.trips == claim.metric || case.integrity.contains(&control.trips);
        if counts {
            say(
                "control",
                &format!(
                    "{}: {} -> {} must be {}",
                    control.name,
                    control.fault,
                    control.trips,
                    expected(control.expect)
                ),
            );
        }
    }
    let runs = recorded::load(&world.root)?;
    for board in recorded::boards(&runs) {
        let found = world.find_recorded(claim, case, &runs, &board, &goldens);
        let judgement = world.judge_found(claim, case, &found, &goldens);
        let verdict = word(judgement.verdict);
        let since = judgement.evidence.as_ref().and_then(|evidence| evidence.other_runs.as_ref());
        let since = since.map_or_else(String::new, |clause| format!(" - {clause}"));
        match (&judgement.evidence, &judgement.measured) {
            (Some(evidence), Some(measured)) => say(
                "evidence",
                &format!(
                    "{board}: {verdict}, {} = {} {} on {} ({}){since}",
                    measured.metric,
                    number(measured.value),
                    measured.unit,
                    evidence.day,
                    evidence.path
                ),
            ),
            _ => say("evidence", &format!("{board}: {verdict}: {}{since}", judgement.reason)),
        }
        if let FoundEvidence::Evidence(evidence, _) = &found
            && let Some(words) = over(claim, case, evidence)
        {
            say("", &words);
        }
    }
    Ok(out)
}

/// The figures of several GPUs, pairs or places: the least, the middle and the most; none of a single one, or where
/// the numbers do not count.
fn over(claim: &Claim, case: &Case, evidence: &Evidence) -> Option<String> {
    spread_words(judge::measured(claim, case, evidence).ok()?)
}

fn spread_words(mut all: Vec<Measured>) -> Option<String> {
    all.sort_by(|a, b| a.value.total_cmp(&b.value));
    let values: Vec<f64> = all.iter().map(|one| one.value).collect();
    let middle = statistics::median(&values)?;
    let [least, .., most] = all.as_slice() else { return None };
    let figure = |value: f64| format!("{} {}", number(value), least.unit).trim_end().to_owned();
    let end = |one: &Measured| {
        let gpus: Vec<String> = one.gpus.iter().map(|gpu| format!("gpu{gpu}")).collect();
        let on = if gpus.is_empty() { String::new() } else { format!(" on {}", gpus.join("-")) };
        format!("{}{on}", figure(one.value))
    };
    let (count, middle) = (all.len(), figure(middle));
    Some(format!("of {count} figures: least {}, median {middle}, most {}", end(least), end(most)))
}

fn relation(claim: &Claim) -> &'static str {
    match claim.relation {
        Relation::AtLeast => "at least",
        Relation::AtMost => "at most",
        Relation::Equal => "equal",
        Relation::Holds => "zero violations",
    }
}

fn expected(expect: Expect) -> &'static str {
    match expect {
        Expect::Refuted => "refuted: a gross fault, the documented bound is contradicted",
        Expect::Regressed => "regressed: a fault near the bound, the golden is missed",
        Expect::Corrupt => "corrupt: not zero",
        Expect::Broken => "broken: beyond the physical peak",
    }
}

fn similar(world: &World, id: &str) -> String {
    let name = id.rsplit("::").next().unwrap_or(id);
    let close: Vec<&str> =
        world.claims.iter().map(|claim| claim.id).filter(|known| known.contains(name)).collect();
    match close.is_empty() {
        true => format!("no claim {id}: --list names them all"),
        false => format!("no claim {id}; there are {}", close.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[(&[u32], f64)], expect: Option<&str>) {
        let one = |(gpus, value): &(&[u32], f64)| Measured {
            metric: "write_gbps".into(),
            unit: "GB/s",
            value: *value,
            interval: (*value, *value),
            gpus: gpus.to_vec(),
            series: values.len(),
        };
        assert_eq!(spread_words(values.iter().map(one).collect()).as_deref(), expect);
    }

    #[test]
    fn pairs_are_told_by_their_ends_and_their_middle() {
        check(&[(&[0, 1], 396.0)], None);
        check(&[], None);
        check(
            &[(&[0, 1], 396.0), (&[1, 0], 390.0), (&[0, 2], 397.0)],
            Some(
                "of 3 figures: least 390 GB/s on gpu1-gpu0, median 396 GB/s, most 397 GB/s on gpu0-gpu2",
            ),
        );
        check(
            &[(&[], 1.0), (&[], 2.0)],
            Some("of 2 figures: least 1 GB/s, median 1.5 GB/s, most 2 GB/s"),
        );
    }
}
