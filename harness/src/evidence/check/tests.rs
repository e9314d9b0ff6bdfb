//! The edges of what any evidence must say.

use super::*;
use crate::selfcheck;

#[track_caller]
fn check(change: impl Fn(&mut Evidence), expect: Result<(), &str>) {
    let mut evidence = selfcheck::healthy();
    change(&mut evidence);
    match (evidence.check(), expect) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
        (found, expect) => panic!("{found:?}, wanted {expect:?}"),
    }
}

fn once_more<T: Clone>(all: &mut Vec<T>) {
    all.push(all[0].clone());
}

#[test]
fn telemetry_keeps_within_what_its_board_can_have() {
    let seen =
        |change: fn(&mut Telemetry)| move |e: &mut Evidence| change(&mut e.parts[1].telemetry[0]);
    check(seen(|t| t.power_w[2] = 840.0), Ok(()));
    check(seen(|t| t.power_w[2] = 840.1), Err("power_w of gpu1 is 840.1 at most"));
    check(seen(|t| t.sm_clock_mhz[2] = 1999.0), Ok(()));
    check(seen(|t| t.sm_clock_mhz[2] = 2000.0), Err("its board allows: 1999.8"));
    check(seen(|t| t.memory_clock_mhz[2] = 3233.0), Ok(()));
    check(seen(|t| t.memory_clock_mhz[2] = 3234.0), Err("memory_clock_mhz of gpu1"));
    for (degrees, good) in [(-40.0, true), (-40.1, false), (130.0, true), (130.1, false)] {
        let wanted = if good { Ok(()) } else { Err("temperature_c_max of gpu1") };
        check(|e| e.parts[1].telemetry[0].temperature_c_max = degrees, wanted);
    }
    check(seen(|t| t.temperature_c_max = f64::NAN), Err("temperature_c_max of gpu1 is NaN"));
    // What a board does not tell is no limit.
    let untold = |e: &mut Evidence| {
        e.parts[0].devices[0].power_limit_w = 0.0;
        e.parts[0].telemetry[0].power_w = [800.0; 3];
    };
    check(untold, Ok(()));
}

#[test]
fn parts_are_of_the_board_and_of_no_more_gpus_than_the_run() {
    let other = |e: &mut Evidence| e.parts[1].devices[0].pci_device_id = "ffff".into();
    check(other, Err("gpu1 is a ffff, the evidence is of \"0000\""));
    let both = |e: &mut Evidence| {
        let second = e.parts.pop().into_iter().flat_map(|part| part.devices);
        e.parts[0].devices.extend(second);
    };
    check(both, Ok(()));
    let more = |e: &mut Evidence| {
        both(e);
        e.gpus = 1;
    };
    check(more, Err("2 devices of 1 gpus"));
}

#[test]
fn a_gpu_is_one_device_and_measured_once_an_attempt() {
    check(|e| once_more(&mut e.parts), Err("attempt 1 of gpu0 stands twice"));
    let other = |e: &mut Evidence| {
        again(e, 1);
        e.parts[2].devices[0].name = "another".into();
    };
    check(other, Err("gpu0 is two devices"));
    let twins = |e: &mut Evidence| {
        let own = e.parts[0].devices[0].uuid_sha256.clone();
        e.parts[1].devices[0].uuid_sha256 = own;
    };
    check(twins, Err("gpu0 and gpu1 are one device"));
    let unnamed = |e: &mut Evidence| {
        e.parts.iter_mut().for_each(|part| part.devices[0].uuid_sha256.clear());
    };
    check(unnamed, Ok(()));
}

#[test]
fn one_source_is_one_machine_code() {
    let code = |e: &mut Evidence| e.parts[1].kernels[0].cubin_sha256 = selfcheck::source();
    check(code, Err("kernel stream ran as two machine codes"));
    let compiler = |e: &mut Evidence| {
        code(e);
        e.parts[1].kernels[0].compiler = "another".into();
    };
    check(compiler, Ok(()));
}

#[test]
fn a_kernel_has_digests_of_something() {
    let zeros = "0".repeat(64);
    check(|e| e.parts[0].kernels[0].source_sha256 = "old".into(), Err("the source of kernel"));
    check(|e| e.parts[0].kernels[0].cubin_sha256 = zeros.clone(), Err("the cubin of kernel"));
}

#[test]
fn a_part_is_one_attempt_at_one_time() {
    let part = |change: fn(&mut Part)| move |e: &mut Evidence| change(&mut e.parts[0]);
    check(part(|p| p.attempt = 0), Err("attempt 0 is none of 1 to 2"));
    check(part(|p| p.attempt = 3), Err("attempt 3"));
    check(part(|p| p.started = "noon".into()), Err("started \"noon\" is no time"));
    check(part(|p| p.wall_s = 0.0), Ok(()));
    check(part(|p| p.wall_s = -0.1), Err("wall_s = -0.1 is no duration"));
    check(part(|p| p.wall_s = f64::INFINITY), Err("wall_s = inf"));
    let twice = |e: &mut Evidence| once_more(&mut e.parts[0].devices);
    check(twice, Err("gpu0 stands twice in one part"));
    let kernel = |e: &mut Evidence| once_more(&mut e.parts[0].kernels);
    check(kernel, Err("kernel stream stands twice on gpu0"));
    check(|e| e.parts.clear(), Err("no parts"));
}

