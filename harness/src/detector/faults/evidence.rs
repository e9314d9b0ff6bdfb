//! Faults of an evidence file that have nothing to do with the size of its numbers: what it is about, who
//! measured it, and whether it contradicts itself.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Fault, Plant, array, in_evidence as fault};
use crate::case::Expect;
use crate::detector::good::Good;
use crate::digest::sha256_hex;

const fn text(
    name: &'static str,
    plant: fn(&str, &Good) -> String,
    as_what: &'static str,
    names: &'static str,
) -> Fault {
    Fault { name, file: "evidence", as_what, names, plant: Plant::EvidenceText(plant) }
}

const fn unsealed(name: &'static str, plant: fn(&str, &Good) -> String) -> Fault {
    let plant = Plant::Unsealed(plant);
    Fault { name, file: "evidence", as_what: "broken", names: ", its run lists", plant }
}

/// A part of the case under one of its controls.
fn control<'a>(part: &'a mut Value, name: &str) -> &'a mut Value {
    let controls = array(&mut part["controls"]);
    let index = controls.iter().position(|control| control["name"] == name).unwrap_or_default();
    &mut controls[index]
}

/// The first half, up to where a value would follow: a number that is cut may be none or a shorter one.
fn cut(text: &str) -> String {
    let half: String = text.chars().take(text.chars().count() / 2).collect();
    let end = half.rfind(',').map_or(half.len(), |comma| comma + 1);
    half[..end].to_owned()
}

/// A tier that is not this one.
pub(super) fn other_tier(tier: &Value) -> Value {
    if tier == "full" { "quick".into() } else { "full".into() }
}

/// Two parts with their GPUs, or one field of them, exchanged.
fn swap(evidence: &mut Value, field: Option<&str>) {
    let parts = array(&mut evidence["parts"]);
    let [one, two, ..] = parts.as_mut_slice() else { return };
    let (one, two) = (&mut one["devices"][0], &mut two["devices"][0]);
    match field {
        Some(field) => std::mem::swap(&mut one[field], &mut two[field]),
        None => std::mem::swap(one, two),
    }
}

