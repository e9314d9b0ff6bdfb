//! Hangs planted in every stage of a model are ended, named and written down; healthy passes are left alone, and
//! what runs afterwards has the same bits.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope, control};
use harness::child::Redactor;
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use harness::watchdog::{self, Budgets, Watched, bundle};
use kernels::{fault, flight};

use super::forward::{BITS, apart, room};
use super::memory;
use super::stages::{self, Job, Stage};
use crate::environment;
use crate::selftest::PLANT;
use crate::tensor_parallel::bench::Bench;

/// From the end of the budget of a stage that hangs to the end of its process.
pub const LATE: &str = "late_s";
/// Planted hangs that had not begun, that were not named by their stage, or of which a process is left.
pub const MISNAMED: &str = "misnamed_count";
/// Pieces that a bundle lacks, or that name the machine.
pub const PIECES: &str = "missing_pieces_count";
/// Healthy passes that were ended.
pub const ALARMS: &str = "false_alarms_count";

const NO_BUDGET: Control =
    control("no-budget", "the stage that hangs has no budget", LATE, Expect::Refuted);
const MUTE: Control =
    control("mute", "the stage that hangs is not reported", MISNAMED, Expect::Refuted);
const NO_THREADS: Control =
    control("no-threads", "a bundle's file of threads is taken away", PIECES, Expect::Refuted);
const NO_STACKS: Control =
    control("no-stacks", "a bundle's file of stacks is taken away", PIECES, Expect::Refuted);
const SILENT: Control = control(
    "silent",
    "of a bundle's stacks that of the first thread is taken away",
    PIECES,
    Expect::Refuted,
);
const A_PATH: Control =
    control("a-path", "a folder's name is written into a bundle's log", PIECES, Expect::Refuted);
const FLIPPED_AFTERWARDS: Control = control(
    "flipped-bit",
    "the lowest bit of one weight is flipped afterwards",
    BITS,
    Expect::Refuted,
);
const NO_TIME: Control =
    control("no-time", "a healthy pass has no time to run", ALARMS, Expect::Refuted);

/// Each metric's own.
pub static CONTROLS: [Control; 10] = [
    NO_BUDGET,
    MUTE,
    NO_THREADS,
    NO_STACKS,
    SILENT,
    control(
        "no-flight",
        "the flight record of the hang in run is taken away",
        PIECES,
        Expect::Refuted,
    ),
    control(
        "old-flight",
        "what the flight record of the hang in run holds behind its last mark is taken away",
        PIECES,
        Expect::Refuted,
    ),
    A_PATH,
    FLIPPED_AFTERWARDS,
    NO_TIME,
];

/// The same where the smart way alone hangs.
pub static SMART_CONTROLS: [Control; 10] = [
    NO_BUDGET,
    MUTE,
    NO_THREADS,
    NO_STACKS,
    SILENT,
    control("no-flight", "a bundle's flight record is taken away", PIECES, Expect::Refuted),
    control(
        "old-flight",
        "what a bundle's flight record holds behind its last mark is taken away",
        PIECES,
        Expect::Refuted,
    ),
    A_PATH,
    FLIPPED_AFTERWARDS,
    NO_TIME,
];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::hangs",
    revision: 2,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: true,
    procedure: "Starts this executable again and again as a process that takes a model through its stages (open, \
                compile, weights, tune, capture, run) under a watchdog with a budget for each. With two layers of the \
                model of seed 002: healthy; with a loop of the host that never ends: in compile, all kernels compiled \
                anew, between the first and the second; in tune, behind the first algorithm that the search of the \
                first product enqueues; in capture, behind a pass call by call, while a stream records that has \
                recorded nothing yet; and with a kernel that never ends behind the pass of run. A process whose stage \
                passes its budget gets SIGTERM, two seconds later SIGKILL, and leaves a bundle: stage and budget, \
                command, environment, versions, log, threads, the stacks that it wrote of them, flight record. Behind \
                the mark of its stage the record must hold: of compile, the names of both kernels, the second last; of tune, a product, last; of \
                capture, a product; of run, the kernel that never ends, last. Behind the hang in capture the same \
                pass runs call by call with the heuristic's algorithms, behind the last hang as before, and the \
                hashes of both are compared with those of the first. With all 48 layers over 4 sequences of 8192 \
                tokens, all kernels compiled anew: healthy, with searched algorithms as a graph, and with the \
                heuristic's call by call.",
    samples: 0,
    expected_s: 102.0,
    deadline_s: 900.0,
    kernels: &["model", "operands", "pattern", "timing", "quantise", "fault"],
    integrity: &[],
    controls: &CONTROLS,
    run,
};

