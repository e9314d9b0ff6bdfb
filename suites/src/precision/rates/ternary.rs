//! Ternary numbers by their mean magnitude beside a copy of as many bytes.

use half::f16;
use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::integers::Integer;
use kernels::operands::{self, Operands, Values};
use kernels::stream::Kind;
use kernels::ternary::{self, Quantised, Ternary};
use kernels::timing::{self, Timer};
use kernels::variant;

use super::{CONTROL_SAMPLES, Copied, OVER_COPY, SAMPLES, TWICE, WRONG};
use crate::lab::Lab;

/// Rows, columns and the name of a matrix.
const MATRICES: [(&str, u64, u64); 2] = [("8192x8192", 8192, 8192), ("8192x32768", 8192, 32768)];
/// Words of codes of either end that are looked at.
const LOOKED_AT: usize = 1 << 16;

const HALF: Control = control(
    "half-the-sum",
    "the magnitudes of the second half are not added up",
    WRONG,
    Expect::Corrupt,
);
static CONTROLS: [Control; 2] = [TWICE, HALF];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::ternary-rates",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Full,
    self_test_only: false,
    procedure: "8192 rows of 8192 and of 32768 halves are quantised to ternary numbers by their mean magnitude, and as many bytes \
                are copied, half of them read and half written, a sample of each in turn, 8 launches a sample, enqueued behind a \
                latch. Bytes are the halves twice, since all of them make the scale of each, and the codes. Afterwards the \
                scale is compared with the CPU's of all numbers, and the first and last million codes.",
    samples: SAMPLES,
    expected_s: 8.0,
    deadline_s: 120.0,
    kernels: &["ternary", "operands", "timing", "stream"],
    integrity: &[WRONG],
    controls: &CONTROLS,
    run,
};

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    ternary: Ternary,
    source: Buffer,
}

impl Bench<'_> {
    /// Codes of both ends, and the scale, that are not the CPU's.
    fn wrong(&self, target: &Quantised, elements: u64) -> Result<f64, Stop> {
        let stream = self.gpu.stream();
        let codes: Vec<u16> = self.source.read_vec(stream, elements as usize)?;
        let halves: Vec<f16> = codes.into_iter().map(f16::from_bits).collect();
        let scale: Vec<f32> = target.scale.read_vec(stream, 1)?;
        let wanted = ternary::scale_of(&halves);
        let found: Vec<u32> = target.codes.read_vec(stream, (elements / 16) as usize)?;
        let mut wrong = usize::from(scale[0].to_bits() != wanted.to_bits());
        for first in [0, found.len() - LOOKED_AT] {
            let numbers = &halves[16 * first..16 * (first + LOOKED_AT)];
            let right = ternary::codes(numbers, wanted);
            let found = Integer::Int2.unpack(&found[first..first + LOOKED_AT]);
            wrong += found.iter().zip(&right).filter(|(a, b)| a != b).count();
        }
        Ok(wrong as f64)
    }
}

fn run(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let mut timer = Timer::new(gpu, &lab.module(gpu, &timing::SOURCE, recorder)?)?;
    let streaming = lab.streaming(gpu, recorder)?;
    let operands = Operands::new(gpu, &lab.module(gpu, &operands::SOURCE, recorder)?)?;
    let ternary = Ternary::new(gpu, &lab.module(gpu, &ternary::SOURCE, recorder)?)?;
    let most = MATRICES.iter().map(|(_, rows, columns)| rows * columns).max().unwrap_or(0);
    let source = gpu.alloc(2 * most)?;
    let normal = Values::Normals { scale: 1.0 };
    operands.fill(gpu.stream(), &source, Element::F16, most, assignment.seed, normal)?;
    let variant = variant::default_variant(Kind::Copy, gpu.compute_capability);
    recorder.option("variant.copy", variant);
    let bench = Bench { gpu, index, ternary, source };
    for (name, rows, columns) in MATRICES {
        recorder.progress(name);
        let elements = rows * columns;
        let target = Quantised::new(gpu, elements)?;
        target.codes.poison(gpu.stream())?;
        let copy = Copied::new(gpu, target.moved_bytes())?;
        let at = [("matrix", name)];
        let mut ratios = |times: u32, samples: usize| -> Result<Metric, Stop> {
            let ratios = copy.ratios(&mut timer, (&streaming, variant), samples, |stream| {
                (0..times).try_for_each(|_| bench.ternary.run(stream, &bench.source, &target))
            })?;
            Ok(Metric::sampled(OVER_COPY, &at, &[bench.index], ratios))
        };
        recorder.metric(ratios(1, assignment.samples(SAMPLES))?);
        recorder.control(TWICE.name, ratios(2, CONTROL_SAMPLES)?);
        let wrong = || -> Result<Metric, Stop> {
            Ok(Metric::exact(WRONG, &at, &[bench.index], bench.wrong(&target, elements)?))
        };
        recorder.metric(wrong()?);
        let stream = bench.gpu.stream();
        bench.ternary.sum(stream, &bench.source, &target, elements / 2)?;
        bench.ternary.encode(stream, &bench.source, &target, false)?;
        recorder.control(HALF.name, wrong()?);
    }
    lab.close(recorder);
    Ok(())
}
