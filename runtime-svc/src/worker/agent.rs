//! `RUN --mount=type=ssh`: a socket in the step behind which the caller's ssh agent is.
//!
//! The protocol is the agent's own (draft-ietf-sshm-ssh-agent): a length, then a message. Only what BuildKit
//! lets pass does: listing keys and signing with them (session/sshforward/sshprovider/agentprovider.go);
//! everything else is answered with a failure here and never leaves the host.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

/// The socket's name.
pub const NAME: &str = "agent";
/// Longest message (OpenSSH's MAX_AGENT_REPLY_LEN and AGENT_MAX_LEN).
pub const LONGEST: usize = 256 << 10;
/// Connections of one step at the same time.
const CONNECTIONS: usize = 16;
/// Questions that wait for the caller.
pub const QUESTIONS: usize = 16;
/// How long an answer may take: somebody may have to confirm it with a finger.
const PATIENCE: Duration = Duration::from_secs(300);

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// Something that is asked of an agent.
#[derive(Debug)]
pub struct Question {
    /// Which agent.
    pub agent: String,
    /// The message, without its length.
    pub message: Vec<u8>,
    /// Where the answer goes; dropped = there is none.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// Where questions go.
pub type Ask = mpsc::Sender<Question>;

/// A socket that is listened on; closed when dropped, with all connections.
#[derive(Debug)]
pub struct Agent(JoinHandle<()>);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens in a folder that may be mounted nowhere.
pub fn listen(folder: &OwnedFd, agent: String, ask: Ask) -> io::Result<Agent> {
    let path = format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd());
    let listener = UnixListener::bind(path)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    Ok(Agent(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = stream else { return };
            let (agent, ask) = (agent.clone(), ask.clone());
            connections.spawn(async move {
                let _slot = slot;
                // One that breaks off is its own affair.
                let _ = serve(stream, &agent, &ask).await;
            });
        }
    })))
}

async fn serve(mut stream: UnixStream, agent: &str, ask: &Ask) -> io::Result<()> {
    loop {
        let length = stream.read_u32().await? as usize;
        if length == 0 || length > LONGEST {
            return Ok(());
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        let reply = match passes(&message) {
            true => forward(agent, message, ask).await,
            false => None,
        };
        let reply = reply.filter(|r| !r.is_empty() && r.len() <= LONGEST);
        let reply = reply.unwrap_or_else(|| vec![FAILURE]);
        stream.write_u32(reply.len() as u32).await?;
        stream.write_all(&reply).await?;
    }
}

async fn forward(agent: &str, message: Vec<u8>, ask: &Ask) -> Option<Vec<u8>> {
    let (answer, answered) = oneshot::channel();
    let question = Question {
        agent: agent.to_owned(),
        message,
        answer,
    };
    ask.send(question).await.ok()?;
    tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
}

/// Whether a message only reads.
pub fn passes(message: &[u8]) -> bool {
    matches!(message.first(), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(stream: &mut UnixStream, message: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_u32(message.len() as u32).await?;
        stream.write_all(message).await?;
        let mut reply = vec![0; stream.read_u32().await? as usize];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    }

    #[tokio::test]
    async fn only_lists_and_signatures_pass() {
        let folder = tempfile::tempdir().unwrap();
        let opened = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let (ask, mut questions) = mpsc::channel::<Question>(QUESTIONS);
        let agent = listen(&opened, "default".to_owned(), ask).unwrap();
        let answering = tokio::spawn(async move {
            let mut kinds = Vec::new();
            while let Some(question) = questions.recv().await {
                kinds.push(question.message[0]);
                let _ = question.answer.send(vec![12, 0, 0, 0, 0]);
            }
            kinds
        });
        let path = folder.path().join(NAME);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let list = asked(&mut stream, &[REQUEST_IDENTITIES]).await.unwrap();
        assert_eq!(list, [12, 0, 0, 0, 0]);
        // Add, remove, remove all, lock, extensions.
        for kind in [17_u8, 18, 19, 22, 25, 27, 0, 255] {
            assert_eq!(asked(&mut stream, &[kind, 1]).await.unwrap(), [FAILURE]);
        }
        assert_eq!(asked(&mut stream, &[SIGN_REQUEST]).await.unwrap()[0], 12);
        let mut other = UnixStream::connect(&path).await.unwrap();
        other.write_u32(u32::MAX).await.unwrap();
        assert!(other.read_u32().await.is_err());
        drop((agent, stream));
        assert_eq!(answering.await.unwrap(), [REQUEST_IDENTITIES, SIGN_REQUEST]);
    }
}
