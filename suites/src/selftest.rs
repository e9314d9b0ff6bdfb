//! The self-test on hardware: faults that raise Xids, planted in a process of their own. Run only
//! under `--self-test`, because Xids drain production nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use harness::case::{Case, Control, Expect, Scope};
use harness::child::{ChildResult, Ended};
use harness::claim::{Claim, GpuCount, Kind, Reduce, Relation, Source};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::fault::{self, Fault};

use crate::lab::Lab;
use crate::{collectives, env, model, tensor_parallel};

const OWN: Source = Source {
    document: "002-b200-large-model-benchmark.md",
    section: "the runs that hung or died",
    printed: "a hang or a crash ends one case, not the run",
    board: "",
};

const fn claim(id: &'static str, text: &'static str, case: &'static str) -> Claim {
    Claim {
        id,
        text,
        source: OWN,
        relation: Relation::Holds,
        case,
        metric: "not_contained_count",
        at: &[],
        reduce: Reduce::Worst,
        ceiling: None,
        gpus: GpuCount::AtLeast(1),
        kind: Kind::Claim,
    }
}

/// Claims of the self-test.
pub static CLAIMS: &[&Claim] = &[&ILLEGAL_ADDRESS, &ENDLESS, &SANITIZER];

static ILLEGAL_ADDRESS: Claim = claim(
    "env::illegal-address-is-contained",
    "A kernel that writes to an illegal address ends its own process and harms nothing after it.",
    ILLEGAL_CASE.id,
);
static ENDLESS: Claim = claim(
    "env::endless-kernel-is-ended",
    "A kernel that never ends is ended with its process, and the GPU serves the next case.",
    ENDLESS_CASE.id,
);
static SANITIZER: Claim = Claim {
    metric: "sanitizer_errors_count",
    ..claim(
        "env::sanitizer-clean",
        "No kernel that is asked its known question reads or writes outside its buffers, by memcheck of NVIDIA's compute-sanitizer.",
        SANITIZER_CASE.id,
    )
};

/// Cases of the self-test, and the faulty ones that it starts: those have no claim.
pub static CASES: &[&Case] = &[&ILLEGAL_CASE, &ENDLESS_CASE, &SANITIZER_CASE];

macro_rules! contained {
    ($id:literal, $fault:literal, $run:expr) => {
        Case {
            id: $id,
            revision: 1,
            figures_since: 1,
            scope: Scope::EachGpu,
            min_gpus: 1,
            tier: Tier::Quick,
            self_test_only: true,
            procedure: "Starts this executable again with an armed fault on the same GPU, ends it \
                        after ten seconds if it has not ended, and then runs the memory pattern on \
                        that GPU. Counts a fault that was not seen and a GPU that does not serve \
                        afterwards.",
            samples: 0,
            expected_s: 15.0,
            deadline_s: 180.0,
            kernels: &[],
            integrity: &[],
            controls: &[Control {
                name: "unarmed",
                fault: $fault,
                trips: "not_contained_count",
                expect: Expect::Refuted,
            }],
            run: $run,
        }
    };
}

static ILLEGAL_CASE: Case =
    contained!("env::illegal-address", "the fault is not armed, so nothing is seen", |a, r| {
        contained(Fault::IllegalAddress, a, r)
    });
static ENDLESS_CASE: Case =
    contained!("env::endless-kernel", "the fault is not armed, so nothing is seen", |a, r| {
        contained(Fault::Endless, a, r)
    });

static SANITIZER_CASE: Case = Case {
    id: "env::sanitizer",
    revision: 4,
    figures_since: 3,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: true,
    procedure: "Runs env::kernels, which asks every entry of every kernel a small question, under \
                compute-sanitizer's memcheck and counts its errors. It fails unless the checked \
                process asked every entry and had every answer right. The control is a kernel that \
                writes one word behind its buffer.",
    samples: 0,
    expected_s: 8.0,
    deadline_s: 400.0,
    kernels: &[],
    integrity: &[],
    controls: &[Control {
        name: "past-the-end",
        fault: "a kernel writes one word behind its buffer",
        trips: "sanitizer_errors_count",
        expect: Expect::Refuted,
    }],
    run: sanitizer,
};

/// How long an armed fault may take before it is ended.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Argument that makes this executable plant a fault instead of running a case.
pub const PLANT: &str = "--plant";

fn contained(fault: Fault, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let index = assignment.gpus().first().copied().unwrap_or_default();
    let metric = |count: usize| Metric::exact("not_contained_count", &[], &[index], count as f64);
    recorder.progress("armed");
    let ended = plant(fault, true, assignment)?;
    recorder.option("armed_ended", &ended);
    recorder.progress("memory pattern afterwards");
    let mut after = Recorder::default();
    let serves = (env::PATTERN.run)(assignment, &mut after).is_ok()
        && after.metrics.iter().all(|metric| metric.values.iter().all(|value| *value == 0.0));
    recorder.versions = after.versions;
    recorder.kernels = after.kernels;
    let unseen = usize::from(!ended.starts_with("fault seen"));
    recorder.metric(metric(unseen + usize::from(!serves)));
    recorder.progress("unarmed");
    let ended = plant(fault, false, assignment)?;
    recorder.option("unarmed_ended", &ended);
    recorder.control("unarmed", metric(usize::from(!ended.starts_with("fault seen"))));
    Ok(())
}

