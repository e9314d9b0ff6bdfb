//! The command line of `touchstone audit`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{AuditError, audit, output, sarif};

/// What is audited, and how it is told.
#[derive(Debug, Args)]
pub struct Options {
    /// Markdown files; those given together are held against each other
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
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

/// What is printed, and the exit code: 0 clean, 1 with findings.
pub fn run(options: &Options) -> Result<(String, i32), AuditError> {
    let report = audit(&options.files)?;
    let text = match options.format {
        Format::Human => output::human(&report),
        Format::Json => output::json(&report),
        Format::Sarif => sarif::render(&report),
    };
    Ok((text, i32::from(!report.findings.is_empty())))
}
