//! `exec`: a further process in a running container.

use clap::Args;
use slipway_proto::runtime::v1::{ExecEvent, ExecRequest, StreamInput, exec_event, exec_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::run::{finish, queue};
use crate::{
    attach::{
        detach::Keys,
        session::{self, Ended, Io, Seen},
        terminal,
    },
    client::Site,
    failure::{Failure, Outcome},
    spec::env,
};

/// `ctl exec`
#[derive(Debug, Args)]
pub struct Exec {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "")]
    detach_keys: String,
    /// Set environment variables
    #[arg(short, long)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, default_value = "")]
    user: String,
    /// Working directory inside the container
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// Container, then the command
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER COMMAND [ARG...]")]
    words: Vec<String>,
}

impl Exec {
    /// Exit code: the process's own.
    pub async fn run(self, site: &Site) -> Outcome {
        let Some((container, command)) = self.words.split_first().filter(|(_, c)| !c.is_empty())
        else {
            return Err(Failure::new("\"ctl exec\" requires at least 2 arguments"));
        };
        let stdin = self.interactive && !self.detach;
        session::check_terminal(self.tty, stdin)?;
        let start = exec_request::Start {
            container: container.clone(),
            command: command.to_vec(),
            env: env::env(&self.env, &self.env_file)?,
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            tty: self.tty,
            stdin,
            privileged: self.privileged,
            detach: self.detach,
            terminal_size: terminal::size().filter(|_| self.tty),
        };
        let (sender, receiver) = mpsc::channel(16);
        queue(
            &sender,
            ExecRequest {
                part: Some(exec_request::Part::Start(start)),
            },
        )?;
        let events = site
            .containers()
            .exec(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        // docker does not pass signals on to an exec: Ctrl-C ends the client.
        let io = Io {
            tty: self.tty && !self.detach,
            stdin,
            proxy: None,
            detach_keys: Keys::parse(&self.detach_keys)?,
        };
        match session::pump(io, sender, wrap, events, see).await? {
            Ended::Closed if self.detach => Ok(0),
            ended => finish(ended),
        }
    }
}

fn wrap(input: StreamInput) -> ExecRequest {
    ExecRequest {
        part: Some(exec_request::Part::Input(input)),
    }
}

fn see(event: ExecEvent) -> Outcome<Seen> {
    Ok(match event.event {
        Some(exec_event::Event::Output(output)) => Seen::Output(output),
        Some(exec_event::Event::Exited(exited)) => Seen::Exited(exited),
        Some(exec_event::Event::Started(_)) | None => Seen::Nothing,
    })
}
