//! Published ports as people limit and change them, from two clients on the LAN.

use slipway_tests::{Neighbour, Site, eventually, installed};

const SERVE: &str = "echo page > /tmp/index.html; exec busybox httpd -f -p 80 -h /tmp";
const OTHER: &str = "198.51.100.3";

/// A site with a LAN on which a host has two addresses.
async fn site() -> Option<(Site, Neighbour)> {
    if !installed(&["curl"]) {
        return None;
    }
    let mut site = Site::with_busybox().await?;
    let neighbour = Neighbour::of(&mut site);
    let more = format!("{OTHER}/24");
    let added = neighbour.output("ip", &["address", "add", &more, "dev", "lan0"]);
    assert!(added.status.success(), "{added:?}");
    Some((site, neighbour))
}

async fn serve(site: &Site, name: &str, port: u16, options: &[&str]) {
    let command = ["busybox", "sh", "-c", SERVE];
    let publish = format!("{port}:80");
    let run = ["run", "-d", "--name", name, "-p", &publish];
    site.ctl(&[&run[..], options, &command].concat()).ok();
    serves(site, port).await;
}

/// The server has begun; the host is never limited.
async fn serves(site: &Site, port: u16) {
    let url = format!("http://127.0.0.1:{port}/");
    eventually("the page comes", async || site.fetch(&url).map(drop)).await;
}

/// Whether a client of that address gets the page.
fn gets(neighbour: &Neighbour, client: &str, port: u16) -> bool {
    let url = format!("http://{}:{port}/", neighbour.site_address);
    let arguments = ["-sf", "-m", "1", "--interface", client, &url];
    neighbour.output("curl", &arguments).status.success()
}

#[tokio::test]
async fn a_port_is_for_the_clients_that_were_named() {
    let Some((site, neighbour)) = site().await else {
        return;
    };
    let own = neighbour.address.clone();
    serve(&site, "web", 8080, &["--publish-from", &own]).await;
    assert!(gets(&neighbour, &own, 8080));
    assert!(!gets(&neighbour, OTHER, 8080));
    assert_eq!(
        site.ctl(&["port", "web"]).ok(),
        format!("80/tcp -> 0.0.0.0:8080 from {own}/32\n")
    );
    assert_eq!(site.ctl(&["port", "web", "80"]).ok(), "0.0.0.0:8080\n");
    let told = site.inspect("web", "{{json .NetworkSettings.Ports}}");
    assert!(
        told.contains(&format!("\"PublishFrom\":[\"{own}/32\"]")),
        "{told}"
    );

    let refused = site.ctl(&["run", "-p", "1:1", "--publish-from", "lan", "busybox"]);
    assert!(refused.error(125).contains("invalid range of clients"));
    let alone = site.ctl(&["run", "--publish-from", "10.0.0.0/8", "busybox"]);
    assert!(alone.error(125).contains("publish some with -p or -P"));

    // The container runs on while others are let in, and shut out.
    let everybody = ["port", "add", "web", "-p", "8080:80"];
    site.ctl(&everybody).ok();
    assert!(gets(&neighbour, OTHER, 8080));
    let limited = [&everybody[..], &["--publish-from", OTHER]].concat();
    site.ctl(&limited).ok();
    assert!(gets(&neighbour, OTHER, 8080) && !gets(&neighbour, &own, 8080));
    site.ctl(&["restart", "-t", "0", "web"]).ok();
    serves(&site, 8080).await;
    assert!(gets(&neighbour, OTHER, 8080) && !gets(&neighbour, &own, 8080));
}

