//! `events`: what happens is told in docker's words, live and afterwards.

use std::io::{BufRead as _, BufReader};

use slipway_tests::{Site, eventually, image, ready};

fn told(site: &Site, filters: &[&str], format: &str) -> String {
    let mut words = vec![
        "events", "--since", "1h", "--until", "0s", "--format", format,
    ];
    for filter in filters {
        words.extend(["--filter", filter]);
    }
    site.ctl(&words).ok()
}

#[tokio::test]
async fn a_life_is_told_live_and_afterwards() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let mut listener = site.ctl_start(&[
        "events",
        "--filter",
        "container=box",
        "--filter",
        "container=crate",
        "--format",
        "{{.Actor.Attributes.name}}: {{.Type}} {{.Action}}",
    ]);
    let lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let (tell, live) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| tell.send(line))
    });
    // It listens when it tells of this one.
    eventually("it listens", async || {
        site.ctl(&["run", "--rm", "--name", "crate", "busybox", "true"])
            .ok();
        live.try_recv().ok()
    })
    .await;
    let script =
        "trap 'echo usr1' USR1; trap 'exit 5' TERM; echo up; while :; do usleep 20000; done";
    let words = [
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "data:/data:ro",
        "-l",
        "tier=one",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    site.ctl(&words).ok();
    eventually("it is up", async || {
        (site.ctl(&["logs", "box"]).out == "up\n").then_some(())
    })
    .await;
    site.ctl(&["exec", "box", "sh", "-c", "exit 3"]);
    for words in [
        &["pause", "box"][..],
        &["unpause", "box"],
        &["kill", "-s", "USR1", "box"],
        &["top", "box"],
        &["update", "--pids-limit", "99", "box"],
        &["rename", "box", "renamed"],
        &["rename", "renamed", "box"],
        &["export", "-o", "/dev/null", "box"],
        &["cp", "box:/bin/sh", "-"],
        &["restart", "box"],
        &["stop", "box"],
        &["rm", "box"],
        &["volume", "rm", "data"],
        &["container", "prune", "-f"],
    ] {
        let said = site.ctl(words);
        assert_eq!(said.code, 0, "{words:?}: {}", said.err);
    }
    let expected = [
        "volume create",
        "container create",
        "network connect",
        "volume mount",
        "container start",
        "container exec_create: sh -c exit 3",
        "container exec_start: sh -c exit 3",
        "container exec_die",
        "container pause",
        "container unpause",
        "container kill",
        "container top",
        "container update",
        "container rename",
        "container rename",
        "container export",
        "container archive-path",
        "container kill",
        "network disconnect",
        "volume unmount",
        "container die",
        "container stop",
        "network connect",
        "volume mount",
        "container start",
        "container restart",
        "container kill",
        "network disconnect",
        "volume unmount",
        "container die",
        "container stop",
        "container destroy",
        "volume destroy",
        "container prune",
    ];
    let all = told(&site, &[], "{{.Type}} {{.Action}}");
    let from = all.find("volume create").unwrap();
    let own: Vec<&str> = all[from..].lines().collect();
    assert_eq!(own, expected, "{all}");
    // The one who listened heard what is about the container, under the name that it had at the time.
    let mut wanted: Vec<&str> = expected
        .into_iter()
        .filter(|e| e.starts_with("container ") && *e != "container prune")
        .collect();
    wanted.dedup_by(|a, b| a == b && *a == "container rename");
    let patience = std::time::Duration::from_secs(30);
    let heard: Vec<String> = std::iter::from_fn(|| live.recv_timeout(patience).ok())
        .filter_map(|line| {
            Some(
                line.split_once(": ")
                    .filter(|(n, _)| *n != "crate")?
                    .1
                    .to_owned(),
            )
        })
        .take(wanted.len())
        .collect();
    assert_eq!(heard, wanted);
    listener.kill().unwrap();
    listener.wait().unwrap();

    let of = |action: &str, attribute: &str| {
        let format = format!("{{{{.Actor.Attributes.{attribute}}}}}");
        told(
            &site,
            &[
                "container=box",
                "type=container",
                &format!("event={action}"),
            ],
            &format,
        )
    };
    assert_eq!(of("die", "exitCode"), "5\n5\n");
    assert_eq!(of("exec_die", "exitCode"), "3\n");
    assert_eq!(of("kill", "signal"), "10\n15\n15\n");
    assert_eq!(of("create", "image"), "busybox\n");
    assert_eq!(of("create", "tier"), "one\n");
    assert_eq!(
        told(
            &site,
            &["event=rename"],
            "{{.Actor.Attributes.oldName}} {{.Actor.Attributes.name}}"
        ),
        "/box renamed\n/renamed box\n"
    );
    assert_eq!(
        told(&site, &["label=tier=one", "event=pause"], "{{.Action}}"),
        "pause\n"
    );
    assert_eq!(told(&site, &["label=tier=two"], "{{.Action}}"), "");
    assert_eq!(
        told(
            &site,
            &["type=volume", "volume=data", "event=mount"],
            "{{index .Actor.Attributes \"read/write\"}}"
        ),
        "false\nfalse\n"
    );
    let line = site
        .ctl(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=pause",
        ])
        .ok();
    assert!(
        line.contains("Z container pause ") && line.contains("name=box"),
        "{line}"
    );
    let line = told(&site, &["event=pause"], "json");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["Action"], &value["scope"]),
        (&"pause".into(), &"local".into())
    );
    let error = site
        .ctl(&["events", "--until", "0s", "--filter", "nonsense=1"])
        .error(1);
    assert!(error.contains("invalid filter"), "{error}");

    // What registry-svc tells of images is among it, in order.
    site.ctl(&["tag", "busybox", "other"]).ok();
    site.ctl(&["rmi", "other"]).ok();
    let images = told(&site, &["type=image"], "{{.Action}}");
    assert!(images.ends_with("tag\nuntag\n"), "{images}");
    let begun = std::time::Instant::now();
    site.ctl(&["events", "--until", "1s"]);
    // A span is before now: nothing is waited for.
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
}

