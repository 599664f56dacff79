//! Single flight: one transfer of a blob from upstream, however many read it, each following the file
//! while it grows.

use std::{
    collections::HashMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use slipway_image::Digest;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::client::Client;
use crate::{
    blobs::{BlobReader, BlobStore, Range, Staged, reading::Source},
    error::{Error, Result},
};

/// Tries without a single new byte before a transfer is given up.
const TRIES: u32 = 4;

/// Bytes gathered before they are written.
const BATCH: usize = 256 * 1024;

/// All transfers that are going on.
#[derive(Default)]
pub struct Flights {
    going: Mutex<HashMap<Digest, Entry>>,
}

struct Entry {
    flight: Weak<Flight>,
    /// Only one task at a time writes the partial file.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// One transfer. It goes on as long as somebody holds it; afterwards its partial file stays, and the
/// next one continues there.
pub struct Flight {
    path: PathBuf,
    state: watch::Receiver<State>,
}

/// How far a transfer is.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Bytes in the file.
    pub written: u64,
    /// Size of the blob, once known.
    pub total: Option<u64>,
    /// All bytes are in the file.
    pub whole: bool,
    /// The file holds the right bytes. What is left is to make them durable, and readers need not wait
    /// for that.
    pub verified: bool,
    /// Set at the end.
    pub outcome: Option<Result<(), Arc<Error>>>,
}

/// What a transfer needs.
pub struct Plan {
    /// What.
    pub digest: Digest,
    /// Its size, where a manifest told it.
    pub size: Option<u64>,
    /// Path of the repository at the upstream.
    pub repository: String,
    /// From where.
    pub client: Arc<Client>,
    /// Where the partial file is.
    pub partial: PathBuf,
    /// Where it goes when it is verified.
    pub blobs: Arc<dyn BlobStore>,
}

impl Flights {
    /// Joins the transfer of a blob, or starts it. `arrived` runs when it is in the store, before
    /// anybody is told.
    pub fn join(
        &self,
        plan: Plan,
        arrived: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Arc<Flight> {
        let mut going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = going.get(&plan.digest);
        if let Some(flight) = entry.and_then(|e| e.flight.upgrade())
            && flight.state.borrow().outcome.is_none()
        {
            return flight;
        }
        let turn = entry.map(|e| Arc::clone(&e.turn)).unwrap_or_default();
        let (sender, state) = watch::channel(State {
            total: plan.size,
            ..State::default()
        });
        let flight = Arc::new(Flight {
            path: plan.partial.clone(),
            state,
        });
        let weak = Arc::downgrade(&flight);
        going.retain(|_, e| e.flight.strong_count() > 0 || Arc::strong_count(&e.turn) > 1);
        going.insert(
            plan.digest.clone(),
            Entry {
                flight: weak,
                turn: Arc::clone(&turn),
            },
        );
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            tokio::select! {
                outcome = plan.run(&sender) => {
                    let outcome = match outcome {
                        Ok(()) => arrived.await,
                        Err(error) => Err(error),
                    };
                    sender.send_modify(|s| s.outcome = Some(outcome.map_err(Arc::new)));
                }
                () = abandoned(&sender) => debug!(digest = %plan.digest, "nobody waits any more"),
            }
        });
        flight
    }
}

/// Waits until nobody waits any more for what is still to come. Once all of it is here it is stored, too: who has
/// read its last byte goes.
async fn abandoned(state: &watch::Sender<State>) {
    state.closed().await;
    if state.borrow().whole {
        std::future::pending::<()>().await;
    }
}

impl Plan {
    async fn run(&self, state: &watch::Sender<State>) -> Result<()> {
        match self.transfer(state).await {
            // What an earlier transfer left may be torn by a power cut: once more from the start.
            Err((Error::DigestMismatch { .. } | Error::SizeMismatch { .. }, resumed))
                if resumed > 0 && state.borrow().written == 0 =>
            {
                warn!(digest = %self.digest, "the partial file was damaged: starting again");
                self.transfer(state).await.map_err(|(e, _)| e)
            }
            result => result.map_err(|(e, _)| e),
        }
    }

