//! Submission (RFC 6409) over STARTTLS, one step at a time, and the banner probe.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::wire::{Endpoint, Fault, GREETING_MAX_BYTES, within};

/// The part of a submission that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// TCP connection, greeting and EHLO.
    Connect,
    /// STARTTLS and the second EHLO.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA, to the server's word that it has the message.
    Data,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Tls => "start TLS",
            Self::Auth => "authenticate",
            Self::Sender => "name the sender (MAIL)",
            Self::Recipient => "name the recipient (RCPT)",
            Self::Data => "hand over the message (DATA)",
        })
    }
}

/// A submission that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("{stage} at the SMTP server {server}")]
pub struct Error {
    /// What was being done.
    pub stage: Stage,
    /// With whom.
    pub server: Endpoint,
    /// What came of it.
    #[source]
    pub fault: Fault,
}

/// A connection to a submission server. Dropping it hangs up without a word.
pub struct Submission {
    server: Endpoint,
    name: ClientId,
    connection: AsyncSmtpConnection,
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Submission {
    /// Connects, in clear, and waits for the server's greeting and the answer to EHLO.
    pub async fn connect(server: &Endpoint, limit: Duration) -> Result<Self, Error> {
        // RFC 5321, 4.1.4: an address literal is right for a client without a name of its own.
        let name = ClientId::default();
        let connection = within(limit, async {
            AsyncSmtpConnection::connect_tokio1(server.connect.address(), Some(limit), &name, None, None)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await
        .map_err(|fault| Error {
            stage: Stage::Connect,
            server: server.clone(),
            fault,
        })?;
        Ok(Self {
            server: server.clone(),
            name,
            connection,
        })
    }

    /// Turns TLS on. A server that does not offer it is a failure: credentials never go in clear.
    pub async fn start_tls(&mut self, parameters: TlsParameters, limit: Duration) -> Result<(), Error> {
        let outcome = within(limit, async {
            if !self.connection.can_starttls() {
                return Err(Fault::unexpected("the server does not offer STARTTLS"));
            }
            self.connection
                .starttls(parameters, &self.name)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await;
        outcome.map_err(|fault| self.failed(Stage::Tls, fault))
    }

    /// AUTH PLAIN, or LOGIN where the server has only that (RFC 4954). Refuses to do so without TLS.
    pub async fn authenticate(
        &mut self,
        login: &str,
        password: &SecretString,
        limit: Duration,
    ) -> Result<(), Error> {
        let outcome = within(limit, async {
            if !self.connection.is_encrypted() {
                return Err(Fault::unexpected("credentials are not sent without TLS"));
            }
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            if self
                .connection
                .server_info()
                .get_auth_mechanism(&mechanisms)
                .is_none()
            {
                return Err(Fault::unexpected(
                    "the server offers neither AUTH PLAIN nor AUTH LOGIN",
                ));
            }
            let credentials = Credentials::new(login.to_owned(), password.expose_secret().to_owned());
            self.connection
                .auth(&mechanisms, &credentials)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await;
        outcome.map(drop).map_err(|fault| self.failed(Stage::Auth, fault))
    }

    /// Hands over one message of ASCII text for one recipient; `limit` is for all of it. Returns the server's
    /// words, in which Postfix gives the queue id.
    pub async fn send(
        &mut self,
        sender: &Address,
        recipient: &Address,
        message: &[u8],
        limit: Duration,
    ) -> Result<String, Error> {
        // Step by step and not with lettre's `send`, which does not tell whose refusal it was.
        let started = tokio::time::Instant::now();
        let left = || limit.saturating_sub(started.elapsed());

        let mail = Mail::new(Some(sender.clone()), Vec::new());
        self.exchange(Stage::Sender, left(), mail).await?;
        let rcpt = Rcpt::new(recipient.clone(), Vec::new());
        self.exchange(Stage::Recipient, left(), rcpt).await?;
        self.exchange(Stage::Data, left(), Data).await?;
        let outcome = within(left(), async {
            self.connection
                .message(message)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await;
        let response = outcome.map_err(|fault| self.failed(Stage::Data, fault))?;
        Ok(response.message().collect::<Vec<_>>().join(" "))
    }

    /// Says goodbye. What the server answers no longer matters: it has the message.
    pub async fn quit(mut self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.connection.quit()).await;
    }

    async fn exchange<C: fmt::Display>(
        &mut self,
        stage: Stage,
        limit: Duration,
        command: C,
    ) -> Result<Response, Error> {
        let outcome = within(limit, async {
            self.connection
                .command(command)
                .await
                .map_err(|error| fault_of(&error))
        })
        .await;
        outcome.map_err(|fault| self.failed(stage, fault))
    }

    fn failed(&self, stage: Stage, fault: Fault) -> Error {
        Error {
            stage,
            server: self.server.clone(),
            fault,
        }
    }
}

/// lettre's error prints its own source, so what matters is taken out of it here.
fn fault_of(error: &lettre::transport::smtp::Error) -> Fault {
    let source = error.source();
    if let Some(code) = error.status() {
        return Fault::Refused {
            code: Some(u16::from(code)),
            text: source.map(ToString::to_string).unwrap_or_default(),
        };
    }
    // A failed handshake comes wrapped twice.
    let io = std::iter::successors(source, |error| (*error).source())
        .find_map(|error| error.downcast_ref::<io::Error>());
    if let Some(io) = io {
        return Fault::from_io(io);
    }
    // lettre's words for the end of the stream before the end of a reply.
    if source.is_some_and(|source| source.to_string() == "incomplete response") {
        return Fault::Network {
            detail: "the server hung up".to_owned(),
        };
    }
    if error.is_response() || error.is_client() {
        return Fault::unexpected(error.to_string());
    }
    Fault::Network {
        detail: error.to_string(),
    }
}

/// Asks whether an SMTP server answers: connects, waits for `220`, says QUIT. No TLS, no login. Returns the
/// greeting.
pub async fn banner(server: &Endpoint, limit: Duration) -> Result<String, Error> {
    within(limit, async {
        let stream = TcpStream::connect(server.connect.address())
            .await
            .map_err(|error| Fault::from_io(&error))?;
        let mut stream = BufReader::new(stream.take(GREETING_MAX_BYTES));
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .await
            .map_err(|error| Fault::from_io(&error))?;
        let line = line.trim_end().to_owned();
        if !line.starts_with("220") {
            return Err(not_a_greeting(&line));
        }
        // The greeting is the answer to the question; a server that hangs up on QUIT does not change it.
        let _ = stream.into_inner().into_inner().write_all(b"QUIT\r\n").await;
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
    let code = line.get(..3).and_then(|code| code.parse().ok());
    match code {
        Some(code @ 400..600) => {
            let text = line.get(4..).unwrap_or_default().to_owned();
            Fault::Refused {
                code: Some(code),
                text,
            }
        }
        _ if line.is_empty() => Fault::Network {
            detail: "the server hung up without a greeting".to_owned(),
        },
        _ => Fault::unexpected(format!("not an SMTP greeting: {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_hangs_up_is_a_network_fault() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port());
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (outcome, ()) = tokio::join!(Submission::connect(&server, Duration::from_secs(5)), hang_up);
        assert!(matches!(outcome.unwrap_err().fault, Fault::Network { .. }));
    }

    #[test]
    fn a_refusing_greeting_is_told_from_a_foreign_protocol() {
        assert_eq!(
            not_a_greeting("421 4.3.2 All server ports are busy"),
            Fault::Refused {
                code: Some(421),
                text: "4.3.2 All server ports are busy".to_owned()
            }
        );
        assert!(matches!(
            not_a_greeting("* OK Dovecot ready"),
            Fault::Unexpected { .. }
        ));
        assert!(matches!(not_a_greeting(""), Fault::Network { .. }));
        assert!(matches!(not_a_greeting("é"), Fault::Unexpected { .. }));
    }
}
