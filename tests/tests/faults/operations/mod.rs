//! What is done to come by the points of an operation, and what must be true after it was cut off.

mod judges;
mod networks;
mod ports;

use std::pin::Pin;

use slipway_fault::inventory::Point;
use slipway_proto::runtime::v1::PruneLayersRequest;
use slipway_tests::{Site, eventually};

use self::{judges::*, networks::*, ports::*};
use crate::told::Cut;

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

/// The address of the default network's gateway is one that every host has.
const OVERLAY: [&str; 9] = [
    "network",
    "create",
    "-d",
    "overlay",
    "--opt",
    "peers=a=172.17.0.1,b=172.17.0.2",
    "--subnet",
    "10.20.0.0/16",
    "net",
];
/// The same with one host more.
const LONGER: [&str; 9] = {
    let mut longer = OVERLAY;
    longer[5] = "peers=a=172.17.0.1,b=172.17.0.2,c=172.17.0.3";
    longer
};
/// What it is connected to leads out, and has its ports.
const CONNECT: [&str; 6] = ["network", "connect", "--gw-priority", "5", "net", "one"];
const DISCONNECT: [&str; 4] = ["network", "disconnect", "net", "one"];

const PORT_ADD: [&str; 5] = ["port", "add", "one", "-p", "8082:81"];
const PORT_RM: [&str; 4] = ["port", "rm", "one", "80"];

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// An operation.
pub struct Operation {
    pub name: &'static str,
    /// What must be there first.
    pub prepare: fn(&Site),
    /// The words of ctl.
    pub act: Vec<&'static str>,
    /// What must be true after it was cut off and its program restarted, given what the caller was told.
    pub judge: for<'a> fn(&'a Site, Cut<'a>) -> Work<'a>,
    /// It can be done again.
    pub again: for<'a> fn(&'a Site) -> Work<'a>,
}

/// What comes by a point.
pub fn of(point: &Point) -> Operation {
    let name = match (point.program(), point.operation()) {
        ("netd", "attach") => "start",
        ("netd", "release") => "end",
        ("netd", "settle") => "connect",
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
        "exec" => make(run, &["exec", "one", "echo", "hello"], execed, exec_again),
        "stop" => make(run, &["stop", "-t", "1", "one"], stopped, stop_again),
        "end" => make(run, &["kill", "-s", "USR1", "one"], ended, end_again),
        "rm" => make(run, &["rm", "-f", "-v", "one"], removed, remove_again),
        "commit" => make(
            run_and_write,
            &["commit", "one", "committed"],
            committed,
            commit_again,
        ),
        "rename" => make(run, &["rename", "one", "two"], renamed, rename_again),
        "update" => make(
            run,
            &["update", "--pids-limit", "50", "one"],
            updated,
            update_again,
        ),
        "connect" => make(run_beside_network, &CONNECT, connected, connect_again),
        "direct" => make(
            run_beside_wire,
            &["network", "connect", "net", "one"],
            on_the_wire,
            wire_again,
        ),
        "disconnect" => make(run_on_two, &DISCONNECT, connected_no_more, disconnect_again),
        "ports" => make(run, &PORT_ADD, published, publish_again),
        "unports" => make(run, &PORT_RM, withdrawn, withdraw_again),
        "restart" => make(create_failing, &["start", "one"], restarts, start_again),
        "volume" => make(
            nothing,
            &["volume", "create", "data"],
            made_volume,
            volume_again,
        ),
        "unvolume" => make(
            make_volume,
            &["volume", "rm", "data"],
            removed_volume,
            remove_volume_again,
        ),
        "network" => make(
            nothing,
            &["network", "create", "net"],
            made_network,
            network_again,
        ),
        "overlay" => make(nothing, &OVERLAY, made_network, overlay_again),
        "peers" => make(make_overlay, &LONGER, told_of_peers, peers_again),
        "unoverlay" => make(
            make_overlay,
            &["network", "rm", "net"],
            removed_network,
            remove_overlay_again,
        ),
        "unnetwork" => make(
            make_network,
            &["network", "rm", "net"],
            removed_network,
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
pub async fn clear(site: &Site) {
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
    // Layers that nobody uses any more: a build's or a commit's would stay for a day.
    let everything = PruneLayersRequest { all: true };
    site.host().prune_layers(everything).await.unwrap();
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

pub fn run(site: &Site) {
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

fn make_overlay(site: &Site) {
    site.ctl(&OVERLAY).ok();
}

fn run_beside_network(site: &Site) {
    make_network(site);
    run(site);
}

fn run_beside_wire(site: &Site) {
    let pair = "link add wire0 type veth peer name wire1";
    for command in [pair, "link set wire0 up", "link set wire1 up"] {
        let arguments: Vec<_> = command.split(' ').collect();
        assert!(site.output("ip", &arguments).status.success(), "{command}");
    }
    let create = "network create -d macvlan --subnet 10.30.0.0/24 --opt parent=wire0 net";
    site.ctl(&create.split(' ').collect::<Vec<_>>()).ok();
    run(site);
}

fn run_on_two(site: &Site) {
    run_beside_network(site);
    site.ctl(&CONNECT).ok();
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
