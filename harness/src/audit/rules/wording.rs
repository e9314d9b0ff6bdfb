//! Words that contradict each other, time stamps, and power of no one state.

use std::sync::LazyLock;

use serde::Deserialize;

use super::Context;
use crate::audit::document::{Block, Document};
use crate::audit::finding::{Finding, figure};
use crate::audit::peaks;
use crate::audit::unit::Kind;
use crate::audit::words;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Term {
    name: Vec<String>,
    excludes: Vec<String>,
    because: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    schema: u32,
    term: Vec<Term>,
}

static TERMS: LazyLock<Vec<Term>> = LazyLock::new(|| {
    let file: Terms =
        toml::from_str(include_str!("../terms.toml")).expect("terms.toml is read by a test");
    assert_eq!(file.schema, 1, "terms.toml");
    file.term
});

/// A section with a term in its title, or a sentence with it, that describes what the term
/// excludes.
pub(super) fn terms(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            for term in TERMS.iter() {
                let excluded = term.excludes.iter().find_map(|word| {
                    let at = words::find(&block.text, word)?;
                    let whole = at + word.trim_end_matches('*').len();
                    let rest = block.text[whole..].find(|c: char| !c.is_alphanumeric());
                    Some((at, &block.text[at..rest.map_or(block.text.len(), |end| whole + end)]))
                });
                let Some((at, word)) = excluded else { continue };
                let named = |text: &str| term.name.iter().find(|name| words::any(text, &[name]));
                let titles = document.titles(block.section);
                let Some(name) = named(&titles).or_else(|| named(block.sentence(at))) else {
                    continue;
                };
                if words::any(block.sentence(at), &["not", "no", "unlike", "instead of"]) {
                    continue;
                }
                let what = format!("called {name} and described as {word:?}");
                let line = block.line_at(at);
                let finding = Finding::new(&document.name, line, "term-excluded", what);
                found.push(finding.shown(term.because.clone()));
            }
        }
    }
}

const GAINS: &[&str] = &["deliver*", "gain*", "speedup*", "improve*", "faster", "boost*"];
const CREDITS: &[&str] = &[
    "after installing",
    "after enabling",
    "thanks to",
    "due to",
    "by using",
    "because of",
    "with",
];

/// What fails to load: `FOO import failure`, `Failed to import FOO`, `skips FOO backends`.
fn failing(block: &Block) -> Option<(usize, &str)> {
    let text = &block.text;
    let proper = |word: &&str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        bare.len() > 2 && bare.chars().filter(char::is_ascii_uppercase).count() >= 2
    };
    for (phrase, before) in [
        ("import failure*", true),
        ("failed to import", false),
        ("fails to load", true),
        ("failed to load", false),
    ] {
        let Some(at) = words::find(text, phrase) else { continue };
        let word = match before {
            true => text[..at].split_whitespace().next_back(),
            false => text[at + phrase.len()..].split_whitespace().next(),
        };
        if let Some(word) = word.filter(proper) {
            return Some((at, word.trim_matches(|c: char| !c.is_alphanumeric())));
        }
    }
    None
}

/// A gain that a sentence credits to what another sentence says does not load.
pub(super) fn cause(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let Some((failed, name)) = document.prose().find_map(|b| Some((b, failing(b)?.1))) else {
            continue;
        };
        for block in document.prose().filter(|block| !std::ptr::eq(*block, failed)) {
            let credited = block.text.match_indices(name).find(|(at, _)| {
                let sentence = block.sentence(*at);
                let before = &block.text[..*at];
                let credit = CREDITS.iter().any(|credit| {
                    let clause = before.rsplit(['.', ';', ',']).next().unwrap_or_default();
                    words::any(clause, &[credit])
                });
                credit && words::any(sentence, GAINS) && failing(block).is_none()
            });
            if let Some((at, _)) = credited {
                let what = format!("a gain is credited to {name}, which does not load");
                let line = block.line_at(at);
                let finding = Finding::new(&document.name, line, "cause-failing", what);
                found.push(finding.beside(&document.name, failed.line));
                break;
            }
        }
    }
}

