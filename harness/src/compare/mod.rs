//! `touchstone compare A B`: two runs of one board, claim by claim: faster, slower, same,
//! ambiguous.
//!
//! - A difference counts if the two 95 % intervals do not touch, the medians lie further apart than
//!   healthy runs do (the golden's tolerance), and clock cycles say the same (see [`weigh`]). Where
//!   there is no golden of what is no rate, the documented limit tells good from bad.
//! - Boards are never compared with each other.
//! - Compare explains; the golden decides: CI goes by the verdicts of a run, not by its neighbour.

pub mod command;
mod open;
mod output;
mod weigh;

use std::collections::{BTreeMap, BTreeSet};

use crate::bless;
use crate::case::Case;
use crate::claim::{Claim, GpuCount, Relation};
use crate::evidence::{Evidence, Telemetry};
use crate::golden::{BoardGolden, Bound, Goldens, Promise};
use crate::judge::{self, Measured, Unfit};
use crate::recorded::{self, FinishedRun, FoundEvidence};
use crate::report::number;
use crate::world::World;

pub use open::{Opened, open};
pub use weigh::{Figure, Outcome, Question, Tolerance, weigh};

/// What keeps two runs from being compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Neither a recorded run, nor a folder, nor an archive.
    #[error("{given}: {why}")]
    NoRun {
        /// As it was given.
        given: String,
        /// What was looked for.
        why: String,
    },
    /// A file cannot be read.
    #[error("{0}")]
    Read(String),
    /// The runs are of different boards.
    #[error("A is of {a}, B of {b}: runs of different boards are not compared")]
    Boards {
        /// Board of A.
        a: String,
        /// Board of B.
        b: String,
    },
    /// Nothing is in both.
    #[error("no claim has a figure in both runs: nothing is compared")]
    Nothing,
}

/// A figure of one run, as it is printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// The deciding series.
    pub measured: Measured,
    /// Mean SM clock of its GPUs while it was measured, MHz; none where nothing watched them.
    pub clock_mhz: Option<f64>,
}

/// A claim in both runs.
#[derive(Debug, Clone)]
pub struct Row {
    /// The claim.
    pub claim: &'static Claim,
    /// How B stands to A.
    pub outcome: Outcome,
    /// The deciding series of both; none where one has no figure.
    pub sides: Option<(Side, Side)>,
    /// Change of the figure from A to B, percent of A; positive is more.
    pub change_percent: Option<f64>,
    /// Why.
    pub reason: String,
}

/// Two runs compared.
#[derive(Debug)]
pub struct Comparison {
    /// The board of both.
    pub board: String,
    /// The manifests, A first.
    pub runs: [FinishedRun; 2],
    /// Every claim that either run has evidence of, in order of the claims.
    pub rows: Vec<Row>,
}

impl Comparison {
    /// How many claims had this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.rows.iter().filter(|row| row.outcome == outcome).count()
    }
}

/// Compares two runs of one board over all claims of the world.
pub fn compare(
    world: &World,
    goldens: &Goldens,
    a: &FinishedRun,
    b: &FinishedRun,
) -> Result<Comparison, CompareError> {
    let (board, other) = (board_of(goldens, a)?, board_of(goldens, b)?);
    if board != other {
        return Err(CompareError::Boards { a: board, b: other });
    }
    let mut rows = Vec::new();
    // Claims of one case share a file of each run.
    let mut read: BTreeMap<&str, [FoundEvidence; 2]> = BTreeMap::new();
    for claim in world.claims.iter().filter(|claim| claim.gpus != GpuCount::Host) {
        let case = world.case_of(claim).map_err(CompareError::Read)?;
        let both = || [a, b].map(|run| recorded::read(run, case.id));
        let found = read.entry(case.id).or_insert_with(both);
        if found.iter().all(|found| matches!(found, FoundEvidence::Nothing(_))) {
            continue;
        }
        let golden = goldens.boards.get(&board);
        let subject = Subject {
            claim,
            case,
            bound: golden.and_then(|golden| golden.bound(claim.id, claim.figure())),
            promise: goldens.documented.claims.get(claim.id),
            board: golden,
        };
        rows.push(subject.row(found));
    }
    let comparison = Comparison { board, runs: [a.clone(), b.clone()], rows };
    if comparison.count(Outcome::NotCompared) == comparison.rows.len() {
        return Err(CompareError::Nothing);
    }
    Ok(comparison)
}

/// Name of a run's board by today's goldens.
fn board_of(goldens: &Goldens, run: &FinishedRun) -> Result<String, CompareError> {
    let ids: BTreeSet<&str> =
        run.run.devices.iter().map(|device| device.pci_device_id.as_str()).collect();
    match ids.first() {
        Some(id) if ids.len() == 1 => Ok(goldens.board_name(id)),
        Some(_) => Err(CompareError::NoRun {
            given: run.run.run.clone(),
            why: "its GPUs are of several boards".to_owned(),
        }),
        None => Err(CompareError::NoRun {
            given: run.run.run.clone(),
            why: "it measured no GPU".to_owned(),
        }),
    }
}

