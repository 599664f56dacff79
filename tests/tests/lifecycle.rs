//! The life of containers: restart policies, stopping, killing, waiting, what survives the service.

use slipway_tests::{Site, eventually};

fn state(site: &Site, name: &str) -> String {
    site.inspect(name, "{{.State.Status}} {{.RestartCount}}")
}

async fn becomes(site: &Site, name: &str, wanted: &str) {
    let what = format!("{name} becomes {wanted}");
    eventually(&what, async || (state(site, name) == wanted).then_some(())).await;
}

fn kill_first_process(site: &Site, name: &str) {
    let pid = site.inspect(name, "{{.State.Pid}}").parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn policies_bring_containers_back_as_docker_does() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let limited = ["--restart", "on-failure:2", "--name", "limited", "busybox"];
    let run = |options: &[&str], script: &str| {
        let words = [&["run", "-d"], options, &["sh", "-c", script]].concat();
        site.ctl(&words).ok()
    };
    run(&limited, "echo again; exit 3");
    let waited = site.ctl(&["wait", "limited"]).ok();
    assert_eq!(waited, "3\n", "the next end, also when it comes back");
    becomes(&site, "limited", "exited 2").await;
    assert_eq!(site.ctl(&["logs", "limited"]).ok(), "again\n".repeat(3));
    let done = ["--restart", "on-failure", "--name", "done", "busybox"];
    run(&done, "exit 0");
    becomes(&site, "done", "exited 0").await;

    // Always: also after a good end, with growing waits, in which it can be stopped, started, removed.
    run(&["--restart=always", "--name=loop", "busybox"], "exit 1");
    let line = ["ps", "--filter", "name=loop", "--format", "{{.Status}}"];
    eventually("it waits", async || {
        site.ctl(&line)
            .ok()
            .starts_with("Restarting (1) ")
            .then_some(())
    })
    .await;
    eventually("it was tried again and again", async || {
        let count: u32 = site.inspect("loop", "{{.RestartCount}}").parse().unwrap();
        (count >= 4).then_some(())
    })
    .await;
    eventually("what waits cannot be joined", async || {
        let refused = site.ctl(&["exec", "loop", "true"]).err;
        refused.contains("is restarting, wait until").then_some(())
    })
    .await;
    let refused = site.ctl(&["rm", "loop"]).error(1);
    assert!(
        refused.contains("stop the container before removing"),
        "{refused}"
    );
    assert_eq!(site.ctl(&["stop", "loop"]).ok(), "loop\n");
    assert!(state(&site, "loop").starts_with("exited "));
    site.ctl(&["start", "loop"]).ok();
    eventually("the count begins anew", async || {
        let count: u32 = site.inspect("loop", "{{.RestartCount}}").parse().unwrap();
        (count == 2).then_some(())
    })
    .await;
    site.ctl(&["update", "--restart", "no", "loop"]).ok();
    eventually("without a policy it stays", async || {
        state(&site, "loop").starts_with("exited").then_some(())
    })
    .await;
    site.ctl(&["update", "--restart", "always", "loop"]).ok();
    site.ctl(&["start", "loop"]).ok();
    site.ctl(&["rm", "-f", "loop"]).ok();
    assert!(!site.ctl(&["ps", "-a"]).ok().contains("loop"));

    for words in [
        &["run", "--rm", "--restart", "always", "busybox"][..],
        &["run", "--restart", "always:3", "busybox"],
        &["run", "--restart", "sometimes", "busybox"],
    ] {
        site.ctl(words).error(125);
    }
    // A client that waits for it sees its first end.
    let said = site.ctl(&[
        "run",
        "--name",
        "seen",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "echo once; exit 4",
    ]);
    assert_eq!((said.code, said.out.as_str()), (4, "once\n"));
}

