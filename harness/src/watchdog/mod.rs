//! A watchdog over the stages of one process: what passes its stage's budget is ended with all that it started,
//! and leaves a bundle from which the hang can be looked into and repeated.
//!
//! A process reports its stages as its progress ([`crate::record::PROGRESS`]). A stage begins when its line is
//! read, and lasts until one of another name or the end: to report it again gains no time. What the process waits
//! for is read before it is ended.

pub mod bundle;
pub mod stacks;
pub mod threads;

use std::process::Command;
use std::time::{Duration, Instant};

use crate::child::{self, Finished, Process, Why};

pub use threads::Thread;

/// What a process is in before it reports a stage.
pub const START: &str = "start";

/// Time between two looks at a process.
const PAUSE: Duration = Duration::from_millis(5);

/// How long the stages of a process may take.
#[derive(Debug, Clone, Copy)]
pub struct Budgets<'a> {
    /// The longest that a stage may take, by its name; a stage that is not named has only the patience.
    pub stages: &'a [(&'a str, Duration)],
    /// The longest that all of them together may take.
    pub patience: Duration,
}

impl Budgets<'_> {
    /// The longest that a stage may take, if it has a budget.
    pub fn of(&self, stage: &str) -> Option<Duration> {
        self.stages.iter().find(|(name, _)| *name == stage).map(|(_, most)| *most)
    }
}

/// A process that was ended, as it was right before.
#[derive(Debug, Clone, PartialEq)]
pub struct Hang {
    /// The stage that it was in.
    pub stage: String,
    /// What it passed: the stage's budget, or the patience where the stage has none or that ended first.
    pub most: Duration,
    /// Time in the stage.
    pub after: Duration,
    /// Every thread of its process group.
    pub threads: Vec<Thread>,
}

/// A process that is gone.
#[derive(Debug)]
pub struct Watched {
    /// Set where it was ended, and not where it ended by itself.
    pub hang: Option<Hang>,
    /// Its stages in order, and how long it was in each. A stage shorter than a few milliseconds may be missing.
    pub stages: Vec<(String, Duration)>,
    /// How it ended, and what it printed.
    pub finished: Finished,
    /// Processes of its group that are still there.
    pub left: usize,
}

/// Starts a command and watches it to its end.
///
/// Errors: it cannot be started.
pub fn watch(command: Command, budgets: &Budgets) -> Result<Watched, String> {
    watch_shown(command, budgets, Box::new(|_| {}))
}

/// The same, where what the process prints is also given to `show`.
pub fn watch_shown(
    command: Command,
    budgets: &Budgets,
    show: child::Show,
) -> Result<Watched, String> {
    // Stages and patience are held here, where threads are read first.
    let mut process = child::start_shown(command, Duration::MAX, show)?;
    let (group, begun) = (process.pid(), Instant::now());
    let mut stages = vec![(START.to_owned(), begun)];
    let mut hang = None;
    let finished = loop {
        if let Some(finished) = process.poll() {
            break finished;
        }
        if hang.is_none()
            && let Some((stage, since)) = process.stage()
            && stages.last().is_some_and(|(last, _)| *last != stage)
        {
            stages.push((stage, since));
        }
        if hang.is_none() {
            hang = passed(&stages, begun, budgets).map(|passed| end(&mut process, passed));
        }
        std::thread::sleep(PAUSE);
    };
    let left = threads::processes(group).len();
    Ok(Watched { hang, stages: durations(&stages), finished, left })
}

/// The stage and what it passed, if it passed anything.
fn passed(
    stages: &[(String, Instant)],
    begun: Instant,
    budgets: &Budgets,
) -> Option<(String, Duration, Instant)> {
    let (stage, since) = stages.last()?;
    let of_stage = budgets.of(stage).filter(|most| since.elapsed() > *most);
    let of_all = Some(budgets.patience).filter(|most| begun.elapsed() > *most);
    Some((stage.clone(), of_stage.or(of_all)?, *since))
}

/// Reads what the process waits for, and asks it to end; what does not listen is killed.
fn end(process: &mut Process, (stage, most, since): (String, Duration, Instant)) -> Hang {
    let after = since.elapsed();
    let threads = threads::of_group(process.pid());
    process.end(Why::Deadline);
    Hang { stage, most, after, threads }
}

fn durations(stages: &[(String, Instant)]) -> Vec<(String, Duration)> {
    let ends = stages.iter().skip(1).map(|(_, since)| *since).chain([Instant::now()]);
    let last = |((stage, since), end): (&(String, Instant), Instant)| {
        (stage.clone(), end.saturating_duration_since(*since))
    };
    stages.iter().zip(ends).map(last).collect()
}

impl Watched {
    /// Time from the end of the budget that was passed to the end of the process; none where none was passed.
    pub fn late(&self) -> Option<Duration> {
        let hang = self.hang.as_ref()?;
        let (_, in_stage) = self.stages.last()?;
        Some(in_stage.saturating_sub(hang.most))
    }

    /// The rest of the first line that it printed behind `name` and a space.
    pub fn said(&self, name: &str) -> Option<String> {
        let log = self.finished.log.excerpt(bundle::LOG_BYTES, &child::Redactor::default());
        let line = log.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::to_owned)
    }
}

#[cfg(test)]
mod tests;
