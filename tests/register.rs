//! The register of claims: every sentence of the documents has a claim, or a reason and an owner.

use std::collections::{BTreeMap, BTreeSet};

use harness::register::{self, Original, Register, Row};
use serde::Deserialize;
use touchstone_tests::{fake, folders};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    schema: u32,
    model: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    id: String,
    aliases: Vec<String>,
    layers: u64,
    d_model: u64,
    heads: u64,
    d_ff: u64,
    vocab: u64,
    linear_params: u64,
    source: String,
    vocab_source: String,
}

/// The draft that the register began as had this many rows; none may be lost.
const ROWS: usize = 263;

fn read<T: for<'de> Deserialize<'de>>(file: &str) -> T {
    let path = folders::repository().join("fixtures").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn register() -> Register {
    loaded().0
}

/// The register and the originals, held against each other and the documents.
fn loaded() -> (Register, Vec<Original>) {
    register::load(&folders::repository()).unwrap_or_else(|error| panic!("{error}"))
}

fn claim_ids() -> BTreeSet<&'static str> {
    suites::claims().iter().map(|claim| claim.id).collect()
}

#[test]
fn every_row_has_a_claim_or_a_reason_and_an_owner() {
    let register = register();
    assert_eq!(register.schema, 1);
    assert_eq!(register.row.len(), ROWS);
    let known = claim_ids();
    let problems: Vec<String> = register
        .row
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.id, row.problem(&known, &register.owners)?)))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn ids_are_unique_and_every_field_says_something() {
    let register = register();
    let mut seen = BTreeSet::new();
    for row in &register.row {
        assert!(seen.insert(&row.id), "{} stands twice", row.id);
        let fields = [&row.id, &row.claim, &row.source, &row.original, &row.verify];
        assert!(fields.iter().all(|field| !field.trim().is_empty()), "{}", row.id);
        let claims: BTreeSet<&String> = row.claims.iter().collect();
        assert_eq!(claims.len(), row.claims.len(), "{} names a claim twice", row.id);
    }
}

#[test]
fn every_owner_owns_something() {
    let register = register();
    for owner in register.owners.keys() {
        let owns = register.row.iter().any(|row| row.owner.as_ref() == Some(owner));
        assert!(owns, "{owner} owns no row");
    }
}

/// The document that a part of a source names: T of `T:Latest L15` and of `T L15`.
fn letter(part: &str) -> Option<String> {
    let mut chars = part.trim().chars();
    let (first, next) = (chars.next()?, chars.next().unwrap_or(' '));
    (first.is_ascii_uppercase() && ": ".contains(next)).then(|| first.to_string())
}

/// Documents that a source cites, in order.
fn letters(source: &str) -> Vec<String> {
    source.split([';', ',']).filter_map(letter).collect()
}

#[test]
fn every_document_that_a_source_cites_is_here() {
    let register = register();
    let folder = folders::repository().join("fixtures/documents");
    for (letter, file) in &register.documents {
        assert!(folder.join(file).is_file(), "{letter}: no document {file}");
        let cited = register.row.iter().any(|row| letters(&row.source).contains(letter));
        assert!(cited, "no row cites {letter} ({file})");
    }
    for row in &register.row {
        let letters = letters(&row.source);
        let ours = row.source.contains("this project");
        assert!(ours || !letters.is_empty(), "{} cites nothing: {}", row.id, row.source);
        for letter in letters {
            assert!(register.documents.contains_key(&letter), "{} cites {letter}", row.id);
        }
    }
}

/// Lines that a source cites after their document: `T:Latest L12-13` cites T, 12 and 13.
fn lines(source: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut cited = String::new();
    for part in source.split([';', ',']) {
        cited = letter(part).unwrap_or(cited);
        let words = part.split(|c: char| !c.is_ascii_alphanumeric());
        for word in words.filter(|_| !cited.is_empty()) {
            if let Some(Ok(line)) = word.strip_prefix('L').map(str::parse) {
                found.push((cited.clone(), line));
            }
        }
    }
    found
}

#[test]
fn every_line_that_a_source_cites_is_in_its_document() {
    let cited = [("T", 12), ("T", 20), ("G", 214), ("T", 40)];
    let cited: Vec<_> = cited.map(|(letter, line)| (letter.to_owned(), line)).into();
    assert_eq!(lines("T:Latest L12-13,L20; G:#1 L214; T L40"), cited);
    let register = register();
    let folder = folders::repository().join("fixtures/documents");
    let length = |file: &String| {
        let text = std::fs::read_to_string(folder.join(file)).expect("read");
        text.lines().count()
    };
    let lengths: BTreeMap<&String, usize> =
        register.documents.iter().map(|(letter, file)| (letter, length(file))).collect();
    for row in &register.row {
        for (letter, line) in lines(&row.source) {
            let last = lengths[&letter];
            assert!((1..=last).contains(&line), "{} cites {letter} L{line} of {last}", row.id);
        }
    }
}

