//! Names that containers have on the other hosts of a network: asked of those hosts when somebody wants one, over the
//! network's own tunnels.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::net::UdpSocket;
use tokio::time::{timeout, timeout_at};

use crate::overlay::Overlay;

use super::answer::reverse_of;
use super::upstream::{answers, over_tcp, random_id, with_id};
use super::wire::{code, is_truncated};

/// Until whoever has not answered is given up: hosts are near each other.
const PATIENCE: Duration = Duration::from_millis(150);
/// For how long a host that gave no answer is not asked: one that is cut off costs a wait now and then, not each query.
const SILENCE: Duration = Duration::from_secs(2);
/// For how long an answer is good, and that nobody has a name.
const KNOWN: Duration = Duration::from_secs(5);
const UNKNOWN: Duration = Duration::from_secs(1);
/// Answers that are kept.
const ENTRIES: usize = 1000;

const PORT: u16 = 53;
const NO_ERROR: u8 = 0;

#[derive(Debug)]
struct Entry {
    /// None: nobody has it.
    answer: Option<Vec<u8>>,
    until: Instant,
}

/// The other hosts of a network.
#[derive(Debug)]
pub struct Peers {
    /// All addresses of the network.
    subnet: IpNet,
    /// Where each host's containers are, and where it answers.
    hosts: Vec<(IpNet, IpAddr)>,
    /// By the query, all of it but the id.
    cache: Mutex<HashMap<Vec<u8>, Entry>>,
    silent: Mutex<HashMap<IpAddr, Instant>>,
}

impl Peers {
    /// Those of a network that spans hosts.
    pub fn of(overlay: &Overlay) -> Self {
        let hosts = overlay.others.iter();
        Self {
            subnet: overlay.subnet,
            hosts: hosts.map(|peer| (peer.slice, peer.gateway())).collect(),
            cache: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// Whether another host asks: its own address in the network, which nothing but its tunnel can send from.
    pub fn is_peer(&self, client: IpAddr) -> bool {
        self.hosts.iter().any(|(_, gateway)| *gateway == client)
    }

    /// Whether nobody outside of the network can know the answer: it asks whose an address of the network is.
    pub fn is_of_network(&self, query: &[u8]) -> bool {
        reverse_of(query).is_some_and(|address| self.subnet.contains(&address))
    }

    /// The answer of the first host that knows the name; an address is asked of the one host that it belongs to. None:
    /// no host knows, or says so in time.
    pub async fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        let key = query.get(2..)?.to_vec();
        if let Some(known) = self.known(&key) {
            return known.map(|answer| with_id(&answer, [query[0], query[1]]));
        }
        let about = reverse_of(query);
        let hosts: Vec<IpAddr> = {
            let mut silent = lock(&self.silent);
            silent.retain(|_, since| since.elapsed() < SILENCE);
            let asked = self.hosts.iter().filter(|(slice, gateway)| {
                about.is_none_or(|address| slice.contains(&address))
                    && !silent.contains_key(gateway)
            });
            asked.map(|(_, gateway)| *gateway).collect()
        };
        // That nobody can be asked just now is no answer to remember.
        if hosts.is_empty() {
            return None;
        }
        let mut waiting = hosts;
        // What keeps us from asking at all keeps everybody from answering.
        let answer = first_that_knows(query, &mut waiting).await.unwrap_or(None);
        if answer.is_none() {
            let now = Instant::now();
            lock(&self.silent).extend(waiting.into_iter().map(|host| (host, now)));
        }
        self.remember(key, answer.clone());
        answer
    }

    fn known(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let cache = lock(&self.cache);
        let entry = cache.get(key)?;
        (entry.until > Instant::now()).then(|| entry.answer.clone())
    }

    fn remember(&self, key: Vec<u8>, answer: Option<Vec<u8>>) {
        let now = Instant::now();
        let mut cache = lock(&self.cache);
        if cache.len() >= ENTRIES {
            cache.retain(|_, entry| entry.until > now);
        }
        // Whoever asks for a thousand names in seconds has them asked again.
        if cache.len() >= ENTRIES {
            cache.clear();
        }
        let good_for = match answer {
            Some(_) => KNOWN,
            None => UNKNOWN,
        };
        let until = now + good_for;
        cache.insert(key, Entry { answer, until });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks all at once; of `waiting` those are left who said nothing.
async fn first_that_knows(query: &[u8], waiting: &mut Vec<IpAddr>) -> io::Result<Option<Vec<u8>>> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let id = random_id()?;
    let asked = with_id(query, id);
    for host in waiting.iter() {
        // One that there is no way to is one that does not answer.
        let _ = socket.send_to(&asked, (*host, PORT)).await;
    }
    let mut buffer = vec![0; 4096];
    while !waiting.is_empty() {
        let Ok(received) = timeout_at(until, socket.recv_from(&mut buffer)).await else {
            break;
        };
        let (read, from) = received?;
        let answer = &buffer[..read];
        let is_it = |host: &IpAddr| from == SocketAddr::new(*host, PORT);
        let Some(place) = waiting.iter().position(is_it) else {
            continue;
        };
        if !answers(answer, query, id) {
            continue;
        }
        waiting.swap_remove(place);
        if code(answer) != Some(NO_ERROR) {
            continue;
        }
        let mut answer = with_id(answer, [query[0], query[1]]);
        if is_truncated(&answer)
            && let Ok(Ok(whole)) = timeout(PATIENCE, over_tcp(from, query)).await
        {
            answer = whole;
        }
        return Ok(Some(answer));
    }
    Ok(None)
}
