//! Deleting links off the way of requests: the kernel waits tens of milliseconds for its readers.

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use crate::id::NetworkId;
use crate::ipam::DualStack;
use crate::netlink::conntrack::{self, Among};
use crate::netlink::{Route, link};

use super::Host;

/// How many it takes at once.
const BATCH: usize = 256;
/// How long it waits for more. Ends come in bursts, and the kernel takes most links along with the namespace
/// that their other end is in.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it looks meanwhile whether somebody waits for it.
const LOOK: Duration = Duration::from_millis(5);

/// What it takes out of the kernel.
#[derive(Debug)]
pub(super) struct Doomed {
    /// A host's end of a veth pair.
    pub link: String,
    /// The addresses that it had: their connections are forgotten, and then they are somebody else's.
    pub address: Option<(NetworkId, DualStack)>,
}

/// The way to it.
#[derive(Debug)]
pub(super) struct Reaper {
    queue: Sender<Doomed>,
    backlog: Arc<Backlog>,
}

/// How many links wait or are just being deleted.
#[derive(Debug, Default)]
struct Backlog {
    waiting: Mutex<Waiting>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    links: usize,
    /// Somebody waits for all of it.
    hurry: bool,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Reaper {
    /// What is to be given to [`start`] later: links may be doomed before that.
    pub fn new() -> (Self, Receiver<Doomed>) {
        let (queue, doomed) = channel();
        let backlog = Arc::default();
        (Self { queue, backlog }, doomed)
    }

    /// Deletes links on a socket of its own, so that nobody waits for it. Ends with the host.
    pub fn start(&self, host: Weak<Host>, doomed: Receiver<Doomed>) -> io::Result<()> {
        let mut route = Route::open()?;
        let backlog = Arc::clone(&self.backlog);
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                while let Ok(first) = doomed.recv() {
                    let batch = gather(first, &doomed, &backlog);
                    reap(&mut route, &batch);
                    // Nothing of them is left: the next one may have their addresses.
                    if let Some(host) = host.upgrade() {
                        host.dismiss(batch.iter().map(|doomed| doomed.link.as_str()));
                        host.free(&batch);
                    }
                    let mut waiting = backlog.lock();
                    waiting.links -= batch.len();
                    waiting.hurry &= waiting.links > 0;
                    drop(waiting);
                    backlog.fewer.notify_all();
                }
            })?;
        Ok(())
    }

    /// Waits until nothing is left to delete. False when there was nothing, or when it takes too long.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut waiting = self.backlog.lock();
        if waiting.links == 0 {
            return false;
        }
        waiting.hurry = true;
        let some = |waiting: &mut Waiting| waiting.links > 0;
        match self
            .backlog
            .fewer
            .wait_timeout_while(waiting, patience, some)
        {
            Ok((_, waited)) => !waited.timed_out(),
            Err(_) => false,
        }
    }
}

/// What comes within a while, or at once if somebody waits.
fn gather(first: Doomed, doomed: &Receiver<Doomed>, backlog: &Backlog) -> Vec<Doomed> {
    let mut batch = vec![first];
    let until = Instant::now() + SETTLE;
    while batch.len() < BATCH {
        let left = until.saturating_duration_since(Instant::now());
        let pause = match backlog.lock().hurry {
            true => Duration::ZERO,
            false => left.min(LOOK),
        };
        match doomed.recv_timeout(pause) {
            Ok(next) => batch.push(next),
            Err(RecvTimeoutError::Timeout) if !left.is_zero() && !pause.is_zero() => {}
            Err(_) => break,
        }
    }
    batch
}

/// Those that wait already go together: one look at the connections serves all, and the kernel waits for
/// its readers once for all.
fn reap(route: &mut Route, batch: &[Doomed]) {
    let links: Vec<String> = batch.iter().map(|d| d.link.clone()).collect();
    delete(route, &links);
    // After them: whoever can still send would begin new ones.
    let addresses = batch.iter().filter_map(|d| d.address.as_ref());
    let addresses: Vec<IpAddr> = addresses.flat_map(|(_, address)| address.all()).collect();
    if !addresses.is_empty()
        && let Err(error) = conntrack::forget(Among::All, |flow| {
            addresses.contains(&flow.client) || addresses.contains(&flow.server)
        })
    {
        tracing::warn!(%error, "cannot forget the connections of released addresses");
    }
    slipway_fault::point("netd.release.deleted");
}

/// Deletes links, now.
pub(super) fn delete(route: &mut Route, links: &[String]) {
    for portion in links.chunks(50) {
        let mut requests: Vec<_> = portion.iter().map(|link| link::set_doomed(link)).collect();
        requests.push(link::delete_doomed());
        // That one is gone already, with its namespace, is the usual case.
        if let Err(error) = route.apply_idempotent(&requests) {
            let links = portion.len();
            tracing::warn!(links, %error, "cannot delete links; the next start tries again");
        }
    }
}

impl Host {
    /// Deletes a link later. If we die before, the next start finds an orphan.
    pub(super) fn reap(&self, doomed: Doomed) {
        self.reaper.backlog.lock().links += 1;
        if self.reaper.queue.send(doomed).is_err() {
            // Its thread ended; the next start finds them.
            self.reaper.backlog.lock().links -= 1;
        }
    }

    fn free(&self, batch: &[Doomed]) {
        let mut state = self.state();
        for (network, address) in batch.iter().filter_map(|d| d.address.as_ref()) {
            if let Some(live) = state.networks.get_mut(network) {
                live.addresses.release(*address);
            }
        }
    }
}
