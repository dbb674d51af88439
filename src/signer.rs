//! Signs submitted mail (DKIM, RFC 6376): a milter that Postfix's submission service calls for every message.
//!
//! - [`session`]: one SMTP session as Postfix tells of it, and what it is answered.
//! - [`message`]: a message on its way through: headers kept, body hashed, nothing else held.
//! - [`sessions`]: how many sessions an inbox and a tenant may have at a time; [`tenants`]: whose the inboxes are.
//! - [`author`]: who a message says it is from, in a grammar that all readers read alike.
//!
//! Keys and senders are looked up for each message, so that a change is in use from the next message on. What cannot be
//! signed is not let through: Postfix tells the client to try again later.

pub mod author;
mod message;
mod session;
mod sessions;
pub mod tenants;

use std::sync::Arc;

use tokio::net::UnixListener;

pub use self::sessions::SessionLimits;
use self::{session::Session, sessions::OpenSessions, tenants::Tenants};
use crate::{
    clock::Clock,
    maps::{self, LookUps},
    milter,
    model::{
        address::{Address, DomainName},
        dkim::SigningKey,
        sasl_name::SaslName,
        sealing::{SealError, Sealed, SealingKey},
    },
};

/// What a signer works with.
pub struct Parts {
    /// What mail of a domain is signed with, and who may send from an address.
    pub maps: LookUps,
    /// Opens the keys.
    pub sealing: SealingKey,
    /// The name of this host in verdicts on mail, which no login may give (RFC 8601, 5).
    pub host: String,
    /// Most sessions at a time.
    pub sessions: SessionLimits,
    /// Whose the inboxes are that have sessions.
    pub tenants: Arc<dyn Tenants>,
    /// Says when a message was signed.
    pub clock: Arc<dyn Clock>,
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

/// Signs until it is asked to stop. Messages that are under way then are finished, if that does not take long.
pub async fn serve(listener: UnixListener, parts: Parts, stop: impl Future<Output = ()>) {
    let open = OpenSessions::new(
        parts.sessions,
        Arc::clone(&parts.tenants),
        Arc::clone(&parts.clock),
    );
    let parts = Arc::new(parts);
    let session = || Session::new(Arc::clone(&parts), Arc::clone(&open));
    milter::serve(listener, session, stop).await;
}
