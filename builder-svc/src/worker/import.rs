//! Layers that a worker gets from here while they are made, and the large files of them, which need not be sent
//! again with the next layer that has them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use slipway_image::Digest;
use slipway_proto::runtime::v1::{ImportLayerRequest, KnownFile, import_layer_request::Part};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{CHUNKS, Snapshot, failed};
use crate::error::Result;

/// Most files of a worker that are remembered, at some 200 bytes each.
const MOST: usize = 100_000;

/// What follows in a layer's plain archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(bytes::Bytes),
    /// A file's content, which the worker has.
    Known {
        /// Where.
        place: Place,
        /// Its bytes.
        size: u64,
    },
}

impl From<bytes::Bytes> for Piece {
    fn from(data: bytes::Bytes) -> Self {
        Self::Data(data)
    }
}

/// A file in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The layer's diff id.
    pub layer: Digest,
    /// Where in it.
    pub path: String,
}

/// Where a worker has large content, as far as this process gave it to it. The worker may have lost it since.
#[derive(Debug, Default)]
pub struct WorkerFiles(Mutex<HashMap<Digest, Place>>);

impl WorkerFiles {
    /// Where the content is.
    pub fn find(&self, content: &Digest) -> Option<Place> {
        self.lock().get(content).cloned()
    }

    /// The worker has a layer with this content.
    pub fn note(&self, content: Digest, place: Place) {
        let mut files = self.lock();
        if files.len() >= MOST {
            files.clear();
        }
        files.insert(content, place);
    }

    /// The worker did not take a layer in which this was named.
    pub fn forget(&self, content: &Digest) {
        self.lock().remove(content);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    /// What its worker is known to have.
    pub fn worker_files(&self) -> &std::sync::Arc<WorkerFiles> {
        &self.lease.files
    }

    /// Gives the worker the plain archive of a layer, whose digest is told when all of it was sent.
    pub async fn import(
        &self,
        mut pieces: mpsc::Receiver<Piece>,
        diff_id: oneshot::Receiver<Digest>,
    ) -> Result<()> {
        let (send, requests) = mpsc::channel(CHUNKS);
        let feed = async move {
            let message = |part| ImportLayerRequest { part: Some(part) };
            let mut next = Some(Part::LeaseId(self.lease.id.clone()));
            while let Some(part) = next.take() {
                if send.send(message(part)).await.is_err() {
                    return;
                }
                next = pieces.recv().await.map(part_of);
            }
            // Without a digest the worker keeps nothing.
            if let Ok(diff_id) = diff_id.await {
                let _ = send.send(message(Part::DiffId(diff_id.to_string()))).await;
            }
        };
        let mut client = self.lease.client.clone();
        let (answer, ()) = tokio::join!(client.import_layer(ReceiverStream::new(requests)), feed);
        answer
            .map(drop)
            .map_err(|s| failed("cannot give the worker a layer".to_owned(), &s))
    }
}

fn part_of(piece: Piece) -> Part {
    match piece {
        Piece::Data(data) => Part::Data(data),
        Piece::Known { place, size } => Part::KnownFile(KnownFile {
            diff_id: place.layer.to_string(),
            path: place.path,
            size,
        }),
    }
}
