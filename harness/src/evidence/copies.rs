//! Samples that stand twice: two measurements never give the same numbers in the same order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evidence, Metric, MetricKind};
use crate::statistics;

/// Different numbers from which on a repetition is no chance. A clock of coarse steps gives two or three of them
/// over and over: nine of those agree on another GPU now and then.
const DIFFERENT: usize = 5;

/// Whether a series holds enough to be told from every other.
fn telling(metric: &Metric) -> bool {
    let different: BTreeSet<u64> = metric.values.iter().map(|value| value.to_bits()).collect();
    metric.kind == MetricKind::Sampled
        && metric.values.len() >= statistics::FEWEST
        && different.len() >= DIFFERENT
}

/// The samples of one series stand in another, one after the other.
fn within(short: &[f64], long: &[f64]) -> bool {
    long.windows(short.len()).any(|window| window == short)
}

/// No series of a metric holds the samples of another one: of a second attempt, GPU or place that was not
/// measured.
pub(super) fn none(evidence: &Evidence) -> Result<(), String> {
    let mut known: BTreeMap<&str, Vec<(u32, &Metric)>> = BTreeMap::new();
    for part in &evidence.parts {
        for metric in part.metrics.iter().filter(|metric| telling(metric)) {
            let others = known.entry(&metric.name).or_default();
            let copied = |(_, other): &&(u32, &Metric)| {
                let (own, other) = (&metric.values, &other.values);
                if own.len() < other.len() { within(own, other) } else { within(other, own) }
            };
            if let Some((attempt, other)) = others.iter().find(copied) {
                return Err(format!(
                    "metric {} of {} in attempt {} holds the samples of {} in attempt {attempt}",
                    metric.name,
                    place(metric),
                    part.attempt,
                    place(other)
                ));
            }
            others.push((part.attempt, metric));
        }
    }
    Ok(())
}

fn place(metric: &Metric) -> String {
    let gpus = metric.gpus.iter().map(|gpu| format!("gpu{gpu}"));
    let at = metric.at.iter().map(|(key, value)| format!("{key} = {value}"));
    let words: Vec<String> = gpus.chain(at).collect();
    if words.is_empty() { "the node".into() } else { words.join(", ") }
}

/// Whether two evidence files hold one measurement: a series of one stands in the other, at the same place.
pub(crate) fn of_one_measurement(one: &Evidence, other: &Evidence) -> bool {
    fn series(evidence: &Evidence) -> impl Iterator<Item = &Metric> {
        let metrics = evidence.parts.iter().flat_map(|part| &part.metrics);
        metrics.filter(|metric| telling(metric))
    }
    one.case == other.case
        && series(one).any(|own| {
            let alike = |metric: &Metric| {
                metric.name == own.name && metric.at == own.at && metric.gpus == own.gpus
            };
            series(other).any(|metric| alike(metric) && metric.values == own.values)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selfcheck;

    const SAMPLES: [f64; 8] = [1.5, 1.25, 1.75, 1.5, 1.0, 2.5, 1.25, 1.5];

    fn metric(values: &[f64]) -> Metric {
        Metric::sampled("read_gbps", &[], &[1], values.to_vec())
    }

    /// Whether a second series beside [`SAMPLES`] is refused.
    fn refused(values: &[f64]) -> bool {
        let mut evidence = selfcheck::healthy();
        evidence.parts[0].metrics = vec![metric(&SAMPLES)];
        evidence.parts[1].metrics = vec![metric(values)];
        none(&evidence).is_err_and(|error| error.contains("holds the samples of gpu1"))
    }

    #[test]
    fn samples_that_stand_in_another_series_are_a_copy() {
        assert!(refused(&SAMPLES));
        assert!(refused(&[&SAMPLES[..], &SAMPLES[..]].concat()));
        assert!(refused(&[&[9.0][..], &SAMPLES[..], &[8.0][..]].concat()));
        assert!(refused(&SAMPLES[1..]));
        let mut other = SAMPLES;
        other[7] += 0.001;
        assert!(!refused(&other));
    }

    #[test]
    fn what_may_repeat_by_chance_is_no_copy() {
        assert!(!refused(&SAMPLES[..5]));
        // Four different numbers, as a coarse clock gives them.
        let coarse = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0];
        let mut evidence = selfcheck::healthy();
        for part in &mut evidence.parts {
            part.metrics = vec![metric(&coarse)];
        }
        assert_eq!(none(&evidence), Ok(()));
        // Another quantity may be the same number: busbw of a broadcast is its algbw.
        evidence.parts[0].metrics = vec![metric(&SAMPLES)];
        evidence.parts[1].metrics = vec![Metric { name: "write_gbps".into(), ..metric(&SAMPLES) }];
        assert_eq!(none(&evidence), Ok(()));
        // Counts are the same on every healthy GPU.
        for part in &mut evidence.parts {
            part.metrics = vec![Metric { kind: MetricKind::Exact, ..metric(&SAMPLES) }];
        }
        assert_eq!(none(&evidence), Ok(()));
    }

    #[test]
    fn one_measurement_is_known_under_any_name() {
        let own = selfcheck::healthy();
        let mut renamed = own.clone();
        renamed.run = "another".into();
        renamed.parts[0].started = "2026-01-02T00:00:00Z".into();
        renamed.parts[1].metrics.clear();
        assert!(of_one_measurement(&own, &renamed));
        let check = |change: fn(&mut Evidence)| {
            let mut other = renamed.clone();
            change(&mut other);
            assert!(!of_one_measurement(&own, &other));
        };
        check(|e| e.case = "another".into());
        check(|e| e.parts[0].metrics[0].values[3] += 0.001);
        check(|e| e.parts[0].metrics[0].gpus = vec![1]);
        check(|e| drop(e.parts[0].metrics[0].at.insert("size".into(), "big".into())));
        check(|e| e.parts[0].metrics[0].name = "write_gbps".into());
    }
}
