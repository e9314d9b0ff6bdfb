//! Large products beside f64, element by element: by no more than the adder's own bound, and by no more than the format
//! takes.

mod element;

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

use super::super::scaled::{self, BLOCK, ROW, ROW_FAST, Scaling, TENSOR, TENSOR_FAST};
use super::super::{accumulator, operands};
use super::{Bench, FORMAT, offered, with_bench};
use crate::lab::{finite, over_cores};
use element::{over_bound, wanted};

/// Largest error of a drawn element beside f64 on the codes and scales, over what the adder may lose of it.
pub const ERROR: &str = "error_over_bound_ratio";

/// Rows of A and of B, and columns of both.
const SIDE: u32 = 4096;
const K: u32 = 8192;
/// Drawn rows of each, one of so many: all elements of D where two of them meet are looked at.
const DRAWN: u64 = 64;
const EACH: u64 = SIDE as u64 / DRAWN;
/// Rows and columns of a square of weights, and columns that share a scale of blocks.
const SQUARE: usize = 128;
/// Scales, and the same with fast accumulation, which blocks do not have.
const KINDS: [(Scaling, Option<Scaling>); 3] =
    [(ROW, Some(ROW_FAST)), (TENSOR, Some(TENSOR_FAST)), (BLOCK, None)];
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
                row and by 1x128 and 128x128 blocks (bfloat16 out) and by tensor (f32 out), precise and, but for blocks, fast \
                accumulation: of activations with outliers, rows \
                up to 2^8 apart, by weights without any, quantised by this project's quantisers, and of uniform positive codes, \
                whose truncations all have one sign. Of 64 drawn rows of each matrix all 4096 elements are compared with f64 \
                on the codes and scales: the largest error over the bound that kernels/src/tensorcore.rs derives from 32 \
                products aligned and kept to 13 bits, groups of 128 added in f32 where accumulation is precise, and the \
                roundings behind it. Of the numbers quantised by row and by blocks also the error beside f64 on the fp16 numbers, of the \
                worst drawn row or column. Not applicable but on compute capability 9.0, whose adder the bound is of.",
    samples: 0,
    expected_s: 7.0,
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
        let codes = [seed ^ 31, seed ^ 32].map(positive);
        for (precise, fast) in KINDS {
            recorder.progress(&format!("positive, {}", precise.name));
            let a = uniform(bench, precise.a, &codes[0], POSITIVE_SCALE)?;
            let b = uniform(bench, precise.b, &codes[1], POSITIVE_SCALE)?;
            let product = Product::new(bench, (precise, "positive"), a, b);
            product.judged(precise, recorder)?;
            product.scale_off(&codes[0], recorder)?;
            if let Some(fast) = fast {
                product.judged(fast, recorder)?;
                product.misadded(fast, recorder)?;
            }
        }
        let halves = [
            operands::activations(seed ^ 33, SIDE.into(), K.into()),
            operands::weights(seed ^ 34, SIDE.into(), K.into()),
        ];
        for (precise, fast) in KINDS {
            recorder.progress(&format!("quantised, {}", precise.name));
            let a = quantised(bench, precise.a, &halves[0])?;
            let b = quantised(bench, precise.b, &halves[1])?;
            let product = Product::new(bench, (precise, "quantised"), a, b);
            for scaling in [Some(precise), fast].into_iter().flatten() {
                product.judged(scaling, recorder)?;
                product.moved(scaling, recorder)?;
            }
            // Of rows so far apart one scale a matrix leaves little.
            if precise != TENSOR {
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

/// A matrix on the GPU, and its drawn rows on the host: codes, and the scale of the row or those of its groups of
/// columns.
struct Side {
    held: Quantised,
    codes: Vec<Vec<u32>>,
    scales: Vec<Vec<f64>>,
}

impl Side {
    fn new(bench: &Bench<'_>, scheme: Scheme, held: Quantised) -> Result<Side, Stop> {
        let stream = bench.gpu.stream();
        let all: Vec<f32> = held.scales.read_vec(stream, (held.scales.len_bytes() / 4) as usize)?;
        let row = |row: &usize| -> Result<Vec<u32>, Stop> {
            let mut codes = vec![0u8; K as usize];
            held.codes.read(stream, (row * K as usize) as u64, &mut codes)?;
            Ok(codes.into_iter().map(u32::from).collect())
        };
        let rows = drawn();
        let codes = rows.iter().map(row).collect::<Result<_, Stop>>()?;
        let of_row = |row: &usize| -> Vec<f64> {
            places(scheme, *row).into_iter().map(|place| all[place].into()).collect()
        };
        Ok(Side { codes, scales: rows.iter().map(of_row).collect(), held })
    }
}

/// Where the scales of a row lie: one, or one for each group of columns.
fn places(scheme: Scheme, row: usize) -> Vec<usize> {
    let groups = 0..K as usize / SQUARE;
    match scheme {
        Scheme::Block128 => groups.map(|group| group * SIDE as usize + row).collect(),
        Scheme::Square128 => {
            let padded = groups.len().next_multiple_of(4);
            groups.map(|group| row / SQUARE * padded + group).collect()
        }
        Scheme::Row => vec![row],
        _ => vec![0],
    }
}

/// Uniform codes of 0 to 4.
fn positive(seed: u64) -> Vec<u8> {
    let rows: Vec<u64> = (0..u64::from(SIDE)).collect();
    let row = |row: &u64| -> Vec<u8> {
        let first = row * u64::from(K);
        (first..first + u64::from(K)).map(|i| accumulator::positive_code(seed, i) as u8).collect()
    };
    over_cores(&rows, row).concat()
}

/// Codes with one scale everywhere.
fn uniform(bench: &Bench<'_>, scheme: Scheme, codes: &[u8], scale: f32) -> Result<Side, Stop> {
    let scales = vec![scale; scheme.scale_bytes(SIDE.into(), K) as usize / 4];
    let codes = operands::bytes(bench.gpu, codes)?;
    let scales = operands::floats(bench.gpu, &scales)?;
    Side::new(bench, scheme, Quantised { codes, scales })
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
    Side::new(bench, scheme, target)
}

/// Two matrices, and of each drawn element the exact sum with the bound of its adder: where accumulation is precise, and
/// where it is fast.
struct Product<'a> {
    bench: &'a Bench<'a>,
    precise: Scaling,
    data: &'static str,
    a: Side,
    b: Side,
    sums: [Vec<(f64, f64)>; 2],
}

impl<'a> Product<'a> {
    fn new(
        bench: &'a Bench<'a>,
        (precise, data): (Scaling, &'static str),
        a: Side,
        b: Side,
    ) -> Product<'a> {
        let places: Vec<usize> = (0..a.codes.len()).collect();
        let sums = [false, true].map(|fast| {
            // Blocks have one accumulation.
            if fast && precise == BLOCK {
                return Vec::new();
            }
            let promoted = (!fast).then_some(precise.instructions);
            let row = |m: &usize| -> Vec<(f64, f64)> {
                let columns = b.codes.iter().zip(&b.scales);
                let left = (a.codes[*m].as_slice(), a.scales[*m].as_slice());
                let element = |(codes, scales): (&Vec<u32>, &Vec<f64>)| {
                    wanted(promoted, left, (codes.as_slice(), scales.as_slice()))
                };
                columns.map(element).collect()
            };
            over_cores(&places, row).concat()
        });
        Product { bench, precise, data, a, b, sums }
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
        assert_eq!(found.len(), sums.len(), "{}: an element without its sum", scaling.name);
        let ratios = found
            .iter()
            .zip(sums)
            .map(|(found, wanted)| over_bound(*found, *wanted, scaling.dtype.output()));
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

    /// Positive codes with other scales than those that are judged.
    fn scale_off(&self, codes: &[u8], recorder: &mut Recorder) -> Result<(), Stop> {
        let larger = POSITIVE_SCALE * (1.0 + 2f32.powi(-7));
        let off = uniform(self.bench, self.precise.a, codes, larger)?;
        let (found, _) = self.elements(self.precise, (&off.held, &self.b.held))?;
        recorder.control("scale-off", self.ratio(self.precise, &found));
        Ok(())
    }

    /// Positive sums by accumulation that is fast, and by a narrower adder.
    fn misadded(&self, fast: Scaling, recorder: &mut Recorder) -> Result<(), Stop> {
        let (found, _) = self.elements(fast, (&self.a.held, &self.b.held))?;
        recorder.control("fast-for-precise", self.ratio(self.precise, &found));
        recorder.control("adder-of-11-bits", self.ratio(fast, &self.narrow(fast)));
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
            let (found, _) = self.elements(self.precise, (&self.a.held, b))?;
            let error = scaled::worst_error(&found, &wanted, (&sizes[0], &sizes[1]));
            Ok(self.bench.metric(FORMAT, self.precise.name, error))
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
        let first = drawn()[0] / SQUARE * SQUARE;
        for row in first..first + SQUARE {
            for at in row * K as usize..row * K as usize + SQUARE {
                all[at] = Element::E4m3.encode(weights[at].to_f32()) as u8;
            }
        }
        let kept: Vec<f32> = scales.read_vec(stream, (scales.len_bytes() / 4) as usize)?;
        Ok(Quantised { codes: operands::bytes(gpu, &all)?, scales: operands::floats(gpu, &kept)? })
    }
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

    #[test]
    fn scales_lie_where_the_quantisers_and_cublaslt_have_them() {
        assert_eq!((places(Scheme::Row, 77), places(Scheme::Tensor, 77)), (vec![77], vec![0]));
        let groups = K as usize / SQUARE;
        let blocks = places(Scheme::Block128, 77);
        assert_eq!((blocks.len(), blocks[0], blocks[3]), (groups, 77, 3 * SIDE as usize + 77));
        let squares = places(Scheme::Square128, 300);
        assert_eq!((squares.len(), squares[0], squares[5]), (groups, 2 * groups, 2 * groups + 5));
        for (scheme, row) in [(Scheme::Block128, 4095), (Scheme::Square128, 4095)] {
            let last = places(scheme, row).last().copied();
            assert_eq!(last, Some(scheme.scale_bytes(SIDE.into(), K) as usize / 4 - 1));
        }
    }

    /// Rows that were quantised by row; those of `unquantised` have their first group as it was.
    fn by_row(halves: &[f16], unquantised: &[usize]) -> Vec<Vec<f64>> {
        let row = |(at, row): (usize, &[f16])| {
            let (scale, inverse) = oracle::scale_of(oracle::amax(row));
            let number = |(i, x): (usize, &f16)| {
                let kept = unquantised.contains(&at) && i < SQUARE;
                let x = x.to_f32() * if kept { 1.0 } else { inverse };
                Element::E4m3.decode(Element::E4m3.encode(x)) * f64::from(scale)
            };
            row.iter().enumerate().map(number).collect()
        };
        halves.chunks(K as usize).enumerate().map(row).collect()
    }

    #[test]
    fn an_unquantised_block_of_weights_is_beyond_the_bound() {
        // The bound of golden/documented.toml.
        const BOUND: f64 = 0.07;
        let rows = 32;
        let a = operands::activations(33, rows, K.into());
        let b = operands::weights(34, rows, K.into());
        let plain = |halves: &[f16]| -> Vec<Vec<f64>> {
            let row = |row: &[f16]| row.iter().map(|half| half.to_f64()).collect();
            halves.chunks(K as usize).map(row).collect()
        };
        let product = |a: &[Vec<f64>], b: &[Vec<f64>]| -> Vec<f64> {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
            over_cores(a, |a| b.iter().map(|b| dot(a, b)).collect::<Vec<f64>>()).concat()
        };
        let (whole_a, whole_b) = (plain(&a), plain(&b));
        let whole = product(&whole_a, &whole_b);
        let sizes = [&whole_a, &whole_b].map(|rows| rows.iter().map(|row| size(row)).collect());
        let [of_a, of_b]: [Vec<f64>; 2] = sizes;
        let error = |unquantised: &[usize]| {
            let found = product(&by_row(&a, &[]), &by_row(&b, unquantised));
            scaled::worst_error(&found, &whole, (&of_a, &of_b))
        };
        // Two of the drawn rows stand in a block.
        let (healthy, planted) = (error(&[]), error(&[0, 1]));
        assert!(healthy < BOUND && BOUND < planted, "{healthy} {planted}");
    }
}
