//! Numbers, series, bounds and controls in words.

use super::{Origin, Report, Trial, text, word};
use crate::digest;
use crate::judge::{BoundView, ControlView, EvidenceRef, Judgement, Measured, Standing};

/// Above this an integer is no longer printed digit by digit.
const INTEGER_MAX: f64 = 1e15;

/// A figure with four to five significant digits and no noise: `4480.1`, `0.9301`, `18`, `1.2e-7`.
/// Integers are counts and are printed in full.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if value.fract() == 0.0 && size < INTEGER_MAX {
        // Adding zero turns -0 into 0.
        return format!("{:.0}", value + 0.0);
    }
    if !(0.001..INTEGER_MAX).contains(&size) {
        let text = format!("{value:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trim_zeros(digits));
    }
    let decimals = match size {
        1e6.. => 0,
        1e3.. => 1,
        1e1.. => 2,
        1.0.. => 3,
        0.1.. => 4,
        0.01.. => 5,
        _ => 6,
    };
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn trim_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

/// Two figures that are compared: where rounding would make them look equal, in full.
pub(crate) fn compared(value: f64, limit: f64) -> (String, String) {
    let rounded = (number(value), number(limit));
    if rounded.0 == rounded.1 && value != limit {
        return (value.to_string(), limit.to_string());
    }
    rounded
}

/// `4480.1 GB/s`; a count has no unit, a percentage a blank before it.
pub(crate) fn with_unit(figure: &str, unit: &str) -> String {
    if unit.is_empty() { figure.to_owned() } else { format!("{figure} {unit}") }
}

/// `gpu5`, or `gpu2-gpu3` for a pair; empty for the node.
pub(crate) fn gpu_words(gpus: &[u32]) -> String {
    gpus.iter().map(|gpu| format!("gpu{gpu}")).collect::<Vec<_>>().join("-")
}

/// `4480.1 GB/s (95 % interval 4478.2 to 4482, worst gpu2)`.
pub(crate) fn figure(measured: &Measured) -> String {
    let (least, most) = measured.interval;
    let mut remarks = Vec::new();
    if least != most {
        remarks.push(format!("95 % interval {} to {}", number(least), number(most)));
    }
    match (gpu_words(&measured.gpus), measured.series) {
        (place, _) if place.is_empty() => {}
        (place, 0 | 1) => remarks.push(format!("on {place}")),
        (place, _) => remarks.push(format!("worst {place}")),
    }
    let value = with_unit(&number(measured.value), measured.unit);
    if remarks.is_empty() { value } else { format!("{value} ({})", remarks.join(", ")) }
}

/// `>= 4435.2 (golden: 4480.1 - 1.0 %)`.
pub(crate) fn bound(bound: &BoundView) -> String {
    if bound.standing == Standing::Unjudged {
        return format!("{} bound not judged ({})", bound.kind, text::one_line(&bound.origin));
    }
    let colon = if bound.origin.is_empty() { "" } else { ": " };
    let origin = text::one_line(&format!("{}{colon}{}", bound.kind, bound.origin));
    format!("{} {} ({origin})", bound.sign, number(bound.limit))
}

/// All bounds, the board's own first: it is the sharper one.
pub(crate) fn bounds(bounds: &[BoundView]) -> String {
    let own = bounds.iter().filter(|view| view.kind == "golden");
    let others = bounds.iter().filter(|view| view.kind != "golden");
    own.chain(others).map(bound).collect::<Vec<_>>().join("; ")
}

/// `controls 3/3 caught`, and how many could not be judged.
pub(crate) fn controls(controls: &[ControlView]) -> String {
    let judged = controls.iter().filter(|view| view.caught.is_some()).count();
    let caught = controls.iter().filter(|view| view.caught == Some(true)).count();
    match controls.len() - judged {
        _ if controls.is_empty() => "no controls".to_owned(),
        0 => format!("controls {caught}/{judged} caught"),
        open => format!("controls {caught}/{judged} caught, {open} not judged"),
    }
}

/// The figure and its bounds in one phrase; empty where nothing was measured.
pub(crate) fn figure_and_bounds(judgement: &Judgement) -> String {
    let Some(measured) = &judgement.measured else { return String::new() };
    format!("{} {}", figure(measured), bounds(&judgement.bounds)).trim_end().to_owned()
}

/// One sentence that names the number:
/// `read_gbps = 3912.4 GB/s on gpu5, wanted >= 4435.2 (golden: 4480.1 - 1.0 %)`. Where no bound was
/// missed it is the judge's reason, and where there is none, what was measured.
pub fn message(judgement: &Judgement) -> String {
    let missed: Vec<&BoundView> = judgement
        .bounds
        .iter()
        .filter(|view| matches!(view.standing, Standing::Missed | Standing::Straddles))
        .collect();
    let Some(measured) = &judgement.measured else {
        return text::one_line(&judgement.reason);
    };
    if missed.is_empty() && judgement.reason.is_empty() {
        return format!("{} = {}", measured.metric, figure_and_bounds(judgement));
    }
    if missed.is_empty() {
        return text::one_line(&judgement.reason);
    }
    let place = gpu_words(&measured.gpus);
    let place = if place.is_empty() { place } else { format!(" on {place}") };
    // In full where rounding would hide by how little a bound was missed.
    let pairs = missed.iter().map(|view| compared(measured.value, view.limit).0);
    let value = pairs.max_by_key(String::len).unwrap_or_default();
    let value = with_unit(&value, measured.unit);
    let wanted = missed.into_iter().map(bound).collect::<Vec<_>>().join(" and ");
    format!("{} = {value}{place}, wanted {wanted}", measured.metric)
}

/// Everything about a trial, a fact a line: for the terminal of a failure and for JUnit. A
/// recorded one begins with that word, the machine and the day.
pub fn account(report: &Report, trial: &Trial) -> String {
    let judgement = &trial.judgement;
    let mut lines = Vec::new();
    if trial.origin == Origin::Recorded {
        lines.push(format!(
            "RECORDED on {}; this machine was not tested",
            machine(trial.board(report), judgement.evidence.as_ref(), report)
        ));
    }
    lines.push(format!("claim: {}", text::one_line(judgement.claim.text)));
    lines.push(format!("verdict: {}", word(judgement.verdict)));
    if !judgement.reason.is_empty() {
        lines.push(format!("reason: {}", text::clean(&judgement.reason)));
    }
    if let Some(measured) = &judgement.measured {
        lines.push(format!("measured: {} = {}", measured.metric, figure(measured)));
    }
    for view in &judgement.bounds {
        lines.push(format!("bound: {}: {}", bound(view), standing(view.standing)));
    }
    for view in &judgement.controls {
        lines.push(control_line(view));
    }
    if let Some(gpu) = judgement.culprit {
        lines.push(format!("culprit: gpu{gpu}"));
    }
    if let Some(note) = &judgement.note {
        lines.push(format!("note: {}", text::one_line(note)));
    }
    if let Some(evidence) = &judgement.evidence {
        lines.extend(evidence_lines(evidence, report));
    }
    lines.join("\n")
}

fn control_line(view: &ControlView) -> String {
    let caught = match view.caught {
        Some(true) => "caught",
        Some(false) => "NOT CAUGHT",
        None => "not judged",
    };
    let detail = text::one_line(&view.detail);
    format!("control: {} ({}): {caught}: {detail}", view.control.name, view.control.fault)
}

/// ` - not run in ...` of a newer run, and that it was taken under an earlier sentence, in Markdown; empty of neither.
pub(super) fn since(evidence: &EvidenceRef) -> String {
    let clause = evidence.other_runs.as_deref().map(text::markdown);
    let worded = evidence.worded.as_ref().map(|_| "taken under an earlier sentence".to_owned());
    clause.into_iter().chain(worded).map(|clause| format!(" - {clause}")).collect()
}

fn evidence_lines(evidence: &EvidenceRef, report: &Report) -> Vec<String> {
    let of_report = report.run_sha256.filter(|_| evidence.run == report.run);
    let run_sha256 = evidence.run_sha256.as_deref().or(of_report);
    let id = text::one_line(&evidence.run);
    let run = match run_sha256 {
        Some(sha256) => format!("run: {id} sha256:{sha256}"),
        None => format!("run: {id} (not finished, no digest)"),
    };
    let path = text::one_line(&evidence.path);
    let afterwards = evidence.recovered.then(|| "manifest: written after the run".to_owned());
    let since = evidence.other_runs.as_deref().map(text::one_line);
    let since = since.map(|clause| format!("since then: {clause}"));
    let worded = evidence.worded.as_deref().map(text::one_line);
    let worded = worded.map(|sentence| format!("sentence then: {sentence}"));
    let evidence = format!("evidence: {path} sha256:{}", evidence.sha256);
    [evidence, run].into_iter().chain(afterwards).chain(since).chain(worded).collect()
}

/// How a series stands to a bound, in a word.
fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Met => "met",
        Standing::Straddles => "straddled",
        Standing::Missed => "missed",
        Standing::Unjudged => "not judged",
    }
}