#[tokio::test]
async fn who_was_stopped_by_hand_stays_so() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "trap 'exit 5' USR1; httpd -p 80; while :; do usleep 50000; done";
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--restart",
        "unless-stopped",
        "-p",
        "8080:80",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    site.ctl(&words).ok();
    let answers = async || {
        site.ctl(&["exec", "web", "sh", "-c", "echo here > /index.html"])
            .code
            == 0
            && site.fetch("http://127.0.0.1:8080/index.html").as_deref() == Some("here\n")
    };
    eventually("it answers", async || answers().await.then_some(())).await;
    // Not the signal that stops it: what ends by it comes back, with its name and its port.
    site.ctl(&["kill", "-s", "USR1", "web"]).ok();
    becomes(&site, "web", "running 1").await;
    eventually("it answers again", async || answers().await.then_some(())).await;
    let name = [
        "run",
        "--rm",
        "busybox",
        "wget",
        "-q",
        "-O",
        "-",
        "http://web/index.html",
    ];
    assert_eq!(site.ctl(&name).ok(), "here\n");
    let witness = ["run", "-d", "--name=witness", "--restart=unless-stopped"];
    let witness = [&witness[..], &["busybox", "sleep", "1000"]].concat();
    site.ctl(&witness).ok();
    kill_first_process(&site, "witness");
    becomes(&site, "witness", "running 1").await;
    let enders = [
        &["kill", "web"][..],
        &["kill", "-s", "TERM", "web"],
        &["stop", "-t", "0", "web"],
    ];
    for (words, number) in enders.into_iter().zip(2..) {
        site.ctl(words).ok();
        if words.contains(&"TERM") {
            // The first process has no handler for it: it goes on, but its next end is final.
            kill_first_process(&site, "web");
        }
        eventually("it has ended", async || {
            state(&site, "web").starts_with("exited").then_some(())
        })
        .await;
        // Who ends after it, and longer waits for it, has come back meanwhile.
        kill_first_process(&site, "witness");
        becomes(&site, "witness", &format!("running {number}")).await;
        assert!(
            state(&site, "web").starts_with("exited 0")
                || state(&site, "web").starts_with("exited 1")
        );
        site.ctl(&["start", "web"]).ok();
    }
    // Stopped while it is paused: it is continued for that.
    site.ctl(&["pause", "web"]).ok();
    let refused = site.ctl(&["start", "web"]).error(1);
    assert!(
        refused.contains("cannot start a paused container, try unpause instead"),
        "{refused}"
    );
    let refused = site.ctl(&["rm", "web"]).error(1);
    assert!(
        refused.contains("container is paused and must be unpaused first"),
        "{refused}"
    );
    site.ctl(&["stop", "-t", "1", "web"]).ok();
    assert!(state(&site, "web").starts_with("exited"));
}

