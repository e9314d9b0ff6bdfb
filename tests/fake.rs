//! A node with fake GPUs, and claims and cases that measure them: the whole runner without a device.
//!
//! [`hardware`] is the run as a program, so that a test executable can play it and be its own child.
//! Faults are planted through the variable [`FAULT`], which children inherit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::digest;
use harness::evidence::{Device, KernelUse, Metric, Telemetry, Tier};
use harness::node::{Node, NodeGpu, XidWatch};
use harness::record::{Assignment, Recorder, Stop};
use harness::report::checklist::{Checklist, Section};
use harness::world::World;

use crate::{folders, specimens};

/// Name of the variable that holds the planted faults, by comma.
pub const FAULT: &str = "FAKE_FAULT";
/// Name of the variable that holds how many GPUs the node has.
pub const GPUS: &str = "FAKE_GPUS";
/// Name of the variable that holds the root folder.
pub const ROOT: &str = "FAKE_ROOT";
/// PCI device id of the fake GPUs.
pub const PCI_DEVICE_ID: &str = "ffff";
/// Name of their board.
pub const BOARD: &str = "fake-board";
/// What a healthy fake GPU reads.
pub const HEALTHY_GBPS: f64 = 1000.0;

/// True if this fault is planted.
pub fn planted(fault: &str) -> bool {
    std::env::var(FAULT).is_ok_and(|faults| faults.split(',').any(|name| name == fault))
}

