//! The connections that are open: so many in all and from one address. One more takes the place of one that has no
//! request, of whoever has most of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{limits::Limits, traffic::Traffic};
use crate::access::network_of;

/// See the module's page.
#[derive(Default)]
pub struct Connections(Mutex<HashMap<IpAddr, Vec<Arc<Traffic>>>>);

/// The place of a connection.
pub struct Place {
    connections: Arc<Connections>,
    network: IpAddr,
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
            .is_some_and(|own| own.len() >= limits.connections_per_client)
        {
            make_room(table.get_mut(&network)?)?;
        }
        if table.values().map(Vec::len).sum::<usize>() >= limits.connections {
            let mut by_size: Vec<_> = table.values_mut().collect();
            by_size.sort_by_key(|own| std::cmp::Reverse(own.len()));
            by_size.into_iter().find_map(make_room)?;
        }
        let traffic = Traffic::new();
        table.entry(network).or_default().push(Arc::clone(&traffic));
        Some(Place {
            connections: Arc::clone(self),
            network,
            traffic,
        })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<Arc<Traffic>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        if let Some(own) = table.get_mut(&self.network) {
            own.retain(|traffic| !Arc::ptr_eq(traffic, &self.traffic));
            if own.is_empty() {
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
}