/// Starts a process with the fault and says how it ended.
fn plant(fault: Fault, armed: bool, assignment: &Assignment) -> Result<String, Stop> {
    let armed = if armed { "armed" } else { "unarmed" };
    ended(&[name_of(fault), armed, &assignment.cache.to_string_lossy()])
}

/// Starts this executable with what it shall plant, ends it once patience is over, and says how it ended:
/// `fault seen`, or `no fault` where it ended well by itself.
pub(crate) fn ended(planted: &[&str]) -> Result<String, Stop> {
    let mut process = Command::new(std::env::current_exe()?)
        .arg(PLANT)
        .args(planted)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(match waited(&mut process, PATIENCE)?.map(|status| status.code()) {
        Some(Some(0)) => "no fault: exit 0".to_owned(),
        Some(Some(code)) => format!("fault seen: exit {code}"),
        Some(None) => "fault seen: ended by a signal".to_owned(),
        None => format!("fault seen: ended after {} s", PATIENCE.as_secs()),
    })
}

/// Starts this executable with what it shall plant, ends it once patience is over, and returns the last line that it
/// printed, however it ended: a process with a fault may end badly behind what it has to say.
///
/// Errors: it printed nothing.
pub(crate) fn last_words(planted: &[&str], patience: Duration) -> Result<String, Stop> {
    let mut process = Command::new(std::env::current_exe()?)
        .arg(PLANT)
        .args(planted)
        .stdout(Stdio::piped())
        .spawn()?;
    let status = waited(&mut process, patience)?;
    let output = process.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().map(str::to_owned);
    last.ok_or_else(|| Stop::Error(format!("{}: said nothing, ended with {status:?}", planted[0])))
}

/// Waits for a process, which is ended once patience is over; `None` where it was.
fn waited(process: &mut Child, patience: Duration) -> Result<Option<ExitStatus>, Stop> {
    let begun = Instant::now();
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > patience {
            process.kill()?;
            process.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::IllegalAddress => "illegal-address",
        Fault::Endless => "endless",
        Fault::PastEnd => "past-end",
    }
}

/// The planted process: `--plant FAULT armed|unarmed CACHE`. Exit 0 where nothing went wrong.
pub fn planted(arguments: &[String]) -> Result<(), Stop> {
    if let [name, rest @ ..] = arguments
        && let Some(planted) = tensor_parallel::planted(name, rest)
            .or_else(|| model::planted(name, rest))
            .or_else(|| collectives::planted(name, rest))
    {
        return planted;
    }
    let [name, armed, cache] = arguments else {
        return Err(Stop::Error(format!("{PLANT} FAULT armed|unarmed CACHE")));
    };
    let all = [Fault::IllegalAddress, Fault::Endless, Fault::PastEnd];
    let fault = all.into_iter().find(|fault| name_of(*fault) == name);
    let fault = fault.ok_or_else(|| Stop::Error(format!("no fault {name}")))?;
    let gpu = kernels::device::Gpu::open(0)?;
    let architecture = kernels::jit::architecture_of(gpu.compute_capability)
        .ok_or_else(|| Stop::Error("no kernel for this GPU".into()))?;
    let cubin = kernels::jit::cached(&fault::SOURCE, architecture, Path::new(cache))?;
    let module = gpu.load(&cubin.bytes)?;
    let buffer = gpu.alloc(256)?;
    buffer.fill_u32(gpu.stream(), 0)?;
    fault::launch(&gpu, &module, fault, &buffer, armed == "armed")?;
    Ok(gpu.synchronize()?)
}

