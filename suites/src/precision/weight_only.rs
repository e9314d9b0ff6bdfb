//! Weight-only products for few tokens: right, at the speed of memory, and without a copy of the weights.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt, Operands, Plan, Request};
use kernels::model::{self, Kernels};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme};
use kernels::tensorcore::Adder;
use kernels::weightonly::{self, MOST_ROWS, WeightOnly, oracle};

use super::fused::{self, Fused};
use super::{accumulator, normed, operands, products};
use crate::e4m3;
use crate::lab::{self, Lab, finite};

/// Elements of a product of integers that are not the exact ones, rounded once, and bytes written behind.
pub const WRONG: &str = "wrong_count";
/// Largest error of an element over what the order of the sum allows.
pub const ERROR: &str = "error_over_bound_ratio";
/// Drawn elements whose bits are not those of the model of the tensor cores.
pub const UNPREDICTED: &str = accumulator::UNPREDICTED;
/// Root mean square of the error beside f64 on fp16 activations and E4M3 weights, over that of the product.
pub const ACTIVATIONS: &str = "activation_error_ratio";
/// Elements that differ from those of the same row alone, and of the same steps by a kernel each.
pub const UNEQUAL: &str = "unequal_count";

/// Rows of weights, which end inside a block, and columns, whose last parts are short or empty.
const N: u32 = 1000;
const K: u32 = 4160;
/// Sizes of the product by codes of activations: of 16 bytes.
const SIDE: u32 = 1024;
const SIDE_K: u32 = 4096;
/// Elements that are compared with the model.
const DRAWN: u64 = 512;
/// Bytes behind a product that must stay as they are.
const GUARD: u64 = 512;

static CONTROLS: [Control; 8] = [
    Control {
        name: "scales-swapped",
        fault: "two rows of weights have each other's scale",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "one-code",
        fault: "one number of the weights is one larger",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "short-sum",
        fault: "the last 64 numbers along k are left out",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "other-order",
        fault: "two parts of each sum have changed places",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "quantised-activations",
        fault: "activations are quantised by row to E4M3 and the product is called weight-only",
        trips: ACTIVATIONS,
        expect: Expect::Refuted,
    },
    Control {
        name: "a-bit-of-a-row",
        fault: "one bit of a row of 16 is another",
        trips: UNEQUAL,
        expect: Expect::Corrupt,
    },
    Control {
        name: "gelu-left-out",
        fault: "a product with GELU is compared with the product alone",
        trips: UNEQUAL,
        expect: Expect::Corrupt,
    },
    Control {
        name: "norm-left-out",
        fault: "a product of normed activations is compared with that of the activations",
        trips: UNEQUAL,
        expect: Expect::Corrupt,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::weight-only",
    revision: 3,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "fp16 activations of 1, 8, 11 and 16 rows by 1000 rows of weights over k = 4160, weights in E4M3 with a \
                scale a row, and in fp16. Of integers up to 15 with powers of two as scales every element must be the \
                exact one, rounded once. Of random numbers with outliers the error beside f64, in units of the bound that the \
                order of the sum gives, and, for 512 drawn elements of random codes whose exact sums are 0, the bits of the model \
                of the tensor cores. Each row of 16 is computed again alone and among 8. A product that goes to three places, or takes \
                GELU, a sum in place, or both on its way out, or of 1 or 2 rows the layer norm of its activations on its way in, must have the bits \
                of a kernel for each step. So must the product of the layer norm of 2 rows of k = 8192 by 9000 rows of \
                weights, of which a block takes up to three times 16, and 256 drawn elements of it, whose exact sums are \
                nearly 0, the bits of the model of the tensor cores on the normed halves. Then 16 rows of activations by \
                weights that are quantised by row, by this kernel and by cuBLASLt's E4M3 product, which quantises the \
                activations too: the error beside f64 on the fp16 activations. The model is of the adder of fp16 that is \
                published for the board's compute capability; not applicable where none is, before 8.9, and on boards other \
                than 9.0 where cuBLASLt has no E4M3 product with scales by row.",
    samples: 0,
    expected_s: 5.0,
    deadline_s: 240.0,
    kernels: &["weightonly", "quantise", "model"],
    integrity: &[UNEQUAL],
    controls: &CONTROLS,
    run: checked,
};

/// Weights on host and GPU: codes of fp16 of numbers without their scales, and scales.
struct Weights {
    codes: Vec<u32>,
    scales: Option<Vec<f32>>,
    buffer: Buffer,
    scale_buffer: Option<Buffer>,
}

impl Weights {
    fn new(gpu: &Gpu, scaled: bool, scales: Vec<f32>, numbers: &[f32]) -> Result<Weights, Stop> {
        let element = if scaled { Element::E4m3 } else { Element::F16 };
        let codes: Vec<u32> = numbers.iter().map(|x| element.encode(*x)).collect();
        let words = element.pack(&codes);
        let buffer = gpu.alloc(4 * words.len() as u64)?;
        buffer.write(gpu.stream(), 0, &words)?;
        let half = |code: u32| Element::F16.encode(element.decode(code) as f32);
        let scale_buffer = if scaled { Some(operands::floats(gpu, &scales)?) } else { None };
        Ok(Weights {
            codes: codes.into_iter().map(half).collect(),
            scales: scaled.then_some(scales),
            buffer,
            scale_buffer,
        })
    }

    fn row(&self, row: usize) -> (&[u32], Option<f32>) {
        let scale = self.scales.as_ref().map(|scales| scales[row]);
        (&self.codes[row * K as usize..][..K as usize], scale)
    }
}

/// Numbers of codes of fp16.
fn numbers(codes: &[u32]) -> Vec<f64> {
    codes.iter().map(|code| Element::F16.decode(*code)).collect()
}

/// What products run on.
pub struct Bench<'a> {
    pub gpu: &'a Gpu,
    pub index: u32,
    pub product: WeightOnly,
    pub seed: u64,
}

