//! Generated parts of a Markdown file, between markers; prose outside of them stays as it is.
//!
//! `<!-- touchstone:begin NAME -->` and `<!-- touchstone:end NAME -->` stand alone in their lines. Prose may tick
//! boxes of its own, and none that cites evidence or names a claim: nothing would ever take that tick away.

use std::collections::BTreeSet;

const LEAD: &str = "<!-- touchstone:";

/// A generated part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Lowercase letters, digits and hyphens.
    pub name: String,
    /// The Markdown between the markers.
    pub text: String,
}

/// A piece of a file, in order.
enum Piece<'a> {
    /// Bytes that are not ours, and how many lines stand before them.
    Prose { text: &'a str, at: usize },
    /// The part with this index.
    Part(usize),
}

/// The file with every part replaced by what is generated now. A part that the file lacks comes
/// after the one before it; one that is generated no more goes. `Err` names file and line.
pub fn merge(file: &str, existing: Option<&str>, parts: &[Part]) -> Result<String, String> {
    check_parts(file, parts)?;
    let existing = existing.unwrap_or_default();
    let mut pieces = pieces(file, existing, parts)?;
    for piece in &pieces {
        let Piece::Prose { text, at } = piece else { continue };
        unticked(text).map_err(|(line, what)| format!("{file}:{}: {what}", at + line))?;
    }
    for index in 0..parts.len() {
        let position = |wanted: usize| {
            pieces.iter().position(|piece| matches!(piece, Piece::Part(part) if *part == wanted))
        };
        if position(index).is_some() {
            continue;
        }
        // The part before is there: parts are put in one after the other.
        let before = index.checked_sub(1).and_then(position);
        let first = pieces.iter().position(|piece| matches!(piece, Piece::Part(_)));
        match (before, first) {
            (Some(before), _) => {
                pieces.insert(before + 1, Piece::Part(index));
                pieces.insert(before + 1, BLANK);
            }
            (None, Some(first)) => {
                pieces.insert(first, BLANK);
                pieces.insert(first, Piece::Part(index));
            }
            (None, None) => pieces.push(Piece::Part(index)),
        }
    }
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Prose { text, .. } => out.push_str(text),
            Piece::Part(index) => push_part(&mut out, &parts[index]),
        }
    }
    Ok(out)
}

/// Between two parts that are put in.
const BLANK: Piece = Piece::Prose { text: "\n", at: 0 };

/// What makes an entry one of evidence: a digest, a file of it, the name of a claim.
const CITES: [&str; 3] = ["sha256:", "evidence/", "::"];

/// Refuses a ticked box that cites evidence, with its line, counted from 1. An entry goes on over lines that are
/// indented deeper than its own.
pub(crate) fn unticked(prose: &str) -> Result<(), (usize, String)> {
    let mut ticked: Option<(usize, usize)> = None;
    for (line, at) in prose.lines().zip(1..) {
        let entry = line.trim_start();
        let indent = line.len() - entry.len();
        if !entry.is_empty() && ticked.is_some_and(|(_, own)| indent <= own) {
            ticked = None;
        }
        if is_ticked(entry) && ticked.is_none() {
            ticked = Some((at, indent));
        }
        if let Some((begun, _)) = ticked
            && let Some(cited) = CITES.iter().find(|cited| line.contains(**cited))
        {
            let what = format!("a ticked box with {cited:?} stands outside of the generated parts");
            return Err((begun, what));
        }
    }
    Ok(())
}

/// `- [x]`, `* [X]`, `1. [x]`.
fn is_ticked(entry: &str) -> bool {
    let bare = entry.trim_start_matches(|c: char| c.is_ascii_digit());
    let bare = bare.strip_prefix(['-', '*', '+', '.', ')']).unwrap_or(bare).trim_start();
    bare.starts_with("[x]") || bare.starts_with("[X]")
}

fn push_part(out: &mut String, Part { name, text }: &Part) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    let text = text.trim_matches('\n');
    out.push_str(&format!("{LEAD}begin {name} -->\n\n{text}\n\n{LEAD}end {name} -->\n"));
}

fn check_parts(file: &str, parts: &[Part]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for part in parts {
        let name = &part.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("{file}: {name:?} is no name of a part"));
        }
        if !names.insert(name) {
            return Err(format!("{file}: two parts are called {name}"));
        }
        if part.text.contains(LEAD) {
            return Err(format!("{file}: the part {name} holds a marker"));
        }
    }
    Ok(())
}

