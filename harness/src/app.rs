//! The hardware run as a program: options, mode, trials, reports, exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use libtest_mimic::{Completion, Failed};

use crate::bless;
use crate::case::{Case, Scope};
use crate::child;
use crate::claim::{Claim, GpuCount, suite_of};
use crate::evidence::Tier;
use crate::files;
use crate::golden::Goldens;
use crate::interrupt::Interrupt;
use crate::judge::{Found, Judgement, Verdict};
use crate::live::{self, Board, Clock, Request};
use crate::lock;
use crate::node::NodeGpu;
use crate::options::{self, Mode, Options};
use crate::pages;
use crate::publish::{self, Finished};
use crate::recorded::{self, FinishedRun};
use crate::relay::Relay;
use crate::report::{self, Origin, Trial};
use crate::schedule;
use crate::world::World;

/// An error of usage, inventory or configuration.
pub const USAGE: i32 = 2;

/// Runs the program with the process's own arguments and environment; returns the exit code.
/// `meant` turns a relative path into the one that the user means.
pub fn main(world: &World, arguments: &[String], meant: &dyn Fn(&Path) -> PathBuf) -> i32 {
    // Before the options, which would speak of an option where a variable is wrong.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    if let Err(message) = options::check_environment(variables) {
        eprintln!("error: {message}");
        return USAGE;
    }
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            // Help goes to stdout with 0, everything else to stderr with 2: clap's own rule.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return code;
        }
    };
    if let Some(assignment) = &options.child {
        return child::main(assignment, world.cases);
    }
    let relay = Relay::begin();
    let outcome = run(world, &options, arguments, meant);
    if let Some(relay) = relay {
        relay.end();
    }
    match outcome {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            USAGE
        }
    }
}

fn run(
    world: &World,
    options: &Options,
    arguments: &[String],
    meant: &dyn Fn(&Path) -> PathBuf,
) -> Result<i32, String> {
    world.check()?;
    options.check_suites(world.claims)?;
    if let Some(done) = act(world, options, meant)? {
        return Ok(done);
    }
    // Listing asks for no device: it is fast and works anywhere.
    let device_visible = !options.libtest.list && world.node.device_visible();
    let nextest = std::env::var_os("NEXTEST").is_some();
    let mode = options.mode(device_visible, nextest)?;
    options.check_for(&mode)?;
    let goldens = world.goldens()?;
    let session = Session { world, options, goldens: &goldens, arguments, meant };
    match mode {
        Mode::Live(_) if options.libtest.list => session.list(&mode),
        Mode::Live(selection) => {
            let gpus = live::select(&world.node.gpus()?, &selection, options.shared)?;
            session.measure(gpus)
        }
        Mode::Recorded => session.recorded(),
        Mode::Finished(folder) => session.finished(&meant(&folder)),
    }
}

/// Actions on the repository, which measure nothing; several are done in this order.
fn act(
    world: &World,
    options: &Options,
    meant: &dyn Fn(&Path) -> PathBuf,
) -> Result<Option<i32>, String> {
    let mut done = false;
    if let Some(run) = &options.record {
        let finished = publish::record(world, &meant(run))?;
        println!("recorded run {} sha256:{}", finished.run.run, finished.sha256);
        done = true;
    }
    if let Some(runs) = &options.bless {
        let request = bless::Request {
            runs: runs.clone(),
            suites: options.suite.clone(),
            accept_worse: options.accept_worse.clone(),
        };
        let recorded = recorded::load(&world.root)?;
        let folder = world.root.join("golden");
        let goldens = world.goldens()?;
        // libtest's own filters choose here as they do for a run.
        let named = |claim: &&&Claim| {
            !options.libtest.is_filtered_out(&libtest_mimic::Trial::test(claim.id, || Ok(())))
        };
        let claims: Vec<&Claim> = world.claims.iter().filter(named).copied().collect();
        let said = bless::bless(&folder, &claims, world.cases, &goldens, &recorded, &request)?;
        said.iter().for_each(|line| println!("{line}"));
        done = true;
    }
    if options.update_checklists {
        for file in pages::update(world)? {
            println!("wrote {file}");
        }
        done = true;
    }
    Ok(done.then_some(0))
}

/// A trial before it has run.
struct Item {
    name: String,
    claim: &'static Claim,
    case: &'static Case,
    origin: Origin,
    source: ItemSource,
}

