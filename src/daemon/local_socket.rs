//! Sockets of the daemon's user: HTTP over UNIX sockets in the folders of the maps.
//!
//! This process holds the lock of the one writer of the maps: so a socket that is there already was left by one that has
//! ended. Only the daemon's user and root may connect.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::Router;
use tokio::{net::UnixListener, sync::watch, task::JoinHandle};

/// Pause between two checks whether the socket still has its name.
const CHECK_PAUSE_MS: u64 = 1_000;

/// A socket, and what answers at it.
pub(super) struct LocalSocket {
    /// Its file.
    pub(super) path: PathBuf,
    /// What answers.
    pub(super) router: Router,
    /// Whether a folder that is missing is made again.
    pub(super) makes_folder: bool,
}

/// Listens from now on, until it is asked to stop. If the file of the socket is removed, it listens there again.
pub(super) fn serve(socket: LocalSocket, stopped: watch::Receiver<()>) -> JoinHandle<()> {
    let first = socket.listen();
    tokio::spawn(serve_from(first, socket, stopped))
}

async fn serve_from(
    first: io::Result<(UnixListener, (u64, u64))>,
    socket: LocalSocket,
    stopped: watch::Receiver<()>,
) {
    let mut first = Some(first);
    let mut until = std::pin::pin!(super::wait_until_closed(stopped.clone()));
    let mut is_logged = false;
    loop {
        match first.take().unwrap_or_else(|| socket.listen()) {
            Ok((listener, identity)) => {
                is_logged = false;
                let (stopped, path) = (stopped.clone(), socket.path.clone());
                let over = async move {
                    tokio::select! {
                        () = super::wait_until_closed(stopped) => {}
                        () = until_replaced(&path, identity) => {}
                    }
                };
                // An answer that is under way is given before this returns.
                let served = axum::serve(listener, socket.router.clone()).with_graceful_shutdown(over);
                if let Err(error) = served.await {
                    tracing::error!(%error, socket = %socket.path.display(), "a local socket failed");
                }
            }
            Err(error) if !is_logged => {
                is_logged = true;
                tracing::error!(%error, socket = %socket.path.display(), "cannot listen on a local socket; trying again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = &mut until => {
                // Left behind, it would only mislead; but it is no failure to leave it.
                let _ = fs::remove_file(&socket.path);
                return;
            }
            () = tokio::time::sleep(Duration::from_millis(CHECK_PAUSE_MS)) => {}
        }
    }
}

impl LocalSocket {
    /// A socket that only this user may connect to, and which file it is. One that is there already is replaced.
    fn listen(&self) -> io::Result<(UnixListener, (u64, u64))> {
        let path = &self.path;
        if let Some(folder) = path.parent().filter(|_| self.makes_folder) {
            fs::create_dir_all(folder)?;
        }
        // It gets its name when no other user may use it any more.
        let unnamed = path.with_extension("new");
        match fs::remove_file(&unnamed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&unnamed)?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
        fs::rename(&unnamed, path)?;
        let file = fs::symlink_metadata(path)?;
        Ok((listener, (file.dev(), file.ino())))
    }
}

async fn until_replaced(socket: &Path, identity: (u64, u64)) {
    loop {
        tokio::time::sleep(Duration::from_millis(CHECK_PAUSE_MS)).await;
        let now = fs::symlink_metadata(socket).map(|file| (file.dev(), file.ino()));
        if now.ok() != Some(identity) {
            return;
        }
    }
}