/// `results_20240102_030405` beside `2024-01-02 03:04`: is that the beginning or the end?
pub(super) fn stamp(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for block in document.prose() {
            if words::any(&block.text, &["began", "started", "start", "from"]) {
                continue;
            }
            let digits: Vec<(usize, &str)> = runs_of_digits(&block.text);
            let named = digits.windows(2).filter(|pair| {
                // In that order: only behind eight digits is there a boundary of letters.
                let sized = pair[0].1.len() == 8 && pair[1].1.len() == 6;
                let end = pair[0].0 + 8;
                sized && end + 1 == pair[1].0 && block.text[end..].starts_with('_')
            });
            // More stamps than this are a listing.
            for pair in named.take(16) {
                let (day, time) = (pair[0].1, pair[1].1);
                let date = format!(
                    "{}-{}-{} {}:{}",
                    &day[..4],
                    &day[4..6],
                    &day[6..],
                    &time[..2],
                    &time[2..4]
                );
                if let Some(at) = block.text.find(&date) {
                    let what = format!(
                        "completed {date} by results of {day}_{time}: began or ended then, and in \
                         which time zone?"
                    );
                    let shown = format!(
                        "if the stamp is the beginning, the run took less than {} s",
                        60 - time[4..].parse::<u32>().unwrap_or(0).min(59)
                    );
                    let line = block.line_at(at);
                    found.push(Finding::new(&document.name, line, "time-stamp", what).shown(shown));
                }
            }
        }
    }
}

fn runs_of_digits(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut from = None;
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        match (byte.is_ascii_digit(), from) {
            (true, None) => from = Some(at),
            (false, Some(start)) => {
                found.push((start, &text[start..at]));
                from = None;
            }
            _ => {}
        }
    }
    found
}

/// How many GPUs a document is about: the first `8x NAME`.
fn gpus(document: &Document) -> Option<f64> {
    document.prose().find_map(|block| {
        let counts =
            block.quantities.iter().filter(|q| q.kind == Kind::Times && q.value.fract() == 0.0);
        counts.filter(|q| (2.0..=1024.0).contains(&q.value)).find_map(|count| {
            let behind = block.text[count.end as usize..].split_whitespace().next()?;
            (!peaks::named(behind).is_empty()).then_some(count.value)
        })
    })
}

/// What stands behind a number, so far that it belongs to it.
fn behind(block: &Block, end: u32) -> &str {
    let rest = &block.text[end as usize..];
    &rest[..rest.floor_char_boundary(40)]
}

/// A "baseline" of all GPUs with a range for each: one at its most and the others at their least is
/// neither idle nor loaded.
pub(super) fn power(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let Some(count) = gpus(document) else { continue };
        let mut total = None;
        let mut range = None;
        for block in document.prose() {
            for (index, watts) in block.quantities.iter().enumerate() {
                if watts.kind != Kind::Power {
                    continue;
                }
                let line = block.line_at(watts.start as usize);
                let next = block.quantities.get(index + 1).filter(|next| next.kind == Kind::Power);
                let between =
                    next.map(|next| block.text[watts.end as usize..next.start as usize].trim());
                let per_gpu = words::any(
                    block.sentence(watts.start as usize),
                    &["per-gpu", "per gpu", "a gpu", "each gpu"],
                );
                if let (Some(next), Some("-" | "–" | "to"), true) = (next, between, per_gpu) {
                    range = range.or(Some((watts.value, next.value, line)));
                } else if words::any(behind(block, watts.end), &["baseline"]) {
                    total = total.or(Some((watts.value, line)));
                }
            }
        }
        let (Some((total, _)), Some((least, most, line))) = (total, range) else { continue };
        let others = (total - most) / (count - 1.0);
        if most > 2.0 * least && (others / least - 1.0).abs() < 0.1 {
            let what = format!(
                "a baseline of {} W over {count} GPUs is one GPU at {} W and the others idle",
                figure(total),
                figure(most)
            );
            let shown = format!(
                "({} - {}) / {} = {} W a GPU, the least is {} W",
                figure(total),
                figure(most),
                count - 1.0,
                figure(others),
                figure(least)
            );
            let finding = Finding::new(&document.name, line, "power-states", what).shown(shown);
            found.push(finding.value("others", others));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_excludes_something_and_says_why() {
        for term in TERMS.iter() {
            assert!(!term.name.is_empty() && !term.excludes.is_empty(), "{:?}", term.name);
            assert!(term.because.len() > 10, "{:?}", term.name);
        }
    }
}
