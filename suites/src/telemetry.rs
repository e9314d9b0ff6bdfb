//! Telemetry of a child's GPUs while it measures: NVML samples in the background, error counters
//! before and after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use harness::evidence::Telemetry;
use kernels::nvml::{Health, Sample, Sampler, Session};

/// Twenty looks a second: NVML's power is an average over longer than that.
const INTERVAL: Duration = Duration::from_millis(50);

/// A running watch over GPUs.
pub struct Watch {
    session: Arc<Session>,
    gpus: Vec<(u32, String)>,
    before: Vec<BTreeMap<&'static str, u64>>,
    sampler: Sampler,
}

impl Watch {
    /// Starts sampling the GPUs, each with its index on the node and its UUID.
    pub fn start(session: Arc<Session>, gpus: Vec<(u32, String)>) -> Watch {
        let before = gpus.iter().map(|(_, uuid)| counters(&session, uuid)).collect();
        let uuids: Vec<String> = gpus.iter().map(|(_, uuid)| uuid.clone()).collect();
        let sampler = Sampler::start(Arc::clone(&session), &uuids, INTERVAL);
        Watch { session, gpus, before, sampler }
    }

    /// Ends sampling and sums it up by GPU.
    pub fn stop(self) -> Vec<Telemetry> {
        let series = self.sampler.stop();
        let summed = self.gpus.iter().zip(&self.before).zip(&series);
        summed
            .map(|(((gpu, uuid), before), series)| {
                let after = counters(&self.session, uuid);
                summarise(*gpu, &series.samples, before, &after)
            })
            .collect()
    }
}

/// Error counters that the machine tells.
fn counters(session: &Session, uuid: &str) -> BTreeMap<&'static str, u64> {
    let health = session.health(uuid).unwrap_or_default();
    known_counters(&health)
}

/// The counters of a health report by name; what the machine does not tell is left out.
pub fn known_counters(health: &Health) -> BTreeMap<&'static str, u64> {
    let rows = &health.remapped_rows;
    let links = &health.nvlink_errors;
    let all = [
        ("ecc_uncorrected_volatile", health.ecc_uncorrected_volatile),
        ("ecc_uncorrected_aggregate", health.ecc_uncorrected_aggregate),
        ("ecc_corrected_volatile", health.ecc_corrected_volatile),
        ("rows_correctable", rows.correctable),
        ("rows_uncorrectable", rows.uncorrectable),
        ("rows_pending", rows.pending),
        ("rows_failure", rows.failure),
        ("nvlink_replay", links.replay),
        ("nvlink_recovery", links.recovery),
        ("nvlink_crc_flit", links.crc_flit),
        ("nvlink_crc_data", links.crc_data),
        ("pcie_replay", health.pcie_replay),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn summarise(
    gpu: u32,
    samples: &[Sample],
    before: &BTreeMap<&'static str, u64>,
    after: &BTreeMap<&'static str, u64>,
) -> Telemetry {
    let of = |pick: fn(&Sample) -> Option<f64>| least_mean_most(samples.iter().filter_map(pick));
    let moved = after.iter().filter_map(|(name, after)| {
        let before = before.get(name)?;
        (before != after).then(|| ((*name).to_owned(), [*before, *after]))
    });
    let energies: Vec<f64> = samples.iter().filter_map(|sample| sample.energy_j).collect();
    Telemetry {
        gpu,
        samples: samples.len() as u32,
        power_w: of(|s| s.power_w),
        sm_clock_mhz: of(|s| s.sm_clock_mhz.map(f64::from)),
        memory_clock_mhz: of(|s| s.memory_clock_mhz.map(f64::from)),
        temperature_c_max: of(|s| s.temperature_c.map(f64::from))[2],
        energy_j: energies.first().zip(energies.last()).map(|(first, last)| tenth(last - first)),
        throttle_percent: throttle_percent(samples),
        counters_moved: moved.collect(),
    }
}

/// Share of samples in which each reason held the clocks down, in percent. Idling is no throttle.
fn throttle_percent(samples: &[Sample]) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for reason in samples.iter().filter_map(|sample| sample.throttle.as_ref()).flatten() {
        if *reason != "gpu_idle" {
            *counts.entry((*reason).to_owned()).or_default() += 1.0;
        }
    }
    counts.values_mut().for_each(|count| *count = tenth(100.0 * *count / samples.len() as f64));
    counts
}

fn least_mean_most(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let values: Vec<f64> = values.collect();
    if values.is_empty() {
        return [0.0; 3];
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [tenth(least), tenth(values.iter().sum::<f64>() / values.len() as f64), tenth(most)]
}

/// NVML's figures are no finer than a tenth.
fn tenth(value: f64) -> f64 {
    (10.0 * value).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(power: f64, throttle: &[&'static str]) -> Sample {
        Sample {
            t_ms: 0.0,
            power_w: Some(power),
            sm_clock_mhz: Some(1980),
            memory_clock_mhz: None,
            temperature_c: Some(41),
            memory_temperature_c: None,
            utilization_percent: None,
            throttle: Some(throttle.to_vec()),
            energy_j: Some(power),
        }
    }

    #[test]
    fn sums_up_by_hand() {
        let samples = [sample(100.0, &["gpu_idle"]), sample(300.0, &["sw_power_cap"])];
        let before = BTreeMap::from([("pcie_replay", 1), ("rows_pending", 0)]);
        let after = BTreeMap::from([("pcie_replay", 3), ("rows_pending", 0)]);
        let telemetry = summarise(2, &samples, &before, &after);
        assert_eq!(telemetry.power_w, [100.0, 200.0, 300.0]);
        assert_eq!(telemetry.energy_j, Some(200.0));
        assert_eq!(telemetry.throttle_percent, BTreeMap::from([("sw_power_cap".into(), 50.0)]));
        assert_eq!(telemetry.counters_moved, BTreeMap::from([("pcie_replay".into(), [1, 3])]));
        assert_eq!(telemetry.memory_clock_mhz, [0.0; 3]);
    }
}