impl Bench<'_> {
    fn metric(&self, name: &str, place: &'static str, value: f64) -> Metric {
        Metric::exact(name, &[("weights", place)], &[self.index], finite(value))
    }

    /// Codes of a product [m][n], and bytes that were written behind it.
    fn run(&self, activations: &[u32], weights: &Weights, n: u32) -> Result<(Vec<u32>, u64), Stop> {
        let stream = self.gpu.stream();
        let m = (activations.len() / K as usize) as u32;
        let words = Element::F16.pack(activations);
        let source = self.gpu.alloc(4 * words.len() as u64)?;
        source.write(stream, 0, &words)?;
        let count = u64::from(m) * u64::from(n);
        let out = self.gpu.alloc(2 * count + GUARD)?;
        out.poison(stream)?;
        let scales = weights.scale_buffer.as_ref();
        self.product.run(stream, &source, &weights.buffer, scales, &out, (m, n, K))?;
        let mut codes: Vec<u16> = out.read_vec(stream, (count + GUARD / 2) as usize)?;
        let behind = codes.split_off(count as usize);
        let strays = behind.iter().filter(|code| **code != u16::MAX).count() as u64;
        Ok((codes.into_iter().map(u32::from).collect(), strays))
    }

    fn integers(&self, seed: u64, count: u64) -> Vec<f32> {
        let value = |i| (draw(self.seed ^ seed, i) % 31) as f32 - 15.0;
        (0..count).map(value).collect()
    }

    /// Elements of a product of integers that are wrong, of the first `m` rows.
    fn wrong(&self, activations: &[u32], weights: &Weights, exact: &[f64]) -> Result<u64, Stop> {
        let (found, strays) = self.run(activations, weights, N)?;
        let pairs = found.iter().zip(exact);
        let wrong = pairs.filter(|(found, exact)| {
            // A zero may have either sign.
            let zeros = **exact == 0.0 && **found & 0x7FFF == 0;
            !zeros && **found != Element::F16.encode(**exact as f32)
        });
        Ok(wrong.count() as u64 + strays)
    }

    /// Every element in f64, with its bound, by rows of activations.
    fn exact(&self, activations: &[u32], weights: &Weights) -> Vec<(f64, f64)> {
        let activations = numbers(activations);
        let rows: Vec<_> = (0..N as usize)
            .map(|row| weights.row(row))
            .map(|(codes, scale)| (numbers(codes), scale))
            .collect();
        let by = |a: &[f64]| -> Vec<(f64, f64)> {
            rows.iter().map(|(weights, scale)| oracle::exact(a, weights, *scale)).collect()
        };
        activations.chunks(K as usize).flat_map(by).collect()
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    e4m3::has_e4m3(gpu)?;
    let adder = accumulator::adder(gpu, Element::F16)?;
    let product = WeightOnly::new(gpu, &lab.module(gpu, &weightonly::SOURCE, recorder)?)?;
    let bench = Bench { gpu, index, product, seed: assignment.seed };
    let kernels = Kernels::new(gpu, &lab.module(gpu, &model::SOURCE, recorder)?)?;
    for (name, scaled) in [("e4m3", true), ("fp16", false)] {
        recorder.progress(name);
        integers(&bench, name, scaled, recorder)?;
        random(&bench, name, scaled, recorder)?;
        predicted(&bench, (name, scaled), adder, recorder)?;
        on_its_way_out(&bench, &kernels, scaled, recorder)?;
        normed::checked(&bench, &kernels, (name, scaled), adder, recorder)?;
    }
    recorder.progress("activations");
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    activations(&bench, &quantiser, recorder)?;
    lab.close(recorder);
    Ok(())
}

