//! `fixtures/register.toml`, every sentence of the documents with the claims that cover it or the
//! reason why none does; and `fixtures/originals/`, the documents' own lists, item by item.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

/// The schema of both.
const SCHEMA: u32 = 1;

/// Its file, from the root.
pub const FILE: &str = "fixtures/register.toml";

/// Folder of the originals, from the root.
pub const ORIGINALS: &str = "fixtures/originals";

/// The owner of what a person does and a measurement cannot tick.
pub const HUMAN: &str = "human";

/// What is wrong with the register or an original.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A file cannot be read, or is not what it should be.
    #[error("{file}: {what}")]
    File {
        /// From the root, with the line where there is one.
        file: String,
        /// What is wrong.
        what: String,
    },
}

/// The register.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The schema, 1.
    pub schema: u32,
    /// Documents by their letter.
    pub documents: BTreeMap<String, String>,
    /// Owners of rows without a claim, and what they own.
    pub owners: BTreeMap<String, String>,
    /// In order of the file.
    pub row: Vec<Row>,
}

/// A sentence of a document.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `theme.kebab-name`.
    pub id: String,
    /// The sentence.
    pub claim: String,
    /// Where it stands: letter, section, lines.
    pub source: String,
    /// What was printed.
    pub original: String,
    /// How it could be measured.
    pub verify: String,
    /// Ids of the claims that cover it.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Why none does.
    pub reason: Option<String>,
    /// Whose it is, where none does.
    pub owner: Option<String>,
}

impl Row {
    /// What is wrong with its answer; `None` if it has claims, or a reason and an owner.
    pub fn problem(
        &self,
        known: &BTreeSet<&str>,
        owners: &BTreeMap<String, String>,
    ) -> Option<String> {
        if let Some(claim) = self.claims.iter().find(|claim| !known.contains(claim.as_str())) {
            return Some(format!("no claim {claim}"));
        }
        match (self.claims.is_empty(), &self.reason, &self.owner) {
            (false, None, None) => None,
            (true, Some(reason), Some(owner)) if !reason.trim().is_empty() => {
                (!owners.contains_key(owner)).then(|| format!("no owner {owner}"))
            }
            (false, _, _) => Some("has claims, and a reason or an owner besides".to_owned()),
            (true, _, _) => Some("has neither claims, nor a reason with its owner".to_owned()),
        }
    }
}

/// A list of a document, as it stands there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Original {
    /// The schema, 1.
    pub schema: u32,
    /// Name of its page in `checklists/`.
    pub file: String,
    /// Title of the page.
    pub title: String,
    /// File in `fixtures/documents/`.
    pub document: String,
    /// What the page is about.
    pub intro: String,
    /// In order of the document.
    pub section: Vec<Section>,
}

/// A section of a list.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Headings of the document, from the outer one in.
    pub heading: String,
    /// In order of the document.
    pub items: Vec<Item>,
}

/// An item of a list, with one of rows, reason and human.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Line of the document, from 1.
    pub line: usize,
    /// Its words there.
    pub text: String,
    /// Ids of the register's rows that cover it.
    #[serde(default)]
    pub rows: Vec<String>,
    /// Why nothing covers it.
    pub reason: Option<String>,
    /// Why only a person can do it.
    pub human: Option<String>,
}

/// Reads the register and the originals below a root, and holds them against each other and the
/// documents.
pub fn load(root: &Path) -> Result<(Register, Vec<Original>), RegisterError> {
    let register: Register = read(root, FILE)?;
    require_schema(FILE, register.schema)?;
    let folder = root.join(ORIGINALS);
    let wrong = |error: std::io::Error| RegisterError::File {
        file: ORIGINALS.to_owned(),
        what: error.to_string(),
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        names.push(entry.map_err(wrong)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut originals = Vec::new();
    for name in names {
        let file = format!("{ORIGINALS}/{name}");
        let original: Original = read(root, &file)?;
        require_schema(&file, original.schema)?;
        check(root, &file, &original, &register)?;
        originals.push(original);
    }
    Ok((register, originals))
}

fn read<T: for<'de> Deserialize<'de>>(root: &Path, file: &str) -> Result<T, RegisterError> {
    let wrong = |what: String| RegisterError::File { file: file.to_owned(), what };
    let text = std::fs::read_to_string(root.join(file)).map_err(|e| wrong(e.to_string()))?;
    toml::from_str(&text).map_err(|e| wrong(e.to_string()))
}

fn require_schema(file: &str, schema: u32) -> Result<(), RegisterError> {
    if schema == SCHEMA {
        return Ok(());
    }
    let what = format!("schema {schema} is not {SCHEMA}");
    Err(RegisterError::File { file: file.to_owned(), what })
}

/// Every item stands in its document's line, in order, and is answered in one way.
fn check(
    root: &Path,
    file: &str,
    original: &Original,
    register: &Register,
) -> Result<(), RegisterError> {
    let wrong = |what: String| RegisterError::File { file: file.to_owned(), what };
    let document = format!("fixtures/documents/{}", original.document);
    let text = std::fs::read_to_string(root.join(&document))
        .map_err(|error| wrong(format!("{document}: {error}")))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut last = 0;
    for item in original.section.iter().flat_map(|section| &section.items) {
        let line = item.line;
        let stands = line.checked_sub(1).and_then(|index| lines.get(index));
        if item.text.is_empty() || !stands.is_some_and(|stands| stands.contains(&item.text)) {
            return Err(wrong(format!("line {line} of {document} is not {:?}", item.text)));
        }
        if line <= last {
            return Err(wrong(format!("line {line} comes after line {last}")));
        }
        last = line;
        let answers = usize::from(!item.rows.is_empty())
            + usize::from(item.reason.is_some())
            + usize::from(item.human.is_some());
        if answers != 1 {
            return Err(wrong(format!("line {line} wants one of rows, reason and human")));
        }
        let known = |id: &&String| register.row.iter().any(|row| row.id == **id);
        if let Some(id) = item.rows.iter().find(|id| !known(id)) {
            return Err(wrong(format!("line {line}: the register has no row {id}")));
        }
    }
    Ok(())
}
