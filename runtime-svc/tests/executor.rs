//! The executor and the monitor, without a service: real processes in real namespaces.
//!
//! Needs root and a static busybox at /bin/busybox; says so and passes where they are missing, since
//! `./tests/run` makes sure of both.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use runtime_svc::{
    cgroup::{Group, Hierarchies},
    executor::{StartError, capabilities, plan::*},
    monitor::{
        client::Connection,
        log_format::{self, Stream},
        protocol::{Event, ExitRecord, Request, Running},
        spawner::Spawner,
    },
};

struct Bench {
    folder: tempfile::TempDir,
    spawner: Spawner,
}

impl Bench {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            println!("skipped: needs root and /bin/busybox (busybox-static)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("layer/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for name in [
            "sh", "true", "cat", "sleep", "hostname", "id", "stty", "mount", "grep", "echo", "ls",
            "test", "touch", "seq",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        fs::write(folder.path().join("layer/notes"), "not a program").unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_runtime-svc"));
        let spawner = Spawner::start(program, &folder.path().join("lock")).unwrap();
        Some(Self { folder, spawner })
    }

    fn plan(&self, id: &str, script: &str) -> ContainerPlan {
        let home = self.folder.path().join(id);
        for name in ["upper", "work", "rootfs"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        let fs_mount = |target: &str, kind: &str, options: &[(&str, &str)]| {
            let options = options.iter();
            let source = MountSource::Filesystem {
                kind: kind.into(),
                options: options
                    .map(|(k, v)| ((*k).into(), Some((*v).into())))
                    .collect(),
            };
            Mount {
                attributes: libc::MOUNT_ATTR_NOSUID,
                ..Mount::new(target, source)
            }
        };
        ContainerPlan {
            id: id.into(),
            namespaces: Namespaces {
                net: Namespace::New,
                pid: Namespace::New,
                ipc: Namespace::New,
                uts: Namespace::New,
                cgroup: Namespace::New,
            },
            hostname: "box".into(),
            domainname: String::new(),
            user: None,
            root_propagation: 0,
            own_dev: true,
            root: Root::Overlay {
                lower: vec![self.folder.path().join("layer")],
                upper: home.join("upper"),
                work: home.join("work"),
                volatile: false,
            },
            readonly_root: false,
            mounts: vec![
                fs_mount("/proc", "proc", &[]),
                fs_mount("/dev", "tmpfs", &[("mode", "755"), ("size", "65536k")]),
                fs_mount(
                    "/dev/pts",
                    "devpts",
                    &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
                ),
                fs_mount("/sys", "sysfs", &[]),
                Mount::new(
                    "/sys/fs/cgroup",
                    MountSource::Cgroups {
                        writable: false,
                        own: false,
                    },
                ),
            ],
            devices: vec![Device {
                path: "/dev/null".into(),
                block: false,
                major: 1,
                minor: 3,
                mode: 0o666,
                uid: 0,
                gid: 0,
                fifo: false,
            }],
            host_devices: false,
            masked_paths: vec![
                "/proc/kcore".into(),
                "/proc/scsi".into(),
                "/nothing/there".into(),
            ],
            readonly_paths: vec!["/proc/sys".into()],
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())],
            cgroup: Cgroup {
                path: format!("slipway-test/{}", self.unique(id)),
                limits: Limits::default(),
                all_devices: false,
                devices: vec![],
                denied_devices: vec![],
            },
            process: Process {
                args: vec!["sh".into(), "-c".into(), script.into()],
                env: vec!["PATH=/bin".into()],
                working_dir: "/".into(),
                user: String::new(),
                groups: vec![],
                capabilities: capabilities::effective(&[], &[]).unwrap(),
                no_new_privs: false,
                seccomp: Seccomp::Default,
                rlimits: vec![],
                oom_score_adj: None,
                init: false,
                label: Label::None,
                identity: None,
                sets: None,
                tuning: Tuning::default(),
                descriptors: 0,
                outlives: false,
            },
            stdio: Stdio::Pipes { stdin: false },
            files: Files {
                mount_point: home.join("rootfs"),
                log: Some(home.to_owned()),
                log_limits: LogLimits::default(),
                exit: home.join("exit.json"),
                socket: home.join("monitor.sock"),
                mounts_may_linger: false,
            },
            time: Time::default(),
            user_path: None,
            new_keyring: false,
            hooks: Hooks::default(),
        }
    }

