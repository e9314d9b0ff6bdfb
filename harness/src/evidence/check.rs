//! What holds of any evidence, whoever wrote it: asked before it is written and after it is read.
//!
//! Whether a number is good is the judge's to say. Here a file is refused that contradicts itself: a
//! metric of a GPU that its part was not given, one that stands twice, two machine codes of one kernel,
//! telemetry that its board cannot have.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{Device, Evidence, KernelUse, Metric, Part, Telemetry, busbw, copies};
use crate::claim::unit_of;
use crate::digest;

/// Attempts that a case may have: once more where a bound was straddled.
const MOST_ATTEMPTS: u32 = 2;

/// Seconds by which two times may disagree that are written in whole seconds.
const SECOND: f64 = 1.0;

/// How far above the enforced limit the power of a sample may lie, as a factor: the limit holds on average.
/// Recorded samples reach 1.021.
const POWER_MARGIN: f64 = 1.2;

/// How far above its maximum a clock may read, as a factor: one step of a divider. Recorded ones reach 1.
const CLOCK_MARGIN: f64 = 1.01;

/// Degrees Celsius that a chip which runs can have: storage ends at -40, GPUs switch themselves off below 130.
const TEMPERATURES: std::ops::RangeInclusive<f64> = -40.0..=130.0;

/// Counts are doubles: above 2^53 there is no next one.
const MOST_COUNTED: f64 = 9_007_199_254_740_992.0;

impl Evidence {
    /// Checked before writing and after reading.
    pub fn check(&self) -> Result<(), String> {
        if self.parts.is_empty() {
            return Err("no parts".into());
        }
        for part in &self.parts {
            part.check()?;
            self.check_devices(part)?;
        }
        self.one_part_each()?;
        self.attempts_in_turn()?;
        self.one_code_each()?;
        copies::none(self)
    }

    /// The GPUs of a part are of the board that the evidence is about, and no more than the run's.
    fn check_devices(&self, part: &Part) -> Result<(), String> {
        for device in &part.devices {
            if device.pci_device_id != self.pci_device_id {
                return Err(format!(
                    "gpu{} is a {}, the evidence is of {:?}",
                    device.gpu, device.pci_device_id, self.pci_device_id
                ));
            }
        }
        if part.devices.len() > self.gpus as usize {
            return Err(format!("{} devices of {} gpus", part.devices.len(), self.gpus));
        }
        Ok(())
    }

    /// A GPU is measured once an attempt, and is the same GPU in all parts.
    fn one_part_each(&self) -> Result<(), String> {
        let mut seen: Vec<(u32, Vec<u32>)> = Vec::new();
        let mut devices = BTreeMap::new();
        for part in &self.parts {
            let own = (part.attempt, part.gpus());
            if seen.contains(&own) {
                return Err(format!("attempt {} of {} stands twice", own.0, gpus(&own.1)));
            }
            seen.push(own);
            for device in &part.devices {
                if *devices.entry(device.gpu).or_insert(device) != device {
                    return Err(format!("gpu{} is two devices", device.gpu));
                }
            }
        }
        let mut uuids: BTreeMap<&str, u32> = BTreeMap::new();
        for (gpu, device) in devices {
            // Synthetic evidence knows no UUID.
            let uuid = Some(device.uuid_sha256.as_str()).filter(|uuid| !uuid.is_empty());
            if let Some(other) = uuid.and_then(|uuid| uuids.insert(uuid, gpu)) {
                return Err(format!("gpu{other} and gpu{gpu} are one device"));
            }
        }
        Ok(())
    }

    /// A second attempt follows a first one on the same GPUs, after its end.
    fn attempts_in_turn(&self) -> Result<(), String> {
        for part in self.parts.iter().filter(|part| part.attempt > 1) {
            let own = part.gpus();
            let first = |other: &&Part| other.attempt + 1 == part.attempt && other.gpus() == own;
            let Some(before) = self.parts.iter().find(first) else {
                return Err(format!("attempt {}{} has none before it", part.attempt, on(&own)));
            };
            let ended = crate::run::time(&before.started)? + before.wall_s;
            if crate::run::time(&part.started)? < ended - SECOND {
                return Err(format!(
                    "attempt {}{} started {}, the one before it {} and took {} s",
                    part.attempt,
                    on(&own),
                    part.started,
                    before.started,
                    before.wall_s
                ));
            }
        }
        Ok(())
    }

