//! Faults of the numbers in an evidence file: what no measurement gives, what was not measured, and what
//! is worse than it may be.

use serde_json::{Value, json};

use super::{Fault, Plant, array, in_evidence as fault};
use crate::case::Expect;
use crate::detector::good::Good;

const fn token(name: &'static str, plant: fn(&str, &Good) -> String, names: &'static str) -> Fault {
    Fault { name, file: "evidence", as_what: "broken", names, plant: Plant::EvidenceText(plant) }
}

/// The first series of this name in a list of metrics.
fn named<'a>(metrics: &'a mut Value, name: &str) -> &'a mut Value {
    let metrics = array(metrics);
    let index = metrics.iter().position(|metric| metric["name"] == name).unwrap_or_default();
    &mut metrics[index]
}

/// The claim's series on one GPU.
fn rate<'a>(evidence: &'a mut Value, part: usize, base: &Good) -> &'a mut Value {
    named(&mut evidence["parts"][part]["metrics"], base.claim.metric)
}

fn bits<'a>(evidence: &'a mut Value, part: usize, base: &Good) -> &'a mut Value {
    named(&mut evidence["parts"][part]["metrics"], base.integrity())
}

/// The series of a control on the first GPU.
fn planted<'a>(evidence: &'a mut Value, expect: Expect, base: &Good) -> &'a mut Value {
    let name = base.control(expect);
    let controls = array(&mut evidence["parts"][0]["controls"]);
    let index = controls.iter().position(|control| control["name"] == name).unwrap_or_default();
    let trips = if expect == Expect::Corrupt { base.integrity() } else { base.claim.metric };
    named(&mut controls[index]["metrics"], trips)
}

fn scale(metric: &mut Value, by: f64) {
    for value in array(&mut metric["values"]) {
        *value = (value.as_f64().unwrap_or_default() * by).into();
    }
}

/// How far below its golden the claim's rate on the first GPU is moved, in tolerances.
fn below(evidence: &mut Value, base: &Good, tolerances: f64) {
    let Some(bound) = base.bound() else { return };
    let target = bound.golden * (1.0 - tolerances * bound.worse);
    let metric = rate(evidence, 0, base);
    let values = array(&mut metric["values"]);
    let count = values.len();
    for (value, step) in values.iter_mut().zip(0..) {
        // Seven steps to either side of it: a spread without which samples would all be one.
        let offset = f64::from(step) - (count as f64 - 1.0) / 2.0;
        *value = (target * (1.0 + 1e-5 * offset)).into();
    }
}

/// The text with another token in place of the claim's first sample.
fn sample(text: &str, base: &Good, token: &str) -> String {
    let (before, after) =
        text.split_once(&format!("\"name\":\"{}\"", base.claim.metric)).unwrap_or((text, ""));
    let (between, values) = after.split_once("\"values\":[").unwrap_or((after, ""));
    let end = values.find([',', ']']).unwrap_or_default();
    format!(
        "{before}\"name\":\"{}\"{between}\"values\":[{token}{}",
        base.claim.metric,
        &values[end..]
    )
}

/// Bandwidths of a collective on the first GPU: of the algorithm, and of the bus.
fn collective(evidence: &mut Value, operation: &str, [algorithm, bus]: [f64; 2]) {
    let gpu = evidence["parts"][0]["devices"][0]["gpu"].clone();
    let metric = |name: &str, value: f64| {
        let at = json!({"op": operation});
        let values = vec![value; 6];
        json!({"name": name, "at": at, "gpus": [gpu.clone()], "kind": "sampled", "values": values})
    };
    let pair = [metric("algbw_gbps", algorithm), metric("busbw_gbps", bus)];
    array(&mut evidence["parts"][0]["metrics"]).extend(pair);
}

fn renamed(metric: &mut Value, unit: &str) {
    let name = metric["name"].as_str().unwrap_or_default();
    let stem = name.rsplit_once('_').map_or(name, |(stem, _)| stem);
    metric["name"] = format!("{stem}{unit}").into();
}

