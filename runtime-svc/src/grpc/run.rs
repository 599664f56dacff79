//! Run, create and attach: calls that stream.

use std::{sync::Arc, time::Duration};

use slipway_proto::{
    registry::v1::{pull_event::Event as PullStep, pull_request::Policy},
    runtime::v1::{
        AttachEvent, AttachRequest, CreateRequest, Exited, RunEvent, RunRequest, Stream,
        StreamInput, attach_event, attach_request, run_event, run_request,
    },
};
use tokio::sync::{OwnedRwLockReadGuard, mpsc};
use tonic::{Status, Streaming};

use super::{
    follow::{self, Form, Reading},
    streams::{self, Client},
};
use crate::{
    container::{
        create::Creation,
        manager::Manager,
        state::{Container, Status as State},
    },
    error::{Error, Tried as _},
    logs::{Piece, find::Start, hold::Hold},
};

/// Messages that wait for a client.
const QUEUE: usize = 16;
/// How long the end of a container waits for its removal at most.
const REMOVAL: Duration = Duration::from_secs(10);
/// How long an attach waits for the monitor's word that output is kept.
const HOLD: Duration = Duration::from_secs(2);

/// Serves one `Run` call.
pub async fn run(
    manager: Manager,
    mut requests: Streaming<RunRequest>,
    client: Client<RunEvent>,
) -> Result<(), Status> {
    let first = requests.message().await?.and_then(|r| r.part);
    let Some(run_request::Part::Start(start)) = first else {
        return Err(
            Error::Invalid("the first message of a run must be its start".to_owned()).into(),
        );
    };
    let spec = start.spec.unwrap_or_default();
    let (once, wants_stdin) = (spec.stdin_once, spec.open_stdin && !start.detach);
    let creation = Creation {
        spec,
        pull: Policy::try_from(start.pull).unwrap_or_default(),
        auth: start.auth,
        starts: true,
    };
    let (container, opening) = create(&manager, creation, start.quiet, &client).await?;
    if !start.detach {
        manager.tell(&container, "attach", &[]);
    }
    // All of its output, until it is known where that begins.
    let hold = (!start.detach).then(|| container.holds.take(0));
    // From here on losing the client does not end the container.
    if let Err(error) = manager.start(&container, None).await {
        drop(opening);
        manager.remove_unstarted(&container).await;
        return Err(error.into());
    }
    let offset = container.running().map_or(0, |r| r.log_start);
    let pid = container.running().map_or(0, |r| r.pid.unsigned_abs());
    let started = run_event::Started { pid, at: None };
    streams::send(
        &client,
        RunEvent {
            event: Some(run_event::Event::Started(started)),
        },
    )
    .await;
    if start.detach {
        return Ok(());
    }
    let selection = streams::selection(&start.attach);
    let reading = Reading {
        from: Start {
            position: offset,
            ..Start::default()
        },
        selection,
        hold,
        opening: Some(opening),
        follow: true,
        ..Reading::default()
    };
    let form = Form {
        pieces: |pieces| pieces.into_iter().map(run_output).collect(),
        lost: |bytes| Err(overtaken(bytes)),
    };
    let output = follow::follow(&container, reading, &client, form);
    let inputs = run_inputs(requests);
    let exited = with_input(&manager, &container, inputs, wants_stdin, once, output).await?;
    until_removed(&container).await;
    streams::send(
        &client,
        RunEvent {
            event: Some(run_event::Event::Exited(exited)),
        },
    )
    .await;
    Ok(())
}

/// As docker: who ran it with `--rm` finds it gone when told of its end.
async fn until_removed(container: &Container) {
    if !container.record().spec.auto_remove {
        return;
    }
    let mut status = container.watch();
    let removed = status.wait_for(|s| *s == State::Removed || s.is_up());
    // Its removal may fail, which the log tells: its end is told all the same.
    let _ = tokio::time::timeout(REMOVAL, removed).await;
}

