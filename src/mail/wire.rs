//! What the clients share: where a server is, and why an exchange with it failed.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use thiserror::Error;

/// The most that is read of a server's greeting: RFC 5321, 4.5.3.1.5, with room to spare.
pub(crate) const GREETING_MAX_BYTES: u64 = 4096;

/// A host name or IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl HostPort {
    /// From `host:port`, where an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if let Some(bracketed) = host.strip_prefix('[') {
            let address = bracketed.strip_suffix(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            address
        } else {
            let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            (!host.is_empty() && host.bytes().all(is_allowed)).then_some(host)?
        };
        // `parse` would take a sign.
        let is_number = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|&port| is_number && port != 0)?;
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }

    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A mail server: what its callers call it, and where this side reaches it.
///
/// In a network of containers the two differ: callers know the host by a public name, which is also the
/// certificate's, and the daemon knows it by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As callers know it; over TLS, the host is the name that the certificate must have.
    pub known_as: HostPort,
    /// Where to connect to.
    pub connect: HostPort,
}

impl Endpoint {
    /// A server that is reached where it is known to be.
    pub fn new(host: &str, port: u16) -> Self {
        let known_as = HostPort {
            host: host.to_owned(),
            port,
        };
        Self {
            connect: known_as.clone(),
            known_as,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { known_as, connect } = self;
        if connect == known_as {
            write!(f, "{known_as}")
        } else {
            write!(f, "{known_as} via {connect}")
        }
    }
}

/// Why one exchange with a mail server failed. Which exchange it was is for the error around it to say.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The server said no, in these words.
    #[error("the server answered: {}", spoken(*code, text))]
    Refused {
        /// The reply code of RFC 5321, 4.2; IMAP has none.
        code: Option<u16>,
        /// The rest of the reply, as it came.
        text: String,
    },
    /// The server's certificate was refused, by this side.
    #[error("the certificate was refused: {detail}")]
    Certificate {
        /// What is wrong with it.
        problem: CertificateProblem,
        /// What rustls said.
        detail: String,
    },
    /// TLS could not be agreed on, for another reason than the certificate.
    #[error("no TLS session: {detail}")]
    Tls {
        /// What rustls said.
        detail: String,
    },
    /// The network or the operating system failed, or the server hung up.
    #[error("{detail}")]
    Network {
        /// The system's own words.
        detail: String,
    },
    /// No answer came in time.
    #[error("no answer within {limit_ms} ms")]
    TimedOut {
        /// How long was waited.
        limit_ms: u128,
    },
    /// The server does not speak as its protocol says, or does not offer what is needed.
    #[error("{detail}")]
    Unexpected {
        /// What was missing or in the way.
        detail: String,
    },
}

/// What is wrong with a certificate, as far as it changes what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateProblem {
    /// Nobody whom this side trusts has signed it.
    UnknownIssuer,
    /// It is for other names than the one that was asked for.
    WrongName,
    /// It is not valid yet, or no longer.
    OutOfDate,
    /// Anything else.
    Other,
}

fn spoken(code: Option<u16>, text: &str) -> String {
    code.map_or_else(|| text.to_owned(), |code| format!("{code} {text}"))
}

impl Fault {
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::TimedOut {
            limit_ms: limit.as_millis(),
        }
    }

    pub(crate) fn unexpected(detail: impl Into<String>) -> Self {
        Self::Unexpected {
            detail: detail.into(),
        }
    }

    /// rustls reports its refusals inside `io::Error`, where `source` does not look.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| (inner as &dyn StdError).downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(reason)) => Self::Certificate {
                problem: CertificateProblem::of(reason),
                detail: reason.to_string(),
            },
            Some(other) => Self::Tls {
                detail: other.to_string(),
            },
            None => Self::Network {
                detail: error.to_string(),
            },
        }
    }
}

impl CertificateProblem {
    fn of(reason: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as E;
        match reason {
            // A bad signature is what a CA of the same name with another key looks like: one that was made anew.
            E::UnknownIssuer | E::BadSignature => Self::UnknownIssuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongName,
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
                Self::OutOfDate
            }
            _ => Self::Other,
        }
    }
}

/// Whether a UNIX socket cannot be reached because no server is there: no socket, or one that a dead server left.
pub(crate) fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Runs one exchange under a time limit.
pub(crate) fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, Fault>>,
) -> impl Future<Output = Result<T, Fault>> {
    // lettre's and async-imap's futures are many kilobytes: boxed here, they weigh on no caller's.
    let exchange = Box::pin(exchange);
    async move {
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(Fault::timed_out(limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_endpoint_is_written_with_brackets() {
        assert_eq!(Endpoint::new("::1", 993).to_string(), "[::1]:993");
    }

    #[test]
    fn an_endpoint_that_is_reached_elsewhere_shows_both() {
        let endpoint = Endpoint {
            connect: HostPort::parse("dovecot:1993").unwrap(),
            ..Endpoint::new("mail.example.com", 993)
        };
        assert_eq!(endpoint.to_string(), "mail.example.com:993 via dovecot:1993");
    }

    #[test]
    fn host_and_port_are_read_as_they_are_written() {
        for text in [
            "dovecot:993",
            "mail.example.com:1",
            "10.0.0.2:65535",
            "[::1]:25",
            "a_b-c:9",
        ] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "dovecot",
            "dovecot:",
            ":993",
            "::1:993",
            "[::1]",
            "[dovecot]:993",
            "[::1:993",
            "a:0",
            "a:65536",
            "a b:1",
            "a:b:1",
            "a:+1",
        ] {
            assert_eq!(HostPort::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_refused_certificate_is_told_from_a_broken_connection() {
        let refused = io::Error::other(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer,
        ));
        assert!(matches!(
            Fault::from_io(&refused),
            Fault::Certificate {
                problem: CertificateProblem::UnknownIssuer,
                ..
            }
        ));
        assert!(matches!(
            Fault::from_io(&io::Error::from(io::ErrorKind::ConnectionRefused)),
            Fault::Network { .. }
        ));
    }

    #[test]
    fn a_reply_is_shown_with_its_code() {
        let fault = Fault::Refused {
            code: Some(535),
            text: "5.7.8 no".to_owned(),
        };
        assert_eq!(fault.to_string(), "the server answered: 535 5.7.8 no");
    }
}
