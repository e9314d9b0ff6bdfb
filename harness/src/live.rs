//! A live run: selects GPUs, measures in children, writes evidence, reads it back, judges it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::case::{Case, Scope};
use crate::claim::{Claim, GpuCount};
use crate::digest::{self, Sha256};
use crate::evidence::{self, Evidence, Part, Tier};
use crate::files;
use crate::golden::Goldens;
use crate::judge::{EvidenceRef, Found, Judgement, Standing, Verdict};
use crate::node::NodeGpu;
use crate::options::Selection;
use crate::recorded;
use crate::recover::{self, Begun, Going, Planned as Plan};
use crate::run::{self, CaseEntry, Run};
use crate::schedule::{self, Event, Planned};
use crate::world::World;

/// What a live run was asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its GPUs, by PCI bus; empty where only host claims run.
    pub gpus: Vec<NodeGpu>,
    /// Tier.
    pub tier: Tier,
    /// Other processes use the GPUs and the operator accepts it.
    pub shared: bool,
    /// Plant faults that raise an Xid.
    pub self_test: bool,
    /// The run's folder.
    pub folder: PathBuf,
    /// The run's id.
    pub run: String,
    /// The command, redacted.
    pub command: Vec<String>,
    /// Cases to run, in order.
    pub cases: Vec<&'static Case>,
    /// Of the run's time limit, by case, what is kept for cases behind that one.
    pub kept: BTreeMap<&'static str, Duration>,
    /// They are all that tier and GPUs allow.
    pub whole: bool,
}

/// What a case brought, judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Judgements by claim id.
    pub judgements: HashMap<&'static str, Judgement>,
    /// Wall time of its longest child.
    pub wall_s: f64,
    /// The evidence as it was read back; none where it could not be written.
    pub evidence: Option<Evidence>,
    entry: CaseEntry,
}

/// Results as they come in; trials wait on it.
#[derive(Debug, Default)]
pub struct Board {
    done: Mutex<HashMap<&'static str, Arc<Judged>>>,
    changed: Condvar,
}

