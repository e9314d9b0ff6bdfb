//! The edges of bounds, places and pairs: where one more or one less, or another sign, is another verdict.

use super::super::series::{self, Series, standing};
use super::*;
use crate::evidence::{Failure, How};

/// A latency: less is better, and its golden is 10 us.
static LATENCY: Claim = Claim {
    ceiling: None,
    reduce: Reduce::Worst,
    gpus: GpuCount::AtLeast(1),
    ..claim("suite::latency", Relation::AtMost, "reply_us")
};
static SMALL: Claim =
    Claim { at: &[("size", "small")], ..claim("suite::small", Relation::AtLeast, "read_gbps") };
static EIGHT: Claim =
    Claim { gpus: GpuCount::Exactly(8), ..claim("suite::rate-n8", Relation::AtLeast, "read_gbps") };

/// Evidence in which the claim is not younger than its evidence.
fn knows(claim: &'static Claim, mut evidence: Evidence) -> Evidence {
    evidence.claims.insert(claim.id.to_owned(), claim.digest());
    evidence
}

fn replied(us: f64) -> Evidence {
    let mut evidence = knows(&LATENCY, evidence(&[1000.0]));
    evidence.parts[0].metrics.push(metric("reply_us", 0, &[us; 9]));
    evidence
}

fn with_latency() -> Goldens {
    let mut goldens = goldens();
    let board = goldens.boards.get_mut("board").expect("board");
    let bound = Bound { golden: 10.0, worse: 0.1, ..board.claims[RATE.id]["read_gbps"].clone() };
    board.claims.insert(LATENCY.id.into(), BTreeMap::from([("reply_us".into(), bound)]));
    goldens
}

#[test]
fn how_an_interval_stands_to_a_limit() {
    use Standing::{Met, Missed, Straddles};
    let check = |relation, interval, expect| {
        assert_eq!(standing(relation, interval, 10.0), expect, "{relation:?} {interval:?}");
    };
    check(Relation::AtLeast, (10.0, 11.0), Met);
    check(Relation::AtLeast, (9.0, 10.0), Straddles);
    check(Relation::AtLeast, (8.0, 9.0), Missed);
    check(Relation::AtMost, (9.0, 10.0), Met);
    check(Relation::AtMost, (10.0, 11.0), Straddles);
    check(Relation::AtMost, (11.0, 12.0), Missed);
    for relation in [Relation::Equal, Relation::Holds] {
        check(relation, (10.0, 10.0), Met);
        check(relation, (9.0, 10.0), Missed);
        check(relation, (10.0, 11.0), Missed);
        check(relation, (9.0, 11.0), Missed);
    }
}

#[test]
fn the_worst_series_is_the_one_that_decides() {
    let at = |value| Series { gpus: vec![], value, interval: (value, value) };
    let worst = |relation, values: [f64; 3], limit| {
        let all = values.map(at);
        series::worst(relation, &all, limit).map(|series| series.value)
    };
    assert_eq!(worst(Relation::AtLeast, [3.0, 1.0, 2.0], 0.0), Some(1.0));
    assert_eq!(worst(Relation::AtMost, [3.0, 1.0, 2.0], 9.0), Some(3.0));
    assert_eq!(worst(Relation::Holds, [3.0, 1.0, 2.0], 0.0), Some(3.0));
    // The farthest, to either side.
    assert_eq!(worst(Relation::Equal, [3.0, 7.0, 5.0], 6.0), Some(3.0));
    assert_eq!(worst(Relation::Equal, [5.0, 9.0, 7.0], 6.0), Some(9.0));
}

#[test]
fn an_exact_rate_counts_by_its_worst_value() {
    let exact = |values: &[f64]| Metric {
        kind: MetricKind::Exact,
        values: values.to_vec(),
        ..metric("read_gbps", 0, &[1.0])
    };
    let pooled = |relation| {
        let all = series::pool(relation, [&exact(&[3.0, 1.0, 2.0])].into_iter()).expect("pooled");
        (all[0].value, all[0].interval)
    };
    assert_eq!(pooled(Relation::AtLeast), (1.0, (1.0, 3.0)));
    assert_eq!(pooled(Relation::AtMost), (3.0, (1.0, 3.0)));
}

