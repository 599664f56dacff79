//! genetlink: families that have no number of their own are asked for by name (`linux/genetlink.h`).

use std::io;

use nix::errno::Errno;

use super::socket::Socket;
use super::wire::{Message, attributes};

/// `struct genlmsghdr`.
pub(super) const HEADER: usize = 4;

pub(super) fn header(command: u8, version: u8) -> [u8; HEADER] {
    [command, version, 0, 0]
}

fn get_family(name: &str) -> Message {
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    let mut message = Message::new(GENL_ID_CTRL, 0, &header(CTRL_CMD_GETFAMILY, 1));
    message.str(CTRL_ATTR_FAMILY_NAME, name);
    message
}

fn number_of(payload: &[u8]) -> Option<u16> {
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    let mut all = attributes(payload.get(HEADER..)?);
    let (_, number) = all.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
    Some(u16::from_ne_bytes(number.try_into().ok()?))
}

/// The number of a family; `None` where this kernel does not have it. One that is a module is loaded for it.
pub(super) fn family(socket: &mut Socket, name: &str) -> io::Result<Option<u16>> {
    let mut found = None;
    let asked = socket.query(&get_family(name), false, |message| {
        found = number_of(message.payload);
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
        asked => asked.map(|()| found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::super::wire::hex_of;
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn families_are_asked_for_by_name() {
        assert_eq!(
            hex_of(&get_family("wireguard")),
            "2400000010000500010000000000000003010000\
             0e000200776972656775617264000000"
        );
        let answer = hex::decode("01020000060001001d0000000e00020077697265677561726400").unwrap();
        assert_eq!(number_of(&answer), Some(0x1d));
    }

    /// The one family that every kernel has is the one that is asked.
    #[test]
    fn the_kernel_knows_itself_and_nobody_of_no_name() {
        let mut socket = Socket::open(Family::Generic).unwrap();
        assert_eq!(family(&mut socket, "nlctrl").unwrap(), Some(16));
        assert_eq!(family(&mut socket, "slipway").unwrap(), None);
    }
}
