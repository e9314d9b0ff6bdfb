//! Rules as data: a document on which each fires, and its corrected twin on which none does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::binding::{Binding, Recorded, Records, fix, resolve};
use super::command::{self, Format, Options};
use super::document::Document;
use super::sidecar::Sidecar;
use super::tree::Tree;
use super::{Corpus, Finding, RULES, Report, audit, output, report, sarif};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/audit")
}

/// The document of a rule, with the other one that it speaks of.
fn documents(kind: &str, rule: &str) -> Vec<PathBuf> {
    let folder = fixtures().join(kind);
    let files = [format!("{rule}.md"), format!("{rule}.other.md")];
    files.iter().map(|file| folder.join(file)).filter(|file| file.exists()).collect()
}

/// Evidence of one claim that no suite has: 412.5 GB/s.
struct One;

impl Records for One {
    fn look_up(&self, binding: &Binding) -> Result<Recorded, String> {
        match binding.subject.as_str() {
            "fake::copy" => {
                Ok(Recorded { value: 412.5, unit: "GB/s".to_owned(), origin: "run".to_owned() })
            }
            other => Err(format!("there is no claim {other}")),
        }
    }
}

fn corpus(text: &str, sidecar: Sidecar) -> Corpus {
    let documents = vec![Document::parse("a.md", text.to_owned())];
    Corpus { documents, sidecars: vec![sidecar], tree: Tree::around(Path::new("a.md")) }
}

/// One text as a document, without anything beside it.
fn of_text(text: &str) -> Report {
    let corpus = corpus(text, Sidecar::default());
    report(&corpus, &resolve(&corpus.documents, &One))
}

/// Findings as `line rule`.
#[track_caller]
fn check(text: &str, expect: &[&str]) {
    let found = of_text(text).findings;
    let found: Vec<String> = found.iter().map(|f| format!("{} {}", f.line, f.rule)).collect();
    assert_eq!(found, expect, "{text}");
}

#[test]
fn every_rule_fires_on_its_document_and_alone() {
    for rule in RULES {
        let files = documents("contradicts", rule.id);
        assert!(!files.is_empty(), "no document for {}", rule.id);
        let found = audit(&files, &One).expect("read").findings;
        assert!(!found.is_empty(), "{} does not fire", rule.id);
        for finding in &found {
            assert_eq!(finding.rule, rule.id, "{finding:?}");
        }
    }
}

#[test]
fn the_whole_audit_is_silent_on_every_corrected_twin() {
    for rule in RULES {
        let found = audit(&documents("corrected", rule.id), &One).expect("read").findings;
        assert_eq!(found, [], "{}", rule.id);
    }
}

