//! The quantisers over 8192 x 32768 and 32768 x 8192, where [`super::CASE`] has not had them, beside a copy of as many bytes.

use harness::case::{Case, Control, Scope};
use harness::evidence::Tier;
use harness::record::{Assignment, Recorder, Stop};
use kernels::quantise::Scheme;
use kernels::stream::Kind;
use kernels::timing::{self, Timer};
use kernels::variant;

use super::{Bench, HALF_ROWS, Held, Job, SAMPLES, STALE, TWICE, WRONG, current, delayed, job};
use crate::lab::Lab;

/// Rows of the tall matrices, which have as many numbers as 8192 rows of 32768.
const TALL: u64 = 32768;

const fn long(name: &'static str, scheme: Scheme) -> Job {
    job(name, scheme, 32768)
}

const fn tall(name: &'static str, scheme: Scheme) -> Job {
    Job { rows: TALL, ..job(name, scheme, 8192) }
}

const JOBS: [Job; 17] = [
    long("tensor-long", Scheme::Tensor),
    long("block-1x128-long", Scheme::Block128),
    long("block-128x128-long", Scheme::Square128),
    long("nvfp4-long", Scheme::Nvfp4),
    long("mxfp8-long", Scheme::Mxfp8),
    long("mxfp4-long", Scheme::Mxfp4),
    tall("tensor-tall", Scheme::Tensor),
    Job { rows: TALL, ..delayed("tensor-delayed-tall", 8192) },
    Job { rows: TALL, ..current("tensor-current-tall", 8192) },
    tall("row-tall", Scheme::Row),
    tall("gelu-row-tall", Scheme::GeluRow),
    tall("norm-row-tall", Scheme::NormRow),
    tall("block-1x128-tall", Scheme::Block128),
    tall("block-128x128-tall", Scheme::Square128),
    tall("nvfp4-tall", Scheme::Nvfp4),
    tall("mxfp8-tall", Scheme::Mxfp8),
    tall("mxfp4-tall", Scheme::Mxfp4),
];

/// Jobs at which faults are planted.
const TRIED: [&str; 3] = ["nvfp4-long", "row-tall", "tensor-current-tall"];

static CONTROLS: [Control; 3] = [HALF_ROWS, STALE, TWICE];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::quantiser-rates-large",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "As precision::quantiser-rates, of 8192 rows of 32768 halves for the schemes that it has of 8192 alone, and of 32768 \
                rows of 8192 for every scheme: beside a copy of as many bytes, half of them read and half written, a sample of \
                each in turn, 8 launches a sample, enqueued behind a latch. Bytes are the halves, the codes and the scales, and by the \
                own largest magnitude the halves once more. Codes are poisoned before, and afterwards the first and last 128 \
                rows are compared with those rows quantised alone, and what was recorded or found with the largest magnitude \
                found once more.",
    samples: SAMPLES,
    expected_s: 8.0,
    deadline_s: 240.0,
    kernels: &["quantise", "model", "operands", "timing", "stream", "pattern"],
    integrity: &[WRONG],
    controls: &CONTROLS,
    run: quantisers,
};

fn quantisers(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let streaming = &lab.streaming(gpu, recorder)?;
    let bench = &Bench::new(&lab, gpu, assignment.seed, recorder)?;
    let variant = variant::default_variant(Kind::Copy, gpu.compute_capability);
    recorder.option("variant.copy", variant);
    let held = Held { bench, streaming, variant, samples: assignment.samples(SAMPLES), index };
    for job in JOBS {
        held.job(job, TRIED.contains(&job.name), &mut timer, recorder)?;
    }
    lab.close(recorder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::rates;
    use std::collections::BTreeSet;

    #[test]
    fn every_scheme_is_large_both_ways() {
        let all: Vec<Job> = rates::JOBS.into_iter().chain(JOBS).collect();
        for (rows, columns) in [(8192, 32768), (32768, 8192)] {
            for scheme in Scheme::ALL {
                // A row behind layer norm has 8192 columns at most.
                let has =
                    |job: &Job| (job.scheme, job.rows, job.columns) == (scheme, rows, columns);
                let wanted = scheme != Scheme::NormRow || columns == 8192;
                assert_eq!(all.iter().any(has), wanted, "{scheme:?} {rows}");
            }
        }
        let names: BTreeSet<&str> = all.iter().map(|job| job.name).collect();
        assert_eq!(names.len(), all.len());
    }

    /// As many numbers as the bench's source has.
    #[test]
    fn matrices_fill_the_source() {
        assert!(JOBS.iter().all(|job| job.rows * u64::from(job.columns) == 8192 * 32768));
        assert!(TRIED.iter().all(|tried| JOBS.iter().any(|job| job.name == *tried)));
    }
}
