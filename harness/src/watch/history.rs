//! The history of a watch: JSON lines, one a round, only appended to.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::WatchError;

/// The schema of a line.
pub(super) const SCHEMA: u32 = 1;

/// Its name in the archive's folder.
pub const FILE: &str = "history.jsonl";

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The schema, 1.
    pub schema: u32,
    /// UTC, RFC 3339.
    pub started: String,
    /// Id of the run; none where none was left.
    pub run: Option<String>,
    /// Digest of its manifest.
    pub run_sha256: Option<String>,
    /// Its archive, beside the history.
    pub archive: Option<String>,
    /// Name of the board, empty where there was no run.
    pub board: String,
    /// GPUs of the run.
    pub gpus: u32,
    /// Versions of the stack, by name.
    pub versions: BTreeMap<String, String>,
    /// Exit code of the run.
    pub exit_code: i32,
    /// Every claim that the run has evidence of.
    pub figures: Vec<Figure>,
    /// What broke, a line each.
    pub alerts: Vec<String>,
}

/// A claim of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Its id.
    pub claim: String,
    /// Revision of its case: figures of two revisions are not one series.
    pub revision: u32,
    /// What the judge said, in a word.
    pub verdict: String,
    /// Why, where it fails; else empty.
    pub why: String,
    /// The deciding figure, in the claim's unit.
    pub value: Option<f64>,
    /// The GPU or pair that it was taken on.
    pub gpus: Vec<u32>,
}

impl Entry {
    /// A round that left no run.
    pub(super) fn without_run(now: jiff::Timestamp) -> Entry {
        Entry {
            schema: SCHEMA,
            started: now.to_string(),
            run: None,
            run_sha256: None,
            archive: None,
            board: String::new(),
            gpus: 0,
            versions: BTreeMap::new(),
            exit_code: 0,
            figures: Vec::new(),
            alerts: Vec::new(),
        }
    }

    fn figure(&self, claim: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.claim == claim)
    }
}

/// All rounds, oldest first; none where there is no history yet.
pub(super) fn load(archive: &Path) -> Result<Vec<Entry>, WatchError> {
    let path = archive.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(WatchError::File(format!("{}: {error}", path.display()))),
    };
    let parse = |(index, line): (usize, &str)| {
        let wrong = |what: String| WatchError::History {
            file: path.display().to_string(),
            line: index + 1,
            what,
        };
        let entry: Entry = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        match entry.schema == SCHEMA {
            true => Ok(entry),
            false => Err(wrong(format!("schema {} is not {SCHEMA}", entry.schema))),
        }
    };
    text.lines().enumerate().map(parse).collect()
}

/// Appends a round.
pub(super) fn append(archive: &Path, entry: &Entry) -> Result<(), WatchError> {
    let path = archive.join(FILE);
    let failed = |error: String| WatchError::File(format!("{}: {error}", path.display()));
    let line = serde_json::to_string(entry).map_err(|error| failed(error.to_string()))? + "\n";
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|error| failed(error.to_string()))?;
    // One write, so that a reader sees a whole line or none.
    file.write_all(line.as_bytes()).map_err(|error| failed(error.to_string()))
}

/// A claim's figures over the rounds of the newest one's board, GPU count and procedure, oldest
/// first. Nothing where the newest has none: a trend is about what is measured now. What is no
/// number one can trust (wrong bits, a broken or shared run) is no part of it.
pub(super) fn values(past: &[Entry], newest: &Entry, claim: &str) -> Vec<f64> {
    let counts = |figure: &Figure| {
        matches!(figure.verdict.as_str(), "verified" | "regressed" | "refuted" | "not-run")
    };
    let Some(now) = newest.figure(claim).filter(|figure| counts(figure) && figure.value.is_some())
    else {
        return Vec::new();
    };
    let alike = past.iter().filter(|e| e.board == newest.board && e.gpus == newest.gpus);
    let figures = alike.chain([newest]).filter_map(|entry| entry.figure(claim));
    let same = figures.filter(|figure| figure.revision == now.revision && counts(figure));
    same.filter_map(|figure| figure.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(board: &str, gpus: u32, revision: u32, verdict: &str, value: f64) -> Entry {
        let figure = Figure {
            claim: "a::b".to_owned(),
            revision,
            verdict: verdict.to_owned(),
            why: String::new(),
            value: Some(value),
            gpus: vec![0],
        };
        let empty = Entry::without_run(jiff::Timestamp::UNIX_EPOCH);
        Entry { board: board.to_owned(), gpus, figures: vec![figure], ..empty }
    }

    #[test]
    fn a_series_is_of_one_board_count_and_procedure() {
        let past = [
            entry("x", 8, 1, "verified", 1.0),
            entry("y", 8, 1, "verified", 2.0),
            entry("x", 4, 1, "verified", 3.0),
            entry("x", 8, 2, "verified", 4.0),
            entry("x", 8, 1, "broken", 5.0),
            entry("x", 8, 1, "regressed", 6.0),
            Entry::without_run(jiff::Timestamp::UNIX_EPOCH),
        ];
        let newest = entry("x", 8, 1, "verified", 7.0);
        assert_eq!(values(&past, &newest, "a::b"), [1.0, 6.0, 7.0]);
        assert_eq!(values(&past, &newest, "a::c"), Vec::<f64>::new());
        let broken = entry("x", 8, 1, "broken", 7.0);
        assert_eq!(values(&past, &broken, "a::b"), Vec::<f64>::new());
    }

    #[test]
    fn lines_are_appended_and_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(load(folder.path()).expect("loaded"), []);
        let (one, two) = (entry("x", 8, 1, "verified", 0.1), entry("x", 8, 1, "verified", 1e-300));
        append(folder.path(), &one).expect("appended");
        let before = std::fs::read(folder.path().join(FILE)).expect("read");
        append(folder.path(), &two).expect("appended");
        let after = std::fs::read(folder.path().join(FILE)).expect("read");
        assert!(after.starts_with(&before));
        assert_eq!(load(folder.path()).expect("loaded"), [one, two]);
        std::fs::write(folder.path().join(FILE), b"{}\n").expect("written");
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("history.jsonl:1: missing field"), "{error}");
    }
}