#[test]
fn every_document_belongs_to_a_rule() {
    for kind in ["contradicts", "corrected"] {
        for entry in std::fs::read_dir(fixtures().join(kind)).expect("a folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            let stem = name.split('.').next().unwrap_or_default();
            assert!(RULES.iter().any(|rule| rule.id == stem), "{kind}/{name} is of no rule");
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    schema: u32,
    documents: BTreeMap<String, String>,
    row: Vec<Row>,
    more: Vec<More>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    item: usize,
    what: String,
    #[serde(default)]
    found: Vec<String>,
    outside: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    what: String,
    found: Vec<String>,
}

/// How many contradictions were listed by hand before there was a tool.
const LISTED: usize = 43;

/// Findings of the five documents together, as the ledger writes them: `B44 table-baseline`.
fn found_in_documents(documents: &BTreeMap<String, String>) -> BTreeSet<String> {
    let folder = fixtures().join("../documents");
    let mut files: Vec<PathBuf> = documents.values().map(|file| folder.join(file)).collect();
    files.sort();
    let report = audit(&files, &One).expect("read");
    let name = |finding: &Finding| {
        let letter = documents.iter().find(|(_, file)| finding.file.ends_with(file.as_str()));
        format!("{}{} {}", letter.expect("a document").0, finding.line, finding.rule)
    };
    report.findings.iter().map(name).collect()
}

#[test]
fn the_ledger_of_contradictions_is_what_the_tool_finds() {
    let text = std::fs::read_to_string(fixtures().join("ledger.toml")).expect("the ledger");
    let ledger: Ledger = toml::from_str(&text).expect("a ledger");
    assert_eq!(ledger.schema, 1);
    let items: Vec<usize> = ledger.row.iter().map(|row| row.item).collect();
    assert_eq!(items, (1..=LISTED).collect::<Vec<_>>());
    for row in &ledger.row {
        assert!(row.what.len() > 10, "{}", row.item);
        assert_eq!(row.found.is_empty(), row.outside.is_some(), "item {}", row.item);
    }
    assert!(ledger.more.iter().all(|more| more.what.len() > 10 && !more.found.is_empty()));
    let rows = ledger.row.iter().flat_map(|row| &row.found);
    let listed: BTreeSet<&String> =
        rows.chain(ledger.more.iter().flat_map(|more| &more.found)).collect();
    let found = found_in_documents(&ledger.documents);
    let gone: Vec<_> = listed.iter().filter(|entry| !found.contains(**entry)).collect();
    assert!(gone.is_empty(), "listed and not found: {gone:?}");
    let unlisted = |entry: &&String| !listed.contains(entry) && !entry.ends_with("file-missing");
    let new: Vec<_> = found.iter().filter(unlisted).collect();
    assert!(new.is_empty(), "found and not listed: {new:?}");
}

/// What only these documents say: their code spans, and numbers of four digits and more.
fn own_words(document: &Document) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for block in document.prose() {
        let spans = block.codes.iter().map(|code| &block.text[code.clone()]);
        found.extend(spans.filter(|span| span.len() >= 8).map(str::to_owned));
        for number in &block.quantities {
            let text = &block.text[number.start as usize..number.digits_end as usize];
            let digits = text.chars().filter(char::is_ascii_digit).count();
            found.extend((digits >= 4 && number.value != 0.0).then(|| text.to_owned()));
        }
    }
    let cells = document.tables.iter().flat_map(|table| &table.rows).flat_map(|row| &row.1);
    found.extend(cells.filter(|cell| cell.len() >= 5).cloned());
    found
}

#[test]
fn no_rule_knows_a_document() {
    let text = std::fs::read_to_string(fixtures().join("ledger.toml")).expect("the ledger");
    let ledger: Ledger = toml::from_str(&text).expect("a ledger");
    let own: BTreeSet<String> = ledger
        .documents
        .values()
        .flat_map(|file| {
            let path = fixtures().join("../documents").join(file);
            let text = std::fs::read_to_string(path).expect("a document");
            own_words(&Document::parse(file, text))
        })
        .collect();
    assert!(own.len() > 100, "{}", own.len());
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit");
    for folder in [here.join("rules"), here] {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            // The peaks of GPUs are facts that documents share.
            let peaks = path.file_name().is_some_and(|name| name == "peaks.toml");
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let known = own.iter().find(|word| !peaks && text.contains(word.as_str()));
            assert_eq!(known, None, "{}", path.display());
        }
    }
}

#[test]
fn rounding_is_no_contradiction() {
    let table = |rate: &str| {
        format!("| Batch | Seq | ms | tok/s |\n|---|---|---|---|\n| 1 | 1K | 3.3 | {rate} |\n")
    };
    // 1024 / 3.35 ms to 1024 / 3.25 ms, or 1000 tokens: 298.5k to 315.1k.
    check(&table("305,000"), &[]);
    check(&table("315,000"), &[]);
    check(&table("330,000"), &["3 table-throughput"]);
}

