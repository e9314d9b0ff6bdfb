//! Synthetic judgements of every verdict, for the tests of the reports.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::{Mode, Origin, Report, Trial};
use crate::case::{Control, Expect};
use crate::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use crate::evidence::{Device, Evidence, Outcome, Part, Telemetry, Tier};
use crate::judge::{BoundView, ControlView, EvidenceRef, Judgement, Measured, Standing, Verdict};
use crate::recorded::FinishedRun;
use crate::run::{Run, SourceTree};

const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const RUN: &str = "20261121T031500Z-1a2b3c4d";
pub const BOARD: &str = "nvidia-h200-sxm";
pub const TITLE: &str = "NVIDIA H200 SXM 141 GB";

const B200: Source = Source {
    document: "000-todo-remaining-work.md",
    section: "Hardware Validation",
    printed: "2.73 TB/s",
    board: "8x B200",
};
const OWN: Source = Source { document: "touchstone", section: "", printed: "", board: "" };

const fn claim(id: &'static str, text: &'static str, metric: &'static str) -> Claim {
    Claim {
        id,
        text,
        source: OWN,
        relation: Relation::AtLeast,
        case: "bandwidth::stream",
        metric,
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

pub static READ: Claim = Claim {
    source: B200,
    ..claim("bandwidth::hbm-read", "HBM is read at 0.34 of its peak or faster", "read_gbps")
};
pub static WRITE: Claim =
    claim("bandwidth::hbm-write", "HBM is written at its golden rate", "write_gbps");
pub static COPY: Claim =
    claim("bandwidth::hbm-copy", "HBM is copied at its golden rate", "copy_gbps");
pub static RETAIN: Claim = Claim {
    relation: Relation::Holds,
    ..claim("memory::retains-pattern", "Memory keeps what was written", "wrong_count")
};
pub static GEMM: Claim = claim("compute::fp16-gemm", "FP16 products are fast", "fp16_tflops");
pub static HANG: Claim = claim("compute::fp8-gemm", "FP8 products are fast", "fp8_tflops");
pub static RING: Claim = claim("collectives::ring-n8", "The ring is fast over 8 GPUs", "bus_gbps");
pub static NCCL: Claim = claim("collectives::all-reduce", "All-reduce is fast", "bus_gbps");
pub static FP4: Claim = claim("nvfp4::gemm", "FP4 products are fast", "fp4_tflops");
pub static STALE: Claim = claim("tp::zero-drift", "Tensor parallel drifts by nothing", "drift_ulp");
pub static FALSE: Claim = Claim {
    source: Source {
        document: "001-known-gaps.md",
        section: "2. Performance Claims",
        printed: "1.65x torch.compile speedup",
        board: "",
    },
    kind: Kind::FalseRecord,
    relation: Relation::AtMost,
    ..claim(
        "execution::speedup-1.65x-is-false",
        "Whole-graph execution is not 1.65x faster",
        "speedup_ratio",
    )
};
pub static AUDIT: Claim = Claim {
    gpus: GpuCount::Host,
    ..claim("audit::digests", "Every digest in the checklists is that of its file", "wrong_count")
};
pub static SUM: Claim = Claim {
    gpus: GpuCount::Host,
    ..claim("audit::sums", "Every sum in the documents adds up", "wrong_count")
};

pub static HALF: Control =
    Control { name: "half-the-sms", fault: "66 SMs", trips: "read_gbps", expect: Expect::Refuted };
pub static NEAR: Control = Control {
    name: "two-percent",
    fault: "2 % more bytes than counted",
    trips: "read_gbps",
    expect: Expect::Regressed,
};

pub static VERSIONS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    [("driver", "580.95.05"), ("nvrtc", "13.0")]
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .into()
});

/// A judgement without a number.
pub fn bare(claim: &'static Claim, verdict: Verdict, reason: &str) -> Judgement {
    Judgement {
        claim,
        verdict,
        reason: reason.to_owned(),
        measured: None,
        bounds: Vec::new(),
        controls: Vec::new(),
        culprit: None,
        note: None,
        evidence: None,
    }
}

