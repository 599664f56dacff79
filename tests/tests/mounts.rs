//! Mounts of containers, as seen from inside and from the host.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use slipway_image::{config::RunConfig, layer::Kind};
use slipway_tests::{Site, eventually, image, ready};

/// busybox with what the tests look with, and folders, links and content to mount upon.
async fn site() -> Option<Site> {
    if !ready() {
        return None;
    }
    let site = Site::start().await;
    let program = fs::read("/bin/busybox").unwrap();
    let folder = |path: &str, mode: u32| {
        let mut entry = image::entry(path, Kind::Folder, 0);
        entry.mode = mode;
        (entry, vec![])
    };
    let file = |path: &str, content: &[u8]| {
        let entry = image::entry(path, Kind::File, content.len() as u64);
        (entry, content.to_vec())
    };
    let link = |path: &str, to: &str| {
        (
            image::entry(path, Kind::Symlink(to.as_bytes().to_vec()), 0),
            vec![],
        )
    };
    let mut entries = vec![
        folder("bin", 0o755),
        file("bin/busybox", &program),
        folder("tmp", 0o1777),
        folder("etc", 0o755),
        folder("covered", 0o705),
        file("covered/hidden", b"of the image\n"),
        link("absolute", "/deep/er"),
        link("up", "../../../../outside"),
        link("host", "/tmp"),
        folder("data", 0o750),
        file("data/seed", b"seed\n"),
    ];
    for name in [
        "sh", "cat", "stat", "grep", "mount", "umount", "touch", "ls", "mkdir", "ln", "rm", "mv",
        "sleep", "echo", "test", "df", "awk", "nc", "sync", "readlink", "usleep", "true",
    ] {
        entries.push(link(&format!("bin/{name}"), "busybox"));
    }
    let run = RunConfig {
        cmd: Some(vec!["sh".into()]),
        ..RunConfig::default()
    };
    image::store(&site, "tools", run, &entries).await;
    Some(site)
}

fn host_folder(site: &Site, name: &str) -> String {
    let path = site.path(name);
    fs::create_dir_all(&path).unwrap();
    path.display().to_string()
}

/// Runs a script with these options.
fn run(site: &Site, options: &[&str], script: &str) -> slipway_tests::Said {
    let all = [&["run", "--rm"], options, &["tools", "sh", "-c", script]].concat();
    site.ctl(&all)
}

/// A mount of the test in the host's namespace, taken off again.
struct HostMount(String);

