//! Who a message says it is from: its From field (RFC 5322, 3.6.2).

use mail_parser::{Address as Field, MessageParser};

use crate::model::address::Address;

/// Why a message's author cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum AuthorError {
    /// There is no From field, or more than one.
    #[error("a message must have one From field")]
    Fields,
    /// It names nobody, or nobody that has an address here.
    #[error("the From field must name addresses of this login, such as user@example.com")]
    Addresses,
}

/// The addresses in a message's From fields: at least one.
pub(super) fn authors(fields: &[&[u8]]) -> Result<Vec<Address>, AuthorError> {
    let [value] = fields else {
        return Err(AuthorError::Fields);
    };
    let message = [b"From: ".as_slice(), value, b"\r\n\r\n"].concat();
    let parsed = MessageParser::new().parse_headers(&message);
    let parsed = parsed.as_ref().and_then(|message| message.from());
    let mailboxes = match parsed {
        Some(Field::List(mailboxes)) => mailboxes,
        // A group names no author that could be held to it (RFC 7489, 6.6.1).
        Some(Field::Group(_)) | None => return Err(AuthorError::Addresses),
    };
    let authors: Option<Vec<Address>> = mailboxes
        .iter()
        .map(|mailbox| address(mailbox.address.as_deref()?))
        .collect();
    authors
        .filter(|authors| !authors.is_empty())
        .ok_or(AuthorError::Addresses)
}

/// An address as it is known here: in lower case, without detail.
fn address(text: &str) -> Option<Address> {
    let (local_part, domain) = text.trim().rsplit_once('@')?;
    let (without_detail, _) = local_part.split_once('+').unwrap_or((local_part, ""));
    let canonical = format!("{without_detail}@{domain}").to_ascii_lowercase();
    Address::parse(&canonical).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(value: &str) -> Result<Vec<String>, AuthorError> {
        let found = authors(&[value.as_bytes()])?;
        Ok(found.iter().map(Address::to_string).collect())
    }

    #[test]
    fn an_author_is_named_in_every_way_that_rfc_5322_knows() {
        for value in [
            "scout@example.com",
            "<scout@example.com>",
            "Scout <scout@example.com>",
            "\"Scout, the dog\" <Scout@Example.COM>",
            "=?utf-8?q?J=C3=B6rg?= <scout+detail@example.com>",
            "(comment) scout@example.com (another)",
            "Scout\r\n <scout@example.com>",
            "other@example.net <scout@example.com>",
        ] {
            assert_eq!(
                named(value),
                Ok(vec!["scout@example.com".to_owned()]),
                "{value:?}"
            );
        }
        let two = named("scout@example.com, Ada <ada@example.com>").unwrap();
        assert_eq!(two, ["scout@example.com", "ada@example.com"]);
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for value in [
            "",
            "Scout",
            "undisclosed:;",
            "friends: scout@example.com;",
            "scout@",
            "@example.com",
            "j\u{f6}rg@example.com",
            "scout@[127.0.0.1]",
        ] {
            assert_eq!(named(value), Err(AuthorError::Addresses), "{value:?}");
        }
        assert_eq!(authors(&[]), Err(AuthorError::Fields));
        assert_eq!(
            authors(&[b"a@example.com", b"a@example.com"]),
            Err(AuthorError::Fields)
        );
    }
}