/// Products that do more than store their result.
fn on_its_way_out(
    bench: &Bench<'_>,
    kernels: &Kernels,
    scaled: bool,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let place = if scaled { "e4m3-on-its-way-out" } else { "fp16-on-its-way-out" };
    let weight = |i| operands::unit(bench.seed ^ 5, i);
    let values: Vec<f32> = (0..u64::from(fused::N) * u64::from(K)).map(weight).collect();
    let scales = (0..u64::from(fused::N)).map(|row| 0.01 + row as f32 / 1e5).collect();
    let weights = Weights::new(bench.gpu, scaled, scales, &values)?;
    for (rows, name) in [(1, "1"), (2, "2"), (11, "11")] {
        let halves = operands::activations(bench.seed ^ 6, rows.into(), K.into());
        let codes: Vec<u32> = halves.iter().map(|half| half.to_bits().into()).collect();
        let words = Element::F16.pack(&codes);
        let activations = bench.gpu.alloc(4 * words.len() as u64)?;
        activations.write(bench.gpu.stream(), 0, &words)?;
        let fused = Fused {
            gpu: bench.gpu,
            product: &bench.product,
            kernels,
            activations: &activations,
            weights: &weights.buffer,
            scales: weights.scale_buffer.as_ref(),
            sizes: (rows, K),
        };
        let (unequal, without) = fused.unequal()?;
        let at = [("weights", place), ("rows", name)];
        let metric = |count: u64| Metric::exact(UNEQUAL, &at, &[bench.index], count as f64);
        recorder.metric(metric(unequal));
        recorder.control("gelu-left-out", metric(without));
        if WeightOnly::norms(fused.sizes) {
            recorder.control("norm-left-out", metric(fused.without_norm()?));
        }
    }
    Ok(())
}

