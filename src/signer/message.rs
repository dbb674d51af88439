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
/// Octets of a line, without its end (RFC 5322, 2.1.1; RFC 5321, 4.5.3.1.6). Postfix breaks longer ones on the way out
/// (`smtp_line_length_limit`, `lmtp_line_length_limit`), after they were signed.
pub(super) const LINE_MAX_OCTETS: usize = 998;
/// Octets of a field name that an answer quotes.
const QUOTED_NAME_MAX_OCTETS: usize = 60;
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
    lines: Lines,
    /// The first thing that is wrong with its form.
    fault: Option<FormError>,
}

/// What is wrong with the form of a message, so that its signature would not verify where it arrives.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FormError {
    #[error(
        "the header field {field} has a line of {octets} octets, more than {LINE_MAX_OCTETS}; fold it at white space \
         (RFC 5322, 2.1.1)"
    )]
    LongField { field: String, octets: usize },
    #[error(
        "line {number} of the body has {octets} octets, more than {LINE_MAX_OCTETS}; encode the text as quoted-printable or base64 \
         (RFC 5322, 2.1.1)"
    )]
    LongLine { number: usize, octets: usize },
    #[error("the header field {field} has a control character, which RFC 5322, 2.2 does not allow")]
    Control { field: String },
    #[error(
        "a header field has a name that RFC 5322, 2.2 does not allow: printable ASCII without spaces and colons"
    )]
    Name,
    #[error(
        "line {number} of the body has a NUL, or a carriage return or newline on its own; encode it as quoted-printable or base64 \
         (RFC 5322, 2.3)"
    )]
    Body { number: usize },
}

/// The lines of a body as it passes.
struct Lines {
    /// The line that is on its way, from 1.
    number: usize,
    /// Of that line so far, without its end.
    octets: usize,
    /// Whether the last octet was a carriage return.
    is_returning: bool,
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
    fault: Option<FormError>,
}

impl Message {
    pub(super) fn new() -> Self {
        Self {
            fields: Vec::new(),
            octets: 0,
            body: BodyHasher::new(Sha256::hasher(), BODY_FORM, 0),
            lines: Lines {
                number: 1,
                octets: 0,
                is_returning: false,
            },
            fault: None,
        }
    }

    /// The next header field. Of a message that has too many, no more are kept.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.octets += name.len() + value.len();
        if self.is_too_large() {
            return;
        }
        let field = Field {
            name: String::from_utf8_lossy(name).into_owned(),
            value: with_line_ends(value),
        };
        if self.fault.is_none() {
            self.fault = field.fault();
        }
        self.fields.push(field);
    }

    /// The next part of the body, with the line ends of SMTP.
    pub(super) fn body(&mut self, part: &[u8]) {
        let fault = self.lines.pass(part);
        if self.fault.is_none() {
            self.fault = fault;
        }
        self.body.write(part);
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.octets > HEADER_MAX_OCTETS
    }

    /// What was passed so far is all of it.
    pub(super) fn end(self) -> Whole {
        let mut lines = self.lines;
        let (number, is_returning) = (lines.number, lines.is_returning);
        let last = lines.end();
        let unended = is_returning.then_some(FormError::Body { number });
        let (hasher, _) = self.body.finish();
        Whole {
            fields: self.fields,
            body: hasher.complete(),
            fault: self.fault.or(unended).or(last),
        }
    }
}

impl Lines {
    /// The first fault in the next part of the body.
    fn pass(&mut self, part: &[u8]) -> Option<FormError> {
        let mut fault = None;
        for &octet in part {
            let found = match octet {
                b'\n' if self.is_returning => self.end(),
                b'\n' | 0 => Some(FormError::Body { number: self.number }),
                _ if self.is_returning => Some(FormError::Body { number: self.number }),
                _ => None,
            };
            self.is_returning = octet == b'\r';
            if !matches!(octet, b'\r' | b'\n') {
                self.octets += 1;
            }
            fault = fault.or(found);
        }
        fault
    }

    /// The fault of the line that ends here, if it has one.
    fn end(&mut self) -> Option<FormError> {
        let (number, octets) = (self.number, self.octets);
        self.number += 1;
        self.octets = 0;
        (octets > LINE_MAX_OCTETS).then_some(FormError::LongLine { number, octets })
    }
}

impl Whole {
    /// Fails if the message is of a form in which its signature would not verify where it arrives.
    pub(super) fn check_form(&self) -> Result<(), FormError> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// Every header field, as name and value.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields
            .iter()
            .map(|field| (field.name.as_str(), field.value.as_slice()))
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
            t: u64::try_from(now.as_seconds()).unwrap_or_default(),
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
        self.name.eq_ignore_ascii_case(name)
    }

    /// What a reader or a verifier could take otherwise than we do. Verifiers differ in which control characters are white
    /// space (RFC 6376, 2.8 has two), and some readers begin a line at each.
    fn fault(&self) -> Option<FormError> {
        if self.name.is_empty() || !self.name.chars().all(|character| character.is_ascii_graphic()) {
            return Some(FormError::Name);
        }
        let field = || self.name.chars().take(QUOTED_NAME_MAX_OCTETS).collect();
        let lines = self.value.split(|&octet| octet == b'\n');
        for (index, line) in lines.enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line
                .iter()
                .any(|octet| octet.is_ascii_control() && *octet != b'\t')
            {
                return Some(FormError::Control { field: field() });
            }
            let before = if index == 0 { self.name.len() + 1 } else { 0 };
            let octets = before + line.len();
            if octets > LINE_MAX_OCTETS {
                let field = field();
                return Some(FormError::LongField { field, octets });
            }
        }
        None
    }
}

