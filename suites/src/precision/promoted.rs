//! The own products of E4M3: exact where they must be, foretold bit by bit, and the same wherever a row stands.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::element::Element;
use kernels::generator::draw;
use kernels::matmul::{Dtype, Operands, Request};
use kernels::promoted::{self, Promoted};
use kernels::quantise::{self, Quantised, Quantiser, Scheme};
use kernels::tensorcore::{self, Adder};

use super::scaled::{self, K, PROMOTED, ROW, SIDE, Side, Which};
use super::{accumulator, operands, products};
use crate::lab::{Lab, differing, finite};

pub use super::products::{ARITHMETIC, WRONG};
/// Drawn elements whose bits are not those of the model of E4M3's adder with groups of 256.
pub const UNPREDICTED: &str = accumulator::UNPREDICTED;
/// Mean share that a sum of positive numbers lost.
pub const LOST: &str = accumulator::LOST;
/// Results of a few rows or columns alone that are not those of the whole.
pub const APART: &str = "apart_count";

/// Columns of sums of positive numbers, and rows of both matrices.
const POSITIVE_K: u32 = 16384;
const POSITIVE_SIDE: u32 = 256;
/// Powers of two among the rows of matrices that are far apart.
const SPREAD: u32 = 19;
/// Elements that are compared with the model, and with exact sums.
const DRAWN: u64 = 512;
/// Rows or columns that stand alone: inside tiles, over their ends, and as few as an instruction has.
const ALONE: [(u32, u32); 4] = [(0, 1), (37, 5), (120, 16), (250, 100)];

