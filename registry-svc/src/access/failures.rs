//! Who gave wrong passwords of late: so many a minute from one network, and no more are looked at.

use std::{
    collections::HashMap,
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

/// See the module's page. Of each network the instant at which all its failures are forgotten.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Instant>>);

impl Failures {
    /// How long somebody must wait, if he must.
    pub fn check(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let forgotten = self.table().get(&network_of(from)).copied();
        let owed = forgotten.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        match owed.checked_sub(EACH * (BURST - 1)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// Counts one.
    pub fn count(&self, from: IpAddr, now: Instant) {
        let mut table = self.table();
        if table.len() >= NETWORKS {
            table.retain(|_, at| *at > now);
        }
        if table.len() >= NETWORKS {
            // So many at once: to forget some is better than to grow.
            table.clear();
        }
        let at = table.entry(network_of(from)).or_insert(now);
        *at = (*at).max(now) + EACH;
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgotten_one_by_one() {
        let (failures, start) = (Failures::default(), Instant::now());
        let from: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..BURST {
            assert_eq!(failures.check(from, start), Ok(()));
            failures.count(from, start);
        }
        assert_eq!(failures.check(from, start), Err(EACH));
        // The whole network counts: whoever has one address of it has them all.
        assert!(
            failures
                .check("2001:db8::ffff".parse().unwrap(), start)
                .is_err()
        );
        assert!(
            failures
                .check("2001:db8:1::1".parse().unwrap(), start)
                .is_ok()
        );
        assert_eq!(failures.check(from, start + EACH), Ok(()));
        failures.count(from, start + EACH);
        assert!(failures.check(from, start + EACH).is_err());
        assert_eq!(failures.check(from, start + EACH * 20), Ok(()));
    }
}
