//! SCMP_ACT_NOTIFY: a seccomp agent outside gets the descriptor by which it answers.

use std::{
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

/// What an agent was told, and the listener.
fn told(agent: &UnixListener) -> (Value, OwnedFd) {
    let (stream, _) = agent.accept().unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [std::io::IoSliceMut::new(&mut buffer)];
    let received = recvmsg(&stream, &mut pieces, &mut control, RecvFlags::empty()).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let state = serde_json::from_slice(&buffer[..received.bytes]).unwrap();
    (state, fds.pop().unwrap())
}

/// Has an agent asked about these calls.
fn ask(c: &mut Value, agent: &Path, calls: &[&str]) {
    c["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": agent,
        "listenerMetadata": "about it",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_NOTIFY"}],
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_calls_of_every_process() {
    let Some(oci) = Oci::new() else { return };
    let address = oci.site.path("agent.sock");
    let agent = UnixListener::bind(&address).unwrap();
    let filter = |c: &mut Value, agent: &Path| ask(c, agent, &["mkdir", "mkdirat"]);
    let script = "mkdir /tmp/made 2> /tmp/why; touch /tmp/asked; sleep 1000";
    let bundle = oci.bundle("asked", script, |c| {
        filter(c, &address);
        c["root"]["readonly"] = json!(false);
    });
    let answers = std::thread::spawn(move || (told(&agent), agent));
    oci.ok(&["run", "-d", "-b", path(&bundle), "asked"]);
    let ((state, listener), agent) = answers.join().unwrap();
    let pid = oci.state("asked")["pid"].clone();
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "about it");
    assert_eq!((&state["pid"], &state["state"]["pid"]), (&pid, &pid));
    assert_eq!(state["state"]["status"], "creating");
    let asked = bundle.join("rootfs/tmp/asked");
    // The call waits for the agent, which hangs up: then nobody knows it (seccomp_unotify(2)).
    let call = format!("/proc/{pid}/task/{pid}/children");
    eventually("a process waits for the agent", async || {
        let children = fs::read_to_string(&call).unwrap();
        let child = children.split_whitespace().next()?.to_owned();
        let waits = fs::read_to_string(format!("/proc/{child}/wchan")).ok()?;
        waits.contains("seccomp").then_some(())
    })
    .await;
    assert!(!asked.exists());
    drop(listener);
    eventually("it went on", async || asked.exists().then_some(())).await;
    let why = fs::read_to_string(bundle.join("rootfs/tmp/why")).unwrap();
    assert!(why.contains("not implemented"), "{why}");

    // A further process has a listener of its own.
    let answers = std::thread::spawn(move || (told(&agent).0, agent));
    let said = oci.call(&["exec", "asked", "mkdir", "/tmp/other"]);
    assert_eq!(said.code, 1, "{}", said.err);
    let (state, agent) = answers.join().unwrap();
    assert_ne!(state["pid"], pid);
    assert_eq!(state["state"]["pid"], pid);
    assert_eq!(state["state"]["status"], "running");
    // Without the agent there is none, and nothing of it stays.
    drop(agent);
    let before = oci.ok(&["ps", "asked"]);
    let said = oci.call(&["exec", "asked", "true"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("agent.sock"), "{}", said.err);
    assert_eq!(oci.ok(&["ps", "asked"]), before);
    oci.ok(&["delete", "-f", "asked"]);
    oci.is_gone("asked");

    // Nobody is there.
    let bundle = oci.bundle("alone", "true", |c| filter(c, Path::new("/not/there")));
    let error = oci.fails(&["create", "-b", path(&bundle), "alone"]);
    assert!(error.contains("/not/there"), "{error}");
    oci.is_gone("alone");
}

/// One that is there and takes nobody: whoever connects waits.
fn deaf(address: &Path) -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
    let agent = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let address = SocketAddrUnix::new(address).unwrap();
    bind(&agent, &address).unwrap();
    // One waits to be accepted, and no more fit in.
    listen(&agent, 0).unwrap();
    let first = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&first, &address).unwrap();
    (agent, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_nothing_holds_nobody_up() {
    let Some(oci) = Oci::new() else { return };
    let address = oci.site.path("agent.sock");
    let agent = UnixListener::bind(&address).unwrap();
    let bundle = oci.bundle("deaf", "sleep 1000", |c| ask(c, &address, &["mkdir"]));
    let answers = std::thread::spawn(move || told(&agent));
    oci.ok(&["run", "-d", "-b", path(&bundle), "deaf"]);
    drop(answers.join().unwrap());
    fs::remove_file(&address).unwrap();
    let _deaf = deaf(&address);
    let before = oci.ok(&["ps", "deaf"]);
    std::thread::scope(|both| {
        both.spawn(|| {
            let said = oci.call(&["exec", "deaf", "true"]);
            assert_eq!(said.code, 255);
            let expected = "agent.sock did not take the listener within 10 s";
            assert!(said.err.contains(expected), "{}", said.err);
        });
        both.spawn(|| {
            let bundle = oci.bundle("other", "true", |c| ask(c, &address, &["mkdir"]));
            let error = oci.fails(&["create", "-b", path(&bundle), "other"]);
            assert!(error.contains("did not take the listener"), "{error}");
            oci.is_gone("other");
        });
    });
    assert_eq!(oci.ok(&["ps", "deaf"]), before);
    oci.ok(&["delete", "-f", "deaf"]);
    oci.is_gone("deaf");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_answers_nothing_holds_nobody_up() {
    let Some(oci) = Oci::new() else { return };
    let address = oci.site.path("agent.sock");
    // It is connected with, and never looks.
    let _agent = UnixListener::bind(&address).unwrap();
    let make = |name: &str| oci.bundle(name, "true", |c| ask(c, &address, &["execve"]));
    let expected = "did not let the process get to its program within 10 s";
    std::thread::scope(|both| {
        both.spawn(|| {
            let error = oci.fails(&["run", "-b", path(&make("one")), "one"]);
            assert!(error.contains(expected), "{error}");
            oci.is_gone("one");
        });
        both.spawn(|| {
            oci.ok(&["create", "-b", path(&make("two")), "two"]);
            let error = oci.fails(&["start", "two"]);
            assert!(error.contains(expected), "{error}");
            oci.ok(&["delete", "-f", "two"]);
            oci.is_gone("two");
        });
    });
}
