//! Cache keys: a hash of everything that a step's result depends on, and of nothing else. No time,
//! no name of a host, no order of arrival.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Changes whenever the same inputs would be built differently.
const VERSION: &str = "1";

/// A key. As text it is a valid tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects the parts of a key. Every part has its length in front: no two lists of parts look alike.
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// Begins a key of a kind of step.
    pub fn new(kind: &str) -> Self {
        let mut builder = Self(Sha256::new());
        builder.part(VERSION).part(kind);
        builder
    }

    /// Adds a part.
    pub fn part(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds a list of parts.
    pub fn list<T: AsRef<[u8]>>(&mut self, parts: &[T]) -> &mut Self {
        self.number(parts.len() as u64);
        for part in parts {
            self.part(part);
        }
        self
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.part(number.to_le_bytes())
    }

    /// The key.
    pub fn finish(&self) -> Key {
        Key(hex::encode(self.0.clone().finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |parts: &[&[&str]]| {
            let mut builder = KeyBuilder::new("x");
            for list in parts {
                builder.list(list);
            }
            builder.finish()
        };
        assert_eq!(key(&[&["a", "b"]]), key(&[&["a", "b"]]));
        assert_ne!(key(&[&["ab"]]), key(&[&["a", "b"]]));
        assert_ne!(key(&[&["a"], &["b"]]), key(&[&["a", "b"], &[]]));
        assert_eq!(key(&[]).to_string().len(), 64);
    }
}