#[test]
fn a_metric_stands_once_and_is_of_its_part() {
    let rate = |change: fn(&mut Metric)| move |e: &mut Evidence| change(&mut e.parts[0].metrics[0]);
    check(rate(|m| m.gpus = vec![1]), Err("metric read_gbps is of gpu1, the part had gpu0"));
    check(rate(|m| m.gpus = vec![0, 0]), Err("metric read_gbps names gpu0 twice"));
    check(rate(|m| m.name = "read".into()), Err("metric read names no unit"));
    check(rate(|m| m.values.clear()), Err("metric read_gbps has no values"));
    check(rate(|m| m.values[3] = f64::INFINITY), Err("metric read_gbps holds inf"));
    let kind = rate(|m| m.kind = crate::evidence::MetricKind::Exact);
    check(kind, Err("metric read_gbps is both exact and sampled"));
    let metric = |e: &mut Evidence| once_more(&mut e.parts[0].metrics);
    check(metric, Err("metric read_gbps stands twice on gpu0"));
    let control = |e: &mut Evidence| once_more(&mut e.parts[0].controls);
    check(control, Err("control slow stands twice on gpu0"));
    let host = |e: &mut Evidence| {
        e.parts[0].devices.clear();
        e.parts[0].telemetry.clear();
    };
    check(host, Err("metric read_gbps is of gpu0, the part had none"));
}

#[test]
fn telemetry_is_of_its_part_and_says_what_can_be() {
    let seen =
        |change: fn(&mut Telemetry)| move |e: &mut Evidence| change(&mut e.parts[0].telemetry[0]);
    check(seen(|t| t.gpu = 1), Err("telemetry is of gpu1, the part had gpu0"));
    let twice = |e: &mut Evidence| once_more(&mut e.parts[0].telemetry);
    check(twice, Err("telemetry of gpu0 stands twice"));
    check(seen(|t| t.power_w = [0.0, 0.0, 0.0]), Ok(()));
    check(seen(|t| t.power_w = [-1.0, 1.0, 2.0]), Err("power_w of gpu0 is -1, 1, 2"));
    check(seen(|t| t.power_w = [2.0, 1.0, 3.0]), Err("not least, mean, most"));
    check(seen(|t| t.sm_clock_mhz = [1.0, 3.0, 2.0]), Err("sm_clock_mhz of gpu0"));
    check(seen(|t| t.power_w[2] = f64::INFINITY), Err("not least, mean, most"));
    check(seen(|t| t.energy_j = Some(0.0)), Ok(()));
    check(seen(|t| t.energy_j = Some(-1.0)), Err("energy_j of gpu0 is -1"));
    check(seen(|t| t.energy_j = Some(f64::INFINITY)), Err("energy_j of gpu0 is inf"));
    let throttled = |percent: f64| {
        move |e: &mut Evidence| {
            e.parts[0].telemetry[0].throttle_percent.insert("hw_thermal".into(), percent);
        }
    };
    check(throttled(100.0), Ok(()));
    check(throttled(100.1), Err("gpu0 throttled in 100.1 % of samples"));
    let moved = |to: u64| {
        move |e: &mut Evidence| {
            e.parts[0].telemetry[0].counters_moved.insert("replays".into(), [4, to]);
        }
    };
    check(moved(5), Ok(()));
    check(moved(4), Err("replays of gpu0 moved from 4 to 4"));
}

/// The first part once more, as a second attempt that started so many seconds after the first, which
/// took one.
fn again(evidence: &mut Evidence, seconds: u32) {
    let mut second = evidence.parts[0].clone();
    second.attempt = 2;
    second.started = format!("2026-01-01T00:00:0{seconds}Z");
    second.metrics[0].values.iter_mut().for_each(|value| *value += 0.5);
    evidence.parts.push(second);
}

#[test]
fn a_second_attempt_follows_the_first() {
    check(|e| again(e, 1), Ok(()));
    // Times are whole seconds: one that took a second may end in the one that it began in.
    check(|e| again(e, 0), Ok(()));
    let long = |e: &mut Evidence| {
        e.parts[0].wall_s = 3.5;
        again(e, 2);
    };
    check(long, Err("attempt 2 on gpu0 started 2026-01-01T00:00:02Z, the one before it"));
    let later = |e: &mut Evidence| {
        e.parts[0].wall_s = 3.5;
        again(e, 3);
    };
    check(later, Ok(()));
    check(|e| e.parts[1].attempt = 2, Err("attempt 2 on gpu1 has none before it"));
}

#[test]
fn a_count_is_whole_and_can_be_counted() {
    let counted = |value: f64| move |e: &mut Evidence| e.parts[0].metrics[1].values = vec![value];
    check(counted(MOST_COUNTED), Ok(()));
    check(counted(2.0 * MOST_COUNTED), Err("wrong_count holds 18014398509481984: no count"));
    check(counted(0.5), Err("no count"));
    check(counted(-1.0), Err("no count"));
}