#[test]
fn a_spread_and_its_interval_by_hand() {
    let at = |gpu, value, interval| Series { gpus: vec![gpu], value, interval };
    let two = vec![at(0, 110.0, (108.0, 112.0)), at(1, 90.0, (88.0, 92.0))];
    let spread = series::reduce(&SPREAD, two.clone()).expect("a spread").remove(0);
    // 110 - 90 over 100; 108 - 92 at least; 112 - 88 at most.
    assert_eq!((spread.value, spread.interval, &*spread.gpus), (20.0, (16.0, 24.0), &[1][..]));
    let three = [two.clone(), vec![at(2, 100.0, (100.0, 100.0))]].concat();
    assert_eq!(series::reduce(&SPREAD, three).expect("a spread")[0].value, 20.0);
    // Intervals that overlap leave no spread at least.
    let close = vec![at(0, 101.0, (99.0, 103.0)), at(1, 99.0, (97.0, 101.0))];
    assert_eq!(series::reduce(&SPREAD, close).expect("a spread")[0].interval.0, 0.0);
    let one = series::reduce(&SPREAD, two[..1].to_vec()).unwrap_err();
    assert!(one.contains("two series"), "{one}");
}

#[test]
fn a_latency_is_judged_from_above() {
    let goldens = with_latency();
    let judged = |us| ask(&LATENCY, &replied(us), &goldens, "tick");
    assert_eq!(judged(10.9).verdict, Verdict::Verified);
    let slow = judged(11.5);
    assert_eq!(slow.verdict, Verdict::Regressed, "{}", slow.reason);
    // One value, no interval; the tolerance with its sign.
    let words = "reply_us = 11.5 on gpu0, wanted <= 11 us (golden: 10 + 10 %)";
    assert!(slow.reason.starts_with(words), "{}", slow.reason);
    let noted = |us| judged(us).note.is_some();
    assert_eq!([8.5, 9.0, 9.5].map(noted), [true, false, false]);
}

#[test]
fn limits_of_goldens_by_hand() {
    let bound = &goldens().boards["board"].claims[RATE.id]["read_gbps"];
    assert_eq!(golden_limit(&RATE, bound), 980.0);
    assert_eq!(golden_limit(&SPREAD, bound), 1020.0);
    assert_eq!(golden_limit(&BITS, bound), 1000.0);
}

#[test]
fn origins_of_bounds_as_they_are_printed() {
    let judgement = ask(&RATE, &evidence(&[1000.0]), &goldens(), "tick");
    let views: Vec<_> = judgement.bounds.iter().map(|b| (b.origin.as_str(), b.sign)).collect();
    assert_eq!(views, [("0.341 of peak_gbps", ">="), ("1000 - 2 %", ">=")]);
}

#[test]
fn only_what_is_better_by_more_than_the_tolerance_is_worth_blessing() {
    let noted = |rate: f64| {
        let mut healthy = evidence(&[1000.0]);
        healthy.parts[0].metrics[0].values = vec![rate; 9];
        ask(&RATE, &healthy, &goldens(), "tick").note.is_some()
    };
    assert_eq!([1000.0, 1020.0, 1021.0].map(noted), [false, false, true]);
}

#[test]
fn the_peak_itself_is_not_beyond_physics() {
    check(&RATE, &evidence(&[1200.0]), Verdict::Verified, "");
    check(&RATE, &evidence(&[1200.5]), Verdict::Broken, "beyond the physical peak");
    // A control at the peak shows nothing either.
    let cached = |e: &mut Evidence| e.parts[1].controls[2].metrics[0].values = samples(1200.0);
    changed(cached, Verdict::Broken, "control cached was not caught");
}

