//! `GET /metrics`, in the format that the scraper asks for.

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

use crate::telemetry::{self, exposition::Format};

/// Serves `/metrics`.
pub fn router() -> Router {
    Router::new().route("/metrics", get(scrape))
}

async fn scrape(headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter();
    let format = Format::preferred(accept.filter_map(|value| value.to_str().ok()));
    match telemetry::exposition::render(format) {
        Ok(body) => {
            let headers = [
                (header::CONTENT_TYPE, format.content_type()),
                (header::VARY, "Accept"),
            ];
            (headers, body).into_response()
        }
        Err(error) => {
            tracing::error!(error = telemetry::chain(&error), "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
