//! What a build tells while it goes on.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use slipway_image::{Digest, Platform};
use tokio::sync::mpsc;

use crate::error::Result;

/// Something that the caller is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The manifest of this context, which was offered and is not known.
    NeedManifest(String),
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
    /// Other builds that hear the output too.
    audience: Option<Arc<Audience>>,
}

/// Where events go as long as somebody else has them go there: a build's events end with the build.
#[derive(Debug, Clone)]
pub struct WeakEvents(mpsc::WeakSender<Event>);

impl WeakEvents {
    /// Tells it, if the build still goes on.
    pub async fn tell(&self, event: Event) {
        if let Some(sender) = self.0.upgrade() {
            // Who hears is gone when the call is.
            let _ = sender.send(event).await;
        }
    }
}

/// Builds that wait for a step of another one.
#[derive(Debug, Default)]
pub struct Audience(Mutex<Vec<Weak<Listener>>>);

/// A build that waits; until it is dropped.
#[derive(Debug)]
pub struct Listener {
    events: Events,
    index: u32,
}

impl Audience {
    /// Joins it; what is heard is output of step `index`.
    pub fn join(&self, events: &Events, index: u32) -> Arc<Listener> {
        let listener = Arc::new(Listener {
            events: events.clone(),
            index,
        });
        self.lock().push(Arc::downgrade(&listener));
        listener
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Listener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes output on. Who is too slow for it misses some: nobody else waits for them.
    fn hear(&self, stderr: bool, data: &bytes::Bytes) {
        self.lock().retain(|listener| {
            let Some(listener) = listener.upgrade() else {
                return false;
            };
            let heard = Event::Log {
                index: listener.index,
                stderr,
                data: data.clone(),
            };
            let _ = listener.events.sender.try_send(heard);
            true
        });
    }
}

impl Events {
    /// Into a channel.
    pub const fn new(sender: mpsc::Sender<Event>) -> Self {
        Self {
            sender,
            platform: None,
            audience: None,
        }
    }

    /// The same for somebody who outlives the build.
    pub fn downgrade(&self) -> WeakEvents {
        WeakEvents(self.sender.downgrade())
    }

    /// The same, for the steps of one platform of several: `[linux/arm64 build 2/5] RUN make`.
    pub fn for_platform(&self, platform: Option<&Platform>) -> Self {
        Self {
            sender: self.sender.clone(),
            platform: platform.map(ToString::to_string),
            audience: None,
        }
    }

    /// The same, with output that others hear too.
    pub fn heard_by(&self, audience: Arc<Audience>) -> Self {
        Self {
            audience: Some(audience),
            ..self.clone()
        }
    }

    /// Does something as a step of its own, with a number and a name.
    pub async fn step<T>(
        &self,
        (index, name): (u32, String),
        doing: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut step = Step {
            index,
            name,
            state: State::Started,
            started: SystemTime::now(),
        };
        self.tell(Event::Step(step.clone())).await;
        let begun = Instant::now();
        let done = doing.await;
        step.state = match &done {
            Ok(_) => State::Done(begun.elapsed()),
            Err(error) => State::Failed(begun.elapsed(), error.to_string()),
        };
        self.tell(Event::Step(step)).await;
        done
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
        if let (Event::Log { stderr, data, .. }, Some(audience)) = (&event, &self.audience) {
            audience.hear(*stderr, data);
        }
        // A caller that went away cancels the build elsewhere.
        let _ = self.sender.send(event).await;
    }
}
