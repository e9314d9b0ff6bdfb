//! The parent's side: a child in its own process group that ends on time, with all it started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::log::Log;
use crate::record::Assignment;

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// Time after SIGKILL when a child counts as one that cannot be killed.
pub const UNKILLABLE: Duration = Duration::from_secs(5);

/// How long the end of the log is waited for once the group was killed. Only a process that left
/// the group can keep the pipe open longer.
const LOG_END: Duration = Duration::from_millis(250);

/// What a child is started with.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Program and first arguments; the assignment's file becomes the last argument.
    pub command: &'a [OsString],
    /// What it is given.
    pub assignment: &'a Assignment,
    /// Where the assignment is written.
    pub file: &'a Path,
    /// Variables besides the inherited ones.
    pub environment: &'a BTreeMap<String, String>,
    /// Wall time after which it is ended as hung.
    pub deadline: Duration,
}

/// Why a child was ended by its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It passed its deadline.
    Deadline,
    /// The operator interrupted the run.
    Interrupt,
}

/// How a child ended, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was reaped.
    Exited(ExitStatus),
    /// It was still there [`UNKILLABLE`] after SIGKILL.
    Unkillable,
    /// It is gone, but its status could not be had.
    Lost(String),
}

/// A child that ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How.
    pub end: End,
    /// Set if its parent ended it.
    pub why: Option<Why>,
    /// Its deadline.
    pub deadline: Duration,
    /// UTC, RFC 3339.
    pub started: String,
    /// Wall time, by a monotonic clock.
    pub wall: Duration,
    /// What it printed.
    pub log: Log,
    /// Time from its last progress line to its end; none where it reported none.
    pub silent: Option<Duration>,
}

/// A child that runs.
#[derive(Debug)]
pub struct Process {
    child: std::process::Child,
    group: Pid,
    started: Instant,
    started_utc: String,
    deadline: Duration,
    log: Arc<Mutex<Log>>,
    log_end: Receiver<()>,
    ending: Option<Ending>,
    gone: Option<(End, Instant)>,
}

#[derive(Debug)]
struct Ending {
    why: Why,
    since: Instant,
    killed: Option<Instant>,
}

/// Starts a child. It dies with the calling thread, which therefore must outlive it.
pub fn spawn(launch: &Launch) -> Result<Process, String> {
    let text = serde_json::to_string(launch.assignment).map_err(|e| e.to_string())?;
    fs::write(launch.file, text).map_err(|e| format!("assignment cannot be written: {e}"))?;
    start(command_of(launch)?, launch.deadline)
}

/// Starts a command in a process group of its own, without input, with one log for all that it prints. It dies
/// with the calling thread, which therefore must outlive it.
pub fn start(command: Command, deadline: Duration) -> Result<Process, String> {
    start_shown(command, deadline, Box::new(|_| {}))
}

/// What is given the bytes that a process prints, as they come.
pub type Show = Box<dyn FnMut(&[u8]) + Send>;

/// The same, where what it prints is also given to `show`.
pub fn start_shown(
    mut command: Command,
    deadline: Duration,
    show: Show,
) -> Result<Process, String> {
    let (reader, writer) = io::pipe().map_err(|e| format!("no pipe: {e}"))?;
    let second = writer.try_clone().map_err(|e| format!("no pipe: {e}"))?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    lead_a_group(&mut command);
    let spawned = command.spawn();
    // The command holds the writing end: it must be gone before the log can end.
    drop(command);
    let mut child = spawned.map_err(|e| format!("could not be started: {e}"))?;
    let started = Instant::now();
    let log = Arc::new(Mutex::new(Log::default()));
    let (sender, log_end) = channel();
    let shared = Arc::clone(&log);
    let thread = std::thread::Builder::new().name("child log".into());
    if let Err(error) = thread.spawn(move || read_log(reader, (&shared, show), &sender)) {
        // It has not been reaped, so these can only fail on a child that is already dead.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("no thread for its log: {error}"));
    }
    Ok(Process {
        group: Pid::from_child(&child),
        child,
        started,
        started_utc: now_utc(),
        deadline,
        log,
        log_end,
        ending: None,
        gone: None,
    })
}

/// Now in UTC, RFC 3339, to the second.
pub(super) fn now_utc() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn command_of(launch: &Launch) -> Result<Command, String> {
    let (program, arguments) = launch.command.split_first().ok_or("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).arg(launch.file);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOUCHSTONE_") {
            command.env_remove(name);
        }
    }
    let uuids: Vec<&str> = launch.assignment.devices.iter().map(|d| d.uuid.as_str()).collect();
    command
        .envs(launch.environment)
        .env("CUDA_VISIBLE_DEVICES", uuids.join(","))
        .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        .env("NCCL_NVLS_ENABLE", "0");
    Ok(command)
}

