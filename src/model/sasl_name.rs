//! The name of a submission login, as Postfix gets it from Dovecot.

use std::{fmt, num::NonZeroU32};

use uuid::Uuid;

use super::{Refused, ids::InboxId};

/// Counts the credentials of an inbox: each rotation and each suspension makes the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub NonZeroU32);

impl Generation {
    /// That of an inbox whose credentials were never changed.
    pub const FIRST: Self = Self(NonZeroU32::MIN);
}

/// What a submission session is authenticated as (the authorization identity of RFC 4954): an inbox and the generation of
/// its credentials, not an address. An address may go to another inbox while a session is open; an id never does. So a
/// session that outlives its credentials owns no sender address any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SaslName {
    /// The inbox.
    pub inbox: InboxId,
    /// Which of its credentials the session was opened with.
    pub generation: Generation,
}

impl SaslName {
    /// Parses what [`fmt::Display`] writes: `<inbox id>.<generation>`.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let parsed = text.split_once('.').and_then(|(inbox, generation)| {
            Some(Self {
                inbox: InboxId(Uuid::try_parse(inbox).ok()?),
                generation: Generation(generation.parse().ok()?),
            })
        });
        parsed
            .filter(|name| name.to_string() == text)
            .ok_or(Refused::because(
                "must be the id of an inbox, a dot and a number from 1",
            ))
    }
}

impl fmt::Display for SaslName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.inbox, self.generation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let text = "00000000-0000-0000-0000-000000000001.7";
        let name = SaslName::parse(text).unwrap();
        assert_eq!(name.inbox, InboxId(Uuid::from_u128(1)));
        assert_eq!(name.generation.0.get(), 7);
        assert_eq!(name.to_string(), text);
    }

    #[test]
    fn what_is_no_such_name_is_refused() {
        for text in [
            "",
            "scout@example.com",
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000001.",
            "00000000-0000-0000-0000-000000000001.0",
            "00000000-0000-0000-0000-000000000001.+1",
            "00000000-0000-0000-0000-000000000001.01",
            "00000000000000000000000000000001.1",
            "00000000-0000-0000-0000-00000000000A.1",
            "00000000-0000-0000-0000-000000000001.4294967296",
        ] {
            assert!(SaslName::parse(text).is_err(), "{text:?}");
        }
    }
}
