//! Every reader of the project over bytes that nobody meant, and over good files that were changed in
//! their structure: none panics, hangs, or takes more memory than its limit allows.
//!
//! The seed is fixed, so that a failure is the same on every machine; what once failed is tried first
//! (`harness/proptest-regressions/`).

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use super::good::Good;
use super::{Specimen, examine};
use crate::audit::{self, Nothing};
use crate::evidence;
use crate::files;
use crate::golden;
use crate::recorded;
use crate::run;
use crate::watch;

/// Its folder outlives the process: nobody drops a static. One small one a test run.
static BASE: LazyLock<Good> = LazyLock::new(|| Good::synthetic().expect("a base"));

/// Longer for one input is a hang, also without optimisation: what is linear takes a quarter of it.
const HANG: Duration = Duration::from_secs(8);

/// Processor time of this thread, which a busy machine does not lengthen.
fn clock() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a time since the start of the thread")
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x7061_7274_2037),
        ..ProptestConfig::default()
    }
}

/// A text that every reader takes as it comes.
#[track_caller]
fn every_reader(text: &str) {
    let begun = clock();
    let _ = evidence::parse(text);
    let _ = run::parse(text);
    let _ = recorded::list(Path::new("nowhere"), recorded::lines_of(text));
    let _ = golden::parse_board(Path::new("board.toml"), text);
    let _ = golden::parse_documented(Path::new("documented.toml"), text);
    let _ = files::members(text.as_bytes());
    on_disk(text, text);
    let took = clock() - begun;
    assert!(took < HANG, "{took:?} for {} bytes: {:?}", text.len(), text.get(..80));
}

/// The readers of whole files: the audit with its sidecar, and the configuration of a watch.
fn on_disk(document: &str, beside: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let markdown = file("a.md", document);
    let _ = audit::audit(&[markdown], &Nothing("no records".into()));
    let small = file("b.md", "# One\n\n| a | b |\n|---|---|\n| 1 ms | 2 |\n");
    file("b.audit.toml", beside);
    let _ = audit::audit(&[small], &Nothing("no records".into()));
    let _ = watch::Config::read(&file("watch.toml", beside));
}

/// What a forger or a broken disk may put in place of any value.
fn odd_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(-1e308),
        json!(5e-324),
        json!(""),
        json!("\u{0}\u{202e}\u{1f4a9}"),
        json!("x".repeat(10_000)),
        json!("9999-12-31T23:59:59Z"),
        json!("-009999-01-01T00:00:00Z"),
        json!([]),
        json!({}),
        json!(vec![1e308; 64]),
        json!(vec![0; 20_000]),
        deep,
    ]
}

