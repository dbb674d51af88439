//! Whose inboxes are, for the signer, which has no store.

use std::path::PathBuf;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::post,
};

use super::local_socket::LocalSocket;
use crate::{
    model::ids::InboxId,
    signer::tenants::{Found, INBOXES_MAX, PATH, Question},
    store::{self, Db},
    telemetry,
};

/// Largest request: an id has 39 octets with its quotes and comma.
const BODY_MAX_OCTETS: usize = 16 * 1024;

/// The socket at this path, in the signer's folder of the maps, which a rebuild makes for no other user to enter.
pub(super) fn socket(path: PathBuf, db: Db) -> LocalSocket {
    LocalSocket {
        path,
        router: Router::new()
            .route(PATH, post(answer))
            .layer(DefaultBodyLimit::max(BODY_MAX_OCTETS))
            .with_state(db),
        makes_folder: false,
    }
}

async fn answer(
    State(db): State<Db>,
    Json(question): Json<Question>,
) -> Result<Json<Found>, (StatusCode, String)> {
    if question.inboxes.len() > INBOXES_MAX {
        let why = format!("inboxes: at most {INBOXES_MAX} ids");
        return Err((StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    let inboxes: Vec<InboxId> = question.inboxes.into_iter().map(InboxId).collect();
    match look_up(&db, &inboxes).await {
        Ok(found) => Ok(Json(found)),
        Err(error) => {
            let why = telemetry::chain(&error);
            tracing::warn!(error = why, "cannot look up whose inboxes are");
            Err((StatusCode::SERVICE_UNAVAILABLE, why))
        }
    }
}

async fn look_up(db: &Db, inboxes: &[InboxId]) -> Result<Found, store::Error> {
    let tenants = db.look().await?.tenants_of(inboxes).await?;
    let tenants = tenants.into_iter().map(|(inbox, tenant)| (inbox.0, tenant.0));
    Ok(Found {
        tenants: tenants.collect(),
    })
}
