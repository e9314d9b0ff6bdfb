//! Text of a child as it may leave the machine: no control bytes, no paths, no host name, no UUID.

use std::path::{Path, PathBuf};

/// What is replaced in everything that a child or the runner says.
#[derive(Debug, Default, Clone)]
pub struct Redactor {
    /// Folders and what stands for them.
    pub paths: Vec<(PathBuf, String)>,
    /// Words (host names, UUIDs) and what stands for them.
    pub words: Vec<(String, String)>,
}

impl Redactor {
    /// Replaces the folders, then the words, then cuts every absolute path that is left to its
    /// last component.
    pub fn apply(&self, text: &str) -> String {
        let paths: Vec<(&Path, &str)> =
            self.paths.iter().map(|(path, with)| (path.as_path(), with.as_str())).collect();
        let mut text = redact(text, &paths);
        for (word, with) in &self.words {
            text = replace_whole(&text, word, with, is_word);
        }
        shorten_paths(&text)
    }

    /// Adds the name of this host, in its full and its short form.
    pub fn hide_host(&mut self) {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim();
        let short = name.split('.').next().unwrap_or_default();
        for form in [name, short] {
            if form.len() > 1 && form != "localhost" {
                self.words.push((form.to_owned(), "<host>".to_owned()));
            }
        }
    }
}

/// Replaces each path, and what lies below it, by its stand-in: the longest path first, and only
/// where a component ends.
pub fn redact(text: &str, paths: &[(&Path, &str)]) -> String {
    let mut paths: Vec<(&str, &str)> =
        paths.iter().filter_map(|(path, with)| Some((path.to_str()?, *with))).collect();
    paths.retain(|(path, _)| path.len() > 1);
    paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    let mut text = text.to_owned();
    for (path, with) in paths {
        text = replace_whole(&text, path.trim_end_matches('/'), with, is_component);
    }
    text
}

/// Replaces `what` where neither neighbour would make it longer.
fn replace_whole(text: &str, what: &str, with: &str, longer: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(what).filter(|_| !what.is_empty()) {
        let (before, found) = rest.split_at(at);
        let after = &found[what.len()..];
        let last = before.chars().next_back().or_else(|| out.chars().next_back());
        let is_whole = !last.is_some_and(longer) && !after.chars().next().is_some_and(longer);
        out.push_str(before);
        out.push_str(if is_whole { with } else { what });
        rest = after;
    }
    out + rest
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_component(c: char) -> bool {
    c.is_alphanumeric() || "_-+@%".contains(c)
}

fn is_path(c: char) -> bool {
    is_component(c) || "./~".contains(c)
}

/// `/usr/lib/libnccl.so.2` becomes `.../libnccl.so.2`.
fn shorten_paths(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let end = found.find(|c| !is_path(c)).unwrap_or(found.len());
        let (path, after) = found.split_at(end);
        let begins = !out.chars().next_back().is_some_and(|c| is_path(c) || ">})".contains(c));
        let is_absolute = begins && path.len() > 1 && !path.starts_with("//");
        match path.trim_end_matches('/').rsplit_once('/') {
            Some((_, last)) if is_absolute => {
                out.push_str(".../");
                out.push_str(last);
            }
            _ => out.push_str(path),
        }
        rest = after;
    }
    out + rest
}

/// Bytes as text that is safe in a terminal, JSON, XML and Markdown: no ANSI sequences, no control
/// characters but newline and tab, no direction marks.
pub fn safe(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => out.push(c),
            _ if c.is_control() || is_invisible(c) => {}
            _ => out.push(c),
        }
    }
    out
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Skips the rest of an escape sequence: CSI to its final byte, OSC to BEL or ST on its line, any
/// other to its next character.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars>) {
    match chars.next_if(|c| *c != '\n') {
        Some('[') => {
            while let Some(c) = chars.next_if(|c| (' '..='~').contains(c)) {
                if ('@'..='~').contains(&c) {
                    break;
                }
            }
        }
        Some(']') => {
            while let Some(c) = chars.next_if(|c| *c != '\n') {
                if c == '\u{7}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_redact(text: &str, expect: &str) {
        let paths = [
            (Path::new("/home/ada"), "~"),
            (Path::new("/home/ada/touchstone/"), "<root>"),
            (Path::new("/"), "nothing"),
        ];
        assert_eq!(redact(text, &paths), expect);
    }

    #[test]
    fn the_longest_folder_is_replaced_where_a_component_ends() {
        check_redact("at /home/ada/touchstone/a.rs:1", "at <root>/a.rs:1");
        check_redact("at /home/ada/other/a.rs", "at ~/other/a.rs");
        check_redact("'/home/ada'", "'~'");
        check_redact("/home/adam/x", "/home/adam/x");
        check_redact("/home/ada-2/x", "/home/ada-2/x");
        check_redact("LD=/home/ada:/home/ada/lib", "LD=~:~/lib");
    }

    #[track_caller]
    fn check_apply(text: &str, expect: &str) {
        let words = [("node7", "<host>"), ("GPU-12ab", "gpu3")];
        let redactor = Redactor {
            paths: vec![("/home/ada".into(), "<home>".into())],
            words: words.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec(),
        };
        assert_eq!(redactor.apply(text), expect);
    }

    #[test]
    fn nothing_names_the_machine() {
        check_apply("node7: GPU-12ab fell off", "<host>: gpu3 fell off");
        check_apply("node77 mynode7", "node77 mynode7");
        check_apply("/home/ada/lib/x.so", "<home>/lib/x.so");
        check_apply("open /usr/lib/x/libnccl.so.2: no", "open .../libnccl.so.2: no");
        check_apply(
            "3.1 GB/s, 2 / 3, a/b, http://x.org/y/z",
            "3.1 GB/s, 2 / 3, a/b, http://x.org/y/z",
        );
        check_apply("cd /srv/", "cd .../srv");
    }

    #[track_caller]
    fn check_safe(bytes: &[u8], expect: &str) {
        assert_eq!(safe(bytes), expect);
    }

    #[test]
    fn text_is_safe() {
        check_safe(b"\x1b[1;31mred\x1b[0m\ttab\r\nnext\rover", "red\ttab\nnext\nover");
        check_safe(
            b"\x1b]0;title\x07text\x1b]8;;url\x1b\\link\x1b]never ends\nnext",
            "textlink\nnext",
        );
        check_safe(b"a\x00b\x08c\x7f", "abc");
        check_safe(b"\xff\xfeok\x1b", "\u{fffd}\u{fffd}ok");
        check_safe("x\u{202e}y".as_bytes(), "xy");
        check_safe("\u{1b}[3é".as_bytes(), "é");
    }
}
