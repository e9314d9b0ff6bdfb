//! How long it takes to judge many recorded evidence files again, and how much memory that wants.
//!
//! `cargo bench -p touchstone-tests --bench rejudge` copies this repository's recorded runs, under ids of
//! their own, until `runs.jsonl` lists so many evidence files, and times over them: the recorded main job
//! with its JUnit file, the generated checklists, and every run judged by itself with a JUnit file and
//! checklists of its own. Each is a process of its own; its peak of memory is what Linux says at its end. A
//! tenth of the files is measured beside the whole, so that a growth with their number is seen.
//!
//! Options behind `--`: `--files N` (10000), and `--into DIR`, which only lays the folder, for a look with
//! other tools (`TOUCHSTONE_ROOT=DIR`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use harness::claim::GpuCount;
use harness::digest::Sha256;
use harness::judge::{EvidenceRef, Judgement};
use harness::live::Clock;
use harness::recorded::{self, FinishedRun};
use harness::report::{Mode, Origin, Report, Trial, junit};
use harness::run::Run;
use harness::world::World;
use harness::{files, golden, pages};
use touchstone_tests::folders;

/// Says which of the measured programs this executable plays.
const ROLE: &str = "MEASURED_PROGRAM";
/// Folder in which every process leaves its peak of memory.
const PEAKS: &str = "MEASURED_PEAKS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Ok(role) = std::env::var(ROLE) {
        let status = play(&role, &arguments);
        leave_peak();
        return ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX));
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let count = value("--files").map_or(10_000, |count| count.parse().expect("--files N"));
    if let Some(into) = value("--into") {
        println!("{} evidence files in {into}", lay(Path::new(&into), count));
        return ExitCode::SUCCESS;
    }
    println!("{:>7} {:>7}  {:<32} {:>8} {:>9}  exit", "files", "MB", "what", "s", "peak MB");
    for count in [count / 10, count] {
        measure(count);
    }
    ExitCode::SUCCESS
}

/// Lays a root with so many evidence files, and measures each program over it.
fn measure(count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    let laid = lay(&root, count);
    let evidence = folders::files(&root.join("checklists/evidence"), &|_| true);
    let bytes: u64 = evidence.iter().map(|file| fs::metadata(file).expect("a file").len()).sum();
    for (role, what) in [
        ("recorded", "recorded main job with JUnit"),
        ("checklists", "checklists"),
        ("every", "every run, JUnit and checklists"),
    ] {
        let peaks = folder.path().join(role);
        fs::create_dir_all(&peaks).expect("a folder");
        let begun = Instant::now();
        let status = Command::new(std::env::current_exe().expect("own executable"))
            .args(["--recorded", "--out"])
            .arg(folder.path().join("out"))
            .arg("--junit")
            .arg(folder.path().join("junit.xml"))
            .env(ROLE, role)
            .env(PEAKS, &peaks)
            .env("TOUCHSTONE_ROOT", &root)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()
            .expect("started");
        let seconds = begun.elapsed().as_secs_f64();
        let peak = peak_kib(&peaks) as f64 / 1024.0;
        let (size, status) = (bytes as f64 / 1e6, status.code().unwrap_or(-1));
        println!("{laid:>7} {size:>7.1}  {what:<32} {seconds:>8.2} {peak:>9.1}  {status}");
    }
}

/// What one of the measured programs does; its exit code.
fn play(role: &str, arguments: &[String]) -> i32 {
    let world = |with: &dyn Fn(&World) -> Result<(), String>| {
        let root = suites::root::find().expect("a root");
        suites::with_world(root, with).map_or_else(
            |message| {
                eprintln!("{message}");
                1
            },
            |()| 0,
        )
    };
    match role {
        "checklists" => world(&|world| pages::stale(world).map(drop)),
        "every" => world(&every),
        _ => suites::hardware(arguments),
    }
}

/// Judges every recorded run by itself and renders its JUnit file and checklists; two threads take turns.
fn every(world: &World) -> Result<(), String> {
    let goldens = world.goldens()?;
    let runs = recorded::load(&world.root)?;
    let middle = runs.len() / 2;
    std::thread::scope(|scope| {
        let halves = [&runs[..middle], &runs[middle..]];
        let goldens = &goldens;
        let started = halves.map(|half| {
            scope.spawn(move || half.iter().try_for_each(|run| one(world, goldens, run)))
        });
        started.into_iter().try_for_each(|half| half.join().expect("no panic"))
    })
}

