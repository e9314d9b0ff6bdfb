//! Where verdicts go: JUnit, checklists, the summary, the first and the last line.
//!
//! Invariants:
//! - A report judges nothing: it prints what the judge said, and decides only what fails a run.
//! - Live, recorded and host are counted apart, never in one total.
//! - The same judgements give the same bytes.

use std::collections::BTreeMap;

use crate::detector::{Controls, Score};
use crate::judge::{Judgement, Verdict};

pub mod checklist;
pub mod coverage;
pub mod false_claims;
mod figures;
pub mod junit;
mod lines;
pub mod markers;
pub mod measured;
pub mod norms;
pub mod originals;
#[cfg(test)]
pub(crate) mod specimens;
pub mod summary;
pub mod targets;
mod text;

pub use figures::{account, message, number};
pub use lines::{last_line, opening};
pub(crate) use text::short_line;

/// Where the evidence of a verdict comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Measured on this machine's GPUs, now.
    Live,
    /// Read from committed evidence of another machine or day.
    Recorded,
    /// Measured on this machine, now, without a GPU.
    Host,
}

/// What the report as a whole is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// This machine was measured.
    Live,
    /// Recorded evidence was judged again.
    Recorded,
}

/// A judged claim.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What the judge said.
    pub judgement: Judgement,
    /// Where its evidence comes from.
    pub origin: Origin,
    /// Wall time that it took here; of a recorded one, the time to judge it.
    pub wall_s: f64,
}

/// Everything that a report prints.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// This machine, or recorded evidence.
    pub mode: Mode,
    /// Name of the board, as its golden file is called; empty where there is none.
    pub board: &'a str,
    /// The board as people call it.
    pub title: &'a str,
    /// Day of the evidence, `2026-11-21`.
    pub day: &'a str,
    /// GPUs of the run.
    pub gpus: u32,
    /// Id of the run.
    pub run: &'a str,
    /// Digest of the run's manifest, where the run is finished.
    pub run_sha256: Option<&'a str>,
    /// When this report's run began.
    pub started: jiff::Timestamp,
    /// Versions of the stack, by name.
    pub versions: &'a BTreeMap<String, String>,
    /// Every selected claim, in order of the page.
    pub trials: &'a [Trial],
    /// Stale evidence fails.
    pub gate: bool,
    /// The operator interrupted the run.
    pub interrupted: bool,
    /// How many planted faults were seen as what they are; none before the end of the run.
    pub detector: Option<&'a Score>,
}

impl Report<'_> {
    /// `186 of 186 broken files, 0 false alarms; 1041 of 1041 controls`.
    pub fn detector_words(&self) -> Option<String> {
        Some(format!("{}; {}", self.detector?.words(), self.controls().words()))
    }

    /// Planted faults of the judged claims.
    pub(crate) fn controls(&self) -> Controls {
        Controls::of(self.trials.iter().map(|trial| &trial.judgement))
    }

    /// The detector's score where it does not hold: no verdict of this run can be trusted.
    fn blind(&self) -> Option<&Score> {
        self.detector.filter(|score| !score.holds())
    }

    /// The exit code: as of the trials, but nothing is good where a planted fault was missed.
    pub fn exit_code(&self) -> i32 {
        match exit_code(self.trials, self.gate, self.interrupted) {
            0 | 4 if self.blind().is_some() => 3,
            code => code,
        }
    }
}

/// What JUnit says of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JunitClass {
    /// Nothing inside the test case.
    Passed,
    /// `<failure>`.
    Failure,
    /// `<error>`.
    Error,
    /// `<skipped>`.
    Skipped,
}

/// Every word of a verdict, in the order in which reports list them.
pub const WORDS: [&str; 9] = [
    "verified",
    "corrupt",
    "refuted",
    "regressed",
    "broken",
    "inconclusive",
    "stale",
    "not-run",
    "not-applicable",
];

