//! Which addresses of a subnet are taken: a plain value, so that its one rule, no address twice,
//! is tested as such. Both families count alike: an address is a number of 128 bits.

mod dual;
pub mod pools;
pub mod ula;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use dual::{DualAddresses, DualStack, Refusal, Wanted};

/// Why an address cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Not one of the subnet's host addresses.
    Outside,
    /// Somebody has it.
    Taken,
    /// Nobody has it any more; what is left of whoever had is just being cleared away.
    Leaving,
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Addresses {
    subnet: IpNet,
    range: IpNet,
    taken: BTreeSet<IpAddr>,
    /// Of those that are taken: see [`Unavailable::Leaving`].
    leaving: BTreeSet<IpAddr>,
    last: Option<IpAddr>,
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address with that number, of the family of `net`.
fn address(net: IpNet, number: u128) -> IpAddr {
    match net {
        // Of an address of 32 bits, no more is ever set.
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// The n-th address of a subnet.
pub fn nth(subnet: IpNet, n: u32) -> IpAddr {
    address(subnet, number(subnet.network()).saturating_add(n.into()))
}

/// Whether no host can have it: the network's own address, which IPv6 gives to all its routers (RFC 4291, 2.6.1), and
/// the broadcast address of IPv4. A /31 has neither (RFC 3021), and so has a /127 (RFC 6164).
pub fn is_edge(subnet: IpNet, address: IpAddr) -> bool {
    let last = subnet.max_prefix_len() - 1;
    let broadcast = matches!(subnet, IpNet::V4(_)) && address == subnet.broadcast();
    subnet.prefix_len() < last && (address == subnet.network() || broadcast)
}

impl Addresses {
    /// Hands out from `range` (within `subnet`), never what is in `reserved` (the gateway).
    pub fn new(subnet: IpNet, range: IpNet, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            subnet,
            range,
            taken: reserved.into_iter().collect(),
            leaving: BTreeSet::new(),
            last: None,
        }
    }

    fn usable(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && !is_edge(self.subnet, address)
    }

    /// The next free address after the one handed out last, as docker does: an address just given
    /// back is used again as late as possible, when nobody's ARP entry or connection knows it any more.
    pub fn allocate(&mut self) -> Option<IpAddr> {
        let (low, high) = (number(self.range.network()), number(self.range.broadcast()));
        let start = match self.last.map(number) {
            Some(last) if last >= low && last < high => last + 1,
            _ => low,
        };
        let free = (start..=high)
            .chain(low..start)
            .map(|number| address(self.range, number))
            .find(|address| self.usable(*address) && !self.taken.contains(address))?;
        self.taken.insert(free);
        self.last = Some(free);
        Some(free)
    }

    /// Takes a certain address.
    pub fn claim(&mut self, address: IpAddr) -> Result<(), Unavailable> {
        if !self.usable(address) {
            return Err(Unavailable::Outside);
        }
        if self.leaving.contains(&address) {
            return Err(Unavailable::Leaving);
        }
        if !self.taken.insert(address) {
            return Err(Unavailable::Taken);
        }
        Ok(())
    }

    /// Whoever had it is gone, and somebody else gets it once it is [released](Self::release).
    pub fn leave(&mut self, address: IpAddr) {
        if self.taken.contains(&address) {
            self.leaving.insert(address);
        }
    }

    /// Some address is free in a moment.
    pub fn is_any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Gives an address back.
    pub fn release(&mut self, address: IpAddr) {
        self.leaving.remove(&address);
        self.taken.remove(&address);
    }

    /// Whether somebody has it.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.taken.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn docker() -> Addresses {
        let subnet = net("172.17.0.0/16");
        Addresses::new(subnet, subnet, [ip("172.17.0.1")])
    }

    #[test]
    fn next_fit_as_docker() {
        let mut pool = docker();
        assert_eq!(pool.allocate(), Some(ip("172.17.0.2")));
        assert_eq!(pool.allocate(), Some(ip("172.17.0.3")));
        pool.release(ip("172.17.0.2"));
        assert_eq!(pool.allocate(), Some(ip("172.17.0.4")));
    }

    #[test]
    fn wraps_around_and_ends() {
        let subnet = net("10.0.0.0/29");
        let mut pool = Addresses::new(subnet, subnet, [ip("10.0.0.1")]);
        let all: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(all.len(), 5);
        pool.release(all[1]);
        assert_eq!(pool.allocate(), Some(all[1]));
        assert_eq!(pool.allocate(), None);
    }

    #[test]
    fn edges_and_strangers_are_refused() {
        let mut pool = docker();
        for outside in ["172.17.0.0", "172.17.255.255", "172.18.0.2"] {
            assert_eq!(
                pool.claim(outside.parse().unwrap()),
                Err(Unavailable::Outside)
            );
        }
        assert_eq!(pool.claim(ip("172.17.0.1")), Err(Unavailable::Taken));
    }

    #[test]
    fn of_ipv6_only_the_routers_own_address_is_kept_back() {
        let subnet = net("fd00::fffc/126");
        let mut pool = Addresses::new(subnet, subnet, [ip("fd00::fffd")]);
        assert_eq!(pool.allocate(), Some(ip("fd00::fffe")));
        assert_eq!(pool.allocate(), Some(ip("fd00::ffff")));
        assert_eq!(pool.allocate(), None);
        assert_eq!(pool.claim(ip("fd00::fffc")), Err(Unavailable::Outside));
        assert_eq!(pool.claim(ip("10.0.0.1")), Err(Unavailable::Outside));
        let last = net("ffff:ffff:ffff:ffff::/64");
        let mut pool = Addresses::new(last, last, []);
        assert_eq!(pool.allocate(), Some(nth(last, 1)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate,
        Claim(u8),
        Leave(usize),
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Allocate),
            any::<u8>().prop_map(Step::Claim),
            any::<usize>().prop_map(Step::Leave),
            any::<usize>().prop_map(Step::Release),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(steps in steps()) {
            let subnet = net("10.0.0.0/27");
            let gateway = ip("10.0.0.1");
            let mut pool = Addresses::new(subnet, subnet, [gateway]);
            let mut held: Vec<IpAddr> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate => match pool.allocate() {
                        Some(address) => {
                            prop_assert!(!held.contains(&address) && address != gateway);
                            prop_assert!(address != subnet.network() && address != subnet.broadcast());
                            held.push(address);
                        }
                        None => prop_assert_eq!(held.len(), 29),
                    },
                    Step::Claim(last) => {
                        let address = IpAddr::from([10, 0, 0, last]);
                        if pool.claim(address).is_ok() {
                            prop_assert!(!held.contains(&address) && address != gateway);
                            held.push(address);
                        }
                    }
                    Step::Leave(index) if !held.is_empty() => {
                        let address = held[index % held.len()];
                        pool.leave(address);
                        prop_assert_eq!(pool.claim(address), Err(Unavailable::Leaving));
                    }
                    Step::Leave(_) => {}
                    Step::Release(index) if !held.is_empty() => {
                        let address = held.swap_remove(index % held.len());
                        pool.release(address);
                        prop_assert!(!pool.is_taken(address));
                    }
                    Step::Release(_) => {}
                }
            }
        }
    }
}
