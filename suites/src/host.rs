//! Claims that need no GPU: they run for real on every machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::digest::sha256_hex;
use harness::evidence::{Metric, Outcome, Tier};
use harness::judge::{self, Judgement, Question, Verdict};
use harness::record::{Assignment, Recorder, Stop};
use harness::recorded::{self, FinishedRun, FoundEvidence};
use harness::run::{Run, SourceTree};
use harness::selfcheck;

const fn claim(
    id: &'static str,
    text: &'static str,
    source: Source,
    metric: &'static str,
) -> Claim {
    Claim {
        id,
        text,
        source,
        relation: Relation::Holds,
        case: SELF.id,
        metric,
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::Host,
        kind: Kind::Claim,
    }
}

/// Claims of suite `env` that need no GPU, in checklist order.
pub static ENV_CLAIMS: &[&Claim] = &[&SELF_CHECK, &TICKS, &REPRODUCIBLE];
/// Claims of suite `bandwidth` that need no GPU.
pub static BANDWIDTH_CLAIMS: &[&Claim] = &[&HBM_35_PERCENT];

static SELF_CHECK: Claim = claim(
    "env::self-check",
    "The test infrastructure itself works: planted faults are never verified.",
    Source {
        document: "001-known-gaps.md",
        section: "What Works",
        printed: "Test infrastructure - pytest suite works",
        board: "",
    },
    "missed_faults_count",
);
static TICKS: Claim = claim(
    "env::ticks-cite-evidence",
    "Every ticked item cites an artifact that exists and has the digest that the tick prints.",
    Source {
        document: "004-llm-validation-checklist.md",
        section: "introduction and end",
        printed: "When an item is fully completed, tick it off and reference the artifact path",
        board: "",
    },
    "dangling_ticks_count",
);
static REPRODUCIBLE: Claim = claim(
    "env::evidence-is-reproducible",
    "No recorded number stands without its command, versions, options and raw samples.",
    Source {
        document: "000-todo-remaining-work.md",
        section: "Contributing",
        printed: "Add actual test results (no fabricated numbers); Include reproduction steps",
        board: "",
    },
    "incomplete_records_count",
);
static HBM_35_PERCENT: Claim = Claim {
    relation: Relation::AtLeast,
    kind: Kind::FalseRecord,
    ..claim(
        "bandwidth::hbm-35-percent-is-false",
        "The percentage printed beside the HBM bandwidth is not measured over theoretical: it is \
         off by more than half a point.",
        Source {
            document: "000-todo-remaining-work.md",
            section: "Completed Features, Hardware Validation",
            printed: "HBM3e Bandwidth: 2.73 TB/s measured (35% of theoretical)",
            board: "8x B200",
        },
        "percentage_gap_pp",
    )
};

/// Cases that need no GPU, in the order in which they run.
pub static CASES: &[&Case] = &[&SELF];

static SELF: Case = Case {
    id: "env::self",
    revision: 1,
    figures_since: 1,
    scope: Scope::Host,
    min_gpus: 0,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Plants faults into synthetic evidence and asks the judge; follows every tick of \
                checklists/ to its evidence and hashes it; reads every recorded run whole; \
                recomputes 2.73 TB/s over the 8.0 TB/s of the vendor's sheet. The controls are a \
                judge that verifies everything, a tick with a wrong digest, a record without \
                versions, and the percentage recomputed as it should have been printed.",
    expected_s: 0.5,
    deadline_s: 60.0,
    kernels: &[],
    integrity: &[],
    controls: &[
        Control {
            name: "blind-judge",
            fault: "the judge verifies everything",
            trips: "missed_faults_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "dangling-tick",
            fault: "a tick cites a digest that no file has",
            trips: "dangling_ticks_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "record-without-versions",
            fault: "a record lost its versions",
            trips: "incomplete_records_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "right-percentage",
            fault: "34.1 % is taken as printed",
            trips: "percentage_gap_pp",
            expect: Expect::Refuted,
        },
    ],
    run: check_self,
};

fn check_self(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let metric = |name, value: f64| Metric::exact(name, &[], &[], value);
    recorder.progress("planted faults");
    let score = selfcheck::run(&judge::judge);
    recorder.option("planted_faults", score.planted);
    if !score.missed.is_empty() {
        recorder.option("missed_faults", score.missed.join("; "));
    }
    recorder.metric(metric("missed_faults_count", score.missed.len() as f64));
    let blind =
        |question: &Question| Judgement { verdict: Verdict::Verified, ..judge::judge(question) };
    let missed = selfcheck::run(&blind).missed.len();
    recorder.control("blind-judge", metric("missed_faults_count", missed as f64));

    recorder.progress("ticks");
    let checklists = assignment.root.join("checklists");
    let ticks = ticks(&checklists)?;
    recorder.option("ticks", ticks.len());
    recorder.metric(metric("dangling_ticks_count", dangling(&checklists, &ticks).len() as f64));
    let planted = Tick { digest: "000000000000".into(), path: "README.md".into() };
    let caught = dangling(&checklists, &[planted]).len();
    recorder.control("dangling-tick", metric("dangling_ticks_count", caught as f64));

    recorder.progress("records");
    let runs = recorded::load(&assignment.root).map_err(Stop::Error)?;
    recorder.option("recorded_runs", runs.len());
    let lacking: usize = runs.iter().map(incomplete).sum();
    recorder.metric(metric("incomplete_records_count", lacking as f64));
    let planted = incomplete(&without_versions());
    recorder.control("record-without-versions", metric("incomplete_records_count", planted as f64));

    let computed = 100.0 * HBM_MEASURED_TBPS / HBM_SHEET_TBPS;
    recorder.option("computed_percent", computed);
    recorder.metric(metric("percentage_gap_pp", (HBM_PRINTED_PERCENT - computed).abs()));
    recorder.control("right-percentage", metric("percentage_gap_pp", (34.1 - computed).abs()));
    Ok(())
}

