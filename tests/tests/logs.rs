//! Logs: rotation, drivers and their options, what is shown of them; nothing is lost or comes twice.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::Child,
};

use slipway_tests::{Site, ctl::signal, eventually, image, ready};

/// A container's folder in the state folder.
fn folder(site: &Site, name: &str) -> PathBuf {
    let id = site.ctl(&["inspect", "-f", "{{.Id}}", name]).ok();
    site.path("state/runtime/containers").join(id.trim())
}

/// Files of a log, and their sizes together.
fn files(site: &Site, name: &str) -> (Vec<String>, u64) {
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder(site, name)).unwrap().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with("log") || file.starts_with("index.") {
            bytes += entry.metadata().map_or(0, |m| m.len());
            names.push(file);
        }
    }
    names.sort();
    (names, bytes)
}

/// Whether it ran and ended.
fn ended(site: &Site, name: &str) -> bool {
    site.ctl(&["inspect", "-f", "{{.State.Status}}", name]).out == "exited\n"
}

/// The text is the numbers from `first` to `last`, a line each.
#[track_caller]
fn assert_counts(text: &str, first: u64, last: u64) {
    let mut expected = first;
    for line in text.lines() {
        assert_eq!(line, expected.to_string(), "after {}", expected - 1);
        expected += 1;
    }
    assert_eq!(expected - 1, last, "it ends too early");
}

fn all(mut child: Child) -> String {
    let mut text = String::new();
    let out = child.stdout.take().unwrap();
    BufReader::new(out).read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[tokio::test]
async fn no_line_is_lost_or_doubled_across_rotations_and_kills() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let script = "seq 1 60000; read x; seq 60001 120000";
    let mut run = vec!["run", "-di", "--name", "box"];
    run.extend(["--log-opt", "max-size=100k", "--log-opt", "max-file=40"]);
    run.extend(["busybox", "sh", "-c", script]);
    site.ctl(&run).ok();
    eventually("the first half is there", async || {
        (site.ctl(&["logs", "-n", "1", "box"]).out == "60000\n").then_some(())
    })
    .await;
    site.kill_and_restart("runtime").await;
    let follow = site.ctl_start(&["logs", "-f", "box"]);
    let tail = site.ctl_start(&["logs", "-f", "--tail", "10", "box"]);
    site.ctl_with(&["attach", "box"], b"go\n").ok();
    assert_counts(&all(follow), 1, 120_000);
    let tail = all(tail);
    let first = tail.lines().next().unwrap().parse().unwrap();
    assert_counts(&tail, first, 120_000);
    assert_counts(&site.ctl(&["logs", "box"]).ok(), 1, 120_000);
    eventually("complete parts are packed", async || {
        let (names, _) = files(&site, "box");
        let packed = names.iter().filter(|n| n.ends_with(".z")).count();
        (packed > 3 && packed + 1 >= names.iter().filter(|n| n.starts_with("log")).count())
            .then_some(())
    })
    .await;
    assert_counts(&site.ctl(&["logs", "box"]).ok(), 1, 120_000);
    let tail = site.ctl(&["logs", "--tail", "70000", "box"]).ok();
    assert_counts(&tail, 50_001, 120_000);
    // A second life goes on in the same log.
    site.ctl(&["start", "box"]).ok();
    eventually("it has begun again", async || {
        (site.ctl(&["logs", "-n", "1", "box"]).out == "60000\n").then_some(())
    })
    .await;
    let again = site.ctl(&["logs", "--tail", "60001", "box"]).ok();
    assert!(again.starts_with("120000\n1\n2\n"), "{:?}", again.get(..40));
}

