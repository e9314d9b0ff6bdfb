//! Everything that the runner is given by the suites: claims, cases, the node, the root folder.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::case::{Case, Scope};
use crate::claim::{Claim, GpuCount};
use crate::evidence::Outcome;
use crate::golden::{self, Goldens};
use crate::judge::{self, BoundView, Found, Judgement, Question, Standing, Verdict};
use crate::live;
use crate::node::Node;
use crate::recorded::{self, FinishedRun, FoundEvidence, Located};
use crate::report;
use crate::report::checklist::Checklist;
use crate::run::SourceTree;

/// Places of claims that one file is read for, each with what [`Located`] says of newer runs.
type Readers = Vec<(usize, Option<String>)>;

/// Files of evidence of cases over all GPUs that were read to choose among runs, by their run's digest and their case.
type Files = RefCell<BTreeMap<(String, &'static str), FoundEvidence>>;

/// The suites as the runner sees them.
pub struct World<'a> {
    /// All claims, in checklist order.
    pub claims: &'a [&'static Claim],
    /// All cases, in the order in which they run.
    pub cases: &'a [&'static Case],
    /// This machine.
    pub node: &'a dyn Node,
    /// The folder that holds golden/, fixtures/ and checklists/.
    pub root: PathBuf,
    /// What the executable was built from.
    pub source: SourceTree,
    /// The checklists that are generated.
    pub checklists: &'a [Checklist],
}