/// What document 000 printed as measured, line 314.
const HBM_MEASURED_TBPS: f64 = 2.73;
/// What it printed as the share, line 314.
const HBM_PRINTED_PERCENT: f64 = 35.0;
/// HBM3e of a B200 by the vendor's sheet.
const HBM_SHEET_TBPS: f64 = 8.0;

/// A tick's citation.
#[derive(Debug, PartialEq, Eq)]
struct Tick {
    digest: String,
    path: String,
}

/// Every citation of every ticked line below `checklists/`. A ticked line that cites nothing is a
/// citation of nothing, which dangles.
fn ticks(checklists: &Path) -> Result<Vec<Tick>, Stop> {
    let mut ticks = Vec::new();
    let Ok(entries) = std::fs::read_dir(checklists) else { return Ok(ticks) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            ticks.extend(ticks_of(&std::fs::read_to_string(&path)?));
        }
    }
    Ok(ticks)
}

fn ticks_of(text: &str) -> Vec<Tick> {
    let mut ticks = Vec::new();
    for line in text.lines().filter(|line| line.trim_start().starts_with("- [x]")) {
        let mut cited = 0;
        for part in line.split("[sha256:").skip(1) {
            let Some((digest, rest)) = part.split_once("](") else { continue };
            let Some((path, _)) = rest.split_once(')') else { continue };
            ticks.push(Tick { digest: digest.to_owned(), path: path.to_owned() });
            cited += 1;
        }
        if cited == 0 {
            ticks.push(Tick { digest: String::new(), path: String::new() });
        }
    }
    ticks
}

/// Ticks whose file is gone or has another digest.
fn dangling<'a>(checklists: &Path, ticks: &'a [Tick]) -> Vec<&'a Tick> {
    let holds = |tick: &Tick| {
        !tick.digest.is_empty()
            && std::fs::read(checklists.join(&tick.path))
                .is_ok_and(|bytes| sha256_hex(&bytes).starts_with(&tick.digest))
    };
    ticks.iter().filter(|tick| !holds(tick)).collect()
}

/// What a recorded run lacks to be run again or judged again: 1 for a manifest without versions,
/// command or a plausible duration, and 1 for each case without readable samples.
fn incomplete(finished: &FinishedRun) -> usize {
    let run = &finished.run;
    let manifest = !run.versions.is_empty() && !run.command.is_empty() && run.started < run.ended;
    let whole = |case: &str| match recorded::read(finished, case) {
        FoundEvidence::Evidence(evidence, _) => evidence
            .parts
            .iter()
            .all(|part| part.outcome != Outcome::Completed || !part.metrics.is_empty()),
        FoundEvidence::Unreadable(_) | FoundEvidence::Nothing(_) => false,
    };
    let cases = run.cases.iter().filter(|entry| !whole(&entry.case)).count();
    usize::from(!manifest) + cases
}

/// A run of today's build whose manifest lost its versions.
fn without_versions() -> FinishedRun {
    let run = Run {
        schema: harness::run::SCHEMA,
        run: "planted".into(),
        source: SourceTree { revision: "planted".into(), dirty: false },
        executable_sha256: String::new(),
        command: vec!["--gpus".into(), "1".into()],
        started: "2026-01-01T00:00:00Z".into(),
        ended: "2026-01-01T00:01:00Z".into(),
        wall_s: 60.0,
        tier: Tier::Quick,
        board: "planted".into(),
        devices: vec![],
        versions: BTreeMap::new(),
        shared: false,
        whole: true,
        interrupted: false,
        cases: vec![],
    };
    let nowhere = PathBuf::new();
    FinishedRun { run, sha256: String::new(), folder: nowhere, printed: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_cites_each_of_its_boards_and_a_bare_tick_dangles() {
        let text = "- [x] a [sha256:abc](evidence/a.json) and [sha256:def](evidence/b.json)\n\
                    - [ ] b [sha256:fff](evidence/c.json)\n- [x] c";
        let ticks = ticks_of(text);
        assert_eq!(ticks.len(), 3);
        assert_eq!(ticks[0], Tick { digest: "abc".into(), path: "evidence/a.json".into() });
        let here = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(here.path().join("evidence")).expect("made");
        std::fs::write(here.path().join("evidence/a.json"), b"x").expect("written");
        assert_eq!(dangling(here.path(), &ticks).len(), 3);
        let right = Tick { digest: sha256_hex(b"x")[..12].into(), path: "evidence/a.json".into() };
        assert!(dangling(here.path(), &[right]).is_empty());
    }

    #[test]
    fn the_printed_share_is_off_by_hand() {
        // 2.73 / 8.0 = 0.34125.
        let gap = (HBM_PRINTED_PERCENT - 100.0 * HBM_MEASURED_TBPS / HBM_SHEET_TBPS).abs();
        approx::assert_relative_eq!(gap, 0.875, epsilon = 1e-9);
    }
}
