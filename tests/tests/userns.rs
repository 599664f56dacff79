//! Containers whose ids are other ones on the host.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use slipway_image::{config::RunConfig, layer::Kind};
use slipway_tests::{Site, image, ready};

/// First id of the site's containers.
const FIRST: u32 = 1_900_000_000;

/// A site that remaps, and an image `tools` with a file of user 33 and a program with the setuid bit.
async fn site() -> Option<Site> {
    if !ready() {
        return None;
    }
    let mut site = Site::bare();
    let settings = format!(
        "userns_remap = \"range:{FIRST}:65536\"\nuserns_pool = \"range:{}:131072\"\n",
        FIRST + 65_536
    );
    site.configure("runtime.toml", &settings);
    site.start_services().await;
    image::busybox(&site).await;
    let program = fs::read("/bin/busybox").unwrap();
    let file = |path: &str, content: &[u8]| {
        let entry = image::entry(path, Kind::File, content.len() as u64);
        (entry, content.to_vec())
    };
    let mut entries = vec![
        (image::entry("bin", Kind::Folder, 0), vec![]),
        (image::entry("tmp", Kind::Folder, 0), vec![]),
        (image::entry("etc", Kind::Folder, 0), vec![]),
        file("bin/busybox", &program),
        file("suid/su", &program),
        file(
            "etc/passwd",
            b"root::0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
        ),
        file("web", b"of 33\n"),
        (image::entry("data", Kind::Folder, 0), vec![]),
        file("data/seed", b"seed\n"),
    ];
    entries[1].0.mode = 0o1777;
    entries[4].0.mode = 0o4755;
    (entries[6].0.uid, entries[6].0.gid) = (33, 33);
    (entries[8].0.uid, entries[8].0.gid) = (33, 33);
    for name in [
        "sh", "cat", "stat", "id", "chown", "chmod", "mkdir", "touch", "ls", "grep", "mount",
        "wget", "hostname", "tty", "ulimit", "sleep", "rm", "test", "echo", "head", "su",
    ] {
        let link = image::entry(
            &format!("bin/{name}"),
            Kind::Symlink(b"busybox".to_vec()),
            0,
        );
        entries.push((link, vec![]));
    }
    let run = RunConfig {
        cmd: Some(vec!["sh".into()]),
        ..RunConfig::default()
    };
    image::store(&site, "tools", run, &entries).await;
    Some(site)
}

