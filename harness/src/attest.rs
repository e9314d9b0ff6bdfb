//! A run sealed and verified: an in-toto Statement in a DSSE envelope, signed with ed25519.
//!
//! The statement's subjects are the manifest and every evidence file by their SHA-256; its predicate
//! ([`PREDICATE`]) has the fields of in-toto's test-result (result, passed, failed) and, beside them,
//! measurements, skips, the hardware and how many planted faults were caught.
//!
//! A signature proves who sealed a run, not that a GPU ran. [`verify`] therefore judges the evidence again
//! from its samples, and says of an envelope without a trusted key: integrity only, unknown signer.
//!
//! Formats: <https://github.com/secure-systems-lab/dsse> (protocol 1.0.2) and
//! <https://github.com/in-toto/attestation> (Statement v1, predicate test-result v0.1).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::claim::{Claim, GpuCount};
use crate::compare;
use crate::detector::{self, Controls, Score};
use crate::digest::{sha256_hex, short};
use crate::evidence::{self, Device};
use crate::files;
use crate::judge::Judgement;
use crate::recorded::{self, FinishedRun};
use crate::report::{self, JunitClass, number};
use crate::world::World;

/// Type of the payload, by in-toto.
pub const PAYLOAD: &str = "application/vnd.in-toto+json";
/// Type of the statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Type of the predicate: test-result of in-toto with measurements, skips, hardware and detector score.
pub const PREDICATE: &str = "urn:touchstone:run-result:1";
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
    detector: Detector,
}

/// A figure as it was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measurement {
    metric: String,
    value: f64,
    unit: String,
    verdict: String,
}

/// Planted faults: the controls of all judged claims, and the broken files of the detector's table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detector {
    caught: usize,
    missed: usize,
    not_judged: usize,
    #[serde(default)]
    files_planted: usize,
    #[serde(default)]
    files_caught: usize,
    #[serde(default)]
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

/// Makes a key: `path` (64 hexadecimal digits, read by its owner alone) and `path.pub`.
///
/// Errors: [`AttestError::Key`] where one of the files is there already.
pub fn make_key(path: &Path) -> Result<String, AttestError> {
    let mut seed = [0u8; 32];
    let refused = |why: String| AttestError::Key { path: path.display().to_string(), why };
    getrandom::fill(&mut seed).map_err(|why| refused(why.to_string()))?;
    let public = public_file(path);
    for file in [path, &public] {
        if file.exists() {
            return Err(AttestError::Key {
                path: file.display().to_string(),
                why: "is there already: a key is never overwritten".into(),
            });
        }
    }
    let key = SigningKey::from_bytes(&seed);
    write_secret(path, &format!("{}\n", hex(&seed))).map_err(refused)?;
    let text = format!("{}\n", hex(key.verifying_key().as_bytes()));
    files::write(&public, text.as_bytes()).map_err(AttestError::Read)?;
    Ok(key_id(&key.verifying_key()))
}

fn public_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Writes a file that only its owner reads.
fn write_secret(path: &Path, text: &str) -> Result<(), String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut open = std::fs::OpenOptions::new();
    let mut file =
        open.write(true).create_new(true).mode(0o600).open(path).map_err(|e| e.to_string())?;
    file.write_all(text.as_bytes()).map_err(|e| e.to_string())
}

/// The 32 bytes of a key's text.
fn key_bytes(name: &str, text: &str) -> Result<[u8; 32], AttestError> {
    let refused = || AttestError::Key {
        path: name.to_owned(),
        why: "is no key: 64 hexadecimal digits".into(),
    };
    let text = text.trim();
    if text.len() != 64 || !text.is_ascii() {
        return Err(refused());
    }
    let mut bytes = [0u8; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| refused())?;
    }
    Ok(bytes)
}

/// A signing key by its text; `name` is its file or variable.
pub fn signing_key(name: &str, text: &str) -> Result<SigningKey, AttestError> {
    Ok(SigningKey::from_bytes(&key_bytes(name, text)?))
}

