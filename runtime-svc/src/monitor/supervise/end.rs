//! How a container ends: what its processes leave is written, its end recorded, and then told.

use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, WaitStatus};

use super::{
    super::{
        output::now,
        protocol::{Event, ExitRecord},
    },
    MAX_ENDED, Monitor,
};

/// How long output may still come after the first process has ended and everything else of the
/// container was killed: only a process outside of it can still hold a pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// The end of a container that is not told yet.
pub(super) struct Ending {
    code: i32,
    /// Nanoseconds since the epoch.
    finished: u64,
    /// When nothing more is waited for; begun anew when the disk had no room meanwhile.
    until: Option<Instant>,
    drained: bool,
    /// Clients know of it, although it is not recorded.
    pub(super) known: bool,
}

impl Monitor<'_> {
    /// Collects ended children.
    pub(super) fn reap(&mut self) {
        let mut drain = [0; 1024];
        while rustix::io::read(&self.signals, &mut drain).is_ok_and(|n| n > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(code) = shell_code(status) else {
                continue;
            };
            if pid == self.init {
                slipway_fault::point("monitor.end.reaped");
                self.ending = Some(Ending {
                    code,
                    finished: now(),
                    until: None,
                    drained: false,
                    known: false,
                });
                // Without a process namespace of its own the rest lives on, and would hold the pipes.
                let _ = self.group.kill();
                slipway_fault::point("monitor.end.killed");
                continue;
            }
            if let Some(exec) = self.execs.iter_mut().find(|e| e.helper == Some(pid)) {
                exec.helper = None;
            } else if let Some(exec) = self.execs.iter_mut().find(|e| e.pid == Some(pid)) {
                if exec.report.is_some() {
                    exec.exit = Some(code);
                    continue;
                }
                exec.pid = None;
                let number = exec.client;
                self.exec_has_ended(number, code);
            } else {
                // Ended before its pid was reported, or of an exec that failed.
                if self.ended.len() == MAX_ENDED {
                    self.ended.remove(0);
                }
                self.ended.push((pid, code));
            }
        }
    }

    /// Tells whoever began a further process of its end.
    pub(super) fn exec_has_ended(&mut self, client: u64, code: i32) {
        slipway_fault::point("monitor.exec.ended");
        if let Some((_, client)) = self.clients.iter_mut().find(|(n, _)| *n == client) {
            client.tell(&Event::ExecExited { code }, &[]);
        }
    }

    /// Whether the container has ended, with all that it wrote in the log and its end recorded. A disk that is
    /// full is waited for, since neither may be lost: until there is room, or nobody will ever read them. That it
    /// has ended is told meanwhile.
    pub(super) fn is_over(&mut self) -> Option<ExitRecord> {
        let stuck = self.output.is_stuck() && self.is_wanted();
        let ending = self.ending.as_mut()?;
        if stuck {
            ending.until = None;
            self.tell_early();
            return None;
        }
        if !self.output.is_stuck() && !self.output.sources.is_empty() {
            let now = Instant::now();
            if now < *ending.until.get_or_insert(now + DRAIN) {
                return None;
            }
        }
        if !std::mem::replace(&mut ending.drained, true) {
            slipway_fault::point("monitor.end.drained");
        }
        let record = self.record()?;
        if record.write(&self.plan.files.exit).is_err() && self.is_wanted() {
            self.tell_early();
            return None;
        }
        Some(record)
    }

    /// How it ended, once it has.
    pub(super) fn record(&self) -> Option<ExitRecord> {
        let ending = self.ending.as_ref()?;
        Some(ExitRecord {
            code: ending.code,
            oom_killed: self.group.oom_killed(),
            started: self.running.started,
            finished: ending.finished,
            error: String::new(),
        })
    }

    /// Nobody needs to believe that it runs while its end cannot be recorded.
    fn tell_early(&mut self) {
        let Some(record) = self.record() else { return };
        let known = self.ending.as_mut().map(|ending| &mut ending.known);
        if known.is_none_or(|known| std::mem::replace(known, true)) {
            return;
        }
        // Should we be killed while there is no room. Where there is none here either, who hears of it knows.
        let _ = record.write(&ExitRecord::beside(&self.plan.files.socket));
        for (_, client) in &mut self.clients {
            client.tell(&Event::Ended(record.clone()), &[]);
        }
    }

    /// Whether anybody may still read what it left.
    fn is_wanted(&self) -> bool {
        let folder = self.plan.files.exit.parent();
        !self.discarded && folder.is_some_and(std::path::Path::exists)
    }

    /// Tells the end, at once, and clears up.
    pub(super) fn finish(&mut self, record: &ExitRecord) {
        slipway_fault::point("monitor.end.recorded");
        // Its last moment may have been that one.
        self.hear_of_memory();
        self.oom = None;
        for (_, client) in &mut self.clients {
            client.tell(&Event::Exited(record.clone()), &[]);
        }
        // Who needs that to be done waits until we hang up; who comes now is never greeted, and finds us
        // gone. What cannot be removed is found and removed with the container.
        let _ = self.group.remove();
        slipway_fault::point("monitor.end.uncgrouped");
        let _ = std::fs::remove_file(&self.plan.files.socket);
        slipway_fault::point("monitor.end.closed");
    }
}

/// As a shell reports an end; `None` when it is none.
fn shell_code(status: WaitStatus) -> Option<i32> {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}
