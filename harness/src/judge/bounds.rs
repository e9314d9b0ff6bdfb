//! The bounds of a claim: what the document promised, what the board's golden says, what physics
//! allows.

use std::collections::BTreeMap;

use super::series::{Series, standing, worst};
use super::{BoundView, EvidenceRef, Judgement, Standing};
use crate::bless::MIXED;
use crate::claim::{Claim, Relation};
use crate::digest;
use crate::evidence::Evidence;
use crate::golden::{BoardGolden, Bound, Goldens, Promise};
use crate::report::number;

/// [`BoundView::kind`] of what the document promised.
pub(super) const DOCUMENTED: &str = "documented";
/// [`BoundView::kind`] of the board's own bound.
pub(super) const GOLDEN: &str = "golden";

/// Everything that a claim is held against on one board.
pub(super) struct Bounds<'a> {
    promise: Option<&'a Promise>,
    /// The promise as a number, where its peak is known on this board.
    documented: Option<Result<f64, String>>,
    golden: Option<&'a Bound>,
    ceiling: Option<(&'static str, f64)>,
    wants_golden: bool,
}

impl<'a> Bounds<'a> {
    /// `Err` for a claim that nothing bounds: it could not fail.
    pub fn of(
        claim: &Claim,
        goldens: &'a Goldens,
        board: Option<&'a BoardGolden>,
    ) -> Result<Bounds<'a>, String> {
        let promise = goldens.documented.claims.get(claim.id);
        let documented = promise.map(|promise| promise.limit(board));
        let ordered = matches!(claim.relation, Relation::AtLeast | Relation::AtMost);
        let wants_golden = ordered && !promise.is_some_and(|promise| promise.suffices);
        if promise.is_none() && !ordered {
            return Err("no bound: the claim cannot fail".into());
        }
        let peak = |name| board.and_then(|board| board.peaks.get(name));
        let ceiling = claim.ceiling.and_then(|name| Some((name, peak(name)?.value)));
        let golden = board.and_then(|board| board.bound(claim.id, claim.figure()));
        Ok(Bounds { promise, documented, golden, ceiling, wants_golden })
    }

    /// The limit of the board's golden.
    pub fn golden_limit(&self, relation: Relation) -> Option<f64> {
        self.golden.map(|bound| limit(relation, bound.golden, bound.worse))
    }

    /// The documented limit as a number.
    pub fn documented_limit(&self) -> Option<f64> {
        self.documented.as_ref()?.as_ref().ok().copied()
    }

    /// The physical peak above which a value is no value.
    pub fn ceiling(&self) -> Option<f64> {
        self.ceiling.map(|(_, value)| value)
    }

    /// The series that decides: against the tightest limit there is.
    pub fn decisive<'s>(&self, claim: &Claim, series: &'s [Series]) -> Option<&'s Series> {
        let limit = self.golden_limit(claim.relation).or(self.documented_limit());
        worst(claim.relation, series, limit.unwrap_or_default())
    }

    /// The bounds as a report prints them.
    pub fn views(
        &self,
        claim: &Claim,
        series: &[Series],
        reference: &EvidenceRef,
    ) -> Vec<BoundView> {
        let mut views = Vec::new();
        if let Some(promise) = self.promise {
            let limit = self.documented_limit();
            let origin = match &promise.of {
                Some(peak) => format!("{} of {peak}", number(figure(promise))),
                None => promise.because.clone(),
            };
            views.push(self.view(claim, series, DOCUMENTED, limit, origin));
        }
        if let Some(bound) = self.golden {
            let mut digests = [&reference.run_sha256, &reference.origin].into_iter().flatten();
            let own = digests.any(|run| bound.runs.contains(run));
            let limit = self.golden_limit(claim.relation);
            let percent = number(100.0 * bound.worse);
            let sign = if claim.relation == Relation::AtMost { "+" } else { "-" };
            let origin = format!("{} {sign} {percent} %", number(bound.golden));
            let mut view = self.view(claim, series, GOLDEN, limit, origin);
            if own {
                view.standing = Standing::Unjudged;
                view.origin = format!("{}; a calibration run of this golden", view.origin);
            }
            views.push(view);
        }
        views
    }

    fn view(
        &self,
        claim: &Claim,
        series: &[Series],
        kind: &'static str,
        limit: Option<f64>,
        origin: String,
    ) -> BoundView {
        let sign = match claim.relation {
            Relation::AtLeast => ">=",
            Relation::AtMost => "<=",
            Relation::Equal | Relation::Holds => "=",
        };
        let standing = limit.map_or(Standing::Unjudged, |limit| {
            worst(claim.relation, series, limit)
                .map_or(Standing::Unjudged, |s| standing(claim.relation, s.interval, limit))
        });
        BoundView { kind, sign, limit: limit.unwrap_or_default(), origin, standing }
    }

    /// A series whose median no hardware of this kind can reach.
    pub fn beyond_physics<'s>(&self, series: &'s [Series]) -> Option<&'s Series> {
        let (_, peak) = self.ceiling?;
        series.iter().find(|s| s.value > peak)
    }

    /// What to say of it.
    pub fn physics_message(&self, claim: &Claim, beyond: &Series) -> String {
        let (name, peak) = self.ceiling.unwrap_or_default();
        format!(
            "{} = {}{} is beyond the physical peak {name} = {} {}",
            claim.figure(),
            number(beyond.value),
            on(&beyond.gpus),
            number(peak),
            claim.unit()
        )
    }

    /// Why a bound that the claim needs could not be judged.
    pub fn unjudged(&self, claim: &Claim, judgement: &Judgement) -> Option<String> {
        if let Some(Err(reason)) = &self.documented {
            return Some(reason.clone());
        }
        let calibration = |view: &&BoundView| view.standing == Standing::Unjudged;
        if let Some(view) = judgement.bounds.iter().find(calibration) {
            return Some(format!("not judged against its {}: {}", view.kind, view.origin));
        }
        if self.wants_golden && self.golden.is_none() {
            let figure = claim.figure();
            return Some(format!(
                "no golden for {figure} on this board: record three runs, then --bless them"
            ));
        }
        None
    }

    /// Whether the machine or our kernel is to blame for a regression.
    pub fn blame(&self, evidence: &Evidence) -> String {
        let Some(bound) = self.golden else { return String::new() };
        let ran: BTreeMap<&str, &str> = evidence
            .parts
            .iter()
            .flat_map(|part| &part.kernels)
            .map(|kernel| (kernel.name.as_str(), kernel.cubin_sha256.as_str()))
            .collect();
        let moved = bound.cubins.iter().find(|(name, sha256)| {
            ran.get(name.as_str()).is_none_or(|now| *now != sha256.as_str())
        });
        match moved {
            Some((name, sha256)) if sha256 == MIXED => {
                format!(
                    "the golden was made with several cubins of {name}: our kernel may be slower"
                )
            }
            Some((name, sha256)) => format!(
                "the golden was made with another cubin of {name} ({}): our kernel may be slower",
                digest::short(sha256)
            ),
            None => "the golden was made with the same machine code: the node is slower".into(),
        }
    }

    /// What to bless where the measured figure is better than the golden by more than its
    /// tolerance.
    pub fn improvement(&self, claim: &Claim, series: &[Series]) -> Option<String> {
        let bound = self.golden?;
        let s = worst(claim.relation, series, super::golden_limit(claim, bound))?;
        let better = match claim.relation {
            Relation::AtLeast => s.interval.0 > bound.golden * (1.0 + bound.worse),
            Relation::AtMost => s.interval.1 < bound.golden * (1.0 - bound.worse),
            Relation::Equal | Relation::Holds => false,
        };
        better.then(|| {
            let (name, now, was) = (claim.figure(), number(s.value), number(bound.golden));
            format!("better than golden: {name} = {now}, golden {was}; worth blessing")
        })
    }
}

