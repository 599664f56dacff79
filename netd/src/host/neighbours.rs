//! Room for many neighbours: the kernel has one ARP table for all namespaces of the host.

use std::io;

use crate::error::{Doing, Error};
use crate::sysctl;

use super::Host;

/// A container and the host each keep an entry of the other, so the usual limits, 512 and 1024
/// (Documentation/networking/ip-sysctl.rst), are too few for a thousand containers: "neighbor table overflow"
/// in the kernel's log, and connections that fail. Entries that nobody uses go all the same.
const ROOM: [(&str, u32); 2] = [
    ("ipv4/neigh/default/gc_thresh3", 8192),
    ("ipv4/neigh/default/gc_thresh2", 4096),
];

impl Host {
    /// Raises limits that are lower; teardown puts them back.
    pub(super) fn make_room_for_neighbours(&self) -> Result<(), Error> {
        for (name, wanted) in ROOM {
            let before = match sysctl::read(name) {
                // They belong to the host's own network namespace: elsewhere they are not shown.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                read => read.doing(|| format!("read net/{name}"))?,
            };
            if before.parse().is_ok_and(|limit: u32| limit >= wanted) {
                continue;
            }
            // What cannot be changed needs no putting back. A few hundred containers do without.
            if let Err(error) = sysctl::write(name, &before) {
                tracing::warn!(name, %error, "cannot make room for neighbours");
                return Ok(());
            }
            self.store.remember_sysctl(name, &before)?;
            sysctl::write(name, &wanted.to_string())
                .doing(|| format!("set net/{name} to {wanted}"))?;
            tracing::info!(name, before, wanted, "room for more neighbours");
        }
        Ok(())
    }
}