#[test]
fn a_change_is_held_against_its_two_values() {
    let fires = ["1 percent-change"];
    check("It fell from 40.0 ms to 30.0 ms, 40% lower.\n", &fires);
    check("It fell from 40.0 ms to 30.0 ms, 25% lower.\n", &[]);
    check("Down again from ~40 ms to 30 ms: a drop of 60%.\n", &fires);
    check("Reads are 40% faster, from 40.0 ms to 30.0 ms.\n", &fires);
    check("Reads are 33% faster, from 40.0 ms to 30.0 ms.\n", &[]);
    check("It improved 3x (from 40.0 ms to 20.0 ms).\n", &fires);
    check("It improved 2x (from 40.0 ms to 20.0 ms).\n", &[]);
    check("It is 1x more, from 20.0 ms to 40.0 ms.\n", &[]);
    check("It is 0.5x lower (40.0 ms -> 20.0 ms).\n", &[]);
    check("It dropped by 20 ms from 40.0 ms to 30.0 ms.\n", &fires);
    check("It dropped by 10 ms from 40.0 ms to 30.0 ms.\n", &[]);
}

/// A range is no change, and a percentage of something else is not of it.
#[test]
fn a_range_is_no_change() {
    check("It drops 20% for sizes from 1 MB to 8 MB.\n", &[]);
    check("Sizes from 1 MB to 8 MB are 20% slower.\n", &[]);
    check("It fell from 40.0 ms to 30.0 ms at 95% load.\n", &[]);
    check("It fell from 40.0 ms to 30.0 ms at 95% load (25% lower).\n", &[]);
    check("It fell from 40.0 ms to 30.0 ms on 4x H100.\n", &[]);
    check("It is up to 40% lower, from 40.0 ms to 30.0 ms.\n", &[]);
    check("It dropped by 5 ms; then from 40.0 ms to 30.0 ms.\n", &[]);
}

/// `Tokens` may be those of one sequence or of the whole batch.
#[test]
fn tokens_of_a_batch_are_read_both_ways() {
    let table = |rate: &str| {
        let head = "| Batch | Latency (ms) | Tokens | tok/s |\n|---|---|---|---|\n";
        format!("{head}| 2 | 20.0 | 2000 | {rate} |\n")
    };
    check(&table("100,000"), &[]);
    check(&table("200,000"), &[]);
    check(&table("120,000"), &["3 table-throughput"]);
    let sequence = table("100,000").replace("Tokens", "Sequence");
    check(&sequence, &["3 table-throughput"]);
}

/// The unit of a change may stand in its cells alone.
#[test]
fn a_change_of_a_table_is_in_percent_by_its_cells_too() {
    let table = |change: &str| {
        let head = "| Step | Before (ms) | After (ms) | Change |\n|---|---|---|---|\n";
        format!("{head}| a | 40.0 | 30.0 | {change} |\n")
    };
    check(&table("-25%"), &[]);
    check(&table("-40%"), &["3 table-change"]);
    check(&table("-10"), &[]);
}

#[test]
fn what_is_quoted_or_shown_in_a_code_block_is_not_said() {
    check("# On H100\n\nThey print \"an HBM rate of 9 TB/s on it\".\n", &[]);
    check("# On H100\n\n```text\nHBM 9 TB/s\n```\n", &[]);
    check("# On H100\n\nHBM ran at 9 TB/s.\n", &["3 peak-exceeded"]);
    check("# On H100\n\nHBM ran at 9 TB/s over all GPUs in total.\n", &[]);
}

#[test]
fn a_table_is_held_against_the_peak_of_its_row() {
    let table = "| GPU | HBM read (GB/s) |\n|---|---|\n| H100 | 4300 |\n| H200 | 4300 |\n";
    check(table, &["3 peak-exceeded"]);
    check(
        "| GPU | Peak memory (GB) |\n|---|---|\n| H100 | 70 |\n| A100 | 97 |\n",
        &["4 peak-exceeded"],
    );
}

