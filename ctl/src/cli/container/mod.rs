//! Containers: the commands of their life; their list ([`ps`]), limits ([`update`]), usage ([`stats`]) ports ([`port`]) and what is looked at ([`look`]).

mod look;
mod port;
mod ps;
mod stats;
mod update;

use clap::{Args, Subcommand};
use slipway_proto::runtime::v1::{
    DiffRequest, KillRequest, PauseRequest, RemoveRequest, RenameRequest, RestartRequest,
    StopRequest, UnpauseRequest, WaitRequest, wait_request::Condition,
};

pub use look::protocol;
pub use ps::{list_all, row, state_word};

use self::{ps::Ps, stats::Stats, update::Update};
use super::{commit, confirm, each, each_at_once, exec::Exec, logs::Logs, prune, run};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output,
    spec::units,
};

/// Commands that stand at the top and below `container`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create and run a new container from an image
    Run(Box<run::Run>),
    /// Create a new container
    Create(Box<run::Create>),
    /// Start one or more stopped containers
    Start(run::Start),
    /// Attach local standard input, output, and error streams to a running container
    Attach(run::Attach),
    /// Execute a command in a running container
    Exec(Exec),
    /// List containers
    Ps(Ps),
    /// Fetch the logs of a container
    Logs(Logs),
    /// Stop one or more running containers
    Stop(Stop),
    /// Restart one or more containers
    Restart(Stop),
    /// Kill one or more running containers
    Kill {
        /// Signal to send to the container
        #[arg(short, long, default_value = "")]
        signal: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Pause all processes within one or more containers
    Pause(Names),
    /// Unpause all processes within one or more containers
    Unpause(Names),
    /// Remove one or more containers
    Rm {
        /// Force the removal of a running container (uses SIGKILL)
        #[arg(short, long)]
        force: bool,
        /// Remove anonymous volumes associated with the container
        #[arg(short, long)]
        volumes: bool,
        /// Remove the specified link
        #[arg(short, long, hide = true)]
        link: bool,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Block until one or more containers stop, then print their exit codes
    Wait(Names),
    /// Rename a container
    Rename { container: String, name: String },
    /// Display the running processes of a container
    Top {
        /// Container, then options of ps
        #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "CONTAINER [PS OPTIONS]")]
        words: Vec<String>,
    },
    /// List port mappings or a specific mapping for the container
    Port(port::Port),
    /// Copy files/folders between a container and the local filesystem
    Cp(super::copy::Copy),
    /// Display a live stream of container(s) resource usage statistics
    Stats(Stats),
    /// Inspect changes to files or directories on a container's filesystem
    Diff { container: String },
    /// Create a new image from a container's changes
    Commit(commit::Commit),
    /// Export a container's filesystem as a tar archive
    Export {
        /// Write to a file, instead of STDOUT
        #[arg(short, long)]
        output: Option<String>,
        container: String,
    },
    /// Update configuration of one or more containers
    Update(Box<Update>),
}

/// `ctl container ...`
#[derive(Debug, Subcommand)]
pub enum Group {
    #[command(flatten)]
    Common(Command),
    /// List containers
    #[command(alias = "list")]
    Ls(Ps),
    /// Display detailed information on one or more containers
    Inspect(crate::inspect::Inspect),
    /// Remove all stopped containers
    Prune {
        /// Provide filter values
        #[arg(long)]
        filter: Vec<String>,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct Names {
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `ctl stop`, `ctl restart`
#[derive(Debug, Args)]
pub struct Stop {
    /// Signal to send to the container
    #[arg(short, long, default_value = "")]
    signal: String,
    /// Seconds to wait before killing the container
    #[arg(short, long, visible_alias = "timeout", allow_hyphen_values = true)]
    time: Option<i32>,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Group {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Common(command) => command.run(site).await,
            Self::Ls(ps) => ps.run(site).await,
            Self::Inspect(inspect) => inspect.run(site, Some("container")).await,
            Self::Prune { filter, force } => {
                let filters = units::filters(&filter)?;
                if !confirm("This will remove all stopped containers.", force)? {
                    return Ok(0);
                }
                prune::containers(site, filters).await?.print()
            }
        }
    }
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        // One connection for all that a command is about; made with its first call.
        let client = &site.containers();
        match self {
            Self::Run(run) => run.run(site).await,
            Self::Create(create) => create.run(site).await,
            Self::Start(start) => start.run(site).await,
            Self::Attach(attach) => attach.run(site).await,
            Self::Exec(exec) => exec.run(site).await,
            Self::Ps(ps) => ps.run(site).await,
            Self::Logs(logs) => logs.run(site).await,
            Self::Stop(Stop {
                signal,
                time,
                containers,
            }) => {
                let signal = &signal;
                each_at_once(&containers, |container| async move {
                    let request = StopRequest {
                        container: container.clone(),
                        signal: signal.clone(),
                        timeout_seconds: time,
                    };
                    client.clone().stop(request).await?;
                    Ok(container)
                })
                .await
            }
            Self::Restart(Stop {
                signal,
                time,
                containers,
            }) => {
                let signal = &signal;
                each(&containers, |container| async move {
                    let request = RestartRequest {
                        container: container.clone(),
                        signal: signal.clone(),
                        timeout_seconds: time,
                    };
                    client.clone().restart(request).await?;
                    Ok(container)
                })
                .await
            }
            Self::Kill { signal, containers } => {
                let signal = &signal;
                each_at_once(&containers, |container| async move {
                    client
                        .clone()
                        .kill(KillRequest {
                            container: container.clone(),
                            signal: signal.clone(),
                        })
                        .await?;
                    Ok(container)
                })
                .await
            }
            Self::Pause(names) => {
                each_at_once(&names.containers, |container| async move {
                    client
                        .clone()
                        .pause(PauseRequest {
                            container: container.clone(),
                        })
                        .await?;
                    Ok(container)
                })
                .await
            }
            Self::Unpause(names) => {
                each_at_once(&names.containers, |container| async move {
                    client
                        .clone()
                        .unpause(UnpauseRequest {
                            container: container.clone(),
                        })
                        .await?;
                    Ok(container)
                })
                .await
            }
            Self::Rm { link: true, .. } => Err(Failure::new(
                "--link is not supported: there are no links to remove",
            )),
            Self::Rm {
                force,
                volumes,
                containers,
                ..
            } => {
                each_at_once(&containers, |container| async move {
                    match client
                        .clone()
                        .remove(RemoveRequest {
                            container: container.clone(),
                            force,
                            volumes,
                        })
                        .await
                    {
                        // docker rm -f of what is not there is fine.
                        Err(e) if force && e.code() == tonic::Code::NotFound => {
                            eprintln!("Error: {}", Failure::from(e).text);
                            Ok(String::new())
                        }
                        Err(e) => Err(e.into()),
                        Ok(_) => Ok(container),
                    }
                })
                .await
            }
            Self::Wait(names) => {
                each(&names.containers, |container| async move {
                    let request = WaitRequest {
                        container,
                        condition: Condition::NotRunning.into(),
                    };
                    let answer = client.clone().wait(request).await?.into_inner();
                    if answer.error.is_empty() {
                        Ok(answer.exit_code.to_string())
                    } else {
                        Err(Failure::new(answer.error))
                    }
                })
                .await
            }
            Self::Rename { container, name } => {
                site.containers()
                    .rename(RenameRequest { container, name })
                    .await?;
                Ok(0)
            }
            Self::Cp(copy) => copy.run(site).await,
            Self::Stats(stats) => stats.run(site).await,
            Self::Top { words } => look::top(site, &words).await,
            Self::Port(port) => port.run(site).await,
            Self::Diff { container } => {
                let answer = site
                    .containers()
                    .diff(DiffRequest { container })
                    .await?
                    .into_inner();
                output::print(
                    &answer
                        .changes
                        .iter()
                        .map(|c| format!("{} {}\n", c.kind, c.path))
                        .collect::<String>(),
                )?;
                Ok(0)
            }
            Self::Commit(commit) => commit.run(site).await,
            Self::Export { output, container } => look::export(site, container, output).await,
            Self::Update(update) => update.run(site).await,
        }
    }
}