pub(super) static FAULTS: &[Fault] = &[
    // What is no number.
    token("NaN", |text, base| sample(text, base, "NaN"), "expected value"),
    token("null for a sample", |text, base| sample(text, base, "null"), "invalid type: null"),
    token("infinite", |text, base| sample(text, base, "1e999"), "number out of range"),
    token("the word infinity", |text, base| sample(text, base, "Infinity"), "expected value"),
    token(
        "a sample in quotes",
        |text, base| sample(text, base, "\"4700\""),
        "invalid type: string",
    ),
    // What no measurement gives.
    fault(
        "above physics",
        |e, base| scale(rate(e, 0, base), 10.0),
        "broken",
        "beyond the physical peak",
    ),
    fault(
        "a negative rate",
        |e, base| scale(rate(e, 0, base), -1.0),
        "broken",
        "less than nothing",
    ),
    fault(
        "one sample many times over",
        |e, base| {
            let values = array(&mut rate(e, 0, base)["values"]);
            let first = json!(base.bound().map_or(0.0, |bound| bound.golden) + 0.123_45);
            values.iter_mut().for_each(|value| *value = first.clone());
        },
        "broken",
        "samples that are all exactly",
    ),
    fault(
        "a fraction of a wrong bit",
        |e, base| bits(e, 0, base)["values"] = json!([0.5]),
        "broken",
        "metric {bits} holds 0.5: no count",
    ),
    fault(
        "less than no wrong bit",
        |e, base| bits(e, 0, base)["values"] = json!([-1.0]),
        "broken",
        "metric {bits} holds -1: no count",
    ),
    // What was not measured.
    fault(
        "a missing metric",
        |e, base| {
            let metric = base.claim.metric;
            for part in array(&mut e["parts"]) {
                array(&mut part["metrics"]).retain(|own| own["name"] != metric);
            }
        },
        "broken",
        "metric {metric} is missing",
    ),
    fault(
        "a metric missing on one GPU",
        |e, base| {
            let metric = base.claim.metric;
            array(&mut e["parts"][1]["metrics"]).retain(|own| own["name"] != metric);
        },
        "broken",
        "metric {metric} is missing on {gpu1}",
    ),
    fault(
        "a place missing on one GPU",
        |e, base| {
            let mut more = rate(e, 0, base).clone();
            more["at"]["planted"] = "1".into();
            scale(&mut more, 0.999_99);
            array(&mut e["parts"][0]["metrics"]).push(more);
        },
        "broken",
        "1 of 2 places of {gpu0}",
    ),
    fault(
        "no samples",
        |e, base| rate(e, 0, base)["values"] = json!([]),
        "broken",
        "has no values",
    ),
    fault(
        "too few samples",
        |e, base| array(&mut rate(e, 0, base)["values"]).truncate(3),
        "broken",
        "3 samples, 6 are the fewest",
    ),
    fault(
        "the slow samples left out",
        |e, base| {
            let values = array(&mut rate(e, 0, base)["values"]);
            values.sort_by(|a, b| b.as_f64().unwrap_or(0.0).total_cmp(&a.as_f64().unwrap_or(0.0)));
            values.truncate(6);
        },
        "broken",
        "6 samples in attempt 1 on {gpu0}, the case takes",
    ),
    fault(
        "one sample of a GPU left out",
        |e, base| drop(array(&mut rate(e, 1, base)["values"]).pop()),
        "broken",
        "on {gpu1}, the case takes",
    ),
    fault(
        "the samples of another GPU",
        |e, base| {
            let other = rate(e, 0, base)["values"].clone();
            rate(e, 1, base)["values"] = other;
        },
        "broken",
        "in attempt 1 holds the samples of {gpu0}",
    ),
    fault(
        "one sample, called exact",
        |e, base| {
            let metric = rate(e, 0, base);
            metric["kind"] = "exact".into();
            array(&mut metric["values"]).truncate(1);
        },
        "broken",
        "metric {metric} is both exact and sampled",
    ),
    fault(
        "every rate called exact",
        |e, _| {
            for part in array(&mut e["parts"]) {
                array(&mut part["metrics"]).iter_mut().for_each(exact);
                for control in array(&mut part["controls"]) {
                    array(&mut control["metrics"]).iter_mut().for_each(exact);
                }
            }
        },
        "broken",
        "metric {metric} is called exact",
    ),
    fault(
        "another unit",
        |e, base| renamed(rate(e, 0, base), "_mbps"),
        "broken",
        "metric {metric} is missing on {gpu0}",
    ),
    fault("no unit", |e, base| renamed(rate(e, 0, base), ""), "broken", "names no unit"),
    fault(
        "a metric twice",
        |e, base| {
            let own = rate(e, 0, base).clone();
            array(&mut e["parts"][0]["metrics"]).push(own);
        },
        "broken",
        "metric {metric} stands twice on {gpu0}",
    ),
    fault(
        "a metric of a GPU that was not there",
        |e, base| rate(e, 0, base)["gpus"] = json!([99]),
        "broken",
        "metric {metric} is of gpu99, the part had {gpu0}",
    ),
    fault(
        "a metric of one GPU twice",
        |e, base| rate(e, 0, base)["gpus"] = json!([base.gpu(0), base.gpu(0)]),
        "broken",
        "metric {metric} names {gpu0} twice",
    ),
    fault(
        "a missing integrity metric",
        |e, base| {
            let metric = base.integrity();
            array(&mut e["parts"][0]["metrics"]).retain(|own| own["name"] != metric);
        },
        "broken",
        "{gpu0}: metric {bits} is missing",
    ),
    // What is worse than it may be.
    fault(
        "one wrong bit",
        |e, base| bits(e, 1, base)["values"] = json!([1.0]),
        "corrupt",
        "{bits} = 1 on {gpu1}",
    ),
    fault("a GPU under its golden", |e, base| below(e, base, 1.2), "regressed", "on {gpu0}"),
    fault(
        "a GPU on the edge of its golden",
        |e, base| below(e, base, 1.0),
        "inconclusive",
        "straddles",
    ),
    fault(
        "a GPU under the documented bound",
        |e, base| scale(rate(e, 1, base), 0.1),
        "refuted",
        "on {gpu1}",
    ),
    fault(
        "a control with a healthy value",
        |e, base| {
            let healthy = rate(e, 0, base)["values"].clone();
            planted(e, Expect::Regressed, base)["values"] = healthy;
        },
        "broken",
        "was not caught: {metric} = ",
    ),
    fault(
        "a control above physics",
        |e, base| scale(planted(e, Expect::Regressed, base), 10.0),
        "broken",
        "was not caught: {metric} = ",
    ),
    fault(
        "a control that did nothing",
        |e, base| scale(planted(e, Expect::Regressed, base), 0.0),
        "broken",
        "was not caught: metric {metric} holds 0: nothing was done",
    ),
    fault(
        "a control with negative rates",
        |e, base| scale(planted(e, Expect::Regressed, base), -1.0),
        "broken",
        "was not caught: metric {metric} holds -",
    ),
    fault(
        "a control of one sample many times over",
        |e, base| {
            let values = array(&mut planted(e, Expect::Regressed, base)["values"]);
            values.iter_mut().for_each(|value| *value = 1.234_56.into());
        },
        "broken",
        "samples that are all exactly 1.23456",
    ),
    fault(
        "more wrong bits than can be counted",
        |e, base| planted(e, Expect::Corrupt, base)["values"] = json!([1e30]),
        "broken",
        "metric {bits} holds 1",
    ),
    fault(
        "a rate of nothing",
        |e, base| scale(rate(e, 0, base), 0.0),
        "broken",
        "metric {metric} holds 0: nothing was done",
    ),
    fault(
        "a bus bandwidth that does not follow",
        |e, _| collective(e, "all-reduce", [100.0, 104.0]),
        "broken",
        "busbw_gbps = 104 of all-reduce over 1 GPUs",
    ),
    fault(
        "a bus bandwidth of another collective",
        |e, _| collective(e, "broadcast", [100.0, 175.0]),
        "broken",
        "busbw_gbps = 175 of broadcast over 1 GPUs: 1.0000 times algbw_gbps = 100 is 100.00",
    ),
    fault(
        "a bus bandwidth of what has none",
        |e, _| collective(e, "gossip", [100.0, 100.0]),
        "broken",
        "its factor is not known",
    ),
    fault(
        "a bus bandwidth without the other",
        |e, _| {
            collective(e, "broadcast", [100.0, 100.0]);
            let metrics = array(&mut e["parts"][0]["metrics"]);
            metrics.retain(|metric| metric["name"] != "algbw_gbps");
        },
        "broken",
        "has no algbw_gbps beside it",
    ),
    fault(
        "a flipped bit that nobody counted",
        |e, base| planted(e, Expect::Corrupt, base)["values"] = json!([0.0]),
        "broken",
        "was not caught: {bits} = 0",
    ),
    fault(
        "a control with too few samples",
        |e, base| array(&mut planted(e, Expect::Regressed, base)["values"]).truncate(2),
        "broken",
        "was not caught: 2 samples",
    ),
    // What was watched meanwhile.
    fault(
        "thermal throttling",
        |e, _| e["parts"][0]["telemetry"][0]["throttle_percent"]["hw_thermal"] = 30.0.into(),
        "inconclusive",
        "{gpu0} throttled (hw_thermal, 30.0 %",
    ),
    fault(
        "a GPU that nothing watched",
        |e, _| e["parts"][1]["telemetry"] = json!([]),
        "inconclusive",
        "nothing watched {gpu1}",
    ),
    fault(
        "a watch without a sample",
        |e, _| e["parts"][1]["telemetry"][0]["samples"] = 0.into(),
        "inconclusive",
        "nothing watched {gpu1}",
    ),
    fault(
        "the watch over another GPU",
        |e, _| e["parts"][0]["telemetry"][0]["gpu"] = 99.into(),
        "broken",
        "telemetry is of gpu99",
    ),
    fault(
        "two watches over one GPU",
        |e, _| {
            let own = e["parts"][0]["telemetry"][0].clone();
            array(&mut e["parts"][0]["telemetry"]).push(own);
        },
        "broken",
        "telemetry of {gpu0} stands twice",
    ),
    fault(
        "a mean clock above the highest",
        |e, _| e["parts"][0]["telemetry"][0]["sm_clock_mhz"] = json!([1000.0, 3000.0, 2000.0]),
        "broken",
        "sm_clock_mhz of {gpu0} is 1000, 3000, 2000",
    ),
    fault(
        "negative power",
        |e, _| e["parts"][0]["telemetry"][0]["power_w"] = json!([-5.0, 100.0, 200.0]),
        "broken",
        "power_w of {gpu0} is -5",
    ),
    fault(
        "power beyond the limit",
        |e, _| e["parts"][0]["telemetry"][0]["power_w"] = json!([100.0, 500.0, 9000.0]),
        "broken",
        "power_w of {gpu0} is 9000 at most, more than its board allows",
    ),
    fault(
        "a clock above the board's highest",
        |e, _| e["parts"][0]["telemetry"][0]["sm_clock_mhz"] = json!([1000.0, 2000.0, 9999.0]),
        "broken",
        "sm_clock_mhz of {gpu0} is 9999 at most, more than its board allows",
    ),
    fault(
        "a memory clock above the board's highest",
        |e, _| e["parts"][0]["telemetry"][0]["memory_clock_mhz"] = json!([9000.0, 9000.0, 9000.0]),
        "broken",
        "memory_clock_mhz of {gpu0} is 9000 at most, more than its board allows",
    ),
    fault(
        "colder than space",
        |e, _| e["parts"][0]["telemetry"][0]["temperature_c_max"] = (-300.0).into(),
        "broken",
        "temperature_c_max of {gpu0} is -300",
    ),
    fault(
        "hotter than solder",
        |e, _| e["parts"][0]["telemetry"][0]["temperature_c_max"] = 400.0.into(),
        "broken",
        "temperature_c_max of {gpu0} is 400",
    ),
    fault(
        "negative energy",
        |e, _| e["parts"][0]["telemetry"][0]["energy_j"] = (-5.0).into(),
        "broken",
        "energy_j of {gpu0} is -5",
    ),
    fault(
        "throttled in more than all samples",
        |e, _| e["parts"][0]["telemetry"][0]["throttle_percent"]["sw_power_cap"] = 140.0.into(),
        "broken",
        "140 % of samples: no share",
    ),
    fault(
        "an error counter that moved nowhere",
        |e, _| e["parts"][0]["telemetry"][0]["counters_moved"]["replays"] = json!([4, 4]),
        "broken",
        "moved from 4 to 4",
    ),
    fault(
        "an uncorrected memory error",
        |e, _| {
            let moved = json!([0, 1]);
            e["parts"][0]["telemetry"][0]["counters_moved"]["ecc_uncorrected_volatile"] = moved;
        },
        "broken",
        "ecc_uncorrected_volatile moved from 0 to 1",
    ),
];

fn exact(metric: &mut Value) {
    metric["kind"] = "exact".into();
}
