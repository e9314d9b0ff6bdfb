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

use super::{operands, products};
use crate::lab::{self, Lab};

/// What a sum of ones came to.
pub const ONES: &str = "counted_ones_count";
/// Elements of that product that came to something else than the first.
const UNEQUAL: &str = "unequal_count";
/// Drawn elements whose bits are not the model's.
pub const UNPREDICTED: &str = "unpredicted_count";
/// Mean share that a sum of positive numbers lost.
pub const LOST: &str = "lost_percent";

/// The least k, in steps of 16, at which ones are not counted; 0 where they are.
pub const LEAST_ONES: &str = "least_k_of_ones_count";
/// The least k, a power of two, at which sums of positive numbers lose a hundredth on average; 0 for none.
pub const LEAST_LOST: &str = "least_k_of_loss_count";

/// Rows and columns of every product: enough for whole tiles, so that no library splits k.
pub(super) const SIDE: u32 = 1024;
const ONES_K: u32 = 32768;
pub(super) const DRAWN_K: u32 = 4096;
const POSITIVE_K: u32 = 16384;
/// Where the least k of ones is looked for, and the step: k comes in 16s.
const SWEPT: std::ops::RangeInclusive<u32> = 16_128..=16_640;
const STEP: usize = 16;
/// The same for positive numbers.
const DOUBLED: [u32; 6] = [128, 256, 512, 1024, 2048, 4096];
/// What such a sum must lose, in percent.
const HUNDREDTH: f64 = 1.0;
/// Elements that are compared with the model, and with f64.
const DRAWN: u64 = 2048;
const LOSSES: u64 = 256;
/// The code of one.
const ONE: u8 = 0x38;

static CONTROLS: [Control; 8] = [
    Control {
        name: "precise-for-fast-ones",
        fault: "ones are counted by precise accumulation, called fast",
        trips: LEAST_ONES,
        expect: Expect::Refuted,
    },
    Control {
        name: "precise-for-fast-sums",
        fault: "positive numbers are added by precise accumulation, called fast",
        trips: LEAST_LOST,
        expect: Expect::Refuted,
    },
    Control {
        name: "other-accumulation",
        fault: "a product with fast accumulation stands where one without was asked for",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "a-bit-of-fp16",
        fault: "the last bit of one drawn element of the fp16 product is another",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "adder-of-12-bits",
        fault: "the model of fast accumulation has 12 bits, one too few",
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
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 1024 x 1024 by cuBLASLt's first algorithm, without split of k, E4M3 with a scale of \
                1 and f32 out, with fast accumulation and without. k = 32768 of ones. k = 4096 of random \
                codes over 14 of 15 normal exponents of E4M3, and as many of fp16: 2048 drawn elements against a model of the tensor \
                cores' arithmetic (32 products an instruction, aligned and truncated to 13 bits below the \
                largest, kept to 13 bits; without fast accumulation groups of 128 are added in f32), bit \
                by bit, and fp16 (16 products, 25 and 23 bits). k = 16384 of uniform numbers in 0 to 4: \
                the mean share by which 256 drawn sums are off the exact ones. The least k at which fast accumulation does \
                not count ones, of all multiples of 16 from 16128 to 16640, and at which it loses a hundredth of \
                such sums on average, of powers of two from 128 on. Not applicable but on \
                compute capability 9.0: an adder of 13 bits, and groups of 128 about it, are true of it alone.",
    samples: 0,
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
pub(super) struct Pair<'a> {
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
    pub(super) fn new(
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
    pub(super) fn product(&self, fast: bool) -> Result<(Vec<f32>, String), Stop> {
        self.product_of(fast, self.k)
    }

    /// The same over another k: codes are drawn alike, so that any number of them is a row.
    fn product_of(&self, fast: bool, k: u32) -> Result<(Vec<f32>, String), Stop> {
        let eight = self.element == Element::E4m3;
        let dtype = if eight { Dtype::E4m3Wide } else { Dtype::F16Wide };
        let request = Request { fast_accumulation: fast, ..Request::new(dtype, SIDE, SIDE, k) };
        let [a, b, d] = &self.device;
        let scale = eight.then_some(&self.one);
        let operands =
            Operands { a, b, d, scale_a: scale, scale_b: scale, alpha: 1.0, first: [0; 3] };
        d.poison(self.gpu.stream())?;
        let plan = Plan::heuristic_first(self.gpu, self.lt, request, &operands);
        let plan = products::offered(self.gpu, plan)?;
        plan.run(self.gpu.stream(), &operands)?;
        let product = d.read_vec(self.gpu.stream(), (SIDE * SIDE) as usize)?;
        Ok((product, format!("{:?}", plan.choice().algorithm)))
    }

    fn row<'m>(&self, matrix: &'m [u32], row: usize) -> &'m [u32] {
        row_of(matrix, row, self.k)
    }

    /// Drawn elements that the model did not foretell.
    pub(super) fn unpredicted(
        &self,
        product: &[f32],
        adder: Adder,
        promoted: Option<usize>,
    ) -> u64 {
        let wrong = operands::drawn_of(SIDE, DRAWN).filter(|&(row, column)| {
            let (a, b) = (self.row(&self.a, row), self.row(&self.b, column));
            let foretold = tensorcore::dot(adder, self.element, promoted, a, b);
            foretold.to_bits() != product[row * SIDE as usize + column].to_bits()
        });
        wrong.count() as u64
    }

    /// What drawn elements lost.
    fn lost(&self, product: &[f32], k: u32) -> Result<f64, Stop> {
        mean_lost(operands::drawn_of(SIDE, LOSSES).map(|(row, column)| {
            let (a, b) = (row_of(&self.a, row, k), row_of(&self.b, column, k));
            let found = f64::from(product[row * SIDE as usize + column]);
            (found, tensorcore::exact(self.element, a, b))
        }))
    }
}

