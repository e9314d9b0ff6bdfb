//! The rules of the scheduler that need no state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::queue::Job;
use super::{Left, Planned, Settings};
use crate::case::{Case, Scope};
use crate::child::Redactor;
use crate::evidence::{How, Outcome, Part};
use crate::node::{Node, NodeGpu};

pub(super) fn left_of(case: &Case, gpus: Vec<u32>, attempt: u32, elapsed_s: Option<f64>) -> Left {
    Left {
        scope: case.scope,
        gpus,
        expected_s: case.expected_s * f64::from(attempt),
        deadline_s: case.deadline_s * f64::from(attempt),
        elapsed_s,
    }
}

/// The folder for work, and the environment that all children share.
pub(super) fn prepare(
    node: &dyn Node,
    settings: &Settings,
    work: &Path,
) -> Result<BTreeMap<String, String>, String> {
    fs::create_dir_all(work).map_err(|e| format!("work folder cannot be made: {e}"))?;
    let mut environment = node.child_environment(work)?;
    environment.extend(settings.environment.clone());
    Ok(environment)
}

pub(super) fn redactor_of(settings: &Settings, gpus: &[NodeGpu]) -> Redactor {
    let mut redactor = Redactor { paths: settings.redactions.clone(), words: Vec::new() };
    redactor.hide_host();
    for gpu in gpus {
        redactor.words.push((gpu.uuid.clone(), format!("gpu{}", gpu.device.gpu)));
    }
    redactor
}

/// The jobs of a planned case; none if it needs GPUs and has none. `busy` holds the seconds until each GPU is expected
/// to have done what was planned before, and gets those of this case too.
pub(super) fn jobs_of(
    planned: &Planned,
    index: usize,
    gpus: &[NodeGpu],
    busy: &mut [f64],
) -> Vec<Job> {
    let slot_of = |gpu: &NodeGpu| gpus.iter().position(|other| other.uuid == gpu.uuid);
    // A GPU that is named twice is one GPU.
    let slots: BTreeSet<usize> = planned.gpus.iter().filter_map(slot_of).collect();
    let scope = planned.case.scope;
    let job = |slots: Vec<usize>| Job { planned: index, attempt: 1, scope, slots };
    let expected_s = planned.case.expected_s;
    match scope {
        Scope::Host => vec![job(Vec::new())],
        Scope::EachGpu => {
            slots.iter().for_each(|slot| busy[*slot] += expected_s);
            slots.into_iter().map(|slot| job(vec![slot])).collect()
        }
        // The GPU that is free first; of several the first.
        Scope::OneGpu => {
            let free = slots.into_iter().min_by(|a, b| busy[*a].total_cmp(&busy[*b]));
            free.iter().for_each(|slot| busy[*slot] += expected_s);
            free.map(|slot| job(vec![slot])).into_iter().collect()
        }
        Scope::Node if slots.is_empty() => Vec::new(),
        // Every GPU of the run waits for it.
        Scope::Node => {
            let begin = busy.iter().copied().fold(0.0, f64::max);
            busy.fill(begin + expected_s);
            vec![job(slots.into_iter().collect())]
        }
    }
}

/// Of cases in a row that one GPU each can run, the longest first: so the GPUs that share them end together. What breaks
/// things on purpose stays where it stands.
pub(crate) fn longest_first(cases: &mut [&'static Case]) {
    let shared = |case: &Case| case.scope == Scope::OneGpu && !case.self_test_only;
    for row in cases.chunk_by_mut(|a, b| shared(a) == shared(b)) {
        if row.first().is_some_and(|case| shared(case)) {
            row.sort_by(|a, b| b.expected_s.total_cmp(&a.expected_s));
        }
    }
}

pub(super) fn indices(gpus: &[NodeGpu]) -> Vec<u32> {
    gpus.iter().map(|gpu| gpu.device.gpu).collect()
}

/// Whether a child that begins now is expected to end within the limit of the run, less what is kept for cases behind
/// it; if not, why not.
pub(super) fn in_time(
    case: &Case,
    attempt: u32,
    (limit, kept): (Option<Duration>, Duration),
    elapsed: Duration,
) -> Result<(), String> {
    let Some(limit) = limit else { return Ok(()) };
    let left = limit.saturating_sub(elapsed).saturating_sub(kept).as_secs_f64();
    let expected = case.expected_s * f64::from(attempt);
    match expected <= left {
        true => Ok(()),
        false => {
            let kept = match kept.as_secs() {
                0 => String::new(),
                kept => format!(", and {kept} s kept for what is due"),
            };
            let limit = limit.as_secs();
            Err(format!("{expected:.0} s expected, {left:.0}{OF_LIMIT}{limit} s{kept}"))
        }
    }
}

/// What a case leaves of the run's time limit for cases behind it.
pub(super) fn kept_of(settings: &Settings, case: &Case) -> Duration {
    settings.kept.get(case.id).copied().unwrap_or_default()
}

/// What stands before the limit where [`in_time`] says why a child was not begun.
const OF_LIMIT: &str = " s left of the run's limit of ";

/// The run's time limit in seconds, of a reason that [`in_time`] gave; none of any other reason.
pub(crate) fn time_limit_of(reason: &str) -> Option<u64> {
    let (_, limit) = reason.split_once(OF_LIMIT)?;
    limit.split_once(" s")?.0.parse().ok()
}

/// After these ends nobody knows in what state the GPU is.
pub(super) fn makes_suspect(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed(failure) => !matches!(failure.how, How::Interrupted | How::NotStarted),
        _ => false,
    }
}

