//! How a call ends, seen from outside: by the status in front of the answer, or behind it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::Entry;

/// The same answer; `entry` is told of when it has come to its end, or nobody waits for that any more. With `lasts`
/// it is when the answer begins, too.
pub(crate) async fn watched<E>(
    mut entry: Entry,
    lasts: bool,
    call: impl Future<Output = Result<Response<Body>, E>>,
) -> Result<Response<Body>, E> {
    let response = call.await?;
    if told(&mut entry, response.headers()) {
        return Ok(response);
    }
    if lasts {
        entry.tell_begin();
    }
    Ok(response.map(|inner| {
        Body::new(Watched {
            inner,
            entry: Some(entry),
        })
    }))
}

/// Whether there is a status in these.
fn told(entry: &mut Entry, headers: &HeaderMap) -> bool {
    let status = Status::from_header_map(headers);
    status.inspect(|status| entry.ended(status)).is_some()
}

struct Watched {
    inner: Body,
    entry: Option<Entry>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(entry)) = (frame.trailers_ref(), &mut self.entry) {
                    told(entry, trailers);
                    self.entry = None;
                }
            }
            Some(Err(status)) => {
                if let Some(mut entry) = self.entry.take() {
                    entry.ended(status);
                }
            }
            None => self.entry = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