impl World<'_> {
    /// Reads `golden/`.
    pub fn goldens(&self) -> Result<Goldens, String> {
        golden::load(&self.root.join("golden"))
    }

    /// The case of a claim. `Err` names the claim.
    pub fn case_of(&self, claim: &Claim) -> Result<&'static Case, String> {
        let found = self.cases.iter().find(|case| case.id == claim.case);
        found.copied().ok_or_else(|| format!("{}: no case {}", claim.id, claim.case))
    }

    /// All claims that read a case.
    pub fn readers(&self, case: &Case) -> Vec<&'static Claim> {
        self.claims.iter().filter(|claim| claim.case == case.id).copied().collect()
    }

    /// Judges a claim against what was found.
    pub fn judge(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        found: Found,
        goldens: &Goldens,
    ) -> Judgement {
        let siblings = self.readers(case);
        judge::judge(&Question {
            claim,
            case,
            siblings: &siblings,
            found,
            goldens,
            kernel_source: &|kernel, architecture| {
                self.node.kernel_source_sha256(kernel, architecture)
            },
        })
    }

    /// Judges claims by one finished run alone, in their order. What its tier or its GPUs leave out is
    /// explained; what a whole run would hold and this one does not is not excused. Among the `recorded` runs are
    /// those of which goldens were made.
    pub fn judge_run(
        &self,
        claims: &[&'static Claim],
        finished: &FinishedRun,
        recorded: &[FinishedRun],
        goldens: &Goldens,
    ) -> Result<Vec<Judgement>, String> {
        let given = finished.run.devices.len();
        let from = |_: &Claim, _: &Case| Ok(Located { finished, other_runs: None });
        let judge = |claim: &'static Claim, case: &'static Case, found: &FoundEvidence| {
            let found = match (live::left_out(claim, case, given, finished.run.tier), found) {
                (Some(reason), _) => Found::Nothing { reason, explained: true },
                (None, FoundEvidence::Nothing(reason)) => {
                    Found::Nothing { reason: reason.clone(), explained: case.self_test_only }
                }
                (None, found) => found.as_found(),
            };
            self.judge(claim, case, found, goldens)
        };
        self.each_read_once(claims, recorded, goldens, &from, &judge)
    }

    /// Judges a claim by what was found recorded. What was not run then, as what no run holds, was left out by nobody's
    /// fault of today.
    pub fn judge_found(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        found: &FoundEvidence,
        goldens: &Goldens,
    ) -> Judgement {
        let mut judgement = self.judge(claim, case, found.as_found(), goldens);
        match &mut judgement.verdict {
            Verdict::NotRun { explained } if left_out_then(found) => *explained = true,
            _ => {}
        }
        judgement
    }

    /// The recorded run that a claim is judged by: the newest that has tried its case ([`recorded::locate`]). Where a
    /// claim about all GPUs together holds there, the newest run of each larger GPU count is looked at: if one of them
    /// does not hold, the newest stays and names it, else the one of the most GPUs that holds takes its place. So a run
    /// of two GPUs hides none of four, and a newer failure unticks.
    fn located<'r>(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        (runs, board): (&'r [FinishedRun], &str),
        goldens: &Goldens,
        files: &Files,
    ) -> Result<Located<'r>, String> {
        let golden = goldens.boards.get(board);
        let newest = recorded::locate(runs, board, golden, claim, case)?;
        let any = matches!(claim.gpus, GpuCount::AtLeast(_));
        if case.scope != Scope::Node || !any {
            return Ok(newest);
        }
        let than = newest.finished.run.devices.len();
        let wider = recorded::wider(runs, board, golden, claim, case, than);
        if wider.is_empty() {
            return Ok(newest);
        }
        let judge = |located: &Located| {
            let finished = located.finished;
            let mut files = files.borrow_mut();
            let file = files.entry((finished.sha256.clone(), case.id));
            let found = file.or_insert_with(|| recorded::read(finished, case.id));
            tell_origin(found, std::iter::once(claim), finished, (runs, goldens));
            self.judge_found(claim, case, found, goldens)
        };
        if judge(&newest).verdict != Verdict::Verified {
            return Ok(newest);
        }
        let judged: Vec<(Located, Judgement)> = wider
            .into_iter()
            .map(|located| {
                let judgement = judge(&located);
                (located, judgement)
            })
            .collect();
        let fails = |(_, judgement): &&(Located, Judgement)| {
            is_red(judgement.verdict) && !disturbed(judgement)
        };
        if let Some((failed, judgement)) = judged.iter().find(fails) {
            let Located { finished, .. } = failed;
            let (verdict, gpus) = (report::word(judgement.verdict), finished.run.devices.len());
            let clause = format!("{verdict} over {gpus} GPUs in {}", finished.run.run);
            let others =
                newest.other_runs.map_or(clause.clone(), |not_run| format!("{not_run}; {clause}"));
            return Ok(Located { other_runs: Some(others), ..newest });
        }
        let holds = |(_, judgement): &(Located, Judgement)| judgement.verdict == Verdict::Verified;
        Ok(judged.into_iter().find(holds).map_or(newest, |(located, _)| located))
    }

    /// The evidence of a claim in the run that it is judged by.
    pub fn find_recorded(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        runs: &[FinishedRun],
        board: &str,
        goldens: &Goldens,
    ) -> FoundEvidence {
        let located = self.located(claim, case, (runs, board), goldens, &Files::default());
        let found = recorded::read_located(located, case);
        let judgement = self.judge_found(claim, case, &found, goldens);
        self.settled(claim, case, &judgement, (runs, board), goldens).unwrap_or(found)
    }

    /// What counts in the place of evidence that meets every bound and yet says nothing, since a GPU was shared or
    /// throttled: that of the newest older run whose word counts, for the claim or against it, which names the newer one;
    /// else nothing. None where the evidence counts itself, as that of a run alone does, which is judged as it was live.
    fn settled(
        &self,
        claim: &'static Claim,
        case: &'static Case,
        judgement: &Judgement,
        (runs, board): (&[FinishedRun], &str),
        goldens: &Goldens,
    ) -> Option<FoundEvidence> {
        let newest = judgement.evidence.as_ref().filter(|_| disturbed(judgement))?;
        if runs.len() == 1 {
            return None;
        }
        let nothing = format!("not judged, {} in {}", judgement.reason, newest.run);
        let clause = format!("inconclusive in {}: {}", newest.run, judgement.reason);
        let counts = |judgement: &Judgement| {
            let verdict = judgement.verdict;
            verdict == Verdict::Verified || is_red(verdict) && !disturbed(judgement)
        };
        let (files, mut run) = (Files::default(), newest.run.clone());
        let older = |run: &str| {
            let at = runs.iter().position(|finished| finished.run.run == *run)?;
            let located = self.located(claim, case, (&runs[..at], board), goldens, &files).ok()?;
            let finished = located.finished;
            let others =
                located.other_runs.iter().fold(clause.clone(), |all, one| all + "; " + one);
            let mut found =
                recorded::read_located(Ok(Located { other_runs: Some(others), ..located }), case);
            tell_origin(&mut found, std::iter::once(claim), finished, (runs, goldens));
            let judgement = self.judge_found(claim, case, &found, goldens);
            Some((found, judgement))
        };
        while let Some((found, judgement)) = older(&run) {
            if counts(&judgement) {
                return Some(found);
            }
            match judgement.evidence.as_ref().filter(|_| disturbed(&judgement)) {
                Some(evidence) => run.clone_from(&evidence.run),
                None => break,
            }
        }
        Some(FoundEvidence::Nothing(nothing))
    }

    /// Judges claims by the recorded runs of a board, in their order.
    pub fn judge_recorded(
        &self,
        claims: &[&'static Claim],
        runs: &[FinishedRun],
        board: &str,
        goldens: &Goldens,
    ) -> Result<Vec<Judgement>, String> {
        let files = Files::default();
        let from = |claim: &'static Claim, case: &'static Case| {
            self.located(claim, case, (runs, board), goldens, &files)
        };
        let judge = |claim: &'static Claim, case: &'static Case, found: &FoundEvidence| {
            self.judge_found(claim, case, found, goldens)
        };
        let mut judged = self.each_read_once(claims, runs, goldens, &from, &judge)?;
        for (claim, judgement) in claims.iter().zip(&mut judged) {
            let case = self.case_of(claim)?;
            let settled = self.settled(claim, case, judgement, (runs, board), goldens);
            if let Some(found) = settled {
                *judgement = self.judge_found(claim, case, &found, goldens);
            }
        }
        Ok(judged)
    }

    /// Judges claims in their order. Claims of one case and run share a file: it is read, hashed and
    /// parsed once for all of them, and dropped before the next, however many there are.
    fn each_read_once<'r>(
        &self,
        claims: &[&'static Claim],
        recorded: &[FinishedRun],
        goldens: &Goldens,
        from: &dyn Fn(&'static Claim, &'static Case) -> Result<Located<'r>, String>,
        judge: &dyn Fn(&'static Claim, &'static Case, &FoundEvidence) -> Judgement,
    ) -> Result<Vec<Judgement>, String> {
        let mut judged: Vec<Option<Judgement>> = vec![None; claims.len()];
        let mut files: BTreeMap<(&str, &str), (&FinishedRun, Readers)> = BTreeMap::new();
        for (index, claim) in claims.iter().enumerate() {
            let case = self.case_of(claim)?;
            match from(claim, case) {
                Ok(Located { finished, other_runs }) => {
                    let file = files.entry((&finished.sha256, case.id));
                    let (_, readers) = file.or_insert_with(|| (finished, Vec::new()));
                    readers.push((index, other_runs));
                }
                Err(reason) => {
                    judged[index] = Some(judge(claim, case, &FoundEvidence::Nothing(reason)));
                }
            }
        }
        for ((_, case), (run, readers)) in files {
            let mut found = recorded::read(run, case);
            let read_for = readers.iter().map(|(index, _)| claims[*index]);
            tell_origin(&mut found, read_for, run, (recorded, goldens));
            for (index, other_runs) in readers {
                if let FoundEvidence::Evidence(_, reference) = &mut found {
                    reference.other_runs = other_runs;
                }
                let claim = claims[index];
                judged[index] = Some(judge(claim, self.case_of(claim)?, &found));
            }
        }
        // Every claim was judged in one of the two loops.
        Ok(judged.into_iter().flatten().collect())
    }

    /// Refuses a world in which a name means two things.
    pub fn check(&self) -> Result<(), String> {
        let mut ids: Vec<&str> = self.claims.iter().map(|claim| claim.id).collect();
        ids.extend(self.cases.iter().map(|case| case.id));
        let claims = self.claims.len();
        for (index, id) in ids.iter().enumerate() {
            let same_kind = if index < claims { &ids[..claims] } else { &ids[claims..] };
            if same_kind.iter().filter(|other| *other == id).count() > 1 {
                return Err(format!("two claims or two cases of one id: {id}"));
            }
        }
        self.claims.iter().try_for_each(|claim| self.case_of(claim).map(drop))
    }
}

