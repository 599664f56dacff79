//! What is done to come by the points of an operation, and what must be true after it was cut off.

use std::pin::Pin;

use slipway_fault::inventory::Point;
use slipway_tests::{Site, eventually};

/// Ends with 7 by USR1, not at all by TERM.
const SCRIPT: &str = "trap 'exit 7' USR1; trap '' TERM; echo up; sleep 1000 & wait";
const CREATE: [&str; 11] = [
    "create",
    "--name",
    "one",
    "-v",
    "data:/data",
    "-v",
    "/own",
    "busybox",
    "sh",
    "-c",
    SCRIPT,
];

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// An operation.
pub struct Operation {
    pub name: &'static str,
    /// What must be there first.
    pub prepare: fn(&Site),
    /// The words of ctl.
    pub act: Vec<&'static str>,
    /// What must be true after it was cut off and its program restarted.
    pub judge: for<'a> fn(&'a Site, &'a Point) -> Work<'a>,
    /// It can be done again.
    pub again: for<'a> fn(&'a Site) -> Work<'a>,
}

/// What comes by a point.
pub fn of(point: &Point) -> Operation {
    let name = match (point.program(), point.operation()) {
        ("netd", "attach") => "start",
        ("netd", "release") => "end",
        (_, operation) => operation,
    };
    let make = |prepare, act: &[&'static str], judge, again| Operation {
        name,
        prepare,
        act: act.to_vec(),
        judge,
        again,
    };
    match name {
        "create" => make(nothing, &CREATE, created, create_again),
        "start" => make(create, &["start", "one"], started, start_again),
        "exec" => make(run, &["exec", "one", "echo", "hello"], runs, exec_again),
        "stop" => make(run, &["stop", "-t", "1", "one"], stopped, stop_again),
        "end" => make(run, &["kill", "-s", "USR1", "one"], ended, end_again),
        "rm" => make(run, &["rm", "-f", "-v", "one"], removed, remove_again),
        "commit" => make(
            run_and_write,
            &["commit", "one", "committed"],
            runs,
            commit_again,
        ),
        "rename" => make(run, &["rename", "one", "two"], renamed, rename_again),
        "update" => make(
            run,
            &["update", "--pids-limit", "50", "one"],
            runs,
            update_again,
        ),
        "restart" => make(create_failing, &["start", "one"], restarts, start_again),
        "volume" => make(
            nothing,
            &["volume", "create", "data"],
            anything,
            volume_again,
        ),
        "unvolume" => make(
            make_volume,
            &["volume", "rm", "data"],
            anything,
            remove_volume_again,
        ),
        "network" => make(
            nothing,
            &["network", "create", "net"],
            anything,
            network_again,
        ),
        "unnetwork" => make(
            make_network,
            &["network", "rm", "net"],
            anything,
            remove_network_again,
        ),
        other => panic!("nobody knows how to come by the points of {other}"),
    }
}

/// A container as it is said to be.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub status: String,
    pub code: i32,
    pub pid: String,
    pub error: String,
}

/// A container's state, as `inspect` and `ps` say alike; none when there is no such container.
pub fn state(site: &Site, name: &str) -> Option<State> {
    let format = "{{.State.Status}};{{.State.ExitCode}};{{.State.Pid}};{{.State.OOMKilled}};{{.State.Error}}";
    let list = ["ps", "-a", "--format", "{{.Names}} {{.State}}"];
    let mut looked = 0;
    loop {
        let said = site.ctl(&["container", "inspect", "-f", format, name]);
        let all = site.ctl(&list).ok();
        let listed = all
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        let missing = said.code != 0 && said.err.to_lowercase().contains("no such container");
        let inspected = said.out.split(';').next().filter(|_| said.code == 0);
        if !missing && inspected.is_none() || inspected != listed {
            // It has changed in between.
            looked += 1;
            assert!(looked < 10, "{said:?} and {listed:?} of ps do not agree");
            continue;
        }
        if missing {
            return None;
        }
        let parts: Vec<&str> = said.out.trim_end().splitn(5, ';').collect();
        assert_eq!(parts[3], "false", "nobody was out of memory");
        let state = State {
            status: parts[0].to_owned(),
            code: parts[1].parse().unwrap(),
            pid: parts[2].to_owned(),
            error: parts[4].to_owned(),
        };
        let runs = ["running", "paused"].contains(&state.status.as_str());
        assert_eq!(state.pid == "0", !runs, "{state:?}");
        return Some(state);
    }
}

