//! Single flight: one transfer of a blob from upstream into a repository, however many read it, each following the
//! file while it grows. Repositories share none: what one upstream says, or how slowly, is not for others, and what it
//! gives is for those who may read that repository.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use slipway_image::Digest;
use tokio::sync::watch;
use tracing::debug;

use super::transfer::Plan;
use crate::{
    blobs::{BlobReader, Range, reading::Source},
    error::{Error, Result},
    names::Repository,
};

/// All transfers that are going on, by what comes and for which repository: what one upstream sends is not read as
/// another's, and nobody waits for the upstream of somebody else.
#[derive(Default)]
pub struct Flights {
    going: Mutex<HashMap<Key, Entry>>,
}

type Key = (Repository, Digest);

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
    /// The file holds the right bytes. What is left is to make them durable, and readers need not wait
    /// for that.
    pub verified: bool,
    /// Set at the end.
    pub outcome: Option<Result<(), Arc<Error>>>,
}

impl Flights {
    /// Somebody waits for this blob already.
    pub fn is_going(&self, repository: &Repository, digest: &Digest) -> bool {
        let going = self.going();
        let entry = going.get(&(repository.clone(), digest.clone()));
        let flight = entry.and_then(|e| e.flight.upgrade());
        flight.is_some_and(|flight| flight.state.borrow().outcome.is_none())
    }

    /// Waits until what comes has come, and all that follows from that is done.
    pub async fn settled(&self, repository: &Repository, digest: &Digest) {
        let key = (repository.clone(), digest.clone());
        let turn = self.going().get(&key).map(|e| Arc::clone(&e.turn));
        if let Some(turn) = turn {
            drop(turn.lock().await);
        }
    }

    fn going(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the transfer of a blob, or starts it. `here` tells the blob's size if it came for this repository while
    /// this one waited for its turn; `ended` runs when it is in the store, or failed, before anybody is told.
    pub fn join(
        &self,
        plan: Plan,
        here: impl Future<Output = Result<Option<u64>>> + Send + 'static,
        ended: impl FnOnce(Result<()>) -> BoxFuture<'static, Result<()>> + Send + 'static,
    ) -> Arc<Flight> {
        let key = (plan.repository.clone(), plan.digest.clone());
        let mut going = self.going();
        let entry = going.get(&key);
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
            key,
            Entry {
                flight: weak,
                turn: Arc::clone(&turn),
            },
        );
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            // Its readers had all of it and went before it was in the store, or it ended as somebody looked whether it is.
            if let Ok(Some(size)) = here.await {
                sender.send_modify(|s| {
                    *s = State {
                        written: size,
                        total: Some(size),
                        verified: true,
                        outcome: Some(Ok(())),
                    }
                });
                return;
            }
            match plan.run(&sender).await {
                Some(outcome) => {
                    let outcome = ended(outcome).await.map_err(Arc::new);
                    sender.send_modify(|s| s.outcome = Some(outcome));
                }
                None => debug!(digest = %plan.digest, "nobody waits any more"),
            }
        });
        flight
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use slipway_image::Algorithm;

    use super::*;
    use crate::{
        blobs::{BlobStore, FsStore, Staged},
        config::UpstreamConfig,
        mirror::{Mirror, MirrorLimits},
    };

    /// The last byte came, and the only reader went away while it was verified.
    #[tokio::test]
    async fn what_is_complete_is_kept_although_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, content) = (folder.path().join("partial"), vec![7; 3_000_000]);
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Nobody is asked: all bytes are here already.
        let nowhere = UpstreamConfig::at("up.example", "http://127.0.0.1:1".parse().unwrap());
        let mirror = Mirror::new(
            vec![nowhere],
            folder.path().to_owned(),
            MirrorLimits::default(),
        );
        let store = Arc::new(FsStore::open(folder.path().join("blobs")).unwrap());
        let plan = || Plan {
            digest: Digest::of(&content),
            size: Some(content.len() as u64),
            repository: Repository::from_key("up.example/team/app").unwrap(),
            since: Instant::now(),
            client: mirror.client("up.example", None).unwrap(),
            partial: partial.clone(),
            incoming: Arc::clone(&mirror.incoming),
            blobs: Arc::<FsStore>::clone(&store),
        };
        let resumed = Staged::resume(partial.clone(), Algorithm::Sha256).await;
        let staged = resumed.unwrap();
        staged.write(vec![content.clone().into()]).await.unwrap();
        drop(staged);
        let digest = Digest::of(&content);
        let flights = Flights::default();
        let (told, end) = tokio::sync::oneshot::channel();
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let flight = flights.join(plan(), std::future::ready(Ok(None)), |outcome| {
            Box::pin(async {
                let _ = told.send(outcome.is_ok());
                let _ = gate.await;
                outcome
            })
        });
        let mut state = flight.watch();
        state.wait_for(|state| state.verified).await.unwrap();
        drop((flight, state));
        assert_eq!(end.await, Ok(true));
        assert!(store.stat(&digest).await.unwrap().is_some());

        // Whoever comes now is not part of that transfer any more, and finds what it brought.
        let (of_it, kept) = (digest.clone(), Arc::clone(&store));
        let here = async move { kept.stat(&of_it).await };
        let second = flights.join(plan(), here, |outcome| Box::pin(async { outcome }));
        go.send(()).unwrap();
        assert_eq!(second.done().await.unwrap(), content.len() as u64);
    }
}
