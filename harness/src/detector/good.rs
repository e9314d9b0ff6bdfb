//! What faults are planted into: a recorded run whose claim is verified, or, where nothing is recorded,
//! a synthetic one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::case::{Case, Expect, Scope};
use crate::claim::{Claim, Reduce, Relation};
use crate::digest::{self, Sha256};
use crate::evidence::{self, Evidence, MetricKind, Outcome};
use crate::files;
use crate::golden::{BoardGolden, Bound, Documented, Goldens, Rivals, Targets};
use crate::judge::{Found, Question, Verdict, judge};
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::run::{self, CaseEntry, Run, SourceTree};
use crate::selfcheck;
use crate::world::World;

/// A good run with everything that it is judged by.
pub(super) struct Good {
    pub claim: &'static Claim,
    pub case: &'static Case,
    pub siblings: Vec<&'static Claim>,
    pub root: PathBuf,
    /// The calibration runs of the goldens, oldest first, and the run itself as the last.
    pub runs: Vec<FinishedRun>,
    pub evidence: Evidence,
    /// The same case in another run, and another case of the run: files to be mistaken for this one.
    pub of_another_run: String,
    pub of_another_case: String,
    /// The golden files with nothing in them but what the siblings are judged by.
    pub board: BoardGolden,
    pub documented: Documented,
    /// In words, for the report.
    pub what: String,
    temporary: Option<PathBuf>,
}

impl Drop for Good {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            // What stays in the temporary folder harms nobody.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

impl Good {
    /// From the newest recorded run in which a claim is verified into whose evidence every fault can be
    /// planted; else the synthetic one.
    pub fn find(world: &World, goldens: &Goldens, runs: &[FinishedRun]) -> Result<Good, String> {
        for finished in runs.iter().rev() {
            for claim in world.claims {
                if let Some(base) = Good::of(world, goldens, runs, finished, claim) {
                    return Ok(base);
                }
            }
        }
        Good::synthetic()
    }

    fn of(
        world: &World,
        goldens: &Goldens,
        runs: &[FinishedRun],
        finished: &FinishedRun,
        claim: &'static Claim,
    ) -> Option<Good> {
        let case = world.case_of(claim).ok()?;
        let board = goldens.boards.get(&finished.run.board)?;
        let bound = board.bound(claim.id, claim.figure())?;
        if !fits(claim, case, goldens, bound) {
            return None;
        }
        let found = recorded::read(finished, case.id);
        let FoundEvidence::Evidence(evidence, mut reference) = found else { return None };
        let each = evidence.parts.iter().all(|part| part.devices.len() == 1);
        if !each || evidence.parts.len() < 2 {
            return None;
        }
        let siblings = world.readers(case);
        let (board, documented) = alone(goldens, board, &siblings);
        let made_from = |run: &&FinishedRun| {
            let bounds = board.claims.values().flat_map(BTreeMap::values);
            bounds.into_iter().any(|bound| bound.runs.contains(&run.sha256))
        };
        let mut chosen: Vec<FinishedRun> = runs.iter().filter(made_from).cloned().collect();
        let origin = recorded::origin(&evidence, &chosen);
        reference.origin = origin.map(|run| run.sha256.clone());
        let found = Found::Evidence(&evidence, reference);
        if world.judge(claim, case, found, goldens).verdict != Verdict::Verified {
            return None;
        }
        // Of this claim's own golden: those of its siblings may come from other runs.
        let own = chosen.iter().rev().filter(|run| bound.runs.contains(&run.sha256));
        // With the claim's own faults planted, since it is to be mistaken for this one.
        let needed = || case.controls.iter().filter(|control| control.trips == claim.metric);
        let alike = |text: &String| {
            let Ok(other) = evidence::parse(text) else { return false };
            let planted: BTreeSet<&str> = other
                .parts
                .iter()
                .flat_map(|part| &part.controls)
                .map(|control| control.name.as_str())
                .collect();
            needed().all(|control| planted.contains(control.name))
        };
        let of_another_run = own.filter_map(|run| text_of(run, case.id)).find(alike)?;
        let others = finished.run.cases.iter().filter(|entry| entry.case != case.id);
        let of_another_case =
            others.into_iter().find_map(|entry| text_of(finished, &entry.case))?;
        chosen.push(finished.clone());
        let what = format!("{} of recorded run {}", claim.id, finished.run.run);
        Some(Good {
            claim,
            case,
            siblings,
            root: world.root.clone(),
            runs: chosen,
            evidence: *evidence,
            of_another_run,
            of_another_case,
            board,
            documented,
            what,
            temporary: None,
        })
    }

