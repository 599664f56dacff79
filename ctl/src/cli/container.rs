//! Containers: their list, their life, what they are made of.

use clap::{Args, Subcommand};
use slipway_proto::{
    netd::v1::PortBinding,
    runtime::v1::{
        CommitRequest, ContainerState, ContainerStatus, ContainerSummary, DiffRequest,
        ExportRequest, InspectRequest, KillRequest, ListRequest, PauseRequest, PruneRequest,
        RemoveRequest, RenameRequest, Resources, RestartRequest, StopRequest, TopRequest,
        UnpauseRequest, UpdateRequest, WaitRequest, wait_request::Condition,
    },
    types::v1::Page,
};

use super::{confirm, each, exec::Exec, logs::Logs, run};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
    },
    spec::{options::restart_policy, units},
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
    Port {
        container: String,
        port: Option<String>,
    },
    /// Copy files/folders between a container and the local filesystem
    Cp(super::copy::Copy),
    /// Display a live stream of container(s) resource usage statistics
    Stats {
        #[arg(short, long)]
        all: bool,
        #[arg(long)]
        format: Option<String>,
        #[arg(long)]
        no_stream: bool,
        #[arg(long)]
        no_trunc: bool,
        containers: Vec<String>,
    },
    /// Inspect changes to files or directories on a container's filesystem
    Diff { container: String },
    /// Create a new image from a container's changes
    Commit {
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
        container: String,
        #[arg(default_value = "")]
        repository: String,
    },
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

/// `ctl update`
#[derive(Debug, Args)]
pub struct Update {
    /// Memory limit
    #[arg(short, long)]
    memory: Option<String>,
    /// Swap limit equal to memory plus swap
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory soft limit
    #[arg(long)]
    memory_reservation: Option<String>,
    /// Number of CPUs
    #[arg(long)]
    cpus: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, default_value_t = 0)]
    cpu_shares: u64,
    /// Limit CPU CFS period
    #[arg(long, default_value_t = 0)]
    cpu_period: i64,
    /// Limit CPU CFS quota
    #[arg(long, default_value_t = 0)]
    cpu_quota: i64,
    /// CPUs in which to allow execution
    #[arg(long, default_value = "")]
    cpuset_cpus: String,
    /// MEMs in which to allow execution
    #[arg(long, default_value = "")]
    cpuset_mems: String,
    /// Block IO weight
    #[arg(long, default_value_t = 0)]
    blkio_weight: u32,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pids_limit: i64,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    restart: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `ctl ps`
