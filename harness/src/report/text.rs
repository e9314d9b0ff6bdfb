//! Text from elsewhere made safe: no terminal escapes, no bytes that XML 1.0 forbids, one line.

/// Longest reason in a line of the terminal.
const LINE_CHARS: usize = 200;

/// Without ANSI escapes and control characters; `\r\n` and `\r` become `\n`. What is left is made
/// of characters that XML 1.0 allows.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(length) = escape_length(rest) {
            rest = &rest[length..];
            continue;
        }
        rest = &rest[first.len_utf8()..];
        match first {
            '\r' if rest.starts_with('\n') => {}
            '\r' => out.push('\n'),
            '\n' | '\t' => out.push(first),
            '\u{fffe}' | '\u{ffff}' => {}
            _ if first.is_control() => {}
            _ => out.push(first),
        }
    }
    out
}

/// Length of the ANSI escape at the start of the text. An escape that does not end is none: only
/// its first byte is dropped, so that no text vanishes with it.
fn escape_length(text: &str) -> Option<usize> {
    let (body, lead) = match text.strip_prefix('\u{1b}') {
        Some(rest) => match rest.chars().next()? {
            '[' => (&rest[1..], 2),
            ']' => return string_length(&rest[1..]).map(|length| length + 2),
            second if second.is_ascii_graphic() => return Some(2),
            _ => return None,
        },
        None => (text.strip_prefix('\u{9b}')?, '\u{9b}'.len_utf8()),
    };
    let end = body.find(|c: char| !matches!(c, '\u{20}'..='\u{3f}'))?;
    matches!(body.as_bytes()[end], b'@'..=b'~').then_some(lead + end + 1)
}

/// Length of an operating system command up to and with its end: BEL or `ESC \`. It stays in its
/// line.
fn string_length(body: &str) -> Option<usize> {
    let end = body.find(['\u{7}', '\u{1b}', '\n'])?;
    if body[end..].starts_with('\u{7}') {
        return Some(end + 1);
    }
    body[end..].starts_with("\u{1b}\\").then_some(end + 2)
}

/// Clean and in one line: every run of white space is one space.
pub(crate) fn one_line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One line for a terminal, cut where it is too long for one.
pub(crate) fn short_line(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// One line of Markdown: nothing in it opens a comment, a tag, emphasis or a table cell.
pub(crate) fn markdown(text: &str) -> String {
    let line = one_line(text);
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        // `<=` opens nothing and stays readable.
        let opens = |next: &char| next.is_alphabetic() || matches!(next, '!' | '/' | '?');
        match c {
            '<' if chars.peek().is_some_and(opens) => out.push_str("&lt;"),
            '*' | '|' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(clean(text), expect);
    }

    #[test]
    fn escapes_go_and_text_stays() {
        check("plain \u{e4} \u{1f600}\ttab\nline", "plain \u{e4} \u{1f600}\ttab\nline");
        check("\u{1b}[1;31mFAILED\u{1b}[0m", "FAILED");
        check("\u{9b}31mred", "red");
        check("\u{1b}]0;title\u{7}after", "after");
        check("\u{1b}]8;;url\u{1b}\\link", "link");
        check("\u{1b}cafter", "after");
        check("a\r\nb\rc", "a\nb\nc");
        check("nul\0 bell\u{7} del\u{7f} \u{fffe}\u{ffff}.", "nul bell del .");
    }

    #[test]
    fn an_escape_without_end_takes_no_text_with_it() {
        check("\u{1b}[31", "[31");
        check("\u{1b}]title never ends", "]title never ends");
        check("\u{1b}[31\u{e4}", "[31\u{e4}");
        check("\u{1b}", "");
        check("\u{1b}\u{e4}", "\u{e4}");
    }

    #[test]
    fn markdown_opens_nothing() {
        assert_eq!(markdown("a|b *c* <= <!-- d\n- [x] e"), "a\\|b \\*c\\* <= &lt;!-- d - [x] e");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let line = short_line(&"\u{e4}".repeat(300));
        assert_eq!(line.chars().count(), LINE_CHARS + 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_121),
            ..ProptestConfig::default()
        })]

        #[test]
        fn text_without_control_characters_survives(text in "[^\\p{Cc}\u{fffe}\u{ffff}]{0,80}") {
            prop_assert_eq!(clean(&text), text);
        }

        #[test]
        fn what_is_left_is_allowed_in_xml(text in any::<String>()) {
            let allowed = |c: char| matches!(c, '\t' | '\n' | '\u{20}'..='\u{fffd}' | '\u{10000}'..);
            prop_assert!(clean(&text).chars().all(allowed));
        }
    }
}
