//! What leaves a run: manifest, JUnit, summary, checklists, archive, and the last line.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::detector::{self, Score};
use crate::evidence::Evidence;
use crate::files;
use crate::golden::Goldens;
use crate::judge::{EvidenceRef, Judgement};
use crate::live::{self, Board, Clock, Request};
use crate::options::Options;
use crate::pages;
use crate::recorded::{self, FinishedRun, day};
use crate::report::{self, Mode, Origin, Report, Trial, junit, summary};
use crate::run::Run;
use crate::schedule::Event;
use crate::world::World;

/// Everything that the end of a run needs.
pub struct Finished<'a> {
    /// Claims, cases, the node, the root.
    pub world: &'a World<'a>,
    /// Today's goldens.
    pub goldens: &'a Goldens,
    /// The command line.
    pub options: &'a Options,
    /// Turns a relative path into the one that the user means.
    pub meant: &'a dyn Fn(&Path) -> PathBuf,
    /// What was measured here.
    pub request: &'a Request,
    /// When.
    pub clock: &'a Clock,
    /// Ctrl-C came.
    pub interrupted: bool,
    /// The finished run whose evidence was judged, where nothing live was.
    pub judged: Option<FinishedRun>,
}

/// What the report says that it is about.
struct About {
    mode: Mode,
    board: String,
    day: String,
    gpus: u32,
    run: String,
    run_sha256: Option<String>,
    versions: BTreeMap<String, String>,
}

impl About {
    fn of(
        goldens: &Goldens,
        request: &Request,
        judged: Option<&FinishedRun>,
        manifest: Option<&(Run, String)>,
    ) -> About {
        if let Some(finished) = judged.filter(|_| request.gpus.is_empty()) {
            let run = &finished.run;
            return About {
                mode: Mode::Recorded,
                board: run.board.clone(),
                day: day(&run.started),
                gpus: run.devices.len() as u32,
                run: run.run.clone(),
                run_sha256: Some(finished.sha256.clone()),
                versions: (*run.versions).clone(),
            };
        }
        let device = request.gpus.first().map(|gpu| gpu.device.pci_device_id.as_str());
        About {
            mode: if device.is_some() { Mode::Live } else { Mode::Recorded },
            board: device.map_or(String::new(), |id| goldens.board_name(id)),
            day: manifest.map_or(String::new(), |(run, _)| day(&run.started)),
            gpus: request.gpus.len() as u32,
            run: request.run.clone(),
            run_sha256: manifest.map(|(_, sha256)| sha256.clone()),
            versions: manifest.map(|(run, _)| (*run.versions).clone()).unwrap_or_default(),
        }
    }

    fn report<'a>(
        &'a self,
        goldens: &'a Goldens,
        clock: &Clock,
        trials: &'a [Trial],
        gate: bool,
        interrupted: bool,
        detector: Option<&'a Score>,
    ) -> Report<'a> {
        let board = goldens.boards.get(&self.board);
        Report {
            mode: self.mode,
            board: &self.board,
            title: board.map_or(self.board.as_str(), |golden| golden.board.title.as_str()),
            day: &self.day,
            gpus: self.gpus,
            run: &self.run,
            run_sha256: self.run_sha256.as_deref(),
            started: clock.timestamp(),
            versions: &self.versions,
            trials,
            gate,
            interrupted,
            detector,
        }
    }
}

/// The first line of a run.
pub fn opening(
    goldens: &Goldens,
    request: &Request,
    judged: Option<&FinishedRun>,
    clock: &Clock,
) -> String {
    let about = About::of(goldens, request, judged, None);
    report::opening(&about.report(goldens, clock, &[], false, false, None))
}

/// Writes everything, prints the end, and returns the exit code. What can be written is written;
/// the first thing that cannot is one error, and the finished evidence stays.
pub fn finish(
    finished: &Finished,
    board: &Board,
    mut trials: Vec<(usize, Trial)>,
) -> Result<i32, String> {
    let Finished { world, goldens, request, clock, .. } = finished;
    let manifest =
        live::write_manifest(world, goldens, request, clock, finished.interrupted, board)?;
    trials.sort_by_key(|(index, _)| *index);
    let mut trials: Vec<Trial> = trials.into_iter().map(|(_, trial)| trial).collect();
    for trial in &mut trials {
        // The manifest did not exist when the trial was judged.
        if let Some(evidence) = trial.judgement.evidence.as_mut()
            && evidence.run == request.run
        {
            evidence.run_sha256 = Some(manifest.1.clone());
        }
    }
    let about = About::of(goldens, request, finished.judged.as_ref(), Some(&manifest));
    let gate = finished.options.gate;
    let score = detector::of_today(world, goldens);
    let report = about.report(goldens, clock, &trials, gate, finished.interrupted, Some(&score));
    let mut written = write_reports(finished, &report, &about, board);
    // A folder of its own for children; nothing of it is evidence.
    let _ = std::fs::remove_dir_all(request.folder.join("work"));
    if let Some(file) = &finished.options.archive {
        let file = (finished.meant)(file);
        let archived = files::archive(&request.folder, &request.run, &file);
        if archived.is_ok() {
            println!("archive   {}", world_path(world, &file));
        }
        written = written.and(archived);
    }
    if let Some(words) = report.detector_words() {
        println!("detector  {words}");
    }
    println!("run       {}", world_path(world, &request.folder));
    if about.mode == Mode::Live {
        println!("manifest  sha256:{}", manifest.1);
    }
    written?;
    println!("{}", report::last_line(&report));
    Ok(report.exit_code())
}

