//! Containers that try to get out, each by a way that once worked somewhere.

use std::os::unix::fs::PermissionsExt as _;

use slipway_image::{
    config::RunConfig,
    layer::{Entry, Kind},
};
use slipway_tests::{Site, eventually, image, site::program_path};

fn busybox() -> Vec<(Entry, Vec<u8>)> {
    let program = std::fs::read("/bin/busybox").unwrap();
    let file = image::entry("bin/busybox", Kind::File, program.len() as u64);
    vec![
        (image::entry("bin", Kind::Folder, 0), vec![]),
        (image::entry("etc", Kind::Folder, 0), vec![]),
        (file, program),
    ]
}

fn link(path: &str, target: &str) -> (Entry, Vec<u8>) {
    (
        image::entry(path, Kind::Symlink(target.as_bytes().to_vec()), 0),
        vec![],
    )
}

/// A program that makes one system call, its arguments all 0, and exits with the number of the failure.
#[cfg(target_arch = "x86_64")]
fn one_call(number: i32) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    // xor edi, esi, edx, r10, r8, r9; syscall; neg eax; mov edi, eax; mov eax, 60; syscall
    code.extend([
        0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0x4d, 0x31, 0xd2, 0x4d, 0x31, 0xc0, 0x4d, 0x31, 0xc9,
    ]);
    code.extend([
        0x0f, 0x05, 0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05,
    ]);
    let size = 120 + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for n in [0x40_0078_u64, 64, 0] {
        elf.extend(n.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for n in [0, 0x40_0000, 0x40_0000, size, size, 0x1000] {
        elf.extend(n.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_that_lead_out_are_refused() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    // Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
    let calls = [
        ("keyctl", 250),
        ("bpf", 321),
        ("open_by_handle_at", 304),
        ("io_uring_setup", 425),
        ("mount", 165),
        ("userfaultfd", 323),
        ("add_key", 248),
        ("unshare", 272),
        ("setns", 308),
        ("kexec_load", 246),
    ];
    let mut entries = busybox();
    for (name, number) in calls {
        let program = one_call(number);
        entries.push((
            image::entry(name, Kind::File, program.len() as u64),
            program,
        ));
    }
    let clone3 = one_call(435);
    entries.push((
        image::entry("clone3", Kind::File, clone3.len() as u64),
        clone3,
    ));
    image::store(&site, "calls", RunConfig::default(), &entries).await;
    let names = calls.map(|(name, _)| name).join(" ");
    let script = format!("for c in {names} clone3; do /$c; echo $c $?; done");
    let run = |options: &[&str]| {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(options);
        arguments.extend(["calls", "/bin/busybox", "sh", "-c", &script]);
        site.ctl(&arguments).ok()
    };
    let refused = run(&[]);
    for (name, _) in calls {
        assert!(
            refused.contains(&format!("{name} 1\n")),
            "{name}: {refused}"
        );
    }
    assert!(refused.ends_with("clone3 38\n"), "{refused}");
    // It is the filter and the capabilities that refuse them.
    let open = run(&["--privileged"]);
    assert!(
        open.contains("unshare 0\n") && !open.contains("bpf 1\n"),
        "{open}"
    );
    for script in [
        "/bin/busybox unshare -U true",
        "/bin/busybox mount -t tmpfs x /tmp",
        "/bin/busybox chroot /proc/1/root true && /bin/busybox mknod /tmp/sda b 8 0 && : < /tmp/sda",
    ] {
        assert_ne!(site.sh(&[], script).code, 0, "{script}");
    }
}

#[tokio::test]
async fn the_runtimes_program_cannot_be_written_to() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let program = program_path("runtime-svc");
    let stamp = || {
        let m = std::fs::metadata(&program).unwrap();
        (m.len(), m.modified().unwrap())
    };
    let before = stamp();
    // With --init the first process is a program of ours: held open, then written to when it may be
    // (CVE-2019-5736).
    let attack = "for n in 1 2 3; do (: >> /proc/1/exe) 2>/dev/null && echo written; \
        (exec 3< /proc/1/exe && : >> /proc/self/fd/3) 2>/dev/null && echo written; done; echo tried";
    assert_eq!(site.sh(&["--init"], attack).ok(), "tried\n");
    assert_eq!(site.sh(&["--init", "--privileged"], attack).ok(), "tried\n");
    // One that waits for those who come in by exec.
    let watch = "while :; do for p in /proc/[0-9]*; do (: >> $p/exe) 2>/dev/null && [ $p != /proc/$$ ] && \
        case $(/bin/busybox readlink $p/exe) in *busybox) ;; *) echo written $p;; esac; done; done";
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "watcher",
        "busybox",
        "/bin/busybox",
        "sh",
        "-c",
        watch,
    ])
    .ok();
    for _ in 0..10 {
        site.ctl(&["exec", "watcher", "true"]).ok();
    }
    assert_eq!(site.ctl(&["logs", "watcher"]).out, "");
    site.ctl(&["rm", "-f", "watcher"]).ok();
    // An image whose program is the runtime itself.
    let mut entries = busybox();
    entries.push(link("bin/evil", "/proc/self/exe"));
    image::store(&site, "evil", RunConfig::default(), &entries).await;
    assert_ne!(site.ctl(&["run", "--rm", "evil", "/bin/evil"]).code, 0);
    assert_eq!(stamp(), before);
}