impl HostMount {
    fn new(arguments: &[&str], target: &str) -> Self {
        let made = Command::new("mount").args(arguments).arg(target).status();
        assert!(made.unwrap().success());
        Self(target.to_owned())
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[tokio::test]
async fn binds_are_as_their_options_say() {
    let Some(site) = site().await else { return };
    let source = host_folder(&site, "source");
    fs::write(site.path("source/f"), "from the host\n").unwrap();
    let below = HostMount::new(
        &["-t", "tmpfs", "none"],
        &host_folder(&site, "source/below"),
    );
    fs::write(site.path("source/below/g"), "below\n").unwrap();
    symlink(&source, site.path("link")).unwrap();
    let at = |options: &str| format!("{source}:/b{options}");

    let look = "cat /b/f; cat /b/below/g 2>/dev/null || echo nothing; (echo x > /b/w) 2>/dev/null && echo rw; (echo x > /b/below/w) 2>/dev/null && echo rw-below; true";
    assert_eq!(
        run(&site, &["-v", &at("")], look).ok(),
        "from the host\nbelow\nrw\nrw-below\n"
    );
    assert_eq!(
        run(&site, &["-v", &at(":ro,cached,z")], look).ok(),
        "from the host\nbelow\n",
        "what is below is read-only, too"
    );
    let with = |more: &str| format!("type=bind,src={source},dst=/b,{more}");
    for (options, expected) in [
        ("readonly", "from the host\nbelow\n"),
        (
            "ro,bind-recursive=writable",
            "from the host\nbelow\nrw-below\n",
        ),
        ("ro,bind-recursive=disabled", "from the host\nnothing\n"),
        (
            "bind-recursive=disabled",
            "from the host\nnothing\nrw\nrw-below\n",
        ),
        (
            "bind-nonrecursive",
            "from the host\nnothing\nrw\nrw-below\n",
        ),
        (
            "ro,bind-recursive=readonly,bind-propagation=rprivate,consistency=cached",
            "from the host\nbelow\n",
        ),
    ] {
        assert_eq!(
            run(&site, &["--mount", &with(options)], look).ok(),
            expected,
            "{options}"
        );
    }
    drop(below);

    // A link as the source, files and sockets, a missing source, targets in one another.
    let link = format!("{}:/b", site.path("link").display());
    assert_eq!(
        run(&site, &["-v", &link], "cat /b/f").ok(),
        "from the host\n"
    );
    let file = format!("{source}/f:/etc/new/file:ro");
    assert_eq!(
        run(
            &site,
            &["-v", &file],
            "cat /etc/new/file; touch /etc/new/file 2>/dev/null || echo ro"
        )
        .ok(),
        "from the host\nro\n"
    );
    let socket = site.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = format!("{}:/run/socket", socket.display());
    assert_eq!(
        run(
            &site,
            &["-v", &socket],
            "test -S /run/socket && echo socket"
        )
        .ok(),
        "socket\n"
    );
    let missing = site.path("not/yet");
    let bind = format!("{}:/b", missing.display());
    assert_eq!(run(&site, &["-v", &bind], "ls /b").ok(), "");
    assert!(missing.is_dir());
    let gone = site.path("never").display().to_string();
    let said = run(
        &site,
        &["--mount", &format!("type=bind,src={gone},dst=/b")],
        "true",
    )
    .error(125);
    assert!(
        said.contains(&format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {gone}"
        )),
        "{said}"
    );
    assert!(!Path::new(&gone).exists());
    let outer = format!("{source}:/a/b/../b/");
    let nested = ["-v", "inner:/a/b/c", "--tmpfs", "/a/b/c/d/e", "-v", &outer];
    assert_eq!(
        run(
            &site,
            &nested,
            "awk '$2 ~ \"^/a\" {print $2}' /proc/mounts; cat /a/b/f"
        )
        .ok(),
        "/a/b\n/a/b/c\n/a/b/c/d/e\nfrom the host\n"
    );
    let twice = run(&site, &["-v", &at(""), "--tmpfs", "/b/"], "true").error(125);
    assert!(twice.contains("Duplicate mount point: /b"), "{twice}");
    for wrong in ["/x:/b:nope", "/x:/b:ro,rw", "/x:/"] {
        run(&site, &["-v", wrong], "true").error(125);
    }
    let mixed = run(&site, &["--mount", &with("tmpfs-size=1m")], "true").error(125);
    assert!(
        mixed.contains("cannot mix 'tmpfs-*' options with mount type 'bind'"),
        "{mixed}"
    );
}

#[tokio::test]
async fn mounts_cross_where_that_is_asked_for() {
    let Some(site) = site().await else { return };
    let base = host_folder(&site, "base");
    let _base = HostMount::new(&["-t", "tmpfs", "none"], &base);
    for name in ["early", "late", "inner"] {
        host_folder(&site, &format!("base/{name}"));
    }
    let private = Command::new("mount")
        .args(["--make-private", &base])
        .status();
    assert!(private.unwrap().success());
    let at = |mode: &str| format!("{base}:/b:{mode}");
    for (mode, what) in [("rshared", "shared"), ("slave", "shared or slave")] {
        let said = run(&site, &["-v", &at(mode)], "true").error(125);
        let words = format!("path {base} is mounted on {base} but it is not a {what} mount");
        assert!(said.contains(&words), "{said}");
    }
    let shared = Command::new("mount")
        .args(["--make-shared", &base])
        .status();
    assert!(shared.unwrap().success());
    for (name, mode) in [
        ("shared", "rshared"),
        ("slave", "rslave"),
        ("private", "rprivate"),
    ] {
        site.ctl(&[
            "run",
            "-d",
            "--name",
            name,
            "--cap-add",
            "SYS_ADMIN",
            "--security-opt",
            "seccomp=unconfined",
            "-v",
            &at(mode),
            "tools",
            "sleep",
            "1000",
        ])
        .ok();
    }
    // From the host into the container.
    let late = HostMount::new(&["-t", "tmpfs", "none"], &format!("{base}/late"));
    fs::write(site.path("base/late/f"), "late\n").unwrap();
    let seen = |name: &str, path: &str| site.ctl(&["exec", name, "cat", path]).code == 0;
    assert!(seen("shared", "/b/late/f") && seen("slave", "/b/late/f"));
    assert!(!seen("private", "/b/late/f"));
    // And the other way.
    for name in ["shared", "slave", "private"] {
        let script = format!("mount -t tmpfs none /b/inner && echo {name} > /b/inner/of-{name}");
        site.ctl(&["exec", name, "sh", "-c", &script]).ok();
    }
    assert!(site.path("base/inner/of-shared").exists());
    assert!(
        !site.path("base/inner/of-slave").exists() && !site.path("base/inner/of-private").exists()
    );
    let root = site
        .ctl(&["exec", "shared", "grep", " / / ", "/proc/self/mountinfo"])
        .ok();
    assert!(root.contains("shared:"), "{root}");
    site.ctl(&["rm", "-f", "shared", "slave", "private"]).ok();
    drop(late);
    let _ = Command::new("umount")
        .args(["-l", &format!("{base}/inner")])
        .status();
}

#[tokio::test]
async fn memory_file_systems_and_read_only_roots() {
    let Some(site) = site().await else { return };
    let of = |path: &str| {
        format!("grep ' {path} ' /proc/self/mountinfo; stat -c '%a %u:%g' {path}; ls {path}")
    };
    let said = run(
        &site,
        &["--tmpfs", "/covered:size=1m,exec,uid=5"],
        &of("/covered"),
    )
    .ok();
    assert!(
        said.contains("rw,nosuid,nodev,relatime") && said.contains("size=1024k"),
        "{said}"
    );
    assert!(
        said.contains("705 5:0"),
        "the permissions of what is covered: {said}"
    );
    assert!(
        !said.contains("hidden"),
        "nothing of the image in it: {said}"
    );
    let said = run(
        &site,
        &[
            "--mount",
            "type=tmpfs,dst=/new,tmpfs-size=2m,tmpfs-mode=711,ro",
        ],
        &of("/new"),
    )
    .ok();
    assert!(
        said.contains("ro,nosuid,nodev,noexec")
            && said.contains("size=2048k")
            && said.contains("711 0:0"),
        "{said}"
    );
    assert!(
        run(&site, &["--tmpfs", "/new"], &of("/new"))
            .ok()
            .contains("1777 0:0")
    );
    for wrong in ["source=/etc", "what", "bind"] {
        let said = run(&site, &["--tmpfs", &format!("/x:{wrong}")], "true").error(125);
        assert!(said.contains("invalid tmpfs option"), "{said}");
    }
    let source = host_folder(&site, "source");
    let bind = format!("{source}:/bound");
    let script = "for place in /x /covered/x /vol/x /mem/x /dev/shm/x /bound/x /etc/hosts /dev/x /run/x; do touch $place 2>/dev/null && echo $place; done; df -k /dev/shm | awk 'NR==2 {print $2}'";
    let options = [
        "--read-only",
        "-v",
        "vol:/vol",
        "--tmpfs",
        "/mem",
        "--tmpfs",
        "/run",
        "-v",
        &bind,
        "--shm-size",
        "3m",
    ];
    assert_eq!(
        run(&site, &options, script).ok(),
        "/vol/x\n/mem/x\n/dev/shm/x\n/bound/x\n/dev/x\n/run/x\n3072\n"
    );
    // What is asked for takes the place of docker's own.
    let shm = run(
        &site,
        &[
            "--tmpfs",
            "/dev/shm:size=5m",
            "-v",
            &format!("{source}:/sys"),
            "-v",
            "/dev:/dev",
        ],
        "df -k /dev/shm | awk 'NR==2 {print $2}'; test -c /dev/null && echo null; ls /sys",
    )
    .ok();
    assert_eq!(shm, "5120\nnull\nx\n", "the host's /dev is left alone");
    let null = fs::metadata("/dev/null").unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&null) & 0o777, 0o666);
}

