//! Numbers that an HTML comment binds to recorded evidence, and their rewriting.
//!
//! `4375.2 GB/s <!-- touchstone: suite::claim -->` binds the number before it in its line. A
//! comment that stands alone binds a number of what follows, which it names: `number="4375.2"`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::document::{Comment, Document};
use super::finding::{Finding, figure};
use super::interval::Interval;
use super::quantity::{self, Quantity};
use super::rules::Context;
use super::unit::{self, Kind};

const LEAD: &str = "<!-- touchstone: ";

/// A printed number that is further from its evidence is an error, not a digit to refresh.
const DRIFT: f64 = 0.05;

/// What a comment asks for: a claim, or `runs`, and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// `suite::claim`, or `runs` for what stands in manifests.
    pub subject: String,
    /// `pick=least` and the like, without `number`.
    pub attributes: BTreeMap<String, String>,
}

/// A recorded figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The figure, in `unit`.
    pub value: f64,
    /// As reports print it; empty for a count.
    pub unit: String,
    /// Where it stands: run and file.
    pub origin: String,
}

/// Where recorded figures come from.
pub trait Records {
    /// The figure of a binding; `Err` says why there is none.
    fn look_up(&self, binding: &Binding) -> Result<Recorded, String>;
}

/// No records: each binding is a finding with this reason.
pub struct Nothing(pub String);

impl Records for Nothing {
    fn look_up(&self, _: &Binding) -> Result<Recorded, String> {
        Err(self.0.clone())
    }
}

/// A bound number and how it stands to its evidence.
pub(crate) struct Bound {
    document: usize,
    line: u32,
    state: Result<State, String>,
}

/// Where a number stands, what it is and what it should be.
struct State {
    subject: String,
    /// Its digits in the source, and those that repeat it in an attribute.
    places: Vec<Range<usize>>,
    printed: Quantity,
    text: String,
    /// The recorded value in the base of the printed unit.
    value: f64,
    origin: String,
}

impl State {
    fn agrees(&self) -> bool {
        Interval::exact(self.value).meets(self.printed.interval())
    }

    fn drifted(&self) -> bool {
        let off = (self.printed.value - self.value).abs();
        off > DRIFT * self.value.abs()
    }

    /// The recorded value with the decimals and separators of the printed one.
    fn rewritten(&self) -> String {
        let value = self.value / self.printed.scale;
        let decimals = self.text.rsplit_once('.').map_or(0, |(_, decimals)| decimals.len());
        let digits = format!("{value:.decimals$}");
        if self.text.contains(',') { separated(&digits) } else { digits }
    }
}

/// `12345.6` as `12,345.6`.
fn separated(digits: &str) -> String {
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}{rest}")
}

/// Every bound number of the documents.
pub(crate) fn resolve(documents: &[Document], records: &dyn Records) -> Vec<Bound> {
    let mut found = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let mut counted = (0, 1);
        for comment in &document.comments {
            let text = document.source[comment.span.clone()].trim();
            if !text.starts_with(LEAD) {
                continue;
            }
            let between = &document.source[counted.0..comment.span.start];
            counted = (comment.span.start, counted.1 + between.matches('\n').count() as u32);
            let state = state(document, comment, text, records);
            found.push(Bound { document: index, line: counted.1, state });
        }
    }
    found
}

fn state(
    document: &Document,
    comment: &Comment,
    text: &str,
    records: &dyn Records,
) -> Result<State, String> {
    let (binding, number) = parse(text)?;
    let (places, printed) = match &number {
        None => beside(document, comment)?,
        Some(number) => below(document, comment, number)?,
    };
    let source = &document.source;
    let text = source[places[0].clone()].to_owned();
    let recorded = records.look_up(&binding)?;
    let named = unit::named(&recorded.unit).filter(|found| found.3 == recorded.unit.len());
    let value = match (named, printed.kind) {
        (Some((_, kind, scale, _)), printed) if kind == printed => recorded.value * scale,
        // In a table the unit stands in the header.
        (_, Kind::Plain) => recorded.value,
        _ => {
            let (ours, theirs) = (printed.unit, &recorded.unit);
            return Err(format!("{text} {ours} is bound to a figure in {theirs:?}"));
        }
    };
    let subject = binding.subject;
    Ok(State { subject, places, printed, text, value, origin: recorded.origin })
}

/// The binding of a comment, and the number that it names.
fn parse(text: &str) -> Result<(Binding, Option<String>), String> {
    let inside = text.strip_prefix(LEAD).and_then(|rest| rest.strip_suffix("-->"));
    let mut words = inside.ok_or("the comment does not end")?.split_whitespace();
    let subject = words.next().ok_or("the comment names no claim")?.to_owned();
    let mut attributes = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=').ok_or(format!("{word:?} is no attribute"))?;
        let value = value.trim_matches('"');
        if value.is_empty() || attributes.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{word:?} is empty or stands twice"));
        }
    }
    let number = attributes.remove("number");
    Ok((Binding { subject, attributes }, number))
}