/// Waits for the monitor of a container that runs.
async fn until_held(container: &Container, hold: &Hold) {
    let mut status = container.watch();
    let ended = status.wait_for(|s| !matches!(s, State::Running { .. }));
    let held = async {
        tokio::select! {
            () = hold.granted() => {}
            _ = ended => {}
        }
    };
    // A monitor that an earlier version started does not answer.
    let _ = tokio::time::timeout(HOLD, held).await;
}

/// An attached client that reads so slowly that its output was given up: never silently.
fn overtaken(bytes: u64) -> Error {
    Error::Conflict(format!(
        "{bytes} bytes of output were lost: they were read too slowly, and more than log-hold allows \
         was waiting. The container goes on running"
    ))
}

/// Output until the end, input meanwhile.
async fn with_input(
    manager: &Manager,
    container: &Arc<Container>,
    inputs: mpsc::Receiver<StreamInput>,
    wants_stdin: bool,
    once: bool,
    output: impl Future<Output = Result<Exited, Error>>,
) -> Result<Exited, Error> {
    let feed = streams::feed(manager, container, inputs, wants_stdin && once);
    tokio::pin!(output, feed);
    tokio::select! {
        exited = &mut output => exited,
        fed = &mut feed => {
            fed?;
            output.await
        }
    }
}

fn run_inputs(mut requests: Streaming<RunRequest>) -> mpsc::Receiver<StreamInput> {
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Ok(Some(request)) = requests.message().await {
            if let Some(run_request::Part::Input(input)) = request.part
                && send.send(input).await.is_err()
            {
                break;
            }
        }
    });
    receive
}

/// Serves one `Create` call.
pub async fn create_only(
    manager: Manager,
    request: CreateRequest,
    client: Client<RunEvent>,
) -> Result<(), Status> {
    let creation = Creation {
        spec: request.spec.unwrap_or_default(),
        pull: Policy::try_from(request.pull).unwrap_or_default(),
        auth: request.auth,
        starts: false,
    };
    create(&manager, creation, request.quiet, &client)
        .await
        .map(drop)
}

/// Creates, telling the client how the image comes.
async fn create(
    manager: &Manager,
    creation: Creation,
    quiet: bool,
    client: &Client<RunEvent>,
) -> Result<(Arc<Container>, OwnedRwLockReadGuard<()>), Status> {
    let (send, mut notices) = mpsc::channel(QUEUE);
    let tell = async {
        while let Some(step) = notices.recv().await {
            let event = match step {
                _ if quiet => continue,
                PullStep::Status(line) | PullStep::Warning(line) => run_event::Event::Status(line),
                PullStep::Progress(progress) => run_event::Event::Progress(progress),
                PullStep::Done(done) => run_event::Event::Pulled(done),
                PullStep::Resolved(_) => continue,
            };
            streams::send(client, RunEvent { event: Some(event) }).await;
        }
    };
    let make = async {
        let made = manager.create(creation, Some(&send)).await;
        drop(send);
        made.map(|made| (Unclaimed::new(manager, made.container.clone()), made))
    };
    let both = async { tokio::join!(make, tell).0 };
    let (unclaimed, made) = tokio::select! {
        made = both => made?,
        // Nobody waits for it any more: whatever was begun is dropped, and with it taken back.
        () = client.closed() => return Err(Status::cancelled("the client went away")),
    };
    let container = unclaimed.claim();
    let created = run_event::Created {
        id: container.id.clone(),
        name: container.name(),
        warnings: made.warnings,
    };
    streams::send(
        client,
        RunEvent {
            event: Some(run_event::Event::Created(created)),
        },
    )
    .await;
    Ok((container, made.opening))
}

/// A container that was just made: it goes when its client has gone before it was told of it.
struct Unclaimed {
    manager: Manager,
    container: Arc<Container>,
    claimed: bool,
}

impl Unclaimed {
    fn new(manager: &Manager, container: Arc<Container>) -> Self {
        Self {
            manager: manager.clone(),
            container,
            claimed: false,
        }
    }

