//! The ternary quantiser: every code and the scale beside the CPU's, and what becomes of what is not finite.

use half::f16;
use harness::case::{Case, Control, Expect, Scope, control};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::integers::Integer;
use kernels::ternary::{self, Quantised, Ternary};

use super::operands;
use crate::lab::Lab;

/// Codes and scales that differ from the CPU's.
pub const DIFFERING: &str = "differing_count";
/// Codes that stand for a number, and scales that are one, of a matrix with an element that is not finite.
pub const SILENT: &str = "silent_count";

const TOWARD_ZERO: Control =
    control("toward-zero", "codes are rounded toward zero", DIFFERING, Expect::Refuted);
const FROM_THE_TOP: Control = control(
    "packed-from-the-top",
    "the numbers of each word of codes are handed over in the other order",
    DIFFERING,
    Expect::Refuted,
);
const LEFT_OUT: Control = control(
    "row-left-out",
    "the last row's magnitudes are not added to the sum",
    DIFFERING,
    Expect::Refuted,
);
const CLAMPED: Control = control(
    "clamped",
    "the largest half stands in the place of what is not finite",
    SILENT,
    Expect::Refuted,
);
static CONTROLS: [Control; 4] = [TOWARD_ZERO, FROM_THE_TOP, LEFT_OUT, CLAMPED];

/// A matrix's name, rows and columns, and whether its rows are those at the edges too.
const MATRICES: [(&str, u64, u64, bool); 4] = [
    ("1x16", 1, 16, false),
    ("251x8064", 251, 8064, true),
    ("63x32640", 63, 32640, true),
    ("1024x8192", 1024, 8192, false),
];
/// Elements of the largest half, whose sum has more than 64 bits.
const LARGEST: u64 = 1 << 28;
const CODES_READ: usize = 4096;

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::ternary-quantiser",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "fp16 matrices of 16 to 8 million elements, with outliers, zeros of both signs, the least and the largest \
                half and ties, and one of zeros, are quantised to ternary numbers by their mean magnitude: every code and the scale are \
                compared with the CPU's, which adds up integers. So are the scale and the first and last codes of 2^28 times the \
                largest half, whose sum needs 68 bits. Then a NaN and an infinity of either sign stand first and last in a \
                matrix: codes other than the one that stands for nothing are counted, and a scale that is a number.",
    samples: 0,
    expected_s: 3.0,
    deadline_s: 120.0,
    kernels: &["ternary"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    ternary: Ternary,
}

/// What is planted.
#[derive(Debug, Clone, Copy, Default)]
struct Planted {
    truncate: bool,
    left_out: u64,
}

impl Bench<'_> {
    fn metric(&self, name: &str, matrix: &str, value: f64) -> Metric {
        Metric::exact(name, &[("matrix", matrix)], &[self.index], value)
    }

    /// Codes and scale of a matrix.
    fn quantise(&self, source: &[f16], planted: Planted) -> Result<(Vec<u32>, f32), Stop> {
        let buffer = operands::halves(self.gpu, source)?;
        let target = self.run(&buffer, source.len() as u64, planted)?;
        let stream = self.gpu.stream();
        let words = target.codes.read_vec(stream, source.len() / 16)?;
        let scale: Vec<f32> = target.scale.read_vec(stream, 1)?;
        Ok((Integer::Int2.unpack(&words), scale[0]))
    }

    fn run(&self, source: &Buffer, elements: u64, planted: Planted) -> Result<Quantised, Stop> {
        let stream = self.gpu.stream();
        let target = Quantised::new(self.gpu, elements)?;
        target.codes.poison(stream)?;
        target.scale.fill_u32(stream, 0)?;
        self.ternary.sum(stream, source, &target, elements - planted.left_out)?;
        self.ternary.encode(stream, source, &target, planted.truncate)?;
        Ok(target)
    }

    /// 2^28 times the largest half.
    fn largest(&self) -> Result<Metric, Stop> {
        let most = u32::from(f16::MAX.to_bits());
        let stream = self.gpu.stream();
        let source = self.gpu.alloc(2 * LARGEST)?;
        source.fill_u32(stream, most << 16 | most)?;
        let target = self.run(&source, LARGEST, Planted::default())?;
        let scale: Vec<f32> = target.scale.read_vec(stream, 1)?;
        let all: Vec<u32> = target.codes.read_vec(stream, (LARGEST / 16) as usize)?;
        let ends = [&all[..CODES_READ], &all[all.len() - CODES_READ..]].concat();
        let wrong = Integer::Int2.unpack(&ends).into_iter().filter(|code| *code != 1).count();
        let wrong = wrong + usize::from(scale[0] != f16::MAX.to_f32());
        Ok(self.metric(DIFFERING, "2^28 times the largest half", wrong as f64))
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let ternary = Ternary::new(gpu, &lab.module(gpu, &ternary::SOURCE, recorder)?)?;
    let bench = Bench { gpu, index, ternary };
    for (name, rows, columns, edges) in MATRICES {
        recorder.progress(name);
        let seed = assignment.seed;
        let source = match edges {
            true => operands::with_edges(seed, rows, columns),
            false => operands::activations(seed, rows, columns),
        };
        compared(&bench, (name, rows, columns), &source, recorder)?;
    }
    let zeros = [f16::ZERO, f16::NEG_ZERO].repeat(4096);
    let found = bench.quantise(&zeros, Planted::default())?;
    let wrong = apart(&found, &ternary::quantise(&zeros));
    recorder.metric(bench.metric(DIFFERING, "zeros", wrong));
    recorder.progress("the largest sum");
    recorder.metric(bench.largest()?);
    silent(&bench, assignment.seed, recorder)?;
    lab.close(recorder);
    Ok(())
}

