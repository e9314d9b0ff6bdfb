//! Experiments: one state, one place, a baseline with its number, and differences above the noise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Context;
use crate::audit::document::{Block, Document, Shape};
use crate::audit::finding::{Finding, figure};
use crate::audit::quantity::Quantity;
use crate::audit::unit::Kind;
use crate::audit::words;

/// An entry with a box.
struct Task<'a> {
    block: &'a Block,
    ticked: bool,
    /// Words of what is done, without remarks in brackets.
    phrase: BTreeSet<String>,
    /// Words of the entry that it stands under.
    parent: BTreeSet<String>,
    /// What was measured, and against what.
    result: Option<(Quantity, Quantity)>,
}

fn tasks(document: &Document) -> Vec<Task<'_>> {
    let mut found = Vec::new();
    for block in &document.blocks {
        let Shape::Item { ticked: Some(ticked), parent, .. } = block.shape else { continue };
        let text = match block.lead() {
            Some(lead) if !lead.contains(' ') => &block.text[lead.len() + 1..],
            _ => &block.text,
        };
        let phrase = words::tokens(text.split(['(', '\n', ':']).next().unwrap_or_default());
        let above = parent.map(|parent| document.blocks[parent as usize].text.as_str());
        let parent = words::tokens(&above.unwrap_or_default().replace('_', " "));
        found.push(Task { block, ticked, phrase, parent, result: result(block) });
    }
    found
}

/// A rate or a time, or a bare number with a suffix.
fn measured(quantity: &Quantity) -> bool {
    match quantity.kind {
        Kind::Plain => quantity.scale != 1.0,
        Kind::Throughput | Kind::Time | Kind::Bandwidth | Kind::Compute => true,
        _ => false,
    }
}

/// `~863k vs ~925k`.
fn result(block: &Block) -> Option<(Quantity, Quantity)> {
    let measured: Vec<&Quantity> = block.quantities.iter().filter(|q| measured(q)).collect();
    measured.windows(2).find_map(|pair| {
        let between = &block.text[pair[0].end as usize..pair[1].start as usize];
        let against = words::any(between, &["vs", "versus", "against", "from", "over", "than"]);
        let usable = pair[0].kind == pair[1].kind && pair[1].value > 0.0 && between.len() < 40;
        (against && usable).then_some((*pair[0], *pair[1]))
    })
}

/// Pairs of tasks of which one's phrase is the other's with more words, each naming what the other
/// stands under.
fn alike<'a, 'b>(tasks: &'b [Task<'a>]) -> Vec<(&'b Task<'a>, &'b Task<'a>)> {
    /// A word of more tasks than this tells none apart.
    const COMMON: usize = 64;
    let mut by_word: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, task) in tasks.iter().enumerate() {
        for word in &task.phrase {
            by_word.entry(word).or_default().push(index);
        }
    }
    let mut found = BTreeSet::new();
    for (index, task) in tasks.iter().enumerate().filter(|(_, task)| task.phrase.len() >= 3) {
        let lists = task.phrase.iter().map(|word| &by_word[word.as_str()]);
        let Some(rarest) = lists.min_by_key(|list| list.len()) else { continue };
        for other in rarest.iter().copied().take(COMMON).filter(|other| *other != index) {
            let (small, large) = (&task.phrase, &tasks[other].phrase);
            let named = |task: &Task| small.iter().any(|word| task.parent.contains(word));
            let related = match (task.parent.is_empty(), task.parent == tasks[other].parent) {
                (true, true) => small == large,
                (false, true) => true,
                (_, false) => named(task) && named(&tasks[other]),
            };
            if small.is_subset(large) && related {
                found.insert((index.min(other), index.max(other)));
            }
        }
    }
    found.into_iter().map(|(first, second)| (&tasks[first], &tasks[second])).collect()
}

const STUCK: &[&str] =
    &["hang", "hangs", "hung", "crash*", "fails", "failed", "deadlock*", "oom", "never ends"];

/// Ticked here and open there; or a number here and a hang there.
pub(super) fn states(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let tasks = tasks(document);
        for (first, second) in alike(&tasks) {
            if first.ticked == second.ticked {
                continue;
            }
            let word = |task: &Task| if task.ticked { "ticked" } else { "open" };
            let phrase: Vec<&str> =
                first.phrase.intersection(&second.phrase).map(String::as_str).collect();
            let what = format!(
                "one experiment ({}) is {} here and {} in line {}",
                phrase.join(", "),
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
                    "\"{lead}\" has a number in one entry and does not end in another, lines {} and {}",
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
        for (first, second) in alike(&tasks) {
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
                let said = words::any(&block.text[base.end as usize..], &["baseline"]);
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
