//! `FILE.audit.toml` beside `FILE.md`: which cells a note speaks of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::AuditError;

/// The schema that this build reads.
const SCHEMA: u32 = 1;

/// What stands beside a document; empty where nothing does.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sidecar {
    schema: u32,
    /// Constants that notes may use, each with its source.
    #[serde(default)]
    pub constant: BTreeMap<String, Constant>,
    #[serde(default)]
    pub note: Vec<Note>,
}

/// A number that the document leaves unsaid.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Constant {
    pub value: f64,
    #[expect(dead_code, reason = "for the reader: a constant has a source or is refused")]
    source: String,
}

/// How the computed value stands to the printed one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Relation {
    /// Rounds to it.
    #[default]
    Equal,
    /// Is not above it.
    AtMost,
    /// Is not below it.
    AtLeast,
}

/// A note and what it follows from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    /// Words of the document that stand there once.
    pub quote: String,
    /// The number within the quote; its only one, where absent.
    pub number: Option<String>,
    /// The number that the words stand for, where they print none: `doubles` is 2.
    pub meaning: Option<f64>,
    /// What is computed: names of `cells` and `constant`, numbers, `+ - * / ( )`, `abs`, `min`,
    /// `max`.
    pub value: String,
    /// How the value stands to the number.
    #[serde(default)]
    pub relation: Relation,
    /// Rows by a part of their first cell; all rows of the first cell's table, where absent.
    pub rows: Option<Vec<String>>,
    /// Where each name of `value` stands.
    #[serde(default)]
    pub cells: BTreeMap<String, Cell>,
}

/// A column of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    /// A part of the title above the table.
    pub table: String,
    /// The header of the column.
    pub column: String,
    /// A part of the first cell, for a row other than the note's.
    pub row: Option<String>,
    /// Which side of an arrow.
    pub side: Option<Side>,
}

/// A side of `A -> B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    Before,
    After,
}

/// The file beside a document.
pub(crate) fn path(document: &Path) -> PathBuf {
    document.with_extension("audit.toml")
}

impl Sidecar {
    /// Reads what stands beside a document.
    pub fn beside(document: &Path) -> Result<Sidecar, AuditError> {
        let file = path(document);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Sidecar::default());
            }
            Err(error) => return Err(AuditError::Read { file: file.display().to_string(), error }),
        };
        Sidecar::parse(&file.display().to_string(), &text)
    }

    /// Parses a file; a mistake names its line.
    pub fn parse(file: &str, text: &str) -> Result<Sidecar, AuditError> {
        let wrong = |what: String| AuditError::Sidecar { file: file.to_owned(), what };
        let read: Sidecar = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..at].matches('\n').count() + 1;
            AuditError::Sidecar { file: format!("{file}:{line}"), what: error.message().to_owned() }
        })?;
        if read.schema != SCHEMA {
            return Err(wrong(format!("schema {} is not {SCHEMA}", read.schema)));
        }
        Ok(read)
    }
}
