//! Suite `topology`: how the GPUs are linked, from NVML's inventory.

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::nvml::{self, GpuInfo, P2pPair};

use crate::lab;

const MESH: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Latest Validation",
    printed: "NVLink connectivity: Full NV18 mesh (18 lanes @ 50 GB/s per GPU)",
    board: "8x B200",
};

const fn claim(
    id: &'static str,
    text: &'static str,
    relation: Relation,
    metric: &'static str,
    gpus: GpuCount,
) -> Claim {
    Claim {
        id,
        text,
        source: MESH,
        relation,
        case: LINKS.id,
        metric,
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus,
        kind: Kind::Claim,
    }
}

/// Claims of the suite, in checklist order.
pub static CLAIMS: &[&Claim] = &[&LANES, &LANE_RATE, &PEER_ACCESS, &NO_PCIE_PAIR, &MESH_N8];

static LANES: Claim = claim(
    "topology::nvlink-lanes",
    "Every GPU has 18 NVLink lanes up.",
    Relation::Equal,
    "active_lanes_count",
    GpuCount::AtLeast(2),
);
static LANE_RATE: Claim = claim(
    "topology::nvlink-lane-rate",
    "Every lane that is up carries the generation's rate in each direction.",
    Relation::AtLeast,
    "lane_rate_gbps",
    GpuCount::AtLeast(2),
);
static PEER_ACCESS: Claim = claim(
    "topology::peer-access",
    "Every ordered pair of GPUs can read and write each other's memory.",
    Relation::Holds,
    "denied_pairs_count",
    GpuCount::AtLeast(2),
);
static NO_PCIE_PAIR: Claim = claim(
    "topology::no-pcie-pair",
    "No pair of GPUs is joined by PCIe where the board has NVLink.",
    Relation::Holds,
    "pairs_without_nvlink_count",
    GpuCount::AtLeast(2),
);
static MESH_N8: Claim = claim(
    "topology::nvlink-mesh-n8",
    "Eight GPUs form a full NVLink mesh: all 56 ordered pairs over NVLink, every lane up.",
    Relation::Holds,
    "unmeshed_pairs_count",
    GpuCount::Exactly(8),
);

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] = &[&LINKS];

static LINKS: Case = Case {
    id: "topology::links",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Reads NVML's link states, lane rates and P2P status of every ordered pair. The \
                controls doctor the inventory that was just read and count again.",
    samples: 0,
    expected_s: 1.5,
    deadline_s: 60.0,
    kernels: &[],
    integrity: &[],
    controls: &[
        Control {
            name: "masked-lane",
            fault: "one lane of the first GPU is taken as down",
            trips: "active_lanes_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "slow-lane",
            fault: "one lane is taken as running at half its rate",
            trips: "lane_rate_gbps",
            expect: Expect::Refuted,
        },
        Control {
            name: "denied-pair",
            fault: "one ordered pair is taken as not readable",
            trips: "denied_pairs_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "pcie-pair",
            fault: "one ordered pair is taken as not joined by NVLink",
            trips: "pairs_without_nvlink_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "masked-lane-in-mesh",
            fault: "one lane of the first GPU is taken as down, its pairs leave the mesh",
            trips: "unmeshed_pairs_count",
            expect: Expect::Refuted,
        },
    ],
    run: links,
};

/// The part of an inventory that this suite looks at: the selected GPUs and the pairs among them.
#[derive(Debug, Clone)]
struct Links {
    gpus: Vec<GpuInfo>,
    pairs: Vec<P2pPair>,
}

fn links(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let session = nvml::init().map_err(|error| Stop::NotRun(error.to_string()))?;
    recorder.versions.insert("nvidia_driver".into(), session.driver_version()?);
    let links = selected(&session.inventory()?, assignment)?;
    for metric in measure(&links) {
        recorder.metric(metric);
    }
    for (control, doctored) in doctored(&links) {
        let trips = LINKS.controls.iter().find(|known| known.name == control);
        let trips = trips.map_or("", |control| control.trips);
        for metric in measure(&doctored).into_iter().filter(|metric| metric.name == trips) {
            recorder.control(control, metric);
        }
    }
    Ok(())
}

fn selected(inventory: &nvml::Inventory, assignment: &Assignment) -> Result<Links, Stop> {
    let mut gpus = Vec::new();
    for assigned in &assignment.devices {
        gpus.push(lab::info_of(inventory, &assigned.uuid)?.clone());
    }
    let among = |index: usize| gpus.iter().any(|gpu: &GpuInfo| gpu.index == index);
    let pairs = inventory.p2p.iter().filter(|pair| among(pair.from) && among(pair.to));
    let pairs = pairs.cloned().collect();
    Ok(Links { gpus, pairs })
}