/// Cuts a file at its markers. Parts that are generated no more are left out.
fn pieces<'a>(file: &str, text: &'a str, parts: &[Part]) -> Result<Vec<Piece<'a>>, String> {
    let mut pieces = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    let mut seen = BTreeSet::new();
    // Of the prose that comes next: its first byte, and the lines before it.
    let (mut start, mut begun) = (0, 0);
    let mut end = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let at = index + 1;
        let line_start = end;
        end += line.len();
        let Some(marker) = marker(line).map_err(|e| format!("{file}:{at}: {e}"))? else {
            continue;
        };
        match (marker, open) {
            (Marker::Begin(name), None) => {
                if !seen.insert(name) {
                    return Err(format!("{file}:{at}: a second part is called {name}"));
                }
                pieces.push(Piece::Prose { text: &text[start..line_start], at: begun });
                open = Some((name, at));
            }
            (Marker::End(name), Some((opened, _))) if name == opened => {
                let part = parts.iter().position(|part| part.name == name);
                pieces.extend(part.map(Piece::Part));
                open = None;
                (start, begun) = (end, at);
            }
            (Marker::Begin(name), Some((opened, line))) => {
                return Err(format!("{file}:{at}: {name} begins inside {opened} of line {line}"));
            }
            (Marker::End(name), Some((opened, line))) => {
                return Err(format!("{file}:{at}: {name} ends, {opened} of line {line} is open"));
            }
            (Marker::End(name), None) => {
                return Err(format!("{file}:{at}: {name} ends and never began"));
            }
        }
    }
    if let Some((name, line)) = open {
        return Err(format!("{file}:{line}: {name} begins and never ends"));
    }
    pieces.push(Piece::Prose { text: &text[start..], at: begun });
    Ok(pieces)
}

