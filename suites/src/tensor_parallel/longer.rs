//! Sequences of 131072 tokens and more over all GPUs: they fit, as the formula foretells, every rank has the same
//! bytes, and sampled rows are right; with keys and values in fp16, and kept in E4M3 alone.

use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::model::fault::{CodesFault, Fault};
use kernels::model::group::{Group, Watch};
use kernels::model::probe::{Probe, Seen};
use kernels::model::weights::Split;
use kernels::model::{Config, Precision, Problem};

use super::bench::{self, Bench};
use super::rates::{INTEGRITY, NOT_RUN, TIME, rounded, unwritten};
use super::setting::AGREEMENT;
use super::shares::{LAYER_TWICE, SIX_LAYERS_SEEN, SIX_LAYERS_TWICE, Shares};
use crate::model::check::{self, LAYERS};
use crate::model::eight::{self, TOO_LARGE, scaled};
use crate::model::long::ERROR;
use crate::model::memory;
use crate::model::{KERNELS, PRECISIONS, room};

/// Tokens of a chunk, all of whose rows inside the MLP are one product's.
pub const CHUNK: u32 = 32768;
/// Tokens of the sequence at which faults are planted: two chunks that are half as long.
const PLANTED: u32 = CHUNK;
/// Keys before its own that a query still sees under the planted fault, of [`PLANTED`].
const SEEN: u32 = 1024;
/// The layer behind which a bit is flipped: none of what follows can heal it.
const LAYER: u32 = 20;

/// Numbers of keys and values, of the drawn head, that are not kept as E4M3 rounds them or as an earlier row saw them.
const CODES: &str = "codes_apart_count";
/// Of the precision whose keys and values are kept in E4M3.
const KEPT: &str = "fp8-cache";

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
/// Where keys and values are kept in E4M3, attention has a bound of its own.
const FORGOTTEN_CODES: Control = control(
    "forgotten-codes",
    "in the first layer queries see no key that lies more than 1024 tokens back",
    eight::ERROR,
    Expect::Refuted,
);
const TOO_LARGE_VALUES: Control = control(
    "values-too-large",
    "the drawn head's outputs are those of values whose scale is 1.3 times what it should be",
    eight::ERROR,
    Expect::Refuted,
);
const STALE: Control = control(
    "stale-codes",
    "in one layer the second chunk adds no keys and values to those that are kept",
    CODES,
    Expect::Corrupt,
);
const CLOBBERED: Control = control(
    "clobbered-codes",
    "in one layer the second chunk overwrites the keys and values that are kept of the first with its own",
    CODES,
    Expect::Corrupt,
);
static CONTROLS: [Control; 6] =
    [FORGOTTEN, STRAY, LAYER_TWICE, SIX_LAYERS_TWICE, SIX_LAYERS_SEEN, NOT_RUN];

/// All GPUs, 262144 tokens in FP8.
pub static CASE: Case = PLAIN;
const PLAIN: Case = Case {
    id: "tensor-parallel::longer",
    revision: 2,
    figures_since: 2,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002 over 2, 4 or 8 GPUs, the most that there are, columns shared, one sequence \
                of 262144 tokens in FP8 W8A8 in chunks of 32768, of which each sees the keys of all before it, and of two of \
                which attention's outputs and rows inside the MLP are held at a time, behind activations of NaN. Every rank's residual stream is hashed behind every layer and compared with the first \
                one's. The last row and two drawn ones are read in layers 0, 23 and 47 at every stage, each rank's columns \
                side by side, and each stage is compared with f64 on what it was really given: 24 columns of each product \
                on weights made anew, and attention of one drawn head over all keys. What each rank allocates, what its \
                driver has less of and what NVML says is used more is compared with the closed formula. Before it the same is done with 32768 tokens in \
                two chunks, and there faults are planted. Each pass is made once; its time is that of the slowest rank, reading and \
                hashing included.",
    samples: 0,
    expected_s: 50.0,
    deadline_s: 600.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run: |assignment, recorder| run(assignment, recorder, &[Sequences::plain(1, &[262_144])]),
};

