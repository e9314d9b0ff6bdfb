//! Whether a golden is what its calibration runs give: a bound that somebody wrote by hand is none.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use crate::bless;
use crate::case::Case;
use crate::claim::Claim;
use crate::digest;
use crate::golden::{BoardGolden, Bound};
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::report::number;

/// What is wrong with a bound's runs, or, where nothing else is wrong, with the bound by its runs.
pub(super) fn problems(
    world: &World,
    board: &BoardGolden,
    claim: &'static Claim,
    bound: &Bound,
    mut problems: Vec<String>,
) -> Vec<String> {
    let recorded: BTreeMap<&str, &FinishedRun> =
        world.runs.iter().map(|finished| (finished.sha256.as_str(), finished)).collect();
    let distinct: BTreeSet<&String> = bound.runs.iter().collect();
    if distinct.len() < bless::FEWEST_RUNS {
        problems.push("needs three calibration runs".into());
    }
    let case = world.cases.iter().find(|case| case.id == claim.case);
    let mut runs = Vec::new();
    for run in distinct {
        let Some(finished) = recorded.get(run.as_str()) else {
            problems.push(format!("calibration run {run} is not recorded"));
            continue;
        };
        if let Some(problem) = unfit(finished, board) {
            problems.push(format!("calibration run {} {problem}", digest::short(run)));
        }
        if let Some(case) = case.filter(|case| !holds(finished, case)) {
            let run = digest::short(run);
            problems.push(format!("calibration run {run} holds no figures of {}", case.id));
        }
        runs.push(*finished);
    }
    if let Some(case) = case.filter(|_| problems.is_empty()) {
        problems.extend(moved(world, claim, case, bound, &runs));
    }
    problems
}

/// Why a run makes no golden of a board.
fn unfit(finished: &FinishedRun, board: &BoardGolden) -> Option<String> {
    let run = &finished.run;
    if run.board != board.board.name {
        return Some(format!("is of {}", run.board));
    }
    run.unfit().map(str::to_owned)
}

/// Whether a run holds a case with figures that mean what today's would. A file that cannot be read is
/// the judge's to tell.
fn holds(finished: &FinishedRun, case: &Case) -> bool {
    match recorded::read(finished, case.id) {
        FoundEvidence::Evidence(evidence, _) => bless::holds_figures(case, &evidence),
        FoundEvidence::Unreadable(_) => true,
        FoundEvidence::Nothing(_) => false,
    }
}

/// How the bound differs from the one that its runs give today, and what it tells of the one before it from what they
/// show. A wider tolerance may have been given
/// with a reason; a machine code and a figure may not.
fn moved(
    world: &World,
    claim: &'static Claim,
    case: &'static Case,
    bound: &Bound,
    runs: &[&FinishedRun],
) -> Option<String> {
    // What cannot be read is the judge's to tell.
    let unreadable =
        |run: &&FinishedRun| matches!(recorded::read(run, case.id), FoundEvidence::Unreadable(_));
    if runs.iter().any(unreadable) {
        return None;
    }
    let given = match bless::bound(claim, case, runs, world.goldens) {
        Ok(given) => given?,
        Err(why) => return Some(why),
    };
    if bless::rounded(given.golden) != bound.golden {
        let (is, was) = (number(bound.golden), number(given.golden));
        return Some(format!("golden {is} is not what its runs give: {was}"));
    }
    // Tighter than its runs ask for is nobody's gain.
    if bound.worse > given.worse && bound.accepted.is_none() {
        let (is, was) = (number(bound.worse), number(given.worse));
        return Some(format!("tolerance {is} is not what its runs give: {was}"));
    }
    if let Some(before) = &bound.before {
        let missed = match bless::missed(claim, case, before, runs) {
            Ok(missed) => missed.into_iter().collect::<BTreeSet<String>>(),
            Err(why) => return Some(why),
        };
        if missed != before.missed.iter().cloned().collect() {
            let (count, named) = (missed.len(), before.missed.len());
            return Some(format!(
                "{count} of its runs missed the bound before, which names {named}"
            ));
        }
    }
    let strange = |(name, sha256): &(&String, &String)| given.cubins.get(*name) != Some(*sha256);
    let (name, sha256) = bound.cubins.iter().find(strange)?;
    Some(format!("its runs ran no {name} of machine code {}", digest::short(sha256)))
}
