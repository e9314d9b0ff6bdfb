//! The generated part of `checklists/README.md`: what is verified, refuted, stale and not run, by
//! suite and board; how far the documents' own lists hold; and whose the open rows of the register
//! are.

use std::collections::BTreeMap;

use super::checklist::{COMMAND, Column, Ledger};
use super::markers::{self, Part};
use super::originals::{self, State};
use super::text;
use crate::claim::{GpuCount, Kind};
use crate::judge::{Judgement, Verdict};
use crate::register::{Original, Register};

/// Name of the file in `checklists/`.
pub const FILE: &str = "README.md";

/// The whole file; prose of the existing one is kept.
pub fn render(
    register: &Register,
    originals: &[Original],
    ledger: &Ledger,
    existing: Option<&str>,
) -> Result<String, String> {
    markers::merge(FILE, existing, &parts(register, originals, ledger)?)
}

/// The generated parts: claims, reasons, lists, register.
pub fn parts(
    register: &Register,
    originals: &[Original],
    ledger: &Ledger,
) -> Result<Vec<Part>, String> {
    let host = Column { board: "host", title: "host", judgements: ledger.host };
    let columns: Vec<&Column> = ledger.columns.iter().chain([&host]).collect();
    let part = |name: &str, text: String| Part { name: name.to_owned(), text };
    Ok(vec![
        part("claims", claims(ledger, &columns)),
        part("not-run", not_run(&columns)),
        part("lists", lists(register, originals, ledger)?),
        part("register", rows(register, ledger)?),
    ])
}

/// What is counted of a suite on a board.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    verified: usize,
    refutations: usize,
    failing: usize,
    stale: usize,
    not_run: usize,
    not_applicable: usize,
}

impl Counts {
    fn add(&mut self, judgement: &Judgement) {
        let counter = match (judgement.verdict, judgement.claim.kind) {
            (Verdict::Verified, Kind::Claim) => &mut self.verified,
            (Verdict::Verified, Kind::FalseRecord) => &mut self.refutations,
            (Verdict::Stale, _) => &mut self.stale,
            (Verdict::NotRun { .. }, _) => &mut self.not_run,
            (Verdict::NotApplicable, _) => &mut self.not_applicable,
            _ => &mut self.failing,
        };
        *counter += 1;
    }

    fn cells(&self) -> String {
        let Counts { verified, refutations, failing, stale, not_run, not_applicable } = self;
        format!("{verified} | {refutations} | {failing} | {stale} | {not_run} | {not_applicable} |")
    }
}

fn claims(ledger: &Ledger, columns: &[&Column]) -> String {
    let mut lines = vec![
        "## What is covered".to_owned(),
        String::new(),
        format!("Counted by `{COMMAND}`. Do not edit between the markers."),
        String::new(),
        "| suite | board | verified | refutations that stand | failing | stale | not run | not \
         applicable |"
            .to_owned(),
        "|---|---|---:|---:|---:|---:|---:|---:|".to_owned(),
    ];
    let mut suites: Vec<&str> = Vec::new();
    for claim in ledger.claims {
        if !suites.contains(&claim.suite()) {
            suites.push(claim.suite());
        }
    }
    for column in columns {
        let mut all = Counts::default();
        for suite in &suites {
            let own = column.judgements.iter().filter(|j| j.claim.suite() == *suite);
            let mut counts = Counts::default();
            own.for_each(|judgement| {
                counts.add(judgement);
                all.add(judgement);
            });
            if column.judgements.iter().any(|judgement| judgement.claim.suite() == *suite) {
                lines.push(format!("| {suite} | {} | {}", column.board, counts.cells()));
            }
        }
        lines.push(format!("| all | {} | {}", column.board, all.cells()));
    }
    lines.join("\n")
}

/// Why claims did not run or went stale, counted by reason.
fn not_run(columns: &[&Column]) -> String {
    let mut lines = vec!["### Not run and stale, by reason".to_owned(), String::new()];
    for column in columns {
        let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for judgement in column.judgements {
            if matches!(judgement.verdict, Verdict::NotRun { .. } | Verdict::Stale) {
                let reason = text::markdown(&judgement.reason);
                reasons.entry(reason).or_default().push(judgement.claim.id);
            }
        }
        for (reason, ids) in reasons {
            let named = match ids.as_slice() {
                [id] => format!(": {id}"),
                _ => String::new(),
            };
            lines.push(format!("- {}, {}: {reason}{named}", column.board, ids.len()));
        }
    }
    if lines.len() == 2 {
        lines.push("Nothing.".to_owned());
    }
    lines.join("\n")
}

