//! Streams: who may read and write them, what that costs, and further processes with their options.

use std::{
    io::{Read as _, Write as _},
    process::Child,
    sync::{Arc, Mutex},
    time::Duration,
};

use slipway_proto::runtime::v1::{AttachRequest, Stream, attach_event, attach_request};
use slipway_tests::{Site, ctl::signal, eventually, eventually_within};

/// How long much output may take.
const MUCH: Duration = Duration::from_secs(150);

fn exec(site: &Site, options: &[&str], script: &str) -> String {
    let words = [&["exec"][..], options, &["box", "sh", "-c", script]].concat();
    site.ctl(&words).ok()
}

/// Heap and stacks of a process, bytes, and how many descriptors it has.
///
/// Not what is private: pages of the program's file, and those that a monitor has from the spawner, become
/// private as soon as the last other process that has them too is gone, which is another test's affair.
fn costs(pid: &str) -> (u64, usize) {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib: u64 = rollup
        .lines()
        .filter_map(|l| l.strip_prefix("Anonymous:"))
        .filter_map(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    (kib << 10, fds)
}

fn runtime(site: &Site) -> String {
    let pid = std::fs::read_to_string(site.path("run/runtime.pid")).unwrap();
    pid.trim().to_owned()
}

fn monitor(site: &Site, name: &str) -> String {
    let init = site.ctl(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
    let status = std::fs::read_to_string(format!("/proc/{}/status", init.trim())).unwrap();
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:"));
    parent.unwrap().trim().to_owned()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    // A byte at a time: what follows is somebody else's to read.
    let mut byte = [0];
    while out.read(&mut byte).unwrap() > 0 && byte[0] != b'\n' {
        line.push(byte[0].into());
    }
    line
}

#[tokio::test]
async fn several_clients_at_once_and_one_that_dies() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let run = ["run", "-di", "--name", "box", "busybox", "sh", "-c"];
    let script = "while read line; do echo got-$line; echo err-$line >&2; done; echo over";
    site.ctl(&[&run[..], &[script]].concat()).ok();
    let mut clients: Vec<Child> = (0..4)
        .map(|_| site.ctl_start(&["attach", "--sig-proxy=false", "box"]))
        .collect();
    let seen: Vec<Arc<Mutex<String>>> = clients
        .iter_mut()
        .map(|client| {
            let (seen, mut out) = (
                Arc::<Mutex<String>>::default(),
                client.stdout.take().unwrap(),
            );
            let all = seen.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = out.read(&mut buffer) {
                    all.lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
            });
            seen
        })
        .collect();
    // Until all of them see what one of them says.
    let mut teller = site.ctl_start(&["attach", "box"]);
    let mut stdin = teller.stdin.take().unwrap();
    eventually("all are attached", async || {
        writeln!(stdin, "hello").unwrap();
        let all = seen.iter().all(|s| s.lock().unwrap().contains("got-hello"));
        all.then_some(())
    })
    .await;
    let killed = clients.remove(0);
    signal(&killed, rustix::process::Signal::KILL);
    killed.wait_with_output().unwrap();
    writeln!(stdin, "last").unwrap();
    eventually("those that are left see more", async || {
        let more = seen[1..]
            .iter()
            .all(|s| s.lock().unwrap().contains("got-last"));
        more.then_some(())
    })
    .await;
    // The end of one's input is the end of the container's.
    drop(stdin);
    for client in clients {
        let ended = client.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0));
    }
    teller.wait().unwrap();
}