    fn unique(&self, id: &str) -> String {
        format!(
            "{}-{id}",
            self.folder.path().file_name().unwrap().to_string_lossy()
        )
    }

    async fn start(&self, plan: &ContainerPlan) -> Result<(Connection, Running), StartError> {
        let connection =
            Connection::new(self.spawner.spawn(plan, None, &[], &[]).unwrap()).unwrap();
        match next(&connection).await.0 {
            Event::Running(running) => Ok((connection, running)),
            Event::Failed(error) => Err(error),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Runs a script to its end: exit code, stdout, stderr.
    async fn run(&self, plan: &ContainerPlan) -> (i32, String, String) {
        let (connection, _) = self.start(plan).await.unwrap();
        let exit = wait(&connection).await;
        let group = Group::open(&Hierarchies::detect().unwrap(), &plan.cgroup.path);
        assert!(group.processes().unwrap().is_empty());
        let (out, err) = read_log(plan);
        (exit.code, out, err)
    }
}

async fn next(connection: &Connection) -> (Event, Vec<OwnedFd>) {
    tokio::time::timeout(Duration::from_secs(20), connection.next())
        .await
        .expect("the monitor answers in time")
        .unwrap()
        .expect("the monitor is there")
}

async fn wait(connection: &Connection) -> ExitRecord {
    loop {
        if let Event::Exited(record) = next(connection).await.0 {
            return record;
        }
    }
}

fn read_log(plan: &ContainerPlan) -> (String, String) {
    let log = plan.files.log.as_ref().unwrap().join("log");
    let mut file = fs::File::open(log).unwrap();
    let (mut out, mut err, mut payload) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(header) = log_format::read_record(&mut file, &mut payload).unwrap() {
        match header.stream {
            Stream::Stdout => out.extend(&payload),
            Stream::Stderr => err.extend(&payload),
        }
    }
    (
        String::from_utf8_lossy(&out).into_owned(),
        String::from_utf8_lossy(&err).into_owned(),
    )
}

#[tokio::test]
async fn output_and_exit_codes() {
    let Some(bench) = Bench::new() else { return };
    assert_eq!(
        bench
            .run(&bench.plan("a", "echo out; echo err >&2; exit 3"))
            .await,
        (3, "out\n".into(), "err\n".into())
    );
    let record: ExitRecord =
        serde_json::from_slice(&fs::read(bench.folder.path().join("a/exit.json")).unwrap())
            .unwrap();
    assert_eq!((record.code, record.oom_killed), (3, false));
    // Cleared up after it was told; the test's own limit is for one that never is.
    while bench.folder.path().join("a/monitor.sock").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let Some(bench) = Bench::new() else { return };
    for (argv0, check) in [
        (
            "nonsense",
            (|e| matches!(e, StartError::NotFound(_, why) if why.contains("$PATH")))
                as fn(&StartError) -> bool,
        ),
        ("/no/such", |e| matches!(e, StartError::NotFound(..))),
        ("/notes", |e| matches!(e, StartError::NotExecutable(..))),
        ("/bin", |e| matches!(e, StartError::NotExecutable(..))),
    ] {
        let mut plan = bench.plan("a", "");
        plan.process.args = vec![argv0.into()];
        let error = bench.start(&plan).await.expect_err("it must fail");
        assert!(check(&error), "{argv0}: {error}");
        let group = Group::open(&Hierarchies::detect().unwrap(), &plan.cgroup.path);
        assert!(group.processes().unwrap().is_empty());
    }
    let mut plan = bench.plan("a", "");
    plan.process.user = "nobody".into();
    let error = bench.start(&plan).await.expect_err("it must fail");
    assert!(
        error.to_string().contains("unable to find user nobody"),
        "{error}"
    );
}

#[tokio::test]
async fn it_is_confined() {
    let Some(bench) = Bench::new() else { return };
    let script = "echo pid=$$; hostname; grep -E 'CapEff|CapBnd|CapInh|Seccomp:|NoNewPrivs' /proc/self/status; \
        cat /proc/kcore | head -c1; ls /proc/scsi; cat /proc/self/cgroup; \
        (echo 1 > /proc/sys/kernel/hostname) 2>&1; ls /proc/self/fd | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
        ls /; grep -c . /proc/mounts";
    let plan = bench.plan("a", script);
    let (code, out, err) = bench.run(&plan).await;
    assert_eq!(code, 0, "{out} {err}");
    assert!(out.contains("pid=1\nbox\n"), "{out}");
    assert!(out.contains("CapInh:\t0000000000000000"), "{out}");
    assert!(out.contains("CapEff:\t00000000a80425fb"), "{out}");
    assert!(out.contains("Seccomp:\t2"), "{out}");
    assert!(out.contains("Read-only file system"), "{out}");
    assert!(
        !out.contains("slipway-test"),
        "the cgroup namespace hides the path: {out}"
    );
    let home = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !home.contains(bench.folder.path().to_str().unwrap()),
        "nothing is mounted on the host"
    );
}

#[tokio::test]
async fn the_user_and_its_capabilities() {
    let Some(bench) = Bench::new() else { return };
    let mut plan = bench.plan(
        "a",
        "id -u; id -g; id -G; grep CapEff /proc/self/status; echo $HOME; pwd",
    );
    plan.process.user = "1000:1001".into();
    plan.process.groups = vec!["7".into()];
    plan.process.working_dir = "/made/up".into();
    plan.process.no_new_privs = true;
    let (code, out, err) = bench.run(&plan).await;
    assert_eq!(
        (code, &out[..]),
        (
            0,
            "1000\n1001\n1001 7\nCapEff:\t0000000000000000\n/\n/made/up\n"
        ),
        "{err}"
    );
}

#[tokio::test]
async fn a_terminal_with_size_and_input() {
    let Some(bench) = Bench::new() else { return };
    let mut plan = bench.plan(
        "a",
        "stty size; test -t 0 && echo tty; read line; echo got $line; read x; stty size",
    );
    plan.stdio = Stdio::Terminal {
        rows: 30,
        columns: 90,
        stdin: true,
    };
    let (connection, _) = bench.start(&plan).await.unwrap();
    connection
        .request(
            &Request::Attach {
                stdin: true,
                stdin_once: false,
            },
            &[],
        )
        .await
        .unwrap();
    // Who sends input is not told of output.
    let follower = Connection::open(&plan.files.socket).unwrap();
    follower.follow().await.unwrap();
    while !read_log(&plan).0.contains("tty") {
        next(&follower).await;
    }
    connection.stdin(b"hello\n").await.unwrap();
    while !read_log(&plan).0.contains("got") {
        next(&follower).await;
    }
    connection
        .request(
            &Request::Resize {
                rows: 40,
                columns: 100,
            },
            &[],
        )
        .await
        .unwrap();
    connection.stdin(b"\n").await.unwrap();
    assert_eq!(wait(&connection).await.code, 0);
    let (out, _) = read_log(&plan);
    assert!(
        out.contains("30 90\r\ntty\r\n") && out.contains("got hello") && out.contains("40 100"),
        "{out:?}"
    );
}

#[tokio::test]
async fn standard_input_half_closes() {
    let Some(bench) = Bench::new() else { return };
    let mut plan = bench.plan("a", "cat; echo end");
    plan.stdio = Stdio::Pipes { stdin: true };
    let (connection, _) = bench.start(&plan).await.unwrap();
    connection
        .request(
            &Request::Attach {
                stdin: true,
                stdin_once: false,
            },
            &[],
        )
        .await
        .unwrap();
    let much = vec![b'x'; 300_000];
    connection.stdin(&much).await.unwrap();
    connection.end_stdin().await.unwrap();
    assert_eq!(wait(&connection).await.code, 0);
    let (out, _) = read_log(&plan);
    assert_eq!(out.len(), much.len() + 4);
}

#[tokio::test]
async fn exec_joins_and_reports() {
    let Some(bench) = Bench::new() else { return };
    let plan = bench.plan("a", "echo $$ > /mark; sleep 100");
    let (first, _) = bench.start(&plan).await.unwrap();
    let exec = |script: &str| ExecPlan {
        time: false,
        process: Process {
            args: vec!["sh".into(), "-c".into(), script.into()],
            ..plan.process.clone()
        },
        terminal: None,
        ends_with_client: false,
        user: None,
    };
    let run = async |exec: &ExecPlan| {
        let connection = Connection::open(&plan.files.socket).unwrap();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let fds: Vec<_> = if exec.terminal.is_some() {
            vec![]
        } else {
            vec![null.as_fd(), write.as_fd(), write.as_fd()]
        };
        connection
            .request(&Request::Exec(Box::new(exec.clone())), &fds)
            .await
            .unwrap();
        drop(write);
        // The terminal hangs up (SIGHUP) when nobody holds it.
        let mut terminal = Vec::new();
        loop {
            let (event, fds) = next(&connection).await;
            terminal.extend(fds);
            match event {
                Event::ExecExited { code } => {
                    let mut text = String::new();
                    std::io::Read::read_to_string(&mut fs::File::from(read), &mut text).unwrap();
                    return Ok((code, text));
                }
                Event::ExecFailed(error) => return Err(error),
                _ => {}
            }
        }
    };
    let (code, text) = run(&exec(
        "cat /mark; hostname; grep -E 'Seccomp:|CapEff' /proc/self/status; exit 7",
    ))
    .await
    .unwrap();
    assert_eq!(
        (code, &text[..]),
        (7, "1\nbox\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n")
    );
    let mut missing = exec("");
    missing.process.args = vec!["nonsense".into()];
    assert!(matches!(run(&missing).await, Err(StartError::NotFound(..))));
    let mut terminal = exec("stty size; exit 4");
    terminal.terminal = Some((20, 70));
    assert_eq!(run(&terminal).await.unwrap().0, 4);
    first
        .request(&Request::Signal(libc::SIGKILL), &[])
        .await
        .unwrap();
    assert_eq!(wait(&first).await.code, 137);
}

#[tokio::test]
async fn everything_is_written_though_nobody_listens() {
    let Some(bench) = Bench::new() else { return };
    let plan = bench.plan("a", "seq 1 100000");
    let (connection, _) = bench.start(&plan).await.unwrap();
    // Attached, and never read until the end.
    connection
        .request(
            &Request::Attach {
                stdin: false,
                stdin_once: false,
            },
            &[],
        )
        .await
        .unwrap();
    let exit: PathBuf = plan.files.exit.clone();
    while !exit.exists() {
        tokio::task::yield_now().await;
    }
    let (out, _) = read_log(&plan);
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(out == expected);
}

#[tokio::test]
async fn a_killed_monitor_takes_its_container_along() {
    let Some(bench) = Bench::new() else { return };
    let plan = bench.plan("a", "sleep 1000");
    let (connection, running) = bench.start(&plan).await.unwrap();
    let pid = |raw| rustix::process::Pid::from_raw(raw).unwrap();
    let init = rustix::process::pidfd_open(pid(running.pid), rustix::process::PidfdFlags::empty())
        .unwrap();
    rustix::process::kill_process(pid(running.monitor_pid), rustix::process::Signal::KILL).unwrap();
    assert!(connection.next().await.unwrap().is_none());
    let mut fds = [rustix::event::PollFd::new(
        &init,
        rustix::event::PollFlags::IN,
    )];
    let timeout = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap(),
        1,
        "the first process ends"
    );
    Group::open(&Hierarchies::detect().unwrap(), &plan.cgroup.path)
        .remove()
        .unwrap();
}