    /// Four runs of the self-check's evidence in a folder of their own, which goes with the base.
    pub fn synthetic() -> Result<Good, String> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("touchstone-detector-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let written = synthetic_runs(&root);
        let Ok(runs) = written else {
            let _ = std::fs::remove_dir_all(&root);
            return Err(written.err().unwrap_or_default());
        };
        let mut goldens = selfcheck::goldens();
        for bounds in goldens.boards.values_mut().flat_map(|board| board.claims.values_mut()) {
            for bound in bounds.values_mut() {
                bound.runs = runs[..3].iter().map(|finished| finished.sha256.clone()).collect();
                bound.cubins = BTreeMap::from([("stream".into(), selfcheck::cubin())]);
            }
        }
        let siblings = vec![&selfcheck::RATE];
        let board = goldens.boards.values().next().ok_or("a board")?.clone();
        let (board, documented) = alone(&goldens, &board, &siblings);
        let evidence = synthetic_evidence(&runs[3].run.run, 3);
        let other = Evidence { case: "selfcheck::other".into(), ..evidence.clone() };
        let older = synthetic_evidence(&runs[2].run.run, 2);
        Ok(Good {
            claim: &selfcheck::RATE,
            case: &selfcheck::CASE,
            siblings,
            of_another_run: evidence::render(&older)?,
            of_another_case: evidence::render(&other)?,
            runs,
            evidence,
            board,
            documented,
            what: "synthetic evidence, as no recorded run fits".into(),
            temporary: Some(root.clone()),
            root,
        })
    }

    /// The bound of the claim.
    pub fn bound(&self) -> Option<&Bound> {
        self.board.bound(self.claim.id, self.claim.figure())
    }

    /// GPU of a part.
    pub fn gpu(&self, part: usize) -> u32 {
        let device = self.evidence.parts.get(part).and_then(|part| part.devices.first());
        device.map_or(0, |device| device.gpu)
    }

    /// Name of the first control that must get this verdict, on the claim's metric or on the bits.
    pub fn control(&self, expect: Expect) -> &'static str {
        let bits = expect == Expect::Corrupt;
        let trips = if bits { self.integrity() } else { self.claim.metric };
        let mut controls = self.case.controls.iter();
        let found = controls.find(|control| control.expect == expect && control.trips == trips);
        found.map_or("", |control| control.name)
    }

    /// Name of the first integrity metric.
    pub fn integrity(&self) -> &'static str {
        self.case.integrity.first().copied().unwrap_or("")
    }

    /// The golden files as the judge takes them.
    pub fn goldens(&self, board: BoardGolden, documented: Documented) -> Goldens {
        Goldens {
            documented,
            boards: BTreeMap::from([(board.board.name.clone(), board)]),
            targets: Targets { schema: 1, target: vec![] },
            rivals: Rivals { schema: 1, rival: vec![] },
        }
    }

    /// Today's kernels are those of the base: what moves is the evidence.
    pub fn kernel_source(&self, name: &str, architecture: &str) -> Option<String> {
        let mut used = self.evidence.parts.iter().flat_map(|part| &part.kernels);
        let own = used.find(|used| used.name == name && used.architecture == architecture)?;
        Some(own.source_sha256.clone())
    }

    /// Judges what was found by these goldens.
    pub fn judge(&self, found: Found, goldens: &Goldens) -> crate::judge::Judgement {
        judge(&Question {
            claim: self.claim,
            case: self.case,
            siblings: &self.siblings,
            found,
            goldens,
            kernel_source: &|name, architecture| self.kernel_source(name, architecture),
        })
    }
}

