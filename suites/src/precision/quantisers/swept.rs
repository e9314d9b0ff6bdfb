//! The microscaling encoders over every half under every scale, and over matrices of odd shapes.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::formats::Format;
use kernels::quantise::oracle::{self, Wanted};
use kernels::quantise::{self, Extra, Quantiser, Scheme};

use super::{Left, left_of, operands};
use crate::lab::Lab;

/// Codes and scales that differ from the CPU's.
pub const DIFFERING: &str = super::DIFFERING;

const SCHEMES: [Scheme; 3] = [Scheme::Nvfp4, Scheme::Mxfp8, Scheme::Mxfp4];
/// Columns of the matrices of all halves: rows end inside of a thread block and of a piece of scales.
const COLUMNS: u32 = 2176;
/// The largest half's code.
const MOST: u16 = 0x7BFF;
/// NVFP4's largest magnitudes of a matrix: by 448 its factor is 6, and a block's scale its largest number.
const WHOLE: [f32; 2] = [448.0, 65504.0];
/// Threads of the CPU's side.
const THREADS: usize = 4;

static CONTROLS: [Control; 2] = [
    Control {
        name: "toward-zero",
        fault: "codes are rounded toward zero",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-one-code-off",
        fault: "the scale of one block is the next code",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::quantisers-swept",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Blocks whose largest number sets their scale, and which hold every half that is no larger, of both signs: for MXFP8 \
                and MXFP4 under each of the 41 powers of two that halves lead to, for NVFP4 under each of the scales 0 to 448, \
                of matrices whose largest magnitude is 448 (so that the factor of the matrix is 6) and 65504. Then every half \
                as the largest of a block. Then matrices of 1, 127, 129 and 251 rows by 128, 384 and 8320 columns, of zeros, of \
                -0, and for NVFP4 of a given magnitude of a third of the own one and of 1e-37, where the factor is the largest \
                f32. Every code and scale is compared with the CPU's, and padding and what lies behind with what was there.",
    samples: 0,
    expected_s: 5.0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// A matrix of halves and the largest magnitude that NVFP4 goes by.
struct Matrix {
    halves: Vec<f16>,
    columns: u32,
    largest: f32,
}

impl Matrix {
    /// Of whole blocks, zeros behind them.
    fn of_blocks(mut halves: Vec<f16>, largest: f32) -> Matrix {
        halves.resize(halves.len().next_multiple_of(COLUMNS as usize), f16::ZERO);
        Matrix { halves, columns: COLUMNS, largest }
    }

    fn rows(&self) -> usize {
        self.halves.len() / self.columns as usize
    }
}

/// Numbers that share a scale.
fn numbers_of_block(scheme: Scheme) -> usize {
    scheme.micro_columns().map_or(1, |columns| columns as usize)
}

/// What stands for the scale that a block of this largest half has: of two such halves one scale if equal.
fn scale_of(scheme: Scheme, largest: f16, whole: f32) -> u32 {
    match scheme {
        Scheme::Nvfp4 => {
            Format::E4m3.encode(largest.to_f32() * (oracle::whole_scale(whole) * (1.0 / 6.0)))
        }
        _ => {
            let most = if scheme == Scheme::Mxfp8 { 448.0 } else { 6.0 };
            let fits = |power: &i32| largest.to_f64() <= most * 2f64.powi(*power);
            (-40..40).find(fits).map_or(u32::MAX, |power| (power + 127) as u32)
        }
    }
}

/// The largest half of each scale that halves up to `whole` lead to, in order.
fn largest_of_scales(scheme: Scheme, whole: f32) -> Vec<f16> {
    let halves = (1..=MOST).map(f16::from_bits).filter(|half| half.to_f32() <= whole);
    let mut found: Vec<(u32, f16)> = Vec::new();
    for half in halves {
        let scale = scale_of(scheme, half, whole);
        match found.last_mut() {
            Some(last) if last.0 == scale => last.1 = half,
            _ => found.push((scale, half)),
        }
    }
    found.into_iter().map(|(_, half)| half).collect()
}

/// Blocks that hold `largest`, at another place and of another sign each time, and else every half of both signs that is
/// no larger, once.
fn push_under(largest: f16, each: usize, halves: &mut Vec<f16>) {
    let smaller = (0..=largest.to_bits()).flat_map(|code| [code, code | 0x8000]);
    let smaller: Vec<f16> = smaller.map(f16::from_bits).collect();
    for (block, others) in smaller.chunks(each - 1).enumerate() {
        let sign = if (block / each).is_multiple_of(2) { largest } else { -largest };
        let mut numbers = others.to_vec();
        numbers.resize(each - 1, f16::ZERO);
        numbers.insert(block % each, sign);
        halves.extend(numbers);
    }
}

/// A block for each half, of which it is the largest; the others have shares of its code.
fn each_as_largest(each: usize, whole: f32) -> Vec<f16> {
    let mut halves = Vec::new();
    for code in (1..=MOST).filter(|code| f16::from_bits(*code).to_f32() <= whole) {
        for i in 0..each {
            // `share` is `each` once, so that the half itself is there.
            let share = (i + usize::from(code)) % each + 1;
            let part = (usize::from(code) * share / each) as u16;
            halves.push(f16::from_bits(part | if i % 3 == 0 { 0x8000 } else { 0 }));
        }
    }
    halves
}

/// Every half under every scale, and every half as the largest of a block.
fn all_halves(scheme: Scheme) -> Vec<Matrix> {
    let each = numbers_of_block(scheme);
    let wholes = if scheme == Scheme::Nvfp4 { &WHOLE[..] } else { &WHOLE[1..] };
    let matrices = wholes.iter().flat_map(|&whole| {
        let mut under = Vec::new();
        for largest in largest_of_scales(scheme, whole) {
            push_under(largest, each, &mut under);
        }
        [under, each_as_largest(each, whole)].map(|halves| Matrix::of_blocks(halves, whole))
    });
    matrices.collect()
}

/// Matrices of odd shapes, of nothing, and of magnitudes that are not their own.
fn odd_shapes(scheme: Scheme, seed: u64) -> Vec<Matrix> {
    let own =
        |halves: Vec<f16>, columns: u32| Matrix { largest: oracle::amax(&halves), halves, columns };
    let shapes = [(1, 128), (1, 8320), (127, 384), (129, 384), (251, 128), (129, 8320)];
    let mut matrices = Vec::new();
    for (seed, (rows, columns)) in (seed..).zip(shapes) {
        let halves = match rows {
            1 => operands::activations(seed, rows, columns),
            _ => operands::with_edges(seed, rows, columns),
        };
        matrices.push(own(halves, columns as u32));
    }
    matrices.push(own(vec![f16::ZERO; 129 * 384], 384));
    matrices.push(own(vec![f16::NEG_ZERO; 129 * 384], 384));
    if scheme == Scheme::Nvfp4 {
        let halves = operands::activations(seed, 129, 384);
        let third = oracle::amax(&halves) / 3.0;
        for largest in [third, 1e-37] {
            matrices.push(Matrix { halves: halves.clone(), columns: 384, largest });
        }
    }
    matrices
}

/// The oracle's codes and scales, by threads that take whole pieces of scales, 128 rows each.
fn wanted(scheme: Scheme, matrix: &Matrix) -> Wanted {
    let Matrix { halves, columns, largest } = matrix;
    let band = 128 * matrix.rows().div_ceil(128).div_ceil(THREADS);
    let mut all = Wanted {
        codes: Vec::new(),
        scales: Vec::new(),
        named: Vec::new(),
        numbers: Vec::new(),
        bounds: Vec::new(),
    };
    std::thread::scope(|scope| {
        let bands = halves.chunks(band * *columns as usize);
        let work = |band| move || oracle::quantise(scheme, band, *columns as usize, *largest);
        let threads: Vec<_> = bands.map(|band| scope.spawn(work(band))).collect();
        for thread in threads {
            let part = thread.join().expect("the oracle does not panic");
            all.codes.extend(part.codes);
            all.scales.extend(part.scales);
            all.named.extend(part.named);
        }
    });
    all
}

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    quantiser: Quantiser,
}

/// Codes and scales that are wrong in the healthy run and under each fault, and numbers that were quantised.
#[derive(Debug, Default)]
struct Counts {
    healthy: u64,
    truncated: u64,
    scale_off: u64,
    numbers: u64,
}

impl Bench<'_> {
    fn quantise(&self, scheme: Scheme, matrix: &Matrix, truncate: bool) -> Result<Left, Stop> {
        let source = operands::halves(self.gpu, &matrix.halves)?;
        let largest = operands::floats(self.gpu, &[matrix.largest])?;
        let extra = Extra { amax: Some(&largest), truncate, ..Extra::default() };
        let sizes = (matrix.rows() as u64, matrix.columns);
        left_of((self.gpu, &self.quantiser), scheme, &source, sizes, extra)
    }

    fn counts(&self, scheme: Scheme, matrices: &[Matrix]) -> Result<Counts, Stop> {
        let mut counts = Counts::default();
        for matrix in matrices {
            let wanted = wanted(scheme, matrix);
            let wrong = |left: &Left| {
                super::differing(scheme, (&left.codes, &left.scales), &wanted) + left.beyond
            };
            let mut left = self.quantise(scheme, matrix, false)?;
            counts.healthy += wrong(&left);
            left.scales[0] += 1;
            counts.scale_off += wrong(&left);
            counts.truncated += wrong(&self.quantise(scheme, matrix, true)?);
            counts.numbers += matrix.halves.len() as u64;
        }
        Ok(counts)
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    let bench = Bench { gpu, index, quantiser };
    for scheme in SCHEMES {
        for over in ["halves", "shapes"] {
            recorder.progress(&format!("{}, {over}", scheme.name()));
            let matrices = match over {
                "halves" => all_halves(scheme),
                _ => odd_shapes(scheme, assignment.seed),
            };
            let counts = bench.counts(scheme, &matrices)?;
            let at = [("scheme", scheme.name()), ("over", over)];
            let metric = |count: u64| Metric::exact(DIFFERING, &at, &[bench.index], count as f64);
            recorder.metric(metric(counts.healthy));
            recorder.control("toward-zero", metric(counts.truncated));
            recorder.control("scale-one-code-off", metric(counts.scale_off));
            recorder.option(&format!("numbers.{}.{over}", scheme.name()), counts.numbers);
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
    fn every_scale_is_met() {
        for scheme in [Scheme::Mxfp8, Scheme::Mxfp4] {
            let largest = largest_of_scales(scheme, 65504.0);
            assert_eq!(largest.len(), 41, "{scheme:?}");
            assert_eq!(largest.last(), Some(&f16::MAX), "{scheme:?}");
        }
        for whole in WHOLE {
            let largest = largest_of_scales(Scheme::Nvfp4, whole);
            let scales: BTreeSet<u32> =
                largest.iter().map(|half| scale_of(Scheme::Nvfp4, *half, whole)).collect();
            // Zero, and 126 numbers.
            assert_eq!(scales, (0..=126).collect::<BTreeSet<u32>>(), "{whole}");
            assert_eq!(largest.len(), 127, "{whole}");
            assert_eq!(largest.last(), Some(&f16::from_f32(whole)), "{whole}");
        }
    }

    /// Under a largest half of few: each block has it, and all smaller ones are there with both signs.
    #[test]
    fn blocks_hold_every_half() {
        for each in [16, 32] {
            let (largest, mut halves) = (f16::from_bits(1000), Vec::new());
            push_under(largest, each, &mut halves);
            assert!(halves.len().is_multiple_of(each));
            for block in halves.chunks(each) {
                let most = block.iter().map(|half| half.to_bits() & 0x7FFF).max();
                assert_eq!(most, Some(1000));
            }
            let seen: BTreeSet<u16> = halves.iter().map(|half| half.to_bits()).collect();
            let wanted = (0..=1000u16).flat_map(|code| [code, code | 0x8000]);
            assert_eq!(seen, wanted.collect::<BTreeSet<u16>>());
        }
    }

    #[test]
    fn each_half_is_a_largest() {
        for each in [16, 32] {
            let halves = each_as_largest(each, 65504.0);
            for (code, block) in (1..=MOST).zip(halves.chunks(each)) {
                let most = block.iter().map(|half| half.to_bits() & 0x7FFF).max();
                assert_eq!(most, Some(code));
            }
            assert_eq!(halves.len(), each * usize::from(MOST));
        }
    }

    /// What threads make of bands of rows is what one makes of all, places of scales and padding too.
    #[test]
    fn bands_make_the_whole() {
        for scheme in SCHEMES {
            for matrix in odd_shapes(scheme, 5).into_iter().filter(|matrix| matrix.columns < 8000) {
                let columns = matrix.columns as usize;
                let whole = oracle::quantise(scheme, &matrix.halves, columns, matrix.largest);
                let bands = wanted(scheme, &matrix);
                assert_eq!(bands.codes, whole.codes);
                assert_eq!(bands.scales, whole.scales);
                assert_eq!(bands.named, whole.named);
            }
        }
    }
}
