//! A netlink socket: several requests in one send, the kernel's answer to each.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};

use super::wire::{DONE, ERROR, Message, Received, messages};

/// Which netlink family a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// rtnetlink(7): links, addresses, routes.
    Route,
    /// nfnetlink: nftables and connection tracking.
    Netfilter,
    /// genetlink: families that are asked for by name.
    Generic,
}

/// A netlink socket of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    family: Family,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A single batch (10,000 published ports) may be larger than the default send buffer; these are
/// limits, no memory is taken before it is needed.
const SEND_LIMIT: usize = 8 << 20;
const RECEIVE_LIMIT: usize = 1 << 20;
const READ_SIZE: usize = 32 << 10;

/// Marks "no answer yet".
const UNANSWERED: Errno = Errno::EINPROGRESS;

/// The kernel had something to say, and no memory for it (netlink(7)).
fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(family: Family) -> io::Result<Self> {
        Self::open_with_groups(family, 0)
    }

    /// As [`Socket::open`], and joins multicast groups (a bit mask).
    pub fn open_with_groups(family: Family, groups: u32) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
            Family::Generic => SockProtocol::NetlinkGeneric,
        };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            fd,
            family,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// The port id that the kernel gave this socket: it marks notifications that we caused.
    pub fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.fd.as_raw_fd())?.pid())
    }

    /// Sends all requests at once and returns the kernel's answer to each, in order.
    ///
    /// The kernel handles a request within `send`, so every answer is queued when it returns. What it has no memory for
    /// it does not say (ENOBUFS): such a request is sent again, and that its work is done already is then its answer.
    pub fn request(&mut self, requests: &[Message]) -> io::Result<Vec<Result<(), Errno>>> {
        let mut answers = self.ask(requests)?;
        loop {
            let lost: Vec<usize> = (0..answers.len())
                .filter(|index| answers[*index] == Err(UNANSWERED))
                .collect();
            if lost.is_empty() {
                return Ok(answers);
            }
            let again: Vec<Message> = lost.iter().map(|index| requests[*index].clone()).collect();
            let told = self.ask(&again)?;
            if told.iter().all(|answer| *answer == Err(UNANSWERED)) {
                return Err(Errno::ENOBUFS.into());
            }
            for (index, answer) in lost.into_iter().zip(told) {
                answers[index] = match answer {
                    Err(errno) if requests[index].is_done_by(self.family, errno) => Ok(()),
                    answer => answer,
                };
            }
        }
    }

    /// The answers that could be read.
    fn ask(&mut self, requests: &[Message]) -> io::Result<Vec<Result<(), Errno>>> {
        let first = self.sequence.wrapping_add(1);
        self.send(requests, |_| true)?;
        let mut answers = vec![Err(UNANSWERED); requests.len()];
        let mut missing = requests.len();
        while missing > 0 {
            let read = self.receive(true, |message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                if let (Some(code), Some(answer)) = (message.error_code(), answers.get_mut(index)) {
                    *answer = if code == 0 {
                        Ok(())
                    } else {
                        Err(Errno::from_raw(code))
                    };
                    missing -= 1;
                }
            });
            match read {
                Err(error) if is_lost(&error) => {}
                // What was not lost has been read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                read => read?,
            }
        }
        Ok(answers)
    }

    /// Sends a transaction of which only message `confirm` asks for confirmation and gives back
    /// the errors that the kernel reports, by index of the message. ENOBUFS: nobody knows what became of it.
    ///
    /// One acknowledgement for each of thousands of set elements would overflow the receive buffer.
    pub fn transaction(
        &mut self,
        requests: &[Message],
        confirm: usize,
    ) -> io::Result<Vec<(usize, Errno)>> {
        let first = self.sequence.wrapping_add(1);
        self.send(requests, |index| index == confirm)?;
        let mut errors = Vec::new();
        let (mut confirmed, mut lost) = (false, false);
        loop {
            let read = self.receive(true, |message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                match message.error_code() {
                    Some(0) if index == confirm => confirmed = true,
                    Some(code) if code != 0 && index < requests.len() => {
                        errors.push((index, Errno::from_raw(code)));
                    }
                    _ => {}
                }
            });
            match read {
                Ok(()) => {}
                // One error is enough to know that nothing was applied.
                Err(error) if is_lost(&error) => lost = true,
                // All that the kernel had to say has been read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match confirmed || !errors.is_empty() {
            true => Ok(errors),
            false if lost => Err(Errno::ENOBUFS.into()),
            false => Err(io::Error::other(
                "the kernel did not confirm the transaction",
            )),
        }
    }

    /// Sends a dump (or get) request and hands every answer to `each`.
    pub fn query(
        &mut self,
        request: &Message,
        dump: bool,
        mut each: impl FnMut(Received<'_>),
    ) -> io::Result<()> {
        self.send(std::slice::from_ref(request), |_| false)?;
        let sequence = self.sequence;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(false, |message| {
                if message.sequence != sequence {
                    return;
                }
                match message.kind {
                    DONE => outcome = Some(Ok(())),
                    ERROR => {
                        outcome = Some(match message.error_code() {
                            None | Some(0) => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(code)),
                        });
                    }
                    _ => {
                        each(message);
                        if !dump {
                            outcome = Some(Ok(()));
                        }
                    }
                }
            })?;
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Reads one datagram of notifications; `WouldBlock` when there is none.
    pub fn notifications(&mut self, each: impl FnMut(Received<'_>)) -> io::Result<()> {
        self.receive(true, each)
    }

    fn send(&mut self, requests: &[Message], ack: impl Fn(usize) -> bool) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(requests.len() * 128);
        for (index, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            request.finish(self.sequence, ack(index), &mut bytes);
        }
        if bytes.len() > 100_000 {
            setsockopt(&self.fd, sockopt::SndBufForce, &SEND_LIMIT)?;
        }
        if requests.len() > 50 {
            setsockopt(&self.fd, sockopt::RcvBufForce, &RECEIVE_LIMIT)?;
        }
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self, only_queued: bool, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer.resize(READ_SIZE, 0);
        }
        let flags = if only_queued {
            MsgFlags::MSG_DONTWAIT
        } else {
            MsgFlags::empty()
        };
        let read = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        messages(&self.buffer[..read]).for_each(&mut each);
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}