pub(super) static FAULTS: &[Fault] = &[
    // The file as a file.
    text("cut in the middle", |text, _| cut(text), "broken", "EOF while parsing"),
    text("empty", |_, _| String::new(), "broken", "EOF while parsing"),
    text("two documents in one file", |text, _| text.repeat(2), "broken", "trailing characters"),
    text("an unending nest of lists", |_, _| "[".repeat(50_000), "broken", "not evidence"),
    text(
        "a field twice",
        |text, _| text.replacen('{', "{\"schema\":1,", 1),
        "broken",
        "duplicate field `schema`",
    ),
    text(
        "a claim twice, with two digests",
        |text, _| text.replacen("\"claims\":{", "\"claims\":{\"x\":\"1\",\"x\":\"2\",", 1),
        "broken",
        "key \"x\" stands twice",
    ),
    text("of another case", |_, base| base.of_another_case.clone(), "broken", "its run lists"),
    text("of another run", |_, base| base.of_another_run.clone(), "broken", "belongs to run"),
    unsealed("one digit changed after the run", |text, _| {
        text.replacen("\"gpu\":0", "\"gpu\":1", 1)
    }),
    unsealed("cut after the run", |text, _| cut(text)),
    unsealed("its last newline lost after the run", |text, _| text.trim_end().to_owned()),
    unsealed("replaced after the run by another run's", |_, base| base.of_another_run.clone()),
    unsealed("replaced after the run by another case's", |_, base| base.of_another_case.clone()),
    // Under another name it is no other measurement.
    fault(
        "a calibration run under another name",
        |e, base| {
            let other: Value = serde_json::from_str(&base.of_another_run).unwrap_or_default();
            let parts = other["parts"].as_array().cloned().unwrap_or_default();
            for (own, other) in array(&mut e["parts"]).iter_mut().zip(parts) {
                for field in ["metrics", "controls", "telemetry"] {
                    own[field] = other[field].clone();
                }
            }
        },
        "not-run",
        "a calibration run of this golden",
    ),
    fault(
        "one GPU of a calibration run under another name",
        |e, base| {
            let other: Value = serde_json::from_str(&base.of_another_run).unwrap_or_default();
            e["parts"][0]["metrics"] = other["parts"][0]["metrics"].clone();
        },
        "not-run",
        "a calibration run of this golden",
    ),
    // Its schema.
    fault("a schema from the future", |e, _| e["schema"] = 2.into(), "broken", "schema 2 is not 1"),
    fault("no schema", |e, _| drop(take(e, "schema")), "broken", "missing field `schema`"),
    fault("an unknown field", |e, _| e["verdict"] = "verified".into(), "broken", "`verdict`"),
    fault(
        "an unknown field in a metric",
        |e, _| e["parts"][0]["metrics"][0]["unit"] = "GB/s".into(),
        "broken",
        "unknown field `unit`",
    ),
    fault("no duration", |e, _| drop(take(&mut e["parts"][0], "wall_s")), "broken", "`wall_s`"),
    fault("no parts", |e, _| e["parts"] = json!([]), "broken", "no parts"),
    // What it is about.
    fault("another run's name", |e, _| e["run"] = "another".into(), "broken", "run another"),
    fault("another case's name", |e, _| e["case"] = "a::b".into(), "broken", "is of a::b"),
    fault("another tier", |e, _| e["tier"] = other_tier(&e["tier"]), "broken", "its run does not"),
    fault(
        "shared, in a run that was not",
        |e, _| e["shared"] = true.into(),
        "broken",
        "shared true",
    ),
    fault("more GPUs than its run had", |e, _| e["gpus"] = 99.into(), "broken", "is of 99 GPUs"),
    fault("figures of another revision", |e, _| e["revision"] = 99.into(), "stale", "at 99"),
    fault(
        "a claim that was reworded",
        |e, base| e["claims"][base.claim.id] = "old".into(),
        "stale",
        "reworded",
    ),
    fault(
        "a claim that is younger",
        |e, base| drop(take(&mut e["claims"], base.claim.id)),
        "stale",
        "younger",
    ),
    // Which GPUs measured it.
    fault(
        "another board",
        |e, _| {
            e["pci_device_id"] = "ffff".into();
            for part in array(&mut e["parts"]) {
                part["devices"][0]["pci_device_id"] = "ffff".into();
            }
        },
        "broken",
        "that its run does not list",
    ),
    fault(
        "a GPU of another board",
        |e, _| e["parts"][0]["devices"][0]["pci_device_id"] = "ffff".into(),
        "broken",
        "{gpu0} is a ffff",
    ),
    fault("swapped GPUs", |e, _| swap(e, None), "broken", "is of {gpu0}, the part had {gpu1}"),
    fault(
        "swapped identities of GPUs",
        |e, _| swap(e, Some("uuid_sha256")),
        "broken",
        "that its run does not list",
    ),
    fault(
        "one GPU twice under two numbers",
        |e, _| {
            let own = e["parts"][0]["devices"][0]["uuid_sha256"].clone();
            e["parts"][1]["devices"][0]["uuid_sha256"] = own;
        },
        "broken",
        "{gpu0} and {gpu1} are one device",
    ),
    fault(
        "a GPU twice in one part",
        |e, _| {
            let own = e["parts"][0]["devices"][0].clone();
            array(&mut e["parts"][0]["devices"]).push(own);
        },
        "broken",
        "{gpu0} stands twice",
    ),
    fault(
        "a GPU of a larger power limit than the run's",
        |e, _| e["parts"][0]["devices"][0]["power_limit_w"] = 9999.0.into(),
        "broken",
        "that its run does not list",
    ),
    fault(
        "the slow GPU left out",
        |e, _| drop(array(&mut e["parts"]).pop()),
        "broken",
        "GPUs of the run were measured",
    ),
    fault(
        "a part copied, to narrow the interval",
        |e, _| {
            let own = e["parts"][0].clone();
            array(&mut e["parts"]).push(own);
        },
        "broken",
        "attempt 1 of {gpu0} stands twice",
    ),
    fault(
        "a second attempt that is the first once more",
        |e, _| second(e, |_| ()),
        "broken",
        "in attempt 2 holds the samples of {gpu0}",
    ),
    fault(
        "a second attempt that is the first twice",
        |e, _| {
            second(e, |metric| {
                let own = array(&mut metric["values"]).clone();
                array(&mut metric["values"]).extend(own);
            });
        },
        "broken",
        "in attempt 2 holds the samples of {gpu0}",
    ),
    fault(
        "a second attempt of no more samples than the first",
        |e, _| second(e, shifted),
        "broken",
        "in attempt 2",
    ),
    fault(
        "a second attempt without a first",
        |e, _| e["parts"][0]["attempt"] = 2.into(),
        "broken",
        "attempt 2 on {gpu0} has none before it",
    ),
    fault(
        "a second attempt before the first",
        |e, _| {
            second(e, shifted);
            let longer = e["parts"][0]["wall_s"].as_f64().unwrap_or_default() + 4.0;
            e["parts"][0]["wall_s"] = longer.into();
        },
        "broken",
        "attempt 2 on {gpu0} started",
    ),
    fault("a third attempt", |e, _| e["parts"][0]["attempt"] = 3.into(), "broken", "attempt 3"),
    // When.
    fault(
        "the clock before the start of the run",
        |e, _| e["parts"][0]["started"] = "1999-01-01T00:00:00Z".into(),
        "broken",
        "started 1999-01-01T00:00:00Z, its run",
    ),
    fault(
        "a start after the end of the run",
        |e, _| e["parts"][0]["started"] = "2199-01-01T00:00:00Z".into(),
        "broken",
        "from 2199-01-01T00:00:00Z, its run ended",
    ),
    fault(
        "a start that is no time",
        |e, _| e["parts"][0]["started"] = "noon".into(),
        "broken",
        "noon",
    ),
    fault("negative time", |e, _| e["parts"][0]["wall_s"] = (-1.0).into(), "broken", "wall_s = -1"),
    fault(
        "longer than its run",
        |e, _| e["parts"][0]["wall_s"] = 1e9.into(),
        "broken",
        "lasted 10",
    ),
    // Which kernels.
    fault(
        "a stale kernel",
        |e, _| e["parts"][0]["kernels"][0]["source_sha256"] = sha256_hex(b"old").into(),
        "stale",
        "changed after its evidence",
    ),
    fault(
        "another machine code on one GPU",
        |e, _| e["parts"][0]["kernels"][0]["cubin_sha256"] = sha256_hex(b"other").into(),
        "broken",
        "ran as two machine codes",
    ),
    fault("no kernel named", |e, _| e["parts"][0]["kernels"] = json!([]), "broken", "which kernel"),
    fault(
        "machine code of nothing",
        |e, _| each_kernel(e, "cubin_sha256", &sha256_hex(b"")),
        "broken",
        "the cubin of kernel",
    ),
    fault(
        "machine code whose digest is all zero",
        |e, _| each_kernel(e, "cubin_sha256", &"0".repeat(64)),
        "broken",
        "has no digest: \"0000",
    ),
    fault(
        "a source of nothing",
        |e, _| each_kernel(e, "source_sha256", &sha256_hex(b"")),
        "broken",
        "the source of kernel",
    ),
    fault(
        "a kernel twice",
        |e, _| {
            let own = e["parts"][0]["kernels"][0].clone();
            array(&mut e["parts"][0]["kernels"]).push(own);
        },
        "broken",
        "stands twice on {gpu0}",
    ),
    fault(
        "a mode that silently fell back",
        |e, _| {
            let mode = json!({"what": "dtype", "asked": "fp8", "active": "fp16"});
            array(&mut e["parts"][0]["modes"]).push(mode);
        },
        "broken",
        "asked for fp8, fp16 ran",
    ),
    // Its controls.
    fault(
        "a control that was not planted",
        |e, base| {
            let name = base.control(Expect::Regressed);
            array(&mut e["parts"][1]["controls"]).retain(|control| control["name"] != name);
        },
        "broken",
        "was not caught: it was not planted on {gpu1}",
    ),
    fault(
        "a control of another name",
        |e, base| {
            let name = base.control(Expect::Corrupt);
            control(&mut e["parts"][0], name)["name"] = "other".into();
        },
        "broken",
        "was not caught: it was not planted on {gpu0}",
    ),
    fault(
        "a control twice",
        |e, base| {
            let own = control(&mut e["parts"][0], base.control(Expect::Regressed)).clone();
            array(&mut e["parts"][0]["controls"]).push(own);
        },
        "broken",
        "stands twice on {gpu0}",
    ),
    fault(
        "a control without a number",
        |e, base| {
            control(&mut e["parts"][0], base.control(Expect::Corrupt))["metrics"] = json!([]);
        },
        "broken",
        "was not caught: it was not planted on {gpu0}",
    ),
    // How it ended.
    fault(
        "a crash that its manifest calls completed",
        |e, _| {
            let failure = json!({"how": "crash", "detail": "signal 11", "repro": ""});
            e["parts"][0]["outcome"] = json!({"failed": failure});
        },
        "broken",
        "is failed, its run lists completed",
    ),
    fault(
        "not run, and its manifest calls it completed",
        |e, _| e["parts"][0]["outcome"] = json!({"not-run": "no library"}),
        "broken",
        "is not-run, its run lists completed",
    ),
    fault("an Xid", |e, _| e["parts"][0]["xids"] = json!([48]), "broken", "{gpu0}: Xid 48"),
];

/// The first part once more, as a second attempt after it, with something done to each sampled metric.
fn second(evidence: &mut Value, change: fn(&mut Value)) {
    let mut again = evidence["parts"][0].clone();
    again["attempt"] = 2.into();
    let started = again["started"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let wall_s = again["wall_s"].as_f64().unwrap_or_default().ceil();
    if let Some(started) = started {
        again["started"] = (started + SignedDuration::from_secs_f64(wall_s)).to_string().into();
    }
    for metric in array(&mut again["metrics"]).iter_mut() {
        if metric["kind"] == "sampled" {
            change(metric);
        }
    }
    array(&mut evidence["parts"]).push(again);
}

/// Other samples that say the same.
fn shifted(metric: &mut Value) {
    for value in array(&mut metric["values"]) {
        *value = (value.as_f64().unwrap_or_default() * 1.000_01).into();
    }
}

fn each_kernel(evidence: &mut Value, field: &str, digest: &str) {
    for part in array(&mut evidence["parts"]) {
        for kernel in array(&mut part["kernels"]) {
            kernel[field] = digest.into();
        }
    }
}

/// Takes a field away.
fn take(value: &mut Value, field: &str) -> Option<Value> {
    value.as_object_mut()?.remove(field)
}
