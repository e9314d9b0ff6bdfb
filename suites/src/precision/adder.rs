//! Do tensor cores add as it is published of them: products beside the adder of the board's own compute capability.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::element::Element;
use kernels::libraries::Library;
use kernels::matmul::Lt;
use kernels::tensorcore::Adder;
use kernels::weightonly::{self, WeightOnly};

use super::accumulator::{self, DRAWN_K, Pair, wide_code};
use super::weight_only::{self, Cancelling};
use crate::e4m3;
use crate::lab::{self, Lab};

/// Drawn elements whose bits are not those of the board's adder.
pub const UNPREDICTED: &str = accumulator::UNPREDICTED;

/// Columns by which those of both matrices are moved: their sums are of the same numbers in another order.
const MOVED: u64 = 48;

static CONTROLS: [Control; 2] = [
    Control {
        name: "a-bit-less",
        fault: "the model aligns products and sum to a bit less",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "other-order",
        fault: "the columns of both matrices stand in another order",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
];

/// Each GPU. Of tier full: what of it is about 9.0 `precision::accumulator` and `precision::weight-only` measure in tier
/// quick.
pub static F16_CASE: Case = Case {
    id: "precision::adder-fp16",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "Products of fp16 beside the model of the adder that is published for the board's compute capability (8.0, \
                8.9, 9.0, 10.0 and 12.0), bit by bit. By this project's weight-only kernel, so by mma of 16 products: 512 \
                drawn elements of 16 x 1000 over k = 4160, sixteen parts of k added in f32, of random codes whose exact \
                sums are 0. By cuBLASLt's first algorithm without split of k: 2048 drawn elements of 1024 x 1024 over k = \
                4096, f32 out, of random codes over 14 exponents. Not applicable where no adder is published.",
    samples: 0,
    expected_s: 3.0,
    deadline_s: 240.0,
    kernels: &["weightonly"],
    integrity: &[],
    controls: &CONTROLS,
    run: f16,
};

/// Each GPU.
pub static E4M3_CASE: Case = Case {
    id: "precision::adder-e4m3",
    procedure: "Products of E4M3 by cuBLASLt's first algorithm without split of k, fast accumulation asked for, beside the \
                model of the adder that is published for the board's compute capability (8.9, 9.0, 10.0 and 12.0), in one \
                accumulator: 2048 drawn elements of 1024 x 1024 over k = 4096, scales of 1, f32 out, of random codes over \
                14 of 15 normal exponents, bit by bit. Not applicable where no adder is published and, on boards other \
                than 9.0, where cuBLASLt has no such product.",
    kernels: &[],
    run: e4m3,
    ..F16_CASE
};

/// Writes down an adder.
fn note(adder: Adder, element: &str, recorder: &mut Recorder) {
    let Adder { terms, aligned_bits, kept_bits } = adder;
    let text = format!("{terms} products at once, {aligned_bits} bits aligned, {kept_bits} kept");
    recorder.option(&format!("adder.{element}"), text);
}

/// The adder that aligns to a bit less: the fault of a model that is not the chip's.
fn a_bit_less(adder: Adder) -> Adder {
    Adder { aligned_bits: adder.aligned_bits - 1, ..adder }
}

/// The column of a row of `k` whose number stands where the `i`-th one of the matrix would.
fn moved(i: u64, k: u64) -> u64 {
    i / k * k + (i % k + MOVED) % k
}

fn f16(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let adder = accumulator::adder(gpu, Element::F16)?;
    lab::require(Library::CublasLt)?;
    note(adder, "fp16", recorder);
    recorder.progress("own");
    let product = WeightOnly::new(gpu, &lab.module(gpu, &weightonly::SOURCE, recorder)?)?;
    let bench = weight_only::Bench { gpu, index, product, seed: assignment.seed };
    let own = Cancelling::new(&bench, false)?;
    let metric =
        |wrong: u64| Metric::exact(UNPREDICTED, &[("product", "own")], &[index], wrong as f64);
    recorder.metric(metric(own.unpredicted(adder, &own.found)));
    recorder.control("a-bit-less", metric(own.unpredicted(a_bit_less(adder), &own.found)));
    recorder.control("other-order", metric(own.unpredicted(adder, &own.moved)));
    drop(own);
    by_library(gpu, index, (Element::F16, adder), assignment.seed, recorder)?;
    lab.close(recorder);
    Ok(())
}

fn e4m3(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    e4m3::has_e4m3(gpu)?;
    let adder = accumulator::adder(gpu, Element::E4m3)?;
    lab::require(Library::CublasLt)?;
    note(adder, "e4m3", recorder);
    by_library(gpu, index, (Element::E4m3, adder), assignment.seed, recorder)?;
    lab.close(recorder);
    Ok(())
}

/// Products by cuBLASLt, one accumulator each.
fn by_library(
    gpu: &Gpu,
    index: u32,
    (element, adder): (Element, Adder),
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress("cublaslt");
    let lt = Lt::new(gpu)?;
    recorder.option("cublaslt", lt.version());
    let k = u64::from(DRAWN_K);
    let fast = element == Element::E4m3;
    let metric =
        |wrong: u64| Metric::exact(UNPREDICTED, &[("product", "cublaslt")], &[index], wrong as f64);
    let pair = Pair::new(gpu, &lt, element, DRAWN_K, |i| wide_code(element, seed, i))?;
    let (product, algorithm) = pair.product(fast)?;
    recorder.option("algorithm", algorithm);
    recorder.metric(metric(pair.unpredicted(&product, adder, None)));
    let wrong = pair.unpredicted(&product, a_bit_less(adder), None);
    recorder.control("a-bit-less", metric(wrong));
    let other = Pair::new(gpu, &lt, element, DRAWN_K, |i| wide_code(element, seed, moved(i, k)))?;
    let (product, _) = other.product(fast)?;
    recorder.control("other-order", metric(pair.unpredicted(&product, adder, None)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::tensorcore::dot;
    use kernels::weightonly::oracle;

    const BOARDS: [(u32, u32); 5] = [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)];

    /// Of 16 pairs of rows those whose sum is another by a bit less, and in another order.
    fn differing(element: Element, adder: Adder) -> [usize; 2] {
        let k = u64::from(DRAWN_K);
        let row = |row: u64, place: &dyn Fn(u64) -> u64| -> Vec<u32> {
            (row * k..(row + 1) * k).map(|i| wide_code(element, 7, place(i))).collect()
        };
        let sum = |pair: u64, adder, place: &dyn Fn(u64) -> u64| {
            dot(adder, element, None, &row(2 * pair, place), &row(2 * pair + 1, place)).to_bits()
        };
        let differs = |other: &dyn Fn(u64) -> u32| {
            (0..16).filter(|pair| other(*pair) != sum(*pair, adder, &|i| i)).count()
        };
        [
            differs(&|pair| sum(pair, a_bit_less(adder), &|i| i)),
            differs(&|pair| sum(pair, adder, &|i| moved(i, k))),
        ]
    }

    #[test]
    fn every_published_adder_is_told_from_one_of_a_bit_less_and_from_another_order() {
        for board in BOARDS {
            for element in [Element::F16, Element::E4m3] {
                let Some(adder) = Adder::published(element, board) else { continue };
                let [less, order] = differing(element, adder);
                assert!(less >= 12 && order >= 12, "{board:?} {element:?}: {less} {order}");
            }
        }
    }

    #[test]
    fn what_cancels_tells_an_adder_from_one_of_a_bit_less() {
        const K: u32 = 4160;
        let half = |code: u32| Element::F16.encode(Element::E4m3.decode(code) as f32);
        let weights: Vec<u32> =
            weight_only::cancelling(Element::E4m3, 1, (16, K)).into_iter().map(half).collect();
        let activations = weight_only::cancelling(Element::F16, 2, (1, K));
        for board in BOARDS {
            let adder = Adder::published(Element::F16, board).expect("an adder");
            let told = weights.chunks(K as usize).filter(|row| {
                let made = |adder| oracle::foretold(adder, &activations, row, None);
                made(adder) != made(a_bit_less(adder))
            });
            let told = told.count();
            assert!(told >= 12, "{board:?}: {told} of 16");
        }
    }

    #[test]
    fn columns_that_are_moved_stay_in_their_row() {
        assert_eq!((moved(0, 4096), moved(4095, 4096), moved(4096, 4096)), (48, 47, 4144));
    }
}
