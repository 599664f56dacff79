//! `commit`: what a container changed becomes an image that runs.

use slipway_tests::{Site, eventually, image, ready};

#[tokio::test]
async fn a_committed_image_runs_with_what_was_changed() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let script = "echo new > /made; rm /bin/pwd; echo in > /vol/kept; mkdir -m 700 /mine; echo w > /tmp/w; while :; do echo tick >> /ticks; usleep 10000; done";
    let mut words = vec![
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "data:/vol",
        "-v",
        "/anonymous",
    ];
    words.extend([
        "-e", "WHO=me", "-w", "/own", "-u", "0:7", "-l", "tier=one", "--expose", "90",
    ]);
    words.extend([
        "--stop-signal",
        "QUIT",
        "--health-cmd",
        "true",
        "--tmpfs",
        "/tmp",
    ]);
    words.extend(["busybox", "sh", "-c", script]);
    site.ctl(&words).ok();
    eventually("it has begun", async || {
        (site
            .ctl(&["exec", "box", "cat", "/vol/kept", "/ticks"])
            .code
            == 0)
            .then_some(())
    })
    .await;
    let id = site
        .ctl(&[
            "commit",
            "-a",
            "Me <me@x>",
            "-m",
            "as it was",
            "box",
            "kept:1",
        ])
        .ok();
    assert!(id.starts_with("sha256:") && id.len() == 72, "{id}");
    assert_eq!(
        site.inspect("box", "{{.State.Status}}"),
        "running",
        "it goes on"
    );
    let run = |image: &str, script: &str| site.ctl(&["run", "--rm", image, "sh", "-c", script]);
    let look = "cat /made; test -e /bin/pwd || echo gone; ls -ld /mine | cut -c1-10; ls -A /vol /tmp | grep -v :; echo $WHO; id -g; echo $HOSTNAME | wc -c; cat /proc/self/cwd 2>/dev/null; busybox pwd";
    let said = run("kept:1", look);
    assert_eq!(
        said.out, "new\ngone\ndrwx------\n\nme\n7\n13\n/own\n",
        "{}",
        said.err
    );
    let config = "{{.Config.User}} {{.Config.WorkingDir}} {{index .Config.Labels \"tier\"}} {{.Config.StopSignal}} {{json .Config.ExposedPorts}} {{json .Config.Volumes}} {{.Config.Healthcheck.Test}} {{.Author}}";
    assert_eq!(
        site.inspect("kept:1", config),
        "0:7 /own one QUIT {\"90/tcp\":{}} {\"/anonymous\":{}} [CMD-SHELL true] Me <me@x>"
    );
    assert!(
        !site
            .inspect("kept:1", "{{json .Config.Env}}")
            .contains("HOSTNAME")
    );
    let history = site.ctl(&["history", "--no-trunc", "kept:1"]).ok();
    assert!(history.contains("as it was"), "{history}");

    // Instructions upon that; variables are the container's.
    let mut words = vec!["commit", "--no-pause"];
    for change in [
        "CMD [\"sh\", \"-c\", \"echo $A $B\"]",
        "ENV A=${WHO}2 B=3",
        "LABEL tier=two more=$WHO",
        "EXPOSE 80-81",
        "USER 9:9",
        "WORKDIR sub",
        "VOLUME /other",
        "STOPSIGNAL SIGUSR1",
        "ONBUILD RUN x",
        "HEALTHCHECK --interval=5s CMD exit 1",
        "ENTRYPOINT []",
    ] {
        words.extend(["-c", change]);
    }
    words.extend(["box", "changed"]);
    site.ctl(&words).ok();
    let said = site.ctl(&["run", "--rm", "changed"]);
    assert_eq!(said.out, "me2 3\n", "{}", said.err);
    let config = "{{.Config.User}} {{.Config.WorkingDir}} {{json .Config.Labels}} {{.Config.StopSignal}} {{len .Config.ExposedPorts}} {{len .Config.Volumes}} {{.Config.Healthcheck.Test}} {{.Config.OnBuild}}";
    assert_eq!(
        site.inspect("changed", config),
        "9:9 /own/sub {\"more\":\"me\",\"tier\":\"two\"} SIGUSR1 3 2 [CMD-SHELL exit 1] [RUN x]"
    );
    // A command that was for another entrypoint is none for a new one.
    let command = |changes: &[&str]| {
        let changes = changes.iter().flat_map(|change| ["-c", change]);
        let words: Vec<&str> = ["commit"].into_iter().chain(changes).collect();
        let id = site.ctl(&[&words[..], &["box"]].concat()).ok();
        let config: serde_json::Value =
            serde_json::from_str(&site.inspect(id.trim(), "{{json .Config}}")).unwrap();
        [config["Entrypoint"].to_string(), config["Cmd"].to_string()].join(" ")
    };
    let (entrypoint, cmd) = ("ENTRYPOINT [\"echo\", \"so\"]", "CMD [\"be it\"]");
    for changes in [[cmd, entrypoint], [entrypoint, cmd]] {
        assert_eq!(command(&changes), "[\"echo\",\"so\"] [\"be it\"]");
    }
    assert_eq!(command(&[entrypoint]), "[\"echo\",\"so\"] null");
    site.ctl(&["commit", "-c", entrypoint, "box", "alone"]).ok();
    assert_eq!(site.ctl(&["run", "--rm", "alone"]).ok(), "so\n");
    for (change, why) in [
        ("RUN true", "RUN is not a valid change command"),
        ("NONSENSE", "unknown instruction"),
        ("STOPSIGNAL nonsense", "invalid signal"),
    ] {
        let error = site.ctl(&["commit", "-c", change, "box"]).error(1);
        assert!(error.contains(why), "{error}");
    }
    let error = site.ctl(&["commit", "box", "Bad/Name"]).error(1);
    assert!(error.contains("invalid reference format"), "{error}");

    // A stopped one, without a name, upon a committed one; nothing changed is no layer.
    site.ctl(&[
        "run",
        "--name",
        "second",
        "kept:1",
        "sh",
        "-c",
        "echo 2 > /second",
    ])
    .ok();
    let id = site.ctl(&["commit", "second"]).ok();
    let said = run(id.trim(), "cat /made /second");
    assert_eq!(said.out, "new\n2\n", "{}", said.err);
    site.ctl(&["create", "--name", "same", "kept:1"]).ok();
    let id = site.ctl(&["commit", "same"]).ok();
    let layers = "{{len .RootFS.Layers}}";
    assert_eq!(
        site.inspect(id.trim(), layers),
        site.inspect("kept:1", layers)
    );
    let told = site.ctl(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=commit",
        "--format",
        "{{.Actor.Attributes.comment}}|{{.Actor.Attributes.imageRef}}",
    ]);
    assert!(
        told.ok()
            .starts_with("as it was|docker.io/library/kept:1\n")
    );
}

