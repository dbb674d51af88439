//! What every request has to be before a call is looked for, and how long the call may take.

use std::time::Duration;

use axum::{
    extract::Request,
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    host,
    problem::{Code, Problem},
};

/// How long a call may take. What it began is finished all the same.
pub(super) const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// Largest head of a request: octets of its target and of all names and values of its headers.
const HEAD_MAX_OCTETS: usize = 32 * 1024;
/// Most header lines of a request.
const HEADERS_MAX_LINES: usize = 64;

/// Refuses what is no proper request, and answers when a call takes too long. Below the layer that lets pages of other origins
/// read answers (CORS), so that they can read these, too.
pub(super) async fn admit(request: Request, next: Next) -> Response {
    if let Err(problem) = check(&request) {
        return problem.into_response();
    }
    let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
    tokio::time::timeout(limit, next.run(request))
        .await
        .unwrap_or_else(|_| {
            Problem::new(
                Code::Timeout,
                format!("the call took longer than {REQUEST_TIMEOUT_MS} ms"),
            )
            .into_response()
        })
}

/// Refuses a preflight request (Fetch Standard, 4.8) that is no proper request. It is answered by the layer for CORS, so
/// [`admit`] does not see it.
pub(super) async fn admit_preflight(request: Request, next: Next) -> Response {
    match check(&request) {
        Err(problem) if request.method() == Method::OPTIONS => problem.into_response(),
        _ => next.run(request).await,
    }
}

fn check(request: &Request) -> Result<(), Problem> {
    check_head(request)?;
    host::check(request.version(), request.headers())
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
