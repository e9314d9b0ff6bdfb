//! The FP8 products of a model with their quantisation beside the fp16 ones.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, CudaStream, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::{self, Dtype, Lt, Request, Search, WORKSPACE_BYTES};
use kernels::model::Config;
use kernels::operands::{self, Operands, Values};
use kernels::quantise::{Quantised, Scheme};
use kernels::tensorcore::{Adder, dot};
use kernels::timing::{self, InTurn, Timer};

use super::{Bench, ROWS, TOKENS, rounded};
use crate::e4m3::has_e4m3;
use crate::lab::{self, Lab};
use crate::precision::accumulator;
use crate::precision::products::offered;

/// fp16's time over that of FP8 with its quantisation.
pub const SPEEDUP: &str = "fp8_speedup_ratio";

pub(super) const SAMPLES: usize = 9;

/// Results of timed products that are no numbers.
pub(super) const UNWRITTEN: &str = "nonfinite_count";
/// Drawn elements of timed products whose bits are not those of the model of E4M3's adder with the groups that are asked
/// for.
pub(super) const UNPREDICTED: &str = accumulator::UNPREDICTED;
/// Drawn elements of each product.
const DRAWN: u32 = 64;

static CONTROLS: [Control; 3] = [
    Control {
        name: "fast-for-precise",
        fault: "the products with fast accumulation are taken for the precise ones; where both are one, the model keeps a bit less",
        trips: UNPREDICTED,
        expect: Expect::Corrupt,
    },
    Control {
        name: "unwritten-output",
        fault: "a product is not run",
        trips: UNWRITTEN,
        expect: Expect::Corrupt,
    },
    Control {
        name: "multiplied-twice",
        fault: "the FP8 products are done twice and counted once",
        trips: SPEEDUP,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::product-rates",
    revision: 4,
    figures_since: 3,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "The four products of a layer of the 48-layer model over 8192 tokens, random data: in fp16, and in \
                E4M3 with scales by row, of activations that are quantised by row before each, with precise and \
                with fast accumulation. Results are poisoned before and all numbers afterwards; 64 drawn elements of each product in E4M3 have the \
                bits of the model of the board's adder, whose sums go to f32 after 128 columns where precise accumulation is \
                asked for on 9.0. Algorithms by search among cuBLASLt's first eight. A sample of each in turn, behind a rest of three times the one before; the ratio is that of the sums over the four. Not \
                applicable before compute capability 8.9, whose tensor cores are the first to multiply E4M3, and on boards \
                whose adder is not published or, other than 9.0, where cuBLASLt has no algorithm for scales by row.",
    samples: SAMPLES,
    expected_s: 10.0,
    deadline_s: 240.0,
    kernels: &["quantise", "operands", "timing"],
    integrity: &[UNWRITTEN, UNPREDICTED],
    controls: &CONTROLS,
    run: products,
};

const SEARCH: Search = Search { candidates: 8, rounds: 3, rest: 3 };
/// Rest before each sample, in times of the one before: without one the power limit decides the ratio.
pub(in crate::precision) const REST: u32 = 3;

/// A product in one type, with its matrices.
pub(super) struct Planned {
    pub(super) plan: matmul::Plan,
    /// A in halves, or what is quantised into.
    pub(super) a: Left,
    pub(super) b: Buffer,
    pub(super) d: Buffer,
    pub(super) scale_b: Option<Buffer>,
}

/// A product's first matrix.
pub(super) enum Left {
    Halves(Buffer),
    Codes(Quantised),
}

impl Planned {
    pub(super) fn new(
        gpu: &Gpu,
        lt: &Lt,
        operands: &Operands,
        request: Request,
        seed: u64,
    ) -> Result<Planned, Stop> {
        let [a, b, d] = request.matrix_bytes();
        let (a, b, d) = (gpu.alloc(a)?, gpu.alloc(b)?, gpu.alloc(d)?);
        let element = request.dtype.input();
        let normal = Values::Normals { scale: 1.0 };
        for (buffer, seed) in [(&a, seed), (&b, seed + 1)] {
            let count = buffer.len_bytes() / element.bytes();
            operands.fill(gpu.stream(), buffer, element, count, seed, normal)?;
        }
        let (a, scale_b) = match request.dtype.is_fp8() {
            true => {
                let [of_a, of_b] = request.scale_bytes();
                let (scales, scale_b) = (gpu.alloc(of_a)?, gpu.alloc(of_b)?);
                scales.fill_u32(gpu.stream(), 1f32.to_bits())?;
                scale_b.fill_u32(gpu.stream(), 1f32.to_bits())?;
                (Left::Codes(Quantised { codes: a, scales }), Some(scale_b))
            }
            false => (Left::Halves(a), None),
        };
        let given = given(&a, &b, &d, scale_b.as_ref());
        let plan = offered(gpu, matmul::Plan::search(gpu, lt, request, &given, SEARCH))?;
        Ok(Planned { plan, a, b, d, scale_b })
    }

    pub(super) fn run(&self, stream: &CudaStream) -> kernels::Result<()> {
        self.plan.run(stream, &given(&self.a, &self.b, &self.d, self.scale_b.as_ref()))
    }

    /// Quantises the activations and multiplies them.
    fn quantised(
        &self,
        bench: &Bench<'_>,
        stream: &CudaStream,
        k: u32,
        times: u32,
    ) -> kernels::Result<()> {
        quantised(bench, stream, self, k)?;
        (0..times).try_for_each(|_| self.run(stream))
    }

    /// Results that are no numbers: also those that nothing wrote.
    pub(super) fn nonfinite(&self, gpu: &Gpu, operands: &Operands, n: u32) -> Result<u64, Stop> {
        let output = self.plan.request().dtype.output();
        let elements = ROWS * u64::from(n);
        Ok(operands.count_nonfinite(gpu.stream(), &self.d, output, elements)?)
    }
}

/// Quantises the activations of a product of codes.
pub(super) fn quantised(
    bench: &Bench<'_>,
    stream: &CudaStream,
    planned: &Planned,
    k: u32,
) -> kernels::Result<()> {
    match &planned.a {
        Left::Codes(target) => {
            bench.quantise(stream, Scheme::Row, (&bench.source).into(), (ROWS, k), target)
        }
        Left::Halves(_) => Ok(()),
    }
}

pub(super) fn given<'a>(
    a: &'a Left,
    b: &'a Buffer,
    d: &'a Buffer,
    scale_b: Option<&'a Buffer>,
) -> matmul::Operands<'a> {
    let (a, scale_a) = match a {
        Left::Halves(halves) => (halves, None),
        Left::Codes(Quantised { codes, scales }) => (codes, Some(scales)),
    };
    matmul::Operands { a, b, d, scale_a, scale_b, alpha: 1.0, first: [0; 3] }
}

