//! The command line of `touchstone audit`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{AuditError, Records, audit, fix, output, sarif};

/// What is audited, and how it is told.
#[derive(Debug, Args)]
pub struct Options {
    /// Markdown files; those given together are held against each other
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Rewrite bound numbers that differ from the recorded evidence by 5 % at most
    #[arg(long)]
    pub fix: bool,
    /// With --fix, rewrite those that differ by more as well
    #[arg(long, requires = "fix")]
    pub accept_drift: bool,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Two lines a finding, and a last line that counts
    Human,
    /// One document with all values
    Json,
    /// SARIF 2.1.0
    Sarif,
}

/// What a run of the command prints and returns.
#[derive(Debug)]
pub struct Ended {
    /// For standard output: the report.
    pub report: String,
    /// For standard error: what was rewritten, a line each.
    pub changed: Vec<String>,
    /// 0 clean, 1 with findings.
    pub status: i32,
}

/// Audits, after rewriting where that was asked for.
pub fn run(options: &Options, records: &dyn Records) -> Result<Ended, AuditError> {
    let changed = match options.fix {
        true => fix(&options.files, records, options.accept_drift)?,
        false => Vec::new(),
    };
    let report = audit(&options.files, records)?;
    let text = match options.format {
        Format::Human => output::human(&report),
        Format::Json => output::json(&report),
        Format::Sarif => sarif::render(&report),
    };
    Ok(Ended { report: text, changed, status: i32::from(!report.findings.is_empty()) })
}
