//! What a child prints, in bounded memory: its first and last bytes and its last stage.

use std::collections::VecDeque;
use std::time::Instant;

use super::redact::{Redactor, safe};
use crate::record::PROGRESS;

/// Bytes kept from the beginning of a log: the first error is often there.
pub const HEAD_BYTES: usize = 4 * 1024;

/// Bytes kept from the end of a log.
pub const TAIL_BYTES: usize = 12 * 1024;

/// Longest stage that is kept of a progress line.
const STAGE_BYTES: usize = 256;

/// A log of any length in [`HEAD_BYTES`] + [`TAIL_BYTES`].
#[derive(Debug, Default, Clone)]
pub struct Log {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    line: Vec<u8>,
    progress: Option<(String, Instant)>,
}

impl Log {
    /// Takes what was printed at `now`.
    pub fn push(&mut self, bytes: &[u8], now: Instant) {
        self.total += bytes.len() as u64;
        let room = HEAD_BYTES - self.head.len();
        self.head.extend(&bytes[..bytes.len().min(room)]);
        let kept = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.tail.len() + kept.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.tail.extend(kept);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.push_line(piece, now);
        }
    }

    fn push_line(&mut self, piece: &[u8], now: Instant) {
        let room = PROGRESS.len() + STAGE_BYTES - self.line.len();
        let text = piece.strip_suffix(b"\n");
        let body = text.unwrap_or(piece);
        self.line.extend(&body[..body.len().min(room)]);
        if text.is_some() {
            if let Some(stage) = self.line.strip_prefix(PROGRESS.as_bytes()) {
                self.progress = Some((safe(stage).trim().to_owned(), now));
            }
            self.line.clear();
        }
    }

    /// The last stage that the child reported, and when it came.
    pub fn progress(&self) -> Option<(&str, Instant)> {
        self.progress.as_ref().map(|(stage, at)| (stage.as_str(), *at))
    }

    /// Bytes printed so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes held in memory, never more than head, tail and one line.
    pub fn held(&self) -> usize {
        self.head.len() + self.tail.len() + self.line.len()
    }

    /// The log as safe, redacted text of at most `limit` bytes: a quarter from its beginning, the
    /// rest from its end. It is redacted before it is cut, so that no cut shows half a path.
    pub fn excerpt(&self, limit: usize, redactor: &Redactor) -> String {
        let raw: Vec<u8> = self.tail.iter().copied().collect();
        if self.total <= TAIL_BYTES as u64 {
            let text = redactor.apply(&safe(&raw));
            if text.len() <= limit {
                return text;
            }
            return join(&text, &text, limit, None);
        }
        let whole_lines = raw.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let tail = redactor.apply(&safe(&raw[whole_lines..]));
        join(&redactor.apply(&safe(&self.head)), &tail, limit, Some(self.total))
    }
}

fn join(head: &str, tail: &str, limit: usize, total: Option<u64>) -> String {
    let mark = match total {
        Some(total) => format!("\n[... cut from {total} bytes ...]\n"),
        None => "\n[... cut ...]\n".to_owned(),
    };
    let room = limit.saturating_sub(mark.len());
    let first = &head[..head.floor_char_boundary(room / 4)];
    let rest = room - first.len();
    let last = &tail[tail.ceil_char_boundary(tail.len().saturating_sub(rest))..];
    format!("{first}{mark}{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(pieces: &[&[u8]]) -> Log {
        let mut log = Log::default();
        for piece in pieces {
            log.push(piece, Instant::now());
        }
        log
    }

    #[track_caller]
    fn check(pieces: &[&[u8]], stage: Option<&str>) {
        assert_eq!(log_of(pieces).progress().map(|(stage, _)| stage), stage);
    }

    #[test]
    fn progress_is_the_last_whole_line_that_says_so() {
        check(&[b"hello\n"], None);
        check(&[b"::progress one\nnoise\n::progress two\n"], Some("two"));
        check(&[b"::prog", b"ress tw", b"o\n"], Some("two"));
        check(&[b"::progress one\n::progress tw"], Some("one"));
        check(&[b"a ::progress one\n"], None);
        check(&[b"::progress \x1b[31mred\x1b[0m\n"], Some("red"));
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut line = PROGRESS.as_bytes().to_vec();
        line.extend([b'x'; 100_000]);
        line.push(b'\n');
        check(&[&line, b"::progress next\n"], Some("next"));
        assert_eq!(log_of(&[&line]).progress().unwrap().0.len(), STAGE_BYTES);
    }

    #[test]
    fn memory_is_bounded_and_both_ends_are_kept() {
        let mut log = log_of(&[b"first words\n"]);
        for _ in 0..1000 {
            log.push(&[b'x'; 10_000], Instant::now());
        }
        log.push(b"\nlast words\n", Instant::now());
        assert!(log.held() <= HEAD_BYTES + TAIL_BYTES + PROGRESS.len() + STAGE_BYTES);
        let text = log.excerpt(4096, &Redactor::default());
        assert!(text.len() <= 4096, "{}", text.len());
        assert!(text.starts_with("first words\n"));
        assert!(text.contains("cut from 10000024 bytes"), "{text}");
        assert!(text.ends_with("\nlast words\n"));
    }

    #[test]
    fn a_short_log_is_whole() {
        let log = log_of(&[b"one\n", b"two\n"]);
        assert_eq!(log.excerpt(4096, &Redactor::default()), "one\ntwo\n");
        let long = log_of(&["é".repeat(5000).as_bytes()]);
        assert!(long.excerpt(4096, &Redactor::default()).len() <= 4096);
    }
}
