//! A connection to a host, and what runs there for us: git-upload-pack.

use std::{
    net::{Shutdown, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use russh::{
    Channel, ChannelMsg, Preferred, SshId,
    client::{self, Config, Handle, Msg},
    keys::Algorithm,
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Hosts, SshUrl, agent,
    doorman::{Doorman, Refused},
};
use crate::{
    caller::Caller,
    context::fetch::{CONNECT, Limits},
};

/// Bytes of what it says of its errors that are told.
const SAID: usize = 2000;

/// git-upload-pack at a host. Dropped, it is hung up on.
pub struct Process {
    channel: Channel<Msg>,
    /// What it says of its errors.
    said: Vec<u8>,
    /// How long it may be silent.
    silence: Duration,
    _host: Handle<Doorman>,
    _line: Line,
}

/// A connection that ends when this is dropped, whatever the library is doing with it.
struct Line(StdStream);

impl Drop for Line {
    fn drop(&mut self) {
        // It fails where the host was quicker.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Process {
    /// Starts it. Errors are sentences.
    pub async fn start(
        (limits, hosts): (&Limits, &Hosts),
        caller: &Caller,
        url: &SshUrl,
    ) -> Result<Self, String> {
        agent::is_there(caller)?;
        let (line, stream) = connect(limits, url).await?;
        let name = url.known_as();
        let (known, asked) = (hosts.clone(), name.clone());
        // A host whose only signature is by SHA-1 may be anybody.
        let mut all = Preferred::DEFAULT.key.into_owned();
        all.retain(|a| *a != Algorithm::Rsa { hash: None });
        let order = move || known.order(&asked, &all);
        let order = tokio::task::spawn_blocking(order)
            .await
            .unwrap_or_else(|e| Err(format!("interrupted: {e}")))?;
        let config = Config {
            client_id: SshId::Standard(
                concat!("SSH-2.0-slipway_", env!("CARGO_PKG_VERSION")).into(),
            ),
            preferred: Preferred {
                key: order.into(),
                ..Preferred::DEFAULT
            },
            ..Config::default()
        };
        let silent = |_| format!("{} is silent", url.host);
        let broken = |e: russh::Error| format!("the connection to {} broke: {e}", url.host);
        let doorman = Doorman::new(hosts.clone(), name);
        let connecting = client::connect_stream(Arc::new(config), stream, doorman);
        let mut host = timeout(limits.silence, connecting)
            .await
            .map_err(silent)?
            .map_err(|refused| match refused {
                Refused::Host(why) => why,
                Refused::Protocol(e) => broken(e),
            })?;
        agent::authenticate(&mut host, url, caller).await?;
        let starting = async {
            let channel = host.channel_open_session().await?;
            // It is a wish: sshd takes it where its AcceptEnv names it.
            channel.set_env(false, "GIT_PROTOCOL", "version=2").await?;
            channel.exec(true, url.command()).await?;
            Ok(channel)
        };
        let channel = timeout(limits.silence, starting).await.map_err(silent)?;
        Ok(Self {
            channel: channel.map_err(broken)?,
            said: Vec::new(),
            silence: limits.silence,
            _host: host,
            _line: line,
        })
    }

    /// Writes to its input. Errors are sentences.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<(), String> {
        let writing = self.channel.data_bytes(data);
        let written = timeout(self.silence, writing).await;
        let written = written.map_err(|_| "the server does not listen".to_owned())?;
        written.map_err(|e| format!("the connection broke: {e}"))
    }

    /// More of its output; none at its end. Errors are sentences.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        let next = async {
            loop {
                match self.channel.wait().await {
                    Some(ChannelMsg::Data { data }) => return Ok(Some(data)),
                    Some(ChannelMsg::ExtendedData { data, .. }) => {
                        let room = SAID - self.said.len();
                        self.said.extend_from_slice(&data[..room.min(data.len())]);
                    }
                    Some(ChannelMsg::Failure) => {
                        return Err("the host does not run git-upload-pack for us".to_owned());
                    }
                    // Errors may be told after the last of the output.
                    Some(ChannelMsg::Close) | None => return Ok(None),
                    Some(_) => {}
                }
            }
        };
        timeout(self.silence, next)
            .await
            .unwrap_or_else(|_| Err("the server is silent".to_owned()))
    }

    /// What it has said of its errors, on one line.
    pub fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.said);
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        let words: Vec<&str> = words.filter(|w| !w.is_empty()).collect();
        words.join(" ")
    }
}

async fn connect(limits: &Limits, url: &SshUrl) -> Result<(Line, TcpStream), String> {
    let addresses = limits.guard.resolve(&url.host, url.port).await;
    let addresses = addresses.map_err(|e| e.to_string())?;
    let broken = |e: std::io::Error| format!("cannot connect to {}: {e}", url.known_as());
    let stream = timeout(CONNECT, TcpStream::connect(&addresses[..]))
        .await
        .map_err(|e| broken(e.into()))?
        .map_err(broken)?;
    let again = || {
        stream.set_nodelay(true)?;
        let ours = stream.into_std()?;
        Ok((Line(ours.try_clone()?), TcpStream::from_std(ours)?))
    };
    again().map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_egress::Guard;

    use crate::events::Events;

    #[tokio::test]
    async fn a_host_that_says_nothing_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = SshUrl::parse(&format!("ssh://git@127.0.0.1:{port}/x"));
        let url = url.unwrap().unwrap();
        let limits = Limits {
            guard: Guard {
                allow: vec!["127.0.0.1/32".parse().unwrap()],
                ..Guard::default()
            },
            bytes: 0,
            silence: Duration::from_millis(50),
        };
        let folder = tempfile::tempdir().unwrap();
        let hosts = Hosts::met(folder.path().join("hosts"));
        let (tell, _told) = tokio::sync::mpsc::channel(1);
        let caller = Caller::new([], ["default".to_owned()], Events::new(tell));
        for hello in [&b""[..], b"SSH-2.0-silent\r\n"] {
            let host = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut stream, hello)
                    .await
                    .unwrap();
                // Hung up on, it reads the end.
                let mut said = Vec::new();
                let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said);
                read.await.map(|_| said.starts_with(b"SSH-2.0-slipway_"))
            };
            let start = Process::start((&limits, &hosts), &caller, &url);
            let (started, hung_up) = tokio::join!(start, host);
            assert_eq!(started.err().as_deref(), Some("127.0.0.1 is silent"));
            assert!(hung_up.unwrap());
        }
    }
}
