//! Large products beside f64, element by element: by no more than the adder's own bound, and by no more than the format
//! takes.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, CudaStream, Plain};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::matmul::{Operands, Plan, Request, WORKSPACE_BYTES};
use kernels::quantise::{Extra, Quantised, Scheme};
use kernels::tensorcore::{self, Adder};

use super::super::scaled::{self, ALIKE, ROW, ROW_FAST, Scaling, TENSOR, TENSOR_FAST};
use super::super::{accumulator, operands};
use super::{Bench, FORMAT, offered, with_bench};
use crate::lab::{finite, over_cores};

/// Largest error of a drawn element beside f64 on the codes and scales, over what the adder may lose of it.
pub const ERROR: &str = "error_over_bound_ratio";

/// Rows of A and of B, and columns of both.
const SIDE: u32 = 4096;
const K: u32 = 8192;
/// Drawn rows of each, one of so many: all elements of D where two of them meet are looked at.
const DRAWN: u64 = 64;
const EACH: u64 = SIDE as u64 / DRAWN;
/// Powers of two among the rows of A.
const SPREAD: u32 = 9;
/// Rows and columns of a block of weights.
const BLOCK: usize = 128;
/// The scale of positive codes: no power of two, so that the epilogue rounds.
const POSITIVE_SCALE: f32 = 0.3;
/// What the model of the planted adder keeps.
const NARROW: Adder = Adder { aligned_bits: 11, kept_bits: 11, ..Adder::HOPPER_E4M3 };

static CONTROLS: [Control; 5] = [
    Control {
        name: "fast-for-precise",
        fault: "positive numbers are added by fast accumulation where precise was asked for",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-off",
        fault: "the scales of A are 2^-7 too large under precise accumulation of positive numbers",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "adder-of-11-bits",
        fault: "drawn elements of fast sums of positive numbers are added up in 11 bits, two too few",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "other-rows",
        fault: "the rows of A are each the one below",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "weight-block-unquantised",
        fault: "a block of 128 x 128 weights is converted without its scales",
        trips: FORMAT,
        expect: Expect::Refuted,
    },
];

/// Each GPU. Of tier full: in tier quick `precision::products-foretold` tells the same adder bit by bit.
pub static CASE: Case = Case {
    id: "precision::fp8-product-bound",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "Products of 4096 x 4096 over k = 8192, E4M3 by cuBLASLt's first algorithm without split of k, with scales by \
                row (bfloat16 out) and by tensor (f32 out), precise and fast accumulation: of activations with outliers, rows \
                up to 2^8 apart, by weights alike, quantised by this project's quantisers, and of uniform positive codes, \
                whose truncations all have one sign. Of 64 drawn rows of each matrix all 4096 elements are compared with f64 \
                on the codes and scales: the largest error over the bound that kernels/src/tensorcore.rs derives from 32 \
                products aligned and kept to 13 bits, groups of 128 added in f32 where accumulation is precise, and the \
                roundings behind it. Of the numbers quantised by row also the error beside f64 on the fp16 numbers, of the \
                worst drawn row or column. Not applicable but on compute capability 9.0, whose adder the bound is of.",
    samples: 0,
    expected_s: 5.0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let seed = assignment.seed;
    with_bench(assignment, recorder, accumulator::modelled, |bench, recorder| {
        recorder.progress("positive numbers");
        let sides = [seed ^ 31, seed ^ 32].map(|seed| positive(bench, seed));
        let [a, b] = sides;
        let positive = Product::new(bench, "positive", a?, b?);
        for scaling in [ROW, ROW_FAST, TENSOR, TENSOR_FAST] {
            positive.judged(scaling, recorder)?;
        }
        positive.planted(recorder)?;
        drop(positive);
        recorder.progress("numbers to quantise");
        let halves = [(seed ^ 33, SPREAD), (seed ^ 34, ALIKE)]
            .map(|(seed, powers)| operands::spread(seed, SIDE.into(), K.into(), powers));
        for (precise, fast) in [(ROW, ROW_FAST), (TENSOR, TENSOR_FAST)] {
            recorder.progress(precise.name);
            let a = quantised(bench, precise.a, &halves[0])?;
            let b = quantised(bench, precise.b, &halves[1])?;
            let product = Product::new(bench, "quantised", a, b);
            for scaling in [precise, fast] {
                product.judged(scaling, recorder)?;
                product.moved(scaling, recorder)?;
            }
            // Of rows so far apart one scale a matrix leaves little.
            if precise == ROW {
                product.beside_halves(&halves, recorder)?;
            }
        }
        Ok(())
    })
}

