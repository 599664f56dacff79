//! What happened to images, for whoever listens, in docker's vocabulary. A listener that is too slow
//! loses the oldest; nobody waits for it.

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

/// See the module's page.
pub struct Events {
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(256).0,
        }
    }
}

impl Events {
    /// Tells everybody who listens.
    pub fn tell(&self, action: &'static str, id: impl Into<String>, name: impl Into<String>) {
        // An error means that nobody listens.
        let _ = self.sender.send(Event {
            at: now(),
            action,
            id: id.into(),
            name: name.into(),
        });
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}
