//! The tables of this host: written whole, owned where the kernel can do that.

use crate::dns::{self, Resolver};
use crate::error::{Doing as _, Error};
use crate::firewall::policy::{self, HostPolicy};
use crate::firewall::{self, Forward, Limits, Ownership, Plan, TABLE};
use crate::network::Network;
use crate::nft::{BaseChain, IpVersion, Refused};
use crate::ports::{Limit, Protocol};
use crate::sysctl;

use super::reconcile::FORWARDING;
use super::{Host, Kernel, State};

impl Host {
    /// Writes the whole tables.
    pub(super) fn write_table(&self, state: &State) -> Result<(), Error> {
        self.with_plan(state, |kernel, mut plan| {
            loop {
                match (kernel.nft.replace(&firewall::replace(&plan)), plan.ownership.less()) {
                    (Err(refused), Some(less)) if refused.is_unsupported() => plan.ownership = less,
                    (Err(refused), _) => return Err(or_kept(refused)),
                    (Ok(()), _) => break,
                }
            }
            if kernel.ownership == Ownership::Owned && plan.ownership != Ownership::Owned {
                tracing::info!(
                    "this kernel keeps no table for its owner (Linux 6.9 does): ours is put back when somebody changes it"
                );
            }
            kernel.ownership = plan.ownership;
            kernel.write_stations().map_err(or_kept)?;
            kernel.ruled = true;
            // Not before: what failed has changed nothing, and is to be tried again.
            *state
                .publish_from
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = plan.clients.clone();
            Ok(())
        })
    }

    /// How the tables in the kernel differ from what they should be, each as a sentence.
    pub(super) fn wrong_with_tables(&self, state: &State) -> Result<Vec<String>, Error> {
        self.with_plan(state, |kernel, plan| {
            let differs = |family: &'static str| {
                move |how: String| format!("table {family} {} {how}", firewall::TABLE)
            };
            let packets = kernel.nft.differences(&firewall::replace(&plan));
            let frames = kernel.wrong_with_stations();
            packets
                .and_then(|packets| {
                    let packets = packets.into_iter().map(differs("inet"));
                    Ok(packets
                        .chain(frames?.into_iter().map(differs("bridge")))
                        .collect())
                })
                .doing(|| "read our tables".to_owned())
        })
    }

    /// What the table is to say now.
    fn with_plan<T>(
        &self,
        state: &State,
        work: impl FnOnce(&mut Kernel, Plan<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let networks: Vec<&Network> = state.bridged().map(|live| &live.network).collect();
        let clients = self.default_clients(&networks)?;
        let mut entries = state.entries(&clients);
        let mut resolvers = Vec::new();
        for live in state.bridged() {
            let gateway = live.network.v4.gateway;
            match live.resolver.as_ref().map(Resolver::port) {
                // Another program has port 53 of all addresses: containers never get to it.
                Some(port) if port != dns::PORT => {
                    let protocols = [Protocol::Tcp, Protocol::Udp];
                    entries.forwards.extend(protocols.map(|protocol| Forward {
                        protocol,
                        host: Some(gateway),
                        host_port: dns::PORT,
                        to: gateway,
                        to_port: port,
                    }));
                }
                _ => resolvers.push(gateway),
            }
        }
        let switched_on = self.store.sysctls().iter().any(|(n, _)| n == FORWARDING);
        let mut no_router = Vec::new();
        if !self.config.ip_forward_no_drop {
            no_router.extend(switched_on.then_some(IpVersion::V4));
            no_router.extend(self.forwards_ipv6_for_us()?.then_some(IpVersion::V6));
        }
        let mut kernel = self.kernel();
        let plan = Plan {
            networks: &networks,
            entries: &entries,
            clients: &clients,
            resolvers: &resolvers,
            ownership: kernel.ownership,
            no_router: &no_router,
            limits: self.limits(),
        };
        work(&mut kernel, plan)
    }

    /// Who may use published ports of which nothing else was said: by netd.toml and the host's own firewall as it is now.
    fn default_clients(&self, networks: &[&Network]) -> Result<Limit, Error> {
        let closed = match self.config.host_policy {
            HostPolicy::Ignore => Vec::new(),
            HostPolicy::Input => {
                let chains = self.kernel().nft.base_chains();
                self.closed(&chains.doing(|| "list chains of nftables".to_owned())?)
            }
        };
        Ok(policy::clients(
            &self.config.publish_from,
            networks,
            &closed,
        ))
    }

    /// Over which versions of IP published ports are closed, given what others hook in.
    pub(super) fn closed(&self, chains: &[BaseChain]) -> Vec<IpVersion> {
        let follows = self.config.host_policy == HostPolicy::Input;
        let versions = [IpVersion::V4, IpVersion::V6].into_iter();
        let is_closed = |version: &IpVersion| {
            let legacy = policy::has_legacy_filter(*version);
            follows && policy::drops_input(chains, legacy, *version)
        };
        versions.filter(is_closed).collect()
    }

    /// Whether what others hook in says something else of published ports than the table does.
    pub(super) fn policy_changed(&self, state: &State) -> Result<bool, Error> {
        let networks: Vec<&Network> = state.bridged().map(|live| &live.network).collect();
        Ok(self.default_clients(&networks)? != state.publish_from())
    }

    /// Takes the tables away.
    pub(super) fn remove_table(&self) -> Result<(), Error> {
        let mut kernel = self.kernel();
        let ownership = kernel.ownership;
        kernel.ruled = false;
        kernel.nft.apply(firewall::remove(ownership))?;
        Ok(kernel.remove_stations()?)
    }

    /// What a container may have.
    fn limits(&self) -> Limits {
        /// Of all connections that the kernel follows, a container may have one in so many.
        const SHARE: u32 = 8;
        /// The kernel looks through those of a source when it has one more, once in a tick.
        const MOST: u32 = 16384;
        let connections = self.config.connections_per_container.unwrap_or_else(|| {
            let all = sysctl::read("netfilter/nf_conntrack_max");
            let all: Option<u32> = all.ok().and_then(|all| all.parse().ok());
            all.map_or(MOST, |all| (all / SHARE).min(MOST))
        });
        Limits {
            connections,
            queries: self.config.dns_queries_per_second,
        }
    }

    /// For people: whether others can change the table.
    pub fn table_state(&self) -> &'static str {
        match self.kernel().ownership {
            Ownership::Owned => "owned",
            Ownership::Taken | Ownership::Shared => "watched",
        }
    }
}

/// What is to be done about a table that is somebody else's.
fn or_kept(refused: Refused) -> Error {
    match refused.is_forbidden() {
        true => Error::Invalid(format!(
            "nftables lets netd not write its tables ({refused}): another program keeps a table {TABLE} for itself \
             (`nft list tables`; end it), or netd lacks CAP_NET_ADMIN"
        )),
        false => refused.into(),
    }
}
