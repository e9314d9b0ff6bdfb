//! SHA-256 in hex, the one digest of the project.

use sha2::{Digest, Sha256};

/// Lowercase hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first twelve digits, as reports print them.
pub fn short(hex: &str) -> &str {
    hex.get(..12).unwrap_or(hex)
}
