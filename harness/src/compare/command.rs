//! The command line of `touchstone compare`.

use clap::{Args, ValueEnum};

use super::weigh::Outcome;
use super::{CompareError, compare, open, output};
use crate::recorded;
use crate::world::World;

/// Which runs, and how they are told.
#[derive(Debug, Args)]
pub struct Options {
    /// The older run: the beginning of a recorded run's digest or id, a run's folder, or its
    /// archive
    pub a: String,
    /// The newer run, in the same forms
    pub b: String,
    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// List what is the same, too
    #[arg(long)]
    pub all: bool,
}

/// How a comparison is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, and a last line that sums up
    Human,
    /// One document with all values
    Json,
}

/// What a run of the command prints and returns.
#[derive(Debug)]
pub struct Ended {
    /// For standard output.
    pub text: String,
    /// 0, or 1 where B is worse.
    pub status: i32,
}

/// Compares the two runs.
pub fn run(options: &Options, world: &World) -> Result<Ended, CompareError> {
    let goldens = world.goldens().map_err(CompareError::Read)?;
    let recorded = recorded::load(&world.root).map_err(CompareError::Read)?;
    let (a, b) = (open(&recorded, &options.a)?, open(&recorded, &options.b)?);
    let comparison = compare(world, &goldens, &a.finished, &b.finished)?;
    let text = match options.format {
        Format::Human => output::human(&comparison, options.all),
        Format::Json => output::json(&comparison),
    };
    Ok(Ended { text, status: i32::from(comparison.count(Outcome::Worse) > 0) })
}