#[tokio::test]
async fn our_program_cannot_be_written_from_inside() {
    let Some(bench) = Bench::new() else { return };
    // The first process before its exec is our program: a container that executes it again keeps it.
    let plan = bench.plan("a", "sleep 1000");
    let (connection, running) = bench.start(&plan).await.unwrap();
    let exe = format!("/proc/{}/exe", running.monitor_pid);
    let opened = fs::OpenOptions::new().write(true).open(exe);
    let errno = opened.err().and_then(|e| e.raw_os_error());
    assert!(
        matches!(errno, Some(libc::EROFS | libc::ETXTBSY)),
        "{errno:?}"
    );
    connection
        .request(&Request::Signal(libc::SIGKILL), &[])
        .await
        .unwrap();
    wait(&connection).await;
}

#[tokio::test]
async fn a_start_is_quick() {
    let Some(bench) = Bench::new() else { return };
    let mut times = Vec::new();
    for i in 0..30 {
        let mut plan = bench.plan(&format!("n{i}"), "");
        plan.process.args = vec!["true".into()];
        let begun = std::time::Instant::now();
        let (connection, _) = bench.start(&plan).await.unwrap();
        wait(&connection).await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "from request to exit record: median {:?}, longest {:?}",
        times[15], times[29]
    );
}