#[tokio::test]
async fn volumes_of_every_kind() {
    let Some(mut site) = site().await else { return };
    // A device of the local driver: mounted while a container uses it, shared by those that do.
    let make = |name: &str, options: &[&str]| {
        let mut all = vec!["volume", "create"];
        for option in options {
            all.extend(["-o", option]);
        }
        all.push(name);
        site.ctl(&all)
    };
    make(
        "memory",
        &["type=tmpfs", "device=tmpfs", "o=size=1m,uid=7,noexec"],
    )
    .ok();
    let shown = site
        .ctl(&[
            "volume",
            "inspect",
            "-f",
            "{{.Options.type}} {{.Options.o}}",
            "memory",
        ])
        .ok();
    assert_eq!(shown, "tmpfs size=1m,uid=7,noexec\n");
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "first",
        "-v",
        "memory:/m",
        "tools",
        "sh",
        "-c",
        "echo kept > /m/f; sleep 1000",
    ])
    .ok();
    let second = ["-v", "memory:/m:ro"];
    eventually("the first writes", async || {
        (run(&site, &second, "cat /m/f; stat -c %u /m").out == "kept\n7\n").then_some(())
    })
    .await;
    let mounted = |site: &Site| {
        let data = site.path("state/runtime/volumes/memory/_data");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&data.display().to_string())
    };
    assert!(mounted(&site));
    site.kill_and_restart("runtime").await;
    assert_eq!(run(&site, &second, "cat /m/f").ok(), "kept\n");
    site.ctl(&["rm", "-f", "first"]).ok();
    assert!(!mounted(&site), "nobody uses it any more");
    assert_eq!(
        run(&site, &second, "ls /m").ok(),
        "",
        "as docker: its content went with the last user"
    );

    let source = host_folder(&site, "elsewhere");
    fs::write(site.path("elsewhere/precious"), "x").unwrap();
    let device = format!("device={source}");
    let create = |name: &str, options: &[&str]| {
        let mut all = vec!["volume", "create"];
        for option in options {
            all.extend(["-o", option]);
        }
        all.push(name);
        site.ctl(&all)
    };
    create("bound", &["type=none", &device, "o=bind,ro"]).ok();
    assert_eq!(
        run(
            &site,
            &["-v", "bound:/x"],
            "ls /x; touch /x/y 2>/dev/null || echo ro"
        )
        .ok(),
        "precious\nro\n"
    );
    site.ctl(&["volume", "rm", "bound"]).ok();
    assert!(
        site.path("elsewhere/precious").exists(),
        "what a volume shows is not the volume's"
    );
    for (options, why) in [
        (vec!["nope=1"], "invalid option: \"nope\""),
        (vec!["type=nfs"], "missing required option: \"device\""),
        (vec!["size=1g"], "no quota support"),
    ] {
        let said = create("wrong", &options).error(1);
        assert!(said.contains(why), "{said}");
    }
    create("gone", &["type=none", "device=/nonexistent/x", "o=bind"]).ok();
    let said = run(&site, &["-v", "gone:/x"], "true").error(125);
    assert!(
        said.contains("failed to mount local volume") && said.contains("No such file"),
        "{said}"
    );
    create("odd", &["type=nosuchfs", "device=none"]).ok();
    let said = run(&site, &["-v", "odd:/x"], "true").error(125);
    assert!(said.contains("No such device"), "{said}");

    // --mount: options and labels make the volume, parts of it are mounted, content stays away.
    let mount = "type=volume,src=made,dst=/data,volume-label=a=b,volume-driver=local,volume-nocopy";
    assert_eq!(
        run(
            &site,
            &["--mount", mount],
            "ls /data; mkdir -p /data/part/deep; echo p > /data/part/f"
        )
        .ok(),
        ""
    );
    assert_eq!(
        site.ctl(&["volume", "ls", "-q", "--filter", "label=a=b"])
            .ok(),
        "made\n"
    );
    let part = |path: &str| format!("type=volume,src=made,dst=/p,volume-subpath={path}");
    assert_eq!(
        run(&site, &["--mount", &part("part")], "ls /p").ok(),
        "deep\nf\n"
    );
    assert_eq!(
        run(&site, &["--mount", &part("part/f")], "cat /p").ok(),
        "p\n"
    );
    run(
        &site,
        &["-v", "made:/m"],
        "ln -s ../../../../etc /m/out; ln -s /etc /m/absolute; ln -s part /m/inside",
    )
    .ok();
    for path in ["out", "absolute", "missing", "..", "part/../.."] {
        let said = run(&site, &["--mount", &part(path)], "ls /p").error(125);
        assert!(said.contains("path"), "{path}: {said}");
    }
    assert_eq!(
        run(&site, &["--mount", &part("inside")], "cat /p/f").ok(),
        "p\n"
    );
    let anonymous = run(&site, &["--mount", "type=volume,dst=/x,ro"], "true").error(125);
    assert!(
        anonymous.contains("must not set ReadOnly mode when using anonymous volumes"),
        "{anonymous}"
    );

    // Another image's files, all or a part.
    image::busybox(&site).await;
    let said = run(
        &site,
        &[
            "--mount",
            "type=image,src=busybox,dst=/other",
            "--mount",
            "type=image,src=tools,dst=/part,image-subpath=data",
        ],
        "ls /other/bin/busybox; cat /part/seed; touch /other/x 2>/dev/null || echo ro",
    )
    .ok();
    assert_eq!(said, "/other/bin/busybox\nseed\nro\n");

    // Prune by labels.
    site.ctl(&["volume", "create", "--label", "keep", "kept"])
        .ok();
    let pruned = site
        .ctl(&["volume", "prune", "-af", "--filter", "label!=keep"])
        .ok();
    assert!(
        pruned.contains("made\n") && !pruned.contains("kept\n"),
        "{pruned}"
    );
    site.ctl(&["create", "--name", "user", "-v", "kept:/x", "tools"])
        .ok();
    let id = site.ctl(&["inspect", "-f", "{{.Id}}", "user"]).ok();
    let busy = site.ctl(&["volume", "rm", "kept"]).error(1);
    assert!(
        busy.contains(&format!("remove kept: volume is in use - [{}]", id.trim())),
        "{busy}"
    );
}