impl Board {
    /// Waits for a case. Every planned case ends, because every child has a deadline.
    pub fn wait(&self, case: &str) -> Arc<Judged> {
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            if let Some(judged) = done.get(case) {
                return Arc::clone(judged);
            }
            done = self.changed.wait(done).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn put(&self, case: &'static str, judged: Judged) {
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.insert(case, Arc::new(judged));
        self.changed.notify_all();
    }
}

/// Chooses GPUs of the node. Every refusal is one line with numbers.
pub fn select(
    available: &[NodeGpu],
    selection: &Selection,
    shared: bool,
) -> Result<Vec<NodeGpu>, String> {
    let asked = match selection {
        Selection::First(count) => *count as usize,
        Selection::These(list) => list.len(),
    };
    if available.is_empty() {
        return Err(format!("{asked} GPUs asked for, no NVIDIA device is visible"));
    }
    // Of the visible ones: CUDA_VISIBLE_DEVICES may hide gpu0.
    let mut visible: Vec<u32> = available.iter().map(|gpu| gpu.device.gpu).collect();
    visible.sort_unstable();
    let wanted: Vec<u32> = match selection {
        Selection::First(count) if asked > available.len() => {
            return Err(format!("--gpus {count}: this node has {}", available.len()));
        }
        Selection::First(_) => visible.iter().take(asked).copied().collect(),
        Selection::These(list) => list.clone(),
    };
    let mut chosen: Vec<NodeGpu> = Vec::new();
    for index in wanted {
        let Some(gpu) = available.iter().find(|gpu| gpu.device.gpu == index) else {
            let names: Vec<String> = visible.iter().map(|gpu| format!("gpu{gpu}")).collect();
            return Err(format!("--devices: no gpu{index}, there are {}", names.join(", ")));
        };
        if chosen.iter().any(|other| other.uuid == gpu.uuid) {
            return Err(format!("--devices names gpu{index} twice"));
        }
        if !gpu.users.is_empty() && !shared {
            return Err(format!(
                "gpu{index} is used by {}: end it, choose other GPUs, or measure all the same with \
                 --shared (such a run never ticks or blesses)",
                gpu.users.join(", ")
            ));
        }
        chosen.push(gpu.clone());
    }
    let first = &chosen[0].device.pci_device_id;
    if let Some(other) = chosen.iter().find(|gpu| gpu.device.pci_device_id != *first) {
        return Err(format!(
            "gpu{} is another board ({}) than gpu{} ({first}): select one kind with --devices",
            other.device.gpu, other.device.pci_device_id, chosen[0].device.gpu
        ));
    }
    Ok(chosen)
}

/// Why a claim is not measured by this request, where its own needs say so.
pub fn left_out(claim: &Claim, case: &Case, gpus: usize, tier: Tier) -> Option<String> {
    let given = gpus as u32;
    if case.scope != Scope::Host {
        match claim.gpus {
            GpuCount::Exactly(wanted) if given != wanted => {
                return Some(format!("needs exactly {wanted} GPUs, this run has {given}"));
            }
            GpuCount::AtLeast(wanted) if given < wanted => {
                return Some(format!("needs {wanted} GPUs, this run has {given}"));
            }
            _ => {}
        }
        if given < case.min_gpus {
            return Some(format!("needs {} GPUs, this run has {given}", case.min_gpus));
        }
    }
    if case.tier > tier {
        let name = format!("{:?}", case.tier).to_lowercase();
        return Some(format!("only in tier {name}"));
    }
    None
}

/// Runs the cases on the calling thread, which must live as long as its children, and puts every
/// judged case on the board.
pub fn measure(
    world: &World,
    goldens: &Goldens,
    request: &Request,
    settings: &schedule::Settings,
    interrupt: &crate::interrupt::Interrupt,
    board: &Board,
    say: &mut dyn FnMut(&Event),
) {
    let planned: Vec<Planned> = request
        .cases
        .iter()
        .map(|case| Planned {
            case,
            gpus: if case.scope == Scope::Host { Vec::new() } else { request.gpus.clone() },
        })
        .collect();
    let mut again =
        |case: &'static Case, parts: &[Part]| straddles(world, goldens, request, case, parts);
    let mut events = |event: Event| {
        say(&event);
        if let Event::CaseEnded { case, parts } = event {
            board.put(case.id, finish(world, goldens, request, case, parts));
        }
    };
    schedule::run(world.node, world.cases, planned, settings, &mut again, &mut events, interrupt);
}

/// True if a claim of the case straddles a bound: then it is measured once more, with the doubled
/// budget that [`crate::record::Assignment::samples`] states beforehand.
fn straddles(
    world: &World,
    goldens: &Goldens,
    request: &Request,
    case: &'static Case,
    parts: &[Part],
) -> bool {
    let evidence = assemble(world, request, case, parts.to_vec());
    let reference = reference(goldens, request, case, String::new());
    world.readers(case).into_iter().any(|claim| {
        let found = Found::Evidence(&evidence, reference.clone());
        let judgement = world.judge(claim, case, found, goldens);
        judgement.verdict == Verdict::Inconclusive
            && judgement.bounds.iter().any(|bound| bound.standing == Standing::Straddles)
    })
}

fn assemble(world: &World, request: &Request, case: &'static Case, parts: Vec<Part>) -> Evidence {
    let host = case.scope == Scope::Host;
    let readers = world.readers(case);
    let id = request.gpus.first().map(|gpu| gpu.device.pci_device_id.clone());
    Evidence {
        schema: evidence::SCHEMA,
        case: case.id.to_owned(),
        revision: case.revision,
        run: request.run.clone(),
        gpus: if host { 0 } else { request.gpus.len() as u32 },
        tier: request.tier,
        pci_device_id: if host { String::new() } else { id.unwrap_or_default() },
        shared: request.shared && !host,
        claims: readers.iter().map(|claim| (claim.id.to_owned(), claim.digest())).collect(),
        parts,
    }
}

fn reference(goldens: &Goldens, request: &Request, case: &Case, sha256: String) -> EvidenceRef {
    let host = case.scope == Scope::Host;
    let gpus = if host { 0 } else { request.gpus.len() as u32 };
    let id = request.gpus.first().map(|gpu| gpu.device.pci_device_id.clone());
    EvidenceRef {
        path: format!("evidence/{}", run::evidence_file(case.id, gpus)),
        sha256,
        run: request.run.clone(),
        run_sha256: None,
        origin: None,
        day: day_of_run(&request.run),
        board: match id {
            Some(id) if !host => goldens.board_name(&id),
            _ => String::new(),
        },
        gpus,
        recovered: false,
        other_runs: None,
        worded: None,
    }
}

/// `20261121T031500Z-...` -> `2026-11-21`.
fn day_of_run(run: &str) -> String {
    match (run.get(..4), run.get(4..6), run.get(6..8)) {
        (Some(year), Some(month), Some(day)) => format!("{year}-{month}-{day}"),
        _ => String::new(),
    }
}

/// Writes the evidence, reads it back, and judges what was read.
fn finish(
    world: &World,
    goldens: &Goldens,
    request: &Request,
    case: &'static Case,
    parts: Vec<Part>,
) -> Judged {
    let wall_s = parts.iter().map(|part| part.wall_s).fold(0.0, f64::max);
    let outcome = run::outcome(&parts);
    let evidence = assemble(world, request, case, parts);
    let written = write_and_read_back(&request.folder, &evidence);
    let mut judgements = HashMap::new();
    for claim in world.readers(case) {
        let judgement = match &written {
            Ok((read, sha256, _)) => {
                let reference = reference(goldens, request, case, sha256.to_string());
                world.judge(claim, case, Found::Evidence(read, reference), goldens)
            }
            Err(reason) => world.judge(claim, case, Found::Unreadable(reason.clone()), goldens),
        };
        judgements.insert(claim.id, judgement);
    }
    let case = case.id.to_owned();
    match written {
        Ok((read, sha256, file)) => {
            let (case, file, outcome) = (case.into(), file.into(), outcome.into());
            let entry = CaseEntry { case, file, sha256, outcome };
            Judged { judgements, wall_s, evidence: Some(read), entry }
        }
        Err(_) => {
            // Listed all the same, as a file that is not there: whoever judges the run later must
            // miss it, as this run does.
            let file = run::evidence_file(&evidence.case, evidence.gpus);
            let sha256 = Sha256::of(b"");
            let (case, file) = (case.into(), file.into());
            let entry = CaseEntry { case, file, sha256, outcome: "failed".into() };
            Judged { judgements, wall_s, evidence: None, entry }
        }
    }
}

/// Evidence as it was read back, its digest, and the name of its file.
type Written = (Evidence, Sha256, String);

fn write_and_read_back(folder: &Path, evidence: &Evidence) -> Result<Written, String> {
    let file = run::evidence_file(&evidence.case, evidence.gpus);
    let path = folder.join("evidence").join(&file);
    let text = evidence::render(evidence)?;
    files::write(&path, text.as_bytes())?;
    let read = files::read(&path)?;
    let parsed = evidence::parse(&read)?;
    if parsed != *evidence {
        return Err(format!("{file} reads back otherwise than it was written"));
    }
    Ok((parsed, Sha256::of(read.as_bytes()), file))
}

/// Times of a run.
#[derive(Debug, Clone)]
pub struct Clock {
    started: jiff::Timestamp,
    monotonic: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Clock {
        Clock { started: jiff::Timestamp::now(), monotonic: Instant::now() }
    }

