//! `builder history`: what is remembered of builds, and for how long.

use std::{os::unix::fs::symlink, process::Command};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use slipway_tests::ready;

use super::*;

#[tokio::test]
async fn builds_are_remembered_across_a_kill() {
    let mut site = site().await;
    write(
        &site.path("context"),
        &[(
            "Dockerfile",
            "FROM busybox\nARG FAIL\nRUN echo said-this; test -z \"$FAIL\"\n",
        )],
    );
    built(&site, "good", &[]);
    build(
        &site,
        "bad",
        &["--build-arg", "FAIL=canary-value", "--target", ""],
    )
    .error(1);
    built(&site, "good", &[]);
    site.kill_service("builder");
    site.start_service("builder").await;

    let listed = site.ctl(&["builder", "history", "ls"]).ok();
    let column = |n: usize| -> Vec<String> {
        let row = |l: &str| {
            l.split("   ")
                .filter(|c| !c.is_empty())
                .nth(n)
                .unwrap()
                .trim()
                .to_owned()
        };
        listed.lines().skip(1).map(row).collect()
    };
    assert_eq!(column(1), ["good", "bad", "good"], "{listed}");
    assert_eq!(column(2), ["Completed", "Error", "Completed"], "{listed}");
    let latest = site.ctl(&["builder", "history", "inspect"]).ok();
    assert!(latest.contains("1 (1 cached)"), "{latest}");
    let failed = site.ctl(&["builder", "history", "inspect", "^1"]).ok();
    assert!(failed.contains("exit code: 1"), "{failed}");
    let id = &column(0)[1];
    let logs = site.ctl(&["builder", "history", "logs", id]).ok();
    assert!(
        logs.contains("said-this") && logs.contains("ERROR: process"),
        "{logs}"
    );
    let raw = site
        .ctl(&["builder", "history", "logs", "--progress=rawjson", id])
        .ok();
    assert!(raw.lines().all(|l| l.starts_with('{')), "{raw}");

    site.ctl(&["builder", "history", "rm", id]).ok();
    assert_eq!(
        // Many scripts say it by the plugin's name.
        site.ctl(&["buildx", "history", "ls", "-q"])
            .ok()
            .lines()
            .count(),
        2
    );
    site.ctl(&["builder", "history", "logs", id]).error(1);
    site.ctl(&["builder", "history", "rm", "--all"]).ok();
    let folder = site.path("state/builder/history");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    let error = site.ctl(&["builder", "history", "export"]).error(1);
    assert!(error.contains("not supported"), "{error}");
}

/// A disk of its own, to which the kernel writes nothing by itself for a while.
const MAKE: &str = "cd $0; mkdir disk; truncate -s 32m image; mkfs.ext4 -q image; \
    mount -o loop,commit=300 image disk; mkdir disk/history; sync -f disk";
/// A power cut: the disk has what was written to it so far, and nothing else.
const CUT: &str = "cd $0; cp image after";
const GO_ON: &str = "cd $0; umount disk; mv after image; mount -o loop,commit=300 image disk";

/// On one thread: with all that it starts it has mounts of its own.
#[tokio::test]
async fn what_was_told_as_finished_is_there_after_a_power_cut() {
    if !ready() {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        slipway_tests::skipped("needs loop devices");
        return;
    }
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        let ran = shell.args(["-ec", script]).arg(folder.path()).status();
        assert!(ran.unwrap().success(), "{script}");
    };
    run(MAKE);
    let mut site = Site::bare();
    let state = site.path("state/builder");
    fs::create_dir_all(&state).unwrap();
    symlink(folder.path().join("disk/history"), state.join("history")).unwrap();
    site.start_services().await;
    image::busybox(&site).await;
    let file = "FROM busybox\nARG FAIL\nRUN echo said-this; test -z \"$FAIL\"\n";
    write(&site.path("context"), &[("Dockerfile", file)]);
    for (argument, code, status) in [("FAIL=", 0, "Completed"), ("FAIL=1", 1, "Error")] {
        let said = build(&site, "image", &["--build-arg", argument]);
        run(CUT);
        assert_eq!(said.code, code, "{}", said.err);
        site.kill_service("builder");
        run(GO_ON);
        site.start_service("builder").await;
        let newest = site.ctl(&["builder", "history", "inspect"]).ok();
        assert!(newest.contains(status), "{newest}");
        let logs = site.ctl(&["builder", "history", "logs"]).ok();
        assert!(logs.contains("said-this"), "{logs}");
    }
    drop(site);
    run("umount $0/disk");
}

#[tokio::test]
async fn arguments_are_not_remembered() {
    let site = site().await;
    write(
        &site.path("context"),
        &[(
            "Dockerfile",
            "FROM busybox\nARG TOKEN\nRUN test -n \"$TOKEN\"\n",
        )],
    );
    built(&site, "a", &["--build-arg", "TOKEN=canary-7f3a"]);
    let found = std::process::Command::new("grep")
        .args(["-r", "canary-7f3a"])
        .arg(site.path("state/builder"))
        .output()
        .unwrap();
    assert_eq!(
        found.stdout,
        b"",
        "{}",
        String::from_utf8_lossy(&found.stdout)
    );
}
