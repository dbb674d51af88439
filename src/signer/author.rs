//! Who a message says it is from: From, Sender and the Resent fields (RFC 5322, 3.6.2 and 3.6.6).
//!
//! Readers disagree about fields that bend the grammar, so one that matches it only nearly is refused: a signature must
//! not stand under an address that some reader shows and the login does not own.

mod encoded_word;
mod fault;
mod mailboxes;
mod tokens;

use std::fmt;

pub use self::fault::{AUTHOR_FIELD_MAX_OCTETS, AUTHORS_MAX, Fault};
use crate::model::address::Address;

/// Author fields of one message. The Resent fields come in blocks, one for each time.
pub const AUTHOR_FIELDS_MAX: usize = 50;

/// A field that says who a message is from, or who sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthorField {
    /// Who wrote it: one field, of at least one address.
    From,
    /// Who sent it: at most one field, of one address.
    Sender,
    /// Who sent it again. Trace information: there is one for each time, and none may be another's.
    ResentFrom,
    /// The same, of one address.
    ResentSender,
}

/// Why the authors of a message are not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthorError {
    /// There is no From field, or more than one.
    #[error("a message must have one From field, and this one has {0}")]
    FromFields(usize),
    /// There is more than one Sender field.
    #[error("a message must have no more than one Sender field")]
    SenderFields,
    /// More than [`AUTHOR_FIELDS_MAX`].
    #[error("a message must have no more than {AUTHOR_FIELDS_MAX} From, Sender and Resent fields")]
    TooMany,
    /// A value that readers may read otherwise.
    #[error("the {field} field {fault}")]
    Field {
        /// Which field.
        field: AuthorField,
        /// What is wrong with it.
        fault: Fault,
    },
    /// An address that the login may not send from.
    #[error("the {field} field names {address}, which is not an address of this login")]
    NotOwned {
        /// Which field.
        field: AuthorField,
        /// In lower case, without detail.
        address: Address,
    },
}

impl AuthorField {
    /// The field of a name. White space and what else is not printable does not count, nor does case: some readers
    /// ignore it.
    fn of(name: &str) -> Option<Self> {
        let printable: String = name.chars().filter(char::is_ascii_graphic).collect();
        let all = [Self::From, Self::Sender, Self::ResentFrom, Self::ResentSender];
        all.into_iter()
            .find(|field| field.name().eq_ignore_ascii_case(&printable))
    }

    fn name(self) -> &'static str {
        match self {
            Self::From => "From",
            Self::Sender => "Sender",
            Self::ResentFrom => "Resent-From",
            Self::ResentSender => "Resent-Sender",
        }
    }

    fn is_list(self) -> bool {
        matches!(self, Self::From | Self::ResentFrom)
    }
}

