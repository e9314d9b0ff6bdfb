//! Seals that lie. Who forges one has a key: every digest and the signature are right, and nothing but
//! computing it again from the samples finds the lie. And any byte of what was sealed, changed.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use harness::attest::{self, Envelope, Report};
use harness::evidence::{self, Evidence, Tier};
use harness::files;
use harness::recorded::{self, FinishedRun};
use harness::run::Run;
use harness::world::World;
use serde_json::{Value, json};
use touchstone_tests::{fake, folders, specimens};

const RUN: &str = "20261121T031500Z-0000000a";

/// The key of whoever seals, who is trusted: a signature proves no more than that.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn healthy() -> Evidence {
    let mut evidence = specimens::stream(RUN, fake::HEALTHY_GBPS, 900.0);
    // A second of at most 100 W.
    evidence.parts.iter_mut().for_each(|part| part.telemetry[0].energy_j = Some(80.0));
    evidence
}

/// Lays a run in a folder of its own.
fn left(folder: &Path, evidence: &Evidence) -> FinishedRun {
    let finished =
        specimens::recorded(&folder.join("evidence"), RUN, std::slice::from_ref(evidence));
    relist(folder, finished.run).expect("opened")
}

/// Writes the manifest, with the digest that is its own.
fn relist(folder: &Path, run: Run) -> Result<FinishedRun, String> {
    let line = run.line().expect("a line") + "\n";
    files::write(&folder.join("run.json"), line.as_bytes()).expect("written");
    recorded::open(folder)
}

/// Calls `with` with the fake world, an empty folder for a run below its root.
fn with_fake<T>(with: impl FnOnce(&World, &Path) -> T) -> T {
    let root = tempfile::tempdir().expect("a folder");
    fake::lay(root.path());
    let run = root.path().join("run");
    fake::with_world(root.path().to_owned(), 0, |world| with(world, &run))
}

fn sealed(world: &World, finished: &FinishedRun) -> Envelope {
    attest::seal(world, finished, &key()).expect("sealed")
}

fn statement(envelope: &Envelope) -> Value {
    let payload = STANDARD.decode(&envelope.payload).expect("base64");
    serde_json::from_slice(&payload).expect("a statement")
}

/// Signs another statement, as DSSE 1.0.2 says.
fn signed(envelope: &Envelope, statement: &Value) -> Envelope {
    let payload = serde_json::to_vec(statement).expect("serialised");
    let kind = &envelope.payload_type;
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    let mut forged = envelope.clone();
    let signature = key().sign(&[head.as_bytes(), &payload].concat());
    forged.signatures[0].sig = STANDARD.encode(signature.to_bytes());
    forged.payload = STANDARD.encode(payload);
    forged
}

fn verified(world: &World, finished: &FinishedRun, envelope: &Envelope) -> Report {
    let text = attest::render(envelope).expect("rendered");
    let trusted = [key().verifying_key()];
    attest::verify(world, finished, ("run.dsse.json", &text), &trusted).expect("verified")
}

/// That `expect` is said, that it does not hold, and that neither signature nor digest told it.
#[track_caller]
fn found(report: &Report, expect: &str) {
    assert!(!report.holds && report.text.contains(expect), "{expect:?} in\n{}", report.text);
    assert!(report.text.contains("signature   by trusted key"), "{}", report.text);
    assert!(report.text.contains("as they were sealed\n"), "{}", report.text);
    assert!(report.text.contains("DOES NOT HOLD"), "{}", report.text);
}

#[test]
fn an_honest_seal_holds() {
    with_fake(|world, folder| {
        let finished = left(folder, &healthy());
        let report = verified(world, &finished, &sealed(world, &finished));
        assert!(report.holds, "{}", report.text);
        let line = "computed    2 figures, 2 durations, 1 energies: as they were sealed";
        assert!(report.text.contains(line), "{}", report.text);
    });
}

/// Seals honestly, then lies in the predicate.
#[track_caller]
fn check(lie: impl Fn(&mut Value), expect: &str) {
    with_fake(|world, folder| {
        let finished = left(folder, &healthy());
        let honest = sealed(world, &finished);
        let mut statement = statement(&honest);
        let before = statement.clone();
        lie(&mut statement["predicate"]);
        assert_ne!(statement, before, "nothing was planted");
        found(&verified(world, &finished, &signed(&honest, &statement)), expect);
    });
}

