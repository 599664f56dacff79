//! Networks.

use clap::Subcommand;
use slipway_proto::netd::v1::{CreateNetworkRequest, ListNetworksRequest, RemoveNetworkRequest};

use super::{confirm, each, prune};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
    },
    spec::{env, pool, units},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List networks
    #[command(alias = "list")]
    Ls {
        #[arg(short, long)]
        filter: Vec<String>,
        #[arg(long)]
        format: Option<String>,
        #[arg(long)]
        no_trunc: bool,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Create a network
    Create {
        #[arg(short, long, default_value = "bridge")]
        driver: String,
        #[arg(long)]
        subnet: Vec<String>,
        #[arg(long)]
        gateway: Vec<String>,
        #[arg(long)]
        ip_range: Vec<String>,
        /// An address that no container gets, as NAME=ADDRESS
        #[arg(long)]
        aux_address: Vec<String>,
        #[arg(long)]
        internal: bool,
        #[arg(long)]
        ipv6: bool,
        #[arg(long)]
        attachable: bool,
        #[arg(long)]
        label: Vec<String>,
        #[arg(short, long)]
        opt: Vec<String>,
        name: String,
    },
    /// Remove one or more networks
    #[command(alias = "remove")]
    Rm {
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Display detailed information on one or more networks
    Inspect(crate::inspect::Inspect),
    /// Remove all unused networks
    Prune {
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
                no_trunc,
                quiet,
            } => {
                let request = ListNetworksRequest {
                    filters: units::filters(&filter)?,
                    page: Some(slipway_proto::types::v1::Page {
                        size: 1000,
                        token: String::new(),
                    }),
                };
                let networks = site
                    .networks()
                    .list_networks(request)
                    .await?
                    .into_inner()
                    .networks;
                let rows: Vec<Row> = networks
                    .iter()
                    .map(|n| {
                        Row::new([
                            (
                                "ID",
                                if no_trunc {
                                    n.id.clone()
                                } else {
                                    short_id(&n.id).to_owned()
                                },
                            ),
                            ("Name", n.name.clone()),
                            ("Driver", n.driver.clone()),
                            ("Scope", n.scope.clone()),
                            ("IPv6", n.ipv6.to_string()),
                            ("Internal", n.internal.to_string()),
                            ("CreatedAt", human::created_at(n.created.as_ref())),
                        ])
                        .with_labels(&n.labels)
                    })
                    .collect();
                let columns = Columns {
                    shown: &[
                        ("ID", "NETWORK ID"),
                        ("Name", "NAME"),
                        ("Driver", "DRIVER"),
                        ("Scope", "SCOPE"),
                    ],
                    hidden: &[
                        ("IPv6", "IPV6"),
                        ("Internal", "INTERNAL"),
                        ("CreatedAt", "CREATED AT"),
                        ("Labels", "LABELS"),
                    ],
                };
                let format = if quiet {
                    Some("{{.ID}}")
                } else {
                    format.as_deref()
                };
                output::print(&table::render(columns, &rows, format)?)?;
                Ok(0)
            }
            Self::Create {
                driver,
                subnet,
                gateway,
                ip_range,
                aux_address,
                internal,
                ipv6,
                attachable,
                label,
                opt,
                name,
            } => {
                let pools = pool::pools(&subnet, &gateway, &ip_range, &aux_address)
                    .map_err(Failure::new)?;
                let request = CreateNetworkRequest {
                    name,
                    driver,
                    pools,
                    internal,
                    ipv6,
                    attachable,
                    labels: env::pairs(&label)?,
                    options: env::pairs(&opt)?,
                };
                let made = site.networks().create_network(request).await?.into_inner();
                output::print(&format!("{}\n", made.id))?;
                Ok(0)
            }
            Self::Rm { force, networks } => {
                each(&networks, |network| async move {
                    site.networks()
                        .remove_network(RemoveNetworkRequest {
                            network: network.clone(),
                            force,
                        })
                        .await?;
                    Ok(network)
                })
                .await
            }
            Self::Inspect(inspect) => inspect.run(site, Some("network")).await,
            Self::Prune { filter, force } => {
                if !confirm(
                    "This will remove all custom networks not used by at least one container.",
                    force,
                )? {
                    return Ok(0);
                }
                let filters = units::filters(&filter)?;
                prune::networks(site, filters).await?.print_names()
            }
        }
    }
}