#[tokio::test]
async fn a_log_has_a_cap_and_half_a_record_is_not_believed() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut run = vec!["run", "-d", "--name", "box", "--log-opt", "max-size=50k"];
    run.extend(["--log-opt", "max-file=2", "busybox"]);
    run.extend(["sh", "-c", "seq 1 300000; sleep 1000"]);
    site.ctl(&run).ok();
    eventually("it has written all", async || {
        (site.ctl(&["logs", "-n", "1", "box"]).out == "300000\n").then_some(())
    })
    .await;
    let (names, bytes) = files(&site, "box");
    assert!(bytes < 110_000, "{bytes} in {names:?}");
    let kept = site.ctl(&["logs", "box"]).ok();
    // The first line may have begun in what is gone.
    let kept = kept.split_once('\n').unwrap().1;
    let first = kept.lines().next().unwrap().parse().unwrap();
    assert_counts(kept, first, 300_000);
    assert!(first > 200_000);

    let monitor = site.ctl(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok();
    let status = std::fs::read_to_string(format!("/proc/{}/status", monitor.trim())).unwrap();
    let monitor = status
        .lines()
        .find_map(|l| l.strip_prefix("PPid:"))
        .unwrap();
    let kill = std::process::Command::new("kill")
        .args(["-9", monitor.trim()])
        .status();
    assert!(kill.unwrap().success());
    eventually("it is seen to have ended", async || {
        (site.ctl(&["ps", "-q"]).out.is_empty()).then_some(())
    })
    .await;
    // As a death in the middle of a write leaves it: a header that says more than there is.
    let (names, _) = files(&site, "box");
    let newest = names
        .iter()
        .filter(|n| n.starts_with("log") && !n.ends_with(".z"));
    let newest = newest.max_by_key(|n| n.len()).unwrap();
    let newest = folder(&site, "box").join(newest);
    let bytes = std::fs::read(&newest).unwrap();
    let torn = [&bytes[..], &bytes[..20]].concat();
    std::fs::write(&newest, torn).unwrap();
    assert_eq!(site.ctl(&["logs", "-n", "1", "box"]).ok(), "300000\n");
    site.ctl(&["start", "box"]).ok();
    eventually("it writes behind what was whole", async || {
        let text = site.ctl(&["logs", "-n", "1", "box"]).out;
        (text == "300000\n" && site.ctl(&["logs", "--since", "10s", "box"]).out.len() > 1000)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_attached_client_that_is_slow_gets_everything_and_blocks_nothing() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure("runtime.toml", "log-hold = \"60m\"\n");
    site.start_services().await;
    image::busybox(&site).await;
    let start = |name: &str, lines: u64| {
        let script = format!("seq 1 {lines}");
        let mut run = vec!["run", "--name", name, "--log-opt", "max-size=200k"];
        run.extend(["--log-opt", "max-file=2", "busybox", "sh", "-c", &script]);
        site.ctl_start(&run)
    };
    // 16 MB, through a log of 400 kB, and nobody reads yet.
    let slow = start("slow", 2_000_000);
    eventually("it ends although nobody reads", async || {
        ended(&site, "slow").then_some(())
    })
    .await;
    assert_counts(&all(slow), 1, 2_000_000);
    site.ctl(&["rm", "slow"]).ok();

    // 110 MB are more than is held: the client is told, and does not wait for ever.
    let mut late = start("late", 12_500_000);
    eventually("it ends although nobody reads", async || {
        ended(&site, "late").then_some(())
    })
    .await;
    let (_, bytes) = files(&site, "late");
    assert!(bytes < 70_000_000, "{bytes}");
    let mut out = BufReader::new(late.stdout.take().unwrap());
    let (mut line, mut lines) = (String::new(), 0u64);
    while out.read_line(&mut line).unwrap() > 0 {
        lines += 1;
        line.clear();
    }
    let ended = late.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        !ended.status.success() && lines < 12_500_000,
        "{} {lines} {said}",
        ended.status
    );
    assert!(said.contains("bytes of output were lost"), "{said}");
}

#[tokio::test]
async fn what_logs_shows_is_chosen_as_with_docker() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "printf 'be'; usleep 200000; echo err >&2; usleep 200000; echo gun; printf rest; sleep 1000";
    site.ctl(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    eventually("all is written", async || {
        site.ctl(&["logs", "box"])
            .out
            .ends_with("rest")
            .then_some(())
    })
    .await;
    let whole = site.ctl(&["logs", "box"]);
    assert_eq!((&*whole.out, &*whole.err), ("begun\nrest", "err\n"));
    // The line that another stream cut in two is shown whole.
    let two = site.ctl(&["logs", "--tail", "2", "box"]);
    assert_eq!((&*two.out, &*two.err), ("begun\nrest", ""));
    assert_eq!(site.ctl(&["logs", "-n", "1", "box"]).ok(), "rest");
    assert_eq!(site.ctl(&["logs", "-n", "0", "box"]).ok(), "");
    let stamped = site.ctl(&["logs", "-t", "--details", "box"]);
    let line = stamped.err.trim_end();
    // docker: time, details (none here), line.
    assert!(line.ends_with("Z  err") && line.len() == 30 + 5, "{line:?}");
    let time = line.split(' ').next().unwrap();
    let since = site.ctl(&["logs", "--since", time, "box"]);
    assert_eq!((&*since.out, &*since.err), ("gun\nrest", "err\n"));
    let until = site.ctl(&["logs", "--until", time, "box"]);
    assert_eq!((&*until.out, &*until.err), ("be", "err\n"));
    // A time to come ends a follower.
    let until = site.ctl(&["logs", "-f", "--until", "1s", "box"]);
    assert_eq!(until.code, 0, "{}", until.err);
    let config =
        "{{.HostConfig.LogConfig.Type}} {{len .HostConfig.LogConfig.Config}} [{{.LogPath}}]";
    let said = site.ctl(&["inspect", "-f", config, "box"]).ok();
    assert_eq!(said, "local 0 []\n");

    for (options, why) in [
        (
            &["--log-opt", "tag=x"][..],
            "unknown log opt 'tag' for log driver local",
        ),
        (
            &["--log-driver", "json-file", "--log-opt", "nope=1"],
            "unknown log opt 'nope' for json-file log driver",
        ),
        (
            &["--log-driver", "syslog"],
            "no log driver named 'syslog' is registered",
        ),
        (
            &["--log-opt", "max-file=0"],
            "max-file cannot be less than 1",
        ),
        (
            &["--log-driver", "json-file", "--log-opt", "max-size=x"],
            "invalid size: 'x'",
        ),
    ] {
        let words = [&["run", "--rm"][..], options, &["busybox", "true"]].concat();
        let error = site.ctl(&words).error(125);
        assert!(error.contains(why), "{error}");
    }

    // Nothing is kept, but who is attached sees it.
    let none = site.ctl(&[
        "run",
        "--name",
        "none",
        "--log-driver",
        "none",
        "busybox",
        "echo",
        "seen",
    ]);
    assert_eq!((none.code, &*none.out), (0, "seen\n"), "{}", none.err);
    let error = site.ctl(&["logs", "none"]).error(1);
    assert!(
        error.contains("configured logging driver does not support reading"),
        "{error}"
    );
}

#[tokio::test]
async fn json_file_is_dockers() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure(
        "runtime.toml",
        "log-driver = \"json-file\"\n[log-opts]\nmax-size = \"20k\"\nmax-file = \"3\"\nlabels = \"team\"\n",
    );
    site.start_services().await;
    image::busybox(&site).await;
    let script = "seq 1 1000; read x; seq 1001 1200; printf '<a>\\n' >&2; printf end";
    let mut run = vec![
        "run",
        "-di",
        "--name",
        "box",
        "--label",
        "team=blue",
        "-e",
        "ZONE=7",
    ];
    run.extend([
        "--log-opt",
        "env=ZONE",
        "--log-opt",
        "compress=true",
        "--log-opt",
        "tag={{.Name}}/x",
    ]);
    run.extend(["busybox", "sh", "-c", script]);
    site.ctl(&run).ok();
    eventually("the first part is there", async || {
        (site.ctl(&["logs", "-n", "1", "box"]).out == "1000\n").then_some(())
    })
    .await;
    let follow = site.ctl_start(&["logs", "-f", "-n", "3", "box"]);
    site.kill_service("runtime");
    all(follow);
    // What the driver has already got is not handed on again.
    site.start_service("runtime").await;
    let mut follow = site.ctl_start(&["logs", "-f", "-n", "3", "box"]);
    // It has begun before anything else is written.
    let mut begun = [0; 4];
    std::io::Read::read_exact(follow.stdout.as_mut().unwrap(), &mut begun).unwrap();
    site.ctl_with(&["attach", "box"], b"go\n").ok();
    let text = String::from_utf8_lossy(&begun).into_owned() + &all(follow);
    let whole = text.strip_suffix("end");
    assert_counts(whole.unwrap_or_else(|| panic!("{text:?}")), 998, 1200);

    let path = site.ctl(&["inspect", "-f", "{{.LogPath}}", "box"]).ok();
    let path = path.trim();
    assert!(path.ends_with("-json.log"), "{path}");
    let last = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = last.lines().collect();
    let attrs = r#""attrs":{"ZONE":"7","tag":"box/x","team":"blue"},"time":""#;
    let of = |start: &str| {
        lines
            .iter()
            .find(|l| l.starts_with(start))
            .copied()
            .unwrap_or_default()
    };
    assert!(
        of(r#"{"log":"\u003ca\u003e\n","stream":"stderr","#).contains(attrs),
        "{last}"
    );
    assert!(
        of(r#"{"log":"end\n","stream":"stdout","#).contains(attrs),
        "{last}"
    );
    let size = std::fs::metadata(path).unwrap().len();
    assert!(size < 21_000, "{size}");
    for number in ["1", "2"] {
        assert!(
            std::fs::exists(format!("{path}.{number}.gz")).unwrap(),
            "{number}"
        );
    }
    assert!(!std::fs::exists(format!("{path}.3.gz")).unwrap());
    // Everything that the files have, once.
    let shown = site.ctl(&["logs", "box"]);
    let text = shown.out.strip_suffix("end\n").unwrap();
    let first = text.lines().next().unwrap().parse().unwrap();
    assert_counts(text, first, 1200);
    assert!(first > 1 && first < 1000, "{first}");
    assert_eq!(shown.err, "<a>\n");
    let tail = site.ctl(&["logs", "-n", "300", "--details", "box"]).ok();
    assert!(
        tail.contains("ZONE=7,tag=box%2Fx,team=blue 1000\n"),
        "{tail}"
    );
    let config =
        "{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-size\"}}";
    assert_eq!(
        site.ctl(&["inspect", "-f", config, "box"]).ok(),
        "json-file 20k\n"
    );
    // Another driver does not get the options of this one.
    let other = site.ctl(&["run", "--rm", "--log-driver", "local", "busybox", "true"]);
    assert_eq!(other.code, 0, "{}", other.err);
}

#[tokio::test]
async fn journald_gets_dockers_fields() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let path = std::path::Path::new("/run/systemd/journal/socket");
    if path.exists() {
        slipway_tests::skipped("this host has a journal, which is not this test's to write to");
        return;
    }
    let refused = site
        .ctl(&["run", "--log-driver", "journald", "busybox", "true"])
        .error(125);
    assert!(
        refused.contains("journald is not enabled on this host"),
        "{refused}"
    );
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let journal = std::os::unix::net::UnixDatagram::bind(path).unwrap();
    journal
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let mut run = vec![
        "run",
        "--name",
        "box",
        "--log-driver",
        "journald",
        "--label",
        "a.b=c",
    ];
    run.extend([
        "--log-opt",
        "labels=a.b",
        "--log-opt",
        "tag=t-{{.Name}}",
        "busybox",
    ]);
    run.extend(["sh", "-c", "echo out; echo err >&2"]);
    let said = site.ctl(&run);
    let mut entries = Vec::new();
    for _ in 0..2 {
        let mut buffer = vec![0; 65536];
        let length = journal.recv(&mut buffer).unwrap();
        entries.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    std::fs::remove_file(path).unwrap();
    assert_eq!((said.code, &*said.out), (0, "out\n"), "{}", said.err);
    entries.sort_by_key(|e| e.contains("MESSAGE=err"));
    for (entry, end) in entries.iter().zip(["MESSAGE=out\n", "MESSAGE=err\n"]) {
        for field in [
            "CONTAINER_NAME=box\n",
            "CONTAINER_TAG=t-box\n",
            "SYSLOG_IDENTIFIER=t-box\n",
            "A_B=c\n",
            end,
        ] {
            assert!(entry.contains(field), "{field} in {entry}");
        }
    }
    assert!(entries[0].contains("PRIORITY=6\n") && entries[1].contains("PRIORITY=3\n"));
    // Read back from the log beside it.
    assert_eq!(site.ctl(&["logs", "box"]).ok(), "out\n");
}

#[tokio::test]
async fn a_follower_that_is_overtaken_is_told() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut run = vec!["run", "-di", "--name", "box", "--log-opt", "max-size=100k"];
    run.extend(["--log-opt", "max-file=2", "busybox"]);
    run.extend(["sh", "-c", "echo first; read x; seq 1 3000000"]);
    site.ctl(&run).ok();
    let mut follow = site.ctl_start(&["logs", "-f", "box"]);
    let mut out = BufReader::new(follow.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    signal(&follow, rustix::process::Signal::STOP);
    site.ctl_with(&["attach", "--sig-proxy=false", "box"], b"go\n")
        .ok();
    signal(&follow, rustix::process::Signal::CONT);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let ended = follow.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(rest.ends_with("\n3000000\n"), "it goes on to the end");
    assert!(
        said.contains("were rotated away before they were read"),
        "{said}"
    );
    assert_eq!(ended.status.code(), Some(0));
}

#[tokio::test]
async fn a_follower_goes_on_with_the_next_life() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "echo life; usleep 1000000; echo $((6 * 7)); exit 1";
    let mut run = vec!["run", "-d", "--name", "box", "--restart", "on-failure:1"];
    run.extend(["busybox", "sh", "-c", script]);
    site.ctl(&run).ok();
    let follow = site.ctl_start(&["logs", "-f", "box"]);
    assert_eq!(all(follow), "life\n42\nlife\n42\n");
    assert_eq!(site.ctl(&["logs", "-n", "3", "box"]).ok(), "42\nlife\n42\n");
}