#[tokio::test]
async fn ps_and_prune_filter_as_docker_does() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let run = |options: &[&str], command: &[&str]| {
        site.ctl(&[&["run", "-d"], options, &["busybox"], command].concat())
            .ok()
    };
    let sleep = ["sleep", "1000"];
    run(
        &[
            "--name",
            "first",
            "-l",
            "a=1",
            "-l",
            "b",
            "-v",
            "vol:/v",
            "-p",
            "8080:80",
            "--expose",
            "90-91/udp",
        ],
        &sleep,
    );
    site.ctl(&["network", "create", "net"]).ok();
    run(
        &["--name", "second", "-l", "a=2", "--network", "net"],
        &sleep,
    );
    let failed = run(&["--name", "third", "-l", "b"], &["sh", "-c", "exit 4"]);
    site.ctl(&["wait", "third"]).ok();
    site.ctl(&["create", "--name", "fourth", "busybox"]).ok();
    site.ctl(&["pause", "second"]).ok();
    let ps = |words: &[&str]| {
        let mut line = vec!["ps", "--format", "{{.Names}}"];
        line.extend(words);
        let mut names: Vec<String> = site.ctl(&line).ok().lines().map(str::to_owned).collect();
        names.sort_unstable();
        names.join(" ")
    };
    for (words, names) in [
        (&[][..], "first second"),
        (&["-a"], "first fourth second third"),
        (&["-l"], "fourth"),
        (&["-n", "2"], "fourth third"),
        (&["-af", "name=^f"], "first fourth"),
        (&["-af", "name=ir.$"], "third"),
        (&["-af", "name=ir"], "first third"),
        (&["-f", "status=exited"], "third"),
        (
            &["-f", "status=created", "-f", "status=paused"],
            "fourth second",
        ),
        (&["-f", "exited=4"], "third"),
        (&["-f", "exited=0"], ""),
        (&["-af", "label=b"], "first third"),
        (&["-af", "label=a=1", "-f", "label=b"], "first"),
        (&["-af", "before=third"], "first second"),
        (&["-af", "since=second"], "fourth third"),
        (&["-af", "volume=vol"], "first"),
        (&["-af", "volume=/v"], "first"),
        (&["-af", "network=net"], "second"),
        (&["-af", "network=bridge"], "first fourth third"),
        (&["-f", "publish=80"], "first"),
        (&["-f", "publish=8080/tcp"], "first"),
        (&["-f", "publish=80/udp"], ""),
        (&["-f", "expose=85-95/udp"], "first"),
        (&["-af", "ancestor=busybox"], "first fourth second third"),
        (
            &["-af", "ancestor=busybox:latest"],
            "first fourth second third",
        ),
        (&["-af", "ancestor=other"], ""),
        (&["-f", "health=none"], "first second"),
        (&["-f", "health=healthy"], ""),
    ] {
        assert_eq!(ps(words), names, "{words:?}");
    }
    assert_eq!(ps(&["-af", &format!("id={}", &failed[..10])]), "third");
    for (bad, why) in [
        ("status=what", "invalid filter 'status=what'"),
        ("is-task=true", "is-task"),
        ("nonsense=1", "invalid filter 'nonsense'"),
        ("before=nobody", "No such container: nobody"),
    ] {
        let error = site.ctl(&["ps", "-f", bad]).error(1);
        assert!(error.contains(why), "{error}");
    }
    assert!(site.ctl(&["ps", "-s"]).ok().contains("(virtual "));

    let prune = |filter: &[&str]| {
        site.ctl(&[&["container", "prune", "-f"], filter].concat())
            .ok()
    };
    prune(&["--filter", "until=1h"]);
    prune(&["--filter", "label!=b", "--filter", "label=a"]);
    assert_eq!(ps(&["-a"]), "first fourth second third");
    prune(&["--filter", "label=b"]);
    assert_eq!(ps(&["-a"]), "first fourth second");
    prune(&["--filter", "until=0.001s"]);
    assert_eq!(ps(&["-a"]), "first second", "those that are up stay");
    site.ctl(&["container", "prune", "-f", "--filter", "status=exited"])
        .error(1);

    // A renamed container is found by its new name at once, and not by the old one.
    site.ctl(&["unpause", "second"]).ok();
    site.ctl(&["rename", "second", "renamed"]).ok();
    let ask = |name: &str| {
        site.ctl(&[
            "run",
            "--rm",
            "--network",
            "net",
            "busybox",
            "nslookup",
            name,
        ])
    };
    let said = ask("renamed");
    assert!(said.code == 0, "{}{}", said.out, said.err);
    assert_ne!(ask("second").code, 0);
    for (words, why) in [
        (["rename", "first", "renamed"], "already in use"),
        (
            ["rename", "first", "first"],
            "same name as its current name",
        ),
        (["rename", "nobody", "x"], "No such container: nobody"),
        (["rename", "first", "bad!"], "Invalid container name"),
    ] {
        let said = site.ctl(&words);
        assert!(said.code != 0 && said.err.contains(why), "{}", said.err);
    }
}
