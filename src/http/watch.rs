//! Around every request: an id, a span, a time limit, a log line, metrics.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::{
    host,
    problem::{Code, Problem},
};
use crate::{
    clock::{Machine, new_id},
    telemetry::metric,
};

/// How long a call may take. What it began is finished all the same.
pub(super) const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// Largest head of a request: octets of its target and of all names and values of its headers.
const HEAD_MAX_OCTETS: usize = 32 * 1024;
/// Most header lines of a request.
const HEADERS_MAX_LINES: usize = 64;
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
        let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
        let answered = async {
            let checked =
                check_head(&request).and_then(|()| host::check(request.version(), request.headers()));
            match checked {
                Ok(()) => next.run(request).await,
                Err(problem) => problem.into_response(),
            }
        };
        let response = tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| {
            Problem::new(
                Code::Timeout,
                format!("the call took longer than {REQUEST_TIMEOUT_MS} ms"),
            )
            .into_response()
        });
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

/// The connection has limits, too, but they are coarse, and its refusals have neither a body nor a request id.
fn check_head(request: &Request) -> Result<(), Problem> {
    let lines = request.headers().len();
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let octets = fields.sum::<usize>() + target;
    if lines > HEADERS_MAX_LINES || octets > HEAD_MAX_OCTETS {
        let rule = format!(
            "a request may have {HEADERS_MAX_LINES} header lines, and {HEAD_MAX_OCTETS} octets in them and its target"
        );
        return Err(Problem::new(Code::HeadersTooLarge, rule));
    }
    Ok(())
}
