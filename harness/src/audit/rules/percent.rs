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

/// Words that may stand between what changed and `from`, and no others: `for sizes from 1 MB to 8 MB` is a range.
const FILLERS: &[&str] = &["again", "steadily", "slowly", "only", "and", "is", "was", "went"];

/// A percentage or factor of change in a sentence with `A -> B` or `fell from A to B`: of one of `(A - B) / A` and
/// `(A - B) / B`, and `A / B`. A difference, `by 10 ms`, is `A - B`.
pub(super) fn change(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            for pair in block.quantities.windows(2) {
                let [from, to] = pair else { continue };
                let Some(between) = between(block, from, to) else { continue };
                let change = Change { document, block, from, to };
                let sentence = block.sentence(from.start as usize);
                if between == Between::Arrow && !words::any(sentence, CHANGES) {
                    continue;
                }
                change.percent(between, found);
                change.factor(found);
                change.difference(found);
            }
        }
    }
}

/// How two values are said to be before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Arrow,
    FromTo,
}

/// Two numbers of one unit with an arrow between them, or after a word of change `from` and `to`.
fn between(block: &Block, from: &Quantity, to: &Quantity) -> Option<Between> {
    let usable = from.kind == to.kind && from.value > 0.0 && to.value > 0.0;
    if !usable || from.kind == Kind::Percent {
        return None;
    }
    match block.text[from.end as usize..to.start as usize].trim() {
        "->" | "→" | "=>" => Some(Between::Arrow),
        "to" => changed_from(block, from).then_some(Between::FromTo),
        _ => None,
    }
}

/// `fell from`, `25% lower, from`, `dropped by 10 ms (from`.
fn changed_from(block: &Block, from: &Quantity) -> bool {
    let whole = block.before(from.start);
    let offset = from.start as usize - whole.len();
    let before = whole.trim_end().trim_end_matches(['~', '≈']).trim_end();
    let Some(lead) = before.strip_suffix("from") else { return false };
    // A number directly before counts as the change that it says.
    let number = block.quantities.iter().rfind(|q| q.end as usize <= offset + lead.len());
    let behind = number.map_or("", |q| &lead[(q.end as usize).saturating_sub(offset)..]);
    let filler = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        bare.is_empty() || FILLERS.contains(&bare) || words::any(bare, CHANGES)
    };
    if number.is_some_and(|q| is_change(block, q)) && behind.split_whitespace().all(filler) {
        return true;
    }
    let mut words = lead.split_whitespace().rev().skip_while(|word| FILLERS.contains(word));
    words.next().is_some_and(|word| words::any(word, CHANGES))
}

/// Words beside a number within which one of change makes it the change.
const BESIDE: usize = 3;

/// `40% lower`, `a reduction of 40%`, `improved 40%`, `3x faster`.
fn is_change(block: &Block, q: &Quantity) -> bool {
    let stops = [',', ';', '.', '(', ')', '\n'];
    let after = block.after(q.end).split(stops).next().unwrap_or_default();
    let before = block.before(q.start).rsplit(stops).next().unwrap_or_default();
    after.split_whitespace().take(BESIDE).any(|word| words::any(word, CHANGES))
        || before.split_whitespace().rev().take(BESIDE).any(|word| words::any(word, CHANGES))
}

/// Two values, and the sentence that says how they differ.
struct Change<'a> {
    document: &'a Document,
    block: &'a Block,
    from: &'a Quantity,
    to: &'a Quantity,
}

impl Change<'_> {
    /// The number of a kind in the sentence that is nearest to the first value.
    fn nearest(&self, wanted: impl Fn(&Quantity) -> bool) -> Option<&Quantity> {
        let sentence = self.block.sentence(self.from.start as usize);
        let offset = sentence.as_ptr() as usize - self.block.text.as_ptr() as usize;
        let inside = |q: &&Quantity| {
            wanted(q) && (offset..offset + sentence.len()).contains(&(q.start as usize))
        };
        let near = |q: &&Quantity| q.start.abs_diff(self.from.start);
        let first = self.block.quantities.partition_point(|q| (q.start as usize) < offset);
        self.block.quantities[first..].iter().take(64).filter(inside).min_by_key(near)
    }

    /// The first value and the second, as they were printed.
    fn texts(&self) -> (&str, &str) {
        (self.from.text(&self.block.text), self.to.text(&self.block.text))
    }

    fn finding(&self, printed: &Quantity, of: &str, computed: f64) -> Finding {
        let (from, to) = self.texts();
        let text = printed.text(&self.block.text);
        let what = format!("prints {text} for {from} -> {to}, which is {of}");
        let line = self.block.line_at(printed.start as usize);
        Finding::new(&self.document.name, line, "percent-change", what)
            .value("printed", printed.value)
            .value("computed", computed)
    }

    fn percent(&self, between: Between, found: &mut Vec<Finding>) {
        let own = |q: &Quantity| {
            q.kind == Kind::Percent && (between == Between::Arrow || is_change(self.block, q))
        };
        let Some(percent) = self.nearest(own) else { return };
        let (a, b) = (self.from.interval(), self.to.interval());
        let hundred = Interval::exact(100.0);
        let bases =
            [hundred * ((a - b) / a).abs(), hundred * ((a - b) / b).abs(), hundred * (b / a)];
        if percent.bound || bases.iter().any(|computed| computed.meets(percent.interval().abs())) {
            return;
        }
        let of = bases.map(|base| figure(base.middle()));
        let (from, to) = self.texts();
        let shown = format!("|{from} - {to}| / {from} = {} %, of the second {} %", of[0], of[1]);
        let what = format!("{} % of the first", of[0]);
        found.push(self.finding(percent, &what, bases[0].middle()).shown(shown));
    }

    /// `1.5x faster`; `1.5x more` may be 2.5 times as much.
    fn factor(&self, found: &mut Vec<Finding>) {
        let own = |q: &Quantity| q.kind == Kind::Times && is_change(self.block, q);
        let Some(times) = self.nearest(own) else { return };
        let (a, b) = (self.from.interval(), self.to.interval());
        let larger = if self.from.value > self.to.value { a / b } else { b / a };
        let more = larger - Interval::exact(1.0);
        let smaller = Interval::exact(1.0) / larger;
        let meets = [larger, more, smaller].iter().any(|each| each.meets(times.interval()));
        if times.bound || meets {
            return;
        }
        let (from, to) = self.texts();
        let of = figure(larger.middle());
        let finding = self.finding(times, &format!("{of}x"), larger.middle());
        found.push(finding.shown(format!("{from} and {to} are {of} times apart")));
    }

    /// `dropped by 10 ms from A to B`.
    fn difference(&self, found: &mut Vec<Finding>) {
        let by = |q: &Quantity| {
            q.kind == self.from.kind
                && q.end <= self.from.start
                && self.block.before(q.start).trim_end().ends_with(" by")
                && is_change(self.block, q)
        };
        let Some(by) = self.nearest(by) else { return };
        let computed = (self.from.interval() - self.to.interval()).abs();
        if by.bound || by.scale == 0.0 || computed.meets(by.interval()) {
            return;
        }
        let (from, to) = self.texts();
        let of = format!("{} {}", figure(computed.middle() / by.scale), by.unit);
        let finding = self.finding(by, &of, computed.middle());
        found.push(finding.shown(format!("|{from} - {to}| = {of}")));
    }
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