fn integers(
    bench: &Bench<'_>,
    name: &'static str,
    scaled: bool,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let each = u64::from(K);
    let numbers = bench.integers(1, u64::from(MOST_ROWS) * each);
    let all: Vec<u32> = numbers.iter().map(|x| Element::F16.encode(*x)).collect();
    let mut values = bench.integers(2, u64::from(N) * each);
    let mut scales: Vec<f32> = (0..N).map(|row| 2f32.powi((row % 7) as i32 - 6)).collect();
    let weights = Weights::new(bench.gpu, scaled, scales.clone(), &values)?;
    let exact: Vec<f64> = bench.exact(&all, &weights).into_iter().map(|pair| pair.0).collect();
    let mut wrong = 0;
    for m in [1, 8, 11, MOST_ROWS] {
        let part = &all[..(m * K) as usize];
        wrong += bench.wrong(part, &weights, &exact[..(m * N) as usize])?;
    }
    recorder.metric(bench.metric(WRONG, name, wrong as f64));
    let last = values.len() - 1;
    values[last] = if values[last] < 15.0 { values[last] + 1.0 } else { 14.0 };
    let other = Weights::new(bench.gpu, scaled, scales.clone(), &values)?;
    let missed = bench.wrong(&all, &other, &exact)?;
    recorder.control("one-code", bench.metric(WRONG, name, missed as f64));
    if scaled {
        scales.swap(3, 5);
        let other =
            Weights { scale_buffer: Some(operands::floats(bench.gpu, &scales)?), ..weights };
        let missed = bench.wrong(&all, &other, &exact)?;
        recorder.control("scales-swapped", bench.metric(WRONG, name, missed as f64));
    }
    Ok(())
}

fn random(
    bench: &Bench<'_>,
    name: &'static str,
    scaled: bool,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let halves = operands::activations(bench.seed, MOST_ROWS.into(), K.into());
    let mut all: Vec<u32> = halves.iter().map(|half| half.to_bits().into()).collect();
    let weight = |i| 4.0 * operands::unit(bench.seed ^ 3, i);
    let values: Vec<f32> = (0..u64::from(N) * u64::from(K)).map(weight).collect();
    let scales = (0..u64::from(N)).map(|row| 0.01 + draw(9, row) as f32 * 2f32.powi(-36)).collect();
    let weights = Weights::new(bench.gpu, scaled, scales, &values)?;
    let exact = bench.exact(&all, &weights);
    let ratio = |found: &[u32]| {
        let each = found.iter().zip(&exact).map(|(found, (sum, bound))| {
            let error = (Element::F16.decode(*found) - sum).abs();
            if error == 0.0 { 0.0 } else { error / bound }
        });
        // What is no number is beyond every bound.
        each.fold(0.0, |most: f64, ratio| most.max(finite(ratio)))
    };
    let (mut found, _) = bench.run(&all, &weights, N)?;
    recorder.metric(bench.metric(ERROR, name, ratio(&found)));
    let mut rows = Vec::new();
    for row in all.chunks(K as usize) {
        rows.extend(bench.run(row, &weights, N)?.0);
    }
    for rows_of_8 in all.chunks(8 * K as usize) {
        rows.extend(bench.run(rows_of_8, &weights, N)?.0);
    }
    let unequal = |found: &[u32]| {
        let twice = found.iter().chain(found);
        twice.zip(&rows).filter(|(found, alone)| found != alone).count() as f64
    };
    recorder.metric(bench.metric(UNEQUAL, name, unequal(&found)));
    found[777] ^= 1;
    recorder.control("a-bit-of-a-row", bench.metric(UNEQUAL, name, unequal(&found)));
    for row in all.chunks_mut(K as usize) {
        row[K as usize - 64..].fill(0);
    }
    let (found, _) = bench.run(&all, &weights, N)?;
    recorder.control("short-sum", bench.metric(ERROR, name, ratio(&found)));
    Ok(())
}

/// The column of the first half of `k` whose numbers stand again in one of the second half.
pub fn twin(column: u64, k: u64) -> Option<u64> {
    column.checked_sub(k / 2).map(|at| (37 * at + 11) % (k / 2))
}

/// Random codes of rows whose second half of columns is the first, in another order and of activations with the
/// other sign: exact products of such rows are 0, and what is left shows every rounding on the way.
pub fn cancelling(element: Element, seed: u64, (rows, k): (u32, u32)) -> Vec<u32> {
    let k = u64::from(k);
    let code = |i: u64| {
        let (row, column) = (i / k, i % k);
        let twin = twin(column, k);
        let code = accumulator::wide_code(element, seed, row * k + twin.unwrap_or(column));
        let turned = twin.is_some() && element == Element::F16;
        if turned { code ^ 0x8000 } else { code }
    };
    (0..u64::from(rows) * k).map(code).collect()
}