/// Mean of |1 - sum / exact sum|, in percent. What is no number is an error, not a great loss.
pub fn mean_lost(sums: impl Iterator<Item = (f64, f64)>) -> Result<f64, Stop> {
    let losses: Vec<f64> = sums.map(|(found, exact)| (1.0 - found / exact).abs()).collect();
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    match mean.is_finite() {
        true => Ok((mean * 1e7).round() / 1e5),
        false => Err(Stop::Error(format!("sums of positive numbers are off by {mean} on average"))),
    }
}

/// Codes of uniform numbers in 0 to 4.
pub fn positive_code(seed: u64, i: u64) -> u32 {
    Element::E4m3.encode((draw(seed, i) as f32) * 2f32.powi(-30))
}

/// A row of a matrix of rows of k.
fn row_of(matrix: &[u32], row: usize, k: u32) -> &[u32] {
    &matrix[row * k as usize..][..k as usize]
}

/// The adder that is published for products of a type on the board at hand.
///
/// Errors: not applicable where none is.
pub fn adder(gpu: &Gpu, element: Element) -> Result<Adder, Stop> {
    let (major, minor) = gpu.compute_capability;
    let products = if element == Element::E4m3 { "E4M3" } else { "fp16" };
    Adder::published(element, (major, minor)).ok_or_else(|| {
        Stop::NotApplicable(format!(
            "no adder of products of {products} is published for compute capability {major}.{minor}"
        ))
    })
}

/// Refuses a GPU of which sentences about 9.0 are not true: those of its adder of E4M3, and of what cuBLASLt does about
/// its 13 bits.
///
/// Errors: not applicable but on 9.0, with what is published of the board's own adder.
pub fn modelled(gpu: &Gpu) -> Result<(), Stop> {
    match gpu.compute_capability {
        (9, 0) => Ok(()),
        capability => Err(Stop::NotApplicable(unlike_hopper(capability))),
    }
}

