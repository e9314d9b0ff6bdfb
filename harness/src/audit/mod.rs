//! `touchstone audit`: what a Markdown document says of numbers, held against itself, against other
//! documents, against physics, and against recorded evidence.
//!
//! - A rule is a pure function of the documents; [`rules::RULES`] lists all. None knows a document.
//! - Rounding is carried through: a printed number is the interval that rounds to it.
//! - `FILE.audit.toml` binds notes to cells; `<!-- touchstone: claim -->` a number to evidence.

mod binding;
pub mod command;
mod document;
mod expression;
mod finding;
mod grid;
mod interval;
mod output;
mod peaks;
mod quantity;
mod reader;
mod records;
mod rules;
mod sarif;
mod sidecar;
#[cfg(test)]
mod tests;
mod tree;
mod unit;
mod words;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use binding::{Binding, Nothing, Recorded, Records};
pub use finding::{Finding, Report};
pub use records::WorldRecords;
pub use rules::{RULES, Rule};

use binding::Bound;
use document::Document;
use sidecar::Sidecar;
use tree::Tree;

/// What keeps an audit from being made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file cannot be read, or is not text.
    #[error("{file}: {error}")]
    Read {
        /// The file, as it was given.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file beside a document is not what it should be.
    #[error("{file}: {what}")]
    Sidecar {
        /// The file, with the line where there is one.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// An option or a binding cannot be followed.
    #[error("{0}")]
    Usage(String),
}

/// Documents with what stands beside them, as read.
struct Corpus {
    documents: Vec<Document>,
    sidecars: Vec<Sidecar>,
    tree: Tree,
}

/// Reads documents and what stands beside them, and applies every rule.
pub fn audit(files: &[PathBuf], records: &dyn Records) -> Result<Report, AuditError> {
    let corpus = read(files)?;
    let bound = binding::resolve(&corpus.documents, records);
    Ok(report(&corpus, &bound))
}

fn read(files: &[PathBuf]) -> Result<Corpus, AuditError> {
    let mut documents = Vec::new();
    let mut sidecars = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let source = std::fs::read_to_string(file)
            .map_err(|error| AuditError::Read { file: name.clone(), error })?;
        documents.push(Document::parse(&name, source));
        sidecars.push(Sidecar::beside(file)?);
    }
    let first = files.first().map_or(Path::new("."), PathBuf::as_path);
    Ok(Corpus { documents, sidecars, tree: Tree::around(first) })
}

/// Applies every rule.
fn report(corpus: &Corpus, bound: &[Bound]) -> Report {
    let Corpus { documents, sidecars, tree } = corpus;
    let context = rules::Context { documents, sidecars, tree, bound };
    let mut findings = Vec::new();
    for rule in RULES {
        (rule.check)(&context, &mut findings);
    }
    let places: HashMap<&str, usize> =
        documents.iter().enumerate().map(|(at, document)| (document.name.as_str(), at)).collect();
    findings.sort_by_key(|finding| (places.get(finding.file.as_str()), finding.line));
    let documents = documents.iter().map(|document| document.name.clone()).collect();
    Report { schema: finding::SCHEMA, documents, findings }
}

/// Rewrites bound numbers that the evidence has moved on from, in their files; those that drifted
/// only if `drifted`. Says what was changed: `FILE:LINE: 92 -> 93`.
fn fix(files: &[PathBuf], records: &dyn Records, drifted: bool) -> Result<Vec<String>, AuditError> {
    let corpus = read(files)?;
    let bound = binding::resolve(&corpus.documents, records);
    let mut changed = Vec::new();
    for (index, (file, document)) in files.iter().zip(&corpus.documents).enumerate() {
        let fixed = binding::fix(document, index, &bound, drifted);
        if fixed.changes.is_empty() {
            continue;
        }
        crate::files::write(file, fixed.text.as_bytes()).map_err(AuditError::Usage)?;
        let lines = fixed.changes.into_iter();
        changed.extend(lines.map(|(line, what)| format!("{}:{line}: {what}", document.name)));
    }
    Ok(changed)
}