    /// Returns errors with the number of bytes that were there at the start.
    async fn transfer(&self, state: &watch::Sender<State>) -> Result<(), (Error, u64)> {
        let staged = Staged::resume(self.partial.clone(), self.digest.algorithm())
            .await
            .map_err(|e| (e, 0))?;
        state.send_modify(|s| s.whole = false);
        let resumed = staged.written();
        let fail = |e: Error| (e, resumed);
        let mut failures = 0;
        loop {
            let before = staged.written();
            let total = state.borrow().total;
            if total.is_some_and(|total| before >= total) {
                break;
            }
            match self.receive(&staged, state, resumed > 0).await {
                Ok(()) => break,
                Err(error) if is_final(&error) => return Err(fail(error)),
                Err(error) => {
                    failures = if staged.written() > before {
                        1
                    } else {
                        failures + 1
                    };
                    if failures >= TRIES {
                        return Err(fail(error));
                    }
                    debug!(digest = %self.digest, %error, failures, "transfer broke off: going on");
                    tokio::time::sleep(Duration::from_millis(100 << failures)).await;
                }
            }
        }
        state.send_modify(|s| s.whole = true);
        let total = state.borrow().total;
        let verified = staged
            .finish(Some(&self.digest), total)
            .await
            .map_err(fail)?;
        let size = verified.size();
        state.send_modify(|s| {
            s.written = size;
            s.total = Some(size);
            s.verified = true;
        });
        slipway_fault::point("registry.fetch.verified");
        self.blobs.adopt(verified).await.map_err(fail)?;
        slipway_fault::point("registry.fetch.stored");
        Ok(())
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
            .blob(&self.repository, &self.digest, offset)
            .await?;
        if let Some(length) = response.content_length() {
            let announced = begins + length;
            let known = state.borrow().total;
            if known.is_some_and(|known| known != announced) {
                return Err(Error::SizeMismatch {
                    expected: known.unwrap_or_default(),
                    actual: announced,
                });
            }
            state.send_modify(|s| s.total = Some(announced));
        }
        // Upstream ignored the range: what is here already is passed over.
        let mut skip = offset - begins;
        let mut batch: Vec<Bytes> = Vec::new();
        let mut size = 0;
        let limit = state.borrow().total;
        loop {
            let chunk = response.chunk().await.map_err(|e| self.client.broken(&e));
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
                batch.push(chunk);
            }
            if size >= BATCH || (ended && size > 0) {
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
                host: self.repository.clone(),
                message: "the transfer ended early".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Trying again cannot help.
fn is_final(error: &Error) -> bool {
    !matches!(
        error,
        Error::UpstreamUnavailable { .. } | Error::Interrupted(_)
    )
}

impl Flight {
    /// How far it is; changes can be waited for.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits for the end.
    pub async fn done(&self) -> Result<u64> {
        let mut state = self.state.clone();
        let state = state
            .wait_for(|s| s.outcome.is_some())
            .await
            .map_err(|_| Error::Interrupted("the transfer was stopped".to_owned()))?;
        match state.outcome.clone() {
            Some(Ok(())) | None => Ok(state.written),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Reads while it arrives. The last byte comes only when the whole was verified, so whoever has
    /// all bytes has the right ones.
    pub async fn read(self: Arc<Self>, range: Range) -> Result<BlobReader> {
        let mut state = self.state.clone();
        let (total, failed) = {
            // The file exists as soon as there is a byte in it, or the end has come.
            let known = state
                .wait_for(|s| s.outcome.is_some() || (s.total.is_some() && s.written > 0))
                .await
                .map_err(|_| Error::Interrupted("the transfer was stopped".to_owned()))?;
            (known.total.unwrap_or(0), known.outcome.clone())
        };
        if let Some(Err(error)) = failed {
            return Err(error.into());
        }
        let offset = range.offset.min(total);
        let length = range.length.unwrap_or(u64::MAX).min(total - offset);
        let opened = Source::open(self.path.clone()).await;
        let source = opened.map_err(Error::io("cannot open", &self.path))?;
        let end = offset + length;
        let follow = (self, source, state, offset);
        let stream =
            stream::try_unfold(follow, move |(flight, source, mut state, at)| async move {
                if at >= end {
                    return Ok(None);
                }
                let available = {
                    let seen = state
                        .wait_for(|s| {
                            s.outcome.is_some() || s.verified || s.written.min(total - 1) > at
                        })
                        .await
                        .map_err(|_| Error::Interrupted("the transfer was stopped".to_owned()))?;
                    match &seen.outcome {
                        Some(Ok(())) => total,
                        _ if seen.verified => total,
                        Some(Err(error)) => return Err(Arc::clone(error).into()),
                        None => seen.written.min(total - 1),
                    }
                };
                let piece = source.piece(at, available.min(end) - at).await?;
                let at = at + piece.len() as u64;
                Ok(Some((piece, (flight, source, state, at))))
            });
        Ok(BlobReader {
            total,
            length,
            stream: stream.boxed(),
        })
    }
}
