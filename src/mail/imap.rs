//! Reading a mailbox over implicit TLS (`IMAP4rev1`, RFC 3501; RFC 8314), and the greeting probe.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::{Endpoint, Fault, GREETING_MAX_BYTES, within};

/// Where delivery may put a message: the inbox, or the folder of what a filter took for spam.
const FOLDERS: [&str; 2] = ["INBOX", "Junk"];
/// How many of a folder's newest messages are searched, so that a mailbox of any size costs the same.
const SEARCH_TAIL_MESSAGES: u32 = 1000;
/// The first wait between two looks; each next one is twice as long, up to `POLL_MAX_MS`.
const POLL_FIRST_MS: u64 = 25;
/// The longest wait between two looks.
const POLL_MAX_MS: u64 = 1000;

/// The part of an IMAP conversation that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// TCP connection, TLS and greeting.
    Connect,
    /// LOGIN.
    Login,
    /// SELECT.
    Select,
    /// UID SEARCH.
    Search,
    /// UID FETCH.
    Fetch,
    /// UID STORE and UID EXPUNGE.
    Delete,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Login => "log in",
            Self::Select => "open a folder",
            Self::Search => "look for a message",
            Self::Fetch => "fetch a message",
            Self::Delete => "delete a message",
        })
    }
}

/// An IMAP conversation that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("{stage} at the IMAP server {server}")]
pub struct Error {
    /// What was being done.
    pub stage: Stage,
    /// With whom.
    pub server: Endpoint,
    /// What came of it.
    #[source]
    pub fault: Fault,
}

/// A connection on which nobody has logged in yet.
#[derive(Debug)]
pub struct Connection {
    server: Endpoint,
    client: async_imap::Client<TlsStream<TcpStream>>,
}

/// A connection on which somebody has.
#[derive(Debug)]
pub struct Session {
    server: Endpoint,
    session: async_imap::Session<TlsStream<TcpStream>>,
}

/// Where a message lies. The UID means nothing outside its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The folder.
    pub folder: &'static str,
    /// The message's UID there.
    pub uid: u32,
}

impl Connection {
    /// Connects, agrees on TLS and waits for the greeting.
    pub async fn open(server: &Endpoint, tls: Arc<ClientConfig>, limit: Duration) -> Result<Self, Error> {
        let client = within(limit, async {
            let stream = connect(server, tls).await?;
            let mut client = async_imap::Client::new(stream);
            match client
                .read_response()
                .await
                .map_err(|error| Fault::from_io(&error))?
            {
                Some(_greeting) => Ok(client),
                None => Err(Fault::Network {
                    detail: "the server hung up without a greeting".to_owned(),
                }),
            }
        })
        .await
        .map_err(|fault| Error {
            stage: Stage::Connect,
            server: server.clone(),
            fault,
        })?;
        Ok(Self {
            server: server.clone(),
            client,
        })
    }

    /// LOGIN. async-imap writes the whole command to the log at level `trace`: telemetry silences the target.
    pub async fn login(
        self,
        login: &str,
        password: &SecretString,
        limit: Duration,
    ) -> Result<Session, Error> {
        let Self { server, client } = self;
        let outcome = within(limit, async {
            client
                .login(login, password.expose_secret())
                .await
                .map_err(|(error, _client)| fault_of(&error))
        })
        .await;
        match outcome {
            Ok(session) => Ok(Session { server, session }),
            Err(fault) => Err(Error {
                stage: Stage::Login,
                server,
                fault,
            }),
        }
    }
}

