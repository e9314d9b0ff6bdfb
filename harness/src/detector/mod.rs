//! The detector score: faults planted into good evidence, manifests, goldens and archives, and the share
//! that readers, lint and judge see as what they are.
//!
//! - [`faults::ALL`] is the table: what is done to which file, and what must be said of it. A fault that
//!   nothing names, or that something else names, is a miss; so is one whose planting changes nothing.
//! - The digests follow a planted fault: a forger would see to that. Faults of the digests are their own.
//! - The good files must pass: what is refused of them is a false alarm.
//! - Faults that the suites plant on a GPU are the controls; [`Controls`] counts those of judged claims.

pub mod faults;
#[cfg(test)]
mod fuzz;
mod good;
mod planted;

use std::path::Path;

use serde_json::Value;

use crate::digest::sha256_hex;
use crate::evidence;
use crate::files;
use crate::golden::{self, BoardGolden, Documented, Goldens};
use crate::judge::{Found, Judgement};
use crate::lint;
use crate::recorded::{self, FinishedRun};
use crate::report;
use crate::run::Run;
use crate::world::World;
use faults::{Fault, Plant};
use good::Good;
pub use planted::{Planted, account, planted};

/// What became of a planted fault.
#[derive(Debug, Clone)]
pub struct Try {
    /// The fault.
    pub fault: &'static Fault,
    /// Seen as what it is.
    pub caught: bool,
    /// What was said of it: a verdict, `refused` or `finding`, and the reason.
    pub said: String,
}

/// The score over broken files.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// Into what the faults were planted.
    pub base: String,
    /// Every fault, in order of the table.
    pub tries: Vec<Try>,
    /// What was said of good files.
    pub false_alarms: Vec<String>,
}

/// Faults that cases planted on the machine, counted over judged claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controls {
    /// Got the verdict that they were planted for.
    pub caught: usize,
    /// Did not: the claim is broken.
    pub missed: usize,
    /// Without a bound to hold them against.
    pub not_judged: usize,
}

impl Controls {
    /// Over judgements.
    pub fn of<'a>(judgements: impl Iterator<Item = &'a Judgement>) -> Controls {
        let mut sum = Controls::default();
        for control in judgements.flat_map(|judgement| &judgement.controls) {
            match control.caught {
                Some(true) => sum.caught += 1,
                Some(false) => sum.missed += 1,
                None => sum.not_judged += 1,
            }
        }
        sum
    }

    /// `120 of 120 controls, 4 without a bound`.
    pub fn words(&self) -> String {
        let Controls { caught, missed, not_judged } = self;
        let open = match not_judged {
            0 => String::new(),
            open => format!(", {open} without a bound"),
        };
        format!("{caught} of {} controls{open}", caught + missed)
    }
}

impl Score {
    /// How many faults were planted.
    pub fn planted(&self) -> usize {
        self.tries.len()
    }

    /// How many were seen as what they are.
    pub fn caught(&self) -> usize {
        self.tries.iter().filter(|tried| tried.caught).count()
    }

    /// Every fault was planted and seen as what it is, and nothing was said of good files.
    pub fn holds(&self) -> bool {
        !self.tries.is_empty()
            && self.tries.len() == faults::count()
            && self.caught() == self.planted()
            && self.false_alarms.is_empty()
    }

    /// `150 of 150 broken files, 0 false alarms`.
    pub fn words(&self) -> String {
        let (caught, planted, alarms) = (self.caught(), self.planted(), self.false_alarms.len());
        let plural = if alarms == 1 { "" } else { "s" };
        format!("{caught} of {planted} broken files, {alarms} false alarm{plural}")
    }

