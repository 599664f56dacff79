//! What of IPv6 is switched on on this host while a network has it: as little as the kernel allows.
//!
//! `conf/all/forwarding` would make the host a router on all its links: it would no longer learn its own addresses and
//! routes from router advertisements. Since Linux 6.17 single links can forward and stay what they are
//! (`force_forwarding`, Documentation/networking/ip-sysctl.rst). Before that, links that listened to routers are told
//! to go on with it (`accept_ra` 2).

use std::io;

use crate::error::{Doing, Error};
use crate::network::Network;
use crate::sysctl;

use super::{Host, State};

/// What all forwarding of IPv6 is, and what makes a whole host a router.
const ALL: &str = "ipv6/conf/all/forwarding";

/// A link that packets come in by from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Uplink {
    name: String,
    accept_ra: String,
}

/// What there is before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// The host is a router already: that is enough.
    is_router: bool,
    /// Links can be forced one by one.
    by_link: bool,
    uplinks: Vec<Uplink>,
}

/// Settings to write, in this order; each is put back by teardown.
fn plan(facts: &Facts) -> Vec<(String, &'static str)> {
    if facts.is_router {
        return Vec::new();
    }
    let of = |uplink: &Uplink, setting: &str| format!("ipv6/conf/{}/{setting}", uplink.name);
    if facts.by_link {
        let each = facts.uplinks.iter();
        return each
            .map(|link| (of(link, "force_forwarding"), "1"))
            .collect();
    }
    let listening = facts.uplinks.iter().filter(|link| link.accept_ra == "1");
    let mut settings: Vec<_> = listening.map(|link| (of(link, "accept_ra"), "2")).collect();
    settings.push((ALL.to_owned(), "1"));
    settings
}

impl Host {
    /// A bridge has IPv6 if its network has, and hears of addresses and routes from netd alone, whatever a container
    /// advertises.
    pub(super) fn bridge_ipv6(network: &Network) -> io::Result<()> {
        let of = |setting: &str| format!("ipv6/conf/{}/{setting}", network.device);
        if network.v6.is_none() {
            // A kernel without IPv6 has no such file.
            return sysctl::ignore_missing(sysctl::write(&of("disable_ipv6"), "1"));
        }
        if !sysctl::has_ipv6() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "its network has IPv6, and this kernel has none",
            ));
        }
        for (setting, value) in [
            ("accept_ra", "0"),
            ("accept_dad", "0"),
            ("disable_ipv6", "0"),
        ] {
            sysctl::write(&of(setting), value)?;
        }
        Ok(())
    }

    /// Lets packets of networks with IPv6 through this host. Whether anything had to be changed for it.
    pub(super) fn forward_ipv6(&self, state: &State) -> Result<bool, Error> {
        let with_ipv6 = || state.bridged().filter(|l| l.network.v6.is_some());
        if with_ipv6().next().is_none() {
            return Ok(false);
        }
        let mut changed = false;
        let forwards = sysctl::read(ALL).doing(|| format!("read net/{ALL}"))? == "1";
        let by_us = self.store.sysctls().iter().any(|(name, _)| name == ALL);
        let is_router = forwards && !by_us;
        let by_link = sysctl::read("ipv6/conf/all/force_forwarding").is_ok();
        let facts = Facts {
            is_router,
            by_link,
            uplinks: self.uplinks(state)?,
        };
        for (name, value) in plan(&facts) {
            let before = match sysctl::read(&name) {
                // It went in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.doing(|| format!("read net/{name}"))?,
            };
            if before == value {
                continue;
            }
            self.store.remember_sysctl(&name, &before)?;
            sysctl::write(&name, value).doing(|| format!("set net/{name} to {value}"))?;
            changed = true;
            tracing::info!(name, before, value, "containers need it for IPv6");
        }
        if by_link && !is_router {
            for live in with_ipv6() {
                let name = format!("ipv6/conf/{}/force_forwarding", live.network.device);
                sysctl::write(&name, "1").doing(|| format!("set net/{name} to 1"))?;
            }
        }
        Ok(changed)
    }

    /// Links that are not ours and have an address that others than their neighbours can send to.
    fn uplinks(&self, state: &State) -> Result<Vec<Uplink>, Error> {
        let route = &mut self.kernel().route;
        let links = route.links().doing(|| "list links".to_owned())?;
        let addresses = route.addresses().doing(|| "list addresses".to_owned())?;
        let is_global = |index: u32| {
            let mut own = addresses.iter().filter(|(link, _)| *link == index);
            own.any(|(_, net)| match net.addr() {
                std::net::IpAddr::V6(address) => {
                    !address.is_loopback() && !address.is_unicast_link_local()
                }
                std::net::IpAddr::V4(_) => false,
            })
        };
        let is_ours = |index: u32| state.bridged().any(|live| live.index == index);
        let uplinks = links
            .into_iter()
            .filter(|link| is_global(link.index) && !is_ours(link.index));
        Ok(uplinks
            .map(|link| Uplink {
                // What went in between is passed over when it is written.
                accept_ra: sysctl::read(&format!("ipv6/conf/{}/accept_ra", link.name))
                    .unwrap_or_default(),
                name: link.name,
            })
            .collect())
    }

    /// Whether this host forwards IPv6 because of its containers only.
    pub(super) fn forwards_ipv6_for_us(&self) -> Result<bool, Error> {
        let changed = self.store.sysctls();
        Ok(changed.iter().any(|(name, _)| {
            name == ALL || (name.starts_with("ipv6/") && name.ends_with("/force_forwarding"))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let uplink = |name: &str, accept_ra: &str| Uplink {
            name: name.to_owned(),
            accept_ra: accept_ra.to_owned(),
        };
        Facts {
            is_router: false,
            by_link: true,
            uplinks: vec![uplink("eth0", "1"), uplink("eth1", "0")],
        }
    }

    fn said(facts: &Facts) -> Vec<String> {
        let settings = plan(facts).into_iter();
        settings
            .map(|(name, value)| format!("{name} {value}"))
            .collect()
    }

    #[test]
    fn links_forward_and_the_host_stays_no_router() {
        let forced = [
            "ipv6/conf/eth0/force_forwarding 1",
            "ipv6/conf/eth1/force_forwarding 1",
        ];
        assert_eq!(said(&facts()), forced);
    }

    #[test]
    fn before_linux_6_17_who_listened_to_routers_goes_on_with_it() {
        let old = Facts {
            by_link: false,
            ..facts()
        };
        let settings = ["ipv6/conf/eth0/accept_ra 2", "ipv6/conf/all/forwarding 1"];
        assert_eq!(said(&old), settings);
    }

    #[test]
    fn a_router_needs_nothing() {
        let router = Facts {
            is_router: true,
            ..facts()
        };
        assert!(said(&router).is_empty());
    }
}