/// One GPU, the smart way.
pub static SMART_CASE: Case = Case {
    id: "model::hangs-smart",
    revision: 1,
    figures_since: 1,
    procedure: "As model::hangs, where what a pass runs as is made ready as `measure model --exec-mode smart` does it, in the \
                place of tune and capture: behind a pass with the heuristic's algorithms, in a stage of its own. With two \
                layers of the model of seed 002: healthy; with a loop of the host that never ends behind the first algorithm \
                that the smart way's search of the first product enqueues, of which the flight record must hold a product, \
                last, behind the mark of the stage; the same pass call by call with the heuristic's algorithms; and as \
                before. The hashes of the last two are compared with those of the first. With all 48 layers over 4 \
                sequences of 8192 tokens, all kernels compiled anew: healthy. A smart way that was not ready within 180 s \
                of its own fails the case.",
    expected_s: 75.0,
    controls: &SMART_CONTROLS,
    run: smart,
    ..CASE
};

/// What a stage that is to hang may take: far more than it takes with two layers.
pub const SHORT: Duration = Duration::from_secs(6);
/// What any other stage may take, 48 layers of it too.
const LONG: Duration = Duration::from_secs(240);
/// All stages of a process together.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same where the stage that hangs has no budget.
const UNWATCHED: Duration = Duration::from_secs(25);

/// Layers of a model that hangs.
const LAYERS: u32 = 2;
/// Hashes of a rank: of its residual stream and of its logits.
const HASHES: usize = 2;

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let stages = [Stage::Compile, Stage::Tune, Stage::Capture, Stage::Run];
    on_one(assignment, recorder)?.measured(&stages, recorder)
}

fn smart(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    on_one(assignment, recorder)?.smart().measured(&[Stage::Smart], recorder)
}

/// Trials on one GPU with room for the large model.
fn on_one(assignment: &Assignment, recorder: &mut Recorder) -> Result<Trials, Stop> {
    // Compiles what the other processes take from the cache, and writes down which kernels that is.
    let bench = Bench::open(assignment, recorder)?;
    let (gpu, _) = bench.lab.only()?;
    bench.lab.module(gpu, &fault::SOURCE, recorder)?;
    let trials = Trials::new(assignment, recorder, bench.indices(1))?;
    let large = trials.large(true);
    room(gpu, memory::formula(&large.config(), &large.problem()))?;
    bench.lab.close(recorder);
    Ok(trials)
}

/// Processes over the same GPUs, one behind the other.
pub struct Trials {
    /// Program and arguments before the job.
    program: Vec<OsString>,
    /// [`SHORT`] and [`UNWATCHED`].
    short: Duration,
    unwatched: Duration,
    /// Where bundles and flight records lie.
    folder: PathBuf,
    /// Where a bundle lies that nobody planted, which stays.
    kept: PathBuf,
    account: bundle::Account,
    redactor: Redactor,
    on: Vec<u32>,
    seed: u64,
    cache: PathBuf,
    /// What is searched and recorded is so by the smart way.
    smart: bool,
}

impl Trials {
    /// Over the GPUs of these indices; kernels have been compiled.
    pub fn new(assignment: &Assignment, recorder: &Recorder, on: &[u32]) -> Result<Trials, Stop> {
        let work = assignment.result.parent().unwrap_or(Path::new("."));
        let folder = work.join(assignment.case.replace("::", "-"));
        std::fs::create_dir_all(&folder)?;
        let run = work.parent().unwrap_or(work);
        let name = run.file_name().unwrap_or_default();
        let account = bundle::Account {
            environment: environment::of_the_device(),
            versions: versions(recorder),
            ..Default::default()
        };
        let own = harness::live::own_executable().map_err(Stop::Error)?;
        Ok(Trials {
            program: vec![own.into(), PLANT.into(), stages::NAME.into()],
            short: SHORT,
            unwatched: UNWATCHED,
            folder,
            kept: assignment.cache.with_file_name("hangs").join(name),
            account,
            redactor: redactor_of(assignment, run),
            on: on.to_vec(),
            seed: assignment.seed,
            cache: assignment.cache.clone(),
            smart: false,
        })
    }