    /// The start.
    pub fn timestamp(&self) -> jiff::Timestamp {
        self.started
    }

    /// UTC, RFC 3339, whole seconds.
    pub fn started(&self) -> String {
        self.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A run id: start and eight hex digits that differ between runs of one second.
    pub fn run_id(&self, salt: u64) -> String {
        let stamp = self.started.strftime("%Y%m%dT%H%M%SZ");
        let more = digest::sha256_hex(format!("{salt}{}", self.started).as_bytes());
        format!("{stamp}-{}", &more[..8])
    }

    /// Seconds by the monotonic clock.
    pub fn wall_s(&self) -> f64 {
        self.monotonic.elapsed().as_secs_f64()
    }

    /// The end: start plus monotonic time, so that a clock that jumps cannot end a run before its
    /// start.
    pub fn ended(&self) -> String {
        let end = self.started + jiff::SignedDuration::from_secs_f64(self.wall_s());
        end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// Writes `run.json` and returns the manifest with its digest.
pub fn write_manifest(
    world: &World,
    goldens: &Goldens,
    request: &Request,
    clock: &Clock,
    interrupted: bool,
    board: &Board,
) -> Result<(Run, String), String> {
    let judged: Vec<Arc<Judged>> = request.cases.iter().map(|case| board.wait(case.id)).collect();
    let evidence = judged.iter().filter_map(|judged| judged.evidence.as_ref());
    let complete = judged.iter().all(|judged| judged.evidence.is_some());
    let mut run = head(world, goldens, request, clock)?;
    run.versions = recover::versions(evidence).into();
    run.ended = clock.ended();
    run.wall_s = (clock.wall_s() * 1000.0).round() / 1000.0;
    run.whole &= complete;
    run.interrupted = interrupted;
    run.cases = judged.iter().map(|judged| judged.entry.clone()).collect();
    let line = run.line()?;
    files::write(&request.folder.join(recorded::MANIFEST), format!("{line}\n").as_bytes())?;
    recover::ended(&request.folder);
    Ok((run, Run::digest_of(&line)))
}

/// Writes what the run sets out to do, so that its manifest can be written even where its process cannot. The run
/// goes on while what this gives is kept.
pub fn begin(
    world: &World,
    goldens: &Goldens,
    request: &Request,
    clock: &Clock,
) -> Result<Going, String> {
    let manifest = head(world, goldens, request, clock)?;
    let gpus = request.gpus.len() as u32;
    let planned = |case: &&'static Case| {
        let gpus = if case.scope == Scope::Host { 0 } else { gpus };
        Plan { case: case.id.into(), file: run::evidence_file(case.id, gpus).into() }
    };
    let planned = request.cases.iter().map(planned).collect();
    Begun { manifest, planned }.write(&request.folder)
}

/// A manifest as far as it is known when a run begins.
fn head(world: &World, goldens: &Goldens, request: &Request, clock: &Clock) -> Result<Run, String> {
    let devices: Vec<_> = request.gpus.iter().map(|gpu| gpu.device.clone()).collect();
    Ok(Run {
        schema: run::SCHEMA,
        run: request.run.clone(),
        source: world.source.clone().into(),
        executable_sha256: executable_sha256()?,
        command: request.command.clone().into(),
        started: clock.started(),
        ended: clock.started(),
        wall_s: 0.0,
        tier: request.tier,
        board: devices
            .first()
            .map_or(String::new(), |device| goldens.board_name(&device.pci_device_id)),
        devices: devices.into(),
        versions: BTreeMap::new().into(),
        shared: request.shared,
        whole: request.whole,
        interrupted: true,
        recovered: None,
        cases: Vec::new(),
    })
}

/// SHA-256 of the running executable.
pub fn executable_sha256() -> Result<String, String> {
    let bytes = std::fs::read(own_executable()?).map_err(|e| format!("own executable: {e}"))?;
    Ok(digest::sha256_hex(&bytes))
}

/// Where the running executable can be read and started: on Linux the file that runs, even where another one has
/// taken its name since or it is deleted.
pub fn own_executable() -> Result<PathBuf, String> {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return Ok(own.to_owned());
    }
    std::env::current_exe().map_err(|e| format!("own executable: {e}"))
}

/// Arguments as evidence may hold them: of a path only its last name stays.
pub fn redacted_command(arguments: impl Iterator<Item = String>) -> Vec<String> {
    arguments
        .skip(1)
        .map(|argument| match argument.rsplit_once('/') {
            Some((before, name)) => match before.split_once('=') {
                Some((option, _)) => format!("{option}={name}"),
                None => name.to_owned(),
            },
            None => argument,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Device;

    fn gpu(index: u32, id: &str, users: &[&str]) -> NodeGpu {
        let device = Device {
            gpu: index,
            uuid_sha256: format!("{index}"),
            name: "a GPU".into(),
            pci_device_id: id.into(),
            compute_capability: "9.0".into(),
            memory_bytes: 1,
            power_limit_w: 1.0,
            sm_clock_max_mhz: 1,
            memory_clock_max_mhz: 1,
            memory_bus_bits: 1,
            ecc: None,
        };
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        NodeGpu { uuid: format!("GPU-{index}"), device, users }
    }

    #[track_caller]
    fn refused(available: &[NodeGpu], selection: Selection, part: &str) {
        let error = select(available, &selection, false).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn gpus_that_are_not_there_or_not_free_are_refused() {
        let eight: Vec<NodeGpu> = (0..8).map(|index| gpu(index, "2335", &[])).collect();
        assert_eq!(select(&eight, &Selection::First(8), false).map(|g| g.len()), Ok(8));
        refused(&eight, Selection::First(9), "--gpus 9: this node has 8");
        refused(&eight, Selection::First(u32::MAX), "this node has 8");
        refused(&eight, Selection::These(vec![0, 8]), "no gpu8");
        refused(&eight, Selection::These(vec![3, 3]), "gpu3 twice");
        refused(&[], Selection::First(8), "no NVIDIA device");
        let mixed = [gpu(0, "2335", &[]), gpu(1, "2330", &[])];
        refused(&mixed, Selection::First(2), "another board");
        let busy = [gpu(0, "2335", &["pid 41 (python3)"])];
        refused(&busy, Selection::First(1), "pid 41");
        assert!(select(&busy, &Selection::First(1), true).is_ok());
    }

    #[test]
    fn the_first_gpus_are_the_first_visible_ones() {
        let two = [gpu(6, "2335", &[]), gpu(4, "2335", &[])];
        let chosen = select(&two, &Selection::First(1), false).expect("chosen");
        assert_eq!(chosen[0].device.gpu, 4);
        assert_eq!(select(&two, &Selection::First(2), false).map(|gpus| gpus.len()), Ok(2));
        refused(&two, Selection::First(3), "this node has 2");
        refused(&two, Selection::These(vec![0]), "no gpu0, there are gpu4, gpu6");
    }

    #[test]
    fn the_command_keeps_no_path() {
        let given = ["/opt/x/hardware", "--gpus", "4", "--out=/tmp/x/run", "/home/me/file.tar"];
        let kept = redacted_command(given.iter().map(|s| (*s).to_owned()));
        assert_eq!(kept, ["--gpus", "4", "--out=run", "file.tar"]);
    }
}
