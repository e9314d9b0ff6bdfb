//! The bound that a new golden takes the place of: a limit that its own runs missed, or that it loosens, stays told.

use crate::case::Case;
use crate::claim::{Claim, Relation};
use crate::digest;
use crate::golden::{Before, Bound};
use crate::judge::{self, Standing};
use crate::recorded::{self, FinishedRun};
use crate::report::number;

/// What a new bound tells of the one before it: that runs of its own missed it, or that it is looser; none where it is
/// neither. What the old bound told of runs that the new one is made from too stays.
pub(super) fn told(
    claim: &'static Claim,
    case: &'static Case,
    old: Option<&Bound>,
    new: &Bound,
    runs: &[&FinishedRun],
) -> Result<Option<Before>, String> {
    let Some(old) = old else { return Ok(None) };
    let mut before = Before { golden: old.golden, worse: old.worse, missed: Vec::new() };
    before.missed = missed(claim, case, &before, runs)?;
    let kept = old.before.clone().map(|mut kept| {
        kept.missed.retain(|run| new.runs.contains(run));
        kept
    });
    Ok(match kept.filter(|kept| !kept.missed.is_empty()) {
        _ if !before.missed.is_empty() => Some(before),
        Some(kept) => Some(kept),
        None => is_looser(claim, old, new).then_some(before),
    })
}

/// Whether a bound lets pass what the old one did not.
pub(super) fn is_looser(claim: &Claim, old: &Bound, new: &Bound) -> bool {
    let (was, is) = (judge::golden_limit(claim, old), judge::golden_limit(claim, new));
    match claim.relation {
        Relation::AtMost => is > was,
        _ => is < was,
    }
}

/// Digests of the runs that missed an old bound, each with the whole interval of a GPU or pair, in their order.
pub(crate) fn missed(
    claim: &'static Claim,
    case: &'static Case,
    before: &Before,
    runs: &[&FinishedRun],
) -> Result<Vec<String>, String> {
    let limit = judge::limit(claim, before.golden, before.worse);
    let mut missed = Vec::new();
    for finished in runs {
        let (evidence, _) = recorded::read(finished, case.id).required()?;
        let figures = judge::figures(claim, case, &evidence)?;
        let misses = |standing| standing == Standing::Missed;
        if figures.iter().any(|figure| misses(judge::standing(claim, figure.interval, limit))) {
            missed.push(finished.sha256.clone());
        }
    }
    Ok(missed)
}

/// `2 of 8 runs missed the bound before, 1332 - 1.2 %: 1a2b3c4d5e6f 9c0d1e2f3a4b`; none of a bound that tells nothing.
pub fn words(claim: &Claim, bound: &Bound) -> Option<String> {
    let before = bound.before.as_ref()?;
    let sign = if claim.relation == Relation::AtMost { "+" } else { "-" };
    let was = format!("{} {sign} {} %", number(before.golden), number(100.0 * before.worse));
    let missed: Vec<&str> = before.missed.iter().map(|run| digest::short(run)).collect();
    Some(match missed.len() {
        0 => format!("looser than the bound before, {was}"),
        count => {
            let all = bound.runs.len();
            format!("{count} of {all} runs missed the bound before, {was}: {}", missed.join(" "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use crate::report::specimens;
    use crate::run::CaseEntry;
    use crate::selfcheck;

    /// A run of the self-check's case whose rates are this share of the healthy ones.
    fn run(folder: &std::path::Path, name: &str, share: f64) -> FinishedRun {
        let mut evidence = selfcheck::healthy();
        evidence.run = name.to_owned();
        let metrics = evidence.parts.iter_mut().flat_map(|part| &mut part.metrics);
        for metric in metrics.filter(|metric| metric.name == selfcheck::RATE.metric) {
            metric.values.iter_mut().for_each(|value| *value *= share);
        }
        let text = serde_json::to_string(&evidence).expect("text");
        let mut finished = specimens::finished(name, "580", "2026-01-01T00:00:00Z");
        finished.run.ended = "2026-01-01T00:10:00Z".to_owned();
        finished.folder = folder.join(name);
        crate::files::write(&finished.folder.join("a.json"), text.as_bytes()).expect("written");
        let devices = evidence.parts.iter().flat_map(|part| part.devices.clone());
        finished.run.devices = devices.collect::<Vec<_>>().into();
        finished.run.run = name.to_owned();
        finished.run.board = "board".to_owned();
        finished.run.cases.push(CaseEntry {
            case: selfcheck::CASE.id.into(),
            file: "a.json".into(),
            sha256: Sha256::of(text.as_bytes()),
            outcome: "completed".into(),
        });
        finished
    }

    /// What a bound made from runs of these shares of the healthy rate tells of an old one, in words.
    fn check(old: &Bound, worse: f64, shares: &[f64]) -> (Bound, Option<String>) {
        let root = tempfile::tempdir().expect("a folder");
        let names = ["aa", "bb", "cc", "dd"].into_iter().zip(shares);
        let runs: Vec<FinishedRun> =
            names.map(|(name, share)| run(root.path(), name, *share)).collect();
        let runs: Vec<&FinishedRun> = runs.iter().collect();
        let digests = runs.iter().map(|finished| finished.sha256.clone()).collect();
        let mut new = Bound { worse, runs: digests, before: None, ..old.clone() };
        new.before =
            told(&selfcheck::RATE, &selfcheck::CASE, Some(old), &new, &runs).expect("figures");
        let words = words(&selfcheck::RATE, &new);
        (new, words)
    }

    #[test]
    fn a_bound_tells_of_the_one_before_it_what_its_runs_missed() {
        let old =
            selfcheck::goldens().boards["board"].claims[selfcheck::RATE.id]["read_gbps"].clone();
        let (same, words) = check(&old, old.worse, &[1.0, 1.0, 1.0]);
        assert_eq!((same.before, words), (None, None));
        let (_, words) = check(&old, 0.03, &[1.0, 1.0, 1.0]);
        assert_eq!(words.as_deref(), Some("looser than the bound before, 1000 - 2 %"));
        let (new, words) = check(&old, 0.3, &[1.0, 0.8, 1.0, 0.8]);
        let missed = "2 of 4 runs missed the bound before, 1000 - 2 %: bb dd";
        assert_eq!(words.as_deref(), Some(missed));
        // Blessed once more with runs of which one missed it: still told. Without them: not.
        let (again, words) = check(&new, 0.3, &[1.0, 0.8, 1.0]);
        let missed = "1 of 3 runs missed the bound before, 1000 - 2 %: bb";
        assert_eq!(words.as_deref(), Some(missed));
        let (others, _) = check(&Bound { runs: Vec::new(), ..again }, 0.3, &[1.0]);
        assert_eq!(others.before, None);
    }
}