/// A public key by its text.
pub fn public_key(name: &str, text: &str) -> Result<VerifyingKey, AttestError> {
    VerifyingKey::from_bytes(&key_bytes(name, text)?).map_err(|_| AttestError::Key {
        path: name.to_owned(),
        why: "is no ed25519 public key".into(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_id(key: &VerifyingKey) -> String {
    sha256_hex(key.as_bytes())
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

/// Seals a run.
pub fn seal(
    world: &World,
    finished: &FinishedRun,
    key: &SigningKey,
) -> Result<Envelope, AttestError> {
    let judged = judge(world, finished)?;
    let statement = Statement {
        kind: STATEMENT.into(),
        subject: subjects(finished),
        predicate_type: PREDICATE.into(),
        predicate: predicate(finished, &judged, &score(world)?),
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

/// The manifest and what it lists.
fn subjects(finished: &FinishedRun) -> Vec<Subject> {
    let subject = |name: &str, sha256: &str| Subject {
        name: name.to_owned(),
        digest: BTreeMap::from([("sha256".to_owned(), sha256.to_owned())]),
    };
    let files = finished.run.cases.iter().filter(|case| !case.file.is_empty());
    std::iter::once(subject(MANIFEST, &finished.sha256))
        .chain(files.map(|case| subject(&case.file, &case.sha256)))
        .collect()
}

/// Every claim that the run can say something of, judged from its evidence by today's bounds.
fn judge(world: &World, finished: &FinishedRun) -> Result<Vec<Judgement>, AttestError> {
    let goldens = world.goldens().map_err(AttestError::Read)?;
    let judged = |claim: &&'static Claim| {
        let case = world.case_of(claim).map_err(AttestError::Read)?;
        Ok(world.judge_run(claim, case, finished, &goldens))
    };
    world.claims.iter().map(judged).collect()
}

fn predicate(finished: &FinishedRun, judged: &[Judgement], score: &Score) -> Predicate {
    let class = |judgement: &Judgement| report::junit_class(judgement.verdict, false);
    let of = |wanted: fn(JunitClass) -> bool| judged.iter().filter(move |j| wanted(class(j)));
    let id = |judgement: &Judgement| judgement.claim.id.to_owned();
    let passed: Vec<String> = of(|class| class == JunitClass::Passed).map(id).collect();
    let failed: Vec<String> =
        of(|class| matches!(class, JunitClass::Failure | JunitClass::Error)).map(id).collect();
    let skipped = of(|class| class == JunitClass::Skipped);
    let result = if failed.is_empty() && !passed.is_empty() { "PASSED" } else { "FAILED" };
    let run = &finished.run;
    Predicate {
        result: result.into(),
        passed_tests: passed,
        failed_tests: failed,
        skips: skipped.map(|judgement| (id(judgement), judgement.reason.clone())).collect(),
        measurements: judged.iter().filter_map(measurement).collect(),
        board: run.board.clone(),
        devices: run.devices.clone(),
        versions: run.versions.clone(),
        started: run.started.clone(),
        ended: run.ended.clone(),
        detector: detector(judged, score),
    }
}

fn measurement(judgement: &Judgement) -> Option<(String, Measurement)> {
    let measured = judgement.measured.as_ref()?;
    // What needs no GPU is about the machine that judges, not about the run.
    if judgement.claim.gpus == GpuCount::Host || !measured.value.is_finite() {
        return None;
    }
    let figure = Measurement {
        metric: measured.metric.clone(),
        value: measured.value,
        unit: measured.unit.to_owned(),
        verdict: report::word(judgement.verdict).to_owned(),
    };
    Some((judgement.claim.id.to_owned(), figure))
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

/// How much this executable sees, whoever's run it seals.
fn score(world: &World) -> Result<Score, AttestError> {
    let goldens = world.goldens().map_err(AttestError::Read)?;
    Ok(detector::of_today(world, &goldens))
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
    signatures(&envelope, &payload, trusted, &mut report);
    sealed_files(finished, &statement.subject, &mut report);
    let judged = judge(world, finished)?;
    let now = predicate(finished, &judged, &score(world)?);
    judged_again(&statement.predicate, &now, &mut report);
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

fn signatures(envelope: &Envelope, payload: &[u8], trusted: &[VerifyingKey], report: &mut Report) {
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
        None => report.say(false, "signature   WRONG, or by none of the trusted keys"),
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
            report.say(false, &format!("file        {}: {problem}", subject.name));
        }
    }
    for subject in subjects(finished) {
        if !sealed.iter().any(|known| known.name == subject.name) {
            wrong += 1;
            report.say(false, &format!("file        {}: is not sealed", subject.name));
        }
    }
    if wrong == 0 {
        report.say(true, &format!("files       {} as they were sealed", sealed.len()));
    }
}

/// How a digest differs from the sealed one.
fn moved(wanted: &str, found: &str) -> Option<String> {
    (wanted != found).then(|| format!("sealed as {}, is {}", short(wanted), short(found)))
}

/// Compares what was sealed with what the samples give today. A verdict may move with its bound; a figure
/// may not.
fn judged_again(sealed: &Predicate, now: &Predicate, report: &mut Report) {
    for (claim, was) in &sealed.measurements {
        let problem = match now.measurements.get(claim) {
            None => Some("has no figure any more".to_owned()),
            Some(is) if is.metric != was.metric || is.value != was.value || is.unit != was.unit => {
                let (was, is) = (number(was.value), number(is.value));
                Some(format!("sealed as {was}, its samples give {is}"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            report.say(false, &format!("figure      {claim}: {problem}"));
        }
        let today = now.measurements.get(claim).map_or("nothing", |is| is.verdict.as_str());
        if today != was.verdict {
            let line = format!("verdict     {claim}: sealed as {}, today {today}", was.verdict);
            report.say(true, &line);
        }
    }
    for (what, was, is) in [
        ("board", &sealed.board, &now.board),
        ("start", &sealed.started, &now.started),
        ("end", &sealed.ended, &now.ended),
    ] {
        if was != is {
            report.say(false, &format!("{what:11} sealed as {was}, is {is}"));
        }
    }
    if sealed.devices != now.devices || sealed.versions != now.versions {
        report.say(false, "hardware    devices or versions are not those of the manifest");
    }
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
        signatures(envelope, payload, trusted, &mut report);
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

    #[test]
    fn keys_are_made_once_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let id = make_key(&path).expect("made");
        let text = |path: &Path| std::fs::read_to_string(path).expect("there");
        let own = signing_key("key", &text(&path)).expect("a key");
        let public = public_key("key.pub", &text(&public_file(&path))).expect("a key");
        assert_eq!((own.verifying_key(), key_id(&public)), (public, id));
        assert!(make_key(&path).is_err_and(|error| error.to_string().contains("already")));
        assert!(signing_key("short", "12").is_err());
        assert!(signing_key("no-digits", &"zz".repeat(32)).is_err());
    }
}