    /// The same of the smart way.
    pub fn smart(self) -> Trials {
        Trials { smart: true, ..self }
    }

    /// Two layers, two sequences of 1024 tokens.
    fn small(&self) -> Job {
        Job {
            layers: LAYERS,
            degree: self.on.len() as u32,
            batches: 2,
            tokens: 1024,
            searched: true,
            smart: self.smart,
            fresh: false,
            seed: self.seed,
            cache: self.cache.clone(),
            flight: self.folder.join("flight"),
            hang: None,
            mute: false,
            flip: false,
        }
    }

    /// The model and the workload of which 004 says that its compilation hangs.
    pub fn large(&self, searched: bool) -> Job {
        let smart = self.smart && searched;
        Job { layers: 48, batches: 4, tokens: 8192, searched, smart, fresh: true, ..self.small() }
    }

    /// Hangs in these stages, the passes around them, the controls, and the large model.
    pub fn measured(&self, stages: &[Stage], recorder: &mut Recorder) -> Result<(), Stop> {
        let wanted = self.healthy("before", &self.small(), recorder)?;
        for stage in stages {
            let hung = self.planted(*stage, recorder)?;
            if let Some(hang) = hung.hang.filter(|_| *stage == self.last_of_searched()) {
                let (stage, most) = (hang.stage, hang.most.as_secs_f64());
                let why =
                    format!("{stage} passed {most} s: call by call, the heuristic's algorithms");
                recorder.option("fallback", why);
                let job = Job { searched: false, smart: false, ..self.small() };
                let bits = self.healthy("fallback", &job, recorder)?;
                recorder.metric(self.bits("fallback", &bits, &wanted));
            }
        }
        let bits = self.healthy("afterwards", &self.small(), recorder)?;
        recorder.metric(self.bits("afterwards", &bits, &wanted));
        let flipped = self.watched(&Job { flip: true, ..self.small() }, &[], PATIENCE)?;
        let bits = self.hashes("flipped-bit", &flipped)?;
        recorder.control("flipped-bit", self.bits("afterwards", &bits, &wanted));
        if self.smart {
            self.faults((Stage::Smart, Stage::Smart), recorder)?;
            self.healthy("48-layers-smart", &self.large(true), recorder)?;
            return Ok(());
        }
        self.faults((Stage::Tune, Stage::Run), recorder)?;
        self.healthy("48-layers-searched", &self.large(true), recorder)?;
        self.healthy("48-layers-plain", &self.large(false), recorder)?;
        Ok(())
    }

    /// The last stage that only the searched way has: what hangs there can be run plainly.
    fn last_of_searched(&self) -> Stage {
        match self.on.len() {
            _ if self.smart => Stage::Smart,
            1 => Stage::Capture,
            _ => Stage::Tune,
        }
    }

    /// Hashes that differ; those of a pass that has not all of them do.
    fn bits(&self, pass: &str, found: &[u64], wanted: &[u64]) -> Metric {
        let whole = found.len() == HASHES * self.on.len();
        let value = apart(found, wanted) + f64::from(u8::from(!whole));
        Metric::exact(BITS, &[("pass", pass)], &self.on, value)
    }

    /// The hashes of a pass; none where it was ended.
    ///
    /// Errors: it ended by itself and without its hashes.
    fn hashes(&self, name: &str, watched: &Watched) -> Result<Vec<u64>, Stop> {
        let said = watched.said(stages::BITS).unwrap_or_default();
        let hashes = said.split_whitespace().map(|hash| u64::from_str_radix(hash, 16));
        let hashes: Vec<u64> = hashes.collect::<Result<_, _>>()?;
        if watched.hang.is_none() && hashes.len() != HASHES * self.on.len() {
            let said = watched.finished.log.excerpt(600, &self.redactor);
            let end = &watched.finished.end;
            return Err(Stop::Error(format!("{name}: ended with {end:?}: {said}")));
        }
        Ok(hashes)
    }

