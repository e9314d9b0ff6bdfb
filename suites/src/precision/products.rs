//! Are products with scales right: integers with powers of two bit by bit, quantised random data beside f64, row by row.
//! Scales by row and by tensor are a case, those by blocks another, since not every board that multiplies E4M3 has them.
//! A third one tells by random codes which arithmetic ran.

pub mod blocks;
pub mod bounded;
pub mod foretold;

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::auto::is_not_offered;
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::matmul::{Lt, Operands, Plan, Request, WORKSPACE_BYTES};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme, oracle};
use kernels::tensorcore::Adder;

use super::operands;
use super::scaled::{
    self, ALIKE, BLOCK, K, ROW, ROW_FAST, SIDE, Scaling, Side, TENSOR, TENSOR_FAST, Which,
};
use crate::e4m3::has_e4m3;
use crate::lab::{self, Lab, finite};

/// Elements that are not the exact product, rounded once.
pub const WRONG: &str = "wrong_count";
/// Of the worst row or column the root mean square of the error beside f64 on the codes and scales, over that of
/// the product.
pub const ARITHMETIC: &str = "arithmetic_error_ratio";
/// The same beside f64 on what was quantised.
pub const FORMAT: &str = "format_error_ratio";
/// Scales of delayed scaling that are not the largest of the last magnitudes over 448.
pub const STALE: &str = "wrong_scale_count";

/// Powers of two among the rows of a matrix that are far apart.
const APART: u32 = 19;
/// Elements that are compared with the model.
const DRAWN: u64 = 512;
/// Magnitudes that delayed scaling keeps, and powers of two by which the matrices of its steps differ.
const HISTORY: usize = 4;
const STEPS: [i32; 9] = [0, 2, 1, 0, -2, -1, 0, -2, -1];

/// Planted with scales of every kind.
pub(super) const TEN_BITS: Control = Control {
    name: "accumulator-of-10-bits",
    fault: "drawn elements of a product of integers are added up in 10 bits",
    trips: WRONG,
    expect: Expect::Refuted,
};
/// The same.
pub(super) const TWELVE_BITS: Control = Control {
    name: "accumulator-of-12-bits",
    fault: "drawn elements of a product of integers are added up in 12 bits, one too few",
    trips: WRONG,
    expect: Expect::Refuted,
};
/// The same.
const TOWARD_ZERO: Control = Control {
    name: "toward-zero",
    fault: "the codes are rounded toward zero",
    trips: FORMAT,
    expect: Expect::Refuted,
};