#[test]
fn a_binding_that_binds_nothing_is_a_finding() {
    let text = "schema = 1\n[[note]]\nquote = \"gone 3%\"\nvalue = \"1\"\n";
    let sidecar = Sidecar::parse("a.audit.toml", text).expect("parses");
    let found = report(&corpus("text\n", sidecar), &[]).findings;
    assert_eq!(found.len(), 1);
    assert!(found[0].message.ends_with("its quote does not stand in the document"), "{found:?}");
}

#[track_caller]
fn check_fix(text: &str, drifted: bool, expect: &str) {
    let corpus = corpus(text, Sidecar::default());
    let bound = resolve(&corpus.documents, &One);
    assert_eq!(fix(&corpus.documents[0], 0, &bound, drifted).text, expect);
}

#[test]
fn bound_numbers_are_rewritten_as_they_are_printed() {
    let line = |number: &str| format!("Copy: {number} <!-- touchstone: fake::copy --> of it.\n");
    check_fix(&line("412 GB/s"), false, &line("412 GB/s"));
    check_fix(&line("~413 GB/s"), false, &line("~413 GB/s"));
    check_fix(&line("411.25 GB/s"), false, &line("412.50 GB/s"));
    check_fix(&line("0.41 TB/s"), false, &line("0.41 TB/s"));
    check_fix(&line("411,250 MB/s"), false, &line("412,500 MB/s"));
    // More than 5 % is for a person to look at.
    check_fix(&line("300 GB/s"), false, &line("300 GB/s"));
    check_fix(&line("300 GB/s"), true, &line("412 GB/s"));
    // Another unit is no older number.
    check_fix(&line("300 GB"), true, &line("300 GB"));
}

#[test]
fn a_comment_before_a_code_block_names_its_number() {
    let block = |number: &str| {
        format!(
            "<!-- touchstone: fake::copy number=\"{number}\" -->\n\
             ```text\na 4{number} b {number} GB/s\n```\n"
        )
    };
    check_fix(&block("411.0"), false, &block("412.5").replace("4412.5", "4411.0"));
    check(&block("411.0"), &["1 evidence-stale"]);
    check(&block("412.5"), &[]);
}

#[test]
fn a_mistake_beside_a_document_names_file_and_line() {
    let wrong = Sidecar::parse("a.audit.toml", "schema = 1\nunknown = 2\n").unwrap_err();
    assert!(wrong.to_string().starts_with("a.audit.toml:2: unknown field"), "{wrong}");
    let other = Sidecar::parse("a.audit.toml", "schema = 7\n").unwrap_err();
    assert_eq!(other.to_string(), "a.audit.toml: schema 7 is not 1");
}

#[test]
fn the_three_outputs_hold_every_finding() {
    let text =
        "| Case | Old (ms) | New (ms) | Speedup |\n|---|---|---|---|\n| a | 9.0 | 3.0 | 2.0x |\n";
    let report = of_text(text);
    insta::assert_snapshot!(output::human(&report), @r"
    a.md:3: table-speedup: prints 2.0x, computes to 3.0x
        9.0 / 3.0 = 2.93443 to 3.06780
    1 document, 1 finding: table-speedup 1
    ");
    let json: serde_json::Value = serde_json::from_str(&output::json(&report)).expect("JSON");
    assert_eq!(json["findings"][0]["values"]["printed"], 2.0);
    let sarif: serde_json::Value = serde_json::from_str(&sarif::render(&report)).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let result = &run["results"][0];
    let index = result["ruleIndex"].as_u64().expect("an index") as usize;
    assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
    let region = &result["locations"][0]["physicalLocation"]["region"];
    assert_eq!(region["startLine"], 3);
}

#[track_caller]
fn check_command(file: PathBuf, expect: Result<i32, &str>) {
    let options =
        Options { files: vec![file], format: Format::Json, fix: false, accept_drift: false };
    let ended = command::run(&options, &One).map(|ended| ended.status);
    let ended = ended.map_err(|error| error.to_string());
    let ended = ended.map_err(|text| text.rsplit('/').next().unwrap_or_default().to_owned());
    assert_eq!(ended, expect.map_err(str::to_owned));
}

#[test]
fn the_exit_code_says_clean_or_not_and_an_unreadable_file_is_one_error() {
    let file = |kind: &str| fixtures().join(kind).join("table-speedup.md");
    check_command(file("corrected"), Ok(0));
    check_command(file("contradicts"), Ok(1));
    check_command(file("gone"), Err("table-speedup.md: No such file or directory (os error 2)"));
}

#[test]
fn a_fix_is_written_and_then_audited() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.md");
    let text = "Copy 409.9 GB/s <!-- touchstone: fake::copy --> and then\n\
                300 GB/s <!-- touchstone: fake::copy --> too.\n";
    std::fs::write(&file, text).expect("written");
    let check = |accept_drift: bool, status: i32, expect: &str| {
        let files = vec![file.clone()];
        let options = Options { files, format: Format::Human, fix: true, accept_drift };
        let ended = command::run(&options, &One).expect("read");
        assert_eq!((ended.status, ended.changed.len()), (status, 1), "{}", ended.report);
        assert!(std::fs::read_to_string(&file).expect("read").contains(expect));
    };
    check(false, 1, "Copy 412.5 GB/s <!-- touchstone: fake::copy --> and then\n300 GB/s");
    check(true, 0, "\n412 GB/s <!--");
}