#[tokio::test]
async fn streams_are_chosen_half_closed_and_binary() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let both = "echo out; echo err >&2";
    let said = site.ctl(&["run", "--rm", "-a", "stdout", "busybox", "sh", "-c", both]);
    assert_eq!((said.code, &*said.out, &*said.err), (0, "out\n", ""));
    let said = site.ctl(&["run", "--rm", "-a", "stderr", "busybox", "sh", "-c", both]);
    assert_eq!((said.code, &*said.out, &*said.err), (0, "", "err\n"));
    let words = [
        "run", "--rm", "-i", "-a", "stdin", "-a", "stdout", "busybox", "cat",
    ];
    assert_eq!(site.ctl_with(&words, b"through\n").ok(), "through\n");

    // Every byte there is, several times, in both directions.
    let all: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    let mut cat = site.ctl_start(&["run", "--rm", "-i", "busybox", "cat"]);
    let mut stdin = cat.stdin.take().unwrap();
    let sent = all.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let got = cat.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(got.stdout == all, "{} bytes came back", got.stdout.len());

    // The end of a client's input is the end of the container's, and the answer still comes.
    site.ctl(&["create", "-i", "--name", "cat", "busybox", "cat"])
        .ok();
    assert_eq!(
        site.ctl_with(&["start", "-ai", "cat"], b"once\n").ok(),
        "once\n"
    );
    assert_eq!(
        site.ctl_with(&["start", "-ai", "cat"], b"again\n").ok(),
        "again\n"
    );
}

#[tokio::test]
async fn input_that_nobody_reads_is_bounded() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.ctl(&["run", "-di", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let (pid, service) = (monitor(&site, "box"), runtime(&site));
    let before = (costs(&pid).0, costs(&service).0);
    let mut client = site.ctl_start(&["attach", "--sig-proxy=false", "box"]);
    let mut stdin = client.stdin.take().unwrap();
    let (sent, total) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let chunk = vec![b'x'; 64 * 1024];
        let mut bytes = 0;
        // 32 MB, of which the pipes on the way take a part.
        for _ in 0..512 {
            if stdin.write_all(&chunk).is_err() {
                break;
            }
            bytes += chunk.len();
            let _ = sent.send(bytes);
        }
    });
    // It stops taking any.
    let mut last = 0;
    while let Ok(bytes) = total.recv_timeout(Duration::from_secs(2)) {
        last = bytes;
    }
    assert!(last < 16 << 20, "{last} bytes were taken");
    let after = (costs(&pid).0, costs(&service).0);
    assert!(after.0 < before.0 + (1 << 20), "{before:?} {after:?}");
    assert!(after.1 < before.1 + (16 << 20), "{before:?} {after:?}");
    // And holds nothing up.
    assert_eq!(exec(&site, &[], "echo alive"), "alive\n");
    site.ctl(&["kill", "box"]).ok();
    client.wait().unwrap();
    writer.join().unwrap();
}

