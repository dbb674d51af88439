//! Headers that tell browsers what an answer is not for.
//!
//! The API's answers are JSON, which no page may frame, guess the type of, or run. The reference page at `/docs` is the
//! one answer that a browser shows: it gets what it needs from this server, and nothing else.

use axum::{
    extract::Request,
    http::{
        HeaderValue,
        header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS},
    },
    middleware::Next,
    response::Response,
};

/// Where the reference page and its parts are.
const REFERENCE: &str = "/docs";
/// Of what a browser must not show as a page (Content Security Policy Level 3).
const POLICY_OF_ANSWERS: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// Of the reference page. Its scripts are files of its own; its styles it also sets in the markup that they make, and its
/// icons are `data:` URLs.
const POLICY_OF_REFERENCE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

pub(super) async fn add(request: Request, next: Next) -> Response {
    let is_reference = request
        .uri()
        .path()
        .strip_prefix(REFERENCE)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut response = next.run(request).await;
    let policy = if is_reference {
        POLICY_OF_REFERENCE
    } else {
        POLICY_OF_ANSWERS
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}