/// Holds drawn elements of timed products against the model of an adder.
#[derive(Clone, Copy)]
pub(super) struct Drawn<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) seed: u64,
    pub(super) adder: Adder,
}

impl Drawn<'_> {
    /// Drawn elements of a product of codes that the model does not foretell, in each of the ways: instructions whose sums
    /// go to f32 together, or all.
    pub(super) fn unpredicted<const WAYS: usize>(
        &self,
        product: &Planned,
        (n, k): (u32, u32),
        ways: [Option<usize>; WAYS],
    ) -> Result<[u64; WAYS], Stop> {
        let Left::Codes(a) = &product.a else {
            return Err(Stop::Error("a product of halves".into()));
        };
        let stream = self.gpu.stream();
        let row = |buffer: &Buffer, row: u32| -> Result<Vec<u32>, Stop> {
            let mut codes = vec![0u8; k as usize];
            buffer.read(stream, u64::from(row) * u64::from(k), &mut codes)?;
            Ok(codes.into_iter().map(u32::from).collect())
        };
        let mut counts = [0; WAYS];
        for i in 0..u64::from(DRAWN) {
            let (m, column) = (draw(self.seed, 2 * i) % TOKENS, draw(self.seed, 2 * i + 1) % n);
            let (mut scale, mut found) = ([0f32], [0u16]);
            a.scales.read(stream, 4 * u64::from(m), &mut scale)?;
            let at = u64::from(m) * u64::from(n) + u64::from(column);
            product.d.read(stream, 2 * at, &mut found)?;
            let (left, right) = (row(&a.codes, m)?, row(&product.b, column)?);
            for (count, group) in counts.iter_mut().zip(ways) {
                let sum = dot(self.adder, Element::E4m3, group, &left, &right);
                // Scales of B are one.
                *count += u64::from(Element::Bf16.encode(sum * scale[0]) != u32::from(found[0]));
            }
        }
        Ok(counts)
    }
}

