//! NOTIFY_SOCKET: who starts a container for systemd hands on that it is ready.

use std::{os::unix::net::UnixDatagram, path::PathBuf, process::Child, time::Duration};

use super::*;

/// systemd's end.
fn host(oci: &Oci) -> (UnixDatagram, PathBuf) {
    let path = oci.site.path("systemd.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (socket, path)
}

fn heard(host: &UnixDatagram) -> String {
    let mut buffer = [0; 100];
    let length = host.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn call(oci: &Oci, host: &Path, words: &[&str]) -> Child {
    let mut command = oci.command(words);
    command
        .env("NOTIFY_SOCKET", host)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.spawn().unwrap()
}

const SCRIPT: &str =
    "test -S $NOTIFY_SOCKET || exit 9; trap 'exit 5' TERM; while :; do sleep 0.1; done";

/// Says something as a process of the container would; its number.
async fn say(oci: &Oci, id: &str, message: &[u8]) -> String {
    eventually("its program runs", async || {
        let state = oci.call(&["state", id]).out;
        state.contains("\"running\"").then_some(())
    })
    .await;
    let pid = oci.state(id)["pid"].to_string();
    let inside = format!("/proc/{pid}/root/run/notify/notify.sock");
    let socket = UnixDatagram::unbound().unwrap();
    socket.send_to(message, inside).unwrap();
    pid
}

#[tokio::test]
async fn the_caller_hears_that_a_container_is_ready() {
    let Some(oci) = Oci::new() else { return };
    let (host, address) = host(&oci);
    let bundle = oci.bundle("ready", SCRIPT, |_| {});
    let bundle = path(&bundle);
    let created = call(&oci, &address, &["create", "-b", bundle, "ready"]).wait();
    assert!(created.unwrap().success());
    let mut start = call(&oci, &address, &["start", "ready"]);
    let pid = say(&oci, "ready", b"STATUS=still READY=0").await;
    assert!(start.try_wait().unwrap().is_none(), "it is not ready");
    say(&oci, "ready", b"STATUS=done\nREADY=1\n").await;
    assert_eq!(heard(&host), "READY=1\n");
    assert_eq!(heard(&host), format!("MAINPID={pid}\n"));
    assert_eq!(heard(&host), "BARRIER=1");
    assert!(start.wait().unwrap().success());
    oci.ok(&["delete", "-f", "ready"]);
    oci.is_gone("ready");

    // In the foreground the caller watches us.
    let mut run = call(&oci, &address, &["run", "-b", bundle, "ready"]);
    say(&oci, "ready", b"READY=1").await;
    assert_eq!(heard(&host), "READY=1\n");
    assert_eq!(heard(&host), format!("MAINPID={}\n", run.id()));
    assert_eq!(heard(&host), "BARRIER=1");
    oci.ok(&["kill", "ready"]);
    assert_eq!(run.wait().unwrap().code(), Some(5));
    oci.is_gone("ready");

    // One that ends without a word is waited for no longer.
    let mut run = call(&oci, &address, &["run", "-d", "-b", bundle, "ready"]);
    eventually("its program runs", async || {
        let state = oci.call(&["state", "ready"]).out;
        state.contains("\"running\"").then_some(())
    })
    .await;
    assert!(run.try_wait().unwrap().is_none(), "it is not ready");
    oci.ok(&["kill", "ready", "KILL"]);
    assert!(run.wait().unwrap().success());
    oci.ok(&["delete", "-f", "ready"]);
    oci.is_gone("ready");
}

#[tokio::test]
async fn who_was_ready_and_ended_before_anybody_listened_is_heard() {
    let Some(oci) = Oci::new() else { return };
    let (host, address) = host(&oci);
    let gate = oci.site.path("gate");
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &gate, fifo, mode, 0).unwrap();
    // Between the exec and the moment from which the caller listens.
    let hold = format!("read word < {}", path(&gate));
    let bundle = oci.bundle("early", SCRIPT, |c| {
        c["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", hold]}]});
    });
    for detached in [true, false] {
        let mut words = vec!["run", "-b", path(&bundle), "early"];
        if detached {
            words.insert(1, "-d");
        }
        let mut run = call(&oci, &address, &words);
        let pid = say(&oci, "early", b"READY=1").await;
        let first = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
        eventually("it has ended", async || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") Z ").then_some(())
        })
        .await;
        fs::write(&gate, "on\n").unwrap();
        assert_eq!(heard(&host), "READY=1\n");
        assert!(heard(&host).starts_with("MAINPID="));
        assert_eq!(heard(&host), "BARRIER=1");
        let code = run.wait().unwrap().code();
        assert_eq!(code, Some(if detached { 0 } else { 137 }));
        if detached {
            oci.ok(&["delete", "early"]);
        }
        oci.is_gone("early");
    }
}
