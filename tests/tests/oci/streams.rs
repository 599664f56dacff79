//! Terminals, descriptors, and processes that join.

use std::io::Read as _;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::*;

/// Receives a terminal as conmon and containerd do.
fn take_terminal(listener: &std::os::unix::net::UnixListener) -> fs::File {
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut buffers = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(&stream, &mut buffers, &mut control, RecvFlags::empty()).unwrap();
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fs::File::from(fds.next().unwrap().next().unwrap())
}

fn read_terminal(mut terminal: fs::File) -> String {
    let (mut seen, mut buffer) = (Vec::new(), [0; 1024]);
    // EIO: nobody has the other end any more.
    while let Ok(length @ 1..) = terminal.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&seen).replace('\r', "")
}

#[tokio::test]
async fn terminals_go_to_who_asks_for_them() {
    let Some(oci) = Oci::new() else { return };
    let socket = oci.site.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let bundle = oci.bundle(
        "tty",
        "tty; stty size; test -c /dev/console && echo console; exec sleep 1000",
        |c| {
            c["process"]["terminal"] = json!(true);
            c["process"]["consoleSize"] = json!({"height": 30, "width": 100});
        },
    );
    assert!(
        oci.fails(&["create", "--bundle", path(&bundle), "tty"])
            .contains("--console-socket")
    );
    oci.ok(&[
        "create",
        "--console-socket",
        path(&socket),
        "--bundle",
        path(&bundle),
        "tty",
    ]);
    let terminal = take_terminal(&listener);
    oci.ok(&["start", "tty"]);
    oci.ok(&[
        "exec",
        "-t",
        "-d",
        "--console-socket",
        path(&socket),
        "tty",
        "sh",
        "-c",
        "tty; echo end",
    ]);
    let second = read_terminal(take_terminal(&listener));
    assert_eq!(second, "/dev/pts/1\nend\n");
    oci.ok(&["kill", "tty", "KILL"]);
    assert_eq!(read_terminal(terminal), "/dev/pts/0\n30 100\nconsole\n");
    oci.ok(&["delete", "-f", "tty"]);

    // In the foreground it is copied.
    let said = oci.call(&[
        "run",
        "--bundle",
        path(&bundle),
        "--console-socket",
        path(&socket),
        "--detach",
        "tty",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    drop(take_terminal(&listener));
    oci.ok(&["delete", "-f", "tty"]);
    let bundle = oci.bundle("front", "tty; exit 6", |c| {
        c["process"]["terminal"] = json!(true)
    });
    let said = oci.call(&["run", "--bundle", path(&bundle), "front"]);
    assert_eq!(
        (said.out.replace('\r', "").as_str(), said.code),
        ("/dev/pts/0\n", 6),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn exec_takes_a_process_of_a_file() {
    let Some(oci) = Oci::new() else { return };
    let bundle = oci.bundle("x", "sleep 1000", |_| ());
    oci.ok(&["run", "-d", "--bundle", path(&bundle), "x"]);
    let file = oci.site.path("process.json");
    let process = json!({
        "terminal": false, "user": {"uid": 12, "gid": 13, "additionalGids": [14]}, "cwd": "/tmp",
        "args": ["sh", "-c", "id -u; id -G; pwd; grep CapEff /proc/self/status; echo $A; exit 11"],
        "env": ["PATH=/bin", "A=b"], "noNewPrivileges": true,
    });
    fs::write(&file, process.to_string()).unwrap();
    let said = oci.call(&["exec", "--process", path(&file), "x"]);
    assert_eq!(
        said.out, "12\n13 14\n/tmp\nCapEff:\t0000000000000000\nb\n",
        "{}",
        said.err
    );
    assert_eq!(said.code, 11);
    let said = oci.call(&[
        "exec",
        "--user",
        "5:6",
        "--cwd",
        "/etc",
        "x",
        "sh",
        "-c",
        "id -u; id -g; pwd",
    ]);
    assert_eq!(said.out, "5\n6\n/etc\n", "{}", said.err);
    // Killed by a signal: as a shell says it.
    assert_eq!(oci.call(&["exec", "x", "sh", "-c", "kill -9 $$"]).code, 137);
    for words in [
        &["exec", "--process-label", "x", "x", "true"][..],
        &["exec", "--cgroup", "y", "x", "true"],
        &["exec", "--user", "root", "x", "true"],
        &["exec", "x"],
    ] {
        oci.fails(words);
    }
    oci.ok(&["delete", "-f", "x"]);
}

#[tokio::test]
async fn descriptors_are_handed_on_only_when_asked() {
    let Some(oci) = Oci::new() else { return };
    let kept = oci.site.path("kept");
    fs::write(&kept, "kept").unwrap();
    let bundle = oci.bundle(
        "fds",
        "ls /proc/self/fd | tr '\\n' ' '; cat <&3 2>/dev/null",
        |_| (),
    );
    let root = oci.site.path("root");
    let shell = |options: &str| {
        let script = format!(
            "exec 3<{} 4</dev/null; exec {} --root {} run {options} --bundle {} fds",
            kept.display(),
            oci.program().display(),
            root.display(),
            bundle.display()
        );
        let output = oci.site.output("sh", &["-c", &script]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The fourth is ls' own.
    assert_eq!(shell(""), "0 1 2 3 ");
    assert_eq!(shell("--preserve-fds 1"), "0 1 2 3 4 kept");
    assert!(
        oci.fails(&[
            "run",
            "--preserve-fds",
            "99",
            "--bundle",
            path(&bundle),
            "fds"
        ])
        .contains("not open")
    );
}
