//! What goes on on one connection: whether it has a request, and whether its bodies get on.
//!
//! A body is judged only for the time in which it waits for the client: that of a disk or of an upstream is not his.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use super::{body::Body, limits::Limits};
use crate::{error::Error, large::Client};

/// Why a connection ends that nobody ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It had no request for too long.
    Idle,
    /// The client takes or sends too little.
    Slow,
}

/// See the module's page.
pub struct Traffic {
    network: IpAddr,
    requests: Requests,
    state: Mutex<State>,
    /// Somebody else needs its place.
    pub cut: CancellationToken,
}

struct State {
    requests: usize,
    /// When the last request ended.
    idle_since: Instant,
    meters: Vec<Weak<Meter>>,
}

/// Requests that are under way: of one network, and of all.
#[derive(Clone, Default)]
pub struct Requests {
    /// Of the network.
    pub own: Arc<AtomicUsize>,
    /// Of all.
    pub all: Arc<AtomicUsize>,
}

impl Traffic {
    /// Of a connection that was opened just now.
    pub fn new(network: IpAddr, requests: Requests) -> Arc<Self> {
        Arc::new(Self {
            network,
            requests,
            state: Mutex::new(State {
                requests: 0,
                idle_since: Instant::now(),
                meters: Vec::new(),
            }),
            cut: CancellationToken::new(),
        })
    }

    /// A request begins; it ends when that is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.state().requests += 1;
        for count in [&self.requests.own, &self.requests.all] {
            count.fetch_add(1, Relaxed);
        }
        Busy(Arc::clone(self))
    }

    /// Since when it has had no request; `None` while it has one.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.requests == 0).then_some(state.idle_since)
    }

    /// A meter for one body.
    pub fn meter(&self) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        let mut state = self.state();
        state.meters.retain(|meter| meter.strong_count() > 0);
        state.meters.push(Arc::downgrade(&meter));
        meter
    }

    /// Waits until there is a reason to end it.
    pub async fn watch(&self, limits: &Limits) -> Ended {
        let tick = limits.idle.min(limits.window) / 6;
        loop {
            tokio::time::sleep(tick).await;
            if self
                .idle_since()
                .is_some_and(|since| since.elapsed() >= limits.idle)
            {
                return Ended::Idle;
            }
            let meters: Vec<_> = self
                .state()
                .meters
                .iter()
                .filter_map(Weak::upgrade)
                .collect();
            if meters.iter().any(|meter| meter.is_slow(tick, limits)) {
                return Ended::Slow;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client for Traffic {
    fn network(&self) -> IpAddr {
        self.network
    }

    /// Of the bytes that moved, of the body that is worst.
    fn drag(&self) -> u128 {
        let state = self.state();
        let meters = state.meters.iter().filter_map(Weak::upgrade);
        meters.map(|meter| meter.drag()).max().unwrap_or(0)
    }

    fn cut(&self) {
        self.cut.cancel();
    }
}

/// A request of a connection.
pub struct Busy(Arc<Traffic>);

impl Busy {
    /// There are as many requests as there may be connections: of HTTP/2 one connection may have many.
    pub fn is_one_too_many(&self, limits: &Limits) -> bool {
        let Requests { own, all } = &self.0.requests;
        own.load(Relaxed) > limits.connections_per_client || all.load(Relaxed) > limits.connections
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for count in [&self.0.requests.own, &self.0.requests.all] {
            count.fetch_sub(1, Relaxed);
        }
        let mut state = self.0.state();
        state.requests -= 1;
        state.idle_since = Instant::now();
    }
}

/// How a body gets on.
#[derive(Default)]
pub struct Meter {
    moved: AtomicU64,
    waits: Mutex<Waits>,
    judged: Mutex<Judged>,
}

#[derive(Default)]
struct Waits {
    /// Since when the client is waited for; none: he is not.
    since: Option<Instant>,
    /// How long he was before, in all.
    before: Duration,
}

#[derive(Default)]
struct Judged {
    /// Bytes that had moved when the time began.
    from: u64,
    /// How long it has waited for the client since.
    waited: Duration,
}

impl Meter {
    /// From now on the client is waited for, or is not.
    pub fn waits(&self, waits: bool) {
        let mut state = self.waiting();
        if let Some(since) = state.since.take() {
            state.before += since.elapsed();
        }
        state.since = waits.then(Instant::now);
    }

    /// So many bytes moved.
    pub fn moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Relaxed);
    }

    fn drag(&self) -> u128 {
        let waits = self.waiting();
        let waited = waits.before + waits.since.map_or(Duration::ZERO, |at| at.elapsed());
        // A body that began just now has moved nothing yet.
        waited.as_nanos() / u128::from(64 + self.moved.load(Relaxed) / 1024)
    }

    fn waiting(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked every `tick`.
    fn is_slow(&self, tick: Duration, limits: &Limits) -> bool {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = self.moved.load(Relaxed);
        if moved - judged.from >= limits.window_bytes {
            *judged = Judged {
                from: moved,
                waited: Duration::ZERO,
            };
        }
        if self.waiting().since.is_some() {
            judged.waited += tick;
        }
        judged.waited >= limits.window
    }
}

/// A body on its way out, and the request that it ends.
pub struct Metered {
    body: Body,
    meter: Arc<Meter>,
    _busy: Busy,
}

impl Metered {
    /// Of a connection's request.
    pub fn new(body: Body, traffic: &Traffic, busy: Busy) -> Self {
        let meter = traffic.meter();
        meter.waits(true);
        Self {
            body,
            meter,
            _busy: busy,
        }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        // It is asked again when the client has taken what it got.
        this.meter.waits(polled.is_ready());
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.meter.moved(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_judged_by_the_time_it_waits_for_its_client() {
        let limits = Limits {
            window: Duration::from_secs(60),
            window_bytes: 1000,
            ..Limits::default()
        };
        let tick = Duration::from_secs(10);
        let slow_after = |waits: bool, each: usize| {
            let meter = Meter::default();
            meter.waits(waits);
            (1..100).find(|_| {
                meter.moved(each);
                meter.is_slow(tick, &limits)
            })
        };
        assert_eq!(slow_after(true, 0), Some(6));
        assert_eq!(slow_after(true, 1), Some(6));
        assert_eq!(slow_after(true, 200), None);
        assert_eq!(slow_after(false, 0), None);
    }
}
