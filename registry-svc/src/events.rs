//! What happened to images, for whoever listens, in docker's vocabulary. A listener that is too slow
//! loses the oldest; nobody waits for it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::registry::now;

/// Something happened to an image.
#[derive(Debug, Clone)]
pub struct Event {
    /// Unix milliseconds.
    pub at: u64,
    /// `pull`, `push`, `tag`, `untag`, `delete`.
    pub action: &'static str,
    /// Image id or digest.
    pub id: String,
    /// Name as people write it, "" when there is none.
    pub name: String,
}

/// Events that are remembered for those who ask about the past.
const HISTORY: usize = 256;

/// See the module's page.
pub struct Events {
    sender: broadcast::Sender<Event>,
    history: Mutex<VecDeque<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(HISTORY).0,
            history: Mutex::default(),
        }
    }
}

impl Events {
    /// Tells everybody who listens.
    pub fn tell(&self, action: &'static str, id: impl Into<String>, name: impl Into<String>) {
        let event = Event {
            at: now(),
            action,
            id: id.into(),
            name: name.into(),
        };
        let mut history = self.history();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(event.clone());
        // An error means that nobody listens.
        let _ = self.sender.send(event);
    }

    /// What is remembered from `since` (Unix milliseconds) on, and what comes from now on: nothing is
    /// lost or doubled between the two.
    pub fn listen(&self, since: Option<u64>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.history();
        let past = history
            .iter()
            .filter(|event| since.is_some_and(|since| event.at >= since))
            .cloned()
            .collect();
        (past, self.sender.subscribe())
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_and_the_future_fit_together() {
        let events = Events::default();
        events.tell("tag", "a", "");
        let (past, mut future) = events.listen(Some(0));
        events.tell("untag", "b", "");
        assert_eq!(past.iter().map(|e| e.action).collect::<Vec<_>>(), ["tag"]);
        assert_eq!(future.try_recv().unwrap().action, "untag");
        assert!(events.listen(None).0.is_empty());
    }
}
