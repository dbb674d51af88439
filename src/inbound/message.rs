//! An arriving message: its header fields are kept, its body is hashed as it passes.

use super::body::{BodyHasher, BodyHashes};

/// Octets of header fields that are kept. Postfix has a limit for each field and none for all of them.
pub(super) const HEADER_MAX_OCTETS: usize = 1024 * 1024;
/// Header fields of a message. What is signed is looked up among them again and again.
pub(super) const FIELDS_MAX: usize = 2_000;

/// A message, as far as it has come.
pub(super) struct Message {
    header: Vec<u8>,
    fields: usize,
    authors: Vec<Vec<u8>>,
    senders: Vec<Vec<u8>>,
    body: BodyHasher,
}

/// A message that has come to its end.
#[derive(Debug)]
pub(super) struct Whole {
    /// The header fields as they came, with CRLF and the empty line at their end.
    pub(super) header: Vec<u8>,
    /// The values of the From fields, or, if there is none, of what readers show in its place: Sender.
    pub(super) authors: Vec<Vec<u8>>,
    pub(super) body: BodyHashes,
}

impl Message {
    pub(super) fn new() -> Self {
        Self {
            header: Vec::new(),
            fields: 0,
            authors: Vec::new(),
            senders: Vec::new(),
            body: BodyHasher::new(),
        }
    }

    /// Takes the next header field, with the white space that its value begins with. Of a message that has too many, no more
    /// are kept.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.fields += 1;
        if self.is_too_large() {
            return;
        }
        let value = with_line_ends(value);
        self.header.extend_from_slice(name);
        self.header.push(b':');
        self.header.extend_from_slice(&value);
        self.header.extend_from_slice(b"\r\n");
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"From") {
            self.authors.push(value);
        } else if name.eq_ignore_ascii_case(b"Sender") {
            self.senders.push(value);
        }
    }

    /// Takes the next part of the body, with the line ends of SMTP.
    pub(super) fn body(&mut self, part: &[u8]) {
        self.body.write(part);
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.fields > FIELDS_MAX || self.header.len() > HEADER_MAX_OCTETS
    }

    pub(super) fn end(mut self) -> Whole {
        self.header.extend_from_slice(b"\r\n");
        Whole {
            header: self.header,
            authors: if self.authors.is_empty() {
                self.senders
            } else {
                self.authors
            },
            body: self.body.finish(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_kept_as_they_came() {
        let mut message = Message::new();
        message.field(b"From", b" a@b.test,\n c@d.test");
        message.field(b"subject", b"no space");
        let whole = message.end();
        assert_eq!(
            whole.header,
            b"From: a@b.test,\r\n c@d.test\r\nsubject:no space\r\n\r\n"
        );
        assert_eq!(whole.authors, [b" a@b.test,\r\n c@d.test"]);
    }

    #[test]
    fn headers_have_an_end() {
        let mut message = Message::new();
        for _ in 0..100 {
            message.field(b"X-Long", &vec![b'x'; 100_000]);
        }
        assert!(message.is_too_large());
        assert!(message.header.len() < HEADER_MAX_OCTETS + 200_000);

        let mut message = Message::new();
        for _ in 0..1_000_000 {
            message.field(b"a", b"");
        }
        assert!(message.is_too_large());
        assert!(message.header.len() < 100_000);
    }
}
