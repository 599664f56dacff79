//! Copies between our streams and a container's until it ends, we detach, or the call breaks.

use std::io::IsTerminal as _;

use bytes::Bytes;
use slipway_proto::runtime::v1::{
    Exited, KillRequest, Stream, StreamInput, StreamOutput, stream_input::Input,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tonic::Streaming;

use super::{detach::Keys, terminal};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
};

/// How to attach.
#[derive(Debug)]
pub struct Io {
    /// The container has a terminal.
    pub tty: bool,
    /// Our stdin goes there.
    pub stdin: bool,
    /// Signals that we get go there; else they end us.
    pub proxy: Option<Proxy>,
    pub detach_keys: Keys,
}

/// Where signals are passed on to. By calls of their own: a signal must not wait behind input that the
/// container does not read.
#[derive(Debug)]
pub struct Proxy {
    pub site: Site,
    /// Empty until the container is made; until then a signal ends us, and with us its making.
    pub container: watch::Receiver<String>,
}

impl Proxy {
    /// To a container that is there.
    pub fn to(site: &Site, container: &str) -> Self {
        Self {
            site: site.clone(),
            container: watch::Sender::new(container.to_owned()).subscribe(),
        }
    }
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    Exited(Exited),
    Detached,
    /// The call ended without an exit: the container goes on.
    Closed,
}

/// What an event is to the session.
#[derive(Debug)]
pub enum Seen {
    Output(StreamOutput),
    Exited(Exited),
    /// Dealt with.
    Nothing,
}

/// Refuses `-t` where there is no terminal, as docker does.
pub fn check_terminal(tty: bool, stdin: bool) -> Outcome<()> {
    if tty && stdin && !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "cannot attach stdin to a TTY-enabled container because stdin is not a terminal",
        ));
    }
    Ok(())
}

/// Runs the session. `wrap` makes a request of an input, `view` looks at an event.
pub async fn pump<R, E>(
    mut io: Io,
    requests: mpsc::Sender<R>,
    wrap: fn(StreamInput) -> R,
    mut events: Streaming<E>,
    mut view: impl FnMut(E) -> Outcome<Seen>,
) -> Outcome<Ended>
where
    R: Send + 'static,
{
    let _raw = if io.tty && io.stdin {
        Some(terminal::Raw::enter()?)
    } else {
        None
    };
    let mut tasks = JoinSet::new();
    let (detached, mut detach) = mpsc::channel(1);
    if io.stdin {
        let requests = requests.clone();
        let tty = io.tty;
        let mut keys = std::mem::replace(&mut io.detach_keys, Keys::parse("")?);
        tasks.spawn(async move { forward_stdin(tty, &mut keys, requests, wrap, detached).await });
    }
    if io.tty {
        let requests = requests.clone();
        tasks.spawn(async move { forward_size(requests, wrap).await });
    }
    drop(requests);
    let mut heard = listen(io.proxy.is_some(), &mut tasks)?;
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let ended = loop {
        tokio::select! {
            event = events.message() => match event? {
                None => break Ended::Closed,
                Some(event) => match view(event)? {
                    Seen::Nothing => {}
                    Seen::Exited(exited) => break Ended::Exited(exited),
                    Seen::Output(output) if output.stream() == Stream::Stderr => {
                        err.write_all(&output.data).await?;
                        err.flush().await?;
                    }
                    Seen::Output(output) => {
                        out.write_all(&output.data).await?;
                        out.flush().await?;
                    }
                },
            },
            Some(ended) = detach.recv() => break ended?,
            Some((kind, name)) = heard.recv() => match &io.proxy {
                Some(proxy) if !proxy.container.borrow().is_empty() => {
                    let request = KillRequest {
                        container: proxy.container.borrow().clone(),
                        signal: name.to_owned(),
                    };
                    let mut containers = proxy.site.containers();
                    // It may have just ended: its end is on its way to us.
                    tasks.spawn(async move { drop(containers.kill(request).await) });
                }
                _ => return Err(Failure::silent(death_by(kind))),
            },
        }
    };
    tasks.abort_all();
    Ok(ended)
}

/// Signals that we get: those that end a program, or with `all` every one that may mean something to the
/// container.
fn listen(
    all: bool,
    tasks: &mut JoinSet<()>,
) -> Outcome<mpsc::Receiver<(SignalKind, &'static str)>> {
    let (send, heard) = mpsc::channel(8);
    let wanted = if all { usize::MAX } else { FATAL };
    for (kind, name) in proxied().into_iter().take(wanted) {
        let send = send.clone();
        let mut signals = signal(kind)?;
        tasks.spawn(async move {
            while signals.recv().await.is_some() && send.send((kind, name)).await.is_ok() {}
        });
    }
    Ok(heard)
}

/// What the shell says of a program that this signal ended.
fn death_by(kind: SignalKind) -> u8 {
    u8::try_from(kind.as_raw_value()).map_or(1, |number| number.saturating_add(128))
}

async fn forward_stdin<R>(
    tty: bool,
    keys: &mut Keys,
    requests: mpsc::Sender<R>,
    wrap: fn(StreamInput) -> R,
    detached: mpsc::Sender<Outcome<Ended>>,
) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // A stdin that cannot be read is at its end.
        let n = stdin.read(&mut buffer).await.unwrap_or(0);
        if n == 0 && tty {
            // Ctrl-D is a byte in raw mode: this is the terminal going away.
            let hung_up = Failure::silent(death_by(SignalKind::hangup()));
            // The session ended already when nobody listens.
            let _ = detached.send(Err(hung_up)).await;
            return;
        }
        if n == 0 {
            // The service may be gone already: then nobody waits for the end of stdin.
            let _ = requests.send(wrap(input(Input::StdinClose(true)))).await;
            // Without a terminal the sender must not end the session: keep the channel's other end.
            std::future::pending::<()>().await;
        }
        let (data, detach) = if tty {
            keys.feed(&buffer[..n])
        } else {
            (buffer[..n].to_vec(), false)
        };
        if !data.is_empty()
            && requests
                .send(wrap(input(Input::Stdin(Bytes::from(data)))))
                .await
                .is_err()
        {
            return;
        }
        if detach {
            // The session ended already when nobody listens.
            let _ = detached.send(Ok(Ended::Detached)).await;
            return;
        }
    }
}

async fn forward_size<R>(requests: mpsc::Sender<R>, wrap: fn(StreamInput) -> R) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some(size) = terminal::size()
            && requests
                .send(wrap(input(Input::Resize(size))))
                .await
                .is_err()
        {
            return;
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}

fn input(input: Input) -> StreamInput {
    StreamInput { input: Some(input) }
}

/// What is passed on, the fatal ones first.
fn proxied() -> [(SignalKind, &'static str); 7] {
    [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::quit(), "SIGQUIT"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
        (SignalKind::alarm(), "SIGALRM"),
    ]
}
/// How many of them end a program that cannot pass them on.
const FATAL: usize = 4;

/// Exit code of a process, as the shell sees it.
pub fn exit_code(exited: &Exited) -> u8 {
    u8::try_from(exited.exit_code & 0xff).unwrap_or(1)
}
