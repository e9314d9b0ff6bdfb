//! The smart way of execution: algorithms are searched and a pass recorded where that is ready within a budget; else a
//! pass stays as it was. What it says of that is held against what a pass hands to the GPU.

use std::path::{Path, PathBuf};
use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::flight;
use kernels::model::group::Group;
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Problem};

use super::forward::{BITS, KERNELS, apart, room};
use super::memory;
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, unwritten};

/// What a pass runs as, once it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// A graph with searched algorithms.
    Searched,
    /// Call by call with searched algorithms: over several GPUs nothing is recorded.
    SearchedCalls,
    /// Call by call with the heuristic's algorithms, since the budget was spent before the search.
    Spent,
    /// The same, since the search took longer.
    Late,
}

impl Ran {
    /// What is said of it.
    pub fn words(self) -> &'static str {
        match self {
            Ran::Searched => "smart: a graph, algorithms searched",
            Ran::SearchedCalls => "smart: call by call, algorithms searched",
            Ran::Spent => "smart: call by call, the budget is spent",
            Ran::Late => {
                "smart: call by call, the heuristic's algorithms, since the search took longer than the budget"
            }
        }
    }
}

/// Makes a pass of one GPU ready, whose problem is set with the heuristic's algorithms and has run once. `late` says
/// whether the budget is spent; it is asked before the search and behind it.
pub fn ready(group: &mut Group<'_>, late: impl Fn() -> bool) -> Result<Ran, Stop> {
    if late() {
        return Ok(Ran::Spent);
    }
    let mut way = group.way(bench::CANDIDATES)?;
    if late() {
        return Ok(Ran::Late);
    }
    group.exchange(&mut way)?;
    group.record()?;
    Ok(Ran::Searched)
}

/// The same over several GPUs, where a problem is set anew to be searched and a pass stays call by call.
pub fn ready_over_several(
    group: &mut Group<'_>,
    (problem, tokens): (Problem, &[u32]),
    late: impl Fn() -> bool,
) -> Result<Ran, Stop> {
    if late() {
        return Ok(Ran::Spent);
    }
    group.set(problem, bench::CANDIDATES)?;
    let late = late();
    if late {
        group.set(problem, 1)?;
    }
    group.set_tokens(tokens)?;
    Ok(if late { Ran::Late } else { Ran::SearchedCalls })
}

/// Budgets at which what was said is not what ran, or not what the budget allows.
pub const OTHERWISE: &str = "said_otherwise_count";

const CONFIG: Config = Config { layers: 4, ..Config::SEED_002 };
/// All layers of the model.
const WHOLE: Config = Config::SEED_002;
const PROBLEM: Problem = Problem { batches: 1, tokens: 2048, chunks: 1 };
/// Seconds that no search takes.
const LARGE_S: f64 = 600.0;
/// The part of a search's time that is a budget which it cannot keep.
const SHORT: f64 = 0.1;
/// Weights of which the lowest bit is flipped, in rows of their own.
const FLIPPED: u64 = 256;