fn one(world: &World, goldens: &golden::Goldens, finished: &FinishedRun) -> Result<(), String> {
    let judged: Vec<Judgement> = world.judge_run(world.claims, finished, &[], goldens)?;
    let trials: Vec<Trial> = judged
        .iter()
        .map(|judgement| Trial {
            judgement: judgement.clone(),
            origin: Origin::Recorded,
            wall_s: 0.0,
        })
        .collect();
    let run = &finished.run;
    let report = Report {
        mode: Mode::Recorded,
        board: &run.board,
        title: &run.board,
        day: &recorded::day(&run.started),
        gpus: run.devices.len() as u32,
        run: &run.run,
        run_sha256: Some(&finished.sha256),
        started: Clock::start().timestamp(),
        versions: &run.versions,
        trials: &trials,
        detector: None,
        gate: false,
        interrupted: false,
    };
    let xml = junit::render(&report)?;
    let (host, on_gpus): (Vec<Judgement>, Vec<Judgement>) =
        judged.into_iter().partition(|judgement| judgement.claim.gpus == GpuCount::Host);
    let evidence =
        |cited: &EvidenceRef| recorded::evidence_of(std::slice::from_ref(finished), cited);
    let boards = [(run.board.clone(), on_gpus)];
    let pages = pages::of_run(world, goldens, &boards, &host, &evidence)?;
    match xml.is_empty() || pages.is_empty() {
        true => Err(format!("run {} has no report", run.run)),
        false => Ok(()),
    }
}

/// A root whose `runs.jsonl` lists at least so many evidence files: the recorded runs, and copies of them
/// under ids of their own, with digests that hold. Returns how many it lists.
fn lay(root: &Path, count: usize) -> usize {
    let repository = folders::repository();
    for folder in ["golden", "fixtures", "checklists"] {
        folders::copy(&repository.join(folder), &root.join(folder));
    }
    let templates = recorded::load(&repository).expect("recorded runs load");
    let mut listed: usize = templates.iter().map(|finished| finished.run.cases.len()).sum();
    let runs = root.join(recorded::RUNS);
    let mut lines = fs::read_to_string(&runs).expect("runs are listed");
    for (number, template) in (0_u32..).zip(templates.iter().cycle()) {
        if listed >= count {
            break;
        }
        let copied = copy(root, template, number);
        listed += copied.cases.len();
        lines.push_str(&copied.line().expect("a line"));
        lines.push('\n');
    }
    files::write(&runs, lines.as_bytes()).expect("written");
    listed
}

/// A recorded run once more under another id.
fn copy(root: &Path, template: &FinishedRun, number: u32) -> Run {
    let mut run = template.run.clone();
    let stamp = run.run.split('-').next().expect("a stamp").to_owned();
    run.run = format!("{stamp}-{:08x}", u32::MAX - number);
    let folder = root.join(format!("checklists/evidence/{}/{}", run.board, run.run));
    fs::create_dir_all(&folder).expect("a folder");
    for case in &mut run.cases {
        let text = fs::read_to_string(template.folder.join(&case.file)).expect("evidence");
        let text = text.replace(&template.run.run, &run.run);
        case.sha256 = Sha256::of(text.as_bytes());
        fs::write(folder.join(&case.file), text).expect("written");
    }
    run
}

/// Leaves this process's peak of memory, in KiB, in the folder of [`PEAKS`].
fn leave_peak() {
    let Some(folder) = std::env::var_os(PEAKS).map(PathBuf::from) else { return };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib = line.trim().trim_end_matches(" kB");
    // A peak that is not there is seen as a sum of zero.
    let _ = fs::write(folder.join(std::process::id().to_string()), kib);
}

/// The peaks of a program and its children together, in KiB.
fn peak_kib(folder: &Path) -> u64 {
    let files = folders::files(folder, &|_| true);
    let peak = |file: &PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    files.iter().filter_map(peak).sum()
}
