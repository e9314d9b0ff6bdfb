//! Experiments: one state, one place, a baseline with its number, and differences above the noise.

use std::collections::BTreeMap;

use super::Context;
use super::tasks::{Task, alike, measured, phrase, tasks};
use crate::audit::document::{Block, Document, Shape};
use crate::audit::finding::{Finding, figure};
use crate::audit::unit::Kind;
use crate::audit::words;

const STUCK: &[&str] =
    &["hang", "hangs", "hung", "crash*", "fails", "failed", "deadlock*", "oom", "never ends"];

/// Ticked here and open there; or a number here and a hang there.
pub(super) fn states(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let tasks = tasks(document);
        for (first, second) in alike(document, &tasks) {
            if first.ticked == second.ticked {
                continue;
            }
            let word = |task: &Task| if task.ticked { "ticked" } else { "open" };
            let (own, theirs) = (phrase(first), phrase(second));
            let common: Vec<&str> = own.intersection(&theirs).map(String::as_str).collect();
            let what = format!(
                "one experiment ({}) is {} here and {} in line {}",
                common.join(", "),
                word(second),
                word(first),
                first.block.line
            );
            let finding =
                Finding::new(&document.name, second.block.line, "experiment-states", what);
            found.push(finding.beside(&document.name, first.block.line));
        }
        let mut leads: BTreeMap<(u32, String), (&Block, bool)> = BTreeMap::new();
        for block in &document.blocks {
            let (Shape::Item { list, .. }, Some(lead)) = (block.shape, block.lead()) else {
                continue;
            };
            let key: String = lead.chars().filter(|c| c.is_alphanumeric()).collect();
            let rest = &block.text[lead.len()..];
            let stuck = words::any(rest, STUCK);
            let number = block
                .quantities
                .iter()
                .any(|q| q.kind != Kind::Plain && q.start as usize > lead.len());
            if !stuck && !number {
                continue;
            }
            let (other, was) = *leads.entry((list, key)).or_insert((block, stuck));
            if was != stuck && !(stuck && number) {
                let what = format!(
                    "\"{lead}\" has a number in one entry and does not end in another, \
                     lines {} and {}",
                    other.line, block.line
                );
                let finding = Finding::new(&document.name, block.line, "experiment-states", what);
                found.push(finding.beside(&document.name, other.line));
            }
        }
    }
}

/// The same words and the same two numbers in two entries.
pub(super) fn twice(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let tasks = tasks(document);
        for (first, second) in alike(document, &tasks) {
            let (Some(one), Some(other)) = (first.result, second.result) else { continue };
            if (one.0.value, one.1.value) != (other.0.value, other.1.value) {
                continue;
            }
            let what = format!(
                "{} against {} stands in line {} too, for the same experiment",
                other.0.text(&second.block.text),
                other.1.text(&second.block.text),
                first.block.line
            );
            let finding = Finding::new(&document.name, second.block.line, "experiment-twice", what);
            found.push(finding.beside(&document.name, first.block.line));
        }
    }
}

const JUDGED: &[&str] = &[
    "regress*", "worse", "better", "reverted", "kept", "left off", "slower", "faster", "improve*",
    "adopted", "rejected",
];

/// A judged number without the number that it is judged by; and a baseline that goes back.
pub(super) fn baseline(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let mut bases: Vec<(f64, u32)> = Vec::new();
        let mut returned = false;
        for task in tasks(document).iter().filter(|task| task.ticked) {
            let block = task.block;
            if let Some((_, base)) = task.result {
                let said = words::any(block.after(base.end), &["baseline"]);
                if said && bases.last().is_none_or(|(last, _)| *last != base.value) {
                    let before = bases.iter().find(|(value, _)| *value == base.value);
                    if let (Some((_, first)), Some((last, line)), false) =
                        (before, bases.last(), returned)
                    {
                        returned = true;
                        let what = format!(
                            "the baseline is {} again, as in line {first}, after {} in line {line}",
                            figure(base.value),
                            figure(*last)
                        );
                        let finding =
                            Finding::new(&document.name, block.line, "experiment-baseline", what);
                        found.push(finding.beside(&document.name, *line));
                    }
                    bases.push((base.value, block.line));
                }
                continue;
            }
            let mut values = block.quantities.iter().filter(|q| measured(q));
            let (value, None) = (values.next(), values.next()) else { continue };
            let bounded = block.text.contains("<= ") || block.text.contains(">= ");
            let judged = words::any(&block.text, JUDGED) && !bounded;
            let percent = block.quantities.iter().find(|q| {
                let behind = &block.text[q.end as usize..];
                q.kind == Kind::Percent && behind.trim_start().starts_with("tok/s")
            });
            let Some(value) = value.filter(|_| judged).or(percent) else { continue };
            let what =
                format!("{} is judged, and its baseline has no number", value.text(&block.text));
            let line = block.line_at(value.start as usize);
            found.push(Finding::new(&document.name, line, "experiment-baseline", what));
        }
    }
}

