//! `summary.md` of a run: what an engineer reads after the last line.

use std::collections::BTreeMap;

use super::{Mode, Origin, Report, Trial, WORDS, figures, last_line, opening, text, word};
use crate::evidence::{Device, Evidence, Part, Telemetry};
use crate::judge::Verdict;

/// The whole page. `evidence` is what the run measured, as far as it is at hand.
pub fn render(report: &Report, evidence: &[&Evidence]) -> String {
    let title = match report.mode {
        Mode::Live => format!("# Run {}", report.run),
        Mode::Recorded => "# RECORDED: evidence judged again".to_owned(),
    };
    let mut lines = vec![title, String::new(), "```text".to_owned()];
    lines.extend([opening(report), last_line(report), "```".to_owned(), String::new()]);
    if report.mode == Mode::Live {
        let sha256 = report
            .run_sha256
            .map_or("not finished".to_owned(), |sha256| format!("sha256:{sha256}"));
        lines.extend([format!("Manifest: {sha256}"), String::new()]);
    }
    detector(&mut lines, report);
    counts(&mut lines, report);
    not_verified(&mut lines, report);
    all(&mut lines, report);
    proposals(&mut lines, report);
    machine(&mut lines, report, evidence);
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Planted faults: what this run's readers, lint, judge and controls can see.
fn detector(lines: &mut Vec<String>, report: &Report) {
    let (Some(score), Some(words)) = (report.detector, report.detector_words()) else { return };
    lines.extend([format!("Detector: {words}"), String::new()]);
    lines
        .extend(score.misses().iter().map(|miss| format!("- **missed** {}", text::markdown(miss))));
    if !score.holds() {
        lines.push(String::new());
    }
}

/// A table with a heading; nothing at all without rows.
fn table(lines: &mut Vec<String>, heading: &str, columns: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    lines.extend([format!("## {heading}"), String::new()]);
    lines.push(format!("| {} |", columns.join(" | ")));
    lines.push(format!("|{}", "---|".repeat(columns.len())));
    for row in rows {
        lines.push(format!("| {} |", row.join(" | ")));
    }
    lines.push(String::new());
}

/// Verdicts, counted apart by origin.
fn counts(lines: &mut Vec<String>, report: &Report) {
    let own = match report.mode {
        Mode::Live => Origin::Live,
        Mode::Recorded => Origin::Recorded,
    };
    let mut origins = vec![own, Origin::Host];
    for origin in report.trials.iter().map(|trial| trial.origin) {
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    let heads: Vec<&str> =
        ["verdict"].into_iter().chain(origins.iter().map(|origin| name(*origin))).collect();
    let count = |known: &str, origin: Origin| {
        let of = |trial: &&Trial| trial.origin == origin && word(trial.judgement.verdict) == known;
        report.trials.iter().filter(of).count()
    };
    let rows = WORDS.iter().map(|known| {
        let counts = origins.iter().map(|origin| count(known, *origin).to_string());
        [(*known).to_owned()].into_iter().chain(counts).collect()
    });
    table(lines, "Verdicts", &heads, rows.collect());
}

/// The origin as a heading: a recorded number is never read as this machine's.
fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::Recorded => "RECORDED",
        origin => origin.word(),
    }
}

fn not_verified(lines: &mut Vec<String>, report: &Report) {
    let mut trials: Vec<&Trial> =
        report.trials.iter().filter(|trial| trial.judgement.verdict != Verdict::Verified).collect();
    trials.sort_by_key(|trial| {
        WORDS.iter().position(|known| *known == word(trial.judgement.verdict))
    });
    let rows = trials.into_iter().map(|trial| {
        let judgement = &trial.judgement;
        let culprit = judgement.culprit.map_or_else(String::new, |gpu| format!("gpu{gpu}"));
        let verdict = word(judgement.verdict);
        let verdict =
            if trial.fails(report.gate) { format!("**{verdict}**") } else { verdict.to_owned() };
        let message = text::markdown(&figures::message(judgement));
        let reason = text::markdown(&judgement.reason);
        let reason = if reason == message { String::new() } else { reason };
        let origin = name(trial.origin).to_owned();
        vec![verdict, judgement.claim.id.to_owned(), origin, culprit, message, reason]
    });
    let columns = ["verdict", "claim", "origin", "GPU", "what", "reason"];
    table(lines, "Not verified", &columns, rows.collect());
}

