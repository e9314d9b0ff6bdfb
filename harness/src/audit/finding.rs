//! What the audit says: a finding with its file, line, rule and arithmetic.

use serde::{Serialize, Serializer};

/// The schema of `--format json`.
pub const SCHEMA: u32 = 1;

/// One contradiction, at one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The document, as it was given.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// Id of the rule.
    pub rule: &'static str,
    /// What is wrong, with the printed number.
    pub message: String,
    /// How it was computed; empty where nothing is.
    pub arithmetic: String,
    /// Names and values of what was compared.
    #[serde(serialize_with = "as_map")]
    pub values: Vec<(&'static str, f64)>,
    /// Where the other side stands, `file:line`.
    pub related: Vec<String>,
}

impl Finding {
    /// A finding without arithmetic.
    pub(crate) fn new(file: &str, line: u32, rule: &'static str, message: String) -> Finding {
        Finding {
            file: file.to_owned(),
            line,
            rule,
            message,
            arithmetic: String::new(),
            values: Vec::new(),
            related: Vec::new(),
        }
    }

    /// With how it was computed.
    pub(crate) fn shown(mut self, arithmetic: impl Into<String>) -> Finding {
        self.arithmetic = arithmetic.into();
        self
    }

    /// With a value.
    pub(crate) fn value(mut self, name: &'static str, value: f64) -> Finding {
        // JSON has no word for what is not finite.
        if value.is_finite() {
            self.values.push((name, value));
        }
        self
    }

    /// With the place of the other side.
    pub(crate) fn beside(mut self, file: &str, line: u32) -> Finding {
        self.related.push(format!("{file}:{line}"));
        self
    }
}

/// Names and values as one object.
pub(crate) fn as_map<S: Serializer>(
    values: &[(&'static str, f64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().copied())
}

/// Everything that one audit found, in order of file and line.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The documents that were read.
    pub documents: Vec<String>,
    /// What is wrong in them.
    pub findings: Vec<Finding>,
}

/// A figure with at most six significant digits.
pub(crate) fn figure(value: f64) -> String {
    crate::report::number(value)
}

/// With the decimals that the printed number had.
pub(crate) fn rounded(value: f64, half: f64, scale: f64) -> String {
    let step = 2.0 * half / scale;
    let decimals = if step < 1.0 { (-step.log10()).round().clamp(0.0, 12.0) as usize } else { 0 };
    let step = if step >= 1.0 { step } else { 1.0 };
    format!("{:.decimals$}", (value / scale / step).round_to(decimals) * step)
}

trait RoundTo {
    fn round_to(self, decimals: usize) -> f64;
}

impl RoundTo for f64 {
    /// Half away from zero, as people round; `format!` alone would go to even.
    fn round_to(self, decimals: usize) -> f64 {
        let power = 10_f64.powi(decimals as i32);
        (self * power).round() / power
    }
}
