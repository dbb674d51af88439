//! What the tables should hold of a change.

use super::Belongs;
use crate::model::{
    address::Address,
    maps::{AddressState, Login, MapChange, MapKey},
};

/// Value of a table whose keys alone say everything. Postfix asks only whether there is one.
pub(super) const PRESENT: &str = "1";

/// One of Postfix's tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Which {
    /// Who may send from an address.
    SenderLogins,
    /// The addresses that have a mailbox.
    Mailboxes,
    /// Where mail for an address goes instead.
    Aliases,
    /// The domains that mail is accepted for.
    Domains,
}

impl Which {
    /// All of them, in the order in which a change is written.
    pub const ALL: [Self; 4] = [Self::SenderLogins, Self::Mailboxes, Self::Aliases, Self::Domains];

    /// The table's name in `main.cf`, and its file's without the ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::SenderLogins => "sender_logins",
            Self::Mailboxes => "mailboxes",
            Self::Aliases => "aliases",
            Self::Domains => "domains",
        }
    }

    /// What this table should hold of a change: a key and its value, or that there is no such key.
    pub(super) fn entry(self, change: &MapChange) -> Option<(String, Option<String>)> {
        let present = |is_present: bool| is_present.then(|| PRESENT.to_owned());
        match (self, change) {
            (Self::Domains, MapChange::Domain(domain, served)) => {
                Some((domain.to_string(), present(*served)))
            }
            (Self::SenderLogins, MapChange::Address(address, state)) => {
                Some((address.to_string(), login_of(address, state)))
            }
            (Self::Mailboxes, MapChange::Address(address, state)) => {
                let is_mailbox = matches!(state, AddressState::Mailbox(_));
                Some((address.to_string(), present(is_mailbox)))
            }
            (Self::Aliases, MapChange::Address(address, state)) => {
                Some((address.to_string(), alias_of(state)))
            }
            (Self::Domains, MapChange::Address(..)) | (_, MapChange::Domain(..)) => None,
        }
    }

    /// Whether a key is of the kind that this table holds.
    pub(super) fn belongs(self) -> Belongs {
        match self {
            Self::Domains => |key| matches!(key, MapKey::Domain(_)),
            Self::SenderLogins | Self::Mailboxes | Self::Aliases => |key| matches!(key, MapKey::Address(_)),
        }
    }
}

/// The login that may send from an address. None for a locked mailbox: a submission session that was logged in before
/// cannot be ended, but it can name no sender any more.
fn login_of(address: &Address, state: &AddressState) -> Option<String> {
    match state {
        AddressState::Absent => None,
        AddressState::Mailbox(mailbox) => (mailbox.login != Login::Locked).then(|| address.to_string()),
        AddressState::Alias(canonical) => Some(canonical.to_string()),
    }
}

/// Where mail for an address goes instead.
fn alias_of(state: &AddressState) -> Option<String> {
    match state {
        AddressState::Alias(canonical) => Some(canonical.to_string()),
        AddressState::Absent | AddressState::Mailbox(_) => None,
    }
}
