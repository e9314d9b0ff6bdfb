//! The own products of E4M3: exact where they must be, foretold bit by bit, and the same wherever a row stands.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::matmul::{Dtype, Operands, Request};
use kernels::promoted::{self, Promoted};
use kernels::quantise::{self, Quantised, Quantiser, Scheme};
use kernels::tensorcore::{self, Adder};

use super::scaled::{self, K, PROMOTED, ROW, SIDE, Side, Which};
use super::{accumulator, operands, products};
use crate::e4m3;
use crate::lab::{Lab, differing, finite, over_cores};

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
    products::TWELVE_BITS,
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

/// Rows of both matrices, columns, and elements from one row of D to the next: 16 x 22 tiles of clusters in two bands, k
/// of three stages, which are no whole groups, the last of 16 columns.
const LARGE: u32 = 4096;
const LARGE_K: u32 = 272;
const LARGE_ROW: u32 = LARGE + 64;
/// Rows, and columns, that stand alone: over the ends of tiles, over the end of a band, and among the last ones.
const ROWS_ALONE: [(u32, u32); 3] = [(250, 100), (2000, 112), (3968, 128)];
const COLUMNS_ALONE: [(u32, u32); 3] = [(184, 16), (376, 112), (4000, 96)];

static LARGE_CONTROLS: [Control; 2] = [
    Control {
        name: "added-twice",
        fault: "the product is added to what D holds twice",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "another-column",
        fault: "one code of a column that stands alone is another",
        trips: APART,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static LARGE_CASE: Case = Case {
    id: "precision::promoted-large",
    procedure: "Products of 4096 x 4096 over k = 272 by this project's kernel, E4M3 with scales by row and fp16 out, of \
                integers up to 2 with scales of one: into D, and added to integers that D holds, rows of D 4160 \
                apart, every element beside its exact value and what lies between the rows beside what was there. \
                Then rows and columns of them alone, over the ends of tiles and among the last, beside the same ones of \
                the whole. Not applicable but on compute capability 9.0, which the kernel is for.",
    expected_s: 4.0,
    kernels: &["promoted"],
    controls: &LARGE_CONTROLS,
    run: large,
    ..CASE
};

/// Integers of seed `seed`: -2 to 2.
fn small(seed: u64, at: u64) -> i32 {
    (draw(seed, at) % 5) as i32 - 2
}

/// Rows of integers as codes, with scales of one.
fn coded(gpu: &Gpu, rows: &[i32]) -> Result<Quantised, Stop> {
    let codes: Vec<u8> = rows.iter().map(|x| Element::E4m3.encode(*x as f32) as u8).collect();
    let scales = vec![1.0; rows.len() / LARGE_K as usize];
    Ok(Quantised { codes: operands::bytes(gpu, &codes)?, scales: operands::floats(gpu, &scales)? })
}

/// Products of many tiles, and their exact sums.
struct Large<'a> {
    gpu: &'a Gpu,
    index: u32,
    seed: u64,
    kernel: Promoted,
    integers: [Vec<i32>; 2],
    sides: [Quantised; 2],
    sums: Vec<i32>,
}

fn large(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let kernel = e4m3::promoted(gpu, &mut |source| lab.module(gpu, source, recorder))?;
    recorder.progress("exact sums");
    let seed = assignment.seed;
    let count = u64::from(LARGE) * u64::from(LARGE_K);
    let integers =
        [41, 42].map(|salt| (0..count).map(|at| small(seed ^ salt, at)).collect::<Vec<i32>>());
    let sides = [coded(gpu, &integers[0])?, coded(gpu, &integers[1])?];
    let rows: Vec<&[i32]> = integers[0].chunks(LARGE_K as usize).collect();
    let dot = |a: &[i32], b: &[i32]| a.iter().zip(b).map(|(x, y)| x * y).sum();
    let sums = |a: &&[i32]| -> Vec<i32> {
        integers[1].chunks(LARGE_K as usize).map(|b| dot(a, b)).collect()
    };
    let sums = over_cores(&rows, sums).concat();
    let large = Large { gpu, index, seed, kernel, integers, sides, sums };
    recorder.progress("large products");
    recorder.metric(large.wrong(false, 1)?);
    recorder.metric(large.wrong(true, 1)?);
    recorder.control("added-twice", large.wrong(true, 2)?);
    recorder.progress("alone");
    large.alone(recorder)?;
    lab.close(recorder);
    Ok(())
}

impl Large<'_> {
    fn metric(&self, name: &str, of: (&str, &str), count: u64) -> Metric {
        Metric::exact(name, &[of], &[self.index], count as f64)
    }

    /// Elements that are not exact, and those between the rows of D that are not what was there, where the product is
    /// written to D, or added to it so many times.
    fn wrong(&self, accumulate: bool, times: usize) -> Result<Metric, Stop> {
        let (size, row) = (LARGE as usize, LARGE_ROW as usize);
        let held = |at: usize| small(self.seed ^ 43, at as u64);
        let half = |x: i32| Element::F16.encode(x as f32) as u16;
        let before: Vec<u16> = (0..size * row).map(|at| half(held(at))).collect();
        let d = self.gpu.alloc(2 * before.len() as u64)?;
        d.write(self.gpu.stream(), 0, &before)?;
        let request = Request {
            row_d: Some(LARGE_ROW),
            accumulate,
            ..Request::new(Dtype::E4m3RowHalf, LARGE, LARGE, LARGE_K)
        };
        for _ in 0..times {
            enqueue(self.gpu, &self.kernel, request, (&self.sides[0], &self.sides[1]), &d)?;
        }
        let found: Vec<u16> = d.read_vec(self.gpu.stream(), before.len())?;
        let wanted = |at: usize| match (at / row, at % row) {
            (m, n) if n < size && accumulate => self.sums[m * size + n] + held(at),
            (m, n) if n < size => self.sums[m * size + n],
            _ => held(at),
        };
        let wrong = found.iter().enumerate().filter(|(at, code)| {
            let wanted = wanted(*at);
            // A zero may have either sign.
            **code != half(wanted) && (wanted != 0 || **code != 0x8000)
        });
        let at = if accumulate { "added" } else { "written" };
        Ok(self.metric(WRONG, ("d", at), wrong.count() as u64))
    }

    fn product(
        &self,
        (a, b): (&Quantised, &Quantised),
        (m, n): (u32, u32),
    ) -> Result<Vec<u32>, Stop> {
        let request = Request::new(Dtype::E4m3RowHalf, m, n, LARGE_K);
        multiplied(self.gpu, &self.kernel, request, (a, b))
    }

    /// Integers of so many rows of a matrix from one on.
    fn part(&self, side: usize, (first, count): (u32, u32)) -> Vec<i32> {
        let k = LARGE_K as usize;
        self.integers[side][first as usize * k..(first + count) as usize * k].to_vec()
    }

    /// Rows, and columns, that stand alone.
    fn alone(&self, recorder: &mut Recorder) -> Result<(), Stop> {
        let size = LARGE as usize;
        let [a, b] = &self.sides;
        let whole = self.product((a, b), (LARGE, LARGE))?;
        let mut apart = 0;
        for place in ROWS_ALONE {
            let rows = coded(self.gpu, &self.part(0, place))?;
            let found = self.product((&rows, b), (place.1, LARGE))?;
            let (first, count) = (place.0 as usize, place.1 as usize);
            apart += differing(&found, &whole[first * size..][..count * size]);
        }
        recorder.metric(self.metric(APART, ("alone", "rows"), apart));
        let columns = |integers: &[i32], (first, count): (u32, u32)| -> Result<u64, Stop> {
            let columns = coded(self.gpu, integers)?;
            let found = self.product((a, &columns), (LARGE, count))?;
            let wanted =
                whole.chunks(size).flat_map(|row| &row[first as usize..][..count as usize]);
            Ok(differing(&found, &wanted.copied().collect::<Vec<u32>>()))
        };
        let mut apart = 0;
        for place in COLUMNS_ALONE {
            apart += columns(&self.part(1, place), place)?;
        }
        recorder.metric(self.metric(APART, ("alone", "columns"), apart));
        let mut other = self.part(1, COLUMNS_ALONE[0]);
        other[LARGE_K as usize / 2] = 3;
        let apart = columns(&other, COLUMNS_ALONE[0])?;
        recorder.control("another-column", self.metric(APART, ("alone", "columns"), apart));
        Ok(())
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    promoted: Promoted,
    quantiser: Quantiser,
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let promoted = e4m3::promoted(gpu, &mut |source| lab.module(gpu, source, recorder))?;
    let bench = Bench {
        gpu,
        index,
        promoted,
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
    enqueue(gpu, kernel, request, (a, b), &d)?;
    Ok(d.read_vec::<u16>(gpu.stream(), count)?.into_iter().map(u32::from).collect())
}

fn enqueue(
    gpu: &Gpu,
    kernel: &Promoted,
    request: Request,
    (a, b): (&Quantised, &Quantised),
    d: &Buffer,
) -> Result<(), Stop> {
    let operands = Operands {
        a: &a.codes,
        b: &b.codes,
        d,
        scale_a: Some(&a.scales),
        scale_b: Some(&b.scales),
        alpha: 1.0,
        first: [0; 3],
    };
    Ok(kernel.run(gpu.stream(), &request, &operands)?)
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

impl Positive {
    fn new(gpu: &Gpu, seed: u64) -> Result<Positive, Stop> {
        let count = u64::from(POSITIVE_SIDE) * u64::from(POSITIVE_K);
        let codes = [31, 32].map(|salt| -> Vec<u32> {
            (0..count).map(|at| accumulator::positive_code(seed ^ salt, at)).collect()
        });
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

    /// What drawn elements lost.
    fn lost(&self, gpu: &Gpu, kernel: &Promoted) -> Result<f64, Stop> {
        let request = Request::new(Dtype::E4m3RowHalf, POSITIVE_SIDE, POSITIVE_SIDE, POSITIVE_K);
        let product = multiplied(gpu, kernel, request, (&self.sides[0], &self.sides[1]))?;
        let (side, k) = (POSITIVE_SIDE as usize, POSITIVE_K as usize);
        let row = |matrix: usize, row: usize| &self.codes[matrix][row * k..][..k];
        let scale = f64::from(POSITIVE_SCALE).powi(2);
        accumulator::mean_lost(operands::drawn_of(POSITIVE_SIDE, DRAWN).map(|(m, n)| {
            let found = Element::F16.decode(product[m * side + n]);
            (found, tensorcore::exact(Element::E4m3, row(0, m), row(1, n)) * scale)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What groups of so many instructions lose of sums of positive numbers, in percent, f32 out.
    fn foretold_loss(instructions: Option<usize>) -> f64 {
        let row = |seed: u64| -> Vec<u32> {
            (0..u64::from(POSITIVE_K)).map(|at| accumulator::positive_code(seed, at)).collect()
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
