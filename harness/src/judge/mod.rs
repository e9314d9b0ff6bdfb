//! The judge: `judge(claim, evidence, goldens, current digests)` says the verdict. A pure function.
//!
//! Order of what is asked, each before any number counts: is the evidence readable; is it about
//! this claim, case and kernel (stale); did every child complete; are the bits right (corrupt); is
//! every number there and within physics (broken); then the bounds; then the controls.

mod bounds;
mod controls;
mod series;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::case::{Case, Control, Scope};
use crate::claim::{Claim, GpuCount, Kind};
use crate::evidence::{Evidence, Metric, MetricKind, Outcome, Part};
use crate::golden::{BoardGolden, Goldens};
use bounds::Bounds;
use series::Series;

/// What the judge says of a claim. Names and meanings are the design's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Every bound met with confidence, every control caught.
    Verified,
    /// The documented bound is contradicted.
    Refuted,
    /// A completed case gave wrong bits.
    Corrupt,
    /// The documented bound holds, this board's own golden does not.
    Regressed,
    /// The interval straddles a bound, or the GPU was shared or throttled.
    Inconclusive,
    /// No number that can be trusted.
    Broken,
    /// Claim, case, kernel or schema moved since the evidence.
    Stale,
    /// Nothing was measured; `explained` by tier, GPU count or the board's skip list or not.
    NotRun {
        /// The operator asked for less, or the board leaves it out.
        explained: bool,
    },
    /// This board cannot have it.
    NotApplicable,
}

/// Verdict with everything that a report prints.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// The claim.
    pub claim: &'static Claim,
    /// The verdict.
    pub verdict: Verdict,
    /// One sentence with the number, the bound and the GPU; empty only if verified.
    pub reason: String,
    /// The series that decided.
    pub measured: Option<Measured>,
    /// The bounds that it was held against, documented first.
    pub bounds: Vec<BoundView>,
    /// The controls that count for this claim.
    pub controls: Vec<ControlView>,
    /// The GPU to drain, where one is to blame.
    pub culprit: Option<u32>,
    /// An improvement worth blessing.
    pub note: Option<String>,
    /// Where the evidence stands and its digest; none where nothing was measured.
    pub evidence: Option<EvidenceRef>,
}

/// The series that decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Metric name.
    pub metric: String,
    /// Unit as printed; empty for counts.
    pub unit: &'static str,
    /// The median, or the exact value.
    pub value: f64,
    /// Interval of the median; equal to `value` for exact metrics.
    pub interval: (f64, f64),
    /// The GPU or pair it was taken on; empty for the node.
    pub gpus: Vec<u32>,
    /// How many series there were.
    pub series: usize,
}

/// A bound as a report prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundView {
    /// `documented`, or `golden`.
    pub kind: &'static str,
    /// `>=`, `<=` or `=`.
    pub sign: &'static str,
    /// The limit.
    pub limit: f64,
    /// Where it comes from: `0.341 of hbm_gbps`, or `4480.1 - 1.0 %`.
    pub origin: String,
    /// How the measured series stand to it.
    pub standing: Standing,
}

/// How a series stands to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The whole interval meets it.
    Met,
    /// The interval holds the bound.
    Straddles,
    /// The whole interval misses it.
    Missed,
    /// It could not be judged, for example without a golden.
    Unjudged,
}

/// A control as a report prints it.
#[derive(Debug, Clone)]
pub struct ControlView {
    /// The control.
    pub control: &'static Control,
    /// Caught as what it is; `None` where it could not be judged (no golden).
    pub caught: Option<bool>,
    /// The number that tripped, or did not.
    pub detail: String,
}

/// Where evidence stands.
#[derive(Debug, Clone, PartialEq)]
pub struct EvidenceRef {
    /// Path from the root of the repository or of the run's folder.
    pub path: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Id of the run.
    pub run: String,
    /// Digest of the run's manifest, where the run is finished.
    pub run_sha256: Option<String>,
    /// Digest of the manifest of the recorded run that measured the very same under another name.
    pub origin: Option<String>,
    /// Day of the measurement, `2026-11-21`.
    pub day: String,
    /// Name of the board; empty for host cases.
    pub board: String,
    /// GPUs of the run.
    pub gpus: u32,
    /// The run's manifest was written after it, from its evidence alone.
    pub recovered: bool,
    /// The newest later recorded run that held the case and did not run it, and why; and a run of more GPUs in which the
    /// claim does not hold; in clauses.
    pub other_runs: Option<String>,
    /// The sentence for which it was taken, where that is an earlier one.
    pub worded: Option<Box<str>>,
}