/// The drawn rows of either matrix.
fn drawn() -> Vec<usize> {
    (0..DRAWN).map(|i| (i * EACH + u64::from(draw(0xB0D, i)) % EACH) as usize).collect()
}

/// A matrix on the GPU, and its drawn rows on the host.
struct Side {
    held: Quantised,
    codes: Vec<Vec<u32>>,
    scales: Vec<f64>,
}

impl Side {
    /// Of a matrix with scales by row or by tensor.
    fn new(bench: &Bench<'_>, held: Quantised) -> Result<Side, Stop> {
        let stream = bench.gpu.stream();
        let scales: Vec<f32> =
            held.scales.read_vec(stream, (held.scales.len_bytes() / 4) as usize)?;
        let by_row = scales.len() == SIDE as usize;
        let scale = |row: &usize| f64::from(scales[if by_row { *row } else { 0 }]);
        let row = |row: &usize| -> Result<Vec<u32>, Stop> {
            let mut codes = vec![0u8; K as usize];
            held.codes.read(stream, (row * K as usize) as u64, &mut codes)?;
            Ok(codes.into_iter().map(u32::from).collect())
        };
        let rows = drawn();
        let codes = rows.iter().map(row).collect::<Result<_, Stop>>()?;
        Ok(Side { codes, scales: rows.iter().map(scale).collect(), held })
    }
}

/// Uniform codes of 0 to 4, with the same scale for each row, which is a tensor's too.
fn positive(bench: &Bench<'_>, seed: u64) -> Result<Side, Stop> {
    let rows: Vec<u64> = (0..u64::from(SIDE)).collect();
    let row = |row: &u64| -> Vec<u8> {
        let first = row * u64::from(K);
        (first..first + u64::from(K)).map(|i| accumulator::positive_code(seed, i) as u8).collect()
    };
    let codes = operands::bytes(bench.gpu, &over_cores(&rows, row).concat())?;
    let scales = operands::floats(bench.gpu, &[POSITIVE_SCALE; SIDE as usize])?;
    Side::new(bench, Quantised { codes, scales })
}

/// Halves as a quantiser makes them.
fn quantised(bench: &Bench<'_>, scheme: Scheme, halves: &[f16]) -> Result<Side, Stop> {
    let (stream, sizes) = (bench.gpu.stream(), (u64::from(SIDE), K));
    let source = operands::halves(bench.gpu, halves)?;
    let target = Quantised::new(bench.gpu, scheme, sizes.0, sizes.1)?;
    target.scales.fill_u32(stream, 0)?;
    let largest = operands::floats(bench.gpu, &[0.0])?;
    bench.quantiser.largest(stream, &source, sizes, &largest)?;
    let extra = Extra { amax: Some(&largest), ..Extra::default() };
    bench.quantiser.run(stream, scheme, &source, sizes, &target, extra)?;
    stream.synchronize()?;
    Side::new(bench, target)
}

/// Two matrices, and of each drawn element the exact sum of its codes with the bound of its adder: where accumulation is
/// precise, and where it is fast.
struct Product<'a> {
    bench: &'a Bench<'a>,
    data: &'static str,
    a: Side,
    b: Side,
    sums: [Vec<(f64, f64)>; 2],
}

