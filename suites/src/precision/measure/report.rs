//! What `touchstone measure accuracy` found: lines for people, a verdict by one rule, and a file with every document's
//! change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use harness::run::SourceTree;
use harness::statistics;
use harness::statistics::mean_interval;
use kernels::language::Precision;
use kernels::language::model::Document;
use serde::Serialize;

use super::Options;
use crate::precision::language::{mean, moved};

/// Of the file.
const SCHEMA: u32 = 1;

/// By what a verdict is reached, of a tolerance that stands before it.
const RULE: &str = "within if the whole 95 % interval of the mean change lies within it, outside if all of it lies \
                    outside, else undecided";

/// Whether a precision keeps the cross-entropy of fp32 to the tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval lies within the tolerance.
    Within,
    /// The whole interval lies outside.
    Outside,
    /// It straddles the tolerance, or the documents are too few for one.
    Undecided,
    /// Nothing was measured.
    NotMeasured,
}

impl Verdict {
    fn of(interval: Option<(f64, f64)>, tolerance: f64) -> Verdict {
        match interval {
            Some((low, high)) if -tolerance <= low && low <= high && high <= tolerance => {
                Verdict::Within
            }
            Some((low, high)) if low <= high && (tolerance < low || high < -tolerance) => {
                Verdict::Outside
            }
            _ => Verdict::Undecided,
        }
    }
}

/// A precision beside fp32.
#[derive(Debug, Serialize)]
pub struct Row {
    precision: &'static str,
    /// How its products are made.
    arithmetic: &'static str,
    /// Of a token, the mean of documents.
    loss_nats: Option<f64>,
    perplexity: Option<f64>,
    /// The mean over documents of the change of cross-entropy, in percent of fp32's.
    change_percent: Option<f64>,
    /// 95 % interval of that mean, by Student's t over documents.
    interval_percent: Option<(f64, f64)>,
    /// Of each document.
    changes_percent: Vec<f64>,
    divergence_nats: Option<f64>,
    /// How often the same token comes first.
    agreement_percent: Option<f64>,
    /// By the rule.
    pub verdict: Verdict,
    /// Why nothing was measured.
    why_not: Option<String>,
}

impl Row {
    /// Of what fp32 and the precision say of the documents.
    pub fn new(
        precision: Precision,
        plain: &[Document],
        documents: &[Document],
        tolerance: f64,
    ) -> Row {
        let changes_percent = moved(plain, documents);
        let loss = mean(documents, |document| document.loss);
        let interval_percent = mean_interval(&changes_percent);
        Row {
            loss_nats: Some(loss),
            perplexity: Some(loss.exp()),
            change_percent: Some(
                changes_percent.iter().sum::<f64>() / changes_percent.len() as f64,
            ),
            divergence_nats: Some(mean(documents, |document| document.divergence)),
            agreement_percent: Some(100.0 * mean(documents, |document| document.agreement)),
            verdict: Verdict::of(interval_percent, tolerance),
            interval_percent,
            changes_percent,
            ..Row::not_measured(precision, None)
        }
    }

    /// Of a precision that the board or the library does not have, or whose numbers are none.
    pub fn not_measured(precision: Precision, why_not: Option<String>) -> Row {
        Row {
            precision: precision.name(),
            arithmetic: precision.arithmetic(),
            loss_nats: None,
            perplexity: None,
            change_percent: None,
            interval_percent: None,
            changes_percent: Vec::new(),
            divergence_nats: None,
            agreement_percent: None,
            verdict: Verdict::NotMeasured,
            why_not,
        }
    }

    fn lines(&self, tolerance: f64) -> String {
        let Row { precision, arithmetic, .. } = self;
        let or_nan = |number: Option<f64>| number.unwrap_or(f64::NAN);
        let count = self.changes_percent.len();
        let said = match (self.verdict, self.interval_percent) {
            (Verdict::NotMeasured, _) => {
                let why = self.why_not.as_deref().unwrap_or("no reason is known");
                return format!("{precision:14} not measured, no verdict: {why}\n");
            }
            (Verdict::Within, _) => format!("within {tolerance} % of fp32"),
            (Verdict::Outside, _) => format!("outside {tolerance} % of fp32"),
            (Verdict::Undecided, Some(_)) => {
                format!(
                    "undecided: the interval straddles {tolerance} %, more documents are needed"
                )
            }
            (Verdict::Undecided, None) => {
                format!("undecided: {count} documents, {} are the fewest", statistics::FEWEST)
            }
        };
        let interval = match self.interval_percent {
            Some((low, high)) => format!("95 % interval of the mean {low:+.3} to {high:+.3} %"),
            None => format!("{count} documents are too few for an interval"),
        };
        format!(
            "{precision:14} {:.5} nats a token, perplexity {:.4}; change {:+.3} % in the mean of documents, {interval}; \
             divergence {:.3e} nats, same token first {:.2} %; {arithmetic}\n{:14} {said}\n",
            or_nan(self.loss_nats),
            or_nan(self.perplexity),
            or_nan(self.change_percent),
            or_nan(self.divergence_nats),
            or_nan(self.agreement_percent),
            ""
        )
    }
}

