//! Which accumulator do products really have: ones that stop counting, sums of positive numbers that lose,
//! and the tensor cores' arithmetic predicted bit by bit.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt, Operands, Plan, Request};
use kernels::tensorcore::{self, Adder};

use super::operands;
use crate::lab::{self, Lab};

/// What a sum of ones came to.
pub const ONES: &str = "counted_ones_count";
/// Elements of that product that came to something else than the first.
const UNEQUAL: &str = "unequal_count";
/// Drawn elements whose bits are not the model's.
pub const UNPREDICTED: &str = "unpredicted_count";
/// Mean share that a sum of positive numbers lost.
pub const LOST: &str = "lost_percent";

/// Rows and columns of every product: enough for whole tiles, so that no library splits k.
const SIDE: u32 = 1024;
const ONES_K: u32 = 32768;
const DRAWN_K: u32 = 4096;
const POSITIVE_K: u32 = 16384;
/// Elements that are compared with the model, and with f64.
const DRAWN: u64 = 2048;
const LOSSES: u64 = 256;
/// The code of one.
const ONE: u8 = 0x38;

static CONTROLS: [Control; 4] = [
    Control {
        name: "other-accumulation",
        fault: "a product with fast accumulation stands where one without was asked for",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "fast-for-precise",
        fault: "the sums of ones are those of fast accumulation, called precise",
        trips: ONES,
        expect: Expect::Refuted,
    },
    Control {
        name: "fast-loses",
        fault: "the sums of positive numbers are those of fast accumulation, called precise",
        trips: LOST,
        expect: Expect::Refuted,
    },
    Control {
        name: "a-bit-of-the-ones",
        fault: "one element of the sums of ones is another",
        trips: UNEQUAL,
        expect: Expect::Corrupt,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::accumulator",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 1024 x 1024 by cuBLASLt's first algorithm, without split of k, E4M3 with a scale of \
                1 and f32 out, with fast accumulation and without. k = 32768 of ones. k = 4096 of random \
                codes over all normal exponents: 2048 drawn elements against a model of the tensor \
                cores' arithmetic (32 products an instruction, aligned and truncated to 13 bits below the \
                largest, kept to 13 bits; without fast accumulation groups of 128 are added in f32), bit \
                by bit, and fp16 (16 products, 25 and 23 bits). k = 16384 of uniform numbers in 0 to 4: \
                the mean share by which 256 drawn sums are off the exact ones. Not applicable but on \
                compute capability 9.0, whose arithmetic the model is of.",
    expected_s: 5.0,
    deadline_s: 240.0,
    kernels: &[],
    integrity: &[UNEQUAL],
    controls: &CONTROLS,
    run: checked,
};

/// Ways of accumulating, as evidence names them.
const WAYS: [(&str, bool); 2] = [("fast", true), ("precise", false)];

/// Two matrices of codes on host and GPU, and memory for their product.
struct Pair<'a> {
    gpu: &'a Gpu,
    lt: &'a Lt,
    element: Element,
    k: u32,
    a: Vec<u32>,
    b: Vec<u32>,
    device: [Buffer; 3],
    one: Buffer,
}

impl<'a> Pair<'a> {
    fn new(
        gpu: &'a Gpu,
        lt: &'a Lt,
        element: Element,
        k: u32,
        code: impl Fn(u64) -> u32,
    ) -> Result<Pair<'a>, Stop> {
        let count = u64::from(SIDE) * u64::from(k);
        let a: Vec<u32> = (0..count).map(&code).collect();
        let b: Vec<u32> = (count..2 * count).map(&code).collect();
        let upload = |codes: &[u32]| -> Result<Buffer, Stop> {
            let words = element.pack(codes);
            let buffer = gpu.alloc(4 * words.len() as u64)?;
            buffer.write(gpu.stream(), 0, &words)?;
            Ok(buffer)
        };
        let device = [upload(&a)?, upload(&b)?, gpu.alloc(4 * u64::from(SIDE) * u64::from(SIDE))?];
        Ok(Pair { gpu, lt, element, k, a, b, device, one: operands::floats(gpu, &[1.0; 4])? })
    }

    /// The product's f32, and the algorithm that made it.
    fn product(&self, fast: bool) -> Result<(Vec<f32>, String), Stop> {
        let eight = self.element == Element::E4m3;
        let dtype = if eight { Dtype::E4m3Wide } else { Dtype::F16Wide };
        let request =
            Request { fast_accumulation: fast, ..Request::new(dtype, SIDE, SIDE, self.k) };
        let [a, b, d] = &self.device;
        let scale = eight.then_some(&self.one);
        let operands =
            Operands { a, b, d, scale_a: scale, scale_b: scale, alpha: 1.0, first: [0; 3] };
        d.poison(self.gpu.stream())?;
        let plan = Plan::heuristic_first(self.gpu, self.lt, request, &operands)?;
        plan.run(self.gpu.stream(), &operands)?;
        let product = d.read_vec(self.gpu.stream(), (SIDE * SIDE) as usize)?;
        Ok((product, format!("{:?}", plan.choice().algorithm)))
    }

    fn row<'m>(&self, matrix: &'m [u32], row: usize) -> &'m [u32] {
        &matrix[row * self.k as usize..][..self.k as usize]
    }

    /// Elements that are looked at: row, column.
    fn drawn(&self, count: u64) -> impl Iterator<Item = (usize, usize)> {
        (0..count).map(|i| {
            let word = draw(0xD2A7, i);
            ((word % SIDE) as usize, (word / SIDE % SIDE) as usize)
        })
    }

    /// Drawn elements that the model did not foretell.
    fn unpredicted(&self, product: &[f32], adder: Adder, promoted: Option<usize>) -> u64 {
        let wrong = self.drawn(DRAWN).filter(|&(row, column)| {
            let (a, b) = (self.row(&self.a, row), self.row(&self.b, column));
            let foretold = tensorcore::dot(adder, self.element, promoted, a, b);
            foretold.to_bits() != product[row * SIDE as usize + column].to_bits()
        });
        wrong.count() as u64
    }

    /// Mean of |1 - sum / exact sum| over drawn elements, in percent. What is no number is an error, not a
    /// great loss.
    fn lost(&self, product: &[f32]) -> Result<f64, Stop> {
        let losses = self.drawn(LOSSES).map(|(row, column)| {
            let (a, b) = (self.row(&self.a, row), self.row(&self.b, column));
            let exact = tensorcore::exact(self.element, a, b);
            (1.0 - f64::from(product[row * SIDE as usize + column]) / exact).abs()
        });
        let mean = losses.sum::<f64>() / LOSSES as f64;
        if !mean.is_finite() {
            return Err(Stop::Error(format!(
                "sums of positive numbers are off by {mean} on average"
            )));
        }
        Ok((mean * 1e7).round() / 1e5)
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    if gpu.compute_capability != (9, 0) {
        let (major, minor) = gpu.compute_capability;
        return Err(Stop::NotApplicable(format!(
            "the model is of compute capability 9.0, this is {major}.{minor}"
        )));
    }
    let lt = Lt::new(gpu)?;
    let seed = assignment.seed;
    recorder.option("cublaslt", lt.version());
    ones(gpu, &lt, index, recorder)?;
    recorder.progress("positive sums");
    let positive = |i| Element::E4m3.encode((draw(seed ^ 3, i) as f32) * 2f32.powi(-30));
    let pair = Pair::new(gpu, &lt, Element::E4m3, POSITIVE_K, positive)?;
    for (way, fast) in WAYS {
        let lost = pair.lost(&pair.product(fast)?.0)?;
        let metric = |way| Metric::exact(LOST, &[("accumulation", way)], &[index], lost);
        recorder.metric(metric(way));
        if fast {
            recorder.control("fast-loses", metric("precise"));
        }
    }
    drop(pair);
    predicted(gpu, &lt, (index, seed), recorder)?;
    lab.close(recorder);
    Ok(())
}

