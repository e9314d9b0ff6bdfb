//! Are the quantisers right: every code and scale beside the CPU's, every error beside its bound.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::formats::Format;
use kernels::model::{self, Affine, EPSILON, Kernels, Matrix};
use kernels::quantise::oracle::{self, Wanted};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme};

use super::operands;
use crate::lab::Lab;

/// Codes and scales that differ from the CPU's.
pub const DIFFERING: &str = "differing_count";
/// Largest error over what the format proves it cannot exceed.
pub const ERROR: &str = "error_over_bound_ratio";

/// Largest magnitudes of delayed scaling.
const HISTORY: usize = 16;

/// A scheme, the name of its row in evidence, and a matrix.
#[derive(Debug, Clone, Copy)]
struct Job {
    name: &'static str,
    scheme: Scheme,
    rows: u64,
    columns: u32,
    /// By a history whose largest magnitude is half of this matrix's.
    delayed: bool,
}

const fn job(name: &'static str, scheme: Scheme) -> Job {
    Job { name, scheme, rows: 256, columns: 8192, delayed: false }
}

const JOBS: [Job; 11] = [
    job("tensor", Scheme::Tensor),
    Job { delayed: true, ..job("tensor-delayed", Scheme::Tensor) },
    job("row", Scheme::Row),
    Job { rows: 64, columns: 32768, ..job("row-long", Scheme::Row) },
    Job { rows: 64, columns: 32768, ..job("gelu-row", Scheme::GeluRow) },
    job("norm-row", Scheme::NormRow),
    job("block-1x128", Scheme::Block128),
    job("block-128x128", Scheme::Square128),
    job("nvfp4", Scheme::Nvfp4),
    job("mxfp8", Scheme::Mxfp8),
    job("mxfp4", Scheme::Mxfp4),
];

