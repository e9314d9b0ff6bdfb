//! Tables: derived columns, baselines of one workload, workloads that were announced.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Context;
use crate::audit::document::{Document, Shape, Table};
use crate::audit::finding::{Finding, figure, rounded};
use crate::audit::grid::{self, BASELINE, Column};
use crate::audit::interval::Interval;
use crate::audit::quantity::Quantity;
use crate::audit::unit::Kind;
use crate::audit::words;

/// How far two measurements of one baseline may lie apart: noise, warm-up, another day.
const SAME: f64 = 0.05;

/// Times that are not those of a whole pass.
const PARTIAL: &[&str] =
    &["per token", "tpot", "ttft", "p50", "p90", "p95", "p99", "decode", "itl"];

/// Every row with its line and cells, for each table of each document.
fn each_row(context: &Context, mut check: impl FnMut(&Document, &[Column], u32, &[String])) {
    for document in context.documents {
        for table in &document.tables {
            let columns = grid::columns(table);
            for (line, cells) in &table.rows {
                check(document, &columns, *line, cells);
            }
        }
    }
}

fn of_kind(columns: &[Column], kind: Kind) -> Vec<&Column> {
    columns.iter().filter(|column| column.kind == kind).collect()
}

/// `batch x sequence / latency`, for every rate that has a time of the same label.
pub(super) fn throughput(context: &Context, found: &mut Vec<Finding>) {
    each_row(context, |document, columns, line, cells| {
        let Some(workload) = grid::workload(cells, columns) else { return };
        for rate in of_kind(columns, Kind::Throughput) {
            let times = of_kind(columns, Kind::Time);
            let mut times = times
                .into_iter()
                .filter(|time| time.label == rate.label && !words::any(&time.header, PARTIAL));
            let (Some(time), None) = (times.next(), times.next()) else { continue };
            let values = (grid::cell(cells, rate), grid::cell(cells, time));
            let (Some(printed), Some(latency)) = values else { continue };
            let passes = grid::per_pass(&workload, rate.unit);
            let computed = passes.iter().map(|pass| *pass / latency.interval());
            let Some(first) = computed.clone().next() else { continue };
            if computed.clone().any(|computed| computed.meets(printed.interval())) {
                continue;
            }
            let pass = passes[0].middle();
            let (text, time_text) = (&cells[rate.index], &cells[time.index]);
            found.push(
                Finding::new(
                    &document.name,
                    line,
                    "table-throughput",
                    format!("prints {text} {}, computes to {}", rate.unit, figure(first.middle())),
                )
                .shown(format!(
                    "{pass} / {time_text} {} = {} to {}",
                    time.unit,
                    figure(first.low),
                    figure(first.high)
                ))
                .value("printed", printed.value)
                .value("computed", first.middle()),
            );
        }
    });
}

/// The two columns that a factor compares: what is held against, and what was gained.
fn compared(columns: &[Column], kind: Kind) -> Option<(&Column, &Column)> {
    let [first, second] = of_kind(columns, kind)[..] else { return None };
    let base = |column: &Column| words::any(&column.label, BASELINE);
    if base(second) && !base(first) { Some((second, first)) } else { Some((first, second)) }
}

/// Quotients of two times or two rates; with one column of times, against the row that prints 1.
pub(super) fn speedup(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for table in &document.tables {
            let columns = grid::columns(table);
            let [factor] = of_kind(&columns, Kind::Times)[..] else { continue };
            let times = compared(&columns, Kind::Time).map(|(base, new)| (base, new, true));
            let rates = || compared(&columns, Kind::Throughput).map(|(b, n)| (b, n, false));
            if let Some(pair) = times.or_else(rates) {
                for (line, cells) in &table.rows {
                    let base = (grid::cell(cells, pair.0), cells_at(cells, pair.0));
                    factor_of(document, *line, cells, (factor, pair.1, pair.2), base, found);
                }
            } else if let [time] = of_kind(&columns, Kind::Time)[..] {
                let unity = |(_, cells): &&(u32, Vec<String>)| {
                    grid::cell(cells, factor).is_some_and(|q| q.value == 1.0)
                };
                let mut ones = table.rows.iter().filter(unity);
                let (Some((_, base)), None) = (ones.next(), ones.next()) else { continue };
                for (line, cells) in &table.rows {
                    let base = (grid::cell(base, time), cells_at(base, time));
                    factor_of(document, *line, cells, (factor, time, true), base, found);
                }
            }
        }
    }
}