    /// The names of what went wrong.
    pub fn misses(&self) -> Vec<String> {
        let missed = self.tries.iter().filter(|tried| !tried.caught);
        let named = missed.map(|tried| {
            let Fault { file, name, as_what, names, .. } = tried.fault;
            format!("{file}: {name}: wanted {as_what}: {names}, got {}", tried.said)
        });
        let alarms = self.false_alarms.iter().map(|said| format!("a good file: {said}"));
        let nothing = self.tries.is_empty().then(|| format!("nothing was planted: {}", self.base));
        named.chain(alarms).chain(nothing).collect()
    }

    /// A line for each fault, with what was said of it.
    pub fn table(&self) -> String {
        let line = |tried: &Try| {
            let mark = if tried.caught { "caught" } else { "MISSED" };
            let Fault { file, name, .. } = tried.fault;
            format!("{mark} {file:8} {name:44} {}\n", report::short_line(&tried.said))
        };
        self.tries.iter().map(line).collect()
    }
}

/// The score of this repository.
pub fn run(world: &World) -> Result<Score, String> {
    let runs = recorded::load(&world.root)?;
    of(world, &world.goldens()?, &runs)
}

/// The score with these goldens and runs.
pub fn of(world: &World, goldens: &Goldens, runs: &[FinishedRun]) -> Result<Score, String> {
    score(&Good::find(world, goldens, runs)?, &examine)
}

/// The score for a report: over the recorded runs, or, where these cannot be read, over synthetic ones. That
/// nothing could be planted is a score that does not hold; the run's reports are written all the same.
pub fn of_today(world: &World, goldens: &Goldens) -> Score {
    // That the runs cannot be read is said by whoever judges them.
    let runs = recorded::load(&world.root).unwrap_or_default();
    of(world, goldens, &runs).unwrap_or_else(|base| Score { base, ..Score::default() })
}

/// The score over the self-check's evidence.
pub fn synthetic() -> Result<Score, String> {
    score(&Good::synthetic()?, &examine)
}

/// What is said of files: `verified`, another verdict, `refused` or `finding`; and the reason.
type Said = (&'static str, String);
type Examine<'a> = &'a dyn Fn(&Good, &Specimen) -> Said;

/// Plants every fault, each in its own copy. The reader is a parameter so that a blind one can be shown
/// to be found out.
fn score(base: &Good, examine: Examine) -> Result<Score, String> {
    let good = Specimen::good(base)?;
    let said = examine(base, &Specimen { lint: true, ..good.clone() });
    let packed = Specimen { archive: Some(good.pack()?), ..good.clone() };
    let alarms = [said, examine(base, &packed)].into_iter().filter(|said| said.0 != "verified");
    let false_alarms = alarms.map(|said| format!("{}: {}", said.0, said.1)).collect();
    let planted = faults::all().map(|fault| {
        let names = named(fault.names, base);
        let (caught, said) = match plant(base, &good, fault) {
            Ok(broken) if broken == good => (false, "nothing: planting it changed nothing".into()),
            Ok(broken) => {
                let (word, reason) = examine(base, &broken);
                let seen = word == fault.as_what && reason.contains(&names);
                (seen, format!("{word}: {reason}"))
            }
            Err(reason) => (false, format!("it could not be planted: {reason}")),
        };
        Try { fault, caught, said }
    });
    let tries = planted.collect();
    Ok(Score { base: base.what.clone(), tries, false_alarms })
}

/// What must be said, with the base's own names in it.
fn named(names: &str, base: &Good) -> String {
    names
        .replace("{metric}", base.claim.metric)
        .replace("{bits}", base.integrity())
        .replace("{gpu0}", &format!("gpu{}", base.gpu(0)))
        .replace("{gpu1}", &format!("gpu{}", base.gpu(1)))
}

/// The files that are judged together, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Specimen {
    /// Lines of `runs.jsonl`; the last is the run that is judged.
    runs: Vec<String>,
    /// The case's evidence.
    evidence: String,
    /// The board's golden file.
    board: String,
    /// `documented.toml`.
    documented: String,
    /// The run as a tar, in place of `runs` and `evidence`.
    archive: Option<Vec<u8>>,
    /// The lint is asked too; what is planted in evidence does not concern it.
    lint: bool,
}

