//! `touchstone watch CONFIG`: measures on a schedule, archives each run with its time stamp, keeps
//! a history of one line a run, and alerts when a golden breaks or a trend does.
//!
//! - `history.jsonl` is only appended to. A round that left no run has a line, too.
//! - A golden breaks when the judge says so of the run's own evidence. A trend breaks as [`trend`]
//!   says, while every single run may still be good.

pub mod command;
mod config;
mod history;
pub mod trend;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::claim::{Claim, GpuCount, Relation};
use crate::files;
use crate::golden::Goldens;
use crate::judge::Verdict;
use crate::recorded::{self, FinishedRun};
use crate::report::{message, word};
use crate::world::World;

pub use config::Config;
pub use history::{Entry, FILE as HISTORY, Figure};

/// Exit code of a round in which a trend broke and nothing else.
const TREND: i32 = 1;

/// What keeps a watch from going on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The configuration is wrong.
    #[error("{file}: {what}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// A line of the history is none.
    #[error("{file}:{line}: {what}")]
    History {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("{0}")]
    File(String),
    /// The run could not be started.
    #[error("the run was not started: {0}")]
    NotStarted(String),
    /// The command of the alert could not be started, or failed.
    #[error("the alert's command {command:?} {what}")]
    Alert {
        /// Its program.
        command: String,
        /// What happened.
        what: String,
    },
}

/// Starts a run with these options of the hardware run, and returns its exit code.
pub type Measure<'a> = dyn Fn(&[String]) -> Result<i32, WatchError> + 'a;

/// What one round came to.
#[derive(Debug)]
pub struct Round {
    /// The line that was appended.
    pub entry: Entry,
    /// The run's own exit code, or 1 where only a trend broke.
    pub status: i32,
}

/// Measures once, archives, judges, appends, alerts.
pub fn round(
    world: &World,
    config: &Config,
    measure: &Measure,
    now: jiff::Timestamp,
) -> Result<Round, WatchError> {
    std::fs::create_dir_all(&config.archive)
        .map_err(|error| WatchError::File(format!("{}: {error}", config.archive.display())))?;
    let past = history::load(&config.archive)?;
    let out = config.archive.join(format!("running-{}", std::process::id()));
    let exit_code = measure(&config.arguments(&out))?;
    let folder = run_folder(&out);
    let mut entry = match &folder {
        Some(folder) => of_run(world, config, folder)?,
        None => Entry::without_run(now),
    };
    entry.exit_code = exit_code;
    let goldens = world.goldens().map_err(WatchError::File)?;
    entry.alerts = alerts(world, &goldens, config, &past, &entry);
    history::append(&config.archive, &entry)?;
    // What is archived is not needed a second time.
    let _ = std::fs::remove_dir_all(&out);
    let status = match exit_code {
        0 if !entry.alerts.is_empty() => TREND,
        code => code,
    };
    if let Some(command) = config.alert.as_ref().filter(|_| !entry.alerts.is_empty()) {
        alert(&command.command, &entry)?;
    }
    Ok(Round { entry, status })
}

/// The one run that was left in a folder.
fn run_folder(out: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(out).ok()?.flatten().map(|entry| entry.path());
    folders.into_iter().find(|folder| folder.join("run.json").is_file())
}

/// Archives a run and takes its figures down.
fn of_run(world: &World, config: &Config, folder: &Path) -> Result<Entry, WatchError> {
    let finished = recorded::open(folder).map_err(WatchError::File)?;
    let archive = format!("{}.tar", finished.run.run);
    files::archive(folder, &finished.run.run, &config.archive.join(&archive))
        .map_err(WatchError::File)?;
    let goldens = world.goldens().map_err(WatchError::File)?;
    Ok(Entry {
        schema: history::SCHEMA,
        started: finished.run.started.clone(),
        run: Some(finished.run.run.clone()),
        run_sha256: Some(finished.sha256.clone()),
        archive: Some(archive),
        board: finished.run.board.clone(),
        gpus: finished.run.devices.len() as u32,
        versions: (*finished.run.versions).clone(),
        exit_code: 0,
        figures: figures(world, &goldens, &finished).map_err(WatchError::File)?,
        alerts: Vec::new(),
    })
}

/// Every claim that the run has evidence of, judged.
fn figures(
    world: &World,
    goldens: &Goldens,
    finished: &FinishedRun,
) -> Result<Vec<Figure>, String> {
    let held = |claim: &&&'static Claim| {
        claim.gpus != GpuCount::Host
            && finished.run.cases.iter().any(|entry| entry.case == claim.case)
    };
    let claims: Vec<&'static Claim> = world.claims.iter().filter(held).copied().collect();
    let runs = std::slice::from_ref(finished);
    let judged = world.judge_recorded(&claims, runs, &finished.run.board, goldens)?;
    let figures = judged.into_iter().map(|judgement| {
        let claim = judgement.claim;
        let revision = world.case_of(claim)?.revision;
        let explained = matches!(
            judgement.verdict,
            Verdict::Verified | Verdict::NotRun { .. } | Verdict::NotApplicable
        );
        Ok(Figure {
            claim: claim.id.to_owned(),
            revision,
            verdict: word(judgement.verdict).to_owned(),
            why: if explained { String::new() } else { message(&judgement) },
            value: judgement.measured.as_ref().map(|measured| measured.value),
            gpus: judgement.measured.map(|measured| measured.gpus).unwrap_or_default(),
        })
    });
    figures.collect()
}

/// A line for each golden that broke, each trend that did, and a run that failed otherwise.
fn alerts(
    world: &World,
    goldens: &Goldens,
    config: &Config,
    past: &[Entry],
    entry: &Entry,
) -> Vec<String> {
    let bad = entry.figures.iter().filter(|figure| !figure.why.is_empty());
    let mut alerts: Vec<String> = bad
        .map(|figure| format!("{} {}: {}", figure.claim, figure.verdict.to_uppercase(), figure.why))
        .collect();
    if alerts.is_empty() && entry.exit_code != 0 {
        let run = entry.run.as_deref().unwrap_or("no run was left");
        alerts.push(format!("the run ended with exit code {}: {run}", entry.exit_code));
    }
    let golden = goldens.boards.get(&entry.board);
    for claim in world.claims.iter().filter(|claim| is_ordered(claim)) {
        let bound = golden.and_then(|golden| golden.bound(claim.id, claim.figure()));
        let Some(bound) = bound else { continue };
        let values = history::values(past, entry, claim.id);
        if let Some(broken) = trend::broken(claim.relation, bound, &values, config.trend.runs) {
            alerts.push(format!("{} TREND: {}", claim.id, broken.words(claim.unit())));
        }
    }
    alerts
}

fn is_ordered(claim: &Claim) -> bool {
    matches!(claim.relation, Relation::AtLeast | Relation::AtMost)
}

/// Hands the alert's lines to the user's command, on its standard input.
fn alert(command: &[String], entry: &Entry) -> Result<(), WatchError> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let failed = |what: String| WatchError::Alert { command: program.clone(), what };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("was not started: {error}")))?;
    let text = entry.alerts.iter().map(|line| format!("{line}\n")).collect::<String>();
    if let Some(mut input) = child.stdin.take() {
        // A command that reads nothing closes its end, and is none the worse for it.
        let _ = input.write_all(text.as_bytes());
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("failed: {status}"))),
    }
}
