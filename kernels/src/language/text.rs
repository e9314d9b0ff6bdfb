//! A text as tokens, in documents of one length that are cut into windows.
//!
//! A model sees a window at a time; each token but a document's first is foretold from those before it in the
//! window, so a window's last position foretells the next window's first token.

use super::NO_TARGET;
use crate::{Error, Result};

/// Tokens of whole documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    tokens: Vec<u32>,
    document: u32,
    window: u32,
}

impl Text {
    /// Every byte a token. What is left behind the last whole document is left out.
    ///
    /// Errors: those of [`Text::new`], a byte outside of the vocabulary with its offset.
    pub fn of_bytes(bytes: &[u8], vocab: u32, lengths: (u32, u32)) -> Result<Text> {
        Text::new(bytes.iter().map(|&byte| byte.into()).collect(), vocab, lengths, 1)
    }

    /// Every two bytes a token, the low one first.
    ///
    /// Errors: as [`Text::of_bytes`], and an odd number of bytes.
    pub fn of_words(bytes: &[u8], vocab: u32, lengths: (u32, u32)) -> Result<Text> {
        if !bytes.len().is_multiple_of(2) {
            let what = format!("tokens of two bytes: the last of {} bytes is alone", bytes.len());
            return Err(Error::Shape { what });
        }
        let tokens =
            bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]).into());
        Text::new(tokens.collect(), vocab, lengths, 2)
    }

    fn new(
        mut tokens: Vec<u32>,
        vocab: u32,
        (document, window): (u32, u32),
        width: usize,
    ) -> Result<Text> {
        let refused = |what: String| Err(Error::Shape { what });
        if window < 2 || !document.is_multiple_of(window.max(1)) || document == 0 {
            return refused(format!("documents of {document} tokens in windows of {window}"));
        }
        if let Some(at) = tokens.iter().position(|&token| token >= vocab) {
            let what = format!(
                "token {} at byte {}: outside of a vocabulary of {vocab}",
                tokens[at],
                at * width
            );
            return refused(what);
        }
        let whole = tokens.len() / document as usize * document as usize;
        if whole == 0 {
            return refused(format!("{} tokens are no whole document of {document}", tokens.len()));
        }
        tokens.truncate(whole);
        Ok(Text { tokens, document, window })
    }

    /// Tokens of a document, and of a window.
    pub fn lengths(&self) -> (u32, u32) {
        (self.document, self.window)
    }

    /// The documents, each as long as the others.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.document as usize)
    }
}

/// What each position of a document foretells: the token `ahead` places on, [`NO_TARGET`] where there is none. 1 is
/// language modelling; another number is a planted fault.
pub fn targets(document: &[u32], ahead: usize) -> Vec<u32> {
    let last = document.len().saturating_sub(ahead);
    let target = |at: usize| if at < last { document[at + ahead] } else { NO_TARGET };
    (0..document.len()).map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Result<Text>, expect: &str) {
        let error = found.expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn documents_are_whole() {
        let text = Text::of_bytes(b"abcdefghij", 256, (4, 2)).expect("text");
        let documents: Vec<&[u32]> = text.documents().collect();
        assert_eq!(documents, [[97, 98, 99, 100], [101, 102, 103, 104]]);
        assert_eq!(targets(documents[0], 1), [98, 99, 100, NO_TARGET]);
        assert_eq!(targets(documents[0], 2), [99, 100, NO_TARGET, NO_TARGET]);
        let words = Text::of_words(&[1, 0, 2, 1], 300, (2, 2)).expect("text");
        assert_eq!(words.tokens, [1, 258]);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        check(
            Text::of_bytes(&[1, 200], 128, (2, 2)),
            "token 200 at byte 1: outside of a vocabulary of 128",
        );
        check(
            Text::of_words(&[1, 0, 2, 1], 256, (2, 2)),
            "token 258 at byte 2: outside of a vocabulary of 256",
        );
        check(Text::of_words(&[1, 0, 2], 256, (2, 2)), "the last of 3 bytes is alone");
        check(Text::of_bytes(b"abc", 256, (4, 2)), "3 tokens are no whole document of 4");
        check(Text::of_bytes(b"abc", 256, (3, 2)), "documents of 3 tokens in windows of 2");
        check(Text::of_bytes(b"abc", 256, (3, 0)), "in windows of 0");
    }
}
