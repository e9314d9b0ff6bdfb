//! Claims that need no GPU: they run for real on every machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::digest::sha256_hex;
use harness::evidence::{Metric, MetricKind, Outcome, Part, Tier};
use harness::judge::{self, Judgement, Question, Verdict};
use harness::record::{Assignment, Recorder, Stop};
use harness::recorded::{self, FinishedRun, FoundEvidence};
use harness::run::{Run, SourceTree};
use harness::selfcheck;
use harness::statistics;

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
    revision: 2,
    figures_since: 1,
    scope: Scope::Host,
    min_gpus: 0,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Plants faults into synthetic evidence and asks the judge; follows every tick of \
                checklists/ to its run and its evidence and compares both digests (where runs are \
                recorded but nothing is ticked, that is one that dangles); reads every recorded run \
                whole; recomputes 2.73 TB/s over the 8.0 TB/s of the vendor's sheet. The controls \
                are a judge that verifies everything, a tick with a wrong digest, one of another \
                run, a manifest without versions, a rate of one sample without options, and the \
                percentage recomputed as it should have been printed.",
    samples: 0,
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
            name: "tick-of-another-run",
            fault: "a tick cites a run that no manifest lists",
            trips: "dangling_ticks_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "rate-of-one-sample",
            fault: "a recorded rate has one sample and no options",
            trips: "incomplete_records_count",
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
    let runs = recorded::load(&assignment.root).map_err(Stop::Error)?;
    let ticks = ticks(&checklists)?;
    recorder.option("ticks", ticks.len());
    let loose = dangling(&checklists, &runs, &ticks);
    if !loose.is_empty() {
        let names: Vec<&str> = loose.iter().map(|tick| tick.claim.as_str()).collect();
        recorder.option("dangling_ticks", names.join(", "));
    }
    let nothing = usize::from(ticks.is_empty() && !runs.is_empty());
    recorder.metric(metric("dangling_ticks_count", (loose.len() + nothing) as f64));
    for (control, planted) in planted_ticks(&ticks) {
        let caught = dangling(&checklists, &runs, &[planted]).len();
        recorder.control(control, metric("dangling_ticks_count", caught as f64));
    }

    recorder.progress("records");
    recorder.option("recorded_runs", runs.len());
    let lacking = all_incomplete(&runs);
    recorder.metric(metric("incomplete_records_count", lacking as f64));
    let planted = usize::from(lacks(&one_sample()));
    recorder.control("rate-of-one-sample", metric("incomplete_records_count", planted as f64));
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

/// A tick's citation, or that of a refutation that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tick {
    /// The claim, as the line names it.
    claim: String,
    run: String,
    run_digest: String,
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

/// Whether a line of Markdown is rendered as ticked, or says that a refutation stands.
fn is_ticked(line: &str) -> bool {
    let line = line.trim_start();
    let item = ["- ", "* ", "+ "].iter().find_map(|bullet| line.strip_prefix(bullet));
    item.is_some_and(|item| {
        let item = item.trim_start();
        item.starts_with("[x]")
            || item.starts_with("[X]")
            || item.contains(" - THE REFUTATION STANDS")
    })
}

fn ticks_of(text: &str) -> Vec<Tick> {
    let mut ticks = Vec::new();
    let mut named = String::new();
    for line in text.lines() {
        // A board's or a ledger's own line stands below the one that names the claim.
        if let Some((_, rest)) = line.split_once("**") {
            named = rest.split("**").next().unwrap_or_default().to_owned();
        }
        // How to read a line is shown in quotes, with placeholders.
        if line.starts_with('>') || !is_ticked(line) {
            continue;
        }
        let before = ticks.len();
        let mut run = (String::new(), String::new());
        for (index, part) in line.split("[sha256:").enumerate() {
            if index > 0
                && let Some((digest, rest)) = part.split_once("](")
                && let Some((path, _)) = rest.split_once(')')
            {
                ticks.push(Tick {
                    claim: named.clone(),
                    run: std::mem::take(&mut run.0),
                    run_digest: std::mem::take(&mut run.1),
                    digest: digest.to_owned(),
                    path: path.to_owned(),
                });
            }
            if let Some((before, digest)) = part.rsplit_once(" sha256:") {
                let id = before.rsplit(' ').next().unwrap_or_default();
                let end = digest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digest.len());
                run = (id.to_owned(), digest[..end].to_owned());
            }
        }
        if ticks.len() == before {
            ticks.push(Tick { claim: named.clone(), ..Tick::default() });
        }
    }
    ticks
}