/// An item's rows are all that cite its line, but for those of the audit, which are about the page.
#[test]
fn every_row_that_cites_an_item_covers_it() {
    let (register, originals) = loaded();
    let letter = |document: &String| {
        let found = register.documents.iter().find(|(_, file)| *file == document);
        found.map(|(letter, _)| letter.clone()).expect("a document of the register")
    };
    let mut items = 0;
    for original in &originals {
        let letter = letter(&original.document);
        for item in original.section.iter().flat_map(|section| &section.items) {
            items += 1;
            let cites = |row: &&Row| lines(&row.source).contains(&(letter.clone(), item.line));
            for row in register.row.iter().filter(cites).filter(|r| !r.id.starts_with("audit.")) {
                let elsewhere = ELSEWHERE.contains(&(letter.as_str(), item.line, row.id.as_str()));
                let (file, line) = (&original.file, item.line);
                assert!(item.rows.contains(&row.id) || elsewhere, "{file}:{line} lacks {}", row.id);
            }
        }
    }
    assert!(items > 200, "{items} items");
}

/// Rows that cite a span of lines for the sake of another line in it.
const ELSEWHERE: &[(&str, usize, &str)] = &[
    ("C", 15, "exec.compile-hang"),
    ("C", 16, "exec.compile-hang"),
    ("C", 17, "exec.compile-hang"),
];

#[test]
fn every_item_of_the_documents_own_lists_is_there() {
    let (_, originals) = loaded();
    let box_lines = |original: &Original| -> Vec<usize> {
        let file = folders::repository().join("fixtures/documents").join(&original.document);
        let text = std::fs::read_to_string(file).expect("read");
        let lines = text.lines().enumerate();
        let ticked = lines.filter(|(_, line)| {
            line.starts_with("- [ ] ")
                || line.starts_with("- \u{2705}")
                || line.starts_with("- \u{274c}")
        });
        ticked.map(|(index, _)| index + 1).collect()
    };
    for original in &originals {
        let items = original.section.iter().flat_map(|section| &section.items);
        let own: BTreeSet<usize> = items.map(|item| item.line).collect();
        for line in box_lines(original) {
            assert!(own.contains(&line), "{}: no item of line {line}", original.file);
        }
    }
}

#[test]
fn originals_that_do_not_fit_are_seen() {
    let check = |from: &str, to: &str, expect: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        fake::lay(folder.path());
        folders::edit(&folder.path().join("fixtures/originals/10-fake.toml"), from, to);
        let error = register::load(folder.path()).unwrap_err().to_string();
        assert_eq!(error, format!("fixtures/originals/10-fake.toml: {expect}"));
    };
    let reads = "{ line = 4, text = \"it reads\", rows = [\"fake.read\"] }";
    let with = |item: &str, expect: &str| check(reads, item, expect);
    let document = "fixtures/documents/fake.md";
    with(
        "{ line = 4, text = \"it read it\", rows = [\"fake.read\"] }",
        &format!("line 4 of {document} is not \"it read it\""),
    );
    with(
        "{ line = 99, text = \"it\", rows = [\"fake.read\"] }",
        &format!("line 99 of {document} is not \"it\""),
    );
    with("{ line = 3, text = \"memory\", human = \"a\" }", "line 3 comes after line 3");
    with("{ line = 4, text = \"it\" }", "line 4 wants one of rows, reason and human");
    with(
        "{ line = 4, text = \"it\", rows = [\"fake.no\"] }",
        "line 4: the register has no row fake.no",
    );
}

#[test]
fn rows_without_an_answer_are_seen() {
    let register = register();
    let known = claim_ids();
    let row = |claims: &[&str], reason: Option<&str>, owner: Option<&str>| Row {
        id: "a.row".to_owned(),
        claim: "a sentence".to_owned(),
        source: "this project".to_owned(),
        original: "a".to_owned(),
        verify: "b".to_owned(),
        claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
        reason: reason.map(str::to_owned),
        owner: owner.map(str::to_owned),
    };
    let says = |row: Row| row.problem(&known, &register.owners);
    assert_eq!(says(row(&["env::self-check"], None, None)), None);
    assert_eq!(says(row(&[], Some("later"), Some("spine"))), None);
    assert!(says(row(&[], None, None)).is_some());
    assert!(says(row(&[], Some("later"), None)).is_some());
    assert!(says(row(&[], Some(" "), Some("spine"))).is_some());
    assert!(says(row(&[], Some("later"), Some("nobody"))).is_some());
    assert!(says(row(&["env::self-check"], Some("later"), Some("spine"))).is_some());
    assert!(says(row(&["env::no-such-claim"], None, None)).is_some());
}

#[test]
fn shapes_of_models_add_up() {
    let models: Models = read("models.toml");
    assert_eq!(models.schema, 1);
    let mut names = BTreeSet::new();
    for model in &models.model {
        let id = &model.id;
        for name in std::iter::once(id).chain(&model.aliases) {
            assert!(names.insert(name), "{name} stands twice");
        }
        let layer = 4 * model.d_model.pow(2) + 2 * model.d_model * model.d_ff;
        assert_eq!(model.linear_params, model.layers * layer, "{id}");
        assert_eq!(model.d_model % model.heads, 0, "{id}: heads divide d_model");
        assert!(model.vocab > 0, "{id}");
        assert!(!model.source.is_empty() && !model.vocab_source.is_empty(), "{id} has no source");
    }
    assert!(!models.model.is_empty());
}