impl fmt::Display for AuthorField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the addresses of the From field of a message: at least one, in lower case and without detail.
///
/// `fields` are all header fields, as name and value; values are folded with CRLF or not at all. Every address that any of
/// the [`AuthorField`]s names must be one that the login `owns`. Fails with an [`AuthorError`], or as `owns` does.
pub fn authors<'a, E: From<AuthorError>>(
    fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    owns: impl Fn(&Address) -> Result<bool, E>,
) -> Result<Vec<Address>, E> {
    let (mut all_fields, mut from_fields, mut sender_fields) = (0, 0, 0);
    let mut authors = Vec::new();
    for (name, value) in fields {
        let Some(field) = AuthorField::of(name) else {
            continue;
        };
        all_fields += 1;
        if all_fields > AUTHOR_FIELDS_MAX {
            return Err(AuthorError::TooMany.into());
        }
        from_fields += usize::from(field == AuthorField::From);
        sender_fields += usize::from(field == AuthorField::Sender);
        let failed = |fault| AuthorError::Field { field, fault };
        let mailboxes = mailboxes::mailboxes(value).map_err(failed)?;
        if mailboxes.len() > 1 && !field.is_list() {
            return Err(failed(Fault::Several).into());
        }
        for mailbox in mailboxes {
            for address in [Some(&mailbox.address), mailbox.name.as_ref()]
                .into_iter()
                .flatten()
            {
                if !owns(address)? {
                    let address = address.clone();
                    return Err(AuthorError::NotOwned { field, address }.into());
                }
            }
            if field == AuthorField::From {
                authors.push(mailbox.address);
            }
        }
    }
    if from_fields != 1 {
        return Err(AuthorError::FromFields(from_fields).into());
    }
    if sender_fields > 1 {
        return Err(AuthorError::SenderFields.into());
    }
    Ok(authors)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a login that owns scout@ and ada@ may say.
    fn judged(fields: &[(&str, &str)]) -> Result<Vec<String>, AuthorError> {
        let owns = |address: &Address| {
            let text = address.to_string();
            Ok::<_, AuthorError>(["scout@example.com", "ada@example.com"].contains(&text.as_str()))
        };
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        let found = authors(fields, owns)?;
        Ok(found.iter().map(Address::to_string).collect())
    }

    #[test]
    fn every_author_and_sender_is_the_logins() {
        for fields in [
            &[("From", "scout@example.com")][..],
            &[
                ("FROM", " Scout <SCOUT+x@example.com>"),
                ("Subject", "victim@example.com"),
            ],
            &[("From", "scout@example.com"), ("Sender", "ada@example.com")],
            &[
                ("Resent-From", "ada@example.com, scout@example.com"),
                ("Resent-Sender", "ada@example.com"),
                ("Resent-From", "scout@example.com"),
                ("From", "scout@example.com"),
            ],
        ] {
            assert_eq!(
                judged(fields),
                Ok(vec!["scout@example.com".to_owned()]),
                "{fields:?}"
            );
        }
        let both = judged(&[("From", "Scout <scout@example.com>, ada@example.com")]);
        assert_eq!(both.unwrap(), ["scout@example.com", "ada@example.com"]);
    }

    #[test]
    fn what_names_others_is_refused_with_the_field_and_the_reason() {
        for (fields, reason) in [
            (&[][..], "a message must have one From field, and this one has 0"),
            (
                &[("From", "scout@example.com"), ("from ", "scout@example.com")],
                "a message must have one From field, and this one has 2",
            ),
            (
                &[("From", "scout@example.com"), ("Fr\u{b}om", "victim@example.com")],
                "the From field names victim@example.com, which is not an address of this login",
            ),
            (
                &[("From", "victim@example.com <scout@example.com>")],
                "the From field names victim@example.com, which is not an address of this login",
            ),
            (
                &[("From", "scout@example.com"), ("sender", "victim@example.com")],
                "the Sender field names victim@example.com, which is not an address of this login",
            ),
            (
                &[
                    ("From", "scout@example.com"),
                    ("Sender", "ada@example.com, scout@example.com"),
                ],
                "the Sender field must name one address, not several",
            ),
            (
                &[
                    ("From", "scout@example.com"),
                    ("Sender", "ada@example.com"),
                    ("SENDER", "ada@example.com"),
                ],
                "a message must have no more than one Sender field",
            ),
            (
                &[
                    ("From", "scout@example.com"),
                    ("Resent-From", "victim@example.com"),
                ],
                "the Resent-From field names victim@example.com, which is not an address of this login",
            ),
            (
                &[
                    ("From", "scout@example.com"),
                    ("Resent-Sender", "ada@example.com, ada@example.com"),
                ],
                "the Resent-Sender field must name one address, not several",
            ),
            (
                &[("From", "[x] <scout@example.com>")],
                "the From field must have the name in double quotes if it has the character '['",
            ),
        ] {
            assert_eq!(judged(fields).unwrap_err().to_string(), reason, "{fields:?}");
        }
    }
}
