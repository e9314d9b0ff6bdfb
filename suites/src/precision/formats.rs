//! Are the formats exact: every code decoded, every half-way point encoded, every f32 converted.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::formats::{self, By, Format, Formats, Sweep, chip_converts};

use crate::lab::Lab;

/// Numbers whose code is not the CPU's.
pub const CODES: &str = "wrong_code_count";
/// Codes whose number is not the definition's.
pub const NUMBERS: &str = "wrong_number_count";
/// f32 to which chip and integer arithmetic give different codes.
pub const DIFFERENT: &str = "different_code_count";
/// Magnitudes whose code is above that of the next one.
const FALLING: &str = "falling_code_count";
/// f32 that the sweep left out.
const LEFT_OUT: &str = "left_out_count";

/// All f32.
const ALL: u64 = 1 << 32;

static CONTROLS: [Control; 4] = [
    Control {
        name: "toward-zero",
        fault: "the arithmetic rounds toward zero where it should round to nearest",
        trips: CODES,
        expect: Expect::Refuted,
    },
    Control {
        name: "flipped-bit",
        fault: "the lowest mantissa bit of one decoded number is flipped",
        trips: NUMBERS,
        expect: Expect::Refuted,
    },
    Control {
        name: "toward-zero-everywhere",
        fault: "the sweep's arithmetic rounds toward zero",
        trips: DIFFERENT,
        expect: Expect::Refuted,
    },
    Control {
        name: "half-a-sweep",
        fault: "negative numbers are left out of a sweep",
        trips: LEFT_OUT,
        expect: Expect::Corrupt,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::formats",
    revision: 2,
    figures_since: 2,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "E4M3, UE4M3, E5M2, E2M1, UE8M0, fp16 and bf16: every code is decoded, those of infinities and of NaN too, and \
                every number of the format, every half-way point, the f32 beside them and every fp16 number are \
                encoded, by the chip's conversion where it has one and by integer arithmetic, and compared with a codec \
                of the CPU that searches among all numbers of the format. UE4M3 is E4M3 without its sign, for which the \
                chip's conversion to E4M3 is taken, of numbers below zero as of zero. Then every one of the 2^32 f32 is \
                converted, by arithmetic and, where the chip has a conversion, by that too; a NaN must stay a NaN, \
                whichever. No magnitude's code may be above the next one's, so that what is right at every half-way \
                point is right everywhere.",
    samples: 0,
    expected_s: 2.0,
    deadline_s: 120.0,
    kernels: &["formats"],
    integrity: &[FALLING, LEFT_OUT],
    controls: &CONTROLS,
    run: checked,
};

/// Boards with four-bit conversions.
pub static NATIVE_CASE: Case = Case {
    id: "precision::native-microscaling",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "As precision::formats, every f32, for E2M1 and UE8M0. Not applicable before compute \
                capability 10.0, whose chips have no instruction for them.",
    samples: 0,
    expected_s: 1.0,
    deadline_s: 120.0,
    kernels: &["formats"],
    integrity: &[FALLING, LEFT_OUT],
    controls: &CONTROLS,
    run: native,
};

/// One child's kernels and where its numbers go.
struct Bench<'a> {
    formats: Formats<'a>,
    index: u32,
}

