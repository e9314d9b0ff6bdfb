//! Blessing: goldens from calibration runs. The only way in which a golden changes.
//!
//! The golden is the median over runs and GPUs of each series' median. The tolerance comes from
//! the larger of three standard deviations of those medians and 1.25 times the worst shortfall of their
//! 95 % intervals, at least [`LEAST`], rounded up to a tenth of a percent: a bound that lies within the
//! noise of the runs that made it would leave the next one undecided. Nor is it finer than the fault that is
//! planted near it has shown.

mod before;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use crate::case::{Case, Control, Expect, Scope};
use crate::claim::{Claim, Relation};
use crate::evidence::Evidence;
use crate::golden::{Bound, Goldens};
use crate::judge::{self, Figure};
use crate::lint::{NEAR, WIDE};
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::report::number;
use crate::statistics;

pub(crate) use before::missed;
pub use before::words as before_words;

/// Least tolerance: below it, temperature and clocks of the day decide.
pub const LEAST: f64 = 0.01;

/// In place of a cubin's digest where the runs ran several.
pub const MIXED: &str = "mixed";

/// Fewest calibration runs.
pub const FEWEST_RUNS: usize = 3;

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Beginnings of the digests of recorded runs.
    pub runs: Vec<String>,
    /// Only claims of these suites; empty for all.
    pub suites: Vec<String>,
    /// Why a loosened bound or a wide tolerance is accepted.
    pub accept_worse: Option<String>,
}

/// Finds the calibration runs: recorded, whole, of one board, not shared. That their cases completed with the
/// right bits, and over as many GPUs where that matters, is asked of each claim's evidence.
pub fn calibration<'a>(
    runs: &'a [FinishedRun],
    wanted: &[String],
) -> Result<Vec<&'a FinishedRun>, String> {
    let mut chosen: Vec<&FinishedRun> = Vec::new();
    for prefix in wanted {
        let prefix = prefix.trim_start_matches("sha256:");
        let mut matching = runs.iter().filter(|finished| finished.sha256.starts_with(prefix));
        let one = matching.next().ok_or_else(|| format!("no recorded run {prefix}"))?;
        if matching.next().is_some() {
            return Err(format!("{prefix} is the beginning of several runs"));
        }
        if chosen.iter().any(|other| other.sha256 == one.sha256) {
            return Err(format!("run {prefix} is named twice"));
        }
        chosen.push(one);
    }
    if chosen.len() < FEWEST_RUNS {
        return Err(format!("{} runs named, {FEWEST_RUNS} are the fewest", chosen.len()));
    }
    for finished in &chosen {
        let run = &finished.run;
        if let Some(why) = run.unfit() {
            return Err(format!("run {} {why}", run.run));
        }
        if run.board != chosen[0].run.board {
            return Err(format!("run {} is of another board", run.run));
        }
    }
    Ok(chosen)
}

