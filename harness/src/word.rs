//! Words that stand in thousands of manifests, held once.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most words that are held once: beyond them each is held for itself, so that nobody's file fills the memory.
const MOST: usize = 4096;

static HELD: LazyLock<Mutex<HashSet<Word>>> = LazyLock::new(Mutex::default);

/// A text that is equal to others in many places, such as a case's id: copies share their memory. Its length
/// lies with the text, so that a place takes one pointer and not two.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(Arc<Box<str>>);

impl From<&str> for Word {
    fn from(text: &str) -> Word {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = held.get(text) {
            return word.clone();
        }
        let word = Word(Arc::new(text.into()));
        if held.len() < MOST {
            held.insert(word.clone());
        }
        word
    }
}

impl From<String> for Word {
    fn from(text: String) -> Word {
        text.as_str().into()
    }
}

impl Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Word {
    fn borrow(&self) -> &str {
        self
    }
}

impl AsRef<Path> for Word {
    fn as_ref(&self) -> &Path {
        Path::new(&**self)
    }
}

impl PartialEq<str> for Word {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Word {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl PartialEq<Word> for String {
    fn eq(&self, other: &Word) -> bool {
        **self == **other
    }
}

impl PartialEq<Word> for &str {
    fn eq(&self, other: &Word) -> bool {
        **self == **other
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
        Ok(String::deserialize(from)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_share_their_memory() {
        let (one, other) = (Word::from("env::probe"), Word::from("env::probe".to_owned()));
        assert!(Arc::ptr_eq(&one.0, &other.0));
        assert_eq!(one, "env::probe");
        assert_ne!(one, Word::from("env::prob"));
        assert_eq!(format!("{one} {one:?}"), "env::probe \"env::probe\"");
    }

    #[test]
    fn a_word_is_written_as_its_text() {
        let word = Word::from("a \"b\"");
        let text = serde_json::to_string(&word).expect("text");
        assert_eq!(text, r#""a \"b\"""#);
        assert_eq!(serde_json::from_str::<Word>(&text).expect("a word"), word);
    }
}