/// Rows of `k` with their columns moved by 32: sums of the same numbers in another order.
pub fn turned(codes: &[u32], k: u32) -> Vec<u32> {
    let mut codes = codes.to_vec();
    codes.chunks_mut(k as usize).for_each(|row| row.rotate_left(32));
    codes
}

/// A product of random codes whose exact sums are 0, and the same with its columns moved: other orders of the same sums.
pub struct Cancelling {
    activations: Vec<u32>,
    weights: Weights,
    pub found: Vec<u32>,
    pub moved: Vec<u32>,
}

impl Cancelling {
    /// Weights in E4M3 with a scale a row, or in fp16.
    pub fn new(bench: &Bench<'_>, scaled: bool) -> Result<Cancelling, Stop> {
        let activations = cancelling(Element::F16, bench.seed ^ 5, (MOST_ROWS, K));
        let codes = cancelling(Element::E4m3, bench.seed ^ 6, (N, K));
        let number = |code: u32| Element::E4m3.decode(code) as f32;
        let values: Vec<f32> = codes.into_iter().map(number).collect();
        let scales = (0..N).map(|row| 2f32.powi((row % 3) as i32)).collect();
        let weights = Weights::new(bench.gpu, scaled, scales, &values)?;
        let (found, _) = bench.run(&activations, &weights, N)?;
        let number = |code: &u32| Element::F16.decode(*code) as f32;
        let other: Vec<f32> = turned(&weights.codes, K).iter().map(number).collect();
        let scales = weights.scales.clone().unwrap_or_default();
        let other = Weights::new(bench.gpu, scaled, scales, &other)?;
        let (moved, _) = bench.run(&turned(&activations, K), &other, N)?;
        Ok(Cancelling { activations, weights, found, moved })
    }

    /// Drawn elements of a product that are not those of an adder over the columns as they were.
    pub fn unpredicted(&self, adder: Adder, product: &[u32]) -> u64 {
        let wrong = |word: &u32| {
            let (row, column) = ((word % MOST_ROWS) as usize, (word / MOST_ROWS % N) as usize);
            let activations = &self.activations[row * K as usize..][..K as usize];
            let (codes, scale) = self.weights.row(column);
            let wanted = oracle::foretold(adder, activations, codes, scale);
            product[row * N as usize + column] != wanted
        };
        (0..DRAWN).map(|i| draw(0xD2A7, i)).filter(wrong).count() as u64
    }
}

