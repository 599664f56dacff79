//! Containers on several networks: as they are made, live, and over kills of the services.

use slipway_tests::{Site, eventually};

fn networks(site: &Site) {
    site.ctl(&["network", "create", "--subnet", "10.81.0.0/24", "front"])
        .ok();
    let back = [
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.82.0.0/24",
        "back",
    ];
    site.ctl(&back).ok();
}

fn inside(site: &Site, name: &str, script: &str) -> String {
    site.ctl(&["exec", name, "sh", "-c", script]).ok()
}

/// Its default gateway.
fn out(site: &Site, name: &str) -> String {
    let routes = inside(site, name, "ip route");
    let default = routes.lines().find_map(|l| l.strip_prefix("default via "));
    let gateway = default.and_then(|rest| rest.split(' ').next());
    gateway.unwrap_or_default().to_owned()
}

/// Its interfaces but lo.
fn interfaces(site: &Site, name: &str) -> usize {
    inside(site, name, "ls /sys/class/net").lines().count() - 1
}

/// The names of its networks, as `inspect` and `ps` say alike.
fn on(site: &Site, name: &str) -> String {
    let format = "{{range $name, $n := .NetworkSettings.Networks}}{{$name}} {{end}}";
    let inspected = site.inspect(name, format).trim().to_owned();
    let filter = format!("name={name}");
    let list = ["ps", "-a", "--filter", &filter, "--format", "{{.Networks}}"];
    let listed = site.ctl(&list).ok();
    let mut listed: Vec<&str> = listed.trim().split(',').collect();
    listed.sort_unstable();
    assert_eq!(listed.join(" "), inspected);
    inspected
}

/// What `events` tell of a network.
fn told_of_front(site: &Site) -> Vec<String> {
    let words =
        "events --since 1h --until 0s --filter type=network --filter network=front --format";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.push("{{.Action}}");
    site.ctl(&words).ok().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_container_is_made_on_several_networks() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    networks(&site);
    site.sleeper("db", &["--network", "back", "--network-alias", "store"]);
    let options = [
        "--network",
        "name=back,ip=10.82.0.9,alias=x",
        "--network",
        "bridge",
        "--network",
        "name=front,ip=10.81.0.7,gw-priority=1,mac-address=02:00:00:00:00:07",
        "-p",
        "8081:80",
    ];
    site.sleeper("web", &options);
    assert_eq!(on(&site, "web"), "back bridge front");
    assert_eq!(
        (interfaces(&site, "web"), out(&site, "web").as_str()),
        (3, "10.81.0.1")
    );
    let mac = inside(&site, "web", "cat /sys/class/net/eth2/address");
    assert_eq!(mac.trim(), "02:00:00:00:00:07");
    // The ports go by the way out, names of all networks are known, and each has a line.
    assert_eq!(site.inspect("web", "{{len .NetworkSettings.Ports}}"), "1");
    let told = site.inspect("web", "{{.NetworkSettings.Networks.front.GwPriority}}");
    assert_eq!(told, "1");
    inside(&site, "web", "ping -c 1 -W 5 store");
    inside(&site, "db", "ping -c 1 -W 5 x");
    let hosts = inside(&site, "web", "cat /etc/hosts");
    let own: Vec<&str> = hosts.lines().filter(|l| l.starts_with("10.8")).collect();
    assert_eq!(own.len(), 2, "{hosts}");
    assert!(
        own[0].starts_with("10.82.0.9\t") && own[1].starts_with("10.81.0.7\t"),
        "{hosts}"
    );
    let resolv = inside(&site, "web", "cat /etc/resolv.conf");
    assert!(resolv.starts_with("nameserver 10.81.0.1\n"), "{resolv}");
    // All or none.
    let refused = [
        "create",
        "--network",
        "front",
        "--network",
        "host",
        "busybox",
    ];
    assert!(site.ctl(&refused).error(1).contains("cannot attach both"));
    let words = [
        "run",
        "-d",
        "--name",
        "half",
        "--network",
        "front",
        "--network",
        "nosuch",
        "busybox",
    ];
    assert!(
        site.ctl(&words)
            .error(125)
            .contains("network nosuch not found")
    );
    let on_front = "{{len .Containers}}";
    eventually("nothing of it is left", async || {
        let said = site
            .ctl(&["network", "inspect", "-f", on_front, "front"])
            .ok();
        (said.trim() == "1").then_some(())
    })
    .await;
    site.ctl(&["rm", "-f", "half", "web", "db"]).ok();
}

