//! The command line on a site.

use std::{
    io::Write as _,
    process::{Child, Output, Stdio},
};

use crate::{Site, site::program_path};

/// What a command answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    /// Standard output of what must have gone well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// The error of what must have gone wrong: one line for people, as every error of ctl.
    #[track_caller]
    pub fn error(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let error = self.err.lines().last().unwrap_or_default().to_owned();
        assert!(error.starts_with("Error: "), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        error
    }
}

impl Site {
    /// What `inspect -f` says of something.
    #[track_caller]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        let said = self.ctl(&["inspect", "-f", format, name]).ok();
        said.trim_end().to_owned()
    }

    /// Runs a script in a container of busybox that goes with it.
    pub fn sh(&self, options: &[&str], script: &str) -> Said {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(options);
        arguments.extend(["busybox", "/bin/busybox", "sh", "-c", script]);
        self.ctl(&arguments)
    }

    /// Starts a container of busybox that sleeps; returns its id.
    #[track_caller]
    pub fn sleeper(&self, name: &str, options: &[&str]) -> String {
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(options);
        arguments.extend(["busybox", "sleep", "1000"]);
        self.ctl(&arguments).ok().trim().to_owned()
    }

    /// Runs `ctl` to its end.
    pub fn ctl(&self, arguments: &[&str]) -> Said {
        self.ctl_with(arguments, b"")
    }

    /// Runs `ctl` with this on its standard input, to its end.
    pub fn ctl_with(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut child = self.ctl_start(arguments);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // In a thread, since the other end may answer before it has read everything.
        let writer = std::thread::spawn(move || {
            // It need not read its input.
            let _ = stdin.write_all(&input);
        });
        let said = child.wait_with_output().unwrap().into();
        writer.join().unwrap();
        said
    }

    /// Starts `ctl` with pipes on all three streams.
    pub fn ctl_start(&self, arguments: &[&str]) -> Child {
        self.command(program_path("ctl").to_str().unwrap(), arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}
