//! What the quantisers do with infinities and NaN: none is lost in silence, and what shares no scale with one is as it
//! would be without. The contract stands in kernels/src/quantise/oracle.rs, "Numbers that are not finite".

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::model::{self, Affine, EPSILON, Kernels};
use kernels::quantise::oracle::{self, Wanted};
use kernels::quantise::{self, Extra, Quantiser, Scheme};

use super::{Left, before, left_of, operands, untouched};
use crate::lab::Lab;

/// Infinities and NaN that came out as finite numbers.
pub const SILENT: &str = "silent_count";
/// Codes and scales of groups without one that differ from the CPU's.
pub const DIFFERING: &str = super::DIFFERING;

/// Rows that end behind a whole piece of scales, and rows of two bands of squares.
const ROWS: u64 = 131;
const BANDS: u64 = 256;
/// Columns that end inside of a thread block.
const SHORT: u32 = 2176;
/// Elements in even rows from the first on, beside the last of all.
const PLACES: u64 = 64;
/// Largest magnitudes of delayed scaling.
const HISTORY: usize = 16;

/// What is planted: of each kind all of a matrix.
const INFINITIES: [u16; 2] = [0x7C00, 0xFC00];
const NANS: [u16; 4] = [0x7E00, 0xFE00, 0x7C01, 0xFFFF];
const KINDS: [&[u16]; 2] = [&INFINITIES, &NANS];

/// Where a matrix's largest magnitude comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Magnitude {
    /// The scheme needs none, or finds one for each of its groups.
    OfGroups,
    /// A pass over the matrix finds it.
    Own,
    /// It is that of the finite elements, or of a history half of it.
    Given,
}

/// A scheme over matrices of some columns, and the name of its row in evidence.
#[derive(Debug, Clone, Copy)]
struct Job {
    name: &'static str,
    scheme: Scheme,
    magnitude: Magnitude,
    rows: u64,
    columns: &'static [u32],
}

const fn job(name: &'static str, scheme: Scheme) -> Job {
    Job { name, scheme, magnitude: Magnitude::OfGroups, rows: ROWS, columns: &[SHORT] }
}

/// Rows of 8192 and of more have kernels of their own.
const JOBS: [Job; 11] = [
    Job { magnitude: Magnitude::Own, ..job("tensor", Scheme::Tensor) },
    Job { magnitude: Magnitude::Given, ..job("tensor-delayed", Scheme::Tensor) },
    Job { columns: &[SHORT, 8320], ..job("row", Scheme::Row) },
    Job { columns: &[SHORT, 8320], ..job("gelu-row", Scheme::GeluRow) },
    Job { columns: &[SHORT, 8192], ..job("norm-row", Scheme::NormRow) },
    job("block-1x128", Scheme::Block128),
    Job { rows: BANDS, ..job("block-128x128", Scheme::Square128) },
    Job { magnitude: Magnitude::Own, ..job("nvfp4", Scheme::Nvfp4) },
    Job { magnitude: Magnitude::Given, ..job("nvfp4-given", Scheme::Nvfp4) },
    job("mxfp8", Scheme::Mxfp8),
    job("mxfp4", Scheme::Mxfp4),
];

impl Job {
    /// Whether something of a matrix has a scale that no planted element moves.
    fn has_neighbours(self) -> bool {
        self.magnitude != Magnitude::Own
    }

    /// Whether what is planted must be told. By a magnitude that was given NVFP4 saturates, and nothing records it.
    fn tells(self) -> bool {
        self.scheme != Scheme::Nvfp4 || self.magnitude == Magnitude::Own
    }

    fn delayed(self) -> bool {
        self.scheme == Scheme::Tensor && self.magnitude == Magnitude::Given
    }
}

/// What is planted beside what is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Who made the matrix made all of it finite.
    AllClamped,
    /// The same of its last element alone.
    LastClamped,
    /// Codes are rounded toward zero.
    TowardZero,
    /// The scale of a group without one is a unit in the last place larger.
    ScaleOff,
}