#[test]
fn who_wants_a_golden() {
    let mut goldens = goldens();
    goldens.boards.get_mut("board").expect("board").claims.clear();
    let verdict =
        |claim, goldens: &Goldens| ask(claim, &evidence(&[1000.0; 2]), goldens, "tick").verdict;
    assert_eq!(verdict(&BITS, &goldens), Verdict::Verified);
    assert_eq!(verdict(&SPREAD, &goldens), Verdict::Verified);
    assert_eq!(verdict(&RATE, &goldens), Verdict::NotRun { explained: false });
    goldens.documented.claims.get_mut(RATE.id).expect("a promise").suffices = true;
    assert_eq!(verdict(&RATE, &goldens), Verdict::Verified);
}

#[test]
fn a_number_of_gpus_is_that_number() {
    let four = knows(&EIGHT, evidence(&[1000.0; 4]));
    check(
        &EIGHT,
        &four,
        Verdict::NotRun { explained: true },
        "needs exactly 8 GPUs, the run had 4",
    );
    let mut goldens = goldens();
    let board = goldens.boards.get_mut("board").expect("board");
    let bounds = board.claims[RATE.id].clone();
    board.claims.insert(EIGHT.id.into(), bounds);
    let eight = knows(&EIGHT, evidence(&[1000.0; 8]));
    assert_eq!(ask(&EIGHT, &eight, &goldens, "tick").verdict, Verdict::Verified);
}

#[test]
fn figures_of_a_claim_and_why_there_are_none() {
    let figures = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = evidence(&[1000.0, 1001.0]);
        change(&mut evidence);
        let found = figures(&RATE, &CASE, &evidence);
        let measured = measured(&RATE, &CASE, &evidence).map(|all| all.len());
        (found.map(|all| all.iter().map(|f| f.value).collect::<Vec<_>>()), measured)
    };
    assert_eq!(figures(&|_| {}), (Ok(vec![1000.0, 1001.0]), Ok(2)));
    let why = |change: &dyn Fn(&mut Evidence)| figures(change).1.unwrap_err();
    let wrong = why(&|e| e.parts[1].metrics[1].values = vec![1.0]);
    assert!(matches!(wrong, Unfit::WrongBits(_)), "{wrong:?}");
    let failed = why(&|e| {
        let (how, detail, repro) = (How::Crash, String::new(), String::new());
        e.parts[1].outcome = Outcome::Failed(Failure { how, detail, repro });
    });
    assert!(matches!(&failed, Unfit::Failed(reason) if reason.starts_with("gpu1: ")), "{failed:?}");
    let skipped = why(&|e| e.parts[1].outcome = Outcome::NotRun("no library".into()));
    assert!(matches!(skipped, Unfit::Missing(_)), "{skipped:?}");
    let shared = why(&|e| e.shared = true);
    assert!(matches!(shared, Unfit::Disturbed(_)), "{shared:?}");
    let gone = why(&|e| drop(e.parts[1].metrics.remove(0)));
    assert!(matches!(gone, Unfit::Missing(_)), "{gone:?}");
}

#[test]
fn figures_under_a_fault_are_those_of_its_name_metric_and_place() {
    let evidence = evidence(&[1000.0, 1001.0]);
    let planted =
        |claim, control: usize| planted_figures(claim, &CASE.controls[control], &evidence);
    assert_eq!(planted(&RATE, 1), [970.0, 970.0]);
    assert_eq!(planted(&RATE, 0), [100.0, 100.0]);
    assert_eq!(planted(&RATE, 3), Vec::<f64>::new());
    assert_eq!(planted(&SMALL, 1), Vec::<f64>::new());
}

#[test]
fn what_disturbs_another_metric_disturbs_no_count() {
    let mut unwatched = evidence(&[1000.0]);
    unwatched.parts[0].telemetry.clear();
    check(&BITS, &unwatched, Verdict::Verified, "");
    // A throttle reason that was never active is none.
    let idle = |e: &mut Evidence| {
        e.parts[0].telemetry[0].throttle_percent.insert("hw_thermal".into(), 0.0);
    };
    changed(idle, Verdict::Verified, "");
    // Nobody watched the GPU of a series that the claim does not read.
    let elsewhere = |e: &mut Evidence| {
        let small = Metric { at: BTreeMap::new(), ..metric("read_gbps", 7, &samples(1.0)) };
        e.parts[0].metrics.push(small);
    };
    changed(elsewhere, Verdict::Verified, "");
}

