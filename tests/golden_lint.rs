//! The lint of claims and goldens: clean over this repository, and one finding for each mistake.

use std::path::PathBuf;

use harness::case::{Case, Control, Expect, control};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation};
use harness::evidence::Evidence;
use harness::golden;
use harness::lint::{self, lint};
use harness::recorded::{self, FinishedRun};
use touchstone_tests::{fake, folders, specimens};

const BOARD: &str = "golden/fake-board.toml";
const DOCUMENTED: &str = "golden/documented.toml";
const TARGETS: &str = "golden/targets.toml";
const RIVALS: &str = "golden/rivals.toml";

#[test]
fn this_repository_has_no_finding() {
    suites::with_world(folders::repository(), |world| {
        let goldens = world.goldens().expect("goldens load");
        let runs = recorded::load(&world.root).expect("recorded runs load");
        let kernel_source = |kernel: &str, architecture: &str| {
            world.node.kernel_source_sha256(kernel, architecture)
        };
        let mut findings = lint(&lint::World {
            claims: world.claims,
            cases: world.cases,
            goldens: &goldens,
            runs: &runs,
            kernel_source: &kernel_source,
        });
        if goldens.boards.values().all(|board| board.claims.is_empty()) {
            // Before the first --bless a claim whose only bound is a golden cannot have one; the
            // judge says of it that it is not run.
            findings.retain(|finding| !finding.ends_with(": claim without bound"));
        }
        assert!(findings.is_empty(), "{}", findings.join("\n"));
        // Listed for the reader, not failed.
        lint::behind_rivals(&goldens, world.claims).iter().for_each(|line| println!("{line}"));
    });
}

/// The fake node's claims and goldens, with one blessed bound and its three calibration runs.
struct Ledger {
    folder: tempfile::TempDir,
    claims: Vec<&'static Claim>,
    cases: Vec<&'static Case>,
    runs: Vec<FinishedRun>,
}