impl<'a> Product<'a> {
    fn new(bench: &'a Bench<'a>, data: &'static str, a: Side, b: Side) -> Product<'a> {
        let sums = [Some(scaled::ROW.instructions), None].map(|promoted| {
            let element = |a: &[u32], b: &[u32]| {
                tensorcore::exact_and_bound(Adder::HOPPER_E4M3, Element::E4m3, promoted, a, b)
            };
            let row = |row: &Vec<u32>| -> Vec<(f64, f64)> {
                b.codes.iter().map(|column| element(row, column)).collect()
            };
            over_cores(&a.codes, row).concat()
        });
        Product { bench, data, a, b, sums }
    }

    /// The drawn elements of the product of these matrices.
    fn elements(
        &self,
        scaling: Scaling,
        (a, b): (&Quantised, &Quantised),
    ) -> Result<(Vec<f64>, String), Stop> {
        let (gpu, stream) = (self.bench.gpu, self.bench.gpu.stream());
        let output = scaling.dtype.output();
        let d = gpu.alloc(output.bytes() * u64::from(SIDE) * u64::from(SIDE))?;
        d.poison(stream)?;
        let given = Operands {
            a: &a.codes,
            b: &b.codes,
            d: &d,
            scale_a: Some(&a.scales),
            scale_b: Some(&b.scales),
            alpha: 1.0,
            first: [0; 3],
        };
        let request = Request {
            workspace_bytes: WORKSPACE_BYTES,
            fast_accumulation: scaling.fast,
            ..Request::new(scaling.dtype, SIDE, SIDE, K)
        };
        let plan = offered(gpu, Plan::heuristic_first(gpu, self.bench.lt, request, &given))?;
        plan.run(stream, &given)?;
        let places = drawn();
        let mut found = Vec::new();
        for row in &places {
            let first = *row as u64 * u64::from(SIDE) * output.bytes();
            let codes = match output.bytes() {
                4 => codes_at::<u32>(&d, stream, first, SIDE)?,
                _ => codes_at::<u16>(&d, stream, first, SIDE)?,
            };
            found.extend(places.iter().map(|column| output.decode(codes[*column])));
        }
        Ok((found, format!("{:?}", plan.choice().algorithm)))
    }

    /// [`ERROR`] of elements that were found.
    fn ratio(&self, scaling: Scaling, found: &[f64]) -> Metric {
        let sums = &self.sums[usize::from(scaling.fast)];
        let columns = self.b.scales.len();
        let ratios = found.iter().zip(sums).enumerate().map(|(i, (found, sum))| {
            let scale = self.a.scales[i / columns] * self.b.scales[i % columns];
            over_bound(*found, *sum, scale, scaling.dtype.output())
        });
        // What is no number is beyond every bound.
        let most = ratios.fold(0.0, |most: f64, ratio| most.max(finite(ratio)));
        let at = [("scales", scaling.name), ("data", self.data)];
        Metric::exact(ERROR, &at, &[self.bench.index], most)
    }

    fn judged(&self, scaling: Scaling, recorder: &mut Recorder) -> Result<(), Stop> {
        let (found, algorithm) = self.elements(scaling, (&self.a.held, &self.b.held))?;
        recorder.option(&format!("algorithm.{}.{}", scaling.name, self.data), algorithm);
        recorder.metric(self.ratio(scaling, &found));
        Ok(())
    }

    /// Faults that sums of one sign show.
    fn planted(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let (a, b) = (&self.a.held, &self.b.held);
        let larger = [POSITIVE_SCALE * (1.0 + 2f32.powi(-7)); SIDE as usize];
        let codes =
            a.codes.read_vec::<u8>(self.bench.gpu.stream(), a.codes.len_bytes() as usize)?;
        let off = Quantised {
            codes: operands::bytes(self.bench.gpu, &codes)?,
            scales: operands::floats(self.bench.gpu, &larger)?,
        };
        for (precise, fast) in [(ROW, ROW_FAST), (TENSOR, TENSOR_FAST)] {
            let (found, _) = self.elements(fast, (a, b))?;
            recorder.control("fast-for-precise", self.ratio(precise, &found));
            let (found, _) = self.elements(precise, (&off, b))?;
            recorder.control("scale-off", self.ratio(precise, &found));
            recorder.control("adder-of-11-bits", self.ratio(fast, &self.narrow(fast)));
        }
        Ok(())
    }

    /// The drawn elements as a narrower adder makes them.
    fn narrow(&self, scaling: Scaling) -> Vec<f64> {
        let scale = f64::from(POSITIVE_SCALE).powi(2);
        let element = |a: &[u32], b: &[u32]| -> f64 {
            let sum = f64::from(tensorcore::dot(NARROW, Element::E4m3, None, a, b)) * scale;
            match scaling.dtype.output() {
                Element::F32 => sum,
                output => output.decode(output.encode(sum as f32)),
            }
        };
        let row = |row: &Vec<u32>| -> Vec<f64> {
            self.b.codes.iter().map(|column| element(row, column)).collect()
        };
        over_cores(&self.a.codes, row).concat()
    }

    /// Rows of A that stand where the one above should.
    fn moved(&self, scaling: Scaling, recorder: &mut Recorder) -> Result<(), Stop> {
        let (gpu, stream) = (self.bench.gpu, self.bench.gpu.stream());
        let Quantised { codes, scales } = &self.a.held;
        let mut below: Vec<u8> = codes.read_vec(stream, codes.len_bytes() as usize)?;
        below.rotate_left(K as usize);
        let kept: Vec<f32> = scales.read_vec(stream, (scales.len_bytes() / 4) as usize)?;
        let other = Quantised {
            codes: operands::bytes(gpu, &below)?,
            scales: operands::floats(gpu, &kept)?,
        };
        let (found, _) = self.elements(scaling, (&other, &self.b.held))?;
        recorder.control("other-rows", self.ratio(scaling, &found));
        Ok(())
    }

    /// The drawn elements beside f64 on the halves, and with a block of weights that is not quantised.
    fn beside_halves(&self, halves: &[Vec<f16>; 2], recorder: &mut Recorder) -> Result<(), Stop> {
        let rows = |side: usize| -> Vec<Vec<f64>> {
            let numbers = |row: &usize| {
                let row = &halves[side][row * K as usize..][..K as usize];
                row.iter().map(|half| half.to_f64()).collect()
            };
            drawn().iter().map(numbers).collect()
        };
        let (left, right) = (rows(0), rows(1));
        let row = |a: &Vec<f64>| -> Vec<f64> {
            right.iter().map(|b| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect()
        };
        let wanted = over_cores(&left, row).concat();
        let sizes =
            [&left, &right].map(|rows| rows.iter().map(|row| size(row)).collect::<Vec<f64>>());
        let error = |b: &Quantised| -> Result<Metric, Stop> {
            let (found, _) = self.elements(ROW, (&self.a.held, b))?;
            let error = scaled::worst_error(&found, &wanted, (&sizes[0], &sizes[1]));
            Ok(self.bench.metric(FORMAT, ROW.name, error))
        };
        recorder.metric(error(&self.b.held)?);
        recorder.control("weight-block-unquantised", error(&self.unquantised(&halves[1])?)?);
        Ok(())
    }

    /// The weights with a block converted as it is: of the rows about the first drawn one, the first columns.
    fn unquantised(&self, weights: &[f16]) -> Result<Quantised, Stop> {
        let (gpu, stream) = (self.bench.gpu, self.bench.gpu.stream());
        let Quantised { codes, scales } = &self.b.held;
        let mut all: Vec<u8> = codes.read_vec(stream, codes.len_bytes() as usize)?;
        let first = drawn()[0] / BLOCK * BLOCK;
        for row in first..first + BLOCK {
            for at in row * K as usize..row * K as usize + BLOCK {
                all[at] = Element::E4m3.encode(weights[at].to_f32()) as u8;
            }
        }
        let kept: Vec<f32> = scales.read_vec(stream, (scales.len_bytes() / 4) as usize)?;
        Ok(Quantised { codes: operands::bytes(gpu, &all)?, scales: operands::floats(gpu, &kept)? })
    }
}

/// Error of an element over its bound: that of the sum, four roundings to f32 of scales and alpha, and the rounding to the
/// type of the output, half a unit in the last place of the largest number that it may have been.
fn over_bound(found: f64, (sum, bound): (f64, f64), scale: f64, output: Element) -> f64 {
    let error = (found - sum * scale).abs();
    let reach = (sum.abs() + bound) * scale;
    let rounded = 4.0 * 2f64.powi(-24) * reach;
    let allowed = bound * scale + rounded + output.half_ulp(reach + rounded);
    if error == 0.0 { 0.0 } else { error / allowed }
}

/// The Euclidean norm of a row; one of zeros counts as one.
fn size(row: &[f64]) -> f64 {
    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm == 0.0 { 1.0 } else { norm }
}

/// So many codes from a byte of a buffer on.
fn codes_at<T: Plain + Default + Into<u32>>(
    buffer: &Buffer,
    stream: &CudaStream,
    first: u64,
    count: u32,
) -> Result<Vec<u32>, Stop> {
    let mut codes = vec![T::default(); count as usize];
    buffer.read(stream, first, &mut codes)?;
    Ok(codes.into_iter().map(Into::into).collect())
}

#[cfg(test)]
mod tests {
    use kernels::quantise::oracle;

    use super::*;

    /// A row as a quantiser by rows makes it of [`operands::spread`], or of positive codes.
    fn row(seed: u64, positive: bool) -> Vec<u32> {
        if positive {
            return (0..u64::from(K)).map(|i| accumulator::positive_code(seed, i)).collect();
        }
        let halves = operands::spread(seed, 1, K.into(), ALIKE);
        let (_, inverse) = oracle::scale_of(oracle::amax(&halves));
        halves.iter().map(|x| Element::E4m3.encode(x.to_f32() * inverse)).collect()
    }

    /// The largest ratio of 16 products by the model of an adder, of an output, beside the bound of another accumulation.
    fn worst(
        (adder, ran): (Adder, Option<usize>),
        judged: Option<usize>,
        output: Element,
        (positive, factor): (bool, f64),
    ) -> f64 {
        let ratio = |pair: u64| {
            let (a, b) = (row(2 * pair, positive), row(2 * pair + 1, positive));
            let sum = factor * f64::from(tensorcore::dot(adder, Element::E4m3, ran, &a, &b));
            let found = match output {
                Element::F32 => f64::from(sum as f32),
                output => output.decode(output.encode(sum as f32)),
            };
            let sums =
                tensorcore::exact_and_bound(Adder::HOPPER_E4M3, Element::E4m3, judged, &a, &b);
            over_bound(found, sums, 1.0, output)
        };
        (0..16).map(ratio).fold(0.0, f64::max)
    }

    const HOPPER: Adder = Adder::HOPPER_E4M3;
    const OUTPUTS: [Element; 2] = [Element::F32, Element::Bf16];

    #[test]
    fn sums_of_one_sign_come_near_their_bound() {
        for (output, most) in [(Element::F32, 0.5), (Element::Bf16, 0.95)] {
            let precise = worst((HOPPER, Some(4)), Some(4), output, (true, 1.0));
            assert!((0.3..most).contains(&precise), "{output:?}: {precise}");
            let fast = worst((HOPPER, None), None, output, (true, 1.0));
            assert!((0.3..0.5).contains(&fast), "{output:?}: {fast}");
        }
    }

    #[test]
    fn sums_of_both_signs_stay_far_within() {
        for output in OUTPUTS {
            let precise = worst((HOPPER, Some(4)), Some(4), output, (false, 1.0));
            let fast = worst((HOPPER, None), None, output, (false, 1.0));
            assert!(precise < 0.6 && fast < 0.1, "{output:?}: {precise} {fast}");
        }
    }

    #[test]
    fn what_is_planted_is_beyond_the_bound() {
        for output in OUTPUTS {
            let fast = worst((HOPPER, None), Some(4), output, (true, 1.0));
            assert!(fast > 10.0, "{output:?}: {fast}");
            let scaled = worst((HOPPER, Some(4)), Some(4), output, (true, 1.0 + 2f64.powi(-7)));
            assert!(scaled > 2.0, "{output:?}: {scaled}");
            let narrow = worst((NARROW, None), None, output, (true, 1.0));
            assert!(narrow > 1.1, "{output:?}: {narrow}");
        }
    }

    /// Of 16 pairs the largest error of another row's product, over the bound of the right one's.
    #[test]
    fn another_row_is_beyond_the_bound() {
        for promoted in [Some(4), None] {
            let ratio = |pair: u64| {
                let [a, b, other] = [0, 1, 100].map(|i| row(2 * pair + i, false));
                let found = tensorcore::dot(HOPPER, Element::E4m3, promoted, &other, &b).into();
                let sums = tensorcore::exact_and_bound(HOPPER, Element::E4m3, promoted, &a, &b);
                over_bound(found, sums, 1.0, Element::Bf16)
            };
            let most = (0..16).map(ratio).fold(0.0, f64::max);
            assert!(most > 1.5, "{promoted:?}: {most}");
        }
    }
}