impl Specimen {
    fn good(base: &Good) -> Result<Specimen, String> {
        let lines = base.runs.iter().map(|finished| finished.run.line());
        Ok(Specimen {
            runs: lines.collect::<Result<_, _>>()?,
            evidence: evidence::render(&base.evidence)?,
            board: toml::to_string(&base.board).map_err(|error| error.to_string())?,
            documented: toml::to_string(&base.documented).map_err(|error| error.to_string())?,
            archive: None,
            lint: false,
        })
    }

    /// The judged run as one tar.
    fn pack(&self) -> Result<Vec<u8>, String> {
        let manifest = self.runs.last().cloned().unwrap_or_default();
        let run: Run = serde_json::from_str(&manifest).map_err(|error| error.to_string())?;
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: String, text: &str| {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes()).map_err(|error| error.to_string())
        };
        add(format!("{}/run.json", run.run), &format!("{manifest}\n"))?;
        for entry in &run.cases {
            add(format!("{}/evidence/{}", run.run, entry.file), &self.evidence)?;
        }
        tar.into_inner().map_err(|error| error.to_string())
    }

    /// The manifest lists the evidence as it is now.
    fn seal(&mut self, base: &Good) -> Result<(), String> {
        let line = self.runs.pop().unwrap_or_default();
        let mut manifest: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let entry = faults::entry(&mut manifest, base.case.id);
        entry["sha256"] = sha256_hex(self.evidence.as_bytes()).into();
        self.runs.push(manifest.to_string());
        Ok(())
    }
}

/// A copy with the fault in it.
fn plant(base: &Good, good: &Specimen, fault: &Fault) -> Result<Specimen, String> {
    let json = |text: &str| -> Result<Value, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    };
    let table = |text: &str| text.parse::<toml::Table>().map_err(|error| error.to_string());
    let mut broken = good.clone();
    match fault.plant {
        Plant::Evidence(change) => {
            let mut value = json(&good.evidence)?;
            change(&mut value, base);
            broken.evidence = format!("{value}\n");
            broken.seal(base)?;
        }
        Plant::EvidenceText(change) => {
            broken.evidence = change(&good.evidence, base);
            broken.seal(base)?;
        }
        Plant::Unsealed(change) => broken.evidence = change(&good.evidence, base),
        Plant::Manifest(change) => {
            let line = broken.runs.pop().unwrap_or_default();
            let mut value = json(&line)?;
            change(&mut value, base);
            broken.runs.push(value.to_string());
        }
        Plant::Runs(change) => change(&mut broken.runs),
        Plant::Board(change) => {
            let mut value = table(&good.board)?;
            change(&mut value, base);
            broken.board = value.to_string();
            broken.lint = value != table(&good.board)?;
        }
        Plant::BoardText(change) => broken.board = change(&good.board),
        Plant::Documented(change) => {
            let mut value = table(&good.documented)?;
            change(&mut value, base);
            broken.documented = value.to_string();
            broken.lint = value != table(&good.documented)?;
        }
        Plant::Archive(change) => broken.archive = Some(change(good.pack()?)),
    }
    Ok(broken)
}

/// Reads, lints and judges the files as a recorded run is.
fn examine(base: &Good, specimen: &Specimen) -> Said {
    match read(base, specimen) {
        Ok(said) => said,
        Err(reason) => ("refused", reason),
    }
}

