//! Command lines against the prose around them.

use std::collections::{BTreeMap, HashMap};

use super::Context;
use crate::audit::document::{Block, Document, Shape};
use crate::audit::finding::{Finding, figure};
use crate::audit::words;

/// A command line with its options.
struct Command<'a> {
    block: &'a Block,
    line: u32,
    /// Values by option, in order of the line.
    options: Vec<(&'a str, Vec<&'a str>)>,
}

/// Commands are code spans with an option behind a program, and lines of code blocks.
fn commands(document: &Document) -> Vec<Command<'_>> {
    let mut found = Vec::new();
    for block in &document.blocks {
        if block.shape == Shape::Code {
            let mut at = 0;
            for line in block.text.split_inclusive('\n') {
                let text = line.trim().trim_start_matches("$ ");
                found.extend(command(block, block.line_at(at), text));
                at += line.len();
            }
        }
        for code in &block.codes {
            let text = &block.text[code.clone()];
            found.extend(command(block, block.line_at(code.start), text));
        }
    }
    found
}

fn command<'a>(block: &'a Block, line: u32, text: &'a str) -> Option<Command<'a>> {
    let mut words = arguments(text).into_iter();
    let program = words.next()?;
    if program.starts_with('-')
        || !program.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.')
    {
        return None;
    }
    let mut options: Vec<(&str, Vec<&str>)> = Vec::new();
    for word in words {
        match (word.strip_prefix("--"), options.last_mut()) {
            (Some(""), _) => {}
            (Some(name), _) => {
                let (name, value) =
                    name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
                options.push((name, value.into_iter().collect()));
            }
            (None, Some((_, values))) => values.push(word),
            (None, None) => {}
        }
    }
    let program = program.rsplit('/').next().unwrap_or(program);
    let known = program.starts_with(|c: char| c.is_ascii_lowercase());
    (known && !options.is_empty()).then_some(Command { block, line, options })
}

/// Splits at blanks outside of brackets and quotation marks: `$(date +%Y)` is one argument.
fn arguments(text: &str) -> Vec<&str> {
    let (mut found, mut from, mut depth, mut quote) = (Vec::new(), None, 0_u32, None);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' if quote.is_none() => depth += 1,
            ')' | ']' if quote.is_none() => depth = depth.saturating_sub(1),
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            _ => {}
        }
        let blank = c.is_whitespace() && depth == 0 && quote.is_none();
        match (blank, from) {
            (false, None) => from = Some(at),
            (true, Some(start)) => {
                found.push(&text[start..at]);
                from = None;
            }
            _ => {}
        }
    }
    found.extend(from.map(|start| &text[start..]));
    found
}

/// Formats of numbers that a title may promise.
const PRECISIONS: &[&str] =
    &["fp4", "nvfp4", "mxfp4", "fp6", "fp8", "int4", "int8", "bf16", "tf32", "fp64"];

/// A title promises a precision, and the section's command asks for none.
pub(super) fn precision(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let promised: Vec<Option<&str>> =
            document.sections.iter().map(|section| promise(&section.title)).collect();
        // Another command beside one that does ask is no other promise.
        let mut asked = vec![false; promised.len()];
        for block in document.blocks.iter().filter(|block| block.shape != Shape::Heading) {
            if let Some(precision) = promised[block.section] {
                asked[block.section] |= asks(block, precision);
            }
        }
        for command in commands(document) {
            let index = command.block.section;
            let (Some(precision), false) = (promised[index], asked[index]) else { continue };
            if command.options.len() < 2 {
                continue;
            }
            let what = format!(
                "the title promises {}, and no option of the command asks for it",
                precision.to_uppercase()
            );
            let finding = Finding::new(&document.name, command.line, "command-precision", what);
            found.push(finding.beside(&document.name, document.sections[index].line));
        }
    }
}

/// The only precision of a title.
fn promise(title: &str) -> Option<&'static str> {
    let mut named = PRECISIONS.iter().filter(|name| words::any(title, &[name]));
    let first = named.next()?;
    named.next().is_none().then_some(first)
}

/// True if code of the block names the precision.
fn asks(block: &Block, precision: &str) -> bool {
    let whole = (block.shape == Shape::Code).then_some(block.text.as_str());
    let spans = block.codes.iter().map(|code| &block.text[code.clone()]);
    spans.chain(whole).any(|code| code.to_lowercase().contains(precision))
}

/// Options that hold a model's width and its heads.
const WIDTH: &[&str] = &["d-model", "d_model", "hidden-size", "hidden_size", "hidden-dim", "width"];
const HEADS: &[&str] = &["heads", "num-heads", "n-heads", "num_heads", "n_heads"];