fn all(lines: &mut Vec<String>, report: &Report) {
    let rows = report.trials.iter().map(|trial| {
        let judgement = &trial.judgement;
        let evidence = judgement.evidence.as_ref().map_or_else(String::new, |evidence| {
            let digest = figures::short_digest(&evidence.sha256);
            let place = text::markdown(&evidence.path);
            match trial.origin {
                Origin::Recorded => {
                    let machine = figures::machine(trial.board(report), Some(evidence), report);
                    let since = figures::since(evidence);
                    format!("RECORDED {machine}: {place} {digest}{since}")
                }
                _ => format!("{place} {digest}"),
            }
        });
        let measured = judgement.measured.as_ref();
        let controls = measured.map(|_| figures::controls(&judgement.controls));
        vec![
            judgement.claim.id.to_owned(),
            name(trial.origin).to_owned(),
            word(judgement.verdict).to_owned(),
            text::markdown(&measured.map_or_else(String::new, figures::figure)),
            text::markdown(&figures::bounds(&judgement.bounds)),
            controls.unwrap_or_default(),
            format!("{:.1}", trial.wall_s),
            evidence,
        ]
    });
    let columns = ["claim", "origin", "verdict", "value", "bounds", "controls", "s", "evidence"];
    table(lines, "Every claim", &columns, rows.collect());
}

/// Better than golden never fails; it proposes a golden.
fn proposals(lines: &mut Vec<String>, report: &Report) {
    let rows = report.trials.iter().filter_map(|trial| {
        let note = trial.judgement.note.as_ref()?;
        Some(vec![trial.judgement.claim.id.to_owned(), text::markdown(note)])
    });
    table(lines, "Proposals", &["claim", "proposal"], rows.collect());
}

/// Devices, versions and telemetry, as the evidence tells them.
fn machine(lines: &mut Vec<String>, report: &Report, evidence: &[&Evidence]) {
    let parts = || {
        let of = |evidence: &&'_ Evidence| evidence.case.clone();
        evidence
            .iter()
            .flat_map(move |evidence| evidence.parts.iter().map(move |part| (of(evidence), part)))
    };
    let recorded = if report.mode == Mode::Recorded { ", RECORDED" } else { "" };
    let mut devices: BTreeMap<(u32, &str), &Device> = BTreeMap::new();
    for device in parts().flat_map(|(_, part)| &part.devices) {
        devices.entry((device.gpu, &device.uuid_sha256)).or_insert(device);
    }
    let rows = devices.into_values().map(device_row).collect();
    let columns = ["GPU", "name", "PCI id", "cc", "GiB", "power limit W", "SM MHz", "ECC"];
    table(lines, &format!("Devices{recorded}"), &columns, rows);

    let mut versions = report.versions.clone();
    for (name, version) in parts().flat_map(|(_, part)| &part.versions) {
        versions.entry(name.clone()).or_insert_with(|| version.clone());
    }
    let rows = versions.iter().map(|(name, of)| vec![text::markdown(name), text::markdown(of)]);
    table(lines, &format!("Versions{recorded}"), &["name", "version"], rows.collect());

    let mut gpus: BTreeMap<u32, Vec<&Telemetry>> = BTreeMap::new();
    for telemetry in parts().flat_map(|(_, part)| &part.telemetry) {
        gpus.entry(telemetry.gpu).or_default().push(telemetry);
    }
    let rows = gpus.iter().map(|(gpu, series)| telemetry_row(*gpu, series)).collect();
    let columns = ["GPU", "power W", "SM MHz", "memory MHz", "most C", "throttled", "counters"];
    table(lines, &format!("Telemetry{recorded} (least, mean, most)"), &columns, rows);

    let rows = parts().filter(|(_, part)| !part.xids.is_empty()).map(|(case, part)| {
        let gpus: Vec<u32> = part.devices.iter().map(|device| device.gpu).collect();
        vec![case, figures::gpu_words(&gpus), listed(part)]
    });
    table(lines, &format!("Xids{recorded}"), &["case", "GPUs", "Xid"], rows.collect());
}