const READ: &str = "bandwidth::read";

#[test]
fn a_figure_that_the_samples_do_not_give_is_named() {
    let figure = "figure      bandwidth::read: sealed as ";
    let samples = "its samples give 1000 (999.97 to 1000.03) on gpu0";
    check(|p| p["measurements"][READ]["value"] = json!(1010.0), samples);
    check(|p| p["measurements"][READ]["interval"] = json!([999.99, 1000.01]), samples);
    check(|p| p["measurements"][READ]["gpus"] = json!([1]), samples);
    check(|p| p["measurements"][READ]["unit"] = json!("TB/s"), figure);
    check(|p| p["measurements"][READ]["metric"] = json!("copy_gbps"), figure);
    check(|p| p["measurements"][READ]["series"][1]["value"] = json!(999.0), figure);
    check(|p| p["measurements"][READ]["series"][1]["interval"][0] = json!(999.0), figure);
    let one_series = |p: &mut Value| {
        let series = p["measurements"][READ]["series"].as_array_mut().expect("series");
        series.truncate(1);
    };
    check(one_series, "figure      bandwidth::read: sealed with 1 series, its samples give 2");
}

fn object<'a>(predicate: &'a mut Value, name: &str) -> &'a mut serde_json::Map<String, Value> {
    predicate[name].as_object_mut().expect("an object")
}

#[test]
fn a_figure_more_or_less_is_named() {
    let less = |p: &mut Value| drop(object(p, "measurements").remove(READ));
    check(less, "figure      bandwidth::read: is not sealed");
    let more = |p: &mut Value| {
        let figure = p["measurements"][READ].clone();
        object(p, "measurements").insert("bandwidth::link".to_owned(), figure);
    };
    check(more, "figure      bandwidth::link: cannot be computed again: no case of the run");
}

#[test]
fn a_duration_that_the_evidence_does_not_give_is_named() {
    let case = "bandwidth::stream";
    let other = "duration    bandwidth::stream: sealed as 0.5 s, its evidence gives 1 s";
    check(|p| p["durations_s"][case] = json!(0.5), other);
    let none = "duration    bandwidth::stream: sealed as none, its evidence gives 1 s";
    check(|p| drop(object(p, "durations_s").remove(case)), none);
    let run = "duration    run: sealed as 20 s, the manifest says 30 s";
    check(|p| p["wall_s"] = json!(20.0), run);
    let times =
        ["start       sealed as 2026-11-21T03:15:10Z, is", "end         sealed as 2026-11-21"];
    check(|p| p["started"] = json!("2026-11-21T03:15:10Z"), times[0]);
    check(|p| p["ended"] = json!("2026-11-21T03:15:10Z"), times[1]);
}

#[test]
fn an_energy_that_the_evidence_does_not_give_is_named() {
    let line = "energy      bandwidth::stream: sealed as 16 J, its evidence gives 160 J";
    check(|p| p["energies_j"]["bandwidth::stream"] = json!(16.0), line);
}

/// What the fake run verifies.
const SPREAD: &str = "bandwidth::read-spread";

/// By the same bounds a verdict is what it was; a moved bound excuses it, and is named.
#[test]
fn a_verdict_that_the_bounds_do_not_give_is_named() {
    let by = "today verified (passed), by the same bounds";
    check(|p| p["measurements"][SPREAD]["verdict"] = json!("refuted"), by);
    let unlisted = |p: &mut Value| {
        let passed = p["passedTests"].as_array_mut().expect("a list");
        passed.retain(|id| id != SPREAD);
    };
    check(unlisted, by);
    let failed = |p: &mut Value| p["failedTests"] = json!([SPREAD]);
    check(failed, "sealed as verified (both passed and failed), today verified (passed)");
    check(
        |p| p["result"] = json!("FAILED"),
        "result      sealed as FAILED, its own lists say PASSED",
    );
    check(|p| p["board"] = json!("another"), "board       sealed as another, is fake-board");
    check(|p| p["versions"]["fake"] = json!("2"), "hardware    devices or versions");
}

