//! What the tables should hold of a change.

use super::signing_keys;
use crate::model::{
    address::{Address, DomainName},
    dkim::SealedSigningKey,
    ids::InboxId,
    maps::{AddressState, DomainState, MapChange, MapKey},
    sasl_name::SaslName,
};

/// Value of a table whose keys alone say everything. Postfix asks only whether there is one.
pub(super) const PRESENT: &str = "1";
/// What a key of the aliases begins with that stands for every address of a domain: `@example.com` (virtual(5)).
const CATCH_ALL: &str = "@";
/// The domain of addresses in Postfix's queue; the fragments for Postfix name it, too. No DNS has it (RFC 6761, 6.4).
pub(super) const QUEUE_DOMAIN: &str = "inboxd.invalid";

/// One of the tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Which {
    /// What mail of a domain is signed with: for our signer, not for Postfix. Before the domains, so that no mail is
    /// accepted from a domain that cannot be signed.
    SigningKeys,
    /// Who may send from an address.
    SenderLogins,
    /// The addresses that have a mailbox, and which inbox's: the address under which its mail waits in Postfix's queue.
    Recipients,
    /// Where mail for an address goes instead, and mail for what is no address of a domain.
    Aliases,
    /// The domains that mail is accepted for.
    Domains,
}

impl Which {
    /// All of them, in the order in which a change is written.
    pub const ALL: [Self; 5] = [
        Self::SigningKeys,
        Self::SenderLogins,
        Self::Recipients,
        Self::Aliases,
        Self::Domains,
    ];

    /// Those that Postfix looks up.
    pub const OF_POSTFIX: [Self; 4] = [Self::SenderLogins, Self::Recipients, Self::Aliases, Self::Domains];

    /// The table's name in `main.cf`, and its file's without the ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::SigningKeys => "signing_keys",
            Self::SenderLogins => "sender_logins",
            Self::Recipients => "recipients",
            Self::Aliases => "aliases",
            Self::Domains => "domains",
        }
    }

    /// What this table should hold of a change: a key and its value, or that there is no such key.
    pub(super) fn entry(self, change: &MapChange) -> Option<(String, Option<String>)> {
        match (self, change) {
            (Self::Domains, MapChange::Domain(domain, state)) => {
                let is_served = *state != DomainState::Absent;
                Some((domain.to_string(), is_served.then(|| PRESENT.to_owned())))
            }
            (Self::Aliases, MapChange::Domain(domain, state)) => {
                Some((format!("{CATCH_ALL}{domain}"), catch_all_of(state)))
            }
            (Self::SigningKeys, MapChange::Domain(domain, state)) => {
                let keys = Some(keys_of(state)).filter(|keys| !keys.is_empty());
                Some((domain.to_string(), keys.map(signing_keys::to_text)))
            }
            (Self::SenderLogins | Self::Recipients | Self::Aliases, MapChange::Address(address, state)) => {
                Some((address.to_string(), self.value_of(address, state)))
            }
            (Self::Domains | Self::SigningKeys, MapChange::Address(..))
            | (Self::SenderLogins | Self::Recipients, MapChange::Domain(..)) => None,
        }
    }

    /// What this table should hold of an address.
    pub(super) fn value_of(self, address: &Address, state: &AddressState) -> Option<String> {
        match self {
            Self::SenderLogins => sender_of(state).map(|login| login.to_string()),
            Self::Recipients => match state {
                AddressState::Mailbox(mailbox) => Some(queue_address(mailbox.inbox(), address)),
                AddressState::Absent | AddressState::Alias { .. } => None,
            },
            Self::Aliases => alias_of(state),
            Self::Domains | Self::SigningKeys => None,
        }
    }

    /// The key of the maps that a key of this table stands for, if inboxd would write it there.
    pub(super) fn parse(self, name: &str) -> Option<MapKey> {
        if let (Self::Aliases, Some(domain)) = (self, name.strip_prefix(CATCH_ALL)) {
            let domain = DomainName::parse(domain)
                .ok()
                .filter(|parsed| parsed.as_str() == domain)?;
            return Some(MapKey::Domain(domain));
        }
        let key = MapKey::parse(name).ok().filter(|key| key.to_string() == name)?;
        let belongs = match self {
            Self::Domains | Self::SigningKeys => matches!(key, MapKey::Domain(_)),
            Self::SenderLogins | Self::Recipients | Self::Aliases => matches!(key, MapKey::Address(_)),
        };
        belongs.then_some(key)
    }
}

/// The login that may send from an address. None for a locked mailbox: a submission session that was logged in before
/// cannot be ended, but it can name no sender any more.
fn sender_of(state: &AddressState) -> Option<SaslName> {
    match state {
        AddressState::Absent => None,
        AddressState::Mailbox(mailbox) => mailbox.sender(),
        AddressState::Alias { sender, .. } => *sender,
    }
}

/// The virtual alias of a mailbox: the recipient that Postfix keeps in its queue. It names the inbox beside the address, so
/// that mail that waits when the inbox is deleted is not delivered to the next one at the address: the generic map in
/// `postfix-main.cf` makes the address of it again only while both belong together, and no other mailbox has this name.
fn queue_address(inbox: InboxId, canonical: &Address) -> String {
    let Address { local_part, domain } = canonical;
    format!("{inbox}={local_part}={domain}@{QUEUE_DOMAIN}")
}

/// Where mail for what is no address of a domain goes.
fn catch_all_of(state: &DomainState) -> Option<String> {
    match state {
        DomainState::Served {
            catch_all: Some(canonical),
            ..
        } => Some(canonical.to_string()),
        DomainState::Served { catch_all: None, .. } | DomainState::Absent => None,
    }
}

/// What mail of a domain is signed with.
fn keys_of(state: &DomainState) -> &[SealedSigningKey] {
    match state {
        DomainState::Served { keys, .. } => keys,
        DomainState::Absent => &[],
    }
}

/// Where mail for an address goes instead.
fn alias_of(state: &AddressState) -> Option<String> {
    match state {
        AddressState::Alias { canonical, .. } => Some(canonical.to_string()),
        AddressState::Absent | AddressState::Mailbox(_) => None,
    }
}
