//! `ctl up` and `ctl down`: the services of a host, killed at any time.

use std::fs;

use slipway_tests::{Site, eventually, image, ready};

/// The process that holds a service's pid file.
fn pid(site: &Site, service: &str) -> i32 {
    let text = fs::read_to_string(site.path("run").join(format!("{service}.pid"))).unwrap();
    text.trim().parse().unwrap()
}

/// Kills a process that is not ours and waits until it has gone.
async fn kill(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    eventually("it has gone", async || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        // A zombie waits for whoever adopted it.
        stat.map_or(true, |s| s.contains(") Z ")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn up_brings_back_what_was_killed_and_nothing_is_lost() {
    if !ready() {
        return;
    }
    let site = Site::bare();
    let first = site.ctl(&["up"]).ok();
    assert!(first.contains("4 services started"), "{first}");
    let again = site.ctl(&["up"]).ok();
    assert!(again.contains("already"), "{again}");
    image::busybox(&site).await;

    let script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; usleep 10000; done; \
        mkdir /www; echo still here > /www/index.html; httpd -p 80 -h /www; cat; exit 5";
    let name = "count";
    site.ctl(&[
        "run", "-d", "-i", "--name", name, "-p", "3000:80", "busybox", "sh", "-c", script,
    ])
    .ok();
    for service in ["registry", "netd", "runtime", "builder"] {
        kill(pid(&site, service)).await;
        let said = site.ctl(&["up"]).ok();
        assert!(said.contains("1 service started"), "{service}: {said}");
        let state = site
            .ctl(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.Running}}",
                name,
            ])
            .ok();
        assert_eq!(state, "running true\n", "after {service} was killed");
    }
    let page = eventually("its port still answers", async || {
        site.fetch("http://127.0.0.1:3000/")
    })
    .await;
    assert_eq!(page, "still here\n");
    let expected: String = (1..=400).map(|n| format!("line {n}\n")).collect();
    assert_eq!(site.ctl(&["logs", name]).ok(), expected);

    // It ends while nobody is there to see it, and its exit code is known all the same.
    let service = pid(&site, "runtime");
    let container = site.ctl(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
    kill(service).await;
    kill(container.trim().parse().unwrap()).await;
    site.ctl(&["up"]).ok();
    assert_eq!(site.ctl(&["wait", name]).ok(), "137\n");

    // A container goes on without services, until it is told otherwise.
    site.ctl(&["run", "-d", "--name", "lives", "busybox", "sleep", "1000"])
        .ok();
    site.ctl(&["down"]).ok();
    assert!(!site.path("run/runtime.sock").exists());
    site.ctl(&["up"]).ok();
    assert_eq!(site.ctl(&["ps", "--format", "{{.Names}}"]).ok(), "lives\n");
    site.ctl(&["rm", "-f", "lives", name]).ok();
    site.ctl(&["down", "--containers"]).ok();
}
