//! How much of a server one client may take: whoever floods it, or holds its connections, does so to himself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places, so many in all and so many for one.
#[derive(Debug)]
pub struct Clients {
    all: usize,
    each: usize,
    busy: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// None is taken.
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            each,
            busy: Mutex::default(),
        })
    }

    /// A place for a client, if there is one.
    pub fn place(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut busy = self.busy();
        if busy.values().sum::<usize>() >= self.all {
            return None;
        }
        let taken = busy.entry(client).or_default();
        if *taken >= self.each {
            return None;
        }
        *taken += 1;
        Some(Place {
            clients: Arc::clone(self),
            client,
        })
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut busy = self.clients.busy();
        if let Some(taken) = busy.get_mut(&self.client) {
            *taken -= 1;
            if *taken == 0 {
                busy.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_takes_no_others_place() {
        let clients = Clients::new(3, 2);
        let [one, two]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let held: Vec<_> = (0..3).filter_map(|_| clients.place(one)).collect();
        assert_eq!(held.len(), 2);
        let other = clients.place(two).unwrap();
        assert!(clients.place(two).is_none(), "all are taken");
        drop(held);
        assert!(clients.place(two).is_some());
        drop(other);
        assert!(clients.busy().is_empty());
    }
}
