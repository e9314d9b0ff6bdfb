//! Sequences of 262144 tokens and more over all GPUs: they fit, as the formula foretells, every rank has the same
//! bytes, and sampled rows are right.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::generator::draw;
use kernels::model::group::{Fault, Group, Watch};
use kernels::model::probe::Probe;
use kernels::model::weights::Split;
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::drift::AGREEMENT;
use super::rates::{INTEGRITY, NOT_RUN, TIME, rounded, unwritten};
use super::shares::{LAYER_TWICE, SIX_LAYERS_TWICE, Shares};
use crate::model::check::{self, LAYERS};
use crate::model::long::ERROR;
use crate::model::memory;
use crate::model::{KERNELS, PRECISIONS, room};

/// Tokens of a chunk, all of whose rows inside the MLP are one product's.
const CHUNK: u32 = 32768;
/// Tokens of the sequence at which faults are planted: one chunk.
const PLANTED: u32 = CHUNK;
/// Keys before its own that a query still sees under the planted fault, of [`PLANTED`].
const SEEN: u32 = 1024;
/// The layer behind which a bit is flipped: none of what follows can heal it.
const LAYER: u32 = 20;

const FORGOTTEN: Control = control(
    "forgotten-keys",
    "in one layer queries see no key that lies more than 1024 tokens back",
    ERROR,
    Expect::Refuted,
);
const STRAY: Control = control(
    "stray-bit",
    "one bit of one rank's residual stream is flipped behind a layer",
    AGREEMENT,
    Expect::Refuted,
);
static CONTROLS: [Control; 5] = [FORGOTTEN, STRAY, LAYER_TWICE, SIX_LAYERS_TWICE, NOT_RUN];

/// All GPUs, 262144 tokens in FP8.
pub static CASE: Case = Case {
    id: "tensor-parallel::longer",
    revision: 1,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 over 2, 4 or 8 GPUs, the most that there are, columns shared, one sequence \
                of 262144 tokens in FP8 W8A8 in chunks of 32768, of which each sees the keys of all before it, behind \
                activations of NaN. Every rank's residual stream is hashed behind every layer and compared with the first \
                one's. The last row and two drawn ones are read in layers 0, 23 and 47 at every stage, each rank's columns \
                side by side, and each stage is compared with f64 on what it was really given: 24 columns of each product \
                on weights made anew, and attention of one drawn head over all keys. What each rank allocates and what its \
                driver has less of is compared with the closed formula. Before it the same is done with 32768 tokens, and \
                there faults are planted. Each pass is made once; its time is that of the slowest rank, reading and \
                hashing included.",
    samples: 0,
    expected_s: 75.0,
    deadline_s: 600.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: |assignment, recorder| run(assignment, recorder, &[(1, 262_144)]),
};

/// All GPUs, what takes minutes on two.
pub static LONGEST: Case = Case {
    id: "tensor-parallel::longest",
    tier: Tier::Soak,
    procedure: "As tensor-parallel::longer: 262144 tokens in fp16, behind 32768 with their faults, 524288 in FP8 W8A8, and \
                on 4 or 8 GPUs 1048576 in FP8 W8A8, for which two have no room.",
    expected_s: 600.0,
    deadline_s: 1800.0,
    run: |assignment, recorder| {
        let on_many = assignment.devices.len() >= 4;
        let all = [(0, 262_144), (1, 524_288), (1, 1_048_576)];
        run(assignment, recorder, &all[..if on_many { 3 } else { 2 }])
    },
    ..CASE
};

/// One sequence, in chunks of [`CHUNK`] tokens.
fn problem(tokens: u32) -> Problem {
    Problem { batches: 1, tokens, chunks: tokens / CHUNK }
}

