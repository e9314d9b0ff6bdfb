//! The judge tried on planted faults: broken evidence that must never be verified.
//!
//! Runs as a host claim on every machine, so that an operator need not trust our own test runs.

use std::collections::BTreeMap;

use crate::case::{Case, Control, Expect, Scope};
use crate::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use crate::digest;
use crate::evidence::{
    self, ControlEvidence, Device, Evidence, Failure, How, KernelUse, Metric, Mode, Outcome, Part,
    SCHEMA, Telemetry, Tier,
};
use crate::golden::{
    Board, BoardGolden, Bound, Documented, Goldens, Peak, Promise, Rivals, Targets,
};
use crate::judge::{EvidenceRef, Found, Judgement, Question, Verdict};

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// Faults that were planted.
    pub planted: usize,
    /// Names of those that were not seen for what they are.
    pub missed: Vec<&'static str>,
}

pub(crate) static RATE: Claim = Claim {
    id: "selfcheck::rate",
    text: "The planted rate is reached.",
    source: Source { document: "touchstone", section: "self-check", printed: "", board: "" },
    relation: Relation::AtLeast,
    case: "selfcheck::case",
    metric: "read_gbps",
    at: &[],
    reduce: Reduce::Worst,
    ceiling: Some("hbm_gbps"),
    gpus: GpuCount::AtLeast(1),
    kind: Kind::Claim,
};

pub(crate) static CASE: Case = Case {
    id: "selfcheck::case",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "none: synthetic evidence",
    samples: 9,
    expected_s: 0.0,
    deadline_s: 0.0,
    kernels: &["stream"],
    integrity: &["wrong_count"],
    controls: &[
        Control {
            name: "slow",
            fault: "a share of the data is moved twice",
            trips: "read_gbps",
            expect: Expect::Regressed,
        },
        Control {
            name: "flip",
            fault: "one bit is flipped",
            trips: "wrong_count",
            expect: Expect::Corrupt,
        },
    ],
    run: |_, _| Ok(()),
};

pub(crate) static SIBLINGS: &[&Claim] = &[&RATE];