#[test]
fn bounds_that_moved_are_named_and_excuse_a_verdict() {
    with_fake(|world, folder| {
        let finished = left(folder, &healthy());
        let honest = sealed(world, &finished);
        let golden = world.root.join("golden/documented.toml");
        let text = fs::read_to_string(&golden).expect("read") + "# a word more\n";
        fs::write(&golden, text).expect("written");
        let report = verified(world, &finished, &honest);
        assert!(report.holds, "{}", report.text);
        assert!(report.text.contains("bounds      golden/documented.toml: sealed as "));
        let mut statement = statement(&honest);
        statement["predicate"]["measurements"][SPREAD]["verdict"] = json!("refuted");
        let report = verified(world, &finished, &signed(&honest, &statement));
        let line = "verdict     bandwidth::read-spread: sealed as refuted (passed), today verified (passed)\n";
        assert!(report.holds && report.text.contains(line), "{}", report.text);
    });
}

/// Changes evidence and manifest, and forges a seal whose digests and values are all theirs.
#[track_caller]
fn forged(evidence: impl Fn(&mut Evidence), manifest: impl Fn(&mut Run), expect: &str) {
    with_fake(|world, folder| {
        let honest = sealed(world, &left(folder, &healthy()));
        let mut changed = healthy();
        evidence(&mut changed);
        let mut run = left(folder, &changed).run;
        manifest(&mut run);
        let finished = match relist(folder, run) {
            Ok(finished) => finished,
            // The reader of manifests sees it: there is nothing to seal or to verify.
            Err(refused) => return assert!(refused.contains(expect), "{expect:?} in {refused}"),
        };
        let refused = attest::seal(world, &finished, &key()).expect_err("no honest seal");
        assert!(refused.to_string().contains("is not sealed: "), "{refused}");
        let mut statement = statement(&honest);
        let run = &finished.run;
        statement["subject"] = json!([
            { "name": "run.json", "digest": { "sha256": finished.sha256 } },
            { "name": run.cases[0].file, "digest": { "sha256": run.cases[0].sha256 } },
        ]);
        if let Some(again) = run.cases.get(1) {
            let subject = json!({ "name": again.file, "digest": { "sha256": again.sha256 } });
            statement["subject"].as_array_mut().expect("subjects").push(subject);
        }
        let predicate = &mut statement["predicate"];
        predicate["started"] = json!(run.started);
        predicate["ended"] = json!(run.ended);
        predicate["wall_s"] = json!(run.wall_s);
        predicate["versions"] = json!(run.versions);
        predicate["devices"] = json!(run.devices);
        let wall_s = changed.parts.iter().map(|part| part.wall_s).fold(0.0, f64::max);
        predicate["durations_s"]["bandwidth::stream"] = json!(wall_s);
        let energies = changed.parts.iter().map(|part| part.telemetry[0].energy_j.expect("some"));
        predicate["energies_j"]["bandwidth::stream"] = json!(energies.sum::<f64>());
        let report = verified(world, &finished, &signed(&honest, &statement));
        found(&report, expect);
    });
}

#[test]
fn a_run_whose_times_do_not_fit_is_named() {
    let same = |_: &mut Evidence| {};
    let wall = "run.json: lasted 10 s, from 2026-11-21T03:15:00Z to 2026-11-21T03:15:30Z";
    forged(same, |run| run.wall_s = 10.0, wall);
    let before = "run.json: ended 2026-11-21T03:14:00Z before it started 2026-11-21T03:15:00Z";
    forged(same, |run| run.ended = "2026-11-21T03:14:00Z".to_owned(), before);
    let named = "run.json: run 20261121T031500Z-0000000a is not named after its start";
    forged(same, |run| run.started = "2026-11-21T03:14:59Z".to_owned(), named);
    forged(same, |run| run.started = "yesterday".to_owned(), "\"yesterday\" is no time");
}

#[test]
fn a_part_whose_times_do_not_fit_is_named() {
    let same = |_: &mut Run| {};
    let file = "manifest    evidence/bandwidth-stream-n2.json ";
    let long = |evidence: &mut Evidence| evidence.parts[1].wall_s = 40.0;
    forged(long, same, &format!("{file}lasted 40 s from 2026-11-21T03:15:01Z, its run ended"));
    let at = |time: &'static str| {
        move |evidence: &mut Evidence| evidence.parts[0].started = time.to_owned()
    };
    let early = format!("{file}started 2026-11-21T03:14:50Z, its run 2026-11-21T03:15:00Z");
    forged(at("2026-11-21T03:14:50Z"), same, &early);
    let mut soon = healthy();
    at("soon")(&mut soon);
    assert_eq!(evidence::render(&soon), Err("started \"soon\" is no time".to_owned()));
    let both = |evidence: &mut Evidence| {
        let other = evidence.parts[1].devices[0].clone();
        evidence.parts[0].devices.push(other);
        evidence.parts[0].wall_s = 9.0;
    };
    forged(both, same, "durations: gpu1 ran bandwidth::stream for 9 s into bandwidth::stream");
}

