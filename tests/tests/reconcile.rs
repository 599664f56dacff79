//! `ctl network reconcile`: what differs from what should be is put right, in both directions, and said.

use slipway_fault::Action;
use slipway_proto::netd::v1::CreateEndpointRequest;
use slipway_tests::{Site, eventually};

const NOTHING: &str = "Nothing had to be put right.\n";
const GUARD: &str = "netd.guard.heard";

async fn site_with_web() -> Option<Site> {
    if !slipway_tests::ready() {
        return None;
    }
    let mut site = Site::bare();
    site.allow_faults();
    site.start_services().await;
    slipway_tests::image::busybox(&site).await;
    let script = "echo here > /index.html; exec httpd -f -p 80 -h /";
    let words = "run -d --name web --cap-add NET_ADMIN -p 8081:80 busybox sh -c";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.push(script);
    site.ctl(&words).ok();
    answers(&site).await;
    assert_eq!(site.ctl(&["network", "reconcile"]).ok(), NOTHING);
    Some(site)
}

async fn answers(site: &Site) {
    eventually("its port answers", async || {
        let fetched = site.fetch("http://127.0.0.1:8081/index.html");
        (fetched.as_deref() == Some("here\n")).then_some(())
    })
    .await;
}

fn endpoint(site: &Site) -> String {
    site.inspect(
        "web",
        "{{range .NetworkSettings.Networks}}{{.EndpointID}}{{end}}",
    )
}

/// What was found; all of it was put right.
fn found(site: &Site) -> Vec<String> {
    let said = site.ctl(&["net", "reconcile"]).ok();
    let mut lines = said.lines();
    let title = lines.next().unwrap();
    assert!(title.starts_with("FOUND ") && title.ends_with(" DONE"));
    let mut found: Vec<String> = lines
        .map(|line| {
            line.strip_suffix(" put right")
                .expect(line)
                .trim()
                .to_owned()
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn what_somebody_changed_is_put_right_and_told() {
    let Some(site) = site_with_web().await else {
        return;
    };
    let link = format!("sw{}", &endpoint(&site)[..10]);
    site.ctl(&["exec", "web", "ip", "route", "del", "default"])
        .ok();
    assert_eq!(found(&site), ["container web had no way out by IPv4"]);

    site.arm(GUARD, Action::Wait);
    let ip = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let done = site.output("ip", &words);
        assert!(done.status.success(), "{done:?}");
    };
    // It hears of most of it, and would be first.
    ip("link set slipway0 mtu 1280");
    eventually("the guard stands still", async || {
        site.fired(GUARD).then_some(())
    })
    .await;
    ip("link set slipway0 mtu 1500");
    ip(&format!("link delete {link}"));
    ip("link add sw0123456789 type veth peer name far");
    ip("link set sw0123456789 master slipway0");
    let mut wanted = [
        format!("link {link} of container web is gone"),
        "link sw0123456789 belongs to nobody".to_owned(),
    ];
    wanted.sort();
    assert_eq!(found(&site), wanted);
    assert_eq!(site.ctl(&["network", "reconcile"]).ok(), NOTHING);
    site.disarm(GUARD);
    answers(&site).await;
}

#[tokio::test]
async fn endpoints_of_nobody_go_and_containers_get_theirs_back() {
    let Some(mut site) = site_with_web().await else {
        return;
    };
    // Of a container that runtime-svc has never heard of.
    let stranger = CreateEndpointRequest {
        container_id: "ab".repeat(32),
        container_name: "stranger".to_owned(),
        ..CreateEndpointRequest::default()
    };
    site.networks().create_endpoint(stranger).await.unwrap();
    let taken = "the endpoint of container stranger on network bridge belongs to nobody";
    assert_eq!(found(&site), [taken]);
    assert_eq!(site.ctl(&["network", "reconcile"]).ok(), NOTHING);

    // One that lives, and that netd knows nothing of any more.
    let address = site.inspect("web", "{{.NetworkSettings.IPAddress}}");
    let hosts = site.ctl(&["exec", "web", "cat", "/etc/hosts"]).ok();
    let record = format!("run/netd/endpoints/{}.json", endpoint(&site));
    site.kill_service("netd");
    std::fs::remove_file(site.path(&record)).unwrap();
    site.revive("netd").await;
    let links = site.ctl(&["exec", "web", "ls", "/sys/class/net"]).ok();
    assert!(!links.contains("eth0"), "{links}");
    assert_eq!(
        found(&site),
        ["container web had no endpoint on network bridge"]
    );
    answers(&site).await;
    let routes = site.ctl(&["exec", "web", "ip", "route"]).ok();
    assert!(routes.starts_with("default via 172."), "{routes}");
    let now = site.inspect("web", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(now, address);
    assert_eq!(site.ctl(&["exec", "web", "cat", "/etc/hosts"]).ok(), hosts);
    assert_eq!(site.ctl(&["network", "reconcile"]).ok(), NOTHING);
}

#[tokio::test]
async fn ports_come_back_by_the_network_that_can_have_them() {
    let Some(mut site) = site_with_web().await else {
        return;
    };
    for words in [
        "link add wire0 type veth peer name wire1",
        "link set wire0 up",
        "link set wire1 up",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let done = site.output("ip", &words);
        assert!(done.status.success(), "{done:?}");
    }
    // By its name it comes first, so that it leads out; it can have no ports.
    let create = "network create -d macvlan --opt parent=wire0 --subnet 198.51.100.0/24 air";
    site.ctl(&create.split(' ').collect::<Vec<_>>()).ok();
    site.ctl(&["network", "connect", "air", "web"]).ok();
    let leads_out = |site: &Site| {
        let routes = site.ctl(&["exec", "web", "ip", "route"]).ok();
        assert!(routes.contains("default via 198.51.100.1 "), "{routes}");
    };
    leads_out(&site);
    let ids = site.inspect(
        "web",
        "{{range .NetworkSettings.Networks}}{{.EndpointID}} {{end}}",
    );
    site.kill_service("netd");
    for id in ids.split_whitespace() {
        let record = format!("run/netd/endpoints/{id}.json");
        std::fs::remove_file(site.path(&record)).unwrap();
    }
    site.revive("netd").await;
    let lacks = |network: &str| format!("container web had no endpoint on network {network}");
    let mut told = found(&site);
    told.sort();
    assert_eq!(told, ["air", "bridge"].map(lacks));
    answers(&site).await;
    leads_out(&site);
    assert_eq!(site.ctl(&["network", "reconcile"]).ok(), NOTHING);

    // Those of one that is cut off when it is connected come with the network, too.
    site.ctl(&["network", "disconnect", "bridge", "web"]).ok();
    site.arm("runtime.connect.recorded", Action::Kill);
    assert_ne!(site.ctl(&["network", "connect", "bridge", "web"]).code, 0);
    site.kill_service("runtime");
    site.revive("runtime").await;
    answers(&site).await;
    leads_out(&site);
    site.ctl(&["rm", "-f", "-v", "web"]).ok();
    site.ctl(&["network", "rm", "air"]).ok();
    let gone = site.output("ip", &["link", "del", "wire0"]);
    assert!(gone.status.success(), "{gone:?}");
}
