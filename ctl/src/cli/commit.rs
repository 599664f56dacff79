//! `commit`: an image of a container's changes.

use clap::Args;
use slipway_image::config::{
    Healthcheck,
    change::{Change, Command},
};
use slipway_proto::runtime::v1::{
    CommitRequest, ConfigChange, HealthCheck, InspectRequest,
    config_change::{self, Change as Message, Pair},
};

use crate::{client::Site, failure::Outcome, output, spec::changes};

/// `ctl commit`
#[derive(Debug, Args)]
pub struct Commit {
    /// Author
    #[arg(short, long, default_value = "")]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "")]
    message: String,
    /// Pause container during commit
    #[arg(short, long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pause: bool,
    /// Disable pausing container during commit
    #[arg(long)]
    no_pause: bool,
    container: String,
    #[arg(default_value = "", value_name = "REPOSITORY[:TAG]")]
    repository: String,
}

impl Commit {
    pub async fn run(self, site: &Site) -> Outcome {
        let mut changes = Vec::new();
        if !self.change.is_empty() {
            // Their variables are the container's.
            let request = InspectRequest {
                container: self.container.clone(),
                size: false,
            };
            let details = site.containers().inspect(request).await?.into_inner();
            changes = changes::read(&self.change, &details.env)?;
        }
        let request = CommitRequest {
            container: self.container,
            reference: self.repository,
            author: self.author,
            message: self.message,
            pause: self.pause && !self.no_pause,
            changes: changes.into_iter().map(message).collect(),
        };
        let answer = site.containers().commit(request).await?.into_inner();
        output::print(&format!("{}\n", answer.image_id))?;
        Ok(0)
    }
}

fn message(change: Change) -> ConfigChange {
    let command = |command: Command| match command {
        Command::Shell(line) => config_change::Command {
            words: vec![line],
            shell: true,
        },
        Command::Exec(words) => config_change::Command {
            words,
            shell: false,
        },
    };
    let change = match change {
        Change::Cmd(words) => Message::Cmd(command(words)),
        Change::Entrypoint(words) => Message::Entrypoint(command(words)),
        Change::Env(key, value) => Message::Env(Pair { key, value }),
        Change::Label(key, value) => Message::Label(Pair { key, value }),
        Change::Expose(port) => Message::Expose(port),
        Change::User(user) => Message::User(user),
        Change::WorkingDir(path) => Message::WorkingDir(path),
        Change::Volume(path) => Message::Volume(path),
        Change::StopSignal(signal) => Message::StopSignal(signal),
        Change::OnBuild(line) => Message::OnBuild(line),
        Change::Health(check) => Message::Health(health(check)),
    };
    ConfigChange {
        change: Some(change),
    }
}

fn health(check: Healthcheck) -> HealthCheck {
    let span = |nanoseconds: u64| {
        let span = std::time::Duration::from_nanos(nanoseconds);
        // Shorter than the longest that a message has.
        (nanoseconds > 0).then(|| span.try_into().unwrap_or_default())
    };
    HealthCheck {
        test: check.test,
        interval: span(check.interval),
        timeout: span(check.timeout),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
        retries: check.retries,
    }
}
