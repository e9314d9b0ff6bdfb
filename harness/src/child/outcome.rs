//! From the end of a child to its part of the evidence.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use super::inside::{ChildResult, Ended, first_bad};
use super::process::{End, Finished, UNKILLABLE, Why, now_utc, signal_name};
use super::redact::Redactor;
use crate::evidence::{Device, Failure, How, Outcome, Part};
use crate::record::Recorder;

/// Most bytes of a log in evidence.
pub const LOG_TAIL_BYTES: usize = 4 * 1024;

/// A larger result is not read: evidence holds 64 KiB.
const RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// What a part says beside what its child left.
#[derive(Debug)]
pub struct Context<'a> {
    /// 1 or 2.
    pub attempt: u32,
    /// The GPUs that it was given.
    pub devices: &'a [Device],
    /// A command that runs this case alone again.
    pub repro: &'a str,
    /// What may not leave the machine.
    pub redactor: &'a Redactor,
}

/// The part of a child that ended; reads its result file.
pub fn part(finished: &Finished, result: &Path, xids: Vec<u64>, context: &Context) -> Part {
    let (outcome, recorder) = judge_end(finished, read_result(result), context);
    let failed = matches!(outcome, Outcome::Failed(_));
    let stage = finished.log.progress().map_or("", |(stage, _)| stage);
    Part {
        started: finished.started.clone(),
        wall_s: finished.wall.as_secs_f64(),
        options: recorder.options,
        versions: recorder.versions,
        modes: recorder.modes,
        kernels: recorder.kernels,
        metrics: recorder.metrics,
        controls: recorder.controls,
        telemetry: recorder.telemetry,
        xids,
        progress: context.redactor.apply(stage),
        log_tail: match failed {
            true => finished.log.excerpt(LOG_TAIL_BYTES, context.redactor),
            false => String::new(),
        },
        ..unrun(outcome, context)
    }
}

/// The part of a child that never ran.
pub fn unrun(outcome: Outcome, context: &Context) -> Part {
    let say = |text: &str| context.redactor.apply(text);
    let outcome = match outcome {
        Outcome::Completed => Outcome::Completed,
        Outcome::NotRun(reason) => Outcome::NotRun(say(&reason)),
        Outcome::NotApplicable(reason) => Outcome::NotApplicable(say(&reason)),
        Outcome::Failed(failure) => Outcome::Failed(Failure {
            detail: say(&failure.detail),
            repro: say(&failure.repro),
            ..failure
        }),
    };
    Part {
        attempt: context.attempt,
        devices: context.devices.to_vec(),
        started: now_utc(),
        wall_s: 0.0,
        outcome,
        options: Default::default(),
        versions: Default::default(),
        modes: Vec::new(),
        kernels: Vec::new(),
        metrics: Vec::new(),
        controls: Vec::new(),
        telemetry: Vec::new(),
        xids: Vec::new(),
        progress: String::new(),
        log_tail: String::new(),
    }
}

/// An outcome in a word: the kind of failure where it failed.
pub fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::NotRun(_) => "not-run",
        Outcome::NotApplicable(_) => "not-applicable",
        Outcome::Failed(failure) => match failure.how {
            How::Error => "error",
            How::Crash => "crash",
            How::Hang => "hang",
            How::Killed => "killed",
            How::NoResult => "no-result",
            How::NotStarted => "not-started",
            How::Interrupted => "interrupted",
            How::Quarantined => "quarantined",
        },
    }
}

/// A result that is there and whole; `None` if there is none; why it cannot be used.
fn read_result(file: &Path) -> Result<Option<ChildResult>, String> {
    let length = match fs::metadata(file) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("its result cannot be read: {error}")),
    };
    if length > RESULT_BYTES {
        return Err(format!("its result has {length} bytes, more than {RESULT_BYTES}"));
    }
    let bytes = fs::read(file).map_err(|e| format!("its result cannot be read: {e}"))?;
    let result: ChildResult = serde_json::from_slice(&bytes)
        .map_err(|e| format!("its result of {length} bytes is no result: {e}"))?;
    match (&result.outcome, first_bad(&result.recorder)) {
        (_, Some(bad)) => Err(format!("its result is refused: {bad}")),
        (_, None) => Ok(Some(result)),
    }
}

