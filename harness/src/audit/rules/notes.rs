//! Notes against the cells that `FILE.audit.toml` binds them to.

use super::Context;
use crate::audit::document::{Document, Table};
use crate::audit::expression;
use crate::audit::finding::{Finding, figure};
use crate::audit::grid;
use crate::audit::interval::Interval;
use crate::audit::quantity::{self, Quantity};
use crate::audit::sidecar::{Cell, Note, Relation, Side, Sidecar};

const RULE: &str = "note-table";

pub(super) fn check(context: &Context, found: &mut Vec<Finding>) {
    for (document, sidecar) in context.documents.iter().zip(context.sidecars) {
        for note in &sidecar.note {
            match note_of(document, sidecar, note) {
                Ok(findings) => found.extend(findings),
                // A binding that binds nothing would be a check that cannot fail.
                Err((line, what)) => {
                    let what = format!("the note {:?} cannot be checked: {what}", note.quote);
                    found.push(Finding::new(&document.name, line, RULE, what));
                }
            }
        }
    }
}

type Problem = (u32, String);

/// Where the quote stands, and the line of its number.
fn place(document: &Document, note: &Note) -> Result<u32, Problem> {
    // A line break of the source is a blank of the quote.
    let mut places =
        document.source.match_indices(note.quote.split('\n').next().unwrap_or_default());
    let (first, second) = (places.next(), places.next());
    match (first, second) {
        (Some((at, _)), None) => Ok(document.source[..at].matches('\n').count() as u32 + 1),
        (Some(_), Some(_)) => Err((1, "its quote stands in the document more than once".into())),
        (None, _) => Err((1, "its quote does not stand in the document".into())),
    }
}

/// What the note says: a printed number, or what its words mean.
fn said(note: &Note) -> Result<(Interval, String), String> {
    if let Some(meaning) = note.meaning {
        return Ok((Interval::exact(meaning), figure(meaning)));
    }
    let text = note.number.as_deref().unwrap_or(&note.quote);
    if !note.quote.contains(text) {
        return Err(format!("{text:?} is no part of the quote"));
    }
    let numbers = quantity::scan(text);
    let [number] = numbers.as_slice() else {
        return Err(format!("{text:?} has {} numbers: name one by `number`", numbers.len()));
    };
    let interval = Interval::new(
        (number.value - number.half) / number.scale,
        (number.value + number.half) / number.scale,
    );
    Ok((interval, number.text(text).to_owned()))
}

fn note_of(document: &Document, sidecar: &Sidecar, note: &Note) -> Result<Vec<Finding>, Problem> {
    let line = place(document, note)?;
    let with_line = |what: String| (line, what);
    let (wanted, text) = said(note).map_err(with_line)?;
    let rows = rows(document, note).map_err(with_line)?;
    let mut found = Vec::new();
    for row in &rows {
        let used = std::cell::RefCell::new(Vec::new());
        let name = |word: &str| {
            if let Some(constant) = sidecar.constant.get(word) {
                used.borrow_mut().push(format!("{word} {}", figure(constant.value)));
                return Ok(Interval::exact(constant.value));
            }
            let cell = note.cells.get(word).ok_or_else(|| format!("no cell or constant {word}"))?;
            let (value, line) = value(document, cell, row.as_deref())?;
            let number = value.value / value.scale;
            used.borrow_mut().push(format!("{word} {} (line {line})", figure(number)));
            let (low, high) = (value.value - value.half, value.value + value.half);
            Ok(Interval::new(low / value.scale, high / value.scale))
        };
        let computed = expression::evaluate(&note.value, &name).map_err(with_line)?;
        if holds(note.relation, computed, wanted) {
            continue;
        }
        let of = row.as_deref().map(|row| format!(" for {row}")).unwrap_or_default();
        let wants = match note.relation {
            Relation::Equal => "",
            Relation::AtMost => "at most ",
            Relation::AtLeast => "at least ",
        };
        let what = format!("says {wants}{text}, the table gives {}{of}", figure(computed.middle()));
        found.push(
            Finding::new(&document.name, line, RULE, what)
                .shown(format!("{} with {}", note.value, used.borrow().join(", ")))
                .value("printed", wanted.middle())
                .value("computed", computed.middle()),
        );
    }
    Ok(found)
}

fn holds(relation: Relation, computed: Interval, wanted: Interval) -> bool {
    match relation {
        Relation::Equal => computed.meets(wanted),
        Relation::AtMost => computed.low <= wanted.high,
        Relation::AtLeast => computed.high >= wanted.low,
    }
}

/// The rows that the note is about; one without a name where it is about none.
fn rows(document: &Document, note: &Note) -> Result<Vec<Option<String>>, String> {
    let varies = note.cells.values().find(|cell| cell.row.is_none());
    let Some(cell) = varies else { return Ok(vec![None]) };
    let table = table(document, &cell.table)?;
    let names = table.rows.iter().filter_map(|(_, cells)| cells.first().cloned());
    let names: Vec<String> = match &note.rows {
        None => names.collect(),
        Some(wanted) => {
            let chosen: Vec<String> = names
                .filter(|name| wanted.iter().any(|part| name.contains(part.as_str())))
                .collect();
            if chosen.len() < wanted.len() {
                return Err(format!("{wanted:?} name {} rows", chosen.len()));
            }
            chosen
        }
    };
    if names.is_empty() {
        return Err("its table has no rows".to_owned());
    }
    Ok(names.into_iter().map(Some).collect())
}

/// The only table whose title holds the words.
fn table<'a>(document: &'a Document, title: &str) -> Result<&'a Table, String> {
    let titled = |table: &&Table| document.sections[table.section].title.contains(title);
    let mut found = document.tables.iter().filter(titled);
    match (found.next(), found.next()) {
        (Some(table), None) => Ok(table),
        (Some(_), Some(_)) => Err(format!("several tables stand under {title:?}")),
        (None, _) => Err(format!("no table stands under {title:?}")),
    }
}

/// The number of a cell and its line.
fn value(document: &Document, cell: &Cell, row: Option<&str>) -> Result<(Quantity, u32), String> {
    let table = table(document, &cell.table)?;
    let columns = grid::columns(table);
    let header = table.header.iter().position(|header| *header == cell.column);
    let index = header.ok_or_else(|| format!("no column {:?}", cell.column))?;
    let wanted = cell.row.as_deref().or(row).unwrap_or_default();
    let named = |(_, cells): &&(u32, Vec<String>)| {
        cells.first().is_some_and(|first| {
            first.split_whitespace().eq(wanted.split_whitespace())
                || cell.row.is_some() && first.contains(wanted)
        })
    };
    let mut rows = table.rows.iter().filter(named);
    let (Some((line, cells)), None) = (rows.next(), rows.next()) else {
        return Err(format!("{wanted:?} names no single row under {:?}", cell.table));
    };
    let column = &columns[index];
    let number = match cell.side {
        None => grid::cell(cells, column),
        Some(Side::Before) => grid::pair(cells, column).map(|pair| pair.0),
        Some(Side::After) => grid::pair(cells, column).map(|pair| pair.1),
    };
    let number = number.ok_or_else(|| format!("{:?} is no number", cells.get(index)))?;
    Ok((number, *line))
}