/// A claim with what it is compared by.
struct Subject<'a> {
    claim: &'static Claim,
    case: &'static Case,
    bound: Option<&'a Bound>,
    promise: Option<&'a Promise>,
    board: Option<&'a BoardGolden>,
}

impl Subject<'_> {
    fn row(&self, found: &[FoundEvidence; 2]) -> Row {
        let [a, b] = match found {
            [FoundEvidence::Evidence(a, _), FoundEvidence::Evidence(b, _)] => [a, b],
            [a, b] => return self.without(lack(a, b)),
        };
        if let Some(reason) = self.moved(a, b) {
            return self.without((Outcome::NotCompared, reason));
        }
        match (judge::measured(self.claim, self.case, a), judge::measured(self.claim, self.case, b))
        {
            (Ok(of_a), Ok(of_b)) => self.weighed((a, &of_a), (b, &of_b)),
            (of_a, of_b) => self.without(unfit(of_a.err(), of_b.err())),
        }
    }

    /// A row without figures.
    fn without(&self, (outcome, reason): (Outcome, String)) -> Row {
        Row { claim: self.claim, outcome, sides: None, change_percent: None, reason }
    }

    /// What moved between the two, so that their figures do not mean the same.
    fn moved(&self, a: &Evidence, b: &Evidence) -> Option<String> {
        let id = self.claim.id;
        let counts = |evidence: &Evidence| bless::holds_figures(self.case, evidence);
        if a.revision != b.revision && !(counts(a) && counts(b)) {
            let (in_a, in_b) = (a.revision, b.revision);
            return Some(format!("measured by revision {in_a} in A, {in_b} in B"));
        }
        // Today's sentence and those that are known to have promised no less count as one, here an empty digest.
        let digest_in = |evidence: &Evidence| {
            let digest = evidence.claims.get(id)?;
            let known = self.claim.sentence_of(self.promise, digest).is_some();
            Some(if known { String::new() } else { digest.clone() })
        };
        match (digest_in(a), digest_in(b)) {
            (None, None) => return Some("the claim is younger than both runs".to_owned()),
            (of_a, of_b) if of_a != of_b => {
                return Some("the claim was reworded between the runs, or is new".to_owned());
            }
            _ => {}
        }
        let whole_node = self.case.scope == crate::case::Scope::Node;
        (whole_node && a.gpus != b.gpus)
            .then(|| format!("measured over {} GPUs in A, {} in B", a.gpus, b.gpus))
    }

    /// Each GPU against itself where both runs had the same ones, else the worst against the worst;
    /// the worst outcome decides.
    fn weighed(&self, a: (&Evidence, &[Measured]), b: (&Evidence, &[Measured])) -> Row {
        let mut rows: Vec<Row> = pairs(self.claim, a, b)
            .into_iter()
            .map(|(of_a, of_b)| self.pair(a.0, of_a, b.0, of_b))
            .collect();
        // The first of equals stays first: the sort is stable.
        rows.sort_by_key(|row| row.outcome);
        let mut rows = rows.into_iter();
        let none = || self.without((Outcome::NotCompared, "no series in common".to_owned()));
        let mut row = rows.next().unwrap_or_else(none);
        if row.outcome == Outcome::Worse {
            let blame = machine_code(a.0, b.0);
            row.reason = format!("{}; {blame}", row.reason);
        }
        row
    }

    fn pair(&self, in_a: &Evidence, a: &Measured, in_b: &Evidence, b: &Measured) -> Row {
        let side = |evidence: &Evidence, measured: &Measured| Side {
            measured: measured.clone(),
            clock_mhz: mean_clock_mhz(self.claim, evidence, &measured.gpus),
        };
        let (a, b) = (side(in_a, a), side(in_b, b));
        let figure = |side: &Side| Figure {
            value: side.measured.value,
            interval: side.measured.interval,
            clock_mhz: side.clock_mhz,
        };
        let limit = self.promise.filter(|promise| promise.equals.is_none());
        let limit = limit.and_then(|promise| promise.limit(self.board).ok());
        let (outcome, reason) = weigh(&Question {
            relation: self.claim.relation,
            unit: self.claim.unit(),
            tolerance: Tolerance::of(self.claim.unit(), self.bound.map(|b| b.worse), limit),
            promised: self.promise.and_then(|promise| promise.equals),
            a: figure(&a),
            b: figure(&b),
        });
        let change = 100.0 * (b.measured.value - a.measured.value) / a.measured.value.abs();
        Row {
            claim: self.claim,
            outcome,
            change_percent: change.is_finite().then_some(change),
            sides: Some((a, b)),
            reason,
        }
    }
}