/// Codes and scales that differ.
fn apart(found: &(Vec<u32>, f32), wanted: &(Vec<u32>, f32)) -> f64 {
    let codes = found.0.iter().zip(&wanted.0).filter(|(a, b)| a != b).count();
    let missing = found.0.len().abs_diff(wanted.0.len());
    (codes + missing + usize::from(found.1.to_bits() != wanted.1.to_bits())) as f64
}

fn compared(
    bench: &Bench<'_>,
    (name, rows, columns): (&str, u64, u64),
    source: &[f16],
    recorder: &mut Recorder,
) -> Result<(), Stop> {
    let wanted = ternary::quantise(source);
    let metric = |found: &(Vec<u32>, f32)| bench.metric(DIFFERING, name, apart(found, &wanted));
    recorder.metric(metric(&bench.quantise(source, Planted::default())?));
    if rows == 1 {
        // Sixteen numbers may have the same codes either way.
        return Ok(());
    }
    let truncated = Planted { truncate: true, ..Planted::default() };
    recorder.control(TOWARD_ZERO.name, metric(&bench.quantise(source, truncated)?));
    let less = Planted { left_out: columns, ..Planted::default() };
    recorder.control(LEFT_OUT.name, metric(&bench.quantise(source, less)?));
    let turned: Vec<f16> = source.chunks(16).flat_map(|word| word.iter().rev().copied()).collect();
    let found = bench.quantise(&turned, Planted::default())?;
    recorder.control(FROM_THE_TOP.name, metric(&found));
    Ok(())
}

/// What is not finite, first and last.
fn silent(bench: &Bench<'_>, seed: u64, recorder: &mut Recorder) -> Result<(), Stop> {
    recorder.progress("what is not finite");
    let plain = operands::activations(seed, 64, 8192);
    let numbers = |found: (Vec<u32>, f32)| {
        let codes = found.0.into_iter().filter(|code| Integer::Int2.decode(*code).is_some());
        (codes.count() + usize::from(!found.1.is_nan())) as f64
    };
    for (name, wrong) in
        [("nan", f16::NAN), ("infinity", f16::INFINITY), ("minus infinity", f16::NEG_INFINITY)]
    {
        let (mut count, mut clamped) = (0.0, 0.0);
        for at in [0, plain.len() - 1] {
            let mut source = plain.clone();
            source[at] = wrong;
            count += numbers(bench.quantise(&source, Planted::default())?);
            source[at] = f16::MAX;
            clamped += numbers(bench.quantise(&source, Planted::default())?);
        }
        recorder.metric(bench.metric(SILENT, name, count));
        recorder.control(CLAMPED.name, bench.metric(SILENT, name, clamped));
    }
    Ok(())
}