/// What there is to judge.
#[derive(Debug, Clone)]
pub enum Found<'a> {
    /// Readable evidence.
    Evidence(&'a crate::evidence::Evidence, EvidenceRef),
    /// The run lists it, but it is gone, cut, or does not have the digest that the run lists.
    Unreadable(String),
    /// Nothing was measured; the reason, and whether the operator's own choice explains it.
    Nothing {
        /// Why.
        reason: String,
        /// Tier, GPU count or skip list explains it.
        explained: bool,
    },
}

/// Everything that the judge may know.
pub struct Question<'a> {
    /// The claim.
    pub claim: &'static Claim,
    /// Its case.
    pub case: &'static Case,
    /// All claims that read the same case: controls are held against the one at their place.
    pub siblings: &'a [&'static Claim],
    /// What there is to judge.
    pub found: Found<'a>,
    /// Today's goldens.
    pub goldens: &'a Goldens,
    /// Today's digest of a kernel's source for an architecture; `None` for an unknown kernel.
    pub kernel_source: &'a dyn Fn(&str, &str) -> Option<String>,
}

/// Judges one claim. Pure: the same question always gets the same answer, on any machine.
pub fn judge(question: &Question) -> Judgement {
    let (evidence, mut reference) = match &question.found {
        Found::Evidence(evidence, reference) => (*evidence, reference.clone()),
        Found::Unreadable(reason) => {
            return bare(question, Verdict::Broken, format!("unreadable evidence: {reason}"));
        }
        Found::Nothing { reason, explained } => {
            let verdict = Verdict::NotRun { explained: *explained };
            return bare(question, verdict, reason.clone());
        }
    };
    let then = sentence_then(question, evidence);
    reference.worded = then.filter(|then| *then != question.claim.text).map(Into::into);
    let mut judgement = judge_evidence(question, evidence, &reference);
    judgement.evidence = Some(reference);
    judgement
}

/// The limit that a golden comes to with its tolerance.
pub fn golden_limit(claim: &Claim, bound: &crate::golden::Bound) -> f64 {
    limit(claim, bound.golden, bound.worse)
}

/// The limit that a golden comes to with this tolerance, a share of it.
pub(crate) fn limit(claim: &Claim, golden: f64, worse: f64) -> f64 {
    bounds::limit(claim.relation, golden, worse)
}

/// How a figure with this interval stands to a limit of the claim.
pub(crate) fn standing(claim: &Claim, interval: (f64, f64), limit: f64) -> Standing {
    series::standing(claim.relation, interval, limit)
}

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// Its interval.
    pub interval: (f64, f64),
}

/// The figures of a claim, one for each series: what a golden is made from. `Err` where a number
/// is missing, a bit is wrong or a child failed.
pub fn figures(claim: &Claim, case: &Case, evidence: &Evidence) -> Result<Vec<Figure>, String> {
    let found = measured(claim, case, evidence).map_err(|unfit| unfit.to_string())?;
    Ok(found.iter().map(|m| Figure { value: m.value, interval: m.interval }).collect())
}

/// Why evidence has no figure that can be counted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// An integrity metric is not zero.
    #[error("{0}")]
    WrongBits(String),
    /// A child failed.
    #[error("{0}")]
    Failed(String),
    /// A child did not run, or the number is not there.
    #[error("{0}")]
    Missing(String),
    /// Something disturbed the measurement.
    #[error("{0}")]
    Disturbed(String),
}