impl Ledger {
    fn new() -> Ledger {
        let folder = tempfile::tempdir().expect("a folder");
        fake::lay(folder.path());
        let runs: Vec<FinishedRun> = ["a", "b", "c"]
            .map(|run| {
                // The near fault shows a tolerance of 2 %: (1000 - 920) / 1000 / 4.
                let evidence = specimens::stream(run, 1000.0, 920.0);
                specimens::recorded(&folder.path().join(run), run, &[evidence])
            })
            .into();
        let digests: Vec<String> = runs.iter().map(|run| format!("{:?}", run.sha256)).collect();
        let bound = format!(
            "\n[claims.\"bandwidth::read\"]\nread_gbps = {{ golden = 1000.0, worse = 0.02, because \
             = \"three runs\", runs = [{}] }}\n",
            digests.join(", ")
        );
        let ledger =
            Ledger { folder, claims: fake::CLAIMS.to_vec(), cases: fake::CASES.to_vec(), runs };
        let board = ledger.path(BOARD);
        let text = std::fs::read_to_string(&board).expect("read");
        std::fs::write(board, text + &bound).expect("written");
        ledger
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A recorded run with what the stream read, and what it read under its near control.
    fn record(&mut self, read_gbps: f64, slow_gbps: f64) {
        let evidence = specimens::stream("d", read_gbps, slow_gbps);
        self.runs.push(specimens::recorded(&self.path("d"), "d", &[evidence]));
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        folders::edit(&self.path(file), from, to);
    }

    /// Findings of the lint, or the one error with which `golden/` does not load.
    fn findings(&self) -> Vec<String> {
        let goldens = match golden::load(&self.path("golden")) {
            Ok(goldens) => goldens,
            Err(error) => return vec![error],
        };
        lint(&lint::World {
            claims: &self.claims,
            cases: &self.cases,
            goldens: &goldens,
            runs: &self.runs,
            kernel_source: &|kernel, _| Some(fake::source_of(kernel)),
        })
    }
}

/// A clean ledger that is broken in one place gives one finding, which says all of `expect`.
#[track_caller]
fn check(break_it: impl FnOnce(&mut Ledger), expect: &[&str]) {
    let mut ledger = Ledger::new();
    assert_eq!(ledger.findings(), Vec::<String>::new());
    break_it(&mut ledger);
    let mut findings = ledger.findings();
    if !expect.iter().any(|part| part.contains("control")) {
        // A bound that was moved also stands elsewhere to its controls; that has a test of its own.
        findings.retain(|finding| !finding.contains("control"));
    }
    assert_eq!(findings.len(), usize::from(!expect.is_empty()), "{}", findings.join("\n"));
    for part in expect {
        assert!(findings[0].contains(part), "{part:?} is not in {}", findings[0]);
    }
}

#[track_caller]
fn check_edit(file: &str, from: &str, to: &str, expect: &[&str]) {
    check(|ledger| ledger.edit(file, from, to), &[&[file], expect].concat());
}

/// An edit of the one blessed bound.
#[track_caller]
fn check_bound(from: &str, to: &str, expect: &[&str]) {
    check_edit(BOARD, from, to, &[&["bandwidth::read: "], expect].concat());
}

#[test]
fn keys_that_nobody_knows() {
    check_edit(BOARD, "title =", "titel =", &["line 7", "unknown field `titel`"]);
    check_edit(BOARD, "worse =", "tolerance =", &["read_gbps", "unknown field `tolerance`"]);
    let mesh = "equals = 0, because = \"a mesh of eight\"";
    let typo = mesh.replace("equals", "equal");
    check_edit(DOCUMENTED, mesh, &typo, &["bandwidth::mesh-n8", "unknown field `equal`"]);
    check_edit(TARGETS, "because", "why", &["unknown field `why`"]);
    check_edit(RIVALS, "tool =", "rivals_tool =", &["unknown field `rivals_tool`"]);
}

#[test]
fn schemas_and_names_of_files() {
    for file in [BOARD, DOCUMENTED, TARGETS, RIVALS] {
        check_edit(file, "schema = 1", "schema = 2", &["schema 2 is not 1"]);
    }
    check_edit(BOARD, "name = \"fake-board\"", "name = \"other\"", &["not the file's name"]);
}

#[test]
fn names_without_a_unit() {
    let clock = "[peaks]\nclock = { value = 1980.0, source = \"a sheet\" }";
    check_edit(BOARD, "[peaks]", clock, &["peak clock", "no unit"]);
    static GAP: Claim = Claim {
        id: "bandwidth::doubled-is-false",
        case: "env::host",
        metric: "gap",
        ceiling: None,
        gpus: GpuCount::Host,
        kind: Kind::FalseRecord,
        ..fake::AS_PRINTED
    };
    let rename = |ledger: &mut Ledger| {
        ledger.claims.retain(|claim| claim.id != GAP.id);
        ledger.claims.push(&GAP);
    };
    check(rename, &["bandwidth::doubled-is-false: gap names no unit"]);
}

#[test]
fn figures_that_contradict_each_other() {
    let both = "at_most = 1.0, at_least = 50.0";
    let one_figure = "compute::sustained: needs one finite figure for AtLeast";
    check_edit(DOCUMENTED, "at_least = 50.0", both, &[one_figure]);
    check_edit(DOCUMENTED, "at_least = 50.0", "at_most = 50.0", &[one_figure]);
    check_edit(DOCUMENTED, "at_least = 50.0, ", "", &[one_figure]);
    let mesh = "equals = 0, because = \"a mesh of eight\"";
    let seven = mesh.replace('0', "7");
    check_edit(DOCUMENTED, mesh, &seven, &["bandwidth::mesh-n8: counts violations: equals is 0"]);
    check_bound("golden = 1000.0", "golden = 400.0", &["looser than the documented 409"]);
    check_edit(TARGETS, "at_least = 0.90", "at_least = 0.9\nat_most = 0.8", &["read: one figure"]);
    check_edit(TARGETS, "at_least = 0.90", "", &["read: one figure"]);
}

/// An earlier sentence is another one, and no false record has one: what refuted it need not refute less.
#[test]
fn earlier_sentences() {
    let read = "because = \"a share that is far too weak alone\"";
    let with = |before: &str, was: &str| format!("{before}, was = [\"{was}\"]");
    let today = with(read, "The fake node does what it is told.");
    check_edit(DOCUMENTED, read, &today, &["bandwidth::read: an earlier sentence is today's"]);
    let doubled = "because = \"half a point is rounding\"";
    let before = with(doubled, "It doubles whatever it is told.");
    let words = "bandwidth::doubled-is-false: a false record keeps no earlier sentence";
    check_edit(DOCUMENTED, doubled, &before, &[words]);
}

/// A case that does not say how many samples it takes lets somebody choose among them.
#[test]
fn a_golden_of_uncounted_samples() {
    check(
        |ledger| {
            let uncounted: &'static Case = Box::leak(Box::new(Case { samples: 0, ..fake::STREAM }));
            ledger.cases.iter_mut().filter(|case| case.id == fake::STREAM.id).for_each(|case| {
                *case = uncounted;
            });
        },
        &["bandwidth::read: bandwidth::stream takes 0 samples by its own word, 6 are the fewest"],
    );
}

#[test]
fn a_golden_that_allows_more_than_the_document() {
    let bound = "\n[claims.\"bandwidth::link\"]\nlatency_us = { golden = 10.0, worse = 0.02, because \
                 = \"as above\", runs";
    let loosen = |ledger: &mut Ledger| {
        let runs = "because = \"three runs\", runs";
        let text = std::fs::read_to_string(ledger.path(BOARD)).expect("read");
        let (_, list) = text.split_once(runs).expect("blessed");
        let longer = format!("{text}{bound}{list}");
        std::fs::write(ledger.path(BOARD), longer).expect("written");
    };
    let mut ledger = Ledger::new();
    loosen(&mut ledger);
    let findings = ledger.findings();
    let looser = "golden/fake-board.toml: bandwidth::link: the golden's bound 10.2 is looser than \
                  the documented 10";
    assert!(findings.iter().any(|finding| finding == looser), "{findings:?}");
}

#[test]
fn figures_that_are_no_numbers() {
    for word in ["nan", "inf", "-inf"] {
        check_bound("golden = 1000.0", &format!("golden = {word}"), &["is no bound"]);
        check_bound("worse = 0.02", &format!("worse = {word}"), &["is no bound"]);
        let documented = format!("at_least = {word}");
        let claim = "compute::sustained: needs one finite figure";
        check_edit(DOCUMENTED, "at_least = 50.0", &documented, &[claim]);
        let peak = format!("[peaks]\nother_gbps = {{ value = {word}, source = \"a sheet\" }}");
        check_edit(BOARD, "[peaks]", &peak, &["peak other_gbps"]);
        check_edit(TARGETS, "0.90", word, &["read: one figure"]);
        check_edit(RIVALS, "950.0", word, &["another tool bandwidth::read", "no value"]);
    }
    check_bound("worse = 0.02", "worse = -0.02", &["is no bound"]);
    check_bound("worse = 0.02", "worse = 1.5", &["is no bound"]);
}

#[test]
fn bounds_above_a_physical_peak() {
    check_bound("golden = 1000.0", "golden = 1300.0", &["bound 1274 is above its peak 1200"]);
    let claim = "bandwidth::read: the bound 1440 is above the peak 1200 of fake-board";
    let break_it = |ledger: &mut Ledger| {
        ledger.edit(DOCUMENTED, "at_least = 0.341", "at_least = 1.2");
        // Its golden would be looser than that, which is another finding.
        let file = ledger.path(BOARD);
        let text = std::fs::read_to_string(&file).expect("read");
        let (before, _) = text.split_once("[claims").expect("blessed");
        std::fs::write(file, before).expect("written");
    };
    check(break_it, &[DOCUMENTED, claim]);
}

#[test]
fn bounds_that_a_planted_fault_passes() {
    // The near control reads 960: a bound of 980 catches it, one of 955 does not.
    check(|ledger| ledger.record(1000.0, 960.0), &[]);
    let loose = |ledger: &mut Ledger| {
        ledger.record(1000.0, 960.0);
        let accepted = "worse = 0.045, accepted = \"one GPU is slower\"";
        ledger.edit(BOARD, "worse = 0.02", accepted);
    };
    check(loose, &[BOARD, "bandwidth::read: a control passes it: slow: read_gbps = 960"]);
    check(|ledger| ledger.record(1000.0, 999.0), &[BOARD, "bandwidth::read: a control passes it"]);
    // One that any bound would catch says nothing of this one.
    let far = "control slow is 4 tolerances from the bound, 3 at most";
    let all_far = |ledger: &mut Ledger| (0..5).for_each(|_| ledger.record(1000.0, 900.0));
    check(all_far, &[BOARD, "bandwidth::read: ", far]);
    // One GPU on one day is not the typical one.
    check(|ledger| ledger.record(1000.0, 900.0), &[]);
}

#[test]
fn goldens_of_a_procedure_that_is_gone() {
    let other = |ledger: &mut Ledger, evidence: &[Evidence]| {
        let run = specimens::recorded(&ledger.path("e"), "e", evidence);
        ledger.edit(BOARD, &ledger.runs[0].sha256, &run.sha256);
        ledger.runs.push(run);
    };
    let gone = "holds no figures of bandwidth::stream";
    check(|ledger| other(ledger, &[]), &[BOARD, "bandwidth::read: calibration run ", gone]);
    let old = Evidence { revision: 0, ..specimens::stream("e", 1000.0, 960.0) };
    // The newest run is an old one, so that no near control is there to judge.
    check(|ledger| other(ledger, &[old]), &[BOARD, "bandwidth::read: calibration run ", gone]);
}

#[test]
fn goldens_that_their_runs_do_not_give() {
    check_bound("golden = 1000.0", "golden = 990.0", &["990 is not what its runs give: 1000"]);
    check_bound("worse = 0.02", "worse = 0.04", &["0.04 is not what its runs give: 0.02"]);
    let cubins = "cubins = { stream = \"another\" }, because";
    check_bound("because", cubins, &["its runs ran no stream of machine code another"]);
    let before = "before = { golden = 1100.0, worse = 0.01, missed = [] }, because";
    check_bound("because", before, &["3 of its runs missed the bound before, which names 0"]);
    let shared = |ledger: &mut Ledger| ledger.runs[1].run.shared = true;
    check(shared, &[BOARD, "bandwidth::read: calibration run ", "was shared"]);
    let moved = |ledger: &mut Ledger| ledger.runs[1].run.board = "another".to_owned();
    check(moved, &[BOARD, "bandwidth::read: calibration run ", "is of another"]);
}

#[test]
fn goldens_without_reason_or_runs() {
    check_bound("because = \"three runs\"", "because = \" \"", &["a limit has a reason"]);
    check_bound("worse = 0.02", "worse = 0.06", &["tolerance of 0.06 needs `accepted`"]);
    let accepted = "worse = 0.06, accepted = \"one GPU is slower\"";
    check(|ledger| ledger.edit(BOARD, "worse = 0.02", accepted), &[]);
    let few = |ledger: &mut Ledger| {
        let last = format!(", {:?}", ledger.runs[2].sha256);
        ledger.edit(BOARD, &last, "");
    };
    check(few, &[BOARD, "bandwidth::read: needs three calibration runs"]);
    let twice = |ledger: &mut Ledger| {
        let (first, last) = (ledger.runs[0].sha256.clone(), ledger.runs[2].sha256.clone());
        ledger.edit(BOARD, &last, &first);
    };
    check(twice, &[BOARD, "bandwidth::read: needs three calibration runs"]);
    let unrecorded = |ledger: &mut Ledger| drop(ledger.runs.pop());
    check(unrecorded, &[BOARD, "bandwidth::read: calibration run", "is not recorded"]);
    let mesh = "because = \"a mesh of eight\"";
    check_edit(DOCUMENTED, mesh, "because = \"\"", &["bandwidth::mesh-n8: a limit has a reason"]);
    check_edit(BOARD, "a round figure", "", &["peak hbm_gbps has no source"]);
}

#[test]
fn claims_and_bounds_that_miss_each_other() {
    let mesh = "\"bandwidth::mesh-n8\" = { equals = 0, because = \"a mesh of eight\" }\n";
    let unbound = |ledger: &mut Ledger| ledger.edit(DOCUMENTED, mesh, "");
    check(unbound, &["bandwidth::mesh-n8: claim without bound"]);
    let unclaimed = |ledger: &mut Ledger| ledger.claims.retain(|c| c.id != "bandwidth::mesh-n8");
    check(unclaimed, &[DOCUMENTED, "bandwidth::mesh-n8: bound without claim"]);
    let claim = "[claims.\"bandwidth::read\"]";
    let other = "[claims.\"bandwidth::raed\"]";
    check_edit(BOARD, claim, other, &["bandwidth::raed: bound without claim"]);
    check_bound("read_gbps = {", "write_gbps = {", &["the claim's figure is read_gbps"]);
    let skip = "[skip]\n\"bandwidth::raed\" = \"it is slow\"\n\n[peaks]";
    check_edit(BOARD, "[peaks]", skip, &["skip bandwidth::raed: no such claim"]);
    let skip = "[skip]\n\"compute::fp4\" = \"\"\n\n[peaks]";
    check_edit(BOARD, "[peaks]", skip, &["skip compute::fp4", "no reason"]);
    let peak = "of = \"hbm_gbps\", because";
    let typo = "of = \"hmb_gbps\", because";
    check_edit(DOCUMENTED, peak, typo, &["bandwidth::read: fake-board has no peak hmb_gbps"]);
    check_edit(TARGETS, "\"hbm_gbps\"", "\"hmb_gbps\"", &["read: no peak hmb_gbps"]);
    check_edit(TARGETS, "\"fake-board\"", "\"no-board\"", &["read: no such claim or board"]);
    check_edit(RIVALS, "bandwidth::read", "bandwidth::raed", &["another tool bandwidth::raed"]);
}

#[test]
fn claims_that_mean_two_things_or_nothing() {
    let twice = |ledger: &mut Ledger| ledger.claims.push(&fake::READ);
    check(twice, &["bandwidth::read: two claims of one id"]);
    static LOUD: Claim = Claim { id: "bandwidth::Read_It", ..fake::AS_PRINTED };
    let mut ledger = Ledger::new();
    ledger.claims.push(&LOUD);
    let findings = ledger.findings();
    assert_eq!(findings[0], "bandwidth::Read_It: an id is suite::kebab-name");
    assert_eq!(findings[1], "bandwidth::Read_It: claim without bound");
    static NOWHERE: Claim = Claim { case: "bandwidth::no-case", ..fake::AS_PRINTED };
    let astray = |ledger: &mut Ledger| {
        ledger.claims.retain(|claim| claim.id != NOWHERE.id);
        ledger.claims.push(&NOWHERE);
    };
    check(astray, &["bandwidth::read: no case bandwidth::no-case"]);
    // Nothing that is planted in this case moves its metric: the claim cannot fail.
    static UNTRIED: Claim =
        Claim { case: "bandwidth::link", metric: "copy_gbps", ..fake::AS_PRINTED };
    let mut ledger = Ledger::new();
    ledger.claims.retain(|claim| claim.id != UNTRIED.id);
    ledger.claims.push(&UNTRIED);
    let findings = ledger.findings();
    let untried = "bandwidth::read: no control of bandwidth::link can trip it";
    assert_eq!(findings[0], untried);
}

const NO_FASTER: Claim = Claim {
    id: "bandwidth::no-faster",
    relation: Relation::AtMost,
    ceiling: None,
    ..fake::AS_PRINTED
};

/// The findings beside a claim that the stream is no faster, with a case in place of the fake one, over runs that
/// are `recorded` or not.
#[track_caller]
fn check_opposed(
    case: Option<&'static Case>,
    claim: &'static Claim,
    recorded: bool,
    expect: &[&str],
) {
    let mut ledger = Ledger::new();
    ledger.claims.push(claim);
    let bound = "\"bandwidth::no-faster\" = { at_most = 5000.0, suffices = true, because = \
                 \"nothing is faster\" }\n\n[refuted.";
    ledger.edit(DOCUMENTED, "[refuted.", bound);
    if let Some(case) = case {
        ledger.cases.iter_mut().filter(|old| old.id == case.id).for_each(|old| *old = case);
    }
    if !recorded {
        ledger.runs.clear();
    }
    let mut findings = ledger.findings();
    findings.retain(|finding| recorded || !finding.contains("calibration"));
    assert_eq!(findings, expect);
}

/// A fault that slows a stream is none to a claim that it is no faster.
#[test]
fn a_control_of_two_opposite_claims() {
    let opposed = "bandwidth::stream: control crawl cannot contradict both bandwidth::read, which wants at \
                   least, and bandwidth::no-faster, which wants at most, of one read_gbps";
    static OPPOSED: Claim = NO_FASTER;
    check_opposed(None, &OPPOSED, true, &[opposed]);
    check_opposed(None, &OPPOSED, false, &[opposed]);
    // A control on either side helps neither claim: each is held against both.
    let sides = |trips| -> &'static Case {
        let fast = control("fast", "half of it is left out", trips, Expect::Refuted);
        let mut controls = fake::STREAM.controls.iter().map(again).collect::<Vec<_>>();
        controls.push(fast);
        Box::leak(Box::new(Case { controls: controls.leak(), ..fake::STREAM }))
    };
    let other = opposed.replace("crawl", "fast");
    check_opposed(Some(sides("read_gbps")), &OPPOSED, false, &[opposed, &other]);
    // Mended: a number of its own, with a control of its own.
    static MENDED: Claim = Claim { metric: "gain_gbps", ..NO_FASTER };
    check_opposed(Some(sides("gain_gbps")), &MENDED, true, &[]);
    check_opposed(Some(sides("gain_gbps")), &MENDED, false, &[]);
    // A place where nothing is planted: it may be one until evidence says where the control is.
    static ELSEWHERE: Claim = Claim { at: &[("bytes", "8")], ..NO_FASTER };
    check_opposed(None, &ELSEWHERE, true, &[]);
    check_opposed(None, &ELSEWHERE, false, &[opposed]);
    // A slow GPU among others widens a spread, and so does a fast one.
    static SPREAD: Claim = Claim { reduce: Reduce::SpreadPercent, ..NO_FASTER };
    check_opposed(None, &SPREAD, true, &[]);
}

