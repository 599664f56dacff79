//! From attached clients to the container's standard input.

use std::{collections::VecDeque, os::fd::OwnedFd};

use rustix::io::Errno;

/// How much waits here at most before clients are no longer read, bytes.
const LIMIT: usize = 64 * 1024;

/// The container's standard input.
pub struct Stdin {
    fd: Option<OwnedFd>,
    queue: VecDeque<u8>,
    ended: bool,
    /// A terminal is never closed: its end of file is a character.
    terminal: bool,
}

impl Stdin {
    /// `fd` is non-blocking; absent = the container reads /dev/null.
    pub const fn new(fd: Option<OwnedFd>, terminal: bool) -> Self {
        Self {
            fd,
            queue: VecDeque::new(),
            ended: false,
            terminal,
        }
    }

    /// The descriptor to wait for, when something waits to be written.
    pub fn wants_to_write(&self) -> Option<&OwnedFd> {
        self.fd.as_ref().filter(|_| !self.queue.is_empty())
    }

    /// Whether clients may be read.
    pub fn has_room(&self) -> bool {
        self.queue.len() < LIMIT
    }

    /// Takes bytes; they are lost when nobody reads them any more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.fd.is_some() && !self.ended {
            self.queue.extend(bytes);
            self.flush();
        }
    }

    /// No more will come.
    pub fn end(&mut self) {
        if !self.terminal {
            self.ended = true;
            self.flush();
        }
    }

    /// Writes what goes without waiting.
    pub fn flush(&mut self) {
        while let Some(fd) = self.fd.as_ref().filter(|_| !self.queue.is_empty()) {
            let (front, _) = self.queue.as_slices();
            match rustix::io::write(fd, front) {
                Ok(n) => drop(self.queue.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nobody reads it any more.
                Err(_) => {
                    self.fd = None;
                    self.queue.clear();
                }
            }
        }
        if self.ended && self.queue.is_empty() {
            self.fd = None;
        }
    }
}
