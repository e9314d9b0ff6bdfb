//! Evidence and recorded runs of the fake node made by hand, through the public types.

use std::collections::BTreeMap;
use std::path::Path;

use harness::case::Case;
use harness::digest::{self, Sha256};
use harness::evidence::{
    self, ControlEvidence, Evidence, KernelUse, Metric, Outcome, Part, Telemetry, Tier,
};
use harness::recorded::FinishedRun;
use harness::run::{self, CaseEntry, Run, SourceTree};

use crate::fake;

/// Evidence of the fake stream case on two GPUs: what they read, and what each control read.
pub fn stream(run: &str, read_gbps: f64, slow_gbps: f64) -> Evidence {
    let claims = fake::CLAIMS.iter().filter(|claim| claim.case == fake::STREAM.id);
    Evidence {
        schema: evidence::SCHEMA,
        case: fake::STREAM.id.to_owned(),
        revision: fake::STREAM.revision,
        run: run.to_owned(),
        gpus: 2,
        tier: Tier::Quick,
        pci_device_id: fake::PCI_DEVICE_ID.to_owned(),
        shared: false,
        claims: claims.map(|claim| (claim.id.to_owned(), claim.digest())).collect(),
        parts: (0..2).map(|gpu| part(gpu, read_gbps, slow_gbps)).collect(),
    }
}

fn part(gpu: u32, read_gbps: f64, slow_gbps: f64) -> Part {
    let read = |middle| Metric::sampled("read_gbps", &[], &[gpu], fake::samples(middle, 9));
    let mut healthy = read(read_gbps);
    // No two GPUs read the same samples in the same order.
    healthy.values.rotate_left(4 * gpu as usize);
    let control =
        |name: &str, middle| ControlEvidence { name: name.to_owned(), metrics: vec![read(middle)] };
    Part {
        attempt: 1,
        devices: vec![fake::gpu(gpu).device],
        started: "2026-11-21T03:15:01Z".to_owned(),
        wall_s: 1.0,
        outcome: Outcome::Completed,
        options: BTreeMap::from([("seed".to_owned(), "7".to_owned())]),
        versions: BTreeMap::from([("fake".to_owned(), "1".to_owned())]),
        modes: Vec::new(),
        kernels: vec![KernelUse {
            name: "stream".to_owned(),
            architecture: "sm_90a".to_owned(),
            compiler: "none".to_owned(),
            source_sha256: fake::source_of("stream"),
            cubin_sha256: digest::sha256_hex(b"cubin"),
        }],
        metrics: vec![healthy, Metric::exact("wrong_count", &[], &[gpu], 0.0)],
        controls: vec![control("slow", slow_gbps), control("crawl", 200.0)],
        telemetry: vec![Telemetry::quiet(gpu)],
        xids: Vec::new(),
        progress: String::new(),
        log_tail: String::new(),
    }
}

/// A recorded run of the fake board in `folder` that holds this evidence.
pub fn recorded(folder: &Path, run: &str, evidence: &[Evidence]) -> FinishedRun {
    let cases = evidence.iter().map(|evidence| {
        let text = evidence::render(evidence).expect("rendered");
        let file = run::evidence_file(&evidence.case, evidence.gpus);
        harness::files::write(&folder.join(&file), text.as_bytes()).expect("written");
        CaseEntry {
            case: evidence.case.as_str().into(),
            file: file.into(),
            sha256: Sha256::of(text.as_bytes()),
            outcome: outcome(evidence).into(),
        }
    });
    let run = Run {
        schema: run::SCHEMA,
        run: run.to_owned(),
        source: source().into(),
        executable_sha256: digest::sha256_hex(b"executable"),
        command: vec!["--gpus".to_owned(), "2".to_owned()].into(),
        started: "2026-11-21T03:15:00Z".to_owned(),
        ended: "2026-11-21T03:15:30Z".to_owned(),
        wall_s: 30.0,
        tier: Tier::Quick,
        board: fake::BOARD.to_owned(),
        devices: (0..2).map(|gpu| fake::gpu(gpu).device).collect::<Vec<_>>().into(),
        versions: BTreeMap::from([("fake".to_owned(), "1".to_owned())]).into(),
        shared: evidence.iter().any(|evidence| evidence.shared),
        whole: true,
        interrupted: false,
        recovered: None,
        cases: cases.collect(),
    };
    let sha256 = Run::digest_of(&run.line().expect("a line"));
    FinishedRun { run, sha256, folder: folder.to_owned(), printed: "evidence".to_owned() }
}

/// How the worst part ended, as a manifest spells it.
fn outcome(evidence: &Evidence) -> &'static str {
    let ended = |word: fn(&Outcome) -> bool| evidence.parts.iter().any(|part| word(&part.outcome));
    if ended(|outcome| matches!(outcome, Outcome::Failed(_))) {
        "failed"
    } else if ended(|outcome| matches!(outcome, Outcome::NotRun(_))) {
        "not-run"
    } else {
        "completed"
    }
}

/// A source tree of no revision.
pub fn source() -> SourceTree {
    SourceTree { revision: "unknown".to_owned(), dirty: true }
}

/// A case by its id.
#[track_caller]
pub fn case(id: &str) -> &'static Case {
    let found = fake::CASES.iter().find(|case| case.id == id);
    found.unwrap_or_else(|| panic!("no case {id}"))
}
