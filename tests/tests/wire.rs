//! Networks on the wire of a link: containers of two hosts are hosts of the LAN between them.

use slipway_tests::{Site, eventually, lan::Lan};

/// What `Lan` calls the first link that it makes in a site.
const LINK: &str = "parent=lan0";

async fn reaches(site: &Site, from: &str, to: &str) {
    let script = format!("/bin/busybox ping -c 1 -w 2 {to}");
    eventually(&format!("{from} reaches {to}"), async || {
        let ping = ["exec", from, "/bin/busybox", "sh", "-c", &script];
        (site.ctl(&ping).code == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn containers_are_hosts_of_the_lan_until_they_leave_it() {
    let (Some(a), Some(b)) = (Site::with_busybox().await, Site::with_busybox().await) else {
        return;
    };
    let mut sites = [a, b];
    let _lan = Lan::of(&mut sites);
    let [a, b] = &sites;
    for (site, range) in [(a, "198.51.100.64/27"), (b, "198.51.100.96/27")] {
        let create = ["network", "create", "-d", "macvlan", "--opt", LINK];
        let subnet = ["--subnet", "198.51.100.0/24", "--gateway", "198.51.100.2"];
        site.ctl(&[&create[..], &subnet, &["--ip-range", range, "lan"]].concat())
            .ok();
    }
    let at = |network| ["--network", network];
    a.sleeper(
        "one",
        &[&at("lan")[..], &["--ip", "198.51.100.70"]].concat(),
    );
    b.sleeper("two", &at("bridge"));
    // Somebody else's is not given out, whoever gave it to him.
    let taken = ["network", "connect", "--ip", "198.51.100.70", "lan", "two"];
    assert!(b.ctl(&taken).error(1).contains("already in use"));
    b.ctl(&["network", "connect", "--ip", "198.51.100.100", "lan", "two"])
        .ok();
    reaches(a, "one", "198.51.100.100").await;
    reaches(b, "two", "198.51.100.70").await;
    // The other host, which is its gateway here, but not its own.
    reaches(a, "one", "198.51.100.2").await;
    let own = [
        "exec",
        "one",
        "/bin/busybox",
        "ping",
        "-c",
        "1",
        "-w",
        "1",
        "198.51.100.1",
    ];
    assert_ne!(a.ctl(&own).code, 0);
    let routes = a.ctl(&["exec", "one", "/bin/busybox", "ip", "route"]).ok();
    assert!(
        routes.contains("default via 198.51.100.2 dev eth0"),
        "{routes}"
    );
    let of =
        "{{.NetworkSettings.Networks.lan.IPAddress}} {{.NetworkSettings.Networks.lan.Gateway}}";
    assert_eq!(a.inspect("one", of), "198.51.100.70 198.51.100.2");
    let shown = "{{.Driver}} {{.Options.parent}}";
    assert_eq!(a.inspect("lan", shown), "macvlan lan0");

    let publish = [
        "run",
        "--rm",
        "-p",
        "80",
        "--network",
        "lan",
        "busybox",
        "true",
    ];
    let said = a.ctl(&publish);
    assert!(said.err.contains("publish no ports"), "{}", said.err);

    // With a bridge network as well they go by that one, whichever was named first.
    let both = ["--network", "lan", "--network", "bridge", "-p", "80"];
    a.sleeper("web", &both);
    let is_published = |when: &str| {
        let ports = a.ctl(&["port", "web"]).ok();
        assert!(ports.starts_with("80/tcp -> "), "{when}: {ports}");
    };
    is_published("started");
    a.ctl(&["network", "disconnect", "bridge", "web"]).ok();
    a.ctl(&["network", "connect", "bridge", "web"]).ok();
    is_published("connected again");
    a.ctl(&["restart", "-t", "0", "web"]).ok();
    is_published("started again");
    // From no network to the wire it comes without its ports.
    a.ctl(&["network", "disconnect", "bridge", "web"]).ok();
    a.ctl(&["network", "disconnect", "lan", "web"]).ok();
    a.ctl(&["network", "connect", "lan", "web"]).ok();
    a.ctl(&["rm", "-f", "-v", "web"]).ok();

    a.ctl(&["rm", "-f", "one"]).ok();
    b.ctl(&["network", "disconnect", "lan", "two"]).ok();
    let links = b.ctl(&["exec", "two", "/bin/busybox", "ls", "/sys/class/net"]);
    assert_eq!(
        links.ok().split_whitespace().collect::<Vec<_>>(),
        ["eth0", "lo"]
    );
    // At once somebody else's.
    b.sleeper(
        "three",
        &[&at("lan")[..], &["--ip", "198.51.100.70"]].concat(),
    );
    for site in [a, b] {
        site.ctl(&["rm", "-f", "-v", "three"]);
        site.ctl(&["network", "rm", "lan"]).ok();
    }
}