static CONTROLS: [Control; 4] = [
    Control {
        name: "clamped-before",
        fault: "infinities are clamped to 65504 and NaN made zeros before the matrix is quantised",
        trips: SILENT,
        expect: Expect::Refuted,
    },
    Control {
        name: "one-clamped-before",
        fault: "the same of the last element alone",
        trips: SILENT,
        expect: Expect::Refuted,
    },
    Control {
        name: "toward-zero",
        fault: "codes are rounded toward zero",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-one-ulp-off",
        fault: "the scale of one row without such an element is one unit in the last place larger",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::quantisers-non-finite",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "fp16 matrices of 131 rows (256 for squares) by 2176 columns, and of rows of 8192 and 8320 for the kernels that \
                take these, with 65 infinities of both signs, then with 65 NaN of both signs, one in a row, the first in the matrix's first \
                place and the last in its last, at every place of a vector and of a block of 16 and 32 between, are quantised by every \
                scheme. Counted is each that is finite when its code is multiplied by its scale in f32 (NVFP4: divided by the factor \
                of the matrix's largest magnitude, which a pass found), an infinity under delayed scaling, which saturates, only where the \
                largest magnitude that was recorded is not infinite, and minus infinity behind GELU, whose GELU is zero, not at \
                all. Every code and scale of a group without one (of NVFP4 by the largest finite magnitude; under delayed scaling of \
                each element that is a number) is compared with the CPU's.",
    samples: 0,
    expected_s: 3.0,
    deadline_s: 240.0,
    kernels: &["quantise", "model"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// Rows and columns of what is planted: the first and the last element, and one in every second row between. Columns
/// are 7 places on in a vector, a block of 16 or 32 and one of 128 each time.
fn places(rows: u64, columns: u64) -> Vec<usize> {
    let odd = |i: u64| 2 * i * columns + i * 263 % columns;
    let all = (0..PLACES).map(odd).chain([rows * columns - 1]);
    all.map(|place| place as usize).collect()
}

/// The element planted at a place: each of a kind at each place of a vector.
fn planted(kind: &[u16], i: usize) -> f16 {
    f16::from_bits(kind[i / 8 % kind.len()])
}

/// A matrix whose elements at some places were made finite: infinities the largest half, NaN zeros.
fn made_finite(source: &[f16], places: &[usize]) -> Vec<f16> {
    let mut made = source.to_vec();
    for &place in places {
        let x = source[place];
        made[place] = if x.is_nan() { f16::ZERO } else { f16::MAX.copysign(x) };
    }
    made
}

/// What a matrix became, and what it was.
struct Outcome {
    source: Vec<f16>,
    before: Vec<f16>,
    left: Left,
    /// The matrix's largest magnitude as the scheme had it, and as the pass recorded it.
    largest: f32,
    recorded: f32,
}

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    quantiser: Quantiser,
    kernels: Kernels,
    seed: u64,
}

impl Bench<'_> {
    /// Quantises a matrix with elements of a kind.
    fn quantise(
        &self,
        job: Job,
        columns: u32,
        kind: &[u16],
        fault: Fault,
    ) -> Result<Outcome, Stop> {
        let (stream, Job { scheme, rows, .. }) = (self.gpu.stream(), job);
        let mut source = operands::activations(self.seed, rows, columns.into());
        let finite = oracle::amax(&source);
        let places = places(rows, columns.into());
        for (i, &place) in places.iter().enumerate() {
            source[place] = planted(kind, i);
        }
        let clamped = match fault {
            Fault::AllClamped => &places[..],
            Fault::LastClamped => &places[places.len() - 1..],
            _ => &[],
        };
        let given = made_finite(&source, clamped);
        let buffer = operands::halves(self.gpu, &given)?;
        let gains = operands::activations(self.seed ^ 9, 2, columns.into());
        let (gain, bias) = gains.split_at(columns as usize);
        let (gain, bias) = (operands::halves(self.gpu, gain)?, operands::halves(self.gpu, bias)?);
        let magnitudes = match job.magnitude {
            Magnitude::Own => {
                let own = operands::floats(self.gpu, &[0.0])?;
                self.quantiser.largest(stream, &buffer, (rows, columns), &own)?;
                own
            }
            _ if job.delayed() => operands::floats(self.gpu, &[finite / 2.0; HISTORY])?,
            _ => operands::floats(self.gpu, &[finite])?,
        };
        let recorded = operands::floats(self.gpu, &[0.0])?;
        let extra = Extra {
            amax: Some(&magnitudes),
            recorded: Some(&recorded),
            norm: Some((&gain, &bias, EPSILON)),
            truncate: fault == Fault::TowardZero,
        };
        let sizes = (rows, columns);
        let left = left_of((self.gpu, &self.quantiser), scheme, &buffer, sizes, extra)?;
        let affine = Affine { gain: &gain, bias: &bias };
        let before = before((self.gpu, &self.kernels), scheme, buffer, sizes, affine)?;
        let word = |buffer: &Buffer| -> Result<f32, Stop> { Ok(buffer.read_vec(stream, 1)?[0]) };
        let (largest, recorded) = (word(&magnitudes)?, word(&recorded)?);
        Ok(Outcome { source, before, left, largest, recorded })
    }

    /// Elements lost in silence, and codes and scales of others that differ, over all matrices of a job.
    fn counts(&self, job: Job, fault: Fault) -> Result<(u64, u64), Stop> {
        let (mut lost, mut wrong) = (0, 0);
        for &columns in job.columns {
            for kind in KINDS {
                let mut outcome = self.quantise(job, columns, kind, fault)?;
                lost += silent(job, columns, &outcome);
                let by_definition = match fault {
                    Fault::AllClamped | Fault::LastClamped => continue,
                    _ if !job.has_neighbours() => continue,
                    _ => oracle::quantise(
                        job.scheme,
                        &outcome.before,
                        columns as usize,
                        outcome.largest,
                    ),
                };
                if fault == Fault::ScaleOff {
                    // An odd row has no planted element.
                    outcome.left.scales[1] += 1;
                }
                wrong += differing(job, columns, &outcome, &by_definition);
            }
        }
        Ok((lost, wrong))
    }

    fn at(&self, name: &str, job: Job, count: u64) -> Metric {
        Metric::exact(name, &[("scheme", job.name)], &[self.index], count as f64)
    }
}

