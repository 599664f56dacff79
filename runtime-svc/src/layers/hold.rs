//! Who is about to use a layer: it is not taken away meanwhile.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_image::Digest;

use super::Layers;

/// Layers that are held, and which were held lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) counts: HashMap<Digest, usize>,
    /// Held since the last collection looked.
    pub(super) lately: HashSet<Digest>,
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
    layers: Vec<Digest>,
}

impl Layers {
    pub(super) fn hold(&self, layers: Vec<Digest>) -> Hold {
        let mut state = self.holds.lock();
        for layer in &layers {
            *state.counts.entry(layer.clone()).or_default() += 1;
            state.lately.insert(layer.clone());
        }
        drop(state);
        Hold {
            holds: self.holds.clone(),
            layers,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.holds.lock();
        for layer in &self.layers {
            if let Some(count) = state.counts.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.counts.remove(layer);
                }
            }
        }
    }
}
