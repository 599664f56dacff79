//! Who uses which record: what running builds count on, and when each was last found.
//!
//! In memory: after a restart a record was last used when it was made, and no build runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::RwLock;

/// Most records whose use is remembered.
const MOST: usize = 100_000;

/// All uses. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Uses(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    of: Mutex<HashMap<String, Use>>,
    /// Read while a build looks for a record, written while one is removed: who found a record has it.
    pub removing: RwLock<()>,
}

/// The use of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// When it was last found or made.
    pub last: Option<SystemTime>,
    /// How often it was found.
    pub count: u64,
    /// Builds that count on it.
    pub holders: u32,
}

/// What one build counts on; given back when dropped.
#[derive(Debug)]
pub struct Held {
    uses: Uses,
    keys: Mutex<Vec<String>>,
}

impl Uses {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Use>> {
        self.0.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a build.
    pub fn held(&self) -> Held {
        Held {
            uses: self.clone(),
            keys: Mutex::default(),
        }
    }

    /// The use of a key.
    pub fn of(&self, key: &str) -> Use {
        self.lock().get(key).copied().unwrap_or_default()
    }

    /// Nobody removes a record while this is held.
    pub async fn looking(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.0.removing.read().await
    }

    /// Nobody finds a record while this is held.
    pub async fn removing(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.0.removing.write().await
    }

    /// A record is gone.
    pub fn forget(&self, key: &str) {
        self.lock().remove(key);
    }
}

impl Held {
    /// The build counts on a record from now on.
    pub fn hold(&self, key: &str) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.uses.lock();
        if all.len() >= MOST {
            all.retain(|_, u| u.holders > 0);
        }
        let one = all.entry(key.to_owned()).or_default();
        one.holders += 1;
        one.last = Some(SystemTime::now());
        keys.push(key.to_owned());
    }

    /// The build has found a record.
    pub fn found(&self, key: &str) {
        if let Some(one) = self.uses.lock().get_mut(key) {
            one.count += 1;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let keys = self.keys.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.uses.lock();
        for key in keys.drain(..) {
            if let Some(one) = all.get_mut(&key) {
                one.holders = one.holders.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_holds_is_given_back() {
        let uses = Uses::default();
        let (one, two) = (uses.held(), uses.held());
        one.hold("a");
        two.hold("a");
        two.found("a");
        assert_eq!((uses.of("a").holders, uses.of("a").count), (2, 1));
        drop(one);
        assert_eq!(uses.of("a").holders, 1);
        drop(two);
        assert_eq!(uses.of("a").holders, 0);
        assert!(uses.of("a").last.is_some());
        assert_eq!(uses.of("b"), Use::default());
    }
}
