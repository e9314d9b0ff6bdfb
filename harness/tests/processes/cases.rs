//! The cases of these tests: most of them misbehave.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, exit};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use harness::case::{Case, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};

type Run = fn(&Assignment, &mut Recorder) -> Result<(), Stop>;

/// Far more than any child here needs, on any machine.
const PLENTY_S: f64 = 120.0;

const fn case(id: &'static str, scope: Scope, deadline_s: f64, run: Run) -> Case {
    Case {
        id,
        revision: 1,
        figures_since: 1,
        scope,
        min_gpus: 0,
        tier: Tier::Quick,
        self_test_only: false,
        procedure: "",
        samples: 0,
        expected_s: 0.1,
        deadline_s,
        kernels: &[],
        integrity: &[],
        controls: &[],
        run,
    }
}

const fn each(id: &'static str, run: Run) -> Case {
    case(id, Scope::EachGpu, PLENTY_S, run)
}

pub static FINE: Case = each("test::fine", interval);
pub static LATER: Case = each("test::later", interval);
pub static NODE: Case = case("test::node", Scope::Node, PLENTY_S, interval);
pub static NODE_LATER: Case = case("test::node-later", Scope::Node, PLENTY_S, interval);
pub static HOST: Case = case("test::host", Scope::Host, PLENTY_S, interval);
pub static HOST_LATER: Case = case("test::host-later", Scope::Host, PLENTY_S, interval);
pub static PROBE: Case = Case { integrity: &["wrong_count"], ..each("test::probe", probe) };

pub static HANG: Case = case("test::hang", Scope::EachGpu, 2.0, hang);
pub static STUBBORN: Case = case("test::stubborn", Scope::EachGpu, 2.0, stubborn);
pub static STUBBORN_LONG: Case = each("test::stubborn-long", stubborn);
pub static ENDLESS: Case = each("test::endless", hang);
pub static SEGFAULT: Case = each("test::segfault", segfault);
pub static ABORT: Case = each("test::abort", |_, _| std::process::abort());
pub static PANIC: Case = each("test::panic", |_, _| panic!("index {} of 3", 7));
pub static EXIT: Case = each("test::exit", |_, _| exit(3));
pub static ERROR: Case = each("test::error", |_, _| Err(Stop::Error("no memory left".into())));
pub static NOT_RUN: Case = each("test::not-run", |_, _| Err(Stop::NotRun("no library".into())));
pub static NOT_APPLICABLE: Case =
    each("test::not-applicable", |_, _| Err(Stop::NotApplicable("no FP4".into())));
pub static GRANDCHILD: Case = each("test::grandchild", grandchild);
pub static HANG_WITH_GRANDCHILD: Case =
    case("test::hang-with-grandchild", Scope::EachGpu, 2.0, hang_with_grandchild);
pub static ESCAPED: Case = each("test::escaped", escaped);
pub static HALF: Case = each("test::half", |a, _| leave(a, r#"{"outcome":"completed","rec"#));
pub static NULL: Case = each("test::null", null);
pub static NAN: Case = each("test::nan", nan);
pub static NOTHING: Case = each("test::nothing", |_, _| exit(0));
pub static FLOOD: Case = each("test::flood", flood);
pub static VICTIM: Case = each("test::victim", hang);
pub static TELLTALE: Case = each("test::telltale", telltale);
pub static ENVIRONMENT: Case = each("test::environment", environment);

pub static MEET: Case = each("test::meet", |a, _| meet(a, "met", &gpu(a), 4));
pub static MEET_GPU: Case = each("test::meet-gpu", |a, _| meet(a, "two", "gpu", 2));
pub static MEET_HOST: Case =
    case("test::meet-host", Scope::Host, PLENTY_S, |a, _| meet(a, "two", "host", 2));
pub static WAITS: Case = each("test::waits", waits_on_gpu1);
pub static ARRIVES: Case = each("test::arrives", arrives);
pub static SICKENS: Case = each("test::sickens", sickens);
/// Planned by a test, but unknown to the child.
pub static UNKNOWN: Case = each("test::unknown", interval);

pub static CASES: &[&Case] = &[
    &FINE,
    &LATER,
    &NODE,
    &NODE_LATER,
    &HOST,
    &HOST_LATER,
    &PROBE,
    &HANG,
    &STUBBORN,
    &STUBBORN_LONG,
    &ENDLESS,
    &SEGFAULT,
    &ABORT,
    &PANIC,
    &EXIT,
    &ERROR,
    &NOT_RUN,
    &NOT_APPLICABLE,
    &GRANDCHILD,
    &HANG_WITH_GRANDCHILD,
    &ESCAPED,
    &HALF,
    &NULL,
    &NAN,
    &NOTHING,
    &FLOOD,
    &VICTIM,
    &TELLTALE,
    &ENVIRONMENT,
    &MEET,
    &MEET_GPU,
    &MEET_HOST,
    &WAITS,
    &ARRIVES,
    &SICKENS,
];

fn gpu(assignment: &Assignment) -> String {
    assignment.gpus().iter().map(u32::to_string).collect::<Vec<_>>().join("-")
}

/// Records when it ran.
fn interval(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let now_s = || SystemTime::UNIX_EPOCH.elapsed().map(|since| since.as_secs_f64());
    let start = now_s()?;
    sleep(Duration::from_millis(30));
    let gpus = assignment.gpus();
    recorder.metric(Metric::exact("start_s", &[], &gpus, start));
    recorder.metric(Metric::exact("end_s", &[], &gpus, now_s()?));
    recorder.option("attempt", assignment.attempt);
    Ok(())
}

/// Proves every GPU usable but those that [`sickens`] named.
fn probe(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let sick = assignment.root.join(format!("sick-{}", gpu(assignment))).exists();
    recorder.metric(Metric::exact("wrong_count", &[], &assignment.gpus(), f64::from(sick)));
    Ok(())
}

/// Tells its process id as its progress and never ends.
fn hang(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress(&format!("pid {}", std::process::id()));
    loop {
        sleep(Duration::from_secs(1));
    }
}

fn stubborn(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false)))?;
    hang(assignment, recorder)
}