/// The series of a claim with their GPUs, reduced as the claim says.
pub fn measured(claim: &Claim, case: &Case, evidence: &Evidence) -> Result<Vec<Measured>, Unfit> {
    let metrics = evidence.parts.iter().flat_map(|part| &part.metrics);
    let mut integrity = metrics.filter(|metric| case.integrity.contains(&metric.name.as_str()));
    if let Some(wrong) = integrity.find(|m| m.values.iter().any(|value| *value != 0.0)) {
        return Err(Unfit::WrongBits(format!("{} is not zero: wrong bits", wrong.name)));
    }
    if let Some(part) = evidence.parts.iter().find(|part| part.outcome != Outcome::Completed) {
        let reason = format!("{}a part did not complete", on(part));
        return Err(match part.outcome {
            Outcome::Failed(_) => Unfit::Failed(reason),
            _ => Unfit::Missing(reason),
        });
    }
    if let Some(reason) = disturbance(claim, evidence) {
        return Err(Unfit::Disturbed(reason));
    }
    let gathered = series::gather(claim, case, evidence);
    let series = gathered.and_then(|all| series::reduce(claim, all)).map_err(Unfit::Missing)?;
    Ok(series.iter().map(|s| series::measured(claim, s, series.len())).collect())
}

/// The figures of a claim under a planted fault, where it was planted at the claim's own place.
pub fn planted_figures(claim: &Claim, control: &Control, evidence: &Evidence) -> Vec<f64> {
    let planted = evidence.parts.iter().flat_map(|part| &part.controls);
    let metrics = planted.filter(|entry| entry.name == control.name).flat_map(|c| &c.metrics);
    let here = metrics.filter(|metric| metric.is_of(claim));
    let series = series::pool(claim.relation, here).unwrap_or_default();
    series.iter().map(|s| s.value).collect()
}

/// A judgement without numbers.
fn bare(question: &Question, verdict: Verdict, reason: String) -> Judgement {
    Judgement {
        claim: question.claim,
        verdict,
        reason,
        measured: None,
        bounds: Vec::new(),
        controls: Vec::new(),
        culprit: None,
        note: None,
        evidence: None,
    }
}

fn judge_evidence(question: &Question, evidence: &Evidence, reference: &EvidenceRef) -> Judgement {
    let board = question.goldens.board_of(&evidence.pci_device_id);
    if let Some(reason) = left_out(question, evidence, board) {
        return bare(question, Verdict::NotRun { explained: true }, reason);
    }
    if let Some(reason) = of_another_board(question, evidence, reference) {
        return bare(question, Verdict::Broken, reason);
    }
    if let Some(reason) = stale(question, evidence) {
        return bare(question, Verdict::Stale, reason);
    }
    if let Some(judgement) = unfinished(question, evidence, reference) {
        return judgement;
    }
    if let Some(reason) = left_unmeasured(question.case.scope, evidence) {
        return bare(question, Verdict::Broken, reason);
    }
    if let Some(judgement) = wrong_bits(question, evidence) {
        return judgement;
    }
    let gathered = series::gather(question.claim, question.case, evidence)
        .and_then(|all| series::reduce(question.claim, all));
    match gathered {
        Ok(series) => judge_series(question, evidence, reference, board, &series),
        Err(reason) => bare(question, Verdict::Broken, reason),
    }
}

/// The board's skip list, and a GPU count that the sentence is not about.
fn left_out(
    question: &Question,
    evidence: &Evidence,
    board: Option<&BoardGolden>,
) -> Option<String> {
    if let Some(reason) = board.and_then(|board| board.skip.get(question.claim.id)) {
        return Some(format!("left out on this board: {reason}"));
    }
    let given = evidence.gpus;
    match question.claim.gpus {
        GpuCount::Exactly(wanted) if given != wanted => {
            Some(format!("needs exactly {wanted} GPUs, the run had {given}"))
        }
        GpuCount::AtLeast(wanted) if given < wanted => {
            Some(format!("needs {wanted} GPUs, the run had {given}"))
        }
        _ => None,
    }
}

/// Evidence that stands under a board which is not the one of its GPUs: its bounds are none of theirs. A
/// run of a board that no golden knew yet stands under the bare id.
fn of_another_board(
    question: &Question,
    evidence: &Evidence,
    reference: &EvidenceRef,
) -> Option<String> {
    let (id, stands) = (&evidence.pci_device_id, &reference.board);
    let name = &question.goldens.board_of(id)?.board.name;
    let own = name == stands || format!("pci-{id}") == *stands;
    (!own).then(|| format!("evidence of {id} ({name}) stands under {stands}"))
}

