//! The lint of claims and goldens: what makes a check that cannot fail, or a number without a source.

mod calibration;
mod opposed;

use std::collections::BTreeSet;

use crate::case::{Case, Control, Expect};
use crate::claim::{Claim, Kind, Reduce, Relation, unit_of};
use crate::golden::{BoardGolden, Bound, Goldens, Promise};
use crate::judge::{self, Judgement, Question};
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::report::number;
use crate::statistics;

/// A tolerance above this share needs a reason that somebody wrote down.
pub const WIDE: f64 = 0.05;

/// A control is near its bound if it misses by at most this many tolerances.
pub const NEAR: f64 = 3.0;

/// What the lint looks at.
pub struct World<'a> {
    /// All claims.
    pub claims: &'a [&'static Claim],
    /// All cases.
    pub cases: &'a [&'static Case],
    /// All of `golden/`.
    pub goldens: &'a Goldens,
    /// All recorded runs.
    pub runs: &'a [FinishedRun],
    /// Today's digest of a kernel's source for an architecture.
    pub kernel_source: &'a dyn Fn(&str, &str) -> Option<String>,
}

/// Findings, each one line that names file and claim. Empty is clean.
pub fn lint(world: &World) -> Vec<String> {
    let mut findings = Vec::new();
    claims_and_cases(world, &mut findings);
    opposed::controls(world, &mut findings);
    documented(world, &mut findings);
    for board in world.goldens.boards.values() {
        board_bounds(world, board, &mut findings);
        loose_controls(world, board, &mut findings);
    }
    targets_and_rivals(world, &mut findings);
    findings
}

fn claims_and_cases(world: &World, findings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for claim in world.claims {
        let id = claim.id;
        if !seen.insert(id) {
            findings.push(format!("{id}: two claims of one id"));
        }
        if !is_kebab(id) {
            findings.push(format!("{id}: an id is suite::kebab-name"));
        }
        if unit_of(claim.figure()) == "?" {
            findings.push(format!("{id}: {} names no unit", claim.figure()));
        }
        let Some(case) = world.cases.iter().find(|case| case.id == claim.case) else {
            findings.push(format!("{id}: no case {}", claim.case));
            continue;
        };
        let tried = case.controls.iter().any(|control| {
            control.trips == claim.metric || case.integrity.contains(&control.trips)
        });
        if !tried && claim.kind == Kind::Claim {
            findings.push(format!("{id}: no control of {} can trip it", case.id));
        }
    }
    let mut cases = BTreeSet::new();
    for case in world.cases {
        if !cases.insert(case.id) {
            findings.push(format!("{}: two cases of one id", case.id));
        }
        if !world.claims.iter().any(|claim| claim.case == case.id) {
            findings.push(format!("{}: no claim reads this case", case.id));
        }
    }
}

fn is_kebab(id: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
    };
    id.split_once("::").is_some_and(|(suite, name)| word(suite) && word(name))
}

fn documented(world: &World, findings: &mut Vec<String>) {
    let file = "golden/documented.toml";
    let documented = &world.goldens.documented;
    for (id, promise) in &documented.claims {
        match world.claims.iter().find(|claim| claim.id == id) {
            None => findings.push(format!("{file}: {id}: bound without claim")),
            Some(claim) => {
                for problem in promise_problems(claim, promise, world.goldens) {
                    findings.push(format!("{file}: {id}: {problem}"));
                }
            }
        }
    }
    for claim in world.claims {
        let promised = documented.claims.contains_key(claim.id);
        let owned = world.goldens.boards.values().any(|b| b.claims.contains_key(claim.id));
        if !promised && !owned {
            findings.push(format!("{}: claim without bound", claim.id));
        }
        let listed = documented.refuted.contains_key(claim.id);
        if listed != (claim.kind == Kind::FalseRecord) {
            findings.push(format!("{file}: {}: refuted list and claim disagree", claim.id));
        }
    }
    for (id, sentence) in &documented.refuted {
        let said = [&sentence.line, &sentence.truth, &sentence.arithmetic];
        if said.iter().any(|text| text.trim().is_empty()) {
            findings.push(format!("{file}: refuted {id}: wants line, truth and arithmetic"));
        }
        if !world.claims.iter().any(|claim| claim.id == id) {
            findings.push(format!("{file}: refuted {id}: no such claim"));
        }
    }
}