const fn claim(id: &'static str, case: &'static str, metric: &'static str) -> Claim {
    Claim {
        id,
        text: "The fake node does what it is told.",
        source: Source { document: "touchstone", section: "tests", printed: "", board: "" },
        relation: Relation::Holds,
        case,
        metric,
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

static MEMORY: Claim = claim("env::memory-keeps", "env::probe", "wrong_count");
static COUNTS: Claim =
    Claim { gpus: GpuCount::Host, ..claim("env::counts-itself", "env::host", "miscounted_count") };
static XID: Claim = claim("env::xid-is-contained", "env::xid", "harmed_count");
/// The claim that is blessed.
pub static READ: Claim = AS_PRINTED;
/// The same claim after somebody changed its sentence.
static REWORDED: Claim =
    Claim { text: "The fake node reads faster than it is told.", ..AS_PRINTED };
/// [`READ`] as a value, from which a test makes another one.
pub const AS_PRINTED: Claim = Claim {
    relation: Relation::AtLeast,
    ceiling: Some("hbm_gbps"),
    ..claim("bandwidth::read", "bandwidth::stream", "read_gbps")
};
static SPREAD: Claim = Claim {
    relation: Relation::AtMost,
    reduce: Reduce::SpreadPercent,
    gpus: GpuCount::AtLeast(2),
    ..claim("bandwidth::read-spread", "bandwidth::stream", "read_gbps")
};
static LINK: Claim = Claim {
    relation: Relation::AtMost,
    gpus: GpuCount::AtLeast(2),
    ..claim("bandwidth::link", "bandwidth::link", "latency_us")
};
static MESH: Claim = Claim {
    gpus: GpuCount::Exactly(8),
    ..claim("bandwidth::mesh-n8", "bandwidth::link", "missing_count")
};
/// The record of a false claim.
pub static DOUBLED: Claim = Claim {
    relation: Relation::AtLeast,
    gpus: GpuCount::Host,
    kind: Kind::FalseRecord,
    ..claim("bandwidth::doubled-is-false", "env::host", "gap_pp")
};
static EXACT: Claim = claim("compute::exact", "compute::product", "wrong_count");
static FP4: Claim = claim("compute::fp4", "compute::fp4", "wrong_count");
static SUSTAINED: Claim = Claim {
    relation: Relation::AtLeast,
    ..claim("compute::sustained", "compute::sustained", "rate_tflops")
};

/// All claims, in checklist order.
pub static CLAIMS: &[&Claim] =
    &[&MEMORY, &COUNTS, &XID, &READ, &SPREAD, &LINK, &MESH, &DOUBLED, &EXACT, &FP4, &SUSTAINED];

type Procedure = fn(&Assignment, &mut Recorder) -> Result<(), Stop>;

const fn case(id: &'static str, scope: Scope, run: Procedure) -> Case {
    Case {
        id,
        revision: 1,
        figures_since: 1,
        scope,
        min_gpus: 0,
        tier: Tier::Quick,
        self_test_only: false,
        procedure: "Writes down what the test wants.",
        samples: 0,
        expected_s: 0.1,
        deadline_s: 60.0,
        kernels: &[],
        integrity: &[],
        controls: &[],
        run,
    }
}

const fn control(name: &'static str, trips: &'static str, expect: Expect) -> Control {
    Control { name, fault: "the test says so", trips, expect }
}

static PROBE: Case = Case {
    integrity: &["wrong_count"],
    controls: &[control("flipped-bit", "wrong_count", Expect::Corrupt)],
    ..case("env::probe", Scope::EachGpu, right_bits)
};
static HOST: Case = Case {
    controls: &[control("miscount", "miscounted_count", Expect::Refuted)],
    ..case("env::host", Scope::Host, host)
};
static XIDS: Case = Case {
    self_test_only: true,
    controls: &[control("harm", "harmed_count", Expect::Refuted)],
    ..case("env::xid", Scope::EachGpu, xid)
};
/// The case that faults are planted in.
pub static STREAM: Case = Case {
    samples: 9,
    kernels: &["stream"],
    integrity: &["wrong_count"],
    controls: &[
        control("slow", "read_gbps", Expect::Regressed),
        control("crawl", "read_gbps", Expect::Refuted),
    ],
    ..case("bandwidth::stream", Scope::EachGpu, stream)
};
static LINKS: Case = Case {
    min_gpus: 2,
    samples: 9,
    controls: &[
        control("late", "latency_us", Expect::Refuted),
        control("cut", "missing_count", Expect::Refuted),
    ],
    ..case("bandwidth::link", Scope::Node, link)
};
static PRODUCT: Case = Case {
    integrity: &["wrong_count"],
    controls: &[control("flipped-bit", "wrong_count", Expect::Corrupt)],
    ..case("compute::product", Scope::EachGpu, right_bits)
};
static FP4S: Case = Case {
    controls: &[control("flipped-bit", "wrong_count", Expect::Refuted)],
    ..case("compute::fp4", Scope::EachGpu, |_, _| {
        Err(Stop::NotApplicable("no FP4 tensor cores".to_owned()))
    })
};
static LONG: Case = Case {
    tier: Tier::Full,
    samples: 9,
    controls: &[control("half", "rate_tflops", Expect::Refuted)],
    ..case("compute::sustained", Scope::EachGpu, sustained)
};

/// All cases, in the order in which they run.
pub static CASES: &[&Case] = &[&HOST, &PROBE, &STREAM, &LINKS, &PRODUCT, &FP4S, &LONG, &XIDS];

/// The one checklist of the fake node.
pub static CHECKLISTS: &[Checklist] = &[Checklist {
    file: "00-fake.md",
    title: "Fake",
    intro: "What the fake node promises.",
    sections: &[Section {
        heading: "Everything",
        origin: "",
        claims: &[
            "env::memory-keeps",
            "env::counts-itself",
            "env::xid-is-contained",
            "bandwidth::read",
            "bandwidth::read-spread",
            "bandwidth::link",
            "bandwidth::mesh-n8",
            "bandwidth::doubled-is-false",
            "compute::exact",
            "compute::fp4",
            "compute::sustained",
        ],
    }],
    tables: &[],
    notes: &[],
}];

/// Samples whose median is `middle`.
pub fn samples(middle: f64, count: u32) -> Vec<f64> {
    let half = f64::from(count - 1) / 2.0;
    (0..count).map(|i| middle + 0.01 * (f64::from(i) - half)).collect()
}

/// Less than a hundredth that no two runs have in common: what was measured twice differs.
fn chance(assignment: &Assignment) -> f64 {
    1e-8 * (assignment.seed % 100_000) as f64
}

fn right_bits(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let gpus = assignment.gpus();
    let wrong = planted("wrong-bits") && gpus == [1] && assignment.case == PRODUCT.id;
    recorder.metric(Metric::exact("wrong_count", &[], &gpus, f64::from(wrong)));
    recorder.control("flipped-bit", Metric::exact("wrong_count", &[], &gpus, 1.0));
    recorder.versions.insert("fake".to_owned(), "1".to_owned());
    Ok(())
}

fn host(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let wrong = f64::from(planted("miscount"));
    recorder.metric(Metric::exact("miscounted_count", &[], &[], wrong));
    recorder.control("miscount", Metric::exact("miscounted_count", &[], &[], 1.0));
    recorder.metric(Metric::exact("gap_pp", &[], &[], 1.0));
    Ok(())
}

fn xid(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let gpus = assignment.gpus();
    recorder.metric(Metric::exact("harmed_count", &[], &gpus, 0.0));
    recorder.control("harm", Metric::exact("harmed_count", &[], &gpus, 1.0));
    Ok(())
}

fn stream(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("stream");
    let gpus = assignment.gpus();
    recorder.telemetry = gpus.iter().map(|gpu| Telemetry::quiet(*gpu)).collect();
    let first = gpus == [0];
    if planted("no-library") {
        return Err(Stop::NotRun("libfake.so is missing".to_owned()));
    }
    if planted("crash") && first {
        let (root, uuid) = (assignment.root.display(), &assignment.devices[0].uuid);
        eprintln!("{root}/golden on {uuid} cannot be read");
        std::process::abort();
    }
    if planted("hang") {
        recorder.progress("waits to be interrupted");
        std::thread::sleep(std::time::Duration::from_secs(50));
    }
    if planted("full") && first {
        fill_disk(assignment)?;
    }
    if planted("flood") && first {
        recorder.option("flood", "x".repeat(harness::evidence::MAX_BYTES));
    }
    let count = assignment.samples(9) as u32;
    let values = match (planted("straddle"), assignment.attempt) {
        (true, 1) if first => (0..9).map(|i| HEALTHY_GBPS - 20.0 + 2.5 * f64::from(i)).collect(),
        _ if planted("slow") && gpus == [1] => {
            samples(0.9 * HEALTHY_GBPS + chance(assignment), count)
        }
        _ if planted("beyond") => samples(2.0 * HEALTHY_GBPS + f64::from(gpus[0]), count),
        _ if planted("nan") && first => vec![f64::NAN; 9],
        _ => samples(HEALTHY_GBPS + f64::from(gpus[0]) + chance(assignment), count),
    };
    recorder.metric(Metric::sampled("read_gbps", &[], &gpus, values));
    recorder.metric(Metric::exact("wrong_count", &[], &gpus, 0.0));
    let faulty = if planted("blind-control") { HEALTHY_GBPS } else { 0.96 * HEALTHY_GBPS };
    recorder.control("slow", Metric::sampled("read_gbps", &[], &gpus, samples(faulty, 9)));
    recorder.control("crawl", Metric::sampled("read_gbps", &[], &gpus, samples(200.0, 9)));
    recorder.kernels.push(KernelUse {
        name: "stream".to_owned(),
        architecture: "sm_90a".to_owned(),
        compiler: "none".to_owned(),
        source_sha256: source_of("stream"),
        cubin_sha256: digest::sha256_hex(b"cubin"),
    });
    recorder.option("seed", assignment.seed);
    recorder.versions.insert("fake".to_owned(), "1".to_owned());
    Ok(())
}

/// Stands for a full disk: the evidence of the product cannot be renamed into its place.
fn fill_disk(assignment: &Assignment) -> Result<(), Stop> {
    let run = assignment.result.ancestors().find(|folder| folder.join("evidence").is_dir());
    let run = run.ok_or_else(|| Stop::Error("no folder of evidence".to_owned()))?;
    fs::create_dir_all(run.join("evidence/compute-product-n2.json/in-the-way"))?;
    Ok(())
}

fn link(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let gpus = assignment.gpus();
    recorder.telemetry = gpus.iter().map(|gpu| Telemetry::quiet(*gpu)).collect();
    let count = assignment.samples(9) as u32;
    recorder.metric(Metric::sampled(
        "latency_us",
        &[],
        &gpus,
        samples(if planted("slow-link") { 30.0 } else { 3.0 } + chance(assignment), count),
    ));
    recorder.control("late", Metric::sampled("latency_us", &[], &gpus, samples(30.0, 9)));
    recorder.metric(Metric::exact("missing_count", &[], &gpus, 0.0));
    recorder.control("cut", Metric::exact("missing_count", &[], &gpus, 1.0));
    Ok(())
}

fn sustained(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let gpus = assignment.gpus();
    recorder.telemetry = gpus.iter().map(|gpu| Telemetry::quiet(*gpu)).collect();
    let rate = 90.0 + f64::from(gpus[0]) + chance(assignment);
    let count = assignment.samples(9) as u32;
    recorder.metric(Metric::sampled("rate_tflops", &[], &gpus, samples(rate, count)));
    recorder.control("half", Metric::sampled("rate_tflops", &[], &gpus, samples(45.0, 9)));
    Ok(())
}

/// Digest of a fake kernel's source.
pub fn source_of(kernel: &str) -> String {
    digest::sha256_hex(kernel.as_bytes())
}

/// A machine with this many GPUs.
#[derive(Debug)]
pub struct FakeNode {
    /// How many.
    pub gpus: u32,
}

impl Node for FakeNode {
    fn device_visible(&self) -> bool {
        self.gpus > 0
    }

    fn gpus(&self) -> Result<Vec<NodeGpu>, String> {
        if planted("no-inventory") {
            return Err("a device is there, but it does not answer".to_owned());
        }
        Ok((0..self.gpus).map(gpu).collect())
    }

    fn child_environment(&self, _: &Path) -> Result<BTreeMap<String, String>, String> {
        Ok(BTreeMap::new())
    }

    fn watch(&self, _: &[String]) -> Option<Box<dyn XidWatch>> {
        None
    }

    fn probe_case(&self) -> &'static str {
        PROBE.id
    }

    fn kernel_source_sha256(&self, kernel: &str, _: &str) -> Option<String> {
        let edited = if planted("new-kernel") { " edited" } else { "" };
        (kernel == "stream").then(|| source_of(&format!("{kernel}{edited}")))
    }
}

/// A fake GPU.
pub fn gpu(index: u32) -> NodeGpu {
    let uuid = format!("GPU-0000000{index}-aaaa-bbbb-cccc-dddddddddddd");
    let device = Device {
        gpu: index,
        uuid_sha256: digest::sha256_hex(uuid.as_bytes()),
        name: "Fake".to_owned(),
        pci_device_id: PCI_DEVICE_ID.to_owned(),
        compute_capability: "9.0".to_owned(),
        memory_bytes: 1 << 30,
        power_limit_w: 700.0,
        sm_clock_max_mhz: 1980,
        memory_clock_max_mhz: 3201,
        memory_bus_bits: 6144,
        ecc: Some(true),
    };
    let busy = planted("busy") && index == 1;
    let users = if busy { vec!["pid 41 (python3)".to_owned()] } else { Vec::new() };
    NodeGpu { uuid, device, users }
}

/// Lays the fake node's goldens and fixtures below `root`.
#[track_caller]
pub fn lay(root: &Path) {
    for folder in ["golden", "fixtures"] {
        let data = folders::repository().join("tests/fake").join(folder);
        folders::copy(&data, &root.join(folder));
    }
}

/// Calls `with` with the fake world over `root`.
pub fn with_world<T>(root: PathBuf, gpus: u32, with: impl FnOnce(&World) -> T) -> T {
    let mut claims: Vec<&'static Claim> = CLAIMS.to_vec();
    for claim in &mut claims {
        if claim.id == READ.id && planted("reworded") {
            *claim = &REWORDED;
        }
    }
    if planted("twice") {
        claims.push(&REWORDED);
    }
    with(&World {
        claims: &claims,
        cases: CASES,
        node: &FakeNode { gpus },
        root,
        source: specimens::source(),
        checklists: CHECKLISTS,
    })
}

/// The hardware run over the fake node; root and GPUs come from [`ROOT`] and [`GPUS`].
pub fn hardware(arguments: &[String]) -> i32 {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let root = PathBuf::from(variable(ROOT));
    let gpus = variable(GPUS).parse().expect("a number of GPUs");
    let meant = |path: &Path| path.to_path_buf();
    with_world(root, gpus, |world| harness::app::main(world, arguments, &meant))
}
