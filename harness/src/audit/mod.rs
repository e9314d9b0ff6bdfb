//! `touchstone audit`: what a Markdown document says of numbers, held against itself, against other
//! documents, against physics, and against recorded evidence.
//!
//! - A rule is a pure function of the documents; [`rules::RULES`] lists all. None knows a document.
//! - Rounding is carried through: a printed number is the interval that rounds to it.
//! - `FILE.audit.toml` binds notes to cells; `<!-- touchstone: claim -->` binds a number to evidence.

pub mod command;
mod document;
mod expression;
mod finding;
mod grid;
mod interval;
mod output;
mod peaks;
mod quantity;
mod rules;
mod sarif;
mod sidecar;
#[cfg(test)]
mod tests;
mod tree;
mod unit;
mod words;

use std::path::{Path, PathBuf};

pub use finding::{Finding, Report};
pub use rules::{RULES, Rule};

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

/// Reads documents and what stands beside them, and applies every rule.
pub fn audit(files: &[PathBuf]) -> Result<Report, AuditError> {
    let mut documents = Vec::new();
    let mut sidecars = Vec::new();
    for file in files {
        documents.push(read(file)?);
        sidecars.push(Sidecar::beside(file)?);
    }
    let first = files.first().map_or(Path::new("."), PathBuf::as_path);
    Ok(report(&documents, &sidecars, &Tree::around(first)))
}

fn read(file: &Path) -> Result<Document, AuditError> {
    let name = file.display().to_string();
    let source = std::fs::read_to_string(file)
        .map_err(|error| AuditError::Read { file: name.clone(), error })?;
    Ok(Document::parse(&name, source))
}

/// Applies every rule.
fn report(documents: &[Document], sidecars: &[Sidecar], tree: &Tree) -> Report {
    let context = rules::Context { documents, sidecars, tree };
    let mut findings = Vec::new();
    for rule in RULES {
        (rule.check)(&context, &mut findings);
    }
    let place = |name: &str| documents.iter().position(|document| document.name == name);
    findings.sort_by_key(|finding| (place(&finding.file), finding.line));
    let documents = documents.iter().map(|document| document.name.clone()).collect();
    Report { schema: finding::SCHEMA, documents, findings }
}
