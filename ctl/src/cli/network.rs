//! Networks.

mod reconcile;

use clap::Subcommand;
use slipway_proto::{
    netd::v1::{
        AuditRequest, CreateNetworkRequest, ListNetworksRequest, NetworkDetails,
        RemoveNetworkRequest,
    },
    runtime::v1::{AdditionalNetwork, ConnectNetworkRequest, DisconnectNetworkRequest},
    types::v1::{Filter, Page},
};

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
    /// Connect a container to a network
    Connect {
        /// Add network-scoped alias for the container
        #[arg(long)]
        alias: Vec<String>,
        /// Highest gw-priority provides the default gateway. Accepts positive and negative values
        #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
        gw_priority: i32,
        /// IPv4 address (e.g., "172.30.100.104")
        #[arg(long, default_value = "")]
        ip: String,
        /// IPv6 address (e.g., "2001:db8::33")
        #[arg(long, default_value = "")]
        ip6: String,
        /// Add link to another container
        #[arg(long)]
        link: Vec<String>,
        /// Add a link-local address for the container
        #[arg(long)]
        link_local_ip: Vec<String>,
        /// Driver options for the network
        #[arg(long)]
        driver_opt: Vec<String>,
        network: String,
        container: String,
    },
    /// Disconnect a container from a network
    Disconnect {
        /// Force the container to disconnect from a network
        #[arg(short, long)]
        force: bool,
        network: String,
        container: String,
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
    /// Tell who can reach what by the networks of this host, and why
    Audit,
    /// Put right whatever of this host's networks is not as it should be
    Reconcile,
    /// Remove all unused networks
    Prune {
        #[arg(long)]
        filter: Vec<String>,
        #[arg(short, long)]
        force: bool,
    },
}

async fn audit(site: &Site) -> Outcome {
    let told = site.networks().audit(AuditRequest {}).await?.into_inner();
    let title = ["WHO", "REACHES", "BY", "BECAUSE"].map(str::to_owned);
    let mut lines = vec![title.to_vec()];
    let reaches = told.reaches.into_iter();
    lines.extend(reaches.map(|reach| vec![reach.who, reach.to, reach.by, reach.because]));
    output::print(&table::align(&lines))?;
    for warning in told.warnings {
        eprintln!("WARNING: {warning}");
    }
    Ok(0)
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
                let networks = all(site, units::filters(&filter)?).await?;
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
            Self::Audit => audit(site).await,
            Self::Reconcile => reconcile::run(site).await,
            Self::Connect {
                alias,
                gw_priority,
                ip,
                ip6,
                link,
                link_local_ip,
                driver_opt,
                network,
                container,
            } => {
                for (asked, option, instead) in [
                    (
                        &link,
                        "--link",
                        "containers of a network find each other by name",
                    ),
                    (&link_local_ip, "--link-local-ip", "use --ip"),
                    (&driver_opt, "--driver-opt", "bridges have none"),
                ] {
                    if !asked.is_empty() {
                        return Err(Failure::new(format!(
                            "{option} is not supported: {instead}"
                        )));
                    }
                }
                let network = AdditionalNetwork {
                    network,
                    aliases: alias,
                    ipv4_address: ip,
                    ipv6_address: ip6,
                    gateway_priority: gw_priority,
                    ..AdditionalNetwork::default()
                };
                let request = ConnectNetworkRequest {
                    container,
                    network: Some(network),
                };
                site.containers().connect_network(request).await?;
                Ok(0)
            }
            Self::Disconnect {
                force,
                network,
                container,
            } => {
                let request = DisconnectNetworkRequest {
                    container,
                    network,
                    force,
                };
                site.containers().disconnect_network(request).await?;
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

/// All networks that fit.
async fn all(site: &Site, filters: Vec<Filter>) -> Outcome<Vec<NetworkDetails>> {
    let mut networks = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListNetworksRequest {
            filters: filters.clone(),
            page: Some(Page { size: 1000, token }),
        };
        let answer = site.networks().list_networks(request).await?.into_inner();
        networks.extend(answer.networks);
        token = answer.next_page_token;
        if token.is_empty() {
            return Ok(networks);
        }
    }
}