type Found = Result<Option<ChildResult>, String>;

fn judge_end(finished: &Finished, found: Found, context: &Context) -> (Outcome, Recorder) {
    let wall_s = finished.wall.as_secs_f64();
    let failed = |how, detail: String| {
        Outcome::Failed(Failure { how, detail, repro: context.repro.to_owned() })
    };
    let written = match &found {
        Ok(Some(_)) => "after its result was written",
        _ => "without a result",
    };
    let outcome = match (&finished.end, finished.why) {
        (End::Unkillable, why) => failed(
            if why == Some(Why::Interrupt) { How::Interrupted } else { How::Hang },
            format!(
                "cannot be killed: still there {} s after SIGKILL, {wall_s:.1} s after its start; {}",
                UNKILLABLE.as_secs(),
                stage_text(finished)
            ),
        ),
        (End::Lost(error), _) => failed(How::Crash, format!("its exit status is lost: {error}")),
        (End::Exited(status), Some(Why::Interrupt)) if !status.success() => failed(
            How::Interrupted,
            format!("interrupted after {wall_s:.1} s; {}", stage_text(finished)),
        ),
        (End::Exited(status), Some(Why::Deadline)) => failed(
            How::Hang,
            format!(
                "passed its deadline of {:.1} s, {}, ended after {wall_s:.1} s {written}; {}",
                finished.deadline.as_secs_f64(),
                ended_by(status),
                stage_text(finished)
            ),
        ),
        (End::Exited(status), _) => return judge_exit(status, wall_s, written, found, &failed),
    };
    (outcome, recorder_of(found))
}

/// The child ended by itself, or by somebody who is not its parent.
fn judge_exit(
    status: &ExitStatus,
    wall_s: f64,
    written: &str,
    found: Found,
    failed: &dyn Fn(How, String) -> Outcome,
) -> (Outcome, Recorder) {
    let outcome = match (signal_name(status), &found) {
        (Some(name), _) if is_from_outside(status) => failed(
            How::Killed,
            format!(
                "{name} from outside after {wall_s:.1} s {written}, \
                 for example by the OOM killer or an operator"
            ),
        ),
        (Some(name), _) => {
            failed(How::Crash, format!("crashed with {name} after {wall_s:.1} s {written}"))
        }
        (None, Ok(Some(ChildResult { outcome: Ended::Error(error), .. }))) => {
            failed(How::Error, error.clone())
        }
        (None, _) if !status.success() => {
            let code = status.code().unwrap_or_default();
            failed(How::Crash, format!("exited with {code} after {wall_s:.1} s {written}"))
        }
        (None, Ok(None)) => {
            failed(How::NoResult, format!("exited with 0 after {wall_s:.1} s {written}"))
        }
        (None, Err(error)) => failed(How::NoResult, error.clone()),
        (None, Ok(Some(result))) => match &result.outcome {
            Ended::Completed => Outcome::Completed,
            Ended::NotRun(reason) => Outcome::NotRun(reason.clone()),
            Ended::NotApplicable(reason) => Outcome::NotApplicable(reason.clone()),
            Ended::Error(error) => failed(How::Error, error.clone()),
        },
    };
    (outcome, recorder_of(found))
}

fn recorder_of(found: Found) -> Recorder {
    found.ok().flatten().map(|result| result.recorder).unwrap_or_default()
}

/// Signals that a program does not raise by a mistake of its own.
fn is_from_outside(status: &ExitStatus) -> bool {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM};
    status.signal().is_some_and(|raw| [SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM].contains(&raw))
}

fn ended_by(status: &ExitStatus) -> String {
    match signal_name(status) {
        Some(name) => format!("was ended by {name}"),
        None => format!("exited with {} when asked to end", status.code().unwrap_or_default()),
    }
}

