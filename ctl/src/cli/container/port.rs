//! `ctl port`: what is published of a container, and, other than docker, what is to be.

use clap::{Args, Subcommand};
use slipway_proto::{
    netd::v1::PortBinding,
    runtime::v1::{InspectRequest, UpdatePortsRequest},
};

use super::protocol;
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{self, ports},
    spec::port,
};

/// A container called `add` or `rm` is reached by `ctl port -- add`.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Port {
    #[command(subcommand)]
    change: Option<Change>,
    #[arg(required = true)]
    container: Option<String>,
    port: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Publish further ports of a container, also while it runs
    Add {
        /// Publish a container's port(s) to the host; one that is published gets the clients that are named
        #[arg(short, long, required = true)]
        publish: Vec<String>,
        /// Clients that may use these ports (CIDR)
        #[arg(long, value_delimiter = ',')]
        publish_from: Vec<String>,
        container: String,
    },
    /// Withdraw ports of a container, also while it runs: connections by them end
    Rm {
        container: String,
        /// The container's port, or the host's and the container's, as for -p
        #[arg(required = true)]
        ports: Vec<String>,
    },
}

impl Port {
    pub async fn run(self, site: &Site) -> Outcome {
        match (self.change, self.container) {
            (Some(change), _) => change.run(site).await,
            (None, container) => {
                list(site, container.unwrap_or_default(), self.port.as_deref()).await
            }
        }
    }
}

impl Change {
    async fn run(self, site: &Site) -> Outcome {
        let mut request = UpdatePortsRequest::default();
        match self {
            Self::Add {
                publish,
                publish_from,
                container,
            } => {
                let from = port::clients(&publish_from).map_err(Failure::new)?;
                for text in publish {
                    let mut ports = port::publish(&text).map_err(Failure::new)?;
                    for port in &mut ports {
                        port.allow_from.clone_from(&from);
                    }
                    request.add.extend(ports);
                }
                request.container = container;
            }
            Self::Rm { container, ports } => {
                for text in ports {
                    let named = port::publish(&text).map_err(Failure::new)?;
                    request.remove.extend(named);
                }
                request.container = container;
            }
        }
        let updated = site.containers().update_ports(request).await?;
        output::print(&listed(&updated.into_inner().ports, None))?;
        Ok(0)
    }
}

async fn list(site: &Site, container: String, wanted: Option<&str>) -> Outcome {
    let asked = wanted.map(wanted_port).transpose()?;
    let request = InspectRequest {
        container: container.clone(),
        size: false,
    };
    let details = site.containers().inspect(request).await?.into_inner();
    let ports = details.summary.unwrap_or_default().ports;
    let out = listed(&ports, asked.as_deref());
    match (out.is_empty(), wanted) {
        (true, Some(wanted)) => Err(Failure::new(format!(
            "No public port '{wanted}' published for {container}"
        ))),
        _ => {
            output::print(&out)?;
            Ok(0)
        }
    }
}

/// "80/tcp -> 0.0.0.0:3000", with who may use it where not everybody may; only the host's side of one that is asked
/// for. One that netd is still to choose has none.
fn listed(published: &[PortBinding], asked: Option<&str>) -> String {
    let mut out = String::new();
    for port in published {
        let from = match port.allow_from.as_slice() {
            [] => String::new(),
            ranges => format!(" from {}", ranges.join(", ")),
        };
        let inside = format!("{}/{}", port.container_port, protocol(port));
        for address in ports::addresses(port) {
            let outside = ports::joined(address, port.host_port);
            match asked {
                None => out.push_str(&format!("{inside} -> {outside}{from}\n")),
                Some(asked) if *asked == inside => out.push_str(&format!("{outside}\n")),
                Some(_) => {}
            }
        }
    }
    out
}

/// "80" or "80/tcp" as the latter.
fn wanted_port(text: &str) -> Outcome<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match number.parse::<u16>() {
        Ok(_) => Ok(format!("{number}/{protocol}")),
        Err(e) => Err(Failure::new(format!("invalid port ({text}): {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        port: Port,
    }

    fn line(words: &[&str]) -> Result<Port, String> {
        let parsed = Line::try_parse_from([&["port"], words].concat());
        parsed.map(|line| line.port).map_err(|e| e.to_string())
    }

    #[test]
    fn a_container_is_listed_as_with_docker_and_changed_by_two_words() {
        let listed = line(&["web", "80/tcp"]).unwrap();
        assert!(listed.change.is_none());
        assert_eq!(
            (listed.container.as_deref(), listed.port.as_deref()),
            (Some("web"), Some("80/tcp"))
        );
        let called_so = line(&["--", "add"]).unwrap();
        assert_eq!(called_so.container.as_deref(), Some("add"));
        let add = line(&[
            "add",
            "web",
            "-p",
            "3000:80",
            "--publish-from",
            "10.0.0.0/8,::1",
        ]);
        match add.unwrap().change {
            Some(Change::Add {
                publish,
                publish_from,
                container,
            }) => {
                assert_eq!((publish, container), (vec!["3000:80".into()], "web".into()));
                assert_eq!(publish_from, ["10.0.0.0/8", "::1"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(
            line(&["rm", "web", "80", "81/udp"])
                .unwrap()
                .change
                .is_some()
        );
        for wrong in [&[][..], &["add", "web"], &["rm", "web"], &["add"]] {
            assert!(line(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn who_may_use_a_port_is_told_with_all_of_them() {
        let port = PortBinding {
            protocol: 1,
            container_port: 80,
            host_port: 3000,
            allow_from: vec!["10.0.0.0/8".into(), "fd00::/8".into()],
            ..PortBinding::default()
        };
        let ports = [port];
        assert_eq!(
            listed(&ports, None),
            "80/tcp -> 0.0.0.0:3000 from 10.0.0.0/8, fd00::/8\n"
        );
        assert_eq!(listed(&ports, Some("80/tcp")), "0.0.0.0:3000\n");
    }
}
