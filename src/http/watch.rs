//! Around every request: an id, a span, a time limit, a log line, metrics.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::problem::{Code, Problem};
use crate::{
    clock::{Machine, new_id},
    telemetry::metric,
};

/// How long a call may take. What it began is finished all the same.
pub(super) const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// The header that names a request in its answer and in every log line.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) async fn watch(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let request_id = new_id(&Machine, &Machine).to_string();
    let method = request.method().clone();
    // The route, not the path: paths hold ids without bound, and metrics and logs must not.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", request_id, key_id = tracing::field::Empty);

    let mut response = async {
        let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
        let response = tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
            Problem::new(Code::Timeout, format!("the call took longer than {REQUEST_TIMEOUT_MS} ms")).into_response()
        });
        let (status, elapsed) = (response.status().as_u16(), begun.elapsed());
        tracing::info!(%method, route, status, elapsed_ms = elapsed.as_secs_f64() * 1000.0, "answered");
        let labels = [("method", method.to_string()), ("route", route.clone())];
        metrics::histogram!(metric::REQUEST_SECONDS, &labels).record(elapsed.as_secs_f64());
        metrics::counter!(metric::REQUESTS_TOTAL, "method" => method.to_string(), "route" => route, "status" => status.to_string())
            .increment(1);
        response
    }
    .instrument(span)
    .await;

    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
