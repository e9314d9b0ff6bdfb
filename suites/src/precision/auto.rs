//! Does `auto` run what it names, keep what it was asked to keep, take the fastest that does, and refuse what is
//! not to be had?

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::auto::{
    self, Arithmetic, Asked, Board, Chosen, Halves, Multiplication, Obstacle, Refusal, Shape,
    Tools, Wish,
};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::Lt;
use kernels::operands::{self, Operands, Values};
use kernels::product::{self, Accumulation, Checker, Product, Scale};
use kernels::quantise::{self, Quantiser};
use kernels::tensorcore::{self, Adder};
use kernels::timing::{self, Plan, Timer};
use kernels::weightonly::{self, WeightOnly, oracle};

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
/// Elements that are compared with a model, and with f64.
const DRAWN: u64 = 512;
const SAMPLED: u32 = 1024;

static CONTROLS: [Control; 10] = [
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
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "auto takes fp16 matrices and chooses among fp16, E4M3 with scales by row and precise or fast accumulation \
                (cuBLASLt's first algorithm), and weight-only E4M3. Names: four requests over k = 4096 of numbers that all \
                four hold, of rows whose second half cancels the first, so that exact sums are 0 and what is left tells \
                the adder: the model of the adder that was named, bit by bit. Wishes: of nearly normal data, and of \
                uniform numbers in 0 to 1 over k = 16384, 1024 drawn elements against f64 on the fp16 operands. Speed: five shapes, \
                every arithmetic whose measured error is within the wish, A's quantisation \
                included and B's not, a sample of each in turn, with a rest before it, results poisoned before and all numbers \
                afterwards. Weights that fit into L2 may stay there. Refusals: FP8 on boards without it (described, not had), where cuBLASLt has none, of \
                shapes that do not fit it, with errors that it does not keep; errors that nothing keeps, or that are no \
                number; and requests that can be met. Not applicable but on compute capability 9.0, whose arithmetic the \
                models are of.",
    samples: SAMPLES,
    expected_s: 16.0,
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

const TIMED: [Request; 5] = [
    request("4096x8192x8192", (4096, 8192, 8192), 0.07, false),
    request("1x32768x8192", (1, 32768, 8192), 0.07, false),
    request("8x8192x8192", (8, 8192, 8192), 0.07, false),
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

/// Codes of E4M3 with powers of two as scales of rows, and the numbers as halves: every arithmetic holds them.
struct Codes {
    codes: Vec<u8>,
    halves: Vec<u16>,
}

impl Codes {
    /// Random codes whose second half of columns is the first, in another order and, where `turned`, with the other
    /// sign: exact products of two such rows are 0. One column of each half has the largest code, where the other
    /// matrix has none, so that a row's scale is its power of two.
    fn cancelling(seed: u64, rows: u32, turned: bool) -> Codes {
        let half = u64::from(K / 2);
        let code = |at: u64| {
            let (row, column) = (at / u64::from(K), at % u64::from(K));
            let twin = column.checked_sub(half).map(|at| (37 * at + 11) % half);
            let from = twin.unwrap_or(column);
            let code = match (from, turned) {
                (0, true) | (1, false) => 0x7E,
                (0, false) | (1, true) => 0,
                _ => accumulator::wide_code(Element::E4m3, seed, row * u64::from(K) + from),
            };
            (if twin.is_some() && turned { code ^ 0x80 } else { code }) as u8
        };
        let codes: Vec<u8> = (0..u64::from(rows) * u64::from(K)).map(code).collect();
        let half = |row: usize, code: u8| {
            let number = Element::E4m3.decode(code.into()) as f32 * Codes::scale(row);
            f16::from_f32(number).to_bits()
        };
        // The scales of three rows recur.
        let known: Vec<Vec<u16>> =
            (0..3).map(|row| (0..=u8::MAX).map(|code| half(row, code)).collect()).collect();
        let halves = codes.chunks(K as usize).enumerate().flat_map(|(row, codes)| {
            let known = &known[row % 3];
            codes.iter().map(move |code| known[usize::from(*code)])
        });
        Codes { halves: halves.collect(), codes }
    }

    fn scale(row: usize) -> f32 {
        2f32.powi((row % 3) as i32 - 1)
    }

    fn row(&self, row: usize) -> Vec<u32> {
        let codes = &self.codes[row * K as usize..][..K as usize];
        codes.iter().map(|code| u32::from(*code)).collect()
    }

    /// Codes of fp16 of a row.
    fn half_row(&self, row: usize) -> Vec<u32> {
        let halves = &self.halves[row * K as usize..][..K as usize];
        halves.iter().map(|half| u32::from(*half)).collect()
    }

    /// The same without its scale.
    fn unscaled_row(&self, row: usize) -> Vec<u32> {
        let half = |code: u32| Element::F16.encode(Element::E4m3.decode(code) as f32);
        self.row(row).into_iter().map(half).collect()
    }

    /// The first rows as halves.
    fn upload(&self, gpu: &Gpu, buffer: &Buffer, rows: u32) -> Result<(), Stop> {
        Ok(buffer.write(gpu.stream(), 0, &self.halves[..(rows * K) as usize])?)
    }
}

/// The code of fp16 of one element as an arithmetic makes it.
fn foretold(arithmetic: Arithmetic, a: &Codes, b: &Codes, (row, column): (usize, usize)) -> u32 {
    let scale = Codes::scale(row) * Codes::scale(column);
    let narrow = |promoted| {
        let (a, b) = (a.row(row), b.row(column));
        tensorcore::dot(Adder::HOPPER_E4M3, Element::E4m3, promoted, &a, &b) * scale
    };
    let sum = match arithmetic {
        Arithmetic::F16 => {
            let (a, b) = (a.half_row(row), b.half_row(column));
            tensorcore::dot(Adder::HOPPER_F16, Element::F16, None, &a, &b)
        }
        Arithmetic::E4m3Row => narrow(Some(4)),
        Arithmetic::E4m3RowFast => narrow(None),
        Arithmetic::WeightOnly => {
            let (a, b) = (a.half_row(row), b.unscaled_row(column));
            return oracle::foretold(&a, &b, Some(Codes::scale(column)));
        }
    };
    Element::F16.encode(sum)
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
                let value = |i| f16::from_f32(draw(seed, i) as f32 * 2f32.powi(-32)).to_bits();
                let halves: Vec<u16> = (0..count).map(value).collect();
                buffer.write(gpu.stream(), 0, &halves)?;
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
    names(&bench, recorder)?;
    wishes(&bench, recorder)?;
    let samples = assignment.samples(SAMPLES);
    for request in TIMED {
        speed(&bench, &mut timer, request, samples, recorder)?;
    }
    refusals(&bench, recorder)?;
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

/// Is what was named what ran?
fn names(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("names");
    let gpu = bench.tools.gpu;
    let a = Codes::cancelling(bench.seed ^ 21, SIDE, true);
    let b = Codes::cancelling(bench.seed ^ 22, SIDE, false);
    for request in NAMED {
        let Shape { m, n, .. } = request.shape;
        let matrices = Matrices::new(gpu, request.shape)?;
        a.upload(gpu, &matrices.a, m)?;
        b.upload(gpu, &matrices.b, n)?;
        let one = matrices.multiplied(bench.tools, Asked::Auto, request.wish)?;
        let named = one.chosen().arithmetic;
        note(recorder, "names", request.name, &one);
        let places: Vec<(usize, usize)> = (0..DRAWN)
            .map(|i| draw(0xD2A7, i))
            .map(|word| ((word % m) as usize, (word / m % n) as usize))
            .collect();
        let wanted: Vec<u32> = places.iter().map(|&place| foretold(named, &a, &b, place)).collect();
        let misnamed = |ran: &Multiplication<'_>| -> Result<Metric, Stop> {
            matrices.d.poison(gpu.stream())?;
            ran.run(gpu.stream())?;
            let found: Vec<u16> = matrices.d.read_vec(gpu.stream(), (m * n) as usize)?;
            let number = |code: u32| Element::F16.decode(code);
            let pairs = places.iter().zip(&wanted);
            // A zero may have either sign.
            let wrong = pairs.filter(|((row, column), wanted)| {
                number(found[row * n as usize + column].into()) != number(**wanted)
            });
            Ok(bench.exact(MISNAMED, request.name, wrong.count() as f64))
        };
        recorder.metric(misnamed(&one)?);
        for (control, called, ran) in [
            ("fp16-called-e4m3", Arithmetic::E4m3Row, Arithmetic::F16),
            ("fp16-called-e4m3", Arithmetic::E4m3RowFast, Arithmetic::F16),
            ("precise-called-fast", Arithmetic::E4m3RowFast, Arithmetic::E4m3Row),
            ("both-called-weight-only", Arithmetic::WeightOnly, Arithmetic::E4m3Row),
        ] {
            if called == named {
                let other = matrices.multiplied(bench.tools, Asked::Only(ran), ANY)?;
                recorder.control(control, misnamed(&other)?);
            }
        }
    }
    Ok(())
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

/// Is it the fastest of those that keep the wish?
fn speed(
    bench: &Bench<'_>,
    timer: &mut Timer,
    request: Request,
    samples: usize,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    recorder.progress(request.name);
    let matrices = bench.random(request.shape, request.wish.keeps_sums)?;
    let chosen = matrices.multiplied(bench.tools, Asked::Auto, request.wish)?;
    note(recorder, "speed", request.name, &chosen);
    let mut able = Vec::new();
    for arithmetic in Arithmetic::ALL {
        let other = match matrices.multiplied(bench.tools, Asked::Only(arithmetic), ANY) {
            Err(kernels::Error::Refused(_)) => continue,
            other => other?,
        };
        let error = bench.error(&matrices, &other)?;
        recorder.option(&format!("error.{}.{}", request.name, arithmetic.name()), error);
        if error <= request.wish.relative_error {
            able.push((arithmetic, other));
        }
    }
    if able.len() < 2 {
        let what = format!("nothing beside what was chosen keeps the wish of {}", request.name);
        return Err(Stop::Error(what));
    }
    // Enough launches for a millisecond, of the fastest.
    let launches = (1000.0 / chosen.chosen().foretold_us).clamp(4.0, 128.0) as u32;
    let plan = Plan { warmup: 1, samples: 1, fewest_samples: 1, launches, budget: None, rest: 1 };
    matrices.d.poison(bench.tools.gpu.stream())?;
    // The timer has a stream of its own.
    bench.tools.gpu.stream().synchronize()?;
    let mut times = vec![Vec::with_capacity(samples); able.len()];
    for _ in 0..samples {
        for ((_, one), times) in able.iter().zip(&mut times) {
            times.extend(timer.measure(plan, None, |stream| one.run(stream))?);
        }
    }
    recorder.metric(bench.exact(UNWRITTEN, request.name, bench.nonfinite(&matrices)?));
    let over = |arithmetic: Arithmetic| -> Result<Metric, Stop> {
        let at = able.iter().position(|(one, _)| *one == arithmetic);
        let own = at.ok_or_else(|| {
            let name = arithmetic.name();
            Stop::Error(format!(
                "{name} was chosen for {} and does not keep its wish",
                request.name
            ))
        })?;
        let at = [("request", request.name)];
        let ratios = over_others(&times, own);
        Ok(Metric::sampled(OVER_OTHERS, &at, &[bench.index], ratios))
    };
    recorder.metric(over(chosen.chosen().arithmetic)?);
    if chosen.chosen().arithmetic == Arithmetic::E4m3RowFast {
        recorder.control("always-fp16", over(Arithmetic::F16)?);
        matrices.d.poison(bench.tools.gpu.stream())?;
        let missing = bench.exact(UNWRITTEN, request.name, bench.nonfinite(&matrices)?);
        recorder.control("unwritten-output", missing);
    }
    Ok(())
}

/// Sample by sample one's time over the least of all others.
fn over_others(times: &[Vec<f64>], own: usize) -> Vec<f64> {
    let ratio = |(sample, time): (usize, &f64)| {
        let others = times.iter().enumerate().filter(|(at, _)| *at != own);
        let least = others.map(|(_, times)| times[sample]).fold(f64::INFINITY, f64::min);
        (time / least * 1e5).round() / 1e5
    };
    times[own].iter().enumerate().map(ratio).collect()
}

/// A chooser: the one of [`auto`], or one with a planted fault.
type Chooser<'a> = &'a dyn Fn(Shape, &Board, Asked, Wish) -> Result<Chosen, Refusal>;

const LARGE: Shape = Shape { m: 4096, n: 4096, k: 16384 };
const LOOSE: Wish = Wish { relative_error: 0.07, keeps_sums: false };

/// Whether every arithmetic that was asked for is refused for the reason that is expected.
fn for_this(answer: Result<Chosen, Refusal>, expected: impl Fn(&Obstacle) -> bool) -> bool {
    match answer {
        Err(Refusal::Unavailable { obstacles, .. }) => {
            let asked = obstacles.iter().filter(|(_, why)| *why != Obstacle::NotAsked);
            let mut reasons = asked.map(|(_, why)| expected(why)).peekable();
            reasons.peek().is_some() && reasons.all(|right| right)
        }
        _ => false,
    }
}

/// Requests to a chooser that are not answered as they must be.
fn wrong_answers(choose: Chooser<'_>) -> u64 {
    let board = |compute_capability, without: &[Arithmetic]| Board {
        compute_capability,
        without: without.to_vec(),
    };
    let (here, old) = (board((9, 0), &[]), board((8, 0), &[]));
    let lacking = board((9, 0), &[Arithmetic::E4m3Row, Arithmetic::E4m3RowFast]);
    let is_error = |why: &Obstacle| matches!(why, Obstacle::Error { .. });
    let is_shape = |why: &Obstacle| matches!(why, Obstacle::Shape { .. });
    let tight = Wish { relative_error: 1e-3, ..LOOSE };
    let none = Wish { relative_error: 1e-6, ..LOOSE };
    let sums = Wish { keeps_sums: true, ..LOOSE };
    let narrow = Shape { n: 4104, ..LARGE };
    let fast = Asked::Only(Arithmetic::E4m3RowFast);
    let no_number = Wish { relative_error: f64::NAN, ..LOOSE };
    let all = [
        for_this(choose(LARGE, &old, Asked::Fp8, LOOSE), |why| {
            matches!(why, Obstacle::Board { .. })
        }),
        for_this(choose(LARGE, &lacking, Asked::Fp8, LOOSE), |why| *why == Obstacle::NotOffered),
        for_this(choose(narrow, &here, Asked::Fp8, LOOSE), is_shape),
        for_this(choose(LARGE, &here, Asked::Fp8, tight), is_error),
        for_this(choose(LARGE, &here, fast, sums), is_error),
        for_this(choose(Shape { m: 16, ..LARGE }, &here, Asked::Auto, none), is_error),
        matches!(choose(LARGE, &here, Asked::Auto, no_number), Err(Refusal::Wish { .. })),
        choose(LARGE, &here, Asked::Fp8, LOOSE).is_ok_and(|chosen| chosen.arithmetic.is_fp8()),
        choose(LARGE, &old, Asked::Auto, LOOSE)
            .is_ok_and(|chosen| chosen.arithmetic == Arithmetic::F16),
    ];
    all.into_iter().filter(|right| !right).count() as u64
}

/// The reason of every refusal is exchanged for the error.
fn blurred(answer: Result<Chosen, Refusal>) -> Result<Chosen, Refusal> {
    answer.map_err(|refusal| match refusal {
        Refusal::Unavailable { asked, obstacles } => {
            let error = |(one, _)| (one, Obstacle::Error { foretold: 1.0 });
            Refusal::Unavailable { asked, obstacles: obstacles.into_iter().map(error).collect() }
        }
        wish => wish,
    })
}

/// Is refused what is not to be had, and nothing else?
fn refusals(bench: &Bench<'_>, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("refusals");
    let count = |request, wrong: u64| bench.exact(WRONG, request, wrong as f64);
    let anyhow = |shape, board: &Board| auto::choose(shape, board, Asked::Auto, ANY);
    recorder.metric(count("described", wrong_answers(&auto::choose)));
    let falling = wrong_answers(&|shape, board, asked, wish| {
        auto::choose(shape, board, asked, wish).or_else(|_| anyhow(shape, board))
    });
    recorder.control("falls-back", count("described", falling));
    let refusing =
        wrong_answers(&|_, _, _, wish| Err(Refusal::Wish { relative_error: wish.relative_error }));
    recorder.control("refuses-all", count("described", refusing));
    let one = wrong_answers(&|shape, board, asked, wish| {
        blurred(auto::choose(shape, board, asked, wish))
    });
    recorder.control("one-obstacle-for-all", count("described", one));
    recorder.metric(count("here", wrong_products(bench, false)?));
    recorder.control("falls-back", count("here", wrong_products(bench, true)?));
    Ok(())
}

/// Products of this GPU that were made though they cannot be had, or wrote their result, or were refused though
/// they can be had. `falls_back`: what is refused is computed by whatever can be had.
fn wrong_products(bench: &Bench<'_>, falls_back: bool) -> Result<u64, Stop> {
    let stream = bench.tools.gpu.stream();
    let tight = Wish { relative_error: 1e-3, ..LOOSE };
    let mut wrong = 0;
    for (n, wish, can) in [(1024, tight, false), (1032, LOOSE, false), (1024, LOOSE, true)] {
        let matrices = bench.random(Shape { m: 1024, n, k: 1024 }, false)?;
        matrices.d.poison(stream)?;
        let mut made = matrices.multiplied(bench.tools, Asked::Fp8, wish);
        if falls_back && made.is_err() {
            made = matrices.multiplied(bench.tools, Asked::Auto, ANY);
        }
        let had = match made {
            Ok(one) => {
                one.run(stream)?;
                true
            }
            Err(kernels::Error::Refused(_)) => false,
            Err(error) => return Err(error.into()),
        };
        let written = bench.nonfinite(&matrices)? == 0.0;
        wrong += u64::from(had != can || written != can);
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
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
    fn what_cancels_tells_every_arithmetic_from_every_other() {
        let (a, b) = (Codes::cancelling(1, 8, true), Codes::cancelling(2, 8, false));
        let places: Vec<(usize, usize)> = (0..64).map(|i| (i / 8, i % 8)).collect();
        let bits = Arithmetic::ALL.map(|one| {
            let code = |place: &(usize, usize)| Element::F16.decode(foretold(one, &a, &b, *place));
            places.iter().map(code).collect::<Vec<f64>>()
        });
        for (i, one) in bits.iter().enumerate() {
            for other in &bits[..i] {
                let different = one.iter().zip(other).filter(|(x, y)| x != y).count();
                assert!(different >= 32, "{different} of 64");
            }
        }
        let exact = |(row, column): &(usize, usize)| {
            tensorcore::exact(Element::E4m3, &a.row(*row), &b.row(*column))
        };
        assert!(places.iter().all(|place| exact(place) == 0.0));
    }

    #[test]
    fn a_time_is_held_against_the_fastest_other_one() {
        let times = [vec![2.0, 3.0], vec![4.0, 1.5], vec![1.0, 6.0]];
        assert_eq!(over_others(&times, 0), [2.0, 2.0]);
        assert_eq!(over_others(&times, 2), [0.5, 4.0]);
    }

    #[test]
    fn the_chooser_answers_every_request_and_planted_ones_do_not() {
        assert_eq!(wrong_answers(&auto::choose), 0);
        let falls = |shape, board: &Board, asked, wish| {
            auto::choose(shape, board, asked, wish)
                .or_else(|_| auto::choose(shape, board, Asked::Auto, ANY))
        };
        assert_eq!(wrong_answers(&falls), 7);
        let blurs =
            |shape, board: &Board, asked, wish| blurred(auto::choose(shape, board, asked, wish));
        assert_eq!(wrong_answers(&blurs), 3);
    }
}
