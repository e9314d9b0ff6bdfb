//! A run sealed and verified: an in-toto Statement in a DSSE envelope, signed with ed25519.
//!
//! The statement's subjects are the manifest and every evidence file by their SHA-256; its predicate
//! ([`PREDICATE`]) has the fields of in-toto's test-result (result, passed, failed) and, beside them,
//! measurements, skips, the hardware and how many planted faults were caught.
//!
//! A signature proves who sealed a run, not that a GPU ran. [`verify`] therefore judges the evidence again
//! from its samples, computes every figure, duration and energy again, and says of an envelope without a
//! trusted key: integrity only, unknown signer.
//!
//! Formats: <https://github.com/secure-systems-lab/dsse> (protocol 1.0.2) and
//! <https://github.com/in-toto/attestation> (Statement v1, predicate test-result v0.1).

mod held;
mod keys;
mod manifest;
mod recompute;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::compare;
use crate::detector::{self, Controls, Score};
use crate::digest::{sha256_hex, short};
use crate::evidence::{self, Device};
use crate::golden::Goldens;
use crate::judge::Judgement;
use crate::recorded::{self, FinishedRun};
use crate::report::{self, JunitClass};
use crate::world::World;

use keys::key_id;
pub use keys::{make_key, public_key, signing_key};
use recompute::{Measurement, Recomputed};

/// Type of the payload, by in-toto.
pub const PAYLOAD: &str = "application/vnd.in-toto+json";
/// Type of the statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Type of the predicate: test-result of in-toto with measurements, skips, hardware and detector score.
pub const PREDICATE: &str = "urn:touchstone:run-result:2";
/// Name of the manifest among the subjects.
const MANIFEST: &str = "run.json";

/// What keeps a run from being sealed or verified.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// A file or a run cannot be read or written.
    #[error("{0}")]
    Read(String),
    /// A key is none.
    #[error("{path}: {why}")]
    Key {
        /// The key's file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// An envelope is none.
    #[error("{path}: {why}")]
    Envelope {
        /// The envelope's file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An envelope of DSSE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Envelope {
    /// [`PAYLOAD`].
    pub payload_type: String,
    /// The statement, in base64.
    pub payload: String,
    /// Who signed it.
    pub signatures: Vec<Sealed>,
}

/// A signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// SHA-256 of the public key.
    pub keyid: String,
    /// ed25519 over the envelope's pre-authentication encoding, in base64.
    pub sig: String,
}

/// What was sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

/// A file of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: String,
    digest: BTreeMap<String, String>,
}

/// What the run showed when it was sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Predicate {
    result: String,
    passed_tests: Vec<String>,
    failed_tests: Vec<String>,
    skips: BTreeMap<String, String>,
    measurements: BTreeMap<String, Measurement>,
    board: String,
    devices: Vec<Device>,
    versions: BTreeMap<String, String>,
    started: String,
    ended: String,
    #[serde(rename = "wall_s")]
    wall_s: f64,
    /// Wall time of each case: that of its longest child.
    #[serde(rename = "durations_s")]
    durations_s: BTreeMap<String, f64>,
    /// Energy of each case by the GPUs' counters.
    #[serde(rename = "energies_j")]
    energies_j: BTreeMap<String, f64>,
    /// The files of bounds that it was judged by, by their SHA-256.
    bounds: BTreeMap<String, String>,
    detector: Detector,
}

/// Planted faults: the controls of all judged claims, and the broken files of the detector's table. It tells how
/// much this executable sees, whoever's run it seals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detector {
    caught: usize,
    missed: usize,
    not_judged: usize,
    files_planted: usize,
    files_caught: usize,
    false_alarms: usize,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// For standard output.
    pub text: String,
    /// Whether everything that can be checked holds.
    pub holds: bool,
}

/// What is signed: DSSE's pre-authentication encoding.
fn encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Opens a run as `touchstone compare` does: by the beginning of a recorded one's digest or id, by its
/// folder or its archive.
pub fn open(world: &World, given: &str) -> Result<compare::Opened, AttestError> {
    let recorded = recorded::load(&world.root).map_err(AttestError::Read)?;
    compare::open(&recorded, given).map_err(|error| AttestError::Read(error.to_string()))
}

