//! Recorded runs: the evidence that is committed, whole runs, never edited, never picked.
//!
//! `checklists/evidence/runs.jsonl` holds one manifest a line, append-only, failed runs too; the
//! evidence of a run lies in `checklists/evidence/<board>/<run>/`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use crate::case::Case;
use crate::claim::{Claim, GpuCount};
use crate::digest::{self, Sha256};
use crate::evidence::{self, Device, Evidence, copies};
use crate::files;
use crate::golden::{BoardGolden, Goldens};
use crate::judge::{EvidenceRef, Found};
use crate::run::{self, CaseEntry, Run, SourceTree};
use crate::shared::Shared;

/// Where recorded runs are listed, from the root.
pub const RUNS: &str = "checklists/evidence/runs.jsonl";

/// Manifest of a run in a folder of its own.
pub(crate) const MANIFEST: &str = "run.json";

/// Ending of a run's folder while it is copied.
const COPYING: &str = "copying";

/// Its folder of evidence.
pub(crate) const LEFT: &str = "evidence";

/// A finished run with its manifest's digest and the folder of its evidence.
#[derive(Debug, Clone)]
pub struct FinishedRun {
    /// The manifest.
    pub run: Run,
    /// SHA-256 of the manifest's line.
    pub sha256: String,
    /// Folder of its evidence files.
    pub folder: PathBuf,
    /// The same folder as reports print it, from the root.
    pub printed: String,
}

impl FinishedRun {
    /// The file that its manifest stands in, as reports print it.
    pub fn manifest(&self) -> &'static str {
        if self.printed == LEFT { MANIFEST } else { RUNS }
    }
}

/// All recorded runs, oldest first by their own start. A line that does not parse is one error with its number,
/// and so is what lies among the evidence and no line lists: what was recorded once does not vanish in silence,
/// and what was not recorded is not evidence.
pub fn load(root: &Path) -> Result<Vec<FinishedRun>, String> {
    let runs = listed(root)?;
    let known: HashSet<&Path> = runs.iter().map(|finished| finished.folder.as_path()).collect();
    let evidence = root.join("checklists/evidence");
    for board in entries_of(&evidence)? {
        if board == root.join(RUNS) {
            continue;
        }
        for run in entries_of(&board)? {
            // One that is still being copied is none.
            let copying = run.extension().is_some_and(|end| end == COPYING) && run.is_dir();
            if !copying && !known.contains(run.as_path()) {
                return Err(format!("{RUNS} does not list {}", run.display()));
            }
        }
    }
    runs.iter().try_for_each(unlisted)?;
    Ok(runs)
}

/// A file in a run's folder of evidence that its manifest does not list: nobody judges it.
pub fn unlisted(finished: &FinishedRun) -> Result<(), String> {
    let listed: HashSet<&str> = finished.run.cases.iter().map(|entry| &*entry.file).collect();
    for path in entries_of(&finished.folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !listed.contains(&*name) {
            let (printed, run) = (&finished.printed, &finished.run.run);
            return Err(format!("{printed}/{name} lies there, and run {run} does not list it"));
        }
    }
    Ok(())
}

/// What lies in a folder, in order; nothing where there is none. A file in its place is itself what lies there.
pub(crate) fn entries_of(folder: &Path) -> Result<Vec<PathBuf>, String> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == NotADirectory => return Ok(vec![folder.to_path_buf()]),
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.map(|entry| Ok(entry.map_err(failed)?.path()));
    let mut paths = paths.collect::<Result<Vec<PathBuf>, String>>()?;
    paths.sort();
    Ok(paths)
}

fn listed(root: &Path) -> Result<Vec<FinishedRun>, String> {
    let path = root.join(RUNS);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    // Line by line: thousands of manifests need not lie beside what they say. A line ends at its newline
    // alone: another byte before it is a byte of the manifest.
    let lines = std::io::BufReader::new(file).split(b'\n').enumerate();
    let lines = lines.map(|(index, line)| {
        let named = |error: String| format!("{RUNS}:{}: {error}", index + 1);
        let line = line.map_err(|error| named(error.to_string()))?;
        String::from_utf8(line).map_err(|error| named(error.to_string()))
    });
    list(root, lines)
}

