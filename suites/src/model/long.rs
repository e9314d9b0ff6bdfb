//! Long sequences on one GPU: they fit, as the formula foretells, and their rows are right.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::model::fault::Fault;
use kernels::model::group::Group;
use kernels::model::probe::Probe;
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::check::{self, LAYERS, STAGES};
use super::forward::{KERNELS, PRECISIONS, room};
use super::memory::{self, Before, SEEN_TWICE, TWENTIETH, Taken, Watched};
use crate::tensor_parallel::bench::{self, Bench};
use crate::tensor_parallel::rates::{INTEGRITY, NOT_RUN, TIME, rounded, unwritten};

/// Largest error of sampled rows beside f64, over the size of what a stage gives.
pub const ERROR: &str = "sampled_error_ratio";
/// Requests beyond a limit that were not refused, or that left the GPU unusable.
pub const ACCEPTED: &str = "accepted_count";
/// Bytes more after a pass than before it.
pub const LEAKED: &str = "leaked_bytes";
/// What the driver has less of from pass to pass: the slope of the line through passes of the shortest sequence.
pub const GROWTH: &str = "growth_bytes";
/// Passes of that line.
const PASSES: usize = 8;
/// The slope of allocated bytes over tokens, beside the formula's: |measured / formula - 1|.
pub const SLOPE: &str = "slope_error_ratio";
/// Largest distance of a length's bytes from the straight line, over its activations.
pub const BENT: &str = "off_the_line_ratio";

/// Which lengths are run, and what is done with which.
struct Plan {
    /// Most tokens of a chunk.
    chunk: u32,
    /// Tokens of the sequences.
    lengths: &'static [u32],
    /// From this length on no pass is run.
    unrun: u32,
    /// From this length on rows are checked.
    checked: u32,
    /// Of this length faults are planted, and limits set.
    tried: u32,
    /// From this length on queries, keys and values outweigh what is inside the MLP of a chunk, of which each has as
    /// many tokens, so that memory is a straight line.
    line: u32,
    /// Limits are set, and what a pass leaves behind is planted and looked for.
    limits: bool,
}

static LONG: Plan = Plan {
    chunk: CHUNK,
    lengths: &[8192, 12288, 16384, 32768, 65536, 131_072],
    unrun: u32::MAX,
    checked: 32768,
    tried: 32768,
    line: 16384,
    limits: true,
};
static FROM_8K: Plan = Plan {
    chunk: 4096,
    lengths: &[8192, 12288, 16384, 32768, 65536, 131_072],
    unrun: 32768,
    checked: 12288,
    tried: 16384,
    line: 8192,
    limits: false,
};

/// Most tokens of a chunk, but of [`FROM_8K`].
const CHUNK: u32 = 8192;
/// Keys before its own that a query still sees under the planted fault.
const SEEN: u32 = 1024;

const FORGOTTEN: Control = Control {
    name: "forgotten-keys",
    fault: "in one layer queries see no key that lies more than 1024 tokens back",
    trips: ERROR,
    expect: Expect::Refuted,
};
const SCORES: Control = Control {
    name: "scores",
    fault: "a sixteenth of one head's scores is held besides",
    trips: SLOPE,
    expect: Expect::Refuted,
};
const SCORES_BEND: Control = Control {
    name: "scores-bend",
    fault: "a sixteenth of one head's scores is held besides",
    trips: BENT,
    expect: Expect::Refuted,
};
static FROM_8K_CONTROLS: [Control; 6] =
    [FORGOTTEN, SCORES, SCORES_BEND, SEEN_TWICE, TWENTIETH, NOT_RUN];

static CONTROLS: [Control; 9] = [
    FORGOTTEN,
    Control {
        name: "room-enough",
        fault: "the limit lies above the formula, so that nothing is refused",
        trips: ACCEPTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "leak",
        fault: "a buffer of 1 MiB is left behind",
        trips: LEAKED,
        expect: Expect::Refuted,
    },
    Control {
        name: "leak-each-pass",
        fault: "every pass leaves a buffer of 2 MiB behind",
        trips: GROWTH,
        expect: Expect::Refuted,
    },
    SCORES,
    SCORES_BEND,
    SEEN_TWICE,
    TWENTIETH,
    NOT_RUN,
];

