//! What is not a matrix that can be quantised or multiplied is refused, with its name and place.

use harness::case::{Case, Control, Expect, Scope};
use harness::evidence::{Metric, Tier};
use harness::record::{Assignment, Recorder, Stop};
use kernels::device::{Buffer, Gpu};
use kernels::element::Element;
use kernels::finite::{self, Finite};
use kernels::quantise::{self, Extra, Quantised, Quantiser, Scheme};
use kernels::weightonly::{self, WeightOnly};

use super::operands;
use crate::lab::Lab;

/// Bad inputs that were not refused, or without the words that name them, and good ones that were refused.
pub const WRONG: &str = "wrong_refusal_count";

const ROWS: u64 = 384;
const COLUMNS: u32 = 1032;

static CONTROLS: [Control; 2] = [
    Control {
        name: "last-row-not-looked-at",
        fault: "the last row of each tensor is not looked at",
        trips: WRONG,
        expect: Expect::Refuted,
    },
    Control {
        name: "taken-for-another-type",
        fault: "E4M3 is not looked at",
        trips: WRONG,
        expect: Expect::Refuted,
    },
];

/// Each GPU.
pub static CASE: Case = Case {
    id: "precision::bad-input",
    revision: 1,
    figures_since: 1,
    scope: Scope::EachGpu,
    min_gpus: 1,
    tier: Tier::Quick,
    self_test_only: false,
    procedure: "Tensors of 384 x 1032 in fp16, bfloat16, f32 and E4M3, finite, and with an infinity (where the type has one) \
                or a NaN of either sign in the first, a middle and the last element: the finite ones must pass, each other one \
                must be refused with its name, row and column. Then shapes that fit no block of a quantiser, rows that \
                are too long or do not begin on 16 bytes, a missing largest magnitude, buffers that are too small, and \
                weight-only products of no row, 17 rows and a k of 65 must be refused with the numbers that are \
                wrong.",
    samples: 0,
    expected_s: 1.0,
    deadline_s: 120.0,
    kernels: &["finite", "quantise", "weightonly"],
    integrity: &[],
    controls: &CONTROLS,
    run: checked,
};

/// Element types, and codes of theirs that are not finite.
const TYPES: [(Element, &[u32]); 4] = [
    (Element::F16, &[0x7C00, 0xFC00, 0x7C01, 0xFFFF]),
    (Element::Bf16, &[0x7F80, 0xFF80, 0x7F81, 0xFFFF]),
    (Element::F32, &[0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFFFF_FFFF]),
    (Element::E4m3, &[0x7F, 0xFF]),
];

struct Bench<'a> {
    gpu: &'a Gpu,
    index: u32,
    finite: Finite,
}

impl Bench<'_> {
    fn metric(&self, part: &'static str, wrong: u64) -> Metric {
        Metric::exact(WRONG, &[("input", part)], &[self.index], wrong as f64)
    }

    /// Tensors that were not refused rightly, with so many rows and types looked at.
    fn nonfinite(&self, rows: u64, types: usize) -> Result<u64, Stop> {
        let stream = self.gpu.stream();
        let mut wrong = 0;
        for (at, (element, codes)) in TYPES.into_iter().enumerate() {
            let name = format!("layer 3 up, {element:?}");
            // The largest number that all of them have.
            let clean = vec![element.encode(448.0); ROWS as usize * COLUMNS as usize];
            let buffer = self.gpu.alloc(element.bytes() * clean.len() as u64)?;
            buffer.write(stream, 0, &element.pack(&clean))?;
            let looked = |buffer: &Buffer| match at < types {
                true => self.finite.refuse(stream, &name, buffer, element, (rows, COLUMNS)),
                false => Ok(()),
            };
            wrong += u64::from(looked(&buffer).is_err());
            let last = clean.len() - 1;
            for (place, code) in [0, 12_345, last]
                .into_iter()
                .flat_map(|place| codes.iter().map(move |code| (place, *code)))
            {
                let each = 4 / element.bytes() as usize;
                let first = place / each * each;
                let mut word = clean[first..first + each].to_vec();
                word[place - first] = code;
                let offset = element.bytes() * first as u64;
                buffer.write(stream, offset, &element.pack(&word))?;
                let (row, column) = (place / COLUMNS as usize, place % COLUMNS as usize);
                let wanted = format!("{name}: row {row}, column {column} ");
                wrong += u64::from(!refused(looked(&buffer), &[&wanted]));
                buffer.write(stream, offset, &element.pack(&clean[first..first + each]))?;
            }
        }
        Ok(wrong)
    }
}

