//! What a build tells while it goes on.

use std::time::{Duration, SystemTime};

use slipway_image::{Digest, Platform};
use tokio::sync::mpsc;

/// Something that the caller is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Content that is lacking.
    Need(Vec<Digest>),
    /// No content will be asked for any more.
    NeedNoMore,
    /// A secret that a step wants.
    NeedSecret(String),
    /// Something that a step asks an ssh agent.
    AskAgent {
        /// For the answer.
        number: u64,
        /// Which agent.
        agent: String,
        /// The agent protocol's message, without its length.
        message: bytes::Bytes,
    },
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
    /// A piece of an output that goes to the caller.
    Output {
        /// Which of the caller's outputs, from 0.
        output: u32,
        /// Bytes.
        data: bytes::Bytes,
        /// It is complete.
        last: bool,
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
pub struct Events {
    sender: mpsc::Sender<Event>,
    /// Stands in the names of steps, where several platforms are built.
    platform: Option<String>,
}

impl Events {
    /// Into a channel.
    pub const fn new(sender: mpsc::Sender<Event>) -> Self {
        Self {
            sender,
            platform: None,
        }
    }

    /// The same, for the steps of one platform of several: `[linux/arm64 build 2/5] RUN make`.
    pub fn for_platform(&self, platform: Option<&Platform>) -> Self {
        Self {
            sender: self.sender.clone(),
            platform: platform.map(ToString::to_string),
        }
    }

    /// Tells what a check found.
    pub async fn advise(&self, found: Vec<slipway_dockerfile::lint::Warning>) {
        for warning in found {
            let event = Event::Warning {
                rule: warning.rule.name,
                message: warning.message,
                line: warning.place.first,
            };
            self.tell(event).await;
        }
    }

    /// Tells something; waits while the caller is slow.
    pub async fn tell(&self, mut event: Event) {
        if let (Event::Step(step), Some(platform)) = (&mut event, &self.platform)
            && let Some(rest) = step.name.strip_prefix('[')
        {
            step.name = format!("[{platform} {rest}");
        }
        // A caller that went away cancels the build elsewhere.
        let _ = self.sender.send(event).await;
    }
}
