//! A comparison for people, and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::weigh::{Outcome, is_speed};
use super::{Comparison, Row, Side, signed_percent};
use crate::digest;
use crate::recorded::FinishedRun;
use crate::report::number;

/// The schema of `--format json`.
const SCHEMA: u32 = 1;

/// In the order in which they are told.
const OUTCOMES: [Outcome; 5] =
    [Outcome::Worse, Outcome::Ambiguous, Outcome::Better, Outcome::NotCompared, Outcome::Same];

/// The word of an outcome: of speed where the claim's figure is one.
fn word(outcome: Outcome, unit: &str) -> &'static str {
    let speed = is_speed(unit);
    match outcome {
        Outcome::Worse if speed => "slower",
        Outcome::Worse => "worse",
        Outcome::Better if speed => "faster",
        Outcome::Better => "better",
        Outcome::Ambiguous => "ambiguous",
        Outcome::Same => "same",
        Outcome::NotCompared => "not compared",
    }
}

/// A table, the gravest first, with what is the same only if `all`; and a line that sums up.
pub(super) fn human(comparison: &Comparison, all: bool) -> String {
    let [a, b] = &comparison.runs;
    let mut out = format!("board {}\nA     {}\nB     {}\n", comparison.board, run(a), run(b));
    for line in moved(a, b) {
        out += &format!("      {line}\n");
    }
    let mut rows: Vec<[String; 6]> = Vec::new();
    let told = |outcome: &Outcome| all || !matches!(outcome, Outcome::Same | Outcome::NotCompared);
    for outcome in OUTCOMES.into_iter().filter(told) {
        let these = comparison.rows.iter().filter(|row| row.outcome == outcome);
        rows.extend(these.map(cells));
    }
    if !rows.is_empty() {
        let head = ["", "claim", "A", "B", "change", "why"].map(str::to_owned);
        out += &format!("\n{}", table(&[&[head], rows.as_slice()].concat()));
    }
    out.push('\n');
    if !all {
        out += &left_out(comparison);
    }
    out + &last_line(comparison)
}

/// What is not compared, counted by reason.
fn left_out(comparison: &Comparison) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for row in comparison.rows.iter().filter(|row| row.outcome == Outcome::NotCompared) {
        *reasons.entry(&row.reason).or_default() += 1;
    }
    let line = |(reason, count): (&str, usize)| format!("not compared, {count}: {reason}\n");
    reasons.into_iter().map(line).collect()
}

/// `sha256:24f450f05546 20261121T103241Z-5d66b1f6, 4 GPUs, quick, source 9190b0f`.
fn run(finished: &FinishedRun) -> String {
    let run = &finished.run;
    let dirty = if run.source.dirty { " (changed)" } else { "" };
    let revision = run.source.revision.get(..7).unwrap_or(&run.source.revision);
    format!(
        "sha256:{} {}, {} GPUs, {}, source {revision}{dirty}",
        digest::short(&finished.sha256),
        run.run,
        run.devices.len(),
        format!("{:?}", run.tier).to_lowercase(),
    )
}

/// Software that differs between the runs, a line each.
fn moved(a: &FinishedRun, b: &FinishedRun) -> Vec<String> {
    let (of_a, of_b) = (&a.run.versions, &b.run.versions);
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let version = |of: Option<&String>| of.map_or("none", String::as_str).to_owned();
    let differs = names.into_iter().filter(|name| of_a.get(*name) != of_b.get(*name));
    differs
        .map(|name| format!("{name} {} -> {}", version(of_a.get(name)), version(of_b.get(name))))
        .collect()
}

fn cells(row: &Row) -> [String; 6] {
    let figure = |side: &Side| {
        let measured = &side.measured;
        let place: Vec<String> = measured.gpus.iter().map(|gpu| format!("gpu{gpu}")).collect();
        let place = if place.is_empty() { String::new() } else { format!(" {}", place.join("-")) };
        format!("{} {}{place}", number(measured.value), measured.unit).replace("  ", " ")
    };
    let (a, b) = row
        .sides
        .as_ref()
        .map_or(("-".to_owned(), "-".to_owned()), |(a, b)| (figure(a), figure(b)));
    [
        word(row.outcome, row.claim.unit()).to_owned(),
        row.claim.id.to_owned(),
        a,
        b,
        row.change_percent.map_or_else(|| "-".to_owned(), signed_percent),
        row.reason.clone(),
    ]
}

/// Columns of the width of their widest cell; the last is not filled up.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or_default()).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.chain([row[5].clone()]).collect::<Vec<_>>().join("  ");
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// `B IS SLOWER: ...` or `B IS NOT SLOWER: ...`, with all counts.
fn last_line(comparison: &Comparison) -> String {
    let count = |outcome| comparison.count(outcome);
    let worse = count(Outcome::Worse);
    let lead = if worse > 0 { "B IS WORSE" } else { "B IS NOT WORSE" };
    format!(
        "{lead}: {worse} slower or worse, {} faster or better, {} the same, {} ambiguous, {} not \
         compared\n",
        count(Outcome::Better),
        count(Outcome::Same),
        count(Outcome::Ambiguous),
        count(Outcome::NotCompared)
    )
}

/// The comparison as one JSON document.
pub(super) fn json(comparison: &Comparison) -> String {
    let [a, b] = &comparison.runs;
    let run = |finished: &FinishedRun| RunView {
        run: finished.run.run.clone(),
        sha256: finished.sha256.clone(),
        started: finished.run.started.clone(),
        gpus: finished.run.devices.len(),
        versions: (*finished.run.versions).clone(),
    };
    let side = |side: &Side| SideView {
        value: side.measured.value,
        interval: [side.measured.interval.0, side.measured.interval.1],
        gpus: side.measured.gpus.clone(),
        sm_clock_mhz: side.clock_mhz,
    };
    let row = |row: &Row| RowView {
        claim: row.claim.id,
        metric: row.claim.figure(),
        unit: row.claim.unit(),
        outcome: word(row.outcome, row.claim.unit()),
        a: row.sides.as_ref().map(|(a, _)| side(a)),
        b: row.sides.as_ref().map(|(_, b)| side(b)),
        change_percent: row.change_percent,
        reason: row.reason.clone(),
    };
    let view = View {
        schema: SCHEMA,
        board: comparison.board.clone(),
        a: run(a),
        b: run(b),
        worse: comparison.count(Outcome::Worse),
        better: comparison.count(Outcome::Better),
        same: comparison.count(Outcome::Same),
        ambiguous: comparison.count(Outcome::Ambiguous),
        not_compared: comparison.count(Outcome::NotCompared),
        claims: comparison.rows.iter().map(row).collect(),
    };
    serde_json::to_string_pretty(&view).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct View {
    schema: u32,
    board: String,
    a: RunView,
    b: RunView,
    worse: usize,
    better: usize,
    same: usize,
    ambiguous: usize,
    not_compared: usize,
    claims: Vec<RowView>,
}

#[derive(Serialize)]
struct RunView {
    run: String,
    sha256: String,
    started: String,
    gpus: usize,
    versions: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RowView {
    claim: &'static str,
    metric: &'static str,
    unit: &'static str,
    outcome: &'static str,
    a: Option<SideView>,
    b: Option<SideView>,
    change_percent: Option<f64>,
    reason: String,
}

#[derive(Serialize)]
struct SideView {
    value: f64,
    interval: [f64; 2],
    gpus: Vec<u32>,
    sm_clock_mhz: Option<f64>,
}