#[derive(Debug, Args)]
pub struct Ps {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, default_value_t = -1, allow_hyphen_values = true)]
    last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Filter output based on conditions provided
    #[arg(short, long)]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
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
                let answer = site
                    .containers()
                    .prune(PruneRequest { filters })
                    .await?
                    .into_inner();
                if !answer.removed.is_empty() {
                    output::print(&format!(
                        "Deleted Containers:\n{}\n\n",
                        answer.removed.join("\n")
                    ))?;
                }
                output::print(&format!(
                    "Total reclaimed space: {}\n",
                    human::size(answer.reclaimed)
                ))?;
                Ok(0)
            }
        }
    }
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
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
                each(&containers, |container| async move {
                    let request = StopRequest {
                        container: container.clone(),
                        signal: signal.clone(),
                        timeout_seconds: time,
                    };
                    site.containers().stop(request).await?;
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
                    site.containers().restart(request).await?;
                    Ok(container)
                })
                .await
            }
            Self::Kill { signal, containers } => {
                let signal = &signal;
                each(&containers, |container| async move {
                    site.containers()
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
                each(&names.containers, |container| async move {
                    site.containers()
                        .pause(PauseRequest {
                            container: container.clone(),
                        })
                        .await?;
                    Ok(container)
                })
                .await
            }
            Self::Unpause(names) => {
                each(&names.containers, |container| async move {
                    site.containers()
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
                each(&containers, |container| async move {
                    match site
                        .containers()
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
                    let answer = site.containers().wait(request).await?.into_inner();
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
            Self::Stats { .. } => Err(Failure::new("stats is not supported yet")),
            Self::Top { words } => top(site, &words).await,
            Self::Port { container, port } => show_ports(site, container, port.as_deref()).await,
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
            Self::Commit {
                author,
                change,
                message,
                pause,
                container,
                repository,
            } => {
                let request = CommitRequest {
                    container,
                    reference: repository,
                    author,
                    message,
                    changes: change,
                    pause,
                };
                let answer = site.containers().commit(request).await?.into_inner();
                output::print(&format!("{}\n", answer.image_id))?;
                Ok(0)
            }
            Self::Export { output, container } => export(site, container, output).await,
            Self::Update(update) => update.run(site).await,
        }
    }
}

impl Update {
    async fn run(&self, site: &Site) -> Outcome {
        let size = |text: &Option<String>| text.as_deref().map(units::memory).transpose();
        let resources = Resources {
            memory: size(&self.memory)?.unwrap_or(0),
            memory_swap: self
                .memory_swap
                .as_deref()
                .map(units::memory_swap)
                .transpose()?
                .unwrap_or(0),
            memory_reservation: size(&self.memory_reservation)?.unwrap_or(0),
            nano_cpus: self
                .cpus
                .as_deref()
                .map(units::nano_cpus)
                .transpose()?
                .unwrap_or(0),
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: self.pids_limit,
            blkio_weight: self.blkio_weight,
            ..Resources::default()
        };
        let restart = self.restart.as_deref().map(restart_policy).transpose()?;
        let (resources, restart) = (&resources, &restart);
        each(&self.containers, |container| async move {
            let request = UpdateRequest {
                container: container.clone(),
                resources: Some(resources.clone()),
                restart: restart.clone(),
            };
            for warning in site
                .containers()
                .update(request)
                .await?
                .into_inner()
                .warnings
            {
                eprintln!("WARNING: {warning}");
            }
            Ok(container)
        })
        .await
    }
}

async fn top(site: &Site, words: &[String]) -> Outcome {
    let (container, ps_args) = words
        .split_first()
        .ok_or_else(|| Failure::new("a container is required"))?;
    let request = TopRequest {
        container: container.clone(),
        ps_args: ps_args.to_vec(),
    };
    let answer = site.containers().top(request).await?.into_inner();
    let mut lines = vec![answer.titles];
    lines.extend(answer.processes.into_iter().map(|p| p.fields));
    output::print(&table::align(&lines))?;
    Ok(0)
}

async fn show_ports(site: &Site, container: String, wanted: Option<&str>) -> Outcome {
    let request = InspectRequest {
        container: container.clone(),
        size: false,
    };
    let ports = site
        .containers()
        .inspect(request)
        .await?
        .into_inner()
        .summary
        .unwrap_or_default()
        .ports;
    let mut out = String::new();
    let wanted = wanted.map(|w| {
        if w.contains('/') {
            w.to_owned()
        } else {
            format!("{w}/tcp")
        }
    });
    for port in &ports {
        let inside = format!("{}/{}", port.container_port, protocol(port));
        let outside = format!("{}:{}", bracketed(&port.host_address), port.host_port);
        match &wanted {
            None => out.push_str(&format!("{inside} -> {outside}\n")),
            Some(w) if *w == inside => out.push_str(&format!("{outside}\n")),
            Some(_) => {}
        }
    }
    match (out.is_empty(), wanted) {
        (true, Some(w)) => Err(Failure::new(format!(
            "no public port '{w}' published for {container}"
        ))),
        _ => {
            output::print(&out)?;
            Ok(0)
        }
    }
}

async fn export(site: &Site, container: String, path: Option<String>) -> Outcome {
    use std::io::{IsTerminal as _, Write as _};
    if path.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let mut chunks = site
        .containers()
        .export(ExportRequest { container })
        .await?
        .into_inner();
    let mut out: Box<dyn std::io::Write> = match &path {
        Some(path) => Box::new(
            std::fs::File::create(path)
                .map_err(|e| Failure::new(format!("cannot write {path}: {e}")))?,
        ),
        None => Box::new(std::io::stdout().lock()),
    };
    while let Some(chunk) = chunks.message().await? {
        out.write_all(&chunk.data)?;
    }
    out.flush()?;
    Ok(0)
}

/// All pages of the list.
pub async fn list_all(site: &Site, mut request: ListRequest) -> Outcome<Vec<ContainerSummary>> {
    let mut client = site.containers();
    let mut all = Vec::new();
    loop {
        let answer = client.list(request.clone()).await?.into_inner();
        all.extend(answer.containers);
        if answer.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page = Some(Page {
            size: 1000,
            token: answer.next_page_token,
        });
    }
}

const SHOWN: [(&str, &str); 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];
const SIZED: [(&str, &str); 8] = [
    SHOWN[0],
    SHOWN[1],
    SHOWN[2],
    SHOWN[3],
    SHOWN[4],
    SHOWN[5],
    SHOWN[6],
    ("Size", "SIZE"),
];
const HIDDEN: [(&str, &str); 8] = [
    ("CreatedAt", "CREATED AT"),
    ("State", "STATE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Size", "SIZE"),
    ("Platform", "PLATFORM"),
];

impl Ps {
    pub async fn run(self, site: &Site) -> Outcome {
        let last = if self.latest { 1 } else { self.last.max(0) };
        // A template that shows sizes needs them; counting is work for the host, so only then.
        let size = self.size || self.format.as_deref().is_some_and(|f| f.contains(".Size"));
        let request = ListRequest {
            all: self.all || last > 0,
            last: u32::try_from(last).unwrap_or(u32::MAX),
            size,
            filters: units::filters(&self.filter)?,
            page: None,
        };
        let containers = list_all(site, request).await?;
        if self.quiet {
            let id = |c: &ContainerSummary| {
                if self.no_trunc {
                    c.id.clone()
                } else {
                    short_id(&c.id).to_owned()
                }
            };
            output::print(&containers.iter().map(|c| id(c) + "\n").collect::<String>())?;
            return Ok(0);
        }
        let rows: Vec<Row> = containers.iter().map(|c| row(c, self.no_trunc)).collect();
        let columns = Columns {
            shown: if self.size { &SIZED } else { &SHOWN },
            hidden: &HIDDEN,
        };
        output::print(&table::render(columns, &rows, self.format.as_deref())?)?;
        Ok(0)
    }
}

fn row(c: &ContainerSummary, whole: bool) -> Row {
    let command = format!("\"{}\"", c.command);
    let image = match c.image.strip_prefix("sha256:") {
        Some(_) if !whole => short_id(&c.image).to_owned(),
        _ => run::familiar_kept(&c.image),
    };
    let state = c.state.clone().unwrap_or_default();
    Row::new([
        (
            "ID",
            if whole {
                c.id.clone()
            } else {
                short_id(&c.id).to_owned()
            },
        ),
        ("Names", c.name.clone()),
        ("Image", image),
        (
            "Command",
            if whole {
                command
            } else {
                human::ellipsis(&command, 20)
            },
        ),
        ("CreatedAt", human::created_at(c.created.as_ref())),
        ("RunningFor", human::ago(c.created.as_ref())),
        ("Ports", output::ports::column(&c.ports, &c.exposed)),
        ("State", state_word(&state).to_owned()),
        ("Status", status(&state)),
        (
            "Size",
            format!(
                "{} (virtual {})",
                human::size(c.size_rw),
                human::size(c.size_root)
            ),
        ),
        (
            "Mounts",
            c.mounts
                .iter()
                .map(|m| {
                    if whole {
                        m.clone()
                    } else {
                        human::ellipsis(m, 15)
                    }
                })
                .collect::<Vec<_>>()
                .join(","),
        ),
        (
            "LocalVolumes",
            c.mounts
                .iter()
                .filter(|m| !m.starts_with('/'))
                .count()
                .to_string(),
        ),
        ("Networks", c.networks.join(",")),
        ("Platform", String::new()),
    ])
    .with_labels(&c.labels)
}

/// docker's word for a state.
pub fn state_word(state: &ContainerState) -> &'static str {
    match state.status() {
        ContainerStatus::Unspecified | ContainerStatus::Created => "created",
        ContainerStatus::Running => "running",
        ContainerStatus::Paused => "paused",
        ContainerStatus::Restarting => "restarting",
        ContainerStatus::Removing => "removing",
        ContainerStatus::Exited => "exited",
        ContainerStatus::Dead => "dead",
    }
}

fn status(state: &ContainerState) -> String {
    let up = || human::span(human::since(state.started.as_ref()));
    let ended = || {
        format!(
            "({}) {} ago",
            state.exit_code,
            human::span(human::since(state.finished.as_ref()))
        )
    };
    match state.status() {
        ContainerStatus::Unspecified | ContainerStatus::Created => "Created".to_owned(),
        ContainerStatus::Running => {
            let health = match state.health.as_ref().map_or("", |h| h.status.as_str()) {
                "" | "none" => String::new(),
                "starting" => " (health: starting)".to_owned(),
                word => format!(" ({word})"),
            };
            format!("Up {}{health}", up())
        }
        ContainerStatus::Paused => format!("Up {} (Paused)", up()),
        ContainerStatus::Restarting => format!("Restarting {}", ended()),
        ContainerStatus::Removing => "Removal In Progress".to_owned(),
        ContainerStatus::Exited => format!("Exited {}", ended()),
        ContainerStatus::Dead => "Dead".to_owned(),
    }
}

/// "tcp", "udp", "sctp".
pub fn protocol(port: &PortBinding) -> String {
    use slipway_proto::netd::v1::Protocol;
    match port.protocol() {
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
        Protocol::Tcp | Protocol::Unspecified => "tcp",
    }
    .to_owned()
}

fn bracketed(address: &str) -> String {
    match address {
        "" => "0.0.0.0".to_owned(),
        v6 if v6.contains(':') => format!("[{v6}]"),
        v4 => v4.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> ContainerSummary {
        let now = jiff::Timestamp::now().as_second();
        let at = |ago: i64| {
            Some(prost_types::Timestamp {
                seconds: now - ago,
                nanos: 0,
            })
        };
        ContainerSummary {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image: "docker.io/library/goals:latest".into(),
            command: "docker-entrypoint.sh node server.js".into(),
            created: at(200),
            state: Some(ContainerState {
                status: ContainerStatus::Running.into(),
                started: at(190),
                ..ContainerState::default()
            }),
            ports: vec![PortBinding {
                container_port: 80,
                host_port: 3000,
                protocol: 1,
                ..PortBinding::default()
            }],
            exposed: vec!["80/tcp".into(), "443/tcp".into()],
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn a_line_of_ps() {
        let columns = Columns {
            shown: &SHOWN,
            hidden: &HIDDEN,
        };
        let text = table::render(columns, &[row(&summary(), false)], None).unwrap();
        assert_eq!(
            text,
            "CONTAINER ID   IMAGE          COMMAND                CREATED         STATUS         PORTS                                              NAMES\n\
             0123456789ab   goals:latest   \"docker-entrypoint.…   3 minutes ago   Up 3 minutes   443/tcp, 0.0.0.0:3000->80/tcp, [::]:3000->80/tcp   web\n"
        );
    }

    #[test]
    fn statuses() {
        let mut state = summary().state.unwrap();
        state.status = ContainerStatus::Exited.into();
        state.exit_code = 137;
        state.finished = Some(prost_types::Timestamp {
            seconds: jiff::Timestamp::now().as_second() - 5,
            nanos: 0,
        });
        assert!(status(&state).starts_with("Exited (137) "));
        state.status = ContainerStatus::Paused.into();
        assert_eq!(status(&state), "Up 3 minutes (Paused)");
    }
}
