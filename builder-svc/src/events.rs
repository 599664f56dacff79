//! What a build tells while it goes on.

use std::time::{Duration, SystemTime};

use slipway_image::Digest;
use tokio::sync::mpsc;

/// Something that the caller is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Content that is lacking.
    Need(Vec<Digest>),
    /// No content will be asked for any more.
    NeedNoMore,
    /// A step began or ended.
    Step(Step),
    /// Output of a step.
    Log {
        /// Which.
        index: u32,
        /// It is standard error.
        stderr: bool,
        /// Bytes.
        data: bytes::Bytes,
    },
    /// Something worth saying that is no error.
    Warning {
        /// Name of the rule.
        rule: &'static str,
        /// A sentence.
        message: String,
        /// Line of the Dockerfile, 0 = none.
        line: u32,
    },
}

/// A step's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Number within the build, from 1.
    pub index: u32,
    /// `[build 2/5] RUN make`
    pub name: String,
    /// What happened.
    pub state: State,
    /// When it began.
    pub started: SystemTime,
}

/// What happened to a step.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It began.
    Started,
    /// Its result was there already.
    Cached,
    /// It is done.
    Done(Duration),
    /// It failed: a sentence.
    Failed(Duration, String),
}

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// Into a channel.
    pub const fn new(sender: mpsc::Sender<Event>) -> Self {
        Self(sender)
    }

    /// Tells something; waits while the caller is slow.
    pub async fn tell(&self, event: Event) {
        // A caller that went away cancels the build elsewhere.
        let _ = self.0.send(event).await;
    }
}