#[tokio::test]
async fn links_lead_nowhere_outside() {
    let Some(site) = site().await else { return };
    let source = host_folder(&site, "source");
    fs::write(site.path("source/f"), "mine\n").unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Targets below links of the image: made and mounted inside, where the links lead.
    for (target, inside) in [
        ("/absolute/x", "/deep/er/x"),
        ("/up/x", "/outside/x"),
        ("/host/slipway-test-x", "/tmp/slipway-test-x"),
    ] {
        let bind = format!("{source}:{target}");
        let script = format!("cat {inside}/f; grep -c ' {inside} ' /proc/self/mountinfo");
        assert_eq!(
            run(&site, &["-v", &bind], &script).ok(),
            "mine\n1\n",
            "{target}"
        );
        assert!(!Path::new(inside).exists(), "{inside} on the host");
    }
    // Into /proc only what lxcfs has.
    let file = |target: &str| format!("{source}/f:{target}");
    assert_eq!(
        run(&site, &["-v", &file("/proc/uptime")], "cat /proc/uptime").ok(),
        "mine\n"
    );
    for target in [
        "/proc/self/attr/exec",
        "/proc/sys/kernel/core_pattern",
        "/proc/1/x",
    ] {
        run(&site, &["-v", &file(target)], "true").error(125);
    }
    // Copy-up follows the image's links inside the image only.
    for volume in ["up", "host", "absolute"] {
        let option = format!("{volume}-v:/{volume}");
        run(&site, &["-v", &option], "true").ok();
        let data = site.path(&format!("state/runtime/volumes/{volume}-v/_data"));
        assert_eq!(fs::read_dir(data).unwrap().count(), 0, "{volume}");
    }
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |text: &str| text.lines().filter(|l| l.contains(&source)).count();
    assert_eq!((ours(&before), ours(&after)), (0, 0));
}

