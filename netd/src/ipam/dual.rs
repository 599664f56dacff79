//! The addresses of a network that may have two families: an endpoint gets one of each, or none.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Addresses, Unavailable};

/// An endpoint's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DualStack {
    /// Of IPv4.
    #[serde(rename = "address")]
    pub v4: IpAddr,
    /// Of IPv6, on a network that has it.
    #[serde(rename = "address6", default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<IpAddr>,
}

impl DualStack {
    /// All of them.
    pub fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.v4).chain(self.v6)
    }

    /// Whether it is one of them.
    pub fn has(self, address: IpAddr) -> bool {
        self.all().any(|own| own == address)
    }
}

impl fmt::Display for DualStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v6 {
            None => self.v4.fmt(f),
            Some(v6) => write!(f, "{} and {v6}", self.v4),
        }
    }
}

/// Addresses asked for; those that are not are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of IPv4.
    pub v4: Option<IpAddr>,
    /// Of IPv6.
    pub v6: Option<IpAddr>,
}

impl Wanted {
    /// Whether any will do.
    pub fn is_any(self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Whether somebody who has these stands in the way.
    pub fn meets(self, held: DualStack) -> bool {
        self.v4
            .into_iter()
            .chain(self.v6)
            .any(|wanted| held.has(wanted))
    }
}

/// Why there are no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// None of a family is free; some are in a moment.
    Exhausted {
        /// See [`Unavailable::Leaving`].
        leaving: bool,
    },
    /// A certain one cannot be had.
    Unavailable(IpAddr, Unavailable),
}

/// Both families of one network.
#[derive(Debug, Clone)]
pub struct DualAddresses {
    v4: Addresses,
    v6: Option<Addresses>,
}

impl DualAddresses {
    /// Of IPv4, and of IPv6 if the network has it.
    pub fn new(v4: Addresses, v6: Option<Addresses>) -> Self {
        Self { v4, v6 }
    }

    /// Takes an address of each family, or none at all.
    pub fn take(&mut self, wanted: Wanted) -> Result<DualStack, Refusal> {
        let v4 = one(&mut self.v4, wanted.v4)?;
        let v6 = match (&mut self.v6, wanted.v6) {
            (Some(pool), wanted) => one(pool, wanted).map(Some),
            (None, None) => Ok(None),
            (None, Some(v6)) => Err(Refusal::Unavailable(v6, Unavailable::Outside)),
        };
        match v6 {
            Ok(v6) => Ok(DualStack { v4, v6 }),
            Err(refusal) => {
                self.v4.release(v4);
                Err(refusal)
            }
        }
    }

    /// Takes certain addresses, or none.
    pub fn claim(&mut self, addresses: DualStack) -> Result<(), Refusal> {
        one(&mut self.v4, Some(addresses.v4))?;
        let v6 = match (&mut self.v6, addresses.v6) {
            (_, None) => Ok(addresses.v4),
            (Some(pool), v6) => one(pool, v6),
            (None, Some(v6)) => Err(Refusal::Unavailable(v6, Unavailable::Outside)),
        };
        v6.map(drop).inspect_err(|_| self.v4.release(addresses.v4))
    }

    /// See [`Addresses::leave`].
    pub fn leave(&mut self, addresses: DualStack) {
        self.v4.leave(addresses.v4);
        if let (Some(pool), Some(v6)) = (&mut self.v6, addresses.v6) {
            pool.leave(v6);
        }
    }

    /// Gives addresses back.
    pub fn release(&mut self, addresses: DualStack) {
        self.v4.release(addresses.v4);
        if let (Some(pool), Some(v6)) = (&mut self.v6, addresses.v6) {
            pool.release(v6);
        }
    }
}

fn one(pool: &mut Addresses, wanted: Option<IpAddr>) -> Result<IpAddr, Refusal> {
    match wanted {
        Some(address) => match pool.claim(address) {
            Ok(()) => Ok(address),
            Err(why) => Err(Refusal::Unavailable(address, why)),
        },
        None => pool.allocate().ok_or(Refusal::Exhausted {
            leaving: pool.is_any_leaving(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn both() -> DualAddresses {
        let [v4, v6] = ["10.0.0.0/30", "fd00::/64"].map(|net| {
            let net = net.parse().unwrap();
            Addresses::new(net, net, [super::super::nth(net, 1)])
        });
        DualAddresses::new(v4, Some(v6))
    }

    #[test]
    fn one_of_each_or_none() {
        let mut pool = both();
        let taken = Wanted {
            v4: None,
            v6: Some(ip("fd00::1")),
        };
        let refused = Err(Refusal::Unavailable(ip("fd00::1"), Unavailable::Taken));
        assert_eq!(pool.take(taken), refused);
        let first = pool.take(Wanted::default()).unwrap();
        assert_eq!(first.to_string(), "10.0.0.2 and fd00::2");
        let none = Refusal::Exhausted { leaving: false };
        assert_eq!(pool.take(Wanted::default()), Err(none));
        pool.leave(first);
        let soon = Refusal::Exhausted { leaving: true };
        assert_eq!(pool.take(Wanted::default()), Err(soon));
        pool.release(first);
        assert_eq!(pool.claim(first), Ok(()));
    }

    #[test]
    fn ipv6_is_refused_where_there_is_none() {
        let net = "10.0.0.0/29".parse().unwrap();
        let mut pool = DualAddresses::new(Addresses::new(net, net, []), None);
        let wanted = Wanted {
            v4: None,
            v6: Some(ip("fd00::2")),
        };
        let refused = Refusal::Unavailable(ip("fd00::2"), Unavailable::Outside);
        assert_eq!(pool.take(wanted), Err(refused));
        let v4 = ip("10.0.0.1");
        assert_eq!(pool.claim(DualStack { v4, v6: None }), Ok(()));
    }

    #[test]
    fn a_record_of_before_has_ipv4_only() {
        let old: DualStack = serde_json::from_str(r#"{"address":"10.0.0.2"}"#).unwrap();
        assert_eq!((old.v4, old.v6), (ip("10.0.0.2"), None));
        assert_eq!(
            serde_json::to_string(&old).unwrap(),
            r#"{"address":"10.0.0.2"}"#
        );
    }
}