/// One GPU.
pub static CASE: Case = WHOLE;
const WHOLE: Case = Case {
    id: "model::long",
    revision: 2,
    figures_since: 1,
    scope: Scope::OneGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 on one GPU, one sequence of 8192 to 131072 tokens, in fp16 and in FP8 \
                W8A8, in chunks of 8192 tokens of which each sees the keys of all before it. What is allocated is \
                compared with the closed formula, with what the driver has less of and with what NVML says is used \
                more, and a line is laid through the lengths from 16384 tokens on. From 32768 tokens on, the last row and two drawn ones are read in layers 0, \
                23 and 47 at every stage, and each stage is compared with f64 on what it was really given: 24 \
                columns of each product on weights made anew, and attention of one head over all keys. A time is \
                that of one pass, reading of rows included. A limit that leaves 5 % less than the formula says of activations, and a score matrix \
                (64 heads, 32768 x 32768 halves, 137 GB) must be refused before anything runs, and the next pass must give \
                the bits of the one before. Last, what the driver has less of behind each of eight passes of 8192 tokens \
                gives a slope.",
    samples: 0,
    expected_s: 165.0,
    deadline_s: 500.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: |assignment, recorder| run(&LONG, assignment, recorder),
};

/// One GPU, in shorter chunks.
pub static FROM_8K_CASE: Case = Case {
    id: "model::long-from-8k",
    revision: 1,
    figures_since: 1,
    procedure: "As model::long, in chunks of 4096 tokens, of sequences of 8192, 12288 and 16384 tokens, of the latter two with \
                the last row and two drawn ones at every stage beside f64. Of 32768, 65536 and 131072 tokens everything is allocated \
                and overwritten and no pass is run. A line is laid through all six.",
    expected_s: 20.0,
    deadline_s: 240.0,
    controls: &FROM_8K_CONTROLS,
    run: |assignment, recorder| run(&FROM_8K, assignment, recorder),
    ..WHOLE
};

/// One sequence, in chunks of at most [`CHUNK`] tokens.
pub fn problem(tokens: u32) -> Problem {
    in_chunks(tokens, CHUNK)
}

fn in_chunks(tokens: u32, most: u32) -> Problem {
    Problem { batches: 1, tokens, chunks: tokens.div_ceil(most) }
}

