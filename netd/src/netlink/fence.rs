//! rtnetlink(7) requests as values: a route that keeps what is sent to a subnet from leaving where no other route leads
//! into it. It stands without a link, without our table and without netd.

use ipnet::IpNet;

use super::link::{RTA_DST, RTM_NEWROUTE, octets, route_header};
use super::wire::{CREATE, EXCL, Message};

const RTM_DELROUTE: u16 = 25;

fn unreachable(kind: u16, flags: u16, subnet: IpNet) -> Message {
    const RTN_UNREACHABLE: u8 = 7;
    let mut header = route_header(subnet);
    header[7] = RTN_UNREACHABLE;
    let mut message = Message::new(kind, flags, &header);
    message.attr(RTA_DST, &octets(subnet.network()));
    message
}

/// Raises it.
pub fn raise(subnet: IpNet) -> Message {
    unreachable(RTM_NEWROUTE, CREATE | EXCL, subnet)
}

/// Takes it away.
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
        // ip route add unreachable 10.20.0.0/16
        assert_eq!(
            hex_of(&raise(subnet)),
            "24000000180005060100000000000000\
             02100000fe03000700000000\
             080001000a140000"
        );
        // ip route del unreachable 10.20.0.0/16
        assert_eq!(
            hex_of(&lower(subnet)),
            "24000000190005000100000000000000\
             02100000fe03000700000000\
             080001000a140000"
        );
    }
}
