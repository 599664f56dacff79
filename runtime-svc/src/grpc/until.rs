//! A stream that ends at a point in time, also when nothing comes any more.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;
use tokio_stream::Stream;

/// What comes from `stream` until then.
pub struct Until<S> {
    stream: Pin<Box<S>>,
    end: Pin<Box<Sleep>>,
}

impl<S> Until<S> {
    /// `until` in nanoseconds since the epoch. What is there already comes even if that has passed.
    pub fn new(stream: S, until: u64) -> Self {
        let left = until.saturating_sub(crate::monitor::now());
        Self {
            stream: Box::pin(stream),
            end: Box::pin(tokio::time::sleep(Duration::from_nanos(left))),
        }
    }
}

impl<S: Stream> Stream for Until<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        match self.stream.as_mut().poll_next(context) {
            Poll::Pending => self.end.as_mut().poll(context).map(|()| None),
            ready => ready,
        }
    }
}