/// One planted fault: what it is called, what it does, and the verdict that it must get.
type Fault = (&'static str, fn(&mut Evidence), Verdict);

const NOT_RUN: Verdict = Verdict::NotRun { explained: false };

/// The faults. Each starts from evidence that is verified.
const FAULTS: &[Fault] = &[
    ("one gpu under the documented bound", |e| rate(e, 1, 300.0), Verdict::Refuted),
    ("one gpu under its golden", |e| rate(e, 1, 970.0), Verdict::Regressed),
    ("one gpu on the edge of its golden", |e| rate(e, 0, 980.0), Verdict::Inconclusive),
    ("one gpu beyond its physical peak", |e| rate(e, 0, 1300.0), Verdict::Broken),
    ("one wrong bit", |e| e.parts[1].metrics[1].values = vec![1.0], Verdict::Corrupt),
    ("no integrity metric", |e| drop(e.parts[0].metrics.remove(1)), Verdict::Broken),
    ("no rate on one gpu", |e| drop(e.parts[1].metrics.remove(0)), Verdict::Broken),
    ("too few samples", |e| e.parts[0].metrics[0].values.truncate(3), Verdict::Broken),
    ("not a number", |e| e.parts[0].metrics[0].values[0] = f64::NAN, Verdict::Broken),
    (
        "an infinite rate",
        |e| e.parts[0].metrics[0].values = vec![f64::INFINITY; 9],
        Verdict::Broken,
    ),
    ("another unit", |e| e.parts[0].metrics[0].name = "read_mbps".into(), Verdict::Broken),
    ("a control that was not planted", |e| e.parts[1].controls.clear(), Verdict::Broken),
    ("a control that nothing saw", blind_control, Verdict::Broken),
    ("a hang", |e| fail(e, How::Hang), Verdict::Broken),
    ("a crash", |e| fail(e, How::Crash), Verdict::Broken),
    ("an out-of-memory kill", |e| fail(e, How::Killed), Verdict::Broken),
    ("an interrupted child", |e| fail(e, How::Interrupted), Verdict::Broken),
    ("an xid", |e| e.parts[0].xids.push(48), Verdict::Broken),
    ("an uncorrected memory error", |e| moved(e, "ecc_uncorrected_volatile"), Verdict::Broken),
    ("a silent fallback", fallback, Verdict::Broken),
    ("a kernel that is not named", |e| e.parts[0].kernels.clear(), Verdict::Broken),
    ("a gpu that others use", |e| e.shared = true, Verdict::Inconclusive),
    ("thermal throttling", throttled, Verdict::Inconclusive),
    ("a gpu that nothing watched", |e| e.parts[1].telemetry.clear(), Verdict::Inconclusive),
    ("a stale kernel", |e| e.parts[0].kernels[0].source_sha256 = "old".into(), Verdict::Stale),
    ("a stale procedure", |e| e.revision = 0, Verdict::Stale),
    ("a reworded claim", |e| drop(e.claims.insert(RATE.id.into(), "old".into())), Verdict::Stale),
    ("evidence of another case", |e| e.case = "selfcheck::other".into(), Verdict::Stale),
    ("a missing library", |e| skip(e, "libnvrtc.so.13 not found"), NOT_RUN),
];

/// A fault of an evidence file: what it is called and what it does to the text.
type FileFault = (&'static str, fn(&str) -> String);

/// Faults of evidence files that must not even be read.
const FILE_FAULTS: &[FileFault] = &[
    ("a file that was cut", |text| text[..text.len() / 2].to_owned()),
    ("an unknown field", |text| text.replacen('{', "{\"extra\":1,", 1)),
    ("another schema", |text| text.replacen("\"schema\":1", "\"schema\":2", 1)),
    ("a missing field", |text| text.replacen("\"revision\":1,", "", 1)),
    ("null for a sample", |text| text.replacen("1000.01", "null", 1)),
    ("a negative duration", |text| text.replacen("\"wall_s\":1.0", "\"wall_s\":-1.0", 1)),
    ("an empty file", |_| String::new()),
];

/// Plants every fault and asks `judge`. The judge is a parameter so that a blind one can be shown
/// to be found out.
pub fn run(judge: &dyn Fn(&Question) -> Judgement) -> Score {
    let goldens = goldens();
    let mut missed = Vec::new();
    let healthy = healthy();
    if ask(judge, &goldens, &healthy) != Verdict::Verified {
        missed.push("healthy evidence");
    }
    for (name, plant, expected) in FAULTS {
        let mut evidence = healthy.clone();
        plant(&mut evidence);
        if ask(judge, &goldens, &evidence) != *expected {
            missed.push(name);
        }
    }
    let text = evidence::render(&healthy).unwrap_or_default();
    for (name, plant) in FILE_FAULTS {
        let broken = plant(&text);
        let refused = match evidence::parse(&broken) {
            Err(reason) => {
                let found = Found::Unreadable(reason);
                judge(&question(&goldens, found)).verdict == Verdict::Broken
            }
            Ok(_) => false,
        };
        if !refused || broken == text {
            missed.push(name);
        }
    }
    Score { planted: 1 + FAULTS.len() + FILE_FAULTS.len(), missed }
}

fn ask(judge: &dyn Fn(&Question) -> Judgement, goldens: &Goldens, evidence: &Evidence) -> Verdict {
    let reference = EvidenceRef {
        path: String::new(),
        sha256: digest::sha256_hex(b""),
        run: evidence.run.clone(),
        run_sha256: None,
        origin: None,
        day: String::new(),
        board: "board".into(),
        gpus: evidence.gpus,
        recovered: false,
        other_runs: None,
        worded: None,
    };
    judge(&question(goldens, Found::Evidence(evidence, reference))).verdict
}

fn question<'a>(goldens: &'a Goldens, found: Found<'a>) -> Question<'a> {
    Question {
        claim: &RATE,
        case: &CASE,
        siblings: SIBLINGS,
        found,
        goldens,
        kernel_source: &|_, _| Some(source()),
    }
}

/// Digest of the source of the planted kernel.
pub(crate) fn source() -> String {
    digest::sha256_hex(b"source")
}

/// Digest of its machine code.
pub(crate) fn cubin() -> String {
    digest::sha256_hex(b"cubin")
}

fn samples(middle: f64) -> Vec<f64> {
    (0..9).map(|i| middle + 0.01 * (f64::from(i) - 4.0)).collect()
}

fn rate(evidence: &mut Evidence, part: usize, middle: f64) {
    evidence.parts[part].metrics[0].values = samples(middle);
}

fn blind_control(evidence: &mut Evidence) {
    evidence.parts[0].controls[0].metrics[0].values = samples(1000.0);
}

fn fail(evidence: &mut Evidence, how: How) {
    evidence.parts[1].outcome =
        Outcome::Failed(Failure { how, detail: "planted".into(), repro: String::new() });
}

fn skip(evidence: &mut Evidence, reason: &str) {
    evidence.parts[0].outcome = Outcome::NotRun(reason.into());
}

fn fallback(evidence: &mut Evidence) {
    let mode = Mode { what: "dtype".into(), asked: "fp8".into(), active: "fp16".into() };
    evidence.parts[0].modes.push(mode);
}

fn moved(evidence: &mut Evidence, counter: &str) {
    evidence.parts[0].telemetry[0].counters_moved.insert(counter.into(), [0, 1]);
}

fn throttled(evidence: &mut Evidence) {
    evidence.parts[0].telemetry[0].throttle_percent.insert("hw_thermal".into(), 30.0);
}

pub(crate) fn healthy() -> Evidence {
    Evidence {
        schema: SCHEMA,
        case: CASE.id.into(),
        revision: CASE.revision,
        run: "selfcheck".into(),
        gpus: 2,
        tier: Tier::Quick,
        pci_device_id: "0000".into(),
        shared: false,
        claims: BTreeMap::from([(RATE.id.into(), RATE.digest())]),
        parts: vec![part(0), part(1)],
    }
}

fn part(gpu: u32) -> Part {
    let rate = |middle| Metric::sampled("read_gbps", &[], &[gpu], samples(middle));
    let wrong = |count| Metric::exact("wrong_count", &[], &[gpu], count);
    let control = |name: &str, metric| ControlEvidence { name: name.into(), metrics: vec![metric] };
    Part {
        attempt: 1,
        devices: vec![Device {
            gpu,
            uuid_sha256: digest::sha256_hex(&gpu.to_le_bytes()),
            name: "planted".into(),
            pci_device_id: "0000".into(),
            compute_capability: "9.0".into(),
            memory_bytes: 1,
            power_limit_w: 700.0,
            sm_clock_max_mhz: 1980,
            memory_clock_max_mhz: 3201,
            memory_bus_bits: 1,
            ecc: Some(true),
        }],
        started: "2026-01-01T00:00:00Z".into(),
        wall_s: 1.0,
        outcome: Outcome::Completed,
        options: BTreeMap::new(),
        versions: BTreeMap::new(),
        modes: vec![],
        kernels: vec![KernelUse {
            name: "stream".into(),
            architecture: "sm_90a".into(),
            compiler: "none".into(),
            source_sha256: source(),
            cubin_sha256: cubin(),
        }],
        // Two GPUs never measure the same samples.
        metrics: vec![rate(1000.0 + 0.001 * f64::from(gpu)), wrong(0.0)],
        // The near fault shows a tolerance of 2 %: (1000 - 920) / 1000 / 4.
        controls: vec![control("slow", rate(920.0)), control("flip", wrong(1.0))],
        telemetry: vec![Telemetry::quiet(gpu)],
        xids: vec![],
        progress: String::new(),
        log_tail: String::new(),
    }
}

pub(crate) fn goldens() -> Goldens {
    let promise = Promise {
        at_least: Some(400.0),
        at_most: None,
        equals: None,
        of: None,
        suffices: false,
        because: "planted".into(),
        record: None,
        was: Vec::new(),
    };
    let bound = Bound {
        golden: 1000.0,
        worse: 0.02,
        because: "planted".into(),
        runs: vec![],
        cubins: BTreeMap::new(),
        accepted: None,
        before: None,
    };
    let board = BoardGolden {
        schema: 1,
        board: Board {
            name: "board".into(),
            title: "planted".into(),
            pci_device_ids: vec!["0000".into()],
            compute_capability: "9.0".into(),
        },
        peaks: BTreeMap::from([(
            "hbm_gbps".into(),
            Peak { value: 1200.0, source: "planted".into() },
        )]),
        skip_budget: 0,
        skip: BTreeMap::new(),
        claims: BTreeMap::from([(RATE.id.into(), BTreeMap::from([(RATE.metric.into(), bound)]))]),
    };
    Goldens {
        documented: Documented {
            schema: 1,
            claims: BTreeMap::from([(RATE.id.into(), promise)]),
            refuted: BTreeMap::new(),
        },
        boards: BTreeMap::from([("board".into(), board)]),
        targets: Targets { schema: 1, target: vec![] },
        rivals: Rivals { schema: 1, rival: vec![] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_fault_is_seen_and_a_blind_judge_is_found_out() {
        let score = run(&crate::judge::judge);
        assert_eq!(score.missed, Vec::<&str>::new());
        assert!(score.planted >= 30);
        let blind = |question: &Question| Judgement {
            verdict: Verdict::Verified,
            ..crate::judge::judge(question)
        };
        assert_eq!(run(&blind).missed.len(), score.planted - 1);
    }
}
