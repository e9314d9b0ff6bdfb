//! What many runs say alike, held once.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Values among which an equal one is looked for: the machines and the software of a while. Beyond them a value is
/// held for itself, so that looking stays short.
const LATEST: usize = 64;

/// A value whose copies share their memory, such as the GPUs of a run. Whoever changes a copy has it for himself.
#[derive(Clone, PartialEq)]
pub struct Shared<T>(Arc<T>);

impl<T: Clone + PartialEq> Shared<T> {
    /// Becomes a copy of an equal one among the latest that are `held`, or is held from now on.
    pub fn hold_once(&mut self, held: &mut Vec<Shared<T>>) {
        match held.iter().rev().take(LATEST).find(|other| *other == self) {
            Some(other) => *self = other.clone(),
            None => held.push(self.clone()),
        }
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Shared<T> {
        Shared(Arc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Shared<T>, D::Error> {
        T::deserialize(from).map(Shared::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_held_once_until_one_is_changed() {
        let mut held = Vec::new();
        let mut lists = [vec!["a"], vec!["b"], vec!["a"]].map(Shared::from);
        lists.iter_mut().for_each(|list| list.hold_once(&mut held));
        assert_eq!(held.len(), 2);
        assert!(Arc::ptr_eq(&lists[0].0, &lists[2].0));
        lists[2].push("c");
        assert_eq!((&*lists[0], &*lists[2]), (&vec!["a"], &vec!["a", "c"]));
    }

    #[test]
    fn a_shared_value_is_written_as_itself() {
        let text = r#"["--gpus","1"]"#;
        let list: Shared<Vec<String>> = serde_json::from_str(text).expect("a list");
        assert_eq!(serde_json::to_string(&list).expect("text"), text);
    }
}
