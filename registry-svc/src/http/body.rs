//! Bodies out and in: known lengths, bounded memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::traffic::{Meter, Traffic};
use crate::{
    blobs::{BlobReader, BlobStream},
    error::{Error, Result},
    in_hand::{InHand, SMALL},
    large::{LARGE, Large, Turn},
};

/// Bytes gathered before they are written.
const BATCH: usize = 512 * 1024;

/// What a piece takes of memory at least, however short it is: it lies in the room that was made to read it.
const PIECE: usize = 8 * 1024;

/// A body on its way out; its length is always known.
pub enum Body {
    /// In memory.
    Whole(Bytes),
    /// From the store.
    Stream {
        /// The bytes.
        stream: BlobStream,
        /// How many are still to come.
        left: u64,
    },
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl From<BlobReader> for Body {
    fn from(reader: BlobReader) -> Self {
        Self::Stream {
            stream: reader.stream,
            left: reader.length,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            // In pieces: whoever takes them slowly is not through with it.
            Self::Whole(bytes) => {
                let piece = bytes.split_to(bytes.len().min(SMALL));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Stream { stream, left } => match stream.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => {
                    *left = left.saturating_sub(piece.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
                Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(e))),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stream { left, .. } => *left,
        })
    }
}

/// A body on its way in.
pub struct Upload {
    body: Incoming,
    meter: Arc<Meter>,
    traffic: Arc<Traffic>,
}

/// Pieces for one write.
pub struct Batch {
    /// As they came; empty at the end.
    pub pieces: Vec<Bytes>,
    /// Until they are written.
    pub in_hand: InHand,
}

impl Upload {
    /// Takes a request's body.
    pub fn new(body: Incoming, traffic: &Arc<Traffic>) -> Self {
        Self {
            body,
            meter: traffic.meter(),
            traffic: Arc::clone(traffic),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            self.meter.waits(true);
            let frame = self.body.frame().await;
            self.meter.waits(false);
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::Interrupted(e.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.meter.moved(data.len());
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The next pieces, enough of them for one write; fewer when many have some.
    pub async fn batch(&mut self) -> Result<Batch> {
        let mut batch = Batch {
            pieces: Vec::new(),
            in_hand: InHand::default(),
        };
        while batch.in_hand.bytes() < batch.in_hand.most(BATCH) {
            let Some(data) = self.next().await? else {
                break;
            };
            batch.in_hand.add(data.len().max(PIECE));
            batch.pieces.push(data);
        }
        Ok(batch)
    }

    /// The whole body, at most `limit` bytes. One that may be `large` waits for its turn then, and has that as
    /// long as it is used.
    pub async fn whole(
        mut self,
        what: &'static str,
        limit: usize,
        large: Option<&Large>,
    ) -> Result<(Bytes, Option<Turn>)> {
        let (mut content, mut turn) = (Vec::new(), None);
        while let Some(data) = self.next().await? {
            if let (None, Some(large)) = (&turn, large)
                && content.len() + data.len() > LARGE
            {
                turn = Some(large.arrive(self.traffic.clone()).await?);
            }
            if content.len() + data.len() > limit {
                return Err(Error::TooLarge {
                    what,
                    limit: limit as u64,
                });
            }
            content.extend_from_slice(&data);
        }
        Ok((content.into(), turn))
    }
}
