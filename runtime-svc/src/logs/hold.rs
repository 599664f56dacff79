//! What attached clients have still to read: the monitor keeps that, within bounds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// The readers of one container that must not lose anything.
#[derive(Debug, Clone, Default)]
pub struct Holds(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    positions: Mutex<(u64, BTreeMap<u64, u64>)>,
    oldest: watch::Sender<Option<u64>>,
    granted: watch::Sender<Option<u64>>,
}

impl Holds {
    /// A reader that begins here.
    pub fn take(&self, position: u64) -> Hold {
        let number = {
            let mut inner = self
                .0
                .positions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            inner.0 += 1;
            let number = inner.0;
            inner.1.insert(number, position);
            number
        };
        let hold = Hold {
            holds: self.clone(),
            number,
        };
        self.tell();
        hold
    }

    /// Changes of the first position that is needed.
    pub fn watch(&self) -> watch::Receiver<Option<u64>> {
        self.0.oldest.subscribe()
    }

    /// The monitor says what it keeps.
    pub fn granted(&self, position: Option<u64>) {
        self.0.granted.send_replace(position);
    }

    fn tell(&self) {
        let inner = self
            .0
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let oldest = inner.1.values().min().copied();
        self.0.oldest.send_if_modified(|now| {
            let changed = *now != oldest;
            *now = oldest;
            changed
        });
    }
}

/// One reader's; given back when it is dropped.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    number: u64,
}

impl Hold {
    /// Waits until the monitor has heard of it: what is written from then on is not lost.
    pub async fn granted(&self) {
        let own = {
            let positions = &self.holds.0.positions;
            let inner = positions.lock().unwrap_or_else(PoisonError::into_inner);
            inner.1.get(&self.number).copied().unwrap_or(u64::MAX)
        };
        let mut granted = self.holds.0.granted.subscribe();
        // The sender lives as long as we do.
        let _ = granted
            .wait_for(|position| position.is_some_and(|position| position <= own))
            .await;
    }

    /// It has read up to here.
    pub fn advance(&self, position: u64) {
        if let Some(own) = self
            .holds
            .0
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .get_mut(&self.number)
        {
            *own = position;
        }
        self.holds.tell();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds
            .0
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .remove(&self.number);
        self.holds.tell();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_slowest_reader_counts() {
        let holds = Holds::default();
        let watch = holds.watch();
        let (a, b) = (holds.take(10), holds.take(20));
        assert_eq!(*watch.borrow(), Some(10));
        a.advance(30);
        assert_eq!(*watch.borrow(), Some(20));
        drop(b);
        assert_eq!(*watch.borrow(), Some(30));
        drop(a);
        assert_eq!(*watch.borrow(), None);
    }

    #[tokio::test]
    async fn a_hold_counts_once_the_monitor_has_heard_of_it() {
        let holds = Holds::default();
        let hold = holds.take(10);
        // Looked at once, without a wait.
        let is_granted = async || {
            tokio::time::timeout(Duration::ZERO, hold.granted())
                .await
                .is_ok()
        };
        assert!(!is_granted().await);
        holds.granted(Some(20));
        assert!(!is_granted().await, "that was another's");
        holds.granted(Some(10));
        assert!(is_granted().await);
        holds.granted(None);
        assert!(!is_granted().await, "the container's next life");
    }
}