fn ones(gpu: &Gpu, lt: &Lt, index: u32, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("ones");
    let pair = Pair::new(gpu, lt, Element::E4m3, ONES_K, |_| ONE.into())?;
    for (way, fast) in WAYS {
        let (mut product, algorithm) = pair.product(fast)?;
        recorder.option(&format!("algorithm.ones.{way}"), algorithm);
        let first = product[0];
        let count = |product: &[f32]| product.iter().filter(|x| **x != first).count() as f64;
        let at = [("accumulation", way)];
        recorder.metric(Metric::exact(ONES, &at, &[index], f64::from(first)));
        recorder.metric(Metric::exact(UNEQUAL, &at, &[index], count(&product)));
        if fast {
            let called = [("accumulation", "precise")];
            let metric = Metric::exact(ONES, &called, &[index], f64::from(first));
            recorder.control("fast-for-precise", metric);
            product[777] += 1.0;
            let metric = Metric::exact(UNEQUAL, &at, &[index], count(&product));
            recorder.control("a-bit-of-the-ones", metric);
        }
    }
    Ok(())
}

/// Random codes over all exponents of normal numbers, of both signs.
pub fn wide_code(element: Element, seed: u64, i: u64) -> u32 {
    let word = draw(seed, i);
    match element {
        // Exponents -6 to 7 of 15, so that no product is a special number.
        Element::E4m3 => (word & 0x87) | (1 + (word >> 8) % 14) << 3,
        // Exponents -6 to 7: products then spread as E4M3's do.
        _ => (word & 0x83FF) | (9 + (word >> 16) % 14) << 10,
    }
}

fn predicted(
    gpu: &Gpu,
    lt: &Lt,
    (index, seed): (u32, u64),
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("fp16 foretold");
    let at = |kind: &'static str| [("product", kind)];
    let count = |kind, value: u64| Metric::exact(UNPREDICTED, &at(kind), &[index], value as f64);
    let pair = Pair::new(gpu, lt, Element::F16, DRAWN_K, |i| wide_code(Element::F16, seed, i))?;
    let (product, algorithm) = pair.product(false)?;
    recorder.option("algorithm.fp16", algorithm);
    recorder.metric(count("fp16", pair.unpredicted(&product, Adder::HOPPER_F16, None)));
    recorder.progress("e4m3 foretold");
    let pair = Pair::new(gpu, lt, Element::E4m3, DRAWN_K, |i| wide_code(Element::E4m3, seed, i))?;
    for (way, fast) in WAYS {
        let (product, algorithm) = pair.product(fast)?;
        recorder.option(&format!("algorithm.e4m3.{way}"), algorithm);
        // What other groupings and adders would have foretold, for a reader of the evidence.
        for (name, promoted) in
            [("none", None), ("32", Some(1)), ("64", Some(2)), ("128", Some(4)), ("256", Some(8))]
        {
            let wrong = pair.unpredicted(&product, Adder::HOPPER_E4M3, promoted);
            recorder.option(&format!("unpredicted.{way}.groups-of-{name}"), wrong);
        }
        let kind = if fast { "e4m3-fast" } else { "e4m3-precise" };
        let promoted = if fast { None } else { Some(4) };
        recorder.metric(count(kind, pair.unpredicted(&product, Adder::HOPPER_E4M3, promoted)));
        if fast {
            let wrong = pair.unpredicted(&product, Adder::HOPPER_E4M3, Some(4));
            recorder.control("other-accumulation", count("e4m3-precise", wrong));
        }
    }
    Ok(())
}