/// Widths and heads that only make whole heads when paired, in a command with another list of
/// another length: whether lists pair up or multiply is open.
pub(super) fn lists(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        for command in commands(document) {
            let list = |names: &[&str]| {
                let named = |name: &str| {
                    names.iter().any(|end| name == *end || name.ends_with(&format!("-{end}")))
                };
                let found = command.options.iter().find(|(name, _)| named(name))?;
                let numbers: Option<Vec<f64>> = found.1.iter().map(|v| v.parse().ok()).collect();
                numbers.filter(|numbers| numbers.len() > 1)
            };
            let (Some(widths), Some(heads)) = (list(WIDTH), list(HEADS)) else { continue };
            let whole = |width: f64, heads: f64| (width / heads).fract() == 0.0;
            let crossed: Vec<(f64, f64)> =
                widths.iter().flat_map(|w| heads.iter().map(move |h| (*w, *h))).collect();
            let Some((width, count)) = crossed.iter().find(|(w, h)| !whole(*w, *h)) else {
                continue;
            };
            let lengths: BTreeMap<usize, &str> = command
                .options
                .iter()
                .filter(|o| o.1.len() > 1)
                .map(|o| (o.1.len(), o.0))
                .collect();
            let said =
                words::any(&command.block.text, &["zip*", "pair*", "cross product", "each with"]);
            if lengths.len() < 2 || said {
                continue;
            }
            let of: Vec<String> =
                lengths.iter().map(|(length, name)| format!("--{name} has {length}")).collect();
            let what = format!(
                "lists of different lengths ({}), and not all combinations are models",
                of.join(", ")
            );
            let shown = format!(
                "{} / {} heads = {} a head",
                figure(*width),
                figure(*count),
                figure(width / count)
            );
            let finding = Finding::new(&document.name, command.line, "command-lists", what);
            found.push(finding.shown(shown));
        }
    }
}

/// `Use --option value instead` in one document, another value in a command of any.
pub(super) fn advice(context: &Context, found: &mut Vec<Finding>) {
    let mut advised_by: HashMap<&str, (&str, &str, u32)> = HashMap::new();
    for document in context.documents {
        for block in document.prose() {
            for code in &block.codes {
                if let Some((option, value)) = advised(block, code.start, &block.text[code.clone()])
                {
                    let place = (value, document.name.as_str(), block.line_at(code.start));
                    advised_by.entry(option).or_insert(place);
                }
            }
        }
    }
    for document in context.documents.iter().filter(|_| !advised_by.is_empty()) {
        for command in commands(document) {
            for (option, values) in &command.options {
                let advice = advised_by.get(option);
                let (Some((value, file, line)), Some(other)) = (advice, values.first()) else {
                    continue;
                };
                if other != value {
                    let what = format!(
                        "the command has --{option} {other}, the advice is --{option} {value}"
                    );
                    let finding =
                        Finding::new(&document.name, command.line, "command-advice", what);
                    found.push(finding.beside(file, *line));
                }
            }
        }
    }
}

/// The option and value of `Use --option value instead`.
fn advised<'a>(block: &Block, at: usize, code: &'a str) -> Option<(&'a str, &'a str)> {
    let (option, value) = code.strip_prefix("--")?.split_once(' ')?;
    let sentence = block.sentence(at);
    let told = words::any(sentence, &["instead", "recommended", "always use"]);
    (told && !value.contains(' ')).then_some((option, value))
}

/// Words that say where results go.
const PLACES: &[&str] = &["drop", "save", "store", "collect", "put", "write", "go", "archive"];

/// A folder that the introduction names for all artifacts, and an output elsewhere.
pub(super) fn output(context: &Context, found: &mut Vec<Finding>) {
    for document in context.documents {
        let introduction = document.prose().filter(|block| {
            document.sections[block.section].level <= 1 && block.shape == Shape::Paragraph
        });
        let mut places = introduction.flat_map(|block| {
            block.codes.iter().filter_map(move |code| {
                let folder = block.text[code.clone()].strip_suffix('/')?;
                let told = words::any(block.sentence(code.start), PLACES);
                (told && !folder.contains(' ')).then(|| (folder, block.line_at(code.start)))
            })
        });
        let (Some((folder, told)), None) = (places.next(), places.next()) else { continue };
        for command in commands(document) {
            for (name, values) in &command.options {
                let writes = name.starts_with("out");
                let Some(path) = values.first().filter(|_| writes) else { continue };
                let inside =
                    path.starts_with(&format!("{folder}/")) || path.trim_end_matches('/') == folder;
                if inside || !path.contains('/') {
                    continue;
                }
                let what = format!("--{name} writes to {path}, the introduction wants {folder}/");
                let finding = Finding::new(&document.name, command.line, "command-output", what);
                found.push(finding.beside(&document.name, told));
            }
        }
    }
}