fn pid(site: &Site, name: &str) -> String {
    let said = site.ctl(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
    said.trim().to_owned()
}

/// Owners of a file system tree, so that any change shows.
fn owners(folder: &Path) -> Vec<(String, u32, u32, u32)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let data = entry.metadata().unwrap();
        let name = entry.path().display().to_string();
        all.push((name, data.uid(), data.gid(), data.mode()));
        if data.is_dir() {
            all.extend(owners(&entry.path()));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn root_in_the_container_is_nobody_on_the_host() {
    let Some(site) = site().await else { return };
    site.ctl(&["run", "-d", "--name", "plain", "tools", "sleep", "1000"])
        .ok();
    let plain = pid(&site, "plain");
    let map = fs::read_to_string(format!("/proc/{plain}/uid_map")).unwrap();
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", &FIRST.to_string(), "65536"]);
    let status = fs::read_to_string(format!("/proc/{plain}/status")).unwrap();
    let owner = format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}");
    assert!(status.contains(&owner), "{status}");

    // Inside all is as usual: owners, setuid, files that are made and given away, /proc, terminals.
    let script = "id -u; cat /proc/self/uid_map | grep -c 65536; stat -c '%u:%g' /web /etc/hosts /dev /dev/null /bin; \
        mkdir /made; touch /made/f; chown 5:6 /made/f; stat -c %u:%g /made /made/f; \
        chown 7 /web; stat -c %u /web; test -w /dev/null && echo null; echo out > /dev/stdout; \
        chmod 700 /data; cat /sys/class/net/lo/ifindex; hostname";
    let out = site
        .ctl(&[
            "run",
            "--name",
            "cc",
            "--hostname",
            "box",
            "tools",
            "sh",
            "-c",
            script,
        ])
        .ok();
    assert_eq!(
        out,
        "0\n1\n33:33\n0:0\n0:0\n0:0\n0:0\n0:0\n5:6\n7\nnull\nout\n1\nbox\n"
    );
    // On disk they are the container's own numbers, and the image is as it was.
    let id = site.ctl(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
    let upper = site.path(&format!("state/runtime/containers/{}/upper", id.trim()));
    let file = fs::metadata(upper.join("made/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (5, 6));
    assert_eq!(fs::metadata(upper.join("web")).unwrap().uid(), 7);
    let diff = site.ctl(&["diff", "cc"]).ok();
    assert!(
        diff.contains("A /made/f\n") && diff.contains("C /web\n"),
        "{diff}"
    );
    let layers = owners(&site.path("state/runtime/layers"));
    assert!(
        layers
            .iter()
            .all(|(_, uid, gid, _)| *uid < 100 && *gid < 100)
    );

    // Another user, a program with the setuid bit, the same by exec.
    let user = site
        .ctl(&[
            "run",
            "--rm",
            "-u",
            "web",
            "tools",
            "sh",
            "-c",
            "id -u; echo x > /dev/stdout; cat /web",
        ])
        .ok();
    assert_eq!(user, "33\nx\nof 33\n");
    let exec = |arguments: &[&str]| {
        let all = [&["exec"], arguments].concat();
        site.ctl(&all)
    };
    assert_eq!(
        exec(&["-u", "33", "plain", "/suid/su", "-c", "id -u"]).ok(),
        "0\n"
    );
    assert_eq!(exec(&["plain", "id", "-u"]).ok(), "0\n");
    let place = ["run", "--rm", "-w", "/new/place", "tools"];
    let owner = [&place[..], &["stat", "-c", "%u", "/new/place"]].concat();
    assert_eq!(site.ctl(&owner).ok(), "0\n");
    // Nothing of it is the host's: not the other processes, not its parameters.
    assert_ne!(
        exec(&["plain", "sh", "-c", "echo 1 > /proc/sys/kernel/panic"]).code,
        0
    );
    let host = site
        .ctl(&[
            "run",
            "--rm",
            "--userns",
            "host",
            "tools",
            "cat",
            "/proc/self/uid_map",
        ])
        .ok();
    assert!(host.contains("4294967295"), "{host}");
    assert_eq!(
        site.ctl(&["inspect", "-f", "{{.HostConfig.UsernsMode}}", "plain"])
            .ok(),
        "\n"
    );
}

#[tokio::test]
async fn volumes_belong_to_ids_of_containers() {
    let Some(site) = site().await else { return };
    let make = "touch /v/mine; chown 12:34 /v/mine; stat -c %u:%g /v/mine";
    let out = site
        .ctl(&[
            "run", "--rm", "--userns", "auto", "-v", "vol:/v", "tools", "sh", "-c", make,
        ])
        .ok();
    assert_eq!(out, "12:34\n");
    let data = site.path("state/runtime/volumes/vol/_data/mine");
    let file = fs::metadata(&data).unwrap();
    assert_eq!(
        (file.uid(), file.gid()),
        (12, 34),
        "on disk: the container's numbers"
    );
    // Two more maps at once, and none: the file is the same user's in all.
    let look = ["-d", "-v", "vol:/v", "tools", "sleep", "1000"];
    for (name, mode) in [
        ("aa", "auto:size=20000"),
        ("bb", "auto"),
        ("cc", ""),
        ("dd", "host"),
    ] {
        let all = [&["run", "--name", name, "--userns", mode][..], &look].concat();
        site.ctl(&all).ok();
    }
    let mut firsts = Vec::new();
    for name in ["aa", "bb", "cc", "dd"] {
        let seen = site
            .ctl(&["exec", name, "stat", "-c", "%u:%g", "/v/mine"])
            .ok();
        assert_eq!(seen, "12:34\n", "{name}");
        let map = fs::read_to_string(format!("/proc/{}/uid_map", pid(&site, name))).unwrap();
        let words: Vec<u32> = map.split_whitespace().map(|w| w.parse().unwrap()).collect();
        firsts.push((words[1], words[2]));
    }
    assert_eq!(firsts[0], (FIRST + 65_536, 20_000));
    assert_eq!(firsts[1], (FIRST + 85_536, 65_536));
    assert_eq!((firsts[2].0, firsts[3].0), (FIRST, 0));
    site.ctl(&["exec", "aa", "sh", "-c", "echo from-a > /v/mine"])
        .ok();
    assert_eq!(site.ctl(&["exec", "dd", "cat", "/v/mine"]).ok(), "from-a\n");
    // The pool has no more; it has again when a container is gone.
    let full = site.ctl(&["create", "--userns", "auto", "tools"]).error(1);
    assert!(full.contains("not free any more"), "{full}");
    site.ctl(&["rm", "-f", "bb"]).ok();
    site.ctl(&["create", "--userns", "auto", "tools"]).ok();

    // Content of the image comes with its owners; a bind is as the host has it.
    let seed = site
        .ctl(&[
            "run",
            "--rm",
            "-v",
            "seeded:/data",
            "tools",
            "stat",
            "-c",
            "%u",
            "/data/seed",
        ])
        .ok();
    assert_eq!(seed, "33\n");
    let shared = site.path("shared");
    fs::create_dir_all(&shared).unwrap();
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let bind = format!("{}:/b", shared.display());
    let out = site
        .ctl(&[
            "run",
            "--rm",
            "-v",
            &bind,
            "tools",
            "sh",
            "-c",
            "stat -c %u /b; touch /b/f",
        ])
        .ok();
    assert_eq!(out, "65534\n");
    assert_eq!(fs::metadata(shared.join("f")).unwrap().uid(), FIRST);
    let tmpfs = site
        .ctl(&[
            "run",
            "--rm",
            "--tmpfs",
            "/t:uid=5,gid=6,mode=750",
            "--shm-size",
            "1m",
            "tools",
            "sh",
            "-c",
            "stat -c %u:%g:%a /t /dev/shm",
        ])
        .ok();
    assert_eq!(tmpfs, "5:6:750\n0:0:1777\n");
}

#[tokio::test]
async fn everything_else_works_with_other_ids() {
    let Some(mut site) = site().await else { return };
    for (options, why) in [
        (
            vec!["--privileged"],
            "privileged mode is incompatible with user namespaces",
        ),
        (
            vec!["--network", "host"],
            "cannot share the host's network namespace",
        ),
        (vec!["--pid", "host"], "cannot share the host PID namespace"),
        (vec!["--userns", "what"], "invalid USER mode"),
    ] {
        let all = [&["run", "--rm"], &options[..], &["tools", "true"]].concat();
        let said = site.ctl(&all).error(125);
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(
        site.ctl(&[
            "run",
            "--rm",
            "--privileged",
            "--userns",
            "host",
            "tools",
            "id",
            "-u"
        ])
        .ok(),
        "0\n"
    );
    // Other images' files, of one layer and of two, come with the container's ids.
    site.ctl(&[
        "run",
        "--name",
        "second",
        "tools",
        "sh",
        "-c",
        "echo two > /two; chown 44 /two",
    ])
    .ok();
    site.ctl(&["commit", "second", "two"]).ok();
    let other = "type=image,src=two,dst=/other";
    let look =
        "stat -c %u /other/web /other/two; touch /other/x 2>/dev/null || echo ro; stat -c %u /bin";
    let seen = site
        .ctl(&["run", "--rm", "--mount", other, "two", "sh", "-c", look])
        .ok();
    assert_eq!(seen, "33\n44\nro\n0\n");
    // What a device holds is the host's, as with a bind.
    let device = site.path("device");
    fs::create_dir_all(&device).unwrap();
    site.ctl(&[
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        &format!("device={}", device.display()),
        "dev",
    ])
    .ok();
    let seen = site
        .ctl(&[
            "run",
            "--rm",
            "-v",
            "dev:/d",
            "tools",
            "sh",
            "-c",
            "stat -c %u /d; touch /d/x 2>/dev/null || echo no",
        ])
        .ok();
    assert_eq!(seen, "65534\nno\n");
    let info = site.ctl(&["info", "-f", "{{.SecurityOptions}}"]).ok();
    assert!(info.contains("name=userns"), "{info}");
    // The network, limits, a read-only root, a terminal, mounts of its own with the capability.
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "server",
        "--hostname",
        "served",
        "busybox",
        "httpd",
        "-f",
        "-h",
        "/etc",
    ])
    .ok();
    let script = "grep -c 'nameserver' /etc/resolv.conf; ulimit -n; cat /proc/self/oom_score_adj; touch /x 2>/dev/null || echo read-only; \
        touch /tmp/y && echo tmp; stat -c %a /dev/shm; mount -t tmpfs none /tmp 2>/dev/null || echo no-mount; wget -q -O - http://server/hostname";
    let out = site
        .ctl(&[
            "run",
            "--rm",
            "--network",
            "bridge",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--ulimit",
            "nofile=77:99",
            "--oom-score-adj",
            "500",
            "tools",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let expected = "1\n77\n500\nread-only\ntmp\n1777\nno-mount\nserved\n";
    assert_eq!(out, expected);
    let own = site.ctl(&["run", "--rm", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "tools", "sh", "-c", "mount -t tmpfs none /tmp && grep -c ' /tmp ' /proc/mounts; hostname other && hostname; umount /etc/hosts 2>/dev/null || echo locked"]).ok();
    assert_eq!(own, "1\nother\nlocked\n");
    let tty = site.ctl(&[
        "run",
        "--rm",
        "-t",
        "tools",
        "sh",
        "-c",
        "tty; stat -c %u $(tty); echo hi > $(tty)",
    ]);
    assert!(tty.out.contains("/dev/pts/0\r\n0\r\nhi"), "{tty:?}");

    // Files in and out, of one that runs and of one that does not.
    let folder = site.path("files");
    fs::create_dir_all(folder.join("in")).unwrap();
    fs::write(folder.join("in/f"), "copied").unwrap();
    let (host_in, host_out) = (
        folder.join("in").display().to_string(),
        folder.join("out").display().to_string(),
    );
    site.ctl(&[
        "run", "-d", "--name", "files", "-v", "fv:/v", "tools", "sleep", "1000",
    ])
    .ok();
    for target in ["files:/tmp/in", "files:/v/in"] {
        site.ctl(&["cp", &host_in, target]).ok();
    }
    let seen = site
        .ctl(&[
            "exec",
            "files",
            "stat",
            "-c",
            "%u:%g",
            "/tmp/in",
            "/tmp/in/f",
            "/v/in/f",
        ])
        .ok();
    assert_eq!(seen, "0:0\n0:0\n0:0\n");
    site.ctl(&["cp", "-a", "files:/web", &host_out]).ok();
    assert_eq!(fs::metadata(&host_out).unwrap().uid(), 33);
    site.ctl(&["exec", "files", "touch", "/kept"]).ok();
    // A restart of the service and of the container keeps map and files.
    site.kill_and_restart("runtime").await;
    assert_eq!(
        site.ctl(&["exec", "files", "stat", "-c", "%u", "/kept"])
            .ok(),
        "0\n"
    );
    site.ctl(&["stop", "-t", "0", "files"]).ok();
    site.ctl(&["cp", &host_in, "files:/rest"]).ok();
    site.ctl(&["start", "files"]).ok();
    let seen = site
        .ctl(&[
            "exec",
            "files",
            "stat",
            "-c",
            "%u",
            "/kept",
            "/rest/f",
            "/tmp/in/f",
        ])
        .ok();
    assert_eq!(seen, "0\n0\n0\n");
    let exported = site.ctl(&[
        "export",
        "-o",
        &folder.join("x.tar").display().to_string(),
        "files",
    ]);
    exported.ok();
    let list = std::process::Command::new("tar")
        .args(["-tvf"])
        .arg(folder.join("x.tar"))
        .arg("--numeric-owner")
        .output()
        .unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.lines()
            .any(|l| l.ends_with(" web") && l.contains(" 33/33 ")),
        "{list}"
    );
}
