//! Suite `env`: the GPUs are there, healthy and ours, memory holds a pattern, every kernel answers.

use harness::case::{Case, Control, Expect, Scope};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::nvml::{self, Health};
use kernels::pattern::{self, Content, Patterns};
use kernels::{Error, KernelSource, known};

use crate::lab::{self, Lab};
use crate::{environment, telemetry};

const fn claim(
    id: &'static str,
    text: &'static str,
    source: Source,
    case: &'static str,
    metric: &'static str,
) -> Claim {
    Claim {
        id,
        text,
        source,
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

const DETECTED: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Completed Features, Hardware Validation",
    printed: "Basic Hardware Access: B200 detected, CUDA working",
    board: "8x B200",
};
const KERNEL_EXAMPLES: Source = Source {
    document: "001-known-gaps.md",
    section: "What Works",
    printed: "All CUDA kernel examples compile and run",
    board: "B200",
};
const NCCL_ENVIRONMENT: Source = Source {
    document: "004-llm-validation-checklist.md",
    section: "1. Multi-GPU Inference Benchmark",
    printed: "Export NCCL env (`docs/nvlink_pcie_playbook.md`).",
    board: "",
};
const OWN: Source = Source {
    document: "touchstone",
    section: "health of a node",
    printed: "memory without errors is the ground under every other number",
    board: "",
};

/// Claims of the suite that need a GPU, in checklist order.
pub static CLAIMS: &[&Claim] =
    &[&GPUS_AGREE, &NCCL, &ECC_CLEAN, &ROWS_REMAPPED, &PATTERN_READ_BACK, &KERNELS_ANSWER];

static GPUS_AGREE: Claim = claim(
    "env::gpus-agree",
    "NVML and CUDA see the same GPUs, joined by UUID.",
    DETECTED,
    INVENTORY.id,
    "unmatched_gpus_count",
);
static NCCL: Claim = claim(
    "env::nccl-environment",
    "The NCCL variables that the runner sets reach its children, and NVLink multicast is off in \
     them.",
    NCCL_ENVIRONMENT,
    INVENTORY.id,
    "wrong_variables_count",
);
static ECC_CLEAN: Claim = claim(
    "env::ecc-clean",
    "ECC is on and has seen no uncorrected error since the driver was loaded.",
    OWN,
    INVENTORY.id,
    "ecc_violations_count",
);
static ROWS_REMAPPED: Claim = claim(
    "env::rows-remapped",
    "No row of memory waits to be remapped, and no remapping has failed.",
    OWN,
    INVENTORY.id,
    "rows_pending_or_failed_count",
);
static PATTERN_READ_BACK: Claim = claim(
    "env::pattern-read-back",
    "A pattern that is written into the memory of every GPU is read back unchanged.",
    DETECTED,
    PATTERN.id,
    "wrong_count",
);
static KERNELS_ANSWER: Claim = claim(
    "env::kernels-answer",
    "Every kernel that takes no program compiles for this architecture and answers a known question \
     rightly.",
    KERNEL_EXAMPLES,
    KERNELS_KNOWN.id,
    "wrong_count",
);

/// Cases of the suite that need a GPU, in the order in which they run.
pub static CASES: &[&Case] = &[&INVENTORY, &PATTERN, &KERNELS_KNOWN];

static INVENTORY: Case = Case {
    id: "env::inventory",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Joins the GPUs of NVML and CUDA by UUID, reads ECC and row remapping through NVML, \
                and looks at the environment that arrived in the child. The controls doctor what \
                was just read and count again.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 90.0,
    kernels: &[],
    integrity: &[],
    controls: &[
        Control {
            name: "hidden-gpu",
            fault: "CUDA's list is taken without its last GPU",
            trips: "unmatched_gpus_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "multicast-on",
            fault: "NCCL_NVLS_ENABLE is taken as 1",
            trips: "wrong_variables_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "ecc-error",
            fault: "one uncorrected error is taken as counted",
            trips: "ecc_violations_count",
            expect: Expect::Refuted,
        },
        Control {
            name: "row-pending",
            fault: "one row is taken as waiting to be remapped",
            trips: "rows_pending_or_failed_count",
            expect: Expect::Refuted,
        },
    ],
    run: inventory,
};

fn inventory(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let session = nvml::init().map_err(|error| Stop::NotRun(error.to_string()))?;
    let lab = Lab::open(assignment, recorder)?;
    let seen: Vec<String> = lab.gpus.iter().map(Gpu::uuid_string).collect();
    let wanted: Vec<String> =
        assignment.devices.iter().map(|assigned| assigned.uuid.clone()).collect();
    let count = Gpu::count()? as usize;
    let metric = |name, value: usize| Metric::exact(name, &[], &[], value as f64);
    let agree = |cuda: &[String], count: usize| {
        metric("unmatched_gpus_count", unmatched(&wanted, cuda) + count.abs_diff(wanted.len()))
    };
    recorder.metric(agree(&seen, count));
    recorder.control("hidden-gpu", agree(&seen[..seen.len() - 1], count - 1));

    let variable = |name: &str| std::env::var(name).ok();
    let on = |name: &str| match name {
        "NCCL_NVLS_ENABLE" => Some("1".to_owned()),
        _ => variable(name),
    };
    let wrong = |seen: &dyn Fn(&str) -> Option<String>| {
        metric("wrong_variables_count", environment::violations(seen).len())
    };
    recorder.metric(wrong(&variable));
    recorder.control("multicast-on", wrong(&on));
    for (name, value) in environment::nccl() {
        recorder.option(&name, value);
    }

    let inventory = session.inventory()?;
    for assigned in &assignment.devices {
        let info = lab::info_of(&inventory, &assigned.uuid)?;
        health(recorder, info.index as u32, info.ecc_enabled, &info.health)?;
    }
    lab.close(recorder);
    Ok(())
}

/// GPUs that stand in one list and not in the other.
fn unmatched(left: &[String], right: &[String]) -> usize {
    let only = |a: &[String], b: &[String]| a.iter().filter(|uuid| !b.contains(uuid)).count();
    only(left, right) + only(right, left)
}

/// Counters of one GPU, and the same with one error planted. A counter that the machine does not
/// tell is left out of the record and counts as a violation: unknown health is not health.
fn health(
    recorder: &mut Recorder,
    gpu: u32,
    ecc: Option<bool>,
    health: &Health,
) -> Result<(), Stop> {
    for (name, value) in telemetry::known_counters(health) {
        recorder.option(&format!("gpu{gpu}.{name}"), value);
    }
    let metric = |name, value: u64| Metric::exact(name, &[], &[gpu], value as f64);
    let ecc_violations = |health: &Health| {
        let off = u64::from(ecc != Some(true));
        metric("ecc_violations_count", off + health.ecc_uncorrected_volatile.unwrap_or(1))
    };
    let rows = |health: &Health| {
        let rows = &health.remapped_rows;
        let bad = rows.pending.unwrap_or(1) + rows.failure.unwrap_or(1);
        metric("rows_pending_or_failed_count", bad)
    };
    let mut doctored = health.clone();
    doctored.ecc_uncorrected_volatile = health.ecc_uncorrected_volatile.map(|count| count + 1);
    doctored.remapped_rows.pending = Some(1);
    recorder.metric(ecc_violations(health));
    recorder.control("ecc-error", ecc_violations(&doctored));
    recorder.metric(rows(health));
    recorder.control("row-pending", rows(&doctored));
    Ok(())
}

/// Also the probe: a GPU on which a case failed must pass it before it gets the next one.
pub static PATTERN: Case = Case {
    id: "env::pattern",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Writes five patterns over the memory that is free (at most 16 GiB in the quick \
                tier): hashed words, a walking one, a walking zero, the address and its inverse; \
                reads each back with another launch and counts wrong words. The control flips one \
                bit between the two.",
    samples: 0,
    expected_s: 2.5,
    deadline_s: 120.0,
    kernels: &["pattern"],
    integrity: &["wrong_count"],
    controls: &[Control {
        name: "flipped-bit",
        fault: "one bit of one word is flipped between writing and reading",
        trips: "wrong_count",
        expect: Expect::Corrupt,
    }],
    run: memory_pattern,
};

/// Bytes that the quick tier looks at; the others take all that is free but a reserve.
const QUICK_BYTES: u64 = 16 << 30;
const RESERVE_BYTES: u64 = 1 << 30;

/// What is written: words that depend on seed and address, each bit alone high and low, and the
/// address itself both ways, by which two addresses that meet in one cell are seen.
fn contents(seed: u64) -> [(&'static str, Content); 5] {
    [
        ("hash", Content::Hash { seed }),
        ("walking-one", Content::WalkingOne { phase: 0 }),
        ("walking-zero", Content::WalkingZero { phase: 0 }),
        ("address", Content::Address { mask: 0 }),
        ("address-inverted", Content::Address { mask: u32::MAX }),
    ]
}

fn memory_pattern(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let patterns = Patterns::new(gpu, &lab.module(gpu, &pattern::SOURCE, recorder)?)?;
    let (free, _) = gpu.mem_info()?;
    let most = if assignment.tier == Tier::Quick { QUICK_BYTES } else { u64::MAX };
    let bytes = free.saturating_sub(RESERVE_BYTES).min(most) / 4096 * 4096;
    recorder.option("bytes", bytes);
    let buffer = gpu.alloc(bytes)?;
    let size = bytes.to_string();
    for (name, content) in contents(assignment.seed) {
        recorder.progress(name);
        patterns.fill(gpu.stream(), &buffer, bytes, content)?;
        let wrong = patterns.check(gpu.stream(), &buffer, bytes, content)?.count;
        let at: &[(&str, &str)] = &[("bytes", &size), ("pattern", name)];
        recorder.metric(Metric::exact("wrong_count", at, &[index], wrong as f64));
    }
    let (name, content) = contents(assignment.seed)[0];
    patterns.fill(gpu.stream(), &buffer, bytes, content)?;
    patterns.flip(gpu.stream(), &buffer, bytes / 4 / 8 * 5, 1 << 17)?;
    let planted = patterns.check(gpu.stream(), &buffer, bytes, content)?.count;
    let at: &[(&str, &str)] = &[("bytes", &size), ("pattern", name)];
    recorder.control("flipped-bit", Metric::exact("wrong_count", at, &[index], planted as f64));
    drop(buffer);
    lab.close(recorder);
    Ok(())
}

/// The entry of whose answer the control flips a bit.
const PLANTED_ENTRY: &str = "stream_copy_u8";

static KERNELS_KNOWN: Case = Case {
    id: "env::kernels",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Compiles every kernel of the crate that takes no program for the exact architecture, \
                asks each entry point a small question whose answer the CPU knows, and counts wrong \
                words. The control flips one bit of one answer. Attention, which is compiled with a \
                program, has cases of its own.",
    samples: 0,
    expected_s: 16.0,
    deadline_s: 180.0,
    kernels: &[],
    integrity: &["wrong_count"],
    controls: &[Control {
        name: "flipped-answer",
        fault: "one bit of one answer is flipped before it is compared",
        trips: "wrong_count",
        expect: Expect::Corrupt,
    }],
    run: known_answers,
};

fn known_answers(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let modules = lab.all_modules(gpu, recorder)?;
    let load = |source: &KernelSource| {
        let loaded = modules.get(source.name).cloned();
        loaded.ok_or_else(|| Error::Shape { what: format!("kernel {} is not here", source.name) })
    };
    recorder.progress("ask");
    for (entry, wrong) in known::known_answers(gpu, load, None)? {
        let at: &[(&str, &str)] = &[("entry", &entry)];
        recorder.metric(Metric::exact("wrong_count", at, &[index], wrong as f64));
    }
    let planted = known::known_answers(gpu, load, Some(PLANTED_ENTRY))?;
    let wrong: u64 = planted.iter().map(|(_, wrong)| wrong).sum();
    recorder.control(
        "flipped-answer",
        Metric::exact("wrong_count", &[("entry", "all")], &[index], wrong as f64),
    );
    lab.close(recorder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_in_one_list_only_is_unmatched() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(unmatched(&list(&["a", "b"]), &list(&["b", "a"])), 0);
        assert_eq!(unmatched(&list(&["a", "b"]), &list(&["a"])), 1);
        assert_eq!(unmatched(&list(&["a"]), &list(&["b"])), 2);
    }

    #[test]
    fn unknown_health_is_not_health() {
        let mut recorder = Recorder::default();
        health(&mut recorder, 0, None, &Health::default()).expect("records");
        let value = |name: &str| {
            recorder.metrics.iter().find(|metric| metric.name == name).expect("there").values[0]
        };
        assert_eq!(value("ecc_violations_count"), 2.0);
        assert_eq!(value("rows_pending_or_failed_count"), 2.0);
    }
}