impl Bench<'_> {
    fn count(&self, name: &str, format: Format, by: By, count: u64) -> Metric {
        let by = if by == By::Chip { "chip" } else { "arithmetic" };
        let at = [("format", format.name()), ("by", by)];
        Metric::exact(name, &at, &[self.index], count as f64)
    }

    /// Probes whose code is wrong. Of a NaN only that it stays one counts.
    fn wrong_codes(&self, format: Format, by: By, probes: &[f32]) -> Result<u64, Stop> {
        let found = self.formats.encode(format, by, probes)?;
        let right = |code: u32, probe: f32| {
            let wanted = format.encode(probe);
            code == wanted || probe.is_nan() && format.is_nan(code)
        };
        let wrong = found.iter().zip(probes).filter(|(code, probe)| !right(**code, **probe));
        Ok(wrong.count() as u64)
    }

    /// Codes whose number is wrong. Of a NaN only that it is one counts.
    fn wrong_numbers(&self, format: Format, found: &[u32]) -> u64 {
        let wrong = (0..format.codes()).zip(found).filter(|(code, bits)| {
            let number = format.decode(*code) as f32;
            if number.is_nan() {
                !f32::from_bits(**bits).is_nan()
            } else {
                **bits != number.to_bits()
            }
        });
        wrong.count() as u64 + u64::from(found.len() as u32 != format.codes())
    }

    fn swept(&self, format: Format, sweep: Sweep, recorder: &mut Recorder) {
        recorder.metric(self.count(DIFFERENT, format, By::Chip, sweep.different));
        recorder.metric(self.count(FALLING, format, By::Arithmetic, sweep.falling));
        recorder.metric(self.count(LEFT_OUT, format, By::Chip, ALL - sweep.numbers));
        if let Some(first) = sweep.first {
            recorder
                .option(&format!("first_different.{}", format.name()), format!("{first:#010x}"));
        }
    }

    /// Encodes and decodes a format by everything that does.
    fn probed(&self, format: Format, chip: bool, recorder: &mut Recorder) -> Result<(), Stop> {
        recorder.progress(format.name());
        let probes = format.probes();
        recorder.option(&format!("probes.{}", format.name()), probes.len());
        let ways = if chip { &[By::Arithmetic, By::Chip][..] } else { &[By::Arithmetic][..] };
        for &by in ways {
            let wrong = self.wrong_codes(format, by, &probes)?;
            recorder.metric(self.count(CODES, format, by, wrong));
            let mut found = self.formats.decode(format, by)?;
            let wrong = self.wrong_numbers(format, &found);
            recorder.metric(self.count(NUMBERS, format, by, wrong));
            if by == By::Arithmetic {
                let one = found.len() / 3;
                found[one] ^= 1 << 23 >> format.mantissa_bits();
                let wrong = self.wrong_numbers(format, &found);
                recorder.control("flipped-bit", self.count(NUMBERS, format, by, wrong));
                let wrong = self.wrong_codes(format, By::Truncation, &probes)?;
                recorder.control("toward-zero", self.count(CODES, format, by, wrong));
            }
        }
        Ok(())
    }

    /// The planted faults, of one format.
    fn planted(&self, format: Format, recorder: &mut Recorder) -> Result<(), Stop> {
        let sweep = self.formats.sweep(format, By::Truncation, ALL)?;
        let control = self.count(DIFFERENT, format, By::Chip, sweep.different);
        recorder.control("toward-zero-everywhere", control);
        let half = self.formats.sweep(format, By::Arithmetic, ALL / 2)?;
        let control = self.count(LEFT_OUT, format, By::Chip, ALL - half.numbers);
        recorder.control("half-a-sweep", control);
        Ok(())
    }
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let bench =
        Bench { formats: Formats::new(gpu, &lab.module(gpu, &formats::SOURCE, recorder)?)?, index };
    for format in Format::ALL {
        let chip = chip_converts(format, gpu.compute_capability);
        bench.probed(format, chip, recorder)?;
        let sweep = bench.formats.sweep(format, By::Arithmetic, ALL)?;
        // What only newer chips convert by themselves is a case of its own: here the arithmetic alone.
        if chip && !matches!(format, Format::E2m1 | Format::Ue8m0) {
            bench.swept(format, sweep, recorder);
        } else {
            recorder.metric(bench.count(FALLING, format, By::Arithmetic, sweep.falling));
            let left_out = ALL - sweep.numbers;
            recorder.metric(bench.count(LEFT_OUT, format, By::Arithmetic, left_out));
        }
    }
    recorder.progress("controls");
    let formats = match chip_converts(Format::E4m3, gpu.compute_capability) {
        true => &[Format::E4m3, Format::Ue4m3][..],
        false => &[Format::F16],
    };
    for &format in formats {
        bench.planted(format, recorder)?;
    }
    lab.close(recorder);
    Ok(())
}

fn native(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    if !chip_converts(Format::E2m1, gpu.compute_capability) {
        let (major, minor) = gpu.compute_capability;
        return Err(Stop::NotApplicable(format!(
            "compute capability {major}.{minor} has no conversion to E2M1 or UE8M0: 10.0 is the first"
        )));
    }
    let bench =
        Bench { formats: Formats::new(gpu, &lab.module(gpu, &formats::SOURCE, recorder)?)?, index };
    for format in [Format::E2m1, Format::Ue8m0] {
        let sweep = bench.formats.sweep(format, By::Arithmetic, ALL)?;
        bench.swept(format, sweep, recorder);
        bench.probed(format, true, recorder)?;
    }
    bench.planted(Format::E2m1, recorder)?;
    lab.close(recorder);
    Ok(())
}