static CONTROLS: [Control; 6] = [
    products::TEN_BITS,
    Control {
        name: "accumulator-of-12-bits",
        fault: "drawn elements of a product of integers are added up in 12 bits, one too few",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "groups-of-128",
        fault: "the model adds groups of 128 in f32, as cuBLASLt's precise accumulation does",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "small-row-misscaled",
        fault: "the scales of the smallest row are a 128th too large",
        trips: ARITHMETIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "one-accumulator",
        fault: "the kernel lets the tensor cores add up all columns",
        trips: LOST,
        expect: Expect::Refuted,
    },
    Control {
        name: "another-code",
        fault: "the lowest bit of one code of a row that stands alone is another",
        trips: APART,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::promoted",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048, E4M3 with scales by row and bfloat16 out, by this project's kernel, \
                which lets the tensor cores add 256 columns before the sum goes to f32. Of integers up to 15 with powers \
                of two as scales, rows up to 2^40 apart, exact but for one rounding. Of random codes over all normal \
                exponents with powers of two as scales: 512 drawn elements bit by bit beside the model of Hopper's E4M3 \
                adder (32 products an instruction, 13 bits) with groups of 256. Of nearly normal numbers that this \
                project's quantiser quantised, with outliers, rows up to 2^18 apart: the error beside f64 on the codes \
                and scales, of the worst row or column. Rows and columns of the random codes alone, 1 to 100 of them, \
                beside the same ones of the whole. And 256 x 256 over k = 16384 of uniform numbers in 0 to 4, fp16 out: \
                the mean share by which 512 drawn sums are off the exact ones. Not applicable but on compute capability \
                9.0, which the kernel is for.",
    expected_s: 4.0,
    samples: 0,
    deadline_s: 240.0,
    kernels: &["promoted", "quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run,
};

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    promoted: Promoted,
    quantiser: Quantiser,
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    accumulator::modelled(gpu)?;
    let bench = Bench {
        gpu,
        index,
        promoted: Promoted::new(gpu, &lab.module(gpu, &promoted::SOURCE, recorder)?)?,
        quantiser: Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?,
    };
    let planted = Promoted::new(gpu, &lab.module(gpu, &promoted::SOURCE_PLANTED, recorder)?)?;
    let seed = assignment.seed;
    recorder.progress("integers");
    bench.integers(seed, recorder)?;
    recorder.progress("random codes");
    let (a, b) = (Side::random(Scheme::Row, seed ^ 21), Side::random(Scheme::Row, seed ^ 22));
    let whole = bench.foretold((&a, &b), recorder)?;
    recorder.progress("alone");
    bench.alone((&a, &b), &whole, recorder)?;
    recorder.progress("quantised");
    bench.quantised(seed, recorder)?;
    recorder.progress("positive sums");
    let positive = Positive::new(gpu, seed)?;
    recorder.metric(bench.metric(LOST, &[], positive.lost(gpu, &bench.promoted)?));
    let lost = positive.lost(gpu, &planted)?;
    recorder.control("one-accumulator", bench.metric(LOST, &[], lost));
    lab.close(recorder);
    Ok(())
}

/// The codes of a product of so many rows and columns over `k`.
fn multiplied(
    gpu: &Gpu,
    kernel: &Promoted,
    request: Request,
    (a, b): (&Quantised, &Quantised),
) -> Result<Vec<u32>, Stop> {
    let count = (request.m * request.n) as usize;
    let d = gpu.alloc(2 * count as u64)?;
    d.poison(gpu.stream())?;
    let operands = Operands {
        a: &a.codes,
        b: &b.codes,
        d: &d,
        scale_a: Some(&a.scales),
        scale_b: Some(&b.scales),
        alpha: 1.0,
        first: [0; 3],
    };
    kernel.run(gpu.stream(), &request, &operands)?;
    Ok(d.read_vec::<u16>(gpu.stream(), count)?.into_iter().map(u32::from).collect())
}

/// So many rows of a matrix from one on.
fn part(side: &Side, (first, rows): (u32, u32)) -> Side {
    let (first, end) = (first as usize, (first + rows) as usize);
    Side {
        scheme: side.scheme,
        codes: side.codes[first * K as usize..end * K as usize].to_vec(),
        scales: side.scales[first..end].to_vec(),
    }
}

impl Bench<'_> {
    fn metric(&self, name: &str, at: &[(&str, &str)], value: f64) -> Metric {
        Metric::exact(name, at, &[self.index], finite(value))
    }

    fn product(&self, a: &Side, b: &Side) -> Result<Vec<u32>, Stop> {
        let (m, n) = (a.scales.len() as u32, b.scales.len() as u32);
        let request = Request::new(Dtype::E4m3Row, m, n, K);
        let (a, b) = (a.upload(self.gpu)?, b.upload(self.gpu)?);
        multiplied(self.gpu, &self.promoted, request, (&a, &b))
    }

    /// Integers, exact but for one rounding.
    fn integers(&self, seed: u64, recorder: &mut Recorder) -> Result<(), Stop> {
        let a = Side::integers(Scheme::Row, Which::A, seed ^ 11);
        let b = Side::integers(Scheme::Row, Which::B, seed ^ 12);
        let exact = scaled::multiplied(&a.numbers(), &b.numbers());
        let wrong = |found: &[u32]| {
            self.metric(WRONG, &[], products::wrong(Element::Bf16, found, &exact) as f64)
        };
        let product = self.product(&a, &b)?;
        recorder.metric(wrong(&product));
        for (control, bits) in [("accumulator-of-10-bits", 10), ("accumulator-of-12-bits", 12)] {
            let adder = Adder { aligned_bits: bits, kept_bits: bits, ..Adder::HOPPER_E4M3 };
            let mut narrow = product.clone();
            for place in scaled::drawn(DRAWN) {
                let code = scaled::foretold(PROMOTED, adder, (&a, &b), place);
                narrow[place.0 * SIDE as usize + place.1] = code;
            }
            recorder.control(control, wrong(&narrow));
        }
        Ok(())
    }

    /// Random codes beside the model of the adder: all codes of the product.
    fn foretold(&self, (a, b): (&Side, &Side), recorder: &mut Recorder) -> Result<Vec<u32>, Stop> {
        let product = self.product(a, b)?;
        let unpredicted = |scaling| {
            let wrong = scaled::drawn(DRAWN).filter(|&(row, column)| {
                let code = scaled::foretold(scaling, Adder::HOPPER_E4M3, (a, b), (row, column));
                code != product[row * SIDE as usize + column]
            });
            self.metric(UNPREDICTED, &[], wrong.count() as f64)
        };
        recorder.metric(unpredicted(PROMOTED));
        recorder.control("groups-of-128", unpredicted(ROW));
        Ok(product)
    }

    /// Rows, then columns, that stand alone.
    fn alone(
        &self,
        (a, b): (&Side, &Side),
        whole: &[u32],
        recorder: &mut Recorder,
    ) -> Result<(), Stop> {
        let side = SIDE as usize;
        let metric = |of, count: u64| self.metric(APART, &[("alone", of)], count as f64);
        let (mut rows, mut columns) = (0, 0);
        for place in ALONE {
            let (first, count) = (place.0 as usize, place.1 as usize);
            let found = self.product(&part(a, place), b)?;
            rows += differing(&found, &whole[first * side..][..count * side]);
            // Columns come in sixteens.
            let sixteens = (place.0, place.1.next_multiple_of(16));
            let count = sixteens.1 as usize;
            let found = self.product(a, &part(b, sixteens))?;
            let wanted = whole.chunks(side).flat_map(|row| &row[first..first + count]);
            columns += differing(&found, &wanted.copied().collect::<Vec<u32>>());
        }
        recorder.metric(metric("rows", rows));
        recorder.metric(metric("columns", columns));
        let mut other = part(a, ALONE[1]);
        other.codes[K as usize / 2] ^= 1;
        let found = self.product(&other, b)?;
        let (first, count) = (ALONE[1].0 as usize, ALONE[1].1 as usize);
        let apart = differing(&found, &whole[first * side..][..count * side]);
        recorder.control("another-code", metric("rows", apart));
        Ok(())
    }

    /// Quantised numbers beside f64.
    fn quantised(&self, seed: u64, recorder: &mut Recorder) -> Result<(), Stop> {
        let side = |seed: u64| -> Result<(Side, Vec<f64>), Stop> {
            let halves = operands::spread(seed, SIDE.into(), K.into(), SPREAD);
            let numbers: Vec<f64> = halves.iter().map(|x| x.to_f64()).collect();
            let source = operands::halves(self.gpu, &halves)?;
            let target = Quantised::new(self.gpu, Scheme::Row, SIDE.into(), K)?;
            let (stream, sizes) = (self.gpu.stream(), (u64::from(SIDE), K));
            let extra = quantise::Extra::default();
            self.quantiser.run(stream, Scheme::Row, &source, sizes, &target, extra)?;
            Ok((Side::download(Scheme::Row, self.gpu, &target)?, scaled::sizes(&numbers)))
        };
        let ((mut a, sizes_a), (b, sizes_b)) = (side(seed)?, side(seed ^ 77)?);
        let held = scaled::multiplied(&a.numbers(), &b.numbers());
        let error = |a: &Side| -> Result<Metric, Stop> {
            let codes = self.product(a, &b)?;
            let found: Vec<f64> = codes.iter().map(|code| Element::Bf16.decode(*code)).collect();
            let error = scaled::worst_error(&found, &held, (&sizes_a, &sizes_b));
            Ok(self.metric(ARITHMETIC, &[], error))
        };
        recorder.metric(error(&a)?);
        a.scales[products::smallest(&sizes_a)] *= 1.0 + 1.0 / 128.0;
        recorder.control("small-row-misscaled", error(&a)?);
        Ok(())
    }
}

