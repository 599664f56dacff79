//! What happens on this host, for those who listen.

use std::collections::HashMap;

use tokio::sync::broadcast;

/// Events that a slow listener may be behind before it loses some.
const BACKLOG: usize = 1024;

/// Something happened.
#[derive(Debug, Clone)]
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
pub struct Events(broadcast::Sender<Happening>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Events {
    /// From now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Happening> {
        self.0.subscribe()
    }

    /// Tells all who listen.
    pub fn tell(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: HashMap<String, String>,
    ) {
        let happening = Happening {
            time: crate::monitor::now(),
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
        };
        // Nobody listens: nobody is to be told.
        let _ = self.0.send(happening);
    }
}