/// A judgement of a rate around `value` on gpu5 against 1641.6 (documented) and 4435.2 (golden).
pub fn rate(claim: &'static Claim, verdict: Verdict, value: f64, reason: &str) -> Judgement {
    let standing = |limit: f64| match verdict {
        Verdict::Inconclusive if limit > 4000.0 => Standing::Straddles,
        _ if value >= limit => Standing::Met,
        _ => Standing::Missed,
    };
    let bound = |kind, limit, origin: &str| BoundView {
        kind,
        sign: ">=",
        limit,
        origin: origin.to_owned(),
        standing: standing(limit),
    };
    Judgement {
        measured: Some(Measured {
            metric: claim.metric.to_owned(),
            unit: claim.unit(),
            value,
            interval: (value - 1.9, value + 2.04),
            gpus: vec![5],
            series: 4,
        }),
        bounds: vec![
            bound("documented", 1641.6, "0.342 of hbm_gbps"),
            bound("golden", 4435.2, "4480 - 1.0 %"),
        ],
        controls: vec![
            ControlView {
                control: &HALF,
                caught: Some(true),
                detail: "read_gbps = 1533.2".to_owned(),
            },
            ControlView { control: &NEAR, caught: None, detail: "no golden".to_owned() },
        ],
        evidence: Some(evidence(claim.case, BOARD)),
        ..bare(claim, verdict, reason)
    }
}

pub fn evidence(case: &str, board: &str) -> EvidenceRef {
    let file = crate::run::evidence_file(case, 4);
    EvidenceRef {
        path: format!("checklists/evidence/{board}/{file}"),
        sha256: SHA256.to_owned(),
        run: RUN.to_owned(),
        run_sha256: Some(SHA256.replace('0', "f")),
        origin: None,
        day: "2026-11-21".to_owned(),
        board: board.to_owned(),
        gpus: 4,
        recovered: false,
        other_runs: None,
        worded: None,
    }
}

fn exact(claim: &'static Claim, verdict: Verdict, value: f64, reason: &str) -> Judgement {
    let measured = Measured {
        metric: claim.metric.to_owned(),
        unit: claim.unit(),
        value,
        interval: (value, value),
        gpus: vec![5],
        series: 4,
    };
    Judgement { measured: Some(measured), ..rate(claim, verdict, value, reason) }
}

/// A judgement of every verdict.
pub fn judgements() -> Vec<Judgement> {
    let mut good = rate(&READ, Verdict::Verified, 4480.12, "");
    good.note = Some("read_gbps = 4562.3, golden 4480: bless 4562.3".to_owned());
    let mut slow =
        rate(&WRITE, Verdict::Regressed, 3912.42, "same cubin as the golden's: the node");
    slow.culprit = Some(5);
    let mut wrong =
        exact(&RETAIN, Verdict::Corrupt, 3.0, "wrong_count = 3 on gpu5, wanted 0 of 34359738368");
    wrong.culprit = Some(5);
    wrong.bounds.clear();
    wrong.controls.clear();
    let mut slowest = rate(&COPY, Verdict::Refuted, 1533.2, "copy_gbps misses the document");
    slowest.measured.as_mut().unwrap().gpus = vec![2, 3];
    let straddled = rate(&GEMM, Verdict::Inconclusive, 4435.0, "the interval holds 4435.2 twice");
    let mut hang = bare(&HANG, Verdict::Broken, "hang: no end after 120 s in stage timing on gpu1");
    hang.evidence = Some(evidence("compute::fp8", BOARD));
    let mut stale =
        rate(&STALE, Verdict::Stale, 4480.12, "the case is revision 3, evidence is of 2");
    stale.claim = &STALE;
    let mut refuted = rate(&FALSE, Verdict::Verified, 0.98, "");
    refuted.bounds = vec![BoundView {
        kind: "documented",
        sign: "<=",
        limit: 1.65,
        origin: String::new(),
        standing: Standing::Met,
    }];
    vec![
        good,
        slow,
        slowest,
        wrong,
        straddled,
        hang,
        bare(&RING, Verdict::NotRun { explained: true }, "needs 8 GPUs, 4 are selected"),
        bare(&NCCL, Verdict::NotRun { explained: false }, "libnccl.so.2 is missing"),
        bare(&FP4, Verdict::NotApplicable, "sm_90 has no FP4 tensor cores"),
        stale,
        refuted,
    ]
}

/// A host claim that holds and one that does not.
pub fn host_judgements() -> Vec<Judgement> {
    let mut sums = bare(&SUM, Verdict::Refuted, "wrong_count = 2: 40 + 48 is not 87");
    let host = evidence("audit::sums", "host");
    sums.evidence = Some(EvidenceRef { gpus: 0, board: String::new(), ..host });
    vec![bare(&AUDIT, Verdict::Verified, ""), sums]
}

/// Trials of every verdict, live, and the first host claim.
pub fn trials() -> Vec<Trial> {
    let live = judgements().into_iter();
    let mut trials: Vec<Trial> =
        live.map(|judgement| Trial { judgement, origin: Origin::Live, wall_s: 1.2345 }).collect();
    trials.push(host_trials().remove(0));
    trials
}

