//! What `touchstone measure model` found: a table for people, and a file with every sample.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use harness::evidence::Device;
use harness::run::SourceTree;
use harness::statistics;
use kernels::libraries;
use kernels::model::Config;
use serde::Serialize;

use super::Options;
use crate::node;

/// Of the file.
const SCHEMA: u32 = 1;

/// Everything that was asked and found. It is no evidence of a claim: nothing judges it.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    kind: &'static str,
    /// UTC, RFC 3339.
    started: String,
    /// What this executable was built from.
    source: SourceTree,
    /// As it was given, of paths the last names alone.
    command: Vec<String>,
    /// What was asked for, where nothing was given too.
    options: Options,
    /// Of weights and tokens.
    seed: u64,
    /// GPUs in the order of the ranks, as evidence names them; those that NVML names.
    devices: Vec<Device>,
    versions: BTreeMap<&'static str, String>,
    /// In the order of the degrees and chunks that were asked for.
    pub rows: Vec<Row>,
}

/// A degree with a number of chunks.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Row {
    /// GPUs.
    pub degree: usize,
    /// Parts of the tokens.
    pub chunks: u32,
    /// Of each GPU, by the formula.
    pub weight_bytes: u64,
    /// The same.
    pub activation_bytes: u64,
    /// The least that a GPU had free before.
    pub free_bytes: u64,
    /// The most that a GPU had allocated at once, what --compare keeps on the first included and the making of the
    /// weights not; none where nothing was measured.
    pub peak_bytes: Option<u64>,
    /// How a pass was enqueued.
    pub mode: Option<&'static str>,
    /// From the weights to the first pass that counts.
    pub ready_s: Option<f64>,
    /// Milliseconds of each pass, of the slowest rank.
    pub ms: Vec<f64>,
    /// Milliseconds of the host for one pass.
    pub enqueued_ms: Option<f64>,
    /// TFLOP/s a GPU, of the median.
    pub tflops: Option<f64>,
    /// Median milliseconds of passes that send flat, send nothing, and do not wait either; of several GPUs.
    pub without: Option<[f64; 3]>,
    /// By linear.
    pub algorithms: BTreeMap<&'static str, String>,
    /// Beside one GPU, where that was asked for.
    pub differences: Option<String>,
    /// Why nothing, or not all, was measured.
    pub why_not: Option<String>,
}

impl Row {
    /// Degree and chunks.
    pub fn name(&self) -> String {
        format!("degree {}, chunks {}", self.degree, self.chunks)
    }
}

impl Report {
    /// Of a measurement that begins now on GPUs of these UUIDs.
    pub fn new(uuids: &[String], config: &Config, options: &Options) -> Report {
        let inventory = node::session().and_then(|session| session.inventory().ok());
        let device = |uuid: &String| {
            let info = inventory.as_ref()?.gpus.iter().find(|info| info.uuid == *uuid)?;
            Some(node::device(info))
        };
        Report {
            schema: SCHEMA,
            kind: "measure-model",
            started: harness::live::Clock::start().started(),
            source: crate::source(),
            command: harness::live::redacted_command(std::env::args()),
            options: options.clone(),
            seed: config.seed,
            devices: uuids.iter().filter_map(device).collect(),
            versions: libraries::versions().into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// Writes all of it.
    ///
    /// Errors: the file cannot be written; it is named.
    pub fn write(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        harness::files::write(file, format!("{text}\n").as_bytes())
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let mut text =
            "| GPUs | chunks | GiB a GPU by the formula | GiB allocated | ms | TFLOP/s a GPU | |\n\
                        |---:|---:|---:|---:|---:|---:|---|\n"
                .to_owned();
        for row in &self.rows {
            let gib = |bytes: u64| format!("{:.2}", bytes as f64 / f64::from(1u32 << 30));
            let of =
                |number: Option<f64>| number.map_or("-".into(), |number| format!("{number:.1}"));
            let note = row.why_not.as_deref().or(row.mode).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {note} |",
                row.degree,
                row.chunks,
                gib(row.weight_bytes + row.activation_bytes),
                row.peak_bytes.map_or("-".into(), gib),
                times(&row.ms),
                of(row.tflops),
            );
        }
        text
    }

    /// What was not measured, and why; none is all.
    pub fn left_out(&self) -> Option<String> {
        let why = |row: &Row| row.why_not.clone();
        let all: Vec<String> = self.rows.iter().filter_map(why).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

/// The median and the range.
fn times(ms: &[f64]) -> String {
    let (least, most) =
        ms.iter().fold((f64::INFINITY, 0.0), |(least, most), ms| (ms.min(least), ms.max(most)));
    match statistics::median(ms) {
        Some(median) => format!("{median:.2} ({least:.2} to {most:.2})"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: Vec<Row>) -> Report {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            options: Options,
        }
        let options = Command::parse_from(["model"]).options;
        Report { rows, ..Report::new(&[], &Config::SEED_002, &options) }
    }

    #[test]
    fn a_table_of_what_was_measured_and_what_was_not() {
        let gib = 1 << 30;
        let measured = Row {
            degree: 2,
            chunks: 4,
            weight_bytes: 3 * gib,
            activation_bytes: gib / 2,
            peak_bytes: Some(7 * gib / 2),
            mode: Some("call by call"),
            ms: vec![3.0, 1.0, 2.0],
            tflops: Some(612.34),
            ..Row::default()
        };
        let not = Row {
            degree: 1,
            chunks: 4,
            weight_bytes: 100 * gib,
            why_not: Some("degree 1, chunks 4: too large".into()),
            ..Row::default()
        };
        let report = report(vec![not, measured]);
        let table = report.table();
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| 1 | 4 | 100.00 | - | - | - | degree 1, chunks 4: too large |",
                "| 2 | 4 | 3.50 | 3.50 | 2.00 (1.00 to 3.00) | 612.3 | call by call |"
            ]
        );
        assert_eq!(report.left_out().as_deref(), Some("degree 1, chunks 4: too large"));
    }

    #[test]
    fn the_file_has_every_sample() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("made/model.json");
        let row = Row { degree: 1, ms: vec![1.5, 1.25], ..Row::default() };
        let report = report(vec![row]);
        report.write(&file).expect("written");
        let text = std::fs::read_to_string(&file).expect("there");
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!(value["rows"][0]["ms"], serde_json::json!([1.5, 1.25]));
        assert_eq!(value["options"]["d_model"], 8192);
        assert_eq!(value["options"]["exec_mode"], "search");
        assert_eq!((&value["kind"], &value["schema"]), (&"measure-model".into(), &SCHEMA.into()));
        assert_eq!(report.left_out(), None);
    }
}