/// The sentence that the evidence was taken for; none where it is not known, or the claim is younger.
fn sentence_then<'a>(question: &'a Question, evidence: &Evidence) -> Option<&'a str> {
    let claim = question.claim;
    let promise = question.goldens.documented.claims.get(claim.id);
    claim.sentence_of(promise, evidence.claims.get(claim.id)?)
}

/// What moved since the evidence was taken.
fn stale(question: &Question, evidence: &Evidence) -> Option<String> {
    let (claim, case) = (question.claim, question.case);
    if evidence.case != case.id {
        return Some(format!("evidence of {} where {} is judged", evidence.case, case.id));
    }
    if evidence.revision != case.revision {
        let (then, now) = (evidence.revision, case.revision);
        return Some(format!("the procedure is at revision {now}, the evidence at {then}"));
    }
    match evidence.claims.get(claim.id) {
        None => return Some("the claim is younger than its evidence".into()),
        Some(_) if sentence_then(question, evidence).is_none() => {
            return Some("the claim was reworded after its evidence".into());
        }
        Some(_) => {}
    }
    for used in evidence.parts.iter().flat_map(|part| &part.kernels) {
        let now = (question.kernel_source)(&used.name, &used.architecture);
        if now.as_deref() != Some(used.source_sha256.as_str()) {
            return Some(format!("kernel {} changed after its evidence", used.name));
        }
    }
    None
}

/// Counters that may not move while a case runs: its numbers came from memory that lost bits.
/// Corrected errors and replays of a link are recorded and leave the numbers standing.
const FATAL_COUNTERS: &[&str] = &[
    "ecc_uncorrected_volatile",
    "ecc_uncorrected_aggregate",
    "rows_uncorrectable",
    "rows_pending",
    "rows_failure",
];

/// A part that did not complete, fell back in silence, or ended with a hardware error.
fn unfinished(
    question: &Question,
    evidence: &Evidence,
    reference: &EvidenceRef,
) -> Option<Judgement> {
    let broken = |part: &Part, reason: String| {
        let mut judgement = bare(question, Verdict::Broken, format!("{}{reason}", on(part)));
        judgement.culprit = alone(part);
        Some(judgement)
    };
    // What failed is told before what could not run beside it.
    let worst = |part: &&Part| std::cmp::Reverse(crate::run::word(&part.outcome).0);
    let mut parts: Vec<&Part> = evidence.parts.iter().collect();
    parts.sort_by_key(worst);
    let all_alike = |wanted: fn(&Outcome) -> bool| parts.iter().all(|part| wanted(&part.outcome));
    for part in parts.iter().copied() {
        match &part.outcome {
            Outcome::Completed => {}
            Outcome::NotRun(reason) => {
                let verdict = Verdict::NotRun { explained: false };
                let not_run = bare(question, verdict, format!("{}{reason}", on(part)));
                return Some(red_elsewhere(question, evidence, reference).unwrap_or(not_run));
            }
            // A run's GPUs are of one board: what one of them can have, all can.
            Outcome::NotApplicable(reason)
                if !all_alike(|outcome| matches!(outcome, Outcome::NotApplicable(_))) =>
            {
                return broken(part, format!("not applicable ({reason}), on other GPUs it is"));
            }
            Outcome::NotApplicable(reason) => {
                return Some(bare(question, Verdict::NotApplicable, reason.clone()));
            }
            Outcome::Failed(failure) => {
                let stage = match part.progress.as_str() {
                    "" => String::new(),
                    stage => format!(" (last stage: {stage})"),
                };
                return broken(part, format!("{}{stage}", failure.detail));
            }
        }
        if let Some(mode) = part.modes.iter().find(|mode| mode.asked != mode.active) {
            let text = format!("{}: asked for {}, {} ran", mode.what, mode.asked, mode.active);
            return broken(part, text);
        }
        // The self-test raises Xids on purpose.
        if let Some(xid) = part.xids.first().filter(|_| !question.case.self_test_only) {
            return broken(part, format!("Xid {xid} while it ran"));
        }
        let moved = part.telemetry.iter().flat_map(|t| &t.counters_moved);
        let mut fatal = moved.filter(|(name, _)| FATAL_COUNTERS.contains(&name.as_str()));
        if let Some((name, [before, after])) = fatal.next() {
            return broken(part, format!("{name} moved from {before} to {after} while it ran"));
        }
        let used = |name: &&str| part.kernels.iter().any(|kernel| kernel.name == **name);
        if let Some(name) = question.case.kernels.iter().find(|name| !used(name)) {
            return broken(part, format!("the evidence does not say which kernel {name} ran"));
        }
    }
    None
}

