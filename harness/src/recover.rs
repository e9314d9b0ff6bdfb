//! A run whose process ended before it could write its manifest. What it set out to do lies in its folder from its
//! start; with the evidence that it left, the manifest is written afterwards, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::evidence::{self, Evidence, How, Outcome};
use crate::files;
use crate::recorded;
use crate::run::{self, CaseEntry, Run};
use crate::word::Word;

/// What a run set out to do lies under this name in its folder. It goes as the manifest comes.
pub const BEGUN: &str = "begun.json";

/// What a run sets out to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Begun {
    /// The manifest as far as it is known at the start: of no case.
    pub manifest: Run,
    /// The cases that it is going to run.
    pub planned: Vec<Planned>,
}

/// A case that a run is going to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Planned {
    /// Case id.
    pub case: Word,
    /// Name of the evidence file that it is going to leave.
    pub file: Word,
}

/// A run that goes on, or is being recovered: nobody else recovers it until this is dropped, or its process ended.
#[derive(Debug)]
#[must_use]
pub struct Going {
    locked: File,
}

impl Going {
    /// Locks the [`BEGUN`] of a run. Where a file system knows no locks, nobody is kept from recovering a run that
    /// goes on.
    fn lock(path: &Path) -> Result<Going, String> {
        let locked = File::open(path).map_err(|e| e.to_string())?;
        match locked.try_lock() {
            Err(TryLockError::WouldBlock) => Err("the run goes on".into()),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Going { locked }),
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that is forked and has not called exec yet.
        let _ = self.locked.unlock();
    }
}

impl Begun {
    /// Writes [`BEGUN`] into the folder of a run that begins.
    pub fn write(&self, folder: &Path) -> Result<Going, String> {
        let path = folder.join(BEGUN);
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        files::write(&path, format!("{text}\n").as_bytes())?;
        Going::lock(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads and locks [`BEGUN`] of a run whose process ended.
    fn read(path: &Path) -> Result<(Begun, Going), String> {
        own_file(path)?;
        let locked = Going::lock(path)?;
        let text = files::read_at_most(path, run::MAX_BYTES)?;
        let begun: Begun = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        begun.check()?;
        Ok((begun, locked))
    }

    /// A plan names each case and each file once, and no file of another folder.
    fn check(&self) -> Result<(), String> {
        if self.manifest.schema != run::SCHEMA {
            return Err(format!("schema {} is not {}", self.manifest.schema, run::SCHEMA));
        }
        self.manifest.check()?;
        let (mut cases, mut names) = (BTreeSet::new(), BTreeSet::new());
        for Planned { case, file } in &self.planned {
            if !run::is_plain(file) {
                return Err(format!("{case}: {file:?} is no name of a file"));
            }
            if !(cases.insert(case) && names.insert(file)) {
                return Err(format!("case {case} or its file {file} is planned twice"));
            }
        }
        Ok(())
    }
}

/// The manifest is there, so that [`BEGUN`] goes.
pub(crate) fn ended(folder: &Path) {
    let _ = fs::remove_file(folder.join(BEGUN));
}

/// Versions of all parts, by name.
pub(crate) fn versions<'a>(
    evidence: impl Iterator<Item = &'a Evidence>,
) -> BTreeMap<String, String> {
    evidence.flat_map(|evidence| &evidence.parts).flat_map(|part| part.versions.clone()).collect()
}

/// Writes the manifest of a run that could not: its cases are those that left evidence, its end is that of the
/// last part. It is interrupted, and partial, unless every planned case is there and none was interrupted. Gives it
/// with its digest.
///
/// Errors: no reason; a run that is finished, that goes on, or that never began; a plan that contradicts itself; no
/// evidence, a file beside it that was not planned, a link in its place; evidence that is none, of another run, or
/// of another device or time than the run's.
pub fn recover(folder: &Path, because: &str) -> Result<(Run, String), String> {
    let because = because.trim();
    if because.is_empty() {
        return Err("--because says nothing".into());
    }
    let (manifest, begun) = (folder.join(recorded::MANIFEST), folder.join(BEGUN));
    if lies_there(&manifest)? {
        return Err(format!("{}: the run is finished", manifest.display()));
    }
    let named = |problem: String| format!("{}: {problem}", begun.display());
    let (Begun { manifest: mut run, planned }, _locked) = Begun::read(&begun).map_err(named)?;
    let found = left(&folder.join(recorded::LEFT), &planned)?;
    run.wall_s = lasted(&run, &found)?;
    run.ended = after(&run.started, run.wall_s).map_err(named)?;
    run.versions = versions(found.iter().map(|(_, evidence)| evidence)).into();
    run.interrupted =
        found.len() < planned.len() || found.iter().any(|(_, evidence)| interrupted(evidence));
    run.whole &= !run.interrupted;
    run.recovered = Some(because.to_owned());
    run.cases = found.iter().map(|(entry, _)| entry.clone()).collect();
    for (entry, evidence) in &found {
        run.holds(entry, evidence).map_err(|problem| format!("{}: {problem}", entry.file))?;
    }
    let line = run.line()?;
    // What no reader takes is not written.
    let run = run::parse(&line).map_err(named)?;
    files::write(&manifest, format!("{line}\n").as_bytes())?;
    ended(folder);
    Ok((run, Run::digest_of(&line)))
}

/// Planned cases with the evidence that they left in this folder, in their order.
fn left(folder: &Path, planned: &[Planned]) -> Result<Vec<(CaseEntry, Evidence)>, String> {
    if fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink()) {
        return Err(format!("{} is a link", folder.display()));
    }
    let mut there = BTreeSet::new();
    for path in recorded::entries_of(folder)? {
        let named = |problem: String| format!("{} {problem}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !planned.iter().any(|one| one.file == *name) {
            return Err(named("lies there, and the run did not plan it".into()));
        }
        own_file(&path).map_err(named)?;
        there.insert(name.into_owned());
    }
    if there.is_empty() {
        return Err(format!("{} holds no evidence: nothing is recovered", folder.display()));
    }
    let found = planned.iter().filter(|one| there.contains(&*one.file));
    found.map(|one| entry(&folder.join(&one.file), one)).collect()
}

