//! A run whose process ended before it could write its manifest. What it set out to do lies in its folder from its
//! start; with the evidence that it left, the manifest is written afterwards, and says so.

use std::collections::BTreeMap;
use std::path::Path;

use crate::digest;
use crate::evidence::{self, Evidence};
use crate::files;
use crate::recorded;
use crate::run::{self, CaseEntry, Run};

/// What a run set out to do: a manifest whose cases are planned. It goes as the manifest comes.
pub const BEGUN: &str = "begun.json";

/// Writes [`BEGUN`] into the folder of a run.
pub(crate) fn begin(folder: &Path, run: &Run) -> Result<(), String> {
    files::write(&folder.join(BEGUN), format!("{}\n", run.line()?).as_bytes())
}

/// The manifest is there, so that [`BEGUN`] goes.
pub(crate) fn ended(folder: &Path) {
    let _ = std::fs::remove_file(folder.join(BEGUN));
}

/// Versions of all parts, by name.
pub(crate) fn versions<'a>(
    evidence: impl Iterator<Item = &'a Evidence>,
) -> BTreeMap<String, String> {
    evidence.flat_map(|evidence| &evidence.parts).flat_map(|part| part.versions.clone()).collect()
}

/// Writes the manifest of a run that could not: its cases are those that left evidence, its end is that of the
/// last part. It is interrupted, and partial, unless every planned case is there. Gives it with its digest.
///
/// Errors: no reason; a run that is finished, or that never began; evidence that is none, of another run, or of
/// another device or time than the run's.
pub fn recover(folder: &Path, because: &str) -> Result<(Run, String), String> {
    let because = because.trim();
    if because.is_empty() {
        return Err("--because says nothing".into());
    }
    let (manifest, begun) = (folder.join(recorded::MANIFEST), folder.join(BEGUN));
    if manifest.exists() {
        return Err(format!("{}: the run is finished", manifest.display()));
    }
    let text = std::fs::read_to_string(&begun).map_err(|e| format!("{}: {e}", begun.display()))?;
    let mut run: Run =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", begun.display()))?;
    let planned = std::mem::take(&mut run.cases);
    let mut found = Vec::new();
    for entry in &planned {
        if let Some(one) = left(folder, entry)? {
            found.push(one);
        }
    }
    let begin = run::time(&run.started)?;
    let parts = found.iter().flat_map(|(_, evidence)| &evidence.parts);
    let ends = parts.map(|part| Ok(run::time(&part.started)? + part.wall_s - begin));
    let ends = ends.collect::<Result<Vec<f64>, String>>()?;
    run.wall_s = (ends.into_iter().fold(0.0, f64::max) * 1000.0).round() / 1000.0;
    run.ended = after(&run.started, run.wall_s)?;
    run.versions = versions(found.iter().map(|(_, evidence)| evidence));
    run.interrupted = found.len() < planned.len();
    run.whole &= !run.interrupted;
    run.recovered = Some(because.to_owned());
    run.cases = found.iter().map(|(entry, _)| entry.clone()).collect();
    run.check().map_err(|problem| format!("{}: {problem}", begun.display()))?;
    for (entry, evidence) in &found {
        run.holds(entry, evidence).map_err(|problem| format!("{}: {problem}", entry.file))?;
    }
    let line = run.line()?;
    files::write(&manifest, format!("{line}\n").as_bytes())?;
    ended(folder);
    Ok((run, Run::digest_of(&line)))
}

/// A planned case with the evidence that it left.
fn left(folder: &Path, entry: &CaseEntry) -> Result<Option<(CaseEntry, Evidence)>, String> {
    let path = folder.join("evidence").join(&*entry.file);
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read(&path)?;
    let evidence = evidence::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let words = evidence.parts.iter().map(|part| run::word(&part.outcome));
    let outcome = words.max().map_or("failed", |(_, word)| word);
    let sha256 = digest::sha256_hex(text.as_bytes()).into();
    Ok(Some((CaseEntry { sha256, outcome: outcome.into(), ..entry.clone() }, evidence)))
}

/// So many seconds behind a time, RFC 3339 and whole seconds.
fn after(started: &str, seconds: f64) -> Result<String, String> {
    let started: jiff::Timestamp = started.parse().map_err(|e| format!("{started}: {e}"))?;
    let end = started + jiff::SignedDuration::from_secs_f64(seconds);
    Ok(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::SourceTree;
    use crate::selfcheck;

    /// A run's folder with what it set out to do, and the evidence of its first case.
    fn cut_short(planned: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let evidence = selfcheck::healthy();
        let file = run::evidence_file(&evidence.case, evidence.gpus);
        let text = evidence::render(&evidence).expect("text");
        files::write(&folder.path().join("evidence").join(&file), text.as_bytes())
            .expect("written");
        let entry = |case: &&str| CaseEntry {
            case: (*case).into(),
            file: run::evidence_file(case, evidence.gpus).into(),
            sha256: "".into(),
            outcome: "planned".into(),
        };
        let begun = Run {
            schema: run::SCHEMA,
            run: evidence.run.clone(),
            source: SourceTree { revision: "unknown".into(), dirty: true },
            executable_sha256: digest::sha256_hex(b"executable"),
            command: vec![],
            started: evidence.parts[0].started.clone(),
            ended: evidence.parts[0].started.clone(),
            wall_s: 0.0,
            tier: evidence.tier,
            board: "board".into(),
            devices: evidence.parts.iter().flat_map(|part| part.devices.clone()).collect(),
            versions: BTreeMap::new(),
            shared: false,
            whole: true,
            interrupted: true,
            recovered: None,
            cases: std::iter::once(&&*evidence.case).chain(planned).map(entry).collect(),
        };
        begin(folder.path(), &begun).expect("begun");
        folder
    }

    #[test]
    fn what_left_all_its_evidence_is_whole_and_says_that_it_was_recovered() {
        let folder = cut_short(&[]);
        let (run, sha256) = recover(folder.path(), "the node lost power").expect("recovered");
        assert!(run.whole && !run.interrupted);
        assert_eq!(run.recovered.as_deref(), Some("the node lost power"));
        let opened = recorded::open(folder.path()).expect("a finished run");
        assert_eq!((opened.sha256, &opened.run), (sha256, &run));
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
    fn nothing_is_recovered_without_a_reason_a_beginning_or_sound_evidence() {
        let folder = cut_short(&[]);
        let silent = recover(folder.path(), "  ").expect_err("no reason");
        assert!(silent.contains("--because"), "{silent}");
        let evidence = selfcheck::healthy();
        let file = run::evidence_file(&evidence.case, evidence.gpus);
        let path = folder.path().join("evidence").join(&file);
        let other = Evidence { run: "another".into(), ..evidence };
        let text = evidence::render(&other).expect("text");
        files::write(&path, text.as_bytes()).expect("written");
        let strange = recover(folder.path(), "killed").expect_err("of another run");
        assert!(strange.contains("belongs to run another"), "{strange}");
        files::write(&path, b"{").expect("written");
        assert!(recover(folder.path(), "killed").expect_err("cut").contains(&file));
        std::fs::remove_file(folder.path().join(BEGUN)).expect("removed");
        assert!(recover(folder.path(), "killed").expect_err("never begun").contains(BEGUN));
    }
}
