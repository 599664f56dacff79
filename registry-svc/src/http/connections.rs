//! The connections that are open: so many in all and from one address. One more takes the place of one that has no
//! request, of whoever has most of them; where all have one, of whoever has more than his share, the one that waits
//! most for its client.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
};

use super::{
    limits::Limits,
    traffic::{Requests, Traffic},
};
use crate::{access::network_of, large::Client as _};

/// See the module's page.
#[derive(Default)]
pub struct Connections {
    table: Mutex<HashMap<IpAddr, Network>>,
    /// Requests of all of them.
    requests: Arc<AtomicUsize>,
}

/// What a network has.
#[derive(Default)]
struct Network {
    open: Vec<Arc<Traffic>>,
    requests: Arc<AtomicUsize>,
}

/// The place of a connection.
pub struct Place {
    connections: Arc<Connections>,
    network: IpAddr,
    /// How many there were before.
    pub others: usize,
    /// What goes on on it.
    pub traffic: Arc<Traffic>,
}

impl Connections {
    /// A place for one more; `None` when all are in use.
    pub fn admit(self: &Arc<Self>, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let network = network_of(peer);
        let mut table = self.table();
        if table
            .get(&network)
            .is_some_and(|own| own.open.len() >= limits.connections_per_client)
        {
            make_room(&mut table.get_mut(&network)?.open)?;
        }
        let open = table.values().map(|own| own.open.len()).sum::<usize>();
        if open >= limits.connections {
            let has = table.get(&network).map_or(0, |own| own.open.len());
            let networks = table.len();
            let mut by_size: Vec<_> = table.values_mut().map(|own| &mut own.open).collect();
            by_size.sort_by_key(|own| std::cmp::Reverse(own.len()));
            if by_size.iter_mut().find_map(|own| make_room(own)).is_none() {
                let most = by_size.into_iter().next()?;
                let share = limits.connections / (networks + usize::from(has == 0));
                if has >= share || most.len() <= share {
                    return None;
                }
                end_slowest(most);
            }
        }
        let own = table.entry(network).or_default();
        let requests = Requests {
            own: Arc::clone(&own.requests),
            all: Arc::clone(&self.requests),
        };
        let traffic = Traffic::new(network, requests);
        own.open.push(Arc::clone(&traffic));
        Some(Place {
            connections: Arc::clone(self),
            network,
            others: open,
            traffic,
        })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Network>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the one that has had no request for longest.
fn make_room(own: &mut Vec<Arc<Traffic>>) -> Option<()> {
    let idle = own.iter().enumerate();
    let idle = idle.filter_map(|(at, traffic)| Some((traffic.idle_since()?, at)));
    let (_, at) = idle.min()?;
    own.remove(at).cut.cancel();
    Some(())
}

/// Ends the one that waits most for its client.
fn end_slowest(own: &mut Vec<Arc<Traffic>>) {
    let slowest = own.iter().enumerate().max_by_key(|(_, t)| t.drag());
    if let Some((at, _)) = slowest {
        own.remove(at).cut.cancel();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        if let Some(own) = table.get_mut(&self.network) {
            own.open
                .retain(|traffic| !Arc::ptr_eq(traffic, &self.traffic));
            if own.open.is_empty() {
                table.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_takes_the_place_of_who_does_nothing() {
        let connections = Arc::new(Connections::default());
        let limits = Limits {
            connections: 5,
            connections_per_client: 3,
            ..Limits::default()
        };
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let admit = |last| connections.admit(address(last), &limits);
        let one: Vec<_> = (0..3).map(|_| admit(1).unwrap()).collect();
        let busy: Vec<_> = one[..2].iter().map(|place| place.traffic.begin()).collect();
        let fourth = admit(1).unwrap();
        assert!(one[2].traffic.cut.is_cancelled());
        let busy_too = fourth.traffic.begin();
        assert!(admit(1).is_none(), "all of its own are in use");
        // Of all: whoever has most gives way, and nobody who is at work.
        let (two, three) = (admit(2).unwrap(), admit(3).unwrap());
        drop(busy_too);
        let four = admit(4).unwrap();
        assert!(fourth.traffic.cut.is_cancelled());
        assert!(!two.traffic.cut.is_cancelled() && !three.traffic.cut.is_cancelled());
        let five = admit(5).unwrap();
        assert!(!one[0].traffic.cut.is_cancelled());
        drop((busy, one, fourth, two, three, four, five));
        assert!(connections.table().is_empty());
    }

    #[test]
    fn who_does_nothing_for_longest_gives_way_and_a_network_is_one_client() {
        let connections = Arc::new(Connections::default());
        let limits = Limits {
            connections_per_client: 2,
            ..Limits::default()
        };
        let admit = |last: u16| {
            // What a /64 has is one client's.
            let address = IpAddr::from([0x2001, 0xdb8, 0, 1, last, 0, 0, last]);
            connections.admit(address, &limits).unwrap()
        };
        let (first, second) = (admit(1), admit(2));
        assert_eq!((first.others, second.others), (0, 1));
        // It did something since.
        drop(first.traffic.begin());
        let third = admit(3);
        assert!(second.traffic.cut.is_cancelled());
        assert!(!first.traffic.cut.is_cancelled() && !third.traffic.cut.is_cancelled());
    }

    #[test]
    fn there_are_no_more_requests_than_connections() {
        let connections = Arc::new(Connections::default());
        let limits = Limits {
            connections: 3,
            connections_per_client: 2,
            ..Limits::default()
        };
        let admit = |last: u8| connections.admit(IpAddr::from([192, 0, 2, last]), &limits);
        let (one, two) = (admit(1).unwrap(), admit(2).unwrap());
        let begin = |place: &Place| {
            let busy = place.traffic.begin();
            (!busy.is_one_too_many(&limits)).then_some(busy)
        };
        let of_one = [begin(&one), begin(&one)].map(Option::unwrap);
        assert!(begin(&one).is_none(), "of one network");
        let of_two = begin(&two).unwrap();
        assert!(begin(&two).is_none(), "of all");
        drop(of_one);
        assert!(begin(&two).is_some() && begin(&one).is_some());
        drop(of_two);
    }

    #[test]
    fn who_holds_more_than_his_share_by_being_slow_gives_way() {
        let connections = Arc::new(Connections::default());
        let limits = Limits {
            connections: 8,
            connections_per_client: 4,
            ..Limits::default()
        };
        let admit = |last: u8| connections.admit(IpAddr::from([192, 0, 2, last]), &limits);
        let hold = |last: u8, moved: usize| {
            let place = admit(last)?;
            let (busy, meter) = (place.traffic.begin(), place.traffic.meter());
            meter.moved(moved);
            meter.waits(true);
            Some((place, busy, meter))
        };
        let held = [1, 2].map(|last| {
            let moved = [64 << 20, 10, 64 << 20, 64 << 20];
            moved.map(|moved| hold(last, moved).unwrap())
        });
        let cut = |n: usize, at: usize| held[n][at].0.traffic.cut.is_cancelled();
        let third = [hold(3, 0).unwrap(), hold(3, 0).unwrap()];
        assert!(cut(0, 1) && cut(1, 1), "the slow ones, one of each");
        let all = [(0, 0), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)];
        assert!(all.iter().all(|(n, at)| !cut(*n, *at)));
        // All have their share now.
        assert!(hold(3, 0).is_none() && hold(1, 0).is_none());
        assert!(
            third
                .iter()
                .all(|(place, ..)| !place.traffic.cut.is_cancelled())
        );
    }
}
