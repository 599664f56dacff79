//! Unique local addresses: what a network has of IPv6 when no subnet was asked for (RFC 4193).

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use super::pools::overlap;

/// A prefix of this host's own: `fd`, and 40 random bits that nobody else is likely to have (RFC 4193, 3.2).
pub fn random_prefix() -> Ipv6Net {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets[..6]).expect("the kernel's random numbers do not fail after boot");
    octets[0] = 0xfd;
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
}

/// The first of a prefix' subnets of 64 bits that overlaps nothing in use.
pub fn first_free(prefix: Ipv6Net, in_use: &[IpNet]) -> Option<IpNet> {
    let mut subnets = prefix.subnets(64).ok()?.map(IpNet::V6);
    subnets.find(|subnet| !in_use.iter().any(|used| overlap(*subnet, *used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_unique_and_local() {
        let prefix = random_prefix();
        assert!(prefix.addr().is_unique_local() && prefix.addr().octets()[0] == 0xfd);
        assert_eq!(prefix, prefix.trunc());
        assert_ne!(prefix, random_prefix());
    }

    #[test]
    fn every_network_has_a_subnet_of_its_own() {
        let prefix = "fd12:3456:789a::/48".parse().unwrap();
        let mut in_use = vec!["172.17.0.0/16".parse().unwrap()];
        for expected in ["fd12:3456:789a::/64", "fd12:3456:789a:1::/64"] {
            let subnet = first_free(prefix, &in_use).unwrap();
            assert_eq!(subnet.to_string(), expected);
            in_use.push(subnet);
        }
        assert_eq!(first_free(prefix, &["fd00::/8".parse().unwrap()]), None);
    }
}