/// `Err` is what no reader takes.
fn read(base: &Good, specimen: &Specimen) -> Result<Said, String> {
    let file = format!("golden/{}.toml", base.board.board.name);
    let board: BoardGolden = golden::parse_board(Path::new(&file), &specimen.board)?;
    let path = Path::new("golden/documented.toml");
    let documented: Documented = golden::parse_documented(path, &specimen.documented)?;
    let goldens = base.goldens(board, documented);
    let (runs_text, text) = match &specimen.archive {
        Some(bytes) => unpacked(base, bytes)?,
        None => (specimen.runs.join("\n"), specimen.evidence.clone()),
    };
    let runs = recorded::list(&base.root, recorded::lines_of(&runs_text))?;
    if specimen.lint {
        let findings = lint::lint(&lint::World {
            claims: &base.siblings,
            cases: &[base.case],
            goldens: &goldens,
            runs: &runs,
            kernel_source: &|name, architecture| base.kernel_source(name, architecture),
        });
        if !findings.is_empty() {
            return Ok(("finding", findings.join("; ")));
        }
    }
    // The last line is the run that is judged, wherever its start puts it.
    let judged = runs_text.lines().next_back().map(Run::digest_of);
    let judged = runs.iter().position(|finished| Some(&finished.sha256) == judged.as_ref());
    let finished = &runs[judged.ok_or("no run")?];
    let found = finished.run.cases.iter().find(|entry| entry.case == base.case.id);
    let Some(entry) = found else {
        let reason = format!("the run {} has no {}", finished.run.run, base.case.id);
        let judgement = base.judge(Found::Nothing { reason, explained: false }, &goldens);
        return Ok((report::word(judgement.verdict), judgement.reason));
    };
    let judgement = match recorded::vouched(finished, entry, &text) {
        Ok((evidence, mut reference)) => {
            let others = runs.iter().filter(|other| other.sha256 != finished.sha256);
            let origin = recorded::origin(&evidence, others);
            reference.origin = origin.map(|run| run.sha256.clone());
            base.judge(Found::Evidence(&evidence, reference), &goldens)
        }
        Err(reason) => base.judge(Found::Unreadable(reason), &goldens),
    };
    Ok((report::word(judgement.verdict), judgement.reason))
}

/// Manifest and evidence of an archive.
fn unpacked(base: &Good, bytes: &[u8]) -> Result<(String, String), String> {
    let (top, members) = files::members(bytes)?;
    let text = |name: &str| {
        let wanted = top.join(name);
        let found = members.iter().find(|(name, _)| *name == wanted);
        let (_, bytes) = found.ok_or_else(|| format!("{name} is missing"))?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| format!("{name}: {error}"))
    };
    let manifest = text("run.json")?;
    let file = crate::run::evidence_file(base.case.id, base.evidence.gpus);
    Ok((manifest.trim_end().to_owned(), text(&format!("evidence/{file}"))?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Over synthetic evidence; over the recorded evidence it is a test of the repository.
    #[test]
    fn every_broken_file_is_seen_as_what_it_is() {
        let score = synthetic().expect("planted");
        assert_eq!(score.misses(), Vec::<String>::new());
        assert!(score.holds() && score.planted() >= 100, "{}", score.words());
    }

    #[test]
    fn readers_that_pass_everything_or_nothing_are_found_out() {
        let base = Good::synthetic().expect("a base");
        let blind = score(&base, &|_, _| ("verified", String::new())).expect("planted");
        assert_eq!((blind.caught(), blind.holds()), (0, false));
        // One that calls everything broken names nothing, and alarms over good files.
        let timid = score(&base, &|_, _| ("broken", String::new())).expect("planted");
        assert_eq!((timid.caught(), timid.false_alarms.len()), (0, 2));
        let nothing = Score { base: "no folder".into(), ..Score::default() };
        assert_eq!(
            (nothing.holds(), &*nothing.misses()[0]),
            (false, "nothing was planted: no folder")
        );
    }

    #[test]
    fn a_fault_has_one_name_and_says_what_must_be_said() {
        let names: BTreeSet<_> = faults::all().map(|fault| (fault.file, fault.name)).collect();
        assert_eq!(names.len(), faults::count());
        assert!(faults::all().all(|fault| !fault.names.is_empty()));
    }
}
