//! Odd but legal combinations of options, and what must not come through where they meet.

use std::os::fd::AsRawFd as _;

use slipway_tests::{Site, eventually, image, ready};

#[tokio::test]
async fn what_the_service_was_started_with_is_out_of_reach() {
    if !ready() {
        return;
    }
    // As a shell or a supervisor may leave one open: a folder of the host, for whoever is executed.
    let folder = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&folder, rustix::io::FdFlags::empty()).unwrap();
    let number = folder.as_raw_fd();
    let site = Site::start().await;
    drop(folder);
    image::busybox(&site).await;
    // By a path that leads through it a program of the host would run, whose file the container could
    // write to then (CVE-2024-21626).
    let path = format!("/proc/self/fd/{number}/bin/busybox");
    let said = site.ctl(&["run", "--rm", "--entrypoint", &path, "busybox", "true"]);
    assert_eq!(said.code, 127, "{said:?}");
    site.sleeper("box", &[]);
    let said = site.ctl(&["exec", "box", &path, "true"]);
    assert_eq!(said.code, 127, "{said:?}");
}

#[tokio::test]
async fn processes_join_containers_with_other_ids_whatever_is_written_for_them() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let options = ["--userns", "auto", "--oom-score-adj", "321"];
    site.sleeper("other", &options);
    let score = "cat /proc/self/oom_score_adj";
    let exec = |options: &[&str]| {
        let words = [&["exec"], options, &["other", "sh", "-c", score]].concat();
        site.ctl(&words).ok()
    };
    assert_eq!(exec(&[]), "321\n");
    assert_eq!(exec(&["--user", "1"]), "321\n");
    assert_eq!(site.sh(&options, score).ok(), "321\n");
}

#[tokio::test]
async fn a_privileged_exec_has_all_capabilities_and_the_containers_filter() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.sleeper("box", &[]);
    let script =
        "grep -E '^(CapEff|Seccomp):' /proc/self/status; /bin/busybox mount -t tmpfs x /proc 2>&1";
    let said = site.ctl(&["exec", "--privileged", "box", "sh", "-c", script]);
    let (first, rest) = said.out.split_once('\n').unwrap();
    let set = u64::from_str_radix(first.rsplit('\t').next().unwrap(), 16).unwrap();
    // CAP_SYS_ADMIN is 21.
    assert_ne!(set & 1 << 21, 0, "{said:?}");
    assert!(rest.starts_with("Seccomp:\t2\n"), "{said:?}");
    assert!(rest.to_lowercase().contains("permi"), "{said:?}");
}

#[tokio::test]
async fn a_copy_into_a_bind_belongs_to_the_containers_ids_at_rest_too() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    use std::os::unix::fs::MetadataExt as _;
    let (shown, file) = (site.path("shown"), site.path("file"));
    std::fs::create_dir(&shown).unwrap();
    std::fs::write(&file, "x").unwrap();
    let bind = format!("{}:/shown", shown.display());
    let words = [
        "create", "--name", "other", "--userns", "auto", "-v", &bind, "busybox",
    ];
    site.ctl(&words).ok();
    let into = |name: &str| format!("other:/shown/{name}");
    site.ctl(&["cp", file.to_str().unwrap(), &into("rest")])
        .ok();
    let owner = |name: &str| std::fs::metadata(shown.join(name)).unwrap().uid();
    // Root of the host would own it for whoever can read the folder on the host.
    assert_ne!(owner("rest"), 0);
    let archive = site.ctl(&["cp", &into("rest"), "-"]);
    assert_eq!(archive.code, 0, "{archive:?}");
}

#[tokio::test]
async fn the_working_folder_is_made_by_a_start_and_by_nothing_else() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let options = ["--read-only", "-w", "/new/folder"];
    assert_eq!(site.sh(&options, "pwd").ok(), "/new/folder\n");
    site.sleeper("box", &["-w", "/made"]);
    let said = site.ctl(&["exec", "-w", "/missing", "box", "pwd"]);
    assert!(said.code != 0, "{said:?}");
    assert!(said.err.to_lowercase().contains("no such file"), "{said:?}");
    let listed = site.ctl(&["exec", "box", "ls", "/"]).ok();
    assert!(
        listed.contains("made") && !listed.contains("missing"),
        "{listed}"
    );
}

#[tokio::test]
async fn nobody_waits_for_a_fifo_in_the_place_of_dev_null() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.sh(&["-v", "nodes:/nodes"], "/bin/busybox mkfifo /nodes/null")
        .ok();
    assert_eq!(
        site.sh(&["-v", "nodes:/dev"], "cat; echo done").ok(),
        "done\n"
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_delays_nobody_else() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    // Questions for names go nowhere, so that a look-up lasts.
    let ip = |words: &[&str]| assert!(site.output("ip", words).status.success(), "{words:?}");
    ip(&["link", "add", "nowhere", "type", "veth", "peer", "nothing"]);
    ip(&["link", "set", "nowhere", "up", "arp", "off"]);
    ip(&["link", "set", "nothing", "up"]);
    ip(&["route", "add", "default", "dev", "nowhere"]);
    let volume = |name: &str, kind: &str, device: &str, options: &str| {
        let (kind, device) = (format!("type={kind}"), format!("device={device}"));
        let options = format!("o={options}");
        let words = [
            "volume", "create", "--opt", &kind, "--opt", &device, "--opt", &options, name,
        ];
        site.ctl(&words).ok();
    };
    volume("near", "tmpfs", "tmpfs", "size=1m");
    let made = [
        "create",
        "--name",
        "near",
        "-v",
        "near:/near",
        "busybox",
        "sleep",
        "1000",
    ];
    site.ctl(&made).ok();
    let far = "type=volume,src=far,dst=/far,volume-opt=type=nfs,volume-opt=device=:/x,\
               volume-opt=o=addr=files.example.org";
    let mut waits = site.ctl_start(&["create", "--mount", far, "busybox"]);
    let there = || site.ctl(&["volume", "ls", "-q"]).out.contains("far");
    eventually("the volume is made", async || there().then_some(())).await;
    site.ctl(&["start", "near"]).ok();
    site.ctl(&["rm", "-f", "near"]).ok();
    // A look-up is given up after ten seconds.
    let ended = waits.try_wait().unwrap();
    assert!(ended.is_none(), "the look-up was waited for");
    let code = waits.wait().unwrap().code();
    assert_ne!(code, Some(0));
    assert!(!there(), "it was made for what failed");
    ip(&["link", "del", "nowhere"]);
}
