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
/// Bytes of them. A container may have megabytes of labels, and each of its events tells all.
const MOST: usize = 8 << 20;

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
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    events: VecDeque<Arc<Happening>>,
    bytes: usize,
}

impl History {
    fn push(&mut self, event: Arc<Happening>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        // The last one stays, whatever its size.
        while self.events.len() > HISTORY || self.bytes > MOST && self.events.len() > 1 {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
    }
}

impl Happening {
    fn bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(k, v)| k.len() + v.len());
        self.action.len() + self.id.len() + attributes.sum::<usize>()
    }
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
            history.events.iter().cloned().collect(),
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
        history.push(happening.clone());
        // Nobody listens: nobody is to be told.
        let _ = self.listeners.send(happening);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, History> {
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

    #[test]
    fn long_labels_take_no_more_memory_than_short_ones() {
        let events = Events::default();
        for n in 0..20 {
            let labels = HashMap::from([("label".to_owned(), "x".repeat(1 << 20))]);
            events.tell("container", "start", &n.to_string(), labels);
        }
        let (past, _) = events.subscribe();
        assert_eq!((past.len(), past[6].id.as_str()), (7, "19"));
    }
}
