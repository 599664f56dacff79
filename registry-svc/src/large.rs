//! Turns for large manifests and for lists: few are in memory at once, whatever is asked for at once.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{Error, Result};

/// Bytes of a manifest or list from which on it needs a turn.
pub const LARGE: usize = 16 << 10;

/// Turns of a kind at once, where clients are waited for.
pub const TURNS: usize = 4;

/// Who waits for a turn of a kind at once: whatever he sends meanwhile is in memory.
const LINE: usize = 64;

/// Turns to read one at once.
pub const READERS: usize = 2;

/// How long nobody has a turn taken away, and how often those who wait look for one to take.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What whoever has a turn may keep the service waiting while others wait for one: nanoseconds for each KiB, 256 KiB a
/// second. The largest manifest takes 16 seconds so.
const DRAG: u128 = 4_000_000;

/// Whom a turn is for.
pub trait Client: Send + Sync {
    /// Those of one network share what there is.
    fn network(&self) -> IpAddr;

    /// How much he keeps the service waiting: nanoseconds for each KiB.
    fn drag(&self) -> u128;

    /// Ends what he is doing, and with it his turn.
    fn cut(&self);
}

/// A turn that needs no client, until it is dropped.
pub type Moment = OwnedSemaphorePermit;

/// See the module's page. Whoever has a turn of one kind may wait for one of a kind further down, never up.
pub struct Large {
    /// To be received over HTTP, and put.
    arriving: Arc<Turns>,
    /// To be parsed, which takes many times the size.
    parsing: Arc<Semaphore>,
    /// To be read and checked.
    reading: Arc<Semaphore>,
    /// To be listed, until the list is sent.
    listing: Arc<Turns>,
}

impl Default for Large {
    fn default() -> Self {
        Self {
            arriving: Arc::default(),
            parsing: Arc::new(Semaphore::new(1)),
            reading: Arc::new(Semaphore::new(READERS)),
            listing: Arc::default(),
        }
    }
}

impl Large {
    /// Waits until one more may be received; [`Error::Busy`] where too many wait.
    pub async fn arrive(&self, client: Arc<dyn Client>) -> Result<Turn> {
        self.arriving.take(client).await
    }

    /// Waits until one more may be parsed.
    pub async fn parse(&self) -> Moment {
        moment(&self.parsing).await
    }

    /// Waits until one more may be read.
    pub async fn read(&self) -> Moment {
        moment(&self.reading).await
    }

    /// Waits until one more list may be made; [`Error::Busy`] where too many wait.
    pub async fn list(&self, client: Arc<dyn Client>) -> Result<Turn> {
        self.listing.take(client).await
    }
}

async fn moment(turns: &Arc<Semaphore>) -> Moment {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.expect("nobody closes it")
}

/// Turns of clients. The next one is for the network that has fewest, so that nobody waits behind many of another one;
/// where too many wait, one of the network that has most of these is turned away. Who waits takes a turn from whoever
/// is slowest, if he is slow.
#[derive(Default)]
struct Turns(Mutex<Line>);

#[derive(Default)]
struct Line {
    next: u64,
    having: Vec<Having>,
    waiting: Vec<Waiting>,
}

struct Having {
    number: u64,
    client: Arc<dyn Client>,
    since: Instant,
}

struct Waiting {
    number: u64,
    client: Arc<dyn Client>,
    /// Dropped, he is turned away.
    comes: oneshot::Sender<()>,
}

/// A turn, or a place among those who wait for one; given back when it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    number: u64,
}

impl Turns {
    async fn take(self: &Arc<Self>, client: Arc<dyn Client>) -> Result<Turn> {
        let (turn, mut comes) = self.line_up(client);
        loop {
            match tokio::time::timeout(PATIENCE, &mut comes).await {
                Ok(Ok(())) => return Ok(turn),
                Ok(Err(_)) => return Err(Error::Busy),
                Err(_) => self.line().cut_slowest(),
            }
        }
    }

