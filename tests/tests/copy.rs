//! `cp`, `diff`, `export` and `top`, through the command line.

use std::{fs, path::Path, process::Command};

use slipway_image::{config::RunConfig, layer::Kind};
use slipway_tests::{Said, Site, Terminal, image, ready};

fn ok(said: Said) -> String {
    assert_eq!(said.code, 0, "{}", said.err);
    said.out
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test]
async fn files_in_both_directions_whether_it_runs_or_not() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(here.join("tree/sub")).unwrap();
    fs::write(here.join("one"), "one\n").unwrap();
    fs::write(here.join("tree/sub/deep"), "deep\n").unwrap();
    std::os::unix::fs::symlink("sub/deep", here.join("tree/link")).unwrap();
    let local = |name: &str| here.join(name).to_str().unwrap().to_owned();
    let make = "mkdir -p /d/e /vol/v; echo inside > /d/e/f; ln -s e /d/to-e; echo in-volume > /vol/v/f; \
        ln -s /etc/hostname /d/host; touch /d/started; sleep 1000";
    ok(site.ctl(&[
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "data:/vol",
        "busybox",
        "sh",
        "-c",
        make,
    ]));
    slipway_tests::eventually("it is ready", async || {
        (site.ctl(&["exec", "box", "test", "-e", "/d/started"]).code == 0).then_some(())
    })
    .await;
    for running in [true, false] {
        let out = format!("out-{running}");
        fs::create_dir(here.join(&out)).unwrap();
        let to = |name: &str| local(&format!("{out}/{name}"));
        let cp = |from: &str, to: &str| ok(site.ctl(&["cp", from, to]));
        // To the container, in docker's forms, and back again.
        cp(&local("one"), "box:/tmp");
        cp("box:/tmp/one", &to("one"));
        cp(&local("one"), "box:/tmp/renamed");
        cp("box:tmp/renamed", &to(""));
        cp(&local("tree"), "box:/tmp");
        cp("box:/tmp/tree", &to("whole"));
        cp(&format!("{}/.", local("tree")), "box:/tmp");
        cp("box:/tmp/sub/.", &to(""));
        for name in ["one", "renamed"] {
            assert_eq!(read(&here.join(&out).join(name)), "one\n", "{running}");
        }
        assert_eq!(read(&here.join(&out).join("whole/sub/deep")), "deep\n");
        assert_eq!(
            fs::read_link(here.join(&out).join("whole/link")).unwrap(),
            Path::new("sub/deep")
        );
        assert_eq!(read(&here.join(&out).join("deep")), "deep\n");
        // Volumes, links to folders, links that would lead out.
        cp("box:/vol/v/f", &to("volume"));
        assert_eq!(read(&here.join(&out).join("volume")), "in-volume\n");
        cp(&local("one"), "box:/vol/v");
        cp(&local("one"), "box:/d/to-e");
        cp("box:/d/e/one", &to("by-link"));
        assert_eq!(read(&here.join(&out).join("by-link")), "one\n");
        ok(site.ctl(&["cp", "-L", "box:/d/host", &to("hostname")]));
        let own = fs::read_to_string("/etc/hostname").unwrap_or_default();
        let copied = fs::read_to_string(here.join(&out).join("hostname")).unwrap();
        assert!(
            copied != own || own.is_empty(),
            "the container's own file, not the host's"
        );
        // Streams.
        let tar = site.output(
            slipway_tests::site::program_path("ctl").to_str().unwrap(),
            &["cp", "box:/tmp/tree", "-"],
        );
        assert!(tar.status.success());
        ok(site.ctl_with(&["cp", "-", "box:/d"], &tar.stdout));
        cp("box:/d/tree/sub/deep", &to("streamed"));
        assert_eq!(read(&here.join(&out).join("streamed")), "deep\n");
        // What cannot be.
        for (from, target, says) in [
            (
                "box:/nosuch".to_owned(),
                to(""),
                "Could not find the file /nosuch in container box",
            ),
            (local("nosuch"), "box:/tmp".to_owned(), "No such file"),
            (
                local("tree"),
                "box:/d/e/f".to_owned(),
                "cannot copy directory",
            ),
            (local("one"), "box:/nosuch/".to_owned(), "no such directory"),
            (
                local("one"),
                "box:/nosuch/x".to_owned(),
                "Could not find the file /nosuch",
            ),
            ("nosuch:/x".to_owned(), to(""), "No such container: nosuch"),
            ("box:/d".to_owned(), to("nosuch/x"), "does not exist"),
        ] {
            let said = site.ctl(&["cp", &from, &target]);
            assert!(
                said.code == 1 && said.err.contains(says),
                "{from} {target}: {}",
                said.err
            );
        }
        if running {
            let said = ok(site.ctl(&["exec", "box", "cat", "/vol/v/one", "/d/tree/sub/deep"]));
            assert_eq!(said, "one\ndeep\n");
            ok(site.ctl(&["stop", "-t", "0", "box"]));
        }
    }
    ok(site.ctl(&["start", "box"]));
    assert_eq!(ok(site.ctl(&["exec", "box", "cat", "/vol/v/one"])), "one\n");
    ok(site.ctl(&["rm", "-f", "box"]));
    ok(site.ctl(&[
        "create",
        "--name",
        "box",
        "--read-only",
        "-v",
        "data:/vol:ro",
        "busybox",
    ]));
    for (target, says) in [
        ("box:/tmp", "marked read-only"),
        ("box:/vol", "volume is marked read-only"),
    ] {
        let said = site.ctl(&["cp", &local("one"), target]);
        assert!(said.code == 1 && said.err.contains(says), "{}", said.err);
    }
    ok(site.ctl(&["rm", "box"]));
    ok(site.ctl(&["volume", "rm", "data"]));
}