#[tokio::test]
async fn policies_hold_when_the_service_or_the_host_was_away() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let run = |site: &Site, name: &str, options: &[&str]| {
        let words = [
            &["run", "-d", "--name", name],
            options,
            &["busybox", "sleep", "1000"],
        ]
        .concat();
        site.ctl(&words).ok();
    };
    for (name, policy) in [
        ("always", "--restart=always"),
        ("unless", "--restart=unless-stopped"),
        ("failure", "--restart=on-failure:5"),
        ("stopped", "--restart=unless-stopped"),
        ("stopped-always", "--restart=always"),
        ("never", "--restart=no"),
        ("away", "--rm"),
    ] {
        run(&site, name, &[policy]);
    }
    run(&site, "ports", &["--restart=always", "-p", "8081:80"]);
    site.ctl(&["stop", "-t", "0", "stopped", "stopped-always"])
        .ok();
    let ended = ["always", "unless", "failure", "never", "away", "ports"];
    let all = |site: &Site| {
        for name in ["always", "unless", "failure", "ports"] {
            assert_eq!(site.inspect(name, "{{.State.Running}}"), "true");
        }
    };

    // They end while nobody looks.
    site.kill_service("runtime");
    let pids: Vec<String> = pids(&site, &ended);
    pids.iter().for_each(|pid| kill(pid));
    site.start_service("runtime").await;
    for name in ["always", "unless", "failure", "ports"] {
        becomes(&site, name, "running 1").await;
    }
    // docker: what is to run always also comes back when it was stopped by hand.
    becomes(&site, "stopped-always", "running 1").await;
    assert!(state(&site, "stopped").starts_with("exited 0"));
    assert_eq!(state(&site, "never"), "exited 0");
    eventually("--rm is made good", async || {
        (!site.ctl(&["ps", "-a"]).ok().contains("away")).then_some(())
    })
    .await;
    all(&site);

    // The host starts anew: no process is left, and no file of its run folder.
    site.kill_service("runtime");
    site.kill_service("netd");
    let live = ["always", "unless", "failure", "ports", "stopped-always"];
    let ids: Vec<String> = self::pids(&site, &live);
    ids.iter().for_each(|pid| kill(pid));
    for folder in ["run/runtime", "run/netd"] {
        // Monitors may still be writing.
        eventually("the run folder goes", async || {
            std::fs::remove_dir_all(site.path(folder)).ok()
        })
        .await;
    }
    site.start_service("netd").await;
    site.start_service("runtime").await;
    for name in live {
        becomes(&site, name, "running 2").await;
    }
    assert!(state(&site, "stopped").starts_with("exited"));
    assert!(site.ctl(&["ps"]).ok().contains("0.0.0.0:8081->80/tcp"));

    // Killed in the middle of a wait, and between two runs, again and again.
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "loop",
        "--restart=always",
        "busybox",
        "false",
    ])
    .ok();
    for _ in 0..4 {
        site.kill_and_restart("runtime").await;
    }
    eventually("it is still brought back", async || {
        let count: u32 = site.inspect("loop", "{{.RestartCount}}").parse().unwrap();
        (count >= 6).then_some(())
    })
    .await;
    all(&site);
}

/// Host pids of first processes, from the files of their cgroups: the service may be away.
fn pids(site: &Site, names: &[&str]) -> Vec<String> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(site.path("state/runtime/containers")).unwrap() {
        let folder = entry.unwrap().path();
        let record = std::fs::read(folder.join("config.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        if !names.contains(&record["name"].as_str().unwrap()) {
            continue;
        }
        let id = record["id"].as_str().unwrap();
        for tree in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/pids",
        ] {
            let file = format!("{tree}/slipway/{id}/cgroup.procs");
            if let Ok(text) = std::fs::read_to_string(file)
                && !text.trim().is_empty()
            {
                pids.extend(text.split_whitespace().map(str::to_owned));
                break;
            }
        }
    }
    assert!(pids.len() >= names.len(), "{pids:?}");
    pids
}

