//! Finding the network namespaces of containers again, by processes that are in them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::netlink::Netns;

/// Opens those of the namespaces that a process is in, by inode: of each there is one, as long as somebody is in it.
///
/// A process that cannot be looked into is passed over: without SYS_PTRACE a namespace is known from when somebody tells
/// where it is.
pub(super) fn of_processes(inodes: impl Iterator<Item = u64>) -> HashMap<u64, Netns> {
    // 0 stands for one that nobody noted.
    let mut wanted: HashSet<u64> = inodes.filter(|inode| *inode != 0).collect();
    let mut found = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    for process in processes.flatten() {
        if wanted.is_empty() {
            break;
        }
        let path = process.path().join("ns/net");
        let Ok(inode) = fs::metadata(&path).map(|it| it.ino()) else {
            continue;
        };
        if !wanted.contains(&inode) {
            continue;
        }
        // The process may have ended in between, and its number be another's.
        if let Ok(netns) = Netns::open(&path)
            && netns.inode().is_ok_and(|opened| opened == inode)
        {
            wanted.remove(&inode);
            found.insert(inode, netns);
        }
    }
    found
}