#[tokio::test]
async fn a_hostile_container_reaches_nothing_outside() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(here.join("out")).unwrap();
    fs::write(here.join("one"), "one\n").unwrap();
    let script = format!(
        "mkdir /d; ln -s /../../../..{0} /d/abs; ln -s ../../../../../../../..{0} /d/rel; ln -s /proc/1/root{0} /d/magic",
        here.display()
    );
    ok(site.ctl(&["run", "--name", "box", "busybox", "sh", "-c", &script]));
    let one = here.join("one");
    for link in ["abs", "rel", "magic"] {
        let said = site.ctl(&[
            "cp",
            one.to_str().unwrap(),
            &format!("box:/d/{link}/planted"),
        ]);
        assert_ne!(said.code, 0, "{link}");
        let out = here.join("out");
        let said = site.ctl(&[
            "cp",
            "-L",
            &format!("box:/d/{link}/one"),
            out.to_str().unwrap(),
        ]);
        assert_ne!(said.code, 0, "{link}");
    }
    assert!(!here.join("planted").exists());
    assert_eq!(fs::read_dir(here.join("out")).unwrap().count(), 0);
    ok(site.ctl(&["rm", "box"]));
}

#[tokio::test]
async fn changes_and_the_whole_tree() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "echo x > /new; rm /bin/ip; mkdir -p /a/b; echo y > /a/b/c; echo z >> /etc/added; sleep 1000";
    ok(site.ctl(&[
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "/tmp:/mounted",
        "busybox",
        "sh",
        "-c",
        script,
    ]));
    let expected = "A /a\nA /a/b\nA /a/b/c\nC /bin\nD /bin/ip\nC /etc\nA /etc/added\nA /new\n";
    slipway_tests::eventually("all changes are told", async || {
        (ok(site.ctl(&["diff", "box"])) == expected).then_some(())
    })
    .await;
    let tar = site.path("box.tar");
    for _ in 0..2 {
        ok(site.ctl(&["export", "-o", tar.to_str().unwrap(), "box"]));
        let listed = Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
        let names = String::from_utf8_lossy(&listed.stdout).into_owned();
        let has = |name: &str| names.lines().any(|line| line == name);
        assert!(has("bin/busybox") && has("a/b/c") && has("new"), "{names}");
        assert!(!has("bin/ip") && !names.contains("proc/1/"), "{names}");
        ok(site.ctl(&["stop", "-t", "0", "box"]));
    }
    assert_eq!(ok(site.ctl(&["diff", "box"])), expected);
}

