//! Volumes.

use clap::Subcommand;
use slipway_proto::runtime::v1::{CreateVolumeRequest, ListVolumesRequest, RemoveVolumeRequest};

use super::{confirm, each, prune};
use crate::{
    client::Site,
    failure::Outcome,
    output::{
        self, human,
        table::{self, Columns, Row},
    },
    spec::{env, units},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List volumes
    #[command(alias = "list")]
    Ls {
        #[arg(short, long)]
        filter: Vec<String>,
        #[arg(long)]
        format: Option<String>,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Create a volume
    Create {
        #[arg(short, long, default_value = "local")]
        driver: String,
        #[arg(long)]
        label: Vec<String>,
        #[arg(short, long)]
        opt: Vec<String>,
        #[arg(default_value = "")]
        name: String,
    },
    /// Remove one or more volumes
    #[command(alias = "remove")]
    Rm {
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Display detailed information on one or more volumes
    Inspect(crate::inspect::Inspect),
    /// Remove unused local volumes
    Prune {
        /// Remove all unused volumes, not just anonymous ones
        #[arg(short, long)]
        all: bool,
        #[arg(long)]
        filter: Vec<String>,
        #[arg(short, long)]
        force: bool,
    },
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Ls {
                filter,
                format,
                quiet,
            } => {
                let size = format.as_deref().is_some_and(|f| f.contains(".Size"));
                let request = ListVolumesRequest {
                    filters: units::filters(&filter)?,
                    size,
                    page: Some(slipway_proto::types::v1::Page {
                        size: 1000,
                        token: String::new(),
                    }),
                };
                let volumes = site
                    .volumes()
                    .list_volumes(request)
                    .await?
                    .into_inner()
                    .volumes;
                let rows: Vec<Row> = volumes
                    .iter()
                    .map(|v| {
                        Row::new([
                            ("Driver", v.driver.clone()),
                            ("Name", v.name.clone()),
                            ("Scope", v.scope.clone()),
                            ("Mountpoint", v.mountpoint.clone()),
                            (
                                "Size",
                                if size {
                                    human::size(v.size)
                                } else {
                                    "N/A".to_owned()
                                },
                            ),
                        ])
                        .with_labels(&v.labels)
                    })
                    .collect();
                let columns = Columns {
                    shown: &[("Driver", "DRIVER"), ("Name", "VOLUME NAME")],
                    hidden: &[
                        ("Scope", "SCOPE"),
                        ("Mountpoint", "MOUNTPOINT"),
                        ("Size", "SIZE"),
                        ("Labels", "LABELS"),
                    ],
                };
                let format = if quiet {
                    Some("{{.Name}}")
                } else {
                    format.as_deref()
                };
                output::print(&table::render(columns, &rows, format)?)?;
                Ok(0)
            }
            Self::Create {
                driver,
                label,
                opt,
                name,
            } => {
                let request = CreateVolumeRequest {
                    name,
                    driver,
                    labels: env::pairs(&label)?,
                    options: env::pairs(&opt)?,
                };
                let made = site.volumes().create_volume(request).await?.into_inner();
                output::print(&format!("{}\n", made.name))?;
                Ok(0)
            }
            Self::Rm { force, volumes } => {
                each(&volumes, |name| async move {
                    site.volumes()
                        .remove_volume(RemoveVolumeRequest {
                            name: name.clone(),
                            force,
                        })
                        .await?;
                    Ok(name)
                })
                .await
            }
            Self::Inspect(inspect) => inspect.run(site, Some("volume")).await,
            Self::Prune { all, filter, force } => {
                let which = if all { "all" } else { "anonymous" };
                let question = format!(
                    "This will remove {which} local volumes not used by at least one container."
                );
                if !confirm(&question, force)? {
                    return Ok(0);
                }
                let filters = units::filters(&filter)?;
                prune::volumes(site, all, filters).await?.print()
            }
        }
    }
}
