//! Where a container that is ready waits for its `start`.
//!
//! No process stands behind a container of the OCI command line: who made it is gone, and the container's
//! first process waits by itself, with two FIFOs open. A byte in the one lets it go on; the other is read
//! by who wrote that byte, and closes with the exec or carries the reason why there was none. Whether a
//! container still waits is known by the kernel alone: the first FIFO has a reader, or not. Nothing but
//! read(2) and write(2) is needed here: the caller's filter of system calls is in force already.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::{StartError, Step as _, hooks, plan::Hooks};
use crate::sys::fork;

/// Message of a container that is ready.
pub const READY: &[u8] = b"ready";

/// The stop before the exec.
pub struct Gate<'a> {
    /// The FIFOs, both open for reading and writing; `None` = it goes on as soon as it is known.
    pub fifos: Option<(OwnedFd, OwnedFd)>,
    /// Some of which run when it goes on.
    pub hooks: &'a Hooks,
}

impl Gate<'_> {
    /// Waits. Returns where errors are to be reported from here on; with an error where that one is.
    pub fn pass(self, report: OwnedFd, descriptors: u32) -> Result<OwnedFd, (StartError, OwnedFd)> {
        if let Err(error) = announce(&report) {
            return Err((error, report));
        }
        let report = match self.fifos {
            None => report,
            Some((start, answer)) => {
                // Also the way back to who made the container.
                let first = 3 + descriptors as i32;
                fork::close_all_but_two(first, start.as_raw_fd(), answer.as_raw_fd());
                // Its number is closed already, and might soon be another's.
                std::mem::forget(report);
                if let Err(error) = wait(&start) {
                    return Err((error, answer));
                }
                drop(start);
                answer
            }
        };
        let run = &self.hooks.start_container;
        if run.is_empty() {
            // Not even a pid is asked for: the filter may not allow it.
            return Ok(report);
        }
        let pid = rustix::process::getpid().as_raw_pid();
        match hooks::run_all("startContainer", run, &self.hooks.about, "created", pid) {
            Ok(()) => Ok(report),
            Err(error) => Err((error, report)),
        }
    }
}

/// Says that it is ready, and waits until that is written down: who made it may be gone, and then nobody
/// would ever know of this process.
fn announce(report: &OwnedFd) -> Result<(), StartError> {
    let what = || "cannot report that it is ready".to_owned();
    rustix::io::write(report, READY).step(what)?;
    let mut word = [0; 1];
    match rustix::io::retry_on_intr(|| rustix::io::read(report, &mut word)).step(what)? {
        0 => fork::exit_now(125),
        _ => Ok(()),
    }
}

fn wait(start: &OwnedFd) -> Result<(), StartError> {
    let mut word = [0; 1];
    rustix::io::retry_on_intr(|| rustix::io::read(start, &mut word))
        .step(|| "cannot wait for the start".to_owned())?;
    Ok(())
}