const SPREAD: &[&str] = &[
    "+-",
    "std",
    "stdev",
    "sigma",
    "iqr",
    "spread",
    "interval",
    "intervals",
    "repeats",
    "repeated runs",
    "standard deviation",
    "confidence",
    "variance",
];

/// Below this a difference needs its spread.
const NOISE_PERCENT: f64 = 2.0;

/// Repeats below this give no spread.
const FEW: f64 = 10.0;

/// Small differences, judged, where nothing says how far repeats lie apart.
pub(super) fn noise(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        if document.prose().any(|b| b.text.contains('±') || words::any(&b.text, SPREAD)) {
            continue;
        }
        for task in tasks(document).iter().filter(|task| task.ticked) {
            let block = task.block;
            let percent = block.quantities.iter().find(|q| q.kind == Kind::Percent);
            let (off, at, shown) = match (task.result, percent) {
                (Some((value, base)), _) => {
                    let off = 100.0 * (value.value / base.value - 1.0);
                    let (value_text, base_text) = (value.text(&block.text), base.text(&block.text));
                    (off, value.start, format!("{value_text} / {base_text} - 1 = {off:+.1} %"))
                }
                (None, Some(percent)) => (percent.value, percent.start, String::new()),
                (None, None) => continue,
            };
            if off.abs() < NOISE_PERCENT {
                let what = format!("a difference of {off:+.1} % without spread or repeats");
                let line = block.line_at(at as usize);
                found.push(
                    Finding::new(&document.name, line, "experiment-noise", what).shown(shown),
                );
            }
        }
        few_iterations(document, found);
    }
}

/// `iters 6`: the numbers behind the word, in headings and entries.
fn iterations(block: &Block) -> impl Iterator<Item = (f64, u32)> {
    block.quantities.iter().filter_map(|q| {
        let before = block.text[..q.start as usize].trim_end_matches([' ', '=', ':']);
        let word =
            ["iters", "iterations", "iter", "repetitions"].iter().any(|w| before.ends_with(w));
        (word && q.kind == Kind::Plain).then_some((q.value, q.start))
    })
}

/// A percentage below the noise in a document whose runs have few iterations.
fn few_iterations(document: &Document, found: &mut Vec<Finding>) {
    let counts = document.prose().flat_map(|block| iterations(block).map(|(count, _)| count));
    let Some(most) = counts.reduce(f64::max).filter(|most| *most < FEW) else { return };
    for block in document.prose().filter(|block| !matches!(block.shape, Shape::Heading)) {
        let small = block.quantities.iter().find(|q| {
            let size = q.interval().low.abs();
            let said = words::any(
                block.sentence(q.start as usize),
                &["within", "noise", "gain*", "faster", "slower", "improve*", "drift"],
            );
            q.kind == Kind::Percent && size < NOISE_PERCENT && said
        });
        if let Some(small) = small {
            let what = format!(
                "{} from {} iterations at most, without spread",
                small.text(&block.text),
                figure(most)
            );
            let line = block.line_at(small.start as usize);
            found.push(Finding::new(&document.name, line, "experiment-noise", what));
        }
    }
}

/// `warmup 0`, `iters 1`: the first run pays for what the others find ready.
pub(super) fn cold(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            let warm = block.quantities.iter().find(|q| {
                let before = block.text[..q.start as usize].trim_end_matches([' ', '=', ':']);
                let word =
                    ["warmup", "warm-up", "warmups", "Warmup"].iter().any(|w| before.ends_with(w));
                word && q.kind == Kind::Plain && q.value == 0.0
            });
            let single = iterations(block).find(|(count, _)| *count == 1.0);
            let (at, what) = match (warm, single) {
                (Some(warm), Some(_)) => (warm.start, "no warm-up and one iteration"),
                (Some(warm), None) => (warm.start, "no warm-up"),
                (None, Some((_, at))) => (at, "one iteration"),
                (None, None) => continue,
            };
            let what = format!("{what}: the figure is of a cold run, or has no spread");
            let line = block.line_at(at as usize);
            found.push(Finding::new(&document.name, line, "experiment-cold", what));
        }
    }
}