    /// One source, compiled for one architecture by one compiler, is one machine code.
    fn one_code_each(&self) -> Result<(), String> {
        let mut codes = BTreeMap::new();
        for used in self.parts.iter().flat_map(|part| &part.kernels) {
            let what = (&used.name, &used.architecture, &used.compiler, &used.source_sha256);
            if *codes.entry(what).or_insert(&used.cubin_sha256) != &used.cubin_sha256 {
                return Err(format!("kernel {} ran as two machine codes", used.name));
            }
        }
        Ok(())
    }
}

impl Part {
    fn check(&self) -> Result<(), String> {
        if !(1..=MOST_ATTEMPTS).contains(&self.attempt) {
            return Err(format!("attempt {} is none of 1 to {MOST_ATTEMPTS}", self.attempt));
        }
        if self.started.parse::<jiff::Timestamp>().is_err() {
            return Err(format!("started {:?} is no time", self.started));
        }
        if !(self.wall_s.is_finite() && self.wall_s >= 0.0) {
            return Err(format!("wall_s = {} is no duration", self.wall_s));
        }
        let own = self.gpus();
        if let Some(gpu) = repeated(&own) {
            return Err(format!("gpu{gpu} stands twice in one part"));
        }
        self.kernels.iter().try_for_each(KernelUse::check)?;
        let names: Vec<&str> = self.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        if let Some(name) = repeated(&names) {
            return Err(format!("kernel {name} stands twice{}", on(&own)));
        }
        self.check_metrics(&own)?;
        busbw::check(&self.metrics)?;
        self.check_telemetry(&own)
    }

    fn gpus(&self) -> Vec<u32> {
        self.devices.iter().map(|device| device.gpu).collect()
    }

    fn check_metrics(&self, own: &[u32]) -> Result<(), String> {
        let names: Vec<&str> = self.controls.iter().map(|control| control.name.as_str()).collect();
        if let Some(name) = repeated(&names) {
            return Err(format!("control {name} stands twice{}", on(own)));
        }
        let mut kinds = BTreeMap::new();
        let planted = self.controls.iter().map(|control| &control.metrics);
        for series in std::iter::once(&self.metrics).chain(planted) {
            let mut seen = Vec::with_capacity(series.len());
            for metric in series {
                metric.check()?;
                let name = &metric.name;
                if let Some(gpu) = metric.gpus.iter().find(|gpu| !own.contains(gpu)) {
                    return Err(format!("metric {name} is of gpu{gpu}, the part{}", had(own)));
                }
                if let Some(gpu) = repeated(&metric.gpus) {
                    return Err(format!("metric {name} names gpu{gpu} twice"));
                }
                let place = (name, &metric.at, &metric.gpus);
                if seen.contains(&place) {
                    return Err(format!("metric {name} stands twice{}", on(&metric.gpus)));
                }
                seen.push(place);
                // A rate called exact would escape the count of samples and the watch over its GPU.
                if *kinds.entry(name).or_insert(metric.kind) != metric.kind {
                    return Err(format!("metric {name} is both exact and sampled"));
                }
            }
        }
        Ok(())
    }

    fn check_telemetry(&self, own: &[u32]) -> Result<(), String> {
        let watched: Vec<u32> = self.telemetry.iter().map(|seen| seen.gpu).collect();
        if let Some(gpu) = repeated(&watched) {
            return Err(format!("telemetry of gpu{gpu} stands twice"));
        }
        if let Some(gpu) = watched.iter().find(|gpu| !own.contains(gpu)) {
            return Err(format!("telemetry is of gpu{gpu}, the part{}", had(own)));
        }
        for seen in &self.telemetry {
            seen.check()?;
            let device = self.devices.iter().find(|device| device.gpu == seen.gpu);
            device.map_or(Ok(()), |device| seen.check_limits(device))?;
        }
        Ok(())
    }
}

