//! What only the caller has: secrets and ssh agents. They are asked for when a step wants them, and not kept.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    events::{Event, Events},
};

/// Most bytes of a secret (BuildKit, session/secrets/secrets.go).
pub const LARGEST_SECRET: usize = 500 << 10;
/// Longest message of an ssh agent (OpenSSH, AGENT_MAX_LEN).
pub const LONGEST_AGENT_MESSAGE: usize = 256 << 10;

/// Bytes that are overwritten when they are dropped, and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes in.
    pub fn new(data: &[u8]) -> Self {
        Self(Zeroizing::new(data.to_vec()))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, for a message.
    pub fn into_bytes(self) -> bytes::Bytes {
        bytes::Bytes::from_owner(self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

type Waiting<T> = oneshot::Sender<std::result::Result<T, String>>;

/// The caller of one build.
pub struct Caller {
    secrets: BTreeSet<String>,
    agents: BTreeSet<String>,
    events: Events,
    /// What it has been asked, and not answered yet.
    pub asked: Arc<Asked>,
}

/// Questions that wait for the caller. Who takes its answers in holds this alone: a build's events end with
/// the build.
#[derive(Default)]
pub struct Asked(Mutex<State>);

#[derive(Default)]
struct State {
    secrets: HashMap<String, Vec<Waiting<Secret>>>,
    answers: HashMap<u64, Waiting<Vec<u8>>>,
    next: u64,
    closed: bool,
}

impl Caller {
    /// Who offers secrets and agents of these names.
    pub fn new(
        secrets: impl IntoIterator<Item = String>,
        agents: impl IntoIterator<Item = String>,
        events: Events,
    ) -> Self {
        Self {
            secrets: secrets.into_iter().collect(),
            agents: agents.into_iter().collect(),
            events,
            asked: Arc::default(),
        }
    }

    /// A secret; none when the caller offers none of this name.
    pub async fn secret(&self, id: &str) -> Result<Option<Secret>> {
        if !self.secrets.contains(id) {
            return Ok(None);
        }
        let (send, receive) = oneshot::channel();
        let first = {
            let mut state = self.asked.lock();
            if state.closed {
                return Err(gone("secret", id));
            }
            let waiting = state.secrets.entry(id.to_owned()).or_default();
            waiting.push(send);
            waiting.len() == 1
        };
        if first {
            self.events.tell(Event::NeedSecret(id.to_owned())).await;
        }
        match receive.await {
            Ok(Ok(secret)) => Ok(Some(secret)),
            Ok(Err(why)) => Err(Error::Context(format!("secret {id}: {why}"))),
            Err(_) => Err(gone("secret", id)),
        }
    }

    /// Whether the caller offers an ssh agent of this name.
    pub fn has_agent(&self, name: &str) -> bool {
        self.agents.contains(name)
    }

    /// Forwards a message to an agent; none when it does not answer.
    pub async fn ask_agent(&self, agent: &str, message: bytes::Bytes) -> Option<Vec<u8>> {
        if !self.has_agent(agent) || message.len() > LONGEST_AGENT_MESSAGE {
            return None;
        }
        let (send, receive) = oneshot::channel();
        let number = {
            let mut state = self.asked.lock();
            if state.closed {
                return None;
            }
            state.next += 1;
            let number = state.next;
            state.answers.retain(|_, waiting| !waiting.is_closed());
            state.answers.insert(number, send);
            number
        };
        let question = Event::AskAgent {
            number,
            agent: agent.to_owned(),
            message,
        };
        self.events.tell(question).await;
        receive.await.ok()?.ok()
    }
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A secret has come, or cannot come. One that nobody asked for is dropped.
    pub fn secret_came(&self, id: &str, came: std::result::Result<&[u8], String>) {
        let came = came.and_then(|data| match data.len() {
            0..=LARGEST_SECRET => Ok(Secret::new(data)),
            size => Err(format!(
                "it has {size} bytes, and the most is {LARGEST_SECRET}"
            )),
        });
        for waiting in self.lock().secrets.remove(id).unwrap_or_default() {
            // The step may be gone.
            let _ = waiting.send(came.clone());
        }
    }

    /// An agent has answered.
    pub fn agent_answered(&self, number: u64, message: Vec<u8>) {
        if let Some(waiting) = self.lock().answers.remove(&number) {
            // The step may be gone.
            let _ = waiting.send(Ok(message));
        }
    }

    /// The caller sends no more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.secrets.clear();
        state.answers.clear();
    }
}

fn gone(what: &str, id: &str) -> Error {
    Error::Context(format!(
        "the caller ended before it had sent the {what} {id}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_asked_for_once_and_kept_by_nobody() {
        let (tell, mut told) = tokio::sync::mpsc::channel(8);
        let caller = Arc::new(Caller::new(["a".to_owned()], [], Events::new(tell)));
        assert_eq!(caller.secret("b").await.unwrap(), None);
        let asking: Vec<_> = (0..2)
            .map(|_| {
                let caller = caller.clone();
                tokio::spawn(async move { caller.secret("a").await })
            })
            .collect();
        let asked = told.recv().await.unwrap();
        assert_eq!(asked, Event::NeedSecret("a".to_owned()));
        while caller.asked.lock().secrets["a"].len() < 2 {
            tokio::task::yield_now().await;
        }
        caller.asked.secret_came("a", Ok(b"canary"));
        for one in asking {
            let secret = one.await.unwrap().unwrap().unwrap();
            assert_eq!(secret.bytes(), b"canary");
            assert_eq!(format!("{secret:?}"), "[secret]");
        }
        assert!(told.try_recv().is_err());
        let again = tokio::spawn({
            let caller = caller.clone();
            async move { caller.secret("a").await }
        });
        told.recv().await.unwrap();
        caller.asked.secret_came("a", Ok(&[0; LARGEST_SECRET + 1]));
        assert!(again.await.unwrap().is_err());
        caller.asked.close();
        assert!(caller.secret("a").await.is_err());
    }
}
