//! The nfnetlink client: a batch goes out in one `sendmsg` and is applied whole or not at all.

use std::io;

use nix::errno::Errno;

use crate::netlink::wire::{Message, Received, attributes, text};
use crate::netlink::{Family, Socket};

use super::object::Batch;

/// `NFNLGRP_NFTABLES` as a bit mask: what changes in any table.
pub const TABLE_EVENTS: u32 = 1 << (7 - 1);

/// A batch that the kernel did not take; nothing of it was applied.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The kernel found fault with one message.
    #[error("nftables refused message {index} of {count}: {errno}")]
    Message {
        /// Which one.
        index: usize,
        /// Of how many.
        count: usize,
        /// Why.
        errno: Errno,
    },
    /// It did not get that far.
    #[error("cannot talk to nftables: {0}")]
    Socket(#[from] io::Error),
}

impl Refused {
    /// Whether this kernel does not know how to keep a table for its owner (before Linux 6.9), or to remove one that
    /// may not be there (before 6.3).
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Message {
                errno: Errno::EOPNOTSUPP | Errno::EINVAL,
                ..
            }
        )
    }

    /// Whether somebody else keeps the table for himself.
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Message {
                errno: Errno::EPERM,
                ..
            }
        )
    }

    /// Whether nobody knows if the batch was applied: the kernel's answer is lost.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Socket(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32))
    }

    /// Whether the whole table has to be written for it to be known what it says.
    pub fn needs_all(&self) -> bool {
        self.is_missing() || self.is_unanswered()
    }

    /// Whether the table (or an entry) that the batch speaks of is not there.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Message {
                errno: Errno::ENOENT,
                ..
            }
        )
    }
}

/// An nfnetlink socket.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

impl Client {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self::over(Socket::open(Family::Netfilter)?))
    }

    /// Takes one of that family that is open.
    pub fn over(socket: Socket) -> Self {
        Self { socket }
    }

    /// The port id that marks notifications of our own changes.
    pub fn port(&self) -> io::Result<u32> {
        self.socket.port()
    }

    /// Sends a request for a dump and hands every answer to `each`.
    pub(super) fn query(
        &mut self,
        request: &Message,
        each: impl FnMut(Received<'_>),
    ) -> io::Result<()> {
        self.socket.query(request, true, each)
    }

    /// As [`Client::apply`] of what can be applied twice: where the answer is lost, that is done.
    pub fn replace(&mut self, batch: &Batch) -> Result<(), Refused> {
        match self.apply(batch.clone()) {
            Err(refused) if refused.is_unanswered() => self.apply(batch.clone()),
            other => other,
        }
    }

    /// Applies a batch, all or nothing.
    pub fn apply(&mut self, batch: Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        let messages = batch.end();
        // Not the end mark: the kernel confirms that only since 6.10.
        let confirm = messages.len() - 2;
        let errors = self.socket.transaction(&messages, confirm)?;
        match errors.first() {
            None => Ok(()),
            Some((index, errno)) => Err(Refused::Message {
                index: *index,
                count: messages.len(),
                errno: *errno,
            }),
        }
    }
}

/// Whether a notification speaks of the table.
pub fn is_event_of(table: &str, event: &Received<'_>) -> bool {
    const SUBSYSTEM: u16 = 10;
    const NFTA_TABLE_NAME: u16 = 1;
    event.kind >> 8 == SUBSYSTEM
        && event.payload.get(4..).is_some_and(|rest| {
            attributes(rest).any(|(kind, data)| kind == NFTA_TABLE_NAME && text(data) == table)
        })
}