#[test]
fn the_gpu_to_drain_is_the_one_that_failed() {
    let culprit = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = evidence(&[1000.0, 1001.0]);
        change(&mut evidence);
        let judgement = ask(&RATE, &evidence, &goldens(), "tick");
        (judgement.verdict, judgement.culprit)
    };
    assert_eq!(culprit(&|e| e.parts[0].xids.push(48)), (Verdict::Broken, Some(0)));
    let both = |e: &mut Evidence| {
        let device = e.parts[1].devices[0].clone();
        e.parts[0].devices.push(device);
        e.parts[0].xids.push(48);
    };
    assert_eq!(culprit(&both), (Verdict::Broken, None));
    let slow = |e: &mut Evidence| e.parts[0].metrics[0].values = samples(970.0);
    assert_eq!(culprit(&slow), (Verdict::Regressed, Some(0)));
    let beyond = |e: &mut Evidence| e.parts[0].metrics[0].values = samples(1300.0);
    assert_eq!(culprit(&beyond), (Verdict::Broken, Some(0)));
}

/// The claim on the read rate, asked beside others of its case, is judged by itself.
#[track_caller]
fn check_own(siblings: &[&'static Claim]) {
    let (evidence, goldens) = (evidence(&[1000.0, 1001.0]), goldens());
    let judgement = judge(&Question {
        claim: &RATE,
        case: &CASE,
        siblings,
        found: Found::Evidence(&evidence, reference("tick")),
        goldens: &goldens,
        kernel_source: &|_, _| Some(selfcheck::source()),
    });
    assert_eq!(judgement.verdict, Verdict::Verified, "{}", judgement.reason);
    assert_eq!(judgement.controls[1].detail, "read_gbps = 970, 970 against 980");
}

/// Siblings of another metric, reduction or place do not judge a control.
#[test]
fn a_control_is_judged_by_the_claim_at_its_place() {
    check_own(&[&BITS, &SPREAD, &SMALL, &RATE]);
}

/// Another claim of the same place, which has no bound, stands first and does not judge.
#[test]
fn a_control_is_judged_by_the_question_s_own_claim() {
    static OTHER: Claim = claim("suite::other", Relation::AtLeast, "read_gbps");
    check_own(&[&OTHER, &RATE]);
}

#[test]
fn a_fault_on_one_gpu_spreads_them() {
    let mut evidence = evidence(&[1000.0, 1001.0]);
    let control = |evidence: &Evidence| {
        let judgement = ask(&SPREAD, evidence, &goldens(), "tick");
        let view = judgement.controls.iter().find(|view| view.control.name == "repeat");
        let view = view.expect("counts").clone();
        (judgement.verdict, view.caught, view.detail)
    };
    // 1001 beside 970: 31 over their median.
    let (verdict, caught, detail) = control(&evidence);
    assert_eq!((verdict, caught), (Verdict::Verified, Some(true)));
    assert_eq!(detail, "one slow GPU spreads 3.146 % against 2");
    for part in &mut evidence.parts {
        part.controls[1].metrics[0].values = samples(999.0);
    }
    assert_eq!(control(&evidence).1, Some(false));
    assert_eq!(control(&evidence).0, Verdict::Broken);
}

#[test]
fn what_was_not_planted_is_named_with_its_gpu() {
    changed(|e| drop(e.parts[1].controls.remove(1)), Verdict::Broken, "not planted on gpu1");
    changed(|e| drop(e.parts[0].controls.remove(1)), Verdict::Broken, "not planted on gpu0");
}

#[test]
fn a_missing_metric_is_named_with_its_place() {
    changed(
        |e| drop(e.parts[1].metrics.remove(0)),
        Verdict::Broken,
        "metric read_gbps at size = big is missing on gpu1",
    );
}

#[test]
fn a_gpu_measured_at_fewer_places_than_the_others() {
    let more = |gpu: usize| {
        move |e: &mut Evidence| {
            let mut second = e.parts[gpu].metrics[0].clone();
            second.at.insert("way".into(), "back".into());
            e.parts[gpu].metrics.push(second);
        }
    };
    changed(more(0), Verdict::Broken, "missing on gpu1 at 1 of 2 places of gpu0");
    changed(more(1), Verdict::Broken, "missing on gpu0 at 1 of 2 places of gpu1");
    let both = |e: &mut Evidence| [more(0), more(1)].iter().for_each(|more| more(e));
    changed(both, Verdict::Verified, "");
}

/// Rates from each GPU to each other one, as `pairs` says.
fn over(pairs: &[(u32, u32)]) -> Evidence {
    let mut evidence = evidence(&[1000.0; 3]);
    for part in &mut evidence.parts {
        part.metrics.retain(|metric| metric.name != "read_gbps");
    }
    for (from, to) in pairs {
        let rate = metric("read_gbps", 0, &samples(1000.0));
        let pair = Metric { gpus: vec![*from, *to], ..rate };
        evidence.parts[0].metrics.push(pair);
        let watched = Telemetry::quiet(*to);
        evidence.parts[0].telemetry.push(watched);
    }
    evidence
}

#[test]
fn a_pair_that_was_not_timed() {
    let gathered =
        |pairs: &[(u32, u32)]| series::gather(&RATE, &CASE, &over(pairs)).map(|all| all.len());
    let every = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    assert_eq!(gathered(&every), Ok(6));
    for (index, (from, to)) in every.iter().enumerate() {
        let others: Vec<_> = every.iter().filter(|pair| *pair != &every[index]).copied().collect();
        let missing = format!("metric read_gbps is missing from gpu{from} to gpu{to}");
        assert_eq!(gathered(&others), Err(missing));
    }
    // One way for each pair is all; two of three pairs are not.
    assert_eq!(gathered(&[(0, 1), (0, 2), (1, 2)]), Ok(3));
    assert_eq!(
        gathered(&[(0, 1), (1, 2)]).unwrap_err().split(" from ").last(),
        Some("gpu0 to gpu2")
    );
    assert_eq!(gathered(&[(0, 1)]), Ok(1));
}

#[test]
fn numbers_that_no_measurement_gives() {
    let values =
        |values: Vec<f64>| move |e: &mut Evidence| e.parts[0].metrics[0].values.clone_from(&values);
    changed(values(vec![1000.01; 9]), Verdict::Broken, "9 samples that are all exactly 1000.01");
    // Coarse figures may agree, and so may five samples: those are too few.
    changed(values(vec![1000.0; 9]), Verdict::Verified, "");
    changed(values(vec![1000.1; 9]), Verdict::Broken, "all exactly 1000.1");
    changed(values(vec![1001.0; 9]), Verdict::Verified, "");
    changed(values(vec![1000.01; 5]), Verdict::Broken, "5 samples, 6 are the fewest");
    changed(values(vec![1000.01; 6]), Verdict::Broken, "6 samples that are all exactly");
    changed(
        values(samples(1000.0)[1..].to_vec()),
        Verdict::Broken,
        "8 samples in attempt 1 on gpu0",
    );
    changed(values(samples(1000.0)[3..].to_vec()), Verdict::Broken, "the case takes 9");
    changed(values(samples(1000.0)[4..].to_vec()), Verdict::Broken, "5 samples, 6 are the fewest");
    let mut below = samples(1000.0);
    below[4] = -0.5;
    changed(values(below), Verdict::Broken, "holds -0.5: less than nothing");
    let mut none = samples(1000.0);
    none[4] = 0.0;
    changed(values(none.clone()), Verdict::Broken, "read_gbps holds 0: nothing was done");
    let metric_of = |name: &str, kind| Metric {
        name: name.into(),
        kind,
        values: none.clone(),
        ..metric("read_gbps", 0, &[1.0])
    };
    let said = |name: &str| series::possible(&metric_of(name, MetricKind::Sampled)).err();
    for rate in ["read_gbps", "write_mbps", "product_tflops", "product_tops"] {
        assert_eq!(said(rate), Some(format!("metric {rate} holds 0: nothing was done")));
    }
    for time in ["call_us", "call_ms", "call_s"] {
        assert_eq!(said(time), Some(format!("metric {time} holds 0: no time at all")));
    }
    // A share may be nothing, and so may the lanes of a link that is not there.
    assert_eq!(said("drift_ulp"), None);
    assert_eq!(series::possible(&metric_of("lane_gbps", MetricKind::Exact)), Ok(()));
    // A difference has a sign.
    let signed = Metric { name: "gap_percent".into(), ..metric("read_gbps", 0, &samples(-3.0)) };
    static GAP: Claim =
        Claim { ceiling: None, ..claim("suite::gap", Relation::AtMost, "gap_percent") };
    let mut evidence = evidence(&[1000.0]);
    evidence.parts[0].metrics.push(signed);
    assert_eq!(series::gather(&GAP, &CASE, &evidence).expect("gathered")[0].value, -3.0);
}

#[test]
fn a_gpu_of_the_run_without_a_part() {
    changed(|e| drop(e.parts.pop()), Verdict::Broken, "1 of 2 GPUs of the run were measured");
    let mut twice = evidence(&[1000.0, 1001.0]);
    let mut second = Part { attempt: 2, ..twice.parts[0].clone() };
    second.metrics[0].values = [samples(1002.0), samples(1003.0)].concat();
    twice.parts.push(second);
    check(&RATE, &twice, Verdict::Verified, "");
    twice.parts[2].metrics[0].values.pop();
    check(&RATE, &twice, Verdict::Broken, "17 samples in attempt 2 on gpu0, the case takes 18");
}

/// The number of samples is asked of the claim's own ones.
#[test]
fn samples_of_another_metric_and_exact_values_are_not_counted() {
    let other = Metric { name: "write_gbps".into(), ..metric("read_gbps", 0, &samples(9.0)[2..]) };
    changed(|e| e.parts[0].metrics.push(other.clone()), Verdict::Verified, "");
    let mut evidence = evidence(&[1000.0]);
    let own = &mut evidence.parts[0].metrics[0];
    own.values.truncate(7);
    assert!(series::gather(&RATE, &CASE, &evidence).is_err());
    evidence.parts[0].metrics[0].kind = MetricKind::Exact;
    assert!(series::gather(&RATE, &CASE, &evidence).is_ok());
}

/// A control is a measurement too.
#[test]
fn what_no_measurement_gives_is_no_caught_fault() {
    let planted = |control: usize, values: Vec<f64>| {
        move |e: &mut Evidence| e.parts[1].controls[control].metrics[0].values.clone_from(&values)
    };
    let (refuted, regressed, broken) = (0, 1, 2);
    changed(planted(refuted, samples(100.0)), Verdict::Verified, "");
    let peak = "not caught: read_gbps = 1201 on gpu1 is beyond the physical peak peak_gbps = 1200";
    changed(planted(refuted, samples(1201.0)), Verdict::Broken, peak);
    changed(planted(regressed, samples(1201.0)), Verdict::Broken, peak);
    changed(planted(broken, samples(1201.0)), Verdict::Verified, "");
    let nothing = "not caught: metric read_gbps holds 0: nothing was done";
    changed(planted(refuted, vec![0.0; 9]), Verdict::Broken, nothing);
    let below = "not caught: metric read_gbps holds -5: less than nothing";
    changed(planted(regressed, vec![-5.0; 9]), Verdict::Broken, below);
    let same = "not caught: metric read_gbps holds 9 samples that are all exactly 100.01";
    changed(planted(refuted, vec![100.01; 9]), Verdict::Broken, same);
}

/// The spread over GPUs of a rate that has a peak.
#[test]
fn a_fault_beyond_physics_spreads_nothing() {
    static TIGHT: Claim = Claim {
        reduce: Reduce::SpreadPercent,
        ..claim("suite::spread", Relation::AtMost, "read_gbps")
    };
    let slow = |rate: f64| {
        let mut evidence = knows(&TIGHT, evidence(&[1000.0, 1001.0]));
        for part in &mut evidence.parts {
            part.controls.iter_mut().take(3).for_each(|c| c.metrics[0].values = samples(rate));
        }
        ask(&TIGHT, &evidence, &goldens(), "tick")
    };
    assert_eq!(slow(900.0).verdict, Verdict::Verified);
    let beyond = slow(1300.0);
    assert_eq!(beyond.verdict, Verdict::Broken);
    assert!(beyond.reason.contains("is beyond the physical peak"), "{}", beyond.reason);
}

#[test]
fn evidence_that_stands_under_another_board() {
    let judged = |board: &str, id: &str| {
        let (mut evidence, goldens) = (evidence(&[1000.0]), goldens());
        evidence.pci_device_id = id.into();
        judge(&Question {
            claim: &RATE,
            case: &CASE,
            siblings: &CLAIMS,
            found: Found::Evidence(
                &evidence,
                EvidenceRef { board: board.into(), ..reference("tick") },
            ),
            goldens: &goldens,
            kernel_source: &|_, _| Some(selfcheck::source()),
        })
    };
    assert_eq!(judged("board", "2335").verdict, Verdict::Verified);
    assert_eq!(judged("pci-2335", "2335").verdict, Verdict::Verified);
    let other = judged("another", "2335");
    assert_eq!(other.verdict, Verdict::Broken);
    assert_eq!(other.reason, "evidence of 2335 (board) stands under another");
    // One that no golden knows is not run for want of a bound.
    assert_eq!(judged("another", "ffff").verdict, Verdict::NotRun { explained: false });
}

#[test]
fn a_gpu_that_a_case_of_the_node_leaves_out_is_seen() {
    let mut evidence = evidence(&[1000.0, 1001.0]);
    let second = evidence.parts.pop().expect("two parts");
    assert!(left_unmeasured(Scope::Node, &evidence).is_some());
    evidence.parts[0].devices.extend(second.devices);
    assert!(left_unmeasured(Scope::Node, &evidence).is_none());
}

#[test]
fn a_case_of_one_gpu_wants_one_of_them_and_no_more() {
    let mut evidence = evidence(&[1000.0, 1001.0]);
    evidence.parts.pop();
    assert!(left_unmeasured(Scope::OneGpu, &evidence).is_none());
    evidence.parts.clear();
    assert!(left_unmeasured(Scope::OneGpu, &evidence).is_some());
}

#[test]
fn a_gpu_without_its_integrity_metric_is_seen() {
    let mut evidence = evidence(&[1000.0, 1001.0]);
    let second = evidence.parts.pop().expect("two parts");
    let part = &mut evidence.parts[0];
    part.devices.extend(second.devices);
    let words = "metric wrong_count has 0 entries of gpu1, 1 of another";
    assert_eq!(unchecked(part, &["wrong_count"], "wrong_count").as_deref(), Some(words));
    part.metrics.push(metric("wrong_count", 1, &[0.0]));
    assert_eq!(unchecked(part, &["wrong_count"], "wrong_count"), None);
    // Entries of groups are shared by their members.
    part.metrics.last_mut().expect("one").gpus = vec![0, 1];
    assert_eq!(unchecked(part, &["wrong_count"], "wrong_count"), None);
}

/// Of three GPUs, integrity entries of these, and figures of those.
#[track_caller]
fn check_entries(entries: &[&[u32]], figures: &[&[u32]], expect: Option<&str>) {
    let mut part = part(0, 1000.0);
    part.devices = (0..3).map(|gpu| Device { gpu, ..part.devices[0].clone() }).collect();
    let of = |name: &str, gpus: &[&[u32]]| -> Vec<Metric> {
        let entry = |gpus: &&[u32]| Metric { gpus: gpus.to_vec(), ..metric(name, 0, &[0.0]) };
        gpus.iter().map(entry).collect()
    };
    part.metrics = [of("wrong_count", entries), of("read_gbps", figures)].concat();
    assert_eq!(unchecked(&part, &["wrong_count"], "wrong_count").as_deref(), expect);
}

/// Several pairs check all of their GPUs.
#[test]
fn a_gpu_without_its_pairs_is_seen() {
    let words = "metric wrong_count has 1 entries of gpu1, 2 of another";
    check_entries(&[&[0, 1], &[0, 2]], &[], Some(words));
    check_entries(&[&[0, 1], &[0, 2], &[1, 2]], &[], None);
    let words = "metric wrong_count has 2 entries of gpu2, 3 of another";
    check_entries(&[&[0, 1], &[0, 2], &[1, 2], &[0, 1]], &[], Some(words));
}

/// One pair is a group, be it checked for several problems; but of nobody else's figures.
#[test]
fn two_of_three_gpus_may_share_the_work() {
    check_entries(&[&[0, 1]], &[&[0, 1]], None);
    check_entries(&[&[0, 1], &[0, 1], &[0, 1]], &[&[0, 1], &[0, 1]], None);
    let words = "metric wrong_count has no entry of gpu1-gpu0";
    check_entries(&[&[0, 1], &[0, 1]], &[&[0, 1], &[1, 0]], Some(words));
    let words = "metric wrong_count has no entry of gpu0-gpu1-gpu2";
    check_entries(&[&[0, 1], &[0, 1]], &[&[0, 1], &[0, 1, 2]], Some(words));
}

/// What is shared may be checked on each that shares it.
#[test]
fn parts_make_up_the_whole() {
    check_entries(&[&[0], &[1], &[2]], &[&[0, 1, 2], &[1, 0]], None);
    check_entries(&[&[0, 1], &[2]], &[&[0, 1, 2]], None);
    let words = "metric wrong_count has no entry of gpu0-gpu1-gpu2";
    check_entries(&[&[0], &[1]], &[&[0, 1, 2]], Some(words));
}

#[test]
fn what_failed_is_told_before_what_could_not_run() {
    let absent = || Outcome::NotApplicable("no such unit".into());
    let crash = Outcome::Failed(Failure {
        how: How::Crash,
        detail: "signal 11".into(),
        repro: String::new(),
    });
    changed(|e| e.parts[0].outcome = absent(), Verdict::Broken, "on other GPUs it is");
    let both = |e: &mut Evidence| {
        e.parts[0].outcome = absent();
        e.parts[1].outcome = crash.clone();
    };
    changed(both, Verdict::Broken, "signal 11");
    let all = |e: &mut Evidence| e.parts.iter_mut().for_each(|part| part.outcome = absent());
    changed(all, Verdict::NotApplicable, "no such unit");
}

#[test]
fn a_rate_that_is_called_exact_is_no_sample_of_a_golden() {
    let exact = |e: &mut Evidence| {
        for metric in e.parts.iter_mut().flat_map(|part| &mut part.metrics) {
            metric.kind = MetricKind::Exact;
        }
    };
    changed(exact, Verdict::Broken, "read_gbps is called exact");
}

#[test]
fn no_time_at_all_is_no_measurement() {
    let judgement = ask(&LATENCY, &replied(0.0), &with_latency(), "tick");
    assert_eq!(judgement.verdict, Verdict::Broken, "{}", judgement.reason);
    assert!(judgement.reason.contains("reply_us holds 0: no time at all"), "{}", judgement.reason);
}

/// A case that was not run on one GPU hides nothing that it found on another.
#[test]
fn a_gpu_that_was_not_run_hides_no_other() {
    let judged = |change: fn(&mut Evidence)| {
        let mut evidence = evidence(&[1000.0, 1001.0]);
        evidence.parts[1].outcome = Outcome::NotRun("no time left".into());
        evidence.parts[1].metrics.clear();
        evidence.parts[1].controls.clear();
        change(&mut evidence);
        let judgement = ask(&RATE, &evidence, &goldens(), "tick");
        (judgement.verdict, judgement.culprit)
    };
    assert_eq!(judged(|_| {}), (Verdict::NotRun { explained: false }, None));
    let slow = judged(|e| e.parts[0].metrics[0].values = samples(970.0));
    assert_eq!(slow, (Verdict::Regressed, Some(0)));
    let corrupt = |e: &mut Evidence| {
        let wrong = e.parts[0].metrics.iter_mut().find(|m| m.name == "wrong_count");
        wrong.expect("integrity").values = vec![1.0];
    };
    assert_eq!(judged(corrupt), (Verdict::Corrupt, Some(0)));
}