fn lists(register: &Register, originals: &[Original], ledger: &Ledger) -> Result<String, String> {
    let heads: Vec<&str> = State::ALL.iter().map(|state| state.words()).collect();
    let mut lines = vec![
        "### The documents' own lists".to_owned(),
        String::new(),
        format!("| list | items | {} |", heads.join(" | ")),
        format!("|---|---:|{}", "---:|".repeat(heads.len())),
    ];
    for original in originals {
        let states = originals::states(original, register, ledger)?;
        let counts = State::ALL
            .iter()
            .map(|state| states.iter().filter(|other| *other == state).count().to_string());
        let counts: Vec<String> = counts.collect();
        let file = &original.file;
        lines.push(format!("| [{file}]({file}) | {} | {} |", states.len(), counts.join(" | ")));
    }
    Ok(lines.join("\n"))
}

/// The register: rows with claims, of which so many hold on a board, and open rows by owner.
fn rows(register: &Register, ledger: &Ledger) -> Result<String, String> {
    let known = ledger.claims.iter().map(|claim| claim.id).collect();
    for row in &register.row {
        if let Some(problem) = row.problem(&known, &register.owners) {
            return Err(format!("{}: {}: {problem}", crate::register::FILE, row.id));
        }
    }
    let covered: Vec<_> = register.row.iter().filter(|row| !row.claims.is_empty()).collect();
    let mut lines = vec![
        "### The register".to_owned(),
        String::new(),
        format!(
            "`fixtures/register.toml` has {} rows: {} have claims, {} a reason and an owner; none \
             has neither.",
            register.row.len(),
            covered.len(),
            register.row.len() - covered.len()
        ),
        String::new(),
    ];
    for column in ledger.columns {
        let holds = |id: &String| {
            let host = ledger.claims.iter().any(|c| c.id == id && c.gpus == GpuCount::Host);
            let judgements = if host { ledger.host } else { column.judgements };
            judgements.iter().any(|j| j.claim.id == id && j.verdict == Verdict::Verified)
        };
        let held = covered.iter().filter(|row| row.claims.iter().all(holds)).count();
        lines.push(format!(
            "- all claims of {held} of the {} rows hold on {}",
            covered.len(),
            column.board
        ));
    }
    lines.extend(["", "| owner | open rows | what it owns |", "|---|---:|---|"].map(str::to_owned));
    for (owner, what) in &register.owners {
        let open = register.row.iter().filter(|row| row.owner.as_ref() == Some(owner)).count();
        lines.push(format!("| {owner} | {open} | {} |", text::markdown(what)));
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::specimens::{self, BOARD, TITLE};

    const REGISTER: &str = r#"
schema = 1
[documents]
T = "000.md"
[owners]
serving = "a server | under load"
[[row]]
id = "row.read"
claim = "c"
source = "T L1"
original = "o"
verify = "v"
claims = ["bandwidth::hbm-read"]
[[row]]
id = "row.open"
claim = "c"
source = "T L4"
original = "o"
verify = "v"
reason = "not built yet"
owner = "serving"
"#;

    fn rendered(register: &str) -> Result<String, String> {
        let (judgements, host) = (specimens::judgements(), specimens::host_judgements());
        let columns = [Column { board: BOARD, title: TITLE, judgements: &judgements }];
        let claims: Vec<_> = judgements.iter().chain(&host).map(|j| j.claim).collect();
        let refuted = BTreeMap::new();
        let ledger = Ledger {
            claims: &claims,
            columns: &columns,
            host: &host,
            refuted: &refuted,
            evidence: &BTreeMap::new(),
        };
        let register: Register = toml::from_str(register).unwrap();
        render(&register, &[], &ledger, Some("# Mine\n\n"))
    }

    #[test]
    fn the_generated_part() {
        insta::assert_snapshot!(rendered(REGISTER).unwrap());
    }

    #[test]
    fn a_row_without_claim_and_reason_is_an_error() {
        let error = rendered(&REGISTER.replace("reason = \"not built yet\"", "")).unwrap_err();
        let expect =
            "fixtures/register.toml: row.open: has neither claims, nor a reason with its owner";
        assert_eq!(error, expect);
    }
}