#[tokio::test]
async fn a_path_that_changes_while_it_is_mounted_upon_stays_inside() {
    // CVE-2021-30465: in a volume that it shares, one container exchanges the folder that another one's
    // mount goes to for a link, again and again.
    let Some(site) = site().await else { return };
    let trap = host_folder(&site, "trap/place");
    let up = "../".repeat(20);
    let link = format!("{up}{}", site.path("trap").display());
    let script = format!(
        "mkdir -p /v/real/place; ln -s {link} /v/link; ln -s {} /v/rooted; ln -s real /v/now; \
         while true; do ln -sfn link /v/now; ln -sfn real /v/now; ln -sfn rooted /v/now; done",
        site.path("trap").display()
    );
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "racer",
        "-v",
        "shared:/v",
        "tools",
        "sh",
        "-c",
        &script,
    ])
    .ok();
    eventually("the race is on", async || {
        let now = site.path("state/runtime/volumes/shared/_data/now");
        fs::symlink_metadata(now).ok()
    })
    .await;
    let own = host_folder(&site, "own");
    fs::write(site.path("own/marker"), "x").unwrap();
    let mut inside = 0;
    for round in 0..25 {
        let bind = format!("{own}:/v/now/place");
        let part = "type=volume,src=shared,dst=/part,volume-subpath=now/place";
        let said = run(&site, &["-v", "shared:/v", "-v", &bind], "ls /v/real/place");
        inside += i32::from(said.out.contains("marker"));
        let said = run(&site, &["--mount", part], "ls -a /part; ls /part/..");
        assert!(!said.out.contains("trap"), "round {round}: {said:?}");
        assert_eq!(
            fs::read_dir(&trap).unwrap().count(),
            0,
            "round {round}: made outside"
        );
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/trap"), "{mounts}");
    println!("{inside} of 25 met the folder");
}