fn run(plan: &'static Plan, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    {
        let (gpu, index) = bench.lab.only()?;
        for (precision, name) in &PRECISIONS[..2] {
            let config =
                Config { seed: assignment.seed, precision: *precision, ..Config::SEED_002 };
            let setting = Setting { plan, bench: &bench, gpu, on: [index], config, name };
            setting.measured(recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

struct Setting<'a> {
    plan: &'static Plan,
    bench: &'a Bench,
    gpu: &'a Gpu,
    on: [u32; 1],
    config: Config,
    /// Of the precision.
    name: &'a str,
}

impl<'a> Setting<'a> {
    fn exact(&self, name: &str, tokens: u32, value: f64) -> Metric {
        let tokens = tokens.to_string();
        let at = [("precision", self.name), ("tokens", tokens.as_str())];
        Metric::exact(name, &at, &self.on, value)
    }

    fn problem(&self, tokens: u32) -> Problem {
        in_chunks(tokens, self.plan.chunk)
    }

    fn longest(&self) -> u32 {
        self.plan.lengths.last().copied().unwrap_or(0)
    }

    fn measured(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let most = self.problem(self.longest());
        room(self.gpu, memory::formula(&self.config, &most))?;
        let before = (Before::now(self.gpu)?, Watched::now(self.gpu)?);
        let mut group = Group::new(&self.bench.first(1), self.config, Split::Outputs)?;
        let mut points = Vec::new();
        for &tokens in self.plan.lengths {
            recorder.progress(&format!("{} {tokens} tokens", self.name));
            points.push((tokens, self.length(&mut group, &before, tokens, recorder)?));
            if tokens == self.plan.tried {
                self.tried(&mut group, recorder)?;
            }
        }
        self.line(&points, recorder);
        Ok(())
    }

    /// One length; returns the bytes that were allocated.
    fn length(
        &self,
        group: &mut Group<'a>,
        (before, watched): &(Before, Watched),
        tokens: u32,
        recorder: &mut Recorder,
    ) -> Result<u64, Stop> {
        let problem = self.problem(tokens);
        // The old problem's activations count no more.
        group.set(problem, 1)?;
        self.gpu.ledger().reset_peak();
        group.set_tokens(&bench::tokens(&self.config, &problem, self.config.seed))?;
        group.poison()?;
        let at_rest = before.taken(self.gpu)?;
        if tokens >= self.plan.unrun {
            self.memory((at_rest, watched), &problem, recorder)?;
            return Ok(at_rest.peak);
        }
        recorder.control(NOT_RUN.name, self.exact(INTEGRITY, tokens, unwritten(group)? as f64));
        let looked = tokens >= self.plan.checked;
        if looked {
            let (seed, heads) = (self.config.seed ^ 0x10C, self.config.heads());
            let (rows, head) = check::drawn(seed, tokens.into(), (tokens, tokens - 1), heads);
            group.probe(Some(Probe::new(LAYERS.to_vec(), rows, head)))?;
        }
        let live = self.gpu.ledger().live();
        let times = group.time(0, 1)?;
        let leaked = self.gpu.ledger().live().saturating_sub(live);
        // Behind the pass, with what the looks at its rows took at most, 1 MiB.
        let taken = before.taken(self.gpu)?;
        recorder.metric(self.exact(LEAKED, tokens, leaked as f64));
        recorder.metric(self.exact(TIME, tokens, rounded(&times)[0]));
        recorder.metric(self.exact(INTEGRITY, tokens, unwritten(group)? as f64));
        self.memory((taken, watched), &problem, recorder)?;
        if tokens == self.plan.tried {
            let text = tokens.to_string();
            let at = [("precision", self.name), ("tokens", text.as_str())];
            let of = (&self.config, &problem);
            memory::a_twentieth_beside((self.gpu, before), of, &at, &self.on, recorder)?;
            let model = (self.gpu, &self.config);
            let formula = memory::formula(&self.config, &problem);
            let twice = watched.layer_twice(model, formula, &at, &self.on)?;
            recorder.control(SEEN_TWICE.name, twice);
        }
        if looked {
            let worst = self.looked(group, tokens, Some(recorder))?;
            recorder.metric(self.exact(ERROR, tokens, worst));
        }
        Ok(taken.peak)
    }

    /// What was taken of memory beside the formula.
    fn memory(
        &self,
        (taken, watched): (Taken, &Watched),
        problem: &Problem,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let text = problem.tokens.to_string();
        let at = [("precision", self.name), ("tokens", text.as_str())];
        let formula = memory::formula(&self.config, problem);
        for metric in memory::metrics(taken, formula, &at, &self.on) {
            recorder.metric(metric);
        }
        recorder.metric(watched.metric(formula, &at, &self.on)?);
        recorder.metric(memory::activations(taken, (&self.config, problem), &at, &self.on));
        let headroom = self.gpu.mem_info()?.0 as f64 / f64::from(1u32 << 30);
        recorder.option(&format!("free beside {} at {text} tokens, GiB", self.name), headroom);
        Ok(())
    }

    /// The largest error of what the probe saw; stage by stage into the options.
    fn looked(
        &self,
        group: &mut Group<'_>,
        tokens: u32,
        recorder: Option<&mut Recorder>,
    ) -> Result<f64, Stop> {
        let mut stages = [0.0; STAGES.len()];
        for seen in &check::taken(group)? {
            let errors = check::errors(&self.config, seen);
            for (most, error) in stages.iter_mut().zip(errors) {
                *most = f64::max(*most, error);
            }
        }
        if let Some(recorder) = recorder {
            let text = STAGES.iter().zip(stages).map(|(name, most)| format!("{name} {most:.2e}"));
            let text = text.collect::<Vec<_>>().join(", ");
            recorder.option(&format!("errors {} {tokens}", self.name), text);
        }
        Ok(stages.into_iter().fold(0.0, f64::max))
    }

    /// What must be refused and what must not, and faults.
    fn tried(&self, group: &mut Group<'a>, recorder: &mut Recorder) -> Result<(), Stop> {
        if self.plan.limits {
            self.limits(group, recorder)?;
        }
        let (length, ledger) = (self.plan.tried, self.gpu.ledger());
        let live = ledger.live();
        group.plant(Some(Fault::Forgotten { layer: LAYERS[1], left: SEEN }));
        group.probe(Some(Probe::new(LAYERS.to_vec(), vec![length - 1], 5)))?;
        group.pass()?;
        group.plant(None);
        let worst = self.looked(group, length, None)?;
        recorder.control(FORGOTTEN.name, self.exact(ERROR, length, worst));
        if !self.plan.limits {
            return Ok(());
        }
        let left_behind = self.gpu.alloc(1 << 20)?;
        let leaked = ledger.live().saturating_sub(live);
        recorder.control("leak", self.exact(LEAKED, length, leaked as f64));
        drop(left_behind);
        group.probe(None)?;
        let shortest = self.plan.lengths[0];
        let problem = self.problem(shortest);
        group.set(problem, 1)?;
        group.set_tokens(&bench::tokens(&self.config, &problem, self.config.seed))?;
        group.pass()?;
        recorder.metric(self.exact(GROWTH, shortest, self.growth(group, false)?));
        recorder.control("leak-each-pass", self.exact(GROWTH, shortest, self.growth(group, true)?));
        Ok(())
    }

    /// What must be refused, and what must not.
    fn limits(&self, group: &mut Group<'a>, recorder: &mut Recorder) -> Result<(), Stop> {
        let length = self.plan.tried;
        let problem = self.problem(length);
        let tokens = bench::tokens(&self.config, &problem, self.config.seed);
        let wanted = group.fingerprint()?;
        let ledger = self.gpu.ledger();
        let needs = self.config.activation_bytes(&problem, 1);
        // Weights stay; old activations go before new ones come.
        let weights = ledger.live().saturating_sub(needs);
        let mut refused = |share: f64| -> Result<f64, Stop> {
            ledger.limit(Some(weights + (needs as f64 * share) as u64));
            let outcome = group.set(problem, 1);
            let scores = self.scores();
            ledger.limit(None);
            let set = memory::accepted(outcome)?;
            // The next pass, with room enough, gives the same bits.
            group.set(problem, 1)?;
            group.set_tokens(&tokens)?;
            group.pass()?;
            let apart = f64::from(u8::from(group.fingerprint()? != wanted));
            // A refusal for another reason than the limit is none.
            let refused = matches!(scores, Err(kernels::Error::OverLimit { .. }));
            Ok(set + apart + f64::from(u8::from(!refused)))
        };
        recorder.metric(self.exact(ACCEPTED, length, refused(0.95)?));
        recorder.control("room-enough", self.exact(ACCEPTED, length, refused(1.05)?));
        Ok(())
    }

    /// Bytes a pass that the driver has less of, over [`PASSES`] passes; with `leaks` each leaves a buffer behind.
    fn growth(&self, group: &mut Group<'a>, leaks: bool) -> Result<f64, Stop> {
        let (mut left_behind, mut points) = (Vec::new(), Vec::new());
        let free = self.gpu.mem_info()?.0 as f64;
        for pass in 0..PASSES {
            group.pass()?;
            group.wait()?;
            if leaks {
                left_behind.push(self.gpu.alloc(2 << 20)?);
            }
            // One more than nothing, since a line's height divides.
            points.push((pass as f64, free + 1.0 - self.gpu.mem_info()?.0 as f64));
        }
        Ok(fitted(&points).0.abs())
    }

    /// Scores of every head as plain attention would keep them.
    fn scores(&self) -> Result<Buffer, kernels::Error> {
        let tokens = u64::from(self.plan.tried);
        self.gpu.alloc(2 * u64::from(self.config.heads()) * tokens * tokens)
    }

    /// The line through the lengths from [`Plan::line`] on.
    fn line(&self, points: &[(u32, u64)], recorder: &mut Recorder) {
        let at = [("precision", self.name)];
        let weights = self.config.weight_bytes(1) as f64;
        let formula = |tokens: u32| self.config.activation_bytes(&self.problem(tokens), 1) as f64;
        let (first, last) = (self.plan.line, self.longest());
        let wanted = (formula(last) - formula(first)) / f64::from(last - first);
        let of = |beside: &dyn Fn(u32) -> f64| {
            let points: Vec<(f64, f64)> = points
                .iter()
                .filter(|(tokens, _)| *tokens >= first)
                .map(|(tokens, bytes)| {
                    (f64::from(*tokens), *bytes as f64 - weights + beside(*tokens))
                })
                .collect();
            fitted(&points)
        };
        let (slope, bent) = of(&|_| 0.0);
        recorder.option(&format!("bytes a token, {}", self.name), slope.round());
        let metric = |name: &str, value: f64| Metric::exact(name, &at, &self.on, value);
        recorder.metric(metric(SLOPE, (slope / wanted - 1.0).abs()));
        recorder.metric(metric(BENT, bent));
        let scores = |tokens: u32| 2.0 * f64::from(tokens).powi(2) / 16.0;
        let (slope, bent) = of(&scores);
        recorder.control(SCORES.name, metric(SLOPE, (slope / wanted - 1.0).abs()));
        recorder.control(SCORES_BEND.name, metric(BENT, bent));
    }
}

/// Slope of the line of least squares, and the largest distance from it over the point's own height.
fn fitted(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let products: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let squares: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = products / squares;
    let off = |point: &(f64, f64)| ((point.1 - y - slope * (point.0 - x)) / point.1).abs();
    (slope, points.iter().map(off).fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_by_hand() {
        let (slope, bent) = fitted(&[(1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]);
        approx::assert_abs_diff_eq!(slope, 2.0, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(bent, 0.0, epsilon = 1e-12);
        assert!(fitted(&[(1.0, 1.0), (2.0, 4.0), (4.0, 16.0)]).1 > 0.1);
    }

    #[test]
    fn every_length_is_whole_chunks() {
        for plan in [&LONG, &FROM_8K] {
            for &tokens in plan.lengths {
                let problem = in_chunks(tokens, plan.chunk);
                assert!(problem.check().is_ok(), "{tokens}");
                let even = problem.chunk_rows() == plan.chunk;
                assert!(even || tokens < plan.line, "{tokens}");
            }
        }
    }
}