fn predicted(
    bench: &Bench<'_>,
    (name, scaled): (&'static str, bool),
    adder: Adder,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let product = Cancelling::new(bench, scaled)?;
    let metric = |wrong: u64| bench.metric(UNPREDICTED, name, wrong as f64);
    recorder.metric(metric(product.unpredicted(adder, &product.found)));
    recorder.control("other-order", metric(product.unpredicted(adder, &product.moved)));
    Ok(())
}

/// True weight-only beside a product whose activations are quantised too.
fn activations(
    bench: &Bench<'_>,
    quantiser: &Quantiser,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let (gpu, stream) = (bench.gpu, bench.gpu.stream());
    let lt = Lt::new(gpu)?;
    recorder.option("cublaslt", lt.version());
    let halves = |seed: u64, rows: u32| operands::activations(seed, rows.into(), SIDE_K.into());
    let left = halves(bench.seed ^ 7, MOST_ROWS);
    // Small enough for every sum to be a half.
    let small = |x: f16| x * f16::from_f32(2f32.powi(-6));
    let right: Vec<f16> = halves(bench.seed ^ 8, SIDE).into_iter().map(small).collect();
    let quantised = |source: &Buffer, rows: u32| -> Result<Quantised, Stop> {
        let sizes = (u64::from(rows), SIDE_K);
        let target = Quantised::new(gpu, Scheme::Row, sizes.0, sizes.1)?;
        quantiser.run(stream, Scheme::Row, source, sizes, &target, Extra::default())?;
        Ok(target)
    };
    let source = operands::halves(gpu, &left)?;
    let weights = quantised(&operands::halves(gpu, &right)?, SIDE)?;
    let codes: Vec<u8> = weights.codes.read_vec(stream, right.len())?;
    let scales: Vec<f32> = weights.scales.read_vec(stream, SIDE as usize)?;
    let activations: Vec<f64> = left.iter().map(|x| x.to_f64()).collect();
    let numbers: Vec<f64> = codes.iter().map(|code| Element::E4m3.decode((*code).into())).collect();
    let (rows, columns) = (activations.chunks(SIDE_K as usize), numbers.chunks(SIDE_K as usize));
    let by = |a: &[f64]| -> Vec<f64> {
        let each = columns.clone().zip(&scales);
        each.map(|(b, scale)| oracle::exact(a, b, Some(*scale)).0).collect()
    };
    let wanted: Vec<f64> = rows.flat_map(by).collect();
    let out = gpu.alloc(2 * u64::from(MOST_ROWS) * u64::from(SIDE))?;
    let error = |decode: &dyn Fn(u16) -> f64| -> Result<f64, Stop> {
        let found: Vec<u16> = out.read_vec(stream, wanted.len())?;
        let squares =
            |of: &dyn Fn(usize) -> f64| (0..wanted.len()).map(|i| of(i).powi(2)).sum::<f64>();
        Ok((squares(&|i| decode(found[i]) - wanted[i]) / squares(&|i| wanted[i])).sqrt())
    };
    out.poison(stream)?;
    let sizes = (MOST_ROWS, SIDE, SIDE_K);
    bench.product.run(stream, &source, &weights.codes, Some(&weights.scales), &out, sizes)?;
    let alone = error(&|code| f16::from_bits(code).to_f64())?;
    recorder.metric(bench.metric(ACTIVATIONS, "e4m3", alone));
    let both = quantised(&source, MOST_ROWS)?;
    out.poison(stream)?;
    let given = Operands {
        a: &both.codes,
        b: &weights.codes,
        d: &out,
        scale_a: Some(&both.scales),
        scale_b: Some(&weights.scales),
        alpha: 1.0,
        first: [0; 3],
    };
    let request = Request::new(Dtype::E4m3RowHalf, MOST_ROWS, SIDE, SIDE_K);
    let plan = Plan::heuristic_first(gpu, &lt, request, &given);
    products::offered(gpu, plan)?.run(stream, &given)?;
    let quantised = error(&|code| f16::from_bits(code).to_f64())?;
    recorder.metric(bench.metric(ACTIVATIONS, "e4m3-and-activations", quantised));
    recorder.control("quantised-activations", bench.metric(ACTIVATIONS, "e4m3", quantised));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cancels_shows_the_order_of_its_sum() {
        let weights: Vec<u32> = cancelling(Element::E4m3, 1, (16, K))
            .into_iter()
            .map(|code| Element::F16.encode(Element::E4m3.decode(code) as f32))
            .collect();
        let activations = cancelling(Element::F16, 2, (1, K));
        let foretold =
            |a: &[u32], b: &[u32], scale| oracle::foretold(Adder::HOPPER_F16, a, b, scale);
        for scale in [Some(2.0), None] {
            let each = weights.chunks(K as usize).map(|row| {
                assert_eq!(oracle::exact(&numbers(&activations), &numbers(row), scale).0, 0.0);
                let other = foretold(&turned(&activations, K), &turned(row, K), scale);
                (foretold(&activations, row, scale), other)
            });
            let different = each.filter(|(one, other)| one != other && one & 0x7FFF != 0).count();
            assert!(different >= 8, "{different} of 16");
        }
    }
}
