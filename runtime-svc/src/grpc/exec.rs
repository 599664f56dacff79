//! Exec: a further process, its streams by pipes or a terminal.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    io::Errno,
    pipe::PipeFlags,
    process::{PidfdFlags, pidfd_open, pidfd_send_signal},
};
use slipway_proto::runtime::v1::{
    ExecEvent, ExecRequest, Exited, Stream, StreamInput, StreamOutput, exec_event, exec_request,
    stream_input::Input,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tonic::{Status, Streaming};

use super::streams;
use crate::{
    container::{exec::ExecSpec, manager::Manager, stop::parse_signal},
    error::{Error, Tried as _},
    monitor::{client::Connection, protocol::Event},
    sys::asyncfd,
};

type Client = mpsc::Sender<Result<ExecEvent, Status>>;

/// Serves one `Exec` call.
pub async fn exec(
    manager: Manager,
    mut requests: Streaming<ExecRequest>,
    client: Client,
) -> Result<(), Status> {
    let first = requests.message().await?.and_then(|r| r.part);
    let Some(exec_request::Part::Start(start)) = first else {
        return Err(
            Error::Invalid("the first message of an exec must be its start".to_owned()).into(),
        );
    };
    let container = manager.find(&start.container)?;
    let (ours, theirs) = pipes(&start)?;
    let size = start.terminal_size.unwrap_or_default();
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let spec = ExecSpec {
        command: start.command,
        env: start.env,
        user: start.user,
        working_dir: start.working_dir,
        privileged: start.privileged,
        terminal: start.tty.then(|| (clamp(size.rows), clamp(size.columns))),
        ..ExecSpec::default()
    };
    let command = spec.command.join(" ");
    let running = container.add_exec();
    let id = running.id.clone();
    let fds: Vec<_> = theirs.iter().map(|fd| fd.as_fd()).collect();
    let connection = manager.exec(&container, spec, &fds).await?;
    manager.tell_exec(&container, &format!("exec_create: {command}"), &id, None);
    drop(theirs);
    let mut terminal = None;
    let pid = loop {
        match connection
            .next()
            .await
            .tried(|| "cannot hear from the monitor".to_owned())?
        {
            Some((Event::ExecStarted { pid }, fds)) => {
                terminal = fds.into_iter().next().or(terminal);
                break pid;
            }
            Some((Event::ExecFailed(error), _)) => return Err(Error::from(error).into()),
            Some((Event::Refused(why), _)) => return Err(Error::Conflict(why).into()),
            Some(_) => {}
            None => {
                return Err(
                    Error::Conflict(format!("container {} has ended", container.name())).into(),
                );
            }
        }
    };
    slipway_fault::point("runtime.exec.started");
    // Its number may be another's when a signal comes; this stays its own.
    let process = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    manager.tell_exec(&container, &format!("exec_start: {command}"), &id, None);
    let started = exec_event::Started {
        exec_id: id.clone(),
        pid: pid.unsigned_abs(),
    };
    streams::send(
        &client,
        ExecEvent {
            event: Some(exec_event::Event::Started(started)),
        },
    )
    .await;
    let ended = {
        let (manager, container) = (manager.clone(), container.clone());
        tokio::spawn(async move {
            // Until it ends it is listed.
            let _running = running;
            let code = ended(&connection).await;
            slipway_fault::point("runtime.exec.ended");
            manager.tell_exec(&container, "exec_die", &id, Some(code));
            code
        })
    };
    let ours = match terminal {
        Some(terminal) => Ours::terminal(terminal)?,
        None => ours,
    };
    if start.detach {
        // Its terminal stays, and what it says there is thrown away.
        tokio::spawn(async move {
            let nobody = mpsc::channel(1).0;
            copy_out(ours.stdout.as_ref(), Stream::Stdout, &nobody).await;
        });
        return Ok(());
    }
    let output = async {
        tokio::join!(
            copy_out(ours.stdout.as_ref(), Stream::Stdout, &client),
            copy_out(ours.stderr.as_ref(), Stream::Stderr, &client)
        );
    };
    let input = feed(requests, ours.stdin, process);
    let both = async { tokio::join!(ended, output).0.unwrap_or(137) };
    tokio::pin!(both, input);
    let code = tokio::select! {
        code = &mut both => code,
        () = &mut input => both.await,
    };
    let exited = Exited {
        exit_code: code,
        ..Exited::default()
    };
    streams::send(
        &client,
        ExecEvent {
            event: Some(exec_event::Event::Exited(exited)),
        },
    )
    .await;
    Ok(())
}

/// Our ends of a process's streams.
struct Ours {
    stdin: Option<AsyncFd<OwnedFd>>,
    stdout: Option<AsyncFd<OwnedFd>>,
    stderr: Option<AsyncFd<OwnedFd>>,
}

impl Ours {
    fn terminal(master: OwnedFd) -> Result<Self, Error> {
        let what = || "cannot use the terminal".to_owned();
        let copy = rustix::io::fcntl_dupfd_cloexec(&master, 3).tried(what)?;
        Ok(Self {
            stdin: Some(nonblocking(copy)?),
            stdout: Some(nonblocking(master)?),
            stderr: None,
        })
    }
}

fn nonblocking(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    let what = || "cannot use a pipe".to_owned();
    rustix::io::ioctl_fionbio(&fd, true).tried(what)?;
    asyncfd::register(fd).tried(what)
}

/// Pipes, unless there is a terminal: our ends, and the process's three. What nobody reads or writes is
/// /dev/null.
fn pipes(start: &exec_request::Start) -> Result<(Ours, Vec<OwnedFd>), Error> {
    let none = Ours {
        stdin: None,
        stdout: None,
        stderr: None,
    };
    if start.tty {
        return Ok((none, Vec::new()));
    }
    let what = || "cannot make a pipe".to_owned();
    let null = || {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).tried(what)
    };
    if start.detach {
        return Ok((none, vec![null()?, null()?, null()?]));
    }
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).tried(what);
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let (in_read, in_write) = if start.stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (null()?, None)
    };
    let ours = Ours {
        stdin: in_write.map(nonblocking).transpose()?,
        stdout: Some(nonblocking(out_read)?),
        stderr: Some(nonblocking(err_read)?),
    };
    Ok((ours, vec![in_read, out_write, err_write]))
}

