//! Percentages: what they are of, and whether they follow from the numbers beside them.

use super::Context;
use crate::audit::document::{Block, Document, Shape};
use crate::audit::finding::{Finding, figure};
use crate::audit::interval::Interval;
use crate::audit::quantity::Quantity;
use crate::audit::unit::Kind;
use crate::audit::words;

/// Words that say that a percentage is a change.
const CHANGES: &[&str] = &[
    "drop*", "reduc*", "save*", "saving*", "cut*", "fall*", "fell", "decreas*", "increas*",
    "gain*", "rose", "rises", "grow*", "grew", "shrink*", "shrank", "faster", "slower", "less",
    "more", "lower", "higher", "smaller", "larger", "up", "down", "regress*", "improve*",
];

/// A percentage of change in a sentence with `A -> B`: one of `(A - B) / A` and `(A - B) / B`.
pub(super) fn change(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            for pair in block.quantities.windows(2) {
                if let Some((from, to)) = arrow(block, pair) {
                    changes(document, block, from, to, found);
                }
            }
        }
    }
}

/// Two numbers of one unit with an arrow between them.
fn arrow<'a>(block: &Block, pair: &'a [Quantity]) -> Option<(&'a Quantity, &'a Quantity)> {
    let [from, to] = pair else { return None };
    let between = block.text[from.end as usize..to.start as usize].trim();
    let arrow = matches!(between, "->" | "→" | "=>");
    let usable = from.kind == to.kind && from.value > 0.0 && to.value > 0.0;
    (arrow && usable && from.kind != Kind::Percent).then_some((from, to))
}

fn changes(
    document: &Document,
    block: &Block,
    from: &Quantity,
    to: &Quantity,
    found: &mut Vec<Finding>,
) {
    let sentence = block.sentence(from.start as usize);
    if !words::any(sentence, CHANGES) {
        return;
    }
    let offset = sentence.as_ptr() as usize - block.text.as_ptr() as usize;
    let inside = |q: &&Quantity| {
        q.kind == Kind::Percent && (offset..offset + sentence.len()).contains(&(q.start as usize))
    };
    let near = |q: &&Quantity| q.start.abs_diff(from.start);
    let first = block.quantities.partition_point(|q| (q.start as usize) < offset);
    let Some(percent) = block.quantities[first..].iter().take(64).filter(inside).min_by_key(near)
    else {
        return;
    };
    let (a, b) = (from.interval(), to.interval());
    let hundred = Interval::exact(100.0);
    let bases = [hundred * ((a - b) / a).abs(), hundred * ((a - b) / b).abs(), hundred * (b / a)];
    if percent.bound || bases.iter().any(|computed| computed.meets(percent.interval().abs())) {
        return;
    }
    let (from_text, to_text) = (from.text(&block.text), to.text(&block.text));
    found.push(
        Finding::new(
            &document.name,
            block.line_at(percent.start as usize),
            "percent-change",
            format!(
                "prints {} for {from_text} -> {to_text}, which is {} % of the first",
                percent.text(&block.text),
                figure(bases[0].middle())
            ),
        )
        .shown(format!(
            "|{} - {}| / {} = {} %, of the second {} %",
            from_text,
            to_text,
            from_text,
            figure(bases[0].middle()),
            figure(bases[1].middle())
        ))
        .value("printed", percent.value)
        .value("computed", bases[0].middle()),
    );
}

/// What a percentage without a base is called.
const ERRORS: &[&str] =
    &["error", "gap", "overstatement", "overestimate", "discrepancy", "mismatch"];

/// Words that name a base.
const BASES: &[&str] = &[
    "of",
    "relative to",
    "compared",
    "vs",
    "versus",
    "than",
    "against",
    "over",
    "below",
    "above",
    "from",
    "with respect to",
];

/// `12 % error`: of the true value, or of the claimed one?
pub(super) fn base(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            let mut bare: Vec<(u32, &str)> = Vec::new();
            for percent in block.quantities.iter().filter(|q| q.kind == Kind::Percent) {
                let after = block.after(percent.end);
                let clause = after.split([',', ';', '.', '(', '\n']).next().unwrap_or_default();
                let few = clause.split_whitespace().count() <= 3;
                let sentence = block.sentence(percent.start as usize);
                if few && words::any(clause, ERRORS) && !words::any(sentence, BASES) {
                    let line = block.line_at(percent.start as usize);
                    bare.push((line, percent.text(&block.text)));
                }
            }
            if let Some((line, _)) = bare.first() {
                let texts: Vec<&str> = bare.iter().map(|(_, text)| *text).collect();
                let what = format!("{} of error, and no word of which value", texts.join(" and "));
                found.push(Finding::new(&document.name, *line, "percent-base", what));
            }
        }
    }
}

/// Words by which an entry says that its percentage is a share of something.
const SHARES: &[&str] =
    &["share*", "of total", "of runtime", "of time", "of kernel time", "breakdown", "hotspot*"];

/// Entries of one list, each with its share, under a title or lead that says so.
pub(super) fn sum(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let mut lists: Vec<(u32, u32, f64, f64, u32)> = Vec::new();
        for (index, block) in document.blocks.iter().enumerate() {
            let Shape::Item { list, .. } = block.shape else { continue };
            let titles = document.titles(block.section);
            let before = index.checked_sub(1).map(|before| document.blocks[before].text.as_str());
            let lead = before.filter(|text| text.trim_end().ends_with(':')).unwrap_or_default();
            let shares: Vec<&Quantity> =
                block.quantities.iter().filter(|q| q.kind == Kind::Percent && !q.bound).collect();
            let known = lists.iter_mut().rev().take(8).find(|entry| entry.0 == list);
            if known.is_none() && !words::any(&titles, SHARES) && !words::any(lead, SHARES) {
                continue;
            }
            let (value, half) =
                shares.iter().fold((0.0, 0.0), |sum, q| (sum.0 + q.value, sum.1 + q.half));
            match known {
                Some(entry) => {
                    (entry.2, entry.3, entry.4) =
                        (entry.2 + value, entry.3 + half, entry.4 + shares.len() as u32);
                }
                None => lists.push((list, block.line, value, half, shares.len() as u32)),
            }
        }
        for (_, line, value, half, count) in lists {
            if count >= 2 && value - half > 100.0 {
                let what = format!("{count} shares of this list add up to {} %", figure(value));
                let finding = Finding::new(&document.name, line, "percent-sum", what)
                    .shown(format!("{} - {} for rounding > 100", figure(value), figure(half)))
                    .value("sum", value);
                found.push(finding);
            }
        }
    }
}
