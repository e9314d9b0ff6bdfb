//! SHA-256 in hex, the one digest of the project.

use sha2::{Digest, Sha256};

/// Lowercase hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
