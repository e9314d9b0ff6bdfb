//! Runs the program in a process of its own, over a root folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use touchstone_tests::{fake, folders};

use crate::ROLE;

/// What a process said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Said { code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The last line that an operator reads.
    pub fn last_line(&self) -> &str {
        self.out.trim_end().lines().last().unwrap_or_default()
    }

    /// Ended with this code and said this, and did not panic.
    #[track_caller]
    pub fn expect(&self, code: i32, part: &str) {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "{all}");
        assert!(all.contains(part), "{part:?} is not in:\n{all}");
        assert!(!all.contains("panicked"), "{all}");
    }

    /// One error with this code, which holds every one of these parts.
    #[track_caller]
    pub fn expect_error(&self, code: i32, parts: &[&str]) {
        self.expect(code, "error: ");
        assert_eq!(self.err.matches("error: ").count(), 1, "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in:\n{}", self.err);
        }
    }
}

/// A root folder of its own, with what the program may be told about the machine.
pub struct Machine {
    folder: tempfile::TempDir,
    role: &'static str,
    gpus: u32,
    variables: Vec<(String, String)>,
}

impl Machine {
    /// A fake node with two GPUs and nothing recorded.
    pub fn fake() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine { folder, role: "fake", gpus: 2, variables: Vec::new() };
        fake::lay(&machine.root());
        machine
    }

    /// A fake node with everything that [`recorded`] holds, and without a device.
    pub fn recorded() -> Machine {
        let machine = Machine { gpus: 0, ..Machine::fake() };
        folders::copy(recorded(), &machine.root());
        machine
    }

    /// The suites themselves on this machine, with every device hidden.
    pub fn without_device() -> Machine {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine { folder, role: "suites", gpus: 0, variables: Vec::new() };
        for name in ["golden", "fixtures", "checklists"] {
            let from = folders::repository().join(name);
            if from.is_dir() {
                folders::copy(&from, &machine.root().join(name));
            }
        }
        machine.with("CUDA_VISIBLE_DEVICES", "")
    }

    /// The same with another number of GPUs.
    pub fn gpus(self, gpus: u32) -> Machine {
        Machine { gpus, ..self }
    }

    /// The same with a variable.
    pub fn with(mut self, name: &str, value: &str) -> Machine {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with planted faults.
    pub fn planted(self, faults: &str) -> Machine {
        self.with(fake::FAULT, faults)
    }

    /// Takes all faults away.
    pub fn healthy(mut self) -> Machine {
        self.variables.retain(|(name, _)| name != fake::FAULT);
        self
    }

    /// The root folder.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A path in the root folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The command, with nothing of the environment that could change what it does.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let temporary = self.folder.path().join("tmp");
        fs::create_dir_all(&temporary).expect("folder made");
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        let ours = |name: &str| name.starts_with("TOUCHSTONE_") || name.starts_with("NEXTEST");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(ours) {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.root())
            .env_remove("CARGO_MANIFEST_DIR")
            .env(ROLE, self.role)
            .env("TMPDIR", temporary)
            .stdin(Stdio::null());
        match self.role {
            "fake" => {
                let gpus = self.gpus.to_string();
                command.env(fake::ROOT, self.root()).env(fake::GPUS, gpus)
            }
            _ => command.env("TOUCHSTONE_ROOT", self.root()),
        };
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    /// Takes the board's file away, and what names it.
    pub fn forget_board(&self) {
        fs::remove_file(self.path("golden/fake-board.toml")).expect("removed");
        fs::write(self.path("golden/targets.toml"), "schema = 1\ntarget = []\n").expect("written");
        fs::write(self.path("golden/rivals.toml"), "schema = 1\nrival = []\n").expect("written");
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Said {
        Said::of(&self.command(arguments).output().expect("started"))
    }

    /// Folders of runs that were made, in order of time.
    pub fn runs(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("target/hardware")) else { return Vec::new() };
        let mut runs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        runs.sort_by_key(|run| fs::metadata(run).and_then(|data| data.created()).ok());
        runs
    }

    /// The folder of the only run.
    #[track_caller]
    pub fn only_run(&self) -> PathBuf {
        let runs = self.runs();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }

    /// Measures both GPUs and returns the run's folder.
    #[track_caller]
    pub fn measure(&self) -> PathBuf {
        self.measure_on("2")
    }

    /// The same with so many GPUs.
    #[track_caller]
    pub fn measure_on(&self, gpus: &str) -> PathBuf {
        let before = self.runs();
        let said = self.run(&["--gpus", gpus]);
        let new: Vec<PathBuf> =
            self.runs().into_iter().filter(|run| !before.contains(run)).collect();
        assert_eq!(new.len(), 1, "{}{}", said.out, said.err);
        new[0].clone()
    }

    /// Records a run and returns its digest.
    #[track_caller]
    pub fn record(&self, run: &Path) -> String {
        let said = self.run(&["--record", text(run)]);
        said.expect(0, "recorded run ");
        let (_, digest) = said.last_line().rsplit_once("sha256:").expect("a digest");
        digest.to_owned()
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}

/// A root with three calibration runs, a blessed golden, a later run, and the checklists: made once,
/// by the commands that an operator uses.
pub fn recorded() -> &'static Path {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &MADE.get_or_init(make).1
}

fn make() -> (tempfile::TempDir, PathBuf) {
    let machine = Machine::fake();
    let calibration: Vec<String> = (0..3).map(|_| machine.record(&machine.measure())).collect();
    machine.run(&["--bless", &calibration.join(",")]).expect(0, "bandwidth::read: read_gbps = ");
    machine.record(&machine.measure());
    machine.run(&["--update-checklists"]).expect(0, "wrote checklists/00-fake.md");
    fs::remove_dir_all(machine.path("target")).expect("removed");
    let root = machine.root();
    (machine.folder, root)
}