/// Why a sentence about 9.0 is not one about another compute capability.
fn unlike_hopper((major, minor): (u32, u32)) -> String {
    let Adder { terms, kept_bits, .. } = Adder::HOPPER_E4M3;
    let own = match Adder::published(Element::E4m3, (major, minor)) {
        Some(own) => {
            format!("{major}.{minor} adds {} and keeps {}", own.terms, own.kept_bits)
        }
        None => format!("no such adder is published for {major}.{minor}"),
    };
    format!(
        "a sentence about compute capability 9.0, which adds {terms} products of E4M3 at once and keeps {kept_bits} bits: \
         {own}"
    )
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    modelled(gpu)?;
    let lt = Lt::new(gpu)?;
    let seed = assignment.seed;
    recorder.option("cublaslt", lt.version());
    ones(gpu, &lt, index, recorder)?;
    recorder.progress("positive sums");
    let pair = Pair::new(gpu, &lt, Element::E4m3, POSITIVE_K, |i| positive_code(seed ^ 3, i))?;
    for (way, fast) in WAYS {
        let lost = pair.lost(&pair.product(fast)?.0, POSITIVE_K)?;
        let metric = |way| Metric::exact(LOST, &[("accumulation", way)], &[index], lost);
        recorder.metric(metric(way));
        if fast {
            recorder.control("fast-loses", metric("precise"));
        }
    }
    recorder.progress("least k of sums");
    least((LEAST_LOST, "precise-for-fast-sums"), index, recorder, |fast| {
        for k in DOUBLED {
            if pair.lost(&pair.product_of(fast, k)?.0, k)? >= HUNDREDTH {
                return Ok(k);
            }
        }
        Ok(0)
    })?;
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
    recorder.progress("least k of ones");
    least((LEAST_ONES, "precise-for-fast-ones"), index, recorder, |fast| {
        for k in SWEPT.step_by(STEP) {
            if pair.product_of(fast, k)?.0.iter().any(|x| *x != k as f32) {
                return Ok(k);
            }
        }
        Ok(0)
    })
}

/// The least k that is found of fast accumulation; what is found of precise is the control.
fn least(
    (name, control): (&str, &str),
    index: u32,
    recorder: &mut Recorder,
    find: impl Fn(bool) -> Result<u32, Stop>,
) -> Result<(), Stop> {
    let metric = |k: u32| Metric::exact(name, &[("accumulation", "fast")], &[index], f64::from(k));
    recorder.metric(metric(find(true)?));
    recorder.control(control, metric(find(false)?));
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
    let (mut product, algorithm) = pair.product(false)?;
    recorder.option("algorithm.fp16", algorithm);
    recorder.metric(count("fp16", pair.unpredicted(&product, Adder::HOPPER_F16, None)));
    if let Some((row, column)) = operands::drawn_of(SIDE, DRAWN).next() {
        let element = &mut product[row * SIDE as usize + column];
        *element = f32::from_bits(element.to_bits() ^ 1);
    }
    let wrong = pair.unpredicted(&product, Adder::HOPPER_F16, None);
    recorder.control("a-bit-of-fp16", count("fp16", wrong));
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
            let narrow = Adder { aligned_bits: 12, kept_bits: 12, ..Adder::HOPPER_E4M3 };
            let wrong = pair.unpredicted(&product, narrow, None);
            recorder.control("adder-of-12-bits", count("e4m3-fast", wrong));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_of_hopper_alone_says_what_others_do() {
        const HOPPER: &str = "a sentence about compute capability 9.0, which adds 32 products of E4M3 at once and keeps 13 bits: ";
        let check = |capability, own: &str| {
            assert_eq!(unlike_hopper(capability), format!("{HOPPER}{own}"));
        };
        check((8, 9), "8.9 adds 16 and keeps 13");
        check((10, 0), "10.0 adds 32 and keeps 23");
        check((8, 0), "no such adder is published for 8.0");
    }

    #[test]
    fn the_model_foretells_the_least_k() {
        let ones = |k: u32| {
            let row = vec![u32::from(ONE); k as usize];
            tensorcore::dot(Adder::HOPPER_E4M3, Element::E4m3, None, &row, &row)
        };
        assert_eq!((ones(16384), ones(16400)), (16384.0, 16384.0));
        let code = |i| Element::E4m3.encode((draw(3, i) as f32) * 2f32.powi(-30));
        let lost = |k: u32| {
            let losses = (0..64).map(|pair| {
                let row = |which: u64| -> Vec<u32> {
                    let first = (2 * pair + which) * u64::from(k);
                    (first..first + u64::from(k)).map(code).collect()
                };
                let (a, b) = (row(0), row(1));
                let sum = tensorcore::dot(Adder::HOPPER_E4M3, Element::E4m3, None, &a, &b);
                1.0 - f64::from(sum) / tensorcore::exact(Element::E4m3, &a, &b)
            });
            100.0 * losses.sum::<f64>() / 64.0
        };
        let losses = DOUBLED.map(lost);
        assert!(losses[2] < 0.8 * HUNDREDTH && losses[3] > 1.2 * HUNDREDTH, "{losses:?}");
    }
}