/// Where a trial's judgement comes from.
enum ItemSource {
    /// Known already.
    Judged(Box<Judgement>),
    /// A case that is being measured.
    Measured,
}

/// In which order cases run under `--due-first`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// What says whether the node is fit to be measured.
    Health,
    /// A claim that reads it does not hold by what is recorded.
    Due,
    /// Every claim that reads it holds.
    Other,
    /// Due, and raises Xids or ends processes.
    DueXid,
    /// The same, not due.
    Xid,
}

struct Session<'a> {
    world: &'a World<'a>,
    options: &'a Options,
    goldens: &'a Goldens,
    arguments: &'a [String],
    meant: &'a dyn Fn(&Path) -> PathBuf,
}

impl Session<'_> {
    fn chosen(&self, claim: &Claim) -> bool {
        let suites = &self.options.suite;
        suites.is_empty() || suites.iter().any(|suite| suite == claim.suite())
    }

    fn claims(&self) -> Result<Vec<(&'static Claim, &'static Case)>, String> {
        let chosen = self.world.claims.iter().filter(|claim| self.chosen(claim));
        chosen.map(|claim| Ok((*claim, self.world.case_of(claim)?))).collect()
    }

    fn list(&self, mode: &Mode) -> Result<i32, String> {
        let items = match mode {
            Mode::Live(_) => self.live_items(usize::MAX, Tier::Soak)?,
            _ => self.recorded_items(&recorded::load(&self.world.root)?)?,
        };
        let trials = items.into_iter().map(|item| {
            let trial = libtest_mimic::Trial::test(item.name, || Ok(()));
            trial.with_kind(item.origin.word())
        });
        // A list has no outcome.
        let _ = libtest_mimic::run(&self.options.libtest, trials.collect());
        Ok(0)
    }

    /// Trials of a live run: claims that this request leaves out are judged at once.
    fn live_items(&self, gpus: usize, tier: Tier) -> Result<Vec<Item>, String> {
        let claims = self.claims()?.into_iter();
        let items = claims.map(|(claim, case)| {
            let mut reason = live::left_out(claim, case, gpus, tier);
            if reason.is_none() && case.self_test_only && !self.options.self_test {
                reason = Some("breaks things on purpose: only with --self-test".into());
            }
            let source = match reason {
                None => ItemSource::Measured,
                Some(reason) => {
                    let found = Found::Nothing { reason, explained: true };
                    let judgement = self.world.judge(claim, case, found, self.goldens);
                    ItemSource::Judged(Box::new(judgement))
                }
            };
            let origin = if case.scope == Scope::Host { Origin::Host } else { Origin::Live };
            Item { name: claim.id.to_owned(), claim, case, origin, source }
        });
        Ok(items.collect())
    }

    /// Trials of recorded evidence, board by board, and of host claims, which run for real.
    fn recorded_items(&self, runs: &[FinishedRun]) -> Result<Vec<Item>, String> {
        let mut boards = recorded::boards(runs);
        if boards.is_empty() {
            // No run at all: every claim is there all the same, not run.
            boards.push(String::new());
        }
        let mut items = Vec::new();
        for (index, board) in boards.iter().enumerate() {
            let claims = self.claims()?;
            let on_gpus = claims.iter().map(|(claim, _)| *claim);
            let on_gpus: Vec<_> = on_gpus.filter(|claim| claim.gpus != GpuCount::Host).collect();
            let judged = self.world.judge_recorded(&on_gpus, runs, board, self.goldens)?;
            let mut judged = judged.into_iter();
            for (claim, case) in claims {
                if claim.gpus == GpuCount::Host {
                    if index == 0 {
                        let name = claim.id.to_owned();
                        let source = ItemSource::Measured;
                        items.push(Item { name, claim, case, origin: Origin::Host, source });
                    }
                    continue;
                }
                let judgement = judged.next().ok_or_else(|| format!("{}: no verdict", claim.id))?;
                let name = match index {
                    0 => claim.id.to_owned(),
                    _ => format!("{}@{board}", claim.id),
                };
                let source = ItemSource::Judged(Box::new(judgement));
                items.push(Item { name, claim, case, origin: Origin::Recorded, source });
            }
        }
        Ok(items)
    }

    fn recorded(&self) -> Result<i32, String> {
        if self.options.libtest.list {
            return self.list(&Mode::Recorded);
        }
        let runs = recorded::load(&self.world.root)?;
        let items = self.recorded_items(&runs)?;
        let newest = runs.last().cloned();
        self.go(items, Vec::new(), Tier::Quick, newest)
    }

    fn finished(&self, folder: &Path) -> Result<i32, String> {
        let finished = recorded::open(folder)?;
        recorded::unlisted(&finished)?;
        let runs = recorded::load(&self.world.root)?;
        let mut items = Vec::new();
        let claims = self.claims()?;
        let chosen: Vec<&'static Claim> = claims.iter().map(|(claim, _)| *claim).collect();
        let judged = self.world.judge_run(&chosen, &finished, &runs, self.goldens)?;
        for ((claim, case), judgement) in claims.into_iter().zip(judged) {
            let source = ItemSource::Judged(Box::new(judgement));
            let name = claim.id.to_owned();
            items.push(Item { name, claim, case, origin: Origin::Recorded, source });
        }
        if self.options.libtest.list {
            return self.list(&Mode::Recorded);
        }
        self.go(items, Vec::new(), finished.run.tier, Some(finished))
    }

    fn measure(&self, gpus: Vec<NodeGpu>) -> Result<i32, String> {
        let tier = self.options.tier.unwrap_or(Tier::Quick);
        let items = self.live_items(gpus.len(), tier)?;
        let _held = lock::acquire(&gpus, &std::env::temp_dir().join("touchstone-locks"))?;
        self.go(items, gpus, tier, None)
    }

    /// Runs trials, writes reports, and says the last line. `judged` is the finished run whose
    /// evidence is judged where nothing live is.
    fn go(
        &self,
        items: Vec<Item>,
        gpus: Vec<NodeGpu>,
        tier: Tier,
        judged: Option<FinishedRun>,
    ) -> Result<i32, String> {
        let live = !gpus.is_empty();
        let selected = self.filtered(items);
        if selected.is_empty() {
            println!("nothing is judged: {}", self.unmatched()?);
            return Ok(report::exit_code(&[], self.options.gate, false));
        }
        let clock = Clock::start();
        let mut request = self.request(&selected, gpus, tier, &clock)?;
        let settings = self.settings(&request, &clock)?;
        let begin = || live::begin(self.world, self.goldens, &request, &clock);
        let _going = live.then(begin).transpose()?;
        let opening = publish::opening(self.goldens, &request, judged.as_ref(), &clock);
        println!("{opening}");

        let interrupt = Interrupt::install()?;
        let board = Arc::new(Board::default());
        let trials = Arc::new(Mutex::new(Vec::new()));
        let (world, goldens) = (self.world, self.goldens);
        std::thread::scope(|scope| {
            let measuring = Arc::clone(&board);
            let (request, settings, interrupt) = (&request, &settings, &interrupt);
            scope.spawn(move || {
                let mut progress = publish::Progress::new(request.cases.len(), live);
                let mut say = |event: &schedule::Event| progress.say(event);
                live::measure(world, goldens, request, settings, interrupt, &measuring, &mut say);
            });
            self.run_trials(selected, &board, &trials, live);
        });
        let trials = Arc::try_unwrap(trials).map_err(|_| "a trial is still running")?;
        let trials = trials.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        request.whole &= !interrupt.asked();
        // A finished run that was interrupted is still no whole one.
        let cut = self.options.evidence.is_some()
            && judged.as_ref().is_some_and(|judged| judged.run.interrupted);
        let finished = Finished {
            world: self.world,
            goldens: self.goldens,
            options: self.options,
            meant: self.meant,
            request: &request,
            clock: &clock,
            interrupted: interrupt.asked() || cut,
            judged,
        };
        publish::finish(&finished, &board, trials)
    }

    /// That no claim matches, and of a filter that is a case's id, or a part of one, the case's claims.
    fn unmatched(&self) -> Result<String, String> {
        let Some(filter) = &self.options.libtest.filter else {
            return Ok("no claim matches the filter".into());
        };
        let mut claims_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (claim, case) in self.claims()? {
            claims_of.entry(case.id).or_default().push(claim.id);
        }
        let exact = self.options.libtest.exact;
        let mut text = format!("no claim matches the filter `{filter}`");
        for (case, claims) in claims_of {
            let said = match case == filter {
                true => "it is a case".to_owned(),
                false if !exact && case.contains(filter.as_str()) => format!("case {case} does"),
                false => continue,
            };
            text += &format!("; {said}, whose claims are {}", claims.join(", "));
        }
        Ok(text)
    }

    /// What libtest's own filters leave.
    fn filtered(&self, items: Vec<Item>) -> Vec<Item> {
        let keep = |item: &Item| {
            let trial = libtest_mimic::Trial::test(item.name.clone(), || Ok(()));
            !self.options.libtest.is_filtered_out(&trial.with_kind(item.origin.word()))
        };
        items.into_iter().filter(keep).collect()
    }

    fn request(
        &self,
        selected: &[Item],
        gpus: Vec<NodeGpu>,
        tier: Tier,
        clock: &Clock,
    ) -> Result<Request, String> {
        let wanted = |case: &Case| {
            selected
                .iter()
                .any(|item| item.case.id == case.id && matches!(item.source, ItemSource::Measured))
        };
        let mut cases: Vec<&'static Case> =
            self.world.cases.iter().filter(|case| wanted(case)).copied().collect();
        let mut kept = BTreeMap::new();
        if self.options.due_first {
            let due = self.due(selected, &gpus)?;
            let health = suite_of(self.world.node.probe_case());
            let turn = |case: &&'static Case| match case.id {
                id if case.self_test_only && due.contains(id) => Turn::DueXid,
                _ if case.self_test_only => Turn::Xid,
                id if suite_of(id) == health => Turn::Health,
                id if due.contains(id) => Turn::Due,
                _ => Turn::Other,
            };
            // Stable: within each the order stays, but for rows of which any one GPU can run each.
            cases.sort_by_key(turn);
            cases.chunk_by_mut(|a, b| turn(a) == turn(b)).for_each(schedule::longest_first);
            // What is not due leaves time for what is and comes behind it.
            let behind = cases.iter().filter(|case| turn(case) == Turn::DueXid);
            let behind = Duration::from_secs_f64(behind.map(|case| case.expected_s).sum());
            let others = cases.iter().filter(|case| turn(case) == Turn::Other);
            kept.extend(others.map(|case| (case.id, behind)));
        } else {
            schedule::longest_first(&mut cases);
        }
        let possible = self.live_items(gpus.len(), tier)?;
        let all = self.world.cases.iter().filter(|case| {
            possible
                .iter()
                .any(|item| item.case.id == case.id && matches!(item.source, ItemSource::Measured))
        });
        let whole = self.options.suite.is_empty() && all.count() == cases.len();
        let out = self.options.out.clone().unwrap_or_else(|| "target/hardware".into());
        let out = match out.is_absolute() || self.options.out.is_some() {
            true => (self.meant)(&out),
            false => self.world.root.join(out),
        };
        let run = clock.run_id(u64::from(std::process::id()));
        let folder = out.join(&run);
        let made = std::fs::create_dir_all(folder.join("evidence"));
        made.map_err(|e| format!("--out {}: {e}", out.display()))?;
        Ok(Request {
            gpus,
            tier,
            shared: self.options.shared,
            self_test: self.options.self_test,
            folder,
            run,
            command: live::redacted_command(self.arguments.iter().cloned()),
            cases,
            kept,
            whole,
        })
    }

    /// Cases to measure that a claim reads whose recorded evidence of this kind of board does not hold today, or is of
    /// fewer GPUs where all work together.
    fn due(&self, selected: &[Item], gpus: &[NodeGpu]) -> Result<BTreeSet<&'static str>, String> {
        let Some(first) = gpus.first() else { return Ok(BTreeSet::new()) };
        let measured = |item: &&Item| {
            matches!(item.source, ItemSource::Measured) && item.origin == Origin::Live
        };
        let items: Vec<&Item> = selected.iter().filter(measured).collect();
        let claims: Vec<&'static Claim> = items.iter().map(|item| item.claim).collect();
        let runs = recorded::load(&self.world.root)?;
        let board = self.goldens.board_name(&first.device.pci_device_id);
        let judged = self.world.judge_recorded(&claims, &runs, &board, self.goldens)?;
        let due = items.iter().zip(judged).filter(|(item, judgement)| {
            let holds = matches!(judgement.verdict, Verdict::Verified | Verdict::NotApplicable);
            let of = judgement.evidence.as_ref().map_or(0, |evidence| evidence.gpus as usize);
            !holds || item.case.scope == Scope::Node && of < gpus.len()
        });
        Ok(due.map(|(item, _)| item.case.id).collect())
    }

    fn settings(&self, request: &Request, clock: &Clock) -> Result<schedule::Settings, String> {
        let executable = live::own_executable()?;
        let seed = crate::digest::sha256_hex(clock.run_id(0).as_bytes());
        Ok(schedule::Settings {
            command: vec![executable.into_os_string(), "--child".into()],
            folder: request.folder.clone(),
            root: self.world.root.clone(),
            cache: cache_folder(&self.world.root),
            tier: request.tier,
            seed: u64::from_str_radix(&seed[..13], 16).map_err(|e| e.to_string())?,
            self_test: request.self_test,
            environment: BTreeMap::new(),
            redactions: self.redactions(request),
            repro: self.repro(request),
            time_limit: self.options.time_limit.map(Duration::from_secs),
            kept: request.kept.clone(),
        })
    }

    /// Makes the command that runs a case alone again: by the first claim that reads it.
    fn repro(&self, request: &Request) -> Box<schedule::Repro> {
        let tier = format!("{:?}", request.tier).to_lowercase();
        let self_test = if request.self_test { " --self-test" } else { "" };
        let readers: Vec<(&str, &str)> =
            self.world.claims.iter().map(|claim| (claim.case, claim.id)).collect();
        let filters: BTreeMap<String, String> = readers
            .into_iter()
            .rev()
            .map(|(case, claim)| (case.to_owned(), claim.to_owned()))
            .collect();
        let end = format!("--tier {tier}{self_test}");
        Box::new(move |case, gpus| {
            let devices: Vec<String> = gpus.iter().map(u32::to_string).collect();
            let filter = filters.get(case).map_or(case, String::as_str);
            let gpus = match devices.is_empty() {
                true => "--recorded".to_owned(),
                false => format!("--devices {} {end}", devices.join(",")),
            };
            format!("cargo test --test hardware -- {gpus} {filter}")
        })
    }

    /// Paths that evidence must not hold, with what stands for them.
    fn redactions(&self, request: &Request) -> Vec<(PathBuf, String)> {
        let mut redactions = vec![
            (request.folder.clone(), "RUN".to_owned()),
            (self.world.root.clone(), "ROOT".to_owned()),
            (std::env::temp_dir(), "TMP".to_owned()),
        ];
        if let Some(home) = std::env::var_os("HOME") {
            redactions.push((home.into(), "HOME".to_owned()));
        }
        redactions
    }

    /// Hands the trials to libtest-mimic. A live run prints each as its case ends; a recorded one
    /// in order.
    fn run_trials(
        &self,
        selected: Vec<Item>,
        board: &Arc<Board>,
        done: &Arc<Mutex<Vec<(usize, Trial)>>>,
        live: bool,
    ) {
        let gate = self.options.gate;
        let mut libtest = self.options.libtest.clone();
        let threads = if live { selected.len() } else { 1 };
        libtest.test_threads = Some(libtest.test_threads.unwrap_or(threads));
        let trials = selected.into_iter().enumerate().map(|(index, item)| {
            let board = Arc::clone(board);
            let done = Arc::clone(done);
            let origin = item.origin;
            let runner = move || {
                let (judgement, wall_s) = match item.source {
                    ItemSource::Judged(judgement) => (*judgement, 0.0),
                    ItemSource::Measured => {
                        let judged = board.wait(item.case.id);
                        (judged.judgements[item.claim.id].clone(), judged.wall_s)
                    }
                };
                let completion = completion(&judgement, gate);
                let trial = Trial { judgement, origin, wall_s };
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                done.push((index, trial));
                completion
            };
            libtest_mimic::Trial::ignorable_test(item.name, runner).with_kind(origin.word())
        });
        // Our own exit code says more than libtest's 101.
        let _ = libtest_mimic::run(&libtest, trials.collect());
    }
}

/// The libtest outcome of a judgement.
fn completion(judgement: &Judgement, gate: bool) -> Result<Completion, Failed> {
    if report::fails(judgement.verdict, gate) {
        let word = report::word(judgement.verdict).to_uppercase();
        return Err(format!("{word}: {}", judgement.reason).into());
    }
    match judgement.verdict {
        Verdict::Verified => Ok(Completion::Completed),
        verdict => {
            let word = report::word(verdict);
            Ok(Completion::ignored_with(format!("{word}: {}", judgement.reason)))
        }
    }
}

/// Compiled kernels outlive a run: their key holds everything that they depend on.
fn cache_folder(root: &Path) -> PathBuf {
    let own = root.join("target/cubins");
    if files::write(&own.join(".probe"), b"").is_ok() {
        return own;
    }
    std::env::temp_dir().join("touchstone-cubins")
}
