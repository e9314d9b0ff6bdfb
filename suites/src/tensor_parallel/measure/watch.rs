//! `touchstone measure model` under a watchdog: what it measures in is a process of its own, whose stages have a budget.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::child::{End, Redactor};
use harness::record::PROGRESS;
use harness::watchdog::{self, Budgets, Watched, bundle, stacks};
use kernels::{flight, libraries};

use crate::model::hangs;
use crate::{environment, lab, node};

/// The variable that says to the process that measures where its flight record and its stacks lie.
const FOLDER: &str = "TOUCHSTONE_MEASURE_WATCHED";

/// What a pass goes through, each with the same budget; a row of the table has the last three of its own.
const STAGES: [&str; 6] = ["build", "compare", "weights", "tune", "capture", "run"];

/// Of a process that was ended; see the exit codes of a run.
const HUNG: i32 = 3;

/// Reports that a stage begins, where this process is watched.
pub fn stage(name: &str) {
    debug_assert!(STAGES.contains(&name), "{name} has no budget");
    if is_watched() {
        flight::mark(&format!("stage {name}"));
        println!("{PROGRESS}{name}");
    }
}

/// Whether this process is one that is watched.
pub fn is_watched() -> bool {
    std::env::var_os(FOLDER).is_some()
}

/// What this process leaves for a bundle, where it is watched: its flight record, and its stacks if it is ended.
pub fn begin() -> Result<(), String> {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return Ok(()) };
    flight::keep(&folder.join("flight")).map_err(|error| error.to_string())?;
    stacks::write_on_end(folder.join("stacks"))
}

/// Starts this executable again with the same arguments, shows what it prints, and ends it where a stage takes longer
/// than `most`. Returns its exit code, or [`HUNG`] with a bundle.
///
/// Errors: it cannot be started, or a bundle cannot be written.
pub fn watched(root: &Path, most: Duration) -> Result<i32, String> {
    let target = root.join("target");
    let folder = target.join(format!("measure-model-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut command = Command::new(harness::live::own_executable()?);
    command.args(std::env::args_os().skip(1));
    let started = harness::live::Clock::start().started().replace([':', '-'], "");
    let watching = Watching {
        root,
        folder: &folder,
        bundle: target.join("hangs").join(format!("measure-model-{started}")),
        redactor: redactor(root, &folder),
    };
    let code = watching.to_its_end(command, most);
    // What a hang has left stands in its bundle.
    let _ = std::fs::remove_dir_all(&folder);
    code
}

/// A process, and where what it leaves lies.
struct Watching<'a> {
    root: &'a Path,
    /// Its flight record and its stacks.
    folder: &'a Path,
    bundle: PathBuf,
    redactor: Redactor,
}

impl Watching<'_> {
    fn to_its_end(&self, mut command: Command, most: Duration) -> Result<i32, String> {
        command.env(FOLDER, self.folder);
        let stages = STAGES.map(|stage| (stage, most));
        let budgets = Budgets { stages: &stages, patience: Duration::MAX };
        let watched = watchdog::watch_shown(command, &budgets, Box::new(Lines::default().shown()))?;
        let Some(hang) = &watched.hang else { return Ok(code(&watched)) };
        self.write_bundle(&watched)?;
        eprintln!(
            "error: stage {} passed {} s and was ended; what it takes to repeat it lies in {}; {}--stage-budget-s gives \
             more time",
            hang.stage,
            hang.most.as_secs_f64(),
            self.bundle.display(),
            match hang.stage.as_str() {
                "tune" | "capture" => "--exec-mode eager neither tunes nor records, and ",
                _ => "",
            }
        );
        Ok(HUNG)
    }

    fn write_bundle(&self, watched: &Watched) -> Result<(), String> {
        let notes = flight::read(&self.folder.join("flight")).unwrap_or_default();
        let mut command = vec!["touchstone".to_owned()];
        command.extend(harness::live::redacted_command(std::env::args()));
        // What cannot be loaded has no version.
        let _ = lab::load_cublaslt(self.root);
        let account = bundle::Account {
            command,
            environment: environment::of_the_device(),
            versions: versions(),
            stacks: std::fs::read_to_string(self.folder.join("stacks")).unwrap_or_default(),
            flight: notes.iter().map(|(number, what)| format!("{number} {what}")).collect(),
        };
        bundle::write(&self.bundle, watched, &account, &self.redactor)
    }
}