/// Seals a run as its evidence shows it.
///
/// Errors: a manifest that its own evidence contradicts is not sealed.
pub fn seal(
    world: &World,
    finished: &FinishedRun,
    key: &SigningKey,
) -> Result<Envelope, AttestError> {
    let goldens = world.goldens().map_err(AttestError::Read)?;
    let judged = judge(world, finished, &goldens)?;
    let found = Recomputed::of(world, finished, (&judged, &goldens));
    if let Some(first) = found.contradictions.first() {
        return Err(AttestError::Read(format!("run {} is not sealed: {first}", finished.run.run)));
    }
    let statement = Statement {
        kind: STATEMENT.into(),
        subject: subjects(finished),
        predicate_type: PREDICATE.into(),
        predicate: predicate(
            finished,
            &judged,
            &detector::of_today(world, &goldens),
            found,
            bounds(world)?,
        ),
    };
    let payload =
        serde_json::to_vec(&statement).map_err(|error| AttestError::Read(error.to_string()))?;
    let signature = key.sign(&encoding(PAYLOAD, &payload));
    Ok(Envelope {
        payload_type: PAYLOAD.into(),
        payload: STANDARD.encode(&payload),
        signatures: vec![Sealed {
            keyid: key_id(&key.verifying_key()),
            sig: STANDARD.encode(signature.to_bytes()),
        }],
    })
}

/// An envelope as its file: the one form that [`verify`] takes, so that no byte of it can change unseen.
pub fn render(envelope: &Envelope) -> Result<String, AttestError> {
    let text = serde_json::to_string_pretty(envelope);
    Ok(text.map_err(|error| AttestError::Read(error.to_string()))? + "\n")
}

/// The files of `golden/` by their digests.
fn bounds(world: &World) -> Result<BTreeMap<String, String>, AttestError> {
    let folder = world.root.join("golden");
    let failed =
        |error: std::io::Error| AttestError::Read(format!("{}: {error}", folder.display()));
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = std::fs::read(&path).map_err(failed)?;
            found.insert(format!("golden/{name}"), sha256_hex(&bytes));
        }
    }
    Ok(found)
}

/// The manifest and what it lists.
fn subjects(finished: &FinishedRun) -> Vec<Subject> {
    let subject = |name: &str, sha256: &str| Subject {
        name: name.to_owned(),
        digest: BTreeMap::from([("sha256".to_owned(), sha256.to_owned())]),
    };
    let files = finished.run.cases.iter().filter(|case| !case.file.is_empty());
    std::iter::once(subject(MANIFEST, &finished.sha256))
        .chain(files.map(|case| subject(&case.file, &case.sha256.to_string())))
        .collect()
}

/// Every claim that the run can say something of, judged from its evidence by today's bounds.
fn judge(
    world: &World,
    finished: &FinishedRun,
    goldens: &Goldens,
) -> Result<Vec<Judgement>, AttestError> {
    let recorded = recorded::load(&world.root).map_err(AttestError::Read)?;
    world.judge_run(world.claims, finished, &recorded, goldens).map_err(AttestError::Read)
}

fn predicate(
    finished: &FinishedRun,
    judged: &[Judgement],
    score: &Score,
    found: Recomputed,
    bounds: BTreeMap<String, String>,
) -> Predicate {
    let class = |judgement: &Judgement| report::junit_class(judgement.verdict, false);
    let of = |wanted: fn(JunitClass) -> bool| judged.iter().filter(move |j| wanted(class(j)));
    let id = |judgement: &Judgement| judgement.claim.id.to_owned();
    let passed: Vec<String> = of(|class| class == JunitClass::Passed).map(id).collect();
    let failed: Vec<String> =
        of(|class| matches!(class, JunitClass::Failure | JunitClass::Error)).map(id).collect();
    let skipped = of(|class| class == JunitClass::Skipped);
    let run = &finished.run;
    Predicate {
        result: result_of(&passed, &failed).into(),
        passed_tests: passed,
        failed_tests: failed,
        skips: skipped.map(|judgement| (id(judgement), judgement.reason.clone())).collect(),
        measurements: found.measurements,
        board: run.board.clone(),
        devices: run.devices.to_vec(),
        versions: (*run.versions).clone(),
        started: run.started.clone(),
        ended: run.ended.clone(),
        wall_s: run.wall_s,
        durations_s: found.durations_s,
        energies_j: found.energies_j,
        bounds,
        detector: detector(judged, score),
    }
}

/// in-toto's word for the whole.
fn result_of(passed: &[String], failed: &[String]) -> &'static str {
    if failed.is_empty() && !passed.is_empty() { "PASSED" } else { "FAILED" }
}

