//! The configuration of a watch, a TOML file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::WatchError;
use crate::evidence::Tier;

/// The schema that this build reads.
const SCHEMA: u32 = 1;

/// A watch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The schema, 1.
    pub schema: u32,
    /// Folder of the archives and of the history; from the file's folder where it is relative.
    pub archive: PathBuf,
    /// What is measured.
    pub run: Run,
    /// When; not wanted with `--once`.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// When a trend breaks.
    #[serde(default)]
    pub trend: Trend,
    /// What is called when something breaks.
    #[serde(default)]
    pub alert: Option<Alert>,
}

/// What is measured: options of the hardware run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The first GPUs by PCI bus.
    #[serde(default)]
    pub gpus: Option<u32>,
    /// These GPUs, in place of `gpus`.
    #[serde(default)]
    pub devices: Vec<u32>,
    /// How much is measured.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// Only these suites.
    #[serde(default)]
    pub suites: Vec<String>,
    /// Only claims whose id holds this.
    #[serde(default)]
    pub filter: Option<String>,
}

/// When a run begins.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Minutes from one begin to the next.
    pub every_minutes: u64,
}

/// When a trend breaks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trend {
    /// Over how many of the last runs.
    pub runs: usize,
}

impl Default for Trend {
    fn default() -> Trend {
        Trend { runs: 8 }
    }
}

/// What is called when something breaks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// A program and its arguments. A line for each thing that broke comes on its standard input.
    pub command: Vec<String>,
}

impl Config {
    /// Reads a configuration. A mistake is one error that names the file.
    pub fn read(file: &Path) -> Result<Config, WatchError> {
        let wrong = |what: String| WatchError::Config { file: file.display().to_string(), what };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let mut config = Config::parse(&text).map_err(wrong)?;
        let beside = file.parent().unwrap_or(Path::new(""));
        // The run has another working folder than its user.
        let archive = std::path::absolute(beside.join(&config.archive));
        config.archive = archive.map_err(|error| wrong(error.to_string()))?;
        Ok(config)
    }

    /// Reads the text of one.
    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        let Config { schema, run, schedule, trend, alert, .. } = &config;
        if *schema != SCHEMA {
            return Err(format!("schema {schema} is not {SCHEMA}"));
        }
        if run.gpus.is_some() != run.devices.is_empty() {
            return Err("run wants one of gpus and devices".to_owned());
        }
        if schedule.as_ref().is_some_and(|schedule| schedule.every_minutes == 0) {
            return Err("schedule.every_minutes is 0".to_owned());
        }
        if trend.runs < super::trend::FEWEST {
            let fewest = super::trend::FEWEST;
            return Err(format!("trend.runs is {}, {fewest} are the fewest", trend.runs));
        }
        if alert.as_ref().is_some_and(|alert| alert.command.is_empty()) {
            return Err("alert.command is empty".to_owned());
        }
        Ok(config)
    }

    /// The command line of a run that leaves its folder in `out`.
    pub(super) fn arguments(&self, out: &Path) -> Vec<String> {
        let mut line = vec!["--gate".to_owned(), "--out".to_owned(), out.display().to_string()];
        let mut option = |name: &str, value: String| line.extend([name.to_owned(), value]);
        match self.run.gpus {
            Some(gpus) => option("--gpus", gpus.to_string()),
            None => {
                let list: Vec<String> = self.run.devices.iter().map(u32::to_string).collect();
                option("--devices", list.join(","));
            }
        }
        if let Some(tier) = self.run.tier {
            option("--tier", format!("{tier:?}").to_lowercase());
        }
        self.run.suites.iter().for_each(|suite| option("--suite", suite.clone()));
        line.extend(self.run.filter.clone());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "schema = 1\narchive = \"runs\"\n[run]\ngpus = 8\n";

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let arguments =
            Config::parse(text).map(|config| config.arguments(Path::new("o")).join(" "));
        match arguments {
            Ok(line) => assert_eq!(line, expect),
            Err(error) => assert!(!expect.is_empty() && error.contains(expect), "{error}"),
        }
    }

    #[test]
    fn arguments_and_mistakes() {
        check(GOOD, "--gate --out o --gpus 8");
        let more =
            GOOD.replace("gpus = 8", "devices = [0, 3]\ntier = \"full\"\nsuites = [\"env\"]");
        check(&more, "--gate --out o --devices 0,3 --tier full --suite env");
        check(&format!("{GOOD}filter = \"hbm\"\n"), "--gate --out o --gpus 8 hbm");
        check(&GOOD.replace("gpus = 8", ""), "one of gpus and devices");
        check(&format!("{GOOD}devices = [1]\n"), "one of gpus and devices");
        check(&GOOD.replace("= 1", "= 2"), "schema 2 is not 1");
        check(&format!("{GOOD}gpu = 8\n"), "unknown field");
        check(&format!("{GOOD}[schedule]\nevery_minutes = 0\n"), "every_minutes is 0");
        check(&format!("{GOOD}[trend]\nruns = 3\n"), "6 are the fewest");
        check(&format!("{GOOD}[alert]\ncommand = []\n"), "alert.command is empty");
    }
}