#[tokio::test]
async fn of_a_range_of_the_hosts_ports_one_that_is_free_is_taken() {
    let Some((site, neighbour)) = site().await else {
        return;
    };
    let own = neighbour.address.clone();
    let run = |name: &str| {
        let options = ["-d", "--name", name, "-p", "8080-8081:80", "busybox"];
        let command = ["busybox", "sh", "-c", SERVE];
        site.ctl(&[&["run"], &options[..], &command].concat())
    };
    for (name, port) in [("one", 8080), ("two", 8081)] {
        run(name).ok();
        assert_eq!(
            site.ctl(&["port", name, "80"]).ok(),
            format!("0.0.0.0:{port}\n")
        );
        serves(&site, port).await;
        assert!(gets(&neighbour, &own, port));
    }
    let refused = run("three").error(125);
    assert!(
        refused.contains("all host ports of the range 8080-8081 are taken"),
        "{refused}"
    );
    assert_eq!(
        site.inspect("two", "{{json .HostConfig.PortBindings}}"),
        r#"{"80/tcp":[{"HostIp":"","HostPort":"8080-8081"}]}"#
    );
    // Whoever was promised none of its own may have another one.
    site.ctl(&["stop", "-t", "0", "one"]).ok();
    site.ctl(&["restart", "-t", "0", "two"]).ok();
    serves(&site, 8080).await;
    assert_eq!(site.ctl(&["port", "two", "80"]).ok(), "0.0.0.0:8080\n");
    site.ctl(&["port", "rm", "two", "8080:80"]).ok();
    assert!(!gets(&neighbour, &own, 8080));
}

#[tokio::test]
async fn ports_are_added_and_removed_while_a_container_runs() {
    let Some((mut site, neighbour)) = site().await else {
        return;
    };
    let own = neighbour.address.clone();
    serve(&site, "web", 8080, &[]).await;
    let pid = site.inspect("web", "{{.State.Pid}}");
    let added = site
        .ctl(&["port", "add", "web", "-p", "8081:80", "-p", "80"])
        .ok();
    assert!(added.contains("80/tcp -> 0.0.0.0:8081\n"), "{added}");
    assert_eq!(added.lines().count(), 3);
    assert_eq!(site.ctl(&["port", "web"]).ok(), added);
    assert!(gets(&neighbour, &own, 8080) && gets(&neighbour, &own, 8081));

    serve(&site, "other", 8090, &[]).await;
    let taken = site.ctl(&["port", "add", "web", "-p", "8082:80", "-p", "8090:80"]);
    assert!(taken.error(1).contains("port is already allocated"));
    assert_eq!(site.ctl(&["port", "web"]).ok(), added, "all or nothing");
    assert!(!gets(&neighbour, &own, 8082));

    site.ctl(&["port", "rm", "web", "8080:80"]).ok();
    assert!(!gets(&neighbour, &own, 8080) && gets(&neighbour, &own, 8081));
    let missing = site.ctl(&["port", "rm", "web", "81/udp"]);
    assert!(missing.error(1).contains("port 81/udp is not published"));
    assert_eq!(
        site.inspect("web", "{{.State.Pid}}"),
        pid,
        "it was not started anew"
    );

    site.kill_and_restart("runtime").await;
    let left = site.ctl(&["port", "web"]).ok();
    assert!(
        left.contains(":8081\n") && left.lines().count() == 2,
        "{left}"
    );
    site.ctl(&["restart", "-t", "0", "web"]).ok();
    serves(&site, 8081).await;
    assert!(gets(&neighbour, &own, 8081) && !gets(&neighbour, &own, 8080));
    assert!(site.ctl(&["port", "rm", "web", "80"]).ok().is_empty());
    assert!(!gets(&neighbour, &own, 8081));
}

#[tokio::test]
async fn ports_of_a_container_that_does_not_run_are_those_of_its_next_start() {
    let Some((site, neighbour)) = site().await else {
        return;
    };
    let own = neighbour.address.clone();
    let command = ["busybox", "sh", "-c", SERVE];
    let create = ["create", "--name", "web", "-p", "8080:80"];
    site.ctl(&[&create[..], &command].concat()).ok();
    site.ctl(&["port", "add", "web", "-p", "8081:80"]).ok();
    site.ctl(&["port", "rm", "web", "8080:80"]).ok();
    let twice = site.ctl(&["port", "add", "web", "-p", "8081:81"]);
    assert!(
        twice
            .error(1)
            .contains("publishes port 8081/tcp of the host already")
    );
    site.ctl(&["start", "web"]).ok();
    assert_eq!(site.ctl(&["port", "web"]).ok(), "80/tcp -> 0.0.0.0:8081\n");
    serves(&site, 8081).await;
    assert!(gets(&neighbour, &own, 8081) && !gets(&neighbour, &own, 8080));

    site.sleeper("shared", &["--network", "host"]);
    let refused = site.ctl(&["port", "add", "shared", "-p", "80:80"]);
    assert!(refused.error(1).contains("no ports of its own"));
}
