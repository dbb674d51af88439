//! Pages of other origins that may call the API from a browser (CORS).

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{
    extract::API_KEY_HEADER,
    rates::{RATE_LIMIT, RATE_LIMIT_POLICY},
    watch::REQUEST_ID,
};

/// For how long a browser keeps what it may do.
const MAX_AGE_S: u64 = 3_600;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Whose pages may call the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origins {
    /// No page of another origin.
    None,
    /// Every page.
    Any,
    /// The pages of these origins (RFC 6454, 6.2).
    Listed(Vec<HeaderValue>),
}

/// Answers browsers which pages may call; none where no page may. Cookies play no part: a page has to have a key.
pub(super) fn layer(origins: &Origins) -> Option<CorsLayer> {
    let origins = match origins {
        Origins::None => return None,
        Origins::Any => AllowOrigin::any(),
        Origins::Listed(origins) => AllowOrigin::list(origins.clone()),
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            HeaderName::from_static(API_KEY_HEADER),
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            IDEMPOTENCY_KEY,
            PREFER,
        ])
        .expose_headers([
            REQUEST_ID,
            header::ETAG,
            header::RETRY_AFTER,
            header::ALLOW,
            header::WWW_AUTHENTICATE,
            IDEMPOTENT_REPLAYED,
            PREFERENCE_APPLIED,
            RATE_LIMIT,
            RATE_LIMIT_POLICY,
        ])
        .max_age(Duration::from_secs(MAX_AGE_S));
    Some(layer)
}
