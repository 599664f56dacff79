//! Handshakes of a listener: several at once, none for long.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tracing::{debug, info};

use super::server::Acceptor;
use crate::{connection::Connection, rate::Rate};

/// How long a client has for its handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes under way; for one more the oldest from the address that has most is broken off. One that is meant
/// takes milliseconds, so who opens connections and says nothing keeps nobody else out.
const AT_ONCE: usize = 256;

/// Refused certificates that the service's log tells of, in so much time: each is some 200 bytes.
const TOLD: (u64, Duration) = (10, Duration::from_secs(10));

/// How long what a client still sends is taken after its certificate was refused, and how much of it: a
/// connection that is closed before is reset, and the client may not read why.
const LINGER: (Duration, u64) = (Duration::from_secs(1), 64 << 10);

/// The connections of a listener whose handshake went well. Ends with what it returns.
pub fn incoming(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
) -> impl Stream<Item = io::Result<Connection>> {
    let (give, taken) = mpsc::channel(16);
    tokio::spawn(async move {
        tokio::select! {
            () = give.closed() => {}
            () = accept(listener, acceptor, give.clone()) => {}
        }
    });
    ReceiverStream::new(taken)
}

async fn accept(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    give: mpsc::Sender<io::Result<Connection>>,
) {
    let mut under_way = Handshakes::default();
    let refusals = Arc::new(Refusals::default());
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or who came has gone again: better to wait than to spin.
                debug!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, give) = (Arc::clone(&acceptor), give.clone());
        let refusals = Arc::clone(&refusals);
        let handshake = tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, shake(stream, acceptor)).await {
                Ok(Ok(connection)) => {
                    // Nobody takes it when the service ends.
                    let _ = give.send(Ok(connection)).await;
                }
                Ok(Err(error)) => refusals.tell(address, &error, Instant::now()),
                Err(_) => debug!(%address, "a TLS handshake took too long"),
            }
        });
        under_way.push(address.ip(), handshake.abort_handle(), AT_ONCE);
    }
}

async fn shake(stream: TcpStream, acceptor: Arc<Acceptor>) -> io::Result<Connection> {
    // The call's first message is to go at once.
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?;
    match acceptor.now().accept(stream).into_fallible().await {
        Ok(stream) => Ok(Connection::encrypted(stream, address, acceptor)),
        Err((error, mut stream)) => {
            let (time, bytes) = LINGER;
            let read = async {
                // It may be gone already.
                let _ = stream.shutdown().await;
                let _ = tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink()).await;
            };
            let _ = tokio::time::timeout(time, read).await;
            Err(error)
        }
    }
}

/// Tells of certificates that were refused, and of nothing else but to who debugs: anybody who reaches the port
/// may break a handshake off as often as he likes.
struct Refusals(Rate);

impl Default for Refusals {
    fn default() -> Self {
        Self(Rate::new(TOLD.0, TOLD.1))
    }
}

impl Refusals {
    fn tell(&self, address: SocketAddr, error: &io::Error, at: Instant) {
        if !is_about_a_certificate(error) || !self.0.admits(at) {
            debug!(%address, %error, "refused a connection");
            return;
        }
        match self.0.left_out() {
            0 => info!(%address, %error, "refused a connection"),
            left_out => info!(%address, %error, left_out, "refused a connection, as others before"),
        }
    }
}

/// One that was shown, or that was to be; not what speaks no TLS, or goes away.
fn is_about_a_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}

/// Those under way, the oldest first, and where each comes from.
#[derive(Default)]
struct Handshakes(VecDeque<(IpAddr, AbortHandle)>);

impl Handshakes {
    /// One more; of more than `most` the oldest from where most come from no longer. What has ended does not count.
    fn push(&mut self, from: IpAddr, handshake: AbortHandle, most: usize) {
        self.0.push_back((network(from), handshake));
        if self.0.len() > most {
            self.0.retain(|(_, one)| !one.is_finished());
        }
        if self.0.len() > most
            && let Some((_, one)) = self.oldest_of_most().and_then(|at| self.0.remove(at))
        {
            one.abort();
        }
    }

    fn oldest_of_most(&self) -> Option<usize> {
        let mut counts = HashMap::<_, usize>::new();
        for (from, _) in &self.0 {
            *counts.entry(from).or_default() += 1;
        }
        let most = counts.values().max()?;
        self.0.iter().position(|(from, _)| counts[from] == *most)
    }
}

/// Who has an address of IPv6 has as many as he likes in its /64 (RFC 4291, 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, one)| one.abort());
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, Error};

    use super::*;

    /// What is logged by default meanwhile.
    fn logged(run: impl FnOnce()) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(std::fs::File::create(&path).unwrap())
            .finish();
        tracing::subscriber::with_default(subscriber, run);
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn nobody_fills_the_log_by_breaking_handshakes_off() {
        let refusals = Refusals::default();
        let address = "10.0.0.7:5".parse().unwrap();
        let start = Instant::now();
        let noise = [
            io::ErrorKind::UnexpectedEof.into(),
            io::ErrorKind::ConnectionReset.into(),
            io::Error::other(Error::PeerSentOversizedRecord),
            io::Error::other(Error::AlertReceived(rustls::AlertDescription::UserCanceled)),
        ];
        let lines = logged(|| {
            for error in &noise {
                refusals.tell(address, error, start);
            }
        });
        assert!(lines.is_empty(), "{lines:?}");

        let revoked = Error::InvalidCertificate(CertificateError::Revoked);
        let refused = [revoked, Error::NoCertificatesPresented].map(io::Error::other);
        let lines = logged(|| {
            for error in refused.iter().cycle().take(50) {
                refusals.tell(address, error, start);
            }
        });
        assert_eq!(lines.len(), 10, "{lines:?}");
        assert!(lines[0].contains("10.0.0.7:5"), "{}", lines[0]);
        assert!(lines[0].contains("Revoked"), "{}", lines[0]);
        let lines = logged(|| refusals.tell(address, &refused[0], start + TOLD.1));
        assert!(lines[0].contains("left_out=40"), "{}", lines[0]);
    }

    #[tokio::test]
    async fn one_too_many_breaks_off_the_oldest_of_whoever_has_most() {
        let mut under_way = Handshakes::default();
        let sources = [
            ("10.0.0.9", true),
            ("10.0.0.7", false),
            ("2001:db8::1", false),
            ("2001:db8::2", true),
            ("::ffff:10.0.0.7", true),
            // The sixth costs the first of its own network, and the seventh that of the first that has two.
            ("2001:db8::3", true),
            ("2001:db8:0:1::1", true),
        ];
        let mut tasks = Vec::new();
        for (from, _) in sources {
            let task = tokio::spawn(std::future::pending::<()>());
            under_way.push(from.parse().unwrap(), task.abort_handle(), 5);
            tasks.push(task);
        }
        // Who is broken off comes to his end when he has the thread.
        tokio::task::yield_now().await;
        let goes_on: Vec<_> = tasks.iter().map(|task| !task.is_finished()).collect();
        assert_eq!(goes_on, sources.map(|(_, goes_on)| goes_on));
        drop(under_way);
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }
}
