//! Leases: whatever a builder leaves behind goes, whenever and however it dies.

use std::{
    fs,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slipway_proto::runtime::v1 as pb;
use slipway_tests::{
    Site, eventually,
    site::program_path,
    worker::{data, reason, start},
};
use tokio_stream::StreamExt as _;

const LONG: Duration = Duration::from_secs(60);

/// Neither snapshots nor steps nor leases.
async fn nothing_is_left(site: &Site) {
    let count = |path: &str| fs::read_dir(site.path(path)).unwrap().count();
    eventually("snapshots, steps and leases are gone", async || {
        let left = count("state/runtime/snapshots") + count("run/runtime/containers");
        (left == 0 && site.leases().await.is_empty()).then_some(())
    })
    .await;
}

/// Waits until a process of a step runs.
async fn step_runs(site: &Site) -> u32 {
    let folder = site.path("run/runtime/containers");
    eventually("the step runs", async || {
        let entry = fs::read_dir(&folder).unwrap().next()?.unwrap();
        let id = entry.file_name().into_string().unwrap();
        processes_of(&id).first().copied()
    })
    .await
}

/// Processes in a step's cgroup, by whichever tree.
fn processes_of(id: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let sleeps = String::from_utf8_lossy(&line).contains("sleep");
        if groups.contains(&format!("slipway/{id}")) && sleeps {
            found.push(pid);
        }
    }
    found
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/root")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_renewed_takes_its_step_along() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let build = site.begin_build("a test", Duration::from_secs(3)).await;
    let snapshot = build
        .prepare(&site.layers_of("busybox").await)
        .await
        .unwrap();
    let leases = site.leases().await;
    assert_eq!(leases.len(), 1);
    assert_eq!((&*leases[0].holder, leases[0].layers.len()), ("a test", 1));
    assert_eq!(leases[0].snapshots[0].id, snapshot);
    let (step, running) = (build.clone(), snapshot.clone());
    let step = tokio::spawn(async move { step.run(&running, "sleep 1000").await });
    let pid = step_runs(&site).await;
    let error = step.await.unwrap().unwrap_err();
    assert_eq!(reason(&error), "SNAPSHOT_ENDED", "{error}");
    eventually("the step is killed", async || {
        (!is_there(pid)).then_some(())
    })
    .await;
    nothing_is_left(&site).await;
    let renewal = pb::LeaseRequest {
        lease_id: build.lease.clone(),
        ..Default::default()
    };
    let error = build.client.clone().lease(renewal).await.unwrap_err();
    assert_eq!(reason(&error), "LEASE_NOT_FOUND");
    let error = build.has(&snapshot, "/bin").await.unwrap_err();
    assert_eq!(reason(&error), "SNAPSHOT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_with_the_call_that_holds_it() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let build = site.begin_build("a test", LONG).await;
    let hold = pb::HoldLeaseRequest {
        lease_id: build.lease.clone(),
    };
    let mut held = site
        .worker()
        .hold_lease(hold.clone())
        .await
        .unwrap()
        .into_inner();
    held.message().await.unwrap().unwrap();
    build.prepare(&[]).await.unwrap();
    assert!(site.leases().await[0].attached);
    // Another connection takes its place in time.
    let mut again = site
        .worker()
        .hold_lease(hold.clone())
        .await
        .unwrap()
        .into_inner();
    again.message().await.unwrap().unwrap();
    drop(held);
    assert!(site.leases().await[0].attached);
    let begun = Instant::now();
    drop(again);
    nothing_is_left(&site).await;
    assert!(
        begun.elapsed() < LONG / 2,
        "its time to live was waited for"
    );
    let error = site.worker().hold_lease(hold).await.unwrap_err();
    assert_eq!(reason(&error), "LEASE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_never_ends_ends_with_its_lease() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let build = site.begin_build("a test", Duration::from_secs(2)).await;
    let snapshot = build.prepare(&[]).await.unwrap();
    // The caller is cut off in the middle of a file: its connection is open and says nothing.
    let requests = [start(&snapshot, "/"), data(&[b'x'; 100])];
    let stream = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let error = build.client.clone().apply(stream).await.unwrap_err();
    assert_eq!(reason(&error), "SNAPSHOT_ENDED", "{error}");
    nothing_is_left(&site).await;
    // One whose caller goes in the middle.
    let build = site.begin_build("a test", LONG).await;
    let snapshot = build.prepare(&[]).await.unwrap();
    let requests = [start(&snapshot, "/"), data(&[b'x'; 100])];
    let stream = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut client = build.client.clone();
    let call = client.apply(stream);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), call)
            .await
            .is_err()
    );
    // The snapshot is free again, and with its lease it goes.
    assert!(!build.has(&snapshot, "/x").await.unwrap());
    build.end().await;
    nothing_is_left(&site).await;
}

