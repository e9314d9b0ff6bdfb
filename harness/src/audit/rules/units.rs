//! Units that leave something open: which bandwidth, which direction, which computation, which GB.

use std::collections::HashMap;

use super::Context;
use crate::audit::document::{Block, Document};
use crate::audit::finding::{Finding, figure};
use crate::audit::quantity::Quantity;
use crate::audit::unit::Kind;
use crate::audit::words;

const COLLECTIVES: &[&str] = &[
    "allreduce",
    "all-reduce",
    "all reduce",
    "allgather",
    "all-gather",
    "reducescatter",
    "reduce-scatter",
    "alltoall",
    "all-to-all",
    "broadcast bandwidth",
    "nccl",
];

/// Numbers of a kind whose sentence holds one of the words.
fn with<'a>(
    document: &'a Document,
    kind: Kind,
    wanted: &'static [&'static str],
) -> impl Iterator<Item = (&'a Block, &'a Quantity, &'a str)> {
    document.prose().flat_map(move |block| {
        let of_kind = block.quantities.iter().filter(move |q| q.kind == kind);
        let said = of_kind.map(move |q| (block, q, block.sentence(q.start as usize)));
        said.filter(move |(_, _, sentence)| words::any(sentence, wanted))
    })
}

/// A block's first finding of a rule is enough.
fn once(found: &mut Vec<Finding>, finding: Finding) {
    let same = |other: &Finding| {
        (other.rule, other.line, &other.file) == (finding.rule, finding.line, &finding.file)
    };
    if !found.last().is_some_and(same) {
        found.push(finding);
    }
}

/// `algbw` and `busbw` of one all-reduce differ by 2 (n - 1) / n.
pub(super) fn collective(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for (block, rate, sentence) in with(document, Kind::Bandwidth, COLLECTIVES) {
            let clause = around(block, rate);
            let titles = document.titles(block.section);
            let named = |text: &str| {
                words::any(text, &["algbw", "busbw", "bus bandwidth", "algorithm bandwidth"])
            };
            if !words::any(clause, COLLECTIVES) || named(sentence) || named(&titles) {
                continue;
            }
            let (eight, value) = (2.0 * 7.0 / 8.0, rate.value / rate.scale);
            let binary = binary_size(block, rate);
            let what = format!(
                "{} of a collective, and no word whether algbw or busbw{}",
                rate.text(&block.text),
                binary.map(|text| format!("; {text} may be MB or MiB")).unwrap_or_default()
            );
            let shown = format!(
                "algbw {} is busbw {} over 8 GPUs: x 2 (8 - 1) / 8",
                figure(value),
                figure(value * eight)
            );
            let line = block.line_at(rate.start as usize);
            once(found, Finding::new(&document.name, line, "unit-collective", what).shown(shown));
        }
    }
}

/// The words next to a number, between commas and semicolons.
fn around<'a>(block: &'a Block, number: &Quantity) -> &'a str {
    const NEAR: usize = 40;
    let (start, end) = (number.start as usize, number.end as usize);
    let least = block.text.ceil_char_boundary(start.saturating_sub(NEAR));
    let most = block.text.floor_char_boundary(end + NEAR);
    let from = block.text[least..start].rfind([',', ';']).map_or(least, |at| least + at + 1);
    let to = block.text[end..most].find([',', ';']).map_or(most, |at| end + at);
    &block.text[from..to]
}

/// A message of 2^n "MB".
fn binary_size<'a>(block: &'a Block, rate: &Quantity) -> Option<&'a str> {
    let after = block.quantities.partition_point(|q| q.start < rate.end);
    let size = block.quantities[after..].iter().take(3).find(|q| {
        let count = q.value / q.scale;
        let power = count >= 64.0 && count.fract() == 0.0 && (count as u64).is_power_of_two();
        matches!(q.unit, "MB" | "KB") && power
    })?;
    Some(size.text(&block.text))
}

const DIRECTIONS: &[&str] = &[
    "direction*",
    "unidirectional",
    "bidirectional",
    "each way",
    "one way",
    "one-way",
    "both ways",
    "uni",
    "bidi",
    "duplex",
];

