//! What holds of any manifest, and whether evidence is what its manifest lists.

use jiff::Timestamp;

use super::{CaseEntry, Run};
use crate::digest;
use crate::evidence::{Evidence, Outcome, Part};

/// Seconds by which two clocks may disagree: times are whole seconds, and a clock is set now and then.
const SLACK_S: f64 = 2.0;

/// Words of [`CaseEntry::outcome`].
const OUTCOMES: [&str; 4] = ["completed", "not-run", "not-applicable", "failed"];

impl Run {
    /// Checked after reading: a manifest that contradicts itself is none.
    pub fn check(&self) -> Result<(), String> {
        // Both are folders of the repository.
        if !is_plain(&self.run) || !(is_plain(&self.board) || self.board.is_empty()) {
            return Err(format!("run {:?} of board {:?} is no name", self.run, self.board));
        }
        if !(self.wall_s.is_finite() && self.wall_s >= 0.0) {
            return Err(format!("wall_s = {} is no duration", self.wall_s));
        }
        if !digest::is_of_something(&self.executable_sha256) {
            return Err(format!("the executable has no digest: {:?}", self.executable_sha256));
        }
        if self.recovered.as_ref().is_some_and(|why| why.trim().is_empty()) {
            return Err(format!("run {} is recovered, and no word says why", self.run));
        }
        let lasted = time(&self.ended)? - time(&self.started)?;
        if lasted < 0.0 {
            return Err(format!("ended {} before it started {}", self.ended, self.started));
        }
        if (lasted - self.wall_s).abs() > SLACK_S {
            let (started, ended) = (&self.started, &self.ended);
            return Err(format!("lasted {} s, from {started} to {ended}", self.wall_s));
        }
        self.check_devices()?;
        self.check_cases()
    }

    fn check_devices(&self) -> Result<(), String> {
        for (index, device) in self.devices.iter().enumerate() {
            for other in &self.devices[..index] {
                if other.gpu == device.gpu {
                    return Err(format!("gpu{} stands twice", device.gpu));
                }
                if other.uuid_sha256 == device.uuid_sha256 && !device.uuid_sha256.is_empty() {
                    return Err(format!("gpu{} and gpu{} are one device", other.gpu, device.gpu));
                }
                if other.pci_device_id != device.pci_device_id {
                    let (this, that) = (&device.pci_device_id, &other.pci_device_id);
                    return Err(format!("gpu{} is a {this} among {that}", device.gpu));
                }
            }
        }
        Ok(())
    }

    fn check_cases(&self) -> Result<(), String> {
        for (index, entry) in self.cases.iter().enumerate() {
            let CaseEntry { case, file, outcome, .. } = entry;
            let before = &self.cases[..index];
            if before.iter().any(|other| other.case == *case || other.file == *file) {
                return Err(format!("case {case} or its file {file} stands twice"));
            }
            if !is_plain(file) {
                return Err(format!("{case}: {file:?} is no name of a file"));
            }
            if !OUTCOMES.contains(&&**outcome) {
                return Err(format!("{case}: {outcome:?} is no outcome"));
            }
        }
        Ok(())
    }

    /// Whether evidence is what the manifest lists under a case: of that case, run, tier and outcome, on
    /// the run's own GPUs, and measured while it ran. A digest says only that nobody changed the file since.
    pub fn holds(&self, entry: &CaseEntry, evidence: &Evidence) -> Result<(), String> {
        if evidence.run != self.run {
            return Err(format!("belongs to run {}", evidence.run));
        }
        if evidence.case != entry.case {
            return Err(format!("is of {}, its run lists {}", evidence.case, entry.case));
        }
        // Nobody shares what needs no GPU.
        let host = evidence.gpus == 0 && evidence.pci_device_id.is_empty();
        if evidence.tier != self.tier || (evidence.shared != self.shared && !host) {
            let (tier, shared) = (evidence.tier, evidence.shared);
            return Err(format!("says {tier:?}, shared {shared}; its run does not"));
        }
        let given = self.devices.len() as u32;
        if evidence.gpus != given && !host {
            return Err(format!("is of {} GPUs, its run had {given}", evidence.gpus));
        }
        let words = evidence.parts.iter().map(|part| word(&part.outcome));
        let worst = words.max().map_or("", |(_, word)| word);
        if worst != entry.outcome {
            return Err(format!("is {worst}, its run lists {}", entry.outcome));
        }
        evidence.parts.iter().try_for_each(|part| self.ran(part))
    }

    /// A part was measured on GPUs of the run, between its start and its end.
    fn ran(&self, part: &Part) -> Result<(), String> {
        if let Some(strange) = part.devices.iter().find(|device| !self.devices.contains(device)) {
            let (gpu, uuid) = (strange.gpu, digest::short(&strange.uuid_sha256));
            return Err(format!("was measured on a gpu{gpu} ({uuid}) that its run does not list"));
        }
        let (started, begun) = (time(&part.started)?, time(&self.started)?);
        if started < begun - SLACK_S {
            return Err(format!("started {}, its run {}", part.started, self.started));
        }
        if started + part.wall_s > time(&self.ended)? + SLACK_S {
            let wall_s = part.wall_s;
            return Err(format!(
                "lasted {wall_s} s from {}, its run ended {}",
                part.started, self.ended
            ));
        }
        Ok(())
    }
}

/// How a case ended as manifests spell it: the worst of its parts.
pub(crate) fn outcome(parts: &[Part]) -> &'static str {
    parts.iter().map(|part| word(&part.outcome)).max().map_or("failed", |(_, word)| word)
}

/// How a part ended as manifests spell it, with a rank: the worst of its parts is a case's.
pub(crate) fn word(outcome: &Outcome) -> (u8, &'static str) {
    match outcome {
        Outcome::Completed => (0, "completed"),
        Outcome::NotApplicable(_) => (1, "not-applicable"),
        Outcome::NotRun(_) => (2, "not-run"),
        Outcome::Failed(_) => (3, "failed"),
    }
}

/// Seconds since the epoch.
pub(crate) fn time(text: &str) -> Result<f64, String> {
    let time: Timestamp = text.parse().map_err(|_| format!("{text:?} is no time"))?;
    Ok(time.as_second() as f64)
}

/// A name that stays in its folder.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}