/// Everything that was asked and found. It is no evidence of a claim.
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
    options: Options,
    rule: &'static str,
    /// The GPU and its compute capability.
    gpu: String,
    versions: BTreeMap<&'static str, String>,
    /// Sizes of the model.
    model: String,
    documents: usize,
    /// Of a token in fp32, the mean of documents, and its perplexity.
    fp32_loss_nats: f64,
    fp32_perplexity: f64,
    /// In the order that was asked for, fp32 left out.
    pub rows: Vec<Row>,
    /// The exit code.
    pub status: i32,
}

impl Report {
    /// Of rows that were measured beside fp32.
    pub fn new(
        options: &Options,
        (gpu, model): (String, String),
        plain: &[Document],
        rows: Vec<Row>,
    ) -> Report {
        let loss = mean(plain, |document| document.loss);
        Report {
            schema: SCHEMA,
            kind: "measure-accuracy",
            started: harness::live::Clock::start().started(),
            source: crate::source(),
            command: harness::live::redacted_command(std::env::args()),
            options: options.clone(),
            rule: RULE,
            gpu,
            versions: kernels::libraries::versions().into_iter().collect(),
            model,
            documents: plain.len(),
            fp32_loss_nats: loss,
            fp32_perplexity: loss.exp(),
            status: status(&rows),
            rows,
        }
    }

    /// Writes all of it.
    ///
    /// Errors: the file cannot be written; it is named.
    pub fn write(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        harness::files::write(file, format!("{text}\n").as_bytes())
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let Options { document, window, tolerance, .. } = &self.options;
        let mut text = format!(
            "model          {}\ntext           {} documents of {document} tokens, windows of {window}\n\
             tolerance      {tolerance} % of fp32's cross-entropy, either way: {RULE}\n\
             fp32           {:.5} nats a token, perplexity {:.4}\n",
            self.model, self.documents, self.fp32_loss_nats, self.fp32_perplexity
        );
        self.rows.iter().for_each(|row| text.push_str(&row.lines(*tolerance)));
        let count = |verdict| self.rows.iter().filter(|row| row.verdict == verdict).count();
        let _ = writeln!(
            text,
            "verdict        {} within, {} outside, {} undecided, {} not measured; exit code {}",
            count(Verdict::Within),
            count(Verdict::Outside),
            count(Verdict::Undecided),
            count(Verdict::NotMeasured),
            self.status
        );
        text
    }
}

