//! What is asked at the control socket: whoever has the maps open for writing rebuilds them.

use std::path::PathBuf;

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};

use super::local_socket::LocalSocket;
use crate::{
    publish::{Rebuilder, Rebuilt},
    telemetry,
};

/// The one call.
pub const REBUILD: &str = "/maps/rebuild";

/// The answer: what was done, or why not.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What the rebuild wrote and removed.
    Rebuilt(Rebuilt),
    /// Everything that led to the failure.
    Failed(String),
}

/// The socket at this path, in the folder of the maps: after that was removed, too, there is a rebuild to be asked for.
pub(super) fn socket(path: PathBuf, rebuilder: Rebuilder) -> LocalSocket {
    LocalSocket {
        path,
        router: Router::new().route(REBUILD, post(rebuild)).with_state(rebuilder),
        makes_folder: true,
    }
}

async fn rebuild(State(rebuilder): State<Rebuilder>) -> (StatusCode, Json<Outcome>) {
    match rebuilder.rebuild().await {
        Ok(rebuilt) => (StatusCode::OK, Json(Outcome::Rebuilt(rebuilt))),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(Outcome::Failed(telemetry::chain(&error))),
        ),
    }
}