/// The verdict as reports spell it.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Verified => "verified",
        Verdict::Refuted => "refuted",
        Verdict::Corrupt => "corrupt",
        Verdict::Regressed => "regressed",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Broken => "broken",
        Verdict::Stale => "stale",
        Verdict::NotRun { .. } => "not-run",
        Verdict::NotApplicable => "not-applicable",
    }
}

/// True if the verdict fails its run. What did not run for no reason that the operator, the GPU count
/// or the board explains fails, measured here or recorded elsewhere; so does what the run's time limit left out.
pub fn fails(verdict: Verdict, gate: bool) -> bool {
    match verdict {
        Verdict::Refuted
        | Verdict::Corrupt
        | Verdict::Regressed
        | Verdict::Inconclusive
        | Verdict::Broken => true,
        Verdict::Stale => gate,
        Verdict::NotRun { explained } => !explained,
        Verdict::Verified | Verdict::NotApplicable => false,
    }
}

/// The word of a libtest line: `ok`, `FAILED` or `ignored`.
pub fn libtest_word(verdict: Verdict, gate: bool) -> &'static str {
    if verdict == Verdict::Verified {
        "ok"
    } else if fails(verdict, gate) {
        "FAILED"
    } else {
        "ignored"
    }
}

/// What JUnit says. A claim that did not run is skipped there; the exit code makes it fail.
pub fn junit_class(verdict: Verdict, gate: bool) -> JunitClass {
    match verdict {
        Verdict::Verified => JunitClass::Passed,
        Verdict::Refuted | Verdict::Corrupt | Verdict::Regressed | Verdict::Inconclusive => {
            JunitClass::Failure
        }
        Verdict::Broken => JunitClass::Error,
        Verdict::Stale if gate => JunitClass::Failure,
        Verdict::Stale | Verdict::NotRun { .. } | Verdict::NotApplicable => JunitClass::Skipped,
    }
}

/// The exit code of a run: 0 complete and good; 1 refuted, regressed or corrupt; 3 broken,
/// inconclusive, or stale under the gate; 4 incomplete or nothing judged; 130 interrupted.
/// 1 wins over 3 over 4. (2, usage, is decided before anything runs.)
pub fn exit_code(trials: &[Trial], gate: bool, interrupted: bool) -> i32 {
    if interrupted {
        return 130;
    }
    let codes = trials.iter().filter(|trial| trial.fails(gate)).map(|trial| {
        match trial.judgement.verdict {
            Verdict::Refuted | Verdict::Regressed | Verdict::Corrupt => 1,
            Verdict::NotRun { .. } => 4,
            _ => 3,
        }
    });
    let nothing = nothing_judged(trials).then_some(4);
    codes.chain(nothing).min().unwrap_or(0)
}

/// True if a machine was asked about and no claim of it was judged, or none at all was. Verdicts
/// without the GPU never stand in for the machine's own.
pub(crate) fn nothing_judged(trials: &[Trial]) -> bool {
    let judged = |trial: &&Trial| {
        let verdict = trial.judgement.verdict;
        !matches!(verdict, Verdict::Stale | Verdict::NotRun { .. } | Verdict::NotApplicable)
    };
    let machine = |trial: &&Trial| trial.origin != Origin::Host;
    if trials.iter().any(|trial| machine(&trial)) {
        !trials.iter().filter(machine).any(|trial| judged(&trial))
    } else {
        !trials.iter().any(|trial| judged(&trial))
    }
}

impl Trial {
    /// True if it fails its run.
    pub fn fails(&self, gate: bool) -> bool {
        fails(self.judgement.verdict, gate)
    }

    /// The board that its evidence comes from, or the report's.
    pub(crate) fn board<'a>(&'a self, report: &Report<'a>) -> &'a str {
        match &self.judgement.evidence {
            Some(evidence) if !evidence.board.is_empty() => &evidence.board,
            _ => report.board,
        }
    }
}

impl Origin {
    /// As reports spell it.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Live => "live",
            Origin::Recorded => "recorded",
            Origin::Host => "host",
        }
    }
}

#[cfg(test)]
mod tests;
