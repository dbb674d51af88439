//! A body that knows when it was handed to the connection.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};

use crate::ops::in_flight::Claim;

/// The body of a 201. When the connection takes it, the creation is acknowledged; if it is dropped before, because
/// the caller has gone, the creation stays unfinished, and the same request completes it.
pub(super) struct SentBody {
    octets: Option<Bytes>,
    claim: Option<Claim>,
}

impl SentBody {
    pub(super) fn body(octets: Vec<u8>, claim: Claim) -> Body {
        Body::new(Self {
            octets: Some(octets.into()),
            claim: Some(claim),
        })
    }
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(claim) = self.claim.take() {
            claim.sent();
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