fn promise_problems(claim: &Claim, promise: &Promise, goldens: &Goldens) -> Vec<String> {
    let mut problems = Vec::new();
    let figures = [promise.at_least, promise.at_most, promise.equals];
    let wanted = match claim.relation {
        Relation::AtLeast => promise.at_least,
        Relation::AtMost => promise.at_most,
        Relation::Equal | Relation::Holds => promise.equals,
    };
    match (wanted, figures.iter().flatten().count()) {
        (Some(figure), 1) if figure.is_finite() => {}
        _ => problems.push(format!("needs one finite figure for {:?}", claim.relation)),
    }
    if claim.relation == Relation::Holds && promise.equals != Some(0.0) {
        problems.push("counts violations: equals is 0".into());
    }
    if promise.because.trim().is_empty() {
        problems.push("a limit has a reason".into());
    }
    if promise.was.iter().any(|was| was == claim.text || was.trim().is_empty()) {
        problems.push("an earlier sentence is today's, or empty".into());
    }
    // What refutes a sentence need not refute a weaker one.
    if claim.kind == Kind::FalseRecord && !promise.was.is_empty() {
        problems.push("a false record keeps no earlier sentence".into());
    }
    for board in goldens.boards.values() {
        let peak = claim.ceiling.and_then(|name| board.peaks.get(name));
        if let (Some(peak), Ok(limit)) = (peak, promise.limit(Some(board)))
            && limit > peak.value
        {
            let (name, limit) = (&board.board.name, number(limit));
            problems.push(format!("the bound {limit} is above the peak {} of {name}", peak.value));
        }
    }
    if let Some(peak) = &promise.of {
        let boards = goldens.boards.values();
        for board in boards.filter(|board| !board.peaks.contains_key(peak)) {
            problems.push(format!("{} has no peak {peak}", board.board.name));
        }
    }
    problems
}

fn board_bounds(world: &World, board: &BoardGolden, findings: &mut Vec<String>) {
    let file = format!("golden/{}.toml", board.board.name);
    for (name, peak) in &board.peaks {
        if unit_of(name) == "?" || !(peak.value.is_finite() && peak.value > 0.0) {
            findings.push(format!("{file}: peak {name} = {} has no unit or no value", peak.value));
        }
        if peak.source.trim().is_empty() {
            findings.push(format!("{file}: peak {name} has no source"));
        }
    }
    for (id, reason) in &board.skip {
        if !world.claims.iter().any(|claim| claim.id == id) || reason.trim().is_empty() {
            findings.push(format!("{file}: skip {id}: no such claim, or no reason"));
        }
    }
    for (id, bounds) in &board.claims {
        let Some(claim) = world.claims.iter().find(|claim| claim.id == id) else {
            findings.push(format!("{file}: {id}: bound without claim"));
            continue;
        };
        // Without it nothing would be beyond physics.
        if let Some(peak) = claim.ceiling.filter(|peak| !board.peaks.contains_key(*peak)) {
            findings.push(format!("{file}: {id}: the board has no peak {peak}, its ceiling"));
        }
        for (figure, bound) in bounds {
            if figure != claim.figure() {
                findings.push(format!("{file}: {id}: the claim's figure is {}", claim.figure()));
                continue;
            }
            for problem in bound_problems(world, board, claim, bound) {
                findings.push(format!("{file}: {id}: {problem}"));
            }
        }
    }
}

fn bound_problems(
    world: &World,
    board: &BoardGolden,
    claim: &'static Claim,
    bound: &Bound,
) -> Vec<String> {
    let mut problems = Vec::new();
    let figures = bound.golden.is_finite() && (0.0..1.0).contains(&bound.worse);
    if !figures {
        problems.push(format!("golden {} worse {} is no bound", bound.golden, bound.worse));
        return problems;
    }
    if bound.worse > WIDE && bound.accepted.is_none() {
        problems.push(format!("a tolerance of {} needs `accepted`", number(bound.worse)));
    }
    if bound.because.trim().is_empty() {
        problems.push("a limit has a reason".into());
    }
    // Without it samples could be chosen from.
    let case = world.cases.iter().find(|case| case.id == claim.case);
    if let Some(case) = case.filter(|case| case.samples < statistics::FEWEST) {
        let (id, samples, fewest) = (case.id, case.samples, statistics::FEWEST);
        problems
            .push(format!("{id} takes {samples} samples by its own word, {fewest} are the fewest"));
    }
    let limit = judge::golden_limit(claim, bound);
    if let Some(peak) = claim.ceiling.and_then(|name| board.peaks.get(name))
        && limit > peak.value
    {
        problems.push(format!("the bound {} is above its peak {}", number(limit), peak.value));
    }
    let promise = world.goldens.documented.claims.get(claim.id);
    if let Some(Ok(promised)) = promise.map(|promise| promise.limit(Some(board)))
        && match claim.relation {
            Relation::AtLeast => limit < promised,
            Relation::AtMost => limit > promised,
            Relation::Equal | Relation::Holds => false,
        }
    {
        problems.push(format!(
            "the golden's bound {} is looser than the documented {}",
            number(limit),
            number(promised)
        ));
    }
    calibration::problems(world, board, claim, bound, problems)
}