/// Whether every fault can be planted in a claim's evidence and goldens.
fn fits(claim: &Claim, case: &Case, goldens: &Goldens, bound: &Bound) -> bool {
    let controls = |expect, trips: &str| {
        case.controls.iter().any(|control| control.expect == expect && control.trips == trips)
    };
    let bits = case.integrity.first().is_some_and(|bits| controls(Expect::Corrupt, bits));
    let promise = goldens.documented.claims.get(claim.id);
    claim.relation == Relation::AtLeast
        && claim.reduce == Reduce::Worst
        && claim.at.is_empty()
        && claim.ceiling.is_some()
        && case.scope == Scope::EachGpu
        && !case.kernels.is_empty()
        && bits
        && controls(Expect::Regressed, claim.metric)
        && promise.is_some_and(|promise| promise.at_least.is_some() && !promise.suffices)
        && bound.worse < 0.045
        && !bound.cubins.is_empty()
}

/// The golden files with nothing in them but what these claims are judged by.
fn alone(
    goldens: &Goldens,
    board: &BoardGolden,
    claims: &[&'static Claim],
) -> (BoardGolden, Documented) {
    let own = |id: &str| claims.iter().any(|claim| claim.id == id);
    let mut board = board.clone();
    board.claims.retain(|id, _| own(id));
    board.skip.clear();
    board.skip_budget = 0;
    let mut documented = goldens.documented.clone();
    documented.claims.retain(|id, _| own(id));
    documented.refuted.retain(|id, _| own(id));
    (board, documented)
}

/// The text of a case's completed evidence.
fn text_of(finished: &FinishedRun, case: &str) -> Option<String> {
    let entry = finished.run.cases.iter().find(|entry| entry.case == case)?;
    let text = std::fs::read_to_string(finished.folder.join(&entry.file)).ok()?;
    let (evidence, _) = recorded::vouched(finished, entry, &text).ok()?;
    let whole = evidence.parts.iter().all(|part| part.outcome == Outcome::Completed);
    (whole && !evidence.pci_device_id.is_empty()).then_some(text)
}

fn synthetic_runs(root: &Path) -> Result<Vec<FinishedRun>, String> {
    let runs = ["first", "second", "third", "judged"];
    runs.into_iter().zip(0..).map(|(name, number)| synthetic_run(root, name, number)).collect()
}

/// The self-check's evidence as the run of this number measured it: no two give the same samples.
fn synthetic_evidence(name: &str, number: u32) -> Evidence {
    let mut evidence = Evidence { run: name.into(), ..selfcheck::healthy() };
    for metric in evidence.parts.iter_mut().flat_map(|part| &mut part.metrics) {
        if metric.kind == MetricKind::Sampled {
            metric.values.iter_mut().for_each(|value| *value += 1e-4 * f64::from(number));
        }
    }
    evidence
}

fn synthetic_run(root: &Path, name: &str, number: u32) -> Result<FinishedRun, String> {
    let evidence = synthetic_evidence(name, number);
    let text = evidence::render(&evidence)?;
    let file = run::evidence_file(&evidence.case, evidence.gpus);
    let devices = evidence.parts.iter().flat_map(|part| part.devices.clone());
    let run = Run {
        schema: run::SCHEMA,
        run: name.into(),
        source: SourceTree { revision: "unknown".into(), dirty: true }.into(),
        executable_sha256: digest::sha256_hex(b"executable"),
        command: vec![].into(),
        started: "2026-01-01T00:00:00Z".into(),
        ended: "2026-01-01T00:01:00Z".into(),
        wall_s: 60.0,
        tier: evidence.tier,
        board: "board".into(),
        devices: devices.collect::<Vec<_>>().into(),
        versions: BTreeMap::new().into(),
        shared: false,
        whole: true,
        interrupted: false,
        recovered: None,
        cases: vec![CaseEntry {
            case: evidence.case.as_str().into(),
            file: file.as_str().into(),
            sha256: Sha256::of(text.as_bytes()),
            outcome: "completed".into(),
        }],
    };
    let printed = format!("checklists/evidence/{}/{name}", run.board);
    let folder = root.join(&printed);
    files::write(&folder.join(file), text.as_bytes())?;
    let sha256 = Run::digest_of(&run.line()?);
    Ok(FinishedRun { run, sha256, folder, printed })
}