/// Lines of a text that is in memory already.
pub(crate) fn lines_of(text: &str) -> impl Iterator<Item = Result<String, String>> {
    text.split_terminator('\n').map(|line| Ok(line.to_owned()))
}

/// The runs of the lines of [`RUNS`], whole ones, each once: oldest first by the start that the manifest says. The
/// order of the lines says when they were brought in.
pub(crate) fn list(
    root: &Path,
    lines: impl Iterator<Item = Result<String, String>>,
) -> Result<Vec<FinishedRun>, String> {
    let mut runs: Vec<(f64, FinishedRun)> = Vec::new();
    let mut alike = Alike::default();
    let mut seen = BTreeSet::new();
    for (line, number) in lines.zip(1..) {
        let line = line?;
        let named = |problem: String| format!("{RUNS}:{number}: {problem}");
        let mut run = run::parse(&line).map_err(named)?;
        alike.hold_once(&mut run);
        if run.interrupted || !run.whole {
            return Err(named(format!("run {} is interrupted or partial", run.run)));
        }
        if !seen.insert(run.run.clone()) {
            return Err(named(format!("run {} stands twice", run.run)));
        }
        let printed = format!("checklists/evidence/{}/{}", run.board, run.run);
        let folder = root.join(&printed);
        let started = run::time(&run.started).map_err(named)?;
        runs.push((started, FinishedRun { run, sha256: Run::digest_of(&line), folder, printed }));
    }
    // Two that began in one second stay as they were brought in: no GPU can have run both.
    runs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(runs.into_iter().map(|(_, finished)| finished).collect())
}

/// What runs of one machine and software say alike.
#[derive(Default)]
struct Alike {
    sources: Vec<Shared<SourceTree>>,
    commands: Vec<Shared<Vec<String>>>,
    devices: Vec<Shared<Vec<Device>>>,
    versions: Vec<Shared<BTreeMap<String, String>>>,
}

impl Alike {
    /// The run shares with others what they say alike.
    fn hold_once(&mut self, run: &mut Run) {
        run.source.hold_once(&mut self.sources);
        run.command.hold_once(&mut self.commands);
        run.devices.hold_once(&mut self.devices);
        run.versions.hold_once(&mut self.versions);
    }
}

/// A finished run that lies in a folder of its own, as the runner left it.
pub fn open(folder: &Path) -> Result<FinishedRun, String> {
    let path = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let run = run::parse(line).map_err(|e| format!("{}: {e}", path.display()))?;
    let sha256 = Run::digest_of(line);
    Ok(FinishedRun { run, sha256, folder: folder.join(LEFT), printed: LEFT.into() })
}

/// Boards that have recorded runs, in order of their first run.
pub fn boards(runs: &[FinishedRun]) -> Vec<String> {
    let mut boards: Vec<String> = Vec::new();
    for finished in runs {
        if !boards.contains(&finished.run.board) {
            boards.push(finished.run.board.clone());
        }
    }
    boards
}

/// Evidence as it was found, owned.
#[derive(Debug, Clone)]
pub enum FoundEvidence {
    /// Readable, and it has the digest that its run lists.
    Evidence(Box<Evidence>, EvidenceRef),
    /// Listed, but gone, cut or changed.
    Unreadable(String),
    /// No run holds it.
    Nothing(String),
}

impl FoundEvidence {
    /// The evidence, or why there is none.
    pub(crate) fn required(self) -> Result<(Box<Evidence>, EvidenceRef), String> {
        match self {
            FoundEvidence::Evidence(evidence, reference) => Ok((evidence, reference)),
            FoundEvidence::Unreadable(reason) | FoundEvidence::Nothing(reason) => Err(reason),
        }
    }

    /// As the judge takes it. What no recorded run holds was left out by nobody's fault of today.
    pub fn as_found(&self) -> Found<'_> {
        match self {
            FoundEvidence::Evidence(evidence, reference) => {
                Found::Evidence(evidence, reference.clone())
            }
            FoundEvidence::Unreadable(reason) => Found::Unreadable(reason.clone()),
            FoundEvidence::Nothing(reason) => {
                Found::Nothing { reason: reason.clone(), explained: true }
            }
        }
    }
}