/// What a process prints, line by line, without the lines that are meant for the watchdog.
#[derive(Default)]
struct Lines {
    /// A line that has not ended.
    begun: Vec<u8>,
}

impl Drop for Lines {
    /// What the process printed last may have no end of line.
    fn drop(&mut self) {
        let _ = std::io::stdout().write_all(&self.begun);
    }
}

impl Lines {
    /// Passes them on.
    fn shown(mut self) -> impl FnMut(&[u8]) + Send {
        move |bytes| {
            let mut out = std::io::stdout();
            // A reader that has left is no reason to stop measuring.
            let _ = out.write_all(&self.whole(bytes)).and_then(|()| out.flush());
        }
    }

    /// The lines that end in these bytes.
    fn whole(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.begun.extend_from_slice(bytes);
        let end = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.begun.split_off(end);
        let whole = std::mem::replace(&mut self.begun, rest);
        let lines = whole.split_inclusive(|byte| *byte == b'\n');
        lines.filter(|line| !line.starts_with(PROGRESS.as_bytes())).flatten().copied().collect()
    }
}

/// The exit code of a process that ended by itself; that of a crash is [`HUNG`] too.
fn code(watched: &Watched) -> i32 {
    match &watched.finished.end {
        End::Exited(status) => status.code().unwrap_or(HUNG),
        End::Unkillable | End::Lost(_) => HUNG,
    }
}

fn versions() -> BTreeMap<String, String> {
    let of = |(name, version): (&str, String)| (name.to_owned(), version);
    let mut versions: BTreeMap<String, String> =
        libraries::versions().into_iter().map(of).collect();
    versions.insert("touchstone".into(), hangs::program());
    versions
}

/// What may not stand in a bundle, the UUIDs of all GPUs that NVML finds among it.
fn redactor(root: &Path, folder: &Path) -> Redactor {
    let inventory = node::session().and_then(|session| session.inventory().ok());
    let gpus = inventory.map(|inventory| inventory.gpus).unwrap_or_default();
    let words = gpus.iter().enumerate();
    let words = words.map(|(at, gpu)| (gpu.uuid.clone(), format!("gpu{at}"))).collect();
    hangs::redactor(root, folder, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code of a shell's script whose stages have so many milliseconds, and what its bundle lacks of a hang in
    /// `stage`.
    fn watch(script: &str, millis: u64, stage: &str) -> (i32, Vec<String>) {
        let folder = tempfile::tempdir().expect("folder");
        let watching = Watching {
            root: folder.path(),
            folder: folder.path(),
            bundle: folder.path().join("bundle"),
            redactor: redactor(folder.path(), folder.path()),
        };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let code = watching.to_its_end(command, Duration::from_millis(millis)).expect("watched");
        (code, bundle::missing(&watching.bundle, stage, &watching.redactor))
    }

    #[test]
    fn lines_for_the_watchdog_are_not_shown() {
        let mut lines = Lines::default();
        let mut shown = Vec::new();
        for bytes in ["one\n::prog", "ress run\ntw", "o\n", "::progress x\nthree\n"] {
            shown.extend(lines.whole(bytes.as_bytes()));
        }
        assert_eq!(String::from_utf8_lossy(&shown), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_stage_that_hangs_is_ended_and_leaves_a_bundle() {
        let script = "
            echo '0 mark: stage tune' > $TOUCHSTONE_MEASURE_WATCHED/flight
            printf 'thread 1, sh\n    0: 0x1 - main\n' > $TOUCHSTONE_MEASURE_WATCHED/stacks
            echo '::progress build'; sleep 0.1; echo '::progress tune'; exec sleep 600";
        let (code, missing) = watch(script, 500, "tune");
        let environment = "environment.txt does not say what it should".to_owned();
        assert_eq!(code, HUNG);
        // Where no variable of CUDA is set there is none to name.
        assert!(missing.iter().all(|piece| *piece == environment), "{missing:?}");
    }

    #[test]
    fn what_ends_by_itself_keeps_its_code_and_leaves_nothing() {
        let (code, missing) = watch("echo '::progress run'; exit 2", 60_000, "run");
        assert_eq!((code, missing.len()), (2, 8));
    }
}
