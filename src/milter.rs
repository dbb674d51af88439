//! What every milter of ours needs: its socket, its sessions with their limits, and its health check.
//!
//! A milter is a process that Postfix's smtpd asks about every message (`MILTER_README`). What a session of Postfix does is
//! for the caller to say, by a type that implements [`Milter`]. What has to hold for all mail, whichever way it comes, is
//! here, too:
//!
//! - [`reserved_fields`]: header fields that only this host writes; [`authentication_results`] reads one of them.
//! - [`recipients`]: one copy a mailbox.

pub mod authentication_results;
pub mod recipients;
pub mod reserved_fields;

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::BytesMut;
use miltr_common::{commands::Header, encoding::Writable as _};
use miltr_server::{Milter, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use crate::telemetry;

/// Sessions at a time; Postfix has one for each of its clients. More wait to be let in.
const SESSIONS_MAX: usize = 2_000;
/// Longest command of Postfix in octets: a header field of its `header_size_limit`, and more.
const COMMAND_MAX_OCTETS: usize = 1024 * 1024;
/// How long sessions may go on when the milter is asked to stop.
const DRAIN_LIMIT_MS: u64 = 5_000;
/// Pause after a connection could not be taken, for example because there are too many open files.
const ACCEPT_PAUSE_MS: u64 = 100;
/// Longest wait for the answer of a health check.
const CHECK_TIMEOUT_MS: u64 = 4_000;
/// What Postfix begins with: length, `SMFIC_OPTNEG`, version 6, and what it lets a milter do and leave out.
const NEGOTIATION: [u8; 17] = *b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
/// Mode of the socket: for the milter's user and Postfix's group.
const SOCKET_MODE: u32 = 0o660;

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct SocketError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Opens the socket, in the place of one that an earlier run left, for a group besides ourselves.
pub fn listen(path: &Path, gid: u32) -> Result<UnixListener, SocketError> {
    let failed = |doing| {
        move |source| SocketError {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove the old socket")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    chown(path, None, Some(gid)).map_err(failed("give to Postfix's group"))?;
    let mode = fs::Permissions::from_mode(SOCKET_MODE);
    fs::set_permissions(path, mode).map_err(failed("set the mode of"))?;
    Ok(listener)
}

/// Serves until it is asked to stop, each connection with a session of its own. Messages that are under way then are
/// finished, if that takes no longer than [`DRAIN_LIMIT_MS`].
pub async fn serve<S>(listener: UnixListener, session: impl Fn() -> S, stop: impl Future<Output = ()>)
where
    S: Milter<Error = Infallible> + 'static,
{
    let mut sessions = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = sessions.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a session failed");
                }
            }
            accepted = listener.accept(), if sessions.len() < SESSIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    sessions.spawn(converse(stream, session()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
        }
    }
    drop(listener);
    let drained = async { while sessions.join_next().await.is_some() {} };
    if timeout(Duration::from_millis(DRAIN_LIMIT_MS), drained)
        .await
        .is_err()
    {
        tracing::info!("sessions are cut off; their clients have to try again");
    }
}

/// Asks a milter that runs for the first thing that Postfix asks for: option negotiation.
pub async fn check(path: &Path) -> Result<(), SocketError> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(&NEGOTIATION).await?;
        let mut answer = [0; NEGOTIATION.len()];
        stream.read_exact(&mut answer).await?;
        if answer[..5] == NEGOTIATION[..5] {
            Ok(())
        } else {
            Err(io::Error::other("what answers is no milter"))
        }
    };
    timeout(Duration::from_millis(CHECK_TIMEOUT_MS), asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| SocketError {
            doing: "ask the milter at",
            path: path.to_owned(),
            source,
        })
}

async fn converse(stream: UnixStream, mut session: impl Milter<Error = Infallible>) {
    let mut server = Server::new(&mut session, false, COMMAND_MAX_OCTETS);
    if let Err(error) = server.handle_connection(stream.compat()).await {
        tracing::warn!(
            error = telemetry::chain(&error),
            "a session ended before its time"
        );
    }
}

/// Returns the name and the value of a header field as octets. The crate shows them as text; on the wire each is followed by
/// a NUL.
pub fn name_and_value(header: &Header) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut octets = BytesMut::with_capacity(header.len());
    header.write(&mut octets);
    let mut parts = octets.splitn(3, |&octet| octet == 0);
    Some((parts.next()?.to_vec(), parts.next()?.to_vec()))
}