/// The evidence of a claim in the run that [`locate`] says.
pub(crate) fn find(
    runs: &[FinishedRun],
    board: &str,
    golden: Option<&BoardGolden>,
    claim: &Claim,
    case: &Case,
) -> FoundEvidence {
    read_located(locate(runs, board, golden, claim, case), case)
}

/// The evidence of a case in a run that was located.
pub(crate) fn read_located(located: Result<Located<'_>, String>, case: &Case) -> FoundEvidence {
    match located {
        Ok(Located { finished, other_runs }) => {
            let mut found = read(finished, case.id);
            if let FoundEvidence::Evidence(_, reference) = &mut found {
                reference.other_runs = other_runs;
            }
            found
        }
        Err(reason) => FoundEvidence::Nothing(reason),
    }
}

/// The recorded run that a claim is judged by.
#[derive(Debug, Clone)]
pub struct Located<'a> {
    /// The run.
    pub finished: &'a FinishedRun,
    /// The newest later run that held the case and did not run it, and why; and a run of more GPUs in which the claim
    /// does not hold; in clauses.
    pub other_runs: Option<String>,
}

/// The newest run on the board that has tried the case with a GPU count that fits the claim; `Err` says that
/// there is none. A run in which the case was not run hides nothing that an older run measured, and is named beside
/// it; a run that a golden of the claim was made from is passed over while a later or earlier other one exists.
pub(crate) fn locate<'a>(
    runs: &'a [FinishedRun],
    board: &str,
    golden: Option<&BoardGolden>,
    claim: &Claim,
    case: &Case,
) -> Result<Located<'a>, String> {
    locate_among(runs, golden, claim, case, &|finished| {
        let given = finished.run.devices.len() as u32;
        finished.run.board == board
            && match claim.gpus {
                GpuCount::Host => true,
                GpuCount::AtLeast(wanted) => given >= wanted,
                GpuCount::Exactly(wanted) => given == wanted,
            }
    })
    .map_err(|not_run| nothing(claim, board) + &not_run)
}

/// As [`locate`], the run of each GPU count above this one, the most GPUs first.
pub(crate) fn wider<'a>(
    runs: &'a [FinishedRun],
    board: &str,
    golden: Option<&BoardGolden>,
    claim: &Claim,
    case: &Case,
    than: usize,
) -> Vec<Located<'a>> {
    let counts: BTreeSet<usize> = runs.iter().map(|finished| finished.run.devices.len()).collect();
    let of = |count: &usize| {
        let fits = |finished: &FinishedRun| {
            finished.run.board == board && finished.run.devices.len() == *count
        };
        locate_among(runs, golden, claim, case, &fits).ok()
    };
    counts.iter().rev().take_while(|count| **count > than).filter_map(of).collect()
}

/// [`locate`] among runs that fit; an error is the clause about runs that did not run the case, or nothing.
fn locate_among<'a>(
    runs: &'a [FinishedRun],
    golden: Option<&BoardGolden>,
    claim: &Claim,
    case: &Case,
    fits: &dyn Fn(&FinishedRun) -> bool,
) -> Result<Located<'a>, String> {
    let with_case = |finished: &'a FinishedRun| {
        let entry = finished.run.cases.iter().find(|entry| entry.case == case.id)?;
        Some((finished, untried(finished, entry)))
    };
    // Newest first, each with why it has not tried the case.
    let held: Vec<(&FinishedRun, Option<String>)> =
        runs.iter().rev().filter(|finished| fits(finished)).filter_map(with_case).collect();
    let bound = golden.and_then(|golden| golden.bound(claim.id, claim.figure()));
    let calibrated =
        |finished: &FinishedRun| bound.is_some_and(|bound| bound.runs.contains(&finished.sha256));
    // The first of the least: the newest that no golden came from, else the newest.
    let tried = held.iter().enumerate().filter(|(_, (_, untried))| untried.is_none());
    match tried.min_by_key(|(_, (finished, _))| calibrated(finished)) {
        Some((newer, (finished, _))) => {
            Ok(Located { finished, other_runs: not_run(&held[..newer]) })
        }
        None => Err(not_run(&held).map_or_else(String::new, |clause| format!("; {clause}"))),
    }
}

