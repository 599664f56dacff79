//! Services under a manager that opens their sockets and waits for their word (sd_listen_fds(3), sd_notify(3)).

use std::{
    os::{
        fd::OwnedFd,
        unix::{
            fs::MetadataExt as _,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::Path,
    process::{Child, Command},
};

use rustix::process::{Pid, Signal, kill_process};
use slipway_tests::{Site, eventually, ready};

/// Starts a service as systemd does: its socket is descriptor 3.
fn start(site: &Site, service: &str, socket: &UnixListener, notify: &Path) -> Child {
    let program = slipway_tests::site::program_path(service);
    let script = r#"exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0""#;
    let mut command: Command = site.command("/bin/sh", &["-c", script, program.to_str().unwrap()]);
    let passed = OwnedFd::from(socket.try_clone().unwrap());
    let log = std::fs::File::create(site.path("service.log")).unwrap();
    command
        .stdin(passed)
        .stderr(log)
        .env("NOTIFY_SOCKET", notify)
        .spawn()
        .unwrap()
}

fn stop(child: &mut Child) -> bool {
    let pid = Pid::from_child(child);
    // It may have ended by itself.
    let _ = kill_process(pid, Signal::TERM);
    child.wait().unwrap().success()
}

#[tokio::test]
async fn a_service_takes_the_socket_that_is_there_and_says_when_it_is_ready() {
    if !ready() {
        return;
    }
    let site = Site::bare();
    std::fs::create_dir_all(site.path("run")).unwrap();
    let path = site.path("run").join("registry.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let number = std::fs::metadata(&path).unwrap().ino();
    let notify = site.path("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_nonblocking(true).unwrap();
    let heard = async |word: &str| {
        eventually(word, async || {
            let mut buffer = [0; 256];
            let length = manager.recv(&mut buffer).ok()?;
            assert_eq!(String::from_utf8_lossy(&buffer[..length]), word);
            Some(())
        })
        .await;
    };

    // Who calls before it is there is answered when it is.
    let early = std::thread::scope(|both| {
        let call = both.spawn(|| site.ctl(&["images", "-q"]));
        let child = start(&site, "registry-svc", &socket, &notify);
        (call.join().unwrap(), child)
    });
    let (said, mut child) = early;
    assert_eq!(said.ok(), "");
    heard("READY=1\n").await;
    assert!(stop(&mut child));
    heard("STOPPING=1\n").await;
    // The manager's own: the next call starts the next one.
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), number);
    let mut child = start(&site, "registry-svc", &socket, &notify);
    heard("READY=1\n").await;
    site.ctl(&["images", "-q"]).ok();
    assert!(stop(&mut child));
}

#[tokio::test]
async fn a_socket_that_is_of_no_use_is_refused() {
    if !ready() {
        return;
    }
    let site = Site::bare();
    std::fs::create_dir_all(site.path("run")).unwrap();
    let path = site.path("run").join("regsitry.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let mut child = start(&site, "registry-svc", &socket, &site.path("nobody"));
    assert!(!child.wait().unwrap().success());
    let said = std::fs::read_to_string(site.path("service.log")).unwrap();
    let expected = format!(
        "handed over {}, where this service does not listen",
        path.display()
    );
    assert!(said.contains(&expected), "{said}");
}
