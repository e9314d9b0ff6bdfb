//! The command line: libtest's options, our own, and the environment variables that stand for them.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};

use crate::claim::Claim;
use crate::evidence::Tier;

/// Options of the hardware run, beside libtest's own.
#[derive(Parser, Debug, Clone)]
#[command(
    name = "hardware",
    disable_version_flag = true,
    about = "Measures the claims of Touchstone on this node, or judges recorded evidence."
)]
pub struct Options {
    /// libtest's options: filter, --list, --exact, --skip, --format, ...
    #[command(flatten)]
    pub libtest: libtest_mimic::Arguments,

    /// Measure on the first N GPUs by PCI bus
    #[arg(long, value_name = "N", env = "TOUCHSTONE_GPUS", conflicts_with_all = ["devices", "recorded", "evidence"])]
    pub gpus: Option<u32>,

    /// Measure on these GPUs, by PCI bus, for example 0,3,5
    #[arg(long, value_name = "LIST", env = "TOUCHSTONE_DEVICES", value_delimiter = ',', conflicts_with_all = ["recorded", "evidence"])]
    pub devices: Option<Vec<u32>>,

    /// Only claims of this suite; may be given several times
    #[arg(long, value_name = "S", env = "TOUCHSTONE_SUITE", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub suite: Vec<String>,

    /// How much is measured [default: quick]
    #[arg(long, value_name = "quick|full|soak", env = "TOUCHSTONE_TIER", value_parser = tier)]
    pub tier: Option<Tier>,

    /// Folder in which the run's folder is made [default: target/hardware]
    #[arg(long, value_name = "DIR", env = "TOUCHSTONE_OUT")]
    pub out: Option<PathBuf>,

    /// Write the JUnit file here too
    #[arg(long, value_name = "PATH", env = "TOUCHSTONE_JUNIT")]
    pub junit: Option<PathBuf>,

    /// Judge the recorded evidence; this machine is not tested
    #[arg(long, env = "TOUCHSTONE_RECORDED", value_parser = BoolishValueParser::new(), num_args = 0, default_missing_value = "true")]
    pub recorded: bool,

    /// Judge the finished run in this folder
    #[arg(long, value_name = "DIR", env = "TOUCHSTONE_EVIDENCE", conflicts_with = "recorded")]
    pub evidence: Option<PathBuf>,

    /// Write the whole run as one tar
    #[arg(long, value_name = "FILE", env = "TOUCHSTONE_ARCHIVE")]
    pub archive: Option<PathBuf>,

    /// Bring a finished run (its folder or its tar) into the repository
    #[arg(long, value_name = "RUN")]
    pub record: Option<PathBuf>,

    /// Write the checklists again from the recorded evidence
    #[arg(long)]
    pub update_checklists: bool,

    /// Make goldens from these recorded runs (beginnings of their digests, three or more)
    #[arg(long, value_name = "RUNS", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub bless: Option<Vec<String>>,

    /// Why a looser bound or a tolerance above 5 % is accepted, with --bless
    #[arg(long, value_name = "WHY", requires = "bless", value_parser = NonEmptyStringValueParser::new())]
    pub accept_worse: Option<String>,

    /// Begin nothing that is not expected to end within so many seconds of the run: it is not run
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["recorded", "evidence"])]
    pub time_limit: Option<u64>,

    /// Behind the health cases begin with those whose recorded evidence does not hold today (stale, red, missing), or is of
    /// fewer GPUs where all work together
    #[arg(long, conflicts_with_all = ["recorded", "evidence"])]
    pub due_first: bool,

    /// For CI: stale evidence fails, and nothing recorded stands for a live run
    #[arg(long, env = "TOUCHSTONE_GATE", value_parser = BoolishValueParser::new(), num_args = 0, default_missing_value = "true")]
    pub gate: bool,

    /// Measure although other processes use the GPUs; such a run never ticks or blesses
    #[arg(long)]
    pub shared: bool,

    /// Plant faults that raise an Xid too, and prove that the node stays usable
    #[arg(long, env = "TOUCHSTONE_SELF_TEST", value_parser = BoolishValueParser::new(), num_args = 0, default_missing_value = "true")]
    pub self_test: bool,

    /// Run one case as a child (internal)
    #[arg(long, value_name = "ASSIGNMENT", hide = true)]
    pub child: Option<PathBuf>,
}

/// Variables that may be set.
const VARIABLES: &[&str] = &[
    "TOUCHSTONE_GPUS",
    "TOUCHSTONE_DEVICES",
    "TOUCHSTONE_SUITE",
    "TOUCHSTONE_TIER",
    "TOUCHSTONE_OUT",
    "TOUCHSTONE_JUNIT",
    "TOUCHSTONE_RECORDED",
    "TOUCHSTONE_EVIDENCE",
    "TOUCHSTONE_ARCHIVE",
    "TOUCHSTONE_GATE",
    "TOUCHSTONE_SELF_TEST",
    "TOUCHSTONE_ROOT",
];

/// Tiers by name.
fn tier(text: &str) -> Result<Tier, String> {
    match text {
        "quick" => Ok(Tier::Quick),
        "full" => Ok(Tier::Full),
        "soak" => Ok(Tier::Soak),
        _ => Err("a tier is quick, full or soak".into()),
    }
}

/// What the options come to.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Measure on the first N GPUs or on these.
    Live(Selection),
    /// Judge the recorded evidence.
    Recorded,
    /// Judge a finished run.
    Finished(PathBuf),
}

/// GPUs by PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The first N.
    First(u32),
    /// These.
    These(Vec<u32>),
}

