//! Whether a streamed body was sent to its end: one that was cut off must not pass for a shorter one.
//!
//! A stream of gRPC messages cannot fail, and a call that is dropped does not end its body: a task of the
//! connection's sends what is left and then a proper end. So who makes a body says when it is whole, and the
//! stream of it ends with something that the other side refuses in every other case.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task,
};

use tokio::sync::mpsc;
use tokio_stream::Stream;

/// Whether everything of a body was sent. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Whole(Arc<AtomicU8>);

const OPEN: u8 = 0;
const WHOLE: u8 = 1;
const CUT_OFF: u8 = 2;

impl Whole {
    /// All chunks were sent.
    pub fn tell(&self) {
        self.leave_open_for(WHOLE);
    }

    /// Nobody will take it any more: its call has failed, or was dropped.
    pub fn is_cut_off(&self) -> bool {
        self.is(CUT_OFF)
    }

    /// Cuts the body off when the answer is dropped before it was told to be whole.
    #[must_use = "it is cut off at once"]
    pub fn until_dropped(&self) -> CutOff {
        CutOff(self.clone())
    }

    /// The body whose pieces come over a channel.
    pub const fn body<T>(self, data: mpsc::Receiver<T>) -> Body<T> {
        Body {
            data,
            whole: self,
            ended: false,
        }
    }

    fn leave_open_for(&self, state: u8) {
        // Whichever comes first stays.
        let _ = self
            .0
            .compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire);
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Acquire) == state
    }
}

/// See [`Whole::until_dropped`].
#[derive(Debug)]
pub struct CutOff(Whole);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.leave_open_for(CUT_OFF);
    }
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<T> {
    /// Content.
    Data(T),
    /// The body ends here, and it is not whole: to be said in a way that the other side refuses.
    CutOff,
}

/// See [`Whole::body`].
#[derive(Debug)]
pub struct Body<T> {
    data: mpsc::Receiver<T>,
    whole: Whole,
    ended: bool,
}

impl<T> Stream for Body<T> {
    type Item = Piece<T>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Piece<T>>> {
        if self.ended {
            return task::Poll::Ready(None);
        }
        let data = task::ready!(self.data.poll_recv(context));
        task::Poll::Ready(match data {
            Some(data) if !self.whole.is(CUT_OFF) => Some(Piece::Data(data)),
            None if self.whole.is(WHOLE) => None,
            _ => {
                self.ended = true;
                Some(Piece::CutOff)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    async fn body(whole: &Whole, before_the_end: impl FnOnce()) -> Vec<Piece<bytes::Bytes>> {
        let (send, receive) = mpsc::channel(1);
        let mut body = whole.clone().body(receive);
        send.send(bytes::Bytes::from("x")).await.unwrap();
        let mut pieces = vec![body.next().await.unwrap()];
        before_the_end();
        drop(send);
        while let Some(piece) = body.next().await {
            pieces.push(piece);
        }
        pieces
    }

    #[tokio::test]
    async fn only_what_was_said_to_be_whole_ends_well() {
        let data = Piece::Data("x".into());
        let whole = Whole::default();
        let pieces = body(&whole, || whole.tell()).await;
        assert_eq!(pieces, std::slice::from_ref(&data));
        // Whoever made it failed.
        let whole = Whole::default();
        let pieces = body(&whole, || {}).await;
        assert_eq!(pieces, [data.clone(), Piece::CutOff]);
        // Whoever sent it is gone, and that it is whole is said too late.
        let whole = Whole::default();
        let sending = whole.until_dropped();
        let pieces = body(&whole, || {
            drop(sending);
            whole.tell();
        });
        assert_eq!(pieces.await, [data, Piece::CutOff]);
        assert!(whole.is_cut_off());
    }
}
