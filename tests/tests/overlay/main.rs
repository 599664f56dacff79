//! A network that spans three hosts, each with services of its own, on one LAN.

use std::time::Duration;

use slipway_tests::{Site, eventually, lan::Lan};

const PEERS: &str = "peers=a=198.51.100.1,b=198.51.100.2,c=198.51.100.3";
const VXLAN: u16 = 4789;

/// Three hosts with the network on each; `None` where such a test cannot run.
async fn hosts(more: &[&str]) -> Option<(Lan, Vec<Site>)> {
    let mut sites = Vec::new();
    for _ in 0..3 {
        let site = Site::with_busybox().await?;
        site.allow(Duration::from_secs(240));
        sites.push(site);
    }
    let lan = Lan::of(&mut sites);
    for site in &sites {
        let create = ["network", "create", "-d", "overlay", "--opt", PEERS];
        let create = [&create[..], more, &["--subnet", "10.20.0.0/16", "wide"]];
        site.ctl(&create.concat()).ok();
    }
    Some((lan, sites))
}

fn inside(site: &Site, name: &str, script: &str) -> slipway_tests::Said {
    site.ctl(&["exec", name, "/bin/busybox", "sh", "-c", script])
}

/// Whether one container reaches another by its name.
fn reaches(site: &Site, from: &str, to: &str) -> bool {
    inside(site, from, &format!("/bin/busybox ping -c 1 -w 2 {to}")).code == 0
}

/// The same where it has to: a host that is slow to answer is asked again for a name.
async fn reaches_soon(site: &Site, from: &str, to: &str) {
    eventually(&format!("{from} reaches {to}"), async || {
        reaches(site, from, to).then_some(())
    })
    .await;
}

#[tokio::test]
async fn containers_of_three_hosts_find_and_reach_each_other() {
    let Some((lan, sites)) = hosts(&[]).await else {
        return;
    };
    let [a, b, c] = &sites[..] else { panic!() };
    let capture = lan.capture();
    for (site, name) in [(a, "one"), (b, "two"), (c, "three")] {
        site.sleeper(name, &["--network", "wide"]);
    }
    for (site, name) in [(a, "one"), (b, "two"), (c, "three")] {
        for other in ["one", "two", "three"] {
            reaches_soon(site, name, other).await;
        }
    }
    // As who they are, and back to their names.
    assert_eq!(
        b.inspect("two", "{{.NetworkSettings.Networks.wide.IPAddress}}"),
        "10.20.1.2"
    );
    eventually("its name is found by its address", async || {
        let found = inside(a, "one", "/bin/busybox nslookup 10.20.1.2").out;
        found.contains("two.wide").then_some(())
    })
    .await;

    // The largest packets fit through the tunnel as they are.
    let mtu = inside(a, "one", "/bin/busybox cat /sys/class/net/eth0/mtu").ok();
    assert_eq!(mtu, "1450\n");
    inside(a, "one", "/bin/busybox ping -c 1 -w 30 -s 1422 10.20.1.2").ok();
    let server = [
        "exec",
        "-d",
        "two",
        "/bin/busybox",
        "httpd",
        "-f",
        "-h",
        "/bin",
    ];
    b.ctl(&server).ok();
    let size = std::fs::metadata("/bin/busybox").unwrap().len().to_string();
    eventually("a megabyte comes through", async || {
        let fetch = "/bin/busybox wget -q -O - http://two/busybox | /bin/busybox wc -c";
        (inside(a, "one", fetch).out.trim() == size).then_some(())
    })
    .await;

    let heard = capture.end();
    assert!(
        heard.iter().any(|packet| packet.length == 1500),
        "the large ones"
    );
    // That a link hears multicasts (IGMP) the switch says, too.
    const IGMP: u8 = 2;
    for packet in heard.iter().filter(|packet| packet.protocol != IGMP) {
        let hosts = [0, 1, 2].map(Lan::address);
        let between = hosts.contains(&packet.from) && hosts.contains(&packet.to);
        assert!(
            between && packet.protocol == 17 && packet.port == VXLAN,
            "{packet:?}"
        );
        assert!(packet.length <= 1500 && !packet.fragment, "{packet:?}");
    }
}