fn cells_at<'a>(cells: &'a [String], column: &Column) -> &'a str {
    cells.get(column.index).map_or("", String::as_str)
}

/// One factor against its base; `lower` where less is better, as with times.
fn factor_of(
    document: &Document,
    line: u32,
    cells: &[String],
    (factor, new, lower): (&Column, &Column, bool),
    (base, base_text): (Option<Quantity>, &str),
    found: &mut Vec<Finding>,
) {
    let values = (grid::cell(cells, factor), base, grid::cell(cells, new));
    let (Some(printed), Some(base), Some(value)) = values else { return };
    let (over, under) = if lower { (base, value) } else { (value, base) };
    let computed = over.interval() / under.interval();
    if computed.meets(printed.interval()) {
        return;
    }
    let new_text = cells_at(cells, new);
    let (over_text, under_text) = if lower { (base_text, new_text) } else { (new_text, base_text) };
    let rounds = rounded(computed.middle(), printed.half, 1.0);
    found.push(
        Finding::new(
            &document.name,
            line,
            "table-speedup",
            format!("prints {}, computes to {rounds}x", cells_at(cells, factor)),
        )
        .shown(format!("{over_text} / {under_text} = {:.5} to {:.5}", computed.low, computed.high))
        .value("printed", printed.value)
        .value("computed", computed.middle()),
    );
}

/// Columns that say what changed, in percent.
const CHANGE: &[&str] =
    &["change", "delta", "diff", "difference", "gain", "saving*", "reduction", "overhead", "drop"];

/// `(b - a) / a` of the only two columns of one unit.
pub(super) fn change(context: &Context, found: &mut Vec<Finding>) {
    each_row(context, |document, columns, line, cells| {
        let percents: Vec<&Column> = columns
            .iter()
            .filter(|column| {
                let percent = column.header.contains('%') || cells_at(cells, column).contains('%');
                words::any(&column.header, CHANGE) && (column.kind == Kind::Percent || percent)
            })
            .collect();
        let [percent] = percents[..] else { return };
        let kinds = [Kind::Time, Kind::Throughput, Kind::Bytes, Kind::Bandwidth, Kind::Compute];
        let mut pairs = kinds.into_iter().filter_map(|kind| compared(columns, kind));
        let (Some((base, new)), None) = (pairs.next(), pairs.next()) else { return };
        let in_percent = Column { kind: Kind::Percent, scale: 1.0, ..percent.clone() };
        let values =
            (grid::cell(cells, &in_percent), grid::cell(cells, base), grid::cell(cells, new));
        let (Some(printed), Some(base_value), Some(new_value)) = values else { return };
        let (a, b) = (base_value.interval(), new_value.interval());
        let computed = Interval::exact(100.0) * ((b - a) / a).abs();
        if computed.meets(printed.interval().abs()) {
            return;
        }
        let (text, from, to) =
            (cells_at(cells, percent), cells_at(cells, base), cells_at(cells, new));
        let finding = Finding::new(
            &document.name,
            line,
            "table-change",
            format!("prints {text}, computes to {} %", figure(computed.middle())),
        );
        let shown = format!("({to} - {from}) / {from}");
        found.push(finding.shown(shown).value("computed", computed.middle()));
    });
}

/// Where a workload's baseline was first printed.
struct First<'a> {
    line: u32,
    text: &'a str,
    value: f64,
}