/// The host claims.
pub fn host_trials() -> Vec<Trial> {
    let host = host_judgements().into_iter();
    host.map(|judgement| Trial { judgement, origin: Origin::Host, wall_s: 0.05 }).collect()
}

/// The same trials from recorded evidence.
pub fn recorded(trials: &[Trial]) -> Vec<Trial> {
    let mut trials = trials.to_vec();
    for trial in trials.iter_mut().filter(|trial| trial.origin == Origin::Live) {
        trial.origin = Origin::Recorded;
    }
    trials
}

pub fn report(trials: &[Trial]) -> Report<'_> {
    Report {
        mode: Mode::Live,
        board: BOARD,
        title: TITLE,
        day: "2026-11-21",
        gpus: 4,
        run: RUN,
        run_sha256: Some(SHA256),
        started: jiff::Timestamp::from_second(1_795_230_900).unwrap(),
        versions: &VERSIONS,
        trials,
        gate: false,
        interrupted: false,
        detector: None,
    }
}

/// A recorded run with this digest, driver and start, of no case.
pub fn finished(sha256: &str, driver: &str, started: &str) -> FinishedRun {
    let versions = [("nvidia_driver", driver), ("cuda_driver_api", "13.0"), ("nccl", "2.28.3")];
    let run = Run {
        schema: crate::run::SCHEMA,
        run: RUN.to_owned(),
        source: SourceTree { revision: "unknown".to_owned(), dirty: false }.into(),
        executable_sha256: SHA256.to_owned(),
        command: Vec::new().into(),
        started: started.to_owned(),
        ended: started.to_owned(),
        wall_s: 0.0,
        tier: Tier::Quick,
        board: BOARD.to_owned(),
        devices: Vec::new().into(),
        versions: BTreeMap::from(versions.map(|(name, of)| (name.to_owned(), of.to_owned())))
            .into(),
        shared: false,
        whole: true,
        interrupted: false,
        recovered: None,
        cases: Vec::new(),
    };
    FinishedRun { run, sha256: sha256.to_owned(), folder: "none".into(), printed: String::new() }
}

/// A claim with the same meaning, to be changed with `..`.
pub fn claim_like(claim: &Claim) -> Claim {
    Claim { at: claim.at, ..*claim }
}

/// Evidence with two children of gpu5: what a summary tells of devices and telemetry.
pub fn measured_evidence() -> Evidence {
    let device = Device {
        gpu: 5,
        uuid_sha256: SHA256.to_owned(),
        name: "NVIDIA H200".to_owned(),
        pci_device_id: "2335".to_owned(),
        compute_capability: "9.0".to_owned(),
        memory_bytes: 150_754_820_096,
        power_limit_w: 700.0,
        sm_clock_max_mhz: 1980,
        memory_clock_max_mhz: 3201,
        memory_bus_bits: 6144,
        ecc: Some(true),
    };
    let telemetry = |power_w, throttled, corrected| Telemetry {
        gpu: 5,
        samples: 10,
        power_w,
        sm_clock_mhz: [1200.0, 1900.0, 1980.0],
        memory_clock_mhz: [3201.0; 3],
        temperature_c_max: 61.0,
        energy_j: None,
        throttle_percent: [("power-cap".to_owned(), throttled), ("idle".to_owned(), 0.0)].into(),
        counters_moved: [("ecc-corrected".to_owned(), [7, corrected])].into(),
    };
    let part = |telemetry, xids| Part {
        attempt: 1,
        devices: vec![device.clone()],
        started: "2026-11-21T03:15:10Z".to_owned(),
        wall_s: 1.5,
        outcome: Outcome::Completed,
        options: BTreeMap::new(),
        versions: [("nccl".to_owned(), "2.28.3".to_owned())].into(),
        modes: Vec::new(),
        kernels: Vec::new(),
        metrics: Vec::new(),
        controls: Vec::new(),
        telemetry: vec![telemetry],
        xids,
        progress: String::new(),
        log_tail: String::new(),
    };
    let parts = vec![
        part(telemetry([80.0, 400.0, 690.0], 12.0, 9), Vec::new()),
        part(telemetry([90.0, 500.0, 701.0], 3.0, 8), vec![63]),
    ];
    Evidence {
        schema: crate::evidence::SCHEMA,
        case: "bandwidth::stream".to_owned(),
        revision: 1,
        run: RUN.to_owned(),
        gpus: 4,
        tier: Tier::Quick,
        pci_device_id: "2335".to_owned(),
        shared: false,
        claims: BTreeMap::new(),
        parts,
    }
}
