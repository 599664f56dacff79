//! What happens on this host: told to those who listen, and remembered for those who ask later.

pub mod filter;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;

pub use filter::Filters;

/// Events that a slow listener may be behind before it loses some.
const BACKLOG: usize = 1024;
/// Events that are remembered (docker: 256).
const HISTORY: usize = 1024;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// `container`, ...
    pub kind: &'static str,
    /// `start`, `die`, ...
    pub action: String,
    /// To whom.
    pub id: String,
    /// Names and labels.
    pub attributes: HashMap<String, String>,
}

/// Where happenings are told.
#[derive(Debug)]
pub struct Events {
    listeners: broadcast::Sender<Arc<Happening>>,
    history: Mutex<VecDeque<Arc<Happening>>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            listeners: broadcast::Sender::new(BACKLOG),
            history: Mutex::default(),
        }
    }
}

impl Events {
    /// What was, oldest first, and what is from now on: nothing is missing between the two, and nothing
    /// in both.
    pub fn subscribe(&self) -> (Vec<Arc<Happening>>, broadcast::Receiver<Arc<Happening>>) {
        let history = self.lock();
        (
            history.iter().cloned().collect(),
            self.listeners.subscribe(),
        )
    }

    /// Tells all who listen.
    pub fn tell(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: HashMap<String, String>,
    ) {
        let happening = Arc::new(Happening {
            time: crate::monitor::now(),
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
        });
        let mut history = self.lock();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(happening.clone());
        // Nobody listens: nobody is to be told.
        let _ = self.listeners.send(happening);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Happening>>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_bounded_and_nothing_is_told_twice() {
        let events = Events::default();
        for n in 0..HISTORY + 10 {
            events.tell("container", "start", &n.to_string(), HashMap::new());
        }
        let (past, mut future) = events.subscribe();
        assert_eq!((past.len(), past[0].id.as_str()), (HISTORY, "10"));
        events.tell("container", "die", "x", HashMap::new());
        assert_eq!(future.try_recv().unwrap().id, "x");
        assert!(future.try_recv().is_err());
    }
}
