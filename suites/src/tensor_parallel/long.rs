//! Long sequences over several GPUs: they fit, as the formula foretells, and have the bytes of one GPU.

use std::time::Instant;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::Error;
use kernels::model::drift::Difference;
use kernels::model::fault::Fault;
use kernels::model::group::{Group, Watch};
use kernels::model::rank::Place;
use kernels::model::weights::{Linear, Split};
use kernels::model::{Config, Problem};

use super::bench::{self, Bench};
use super::rates::{INTEGRITY, MARGIN, NOT_RUN, TIME, rounded, unwritten};
use super::shares::{LAYER_TWICE, SIX_LAYERS_SEEN, SIX_LAYERS_TWICE, Shares};
use crate::model::long::{self, ACCEPTED};
use crate::model::memory;
use crate::model::{KERNELS, PRECISIONS, room};

/// Residual streams, of every layer on every rank, whose hash is not one GPU's, and logits whose bits are not.
pub const METRIC: &str = "apart_count";

/// Tokens of the sequences: what seed 004 asks for. At the first one faults are planted.
const LENGTHS: [u32; 2] = [32768, 65536];
/// What lengths around the end of memory are multiples of.
const STEP: u32 = 32768;
/// The layer in which faults are planted: none of what follows can heal it.
const LAYER: u32 = 20;
/// The weight of which a bit is flipped.
const ELEMENT: u64 = 1_000_003;

static CONTROLS: [Control; 7] = [
    Control {
        name: "flipped-bit",
        fault: "the lowest mantissa bit of one weight of one rank is flipped",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "dropped-contribution",
        fault: "one rank's columns inside one MLP do not arrive",
        trips: METRIC,
        expect: Expect::Refuted,
    },
    LAYER_TWICE,
    SIX_LAYERS_TWICE,
    SIX_LAYERS_SEEN,
    Control {
        name: "room-enough",
        fault: "the limit lies above the formula, so that nothing is refused",
        trips: ACCEPTED,
        expect: Expect::Refuted,
    },
    NOT_RUN,
];

/// All GPUs.
pub static CASE: Case = Case {
    id: "tensor-parallel::long",
    revision: 3,
    figures_since: 1,
    scope: Scope::Node,
    min_gpus: 2,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "The 48-layer model of seed 002, one sequence of 32768 and of 65536 tokens, in fp16 and in FP8 W8A8. One \
                GPU makes the pass of model::long, whose rows that case compares with f64; hashes of its residual stream \
                behind every layer and its logits are kept, and its memory is given back. Then 2, 4 and 8 GPUs, as many as \
                there are, make the same with columns shared, in two chunks whose exchanges run beside products, behind \
                activations of NaN: the hash of every layer on every rank and every logit are compared with one GPU's. What \
                each rank allocates, what its driver has less of and what NVML says is used more is compared with the closed formula. Before the first \
                pass of a degree three requests: the shortest sequence, in chunks of 32768 tokens, that by the formula takes \
                more than a GPU of the degree has must be refused by the driver; the longest whose activations leave 2 GiB of \
                what is free must be allocated; and 32768 tokens with the last rank limited to 5 % under the formula must be \
                refused. What is refused leaves no byte behind, and the pass that follows is the one that is compared. Each pass is made once; its time is the host's, hashing included.",
    samples: 0,
    expected_s: 70.0,
    deadline_s: 400.0,
    kernels: KERNELS,
    integrity: &[INTEGRITY],
    controls: &CONTROLS,
    run,
};

/// One sequence in two chunks.
pub fn problem(tokens: u32) -> Problem {
    Problem { batches: 1, tokens, chunks: 2 }
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let bench = Bench::open(assignment, recorder)?;
    for (precision, name) in &PRECISIONS[..2] {
        let config = Config { seed: assignment.seed, precision: *precision, ..Config::SEED_002 };
        let setting = Setting { bench: &bench, config, name };
        let wanted = setting.one_gpu(recorder)?;
        for degree in bench.degrees() {
            setting.shared(degree, &wanted, recorder)?;
        }
    }
    bench.lab.close(recorder);
    Ok(())
}

/// What a pass left.
struct Seen {
    /// Hashes of the residual stream behind every layer, by rank.
    streams: Vec<Vec<u64>>,
    /// Codes of the logits, the ranks' columns side by side.
    logits: Vec<u16>,
}