impl Session {
    /// Waits until a message with this `Message-ID` (with its angle brackets) lies in the inbox or in Junk.
    /// `None` if it did not come before the deadline; the session may then be stuck in an unfinished command.
    pub async fn wait_for(&mut self, message_id: &str, deadline: Instant) -> Result<Option<Found>, Error> {
        // IDLE watches one folder, and two are of interest: looking again and again is simpler than two
        // connections, and a new SELECT sees what came since.
        let mut pause = Duration::from_millis(POLL_FIRST_MS);
        let mut looked = false;
        loop {
            for folder in FOLDERS {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                match self.look(folder, message_id, left).await {
                    Ok(Some(uid)) => return Ok(Some(Found { folder, uid })),
                    Ok(None) => {}
                    // The deadline cut off the last look of many; a server that never answered is another matter.
                    Err(Error {
                        fault: Fault::TimedOut { .. },
                        ..
                    }) if looked => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            looked = true;
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(POLL_MAX_MS));
        }
    }

    /// The whole message, without marking it as read.
    pub async fn fetch(&mut self, found: Found, limit: Duration) -> Result<Vec<u8>, Error> {
        self.select(found.folder, limit).await?;
        let outcome = within(limit, async {
            let items: Vec<_> = self
                .session
                .uid_fetch(found.uid.to_string(), "BODY.PEEK[]")
                .await
                .map_err(|error| fault_of(&error))?
                .try_collect()
                .await
                .map_err(|error| fault_of(&error))?;
            items
                .iter()
                .find_map(|item| item.body().map(<[u8]>::to_vec))
                .ok_or_else(|| Fault::unexpected("the server answered without the message"))
        })
        .await;
        outcome.map_err(|fault| self.failed(Stage::Fetch, fault))
    }

    /// Deletes the message, and only this one: UID EXPUNGE (RFC 4315) leaves alone what the owner of the mailbox
    /// has marked himself. Then looks whether it is gone.
    pub async fn delete(&mut self, found: Found, limit: Duration) -> Result<(), Error> {
        self.select(found.folder, limit).await?;
        let uid = found.uid;
        let outcome = within(limit, async {
            // Not async-imap's `uid_store` and `uid_expunge`: a NO ends their streams like an OK.
            let session = &mut self.session;
            session
                .run_command_and_check_ok(format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)"))
                .await
                .map_err(|error| fault_of(&error))?;
            session
                .run_command_and_check_ok(format!("UID EXPUNGE {uid}"))
                .await
                .map_err(|error| fault_of(&error))?;
            let left = session
                .uid_search(format!("UID {uid}"))
                .await
                .map_err(|error| fault_of(&error))?;
            if left.is_empty() {
                Ok(())
            } else {
                Err(Fault::unexpected(format!(
                    "message {uid} is still in {} afterwards",
                    found.folder
                )))
            }
        })
        .await;
        outcome.map_err(|fault| self.failed(Stage::Delete, fault))
    }

    /// Says goodbye. What the server answers no longer matters.
    pub async fn logout(mut self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.session.logout()).await;
    }