#[test]
fn an_energy_beyond_its_power_is_named() {
    let same = |_: &mut Run| {};
    let joules = |joules: f64| {
        move |evidence: &mut Evidence| evidence.parts[1].telemetry[0].energy_j = Some(joules)
    };
    let line = "bandwidth-stream-n2.json: energy of gpu1 is 800 J, 100 W over 1 s are 100 J";
    forged(joules(800.0), same, line);
    // Such evidence cannot even be written.
    let negative = evidence::render(&{
        let mut evidence = healthy();
        joules(-1.0)(&mut evidence);
        evidence
    });
    assert_eq!(negative, Err("energy_j of gpu1 is -1".to_owned()));
    let mut backward = healthy();
    backward.parts[0].telemetry[0].power_w = [90.0, 120.0, 110.0];
    let told = "power_w of gpu0 is 90, 120, 110: not least, mean, most";
    assert_eq!(evidence::render(&backward), Err(told.to_owned()));
}

#[test]
fn a_manifest_that_its_evidence_contradicts_is_named() {
    let same = |_: &mut Evidence| {};
    let versions = "run.json: version of fake is 2, its evidence says 1";
    forged(same, |run| drop(run.versions.insert("fake".to_owned(), "2".to_owned())), versions);
    let failed = "evidence/bandwidth-stream-n2.json is completed, its run lists failed";
    forged(same, |run| run.cases[0].outcome = "failed".into(), failed);
    forged(same, |run| run.devices[1].memory_bytes = 1, "that its run does not list");
    forged(same, |run| run.shared = true, "says Quick, shared false; its run does not");
    let twice = "case bandwidth::stream or its file bandwidth-stream-n2.json stands twice";
    forged(same, |run| run.cases.push(run.cases[0].clone()), twice);
    let tier = |evidence: &mut Evidence| evidence.tier = Tier::Full;
    forged(tier, |_| {}, "bandwidth-stream-n2.json says Full, shared false; its run does not");
}

// ---- any byte -----------------------------------------------------------------------------------

/// A root with one recorded run of this repository, and its seal beside it.
struct Sealed {
    root: tempfile::TempDir,
    run: FinishedRun,
}

impl Sealed {
    fn new() -> Sealed {
        let root = tempfile::tempdir().expect("a folder");
        let runs = recorded::load(&folders::repository()).expect("recorded runs load");
        // The smallest: each position costs a verification.
        let size = |finished: &&FinishedRun| -> u64 {
            let files = folders::files(&finished.folder, &|_| true);
            files.iter().map(|file| fs::metadata(file).expect("a file").len()).sum()
        };
        let mut run = runs.iter().min_by_key(size).expect("a recorded run").clone();
        folders::copy(&folders::repository().join("golden"), &root.path().join("golden"));
        let folder = root.path().join(&run.printed);
        folders::copy(&run.folder, &folder);
        run.folder = folder;
        let line = run.run.line().expect("a line") + "\n";
        assert_eq!(Run::digest_of(line.trim_end()), run.sha256, "the line is the one listed");
        files::write(&root.path().join(recorded::RUNS), line.as_bytes()).expect("written");
        let sealed = Sealed { root, run };
        let envelope = sealed.with(|world| sealed_text(world, &sealed.run));
        files::write(&sealed.path("run.dsse.json"), envelope.as_bytes()).expect("written");
        sealed
    }