/// In tables with the same header, columns of the baseline, and what stands left of an arrow, do
/// not depend on what the tables vary.
pub(super) fn baseline(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let mut headers: HashMap<&[String], (usize, usize)> = HashMap::new();
        for table in &document.tables {
            let next = headers.len();
            headers.entry(&table.header).or_insert((next, 0)).1 += 1;
        }
        let mut first: HashMap<(usize, usize, String), First> = HashMap::new();
        for table in &document.tables {
            let (header, count) = headers[table.header.as_slice()];
            if count == 1 {
                continue;
            }
            let columns = grid::columns(table);
            for (line, cells) in &table.rows {
                let Some(workload) = grid::workload(cells, &columns) else { continue };
                for column in &columns {
                    let (value, text) = match based(cells, column) {
                        Some(found) => found,
                        None => continue,
                    };
                    let key = (header, column.index, workload.key.clone());
                    let Some(other) = first.get(&key) else {
                        first.insert(key, First { line: *line, text, value });
                        continue;
                    };
                    let off = (value - other.value).abs() / value.min(other.value);
                    if off <= SAME || *line == other.line || same_table(table, other.line) {
                        continue;
                    }
                    found.push(differs(
                        document,
                        *line,
                        (column, text, value),
                        other,
                        &workload.key,
                    ));
                }
            }
        }
    }
}

fn same_table(table: &Table, line: u32) -> bool {
    table.rows.first().is_some_and(|(from, _)| *from <= line)
        && table.rows.last().is_some_and(|(to, _)| line <= *to)
}

/// The value of a cell that no variant may change.
fn based<'a>(cells: &'a [String], column: &Column) -> Option<(f64, &'a str)> {
    if matches!(column.kind, Kind::Plain | Kind::Times | Kind::Percent) {
        return None;
    }
    let text = cells.get(column.index)?;
    if let Some((before, _)) = grid::pair(cells, column) {
        return Some((before.value, text));
    }
    let value = grid::cell(cells, column)?.value;
    // A rate says the same as its time, once more.
    let own = words::any(&column.label, BASELINE) && column.kind != Kind::Throughput;
    (own && value > 0.0).then_some((value, text))
}

fn differs(
    document: &Document,
    line: u32,
    (column, text, value): (&Column, &str, f64),
    other: &First,
    workload: &str,
) -> Finding {
    let ratio = value.max(other.value) / value.min(other.value);
    let header = column.header.trim();
    Finding::new(
        &document.name,
        line,
        "table-baseline",
        format!(
            "{header} of {workload} is {text} here and {} in line {}, {ratio:.2} times apart",
            other.text, other.line
        ),
    )
    .shown(format!(
        "{} / {} {} = {ratio:.3}",
        figure(value.max(other.value) / column.scale),
        figure(value.min(other.value) / column.scale),
        column.unit
    ))
    .value("here", value)
    .value("there", other.value)
    .beside(&document.name, other.line)
}

/// Words that announce which workloads are measured.
const ANNOUNCED: &[&str] = &["workloads", "workload", "configurations", "shapes"];

/// A list of workloads, and tables with more.
pub(super) fn listed(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let mut lists: BTreeMap<u32, (u32, Vec<String>)> = BTreeMap::new();
        for block in &document.blocks {
            let Shape::Item { parent: Some(parent), .. } = block.shape else { continue };
            let announces = document.blocks[parent as usize].lead();
            if !announces.is_some_and(|lead| words::any(lead, ANNOUNCED)) {
                continue;
            }
            let text = block.text.trim().trim_matches(['(', ')']).to_owned();
            if let Some(workload) = grid::workload(&[text], &[grid::column(0, "")])
                && !workload.key.is_empty()
                && !workload.batch.is_empty()
            {
                let list = lists.entry(parent).or_insert((block.line, Vec::new()));
                list.1.push(workload.key);
            }
        }
        let [(line, keys)] = &lists.into_values().collect::<Vec<_>>()[..] else { continue };
        let keys: HashSet<&String> = keys.iter().collect();
        for table in &document.tables {
            let columns = grid::columns(table);
            for (row, cells) in &table.rows {
                let Some(workload) = grid::workload(cells, &columns) else { continue };
                let both = !workload.batch.is_empty() && !workload.sequence.is_empty();
                if both && !keys.contains(&workload.key) {
                    let what = format!(
                        "{} is measured and not among the {} listed workloads",
                        workload.key,
                        keys.len()
                    );
                    let finding = Finding::new(&document.name, *row, "table-listed", what);
                    found.push(finding.beside(&document.name, *line));
                }
            }
        }
    }
}
