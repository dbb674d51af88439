//! A message on its way through: its header fields are kept, its body is hashed as it passes.

use mail_auth::{
    common::crypto::{
        DkimKey, Ed25519Key, HashContext as _, HashImpl, HashOutput, RsaKey, Sha256, SigningKey as _,
    },
    dkim::{Canonicalization, Signature, canonicalize::BodyHasher},
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    clock::Timestamp,
    model::{
        address::DomainName,
        dkim::{Algorithm, SigningKey},
    },
};

/// Octets of header fields that are kept. Postfix has a limit for each field and none for all of them.
pub(super) const HEADER_MAX_OCTETS: usize = 1024 * 1024;
/// How header fields are brought into one form before they are signed (RFC 6376, 3.4.2): Postfix folds them anew.
const HEADER_FORM: Canonicalization = Canonicalization::Relaxed;
/// The same for the body (RFC 6376, 3.4.3). Not the relaxed form: the crate keeps lines of nothing but white space at the
/// end of a body, which others leave out (3.4.4).
const BODY_FORM: Canonicalization = Canonicalization::Simple;
/// Signed, and signed once more than they are there: nobody adds another one on the way (RFC 6376, 8.15).
const SIGNED_AND_CLOSED: [&str; 10] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// Signed as often as they are there.
const SIGNED: [&str; 9] = [
    "Message-ID",
    "In-Reply-To",
    "References",
    "Content-ID",
    "Content-Description",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Auto-Submitted",
];
/// What stands before the value of the field that is made.
const SIGNATURE_FIELD: &str = "DKIM-Signature";

type Hasher = BodyHasher<<Sha256 as HashImpl>::Context>;

/// A header field as Postfix has it.
struct Field {
    name: String,
    /// Unfolded or not, without the line end.
    value: Vec<u8>,
}

/// A message, as far as it has come.
pub(super) struct Message {
    fields: Vec<Field>,
    octets: usize,
    body: Hasher,
}

/// Why a key does not sign.
#[derive(Debug, thiserror::Error)]
#[error("sign with {selector}: {reason}")]
pub(super) struct SignError {
    selector: String,
    reason: String,
}

/// A message that has come to its end.
pub(super) struct Whole {
    fields: Vec<Field>,
    body: HashOutput,
}

impl Message {
    pub(super) fn new() -> Self {
        Self {
            fields: Vec::new(),
            octets: 0,
            body: BodyHasher::new(Sha256::hasher(), BODY_FORM, 0),
        }
    }

    /// The next header field. Of a message that has too many, no more are kept.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.octets += name.len() + value.len();
        if !self.is_too_large() {
            self.fields.push(Field {
                name: String::from_utf8_lossy(name).into_owned(),
                value: with_line_ends(value),
            });
        }
    }

    /// The next part of the body, with the line ends of SMTP.
    pub(super) fn body(&mut self, part: &[u8]) {
        self.body.write(part);
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.octets > HEADER_MAX_OCTETS
    }

    pub(super) fn end(self) -> Whole {
        let (hasher, _) = self.body.finish();
        Whole {
            fields: self.fields,
            body: hasher.complete(),
        }
    }
}

impl Whole {
    /// The values of every field of a name.
    pub(super) fn values(&self, name: &str) -> Vec<&[u8]> {
        let of_name = self.fields.iter().filter(|field| field.is(name));
        of_name.map(|field| field.value.as_slice()).collect()
    }

    /// The value of the field that says that a domain vouches for this message. Not for an async thread.
    pub(super) fn signature(
        &self,
        domain: &DomainName,
        key: &SigningKey,
        now: Timestamp,
    ) -> Result<String, SignError> {
        let failed = |reason: &dyn std::fmt::Display| SignError {
            selector: key.selector.to_string(),
            reason: reason.to_string(),
        };
        let signing = signing_key(key).map_err(|error| failed(&error))?;
        let (names, fields) = self.signed();
        let mut signature = Signature {
            v: 1,
            a: signing.algorithm(),
            d: domain.to_string(),
            s: key.selector.to_string(),
            bh: self.body.as_ref().to_vec(),
            t: u64::try_from(now.as_micros() / 1_000_000).unwrap_or_default(),
            h: names,
            ch: HEADER_FORM,
            cb: BODY_FORM,
            ..Signature::default()
        };
        let mut signed = Vec::new();
        let of_field = |field: &Field| [field.value.as_slice(), b"\r\n"].concat();
        let values: Vec<Vec<u8>> = fields.iter().copied().map(of_field).collect();
        let pairs = fields
            .iter()
            .zip(&values)
            .map(|(field, value)| (field.name.as_bytes(), value.as_slice()));
        HEADER_FORM.canonicalize_headers(pairs, &mut signed);
        signature.write(&mut signed, false);
        signature.b = signing.sign(signed.as_slice()).map_err(|error| failed(&error))?;
        let mut field = Vec::new();
        signature.write(&mut field, true);
        let field = String::from_utf8(field).map_err(|error| failed(&error))?;
        let value = field
            .strip_prefix(SIGNATURE_FIELD)
            .and_then(|rest| rest.strip_prefix(':'))
            .ok_or_else(|| failed(&"it made something else than a signature"))?;
        // Postfix has line ends of its own.
        Ok(value.trim().replace("\r\n", "\n"))
    }