fn detector(judged: &[Judgement], score: &Score) -> Detector {
    let Controls { caught, missed, not_judged } = Controls::of(judged.iter());
    Detector {
        caught,
        missed,
        not_judged,
        files_planted: score.planted(),
        files_caught: score.caught(),
        false_alarms: score.false_alarms.len(),
    }
}

/// Verifies an envelope against a run and, where keys are given, against them.
///
/// Errors: [`AttestError::Envelope`] for what is none; what does not hold is in the report.
pub fn verify(
    world: &World,
    finished: &FinishedRun,
    (name, text): (&str, &str),
    trusted: &[VerifyingKey],
) -> Result<Report, AttestError> {
    let refused = |why: String| AttestError::Envelope { path: name.to_owned(), why };
    let envelope: Envelope = serde_json::from_str(text).map_err(|e| refused(e.to_string()))?;
    let payload = STANDARD.decode(&envelope.payload).map_err(|e| refused(e.to_string()))?;
    if envelope.payload_type != PAYLOAD {
        return Err(refused(format!("payload type {} is not {PAYLOAD}", envelope.payload_type)));
    }
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|error| refused(error.to_string()))?;
    if statement.kind != STATEMENT || statement.predicate_type != PREDICATE {
        let what = format!("{} of {}", statement.kind, statement.predicate_type);
        return Err(refused(format!("{what} is not {STATEMENT} of {PREDICATE}")));
    }
    let mut report = Report { text: String::new(), holds: true };
    if render(&envelope)? != text {
        report.say(false, &format!("envelope    {name}: is not written as it was sealed"));
    }
    signatures(&envelope, &payload, trusted, name, &mut report);
    sealed_files(finished, &statement.subject, &mut report);
    let goldens = world.goldens().map_err(AttestError::Read)?;
    let judged = judge(world, finished, &goldens)?;
    let mut found = Recomputed::of(world, finished, (&judged, &goldens));
    for line in std::mem::take(&mut found.contradictions) {
        report.say(false, &format!("manifest    {line}"));
    }
    let unfit = std::mem::take(&mut found.unfit);
    let sealed = &statement.predicate;
    let now =
        predicate(finished, &judged, &detector::of_today(world, &goldens), found, bounds(world)?);
    held::computed(sealed, &now, &unfit, &mut report);
    let moved = held::bounds(sealed, &now, &mut report);
    held::verdicts(sealed, &now, &judged, moved, &mut report);
    summary(sealed, &now, &mut report);
    let line = if report.holds { "HOLDS" } else { "DOES NOT HOLD" };
    let _ = writeln!(report.text, "{line}: run {}, sha256:{}", finished.run.run, finished.sha256);
    Ok(report)
}

impl Report {
    fn say(&mut self, holds: bool, line: &str) {
        self.holds &= holds;
        let _ = writeln!(self.text, "{line}");
    }
}

fn signatures(
    envelope: &Envelope,
    payload: &[u8],
    trusted: &[VerifyingKey],
    name: &str,
    report: &mut Report,
) {
    if trusted.is_empty() {
        report.say(true, "signature   not checked: integrity only, unknown signer");
        return;
    }
    let message = encoding(&envelope.payload_type, payload);
    let valid = |sealed: &Sealed, key: &VerifyingKey| -> bool {
        let bytes = STANDARD.decode(&sealed.sig).ok();
        let signature = bytes.and_then(|bytes| Signature::from_slice(&bytes).ok());
        signature.is_some_and(|signature| key.verify_strict(&message, &signature).is_ok())
    };
    let signer = trusted.iter().find(|key| {
        envelope.signatures.iter().any(|sealed| sealed.keyid == key_id(key) && valid(sealed, key))
    });
    match signer {
        Some(key) => {
            let id = key_id(key);
            report.say(true, &format!("signature   by trusted key {}", short(&id)));
        }
        None => {
            let line = format!("signature   {name}: WRONG, or by none of the trusted keys");
            report.say(false, &line);
        }
    }
}

