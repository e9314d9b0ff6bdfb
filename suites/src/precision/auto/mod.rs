//! Does `auto` run what it names, keep what it was asked to keep, take the fastest that does, and refuse what is
//! not to be had?

mod names;
mod refusals;
mod speed;

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::auto::{Asked, Halves, Multiplication, Shape, Tools, Wish};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::Lt;
use kernels::operands::{self, Operands, Values};
use kernels::product::{self, Accumulation, Checker, Product, Scale};
use kernels::quantise::{self, Quantiser};
use kernels::timing::{self, Timer};
use kernels::weightonly::{self, WeightOnly};

use super::accumulator;
use crate::lab::{self, Lab, finite};

/// Drawn elements whose bits are not those of the arithmetic that was named.
pub const MISNAMED: &str = "misnamed_count";
/// Root mean square of the error beside f64 on the fp16 operands, over that of the product, over what was allowed.
pub const ERROR: &str = "error_over_wish_ratio";
/// Time of what was chosen over that of the fastest other one that errs by no more than was allowed.
pub const OVER_OTHERS: &str = "time_over_others_ratio";
/// Requests that were not answered as they must be.
pub const WRONG: &str = "wrong_count";
/// Results of timed products that are no numbers: also those that nothing wrote.
const UNWRITTEN: &str = "nonfinite_count";

const SAMPLES: usize = 9;
/// Elements that are compared with f64.
const SAMPLED: u32 = 1024;

static CONTROLS: [Control; 13] = [
    Control {
        name: "a-bit-of-one",
        fault: "the last bit of one drawn element is another",
        trips: MISNAMED,
        expect: Expect::Refuted,
    },
    Control {
        name: "e4m3-called-fp16",
        fault: "E4M3 runs where fp16 is named",
        trips: MISNAMED,
        expect: Expect::Refuted,
    },
    Control {
        name: "fp16-called-e4m3",
        fault: "fp16 runs where E4M3 is named",
        trips: MISNAMED,
        expect: Expect::Refuted,
    },
    Control {
        name: "precise-called-fast",
        fault: "E4M3 with precise accumulation runs where fast is named",
        trips: MISNAMED,
        expect: Expect::Refuted,
    },
    Control {
        name: "both-called-weight-only",
        fault: "activations are quantised too where weight-only is named",
        trips: MISNAMED,
        expect: Expect::Refuted,
    },
    Control {
        name: "wish-ignored",
        fault: "the fastest is chosen whatever error is allowed",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "sums-not-kept",
        fault: "numbers are of one sign and auto is not told",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "always-fp16",
        fault: "the most exact is chosen and not the fastest",
        trips: OVER_OTHERS,
        expect: Expect::Refuted,
    },
    Control {
        name: "second-best",
        fault: "the second fastest of those that keep the wish of 4096x8192x8192 is called the choice",
        trips: OVER_OTHERS,
        expect: Expect::Refuted,
    },
    Control {
        name: "falls-back",
        fault: "what cannot be had is computed in another type, and nothing is said",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "refuses-all",
        fault: "what can be had is refused too",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "one-obstacle-for-all",
        fault: "every refusal gives the error as its reason",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "unwritten-output",
        fault: "a product is not run",
        trips: UNWRITTEN,
        expect: Expect::Corrupt,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::auto",
    revision: 2,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "auto takes fp16 matrices and chooses among fp16, E4M3 with scales by row and precise or fast \
                accumulation (cuBLASLt's first algorithm), and weight-only E4M3. Names: four requests over k = 4096, \
                one for each arithmetic, and each shape's product that was timed. 512 elements are drawn, 128 of \
                timed products; their rows hold numbers that all four hold, whose second half cancels the first, so \
                that exact sums are 0 and what is left tells the adder: the model of the adder that was named, bit \
                by bit. The mode that was asked for is the arithmetic that was named, the active one that whose \
                model foretells most elements. Wishes: of nearly normal data, and of uniform numbers in 0 to 1 over \
                k = 16384, 1024 drawn elements against f64 on the fp16 operands. Speed: six shapes, every arithmetic \
                that can be had is timed, its milliseconds are written down, and those whose measured error is \
                within the wish are held against each other, A's quantisation included and B's not, a sample of each \
                in turn, with a rest of three times the last sample before it and of 100 ms before the first; \
                behind them each runs once more over a poisoned result, which is all numbers. Weights that fit into L2 may stay there. \
                Refusals: FP8 on boards without it (described, not had), where cuBLASLt has none, of shapes that do \
                not fit it, with errors that it does not keep; errors that nothing keeps, or that are no number; and \
                requests that can be met. Not applicable but on compute capability 9.0, whose arithmetic the models \
                are of.",
    samples: SAMPLES,
    expected_s: 5.0,
    deadline_s: 240.0,
    kernels: &["quantise", "weightonly", "product", "operands", "timing"],
    integrity: &[UNWRITTEN],
    controls: &CONTROLS,
    run: checked,
};

/// What is asked of `auto`.
#[derive(Debug, Clone, Copy)]
struct Request {
    /// As evidence names it.
    name: &'static str,
    shape: Shape,
    wish: Wish,
}

const fn request(
    name: &'static str,
    (m, n, k): (u32, u32, u32),
    relative_error: f64,
    keeps_sums: bool,
) -> Request {
    Request { name, shape: Shape { m, n, k }, wish: Wish { relative_error, keeps_sums } }
}

const SIDE: u32 = 1024;
const K: u32 = 4096;

/// One for each arithmetic.
const NAMED: [Request; 4] = [
    request("tight", (SIDE, SIDE, K), 1e-3, false),
    request("one-sign", (SIDE, SIDE, K), 0.07, true),
    request("both-signs", (SIDE, SIDE, K), 0.07, false),
    request("few-rows", (weightonly::MOST_ROWS, SIDE, K), 0.045, true),
];

/// With numbers of both signs, but for the last, whose are of one.
const KEPT: [Request; 4] = [
    request("tight", (1024, 4096, 4096), 1e-3, false),
    request("loose", (1024, 4096, 4096), 0.07, false),
    request("few-rows", (8, 8192, 8192), 0.045, false),
    POSITIVE,
];
const POSITIVE: Request = request("one-sign", (256, 256, 16384), 0.07, true);

const TIMED: [Request; 6] = [
    request("4096x8192x8192", (4096, 8192, 8192), 0.07, false),
    request("1x32768x8192", (1, 32768, 8192), 0.07, false),
    request("8x8192x8192", (8, 8192, 8192), 0.07, false),
    request("16x8192x8192", (16, 8192, 8192), 0.07, false),
    request("128x512x512", (128, 512, 512), 0.07, false),
    request("256x256x16384", (256, 256, 16384), 0.07, true),
];

/// No wish at all.
const ANY: Wish = Wish { relative_error: f64::INFINITY, keeps_sums: false };

/// fp16 matrices on the GPU.
pub struct Matrices {
    a: Buffer,
    b: Buffer,
    d: Buffer,
    shape: Shape,
}

impl Matrices {
    fn new(gpu: &Gpu, shape: Shape) -> Result<Matrices, Stop> {
        let halves = |rows: u32, columns: u32| gpu.alloc(2 * u64::from(rows) * u64::from(columns));
        let Shape { m, n, k } = shape;
        Ok(Matrices { a: halves(m, k)?, b: halves(n, k)?, d: halves(m, n)?, shape })
    }

    /// Chooses an arithmetic for the product.
    pub fn multiplied<'a>(
        &'a self,
        tools: Tools<'a>,
        asked: Asked,
        wish: Wish,
    ) -> kernels::Result<Multiplication<'a>> {
        let Matrices { a, b, d, shape } = self;
        Multiplication::new(tools, Halves { a, b, d }, *shape, asked, wish)
    }
}