/// Why a run has tried a case on none of its GPUs, in the words of the first of them; none where it has tried it. That
/// it has not is believed of its evidence alone.
fn untried(finished: &FinishedRun, entry: &CaseEntry) -> Option<String> {
    if entry.was_run() {
        return None;
    }
    let (evidence, _) = checked(finished, entry).ok()?;
    let reason = |part: &evidence::Part| match &part.outcome {
        evidence::Outcome::NotRun(reason) => Some(reason.clone()),
        _ => None,
    };
    let reasons: Option<Vec<String>> = evidence.parts.iter().map(reason).collect();
    reasons?.into_iter().next()
}

/// `not run in 20261122T002921Z-3d2bafb6 and 1 other newer run: 115 s expected, ...`: of runs, newest first, that may
/// have tried the case all the same.
fn not_run(newest_first: &[(&FinishedRun, Option<String>)]) -> Option<String> {
    let mut untried =
        newest_first.iter().filter_map(|(finished, why)| Some((finished, why.as_ref()?)));
    let (newest, why) = untried.next()?;
    let others = match untried.count() {
        0 => String::new(),
        1 => " and 1 other newer run".to_owned(),
        more => format!(" and {more} other newer runs"),
    };
    Some(format!("not run in {}{others}: {why}", newest.run.run))
}

fn nothing(claim: &Claim, board: &str) -> String {
    if board.is_empty() {
        return "nothing is recorded".to_owned();
    }
    match claim.gpus {
        GpuCount::Exactly(n) => format!("no recorded run of {board} with {n} GPUs holds it"),
        GpuCount::AtLeast(n) if n > 1 => {
            format!("no recorded run of {board} with {n} or more GPUs holds it")
        }
        _ => format!("no recorded run of {board} holds it"),
    }
}

/// Reads a case's evidence of a finished run and checks it against the manifest.
pub fn read(finished: &FinishedRun, case: &str) -> FoundEvidence {
    let Some(entry) = finished.run.cases.iter().find(|entry| entry.case == case) else {
        return FoundEvidence::Nothing(format!("the run {} has no {case}", finished.run.run));
    };
    match checked(finished, entry) {
        Ok((evidence, reference)) => FoundEvidence::Evidence(Box::new(evidence), reference),
        Err(reason) => FoundEvidence::Unreadable(reason),
    }
}

/// The evidence that a judgement cites, read again; none that is not what it was then.
pub fn evidence_of(runs: &[FinishedRun], cited: &EvidenceRef) -> Option<Evidence> {
    let finished = runs.iter().find(|finished| finished.run.run == cited.run)?;
    let file = |entry: &&CaseEntry| format!("{}/{}", finished.printed, entry.file) == cited.path;
    let (evidence, found) = checked(finished, finished.run.cases.iter().find(file)?).ok()?;
    (found.sha256 == cited.sha256).then_some(evidence)
}

fn checked(finished: &FinishedRun, entry: &CaseEntry) -> Result<(Evidence, EvidenceRef), String> {
    let printed = format!("{}/{}", finished.printed, entry.file);
    let text = files::read_at_most(&finished.folder.join(&entry.file), evidence::MAX_BYTES)
        .map_err(|e| format!("{printed}: {e}"))?;
    vouched(finished, entry, &text)
}

/// The text of a case's evidence, held against the manifest that lists it.
pub(crate) fn vouched(
    finished: &FinishedRun,
    entry: &CaseEntry,
    text: &str,
) -> Result<(Evidence, EvidenceRef), String> {
    let printed = format!("{}/{}", finished.printed, entry.file);
    let sha256 = Sha256::of(text.as_bytes());
    if sha256 != entry.sha256 {
        let [has, lists] = [sha256, entry.sha256].map(|one| one.to_string());
        let (has, lists) = (digest::short(&has), digest::short(&lists));
        return Err(format!("{printed} has digest {has}, its run lists {lists}"));
    }
    let evidence = evidence::parse(text).map_err(|e| format!("{printed}: {e}"))?;
    finished.run.holds(entry, &evidence).map_err(|e| format!("{printed} {e}"))?;
    let reference = EvidenceRef {
        path: printed,
        sha256: sha256.to_string(),
        run: finished.run.run.clone(),
        run_sha256: Some(finished.sha256.clone()),
        origin: None,
        day: day(&finished.run.started),
        board: if evidence.pci_device_id.is_empty() {
            String::new()
        } else {
            finished.run.board.clone()
        },
        gpus: finished.run.devices.len() as u32,
        recovered: finished.run.recovered.is_some(),
        other_runs: None,
        worded: None,
    };
    Ok((evidence, reference))
}