#[tokio::test]
async fn a_commit_sees_one_instant_and_what_it_froze_goes_on() {
    if !ready() {
        return;
    }
    let mut site = Site::start().await;
    image::busybox(&site).await;
    // Two files that are only the same between two writes; a lot of others, so that packing takes a while.
    let script = "for i in $(seq 300); do busybox dd if=/dev/urandom of=/f$i bs=64k count=1 2>/dev/null; done; \
        echo ready; n=0; while :; do n=$((n+1)); echo $n > /a; echo $n > /z; done";
    site.ctl(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    eventually("it is ready", async || {
        (site.ctl(&["logs", "box"]).out == "ready\n").then_some(())
    })
    .await;
    site.ctl(&["commit", "box", "instant"]).ok();
    let said = site
        .ctl(&["run", "--rm", "instant", "cat", "/a", "/z"])
        .ok();
    let numbers: Vec<i64> = said.lines().map(|l| l.parse().unwrap_or(-1)).collect();
    // One of the two may just have been emptied.
    assert!(numbers.len() < 2 || numbers[0] - numbers[1] <= 1, "{said}");

    // The service dies in the middle: what it froze goes on with the next one.
    let mut child = site.ctl_start(&["commit", "box", "never"]);
    let pid = site.inspect("box", "{{.State.Pid}}");
    let wchan = format!("/proc/{pid}/stat");
    let marks = || {
        let folder = site.path("run/runtime/containers");
        std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .any(|e| e.path().join("committing").exists())
    };
    let frozen = eventually("it is frozen, or the commit is over", async || {
        if marks() {
            return Some(true);
        }
        site.ctl(&["images", "-q", "never"])
            .out
            .is_empty()
            .then_some(())
            .is_none()
            .then_some(false)
    })
    .await;
    site.kill_service("runtime");
    child.wait().unwrap();
    site.start_service("runtime").await;
    assert!(std::fs::metadata(wchan).is_ok());
    assert_eq!(
        site.inspect("box", "{{.State.Status}}"),
        "running",
        "was frozen: {frozen}"
    );
    let count = |site: &Site| site.ctl(&["exec", "box", "cat", "/a"]).out;
    let before = count(&site);
    eventually("it counts on", async || {
        (count(&site) != before).then_some(())
    })
    .await;
}