/// An empty or unknown TOUCHSTONE_ variable is an error that names it: a typo must not turn a gate
/// into something weaker.
pub fn check_environment(variables: impl Iterator<Item = (String, String)>) -> Result<(), String> {
    for (name, value) in variables.filter(|(name, _)| name.starts_with("TOUCHSTONE_")) {
        if !VARIABLES.contains(&name.as_str()) {
            return Err(format!("{name} is no variable of this program"));
        }
        if value.trim().is_empty() {
            return Err(format!("{name} is set and empty"));
        }
    }
    Ok(())
}

impl Options {
    /// What to do. `device_visible`: an NVIDIA device is visible. `nextest`: running under nextest.
    pub fn mode(&self, device_visible: bool, nextest: bool) -> Result<Mode, String> {
        let selection = match (self.gpus, &self.devices) {
            (Some(0), _) => return Err("--gpus 0 measures nothing; use --recorded".into()),
            (Some(count), _) => Some(Selection::First(count)),
            (None, Some(list)) => Some(Selection::These(list.clone())),
            (None, None) => None,
        };
        if let Some(folder) = &self.evidence {
            return Ok(Mode::Finished(folder.clone()));
        }
        if self.recorded {
            return Ok(Mode::Recorded);
        }
        if let Some(selection) = selection {
            return match nextest && !self.libtest.list {
                true => Err(NEXTEST.into()),
                false => Ok(Mode::Live(selection)),
            };
        }
        if self.libtest.list {
            return Ok(Mode::Recorded);
        }
        if device_visible {
            return Err("an NVIDIA device is visible: choose --gpus N (measure this node) or \
                        --recorded (judge recorded evidence, this node is not tested)"
                .into());
        }
        if self.gate {
            return Err("--gate without a device judges nothing live: add --recorded to gate the \
                        recorded evidence"
                .into());
        }
        Ok(Mode::Recorded)
    }

    /// Options that say something only about a live run.
    pub fn check_for(&self, mode: &Mode) -> Result<(), String> {
        if self.libtest.test_threads == Some(0) {
            return Err("--test-threads 0 runs nothing".into());
        }
        let live = matches!(mode, Mode::Live(_));
        let misplaced = [
            (self.shared, "--shared"),
            (self.self_test, "--self-test"),
            (self.tier.is_some(), "--tier"),
            (self.archive.is_some(), "--archive"),
            (self.time_limit.is_some(), "--time-limit"),
            (self.due_first, "--due-first"),
        ];
        match misplaced.iter().find(|(given, _)| *given && !live) {
            Some((_, name)) => Err(format!("{name} speaks of a live run: add --gpus N")),
            None => Ok(()),
        }
    }

    /// Refuses suites that do not exist.
    pub fn check_suites(&self, claims: &[&'static Claim]) -> Result<(), String> {
        for suite in &self.suite {
            if !claims.iter().any(|claim| claim.suite() == suite) {
                let mut known: Vec<&str> = claims.iter().map(|claim| claim.suite()).collect();
                known.dedup();
                return Err(format!("no suite {suite}; there are {}", known.join(", ")));
            }
        }
        Ok(())
    }
}

const NEXTEST: &str = "nextest runs every test in a process of its own, so nothing can be measured \
                       under it: measure with `cargo test --test hardware -- --gpus N`, then let \
                       nextest judge that run with TOUCHSTONE_EVIDENCE=target/hardware/<run>";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &[&str], device_visible: bool, expect: Result<Mode, &str>) {
        let line = std::iter::once("hardware").chain(arguments.iter().copied());
        let options = Options::try_parse_from(line).expect("parses");
        match (options.mode(device_visible, false), expect) {
            (Ok(mode), Ok(expected)) => assert_eq!(mode, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_visible_device_and_no_choice_is_refused() {
        check(&[], true, Err("choose --gpus N"));
        check(&[], false, Ok(Mode::Recorded));
        check(&["--recorded"], true, Ok(Mode::Recorded));
        check(&["--gpus", "8"], true, Ok(Mode::Live(Selection::First(8))));
        check(&["--devices", "0,3,5"], true, Ok(Mode::Live(Selection::These(vec![0, 3, 5]))));
    }

    #[test]
    fn a_gate_is_never_green_on_recorded_evidence_by_accident() {
        check(&["--gate"], false, Err("add --recorded"));
        check(&["--gate", "--recorded"], false, Ok(Mode::Recorded));
        check(&["--gpus", "0"], false, Err("measures nothing"));
    }

    #[test]
    fn conflicting_choices_do_not_parse() {
        for line in [
            &["hardware", "--gpus", "2", "--recorded"][..],
            &["hardware", "--gpus", "2", "--devices", "0"],
            &["hardware", "--gpus", "many"],
            &["hardware", "--tier", "fast"],
            &["hardware", "--accept-worse", "because"],
        ] {
            assert!(Options::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn empty_and_unknown_variables_are_errors() {
        let set = |name: &str, value: &str| {
            check_environment(std::iter::once((name.to_owned(), value.to_owned())))
        };
        assert!(set("TOUCHSTONE_GPUS", "8").is_ok());
        assert!(set("TOUCHSTONE_GPUS", "").unwrap_err().contains("empty"));
        assert!(set("TOUCHSTONE_GPU", "8").unwrap_err().contains("no variable"));
        assert!(set("HOME", "").is_ok());
    }

    #[test]
    fn nextest_only_judges() {
        let options = Options::try_parse_from(["hardware", "--gpus", "1"]).expect("parses");
        assert!(options.mode(true, true).unwrap_err().contains("nextest"));
    }
}