/// The day of an RFC 3339 time.
pub fn day(time: &str) -> String {
    time.get(..10).unwrap_or(time).to_owned()
}

/// The run of these that measured the very same as the evidence: under another name it is no other measurement.
pub fn origin<'a>(
    evidence: &Evidence,
    known: impl IntoIterator<Item = &'a FinishedRun>,
) -> Option<&'a FinishedRun> {
    let same = |run: &&FinishedRun| match read(run, &evidence.case) {
        FoundEvidence::Evidence(other, _) => {
            copies::of_one_measurement(evidence, &other) || evidence.parts == other.parts
        }
        FoundEvidence::Unreadable(_) | FoundEvidence::Nothing(_) => false,
    };
    known.into_iter().find(same)
}

/// The run and the case that a run holds once more under another name: goldens could be made of both as of
/// two measurements.
fn copied(finished: &FinishedRun, known: &[FinishedRun]) -> Option<(String, String)> {
    finished.run.cases.iter().find_map(|entry| {
        let (evidence, _) = checked(finished, entry).ok()?;
        let other = origin(&evidence, known)?;
        Some((other.run.run.clone(), entry.case.to_string()))
    })
}

/// Brings a finished run into the repository: copies its evidence and appends its manifest. The
/// run must be whole on disk (every digest right), of a known place, and not recorded yet.
pub fn record(root: &Path, folder: &Path, goldens: &Goldens) -> Result<FinishedRun, String> {
    let finished = open(folder)?;
    let known = load(root)?;
    if known.iter().any(|other| other.sha256 == finished.sha256) {
        return Err(format!("run {} is recorded already", finished.run.run));
    }
    if finished.run.devices.is_empty() {
        return Err(format!(
            "run {} measured no GPU: there is nothing to record",
            finished.run.run
        ));
    }
    if finished.run.interrupted || !finished.run.whole {
        let what = if finished.run.interrupted { "was interrupted" } else { "is partial" };
        return Err(format!("run {} {what}: only whole runs are recorded", finished.run.run));
    }
    for entry in &finished.run.cases {
        checked(&finished, entry)?;
    }
    if let Some((other, case)) = copied(&finished, &known) {
        return Err(format!(
            "run {} holds what run {other} measured of {case}: a measurement is recorded once",
            finished.run.run
        ));
    }
    let board = finished.run.board.clone();
    let device = &finished.run.devices[0].pci_device_id;
    if board != goldens.board_name(device) {
        return Err(format!("run names board {board}, golden/ calls {device} otherwise"));
    }
    let target = root.join(format!("checklists/evidence/{board}/{}", finished.run.run));
    if target.exists() {
        return Err(format!("{} exists already", target.display()));
    }
    // Copied beside its place and moved there whole, so that nothing half-copied stays.
    let copying = target.with_extension(COPYING);
    let put = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    std::fs::create_dir_all(&copying).map_err(|e| put(&copying, e))?;
    for entry in &finished.run.cases {
        let to = copying.join(&entry.file);
        std::fs::copy(finished.folder.join(&entry.file), &to).map_err(|e| put(&to, e))?;
    }
    std::fs::rename(&copying, &target).map_err(|e| put(&target, e))?;
    let manifest = folder.join(MANIFEST);
    let line = std::fs::read_to_string(&manifest).map_err(|e| put(&manifest, e))?;
    append(&root.join(RUNS), line.strip_suffix('\n').unwrap_or(&line))?;
    let mut recorded = load(root)?.into_iter();
    let appended = recorded.find(|other| other.sha256 == finished.sha256);
    appended.ok_or_else(|| "the run was not appended".to_owned())
}

fn append(path: &Path, line: &str) -> Result<(), String> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    writeln!(file, "{line}").map_err(|e| format!("{}: {e}", path.display()))
}