fn stage_text(finished: &Finished) -> String {
    match (finished.log.progress(), finished.silent) {
        (Some((stage, _)), Some(silent)) => {
            format!("its last progress was `{stage}`, {:.1} s before its end", silent.as_secs_f64())
        }
        _ => "it reported no progress".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn finished(end: End, why: Option<Why>) -> Finished {
        let mut log = super::super::Log::default();
        log.push(b"::progress warm up\n", Instant::now());
        Finished {
            end,
            why,
            deadline: Duration::from_secs(3),
            started: "2026-01-01T00:00:00Z".into(),
            wall: Duration::from_millis(3100),
            log,
            silent: Some(Duration::from_millis(1500)),
        }
    }

    fn result(outcome: Ended) -> Found {
        Ok(Some(ChildResult { outcome, recorder: Recorder::default() }))
    }

    #[track_caller]
    fn check(raw: i32, why: Option<Why>, found: Found, expect_word: &str, expect: &str) {
        check_end(End::Exited(ExitStatus::from_raw(raw)), why, found, expect_word, expect);
    }

    #[track_caller]
    fn check_end(end: End, why: Option<Why>, found: Found, expect_word: &str, expect: &str) {
        let redactor = Redactor::default();
        let context = Context { attempt: 1, devices: &[], repro: "again", redactor: &redactor };
        let (outcome, _) = judge_end(&finished(end, why), found, &context);
        let detail = match &outcome {
            Outcome::Failed(failure) => failure.detail.as_str(),
            Outcome::NotRun(reason) | Outcome::NotApplicable(reason) => reason,
            Outcome::Completed => "",
        };
        assert_eq!((word(&outcome), detail), (expect_word, expect));
    }

    #[test]
    fn an_end_by_itself_is_what_the_result_says() {
        check(0, None, result(Ended::Completed), "completed", "");
        check(0, None, result(Ended::NotRun("no NCCL".into())), "not-run", "no NCCL");
        check(0, None, result(Ended::NotApplicable("sm_90".into())), "not-applicable", "sm_90");
        check(0, None, result(Ended::Error("no memory".into())), "error", "no memory");
        check(1 << 8, None, result(Ended::Error("no memory".into())), "error", "no memory");
        check(0, None, Ok(None), "no-result", "exited with 0 after 3.1 s without a result");
        check(0, None, Err("half".into()), "no-result", "half");
    }

    #[test]
    fn a_crash_is_never_taken_for_its_result() {
        check(3 << 8, None, Ok(None), "crash", "exited with 3 after 3.1 s without a result");
        let teardown = "crashed with SIGSEGV after 3.1 s after its result was written";
        check(11, None, result(Ended::Completed), "crash", teardown);
        let exit = "exited with 1 after 3.1 s after its result was written";
        check(1 << 8, None, result(Ended::Completed), "crash", exit);
        let lost = End::Lost("no child".into());
        check_end(lost, None, Ok(None), "crash", "its exit status is lost: no child");
    }

    #[test]
    fn a_hang_says_how_far_it_came() {
        let stage = "its last progress was `warm up`, 1.5 s before its end";
        let hang = format!(
            "passed its deadline of 3.0 s, was ended by SIGKILL, \
             ended after 3.1 s without a result; {stage}"
        );
        check(9, Some(Why::Deadline), Ok(None), "hang", &hang);
        let stuck = format!(
            "cannot be killed: still there 5 s after SIGKILL, 3.1 s after its start; {stage}"
        );
        check_end(End::Unkillable, Some(Why::Deadline), Ok(None), "hang", &stuck);
    }

    #[test]
    fn an_interrupted_child_that_finished_all_the_same_is_kept() {
        check(0, Some(Why::Interrupt), result(Ended::Completed), "completed", "");
        let stage = "its last progress was `warm up`, 1.5 s before its end";
        let interrupted = format!("interrupted after 3.1 s; {stage}");
        check(15, Some(Why::Interrupt), Ok(None), "interrupted", &interrupted);
    }
}