#[tokio::test]
async fn much_output_takes_no_memory_and_no_disk() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "read x; busybox yes 0123456789012345678901234567890123456789 | busybox head -c 300000000; echo; echo done; read x";
    site.ctl(&["run", "-di", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    let (pid, service) = (monitor(&site, "box"), runtime(&site));
    site.ctl(&["logs", "box"]).ok();
    let before = (costs(&pid).0, costs(&service).0);
    let mut client = site.ctl_start(&["attach", "--sig-proxy=false", "box"]);
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    // A client that never reads: it holds its share of the log, not the container. Where processors are busy
    // 300 MB take their time.
    site.allow(MUCH);
    eventually_within(MUCH, "all is written", async || {
        (site.ctl(&["logs", "-n", "1", "box"]).out == "done\n").then_some(())
    })
    .await;
    client.kill().unwrap();
    client.wait().unwrap();
    let id = site.ctl(&["inspect", "-f", "{{.Id}}", "box"]).ok();
    let folder = site.path("state/runtime/containers").join(id.trim());
    let used = || -> u64 {
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        entries
            .filter_map(|e| e.metadata().ok())
            .map(|m| m.len())
            .sum()
    };
    // 10 MB x 3, the older ones packed; what the client held is given back when it has gone.
    eventually("the log is within its cap", async || {
        (used() < 32_000_000).then_some(())
    })
    .await;
    let after = (costs(&pid).0, costs(&service).0);
    assert!(
        after.0 < before.0 + (1 << 20),
        "monitor: {before:?} {after:?}"
    );
    assert!(
        after.1 < before.1 + (24 << 20),
        "service: {before:?} {after:?}"
    );
    drop(stdin);
    site.ctl(&["kill", "box"]).ok();
}

/// Attaches over a connection that is there and goes away at once, as a client that is killed does.
async fn attach_and_go(
    containers: &mut slipway_proto::runtime::v1::containers_client::ContainersClient<
        tonic::transport::Channel,
    >,
) {
    let start = attach_request::Start {
        container: "box".into(),
        streams: vec![Stream::Stdin.into(), Stream::Stdout.into()],
        ..attach_request::Start::default()
    };
    let first = AttachRequest {
        part: Some(attach_request::Part::Start(start)),
    };
    // Both directions end when it goes.
    let (send, requests) = tokio::sync::mpsc::channel(1);
    send.send(first).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut events = containers.attach(requests).await.unwrap().into_inner();
    let event = events.message().await.unwrap().unwrap().event;
    assert!(matches!(event, Some(attach_event::Event::Attached(_))));
}

#[tokio::test]
async fn attaching_and_detaching_many_times_leaves_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.ctl(&["run", "-di", "--name", "box", "busybox", "cat"])
        .ok();
    let (pid, service) = (monitor(&site, "box"), runtime(&site));
    let mut containers = site.containers();
    let times: u32 = std::env::var("SLIPWAY_ATTACHES").map_or(1500, |n| n.parse().unwrap());
    for _ in 0..200 {
        attach_and_go(&mut containers).await;
    }
    let settled = async |limit: (usize, usize)| {
        eventually("descriptors are given back", async || {
            let now = (costs(&pid).1, costs(&service).1);
            (now.0 <= limit.0 && now.1 <= limit.1).then_some(())
        })
        .await;
    };
    settled((16, usize::MAX)).await;
    let before = (costs(&pid), costs(&service));
    for _ in 0..times {
        attach_and_go(&mut containers).await;
    }
    settled((before.0.1, before.1.1 + 3)).await;
    let after = (costs(&pid), costs(&service));
    println!("{times} attaches: {before:?} to {after:?}");
    assert!(
        after.0.0 <= before.0.0 + (256 << 10),
        "monitor: {before:?} {after:?}"
    );
    assert!(
        after.1.0 <= before.1.0 + (8 << 20),
        "service: {before:?} {after:?}"
    );
    assert_eq!(
        site.ctl_with(&["attach", "--sig-proxy=false", "box"], b"still\n")
            .out
            .len()
            % 6,
        0
    );
}