static CONTROLS: [Control; 4] = [
    Control {
        name: "scale-one-ulp-off",
        fault: "one row's scale is one unit in the last place larger",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
    Control {
        name: "toward-zero",
        fault: "codes are rounded toward zero",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "scales-swapped",
        fault: "two rows have each other's scale",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "block-unscaled",
        fault: "128 elements of a row are converted without its scale",
        trips: ERROR,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::quantisers",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "fp16 matrices of 2^21 elements, whose rows differ in magnitude and hold outliers and a row of \
                zeros, are quantised by tensor (by its own largest magnitude and by a history whose largest \
                is half of it), by row (8192 and 32768 columns, alone, behind GELU and behind layer \
                norm), by 1x128 and 128x128 blocks, and to NVFP4, MXFP8 and MXFP4 with scales in the tensor \
                cores' layout. Every code and scale is compared with the CPU's, and what each stands for \
                with what it was, in units of the bound that the format proves. What fused kernels \
                quantise is what the model's own GELU and norm leave in fp16.",
    samples: 0,
    expected_s: 6.0,
    deadline_s: 240.0,
    kernels: &["quantise", "model"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// A quantised matrix with what it should be.
struct Outcome {
    before: Vec<f16>,
    wanted: Wanted,
    largest: f32,
    codes: Vec<u8>,
    scales: Vec<u32>,
    /// The recorded largest magnitude is wrong.
    unrecorded: u64,
}

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    quantiser: Quantiser,
    kernels: Kernels,
    seed: u64,
}

impl Bench<'_> {
    fn at(&self, name: &str, job: Job, value: f64) -> Metric {
        Metric::exact(name, &[("scheme", job.name)], &[self.index], value)
    }

    fn quantise(&self, job: Job, truncate: bool) -> Result<Outcome, Stop> {
        let stream = self.gpu.stream();
        let Job { scheme, rows, columns, .. } = job;
        let source = operands::activations(self.seed, rows, columns.into());
        let buffer = operands::halves(self.gpu, &source)?;
        let gains = operands::activations(self.seed ^ 9, 2, columns.into());
        let (gain, bias) = gains.split_at(columns as usize);
        let (gain, bias) = (operands::halves(self.gpu, gain)?, operands::halves(self.gpu, bias)?);
        let amax = oracle::amax(&source);
        let largest = if job.delayed { amax / 2.0 } else { amax };
        let entries = if job.delayed { HISTORY } else { 1 };
        let history: Vec<f32> =
            (0..entries).map(|i| if i == entries / 3 { largest } else { largest / 3.0 }).collect();
        let history = operands::floats(self.gpu, &history)?;
        let recorded = operands::floats(self.gpu, &[0.0])?;
        let target = Quantised::new(self.gpu, scheme, rows, columns)?;
        target.codes.poison(stream)?;
        target.scales.fill_u32(stream, 0)?;
        let extra = Extra {
            amax: Some(&history),
            recorded: Some(&recorded),
            norm: Some((&gain, &bias, EPSILON)),
            truncate,
        };
        self.quantiser.run(stream, scheme, &buffer, (rows, columns), &target, extra)?;
        let before = self.before(job, buffer, &gain, &bias)?;
        let found: Vec<f32> = recorded.read_vec(stream, 1)?;
        Ok(Outcome {
            wanted: oracle::quantise(scheme, &before, columns as usize, largest),
            before,
            largest,
            codes: codes_of(scheme, &target.codes, self.gpu)?,
            scales: scales_of(scheme, &target.scales, self.gpu)?,
            unrecorded: u64::from(scheme == Scheme::Tensor && found[0] != amax),
        })
    }

    /// What a scheme quantises: the source, or what the model's own kernels make of it.
    fn before(
        &self,
        job: Job,
        source: Buffer,
        gain: &Buffer,
        bias: &Buffer,
    ) -> Result<Vec<f16>, Stop> {
        let stream = self.gpu.stream();
        let matrix = Matrix::packed(&source, job.columns);
        let sizes = (job.rows as u32, job.columns);
        let read = |buffer: &Buffer| -> Result<Vec<f16>, Stop> {
            let codes: Vec<u16> = buffer.read_vec(stream, buffer.len_bytes() as usize / 2)?;
            Ok(codes.into_iter().map(f16::from_bits).collect())
        };
        match job.scheme {
            Scheme::GeluRow => {
                self.kernels.gelu(stream, matrix, sizes)?;
                read(&source)
            }
            Scheme::NormRow => {
                let out = self.gpu.alloc(source.len_bytes())?;
                let to = Matrix::packed(&out, job.columns);
                self.kernels.norm(stream, to, matrix, Affine { gain, bias }, sizes)?;
                read(&out)
            }
            _ => read(&source),
        }
    }

    fn differing(&self, job: Job, result: &Outcome) -> Metric {
        let codes = result.codes.iter().zip(&result.wanted.codes).filter(|(a, b)| a != b).count();
        let scales = result.scales.iter().zip(&result.wanted.scales).filter(|(a, b)| a != b);
        let missing = result.codes.len().abs_diff(result.wanted.codes.len())
            + result.scales.len().abs_diff(result.wanted.scales.len());
        let count = (codes + scales.count() + missing) as u64 + result.unrecorded;
        self.at(DIFFERING, job, count as f64)
    }

    fn error(&self, job: Job, result: &Outcome) -> Metric {
        let Outcome { before, wanted, largest, codes, scales, .. } = result;
        let numbers = oracle::dequantise(job.scheme, codes, scales, job.columns as usize, *largest);
        let each = before.iter().zip(&numbers).zip(&wanted.bounds).map(|((x, number), bound)| {
            let error = (x.to_f64() - number).abs();
            // A zero has no error to be allowed.
            if error == 0.0 { 0.0 } else { error / bound }
        });
        // What is not a number, or infinitely beyond a bound of zero, is beyond every bound.
        let most = each
            .fold(0.0, |most: f64, ratio| if ratio.is_finite() { most.max(ratio) } else { 1e300 });
        self.at(ERROR, job, (most * 1e6).round().min(1e300) / 1e6)
    }
}

/// A code for each element.
fn codes_of(scheme: Scheme, buffer: &Buffer, gpu: &Gpu) -> Result<Vec<u8>, Stop> {
    let bytes: Vec<u8> = buffer.read_vec(gpu.stream(), buffer.len_bytes() as usize)?;
    if scheme.code_bits() == 8 {
        return Ok(bytes);
    }
    Ok(bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect())
}

/// Scales as [`Wanted`] has them.
fn scales_of(scheme: Scheme, buffer: &Buffer, gpu: &Gpu) -> Result<Vec<u32>, Stop> {
    let bytes = buffer.len_bytes() as usize;
    if scheme.micro_columns().is_none() {
        return Ok(buffer.read_vec(gpu.stream(), bytes / 4)?);
    }
    let scales: Vec<u8> = buffer.read_vec(gpu.stream(), bytes)?;
    Ok(scales.into_iter().map(u32::from).collect())
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let bench = Bench {
        gpu,
        index,
        quantiser: Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?,
        kernels: Kernels::new(gpu, &lab.module(gpu, &model::SOURCE, recorder)?)?,
        seed: assignment.seed,
    };
    for job in JOBS {
        recorder.progress(job.name);
        let result = bench.quantise(job, false)?;
        recorder.metric(bench.differing(job, &result));
        recorder.metric(bench.error(job, &result));
        if job.name == "row" {
            planted(&bench, job, result, recorder)?;
        }
    }
    lab.close(recorder);
    Ok(())
}

/// The faults, planted in what the kernel left.
fn planted(
    bench: &Bench<'_>,
    job: Job,
    healthy: Outcome,
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let mut result = healthy;
    result.scales[3] += 1;
    recorder.control("scale-one-ulp-off", bench.differing(job, &result));
    result.scales[3] -= 1;
    // Rows of different magnitude, of which neither is the one of zeros.
    let magnitudes = |row: usize| f32::from_bits(result.scales[row]);
    let other = (7..job.rows as usize).find(|&row| magnitudes(row) >= 4.0 * magnitudes(6));
    let other =
        other.or((7..job.rows as usize).find(|&row| magnitudes(row) <= magnitudes(6) / 4.0));
    let other = other.ok_or_else(|| Stop::Error("all rows are of one magnitude".into()))?;
    result.scales.swap(6, other);
    recorder.control("scales-swapped", bench.error(job, &result));
    result.scales.swap(6, other);
    let row = 9 * job.columns as usize;
    for i in row..row + 128 {
        result.codes[i] = Format::E4m3.encode(result.before[i].to_f32()) as u8;
    }
    recorder.control("block-unscaled", bench.error(job, &result));
    let truncated = bench.quantise(job, true)?;
    recorder.control("toward-zero", bench.error(job, &truncated));
    Ok(())
}