/// The same control: a case's are a slice that nobody can copy.
fn again(one: &Control) -> Control {
    control(one.name, one.fault, one.trips, one.expect)
}

#[test]
fn refuted_sentences_and_their_records() {
    let head = "[refuted.\"bandwidth::doubled-is-false\"]";
    let disagree = "bandwidth::doubled-is-false: refuted list and claim disagree";
    let forget = |ledger: &mut Ledger| {
        let file = ledger.path(DOCUMENTED);
        let text = std::fs::read_to_string(&file).expect("read");
        let (before, _) = text.split_once(head).expect("a list");
        std::fs::write(file, before).expect("written");
    };
    check(forget, &[DOCUMENTED, disagree]);
    let stranger =
        "[refuted.\"bandwidth::nothing\"]\nline = \"a\"\ntruth = \"c\"\narithmetic = \"b\"\n\n";
    let more = format!("{stranger}{head}");
    check_edit(DOCUMENTED, head, &more, &["refuted bandwidth::nothing: no such claim"]);
    let silent = &["bandwidth::doubled-is-false: wants line, truth and arithmetic"];
    check_edit(DOCUMENTED, "\"twice 21 is 42\"", "\" \"", silent);
}

#[test]
fn a_golden_behind_a_rival_is_listed_and_not_a_finding() {
    let ledger = Ledger::new();
    let behind = |ledger: &Ledger| {
        let goldens = golden::load(&ledger.path("golden")).expect("loads");
        lint::behind_rivals(&goldens, &ledger.claims)
    };
    assert_eq!(behind(&ledger), Vec::<String>::new());
    ledger.edit(RIVALS, "950.0", "1050.0");
    assert_eq!(behind(&ledger), ["bandwidth::read: golden 1000, another tool reaches 1050"]);
    assert_eq!(ledger.findings(), Vec::<String>::new());
}