/// A GPU is usable if its probe completed and every integrity metric is there and zero.
pub(super) fn probe_verdict(probe: &Case, part: &Part) -> Result<(), String> {
    match &part.outcome {
        Outcome::Completed => {}
        Outcome::NotRun(why) | Outcome::NotApplicable(why) => return Err(why.clone()),
        Outcome::Failed(failure) => return Err(failure.detail.clone()),
    }
    for name in probe.integrity {
        let mut values =
            part.metrics.iter().filter(|m| m.name == *name).flat_map(|m| &m.values).peekable();
        if values.peek().is_none() {
            return Err(format!("{name} is missing"));
        }
        if let Some(value) = values.find(|value| **value != 0.0) {
            return Err(format!("{name} = {value}, wanted 0"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::{Context, unrun};
    use crate::evidence::{Failure, Metric};

    static PROBE: Case = Case {
        id: "probe::usable",
        revision: 1,
        figures_since: 1,
        scope: Scope::EachGpu,
        min_gpus: 1,
        tier: crate::evidence::Tier::Quick,
        self_test_only: false,
        procedure: "",
        samples: 0,
        expected_s: 1.0,
        deadline_s: 1.0,
        kernels: &[],
        integrity: &["wrong_count"],
        controls: &[],
        run: |_, _| Ok(()),
    };

    #[test]
    fn longest_first_within_a_row_of_one_gpu_cases() {
        static EACH: Case = Case { id: "probe::each", ..PROBE };
        static SHORT: Case =
            Case { id: "probe::short", scope: Scope::OneGpu, expected_s: 2.0, ..PROBE };
        static LONG: Case =
            Case { id: "probe::long", scope: Scope::OneGpu, expected_s: 9.0, ..PROBE };
        static BREAKS: Case = Case { id: "probe::breaks", self_test_only: true, ..LONG };
        let mut cases = [&SHORT, &LONG, &EACH, &SHORT, &SHORT, &LONG, &BREAKS];
        longest_first(&mut cases);
        let ids = cases.map(|case| case.id.trim_start_matches("probe::"));
        assert_eq!(ids, ["long", "short", "each", "long", "short", "short", "breaks"]);
    }

    #[test]
    fn what_is_not_expected_to_end_in_time_is_not_begun() {
        let case = Case { expected_s: 10.0, ..PROBE };
        let begin = |limit: Option<u64>, attempt, elapsed| {
            let limit = (limit.map(Duration::from_secs), Duration::ZERO);
            in_time(&case, attempt, limit, Duration::from_secs(elapsed))
        };
        assert_eq!(begin(None, 2, 1_000_000), Ok(()));
        assert_eq!(begin(Some(30), 1, 20), Ok(()));
        assert_eq!(begin(Some(30), 2, 10), Ok(()));
        let why = "20 s expected, 19 s left of the run's limit of 30 s";
        assert_eq!(begin(Some(30), 2, 11), Err(why.to_owned()));
        let behind = |kept| {
            let limit = (Some(Duration::from_secs(30)), Duration::from_secs(kept));
            in_time(&case, 1, limit, Duration::from_secs(15))
        };
        assert_eq!(behind(5), Ok(()));
        let kept =
            "10 s expected, 9 s left of the run's limit of 30 s, and 6 s kept for what is due";
        assert_eq!(behind(6), Err(kept.to_owned()));
        assert_eq!(time_limit_of(kept), Some(30));
        // As the judge says it too.
        assert_eq!(time_limit_of(why), Some(30));
        assert_eq!(time_limit_of(&format!("gpu1: {why}")), Some(30));
        assert_eq!(time_limit_of("libnccl.so.2 is missing"), None);
        assert!(begin(Some(30), 1, 31).is_err());
    }

    #[track_caller]
    fn check(outcome: Outcome, wrong: &[f64], expect: Result<(), &str>) {
        let redactor = Redactor::default();
        let context = Context { attempt: 1, devices: &[], repro: "", redactor: &redactor };
        let mut part = unrun(outcome, &context);
        let metric = |value: &f64| Metric::exact("wrong_count", &[], &[0], *value);
        part.metrics.extend(wrong.iter().map(metric));
        assert_eq!(probe_verdict(&PROBE, &part), expect.map_err(str::to_owned));
    }

    #[test]
    fn only_right_bits_prove_a_gpu_usable() {
        check(Outcome::Completed, &[0.0], Ok(()));
        check(Outcome::Completed, &[], Err("wrong_count is missing"));
        check(Outcome::Completed, &[0.0, 3.0], Err("wrong_count = 3, wanted 0"));
        check(Outcome::NotRun("no driver".into()), &[0.0], Err("no driver"));
        let failure = Failure { how: How::Hang, detail: "passed".into(), repro: String::new() };
        check(Outcome::Failed(failure), &[0.0], Err("passed"));
    }
}