/// Takes everything away that operations make, as a user would.
pub fn clear(site: &Site) {
    for name in ["one", "two"] {
        if site.ctl(&["container", "inspect", name]).code == 0 {
            site.ctl(&["rm", "-f", "-v", name]).ok();
        }
    }
    for words in [
        ["volume", "rm", "data"],
        ["network", "rm", "net"],
        ["image", "rm", "committed"],
    ] {
        // Not there is fine; what stays is found by the audit.
        site.ctl(&words);
    }
}

fn nothing(_: &Site) {}

fn create(site: &Site) {
    site.ctl(&[
        "create", "--name", "one", "-p", "8081:80", "busybox", "sh", "-c", SCRIPT,
    ])
    .ok();
}

fn create_failing(site: &Site) {
    site.ctl(&[
        "create",
        "--name",
        "one",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "echo up; usleep 300000; exit 1",
    ])
    .ok();
}

fn run(site: &Site) {
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "one",
        "-v",
        "/own",
        "--restart",
        "unless-stopped",
        "-p",
        "8081:80",
        "busybox",
        "sh",
        "-c",
        SCRIPT,
    ])
    .ok();
    wait_for_log(site);
    // Only its end by a signal that nobody asked for brings it back; here none does.
    site.ctl(&["update", "--restart", "no", "one"]).ok();
}

fn run_and_write(site: &Site) {
    run(site);
    site.ctl(&["exec", "one", "touch", "/written"]).ok();
}

fn make_volume(site: &Site) {
    site.ctl(&["volume", "create", "data"]).ok();
}

fn make_network(site: &Site) {
    site.ctl(&["network", "create", "net"]).ok();
}

fn wait_for_log(site: &Site) {
    for _ in 0..1000 {
        if site.ctl(&["logs", "one"]).out.starts_with("up\n") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it does not come up");
}

/// It is not left frozen, its processes can be joined, and its network works.
async fn is_well(site: &Site, name: &str) {
    eventually("it can be joined", async || {
        (site.ctl(&["exec", name, "true"]).code == 0).then_some(())
    })
    .await;
    let gateway = site.inspect(name, "{{.NetworkSettings.Gateway}}");
    let ping = ["exec", name, "ping", "-c", "1", "-W", "5", gateway.as_str()];
    assert_eq!(site.ctl(&ping).code, 0, "its network is gone");
    assert!(site.ctl(&["logs", name]).ok().starts_with("up\n"));
}

/// Whatever was cut off: what is said of containers is what there is, as soon as those that were about to
/// end have ended.
pub async fn is_consistent(site: &Site) {
    for name in ["one", "two"] {
        let joined = || site.ctl(&["exec", name, "true"]).code == 0;
        let what = format!("{name} is what it is said to be");
        let state = eventually(&what, async || {
            let state = state(site, name);
            let runs = state.as_ref().is_some_and(|s| s.status == "running");
            (!runs || joined()).then_some(state)
        })
        .await;
        let Some(state) = state else { continue };
        match (state.status.as_str(), state.error.as_str()) {
            ("running", _) => is_well(site, name).await,
            ("exited", "") => assert!([7, 137].contains(&state.code), "{state:?}"),
            ("exited", _) => is_said_to_be_without_monitor(&state),
            ("created" | "restarting", _) => {}
            _ => panic!("{state:?}"),
        }
    }
}

/// Its monitor was killed, and that is what is said of it.
fn is_said_to_be_without_monitor(state: &State) {
    assert_eq!(
        (state.status.as_str(), state.code),
        ("exited", 137),
        "{state:?}"
    );
    assert!(state.error.contains("monitor"), "{state:?}");
}

fn created<'a>(site: &'a Site, _: &'a Point) -> Work<'a> {
    Box::pin(async {
        if let Some(state) = state(site, "one") {
            assert_eq!(state.status, "created", "{state:?}");
        }
    })
}

fn create_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_none() {
            site.ctl(&CREATE).ok();
        }
        site.ctl(&["start", "one"]).ok();
        wait_for_log(site);
        is_well(site, "one").await;
    })
}

