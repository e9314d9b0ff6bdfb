//! Suite `compute`: matrix products through cuBLASLt, right first and fast second.

mod bench;
mod claims;
mod sustained;

use std::collections::BTreeMap;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::libraries::Library;
use kernels::matmul::{Dtype, Lt};

use crate::lab::{self, Lab};
pub use bench::{Bench, Job, Shape};
pub use claims::CLAIMS;

/// Sizes of the products: the rivals' own.
pub const SHAPES: [Shape; 6] = [
    Shape { name: "8192x8192x8192", m: 8192, n: 8192, k: 8192 },
    Shape { name: "8192x4096x8192", m: 8192, n: 4096, k: 8192 },
    Shape { name: "8192x24576x8192", m: 8192, n: 24576, k: 8192 },
    Shape { name: "8192x32768x8192", m: 8192, n: 32768, k: 8192 },
    Shape { name: "8192x8192x32768", m: 8192, n: 8192, k: 32768 },
    Shape { name: "16384x16384x16384", m: 16384, n: 16384, k: 16384 },
];

/// Where the controls are planted, and where the documents' figure is judged.
const HEADLINE: Shape = SHAPES[0];

/// A type of product with the names that evidence uses.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As claims name it.
    pub name: &'static str,
    /// The types.
    pub dtype: Dtype,
    /// The rate's metric.
    pub metric: &'static str,
}

const fn kind(name: &'static str, dtype: Dtype, metric: &'static str) -> Kind {
    Kind { name, dtype, metric }
}

/// Types of products, in checklist order.
pub const KINDS: [Kind; 6] = [
    kind("fp16", Dtype::F16, "product_tflops"),
    kind("bf16", Dtype::Bf16, "product_tflops"),
    kind("tf32", Dtype::Tf32, "product_tflops"),
    kind("fp8", Dtype::E4m3Tensor, "product_tflops"),
    kind("fp8-rowwise", Dtype::E4m3Row, "product_tflops"),
    kind("int8", Dtype::Int8, "product_tops"),
];

/// K grows by so much in the control near the bound: an eighth more work than is counted, where healthy GPUs
/// differ by 5 % under their power limits.
const EXTRA_K: u32 = 1024;

const fn an_eighth_more(metric: &'static str) -> Control {
    Control {
        name: "an-eighth-more",
        fault: "K is an eighth longer than counted",
        trips: metric,
        expect: Expect::Regressed,
    }
}

const fn four_times(metric: &'static str) -> Control {
    Control {
        name: "four-times",
        fault: "every product is done four times and counted once",
        trips: metric,
        expect: Expect::Refuted,
    }
}

/// The faults of [`Bench::planted`], one for each of [`PRODUCT_INTEGRITY`].
pub const FLIPPED_BIT: Control = Control {
    name: "flipped-bit",
    fault: "the lowest bit of one element of the integer product is flipped",
    trips: "wrong_count",
    expect: Expect::Corrupt,
};
/// See [`FLIPPED_BIT`].
pub const SHIFTED_OPERAND: Control = Control {
    name: "shifted-operand",
    fault: "the random product is compared with operands of another seed",
    trips: "outside_bound_count",
    expect: Expect::Corrupt,
};
/// See [`FLIPPED_BIT`].
pub const UNWRITTEN_OUTPUT: Control = Control {
    name: "unwritten-output",
    fault: "the output stays poisoned",
    trips: "nonfinite_count",
    expect: Expect::Corrupt,
};

/// What must be zero of a product with rounding.
pub const PRODUCT_INTEGRITY: &[&str] = &["wrong_count", "outside_bound_count", "nonfinite_count"];
/// Samples of a healthy product in the quick tier, and of a control.
const SAMPLES: usize = 11;
const CONTROL_SAMPLES: u32 = 9;
/// Rest before each timed run of the search: without it the algorithm that suffers least under the
/// power limit is picked, and another on each GPU.
const REST: u32 = 2;
/// Algorithms that are tried for each product.
pub const CANDIDATES: usize = 8;