/// Whether something failed with all of these words.
fn refused<T>(outcome: kernels::Result<T>, words: &[&str]) -> bool {
    outcome.is_err_and(|error| {
        let text = error.to_string();
        words.iter().all(|word| text.contains(word))
    })
}

/// Shapes and buffers that were not refused rightly.
fn shapes(gpu: &Gpu, quantiser: &Quantiser, product: &WeightOnly) -> Result<u64, Stop> {
    let stream = gpu.stream();
    let source = operands::halves(gpu, &operands::activations(1, 256, 256))?;
    let target = Quantised::new(gpu, Scheme::Row, 256, 256)?;
    let small = Quantised { codes: gpu.alloc(128)?, scales: gpu.alloc(64)? };
    let run = |scheme, sizes, target: &Quantised| {
        quantiser.run(stream, scheme, &source, sizes, target, Extra::default())
    };
    let from = quantise::Source { buffer: &source, first: 4 };
    let apart = quantiser.run(stream, Scheme::Row, from, (2, 128), &target, Extra::default());
    let multiply = |m, k| product.run(stream, &source, &source, None, &source, (m, 16, k));
    let all = [
        refused(run(Scheme::Row, (10, 100), &target), &["row", "10 x 100", "128s"]),
        refused(run(Scheme::Row, (0, 128), &target), &["row", "0 x 128", "2^24 rows"]),
        refused(
            run(Scheme::Square128, (100, 128), &target),
            &["block-128x128", "100 x 128", "squares"],
        ),
        refused(run(Scheme::Row, (1, 32896), &target), &["row", "32896", "32768"]),
        refused(run(Scheme::Tensor, (2, 128), &target), &["tensor", "largest"]),
        refused(run(Scheme::NormRow, (2, 128), &target), &["norm-row", "gain"]),
        refused(run(Scheme::Row, (257, 256), &target), &["source"]),
        refused(run(Scheme::Row, (256, 256), &small), &["codes"]),
        refused(apart, &["row", "element 4"]),
        refused(multiply(0, 64), &["0 x 16 x 64"]),
        refused(multiply(17, 64), &["17 x 16 x 64"]),
        refused(multiply(1, 65), &["1 x 16 x 65"]),
        run(Scheme::Row, (256, 256), &target).is_ok(),
    ];
    Ok(all.into_iter().filter(|right| !right).count() as u64)
}

fn checked(assignment: &Assignment, recorder: &mut Recorder) -> Result<(), Stop> {
    let lab = Lab::open(assignment, recorder)?;
    let (gpu, index) = lab.only()?;
    let finite = Finite::new(gpu, &lab.module(gpu, &finite::SOURCE, recorder)?)?;
    let bench = Bench { gpu, index, finite };
    recorder.progress("not finite");
    const PART: &str = "not-finite";
    recorder.metric(bench.metric(PART, bench.nonfinite(ROWS, TYPES.len())?));
    let short = bench.nonfinite(ROWS - 1, TYPES.len())?;
    recorder.control("last-row-not-looked-at", bench.metric(PART, short));
    let fewer = bench.nonfinite(ROWS, TYPES.len() - 1)?;
    recorder.control("taken-for-another-type", bench.metric(PART, fewer));
    recorder.progress("shapes");
    let quantiser = Quantiser::new(gpu, &lab.module(gpu, &quantise::SOURCE, recorder)?)?;
    let product = WeightOnly::new(gpu, &lab.module(gpu, &weightonly::SOURCE, recorder)?)?;
    recorder.metric(bench.metric("shape", shapes(gpu, &quantiser, &product)?));
    lab.close(recorder);
    Ok(())
}
