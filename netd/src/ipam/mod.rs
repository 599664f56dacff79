//! Which addresses of a subnet are taken: a plain value, so that its one rule, no address twice,
//! is tested as such.

pub mod pools;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

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

/// The addresses of one network.
#[derive(Debug, Clone)]
pub struct Addresses {
    subnet: Ipv4Net,
    range: Ipv4Net,
    taken: BTreeSet<Ipv4Addr>,
    /// Of those that are taken: see [`Unavailable::Leaving`].
    leaving: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Addresses {
    /// Hands out from `range` (within `subnet`), never what is in `reserved` (the gateway).
    pub fn new(
        subnet: Ipv4Net,
        range: Ipv4Net,
        reserved: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        Self {
            subnet,
            range,
            taken: reserved.into_iter().collect(),
            leaving: BTreeSet::new(),
            last: None,
        }
    }

    fn usable(&self, address: Ipv4Addr) -> bool {
        // A /31 has two hosts and neither network nor broadcast address (RFC 3021).
        let edges = self.subnet.prefix_len() < 31
            && (address == self.subnet.network() || address == self.subnet.broadcast());
        self.subnet.contains(&address) && !edges
    }

    /// The next free address after the one handed out last, as docker does: an address just given
    /// back is used again as late as possible, when nobody's ARP entry or connection knows it any more.
    pub fn allocate(&mut self) -> Option<Ipv4Addr> {
        let (low, high) = (
            u32::from(self.range.network()),
            u32::from(self.range.broadcast()),
        );
        let start = match self.last.map(u32::from) {
            Some(last) if last >= low && last < high => last + 1,
            _ => low,
        };
        let free = (start..=high)
            .chain(low..start)
            .map(Ipv4Addr::from)
            .find(|address| self.usable(*address) && !self.taken.contains(address))?;
        self.taken.insert(free);
        self.last = Some(free);
        Some(free)
    }

    /// Takes a certain address.
    pub fn claim(&mut self, address: Ipv4Addr) -> Result<(), Unavailable> {
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
    pub fn leave(&mut self, address: Ipv4Addr) {
        if self.taken.contains(&address) {
            self.leaving.insert(address);
        }
    }

    /// Some address is free in a moment.
    pub fn is_any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.leaving.remove(&address);
        self.taken.remove(&address);
    }

    /// Whether somebody has it.
    pub fn is_taken(&self, address: Ipv4Addr) -> bool {
        self.taken.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn docker() -> Addresses {
        let subnet = "172.17.0.0/16".parse().unwrap();
        Addresses::new(subnet, subnet, [Ipv4Addr::new(172, 17, 0, 1)])
    }

    #[test]
    fn next_fit_as_docker() {
        let mut pool = docker();
        assert_eq!(pool.allocate(), Some(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(pool.allocate(), Some(Ipv4Addr::new(172, 17, 0, 3)));
        pool.release(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(pool.allocate(), Some(Ipv4Addr::new(172, 17, 0, 4)));
    }

    #[test]
    fn wraps_around_and_ends() {
        let subnet = "10.0.0.0/29".parse().unwrap();
        let mut pool = Addresses::new(subnet, subnet, [Ipv4Addr::new(10, 0, 0, 1)]);
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
        assert_eq!(
            pool.claim(Ipv4Addr::new(172, 17, 0, 1)),
            Err(Unavailable::Taken)
        );
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
            let subnet: Ipv4Net = "10.0.0.0/27".parse().unwrap();
            let gateway = Ipv4Addr::new(10, 0, 0, 1);
            let mut pool = Addresses::new(subnet, subnet, [gateway]);
            let mut held: Vec<Ipv4Addr> = Vec::new();
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
                        let address = Ipv4Addr::new(10, 0, 0, last);
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