/// One GPU with what makes, runs and checks products of it.
pub struct Bench<'a> {
    pub tools: Tools<'a>,
    pub index: u32,
    pub seed: u64,
    pub checker: Checker,
    pub operands: Operands,
}

impl<'a> Bench<'a> {
    fn exact(&self, name: &str, request: &'static str, value: f64) -> Metric {
        Metric::exact(name, &[("request", request)], &[self.index], finite(value))
    }

    /// Matrices of nearly normal data, or of uniform numbers in 0 to 1.
    pub fn random(&self, shape: Shape, positive: bool) -> Result<Matrices, Stop> {
        let gpu = self.tools.gpu;
        let matrices = Matrices::new(gpu, shape)?;
        for (buffer, seed) in [(&matrices.a, self.seed ^ 41), (&matrices.b, self.seed ^ 42)] {
            let count = buffer.len_bytes() / 2;
            if positive {
                buffer.write(gpu.stream(), 0, &uniform(seed, count))?;
            } else {
                let normal = Values::Normals { scale: 1.0 };
                self.operands.fill(gpu.stream(), buffer, Element::F16, count, seed, normal)?;
            }
        }
        Ok(matrices)
    }

    /// Runs a product once and compares it with f64 on the fp16 operands.
    pub fn error(&self, matrices: &Matrices, one: &Multiplication<'_>) -> Result<f64, Stop> {
        let (gpu, Matrices { a, b, d, shape }) = (self.tools.gpu, matrices);
        d.poison(gpu.stream())?;
        one.run(gpu.stream())?;
        let product = Product {
            a,
            b,
            d,
            m: shape.m,
            n: shape.n,
            k: shape.k,
            input: Element::F16,
            output: Element::F16,
            scale_a: Scale::Unit,
            scale_b: Scale::Unit,
            alpha: 1.0,
        };
        let accumulation = Accumulation::of(Element::F16, false);
        let samples =
            self.checker.sample(gpu, gpu.stream(), &product, SAMPLED, self.seed, accumulation)?;
        Ok(samples.rms_relative_error)
    }

