//! Deleting links off the way of requests: the kernel waits tens of milliseconds for its readers.

use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::netlink::{Route, conntrack, link};

use super::Host;

/// How many it takes at once.
const BATCH: usize = 256;
/// How long it waits for more. Ends come in bursts, and the kernel takes most links along with the namespace
/// that their other end is in.
const SETTLE: Duration = Duration::from_millis(50);
/// How many may wait; whoever brings more deletes by itself.
const QUEUE: usize = 1024;

/// What it takes out of the kernel.
#[derive(Debug)]
pub(super) struct Doomed {
    /// A host's end of a veth pair.
    pub link: String,
    /// Whose connections are to be forgotten.
    pub address: Option<Ipv4Addr>,
}

/// The way to it.
#[derive(Debug)]
pub(super) struct Reaper {
    queue: SyncSender<Doomed>,
    backlog: Arc<Backlog>,
}

/// How many links wait or are just being deleted.
#[derive(Debug, Default)]
struct Backlog {
    links: Mutex<usize>,
    fewer: Condvar,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.links
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Reaper {
    /// What is to be given to [`start`] later: links may be doomed before that.
    pub fn new() -> (Self, Receiver<Doomed>) {
        let (queue, doomed) = sync_channel(QUEUE);
        let backlog = Arc::default();
        (Self { queue, backlog }, doomed)
    }

    /// Deletes links on a socket of its own, so that nobody waits for it. Ends with the host.
    pub fn start(&self, doomed: Receiver<Doomed>) -> io::Result<()> {
        let mut route = Route::open()?;
        let backlog = Arc::clone(&self.backlog);
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                while let Ok(first) = doomed.recv() {
                    let mut batch = vec![first];
                    let until = Instant::now() + SETTLE;
                    while batch.len() < BATCH
                        && let Ok(next) = doomed.recv_timeout(until - Instant::now().min(until))
                    {
                        batch.push(next);
                    }
                    reap(&mut route, &batch);
                    *backlog.lock() -= batch.len();
                    backlog.fewer.notify_all();
                }
            })?;
        Ok(())
    }

    /// Waits until nothing is left to delete. False when there was nothing, or when it takes too long.
    pub fn wait(&self, patience: Duration) -> bool {
        let links = self.backlog.lock();
        if *links == 0 {
            return false;
        }
        match self
            .backlog
            .fewer
            .wait_timeout_while(links, patience, |links| *links > 0)
        {
            Ok((_, waited)) => !waited.timed_out(),
            Err(_) => false,
        }
    }
}

/// Those that wait already go together: one look at the connections serves all, and the kernel waits for
/// its readers once for all.
fn reap(route: &mut Route, batch: &[Doomed]) {
    let addresses: Vec<Ipv4Addr> = batch.iter().filter_map(|d| d.address).collect();
    if !addresses.is_empty()
        && let Err(error) = conntrack::forget_addresses(&addresses)
    {
        tracing::warn!(%error, "cannot forget the connections of released addresses");
    }
    for portion in batch.chunks(50) {
        let mut requests: Vec<_> = portion.iter().map(|d| link::set_doomed(&d.link)).collect();
        requests.push(link::delete_doomed());
        // That one is gone already, with its namespace, is the usual case.
        if let Err(error) = route.apply_idempotent(&requests) {
            let links = portion.len();
            tracing::warn!(links, %error, "cannot delete links; the next start tries again");
        }
    }
    slipway_fault::point("netd.release.deleted");
}

impl Host {
    /// Deletes a link later. If we die before, the next start finds an orphan.
    pub(super) fn reap(&self, doomed: Doomed) {
        *self.reaper.backlog.lock() += 1;
        match self.reaper.queue.try_send(doomed) {
            Ok(()) => {}
            Err(TrySendError::Full(doomed) | TrySendError::Disconnected(doomed)) => {
                *self.reaper.backlog.lock() -= 1;
                self.delete_link(&doomed.link);
            }
        }
    }
}
