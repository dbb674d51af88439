//! The rest of a body that no call reads is read and thrown away, so that the caller can read the answer.
//!
//! A connection that is closed while its caller still sends is reset, and the answer may be lost with it (RFC 9112, 9.6).
//! Clients that send the whole body first, such as Node's `fetch`, would see a broken pipe in place of a 413.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::extract::BODY_MAX_OCTETS;

/// Most that is read of a body that no call reads, in octets, and how long.
const UNREAD_MAX_OCTETS: usize = 16 * 1024 * 1024;
const UNREAD_TIMEOUT_MS: u64 = 10_000;

/// The body of a request. Dropped before its end, the rest of it is read in the background.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Option<Incoming>,
    /// The caller sends it when it is asked to (RFC 9110, 10.1.1), which reading it does.
    waits_for_continue: bool,
    is_left: LeftUnread,
}

/// Whether more of a body was left unread than the connection can be used after.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftUnread(Arc<AtomicBool>);

impl LeftUnread {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap) -> (Self, LeftUnread) {
        let is_left = LeftUnread::default();
        let body = Self {
            incoming: Some(incoming),
            waits_for_continue: headers.contains_key(header::EXPECT),
            is_left: is_left.clone(),
        };
        (body, is_left)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(incoming).poll_frame(cx);
        self.waits_for_continue = false;
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.incoming = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        let is_small = incoming
            .size_hint()
            .upper()
            .is_some_and(|octets| octets <= BODY_MAX_OCTETS as u64);
        if self.waits_for_continue || !is_small {
            self.is_left.0.store(true, Ordering::Release);
        }
        // A caller that waits to be asked for the body reads the answer instead, and sends none.
        if !self.waits_for_continue {
            tokio::spawn(discard(incoming));
        }
    }
}

async fn discard(mut body: Incoming) {
    let read = async {
        let mut octets = 0;
        while let Some(Ok(frame)) = body.frame().await {
            octets += frame.data_ref().map_or(0, Bytes::len);
            if octets > UNREAD_MAX_OCTETS {
                break;
            }
        }
        octets
    };
    let read = tokio::time::timeout(Duration::from_millis(UNREAD_TIMEOUT_MS), read).await;
    let octets = read.ok();
    tracing::debug!(
        octets,
        "threw away the rest of a body; none: it did not end in time"
    );
}