static CONTROLS: [Control; 3] = [
    Control {
        name: "plain-behind-its-back",
        fault: "what was said to be a graph is taken away, so that passes run call by call",
        trips: OTHERWISE,
        expect: Expect::Refuted,
    },
    Control {
        name: "flipped-bits",
        fault: "the lowest bits of 256 weights are flipped between two passes",
        trips: BITS,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// One GPU.
pub static CASE: Case = Case {
    id: "model::smart",
    revision: 1,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "Four layers of the model of seed 002 in fp16, one sequence of 2048 tokens, made ready as `measure model \
                --exec-mode smart` does it, with a budget of 600 s, of none, and of a tenth of the time that the first \
                took. What is said to run is held against what a pass hands to the GPU, by the record that every launch \
                notes itself in, and against whether each product's algorithm has a time from a search: one graph and \
                searched ones, or no graph, eight calls a layer or more and the heuristic's. The residual stream and logits that \
                it leaves are compared by their hashes with those of the same way by itself: a graph with algorithms by \
                a search of its own, and the pass call by call.",
    samples: 0,
    expected_s: 10.0,
    deadline_s: 240.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

/// One GPU, all layers.
pub static WHOLE_CASE: Case = Case {
    id: "model::smart-48",
    procedure: "The 48-layer model of seed 002 in fp16, one sequence of 2048 tokens, made ready as `measure model --exec-mode \
                smart` does it, with a budget of 600 s, and of a tenth of the time that it took then. What is said to run is \
                held against what a pass hands to the GPU, by the count of launches in the record in which every launch \
                notes itself, and against whether each product's algorithm has a time from a search: one graph \
                and searched ones, or no graph, eight calls a layer or more and the heuristic's. The residual stream and \
                logits that it leaves are compared by their hashes with those of the pass call by call with the \
                heuristic's algorithms.",
    expected_s: 6.0,
    run: whole,
    ..CASE
};

/// What a pass ran as: what it handed to the GPU, and where its algorithms are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    graphs: usize,
    calls: usize,
    /// Notes behind the mark that later ones have pushed out of the record.
    unseen: usize,
    /// Products whose algorithm was timed beside others.
    searched: usize,
    products: usize,
}

impl Seen {
    /// Whether this is what was said to run.
    fn is(self, ran: Ran, layers: usize) -> bool {
        let Seen { graphs, calls, unseen, searched, products } = self;
        match ran {
            Ran::Searched => {
                (graphs, calls, unseen) == (1, 0, 0) && products > 0 && searched == products
            }
            Ran::SearchedCalls => graphs == 0 && products > 0 && searched == products,
            Ran::Spent | Ran::Late => graphs == 0 && calls + unseen >= 8 * layers && searched == 0,
        }
    }
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    on_one(CONFIG, assignment, recorder, |setting, recorder| setting.measured(recorder))
}

fn whole(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    on_one(WHOLE, assignment, recorder, |setting, recorder| setting.whole(recorder))
}

/// Opens the GPU, keeps a flight record, and measures.
fn on_one(
    config: Config,
    assignment: &Assignment,
    recorder: &mut Recorder,
    measured: fn(&Setting<'_>, &mut Recorder) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let work = assignment.result.parent().unwrap_or(Path::new("."));
    let folder = work.join(assignment.case.replace("::", "-"));
    std::fs::create_dir_all(&folder)?;
    let flight = folder.join("flight");
    flight::keep(&flight)?;
    {
        let (gpu, index) = bench.lab.only()?;
        let config = Config { seed: assignment.seed, ..config };
        room(gpu, memory::formula(&config, &PROBLEM))?;
        let setting = Setting { bench: &bench, on: [index], config, flight };
        measured(&setting, recorder)?;
    }
    bench.lab.close(recorder);
    Ok(())
}

struct Setting<'a> {
    bench: &'a Bench,
    on: [u32; 1],
    config: Config,
    /// The record of what is handed to the GPU.
    flight: PathBuf,
}

impl Setting<'_> {
    fn exact(&self, name: &str, budget: &str, value: f64) -> Metric {
        Metric::exact(name, &[("budget", budget)], &self.on, value)
    }

    fn measured(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let mut group = Group::new(&self.bench.first(1), self.config, Split::Outputs)?;
        let tokens = bench::tokens(&self.config, &PROBLEM, self.config.seed);
        recorder.progress("by itself");
        let plain = self.by_itself(&mut group, &tokens, recorder)?;
        let mut way = group.way(bench::CANDIDATES)?;
        group.exchange(&mut way)?;
        group.record()?;
        let searched = passed(&mut group)?;
        drop(way);
        let took = self.smart(&mut group, &tokens, ("large", LARGE_S), &searched, recorder)?;
        self.planted(&mut group, &searched, recorder)?;
        self.smart(&mut group, &tokens, ("none", 0.0), &plain, recorder)?;
        self.smart(&mut group, &tokens, ("short", SHORT * took), &plain, recorder)?;
        Ok(())
    }

    /// All layers: a budget that suffices, faults behind it, and one that does not.
    fn whole(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let mut group = Group::new(&self.bench.first(1), self.config, Split::Outputs)?;
        let tokens = bench::tokens(&self.config, &PROBLEM, self.config.seed);
        recorder.progress("call by call");
        let plain = self.by_itself(&mut group, &tokens, recorder)?;
        let took = self.smart(&mut group, &tokens, ("large", LARGE_S), &plain, recorder)?;
        self.planted(&mut group, &plain, recorder)?;
        self.smart(&mut group, &tokens, ("short", SHORT * took), &plain, recorder)?;
        Ok(())
    }

    /// Hashes of a pass call by call with the heuristic's algorithms.
    fn by_itself(
        &self,
        group: &mut Group<'_>,
        tokens: &[u32],
        recorder: &mut Recorder,
    ) -> Result<Vec<u64>, Stop> {
        self.set(group, tokens)?;
        group.poison()?;
        let nothing = unwritten(group)? as f64;
        recorder.control(NOT_RUN.name, self.exact(INTEGRITY, "by itself", nothing));
        let plain = passed(group)?;
        recorder.metric(self.exact(INTEGRITY, "by itself", unwritten(group)? as f64));
        Ok(plain)
    }

    /// The problem with the heuristic's algorithms, run once.
    fn set(&self, group: &mut Group<'_>, tokens: &[u32]) -> Result<(), Stop> {
        group.set(PROBLEM, 1)?;
        group.set_tokens(tokens)?;
        group.pass()?;
        Ok(group.wait()?)
    }

    /// The smart way with a budget: what it says and what ran, and its bits. Returns the seconds until it was ready.
    fn smart(
        &self,
        group: &mut Group<'_>,
        tokens: &[u32],
        (budget, seconds): (&str, f64),
        wanted: &[u64],
        recorder: &mut Recorder,
    ) -> Result<f64, Stop> {
        recorder.progress(&format!("smart, budget {budget}"));
        self.set(group, tokens)?;
        let begun = Instant::now();
        let ran = ready(group, || begun.elapsed().as_secs_f64() > seconds)?;
        let took = begun.elapsed().as_secs_f64();
        group.wait()?;
        let seen = self.seen(group)?;
        let text = format!("{}; {seen:?}; ready in {took:.3} s of {seconds:.3}", ran.words());
        recorder.option(&format!("budget {budget}"), text);
        let allowed = match budget {
            "large" => Ran::Searched,
            "none" => Ran::Spent,
            _ => Ran::Late,
        };
        let wrong = ran != allowed || !self.is(seen, ran);
        recorder.metric(self.exact(OTHERWISE, budget, f64::from(u8::from(wrong))));
        let found = passed(group)?;
        recorder.metric(self.exact(BITS, budget, apart(&found, wanted)));
        recorder.metric(self.exact(INTEGRITY, budget, unwritten(group)? as f64));
        Ok(took)
    }

    fn is(&self, seen: Seen, ran: Ran) -> bool {
        seen.is(ran, self.config.layers as usize)
    }

    /// What a pass hands to the GPU, and whether its algorithms were searched.
    fn seen(&self, group: &mut Group<'_>) -> Result<Seen, Stop> {
        flight::mark("a pass");
        group.pass()?;
        group.wait()?;
        let notes = flight::read(&self.flight)?;
        let mark = notes.iter().rposition(|(_, what)| what.starts_with(flight::MARK));
        let none = || Stop::Error("the flight record lost its mark".into());
        let mark = mark.ok_or_else(none)?;
        let behind = &notes[mark + 1..];
        let graphs = behind.iter().filter(|(_, what)| what == "graph").count();
        let handed = behind.last().map_or(0, |(last, _)| last - notes[mark].0) as usize;
        // Of notes that the record has no room for any more it is not known what they were.
        let unseen = handed - behind.len();
        let choices = group.choices()?;
        Ok(Seen {
            graphs,
            calls: behind.len() - graphs,
            unseen,
            searched: choices.iter().filter(|(_, choice)| choice.chosen_ms.is_some()).count(),
            products: choices.len(),
        })
    }

    /// Faults behind what the large budget made ready.
    fn planted(
        &self,
        group: &mut Group<'_>,
        wanted: &[u64],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let flip = |group: &Group<'_>| -> Result<(), Stop> {
            for at in 0..FLIPPED {
                group.flip(0, Place::Linear(Linear::Up, 1), at * element_step(&self.config))?;
            }
            Ok(())
        };
        flip(group)?;
        let found = passed(group)?;
        recorder.control("flipped-bits", self.exact(BITS, "large", apart(&found, wanted)));
        flip(group)?;
        // The algorithms stay searched; the graph is gone.
        let mut graph = group.as_it_is();
        group.exchange(&mut graph)?;
        let wrong = !self.is(self.seen(group)?, Ran::Searched);
        let wrong = f64::from(u8::from(wrong));
        recorder.control("plain-behind-its-back", self.exact(OTHERWISE, "large", wrong));
        Ok(())
    }
}