/// All GPUs, 131072 tokens in FP8 with keys and values in E4M3.
pub static CACHE: Case = KEPT_SHORT;
const KEPT_SHORT: Case = Case {
    id: "tensor-parallel::long-fp8-cache",
    revision: 1,
    figures_since: 1,
    procedure: "As tensor-parallel::longer with 131072 tokens in FP8 W8A8, and with keys and values that are kept in E4M3 \
                alone, with a scale of 1: each chunk's become E4M3 behind the product that makes them, its queries with a \
                scale for each head, and attention multiplies those and all that was kept before. Its f64 oracle has the \
                queries in fp16 and the keys and values that are kept: root mean square of a head's 128 errors over that of \
                what is wanted, and of the nine ratios of three rows in three layers the root mean square; the other stages \
                as there. What is kept of each of these rows, one drawn head, is compared code by code with what E4M3 makes of \
                its keys and values in fp16, and what is kept of earlier tokens with what the earlier of these rows saw.",
    expected_s: 32.0,
    kernels: eight::KERNELS,
    integrity: &[INTEGRITY, CODES],
    controls: &[
        FORGOTTEN_CODES,
        TOO_LARGE_VALUES,
        STALE,
        CLOBBERED,
        STRAY,
        LAYER_TWICE,
        SIX_LAYERS_TWICE,
        SIX_LAYERS_SEEN,
        NOT_RUN,
    ],
    run: |assignment, recorder| run(assignment, recorder, &[Sequences::kept(&[131_072])]),
    ..PLAIN
};

/// All GPUs, 262144 tokens in FP8 with keys and values in E4M3.
pub static LONGER_CACHE: Case = Case {
    id: "tensor-parallel::longer-fp8-cache",
    procedure: "As tensor-parallel::long-fp8-cache with 262144 tokens.",
    expected_s: 70.0,
    run: |assignment, recorder| run(assignment, recorder, &[Sequences::kept(&[262_144])]),
    ..KEPT_SHORT
};

/// All GPUs, what takes minutes on two.
pub static LONGEST: Case = Case {
    id: "tensor-parallel::longest",
    revision: 1,
    figures_since: 1,
    tier: Tier::Soak,
    procedure: "As tensor-parallel::longer: 262144 tokens in fp16, behind 32768 with their faults. Then as \
                tensor-parallel::long-fp8-cache, with keys and values that are kept in E4M3: 524288 and 1048576 in FP8 W8A8, \
                behind 32768 with their faults.",
    // Over four GPUs; twice that over two.
    expected_s: 520.0,
    deadline_s: 2400.0,
    kernels: eight::KERNELS,
    integrity: &[INTEGRITY, CODES],
    controls: &[
        FORGOTTEN,
        FORGOTTEN_CODES,
        TOO_LARGE_VALUES,
        STALE,
        CLOBBERED,
        STRAY,
        LAYER_TWICE,
        SIX_LAYERS_TWICE,
        SIX_LAYERS_SEEN,
        NOT_RUN,
    ],
    run: |assignment, recorder| {
        let all = [Sequences::plain(0, &[262_144]), Sequences::kept(&[524_288, 1_048_576])];
        run(assignment, recorder, &all)
    },
    ..PLAIN
};

/// One sequence, in chunks of [`CHUNK`] tokens, or in two where it is shorter than two of those.
pub fn problem(tokens: u32) -> Problem {
    Problem { batches: 1, tokens, chunks: (tokens / CHUNK).max(2) }
}

/// Lengths in one precision, behind [`PLANTED`].
struct Sequences<'a> {
    precision: Precision,
    kept: bool,
    name: &'static str,
    tokens: &'a [u32],
}