fn listed(part: &Part) -> String {
    part.xids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn device_row(device: &Device) -> Vec<String> {
    let ecc = match device.ecc {
        Some(true) => "on",
        Some(false) => "off",
        None => "not told",
    };
    vec![
        format!("gpu{}", device.gpu),
        text::markdown(&device.name),
        device.pci_device_id.clone(),
        device.compute_capability.clone(),
        format!("{:.1}", device.memory_bytes as f64 / f64::from(1 << 30)),
        figures::number(device.power_limit_w),
        device.sm_clock_max_mhz.to_string(),
        ecc.to_owned(),
    ]
}

/// What one GPU went through in all children.
fn telemetry_row(gpu: u32, series: &[&Telemetry]) -> Vec<String> {
    let range = |of: fn(&Telemetry) -> [f64; 3]| {
        let least = series.iter().map(|one| of(one)[0]).fold(f64::INFINITY, f64::min);
        let most = series.iter().map(|one| of(one)[2]).fold(f64::NEG_INFINITY, f64::max);
        let samples: f64 = series.iter().map(|one| f64::from(one.samples)).sum();
        let sum: f64 = series.iter().map(|one| of(one)[1] * f64::from(one.samples)).sum();
        format!("{least:.0}, {:.0}, {most:.0}", sum / samples)
    };
    let mut throttled: BTreeMap<&str, f64> = BTreeMap::new();
    let mut counters: BTreeMap<&str, u64> = BTreeMap::new();
    for one in series {
        for (reason, percent) in &one.throttle_percent {
            let most = throttled.entry(reason).or_default();
            *most = most.max(*percent);
        }
        for (name, [before, after]) in &one.counters_moved {
            *counters.entry(name).or_default() += after.saturating_sub(*before);
        }
    }
    let throttled: Vec<String> = throttled
        .iter()
        .filter(|(_, percent)| **percent > 0.0)
        .map(|(reason, percent)| format!("{reason} up to {percent:.0} %"))
        .collect();
    let counters: Vec<String> =
        counters.iter().map(|(name, moved)| format!("{name} +{moved}")).collect();
    let temperature = series.iter().map(|one| one.temperature_c_max).fold(0.0, f64::max);
    vec![
        format!("gpu{gpu}"),
        range(|one| one.power_w),
        range(|one| one.sm_clock_mhz),
        range(|one| one.memory_clock_mhz),
        format!("{temperature:.0}"),
        text::markdown(&throttled.join(", ")),
        text::markdown(&counters.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::specimens::{self, recorded};

    #[test]
    fn live_page() {
        let trials = specimens::trials();
        let evidence = specimens::measured_evidence();
        insta::assert_snapshot!(render(&specimens::report(&trials), &[&evidence]));
    }

    #[test]
    fn recorded_page_says_so_everywhere() {
        let trials = recorded(&specimens::trials());
        let report = Report { mode: Mode::Recorded, ..specimens::report(&trials) };
        let evidence = specimens::measured_evidence();
        let page = render(&report, &[&evidence]);
        assert!(!page.contains("| live"));
        insta::assert_snapshot!(page);
    }

    #[test]
    fn a_page_names_the_time_limit() {
        let mut trials = specimens::trials();
        trials.retain(|trial| matches!(trial.judgement.verdict, Verdict::NotRun { .. }));
        let late = "14 s expected, 7 s left of the run's limit of 1330 s";
        trials[1].judgement.reason = late.to_owned();
        let page = render(&specimens::report(&trials), &[]);
        assert!(page.contains("NODE INCOMPLETE: 1 claim not run: the time limit of 1330 s; "));
        assert!(page.contains(late));
    }

    #[test]
    fn a_page_of_nothing_says_so() {
        let page = render(&specimens::report(&[]), &[]);
        assert!(page.contains("NODE INCOMPLETE: nothing was judged"));
    }
}