fn started<'a>(site: &'a Site, point: &'a Point) -> Work<'a> {
    Box::pin(async move {
        if point.program() == "monitor" {
            eventually("its end is noticed", async || {
                state(site, "one").filter(|s| s.status != "running")
            })
            .await;
        }
        let state = state(site, "one").expect("it was there before");
        match (state.status.as_str(), point.program()) {
            // It was never asked for, or nobody got so far.
            ("created", _) => assert_eq!(state.error, "", "{state:?}"),
            ("running", "runtime" | "netd" | "spawner" | "taker") => {}
            ("exited", "init") => {
                assert_eq!(state.code, 128, "{state:?}");
                assert!(state.error.contains("on its way"), "{state:?}");
            }
            ("exited", "netd") => {}
            ("exited", _) => is_said_to_be_without_monitor(&state),
            _ => panic!("{state:?}"),
        }
    })
}

fn start_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_some_and(|s| s.status != "running" && s.status != "restarting") {
            site.ctl(&["start", "one"]).ok();
        }
        wait_for_log(site);
        if !site
            .inspect("one", "{{.HostConfig.RestartPolicy.Name}}")
            .contains("always")
        {
            is_well(site, "one").await;
        }
    })
}

fn runs<'a>(site: &'a Site, point: &'a Point) -> Work<'a> {
    Box::pin(async move {
        if point.program() == "monitor" {
            eventually("its end is noticed", async || {
                state(site, "one").filter(|s| s.status == "exited")
            })
            .await;
            is_said_to_be_without_monitor(&state(site, "one").unwrap());
            return;
        }
        assert_eq!(state(site, "one").unwrap().status, "running");
        is_well(site, "one").await;
    })
}

fn exec_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").unwrap().status == "exited" {
            site.ctl(&["start", "one"]).ok();
        }
        assert_eq!(site.ctl(&["exec", "one", "echo", "hello"]).ok(), "hello\n");
        eventually("no process of an exec is left", async || {
            (site.ctl(&["top", "one"]).ok().lines().count() == 3).then_some(())
        })
        .await;
    })
}

fn stopped<'a>(site: &'a Site, point: &'a Point) -> Work<'a> {
    Box::pin(async move {
        if point.name != "runtime.stop.killed" {
            assert_eq!(state(site, "one").unwrap().status, "running");
            return is_well(site, "one").await;
        }
        let state = eventually("it has ended", async || {
            state(site, "one").filter(|s| s.status == "exited")
        })
        .await;
        assert_eq!((state.code, state.error.as_str()), (137, ""));
    })
}

fn stop_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").unwrap().status == "exited" {
            site.ctl(&["start", "one"]).ok();
        }
        site.ctl(&["stop", "-t", "0", "one"]).ok();
        let state = state(site, "one").unwrap();
        assert_eq!(
            (state.status.as_str(), state.code, state.error.as_str()),
            ("exited", 137, "")
        );
        assert_eq!(site.ctl(&["wait", "one"]).ok(), "137\n");
    })
}

fn ended<'a>(site: &'a Site, point: &'a Point) -> Work<'a> {
    Box::pin(async move {
        let state = eventually("it has ended", async || {
            state(site, "one").filter(|s| s.status == "exited")
        })
        .await;
        match point.name {
            "monitor.end.reaped" | "monitor.end.killed" | "monitor.end.drained" => {
                is_said_to_be_without_monitor(&state);
                assert!(site.ctl(&["wait", "one"]).error(1).contains("monitor"));
            }
            _ => {
                assert_eq!((state.code, state.error.as_str()), (7, ""), "{state:?}");
                assert_eq!(site.ctl(&["wait", "one"]).ok(), "7\n");
            }
        }
        assert_eq!(site.ctl(&["logs", "one"]).ok(), "up\n");
    })
}

fn end_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&["start", "one"]).ok();
        eventually("it is up again", async || {
            (site.ctl(&["logs", "one"]).out == "up\nup\n").then_some(())
        })
        .await;
        is_well(site, "one").await;
        site.ctl(&["kill", "-s", "USR1", "one"]).ok();
        assert_eq!(site.ctl(&["wait", "one"]).ok(), "7\n");
    })
}

