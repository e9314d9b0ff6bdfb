//! Processes of their own: the same model once more, and a rank that never comes.

use std::path::Path;
use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::Config;
use kernels::model::fault::Fault;
use kernels::model::group::Watch;
use kernels::model::weights::Split;

use super::bench::{self, Bench};
use super::setting;
use crate::selftest::{self, PATIENCE};

/// The name under which another process prints its hashes.
pub const HASHES: &str = "model-hashes";
/// The name under which a process has a dead rank.
const DEAD: &str = "model-dead-rank";

/// Dead ranks that were not seen, and GPUs that do not serve afterwards.
pub const METRIC: &str = "not_contained_count";

/// Layers of the model with a dead rank: its process has to get there before patience is over.
const LAYERS: u32 = 2;

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::dead-rank",
    revision: 2,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Quick,
    self_test_only: true,
    procedure: "Starts this executable again with a model over all GPUs of which one rank never begins its \
                products, ends it after ten seconds, and then starts it with a healthy model over the same \
                GPUs. Counts a dead rank's process that ended before, and a healthy pass that failed.",
    samples: 0,
    expected_s: 30.0,
    deadline_s: 180.0,
    kernels: bench::KERNELS,
    integrity: &[],
    controls: &[Control {
        name: "unarmed",
        fault: "every rank comes, so nothing is seen",
        trips: METRIC,
        expect: Expect::Refuted,
    }],
    run,
};

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    // Compiles what the other processes need, and writes down which kernels that is.
    let bench = Bench::open(assignment, recorder)?;
    let most = bench.degrees().last().copied().unwrap_or(2);
    let on = bench.indices(most).to_vec();
    bench.lab.close(recorder);
    let (degree, seed) = (most.to_string(), assignment.seed.to_string());
    let cache = assignment.cache.to_string_lossy();
    let start = |armed| selftest::ended(&[DEAD, armed, &seed, &degree, &cache]);
    let metric = |count: usize| Metric::exact(METRIC, &[], &on, count as f64);
    recorder.progress("a dead rank");
    let dead = start("armed")?;
    recorder.option("armed_ended", &dead);
    recorder.option("patience_s", PATIENCE.as_secs());
    recorder.progress("a healthy model afterwards");
    let after = start("unarmed")?;
    recorder.option("unarmed_ended", &after);
    // An end of another kind is none at the deadline.
    let contained = |dead: &str, after: &str| {
        let at_the_deadline = dead.starts_with("fault seen: ended after");
        let healthy = after.starts_with("no fault");
        metric(usize::from(!at_the_deadline) + usize::from(!healthy))
    };
    recorder.metric(contained(&dead, &after));
    recorder.control("unarmed", contained(&after, &after));
    Ok(())
}

/// What another process does under one of these names; `None` for any other name.
pub fn planted(name: &str, arguments: &[String]) -> Option<Result<(), Stop>> {
    match name {
        HASHES => Some(hashes(arguments)),
        DEAD => Some(dead(arguments)),
        _ => None,
    }
}

fn number(text: &str) -> Result<u64, Stop> {
    text.parse().map_err(|_| Stop::Error(format!("{text} is no number")))
}

/// `model-hashes PRECISION SEED DEGREE TOKEN-SEED CACHE` prints the hashes of one pass.
fn hashes(arguments: &[String]) -> Result<(), Stop> {
    let [precision, seed, degree, token_seed, cache] = arguments else {
        return Err(Stop::Error(format!("{HASHES} PRECISION SEED DEGREE TOKEN-SEED CACHE")));
    };
    let unknown = || Stop::Error(format!("{precision} is no precision of {HASHES}"));
    let precision = setting::named(precision).ok_or_else(unknown)?;
    let config = Config { seed: number(seed)?, precision, ..Config::SEED_002 };
    let found = pass(config, number(token_seed)?, number(degree)? as u32, Path::new(cache), None)?;
    println!("{}", found.join(" "));
    Ok(())
}

/// `model-dead-rank armed|unarmed SEED DEGREE CACHE`.
fn dead(arguments: &[String]) -> Result<(), Stop> {
    let [armed, seed, degree, cache] = arguments else {
        return Err(Stop::Error(format!("{DEAD} armed|unarmed SEED DEGREE CACHE")));
    };
    let (seed, degree) = (number(seed)?, number(degree)? as u32);
    let config = Config { layers: LAYERS, seed, ..Config::SEED_002 };
    let never = Fault::Delayed { rank: degree - 1, layer: 1, time: Duration::from_secs(3600) };
    pass(config, seed, degree, Path::new(cache), (armed == "armed").then_some(never))?;
    Ok(())
}

/// One pass over the first GPUs; returns its hashes.
fn pass(
    config: Config,
    token_seed: u64,
    degree: u32,
    cache: &Path,
    fault: Option<Fault>,
) -> Result<Vec<String>, Stop> {
    let (gpus, tools) = bench::opened(degree as usize, cache, &config, &|_| Ok(None))?;
    let problem = setting::problem(2);
    let tokens = bench::tokens(&config, &problem, token_seed);
    let all: Vec<_> = gpus.iter().zip(&tools).collect();
    let mut group = bench::group(&all, config, Split::Outputs, problem, &tokens)?;
    group.poison()?;
    group.plant(fault);
    group.forward(Watch::Hash)?;
    Ok(setting::hashes(&group.differences()?))
}
