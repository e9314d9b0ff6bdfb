//! Keys as files: 64 hexadecimal digits, read by their owner alone, and the public half beside them.

use std::path::{Path, PathBuf};

use ed25519_dalek::{SigningKey, VerifyingKey};

use super::AttestError;
use crate::digest::sha256_hex;
use crate::files;

/// Makes a key: `path` (64 hexadecimal digits, read by its owner alone) and `path.pub`.
///
/// Errors: [`AttestError::Key`] where one of the files is there already.
pub fn make_key(path: &Path) -> Result<String, AttestError> {
    let mut seed = [0u8; 32];
    let refused = |why: String| AttestError::Key { path: path.display().to_string(), why };
    getrandom::fill(&mut seed).map_err(|why| refused(why.to_string()))?;
    let public = public_file(path);
    for file in [path, &public] {
        if file.exists() {
            return Err(AttestError::Key {
                path: file.display().to_string(),
                why: "is there already: a key is never overwritten".into(),
            });
        }
    }
    let key = SigningKey::from_bytes(&seed);
    write_secret(path, &format!("{}\n", hex(&seed))).map_err(refused)?;
    let text = format!("{}\n", hex(key.verifying_key().as_bytes()));
    files::write(&public, text.as_bytes()).map_err(AttestError::Read)?;
    Ok(key_id(&key.verifying_key()))
}

pub(super) fn public_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Writes a file that only its owner reads.
fn write_secret(path: &Path, text: &str) -> Result<(), String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut open = std::fs::OpenOptions::new();
    let mut file =
        open.write(true).create_new(true).mode(0o600).open(path).map_err(|e| e.to_string())?;
    file.write_all(text.as_bytes()).map_err(|e| e.to_string())
}

/// The 32 bytes of a key's text.
fn key_bytes(name: &str, text: &str) -> Result<[u8; 32], AttestError> {
    let refused = || AttestError::Key {
        path: name.to_owned(),
        why: "is no key: 64 hexadecimal digits".into(),
    };
    let text = text.trim();
    if text.len() != 64 || !text.is_ascii() {
        return Err(refused());
    }
    let mut bytes = [0u8; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| refused())?;
    }
    Ok(bytes)
}

/// A signing key by its text; `name` is its file or variable.
pub fn signing_key(name: &str, text: &str) -> Result<SigningKey, AttestError> {
    Ok(SigningKey::from_bytes(&key_bytes(name, text)?))
}

/// A public key by its text.
pub fn public_key(name: &str, text: &str) -> Result<VerifyingKey, AttestError> {
    VerifyingKey::from_bytes(&key_bytes(name, text)?).map_err(|_| AttestError::Key {
        path: name.to_owned(),
        why: "is no ed25519 public key".into(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn key_id(key: &VerifyingKey) -> String {
    sha256_hex(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let id = make_key(&path).expect("made");
        let text = |path: &Path| std::fs::read_to_string(path).expect("there");
        let own = signing_key("key", &text(&path)).expect("a key");
        let public = public_key("key.pub", &text(&public_file(&path))).expect("a key");
        assert_eq!((own.verifying_key(), key_id(&public)), (public, id));
        assert!(make_key(&path).is_err_and(|error| error.to_string().contains("already")));
        assert!(signing_key("short", "12").is_err());
        assert!(signing_key("no-digits", &"zz".repeat(32)).is_err());
    }
}
