//! Rules of networks that span hosts: what may come out of a tunnel, who may send by it, and who may send into it.

use ipnet::IpNet;

use crate::netlink::vxlan;
use crate::network::{Driver, Network};
use crate::nft::{
    Batch,
    Compare::{Is, IsNot},
    Rule, Verdict,
};
use crate::overlay::Overlay;

use super::rules::{FORWARD, INPUT, POSTROUTING, RAW};
use super::sets::BRIDGES;

/// Networks of a plan that span hosts, with the names of their tunnels.
fn tunnels<'a>(
    networks: &'a [&'a Network],
) -> impl Iterator<Item = (&'a Network, &'a Overlay, String)> {
    networks.iter().filter_map(|network| match &network.driver {
        Driver::Overlay(overlay) => Some((*network, overlay, network.id.tunnel_link())),
        Driver::Bridge | Driver::Direct(_) => None,
    })
}

/// Before this host's own packets to itself are let through: it is no other host of the network, whichever of its
/// programs says so.
pub(super) fn own(batch: &mut Batch, networks: &[&Network]) {
    for (_, overlay, _) in tunnels(networks) {
        let frame = Rule::on(RAW).vxlan(vxlan::PORT, overlay.vni);
        batch.rule(frame.input(Is, "lo").then(Verdict::Drop));
    }
}

/// What this host's services get by the tunnels: questions for names, and other things that hosts ask of hosts, but
/// nothing of containers elsewhere.
pub(super) fn input(batch: &mut Batch, networks: &[&Network]) {
    for (_, overlay, tunnel) in tunnels(networks) {
        let out = || Rule::on(INPUT).input(Is, &tunnel);
        batch.rule(out().established().then(Verdict::Accept));
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

/// Before other rules that look at who sends to whom.
pub(super) fn raw(batch: &mut Batch, networks: &[&Network]) {
    for (_, overlay, tunnel) in tunnels(networks) {
        let out = || Rule::on(RAW).input(Is, &tunnel);
        let own = overlay.here.slice;
        batch
            .rule(out().source(Is, own).then(Verdict::Drop))
            .rule(out().destination(IsNot, own).then(Verdict::Drop))
            .rule(out().source(Is, overlay.subnet).then(Verdict::Accept))
            .rule(out().then(Verdict::Drop));
    }
}

/// After those that keep others from sending as containers: frames of a network's number are its hosts' only.
/// Those of other numbers are not ours to judge.
pub(super) fn outer(batch: &mut Batch, networks: &[&Network]) {
    for (_, overlay, _) in tunnels(networks) {
        let frame = || Rule::on(RAW).vxlan(vxlan::PORT, overlay.vni);
        for peer in &overlay.others {
            batch.rule(
                frame()
                    .input_in(IsNot, BRIDGES)
                    .source(Is, IpNet::from(peer.address))
                    .then(Verdict::Accept),
            );
        }
        batch.rule(frame().then(Verdict::Drop));
    }
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