    fn claim(mut self) -> Arc<Container> {
        self.claimed = true;
        self.container.clone()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if self.claimed {
            return;
        }
        let (manager, container) = (self.manager.clone(), self.container.clone());
        tokio::spawn(async move {
            if let Err(error) = manager.remove(&container, false, true).await {
                tracing::debug!(container = container.id, %error, "somebody uses it already");
            }
        });
    }
}

/// Serves one `Attach` call.
pub async fn attach(
    manager: Manager,
    mut requests: Streaming<AttachRequest>,
    client: Client<AttachEvent>,
) -> Result<(), Status> {
    let first = requests.message().await?.and_then(|r| r.part);
    let Some(attach_request::Part::Start(start)) = first else {
        return Err(
            Error::Invalid("the first message of an attach must be its start".to_owned()).into(),
        );
    };
    let container = manager.find(&start.container)?;
    manager.tell(&container, "attach", &[]);
    let opening = Arc::clone(&container.opening).read_owned().await;
    // All that is written from where the log ends is kept, also when our own input brings it about.
    let hold = container.holds.take(0);
    until_held(&container, &hold).await;
    let folder = container.folder.clone();
    let log_end = streams::blocking(move || {
        crate::logs::find::end(&folder).tried(|| "cannot read the log".to_owned())
    })
    .await?;
    if start.start
        && let Err(error) = manager.start(&container, start.terminal_size).await
    {
        drop(opening);
        manager.remove_unstarted(&container).await;
        return Err(error.into());
    }
    let log_start = match container.running() {
        Some(running) => running.log_start,
        // What we have just started may have ended already: its output and end are told.
        None if start.start => log_end,
        None => {
            return Err(Error::Conflict(
                "You cannot attach to a stopped container, start it first".to_owned(),
            )
            .into());
        }
    };
    let record = container.record();
    let attached = attach_event::Attached {
        id: container.id.clone(),
        tty: record.spec.tty,
        open_stdin: record.spec.open_stdin,
    };
    streams::send(
        &client,
        AttachEvent {
            event: Some(attach_event::Event::Attached(attached)),
        },
    )
    .await;
    let offset = if start.logs || start.start {
        log_start
    } else {
        // Not what was last heard of it: of a container that was just found again that is nothing.
        log_end
    };
    let selection = streams::selection(&start.streams);
    let wants_stdin = record.spec.open_stdin && start.streams.contains(&Stream::Stdin.into());
    hold.advance(offset);
    let reading = Reading {
        from: Start {
            position: offset,
            ..Start::default()
        },
        selection,
        hold: Some(hold),
        opening: Some(opening),
        follow: true,
        ..Reading::default()
    };
    let form = Form {
        pieces: |pieces| pieces.into_iter().map(attach_output).collect(),
        lost: |bytes| Err(overtaken(bytes)),
    };
    let output = follow::follow(&container, reading, &client, form);
    let inputs = attach_inputs(requests);
    let exited = with_input(
        &manager,
        &container,
        inputs,
        wants_stdin,
        record.spec.stdin_once,
        output,
    )
    .await?;
    until_removed(&container).await;
    streams::send(
        &client,
        AttachEvent {
            event: Some(attach_event::Event::Exited(exited)),
        },
    )
    .await;
    Ok(())
}

fn attach_inputs(mut requests: Streaming<AttachRequest>) -> mpsc::Receiver<StreamInput> {
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Ok(Some(request)) = requests.message().await {
            if let Some(attach_request::Part::Input(input)) = request.part
                && send.send(input).await.is_err()
            {
                break;
            }
        }
    });
    receive
}

fn run_output(piece: Piece) -> RunEvent {
    RunEvent {
        event: Some(run_event::Event::Output(streams::output(piece))),
    }
}

fn attach_output(piece: Piece) -> AttachEvent {
    AttachEvent {
        event: Some(attach_event::Event::Output(streams::output(piece))),
    }
}