/// From a weight inside the MLP to one of the next row, one column on.
fn element_step(config: &Config) -> u64 {
    u64::from(config.d_model) + 1
}

/// Hashes of what a pass leaves.
fn passed(group: &mut Group<'_>) -> Result<Vec<u64>, Stop> {
    group.poison()?;
    group.pass()?;
    Ok(group.fingerprint()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check((graphs, calls, searched): (usize, usize, usize), ran: Ran, expect: bool) {
        let seen = Seen { graphs, calls, unseen: 0, searched, products: 5 };
        assert_eq!(seen.is(ran, 4), expect, "{seen:?} as {ran:?}");
    }

    #[test]
    fn calls_that_the_record_has_no_room_for_are_calls() {
        let seen = Seen { graphs: 0, calls: 256, unseen: 180, searched: 0, products: 5 };
        assert!(seen.is(Ran::Late, 48) && !seen.is(Ran::Searched, 48));
        assert!(!Seen { unseen: 120, ..seen }.is(Ran::Late, 48));
        assert!(
            !Seen { graphs: 1, calls: 0, unseen: 1, searched: 5, ..seen }.is(Ran::Searched, 48)
        );
    }

    #[test]
    fn what_ran_is_told_by_what_was_handed_over() {
        check((1, 0, 5), Ran::Searched, true);
        check((0, 35, 5), Ran::Searched, false);
        check((1, 0, 0), Ran::Searched, false);
        check((1, 35, 5), Ran::Searched, false);
        check((0, 35, 5), Ran::SearchedCalls, true);
        check((1, 0, 5), Ran::SearchedCalls, false);
        check((0, 35, 0), Ran::SearchedCalls, false);
        check((0, 35, 0), Ran::Spent, true);
        check((0, 35, 0), Ran::Late, true);
        check((0, 35, 5), Ran::Late, false);
        check((1, 0, 0), Ran::Spent, false);
        check((0, 0, 0), Ran::Spent, false);
    }

    #[test]
    fn a_pass_fits_into_the_record_and_flips_into_a_weight() {
        assert!(u64::from(CONFIG.layers) * 16 < flight::NOTES);
        let all = u64::from(CONFIG.d_ff) * u64::from(CONFIG.d_model);
        assert!(FLIPPED * element_step(&CONFIG) < all);
    }
}
