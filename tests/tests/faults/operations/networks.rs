//! The judges of changes of a container's networks.

use slipway_tests::{Site, eventually};

use super::{
    CONNECT, DISCONNECT, LONGER, OVERLAY, Work,
    judges::{made_again, runs},
};
use crate::told::Cut;

pub(super) fn connected<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        is_led_out(site).await;
        cut.told.agrees_with(is_on_net(site));
        runs(site, cut).await;
    })
}

pub(super) fn connected_no_more<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        is_led_out(site).await;
        cut.told.agrees_with(!is_on_net(site));
        runs(site, cut).await;
    })
}

pub(super) fn connect_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if !is_on_net(site) {
            site.ctl(&CONNECT).ok();
        }
        is_led_out(site).await;
        assert!(is_on_net(site));
        site.ctl(&DISCONNECT).ok();
        is_led_out(site).await;
        assert!(!is_on_net(site));
        // What its next start says is no other.
        site.ctl(&["restart", "-t", "0", "one"]).ok();
        is_led_out(site).await;
        assert!(!is_on_net(site));
    })
}

pub(super) fn disconnect_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if is_on_net(site) {
            site.ctl(&DISCONNECT).ok();
        }
        connect_again(site).await;
    })
}

fn is_on_net(site: &Site) -> bool {
    let names = "{{range $name, $n := .NetworkSettings.Networks}}{{$name}} {{end}}";
    site.inspect("one", names)
        .split(' ')
        .any(|name| name == "net")
}

/// Interfaces, default route, published port, name servers and names are those of the networks that it is said to
/// be on.
async fn is_led_out(site: &Site) {
    eventually("its network is what it is said to be", async || {
        let network = if is_on_net(site) { "net" } else { "bridge" };
        let of = |what: &str| {
            site.inspect(
                "one",
                &format!("{{{{.NetworkSettings.Networks.{network}.{what}}}}}"),
            )
        };
        let gateway = of("Gateway");
        let script = "ls /sys/class/net | wc -l; ip route; cat /etc/resolv.conf /etc/hosts";
        let said = site.ctl(&["exec", "one", "sh", "-c", script]).out;
        let own = |line: &&str| {
            line.ends_with(&format!(
                "\t{}",
                site.inspect("one", "{{.Config.Hostname}}")
            ))
        };
        let networks = if network == "net" { 2 } else { 1 };
        let holds = said.starts_with(&format!("{}\n", networks + 1))
            && said.contains(&format!("default via {gateway} "))
            && said.contains(&format!("nameserver {gateway}\n"))
            && said.contains(&format!("\n{}\t", of("IPAddress")))
            && said.lines().filter(own).count() == networks
            && site.ctl(&["port", "one"]).out.contains(":8081");
        holds.then_some(())
    })
    .await;
}

pub(super) fn on_the_wire<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        has_its_links(site).await;
        cut.told.agrees_with(is_on_net(site));
        runs(site, cut).await;
    })
}

pub(super) fn wire_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if !is_on_net(site) {
            site.ctl(&["network", "connect", "net", "one"]).ok();
        }
        has_its_links(site).await;
        site.ctl(&DISCONNECT).ok();
        has_its_links(site).await;
        assert!(!is_on_net(site));
        // What the operation was made ready with.
        let gone = site.output("ip", &["link", "del", "wire0"]);
        assert!(gone.status.success());
    })
}

/// As many as it is on networks, and lo; with the addresses that are said.
async fn has_its_links(site: &Site) {
    eventually("its links are those of its networks", async || {
        let (links, address) = match is_on_net(site) {
            true => (3, "{{.NetworkSettings.Networks.net.IPAddress}}"),
            false => (2, "{{.NetworkSettings.Networks.bridge.IPAddress}}"),
        };
        let script = "ls /sys/class/net | wc -l; ip -4 address";
        let said = site.ctl(&["exec", "one", "sh", "-c", script]).out;
        let address = site.inspect("one", address);
        let holds = said.starts_with(&format!("{links}\n")) && said.contains(&address);
        holds.then_some(())
    })
    .await;
}

pub(super) fn overlay_again(site: &Site) -> Work<'_> {
    made_again(site, &OVERLAY)
}

pub(super) fn told_of_peers<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move { cut.told.agrees_with(has_three_hosts(site)) })
}

pub(super) fn peers_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if !has_three_hosts(site) {
            site.ctl(&LONGER).ok();
        }
        assert!(has_three_hosts(site));
        overlay_again(site).await;
    })
}

/// As netd and the kernel say alike.
fn has_three_hosts(site: &Site) -> bool {
    let told = site.inspect("net", "{{len .Peers}}") == "3";
    let routes = site.output("ip", &["route"]);
    let led = String::from_utf8_lossy(&routes.stdout).contains("10.20.2.0/24 via");
    assert_eq!(told, led);
    told
}

pub(super) fn remove_overlay_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if site.ctl(&["network", "inspect", "net"]).code == 0 {
            site.ctl(&["network", "rm", "net"]).ok();
        }
        overlay_again(site).await;
    })
}