#[tokio::test]
async fn a_new_volume_is_as_the_image_has_its_place() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let program = fs::read("/bin/busybox").unwrap();
    let entry = |path: &str, kind: Kind, size: usize| image::entry(path, kind, size as u64);
    let mut odd = entry("data/odd", Kind::File, 3);
    (odd.mode, odd.uid, odd.gid) = (0o6711, 40, 41);
    odd.xattrs = vec![(b"user.note".to_vec(), b"kept".to_vec())];
    let mut data = entry("real", Kind::Folder, 0);
    (data.mode, data.uid, data.gid) = (0o3770, 8, 9);
    let named = |path: &str| path.replace("data/", "real/");
    odd.path = named("data/odd").into_bytes();
    let entries = vec![
        (entry("bin", Kind::Folder, 0), vec![]),
        (entry("bin/busybox", Kind::File, program.len()), program),
        (
            entry("bin/sh", Kind::Symlink(b"busybox".to_vec()), 0),
            vec![],
        ),
        (
            entry("bin/stat", Kind::Symlink(b"busybox".to_vec()), 0),
            vec![],
        ),
        (
            entry("bin/readlink", Kind::Symlink(b"busybox".to_vec()), 0),
            vec![],
        ),
        (data, vec![]),
        (odd, b"odd".to_vec()),
        (
            entry("real/same", Kind::HardLink(b"real/odd".to_vec()), 0),
            vec![],
        ),
        (
            entry("real/link", Kind::Symlink(b"odd".to_vec()), 0),
            vec![],
        ),
        (entry("real/pipe", Kind::Fifo, 0), vec![]),
        (entry("data", Kind::Symlink(b"real".to_vec()), 0), vec![]),
    ];
    image::store(&site, "odd", RunConfig::default(), &entries).await;
    let script = "stat -c '%a %u:%g' /data/ /data/odd; stat -c %h /data/same; readlink /data/link; stat -c %F /data/pipe";
    let out = site
        .ctl(&["run", "--rm", "-v", "vol:/data", "odd", "sh", "-c", script])
        .ok();
    assert_eq!(out, "3770 8:9\n6711 40:41\n2\nodd\nfifo\n");
    let file = site.path("state/runtime/volumes/vol/_data/odd");
    let mut value = [0; 16];
    let length = rustix::fs::lgetxattr(&file, "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"kept");
}