/// Sequences by their precision, as [`PRECISIONS`] has it, and tokens.
fn run(
    assignment: &Assignment,
    recorder: &mut Recorder,
    sequences: &[(usize, u32)],
) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    let most = bench.degrees().last().copied();
    let degree = most.ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    let planted = sequences.first().map(|(precision, _)| *precision);
    for (at, (precision, name)) in PRECISIONS.iter().enumerate() {
        let of = |(precision, _): &&(usize, u32)| *precision == at;
        // Faults are planted in the first precision.
        let mut lengths = if planted == Some(at) { vec![PLANTED] } else { Vec::new() };
        lengths.extend(sequences.iter().filter(of).map(|(_, tokens)| *tokens));
        if let Some(longest) = lengths.iter().max() {
            let config =
                Config { seed: assignment.seed, precision: *precision, ..Config::SEED_002 };
            let setting = Setting { bench: &bench, degree, config, name };
            setting.room(*longest)?;
            setting.measured(&lengths, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// A model in one precision over so many GPUs.
struct Setting<'a> {
    bench: &'a Bench,
    degree: usize,
    config: Config,
    /// Of the precision.
    name: &'a str,
}

/// What a pass made of the rows that were looked at, and how far its ranks agree.
struct Found {
    error: f64,
    disagreeing: f64,
    ms: f64,
}

impl Setting<'_> {
    fn room(&self, tokens: u32) -> Result<(), Stop> {
        let share = memory::share(&self.config, &problem(tokens), self.degree as u32);
        self.bench.lab.gpus[..self.degree].iter().try_for_each(|gpu| room(gpu, share))
    }

    fn exact(&self, name: &str, tokens: u32, value: f64) -> Metric {
        let (degree, tokens) = (self.degree.to_string(), tokens.to_string());
        let at =
            [("degree", degree.as_str()), ("precision", self.name), ("tokens", tokens.as_str())];
        Metric::exact(name, &at, self.bench.indices(self.degree), value)
    }

    fn measured(&self, lengths: &[u32], recorder: &mut Recorder) -> Result<(), Stop> {
        let shares = Shares::new(self.bench, self.degree, self.config, self.name)?;
        recorder.progress(&format!("{} weights over {} GPUs", self.name, self.degree));
        let mut group = Group::new(&self.bench.first(self.degree), self.config, Split::Outputs)?;
        for tokens in lengths {
            recorder.progress(&format!("{} {tokens} tokens", self.name));
            self.length(&mut group, &shares, *tokens, recorder)?;
            if *tokens == PLANTED {
                recorder.progress("planted faults");
                shares.held_twice(&problem(PLANTED), recorder)?;
                self.planted(&mut group, recorder)?;
            }
        }
        Ok(())
    }

    fn length(
        &self,
        group: &mut Group<'_>,
        shares: &Shares<'_>,
        tokens: u32,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let problem = problem(tokens);
        group.set(problem, 1)?;
        shares.reset_peaks();
        group.set_tokens(&bench::tokens(&self.config, &problem, self.config.seed))?;
        group.poison()?;
        let finite = |group: &Group<'_>| -> Result<Metric, Stop> {
            Ok(self.exact(INTEGRITY, tokens, unwritten(group)? as f64))
        };
        recorder.control(NOT_RUN.name, finite(group)?);
        let drawn = |at: u64, below: u32| {
            let number = draw(self.config.seed ^ 0x10E6, u64::from(tokens) + at);
            ((u64::from(number) * u64::from(below)) >> 32) as u32
        };
        let rows = vec![drawn(1, tokens), drawn(2, tokens), tokens - 1];
        let what = format!("{} {tokens} tokens", self.name);
        recorder.option(&format!("rows {what}"), format!("{rows:?}"));
        let probe = Probe::new(LAYERS.to_vec(), rows, drawn(0, self.config.heads()));
        let found = self.pass(group, probe)?;
        recorder.metric(finite(group)?);
        recorder.metric(self.exact(ERROR, tokens, found.error));
        recorder.metric(self.exact(AGREEMENT, tokens, found.disagreeing));
        recorder.metric(self.exact(TIME, tokens, rounded(&[found.ms])[0]));
        bench::write_choices(recorder, &what, group)?;
        shares.taken(&problem, recorder)
    }

    /// A pass that is looked at and hashed.
    fn pass(&self, group: &mut Group<'_>, probe: Probe) -> Result<Found, Stop> {
        group.probe(Some(probe))?;
        let begun = std::time::Instant::now();
        group.forward(Watch::Hash)?;
        group.wait()?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        let drift = bench::drift(&group.differences()?);
        let disagreeing = drift.disagreeing + drift.count;
        let seen = check::taken(group)?;
        let errors = seen.iter().flat_map(|seen| check::errors(&self.config, seen));
        Ok(Found { error: errors.fold(0.0, f64::max), disagreeing: disagreeing as f64, ms })
    }

    /// Passes with wrong rows, and with ranks that disagree.
    fn planted(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        let last = || Probe::new(LAYERS.to_vec(), vec![PLANTED - 1], 5);
        group.plant(Some(Fault::Forgotten { layer: LAYERS[1], left: SEEN }));
        let forgotten = self.pass(group, last())?;
        recorder.control(FORGOTTEN.name, self.exact(ERROR, PLANTED, forgotten.error));
        group.plant(Some(Fault::Stray { rank: group.degree() - 1, layer: LAYER }));
        let stray = self.pass(group, last())?;
        group.plant(None);
        recorder.control(STRAY.name, self.exact(AGREEMENT, PLANTED, stray.disagreeing));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::MARGIN;
    use super::*;
    use crate::model::playbook::H200;
    use kernels::model::Precision;

    fn share(precision: Precision, tokens: u32, degree: u32) -> u64 {
        memory::share(&Config { precision, ..Config::SEED_002 }, &problem(tokens), degree)
    }

    #[test]
    fn every_length_is_whole_chunks_and_fits() {
        let [(half, _), (eight, _)] = [PRECISIONS[0], PRECISIONS[1]];
        for (precision, tokens, degrees) in [
            (eight, PLANTED, &[2, 4, 8][..]),
            (eight, 262_144, &[2, 4, 8]),
            (half, 262_144, &[2, 4, 8]),
            (eight, 524_288, &[2, 4, 8]),
            (eight, 1_048_576, &[4, 8]),
        ] {
            assert!(problem(tokens).check().is_ok(), "{tokens}");
            for degree in degrees {
                assert!(share(precision, tokens, *degree) < H200, "{tokens} over {degree}");
            }
        }
        assert!(share(eight, 1_048_576, 2) + MARGIN > H200);
    }
}
