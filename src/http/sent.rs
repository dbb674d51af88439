//! A body that knows when it was handed to the connection.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};

use crate::ops::{deletions::Deletion, in_flight::Claim};

/// What waits until its answer was sent.
pub(super) trait Acknowledged: Send + Unpin + 'static {
    /// The answer has been handed to the connection.
    fn acknowledge(self);
}

impl Acknowledged for Claim {
    fn acknowledge(self) {
        self.sent();
    }
}

impl Acknowledged for Deletion {
    fn acknowledge(self) {
        self.answered();
    }
}

/// The body of an answer that is a promise. When the connection takes it, the creation or deletion is acknowledged; if it
/// is dropped before, because the caller has gone, it stays unfinished, and the same request finishes it.
pub(super) struct SentBody<A> {
    octets: Option<Bytes>,
    acknowledged: Option<A>,
}

impl<A: Acknowledged> SentBody<A> {
    pub(super) fn body(octets: Vec<u8>, acknowledged: A) -> Body {
        Body::new(Self {
            octets: Some(octets.into()),
            acknowledged: Some(acknowledged),
        })
    }
}

impl<A: Acknowledged> http_body::Body for SentBody<A> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(acknowledged) = self.acknowledged.take() {
            acknowledged.acknowledge();
        }
        Poll::Ready(self.octets.take().map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        self.octets.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.octets.as_ref().map_or(0, |octets| octets.len() as u64))
    }
}