fn removed<'a>(site: &'a Site, _: &'a Point) -> Work<'a> {
    Box::pin(async {
        if let Some(state) = state(site, "one") {
            assert_eq!(
                (state.status.as_str(), state.code),
                ("exited", 137),
                "{state:?}"
            );
        }
    })
}

fn remove_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_some() {
            site.ctl(&["rm", "-f", "-v", "one"]).ok();
        }
        run(site);
        site.ctl(&["rm", "-f", "-v", "one"]).ok();
        assert_eq!(state(site, "one"), None);
    })
}

fn commit_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&["commit", "one", "committed"]).ok();
        site.ctl(&["run", "--rm", "committed", "test", "-e", "/written"])
            .ok();
    })
}

fn renamed<'a>(site: &'a Site, _: &'a Point) -> Work<'a> {
    Box::pin(async {
        let (old, new) = (state(site, "one"), state(site, "two"));
        let (name, state) = match (old, new) {
            (Some(state), None) => ("one", state),
            (None, Some(state)) => ("two", state),
            both => panic!("it has not exactly one name: {both:?}"),
        };
        assert_eq!(state.status, "running");
        is_well(site, name).await;
        is_found(site, name).await;
    })
}

fn rename_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_some() {
            site.ctl(&["rename", "one", "two"]).ok();
        }
        assert!(state(site, "one").is_none() && state(site, "two").is_some());
        is_found(site, "two").await;
    })
}

/// Under its name by another container.
async fn is_found(site: &Site, name: &str) {
    eventually("it is found by its name", async || {
        let ping = ["exec", "beside", "ping", "-c", "1", "-W", "5", name];
        (site.ctl(&ping).code == 0).then_some(())
    })
    .await;
}

fn update_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        let held = || {
            let id = site.inspect("one", "{{.Id}}");
            let tree =
                |root: &str| std::fs::read_to_string(format!("{root}/slipway/{id}/pids.max"));
            let limit = tree("/sys/fs/cgroup/pids").or_else(|_| tree("/sys/fs/cgroup"));
            limit.unwrap().trim().to_owned()
        };
        let known = site.inspect("one", "{{.HostConfig.PidsLimit}}");
        match known.as_str() {
            "50" => assert_eq!(held(), "50"),
            _ => assert_eq!(held(), "max", "the kernel holds what nobody knows of"),
        }
        site.ctl(&["update", "--pids-limit", "50", "one"]).ok();
        assert_eq!(
            (
                site.inspect("one", "{{.HostConfig.PidsLimit}}").as_str(),
                held().as_str()
            ),
            ("50", "50")
        );
    })
}

fn restarts<'a>(site: &'a Site, _: &'a Point) -> Work<'a> {
    Box::pin(async {
        let count = || {
            site.inspect("one", "{{.RestartCount}}")
                .parse::<u32>()
                .unwrap()
        };
        let before = count();
        eventually("it is brought back", async || {
            (count() > before).then_some(())
        })
        .await;
    })
}

fn anything<'a>(_: &'a Site, _: &'a Point) -> Work<'a> {
    Box::pin(async {})
}

fn volume_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&["volume", "create", "data"]).ok();
        let uses = [
            "run",
            "--rm",
            "-v",
            "data:/data",
            "busybox",
            "touch",
            "/data/file",
        ];
        site.ctl(&uses).ok();
    })
}

fn remove_volume_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if site.ctl(&["volume", "inspect", "data"]).code == 0 {
            site.ctl(&["volume", "rm", "data"]).ok();
        }
        volume_again(site).await;
    })
}

fn network_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if site.ctl(&["network", "inspect", "net"]).code != 0 {
            site.ctl(&["network", "create", "net"]).ok();
        }
        let script =
            "ping -c 1 -W 5 $(ip route | grep default | { read a b gateway c; echo $gateway; })";
        site.ctl(&[
            "run",
            "--rm",
            "--network",
            "net",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    })
}

fn remove_network_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if site.ctl(&["network", "inspect", "net"]).code == 0 {
            site.ctl(&["network", "rm", "net"]).ok();
        }
        network_again(site).await;
    })
}
