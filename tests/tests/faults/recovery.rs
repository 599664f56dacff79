//! Killed while it recovers: the next instance finishes what was begun twice.

use std::time::Duration;

use slipway_fault::{
    Action,
    inventory::{self, Point},
};
use slipway_tests::{Site, eventually};

use crate::{
    bench::Bench,
    operations::{clear, state},
    wanted,
};

/// What is driven here.
pub const DRIVEN: &[&str] = &["runtime.recover", "netd.sync", "netd.recover"];

const SCRIPT: &str = "trap 'exit 7' USR1; echo up; sleep 1000 & wait";
const NAMES: [&str; 4] = ["lives", "ended", "goes", "returns"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_killed_while_they_recover() {
    let points: Vec<&Point> = inventory::all()
        .filter(|point| DRIVEN.contains(&crate::operation(point)) && wanted(point.name))
        .collect();
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    for point in points {
        eprintln!("--- {}", point.name);
        let lives = prepare(&bench.site);
        // They end while nobody looks.
        bench.site.kill_service("runtime");
        if point.name.starts_with("netd.recover") {
            bench.site.kill_service("netd");
        }
        end_unseen(&bench.site).await;
        bench.site.arm(point.name, Action::Kill);
        if point.name.starts_with("netd.recover") {
            bench.site.spawn_service("netd");
            bench.dies("netd").await;
        } else {
            bench.site.spawn_service("runtime");
        }
        bench.fires(point).await;
        bench.dies(point.program()).await;
        bench.restart_dead().await;
        if point.operation() == "sync" {
            eventually("runtime-svc listens", async || {
                (bench.site.ctl(&["ps"]).code == 0).then_some(())
            })
            .await;
        }
        judge(&bench.site, &lives).await;
        bench.nothing_contradicts(point.name);
        bench.beside_is_unharmed().await;
        for name in NAMES {
            if bench.site.ctl(&["container", "inspect", name]).code == 0 {
                bench.site.ctl(&["rm", "-f", "-v", name]).ok();
            }
        }
        clear(&bench.site).await;
        bench.clean(point.name).await;
    }
}

/// One that lives on, and three that will have ended; the first process of the former.
fn prepare(site: &Site) -> String {
    for (name, option) in
        NAMES
            .into_iter()
            .zip(["--restart=no", "--restart=no", "--rm", "--restart=always"])
    {
        site.ctl(&[
            "run", "-d", "--name", name, option, "-v", "/own", "busybox", "sh", "-c", SCRIPT,
        ])
        .ok();
    }
    for name in NAMES {
        while !site.ctl(&["logs", name]).out.starts_with("up") {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    site.inspect("lives", "{{.State.Pid}}")
}

async fn end_unseen(site: &Site) {
    for folder in std::fs::read_dir(site.path("state/runtime/containers")).unwrap() {
        let folder = folder.unwrap().path();
        let record = std::fs::read(folder.join("config.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        if !["ended", "goes", "returns"].contains(&record["name"].as_str().unwrap()) {
            continue;
        }
        let id = record["id"].as_str().unwrap();
        let group = [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/pids",
        ]
        .map(|tree| format!("{tree}/slipway/{id}/cgroup.procs"));
        let text = group
            .iter()
            .find_map(|file| std::fs::read_to_string(file).ok())
            .unwrap();
        let first = text
            .lines()
            .map(|pid| pid.parse::<i32>().unwrap())
            .min()
            .unwrap();
        let pid = rustix::process::Pid::from_raw(first).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let exit = folder.join("exit.json");
        eventually("its monitor writes how it ended", async || {
            exit.exists().then_some(())
        })
        .await;
    }
}

async fn judge(site: &Site, pid: &str) {
    let lives = state(site, "lives").unwrap();
    assert_eq!(
        (lives.status.as_str(), lives.pid.as_str()),
        ("running", pid)
    );
    site.ctl(&["exec", "lives", "true"]).ok();
    let gateway = eventually("its network is known", async || {
        let gateway = site.inspect("lives", "{{.NetworkSettings.Gateway}}");
        (!gateway.is_empty()).then_some(gateway)
    })
    .await;
    site.ctl(&["exec", "lives", "ping", "-c", "1", "-W", "5", &gateway])
        .ok();
    let ended = state(site, "ended").unwrap();
    assert_eq!(
        (ended.status.as_str(), ended.code, ended.error.as_str()),
        ("exited", 7, "")
    );
    assert_eq!(site.ctl(&["wait", "ended"]).ok(), "7\n");
    eventually("one of --rm goes", async || {
        state(site, "goes").is_none().then_some(())
    })
    .await;
    eventually("its policy brings one back", async || {
        (state(site, "returns").unwrap().status == "running").then_some(())
    })
    .await;
    assert!(site.ctl(&["logs", "returns"]).ok().starts_with("up\n"));
    site.ctl(&["start", "ended"]).ok();
}
