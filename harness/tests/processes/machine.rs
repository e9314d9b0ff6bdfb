//! A node with fake GPUs, and a run over it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::case::Case;
use harness::child::word;
use harness::evidence::{Device, Failure, Outcome, Part, Tier};
use harness::interrupt::Interrupt;
use harness::node::{Node, NodeGpu, XidWatch};
use harness::schedule::{Event, Planned, Settings, run};

use crate::cases::{CASES, PROBE};

pub struct FakeNode {
    pub environment: Result<BTreeMap<String, String>, String>,
}

impl Default for FakeNode {
    fn default() -> FakeNode {
        let own = ("FROM_THE_NODE".to_owned(), "node".to_owned());
        FakeNode { environment: Ok(BTreeMap::from([own])) }
    }
}

/// GPU 3 sees an Xid in every run.
struct FakeWatch;

impl XidWatch for FakeWatch {
    fn seen(&self, uuid: &str) -> Vec<u64> {
        if uuid == gpu(3).uuid { vec![79] } else { Vec::new() }
    }
}

impl Node for FakeNode {
    fn device_visible(&self) -> bool {
        true
    }

    fn gpus(&self) -> Result<Vec<NodeGpu>, String> {
        Ok(gpus(4))
    }

    fn child_environment(&self, dir: &Path) -> Result<BTreeMap<String, String>, String> {
        assert!(dir.is_dir());
        self.environment.clone()
    }

    fn watch(&self, _: &[String]) -> Option<Box<dyn XidWatch>> {
        Some(Box::new(FakeWatch))
    }

    fn probe_case(&self) -> &'static str {
        PROBE.id
    }

    fn kernel_source_sha256(&self, _: &str, _: &str) -> Option<String> {
        None
    }
}

pub fn gpu(index: u32) -> NodeGpu {
    let uuid = format!("GPU-0000000{index}-aaaa-bbbb-cccc-dddddddddddd");
    let device = Device {
        gpu: index,
        uuid_sha256: harness::digest::sha256_hex(uuid.as_bytes()),
        name: "Fake".into(),
        pci_device_id: "ffff".into(),
        compute_capability: "9.0".into(),
        memory_bytes: 1 << 30,
        power_limit_w: 700.0,
        sm_clock_max_mhz: 1980,
        memory_clock_max_mhz: 3201,
        memory_bus_bits: 6144,
        ecc: None,
    };
    NodeGpu { uuid, device, users: Vec::new() }
}

pub fn gpus(count: u32) -> Vec<NodeGpu> {
    (0..count).map(gpu).collect()
}

pub fn planned(case: &'static Case, gpus: &[u32]) -> Planned {
    Planned { case, gpus: gpus.iter().copied().map(gpu).collect() }
}

/// This executable in the given role.
pub fn myself(role: &str) -> Vec<OsString> {
    vec![std::env::current_exe().expect("own path").into(), role.into()]
}

pub fn settings(folder: &Path) -> Settings {
    Settings {
        command: myself("--child"),
        folder: folder.to_owned(),
        root: folder.to_owned(),
        cache: folder.join("cache"),
        tier: Tier::Quick,
        seed: 7,
        self_test: false,
        environment: BTreeMap::from([("GIVEN".to_owned(), "given".to_owned())]),
        redactions: vec![(folder.to_owned(), "<root>".to_owned())],
        repro: Box::new(|case, gpus| format!("touchstone {case} --gpus {gpus:?}")),
        time_limit: None,
        kept: BTreeMap::new(),
    }
}

/// What a run delivered.
pub struct Delivered {
    pub events: Vec<Event>,
}

impl Delivered {
    /// The parts of a case; it must have been delivered exactly once.
    #[track_caller]
    pub fn parts(&self, case: &Case) -> &[Part] {
        let mut found = self.events.iter().filter_map(|event| match event {
            Event::CaseEnded { case: ended, parts } if ended.id == case.id => Some(parts),
            _ => None,
        });
        let parts = found.next().unwrap_or_else(|| panic!("{} was not delivered", case.id));
        assert!(found.next().is_none(), "{} was delivered twice", case.id);
        parts
    }

    /// The outcomes of a case's parts, in words.
    #[track_caller]
    pub fn words(&self, case: &Case) -> Vec<&'static str> {
        self.parts(case).iter().map(|part| word(&part.outcome)).collect()
    }

    pub fn quarantined(&self) -> Vec<(u32, &str)> {
        let is_quarantine = |event| match event {
            &Event::Quarantined { gpu, ref why } => Some((gpu, why.as_str())),
            _ => None,
        };
        self.events.iter().filter_map(is_quarantine).collect()
    }
}

/// A run with every hook.
pub fn run_with(
    settings: &Settings,
    plan: Vec<Planned>,
    again: &mut dyn FnMut(&'static Case, &[Part]) -> bool,
    watch: &mut dyn FnMut(&Event),
    interrupt: &Interrupt,
) -> Delivered {
    let mut events = Vec::new();
    let mut keep = |event: Event| {
        watch(&event);
        events.push(event);
    };
    run(&FakeNode::default(), CASES, plan, settings, again, &mut keep, interrupt);
    assert!(!settings.folder.join("work").exists(), "work/ must be removed");
    Delivered { events }
}

/// A run in a folder of its own, and that folder.
pub fn run_plan(plan: Vec<Planned>) -> (Delivered, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let settings = settings(folder.path());
    let delivered = run_with(&settings, plan, &mut |_, _| false, &mut |_| {}, &Interrupt::new());
    (delivered, folder)
}

#[track_caller]
pub fn failure(part: &Part) -> &Failure {
    match &part.outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?} is no failure"),
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited 60 s for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gone, or a zombie that nobody reaps.
pub fn is_dead(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
            matches!(state, Some('Z' | 'X'))
        }
        Err(_) => true,
    }
}

/// Waits for the end of a process that was killed: the kernel may need a moment.
#[track_caller]
pub fn wait_dead(pid: i32) {
    wait_until("the end of a process", || is_dead(pid));
}

pub fn send(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("signal");
}

/// The number in `pid 123`.
pub fn pid_in(stage: &str) -> Option<i32> {
    stage.strip_prefix("pid ")?.parse().ok()
}

/// Where a run in another process leaves what the test reads.
pub fn note(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("note-{name}"))
}
