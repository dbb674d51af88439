//! The whole API below a path, where a proxy passes one on.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Uri, header, uri::PathAndQuery},
    response::Response,
};
use tower_service::Service as _;

/// Serves `api` below this path, and everything else from `outside`. `api` sees paths without it.
pub(super) fn below(base: &str, api: Router, outside: Router) -> Router {
    if base.is_empty() {
        return api;
    }
    let base: Arc<str> = base.into();
    Router::new().fallback(async move |mut request: Request| {
        let Some(uri) = without(request.uri(), &base) else {
            return outside.clone().call(request).await;
        };
        *request.uri_mut() = uri;
        let mut response = api.clone().call(request).await?;
        prefix_location(&mut response, &base);
        Ok(response)
    })
}

/// The target without the base path; none if it is not below it.
fn without(uri: &Uri, base: &str) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(base)?;
    let rest = match rest.as_bytes().first() {
        None => "/".to_owned(),
        Some(b'/') => rest.to_owned(),
        Some(b'?') => format!("/{rest}"),
        Some(_) => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

/// A redirection goes to a path that `api` knows.
fn prefix_location(response: &mut Response, base: &str) {
    let location = response.headers().get(header::LOCATION);
    let path = location
        .and_then(|location| location.to_str().ok())
        .filter(|path| path.starts_with('/'));
    if let Some(location) = path.and_then(|path| HeaderValue::try_from(format!("{base}{path}")).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_path_is_cut_off_where_it_is_whole() {
        for (target, cut) in [
            ("/inboxd", Some("/")),
            ("/inboxd/", Some("/")),
            ("/inboxd?x=1", Some("/?x=1")),
            ("/inboxd/v1/me?x=%2F", Some("/v1/me?x=%2F")),
            ("http://a/inboxd/v1/me", Some("http://a/v1/me")),
            ("/inboxdx/v1/me", None),
            ("/v1/me", None),
            ("/", None),
        ] {
            let uri = without(&target.parse().unwrap(), "/inboxd");
            assert_eq!(uri.map(|uri| uri.to_string()), cut.map(str::to_owned), "{target}");
        }
    }
}