fn sanitizer(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let index = assignment.gpus().first().copied().unwrap_or_default();
    let tool = find_tool().ok_or_else(|| Stop::NotRun("compute-sanitizer not found".into()))?;
    // The kernels are compiled here first, so that the checked process spends its time checking.
    let lab = Lab::open(assignment, recorder)?;
    let names: Vec<&str> = lab.all_modules(&lab.gpus[0], recorder)?.into_keys().collect();
    drop(lab);
    recorder.progress("memcheck over every kernel");
    let child = Assignment { case: "env::kernels".into(), ..assignment.clone() };
    let folder = assignment.result.parent().unwrap_or(Path::new("."));
    let mut child = child;
    // Children of other GPUs write into the same folder.
    child.result = folder.join(format!("sanitizer-result-gpu{index}.json"));
    let file = folder.join(format!("sanitizer-assignment-gpu{index}.json"));
    std::fs::write(&file, serde_json::to_string(&child)?)?;
    let output = check(&tool, &["--child", &file.to_string_lossy()])?;
    if !output.status.success() {
        return Err(Stop::Error(format!("the checked process ended with {}", output.status)));
    }
    let asked = answers(&std::fs::read_to_string(&child.result)?, &names)?;
    recorder.option("entries_checked", asked);
    let metric = |count: f64| Metric::exact("sanitizer_errors_count", &[], &[index], count);
    recorder.metric(metric(errors(&output)?));
    recorder.progress("memcheck over the planted fault");
    let cache = assignment.cache.to_string_lossy();
    let output = check(&tool, &[PLANT, name_of(Fault::PastEnd), "armed", &cache])?;
    recorder.control("past-the-end", metric(errors(&output)?));
    Ok(())
}

/// How many entries the checked process asked, of its result. An error unless it completed, asked
/// every entry of these kernels and had every answer right: no error of a process that launched
/// nothing says nothing.
fn answers(result: &str, names: &[&str]) -> Result<usize, Stop> {
    let ChildResult { outcome, recorder } = serde_json::from_str(result)?;
    if outcome != Ended::Completed {
        return Err(Stop::Error(format!("the checked process did not complete: {outcome:?}")));
    }
    let answers = recorder.metrics.iter().filter(|metric| metric.name == "wrong_count");
    let asked: BTreeMap<&str, &[f64]> = answers
        .filter_map(|metric| Some((metric.at.get("entry")?.as_str(), metric.values.as_slice())))
        .collect();
    for source in kernels::KERNELS.iter().filter(|source| names.contains(&source.name)) {
        for entry in source.entries {
            let name = format!("{}::{entry}", source.name);
            match asked.get(name.as_str()) {
                Some([0.0]) => {}
                Some(_) => return Err(Stop::Error(format!("{name} answered wrongly under check"))),
                None => return Err(Stop::Error(format!("{name} was not asked under check"))),
            }
        }
    }
    Ok(asked.len())
}

fn find_tool() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/local/cuda/bin".into());
    folders.push("/usr/local/cuda/compute-sanitizer".into());
    folders.into_iter().map(|folder| folder.join("compute-sanitizer")).find(|tool| tool.exists())
}

fn check(tool: &Path, arguments: &[&str]) -> Result<Output, Stop> {
    let output = Command::new(tool)
        .args(["--tool", "memcheck", "--print-limit", "10"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .output()?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(output)
}

/// The count of `ERROR SUMMARY: N errors`. Output without that line is no result.
fn errors(output: &Output) -> Result<f64, Stop> {
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().find_map(|line| line.split_once("ERROR SUMMARY: "));
    let count = summary.and_then(|(_, rest)| rest.split_whitespace().next());
    count
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| Stop::Error("compute-sanitizer printed no summary".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn output(text: &str) -> Output {
        let status = std::process::ExitStatus::from_raw(0);
        Output { status, stdout: text.into(), stderr: vec![] }
    }

    /// A result of the checked process, `wrong` for each entry of the fault kernel but the first so
    /// many.
    fn result(outcome: Ended, left_out: usize, wrong: f64) -> String {
        let metrics = fault::SOURCE.entries.iter().skip(left_out).map(|entry| {
            let entry = format!("fault::{entry}");
            Metric::exact("wrong_count", &[("entry", &entry)], &[0], wrong)
        });
        let recorder = Recorder { metrics: metrics.collect(), ..Recorder::default() };
        serde_json::to_string(&ChildResult { outcome, recorder }).expect("serialised")
    }

    #[test]
    fn a_checked_process_that_asked_nothing_is_no_pass() {
        let check = |outcome, left_out, wrong| {
            answers(&result(outcome, left_out, wrong), &["fault"]).map_err(|stop| match stop {
                Stop::Error(text) | Stop::NotRun(text) | Stop::NotApplicable(text) => text,
            })
        };
        assert_eq!(check(Ended::Completed, 0, 0.0), Ok(fault::SOURCE.entries.len()));
        let refused = |found: Result<usize, String>, part: &str| {
            assert!(found.expect_err("refused").contains(part));
        };
        refused(check(Ended::NotRun("no nvrtc".into()), 0, 0.0), "no nvrtc");
        refused(check(Ended::Completed, 1, 0.0), "was not asked");
        refused(check(Ended::Completed, 0, 1.0), "answered wrongly");
    }

    #[test]
    fn a_missing_summary_is_no_pass() {
        let clean = output("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n");
        assert_eq!(errors(&clean).ok(), Some(0.0));
        assert_eq!(errors(&output("========= ERROR SUMMARY: 12 errors")).ok(), Some(12.0));
        assert!(errors(&output("========= Error: no device")).is_err());
    }
}