#[tokio::test]
async fn a_host_that_is_cut_off_keeps_nobody_else_and_comes_back() {
    let Some((lan, mut sites)) = hosts(&[]).await else {
        return;
    };
    for (place, name) in ["one", "two", "three"].into_iter().enumerate() {
        sites[place].sleeper(name, &["--network", "wide"]);
    }
    reaches_soon(&sites[0], "one", "two").await;
    lan.cut(1);
    assert!(!reaches(&sites[0], "one", "two"));
    reaches_soon(&sites[0], "one", "three").await;
    reaches_soon(&sites[2], "three", "one").await;
    // Life goes on, on both sides of the cut.
    sites[2].sleeper("four", &["--network", "wide", "--network-alias", "late"]);
    reaches_soon(&sites[0], "one", "late").await;
    sites[1].kill_and_restart("netd").await;
    sites[1].sleeper("five", &["--network", "wide"]);
    reaches_soon(&sites[1], "five", "two").await;
    assert!(!reaches(&sites[1], "five", "one"));

    lan.mend(1);
    reaches_soon(&sites[0], "one", "two").await;
    reaches_soon(&sites[0], "one", "five").await;
    reaches_soon(&sites[1], "five", "late").await;
}

#[tokio::test]
async fn an_internal_network_spans_hosts_and_leads_nowhere_else() {
    let Some((_lan, sites)) = hosts(&["--internal"]).await else {
        return;
    };
    let [a, b, _] = &sites[..] else { panic!() };
    a.sleeper("one", &["--network", "wide"]);
    b.sleeper("two", &["--network", "wide"]);
    reaches_soon(a, "one", "two").await;
    reaches_soon(b, "two", "one").await;
    assert!(!reaches(a, "one", "198.51.100.2"), "the LAN");
    // By another of its networks it gets out, and still finds the other host.
    a.ctl(&["network", "connect", "bridge", "one"]).ok();
    reaches_soon(a, "one", "two").await;
    a.ctl(&["network", "disconnect", "wide", "one"]).ok();
    assert!(!reaches(a, "one", "10.20.1.2"));
}

#[tokio::test]
async fn it_is_shown_as_what_it_is() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let _lan = Lan::of(std::slice::from_mut(&mut site));
    let create = |more: &[&str]| {
        let create = ["network", "create", "-d", "overlay", "--opt", PEERS, "wide"];
        site.ctl(&[&create[..], more].concat())
    };
    assert!(create(&[]).error(1).contains("needs a --subnet"));
    let subnet = ["--subnet", "10.20.0.0/16"];
    let encrypted = [&subnet[..], &["--opt", "encrypted"]].concat();
    assert!(create(&encrypted).error(1).contains("host a has no key"));
    create(&subnet).ok();
    let listed = [
        "network",
        "ls",
        "-f",
        "driver=overlay",
        "--format",
        "{{.Name}} {{.Driver}} {{.Scope}}",
    ];
    assert_eq!(site.ctl(&listed).ok(), "wide overlay global\n");
    assert_eq!(
        site.inspect("wide", "{{json .IPAM.Config}} {{json .Peers}}"),
        "[{\"Gateway\":\"10.20.0.1\",\"IPRange\":\"10.20.0.0/24\",\"Subnet\":\"10.20.0.0/16\"}] \
         [{\"Here\":true,\"IP\":\"198.51.100.1\",\"Name\":\"a\",\"Subnet\":\"10.20.0.0/24\"},\
         {\"Here\":false,\"IP\":\"198.51.100.2\",\"Name\":\"b\",\"Subnet\":\"10.20.1.0/24\"},\
         {\"Here\":false,\"IP\":\"198.51.100.3\",\"Name\":\"c\",\"Subnet\":\"10.20.2.0/24\"}]"
    );
    let other = [
        "run",
        "--network",
        "wide",
        "--ip",
        "10.20.1.9",
        "busybox",
        "true",
    ];
    let said = site.ctl(&other);
    assert!(
        said.err.contains("belongs to host b (198.51.100.2)"),
        "{}",
        said.err
    );
    site.ctl(&["network", "rm", "wide"]).ok();
}
