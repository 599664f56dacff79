//! Telling when the kernel kills for want of memory, while the container goes on.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use rustix::event::{EventfdFlags, PollFlags};

use super::write;

/// What of a group is watched.
#[derive(Debug)]
pub enum OomWatch {
    /// v2: `memory.events` becomes ready when a number in it changes (cgroup-v2.rst).
    V2 {
        /// It.
        events: File,
        /// Kills so far.
        kills: u64,
    },
    /// v1: the kernel counts up (memory.rst, "OOM Control").
    V1 {
        /// The counter.
        counter: OwnedFd,
        /// What is counted; the kernel looks at it as long as it is open.
        _control: File,
    },
}

impl OomWatch {
    pub(super) fn v2(group: &Path) -> io::Result<Self> {
        let events = File::open(group.join("memory.events"))?;
        let kills = kills(&events)?;
        Ok(Self::V2 { events, kills })
    }

    pub(super) fn v1(group: &Path) -> io::Result<Self> {
        let counter = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = File::open(group.join("memory.oom_control"))?;
        let line = format!("{} {}", counter.as_raw_fd(), control.as_raw_fd());
        write(&group.join("cgroup.event_control"), &line)?;
        Ok(Self::V1 {
            counter,
            _control: control,
        })
    }

    /// What to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self {
            Self::V2 { events, .. } => (events.as_fd(), PollFlags::PRI),
            Self::V1 { counter, .. } => (counter.as_fd(), PollFlags::IN),
        }
    }

    /// Whether something was killed since the last time. A group that is going away says no.
    pub fn happened(&mut self) -> bool {
        match self {
            Self::V2 { events, kills: old } => {
                let now = kills(events).unwrap_or(*old);
                std::mem::replace(old, now) < now
            }
            Self::V1 { counter, .. } => rustix::io::read(&*counter, &mut [0; 8]).is_ok(),
        }
    }
}

fn kills(events: &File) -> io::Result<u64> {
    let mut buffer = [0; 1024];
    let length = events.read_at(&mut buffer, 0)?;
    Ok(parse(&String::from_utf8_lossy(&buffer[..length])))
}

fn parse(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|n| n.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted() {
        assert_eq!(parse("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(parse(""), 0);
    }
}