#[tokio::test]
async fn no_descriptor_of_the_host_is_a_working_directory() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut entries = busybox();
    for n in 3..16 {
        entries.push(link(&format!("fd{n}"), &format!("/proc/self/fd/{n}")));
    }
    image::store(&site, "fds", RunConfig::default(), &entries).await;
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "kept",
        "fds",
        "/bin/busybox",
        "sleep",
        "1000",
    ])
    .ok();
    // CVE-2024-21626, directly, through a link of the image, and by exec.
    for n in [3, 4, 5, 6, 7, 8, 9, 12, 15] {
        for folder in [
            format!("/proc/self/fd/{n}"),
            format!("/proc/self/fd/{n}/../.."),
            format!("/fd{n}"),
        ] {
            let said = site.ctl(&[
                "run",
                "--rm",
                "-w",
                &folder,
                "fds",
                "/bin/busybox",
                "ls",
                "-a",
            ]);
            assert!(said.code != 0 && said.out.is_empty(), "{folder}: {said:?}");
            let said = site.ctl(&["exec", "-w", &folder, "kept", "/bin/busybox", "ls", "-a"]);
            assert!(said.code != 0 && said.out.is_empty(), "{folder}: {said:?}");
        }
    }
    // Nothing is inherited: three streams, and what ls itself opens.
    let open = site
        .sh(&[], "/bin/busybox ls /proc/self/fd | /bin/busybox wc -l")
        .ok();
    assert_eq!(open.trim(), "4");
    site.ctl(&["rm", "-f", "kept"]).ok();
}

#[tokio::test]
async fn images_with_links_where_the_kernels_file_systems_go() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    for (name, links) in [
        ("proc", vec![link("proc", "/etc")]),
        ("sys", vec![link("sys", "/etc")]),
        ("dev", vec![link("dev", "/etc")]),
        ("crossed", vec![link("dev", "/proc")]),
        ("outside", vec![link("proc", "../../../../tmp")]),
    ] {
        let mut entries = busybox();
        entries.extend(links);
        image::store(&site, name, RunConfig::default(), &entries).await;
        let said = site.ctl(&["run", "--rm", name, "/bin/busybox", "true"]);
        assert!(
            said.code != 0 && said.err.contains("must be mounted on ordinary directory"),
            "{name}: {said:?}"
        );
    }
    // Links deeper inside lead nowhere but inside.
    let mut entries = busybox();
    entries.push(link("etc/hosts", "/../../../../../../tmp/slipway-escape"));
    entries.push(link("etc/resolv.conf", "/proc/self/root/etc/x"));
    image::store(&site, "deeper", RunConfig::default(), &entries).await;
    site.ctl(&["run", "--rm", "deeper", "/bin/busybox", "true"]);
    assert!(!std::path::Path::new("/tmp/slipway-escape").exists());
}

