//! The table of faults. Each is data: a name, the file that it breaks, what it does to a good one, and
//! what must be said of it.

mod archive;
mod evidence;
mod golden;
mod manifest;
mod numbers;

use serde_json::Value;

use super::good::Good;

/// A fault that is planted into a good file.
#[derive(Debug)]
pub struct Fault {
    /// In words.
    pub name: &'static str,
    /// What it breaks: `evidence`, `manifest`, `golden` or `archive`.
    pub file: &'static str,
    /// A verdict, `refused` by a reader, or a `finding` of the lint.
    pub as_what: &'static str,
    /// What the reason must say; `{metric}`, `{bits}`, `{gpu0}` and `{gpu1}` are the base's own.
    pub names: &'static str,
    pub(super) plant: Plant,
}

/// What is done to which good file. The manifest lists the digest of changed evidence, but for
/// [`Plant::Unsealed`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Plant {
    Evidence(fn(&mut Value, &Good)),
    EvidenceText(fn(&str, &Good) -> String),
    Unsealed(fn(&str, &Good) -> String),
    Manifest(fn(&mut Value, &Good)),
    Runs(fn(&mut Vec<String>)),
    Board(fn(&mut toml::Table, &Good)),
    BoardText(fn(&str) -> String),
    Documented(fn(&mut toml::Table, &Good)),
    Archive(fn(Vec<u8>) -> Vec<u8>),
}

/// Every fault.
const TABLES: [&[Fault]; 5] =
    [evidence::FAULTS, numbers::FAULTS, manifest::FAULTS, golden::FAULTS, archive::FAULTS];

/// Every fault, in order.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    TABLES.into_iter().flatten()
}

/// How many there are.
pub fn count() -> usize {
    TABLES.iter().map(|table| table.len()).sum()
}

/// A fault of evidence as a value.
const fn in_evidence(
    name: &'static str,
    plant: fn(&mut Value, &Good),
    as_what: &'static str,
    names: &'static str,
) -> Fault {
    Fault { name, file: "evidence", as_what, names, plant: Plant::Evidence(plant) }
}

/// The entry of a case in a manifest.
pub(super) fn entry<'a>(manifest: &'a mut Value, case: &str) -> &'a mut Value {
    let cases = &mut manifest["cases"];
    let index = cases.as_array().and_then(|all| all.iter().position(|entry| entry["case"] == case));
    &mut cases[index.unwrap_or_default()]
}

/// The elements of what is an array in good evidence.
fn array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().unwrap_or_else(|| unreachable!("made one above"))
}