/// A bound so loose that a planted fault passes it, and a bound that no fault comes near.
fn loose_controls(world: &World, board: &BoardGolden, findings: &mut Vec<String>) {
    let name = &board.board.name;
    for claim in world.claims {
        let Some(bound) = board.bound(claim.id, claim.figure()) else { continue };
        let Some(case) = world.cases.iter().find(|case| case.id == claim.case) else { continue };
        let Some(judgement) = recorded_judgement(world, board, claim, case) else { continue };
        for view in judgement.controls.iter().filter(|view| view.caught == Some(false)) {
            let (control, detail) = (view.control.name, &view.detail);
            findings.push(format!(
                "golden/{name}.toml: {}: a control passes it: {control}: {detail}",
                claim.id
            ));
        }
        if claim.reduce == Reduce::Worst {
            findings.extend(far_controls(world, board, claim, case, bound));
        }
    }
}

/// A bound near which no fault was planted: at most [`NEAR`] tolerances away, on the typical GPU of all
/// recorded runs of today's procedure. A claim at whose own place nothing is planted leans on its case's
/// control elsewhere.
fn far_controls(
    world: &World,
    board: &BoardGolden,
    claim: &'static Claim,
    case: &'static Case,
    bound: &Bound,
) -> Option<String> {
    let name = &board.board.name;
    let near =
        |control: &&Control| control.expect == Expect::Regressed && control.trips == claim.metric;
    let Some(control) = case.controls.iter().find(near) else {
        return Some(format!("golden/{name}.toml: {}: no control near the bound", claim.id));
    };
    let planted = world.runs.iter().filter(|finished| finished.run.board == *name);
    let planted = planted.flat_map(|finished| match recorded::read(finished, case.id) {
        FoundEvidence::Evidence(evidence, _) if evidence.revision == case.revision => {
            judge::planted_figures(claim, control, &evidence)
        }
        _ => Vec::new(),
    });
    let planted = statistics::median(&planted.collect::<Vec<f64>>())?;
    let limit = judge::golden_limit(claim, bound);
    let tolerances = (planted - limit).abs() / (bound.golden.abs() * bound.worse);
    (tolerances > NEAR).then(|| {
        format!(
            "golden/{name}.toml: {}: control {} is {} tolerances from the bound, {NEAR} at most",
            claim.id,
            control.name,
            number(tolerances)
        )
    })
}

fn recorded_judgement(
    world: &World,
    board: &BoardGolden,
    claim: &'static Claim,
    case: &'static Case,
) -> Option<Judgement> {
    let found = recorded::find(world.runs, &board.board.name, Some(board), claim, case);
    let siblings: Vec<&'static Claim> =
        world.claims.iter().filter(|other| other.case == case.id).copied().collect();
    let question = Question {
        claim,
        case,
        siblings: &siblings,
        found: found.as_found(),
        goldens: world.goldens,
        kernel_source: world.kernel_source,
    };
    matches!(found, FoundEvidence::Evidence(..)).then(|| judge::judge(&question))
}

fn targets_and_rivals(world: &World, findings: &mut Vec<String>) {
    let known = |id: &str| world.claims.iter().any(|claim| claim.id == id);
    let board = |name: &str| world.goldens.boards.contains_key(name);
    for target in &world.goldens.targets.target {
        let name = &target.name;
        if !known(&target.claim) || !board(&target.board) {
            findings.push(format!("golden/targets.toml: {name}: no such claim or board"));
        }
        let one = match (target.at_least, target.at_most) {
            (Some(figure), None) | (None, Some(figure)) => figure.is_finite(),
            _ => false,
        };
        if !one || target.because.trim().is_empty() {
            findings.push(format!("golden/targets.toml: {name}: one figure, with its reason"));
        }
        let boards = &world.goldens.boards;
        let peaks = boards.get(&target.board).map(|board| &board.peaks);
        if let (Some(peak), Some(peaks)) = (&target.of, peaks)
            && !peaks.contains_key(peak)
        {
            findings.push(format!("golden/targets.toml: {name}: no peak {peak}"));
        }
    }
    for rival in &world.goldens.rivals.rival {
        if !known(&rival.claim) || !board(&rival.board) || !rival.value.is_finite() {
            findings.push(format!(
                "golden/rivals.toml: {} {}: no such claim or board, or no value",
                rival.tool, rival.claim
            ));
        }
    }
}

/// Goldens that are worse than a recorded rival: listed for the reader, not failed.
pub fn behind_rivals(goldens: &Goldens, claims: &[&'static Claim]) -> Vec<String> {
    let mut behind = Vec::new();
    for rival in &goldens.rivals.rival {
        let Some(claim) = claims.iter().find(|claim| claim.id == rival.claim) else { continue };
        let Some(board) = goldens.boards.get(&rival.board) else { continue };
        let Some(bound) = board.bound(claim.id, claim.figure()) else { continue };
        let worse = match claim.relation {
            Relation::AtMost => bound.golden > rival.value,
            _ => bound.golden < rival.value,
        };
        if worse {
            let (ours, theirs) = (number(bound.golden), number(rival.value));
            behind.push(format!("{}: golden {ours}, {} reaches {theirs}", claim.id, rival.tool));
        }
    }
    behind
}