/// Two runs of which one has no readable evidence of a case.
fn lack(a: &FoundEvidence, b: &FoundEvidence) -> (Outcome, String) {
    let say = |run: &str, found: &FoundEvidence| match found {
        FoundEvidence::Unreadable(reason) => format!("{run} is unreadable: {reason}"),
        FoundEvidence::Nothing(_) => format!("{run} did not measure it"),
        FoundEvidence::Evidence(..) => String::new(),
    };
    let said = [say("A", a), say("B", b)];
    let said: Vec<String> = said.into_iter().filter(|text| !text.is_empty()).collect();
    (Outcome::NotCompared, said.join(", "))
}

/// Two runs of which one has no figure that counts. What failed or went wrong only in B is worse.
fn unfit(a: Option<Unfit>, b: Option<Unfit>) -> (Outcome, String) {
    let bad = |unfit: &Option<Unfit>| matches!(unfit, Some(Unfit::WrongBits(_) | Unfit::Failed(_)));
    let outcome = match (&a, &b) {
        (Some(Unfit::Missing(_)), _) | (_, Some(Unfit::Missing(_))) => Outcome::NotCompared,
        (a, b) if !bad(a) && bad(b) => Outcome::Worse,
        (a, b) if bad(a) && !bad(b) && b.is_none() => Outcome::Better,
        (a, b) if bad(a) && bad(b) => Outcome::NotCompared,
        _ => Outcome::Ambiguous,
    };
    let say = |run: &str, unfit: &Option<Unfit>| unfit.as_ref().map(|why| format!("{run}: {why}"));
    let said: Vec<String> = [say("A", &a), say("B", &b)].into_iter().flatten().collect();
    (outcome, said.join("; "))
}

/// Series of A beside those of B: by GPU where both runs had the same GPUs, else the two worst.
fn pairs<'a>(
    claim: &Claim,
    (in_a, a): (&Evidence, &'a [Measured]),
    (in_b, b): (&Evidence, &'a [Measured]),
) -> Vec<(&'a Measured, &'a Measured)> {
    let of_a = by_gpus(in_a, a);
    let of_b = by_gpus(in_b, b);
    let same = of_a.len() == a.len() && of_b.len() == b.len() && of_a.keys().eq(of_b.keys());
    if same {
        return of_a.into_values().zip(of_b.into_values()).collect();
    }
    worst(claim, a).zip(worst(claim, b)).into_iter().collect()
}

/// Series by the hashed UUIDs of their GPUs.
fn by_gpus<'a>(evidence: &Evidence, series: &'a [Measured]) -> BTreeMap<Vec<String>, &'a Measured> {
    let devices = || evidence.parts.iter().flat_map(|part| &part.devices);
    let uuid = |gpu: &u32| {
        let device = devices().find(|device| device.gpu == *gpu);
        device.map_or_else(|| format!("gpu{gpu}"), |device| device.uuid_sha256.clone())
    };
    series.iter().map(|one| (one.gpus.iter().map(uuid).collect(), one)).collect()
}

/// The worst series of a claim.
pub(crate) fn worst<'a>(claim: &Claim, series: &'a [Measured]) -> Option<&'a Measured> {
    let sign = if claim.relation == Relation::AtLeast { 1.0 } else { -1.0 };
    series.iter().min_by(|a, b| (sign * a.value).total_cmp(&(sign * b.value)))
}

/// Mean SM clock in MHz over the samples of telemetry, of the GPUs that a series names (all for a
/// series of the node), in the parts that hold the claim's metric.
fn mean_clock_mhz(claim: &Claim, evidence: &Evidence, gpus: &[u32]) -> Option<f64> {
    let holds =
        evidence.parts.iter().filter(|part| part.metrics.iter().any(|metric| metric.is_of(claim)));
    let watched: Vec<&Telemetry> = holds
        .flat_map(|part| &part.telemetry)
        .filter(|telemetry| gpus.is_empty() || gpus.contains(&telemetry.gpu))
        .collect();
    let samples: f64 = watched.iter().map(|one| f64::from(one.samples)).sum();
    let sum: f64 = watched.iter().map(|one| one.sm_clock_mhz[1] * f64::from(one.samples)).sum();
    let mean = sum / samples;
    (mean.is_finite() && mean > 0.0).then_some(mean)
}

/// Whether the machine code moved between the runs: else it was the node.
fn machine_code(a: &Evidence, b: &Evidence) -> String {
    let used = |evidence: &Evidence| -> BTreeMap<String, String> {
        let kernels = evidence.parts.iter().flat_map(|part| &part.kernels);
        kernels.map(|kernel| (kernel.name.clone(), kernel.cubin_sha256.clone())).collect()
    };
    let (of_a, of_b) = (used(a), used(b));
    match of_b.iter().find(|(name, sha256)| of_a.get(*name) != Some(*sha256)) {
        Some((name, _)) => format!("other machine code of {name}: our kernel may be slower"),
        None => "the same machine code: the node or its libraries".to_owned(),
    }
}

/// `+1.2 %`.
pub(crate) fn signed_percent(percent: f64) -> String {
    let sign = if percent < 0.0 { "" } else { "+" };
    format!("{sign}{} %", number((percent * 100.0).round() / 100.0))
}
