use std::collections::BTreeMap;

use super::*;
use crate::report::specimens::{self, BOARD, TITLE};

const REGISTER: &str = r#"
schema = 1
[documents]
T = "000.md"
[owners]
human = "a person"
serving = "a server"
[[row]]
id = "row.read"
claim = "c"
source = "T L1"
original = "o"
verify = "v"
claims = ["bandwidth::hbm-read"]
[[row]]
id = "row.keeps"
claim = "c"
source = "T L2"
original = "o"
verify = "v"
claims = ["compute::fp16-gemm", "audit::digests"]
[[row]]
id = "row.false"
claim = "c"
source = "T L3"
original = "o"
verify = "v"
claims = ["execution::speedup-1.65x-is-false"]
[[row]]
id = "row.open"
claim = "c"
source = "T L4"
original = "o"
verify = "v"
reason = "not built yet"
owner = "serving"
[[row]]
id = "row.human"
claim = "c"
source = "T L5"
original = "o"
verify = "v"
reason = "somebody writes it"
owner = "human"
"#;

const ORIGINAL: &str = r#"
schema = 1
file = "10-seed.md"
title = "Seed"
document = "000.md"
intro = "What it lists."
[[section]]
heading = "Works: all of it"
items = [
    { line = 1, text = "HBM at **2.73 TB/s**", rows = ["row.read"] },
    { line = 2, text = "FP16 is right", rows = ["row.keeps"] },
    { line = 3, text = "1.65x speedup", rows = ["row.false"] },
]
[[section]]
heading = "Open"
items = [
    { line = 4, text = "a load test", rows = ["row.open", "row.read"] },
    { line = 5, text = "a guide", rows = ["row.human"] },
    { line = 6, text = "a date", human = "a person chooses it" },
    { line = 7, text = "the list", reason = "it is this list" },
]
"#;

/// The page of these judgements on one board.
fn page(judgements: &[Judgement], existing: Option<&str>) -> String {
    let column = Column { board: BOARD, title: TITLE, judgements };
    let mut digests = specimens::host_judgements();
    digests[0].evidence = Some(specimens::evidence("audit::digests", "host"));
    let claims =
        [&specimens::READ, &specimens::GEMM, &specimens::FALSE, &specimens::AUDIT, &specimens::SUM];
    let refuted = BTreeMap::new();
    let ledger = Ledger {
        claims: &claims,
        columns: &[column],
        host: &digests,
        refuted: &refuted,
        evidence: &BTreeMap::new(),
    };
    let original: Original = toml::from_str(ORIGINAL).unwrap();
    let register: Register = toml::from_str(REGISTER).unwrap();
    render(&original, &register, &ledger, existing).unwrap()
}

fn all_hold() -> Vec<Judgement> {
    let claims = [&specimens::READ, &specimens::GEMM, &specimens::FALSE];
    claims.map(|claim| specimens::rate(claim, Verdict::Verified, 4480.0, "")).into()
}

/// The line of an item where FP16 got this verdict, and whether it is cited.
#[track_caller]
fn check(verdict: Verdict, reason: &str, cited: bool, expect: &str) {
    let mut judgements = all_hold();
    judgements[1] = specimens::rate(&specimens::GEMM, verdict, 700.0, reason);
    if !cited {
        judgements[1].evidence = None;
    }
    let page = page(&judgements, None);
    let mut lines = page.lines().skip_while(|line| !line.contains("FP16 is right"));
    let item = [lines.next().unwrap(), lines.next().unwrap()].join("\n");
    assert!(item.contains(expect), "{item}");
}

#[test]
fn the_page() {
    insta::assert_snapshot!(page(&all_hold(), None));
}

#[test]
fn a_tick_goes_with_its_evidence_and_says_why() {
    check(Verdict::Verified, "", true, "- [x] \"FP16 is right\" (line 2) - HOLDS");
    check(Verdict::Verified, "", false, "- [ ] \"FP16 is right\" (line 2) - NOT HELD");
    check(Verdict::Verified, "", false, "it cites no evidence");
    check(Verdict::Stale, "the kernel moved", true, "STALE 2026-11-21: the kernel moved");
    check(Verdict::Regressed, "700 < 750", true, "- [ ] \"FP16 is right\" (line 2) - NOT HELD");
    check(Verdict::Broken, "evidence is gone", false, "fp16-gemm: BROKEN: evidence is gone");
    check(Verdict::NotRun { explained: true }, "no run", false, "NOT-RUN: no run");
}

#[test]
fn an_item_of_another_board_is_ticked_in_portable_form_alone() {
    let page = page(&all_hold(), None);
    let expect = "- [ ] \"HBM at \\*\\*2.73 TB/s\\*\\*\" (line 1) - as printed: not run\n  - [x] in \
                  portable form on NVIDIA H200 SXM 141 GB: bandwidth::hbm-read: VERIFIED 2026-11-21, run ";
    assert!(page.contains(expect), "{page}");
}

#[test]
fn a_hand_made_tick_does_not_survive_and_prose_does() {
    let before = page(&all_hold(), None);
    let edited = format!("Mine.\n\n{}", before.replace("- [ ] \"a load", "- [x] \"a load"));
    assert_eq!(page(&all_hold(), Some(&edited)), format!("Mine.\n\n{before}"));
}
