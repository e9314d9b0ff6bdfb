//! Which arithmetic a product ran in that was asked for in E4M3: told by its bits.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Buffer;
use kernels::element::Element;
use kernels::matmul::{Dtype, Request};
use kernels::tensorcore::Adder;

use super::super::scaled::{
    self, BLOCK, K, ROW, ROW_FAST, SIDE, Scaling, Side, TENSOR, TENSOR_FAST,
};
use super::super::{accumulator, operands};
use super::{Bench, DRAWN, with_bench};

/// Drawn elements whose bits are not those of the model of E4M3's adder with the accumulation that was asked for.
pub const UNPREDICTED: &str = accumulator::UNPREDICTED;
/// Drawn elements whose bits are those of E4M3's adder with neither accumulation: another type ran.
const OTHER_TYPE: &str = "other_type_count";

static CONTROLS: [Control; 2] = [
    Control {
        name: "other-accumulation",
        fault: "a product with fast accumulation stands where one without was asked for, and the reverse",
        trips: UNPREDICTED,
        expect: Expect::Refuted,
    },
    Control {
        name: "ran-in-fp16",
        fault: "the same numbers are multiplied in fp16 where E4M3 was asked for",
        trips: OTHER_TYPE,
        expect: Expect::Corrupt,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::products-foretold",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048, E4M3 by cuBLASLt's first algorithm, with scales by row and by 1x128 \
                and 128x128 blocks (bfloat16 out) and by tensor (f32 out), precise and, but for blocks, fast \
                accumulation, of random codes over all normal exponents with powers of two as scales: 512 drawn \
                elements against the model of E4M3's adder, bit by bit, which no other type has. Elements that are \
                neither accumulation's are another type's: with any of them nothing of the case counts, and with \
                more than half of them the mode that was asked for is not the active one. Not applicable but on \
                compute capability 9.0, whose adder the model is of.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[OTHER_TYPE],
    controls: &CONTROLS,
    run: checked,
};

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    with_bench(assignment, recorder, accumulator::modelled, |bench, recorder| {
        for scaling in [ROW, BLOCK, TENSOR, ROW_FAST, TENSOR_FAST] {
            recorder.progress(scaling.name);
            told(bench, scaling, assignment.seed, recorder)?;
        }
        Ok(())
    })
}

/// What E4M3's adder makes of the drawn elements: with the accumulation that is asked for, then with the other one.
struct Foretold([Vec<u32>; 2]);

impl Foretold {
    fn new(scaling: Scaling, a: &Side, b: &Side) -> Foretold {
        let one = |scaling: Scaling| -> Vec<u32> {
            let code = |place| scaled::foretold(scaling, Adder::HOPPER_E4M3, (a, b), place);
            scaled::drawn(DRAWN).map(code).collect()
        };
        // Blocks have one accumulation.
        let other = Scaling { fast: !scaling.fast && scaling != BLOCK, ..scaling };
        Foretold([one(scaling), one(other)])
    }

    fn unpredicted(&self, found: &[u32]) -> usize {
        found.iter().zip(&self.0[0]).filter(|(found, wanted)| found != wanted).count()
    }

    fn other_type(&self, found: &[u32]) -> usize {
        let wanted = self.0[0].iter().zip(&self.0[1]);
        found
            .iter()
            .zip(wanted)
            .filter(|(found, (one, other))| found != one && found != other)
            .count()
    }

    /// The type that the bits are of.
    fn active(&self, found: &[u32]) -> &'static str {
        if 2 * self.other_type(found) > found.len() { "another type" } else { "e4m3" }
    }
}

/// Random codes beside the model of the adder.
fn told(
    bench: &Bench<'_>,
    scaling: Scaling,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let a = Side::random(scaling.a, seed ^ 21);
    let b = Side::random(scaling.b, seed ^ 22);
    let foretold = Foretold::new(scaling, &a, &b);
    let metric = |name, count: usize| bench.metric(name, scaling.name, count as f64);
    let (product, algorithm) = bench.product(scaling, &a, &b)?;
    recorder.option(&format!("algorithm.{}.random", scaling.name), algorithm);
    let found = drawn_of(&product);
    recorder.mode(&format!("scales by {}", scaling.name), "e4m3", foretold.active(&found));
    recorder.metric(metric(UNPREDICTED, foretold.unpredicted(&found)));
    recorder.metric(metric(OTHER_TYPE, foretold.other_type(&found)));
    if scaling != BLOCK {
        let other = Scaling { fast: !scaling.fast, ..scaling };
        let found = drawn_of(&bench.product(other, &a, &b)?.0);
        recorder.control("other-accumulation", metric(UNPREDICTED, foretold.unpredicted(&found)));
    }
    if scaling.dtype == Dtype::E4m3Wide {
        let found = drawn_of(&in_halves(bench, &a, &b)?);
        recorder.control("ran-in-fp16", metric(OTHER_TYPE, foretold.other_type(&found)));
    }
    Ok(())
}

/// The drawn elements of a product.
fn drawn_of(product: &[u32]) -> Vec<u32> {
    scaled::drawn(DRAWN).map(|(row, column)| product[row * SIDE as usize + column]).collect()
}

/// The same numbers multiplied in fp16, which holds them: what a library that has no E4M3 would do.
fn in_halves(bench: &Bench<'_>, a: &Side, b: &Side) -> Result<Vec<u32>, Stop> {
    let halves = |side: &Side| -> Result<Buffer, Stop> {
        let decode = |code: &u8| f16::from_f64(Element::E4m3.decode((*code).into()));
        operands::halves(bench.gpu, &side.codes.iter().map(decode).collect::<Vec<f16>>())
    };
    let request = Request::new(Dtype::F16Wide, SIDE, SIDE, K);
    let alpha = a.scales[0] * b.scales[0];
    Ok(bench.multiply(request, [&halves(a)?, &halves(b)?], None, alpha)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the model of an adder of so many bits makes of the drawn elements of a product with scales by tensor.
    fn made(scaling: Scaling, bits: i32, a: &Side, b: &Side) -> Vec<u32> {
        let adder = Adder { aligned_bits: bits, kept_bits: bits, ..Adder::HOPPER_E4M3 };
        scaled::drawn(DRAWN).map(|place| scaled::foretold(scaling, adder, (a, b), place)).collect()
    }

    #[test]
    fn another_type_is_told_from_another_accumulation() {
        let (a, b) = (Side::random(TENSOR.a, 21), Side::random(TENSOR.b, 22));
        let foretold = Foretold::new(TENSOR, &a, &b);
        let own = made(TENSOR, Adder::HOPPER_E4M3.kept_bits, &a, &b);
        assert_eq!((foretold.unpredicted(&own), foretold.other_type(&own)), (0, 0));
        assert_eq!(foretold.active(&own), "e4m3");
        let fast = made(TENSOR_FAST, Adder::HOPPER_E4M3.kept_bits, &a, &b);
        assert!(foretold.unpredicted(&fast) > 400);
        assert_eq!((foretold.other_type(&fast), foretold.active(&fast)), (0, "e4m3"));
        // As wide as fp16's.
        let wide = made(TENSOR, 25, &a, &b);
        assert!(foretold.other_type(&wide) > 400, "{}", foretold.other_type(&wide));
        assert_eq!(foretold.active(&wide), "another type");
    }
}