/// `nvidia-h200-sxm x4 of 2026-11-21`.
pub(crate) fn machine(board: &str, evidence: Option<&EvidenceRef>, report: &Report) -> String {
    let (gpus, day) =
        evidence.map_or((report.gpus, report.day), |evidence| (evidence.gpus, &*evidence.day));
    format!("{} x{gpus} of {day}", text::one_line(board))
}

/// `sha256:0123456789ab`.
pub(crate) fn short_digest(sha256: &str) -> String {
    format!("sha256:{}", digest::short(sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: f64, expect: &str) {
        assert_eq!(number(value), expect);
    }

    #[test]
    fn numbers_have_four_to_five_digits_and_no_noise() {
        check(4_480.123_4, "4480.1");
        check(4480.0, "4480");
        check(0.930_12, "0.9301");
        check(0.1 + 0.2, "0.3");
        check(18.0, "18");
        check(17.999_999, "18");
        check(1.234_56, "1.235");
        check(391.246, "391.25");
        check(0.012_345_6, "0.01235");
        check(0.001_234_56, "0.001235");
        check(1.2e-7, "1.2e-7");
        check(-3.5, "-3.5");
        check(-0.0, "0");
        check(0.0, "0");
        check(16_777_216.0, "16777216");
        check(1_234_567.8, "1234568");
        check(6.02e23, "6.02e23");
        check(f64::NAN, "NaN");
        check(f64::INFINITY, "inf");
        check(f64::NEG_INFINITY, "-inf");
    }

    #[test]
    fn a_rounded_comparison_never_reads_as_equal() {
        assert_eq!(compared(4435.16, 4435.2), ("4435.16".into(), "4435.2".into()));
        assert_eq!(compared(3912.44, 4240.0), ("3912.4".into(), "4240".into()));
        assert_eq!(compared(2.0, 2.0), ("2".into(), "2".into()));
    }
}