#[tokio::test]
async fn what_is_hidden_stays_hidden() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "for f in kcore keys timer_list interrupts latency_stats sched_debug; do [ -e /proc/$f ] && \
        /bin/busybox head -c1 /proc/$f; done; for f in sys/kernel/core_pattern sysrq-trigger sys/vm/swappiness irq/default_smp_affinity; do \
        [ -e /proc/$f ] && (echo x > /proc/$f) 2>/dev/null && echo wrote $f; done; \
        (echo x > /sys/kernel/uevent_helper) 2>/dev/null && echo wrote; echo done";
    assert_eq!(site.sh(&[], script).ok(), "done\n");
    // A volume over /dev brings a null of its own and a console that leads to /proc (CVE-2025-31133,
    // CVE-2025-52565): neither is used.
    let folder = site.path("dev");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, target) in [
        ("null", "/proc/sys/kernel/core_pattern"),
        ("console", "/proc/sysrq-trigger"),
    ] {
        std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
    }
    let volume = format!("{}:/dev", folder.display());
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let said = site.ctl(&[
        "run",
        "--rm",
        "-t",
        "-v",
        &volume,
        "busybox",
        "/bin/busybox",
        "sh",
        "-c",
        script,
    ]);
    assert!(!said.out.contains("wrote"), "{said:?}");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        pattern
    );
    // A volume in /proc would cover what kernel parameters are written to (CVE-2025-52881).
    let volume = format!("{}:/proc/sys/net", folder.display());
    let said = site.sh(&["-v", &volume], "true");
    assert!(said.code != 0 && said.err.contains("/proc"), "{said:?}");
}

#[tokio::test]
async fn broken_lists_of_users_are_said_and_hang_nobody() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let path = |name: &str| site.path(name);
    let fifo = path("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    std::fs::File::create(path("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    for name in ["fifo", "huge"] {
        for file in ["passwd", "group"] {
            let mount = format!(
                "type=bind,source={},target=/etc/{file}",
                path(name).display()
            );
            let said = site.sh(&["--mount", &mount, "-u", "web"], "true");
            assert!(
                said.code != 0 && said.err.contains(&format!("/etc/{file}")),
                "{name}: {said:?}"
            );
        }
    }
    // The host has a user of this name, the container has a link to the host's list, as it hopes.
    let mut entries = busybox();
    entries.push(link("etc/passwd", "../../../../../../../etc/passwd"));
    image::store(&site, "linked", RunConfig::default(), &entries).await;
    let said = site.ctl(&[
        "run",
        "--rm",
        "-u",
        "daemon",
        "linked",
        "/bin/busybox",
        "id",
    ]);
    assert!(said.code != 0 && !said.out.contains("uid="), "{said:?}");
}

#[tokio::test]
async fn a_fork_bomb_is_held_and_killed() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let bomb = "b() { b | b & }; b; while :; do :; done";
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "bomb",
        "--pids-limit",
        "64",
        "--cpus",
        "0.5",
        "busybox",
        "/bin/busybox",
        "sh",
        "-c",
        bomb,
    ])
    .ok();
    let begun = std::time::Instant::now();
    assert_eq!(site.sh(&[], "echo still here").ok(), "still here\n");
    let lines = site.ctl(&["top", "bomb"]).out.lines().count();
    assert!(lines <= 65, "{lines}");
    site.ctl(&["rm", "-f", "bomb"]).ok();
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    eventually("all of it is gone", async || {
        (site.ctl(&["ps", "-aq"]).out.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_kept_on_the_host_is_roots_alone() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let id = site
        .ctl(&["run", "-d", "--name", "kept", "busybox", "sleep", "1000"])
        .ok();
    let id = id.trim();
    for folder in [
        "state/runtime".to_owned(),
        format!("state/runtime/containers/{id}"),
        "run/runtime".to_owned(),
    ] {
        let mode = std::fs::metadata(site.path(&folder))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    site.ctl(&["rm", "-f", "kept"]).ok();
}
