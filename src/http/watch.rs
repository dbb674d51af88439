//! Around every request: an id, a span, a log line, metrics.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use crate::{
    clock::{Machine, new_id},
    telemetry::metric,
};

/// Routes that supervisors ask every few seconds: an answer that all is well is no news.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// The header that names a request in its answer and in every log line.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A name for a request.
pub(super) fn request_id() -> String {
    new_id(&Machine, &Machine).to_string()
}

pub(super) async fn watch(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let request_id = request_id();
    let method = request.method().clone();
    // The route, not the path: paths hold ids without bound, and metrics and logs must not.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", request_id, key_id = tracing::field::Empty);

    let mut response = async {
        let response = next.run(request).await;
        let (status, elapsed) = (response.status().as_u16(), begun.elapsed());
        let elapsed_us = elapsed.as_micros();
        if PROBES.contains(&route.as_str()) && status < 400 {
            tracing::debug!(%method, route, status, elapsed_us, "answered");
        } else {
            tracing::info!(%method, route, status, elapsed_us, "answered");
        }
        metric::REQUEST_DURATION_SECONDS.observe(elapsed, &[method.as_str(), &route]);
        metric::REQUESTS_TOTAL.increment(&[method.as_str(), &route, response.status().as_str()]);
        response
    }
    .instrument(span)
    .await;

    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
