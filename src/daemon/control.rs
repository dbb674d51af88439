//! The control socket: where whoever has the maps open for writing can be asked to write them anew.
//!
//! HTTP over a UNIX socket in the folder of the maps, beside the lock of the one writer, which this process holds: so a
//! socket that is there already was left by one that has ended. Nobody but the daemon's user and root may connect.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, task::JoinHandle};

use crate::{
    publish::{Rebuilder, Rebuilt},
    telemetry,
};

/// The one call.
pub const REBUILD: &str = "/maps/rebuild";
/// Pause between two looks whether the socket still has its name.
const LOOK_PAUSE_MS: u64 = 1_000;

/// The answer: what was done, or why not.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What the rebuild wrote and removed.
    Rebuilt(Rebuilt),
    /// Everything that led to the failure.
    Failed(String),
}

/// Listens from now on, until it is told to stop. Somebody may remove the folder of the maps: then it listens there again.
pub(super) fn serve(
    socket: PathBuf,
    rebuilder: Rebuilder,
    stopped: tokio::sync::watch::Receiver<()>,
) -> JoinHandle<()> {
    let first = listen(&socket);
    tokio::spawn(serve_from(first, socket, rebuilder, stopped))
}

async fn serve_from(
    first: io::Result<(UnixListener, (u64, u64))>,
    socket: PathBuf,
    rebuilder: Rebuilder,
    stopped: tokio::sync::watch::Receiver<()>,
) {
    let mut first = Some(first);
    let router = Router::new().route(REBUILD, post(rebuild)).with_state(rebuilder);
    let mut until = std::pin::pin!(super::wait_until_closed(stopped.clone()));
    let mut was_told = false;
    loop {
        match first.take().unwrap_or_else(|| listen(&socket)) {
            Ok((listener, identity)) => {
                was_told = false;
                let (stopped, socket) = (stopped.clone(), socket.clone());
                let over = async move {
                    tokio::select! {
                        () = super::wait_until_closed(stopped) => {}
                        () = until_replaced(&socket, identity) => {}
                    }
                };
                // An answer that is under way is given before this returns.
                let served = axum::serve(listener, router.clone()).with_graceful_shutdown(over);
                if let Err(error) = served.await {
                    tracing::error!(%error, "the control socket failed");
                }
            }
            Err(error) if !was_told => {
                was_told = true;
                tracing::error!(%error, socket = %socket.display(), "cannot listen for `inboxd maps rebuild`; trying on");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = &mut until => {
                // Left behind, it would only mislead; but it is no failure to leave it.
                let _ = fs::remove_file(&socket);
                return;
            }
            () = tokio::time::sleep(Duration::from_millis(LOOK_PAUSE_MS)) => {}
        }
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

/// A socket that nobody but this user may connect to, and which file it is. One that is there already is replaced.
fn listen(socket: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    // It gets its name when nobody else may use it any more.
    let unnamed = socket.with_extension("new");
    match fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unnamed)?;
    fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unnamed, socket)?;
    let file = fs::symlink_metadata(socket)?;
    Ok((listener, (file.dev(), file.ino())))
}

async fn until_replaced(socket: &Path, identity: (u64, u64)) {
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_PAUSE_MS)).await;
        let now = fs::symlink_metadata(socket).map(|file| (file.dev(), file.ino()));
        if now.ok() != Some(identity) {
            return;
        }
    }
}