/// What the GPUs on which a case did run found wrong, where it was not run on another: that hides nothing.
fn red_elsewhere(
    question: &Question,
    evidence: &Evidence,
    reference: &EvidenceRef,
) -> Option<Judgement> {
    let mut ran = evidence.clone();
    ran.parts.retain(|part| part.outcome == Outcome::Completed);
    if ran.parts.is_empty() {
        return None;
    }
    if let Some(judgement) = wrong_bits(question, &ran) {
        return Some(judgement);
    }
    let gathered = series::gather(question.claim, question.case, &ran);
    let series = gathered.and_then(|all| series::reduce(question.claim, all)).ok()?;
    let board = question.goldens.board_of(&evidence.pci_device_id);
    let judgement = judge_series(question, &ran, reference, board, &series);
    let red = matches!(judgement.verdict, Verdict::Refuted | Verdict::Regressed);
    red.then_some(judgement)
}

/// GPUs of the run that no child of a case was given: the one left out may be the sick one.
fn left_unmeasured(scope: Scope, evidence: &Evidence) -> Option<String> {
    let devices = evidence.parts.iter().flat_map(|part| &part.devices);
    let measured = devices.map(|device| device.gpu).collect::<BTreeSet<u32>>().len();
    let wanted = match scope {
        Scope::Host => 0,
        Scope::OneGpu => 1.min(evidence.gpus as usize),
        Scope::EachGpu | Scope::Node => evidence.gpus as usize,
    };
    let left_out = measured < wanted;
    left_out.then(|| format!("{measured} of {} GPUs of the run were measured", evidence.gpus))
}

/// Why an integrity metric does not speak for all that a part measured; none where it does. GPUs that share a figure,
/// in their order, have an entry of their own, or their parts have entries that make up the whole. And where all
/// entries are of one GPU each, or of several pairs, none has fewer than another; of groups the members share them.
fn unchecked(part: &Part, integrity: &[&str], name: &str) -> Option<String> {
    let metrics = || part.metrics.iter().filter(|metric| metric.name == name);
    let all_of = |count: usize| metrics().all(|metric| metric.gpus.len() == count);
    let sets: BTreeSet<&Vec<u32>> = metrics().map(|metric| &metric.gpus).collect();
    let bare = |gpus: &&Vec<u32>| {
        let inside =
            |set: &&&Vec<u32>| set.len() < gpus.len() && set.iter().all(|gpu| gpus.contains(gpu));
        let spoken: BTreeSet<u32> =
            sets.iter().filter(inside).flat_map(|set| set.iter().copied()).collect();
        !sets.contains(*gpus) && gpus.iter().any(|gpu| !spoken.contains(gpu))
    };
    let figures = part.metrics.iter().filter(|metric| !integrity.contains(&metric.name.as_str()));
    let own: BTreeSet<u32> = part.devices.iter().map(|device| device.gpu).collect();
    let of_part = |gpus: &&Vec<u32>| gpus.iter().all(|gpu| own.contains(gpu));
    if let Some(gpus) = figures.map(|metric| &metric.gpus).filter(of_part).find(bare) {
        let gpus: Vec<String> = gpus.iter().map(|gpu| format!("gpu{gpu}")).collect();
        return Some(format!("metric {name} has no entry of {}", gpus.join("-")));
    }
    let pairs = all_of(2) && sets.len() > 1;
    if !(all_of(1) || pairs) {
        return None;
    }
    let mut entries: BTreeMap<u32, usize> = part.devices.iter().map(|d| (d.gpu, 0)).collect();
    for gpu in metrics().flat_map(|metric| &metric.gpus) {
        *entries.entry(*gpu).or_default() += 1;
    }
    let most = entries.values().max()?;
    let (gpu, least) = entries.iter().min_by_key(|(_, count)| **count)?;
    (least < most)
        .then(|| format!("metric {name} has {least} entries of gpu{gpu}, {most} of another"))
}

