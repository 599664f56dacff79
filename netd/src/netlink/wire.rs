//! Bytes of netlink messages: headers and attributes, written and read (netlink(7), `linux/netlink.h`).
//!
//! One encoder serves rtnetlink and nfnetlink; both are lists of length-type-value attributes.

use nix::errno::Errno;

use super::socket::Family;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = 0x200;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`: an error or, with code 0, an acknowledgement.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub const DONE: u16 = 3;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// One netlink message being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    buf: Vec<u8>,
}

impl Message {
    /// Starts a message of a type with flags; `family_header` is what the family puts first.
    pub fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut buf = Vec::with_capacity(128);
        buf.extend_from_slice(&0u32.to_ne_bytes());
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]);
        buf.extend_from_slice(family_header);
        let mut message = Self { buf };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute with raw content.
    pub fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let len = u16::try_from(data.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(data);
        self.pad();
        self
    }

    /// An integer in the host's byte order, as rtnetlink wants it.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An integer in network byte order, as nfnetlink wants it.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A string with its terminating NUL.
    pub fn str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_after(kind, &[], fill)
    }

    /// As [`Message::nest`], with a fixed header before the inner attributes (`VETH_INFO_PEER`).
    pub fn nest_after(
        &mut self,
        kind: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(header);
        self.pad();
        fill(self);
        let len = u16::try_from(self.buf.len() - start).expect("a nest is shorter than 64 KiB");
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.buf[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    /// The finished bytes, numbered; `ack` asks the kernel to confirm this very message.
    pub fn finish(&self, sequence: u32, ack: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.buf);
        let len = u32::try_from(self.buf.len()).expect("a message is shorter than 4 GiB");
        out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        if ack {
            let flags = u16::from_ne_bytes([self.buf[6], self.buf[7]]) | ACK;
            out[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        }
        out[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

impl Message {
    /// Whether an error says that what an rtnetlink request asks for is so already: it makes what there is, or removes
    /// what there is not. Of other families the same numbers say other things.
    pub(super) fn is_done_by(&self, family: Family, errno: Errno) -> bool {
        if family != Family::Route {
            return false;
        }
        let word = |at: usize| u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]);
        let (kind, flags) = (word(4), word(6));
        // Of four types in a row the second removes (`linux/rtnetlink.h`).
        let removes = kind % 4 == 1;
        match errno {
            Errno::EEXIST => flags & EXCL != 0,
            Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL => removes,
            _ => false,
        }
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`: the port of the socket that caused it.
    pub port: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl Received<'_> {
    /// The errno of an `NLMSG_ERROR` (0 = acknowledged).
    pub fn error_code(&self) -> Option<i32> {
        let code: [u8; 4] = self.payload.get(..4)?.try_into().ok()?;
        (self.kind == ERROR).then(|| i32::from_ne_bytes(code).wrapping_neg())
    }
}

/// Splits what one `recv` returned.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        if bytes.len() < HEADER {
            return None;
        }
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let len = word(0) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        // An error repeats the request, which may not have fitted behind it; what it says stands before that.
        let len = match kind {
            ERROR => len.min(bytes.len()),
            _ => len,
        };
        if len < HEADER || len > bytes.len() {
            return None;
        }
        let message = Received {
            kind,
            sequence: word(8),
            port: word(12),
            payload: &bytes[HEADER..len],
        };
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some(message)
    })
}

/// Attributes of a payload, after its family header has been cut off.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let len = u16::from_ne_bytes([bytes[0], bytes[1]]) as usize;
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & TYPE_MASK;
        if len < 4 || len > bytes.len() {
            return None;
        }
        let data = &bytes[4..len];
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some((kind, data))
    })
}

/// A NUL-terminated string attribute.
pub fn text(data: &[u8]) -> String {
    let end = data
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(data.len());
    String::from_utf8_lossy(&data[..end]).into_owned()
}

/// A 32-bit attribute in the host's order.
pub fn number(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}

/// A message as it is sent first, to be compared with what others send.
#[cfg(test)]
pub fn hex_of(message: &Message) -> String {
    let mut bytes = Vec::new();
    message.finish(1, true, &mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_carry_their_length_and_are_padded() {
        let mut message = Message::new(16, CREATE, &[0; 16]);
        message.str(3, "br0").nest(18, |inner| {
            inner.str(1, "bridge");
        });
        let mut bytes = Vec::new();
        message.finish(7, true, &mut bytes);
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!((read[0].kind, read[0].sequence), (16, 7));
        let attrs: Vec<_> = attributes(&read[0].payload[16..]).collect();
        assert_eq!((attrs[0].0, text(attrs[0].1)), (3, "br0".to_owned()));
        assert_eq!(attrs[1].0, 18);
        let inner: Vec<_> = attributes(attrs[1].1).collect();
        assert_eq!((inner[0].0, text(inner[0].1)), (1, "bridge".to_owned()));
    }

    #[test]
    fn only_of_rtnetlink_an_error_says_that_it_is_done() {
        // RTM_DELROUTE, and what may be the number of a family that is asked for by name.
        let removal = Message::new(25, 0, &[0; 12]);
        let making = Message::new(24, CREATE | EXCL, &[0; 12]);
        for (family, is_done) in [(Family::Route, true), (Family::Generic, false)] {
            assert_eq!(removal.is_done_by(family, Errno::ESRCH), is_done);
            assert_eq!(making.is_done_by(family, Errno::EEXIST), is_done);
        }
        assert!(!making.is_done_by(Family::Route, Errno::ESRCH));
        assert!(!removal.is_done_by(Family::Route, Errno::EPERM));
    }

    #[test]
    fn an_error_is_read_whose_request_was_cut_off() {
        // Of 48 KiB, as a batch of elements is; ENOENT.
        let mut bytes = [49_152_u32.to_ne_bytes(), [2, 0, 0, 0]].concat();
        bytes.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend((-2_i32).to_ne_bytes());
        bytes.extend([0; 64]);
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!((read.len(), read[0].sequence), (1, 9));
        assert_eq!(read[0].error_code(), Some(2));
    }

    #[test]
    fn damaged_input_ends_the_iteration() {
        assert_eq!(messages(&[1, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(messages(&[0xff; 20]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
    }
}