type Placed = (Vec<Range<usize>>, Quantity);

/// The number right before a comment, in its line.
fn beside(document: &Document, comment: &Comment) -> Result<Placed, String> {
    if !comment.inline {
        return Err("a comment alone in its lines names its number: number=\"...\"".to_owned());
    }
    let before = &document.source[..comment.span.start];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    // What an earlier comment of the line holds is no number of the text.
    let start = before[start..].rfind("-->").map_or(start, |at| start + at + 3);
    let numbers = quantity::scan(&before[start..]);
    let printed = *numbers.last().ok_or("no number stands before the comment in its line")?;
    let place = start + printed.start as usize..start + printed.digits_end as usize;
    Ok((vec![place], printed))
}

/// The first place of a number behind a comment, and its place in the comment.
fn below(document: &Document, comment: &Comment, number: &str) -> Result<Placed, String> {
    let inside = &document.source[comment.span.clone()];
    let own = inside.find(number).map_or(0, |at| comment.span.start + at);
    let after = &document.source[comment.span.end..];
    let digit = |c: char| c.is_ascii_digit();
    let whole = |at: &usize| {
        let before = after[..*at].chars().next_back();
        let rest = &after[at + number.len()..];
        let goes_on =
            rest.starts_with(digit) || rest.starts_with('.') && rest[1..].starts_with(digit);
        !before.is_some_and(|c| c.is_alphanumeric() || c == '.' || c == '_') && !goes_on
    };
    let mut places = after.match_indices(number).map(|(at, _)| at).filter(whole);
    let at = places.next().ok_or_else(|| format!("{number} does not stand below the comment"))?;
    let line = after[at..].lines().next().unwrap_or_default();
    let numbers = quantity::scan(line);
    let printed = numbers.first().filter(|printed| printed.start == 0);
    let printed = *printed.ok_or_else(|| format!("{number:?} is no number"))?;
    let from = comment.span.end + at;
    Ok((vec![from..from + printed.digits_end as usize, own..own + number.len()], printed))
}

/// Findings of the bound numbers that `pick` takes.
fn each(
    context: &Context,
    found: &mut Vec<Finding>,
    finding: impl Fn(&str, &Bound) -> Option<Finding>,
) {
    for bound in context.bound {
        found.extend(finding(&context.documents[bound.document].name, bound));
    }
}

/// Bindings that lead nowhere.
pub(crate) fn missing(context: &Context, found: &mut Vec<Finding>) {
    each(context, found, |file, bound| {
        let what = format!("bound to nothing: {}", bound.state.as_ref().err()?);
        Some(Finding::new(file, bound.line, "evidence-missing", what))
    });
}

fn disagreement(rule: &'static str, file: &str, line: u32, state: &State) -> Finding {
    let recorded = state.value / state.printed.scale;
    let percent = 100.0 * (state.printed.value - state.value) / state.value;
    let (text, unit) = (&state.text, state.printed.unit);
    let what = format!("prints {text} {unit}, {} has {}", state.subject, state.rewritten());
    Finding::new(file, line, rule, what)
        .shown(format!("{text} / {} - 1 = {percent:+.2} %; {}", figure(recorded), state.origin))
        .value("printed", state.printed.value)
        .value("recorded", state.value)
}

/// Printed digits that the newest evidence does not round to.
pub(crate) fn stale(context: &Context, found: &mut Vec<Finding>) {
    each(context, found, |file, bound| {
        let state = bound.state.as_ref().ok()?;
        let stale = !state.agrees() && !state.drifted();
        stale.then(|| disagreement("evidence-stale", file, bound.line, state))
    });
}

/// Printed numbers that are more than 5 % away from the newest evidence.
pub(crate) fn drift(context: &Context, found: &mut Vec<Finding>) {
    each(context, found, |file, bound| {
        let state = bound.state.as_ref().ok()?;
        let drifted = !state.agrees() && state.drifted();
        drifted.then(|| disagreement("evidence-drift", file, bound.line, state))
    });
}

/// A document with its numbers as the evidence has them, and what was changed in which line.
pub(crate) struct Fixed {
    pub text: String,
    pub changes: Vec<(u32, String)>,
}

/// Rewrites the numbers of a document that disagree; those that drifted only if `drifted`.
pub(crate) fn fix(document: &Document, index: usize, bound: &[Bound], drifted: bool) -> Fixed {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut changes = Vec::new();
    for bound in bound.iter().filter(|bound| bound.document == index) {
        let Ok(state) = &bound.state else { continue };
        if state.agrees() || state.drifted() && !drifted {
            continue;
        }
        let new = state.rewritten();
        changes.push((bound.line, format!("{} -> {new}", state.text)));
        edits.extend(state.places.iter().map(|place| (place.clone(), new.clone())));
    }
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = document.source.clone();
    for (place, new) in edits {
        text.replace_range(place, &new);
    }
    Fixed { text, changes }
}