#[tokio::test]
async fn processes_as_ps_shows_them() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    ok(site.ctl(&[
        "run",
        "-d",
        "--name",
        "box",
        "-u",
        "33",
        "busybox",
        "sh",
        "-c",
        "sleep 1000 & sleep 2000; true",
    ]));
    let shown = slipway_tests::eventually("all processes run", async || {
        let shown = ok(site.ctl(&["top", "box"]));
        (shown.lines().count() == 4 && shown.contains("sleep 1000") && shown.contains("sleep 2000"))
            .then_some(shown)
    })
    .await;
    let head: Vec<&str> = shown.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        head,
        ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    );
    assert!(
        shown.lines().nth(1).unwrap().starts_with("www-data "),
        "{shown}"
    );
    let pids = ok(site.ctl(&["top", "box", "-o", "pid,comm"]));
    assert!(
        pids.starts_with("PID") && pids.lines().count() == 4,
        "{pids}"
    );
    let odd = site.ctl(&["top", "box", "-Z"]);
    assert!(
        odd.code == 1 && odd.err.contains("not supported"),
        "{}",
        odd.err
    );
    let line = "{{.Name}} {{.PIDs}} {{.CPUPerc}}";
    let stats = ok(site.ctl(&["stats", "--no-stream", "--format", line]));
    assert!(
        stats.starts_with("box 3 ") && stats.ends_with("%\n"),
        "{stats}"
    );
    let mut live = site.ctl_start(&["stats", "--format", "{{.Name}}"]);
    let mut out = std::io::BufReader::new(live.stdout.take().unwrap());
    for _ in 0..2 {
        let mut shown = String::new();
        std::io::BufRead::read_line(&mut out, &mut shown).unwrap();
        assert_eq!(shown, "box\n");
    }
    live.kill().unwrap();
    live.wait().unwrap();
    ok(site.ctl(&["stop", "-t", "0", "box"]));
    assert_eq!(
        ok(site.ctl(&["stats", "--no-stream", "--format", line])),
        ""
    );
    let all = ok(site.ctl(&["stats", "-a", "--no-stream", "--format", line]));
    assert_eq!(all, "box 0 0.00%\n");
    let ended = site.ctl(&["top", "box"]);
    assert!(
        ended.code == 1 && ended.err.contains("is not running"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn the_whole_root_large_files_and_the_last_line() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(&here).unwrap();
    let large = here.join("large");
    let size = 64 << 20;
    let file = fs::File::create(&large).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", size - 3).unwrap();
    ok(site.ctl(&[
        "run", "-d", "--name", "box", "--tmpfs", "/mem", "busybox", "sleep", "1000",
    ]));
    ok(site.ctl(&["cp", large.to_str().unwrap(), "box:/large"]));
    ok(site.ctl(&[
        "exec",
        "box",
        "sh",
        "-c",
        "echo kept > /mem/file; echo made > /made",
    ]));
    // With devices, pipes of the kernel and all: what is the kernel's is left out, as docker does.
    let root = here.join("root");
    ok(site.ctl(&["cp", "box:/", root.to_str().unwrap()]));
    assert_eq!(fs::metadata(root.join("large")).unwrap().len(), size);
    assert_eq!(read(&root.join("made")), "made\n");
    assert_eq!(read(&root.join("mem/file")), "kept\n");
    for name in ["proc", "sys", "dev"] {
        assert_eq!(fs::read_dir(root.join(name)).unwrap().count(), 0, "{name}");
    }
    ok(site.ctl(&["cp", "box:/proc", here.join("proc").to_str().unwrap()]));
    assert_eq!(fs::read_dir(here.join("proc")).unwrap().count(), 0);
    let loud = Terminal::ctl(&site, &["cp", "box:/made", here.to_str().unwrap()]);
    loud.expect(&format!("Successfully copied 5B to {}", here.display()))
        .await;
    assert_eq!(loud.end().await, 0);
    ok(site.ctl(&["rm", "-f", "box"]));
}

/// The user of -a is the container's, also where the path leads into a volume that has no passwd.
#[tokio::test]
async fn archive_mode_gives_files_to_the_containers_user() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    let program = fs::read("/bin/busybox").unwrap();
    let passwd = b"app:x:4242:4343::/:/bin/sh\n".to_vec();
    let entries = [
        (image::entry("bin", Kind::Folder, 0), vec![]),
        (image::entry("etc", Kind::Folder, 0), vec![]),
        (
            image::entry("bin/busybox", Kind::File, program.len() as u64),
            program,
        ),
        (
            image::entry("etc/passwd", Kind::File, passwd.len() as u64),
            passwd,
        ),
    ];
    let run = RunConfig {
        user: "app".into(),
        entrypoint: Some(vec!["/bin/busybox".into()]),
        ..RunConfig::default()
    };
    image::store(&site, "app", run, &entries).await;
    let one = site.path("one");
    fs::write(&one, "one\n").unwrap();
    std::os::unix::fs::chown(&one, Some(1000), Some(1001)).unwrap();
    let one = one.to_str().unwrap();
    ok(site.ctl(&[
        "create",
        "--name",
        "box",
        "-v",
        "data:/vol",
        "app",
        "sleep",
        "1000",
    ]));
    for (round, running) in [("rest", false), ("live", true)] {
        if running {
            ok(site.ctl(&["start", "box"]));
        }
        for folder in ["/etc", "/vol"] {
            ok(site.ctl(&["cp", "-a", one, &format!("box:{folder}/all-{round}")]));
            ok(site.ctl(&["cp", one, &format!("box:{folder}/as-is-{round}")]));
        }
    }
    for (kind, owner) in [("all", "4242 4343"), ("as-is", "1000 1001")] {
        for path in ["/etc", "/vol"] {
            for round in ["rest", "live"] {
                let file = format!("{path}/{kind}-{round}");
                let shown =
                    ok(site.ctl(&["exec", "box", "/bin/busybox", "stat", "-c", "%u %g", &file]));
                assert_eq!(shown.trim(), owner, "{file}");
            }
        }
    }
    ok(site.ctl(&["rm", "-f", "box"]));
    ok(site.ctl(&["volume", "rm", "data"]));
}

#[tokio::test]
async fn holes_stay_holes_both_ways() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(&here).unwrap();
    let file = fs::File::create(here.join("sparse")).unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_all_at(b"content", 50 << 20).unwrap();
    let id = ok(site.ctl(&["create", "--name", "box", "busybox"]));
    let (from, to) = (here.join("sparse"), here.join("back"));
    let (from, to) = (from.display().to_string(), to.display().to_string());
    ok(site.ctl(&["cp", &from, "box:/sparse"]));
    ok(site.ctl(&["cp", "box:/sparse", &to]));
    let inside = format!("state/runtime/containers/{}/upper/sparse", id.trim());
    for copy in [site.path(&inside), to.into()] {
        let meta = fs::metadata(&copy).unwrap();
        assert_eq!(meta.len(), 100 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{}", copy.display());
        let same = Command::new("cmp").arg(&copy).arg(&from).status();
        assert!(same.unwrap().success());
    }
}