/// Compares every sealed digest with the file as it is now.
fn sealed_files(finished: &FinishedRun, sealed: &[Subject], report: &mut Report) {
    let mut wrong = 0;
    for subject in sealed {
        let wanted = subject.digest.get("sha256").map_or("none", String::as_str);
        let path = finished.folder.join(&subject.name);
        let problem = match subject.name.as_str() {
            MANIFEST => moved(wanted, &finished.sha256),
            _ => match std::fs::read(&path) {
                Err(why) => Some(why.to_string()),
                Ok(bytes) => moved(wanted, &sha256_hex(&bytes))
                    .or_else(|| evidence::parse(&String::from_utf8_lossy(&bytes)).err()),
            },
        };
        if let Some(problem) = problem {
            wrong += 1;
            report
                .say(false, &format!("file        {}: {problem}", place(finished, &subject.name)));
        }
    }
    for subject in subjects(finished) {
        if !sealed.iter().any(|known| known.name == subject.name) {
            wrong += 1;
            let place = place(finished, &subject.name);
            report.say(false, &format!("file        {place}: is not sealed"));
        }
    }
    // Such a file is judged by nobody, and no part of what was sealed.
    let beside = std::fs::read_dir(&finished.folder).into_iter().flatten().flatten();
    let mut beside: Vec<String> =
        beside.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    beside.sort();
    for name in beside.iter().filter(|name| !sealed.iter().any(|known| known.name == **name)) {
        let place = place(finished, name);
        report.say(true, &format!("file        {place}: lies there, and no manifest lists it"));
    }
    if wrong == 0 {
        report.say(true, &format!("files       {} as they were sealed", sealed.len()));
    }
    if let Some(why) = &finished.run.recovered {
        report.say(true, &format!("manifest    written after the run: {why}"));
    }
}

/// Where a subject lies, as reports print it.
fn place(finished: &FinishedRun, subject: &str) -> String {
    match subject {
        MANIFEST => finished.manifest().to_owned(),
        file => format!("{}/{file}", finished.printed),
    }
}

/// How a digest differs from the sealed one.
fn moved(wanted: &str, found: &str) -> Option<String> {
    (wanted != found).then(|| format!("sealed as {}, is {}", short(wanted), short(found)))
}

/// How many planted faults were caught, and how many claims passed.
fn summary(sealed: &Predicate, now: &Predicate, report: &mut Report) {
    let Detector { caught, missed, not_judged, files_planted, files_caught, false_alarms } =
        &now.detector;
    let score = format!(
        "detector    {caught} controls caught, {missed} missed, {not_judged} without a bound; \
         {files_caught} of {files_planted} broken files, {false_alarms} false alarms"
    );
    let all = *files_planted > 0 && files_caught == files_planted;
    report.say(*missed == 0 && all && *false_alarms == 0, &score);
    let counts = format!(
        "judged      {} verified, {} failed, {} skipped; sealed: {} verified, {} failed, {} skipped",
        now.passed_tests.len(),
        now.failed_tests.len(),
        now.skips.len(),
        sealed.passed_tests.len(),
        sealed.failed_tests.len(),
        sealed.skips.len()
    );
    report.say(true, &counts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn envelope(payload: &[u8], key: &SigningKey) -> Envelope {
        let signature = key.sign(&encoding(PAYLOAD, payload));
        let keyid = key_id(&key.verifying_key());
        Envelope {
            payload_type: PAYLOAD.into(),
            payload: STANDARD.encode(payload),
            signatures: vec![Sealed { keyid, sig: STANDARD.encode(signature.to_bytes()) }],
        }
    }

    #[track_caller]
    fn check(envelope: &Envelope, payload: &[u8], trusted: &[VerifyingKey], expect: (bool, &str)) {
        let mut report = Report { text: String::new(), holds: true };
        signatures(envelope, payload, trusted, "envelope", &mut report);
        assert_eq!(report.holds, expect.0, "{}", report.text);
        assert!(report.text.contains(expect.1), "{}", report.text);
    }

    /// The example of the DSSE specification, protocol 1.0.2.
    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let found = encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(found, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_signature_is_of_its_key_and_its_bytes() {
        let (own, other) = (key(1), key(2));
        let sealed = envelope(b"a run", &own);
        check(&sealed, b"a run", &[own.verifying_key()], (true, "by trusted key"));
        let both = [other.verifying_key(), own.verifying_key()];
        check(&sealed, b"a run", &both, (true, "by trusted key"));
        check(&sealed, b"a run", &[other.verifying_key()], (false, "WRONG"));
        check(&sealed, b"a rum", &[own.verifying_key()], (false, "WRONG"));
        check(&sealed, b"a run", &[], (true, "integrity only, unknown signer"));
        let mut claimed = envelope(b"a run", &other);
        claimed.signatures[0].keyid = key_id(&own.verifying_key());
        check(&claimed, b"a run", &[own.verifying_key()], (false, "WRONG"));
    }
}
