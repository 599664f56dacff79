//! Health checks: what they find, when they look, and what they leave behind.

use slipway_image::{
    config::{Healthcheck, RunConfig},
    layer::Kind,
};
use slipway_tests::{Site, eventually, image};

async fn is(site: &Site, name: &str, wanted: &str) {
    let what = format!("{name} is {wanted}");
    eventually(&what, async || {
        (site.inspect(name, "{{.State.Health.Status}}") == wanted).then_some(())
    })
    .await;
}

/// What runs in a container, as the host sees it.
fn processes(site: &Site, name: &str) -> String {
    site.ctl(&["top", name, "-o", "pid,args"]).ok()
}

#[tokio::test]
async fn health_follows_the_probes() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let mut words = vec![
        "run", "-d", "--name", "web", "-u", "7:7", "-w", "/tmp", "-e", "WHO=me",
    ];
    words.extend(["--health-cmd", "echo $WHO $(id -u) $(pwd); test -e ok"]);
    words.extend([
        "--health-interval",
        "150ms",
        "--health-retries",
        "2",
        "--tmpfs",
        "/tmp:mode=1777",
    ]);
    words.extend(["busybox", "sleep", "1000"]);
    site.ctl(&words).ok();
    assert!(site.ctl(&["ps"]).ok().contains("(health: starting)"));
    is(&site, "web", "unhealthy").await;
    // With the container's user, variables and folder.
    let log = "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}";
    assert!(site.inspect("web", log).starts_with("1 me 7 /tmp"));
    let streak: u32 = site
        .inspect("web", "{{.State.Health.FailingStreak}}")
        .parse()
        .unwrap();
    assert!(streak >= 2);
    site.ctl(&["exec", "web", "touch", "ok"]).ok();
    is(&site, "web", "healthy").await;
    assert!(
        site.ctl(&["ps", "--filter", "health=healthy"])
            .ok()
            .contains("(healthy)")
    );
    assert!(
        !site
            .ctl(&["ps", "--filter", "health=unhealthy"])
            .ok()
            .contains("web")
    );
    assert_eq!(site.inspect("web", "{{.State.Health.FailingStreak}}"), "0");
    eventually("five results are kept", async || {
        (site.inspect("web", "{{len .State.Health.Log}}") == "5").then_some(())
    })
    .await;

    let events = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "container=web",
        "--format",
        "{{.Action}}",
    ];
    let told = site.ctl(&events).ok();
    let at = |wanted: &str| {
        told.lines()
            .position(|l| l == wanted)
            .unwrap_or_else(|| panic!("{wanted}: {told}"))
    };
    assert!(at("health_status: unhealthy") < at("health_status: healthy"));
    assert!(told.contains("exec_create: /bin/sh -c echo $WHO"), "{told}");
    assert!(
        told.contains("exec_start: /bin/sh -c echo $WHO") && told.contains("exec_die"),
        "{told}"
    );
    // What the last instance knew, the next one knows; and it looks on.
    site.kill_and_restart("runtime").await;
    assert_eq!(site.inspect("web", "{{.State.Health.Status}}"), "healthy");
    let last = "{{range .State.Health.Log}}{{.Start}} {{end}}";
    let before = site.inspect("web", last);
    eventually("it looks on", async || {
        (site.inspect("web", last) != before).then_some(())
    })
    .await;

    // A frozen container is not asked, while another one is that is looked at as often.
    let other = ["run", "-d", "--name=other", "--health-cmd=true"];
    let other = [
        &other[..],
        &["--health-interval=150ms", "busybox", "sleep", "1000"],
    ]
    .concat();
    site.ctl(&other).ok();
    is(&site, "other", "healthy").await;
    site.ctl(&["pause", "web"]).ok();
    let paused = site.inspect("web", last);
    for _ in 0..4 {
        let before = site.inspect("other", last);
        eventually("the other one is asked", async || {
            (site.inspect("other", last) != before).then_some(())
        })
        .await;
    }
    let frozen = site.inspect("web", last);
    // One that was under way when it froze may have ended before.
    assert!(
        paused.split(' ').rev().nth(1) == frozen.split(' ').rev().nth(1)
            || frozen.split(' ').count() == paused.split(' ').count()
    );
    site.ctl(&["unpause", "web"]).ok();
    eventually("it looks on", async || {
        (site.inspect("web", last) != frozen).then_some(())
    })
    .await;

    site.ctl(&["stop", "-t", "0", "web"]).ok();
    assert_eq!(site.inspect("web", "{{.State.Health.Status}}"), "unhealthy");
    site.ctl(&["start", "web"]).ok();
    assert_eq!(site.inspect("web", "{{.State.Health.FailingStreak}}"), "0");
}

