//! Where a manifest and the evidence that it lists contradict each other, or themselves: durations, times,
//! outcomes, versions, GPUs, energies. A digest proves none of it to who made the digest.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::evidence::{Evidence, Part, Telemetry};
use crate::live;
use crate::report::number;
use crate::run::{CaseEntry, Run};

/// Times are written in whole seconds, so that two of them are known to a second.
const SECOND: f64 = 1.0;

/// A run's evidence held against its manifest, file by file.
pub(super) struct Timeline<'a> {
    run: &'a Run,
    span: Option<(f64, f64)>,
    versions: BTreeMap<String, String>,
    /// What each GPU did: start, end, case.
    spans: BTreeMap<u32, Vec<(f64, f64, &'a str)>>,
    found: Vec<String>,
    unread: bool,
    read: usize,
}

/// Seconds since 1970; none where the text is no time.
fn seconds(time: &str) -> Option<f64> {
    time.parse::<Timestamp>().ok().map(|time| time.as_second() as f64)
}

impl<'a> Timeline<'a> {
    /// Nothing is read yet.
    pub fn of(run: &'a Run) -> Timeline<'a> {
        let span = seconds(&run.started).zip(seconds(&run.ended));
        let (versions, spans) = (BTreeMap::new(), BTreeMap::new());
        Timeline { run, span, versions, spans, found: Vec::new(), unread: false, read: 0 }
    }

    /// Takes the evidence of a case.
    pub fn add(&mut self, entry: &'a CaseEntry, evidence: &Evidence) {
        self.read += 1;
        let mut say = |what: String| self.found.push(format!("{}: {what}", entry.file));
        // Who judges reads the first: the others would be evidence that nobody looks at.
        if self.run.cases.iter().filter(|other| other.case == entry.case).count() > 1 {
            say(format!("the manifest lists {} more than once", entry.case));
        }
        if evidence.case != entry.case {
            say(format!("holds {}, the manifest says {}", evidence.case, entry.case));
        }
        let outcome = live::outcome_word(&evidence.parts);
        if outcome != entry.outcome {
            say(format!("outcome {outcome} by its parts, the manifest says {}", entry.outcome));
        }
        if evidence.tier != self.run.tier {
            say(format!("tier {:?}, the manifest says {:?}", evidence.tier, self.run.tier));
        }
        let given = self.run.devices.len();
        // Evidence of what needs no GPU is of none.
        if evidence.gpus != 0 {
            if evidence.gpus as usize != given {
                say(format!("{} GPUs, the manifest lists {given}", evidence.gpus));
            }
            if evidence.shared != self.run.shared {
                let (is, said) = (evidence.shared, self.run.shared);
                say(format!("shared is {is}, the manifest says {said}"));
            }
        }
        for part in &evidence.parts {
            part_of(self.run, self.span, part, &mut say);
            self.versions.extend(part.versions.clone());
            let Some(start) = seconds(&part.started) else { continue };
            for device in &part.devices {
                let spans = self.spans.entry(device.gpu).or_default();
                spans.push((start, start + part.wall_s, entry.case.as_str()));
            }
        }
    }

    /// What does not fit, each line with its file; `manifest` is the manifest's.
    pub fn end(mut self, manifest: &str) -> Vec<String> {
        self.unread = self.read < self.run.cases.len();
        let run = self.run;
        let mut say = |what: String| self.found.push(format!("{manifest}: {what}"));
        match self.span {
            None => say(format!("started {} and ended {} are no times", run.started, run.ended)),
            Some((start, end)) if end < start => {
                say(format!("ended {} before it started {}", run.ended, run.started));
            }
            // NaN is not within a second of anything.
            Some((start, end)) if (end - start - run.wall_s).abs() <= SECOND => {}
            Some((start, end)) => say(format!(
                "wall_s = {}, but it started {} and ended {}, {} s later",
                number(run.wall_s),
                run.started,
                run.ended,
                number(end - start)
            )),
        }
        let stamp: String = run.started.chars().filter(|c| !"-:".contains(*c)).collect();
        if !run.run.starts_with(&format!("{stamp}-")) {
            say(format!("run {} is not named after its start {}", run.run, run.started));
        }
        // What an unreadable file says of versions is not known.
        if !self.unread && self.versions != run.versions {
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

/// Holds a part against its run, and its energies against their power.
fn part_of(run: &Run, span: Option<(f64, f64)>, part: &Part, say: &mut dyn FnMut(String)) {
    for device in &part.devices {
        if !run.devices.contains(device) {
            say(format!("gpu{} is not as the manifest lists it", device.gpu));
        }
    }
    match (seconds(&part.started), span) {
        (None, _) => say(format!("started {} is no time", part.started)),
        (Some(start), Some((begin, _))) if start < begin => {
            say(format!("a part started {}, the run {}", part.started, run.started));
        }
        (Some(start), Some((_, end))) if start + part.wall_s > end + SECOND => {
            let wall = number(part.wall_s);
            let (started, ended) = (&part.started, &run.ended);
            say(format!("a part of {wall} s started {started}, the run ended {ended}"));
        }
        _ => {}
    }
    for telemetry in &part.telemetry {
        energy(part, telemetry, say);
    }
}

/// Samples of power are not in the evidence, only their least, mean and most: an energy cannot be
/// integrated again. It can be held against the most power over the whole time.
fn energy(part: &Part, telemetry: &Telemetry, say: &mut dyn FnMut(String)) {
    let gpu = telemetry.gpu;
    for (what, [least, mean, most]) in [
        ("power_w", telemetry.power_w),
        ("sm_clock_mhz", telemetry.sm_clock_mhz),
        ("memory_clock_mhz", telemetry.memory_clock_mhz),
    ] {
        let ordered = 0.0 <= least && least <= mean && mean <= most && most.is_finite();
        if !ordered {
            say(format!("{what} of gpu{gpu}: {least}, {mean}, {most} are no least, mean, most"));
        }
    }
    // A board that tells no power has zeros there.
    let told = telemetry.energy_j.filter(|_| telemetry.power_w[2] > 0.0);
    let Some(joules) = told else { return };
    let most = telemetry.power_w[2] * part.wall_s;
    let possible = 0.0 <= joules && joules <= most;
    if !possible {
        let (power, wall) = (number(telemetry.power_w[2]), number(part.wall_s));
        let (joules, most) = (number(joules), number(most));
        let line =
            format!("energy of gpu{gpu} is {joules} J, {power} W over {wall} s are {most} J");
        say(line);
    }
}