/// The new bound of a claim from its calibration runs; `None` where the claim wants no golden, or
/// where one of the runs does not hold its case, or held it before its figures meant what they mean.
pub fn bound(
    claim: &'static Claim,
    case: &'static Case,
    runs: &[&FinishedRun],
    goldens: &Goldens,
) -> Result<Option<Bound>, String> {
    let ordered = matches!(claim.relation, Relation::AtLeast | Relation::AtMost);
    let suffices = goldens.documented.claims.get(claim.id).is_some_and(|p| p.suffices);
    if !ordered || suffices {
        return Ok(None);
    }
    alike(case, runs).map_err(|why| format!("{}: {why}", claim.id))?;
    let mut found = Vec::new();
    let mut planted = Vec::new();
    let mut cubins: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for finished in runs {
        let evidence = match recorded::read(finished, case.id) {
            FoundEvidence::Evidence(evidence, _) => evidence,
            FoundEvidence::Unreadable(reason) => return Err(reason),
            FoundEvidence::Nothing(_) => return Ok(None),
        };
        if !holds_figures(case, &evidence) {
            return Ok(None);
        }
        match judge::figures(claim, case, &evidence) {
            Ok(figures) => found.extend(figures),
            Err(reason) => return Err(format!("{} in run {}: {reason}", claim.id, evidence.run)),
        }
        planted.extend(near_fault(claim, case, &evidence));
        for kernel in evidence.parts.iter().flat_map(|part| &part.kernels) {
            let one: &mut BTreeSet<String> = cubins.entry(kernel.name.clone()).or_default();
            one.insert(kernel.cubin_sha256.clone());
        }
    }
    let (golden, worse) = golden_and_tolerance(claim.relation, &found)?;
    let worse = worse.max(shown_tolerance(golden, &planted));
    let medians: Vec<f64> = found.iter().map(|figure| figure.value).collect();
    let (least, most) = range(&medians);
    let mut because = format!(
        "{} medians of {} runs lie in {} to {}",
        medians.len(),
        runs.len(),
        number(least),
        number(most)
    );
    // What several machine codes gave blames none of them, and no node either.
    for (name, codes) in cubins.iter().filter(|(_, codes)| codes.len() > 1) {
        because += &format!(", of {} machine codes of {name}", codes.len());
    }
    let one = |(name, codes): (String, BTreeSet<String>)| {
        let mixed = codes.len() > 1;
        Some((name, if mixed { MIXED.to_owned() } else { codes.into_iter().next()? }))
    };
    let cubins = cubins.into_iter().filter_map(one).collect();
    let digests = runs.iter().map(|finished| finished.sha256.clone()).collect();
    Ok(Some(Bound { golden, worse, because, runs: digests, cubins, accepted: None, before: None }))
}

/// Refuses runs of other GPU counts for a case that takes all GPUs: only what one GPU does by itself is the same beside
/// one as beside seven.
pub(crate) fn alike(case: &Case, runs: &[&FinishedRun]) -> Result<(), String> {
    let count = |finished: &&FinishedRun| finished.run.devices.len();
    let other = runs.iter().find(|finished| count(finished) != count(&runs[0]));
    match other.filter(|_| case.scope == Scope::Node) {
        Some(other) => Err(format!("run {} is of another GPU count", other.run.run)),
        None => Ok(()),
    }
}

/// What the claim's figures were under the fault that is planted near its bound, where it was planted at
/// the claim's own place.
fn near_fault(claim: &Claim, case: &Case, evidence: &Evidence) -> Vec<f64> {
    let near = |c: &&Control| c.expect == Expect::Regressed && c.trips == claim.metric;
    case.controls
        .iter()
        .find(near)
        .map_or_else(Vec::new, |control| judge::planted_figures(claim, control, evidence))
}

/// The finest tolerance whose bound lies within [`NEAR`] tolerances of the planted fault: a sharper one
/// would promise a power to tell that no fault has shown.
fn shown_tolerance(golden: f64, planted: &[f64]) -> f64 {
    let Some(fault) = statistics::median(planted) else { return 0.0 };
    let share = (fault - golden).abs() / golden.abs() / (1.0 + NEAR);
    (share * 1000.0 - 1e-9).ceil() / 1000.0
}

/// Whether evidence of a case holds figures that mean what today's would: what an older procedure
/// measured is no golden for today's.
pub(crate) fn holds_figures(case: &Case, evidence: &Evidence) -> bool {
    (case.figures_since..=case.revision).contains(&evidence.revision)
}

/// Golden and tolerance of a set of figures.
fn golden_and_tolerance(relation: Relation, found: &[Figure]) -> Result<(f64, f64), String> {
    let medians: Vec<f64> = found.iter().map(|figure| figure.value).collect();
    let golden = statistics::median(&medians).ok_or("no medians")?;
    if golden.abs() < f64::MIN_POSITIVE {
        return Err("a golden of zero has no relative tolerance".into());
    }
    let count = medians.len() as f64;
    let mean = medians.iter().sum::<f64>() / count;
    let variance = medians.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let edges = found.iter().flat_map(|figure| [figure.interval.0, figure.interval.1]);
    let (least, most) = range(&edges.collect::<Vec<f64>>());
    let shortfall = match relation {
        Relation::AtMost => most - golden,
        _ => golden - least,
    };
    let share = (3.0 * variance.sqrt()).max(1.25 * shortfall) / golden.abs();
    let worse = (share.max(LEAST) * 1000.0 - 1e-9).ceil() / 1000.0;
    Ok((golden, worse))
}

fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// Writes new bounds into `golden/<board>.toml`, keeping everything else in the file. Returns a
/// line for each claim. Nothing is written if one bound is refused.
pub fn bless(
    folder: &Path,
    claims: &[&'static Claim],
    cases: &[&'static Case],
    goldens: &Goldens,
    runs: &[FinishedRun],
    request: &Request,
) -> Result<Vec<String>, String> {
    let chosen = calibration(runs, &request.runs)?;
    let board = chosen[0].run.board.clone();
    let path = folder.join(format!("{board}.toml"));
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut document: DocumentMut = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
    let mut said = Vec::new();
    let mut passed_over = Vec::new();
    for claim in claims {
        if !request.suites.is_empty() && !request.suites.iter().any(|s| s == claim.suite()) {
            continue;
        }
        let case = cases.iter().find(|case| case.id == claim.case);
        let case = case.ok_or_else(|| format!("{}: no case {}", claim.id, claim.case))?;
        let Some(mut new) = bound(claim, case, &chosen, goldens)? else {
            passed_over.push(claim.id);
            continue;
        };
        let old = goldens.boards.get(&board).and_then(|b| b.bound(claim.id, claim.figure()));
        accept(claim, old, &mut new, request.accept_worse.as_deref())?;
        new.before = before::told(claim, case, old, &new, &chosen)?;
        said.push(line(claim, old, &new));
        put(&mut document, claim, &new);
    }
    if said.is_empty() {
        return Err(format!(
            "these runs make no golden: {} want none, or the runs do not hold their cases as they are \
             today",
            passed_over.join(", ")
        ));
    }
    let temporary = path.with_extension("toml.new");
    std::fs::write(&temporary, document.to_string())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(said)
}

/// A loosened bound and a wide tolerance need a reason, which stays in the file.
fn accept(
    claim: &Claim,
    old: Option<&Bound>,
    new: &mut Bound,
    reason: Option<&str>,
) -> Result<(), String> {
    let looser = old.is_some_and(|old| before::is_looser(claim, old, new));
    if !looser && new.worse <= WIDE {
        return Ok(());
    }
    let what = if looser { "loosens the bound" } else { "is wider than 5 %" };
    match reason {
        Some(reason) => new.accepted = Some(reason.to_owned()),
        None => {
            return Err(format!(
                "{}: golden {} - {} % {what}: say why with --accept-worse",
                claim.id,
                number(new.golden),
                number(100.0 * new.worse)
            ));
        }
    }
    Ok(())
}

fn line(claim: &Claim, old: Option<&Bound>, new: &Bound) -> String {
    let was = old.map_or("new".to_owned(), |old| format!("was {}", number(old.golden)));
    let before = before_words(claim, new).map_or_else(String::new, |words| format!("; {words}"));
    format!(
        "{}: {} = {} {} +- {} % ({was}){before}",
        claim.id,
        claim.figure(),
        number(new.golden),
        claim.unit(),
        number(100.0 * new.worse)
    )
}

fn put(document: &mut DocumentMut, claim: &Claim, bound: &Bound) {
    let claims = document.entry("claims").or_insert(Item::Table(Table::new()));
    let Some(claims) = claims.as_table_mut() else { return };
    claims.set_implicit(true);
    let entry = claims.entry(claim.id).or_insert(Item::Table(Table::new()));
    let Some(entry) = entry.as_table_mut() else { return };
    let mut inline = InlineTable::new();
    inline.insert("golden", Value::from(rounded(bound.golden)));
    inline.insert("worse", Value::from(bound.worse));
    inline.insert("because", Value::from(bound.because.as_str()));
    inline.insert("runs", Value::Array(bound.runs.iter().collect::<Array>()));
    if !bound.cubins.is_empty() {
        let mut cubins = InlineTable::new();
        for (name, sha256) in &bound.cubins {
            cubins.insert(name, Value::from(sha256.as_str()));
        }
        inline.insert("cubins", Value::InlineTable(cubins));
    }
    if let Some(accepted) = &bound.accepted {
        inline.insert("accepted", Value::from(accepted.as_str()));
    }
    if let Some(before) = &bound.before {
        let mut was = InlineTable::new();
        was.insert("golden", Value::from(before.golden));
        was.insert("worse", Value::from(before.worse));
        was.insert("missed", Value::Array(before.missed.iter().collect::<Array>()));
        inline.insert("before", Value::InlineTable(was));
    }
    entry.insert(claim.figure(), Item::Value(Value::InlineTable(inline)));
}

/// Six significant digits: a golden is no more exact than that.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;
    use crate::report::specimens;
    use crate::selfcheck;

    #[test]
    fn tolerance_is_the_spread_between_runs_and_never_under_one_percent() {
        let (golden, worse) =
            golden_and_tolerance(Relation::AtLeast, &sharp([100.0, 100.1, 99.9, 100.0])).unwrap();
        assert_relative_eq!(golden, 100.0);
        assert_relative_eq!(worse, 0.01);
        let (golden, worse) =
            golden_and_tolerance(Relation::AtLeast, &sharp([100.0, 104.0, 96.0, 100.0])).unwrap();
        assert_relative_eq!(golden, 100.0);
        // Three standard deviations: 3 * sqrt(32 / 3) = 9.798 %, up to a tenth.
        assert_relative_eq!(worse, 0.098, epsilon = 1e-12);
    }

    fn sharp(values: [f64; 4]) -> [Figure; 4] {
        values.map(|value| Figure { value, interval: (value, value) })
    }

    /// A run that is as noisy as the calibration was does not straddle the bound.
    #[test]
    fn tolerance_covers_the_noise_within_a_run() {
        let noisy = sharp([100.0, 100.0, 100.0, 100.0])
            .map(|figure| Figure { interval: (98.0, 101.0), ..figure });
        let (_, worse) = golden_and_tolerance(Relation::AtLeast, &noisy).unwrap();
        assert_relative_eq!(worse, 0.025);
        let (_, worse) = golden_and_tolerance(Relation::AtMost, &noisy).unwrap();
        assert_relative_eq!(worse, 0.013);
    }

    #[test]
    fn a_case_of_all_gpus_wants_runs_over_as_many() {
        let start = "2026-11-21T04:00:00Z";
        let mut runs = ["1a", "2b"].map(|sha256| specimens::finished(sha256, "580", start));
        let device = selfcheck::healthy().parts[0].devices[0].clone();
        runs[0].run.devices = vec![device.clone()].into();
        let of = |scope, runs: &[FinishedRun]| {
            alike(&Case { scope, ..selfcheck::CASE }, &runs.iter().collect::<Vec<_>>())
        };
        assert!(of(Scope::Node, &runs).is_err_and(|why| why.contains("another GPU count")));
        assert_eq!(of(Scope::EachGpu, &runs), Ok(()));
        runs[1].run.devices = vec![device].into();
        assert_eq!(of(Scope::Node, &runs), Ok(()));
    }

    #[test]
    fn a_recovered_run_makes_no_golden() {
        let digests = ["1a", "2b", "3c"];
        let start = "2026-11-21T04:00:00Z";
        let mut runs = digests.map(|sha256| specimens::finished(sha256, "580", start));
        let wanted = digests.map(str::to_owned);
        assert_eq!(calibration(&runs, &wanted).map(|chosen| chosen.len()), Ok(3));
        runs[1].run.recovered = Some("killed".to_owned());
        let refused = calibration(&runs, &wanted).unwrap_err();
        assert!(refused.contains("was written after it"), "{refused}");
    }

    #[test]
    fn tolerance_is_no_finer_than_a_fault_has_shown() {
        assert_relative_eq!(shown_tolerance(100.0, &[94.0, 94.2, 93.9]), 0.015);
        assert_relative_eq!(shown_tolerance(100.0, &[98.0]), 0.005);
        assert_relative_eq!(shown_tolerance(100.0, &[]), 0.0);
    }

    #[test]
    fn a_golden_has_six_digits() {
        assert_relative_eq!(rounded(4480.123456), 4480.12);
    }
}