    /// Starts a process; the stages named have a short budget, all others a long one.
    fn watched(&self, job: &Job, short: &[Stage], patience: Duration) -> Result<Watched, Stop> {
        let all = [
            Stage::Open,
            Stage::Compile,
            Stage::Weights,
            Stage::Tune,
            Stage::Capture,
            Stage::Smart,
            Stage::Run,
        ];
        let most = |stage: &Stage| if short.contains(stage) { self.short } else { LONG };
        let stages: Vec<(&str, Duration)> =
            all.iter().map(|stage| (stage.name(), most(stage))).collect();
        self.under(job, &Budgets { stages: &stages, patience })
    }

    fn under(&self, job: &Job, budgets: &Budgets) -> Result<Watched, Stop> {
        // That of the process before is not this one's.
        let _ = std::fs::remove_file(&job.flight);
        let _ = std::fs::remove_file(job.stacks());
        let (program, first) =
            self.program.split_first().ok_or_else(|| Stop::Error("no program".into()))?;
        let mut command = Command::new(program);
        command.args(first).arg(serde_json::to_string(job)?);
        watchdog::watch(command, budgets).map_err(Stop::Error)
    }

    /// A process that is to end by itself; returns the hashes of its pass.
    ///
    /// Errors: it failed.
    fn healthy(&self, name: &str, job: &Job, recorder: &mut Recorder) -> Result<Vec<u64>, Stop> {
        recorder.progress(name);
        let watched = self.watched(job, &[], PATIENCE)?;
        write_times(name, &watched, recorder);
        recorder.metric(self.alarms(name, &watched));
        if watched.hang.is_some() {
            let folder = self.kept.join(name);
            self.write_bundle(&folder, &watched, job)?;
            println!("a bundle of the hang lies in {}", folder.display());
        }
        self.hashes(name, &watched)
    }

    /// A process that hangs in a stage, with its bundle.
    fn planted(&self, stage: Stage, recorder: &mut Recorder) -> Result<Watched, Stop> {
        let name = stage.name();
        recorder.progress(&format!("hangs in {name}"));
        // The hang in compile is in front of the second kernel that is compiled.
        let fresh = stage == Stage::Compile;
        let job = Job { hang: Some(stage), fresh, ..self.small() };
        let watched = self.watched(&job, &[stage], PATIENCE)?;
        write_times(&format!("hangs-in-{name}"), &watched, recorder);
        let metric = |metric, value| Metric::exact(metric, &[("stage", name)], &self.on, value);
        recorder.metric(metric(LATE, self.late(&watched)?));
        recorder.metric(metric(MISNAMED, misnamed(&watched, stage)));
        let folder = self.bundle(stage);
        self.write_bundle(&folder, &watched, &job)?;
        let missing = self.missing(stage);
        recorder.option(&format!("bundle {name}"), self.in_short(&watched, &job, &missing)?);
        recorder.metric(metric(PIECES, missing.len() as f64));
        Ok(watched)
    }

    /// What a bundle says, as its folder goes with the run's work: its threads, what was noted last, and what it
    /// lacks.
    fn in_short(&self, watched: &Watched, job: &Job, missing: &[String]) -> Result<String, Stop> {
        let threads = watched.hang.as_ref().map_or(&[][..], |hang| &hang.threads);
        let busiest = threads.iter().map(|thread| thread.ran_ms).max().unwrap_or(0);
        let notes = flight::read(&job.flight)?;
        let last = notes.last().map_or("nothing", |(_, what)| what.as_str());
        let lacks = if missing.is_empty() { "nothing".to_owned() } else { missing.join("; ") };
        let count = threads.len();
        Ok(format!(
            "{count} threads, the busiest ran {busiest} of 200 ms; noted last: {last}; lacks {lacks}"
        ))
    }

