//! Endpoints made before they are asked for, refilled off the way of requests.
//!
//! They live in the kernel and in our memory only: when netd dies, the last descriptor of their
//! namespaces goes, and the kernel takes them back.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use crate::error::Error;
use crate::ipam::Wanted;

use super::prepare::Prepared;
use super::{Host, attach};

#[derive(Debug)]
pub(super) struct Pool {
    ready: Mutex<VecDeque<Prepared>>,
    changed: Condvar,
    size: usize,
}

/// How long the refilling thread sleeps at most: then it looks whether the host is still there, and
/// tries again what failed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long after a request what it took is made again, while there is enough left: until then both
/// processors are busy with the container that it was for.
const REST: Duration = Duration::from_millis(30);

impl Pool {
    pub fn new(size: usize) -> Self {
        Self {
            ready: Mutex::default(),
            changed: Condvar::new(),
            size,
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Prepared>> {
        self.ready
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn take(&self) -> Option<Prepared> {
        let taken = self.lock().pop_front();
        self.changed.notify_one();
        taken
    }

    /// What was taken and could not be used after all.
    pub fn give_back(&self, prepared: Prepared) {
        self.lock().push_front(prepared);
    }

    /// Whether one was prepared with such an address, or any.
    pub fn holds(&self, wanted: Wanted) -> bool {
        let is_it = |prepared: &Prepared| wanted.is_any() || wanted.meets(prepared.address);
        self.lock().iter().any(is_it)
    }

    /// Takes those out.
    pub fn remove(&self, wanted: Wanted) -> Vec<Prepared> {
        let is_it = |prepared: &Prepared| wanted.is_any() || wanted.meets(prepared.address);
        let mut ready = self.lock();
        let (out, stay) = ready.drain(..).partition(is_it);
        *ready = stay;
        drop(ready);
        self.changed.notify_one();
        Vec::from(out)
    }

    pub fn drain(&self) -> Vec<Prepared> {
        let drained = self.lock().drain(..).collect();
        self.changed.notify_one();
        drained
    }
}

pub(super) fn start(host: &Arc<Host>) -> io::Result<()> {
    if host.pool.size == 0 {
        return Ok(());
    }
    let (host, pool) = (Arc::downgrade(host), Arc::clone(&host.pool));
    std::thread::Builder::new()
        .name("pool".to_owned())
        .stack_size(256 << 10)
        .spawn(move || keep_full(&host, &pool))?;
    Ok(())
}

/// Ends with the host: only the pool itself is held while there is nothing to do.
fn keep_full(host: &Weak<Host>, pool: &Pool) {
    while let Some(full) = host.upgrade().map(|host| host.refill()) {
        let ready = pool.lock();
        if !full || ready.len() >= pool.size {
            // A poisoned lock would end the refilling; the pool's content is valid all the same.
            let Ok((ready, _)) = pool.changed.wait_timeout(ready, LOOK_AGAIN) else {
                continue;
            };
            if ready.len() < pool.size && ready.len() >= pool.size / 2 {
                drop(
                    pool.changed
                        .wait_timeout_while(ready, REST, |ready| ready.len() >= pool.size / 2),
                );
            }
        }
    }
}

impl Host {
    /// Whether the pool is as full as it can be.
    pub(super) fn refill(&self) -> bool {
        while self.pool.len() < self.pool.size && self.state().up {
            match self.prepare(&attach::Shape::default_network()) {
                Ok(prepared) => {
                    // A teardown that came in between has emptied the pool for good.
                    if self.state().up {
                        self.pool.lock().push_back(prepared);
                    } else {
                        self.discard(prepared);
                    }
                }
                // Who asks for one is told.
                Err(Error::NetworkFull(_)) => return false,
                Err(error) => {
                    tracing::warn!(%error, "cannot prepare a network namespace");
                    return false;
                }
            }
        }
        self.pool.len() >= self.pool.size
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.pool.changed.notify_all();
    }
}