enum Marker<'a> {
    Begin(&'a str),
    End(&'a str),
}

/// The marker that a line is. `Err` where it holds something that only looks like one.
fn marker(line: &str) -> Result<Option<Marker<'_>>, String> {
    if !line.contains("touchstone:begin") && !line.contains("touchstone:end") {
        return Ok(None);
    }
    let words = line.trim().strip_prefix(LEAD).and_then(|rest| rest.strip_suffix(" -->"));
    match words.and_then(|words| words.split_once(' ')) {
        Some(("begin", name)) if !name.contains(' ') => Ok(Some(Marker::Begin(name))),
        Some(("end", name)) if !name.contains(' ') => Ok(Some(Marker::End(name))),
        _ => Err(format!("{:?} is no marker and looks like one", line.trim())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(name: &str, text: &str) -> Part {
        Part { name: name.to_owned(), text: text.to_owned() }
    }

    fn block(name: &str, text: &str) -> String {
        format!("<!-- touchstone:begin {name} -->\n\n{text}\n\n<!-- touchstone:end {name} -->\n")
    }

    #[track_caller]
    fn check(existing: Option<&str>, expect: &str) {
        let parts = [part("one", "1"), part("two", "2\n")];
        assert_eq!(merge("a.md", existing, &parts).as_deref(), Ok(expect));
        assert_eq!(merge("a.md", Some(expect), &parts).as_deref(), Ok(expect));
    }

    #[track_caller]
    fn check_error(existing: &str, expect: &str) {
        assert_eq!(merge("a.md", Some(existing), &[part("one", "1")]), Err(expect.to_owned()));
    }

    #[test]
    fn parts_are_replaced_and_prose_stays() {
        let (one, two) = (block("one", "1"), block("two", "2"));
        check(None, &format!("{one}\n{two}"));
        let prose = "Mine.\r\n\n";
        let old =
            format!("{prose}{}middle\n{}end", block("one", "old"), block("two", "- [x] hand"));
        check(Some(&old), &format!("{prose}{one}middle\n{two}end"));
        check(Some("only prose"), &format!("only prose\n{one}\n{two}"));
        check(Some(&format!("a\n{two}b\n")), &format!("a\n{one}\n{two}b\n"));
        check(Some(&format!("a\n{one}b\n")), &format!("a\n{one}\n{two}b\n"));
        let gone = format!("{one}a\n{}b\n{two}", block("gone", "- [x] old tick"));
        check(Some(&gone), &format!("{one}a\nb\n{two}"));
    }

    #[test]
    fn broken_markers_name_file_and_line() {
        check_error("a\n<!-- touchstone:begin one -->\n", "a.md:2: one begins and never ends");
        check_error("<!-- touchstone:end one -->\n", "a.md:1: one ends and never began");
        check_error(
            "<!-- touchstone:begin one -->\n<!-- touchstone:begin two -->\n",
            "a.md:2: two begins inside one of line 1",
        );
        check_error(
            "<!-- touchstone:begin one -->\n<!-- touchstone:end two -->\n",
            "a.md:2: two ends, one of line 1 is open",
        );
        check_error(
            &format!("{}{}", block("one", "1"), block("one", "1")),
            "a.md:6: a second part is called one",
        );
        check_error(
            "x <!-- touchstone:begin one -->",
            "a.md:1: \"x <!-- touchstone:begin one -->\" is no marker and looks like one",
        );
    }

    #[test]
    fn parts_that_would_break_a_file_are_refused() {
        let refused = |parts: &[Part]| merge("a.md", None, parts).unwrap_err();
        assert!(refused(&[part("a b", "")]).contains("no name of a part"));
        assert!(refused(&[part("a", ""), part("a", "")]).contains("two parts are called a"));
        assert!(refused(&[part("a", &block("b", ""))]).contains("holds a marker"));
    }

    #[test]
    fn a_tick_that_cites_evidence_stands_in_a_generated_part() {
        let check = |prose: &str, line: usize, cited: &str| {
            let existing = format!("# A\n\n{}\n{prose}", block("one", "- [x] a::b"));
            let what = format!("a ticked box with {cited:?} stands outside of the generated parts");
            check_error(&existing, &format!("a.md:{}: {what}", 8 + line));
        };
        check("- [x] fast, evidence [sha256:0123](evidence/a.json)\n", 1, "sha256:");
        check("text\n\n* [X] fast\n  said of (evidence/a.json)\n", 3, "evidence/");
        check("1. [x] a\n\n   still of it: suite::fast\n", 1, "::");
        check("- a list\n  - [x] within suite::fast\n", 2, "::");
        check("- [x] a\n  - [x] suite::b\n", 1, "::");
        let merged = |prose: &str| merge("a.md", Some(prose), &[part("one", "- [x] a::b")]).is_ok();
        assert!(merged("- [x] a task of my own\n\nEvidence lies in evidence/, see suite::fast.\n"));
        assert!(merged("- [x] a task\n- of evidence/ and a::b\n- [ ] sha256:01 is to be told\n"));
        // A quotation shows how a line is read.
        assert!(merged("> - [x] suite::fast\n"));
        assert!(!merged("- [x] suite::fast\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_121),
            ..ProptestConfig::default()
        })]

        #[test]
        fn merging_again_changes_nothing_and_prose_survives(
            prose in proptest::collection::vec("[a-z \n\r\u{e4}<>!-]{0,30}", 4),
            old in proptest::collection::vec(any::<bool>(), 3),
            new in proptest::collection::vec((any::<bool>(), "[a-z|\n]{0,20}"), 3),
        ) {
            let mut existing = prose[0].clone();
            for (index, _) in old.iter().enumerate().filter(|(_, there)| **there) {
                if !existing.is_empty() && !existing.ends_with('\n') {
                    existing.push('\n');
                }
                existing += &block(&format!("p{index}"), "old text of the part");
                existing += &prose[index + 1];
            }
            let parts: Vec<Part> = new
                .iter()
                .enumerate()
                .filter(|(_, (there, _))| *there)
                .map(|(index, (_, text))| part(&format!("p{index}"), text))
                .collect();
            let once = merge("a.md", Some(&existing), &parts).unwrap();
            prop_assert_eq!(merge("a.md", Some(&once), &parts).unwrap(), once.clone());
            prop_assert!(!once.contains("old text of the part"));
            // Without markers and what stands between them, the words are those from before.
            let words = |text: &str| -> String {
                let mut inside = false;
                let lines = text.lines().filter(|line| {
                    let (begin, end) = (line.contains("touchstone:begin"), line.contains("touchstone:end"));
                    inside = (inside || begin) && !end;
                    !inside && !begin && !end
                });
                lines.collect::<String>().split_whitespace().collect()
            };
            prop_assert_eq!(words(&once), words(&existing));
        }
    }
}