impl<'a> Sequences<'a> {
    /// With keys and values in fp16; the precision as [`PRECISIONS`] has it.
    fn plain(precision: usize, tokens: &'a [u32]) -> Sequences<'a> {
        let (precision, name) = PRECISIONS[precision];
        Sequences { precision, kept: false, name, tokens }
    }

    /// In FP8, with keys and values in E4M3.
    fn kept(tokens: &'a [u32]) -> Sequences<'a> {
        Sequences { kept: true, name: KEPT, ..Sequences::plain(1, tokens) }
    }
}

fn run(
    assignment: &Assignment,
    recorder: &mut Recorder,
    sequences: &[Sequences<'_>],
) -> Result<(), Stop> {
    let mut bench = Bench::open(assignment, recorder)?;
    if sequences.iter().any(|sequences| sequences.kept) {
        bench.load_attention_e4m3(recorder)?;
    }
    let most = bench.degrees().last().copied();
    let degree = most.ok_or_else(|| Stop::NotRun("needs two GPUs".into()))?;
    for Sequences { precision, kept, name, tokens } in sequences {
        let config = Config {
            seed: assignment.seed,
            precision: *precision,
            attention_e4m3: *kept,
            ..Config::SEED_002
        };
        let setting = Setting { bench: &bench, degree, config, name };
        let mut lengths = vec![PLANTED];
        lengths.extend_from_slice(tokens);
        lengths.iter().try_for_each(|tokens| setting.room(*tokens))?;
        setting.measured(&lengths, recorder)?;
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
    /// Of all stages, but of attention where keys and values are kept in E4M3.
    error: f64,
    disagreeing: f64,
    ms: f64,
    seen: Vec<Seen>,
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
            let seen = self.length(&mut group, &shares, *tokens, recorder)?;
            if *tokens == PLANTED {
                recorder.progress("planted faults");
                shares.held_twice(&problem(PLANTED), recorder)?;
                self.planted(&mut group, &seen, recorder)?;
            }
        }
        Ok(())
    }

    /// A pass of this length, and the rows that were looked at.
    fn length(
        &self,
        group: &mut Group<'_>,
        shares: &Shares<'_>,
        tokens: u32,
        recorder: &mut Recorder,
    ) -> Result<Vec<Seen>, Stop> {
        let problem = problem(tokens);
        group.set(problem, 1)?;
        shares.reset_peaks();
        group.set_tokens(&bench::tokens(&self.config, &problem, self.config.seed))?;
        group.poison()?;
        let finite = |group: &Group<'_>| -> Result<Metric, Stop> {
            Ok(self.exact(INTEGRITY, tokens, unwritten(group)? as f64))
        };
        recorder.control(NOT_RUN.name, finite(group)?);
        let (seed, heads) = (self.config.seed ^ 0x10E6, self.config.heads());
        let (rows, head) = check::drawn(seed, tokens.into(), (tokens, tokens - 1), heads);
        let what = format!("{} {tokens} tokens", self.name);
        recorder.option(&format!("rows {what}"), format!("{rows:?}"));
        let probe = Probe::new(LAYERS.to_vec(), rows, head);
        let found = self.pass(group, probe)?;
        recorder.metric(finite(group)?);
        recorder.metric(self.exact(ERROR, tokens, found.error));
        if self.config.attention_e4m3 {
            recorder.metric(self.exact(CODES, tokens, check::codes_apart(&found.seen) as f64));
            recorder.metric(self.exact(eight::ERROR, tokens, attention_error(&found.seen)));
        }
        recorder.metric(self.exact(AGREEMENT, tokens, found.disagreeing));
        recorder.metric(self.exact(TIME, tokens, rounded(&[found.ms])[0]));
        bench::write_choices(recorder, &what, group)?;
        shares.taken(&problem, recorder)?;
        Ok(found.seen)
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
        let stages = |seen| {
            let mut stages = check::errors(&self.config, seen);
            if self.config.attention_e4m3 {
                stages[check::ATTENTION] = 0.0;
            }
            stages
        };
        let error = seen.iter().flat_map(stages).fold(0.0, f64::max);
        Ok(Found { error, disagreeing: disagreeing as f64, ms, seen })
    }

    /// Passes with wrong rows, and with ranks that disagree; `right` are rows of a healthy one.
    fn planted(
        &self,
        group: &mut Group<'_>,
        right: &[Seen],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let last = || Probe::new(LAYERS.to_vec(), vec![PLANTED - 1], 5);
        // In layer 0 single keys weigh most: over E4M3 that is told by the root mean square too.
        let layer = LAYERS[usize::from(!self.config.attention_e4m3)];
        group.plant(Some(Fault::Forgotten { layer, left: SEEN }));
        let forgotten = self.pass(group, last())?;
        if self.config.attention_e4m3 {
            let error = |seen: &[Seen]| self.exact(eight::ERROR, PLANTED, attention_error(seen));
            recorder.control(FORGOTTEN_CODES.name, error(&forgotten.seen));
            let larger: Vec<Seen> = right.iter().map(|seen| scaled(seen, TOO_LARGE)).collect();
            recorder.control(TOO_LARGE_VALUES.name, error(&larger));
            // A row of either chunk.
            let rows = vec![PLANTED / 2 - 1, PLANTED - 1];
            for (control, fault) in [(STALE, CodesFault::Stale), (CLOBBERED, CodesFault::Clobbered)]
            {
                group.plant(Some(Fault::Codes { layer: LAYERS[1], fault }));
                let found = self.pass(group, Probe::new(LAYERS.to_vec(), rows.clone(), 5))?;
                let apart = check::codes_apart(&found.seen) as f64;
                recorder.control(control.name, self.exact(CODES, PLANTED, apart));
            }
        } else {
            recorder.control(FORGOTTEN.name, self.exact(ERROR, PLANTED, forgotten.error));
        }
        group.plant(Some(Fault::Stray { rank: group.degree() - 1, layer: LAYER }));
        let stray = self.pass(group, last())?;
        group.plant(None);
        recorder.control(STRAY.name, self.exact(AGREEMENT, PLANTED, stray.disagreeing));
        Ok(())
    }
}

/// [`eight::ERROR`] of all rows.
fn attention_error(seen: &[Seen]) -> f64 {
    check::attention_rms(seen, seen.first().map_or(0, |seen| seen.head))
}

#[cfg(test)]
mod tests {
    use super::super::rates::MARGIN;
    use super::*;
    use crate::model::playbook::H200;