/// Integrity metrics: there, and zero, in every part.
fn wrong_bits(question: &Question, evidence: &Evidence) -> Option<Judgement> {
    for part in &evidence.parts {
        for name in question.case.integrity {
            let mut metrics = part.metrics.iter().filter(|m| m.name == *name).peekable();
            if metrics.peek().is_none() {
                let reason = format!("{}metric {name} is missing", on(part));
                return Some(bare(question, Verdict::Broken, reason));
            }
            for metric in metrics {
                let bad = metric.values.iter().zip(1..).find(|(value, _)| **value != 0.0);
                let Some((value, index)) = bad else { continue };
                let which = match metric.values.len() {
                    1 => String::new(),
                    count => format!(" (value {index} of {count})"),
                };
                let gpu = metric.gpus.first().copied().or(alone(part));
                let place: Vec<String> =
                    metric.at.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                let reason = format!(
                    "{name} = {value}{which}{}{}, wanted 0: wrong bits",
                    gpu.map_or(String::new(), |gpu| format!(" on gpu{gpu}")),
                    if place.is_empty() {
                        String::new()
                    } else {
                        format!(" at {}", place.join(", "))
                    },
                );
                let mut judgement = bare(question, Verdict::Corrupt, reason);
                judgement.culprit = gpu;
                return Some(judgement);
            }
        }
    }
    // What is there speaks first: a wrong bit is not hidden by an entry that is missing.
    evidence.parts.iter().find_map(|part| {
        let integrity = question.case.integrity;
        let reason = integrity.iter().find_map(|name| unchecked(part, integrity, name))?;
        Some(bare(question, Verdict::Broken, format!("{}{reason}", on(part))))
    })
}

/// A claim's own metric that is called exact: neither interval nor disturbance is asked of it.
fn called_exact<'a>(claim: &Claim, evidence: &'a Evidence) -> Option<&'a Metric> {
    let metrics = evidence.parts.iter().flat_map(|part| &part.metrics);
    metrics.into_iter().find(|metric| metric.is_of(claim) && metric.kind == MetricKind::Exact)
}

fn judge_series(
    question: &Question,
    evidence: &Evidence,
    reference: &EvidenceRef,
    board: Option<&BoardGolden>,
    series: &[Series],
) -> Judgement {
    let claim = question.claim;
    let bounds = match Bounds::of(claim, question.goldens, board) {
        Ok(bounds) => bounds,
        Err(reason) => return bare(question, Verdict::Broken, reason),
    };
    if board.is_some_and(|board| board.bound(claim.id, claim.figure()).is_some())
        && let Some(metric) = called_exact(claim, evidence)
    {
        let reason =
            format!("metric {} is called exact, its golden was made of samples", metric.name);
        return bare(question, Verdict::Broken, reason);
    }
    let decisive = bounds.decisive(claim, series);
    let mut judgement = bare(question, Verdict::Verified, String::new());
    judgement.measured = decisive.map(|s| series::measured(claim, s, series.len()));
    judgement.bounds = bounds.views(claim, series, reference);
    judgement.controls = controls::views(question, evidence, board);
    if let Some(beyond) = bounds.beyond_physics(series) {
        judgement.verdict = Verdict::Broken;
        judgement.culprit = single(&beyond.gpus);
        judgement.reason = bounds.physics_message(claim, beyond);
        return judgement;
    }
    let (verdict, reason) = weigh(question, evidence, &bounds, &judgement);
    judgement.verdict = verdict;
    judgement.reason = reason;
    let blamed = matches!(verdict, Verdict::Refuted | Verdict::Regressed | Verdict::Corrupt);
    judgement.culprit = decisive.filter(|_| blamed).and_then(|s| single(&s.gpus));
    judgement.note = bounds.improvement(claim, series);
    judgement
}

