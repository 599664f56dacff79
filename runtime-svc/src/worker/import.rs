//! A layer that a builder gives, under its lease: what comes of it counts there until it is a layer, or gone.

use std::sync::Arc;

use slipway_image::Digest;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Worker, quota::Reserved};
use crate::{
    error::Error,
    layers::{self, Piece},
};

/// Pieces that wait for the unpacker.
const QUEUE: usize = 16;

/// A layer on its way. When it is dropped before its end, nothing of it stays.
pub struct Import {
    layer: layers::Import,
    send: mpsc::Sender<Piece>,
    reserved: Arc<Reserved>,
    lease: String,
    ended: CancellationToken,
}

impl Worker {
    /// Begins to unpack a layer's plain archive.
    pub fn import(&self, lease: &str) -> Result<Import, Error> {
        let (quota, ended) = self.leases.room_for_snapshot(lease)?;
        let reserved = Arc::new(Reserved::new(quota));
        let (send, receive) = mpsc::channel(QUEUE);
        let layer = self.layers().import(receive, reserved.clone())?;
        Ok(Import {
            layer,
            send,
            reserved,
            lease: lease.to_owned(),
            ended,
        })
    }
}

impl Import {
    /// What follows in the archive. False: no more is wanted, and [`Self::finish`] says why.
    pub async fn push(&self, piece: Piece) -> Result<bool, Error> {
        // Before it is written. What is copied here from another layer costs nobody a transfer, and takes as
        // much of the disk as what came.
        self.reserved.add(piece.size())?;
        Ok(self.send.send(piece).await.is_ok())
    }

    /// Does something with it, but no longer than its lease is there.
    pub async fn while_there<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            done = work => done,
            () = self.ended.cancelled() => Err(Error::NoSuchLease(self.lease.clone()).into()),
        }
    }

    /// Keeps it as this layer, which it must be. Without a digest it only tells why it was not wanted.
    pub async fn finish(self, diff_id: Option<&Digest>) -> Result<(), Error> {
        drop(self.send);
        self.layer.keep(diff_id).await?;
        // From now on it counts with the layers of this host.
        self.reserved.give_back();
        Ok(())
    }
}
