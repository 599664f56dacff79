//! Who is about to use layers: they are not taken away meanwhile.
//!
//! A hold is what any work with layers has, a container that is being made as well as a snapshot of a
//! build. It lives in memory: with the service ends what it did with them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use slipway_image::Digest;

use super::Layers;

/// Who holds layers, as an operator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A container that is being made.
    Container(String),
    /// A snapshot; its lease says for whom.
    Snapshot(String),
}

/// A hold, as an operator is told.
#[derive(Debug, Clone)]
pub struct Held {
    /// Who has it.
    pub holder: Holder,
    /// Since when.
    pub since: SystemTime,
    /// Which layers.
    pub layers: Vec<Digest>,
}

/// Layers that are held, and which were held lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) counts: HashMap<Digest, usize>,
    /// Held since the last collection looked.
    pub(super) lately: HashSet<Digest>,
    all: BTreeMap<u64, Held>,
    next: u64,
}

impl Holds {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds layers while it lives.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Holds,
    number: u64,
}

impl Layers {
    pub(super) fn hold(&self, holder: Holder, layers: Vec<Digest>) -> Hold {
        let mut state = self.holds.lock();
        for layer in &layers {
            *state.counts.entry(layer.clone()).or_default() += 1;
            state.lately.insert(layer.clone());
        }
        let number = state.next;
        state.next += 1;
        let held = Held {
            holder,
            since: SystemTime::now(),
            layers,
        };
        state.all.insert(number, held);
        drop(state);
        Hold {
            holds: self.holds.clone(),
            number,
        }
    }

    /// Everybody who holds layers now, oldest first.
    pub fn held(&self) -> Vec<Held> {
        self.holds.lock().all.values().cloned().collect()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.lock();
        for layer in state
            .all
            .remove(&self.number)
            .into_iter()
            .flat_map(|h| h.layers)
        {
            if let Some(count) = state.counts.get_mut(&layer) {
                *count -= 1;
                if *count == 0 {
                    state.counts.remove(&layer);
                }
            }
        }
    }
}