/// Says of evidence which of the runs it is a copy of that goldens of the claims were made of.
fn tell_origin(
    found: &mut FoundEvidence,
    claims: impl Iterator<Item = &'static Claim>,
    run: &FinishedRun,
    (recorded, goldens): (&[FinishedRun], &Goldens),
) {
    if let FoundEvidence::Evidence(evidence, reference) = found {
        let made_of = made_of(claims, run, recorded, goldens);
        reference.origin = recorded::origin(evidence, made_of).map(|run| run.sha256.clone());
    }
}

/// The recorded runs of which goldens of the claims were made, but for the run itself, which its digest tells.
fn made_of<'a>(
    claims: impl Iterator<Item = &'static Claim>,
    run: &FinishedRun,
    recorded: &'a [FinishedRun],
    goldens: &Goldens,
) -> impl Iterator<Item = &'a FinishedRun> {
    let board = goldens.boards.get(&run.run.board);
    let bounds = claims.filter_map(|claim| board?.bound(claim.id, claim.figure()));
    let digests = bounds.flat_map(|bound| bound.runs.iter().cloned());
    let others: BTreeSet<String> = digests.filter(|sha256| *sha256 != run.sha256).collect();
    recorded.iter().filter(move |other| others.contains(&other.sha256))
}

/// Whether every bound is met and yet nobody can say, since a GPU was shared or throttled.
fn disturbed(judgement: &Judgement) -> bool {
    let met = |view: &BoundView| view.standing == Standing::Met;
    judgement.verdict == Verdict::Inconclusive
        && !judgement.reason.starts_with(judge::UNWATCHED)
        && !judgement.bounds.is_empty()
        && judgement.bounds.iter().all(met)
}

/// Whether a claim was tried, and does not hold or nobody knows.
fn is_red(verdict: Verdict) -> bool {
    use Verdict::{Broken, Corrupt, Inconclusive, Refuted, Regressed};
    matches!(verdict, Broken | Corrupt | Inconclusive | Refuted | Regressed)
}

/// A path below the root, as text for reports.
pub fn below<'a>(root: &Path, path: &'a Path) -> std::borrow::Cow<'a, str> {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy()
}

/// Whether a recorded run did not run the case on one of its GPUs.
fn left_out_then(found: &FoundEvidence) -> bool {
    let FoundEvidence::Evidence(evidence, _) = found else { return false };
    evidence.parts.iter().any(|part| matches!(part.outcome, Outcome::NotRun(_)))
}