fn world_path(world: &World, path: &Path) -> String {
    crate::world::below(&world.root, path).into_owned()
}

/// Writes what can be written; the error is the first thing that cannot.
fn write_reports(
    finished: &Finished,
    report: &Report,
    about: &About,
    board: &Board,
) -> Result<(), String> {
    let folder = &finished.request.folder;
    let junit = junit::render(report).and_then(|xml| {
        let own = files::write(&folder.join(junit::file_name(about.mode)), xml.as_bytes());
        let asked = finished
            .options
            .junit
            .as_ref()
            .map_or(Ok(()), |path| files::write(&(finished.meant)(path), xml.as_bytes()));
        own.and(asked)
    });
    let measured: Vec<_> = finished.request.cases.iter().map(|case| board.wait(case.id)).collect();
    let evidence: Vec<&Evidence> =
        measured.iter().filter_map(|judged| judged.evidence.as_ref()).collect();
    let summary = summary::render(report, &evidence);
    let summary = files::write(&folder.join("summary.md"), summary.as_bytes());
    junit.and(summary).and(write_checklists(finished, report, about, &evidence))
}

/// The run's own checklists; none of a recorded run, which ticks nothing.
fn write_checklists(
    finished: &Finished,
    report: &Report,
    about: &About,
    evidence: &[&Evidence],
) -> Result<(), String> {
    if about.mode == Mode::Live {
        let judged = |host: bool| {
            let trials = report.trials.iter().filter(move |t| (t.origin == Origin::Host) == host);
            trials.map(|trial| trial.judgement.clone()).collect::<Vec<Judgement>>()
        };
        let boards = vec![(about.board.clone(), judged(false))];
        let lists = finished.request.folder.join("checklists");
        let of = |cited: &EvidenceRef| {
            let claims = report.trials.iter().map(|trial| &trial.judgement);
            let cites = |judgement: &&Judgement| judgement.evidence.as_ref() == Some(cited);
            let case = claims.into_iter().find(cites)?.claim.case;
            evidence.iter().find(|evidence| evidence.case == case).map(|found| (*found).clone())
        };
        let (world, goldens) = (finished.world, finished.goldens);
        for (file, text) in pages::of_run(world, goldens, &boards, &judged(true), &of)? {
            files::write(&lists.join(file), text.as_bytes())?;
        }
    }
    Ok(())
}

/// Brings a finished run, its folder or its tar, into the repository.
pub fn record(world: &World, run: &Path) -> Result<FinishedRun, String> {
    let goldens = world.goldens()?;
    if run.is_dir() {
        return recorded::record(&world.root, run, &goldens);
    }
    let name = format!("touchstone-record-{}", std::process::id());
    let unpacked = std::env::temp_dir().join(name);
    let recorded = files::unpack(run, &unpacked)
        .and_then(|folder| recorded::record(&world.root, &folder, &goldens));
    // Whatever came of it, the copy is not needed any more.
    let _ = std::fs::remove_dir_all(&unpacked);
    recorded
}

/// A line to stderr; nobody may be left to read it, which is no reason to stop measuring.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says what runs now, what is done, and how long it will take. To stderr, a line an event.
pub struct Progress {
    begun: Instant,
    cases: usize,
    running: Vec<&'static str>,
    done: usize,
    remaining_s: Option<f64>,
    live: bool,
}

impl Progress {
    /// Over so many cases. Silent where nothing live runs: host cases take no time.
    pub fn new(cases: usize, live: bool) -> Progress {
        let begun = Instant::now();
        Progress { begun, cases, running: Vec::new(), done: 0, remaining_s: None, live }
    }

    /// Takes an event.
    pub fn say(&mut self, event: &Event) {
        match event {
            Event::CaseStarted { case } => self.running.push(case.id),
            Event::CaseEnded { case, .. } => {
                self.running.retain(|other| *other != case.id);
                self.done += 1;
            }
            Event::Foretold { remaining_s } => {
                self.remaining_s = Some(*remaining_s);
                return;
            }
            Event::Probing { gpu } => {
                return tell(&format!("gpu{gpu} is probed, because a case failed on it"));
            }
            Event::Quarantined { gpu, why } => {
                return tell(&format!("gpu{gpu} is quarantined: {why}"));
            }
            Event::PartStarted { .. } | Event::PartEnded { .. } | Event::Progress { .. } => return,
        }
        if self.live {
            tell(&self.line());
        }
    }

    fn line(&self) -> String {
        let now = match self.running.is_empty() {
            true => "none".to_owned(),
            false => self.running.join(", "),
        };
        let left = self.remaining_s.map_or(String::new(), |s| format!(", about {s:.0} s left"));
        format!(
            "[{:5.1} s] {} of {} cases done{left}; now {now}",
            self.begun.elapsed().as_secs_f64(),
            self.done,
            self.cases,
        )
    }
}
