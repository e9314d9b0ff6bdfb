//! The one generator of Markdown checklists. A tick cites its evidence: measured value, bound,
//! board, GPUs, date, run, digest.
//!
//! One line a claim; with several boards a line under it for each, so that every board has its own
//! box. The same judgements give the same bytes.

use std::collections::BTreeMap;

use super::markers::{self, Part};
use super::measured::{self, Table};
use super::{figures, text, word};
use crate::claim::{Claim, GpuCount, Kind};
use crate::golden::RefutedSentence;
use crate::judge::{EvidenceRef, Judgement, Verdict};

/// The command that writes the checklists.
pub const COMMAND: &str = "cargo run --bin touchstone -- checklists";

/// A checklist as data.
#[derive(Debug)]
pub struct Checklist {
    /// File name in `checklists/`, for example `00-hardware.md`.
    pub file: &'static str,
    /// Title of the page.
    pub title: &'static str,
    /// What the page is about, in prose.
    pub intro: &'static str,
    /// In order of the page.
    pub sections: &'static [Section],
    /// Figures of the evidence that verified claims cite.
    pub tables: &'static [Table],
    /// What stands behind them.
    pub notes: &'static [Note],
}

/// A part of a page that no evidence decides, as arithmetic is.
#[derive(Debug)]
pub struct Note {
    /// Its heading.
    pub heading: &'static str,
    /// What stands under it, in Markdown; it ticks nothing.
    pub text: fn() -> String,
}

/// A part of a checklist.
#[derive(Debug)]
pub struct Section {
    /// Its heading.
    pub heading: &'static str,
    /// Document and section that it comes from; empty for our own.
    pub origin: &'static str,
    /// Ids of its claims, in order.
    pub claims: &'static [&'static str],
}

/// What is recorded of a board.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// Name of the board.
    pub board: &'a str,
    /// As people call it.
    pub title: &'a str,
    /// The newest recorded judgement of each claim.
    pub judgements: &'a [Judgement],
}

/// Everything that checklists are made of.
#[derive(Debug, Clone, Copy)]
pub struct Ledger<'a> {
    /// Every claim of the suites.
    pub claims: &'a [&'static Claim],
    /// The boards, in order of the page.
    pub columns: &'a [Column<'a>],
    /// Judgements of claims that need no GPU.
    pub host: &'a [Judgement],
    /// Why the records of false claims are false: of `documented.toml`.
    pub refuted: &'a BTreeMap<String, RefutedSentence>,
    /// The evidence that tables read.
    pub evidence: &'a measured::Read,
}

/// A claim's standing in one column.
struct Entry {
    ticked: bool,
    line: String,
    /// What is said of the sentence as it was printed for another board.
    printed: Option<String>,
}

/// The whole file; prose of the existing one is kept.
pub fn render(list: &Checklist, ledger: &Ledger, existing: Option<&str>) -> Result<String, String> {
    markers::merge(list.file, existing, &parts(list, ledger)?)
}

/// The generated parts: the head, a part for each section and each note, the records of false claims.
pub fn parts(list: &Checklist, ledger: &Ledger) -> Result<Vec<Part>, String> {
    let mut sections = Vec::new();
    let mut false_records = Vec::new();
    let mut ticks = vec![(0_usize, 0_usize); ledger.columns.len().max(1) + 1];
    for section in list.sections {
        let mut lines = vec![format!("## {}", section.heading), String::new()];
        if !section.origin.is_empty() {
            lines.extend([format!("From: {}", text::markdown(section.origin)), String::new()]);
        }
        for id in section.claims {
            let claim = ledger.claims.iter().find(|claim| claim.id == *id).ok_or_else(|| {
                format!("{}: {} lists {id}, which no suite has", list.file, section.heading)
            })?;
            if claim.kind == Kind::FalseRecord {
                false_records.push(false_record(list, claim, ledger)?);
            } else {
                lines.push(claim_lines(claim, ledger, &mut ticks));
            }
        }
        sections.push(Part { name: slug(section.heading), text: lines.join("\n") });
    }
    let mut parts = vec![Part { name: "head".to_owned(), text: head(list, ledger, &ticks) }];
    parts.extend(sections);
    for table in list.tables {
        parts.push(Part { name: slug(table.heading), text: measured::render(table, ledger) });
    }
    for note in list.notes {
        let text = (note.text)();
        markers::unticked(&text)
            .map_err(|(line, what)| format!("{}: {}:{line}: {what}", list.file, note.heading))?;
        let text = format!("## {}\n\n{text}", note.heading);
        parts.push(Part { name: slug(note.heading), text });
    }
    if !false_records.is_empty() {
        let text = format!("## Records of false claims\n\n{}", false_records.join("\n"));
        parts.push(Part { name: "false-claims".to_owned(), text });
    }
    Ok(parts)
}