/// What a rule may have to read all of: a table, a list, a paragraph and a deep nest.
fn large(rows: usize) -> String {
    let mut text =
        String::from("# On H100\n\n| Configuration | Eager (ms) | tok/s |\n|---|---|---|\n");
    for row in 0..rows {
        text += &format!("| Batch={row}, Seq=128 | {row}.5 | 7 |\n");
    }
    text += "\n";
    for row in 0..rows {
        text += &format!("- [x] item {row}: fuse part {row} with all (~{row}k vs ~9k baseline)\n");
    }
    text += "\n";
    for row in 0..rows {
        text += &format!("HBM ran at {row} GB/s, AllReduce at {row} GB/s, `results/{row}.json` ");
    }
    text
}

#[test]
fn time_grows_with_length_and_not_with_its_square() {
    let seconds = |rows: usize| {
        let text = large(rows);
        let least = (0..3).map(|_| {
            let start = std::time::Instant::now();
            assert!(!of_text(&text).findings.is_empty());
            start.elapsed().as_secs_f64()
        });
        least.fold(f64::INFINITY, f64::min)
    };
    let (short, long) = (seconds(300), seconds(2400));
    // Eight times the text: linear is 8, quadratic 64.
    assert!(long < 24.0 * short, "{short} s and {long} s");
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_121),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        of_text(&text);
    }

    #[test]
    fn anything_like_markdown_is_read_without_a_panic(
        parts in proptest::collection::vec(prop_oneof![
            "[-*+#>|`~ \\[\\]x0-9.,%:;()<!]{0,12}",
            Just("| a | b (ms) | Speedup | tok/s |\n|---|---|---|---|\n".to_owned()),
            Just("| Batch=1, Seq=8K | 5 -> 7 | 1.2x | 3 |\n".to_owned()),
            Just("- [x] **a**: 5 GB/s of 7 % HBM on B200 vs 3k baseline\n".to_owned()),
            Just("## Missing: P2P, AllReduce 1e400 GB/s -> 0.000 drift\n".to_owned()),
            Just("<!-- touchstone: a::b -->\n".to_owned()),
            Just("`a.json --out b 1 2 --x` 2024-01-02 03:04 a_20240102_030405 é→ÿ\n".to_owned()),
            Just("\n".to_owned()),
        ], 0..24),
    ) {
        of_text(&parts.concat());
    }
}

/// Eight bytes behind a digit may lie within a letter.
#[test]
fn a_stamp_is_looked_for_among_letters_of_any_length() {
    check("6\u{fffd}\u{fffd}\u{6e5}0\n", &[]);
}
