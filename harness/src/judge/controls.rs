//! Controls: every planted fault must get the verdict that it was planted for.

use super::bounds::Bounds;
use super::series::{self, Series, standing};
use super::{ControlView, Question, Standing};
use crate::case::{Control, Expect};
use crate::claim::{Claim, Reduce};
use crate::evidence::{Evidence, Metric, MetricKind, Part};
use crate::golden::BoardGolden;
use crate::report::number;

/// The controls that count for the claim: those that trip its metric or an integrity metric.
pub(super) fn views(
    question: &Question,
    evidence: &Evidence,
    board: Option<&BoardGolden>,
) -> Vec<ControlView> {
    let counts = |control: &&'static Control| {
        control.trips == question.claim.metric || question.case.integrity.contains(&control.trips)
    };
    let relevant = question.case.controls.iter().filter(counts);
    relevant
        .map(|control| {
            let (caught, detail) = match try_control(question, evidence, board, control) {
                Ok(found) => found,
                Err(detail) => (Some(false), detail),
            };
            ControlView { control, caught, detail }
        })
        .collect()
}

type Caught = (Option<bool>, String);

/// `Err` is a control that was not planted or not measured: never caught.
fn try_control(
    question: &Question,
    evidence: &Evidence,
    board: Option<&BoardGolden>,
    control: &Control,
) -> Result<Caught, String> {
    for part in &evidence.parts {
        if metrics_of(part, control).next().is_none() {
            return Err(format!("it was not planted{}", part_name(part)));
        }
    }
    // A number that no measurement gives shows no fault. What is exact under a fault may be anything.
    let planted = evidence.parts.iter().flat_map(|part| metrics_of(part, control));
    let mut sampled = planted.filter(|metric| metric.kind == MetricKind::Sampled);
    sampled.try_for_each(series::possible)?;
    if question.case.integrity.contains(&control.trips) {
        return Ok(wrong_bits(evidence, control));
    }
    if question.claim.reduce == Reduce::SpreadPercent {
        return one_slow_gpu(question, evidence, board, control);
    }
    let (claim, planted) = judged_by(question, evidence, control)?;
    let bounds = Bounds::of(claim, question.goldens, board)?;
    within_physics(claim, &bounds, control, &planted)?;
    Ok(held_against(claim, &bounds, control, &planted))
}

fn metrics_of<'a>(part: &'a Part, control: &'a Control) -> impl Iterator<Item = &'a Metric> {
    let planted = part.controls.iter().filter(|entry| entry.name == control.name);
    planted.flat_map(|entry| &entry.metrics).filter(|metric| metric.name == control.trips)
}

/// Caught if the integrity metric is not zero wherever the fault was planted.
fn wrong_bits(evidence: &Evidence, control: &Control) -> Caught {
    let values: Vec<f64> = evidence
        .parts
        .iter()
        .flat_map(|part| metrics_of(part, control))
        .flat_map(|metric| metric.values.iter().copied())
        .collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let caught = control.expect == Expect::Corrupt && least > 0.0;
    (Some(caught), format!("{} = {} at least", control.trips, number(least)))
}

/// The claim whose place the control was planted at, with the planted series.
fn judged_by(
    question: &Question,
    evidence: &Evidence,
    control: &Control,
) -> Result<(&'static Claim, Vec<Series>), String> {
    let here = |claim: &&&'static Claim| {
        claim.metric == control.trips
            && claim.reduce == Reduce::Worst
            && evidence
                .parts
                .iter()
                .all(|part| metrics_of(part, control).any(|metric| metric.is_at(claim.at)))
    };
    let none = || format!("no claim judges {} where it was planted", control.trips);
    let claim = question.siblings.iter().find(here).ok_or_else(none)?;
    let metrics = evidence.parts.iter().flat_map(|part| metrics_of(part, control));
    let at = metrics.filter(|metric| metric.is_at(claim.at));
    Ok((claim, series::pool(claim.relation, at)?))
}

/// A rate above the physical peak is no slow one: what measured it is broken. It is what a control wants that must
/// be seen as broken.
fn within_physics(
    claim: &Claim,
    bounds: &Bounds,
    control: &Control,
    planted: &[Series],
) -> Result<(), String> {
    match bounds.beyond_physics(planted).filter(|_| control.expect != Expect::Broken) {
        Some(beyond) => Err(bounds.physics_message(claim, beyond)),
        None => Ok(()),
    }
}

/// Every planted series must get the verdict that the control was planted for.
fn held_against(claim: &Claim, bounds: &Bounds, control: &Control, planted: &[Series]) -> Caught {
    let missed = |limit: f64| {
        planted.iter().all(|s| standing(claim.relation, s.interval, limit) == Standing::Missed)
    };
    let values: Vec<String> = planted.iter().map(|s| number(s.value)).collect();
    let detail = |limit: Option<f64>| {
        let limit = limit.map_or("no bound".into(), number);
        format!("{} = {} against {limit}", control.trips, values.join(", "))
    };
    let limit = match control.expect {
        Expect::Refuted => bounds.documented_limit(),
        Expect::Regressed => bounds.golden_limit(claim.relation),
        Expect::Broken => bounds.ceiling(),
        Expect::Corrupt => None,
    };
    let caught = limit.map(|limit| match control.expect {
        Expect::Broken => planted.iter().all(|s| s.value > limit),
        _ => missed(limit),
    });
    (caught, detail(limit))
}

/// For a spread: one GPU with the fault among healthy ones must be seen.
fn one_slow_gpu(
    question: &Question,
    evidence: &Evidence,
    board: Option<&BoardGolden>,
    control: &Control,
) -> Result<Caught, String> {
    let claim = question.claim;
    let planted = evidence.parts.iter().flat_map(|part| metrics_of(part, control));
    let planted = series::pool(claim.relation, planted.filter(|m| m.is_at(claim.at)))?;
    let bounds = Bounds::of(claim, question.goldens, board)?;
    within_physics(claim, &bounds, control, &planted)?;
    let mut all = series::gather(claim, question.case, evidence)?;
    let Some(slow) = planted.first() else {
        return Err("it was not planted at this place".into());
    };
    let healthy = all.iter_mut().find(|s| s.gpus == slow.gpus);
    *healthy.ok_or("planted where nothing healthy was measured")? = slow.clone();
    let spread = series::reduce(claim, all)?;
    let limit = bounds.golden_limit(claim.relation).or(bounds.documented_limit());
    let caught = limit.map(|limit| {
        spread.iter().all(|s| standing(claim.relation, s.interval, limit) == Standing::Missed)
    });
    let value = spread.first().map_or("nothing".into(), |s| number(s.value));
    let limit = limit.map_or("no bound".into(), number);
    Ok((caught, format!("one slow GPU spreads {value} % against {limit}")))
}

fn part_name(part: &Part) -> String {
    match part.devices.as_slice() {
        [device] => format!(" on gpu{}", device.gpu),
        _ => String::new(),
    }
}
