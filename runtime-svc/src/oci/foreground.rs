//! `run` and `exec` of callers that wait: signals are handed on, a terminal is copied, and the exit code is
//! the program's.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{Pid, WaitOptions},
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios},
};

use super::{
    error::{Error, Tried as _},
    log::Log,
    notify::Listener,
};
use crate::sys::{signals, terminal};

/// Signals wait from here on for [`wait`].
pub fn block_signals() -> Result<(), Error> {
    signals::block_all().tried(|| "cannot block the signals".to_owned())
}

/// Until a child has ended; what it ended with. `terminal` is the master of its terminal, and `notify` where it
/// says that it is ready.
pub fn wait(
    child: Pid,
    terminal: Option<OwnedFd>,
    mut notify: Option<(Listener, &Log)>,
) -> Result<u8, Error> {
    let what = || "cannot wait for the container".to_owned();
    let arrived = SignalFd::with_flags(
        &SigSet::all(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .tried(what)?;
    let screen = terminal.map(Screen::begin).transpose()?;
    let mut input = screen.is_some();
    // We are what the caller watches: signals and the exit code go through us.
    let main = rustix::process::getpid().as_raw_pid();
    loop {
        if let Some(code) = reap(child)? {
            if let Some(screen) = &screen {
                // What it wrote last.
                while screen.output()? {}
            }
            // It may have said that it is ready and ended before anybody listened.
            hand_on_ready(&mut notify, main);
            return Ok(code);
        }
        let mut polled = vec![PollFd::from_borrowed_fd(arrived.as_fd(), PollFlags::IN)];
        if let Some(screen) = &screen {
            polled.push(PollFd::from_borrowed_fd(
                screen.master.as_fd(),
                PollFlags::IN,
            ));
            if input {
                polled.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
            }
        }
        polled.extend(notify.as_ref().map(|(listener, _)| listener.interest()));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).tried(what),
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        drop(polled);
        hand_on_ready(&mut notify, main);
        while let Ok(Some(signal)) = arrived.read_signal() {
            hand_on(signal.ssi_signo as i32, child, screen.as_ref());
        }
        if let Some(screen) = &screen {
            if ready.get(1) == Some(&true) {
                screen.output()?;
            }
            if input && ready.get(2) == Some(&true) {
                input = screen.input()?;
            }
        }
    }
}

/// Hands on that it is ready, once.
fn hand_on_ready(notify: &mut Option<(Listener, &Log)>, main: i32) {
    let Some((listener, log)) = notify else {
        return;
    };
    match listener.hear(main) {
        Ok(false) => {}
        Ok(true) => *notify = None,
        // The container runs all the same, and its end is told.
        Err(error) => {
            log.warn(&error.to_string());
            *notify = None;
        }
    }
}

fn hand_on(signal: i32, child: Pid, screen: Option<&Screen>) {
    match (signal, screen) {
        (libc::SIGCHLD | libc::SIGURG, _) => {}
        (libc::SIGWINCH, Some(screen)) => screen.resize(),
        // It may have ended: then that is next. Not collected yet, it is nobody else.
        (signal, _) => drop(signals::send_to(child, signal)),
    }
}

/// Collects all that has ended; the child's exit code when it is among them.
fn reap(child: Pid) -> Result<Option<u8>, Error> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return Ok(Some(
                    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255),
                ));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(e) => return Err(e).tried(|| "cannot wait for the container".to_owned()),
        }
    }
}

/// Our own terminal, if that is what we have, as the container's.
struct Screen {
    master: OwnedFd,
    /// Held so that the master does not hang up, and wake us without end, while nobody inside has it open.
    _peer: OwnedFd,
    before: Option<Termios>,
}

impl Screen {
    fn begin(master: OwnedFd) -> Result<Self, Error> {
        let what = || "cannot use the terminal".to_owned();
        rustix::io::ioctl_fionbio(&master, true).tried(what)?;
        let peer = terminal::open_peer(&master).tried(what)?;
        let before = match rustix::termios::tcgetattr(stdin()) {
            Ok(before) => {
                let mut raw = before.clone();
                raw.make_raw();
                rustix::termios::tcsetattr(stdin(), OptionalActions::Now, &raw).tried(what)?;
                Some(before)
            }
            // Somebody pipes into it.
            Err(_) => None,
        };
        let screen = Self {
            master,
            _peer: peer,
            before,
        };
        screen.resize();
        Ok(screen)
    }

    /// Without a terminal of ours the size stays what config.json says.
    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    /// Copies a piece of output; `false` = there is none now.
    fn output(&self) -> Result<bool, Error> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.master, &mut buffer) {
            // EIO: nobody has the other end open.
            Ok(0) | Err(Errno::AGAIN | Errno::IO | Errno::INTR) => Ok(false),
            Ok(length) => {
                write_all(stdout(), &buffer[..length])?;
                Ok(true)
            }
            Err(e) => Err(e).tried(|| "cannot read from the terminal".to_owned()),
        }
    }

    /// Copies a piece of input; `false` = that was the end of it.
    fn input(&self) -> Result<bool, Error> {
        const END: u8 = 4;
        let mut buffer = [0; 1024];
        match rustix::io::read(stdin(), &mut buffer) {
            Ok(0) | Err(Errno::IO) => {
                write_all(self.master.as_fd(), &[END])?;
                Ok(false)
            }
            Ok(length) => write_all(self.master.as_fd(), &buffer[..length]).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(e) => Err(e).tried(|| "cannot read from standard input".to_owned()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

fn write_all(fd: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                let _ = rustix::event::poll(&mut polled, None);
            }
            // Nobody is left to read it.
            Err(Errno::IO | Errno::PIPE) => return Ok(()),
            Err(e) => return Err(e).tried(|| "cannot write to the terminal".to_owned()),
        }
    }
    Ok(())
}

/// Whether a signal's name or number is one: `TERM`, `SIGTERM`, `15`, `RTMIN+1`.
pub fn signal(word: &str) -> Result<i32, Error> {
    let bad = || Error::Invalid(format!("unknown signal {word:?}"));
    if let Ok(number) = word.parse::<i32>() {
        return if (0..=libc::SIGRTMAX()).contains(&number) {
            Ok(number)
        } else {
            Err(bad())
        };
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| match text {
        "" => Ok(0),
        text => text[1..].parse::<i32>().map_err(|_| bad()),
    };
    if let Some(rest) = name
        .strip_prefix("RTMIN")
        .filter(|r| r.is_empty() || r.starts_with('+'))
    {
        return Ok(libc::SIGRTMIN() + offset(rest)?);
    }
    if let Some(rest) = name
        .strip_prefix("RTMAX")
        .filter(|r| r.is_empty() || r.starts_with('-'))
    {
        return Ok(libc::SIGRTMAX() - offset(rest)?);
    }
    let signal: Signal = format!("SIG{name}").parse().map_err(|_| bad())?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (word, number) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("hup", 1),
            ("10", 10),
            ("0", 0),
        ] {
            assert_eq!(signal(word).unwrap(), number, "{word}");
        }
        assert_eq!(signal("RTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(signal("SIGRTMAX-1").unwrap(), libc::SIGRTMAX() - 1);
        for word in ["", "SIG", "NONSENSE", "65", "-1", "RTMIN+x"] {
            assert!(signal(word).is_err(), "{word}");
        }
    }
}