    /// Where the bundle of a planted hang lies.
    fn bundle(&self, stage: Stage) -> PathBuf {
        self.folder.join(stage.name())
    }

    /// What the bundle of a planted hang lacks.
    fn missing(&self, stage: Stage) -> Vec<String> {
        let folder = self.bundle(stage);
        let mut missing = bundle::missing(&folder, stage.name(), &self.redactor);
        let flight = harness::files::read(&folder.join("flight.txt")).unwrap_or_default();
        if !stages::says_what_hangs(&flight, stage, self.on.len()) {
            missing.push("flight.txt does not hold what hangs".into());
        }
        missing
    }

    fn write_bundle(&self, folder: &Path, watched: &Watched, job: &Job) -> Result<(), Stop> {
        let notes = flight::read(&job.flight)?;
        // From the root of the repository, wherever that lies.
        let (cache, flight) = ("target/cubins".into(), "target/flight".into());
        let again = serde_json::to_string(&Job { cache, flight, ..job.clone() })?;
        let account = bundle::Account {
            command: ["touchstone", PLANT, stages::NAME, &again].map(str::to_owned).into(),
            stacks: std::fs::read_to_string(job.stacks()).unwrap_or_default(),
            flight: notes.iter().map(|(number, what)| format!("{number} {what}")).collect(),
            ..self.account.clone()
        };
        bundle::write(folder, watched, &account, &self.redactor).map_err(Stop::Error)
    }

    /// The controls, but for the flipped bit: of a hang in one stage, and in another one of its flight record.
    fn faults(
        &self,
        (stage, in_flight): (Stage, Stage),
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("controls");
        let at = [("stage", stage.name())];
        let hangs = Job { hang: Some(stage), ..self.small() };
        let unwatched = self.under(&hangs, &Budgets { stages: &[], patience: self.unwatched })?;
        let metric = |name, value| Metric::exact(name, &at, &self.on, value);
        recorder.control("no-budget", metric(LATE, self.late(&unwatched)?));
        let mute = Job { mute: true, ..hangs };
        let mute = self.watched(&mute, &[Stage::Weights, stage], PATIENCE)?;
        recorder.control("mute", metric(MISNAMED, misnamed(&mute, stage)));
        let name = |text: &str| Some(format!("{text}{}\n", self.folder.display()));
        recorder.control("a-path", self.with((stage, "log.txt"), name)?);
        recorder.control("no-threads", self.with((stage, "threads.txt"), |_| None)?);
        recorder.control("no-stacks", self.with((stage, "stacks.txt"), |_| None)?);
        recorder.control("silent", self.with((stage, "stacks.txt"), silent)?);
        let flight = (in_flight, "flight.txt");
        recorder.control("no-flight", self.with(flight, |_| None)?);
        recorder.control("old-flight", self.with(flight, before_the_mark)?);
        let stages = [(Stage::Run.name(), Duration::ZERO)];
        let ended = self.under(&self.small(), &Budgets { stages: &stages, patience: PATIENCE })?;
        recorder.control("no-time", self.alarms("before", &ended));
        Ok(())
    }

    /// What a bundle lacks while one of its files is another, or is taken away.
    fn with(
        &self,
        (stage, file): (Stage, &str),
        change: impl Fn(&str) -> Option<String>,
    ) -> Result<Metric, Stop> {
        let path = self.bundle(stage).join(file);
        let whole = harness::files::read(&path).map_err(Stop::Error)?;
        match change(&whole) {
            Some(text) => std::fs::write(&path, text)?,
            None => std::fs::remove_file(&path)?,
        }
        let missing = self.missing(stage).len() as f64;
        std::fs::write(&path, whole)?;
        Ok(Metric::exact(PIECES, &[("stage", stage.name())], &self.on, missing))
    }

    /// Time in the last stage beyond the budget of one that is to hang.
    ///
    /// Errors: the process ended by itself.
    fn late(&self, watched: &Watched) -> Result<f64, Stop> {
        let (_, last) =
            watched.stages.last().filter(|_| watched.hang.is_some()).ok_or_else(|| {
                Stop::Error(format!("a planted hang ended by itself: {:?}", watched.finished.end))
            })?;
        Ok((last.saturating_sub(self.short).as_secs_f64() * 1e3).round() / 1e3)
    }