    fn nonfinite(&self, matrices: &Matrices) -> Result<f64, Stop> {
        let Shape { m, n, .. } = matrices.shape;
        let (stream, elements) = (self.tools.gpu.stream(), u64::from(m) * u64::from(n));
        Ok(self.operands.count_nonfinite(stream, &matrices.d, Element::F16, elements)? as f64)
    }
}

/// Uniform numbers in 0 to 1.
fn uniform(seed: u64, count: u64) -> Vec<u16> {
    const EACH: u64 = 1 << 16;
    let value = |i| f16::from_f32(draw(seed, i) as f32 * 2f32.powi(-32)).to_bits();
    let firsts: Vec<u64> = (0..count).step_by(EACH as usize).collect();
    let made = lab::over_cores(&firsts, |first| -> Vec<u16> {
        (*first..count.min(first + EACH)).map(value).collect()
    });
    made.concat()
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    accumulator::modelled(gpu)?;
    let lt = Lt::new(gpu)?;
    recorder.option("cublaslt", lt.version());
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    let weight_only = WeightOnly::new(gpu, &lab.module(gpu, &weightonly::SOURCE, recorder)?)?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let bench = Bench {
        tools: Tools { gpu, lt: &lt, quantiser: &quantiser, weight_only: &weight_only },
        index,
        seed: assignment.seed,
        checker: Checker::new(&lab.module(gpu, &product::SOURCE, recorder)?)?,
        operands: Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?,
    };
    names::names(&bench, recorder)?;
    wishes(&bench, recorder)?;
    let samples = assignment.samples(SAMPLES);
    for request in TIMED {
        speed::speed(&bench, &mut timer, request, samples, recorder)?;
    }
    refusals::refusals(&bench, recorder)?;
    lab.close(recorder);
    Ok(())
}

/// Writes down what was chosen and by which algorithm.
fn note(recorder: &mut Recorder, part: &str, name: &str, one: &Multiplication<'_>) {
    recorder.option(&format!("{part}.{name}"), one.chosen());
    if let Some(algorithm) = one.algorithm() {
        recorder.option(&format!("{part}.{name}.algorithm"), format!("{algorithm:?}"));
    }
}

/// Is what was wished kept?
fn wishes(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("wishes");
    for request in KEPT {
        let matrices = bench.random(request.shape, request.wish.keeps_sums)?;
        let over = |wish: Wish, recorder: Option<&mut Recorder>| -> Result<Metric, Stop> {
            let one = matrices.multiplied(bench.tools, Asked::Auto, wish)?;
            if let Some(recorder) = recorder {
                note(recorder, "wishes", request.name, &one);
            }
            let error = bench.error(&matrices, &one)?;
            Ok(bench.exact(ERROR, request.name, error / request.wish.relative_error))
        };
        let kept = over(request.wish, Some(recorder))?;
        recorder.metric(kept);
        if request.name == "tight" {
            recorder.control("wish-ignored", over(ANY, None)?);
        }
        if request.wish.keeps_sums {
            let untold = Wish { keeps_sums: false, ..request.wish };
            recorder.control("sums-not-kept", over(untold, None)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kernels::auto::{self, Arithmetic, Board};

    use super::*;

    fn choice(request: Request) -> Arithmetic {
        let board = Board { compute_capability: (9, 0), without: Vec::new() };
        let chosen = auto::choose(request.shape, &board, Asked::Auto, request.wish);
        chosen.expect("one is had").arithmetic
    }

    #[test]
    fn the_named_requests_name_every_arithmetic() {
        let wanted =
            [Arithmetic::F16, Arithmetic::E4m3Row, Arithmetic::E4m3RowFast, Arithmetic::WeightOnly];
        assert_eq!(NAMED.map(choice), wanted);
        assert_eq!(KEPT.map(choice)[..2], [Arithmetic::F16, Arithmetic::E4m3RowFast]);
        assert_eq!(KEPT.map(choice)[2..], [Arithmetic::WeightOnly, Arithmetic::E4m3Row]);
    }

    #[test]
    fn every_arithmetic_is_the_choice_of_a_shape_that_is_timed() {
        let few = [Arithmetic::WeightOnly; 3];
        assert_eq!(TIMED.map(choice)[0], Arithmetic::E4m3RowFast);
        assert_eq!(TIMED.map(choice)[1..4], few);
        assert_eq!(TIMED.map(choice)[4..], [Arithmetic::F16, Arithmetic::E4m3Row]);
    }

    #[test]
    fn uniform_numbers_are_those_of_their_indices() {
        let count = (1 << 17) + 8;
        let made = uniform(5, count);
        let value = |i| f16::from_f32(draw(5, i) as f32 * 2f32.powi(-32)).to_bits();
        assert_eq!(made.len() as u64, count);
        for i in [0, 65_535, 65_536, count - 1] {
            assert_eq!(made[i as usize], value(i));
        }
    }
}
