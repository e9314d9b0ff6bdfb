//! The child's side: read the assignment, run the case, leave one result file.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::evidence::Metric;
use crate::record::{Assignment, Recorder, Stop};

/// What a child leaves for its parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildResult {
    /// How the procedure ended.
    pub outcome: Ended,
    /// What it had recorded by then; only metrics that pass [`Metric::check`].
    pub recorder: Recorder,
}

/// How a procedure ended, as its own process saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ended {
    /// It measured everything.
    Completed,
    /// It cannot run here.
    NotRun(String),
    /// This board cannot have it.
    NotApplicable(String),
    /// It failed, panicked, or recorded something that is no number.
    Error(String),
}

/// Runs the case of the assignment and writes the result beside a rename. Returns the exit status:
/// 0 once a result is written, whatever it says; 2 if the assignment cannot be read; 1 if the
/// result cannot be written.
pub fn main(assignment_file: &Path, cases: &[&'static Case]) -> i32 {
    let assignment = match read(assignment_file) {
        Ok(assignment) => assignment,
        Err(error) => {
            eprintln!("assignment cannot be read: {error}");
            return 2;
        }
    };
    let result = measure(&assignment, cases);
    match write(&assignment.result, &result) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("result cannot be written: {error}");
            1
        }
    }
}

fn read(file: &Path) -> Result<Assignment, String> {
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

fn measure(assignment: &Assignment, cases: &[&'static Case]) -> ChildResult {
    let mut recorder = Recorder::default();
    let Some(case) = cases.iter().find(|case| case.id == assignment.case) else {
        let error = format!("this executable has no case {}", assignment.case);
        return ChildResult { outcome: Ended::Error(error), recorder };
    };
    // The recorder is only read after a panic: it holds whole series or none.
    let ran = catch_unwind(AssertUnwindSafe(|| (case.run)(assignment, &mut recorder)));
    let outcome = match ran {
        Ok(Ok(())) => Ended::Completed,
        Ok(Err(Stop::NotRun(reason))) => Ended::NotRun(reason),
        Ok(Err(Stop::NotApplicable(reason))) => Ended::NotApplicable(reason),
        Ok(Err(Stop::Error(error))) => Ended::Error(error),
        Err(payload) => Ended::Error(format!("panicked: {}", panic_message(&*payload))),
    };
    refuse_bad_metrics(ChildResult { outcome, recorder })
}

/// A metric that is no number turns the result into an error that names it. JSON would carry NaN
/// as null, which nobody could tell from a cut file.
fn refuse_bad_metrics(mut result: ChildResult) -> ChildResult {
    let bad = first_bad(&result.recorder);
    if let Some(bad) = bad {
        let is_good = |metric: &Metric| metric.check().is_ok();
        result.recorder.metrics.retain(is_good);
        for control in &mut result.recorder.controls {
            control.metrics.retain(is_good);
        }
        result.outcome = match result.outcome {
            Ended::Error(first) => Ended::Error(format!("{first}; besides, {bad}")),
            _ => Ended::Error(bad),
        };
    }
    result
}

/// The first mistake among the metrics of the case and of its controls.
pub(super) fn first_bad(recorder: &Recorder) -> Option<String> {
    let plain = recorder.metrics.iter().find_map(|metric| metric.check().err());
    plain.or_else(|| {
        recorder.controls.iter().find_map(|control| {
            let bad = control.metrics.iter().find_map(|metric| metric.check().err())?;
            Some(format!("control {}: {bad}", control.name))
        })
    })
}

fn write(file: &Path, result: &ChildResult) -> Result<(), String> {
    let text = serde_json::to_string(result).map_err(|e| e.to_string())?;
    let temporary = file.with_extension("part");
    fs::write(&temporary, text).map_err(|e| e.to_string())?;
    fs::rename(&temporary, file).map_err(|e| e.to_string())
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(outcome: Ended, metrics: Vec<Metric>, expect: Ended, left: usize) {
        let recorder = Recorder { metrics, ..Recorder::default() };
        let result = refuse_bad_metrics(ChildResult { outcome, recorder });
        assert_eq!(result.outcome, expect);
        assert_eq!(result.recorder.metrics.len(), left);
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<ChildResult>(&text).unwrap(), result);
    }

    fn sampled(name: &str, values: &[f64]) -> Metric {
        Metric::sampled(name, &[], &[], values.to_vec())
    }

    #[test]
    fn numbers_pass() {
        check(Ended::Completed, vec![sampled("read_gbps", &[1.5])], Ended::Completed, 1);
    }

    #[test]
    fn what_is_no_number_is_an_error_that_names_the_metric() {
        let error = |text: &str| Ended::Error(text.to_owned());
        let good = || sampled("read_gbps", &[1.0]);
        for (bad, expect) in [
            (sampled("copy_gbps", &[1.0, f64::NAN]), "metric copy_gbps holds NaN"),
            (sampled("copy_gbps", &[f64::INFINITY]), "metric copy_gbps holds inf"),
            (sampled("copy_gbps", &[]), "metric copy_gbps has no values"),
            (sampled("copy_speed", &[1.0]), "metric copy_speed names no unit"),
        ] {
            check(Ended::Completed, vec![good(), bad], error(expect), 1);
        }
    }

    #[test]
    fn an_error_is_kept_beside_a_bad_metric() {
        let expect = Ended::Error("no memory; besides, metric copy_gbps holds NaN".to_owned());
        let bad = vec![sampled("copy_gbps", &[f64::NAN])];
        check(Ended::Error("no memory".to_owned()), bad, expect, 0);
    }

    #[test]
    fn the_metric_of_a_control_is_named_with_it() {
        let mut recorder = Recorder::default();
        recorder.control("late-flag", sampled("copy_gbps", &[f64::NAN]));
        let expect = Some("control late-flag: metric copy_gbps holds NaN".to_owned());
        assert_eq!(first_bad(&recorder), expect);
    }
}