impl Seen {
    /// Waits.
    fn of(group: &Group<'_>) -> Result<Seen, Stop> {
        // Last of a rank's differences are those of its logits.
        let layers = |rank: &Vec<Difference>| {
            rank.iter().rev().skip(1).rev().map(|layer| layer.hash).collect()
        };
        let streams = group.differences()?.iter().map(layers).collect();
        Ok(Seen { streams, logits: group.logits()?.concat() })
    }

    /// Layers of all ranks whose hash is not that of one GPU's, and logits that are not; what is missing or was
    /// never hashed is not.
    fn apart(&self, one: &Seen) -> u64 {
        let Some(wanted) = one.streams.first() else { return u64::MAX };
        let rank = |found: &Vec<u64>| {
            let same = |(found, wanted): &(&u64, &u64)| found == wanted && **found != 0;
            missed(wanted.len().max(found.len()), found.iter().zip(wanted).filter(same).count())
        };
        let same = self.logits.iter().zip(&one.logits).filter(|(a, b)| a == b).count();
        let logits = missed(self.logits.len().max(one.logits.len()), same);
        self.streams.iter().map(rank).sum::<u64>() + logits
    }
}

fn missed(all: usize, same: usize) -> u64 {
    (all - same) as u64
}

/// A model in one precision.
struct Setting<'a> {
    bench: &'a Bench,
    config: Config,
    /// Of the precision.
    name: &'a str,
}

impl<'a> Setting<'a> {
    fn exact(&self, name: &str, degree: usize, tokens: u32, value: f64) -> Metric {
        let (text, tokens) = (degree.to_string(), tokens.to_string());
        let at = [("degree", text.as_str()), ("precision", self.name), ("tokens", tokens.as_str())];
        Metric::exact(name, &at, self.bench.indices(degree), value)
    }

    /// A poisoned pass of the problem that is set.
    fn pass(&self, group: &mut Group<'_>, tokens: u32) -> Result<(Seen, f64), Stop> {
        let whole = Problem { batches: 1, tokens, chunks: 1 };
        group.set_tokens(&bench::tokens(&self.config, &whole, self.config.seed))?;
        group.poison()?;
        let begun = Instant::now();
        group.forward(Watch::Hash)?;
        group.wait()?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        Ok((Seen::of(group)?, ms))
    }