static CONTROLS: [Control; 8] = [
    Control {
        name: "scale-one-ulp-off",
        fault: "the scale of A is one unit in the last place larger, by tensor",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    TEN_BITS,
    TWELVE_BITS,
    Control {
        name: "small-row-misscaled",
        fault: "the scales of the smallest row, or of the tensor, are a 128th too large",
        trips: ARITHMETIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "fast-for-precise",
        fault: "accumulation is fast where it should be precise, by tensor; by the model of 9.0 where the board's own \
                is no other",
        trips: ARITHMETIC,
        expect: Expect::Refuted,
    },
    TOWARD_ZERO,
    Control {
        name: "block-unquantised",
        fault: "128 numbers of the smallest row are converted without its scale",
        trips: FORMAT,
        expect: Expect::Refuted,
    },
    Control {
        name: "history-stands-still",
        fault: "largest magnitudes are not taken into the history",
        trips: STALE,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::products",
    revision: 4,
    figures_since: 2,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048, E4M3 by cuBLASLt's first algorithm, with scales by row (bfloat16 \
                out) and by tensor (f32 out), precise and fast accumulation. Of integers up to 15 with powers of two as \
                scales, rows up to 2^40 apart, whose groups of 128 need all 13 bits of the accumulator and whose sums are \
                exact in f32, so that the result is the exact one rounded once (precise only). Then of nearly normal \
                numbers that this project's quantisers quantised, with outliers, rows up to 2^18 apart where each has its \
                own scale: the error beside f64 on the codes and scales, and beside f64 on the fp16 numbers, of the \
                worst row or column. With delayed scaling nine matrices in turn, up to 2^4 apart, are quantised by the \
                largest of the four before, and the last one is multiplied. Not applicable before compute capability 8.9, \
                whose tensor cores are the first to multiply E4M3, and on boards other than 9.0 where cuBLASLt has no \
                algorithm for such scales.",
    expected_s: 3.0,
    samples: 0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// A matrix before it is quantised: halves on the GPU, their numbers, and the sizes of rows.
struct Before {
    buffer: Buffer,
    numbers: Vec<f64>,
    sizes: Vec<f64>,
}

impl Before {
    fn new(gpu: &Gpu, halves: &[f16]) -> Result<Before, Stop> {
        let numbers: Vec<f64> = halves.iter().map(|x| x.to_f64()).collect();
        let sizes = scaled::sizes(&numbers);
        Ok(Before { buffer: operands::halves(gpu, halves)?, numbers, sizes })
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    lt: &'a Lt,
    index: u32,
    quantiser: Quantiser,
}

impl Bench<'_> {
    fn metric(&self, name: &str, place: &'static str, value: f64) -> Metric {
        Metric::exact(name, &[("scales", place)], &[self.index], finite(value))
    }

    /// The codes of a product, and the algorithm that made it.
    fn multiply(
        &self,
        request: Request,
        [a, b]: [&Buffer; 2],
        scales: Option<[&Buffer; 2]>,
        alpha: f32,
    ) -> Result<(Vec<u32>, String), Stop> {
        let stream = self.gpu.stream();
        let count = (SIDE * SIDE) as usize;
        let output = request.dtype.output();
        let d = self.gpu.alloc(output.bytes() * count as u64)?;
        d.poison(stream)?;
        let operands = Operands {
            a,
            b,
            d: &d,
            scale_a: scales.map(|scales| scales[0]),
            scale_b: scales.map(|scales| scales[1]),
            alpha,
            first: [0; 3],
        };
        let plan = Plan::heuristic_first(self.gpu, self.lt, request, &operands);
        let plan = offered(self.gpu, plan)?;
        plan.run(stream, &operands)?;
        let codes = match output.bytes() {
            4 => d.read_vec(stream, count)?,
            _ => d.read_vec::<u16>(stream, count)?.into_iter().map(u32::from).collect(),
        };
        Ok((codes, format!("{:?}", plan.choice().algorithm)))
    }

    fn product(&self, scaling: Scaling, a: &Side, b: &Side) -> Result<(Vec<u32>, String), Stop> {
        let (a, b) = (a.upload(self.gpu)?, b.upload(self.gpu)?);
        let request = Request {
            workspace_bytes: WORKSPACE_BYTES,
            fast_accumulation: scaling.fast,
            ..Request::new(scaling.dtype, SIDE, SIDE, K)
        };
        self.multiply(request, [&a.codes, &b.codes], Some([&a.scales, &b.scales]), 1.0)
    }

    /// Quantises by an own largest magnitude or by given ones, and tells the source's own.
    fn by_magnitudes(
        &self,
        scheme: Scheme,
        source: &Buffer,
        magnitudes: &[f32],
        truncate: bool,
    ) -> Result<(Side, f32), Stop> {
        let (stream, sizes) = (self.gpu.stream(), (u64::from(SIDE), K));
        let target = Quantised::new(self.gpu, scheme, sizes.0, sizes.1)?;
        target.scales.fill_u32(stream, 0)?;
        let history = operands::floats(self.gpu, magnitudes)?;
        let recorded = operands::floats(self.gpu, &[0.0])?;
        let extra =
            Extra { amax: Some(&history), recorded: Some(&recorded), truncate, ..Extra::default() };
        self.quantiser.run(stream, scheme, source, sizes, &target, extra)?;
        let side = Side::download(scheme, self.gpu, &target)?;
        Ok((side, recorded.read_vec(stream, 1)?[0]))
    }

    fn quantised(&self, scheme: Scheme, source: &Buffer, truncate: bool) -> Result<Side, Stop> {
        let largest = operands::floats(self.gpu, &[0.0])?;
        self.quantiser.largest(self.gpu.stream(), source, (SIDE.into(), K), &largest)?;
        let largest: Vec<f32> = largest.read_vec(self.gpu.stream(), 1)?;
        Ok(self.by_magnitudes(scheme, source, &largest, truncate)?.0)
    }

    /// Nine matrices quantised in turn, each by the largest magnitudes of the four before: the last one, and how
    /// many scales were others. `rolls`: whether magnitudes are taken into the history.
    fn delayed(&self, last: &[f16], rolls: bool) -> Result<(Side, u64), Stop> {
        let ends = STEPS[STEPS.len() - 1];
        let mut history = [oracle::amax(last); HISTORY];
        let mut magnitudes = history.to_vec();
        let mut wrong = 0;
        for (step, power) in STEPS.into_iter().enumerate() {
            let factor = f16::from_f32(2f32.powi(power - ends));
            let halves: Vec<f16> = last.iter().map(|x| *x * factor).collect();
            let source = operands::halves(self.gpu, &halves)?;
            let (side, largest) = self.by_magnitudes(Scheme::Tensor, &source, &history, false)?;
            let before = &magnitudes[magnitudes.len() - HISTORY..];
            let wanted = oracle::scale_of(before.iter().copied().fold(0.0, f32::max)).0;
            wrong += u64::from(side.scales[0].to_bits() != wanted.to_bits());
            if rolls {
                history[step % HISTORY] = largest;
            }
            magnitudes.push(oracle::amax(&halves));
            if step + 1 == STEPS.len() {
                return Ok((side, wrong));
            }
        }
        Err(Stop::Error("no step of delayed scaling".into()))
    }
}

/// The numbers of a product's codes.
fn numbers(scaling: Scaling, codes: &[u32]) -> Vec<f64> {
    codes.iter().map(|code| scaling.dtype.output().decode(*code)).collect()
}

/// Exchanges the smallest scale with the largest one, which is four times it and more.
fn swap(side: &mut Side) -> Result<(), Stop> {
    let [least, most] = extremes(&side.scales)
        .ok_or_else(|| Stop::Error("all scales are of one magnitude".into()))?;
    side.scales.swap(least, most);
    Ok(())
}

/// Places of the smallest and the largest scale; none where the one is not four times the other.
fn extremes(scales: &[f32]) -> Option<[usize; 2]> {
    let by = |a: &usize, b: &usize| scales[*a].total_cmp(&scales[*b]);
    let least = (0..scales.len()).min_by(by)?;
    let most = (0..scales.len()).max_by(by)?;
    (scales[most] >= 4.0 * scales[least]).then_some([least, most])
}

/// Measures with cuBLASLt and the quantisers on the case's GPU. `applicable` says whether the board has what is
/// measured.
fn with_bench(
    assignment: &Assignment,
    recorder: &mut Recorder,
    applicable: fn(&Gpu) -> Result<(), Stop>,
    measured: impl FnOnce(&Bench<'_>, &mut Recorder) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    lab::require(Library::CublasLt)?;
    applicable(gpu)?;
    let lt = Lt::new(gpu)?;
    recorder.option("cublaslt", lt.version());
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    measured(&Bench { gpu, lt: &lt, index, quantiser }, recorder)?;
    lab.close(recorder);
    Ok(())
}

/// What cuBLASLt was asked for. Where it has no algorithm, that is not applicable but on the board that models and bounds
/// were made for, where it is an error.
pub(super) fn offered<T>(gpu: &Gpu, asked: kernels::Result<T>) -> Result<T, Stop> {
    match asked {
        Err(error) if is_not_offered(&error) && gpu.compute_capability != (9, 0) => {
            Err(Stop::NotApplicable(error.to_string()))
        }
        asked => Ok(asked?),
    }
}

/// Whether cuBLASLt scales E4M3 by 1x128 and 128x128 blocks of f32.
pub(super) fn has_blocks(gpu: &Gpu) -> Result<(), Stop> {
    match gpu.compute_capability {
        (9, 0) => Ok(()),
        (major, minor) => Err(Stop::NotApplicable(format!(
            "cuBLASLt scales E4M3 by blocks on compute capability 9.0 alone, this is {major}.{minor}"
        ))),
    }
}

/// Whether the adder of E4M3 that is published for a board keeps less than f32 does, so that fast accumulation is a fault
/// where precise was asked for.
fn loses_where_fast(compute_capability: (u32, u32)) -> bool {
    Adder::published(Element::E4m3, compute_capability).is_some_and(|adder| adder.kept_bits < 23)
}

/// Halves whose rows are this many powers of two apart.
fn source(bench: &Bench<'_>, seed: u64, spread: u32) -> Result<Before, Stop> {
    Before::new(bench.gpu, &operands::spread(seed, SIDE.into(), K.into(), spread))
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let seed = assignment.seed;
    with_bench(assignment, recorder, has_e4m3, |bench, recorder| {
        for scaling in [ROW, TENSOR] {
            recorder.progress(scaling.name);
            integers(bench, scaling, seed, recorder)?;
        }
        recorder.progress("quantised rows apart");
        let apart = [source(bench, seed, APART)?, source(bench, seed ^ 77, APART)?];
        quantised(bench, &[ROW, ROW_FAST], [&apart[0], &apart[1]], recorder)?;
        recorder.progress("quantised");
        let [first, second] = scaled::alike_seeds(seed);
        let alike = [source(bench, first, ALIKE)?, source(bench, second, ALIKE)?];
        quantised(bench, &[TENSOR, TENSOR_FAST], [&alike[0], &alike[1]], recorder)?;
        recorder.progress("delayed scaling");
        delayed(bench, first, &alike[1], recorder)
    })
}

/// Codes that are not those of the exact numbers, rounded once.
pub(super) fn wrong(output: Element, found: &[u32], exact: &[f64]) -> usize {
    let code = |x: f64| match output {
        // As it is: an element of f32 is tf32 where it is an operand.
        Element::F32 => (x as f32).to_bits(),
        output => output.encode(x as f32),
    };
    let wrong = found.iter().zip(exact).filter(|(found, exact)| {
        // A zero may have either sign.
        let zeros = output.decode(**found) == 0.0 && **exact == 0.0;
        !zeros && **found != code(**exact)
    });
    wrong.count() + found.len().abs_diff(exact.len())
}

/// Integers, exact but for one rounding.
fn integers(
    bench: &Bench<'_>,
    scaling: Scaling,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let mut a = Side::integers(scaling.a, Which::A, seed ^ 11);
    let b = Side::integers(scaling.b, Which::B, seed ^ 12);
    let exact = scaled::multiplied(&a.numbers(), &b.numbers());
    let output = scaling.dtype.output();
    let wrong =
        |found: &[u32]| bench.metric(WRONG, scaling.name, wrong(output, found, &exact) as f64);
    let (product, algorithm) = bench.product(scaling, &a, &b)?;
    recorder.option(&format!("algorithm.{}", scaling.name), algorithm);
    recorder.metric(wrong(&product));
    for (control, bits) in [("accumulator-of-10-bits", 10), ("accumulator-of-12-bits", 12)] {
        let adder = Adder { aligned_bits: bits, kept_bits: bits, ..Adder::HOPPER_E4M3 };
        let mut narrow = product.clone();
        for (row, column) in scaled::drawn(DRAWN) {
            narrow[row * SIDE as usize + column] =
                scaled::foretold(scaling, adder, (&a, &b), (row, column));
        }
        // By blocks a unit less of so many does not show behind the rounding to bfloat16.
        if bits == 10 || scaling != BLOCK {
            recorder.control(control, wrong(&narrow));
        }
    }
    if scaling == BLOCK {
        swap(&mut a)?;
        recorder.control("integer-scales-swapped", wrong(&bench.product(scaling, &a, &b)?.0));
    }
    if scaling == TENSOR {
        a.scales[0] = a.scales[0].next_up();
        recorder.control("scale-one-ulp-off", wrong(&bench.product(scaling, &a, &b)?.0));
    }
    Ok(())
}

/// Quantised numbers beside f64.
fn quantised(
    bench: &Bench<'_>,
    scalings: &[Scaling],
    [a, b]: [&Before; 2],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let whole = scaled::multiplied(&a.numbers, &b.numbers);
    let sizes = (a.sizes.as_slice(), b.sizes.as_slice());
    for &scaling in scalings {
        let mut left = bench.quantised(scaling.a, &a.buffer, false)?;
        let right = bench.quantised(scaling.b, &b.buffer, false)?;
        let held = scaled::multiplied(&left.numbers(), &right.numbers());
        let error = |name: &str, left: &Side, right: &Side| -> Result<Metric, Stop> {
            let found = numbers(scaling, &bench.product(scaling, left, right)?.0);
            let wanted = if name == FORMAT { &whole } else { &held };
            Ok(bench.metric(name, scaling.name, scaled::worst_error(&found, wanted, sizes)))
        };
        recorder.metric(error(ARITHMETIC, &left, &right)?);
        if !scaling.fast {
            recorder.metric(error(FORMAT, &left, &right)?);
            let truncated = [
                bench.quantised(scaling.a, &a.buffer, true)?,
                bench.quantised(scaling.b, &b.buffer, true)?,
            ];
            recorder.control("toward-zero", error(FORMAT, &truncated[0], &truncated[1])?);
        }
        if scaling == TENSOR {
            let found = match loses_where_fast(bench.gpu.compute_capability) {
                true => numbers(scaling, &bench.product(TENSOR_FAST, &left, &right)?.0),
                false => scaled::made(TENSOR_FAST, Adder::HOPPER_E4M3, (&left, &right)),
            };
            let error = scaled::worst_error(&found, &held, sizes);
            recorder.control("fast-for-precise", bench.metric(ARITHMETIC, scaling.name, error));
        }
        let healthy = left.clone();
        if scaling == ROW {
            let first = smallest(&a.sizes) * K as usize;
            for i in first..first + 128 {
                left.codes[i] = Element::E4m3.encode(a.numbers[i] as f32) as u8;
            }
            recorder.control("block-unquantised", error(FORMAT, &left, &right)?);
            left = healthy.clone();
        }
        for place in left.places(smallest(&a.sizes)) {
            left.scales[place] *= 1.0 + 1.0 / 128.0;
        }
        recorder.control("small-row-misscaled", error(ARITHMETIC, &left, &right)?);
        if scaling == BLOCK {
            left = healthy;
            swap(&mut left)?;
            recorder.control("scales-swapped", error(ARITHMETIC, &left, &right)?);
        }
    }
    Ok(())
}

/// The smallest row that is not the one of zeros, whose size is one.
pub(super) fn smallest(sizes: &[f64]) -> usize {
    let rows = sizes.iter().enumerate().filter(|(row, _)| *row as u64 != operands::EMPTY_ROW);
    rows.min_by(|x, y| x.1.total_cmp(y.1)).map_or(0, |(row, _)| row)
}

/// Delayed scaling of A over nine steps.
fn delayed(bench: &Bench<'_>, seed: u64, b: &Before, recorder: &mut Recorder) -> Result<(), Stop> {
    const PLACE: &str = "tensor-delayed";
    let halves = operands::spread(seed, SIDE.into(), K.into(), ALIKE);
    let a = Before::new(bench.gpu, &halves)?;
    let right = bench.quantised(Scheme::Tensor, &b.buffer, false)?;
    let (left, wrong) = bench.delayed(&halves, true)?;
    recorder.metric(bench.metric(STALE, PLACE, wrong as f64));
    let found = numbers(TENSOR, &bench.product(TENSOR, &left, &right)?.0);
    let whole = scaled::multiplied(&a.numbers, &b.numbers);
    let error = scaled::worst_error(&found, &whole, (&a.sizes, &b.sizes));
    recorder.metric(bench.metric(FORMAT, PLACE, error));
    let (_, wrong) = bench.delayed(&halves, false)?;
    recorder.control("history-stands-still", bench.metric(STALE, PLACE, wrong as f64));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_accumulation_is_a_fault_where_the_adder_is_narrow() {
        let boards = [(8, 9), (9, 0), (10, 0), (10, 3), (12, 0)];
        assert_eq!(boards.map(loses_where_fast), [true, true, false, false, false]);
    }

    #[test]
    fn scales_that_change_places_differ_wherever_the_first_one_stands() {
        assert_eq!(extremes(&[2.0, 4.0, 1.0]), Some([2, 1]));
        assert_eq!(extremes(&[2.0, 4.0, 1.5]), None);
        assert_eq!(extremes(&[]), None);
    }
}
