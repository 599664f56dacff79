//! `builder history`: what is remembered of builds, and for how long.

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
        site.ctl(&["builder", "history", "ls", "-q"])
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