/// Uniform numbers in 0 to 4, scaled so that fp16 holds their sums.
struct Positive {
    /// Codes of A and of B.
    codes: [Vec<u32>; 2],
    sides: [Quantised; 2],
}

/// The scale of every row.
const POSITIVE_SCALE: f32 = 1.0 / 8.0;

fn uniform(seed: u64, at: u64) -> u32 {
    Element::E4m3.encode((f64::from(draw(seed, at)) * 2f64.powi(-30)) as f32)
}

impl Positive {
    fn new(gpu: &Gpu, seed: u64) -> Result<Positive, Stop> {
        let count = u64::from(POSITIVE_SIDE) * u64::from(POSITIVE_K);
        let codes = [31, 32]
            .map(|salt| -> Vec<u32> { (0..count).map(|at| uniform(seed ^ salt, at)).collect() });
        let upload = |codes: &[u32]| -> Result<Quantised, Stop> {
            let bytes: Vec<u8> = codes.iter().map(|code| *code as u8).collect();
            let scales = [POSITIVE_SCALE; POSITIVE_SIDE as usize];
            Ok(Quantised {
                codes: operands::bytes(gpu, &bytes)?,
                scales: operands::floats(gpu, &scales)?,
            })
        };
        let sides = [upload(&codes[0])?, upload(&codes[1])?];
        Ok(Positive { codes, sides })
    }

    /// Mean of |1 - sum / exact sum| over drawn elements, in percent.
    fn lost(&self, gpu: &Gpu, kernel: &Promoted) -> Result<f64, Stop> {
        let request = Request::new(Dtype::E4m3RowHalf, POSITIVE_SIDE, POSITIVE_SIDE, POSITIVE_K);
        let product = multiplied(gpu, kernel, request, (&self.sides[0], &self.sides[1]))?;
        let row = |side: usize, row: u32| {
            &self.codes[side][(row * POSITIVE_K) as usize..][..POSITIVE_K as usize]
        };
        let losses = (0..DRAWN).map(|i| {
            let word = draw(0xD2A7, i);
            let (m, n) = (word % POSITIVE_SIDE, word / POSITIVE_SIDE % POSITIVE_SIDE);
            let scale = f64::from(POSITIVE_SCALE).powi(2);
            let exact = tensorcore::exact(Element::E4m3, row(0, m), row(1, n)) * scale;
            let found = Element::F16.decode(product[(m * POSITIVE_SIDE + n) as usize]);
            (1.0 - found / exact).abs()
        });
        let mean = losses.sum::<f64>() / DRAWN as f64;
        match mean.is_finite() {
            true => Ok((mean * 1e7).round() / 1e5),
            false => Err(Stop::Error(format!("sums of positive numbers are off by {mean}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What groups of so many instructions lose of sums of positive numbers, in percent, f32 out.
    fn foretold_loss(instructions: Option<usize>) -> f64 {
        let row = |seed: u64| -> Vec<u32> {
            (0..u64::from(POSITIVE_K)).map(|at| uniform(seed, at)).collect()
        };
        let losses = (0..4).map(|pair| {
            let (a, b) = (row(2 * pair), row(2 * pair + 1));
            let sum = tensorcore::dot(Adder::HOPPER_E4M3, Element::E4m3, instructions, &a, &b);
            100.0 * (1.0 - f64::from(sum) / tensorcore::exact(Element::E4m3, &a, &b)).abs()
        });
        losses.sum::<f64>() / 4.0
    }

    #[test]
    fn positive_sums_lose_more_in_larger_groups() {
        let [of_128, of_256] = [4, 8].map(|count| foretold_loss(Some(count)));
        assert!(of_128 < of_256 && of_256 < 0.2, "{of_128} {of_256}");
        assert!(foretold_loss(None) > 20.0);
    }
}
