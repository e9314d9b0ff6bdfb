//! Series of one metric, gathered from the parts of evidence, and how they stand to a limit.

use std::collections::{BTreeMap, BTreeSet};

use super::{Measured, Standing};
use crate::case::Case;
use crate::claim::{Claim, Reduce, Relation};
use crate::evidence::{Evidence, Metric, MetricKind, Part};
use crate::statistics;

/// The values of one metric at one place on one GPU, pair or node; both attempts pooled.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub gpus: Vec<u32>,
    pub value: f64,
    pub interval: (f64, f64),
}

/// Gathers a claim's series. `Err` says which number is missing or too thin to judge.
pub(super) fn gather(
    claim: &Claim,
    case: &Case,
    evidence: &Evidence,
) -> Result<Vec<Series>, String> {
    let metrics = evidence.parts.iter().flat_map(|part| &part.metrics);
    let chosen: Vec<&Metric> = metrics.filter(|metric| metric.is_of(claim)).collect();
    chosen.iter().try_for_each(|metric| possible(metric))?;
    evidence.parts.iter().try_for_each(|part| all_samples(claim, case, part))?;
    let series = pool(claim.relation, chosen.iter().copied())?;
    if series.is_empty() {
        return Err(format!("metric {}{} is missing", claim.metric, place(claim)));
    }
    let measured_gpus: Vec<u32> = series.iter().flat_map(|s| s.gpus.iter().copied()).collect();
    let each_gpu = series.iter().any(|s| s.gpus.len() == 1);
    for device in evidence.parts.iter().flat_map(|part| &part.devices) {
        if each_gpu && !measured_gpus.contains(&device.gpu) {
            let metric = claim.metric;
            return Err(format!("metric {metric}{} is missing on gpu{}", place(claim), device.gpu));
        }
    }
    everywhere(claim, &chosen)?;
    let devices = evidence.parts.iter().flat_map(|part| &part.devices).map(|device| device.gpu);
    every_pair(claim, &chosen, &devices.collect())?;
    Ok(series)
}

/// As many samples as the case takes, twice as many in a second attempt: fewer are a choice among them.
fn all_samples(claim: &Claim, case: &Case, part: &Part) -> Result<(), String> {
    let wanted = case.samples * part.attempt as usize;
    let own = |metric: &&Metric| metric.is_of(claim) && metric.kind == MetricKind::Sampled;
    let few = |metric: &&Metric| (statistics::FEWEST..wanted).contains(&metric.values.len());
    match part.metrics.iter().filter(own).find(few) {
        Some(metric) => Err(format!(
            "metric {}{} has {} samples in attempt {}{}, the case takes {wanted}",
            claim.metric,
            place(claim),
            metric.values.len(),
            part.attempt,
            metric.gpus.first().map_or(String::new(), |gpu| format!(" on gpu{gpu}")),
        )),
        None => Ok(()),
    }
}

/// Units of what has a sign: a difference, and degrees. Nothing else is less than nothing.
const SIGNED: [&str; 3] = ["_percent", "_pp", "_c"];

/// Units of times and of rates: what was timed took some of it, and what was moved or computed is more than
/// nothing.
const TIMES: [&str; 3] = ["_us", "_ms", "_s"];
const RATES: [&str; 4] = ["_gbps", "_mbps", "_tflops", "_tops"];

/// Digits from which on equal samples are no chance: rates and times are kept to five or six digits, and
/// even a clock's coarse steps differ in the fifth.
const DIGITS: usize = 5;