fn segfault(_: &Assignment, _: &mut Recorder) -> Result<(), Stop> {
    let nowhere = std::hint::black_box(std::ptr::without_provenance_mut::<u64>(8));
    // SAFETY: there is none; the write must end this process, which is what the test is about.
    unsafe { nowhere.write_volatile(1) };
    Ok(())
}

/// Leaves a process behind that holds its log open, and ends well.
fn grandchild(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let left = Command::new("sleep").arg("600").spawn()?;
    recorder.option("pid", left.id());
    Ok(())
}

fn hang_with_grandchild(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let left = Command::new("sleep").arg("600").spawn()?;
    recorder.progress(&format!("pid {}", left.id()));
    loop {
        sleep(Duration::from_secs(1));
    }
}

/// Leaves a process behind in another group, where nobody ends it.
fn escaped(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let left = Command::new("sleep").arg("600").process_group(0).spawn()?;
    recorder.option("pid", left.id());
    Ok(())
}

fn leave(assignment: &Assignment, result: &str) -> Result<(), Stop> {
    fs::write(&assignment.result, result)?;
    exit(0)
}

/// Leaves a result whose metric holds a NaN the way that JSON writes it.
fn null(assignment: &Assignment, _: &mut Recorder) -> Result<(), Stop> {
    let metric = Metric::exact("copy_gbps", &[], &[], 1.5);
    let recorder = Recorder { metrics: vec![metric], ..Recorder::default() };
    let outcome = harness::child::Ended::Completed;
    let result = harness::child::ChildResult { outcome, recorder };
    leave(assignment, &serde_json::to_string(&result)?.replace("1.5", "null"))
}

fn nan(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.metric(Metric::sampled("copy_gbps", &[], &[0], vec![1.0, f64::NAN]));
    Ok(())
}

fn flood(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let mut out = std::io::stdout().lock();
    for _ in 0..100 * 1024 {
        out.write_all(&line)?;
    }
    drop(out);
    recorder.progress("flooded");
    Err(Stop::Error("after the flood".into()))
}

/// Says everything that may not leave a machine.
fn telltale(assignment: &Assignment, _: &mut Recorder) -> Result<(), Stop> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let secret = format!(
        "{} on {} reads {} and /opt/secret/libx.so.1",
        assignment.devices[0].uuid,
        host.trim(),
        assignment.root.join("a.bin").display(),
    );
    eprintln!("\u{1b}[31m{secret}\u{1b}[0m\u{7}");
    Err(Stop::Error(secret))
}

fn environment(_: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    for (name, value) in std::env::vars() {
        recorder.option(&name, value);
    }
    Ok(())
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) -> Result<(), Stop> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if there() {
            return Ok(());
        }
        sleep(Duration::from_millis(5));
    }
    Err(Stop::Error(format!("waited 60 s for {what}")))
}

/// Ends only when `count` children run at the same time.
fn meet(assignment: &Assignment, name: &str, who: &str, count: usize) -> Result<(), Stop> {
    let folder = assignment.root.join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(who), "")?;
    wait_until("the others", || fs::read_dir(&folder).is_ok_and(|entries| entries.count() == count))
}

fn sign_of_arrival(root: &Path) -> std::path::PathBuf {
    root.join("arrived")
}

/// On gpu1 it only ends once gpu0 is at the next case.
fn waits_on_gpu1(assignment: &Assignment, _: &mut Recorder) -> Result<(), Stop> {
    match assignment.gpus()[..] {
        [1] => wait_until("gpu0", || sign_of_arrival(&assignment.root).exists()),
        _ => Ok(()),
    }
}

fn arrives(assignment: &Assignment, _: &mut Recorder) -> Result<(), Stop> {
    Ok(fs::write(sign_of_arrival(&assignment.root), "")?)
}

/// Crashes on gpu1, which then fails its probe, and on gpu2, which does not.
fn sickens(assignment: &Assignment, _: &mut Recorder) -> Result<(), Stop> {
    match assignment.gpus()[..] {
        [1] => {
            fs::write(assignment.root.join("sick-1"), "")?;
            exit(9)
        }
        [2] => exit(9),
        _ => Ok(()),
    }
}
