//! SHA-256, the one digest of the project.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::Digest as _;

/// A digest as it is held in memory: 32 bytes. Wherever it is written it has 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256(sha2::Sha256::digest(bytes).into())
    }
}

impl FromStr for Sha256 {
    type Err = String;

    /// The error names a text that [`is_sha256`] denies.
    fn from_str(text: &str) -> Result<Sha256, String> {
        let none = || format!("{text:?} is no SHA-256");
        if !is_sha256(text) {
            return Err(none());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| none())?;
        }
        Ok(Sha256(bytes))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Of each claim for each file that it is judged by: at once, and not digit by digit.
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]));
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Lowercase hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::of(bytes).to_string()
}

/// SHA-256 of no bytes at all.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// 64 lower-case hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A digest that a file can have which holds something: not of nothing, and not one digit 64 times.
pub fn is_of_something(text: &str) -> bool {
    let bytes = text.as_bytes();
    is_sha256(text) && text != OF_NOTHING && bytes.iter().any(|byte| *byte != bytes[0])
}

/// The first twelve digits, as reports print them.
pub fn short(hex: &str) -> &str {
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_printed_with_twelve_digits() {
        assert_eq!(short(OF_NOTHING), "e3b0c44298fc");
        assert_eq!(short("e3b0"), "e3b0");
    }

    #[test]
    fn a_digest_reads_back_as_it_is_written_and_nothing_else_is_one() {
        let digest = Sha256::of(b"");
        assert_eq!(digest.to_string(), OF_NOTHING);
        assert_eq!(OF_NOTHING.parse(), Ok(digest));
        assert_eq!(serde_json::to_string(&digest).expect("text"), format!("\"{OF_NOTHING}\""));
        let (upper, long) = (OF_NOTHING.to_uppercase(), format!("{OF_NOTHING}0"));
        let signs = "+1".repeat(32);
        for text in ["", "e3b0", &OF_NOTHING[1..], &upper, &long, &signs] {
            let refused = text.parse::<Sha256>().expect_err(text);
            assert_eq!(refused, format!("{text:?} is no SHA-256"));
        }
    }

    #[test]
    fn a_digest_is_of_something() {
        assert_eq!(sha256_hex(b""), OF_NOTHING);
        assert!(is_of_something(&sha256_hex(b"touchstone")));
        let short = &sha256_hex(b"touchstone")[1..];
        let upper = sha256_hex(b"touchstone").to_uppercase();
        for text in ["", "0", OF_NOTHING, &"0".repeat(64), &"f".repeat(64), short, &upper] {
            assert!(!is_of_something(text), "{text}");
        }
    }
}