    fn alarms(&self, pass: &str, watched: &Watched) -> Metric {
        let degree = self.on.len().to_string();
        let at = [("pass", pass), ("degree", &degree)];
        Metric::exact(ALARMS, &at, &self.on, f64::from(u8::from(watched.hang.is_some())))
    }
}

/// Stacks without that of the first thread.
fn silent(stacks: &str) -> Option<String> {
    let mut threads = 0;
    let kept = stacks.lines().filter(|line| {
        threads += u32::from(line.starts_with("thread "));
        threads != 1 || !line.starts_with(' ')
    });
    Some(kept.collect::<Vec<_>>().join("\n") + "\n")
}

/// A flight record up to its last mark.
fn before_the_mark(flight: &str) -> Option<String> {
    let lines: Vec<&str> = flight.lines().collect();
    let last = lines.iter().rposition(|line| line.contains(flight::MARK));
    Some(lines[..last.map_or(0, |at| at + 1)].join("\n") + "\n")
}

/// 1 where the hang had not begun, another stage was named, or a process of it is left.
fn misnamed(watched: &Watched, stage: Stage) -> f64 {
    let named = watched.hang.as_ref().is_some_and(|hang| hang.stage == stage.name());
    let begun = watched.said(stages::HANGS).is_some_and(|said| said == stage.name());
    f64::from(u8::from(!(named && begun && watched.left == 0)))
}

/// Writes down how long each stage took.
fn write_times(name: &str, watched: &Watched, recorder: &mut Recorder) {
    let time = |(stage, time): &(String, Duration)| format!("{stage} {:.2} s", time.as_secs_f64());
    let times: Vec<String> = watched.stages.iter().map(time).collect();
    recorder.option(&format!("stages {name}"), times.join(", "));
}

/// The revision of this program, and whether its sources were changed.
pub(crate) fn program() -> String {
    let source = crate::source();
    let changed = if source.dirty { ", changed" } else { "" };
    format!("{}{changed}", source.revision)
}

/// Versions of libraries, of this program, and of the kernels in use.
fn versions(recorder: &Recorder) -> BTreeMap<String, String> {
    let mut versions = recorder.versions.clone();
    versions.insert("touchstone".into(), program());
    for kernel in &recorder.kernels {
        let text = format!(
            "{} by {}, source sha256 {}, cubin sha256 {}",
            kernel.architecture, kernel.compiler, kernel.source_sha256, kernel.cubin_sha256
        );
        versions.insert(format!("kernel {}", kernel.name), text);
    }
    versions
}

/// What may not stand in a bundle: folders, the host's name, and words with what stands in their place.
pub(crate) fn redactor(root: &Path, run: &Path, words: Vec<(String, String)>) -> Redactor {
    let named = |path: &Path, name: &str| (path.to_owned(), name.to_owned());
    let mut paths =
        vec![named(run, "RUN"), named(root, "ROOT"), named(&std::env::temp_dir(), "TMP")];
    paths.extend(std::env::var_os("HOME").map(|home| (home.into(), "HOME".to_owned())));
    let mut redactor = Redactor { paths, words };
    redactor.hide_host();
    redactor
}

