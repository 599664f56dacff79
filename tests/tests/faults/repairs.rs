//! Killed while it puts right what somebody else has changed: the next instance does.

use slipway_fault::{
    Action,
    inventory::{self, Point},
};
use slipway_tests::Site;

use crate::{
    bench::Bench,
    operations::{self, clear},
    wanted,
};

/// What is driven here.
pub const DRIVEN: &[&str] = &["netd.guard", "netd.rebuild", SETTINGS];

const SETTINGS: &str = "netd.settings";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn netd_is_killed_while_it_repairs() {
    let points: Vec<&Point> = inventory::all()
        .filter(|point| DRIVEN.contains(&crate::operation(point)) && wanted(point.name))
        .filter(|point| crate::operation(point) != SETTINGS)
        .collect();
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    for point in points {
        eprintln!("--- {}", point.name);
        operations::run(&bench.site);
        let gateway = bench.site.inspect("one", "{{.NetworkSettings.Gateway}}");
        let link = end_of(&bench.site, "one");
        bench.site.arm(point.name, Action::Kill);
        let deleted = bench.site.output("ip", &["link", "delete", &link]);
        assert!(deleted.status.success(), "{deleted:?}");
        bench.fires(point).await;
        bench.dies("netd").await;
        bench.restart_dead().await;
        // As it was: it is there, has its address, and leads out.
        let routes = bench.site.ctl(&["exec", "one", "ip", "route"]).ok();
        let out = format!("default via {gateway} dev eth0");
        assert!(routes.contains(&out), "{}: {routes}", point.name);
        let ping = ["exec", "one", "ping", "-c", "1", "-W", "5", &gateway];
        bench.site.ctl(&ping).ok();
        let again = bench.site.ctl(&["network", "reconcile"]).ok();
        assert_eq!(again, "Nothing had to be put right.\n", "{}", point.name);
        bench.nothing_contradicts(point.name);
        bench.beside_is_unharmed().await;
        clear(&bench.site).await;
        bench.clean(point.name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn netd_is_killed_while_it_follows_its_settings() {
    let points: Vec<&Point> = inventory::all()
        .filter(|point| crate::operation(point) == SETTINGS && wanted(point.name))
        .collect();
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    for point in points {
        eprintln!("--- {}", point.name);
        operations::run(&bench.site);
        let gateway = bench.site.inspect("one", "{{.NetworkSettings.Gateway}}");
        let ping = ["exec", "one", "ping", "-c", "1", "-W", "5", &gateway];
        bench.site.kill_service("netd");
        bench
            .site
            .configure("netd.toml", "bridge = \"other0\"\nmtu = 1400\n");
        bench.site.arm(point.name, Action::Kill);
        bench.site.spawn_service("netd");
        bench.fires(point).await;
        bench.dies("netd").await;
        bench.restart_dead().await;
        bench.site.ctl(&ping).ok();
        let links = bench.site.output("ip", &["-o", "link"]).stdout;
        let links = String::from_utf8(links).unwrap();
        assert!(
            links.contains(" other0: ") && !links.contains(" slipway0: "),
            "{}: {links}",
            point.name
        );
        let mtu = ["exec", "one", "cat", "/sys/class/net/eth0/mtu"];
        assert_eq!(bench.site.ctl(&mtu).ok(), "1400\n", "{}", point.name);
        bench.site.configure("netd.toml", "mtu = 1500\n");
        bench.site.kill_and_restart("netd").await;
        bench.site.ctl(&ping).ok();
        assert_eq!(bench.site.ctl(&mtu).ok(), "1500\n", "{}", point.name);
        let again = bench.site.ctl(&["network", "reconcile"]).ok();
        assert_eq!(again, "Nothing had to be put right.\n", "{}", point.name);
        bench.nothing_contradicts(point.name);
        bench.beside_is_unharmed().await;
        clear(&bench.site).await;
        bench.clean(point.name).await;
    }
}

/// The host's end of a container's link.
fn end_of(site: &Site, container: &str) -> String {
    let endpoint = site.inspect(
        container,
        "{{range .NetworkSettings.Networks}}{{.EndpointID}}{{end}}",
    );
    format!("sw{}", &endpoint[..10])
}
