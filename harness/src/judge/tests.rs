//! The judge, by hand and by property.

mod edges;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::case::{Case, Control, Expect, Scope};
use crate::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use crate::evidence::{
    ControlEvidence, Device, Failure, How, KernelUse, Metric, Mode, SCHEMA, Telemetry, Tier,
};
use crate::golden::{Board, Bound, Documented, Peak, Promise, Rivals, Targets};
use crate::selfcheck;

const SOURCE: Source = Source { document: "a.md", section: "1", printed: "1", board: "" };

const fn claim(id: &'static str, relation: Relation, metric: &'static str) -> Claim {
    Claim {
        id,
        text: "it is fast",
        source: SOURCE,
        relation,
        case: "suite::case",
        metric,
        at: &[("size", "big")],
        reduce: Reduce::Worst,
        ceiling: Some("peak_gbps"),
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

static RATE: Claim = claim("suite::rate", Relation::AtLeast, "read_gbps");
static SPREAD: Claim = Claim {
    id: "suite::spread",
    relation: Relation::AtMost,
    reduce: Reduce::SpreadPercent,
    ceiling: None,
    gpus: GpuCount::AtLeast(2),
    ..claim("suite::spread", Relation::AtMost, "read_gbps")
};
static BITS: Claim =
    Claim { ceiling: None, ..claim("suite::bits", Relation::Holds, "wrong_count") };
static CLAIMS: [&Claim; 3] = [&RATE, &SPREAD, &BITS];

static CASE: Case = Case {
    id: "suite::case",
    revision: 3,
    figures_since: 3,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "",
    samples: 9,
    expected_s: 1.0,
    deadline_s: 9.0,
    kernels: &["stream"],
    integrity: &["wrong_count"],
    controls: &[
        Control { name: "few-sms", fault: "", trips: "read_gbps", expect: Expect::Refuted },
        Control { name: "repeat", fault: "", trips: "read_gbps", expect: Expect::Regressed },
        Control { name: "cached", fault: "", trips: "read_gbps", expect: Expect::Broken },
        Control { name: "flip", fault: "", trips: "wrong_count", expect: Expect::Corrupt },
    ],
    run: |_, _| Ok(()),
};

fn metric(name: &str, gpu: u32, values: &[f64]) -> Metric {
    let at: &[(&str, &str)] = &[("size", "big")];
    match name {
        "wrong_count" => Metric::exact(name, at, &[gpu], values[0]),
        _ => Metric::sampled(name, at, &[gpu], values.to_vec()),
    }
}

fn samples(middle: f64) -> Vec<f64> {
    (0..9).map(|i| middle + 0.01 * (f64::from(i) - 4.0)).collect()
}

fn part(gpu: u32, rate: f64) -> Part {
    let control =
        |name: &str, metric: Metric| ControlEvidence { name: name.into(), metrics: vec![metric] };
    Part {
        attempt: 1,
        devices: vec![Device {
            gpu,
            uuid_sha256: String::new(),
            name: String::new(),
            pci_device_id: "2335".into(),
            compute_capability: "9.0".into(),
            memory_bytes: 1,
            power_limit_w: 700.0,
            sm_clock_max_mhz: 1980,
            memory_clock_max_mhz: 3201,
            memory_bus_bits: 1,
            ecc: Some(true),
        }],
        started: "2026-11-21T00:00:00Z".into(),
        wall_s: 1.0,
        outcome: Outcome::Completed,
        options: BTreeMap::new(),
        versions: BTreeMap::new(),
        modes: vec![],
        kernels: vec![KernelUse {
            name: "stream".into(),
            architecture: "sm_90a".into(),
            compiler: "nvrtc 13.0".into(),
            source_sha256: selfcheck::source(),
            cubin_sha256: selfcheck::cubin(),
        }],
        metrics: vec![metric("read_gbps", gpu, &samples(rate)), metric("wrong_count", gpu, &[0.0])],
        controls: vec![
            control("few-sms", metric("read_gbps", gpu, &samples(100.0))),
            control("repeat", metric("read_gbps", gpu, &samples(970.0))),
            control("cached", metric("read_gbps", gpu, &samples(2000.0))),
            control("flip", metric("wrong_count", gpu, &[1.0])),
        ],
        telemetry: vec![Telemetry::quiet(gpu)],
        xids: vec![],
        progress: String::new(),
        log_tail: String::new(),
    }
}

fn evidence(rates: &[f64]) -> Evidence {
    Evidence {
        schema: SCHEMA,
        case: CASE.id.into(),
        revision: CASE.revision,
        run: "run".into(),
        gpus: rates.len() as u32,
        tier: Tier::Quick,
        pci_device_id: "2335".into(),
        shared: false,
        claims: CLAIMS.iter().map(|claim| (claim.id.to_owned(), claim.digest())).collect(),
        parts: rates.iter().zip(0..).map(|(rate, gpu)| part(gpu, *rate)).collect(),
    }
}

fn promise(figure: f64, relation: Relation, of: Option<&str>) -> Promise {
    let when = |wanted| (relation == wanted).then_some(figure);
    Promise {
        at_least: when(Relation::AtLeast),
        at_most: when(Relation::AtMost),
        equals: when(Relation::Holds),
        of: of.map(str::to_owned),
        suffices: relation == Relation::AtMost,
        because: "because".into(),
        record: None,
        was: Vec::new(),
    }
}

fn goldens() -> Goldens {
    let bound = Bound {
        golden: 1000.0,
        worse: 0.02,
        because: "measured".into(),
        runs: vec!["cal1".into(), "cal2".into(), "cal3".into()],
        cubins: BTreeMap::from([("stream".into(), selfcheck::cubin())]),
        accepted: None,
        before: None,
    };
    let board = BoardGolden {
        schema: 1,
        board: Board {
            name: "board".into(),
            title: "Board".into(),
            pci_device_ids: vec!["2335".into()],
            compute_capability: "9.0".into(),
        },
        peaks: BTreeMap::from([(
            "peak_gbps".into(),
            Peak { value: 1200.0, source: "sheet".into() },
        )]),
        skip_budget: 0,
        skip: BTreeMap::new(),
        claims: BTreeMap::from([(RATE.id.into(), BTreeMap::from([("read_gbps".into(), bound)]))]),
    };
    Goldens {
        documented: Documented {
            schema: 1,
            claims: BTreeMap::from([
                (RATE.id.into(), promise(0.341, Relation::AtLeast, Some("peak_gbps"))),
                (SPREAD.id.into(), promise(2.0, Relation::AtMost, None)),
                (BITS.id.into(), promise(0.0, Relation::Holds, None)),
            ]),
            refuted: BTreeMap::new(),
        },
        boards: BTreeMap::from([("board".into(), board)]),
        targets: Targets { schema: 1, target: vec![] },
        rivals: Rivals { schema: 1, rival: vec![] },
    }
}

fn reference(run_sha256: &str) -> EvidenceRef {
    EvidenceRef {
        path: "p".into(),
        sha256: "s".into(),
        run: "run".into(),
        run_sha256: Some(run_sha256.into()),
        origin: None,
        day: "2026-11-21".into(),
        board: "board".into(),
        gpus: 1,
        recovered: false,
        other_runs: None,
        worded: None,
    }
}

fn ask(claim: &'static Claim, evidence: &Evidence, goldens: &Goldens, run: &str) -> Judgement {
    judge(&Question {
        claim,
        case: &CASE,
        siblings: &CLAIMS,
        found: Found::Evidence(evidence, reference(run)),
        goldens,
        kernel_source: &|_, _| Some(selfcheck::source()),
    })
}

#[track_caller]
fn check(claim: &'static Claim, evidence: &Evidence, verdict: Verdict, words: &str) {
    let judgement = ask(claim, evidence, &goldens(), "tick");
    assert_eq!(judgement.verdict, verdict, "{}", judgement.reason);
    assert!(judgement.reason.contains(words), "{}", judgement.reason);
}

#[track_caller]
fn changed(change: impl Fn(&mut Evidence), verdict: Verdict, words: &str) {
    let mut evidence = evidence(&[1000.0, 1001.0]);
    change(&mut evidence);
    check(&RATE, &evidence, verdict, words);
}

#[test]
fn a_healthy_node_is_verified_and_the_worst_gpu_is_named() {
    let evidence = evidence(&[1010.0, 1000.0, 1005.0]);
    let judgement = ask(&RATE, &evidence, &goldens(), "tick");
    assert_eq!(judgement.verdict, Verdict::Verified, "{}", judgement.reason);
    let measured = judgement.measured.expect("measured");
    assert_eq!(measured.gpus, [1]);
    assert_eq!(judgement.controls.len(), 4);
    assert!(judgement.controls.iter().all(|view| view.caught == Some(true)));
}

#[test]
fn each_bound_gives_its_own_verdict_and_names_the_gpu() {
    check(&RATE, &evidence(&[1000.0, 975.0]), Verdict::Regressed, "on gpu1, wanted >= 980");
    check(&RATE, &evidence(&[1000.0, 400.0]), Verdict::Refuted, "on gpu1, wanted >= 409.2");
    check(&RATE, &evidence(&[1000.0, 1300.0]), Verdict::Broken, "beyond the physical peak");
    check(&RATE, &evidence(&[1000.0, 980.0]), Verdict::Inconclusive, "straddles");
    let judgement = ask(&RATE, &evidence(&[1000.0, 975.0]), &goldens(), "tick");
    assert_eq!(judgement.culprit, Some(1));
}

#[test]
fn a_regression_says_whether_node_or_kernel_is_to_blame() {
    check(&RATE, &evidence(&[975.0]), Verdict::Regressed, "the node is slower");
    let mut other = evidence(&[975.0]);
    other.parts[0].kernels[0].cubin_sha256 = "another".into();
    check(&RATE, &other, Verdict::Regressed, "our kernel may be slower");
}

#[test]
fn a_spread_is_judged_over_gpus_and_can_fail() {
    check(&SPREAD, &evidence(&[1000.0, 1001.0]), Verdict::Verified, "");
    check(&SPREAD, &evidence(&[1000.0, 1100.0]), Verdict::Refuted, "spread_percent");
    check(&SPREAD, &evidence(&[1000.0]), Verdict::NotRun { explained: true }, "needs 2 GPUs");
}

#[test]
fn wrong_bits_come_before_speed() {
    changed(|e| e.parts[1].metrics[1].values = vec![2.0], Verdict::Corrupt, "on gpu1");
    let mut wrong = evidence(&[1000.0]);
    wrong.parts[0].metrics[1].values = vec![1.0];
    check(&BITS, &wrong, Verdict::Corrupt, "wrong bits");
}

#[test]
fn what_is_missing_is_never_a_pass() {
    changed(|e| drop(e.parts[1].metrics.remove(0)), Verdict::Broken, "missing on gpu1");
    changed(|e| drop(e.parts[0].metrics.remove(1)), Verdict::Broken, "wrong_count is missing");
    changed(|e| e.parts[0].metrics[0].values.truncate(5), Verdict::Broken, "5 samples");
    changed(|e| e.parts[0].metrics[0].values[3] = f64::NAN, Verdict::Broken, "NaN");
    changed(|e| e.parts[0].kernels.clear(), Verdict::Broken, "which kernel");
    changed(|e| drop(e.parts[0].controls.remove(1)), Verdict::Broken, "repeat was not caught");
}

#[test]
fn an_uncaught_control_breaks_the_claim() {
    let passes = |e: &mut Evidence| e.parts[0].controls[1].metrics[0].values = samples(999.0);
    changed(passes, Verdict::Broken, "control repeat was not caught");
    let blind = |e: &mut Evidence| e.parts[1].controls[3].metrics[0].values = vec![0.0];
    changed(blind, Verdict::Broken, "control flip was not caught");
    let physical = |e: &mut Evidence| e.parts[1].controls[2].metrics[0].values = samples(1100.0);
    changed(physical, Verdict::Broken, "control cached was not caught");
}

#[test]
fn what_moved_makes_evidence_stale() {
    changed(|e| e.revision = 2, Verdict::Stale, "revision 3");
    changed(|e| drop(e.claims.remove(RATE.id)), Verdict::Stale, "younger");
    changed(|e| drop(e.claims.insert(RATE.id.into(), "x".into())), Verdict::Stale, "reworded");
    changed(|e| e.case = "other::case".into(), Verdict::Stale, "other::case");
    let source = |e: &mut Evidence| e.parts[0].kernels[0].source_sha256 = "old".into();
    changed(source, Verdict::Stale, "kernel stream changed");
}

#[test]
fn a_disturbed_measurement_is_inconclusive_also_where_it_is_bad() {
    changed(|e| e.shared = true, Verdict::Inconclusive, "other processes");
    let throttled = |e: &mut Evidence| {
        e.parts[1].telemetry[0].throttle_percent.insert("hw_thermal".into(), 40.0);
    };
    changed(throttled, Verdict::Inconclusive, "gpu1 throttled (hw_thermal, 40.0 %");
    changed(|e| e.parts[1].telemetry.clear(), Verdict::Inconclusive, "nothing watched gpu1");
    changed(|e| e.parts[0].telemetry[0].samples = 0, Verdict::Inconclusive, "watched gpu0");
}

#[test]
fn a_child_that_failed_fell_back_or_raised_an_xid_is_broken() {
    let failed = |e: &mut Evidence| {
        e.parts[1].outcome = Outcome::Failed(Failure {
            how: How::Hang,
            detail: "hung".into(),
            repro: String::new(),
        });
    };
    changed(failed, Verdict::Broken, "gpu1: hung");
    let fallback = |e: &mut Evidence| {
        let mode = Mode { what: "dtype".into(), asked: "fp8".into(), active: "fp16".into() };
        e.parts[0].modes.push(mode);
    };
    changed(fallback, Verdict::Broken, "asked for fp8, fp16 ran");
    changed(|e| e.parts[0].xids.push(31), Verdict::Broken, "Xid 31");
    let skipped = |e: &mut Evidence| e.parts[0].outcome = Outcome::NotRun("no library".into());
    changed(skipped, Verdict::NotRun { explained: false }, "no library");
}

#[test]
fn without_a_golden_the_documented_bound_is_judged_and_the_rest_says_how_to_bless() {
    let mut goldens = goldens();
    goldens.boards.get_mut("board").expect("board").claims.clear();
    let judgement = ask(&RATE, &evidence(&[1000.0]), &goldens, "tick");
    assert_eq!(judgement.verdict, Verdict::NotRun { explained: false });
    assert!(judgement.reason.contains("--bless"), "{}", judgement.reason);
    let judgement = ask(&RATE, &evidence(&[300.0]), &goldens, "tick");
    assert_eq!(judgement.verdict, Verdict::Refuted);
}

#[test]
fn a_calibration_run_cannot_tick_its_own_golden() {
    let judgement = ask(&RATE, &evidence(&[1000.0]), &goldens(), "cal2");
    assert_eq!(judgement.verdict, Verdict::NotRun { explained: false });
    assert!(judgement.reason.contains("calibration run"), "{}", judgement.reason);
}

#[test]
fn better_than_golden_passes_and_asks_to_be_blessed() {
    let judgement = ask(&RATE, &evidence(&[1100.0]), &goldens(), "tick");
    assert_eq!(judgement.verdict, Verdict::Verified);
    assert!(judgement.note.expect("a note").contains("1100"));
}

#[test]
fn two_attempts_are_judged_together() {
    let mut twice = evidence(&[1000.0]);
    let mut second = part(0, 900.0);
    second.attempt = 2;
    second.metrics[0].values = [samples(900.0), samples(1001.0)].concat();
    twice.parts.push(second);
    // Eighteen samples near 1000 and nine near 900: the pooled median lies above, its interval does not.
    twice.parts[0].metrics[0].values = samples(975.0);
    check(&RATE, &twice, Verdict::Inconclusive, "straddles");
}

/// From worst to best, for "never improves".
fn rank(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Refuted => 0,
        Verdict::Regressed => 1,
        Verdict::Inconclusive => 2,
        Verdict::Verified => 3,
        other => panic!("not expected here: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_slower_gpu_never_gets_a_better_verdict(
        rate in 300.0..1190.0_f64,
        slower in 0.0..200.0_f64,
    ) {
        let verdict = |rate| ask(&RATE, &evidence(&[rate]), &goldens(), "tick").verdict;
        prop_assert!(rank(verdict(rate - slower)) <= rank(verdict(rate)));
    }

    #[test]
    fn dropping_any_metric_never_verifies(index in 0..2_usize, gpu in 0..3_usize) {
        let mut evidence = evidence(&[1000.0, 1001.0, 1002.0]);
        evidence.parts[gpu].metrics.remove(index);
        let reads = |claim: &&&Claim| index == 1 || claim.metric == "read_gbps";
        for claim in CLAIMS.iter().filter(reads) {
            let verdict = ask(claim, &evidence, &goldens(), "tick").verdict;
            prop_assert_ne!(verdict, Verdict::Verified);
        }
    }

    #[test]
    fn dropping_any_control_never_verifies_what_it_guards(control in 0..4_usize) {
        let mut evidence = evidence(&[1000.0, 1001.0]);
        evidence.parts[1].controls.remove(control);
        let verdict = ask(&RATE, &evidence, &goldens(), "tick").verdict;
        prop_assert_eq!(verdict, Verdict::Broken);
    }

    #[test]
    fn the_same_question_gets_the_same_answer(rate in 300.0..1300.0_f64) {
        let evidence = evidence(&[rate, rate + 1.0]);
        let once = ask(&RATE, &evidence, &goldens(), "tick");
        let twice = ask(&RATE, &evidence, &goldens(), "tick");
        prop_assert_eq!(once.verdict, twice.verdict);
        prop_assert_eq!(once.reason, twice.reason);
    }

    #[test]
    fn evidence_survives_writing_and_reading(rate in -1e12..1e12_f64) {
        let evidence = evidence(&[rate]);
        let text = crate::evidence::render(&evidence).expect("renders");
        prop_assert_eq!(crate::evidence::parse(&text).expect("parses"), evidence);
    }
}

/// A sentence that promised no less than today's: its evidence stands, and says which one it was.
#[test]
fn an_earlier_sentence_that_promised_more_keeps_its_evidence() {
    const WAS: &str = "It reads at its rate, always and everywhere.";
    let mut evidence = evidence(&[1000.0, 1001.0]);
    evidence.claims.insert(RATE.id.into(), RATE.digest_as(WAS));
    check(&RATE, &evidence, Verdict::Stale, "reworded");
    let mut goldens = goldens();
    let promise = goldens.documented.claims.get_mut(RATE.id).expect("promised");
    promise.was = vec!["Another one.".into(), WAS.into()];
    let judgement = ask(&RATE, &evidence, &goldens, "tick");
    assert_eq!(judgement.verdict, Verdict::Verified, "{}", judgement.reason);
    assert_eq!(judgement.evidence.expect("evidence").worded.as_deref(), Some(WAS));
}
