//! A terminal with a program on it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::OpenptFlags,
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{Site, eventually, site::program_path};

/// A pseudo-terminal whose foreground is one command.
pub struct Terminal {
    master: File,
    /// Held, so that the terminal outlives its program and can be looked at.
    slave: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
    child: Child,
    before: Termios,
}

impl Terminal {
    /// Runs `ctl` on a terminal of 24 lines and 80 columns.
    pub fn ctl(site: &Site, arguments: &[&str]) -> Self {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        let before = tcgetattr(&slave).unwrap();
        tcsetwinsize(&slave, size(24, 80)).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let ctl = program_path("ctl");
        // setsid makes it the controlling terminal, and stays the same process.
        let mut words = vec!["-c", ctl.to_str().unwrap()];
        words.extend(arguments);
        let mut command: Command = site.command("setsid", &words);
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, all) = (File::from(master.try_clone().unwrap()), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                all.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self {
            master: File::from(master),
            slave,
            seen,
            child,
            before,
        }
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// All that was shown since it was last forgotten.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until something is shown.
    pub async fn expect(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.shown().contains(text) {
            assert!(
                begun.elapsed() < crate::PATIENCE,
                "in vain: {text:?} is shown; it was {:?}",
                self.shown()
            );
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Types a line and waits for an answer that the echo of the line itself cannot be.
    pub async fn ask(&mut self, line: &str, answer: &str) {
        assert!(
            !line.contains(answer),
            "the echo would pass for the answer: {line}"
        );
        self.seen.lock().unwrap().clear();
        self.send(&format!("{line}\r"));
        self.expect(answer).await;
    }

    /// Changes the size of the window; the program is told by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).unwrap();
    }

    /// Its program.
    pub const fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for the program's end and that the terminal is as it was before; the exit code.
    pub async fn end(mut self) -> i32 {
        let child = &mut self.child;
        let status = eventually("the program on the terminal ends", async || {
            child.try_wait().unwrap()
        })
        .await;
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(
            (after.input_modes, after.output_modes, after.local_modes),
            (
                self.before.input_modes,
                self.before.output_modes,
                self.before.local_modes
            ),
            "the terminal is given back as it was"
        );
        status.code().unwrap_or(-1)
    }
}

const fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
