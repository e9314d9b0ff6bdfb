//! A report for people, and as JSON.

use std::collections::BTreeMap;

use super::finding::Report;

/// One finding in two lines, and a last line that counts.
pub(crate) fn human(report: &Report) -> String {
    let mut out = String::new();
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in &report.findings {
        *rules.entry(finding.rule).or_default() += 1;
        out += &format!("{}:{}: {}: {}", finding.file, finding.line, finding.rule, finding.message);
        if !finding.related.is_empty() {
            out += &format!(" [{}]", finding.related.join(", "));
        }
        out.push('\n');
        if !finding.arithmetic.is_empty() {
            out += &format!("    {}\n", finding.arithmetic);
        }
    }
    let documents = match report.documents.len() {
        1 => "1 document".to_owned(),
        count => format!("{count} documents"),
    };
    if report.findings.is_empty() {
        return format!("{documents}, nothing found\n");
    }
    let counts: Vec<String> = rules.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
    let findings = match report.findings.len() {
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    out += &format!("{documents}, {findings}: {}\n", counts.join(", "));
    out
}

/// The report as one JSON document.
pub(crate) fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}
