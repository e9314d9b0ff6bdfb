use super::*;
use crate::report::specimens::{self, BOARD, TITLE};

const LIST: Checklist = Checklist {
    file: "00-hardware.md",
    title: "Hardware",
    intro: "Whether the machine is what its documents say.",
    sections: &[
        Section {
            heading: "Memory & bandwidth",
            origin: "000-todo-remaining-work.md, Hardware Validation",
            claims: &[
                "bandwidth::hbm-read",
                "bandwidth::hbm-write",
                "bandwidth::hbm-copy",
                "memory::retains-pattern",
            ],
        },
        Section {
            heading: "Compute",
            origin: "",
            claims: &[
                "compute::fp16-gemm",
                "compute::fp8-gemm",
                "nvfp4::gemm",
                "execution::speedup-1.65x-is-false",
            ],
        },
        Section {
            heading: "Several GPUs",
            origin: "001-known-gaps.md",
            claims: &["collectives::ring-n8", "collectives::all-reduce", "tp::zero-drift"],
        },
        Section {
            heading: "Without a GPU",
            origin: "",
            claims: &["audit::digests", "audit::sums"],
        },
    ],
    tables: &[],
    notes: &[],
};

fn claims() -> Vec<&'static Claim> {
    let judgements = [specimens::judgements(), specimens::host_judgements()].concat();
    judgements.iter().map(|judgement| judgement.claim).collect()
}

fn refuted() -> BTreeMap<String, RefutedSentence> {
    let sentence = RefutedSentence {
        line: "001-known-gaps.md:37".to_owned(),
        truth: "it is slower".to_owned(),
        arithmetic: "5636 tokens/s with it, 5751 without: 0.98x".to_owned(),
    };
    [(specimens::FALSE.id.to_owned(), sentence)].into()
}

/// The list with these columns and an existing file.
fn rendered(columns: &[Column], existing: Option<&str>) -> Result<String, String> {
    let host = specimens::host_judgements();
    let refuted = refuted();
    let ledger = Ledger {
        claims: &claims(),
        columns,
        host: &host,
        refuted: &refuted,
        evidence: &BTreeMap::new(),
    };
    render(&LIST, &ledger, existing)
}

#[test]
fn one_board() {
    let judgements = specimens::judgements();
    let column = Column { board: BOARD, title: TITLE, judgements: &judgements };
    let text = rendered(&[column], None).unwrap();
    assert_eq!(rendered(&[column], Some(&text)).unwrap(), text);
    insta::assert_snapshot!(text);
}

#[test]
fn three_boards() {
    let judgements = specimens::judgements();
    let mut own = vec![specimens::rate(&specimens::READ, Verdict::Verified, 7410.3, "")];
    let evidence = specimens::evidence("bandwidth::stream", "nvidia-b200");
    own[0].evidence = Some(EvidenceRef { gpus: 8, ..evidence });
    let columns = [
        Column { board: BOARD, title: TITLE, judgements: &judgements },
        Column { board: "nvidia-b200", title: "NVIDIA B200", judgements: &own },
        Column { board: "nvidia-h100-pcie", title: "NVIDIA H100 PCIe", judgements: &[] },
    ];
    insta::assert_snapshot!(rendered(&columns, None).unwrap());
}

#[test]
fn no_board_ticks_nothing_but_what_needs_none() {
    let text = rendered(&[], None).unwrap();
    let ticked: Vec<&str> = text.lines().filter(|line| line.starts_with("- [x]")).collect();
    assert_eq!(ticked.len(), 1);
    assert!(ticked[0].contains("audit::digests"));
}

#[test]
fn a_number_without_evidence_is_no_tick() {
    let mut judgement = specimens::rate(&specimens::READ, Verdict::Verified, 4480.0, "");
    judgement.evidence = None;
    let column = Column { board: BOARD, title: TITLE, judgements: &[judgement] };
    let text = rendered(&[column], None).unwrap();
    let line = text.lines().find(|line| line.contains("bandwidth::hbm-read")).unwrap();
    assert!(line.starts_with("- [ ]") && line.contains("cites no evidence"), "{line}");
}

#[test]
fn a_tick_names_the_newer_run_that_did_not_run_its_case() {
    let mut judgement = specimens::rate(&specimens::READ, Verdict::Verified, 4480.0, "");
    let clause = "not run in 20261122T002921Z-3d2bafb6: 115 s expected, 95 s left";
    judgement.evidence.as_mut().unwrap().other_runs = Some(clause.to_owned());
    let column = Column { board: BOARD, title: TITLE, judgements: &[judgement] };
    let text = rendered(&[column], None).unwrap();
    let line = text.lines().find(|line| line.contains("bandwidth::hbm-read")).unwrap();
    assert!(line.starts_with("- [x]") && line.ends_with(&format!(") - {clause}")), "{line}");
}

#[test]
fn a_hand_made_tick_does_not_survive() {
    let judgements = specimens::judgements();
    let column = Column { board: BOARD, title: TITLE, judgements: &judgements };
    let text = rendered(&[column], None).unwrap();
    let edited = format!("My note.\n\n{}", text.replace("- [ ] **nvfp4", "- [x] **nvfp4"));
    assert_eq!(rendered(&[column], Some(&edited)).unwrap(), format!("My note.\n\n{text}"));
}

#[test]
fn a_claim_that_no_suite_has_is_an_error() {
    let ledger = Ledger {
        claims: &[],
        columns: &[],
        host: &[],
        refuted: &BTreeMap::new(),
        evidence: &BTreeMap::new(),
    };
    let error = render(&LIST, &ledger, None).unwrap_err();
    assert_eq!(
        error,
        "00-hardware.md: Memory & bandwidth lists bandwidth::hbm-read, which no suite has"
    );
    let ledger = Ledger { claims: &claims(), ..ledger };
    let error = render(&LIST, &ledger, None).unwrap_err();
    assert!(error.contains("speedup-1.65x-is-false has no line among the refuted"), "{error}");
}

#[test]
fn a_note_stands_behind_the_sections_and_ticks_nothing() {
    const NOTED: Checklist = Checklist {
        sections: &[],
        tables: &[],
        notes: &[Note { heading: "Sums", text: || "| 1 + 1 | 2 |".to_owned() }],
        ..LIST
    };
    const TICKS: Checklist = Checklist {
        tables: &[],
        notes: &[Note { heading: "Sums", text: || "- [x] `audit::sums`".to_owned() }],
        ..NOTED
    };
    let ledger = Ledger {
        claims: &[],
        columns: &[],
        host: &[],
        refuted: &BTreeMap::new(),
        evidence: &BTreeMap::new(),
    };
    let noted = parts(&NOTED, &ledger).unwrap().pop().unwrap();
    assert_eq!((noted.name.as_str(), noted.text.as_str()), ("sums", "## Sums\n\n| 1 + 1 | 2 |"));
    let error = parts(&TICKS, &ledger).unwrap_err();
    assert!(error.starts_with("00-hardware.md: Sums:1: "), "{error}");
}

#[test]
fn a_sentence_belongs_to_the_board_it_was_printed_for() {
    #[track_caller]
    fn check(printed: &str, gpus: u32, expect: bool) {
        let column = Column { board: BOARD, title: TITLE, judgements: &[] };
        assert_eq!(is_same_board(printed, &column, gpus), expect, "{printed}");
    }
    check("", 1, true);
    check("H200", 1, true);
    check("NVIDIA H200 (SXM)", 1, true);
    check("8x H200", 8, true);
    check("8x H200", 4, false);
    check("8x B200", 8, false);
    check("B200", 1, false);
}
