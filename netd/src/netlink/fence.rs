//! rtnetlink(7) requests as values: a route that keeps what is sent to a subnet from leaving where no other route leads
//! into it. It stands without a link, without our table and without netd.

use ipnet::IpNet;

use super::link::{RTA_DST, RTM_NEWROUTE, octets, route_header};
use super::wire::{CREATE, EXCL, Message};

const RTM_DELROUTE: u16 = 25;
const RTN_UNREACHABLE: u8 = 7;
/// Who made a route (`rtm_protocol`): of the numbers for programs one that iproute2's `rt_protos` gives to none. By it
/// ours are told from an administrator's.
const PROTOCOL: u8 = 83;
/// Their places in `struct rtmsg`.
const RTM_PROTOCOL: usize = 5;
const RTM_TYPE: usize = 7;

fn unreachable(kind: u16, flags: u16, subnet: IpNet) -> Message {
    let mut header = route_header(subnet);
    header[RTM_PROTOCOL] = PROTOCOL;
    header[RTM_TYPE] = RTN_UNREACHABLE;
    let mut message = Message::new(kind, flags, &header);
    message.attr(RTA_DST, &octets(subnet.network()));
    message
}

/// Raises it.
pub fn raise(subnet: IpNet) -> Message {
    unreachable(RTM_NEWROUTE, CREATE | EXCL, subnet)
}

/// Whether a route that the kernel lists is such a one.
pub(super) fn is_fence(payload: &[u8]) -> bool {
    payload.get(RTM_PROTOCOL) == Some(&PROTOCOL) && payload.get(RTM_TYPE) == Some(&RTN_UNREACHABLE)
}

/// Takes it away; an administrator's stays.
pub fn lower(subnet: IpNet) -> Message {
    unreachable(RTM_DELROUTE, 0, subnet)
}

#[cfg(test)]
mod tests {
    use super::super::wire::hex_of;
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn as_iproute2_sends_them() {
        let subnet = "10.20.0.0/16".parse().unwrap();
        // ip route add unreachable 10.20.0.0/16 proto 83
        assert_eq!(
            hex_of(&raise(subnet)),
            "24000000180005060100000000000000\
             02100000fe53000700000000\
             080001000a140000"
        );
        // ip route del unreachable 10.20.0.0/16 proto 83
        assert_eq!(
            hex_of(&lower(subnet)),
            "24000000190005000100000000000000\
             02100000fe53000700000000\
             080001000a140000"
        );
    }
}
