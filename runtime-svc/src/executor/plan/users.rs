//! Which ids a container has.

use serde::{Deserialize, Serialize};

/// Which ids of the host stand for the ids of a container (user_namespaces(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMap {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one in the container.
    pub inside: u32,
    /// The first one on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

impl UserMap {
    /// The host's number of a user of the container; `None` when it has none.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        on_host(&self.uids, inside)
    }

    /// The host's number of a group of the container.
    pub fn gid(&self, inside: u32) -> Option<u32> {
        on_host(&self.gids, inside)
    }
}

impl UserMap {
    /// The container's number of a user of the host; nobody's when it has none (user_namespaces(7)).
    pub fn uid_inside(&self, host: u32) -> u32 {
        inside(&self.uids, host)
    }

    /// The container's number of a group of the host.
    pub fn gid_inside(&self, host: u32) -> u32 {
        inside(&self.gids, host)
    }
}

fn inside(ranges: &[IdRange], host: u32) -> u32 {
    let found = ranges.iter().find_map(|range| {
        let offset = host.checked_sub(range.host)?;
        (offset < range.size).then(|| range.inside.checked_add(offset))?
    });
    found.unwrap_or(65_534)
}

fn on_host(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.size).then(|| range.host.checked_add(offset))?
    })
}