/// Follows a process to its end.
async fn ended(connection: &Connection) -> i32 {
    loop {
        match connection.next().await {
            Ok(Some((Event::ExecExited { code }, _))) => return code,
            Ok(Some(_)) => {}
            // The container has ended, and everything in it with it.
            Ok(None) | Err(_) => return 137,
        }
    }
}

/// Copies to the end. A client that goes away does not take the process along, as with docker: what it
/// would have got is thrown away.
async fn copy_out(from: Option<&AsyncFd<OwnedFd>>, stream: Stream, client: &Client) {
    let Some(from) = from else { return };
    let mut buffer = vec![0; 32 * 1024];
    let mut heard = true;
    loop {
        let read = from
            .async_io(tokio::io::Interest::READABLE, |fd| {
                Ok(rustix::io::read(fd, &mut buffer)?)
            })
            .await;
        match read {
            Ok(0) => return,
            Ok(_) if !heard => {}
            Ok(n) => {
                let output = StreamOutput {
                    stream: stream.into(),
                    data: bytes::Bytes::copy_from_slice(&buffer[..n]),
                };
                heard = streams::send(
                    client,
                    ExecEvent {
                        event: Some(exec_event::Event::Output(output)),
                    },
                )
                .await;
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INTR) => {}
            // EIO: the terminal was closed by its last user.
            Err(_) => return,
        }
    }
}

async fn feed(
    mut requests: Streaming<ExecRequest>,
    mut stdin: Option<AsyncFd<OwnedFd>>,
    process: Option<OwnedFd>,
) {
    while let Ok(Some(request)) = requests.message().await {
        let Some(exec_request::Part::Input(StreamInput { input: Some(input) })) = request.part
        else {
            continue;
        };
        match input {
            Input::Stdin(bytes) => {
                if let Some(fd) = &stdin
                    && write_all(fd, &bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::StdinClose(_) => stdin = None,
            Input::Resize(size) => {
                let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                let size = rustix::termios::Winsize {
                    ws_row: clamp(size.rows),
                    ws_col: clamp(size.columns),
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                if let Some(fd) = &stdin {
                    // Not a terminal: there is no size to set.
                    let _ = rustix::termios::tcsetwinsize(fd, size);
                }
            }
            Input::Signal(name) => {
                let number = parse_signal(&name)
                    .ok()
                    .and_then(rustix::process::Signal::from_named_raw);
                if let (Some(process), Some(signal)) = (&process, number) {
                    // It may have ended.
                    let _ = pidfd_send_signal(process, signal);
                }
            }
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = fd
            .async_io(tokio::io::Interest::WRITABLE, |fd| {
                Ok(rustix::io::write(fd, bytes)?)
            })
            .await?;
        bytes = &bytes[written..];
    }
    Ok(())
}