/// Counts lanes, rates and pairs. What NVML does not tell counts as not there.
fn measure(links: &Links) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for gpu in &links.gpus {
        let on = [gpu.index as u32];
        let up = lanes_up(gpu);
        metrics.push(Metric::exact("active_lanes_count", &[], &on, up as f64));
        let rates = gpu.links.iter().filter(|link| link.active).map(|link| link.speed_mbps);
        let slowest = rates.map(|rate| f64::from(rate.unwrap_or(0)) / 1e3).reduce(f64::min);
        metrics.push(Metric::exact("lane_rate_gbps", &[], &on, slowest.unwrap_or(0.0)));
    }
    if links.gpus.len() < 2 {
        return metrics;
    }
    let ok = |word: Option<&str>| word == Some("ok");
    let count = |bad: &dyn Fn(&P2pPair) -> bool| {
        let missing = links.gpus.len() * (links.gpus.len() - 1) - links.pairs.len();
        (missing + links.pairs.iter().filter(|pair| bad(pair)).count()) as f64
    };
    let denied = count(&|pair| !(ok(pair.read) && ok(pair.write)));
    let without = count(&|pair| !ok(pair.nvlink));
    let most = links.gpus.iter().map(|gpu| gpu.links.len()).max().unwrap_or(0);
    let whole = |index: usize| {
        links.gpus.iter().any(|gpu| gpu.index == index && lanes_up(gpu) == most && most > 0)
    };
    let unmeshed = count(&|pair| !(ok(pair.nvlink) && whole(pair.from) && whole(pair.to)));
    metrics.push(Metric::exact("denied_pairs_count", &[], &[], denied));
    metrics.push(Metric::exact("pairs_without_nvlink_count", &[], &[], without));
    metrics.push(Metric::exact("unmeshed_pairs_count", &[], &[], unmeshed));
    metrics
}

fn lanes_up(gpu: &GpuInfo) -> usize {
    gpu.links.iter().filter(|link| link.active).count()
}

/// The inventory with each planted fault.
fn doctored(links: &Links) -> Vec<(&'static str, Links)> {
    let mut masked = links.clone();
    let mut slow = links.clone();
    if let Some(link) = masked.gpus.first_mut().and_then(|gpu| gpu.links.first_mut()) {
        link.active = false;
    }
    if let Some(link) = slow.gpus.first_mut().and_then(|gpu| gpu.links.first_mut()) {
        link.speed_mbps = link.speed_mbps.map(|speed| speed / 2);
    }
    let mut all = vec![
        ("masked-lane", Links { gpus: masked.gpus[..1].to_vec(), ..masked.clone() }),
        ("slow-lane", Links { gpus: slow.gpus[..1].to_vec(), ..slow }),
    ];
    if links.pairs.is_empty() {
        return all;
    }
    let mut denied = links.clone();
    denied.pairs[0].read = Some("not supported");
    let mut pcie = links.clone();
    pcie.pairs[0].nvlink = Some("not supported");
    all.push(("masked-lane-in-mesh", masked));
    all.push(("denied-pair", denied));
    all.push(("pcie-pair", pcie));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::nvml::{Health, NvLinkInfo};

    fn gpu(index: usize) -> GpuInfo {
        let link = |link| NvLinkInfo {
            link,
            active: true,
            speed_mbps: Some(26562),
            version: None,
            remote: None,
        };
        GpuInfo {
            index,
            uuid: format!("GPU-{index}"),
            name: "a GPU".into(),
            pci_bus_id: String::new(),
            pci_device_id: "2335".into(),
            compute_capability: (9, 0),
            sm_count: None,
            memory_total_bytes: 1,
            ecc_enabled: None,
            power_limit_w: None,
            power_default_w: None,
            max_sm_clock_mhz: None,
            max_memory_clock_mhz: None,
            memory_bus_width_bits: None,
            pcie_gen: None,
            pcie_width: None,
            pcie_gen_max: None,
            pcie_width_max: None,
            mig_enabled: None,
            persistence: None,
            vbios: None,
            links: (0..18).map(link).collect(),
            health: Health::default(),
            processes: vec![],
        }
    }

    fn node(count: usize) -> Links {
        let pairs = nvml::ordered_pairs(count).into_iter().map(|(from, to)| P2pPair {
            from,
            to,
            read: Some("ok"),
            write: Some("ok"),
            nvlink: Some("ok"),
            atomics: Some("ok"),
            topology: None,
        });
        Links { gpus: (0..count).map(gpu).collect(), pairs: pairs.collect() }
    }

    fn value(metrics: &[Metric], name: &str) -> f64 {
        metrics.iter().find(|metric| metric.name == name).expect("measured").values[0]
    }

    #[test]
    fn a_whole_mesh_has_no_violation_and_each_fault_has() {
        let node = node(8);
        let metrics = measure(&node);
        assert_eq!(value(&metrics, "active_lanes_count"), 18.0);
        assert_eq!(value(&metrics, "lane_rate_gbps"), 26.562);
        assert_eq!(value(&metrics, "unmeshed_pairs_count"), 0.0);
        let faulty = |name: &str, metric: &str| {
            let doctored = doctored(&node);
            let (_, links) = doctored.iter().find(|(known, _)| *known == name).expect("planted");
            value(&measure(links), metric)
        };
        assert_eq!(faulty("masked-lane", "active_lanes_count"), 17.0);
        assert_eq!(faulty("slow-lane", "lane_rate_gbps"), 13.281);
        assert_eq!(faulty("denied-pair", "denied_pairs_count"), 1.0);
        assert_eq!(faulty("pcie-pair", "pairs_without_nvlink_count"), 1.0);
        // gpu0 leaves the mesh: its 7 pairs in each direction.
        assert_eq!(faulty("masked-lane-in-mesh", "unmeshed_pairs_count"), 14.0);
    }

    #[test]
    fn what_nvml_does_not_tell_is_not_there() {
        let mut node = node(2);
        node.gpus[0].links[3].speed_mbps = None;
        node.pairs.pop();
        let metrics = measure(&node);
        assert_eq!(value(&metrics, "lane_rate_gbps"), 0.0);
        assert_eq!(value(&metrics, "denied_pairs_count"), 1.0);
    }
}