fn head(list: &Checklist, ledger: &Ledger, ticks: &[(usize, usize)]) -> String {
    let names = ledger.columns.iter().map(|column| column.board);
    let names: Vec<&str> = if ledger.columns.is_empty() {
        vec!["no board is recorded", "host"]
    } else {
        names.chain(["host"]).collect()
    };
    let counts: Vec<String> = names
        .iter()
        .zip(ticks)
        .filter(|(_, (_, all))| *all > 0)
        .map(|(name, (ticked, all))| format!("- {name}: {ticked} of {all} ticked"))
        .collect();
    format!(
        "# {}\n\nGenerated by `{COMMAND}` from recorded evidence. Do not edit between the \
         markers: the next run overwrites it, and a test fails until then. Prose outside of them \
         stays.\n\n{}\n\n{LEGEND}\n\n{}",
        list.title,
        list.intro,
        counts.join("\n")
    )
}

const LEGEND: &str = "\
- `[x]` verified: every bound met with confidence and every planted fault caught, on the board and \
the day that stand beside it.
- `[ ]` anything else, with its verdict and reason. What did not run is never a pass.
- `golden` is the board's own bound, `documented` the document's promise in portable form.
- A sentence that was printed for another board is never ticked as printed, only in its portable \
form.
- The digests are SHA-256 of the evidence file and of the run's line in `evidence/runs.jsonl`.";

/// The line of a claim, with a line for each board where there are several.
fn claim_lines(claim: &Claim, ledger: &Ledger, ticks: &mut [(usize, usize)]) -> String {
    let entries = entries(claim, ledger);
    // The host's count stands last; a board's at its place.
    let first = if claim.gpus == GpuCount::Host { ticks.len() - 1 } else { 0 };
    for (count, entry) in ticks[first..].iter_mut().zip(&entries) {
        count.0 += usize::from(entry.ticked);
        count.1 += 1;
    }
    let name = format!("**{}** - {}", claim.id, text::markdown(claim.text));
    if let [entry] = &entries[..] {
        let printed = entry.printed.iter().map(|printed| format!("\n  - {printed}"));
        let mut line = format!("- {} {name} - {}", tick(entry), entry.line);
        line.extend(printed);
        return line;
    }
    let mut out = format!("- {name}");
    for entry in &entries {
        out.push_str(&format!("\n  - {} {}", tick(entry), entry.line));
        out.extend(entry.printed.iter().map(|printed| format!("\n    - {printed}")));
    }
    out
}

fn tick(entry: &Entry) -> &'static str {
    if entry.ticked { "[x]" } else { "[ ]" }
}

/// A claim's standing in each column; one of its own for a claim that needs no GPU.
fn entries(claim: &Claim, ledger: &Ledger) -> Vec<Entry> {
    let find = |judgements: &'_ [Judgement]| {
        judgements.iter().find(|judgement| judgement.claim.id == claim.id).cloned()
    };
    if claim.gpus == GpuCount::Host {
        return vec![entry(claim, None, find(ledger.host).as_ref())];
    }
    if ledger.columns.is_empty() {
        let line = "NOT-RUN: no board is recorded".to_owned();
        return vec![Entry { ticked: false, line, printed: None }];
    }
    let columns = ledger.columns.iter();
    columns.map(|column| entry(claim, Some(column), find(column.judgements).as_ref())).collect()
}

fn entry(claim: &Claim, column: Option<&Column>, judgement: Option<&Judgement>) -> Entry {
    let board = column.map_or("host", |column| column.board);
    let Some(judgement) = judgement else {
        let line = format!("{board}: NOT-RUN: nothing is recorded");
        return Entry { ticked: false, line, printed: None };
    };
    let evidence = judgement.evidence.as_ref();
    let cited = evidence.is_some() || column.is_none();
    let verified = judgement.verdict == Verdict::Verified;
    let printed = column.and_then(|column| as_printed(claim, column, judgement, verified));
    let verdict = word(judgement.verdict).to_uppercase();
    let mut line = standing(board, judgement, &verdict, "");
    if verified && !cited {
        line.push_str("; not a tick: it cites no evidence");
    }
    Entry { ticked: verified && cited, line, printed }
}

