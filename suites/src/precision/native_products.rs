//! Products of microscaled matrices on tensor cores that multiply their codes and scales.
//!
//! This case has never run: no board before compute capability 10.0 has such tensor cores, and none of a later one was at
//! hand. It was written from cuBLASLt's documentation alone; what its first run says of it is to be doubted before the
//! board is.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::libraries::Library;
use kernels::matmul::Lt;
use kernels::microscaled::{FIRST, Microscaled, SCHEMES};
use kernels::quantise::{self, Quantiser, Scheme};

use super::microscaled::{self, Micro, Reference};
use super::operands;
use super::scaled::{K, SIDE, multiplied};
use crate::lab::{self, Lab, finite};

/// Elements of a product of integers that are not the exact one.
pub const WRONG: &str = microscaled::WRONG;
/// Largest error of an element over what adding in f32 allows.
pub const ERROR: &str = microscaled::ERROR;

static CONTROLS: [Control; 3] = [
    Control {
        name: "scales-swapped",
        fault: "two blocks of a row of A have each other's scale",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-one-step-off",
        fault: "the code of one scale of A is one larger",
        trips: WRONG,
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
    id: "precision::native-microscaled-products",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Products of 512 x 512 over k = 2048 of matrices in NVFP4 and MXFP8 by cuBLASLt's first algorithm, which \
                takes codes and scales as they are, f32 accumulation and out. Of integers with powers of two as scales every \
                sum must be exact. Of nearly normal numbers with outliers, rows up to 2^18 apart, that this project's \
                quantisers quantised: the error beside f64 on codes and scales, in units of what adding in f32 may \
                err. Not applicable before compute capability 10.0, whose tensor cores multiply no such codes. Never run yet: \
                no such board was at hand.",
    samples: 0,
    expected_s: 4.0,
    deadline_s: 240.0,
    kernels: &["quantise"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

struct Bench<'a> {
    gpu: &'a Gpu,
    lt: &'a Lt,
    index: u32,
    quantiser: Quantiser,
}

impl Bench<'_> {
    fn metric(&self, name: &str, scheme: Scheme, value: f64) -> Metric {
        Metric::exact(name, &[("scheme", scheme.name())], &[self.index], finite(value))
    }

    /// A product, and the algorithm that made it.
    fn product(&self, a: &Micro, b: &Micro, alpha: f64) -> Result<(Vec<f32>, String), Stop> {
        let (left, right) = (a.upload(self.gpu)?, b.upload(self.gpu)?);
        let d = self.gpu.alloc(4 * u64::from(SIDE) * u64::from(SIDE))?;
        d.poison(self.gpu.stream())?;
        let given = (&left, &right);
        let product = Microscaled::new(self.gpu, self.lt, a.scheme, (SIDE, SIDE, K), given)?;
        product.run(self.gpu.stream(), &left, &right, &d, alpha as f32)?;
        let found = d.read_vec(self.gpu.stream(), (SIDE * SIDE) as usize)?;
        Ok((found, format!("{:?}", product.algorithm()?)))
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    if gpu.compute_capability < FIRST {
        let (major, minor) = gpu.compute_capability;
        return Err(Stop::NotApplicable(format!(
            "tensor cores of compute capability {major}.{minor} multiply no microscaled codes: 10.0 is the first"
        )));
    }
    lab::require(Library::CublasLt)?;
    let lt = Lt::new(gpu)?;
    recorder.option("cublaslt", lt.version());
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    let bench = Bench { gpu, lt: &lt, index, quantiser };
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
    let (a, b) = (Micro::integers(scheme, seed ^ 31), Micro::integers(scheme, seed ^ 32));
    let exact = multiplied(&a.numbers(), &b.numbers());
    let wrong = |found: &[f32]| {
        let wrong = found.iter().zip(&exact).filter(|(found, exact)| f64::from(**found) != **exact);
        bench.metric(WRONG, scheme, wrong.count() as f64)
    };
    let (found, algorithm) = bench.product(&a, &b, 1.0)?;
    recorder.option(&format!("algorithm.{}", scheme.name()), algorithm);
    recorder.metric(wrong(&found));
    let mut swapped = a.clone();
    let blocks = K / scheme.micro_columns().unwrap_or(K);
    microscaled::swap(&mut swapped.scales, blocks as usize)?;
    recorder.control("scales-swapped", wrong(&bench.product(&swapped, &b, 1.0)?.0));
    let mut off = a;
    off.scales[0] += 1;
    recorder.control("scale-one-step-off", wrong(&bench.product(&off, &b, 1.0)?.0));
    Ok(())
}

fn quantised(
    bench: &Bench<'_>,
    scheme: Scheme,
    seed: u64,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let matrix = |seed| {
        let halves = operands::spread(seed, SIDE.into(), K.into(), 19);
        microscaled::quantised_on(bench.gpu, &bench.quantiser, scheme, &halves)
    };
    let (a, b) = (matrix(seed ^ 33)?, matrix(seed ^ 34)?);
    let reference = Reference::new(&a, &b);
    let error = |factor: f64| -> Result<Metric, Stop> {
        let (found, _) = bench.product(&a, &b, factor * reference.factor)?;
        Ok(bench.metric(ERROR, scheme, reference.worst(&found)))
    };
    recorder.metric(error(1.0)?);
    recorder.control("other-factor", error(1.05)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements of a product of integers that a change of A's scales makes another.
    #[track_caller]
    fn check(scheme: Scheme, change: impl Fn(&mut Vec<u8>)) {
        let (a, b) = (Micro::integers(scheme, 31), Micro::integers(scheme, 32));
        let mut other = a.clone();
        change(&mut other.scales);
        let (one, two) = (a.numbers(), other.numbers());
        let row = one.chunks(K as usize).zip(two.chunks(K as usize)).find(|(x, y)| x != y);
        let (one, two) = row.expect("a row is another");
        let right = b.numbers();
        let (one, two) = (multiplied(one, &right), multiplied(two, &right));
        let different = one.iter().zip(&two).filter(|(x, y)| x != y).count();
        assert!(different > SIDE as usize / 2, "{}: {different}", scheme.name());
    }

    #[test]
    fn planted_scales_change_a_row_of_the_product() {
        for scheme in SCHEMES {
            let blocks = K / scheme.micro_columns().expect("is microscaled");
            check(scheme, |scales| scales[0] += 1);
            check(scheme, |scales| microscaled::swap(scales, blocks as usize).expect("differ"));
        }
    }

    #[test]
    fn sums_of_integers_are_exact_in_f32() {
        for scheme in SCHEMES {
            let numbers = Micro::integers(scheme, 31).numbers();
            let unit =
                numbers.iter().map(|x| x.abs()).filter(|x| *x > 0.0).fold(f64::MAX, f64::min);
            let most = numbers.iter().map(|x| x.abs()).fold(0.0, f64::max);
            assert!(f64::from(K) * (most / unit).powi(2) < 2f64.powi(24), "{unit} {most}");
            assert!(numbers.iter().all(|x| (x / unit).fract() == 0.0));
        }
    }
}