fn products(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    has_e4m3(gpu)?;
    let capability = gpu.compute_capability;
    let adder = Adder::published(Element::E4m3, capability).ok_or_else(|| {
        let (major, minor) = capability;
        Stop::NotApplicable(format!("no adder is published of compute capability {major}.{minor}"))
    })?;
    let drawn = Drawn { gpu, seed: assignment.seed, adder };
    // Instructions of 32 columns whose sums go to f32 together. Where both accumulations are one, the fault is in the model.
    let precise = (capability == (9, 0)).then_some(4);
    let less = Adder { kept_bits: adder.kept_bits - 1, ..adder };
    let wrong = Drawn { adder: if precise.is_some() { adder } else { less }, ..drawn };
    let lt = Lt::new(gpu)?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let operands = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
    let bench = Bench::new(&lab, gpu, assignment.seed, recorder)?;
    let samples = assignment.samples(SAMPLES);
    recorder.option("cublaslt", lt.version());
    // Milliseconds of fp16, precise, fast and the planted fault, summed over the four products.
    let mut sums = vec![[0.0; 4]; samples];
    let (mut unwritten, mut missing) = (0, 0);
    // Of both accumulations, and of fast taken for precise.
    let mut unpredicted = [0; 3];
    for (n, k) in Config::SEED_002.products() {
        let name = format!("{TOKENS}x{n}x{k}");
        recorder.progress(&name);
        let request = |dtype, fast_accumulation| Request {
            fast_accumulation,
            workspace_bytes: WORKSPACE_BYTES,
            ..Request::new(dtype, TOKENS, n, k)
        };
        let requests = [
            request(Dtype::F16, false),
            request(Dtype::E4m3Row, false),
            request(Dtype::E4m3Row, true),
        ];
        let mut planned = Vec::new();
        for request in requests {
            let one = Planned::new(gpu, &lt, &operands, request, assignment.seed)?;
            let what = format!("{:?} fast {}", request.dtype, request.fast_accumulation);
            recorder.option(
                &format!("algorithm.{name}.{what}"),
                format!("{:?}", one.plan.choice().algorithm),
            );
            planned.push(one);
        }
        for planned in &planned {
            planned.d.poison(gpu.stream())?;
        }
        let mut turns = InTurn::new(&mut timer, REST);
        for sums in &mut sums {
            sums[0] += turns.sample(1, |stream| planned[0].run(stream))?;
            for (sum, which, times) in [(1, 1, 1), (2, 2, 1), (3, 1, 2)] {
                sums[sum] +=
                    turns.sample(1, |stream| planned[which].quantised(&bench, stream, k, times))?;
            }
        }
        for planned in &planned {
            unwritten += planned.nonfinite(gpu, &operands, n)?;
        }
        let [of_precise] = drawn.unpredicted(&planned[1], (n, k), [precise])?;
        let [of_fast] = drawn.unpredicted(&planned[2], (n, k), [None])?;
        let [taken_for_precise] = wrong.unpredicted(&planned[2], (n, k), [precise])?;
        for (all, count) in unpredicted.iter_mut().zip([of_precise, of_fast, taken_for_precise]) {
            *all += count;
        }
        planned[1].d.poison(gpu.stream())?;
        missing += planned[1].nonfinite(gpu, &operands, n)?;
    }
    let count = |count: u64| Metric::exact(UNWRITTEN, &[], &[index], count as f64);
    recorder.metric(count(unwritten));
    recorder.control("unwritten-output", count(missing));
    let apart = |way: &str, count: u64| {
        Metric::exact(UNPREDICTED, &[("accumulation", way)], &[index], count as f64)
    };
    recorder.metric(apart("precise", unpredicted[0]));
    recorder.metric(apart("fast", unpredicted[1]));
    recorder.control("fast-for-precise", apart("precise", unpredicted[2]));
    let ratios = |which: usize, way: &str| {
        let ratios = sums.iter().map(|sums| rounded(sums[0] / sums[which])).collect();
        Metric::sampled(SPEEDUP, &[("accumulation", way)], &[index], ratios)
    };
    recorder.metric(ratios(1, "precise"));
    recorder.metric(ratios(2, "fast"));
    recorder.control("multiplied-twice", ratios(3, "precise"));
    lab.close(recorder);
    Ok(())
}