#[tokio::test]
async fn a_probe_that_hangs_is_killed_with_all_that_it_began() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let mut words = vec![
        "run",
        "-d",
        "--name",
        "slow",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "300ms",
    ];
    words.extend([
        "--health-retries",
        "1",
        "--health-cmd",
        "echo begun; sleep 7777 & sleep 8888",
    ]);
    words.extend(["busybox", "sleep", "1000"]);
    site.ctl(&words).ok();
    is(&site, "slow", "unhealthy").await;
    let log = site.inspect(
        "slow",
        "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}};{{end}}",
    );
    assert!(
        log.starts_with("-1 Health check exceeded timeout (300ms): begun"),
        "{log}"
    );
    // Each probe is gone before the next one: never two.
    eventually("more were tried", async || {
        let now = processes(&site, "slow");
        assert!(now.matches("sleep 8888").count() <= 2, "{now}");
        (site.inspect("slow", "{{len .State.Health.Log}}") == "5").then_some(())
    })
    .await;
    // Killed in the middle of one: the monitor ends what nobody waits for.
    eventually("one is under way", async || {
        processes(&site, "slow").contains("8888").then_some(())
    })
    .await;
    let pid = site.inspect("slow", "{{.State.Pid}}");
    site.kill_service("runtime");
    let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = group
        .lines()
        .find(|l| l.contains(":pids:") || l.starts_with("0::"))
        .unwrap();
    let path = line.rsplit(':').next().unwrap();
    let tree = if line.contains(":pids:") {
        "/sys/fs/cgroup/pids"
    } else {
        "/sys/fs/cgroup"
    };
    eventually("no probe is left", async || {
        let procs = std::fs::read_to_string(format!("{tree}{path}/cgroup.procs")).unwrap();
        (procs.split_whitespace().count() == 1).then_some(())
    })
    .await;
    site.start_service("runtime").await;
}

#[tokio::test]
async fn images_bring_their_checks_and_options_change_them() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let program = std::fs::read("/bin/busybox").unwrap();
    let link = |name: &str| image::entry(name, Kind::Symlink(b"busybox".to_vec()), 0);
    let entries = vec![
        (image::entry("bin", Kind::Folder, 0), vec![]),
        (
            image::entry("bin/busybox", Kind::File, program.len() as u64),
            program,
        ),
        (link("bin/sh"), vec![]),
        (link("bin/sleep"), vec![]),
        (link("bin/seq"), vec![]),
    ];
    let run = RunConfig {
        cmd: Some(vec!["sleep".into(), "1000".into()]),
        healthcheck: Some(Healthcheck {
            test: vec![
                "CMD".into(),
                "/bin/busybox".into(),
                "seq".into(),
                "3000".into(),
            ],
            interval: 100_000_000,
            ..Healthcheck::default()
        }),
        ..RunConfig::default()
    };
    image::store(&site, "checked", run, &entries).await;
    let said = site.ctl(&["run", "-d", "--name", "own", "checked"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "no warning");
    is(&site, "own", "healthy").await;
    let output = site.inspect("own", "{{range .State.Health.Log}}{{.Output}}|{{end}}");
    let first = output.split('|').next().unwrap();
    assert_eq!((first.len(), first.ends_with("...")), (4099, true));
    site.ctl(&["run", "-d", "--name", "none", "--no-healthcheck", "checked"])
        .ok();
    assert!(
        !site
            .ctl(&["inspect", "none"])
            .ok()
            .contains("FailingStreak")
    );
    // Failures in the start period do not count, and there it looks at another pace.
    let mut words = vec![
        "run",
        "-d",
        "--name",
        "late",
        "--health-cmd",
        "exit 1",
        "--health-retries",
        "1",
    ];
    words.extend([
        "--health-start-period",
        "2s",
        "--health-start-interval",
        "200ms",
        "--health-interval",
        "200ms",
        "checked",
    ]);
    site.ctl(&words).ok();
    eventually("it was looked at", async || {
        (site.inspect("late", "{{len .State.Health.Log}}").as_str() >= "3").then_some(())
    })
    .await;
    assert_eq!(
        site.inspect(
            "late",
            "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"
        ),
        "starting 0"
    );
    is(&site, "late", "unhealthy").await;
    for bad in ["--health-interval=1us", "--health-timeout=-1s"] {
        site.ctl(&["run", bad, "checked"]).error(125);
    }
}