    fn line_up(self: &Arc<Self>, client: Arc<dyn Client>) -> (Turn, oneshot::Receiver<()>) {
        let (comes, coming) = oneshot::channel();
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        line.waiting.push(Waiting {
            number,
            client,
            comes,
        });
        line.go_on();
        line.turn_away();
        let turns = Arc::clone(self);
        (Turn { turns, number }, coming)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn go_on(&mut self) {
        while self.having.len() < TURNS {
            let has = |network: IpAddr| {
                let all = self.having.iter();
                all.filter(|h| h.client.network() == network).count()
            };
            let waiting = self.waiting.iter().enumerate();
            let next = waiting.min_by_key(|(_, w)| (has(w.client.network()), w.number));
            let Some((at, _)) = next else { return };
            let Waiting {
                number,
                client,
                comes,
            } = self.waiting.swap_remove(at);
            self.having.push(Having {
                number,
                client,
                since: Instant::now(),
            });
            // Who is gone drops his turn.
            let _ = comes.send(());
        }
    }

    fn turn_away(&mut self) {
        if self.waiting.len() <= LINE {
            return;
        }
        let waits = |network: IpAddr| {
            let all = self.waiting.iter();
            all.filter(|w| w.client.network() == network).count()
        };
        let waiting = self.waiting.iter().enumerate();
        let last = waiting.max_by_key(|(_, w)| (waits(w.client.network()), w.number));
        if let Some((at, _)) = last {
            self.waiting.swap_remove(at);
        }
    }

    fn cut_slowest(&self) {
        let had = self.having.iter().filter(|h| h.since.elapsed() >= PATIENCE);
        let slow = had.map(|h| (h.client.drag(), &h.client));
        if let Some((DRAG.., client)) = slow.max_by_key(|(drag, _)| *drag) {
            client.cut();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.turns.line();
        line.having.retain(|h| h.number != self.number);
        line.waiting.retain(|w| w.number != self.number);
        line.go_on();
    }
}

/// What somebody has a turn for as long as there is any of it.
struct Held(
    String,
    #[expect(dead_code, reason = "given back when it is dropped")] Turn,
);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A text that has its turn until it is sent, if it is large.
pub fn hold(text: String, turn: Turn) -> Bytes {
    match text.len() > LARGE {
        true => Bytes::from_owner(Held(text, turn)),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    struct Tester {
        last: u8,
        drag: u128,
        cut: CancellationToken,
    }

    impl Client for Tester {
        fn network(&self) -> IpAddr {
            [192, 0, 2, self.last].into()
        }

        fn drag(&self) -> u128 {
            self.drag
        }

        fn cut(&self) {
            self.cut.cancel();
        }
    }

    fn client(last: u8, drag: u128) -> Arc<Tester> {
        let cut = CancellationToken::new();
        Arc::new(Tester { last, drag, cut })
    }

    type InLine = (Turn, oneshot::Receiver<()>);

    /// Whose turn has come since they were asked last.
    fn came(all: &mut [Option<InLine>]) -> Vec<usize> {
        let has_come = |one: &mut Option<InLine>| {
            let coming = one.as_mut().map(|(_, comes)| comes.try_recv());
            coming == Some(Ok(()))
        };
        let all = all.iter_mut().map(has_come).enumerate();
        all.filter(|(_, came)| *came).map(|(at, _)| at).collect()
    }

    #[test]
    fn networks_take_turns() {
        let turns = Arc::<Turns>::default();
        let networks = [1, 1, 1, 1, 1, 1, 2, 3, 2];
        let mut all = networks.map(|last| Some(turns.line_up(client(last, 0))));
        assert_eq!(came(&mut all), [0, 1, 2, 3]);
        all[0] = None;
        assert_eq!(came(&mut all), [6], "who has none, before who has three");
        // Nobody waits for him any more.
        all[7] = None;
        all[1] = None;
        assert_eq!(came(&mut all), [8], "who has one, before who has two");
        all[2] = None;
        assert_eq!(came(&mut all), [4], "of one network who came first");
        drop(all);
        let line = turns.line();
        assert!(line.having.is_empty() && line.waiting.is_empty());
    }

    #[test]
    fn a_line_has_an_end_and_who_has_most_in_it_is_turned_away() {
        let turns = Arc::<Turns>::default();
        let one = (0..TURNS + LINE).map(|_| turns.line_up(client(1, 0)));
        let mut one: Vec<_> = one.collect();
        let is_gone = |comes: &mut oneshot::Receiver<()>| {
            comes.try_recv() == Err(oneshot::error::TryRecvError::Closed)
        };
        assert!(!is_gone(&mut one.last_mut().unwrap().1));
        let (_two, mut comes) = turns.line_up(client(2, 0));
        assert!(!is_gone(&mut comes));
        assert!(is_gone(&mut one.pop().unwrap().1));
        assert!(!is_gone(&mut one.last_mut().unwrap().1));
        assert!(is_gone(&mut turns.line_up(client(1, 0)).1), "itself");
        assert_eq!(turns.line().waiting.len(), LINE);
    }

    #[test]
    fn the_turn_of_the_slowest_is_taken_if_he_is_slow() {
        let turns = Arc::<Turns>::default();
        let clients = [0, DRAG - 1, 2 * DRAG, DRAG].map(|drag| client(1, drag));
        let mut held: Vec<_> = clients
            .iter()
            .map(|client| turns.line_up(Arc::clone(client) as _))
            .collect();
        let cut = || {
            turns.line().cut_slowest();
            clients.each_ref().map(|client| client.cut.is_cancelled())
        };
        assert_eq!(cut(), [false; 4], "they just got it");
        for having in &mut turns.line().having {
            having.since -= PATIENCE;
        }
        assert_eq!(cut(), [false, false, true, false]);
        drop(held.remove(2));
        assert_eq!(cut(), [false, false, true, true]);
        drop(held.remove(2));
        assert_eq!(cut(), [false, false, true, true], "these are fast enough");
    }

    #[tokio::test]
    async fn who_waits_for_long_takes_one() {
        let turns = Arc::<Turns>::default();
        let slow = client(1, DRAG);
        let mut held = Vec::new();
        for _ in 0..TURNS {
            held.push(turns.take(slow.clone()).await.unwrap());
        }
        let begun = Instant::now();
        let gives = async {
            slow.cut.cancelled().await;
            held.clear();
        };
        let waits = tokio::time::timeout(20 * PATIENCE, turns.take(client(2, 0)));
        let ((), came) = tokio::join!(gives, waits);
        assert!(came.is_ok_and(|turn| turn.is_ok()));
        assert!(begun.elapsed() >= PATIENCE);
    }
}
