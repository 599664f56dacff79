//! One transfer of a blob from upstream: received, resumed where it broke off, verified, put into the store.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use slipway_image::Digest;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    Incoming, Scope, State,
    client::{Client, SLOWEST},
};
use crate::{
    blobs::{BlobStore, Staged, staging::blocking},
    error::{Error, Result},
    names::Repository,
};

/// Tries without new bytes worth mentioning before a transfer is given up.
const TRIES: u32 = 4;

/// Bytes gathered before they are written.
const BATCH: usize = 256 * 1024;

/// What a transfer needs.
pub struct Plan {
    /// What.
    pub digest: Digest,
    /// Its size, where a manifest told it.
    pub size: Option<u64>,
    /// Of which repository.
    pub repository: Repository,
    /// From where.
    pub client: Arc<Client>,
    /// Since when somebody wants it.
    pub since: Instant,
    /// Where the partial file is.
    pub partial: PathBuf,
    /// What may be there.
    pub incoming: Arc<Incoming>,
    /// Where it goes when it is verified.
    pub blobs: Arc<dyn BlobStore>,
}

impl Plan {
    /// `None` when nobody waits any more and bytes are missing.
    pub(super) async fn run(&self, state: &watch::Sender<State>) -> Option<Result<()>> {
        let ended = self.attempt(state).await;
        if !matches!(ended, Some(Ok(()))) {
            let incoming = Arc::clone(&self.incoming);
            if let Err(error) = blocking(move || incoming.tidy()).await {
                warn!(%error, "what broken transfers left is too much, and stays");
            }
        }
        ended
    }

    async fn attempt(&self, state: &watch::Sender<State>) -> Option<Result<()>> {
        let once = |failed| match failed {
            Ok(()) => Ok(()),
            Err((error, _)) => Err(error),
        };
        match self.transfer(state).await? {
            // What an earlier transfer left may be torn by a power cut: once more from the start.
            Err((Error::DigestMismatch { .. } | Error::SizeMismatch { .. }, resumed))
                if resumed > 0 && state.borrow().written == 0 =>
            {
                warn!(digest = %self.digest, "the partial file was damaged: starting again");
                self.transfer(state).await.map(once)
            }
            result => Some(once(result)),
        }
    }

    /// Returns errors with the number of bytes that were there at the start.
    async fn transfer(&self, state: &watch::Sender<State>) -> Option<Result<(), (Error, u64)>> {
        let collected = tokio::select! {
            biased;
            collected = self.collect(state) => collected,
            () = state.closed() => return None,
        };
        // All bytes are here: they are kept, whoever waits.
        Some(match collected {
            Ok((staged, resumed)) => self.settle(staged, state).await.map_err(|e| (e, resumed)),
            Err(failed) => Err(failed),
        })
    }

    async fn settle(&self, staged: Staged, state: &watch::Sender<State>) -> Result<()> {
        let total = state.borrow().total;
        let verified = staged.finish(Some(&self.digest), total).await?;
        let size = verified.size();
        state.send_modify(|s| {
            s.written = size;
            s.total = Some(size);
            s.verified = true;
        });
        slipway_fault::point("registry.fetch.verified");
        self.blobs.adopt(verified).await?;
        slipway_fault::point("registry.fetch.stored");
        Ok(())
    }

    /// Receives until nothing is missing. Returns how many bytes were there at the start.
    async fn collect(&self, state: &watch::Sender<State>) -> Result<(Staged, u64), (Error, u64)> {
        self.incoming
            .limits
            .check_size(self.size.unwrap_or(0))
            .map_err(|e| (e, 0))?;
        let staged = Staged::resume(self.partial.clone(), self.digest.algorithm())
            .await
            .map_err(|e| (e, 0))?;
        let resumed = staged.written();
        let mut failures = 0;
        loop {
            let (before, began) = (staged.written(), Instant::now());
            let total = state.borrow().total;
            if total.is_some_and(|total| before >= total) {
                return Ok((staged, resumed));
            }
            let wanted = total.map_or(0, |total| total - before);
            let room = self.incoming.make_room(wanted).await;
            room.map_err(|e| (e, resumed))?;
            match self.receive(&staged, state, resumed > 0).await {
                Ok(()) => return Ok((staged, resumed)),
                Err(error) if is_final(&error) => return Err((error, resumed)),
                Err(error) => {
                    // Whoever sends a byte and breaks off, again and again, gets no further.
                    let seconds = began.elapsed().as_secs().max(1);
                    failures = match staged.written() - before >= seconds * SLOWEST {
                        true => 1,
                        false => failures + 1,
                    };
                    if failures >= TRIES {
                        return Err((error, resumed));
                    }
                    debug!(digest = %self.digest, %error, failures, "transfer broke off: going on");
                    tokio::time::sleep(Duration::from_millis(100 << failures)).await;
                }
            }
        }
    }

