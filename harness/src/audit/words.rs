//! Words of a text: whole ones, stems, and what two phrases have in common.

use std::collections::BTreeSet;

/// True if the word stands in the text, alone or in the plural. Cases differ: names are written as
/// they are.
pub(crate) fn has(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        let before = text[..at].chars().next_back().is_some_and(inside);
        let after = text[at + word.len()..].strip_prefix('s').unwrap_or(&text[at + word.len()..]);
        !before && !after.starts_with(inside)
    })
}

/// True if one of the words stands in the text, cases alike. The words are lowercase ASCII; a `*` at
/// the end lets a word go on.
pub(crate) fn any(text: &str, words: &[&str]) -> bool {
    first(text, words).is_some()
}

/// The first of the words that stands in the text, and where.
pub(crate) fn first<'a>(text: &str, words: &[&'a str]) -> Option<(usize, &'a str)> {
    words.iter().find_map(|word| find(text, word).map(|at| (at, *word)))
}

/// Where the lowercase word stands in the text.
pub(crate) fn find(text: &str, word: &str) -> Option<usize> {
    let (stem, open) = word.strip_suffix('*').map_or((word, false), |stem| (stem, true));
    let (bytes, stem) = (text.as_bytes(), stem.as_bytes());
    let inside = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let (lower, upper) = (*stem.first()?, stem.first()?.to_ascii_uppercase());
    let mut from = 0;
    while from + stem.len() <= bytes.len() {
        let step = bytes[from..].iter().position(|byte| *byte == lower || *byte == upper)?;
        let at = from + step;
        let end = at + stem.len();
        if end <= bytes.len()
            && bytes[at..end].eq_ignore_ascii_case(stem)
            && (at == 0 || !inside(bytes.get(at - 1)) || !lower.is_ascii_alphanumeric())
            && (open || !inside(bytes.get(end)))
        {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Words without meaning of their own.
const STOP: &[&str] = &[
    "a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "is", "it", "of", "on", "or",
    "the", "to", "use", "using", "via", "when", "with", "x",
];

/// The words of a phrase that mean something: lowercase, split at `_` and punctuation.
pub(crate) fn tokens(text: &str) -> BTreeSet<String> {
    let split = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '='));
    let words = split.map(|word| word.trim_matches('-').to_lowercase());
    words.filter(|word| !word.is_empty() && !STOP.contains(&word.as_str())).collect()
}

/// A title without numbering, marks, brackets and case: `### 7. Memory (all)` is `memory`.
pub(crate) fn title(text: &str) -> String {
    let bare = text.split(['(', '[']).next().unwrap_or_default();
    let bare = bare.split(" - ").next().unwrap_or_default();
    let keep = |c: char| c.is_alphanumeric() || " -/&+.".contains(c);
    let kept: String = bare.chars().filter(|c| keep(*c)).collect();
    let kept = kept.trim().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('.');
    kept.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_and_cases_alike() {
        assert!(any("It Regressed.", &["regressed"]));
        assert!(!any("unregressed", &["regressed"]));
        assert!(any("quantised rows", &["quanti*"]));
        assert_eq!(first("a busbw b", &["algbw", "busbw"]), Some((2, "busbw")));
        assert!(any("it is >5%", &[">5%"]));
    }

    #[test]
    fn phrases_come_down_to_their_words() {
        let expect = ["diff", "fuse", "h=512", "update"].map(str::to_owned);
        assert_eq!(tokens("fuse diff + update for H=512"), expect.into());
        assert_eq!(title("11. Memory Profiling (all) - OPEN"), "memory profiling");
        assert_eq!(title("✅ Shadow Rendering"), "shadow rendering");
    }
}