#[tokio::test]
async fn exec_has_dockers_options() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut run = vec!["run", "-d", "--name", "box", "-e", "A=image", "-m", "64m"];
    run.extend([
        "--security-opt",
        "no-new-privileges",
        "busybox",
        "sleep",
        "1000",
    ]);
    site.ctl(&run).ok();
    exec(
        &site,
        &[],
        "echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd; echo 'web:x:77:88::/home/web:/bin/sh' >> /etc/passwd",
    );
    exec(
        &site,
        &[],
        "echo 'web:x:88:' > /etc/group; echo 'more:x:99:web' >> /etc/group",
    );
    let who = "busybox grep -E '^(Uid|Gid|Groups)' /proc/self/status; echo $HOME";
    assert_eq!(
        exec(&site, &["-u", "web"], who),
        "Uid:\t77\t77\t77\t77\nGid:\t88\t88\t88\t88\nGroups:\t88 99 \n/home/web\n"
    );
    assert_eq!(exec(&site, &["-u", "77:99"], "busybox id -g"), "99\n");
    let unknown = site
        .ctl(&["exec", "-u", "nobody-here", "box", "true"])
        .error(1);
    assert!(
        unknown.contains("unable to find user nobody-here: no matching entries in passwd file"),
        "{unknown}"
    );

    let nowhere = site.ctl(&["exec", "-w", "tmp", "box", "true"]).error(1);
    assert!(
        nowhere.contains("needs to be an absolute path"),
        "{nowhere}"
    );

    let file = site.path("variables");
    std::fs::write(&file, "# not this\nB=file\nC=file\n").unwrap();
    let file = file.to_str().unwrap();
    let env = exec(
        &site,
        &["--env-file", file, "-e", "C=word", "-w", "/tmp"],
        "echo $A $B $C; pwd",
    );
    assert_eq!(env, "image file word\n/tmp\n");

    // What it may is what the container may, and its cgroups are the container's.
    let of = |words: &[&str]| {
        exec(
            &site,
            words,
            "busybox grep -E 'Cap|NoNew|Seccomp:' /proc/self/status",
        )
    };
    let own = of(&[]);
    assert!(
        own.contains("CapEff:\t00000000a80425fb") && own.contains("NoNewPrivs:\t1"),
        "{own}"
    );
    assert!(own.contains("Seccomp:\t2"), "{own}");
    let most = of(&["--privileged"]);
    assert!(!most.contains("CapEff:\t00000000a80425fb"), "{most}");
    let init = site.ctl(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok();
    let groups = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mut one = site.ctl_start(&["exec", "box", "sh", "-c", "echo up; exec sleep 1000"]);
    assert_eq!(first_line(&mut one), "up");
    let top = site.ctl(&["top", "box", "-o", "pid,args"]).ok();
    let pids = top
        .lines()
        .filter(|l| l.contains("sleep 1000"))
        .map(|l| l.split_whitespace().next().unwrap());
    let pid = pids.rev().find(|p| *p != init.trim()).unwrap();
    assert_eq!(groups(pid), groups(init.trim()));
    let listed = site
        .ctl(&["inspect", "-f", "{{json .ExecIDs}}", "box"])
        .ok();
    assert_eq!(listed.trim().len(), 64 + 4, "{listed}");

    // The caller goes: docker's exec goes on.
    let mut orphan = site.ctl_start(&[
        "exec",
        "box",
        "sh",
        "-c",
        "echo up; while ! test -e /go; do usleep 20000; done; echo more; echo more; touch /went-on",
    ]);
    assert_eq!(first_line(&mut orphan), "up");
    signal(&orphan, rustix::process::Signal::KILL);
    orphan.wait().unwrap();
    exec(&site, &[], "touch /go");
    eventually("it goes on without its caller", async || {
        (site.ctl(&["exec", "box", "test", "-e", "/went-on"]).code == 0).then_some(())
    })
    .await;
    // -d: nobody listens, and that ends nothing.
    for options in [&["-d"][..], &["-dt"]] {
        site.ctl(
            &[
                &["exec"][..],
                options,
                &[
                    "box",
                    "sh",
                    "-c",
                    "echo x; echo x; rm -f /go; echo x; touch /done",
                ],
            ]
            .concat(),
        )
        .ok();
        eventually("it runs in the background", async || {
            (site.ctl(&["exec", "box", "rm", "/done"]).code == 0).then_some(())
        })
        .await;
    }

    let error = site.ctl(&["exec", "box", "/etc"]).error(126);
    assert!(error.contains("/etc"), "{error}");
    assert!(
        site.ctl(&["exec", "box", "nope"])
            .error(127)
            .contains("executable file not found in $PATH")
    );
    site.ctl(&["pause", "box"]).ok();
    let error = site.ctl(&["exec", "box", "true"]).error(1);
    assert!(
        error.contains("is paused, unpause the container before exec"),
        "{error}"
    );
    site.ctl(&["unpause", "box"]).ok();
    site.ctl(&["kill", "box"]).ok();
    assert_eq!(one.wait().unwrap().code(), Some(137));
    let error = site.ctl(&["exec", "box", "true"]).error(1);
    assert!(error.contains("is not running"), "{error}");
}

#[tokio::test]
async fn many_execs_at_once_lose_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.ctl(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let all: Vec<Child> = (0..24)
        .map(|n| {
            let script = format!("busybox seq 1 2000; echo e{n} >&2; exit {n}");
            site.ctl_start(&["exec", "box", "sh", "-c", &script])
        })
        .collect();
    for (n, child) in all.into_iter().enumerate() {
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(n as i32));
        assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), 2000);
        assert_eq!(String::from_utf8_lossy(&ended.stderr), format!("e{n}\n"));
    }
    let listed = site
        .ctl(&["inspect", "-f", "{{json .ExecIDs}}", "box"])
        .ok();
    assert_eq!(listed, "null\n");
}