    /// The same with what is written down of it.
    fn measured(
        &self,
        group: &mut Group<'_>,
        tokens: u32,
        recorder: &mut Recorder,
    ) -> Result<Seen, Stop> {
        let degree = group.degree() as usize;
        group.poison()?;
        let unwritten = |group: &Group<'_>| -> Result<Metric, Stop> {
            Ok(self.exact(INTEGRITY, degree, tokens, unwritten(group)? as f64))
        };
        recorder.control(NOT_RUN.name, unwritten(group)?);
        let (seen, ms) = self.pass(group, tokens)?;
        recorder.metric(unwritten(group)?);
        recorder.metric(self.exact(TIME, degree, tokens, rounded(&[ms])[0]));
        let what = format!("{} {tokens} tokens degree-{degree}", self.name);
        bench::write_choices(recorder, &what, group)?;
        let last = seen.streams.iter().filter_map(|rank| rank.last());
        let last = last.map(|hash| format!("{hash:016x}")).collect::<Vec<_>>().join(" ");
        recorder.option(&format!("hash of the last layer {what}"), last);
        Ok(seen)
    }

    /// What one GPU makes of each length; its memory is given back.
    fn one_gpu(&self, recorder: &mut Recorder) -> Result<Vec<Seen>, Stop> {
        room(&self.bench.lab.gpus[0], memory::formula(&self.config, &long::problem(LENGTHS[1])))?;
        let mut group = Group::new(&self.bench.first(1), self.config, Split::Outputs)?;
        let mut all = Vec::new();
        for tokens in LENGTHS {
            recorder.progress(&format!("{} {tokens} tokens on one GPU", self.name));
            group.set(long::problem(tokens), 1)?;
            all.push(self.measured(&mut group, tokens, recorder)?);
        }
        Ok(all)
    }

    /// Both lengths over so many GPUs.
    fn shared(&self, degree: usize, one: &[Seen], recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress(&format!("{} weights over {degree} GPUs", self.name));
        let gpus = &self.bench.lab.gpus[..degree];
        let most = memory::share(&self.config, &problem(LENGTHS[1]), degree as u32);
        gpus.iter().try_for_each(|gpu| room(gpu, most))?;
        let shares = Shares::new(self.bench, degree, self.config, self.name)?;
        let mut group = Group::new(&self.bench.first(degree), self.config, Split::Outputs)?;
        recorder.progress(&format!("{}, what does not fit over {degree} GPUs", self.name));
        self.refused(&mut group, recorder)?;
        for (tokens, one) in LENGTHS.into_iter().zip(one) {
            recorder.progress(&format!("{} {tokens} tokens over {degree} GPUs", self.name));
            group.set(problem(tokens), 1)?;
            shares.reset_peaks();
            let seen = self.measured(&mut group, tokens, recorder)?;
            recorder.metric(self.exact(METRIC, degree, tokens, seen.apart(one) as f64));
            shares.taken(&problem(tokens), recorder)?;
            if tokens == LENGTHS[0] {
                shares.held_twice(&problem(tokens), recorder)?;
                self.planted(&mut group, one, recorder)?;
            }
        }
        Ok(())
    }

    /// What must be refused, and what must not, behind weights alone.
    fn refused(&self, group: &mut Group<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
        let degree = group.degree();
        let gpus = &self.bench.lab.gpus[..degree as usize];
        let live = || gpus.iter().map(|gpu| gpu.ledger().live()).collect::<Vec<u64>>();
        let weights = live();
        let left = || f64::from(u8::from(live() != weights));
        let (free, total) = gpus.iter().try_fold((u64::MAX, 0), |(least, _), gpu| {
            gpu.mem_info().map(|(free, total)| (least.min(free), total))
        })?;
        let (within, beyond) = around(&self.config, degree, (free, total));
        let mut accepted = by_driver(group.set(beyond, 1))? + left();
        let fitting = 1.0 - by_driver(group.set(within, 1))?;
        recorder.option(
            &format!("accepted and refused beside {} over {degree} GPUs, tokens", self.name),
            format!("{} and {}", within.tokens, beyond.tokens),
        );
        accepted += fitting;
        let (last, tokens) = (gpus.len() - 1, LENGTHS[0]);
        let needs = self.config.activation_bytes(&problem(tokens), degree) as f64;
        let mut limited = |share: f64| -> Result<f64, Stop> {
            let ledger = gpus[last].ledger();
            ledger.limit(Some(weights[last] + (needs * share) as u64));
            let outcome = group.set(problem(tokens), 1);
            ledger.limit(None);
            let left = f64::from(u8::from(ledger.live() != weights[last]));
            Ok(memory::accepted(outcome)? + left)
        };
        accepted += limited(0.95)?;
        let exact = |count| self.exact(ACCEPTED, gpus.len(), tokens, count);
        recorder.metric(exact(accepted));
        recorder.control("room-enough", exact(limited(1.05)?));
        Ok(())
    }

    /// Passes with other bits; the one that lacks columns in FP8 alone, which is faster.
    fn planted(
        &self,
        group: &mut Group<'_>,
        one: &Seen,
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        recorder.progress("planted faults");
        let (degree, last, tokens) = (group.degree() as usize, group.degree() - 1, LENGTHS[0]);
        let metric = |seen: &Seen| self.exact(METRIC, degree, tokens, seen.apart(one) as f64);
        if self.config.precision.is_fp8() {
            group.plant(Some(Fault::Dropped { rank: last, layer: LAYER }));
            let dropped = self.pass(group, tokens)?.0;
            group.plant(None);
            recorder.control("dropped-contribution", metric(&dropped));
        }
        let place = Place::Linear(Linear::Up, LAYER);
        group.flip(last, place, ELEMENT)?;
        let flipped = self.pass(group, tokens)?.0;
        group.flip(last, place, ELEMENT)?;
        recorder.control("flipped-bit", metric(&flipped));
        Ok(())
    }
}

/// By the formula the longest sequence of whole chunks of [`STEP`] tokens whose activations leave [`MARGIN`] of `free`
/// bytes on each of `degree` GPUs, and the shortest that takes more than `total` with its weights.
fn around(config: &Config, degree: u32, (free, total): (u64, u64)) -> (Problem, Problem) {
    let of = |chunks: u32| Problem { batches: 1, tokens: chunks * STEP, chunks };
    let fits = |problem: &Problem| config.activation_bytes(problem, degree) + MARGIN <= free;
    let too_long = |problem: &Problem| memory::share(config, problem, degree) > total;
    let most = || (1..=u32::MAX / STEP).map(of);
    let within = most().take_while(fits).last().unwrap_or(of(1));
    (within, most().find(too_long).unwrap_or(of(u32::MAX / STEP)))
}

