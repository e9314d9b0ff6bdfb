//! Faults of a run's manifest, and of the list of runs.

use serde_json::{Value, json};

use super::evidence::other_tier;
use super::{Fault, Plant, array, entry};
use crate::detector::good::Good;
use crate::digest::sha256_hex;

const fn fault(
    name: &'static str,
    plant: fn(&mut Value, &Good),
    as_what: &'static str,
    names: &'static str,
) -> Fault {
    Fault { name, file: "manifest", as_what, names, plant: Plant::Manifest(plant) }
}

const fn listed(name: &'static str, plant: fn(&mut Vec<String>), names: &'static str) -> Fault {
    Fault { name, file: "manifest", as_what: "refused", names, plant: Plant::Runs(plant) }
}

/// The last line, and another thing done with it.
fn last(runs: &mut [String], change: fn(&str) -> String) {
    if let Some(line) = runs.last_mut() {
        *line = change(line);
    }
}

pub(super) static FAULTS: &[Fault] = &[
    fault(
        "a schema from the future",
        |m, _| m["schema"] = 7.into(),
        "refused",
        "schema 7 is not 1",
    ),
    fault("an unknown field", |m, _| m["note"] = "fine".into(), "refused", "unknown field `note`"),
    fault(
        "no versions",
        |m, _| drop(m.as_object_mut().and_then(|fields| fields.remove("versions"))),
        "refused",
        "missing field `versions`",
    ),
    fault(
        "ended before it started",
        |m, _| m["ended"] = "1999-01-01T00:00:00Z".into(),
        "refused",
        "ended 1999-01-01T00:00:00Z before it started",
    ),
    fault(
        "started before its clock",
        |m, _| m["started"] = "1999-01-01T00:00:00Z".into(),
        "refused",
        "from 1999-01-01T00:00:00Z",
    ),
    fault(
        "a start that is no time",
        |m, _| m["started"] = "noon".into(),
        "refused",
        "\"noon\" is no",
    ),
    fault(
        "a later start, to be the newest",
        |m, _| {
            for field in ["started", "ended"] {
                let later = m[field].as_str().unwrap_or_default().replacen("2026-", "2027-", 1);
                m[field] = later.into();
            }
        },
        "broken",
        ", its run 2027-",
    ),
    fault(
        "an executable of nothing",
        |m, _| m["executable_sha256"] = sha256_hex(b"").into(),
        "refused",
        "the executable has no digest: \"e3b0c442",
    ),
    fault(
        "an executable whose digest is all zero",
        |m, _| m["executable_sha256"] = "0".repeat(64).into(),
        "refused",
        "the executable has no digest: \"0000",
    ),
    fault("negative time", |m, _| m["wall_s"] = (-1.0).into(), "refused", "wall_s = -1"),
    fault("faster than its clock says", |m, _| m["wall_s"] = 0.5.into(), "refused", "lasted 0.5 s"),
    fault(
        "a name that leaves its folder",
        |m, _| m["run"] = "../elsewhere".into(),
        "refused",
        "run \"../elsewhere\"",
    ),
    fault(
        "another board's name",
        |m, _| m["board"] = "another-board".into(),
        "broken",
        "stands under another-board",
    ),
    fault("another tier", |m, _| m["tier"] = other_tier(&m["tier"]), "broken", "its run does not"),
    fault(
        "shared, and its evidence is not",
        |m, _| m["shared"] = true.into(),
        "broken",
        "shared false",
    ),
    fault(
        "interrupted",
        |m, _| m["interrupted"] = true.into(),
        "refused",
        "interrupted or partial",
    ),
    fault("partial", |m, _| m["whole"] = false.into(), "refused", "interrupted or partial"),
    fault(
        "recovered for no reason",
        |m, _| m["recovered"] = " ".into(),
        "refused",
        "recovered, and no word says why",
    ),
    fault(
        "a GPU twice",
        |m, _| m["devices"][1]["gpu"] = m["devices"][0]["gpu"].clone(),
        "refused",
        "stands twice",
    ),
    fault(
        "one GPU under two numbers",
        |m, _| m["devices"][1]["uuid_sha256"] = m["devices"][0]["uuid_sha256"].clone(),
        "refused",
        "are one device",
    ),
    fault(
        "two boards in one run",
        |m, _| m["devices"][1]["pci_device_id"] = "ffff".into(),
        "refused",
        "is a ffff among",
    ),
    fault(
        "a GPU that it does not list",
        |m, _| drop(array(&mut m["devices"]).pop()),
        "broken",
        "GPUs, its run had",
    ),
    fault(
        "a wrong digest",
        |m, base| entry(m, base.case.id)["sha256"] = "0".repeat(64).into(),
        "broken",
        ", its run lists 000000000000",
    ),
    fault(
        "a digest that is none",
        |m, base| entry(m, base.case.id)["sha256"] = "sha256:12".into(),
        "refused",
        "\"sha256:12\" is no SHA-256",
    ),
    fault(
        "a file outside of its folder",
        |m, base| entry(m, base.case.id)["file"] = "../../other.json".into(),
        "refused",
        "\"../../other.json\" is no name of a file",
    ),
    fault(
        "an outcome that nobody knows",
        |m, base| entry(m, base.case.id)["outcome"] = "fine".into(),
        "refused",
        "\"fine\" is no outcome",
    ),
    fault(
        "failed, and its evidence is completed",
        |m, base| entry(m, base.case.id)["outcome"] = "failed".into(),
        "broken",
        "is completed, its run lists failed",
    ),
    fault(
        "not run, and its evidence is completed",
        |m, base| entry(m, base.case.id)["outcome"] = "not-run".into(),
        "broken",
        "is completed, its run lists not-run",
    ),
    fault(
        "a case under another name",
        |m, base| entry(m, base.case.id)["case"] = "a::b".into(),
        "not-run",
        "the run",
    ),
    fault(
        "a case that it does not list",
        |m, base| array(&mut m["cases"]).retain(|entry| entry["case"] != base.case.id),
        "not-run",
        "has no",
    ),
    fault(
        "a case twice",
        |m, base| {
            let own = entry(m, base.case.id).clone();
            array(&mut m["cases"]).push(own);
        },
        "refused",
        "or its file",
    ),
    fault(
        "two cases in one file",
        |m, base| {
            let mut own = entry(m, base.case.id).clone();
            own["case"] = "a::b".into();
            array(&mut m["cases"]).push(own);
        },
        "refused",
        "case a::b or its file",
    ),
    fault("no cases", |m, _| m["cases"] = json!([]), "not-run", "has no"),
    listed("a line twice", |runs| runs.extend(runs.last().cloned()), "stands twice"),
    listed(
        "a run twice, with another digest",
        |runs| {
            let again = runs.last().map(|line| line.replace("\"dirty\":true", "\"dirty\": true"));
            let again = again.map(|line| line.replace("\"dirty\":false", "\"dirty\":true"));
            runs.extend(again);
        },
        "stands twice",
    ),
    listed(
        "a line cut",
        |runs| last(runs, |line| line[..line.len() / 2].to_owned()),
        "EOF while parsing",
    ),
    listed("an empty line", |runs| runs.insert(0, String::new()), "EOF while parsing"),
    listed("two runs in one line", |runs| last(runs, |line| line.repeat(2)), "trailing characters"),
];