/// The figure of a promise, before any peak.
fn figure(promise: &Promise) -> f64 {
    promise.at_least.or(promise.at_most).or(promise.equals).unwrap_or_default()
}

/// A golden with its tolerance on the bad side.
pub(super) fn limit(relation: Relation, golden: f64, worse: f64) -> f64 {
    match relation {
        Relation::AtMost => golden * (1.0 + worse),
        Relation::AtLeast => golden * (1.0 - worse),
        Relation::Equal | Relation::Holds => golden,
    }
}

/// `copy_gbps = 3912.4 (3910.1 to 3914) on gpu5, wanted >= 4240 GB/s (golden: 4480.1 - 1 %)`.
pub(super) fn message(judgement: &Judgement, bound: Option<&BoundView>) -> String {
    let (Some(measured), Some(bound)) = (&judgement.measured, bound) else {
        return String::new();
    };
    let (least, most) = measured.interval;
    let interval = match least == most {
        true => String::new(),
        false => format!(" ({} to {})", number(least), number(most)),
    };
    let unit = match measured.unit {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    format!(
        "{} = {}{interval}{}, wanted {} {}{unit} ({}: {})",
        measured.metric,
        number(measured.value),
        on(&measured.gpus),
        bound.sign,
        number(bound.limit),
        bound.kind,
        bound.origin
    )
}

fn on(gpus: &[u32]) -> String {
    match gpus {
        [] => String::new(),
        [gpu] => format!(" on gpu{gpu}"),
        [from, to] => format!(" from gpu{from} to gpu{to}"),
        all => format!(" on {} gpus", all.len()),
    }
}