/// 1 for what was allocated all the same, 0 for what the driver has no memory for.
///
/// Errors: a refusal for another reason, which is none.
fn by_driver(outcome: kernels::Result<()>) -> Result<f64, Stop> {
    match outcome {
        Ok(()) => Ok(1.0),
        Err(Error::Driver { call: "cuMemAlloc", reason })
            if reason.starts_with("CUDA_ERROR_OUT_OF_MEMORY") =>
        {
            Ok(0.0)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::shares::layer_bytes;
    use super::*;
    use crate::model::playbook::H200;
    use kernels::model::Precision;

    const DEGREES: [u32; 3] = [2, 4, 8];

    fn configs() -> [Config; 2] {
        [Precision::F16, Precision::E4m3].map(|precision| Config { precision, ..Config::SEED_002 })
    }

    fn seen(streams: &[&[u64]], logits: &[u16]) -> Seen {
        let streams = streams.iter().map(|rank| rank.to_vec()).collect();
        Seen { streams, logits: logits.to_vec() }
    }

    #[test]
    fn what_is_apart_by_hand() {
        let one = seen(&[&[1, 2, 3]], &[7, 8]);
        let count = |streams: &[&[u64]], logits: &[u16]| seen(streams, logits).apart(&one);
        assert_eq!(count(&[&[1, 2, 3], &[1, 2, 3]], &[7, 8]), 0);
        assert_eq!(count(&[&[1, 2, 3], &[1, 9, 9]], &[7, 8]), 2);
        assert_eq!(count(&[&[1, 2, 3]], &[7, 9]), 1);
        // What is not there is not the same.
        assert_eq!(count(&[&[1, 2], &[1, 2, 3]], &[7]), 2);
        let never = seen(&[&[0, 0]], &[]);
        assert_eq!(never.apart(&never), 2);
        assert!(seen(&[], &[]).apart(&seen(&[], &[])) > 0);
    }

    #[test]
    fn chunks_are_whole_at_every_degree() {
        for config in configs() {
            for degree in DEGREES {
                assert!(config.check(degree).is_ok(), "{degree}");
                let free = H200 - config.weight_bytes(degree);
                let (within, beyond) = around(&config, degree, (free, H200));
                for problem in [within, beyond] {
                    assert!(problem.check().is_ok(), "{problem:?}");
                }
                assert!(memory::share(&config, &beyond, degree) > H200);
                assert!(memory::share(&config, &within, degree) <= H200 - MARGIN);
                // Nothing between them but the margin and a step at either end.
                let taken = |problem: &Problem| memory::share(&config, problem, degree);
                let less =
                    Problem { tokens: beyond.tokens - STEP, chunks: beyond.chunks - 1, ..beyond };
                let step = taken(&beyond) - taken(&less);
                assert!(
                    taken(&beyond) - taken(&within) <= MARGIN + 2 * step,
                    "{within:?} {beyond:?}"
                );
            }
        }
        for tokens in LENGTHS {
            assert!(problem(tokens).check().is_ok(), "{tokens}");
        }
    }

    #[test]
    fn one_gpu_and_every_share_fit_into_an_h200() {
        for config in configs() {
            for tokens in LENGTHS {
                assert!(memory::formula(&config, &long::problem(tokens)) < H200);
                for degree in DEGREES {
                    assert!(memory::share(&config, &problem(tokens), degree) < H200 / 2);
                }
            }
        }
    }

    #[test]
    fn what_is_held_twice_is_more_than_the_bounds() {
        for config in configs() {
            for degree in DEGREES {
                let all = memory::share(&config, &problem(LENGTHS[0]), degree) as f64;
                let layer = layer_bytes(&config, degree) as f64;
                assert!(layer / all > 0.01, "{degree}");
                assert!(6.0 * layer / all > 0.06, "{degree}");
            }
        }
    }

    #[test]
    fn only_memory_that_is_not_there_refuses() {
        let refused =
            |call, reason: &str| by_driver(Err(Error::Driver { call, reason: reason.into() }));
        let out = "CUDA_ERROR_OUT_OF_MEMORY: out of memory";
        assert_eq!(by_driver(Ok(())).ok(), Some(1.0));
        assert_eq!(refused("cuMemAlloc", out).ok(), Some(0.0));
        // An error of earlier work, told by the next call.
        assert!(refused("cuMemAlloc", "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal access").is_err());
        assert!(refused("cuLaunchKernel", out).is_err());
    }
}
