//! Pieces of blobs that are in memory on their way through, of all clients together. Whoever reads or sends slowly has
//! his until he took it, or until there is enough for a write, and there may be a thousand of those. When there are too
//! many, each takes little.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of all pieces, about.
const ALL: usize = 8 << 20;

/// Bytes that each may take however many there are.
pub const SMALL: usize = 16 << 10;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// What one has; given back when it is dropped.
#[derive(Default)]
pub struct InHand(usize);

impl InHand {
    /// Has so many bytes more.
    pub fn add(&mut self, bytes: usize) {
        self.0 += bytes;
        HELD.fetch_add(bytes, Relaxed);
    }

    /// Bytes that it has.
    pub const fn bytes(&self) -> usize {
        self.0
    }

    /// Bytes that it may have now, where `much` is as good as more.
    pub fn most(&self, much: usize) -> usize {
        let others = HELD.load(Relaxed) - self.0;
        much.min(ALL.saturating_sub(others).max(SMALL))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_little_when_there_are_many() {
        let mut one = InHand::default();
        one.add(SMALL);
        assert_eq!(one.most(ALL / 4), ALL / 4);
        assert_eq!(one.most(5), 5);
        let mut others = InHand::default();
        others.add(ALL);
        assert_eq!(one.most(ALL / 4), SMALL);
        assert_eq!(one.most(5), 5);
        assert_eq!(one.bytes(), SMALL);
        drop(others);
        assert_eq!(one.most(ALL / 4), ALL / 4);
    }
}
