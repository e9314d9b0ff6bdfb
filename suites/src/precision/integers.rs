//! Integers of few bits: every code decoded, every half encoded, packed, and int8 by rows.

use half::f16;
use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::Gpu;
use kernels::element::Element;
use kernels::integers::{self, Integer, Integers};

use super::operands;
use crate::lab::{Lab, finite};

/// Halves whose code is not the CPU's.
pub const CODES: &str = "wrong_code_count";
/// Codes whose number is not the definition's.
pub const NUMBERS: &str = "wrong_number_count";
/// Codes and scales by rows that differ from the CPU's.
pub const DIFFERING: &str = "differing_count";
/// Largest error over what the format proves it cannot exceed.
pub const ERROR: &str = "error_over_bound_ratio";

/// By what numbers are multiplied before they are encoded: ties of int8 and int2, steps between them, and
/// the whole range of halves within the ends.
const FACTORS: [f32; 5] = [1.0, 0.5, 0.37, 7.25, 127.0 / 65504.0];
const ROWS: u64 = 251;
const COLUMNS: u32 = 8072;

static CONTROLS: [Control; 5] = [
    Control {
        name: "toward-zero",
        fault: "numbers are rounded toward zero",
        trips: CODES,
        expect: Expect::Refuted,
    },
    Control {
        name: "packed-from-the-top",
        fault: "the codes of a word lie in the other order",
        trips: NUMBERS,
        expect: Expect::Refuted,
    },
    Control {
        name: "scale-one-ulp-off",
        fault: "one row's scale is one unit in the last place larger",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
    Control {
        name: "row-toward-zero",
        fault: "rows are rounded toward zero",
        trips: ERROR,
        expect: Expect::Refuted,
    },
    Control {
        name: "rows-one-code-off",
        fault: "one code of a row is one larger",
        trips: DIFFERING,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::integers",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "int8 and ternary int2, packed in words: each of the 65536 halves times five factors is encoded, and every \
                code in every place of a word is decoded, and compared with a codec of the CPU that searches among \
                all numbers of the format. A NaN is encoded as 0, and two bits' fourth code decoded to a NaN. \
                Then a matrix with outliers, zeros, the least and the largest half, and ties is quantised to int8 \
                by rows: every code and scale beside the CPU's, and the error in units of its bound.",
    samples: 0,
    expected_s: 5.0,
    deadline_s: 120.0,
    kernels: &["integers"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    integers: Integers,
}

impl Bench<'_> {
    fn metric(&self, name: &str, format: Integer, value: f64) -> Metric {
        Metric::exact(name, &[("format", format.name())], &[self.index], value)
    }

    /// Halves whose code is wrong, over all factors.
    fn wrong_codes(&self, format: Integer, truncate: bool) -> Result<Metric, Stop> {
        let stream = self.gpu.stream();
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let source = operands::halves(self.gpu, &halves)?;
        let words = halves.len() * format.bits() as usize / 32;
        let out = self.gpu.alloc(4 * words as u64)?;
        let mut wrong = 0;
        for factor in FACTORS {
            out.poison(stream)?;
            let target = (&out, words as u64);
            self.integers.encode(stream, (format, factor), &source, target, truncate)?;
            let found: Vec<u32> = out.read_vec(stream, words)?;
            let wanted = halves.iter().map(|half| format.encode(half.to_f32() * factor));
            let pairs = format.unpack(&found).into_iter().zip(wanted);
            wrong += pairs.filter(|(found, wanted)| found != wanted).count();
        }
        Ok(self.metric(CODES, format, wrong as f64))
    }

    /// Codes whose number is wrong, in every place of a word; `turned` packs them from the top.
    fn wrong_numbers(&self, format: Integer, turned: bool) -> Result<Metric, Stop> {
        let stream = self.gpu.stream();
        let (count, each) = (1u32 << format.bits(), 32 / format.bits());
        // Word by word the codes move one place on.
        let codes: Vec<u32> = (0..count * each).map(|i| (i + i / each) % count).collect();
        let mut words = format.pack(&codes);
        if turned {
            for (word, codes) in words.iter_mut().zip(codes.chunks(each as usize)) {
                let other: Vec<u32> = codes.iter().rev().copied().collect();
                *word = format.pack(&other)[0];
            }
        }
        let source = self.gpu.alloc(4 * words.len() as u64)?;
        source.write(stream, 0, &words)?;
        let out = self.gpu.alloc(4 * codes.len() as u64)?;
        out.fill_u32(stream, 0x4F00_0000)?;
        let given = (&source, words.len() as u64);
        self.integers.decode(stream, (format, 0.5), given, &out)?;
        let found: Vec<f32> = out.read_vec(stream, codes.len())?;
        let wrong = found.iter().zip(&codes).filter(|(found, code)| match format.decode(**code) {
            Some(number) => **found != number as f32 * 0.5,
            None => !found.is_nan(),
        });
        Ok(self.metric(NUMBERS, format, wrong.count() as f64))
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let integers = Integers::new(&lab.module(gpu, &integers::SOURCE, recorder)?)?;
    let bench = Bench { gpu, index, integers };
    for format in Integer::ALL {
        recorder.progress(format.name());
        recorder.metric(bench.wrong_codes(format, false)?);
        recorder.control("toward-zero", bench.wrong_codes(format, true)?);
        recorder.metric(bench.wrong_numbers(format, false)?);
        recorder.control("packed-from-the-top", bench.wrong_numbers(format, true)?);
    }
    recorder.progress("rows");
    rows(&bench, assignment.seed, recorder)?;
    lab.close(recorder);
    Ok(())
}

fn rows(bench: &Bench<'_>, seed: u64, recorder: &mut Recorder) -> Result<(), Stop> {
    let (gpu, stream) = (bench.gpu, bench.gpu.stream());
    let halves = operands::with_edges(seed, ROWS, COLUMNS.into());
    let (wanted, scales, bounds) = integers::rows(&halves, COLUMNS as usize);
    let source = operands::halves(gpu, &halves)?;
    let run = |truncate: bool| -> Result<(Vec<u32>, Vec<f32>), Stop> {
        let codes = gpu.alloc(halves.len() as u64)?;
        let found = gpu.alloc(4 * ROWS)?;
        codes.poison(stream)?;
        found.poison(stream)?;
        let sizes = (ROWS, COLUMNS);
        bench.integers.rows(stream, &source, sizes, (&codes, &found), truncate)?;
        let codes: Vec<u8> = codes.read_vec(stream, halves.len())?;
        let codes = codes.into_iter().map(u32::from).collect();
        Ok((codes, found.read_vec(stream, ROWS as usize)?))
    };
    let differing = |codes: &[u32], found: &[f32]| {
        let wrong = codes.iter().zip(&wanted).filter(|(a, b)| a != b).count();
        let others = found.iter().zip(&scales).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        bench.metric(DIFFERING, Integer::Int8, (wrong + others) as f64)
    };
    let error = |codes: &[u32], found: &[f32]| {
        let each = codes.iter().enumerate().map(|(at, code)| {
            let scale = f64::from(found[at / COLUMNS as usize]);
            let number = Element::Int8.decode(*code) * scale;
            let error = (halves[at].to_f64() - number).abs();
            if error == 0.0 { 0.0 } else { error / bounds[at] }
        });
        let most = each.fold(0.0, |most: f64, ratio| most.max(finite(ratio)));
        bench.metric(ERROR, Integer::Int8, most)
    };
    let (mut codes, mut found) = run(false)?;
    recorder.metric(differing(&codes, &found));
    recorder.metric(error(&codes, &found));
    found[3] = found[3].next_up();
    recorder.control("scale-one-ulp-off", differing(&codes, &found));
    found[3] = found[3].next_down();
    codes[17] = (codes[17] + 1) & 0xFF;
    recorder.control("rows-one-code-off", differing(&codes, &found));
    let (codes, found) = run(true)?;
    recorder.control("row-toward-zero", error(&codes, &found));
    Ok(())
}