/// Puts bounds, controls and circumstances together; the first that speaks decides.
fn weigh(
    question: &Question,
    evidence: &Evidence,
    bounds: &Bounds,
    judgement: &Judgement,
) -> (Verdict, String) {
    let claim = question.claim;
    let standing = |kind| judgement.bounds.iter().find(|bound| bound.kind == kind);
    let documented = standing(bounds::DOCUMENTED);
    let golden = standing(bounds::GOLDEN);
    let is = |bound: Option<&BoundView>, wanted| bound.is_some_and(|b| b.standing == wanted);
    let message = |bound: Option<&BoundView>| bounds::message(judgement, bound);
    let disturbed = disturbance(claim, evidence);
    if is(documented, Standing::Missed) {
        return match disturbed {
            Some(reason) => (Verdict::Inconclusive, format!("{reason}; {}", message(documented))),
            None => (Verdict::Refuted, message(documented)),
        };
    }
    if let Some(missed) = judgement.controls.iter().find(|view| view.caught == Some(false)) {
        let name = missed.control.name;
        return (Verdict::Broken, format!("control {name} was not caught: {}", missed.detail));
    }
    if let Some(reason) = disturbed {
        return (Verdict::Inconclusive, reason);
    }
    if is(golden, Standing::Missed) {
        let blame = bounds.blame(evidence);
        return (Verdict::Regressed, format!("{}; {blame}", message(golden)));
    }
    for bound in [documented, golden] {
        if is(bound, Standing::Straddles) {
            return (Verdict::Inconclusive, format!("straddles the bound: {}", message(bound)));
        }
    }
    if let Some(reason) = bounds.unjudged(claim, judgement) {
        return (Verdict::NotRun { explained: claim.kind == Kind::FalseRecord }, reason);
    }
    (Verdict::Verified, String::new())
}

/// Throttle reasons that mean a sick or starved machine; a software power cap does not: at its
/// power limit a healthy GPU runs there.
const SICK_THROTTLES: &[&str] = &["hw_slowdown", "hw_thermal", "hw_power_brake", "sw_thermal"];

/// What stands first where telemetry is missing, which is the suite's own fault and no neighbour's.
pub(crate) const UNWATCHED: &str = "nothing watched";

/// Whether somebody else used the GPU, which never ticks, or something disturbed a sampled figure.
fn disturbance(claim: &Claim, evidence: &Evidence) -> Option<String> {
    if evidence.shared {
        return Some("other processes used the GPU while it was measured".into());
    }
    let own = |metric: &&Metric| metric.is_of(claim) && metric.kind == MetricKind::Sampled;
    let mut sampled = false;
    for part in &evidence.parts {
        for gpu in part.metrics.iter().filter(own).flat_map(|metric| &metric.gpus) {
            sampled = true;
            // Unknown health is not health.
            if !part.telemetry.iter().any(|seen| seen.gpu == *gpu && seen.samples > 0) {
                return Some(format!("{UNWATCHED} gpu{gpu} while it was measured"));
            }
        }
    }
    if !sampled {
        return None;
    }
    for telemetry in evidence.parts.iter().flat_map(|part| &part.telemetry) {
        for reason in SICK_THROTTLES {
            match telemetry.throttle_percent.get(*reason) {
                Some(percent) if *percent > 0.0 => {
                    let gpu = telemetry.gpu;
                    return Some(format!(
                        "gpu{gpu} throttled ({reason}, {percent:.1} % of samples)"
                    ));
                }
                _ => {}
            }
        }
    }
    None
}

/// `gpu3: ` for a part of one GPU.
fn on(part: &Part) -> String {
    alone(part).map_or(String::new(), |gpu| format!("gpu{gpu}: "))
}

fn alone(part: &Part) -> Option<u32> {
    match part.devices.as_slice() {
        [device] => Some(device.gpu),
        _ => None,
    }
}

fn single(gpus: &[u32]) -> Option<u32> {
    match gpus {
        [gpu] => Some(*gpu),
        _ => None,
    }
}