fn write(site: &Site, dockerfile: &str) {
    fs::create_dir_all(site.path("context")).unwrap();
    fs::write(site.path("context/Dockerfile"), dockerfile).unwrap();
}

fn build(site: &Site) -> Child {
    let context = site.path("context");
    let arguments = ["build", "-t", "made", context.to_str().unwrap()];
    site.command(program_path("ctl").to_str().unwrap(), &arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_is_killed_leaves_nothing() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    write(&site, "FROM busybox\nRUN echo x > /x\nRUN sleep 1000\n");
    let ctl = build(&site);
    let pid = step_runs(&site).await;
    let shown = site.ctl(&["system", "df", "-v"]).ok();
    assert!(
        shown.contains("build of docker.io/library/made:latest"),
        "{shown}"
    );
    site.kill_service("builder");
    eventually("the step is killed", async || {
        (!is_there(pid)).then_some(())
    })
    .await;
    nothing_is_left(&site).await;
    assert!(!ctl.wait_with_output().unwrap().status.success());
    // What was done before is cached.
    site.start_service("builder").await;
    write(&site, "FROM busybox\nRUN echo x > /x\n");
    let ended = build(&site).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success() && said.contains("1 of 1 steps cached"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_is_cut_off_loses_its_lease_and_does_the_step_again() {
    if !slipway_tests::ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure("builder.toml", "worker_lease_seconds = 3\n");
    site.start_services().await;
    slipway_tests::image::busybox(&site).await;
    // It takes long the first time only.
    let step = "if [ ! -e /c/x ]; then touch /c/x; sleep 1000; fi";
    write(
        &site,
        &format!("FROM busybox\nRUN --mount=type=cache,target=/c {step}\n"),
    );
    let ctl = build(&site);
    let pid = step_runs(&site).await;
    let caches = site.path("state/runtime/caches");
    eventually("the step has begun", async || {
        let mut caches = fs::read_dir(&caches).ok()?.flatten();
        caches
            .any(|cache| cache.path().join("fs/x").exists())
            .then_some(())
    })
    .await;
    // It is there and says nothing, as one behind a dead link: its connections stay open.
    let text = fs::read_to_string(site.path("run/builder.pid")).unwrap();
    let builder = Pid::from_raw(text.trim().parse().unwrap()).unwrap();
    kill_process(builder, Signal::STOP).unwrap();
    eventually("the step is killed", async || {
        (!is_there(pid)).then_some(())
    })
    .await;
    nothing_is_left(&site).await;
    kill_process(builder, Signal::CONT).unwrap();
    let ended = ctl.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success() && said.contains("was taken back meanwhile"),
        "{said}"
    );
    nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_a_step_kills_each_time_fails_the_build_and_forgets_it() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    write(&site, "FROM busybox\nRUN echo x > /x\nRUN sleep 1000\n");
    let ctl = build(&site);
    // It comes back and is asked again, three times in all.
    for _ in 0..3 {
        let pid = step_runs(&site).await;
        site.kill_and_restart("runtime").await;
        eventually("the step is killed", async || {
            (!is_there(pid)).then_some(())
        })
        .await;
    }
    let ended = ctl.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(
        last.contains("was lost in the middle of the build"),
        "{said}"
    );
    nothing_is_left(&site).await;
    write(&site, "FROM busybox\nRUN echo x > /x\nRUN echo y > /y\n");
    let ended = build(&site).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success() && said.contains("1 of 2 steps cached"),
        "{said}"
    );
    nothing_is_left(&site).await;
}