    fn with<T>(&self, with: impl FnOnce(&World) -> T) -> T {
        suites::with_world(self.root.path().to_owned(), with)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// What `touchstone verify RUN run.dsse.json --trust KEY` says: whether it holds, and the text.
    fn verify(&self, given: &str) -> (bool, String) {
        self.with(|world| {
            let opened = match attest::open(world, given) {
                Ok(opened) => opened,
                Err(error) => return (false, error.to_string()),
            };
            let envelope = self.path("run.dsse.json");
            let text = match files::read(&envelope) {
                Ok(text) => text,
                Err(error) => return (false, error),
            };
            let trusted = [key().verifying_key()];
            let sealed = ("run.dsse.json", text.as_str());
            match attest::verify(world, &opened.finished, sealed, &trusted) {
                Ok(report) => (report.holds, report.text),
                Err(error) => (false, error.to_string()),
            }
        })
    }

    /// Changes one byte at `count` places of a file, one after the other; `fails` where that has to fail.
    #[track_caller]
    fn each_byte(&self, name: &str, count: u64, fails: bool, draw: &mut impl FnMut(u64) -> u64) {
        let path = self.path(name);
        let whole = fs::read(&path).expect("read");
        let last = whole.len() - 1;
        for number in 0..count {
            // The first and the last byte, and then wherever.
            let at = match number {
                0 => 0,
                1 => last,
                _ => draw(whole.len() as u64) as usize,
            };
            let mut bytes = whole.clone();
            bytes[at] ^= 1 + draw(255) as u8;
            fs::write(&path, &bytes).expect("written");
            let given = if number % 2 == 0 { &self.run.run.run } else { &self.run.sha256 };
            let (holds, text) = self.verify(given);
            let (was, is) = (whole[at], bytes[at]);
            let what = format!("byte {at} of {name}, {was:#04x} to {is:#04x}");
            assert!(!(fails && holds), "{what}: holds\n{text}");
            assert!(text.contains(name), "{what}: not named in\n{text}");
        }
        fs::write(&path, &whole).expect("written");
    }
}

fn sealed_text(world: &World, finished: &FinishedRun) -> String {
    attest::render(&sealed(world, finished)).expect("rendered")
}

/// splitmix64, from a seed that is written down.
fn drawn(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[test]
fn any_changed_byte_is_named_by_its_file() {
    let sealed = Sealed::new();
    let mut draw = drawn(20_261_121);
    let (holds, text) = sealed.verify(&sealed.run.run.run);
    assert!(holds, "{text}");
    for case in &sealed.run.run.cases {
        let name = format!("{}/{}", sealed.run.printed, case.file);
        sealed.each_byte(&name, 4, true, &mut draw);
    }
    sealed.each_byte(recorded::RUNS, 24, true, &mut draw);
    sealed.each_byte("run.dsse.json", 40, true, &mut draw);
    // Bounds may move: that is named, and what still holds by them holds.
    for golden in folders::files(&sealed.path("golden"), &|_| true) {
        let name = golden.strip_prefix(sealed.root.path()).expect("below").display().to_string();
        sealed.each_byte(&name, 6, false, &mut draw);
    }
    let (holds, text) = sealed.verify(&sealed.run.run.run);
    assert!(holds, "everything is back in its place: {text}");
}

#[test]
fn evidence_that_no_manifest_lists_is_named() {
    with_fake(|world, folder| {
        let finished = left(folder, &healthy());
        let honest = sealed(world, &finished);
        fs::write(folder.join("evidence/better-n2.json"), "{}").expect("written");
        let report = verified(world, &finished, &honest);
        let line = "file        evidence/better-n2.json: lies there, and no manifest lists it";
        assert!(report.holds && report.text.contains(line), "{}", report.text);
    });
}

/// A byte more is a changed byte too.
#[test]
fn a_byte_more_or_less_is_named_by_its_file() {
    let sealed = Sealed::new();
    let evidence = format!("{}/{}", sealed.run.printed, sealed.run.run.cases[0].file);
    for name in [evidence.as_str(), recorded::RUNS, "run.dsse.json"] {
        let path = sealed.path(name);
        let whole = fs::read(&path).expect("read");
        let mut carriage = whole.clone();
        carriage.insert(whole.len() - 1, b'\r');
        let longer = [whole.as_slice(), b"\n"].concat();
        let shorter = &whole[..whole.len() - 2];
        for bytes in [&carriage, &longer, shorter] {
            fs::write(&path, bytes).expect("written");
            let (holds, text) = sealed.verify(&sealed.run.run.run);
            assert!(!holds && text.contains(name), "{name}: {text}");
        }
        fs::write(&path, &whole).expect("written");
    }
}
