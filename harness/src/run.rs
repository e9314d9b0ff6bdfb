//! A run: its manifest, its folder, and the recorded runs of the repository.

mod check;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{self, Sha256};
use crate::evidence::{Device, Outcome, Tier, unique};
use crate::shared::Shared;
use crate::word::Word;

pub(crate) use check::{is_plain, outcome, time, word};

/// The schema of the manifest that this build writes.
pub const SCHEMA: u32 = 1;

/// A manifest may not be larger: thousands of cases fit.
pub const MAX_BYTES: usize = 1 << 20;

/// The manifest of one run: `run.json`, one line, whose SHA-256 is the run's digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Id: UTC start and eight hex digits, for example `20261121T031500Z-1a2b3c4d`.
    pub run: String,
    /// Source that the executable was built from.
    pub source: Shared<SourceTree>,
    /// SHA-256 of the executable.
    pub executable_sha256: String,
    /// Arguments, without any path.
    pub command: Shared<Vec<String>>,
    /// UTC, RFC 3339.
    pub started: String,
    /// UTC, RFC 3339.
    pub ended: String,
    /// Wall time by a monotonic clock.
    pub wall_s: f64,
    /// Tier.
    pub tier: Tier,
    /// Name of the board, where a golden file names it; else its PCI device id.
    pub board: String,
    /// The GPUs it was given.
    pub devices: Shared<Vec<Device>>,
    /// Versions of the stack, by name.
    #[serde(deserialize_with = "versions")]
    pub versions: Shared<BTreeMap<String, String>>,
    /// Other processes used the GPUs.
    pub shared: bool,
    /// Every case of the tier was selected.
    pub whole: bool,
    /// It was interrupted.
    pub interrupted: bool,
    /// Why the manifest was written after the run, from its evidence alone ([`crate::recover`]); none where the
    /// run wrote it as it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// Every case with its evidence.
    pub cases: Vec<CaseEntry>,
}

/// The source of an executable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceTree {
    /// Git revision, or `unknown`.
    pub revision: String,
    /// Something differed from that revision when it was built.
    pub dirty: bool,
}

/// A case of a run. Thousands of them are in memory at a time: each takes three pointers and a digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Listed")]
pub struct CaseEntry {
    /// Case id.
    pub case: Word,
    /// Name of its evidence file in the run's folder.
    pub file: Word,
    /// SHA-256 of that file.
    pub sha256: Sha256,
    /// In a word: completed, not-run, not-applicable, failed.
    pub outcome: Word,
}

impl CaseEntry {
    /// Whether it was run, on every GPU that it was to run on, be it to a bad end.
    pub fn was_run(&self) -> bool {
        self.outcome != *word(&Outcome::NotRun(String::new())).1
    }
}

/// A [`CaseEntry`] as its line has it.
#[derive(Deserialize)]
#[serde(rename = "CaseEntry", deny_unknown_fields)]
struct Listed {
    case: Word,
    file: Word,
    sha256: String,
    outcome: Word,
}

impl TryFrom<Listed> for CaseEntry {
    type Error = String;

    fn try_from(listed: Listed) -> Result<CaseEntry, String> {
        let Listed { case, file, sha256, outcome } = listed;
        let sha256 = sha256.parse().map_err(|problem| format!("{case}: {problem}"))?;
        Ok(CaseEntry { case, file, sha256, outcome })
    }
}

fn versions<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Shared<BTreeMap<String, String>>, D::Error> {
    unique(from).map(Shared::from)
}

impl Run {
    /// The one line whose digest names the run.
    pub fn line(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|e| e.to_string())
    }

    /// Why no golden is made from it, behind its name; none of a run from which one may be.
    pub fn unfit(&self) -> Option<&'static str> {
        if self.shared || self.interrupted || !self.whole {
            return Some("was shared, interrupted or partial");
        }
        self.recovered.is_some().then_some("has a manifest that was written after it")
    }

    /// Digest of a manifest line.
    pub fn digest_of(line: &str) -> String {
        digest::sha256_hex(line.as_bytes())
    }
}

/// Reads a manifest line; a mistake is one error.
pub fn parse(line: &str) -> Result<Run, String> {
    if line.len() > MAX_BYTES {
        return Err(format!("{} bytes of a manifest exceed {MAX_BYTES}", line.len()));
    }
    let mut run: Run = serde_json::from_str(line).map_err(|e| e.to_string())?;
    // It is kept as long as its run: what the list grew ahead goes.
    run.cases.shrink_to_fit();
    if run.schema != SCHEMA {
        return Err(format!("schema {} is not {SCHEMA}", run.schema));
    }
    run.check()?;
    Ok(run)
}

/// File name of a case's evidence: `bandwidth-stream-n4.json`.
pub fn evidence_file(case: &str, gpus: u32) -> String {
    format!("{}-n{gpus}.json", case.replace("::", "-"))
}
