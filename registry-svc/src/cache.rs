//! Small content in memory: what was asked for lately, within a budget of bytes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use slipway_image::Digest;

/// See the module's page. It says nothing of who may see what is in it, nor whether a manifest still names that: who
/// asks has looked before.
pub struct Cache {
    budget: usize,
    inner: Mutex<Inner>,
}

/// Two generations: what is in use is in the young one. When that is half of the budget it becomes the old one, and
/// what nobody asked for since the last time goes.
#[derive(Default)]
struct Inner {
    young: HashMap<Digest, Bytes>,
    /// Bytes of the young ones.
    size: usize,
    old: HashMap<Digest, Bytes>,
}

impl Cache {
    /// Of at most so many bytes.
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            inner: Mutex::default(),
        }
    }

    /// Content, if it is in memory.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        let mut inner = self.inner();
        if let Some(content) = inner.young.get(digest) {
            return Some(content.clone());
        }
        let content = inner.old.remove(digest)?;
        self.add(&mut inner, digest, content.clone());
        Some(content)
    }

    /// Keeps content, unless it is so large that there would be room for little else.
    pub fn put(&self, digest: &Digest, content: &Bytes) {
        if content.len() <= self.budget / 8 {
            self.add(&mut self.inner(), digest, content.clone());
        }
    }

    /// Forgets content.
    pub fn remove(&self, digest: &Digest) {
        let mut inner = self.inner();
        if let Some(content) = inner.young.remove(digest) {
            inner.size -= content.len();
        }
        inner.old.remove(digest);
    }

    fn add(&self, inner: &mut Inner, digest: &Digest, content: Bytes) {
        if inner.size + content.len() > self.budget / 2 {
            inner.old = std::mem::take(&mut inner.young);
            inner.size = 0;
        }
        inner.size += content.len();
        // The same content under the same name: it counts once.
        if let Some(before) = inner.young.insert(digest.clone(), content) {
            inner.size -= before.len();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_and_the_budget_is_kept() {
        let cache = Cache::new(800);
        let content = |number: u8| Bytes::from(vec![number; 50]);
        let name = |number: u8| Digest::of(content(number));
        for number in 0..100 {
            cache.put(&name(number), &content(number));
            cache.put(&name(number), &content(number));
            assert_eq!(cache.get(&name(0)), Some(content(0)), "{number}");
            let inner = cache.inner();
            let all = inner.young.values().chain(inner.old.values());
            assert!(all.map(Bytes::len).sum::<usize>() <= 800);
            let young: usize = inner.young.values().map(Bytes::len).sum();
            assert_eq!(young, inner.size);
        }
        assert_eq!(cache.get(&name(99)), Some(content(99)));
        assert_eq!(cache.get(&name(50)), None);
        cache.remove(&name(0));
        assert_eq!(cache.get(&name(0)), None);
        let large = Bytes::from(vec![1; 101]);
        cache.put(&Digest::of(&large), &large);
        assert_eq!(cache.get(&Digest::of(&large)), None);
    }
}