/// The same of a case, with its GPUs' UUIDs.
fn redactor_of(assignment: &Assignment, run: &Path) -> Redactor {
    let uuid = |assigned: &harness::record::Assigned| {
        (assigned.uuid.clone(), format!("gpu{}", assigned.device.gpu))
    };
    redactor(&assignment.root, run, assignment.devices.iter().map(uuid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a shell takes to end, which listens to SIGTERM.
    const LISTENS_S: f64 = 3.0;

    /// A process that goes through the stages as a job says, without a GPU.
    const SHELL: &str = r#"
job=$1
has() { case "$job" in *"$1"*) return 0;; esac; return 1; }
flight=$(echo "$job" | sed 's/.*"flight":"\([^"]*\)".*/\1/')
printf 'thread 1, sh\n    0: 0x1 - main\n' > "$flight.stacks"
number=0
note() { echo "$number $1" >> "$flight"; number=$((number + 1)); }
for stage in open compile weights tune capture smart run; do
    if has '"smart":true'; then case $stage in tune|capture) continue;; esac; fi
    if has '"smart":false' && [ $stage = smart ]; then continue; fi
    if has '"searched":false'; then case $stage in tune|capture) continue;; esac; fi
    if has '"degree":2' && [ $stage = capture ]; then continue; fi
    hangs=false
    if has "\"hang\":\"$stage\""; then hangs=true; fi
    if ! $hangs || has '"mute":false'; then echo "::progress $stage"; fi
    note "mark: stage $stage"
    case $stage in
        compile) note 'compile model for sm_90a'; note 'compile timing for sm_90a';;
        tune|capture|smart) note 'product 8x8x8 on gpu 0';;
        run) note 'exchange warm'; sleep 0.3;;
    esac
    if $hangs; then
        if [ $stage = run ] && has '"degree":1'; then note 'kernel fault_endless 1x1'; fi
        if [ $stage = run ] && has '"degree":2'; then
            note 'mark: pass of which a rank is held up'
            note 'exchange held'
        fi
        echo "hangs-in $stage"
        sleep 600
    fi
