//! Which subnet a network gets when none was asked for: docker's default pools, minus what this
//! host already routes.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

/// docker's default local pools, in its order: 172.17-172.31 as /16, then 192.168 as /20.
pub fn defaults() -> impl Iterator<Item = IpNet> {
    let big = (17..=31).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16));
    let small =
        (0..16).map(|block| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, block << 4, 0), 20));
    big.chain(small).map(IpNet::V4)
}

/// Whether two subnets share an address; never across families.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first default pool that overlaps nothing in use.
pub fn first_free(in_use: &[IpNet]) -> Option<IpNet> {
    defaults().find(|pool| !in_use.iter().any(|used| overlap(*pool, *used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_routes_are_avoided() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(first_free(&[]), Some(net("172.17.0.0/16")));
        assert_eq!(
            first_free(&[net("172.17.5.0/24")]),
            Some(net("172.18.0.0/16"))
        );
        assert_eq!(
            first_free(&[net("172.16.0.0/12")]),
            Some(net("192.168.0.0/20"))
        );
        assert_eq!(
            first_free(&[net("172.16.0.0/12"), net("192.168.0.0/16")]),
            None
        );
    }
}
