//! Where a manifest and the evidence that it lists contradict each other although each of them reads well:
//! names, versions, one GPU in two cases at once, energies. What contradicts itself or its own lines is
//! refused by the readers ([`Run::check`], [`Run::holds`]). A digest proves none of it to who made the digest.

use std::collections::BTreeMap;

use crate::evidence::{Evidence, Part, Telemetry};
use crate::report::number;
use crate::run::{CaseEntry, Run, time};

/// Times are written in whole seconds, so that two of them are known to a second.
const SECOND: f64 = 1.0;

/// A run's evidence held against its manifest, file by file.
pub(super) struct Timeline<'a> {
    run: &'a Run,
    versions: BTreeMap<String, String>,
    /// What each GPU did: start, end, case.
    spans: BTreeMap<u32, Vec<(f64, f64, &'a str)>>,
    found: Vec<String>,
    read: usize,
}

impl<'a> Timeline<'a> {
    /// Nothing is read yet.
    pub fn of(run: &'a Run) -> Timeline<'a> {
        let (versions, spans) = (BTreeMap::new(), BTreeMap::new());
        Timeline { run, versions, spans, found: Vec::new(), read: 0 }
    }

    /// Takes the evidence of a case.
    pub fn add(&mut self, entry: &'a CaseEntry, evidence: &Evidence) {
        self.read += 1;
        for part in &evidence.parts {
            for telemetry in &part.telemetry {
                let say = |what: String| self.found.push(format!("{}: {what}", entry.file));
                energy(part, telemetry, say);
            }
            self.versions.extend(part.versions.clone());
            let Ok(start) = time(&part.started) else { continue };
            for device in &part.devices {
                let spans = self.spans.entry(device.gpu).or_default();
                spans.push((start, start + part.wall_s, &*entry.case));
            }
        }
    }

    /// What does not fit, each line with its file; `manifest` is the manifest's.
    pub fn end(mut self, manifest: &str) -> Vec<String> {
        let run = self.run;
        let mut say = |what: String| self.found.push(format!("{manifest}: {what}"));
        let stamp: String = run.started.chars().filter(|c| !"-:".contains(*c)).collect();
        if !run.run.starts_with(&format!("{stamp}-")) {
            say(format!("run {} is not named after its start {}", run.run, run.started));
        }
        // What an unreadable file says of versions is not known.
        if self.read == run.cases.len() && self.versions != *run.versions {
            for name in self.versions.keys().chain(run.versions.keys()) {
                let (is, said) = (self.versions.get(name), run.versions.get(name));
                if is != said {
                    let word = |version: Option<&String>| version.cloned().unwrap_or("none".into());
                    let (is, said) = (word(is), word(said));
                    say(format!("version of {name} is {said}, its evidence says {is}"));
                }
            }
        }
        self.overlaps();
        self.found.dedup();
        self.found
    }

    /// A GPU works through its cases one after the other.
    fn overlaps(&mut self) {
        for (gpu, spans) in &mut self.spans {
            spans.sort_by(|a, b| a.0.total_cmp(&b.0));
            for pair in spans.windows(2) {
                let [(_, end, before), (start, _, after)] = pair else { continue };
                if *end > start + SECOND {
                    let over = number(end - start);
                    let line =
                        format!("durations: gpu{gpu} ran {before} for {over} s into {after}");
                    self.found.push(line);
                }
            }
        }
    }
}

/// Samples of power are not in the evidence, only their least, mean and most: an energy cannot be
/// integrated again. It can be held against the most power over the whole time.
fn energy(part: &Part, telemetry: &Telemetry, say: impl FnOnce(String)) {
    // A board that tells no power has zeros there.
    let told = telemetry.energy_j.filter(|_| telemetry.power_w[2] > 0.0);
    let Some(joules) = told else { return };
    let most = telemetry.power_w[2] * part.wall_s;
    let possible = 0.0 <= joules && joules <= most;
    if !possible {
        let (gpu, power, wall) = (telemetry.gpu, number(telemetry.power_w[2]), number(part.wall_s));
        let (joules, most) = (number(joules), number(most));
        say(format!("energy of gpu{gpu} is {joules} J, {power} W over {wall} s are {most} J"));
    }
}