const PROCEDURE: &str = "For each size: draws fresh N(0,1) operands, tries 8 of cuBLASLt's \
    algorithms, with rests, and keeps the fastest, then times it, one launch a sample, behind a latch, each \
    after a rest of three times its length (so that the power limit is not what is measured), and \
    compares 4096 elements of the timed output with f64 against a bound derived from the format \
    and the accumulation. With the same algorithm it multiplies integers and checks every element \
    of the product bit by bit (Freivalds, in 64-bit integers). Outputs are poisoned before.";

macro_rules! case {
    ($id:literal, $index:literal) => {
        Case {
            id: $id,
            revision: 4,
            figures_since: 2,
            scope: Scope::EachGpu,
            min_gpus: 1,
            tier: Tier::Quick,
            self_test_only: false,
            procedure: PROCEDURE,
            samples: SAMPLES,
            expected_s: 4.0,
            deadline_s: 180.0,
            kernels: &["operands", "product", "timing"],
            integrity: PRODUCT_INTEGRITY,
            controls: &[
                an_eighth_more(KINDS[$index].metric),
                four_times(KINDS[$index].metric),
                FLIPPED_BIT,
                SHIFTED_OPERAND,
                UNWRITTEN_OUTPUT,
            ],
            run: |assignment, recorder| products(KINDS[$index], assignment, recorder),
        }
    };
}

static FP16: Case = case!("compute::fp16", 0);
static BF16: Case = case!("compute::bf16", 1);
static TF32: Case = case!("compute::tf32", 2);
/// Integers less dense, so that no sum times its scales is beyond fp16.
static FP8: Case = Case { revision: 5, ..case!("compute::fp8", 3) };
static FP8_ROWWISE: Case = case!("compute::fp8-rowwise", 4);

/// Integers have no rounding to bound and no NaN: the timed product itself is checked bit by bit.
static INT8: Case = Case {
    integrity: &["wrong_count"],
    controls: &[
        an_eighth_more("product_tops"),
        four_times("product_tops"),
        Control {
            name: "flipped-bit",
            fault: "the lowest bit of one element of the product is flipped",
            trips: "wrong_count",
            expect: Expect::Corrupt,
        },
    ],
    ..case!("compute::int8", 5)
};

/// Cases of the suite, in the order in which they run.
pub static CASES: &[&Case] =
    &[&FP16, &BF16, &TF32, &FP8, &FP8_ROWWISE, &INT8, &sustained::FP16, &sustained::FP8];

fn products(kind: Kind, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    lab::require(Library::CublasLt)?;
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let lt = Lt::new(gpu)?;
    let mut bench = Bench::new(&lab, gpu, index, &lt, kind, assignment.seed, recorder)?;
    let samples = assignment.samples(SAMPLES) as u32;
    // One metric over all sizes, a value each in the order of SHAPES: eight GPUs fit one file.
    let mut integrity: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for shape in SHAPES {
        recorder.progress(shape.name);
        let job = bench.job(shape, CANDIDATES, REST)?;
        bench.describe(&job, recorder);
        let rates = bench.rates(&job, shape, 1, samples)?;
        recorder.metric(bench.rate_metric(shape, rates));
        for (metric, value) in bench.check(&job)? {
            integrity.entry(metric).or_default().push(value as f64);
        }
        if shape == HEADLINE {
            controls(&mut bench, job, recorder)?;
        }
    }
    for (metric, values) in integrity {
        recorder.metric(bench.counts(metric, values));
    }
    drop(bench);
    lab.close(recorder);
    Ok(())
}

/// Plants each fault at the headline's size.
fn controls(bench: &mut Bench, job: bench::Job, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("controls");
    let four = bench.rates(&job, HEADLINE, 4, CONTROL_SAMPLES)?;
    recorder.control("four-times", bench.rate_metric(HEADLINE, four));
    for (control, metric, value) in bench.planted(&job)? {
        recorder.control(control, bench.exact(metric, HEADLINE, value));
    }
    drop(job);
    let longer = bench.job(Shape { k: HEADLINE.k + EXTRA_K, ..HEADLINE }, CANDIDATES, REST)?;
    let slow = bench.rates(&longer, HEADLINE, 1, CONTROL_SAMPLES)?;
    recorder.control("an-eighth-more", bench.rate_metric(HEADLINE, slow));
    Ok(())
}