/// Numbers that no measurement gives: a rate or a time below zero, a timed one of zero, and one sample many
/// times over.
pub(super) fn possible(metric: &Metric) -> Result<(), String> {
    let name = &metric.name;
    let signed = SIGNED.iter().any(|unit| name.ends_with(unit));
    if let Some(value) = metric.values.iter().find(|value| **value < 0.0 && !signed) {
        return Err(format!("metric {name} holds {value}: less than nothing"));
    }
    // A clock has a step, and an exact zero may be a link that is not there.
    let none = metric.kind == MetricKind::Sampled && metric.values.contains(&0.0);
    if none && TIMES.iter().any(|unit| name.ends_with(unit)) {
        return Err(format!("metric {name} holds 0: no time at all"));
    }
    if none && RATES.iter().any(|unit| name.ends_with(unit)) {
        return Err(format!("metric {name} holds 0: nothing was done"));
    }
    let Some((first, more)) = metric.values.split_first() else { return Ok(()) };
    let sampled = metric.kind == MetricKind::Sampled && metric.values.len() >= statistics::FEWEST;
    if sampled && more.iter().all(|value| value == first) && digits(*first) >= DIGITS {
        let count = metric.values.len();
        return Err(format!("metric {name} holds {count} samples that are all exactly {first}"));
    }
    Ok(())
}

/// Significant digits of a number as it is written.
fn digits(value: f64) -> usize {
    let written = format!("{value:e}");
    let mantissa = written.split('e').next().unwrap_or_default();
    mantissa.bytes().filter(u8::is_ascii_digit).count()
}

/// Every GPU was measured at as many places as the others: sizes that one GPU lacks are not passed over.
fn everywhere(claim: &Claim, chosen: &[&Metric]) -> Result<(), String> {
    let mut places: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for metric in chosen {
        if let [gpu] = metric.gpus.as_slice() {
            places.entry(*gpu).or_default().insert(format!("{:?}", metric.at));
        }
    }
    let most = places.iter().max_by_key(|(_, at)| at.len());
    let least = places.iter().min_by_key(|(_, at)| at.len());
    match (least, most) {
        (Some((few, fewer)), Some((many, more))) if fewer.len() < more.len() => Err(format!(
            "metric {}{} is missing on gpu{few} at {} of {} places of gpu{many}",
            claim.metric,
            place(claim),
            more.len() - fewer.len(),
            more.len()
        )),
        _ => Ok(()),
    }
}

/// Where several pairs were timed, all were: the pair that is not there may be the slow one. One way for
/// each pair is all, if no pair has both.
fn every_pair(claim: &Claim, chosen: &[&Metric], devices: &BTreeSet<u32>) -> Result<(), String> {
    let mut timed: BTreeMap<String, BTreeSet<(u32, u32)>> = BTreeMap::new();
    for metric in chosen.iter().filter(|metric| metric.kind == MetricKind::Sampled) {
        if let [from, to] = metric.gpus.as_slice() {
            timed.entry(format!("{:?}", metric.at)).or_default().insert((*from, *to));
        }
    }
    for pairs in timed.values() {
        if pairs.len() == 1 {
            continue;
        }
        let gpus = devices;
        let both_ways = pairs.iter().any(|(from, to)| pairs.contains(&(*to, *from)));
        let every = gpus.iter().flat_map(|from| gpus.iter().map(move |to| (*from, *to)));
        let missing = |(from, to): &(u32, u32)| {
            let there = pairs.contains(&(*from, *to));
            from != to && !there && (both_ways || !pairs.contains(&(*to, *from)))
        };
        if let Some((from, to)) = every.into_iter().find(missing) {
            let metric = claim.metric;
            return Err(format!("metric {metric} is missing from gpu{from} to gpu{to}"));
        }
    }
    Ok(())
}

/// Pools metrics of the same place and GPUs into series.
pub(super) fn pool<'a>(
    relation: Relation,
    metrics: impl Iterator<Item = &'a Metric>,
) -> Result<Vec<Series>, String> {
    let mut pooled: BTreeMap<(Vec<u32>, String), (MetricKind, Vec<f64>)> = BTreeMap::new();
    for metric in metrics {
        metric.check()?;
        let place = format!("{:?}", metric.at);
        let (kind, values) =
            pooled.entry((metric.gpus.clone(), place)).or_insert_with(|| (metric.kind, Vec::new()));
        if *kind != metric.kind {
            return Err(format!("metric {} is both exact and sampled", metric.name));
        }
        values.extend(&metric.values);
    }
    let summed = pooled.into_iter().map(|((gpus, _), (kind, values))| {
        let (value, interval) = summarise(relation, kind, &values)?;
        Ok(Series { gpus, value, interval })
    });
    summed.collect()
}