    async fn receive(
        &self,
        staged: &Staged,
        state: &watch::Sender<State>,
        quiet: bool,
    ) -> Result<()> {
        let offset = staged.written();
        let (mut response, begins) = self
            .client
            .blob(self.repository.path(), &self.digest, offset, self.since)
            .await?;
        if let Some(length) = response.content_length() {
            // No size that it may have is so large.
            let announced = begins.saturating_add(length);
            let known = state.borrow().total;
            if known.is_some_and(|known| known != announced) {
                return Err(Error::SizeMismatch {
                    expected: known.unwrap_or_default(),
                    actual: announced,
                });
            }
            self.incoming.limits.check_size(announced)?;
            if known.is_none() {
                self.incoming
                    .make_room(announced.saturating_sub(offset))
                    .await?;
            }
            state.send_modify(|s| s.total = Some(announced));
        }
        // Upstream ignored the range: what is here already is passed over.
        let mut skip = offset - begins;
        let mut batch: Vec<Bytes> = Vec::new();
        let mut size = 0;
        let limit = state.borrow().total;
        let mut pace = Pace::new(self.client.patience(0));
        loop {
            let chunk = response.chunk().await.map_err(|e| self.client.broken(&e));
            let came = chunk.as_ref().ok().and_then(Option::as_ref);
            let slow = came.is_some_and(|chunk| pace.is_too_slow(chunk.len()));
            // What came until now is kept.
            let chunk = if slow {
                Err(self.client.too_slow())
            } else {
                chunk
            };
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(mut chunk)) = chunk.as_ref().map(Clone::clone) {
                let passed = skip.min(chunk.len() as u64);
                skip -= passed;
                chunk = chunk.slice(passed as usize..);
                size += chunk.len();
                if limit.is_some_and(|l| staged.written() + size as u64 > l) {
                    return Err(Error::SizeMismatch {
                        expected: limit.unwrap_or_default(),
                        actual: staged.written() + size as u64,
                    });
                }
                let limits = &self.incoming.limits;
                limits.check_size(staged.written() + size as u64)?;
                batch.push(chunk);
            }
            if size >= BATCH || (ended && size > 0) {
                self.incoming.has_room(size as u64)?;
                let written = staged.write(std::mem::take(&mut batch)).await?;
                slipway_fault::point("registry.fetch.written");
                size = 0;
                // Readers are not shown bytes that an earlier process left until they are verified...
                // unless nothing was left: then all of it came from this transfer.
                if !quiet {
                    state.send_modify(|s| s.written = written);
                }
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        match limit {
            Some(limit) if staged.written() < limit => Err(Error::UpstreamUnavailable {
                host: self.repository.host().to_owned(),
                message: "the transfer ended early".to_owned(),
                scope: Scope::Repository,
            }),
            _ => Ok(()),
        }
    }
}

/// Trying again cannot help.
fn is_final(error: &Error) -> bool {
    match error {
        Error::UpstreamUnavailable { scope, .. } => *scope == Scope::Refused,
        Error::Interrupted(_) => false,
        _ => true,
    }
}

/// How fast bytes come: whoever sends one now and then is never silent, and never done.
struct Pace {
    window: Duration,
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self {
            window,
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Takes note of bytes that came.
    fn is_too_slow(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        let took = self.began.elapsed();
        if took < self.window {
            return false;
        }
        let slow = (self.bytes as f64) < took.as_secs_f64() * SLOWEST as f64;
        (self.began, self.bytes) = (Instant::now(), 0);
        slow
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use slipway_image::Algorithm;

    use super::*;
    use crate::{
        blobs::FsStore,
        config::UpstreamConfig,
        mirror::{Mirror, MirrorLimits},
    };

    #[tokio::test]
    async fn a_rest_of_more_bytes_than_there_are_numbers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // Each request is small enough to come at once.
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let length = u64::MAX - 5;
                let head = format!("HTTP/1.1 206 x\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
            }
        });
        let upstream = UpstreamConfig::at("up.example", url.parse().unwrap());
        let mirror = Mirror::new(
            vec![upstream],
            folder.path().to_owned(),
            MirrorLimits::default(),
        );
        let partial = folder.path().join("partial");
        let plan = Plan {
            digest: Digest::of("content"),
            size: Some(100),
            repository: Repository::from_key("up.example/team/app").unwrap(),
            client: mirror.client("up.example", None).unwrap(),
            since: Instant::now(),
            partial: partial.clone(),
            incoming: Arc::clone(&mirror.incoming),
            blobs: Arc::new(FsStore::open(folder.path().join("blobs")).unwrap()),
        };
        let staged = Staged::resume(partial, Algorithm::Sha256).await.unwrap();
        staged.write(vec!["begun before".into()]).await.unwrap();
        drop(staged);
        let total = plan.size;
        let (state, _waits) = watch::channel(State {
            total,
            ..State::default()
        });
        let outcome = plan.run(&state).await.unwrap();
        assert!(
            matches!(
                outcome,
                Err(Error::SizeMismatch {
                    actual: u64::MAX,
                    ..
                })
            ),
            "{outcome:?}"
        );
    }
}
