//! Which signatures of a message are verified, and which cannot be.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mail_auth::{
    AuthenticatedMessage, Error,
    common::{crypto::Algorithm, headers::Header},
    dkim::{DkimError, Signature},
};

use super::{super::findings::Outcome, is_aligned};
use crate::model::address::DomainName;

/// Signatures of a message that are verified. Each is a key that is looked up, and at most 0.5 ms of arithmetic.
const SIGNATURES_MAX: usize = 10;
/// Fields that a signature may name, each looked up among all fields of the message.
const SIGNED_NAMES_MAX: usize = 500;
/// Octets of a signature that tell it from others of a message.
const BEGINNING_OCTETS: usize = 6;

/// A signature of a message.
pub(super) enum Checked<'a> {
    /// The message with this signature alone.
    Verify(Box<AuthenticatedMessage<'a>>),
    /// One that is not worth asking DNS for its key.
    Unusable {
        signature: Option<&'a Signature>,
        outcome: Outcome,
        reason: &'static str,
    },
}

/// The signatures that count, those of the authors' domains first: a message that came a long way may have many.
pub(super) fn select<'a>(message: &'a AuthenticatedMessage<'a>, authors: &[DomainName]) -> Vec<Checked<'a>> {
    let is_of_author = |header: &&Header<'a, Signature>| {
        let signer = DomainName::parse(&header.header.d);
        signer.is_ok_and(|signer| authors.iter().any(|author| is_aligned(&signer, author)))
    };
    let (mut headers, others): (Vec<_>, Vec<_>) = message.dkim_headers.iter().partition(is_of_author);
    headers.extend(others);
    let checked = headers.into_iter().map(|header| match unusable(&header.header) {
        Some(reason) => Checked::Unusable {
            signature: Some(&header.header),
            outcome: Outcome::PermError,
            reason,
        },
        None => Checked::Verify(Box::new(alone(message, header))),
    });
    let damaged = message.errors.iter().filter_map(damaged);
    checked.chain(damaged).take(SIGNATURES_MAX).collect()
}

/// A message with one signature, without what the crate would look up besides.
fn alone<'a>(message: &AuthenticatedMessage<'a>, header: &Header<'a, Signature>) -> AuthenticatedMessage<'a> {
    let mut header = header.clone();
    // Reports and signatures of third parties (RFC 6651, RFC 6541).
    header.header.r = false;
    header.header.atps = None;
    AuthenticatedMessage {
        dkim_headers: vec![header],
        errors: Vec::new(),
        ams_headers: Vec::new(),
        as_headers: Vec::new(),
        aar_headers: Vec::new(),
        dkim2_signatures: Vec::new(),
        dkim2_instances: Vec::new(),
        ..message.clone()
    }
}

/// Why a signature verifies nothing, whatever its key is.
fn unusable(signature: &Signature) -> Option<&'static str> {
    if signature.v != 1 {
        Some("no version")
    } else if signature.a == Algorithm::RsaSha1 {
        Some("SHA-1 is not accepted, RFC 8301")
    } else if !signature.h.iter().any(|name| name.eq_ignore_ascii_case("From")) {
        Some("From is not signed, RFC 6376 5.4")
    } else if signature.h.len() > SIGNED_NAMES_MAX {
        Some("too many fields are signed")
    } else {
        None
    }
}

/// A signature that cannot be read.
fn damaged<'a>(header: &'a Header<'a, Error>) -> Option<Checked<'a>> {
    if !header.name.trim_ascii().eq_ignore_ascii_case(b"DKIM-Signature") {
        return None;
    }
    let (outcome, reason) = match &header.header {
        // Whoever changes a message adds to it behind what is signed (RFC 6376, 8.2).
        Error::Dkim(DkimError::SignatureLength) => (Outcome::Policy, "a part of the body is signed only"),
        _ => (Outcome::PermError, "the signature cannot be read"),
    };
    Some(Checked::Unusable {
        signature: None,
        outcome,
        reason,
    })
}

/// What tells a signature from others (RFC 6008).
pub(super) fn beginning(signature: &Signature) -> String {
    let octets = signature.b.get(..BEGINNING_OCTETS).unwrap_or(&signature.b);
    BASE64_STANDARD.encode(octets)
}