done
bits='bits 1'
if has '"degree":2'; then bits='bits 5 6 1'; fi
if has '"flip":true'; then echo "$bits 3"; else echo "$bits 2"; fi
"#;

    fn trials(folder: &Path, gpus: u32, script: &str) -> Trials {
        let redactor = Redactor { paths: vec![(folder.to_owned(), "RUN".into())], words: vec![] };
        let pair = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let account = bundle::Account {
            environment: pair("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
            versions: pair("nvrtc", "13.0"),
            ..Default::default()
        };
        Trials {
            program: ["/bin/sh", "-c", script, "stages"].map(OsString::from).into(),
            short: Duration::from_millis(700),
            unwatched: Duration::from_secs(6),
            folder: folder.join("work"),
            kept: folder.join("kept"),
            account,
            redactor,
            on: (0..gpus).collect(),
            seed: 7,
            cache: folder.join("cache"),
            smart: false,
        }
    }

    /// The metrics of the healthy case and of its controls: names with their values.
    fn measured(
        gpus: u32,
        stages: &[Stage],
        wanted: &[Control],
    ) -> (Recorder, Vec<(&'static str, f64)>) {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("work")).expect("made");
        let mut recorder = Recorder::default();
        let mut trials = trials(folder.path(), gpus, SHELL);
        trials.smart = stages.contains(&Stage::Smart);
        trials.measured(stages, &mut recorder).unwrap_or_else(|stop| panic!("{stop:?}"));
        let planted = |control: &Control| {
            let found = recorder.controls.iter().find(|entry| entry.name == control.name);
            let [metric] = found.expect(control.name).metrics.as_slice() else { panic!("not one") };
            assert_eq!(metric.name, control.trips);
            (control.name, metric.values[0])
        };
        let controls = wanted.iter().map(planted).collect();
        (recorder, controls)
    }

    #[track_caller]
    fn check(gpus: u32, stages: &[Stage], (wanted, passes): (&[Control], usize)) {
        let (recorder, controls) = measured(gpus, stages, wanted);
        for metric in &recorder.metrics {
            let most = if metric.name == LATE { LISTENS_S } else { 0.0 };
            assert!(metric.values[0] <= most, "{metric:?}, {:?}", recorder.options);
        }
        let count = |name| recorder.metrics.iter().filter(|metric| metric.name == name).count();
        let counts = [LATE, MISNAMED, PIECES].map(count);
        assert_eq!(counts, [stages.len(); 3]);
        assert_eq!((count(BITS), count(ALARMS)), (2, passes));
        assert!(recorder.options["fallback"].contains("passed 0.7 s: call by call"));
        for (name, value) in controls {
            let most = if name == "no-budget" { LISTENS_S } else { 0.0 };
            assert!(value > most, "{name} is not caught: {value}");
        }
    }

    #[test]
    fn every_planted_hang_is_seen_on_one_gpu() {
        let stages = [Stage::Compile, Stage::Tune, Stage::Capture, Stage::Run];
        check(1, &stages, (&CONTROLS, 5));
    }

    #[test]
    fn every_planted_hang_is_seen_over_two_gpus() {
        check(2, &[Stage::Compile, Stage::Tune, Stage::Run], (&CONTROLS, 5));
    }

    #[test]
    fn a_hang_of_the_smart_way_is_seen() {
        check(1, &[Stage::Smart], (&SMART_CONTROLS, 4));
        check(2, &[Stage::Smart], (&SMART_CONTROLS, 4));
    }

    /// What the bundle of a hang lacks where the process leaves out a note.
    #[track_caller]
    fn check_without(note: &str, gpus: u32, stage: Stage) {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("work")).expect("made");
        assert!(SHELL.contains(note));
        let mut trials = trials(folder.path(), gpus, &SHELL.replace(note, ":"));
        trials.smart = stage == Stage::Smart;
        let mut recorder = Recorder::default();
        trials.planted(stage, &mut recorder).unwrap_or_else(|stop| panic!("{stop:?}"));
        assert_eq!(trials.missing(stage), ["flight.txt does not hold what hangs"]);
        let metric = recorder.metrics.iter().find(|metric| metric.name == PIECES);
        assert_eq!(metric.map(|metric| metric.values[0]), Some(1.0));
    }

    #[test]
    fn exchanges_of_the_warm_pass_alone_are_not_those_of_the_hang() {
        check_without("note 'exchange held'", 2, Stage::Run);
        check_without("note 'mark: pass of which a rank is held up'", 2, Stage::Run);
    }

    #[test]
    fn a_record_that_does_not_say_what_hangs_is_a_missing_piece() {
        check_without("note 'kernel fault_endless 1x1'", 1, Stage::Run);
        check_without("note 'compile timing for sm_90a'", 1, Stage::Compile);
        check_without("note 'product 8x8x8 on gpu 0'", 1, Stage::Tune);
        check_without("note 'product 8x8x8 on gpu 0'", 1, Stage::Capture);
        check_without("note 'product 8x8x8 on gpu 0'", 1, Stage::Smart);
        check_without("note \"mark: stage $stage\"", 1, Stage::Capture);
    }

    #[test]
    fn a_pass_that_fails_is_an_error_and_one_that_hangs_leaves_a_bundle() {
        let folder = tempfile::tempdir().expect("folder");
        let mut recorder = Recorder::default();
        let of = |script: &str| Trials {
            kept: folder.path().join("kept"),
            ..trials(folder.path(), 1, script)
        };
        let failing = of("echo '::progress weights'; echo no memory >&2; exit 3");
        let failed = failing.healthy("before", &failing.small(), &mut recorder);
        let Err(Stop::Error(why)) = failed else { panic!("{failed:?}") };
        assert!(why.starts_with("before: ended with ") && why.contains("no memory"), "{why}");
        let hanging = of("echo '::progress tune'; sleep 600");
        let job = hanging.small();
        let budgets = Budgets { stages: &[("tune", Duration::ZERO)], patience: PATIENCE };
        let watched = hanging.under(&job, &budgets).unwrap_or_else(|stop| panic!("{stop:?}"));
        let kept = hanging.kept.join("before");
        hanging.write_bundle(&kept, &watched, &job).unwrap_or_else(|stop| panic!("{stop:?}"));
        // A shell writes none.
        let missing = bundle::missing(&kept, "tune", &hanging.redactor);
        assert_eq!(missing, ["stacks.txt does not say what it should"]);
        let flight = harness::files::read(&kept.join("flight.txt")).expect("there");
        assert_eq!(flight, "nothing was handed to the device\n");
    }

    #[test]
    fn a_job_is_read_back() {
        let folder = tempfile::tempdir().expect("folder");
        let job = trials(folder.path(), 2, "").large(true);
        let text = serde_json::to_string(&job).expect("json");
        let back: Job = serde_json::from_str(&text).expect("a job");
        assert_eq!((back.layers, back.degree, back.batches, back.tokens), (48, 2, 4, 8192));
        assert_eq!(back.config().layers, 48);
        assert_eq!((back.problem().chunks, back.problem().rows()), (2, 32768));
    }
}
