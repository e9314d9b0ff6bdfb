//! Products of microscaled matrices on a chip that multiplies no such codes: their very numbers in 16 bits.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::dequantise::{self, Dequantiser};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::generator::draw;
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt, Operands, Plan, Request};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme, oracle};

use super::operands;
use super::scaled::{K, SIDE, multiplied};
use crate::lab::{self, Lab, finite};

/// Elements of a product of integers that are not the exact one.
pub const WRONG: &str = "wrong_count";
/// Numbers in 16 bits that are not those of their codes and scales.
pub const NUMBERS: &str = "wrong_number_count";
/// Largest error of an element over what adding in f32 allows.
pub const ERROR: &str = "error_over_bound_ratio";

const SCHEMES: [Scheme; 3] = [Scheme::Nvfp4, Scheme::Mxfp8, Scheme::Mxfp4];

static CONTROLS: [Control; 4] = [
    Control {
        name: "one-code",
        fault: "one code of A is another",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "scales-by-rows",
        fault: "scales lie by rows and not in the tensor cores' layout",
        trips: NUMBERS,
        expect: Expect::Refuted,
    },
    Control {
        name: "scales-swapped",
        fault: "two blocks of a row of A have each other's scale",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "other-factor",
        fault: "the factor of the whole is a twentieth too large",
        trips: ERROR,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::microscaled-products",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048 of matrices in NVFP4, MXFP8 and MXFP4, emulated: every number, a code \
                times the scale of its block, is written in fp16 (NVFP4) or bfloat16, which hold it, and cuBLASLt \
                multiplies these in 16 bits, f32 accumulation and out; NVFP4's factors of the two matrices are applied to \
                the result. Every number is compared with the CPU's. Of integers with powers of two as scales \
                every sum must be exact. Of nearly normal numbers with outliers, rows up to 2^18 apart, that this \
                project's quantisers quantised: the error beside f64 on codes and scales, in units of what adding in \
                f32 may err.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["dequantise", "quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// A microscaled matrix on the host: a code for each element, and scales as they lie in memory.
#[derive(Debug, Clone)]
pub struct Micro {
    pub scheme: Scheme,
    pub codes: Vec<u8>,
    pub scales: Vec<u8>,
    /// NVFP4's factor: what numbers were multiplied by.
    pub factor: f32,
}

impl Micro {
    /// Integers, or halves of them in E2M1, with scales of a half, one and two.
    pub fn integers(scheme: Scheme, seed: u64) -> Micro {
        let element = |i| match scheme.code_bits() {
            4 => (draw(seed, i) & 0xF) as u8,
            _ => Element::E4m3.encode((draw(seed, i) % 31) as f32 - 15.0) as u8,
        };
        // One is 0x38 in E4M3, a step of its exponent 8; in UE8M0 it is 127, a step 1.
        let (one, step) = if scheme == Scheme::Nvfp4 { (0x38, 8) } else { (127, 1) };
        let scale = |i| (one - step + step * (draw(seed ^ 5, i) % 3)) as u8;
        Micro {
            scheme,
            codes: (0..u64::from(SIDE) * u64::from(K)).map(element).collect(),
            scales: (0..scheme.scale_bytes(SIDE.into(), K)).map(scale).collect(),
            factor: 1.0,
        }
    }

    /// Numbers without the factor.
    pub fn numbers(&self) -> Vec<f64> {
        dequantise::numbers(self.scheme, &self.codes, &self.scales, K as usize)
    }

    pub fn upload(&self, gpu: &Gpu) -> Result<Quantised, Stop> {
        let packed: Vec<u8> = match self.scheme.code_bits() {
            4 => self.codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect(),
            _ => self.codes.clone(),
        };
        Ok(Quantised {
            codes: operands::bytes(gpu, &packed)?,
            scales: operands::bytes(gpu, &self.scales)?,
        })
    }
}

/// Quantises a matrix by its own largest magnitude.
pub fn quantised_on(
    gpu: &Gpu,
    quantiser: &Quantiser,
    scheme: Scheme,
    halves: &[f16],
) -> Result<Micro, Stop> {
    let (stream, sizes) = (gpu.stream(), (u64::from(SIDE), K));
    let source = operands::halves(gpu, halves)?;
    let largest = operands::floats(gpu, &[0.0])?;
    quantiser.largest(stream, &source, sizes, &largest)?;
    let target = Quantised::new(gpu, scheme, sizes.0, sizes.1)?;
    target.scales.fill_u32(stream, 0)?;
    let extra = Extra { amax: Some(&largest), ..Extra::default() };
    quantiser.run(stream, scheme, &source, sizes, &target, extra)?;
    let packed: Vec<u8> = target.codes.read_vec(stream, target.codes.len_bytes() as usize)?;
    let largest: Vec<f32> = largest.read_vec(stream, 1)?;
    Ok(Micro {
        scheme,
        codes: match scheme.code_bits() {
            4 => packed.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect(),
            _ => packed,
        },
        scales: target.scales.read_vec(stream, target.scales.len_bytes() as usize)?,
        factor: if scheme == Scheme::Nvfp4 { oracle::whole_scale(largest[0]) } else { 1.0 },
    })
}

/// A product in f64, and what adding in f32 may err.
pub struct Reference {
    sums: Vec<f64>,
    whole: Vec<f64>,
    /// NVFP4's factor of the whole product.
    pub factor: f64,
}

impl Reference {
    pub fn new(a: &Micro, b: &Micro) -> Reference {
        let magnitudes = |numbers: &[f64]| numbers.iter().map(|x| x.abs()).collect::<Vec<f64>>();
        let (left, right) = (a.numbers(), b.numbers());
        Reference {
            sums: multiplied(&left, &right),
            whole: multiplied(&magnitudes(&left), &magnitudes(&right)),
            factor: 1.0 / (f64::from(a.factor) * f64::from(b.factor)),
        }
    }

    /// Largest error of an element over what adding in f32 allows.
    pub fn worst(&self, found: &[f32]) -> f64 {
        // An instruction of at least 8 products errs by less than 2^-19 of the magnitudes, the factor by 2^-22.
        let share = f64::from(K) / 8.0 * 2f64.powi(-19) + 2f64.powi(-22);
        let pairs = found.iter().zip(self.sums.iter().zip(&self.whole));
        let each = pairs.map(|(found, (sum, whole))| {
            let error = (f64::from(*found) - sum * self.factor).abs();
            if error == 0.0 { 0.0 } else { error / (whole * self.factor * share) }
        });
        each.fold(0.0, |most: f64, ratio| most.max(finite(ratio)))
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    lt: &'a Lt,
    index: u32,
    quantiser: Quantiser,
    dequantiser: Dequantiser,
}

impl Bench<'_> {
    fn metric(&self, name: &str, scheme: Scheme, value: f64) -> Metric {
        Metric::exact(name, &[("scheme", scheme.name())], &[self.index], finite(value))
    }

    /// The numbers of a matrix in 16 bits.
    fn held(&self, micro: &Micro) -> Result<Buffer, Stop> {
        let out = self.gpu.alloc(2 * u64::from(SIDE) * u64::from(K))?;
        out.poison(self.gpu.stream())?;
        let source = micro.upload(self.gpu)?;
        let sizes = (u64::from(SIDE), K);
        self.dequantiser.run(self.gpu.stream(), micro.scheme, &source, sizes, &out)?;
        Ok(out)
    }

    /// Numbers in 16 bits that are not the CPU's.
    fn wrong_numbers(&self, micro: &Micro, held: &Buffer) -> Result<Metric, Stop> {
        let element = self.element(micro.scheme)?;
        let numbers = micro.numbers();
        let found: Vec<u16> = held.read_vec(self.gpu.stream(), numbers.len())?;
        let pairs = found.iter().zip(&numbers);
        let wrong = pairs.filter(|(found, number)| {
            u32::from(**found) != element.encode(**number as f32)
                || element.decode((**found).into()) != **number
        });
        Ok(self.metric(NUMBERS, micro.scheme, wrong.count() as f64))
    }

    fn element(&self, scheme: Scheme) -> Result<Element, Stop> {
        dequantise::holds(scheme)
            .ok_or_else(|| Stop::Error(format!("{} is not microscaled", scheme.name())))
    }

    fn product(
        &self,
        scheme: Scheme,
        a: &Buffer,
        b: &Buffer,
        alpha: f32,
    ) -> Result<Vec<f32>, Stop> {
        let dtype = match self.element(scheme)? {
            Element::F16 => Dtype::F16Wide,
            _ => Dtype::Bf16Wide,
        };
        let d = self.gpu.alloc(4 * u64::from(SIDE) * u64::from(SIDE))?;
        d.poison(self.gpu.stream())?;
        let operands = Operands { a, b, d: &d, scale_a: None, scale_b: None, alpha, first: [0; 3] };
        let request = Request::new(dtype, SIDE, SIDE, K);
        let plan = Plan::heuristic_first(self.gpu, self.lt, request, &operands)?;
        plan.run(self.gpu.stream(), &operands)?;
        Ok(d.read_vec(self.gpu.stream(), (SIDE * SIDE) as usize)?)
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    lab::require(Library::CublasLt)?;
    let (gpu, index) = lab.only()?;
    let lt = Lt::new(gpu)?;
    recorder.option("cublaslt", lt.version());
    let bench = Bench {
        gpu,
        lt: &lt,
        index,
        quantiser: Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?,
        dequantiser: Dequantiser::new(&lab.module(gpu, &dequantise::SOURCE, recorder)?)?,
    };
    for scheme in SCHEMES {
        recorder.progress(scheme.name());
        integers(&bench, scheme, assignment.seed, recorder)?;
        quantised(&bench, scheme, assignment.seed, recorder)?;
    }
    lab.close(recorder);
    Ok(())
}

fn integers(
    bench: &Bench<'_>,
    scheme: Scheme,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let (mut a, b) = (Micro::integers(scheme, seed ^ 31), Micro::integers(scheme, seed ^ 32));
    let exact = multiplied(&a.numbers(), &b.numbers());
    let right = bench.held(&b)?;
    let wrong = |a: &Micro| -> Result<Metric, Stop> {
        let found = bench.product(scheme, &bench.held(a)?, &right, 1.0)?;
        let wrong = found.iter().zip(&exact).filter(|(found, exact)| f64::from(**found) != **exact);
        Ok(bench.metric(WRONG, scheme, wrong.count() as f64))
    };
    recorder.metric(wrong(&a)?);
    let last = a.codes.len() - 1;
    a.codes[last] ^= 2;
    recorder.control("one-code", wrong(&a)?);
    Ok(())
}

fn quantised(
    bench: &Bench<'_>,
    scheme: Scheme,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let source = |seed| operands::spread(seed, SIDE.into(), K.into(), 19);
    let quantised = |seed| quantised_on(bench.gpu, &bench.quantiser, scheme, &source(seed));
    let (mut a, b) = (quantised(seed ^ 33)?, quantised(seed ^ 34)?);
    let (left, right) = (bench.held(&a)?, bench.held(&b)?);
    recorder.metric(bench.wrong_numbers(&a, &left)?);
    let reference = Reference::new(&a, &b);
    let factor = reference.factor;
    let error = |found: &[f32]| bench.metric(ERROR, scheme, reference.worst(found));
    recorder.metric(error(&bench.product(scheme, &left, &right, factor as f32)?));
    let other = bench.product(scheme, &left, &right, (1.05 * factor) as f32)?;
    recorder.control("other-factor", error(&other));
    let blocks = K / scheme.micro_columns().unwrap_or(K);
    let rows = Micro { scales: by_rows(&a.scales, blocks as usize), ..a.clone() };
    recorder.control("scales-by-rows", bench.wrong_numbers(&a, &bench.held(&rows)?)?);
    swap(&mut a.scales, blocks as usize)?;
    let swapped = bench.product(scheme, &bench.held(&a)?, &right, factor as f32)?;
    recorder.control("scales-swapped", error(&swapped));
    Ok(())
}

/// Exchanges the first scale of a row with the one that differs most, of the row where that is most.
pub fn swap(scales: &mut [u8], blocks: usize) -> Result<(), Stop> {
    let place = |(row, block): (usize, usize)| oracle::place_of_scale(row, block, blocks);
    let places = (0..SIDE as usize).flat_map(|row| (1..blocks).map(move |block| (row, block)));
    let apart = |at: &(usize, usize)| scales[place(*at)].abs_diff(scales[place((at.0, 0))]);
    let most = places.max_by_key(apart).filter(|at| apart(at) > 0);
    let most = most.ok_or_else(|| Stop::Error("all scales are equal".into()))?;
    scales.swap(place((most.0, 0)), place(most));
    Ok(())
}

/// Scales of whole pieces laid out by rows.
fn by_rows(scales: &[u8], blocks: usize) -> Vec<u8> {
    let mut rows = scales.to_vec();
    for row in 0..SIDE as usize {
        for block in 0..blocks {
            rows[row * blocks + block] = scales[oracle::place_of_scale(row, block, blocks)];
        }
    }
    rows
}