/// The manifest's entry of a planned case, with its evidence.
fn entry(path: &Path, planned: &Planned) -> Result<(CaseEntry, Evidence), String> {
    let named = |problem: String| format!("{}: {problem}", path.display());
    let text = files::read_at_most(path, evidence::MAX_BYTES).map_err(named)?;
    let evidence = evidence::parse(&text).map_err(named)?;
    let Planned { case, file } = planned.clone();
    let outcome = run::outcome(&evidence.parts).into();
    Ok((CaseEntry { case, file, sha256: Sha256::of(text.as_bytes()), outcome }, evidence))
}

/// Whether somebody ended the case. A run that is interrupted leaves evidence of all that it did not do.
fn interrupted(evidence: &Evidence) -> bool {
    let ended = |outcome: &Outcome| matches!(outcome, Outcome::Failed(failure) if failure.how == How::Interrupted);
    evidence.parts.iter().any(|part| ended(&part.outcome))
}

/// Whether anything lies in a place, a link that leads nowhere too.
fn lies_there(path: &Path) -> Result<bool, String> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Refuses what is no file, and a link to one: what lies elsewhere was not left by the run.
fn own_file(path: &Path) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) if found.is_symlink() => Err("is a link".into()),
        Ok(_) => Err("is no file".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Seconds from the start of a run to the end of its last part, to a millisecond.
fn lasted(run: &Run, found: &[(CaseEntry, Evidence)]) -> Result<f64, String> {
    let begin = run::time(&run.started)?;
    let parts = found.iter().flat_map(|(_, evidence)| &evidence.parts);
    let ends = parts.map(|part| Ok(run::time(&part.started)? + part.wall_s - begin));
    let ends = ends.collect::<Result<Vec<f64>, String>>()?;
    Ok((ends.into_iter().fold(0.0, f64::max) * 1000.0).round() / 1000.0)
}

/// So many seconds behind a time, RFC 3339 and whole seconds. `Err` where no clock shows it.
fn after(started: &str, seconds: f64) -> Result<String, String> {
    let end = || {
        let started: jiff::Timestamp = started.parse()?;
        started.checked_add(jiff::SignedDuration::try_from_secs_f64(seconds)?)
    };
    let end = end().map_err(|e| format!("{seconds} s behind {started}: {e}"))?;
    Ok(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use crate::digest;
    use crate::evidence::Failure;
    use crate::run::SourceTree;
    use crate::selfcheck;

    /// A run's folder with what it set out to do, and the evidence of its first case.
    fn cut_short(planned: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let evidence = selfcheck::healthy();
        lay(folder.path(), &evidence);
        let plan = |case: &&str| Planned {
            case: (*case).into(),
            file: run::evidence_file(case, evidence.gpus).into(),
        };
        let devices = evidence.parts.iter().flat_map(|part| part.devices.clone());
        let manifest = Run {
            schema: run::SCHEMA,
            run: evidence.run.clone(),
            source: SourceTree { revision: "unknown".into(), dirty: true }.into(),
            executable_sha256: digest::sha256_hex(b"executable"),
            command: vec![].into(),
            started: evidence.parts[0].started.clone(),
            ended: evidence.parts[0].started.clone(),
            wall_s: 0.0,
            tier: evidence.tier,
            board: "board".into(),
            devices: devices.collect::<Vec<_>>().into(),
            versions: BTreeMap::new().into(),
            shared: false,
            whole: true,
            interrupted: true,
            recovered: None,
            cases: vec![],
        };
        let planned = std::iter::once(&&*evidence.case).chain(planned).map(plan).collect();
        drop(Begun { manifest, planned }.write(folder.path()).expect("begun"));
        folder
    }

    /// Writes evidence into its place, which it returns.
    fn lay(folder: &Path, evidence: &Evidence) -> PathBuf {
        let path = place(folder);
        files::write(&path, evidence::render(evidence).expect("text").as_bytes()).expect("written");
        path
    }

    /// Where the first case's evidence lies.
    fn place(folder: &Path) -> PathBuf {
        let evidence = selfcheck::healthy();
        folder.join("evidence").join(run::evidence_file(&evidence.case, evidence.gpus))
    }

    /// What was changed in a folder is refused in words that hold `expect`, and no manifest is written.
    #[track_caller]
    fn check(change: impl FnOnce(&Path), expect: &str) {
        let folder = cut_short(&["suite::never-ran"]);
        change(folder.path());
        let refused = recover(folder.path(), "killed").expect_err("refused");
        assert!(refused.contains(expect), "{expect:?} is not in {refused}");
        assert!(!folder.path().join(recorded::MANIFEST).is_file(), "{refused}");
    }

    /// A change of the plan.
    fn plan(change: impl FnOnce(&mut Begun)) -> impl FnOnce(&Path) {
        |folder| {
            let path = folder.join(BEGUN);
            let (mut begun, _) = Begun::read(&path).expect("begun");
            change(&mut begun);
            drop(begun.write(folder).expect("written"));
        }
    }

    /// A change of the first case's evidence.
    fn evidence(change: impl FnOnce(&mut Evidence)) -> impl FnOnce(&Path) {
        |folder| {
            let mut evidence = selfcheck::healthy();
            change(&mut evidence);
            lay(folder, &evidence);
        }
    }

    #[test]
    fn what_left_all_its_evidence_is_whole_and_says_that_it_was_recovered() {
        let folder = cut_short(&[]);
        let (run, sha256) = recover(folder.path(), "the node lost power").expect("recovered");
        assert!(run.whole && !run.interrupted);
        assert_eq!(run.recovered.as_deref(), Some("the node lost power"));
        let opened = recorded::open(folder.path()).expect("a finished run");
        assert_eq!((&opened.sha256, &opened.run), (&sha256, &run));
        assert_eq!(recorded::unlisted(&opened), Ok(()));
        assert!(!folder.path().join(BEGUN).exists());
        let again = recover(folder.path(), "once more").expect_err("it is finished");
        assert!(again.contains("the run is finished"), "{again}");
    }

    #[test]
    fn a_case_without_evidence_leaves_an_interrupted_run() {
        let folder = cut_short(&["suite::never-ran"]);
        let (run, _) = recover(folder.path(), "killed").expect("recovered");
        assert!(run.interrupted && !run.whole);
        assert_eq!(run.cases.len(), 1);
    }

    #[test]
    fn a_case_that_somebody_interrupted_leaves_an_interrupted_run() {
        let folder = cut_short(&[]);
        evidence(|evidence| {
            evidence.parts[1].outcome = Outcome::Failed(Failure {
                how: How::Interrupted,
                detail: "interrupted before it began".into(),
                repro: String::new(),
            });
        })(folder.path());
        let (run, _) = recover(folder.path(), "killed after Ctrl-C").expect("recovered");
        assert!(run.interrupted && !run.whole);
        assert_eq!(run.cases[0].outcome, "failed");
    }

    #[test]
    fn nothing_is_recovered_without_a_reason_or_while_the_run_goes_on() {
        let folder = cut_short(&[]);
        let silent = recover(folder.path(), "  ").expect_err("no reason");
        assert!(silent.contains("--because"), "{silent}");
        let (begun, locked) = Begun::read(&folder.path().join(BEGUN)).expect("begun");
        drop(locked);
        let going = begun.write(folder.path()).expect("written");
        let refused = recover(folder.path(), "killed").expect_err("it goes on");
        assert!(refused.ends_with("begun.json: the run goes on"), "{refused}");
        drop(going);
        recover(folder.path(), "killed").expect("recovered");
    }

    #[test]
    fn a_plan_that_is_none_is_refused() {
        check(|folder| fs::remove_file(folder.join(BEGUN)).expect("removed"), "No such file");
        check(|folder| files::write(&folder.join(BEGUN), b"{}").expect("written"), "missing field");
        let large = |folder: &Path| {
            files::write(&folder.join(BEGUN), &vec![b' '; run::MAX_BYTES + 1]).expect("written");
        };
        check(large, "begun.json: more than 1048576 bytes");
        let linked = |folder: &Path| {
            fs::rename(folder.join(BEGUN), folder.join("elsewhere")).expect("moved");
            symlink("elsewhere", folder.join(BEGUN)).expect("linked");
        };
        check(linked, "begun.json: is a link");
        check(plan(|begun| begun.manifest.schema = 2), "schema 2 is not 1");
        check(plan(|begun| begun.manifest.wall_s = -1.0), "is no duration");
        let twice = "case suite::never-ran or its file suite-never-ran-n2.json is planned twice";
        check(plan(|begun| begun.planned.push(begun.planned[1].clone())), twice);
        let one_file = |begun: &mut Begun| begun.planned[1].file = begun.planned[0].file.clone();
        check(plan(one_file), "is planned twice");
        check(plan(|begun| begun.planned[1].file = "../a.json".into()), "is no name of a file");
    }

    #[test]
    fn evidence_that_the_run_did_not_leave_is_refused() {
        let beside = |name: &'static str| {
            move |folder: &Path| {
                files::write(&folder.join("evidence").join(name), b"{}").expect("written");
            }
        };
        check(beside("b.json"), "b.json lies there, and the run did not plan it");
        check(beside("a.json.17.tmp"), "a.json.17.tmp lies there, and the run did not plan it");
        check(|folder| fs::remove_file(place(folder)).expect("removed"), "holds no evidence");
        check(
            |folder| fs::remove_dir_all(folder.join("evidence")).expect("removed"),
            "no evidence",
        );
        let moved = |from: PathBuf, folder: &Path| {
            fs::rename(&from, folder.join("elsewhere")).expect("moved");
            symlink(folder.join("elsewhere"), from).expect("linked");
        };
        check(|folder| moved(place(folder), folder), "-n2.json is a link");
        check(|folder| moved(folder.join("evidence"), folder), "evidence is a link");
        let nowhere = |folder: &Path| {
            symlink("nowhere", folder.join("evidence/suite-never-ran-n2.json")).expect("linked");
        };
        check(nowhere, "suite-never-ran-n2.json is a link");
        let folder = |folder: &Path| {
            fs::create_dir(folder.join("evidence/suite-never-ran-n2.json")).expect("made");
        };
        check(folder, "suite-never-ran-n2.json is no file");
        // A manifest that leads nowhere is not written through.
        check(|folder| symlink("nowhere", folder.join("run.json")).expect("linked"), "is finished");
    }

    #[test]
    fn evidence_that_is_not_the_runs_is_refused() {
        check(
            |folder| files::write(&place(folder), b"{").expect("written"),
            "-n2.json: not evidence: EOF",
        );
        let large = vec![b' '; evidence::MAX_BYTES + 1];
        check(|folder| files::write(&place(folder), &large).expect("written"), "more than 131072");
        check(evidence(|evidence| evidence.run = "another".into()), "belongs to run another");
        let stranger = |evidence: &mut Evidence| evidence.parts[0].devices[0].memory_bytes = 2;
        check(evidence(stranger), "that its run does not list");
        let early = |evidence: &mut Evidence| {
            evidence.parts[0].started = "2020-01-01T00:00:00Z".into();
        };
        check(evidence(early), "started 2020-01-01T00:00:00Z, its run ");
        // No clock shows its end.
        for endless in [1e14, 1e300] {
            check(evidence(|evidence| evidence.parts[0].wall_s = endless), " s behind ");
        }
    }
}
