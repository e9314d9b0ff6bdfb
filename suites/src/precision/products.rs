//! Are products with scales right: integers with powers of two bit by bit, quantised random data beside f64.

use half::{bf16, f16};
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt, Operands, Plan, Request, WORKSPACE_BYTES};
use kernels::quantise::oracle;
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme};

use super::operands;
use crate::lab::{self, Lab};

/// Elements that are not the exact product, rounded once.
pub const WRONG: &str = "wrong_count";
/// Root mean square of the error beside f64 on the codes and scales, over that of the product.
pub const ARITHMETIC: &str = "arithmetic_error_ratio";
/// The same beside f64 on what was quantised.
pub const FORMAT: &str = "format_error_ratio";

const SIDE: u32 = 512;
const K: u32 = 2048;

static CONTROLS: [Control; 3] = [
    Control {
        name: "integer-scales-swapped",
        fault: "two blocks of A have each other's scale, in a product of integers",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "scales-swapped",
        fault: "two rows' blocks of A have each other's scale",
        trips: ARITHMETIC,
        expect: Expect::Refuted,
    },
    Control {
        name: "half-the-bits",
        fault: "the codes are rounded toward zero",
        trips: FORMAT,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::products",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048, E4M3 by cuBLASLt, precise accumulation, bfloat16 out, with \
                scales by row and with scales by 1x128 and 128x128 blocks. Of -1, 0 and 1 with powers of two \
                as scales, where every sum is exact in f32, so that the result is the exact one rounded \
                once. Then of normal numbers that this project's quantisers quantised: the error beside \
                f64 on the codes and scales, and beside f64 on the fp16 numbers. Scales by blocks are not \
                applicable but on compute capability 9.0.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// How a product is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scaling {
    name: &'static str,
    dtype: Dtype,
    a: Scheme,
    b: Scheme,
}

const SCALINGS: [Scaling; 2] = [
    Scaling { name: "row", dtype: Dtype::E4m3Row, a: Scheme::Row, b: Scheme::Row },
    Scaling { name: "block", dtype: Dtype::E4m3Block, a: Scheme::Block128, b: Scheme::Square128 },
];

/// Codes and scales of a matrix on the host, as the GPU's buffers hold them.
struct Side {
    scheme: Scheme,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Side {
    /// What each element stands for.
    fn numbers(&self) -> Vec<f64> {
        let scales: Vec<u32> = self.scales.iter().map(|scale| scale.to_bits()).collect();
        oracle::dequantise(self.scheme, &self.codes, &scales, K as usize, 0.0)
    }

    /// -1, 0 and 1, one in eight not zero, with scales of 2^-4 to 2^4.
    fn integers(scheme: Scheme, seed: u64) -> Side {
        let code = |i| match draw(seed, i) % 16 {
            0 => 0x38,
            1 => 0xB8,
            _ => 0u8,
        };
        let power = |i| 2f32.powi((draw(seed ^ 5, i) % 9) as i32 - 4);
        let scales = scheme.scale_bytes(SIDE.into(), K) / 4;
        Side {
            scheme,
            codes: (0..u64::from(SIDE) * u64::from(K)).map(code).collect(),
            scales: (0..scales).map(power).collect(),
        }
    }

    fn upload(&self, gpu: &Gpu) -> Result<Quantised, Stop> {
        Ok(Quantised {
            codes: operands::bytes(gpu, &self.codes)?,
            scales: operands::floats(gpu, &self.scales)?,
        })
    }

    fn download(scheme: Scheme, gpu: &Gpu, quantised: &Quantised) -> Result<Side, Stop> {
        let read = |buffer: &Buffer| buffer.len_bytes() as usize;
        Ok(Side {
            scheme,
            codes: quantised.codes.read_vec(gpu.stream(), read(&quantised.codes))?,
            scales: quantised.scales.read_vec(gpu.stream(), read(&quantised.scales) / 4)?,
        })
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    lt: &'a Lt,
    index: u32,
    quantiser: Quantiser,
}

impl Bench<'_> {
    fn metric(&self, name: &str, scaling: Scaling, value: f64) -> Metric {
        let value = if value.is_finite() { value } else { 1e300 };
        Metric::exact(name, &[("scales", scaling.name)], &[self.index], value)
    }

    fn product(&self, scaling: Scaling, a: &Side, b: &Side) -> Result<Vec<bf16>, Stop> {
        let (a, b) = (a.upload(self.gpu)?, b.upload(self.gpu)?);
        let d = self.gpu.alloc(2 * u64::from(SIDE) * u64::from(SIDE))?;
        d.poison(self.gpu.stream())?;
        let operands = Operands {
            a: &a.codes,
            b: &b.codes,
            d: &d,
            scale_a: Some(&a.scales),
            scale_b: Some(&b.scales),
            alpha: 1.0,
            first: [0; 3],
        };
        let request = Request {
            workspace_bytes: WORKSPACE_BYTES,
            ..Request::new(scaling.dtype, SIDE, SIDE, K)
        };
        let plan = Plan::heuristic_first(self.gpu, self.lt, request, &operands)?;
        plan.run(self.gpu.stream(), &operands)?;
        let codes: Vec<u16> = d.read_vec(self.gpu.stream(), (SIDE * SIDE) as usize)?;
        Ok(codes.into_iter().map(bf16::from_bits).collect())
    }

    fn quantised(&self, scheme: Scheme, source: &Buffer, truncate: bool) -> Result<Side, Stop> {
        let sizes = (u64::from(SIDE), K);
        let target = Quantised::new(self.gpu, scheme, sizes.0, sizes.1)?;
        target.scales.fill_u32(self.gpu.stream(), 0)?;
        let extra = Extra { truncate, ..Extra::default() };
        self.quantiser.run(self.gpu.stream(), scheme, source, sizes, &target, extra)?;
        Side::download(scheme, self.gpu, &target)
    }
}

/// D[m, n] = A[m, k] B[n, k]^T in f64.
fn multiplied(a: &[f64], b: &[f64]) -> Vec<f64> {
    let (side, k) = (SIDE as usize, K as usize);
    let row = |m: usize| {
        let a = &a[m * k..][..k];
        (0..side)
            .map(|n| b[n * k..][..k].iter().zip(a).map(|(x, y)| x * y).sum())
            .collect::<Vec<f64>>()
    };
    (0..side).flat_map(row).collect()
}

/// Root mean square of found less wanted, over that of wanted, to six places.
fn error(found: &[bf16], wanted: &[f64]) -> f64 {
    let squares: f64 = found.iter().zip(wanted).map(|(x, y)| (x.to_f64() - y).powi(2)).sum();
    let whole: f64 = wanted.iter().map(|y| y * y).sum();
    ((squares / whole).sqrt() * 1e6).round() / 1e6
}

/// Exchanges the first scale of A with the next one that differs four times and more.
fn swap(side: &mut Side) -> Result<(), Stop> {
    let first = side.scales[0];
    let other = side.scales.iter().position(|&x| x >= 4.0 * first || x <= first / 4.0);
    let other = other.ok_or_else(|| Stop::Error("all scales are of one magnitude".into()))?;
    side.scales.swap(0, other);
    Ok(())
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    if gpu.compute_capability != (9, 0) {
        return Err(Stop::NotApplicable("cuBLASLt scales E4M3 by blocks on sm_90 alone".into()));
    }
    let lt = Lt::new(gpu)?;
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    let bench = Bench { gpu, lt: &lt, index, quantiser };
    let seed = assignment.seed;
    let source = |seed: u64| -> Vec<f16> { operands::activations(seed, u64::from(SIDE), K.into()) };
    let (a, b) = (source(seed), source(seed ^ 77));
    let exact = |halves: &[f16]| halves.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let whole = multiplied(&exact(&a), &exact(&b));
    let (a, b) = (operands::halves(gpu, &a)?, operands::halves(gpu, &b)?);
    for scaling in SCALINGS {
        recorder.progress(scaling.name);
        integers(&bench, scaling, seed, recorder)?;
        let (mut left, right) =
            (bench.quantised(scaling.a, &a, false)?, bench.quantised(scaling.b, &b, false)?);
        let product = bench.product(scaling, &left, &right)?;
        let held = multiplied(&left.numbers(), &right.numbers());
        recorder.metric(bench.metric(ARITHMETIC, scaling, error(&product, &held)));
        recorder.metric(bench.metric(FORMAT, scaling, error(&product, &whole)));
        if scaling.dtype == Dtype::E4m3Block {
            swap(&mut left)?;
            let product = bench.product(scaling, &left, &right)?;
            recorder.control(
                "scales-swapped",
                bench.metric(ARITHMETIC, scaling, error(&product, &held)),
            );
            let (left, right) =
                (bench.quantised(scaling.a, &a, true)?, bench.quantised(scaling.b, &b, true)?);
            let product = bench.product(scaling, &left, &right)?;
            recorder
                .control("half-the-bits", bench.metric(FORMAT, scaling, error(&product, &whole)));
        }
    }
    lab.close(recorder);
    Ok(())
}

fn integers(
    bench: &Bench<'_>,
    scaling: Scaling,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let mut a = Side::integers(scaling.a, seed ^ 11);
    let b = Side::integers(scaling.b, seed ^ 12);
    let exact = multiplied(&a.numbers(), &b.numbers());
    let wrong = |found: &[bf16]| {
        let pairs = found.iter().zip(&exact);
        let code = |x: f64| Element::Bf16.encode(x as f32) as u16;
        pairs
            .filter(|(x, y)| f64::from(x.to_f32()) != 0.0 || **y != 0.0)
            .filter(|(x, y)| x.to_bits() != code(**y))
            .count() as f64
    };
    let product = bench.product(scaling, &a, &b)?;
    recorder.metric(bench.metric(WRONG, scaling, wrong(&product)));
    if scaling.dtype == Dtype::E4m3Block {
        swap(&mut a)?;
        let product = bench.product(scaling, &a, &b)?;
        recorder.control("integer-scales-swapped", bench.metric(WRONG, scaling, wrong(&product)));
    }
    Ok(())
}