/// The figure of a series and its interval.
fn summarise(
    relation: Relation,
    kind: MetricKind,
    values: &[f64],
) -> Result<(f64, (f64, f64)), String> {
    if kind == MetricKind::Sampled {
        let few = || format!("{} samples, {} are the fewest", values.len(), statistics::FEWEST);
        let value = statistics::median(values).ok_or_else(few)?;
        return Ok((value, statistics::median_interval(values).ok_or_else(few)?));
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let value = if relation == Relation::AtLeast { least } else { most };
    Ok((value, (least, most)))
}

/// What the series come down to for the claim's `reduce`.
pub(super) fn reduce(claim: &Claim, series: Vec<Series>) -> Result<Vec<Series>, String> {
    match claim.reduce {
        Reduce::Worst => Ok(series),
        Reduce::SpreadPercent => spread(&series).map(|spread| vec![spread]),
    }
}

/// `(max - min) / median` of the medians, in percent, with the interval that the series' own
/// intervals allow at most.
fn spread(series: &[Series]) -> Result<Series, String> {
    if series.len() < 2 {
        return Err("a spread needs two series".into());
    }
    let fold = |pick: fn(&Series) -> f64, best: fn(f64, f64) -> f64, from: f64| {
        series.iter().map(pick).fold(from, best)
    };
    let values: Vec<f64> = series.iter().map(|s| s.value).collect();
    let middle = statistics::median(&values).ok_or("a spread of NaN")?;
    let percent = |difference: f64| 100.0 * difference.max(0.0) / middle;
    let value = percent(
        fold(|s| s.value, f64::max, f64::NEG_INFINITY) - fold(|s| s.value, f64::min, f64::INFINITY),
    );
    let least = percent(
        fold(|s| s.interval.0, f64::max, f64::NEG_INFINITY)
            - fold(|s| s.interval.1, f64::min, f64::INFINITY),
    );
    let most = percent(
        fold(|s| s.interval.1, f64::max, f64::NEG_INFINITY)
            - fold(|s| s.interval.0, f64::min, f64::INFINITY),
    );
    let slowest = series.iter().min_by(|a, b| a.value.total_cmp(&b.value));
    let gpus = slowest.map(|s| s.gpus.clone()).unwrap_or_default();
    Ok(Series { gpus, value, interval: (least, most) })
}

/// How an interval stands to a limit.
pub(super) fn standing(relation: Relation, interval: (f64, f64), limit: f64) -> Standing {
    let (least, most) = interval;
    match relation {
        Relation::AtLeast if least >= limit => Standing::Met,
        Relation::AtLeast if most < limit => Standing::Missed,
        Relation::AtMost if most <= limit => Standing::Met,
        Relation::AtMost if least > limit => Standing::Missed,
        Relation::Equal | Relation::Holds if least == limit && most == limit => Standing::Met,
        Relation::Equal | Relation::Holds => Standing::Missed,
        Relation::AtLeast | Relation::AtMost => Standing::Straddles,
    }
}

/// The series that decides against a limit.
pub(super) fn worst(relation: Relation, series: &[Series], limit: f64) -> Option<&Series> {
    series.iter().max_by(|a, b| {
        let rank = |s: &Series| standing(relation, s.interval, limit);
        let badness = |s: &Series| match relation {
            Relation::AtLeast => -s.value,
            Relation::AtMost | Relation::Holds => s.value,
            Relation::Equal => (s.value - limit).abs(),
        };
        rank(a).cmp(&rank(b)).then(badness(a).total_cmp(&badness(b)))
    })
}

/// The report's view of a series.
pub(super) fn measured(claim: &Claim, series: &Series, count: usize) -> Measured {
    Measured {
        metric: claim.figure().to_owned(),
        unit: claim.unit(),
        value: series.value,
        interval: series.interval,
        gpus: series.gpus.clone(),
        series: count,
    }
}

fn place(claim: &Claim) -> String {
    let at: Vec<String> = claim.at.iter().map(|(k, v)| format!("{k} = {v}")).collect();
    if at.is_empty() { String::new() } else { format!(" at {}", at.join(", ")) }
}
