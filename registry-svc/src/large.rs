//! Turns for large manifests: few are in memory at once, whatever is asked for at once.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a manifest from which on it needs a turn.
pub const LARGE: usize = 64 << 10;

/// Turns of a kind at once.
pub const TURNS: usize = 8;

/// A turn, until it is dropped.
pub type Turn = OwnedSemaphorePermit;

/// See the module's page. Whoever has a turn of one kind may wait for one of a kind further down, never up.
pub struct Large {
    /// To be received over HTTP, and put.
    arriving: Arc<Semaphore>,
    /// To be parsed, which takes many times the size.
    parsing: Arc<Semaphore>,
    /// To be read and checked.
    reading: Arc<Semaphore>,
    /// To be listed, until the list is sent.
    listing: Arc<Semaphore>,
}

impl Default for Large {
    fn default() -> Self {
        Self {
            arriving: Arc::new(Semaphore::new(TURNS)),
            parsing: Arc::new(Semaphore::new(2)),
            reading: Arc::new(Semaphore::new(TURNS)),
            listing: Arc::new(Semaphore::new(TURNS)),
        }
    }
}

impl Large {
    /// Waits until one more may be received.
    pub async fn arrive(&self) -> Turn {
        turn(&self.arriving).await
    }

    /// Waits until one more may be parsed.
    pub async fn parse(&self) -> Turn {
        turn(&self.parsing).await
    }

    /// Waits until one more may be read.
    pub async fn read(&self) -> Turn {
        turn(&self.reading).await
    }

    /// Waits until one more list may be made.
    pub async fn list(&self) -> Turn {
        turn(&self.listing).await
    }
}

/// What somebody has a turn for as long as there is any of it.
struct Held(
    String,
    #[expect(dead_code, reason = "given back when it is dropped")] Turn,
);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A text that has its turn until it is sent, if it is large.
pub fn hold(text: String, turn: Turn) -> Bytes {
    match text.len() > LARGE {
        true => Bytes::from_owner(Held(text, turn)),
        false => text.into(),
    }
}

async fn turn(turns: &Arc<Semaphore>) -> Turn {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.expect("nobody closes it")
}