    /// What is signed: the names, as the signature lists them, and the fields that they stand for. Of several fields of one
    /// name the last one comes first (RFC 6376, 5.4.2).
    fn signed(&self) -> (Vec<String>, Vec<&Field>) {
        let (mut names, mut fields) = (Vec::new(), Vec::new());
        let closed = SIGNED_AND_CLOSED.into_iter().map(|name| (name, true));
        let open = SIGNED.into_iter().map(|name| (name, false));
        for (name, is_closed) in closed.chain(open) {
            for field in self.fields.iter().rev().filter(|field| field.is(name)) {
                names.push(name.to_owned());
                fields.push(field);
            }
            if is_closed {
                names.push(name.to_owned());
            }
        }
        (names, fields)
    }
}

impl Field {
    fn is(&self, name: &str) -> bool {
        self.name.trim_end().eq_ignore_ascii_case(name)
    }
}

/// Postfix folds with a newline alone.
fn with_line_ends(value: &[u8]) -> Vec<u8> {
    let mut with = Vec::with_capacity(value.len() + 8);
    for &octet in value.iter().filter(|&&octet| octet != b'\r') {
        if octet == b'\n' {
            with.push(b'\r');
        }
        with.push(octet);
    }
    with
}

fn signing_key(key: &SigningKey) -> mail_auth::Result<DkimKey> {
    Ok(match key.algorithm {
        Algorithm::RsaSha256 => {
            let private = PrivatePkcs8KeyDer::from(key.private.as_slice());
            RsaKey::<Sha256>::from_key_der(PrivateKeyDer::Pkcs8(private))?.into()
        }
        Algorithm::Ed25519Sha256 => Ed25519Key::from_pkcs8_maybe_unchecked_der(&key.private)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::dkim::{Selector, generate};

    fn key(algorithm: Algorithm) -> SigningKey {
        SigningKey {
            selector: Selector::parse("s1").unwrap(),
            algorithm,
            private: generate(algorithm, &crate::clock::Machine).unwrap().private,
        }
    }

    fn message(parts: &[&[u8]]) -> Whole {
        let mut message = Message::new();
        message.field(b"From", b" Scout <scout@example.com>");
        message.field(b"Subject", b"a\n folded one");
        message.field(b"X-Other", b"not signed");
        message.field(b"subject", b"another");
        for part in parts {
            message.body(part);
        }
        message.end()
    }

    #[test]
    fn a_signature_names_what_it_covers_and_what_nobody_may_add() {
        let domain = DomainName::parse("example.com").unwrap();
        for algorithm in Algorithm::ALL {
            let value = message(&[b"hello\r\n"])
                .signature(&domain, &key(algorithm), Timestamp::from_micros(1_000_000))
                .unwrap();
            let tags: String = value.split_whitespace().collect();
            assert!(tags.starts_with(&format!(
                "v=1;a={};s=s1;d=example.com;c=relaxed/simple;",
                algorithm.as_str()
            )));
            assert!(
                tags.contains("h=From:From:Sender:Reply-To:To:Cc:Subject:Subject:Subject:Date:"),
                "{tags}"
            );
            assert!(tags.contains("t=1;"), "{tags}");
            assert!(!value.contains('\r'));
        }
    }

    #[test]
    fn a_body_is_the_same_in_whatever_parts_it_comes() {
        let whole = message(&[b"one  two \r\n\r\nthree\r\n\r\n\r\n"]);
        let parts = message(&[
            b"one ",
            b" two",
            b" \r",
            b"\n\r\nthr",
            b"ee\r\n",
            b"\r\n\r",
            b"\n",
        ]);
        assert_eq!(whole.body.as_ref(), parts.body.as_ref());
        assert_ne!(whole.body.as_ref(), message(&[b"one two\r\n"]).body.as_ref());
    }

    #[test]
    fn headers_have_an_end() {
        let mut message = Message::new();
        for _ in 0..20 {
            message.field(b"X-Long", &vec![b'x'; 100_000]);
        }
        assert!(message.is_too_large());
        assert!(message.end().fields.len() < 20);
    }
}