#[tokio::test]
async fn networks_come_and_go_while_it_runs() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    networks(&site);
    site.sleeper("web", &["-p", "8081:80"]);
    inside(&site, "web", "echo '9.9.9.9 mine' >> /etc/hosts");
    let connect = [
        "network",
        "connect",
        "--ip",
        "10.81.0.9",
        "--alias",
        "shop",
        "--gw-priority",
        "5",
    ];
    site.ctl(&[&connect[..], &["front", "web"]].concat()).ok();
    assert_eq!(on(&site, "web"), "bridge front");
    assert_eq!(
        (interfaces(&site, "web"), out(&site, "web").as_str()),
        (2, "10.81.0.1")
    );
    let hosts = || inside(&site, "web", "cat /etc/hosts");
    assert!(hosts().contains("9.9.9.9 mine\n10.81.0.9\t"), "{}", hosts());
    let resolv = inside(&site, "web", "cat /etc/resolv.conf");
    assert!(resolv.starts_with("nameserver 10.81.0.1\n"), "{resolv}");
    let aliases = "{{index .NetworkSettings.Networks.front.Aliases 0}}";
    assert_eq!(site.inspect("web", aliases), "shop");
    site.sleeper("other", &["--network", "front"]);
    inside(&site, "other", "ping -c 1 -W 5 shop");
    // On it already, no such network, a mode.
    let again = site.ctl(&["network", "connect", "front", "web"]).error(1);
    assert!(again.contains("already exists in network front"), "{again}");
    let none = site.ctl(&["network", "connect", "nosuch", "web"]).error(1);
    assert!(none.contains("network nosuch not found"), "{none}");
    let host = site.ctl(&["network", "connect", "host", "web"]).error(1);
    assert!(host.contains("host network"), "{host}");
    let taken = ["network", "connect", "--ip", "10.82.0.1", "back", "web"];
    assert!(site.ctl(&taken).code != 0);
    assert_eq!(on(&site, "web"), "bridge front");
    assert_eq!(told_of_front(&site), ["connect", "connect"]);
    // Both services forget all that they do not write down.
    for service in ["netd", "runtime"] {
        site.kill_and_restart(service).await;
    }
    eventually("its networks are known again", async || {
        (on(&site, "web") == "bridge front").then_some(())
    })
    .await;
    site.ctl(&["network", "disconnect", "front", "web"]).ok();
    assert_eq!(on(&site, "web"), "bridge");
    let gateway = site.inspect("web", "{{.NetworkSettings.Gateway}}");
    assert_eq!(
        (interfaces(&site, "web"), out(&site, "web")),
        (1, gateway.clone())
    );
    let hosts = inside(&site, "web", "cat /etc/hosts");
    assert!(
        hosts.ends_with("9.9.9.9 mine\n") && !hosts.contains("10.81"),
        "{hosts}"
    );
    let resolv = inside(&site, "web", "cat /etc/resolv.conf");
    assert!(
        resolv.starts_with(&format!("nameserver {gateway}\n")),
        "{resolv}"
    );
    let not = site
        .ctl(&["network", "disconnect", "front", "web"])
        .error(1);
    assert!(not.contains("is not connected to network front"), "{not}");
    // From none to one: names and ports come with it.
    site.ctl(&["network", "disconnect", "bridge", "web"]).ok();
    assert_eq!(
        (interfaces(&site, "web"), on(&site, "web").as_str()),
        (0, "")
    );
    site.ctl(&["network", "connect", "front", "web"]).ok();
    inside(&site, "web", "ping -c 1 -W 5 other");
    let port = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    assert_eq!(site.inspect("web", port), "8081");
    assert_eq!(told_of_front(&site), ["disconnect", "connect"]);
    site.ctl(&["rm", "-f", "web", "other"]).ok();
}

#[tokio::test]
async fn what_does_not_run_is_connected_by_its_record() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    networks(&site);
    site.ctl(&["create", "--name", "web", "busybox", "sleep", "1000"])
        .ok();
    site.ctl(&["network", "connect", "--ip", "10.81.0.9", "front", "web"])
        .ok();
    site.ctl(&["network", "disconnect", "bridge", "web"]).ok();
    assert_eq!(on(&site, "web"), "front");
    site.kill_and_restart("runtime").await;
    site.ctl(&["start", "web"]).ok();
    assert_eq!(on(&site, "web"), "front");
    assert_eq!(
        site.inspect("web", "{{.NetworkSettings.Networks.front.IPAddress}}"),
        "10.81.0.9"
    );
    site.ctl(&["restart", "-t", "0", "web"]).ok();
    assert_eq!(
        (out(&site, "web").as_str(), interfaces(&site, "web")),
        ("10.81.0.1", 1)
    );
    // A container of no network has none in company.
    site.sleeper("alone", &["--network", "none"]);
    let refused = site.ctl(&["network", "connect", "front", "alone"]).error(1);
    assert!(refused.contains("private (none) mode"), "{refused}");
    site.ctl(&["network", "disconnect", "none", "alone"]).ok();
    site.ctl(&["network", "connect", "front", "alone"]).ok();
    inside(&site, "alone", "ping -c 1 -W 5 web");
    let warned = site.ctl(&[
        "create",
        "--name",
        "open",
        "--network",
        "host",
        "-p",
        "80:80",
        "busybox",
    ]);
    assert!(
        warned
            .err
            .contains("Published ports are discarded when using host network mode")
    );
    site.ctl(&["rm", "-f", "web", "alone", "open"]).ok();
}

#[tokio::test]
async fn the_hosts_network_and_none_are_listed_and_stay() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let names = ["network", "ls", "--format", "{{.Name}} {{.Driver}}"];
    assert_eq!(
        site.ctl(&names).ok(),
        "bridge bridge\nhost host\nnone null\n"
    );
    let run = [
        "run",
        "-d",
        "--name",
        "open",
        "--network",
        "host",
        "-p",
        "80:80",
    ];
    let made = site.ctl(&[&run[..], &["busybox", "busybox", "sleep", "900"]].concat());
    let warned = "WARNING: Published ports are discarded when using host network mode";
    assert!(made.err.contains(warned), "{}", made.err);
    let on = "{{range .Containers}}{{.Name}}{{end}}";
    for (network, containers) in [("host", "open\n"), ("none", "\n")] {
        let shown = site.ctl(&["network", "inspect", "-f", on, network]).ok();
        assert_eq!(shown, containers, "{network}");
        let refused = site.ctl(&["network", "rm", network]).error(1);
        assert!(
            refused.contains(&format!("{network} is a pre-defined network")),
            "{refused}"
        );
    }
    // By their ids, too, which are as long as others' and stay.
    let id = site
        .ctl(&["network", "ls", "-q", "--filter", "name=host"])
        .ok();
    let shown = ["network", "inspect", "-f", "{{.Name}}", id.trim()];
    assert_eq!(site.ctl(&shown).ok(), "host\n");
}