    /// One look into one folder. A folder that is not there holds nothing.
    async fn look(
        &mut self,
        folder: &'static str,
        message_id: &str,
        limit: Duration,
    ) -> Result<Option<u32>, Error> {
        let count = match self.select(folder, limit).await {
            Ok(count) => count,
            Err(Error {
                fault: Fault::Refused { .. },
                ..
            }) if folder != "INBOX" => return Ok(None),
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(None);
        }
        let first = count.saturating_sub(SEARCH_TAIL_MESSAGES - 1).max(1);
        let query = format!("{first}:* HEADER Message-ID \"{}\"", quoted(message_id));
        let outcome = within(limit, async {
            self.session
                .uid_search(query)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await;
        let uids = outcome.map_err(|fault| self.failed(Stage::Search, fault))?;
        Ok(uids.into_iter().max())
    }

    async fn select(&mut self, folder: &str, limit: Duration) -> Result<u32, Error> {
        let outcome = within(limit, async {
            self.session
                .select(folder)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await;
        outcome
            .map(|mailbox| mailbox.exists)
            .map_err(|fault| self.failed(Stage::Select, fault))
    }

    fn failed(&self, stage: Stage, fault: Fault) -> Error {
        Error {
            stage,
            server: self.server.clone(),
            fault,
        }
    }
}

/// RFC 3501, 4.3: inside a quoted string, `\` and `"` are escaped, and there are no line ends.
fn quoted(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect()
}

async fn connect(server: &Endpoint, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, Fault> {
    let name = ServerName::try_from(server.known_as.host.clone()).map_err(|_| {
        Fault::unexpected(format!(
            "{:?} is neither a host name nor an IP address",
            server.known_as.host
        ))
    })?;
    let stream = TcpStream::connect(server.connect.address())
        .await
        .map_err(|error| Fault::from_io(&error))?;
    TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(|error| Fault::from_io(&error))
}

/// async-imap prints its own sources, and a server's words in the form of a debugging aid.
fn fault_of(error: &async_imap::error::Error) -> Fault {
    use async_imap::error::Error as E;
    match error {
        E::Io(io) => Fault::from_io(io),
        E::No(text) => Fault::Refused {
            code: None,
            text: format!("NO {}", words(text)),
        },
        E::Bad(text) => Fault::Refused {
            code: None,
            text: format!("BAD {}", words(text)),
        },
        E::ConnectionLost => Fault::Network {
            detail: "the server hung up".to_owned(),
        },
        // Its text would quote a character of the password.
        E::Validate(_) => Fault::unexpected("a line end in the login or in the password"),
        other => Fault::unexpected(other.to_string()),
    }
}

/// `code: None, info: Some("[AUTHENTICATIONFAILED] no")` is async-imap's way to say `[AUTHENTICATIONFAILED] no`.
fn words(text: &str) -> &str {
    text.split_once("info: Some(\"")
        .and_then(|(_, rest)| rest.strip_suffix("\")"))
        .unwrap_or(text)
}

/// Asks whether an IMAP server answers: connects, agrees on TLS, waits for `* OK`, says LOGOUT. No login.
/// Returns the greeting.
pub async fn greeting(server: &Endpoint, tls: Arc<ClientConfig>, limit: Duration) -> Result<String, Error> {
    within(limit, async {
        let stream = connect(server, tls).await?;
        let mut stream = BufReader::new(stream.take(GREETING_MAX_BYTES));
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .await
            .map_err(|error| Fault::from_io(&error))?;
        let line = line.trim_end().to_owned();
        if !line.starts_with("* OK") {
            return Err(not_a_greeting(&line));
        }
        // The greeting is the answer to the question; a server that hangs up on LOGOUT does not change it.
        let mut stream = stream.into_inner().into_inner();
        let _ = stream.write_all(b"a LOGOUT\r\n").await;
        let _ = stream.flush().await;
        Ok(line)
    })
    .await
    .map_err(|fault| Error {
        stage: Stage::Connect,
        server: server.clone(),
        fault,
    })
}

fn not_a_greeting(line: &str) -> Fault {
    if line.is_empty() {
        Fault::Network {
            detail: "the server hung up without a greeting".to_owned(),
        }
    } else if let Some(text) = line.strip_prefix("* ").filter(|text| text.starts_with("BYE")) {
        Fault::Refused {
            code: None,
            text: text.to_owned(),
        }
    } else {
        Fault::unexpected(format!("not an IMAP greeting: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_taken_out_of_the_librarys() {
        assert_eq!(
            words("code: None, info: Some(\"Authentication failed.\")"),
            "Authentication failed."
        );
        assert_eq!(words("something else"), "something else");
    }

    #[test]
    fn a_search_string_cannot_end_its_quotes() {
        assert_eq!(quoted("<a\"b\\c\r\n@x>"), "<a\\\"b\\\\c@x>");
    }

    #[test]
    fn a_busy_server_is_told_from_a_foreign_protocol() {
        assert_eq!(
            not_a_greeting("* BYE too many connections"),
            Fault::Refused {
                code: None,
                text: "BYE too many connections".to_owned()
            }
        );
        assert!(matches!(not_a_greeting("220 mx ESMTP"), Fault::Unexpected { .. }));
    }
}
