//! `--init`: a first process of ours that has the program as its child, hands signals on to it, collects
//! what is orphaned, and ends as it ends: what tini does.
//!
//! No other file is executed for it: the process that made the container goes on as its init, with what
//! a container's process may have and no more (user, capabilities, seccomp). It must stay undumpable:
//! then nothing in the container can look into its memory or at its file by /proc/1 without the right
//! to trace. That file is behind a read-only mount (CVE-2019-5736), and its memory never held anything
//! of another container (`monitor::spawner`).

use rustix::process::{Pid, WaitOptions};

use super::{StartError, Step as _, init};
use crate::sys::{
    fork::{self, Fork},
    prctl, signals,
};

/// Returns in the child, which is to become the program. The parent stays, as the container's init.
pub fn begin() -> Result<(), StartError> {
    prctl::set_dumpable(false).step(|| "cannot become undumpable".to_owned())?;
    prctl::set_name(c"docker-init").step(|| "cannot name the init process".to_owned())?;
    // In the host's process namespace it is not the first one: orphans come to it all the same.
    prctl::set_child_subreaper().step(|| "cannot become the subreaper".to_owned())?;
    signals::block_all().step(|| "cannot block the signals".to_owned())?;
    match fork::fork().step(|| "cannot fork the program".to_owned())? {
        Fork::Parent(child) => {
            // Among them the way back to the monitor, which is closed when the program is executed.
            fork::close_from(3);
            fork::exit_now(serve(child))
        }
        Fork::Child => {
            take_terminal();
            init::reset_signals()?;
            // It does not outlive its init, where no process namespace sees to that.
            prctl::set_parent_death_signal(libc::SIGKILL)
                .step(|| "cannot bind to the init process".to_owned())
        }
    }
}

/// The program's process group is the one that the terminal's keys go to.
fn take_terminal() {
    // It leads no session, so that this cannot fail.
    let _ = rustix::process::setpgid(None, None);
    // SIGTTOU is blocked. No terminal is the usual case.
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp());
}

/// What `ps` shows of the init of this program.
pub fn command_line(args: &[String]) -> Vec<u8> {
    let mut line = b"/sbin/docker-init\0--\0".to_vec();
    for arg in args {
        line.extend_from_slice(arg.as_bytes());
        line.push(0);
    }
    line
}

/// Until the program has ended; returns what it ended with.
fn serve(child: Pid) -> i32 {
    loop {
        match signals::wait_any() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            // They are about terminals that are not ours.
            Ok(libc::SIGTTIN | libc::SIGTTOU) => {}
            // It may have ended: then its SIGCHLD is next.
            Ok(signal) => drop(signals::send_to(child, signal)),
            // Interrupted: nothing was taken.
            Err(_) => {}
        }
    }
}

/// Collects all that has ended; the child's exit code when it is among them.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            code = status
                .exit_status()
                .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_shows_dockers_words() {
        let line = command_line(&["sh".to_owned(), "-c".to_owned()]);
        assert_eq!(line, b"/sbin/docker-init\0--\0sh\0-c\0");
    }
}