impl KernelUse {
    /// Its digests are of a source and of machine code, and not of nothing.
    fn check(&self) -> Result<(), String> {
        for (what, sha256) in [("source", &self.source_sha256), ("cubin", &self.cubin_sha256)] {
            if !digest::is_of_something(sha256) {
                return Err(format!(
                    "the {what} of kernel {} has no digest: {sha256:?}",
                    self.name
                ));
            }
        }
        Ok(())
    }
}

impl Telemetry {
    /// What the board cannot have: power far above the limit that it enforces, clocks above its highest. A
    /// limit that the board does not tell is 0.
    fn check_limits(&self, device: &Device) -> Result<(), String> {
        let clock = |mhz: u32| CLOCK_MARGIN * f64::from(mhz);
        let limits = [
            ("power_w", self.power_w, POWER_MARGIN * device.power_limit_w),
            ("sm_clock_mhz", self.sm_clock_mhz, clock(device.sm_clock_max_mhz)),
            ("memory_clock_mhz", self.memory_clock_mhz, clock(device.memory_clock_max_mhz)),
        ];
        let beyond =
            |(_, [_, _, most], limit): &(&str, [f64; 3], f64)| *limit > 0.0 && most > limit;
        match limits.into_iter().find(beyond) {
            Some((name, [_, _, most], limit)) => Err(format!(
                "{name} of gpu{} is {most} at most, more than its board allows: {limit:.1}",
                self.gpu
            )),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        let gpu = self.gpu;
        let triples = [
            ("power_w", self.power_w),
            ("sm_clock_mhz", self.sm_clock_mhz),
            ("memory_clock_mhz", self.memory_clock_mhz),
        ];
        for (name, [least, mean, most]) in triples {
            if !(0.0 <= least && least <= mean && mean <= most && most.is_finite()) {
                return Err(format!(
                    "{name} of gpu{gpu} is {least}, {mean}, {most}: not least, mean, most"
                ));
            }
        }
        if !TEMPERATURES.contains(&self.temperature_c_max) {
            return Err(format!("temperature_c_max of gpu{gpu} is {}", self.temperature_c_max));
        }
        if let Some(energy) = self.energy_j.filter(|energy| !(energy.is_finite() && *energy >= 0.0))
        {
            return Err(format!("energy_j of gpu{gpu} is {energy}"));
        }
        let percent = |value: &&f64| !(0.0..=100.0).contains(*value);
        if let Some(value) = self.throttle_percent.values().find(percent) {
            return Err(format!("gpu{gpu} throttled in {value} % of samples: no share"));
        }
        let still = |(_, [before, after]): &(&String, &[u64; 2])| before == after;
        match self.counters_moved.iter().find(still) {
            Some((name, [at, _])) => Err(format!("{name} of gpu{gpu} moved from {at} to {at}")),
            None => Ok(()),
        }
    }
}

impl Metric {
    /// A metric has a unit, at least one value, and no NaN or infinity; a count is whole.
    pub fn check(&self) -> Result<(), String> {
        if unit_of(&self.name) == "?" {
            return Err(format!("metric {} names no unit", self.name));
        }
        if self.values.is_empty() {
            return Err(format!("metric {} has no values", self.name));
        }
        if let Some(value) = self.values.iter().find(|value| !value.is_finite()) {
            return Err(format!("metric {} holds {value}", self.name));
        }
        let count = |value: &&f64| !((0.0..=MOST_COUNTED).contains(*value) && value.fract() == 0.0);
        match self.values.iter().find(count).filter(|_| self.name.ends_with("_count")) {
            Some(value) => Err(format!("metric {} holds {value}: no count", self.name)),
            None => Ok(()),
        }
    }
}

fn repeated<T: PartialEq>(all: &[T]) -> Option<&T> {
    all.iter().enumerate().find(|(index, one)| all[..*index].contains(one)).map(|(_, one)| one)
}

/// ` on gpu0, gpu1`, or nothing without a GPU.
fn on(of: &[u32]) -> String {
    if of.is_empty() { String::new() } else { format!(" on {}", gpus(of)) }
}

fn had(own: &[u32]) -> String {
    if own.is_empty() { " had none".into() } else { format!(" had {}", gpus(own)) }
}

fn gpus(of: &[u32]) -> String {
    match of {
        [] => "the host".into(),
        some => some.iter().map(|gpu| format!("gpu{gpu}")).collect::<Vec<_>>().join(", "),
    }
}