    fn share(precision: Precision, kept: bool, tokens: u32, degree: u32) -> u64 {
        let config = Config { precision, attention_e4m3: kept, ..Config::SEED_002 };
        memory::share(&config, &problem(tokens), degree)
    }

    #[test]
    fn every_length_is_whole_chunks_and_fits() {
        let [(half, _), (eight, _)] = [PRECISIONS[0], PRECISIONS[1]];
        for (precision, kept, tokens, degrees) in [
            (eight, false, PLANTED, &[2, 4, 8][..]),
            (eight, true, PLANTED, &[2, 4, 8]),
            (eight, false, 262_144, &[2, 4, 8]),
            (eight, true, 131_072, &[2, 4, 8]),
            (eight, true, 262_144, &[2, 4, 8]),
            (half, false, 262_144, &[2, 4, 8]),
            (eight, true, 524_288, &[2, 4, 8]),
            (eight, true, 1_048_576, &[2, 4, 8]),
        ] {
            assert!(problem(tokens).check().is_ok(), "{tokens}");
            for degree in degrees {
                assert!(
                    share(precision, kept, tokens, *degree) + MARGIN < H200,
                    "{tokens} over {degree}"
                );
            }
        }
        // Three fifths of what queries, keys and values take in fp16.
        let saved = share(eight, false, 524_288, 2) - share(eight, true, 524_288, 2);
        let whole = 6 * 8192 * 524_288 / 2;
        assert!(saved > whole * 58 / 100 && saved < whole * 62 / 100, "{saved} of {whole}");
    }
}
