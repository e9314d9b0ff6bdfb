//! Products for ten seconds without a pause: what is left when power and heat have settled.

use std::time::Duration;

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::libraries::Library;
use kernels::matmul::Lt;
use kernels::timing::Plan;

use super::bench::Bench;
use super::{CANDIDATES, EXTRA_K, HEADLINE, KINDS, Kind, Shape};
use crate::lab::{self, Lab};

/// Launches of one sample, about a tenth of a second.
const LAUNCHES: u32 = 64;
const SUSTAINED: Duration = Duration::from_secs(10);
/// However slow the GPU is.
const FEWEST_SAMPLES: usize = 9;
const CONTROL: Duration = Duration::from_secs(2);

macro_rules! sustained {
    ($id:literal, $index:literal) => {
        Case {
            id: $id,
            revision: 3,
            figures_since: 1,
            scope: Scope::EachGpu,
            min_gpus: 1,
            tier: Tier::Full,
            self_test_only: false,
            procedure: "Multiplies 8192 x 8192 x 8192 for ten seconds, 64 launches a sample \
                        between device events, after three samples of warm-up; then checks the \
                        last output as the short case does.",
            samples: FEWEST_SAMPLES,
            expected_s: 20.0,
            deadline_s: 240.0,
            kernels: &["operands", "product", "timing"],
            integrity: &["wrong_count", "outside_bound_count", "nonfinite_count"],
            controls: &[
                super::an_eighth_more("sustained_tflops"),
                Control {
                    name: "four-times",
                    fault: "every product is done four times and counted once",
                    trips: "sustained_tflops",
                    expect: Expect::Refuted,
                },
                super::FLIPPED_BIT,
                super::SHIFTED_OPERAND,
                super::UNWRITTEN_OUTPUT,
            ],
            run: |assignment, recorder| run(KINDS[$index], assignment, recorder),
        }
    };
}

pub(super) static FP16: Case = sustained!("compute::fp16-sustained", 0);
/// As the short case of the same products.
pub(super) static FP8: Case = Case { revision: 4, ..sustained!("compute::fp8-sustained", 3) };

fn run(kind: Kind, assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    lab::require(Library::CublasLt)?;
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let lt = Lt::new(gpu)?;
    let mut bench = Bench::new(&lab, gpu, index, &lt, kind, assignment.seed, recorder)?;
    let job = bench.job(HEADLINE, CANDIDATES, 0)?;
    bench.describe(&job, recorder);
    recorder.progress("sustained");
    let budget = SUSTAINED * assignment.attempt;
    let fewest = assignment.samples(FEWEST_SAMPLES);
    let rates = bench.timed(&job, HEADLINE, 1, plan(budget, LAUNCHES, fewest))?;
    let metric = |rates| {
        let at: &[(&str, &str)] = &[("dtype", kind.name), ("m_n_k", HEADLINE.name)];
        Metric::sampled("sustained_tflops", at, &[index], rates)
    };
    recorder.metric(metric(rates));
    for (name, value) in bench.check(&job)? {
        recorder.metric(bench.exact(name, HEADLINE, value));
    }
    recorder.progress("controls");
    let four = bench.timed(&job, HEADLINE, 4, plan(CONTROL, LAUNCHES / 4, FEWEST_SAMPLES))?;
    recorder.control("four-times", metric(four));
    for (control, name, value) in bench.planted(&job)? {
        recorder.control(control, bench.exact(name, HEADLINE, value));
    }
    drop(job);
    let longer = bench.job(Shape { k: HEADLINE.k + EXTRA_K, ..HEADLINE }, CANDIDATES, 0)?;
    let slow = bench.timed(&longer, HEADLINE, 1, plan(CONTROL, LAUNCHES, FEWEST_SAMPLES))?;
    recorder.control("an-eighth-more", metric(slow));
    drop(longer);
    drop(bench);
    lab.close(recorder);
    Ok(())
}

fn plan(budget: Duration, launches: u32, fewest: usize) -> Plan {
    Plan {
        warmup: 3,
        samples: 400,
        fewest_samples: fewest as u32,
        launches,
        budget: Some(budget),
        rest: 0,
    }
}
