//! Who gave wrong passwords of late: so many a minute from one network, and no more are looked at.
//!
//! From this host itself they are counted for each user by himself: behind a proxy that is not among `trusted_proxies`
//! the whole world comes from there, and one stranger would shut everybody out.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::network_of;

/// Wrong passwords that a network may give at once.
const BURST: u32 = 10;

/// One more after so long.
const EACH: Duration = Duration::from_secs(6);

/// Networks remembered at once.
const NETWORKS: usize = 10_000;

/// Whom failures are counted against: a network and, of this host's own, the user (by a hash that nobody can aim at).
type Who = (IpAddr, Option<u64>);

/// See the module's page. Of each the instant at which all its failures are forgotten.
#[derive(Default)]
pub struct Failures {
    table: Mutex<HashMap<Who, Instant>>,
    names: RandomState,
}

impl Failures {
    /// How long somebody must wait who says that he is this user, if he must.
    pub fn check(&self, from: IpAddr, name: &str, now: Instant) -> Result<(), Duration> {
        let forgotten = self.table().get(&self.who(from, name)).copied();
        let owed = forgotten.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        match owed.checked_sub(EACH * (BURST - 1)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// Counts one.
    pub fn count(&self, from: IpAddr, name: &str, now: Instant) {
        let mut table = self.table();
        if table.len() >= NETWORKS {
            table.retain(|_, at| *at > now);
        }
        if table.len() >= NETWORKS {
            // So many at once: to forget some is better than to grow.
            table.clear();
        }
        let at = table.entry(self.who(from, name)).or_insert(now);
        *at = (*at).max(now) + EACH;
    }

    fn who(&self, from: IpAddr, name: &str) -> Who {
        let local = from.to_canonical().is_loopback();
        (network_of(from), local.then(|| self.names.hash_one(name)))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Who, Instant>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgotten_one_by_one() {
        let (failures, start) = (Failures::default(), Instant::now());
        let from: IpAddr = "2001:db8::1".parse().unwrap();
        let check = |from: &str, now| failures.check(from.parse().unwrap(), "alice", now);
        for _ in 0..BURST {
            assert_eq!(check("2001:db8::1", start), Ok(()));
            failures.count(from, "alice", start);
        }
        assert_eq!(check("2001:db8::1", start), Err(EACH));
        // Whoever he says he is.
        assert!(failures.check(from, "bob", start).is_err());
        // The whole network counts: whoever has one address of it has them all.
        assert!(check("2001:db8::ffff", start).is_err());
        assert!(check("2001:db8:1::1", start).is_ok());
        assert_eq!(check("2001:db8::1", start + EACH), Ok(()));
        failures.count(from, "alice", start + EACH);
        assert!(check("2001:db8::1", start + EACH).is_err());
        assert_eq!(check("2001:db8::1", start + EACH * 20), Ok(()));
    }

    #[test]
    fn behind_a_proxy_on_this_host_nobody_is_shut_out_by_a_stranger() {
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let (failures, now) = (Failures::default(), Instant::now());
            let from: IpAddr = local.parse().unwrap();
            for guess in 0..2 * BURST {
                failures.count(from, "alice", now);
                failures.count(from, &format!("nobody{guess}"), now);
            }
            assert_eq!(failures.check(from, "bob", now), Ok(()), "{local}");
            assert!(failures.check(from, "alice", now).is_err(), "{local}");
        }
    }
}
