//! Status: of an entry in its section, and of one thing in two documents.

use std::collections::BTreeMap;

use super::Context;
use crate::audit::document::{Block, Document, Shape};
use crate::audit::finding::Finding;
use crate::audit::peaks;
use crate::audit::unit::Kind;
use crate::audit::words;

/// What is said of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Done,
    Open,
}

const DONE_SIGNS: &[&str] = &["✅", "✔", "☑"];
const OPEN_SIGNS: &[&str] = &["❌", "⚠", "📝", "🔄", "🚧", "☐"];
const OPEN_TITLES: &[&str] = &[
    "gap",
    "gaps",
    "missing",
    "outstanding",
    "todo",
    "remaining",
    "limitation",
    "limitations",
    "not implemented",
    "not yet",
    "future",
    "planned",
    "backlog",
    "unfinished",
    "known issues",
];
const DONE_TITLES: &[&str] =
    &["completed", "done", "finished", "shipped", "what works", "actually works"];
const NEITHER: &[&str] = &["partially", "in progress", "status", "latest", "and"];

/// The first sign of a text.
fn sign(text: &str) -> Option<Mark> {
    let first = |signs: &[&str]| signs.iter().filter_map(|sign| text.find(sign)).min();
    match (first(DONE_SIGNS), first(OPEN_SIGNS)) {
        (Some(done), Some(open)) => Some(if done < open { Mark::Done } else { Mark::Open }),
        (Some(_), None) => Some(Mark::Done),
        (None, Some(_)) => Some(Mark::Open),
        (None, None) => None,
    }
}

/// The mark of an entry: its box, else a sign at its beginning.
fn mark(block: &Block) -> Option<Mark> {
    match block.shape {
        Shape::Item { ticked: Some(true), .. } => Some(Mark::Done),
        Shape::Item { ticked: Some(false), .. } => Some(Mark::Open),
        Shape::Item { .. } => {
            let begins = |signs: &[&str]| signs.iter().any(|sign| block.text.starts_with(sign));
            let open = begins(OPEN_SIGNS).then_some(Mark::Open);
            begins(DONE_SIGNS).then_some(Mark::Done).or(open)
        }
        _ => None,
    }
}

/// What a title says of everything below it.
fn promised(title: &str) -> Option<Mark> {
    if words::any(title, NEITHER) {
        return None;
    }
    match (words::any(title, OPEN_TITLES), words::any(title, DONE_TITLES)) {
        (true, false) => Some(Mark::Open),
        (false, true) => Some(Mark::Done),
        _ => None,
    }
}

/// A paragraph that gives its section a status.
fn status_of_section(block: &Block) -> Option<Mark> {
    let said = block.shape == Shape::Paragraph && block.text.trim_start().starts_with("Status");
    if said { sign(block.text.lines().next().unwrap_or_default()) } else { None }
}

pub(super) fn section(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in &document.blocks {
            let (mark, section) = match (status_of_section(block), mark(block)) {
                (Some(mark), _) => (mark, document.sections[block.section].parent.unwrap_or(0)),
                (None, Some(mark)) => (mark, block.section),
                (None, None) => continue,
            };
            let above = &document.sections[section];
            if promised(&above.title).is_none_or(|promised| promised == mark) {
                continue;
            }
            let what = match mark {
                Mark::Done => "stands as done under",
                Mark::Open => "stands as open under",
            };
            let entry = match status_of_section(block) {
                Some(_) => &document.sections[block.section].title,
                None => block.lead().unwrap_or("an entry"),
            };
            let line = match status_of_section(block) {
                Some(_) => document.sections[block.section].line,
                None => block.line,
            };
            let what = format!("\"{entry}\" {what} \"{}\"", above.title);
            let finding = Finding::new(&document.name, line, "status-section", what);
            found.push(finding.beside(&document.name, above.line));
        }
    }
}

/// A status with its place.
type Place = (Mark, u32, String);

/// Statuses by title: of sections with a status, and of entries with a lead.
fn titled(document: &Document) -> BTreeMap<String, Place> {
    let mut found = BTreeMap::new();
    for block in &document.blocks {
        if let Some(mark) = status_of_section(block) {
            let section = &document.sections[block.section];
            let key = words::title(&section.title);
            found.insert(key, (mark, section.line, section.title.clone()));
        } else if let (Some(mark), Some(lead)) = (mark(block), block.lead()) {
            found.entry(words::title(lead)).or_insert((mark, block.line, lead.to_owned()));
        }
    }
    found.retain(|key, _| key.split_whitespace().count() >= 2);
    found
}

const CHECKED: &[&str] = &["validat*", "verif*"];
const SUCCESS: &[&str] = &["completed successfully", "passed", "confirmed"];
const WANTED: &[&str] = &["outstanding", "still missing", "todo", "remaining", "missing"];

/// What is said of a check on so many GPUs: `8x B200`.
fn counted(document: &Document) -> BTreeMap<String, Place> {
    let mut found: BTreeMap<String, Place> = BTreeMap::new();
    let mut lead = Mark::Done;
    let mut led = false;
    for block in document.prose() {
        if !matches!(block.shape, Shape::Item { .. }) {
            led = block.text.trim_end().ends_with(':') && words::any(&block.text, WANTED);
            lead = Mark::Open;
            continue;
        }
        if !words::any(&block.text, CHECKED) {
            continue;
        }
        let own = mark(block).or(led.then_some(lead));
        let success = words::any(&block.text, SUCCESS).then_some(Mark::Done);
        let Some(mark) = own.or(success) else { continue };
        for count in block.quantities.iter().filter(|q| q.kind == Kind::Times) {
            let behind = block.text[count.end as usize..].trim_start();
            let name = behind.split_whitespace().next().unwrap_or_default();
            if let [gpu] = peaks::named(name).as_slice() {
                let key = format!("{}x {}, validated", count.value, gpu.names[0]);
                let place = (mark, block.line_at(count.start as usize), key.clone());
                found.entry(key).or_insert(place);
            }
        }
    }
    found
}

/// One title, done in one document and open in another.
pub(super) fn documents(context: &Context, found: &mut Vec<Finding>) {
    let statuses: Vec<_> = context.documents.iter().map(|d| [titled(d), counted(d)]).collect();
    for (first, document) in context.documents.iter().enumerate() {
        for (second, other) in context.documents.iter().enumerate().skip(first + 1) {
            for (ours, others) in statuses[first].iter().zip(&statuses[second]) {
                for (key, (mark, line, title)) in ours {
                    let Some((theirs, at, _)) = others.get(key) else { continue };
                    if mark == theirs {
                        continue;
                    }
                    let word = |mark: &Mark| if *mark == Mark::Done { "done" } else { "open" };
                    let what = format!(
                        "\"{title}\" is {} here and {} in {}",
                        word(mark),
                        word(theirs),
                        other.name
                    );
                    let finding = Finding::new(&document.name, *line, "status-documents", what);
                    found.push(finding.beside(&other.name, *at));
                }
            }
        }
    }
}
