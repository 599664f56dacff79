//! The same step asked for by several builds at once runs once: each waits for its turn by key, and who
//! comes second finds the record of who came first. When the first fails or is cancelled, the next does it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::cache::Key;

/// Whose turn it is. One per service.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<Key, Weak<Turn<()>>>>);

impl Turns {
    /// Waits until nobody else does the step of this key.
    pub async fn wait(&self, key: &Key) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turn| turn.strong_count() > 0);
            match all.get(key).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(Turn::new(()));
                    all.insert(key.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;

    #[tokio::test]
    async fn one_after_the_other_by_key() {
        let turns = Turns::default();
        let (a, b) = (KeyBuilder::new("a").finish(), KeyBuilder::new("b").finish());
        let first = turns.wait(&a).await;
        let _other = turns.wait(&b).await;
        let mut second = Box::pin(turns.wait(&a));
        tokio::select! {
            biased;
            _ = &mut second => panic!("it is not its turn"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        second.await;
    }
}