/// Infinities and NaN of the source that came out finite, and that nothing else told.
fn silent(job: Job, columns: u32, outcome: &Outcome) -> u64 {
    let Outcome { source, left, largest, recorded, .. } = outcome;
    let is_lost = |i: usize, scale: u32| {
        let x = source[i];
        let told = job.delayed() && x.is_infinite() && *recorded == f32::INFINITY;
        let limit = job.scheme == Scheme::GeluRow && x == f16::NEG_INFINITY;
        !x.is_finite()
            && !told
            && !limit
            && oracle::number(job.scheme, left.codes[i], scale, *largest).is_finite()
    };
    let groups = oracle::groups(job.scheme, source.len() / columns as usize, columns as usize);
    let of_group = |(at, group): (usize, Vec<usize>)| {
        group.into_iter().filter(|&i| is_lost(i, left.scales[at])).count() as u64
    };
    groups.into_iter().map(of_group).sum()
}

/// Codes and scales of groups that hold nothing but finite numbers, which are not as wanted, and what was written into
/// padding and behind.
fn differing(job: Job, columns: u32, outcome: &Outcome, wanted: &Wanted) -> u64 {
    let Outcome { before, left, .. } = outcome;
    let mut count = left.beyond;
    for (at, group) in oracle::groups(job.scheme, before.len() / columns as usize, columns as usize)
    {
        if !job.delayed() && group.iter().any(|&i| !before[i].is_finite()) {
            continue;
        }
        count += u64::from(left.scales[at] != wanted.scales[at]);
        // A history's scale is nobody's of the matrix: infinities saturate as the oracle's do.
        let wrong = |i: &usize| !before[*i].is_nan() && left.codes[*i] != wanted.codes[*i];
        count += group.iter().filter(|i| wrong(i)).count() as u64;
    }
    let padding = left.scales.iter().zip(&wanted.named).filter(|(_, named)| !**named);
    count + padding.filter(|(scale, _)| **scale != untouched(job.scheme)).count() as u64
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let bench = Bench {
        gpu,
        index,
        quantiser: Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?,
        kernels: Kernels::new(gpu, &lab.module(gpu, &model::SOURCE, recorder)?)?,
        seed: assignment.seed,
    };
    for job in JOBS {
        recorder.progress(job.name);
        let (lost, wrong) = bench.counts(job, Fault::None)?;
        if job.tells() {
            recorder.metric(bench.at(SILENT, job, lost));
            let (lost, _) = bench.counts(job, Fault::AllClamped)?;
            recorder.control("clamped-before", bench.at(SILENT, job, lost));
        }
        if job.has_neighbours() {
            recorder.metric(bench.at(DIFFERING, job, wrong));
        }
        if job.name == "row" {
            let (lost, _) = bench.counts(job, Fault::LastClamped)?;
            recorder.control("one-clamped-before", bench.at(SILENT, job, lost));
            let (_, wrong) = bench.counts(job, Fault::TowardZero)?;
            recorder.control("toward-zero", bench.at(DIFFERING, job, wrong));
            let (_, wrong) = bench.counts(job, Fault::ScaleOff)?;
            recorder.control("scale-one-ulp-off", bench.at(DIFFERING, job, wrong));
        }
    }
    lab.close(recorder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn places_are_many_and_apart() {
        for job in JOBS {
            for &columns in job.columns {
                let places = places(job.rows, columns.into());
                let last = job.rows as usize * columns as usize - 1;
                assert_eq!((places[0], places[places.len() - 1]), (0, last), "{}", job.name);
                for of in [8, 16, 32] {
                    let seen: BTreeSet<usize> = places.iter().map(|place| place % of).collect();
                    assert_eq!(seen.len(), of, "{}", job.name);
                }
                let rows: BTreeSet<usize> =
                    places.iter().map(|place| place / columns as usize).collect();
                assert_eq!(rows.len(), places.len(), "{}: one in a row", job.name);
                assert!(!rows.contains(&1), "{}", job.name);
                // What the faults stand on: groups with and without one.
                let groups = oracle::groups(job.scheme, job.rows as usize, columns as usize);
                let with = |group: &[usize]| group.iter().any(|i| places.contains(i));
                if job.scheme != Scheme::Tensor {
                    assert!(groups.iter().any(|(_, group)| with(group)), "{}", job.name);
                    assert!(groups.iter().any(|(_, group)| !with(group)), "{}", job.name);
                }
            }
        }
    }

    /// A matrix as the oracle would leave it, with what is planted at the ends of two rows.
    fn by_oracle(job: Job, kind: u16) -> Outcome {
        let columns = 256;
        let mut source = operands::activations(3, 256, columns);
        source[0] = f16::from_bits(kind);
        let largest = match job.magnitude {
            Magnitude::Own => oracle::amax(&source),
            _ => 100.0,
        };
        let wanted = oracle::quantise(job.scheme, &source, columns as usize, largest);
        let mut scales = wanted.scales.clone();
        for (scale, named) in scales.iter_mut().zip(&wanted.named) {
            if !named {
                *scale = untouched(job.scheme);
            }
        }
        let left = Left { codes: wanted.codes, scales, beyond: 0 };
        Outcome { before: source.clone(), recorded: oracle::amax(&source), source, left, largest }
    }

    /// By the oracle, which keeps the contract in plain arithmetic.
    #[test]
    fn nothing_is_lost_by_the_oracle() {
        for job in JOBS {
            for kind in [0x7C00, 0xFC00, 0x7E00, 0xFE00] {
                let mut outcome = by_oracle(job, kind);
                let wanted = oracle::quantise(job.scheme, &outcome.before, 256, outcome.largest);
                if job.has_neighbours() {
                    assert_eq!(differing(job, 256, &outcome, &wanted), 0, "{}", job.name);
                    let last = outcome.left.codes.len() - 1;
                    outcome.left.codes[last] ^= 1;
                    assert_eq!(differing(job, 256, &outcome, &wanted), 1, "{}", job.name);
                }
                if job.tells() && !(job.scheme == Scheme::GeluRow && kind == 0xFC00) {
                    assert_eq!(silent(job, 256, &outcome), 0, "{} {kind:#x}", job.name);
                }
            }
        }
    }

    /// A matrix that was made finite before: its planted element is lost.
    #[test]
    fn what_was_clamped_before_is_counted() {
        for job in JOBS.into_iter().filter(|job| job.tells()) {
            for kind in [0x7C00, 0x7E00] {
                let mut outcome = by_oracle(job, 0x7BFF);
                outcome.source[0] = f16::from_bits(kind);
                assert_eq!(silent(job, 256, &outcome), 1, "{} {kind:#x}", job.name);
            }
        }
    }
}
