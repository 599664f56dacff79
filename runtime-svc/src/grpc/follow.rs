//! A container's output on its way to a client: from the log, as it grows, to the container's end.
//!
//! Two promises meet here. A slow client never blocks the container: it is the log that is read, and the
//! log has a cap. A client that is *attached* loses nothing: it holds the log, and the monitor keeps what
//! it has not read, up to `log-hold` beyond the cap. One that falls further behind is told, and its call
//! ends with an error; a reader of `logs` is told how much is missing, and goes on.

use std::{sync::Arc, time::Duration};

use slipway_proto::runtime::v1::Exited;
use tokio::{sync::OwnedRwLockReadGuard, task::JoinSet};

use super::{
    streams::{self, Client},
    view,
};
use crate::{
    container::state::{Container, Status as State},
    error::{Error, Tried as _},
    logs::{
        Piece, Selection,
        find::Start,
        hold::Hold,
        reader::{Kept, LogReader},
        sink::json_read::History,
    },
};

/// What is read, from where.
#[derive(Default)]
pub struct Reading {
    /// Where in the log to begin.
    pub from: Start,
    /// Shown before that.
    pub history: Option<History>,
    /// And this between them.
    pub begun: Vec<Piece>,
    /// What of it.
    pub selection: Selection,
    /// What was not read is kept.
    pub hold: Option<Hold>,
    /// Keeps the container's files where they are until all of its log is open.
    pub opening: Option<OwnedRwLockReadGuard<()>>,
    /// Goes on until the container ends.
    pub follow: bool,
}

/// What a client is sent.
pub struct Form<T> {
    /// For pieces.
    pub pieces: fn(Vec<Piece>) -> Vec<T>,
    /// For so many bytes that were gone before they were read.
    pub lost: fn(u64) -> Result<T, Error>,
}

/// Hands on what is read, until the container has ended and all was read, or the client is gone; returns
/// how it ended. Reads happen on the blocking pool, a batch at a time.
pub async fn follow<T: Send>(
    container: &Arc<Container>,
    reading: Reading,
    client: &Client<T>,
    form: Form<T>,
) -> Result<Exited, Error> {
    let kept = Kept::default();
    let mut keeping = JoinSet::new();
    keeping.spawn(keep(container.clone(), reading.opening, kept.clone()));
    let mut status = container.watch();
    let mut length = container.log_length.subscribe();
    let (selection, hold) = (reading.selection, reading.hold);
    let reader = LogReader::open(container.folder.clone(), reading.from.position).with(kept);
    let mut source = Source {
        history: reading.history,
        begun: reading
            .from
            .before
            .into_iter()
            .chain(reading.begun)
            .collect(),
        skip: reading.from.skip,
        reader,
        waiting: None,
    };
    loop {
        // Read before looking at the log: what ended before has written everything.
        let ended = match &*status.borrow_and_update() {
            State::Running { .. } | State::Ending { .. } => false,
            // Its next life is the same log's. Who is attached is attached to one life.
            State::Restarting { .. } => hold.is_some(),
            _ => true,
        };
        let known = *length.borrow_and_update();
        // Told by the monitor, or looked up at the end.
        let nothing = hold.is_some() && known == source.reader.position() && source.is_in_log();
        loop {
            if nothing {
                break;
            }
            let batch;
            (source, batch) = tokio::task::spawn_blocking(move || source.batch())
                .await
                .map_err(std::io::Error::other)
                .and_then(|r| r)
                .tried(|| format!("cannot read the log of container {}", container.name()))?;
            if let Some(hold) = &hold {
                hold.advance(source.reader.position());
            }
            if batch.lost > 0 && !streams::send(client, (form.lost)(batch.lost)?).await {
                return Ok(Exited::default());
            }
            if batch.pieces.is_empty() {
                break;
            }
            // As docker: what comes after the first that is too late is too late.
            let late = |p: &Piece| selection.until.is_some_and(|until| p.time > until);
            let over = batch.pieces.iter().any(late);
            let wanted = batch.pieces.into_iter().take_while(|p| !late(p));
            let wanted: Vec<Piece> = wanted.filter(|p| selection.takes(p)).collect();
            for event in (form.pieces)(wanted) {
                if !streams::send(client, event).await {
                    return Ok(Exited::default());
                }
            }
            if over {
                return Ok(Exited::default());
            }
        }
        if ended || !reading.follow {
            return Ok(match container.status() {
                State::Exited { record } | State::Restarting { record, .. } => {
                    view::exited(&record)
                }
                // One of `--rm` may be gone before we look.
                _ => container
                    .last_exit()
                    .map_or_else(Exited::default, |record| view::exited(&record)),
            });
        }
        tokio::select! {
            changed = length.changed() => drop(changed),
            changed = status.changed() => drop(changed),
            () = reached(selection.until) => return Ok(Exited::default()),
            // Nobody reads: what is silent must not be followed for ever.
            () = client.closed() => return Ok(Exited::default()),
        }
    }
}

/// Waits for a time; for ever when there is none.
async fn reached(until: Option<u64>) {
    match until {
        Some(until) => {
            let left = until.saturating_sub(crate::monitor::now());
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        None => std::future::pending().await,
    }
}

/// Keeps the log where it is until the container has ended and all of it is open: from then on removal
/// does it no harm, and need not wait for a slow client.
async fn keep(container: Arc<Container>, opening: Option<OwnedRwLockReadGuard<()>>, kept: Kept) {
    let Some(opening) = opening else { return };
    let mut status = container.watch();
    // Its sender lives as long as the container.
    let _ = status
        .wait_for(|s| !matches!(s, State::Running { .. } | State::Ending { .. }))
        .await;
    // Three files or so: quicker than to have it done elsewhere, and removal waits for it.
    if let Err(error) = kept.open_all(&container.folder) {
        tracing::warn!(%error, "a log could not be opened to its end");
    }
    drop(opening);
}

/// Bytes that are handed on at once.
const BATCH: usize = 256 * 1024;

struct Source {
    history: Option<History>,
    begun: Vec<Piece>,
    skip: usize,
    reader: LogReader,
    /// A piece that comes after a gap, and how long that is.
    waiting: Option<(u64, Piece)>,
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Piece>,
    lost: u64,
}

impl Source {
    /// Whether all that is left to be read is in the log.
    fn is_in_log(&self) -> bool {
        self.history.is_none() && self.begun.is_empty() && self.waiting.is_none()
    }

    fn batch(mut self) -> std::io::Result<(Self, Batch)> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        if let Some((lost, piece)) = self.waiting.take() {
            batch.lost = lost;
            batch.pieces.push(piece);
        }
        while bytes < BATCH {
            let Some(piece) = self.next()? else { break };
            bytes += piece.data.len();
            let lost = self.reader.take_lost();
            if lost > 0 && !batch.pieces.is_empty() {
                // The gap lies before this piece: told between the two.
                self.waiting = Some((lost, piece));
                break;
            }
            batch.lost += lost;
            batch.pieces.push(piece);
        }
        Ok((self, batch))
    }

    fn next(&mut self) -> std::io::Result<Option<Piece>> {
        if let Some(history) = &mut self.history {
            if let Some(piece) = history.next_piece()? {
                return Ok(Some(piece));
            }
            self.history = None;
        }
        if !self.begun.is_empty() {
            return Ok(Some(self.begun.remove(0)));
        }
        let mut piece = self.reader.next_piece()?;
        if let Some(first) = &mut piece {
            let skip = std::mem::take(&mut self.skip);
            first.data.drain(..skip.min(first.data.len()));
        }
        Ok(piece)
    }
}