/// Digits of a digest that a tick prints.
const DIGITS: usize = 12;

/// Ticks whose run is not listed or whose file is gone, or has another digest.
fn dangling<'a>(checklists: &Path, runs: &[FinishedRun], ticks: &'a [Tick]) -> Vec<&'a Tick> {
    let begins = |whole: &str, digits: &str| digits.len() == DIGITS && whole.starts_with(digits);
    let holds = |tick: &Tick| {
        runs.iter().any(|finished| {
            finished.run.run == tick.run && begins(&finished.sha256, &tick.run_digest)
        }) && std::fs::read(checklists.join(&tick.path))
            .is_ok_and(|bytes| begins(&sha256_hex(&bytes), &tick.digest))
    };
    ticks.iter().filter(|tick| !holds(tick)).collect()
}

/// Ticks that must dangle: a real one with another digest, and with another run; where there is none
/// yet, one of nothing.
fn planted_ticks(ticks: &[Tick]) -> [(&'static str, Tick); 2] {
    let real = ticks.first().cloned().unwrap_or_default();
    let zeros = "0".repeat(DIGITS);
    [
        ("dangling-tick", Tick { digest: zeros.clone(), ..real.clone() }),
        ("tick-of-another-run", Tick { run_digest: zeros, ..real }),
    ]
}

/// What all recorded runs lack together: every file of every run is read, by two threads. No more: in a
/// live run GPUs are measured meanwhile.
fn all_incomplete(runs: &[FinishedRun]) -> usize {
    let sum = |runs: &[FinishedRun]| runs.iter().map(incomplete).sum::<usize>();
    let (one, other) = runs.split_at(runs.len() / 2);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| sum(other));
        let own = sum(one);
        own + beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What a recorded run lacks to be run again or judged again: 1 for a manifest without versions,
/// command or a plausible duration, and 1 for each case that is not readable or [`lacks`] something.
fn incomplete(finished: &FinishedRun) -> usize {
    let run = &finished.run;
    let manifest = !run.versions.is_empty() && !run.command.is_empty() && run.started < run.ended;
    let whole = |case: &str| match recorded::read(finished, case) {
        FoundEvidence::Evidence(evidence, _) => !evidence.parts.iter().any(lacks),
        FoundEvidence::Unreadable(_) | FoundEvidence::Nothing(_) => false,
    };
    let cases = run.cases.iter().filter(|entry| !whole(&entry.case)).count();
    usize::from(!manifest) + cases
}

/// Whether a completed part lacks numbers, a part on a GPU the versions that ran, or a rate the options
/// that can change it or the samples that the judge asks for.
fn lacks(part: &Part) -> bool {
    let few = |metric: &Metric| {
        metric.kind == MetricKind::Sampled
            && (metric.values.len() < statistics::FEWEST || part.options.is_empty())
    };
    part.outcome == Outcome::Completed
        && (part.metrics.is_empty()
            || (!part.devices.is_empty() && part.versions.is_empty())
            || part.metrics.iter().any(few))
}

/// A part that measured a rate once.
fn one_sample() -> Part {
    Part {
        attempt: 1,
        devices: vec![],
        started: "2026-01-01T00:00:00Z".into(),
        wall_s: 1.0,
        outcome: Outcome::Completed,
        options: BTreeMap::new(),
        versions: BTreeMap::new(),
        modes: vec![],
        kernels: vec![],
        metrics: vec![Metric::sampled("read_gbps", &[], &[], vec![1.0])],
        controls: vec![],
        telemetry: vec![],
        xids: vec![],
        progress: String::new(),
        log_tail: String::new(),
    }
}

/// A run of today's build whose manifest lost its versions.
fn without_versions() -> FinishedRun {
    let run = Run {
        schema: harness::run::SCHEMA,
        run: "planted".into(),
        source: SourceTree { revision: "planted".into(), dirty: false }.into(),
        executable_sha256: String::new(),
        command: vec!["--gpus".into(), "1".into()].into(),
        started: "2026-01-01T00:00:00Z".into(),
        ended: "2026-01-01T00:01:00Z".into(),
        wall_s: 60.0,
        tier: Tier::Quick,
        board: "planted".into(),
        devices: vec![].into(),
        versions: BTreeMap::new().into(),
        shared: false,
        whole: true,
        interrupted: false,
        recovered: None,
        cases: vec![],
    };
    let nowhere = PathBuf::new();
    FinishedRun { run, sha256: String::new(), folder: nowhere, printed: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "- [x] **a::b** - text - VERIFIED 2026-11-21, run r-1 sha256:aaaaaaaaaaaa, \
                        evidence [sha256:bbbbbbbbbbbb](evidence/a.json)";

    fn cited() -> Tick {
        Tick {
            claim: "a::b".into(),
            run: "r-1".into(),
            run_digest: "a".repeat(12),
            digest: "b".repeat(12),
            path: "evidence/a.json".into(),
        }
    }

    #[test]
    fn a_tick_cites_its_run_and_its_evidence() {
        assert_eq!(ticks_of(LINE), [cited()]);
        assert_eq!(ticks_of(&LINE.replace("- [x]", "* [X]")), [cited()]);
        assert_eq!(ticks_of(&LINE.replace("[x]", "[ ]")), []);
        assert_eq!(ticks_of(&format!("> {LINE}")), []);
        // A tick that cites nothing dangles; the board's own lines stand below the claim's.
        let bare = Tick { claim: "c::d".into(), ..Tick::default() };
        assert_eq!(ticks_of("- **c::d** - text\n  - [x] a board"), [bare]);
        let ledger = "- **a::b** - text\n  - host - THE REFUTATION STANDS 2026-11-21, run r-1 \
                      sha256:aaaaaaaaaaaa, evidence [sha256:bbbbbbbbbbbb](evidence/a.json)";
        assert_eq!(ticks_of(ledger), [cited()]);
    }

    #[test]
    fn a_tick_dangles_unless_both_digests_hold() {
        let here = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(here.path().join("evidence")).expect("made");
        std::fs::write(here.path().join("evidence/a.json"), b"x").expect("written");
        let listed = FinishedRun { sha256: "a".repeat(64), ..without_versions() };
        let runs = [FinishedRun { run: Run { run: "r-1".into(), ..listed.run }, ..listed }];
        let right = Tick { digest: sha256_hex(b"x")[..12].into(), ..cited() };
        assert!(dangling(here.path(), &runs, std::slice::from_ref(&right)).is_empty());
        for (_, planted) in planted_ticks(std::slice::from_ref(&right)) {
            assert_eq!(dangling(here.path(), &runs, &[planted]).len(), 1);
        }
        let short = Tick { digest: right.digest[..4].into(), ..right };
        assert_eq!(dangling(here.path(), &runs, &[short, cited()]).len(), 2);
    }

    #[test]
    fn a_rate_has_samples_options_and_versions() {
        let whole = Part {
            options: BTreeMap::from([("seed".to_owned(), "1".to_owned())]),
            metrics: vec![Metric::sampled("read_gbps", &[], &[], vec![1.0; 6])],
            ..one_sample()
        };
        assert!(!lacks(&whole) && lacks(&one_sample()));
        assert!(lacks(&Part { options: BTreeMap::new(), ..whole.clone() }));
        assert!(lacks(&Part { metrics: vec![], ..whole }));
    }

    #[test]
    fn the_printed_share_is_off_by_hand() {
        // 2.73 / 8.0 = 0.34125.
        let gap = (HBM_PRINTED_PERCENT - 100.0 * HBM_MEASURED_TBPS / HBM_SHEET_TBPS).abs();
        approx::assert_relative_eq!(gap, 0.875, epsilon = 1e-9);
    }
}
