//! A watch over the fake node: rounds whose runs are made by hand.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use harness::files;
use harness::watch::command::{self, Options};
use harness::watch::{Config, Entry, HISTORY, WatchError};
use touchstone_tests::{fake, folders, specimens};

/// A bound of the fake board, as `--bless` writes it.
const BOUND: &str = "\n[claims.\"bandwidth::read\"]\nread_gbps = { golden = 1000.0, worse = 0.01, \
                     because = \"made up\", runs = [\"a\", \"b\", \"c\"] }\n";

const CONFIG: &str = "schema = 1\narchive = \"runs\"\n[run]\ngpus = 2\n[trend]\nruns = 6\n";

/// A root with a golden, and a configuration beside it.
struct Watched {
    folder: tempfile::TempDir,
}

impl Watched {
    fn new(more: &str) -> Watched {
        let folder = tempfile::tempdir().expect("a folder");
        fake::lay(folder.path());
        let board = folder.path().join("golden/fake-board.toml");
        let golden = fs::read_to_string(&board).expect("read") + BOUND;
        fs::write(&board, golden).expect("written");
        fs::write(folder.path().join("watch.toml"), format!("{CONFIG}{more}")).expect("written");
        Watched { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A round whose run reads this, with this exit code; none where there is no run.
    fn round(&self, number: u32, read_gbps: Option<f64>, code: i32) -> Result<i32, WatchError> {
        let measure = |arguments: &[String]| {
            let out = arguments.iter().skip_while(|argument| *argument != "--out").nth(1);
            if let Some(read_gbps) = read_gbps {
                leave(Path::new(out.expect("a folder")), number, read_gbps);
            }
            Ok(code)
        };
        let options = Options { config: self.path("watch.toml"), once: true, rounds: None };
        let root = self.folder.path().to_owned();
        fake::with_world(root, 0, |world| command::run(&options, world, &measure))
    }

    fn history(&self) -> Vec<Entry> {
        let text = fs::read_to_string(self.path("runs").join(HISTORY)).expect("a history");
        text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    }
}

/// Leaves a run as the runner does.
fn leave(out: &Path, number: u32, read_gbps: f64) {
    let run = format!("2026112{number}T031500Z-0000000{number}");
    let folder = out.join(&run);
    let evidence = [specimens::stream(&run, read_gbps, 0.96 * 1000.0)];
    let finished = specimens::recorded(&folder.join("evidence"), &run, &evidence);
    let line = finished.run.line().expect("a line") + "\n";
    files::write(&folder.join("run.json"), line.as_bytes()).expect("written");
}

#[test]
fn a_good_round_is_archived_and_written_down() {
    let watched = Watched::new("");
    assert_eq!(watched.round(1, Some(1000.0), 0).expect("a round"), 0);
    assert_eq!(watched.round(2, Some(1001.0), 0).expect("a round"), 0);
    let history = watched.history();
    assert_eq!(history.len(), 2);
    assert_eq!(history[1].alerts, Vec::<String>::new());
    let read = history[1].figures.iter().find(|figure| figure.claim == "bandwidth::read");
    let read = read.expect("a figure");
    assert_eq!((read.verdict.as_str(), read.value), ("verified", Some(1001.0)));
    let archives = ["20261121T031500Z-00000001.tar", "20261122T031500Z-00000002.tar"];
    for (entry, archive) in history.iter().zip(archives) {
        assert_eq!(entry.archive.as_deref(), Some(archive));
        let opened =
            harness::compare::open(&[], &watched.path("runs").join(archive).display().to_string());
        assert_eq!(Some(&opened.expect("opened").finished.sha256), entry.run_sha256.as_ref());
    }
    let left = fs::read_dir(watched.path("runs")).expect("read").count();
    assert_eq!(left, 3, "two archives and the history");
}

#[test]
fn a_golden_that_breaks_alerts_by_code_and_command() {
    let watched =
        Watched::new("[alert]\ncommand = [\"sh\", \"-c\", \"cat > \\\"$0\\\"\", \"ALERTS\"]\n");
    let alerts = watched.path("alerts.txt");
    folders::edit(&watched.path("watch.toml"), "ALERTS", &alerts.display().to_string());
    assert_eq!(watched.round(1, Some(1000.0), 0).expect("a round"), 0);
    assert!(!alerts.exists());
    assert_eq!(watched.round(2, Some(950.0), 1).expect("a round"), 1);
    let told = fs::read_to_string(&alerts).expect("told");
    assert!(told.starts_with("bandwidth::read REGRESSED: read_gbps = 950"), "{told}");
    assert_eq!(watched.history()[1].alerts.join("\n") + "\n", told);
}

#[test]
fn a_trend_breaks_while_every_run_is_good() {
    let watched = Watched::new("");
    for number in 1..6 {
        let value = 1009.0 - 3.0 * f64::from(number);
        assert_eq!(watched.round(number, Some(value), 0).expect("a round"), 0, "{number}");
    }
    assert_eq!(watched.round(6, Some(991.0), 0).expect("a round"), 1);
    let history = watched.history();
    let expect = "bandwidth::read TREND: worse by 1.5 % of the golden over the last 6 runs, tolerance 1 \
                  %: 1006 to 991 GB/s";
    assert_eq!(history[5].alerts, [expect]);
    assert!(history.iter().all(|entry| entry.exit_code == 0));
}

#[test]
fn a_round_without_a_run_is_written_down() {
    let watched = Watched::new("");
    assert_eq!(watched.round(1, None, 2).expect("a round"), 2);
    let entry = watched.history().remove(0);
    assert_eq!(entry.run, None);
    assert_eq!(entry.alerts, ["the run ended with exit code 2: no run was left"]);
}

#[test]
fn what_cannot_be_watched_is_an_error() {
    let watched = Watched::new("[alert]\ncommand = [\"false\"]\n");
    let error = watched.round(1, Some(950.0), 1).unwrap_err().to_string();
    assert!(error.contains("\"false\" failed"), "{error}");
    // The round is written down before the command is called.
    assert_eq!(watched.history().len(), 1);
    fs::write(watched.path("runs").join(HISTORY), "{\n").expect("written");
    let error = watched.round(2, Some(950.0), 1).unwrap_err().to_string();
    assert!(error.contains("history.jsonl:1: "), "{error}");
}

#[test]
fn rounds_are_counted_and_the_gravest_code_stays() {
    let watched = Watched::new("[schedule]\nevery_minutes = 60\n");
    let called = Cell::new(0);
    let measure = |_: &[String]| {
        called.set(called.get() + 1);
        Ok(3)
    };
    let config = watched.path("watch.toml");
    let root = || watched.folder.path().to_owned();
    let options = Options { config: config.clone(), once: false, rounds: Some(1) };
    let code = fake::with_world(root(), 0, |world| command::run(&options, world, &measure));
    assert_eq!((code.expect("watched"), called.get()), (3, 1));
    fs::write(&config, CONFIG).expect("written");
    let options = Options { config, once: false, rounds: None };
    let error = fake::with_world(root(), 0, |world| command::run(&options, world, &measure));
    assert!(error.unwrap_err().to_string().contains("no [schedule], and no --once"));
}

#[test]
fn the_template_is_a_configuration() {
    let config = Config::read(&folders::repository().join("ci/watch.toml")).expect("read");
    assert!(config.alert.is_some());
}
