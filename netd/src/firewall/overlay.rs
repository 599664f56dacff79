//! Rules of networks that span hosts: what may come out of a tunnel, who may send by it, and who may send into it.

use ipnet::IpNet;

use crate::netlink::vxlan;
use crate::network::{Driver, Network};
use crate::nft::{
    Batch, Chain,
    Compare::{Is, IsNot},
    Rule, Verdict,
};
use crate::overlay::{Carrier, Overlay};
use crate::ports::Protocol;

use super::rules::{FORWARD, INPUT, POSTROUTING, RAW, by};
use super::sets::BRIDGES;

/// Frames from the LAN.
const OUTER: &str = "outer";
/// Frames from who is no other host.
const STRAY: &str = "stray";

/// Networks of a plan that span hosts, with the names of their tunnels.
fn tunnels<'a>(
    networks: &'a [&'a Network],
) -> impl Iterator<Item = (&'a Network, &'a Overlay, String)> {
    networks.iter().filter_map(|network| match &network.driver {
        Driver::Overlay(overlay) => Some((*network, overlay, network.id.tunnel_link())),
        Driver::Bridge | Driver::Direct(_) => None,
    })
}

/// The chains that everything about networks which span hosts goes through, where there are any.
pub(super) fn chains(batch: &mut Batch, networks: &[&Network]) {
    if tunnels(networks).next().is_none() {
        return;
    }
    for name in [OUTER, STRAY, &by("lo")] {
        batch.chain(Chain { name, hook: None });
    }
    for (_, overlay, _) in tunnels(networks) {
        let Carrier::Vxlan { vni } = overlay.carrier else {
            continue;
        };
        let frame = |chain| Rule::on(chain).vxlan(vxlan::PORT, vni);
        for peer in &overlay.others {
            let peer = IpNet::from(peer.address);
            batch.rule(frame(OUTER).source(Is, peer).then(Verdict::Accept));
        }
        batch
            .rule(frame(OUTER).then(Verdict::Drop))
            .rule(frame(STRAY).then(Verdict::Drop));
    }
    // This host is no other host of the network, whichever of its programs says so.
    batch.rule(stray(&by("lo")));
    batch.rule(Rule::on(by("lo")).then(Verdict::Accept));
    for (_, overlay, tunnel) in tunnels(networks) {
        let name = by(&tunnel);
        batch.chain(Chain {
            name: &name,
            hook: None,
        });
        let out = || Rule::on(name.clone());
        let own = overlay.here.slice;
        batch
            .rule(out().source(Is, own).then(Verdict::Drop))
            .rule(out().destination(IsNot, own).then(Verdict::Drop))
            .rule(out().source(Is, overlay.subnet).then(Verdict::Accept))
            .rule(out().then(Verdict::Drop));
    }
}

/// The links whose packets go through chains of their own because of such networks.
pub(super) fn doors(networks: &[&Network]) -> Vec<String> {
    let tunnels = tunnels(networks).map(|(_, _, tunnel)| tunnel);
    let mut links: Vec<_> = tunnels.collect();
    if !links.is_empty() {
        links.push("lo".to_owned());
    }
    links
}

/// After what keeps others from sending as containers: frames of a network's number are its hosts' only.
/// Those of other numbers are not ours to judge.
pub(super) fn outer(networks: &[&Network]) -> Option<Rule> {
    tunnels(networks).next()?;
    Some(frames(RAW).then(Verdict::Jump(OUTER.into())))
}

/// Frames that a container sends as if it were a host.
pub(super) fn inner(networks: &[&Network], chain: &str) -> Option<Rule> {
    tunnels(networks).next()?;
    Some(stray(chain))
}

fn stray(chain: &str) -> Rule {
    frames(chain).then(Verdict::Jump(STRAY.into()))
}

fn frames(chain: &str) -> Rule {
    let udp = Protocol::Udp.number();
    Rule::on(chain.to_owned()).carries(udp).port(vxlan::PORT)
}

/// After connections that are open. What this host's services get by the tunnels: questions for names, and other things that hosts ask of hosts, but
/// nothing of containers elsewhere.
pub(super) fn input(batch: &mut Batch, networks: &[&Network]) {
    for (_, overlay, tunnel) in tunnels(networks) {
        if let Carrier::WireGuard { port } = overlay.carrier {
            datagrams(batch, overlay, port);
        }
        let out = || Rule::on(INPUT).input(Is, &tunnel);
        for peer in &overlay.others {
            batch.rule(
                out()
                    .source(Is, IpNet::from(peer.gateway()))
                    .then(Verdict::Accept),
            );
        }
        batch.rule(out().then(Verdict::Drop));
    }
}

/// Encrypted networks hear their hosts, and nobody else finds out that they do. Here and not where packets come in: those
/// that only pass by may be anybody's.
fn datagrams(batch: &mut Batch, overlay: &Overlay, port: u16) {
    let datagram = || Rule::on(INPUT).carries(Protocol::Udp.number()).port(port);
    for peer in &overlay.others {
        let from = datagram().input_in(IsNot, BRIDGES);
        let from = from.source(Is, IpNet::from(peer.address));
        batch.rule(from.then(Verdict::Accept));
    }
    batch.rule(datagram().then(Verdict::Drop));
}

/// Before other rules of forwarding between networks, and of translating sources.
pub(super) fn forward(batch: &mut Batch, networks: &[&Network]) {
    for (network, overlay, tunnel) in tunnels(networks) {
        let device = network.device.as_str();
        let own = network.v4.subnet;
        batch
            .rule(
                Rule::on(FORWARD)
                    .input(Is, device)
                    .output(Is, &tunnel)
                    .then(Verdict::Accept),
            )
            .rule(
                Rule::on(FORWARD)
                    .input(Is, &tunnel)
                    .output(Is, device)
                    .then(Verdict::Accept),
            )
            // What no host has, or none just now, is not looked for elsewhere.
            .rule(
                Rule::on(FORWARD)
                    .input(Is, device)
                    .output(IsNot, device)
                    .destination(Is, overlay.subnet)
                    .then(Verdict::Drop),
            )
            .rule(Rule::on(FORWARD).input(Is, &tunnel).then(Verdict::Drop))
            .rule(Rule::on(FORWARD).output(Is, &tunnel).then(Verdict::Drop))
            // Between hosts everybody is seen as who he is.
            .rule(
                Rule::on(POSTROUTING)
                    .output(Is, &tunnel)
                    .source(Is, own)
                    .then(Verdict::Accept),
            );
    }
}