/// `12 lanes @ 25 GB/s`: one direction on one generation, both together on another.
pub(super) fn direction(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for (block, rate, sentence) in with(document, Kind::Bandwidth, &["lane", "lanes", "links"])
        {
            let index = block.quantities.partition_point(|q| q.start < rate.start);
            let count = index.checked_sub(1).map(|before| &block.quantities[before]);
            let Some(count) = count.filter(|count| count.kind == Kind::Plain && count.scale == 1.0)
            else {
                continue;
            };
            let between = &block.text[count.end as usize..rate.start as usize];
            if !words::any(between, &["lane*", "link*"]) || words::any(sentence, DIRECTIONS) {
                continue;
            }
            let product = count.value * rate.value / rate.scale;
            let mut shown = format!(
                "{} x {} = {} {}",
                figure(count.value),
                figure(rate.value / rate.scale),
                figure(product),
                rate.unit
            );
            let pair = with(document, Kind::Bandwidth, &["p2p", "peer-to-peer"]).next();
            if let Some((other, pair, _)) = pair {
                let share = 100.0 * pair.value / (product * rate.scale);
                let line = other.line_at(pair.start as usize);
                shown +=
                    &format!("; {} in line {line} is {share:.1} % of it", pair.text(&other.text));
            }
            let what = format!("{} a lane, and no word in which direction", rate.text(&block.text));
            let line = block.line_at(rate.start as usize);
            once(found, Finding::new(&document.name, line, "unit-direction", what).shown(shown));
        }
    }
}

/// What a rate of arithmetic may be of.
const COMPUTATIONS: &[&str] = &[
    "gemm*",
    "matmul*",
    "matrix",
    "matrices",
    "product*",
    "multipl*",
    "kernel*",
    "attention",
    "convolution*",
    "conv",
    "forward",
    "backward",
    "model",
    "layer*",
    "mma",
    "wgmma",
    "cublas*",
    "fft",
    "training",
    "inference",
    "operand*",
    "cubed",
    "peak",
    "theoretical",
    "sheet",
    "dense",
    "sparse",
];

/// Words by which a rate is a measured one.
const REACHED: &[&str] =
    &["achiev*", "reach*", "measur*", "sustain*", "attain*", "ran at", "hit", "got"];

/// `300 TFLOPS`: of which computation, counted how?
pub(super) fn flops(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            for rate in block.quantities.iter().filter(|q| q.kind == Kind::Compute) {
                // What stands around says it as well as the sentence itself.
                let titles = document.titles(block.section);
                // Libraries carry the word in their names.
                let named = [&block.text, &titles].iter().any(|text| {
                    words::any(text, COMPUTATIONS) || text.contains("GEMM") || text.contains("BLAS")
                });
                let measured = words::any(block.sentence(rate.start as usize), REACHED);
                if named || !measured {
                    continue;
                }
                let what = format!("{} of no named computation", rate.text(&block.text));
                let line = block.line_at(rate.start as usize);
                once(found, Finding::new(&document.name, line, "unit-flops", what));
            }
        }
    }
}

/// The same digits before GB and before GiB.
pub(super) fn binary(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let mut seen: HashMap<(u64, char), (&'static str, u32)> = HashMap::new();
        for block in document.prose() {
            let sizes = block.quantities.iter().filter(|q| q.kind == Kind::Bytes);
            for size in sizes.filter(|q| q.value / q.scale >= 1.0) {
                let count = size.value / size.scale;
                let letter = size.unit.chars().next().unwrap_or(' ');
                let line = block.line_at(size.start as usize);
                // A whole number may well be two different sizes.
                let round = count.fract() == 0.0;
                let (unit, first) =
                    *seen.entry((count.to_bits(), letter)).or_insert((size.unit, line));
                if unit == size.unit || round {
                    continue;
                }
                let what = format!(
                    "{} here and {} {unit} in line {first}",
                    size.text(&block.text),
                    figure(count)
                );
                let shown = format!("{} GiB = {} GB", figure(count), figure(count * 1.073_741_824));
                let finding = Finding::new(&document.name, line, "unit-binary", what);
                once(found, finding.shown(shown).beside(&document.name, first));
            }
        }
    }
}

const DEVIATIONS: &[&str] =
    &["deviation", "drift", "difference", "error", "mismatch", "divergence"];
const PROOFS: &[&str] =
    &["bit*", "exact*", "identical", "hash*", "elements", "ulp*", "count*", "hex*"];

/// `0.000 deviation` is anything below half of the last decimal.
pub(super) fn zero(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            let zeros = block.quantities.iter().filter(|q| q.value == 0.0 && q.kind == Kind::Plain);
            for zero in zeros {
                let text = &block.text[zero.start as usize..zero.digits_end as usize];
                let sentence = block.sentence(zero.start as usize);
                let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
                let deviates = words::any(around(block, zero), DEVIATIONS);
                if decimals < 2 || !deviates || words::any(sentence, PROOFS) {
                    continue;
                }
                let what = format!(
                    "{text} is not a proof of zero: no count of differing elements, no bits"
                );
                let shown = if text.contains(['e', 'E']) {
                    "an exact zero of sums in floating point suggests that nothing was reduced"
                        .to_owned()
                } else {
                    format!("{text} is anything up to {}", figure(zero.half))
                };
                let line = block.line_at(zero.start as usize);
                once(found, Finding::new(&document.name, line, "zero-printed", what).shown(shown));
            }
        }
    }
}
