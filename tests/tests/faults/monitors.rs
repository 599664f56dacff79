//! A monitor that is killed takes its container along, all of it and at once, and nobody else's.

use std::{fs, path::PathBuf};

use slipway_tests::{Site, eventually};

use crate::{bench::Bench, operations::state};

/// Something that is bound to nobody: in a session of its own, its parent gone.
const SCRIPT: &str = "(setsid sleep 1001 &); echo up; sleep 1000 & wait";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_monitor_takes_its_whole_container_along() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    // In the host's process namespace no end of a first process ends the others.
    for (options, away) in [
        (&["--init"][..], false),
        (&["--pid=host"], false),
        (&["--pid=host"], true),
    ] {
        eprintln!("--- {options:?}, runtime-svc away: {away}");
        let site = &bench.site;
        let words = [
            &["run", "-d", "--name", "one"],
            options,
            &["busybox", "sh", "-c", SCRIPT],
        ]
        .concat();
        site.ctl(&words).ok();
        eventually("it is up", async || {
            (site.ctl(&["logs", "one"]).out == "up\n").then_some(())
        })
        .await;
        site.ctl(&[
            "exec",
            "-d",
            "one",
            "sh",
            "-c",
            "(setsid sleep 1002 &); sleep 1003",
        ])
        .ok();
        let groups = groups(&site.inspect("one", "{{.Id}}"));
        let all = |groups: &[PathBuf]| -> usize {
            let read =
                |path: &PathBuf| fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            groups
                .iter()
                .map(|path| read(path).lines().count())
                .max()
                .unwrap_or(0)
        };
        eventually("everybody is there", async || {
            (all(&groups) >= 5).then_some(())
        })
        .await;
        if away {
            bench.site.kill_service("runtime");
        }
        bench.kill_other_monitors();
        if away {
            // What is bound to the monitor goes by itself; the rest when somebody looks.
            bench.restart_dead().await;
        }
        let site = &bench.site;
        eventually("its processes are gone, and its cgroups", async || {
            groups.iter().all(|path| !path.exists()).then_some(())
        })
        .await;
        is_told(site, "one").await;
        // What was told is told by the next instance, too.
        bench.site.kill_service("runtime");
        bench.restart_dead().await;
        is_told(&bench.site, "one").await;
        bench.beside_is_unharmed().await;
        bench.clean("a monitor").await;
    }
    // To its restart policy that is an end like any other.
    let site = &bench.site;
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "one",
        "--restart",
        "on-failure",
        "busybox",
        "sh",
        "-c",
        SCRIPT,
    ])
    .ok();
    bench.kill_other_monitors();
    eventually("it is brought back", async || {
        (bench
            .site
            .inspect("one", "{{.State.Status}} {{.RestartCount}}")
            == "running 1")
            .then_some(())
    })
    .await;
    bench.clean("a monitor").await;
}

async fn is_told(site: &Site, name: &str) {
    let state = eventually("its end is told", async || {
        state(site, name).filter(|s| s.status == "exited")
    })
    .await;
    assert_eq!(state.code, 137);
    assert_eq!(state.error, "the container's monitor was killed");
}

/// A container's groups in all trees.
fn groups(id: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let trees = fs::read_dir(&root).unwrap().flatten().map(|e| e.path());
    std::iter::once(root.clone())
        .chain(trees)
        .map(|tree| tree.join("slipway").join(id))
        .filter(|path| path.exists())
        .collect()
}