/// `board x4: figure bounds; controls - VERDICT day: reason, run, evidence`. `up` leads from the
/// page to `checklists/`: empty for a page there, `../` for one in a folder below.
pub(super) fn standing(board: &str, judgement: &Judgement, verdict: &str, up: &str) -> String {
    let evidence = judgement.evidence.as_ref();
    let gpus = evidence.map(|evidence| evidence.gpus).filter(|gpus| *gpus > 0);
    let mut line = board.to_owned();
    line.extend(gpus.map(|gpus| format!(" x{gpus}")));
    line.push_str(": ");
    if judgement.measured.is_some() {
        let figure = text::markdown(&figures::figure_and_bounds(judgement));
        line.push_str(&format!("{figure}; {} - ", figures::controls(&judgement.controls)));
    }
    line.push_str(verdict);
    line.extend(evidence.map(|evidence| format!(" {}", evidence.day)));
    if !judgement.reason.is_empty() {
        line.push_str(&format!(": {}", text::markdown(&judgement.reason)));
    }
    match evidence {
        Some(evidence) => line.push_str(&citation(evidence, up)),
        None if judgement.verdict == Verdict::Verified
            && judgement.claim.gpus == GpuCount::Host =>
        {
            line.push_str(", judged anew by `cargo test` on every machine");
        }
        None => {}
    }
    line
}

/// `, run 2026... sha256:..., evidence [sha256:...](evidence/...)`, linked from a page `up` below `checklists/`; whether
/// the manifest is recovered, which newer run did not run the case, and whether the sentence was another one.
pub(super) fn citation(evidence: &EvidenceRef, up: &str) -> String {
    let run = evidence.run_sha256.as_deref().map(figures::short_digest);
    let run = run.map_or_else(String::new, |digest| format!(" {digest}"));
    let afterwards = if evidence.recovered { " (manifest written after the run)" } else { "" };
    let since = figures::since(evidence);
    format!(
        ", run {}{run}{afterwards}, evidence [{}]({}){since}",
        evidence.run,
        figures::short_digest(&evidence.sha256),
        link(&evidence.path, up)
    )
}

/// The path as a link from a page `up` below `checklists/`.
fn link(path: &str, up: &str) -> String {
    match path.strip_prefix("checklists/") {
        Some(below) => format!("{up}{below}"),
        None => format!("{up}../{path}"),
    }
}

/// What is to be said of a sentence that was printed for another board.
fn as_printed(
    claim: &Claim,
    column: &Column,
    judgement: &Judgement,
    verified: bool,
) -> Option<String> {
    let gpus = judgement.evidence.as_ref().map_or(0, |evidence| evidence.gpus);
    if is_same_board(claim.source.board, column, gpus) {
        return None;
    }
    let holds =
        if verified { format!("portable form holds on {}; ", column.title) } else { String::new() };
    let printed = text::markdown(claim.source.printed);
    Some(format!("{holds}as printed ({}: \"{printed}\"): not run", claim.source.board))
}

/// True if `8x B200` names this column's board with at least so many GPUs. A word with a letter and
/// a digit is a model.
pub(super) fn is_same_board(printed: &str, column: &Column, gpus: u32) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
    };
    let own = words(&format!("{} {}", column.board, column.title));
    words(printed).iter().all(|word| {
        let number = word.strip_suffix('x').or_else(|| word.strip_prefix('x'));
        if let Some(count) = number.and_then(|number| number.parse::<u32>().ok()) {
            return gpus >= count;
        }
        let is_model = word.contains(|c: char| c.is_ascii_digit())
            && word.contains(|c: char| c.is_ascii_alphabetic());
        !is_model || own.contains(word)
    })
}

/// A false claim: what was printed, where, why it is false, and that the refutation stands.
fn false_record(list: &Checklist, claim: &Claim, ledger: &Ledger) -> Result<String, String> {
    let sentence = ledger.refuted.get(claim.id).ok_or_else(|| {
        format!("{}: {} has no line among the refuted of documented.toml", list.file, claim.id)
    })?;
    let source = &claim.source;
    let mut out = format!(
        "- **{}** - {}\n  - printed: \"{}\" in {}, {} ({})\n  - false because: {}",
        claim.id,
        text::markdown(claim.text),
        text::markdown(source.printed),
        source.document,
        source.section,
        text::markdown(&sentence.line),
        text::markdown(&sentence.arithmetic)
    );
    let host = Column { board: "host", title: "host", judgements: ledger.host };
    let host = [host];
    let columns = if claim.gpus == GpuCount::Host { &host } else { ledger.columns };
    for column in columns {
        let found = column.judgements.iter().find(|judgement| judgement.claim.id == claim.id);
        let line = match found {
            None => format!("{}: NOT-RUN: nothing is recorded", column.board),
            Some(judgement) => {
                let verdict = match judgement.verdict {
                    Verdict::Verified => "THE REFUTATION STANDS".to_owned(),
                    Verdict::Refuted => "THE REFUTATION DOES NOT STAND".to_owned(),
                    verdict => word(verdict).to_uppercase(),
                };
                standing(column.board, judgement, &verdict, "")
            }
        };
        out.push_str(&format!("\n  - {line}"));
    }
    Ok(out)
}

/// A heading as the name of its part.
pub(super) fn slug(heading: &str) -> String {
    let words = heading.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests;