/// What the command exits with, numbered as the run's exit codes are: 0 only where every precision that was asked for
/// is within the tolerance.
fn status(rows: &[Row]) -> i32 {
    let any = |verdict| rows.iter().any(|row| row.verdict == verdict);
    if any(Verdict::Outside) {
        1
    } else if any(Verdict::Undecided) {
        3
    } else if any(Verdict::NotMeasured) || rows.is_empty() {
        4
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents<const N: usize>(losses: [f64; N]) -> Vec<Document> {
        let one = |loss| Document { tokens: 9, loss, divergence: 0.001, agreement: 0.75 };
        losses.map(one).to_vec()
    }

    fn row(losses: [f64; 6], tolerance: f64) -> Row {
        Row::new(Precision::Weights8, &documents([1.0; 6]), &documents(losses), tolerance)
    }

    #[track_caller]
    fn check(interval: Option<(f64, f64)>, expect: Verdict) {
        assert_eq!(Verdict::of(interval, 0.25), expect, "{interval:?}");
    }

    #[test]
    fn a_verdict_is_of_the_whole_interval() {
        check(Some((-0.25, 0.25)), Verdict::Within);
        check(Some((0.26, 0.9)), Verdict::Outside);
        check(Some((-0.9, -0.26)), Verdict::Outside);
        check(Some((0.24, 0.26)), Verdict::Undecided);
        check(Some((-0.3, 0.1)), Verdict::Undecided);
        check(Some((-9.0, 9.0)), Verdict::Undecided);
        check(None, Verdict::Undecided);
        for none in [(f64::NAN, 0.1), (-0.1, f64::NAN), (f64::NAN, -0.3), (0.3, f64::NAN)] {
            check(Some(none), Verdict::Undecided);
        }
    }

    #[test]
    fn lines_hold_change_interval_arithmetic_and_verdict() {
        // Changes of 1 to 6 %: a mean of 3.5, a deviation of 1.8708, and 2.5706 of it over the root of six.
        let found = row([1.01, 1.02, 1.03, 1.04, 1.05, 1.06], 0.25).lines(0.25);
        let begins = "w8a16          1.03500 nats a token, perplexity 2.8151";
        assert!(found.starts_with(begins), "{found}");
        assert!(found.contains("change +3.500 % in the mean of documents"), "{found}");
        assert!(found.contains("95 % interval of the mean +1.537 to +5.463 %"), "{found}");
        assert!(found.contains("same token first 75.00 %; emulated: "), "{found}");
        assert!(found.ends_with("\n               outside 0.25 % of fp32\n"), "{found}");
        let wide = row([1.01, 0.99, 1.01, 0.99, 1.01, 0.99], 0.25).lines(0.25);
        assert!(
            wide.contains("undecided: the interval straddles 0.25 %, more documents"),
            "{wide}"
        );
        let same = row([1.001; 6], 0.25).lines(0.25);
        assert!(same.ends_with(" within 0.25 % of fp32\n"), "{same}");
    }

    #[test]
    fn few_documents_decide_nothing() {
        let few = Row::new(Precision::F16, &documents([1.0; 5]), &documents([1.0; 5]), 0.25);
        assert_eq!(few.verdict, Verdict::Undecided);
        let lines = few.lines(0.25);
        assert!(lines.contains("5 documents are too few for an interval"), "{lines}");
        assert!(lines.contains("undecided: 5 documents, 6 are the fewest"), "{lines}");
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_precision() {
        let within = || row([1.0; 6], 0.25);
        let outside = || row([1.1; 6], 0.25);
        let undecided = || row([1.01, 0.99, 1.01, 0.99, 1.01, 0.99], 0.25);
        let none = || Row::not_measured(Precision::E4m3Block, Some("no such scales".into()));
        assert_eq!(status(&[within(), within()]), 0);
        assert_eq!(status(&[none(), undecided(), outside(), within()]), 1);
        assert_eq!(status(&[none(), undecided(), within()]), 3);
        assert_eq!(status(&[within(), none()]), 4);
        assert_eq!(status(&[]), 4);
        let said = none().lines(0.25);
        assert_eq!(said, "fp8-block      not measured, no verdict: no such scales\n");
    }

    #[test]
    fn the_file_has_what_the_lines_say() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            options: Options,
        }
        let given = ["accuracy", "--checkpoint", "m.safetensors", "--text", "t.txt"];
        let options = Command::parse_from(given).options;
        let rows = vec![
            row([1.001; 6], options.tolerance),
            Row::not_measured(Precision::E4m3Row, Some("no algorithm".into())),
        ];
        let names = ("H200, 9.0".to_owned(), "4 layers".to_owned());
        let report = Report::new(&options, names, &documents([1.0; 6]), rows);
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("accuracy.json");
        report.write(&file).expect("written");
        let text = std::fs::read_to_string(&file).expect("there");
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!((&value["kind"], &value["status"]), (&"measure-accuracy".into(), &4.into()));
        assert_eq!(value["rows"][0]["verdict"], "within");
        assert_eq!(value["rows"][0]["changes_percent"].as_array().map(Vec::len), Some(6));
        assert_eq!(value["rows"][1]["verdict"], "not-measured");
        assert_eq!(value["rows"][1]["why_not"], "no algorithm");
        assert_eq!(value["options"]["tolerance"], 0.25);
        let said = report.text();
        let ends = "1 within, 0 outside, 0 undecided, 1 not measured; exit code 4\n";
        assert!(said.ends_with(ends), "{said}");
    }
}
