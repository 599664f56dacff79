//! `ps`: docker's list of containers.

use clap::Args;
use slipway_proto::{
    runtime::v1::{ContainerState, ContainerStatus, ContainerSummary, ListRequest},
    types::v1::Page,
};

use super::super::run;
use crate::{
    client::Site,
    failure::Outcome,
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
    },
    spec::units,
};

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

/// All pages of the list.
pub async fn list_all(site: &Site, mut request: ListRequest) -> Outcome<Vec<ContainerSummary>> {
    let mut client = site.containers();
    let mut all = Vec::new();
    loop {
        let answer = client.list(request.clone()).await?.into_inner();
        for id in &answer.unreadable {
            let id = short_id(id);
            eprintln!(
                "WARNING: the record of container {id} cannot be read: unpacked layers and volumes are kept for it until 'ctl rm -f {id}'"
            );
        }
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

/// A container's line.
pub fn row(c: &ContainerSummary, whole: bool) -> Row {
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
        ("Ports", ports(c, &state)),
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

/// A container that does not run has none, whatever it exposes.
fn ports(c: &ContainerSummary, state: &ContainerState) -> String {
    match state.status() {
        ContainerStatus::Running | ContainerStatus::Paused => {
            output::ports::column(&c.ports, &c.exposed)
        }
        _ => String::new(),
    }
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

#[cfg(test)]
mod tests {
    use slipway_proto::netd::v1::PortBinding;

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
                covers_ipv6: true,
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
