//! Signs submitted mail (DKIM, RFC 6376): a milter that Postfix's submission service calls for every message.
//!
//! - [`session`]: one SMTP session as Postfix tells of it, and what it is answered.
//! - [`message`]: a message on its way through: headers kept, body hashed, nothing else held.
//! - [`author`]: who a message says it is from, in a grammar that all readers read alike.
//!
//! Keys and senders are looked up for each message, so that a change is in use from the next message on. What cannot be
//! signed is not let through: Postfix tells the client to try again later.

pub mod author;
mod message;
mod session;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use miltr_server::Server;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use self::session::Session;
use crate::{
    clock::Clock,
    maps::{self, LookUps},
    model::{
        address::{Address, DomainName},
        dkim::SigningKey,
        sasl_name::SaslName,
        sealing::{SealError, Sealed, SealingKey},
    },
    telemetry,
};

/// Sessions at a time; Postfix has one for each client of submission. More wait to be let in.
const SESSIONS_MAX: usize = 2_000;
/// Longest command of Postfix in octets: a header field of its `header_size_limit`, and more.
const COMMAND_MAX_OCTETS: usize = 1024 * 1024;
/// How long sessions may go on when the signer is asked to stop.
const DRAIN_LIMIT_MS: u64 = 5_000;
/// Pause after a connection could not be taken, for example because there are too many open files.
const ACCEPT_PAUSE_MS: u64 = 100;
/// Longest wait for the answer of a health check.
const CHECK_TIMEOUT_MS: u64 = 4_000;
/// What Postfix begins with: length, `SMFIC_OPTNEG`, version 6, and what it lets a milter do and leave out.
const NEGOTIATION: [u8; 17] = *b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
/// The socket: the signer and Postfix's group.
const SOCKET_MODE: u32 = 0o660;

/// What a signer works with.
pub struct Parts {
    /// What mail of a domain is signed with, and who may send from an address.
    pub maps: LookUps,
    /// Opens the keys.
    pub sealing: SealingKey,
    /// Says when a message was signed.
    pub clock: Arc<dyn Clock>,
}

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct SocketError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Why a key cannot be used now.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("look up the signing keys of {domain}")]
    Maps { domain: DomainName, source: maps::Error },
    #[error("look up the login of {address}")]
    Logins { address: Address, source: maps::Error },
    #[error("open the signing key {selector} of {domain}")]
    Sealed {
        domain: DomainName,
        selector: String,
        source: SealError,
    },
    #[error("{0} has no signing key")]
    None(DomainName),
}

impl Parts {
    /// What mail of a domain is signed with now; at least one key. Blocks on files.
    fn keys_of(&self, domain: &DomainName) -> Result<Vec<SigningKey>, KeyError> {
        let sealed = self.maps.signing_keys(domain).map_err(|source| KeyError::Maps {
            domain: domain.clone(),
            source,
        })?;
        if sealed.is_empty() {
            return Err(KeyError::None(domain.clone()));
        }
        let opened = sealed.into_iter().map(|key| {
            let opened = self.sealing.open(Sealed::DkimKey(key.id.0), &key.sealed);
            let private = opened.map_err(|source| KeyError::Sealed {
                domain: domain.clone(),
                selector: key.selector.to_string(),
                source,
            })?;
            Ok(SigningKey {
                selector: key.selector,
                algorithm: key.algorithm,
                private,
            })
        });
        opened.collect()
    }

    /// The login that may send from an address now. Blocks on files.
    fn login_of(&self, address: &Address) -> Result<Option<SaslName>, KeyError> {
        self.maps
            .sender_login(address)
            .map_err(|source| KeyError::Logins {
                address: address.clone(),
                source,
            })
    }
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

/// Signs until it is asked to stop. Messages that are under way then are finished, if that does not take long.
pub async fn serve(listener: UnixListener, parts: Parts, stop: impl Future<Output = ()>) {
    let parts = Arc::new(parts);
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
                    sessions.spawn(converse(stream, Arc::clone(&parts)));
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
        tracing::info!("sessions are cut off; their clients are told to try again");
    }
}

/// Asks a signer that runs for the first thing that Postfix asks for.
pub async fn check(path: &Path) -> Result<(), SocketError> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(&NEGOTIATION).await?;
        let mut answer = [0; NEGOTIATION.len()];
        stream.read_exact(&mut answer).await?;
        if answer[..5] == NEGOTIATION[..5] {
            Ok(())
        } else {
            Err(io::Error::other("it answers something else than a milter"))
        }
    };
    timeout(Duration::from_millis(CHECK_TIMEOUT_MS), asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| SocketError {
            doing: "ask the signer at",
            path: path.to_owned(),
            source,
        })
}

async fn converse(stream: UnixStream, parts: Arc<Parts>) {
    let mut session = Session::new(parts);
    let mut server = Server::new(&mut session, false, COMMAND_MAX_OCTETS);
    if let Err(error) = server.handle_connection(stream.compat()).await {
        tracing::warn!(
            error = telemetry::chain(&error),
            "a session ended before its time"
        );
    }
}