/// The child leads a process group and dies with the thread that starts it.
fn lead_a_group(command: &mut Command) {
    command.process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only prctl and getppid are called, which are async-signal-safe;
    // the closure captures one integer and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above took effect.
            match rustix::process::getppid() {
                Some(pid) if pid == parent => Ok(()),
                _ => Err(rustix::io::Errno::SRCH.into()),
            }
        });
    }
}

/// Reads to the end, so that a child never blocks on its log.
fn read_log(mut reader: PipeReader, (log, mut show): (&Mutex<Log>, Show), end: &Sender<()>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                show(&buffer[..count]);
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push(&buffer[..count], Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Nobody may be waiting any more.
    let _ = end.send(());
}

impl Process {
    /// Process id of the child, which is that of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Wall time so far.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last stage that it reported.
    pub fn progress(&self) -> Option<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.progress().map(|(stage, _)| stage.to_owned())
    }

    /// The last stage that it reported, and since when it is in it; none before its first report.
    pub fn stage(&self) -> Option<(String, Instant)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.progress().map(|(stage, since)| (stage.to_owned(), since))
    }

    /// Asks the group to end: SIGTERM now, SIGKILL after [`GRACE`]. The first reason stays.
    pub fn end(&mut self, why: Why) {
        if self.ending.is_none() {
            self.ending = Some(Ending { why, since: Instant::now(), killed: None });
            self.signal(Signal::TERM);
        }
    }

    /// Ends the group without grace.
    pub fn end_now(&mut self, why: Why) {
        self.end(why);
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(ending) = self.ending.as_mut().filter(|ending| ending.killed.is_none()) {
            ending.killed = Some(Instant::now());
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        // Called only before the child is reaped, so that its id cannot be another group's. The
        // one error, that nobody is left in the group, is what was wanted.
        if self.gone.is_none() {
            let _ = rustix::process::kill_process_group(self.group, signal);
        }
    }

    /// Looks once, without waiting: returns the end of the child as soon as there is one. Must be
    /// called every few milliseconds; it is what enforces deadline and grace.
    pub fn poll(&mut self) -> Option<Finished> {
        if self.gone.is_none() {
            self.gone = self.reap().map(|end| (end, Instant::now()));
        }
        if let Some((end, at)) = self.gone.clone() {
            return self.is_log_over(at, &end).then(|| self.finished(end, at));
        }
        let now = Instant::now();
        match &self.ending {
            None if now - self.started > self.deadline => self.end(Why::Deadline),
            Some(Ending { killed: None, since, .. }) if now - *since > GRACE => self.kill(),
            Some(Ending { killed: Some(at), .. }) if now - *at > UNKILLABLE => {
                self.gone = Some((End::Unkillable, now));
            }
            _ => {}
        }
        None
    }

    /// Reaps the child if it has exited; first kills what it left behind in its group.
    fn reap(&mut self) -> Option<End> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(self.group), options) {
            Ok(None) | Err(rustix::io::Errno::INTR) => None,
            Ok(Some(_)) => {
                // Not reaped yet: its id, and so the group's, cannot have been given away.
                self.signal(Signal::KILL);
                Some(match self.child.wait() {
                    Ok(status) => End::Exited(status),
                    Err(error) => End::Lost(error.to_string()),
                })
            }
            Err(error) => Some(End::Lost(error.to_string())),
        }
    }

    fn is_log_over(&self, gone_at: Instant, end: &End) -> bool {
        let ended = match self.log_end.recv_timeout(Duration::ZERO) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        };
        ended || *end == End::Unkillable || gone_at.elapsed() > LOG_END
    }

    fn finished(&self, end: End, at: Instant) -> Finished {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let silent = log.progress().map(|(_, reported)| at.saturating_duration_since(reported));
        Finished {
            end,
            why: self.ending.as_ref().map(|ending| ending.why),
            deadline: self.deadline,
            started: self.started_utc.clone(),
            wall: at - self.started,
            log,
            silent,
        }
    }
}

/// The name of a signal, or its number.
pub(super) fn signal_name(status: &ExitStatus) -> Option<String> {
    let raw = status.signal()?;
    let known = signal_hook::low_level::signal_name(raw);
    Some(known.map_or_else(|| format!("signal {raw}"), str::to_owned))
}