/// Every value of a document, by its JSON pointer.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Array(all) => {
            for (index, inner) in all.iter().enumerate() {
                places(inner, format!("{at}/{index}"), found);
            }
        }
        Value::Object(all) => {
            for (key, inner) in all {
                places(inner, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        _ => {}
    }
    found.push(at);
}

/// One change of a document's structure.
#[derive(Debug, Clone)]
enum Change {
    Put(Index, Index),
    Copy(Index, Index),
    Drop(Index),
    Repeat(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let index = any::<Index>;
    let change = prop_oneof![
        (index(), index()).prop_map(|(at, what)| Change::Put(at, what)),
        (index(), index()).prop_map(|(from, to)| Change::Copy(from, to)),
        index().prop_map(Change::Drop),
        index().prop_map(Change::Repeat),
    ];
    prop::collection::vec(change, 1..4)
}

fn change(document: &mut Value, change: &Change, odd: &[Value]) {
    let mut all = Vec::new();
    places(document, String::new(), &mut all);
    match change {
        Change::Put(at, what) => {
            if let Some(value) = document.pointer_mut(at.get(&all).as_str()) {
                *value = what.get(odd).clone();
            }
        }
        Change::Copy(from, to) => {
            let copied = document.pointer(from.get(&all).as_str()).cloned();
            if let (Some(copied), Some(value)) =
                (copied, document.pointer_mut(to.get(&all).as_str()))
            {
                *value = copied;
            }
        }
        Change::Drop(at) => {
            let Some((parent, key)) = at.get(&all).rsplit_once('/') else { return };
            match document.pointer_mut(parent) {
                Some(Value::Object(fields)) => drop(fields.remove(key)),
                Some(Value::Array(values)) => drop(values.pop()),
                _ => {}
            }
        }
        Change::Repeat(at) => {
            if let Some(Value::Array(values)) = document.pointer_mut(at.get(&all).as_str()) {
                values.extend(values.clone());
            }
        }
    }
}

/// A text with pieces of it taken out, doubled, or replaced by others.
fn mangled(text: &str, cuts: &[(Index, Index, Option<String>)]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (one, other, put) in cuts {
        if letters.is_empty() {
            break;
        }
        let (one, other) = (one.index(letters.len()), other.index(letters.len()));
        let (from, to) = (one.min(other), one.max(other).min(one.min(other) + 200));
        let taken: Vec<char> = letters.drain(from..to).collect();
        let put = put.as_ref().map_or_else(|| taken.repeat(2), |put| put.chars().collect());
        letters.splice(from..from, put);
    }
    letters.into_iter().collect()
}

fn cuts() -> impl Strategy<Value = Vec<(Index, Index, Option<String>)>> {
    let token = prop_oneof![
        Just(None),
        "[ -~\\n|#`*\\[\\]]{0,12}".prop_map(Some),
        prop::sample::select(vec![
            "|",
            "\n|---|\n",
            "```\n",
            "<!-- touchstone: ",
            "1e999 GB/s",
            "99999999999999999999 ms",
            "-1 %",
            "\u{fffd}",
            "\"",
            "[[x]]",
            "nan",
            "= {",
            "0.0x",
            "1/0",
            "\n\n# ",
            "(((((",
        ])
        .prop_map(|token| Some(token.to_owned())),
    ];
    prop::collection::vec((any::<Index>(), any::<Index>(), token), 1..6)
}

/// Documents that the audit has much to say of, a good golden, and a good configuration.
const TEXTS: [&str; 5] = [
    include_str!("../../../README.md"),
    include_str!("../../../fixtures/audit/contradicts/table-throughput.md"),
    include_str!("../../../golden/documented.toml"),
    include_str!("../../../tests/fake/golden/fake-board.toml"),
    include_str!("../../../ci/watch.toml"),
];

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn bytes_that_nobody_meant(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = files::members(&bytes);
        every_reader(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn texts_with_pieces_moved(which in 0..TEXTS.len(), cuts in cuts()) {
        every_reader(&mangled(TEXTS[which], &cuts));
    }
}

proptest! {
    #![proptest_config(config(384))]

    /// Whatever is left is refused or judged; it never verifies what was not measured.
    #[test]
    fn runs_of_another_structure(
        evidence in prop::option::of(changes()),
        manifest in prop::option::of(changes()),
    ) {
        let base = &*BASE;
        let mut specimen = Specimen::good(base).expect("a run");
        let odd = odd_values();
        if let Some(changes) = &evidence {
            let mut value: Value = serde_json::from_str(&specimen.evidence).expect("good");
            changes.iter().for_each(|one| change(&mut value, one, &odd));
            specimen.evidence = format!("{value}\n");
        }
        if evidence.is_some() {
            specimen.seal(base).expect("sealed");
        }
        if let Some(changes) = &manifest {
            let line = specimen.runs.pop().expect("a line");
            let mut value: Value = serde_json::from_str(&line).expect("good");
            changes.iter().for_each(|one| change(&mut value, one, &odd));
            specimen.runs.push(value.to_string());
        }
        let begun = clock();
        let (word, reason) = examine(base, &specimen);
        prop_assert!(clock() - begun < HANG);
        prop_assert!(word == "verified" || !reason.is_empty(), "{word} says nothing");
        if let Ok(read) = evidence::parse(&specimen.evidence) {
            // What is read is written again, and read as the same.
            let again = serde_json::to_string(&read).expect("written");
            prop_assert_eq!(evidence::parse(&again).expect("read again"), read);
        }
    }

    #[test]
    fn goldens_of_another_structure(changes in changes(), of_board in any::<bool>()) {
        let base = &*BASE;
        let good = Specimen { lint: true, ..Specimen::good(base).expect("a run") };
        let text = if of_board { &good.board } else { &good.documented };
        let mut value: Value = toml::from_str(text).expect("good");
        let odd = odd_values();
        changes.iter().for_each(|one| change(&mut value, one, &odd));
        // TOML has no null and no list as its root.
        let Ok(text) = toml::to_string(&value) else { return Ok(()) };
        let broken = match of_board {
            true => Specimen { board: text, ..good },
            false => Specimen { documented: text, ..good },
        };
        let begun = clock();
        let (word, reason) = examine(base, &broken);
        prop_assert!(clock() - begun < HANG);
        prop_assert!(word == "verified" || !reason.is_empty(), "{word} says nothing");
    }

    /// Members lie within the archive, whatever its headers say.
    #[test]
    fn archives_with_bytes_changed(
        flips in prop::collection::vec((any::<Index>(), any::<u8>()), 1..12),
        right_sums in any::<bool>(),
    ) {
        let base = &*BASE;
        let good = Specimen::good(base).expect("a run");
        let mut bytes = good.pack().expect("packed");
        for (at, byte) in &flips {
            // The header of the first member, where every byte means something.
            let at = at.index(512);
            bytes[at] = *byte;
        }
        if right_sums {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(&bytes[..512]);
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        if let Ok((_, members)) = files::members(&bytes) {
            let size: usize = members.iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert!(size <= bytes.len());
        }
        let (word, _) = examine(base, &Specimen { archive: Some(bytes), ..good });
        prop_assert!(!word.is_empty());
    }
}

/// A clock that stands still would find no hang.
#[test]
fn the_clock_runs() {
    let begun = clock();
    while clock() - begun < Duration::from_millis(5) {}
}

/// Small texts that ask for much: depth, width, digits, and repetition that a slow rule would square.
#[test]
fn texts_that_ask_for_much() {
    let wide = format!("|{}|\n|{}|\n", "1 GB/s|".repeat(2_000), "---|".repeat(2_000));
    let texts = [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        format!("{{\"schema\":1,\"x\":{}", "[".repeat(100_000)),
        format!("schema = {}", "[".repeat(50_000)),
        format!("{} = 1", vec!["a"; 20_000].join(".")),
        format!("[{}]", vec!["a"; 20_000].join(".")),
        format!("schema = {}", "9".repeat(100_000)),
        format!("{} GB/s is 50 % of {} TB/s\n", "9".repeat(5_000), "9".repeat(5_000)),
        "> ".repeat(20_000),
        "- ".repeat(5_000),
        "*".repeat(50_000),
        "`".repeat(50_000),
        "![](".repeat(10_000),
        "<!-- touchstone: ".repeat(5_000),
        "1 GB/s of 2 GB/s is 3 % ".repeat(2_000),
        wide,
        "# 1.5x speedup, 98 % of 4 TB/s\n".repeat(1_000),
    ];
    texts.iter().for_each(|text| every_reader(text));
}

/// A file that is larger than any that is written is refused before its parts are counted.
#[test]
fn files_beyond_their_limit() {
    let base = &*BASE;
    let good = Specimen::good(base).expect("a run");
    let padded = |text: &str, to: usize| text.trim_end().to_owned() + &" ".repeat(to);
    let large = evidence::parse(&padded(&good.evidence, evidence::MAX_BYTES)).unwrap_err();
    assert!(large.contains("exceed"), "{large}");
    let large = run::parse(&padded(&good.runs[0], run::MAX_BYTES)).unwrap_err();
    assert!(large.contains("exceed"), "{large}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("run.tar");
    let sparse = std::fs::File::create(&file).expect("created");
    sparse.set_len(files::MAX_ARCHIVE_BYTES + 1).expect("sparse");
    let large = files::unpack(&file, &folder.path().join("into")).unwrap_err();
    assert!(large.contains("exceed"), "{large}");
}
