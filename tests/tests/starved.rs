//! Parts that stand still, are asked by too many, or lose their caller in the middle: nothing is told wrong
//! and nothing stays behind.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use slipway_proto::runtime::v1::{
    AttachRequest, PauseRequest, Stream, attach_event, attach_request,
};
use slipway_tests::{Site, eventually, site::program_path};
use tokio_stream::StreamExt as _;

fn runtime(site: &Site) -> Pid {
    let text = std::fs::read_to_string(site.path("run/runtime.pid")).unwrap();
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn an_end_that_the_service_hears_of_late_is_told_right() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    // More news than the connection to its monitor holds: a line each, slowly enough to be read apart.
    let script = "while [ ! -e /go ]; do usleep 10000; done; \
                  for i in $(seq 1 1000); do echo $i; usleep 500; done; exit 3";
    site.ctl(&["run", "-d", "--name=busy", "busybox", "sh", "-c", script])
        .ok();
    let pid = site.inspect("busy", "{{.State.Pid}}");
    let service = runtime(&site);
    kill_process(service, Signal::STOP).unwrap();
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    eventually("it has ended", async || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
    kill_process(service, Signal::CONT).unwrap();
    assert_eq!(site.ctl(&["wait", "busy"]).ok(), "3\n");
    let told = site.inspect("busy", "{{.State.ExitCode}}/{{.State.Error}}");
    assert_eq!(told, "3/");
    let lines = site.ctl(&["logs", "busy"]).ok();
    assert_eq!(lines.lines().count(), 1000);
}

#[tokio::test]
async fn what_the_caller_does_not_wait_for_is_done_to_its_end() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.ctl(&["run", "-d", "--name=box", "busybox", "sleep", "1000"])
        .ok();
    let ctl = program_path("ctl");
    for microseconds in (0..60).map(|n| 400 + n * 150) {
        let mut containers = site.containers();
        let request = PauseRequest {
            container: "box".into(),
        };
        let patience = Duration::from_micros(microseconds);
        // Whether it came to the service at all does not matter here.
        let _ = tokio::time::timeout(patience, containers.pause(request)).await;
        // It was frozen, or not: what the service believes must be so.
        let _ = site.ctl(&["unpause", "box"]);
        let run = ["5", ctl.to_str().unwrap(), "exec", "box", "true"];
        let said = site.output("timeout", &run);
        let paused = site.inspect("box", "{{.State.Paused}}");
        assert!(said.status.success(), "{microseconds}: {paused} {said:?}");
    }
}

#[tokio::test]
async fn a_crowd_of_attached_clients_is_limited_and_stops_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.ctl(&["run", "-di", "--name=box", "busybox", "cat"])
        .ok();
    let first = || AttachRequest {
        part: Some(attach_request::Part::Start(attach_request::Start {
            container: "box".into(),
            streams: vec![Stream::Stdin.into(), Stream::Stdout.into()],
            ..attach_request::Start::default()
        })),
    };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let mut containers = site.containers();
        let requests = tokio_stream::iter([first()]).chain(tokio_stream::pending());
        calls.spawn(async move {
            let mut events = containers.attach(requests).await?.into_inner();
            loop {
                match events.message().await? {
                    Some(event) => match event.event {
                        Some(attach_event::Event::Exited(exited)) => return Ok(exited.exit_code),
                        _ => continue,
                    },
                    None => return Ok(-1),
                }
            }
        });
    }
    let mut refused = 0;
    while refused < 40 {
        let ended: Result<i32, tonic::Status> = calls.join_next().await.unwrap().unwrap();
        let status = ended.unwrap_err();
        assert!(status.message().contains("too many clients"), "{status:?}");
        refused += 1;
    }
    // Neither signals nor further processes are turned away.
    assert_eq!(site.ctl(&["exec", "box", "echo", "here"]).ok(), "here\n");
    site.ctl(&["stop", "-t", "0", "box"]).ok();
    let ended = calls.join_all().await;
    let told = ended.iter().filter(|e| matches!(e, Ok(137))).count();
    assert_eq!(told, 256, "{ended:?}");
}

#[tokio::test]
async fn files_may_be_open_for_many_containers_and_theirs_are_as_before() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", runtime(&site).as_raw_nonzero()));
    let limits = limits.unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3], words[4]);
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let seen = site.ctl(&["run", "--rm", "busybox", "sh", "-c", "ulimit -n"]);
    let own = own
        .current
        .map_or("unlimited".to_owned(), |n| n.to_string());
    assert_eq!(seen.ok().trim(), own);
}

#[tokio::test]
async fn a_driver_gets_what_was_written_while_the_service_was_away() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    // More than the cap of the log beside the driver's file.
    let script = "while [ ! -e /go ]; do usleep 10000; done; \
                  for i in $(seq 1 3000); do printf '%015000d\\n' $i; done";
    let run = [
        "run",
        "-d",
        "--name=box",
        "--log-driver=json-file",
        "busybox",
    ];
    site.ctl(&[&run[..], &["sh", "-c", script]].concat()).ok();
    let pid = site.inspect("box", "{{.State.Pid}}");
    let file = site.inspect("box", "{{.LogPath}}");
    site.kill_service("runtime");
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    eventually("it has ended", async || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
    site.start_service("runtime").await;
    eventually("all lines are there", async || {
        let text = std::fs::read_to_string(&file).unwrap();
        (text.lines().count() == 3000 && text.contains("0001\\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_goes_with_its_end_goes_whatever_came_between() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let made = ["create", "--rm", "-v", "/data", "--name=never", "busybox"];
    site.ctl(&made).ok();
    site.ctl(&["create", "--rm", "--name=bad", "busybox", "/none"])
        .ok();
    assert_eq!(site.ctl(&["start", "bad"]).code, 1);
    assert!(!site.ctl(&["ps", "-a"]).ok().contains("bad"));
    site.ctl(&["create", "--rm", "-v", "/data", "--name=cut", "busybox"])
        .ok();
    let id = site.inspect("cut", "{{.Id}}");
    assert_eq!(site.ctl(&["volume", "ls", "-q"]).ok().lines().count(), 2);
    site.kill_service("runtime");
    // As a removal leaves it that was cut off after its first step.
    let folder = site.path("state/runtime/containers").join(id);
    std::fs::rename(&folder, folder.with_extension("removed")).unwrap();
    site.start_service("runtime").await;
    assert_eq!(site.ctl(&["ps", "-aq"]).ok(), "");
    assert_eq!(site.ctl(&["volume", "ls", "-q"]).ok(), "");
}
