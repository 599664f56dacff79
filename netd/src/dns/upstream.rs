//! Other resolvers, the host's or a container's own: which they are, and asking them.
//!
//! A forwarded query goes through as it came, so that EDNS and record types that nobody here knows
//! work; only its id is replaced, for each question comes from a port of its own with a random id.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::cache::Cache;
use super::wire::{HEADER, questions};

const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const PORT: u16 = 53;

/// What resolv.conf(5) says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers, at most three are used.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file's text; what makes no sense is passed over, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone index (fe80::1%eth0) means a link-local server: not parsed, not used.
                    conf.nameservers
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        conf.nameservers.truncate(3);
        conf
    }
}

/// The host's resolvers, read again when their file changes.
#[derive(Debug)]
pub struct Upstream {
    path: PathBuf,
    own: IpAddr,
    read: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
    cache: Mutex<Cache>,
    /// Servers that gave no answer, and since when: they are asked last for a while.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

/// For how long a server that gave no answer is asked last.
const SILENCE: Duration = Duration::from_secs(30);

impl Upstream {
    /// Reads `path`; `own` is never asked, it is ourselves.
    pub fn new(path: PathBuf, own: IpAddr) -> Self {
        Self {
            path,
            own,
            read: Mutex::default(),
            cache: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    fn host_servers(&self) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(&self.path)
            .and_then(|meta| meta.modified())
            .ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some((when, servers)), Some(changed)) = (&*read, changed)
            && *when == changed
        {
            return servers.clone();
        }
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let servers: Vec<SocketAddr> = ResolvConf::parse(&text)
            .nameservers
            .into_iter()
            .filter(|server| *server != self.own)
            .map(|server| SocketAddr::new(server, PORT))
            .collect();
        if let Some(changed) = changed {
            *read = Some((changed, servers.clone()));
        }
        servers
    }

    /// Asks the given servers, or the host's, in order and twice; by tcp if the client came by tcp.
    pub async fn ask(&self, given: &[IpAddr], query: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let mut servers: Vec<SocketAddr> = match given {
            [] => self.host_servers(),
            given => given
                .iter()
                .map(|server| SocketAddr::new(*server, PORT))
                .collect(),
        };
        let known = lock(&self.cache).get(&servers, query, Instant::now());
        if let Some(answer) = known {
            return Ok(answer);
        }
        let asked = servers.clone();
        {
            let mut silent = lock(&self.silent);
            silent.retain(|_, since| since.elapsed() < SILENCE);
            servers.sort_by_key(|server| silent.contains_key(server));
        }
        let mut last = io::Error::other("there is no resolver to ask");
        for server in std::iter::repeat_n(servers, ROUNDS).flatten() {
            let answer = if tcp {
                over_tcp(server, query).await
            } else {
                over_udp(server, query).await
            };
            match answer {
                Ok(answer) => {
                    lock(&self.silent).remove(&server);
                    lock(&self.cache).put(&asked, query, &answer, Instant::now());
                    return Ok(answer);
                }
                Err(error) => {
                    lock(&self.silent).insert(server, Instant::now());
                    last = error;
                }
            }
        }
        Err(last)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is the answer to that: whoever guesses an id has to guess the question, too.
pub(super) fn answers(answer: &[u8], query: &[u8], id: [u8; 2]) -> bool {
    answer.len() >= HEADER
        && answer[..2] == id
        && answer[2] & 0x80 != 0
        && questions(answer).is_some_and(|asked| {
            // A server that understood nothing may leave it out (RFC 1035, 4.1.1).
            Some(&asked) == questions(query).as_ref() || (asked.is_empty() && answer[3] & 0xf != 0)
        })
}

/// The same message with another id.
pub(super) fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[..2].copy_from_slice(&id);
    message
}

/// Nobody guesses it.
pub(super) fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::from)?;
    Ok(id)
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&with_id(query, id)).await?;
    let mut buffer = vec![0; 65535];
    let wait = async {
        loop {
            let read = socket.recv(&mut buffer).await?;
            if answers(&buffer[..read], query, id) {
                return Ok::<_, io::Error>(read);
            }
        }
    };
    let read = timeout(PATIENCE, wait).await.map_err(io::Error::from)??;
    Ok(with_id(&buffer[..read], [query[0], query[1]]))
}

/// Asks a server; the answer has the query's id.
pub(super) async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let work = async {
        let mut stream = TcpStream::connect(server).await?;
        let len = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut framed = len.to_be_bytes().to_vec();
        let id = random_id()?;
        framed.extend(with_id(query, id));
        stream.write_all(&framed).await?;
        let len = stream.read_u16().await?;
        let mut response = vec![0; usize::from(len)];
        stream.read_exact(&mut response).await?;
        if !answers(&response, query, id) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(with_id(&response, [query[0], query[1]]))
    };
    timeout(PATIENCE, work).await.map_err(io::Error::from)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let conf = ResolvConf::parse(
            "# by hand\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch a.example b.example\n\
             options edns0 trust-ad ; yes\nnameserver 2001:db8::1\n",
        );
        assert_eq!(
            conf.nameservers,
            [
                "127.0.0.53".parse::<IpAddr>().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]
        );
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!(conf.options, ["edns0", "trust-ad"]);
    }
}