/// Postfix folds with a newline alone.
fn with_line_ends(value: &[u8]) -> Vec<u8> {
    let mut with = Vec::with_capacity(value.len() + 8);
    for &octet in value {
        if octet == b'\n' && with.last() != Some(&b'\r') {
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
            message.field(b"X-Long", &b"x\n ".repeat(40_000));
        }
        assert!(message.is_too_large());
        assert!(message.end().fields.len() < 20);
    }

    /// What is wrong with a message of these fields and these parts of a body.
    fn form(fields: &[(&str, &[u8])], parts: &[&[u8]]) -> Option<FormError> {
        let mut message = Message::new();
        for (name, value) in fields {
            message.field(name.as_bytes(), value);
        }
        for part in parts {
            message.body(part);
        }
        message.end().check_form().err()
    }

    #[test]
    fn lines_that_postfix_would_break_are_refused() {
        let longest = vec![b'x'; LINE_MAX_OCTETS];
        let longer = vec![b'x'; LINE_MAX_OCTETS + 1];
        let line = FormError::LongLine {
            number: 2,
            octets: LINE_MAX_OCTETS + 1,
        };
        for end in ["\r\n", ""] {
            let lines = [b"first\r\n", longest.as_slice(), end.as_bytes()].concat();
            assert_eq!(form(&[], &[&lines]), None);
            let lines = [b"first\r\n", longer.as_slice(), end.as_bytes()].concat();
            for cut in [
                0,
                6,
                7,
                8,
                900,
                7 + LINE_MAX_OCTETS,
                8 + LINE_MAX_OCTETS,
                lines.len() - 1,
                lines.len(),
            ] {
                let (one, other) = lines.split_at(cut);
                assert_eq!(form(&[], &[one, other]), Some(line.clone()), "{cut}");
            }
        }
        let field = |octets: usize, end: &[u8]| [b" ".as_slice(), &vec![b'x'; octets], end].concat();
        let long = Some(FormError::LongField {
            field: "To".to_owned(),
            octets: LINE_MAX_OCTETS + 1,
        });
        assert_eq!(form(&[("To", &field(LINE_MAX_OCTETS - 4, b""))], &[]), None);
        assert_eq!(form(&[("To", &field(LINE_MAX_OCTETS - 3, b""))], &[]), long);
        assert_eq!(form(&[("To", &field(LINE_MAX_OCTETS - 3, b"\n y"))], &[]), long);
        let folded = [b"\n".as_slice(), &field(LINE_MAX_OCTETS - 1, b"")].concat();
        assert_eq!(form(&[("To", &folded)], &[]), None);
        let folded = [b"\n".as_slice(), &field(LINE_MAX_OCTETS, b"")].concat();
        assert_eq!(form(&[("To", &folded)], &[]), long);
    }

    #[test]
    fn what_others_would_take_for_a_line_end_or_white_space_is_refused() {
        let body = |number| Some(FormError::Body { number });
        for (parts, fault) in [
            (&[b"a\r\nb\r\n".as_slice()][..], None),
            (&[b"a\r", b"\nb"], None),
            (&[b"a\r\nb\x0c\x0b\x7f\xa0\x80\t\r\n"], None),
            (&[b"a\rb"], body(1)),
            (&[b"a\r\n\r", b"b"], body(2)),
            (&[b"a\r\r\n"], body(1)),
            (&[b"a\r\nb\nc"], body(2)),
            (&[b"a", b"\n"], body(1)),
            (&[b"a\0"], body(1)),
            (&[b"a\r\nb\r"], body(2)),
        ] {
            assert_eq!(form(&[], parts), fault, "{parts:?}");
        }
        let control = Some(FormError::Control {
            field: "To".to_owned(),
        });
        for (value, fault) in [
            (b"a\tb\n c".as_slice(), None),
            (b"a\r\n b", None),
            (b"\xc3\xb6\xa0\x85", None),
            (b"a\x0cb", control.clone()),
            (b"a\x0bb", control.clone()),
            (b"a\rb", control.clone()),
            (b"a\r\r\n b", control.clone()),
            (b"a\x7f", control.clone()),
            (b"a\x1b$B", control),
        ] {
            assert_eq!(form(&[("To", value)], &[]), fault, "{value:?}");
        }
        for name in ["To ", "T o", "", "To\u{b}", "T\u{f6}"] {
            assert_eq!(form(&[(name, b"x")], &[]), Some(FormError::Name), "{name:?}");
        }
    }
}