fn kill(pid: &str) {
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    // It may have gone with another one.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[tokio::test]
async fn restart_keeps_what_rm_would_take() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "trap 'echo got usr1; exit 0' USR1; echo up; while :; do usleep 20000; done";
    site.ctl(&[
        "run", "-d", "--rm", "--name", "kept", "busybox", "sh", "-c", script,
    ])
    .ok();
    eventually("it is up", async || {
        (site.ctl(&["logs", "kept"]).out == "up\n").then_some(())
    })
    .await;
    assert_eq!(
        site.ctl(&["restart", "-s", "USR1", "-t", "20", "kept"])
            .ok(),
        "kept\n"
    );
    eventually("it is up again", async || {
        (site.ctl(&["logs", "kept"]).out == "up\ngot usr1\nup\n").then_some(())
    })
    .await;
    site.ctl(&["stop", "-t", "0", "kept"]).ok();
    eventually("now it goes", async || {
        (!site.ctl(&["ps", "-a"]).ok().contains("kept")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn init_forwards_reaps_and_gives_nothing_away() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let run = |options: &[&str], script: &str| {
        let words = [
            &["run", "--rm", "--init"],
            options,
            &["busybox", "sh", "-c", script],
        ]
        .concat();
        site.ctl(&words)
    };
    // The program is its child, under docker's name; orphans are collected; exit codes are passed on.
    let said = run(
        &[],
        "echo $$; tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm; exit 7",
    );
    let lines: Vec<&str> = said.out.lines().collect();
    assert_ne!(lines[0], "1", "{said:?}");
    assert!(
        said.out.contains("docker-init") && !said.out.contains("spawner"),
        "{said:?}"
    );
    assert_eq!(said.code, 7);
    assert_eq!(run(&[], "kill -TERM $$").code, 143);
    let said = run(
        &[],
        "(sh -c 'usleep 100000 & exec true' &); usleep 600000; grep -c zombie /proc/[0-9]*/status | grep -v :0; true",
    );
    assert_eq!((said.code, said.out.as_str()), (0, ""));
    // It has what the program has, and no more.
    let status = "grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/$PID/status";
    let both = format!("PID=1; {status}; PID=self; {status}");
    for options in [
        &[
            "-u",
            "7:7",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
        ][..],
        &[],
        &["--privileged"],
    ] {
        let said = run(options, &both);
        let lines: Vec<&str> = said.out.lines().collect();
        let (init, own) = lines.split_at(lines.len() / 2);
        assert_eq!((init, init.len()), (own, 10), "{options:?}");
    }
    // Nobody looks into it, nor writes to what it was made from.
    let look = "for f in exe fd/0 mem environ; do cat /proc/1/$f > /dev/null 2>&1 && echo $f; done; echo x >> /proc/1/exe && echo written; true";
    let said = run(&[], look);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    let said = run(
        &["--privileged"],
        "echo x >> /proc/1/exe && echo written; ls /proc/1/fd; true",
    );
    assert_eq!(said.out, "0\n1\n2\n", "{}", said.err);
    // Even with the right to trace it finds nothing of other containers.
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "other",
        "-e",
        "SECRET=unspeakable-4711",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let search = "while read -r range rest; do case $rest in r*) from=$((0x${range%-*})); to=$((0x${range#*-})); \
        busybox dd if=/proc/1/mem bs=4096 skip=$((from/4096)) count=$(((to-from)/4096)) 2>/dev/null;; esac; done < /proc/1/maps | grep -c unspeakable-47''11";
    let said = run(
        &["--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined"],
        search,
    );
    assert_eq!(said.out, "0\n", "{}", said.err);
    // What cannot run says so as without it.
    assert_eq!(
        site.ctl(&["run", "--rm", "--init", "busybox", "nonsense"])
            .code,
        127
    );
    assert_eq!(
        site.ctl(&["run", "--rm", "--init", "busybox", "/etc"]).code,
        126
    );

    // Signals reach the program, real-time ones too, and its end is the container's.
    let script =
        "trap 'echo usr1' USR1; trap 'echo rt; exit 9' 40; echo up; while :; do usleep 20000; done";
    site.ctl(&[
        "run", "-d", "--init", "--name", "signals", "busybox", "sh", "-c", script,
    ])
    .ok();
    let logs = async |wanted: &str| {
        eventually(wanted, async || {
            (site.ctl(&["logs", "signals"]).out.ends_with(wanted)).then_some(())
        })
        .await
    };
    logs("up\n").await;
    assert!(
        site.ctl(&["top", "signals"])
            .ok()
            .contains("/sbin/docker-init -- sh -c")
    );
    site.ctl(&["kill", "-s", "USR1", "signals"]).ok();
    logs("usr1\n").await;
    site.ctl(&["kill", "-s", "40", "signals"]).ok();
    assert_eq!(site.ctl(&["wait", "signals"]).ok(), "9\n");
    // Without handlers the program ends by TERM at once, which a first process would not.
    site.ctl(&[
        "run", "-d", "--init", "--name", "prompt", "busybox", "sleep", "1000",
    ])
    .ok();
    site.ctl(&["stop", "-t", "60", "prompt"]).ok();
    assert_eq!(site.inspect("prompt", "{{.State.ExitCode}}"), "143");
}
