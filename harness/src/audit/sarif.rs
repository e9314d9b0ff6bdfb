//! SARIF 2.1.0, which code hosts show beside the line.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::finding::{Finding, Report};
use super::rules::RULES;

/// The report as SARIF.
pub(crate) fn render(report: &Report) -> String {
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| json!({"id": rule.id, "shortDescription": {"text": rule.wants}}))
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "touchstone audit",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": report.findings.iter().map(result).collect::<Vec<_>>(),
        }],
    });
    serde_json::to_string_pretty(&log).unwrap_or_default() + "\n"
}

fn result(finding: &Finding) -> Value {
    let text = match finding.arithmetic.as_str() {
        "" => finding.message.clone(),
        arithmetic => format!("{}; {arithmetic}", finding.message),
    };
    let mut result = json!({
        "ruleId": finding.rule,
        "level": "error",
        "message": {"text": text},
        "locations": [location(&finding.file, finding.line)],
        "properties": {"values": finding.values.iter().copied().collect::<BTreeMap<_, _>>()},
    });
    if let Some(index) = RULES.iter().position(|rule| rule.id == finding.rule) {
        result["ruleIndex"] = json!(index);
    }
    let related = finding.related.iter().filter_map(|place| {
        let (file, line) = place.rsplit_once(':')?;
        Some(location(file, line.parse().ok()?))
    });
    let related: Vec<Value> = related.collect();
    if !related.is_empty() {
        result["relatedLocations"] = Value::Array(related);
    }
    result
}

fn location(file: &str, line: u32) -> Value {
    json!({"physicalLocation": {
        "artifactLocation": {"uri": uri(file)},
        "region": {"startLine": line.max(1)},
    }})
}

/// A relative reference: slashes, and nothing that a URI reserves.
fn uri(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let bytes = file.trim_start_matches("./").bytes();
    bytes
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
